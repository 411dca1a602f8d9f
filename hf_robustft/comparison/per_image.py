# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a mean hides: classes that gained or were forgotten, mistakes made with confidence, and what abstaining would save."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from ..data.prompts import class_key
from ..evaluation.error_analysis import ranked
from ..evaluation.predictions import Predictions, SetPredictions
from .statistics import DRAWS, LEVEL, Difference, grouped, mean_and_sd, of_the_same_images, paired_difference

#: Points of a risk-coverage curve, at equal steps of coverage.
POINTS = 100
#: Two drawings of a class that are both lost would be beyond noise, since no sample of them differs from another.
FEWEST = 3
#: Mistakes that are shown.
WORST = 12


@dataclass(frozen=True)
class Change:
    """
    The accuracy on a class, or on a set, before and after.

    Attributes:
        name (`str`): The class or set.
        n, units (`int`): Its images, and the groups that they fall into: as many where each image is its own.
        before, after (`float`): The accuracy of zero-shot, and the mean over the seeds of the candidate.
        difference ([`Difference`]): `after` less `before`, paired by image, with whole groups drawn together.
    """

    name: str
    n: int
    units: int
    before: float
    after: float
    difference: Difference


def per_class(
    runs: Sequence[Predictions],
    baseline: Predictions,
    sets: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Change]:
    """
    Compare a candidate with another model class by class, over the images of several sets together.

    Args:
        runs (`Sequence[Predictions]`): The candidate, by seed.
        baseline ([`Predictions`]): The other model, such as zero-shot.
        sets (`Sequence[str]`): Names of sets with labels. A class may be spelled otherwise in another set ("Owl" and "owl"), and has the first
            spelling here. A group is drawn together in all of them. Of a class that has fewer than
            three so, such as one that is one concept, what each set has of a group is drawn by itself: then nothing is known but
            how its drawings differ from artist to artist.
        draws (`int`, *optional*, defaults to 1000), seed (`int`, *optional*, defaults to 0): Of the bootstrap.

    Returns:
        `list[Change]`: The classes that there are images of, from the largest gain to the largest loss.

    Raises:
        ValueError: If two runs are not for the same images.
    """
    parts = [grouped(run.sets[name] for run in (baseline, *runs)) for name in sets]
    labels = in_one_spelling(np.concatenate([part.label for part in parts]))
    within, across = (np.concatenate([_units(part, alone) for part in parts]) for alone in (True, False))
    one, other = (np.concatenate([_correct(side, part) for part in parts], axis=1) for side in (runs, [baseline]))
    changes = []
    # Stable, so that the images of a class stay in their order.
    by_class = labels.argsort(kind="stable")
    names, starts = np.unique(labels[by_class], return_index=True)
    for name, of in zip(names, np.split(by_class, starts[1:]), strict=True):
        groups = across[of] if len(np.unique(across[of])) >= FEWEST else within[of]
        found = _difference(one[:, of], other[:, of], groups, draws, seed)
        changes.append(_change(str(name), one[:, of], other[:, of], groups, found))
    return sorted(changes, key=lambda change: (-change.difference.mean, change.name))


def forgotten(
    runs: Sequence[Predictions],
    baseline: Predictions,
    sets: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """
    Find what a candidate has unlearned: sets and classes whose accuracy fell beyond noise.

    Args:
        runs (`Sequence[Predictions]`), baseline ([`Predictions`]), sets (`Sequence[str]`), draws (`int`, *optional*, defaults
            to 1000), seed (`int`, *optional*, defaults to 0): As for [`per_class`].

    Returns:
        `dict`: `sets` and `classes`, lists of [`Change`] from the largest loss on; `judged`, how many classes have images of
        enough groups, three, for anything to be told; and `by_chance`, how many of these would be listed if none had changed.

    Raises:
        ValueError: If two runs are not for the same images.
    """
    fallen = []
    for name in sets:
        part = grouped(run.sets[name] for run in (baseline, *runs))
        after, before = _correct(runs, part), _correct([baseline], part)
        units = _units(part)
        fallen.append(_change(name, after, before, units, _difference(after, before, units, draws, seed)))
    classes = per_class(runs, baseline, sets, draws=draws, seed=seed)
    judged = [change for change in classes if change.units >= FEWEST]
    return {
        "sets": _lost(fallen),
        "classes": _lost(judged),
        "judged": len(judged),
        "by_chance": len(judged) * (1 - LEVEL) / 2,
    }


def risk_coverage(runs: Sequence[SetPredictions], points: int = POINTS) -> dict[str, Any]:
    """
    Compute what share of the predictions is wrong when only the most confident ones are kept.

    Predictions of the same confidence are kept together: each of them counts with the share of them that is wrong, so that the
    order of the images does not matter.

    Args:
        runs (`Sequence[SetPredictions]`): One set, by seed.
        points (`int`, *optional*, defaults to 100): Points of the curve, at most.

    Returns:
        `dict`: `coverage`, ascending shares up to 1; `risk`, the mean over seeds of the share of wrong predictions among that
        many; and `aurc`, `{"mean", "sd"}` over seeds of the area under the curve, the mean of the risk over all numbers of
        images (Geifman and El-Yaniv 2017).

    Raises:
        ValueError: For an open set.
    """
    curves = np.array([_risks(run) for run in runs])
    n = curves.shape[1]
    kept = np.unique(np.ceil(np.arange(1, min(points, n) + 1) * n / min(points, n)).astype(int))
    mean, sd = mean_and_sd(curves.mean(axis=1))
    return {
        "coverage": (kept / n).tolist(),
        "risk": curves.mean(axis=0)[kept - 1].tolist(),
        "aurc": {"mean": mean, "sd": sd},
    }


def worst_mistakes(runs: Sequence[SetPredictions], n: int = WORST) -> list[dict[str, Any]]:
    """
    Find the images that are misclassified with the highest confidence.

    Of several seeds the mean counts, in which one that is right counts as 0; of a group of images the worst is shown.

    Args:
        runs (`Sequence[SetPredictions]`): One set, by seed, for the same images.
        n (`int`, *optional*, defaults to 12): Mistakes, at most.

    Returns:
        `list[dict]`: From the worst on, `set`, `row` (its number in the data), `label`, `predicted` (the wrong class with the
        most confidence over all seeds), `confidence` and `group`.

    Raises:
        ValueError: For an open set.
    """
    first = runs[0]
    wrong = np.array([np.where(run.correct, 0.0, run.confidence) for run in runs])
    blame = wrong.mean(axis=0)
    shown: list[dict[str, Any]] = []
    for place in ranked(blame, first.row, _units(first), n):
        of_class: dict[str, float] = {}
        for run, confidence in zip(runs, wrong[:, place], strict=True):
            predicted = str(run.predicted[place])
            of_class[predicted] = of_class.get(predicted, 0.0) + confidence
        shown.append(
            {
                "set": first.name,
                "row": int(first.row[place]),
                "label": str(first.label[place]),
                "predicted": max(sorted(of_class), key=of_class.__getitem__),
                "confidence": float(blame[place]),
                "group": None if first.group is None else str(first.group[place]),
            }
        )
    return shown


def in_one_spelling(labels: np.ndarray) -> np.ndarray:
    """Return the names of classes, `labels` of shape `(n,)`, each as it is spelled where it comes first: sets may differ in case and blanks."""
    names, first, places = np.unique(labels, return_index=True, return_inverse=True)
    spelled: dict[str, str] = {}
    for place in np.argsort(first):
        spelled.setdefault(class_key(str(names[place])), str(names[place]))
    return np.array([spelled[class_key(str(name))] for name in names])[places]


def _correct(runs: Sequence[Predictions], reference: SetPredictions) -> np.ndarray:
    """Whether each image of a set is classified rightly, as (seeds, n) numbers."""
    return np.array([item.correct for item in of_the_same_images(runs, reference)], dtype=np.float64)


def _difference(after: np.ndarray, before: np.ndarray, groups: np.ndarray, draws: int, seed: int) -> Difference:
    """
    The paired difference of two accuracies, with an interval that also holds for a handful of groups.

    A bootstrap of few groups that all moved alike says that chance moves nothing. So the interval is at least as wide as that of
    Agresti and Min (2005, Statistics in Medicine 24) for matched pairs, and has its middle: as if of two groups more one had not
    moved, and half of the other had been gained and half been lost. No accuracy can change by more than 1.
    """
    found = paired_difference(after, before, groups, draws=draws, seed=seed)
    _, codes = np.unique(groups, return_inverse=True)
    sizes = np.bincount(codes)
    if (n := len(sizes)) < 2:
        return found
    moved = np.bincount(codes, after.mean(axis=0) - before.mean(axis=0)) / sizes
    spread = ((moved**2).sum() + 1) / (n + 2) - (moved.sum() / (n + 2)) ** 2
    se = math.sqrt(spread / (n + 2))
    reach = max(0.0 if found.high is None else found.high - found.mean, float(ndtri((1 + LEVEL) / 2)) * se)
    center = found.mean * n / (n + 2)
    low, high = max(center - reach, -1.0), min(center + reach, 1.0)
    return Difference(found.mean, max(found.se or 0.0, se), low, high, low > 0 or high < 0)


def _change(name: str, after: np.ndarray, before: np.ndarray, groups: np.ndarray, found: Difference) -> Change:
    return Change(name, after.shape[1], len(np.unique(groups)), float(before.mean()), float(after.mean()), found)


def _units(item: SetPredictions, alone: bool = True) -> np.ndarray:
    """What is drawn as one: the group of each image, with that in other sets or `alone`; without groups the image."""
    name = item.name if alone or item.group is None else ""
    return np.array([f"{name}/{unit}" for unit in (item.row if item.group is None else item.group)])


def _lost(changes: Sequence[Change]) -> list[Change]:
    lost = [change for change in changes if change.difference.beyond_noise and change.difference.mean < 0]
    return sorted(lost, key=lambda change: (change.difference.mean, change.name))


def _risks(run: SetPredictions) -> np.ndarray:
    """The share of wrong predictions among the k most confident ones, for k = 1, ..., n."""
    wrong, order = ~run.correct, np.argsort(-run.confidence, kind="stable")
    _, ties, counts = np.unique(-run.confidence[order], return_inverse=True, return_counts=True)
    shares = np.bincount(ties, wrong[order]) / counts
    return np.cumsum(shares[ties]) / np.arange(1, len(order) + 1)
