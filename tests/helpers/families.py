# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A tiny random model of every family with a real processor, of the kinds that its released checkpoints have."""

from __future__ import annotations

import string
from functools import cache

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from helpers import tiny_config, tiny_processor
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.modeling.families import FAMILIES

TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGE = {**TOWER, "image_size": 32, "patch_size": 8}
MEAN = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.25, 0.2]}
SQUARE = {"size": {"height": 32, "width": 32}, **MEAN}
#: Of an image of SigLIP 2, at most.
PATCHES = 20
#: Width and height of pictures.
SIZES = ((91, 57), (57, 91), (40, 40), (150, 20), (20, 150), (64, 48), (33, 32), (120, 90))
CHINESE = "一只猫狗的照片在"
#: Every family by the `model_type` of its configuration.
FAMILY_NAMES = (
    "clip",
    "metaclip_2",
    "chinese_clip",
    "altclip",
    "aimv2",
    "blip",
    "siglip",
    "siglip2",
    "vision-text-dual-encoder",
)


def xlm_roberta_tokenizer(length: int = 32) -> transformers.XLMRobertaTokenizer:
    """Letters, some words and Chinese characters; padding 1, end of text 2."""
    pieces = ["\u2581", *string.ascii_lowercase, ".", "\u2581a", "\u2581photo", "\u2581of", "\u2581the", *CHINESE]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocab = [(piece, 0.0) for piece in special] + [(piece, -float(30 - 5 * min(len(piece), 5))) for piece in pieces]
    return transformers.XLMRobertaTokenizer(vocab=[*vocab, ("<mask>", 0.0)], model_max_length=length)


def bert_tokenizer(length: int = 32) -> transformers.BertTokenizer:
    """Letters, some words and Chinese characters; padding 0."""
    letters = string.ascii_lowercase
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += [".", "photo", "of", "the", *CHINESE]
    return transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=length)


def gemma_tokenizer(length: int = 64) -> transformers.Siglip2Tokenizer:
    """Letters in lower case, and an end of text; padding 0, as that of SigLIP 2."""
    vocab = {piece: i for i, piece in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", "."])}
    vocab |= {letter: len(vocab) + i for i, letter in enumerate(string.ascii_lowercase)}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    tokenizer = transformers.Siglip2Tokenizer(
        vocab=vocab,
        merges=[],
        padding_side="right",
        model_max_length=length,
        model_input_names=["input_ids"],
        add_bos_token=False,
        add_eos_token=True,
    )
    return tokenizer


@cache
def _processor(name: str) -> ProcessorMixin:
    images = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, **MEAN
    )
    if name in ("clip", "aimv2"):
        processor = tiny_processor()
        processor.tokenizer.model_max_length = 16
        return processor
    if name == "metaclip_2":
        return transformers.CLIPProcessor(image_processor=images, tokenizer=xlm_roberta_tokenizer())
    if name == "altclip":
        return transformers.AltCLIPProcessor(image_processor=images, tokenizer=xlm_roberta_tokenizer())
    if name == "chinese_clip":
        images = transformers.ChineseCLIPImageProcessorPil(do_center_crop=False, **SQUARE)
        return transformers.ChineseCLIPProcessor(image_processor=images, tokenizer=bert_tokenizer())
    if name == "blip":
        images = transformers.BlipImageProcessorPil(**SQUARE)
        return transformers.BlipProcessor(image_processor=images, tokenizer=bert_tokenizer())
    if name == "siglip":
        images = transformers.SiglipImageProcessorPil(resample=2, **SQUARE)
        return transformers.SiglipProcessor(image_processor=images, tokenizer=gemma_tokenizer())
    if name == "siglip2":
        images = transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=PATCHES, **MEAN)
        return transformers.Siglip2Processor(image_processor=images, tokenizer=gemma_tokenizer())
    images = transformers.ViTImageProcessorPil(**SQUARE)
    return transformers.VisionTextDualEncoderProcessor(image_processor=images, tokenizer=bert_tokenizer())


def family_processor(name: str) -> ProcessorMixin:
    """The processor of a family, the same object each time."""
    return _processor(name)


def family_config(name: str) -> transformers.PreTrainedConfig:
    """The configuration of the tiny model of a family."""
    tokenizer = family_processor(name).tokenizer
    text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    if name == "clip":
        return tiny_config()
    if name == "metaclip_2":
        text |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
        return transformers.MetaClip2Config(text_config=text, vision_config=IMAGE, projection_dim=16)
    if name == "altclip":
        # Positions begin behind the padding.
        text |= {"max_position_embeddings": tokenizer.model_max_length + 2, "project_dim": 24, "pad_token_id": 1}
        return transformers.AltCLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=16)
    if name == "aimv2":
        text |= {"vocab_size": 64, "eos_token_id": 63}
        return transformers.Aimv2Config(text_config=text, vision_config=IMAGE, projection_dim=16)
    if name == "chinese_clip":
        return transformers.ChineseCLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=16)
    if name == "blip":
        # Special tokens of the tokenizer of its checkpoints.
        text |= {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
        return transformers.BlipConfig(text_config=text, vision_config=IMAGE, projection_dim=16)
    if name == "siglip":
        # As published: `pad_token_id` is the class's own and not the tokenizer's.
        text |= {"projection_size": 32, "bos_token_id": 2, "eos_token_id": 1}
        return transformers.SiglipConfig(text_config=text, vision_config=IMAGE)
    if name == "siglip2":
        text |= {"projection_size": 32, "bos_token_id": 2, "eos_token_id": 1}
        # A grid of positions of its own, which is stretched to that of each image.
        grid = {**TOWER, "patch_size": 8, "num_patches": 16}
        return transformers.Siglip2Config(text_config=text, vision_config=grid)
    return transformers.VisionTextDualEncoderConfig(
        text_config={"model_type": "bert", **text}, vision_config={"model_type": "vit", **IMAGE}, projection_dim=16
    )


def family_model(name: str, seed: int = 0) -> PreTrainedModel:
    """A tiny random model of a family, in evaluation mode; its padding is that of its processor, as after loading."""
    config = family_config(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FAMILIES[name].model_class(config).eval()
        for parameter in model.parameters():
            # Some are made as zeros, which hides what they do.
            if parameter.ndim < 2 and parameter is not model.logit_scale:
                parameter.data += 0.05 * torch.randn_like(parameter)
            elif name in ("altclip", "blip", "vision-text-dual-encoder"):
                # Made so small that all captions are one.
                parameter.data += 0.1 * torch.randn_like(parameter)
    if "siglip" in name:
        model.logit_scale.data.fill_(2.3)
        model.logit_bias.data.fill_(-1.5)
        config.text_config.pad_token_id = 0
    return model


def save_family(name: str, folder, seed: int = 0) -> PreTrainedModel:
    """Write the checkpoint of a family into `folder`, as it is published; returns the model."""
    model = family_model(name, seed)
    if "siglip" in name:
        model.config.text_config.pad_token_id = 1
    model.save_pretrained(folder)
    family_processor(name).save_pretrained(folder)
    if "siglip" in name:
        model.config.text_config.pad_token_id = 0
    return model


def family_captions(n: int = 8, seed: int = 0) -> list[str]:
    """`n` captions of random words, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    letters = torch.randint(0, 26, (n, 9), generator=generator).tolist()
    words = ["".join(string.ascii_lowercase[i] for i in row[: 2 + index % 8]) for index, row in enumerate(letters)]
    return [f"a photo of {word}." if index % 2 else f"the {word}" for index, word in enumerate(words)]


def family_images(name: str, n: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`n` random images as the transform of a family makes them; where they keep their aspect ratios, of different ones."""
    if not FAMILIES[name].patches:
        return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed)).to(dtype)
    transform = ImageTransform.from_processor(family_processor(name), train=False)
    return torch.stack([transform(picture) for picture in pictures(n, seed)]).to(dtype)


def plain_images(name: str, n: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Those of `family_images` as the own model of the family takes them, made by its own processor."""
    if not FAMILIES[name].patches:
        return {"pixel_values": family_images(name, n, seed, dtype)}
    inputs = family_processor(name).image_processor(pictures(n, seed), return_tensors="pt")
    return {**inputs, "pixel_values": inputs["pixel_values"].to(dtype)}


def pictures(n: int = 8, seed: int = 0) -> list[Image.Image]:
    """`n` pictures of noise, of different sizes and aspect ratios."""
    generator = np.random.default_rng(seed)
    sizes = [SIZES[i % len(SIZES)] for i in range(n)]
    return [Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in sizes]


def family_batch(name: str, n: int = 8, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict:
    """`n` random image-caption pairs as a loader makes them for a family, with labels."""
    tokens = family_processor(name).tokenizer(family_captions(n, seed), padding=True, truncation=True, return_tensors="pt")
    images = family_images(name, n, seed, dtype)
    return {"pixel_values": images, "input_ids": tokens["input_ids"], "labels": torch.arange(n) % 4}
