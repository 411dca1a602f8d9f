# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How far chance alone moves a metric: the noise floor of the ECE, and bootstrap standard errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from .binning import bin_indices, check_confidence

# Both functions hold (draws x images) numbers at once; they work through the draws in pieces of 16 MB.
CHUNK_ELEMENTS = 2_000_000


def ece_noise_floor(confidence: Tensor, n_bins: int = 15, draws: int = 200, seed: int = 0) -> float:
    """
    Estimate the ECE that a perfectly calibrated model with these confidences would still show on this number of images.

    In each draw every image is right with a probability of its confidence; the errors of the draws are averaged. An ECE
    near its floor is not evidence of miscalibration.

    Args:
        confidence (`torch.Tensor` of shape `(n,)`): Probability of the predicted class, in [0, 1].
        n_bins (`int`, *optional*, defaults to 15): Equal-width bins.
        draws (`int`, *optional*, defaults to 200): Simulated sets of labels.
        seed (`int`, *optional*, defaults to 0): Seed of numpy's generator.

    Returns:
        `float`: The mean ECE of the draws.

    Raises:
        ValueError: As `reliability_bins`, or if `draws` is below 1.
    """
    _check_draws(draws, least=1)
    confidence, _ = check_confidence(confidence, torch.zeros(torch.as_tensor(confidence).shape))
    bins, order = bin_indices(confidence, n_bins).sort(stable=True)
    by_bin = confidence[order].numpy()
    starts = np.flatnonzero(np.diff(bins.numpy(), prepend=-1))
    expected = np.add.reduceat(by_bin, starts)
    rng = np.random.default_rng(seed)
    total = 0.0
    for size in _pieces(draws, len(by_bin)):
        right = rng.random((size, len(by_bin))) < by_bin
        total += np.abs(np.add.reduceat(right, starts, axis=1, dtype=np.int64) - expected).sum()
    return float(total / draws / len(by_bin))


def bootstrap_standard_error(
    confidence: Tensor, correct: Tensor, *values: Tensor | None, **options
) -> dict[str, float]:
    """
    Compute standard errors from resampling the images, or groups of them, with replacement (Efron 1979), all metrics on the
    same draws.

    They cover the choice of the test images only: neither the choice of the classes nor the seed of a training run.

    Args:
        confidence (`torch.Tensor` of shape `(n,)`): Probability of the predicted class, in [0, 1].
        correct (`torch.Tensor` of shape `(n,)`): Bool or 0/1, whether the prediction is right.
        values (`torch.Tensor`, *optional*), options (*optional*): `nll` and `brier`, and the settings, of
            [`~evaluation.resampling.bootstrap_draws`].

    Returns:
        `dict[str, float]`: The standard deviation over the draws of `accuracy`, `ece` and, where given, `nll`, `brier`.

    Raises:
        ValueError: As `bootstrap_draws`.
    """
    samples = bootstrap_draws(confidence, correct, *values, **options)
    return {name: float(draws.std(ddof=1)) for name, draws in samples.items()}


def bootstrap_draws(
    confidence: Tensor,
    correct: Tensor,
    nll: Tensor | None = None,
    brier: Tensor | None = None,
    *,
    groups: np.ndarray | Sequence | None = None,
    every_group: Sequence | None = None,
    n_bins: int = 15,
    draws: int = 1000,
    seed: int | Sequence[int] = 0,
) -> dict[str, np.ndarray]:
    """
    Compute the metrics in each bootstrap sample.

    With the same seed and the same number of images (or the same groups) two models get the same samples, so the differences
    of their draws are those of a paired bootstrap. With `groups` whole groups are drawn with all of their images (the cluster
    bootstrap, Field and Welsh 2007), and the metrics are over all images drawn.

    Args:
        confidence (`torch.Tensor` of shape `(n,)`): Probability of the predicted class, in [0, 1].
        correct (`torch.Tensor` of shape `(n,)`): Bool or 0/1, whether the prediction is right.
        nll (`torch.Tensor` of shape `(n,)`, *optional*): Negative log-likelihood of each image.
        brier (`torch.Tensor` of shape `(n,)`, *optional*): Brier score of each image.
        groups (array or list of `n`, *optional*): The group of each image; by default each image by itself.
        every_group (`Sequence`, *optional*): The groups to draw from, where they are more than those of these images, as when
            several sets are resampled by the same draws. A sample without any image of this set is NaN.
        n_bins (`int`, *optional*, defaults to 15): Bins of the ECE.
        draws (`int`, *optional*, defaults to 1000): Bootstrap samples.
        seed (`int` or `Sequence[int]`, *optional*, defaults to 0): Seed of numpy's generator.

    Returns:
        `dict[str, np.ndarray]`: float64 of shape `(draws,)` for `accuracy`, `ece` and, where given, `nll`, `brier`.

    Raises:
        ValueError: As `reliability_bins`, if `draws` is below 2, if `nll` or `brier` are not n finite numbers, or if there is
            one group.
    """
    _check_draws(draws, least=2)
    confidence, correct = check_confidence(confidence, correct)
    n = len(confidence)
    per_image = {"accuracy": correct.double()}
    for name, values in (("nll", nll), ("brier", brier)):
        if values is None:
            continue
        per_image[name] = torch.as_tensor(values).detach().cpu().double()
        if per_image[name].shape != (n,) or not torch.isfinite(per_image[name]).all():
            raise ValueError(
                f"{name} of shape {tuple(per_image[name].shape)} cannot be resampled with {n} images; "
                "give one finite number per image."
            )
    # Every average over a sample is linear in how often each image was drawn, so one matrix product serves all of them.
    table = torch.zeros(n, len(per_image) + n_bins + 1, dtype=torch.float64)
    for k, values in enumerate(per_image.values()):
        table[:, k] = values
    table[torch.arange(n), len(per_image) + bin_indices(confidence, n_bins)] = correct.double() - confidence
    columns = table.numpy()
    columns /= n
    sizes = np.ones(n)
    if groups is not None:
        codes, units = group_codes(groups, every_group)
        sizes = np.bincount(codes, minlength=units).astype(np.float64)
        columns = np.column_stack([np.bincount(codes, column, minlength=units) for column in columns.T])
    samples = []
    for times in draw_counts(len(sizes), draws, seed):
        # Of the same size as the data where all groups are, and then this divides by one.
        with np.errstate(invalid="ignore"):
            samples.append(times @ columns / ((times @ sizes) / n)[:, None])
    samples = np.concatenate(samples)
    found = {name: samples[:, k] for k, name in enumerate(per_image)}
    return {**found, "ece": np.abs(samples[:, len(per_image) :]).sum(axis=1)}


def group_codes(groups: np.ndarray | Sequence, every_group: Sequence | None = None) -> tuple[np.ndarray, int]:
    """
    Number the groups of images, in the order of the groups' names: the order of the images does not matter.

    Args:
        groups (`np.ndarray` or `Sequence`): The group of each image.
        every_group (`Sequence`, *optional*): All groups, where there are more.

    Returns:
        `tuple[np.ndarray, int]`: For each image the number of its group, and how many groups there are.

    Raises:
        ValueError: If there is one group alone.
    """
    groups = np.asarray(groups)
    known = np.unique(groups if every_group is None else np.asarray(every_group))
    if len(known) < 2:
        raise ValueError(
            "All images are of one group, so nothing says how far chance moves a number; leave groups out."
        )
    return np.searchsorted(known, groups), len(known)


def draw_counts(n: int, draws: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """
    Draw `n` units with replacement, `draws` times over.

    Args:
        n (`int`): Units, images or groups of images.
        draws (`int`): Samples.
        seed (`int` or `Sequence[int]`): Seed of numpy's generator.

    Yields:
        `np.ndarray` of shape `(some, n)`: float64, how often each unit is in each of the next few samples.
    """
    rng = np.random.default_rng(seed)
    for size in _pieces(draws, n):
        drawn = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _check_draws(draws: int, least: int) -> None:
    if draws < least:
        raise ValueError(f"draws is {draws}, but an estimate needs at least {least}; hundreds make a good one.")


def _pieces(draws: int, n: int) -> list[int]:
    size = max(1, CHUNK_ELEMENTS // n)
    return [min(size, draws - start) for start in range(0, draws, size)]
