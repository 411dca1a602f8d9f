# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The `evaluate` modules give the numbers of the functions, alone, combined, and in batches."""

import evaluate
import pytest
import torch

from hf_robustft.evaluation import calibration, detection
from hf_robustft.evaluation.metrics import (
    AdaptiveCalibrationError,
    BrierScore,
    ClasswiseCalibrationError,
    ExpectedCalibrationError,
    NegativeLogLikelihood,
    OpenSetDetection,
)

MODULES = (
    ExpectedCalibrationError,
    AdaptiveCalibrationError,
    ClasswiseCalibrationError,
    BrierScore,
    NegativeLogLikelihood,
)


@pytest.fixture
def cache(tmp_path):
    # `evaluate` spools predictions to a cache folder; the tests leave the user's alone.
    return {"cache_dir": str(tmp_path)}


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(60, 4, generator=generator, dtype=torch.float64).softmax(dim=1)
    labels = torch.randint(0, 4, (60,), generator=generator)
    return probabilities, labels


def test_combined_offline_they_are_the_functions(cache, case):
    probabilities, labels = case
    combined = evaluate.combine([module(**cache) for module in MODULES])
    got = combined.compute(predictions=probabilities.numpy(), references=labels.numpy())
    want = {module.key: getattr(calibration, module.key)(probabilities, labels) for module in MODULES}
    assert got == want and len(got) == 5


def test_batches_and_lists_give_the_same(cache, case):
    probabilities, labels = case
    metric = BrierScore(**cache)
    for start in range(0, 60, 25):
        metric.add_batch(
            predictions=probabilities[start : start + 25].tolist(), references=labels[start : start + 25].tolist()
        )
    assert metric.compute() == {"brier_score": calibration.brier_score(probabilities, labels)}


def test_bins_are_set_once(cache, case):
    probabilities, labels = case
    got = ExpectedCalibrationError(n_bins=5, **cache).compute(predictions=probabilities, references=labels)
    want = calibration.expected_calibration_error(probabilities, labels, 5)
    assert got == {"expected_calibration_error": want}
    with pytest.raises(ValueError, match="n_bins"):
        ExpectedCalibrationError(n_bins=0, **cache)


def test_every_module_describes_itself(cache):
    for module in MODULES:
        metric = module(**cache)
        assert metric.description and metric.citation and "probabilities" in metric.inputs_description


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([[0.5, 0.6]], [0], "sum of one"),
        ([[0.5, 0.5]], [2], "2 classes"),
        ([[0.5, 0.5], [1.0]], [0, 0], "different lengths"),
        ([[0.5, 0.5]], [0, 1], "Mismatch"),
        ([], [], "none at all"),
    ],
)
def test_bad_input_is_refused(cache, module, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        module(**cache).compute(predictions=predictions, references=references)


def test_open_set_detection_is_the_function(cache):
    scores = torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    known = torch.arange(60) % 3 == 0
    metric = OpenSetDetection(**cache)
    for start in range(0, 60, 25):
        part = slice(start, start + 25)
        metric.add_batch(predictions=scores[part].numpy(), references=known[part].long().numpy())
    assert metric.compute() == detection.detection_metrics(scores[known], scores[~known])
    assert all(name in metric.description for name in detection.FPR_DEFINITIONS) and metric.citation


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0.5, 0.1], [1, 1], "open-set scores.*empty"),
        ([0.5, 0.1], [0, 0], "in-distribution scores.*empty"),
        ([], [], "empty"),
        ([0.5, 0.1], [1, 2], "other numbers than 1"),
        ([0.5, float("nan")], [1, 0], "open-set scores hold NaN"),
    ],
)
def test_bad_detections_are_refused(cache, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        OpenSetDetection(**cache).compute(predictions=predictions, references=references)
