# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Where the images of an evaluation were really read from, in words that may be published."""

from __future__ import annotations

import re
from pathlib import Path

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.images import BadImages

_PLACE = ("path", "config", "data_files", "split", "revision")


def data_source(benchmark: Benchmark) -> dict[str, str] | None:
    """
    The place that a benchmark was read from, after it was.

    Of several copies on the Hub only the one that was opened counts, so this is asked for after `load` or `row_stream`.

    Args:
        benchmark ([`Benchmark`]): Opened.

    Returns:
        `dict[str, str]` or `None`: Of `path` (a Hub id, or the name of a folder or file: where it lies on this machine is
        nobody's business), `config`, `data_files`, `split`, `revision`, those that are known, and `commit`, the commit of
        the Hub that `datasets` downloaded. `None` for rows that were given in memory.
    """
    if benchmark.path is None:
        return None
    source = {name: str(getattr(benchmark, name)) for name in _PLACE if getattr(benchmark, name) is not None}
    files = source.get("data_files")
    if files is not None and Path(files).exists():
        # A builder such as "parquet" and one file: the file is the source.
        return {"path": Path(files).name}
    if Path(source["path"]).expanduser().exists():
        source["path"] = Path(source["path"]).expanduser().absolute().name
        source.pop("data_files", None)
        return source
    commit = None if benchmark.streaming else _commit(benchmark)
    return {**source, **({} if commit is None else {"commit": commit})}


def _commit(benchmark: Benchmark) -> str | None:
    """The commit that a Hub data set was downloaded from: `datasets` calls the folder of its cache after it."""
    folders = {Path(file["filename"]).parent.name for file in benchmark.load().cache_files}
    found = {name for name in folders if re.fullmatch(r"[0-9a-f]{40}", name)}
    return found.pop() if len(found) == 1 else None


def unreadable_images(bad_images: BadImages | None) -> dict | None:
    """
    What a report says of images that could not be read: `count`, `of` how many, and the `first` lines, in which a file of
    this machine is named by its folder and name alone. `None` if all could be read.
    """
    found = None if bad_images is None else bad_images.summary()
    if not found or not found["count"]:
        return None
    # "row 7 (/home/me/photos/cat/7.jpg): ..." -> "row 7 (cat/7.jpg): ..."
    file = r"\((?:[A-Za-z]:)?[\\/](?:[^()]*[\\/])?([^()\\/]+[\\/][^()\\/]+)\)"
    return {**found, "first": [re.sub(file, r"(\1)", line) for line in found["first"]]}
