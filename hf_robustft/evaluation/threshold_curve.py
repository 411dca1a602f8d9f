# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a threshold on a score costs: unknown images that are accepted, and known ones that are refused, at each of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .detector import OpenSetDetector
from .intervals import share_interval
from .open_set import DEFAULT_SCORE
from .predictions import SetPredictions
from .report_schema import CURVE_LISTS
from .risk_control import measured_share

#: Points of a curve, and the confidence of the intervals.
POINTS, CONFIDENCE = 41, 0.95
_DIGITS = 6


def curve_thresholds(known: np.ndarray, unknown: np.ndarray, points: int = POINTS) -> list[float]:
    """
    Choose thresholds on which a curve has its points: by ranks of the scores, closer to each other at both ends.

    Args:
        known, unknown (`np.ndarray` of shape `(n,)`): The scores.
        points (`int`, *optional*, defaults to 41): Thresholds, at most; at least 2.

    Returns:
        `list[float]`: Ascending and different, from the lowest score, at which all are accepted, to just above the highest, at which
        none is.
    """
    scores = np.sort(np.concatenate([known, unknown]))
    # Few images lie at the ends, and a straight line between two of them would say what no image does.
    shares = (1 - np.cos(np.linspace(0, np.pi, max(points - 1, 1)))) / 2
    places = np.unique((shares * (len(scores) - 1)).round().astype(int))
    chosen = np.unique(scores[places]).tolist()
    return [*chosen, math.nextafter(scores[-1], math.inf)]


def share_below(scores: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Return how many of `scores` are below each of `thresholds`, int64."""
    return np.searchsorted(np.sort(scores), thresholds, side="left")


def threshold_curve(
    known: np.ndarray,
    unknown: np.ndarray,
    shifts: Mapping[str, np.ndarray] | None = None,
    *,
    score: str,
    points: int = POINTS,
    confidence: float = CONFIDENCE,
) -> dict[str, Any]:
    """
    Compute how many unknown images are accepted (score at or above the threshold) and known ones refused.

    Args:
        known (`np.ndarray` of shape `(n,)`): Scores of images of known classes.
        unknown (`np.ndarray` of shape `(m,)`): Of images of none of the classes.
        shifts (`Mapping[str, np.ndarray]`, *optional*): By name the scores of shifted images of known classes.
        score (`str`): Name of the score.
        points (`int`, *optional*, defaults to 41), confidence (`float`, *optional*, defaults to 0.95): Thresholds, at most, and the
            confidence of the intervals.

    Returns:
        `dict`: `score`, `confidence`; lists by threshold: `threshold`, `refusal` (share of the known images that is refused) and
        `acceptance` (share of the unknown images that is accepted), each with the ends of its interval (`_low`, `_high`);
        `shifts`, by name the list of the shares that are refused; and `chosen`, `None`, for [`chosen_point`].
    """
    thresholds = curve_thresholds(known, unknown, points)
    refused = share_below(known, thresholds).tolist()
    accepted = (len(unknown) - share_below(unknown, thresholds)).tolist()
    found: dict[str, Any] = {"score": score, "confidence": confidence, "threshold": thresholds}
    for name, counts, n in (("refusal", refused, len(known)), ("acceptance", accepted, len(unknown))):
        ends = [share_interval(count, n, confidence) for count in counts]
        columns = ([count / n for count in counts], [low for low, _ in ends], [high for _, high in ends])
        for ending, values in zip(("", "_low", "_high"), columns, strict=True):
            found[name + ending] = [round(value, _DIGITS) for value in values]
    found["shifts"] = {
        name: [round(count / len(scores), _DIGITS) for count in share_below(scores, thresholds).tolist()] for name, scores in (shifts or {}).items()
    }
    return {**found, "chosen": None}


def chosen_point(
    known: np.ndarray, unknown: np.ndarray, threshold: float, *, own_thresholds: int = 0, confidence: float = CONFIDENCE
) -> dict[str, Any]:
    """
    Measure the threshold of a detector on test images.

    Args:
        known, unknown (`np.ndarray` of shape `(n,)`): Whether each known and each unknown image is accepted, bool.
        threshold (`float`): The common threshold.
        own_thresholds (`int`, *optional*, defaults to 0): Predicted classes that have thresholds of their own, by which the images were
            judged: then the point need not lie on the curve.
        confidence (`float`, *optional*, defaults to 0.95): Of the intervals.

    Returns:
        `dict`: `threshold`, `own_thresholds`, and `refusal` and `acceptance` with `share`, `low`, `high` and `n`.
    """
    return {
        "threshold": threshold,
        "own_thresholds": own_thresholds,
        "refusal": measured_share(int((~known).sum()), len(known), confidence),
        "acceptance": measured_share(int(unknown.sum()), len(unknown), confidence),
    }


def curve_of(
    predictions: Mapping[str, SetPredictions], unknown: str, known: str, shifts: Sequence[str], detector: OpenSetDetector | None = None
) -> dict[str, Any] | None:
    """
    Compute the curve of one open set from what is known of each image.

    Args:
        predictions (`Mapping[str, SetPredictions]`): By set, with scores.
        unknown (`str`), known (`str`), shifts (`Sequence[str]`): Names of the open set, of the in-distribution set and of shifts.
        detector ([`OpenSetDetector`], *optional*): Whose score counts, and whose threshold is measured; by default the energy.

    Returns:
        `dict` or `None`: Of [`threshold_curve`]; `None` if the images have no such score.
    """
    score = DEFAULT_SCORE if detector is None else detector.score
    if score not in predictions[known].scores:
        return None
    sides = [predictions[known], predictions[unknown]]
    curve = threshold_curve(*(item.scores[score] for item in sides), {name: predictions[name].scores[score] for name in shifts}, score=score)
    if detector is not None:
        accepted = []
        for item in sides:
            names, places = np.unique(item.predicted, return_inverse=True)
            accepted.append(item.scores[score] >= np.array([detector.threshold_of(str(name)) for name in names])[places])
        curve["chosen"] = chosen_point(*accepted, detector.threshold, own_thresholds=len(detector.thresholds or {}))
    return curve


def packed_curve(curve: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `curve` with its lists as texts, each of which takes one line of an indented file."""
    lists = {name: " ".join(map(repr, curve[name])) for name in CURVE_LISTS}
    return {**curve, **lists, "shifts": {name: " ".join(map(repr, values)) for name, values in curve["shifts"].items()}}


def unpacked_curve(curve: Any) -> Any:
    """
    Undo [`packed_curve`].

    Args:
        curve (`Any`): What was read from a file; `None` stays as it is.

    Raises:
        ValueError: If a list is not a text of numbers.
    """
    if curve is None:
        return None
    try:
        lists = {name: [float(item) for item in curve[name].split()] for name in CURVE_LISTS}
        shifts = {name: [float(item) for item in text.split()] for name, text in curve["shifts"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("A threshold_curve has lists that are not texts of numbers; restore the file or evaluate the model again.") from None
    return {**curve, **lists, "shifts": shifts}
