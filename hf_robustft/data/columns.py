# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Checks of a data set's columns, in one vectorised pass each; no image is decoded here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image, LargeList, List, Value

from hf_robustft.data.prompts import check_class_names, class_key


def quoted(names: Sequence[str], limit: int = 5) -> str:
    """The first names in quotes, with the number of all: `'dog', 'cat', ... (200 in all)`."""
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"


def require_column(dataset: Dataset, column: str, option: str, where: str) -> None:
    """Raise ValueError, naming the existing columns and the option to set, unless `dataset` has `column`."""
    if column not in dataset.column_names:
        raise ValueError(
            f"{where} has no column {column!r}; its columns are {quoted(dataset.column_names, 20)}: "
            f"name the right one with {option} (--{option} on the command line)"
        )


def _not_a_dataset(dataset, where: str) -> str:
    return f"{where} is a {type(dataset).__name__}, not a datasets.Dataset; choose a split and do not stream"


def _is_text(feature) -> bool:
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def holds_integers(feature) -> bool:
    """Whether a column of this type holds integer labels (a ClassLabel or any integer type)."""
    return isinstance(feature, ClassLabel) or (
        isinstance(feature, Value) and feature.dtype.lstrip("u").startswith("int")
    )


def _arrow_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    return dataset.select_columns([column]).with_format("arrow")[:].column(column)


def with_image_column(dataset: Dataset, column: str, where: str) -> Dataset:
    """`dataset` with `column` typed as images; encoded bytes and file paths become images that decode when read.

    Raises:
        ValueError: there is no such column, or it holds neither images, bytes nor paths.
    """
    require_column(dataset, column, "image_column", where)
    feature = dataset.features[column]
    if isinstance(feature, Image):
        return dataset if feature.decode else dataset.cast_column(column, Image(mode=feature.mode))
    is_file = isinstance(feature, Value) and feature.dtype in ("string", "large_string", "binary", "large_binary")
    is_encoded = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
    if not is_file and not is_encoded:
        raise ValueError(
            f"column {column!r} of {where} holds {feature}, not images; name the image column with image_column "
            "(--image_column on the command line)"
        )
    return dataset.cast_column(column, Image())


def own_class_names(dataset: Dataset, column: str, where: str) -> tuple[str, ...]:
    """What the data set itself calls its classes: the ClassLabel's names, or the sorted strings of a string column.

    Raises:
        ValueError: no such column, or one of bare integers, which names no classes.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(_not_a_dataset(dataset, where))
    require_column(dataset, column, "label_column", where)
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        return check_class_names(feature.names)
    if _is_text(feature):
        found = pc.unique(_arrow_column(dataset, column)).to_pylist()
        return check_class_names(sorted(name for name in found if name is not None))
    raise ValueError(
        f"column {column!r} of {where} holds {feature}, which names no classes; give class_names (--class_names on "
        "the command line): a text file with one name a line"
    )


def _refuse_rows(bad: np.ndarray, describe, rule: str, column: str, where: str) -> None:
    """Raise ValueError about the first of the rows marked in `bad`, with their number."""
    if bad.any():
        row, count = int(np.argmax(bad)), int(bad.sum())
        raise ValueError(
            f"{describe(row)} in row {row} of column {column!r} of {where} {rule} "
            f"({count} such row{'s' if count > 1 else ''} of {len(bad)})"
        )


def with_integer_labels(
    dataset: Dataset, column: str, class_names: Sequence[str], own_names: Sequence[str] | None, where: str
) -> Dataset:
    """`dataset` with integer labels in `column` that index `class_names`.

    Args:
        dataset: the data; its label column may hold a ClassLabel, integers, or strings.
        column: name of the label column.
        class_names: checked class names, in label order.
        own_names: what the data set calls the same classes, in the same order, where that differs.
        where: words for the data set, used in messages.

    Returns:
        `dataset` itself if the labels are integers; string labels are replaced by a ClassLabel column.

    Raises:
        ValueError: no such column, another type, ClassLabel names that disagree, or a label outside the classes.
    """
    require_column(dataset, column, "label_column", where)
    feature, expected = dataset.features[column], tuple(own_names or class_names)
    values = _arrow_column(dataset, column).combine_chunks()
    missing = values.is_null().to_numpy(zero_copy_only=False)
    _refuse_rows(missing, lambda row: "the label", "is missing; give it a class or leave the row out", column, where)
    if _is_text(feature):
        encoded = pc.dictionary_encode(values)
        position = {class_key(name): index for index, name in enumerate(expected)}
        known = np.array(
            [position.get(class_key(name), -1) for name in encoded.dictionary.to_pylist()], dtype=np.int64
        )
        labels = known[encoded.indices.to_numpy()]
        rule = f"is not one of the {len(expected)} class names {quoted(expected)}: correct the column or class_names"
        _refuse_rows(labels < 0, lambda row: f"label {values[row].as_py()!r}", rule, column, where)
        order = dataset.column_names
        replaced = dataset.remove_columns(column).add_column(
            column, labels, feature=ClassLabel(names=list(class_names))
        )
        return replaced.select_columns(order)
    if isinstance(feature, ClassLabel):
        # Names that already are the class names need no renaming, whatever the data set called them before.
        if [class_key(name) for name in feature.names] != [class_key(name) for name in class_names]:
            _check_class_label(feature.names, expected, column, where)
    elif not holds_integers(feature):
        raise ValueError(
            f"column {column!r} of {where} holds {feature}, not labels (integers, class names or a ClassLabel); "
            "name the label column with label_column (--label_column on the command line)"
        )
    labels = values.to_numpy(zero_copy_only=False)
    rule = f"is outside the {len(class_names)} classes, 0 to {len(class_names) - 1}: correct the column or class_names"
    outside = (labels < 0) | (labels >= len(class_names))
    _refuse_rows(outside, lambda row: f"label {labels[row]}", rule, column, where)
    return dataset


def _check_class_label(names: Sequence[str], expected: Sequence[str], column: str, where: str) -> None:
    if len(names) != len(expected):
        raise ValueError(
            f"column {column!r} of {where} has {len(names)} classes, {quoted(names)}, but {len(expected)} class names "
            f"are given, {quoted(expected)}; give one name per class, in the order of the labels"
        )
    differing = [i for i, (a, b) in enumerate(zip(names, expected, strict=True)) if class_key(a) != class_key(b)]
    if differing:
        first = differing[0]
        raise ValueError(
            f"column {column!r} of {where} calls class {first} {names[first]!r}, the given class names call it "
            f"{expected[first]!r} ({len(differing)} of {len(names)} differ; data: {quoted(names)}; given: "
            f"{quoted(expected)}); put the names in the order of the labels, or give label_names to rename classes"
        )


def check_captions(dataset: Dataset, column: str, where: str) -> None:
    """Raise ValueError unless `column` holds text, or non-empty lists of text, without a blank or missing caption."""
    require_column(dataset, column, "caption_column", where)
    feature, rule = dataset.features[column], "has no text: write one or leave the row out"
    several = isinstance(feature, (List, LargeList))
    if not _is_text(feature.feature if several else feature):
        raise ValueError(
            f"column {column!r} of {where} holds {feature}, not captions (text or lists of text); "
            "name the caption column with caption_column (--caption_column on the command line)"
        )
    # Chunk by chunk: all captions of a large data set in one array could pass arrow's limit of 2 GiB.
    missing = [_without_text(chunk, several) for chunk in _arrow_column(dataset, column).chunks]
    bad = np.concatenate([np.empty(0, dtype=bool), *missing])
    _refuse_rows(bad, lambda row: "the caption", rule, column, where)


def _without_text(values: pa.Array, several: bool) -> np.ndarray:
    """True for each row that is null, blank, an empty list, or a list with a null or blank text."""
    missing = values.is_null().to_numpy(zero_copy_only=False).copy()
    texts = pc.list_flatten(values) if several else values
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(texts, ""))), 0)
    blank = blank.to_numpy(zero_copy_only=False)
    if not several:
        return missing | blank
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    missing[np.repeat(np.arange(len(values)), lengths)[blank]] = True
    return missing | (lengths == 0)


def check_dataset(
    dataset: Dataset,
    *,
    where: str,
    class_names: Sequence[str] = (),
    own_names: Sequence[str] | None = None,
    image_column: str = "image",
    label_column: str | None = "label",
    caption_column: str | None = None,
) -> Dataset:
    """Check a data set against its description, before anything is computed on it.

    Args:
        dataset: rows with an image, and a label or a caption or both.
        where: words for the data set, used in messages.
        class_names: the classes in label order; if empty, the label column is not read.
        own_names: what the data set calls the same classes, where that differs.
        image_column, label_column, caption_column: names of the columns; None for a column that does not matter.

    Returns:
        The data set with images that decode when read and integer labels.

    Raises:
        ValueError: an empty data set, a missing column, a column of another kind, or a label or caption that is wrong.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(_not_a_dataset(dataset, where))
    # Values must come back as stored, whatever output format or transform the caller has set for other uses.
    dataset = dataset.with_format(None)
    if len(dataset) == 0:
        raise ValueError(f"{where} is empty: it has no rows; check the path, the split and any filter")
    dataset = with_image_column(dataset, image_column, where)
    if class_names and label_column is not None:
        dataset = with_integer_labels(dataset, label_column, check_class_names(class_names), own_names, where)
    if caption_column is not None:
        check_captions(dataset, caption_column, where)
    return dataset
