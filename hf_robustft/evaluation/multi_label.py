# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Measures of probabilities that each class has by itself: pure functions, tensors in, numbers out."""

from __future__ import annotations

import torch
from torch import Tensor

from .binning import bin_indices, check_scores


def check_targets(scores: Tensor, labels: Tensor, what: str = "logits") -> tuple[Tensor, Tensor]:
    """
    Check scores and labels of images that may have several.

    Args:
        scores (`torch.Tensor` of shape `(n, classes)`): Finite.
        labels (`torch.Tensor` of shape `(n,)` or `(n, classes)`): Integer class indices of one label per image; or 0 and 1,
            whether each image has each label.
        what (`str`, *optional*, defaults to `"logits"`): What messages call the scores.

    Returns:
        `tuple`: The scores in float64, and the labels as a bool tensor of shape `(n, classes)`, on the CPU.

    Raises:
        ValueError: If they cannot be such.
    """
    labels = torch.as_tensor(labels).detach().cpu()
    if labels.ndim != 2:
        scores, labels = check_scores(scores, labels, what)
        return scores, torch.nn.functional.one_hot(labels, scores.shape[1]).bool()
    scores, _ = check_scores(scores, torch.zeros(len(labels), dtype=torch.long), what)
    if labels.shape != scores.shape or not ((labels == 0) | (labels == 1)).all():
        raise ValueError(
            f"The labels are {labels.dtype} of shape {tuple(labels.shape)}, but {what} of shape {tuple(scores.shape)} need 0 or 1 "
            "for each image and class."
        )
    return scores, labels.bool()


def check_probabilities(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Check probabilities in [0, 1] and labels as `check_targets` does. Raises ValueError."""
    probabilities, targets = check_targets(probabilities, labels, "probabilities")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError(
            f"The probabilities run from {probabilities.min():.3g} to {probabilities.max():.3g}, but they lie in [0, 1]; apply a "
            "sigmoid to logits."
        )
    return probabilities, targets


def calibration_error_per_class(probabilities: Tensor, labels: Tensor, n_bins: int = 15) -> Tensor:
    """
    The expected calibration error of the probability of each class by itself.

    Args:
        probabilities (`torch.Tensor` of shape `(n, classes)`): In [0, 1]; rows need not sum to one.
        labels (`torch.Tensor` of shape `(n,)` or `(n, classes)`): As for `check_targets`.
        n_bins (`int`, *optional*, defaults to 15): Equal-width bins, with the edges of `expected_calibration_error`.

    Returns:
        `torch.Tensor` of shape `(classes,)`, float64: sum over bins of |sum of (probability - has the label)| / n, in [0, 1].
        Their mean is the classwise calibration error of Kull et al. 2019 (arXiv:1910.12656).

    Raises:
        ValueError: If a probability lies outside of [0, 1], or `check_targets` refuses them.
    """
    probabilities, targets = check_probabilities(probabilities, labels)
    gaps = torch.zeros(probabilities.shape[1], n_bins + 1, dtype=torch.float64)
    gaps.scatter_add_(1, bin_indices(probabilities, n_bins).t(), (probabilities - targets.double()).t())
    return gaps.abs().sum(dim=1) / len(probabilities)
