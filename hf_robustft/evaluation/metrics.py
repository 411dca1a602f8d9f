# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The calibration and open-set metrics as `evaluate.Metric` modules, which need no network:

    >>> import evaluate
    >>> from hf_robustft.evaluation.metrics import BrierScore, ExpectedCalibrationError
    >>> metrics = evaluate.combine([ExpectedCalibrationError(n_bins=15), BrierScore()])
    >>> metrics.compute(predictions=[[0.75, 0.25], [0.25, 0.75]], references=[0, 1])
    {'expected_calibration_error': 0.25, 'brier_score': 0.125}

Predictions are probabilities, one row of all classes per image; references are class indices. For `OpenSetDetection`
predictions are scores and references say which images are of known classes:

    >>> from hf_robustft.evaluation.metrics import OpenSetDetection
    >>> OpenSetDetection().compute(predictions=[0.9, 0.8, 0.3], references=[1, 1, 0])["auroc"]
    1.0
"""

from __future__ import annotations

from collections.abc import Callable

import datasets
import evaluate
import torch

from . import calibration
from .binning import check_n_bins
from .detection import FPR_DEFINITIONS, detection_metrics

_INPUTS = """
Args:
    predictions: probabilities of all classes, one row per image; each row sums to one.
    references: class index of each image.
"""


class _ProbabilityMetric(evaluate.Metric):
    """A metric of probabilities: the `measure` of float64 probabilities `(n, classes)` and labels, under the key `key`."""

    key: str
    measure: Callable[..., float]
    description: str
    citation: str

    def _info(self) -> evaluate.MetricInfo:
        # float64, because a small probability that float32 rounds to 0 has an infinite likelihood.
        features = {
            "predictions": datasets.Sequence(datasets.Value("float64")),
            "references": datasets.Value("int64"),
        }
        return evaluate.MetricInfo(
            description=self.description,
            citation=self.citation,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        if len({len(row) for row in predictions}) != 1:
            raise ValueError(
                f"There are {len(predictions)} rows of predictions, none at all or of different lengths; "
                "give a probability of every class in every row."
            )
        probabilities = torch.tensor(predictions, dtype=torch.float64)
        return {self.key: self.measure(probabilities, torch.tensor(references), *self._options())}

    def _options(self) -> tuple:
        return ()


class _BinnedMetric(_ProbabilityMetric):
    """
    A metric with bins.

    Args:
        n_bins (`int`, *optional*, defaults to 15): Bins. It is set here and not at `compute`, because `evaluate.combine`
            passes the arguments of `compute` to every metric, and not all of them have bins.
        kwargs (*optional*): Arguments of `evaluate.Metric`, such as `keep_in_memory` or `experiment_id`.

    Raises:
        ValueError: If `n_bins` is below 1.
    """

    def __init__(self, n_bins: int = 15, **kwargs):
        check_n_bins(n_bins)
        self.n_bins = n_bins
        super().__init__(**kwargs)

    def _options(self) -> tuple:
        return (self.n_bins,)


class ExpectedCalibrationError(_BinnedMetric):
    """Top-label ECE with equal-width bins, in [0, 1]; `n_bins` (`int`, *optional*, defaults to 15)."""

    key, measure = "expected_calibration_error", staticmethod(calibration.expected_calibration_error)
    description = "Top-label expected calibration error with equal-width bins over the whole set, in [0, 1]."
    citation = "Guo et al. (2017). On Calibration of Modern Neural Networks. arXiv:1706.04599."


class AdaptiveCalibrationError(_BinnedMetric):
    """Top-label calibration error with bins of equal mass, in [0, 1]; `n_bins` (`int`, *optional*, defaults to 15)."""

    key, measure = "adaptive_calibration_error", staticmethod(calibration.adaptive_calibration_error)
    description = "Top-label calibration error with bins of equal mass, in [0, 1]."
    citation = "Nixon et al. (2019). Measuring Calibration in Deep Learning. arXiv:1904.01685."


class ClasswiseCalibrationError(_BinnedMetric):
    """Mean over the classes of the ECE of each class's probability; `n_bins` (`int`, *optional*, defaults to 15)."""

    key, measure = "classwise_calibration_error", staticmethod(calibration.classwise_calibration_error)
    description = "Mean over the classes of the equal-width ECE of each class's own probability, in [0, 1]."
    citation = "Kull et al. (2019). Beyond temperature scaling. arXiv:1910.12656."


class BrierScore(_ProbabilityMetric):
    """Multiclass Brier score, summed over the classes, in [0, 2]."""

    key, measure = "brier_score", staticmethod(calibration.brier_score)
    description = (
        "Multiclass Brier score: mean squared distance to the one-hot label, summed over the classes, in [0, 2]."
    )
    citation = "Brier (1950). Verification of Forecasts Expressed in Terms of Probability."


class NegativeLogLikelihood(_ProbabilityMetric):
    """Mean of -log p(label) in nats, from probabilities; infinite where one is 0."""

    key, measure = "negative_log_likelihood", staticmethod(calibration.negative_log_likelihood)
    description = "Mean of -log p(label), in nats, from probabilities."
    citation = "Gneiting & Raftery (2007). Strictly Proper Scoring Rules, Prediction, and Estimation."


class OpenSetDetection(evaluate.Metric):
    """
    AUROC, average precision and three FPR95 of a score that is higher for known classes (`detection.detection_metrics`).

    Its predictions are numbers and not rows, so it cannot be combined with the others by `evaluate.combine`.
    """

    def _info(self) -> evaluate.MetricInfo:
        rates = " ".join(f"{name}: {meaning}" for name, meaning in FPR_DEFINITIONS.items())
        return evaluate.MetricInfo(
            description=f"How well a score tells images of known classes, the positives, from unseen ones. {rates}",
            citation=(
                "Hendrycks & Gimpel (2017). A Baseline for Detecting Misclassified and Out-of-Distribution Examples in "
                "Neural Networks. arXiv:1610.02136."
            ),
            inputs_description=(
                "Args:\n    predictions: one score per image, higher for known classes.\n"
                "    references: 1 for an image of a known class, 0 for one of an unseen class.\n"
            ),
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        scores = torch.tensor(predictions, dtype=torch.float64)
        references = torch.tensor(references, dtype=torch.int64)
        if not ((references == 0) | (references == 1)).all():
            raise ValueError("The references hold other numbers than 1 (known class) and 0 (unseen); give only these.")
        return detection_metrics(scores[references == 1], scores[references == 0])
