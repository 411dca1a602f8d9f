# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks by name or place: those of the registry, and your own data.

>>> shifts = load_benchmark("emoji_shift")               # every set of the suite, by name
>>> sketch = load_benchmark("emoji_shift", "twemoji")    # one of them
>>> renditions = load_benchmark("imagenet-r")             # a set of the registry, from the Hub
>>> own = load_benchmark("photos/", role="shift")        # one folder of images per class
>>> images = own.load()                                  # a checked datasets.Dataset
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Literal, overload

from .benchmark import Benchmark, opened_benchmark
from .catalog.registered import check_one_path, describe_registered
from .catalog.schema import ROLES
from .catalog.sets import REGISTRY, named_templates, registered_sets
from .messages import quoted, say_once
from .own_data import describe_own_data
from .packaged import ASSETS, asset_path
from .prompts import read_names_and_templates

__all__ = ["ROLES", "REGISTRY", "Benchmark", "asset_path", "load_benchmark"]

EMOJI_SHIFT_DIR = ASSETS / "emoji_shift"
EMOJI_CLIP_DIR = ASSETS / "emoji_clip"


# A suite of several sets is told from one benchmark by its name alone: the packaged one, and whoever names a set.
@overload
def load_benchmark(
    source: Literal["emoji_shift"],
    /,
    split: None = None,
    *,
    class_names: Iterable[str] | Mapping[str, str] | Mapping[int, str] | str | Path | None = None,
    templates: Iterable[str] | str | Path | None = None,
    **overrides,
) -> dict[str, Benchmark]: ...


@overload
def load_benchmark(
    source: str | Path,
    /,
    split: str,
    *,
    class_names: Iterable[str] | Mapping[str, str] | Mapping[int, str] | str | Path | None = None,
    templates: Iterable[str] | str | Path | None = None,
    **overrides,
) -> Benchmark: ...


@overload
def load_benchmark(
    source: str | Path,
    /,
    split: None = None,
    *,
    class_names: Iterable[str] | Mapping[str, str] | Mapping[int, str] | str | Path | None = None,
    templates: Iterable[str] | str | Path | None = None,
    **overrides,
) -> Benchmark | dict[str, Benchmark]: ...


def load_benchmark(
    source: str | Path,
    /,
    split: str | None = None,
    *,
    class_names: Iterable[str] | Mapping[str, str] | Mapping[int, str] | str | Path | None = None,
    templates: Iterable[str] | str | Path | None = None,
    **overrides,
) -> Benchmark | dict[str, Benchmark]:
    """Describe a benchmark: one of ours by name, or your own data.

    Args:
        source (`str` or `Path`): A name of the registry ("emoji_shift", "imagenet-r"); a folder with one folder of
            images per class, with images and metadata.jsonl, with parquet files, with tars of samples (webdataset), or
            written by `save_to_disk`; a .parquet file; or a Hub id "owner/name".
        split (`str`, *optional*): For a suite of several, one of its sets (default: all); otherwise the split (needed
            where there are several).
        class_names (`Iterable[str]`, `Mapping[str | int, str]`, `str` or `Path`, *optional*): The classes in label
            order, a dict {label: name}, or a text file with one name per line, or with `label<TAB>name`, where the label
            is what the data call the class: a name or a number (default: folder names, ClassLabel names, or the sorted
            strings of the label column). Numbers without labels are 0 to N - 1.
        templates (`Iterable[str]`, `str` or `Path`, *optional*): Prompt templates, one template, a text file with one per line, or a name ("imagenet-80", "imagenet-croft-7", "croft-dtd" and so on).
        overrides (`Any`, *optional*): Fields of `Benchmark`. For own data, `role` is "id" and `name` the name of the
            folder or file by default. With `caption_column` and without `class_names` the label column is not read.
            For a name of the registry, `path` is a copy of the data: a folder, one of the known repositories, or
            another Hub id.

    Returns:
        One `Benchmark`, or all of a suite by key, if it has several. Own data have been read and checked; with
        `streaming=True` they have been opened, and their columns checked.

    Raises:
        ValueError: an unknown name or split, or data that do not fit their description (see `Benchmark.load`).
        OSError: a path that does not exist, or a Hub data set that cannot be reached.
    """
    unknown = sorted(set(overrides) - {item.name for item in fields(Benchmark) if item.init})
    if unknown:
        raise ValueError(f"load_benchmark knows no option {unknown[0]!r}; it takes the fields of Benchmark.")
    if isinstance(templates, str):
        templates = named_templates(templates) or templates
    named = read_names_and_templates(class_names, templates, overrides.get("label_names"))
    given = {**overrides, **named}
    source = str(source)
    sets = registered_sets(source)
    if sets is None:
        return opened_benchmark(Benchmark, describe_own_data(source, split, given, known=sorted(REGISTRY)))
    if given.get("path") is None and Path(source).exists():
        say_once(
            f"{source!r} is read as the registered benchmark; {source!r} here is not read: to read it, write ./{source}, or "
            f"path={source!r} ({source}={source} on the command line) if it is a copy of that benchmark."
        )
    if split is None and len(sets) > 1:
        if given.get("path") is not None:
            check_one_path(sets, str(given["path"]), source)
        return {key: Benchmark(**describe_registered(described, given)) for key, described in sets.items()}
    split = split or next(iter(sets))
    if split not in sets:
        raise ValueError(f"{source} has no set {split!r}; its sets are {quoted(list(sets), 20)}.")
    return Benchmark(**describe_registered(sets[split], given))
