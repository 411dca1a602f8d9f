# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Few-shot training sets: the same number of images of each class, drawn by seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .benchmarks import Benchmark
from .columns import StoredRows
from .labels import refuse_several
from .messages import quoted
from .randomness import example_rng


def few_shot_rows(labels: np.ndarray, n_classes: int, shots: int, seed: int = 0) -> np.ndarray:
    """The rows of `shots` images of each class, drawn without replacement.

    Each row has a random number that depends on (seed, class, row) alone, and the `shots` smallest of a class are
    taken. So the rows of fewer shots are among those of more shots of the same seed, and the draw for one class does
    not depend on the others.

    Args:
        labels (`np.ndarray`): Class of each row, integers of shape (n,).
        n_classes (`int`): Number of classes; each of them must have enough rows.
        shots (`int`): Images of each class, at least 1.
        seed (`int`, *optional*, defaults to 0): Seed of the draw.

    Returns:
        `n_classes * shots` row numbers in ascending order.

    Raises:
        ValueError: `shots` is not a whole number above 0, or a class has fewer rows.
    """
    _check_shots(shots)
    labels = np.asarray(labels)
    # Stable, so that the rows of a class ascend.
    by_class = labels.argsort(kind="stable")
    bounds = np.searchsorted(labels, np.arange(n_classes + 1), sorter=by_class)
    chosen = []
    for label in range(n_classes):
        rows = by_class[bounds[label] : bounds[label + 1]].tolist()
        if len(rows) < shots:
            raise ValueError(f"class {label} has {len(rows)} images, fewer than {shots} shots.")
        drawn = sorted(rows, key=lambda row, label=label: (example_rng(seed, label, row, "few-shot").random(), row))
        chosen += drawn[:shots]
    return np.sort(np.array(chosen, dtype=np.int64))


def few_shot(benchmark: Benchmark, shots: int, seed: int = 0) -> Benchmark:
    """A training set of exactly `shots` images of each class of `benchmark`, balanced and without duplicates.

    Args:
        benchmark ([`Benchmark`]): Data with class names and labels; usually the training set.
        shots (`int`): Images of each class, at least 1.
        seed (`int`, *optional*, defaults to 0): Seed of the draw. Sets of the same seed are nested: 1 shot lies in 4,
            4 in 16.

    Returns:
        A `Benchmark` with the same name, role, classes, templates and columns, whose rows are held in memory as a
        selection (no image is copied) in the order of the data set, and whose note says how they were drawn.

    Raises:
        ValueError: no class labels, lists of labels, `shots` below 1, classes with fewer images, which are named, data that may only be
            evaluated on, or a stream.
        OSError: the data cannot be read.
    """
    _check_shots(shots)
    names, rows, labels = class_labels(benchmark, "so no shots are drawn from it", "a draw of few shots (--shots) needs")
    counts = np.bincount(labels, minlength=len(names))
    short = [f"{name}: {count}" for name, count in zip(names, counts.tolist(), strict=True) if count < shots]
    if short:
        raise ValueError(
            f"data set {benchmark.name!r} has fewer than {shots} images of {len(short)} of its {len(names)} classes, "
            f"{quoted(short)}; ask for at most {counts.min()} shots or leave these classes out."
        )
    drawn = f"{shots} {'image' if shots == 1 else 'images'} of each class, drawn with seed {seed}"
    return in_memory(benchmark, rows, few_shot_rows(labels, len(names), shots, seed), drawn)


def class_labels(
    benchmark: Benchmark, consequence: str, needs_one: str | None = None
) -> tuple[tuple[str, ...], StoredRows, Any]:
    """
    What rows are drawn by.

    Args:
        benchmark ([`Benchmark`]): Data with class names and labels.
        consequence (`str`): For the message on data that may not be trained on.
        needs_one (`str`, *optional*): What needs one label per image, with its verb, for the message on lists of labels. By
            default lists are taken.

    Returns:
        `tuple`: The classes, the rows, and the class of each row; or its classes, where rows have lists of them.

    Raises:
        ValueError: No class labels, lists of labels where one is needed, data that may only be evaluated on, or a stream.
        OSError: The data cannot be read.
    """
    if benchmark.evaluation_only:
        raise ValueError(
            f"data set {benchmark.name!r} may never be trained or tuned on, its licence says, {consequence}; choose another "
            "data set."
        )
    if not benchmark.class_names or benchmark.label_column is None:
        raise ValueError(
            f"data set {benchmark.name!r} has no class labels to draw the same number of images by; give class_names "
            "and label_column, or train on all of it."
        )
    rows = benchmark.stored_rows()
    if needs_one is not None:
        refuse_several(rows.several, f"data set {benchmark.name!r}", needs_one)
    if rows.several:
        return benchmark.class_names, rows, rows.dataset[benchmark.label_column][:]
    labels = np.asarray(rows.dataset.with_format("numpy", columns=[benchmark.label_column])[:][benchmark.label_column])
    return benchmark.class_names, rows, labels


def in_memory(benchmark: Benchmark, rows: StoredRows, chosen: np.ndarray, drawn: str) -> Benchmark:
    """The `chosen` of the `rows` of a benchmark, as a selection in memory; `drawn` says in its note how they were."""
    selected = rows.dataset.select(chosen)
    return replace(
        benchmark,
        path=None,
        data_files=None,
        dataset=selected,
        source=benchmark.source or _hub_page(benchmark.place["path"]),
        note=f"{benchmark.note.rstrip('. ')}. {drawn}" if benchmark.note else drawn,
        # The rows carry the classes of the benchmark already, whatever the data called them before.
        opened=replace(rows, dataset=selected, place={}),
    )


def _check_shots(shots: int) -> None:
    if isinstance(shots, bool) or not isinstance(shots, (int, np.integer)) or shots < 1:
        raise ValueError(f"shots is {shots!r}; give the number of images of each class, a whole number of at least 1.")


def _hub_page(path: str | None) -> str | None:
    """Where data of a Hub id come from: held in memory, they no longer say it themselves."""
    on_hub = path is not None and "/" in path and not Path(path).expanduser().exists()
    return f"https://huggingface.co/datasets/{path}" if on_hub else None
