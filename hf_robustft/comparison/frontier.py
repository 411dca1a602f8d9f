# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Comparing methods without choosing a rate: what one has under shift at the accuracy in distribution of another.

Fine-tuning trades one for the other, and the learning rate says how much. A method is a line of points, one for each rate;
of two methods the one whose line lies higher is better whatever the rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from .rules import PLACES
from .runs import Candidate
from .selection import by_method


class Point(NamedTuple):
    """A candidate on the frontier: `id_accuracy`, and `value` under shift (an accuracy, an AUROC)."""

    candidate: Candidate
    id_accuracy: float
    value: float


def frontier(points: Iterable[Point]) -> dict[str, list[Point]]:
    """
    The line of each method.

    Args:
        points (`Iterable[Point]`): One of each candidate.

    Returns:
        `dict[str, list[Point]]`: By method (see [`selection.line_of`]), by ascending rate.
    """
    of = {point.candidate: point for point in points}
    return {method: [of[candidate] for candidate in items] for method, items in by_method(of).items()}


def at_equal_id(points: Sequence[Point], id_accuracy: float) -> float | None:
    """
    The value of a line at an accuracy in distribution, interpolated between its two nearest points.

    Args:
        points (`Sequence[Point]`): A line. Points of the same accuracy count as their mean.
        id_accuracy (`float`): Where.

    Returns:
        `float` or `None`: `None` outside of what the line spans, where there is nothing to compare with.
    """
    values: dict[float, list[float]] = {}
    for point in points:
        values.setdefault(round(point.id_accuracy, PLACES), []).append(point.value)
    places = sorted(values)
    at = round(id_accuracy, PLACES)
    if not places or not places[0] <= at <= places[-1]:
        return None
    return float(np.interp(at, places, [fmean(values[place]) for place in places]))
