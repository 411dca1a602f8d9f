# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One's own data for a model whose classes are known: labels are matched with its classes by name, never by number.

A folder for evaluation may hold a part of the classes, or have them in another order; what it calls them decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset

from .benchmarks import Benchmark, load_benchmark
from .column_checks import check_two_columns, require_column
from .columns import arrow_column
from .folders import class_doubt
from .labels import (
    LabelFault,
    LabelRule,
    as_numbers,
    class_positions,
    holds_several,
    matching_rule,
    names_classes,
    one_label,
)
from .messages import quoted
from .own_data import checked_rows, open_rows
from .prompts import class_key


def load_matched(
    source: str,
    split: str | None = None,
    *,
    class_names: Sequence[str],
    templates: Sequence[str],
    label_names: Sequence[str] | None = None,
    label_column: str = "label",
    **given,
) -> tuple[Benchmark, list[str]]:
    """Own data whose labels are positions in a given list of classes, whatever their own order.

    Args:
        source (`str`), split (`str`, *optional*): As for `load_benchmark`.
        class_names, templates (`Sequence[str]`): The model's classes, in the order of its labels, and its prompts.
        label_names (`Sequence[str]`, *optional*): What data may call these classes too, in the same order (such as
            names of folders).
        label_column (`str`, *optional*, defaults to `"label"`): Column of labels. Class folders, a ClassLabel and text
            name the classes, and so does a file of names beside tars. Bare numbers do not: they are looked up in
            `label_names` where these are numbers too, and are positions in `class_names` otherwise.
        given (`Any`, *optional*): Further fields of `Benchmark`, such as `name`, `role`, `image_column`, `streaming`.

    Returns:
        The benchmark, with all of `class_names`, and notes: which classes have no images, or that labels were taken by
        number.

    Raises:
        ValueError: the data have images of a class that is none of `class_names`; or as `load_benchmark`.
        OSError: as `load_benchmark`.
    """
    check_two_columns(given.get("image_column", "image"), label_column)
    probe: Benchmark = load_benchmark(source, split, label_column=None, templates=templates, **given)
    rows = open_rows(probe) if probe.streaming else probe.load()
    stored = rows if isinstance(rows, Dataset) else None
    where = f"data set {probe.name!r}"
    require_column(rows.features, label_column, "label_column", where)
    feature = rows.features[label_column]
    own = (probe.class_names or None, probe.label_names)
    rule, called = matching_rule(one_label(feature), class_names, label_names, *own, label_column, where)
    # Of a stream only the names are known that its columns list.
    labels = list(called or ()) if stored is None else _stored_labels(stored, label_column)
    found, unknown = _sorted_out(labels, rule, called)
    if unknown:
        numbers = all(name.strip().removeprefix("-").isdecimal() for name in unknown)
        renamed = ", give class_names with lines `label<TAB>name` if they are these" if numbers else ""
        doubt = class_doubt(Path(probe.path), probe.split) if probe.path and Path(probe.path).is_dir() else ""
        raise ValueError(
            f"{where} has images of {len(unknown)} class{'es' if len(unknown) > 1 else ''} that the model does not know, {quoted(unknown)}; its "
            f"{len(class_names)} classes are {quoted(class_names)}: leave them out or rename them{renamed}, or, if all of its "
            f"images are of unknown classes, give the set as {source}:open_set{doubt and '; or: '}{doubt}."
        )
    notes = []
    if called is None and rule.count is not None:
        notes.append(
            f"{probe.name}: its labels are numbers without names, taken for the model's classes in their order; if they are "
            "others, give class_names with lines `label<TAB>name`"
        )
    elif called and not own[0] and not names_classes(one_label(feature)) and called.keys() != {*range(len(class_names))} >= {*labels}:
        notes.append(
            f"{probe.name}: its labels are numbers, taken for the names of the model's classes; if they are positions, counted from 0, give "
            "class_names with lines `label<TAB>name`"
        )
    elif not labels:
        notes.append(f"{probe.name}: its labels are matched with the model's classes by name, as they come")
    missing = [name for index, name in enumerate(class_names) if index not in found]
    note = probe.note
    if missing and labels:
        note = f"{len(found)} of the {len(class_names)} classes"
        notes.append(f"{probe.name}: images of {note}, none of {quoted(missing)}")
    described = replace(probe, label_column=label_column, class_names=tuple(class_names), label_names=None, note=note)
    return replace(described, opened=checked_rows(described, rows, rule)), notes


def _stored_labels(dataset: Dataset, column: str) -> list:
    values = arrow_column(dataset, column)
    return pc.unique(pc.list_flatten(values) if holds_several(dataset.features[column]) else values).to_pylist()


def _sorted_out(labels: Iterable, rule: LabelRule, called: Mapping[int, str] | None) -> tuple[set[int], list[str]]:
    """The classes that labels mean, and the names of those that mean none; what has no name is left to the check of rows."""
    found: set[int] = set()
    unknown: list[str] = []
    for label in labels:
        try:
            found.add(rule(label))
        except LabelFault:
            name = label if called is None else called.get(label)
            unknown += [name] if isinstance(name, str) else []
    return found, unknown


def shared_classes(
    benchmark: Benchmark, class_names: Sequence[str], label_column: str = "label", label_names: Sequence[str] | None = None
) -> list[str]:
    """Classes that data loaded without labels name themselves, have images of, and share with `class_names`.

    Args:
        benchmark ([`Benchmark`]): Own data that are stored, not streamed; an open set.
        class_names (`Sequence[str]`): The model's classes.
        label_column (`str`, *optional*, defaults to `"label"`): The column, which need not be there.
        label_names (`Sequence[str]`, *optional*): What data may call these classes too, in the same order. Numbers are not
            looked at: other data count their classes by the same ones.

    Returns:
        `list[str]`: Each with the name that the data have for it.
    """
    dataset = benchmark.load()
    feature = one_label(dataset.features.get(label_column))
    if feature is None or not names_classes(feature):
        return []
    known = class_positions(class_names, label_names if as_numbers(label_names) is None else None)
    used = _stored_labels(dataset, label_column)
    if isinstance(feature, ClassLabel):
        used = [name for label, name in enumerate(feature.names) if label in used]
    return [name for name in used if name is not None and class_key(name) in known]
