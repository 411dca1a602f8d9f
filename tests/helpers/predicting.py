# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What tests of `hf-robustft predict` run and read."""

import csv
import json

import pyarrow.parquet as pq

from hf_robustft.cli import main

QUIET = ("--use_cpu", "--disable_tqdm")


def run(*words) -> int:
    return main(["predict", *map(str, words), *QUIET])


def rows(path) -> list[dict]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def left(path) -> list[str]:
    """What lies beside an output."""
    return sorted(item.name for item in path.parent.iterdir() if item.name.startswith("."))
