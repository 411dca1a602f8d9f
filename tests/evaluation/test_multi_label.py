# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Average precision, F1, thresholds and calibration of each class by itself, against counting by hand."""

import math

import pytest
import torch

from hf_robustft.evaluation.calibration import classwise_calibration_error, ece_from_confidence
from hf_robustft.evaluation.multi_label import (
    average_precision_per_class,
    calibration_error_per_class,
    f1_per_class,
    fit_thresholds,
    multi_label_results,
)


def drawn(n=60, classes=4, seed=0, rounded=False):
    """Logits, and labels that go with them; the last class has no image, and some images have no label."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    logits = logits.mul(2).round().div(2) if rounded else logits
    labels = torch.rand(n, classes, generator=generator, dtype=torch.float64) < (logits - 1).sigmoid()
    labels[:, -1] = False
    return logits, labels.long()


def f1_of(given, wanted):
    right = (given & wanted).sum().item()
    return 2 * right / (given.sum() + wanted.sum()).item()


# ---- The measures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounded", [False, True])
def test_average_precision_is_the_mean_of_the_precisions_at_each_image_of_the_class(rounded):
    logits, labels = drawn(rounded=rounded)
    got = average_precision_per_class(logits, labels)
    for index in range(3):
        # Images with equal scores are ranked together.
        precisions = [
            labels[logits[:, index] >= score, index].double().mean().item()
            for score in logits[labels[:, index] == 1, index]
        ]
        assert got[index].item() == pytest.approx(sum(precisions) / len(precisions), abs=1e-12)
    assert math.isnan(got[3])
    # No monotone function moves it.
    again = average_precision_per_class((logits * 3 - 2).sigmoid(), labels)
    torch.testing.assert_close(again, got, equal_nan=True)


def test_f1_of_each_class_and_of_all_pairs():
    logits, labels = drawn()
    given, wanted = logits > 0.3, labels.bool()
    each, micro = f1_per_class(given, labels)
    for index in range(3):
        assert each[index].item() == pytest.approx(f1_of(given[:, index], wanted[:, index]), abs=1e-12)
    assert math.isnan(each[3]) and micro == pytest.approx(f1_of(given, wanted), abs=1e-12)
    # The class without images is among all pairs: its labels are wrong.
    assert micro < f1_of(given[:, :3], wanted[:, :3])
    assert f1_per_class(torch.zeros_like(given), labels)[1] == 0.0


def test_calibration_of_each_class():
    logits, labels = drawn()
    probabilities = logits.sigmoid()
    got = calibration_error_per_class(probabilities, labels, 7)
    for index in range(4):
        want = ece_from_confidence(probabilities[:, index], labels[:, index], 7)
        assert got[index].item() == pytest.approx(want, abs=1e-9)
    # With one label per image the mean is the classwise error that is measured otherwise.
    shares, single = logits.softmax(dim=1), torch.arange(60) % 4
    want = classwise_calibration_error(shares, single, 7)
    assert calibration_error_per_class(shares, single, 7).mean().item() == pytest.approx(want, abs=1e-9)


# ---- Thresholds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounded", [False, True])
def test_thresholds_are_those_of_the_highest_f1_and_of_equal_ones_the_highest(rounded):
    logits, labels = drawn(rounded=rounded)
    probabilities = logits.sigmoid()
    thresholds, fitted = fit_thresholds(probabilities, labels)
    assert fitted.tolist() == [True, True, True, False] and thresholds[3] == 0.5
    for index in range(3):
        values = probabilities[:, index].unique()
        middles = torch.cat([values[:1] / 2, (values[1:] + values[:-1]) / 2, torch.ones(1, dtype=torch.float64)])
        scores = [f1_of(probabilities[:, index] > at, labels[:, index].bool()) for at in middles]
        best = max(at.item() for at, score in zip(middles, scores, strict=True) if score == max(scores))
        assert thresholds[index].item() == pytest.approx(best, abs=1e-15)


def test_of_equal_f1_the_fewest_labels_are_given():
    # Two labels of which one is right, or four of which two are: F1 is 1/2 either way.
    probabilities = torch.tensor([[0.9], [0.8], [0.7], [0.6]], dtype=torch.float64)
    thresholds, _ = fit_thresholds(probabilities, torch.tensor([[1], [0], [0], [0]]))
    assert thresholds.item() == pytest.approx(0.85)
    thresholds, _ = fit_thresholds(probabilities, torch.tensor([[0], [1], [0], [1]]), default=0.3)
    assert thresholds.item() == pytest.approx(0.3)


def test_sure_images_stay_above_a_threshold_between_neighbouring_numbers():
    # The middle of 1 and the next lower number is rounded to 1, which no probability is above.
    probabilities = torch.tensor([[1.0], [math.nextafter(1, 0)], [0.2]], dtype=torch.float64)
    labels = torch.tensor([[1], [0], [0]])
    thresholds, _ = fit_thresholds(probabilities, labels)
    assert (probabilities > thresholds).int().tolist() == labels.tolist()


# ---- All of them ---------------------------------------------------------------------------------------------------


def test_the_results_name_what_has_no_number_and_can_be_written():
    logits, labels = drawn()
    labels[:5] = 0
    probabilities = logits.sigmoid()
    names = ("cat", "dog", "owl", "bee")
    thresholds = torch.tensor([0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    found = multi_label_results(logits, probabilities, labels, names, thresholds)
    assert (found["n"], found["n_classes"], found["n_labels"]) == (60, 4, int(labels.sum()))
    assert found["without_images"] == ["bee"] and found["without_label"] == int((labels.sum(dim=1) == 0).sum()) >= 5
    each = average_precision_per_class(logits, labels)[:3]
    assert found["map"] == pytest.approx(each.mean().item())
    assert found["f1"] == pytest.approx(f1_per_class(probabilities > thresholds, labels)[0][:3].mean().item())
    assert found["classes"]["bee"]["average_precision"] is None and found["classes"]["bee"]["f1"] is None
    assert found["classes"]["dog"]["threshold"] == 0.3 and found["classes"]["dog"]["n"] == int(labels[:, 1].sum())
    nothing = multi_label_results(logits, probabilities, 0 * labels, names, thresholds)
    assert nothing["map"] is None and nothing["f1"] is None and nothing["f1_micro"] == 0.0


@pytest.mark.parametrize(
    "message, probabilities, labels",
    [
        ("run from", torch.tensor([[1.5, 0.2]]), torch.tensor([[1, 0]])),
        ("0 or 1 for each", torch.tensor([[0.5, 0.2]]), torch.tensor([[1, 0, 1]])),
        ("0 or 1 for each", torch.tensor([[0.5, 0.2]]), torch.tensor([[1, 2]])),
        ("not all finite", torch.tensor([[math.nan, 0.2]]), torch.tensor([[1, 0]])),
    ],
)
def test_what_cannot_be_measured_is_refused(message, probabilities, labels):
    for measure in (calibration_error_per_class, fit_thresholds):
        with pytest.raises(ValueError, match=message):
            measure(probabilities, labels)
