# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which columns data must have, and of which kind, for what is asked of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .labels import READ_AS_MISSING, LabelFault, holds_integers, is_text, refuse_rows
from .messages import quoted

#: Of a row whose group is missing.
NO_GROUP = LabelFault("the group", f"is missing{READ_AS_MISSING}: fill it in or leave the row out")


def require_dataset(dataset: Any, where: str) -> None:
    """Refuse a `dataset`, called `where` in messages, that is not a `datasets.Dataset`. Raises ValueError."""
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"{where} is a {type(dataset).__name__}, not a datasets.Dataset; choose a split and do not stream."
        )


def require_column(columns: Iterable[str], column: str, option: str, where: str) -> None:
    """Refuse a `column` that is not among the `columns` of the data `where`. Raises ValueError with them and the `option` to set."""
    if column not in columns:
        raise ValueError(
            f"{where} has no column {column!r}; its columns are {quoted(list(columns), 20)}: "
            f"name the right one with {option} (--{option} on the command line)."
        )


def check_group_column(features: Mapping[str, Any], column: str | None, where: str) -> None:
    """Refuse a `column` of groups that is not among the `features` of the data `where`, or holds neither text nor whole numbers. Raises ValueError."""
    if column is not None:
        require_column(features, column, "group_column", where)
        feature = features[column]
        fits = is_text(feature) or holds_integers(feature)
        check_kind(feature, fits, column, where, "groups (text or whole numbers)", "group")


def groups_of(dataset: Dataset, column: str, where: str) -> np.ndarray:
    """The group of each row of a `dataset`, by its `column`; `where` is for messages. Raises ValueError as [`check_group_column`], or if one is missing."""
    check_group_column(dataset.features, column, where)
    return np.asarray(without_gaps(dataset.select_columns([column]).with_format("arrow")[:][column], column, where).to_pylist())


def is_missing(group: Any) -> bool:
    """Return whether a stored `group` is missing or a blank text, which would put all such images into one."""
    return group is None or isinstance(group, str) and not group.strip()


def without_gaps(values: Any, column: str, where: str) -> Any:
    """The stored groups `values` of a `column` of the data `where`. Raises ValueError for the first one that is missing."""
    distinct = [group for group in pc.unique(values).to_pylist() if is_missing(group)]
    missing = pc.is_in(values, pa.array(distinct, values.type)) if distinct else values.is_null()
    refuse_rows(np.asarray(missing), lambda row: NO_GROUP, column, where)
    return values


def check_groups(count: int, column: str, where: str) -> None:
    """Refuse a `column` of the data `where` that holds a `count` of one group: nothing can be resampled. Raises ValueError."""
    if count < 2:
        raise ValueError(
            f"column {column!r} of {where} holds a single group, so nothing says how far chance moves a number; name another "
            "column with group_column (--group_column on the command line), or leave it out."
        )


def check_two_columns(image_column: str, label_column: str | None) -> None:
    """Refuse the same column as `image_column` and `label_column`. Raises ValueError."""
    if image_column == label_column:
        raise ValueError(
            f"image_column and label_column are both {image_column!r}; name the column of images with image_column "
            "(--image_column on the command line), that of labels with label_column."
        )


def check_one_meaning(named: Mapping[int, int], classes: Iterable[int], column: str, where: str) -> None:
    """
    Refuse numbers that are taken for positions of classes and may as well be their names.

    Args:
        named (`Mapping[int, int]`): What numbers mean as names of classes; empty where the names are not numbers.
        classes (`Iterable[int]`): Those that the column holds, taken for positions.
        column (`str`), where (`str`): The column, and words for the data set, used in messages.

    Raises:
        ValueError: If each of them is the name of a class, and one is the name of another than the one at its position.
    """
    found = set(classes) if named else set()
    other = sorted(number for number in found if named.get(number, number) != number)
    if other and found <= named.keys():
        raise ValueError(
            f"column {column!r} of {where} holds numbers, and all of them are names of classes too: whether a label {other[0]} is the class called "
            f"{other[0]} or that at position {other[0]}, counted from 0, is not known; give class_names with lines `label<TAB>name`."
        )


def check_kind(feature: Any, is_kind: bool, column: str, where: str, kind: str, what: str) -> None:
    """Refuse a `column` of the data `where`, of type `feature`, unless `is_kind`: it should hold `kind`, and be the column of `what`. Raises ValueError."""
    if not is_kind:
        option = f"{what}_column"
        raise ValueError(
            f"column {column!r} of {where} holds {feature}, not {kind}; name the {what} column with {option} "
            f"(--{option} on the command line)."
        )
