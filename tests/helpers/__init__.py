# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What several test files share: a tokenizer and processor for `tiny_clip`, a small image data set, a short run."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import re
import string

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from hf_robustft.training.given import Suggested
from hf_robustft.training.methods import RobustTrainingArguments

CLASSES = ("cat", "dog", "owl", "bee")
TEMPLATES = ("a {}.", "the {}.", "a photo of {}.")
_MERGES = [("o", "f</w>"), ("p", "h"), ("ph", "o"), ("pho", "t"), ("phot", "o</w>")]


def tiny_config(**overrides) -> CLIPConfig:
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPConfig(
        text_config={
            **settings,
            "vocab_size": 64,
            "max_position_embeddings": 16,
            "bos_token_id": 62,
            "eos_token_id": 63,
            "pad_token_id": 63,
            "hidden_act": "quick_gelu",
        },
        vision_config={**settings, "image_size": 32, "patch_size": 8, "hidden_act": "quick_gelu"},
        projection_dim=16,
        **overrides,
    )


def random_batch(n: int = 8, seed: int = 0, dtype=torch.float32) -> dict:
    """`n` random image-caption pairs for `tiny_clip`, captions of different lengths, padded after the EOS."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.full((n, 12), 63)
    for row in range(n):
        length = 3 + row % 8
        input_ids[row, 0] = 62
        input_ids[row, 1 : 1 + length] = torch.randint(0, 60, (length,), generator=generator)
    return {
        "pixel_values": torch.randn(n, 3, 32, 32, generator=generator).to(dtype),
        "input_ids": input_ids,
        "labels": torch.arange(n) % 4,
    }


def tiny_tokenizer() -> CLIPTokenizer:
    """A real CLIP tokenizer over letters, with the 64 tokens and 16 positions of `tiny_clip`."""
    characters = [*string.ascii_lowercase, "."]
    tokens = [*characters, *(c + "</w>" for c in characters), *("".join(pair) for pair in _MERGES), ",", "-", "'"]
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    if len(vocab) != 64:
        raise RuntimeError(f"the tiny vocabulary has {len(vocab)} tokens, the tiny model 64")
    return CLIPTokenizer(vocab=vocab, merges=_MERGES, model_max_length=16)


def tiny_processor() -> CLIPProcessor:
    """A processor for `tiny_clip`: 32 pixels, the letters' tokenizer."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return CLIPProcessor(image_processor=images, tokenizer=tiny_tokenizer())


def image_dataset(n: int = 20, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> datasets.Dataset:
    """`n` noisy pictures whose colour depends on their class, labels in turn."""
    labels = [i % len(classes) for i in range(n)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))})
    return datasets.Dataset.from_dict({"image": _pictures(n, seed, len(classes)), "label": labels}, features=features)


@functools.lru_cache(maxsize=64)
def _pictures(n: int, seed: int, classes: int) -> list[dict]:
    """As PNGs: to make them takes longer than most of what is done with them."""
    random, images = np.random.default_rng(seed), []
    for label in (i % classes for i in range(n)):
        pixels = random.integers(0, 128, (36, 44, 3), dtype=np.uint8)
        pixels[..., label % 3] += np.uint8(64 + 32 * (label // 3))
        images.append(datasets.Image().encode_example(Image.fromarray(pixels)))
    return images


def sent_to_a_worker(value):
    """`value` as a worker process gets it: by its own reduction, which must have a byte form. No bytes are loaded."""
    pickle.dumps(value)
    return copy.deepcopy(value)


def stack(examples: list[dict]) -> dict:
    """Collate examples that are dicts of tensors."""
    return {key: torch.stack([example[key] for example in examples]) for key in examples[0]}


def rows(batch: dict) -> list[dict]:
    """The examples of a batch, for `stack`."""
    return [{key: value[i] for key, value in batch.items()} for i in range(len(batch["pixel_values"]))]


def arguments(output_dir, **settings) -> RobustTrainingArguments:
    """Arguments of a short, quiet run on the CPU that logs every step and saves nothing."""
    quiet = {
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        # Of methods that have a teacher.
        "ema_update_every": Suggested(1, "the tests"),
        "trajectory_update_every": Suggested(1, "the tests"),
        "seed": 7,
    }
    return RobustTrainingArguments(output_dir=str(output_dir), **{**quiet, **settings})


def step_logs(trainer) -> list[dict]:
    """The log entries of training steps, without the wall clock."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]


#: How far two results for the same images may be apart where matrices had other shapes: other batches, processes,
#: readers, numbers of threads. A product of `tiny_clip` adds up at most 192 terms (a patch of 8 x 8 x 3), which in float32
#: is off by about sqrt(192) / 2 * 1.2e-7 = 8e-7 of their size, and ten products lie behind one another: 1e-5, of logits
#: and scores of size 1 to 3. A wrong batch, a lost row or another order is off by 1e-2 and more.
ROUNDING = 3e-5


def assert_rounded(got, want, what: str = "result") -> None:
    """Equal but for the rounding of floating-point numbers: dicts, lists, tensors and numbers, part by part."""
    if isinstance(want, dict):
        assert got.keys() == want.keys(), what
        for key, value in want.items():
            assert_rounded(got[key], value, f"{what}: {key}")
    elif isinstance(want, (list, tuple)):
        assert len(got) == len(want), what
        for index, value in enumerate(want):
            assert_rounded(got[index], value, f"{what}: {index}")
    elif isinstance(want, torch.Tensor) and want.is_floating_point():
        torch.testing.assert_close(got, want, rtol=ROUNDING, atol=ROUNDING, msg=lambda text: f"{what}: {text}")
    elif isinstance(want, torch.Tensor):
        assert torch.equal(got, want), what
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=ROUNDING, abs=ROUNDING), what
    else:
        assert got == want, what


def tolerance(text: str) -> tuple[float, float]:
    """`(relative, absolute)` of a manifest entry such as 'max rel err 1e-9 (abs 1e-12)'."""
    relative = re.search(r"rel(?: err)? (\d\S*?)(?=[\s;]|$)", text)
    absolute = re.search(r"abs (\d[\d.e+-]*)", text)
    return (float(relative[1]) if relative else 0.0, float(absolute[1]) if absolute else 0.0)


def assert_golden(got: torch.Tensor, want: torch.Tensor, limits: tuple[float, float], what: str = "") -> None:
    """`max|got - want| <= max(relative * max|want|, absolute)`, the manifest's measure, per array."""
    if got.shape != want.shape:
        raise AssertionError(f"{what} has shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    error = (got.detach().double() - want.double()).abs().max().item()
    limit = max(limits[0] * want.double().abs().max().item(), limits[1])
    if not error <= limit:
        raise AssertionError(f"{what} is off by {error:.3g}, more than {limit:.3g}")


def golden_model(golden_dir, load, dtype=torch.float32) -> CLIPModel:
    """The tiny CLIP of golden item e at its initial weights."""
    model = CLIPModel(CLIPConfig.from_dict(json.loads((golden_dir / "e_hf_config.json").read_text())))
    model.load_state_dict(load("e_student_init_hf"))
    return model.to(dtype).eval()
