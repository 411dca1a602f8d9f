# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Split conformal prediction as functions of tensors: scores of classes, their quantile, and how often sets hold the label.

A set holds the classes whose score is at most a quantile of the scores that the labels of other images have. If these and
the new image are exchangeable, the set holds its label with at least the stated probability, for any model and any score
that is a function of image and class (Vovk et al. 2005). Here a score never depends on the other images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from .binning import check_shapes
from .intervals import share_interval

#: Of RAPS, as in the code of its authors' introduction: the penalty of each class after the first five.
LAM, K_REG = 0.01, 5
#: How many times the draw of `image_draws` goes round while the log-probabilities move by one unit.
_ROUNDS = 4.0


def lac_scores(probabilities: Tensor) -> Tensor:
    """
    Score classes by one minus their probability: the smallest sets on average (Sadinle et al. 2019, arXiv:1609.00451).

    Args:
        probabilities (`torch.Tensor` of shape `(n, classes)`): Rows that add up to 1.

    Returns:
        `torch.Tensor` of shape `(n, classes)`: The lower, the better a class conforms.
    """
    return 1 - probabilities


def aps_scores(probabilities: Tensor, draws: Tensor | None = None) -> Tensor:
    """
    Score classes by the probability of all that are more probable, and their own (Romano et al. 2020, arXiv:2006.02544).

    Of classes that are equally probable the first one counts as more so.

    Args:
        probabilities (`torch.Tensor` of shape `(n, classes)`): Rows that add up to 1.
        draws (`torch.Tensor` of shape `(n,)`, *optional*): Numbers from 0 to 1, the share of the own probability that counts.
            By default all of it does, without randomisation.

    Returns:
        `torch.Tensor` of shape `(n, classes)`: The lower, the better a class conforms.
    """
    return raps_scores(probabilities, draws, lam=0.0)


def raps_scores(probabilities: Tensor, draws: Tensor | None = None, *, lam: float = LAM, k_reg: int = K_REG) -> Tensor:
    """
    Score classes as [`aps_scores`], with a penalty of `lam` for each class after the `k_reg` most probable ones.

    That is rho(y) + u pi(y) + lam (o(y) - k_reg)^+ of Angelopoulos et al. (2021, arXiv:2009.14193), where o(y) is the rank of a
    class, counted from 1. It keeps tails of improbable classes out of the sets.

    Args:
        probabilities (`torch.Tensor` of shape `(n, classes)`), draws (`torch.Tensor` of shape `(n,)`, *optional*): As for [`aps_scores`].
        lam (`float`, *optional*, defaults to 0.01), k_reg (`int`, *optional*, defaults to 5): The penalty.

    Returns:
        `torch.Tensor` of shape `(n, classes)`: The lower, the better a class conforms.
    """
    ordered, order = probabilities.sort(dim=1, descending=True, stable=True)
    own = ordered if draws is None else ordered * draws[:, None]
    ranks = torch.arange(1, ordered.shape[1] + 1, dtype=ordered.dtype, device=ordered.device)
    scores = ordered.cumsum(dim=1) - ordered + own + lam * (ranks - k_reg).clamp(min=0)
    return torch.empty_like(scores).scatter_(1, order, scores)


def image_draws(log_probabilities: Tensor, seed: int = 0) -> Tensor:
    """
    Draw a number from 0 to 1 for each image, from the image itself.

    It is the fractional part of a random projection of the log-probabilities. So an image has the same number in any batch
    and order, another rounding moves it by little, and the guarantee is untouched: a score with it is still a function of
    image and class. Over images whose log-probabilities differ by more than a fraction of a unit it is close to uniform.

    Args:
        log_probabilities (`torch.Tensor` of shape `(n, classes)`): Float64.
        seed (`int`, *optional*, defaults to 0): Of the projection.

    Returns:
        `torch.Tensor` of shape `(n,)`: In [0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(log_probabilities.shape[1], generator=generator, dtype=torch.float64)
    turns = _ROUNDS * (log_probabilities * (weights / weights.norm())).sum(dim=1)
    # The fractional part of a tiny negative number is rounded to 1.
    return (turns - turns.floor()).clamp(max=math.nextafter(1.0, 0.0))


def check_coverage(coverage: float, what: str = "coverage") -> float:
    """Return `coverage`, which messages call `what`. Raises ValueError unless it is a number between 0 and 1."""
    if isinstance(coverage, bool) or not isinstance(coverage, (int, float)) or not 0 < coverage < 1:
        raise ValueError(f"{what} {coverage!r} is the share of images whose set holds their label, between 0 and 1; use 0.9.")
    return float(coverage)


def conformal_rank(n: int, coverage: float) -> int:
    """
    Which of `n` sorted scores, counted from 1, is the quantile: the (n + 1) coverage-th, rounded up.

    Args:
        n (`int`): Scores.
        coverage (`float`): As it is written: 0.9 is nine tenths, not the float64 next to it.

    Returns:
        `int`: From 1 to n + 1; n + 1 if there are too few scores.
    """
    return math.ceil((n + 1) * Fraction(repr(check_coverage(coverage))))


def conformal_quantile(scores: Tensor, coverage: float) -> float:
    """
    The quantile of split conformal prediction, by its finite-sample formula.

    Args:
        scores (`torch.Tensor` of shape `(n,)`): Of the labels of images that the model was not trained on.
        coverage (`float`): The share of new images whose label is to have no higher score, between 0 and 1.

    Returns:
        `float`: One of the scores; infinity, which holds all classes, if there are fewer than [`least_images`].
    """
    rank = conformal_rank(len(scores), coverage)
    return math.inf if rank > len(scores) else scores.sort().values[rank - 1].item()


def least_images(coverage: float) -> int:
    """Return of how many images a [`conformal_quantile`] at a `coverage` is finite: 9 for 0.9, 19 for 0.95."""
    share = Fraction(repr(check_coverage(coverage)))
    return math.ceil(share / (1 - share))


def coverage_report(sets: Tensor, labels: Tensor, *, confidence: float = 0.95) -> dict[str, Any]:
    """
    Measure sets of classes against labels.

    Args:
        sets (`torch.Tensor` of shape `(n, classes)`): Bool, which classes each image's set holds.
        labels (`torch.Tensor` of shape `(n,)`): Integer class indices.
        confidence (`float`, *optional*, defaults to 0.95): Of the interval of the coverage (Clopper and Pearson).

    Returns:
        `dict[str, Any]`: As [`coverage_of`].

    Raises:
        ValueError: If the shapes disagree, there is no image, or a label is not a class.
    """
    _, labels = check_shapes(torch.as_tensor(sets).float(), labels, "sets")
    sets = torch.as_tensor(sets).detach().cpu().bool()
    held = sets.gather(1, labels[:, None])[:, 0]
    return coverage_of(sets.sum(dim=1), held, labels, sets.shape[1], confidence=confidence)


def coverage_of(
    sizes: Tensor, held: Tensor, labels: Tensor, n_classes: int, *, confidence: float = 0.95
) -> dict[str, Any]:
    """
    Measure sets by their sizes and whether they hold the label.

    Args:
        sizes (`torch.Tensor` of shape `(n,)`): Classes in each set.
        held (`torch.Tensor` of shape `(n,)`): Bool, whether the label is among them.
        labels (`torch.Tensor` of shape `(n,)`): Integer class indices.
        n_classes (`int`): All classes.
        confidence (`float`, *optional*, defaults to 0.95): Of the interval.

    Returns:
        `dict[str, Any]`: `n`, `coverage` and its `interval`, `mean_size`, the shares `empty` and `single` of sets with no class and
        with one, and by class, in order, `class_images` and `class_held`, the images of it and those whose set holds it.
    """
    n, sizes, held = len(labels), sizes.long(), held.bool()
    return {
        "n": n,
        "coverage": held.double().mean().item(),
        "interval": list(share_interval(int(held.sum()), n, confidence)),
        "mean_size": sizes.double().mean().item(),
        "empty": (sizes == 0).double().mean().item(),
        "single": (sizes == 1).double().mean().item(),
        "class_images": torch.bincount(labels, minlength=n_classes).tolist(),
        "class_held": torch.bincount(labels[held], minlength=n_classes).tolist(),
    }


def class_coverage(measured: dict[str, Any], class_names: Sequence[str]) -> dict[str, tuple[float, int]]:
    """Return of what [`coverage_report`] `measured`, by those of `class_names` that have images, coverage and their number."""
    counts = zip(class_names, measured["class_held"], measured["class_images"], strict=True)
    return {name: (held / n, n) for name, held, n in counts if n}
