# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Item i: from a JPEG file to pixels, against transformers' image processor (`data_path.py` has more of it)."""

from __future__ import annotations

from memory import in_a_process
from table import Row

SIDE = "training, uint8"


def rates(images: int, rounds: int, model: str) -> dict:
    """Images a second of one core of both sides, by `data_path`'s own measurement."""
    import torch
    from data_path import contenders, jpegs, measure
    from transformers import CLIPImageProcessor
    from workload import model_config

    torch.set_num_threads(1)
    size = model_config(model).vision_config.image_size
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    sides = dict(list(contenders(processor).items())[:1])
    sides[SIDE] = contenders(processor)[SIDE]
    return measure(jpegs(500, 375, images), sides, rounds)


def measure(options, progress) -> list[Row]:
    """One row: seconds of a core for an image."""
    progress("pictures")
    found = in_a_process(rates, options.batch, options.rounds, options.model)
    usual, ours = found.values()
    return [
        Row(
            "i",
            "reading a training picture over CLIPImageProcessor",
            1e3 / ours["images_per_second_and_core"],
            1e3 / usual["images_per_second_and_core"],
            "ms",
            1 / ours["ratio"],
            0.5,
            f"500 x 375 pixels, one core: {ours['images_per_second_and_core']:.0f} images a second",
            found,
        )
    ]
