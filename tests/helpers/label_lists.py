# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Images with lists of labels, some of them empty: noise with a patch of its own for each label."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image

from helpers import CLASSES, TEMPLATES
from hf_robustft.data.benchmarks import Benchmark

#: Where the patch of each class begins, in pixels from the left and the top.
_PLACES = ((0, 0), (16, 0), (0, 16), (16, 16))


def label_lists(n: int, seed: int = 0) -> list[list[int]]:
    """`n` lists of classes, each class with probability 0.4; the first one is empty, and every class occurs."""
    has = torch.rand(n, len(CLASSES), generator=torch.Generator().manual_seed(seed)) < 0.4
    has[0], has[1:5] = False, has[1:5] | torch.eye(4, dtype=torch.bool)
    return [row.nonzero()[:, 0].tolist() for row in has]


def listed_images(lists: list[list[int]], seed: int = 0) -> list[Image.Image]:
    random, images = np.random.default_rng(seed), []
    for labels in lists:
        pixels = random.integers(0, 100, (32, 32, 3), dtype=np.uint8)
        for label in labels:
            left, top = _PLACES[label]
            pixels[top : top + 16, left : left + 16, label % 3] += np.uint8(150)
        images.append(Image.fromarray(pixels))
    return images


def listed_rows(n: int = 24, seed: int = 0) -> datasets.Dataset:
    lists = label_lists(n, seed)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.List(datasets.ClassLabel(names=list(CLASSES)))}
    )
    return datasets.Dataset.from_dict({"image": listed_images(lists, seed), "label": lists}, features=features)


def listed(role: str = "train", n: int = 24, seed: int = 0, **changes) -> Benchmark:
    """A benchmark of such images."""
    given = {"name": role, "role": role, "templates": TEMPLATES, **changes}
    return Benchmark.from_dataset(listed_rows(n, seed), **given)


def listed_folder(path: Path, n: int = 60, seed: int = 0) -> Path:
    """A folder of such images and a metadata.jsonl with the names of their classes."""
    path.mkdir(parents=True)
    lines, lists = [], label_lists(n, seed)
    for index, (labels, image) in enumerate(zip(lists, listed_images(lists, seed), strict=True)):
        image.save(path / f"{index:03d}.png")
        lines.append({"file_name": f"{index:03d}.png", "label": [CLASSES[label] for label in labels]})
    (path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
