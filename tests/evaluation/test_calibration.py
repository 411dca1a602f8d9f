# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Calibration errors and proper scores against golden data, cases worked by hand, and second sources."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from hf_robustft.evaluation import resampling
from hf_robustft.evaluation.calibration import (
    ClasswiseAccumulator,
    adaptive_calibration_error,
    adaptive_from_confidence,
    bootstrap_standard_error,
    brier_score,
    classwise_calibration_error,
    ece10_batch_mean,
    ece_from_confidence,
    ece_noise_floor,
    expected_calibration_error,
    image_scores,
    negative_log_likelihood,
    reliability_bins,
)

pytestmark = pytest.mark.numbers

ON_PROBABILITIES = (
    expected_calibration_error,
    adaptive_calibration_error,
    classwise_calibration_error,
    ece10_batch_mean,
    brier_score,
    negative_log_likelihood,
)


def random_case(n=500, classes=7, seed=0, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (n,), generator=generator)


# Two images at 0.9 (one right), one at 0.6 (right), one at 0.3 (wrong): the bins of width 1/2 hold
# [0.3] and [0.9, 0.9, 0.6], with accuracies 0 and 2/3 and mean confidences 0.3 and 0.8.
CONFIDENCE = torch.tensor([0.9, 0.6, 0.9, 0.3])
CORRECT = torch.tensor([True, True, False, False])


@pytest.mark.parametrize("temperature", ["0.0", "0.6", "2.0"])
def test_ece_and_its_batch_mean_equal_the_reference(golden, temperature):
    data = golden("g_ece")
    scale = float(temperature) or 1.0
    probabilities = (data["main/logits"] * scale).softmax(dim=1)
    labels = data["main/labels"]
    want = {key: data[f"main/ts{temperature}/{key}"].item() for key in ("top1", "ece_batch", "ece_dataset")}
    assert expected_calibration_error(probabilities, labels, 10) == pytest.approx(want["ece_dataset"], abs=2e-6)
    assert ece10_batch_mean(probabilities, labels, 64) == pytest.approx(want["ece_batch"], abs=2e-6)
    scores, _ = image_scores(data["main/logits"] * scale, labels)
    assert scores["correct"].mean().item() == want["top1"]


def test_ece_of_a_class_subset_equals_the_reference(golden):
    data = golden("g_ece")
    logits = data["subset/logits"][:, data["subset/class_mask"]]
    probabilities = logits.softmax(dim=1)
    assert ece10_batch_mean(probabilities, data["subset/labels"], 64) == pytest.approx(
        data["subset/ece_batch"].item(), abs=2e-6
    )
    scores, _ = image_scores(logits, data["subset/labels"])
    assert scores["correct"].mean().item() == data["subset/top1"].item()


def test_ece_on_bin_edges_equals_the_reference(golden):
    data = golden("g_ece")
    got = expected_calibration_error(data["edges/probs"], data["edges/labels"], 10)
    assert got == pytest.approx(data["edges/ece_dataset"].item(), abs=2e-6)


def test_ece_by_hand():
    # 1/4 * |0 - 0.3| + 3/4 * |2/3 - 0.8|
    assert ece_from_confidence(CONFIDENCE, CORRECT, 2) == pytest.approx(0.175, abs=1e-7)


def test_bins_are_closed_on_the_left_and_one_has_its_own():
    # 0.5 belongs to [0.5, 1): a right-closed histogram would have put it with 0.3. 1.0 stands alone.
    bins = reliability_bins(torch.tensor([0.3, 0.5, 0.9, 1.0]), torch.tensor([0, 0, 1, 0]), 2)
    assert bins == {
        "lower": [0.0, 0.5, 1.0],
        "upper": [0.5, 1.0, 1.0],
        "count": [1, 2, 1],
        "confidence": [pytest.approx(0.3), pytest.approx(0.7), 1.0],
        "accuracy": [0.0, 0.5, 0.0],
    }
    assert ece_from_confidence(torch.tensor([0.9, 1.0]), torch.tensor([1, 0]), 2) == pytest.approx(0.55)
    assert reliability_bins(torch.tensor([0.9]), torch.tensor([1]), 2)["accuracy"] == [None, 1.0, None]


@pytest.mark.parametrize("n_bins", [1, 7, 10, 15])
def test_confidences_are_binned_in_float32(n_bins):
    # All edges, and their neighbours in float32, as float64: torchmetrics' own float32 result is the yardstick.
    edges = torch.linspace(0, 1, n_bins + 1)[1:]
    confidence = torch.cat(
        [edges, torch.nextafter(edges, torch.zeros(())), torch.nextafter(edges[:-1], torch.ones(()))]
    )
    confidence = confidence[confidence > 0.5]
    correct = torch.arange(len(confidence)) % 3 == 0
    want = multiclass_calibration_error(
        torch.stack([confidence, 1 - confidence], dim=1), (~correct).long(), num_classes=2, n_bins=n_bins
    )
    assert ece_from_confidence(confidence.double(), correct, n_bins) == pytest.approx(want.item(), abs=1e-6)


def test_sums_do_not_drift_on_large_sets():
    generator = torch.Generator().manual_seed(0)
    confidence = 1 - 0.003 * torch.rand(100_000, generator=generator, dtype=torch.float64)
    correct = torch.rand(100_000, generator=generator) < 0.95
    want = abs(correct.double().mean() - confidence.mean()).item()
    assert ece_from_confidence(confidence, correct, 1) == pytest.approx(want, abs=1e-9)


def test_ece_is_the_sum_over_the_reliability_bins():
    logits, labels = random_case()
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    bins = reliability_bins(confidence, predicted == labels)
    gaps = [n * abs(a - c) for n, a, c in zip(bins["count"], bins["accuracy"], bins["confidence"], strict=True) if n]
    assert sum(bins["count"]) == len(labels)
    assert expected_calibration_error(logits.softmax(dim=1), labels) == pytest.approx(sum(gaps) / 500, abs=1e-7)


def test_batch_mean_is_never_below_the_whole_set():
    logits, labels = random_case(n=301)
    whole = expected_calibration_error(logits.softmax(1), labels, 10)
    assert ece10_batch_mean(logits.softmax(1), labels, 301) == pytest.approx(whole, abs=1e-12)
    assert ece10_batch_mean(logits.softmax(1), labels, 50) > whole


def test_adaptive_by_hand():
    # Sorted 0.3 | 0.6 | 0.9 0.9 in two halves: |0 + 1 - 0.9| = 0.1 and |1 - 1.8| = 0.8, over four images.
    assert adaptive_from_confidence(CONFIDENCE, CORRECT, 2) == pytest.approx((0.1 + 0.8) / 4, abs=1e-7)


def test_adaptive_cuts_like_array_split():
    logits, labels = random_case(n=103)
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    order = np.argsort(confidence.numpy())
    gaps = ((predicted == labels).double() - confidence).numpy()[order]
    want = sum(abs(part.sum()) for part in np.array_split(gaps, 15)) / 103
    assert adaptive_calibration_error(logits.softmax(dim=1), labels) == pytest.approx(want, abs=1e-12)


def test_adaptive_with_ties_ignores_the_order_of_images():
    confidence = torch.tensor([0.5] * 6 + [0.8] * 3)
    correct = torch.tensor([1, 0, 1, 0, 0, 0, 1, 1, 0])
    # Three bins of three: all of 0.5 falls in the first, 0.8 in the third: |2 - 3| and |2 - 2.4|, over nine images.
    for seed in range(5):
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        got = adaptive_from_confidence(confidence[order], correct[order], 3)
        assert got == pytest.approx((1 + 0.4) / 9, abs=1e-7)


def test_adaptive_with_fewer_images_than_bins():
    # Every image stands alone: the mean of |correct - confidence|.
    assert adaptive_from_confidence(torch.tensor([0.9, 0.6]), torch.tensor([1, 0]), 15) == pytest.approx(
        0.35, abs=1e-7
    )


def test_classwise_by_hand():
    probabilities = torch.tensor([[0.75, 0.25], [0.625, 0.375], [0.125, 0.875]])
    labels = torch.tensor([0, 1, 1])
    # Two bins. Class 0: [0.125 | -] and [0.75, 0.625 | one right]: 0.125 + 0.375. Class 1 mirrors it.
    assert classwise_calibration_error(probabilities, labels, 2) == pytest.approx(0.5 / 3, abs=1e-10)


def test_classwise_equals_a_loop_over_classes_and_bins():
    logits, labels = random_case()
    probabilities = logits.softmax(dim=1)
    total = 0.0
    for c in range(7):
        p, y = probabilities[:, c].numpy(), (labels == c).numpy()
        bins = np.floor(p * 15).astype(int)
        total += sum(abs(p[bins == b].sum() - y[bins == b].sum()) for b in range(15)) / len(p)
    assert classwise_calibration_error(probabilities, labels) == pytest.approx(total / 7, abs=1e-10)


@pytest.mark.same_bits("sums of whole units in integers, whose order does not matter")
@pytest.mark.parametrize("batch_size", [1, 64, 499])
def test_classwise_streamed_equals_whole_to_the_bit(batch_size):
    logits, labels = random_case()
    probabilities = logits.softmax(dim=1)
    accumulator = ClasswiseAccumulator(7)
    for start in range(0, 500, batch_size):
        accumulator.update(probabilities[start : start + batch_size], labels[start : start + batch_size])
    assert accumulator.compute() == classwise_calibration_error(probabilities, labels)
    assert accumulator.gaps.shape == (7, 16)


def test_classwise_accumulator_refuses_other_classes_and_nothing():
    accumulator = ClasswiseAccumulator(3)
    with pytest.raises(ValueError, match="No images"):
        accumulator.compute()
    with pytest.raises(ValueError, match="2 classes.*made for 3"):
        accumulator.update(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="n_classes is 0"):
        ClasswiseAccumulator(0)


def test_proper_scores_equal_scikit_learn():
    logits, labels = random_case()
    probabilities = logits.softmax(dim=1)
    brier = brier_score_loss(labels.numpy(), probabilities.numpy(), labels=list(range(7)), scale_by_half=False)
    assert brier_score(probabilities, labels) == pytest.approx(brier, rel=1e-12)
    nll = log_loss(labels.numpy(), probabilities.numpy(), labels=list(range(7)))
    assert negative_log_likelihood(probabilities, labels) == pytest.approx(nll, rel=1e-12)
    assert negative_log_likelihood(logits, labels, from_logits=True) == pytest.approx(nll, rel=1e-12)


def test_per_image_scores_average_to_the_whole():
    logits, labels = random_case()
    scores, probabilities = image_scores(logits, labels)
    assert scores["brier"].mean().item() == pytest.approx(brier_score(probabilities, labels), rel=1e-12)
    assert scores["nll"].mean().item() == pytest.approx(negative_log_likelihood(probabilities, labels), rel=1e-12)
    assert ece_from_confidence(scores["confidence"], scores["correct"]) == expected_calibration_error(
        probabilities, labels
    )


def test_nll_from_logits_survives_what_float32_probabilities_do_not():
    logits, label = torch.tensor([[0.0, 200.0]]), torch.tensor([0])
    assert negative_log_likelihood(logits, label, from_logits=True) == 200.0
    assert negative_log_likelihood(logits.softmax(dim=1), label) == float("inf")


def test_noise_floor_by_hand():
    # Two images at 0.5 in one bin: 0, 1 or 2 right with 1/4, 1/2, 1/4, so an ECE of 1/2, 0, 1/2.
    floor = ece_noise_floor(torch.tensor([0.5, 0.5]), 15, draws=40_000)
    assert floor == pytest.approx(0.25, abs=4 * 0.25 / 200)
    # One image at 0.75: |1 - 0.75| with 3/4, |0 - 0.75| with 1/4.
    assert ece_noise_floor(torch.tensor([0.75]), 15, draws=40_000) == pytest.approx(0.375, abs=0.006)
    assert ece_noise_floor(torch.ones(9)) == 0.0


def test_noise_floor_falls_with_the_number_of_images():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(6400, generator=generator)
    floors = [ece_noise_floor(confidence[:n]) for n in (100, 6400)]
    # As one over the square root of n: 64 times the images, an eighth of the floor.
    assert floors[0] / floors[1] == pytest.approx(8, rel=0.1)
    # A model that is right with the probability it claims shows that much, and no more.
    calibrated = torch.rand(6400, generator=generator) < confidence
    assert ece_from_confidence(confidence, calibrated) < 2 * floors[1]


def test_noise_floor_is_the_mean_over_simulated_labels():
    confidence = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = torch.bucketize(confidence.float(), torch.linspace(0, 1, 16), right=True).sort(stable=True).indices
    rows = np.random.default_rng(3).random((50, 60))
    sorted_confidence = confidence[order]
    errors = [ece_from_confidence(sorted_confidence, torch.from_numpy(row) < sorted_confidence) for row in rows]
    assert ece_noise_floor(confidence, draws=50, seed=3) == pytest.approx(np.mean(errors), abs=1e-7)


def test_bootstrap_equals_resampling_one_draw_at_a_time():
    logits, labels = random_case(n=80)
    scores, _ = image_scores(logits, labels)
    got = bootstrap_standard_error(**scores, draws=60, seed=5)
    drawn = torch.from_numpy(np.random.default_rng(5).integers(0, 80, (60, 80)))
    for name, values in (("accuracy", scores["correct"]), ("nll", scores["nll"]), ("brier", scores["brier"])):
        assert got[name] == pytest.approx(values[drawn].mean(dim=1).std().item(), rel=1e-9)
    errors = [ece_from_confidence(scores["confidence"][row], scores["correct"][row]) for row in drawn]
    assert got["ece"] == pytest.approx(np.std(errors, ddof=1), rel=1e-5)


def test_bootstrap_equals_the_textbook_standard_error():
    correct = torch.arange(400) % 4 == 0
    got = bootstrap_standard_error(torch.full((400,), 0.5), correct, draws=4000)
    assert got.keys() == {"accuracy", "ece"}
    assert got["accuracy"] == pytest.approx((0.25 * 0.75 / 400) ** 0.5, rel=0.05)


def test_resampling_does_not_depend_on_how_draws_are_cut(monkeypatch):
    logits, labels = random_case(n=50)
    scores, _ = image_scores(logits, labels)
    whole = bootstrap_standard_error(**scores, draws=101), ece_noise_floor(scores["confidence"])
    monkeypatch.setattr(resampling, "CHUNK_ELEMENTS", 350)
    pieces = bootstrap_standard_error(**scores, draws=101), ece_noise_floor(scores["confidence"])
    assert pieces[0] == pytest.approx(whole[0], rel=1e-12) and pieces[1] == pytest.approx(whole[1], rel=1e-12)
    assert bootstrap_standard_error(**scores, draws=101, seed=1) != pieces[0]


@pytest.mark.parametrize("function", ON_PROBABILITIES)
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (torch.full((2, 2), 0.5), torch.tensor([0, 1, 1]), r"shape \(3,\)"),
        (torch.full((4,), 0.25), torch.tensor([0]), r"shape \(4,\)"),
        (torch.full((2, 2), 0.5), torch.tensor([0.0, 1.0]), "integer"),
        (torch.full((2, 2), 1), torch.tensor([0, 1]), "floating"),
        (torch.full((2, 2), 0.5), torch.tensor([0, 2]), "from 0 to 2, but .* 2 classes"),
        (torch.full((2, 2), 0.5), torch.tensor([-1, 0]), "from -1"),
        (torch.full((2, 2), 0.6), torch.tensor([0, 1]), "sum of one by 0.2"),
        (torch.tensor([[1.5, -0.5]]), torch.tensor([0]), "negative"),
        (torch.tensor([[float("nan"), 0.5]]), torch.tensor([0]), "finite"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "at least one image"),
    ],
)
def test_what_is_no_distribution_is_refused(function, probabilities, labels, message):
    with pytest.raises(ValueError, match=message):
        function(probabilities, labels)


@pytest.mark.parametrize("n_bins", [0, -1, 2.5, True])
def test_bins_must_be_a_positive_whole_number(n_bins):
    probabilities, labels = torch.full((2, 2), 0.5), torch.tensor([0, 1])
    for function in ON_PROBABILITIES[:3]:
        with pytest.raises(ValueError, match="n_bins"):
            function(probabilities, labels, n_bins)
    for function in (ece_from_confidence, reliability_bins, adaptive_from_confidence):
        with pytest.raises(ValueError, match="n_bins"):
            function(CONFIDENCE, CORRECT, n_bins)
    with pytest.raises(ValueError, match="n_bins"):
        ece_noise_floor(CONFIDENCE, n_bins)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        (torch.tensor([0.5]), torch.tensor([1, 0]), "shapes"),
        (torch.zeros(0), torch.zeros(0), "at least one image"),
        (torch.tensor([1.5]), torch.tensor([1]), r"outside \[0, 1\]"),
        (torch.tensor([float("nan")]), torch.tensor([1]), "not a number"),
        (torch.tensor([0.5]), torch.tensor([2]), "0 and 1"),
    ],
)
def test_what_is_no_confidence_is_refused(confidence, correct, message):
    for function in (ece_from_confidence, adaptive_from_confidence, reliability_bins, bootstrap_standard_error):
        with pytest.raises(ValueError, match=message):
            function(confidence, correct)


def test_other_impossible_settings_are_refused():
    probabilities, labels = torch.full((2, 2), 0.5), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="batch_size is 0"):
        ece10_batch_mean(probabilities, labels, 0)
    with pytest.raises(ValueError, match="draws is 1"):
        bootstrap_standard_error(CONFIDENCE, CORRECT, draws=1)
    with pytest.raises(ValueError, match="draws is 0"):
        ece_noise_floor(CONFIDENCE, draws=0)
    with pytest.raises(ValueError, match="nll of shape"):
        bootstrap_standard_error(CONFIDENCE, CORRECT, nll=torch.ones(3))
    with pytest.raises(ValueError, match="brier of shape"):
        bootstrap_standard_error(CONFIDENCE, CORRECT, brier=torch.full((4,), float("inf")))
    with pytest.raises(ValueError, match="logits are not all finite"):
        negative_log_likelihood(torch.tensor([[float("inf"), 0.0]]), torch.tensor([0]), from_logits=True)
