# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Item v: what evaluation computes of a batch of images, over the forward pass of Transformers' own model."""

from __future__ import annotations

import torch
from table import Row
from turns import Contender, interleave, median_ratio
from workload import Pairs, random_model

from hf_robustft.modeling.features import encode_images

CLASSES = 1000


def _work(turn, model: str, batch: int, embed) -> None:
    clip = random_model(model).eval()
    pixel_values = Pairs(clip.config, batch, batch).images[:batch]
    head = torch.nn.functional.normalize(torch.randn(CLASSES, clip.config.projection_dim), dim=-1)
    with torch.inference_mode():
        while turn():
            turn.logits = embed(clip, pixel_values) @ head.t()


def ours(turn, model: str, batch: int) -> None:
    """Logits of 1,000 classes, by the embeddings that evaluation takes."""
    _work(turn, model, batch, encode_images)


def plain(turn, model: str, batch: int) -> None:
    """The same, by the output of Transformers."""

    def embed(clip, pixel_values):
        return torch.nn.functional.normalize(clip.get_image_features(pixel_values).pooler_output, dim=-1)

    _work(turn, model, batch, embed)


def measure(options, progress) -> list[Row]:
    """One row."""
    settings = {"model": options.model, "batch": options.batch}
    one = Contender("evaluation", ours, settings, options.threads)
    other = Contender("plain forward", plain, settings, options.threads)
    interleave([one, other], options.rounds, options.warm, progress)
    rounds = {"rounds": [list(pair) for pair in zip(one.seconds, other.seconds, strict=True)]}
    name = "logits of a batch of images in evaluation over the plain forward pass"
    return [Row("v", name, one.median, other.median, "s", median_ratio(one, other), 0.95, "", rounds)]
