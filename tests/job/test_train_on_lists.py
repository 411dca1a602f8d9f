# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a folder with lists of labels to a pipeline that gives all labels of an image, by the command line."""

import json

import pytest
from helpers import CLASSES, image_dataset
from helpers.families import save_family
from helpers.label_lists import label_lists, listed_folder

from hf_robustft import pipeline
from hf_robustft.cli import main
from hf_robustft.modeling.metadata import load_robustft_json


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Checkpoints of two families and folders of images."""
    folder = tmp_path_factory.mktemp("lists")
    for family in ("siglip", "clip"):
        save_family(family, folder / family)
    listed_folder(folder / "photos", 60)
    listed_folder(folder / "test", 40, seed=1)
    return folder


def train(place, family, method, *more):
    out = place / f"{family}-{method}"
    given = ["--train_dataset", str(place / "photos"), "--method", method, "--output_dir", str(out), "--use_cpu", "--disable_tqdm"]
    given += ["--model", str(place / family), "--per_device_train_batch_size", "16", "--num_train_epochs", "1", "--report_to", "none"]
    return main(["train", *given, *more]), out


@pytest.mark.parametrize("family, method", [("siglip", "flyp"), ("clip", "ft"), ("clip", "clip_adapter")])
def test_train_evaluate_and_the_pipeline(place, capsys, family, method):
    code, out = train(place, family, method, "--hold_out", "0.2", "--eval_datasets", str(place / "test"))
    assert code == 0 and "mAP %" in capsys.readouterr().out
    facts = load_robustft_json(out)
    assert facts["problem_type"] == "multi_label_classification" and "detector" not in facts and "temperature" not in facts
    thresholds = facts["thresholds"]
    assert thresholds["fitted_on"] == "validation" and set(thresholds["classes"]) == set(CLASSES) and thresholds["n"] > 8
    heads = {"ft": "trained multi-label head", "clip_adapter": "trained multi-label CLIP-Adapter", "flyp": "zero-shot prompts"}
    assert facts["head"] == heads[method]
    before, report = json.loads((out / "evaluation.json").read_text())["reports"]
    assert report["results"] == {} and list(report["multi_label"]) == ["test", "validation"]
    measured = report["multi_label"]["test"]
    assert measured["probabilities"] == "sigmoid" and measured["thresholds_of"] == "validation"
    # Each model has thresholds of its own.
    assert before["multi_label"]["test"]["thresholds_of"] == "validation"
    assert before["multi_label"]["test"]["classes"]["cat"]["threshold"] != measured["classes"]["cat"]["threshold"]
    assert {name: row["threshold"] for name, row in measured["classes"].items()} == pytest.approx(thresholds["classes"], abs=1e-6)
    card = (out / "README.md").read_text()
    for words in ("mAP %", "mean average precision is", "found['labels']", "sigmoid", "An image may get no label"):
        assert words in card, words
    assert ("logits.sigmoid()" in card) == (method != "flyp") and "type: mean_average_precision" in card
    # The folder measures what the run did.
    args = ["--eval_datasets", str(place / "test"), "--output_dir", str(place / f"again-{family}"), "--use_cpu", "--disable_tqdm"]
    assert main(["evaluate", str(out), *args]) == 0
    again = json.loads((place / f"again-{family}" / "evaluation.json").read_text())["reports"][-1]["multi_label"]["test"]
    for name in ("map", "f1", "f1_micro", "ece"):
        assert again[name] == pytest.approx(measured[name], abs=1e-6), name
    # All labels above their thresholds: what the report counts as right.
    classify = pipeline(out)
    answers = classify([str(place / "test" / f"{row:03d}.png") for row in range(40)])
    assert classify.thresholds.tolist() == [thresholds["classes"][name] for name in facts["class_names"]]
    lists = label_lists(40, seed=1)
    right = sum(item["label"] in [CLASSES[c] for c in labels] for labels, row in zip(lists, answers, strict=True) for item in row["labels"])
    given = sum(len(row["labels"]) for row in answers)
    assert 2 * right / (given + sum(map(len, lists))) == pytest.approx(measured["f1_micro"], abs=1e-9)
    assert all(item["score"] > thresholds["classes"][item["label"]] for row in answers for item in row["labels"])
    assert "labels" not in classify(str(place / "test" / "000.png"), function_to_apply="softmax")
    classify.save_pretrained(out / "copy")
    copied = pipeline(out / "copy")(str(place / "test" / "001.png"))
    assert [item["label"] for item in copied["labels"]] == [item["label"] for item in answers[1]["labels"]]
    if method == "ft":
        capsys.readouterr()
        for probabilities in ("softmax", "sigmoid"):
            given = ["--dataset", str(place / "photos"), "--probabilities", probabilities]
            assert main(["calibrate", str(out), *given]) != 0
            said = capsys.readouterr().err.strip().splitlines()[-1]
            assert f"--probabilities {probabilities}" in said and "lists of labels" in said


def test_without_validation_images_the_thresholds_are_one_half_and_the_card_says_so(place, caplog):
    code, out = train(place, "siglip", "ft", "--eval_datasets", str(place / "test"), "--skip_baseline")
    assert code == 0 and "no thresholds of labels were fitted" in caplog.text
    thresholds = load_robustft_json(out)["thresholds"]
    assert set(thresholds["classes"].values()) == {0.5} and thresholds.get("fitted_on") is None
    assert "are all 0.5" in (out / "README.md").read_text()
    answer = pipeline(out)(str(place / "test" / "003.png"))
    assert all(item["score"] > 0.5 for item in answer["labels"])


def test_what_cannot_be_is_refused_in_one_line_before_weights_are_read(place, capsys, monkeypatch):
    monkeypatch.setattr("hf_robustft.cli.train.load_dual_encoder", lambda *_, **__: pytest.fail("weights were read"))
    single = place / "single"
    for index, row in enumerate(image_dataset(12)):
        (single / CLASSES[row["label"]]).mkdir(parents=True, exist_ok=True)
        row["image"].save(single / CLASSES[row["label"]] / f"{index}.png")
    held = ["--hold_out", "0.2"]
    for family, method, more, words in (
        ("clip", "flyp", held, "ft, clip_adapter, lp, lp_ft, l2_sp"),
        ("clip", "tip_adapter_f", held, "ft, clip_adapter, lp, lp_ft, l2_sp"),
        ("clip", "croft", held, "ft, clip_adapter, lp, lp_ft, l2_sp"),
        ("clip", "wise_ft", held, "--method wise_ft"),
        ("clip", "ft", ["--shots", "2"], "--shots"),
        ("clip", "ft", [*held, "--fold_temperature"], "--fold_temperature"),
        ("clip", "ft", [*held, "--detector", "msp"], "--detector msp"),
        ("clip", "ft", [*held, "--save_predictions"], "--save_predictions"),
        ("clip", "ft", [*held, "--label_smoothing_factor", "0.1"], "label_smoothing_factor"),
        ("siglip", "flyp", [*held, "--contrastive_positives", "diagonal"], "contrastive_positives"),
        ("clip", "ft", ["--eval_datasets", f"{single}:validation"], "one label per image"),
        ("siglip", "flyp", ["--leave_out_classes", "0.5"], "--leave_out_classes"),
    ):
        code, out = train(place, family, method, *more)
        said = capsys.readouterr().err.strip().splitlines()
        assert code != 0 and words in said[-1] and said[-1].startswith("error: "), (method, more, said)
    for method in ("zero_shot", "tip_adapter"):
        sets = ["--train_dataset", str(place / "photos"), "--eval_datasets", str(place / "test"), "--output_dir", str(place / "out")]
        assert main(["train", "--method", method, "--model", str(place / "clip"), "--use_cpu", *sets]) != 0
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "lists of labels" in said and f"--method {method}" in said


def test_comparisons_need_one_label_per_image(place, capsys):
    given = ["--model", str(place / "siglip"), "--train_dataset", str(place / "photos"), "--eval_datasets", str(place / "test")]
    assert main(["compare", "--methods", "ft", "flyp", *given, "--use_cpu", "--output_dir", str(place / "compared")]) != 0
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "lists of labels" in said and "hf-robustft train" in said
