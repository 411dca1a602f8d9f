# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Checks of a data set's columns, in one vectorised pass each; no image is decoded here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image, LargeList, List, Value

from hf_robustft.data.files import say_once
from hf_robustft.data.labels import (
    LabelFault,
    LabelRule,
    classes_of,
    holds_integers,
    is_text,
    label_rule,
    quoted,
    refuse_rows,
)
from hf_robustft.data.prompts import check_class_names, class_key


def require_column(dataset: Dataset, column: str, option: str, where: str) -> None:
    """Raise ValueError, naming the existing columns and the option to set, unless `dataset` has `column`."""
    if column not in dataset.column_names:
        raise ValueError(
            f"{where} has no column {column!r}; its columns are {quoted(dataset.column_names, 20)}: "
            f"name the right one with {option} (--{option} on the command line)"
        )


def check_two_columns(image_column: str, label_column: str | None) -> None:
    """Raise ValueError if one column is named for images and for labels."""
    if image_column == label_column:
        raise ValueError(
            f"image_column and label_column are both {image_column!r}; name the column of images with image_column "
            "(--image_column on the command line), that of labels with label_column"
        )


def _not_a_dataset(dataset, where: str) -> str:
    return f"{where} is a {type(dataset).__name__}, not a datasets.Dataset; choose a split and do not stream"


def arrow_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """A column as it is stored."""
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


def own_class_names(dataset: Dataset, column: str, where: str, streamed: bool = False) -> tuple[str, ...]:
    """What the data set itself calls its classes: the ClassLabel's names, or the sorted strings of a string column.

    Args:
        dataset: the data; of a stream, its columns without rows.
        column: name of the label column.
        where: words for the data set, used in messages.
        streamed: whether only the columns are known.

    Raises:
        ValueError: no such column, one of bare integers, which names no classes, or one of text that is streamed.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(_not_a_dataset(dataset, where))
    require_column(dataset, column, "label_column", where)
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        return check_class_names(feature.names)
    if is_text(feature) and not streamed:
        found = pc.unique(arrow_column(dataset, column)).to_pylist()
        return check_class_names(sorted(name for name in found if name is not None))
    why = "a stream is not read to learn its classes" if is_text(feature) else "which names no classes"
    raise ValueError(
        f"column {column!r} of {where} holds {feature}, {why if not streamed else 'and ' + why}; give class_names "
        "(--class_names on the command line): a text file with one name a line"
    )


def say_unused(labels: Iterable[int | None], class_names: Sequence[str], where: str) -> None:
    """Log which classes have no image among checked labels; a file of class names may name more than the data have."""
    unused = sorted(set(range(len(class_names))) - set(labels))
    if unused:
        names = quoted([class_names[label] for label in unused])
        say_once(f"{where}: no image of {len(unused)} of its {len(class_names)} classes: {names}")


def with_integer_labels(
    dataset: Dataset,
    column: str,
    class_names: Sequence[str],
    own_names: Sequence[str] | None,
    where: str,
    rule: LabelRule | None = None,
) -> Dataset:
    """`dataset` with integer labels in `column` that index `class_names`.

    Args:
        dataset: the data; its label column may hold a ClassLabel, numbers, or strings.
        column: name of the label column.
        class_names: checked class names, in label order.
        own_names: what the data set calls the same classes, in the same order, where that differs.
        where: words for the data set, used in messages.
        rule: what its labels mean (default: as `data.labels.label_rule` says).

    Returns:
        `dataset` itself if the labels are such integers; other labels are replaced by a ClassLabel column.

    Raises:
        ValueError: no such column, another type, ClassLabel names that disagree, or a label outside the classes.
    """
    require_column(dataset, column, "label_column", where)
    feature = dataset.features[column]
    rule = rule or label_rule(feature, class_names, own_names, column, where)
    labels = classes_of(arrow_column(dataset, column), rule, column, where)
    called = feature.names if isinstance(feature, ClassLabel) else class_names
    if rule.keeps_numbers and holds_integers(feature) and [*map(class_key, called)] == [*map(class_key, class_names)]:
        return dataset
    replaced = dataset.remove_columns(column).add_column(column, labels, feature=ClassLabel(names=list(class_names)))
    return replaced.select_columns(dataset.column_names)


def check_captions(dataset: Dataset, column: str, where: str) -> None:
    """Raise ValueError unless `column` holds text, or non-empty lists of text, without a blank or missing caption."""
    require_column(dataset, column, "caption_column", where)
    feature, fault = dataset.features[column], LabelFault("the caption", "has no text: write one or leave the row out")
    several = isinstance(feature, (List, LargeList))
    if not is_text(feature.feature if several else feature):
        raise ValueError(
            f"column {column!r} of {where} holds {feature}, not captions (text or lists of text); "
            "name the caption column with caption_column (--caption_column on the command line)"
        )
    # Chunk by chunk: all captions of a large data set in one array could pass arrow's limit of 2 GiB.
    missing = [_without_text(chunk, several) for chunk in arrow_column(dataset, column).chunks]
    bad = np.concatenate([np.empty(0, dtype=bool), *missing])
    refuse_rows(bad, lambda row: fault, column, where)


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
    rule: LabelRule | None = None,
) -> Dataset:
    """Check a data set against its description, before anything is computed on it.

    Args:
        dataset: rows with an image, and a label or a caption or both.
        where: words for the data set, used in messages.
        class_names: the classes in label order; if empty, the label column is not read.
        own_names: what the data set calls the same classes, where that differs.
        image_column, label_column, caption_column: names of the columns; None for a column that does not matter.
        rule: what the labels mean, where that is known better than by the names.

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
    if class_names or caption_column is None:
        check_two_columns(image_column, label_column)
    dataset = with_image_column(dataset, image_column, where)
    if class_names and label_column is not None:
        dataset = with_integer_labels(dataset, label_column, check_class_names(class_names), own_names, where, rule)
    if caption_column is not None:
        check_captions(dataset, caption_column, where)
    return dataset
