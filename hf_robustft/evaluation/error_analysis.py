# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Where a model errs: each class by itself, which class is taken for which, and the images with the worst mistakes.

Numbers of a class are of two kinds. Its accuracy is over the images *of* the class. Its calibration is over the images that are
*taken for* the class: a model that is sure of "cat" in 80 % of cases should be right in 80 % of them. Both have the interval of
Clopper and Pearson, which takes images for independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from .intervals import share_interval

#: Of each set: classes, pairs of classes and images of each kind that a report keeps at most.
MOST_CLASSES, MOST_PAIRS, MOST_MISTAKES = 1000, 20, 12
#: What a report counts of each class, in the order in which `evaluation.json` has it.
COUNTS = ("images", "right", "predicted", "confidence")
_NONE = "-"


def class_counts(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, n_classes: int
) -> dict[str, np.ndarray]:
    """
    Count by class.

    Args:
        labels, predicted (`np.ndarray` of shape `(n,)`): Indices of the right and the predicted class of each image.
        confidence (`np.ndarray` of shape `(n,)`): The probability of the predicted class.
        n_classes (`int`): Number of classes.

    Returns:
        `dict[str, np.ndarray]`: Each of shape `(n_classes,)`. `images`, of the class; `right`, those of them that are classified
        rightly; `predicted`, images of any class that are taken for it; `confidence`, the mean over these, NaN without any.
    """
    images, taken = (np.bincount(index, minlength=n_classes) for index in (labels, predicted))
    right = np.bincount(labels[labels == predicted], minlength=n_classes)
    sums = np.bincount(predicted, confidence, minlength=n_classes)
    mean = np.divide(sums, taken, out=np.full(n_classes, np.nan), where=taken > 0)
    return {"images": images, "right": right, "predicted": taken, "confidence": mean}


def confusion_pairs(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> list[tuple[int, int, int]]:
    """
    Count which class is taken for which.

    Args:
        labels, predicted (`np.ndarray` of shape `(n,)`), n_classes (`int`): As for [`class_counts`].

    Returns:
        `list[tuple[int, int, int]]`: Right class, predicted class and number of images of each pair that occurs, without the right
        predictions; the most frequent first, of pairs as frequent those of the first classes.
    """
    wrong = labels != predicted
    codes, counts = np.unique(labels[wrong].astype(np.int64) * n_classes + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [(int(code) // n_classes, int(code) % n_classes, int(count)) for code, count in zip(codes[order], counts[order], strict=True)]


def ranked(blame: np.ndarray, rows: np.ndarray, units: Sequence[Any] | np.ndarray, most: int) -> list[int]:
    """
    Choose the images with the most blame, of images that belong together the one with the most.

    Args:
        blame (`np.ndarray` of shape `(n,)`): How bad each image is; those with 0 or less are not chosen.
        rows (`np.ndarray` of shape `(n,)`): Their numbers in the data, by which ties are broken.
        units (sequence of length `n`): What each belongs to.
        most (`int`): Images, at most.

    Returns:
        `list[int]`: Their places, from the worst on.
    """
    chosen: list[int] = []
    seen = set()
    for place in np.lexsort((rows, -blame)):
        if len(chosen) == most or blame[place] <= 0:
            break
        if units[place] not in seen:
            seen.add(units[place])
            chosen.append(int(place))
    return chosen


def analyse_errors(
    rows: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    nll: np.ndarray,
    class_names: Sequence[str],
    group: np.ndarray | None = None,
    files: Callable[[Sequence[int]], Sequence[str | None]] | None = None,
) -> dict[str, Any]:
    """
    Gather what a report says of the errors on one set.

    Args:
        rows (`np.ndarray` of shape `(n,)`): The number of each image in the data.
        labels, predicted, confidence (`np.ndarray` of shape `(n,)`): As for [`class_counts`].
        nll (`np.ndarray` of shape `(n,)`): The cross-entropy of each image, in nats.
        class_names (`Sequence[str]`): The classes in label order.
        group (`np.ndarray` of shape `(n,)`, *optional*): What images belong to; of a group only the worst mistake is kept.
        files (`Callable`, *optional*): Returns what the files of some rows are called, `None` for those without a name.

    Returns:
        `dict`: `n_wrong`; `classes`, by name the numbers of [`class_counts`], of classes with images or predictions and at most
        `MOST_CLASSES`, of more those with the most mistakes (`classes_left_out` counts the others); `confusions`, at most
        `MOST_PAIRS` with `label`, `predicted` and `n`, and `n_confusions`, how many different pairs there are; `worst` and
        `most_confident`, at most `MOST_MISTAKES` wrong images by cross-entropy and by confidence, with `row`, `file`, `label`,
        `predicted`, `confidence` and `nll`.
    """
    counts = class_counts(labels, predicted, confidence, len(class_names))
    wrong_of = (counts["images"] - counts["right"]) + (counts["predicted"] - counts["right"])
    there = np.flatnonzero(counts["images"] + counts["predicted"])
    kept = np.sort(there[np.argsort(-wrong_of[there], kind="stable")][:MOST_CLASSES])
    pairs = confusion_pairs(labels, predicted, len(class_names))
    units = rows if group is None else group
    wrong = labels != predicted
    places = {name: ranked(np.where(wrong, blame, 0.0), rows, units, MOST_MISTAKES) for name, blame in (("worst", nll), ("most_confident", confidence))}
    asked = sorted({int(rows[place]) for of in places.values() for place in of})
    named = dict(zip(asked, files(asked), strict=True)) if files is not None and asked else {}

    def mistake(place: int) -> dict[str, Any]:
        row, right, taken = (int(values[place]) for values in (rows, labels, predicted))
        names = {"label": class_names[right], "predicted": class_names[taken]}
        return {"row": row, "file": named.get(row), **names, "confidence": float(confidence[place]), "nll": float(nll[place])}

    return {
        "n_wrong": int(wrong.sum()),
        "classes": {class_names[index]: _counts_of(counts, index) for index in kept.tolist()},
        "classes_left_out": len(there) - len(kept),
        "confusions": [{"label": class_names[one], "predicted": class_names[other], "n": n} for one, other, n in pairs[:MOST_PAIRS]],
        "n_confusions": len(pairs),
        **{name: [mistake(place) for place in of] for name, of in places.items()},
    }


def _counts_of(counts: Mapping[str, np.ndarray], index: int) -> dict[str, Any]:
    mean = float(counts["confidence"][index])
    numbers = {name: int(counts[name][index]) for name in COUNTS[:3]}
    # As the file has it.
    return {**numbers, "confidence": None if np.isnan(mean) else round(mean, 6)}


def class_rates(row: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what follows from the counts of a class.

    Args:
        row (`Mapping`): `images`, `right`, `predicted` and `confidence`, as in `classes` of [`analyse_errors`].

    Returns:
        `dict`: `accuracy`, the share of its images that is right, and its 95 % `interval`; `precision`, the share of the images
        taken for it that is right, and its `precision_interval`; `gap`, the mean confidence less the precision, positive where
        the model is too sure, and whether it is `beyond` noise: the mean confidence lies outside of the interval. Each is
        `None` without images.
    """
    images, right, taken, confidence = (row[name] for name in COUNTS)
    found: dict[str, Any] = dict.fromkeys(("accuracy", "interval", "precision", "precision_interval", "gap", "beyond"))
    if images:
        found |= {"accuracy": right / images, "interval": _interval(right, images)}
    if taken:
        low, high = _interval(right, taken)
        beyond = not low <= confidence <= high
        found |= {"precision": right / taken, "precision_interval": (low, high), "gap": confidence - right / taken, "beyond": beyond}
    return found


# Many classes have the same counts, and are asked for more than once.
_interval = lru_cache(maxsize=10_000)(share_interval)


def worst_classes(part: Mapping[str, Any], accuracy: float) -> list[str]:
    """
    Name the classes whose accuracy is below that of the whole set by more than chance explains, the worst first.

    Args:
        part (`Mapping`): Of [`analyse_errors`].
        accuracy (`float`): Of the whole set.

    Returns:
        `list[str]`: Those of which the upper end of the 95 % interval is below `accuracy`.
    """
    rates = {name: class_rates(row) for name, row in part["classes"].items()}
    below = [name for name, of in rates.items() if of["interval"] is not None and of["interval"][1] < accuracy]
    # Stable, so that classes stay in their order where they are as bad.
    return sorted(below, key=lambda name: rates[name]["accuracy"])


def by_accuracy(part: Mapping[str, Any]) -> list[str]:
    """Return the classes of a `part` of [`analyse_errors`] from the lowest accuracy on; of as accurate ones that with more images first, those without images last."""
    rows = part["classes"]

    def key(name: str) -> tuple[bool, float, int]:
        images = rows[name]["images"]
        return not images, rows[name]["right"] / images if images else 0.0, -images

    return sorted(rows, key=key)


def packed_errors(analysis: Mapping[str, Any]) -> dict[str, Any]:
    """Return an `analysis` by set with the counts of each class as a text, which takes one line of an indented file."""

    def text(row: Mapping[str, Any]) -> str:
        return " ".join(_NONE if row[name] is None else repr(row[name]) for name in COUNTS)

    return {name: {**part, "classes": {of: text(row) for of, row in part["classes"].items()}} for name, part in analysis.items()}


def unpacked_errors(analysis: Any) -> Any:
    """
    Undo [`packed_errors`].

    Args:
        analysis (`Any`): What was read from a file; `None` stays as it is.

    Raises:
        ValueError: If the counts of a class are not such a text.
    """
    if analysis is None:
        return None
    try:
        return {name: {**part, "classes": {of: _numbers(text) for of, text in part["classes"].items()}} for name, part in analysis.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError("error_analysis has no texts of counts by class; restore the file or evaluate the model again.") from None


def _numbers(text: str) -> dict[str, Any]:
    *counts, mean = text.split()
    values = [*map(int, counts), None if mean == _NONE else float(mean)]
    return dict(zip(COUNTS, values, strict=True))
