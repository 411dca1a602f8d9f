# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Do all files of a data set give a class the same number? `datasets` takes the names of the first file for those of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from datasets import ClassLabel, DatasetBuilder, Features

from .labels import one_label
from .prompts import class_key
from .streams.rows import opened_parquet


def check_class_lists(files: Iterable[str], features: Mapping, path: str) -> None:
    """
    Refuse parquet files whose labels are numbers of other names than those that the data set was opened with.

    Args:
        files (`Iterable[str]`): The files, of which the footers are read; the first is that whose names are taken for those of all.
        features (`Mapping`): The columns and their types, as `datasets` found them. Where the data set's README renames a class, all
            files have its former name.
        path (`str`): Words for the data set, used in messages.

    Raises:
        ValueError: If a file gives a number to another class.
        OSError: If a file cannot be read.
    """
    named: dict[str, list[str]] = {}
    opened = dict(_class_lists(features))
    for file in dict.fromkeys(files) if opened else ():
        with opened_parquet(file) as content:
            found = dict(_class_lists(Features.from_arrow_schema(content.schema_arrow)))
        for column, names in found.items():
            moved = next((label for label, name in enumerate(names) if _has_moved(name, label, opened.get(column, ()))), None)
            other = next((label for label, pair in enumerate(zip(names, named.get(column, ()), strict=False)) if _differ(*pair)), moved)
            if other is not None:
                taken = (opened if other == moved else named)[column]
                raise ValueError(
                    f"The parquet files in {path!r} number their classes differently: label {other} of column {column!r} is {names[other]!r} in "
                    f"{file.rpartition('/')[2]!r}, and {taken[other] if other < len(taken) else 'no class'!r} to the data set as a whole, by which all labels would be taken. Write "
                    "them again with one ClassLabel, or give each kind a folder of its own or by the name of its .parquet file."
                )
            named.setdefault(column, names)


def first_and(builder: DatasetBuilder, split: str) -> list[str]:
    """Return the first file of the data set of a `builder`, whose columns are taken for those of all, and the files of a `split`."""
    splits = builder.config.data_files or {}
    first = next((file for files in splits.values() for file in files), None)
    return [] if first is None else [str(first), *map(str, splits.get(split, ()))]


def _has_moved(name: str, label: int, names: Sequence[str]) -> bool:
    return any(class_key(other) == class_key(name) for other in names) and (label >= len(names) or _differ(names[label], name))


def _differ(one: str, other: str) -> bool:
    return class_key(one) != class_key(other)


def _class_lists(features: Mapping) -> Iterator[tuple[str, list[str]]]:
    for column, feature in features.items():
        if isinstance(one_label(feature), ClassLabel):
            yield column, one_label(feature).names
