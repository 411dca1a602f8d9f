# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Classes that training leaves out, to be recognised by their names afterwards.

New images of the classes that were trained on show how well these were learnt, and prefer the settings that move a model
furthest. Images of classes that were not, judged by prompts, show what is left of what the model knew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from datasets import ClassLabel, Dataset, Image, Value, concatenate_datasets

from .benchmarks import Benchmark
from .column_checks import groups_of
from .columns import StoredRows, check_dataset
from .few_shot import class_labels, in_memory
from .labels import LabelRule, refuse_several
from .messages import quoted

#: The name of the set of their images in reports.
LEFT_OUT = "left_out_classes"
_NEAR = 0.05
_NEEDS_ONE = "leaving classes out (--leave_out_classes) needs"


def left_out_positions(n_classes: int, share: float = 0.2, fold: int = 0) -> list[int]:
    """
    The classes of a fold: every fifth for a share of 0.2, from the first on for fold 0, from the second on for fold 1.

    Neighbours in a list of classes are often alike, and go to different folds. Each class is in one fold.

    Args:
        n_classes (`int`): Number of classes.
        share (`float`, *optional*, defaults to 0.2): Share of the classes in a fold: one over a whole number, at most a half.
        fold (`int`, *optional*, defaults to 0): Which fold.

    Returns:
        `list[int]`: Positions of the classes.

    Raises:
        ValueError: For a share that does not make whole folds, a fold that there is not, or fewer than two classes to train
            on.
    """
    folds = round(1 / share) if 0 < share <= 0.5 else 0
    if not folds or abs(1 / share - folds) > _NEAR:
        raise ValueError(
            f"leave_out_classes is {share}; give the share of classes to leave out, one over a whole number: 0.5, 0.25, 0.2, 0.1."
        )
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < folds:
        raise ValueError(f"leave_out_fold is {fold!r}; a share of {share} has the folds 0 to {folds - 1}.")
    found = list(range(fold, n_classes, folds))
    if not found or n_classes - len(found) < 2:
        raise ValueError(
            f"Fold {fold} of {folds} leaves out {len(found)} of {n_classes} classes, and two at least must be trained on and one left "
            "out; choose another share or fold (--leave_out_classes, --leave_out_fold)."
        )
    return found


def leave_out_classes(
    train: Benchmark, validation: Benchmark | None = None, share: float = 0.2, fold: int = 0
) -> tuple[Benchmark, Benchmark]:
    """
    Leave a share of the classes out of a training set.

    Args:
        train ([`Benchmark`]): The training set, with classes.
        validation ([`Benchmark`], *optional*): More images of these classes that are not trained on.
        share (`float`, *optional*, defaults to 0.2), fold (`int`, *optional*, defaults to 0): As for
            [`left_out_positions`].

    Returns:
        `tuple[Benchmark, Benchmark]`: The training set without the images and the names of these classes; and, called
        `left_out_classes`, all images of them in both sets, to be told apart from all the classes, with their groups where both
        sets have some. No image is copied.

    Raises:
        ValueError: As [`left_out_positions`]; for data without classes, with lists of labels, or that are streamed; for validation images of other
            classes; or if the classes have no image.
        OSError: If data cannot be read.
    """
    names, rows, labels = class_labels(train, "so no classes are left out of it", _NEEDS_ONE)
    if validation is not None and validation.class_names != names:
        raise ValueError(
            f"data set {validation.name!r} has other classes than {train.name!r}, so which of its images are of classes that are left "
            "out is not known; leave it out, or give it the same class_names."
        )
    out = left_out_positions(len(names), share, fold)
    sources = [(train, rows, labels)]
    if validation is not None:
        of_validation = validation.stored_rows()
        refuse_several(of_validation.several, f"data set {validation.name!r}", _NEEDS_ONE)
        sources.append((validation, of_validation, np.asarray(of_validation.dataset[of_validation.label_column][:])))
    grouped = all(source.group_column is not None for source, *_ in sources)
    parts = [_chosen(source, *of, out, names, grouped) for source, *of in sources]
    shown = concatenate_datasets(parts)
    if not len(shown):
        raise ValueError(f"The classes that are left out, {quoted([names[i] for i in out])}, have no images; choose another fold.")
    folds = f"fold {fold} of {round(1 / share)}"
    # One group alone says nothing of how far chance moves a number.
    group = "group" if grouped and len(set(shown["group"])) > 1 else None
    measured = Benchmark(
        name=LEFT_OUT,
        role="id",
        class_names=names,
        templates=train.templates,
        dataset=shown,
        opened=StoredRows(shown, label_column="label", group_column=group),
        group_column=group,
        suite=train.suite,
        licence=train.licence,
        source=train.source,
        note=f"images of {len(out)} classes that were not trained on, among all {len(names)} ({folds})",
    )
    return _without(train, rows, labels, out, folds), measured


def _chosen(
    source: Benchmark, rows: StoredRows, labels: np.ndarray, positions: Sequence[int], names: Sequence[str], grouped: bool
) -> Dataset:
    """The rows of some classes with the columns `image`, `label` and, where `grouped`, `group`, whatever they are called and else there is."""
    chosen = np.flatnonzero(np.isin(labels, positions))
    images = rows.dataset.select_columns([rows.image_column]).select(chosen)
    if rows.image_column != "image":
        images = images.rename_column(rows.image_column, "image")
    images = images.cast_column("image", Image()).add_column("label", labels[chosen], feature=ClassLabel(names=list(names)))
    if not grouped:
        return images
    groups = groups_of(rows.dataset, source.group_column, f"the data set {source.name!r}")[chosen]
    return images.add_column("group", groups.astype(str).tolist(), feature=Value("string"))


def _without(train: Benchmark, rows: StoredRows, labels: np.ndarray, out: Sequence[int], folds: str) -> Benchmark:
    kept = [position for position in range(len(train.class_names)) if position not in out]
    note = f"{len(out)} of {len(train.class_names)} classes left out ({folds})"
    part = in_memory(train, rows, np.flatnonzero(~np.isin(labels, out)), note)
    names = tuple(train.class_names[position] for position in kept)
    opened = check_dataset(
        part.dataset,
        where=f"data set {train.name!r}",
        class_names=names,
        image_column=rows.image_column,
        label_column=rows.label_column,
        caption_column=rows.caption_column,
        rule=LabelRule({position: number for number, position in enumerate(kept)}, "is left out"),
    )
    called = None if train.label_names is None else tuple(train.label_names[position] for position in kept)
    return replace(part, class_names=names, label_names=called, projection=None, dataset=opened.dataset, opened=opened)
