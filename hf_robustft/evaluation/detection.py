# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How well a score tells images of known classes from images of unseen ones. Known images are the positive class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: The share of ID images that must be accepted in FPR95.
RECALL = 0.95
FPR_CONVENTION = (
    "FPR95 is the share of unseen-class images that are accepted at the highest threshold that accepts at least 95 % "
    "of the in-distribution images, which are the positive class; lower is better."
)
#: What each number with "fpr95" in its name means; the last two are those of CRoFT's code.
FPR_DEFINITIONS = {
    "fpr95": FPR_CONVENTION,
    "fpr95_nearest_recall": (
        "FPR at the score whose recall on in-distribution images is nearest to 95 %, from above or below; of several "
        "such scores the lowest, but never below the highest that has a recall of 1."
    ),
    "fpr95_percentile": (
        "Share of unseen-class images whose score is strictly above the 5th percentile of the in-distribution scores, "
        "which is interpolated linearly."
    ),
}
METRICS = ("auroc", "aupr_in", "aupr_out", *FPR_DEFINITIONS)


def detection_metrics(
    id_scores: Tensor | np.ndarray | Sequence[float], open_set_scores: Tensor | np.ndarray | Sequence[float]
) -> dict[str, float]:
    """
    Measure how well a score tells in-distribution images (positive, higher) from images of unseen classes.

    Args:
        id_scores (`torch.Tensor`, array or list of shape `(n,)`): Scores of the images of known classes. Give all of
            them: CRoFT's code keeps only the correctly classified ones, which raises AUROC.
        open_set_scores (`torch.Tensor`, array or list of shape `(m,)`): Scores of the images of unseen classes.

    Returns:
        `dict[str, float]`: All in [0, 1]. `auroc`: the probability that an ID image scores higher than an open-set
        image, ties counting one half. `aupr_in`, `aupr_out`: average precision with ID images, and with open-set
        images at the negated score, as positives; unlike AUROC they depend on the sizes of the two sets. `fpr95`,
        `fpr95_nearest_recall`, `fpr95_percentile`: see `FPR_DEFINITIONS`.

    Raises:
        ValueError: If a set is empty, not one-dimensional, or holds NaN or infinity.
    """
    # Here, since importing it takes a second or two, which training and the command line do without.
    from sklearn.metrics import average_precision_score, roc_auc_score

    known = as_floats(id_scores, "in-distribution scores", "(images,)").numpy()
    unseen = as_floats(open_set_scores, "open-set scores", "(images,)").numpy()
    is_known = np.repeat([1, 0], [len(known), len(unseen)])
    values = np.concatenate([known, unseen])
    found = {
        "auroc": float(roc_auc_score(is_known, values)),
        "aupr_in": float(average_precision_score(is_known, values)),
        "aupr_out": float(average_precision_score(1 - is_known, -values)),
    }
    return found | _false_positive_rates(known, unseen)


def ranked_detection_metrics(known: np.ndarray, unseen: np.ndarray) -> dict[str, float]:
    """
    The numbers of [`detection_metrics`] from ranks, fast enough to be resampled; they differ by rounding alone.

    Args:
        known (`np.ndarray` of shape `(n,)`), unseen (`np.ndarray` of shape `(m,)`): Finite scores, higher for known
            classes; neither is empty, which is not checked.

    Returns:
        `dict[str, float]`: As of [`detection_metrics`].
    """
    ordered = np.sort(unseen)
    # Twice the unseen images below each known one, ties counting one half.
    below = np.searchsorted(ordered, known, "left") + np.searchsorted(ordered, known, "right")
    found = {"auroc": float(below.mean() / (2 * len(unseen)))}
    found |= {"aupr_in": _average_precision(known, unseen), "aupr_out": _average_precision(-unseen, -known)}
    return found | _false_positive_rates(known, unseen)


def _average_precision(positive: np.ndarray, negative: np.ndarray) -> float:
    # Each positive image adds the precision at its own score, where images of equal scores are found together.
    true, false = (len(of) - np.searchsorted(np.sort(of), positive, "left") for of in (positive, negative))
    return float((true / (true + false)).mean())


def threshold_at_recall(id_scores: Tensor | np.ndarray | Sequence[float], recall: float = RECALL) -> float:
    """
    Find the highest threshold that accepts (score >= threshold) at least a share `recall` of the ID images.

    Args:
        id_scores (`torch.Tensor`, array or list of shape `(n,)`): Scores of ID images.
        recall (`float`, *optional*, defaults to 0.95): The share, in (0, 1].

    Returns:
        `float`: One of the scores.

    Raises:
        ValueError: As `detection_metrics`, or if `recall` lies outside (0, 1].
    """
    scores = as_floats(id_scores, "in-distribution scores", "(images,)").sort(descending=True).values
    if not 0 < recall <= 1:
        raise ValueError(
            f"The true-positive rate is {recall}, but a share of accepted images lies in (0, 1]; use 0.95."
        )
    # Shares are compared, not counts: 0.95 * n may be rounded up past a whole number, count / n == 0.95 may not.
    shares = torch.arange(1, len(scores) + 1, dtype=torch.float64) / len(scores)
    return scores[int(torch.searchsorted(shares, torch.tensor(recall, dtype=torch.float64)))].item()


def _false_positive_rates(known: np.ndarray, unseen: np.ndarray) -> dict[str, float]:
    return {
        "fpr95": float((unseen >= threshold_at_recall(known)).mean()),
        "fpr95_nearest_recall": _fpr_nearest_recall(known, unseen),
        "fpr95_percentile": float((unseen > np.percentile(known, 5)).mean()),
    }


def _fpr_nearest_recall(known: np.ndarray, unseen: np.ndarray) -> float:
    """`get_measures` of CRoFT's code (SPEC 2.6): every distinct score is a candidate, also those between ID scores."""
    thresholds = np.unique(np.concatenate([known, unseen]))
    thresholds = thresholds[thresholds >= known.min()]
    recall = (len(known) - np.searchsorted(np.sort(known), thresholds)) / len(known)
    return float((unseen >= thresholds[np.abs(recall - RECALL).argmin()]).mean())


def as_floats(values: Tensor | np.ndarray | Sequence, what: str, shape: str) -> Tensor:
    """
    Convert numbers to float64 on the CPU.

    Args:
        values (`torch.Tensor`, array or list): The numbers.
        what (`str`): Their name in messages.
        shape (`str`): The shape in words, such as `"(images, classes)"`; its number of entries is required.

    Returns:
        `torch.Tensor`: The same numbers.

    Raises:
        ValueError: If they are empty, not finite, or not of that shape.
    """
    # Through numpy, because torch would round a list of Python's floats to float32.
    values = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    dimensions = len(shape.strip("()").rstrip(",").split(","))
    if values.ndim != dimensions or values.dtype == torch.bool or values.is_complex():
        raise ValueError(
            f"The {what} are {values.dtype} of shape {tuple(values.shape)}; give numbers of shape {shape}."
        )
    if values.numel() == 0:
        raise ValueError(f"The {what} of shape {tuple(values.shape)} are empty; give at least one image.")
    if not torch.isfinite(values).all():
        bad = int((~torch.isfinite(values)).reshape(len(values), -1).any(dim=1).nonzero()[0])
        raise ValueError(
            f"The {what} hold NaN or infinity, first in row {bad}; nothing can be detected by them, look for a model "
            "that diverged or an image that is broken."
        )
    return values.double()
