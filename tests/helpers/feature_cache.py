# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks whose features are cached."""

import datasets

from helpers import TEMPLATES, image_dataset
from hf_robustft.data.benchmarks import Benchmark


def benchmark(n=13, seed=0, **changes):
    rows = changes.pop("rows", None)
    rows = image_dataset(n, seed=seed) if rows is None else rows
    return Benchmark.from_dataset(rows, **{"name": "own", "role": "train", "templates": TEMPLATES, **changes})


def unreadable(n, row):
    rows = image_dataset(n).cast_column("image", datasets.Image(decode=False)).to_list()
    rows[row]["image"] = {"bytes": b"no picture", "path": None}
    return benchmark(rows=datasets.Dataset.from_list(rows, features=image_dataset(1).features))
