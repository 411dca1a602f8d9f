# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Calibration and proper scores of class probabilities: pure functions, tensors in, floats out.

The headline is the top-label ECE of the whole data set with 15 bins; `binning` states the edges. All sums are float64.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .binning import (
    bin_indices,
    check_confidence,
    check_n_bins,
    check_scores,
    check_shapes,
    probability_pieces,
    reliability_bins,
    score_pieces,
)
from .resampling import bootstrap_standard_error, ece_noise_floor

__all__ = [
    "ClasswiseAccumulator",
    "adaptive_calibration_error",
    "adaptive_from_confidence",
    "bootstrap_standard_error",
    "brier_score",
    "classwise_calibration_error",
    "ece10_batch_mean",
    "ece_from_confidence",
    "ece_noise_floor",
    "expected_calibration_error",
    "image_scores",
    "negative_log_likelihood",
    "reliability_bins",
]


def expected_calibration_error(probabilities: Tensor, labels: Tensor, n_bins: int = 15) -> float:
    """
    Compute the top-label expected calibration error of a whole data set (Guo et al. 2017, arXiv:1706.04599).

    Args:
        probabilities (`torch.Tensor` of shape `(n, classes)`): float32 or float64, each row sums to one.
        labels (`torch.Tensor` of shape `(n,)`): Integer class indices.
        n_bins (`int`, *optional*, defaults to 15): Equal-width bins.

    Returns:
        `float`: Sum over the bins of their share of the images times |accuracy - mean confidence|, in [0, 1].

    Raises:
        ValueError: If the shapes disagree, a label is not a class, a row is not a distribution, or `n_bins` is below 1.
    """
    return ece_from_confidence(*_top_label(probabilities, labels), n_bins)


def ece_from_confidence(confidence: Tensor, correct: Tensor, n_bins: int = 15) -> float:
    """
    Compute `expected_calibration_error` from what is left of a data set once its class probabilities are gone.

    Args:
        confidence (`torch.Tensor` of shape `(n,)`): Probability of the predicted class, in [0, 1].
        correct (`torch.Tensor` of shape `(n,)`): Bool or 0/1, whether the prediction is right.
        n_bins (`int`, *optional*, defaults to 15): Equal-width bins.

    Returns:
        `float`: The error, in [0, 1].

    Raises:
        ValueError: As `reliability_bins`.
    """
    # Here, since importing it takes a second or two, which training and the command line do without.
    from torchmetrics.functional.classification import binary_calibration_error

    confidence, correct = check_confidence(confidence, correct)
    bins = bin_indices(confidence, n_bins)
    # torchmetrics bins and sums in the dtype it is given, and a float32 sum over 50,000 confidences near 1 drifts by
    # 1e-4. So it gets float64, moved by a float32 rounding (6e-8) where float64 edges would choose another bin.
    edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)
    below_next = torch.cat([torch.nextafter(edges[1:], edges[:-1]), edges[-1:]])
    snapped = torch.clamp(confidence, min=edges[bins], max=below_next[bins])
    return binary_calibration_error(snapped, correct.long(), n_bins=n_bins, norm="l1").item()


def ece10_batch_mean(probabilities: Tensor, labels: Tensor, batch_size: int = 512) -> float:
    """
    Compute the number that CaRot's code prints as ECE: 10 bins, batch by batch, averaged with the batch sizes as weights.

    It depends on the batch size and on the order of the images, and is never below the 10-bin error of the whole set
    (triangle inequality). It is here so that published tables can be compared, not as a measure of calibration.

    Args:
        probabilities (`torch.Tensor` of shape `(n, classes)`): In the order of the data set.
        labels (`torch.Tensor` of shape `(n,)`): Integer class indices.
        batch_size (`int`, *optional*, defaults to 512): Images in a batch; the last may be smaller.

    Returns:
        `float`: The averaged error, in [0, 1].

    Raises:
        ValueError: As `expected_calibration_error`, or if the batch size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but a batch holds at least one image; the reference uses 512.")
    confidence, correct = _top_label(probabilities, labels)
    batches = zip(confidence.split(batch_size), correct.split(batch_size), strict=True)
    return sum(len(right) * ece_from_confidence(rows, right, n_bins=10) for rows, right in batches) / len(correct)


def adaptive_calibration_error(probabilities: Tensor, labels: Tensor, n_bins: int = 15) -> float:
    """
    Compute the top-label calibration error with bins of equal mass, not width (Nixon et al. 2019, arXiv:1904.01685).

    Args:
        probabilities (`torch.Tensor`), labels (`torch.Tensor`): As for `expected_calibration_error`.
        n_bins (`int`, *optional*, defaults to 15): Bins.

    Returns:
        `float`: The error, in [0, 1]; `adaptive_from_confidence` says how ties and small sets are cut.

    Raises:
        ValueError: As `expected_calibration_error`.
    """
    return adaptive_from_confidence(*_top_label(probabilities, labels), n_bins)


def adaptive_from_confidence(confidence: Tensor, correct: Tensor, n_bins: int = 15) -> float:
    """
    Compute `adaptive_calibration_error` from confidences.

    The sorted confidences are cut as by `numpy.array_split`: the first n % n_bins bins hold one image more. Images of
    equal confidence stay together, in the bin of the first of them, so the order of the images cannot matter. With
    fewer images than bins every distinct confidence has its own bin.

    Args:
        confidence (`torch.Tensor`), correct (`torch.Tensor`): As for `ece_from_confidence`.
        n_bins (`int`, *optional*, defaults to 15): Bins.

    Returns:
        `float`: The error, in [0, 1].

    Raises:
        ValueError: As `reliability_bins`.
    """
    confidence, correct = check_confidence(confidence, correct)
    check_n_bins(n_bins)
    n = len(confidence)
    first_rank = torch.searchsorted(confidence.sort().values, confidence)
    ends = torch.tensor([n // n_bins + (k < n % n_bins) for k in range(n_bins)]).cumsum(0)
    bins = torch.searchsorted(ends, first_rank, right=True)
    gaps = torch.bincount(bins, weights=correct.double() - confidence, minlength=n_bins)
    return gaps.abs().sum().item() / n


def classwise_calibration_error(probabilities: Tensor, labels: Tensor, n_bins: int = 15) -> float:
    """
    Average over the classes the equal-width ECE of each class's own probability (Kull et al. 2019, arXiv:1910.12656).

    Args:
        probabilities (`torch.Tensor`), labels (`torch.Tensor`): As for `expected_calibration_error`.
        n_bins (`int`, *optional*, defaults to 15): Equal-width bins, with the edges of `expected_calibration_error`.

    Returns:
        `float`: Mean over classes c of sum over bins of |sum of (p_c - [label is c])| / n, in [0, 1].

    Raises:
        ValueError: As `expected_calibration_error`.
    """
    probabilities, labels = check_shapes(probabilities, labels, "probabilities")
    accumulator = ClasswiseAccumulator(probabilities.shape[1], n_bins)
    accumulator.update(probabilities, labels)
    return accumulator.compute()


class ClasswiseAccumulator:
    """
    Streams `classwise_calibration_error` in a memory of classes times bins, however many images there are.

    Gaps are summed as integers in units of 2^-36 (1.5e-11), and the order of an integer sum does not matter: any split of
    the same probabilities into batches or processes gives the same number to the last bit. Accumulators of several
    processes merge by adding `gaps` and `n`.

    Args:
        n_classes (`int`): Classes.
        n_bins (`int`, *optional*, defaults to 15): Equal-width bins.

    Raises:
        ValueError: If either is below 1.
    """

    UNIT = 2.0**-36

    def __init__(self, n_classes: int, n_bins: int = 15):
        check_n_bins(n_bins)
        if n_classes < 1:
            raise ValueError(f"n_classes is {n_classes}, but calibration needs at least one class.")
        self.n_bins = n_bins
        self.n = 0
        self.gaps = torch.zeros(n_classes, n_bins + 1, dtype=torch.int64)

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """
        Add a batch.

        Args:
            probabilities (`torch.Tensor` of shape `(batch, classes)`): Each row sums to one.
            labels (`torch.Tensor` of shape `(batch,)`): Integer class indices.

        Raises:
            ValueError: As `expected_calibration_error`, or if the number of classes is another one.
        """
        n_classes, gaps = len(self.gaps), self.gaps.clone()
        for rows, targets in probability_pieces(probabilities, labels):
            if rows.shape[1] != n_classes:
                raise ValueError(
                    f"The batch has {rows.shape[1]} classes, but this accumulator was made for {n_classes}."
                )
            units = torch.round(_minus_one_hot(rows, targets) / self.UNIT).long()
            cells = bin_indices(rows, self.n_bins) + torch.arange(n_classes) * (self.n_bins + 1)
            gaps.view(-1).scatter_add_(0, cells.flatten(), units.flatten())
        # A batch that is refused leaves nothing behind.
        self.gaps, self.n = gaps, self.n + len(labels)

    def compute(self) -> float:
        """
        Return the classwise calibration error of all images so far, as a `float`.

        Raises:
            ValueError: If there were none.
        """
        if self.n == 0:
            raise ValueError("No images were added, so there is no calibration error; call update() first.")
        return self.gaps.abs().sum(dim=1).double().mean().item() * self.UNIT / self.n


def brier_score(probabilities: Tensor, labels: Tensor) -> float:
    """
    Compute the multiclass Brier score (Brier 1950), the mean squared distance of the probabilities to the one-hot label.

    Args:
        probabilities (`torch.Tensor`), labels (`torch.Tensor`): As for `expected_calibration_error`.

    Returns:
        `float`: Summed over the classes, so in [0, 2], and for two classes twice the binary score.

    Raises:
        ValueError: As `expected_calibration_error`.
    """
    pieces = probability_pieces(probabilities, labels)
    return torch.cat([_squared_distance(*piece) for piece in pieces]).mean().item()


def negative_log_likelihood(probabilities: Tensor, labels: Tensor, *, from_logits: bool = False) -> float:
    """
    Average -log p(label) over the images, in nats.

    Logits are exact: where a probability of the true class has underflowed to 0, the result is infinite.

    Args:
        probabilities (`torch.Tensor` of shape `(n, classes)`): Each row sums to one; or logits, see `from_logits`.
        labels (`torch.Tensor` of shape `(n,)`): Integer class indices.
        from_logits (`bool`, *optional*, defaults to `False`): Whether the first argument holds logits.

    Returns:
        `float`: The mean over the images.

    Raises:
        ValueError: As `expected_calibration_error`; logits need only be finite.
    """
    if from_logits:
        losses = [cross_entropy(*piece, reduction="none") for piece in score_pieces(probabilities, labels)]
        return torch.cat(losses).mean().item()
    pieces = probability_pieces(probabilities, labels)
    return -torch.cat([rows.gather(1, targets[:, None]).log() for rows, targets in pieces]).mean().item()


def image_scores(logits: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """
    Compute what a streaming evaluation keeps of a batch, and the probabilities that it may then forget.

    Args:
        logits (`torch.Tensor` of shape `(batch, classes)`): Finite; the softmax is taken in float64.
        labels (`torch.Tensor` of shape `(batch,)`): Integer class indices.

    Returns:
        `tuple`: A `dict` of `confidence`, `correct`, `nll`, `brier`, each `(batch,)` in float64 on the CPU, and the
        `(batch, classes)` float64 probabilities.

    Raises:
        ValueError: If the shapes disagree, a label is not a class, or a logit is not finite.
    """
    logits, labels = check_scores(logits, labels)
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    scores = {
        "confidence": confidence,
        "correct": (predicted == labels).double(),
        "nll": cross_entropy(logits, labels, reduction="none"),
        "brier": _squared_distance(probabilities, labels),
    }
    return scores, probabilities


def _top_label(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    confidence, correct = [], []
    for rows, targets in probability_pieces(probabilities, labels):
        largest, predicted = rows.max(dim=1)
        # A row may miss a sum of one by a rounding, and then a certain prediction is a hair above 1.
        confidence.append(largest.clamp(max=1.0))
        correct.append(predicted == targets)
    return torch.cat(confidence), torch.cat(correct)


def _minus_one_hot(probabilities: Tensor, labels: Tensor) -> Tensor:
    # Without a one-hot matrix, which would be another int64 number for each probability.
    gaps = probabilities.clone()
    gaps[torch.arange(len(labels)), labels] -= 1
    return gaps


def _squared_distance(probabilities: Tensor, labels: Tensor) -> Tensor:
    return _minus_one_hot(probabilities, labels).square_().sum(dim=1)
