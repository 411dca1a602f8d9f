# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Prediction sets and the threshold for unknown images are fitted with the temperature, on the same validation images, or nothing is changed."""
# ruff: noqa: F811

import dataclasses
import json
import re
import shutil

import datasets
import pytest
from helpers import CLASSES, TEMPLATES, image_dataset
from test_calibrate import PROCESSOR, digests, fold, folder, made, sets  # noqa: F401
from transformers import CLIPModel

from hf_robustft.cli import main
from hf_robustft.cli.first_look import first_look
from hf_robustft.cli.parser import UsageError
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.evaluation.prediction_sets import ConformalClassifier
from hf_robustft.evaluation.report import load_reports
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.publishing import recalibrate as recalibrating
from hf_robustft.training.image_check import check_images, image_hashes_of

# ---- Prediction sets -------------------------------------------------------------------------------------------------


def test_prediction_sets_are_fitted_on_the_folded_model_and_measured(folder, sets):
    found = fold(folder, sets["validation"], [sets["photo"], sets["sketch"]], prediction_sets="lac", coverage=0.8)
    stored = ConformalClassifier.from_pretrained(folder)
    assert stored.to_dict() == found.prediction_sets.to_dict() and (stored.method, stored.coverage, stored.n) == ("lac", 0.8, 60)
    model = CLIPModel.from_pretrained(folder).eval()
    stored.check(CLASSES, model.logit_scale.exp(), 1.0)
    measured = load_reports(folder / "evaluation.json")[-1].prediction_sets["sets"]
    for name in ("photo", "sketch"):
        logits, labels = collect_logits(model, sets[name], PROCESSOR, progress=False)
        held = stored.holds(logits).gather(1, labels[:, None]).double().mean().item()
        assert measured[name]["coverage"] == held
    card = (folder / "README.md").read_text()
    assert "## Prediction sets" in card and "does not hold under shift" in card and "| photo (ID) | 40 |" in card


def test_they_are_refitted_as_they_were_changed_or_removed(folder, sets):
    fold(folder, sets["validation"], prediction_sets="aps", coverage=0.8, class_conditional=True)
    first = ConformalClassifier.from_pretrained(folder)
    assert first.class_quantiles is not None
    fold(folder, sets["validation"])
    again = ConformalClassifier.from_pretrained(folder)
    assert again.quantile == pytest.approx(first.quantile, rel=1e-5) and again.scale == pytest.approx(first.scale, rel=1e-6)
    assert (again.method, again.coverage, again.common) == ("aps", 0.8, first.common)
    fold(folder, sets["validation"], coverage=0.7)
    assert (ConformalClassifier.from_pretrained(folder).method, ConformalClassifier.from_pretrained(folder).coverage) == ("aps", 0.7)
    fold(folder, sets["validation"], prediction_sets="none")
    assert "prediction_sets" not in load_robustft_json(folder) and "Prediction sets" not in (folder / "README.md").read_text()


def test_a_coverage_of_other_sets_does_not_stay_in_the_report(folder, sets):
    fold(folder, sets["validation"], [sets["photo"], sets["sketch"]], coverage=0.8)
    fold(folder, sets["validation"])
    assert load_reports(folder / "evaluation.json")[-1].prediction_sets["coverage"] == 0.8
    found = fold(folder, sets["validation"], coverage=0.7)
    assert found.prediction_sets.coverage == 0.7 and load_reports(folder / "evaluation.json")[-1].prediction_sets is None
    assert "was not measured" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "options, name",
    [({"coverage": 1.5}, "--coverage"), ({"prediction_sets": "topk"}, "--prediction_sets"), ({"prediction_sets": "none", "coverage": 0.9}, "--coverage")],
)
def test_prediction_sets_that_cannot_be_are_refused_before_anything_is_read(folder, sets, options, name):
    before = digests(folder)
    with pytest.raises(ValueError, match=name):
        fold(folder, sets["validation"], **options)
    assert digests(folder) == before


# ---- The threshold for "unknown" --------------------------------------------------------------------------------------


def others(n=120, name="others", classes=("wolf", "fox", "elk", "emu"), seed=9):
    data = image_dataset(n, seed=seed)
    data = data.cast_column("label", datasets.ClassLabel(names=list(classes)))
    return Benchmark.from_dataset(data, name=name, role="open_set")


def test_the_threshold_is_chosen_on_unknown_images_for_a_stated_error(folder, sets):
    found = fold(folder, sets["validation"], unknown=others(), risk={"max_false_acceptance": 0.2, "confidence": 0.9})
    detector = OpenSetDetector.from_pretrained(folder)
    assert detector == replace_temperature(found.detector, detector) and detector.risk["unknown"] == "others"
    model = CLIPModel.from_pretrained(folder).eval()
    head = ZeroShotHead.from_model(model, PROCESSOR, CLASSES, TEMPLATES)
    logits, _ = collect_logits(model, others(), PROCESSOR, head=head, progress=False)
    accepted = sum(item.is_known for item in detector.predict(logits))
    assert accepted == round(120 * detector.risk["false_acceptance"]["share"]) and detector.risk["bound"] <= 0.2
    assert "share of unknown images accepted at or below 20.0 %" in (folder / "README.md").read_text()
    # It cannot be chosen again without them, and with them it is, as it was.
    with pytest.raises(ValueError, match="--unknown"):
        fold(folder, sets["validation"])
    again = fold(folder, sets["validation"], unknown=others(name="strangers")).detector
    assert again.threshold == pytest.approx(detector.threshold, rel=1e-5) and again.risk["max_error"] == 0.2
    assert again.risk["unknown"] == "strangers"


def test_images_that_the_threshold_was_chosen_on_are_recognised_when_they_are_measured(folder, sets):
    fold(folder, sets["validation"], unknown=others(), risk={"max_false_acceptance": 0.2, "confidence": 0.9})
    known = load_robustft_json(folder)["image_hashes"]
    assert [(item["name"], item["images"]) for item in known if item["role"] == "unknown"] == [("others", 120)]
    # By whatever name, as `hf-robustft evaluate` compares them.
    measured = [sets["photo"], others(name="copies"), others(name="new", seed=31)]
    (note,) = check_images(None, measured, earlier=known, allow_overlap=True).notes
    # A run that starts from its weights, or merges them, has a threshold of another choice.
    assert check_images(None, measured, earlier=image_hashes_of(folder)).notes == []
    assert "'copies'" in note and "threshold" in note and "'others'" in note
    fold(folder, sets["validation"], unknown=others(name="strangers"))
    assert [item["name"] for item in load_robustft_json(folder)["image_hashes"] if item["role"] == "unknown"] == ["strangers"]
    # A rate of known images has nothing to do with them.
    fold(folder, sets["validation"], risk={"true_positive_rate": 0.9})
    assert "unknown" not in [item["role"] for item in load_robustft_json(folder)["image_hashes"]]


def replace_temperature(detector, other):
    return dataclasses.replace(detector, temperature=other.temperature)


def test_without_unknown_images_the_share_of_refused_known_ones_is_kept(folder, sets):
    found = fold(folder, sets["validation"], risk={"max_false_refusal": 0.1, "per_class_thresholds": True})
    assert found.detector.risk["controls"] == "false_refusal" and found.detector.risk["bound"] <= 0.1
    assert fold(folder, sets["validation"]).detector.risk["max_error"] == 0.1


def test_a_threshold_for_a_stated_error_goes_back_to_a_rate(folder, sets):
    usual = fold(folder, sets["validation"], risk={"true_positive_rate": 0.9}).detector
    fold(folder, sets["validation"], unknown=others(), risk={"max_false_acceptance": 0.2})
    with pytest.raises(ValueError, match="--true_positive_rate"):
        fold(folder, sets["validation"])
    back = fold(folder, sets["validation"], risk={"true_positive_rate": 0.9}).detector
    assert back.risk is None and back.thresholds is None and back.true_positive_rate == 0.9
    assert back.threshold == pytest.approx(usual.threshold, rel=1e-5) and back.achieved_true_positive_rate == usual.achieved_true_positive_rate
    assert fold(folder, sets["validation"]).detector.true_positive_rate == 0.9
    assert "detector" in json.loads((folder / "robustft.json").read_text()) and "At or below" not in (folder / "README.md").read_text()


def test_unknown_images_need_no_folders_of_classes(folder, sets, tmp_path, capsys):
    """Images without folders are chosen on as those in folders are."""
    sets["validation"].dataset.to_parquet(tmp_path / "validation.parquet")
    for index, row in enumerate(others(60).dataset):
        for place in (tmp_path / "flat", tmp_path / "nested" / f"strange {row['label']}"):
            place.mkdir(parents=True, exist_ok=True)
            row["image"].save(place / f"{index:03}.png")
    (tmp_path / "flat" / "notes.txt").write_text("not an image")
    found = []
    for name in ("flat", "nested"):
        copy = shutil.copytree(folder, tmp_path / f"of {name}")
        words = ["--dataset", str(tmp_path / "validation.parquet"), "--unknown", str(tmp_path / name), "--max_false_acceptance", "0.2"]
        assert main(["calibrate", str(copy), "--disable_tqdm", *words]) == 0, capsys.readouterr().err
        found.append(OpenSetDetector.from_pretrained(copy))
    assert found[0].risk == {**found[1].risk, "unknown": "flat"} and found[0].risk["false_acceptance"]["n"] == 60
    assert found[0].threshold == found[1].threshold
    (tmp_path / "nested" / "strange 0").rename(tmp_path / "nested" / CLASSES[0].upper())
    assert main(["calibrate", str(folder), "--disable_tqdm", *words]) == 2
    assert re.search(f"`--unknown {tmp_path}/nested`.*{CLASSES[0].upper()}", capsys.readouterr().err)


@pytest.mark.parametrize(
    "options, name",
    [
        ({"risk": {"max_false_acceptance": 0.1}}, "--unknown"),
        ({"risk": {"true_positive_rate": 0.9, "max_false_refusal": 0.1}}, "--max_false_refusal"),
        ({"risk": {"true_positive_rate": 0.9}, "unknown": others}, "--unknown"),
        ({"risk": {"true_positive_rate": 1.5}}, "--true_positive_rate"),
        ({"risk": {"true_positive_rate": 0}}, "--true_positive_rate"),
        ({"risk": {"max_false_acceptance": 0.1, "max_false_refusal": 0.1}, "unknown": others}, "--max_false_refusal"),
        ({"risk": {"confidence": 0.9}}, "--confidence"),
        ({"unknown": others}, "--unknown"),
        ({"risk": {"max_false_refusal": 0.1}, "keep_detector": False}, "--remove_detector"),
        ({"risk": {"max_false_refusal": 1.5}}, "max_false_refusal"),
        ({"risk": {"max_false_refusal": 0.001}}, "max_false_refusal"),
        ({"risk": {"max_false_refusal": 0}}, "max_false_refusal"),
        ({"risk": {"max_false_refusal": 0.1, "confidence": 0.0}}, "confidence"),
        ({"risk": {"max_false_acceptance": 0.0}, "unknown": others}, "max_false_acceptance"),
        ({"risk": {"max_false_acceptance": 0.1}, "unknown": lambda: others(9)}, "max_false_acceptance.*9 images"),
        # Images of known classes: by their names, or as they lie in the validation set.
        ({"risk": {"max_false_acceptance": 0.2}, "unknown": lambda: others(classes=("wolf", "Cat", "elk", "emu"))}, "--unknown others.*Cat"),
        ({"risk": {"max_false_acceptance": 0.2}, "unknown": lambda: others(60, seed=0)}, "--unknown others.*validation images"),
    ],
)
def test_errors_that_cannot_be_kept_change_nothing(folder, sets, options, name, monkeypatch):
    before = digests(folder)
    # Before any image is classified.
    monkeypatch.setattr(recalibrating, "collect_logits", lambda *args, **kwargs: pytest.fail("work was spent"))
    options = {key: value() if callable(value) else value for key, value in options.items()}
    with pytest.raises(ValueError, match=name):
        fold(folder, sets["validation"], **options)
    assert digests(folder) == before


WRONG_COMMANDS = [
    (["--unknown", "emoji_shift", "--max_false_acceptance", "0.2"], r"--unknown emoji_shift.*emoji_shift/open_set", True),
    (["--unknown", "nowhere", "--max_false_acceptance", "0.2"], "--unknown nowhere", False),
    (["--max_false_refusal", "5"], "--max_false_refusal 5", False),
    (["--max_false_refusal", "0"], "--max_false_refusal 0", False),
    (["--max_false_refusal", "0.1", "--confidence", "95"], "--confidence 95", False),
    (["--max_false_acceptance", "0.1"], "--unknown", False),
    (["--max_false_refusal", "0.1", "--max_false_acceptance", "0.1", "--unknown", "emoji_shift/open_set"], "--max_false_acceptance.*--max_false_refusal", False),
    (["--per_class_thresholds"], "--per_class_thresholds", False),
    (["--max_false_refusal", "0.1", "--remove_detector"], "--remove_detector", False),
]


@pytest.mark.parametrize("words, named, later", WRONG_COMMANDS)
def test_wrong_words_of_a_stated_error_are_refused_in_one_line(folder, words, named, later, capsys):
    arguments = [str(folder), "--dataset", "emoji_shift/validation", *words]
    if not later:
        # Before torch is loaded.
        with pytest.raises(UsageError, match=named):
            first_look("calibrate", arguments)
    assert main(["calibrate", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(named, line)


def test_the_command_chooses_the_threshold_and_says_what_it_keeps(folder, sets, tmp_path, capsys):
    for name, data in (("validation", sets["validation"].dataset), ("others", others().dataset)):
        data.to_parquet(tmp_path / f"{name}.parquet")
    arguments = ["calibrate", str(folder), "--disable_tqdm", "--dataset", str(tmp_path / "validation.parquet")]
    arguments += ["--unknown", str(tmp_path / "others.parquet"), "--max_false_acceptance", "0.2"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "Chosen to keep the share of unknown images accepted at or below 20.0 %, with a confidence of 95 %" in printed
    assert "Known images refused: " in printed and " of others" in printed
