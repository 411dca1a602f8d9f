# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Item e: the zero-shot head of ImageNet's 1000 classes and 80 templates, from trimmed prompts and from padded ones."""

from __future__ import annotations

import torch
from table import Row
from turns import Contender, interleave, median_ratio
from workload import WordTokens, imagenet_prompts, random_model

from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.zero_shot import prompt_features

PROMPTS = 80_000
BATCH = 256


def trimmed(turn, model: str, count: int) -> None:
    """Our way: prompts of like length together, each batch cut after its longest, equal prompts once."""
    clip, prompts, turn.features = random_model(model), imagenet_prompts(count), None
    while turn():
        # Every prompt a class of its own: a sample of the prompts is no table of classes and templates.
        turn.features = prompt_features(clip, WordTokens(), prompts, ["{}"], batch_size=BATCH)[:, 0]


@torch.no_grad()
def padded(turn, model: str, count: int) -> None:
    """The usual way: prompts as they come, all padded to 77 tokens."""
    clip, prompts, turn.features = random_model(model), imagenet_prompts(count), None
    while turn():
        input_ids = WordTokens()(prompts, padding="max_length")["input_ids"]
        turn.features = torch.cat([DualEncoder.of(clip).text_features(part) for part in input_ids.split(BATCH)])


def measure(options, progress) -> list[Row]:
    """One row, the seconds scaled up to 80,000 prompts."""
    count = options.prompts
    settings = {"model": options.model, "count": count}
    ours = Contender("head, trimmed", trimmed, settings, options.threads)
    usual = Contender("head, padded", padded, settings, options.threads)
    interleave([ours, usual], max(2, options.rounds // 2), 1, progress)
    scale = PROMPTS / count
    return [
        Row(
            "e",
            "head of 1000 classes x 80 templates, trimmed over padded",
            ours.median * scale,
            usual.median * scale,
            "s",
            median_ratio(ours, usual),
            0.35,
            f"scaled up from {count:,} of the 80,000 prompts, drawn at random",
            {"rounds": [list(pair) for pair in zip(ours.seconds, usual.seconds, strict=True)], "prompts": count},
        )
    ]
