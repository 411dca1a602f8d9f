# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Measures of images that may have several labels, or none: pure functions, tensors in, numbers out.

Each class is a question of its own. What scores it depends on the family of the model:

- Average precision ranks the images by the logit of the class, as CLIP_benchmark does for VOC2007: no softmax, so that a
  number can be compared with published ones. For a sigmoid family it is the order of the probabilities, too.
- F1 and calibration need a probability. A sigmoid family (SigLIP) was trained to have one, `sigmoid(logits + logit bias)`, and
  so was a head that was trained on lists of labels, `sigmoid(logits)`. Of the others it is the share of the class among all classes, `softmax(logits)`: one against the rest. These add up to 1, so
  of several labels no one can be certain; thresholds that are fitted for each class make up for it, calibration cannot. A
  second prompt for the absence of the class ("no {}") is not used: CLIP hardly tells it from the first (Rawlekar et al.
  2024, arXiv:2409.08381).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .binning import bin_indices, check_scores

#: Above which a class is given where nothing says better: more likely than not.
DEFAULT_THRESHOLD = 0.5
#: The logarithm of the smallest float64, nearly.
_LEAST_LOG = -745.0


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


def average_precision_per_class(scores: Tensor, labels: Tensor) -> Tensor:
    """
    How well scores rank the images of each class before all others, by scikit-learn; not interpolated.

    Args:
        scores (`torch.Tensor` of shape `(n, classes)`): Logits or probabilities, higher for images of the class.
        labels (`torch.Tensor` of shape `(n,)` or `(n, classes)`): As for `check_targets`.

    Returns:
        `torch.Tensor` of shape `(classes,)`, float64: NaN for classes without images, which have no ranking. The mean over the
        others is the mean average precision.

    Raises:
        ValueError: As `check_targets`.
    """
    # Here, since importing it takes a second or two.
    from sklearn.metrics import average_precision_score

    scores, targets = check_targets(scores, labels)
    found = [
        average_precision_score(theirs, some) if theirs.any() else np.nan
        for some, theirs in zip(scores.t().numpy(), targets.t().numpy(), strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64)


def f1_per_class(predicted: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """
    The harmonic mean of precision and recall of each class, and of all pairs of image and class together, by scikit-learn.

    Args:
        predicted (`torch.Tensor` of shape `(n, classes)`): Bool, which labels each image is given.
        labels (`torch.Tensor` of shape `(n,)` or `(n, classes)`): As for `check_targets`.

    Returns:
        `tuple`: A `torch.Tensor` of shape `(classes,)`, float64, NaN for classes without images, and the micro average as
        `float`, in which labels of such classes count as wrong. The mean over classes with images is the macro average.

    Raises:
        ValueError: As `check_targets`.
    """
    from sklearn.metrics import f1_score

    _, targets = check_targets(predicted.double(), labels, "predictions")
    given, wanted = predicted.cpu().numpy().astype(bool), targets.numpy()
    # Column by column: of a single class scikit-learn would take a table for a list of labels.
    found = [
        f1_score(theirs, some, zero_division=0.0) if theirs.any() else np.nan
        for some, theirs in zip(given.T, wanted.T, strict=True)
    ]
    micro = f1_score(wanted.ravel(), given.ravel(), zero_division=0.0)
    return torch.tensor(found, dtype=torch.float64), float(micro)


def fit_thresholds(probabilities: Tensor, labels: Tensor, default: float = DEFAULT_THRESHOLD) -> tuple[Tensor, Tensor]:
    """
    The threshold of each class above which an image is given its label: that of the highest F1 on validation images.

    It lies in the middle between the lowest probability that is above it and the next lower one, so that no rounding moves an
    image of the fit across it. Of several thresholds with the same F1 the highest is taken, which gives the fewest labels.

    Args:
        probabilities (`torch.Tensor` of shape `(n, classes)`): In [0, 1], of validation images.
        labels (`torch.Tensor` of shape `(n,)` or `(n, classes)`): As for `check_targets`.
        default (`float`, *optional*, defaults to 0.5): The threshold of classes without images, where every one has the same
            F1.

    Returns:
        `tuple`: Two `torch.Tensor` of shape `(classes,)`: the thresholds in float64, and bool, whether each was fitted.

    Raises:
        ValueError: As `calibration_error_per_class`.
    """
    probabilities, targets = check_probabilities(probabilities, labels)
    found = torch.full((probabilities.shape[1],), default, dtype=torch.float64)
    fitted = targets.any(dim=0)
    for index in fitted.nonzero()[:, 0].tolist():
        values, order = probabilities[:, index].sort(descending=True)
        right = targets[order, index].cumsum(0)
        # Images of equal probability get the label together: what counts is the last of them.
        last = torch.cat([values[1:] < values[:-1], torch.tensor([True])]).nonzero()[:, 0]
        f1 = 2 * right[last].double() / (last + 1 + right[-1])
        best = last[f1.argmax()].item()
        upper, lower = values[best].item(), values[best + 1].item() if best + 1 < len(values) else 0.0
        middle = (upper + lower) / 2
        # Between neighbours, as of sure sigmoids beside 1, it is rounded to one of them.
        found[index] = middle if middle < upper else lower
    return found, fitted


def pair_nll(logits: Tensor, labels: Tensor, function: str = "sigmoid") -> Tensor:
    """
    The negative log-likelihood of whether an image has each label, the mean over classes.

    Args:
        logits (`torch.Tensor` of shape `(n, classes)`): With the bias of the sigmoids, where there is one.
        labels (`torch.Tensor` of shape `(n, classes)`): 0 and 1.
        function (`str`, *optional*, defaults to `"sigmoid"`): `"sigmoid"`, or `"softmax"` for shares, of which each is taken for the
            probability of its label.

    Returns:
        `torch.Tensor` of shape `(n,)`, float64, in nats. What rounds to impossible counts as `exp(-745)`.

    Raises:
        ValueError: As `check_targets`.
    """
    logits, targets = check_targets(logits, labels)
    if function == "sigmoid":
        return -torch.nn.functional.logsigmoid(logits.where(targets, -logits)).mean(dim=1)
    share = logits.log_softmax(dim=1)
    rest = torch.log1p(-share.exp())
    # Of the largest share one less it is the sum of the others, which keeps its digits.
    top = logits.argmax(dim=1, keepdim=True)
    others = logits.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True) - logits.logsumexp(dim=1, keepdim=True)
    rest = rest.scatter(1, top, others)
    return -share.where(targets, rest).clamp(min=_LEAST_LOG).mean(dim=1)


def multi_label_results(
    logits: Tensor,
    probabilities: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    thresholds: Tensor,
    n_bins: int = 15,
) -> dict[str, Any]:
    """
    All numbers of a data set whose images may have several labels.

    Args:
        logits (`torch.Tensor` of shape `(n, classes)`): What ranks images in average precision.
        probabilities (`torch.Tensor` of shape `(n, classes)`): Of each class by itself, in [0, 1].
        labels (`torch.Tensor` of shape `(n, classes)`): 0 and 1.
        class_names (`Sequence[str]`): The classes.
        thresholds (`torch.Tensor` of shape `(classes,)`): An image is given the labels whose probability is above theirs.
        n_bins (`int`, *optional*, defaults to 15): Bins of the calibration errors.

    Returns:
        `dict`: `n`, `n_classes`, `n_labels` (over all images), `without_label` (images), `without_images` (names of classes);
        `map`, `f1` (means over classes with images), `f1_micro`, `ece` (mean over all classes); and by class under `classes`
        `n`, `average_precision`, `f1`, `ece` and `threshold`, where the first two are `None` for classes without images. Means
        are `None` if no class has images.

    Raises:
        ValueError: As `calibration_error_per_class`.
    """
    targets = check_targets(logits, labels)[1]
    precision, errors = average_precision_per_class(logits, targets), calibration_error_per_class(probabilities, targets, n_bins)
    f1, micro = f1_per_class(probabilities > thresholds, targets)
    counts = targets.sum(dim=0).tolist()
    columns = {"average_precision": precision, "f1": f1, "ece": errors, "threshold": thresholds}
    rows = zip(counts, *(map(_known, column.tolist()) for column in columns.values()), strict=True)
    return {
        "n": len(targets),
        "n_classes": len(class_names),
        "n_labels": sum(counts),
        "without_label": int((~targets.any(dim=1)).sum()),
        "without_images": [name for name, count in zip(class_names, counts, strict=True) if not count],
        "map": _known(precision.nanmean().item()),
        "f1": _known(f1.nanmean().item()),
        "f1_micro": micro,
        "ece": errors.mean().item(),
        "classes": {name: dict(zip(("n", *columns), row, strict=True)) for name, row in zip(class_names, rows, strict=True)},
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
