# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a threshold costs, counted again image by image; and the point of a detector on the curve."""

import numpy as np
import pytest
import torch
from helpers import CLASSES
from helpers.detectors import detector
from helpers.evaluations import benchmark, evaluator
from PIL import Image
from scipy.stats import binomtest

from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.evaluation.predictions import SetPredictions
from hf_robustft.evaluation.report import load_reports, save_reports
from hf_robustft.evaluation.threshold_curve import curve_of, curve_thresholds, threshold_curve
from hf_robustft.evaluation.threshold_plot import plot_thresholds


def scores(seed=0, n=200, m=150):
    rng = np.random.default_rng(seed)
    # Rounded, so that there are ties.
    return rng.normal(1, 1, n).round(1), rng.normal(-0.5, 1, m).round(1)


def test_every_point_is_that_of_a_loop():
    known, unknown = scores()
    shifted = known - 0.7
    found = threshold_curve(known, unknown, {"sketch": shifted}, score="energy", points=30)
    assert 10 < len(found["threshold"]) <= 30 and found["chosen"] is None
    for place, threshold in enumerate(found["threshold"]):
        refused, accepted = sum(value < threshold for value in known), sum(value >= threshold for value in unknown)
        for name, count, n in (("refusal", refused, 200), ("acceptance", accepted, 150)):
            ends = binomtest(int(count), n).proportion_ci(0.95, "exact")
            got = [found[name + ending][place] for ending in ("", "_low", "_high")]
            assert got == pytest.approx([count / n, ends.low, ends.high], abs=6e-7)
        assert found["shifts"]["sketch"][place] == pytest.approx(sum(value < threshold for value in shifted) / 200, abs=6e-7)


def test_a_curve_goes_from_all_to_none_with_images_between_its_points():
    known, unknown = scores(n=5000, m=5000)
    found = threshold_curve(known * np.pi, unknown, score="energy")
    assert len(found["threshold"]) == 41 and sorted(set(found["threshold"])) == found["threshold"]
    assert (found["refusal"][0], found["acceptance"][0]) == (0.0, 1.0) and (found["refusal"][-1], found["acceptance"][-1]) == (1.0, 0.0)
    both = np.concatenate([known * np.pi, unknown])
    steps = np.diff([np.mean(both < threshold) for threshold in found["threshold"]])
    assert steps.max() < 0.05
    assert len(curve_thresholds(np.ones(7), np.ones(3))) == 2
    assert curve_thresholds(np.array([1.0]), np.array([2.0]), points=2)[0] == 1.0


def with_scores(name, role, values, predicted):
    n = len(values)
    return SetPredictions(name, role, np.arange(n), np.array(predicted), np.full(n, 0.5), scores={"energy": np.array(values, float)})


@pytest.mark.parametrize("own", [None, {"cat": 3.0}])
def test_the_detector_is_measured_as_it_decides(own):
    """Also where predicted classes have thresholds of their own."""
    sets = {
        "photo": with_scores("photo", "id", [1, 2, 3, 4], ["cat", "dog", "cat", "dog"]),
        "unseen": with_scores("unseen", "open_set", [2, 2, 0, 5], ["cat", "dog", "dog", "cat"]),
    }
    judge = OpenSetDetector("energy", 2.0, 0.9, 0.9, ("cat", "dog"), 1.0, 10, thresholds=own)
    found = curve_of(sets, "unseen", "photo", [], judge)["chosen"]
    limits = {"cat": 2.0, "dog": 2.0, **(own or {})}
    for key, name, wanted in (("refusal", "photo", False), ("acceptance", "unseen", True)):
        item = sets[name]
        count = sum((value >= limits[of]) == wanted for value, of in zip(item.scores["energy"], item.predicted, strict=True))
        ends = binomtest(count, 4).proportion_ci(0.95, "exact")
        assert found[key] == pytest.approx({"share": count / 4, "low": ends.low, "high": ends.high, "n": 4})
    assert found["own_thresholds"] == len(own or {}) and found["threshold"] == 2.0
    assert curve_of(sets, "unseen", "photo", [])["chosen"] is None
    assert curve_of(sets, "unseen", "photo", [], OpenSetDetector("mcm", 0.5, 0.9, 0.9, ("cat", "dog"), 1.0, 10)) is None


def test_an_evaluation_has_the_curve_of_its_detector(tiny_clip, tmp_path):
    sets = [benchmark("id", 21), benchmark("shift", 13), benchmark("open_set", 10, classes=("ant", "fox"))]
    judge, measures = detector(tiny_clip, benchmark("validation", 17)), evaluator(sets)
    found = measures.evaluate(tiny_clip, detector=judge)
    curve = found.open_set["open_set"]["threshold_curve"]
    values = measures.scores
    refused = (values["id"]["energy"] < judge.threshold).double().mean().item()
    accepted = (values["open_set"]["energy"] >= judge.threshold).double().mean().item()
    assert (curve["chosen"]["refusal"]["share"], curve["chosen"]["acceptance"]["share"]) == (refused, accepted)
    assert curve["score"] == "energy" and list(curve["shifts"]) == ["shift"] and curve["chosen"]["refusal"]["n"] == 21
    path = save_reports(tmp_path / "evaluation.json", [found])
    assert load_reports(path) == [found]
    assert '"refusal": "0.0 ' in path.read_text()
    # Another model's detector marks nothing.
    other = OpenSetDetector("msp", 0.5, 0.9, 0.9, (*CLASSES[:-1], "zebra"), 1.0, 10)
    plain = measures.evaluate(tiny_clip, detector=other).open_set["open_set"]["threshold_curve"]
    assert plain["chosen"] is None and plain["score"] == "energy" and plain["threshold"] == curve["threshold"]
    assert torch.isfinite(torch.tensor(curve["threshold"])).all()


def test_the_picture_has_a_panel_for_each_curve(tmp_path):
    known, unknown = scores()
    curve = threshold_curve(known, unknown, {"sk$et$ch": known - 1}, score="energy")
    sizes = []
    for number in (1, 2):
        path = plot_thresholds({f"set {index}": {"threshold_curve": curve} for index in range(number)} | {"old": {}}, tmp_path / "a.png", dpi=50)
        sizes.append(Image.open(path).size)
    assert sizes == [(400, 180), (400, 360)]
    with pytest.raises(ValueError, match="threshold curve"):
        plot_thresholds({"old": {}}, tmp_path / "a.png")
