# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Equal-width confidence bins, and the checks that every calibration function starts with.

Bins are closed on the left, [k/n, (k+1)/n), and a confidence of exactly 1.0 has a bin of its own, as in torchmetrics. A
confidence is sorted into its bin in float32 (a float32 0.7 lies in [0.7, 0.8) although it is below the real 0.7) and
summed in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

SUM_TOLERANCE = 1e-4

#: Numbers that are held in float64 at once, 16 MB: of 50,000 images and 1000 classes all would be 400 MB.
PIECE_ELEMENTS = 2_000_000

#: Of a report, which is read again: so many bins are filled for each image by what compares runs.
MOST_BINS = 100_000


def bin_indices(values: Tensor, n_bins: int) -> Tensor:
    """Return the index, from 0 to `n_bins`, of the bin of each of `values` in [0, 1]; `n_bins` is the bin of exactly 1.0."""
    check_n_bins(n_bins)
    return torch.bucketize(values.float(), torch.linspace(0, 1, n_bins + 1), right=True) - 1


def reliability_bins(confidence: Tensor, correct: Tensor, n_bins: int = 15) -> dict[str, list]:
    """
    Compute the bins of the expected calibration error, for a reliability diagram.

    Args:
        confidence (`torch.Tensor` of shape `(n,)`): Probability of the predicted class, in [0, 1].
        correct (`torch.Tensor` of shape `(n,)`): Bool or 0/1, whether the prediction is right.
        n_bins (`int`, *optional*, defaults to 15): Equal-width bins.

    Returns:
        `dict`: Lists `lower`, `upper`, `count`, `confidence`, `accuracy` of n_bins + 1 entries (the last is the bin of
        exactly 1.0). Mean confidence and accuracy of an empty bin are `None`.

    Raises:
        ValueError: If the arrays are empty or differ in length, a confidence lies outside [0, 1], `correct` holds
            anything but 0 and 1, or `n_bins` is below 1.
    """
    confidence, correct = check_confidence(confidence, correct)
    bins = bin_indices(confidence, n_bins)
    counts = torch.bincount(bins, minlength=n_bins + 1).tolist()

    def means(values: Tensor) -> list:
        sums = torch.bincount(bins, weights=values, minlength=n_bins + 1).tolist()
        return [total / count if count else None for total, count in zip(sums, counts, strict=True)]

    edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64).tolist()
    return {
        "lower": edges,
        "upper": edges[1:] + [1.0],
        "count": counts,
        "confidence": means(confidence),
        "accuracy": means(correct.double()),
    }


def check_n_bins(n_bins: int) -> None:
    """Refuse `n_bins` that are not a whole number of at least 1. Raises ValueError."""
    if not isinstance(n_bins, int) or isinstance(n_bins, bool) or n_bins < 1:
        raise ValueError(f"n_bins is {n_bins!r}, but a histogram needs a whole number of at least one bin; use 15.")


def check_scores(scores: Tensor, labels: Tensor, what: str = "logits") -> tuple[Tensor, Tensor]:
    """
    Return finite float64 `scores` `(n, classes)`, which messages call `what`, and int64 `labels` `(n,)`, on the CPU.

    Raises ValueError that says why they cannot be such.
    """
    scores, labels = check_shapes(scores, labels, what)
    _check_finite(scores, what)
    return scores.double(), labels


def score_pieces(scores: Tensor, labels: Tensor, what: str = "logits") -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of `scores` and `labels` as `check_scores(scores, labels, what)` does, `PIECE_ELEMENTS` at a time."""
    scores, labels = check_shapes(scores, labels, what)
    rows = max(1, PIECE_ELEMENTS // scores.shape[1])
    for some, theirs in zip(scores.split(rows), labels.split(rows), strict=True):
        _check_finite(some, what)
        yield some.double(), theirs


def _check_finite(scores: Tensor, what: str) -> None:
    if not torch.isfinite(scores).all():
        raise ValueError(f"The {what} are not all finite, so no metric is defined; look for a model that diverged.")


def check_shapes(scores: Tensor, labels: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Check `scores`, `labels` and `what` as `check_scores` does, except that scores stay as they are. Raises ValueError."""
    scores, labels = torch.as_tensor(scores).detach().cpu(), torch.as_tensor(labels).detach().cpu()
    if scores.ndim != 2 or not scores.is_floating_point():
        raise ValueError(
            f"The {what} are {scores.dtype} of shape {tuple(scores.shape)}; give floating numbers of shape (images, classes)."
        )
    if labels.shape != scores.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"The labels are {labels.dtype} of shape {tuple(labels.shape)}, but {what} of shape {tuple(scores.shape)} need "
            "one integer class index per image."
        )
    if scores.numel() == 0:
        raise ValueError(
            f"The {what} of shape {tuple(scores.shape)} hold nothing to measure; give at least one image."
        )
    labels = labels.long()
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"The labels run from {labels.min()} to {labels.max()}, but the {what} have {scores.shape[1]} classes, "
            "counted from 0; give labels in the same class list."
        )
    return scores, labels


def probability_pieces(probabilities: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `probabilities` and `labels` as `score_pieces` does. Raises ValueError if a row is not a distribution."""
    for some, theirs in score_pieces(probabilities, labels, "probabilities"):
        if some.min() < 0:
            raise ValueError(
                f"The probabilities go down to {some.min():.3g}, but none can be negative; apply a softmax to logits."
            )
        worst = (some.sum(dim=1) - 1).abs().max().item()
        if worst > SUM_TOLERANCE:
            raise ValueError(
                f"A row of probabilities misses a sum of one by {worst:.3g}; apply a softmax, in float32 or more, to logits."
            )
        yield some, theirs


def check_confidence(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """Return float64 `confidence` and bool `correct` `(n,)` on the CPU. Raises ValueError if they cannot be such."""
    confidence, correct = torch.as_tensor(confidence).detach().cpu(), torch.as_tensor(correct).detach().cpu()
    if confidence.ndim != 1 or correct.shape != confidence.shape or len(confidence) == 0:
        raise ValueError(
            f"confidence and correct have shapes {tuple(confidence.shape)} and {tuple(correct.shape)}; "
            "give one number per image in both, and at least one image."
        )
    confidence = confidence.double()
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ValueError(
            "A confidence is outside [0, 1] or not a number; give the probability of the predicted class."
        )
    if not ((correct == 0) | (correct == 1)).all():
        raise ValueError("correct holds other values than 0 and 1; give `predicted == labels`.")
    return confidence, correct.bool()
