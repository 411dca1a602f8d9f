# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The open-set detector: its threshold, its file, and every model that it must refuse."""

import json
import math
import warnings

import pytest
import torch
from helpers import CLASSES, TEMPLATES, tiny_tokenizer

from hf_robustft import ZeroShotHead
from hf_robustft.evaluation.detection import threshold_at_recall
from hf_robustft.evaluation.detector import DETECTOR_SCORES, OpenSetDetector, OpenSetPrediction, fold_temperature
from hf_robustft.evaluation.open_set import score
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.features import encode_images
from hf_robustft.publishing.metadata import load_robustft_json, write_robustft_json

pytestmark = pytest.mark.numbers

SCALE = 40.0


def zero_shot_logits(n=200, seed=0, scale=SCALE, dtype=torch.float32):
    cosines = 0.3 * torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tanh()
    return (scale * cosines).to(dtype)


def fitted(logits=None, **options):
    options = {"class_names": CLASSES, "logit_scale": SCALE, **options}
    return OpenSetDetector.fit(zero_shot_logits() if logits is None else logits, **options)


@pytest.fixture
def folder(tmp_path):
    write_robustft_json(tmp_path, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    return tmp_path


@pytest.mark.parametrize("name", DETECTOR_SCORES)
@pytest.mark.parametrize("rate", [0.5, 0.95, 1.0])
def test_it_accepts_the_asked_share(name, rate):
    logits = zero_shot_logits()
    detector = fitted(score=name, true_positive_rate=rate, fitted_on="val")
    scores = score(name, logits=logits, cosines=logits.double() / SCALE)
    known = [prediction.is_known for prediction in detector.predict(logits)]
    assert known == (scores >= threshold_at_recall(scores, rate)).tolist()
    assert sum(known) / 200 == detector.achieved_true_positive_rate >= rate
    assert (detector.n, detector.true_positive_rate, detector.fitted_on) == (200, rate, "val")
    # Image by image it judges alike, also the one that lies on the threshold.
    assert [detector.predict(row[None])[0].is_known for row in logits] == known


@pytest.mark.parametrize("name", DETECTOR_SCORES)
@pytest.mark.parametrize("n", [20, 40, 77])
@pytest.mark.parametrize("rate", [0.5, 0.95])
def test_the_share_holds_after_another_rounding(name, n, rate):
    """The threshold lies on no image's score: 38 of 40 stay 38 where sums are rounded in another order."""
    generator = torch.Generator().manual_seed(n)
    for seed in range(20):
        logits = zero_shot_logits(n, seed)
        detector = fitted(logits, score=name, true_positive_rate=rate)
        noise = 2 * torch.rand(logits.shape, generator=generator, dtype=torch.float64) - 1
        for moved in (logits + 0.9e-5 * SCALE * noise.sign(), logits + 0.9e-5 * SCALE * noise):
            accepted = sum(prediction.is_known for prediction in detector.predict(moved))
            assert accepted / n >= rate
        # It gives away no more than that: the images of the fit that it accepts score what FPR95 asks, or all but.
        scores = score(name, logits=logits, cosines=logits.double() / SCALE)
        wanted = threshold_at_recall(scores, rate)
        assert detector.threshold < wanted and wanted - detector.threshold < 1.1e-5 * SCALE
        assert detector.achieved_true_positive_rate == (scores >= detector.threshold).double().mean().item()


def test_a_saturated_probability_still_separates():
    logits = torch.zeros(40, 4)
    logits[:, 0] = torch.linspace(5, 60, 40)
    detector = fitted(logits, score="msp", true_positive_rate=0.9)
    assert sum(prediction.is_known for prediction in detector.predict(logits)) == 36


def test_a_prediction_by_hand():
    detector = fitted(torch.tensor([[3.0, 0, 0, 0], [0, 2.0, 0, 0]]), score="max_logit", true_positive_rate=1.0)
    assert detector.threshold == pytest.approx(2.0 - 1e-5 * SCALE, rel=1e-12)
    known, unknown = detector.predict(torch.tensor([[0, 0, 2.0, 0], [0, 0, 0, 1.5]], dtype=torch.float64))
    assert known == OpenSetPrediction("owl", 2, pytest.approx(math.exp(2) / (math.exp(2) + 3)), 2.0, True)
    assert unknown == OpenSetPrediction("bee", 3, pytest.approx(math.exp(1.5) / (math.exp(1.5) + 3)), 1.5, False)


@pytest.mark.parametrize("temperature", [2.0, TemperatureScaling(2.0)])
def test_the_temperature_acts_on_probabilities_alone(temperature):
    logits = zero_shot_logits(20)
    plain, scaled = fitted(), fitted(temperature=temperature)
    assert scaled.threshold == plain.threshold
    for i, (a, b) in enumerate(zip(plain.predict(logits), scaled.predict(logits), strict=True)):
        assert (a.label, a.index, a.score, a.is_known) == (b.label, b.index, b.score, b.is_known)
        assert a.probability == pytest.approx(logits[i].double().softmax(dim=0).max().item(), rel=1e-14)
        assert b.probability == pytest.approx((logits[i].double() / 2).softmax(dim=0).max().item(), rel=1e-14)


def test_saved_and_loaded_it_predicts_the_same(folder):
    logits, labels = zero_shot_logits(), torch.arange(200) % 4
    scaling = TemperatureScaling().fit(2 * torch.nn.functional.one_hot(labels, 4) + 0.3 * logits, labels)
    for temperature in (scaling, 1.7, None):
        detector = fitted(temperature=temperature, fitted_on="val", score="msp")
        if temperature is None:
            write_robustft_json(folder, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
        assert detector.save(folder) == folder / "robustft.json"
        loaded = OpenSetDetector.from_pretrained(folder)
        assert loaded.to_dict() == detector.to_dict() and loaded.class_names == CLASSES
        assert loaded.predict(logits) == detector.predict(logits)
        assert (loaded.temperature is None) == (temperature is None)
    content = load_robustft_json(folder)
    assert content["method"] == "croft" and "temperature" not in content
    assert content["detector"] == {
        "score": "msp",
        "threshold": detector.threshold,
        "true_positive_rate": 0.95,
        "achieved_true_positive_rate": 0.95,
        "class_names": list(CLASSES),
        "logit_scale": SCALE,
        "n": 200,
        "fitted_on": "val",
    }


def test_a_stored_temperature_is_not_mixed_with_a_detector_without(folder):
    fitted(temperature=1.7).save(folder)
    with pytest.raises(ValueError, match="holds the temperature 1.7, which this detector was not given"):
        fitted().save(folder)
    stored = TemperatureScaling.from_dict(load_robustft_json(folder)["temperature"])
    assert OpenSetDetector.from_pretrained(folder).temperature.to_dict() == stored.to_dict()


# What must be refused


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("dog", "cat", "owl", "bee"), "number 0 .*'cat' at the fit and 'dog' here"),
        (("cat", "dog", "owl", "ant"), "number 3 .*'bee' at the fit and 'ant' here"),
        (("cat", "dog", "owl"), "4 at the fit, 3 here"),
    ],
)
def test_other_classes_are_refused(folder, names, message):
    detector = fitted()
    with pytest.raises(ValueError, match="fitted for other classes: " + message):
        detector.check(names, SCALE)
    detector.save(folder)
    content = json.loads((folder / "robustft.json").read_text())
    (folder / "robustft.json").write_text(json.dumps({**content, "class_names": list(names)}))
    with pytest.raises(ValueError, match="'class_names'.*detector was fitted with"):
        OpenSetDetector.from_pretrained(folder)
    # Of a folder that does not say which prompts its detector was fitted with.
    del content["fitted_prompts"]
    (folder / "robustft.json").write_text(json.dumps({**content, "class_names": list(names)}))
    with pytest.raises(ValueError, match="other classes than the model in .*" + message):
        OpenSetDetector.from_pretrained(folder)
    write_robustft_json(folder, method="ft", class_names=names, templates=TEMPLATES, settings={})
    with pytest.raises(ValueError, match="other classes than the model in"):
        detector.save(folder)
    assert "detector" not in load_robustft_json(folder)


def test_the_model_itself_is_accepted_and_a_moved_scale_refused():
    detector = fitted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector.check(["cat ", "dog", "owl", "bee"], torch.tensor(SCALE, requires_grad=True))
    for scale in (SCALE * 1.002, SCALE / 1.3, math.log(SCALE), math.nan):
        with pytest.raises(ValueError, match="logit scale is .* fitted at 40"):
            detector.check(CLASSES, scale)


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (torch.ones(5, 3), {}, "3 columns, but the detector knows 4 classes"),
        (torch.ones(0, 4), {}, "empty"),
        (torch.tensor([[1.0, 2, 3, math.nan]]), {}, "NaN or infinity, first in row 0"),
        (torch.ones(4), {}, "shape"),
        (None, {"score": "knn"}, "'knn' of a detector would need its bank"),
        (None, {"score": "confidence"}, "'confidence' of a detector is not known"),
        (None, {"true_positive_rate": 0.0}, "true-positive rate is 0.0"),
        (None, {"true_positive_rate": 95}, "true-positive rate is 95"),
        (None, {"temperature": -1.0}, "temperature is -1.0"),
        (None, {"logit_scale": 0.0}, "logit_scale is 0.0"),
        (None, {"logit_scale": math.inf}, "logit_scale is inf"),
        (None, {"class_names": ("cat", "cat", "a", "b")}, "appears twice"),
        (None, {"score": "mcm", "logit_scale": math.log(SCALE)}, "cosines reach"),
    ],
)
def test_unfit_data_are_refused(logits, options, message):
    with pytest.raises(ValueError, match=message):
        fitted(logits, **options)


def test_predict_refuses_what_it_cannot_judge():
    detector = fitted()
    for bad, message in ((torch.ones(2, 5), "5 columns"), (torch.full((1, 4), math.nan), "NaN"), ([], "shape")):
        with pytest.raises(ValueError, match=message):
            detector.predict(bad)


def test_a_folder_without_detector_says_how_to_fit_one(folder, tmp_path):
    with pytest.raises(ValueError, match="holds no detector; fit one"):
        OpenSetDetector.from_pretrained(folder)
    with pytest.raises(OSError, match="There is no folder"):
        OpenSetDetector.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(OSError, match="robustft.json, which is not in the cache"):
        OpenSetDetector.from_pretrained("owner/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match="no robustft.json"):
        OpenSetDetector.from_pretrained(tmp_path / "empty")
    with pytest.raises(OSError, match="no robustft.json"):
        fitted().save(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # What is no number in JSON is refused with the file, before anything in it is looked at.
        ({"threshold": math.nan}, "robustft.json is not JSON .NaN"),
        ({"threshold": "high"}, "threshold of the detector is 'high'"),
        ({"score": "knn"}, "would need its bank"),
        ({"logit_scale": -3.0}, "logit_scale of the detector is -3.0"),
        ({"true_positive_rate": 1.5}, "true_positive_rate of the detector"),
        ({"n": 0}, "n of the detector is 0"),
        ({"n": math.inf}, "robustft.json is not JSON .Infinity"),
        ({"n": None}, "n of the detector is None"),
        ({"margin": 1.0}, "another version.*margin"),
        ({"temperature": 1.0}, "another version.*temperature"),
    ],
)
def test_a_broken_detector_is_refused(folder, change, message):
    fitted().save(folder)
    content = json.loads((folder / "robustft.json").read_text())
    content["detector"].update(change)
    (folder / "robustft.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        OpenSetDetector.from_pretrained(folder)
    if change.keys() <= content["detector"].keys() and "margin" not in change and math.inf not in change.values():
        del content["detector"]["threshold"]
        (folder / "robustft.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="incomplete"):
            OpenSetDetector.from_pretrained(folder)


# Folding a temperature


@pytest.fixture
def scene(tiny_clip):
    """A model in float64, its images and their logits, and a function that gives the logits of the model as it is."""
    model = tiny_clip.double()
    images = torch.randn(30, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    @torch.no_grad()
    def logits():
        head = ZeroShotHead.from_model(model, tiny_tokenizer(), CLASSES, TEMPLATES)
        return head(encode_images(model, images))

    return model, logits


@pytest.mark.parametrize("name", DETECTOR_SCORES)
def test_a_fold_with_validation_logits_refits_the_detector(scene, folder, name):
    model, logits = scene
    before = logits()
    scaling = TemperatureScaling(2.5)
    detector = fitted(before, logit_scale=model.logit_scale.exp(), score=name, temperature=scaling, fitted_on="val")
    probabilities = [prediction.probability for prediction in detector.predict(before)]
    old = detector.logit_scale
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = fold_temperature(model, scaling, detector, before)
    assert (moved.score, moved.true_positive_rate, moved.n, moved.fitted_on) == (name, 0.95, 30, "val")
    assert moved.logit_scale == pytest.approx(old / 2.5, rel=1e-12)
    moved.check(CLASSES, model.logit_scale.exp())
    with pytest.raises(ValueError, match="logit scale is"):
        detector.check(CLASSES, model.logit_scale.exp())
    # It is the detector that the folded model's own logits give, and the probabilities are as calibrated as before.
    again = fitted(logits(), logit_scale=model.logit_scale.exp(), score=name)
    assert moved.threshold == pytest.approx(again.threshold, rel=1e-10)
    if name != "mcm":
        assert moved.threshold != pytest.approx(detector.threshold, rel=1e-3)
    got = [prediction.probability for prediction in moved.predict(logits())]
    assert got == pytest.approx(probabilities, rel=1e-9)
    moved.save(folder)
    assert load_robustft_json(folder)["temperature"] == {"temperature": 1.0, "folded": 2.5}


def test_a_fold_without_validation_logits_drops_the_detector_with_a_warning(scene):
    model, logits = scene
    detector = fitted(logits(), logit_scale=model.logit_scale.exp())
    with pytest.warns(UserWarning, match="2.5 was folded.*dropped. Fit a new one"):
        assert fold_temperature(model, TemperatureScaling(2.5), detector) is None
    assert model.logit_scale.exp().item() == pytest.approx(detector.logit_scale / 2.5)


def test_a_fold_without_detector_is_silent(scene):
    model, _ = scene
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fold_temperature(model, TemperatureScaling(2.5)) is None


@pytest.mark.parametrize(
    ("scale", "columns", "message"), [(1.5, 4, "logit scale is"), (1.0, 3, "3 columns"), (1.0, None, "NaN")]
)
def test_a_fold_that_cannot_be_leaves_the_model_alone(scene, scale, columns, message):
    model, logits = scene
    before, parameter = logits(), model.logit_scale.detach().clone()
    detector = fitted(before, logit_scale=scale * model.logit_scale.exp())
    validation = torch.full((3, 4), math.nan) if columns is None else before[:, :columns]
    scaling = TemperatureScaling(2.5)
    with pytest.raises(ValueError, match=message):
        fold_temperature(model, scaling, detector, validation)
    assert torch.equal(model.logit_scale, parameter) and scaling.temperature == 2.5
