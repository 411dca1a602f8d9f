# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One's own data for a model whose classes are known: labels are matched with its classes by name, never by number.

A folder for evaluation may hold a part of the classes, or have them in another order; what it calls them decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from datasets import ClassLabel, Dataset

from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.columns import holds_integers, quoted, require_column
from hf_robustft.data.prompts import class_key
from hf_robustft.data.reading import open_rows
from hf_robustft.data.stream_rows import checked_stream


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
        source, split: as for `load_benchmark`.
        class_names, templates: the model's classes, in the order of its labels, and its prompts.
        label_names: what data may call these classes too, in the same order (such as names of folders).
        label_column: column of labels (default "label"). Class folders, a ClassLabel and text name the classes; bare
            integers do not, and are taken for positions in `class_names`.
        given: further fields of `Benchmark`, such as `name`, `role`, `image_column`, `streaming`.

    Returns:
        The benchmark, with all of `class_names`, and notes: which classes have no images, or that labels were taken by
        number.

    Raises:
        ValueError: the data have images of a class that is none of `class_names`; or as `load_benchmark`.
        OSError: as `load_benchmark`.
    """
    probe = load_benchmark(source, split, label_column=None, templates=templates, **given)
    rows = open_rows(probe) if probe.streaming else probe.load()
    stored = rows if isinstance(rows, Dataset) else None
    features = (rows if stored is not None else rows.dataset).features
    where = f"benchmark {probe.name!r}"
    if label_column not in features:
        require_column(_without_rows(features), label_column, "label_column", where)
    described = replace(probe, label_column=label_column, class_names=tuple(class_names), label_names=None)
    own, labels = _own_labels(probe, features[label_column], stored, label_column)
    if own is None:
        if holds_integers(features[label_column]):
            numbered = (
                f"{probe.name}: its labels are numbers without names, taken for the model's classes in their order"
            )
        else:
            numbered = f"{probe.name}: its labels are matched with the model's classes by name, as they come"
            described = replace(described, label_names=None if label_names is None else tuple(label_names))
        described._open()
        return described, [numbered]
    position = {
        class_key(name): index for names in (label_names or (), class_names) for index, name in enumerate(names)
    }
    used = own if labels is None else [own[label] for label in np.unique(labels[labels >= 0]) if label < len(own)]
    extra = [name for name in used if class_key(name) not in position]
    if extra:
        raise ValueError(
            f"{where} has images of {len(extra)} classes that the model does not know, {quoted(extra)}; its "
            f"{len(class_names)} classes are {quoted(class_names)}: leave them out or rename them, or, if all of its "
            f"images are of unknown classes, give the set as {source}:open_set"
        )
    table = np.array([position.get(class_key(name), -1) for name in own], dtype=np.int64)
    found = {position[class_key(name)] for name in used}
    if stored is not None:
        if labels.size and (labels.min() < 0 or labels.max() >= len(own)):
            row = int(np.argmax((labels < 0) | (labels >= len(own))))
            raise ValueError(f"{where}: the label {labels[row]} of row {row} is outside its {len(own)} classes")
        feature = ClassLabel(names=list(described.class_names))
        stored = stored.remove_columns(label_column).add_column(label_column, table[labels], feature=feature)
        if probe.streaming:
            object.__setattr__(described, "_rows", checked_stream(stored, described))
        else:
            described._check(stored)
    else:
        stream = checked_stream(rows, replace(described, class_names=own))
        meaning = replace(stream.meaning, positions=tuple(table.tolist()))
        object.__setattr__(described, "_rows", replace(stream, meaning=meaning))
    missing = [name for index, name in enumerate(class_names) if index not in found]
    if not missing:
        return described, []
    note = f"{len(found)} of the {len(class_names)} classes"
    object.__setattr__(described, "note", note)
    return described, [f"{probe.name}: images of {note}, none of {quoted(missing)}"]


def shared_classes(benchmark: Benchmark, class_names: Sequence[str], label_column: str = "label") -> list[str]:
    """Classes that data loaded without labels name in a ClassLabel column, have images of, and share with `class_names`.

    Args:
        benchmark: own data that are stored, not streamed; an open set.
        class_names: the model's classes.
        label_column: the column, which need not be there.
    """
    dataset = benchmark.load()
    feature = dataset.features.get(label_column)
    if not isinstance(feature, ClassLabel):
        return []
    known = {class_key(name) for name in class_names}
    used = np.unique(np.asarray(dataset.with_format("numpy", columns=[label_column])[:][label_column]))
    return [name for label, name in enumerate(feature.names) if label in used and class_key(name) in known]


def _own_labels(
    probe: Benchmark, feature, stored: Dataset | None, column: str
) -> tuple[tuple[str, ...] | None, np.ndarray | None]:
    """What the data call their classes, and the label of each row; None for what is not known before rows are read."""
    named = tuple(feature.names) if isinstance(feature, ClassLabel) else probe.class_names or None
    if stored is None:
        return named, None
    if not holds_integers(feature):
        values = stored.with_format(None).select_columns([column])[:][column]
        if getattr(feature, "dtype", None) not in ("string", "large_string") or None in values:
            # `check_dataset` says what is wrong with such a column.
            return None, None
        names = tuple(sorted(set(values)))
        index = {name: label for label, name in enumerate(names)}
        return names, np.array([index[value] for value in values], dtype=np.int64)
    if named is None:
        return None, None
    labels = stored.with_format("arrow").select_columns([column])[:].column(column).combine_chunks()
    return (None, None) if labels.null_count else (named, labels.to_numpy(zero_copy_only=False).astype(np.int64))


def _without_rows(features) -> Dataset:
    return Dataset.from_dict({name: [] for name in features}, features=features)
