# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Do all files of a data set give a class the same number? `datasets` takes the names of the first file for those of all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pyarrow.parquet as pq
from datasets import ClassLabel, Features

from .labels import one_label
from .prompts import class_key
from .streams.rows import opened_parquet


def check_class_lists(files: Iterable[str], features: Mapping, path: str) -> None:
    """
    Refuse parquet files whose labels are numbers of other names than those that the data set was opened with.

    Args:
        files (`Iterable[str]`): The files, of which the footers are read.
        features (`Mapping`): The columns and their types, as `datasets` found them.
        path (`str`): Words for the data set, used in messages.

    Raises:
        ValueError: If a file gives a number to another class.
        OSError: If a file cannot be read.
    """
    known = dict(_class_lists(features))
    for file in files if known else ():
        with opened_parquet(file) as content:
            found = _of_schema(content)
        for column, names in found.items():
            pairs = enumerate(zip(names, known.get(column, ()), strict=False))
            if (other := next(((number, *pair) for number, pair in pairs if class_key(pair[0]) != class_key(pair[1])), None)) is not None:
                number, here, there = other
                raise ValueError(
                    f"The parquet files in {path!r} number their classes differently: label {number} of column {column!r} is {here!r} in "
                    f"{file.rpartition('/')[2]!r} and {there!r} in the file that was read first, by which all labels would be taken. Write them again with one "
                    "ClassLabel, or give each kind a folder of its own or by the name of its .parquet file."
                )


def _of_schema(content: pq.ParquetFile) -> dict[str, list[str]]:
    return dict(_class_lists(Features.from_arrow_schema(content.schema_arrow)))


def _class_lists(features: Mapping) -> Iterator[tuple[str, list[str]]]:
    for column, feature in features.items():
        if isinstance(one_label(feature), ClassLabel):
            yield column, one_label(feature).names
