# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Rows from where a benchmark of one's own says they are: files, a folder, or the Hub."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, load_dataset

from hf_robustft.data.folders import load_folder

_BUILDERS = ("parquet", "imagefolder", "json", "csv", "arrow", "webdataset")


def read_rows(benchmark) -> Dataset:
    """Read what a `Benchmark` with a `path` describes; its columns are not checked.

    Raises:
        ValueError: a folder that holds no data set, or folders that are none of the classes.
        OSError: the path does not exist, or the Hub data set cannot be reached.
    """
    path, files = benchmark.path, benchmark.data_files
    if path in _BUILDERS:
        pattern = _file_pattern(files)
        return load_dataset(path, data_files={benchmark.split: pattern}, split=benchmark.split)
    if Path(path).expanduser().is_dir():
        names = benchmark.label_names or benchmark.class_names or None
        return load_folder(Path(path).expanduser(), benchmark.split, names)
    require_hub_id(path)
    return from_hub(
        load_dataset, path, benchmark.config, split=benchmark.split, revision=benchmark.revision, data_files=files
    )


def _file_pattern(files: str | None) -> str:
    """`files` as the pattern that `datasets` wants: a file that exists stands for itself, brackets and all."""
    if files and Path(files).exists():
        return glob.escape(files)
    if not files or not set("*?[") & set(files):
        raise FileNotFoundError(f"the data file {files!r} does not exist; correct the path")
    return files


def require_hub_id(path: str) -> None:
    """Raise FileNotFoundError unless `path` has the form owner/name."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path):
        raise FileNotFoundError(
            f"the path {path!r} does not exist; give a folder, a .parquet file or a Hub id owner/name"
        )


def from_hub(function: Callable, path: str, config: str | None, **options):
    """`function(path, config, **options)`; raises OSError with one line if the Hub does not give the data set."""
    try:
        return function(path, config, **options)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"no folder {path!r} here, and it cannot be had from the Hub: {reason}") from error
