# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A model of a sigmoid family has two kinds of probabilities: ours and the plain pipeline's are told apart, and equal."""

import math
import re
import warnings

import numpy as np
import pytest
import torch
from helpers import CLASSES, assert_rounded, image_dataset, tiny_processor
from helpers.cards import report
from helpers.families import family_model, family_processor, save_family
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline as hf_pipeline

from hf_robustft.cli import main
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.deployment.pipeline import pipeline
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.evaluation.report import TRAINED_HEAD
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.model_card import write_model_card
from hf_robustft.publishing.recalibrate import recalibrate

ONE = ("a photo of {}.",)


@pytest.fixture
def data() -> Benchmark:
    return Benchmark.from_dataset(image_dataset(6), name="val", role="validation", class_names=CLASSES, templates=ONE)


@pytest.fixture
def photos(data, tmp_path):
    (tmp_path / "photos").mkdir()
    for index, row in enumerate(data.load()):
        row["image"].save(tmp_path / "photos" / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def siglip(tmp_path):
    """A saved SigLIP with names and one template."""
    save_family("siglip", tmp_path / "siglip")
    write_robustft_json(tmp_path / "siglip", method="flyp", class_names=CLASSES, templates=ONE, settings={})
    return tmp_path / "siglip"


def plain(folder, photos):
    """What Transformers' own pipeline shows for each image."""
    classify = hf_pipeline("zero-shot-image-classification", model=str(folder), device="cpu")
    return [
        classify(str(path), candidate_labels=list(CLASSES), hypothesis_template=ONE[0])
        for path in sorted(photos.iterdir())
    ]


# ---- The pipeline --------------------------------------------------------------------------------------------------


@pytest.mark.numbers
def test_the_sigmoids_are_those_of_the_plain_pipeline(siglip, photos):
    want = plain(siglip, photos)
    found = pipeline(siglip, require_detector=False)(photos, function_to_apply="sigmoid", top_k=None)
    assert [row["error"] for row in found] == [None] * 6
    for row, expected in zip(found, want, strict=True):
        assert [item["label"] for item in row["classes"]] == [item["label"] for item in expected]
        scores = [item["score"] for item in row["classes"]]
        assert scores == pytest.approx([item["score"] for item in expected], abs=1e-5)
        assert (row["label"], row["probability"]) == (row["classes"][0]["label"], scores[0])
        assert abs(sum(scores) - 1) > 0.01


@pytest.mark.numbers
def test_the_shares_and_the_detector_are_as_without_it(siglip, photos, data):
    model = family_model("siglip")
    logits, _ = collect_logits(model, data, family_processor("siglip"), progress=False)
    scale = model.logit_scale.exp().item()
    OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=scale, true_positive_rate=0.5).save(siglip)
    classify = pipeline(siglip, top_k=2)
    shares, sigmoids = classify(photos), classify(photos, function_to_apply="sigmoid")
    for row, other, of in zip(shares, sigmoids, logits, strict=True):
        assert len(row["classes"]) == len(other["classes"]) == 2
        assert {key: row[key] for key in ("label", "score", "is_known", "nearest_class")} == {
            key: other[key] for key in ("label", "score", "is_known", "nearest_class")
        }
        assert row["probability"] == pytest.approx(of.softmax(dim=0).max().item(), rel=1e-5)
        assert other["probability"] == pytest.approx((of - 1.5).sigmoid().max().item(), rel=1e-5)
    (photos / "7.png").write_text("no image")
    with_broken = classify(photos)
    assert with_broken[-1]["error"] and with_broken[-1]["classes"] is None
    assert_rounded(with_broken[:6], shares)


def test_where_a_sigmoid_means_nothing_it_is_refused(siglip, photos, tiny_clip, tmp_path):
    folder = tmp_path / "clip"
    tiny_clip.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    write_robustft_json(folder, method="flyp", class_names=CLASSES, templates=ONE, settings={})
    with pytest.raises(ValueError, match="function_to_apply='sigmoid': the CLIPModel was trained"):
        pipeline(folder, require_detector=False, function_to_apply="sigmoid")
    classify = pipeline(folder, require_detector=False)
    for wrong in ({"function_to_apply": "sigmoid"}, {"function_to_apply": "none"}, {"top_k": 0}, {"top_k": True}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            classify(photos, **wrong)
    ZeroShotHead(torch.randn(4, 32), CLASSES).save_pretrained(siglip)
    write_robustft_json(siglip, method="ft", class_names=CLASSES, templates=ONE, settings={}, head=TRAINED_HEAD)
    with pytest.raises(ValueError, match="the trained head was trained"):
        pipeline(siglip, require_detector=False, function_to_apply="sigmoid")


# ---- The card ------------------------------------------------------------------------------------------------------


def card(folder, data) -> str:
    path = write_model_card(folder, report=report(names=[("val", "id")]), method="flyp", data=[data], settings={})
    return path.read_text()


@pytest.mark.numbers
def test_the_card_says_which_of_the_two_is_calibrated_and_its_code_gives_the_shares(
    siglip, data, photos, monkeypatch, capsys
):
    text = card(siglip, data)
    assert "**The plain pipeline shows the sigmoid of each class by itself**" in text
    assert "Neither of the two was calibrated" in text and "these are the probabilities of the results" not in text
    code = next(part for part in text.split("```python\n")[1:] if "AutoModel" in part).partition("```")[0]
    Image.open(photos / "3.png").save(siglip / "photo.png")
    monkeypatch.chdir(siglip)
    shown: dict = {}
    exec(code, shown)  # noqa: S102
    want, _ = collect_logits(family_model("siglip"), data, family_processor("siglip"), progress=False)
    assert np.abs(shown["probabilities"].numpy() - want[3].softmax(dim=0).numpy()).max() < 1e-5
    capsys.readouterr()
    # CLIP has one kind, and says nothing.
    (siglip / "config.json").write_text('{"model_type": "clip"}')
    assert "by itself" not in card(siglip, data)


# ---- Calibration ---------------------------------------------------------------------------------------------------


@pytest.fixture
def validation(siglip) -> Benchmark:
    """Images whose labels are mostly what the model says."""
    images = image_dataset(40, seed=3)
    rows = Benchmark.from_dataset(images, name="rows", role="id", class_names=CLASSES, templates=ONE)
    logits, _ = collect_logits(family_model("siglip"), rows, family_processor("siglip"), progress=False)
    labels = [(best + (row % 4 == 0)) % 4 for row, best in enumerate(logits.argmax(dim=1).tolist())]
    images = images.remove_columns("label").add_column("label", labels)
    return Benchmark.from_dataset(images, name="val", role="validation", class_names=CLASSES, templates=ONE)


def scalars(folder):
    weights = load_file(folder / "model.safetensors")
    return {name: weights[name].double() for name in ("logit_scale", "logit_bias")}


@pytest.mark.numbers
def test_sigmoids_are_calibrated_in_scale_and_bias_and_the_record_says_so(siglip, validation, data, photos):
    before, probabilities = scalars(siglip), pipeline(siglip, require_detector=False)
    old = [row["classes"] for row in probabilities(photos, function_to_apply="sigmoid", top_k=None)]
    card(siglip, data)
    found = recalibrate(siglip, validation, progress=False, probabilities="sigmoid")
    after = scalars(siglip)
    slope = 1 / found.fitted
    assert found.bias != 0 and (after["logit_scale"] - before["logit_scale"]).item() == pytest.approx(
        math.log(slope), abs=1e-6
    )
    assert after["logit_bias"].item() == pytest.approx(slope * before["logit_bias"].item() + found.bias, abs=1e-6)
    for row, new in zip(old, plain(siglip, photos), strict=True):
        was = {item["label"]: item["score"] for item in row}
        for item in new:
            score = was[item["label"]]
            logit = math.log(score / (1 - score))
            assert item["score"] == pytest.approx(1 / (1 + math.exp(-(slope * logit + found.bias))), abs=1e-5)
    record = load_robustft_json(siglip)["temperature"]
    assert record["probabilities"] == "sigmoid" and record["folded_bias"] == pytest.approx(found.bias)
    assert record["sigmoid_ece_after"] < record["sigmoid_ece_before"] and "ece_before" in record
    assert record["history"][0]["bias"] == found.bias
    text = card(siglip, data)
    assert 'gives them by `function_to_apply="sigmoid"`' in text
    assert "Calibrated, by Platt scaling, are the sigmoids" in text and "(Platt scaling), fitted on 40 images" in text
    assert " (NLL of the sigmoids, per pair, " in text and "; ECE of the softmax " in text and "; ECE of the sigmoids " in text
    # Then for the shares: what was calibrated no longer is, and the bias goes along in the weights.
    second = recalibrate(siglip, validation, progress=False)
    record = load_robustft_json(siglip)["temperature"]
    assert "probabilities" not in record and len(record["history"]) == 2
    assert record["folded_bias"] == pytest.approx(found.bias / second.fitted)
    assert record["sigmoid_ece_after"] > record["sigmoid_ece_before"]
    assert scalars(siglip)["logit_bias"].item() == pytest.approx(after["logit_bias"].item() / second.fitted, rel=1e-6)
    assert [entry["probabilities"] for entry in record["history"]] == ["sigmoid", "softmax"]
    text = card(siglip, data)
    assert "Calibrated, by the temperature, are the shares" in text
    said = f"in it, the product of 2 fits, and the logit bias {record['folded_bias']:+.4g} (Platt scaling); the numbers above"
    assert said in text and " The last fit was on 40 images of val (NLL of the softmax " in text and "((" not in text


@pytest.mark.parametrize(("kind", "other"), [("sigmoid", "softmax"), ("softmax", "sigmoid")])
def test_what_was_not_calibrated_comes_with_one_warning(siglip, validation, photos, kind, other):
    def said(classify, **how):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            classify(photos, **how)
        return [str(item.message) for item in found if "function_to_apply" in str(item.message)]

    # Of what nobody has calibrated neither is the wrong one.
    assert not said(pipeline(siglip, require_detector=False), function_to_apply=other)
    recalibrate(siglip, validation, progress=False, probabilities=kind)
    classify = pipeline(siglip, require_detector=False)
    assert classify.calibrated == kind and not said(classify, function_to_apply=kind)
    (line,) = said(classify, function_to_apply=other)
    assert f"function_to_apply={kind!r}" in line and f"--probabilities {other}" in line and "\n" not in line
    assert not said(classify, function_to_apply=other)
    # What it answers if it is not asked is of shares.
    assert len(said(pipeline(siglip, require_detector=False))) == (kind == "sigmoid")
    logits, _ = collect_logits(family_model("siglip"), validation, family_processor("siglip"), progress=False)
    detector = OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=classify.model.logit_scale.exp().item(), temperature=2.0)
    assert pipeline(siglip, detector=detector).calibrated == "softmax"


def test_the_command_calibrates_sigmoids_and_refuses_models_without(siglip, validation, tiny_clip, tmp_path, capsys):
    validation.load().to_parquet(tmp_path / "val.parquet")
    given = ["--dataset", str(tmp_path / "val.parquet"), "--probabilities", "sigmoid", "--use_cpu", "--disable_tqdm"]
    assert main(["calibrate", str(siglip), *given]) == 0
    out = capsys.readouterr().out
    assert "and bias" in out and "Calibrated are the sigmoids" in out
    assert re.search(r"val: NLL of the sigmoids, per pair, [\d.]+ -> [\d.]+, ECE of the softmax .* %, ECE of the sigmoids .* %\n", out)
    clip = tmp_path / "clip"
    tiny_clip.save_pretrained(clip)
    write_robustft_json(clip, method="flyp", class_names=CLASSES, templates=ONE, settings={})
    assert main(["calibrate", str(clip), *given]) != 0
    assert "--probabilities sigmoid" in capsys.readouterr().err
