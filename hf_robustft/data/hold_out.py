# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Images held out of a training set, so that data without validation and test images have some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pyarrow.compute as pc

from .benchmarks import Benchmark
from .column_checks import groups_of, is_missing
from .columns import arrow_column
from .few_shot import class_labels, in_memory
from .labels import holds_integers, is_text
from .messages import quoted
from .randomness import example_rng
from .shares import floor_share

#: The draw does not depend on the seed of a run: all runs on some data hold the same images out.
SEED = 0
#: More than so many images of a class tell nothing new, and are better trained on.
MOST = 50
_PURPOSES = {"validation": "one to validate on", "id": "one to test on"}
#: What reports call the sets by their role.
NAMES = {"validation": "validation", "id": "held-out"}


def check_share(share: float) -> None:
    """Refuse a `share` of which two do not leave the greater part to train on. Raises ValueError."""
    if not 0 < share <= 0.25:
        raise ValueError(
            f"`hold_out={share}` must be above 0 and at most 0.25: so much of each class may be held out twice, to validate and to test."
        )


def held_out_rows(
    labels: np.ndarray, n_classes: int, share: float, parts: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, ...]:
    """
    Draw rows of each class, without replacement.

    Args:
        labels (`np.ndarray`): Class of each row, integers of shape (n,).
        n_classes (`int`): Number of classes.
        share (`float`): Of the rows of each class that each part takes, rounded down, but at least one row and at most [`MOST`].
        parts (`int`): How many parts.
        groups (`np.ndarray`, *optional*): What rows have in common, of shape (n,). The rows of a group stay together, and count
            for the class of the first. A part takes groups until it has its share, those that fit into it first, and leaves one at
            least for each part behind it and for what stays.

    Returns:
        `tuple`: Row numbers in ascending order: those that stay, then those of each part. Which they are depends on the
        class and the number of each row (of the first of its group) alone.
    """
    together: dict[object, list[int]] = {}
    for row, group in enumerate(range(len(labels)) if groups is None else groups.tolist()):
        together.setdefault(group, []).append(row)
    of_class: dict[int, list[list[int]]] = {}
    for rows in together.values():
        of_class.setdefault(int(labels[rows[0]]), []).append(rows)
    drawn: list[list[int]] = [[] for _ in range(parts + 1)]
    for label in range(n_classes):
        units = of_class.get(label, [])
        units.sort(key=lambda rows, label=label: (example_rng(SEED, label, rows[0], "hold-out").random(), rows[0]))
        size = min(max(floor_share(share, sum(map(len, units))), 1), MOST) if units else 0
        for part in range(1, parts + 1):
            taken = 0
            while taken < size and len(units) > parts + 1 - part:
                fitting = next((rows for rows in units if len(rows) <= size - taken), None) or min(units, key=len)
                units.remove(fitting)
                drawn[part] += fitting
                taken += len(fitting)
        drawn[0] += [row for rows in units for row in rows]
    return tuple(np.sort(np.array(rows, dtype=np.int64)) for rows in drawn)


def groups_in_common(train: Benchmark, others: Sequence[Benchmark]) -> list[str]:
    """
    Say which sets have groups that the training set has too: what is measured on these says nothing about new ones.

    Args:
        train ([`Benchmark`]): The training set.
        others (`Sequence[Benchmark]`): Other sets. Looked at are those with a column of groups, of your own data that are not streamed;
            and the training set, if it has that column too.

    Returns:
        `list[str]`: A sentence for each such set.
    """
    notes = []
    for other in others:
        # What the sets of a suite have in common, its description says.
        if other.group_column is None or other.suite is not None or other.streaming or train.streaming:
            continue
        seen = _groups(train, other.group_column)
        found = _groups(other, other.group_column)
        if shared := found & seen:
            notes.append(
                f"{len(shared):,} of the {len(found):,} groups ({other.group_column}) of {other.name!r} are in the training set too, such as "
                f"{min(shared)!r}: what is measured on them is not of new groups, unless the sets name theirs independently"
            )
    return notes


def _groups(benchmark: Benchmark, column: str) -> set[str]:
    """The groups of a set by a `column`, as text; none where it has no such column."""
    dataset = benchmark.load()
    feature = dataset.features.get(column)
    if not (is_text(feature) or holds_integers(feature)):
        return set()
    return {str(group) for group in pc.unique(arrow_column(dataset, column)).to_pylist() if not is_missing(group)}


def rarest_classes(lists: Sequence[Sequence[int]], n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """
    The class that rows with lists of labels are drawn by: of each the one that the fewest rows have.

    Args:
        lists (`Sequence[Sequence[int]]`): Classes of each row, each once; none for a row without labels.
        n_classes (`int`): Number of classes.

    Returns:
        `tuple`: The rarest class of each row, the first of equal ones, and `n_classes` for rows without labels, of shape (n,);
        and the rows of each class, of shape (n_classes,).
    """
    counts = np.bincount(np.fromiter(chain(*lists), dtype=np.int64), minlength=n_classes)
    rarest = [min(labels, key=lambda label: (counts[label], label), default=n_classes) for labels in lists]
    return np.array(rarest, dtype=np.int64), counts


def hold_out(
    benchmark: Benchmark, share: float, roles: Sequence[str] = ("validation", "id"), group_column: str | None = None
) -> tuple[Benchmark, ...]:
    """
    Part a training set: the greater part stays, and the same share of the images of each class becomes a set of each role.

    Args:
        benchmark ([`Benchmark`]): Data with class names and labels that are not streamed.
        share (`float`): Of the images of each class, for each of the roles; at most a quarter. Images with lists of labels are
            drawn by the rarest of theirs, and those without labels by themselves.
        roles (`Sequence[str]`, *optional*, defaults to `("validation", "id")`): What the sets are for.
        group_column (`str`, *optional*): Column of what images have in common, by default the benchmark's. No group is in two
            of the sets.

    Returns:
        `tuple`: The training set without these images, and a set for each role. No image is copied, and the draw depends on
        nothing but the data.

    Raises:
        ValueError: For another share, data without class labels, without the column of groups or with gaps in it, a stream, data
            that may not be trained on, or a class with too few images or groups, which is named.
        OSError: If the data cannot be read.
    """
    check_share(share)
    names, rows, found_labels = class_labels(benchmark, "so nothing is held out of it")
    strata, how = len(names) + bool(rows.several), "by the rarest class of each image" if rows.several else "by class"
    if rows.several:
        labels, counts = rarest_classes(found_labels, len(names))
    else:
        labels, counts = found_labels, np.bincount(found_labels, minlength=len(names))
    groups, units, kind = None, counts, "images"
    column = group_column or benchmark.group_column
    if column is not None:
        groups = groups_of(rows.dataset, column, f"the training set {benchmark.name!r}")
        if rows.several:
            pairs = {(label, group) for labels_of, group in zip(found_labels, groups, strict=True) for label in labels_of}
            units = np.bincount([label for label, _ in pairs], minlength=len(names))
        else:
            units = np.bincount(labels[np.unique(groups, return_index=True)[1]], minlength=len(names))
        kind = f"groups ({column})"
    # A class may have no image at all, and then trains on none.
    short = [
        f"{name}: {unit}"
        for name, unit, count in zip(names, units.tolist(), counts.tolist(), strict=True)
        if count and unit <= len(roles)
    ]
    if short:
        raise ValueError(
            f"The training set {benchmark.name!r} has too few {kind} of {len(short)} of its {len(names)} classes to hold out "
            f"{' and '.join(_PURPOSES.get(role, f'one for {role}') for role in roles)}: {quoted(short)}; add images, leave these classes out, or give sets of your own with --eval_datasets."
        )
    stays, *parts = held_out_rows(labels, strata, share, len(roles), groups)
    percent = f"{100 * share:g} % of the images of each class{f' (at most {MOST})' if counts.max() * share > MOST else ''}"
    training = in_memory(benchmark, rows, stays, f"without {percent} for each of {' and '.join(roles)}, drawn {how}")
    sets = []
    for role, part in zip(roles, parts, strict=True):
        drawn = in_memory(benchmark, rows, part, f"{percent} of the training data, held out of training")
        opened = replace(drawn.open(), group_column=column)
        sets.append(replace(drawn, name=NAMES[role], role=role, group_column=column, opened=opened))
    return replace(training, group_column=column), *sets
