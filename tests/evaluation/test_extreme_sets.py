# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Sets at the ends of what there is: one image, classes without images, 2 and 20,000 classes, features without a direction, and
more rows than float32 can count.

The last in their full length, a minute each: `python -m pytest -m slow tests/evaluation/test_extreme_sets.py`.
"""

import itertools
import string
import time
import tracemalloc

import datasets
import numpy as np
import pytest
import torch
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.evaluations import benchmark, evaluator, whole_arrays

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.few_shot import few_shot_rows
from hf_robustft.data.hold_out import held_out_rows
from hf_robustft.data.randomness import example_rng
from hf_robustft.data.streams.order import Reader
from hf_robustft.evaluation import temperature
from hf_robustft.evaluation.calibration import (
    ClasswiseAccumulator,
    adaptive_from_confidence,
    ece_from_confidence,
    image_scores,
    reliability_bins,
)
from hf_robustft.evaluation.detection import detection_metrics
from hf_robustft.evaluation.detector import DETECTOR_SCORES, OpenSetDetector
from hf_robustft.evaluation.fitting import fit_on_validation
from hf_robustft.evaluation.open_set import score
from hf_robustft.evaluation.report import load_reports, save_reports
from hf_robustft.evaluation.spectrum import EmbeddingCovariance
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.training.checkpoints import LossWindow

LETTERS = (f"{first}{second}{third} a" for first, second, third in itertools.product(string.ascii_lowercase, repeat=3))
MANY = (*LETTERS, *map("".join, itertools.islice(itertools.product(string.ascii_lowercase, repeat=4), 2_424)))


# ---- One image, and classes without any ------------------------------------------------------------------------------


def of_labels(labels, role="id", classes=CLASSES):
    """A benchmark of images with these labels."""
    rows = image_dataset(len(labels)).remove_columns("label").add_column("label", labels)
    rows = rows.cast_column("label", datasets.ClassLabel(names=list(classes)))
    return Benchmark.from_dataset(rows, name=role, role=role, templates=TEMPLATES)


def test_a_set_of_one_image_has_every_number_and_is_said_to_be_small(tiny_clip, tmp_path):
    sets = [of_labels([1]), of_labels([3], "shift"), benchmark("open_set", 1, classes=("ant", "fox"))]
    found = evaluator(sets, knn_bank=benchmark("train", 1), knn_k=1)
    report = found.evaluate(tiny_clip)
    for name in ("id", "shift"):
        result, of = report.results[name], found.predictions.sets[name]
        right = float(of.predicted[0] == of.label[0])
        assert (result.n, result.accuracy, result.accuracy_se) == (1, right, 0.0)
        assert result.ece == pytest.approx(abs(of.confidence[0] - right), abs=1e-6) == result.adaptive_ece
        assert (result.nll, result.brier) == (of.nll[0], of.brier[0])
        assert sum(result.reliability["count"]) == 1
    assert report.spectrum["smallest_singular_value"] == report.spectrum["largest_singular_value"] == 0
    assert "1 images span at most 0" in report.spectrum["note"]
    for row in report.open_set["open_set"]["scores"].values():
        assert row["auroc"] in (0.0, 0.5, 1.0) and row["fpr95"] in (0.0, 1.0)
    assert "Too few images to tell small differences: id (1, ±0.0 points) and shift (1" in " ".join(report.table().split())
    save_reports(tmp_path / "evaluation.json", [report])
    assert load_reports(tmp_path / "evaluation.json")[0].metrics() == report.metrics()


@pytest.mark.numbers
def test_classes_without_images_stay_among_the_answers(tiny_clip):
    """Two of the four classes have no image: the numbers are those of the images, over the probabilities of all classes."""
    labels = [2, 2, 0, 2, 0, 2, 2]
    result = evaluator(of_labels(labels)).evaluate(tiny_clip).results["id"]
    _, logits, found = whole_arrays(tiny_clip, of_labels(labels))
    rows = logits.double().softmax(1).tolist()
    assert found.tolist() == labels and result.n_classes == 4
    assert result.accuracy == sum(max(row) == row[label] for row, label in zip(rows, labels, strict=True)) / 7
    brier = sum(sum((p - (c == label)) ** 2 for c, p in enumerate(row)) for row, label in zip(rows, labels, strict=True))
    assert result.brier == pytest.approx(brier / 7, rel=1e-4)
    classwise = []
    for c in range(4):
        bins: dict[int, float] = {}
        for row, label in zip(rows, labels, strict=True):
            place = int(row[c] * 15)
            bins[place] = bins.get(place, 0.0) + row[c] - (c == label)
        classwise.append(sum(map(abs, bins.values())) / 7)
    assert result.classwise_ece == pytest.approx(sum(classwise) / 4, rel=1e-4)
    assert result.predictions["majority"] == CLASSES[2] and result.predictions["majority_share"] == pytest.approx(5 / 7)


def test_a_set_without_images_is_refused_in_one_line(tiny_clip):
    with pytest.raises(ValueError, match="'id' is empty: it has no rows") as caught:
        empty = Benchmark.from_dataset(image_dataset(2).select([]), name="id", role="id", templates=TEMPLATES)
        evaluator(empty).evaluate(tiny_clip)
    assert "\n" not in str(caught.value)


def test_one_validation_image_fits_a_detector_and_is_said_to_fit_no_temperature(tiny_clip):
    """Of its own answer the likelihood grows without end, of the least likely class it falls: neither has a temperature."""
    fitted = []
    for label in range(4):
        images = of_labels([label], "validation")
        found, detector, sets, notes = fit_on_validation(tiny_clip, images, tiny_processor(), progress=False)
        assert (detector.n, detector.achieved_true_positive_rate) == (1, 1.0)
        assert sets.quantile is None and "too few for a coverage of 0.9" in notes.pop()
        assert bool(notes) == (found is None) and all(note.startswith("No temperature: ") for note in notes)
        if found is not None:
            fitted.append(label)
            assert 0 < found.temperature < np.inf and found.nll_after <= found.nll_before
    assert len(fitted) <= 2


# ---- 2 and 20,000 classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [MANY[:2], MANY], ids=["2", "20000"])
def test_few_and_many_classes_by_hand_in_seconds(tiny_clip, tmp_path, classes):
    labels, begun = [0, len(classes) - 1, 1], time.process_time()
    weight = torch.randn(len(classes), 16, generator=torch.Generator().manual_seed(0))
    head = ZeroShotHead(weight, classes)
    images = of_labels(labels, classes=classes)
    found = evaluator(images)
    report = found.evaluate(tiny_clip, head=head)
    result, of = report.results["id"], found.predictions.sets["id"]
    _, logits, _ = whole_arrays(tiny_clip, images, head)
    logits = logits.double()
    nll = torch.logsumexp(logits, 1) - logits[torch.arange(3), labels]
    assert result.nll == pytest.approx(nll.mean().item(), rel=1e-4)
    assert of.predicted.tolist() == [classes[i] for i in logits.argmax(1).tolist()]
    assert of.label.tolist() == [classes[i] for i in labels]
    probabilities = logits.softmax(1)
    gaps = probabilities.clone()
    gaps[torch.arange(3), labels] -= 1
    # Of 20,000 classes all probabilities but the labels' lie in one bin.
    assert result.classwise_ece <= gaps.abs().sum().item() / 3 / len(classes) + 1e-6
    path = save_reports(tmp_path / "evaluation.json", [report])
    assert path.stat().st_size < 60_000, "no number of the report is of a class"
    fit = OpenSetDetector.fit(logits, class_names=classes, logit_scale=14.0)
    assert [row.label for row in fit.predict(logits)] == of.predicted.tolist()
    assert time.process_time() - begun < 20


def test_rows_of_20000_classes_are_drawn_in_one_pass():
    """As by a search through all rows for each class, which would take minutes."""
    labels = np.random.default_rng(0).permutation(np.arange(40_000) % 20_000)
    begun = time.process_time()
    few = few_shot_rows(labels, 20_000, 1)
    stays, *parts = held_out_rows(labels, 20_000, 0.2, 1)
    assert time.process_time() - begun < 15
    assert np.bincount(labels[few], minlength=20_000).tolist() == [1] * 20_000
    assert np.sort(np.concatenate([stays, *parts])).tolist() == list(range(40_000))
    for part in parts:
        assert np.bincount(labels[part], minlength=20_000).tolist() == [1] * 20_000
    for label in (0, 7, 19_999):
        rows = np.flatnonzero(labels == label).tolist()
        drawn = sorted(rows, key=lambda row, label=label: example_rng(0, label, row, "few-shot").random())
        assert sorted(set(few.tolist()) & set(rows)) == drawn[:1]


def test_a_temperature_of_many_classes_is_fitted_in_pieces(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 30, generator=generator) * 3
    labels = torch.where(torch.rand(40, generator=generator) < 0.6, logits.argmax(1), torch.arange(40) % 30)
    whole = TemperatureScaling().fit(logits, labels).temperature
    monkeypatch.setattr(temperature, "PIECE_ELEMENTS", 100)
    assert TemperatureScaling().fit(logits, labels).temperature == pytest.approx(whole, rel=1e-13)


# ---- Precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_logits_in_half_precision_are_those_of_the_same_logits_in_float64(dtype):
    logits = (100 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))).to(dtype)
    labels = torch.arange(50) % 7
    half, double = (image_scores(values, labels)[0] for values in (logits, logits.double()))
    assert all(torch.equal(half[name], double[name]) and half[name].dtype == torch.float64 for name in half)
    assert torch.equal(score("energy", logits=logits), score("energy", logits=logits.double()))


@pytest.mark.parametrize("name", DETECTOR_SCORES)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4, 1e9, 1e30])
def test_a_detector_accepts_its_share_at_any_scale(name, scale):
    cosines = torch.rand(100, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    fit = OpenSetDetector.fit(scale * cosines, class_names=list("abcde"), logit_scale=scale, score=name)
    assert np.isfinite(fit.threshold) and fit.achieved_true_positive_rate >= 0.95
    assert sum(row.is_known for row in fit.predict(scale * cosines)) >= 95


@pytest.mark.parametrize("size", [0.0, 1e25])
def test_images_without_a_direction_are_named_and_not_measured(tiny_clip, size):
    """A projection of zeros, or of a model that diverged: no class is nearer than another."""
    with torch.no_grad():
        tiny_clip.visual_projection.weight.fill_(size)
    with pytest.raises(ValueError, match="Data set 'id', images 0 to 1: .* not all finite"):
        evaluator(of_labels([1, 2])).evaluate(tiny_clip)


def test_images_that_are_all_the_same_have_no_spectrum_and_no_distance():
    """Their covariance has rank 0, and what is rounded below zero is one of zero."""
    same = torch.nn.functional.normalize(torch.randn(1, 6, generator=torch.Generator().manual_seed(0)), dim=1).expand(9, 6)
    values = EmbeddingCovariance(6)
    for part in same.split(4):
        values.update(part)
    assert ((values.singular_values() >= 0) & (values.singular_values() < 1e-15)).all()
    distances = score("knn", features=same, bank=same, k=9)
    assert ((distances <= 0) & (distances > -1e-12)).all()
    assert detection_metrics(distances * 0, distances * 0)["auroc"] == 0.5


# ---- More rows than float32 can count ------------------------------------------------------------------------------------


ROWS = [100_000, pytest.param(20_000_000, marks=pytest.mark.slow)]


@pytest.mark.parametrize("n", ROWS)
def test_sums_over_millions_of_rows_are_exact(n):
    """20 million are beyond 2^24, up to which float32 counts."""
    random, size, edges = np.random.default_rng(0), 100_000, torch.linspace(0, 1, 16).numpy()
    classwise, covariance = ClasswiseAccumulator(2), EmbeddingCovariance(2)
    confidence, correct = np.empty(n), np.empty(n, dtype=bool)
    sums, squares, gaps = np.zeros(2, np.longdouble), np.zeros((2, 2), np.longdouble), np.zeros((2, 16), np.longdouble)
    for start in range(0, n, size):
        # Most are sure, so that sums in float32 drift.
        first = 1 - random.random(size) ** 4 / 2
        labels = (random.random(size) > first).astype(np.int64)
        confidence[start : start + size], correct[start : start + size] = first, labels == 0
        rows = np.stack([first, 1 - first], axis=1)
        classwise.update(torch.from_numpy(rows), torch.from_numpy(labels))
        embeds = np.stack([1000 + first, first * random.random(size)], axis=1)
        covariance.update(torch.from_numpy(embeds))
        sums += embeds.sum(0, dtype=np.longdouble)
        squares += (embeds - [1000.8, 0.4]).T @ (embeds - [1000.8, 0.4])
        for c in range(2):
            bins = np.searchsorted(edges, rows[:, c].astype(np.float32), side="right") - 1
            gaps[c] += np.bincount(bins, rows[:, c] - (labels == c), minlength=16)
    assert classwise.n == covariance.n == n
    assert classwise.compute() == pytest.approx(float(np.abs(gaps).sum() / 2 / n), rel=1e-9)
    mean = sums / n
    shift = mean - [1000.8, 0.4]
    want = (squares / n - np.outer(shift, shift)).astype(np.float64)
    assert np.abs(covariance.mean.numpy() - mean.astype(np.float64)).max() < 1e-9
    assert np.abs(covariance.covariance().numpy() - want).max() < 1e-10
    bins = np.searchsorted(edges, confidence.astype(np.float32), side="right") - 1
    found = reliability_bins(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert found["count"] == np.bincount(bins, minlength=16).tolist() and sum(found["count"]) == n
    by_bin = np.bincount(bins, confidence - correct, minlength=16)
    ece = ece_from_confidence(torch.from_numpy(confidence), torch.from_numpy(correct))
    # A confidence may be moved to the edge of its bin in float32.
    assert ece == pytest.approx(np.abs(by_bin).sum() / n, abs=1e-7)
    assert 0 <= adaptive_from_confidence(torch.from_numpy(confidence), torch.from_numpy(correct)) < 0.01
    assert torch.from_numpy(correct).double().mean().item() == int(correct.sum()) / n


class Rows:
    """A stream of shards of a thousand rows each, without a file."""

    counts, where, shuffles_in_windows = None, "made-up data", True

    def __init__(self, shards):
        self.source, self.n_shards = self, shards

    def rows(self, shard, start=0, step=1, part=0):
        return ((row, {}) for row in range(start, 1000) if row % step == part)

    def row_id(self, shard, row):
        return shard * 1000 + row


@pytest.mark.parametrize("n", [20_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_a_pass_over_millions_of_rows_gives_each_once_in_the_memory_of_a_window(n):
    seen, count, total = np.zeros(n, dtype=bool), 0, 0
    for _, item in Reader(Rows(n // 1000), seed=1, buffer=1000):
        if item.epoch:
            break
        seen[item.index] = True
        count, total = count + 1, total + item.index
        if count == n - 10_000:
            # It makes each row ten times as slow.
            tracemalloc.start()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen.all() and (count, total) == (n, n * (n - 1) // 2)
    # Two windows of a thousand rows; what was kept of all ten thousand would be more.
    assert peak < 2e6


def test_a_long_window_of_losses_counts_beyond_2_to_the_24():
    window = LossWindow()
    window.add({"loss": torch.tensor(2.0**24)}, 1)
    for _ in range(9):
        window.add({"loss": torch.tensor(1.0)}, 1)
    window.steps = 2**24 + 9
    assert window.means(lambda value: value) == {"loss": 1.0}
