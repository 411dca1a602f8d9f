# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How far chance moves the measures of images with lists of labels: all of them in each bootstrap sample."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from .binning import bin_indices
from .multi_label import check_probabilities, check_targets
from .resampling import draw_counts, group_codes


def list_draws(
    scores: Tensor,
    probabilities: Tensor,
    labels: Tensor,
    thresholds: Tensor,
    nll: Tensor,
    *,
    groups: np.ndarray | Sequence | None = None,
    every_group: Sequence | None = None,
    n_bins: int = 15,
    draws: int = 1000,
    seed: int | Sequence[int] = 0,
) -> dict[str, np.ndarray]:
    """
    Compute mAP, F1, ECE and NLL in each bootstrap sample of the images, or of whole groups of them.

    A class that no image of a sample has is left out of the means of that sample, as of those of the data. Thresholds stay as they
    were fitted. Samples are those of [`~evaluation.resampling.bootstrap_draws`] with the same seed, so that two models are paired.

    Args:
        scores (`torch.Tensor` of shape `(n, classes)`): What ranks the images of each class.
        probabilities (`torch.Tensor` of shape `(n, classes)`): Of each class by itself, in [0, 1].
        labels (`torch.Tensor` of shape `(n, classes)`): 0 and 1.
        thresholds (`torch.Tensor` of shape `(classes,)`): An image is given the labels whose probability is above theirs.
        nll (`torch.Tensor` of shape `(n,)`): Of each image.
        groups (array or list of `n`, *optional*), every_group (`Sequence`, *optional*), n_bins (`int`, *optional*, defaults to 15), draws
            (`int`, *optional*, defaults to 1000), seed (`int` or `Sequence[int]`, *optional*, defaults to 0): As for
            [`~evaluation.resampling.bootstrap_draws`].

    Returns:
        `dict[str, np.ndarray]`: float64 of shape `(draws,)` for `map`, `f1`, `ece` and `nll`; NaN where a sample has no image of the
        set, or no label.

    Raises:
        ValueError: As `calibration_error_per_class`, or if there is one group alone.
    """
    scores, targets = check_targets(scores, labels)
    probabilities, _ = check_probabilities(probabilities, labels)
    has, n = targets.numpy(), len(targets)
    given = (probabilities > thresholds).numpy()
    orders, bins = [_order(*column) for column in zip(scores.t().numpy(), has.T, strict=True)], bin_indices(probabilities, n_bins).numpy()
    gaps = (probabilities - targets.double()).numpy()
    codes, units = (np.arange(n), n) if groups is None else group_codes(groups, every_group)
    tables = [_binned(bins[:, c], gaps[:, c], n_bins) for c in range(has.shape[1])]
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("map", "f1", "ece", "nll")}
    for times in draw_counts(units, draws, seed):
        times = times[:, codes]
        size = times.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found["nll"].append(times @ nll.double().numpy() / size)
            wanted = times @ has.astype(np.float64)
            f1 = 2 * (times @ (given & has).astype(np.float64)) / (times @ given.astype(np.float64) + wanted)
            found["f1"].append(_mean(np.where(wanted > 0, f1, np.nan)))
            found["map"].append(_mean(np.column_stack([_average_precision(times, *order) for order in orders])))
            found["ece"].append(np.mean([np.abs(times @ table).sum(axis=1) for table in tables], axis=0) / size)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _order(scores: np.ndarray, has: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images from the highest score on, which of them have the label, and the last image of each score that one of these has."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    right = has[order].cumsum()[ends]
    return order, has[order], ends[np.diff(right, prepend=0) > 0]


def _average_precision(times: np.ndarray, order: np.ndarray, has: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Of each sample the sum over scores of the precision there, times the share of the images with the label that have it."""
    if not len(ends):
        return np.full(len(times), np.nan)
    drawn = times[:, order]
    seen, right = drawn.cumsum(axis=1)[:, ends], (drawn * has).cumsum(axis=1)[:, ends]
    # Before the first drawn image nothing is right, which counts nothing.
    precision = np.divide(right, seen, out=np.zeros_like(right), where=seen > 0)
    return (precision * np.diff(right, axis=1, prepend=0)).sum(axis=1) / right[:, -1]


def _binned(bins: np.ndarray, gaps: np.ndarray, n_bins: int) -> np.ndarray:
    table = np.zeros((len(bins), n_bins + 1))
    table[np.arange(len(bins)), bins] = gaps
    return table


def _mean(values: np.ndarray) -> np.ndarray:
    """Of each row the mean of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(axis=1) / known.sum(axis=1)
