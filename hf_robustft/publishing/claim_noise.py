# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
How far a number that is measured again may be from the one that was claimed: three rules, by what is the same.

- `"rounding"`: the same images, by the same versions, on the same kind of device, in the same precision. Only the order of sums
  differs: with the processor, the batches, the threads. A cosine is off by at most `COSINE_ROUNDING` then, the room that
  detectors and prediction sets leave too, and a logit by that times its scale, here d. So no log-probability moves by more
  than 2 d, no Brier score either, and no confidence by more than d / 2 (log-odds move by 2 d at most, and a probability by a
  quarter of that). Of decisions (a label, on which side of a threshold, in which bin) those within d of a tie may change: one image, or
  one in a thousand of a large set, which is what an export may change too (`MIN_AGREEMENT`).
- `"versions"`: the same images by other versions, another kind of device or precision. No bound follows from theory. A number may
  move by half of the standard error that the choice of images gives it: whoever takes the number with its standard error
  loses nothing, since both together are sqrt(1 + 1/4) = 1.12 standard errors. That is a convention. A standard error or a noise floor, and
  an ECE that has none, may move by a tenth; what else has none is not judged where it moves by more than rounding.
- `"images"`: other images, or another number of them. Welch's (1947) test of two independent samples on the standard errors of
  both, with Holm's (1979) correction over all numbers that are judged so: that any of them is refused by chance has a
  probability of at most `LEVEL`. Where both samples share images they differ by less than independent ones, so the test
  refuses less often still, and sees less. With fewer than 30 images (or groups of them) nothing is judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import t as student
from torch import Tensor

from ..deployment.extras import MIN_AGREEMENT
from ..evaluation.detector import COSINE_ROUNDING
from ..evaluation.findings import FEWEST

#: How often one claim or more may be refused by chance, where all hold and the images are others.
LEVEL = 0.01
#: Of a standard error: what other versions may move.
OF_AN_ERROR = 0.5
#: Resamplings behind the standard errors of numbers for which the report has none; one less are the degrees of freedom.
DRAWS = 50
#: One unit in the last place of each precision, relative to 1.
_PRECISIONS = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def logit_rounding(scale: float, dtype: str = "float32") -> float:
    """
    How far a logit may be off where sums are rounded in another order.

    Args:
        scale (`float`): What multiplies cosines: the model's logit scale, or the largest norm of the rows of a trained head.
        dtype (`str`, *optional*, defaults to `"float32"`): Precision of the model.

    Returns:
        `float`: d.
    """
    return scale * max(COSINE_ROUNDING, _PRECISIONS.get(dtype, 0.0))


def share_of_ties(n: int) -> float:
    """Return the share of `n` images that may be decided otherwise: one of them, or one in a thousand."""
    return max(1, int((1 - MIN_AGREEMENT) * n + 1e-9)) / n


def rounding_tolerance(kind: str, n: int, others: int, d: float, n_classes: int, value: float) -> float:
    """
    How far a number may move under the rule `"rounding"`.

    Args:
        kind (`str`): `"count"`, `"share"`, `"nll"`, `"brier"`, `"ece"`, `"classwise"`, `"pairs"` (of known and unseen images: AUROC),
            `"threshold"` (a share above a threshold that other images set), `"same sizes"` (the same of what also depends on how many images
            the two sets have, such as AUPR), `"size"` (classes in a set), `"error"` (a standard
            error or a noise floor) or `"spectrum"`.
        n (`int`): Images.
        others (`int`): With `"pairs"`, `"threshold"` and `"same sizes"`: images of the other set.
        d (`float`): [`logit_rounding`].
        n_classes (`int`): Classes of the set.
        value (`float`): The number that was claimed; with `"spectrum"` the largest singular value.

    Returns:
        `float`: The largest difference.
    """
    ties = share_of_ties(n)
    found: Mapping[str, float] = {
        "count": 0.0,
        "share": ties,
        "nll": 2 * d,
        "brier": 2 * d,
        # An image in the next bin changes two bins by at most 1 / n each.
        "ece": 2 * ties + d / 2,
        "classwise": (4 * ties + 2 * d) / n_classes,
        "size": 2 * ties,
        # Of the same draws; a statistic of the spread, not of the mean.
        "error": 0.02 * abs(value) + ties,
        # By Weyl's inequality, with unit-norm embeddings that are off by the rounding of a cosine.
        "spectrum": 2 * COSINE_ROUNDING * math.sqrt(max(value, 0.0)),
        # An image more or less at a threshold moves it by one place in the order.
        "pairs": ties + share_of_ties(others),
        "threshold": 2 * (ties + share_of_ties(others)),
        "same sizes": 2 * (ties + share_of_ties(others)),
    }
    # What is printed and read again, or summed in float64.
    return found[kind] + 1e-9


def p_value(difference: float, error: float, units: int, unresolved: float = 0.0) -> float:
    """
    Welch's two-sided test, of two samples that have nothing in common.

    Args:
        difference (`float`): Of the two numbers.
        error (`float`): Its standard error.
        units (`int`): Images, or groups of them, of the smaller sample; one less are the degrees of freedom.
        unresolved (`float`, *optional*, defaults to 0.0): What the difference may be without meaning anything, such as half a step of
            a share, or of ECEs how far their noise floors are apart.

    Returns:
        `float`: How often chance alone makes a difference as large.
    """
    excess = max(abs(difference) - unresolved, 0.0)
    if not error:
        return 1.0 if not excess else 0.0
    return float(2 * student.sf(excess / error, max(units - 1, 1)))


def share_error(one: float, two: float, n_one: int, n_two: int) -> float:
    """
    The standard error of the difference of two shares, where both are samples of one.

    It is not 0 where both shares are 0 or 1, which bootstrap standard errors are.

    Args:
        one (`float`), two (`float`): The shares.
        n_one (`int`), n_two (`int`): Of how many images, or groups of them.
    """
    # Laplace's rule: one success and one failure more.
    pooled = (one * n_one + two * n_two + 1) / (n_one + n_two + 2)
    return math.sqrt(pooled * (1 - pooled) * (1 / n_one + 1 / n_two))


def refused_by_holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Return which of `p_values` Holm's procedure refuses, so that any true one is among them with a probability of at most `level`."""
    refused = [False] * len(p_values)
    for left, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] > level / (len(p_values) - left):
            break
        refused[index] = True
    return refused


def too_few(units: int) -> bool:
    """Return whether so many `units`, images or groups of them, say nothing of a difference."""
    return units < FEWEST


def resampled_errors(
    statistics: Callable[[Mapping[str, np.ndarray]], Mapping[tuple, float]],
    sizes: Mapping[str, int],
    groups: Mapping[str, np.ndarray | None],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[tuple, float]:
    """
    Standard errors of numbers of several sets of images, by drawing the images of each with replacement, in whole groups.

    Args:
        statistics (`Callable`): Given for each set the rows that were drawn, returns the numbers.
        sizes (`Mapping[str, int]`): Images of each set.
        groups (`Mapping[str, np.ndarray]`): For each set the group of each image; `None` where each is drawn by itself.
        draws (`int`, *optional*, defaults to 50), seed (`int`, *optional*, defaults to 0): Of the draws.

    Returns:
        `dict`: The standard deviations over the draws.
    """
    rng = np.random.default_rng(seed)
    members = {name: _members(size, groups.get(name)) for name, size in sizes.items()}
    found: dict[tuple, list[float]] = {}
    for _ in range(draws):
        rows = {}
        for name, of in members.items():
            drawn = rng.integers(0, len(of), len(of))
            rows[name] = drawn if isinstance(of, range) else np.concatenate([of[k] for k in drawn])
        for key, value in statistics(rows).items():
            found.setdefault(key, []).append(value)
    return {key: float(np.std(values, ddof=1)) for key, values in found.items() if len(values) == draws}


def _members(size: int, groups: np.ndarray | None) -> range | list[np.ndarray]:
    if groups is None:
        return range(size)
    _, codes = np.unique(groups, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def largest_row(weight: Tensor) -> float:
    """Return the largest norm of the rows of a head's `weight`, the scale of its logits."""
    return float(weight.detach().float().norm(dim=1).max())
