# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A threshold for a stated error: by brute force, in simulation, class by class, and in the detector and its file."""

import json
import math

import pytest
import torch
from helpers import CLASSES, TEMPLATES
from scipy.stats import binom, binomtest

from hf_robustft.evaluation.detector import DETECTOR_SCORES, OpenSetDetector, fold_temperature
from hf_robustft.evaluation.intervals import upper_bound
from hf_robustft.evaluation.open_set import score
from hf_robustft.evaluation.risk_control import allowed_errors, choose_threshold, least_shown
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.metadata import METADATA_FILE
from hf_robustft.publishing.metadata import write_robustft_json

pytestmark = pytest.mark.numbers

SCALE = 40.0
#: Of the tests that draw: what a seed may be off by once in two thousand.
TAIL = 5e-4


def rounded(n, seed, shift=0.0):
    """Scores of which many are equal."""
    return (torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift).mul(5).round() / 5


@pytest.mark.parametrize("max_error, confidence", [(0.05, 0.95), (0.2, 0.9), (0.5, 0.99)])
def test_the_threshold_is_the_first_of_the_sequence_that_brute_force_finds(max_error, confidence):
    for seed in range(5):
        known, unknown = rounded(200, seed, 2.0), rounded(150, seed + 50)
        candidates = sorted({*known.tolist(), *unknown.tolist()})
        candidates += [math.nextafter(value, math.inf) for value in candidates]
        found = choose_threshold(known, unknown, max_error=max_error, confidence=confidence)

        def fine(values, wrong):
            return upper_bound(int(wrong(values).sum()), len(values), confidence) <= max_error

        passing = [t for t in candidates if fine(unknown, lambda values, t=t: values >= t)]
        assert found.threshold == min(passing) and found.controls == "false_acceptance"
        most = allowed_errors(150, max_error, confidence)
        assert (unknown >= found.threshold).sum() <= most and found.bound == upper_bound(most, 150, confidence) <= max_error
        wanted = binomtest(int((known < found.threshold).sum()), 200).proportion_ci(confidence, method="exact")
        facts = found.false_refusal
        assert facts["share"] == (known < found.threshold).double().mean() and facts["n"] == 200
        assert (facts["low"], facts["high"]) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
        alone = choose_threshold(known, max_error=max_error, confidence=confidence)
        passing = [t for t in candidates if t <= known.max() and fine(known, lambda values, t=t: values < t)]
        # Between two scores all thresholds are alike.
        assert (known < alone.threshold).sum() == (known < max(passing)).sum()
        assert alone.threshold in known and alone.false_acceptance is None and alone.controls == "false_refusal"


def test_counts_by_hand():
    assert least_shown(0.05) == 59 and allowed_errors(59, 0.05) == 0 and allowed_errors(58, 0.05) == -1
    for n in (1, 20, 59, 93, 300):
        wanted = [k for k in range(n) if upper_bound(k, n, 0.95) <= 0.05]
        assert allowed_errors(n, 0.05) == (max(wanted) if wanted else -1)
    with pytest.raises(ValueError, match="max_false_refusal 0.05.*at least 59"):
        choose_threshold(rounded(58, 0), max_error=0.05)
    for options in ({"max_error": 0.0}, {"max_error": 1.0}, {"max_error": 0.1, "confidence": 1.0}, {"max_error": True}):
        with pytest.raises(ValueError, match="confidence" if "confidence" in options else "max_false_refusal"):
            choose_threshold(rounded(100, 0), **options)
    with pytest.raises(ValueError, match="max_false_acceptance"):
        choose_threshold(rounded(100, 0), max_error=0.1, control="false_acceptance")


@pytest.mark.parametrize("control", ["false_acceptance", "false_refusal"])
@pytest.mark.parametrize("n", [100, 300])
def test_the_true_error_exceeds_the_stated_one_as_rarely_as_promised(control, n):
    """Scores are uniform, so that the true error of a threshold is known: it exceeds 5 % in at most 5 % of 1,000 draws."""
    generator, violated, errors = torch.Generator().manual_seed(n), 0, 0.0
    for _ in range(1000):
        scores = torch.rand(n, generator=generator, dtype=torch.float64)
        if control == "false_acceptance":
            error = 1 - choose_threshold([0.5], scores, max_error=0.05).threshold
        else:
            error = choose_threshold(scores, max_error=0.05).threshold
        violated += error > 0.05
        errors += error / 1000
    # How often it is exceeded is known: where at most the allowed number of n falls below a true 5 %.
    share = binom.cdf(allowed_errors(n, 0.05), n, 0.05)
    assert share <= 0.05
    assert binom.ppf(TAIL, 1000, share) <= violated <= binom.ppf(1 - TAIL, 1000, share)
    # It gives away no more than that.
    assert errors == pytest.approx((allowed_errors(n, 0.05) + 1) / (n + 1), rel=0.1)


def test_the_bound_holds_where_scores_are_equal():
    """Of 100 scores some 3 are 0 and 1.7 are 1: the bound of those that happen to lie below the threshold would be passed in 7.7 % of the draws."""
    shares, generator, passed = torch.tensor([0.0297, 0.0172, 0.9531], dtype=torch.float64), torch.Generator().manual_seed(0), 0
    for scores in torch.multinomial(shares.expand(3000, -1), 100, replacement=True, generator=generator).double():
        found = choose_threshold(scores, max_error=0.05)
        passed += shares[: int(found.threshold)].sum() > found.bound
    assert binom.ppf(TAIL, 3000, 0.04) <= passed <= binom.ppf(1 - TAIL, 3000, 0.05)


@pytest.mark.parametrize("max_error", [1e-17, 1e-12])
def test_an_error_that_no_number_of_images_would_show_is_refused(max_error):
    with pytest.raises(ValueError, match="max_false_refusal"):
        choose_threshold(rounded(60, 0), max_error=max_error)


# ---- In the detector -------------------------------------------------------------------------------------------------


def logits_of(n, seed, level=0.0):
    generator = torch.Generator().manual_seed(seed)
    cosines = 0.1 * torch.randn(n, 4, generator=generator, dtype=torch.float64)
    cosines[torch.arange(n), torch.arange(n) % 4] += level
    return SCALE * cosines.clamp(-1, 1)


def fitted(known=None, **options):
    known = logits_of(600, 0, 0.4) if known is None else known
    return OpenSetDetector.fit(known, **{"class_names": CLASSES, "logit_scale": SCALE, **options})


@pytest.mark.parametrize("name", DETECTOR_SCORES)
@pytest.mark.parametrize("kept", ["max_false_acceptance", "max_false_refusal"])
def test_the_detector_keeps_the_share_after_another_rounding(name, kept):
    known, unknown = logits_of(600, 0, 0.4), logits_of(400, 1)
    detector = fitted(known, score=name, unknown_logits=unknown, **{kept: 0.1})
    judged, n = (unknown, 400) if kept == "max_false_acceptance" else (known, 600)
    most = allowed_errors(n, 0.1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(10):
        noise = 2 * torch.rand(judged.shape, generator=generator, dtype=torch.float64) - 1
        moved = judged + 0.9e-5 * SCALE * noise.sign()
        wrong = sum(item.is_known == (kept == "max_false_acceptance") for item in detector.predict(moved))
        assert wrong <= most
    # And not many fewer than that.
    assert sum(item.is_known == (kept == "max_false_acceptance") for item in detector.predict(judged)) >= most - 2
    risk = detector.risk
    assert risk["controls"] == kept.removeprefix("max_") and risk["bound"] <= 0.1
    accepted = [sum(item.is_known for item in detector.predict(rows)) / len(rows) for rows in (known, unknown)]
    assert 1 - risk["false_refusal"]["share"] == pytest.approx(accepted[0]) == pytest.approx(detector.achieved_true_positive_rate)
    assert risk["false_acceptance"]["share"] == pytest.approx(accepted[1])


def test_each_predicted_class_with_enough_images_keeps_the_share_by_itself():
    known = logits_of(600, 0, 0.4)
    # Class 0 scores lower than the others, and class 3 has few images.
    known[known.argmax(dim=1) == 0] -= 4
    keep = known.argmax(dim=1) != 3
    keep[:40] = True
    known = known[keep]
    common = fitted(known, max_false_refusal=0.1)
    own = fitted(known, max_false_refusal=0.1, per_class_thresholds=True)
    predicted, scores = known.argmax(dim=1), score("energy", logits=known)
    assert set(own.thresholds) == set(CLASSES[:3]) and own.threshold == common.threshold == own.threshold_of(CLASSES[3])
    for index, name in enumerate(CLASSES[:3]):
        theirs = scores[predicted == index]
        alone = choose_threshold(theirs, max_error=0.1, lowest=lambda value: value - 1e-5 * SCALE)
        assert own.threshold_of(name) == alone.threshold and own.risk["bounds"][name] == alone.bound <= 0.1
    refused = {}
    for detector in (common, own):
        answers = detector.predict(known)
        refused[detector is own] = [sum(not item.is_known for item in answers if item.index == index) / (predicted == index).sum().item() for index in range(4)]
        assert detector.risk["false_refusal"]["share"] == pytest.approx(sum(not item.is_known for item in answers) / len(answers))
    assert refused[False][0] > 0.1 > max(refused[True][:3])


def test_saved_and_loaded_it_judges_the_same_and_old_files_load(tmp_path):
    write_robustft_json(tmp_path, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    unknown = logits_of(400, 1)
    detector = fitted(unknown_logits=unknown, max_false_acceptance=0.1, per_class_thresholds=True, chosen_on="others")
    detector.save(tmp_path)
    loaded = OpenSetDetector.from_pretrained(tmp_path)
    assert loaded == detector and loaded.predict(unknown) == detector.predict(unknown) and loaded.risk["unknown"] == "others"
    fitted().save(tmp_path)
    facts = json.loads((tmp_path / METADATA_FILE).read_text())["detector"]
    assert "risk" not in facts and "thresholds" not in facts
    assert OpenSetDetector.from_pretrained(tmp_path).risk is None


WRONG = {
    "thresholds": [[], 1, {"wolf": 1.0}, {"cat": None}, {"cat": "a"}],
    "risk": [[], 1, {}, {"controls": "both"}],
}
WRONG_RISK = {
    "controls": [None, "both", []],
    "max_error": [0, 1, "0.1", None, True],
    "confidence": [0, 1.5, None],
    "bound": [-1, 2, "a"],
    "false_refusal": [None, {}, {"share": 0.1}, 1],
    "false_acceptance": [{}, 1, "a"],
    "bounds": [[], {"cat": 2}, 1],
    "unknown": [1, None, []],
    "extra": [1],
}


def test_each_field_of_the_file_is_checked(tmp_path):
    write_robustft_json(tmp_path, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    fitted(unknown_logits=logits_of(400, 1), max_false_acceptance=0.1, per_class_thresholds=True, chosen_on="others").save(tmp_path)
    content = json.loads((tmp_path / METADATA_FILE).read_text())
    changes = [{**content["detector"], name: value} for name in WRONG for value in WRONG[name]]
    risk = content["detector"]["risk"]
    changes += [{**content["detector"], "risk": {**risk, name: value}} for name in WRONG_RISK for value in WRONG_RISK[name]]
    for facts in changes:
        (tmp_path / METADATA_FILE).write_text(json.dumps({**content, "detector": facts}))
        with pytest.raises(ValueError, match="detector"):
            OpenSetDetector.from_pretrained(tmp_path)


def test_what_cannot_be_kept_or_would_be_ignored_is_named():
    unknown = logits_of(400, 1)
    for options, name in [
        ({"max_false_acceptance": 0.1}, "max_false_acceptance"),
        ({"max_false_acceptance": 0.1, "max_false_refusal": 0.1, "unknown_logits": unknown}, "max_false_refusal"),
        ({"unknown_logits": unknown}, "unknown_logits"),
        ({"per_class_thresholds": True}, "per_class_thresholds"),
        ({"max_false_refusal": 0.001}, "max_false_refusal"),
        ({"max_false_acceptance": 0.05, "unknown_logits": logits_of(400, 1, 0.9)}, "max_false_acceptance"),
    ]:
        with pytest.raises(ValueError, match=name):
            fitted(**options)


def test_a_folded_temperature_chooses_again_on_both_sets(tiny_clip):
    scale = tiny_clip.logit_scale.exp().item()
    known, unknown = logits_of(600, 0, 0.4) * scale / SCALE, logits_of(400, 1) * scale / SCALE
    detector = fitted(known, logit_scale=scale, unknown_logits=unknown, max_false_acceptance=0.1, per_class_thresholds=True)
    with pytest.raises(ValueError, match="unknown images"):
        fold_temperature(tiny_clip, TemperatureScaling(2.0), detector, known)
    assert tiny_clip.logit_scale.exp().item() == scale
    moved = fold_temperature(tiny_clip, TemperatureScaling(2.0), detector, known, unknown_logits=unknown)
    again = fitted(known / 2, logit_scale=tiny_clip.logit_scale.exp(), unknown_logits=unknown / 2, max_false_acceptance=0.1, per_class_thresholds=True)
    assert moved.threshold == pytest.approx(again.threshold, rel=1e-6) and moved.risk["bound"] <= 0.1
    assert moved.thresholds.keys() == again.thresholds.keys()
