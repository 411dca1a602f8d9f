# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Images held out of a training set, so that data without validation and test images have some."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .benchmarks import Benchmark
from .few_shot import class_labels, in_memory
from .messages import quoted
from .randomness import example_rng
from .shares import floor_share

#: The draw does not depend on the seed of a run: all runs on some data hold the same images out.
SEED = 0
#: More than so many images of a class tell nothing new, and are better trained on.
MOST = 50
#: What reports call the sets by their role.
NAMES = {"validation": "validation", "id": "held-out"}


def check_share(share: float) -> None:
    """Refuse a `share` of which two do not leave the greater part to train on. Raises ValueError."""
    if not 0 < share <= 0.25:
        raise ValueError(
            f"`hold_out={share}` must be above 0 and at most 0.25: so much of each class may be held out twice, to validate and to test."
        )


def held_out_rows(labels: np.ndarray, n_classes: int, share: float, parts: int) -> tuple[np.ndarray, ...]:
    """
    Draw rows of each class, without replacement.

    Args:
        labels (`np.ndarray`): Class of each row, integers of shape (n,).
        n_classes (`int`): Number of classes.
        share (`float`): Of the rows of each class that each part takes, rounded down, but at least one row and at most [`MOST`].
        parts (`int`): How many parts.

    Returns:
        `tuple`: Row numbers in ascending order: those that stay, then those of each part. Which they are depends on the
        class and the number of each row alone.
    """
    drawn: list[list[int]] = [[] for _ in range(parts + 1)]
    for label in range(n_classes):
        rows = np.flatnonzero(labels == label).tolist()
        rows.sort(key=lambda row, label=label: (example_rng(SEED, label, row, "hold-out").random(), row))
        size = min(max(floor_share(share, len(rows)), 1), MOST) if rows else 0
        for part in range(parts):
            drawn[part + 1] += rows[part * size : (part + 1) * size]
        drawn[0] += rows[parts * size :]
    return tuple(np.sort(np.array(rows, dtype=np.int64)) for rows in drawn)


def hold_out(benchmark: Benchmark, share: float, roles: Sequence[str] = ("validation", "id")) -> tuple[Benchmark, ...]:
    """
    Part a training set: the greater part stays, and the same share of the images of each class becomes a set of each role.

    Args:
        benchmark ([`Benchmark`]): Data with class names and labels that are not streamed.
        share (`float`): Of the images of each class, for each of the roles; at most a quarter.
        roles (`Sequence[str]`, *optional*, defaults to `("validation", "id")`): What the sets are for.

    Returns:
        `tuple`: The training set without these images, and a set for each role. No image is copied, and the draw depends on
        nothing but the data.

    Raises:
        ValueError: For another share, data without class labels, a stream, data that may not be trained on, or a class with too
            few images, which is named.
        OSError: If the data cannot be read.
    """
    check_share(share)
    names, rows, labels = class_labels(benchmark, "so nothing is held out of it")
    counts = np.bincount(labels, minlength=len(names))
    # A class may have no image at all, and then trains on none.
    short = [f"{name}: {count}" for name, count in zip(names, counts.tolist(), strict=True) if 0 < count <= len(roles)]
    if short:
        raise ValueError(
            f"benchmark {benchmark.name!r} has too few images of {len(short)} of its {len(names)} classes to hold out one for each of "
            f"{' and '.join(roles)}: {quoted(short)}; add images, leave these classes out, or give sets of your own."
        )
    stays, *parts = held_out_rows(labels, len(names), share, len(roles))
    percent = f"{100 * share:g} % of the images of each class{f' (at most {MOST})' if counts.max() * share > MOST else ''}"
    training = in_memory(benchmark, rows, stays, f"without {percent} for each of {' and '.join(roles)}, drawn by class")
    found = []
    for role, part in zip(roles, parts, strict=True):
        drawn = in_memory(benchmark, rows, part, f"{percent} of the training data, held out of training")
        found.append(replace(drawn, name=NAMES[role], role=role, opened=drawn.open()))
    return training, *found
