# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The sentence at the top of a card follows from the numbers."""

import pytest

from hf_robustft.evaluation.report import DatasetResult, EvaluationReport
from hf_robustft.publishing.verdict import (
    calibration_verdict,
    confidence_gap,
    summary_sentence,
    warning_sentence,
)

# Bins as (count, mean confidence, accuracy), and their ECE.
CALIBRATED = [(100, 0.25, 0.26), (300, 0.75, 0.74)]
HIGH = [(100, 0.3, 0.2), (300, 0.9, 0.7)]
LOW = [(100, 0.3, 0.4), (300, 0.7, 0.9)]
MIXED = [(200, 0.3, 0.5), (200, 0.9, 0.7)]


def result(name, bins, role="shift", ece_se=0.01, floor=0.02):
    n = sum(count for count, _, _ in bins)
    columns = {"count": [*(b[0] for b in bins), 0], "confidence": [*(b[1] for b in bins), None]}
    columns["accuracy"] = [*(b[2] for b in bins), None]
    accuracy = sum(count * right for count, _, right in bins) / n
    ece = sum(count * abs(confidence - right) for count, confidence, right in bins) / n
    rest = dict.fromkeys(("accuracy_se", "adaptive_ece", "classwise_ece", "nll", "nll_se", "brier", "brier_se"), 0.1)
    return DatasetResult(
        name=name, role=role, n=n, n_classes=4, accuracy=accuracy, ece=ece, ece_se=ece_se, ece_noise_floor=floor,
        reliability=columns, **rest,
    )  # fmt: skip


def report(inside, *shifts, model="carot"):
    results = {} if inside is None else {"photo": result("photo", inside, "id")}
    return EvaluationReport(model, results | {f"shift{i}": result(f"shift{i}", bins) for i, bins in enumerate(shifts)})


@pytest.mark.parametrize(
    ("bins", "gap", "verdict"),
    [(CALIBRATED, 0.005, "noise"), (HIGH, 0.175, "high"), (LOW, -0.175, "low"), (MIXED, 0.0, "mixed")],
)
def test_gap_and_verdict(bins, gap, verdict):
    assert confidence_gap(result("a", bins)) == pytest.approx(gap)
    assert calibration_verdict(result("a", bins)) == verdict


def test_noise_reaches_two_standard_errors_above_the_floor():
    assert calibration_verdict(result("a", HIGH, ece_se=0.08, floor=0.02)) == "noise"
    assert calibration_verdict(result("a", HIGH, ece_se=0.07, floor=0.02)) == "high"


@pytest.mark.parametrize(
    ("inside", "shifts", "ending"),
    [
        (CALIBRATED, [CALIBRATED], "(no more than sampling noise): read it as a probability on data like these."),
        (CALIBRATED, [HIGH], "(too high): read it as a probability on data like the training data, not under shift."),
        (CALIBRATED, [], "read it as a probability on data like the training data; shifts were not measured."),
        (HIGH, [HIGH, HIGH], "(too high on all 2): do not read it as a probability without recalibration."),
        (HIGH, [CALIBRATED], "do not read it as a probability without recalibration."),
        (
            LOW,
            [HIGH, LOW, LOW],
            "(too high on 1 and too low on 2): do not read it as a probability without recalibration.",
        ),
        (None, [CALIBRATED], "read it as a probability on shifts like these."),
    ],
)
def test_advice(inside, shifts, ending):
    assert summary_sentence("It,", report(inside, *shifts), None).endswith(ending)


def test_the_sentence_has_the_numbers_of_both_models():
    before = report(CALIBRATED, CALIBRATED, LOW, model="zero-shot")
    sentence = summary_sentence("The model,", report(CALIBRATED, HIGH, HIGH), before)
    assert sentence == (
        "The model, labels 62.0 % of the 400 images of photo (zero-shot: 62.0 %) and 57.5 % on average over 2 shifts "
        "(zero-shot: 69.8 %) correctly; its confidence is off by 1.0 points on photo (ECE; no more than sampling noise) "
        "and 17.5 points under shift (too high on all 2): read it as a probability on data like the training data, not "
        "under shift."
    )


def test_without_test_sets_it_says_so():
    only = EvaluationReport("carot", {"v": result("v", HIGH, "validation")})
    assert "not measured on a test set" in summary_sentence("It", only, None)


def test_what_became_worse_is_said():
    before, after = report(CALIBRATED, LOW, model="zero-shot"), report(CALIBRATED, HIGH)
    for item in (*before.results.values(), *after.results.values()):
        item.accuracy_se = 0.02
    assert warning_sentence(after, before) == (
        "Worse than zero-shot, each by more than two standard errors, with Holm's correction for 6 comparisons: "
        "accuracy on shift0 (77.5 % before, 57.5 % now)."
    )
    after.results["shift0"].accuracy_se = 0.2
    assert warning_sentence(after, before) == ""
    assert "ECE on photo (1.0 % before, 17.5 % now)" in warning_sentence(report(HIGH), before)
    assert warning_sentence(after, after) == "" and warning_sentence(after, None) == ""


def test_a_model_at_chance_is_not_praised_for_its_calibration():
    chance = [(300, 0.25, 0.25), (100, 0.26, 0.26)]
    collapsed = report(chance, CALIBRATED)
    assert summary_sentence("It,", collapsed, None).endswith(
        "it says nothing about images like those of photo, whatever its confidence is."
    )
    assert "No better than chance on photo: 25.2 % of 400 images are right" in warning_sentence(collapsed, None)
    assert "guessing among 4 classes would get 25.0 %" in warning_sentence(collapsed, None)


def test_one_class_for_everything_is_said():
    found = report(CALIBRATED)
    shares = {"class": "a_b", "share": 0.95, "label_share": 0.6, "majority": "a_b", "majority_share": 0.6}
    found.results["photo"].predictions = shares
    said = warning_sentence(found, None)
    assert "95.0 % of the answers are a_b, which 60.0 % of the images are" in said
    assert "always answering a_b would be right for 60.0 %" in said and "No better than chance on photo: 62.0 %" in said
    found.results["photo"].predictions = shares | {"label_share": 0.94, "majority_share": 0.2}
    assert warning_sentence(found, None) == ""
