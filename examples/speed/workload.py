# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What is trained and encoded: CLIP models of real size with random weights, captions of ImageNet's lengths."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import CLIPConfig, CLIPModel

from hf_robustft.data.catalog.imagenet import imagenet_classes
from hf_robustft.data.catalog.schema import facts
from hf_robustft.data.prompts import fill_template

#: Sizes of OpenAI's checkpoints: width, layers, heads, patch of the vision tower; width and heads of the text tower;
#: dimension of the embeddings. All take images of 224 pixels and captions of up to 77 tokens.
SIZES = {
    "vit-b-32": {"vision": (768, 12, 12, 32), "text": (512, 8), "projection": 512},
    "vit-b-16": {"vision": (768, 12, 12, 16), "text": (512, 8), "projection": 512},
    "vit-l-14": {"vision": (1024, 24, 16, 14), "text": (768, 12), "projection": 768},
}
POSITIONS = 77
END = 49_407
START = 49_406

#: CLIP's own tokenizer gives the captions of ImageNet's classes and templates 9.6 tokens on average and 13.9 to the
#: longest of 32; one token for each six characters of a word gives 10.1 and 14.2.
_CHARACTERS_A_TOKEN = 6
#: The same as an expression: words in pieces, and marks.
PIECES = rf"\w{{1,{_CHARACTERS_A_TOKEN}}}|[^\w\s]"


def model_config(name: str) -> CLIPConfig:
    """
    The configuration of a model by name.

    Args:
        name (`str`): One of [`SIZES`], or `"tiny"` (two layers of width 64), to try the suite itself.

    Returns:
        `CLIPConfig`

    Raises:
        ValueError: If the name is unknown.
    """
    if name == "tiny":
        return _config((64, 2, 2, 8), (64, 2), 32, image_size=32, text_layers=2)
    if name not in SIZES:
        raise ValueError(f"model {name!r} is unknown; choose one of tiny, {', '.join(SIZES)}.")
    size = SIZES[name]
    return _config(size["vision"], size["text"], size["projection"])


def _config(vision: tuple, text: tuple, projection: int, image_size: int = 224, text_layers: int = 12) -> CLIPConfig:
    width, layers, heads, patch = vision
    text_width, text_heads = text
    return CLIPConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "patch_size": patch,
            "image_size": image_size,
            "hidden_act": "quick_gelu",
        },
        text_config={
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": text_layers,
            "num_attention_heads": text_heads,
            "max_position_embeddings": POSITIONS,
            "vocab_size": END + 1,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": END,
            "hidden_act": "quick_gelu",
        },
        projection_dim=projection,
    )


def random_model(name: str, seed: int = 0) -> CLIPModel:
    """A `CLIPModel` of a size by name with random weights, the same for the same seed, in float32 and eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPModel(model_config(name)).eval()


class WordTokens:
    """
    Stands in for CLIP's tokenizer: ids without meaning, in numbers as CLIP's (one token a word or mark, long words more).

    Called as tokenizers are; returns `input_ids`, padded with the end-of-text token to the longest, or to `max_length`
    with `padding="max_length"`.
    """

    padding_side, pad_token_id, model_max_length = "right", END, POSITIONS

    def __call__(self, texts: Sequence[str], padding=True, max_length: int = POSITIONS, **options) -> dict:
        rows = [[START, *self._ids(text)[: max_length - 2], END] for text in texts]
        longest = max_length if padding == "max_length" else max(map(len, rows))
        return {"input_ids": torch.tensor([row + [END] * (longest - len(row)) for row in rows])}

    @staticmethod
    def _ids(text: str) -> list[int]:
        # Not `hash`, which differs from process to process.
        return [int.from_bytes(piece.encode(), "big") % START for piece in re.findall(PIECES, text)]


def imagenet_prompts(count: int, seed: int = 0) -> list[str]:
    """`count` different prompts out of the 80,000 of ImageNet's 1000 classes and 80 templates, drawn at random."""
    names, templates = imagenet_classes(), facts("imagenet")["templates"]
    drawn = random.Random(seed).sample(range(len(names) * len(templates)), count)  # noqa: S311 (to be repeated)
    return [fill_template(templates[i % len(templates)], names[i // len(templates)]) for i in drawn]


class Pairs(Dataset):
    """
    Image-caption pairs that cost nothing to read: noise in turn from a small pool, each with a caption of its own.

    Args:
        config: Configuration of the model.
        batch (`int`): Pairs in a batch.
        length (`int`): Pairs in all.
        device (*optional*, defaults to the CPU): Where the images lie.
        captions (`int`, *optional*): Different captions, which then come in turn; default: as many as there are pairs.
    """

    def __init__(self, config: CLIPConfig, batch: int, length: int, device: str = "cpu", captions: int | None = None):
        generator, size = torch.Generator().manual_seed(1), config.vision_config.image_size
        self.images = torch.randn(2 * batch, 3, size, size, generator=generator).to(device)
        self.captions = imagenet_prompts(min(captions or length, 80_000))
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        return {
            "pixel_values": self.images[index % len(self.images)],
            "caption": self.captions[index % len(self.captions)],
        }


def collate(examples: list[dict], length: int | None = None) -> dict[str, Tensor]:
    """A batch of [`Pairs`] where they lie, captions padded to the longest of the batch or to `length` tokens."""
    pixel_values = torch.stack([example["pixel_values"] for example in examples])
    padding = {"padding": True} if length is None else {"padding": "max_length", "max_length": length}
    tokens = WordTokens()([example["caption"] for example in examples], **padding)
    return {"pixel_values": pixel_values, "input_ids": tokens["input_ids"].to(pixel_values.device)}
