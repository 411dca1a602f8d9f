# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a folder with lists of labels to a pipeline that gives all labels of an image, by the command line."""

import json
import shutil
from statistics import fmean

import numpy as np
import pytest
from helpers import CLASSES, image_dataset
from helpers.families import save_family
from helpers.label_lists import label_lists, listed_folder
from sklearn.metrics import average_precision_score

from hf_robustft import pipeline
from hf_robustft.cli import main
from hf_robustft.cli.train import load_data
from hf_robustft.cli.train_arguments import parse
from hf_robustft.comparison.runs import read_run, read_runs
from hf_robustft.comparison.summary import load_comparison
from hf_robustft.evaluation.list_predictions import load_list_predictions
from hf_robustft.evaluation.resampling import draw_counts
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
    for method in ("tip_adapter",):
        sets = ["--train_dataset", str(place / "photos"), "--eval_datasets", str(place / "test"), "--output_dir", str(place / "out")]
        assert main(["train", "--method", method, "--model", str(place / "clip"), "--use_cpu", *sets]) != 0
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "lists of labels" in said and f"--method {method}" in said


@pytest.mark.slow
def test_a_comparison_says_which_method_for_lists_of_labels(place, capsys):
    """By mAP: what was chosen on validation images, the measured numbers, and the words and tables of it."""
    out = place / "compared"
    given = ["--model", str(place / "clip"), "--train_dataset", str(place / "photos"), "--use_cpu"]
    given += ["--eval_datasets", str(place / "test"), "--num_train_epochs", "2", "--jobs", "1"]
    assert main(["compare", "--methods", "ft", "lp", "--learning_rates", "1e-2", "--output_dir", str(out), *given]) == 0
    printed = capsys.readouterr().out
    summary = load_comparison(out)
    assert summary["measure"] == "map" and summary["rule"]["name"] == "id_within" and "mAP" in summary["rule"]["says"]
    assert summary["rule"]["looked_at"] == ["validation"] and summary["decided_on"] == "id_mean"
    assert any("no classes can be left out" in note or "none can be left out" in note for note in summary["notes"])
    runs = read_runs(sorted(path.parent for path in (out / "runs").glob("*/robustft.json")))
    for row in summary["candidates"]:
        method = next(runs for candidate, runs in runs.candidates.items() if candidate.label == row["label"])
        reports = [run.report.multi_label["test"] for run in method]
        for key in ("map", "f1", "ece"):
            assert row["sets"]["test"][key]["mean"] == pytest.approx(fmean(report[key] for report in reports), abs=1e-9)
        # The paired difference of the zero-shot model, by scikit-learn and the draws of the same images.
        gain, start = row["against_zero_shot"]["test"]["map"], runs.zero_shot.predictions.sets["test"]
        times = np.concatenate(list(draw_counts(len(start), 1000, [0, 0]))).astype(int)[:150]
        drawn = [np.repeat(np.arange(len(start)), counts) for counts in times]

        def precision(item, rows):
            y, z = item.label[rows], item.logits.numpy()[rows]
            return fmean(average_precision_score(y[:, c], z[:, c]) for c in range(4) if y[:, c].any())

        sides = [[run.predictions.sets["test"] for run in method], [start]]
        values = [[fmean(precision(item, rows) for item in side) for rows in drawn] for side in sides]
        ours = [np.mean([item.sampled(draws=1000, seed=[0, 0])["map"] for item in side], axis=0) for side in sides]
        np.testing.assert_allclose([side[:150] for side in ours], values, rtol=0, atol=1e-12)
        assert gain["mean"] == pytest.approx(fmean(report["map"] for report in reports) - runs.zero_shot.report.multi_label["test"]["map"])
        seeds = np.var([report["map"] for report in reports], ddof=1) / 2
        variance = np.var(ours[0] - ours[1], ddof=1) * len(start) / (len(start) - 1) + seeds
        assert gain["se"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    page, table = (out / "comparison.html").read_text(), (out / "comparison.md").read_text()
    for text in (printed, table, page, summary["winner"]["words"]):
        assert "mAP" in text and "accuracy" not in text.lower() and "AUROC" not in text, text
    assert "Unknown classes" not in page and "F1 %" in page and "F1, mean over classes" in printed
    # What the rules choose is the best mAP on validation images; what is not defined by it is refused.
    best = max(summary["candidates"], key=lambda row: row["sets"]["validation"]["map"]["mean"])["label"]
    assert summary["choices"]["id"]["overall"] == best and set(summary["choices"]) == {"id", "id_within"}
    finished = [str(run.folder) for run in (*runs.runs, runs.zero_shot)]
    for rule in ("concepts", "id_nearest"):
        assert main(["compare", *finished, "--rule", rule, "--output_dir", str(out)]) != 0
        said = capsys.readouterr().err.strip().splitlines()
        assert rule in said[-1] and "mAP" in said[-1]
    # A folder without its logits cannot be compared.
    (runs.runs[0].folder / "logits" / "test.safetensors").unlink()
    assert main(["compare", *finished, "--output_dir", str(out)]) != 0
    assert "--save_logits" in capsys.readouterr().err.strip().splitlines()[-1]


def test_what_cannot_be_compared_on_lists_of_labels_is_said_in_one_line(place, capsys):
    given = ["--model", str(place / "siglip"), "--train_dataset", str(place / "photos"), "--eval_datasets", str(place / "test"), "--use_cpu"]
    for words, said in (
        (["compare", "--methods", "croft", "ft"], "croft"),
        (["compare", "--methods", "wise_ft"], "wise_ft"),
        (["compare", "--methods", "ft", "--rule", "concepts"], "concepts"),
    ):
        assert main([*words, *given, "--output_dir", str(place / "refused")]) != 0
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in error and "lists of labels" in error, error
    assert main(["compare", "--dry_run", "--seeds", "0", *given, "--output_dir", str(place / "planned")]) == 0
    printed, noted = capsys.readouterr()
    planned = {line.split()[3] for line in printed.splitlines() if line.startswith("hf-robustft train")}
    assert planned == {"zero_shot", "tracer", "flyp", "ft", "covariance_anchor", "clip_adapter", "lp", "lp_ft", "l2_sp", "lipsum_ft"}
    assert "Left out, as they cannot train" in printed + noted and "--save_predictions" not in printed


def test_zero_shot_is_measured_on_lists_with_thresholds_of_shares_or_sigmoids(place, capsys):
    for family, probabilities in (("clip", "softmax"), ("siglip", "sigmoid")):
        out = place / f"start-{family}"
        given = ["--train_dataset", str(place / "photos"), "--hold_out", "0.2", "--eval_datasets", str(place / "test"), "--use_cpu"]
        assert main(["train", "--method", "zero_shot", "--model", str(place / family), *given, "--output_dir", str(out), "--save_logits"]) == 0
        facts, (report,) = load_robustft_json(out), json.loads((out / "evaluation.json").read_text())["reports"]
        row = report["multi_label"]["test"]
        assert row["probabilities"] == probabilities and row["thresholds_of"] == "validation" and "detector" not in facts
        assert facts["thresholds"]["classes"] == pytest.approx({name: of["threshold"] for name, of in row["classes"].items()}, abs=1e-6)
        if family == "siglip":
            answers = pipeline(out)([str(place / "test" / f"{index:03d}.png") for index in range(8)], function_to_apply="sigmoid")
            assert all(item["score"] > facts["thresholds"]["classes"][item["label"]] for answer in answers for item in answer["labels"])
        (found,) = {run.measure.key for run in (read_run(out),)}
        assert found == "map"


def test_groups_say_which_images_with_lists_of_labels_are_held_out_together(tmp_path, place, capsys):
    folders = {}
    for name, n in (("photos", 60), ("test", 12)):
        folder = folders[name] = listed_folder(tmp_path / name, n, seed=n)
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        (folder / "metadata.jsonl").write_text("".join(json.dumps({**row, "patient": f"{name} {number // 3}"}) + "\n" for number, row in enumerate(rows)))
    given = ["--train_dataset", str(folders["photos"]), "--model", str(place / "clip"), "--group_column", "patient", "--use_cpu", "--hold_out", "0.2"]
    for more in ([], ["--eval_datasets", str(folders["test"])]):
        data = load_data(parse(["--method", "ft", *given, *more]))
        assert "--save_logits" in capsys.readouterr().out
        assert [item.name for item in data.evaluation] == ["test" if more else "held-out", "validation"] and data.evaluation[-1] is data.validation
        # Groups that nothing would draw from are not measured; those of kept logits are. No patient is in two of the sets.
        assert all(item.group_column is None and item.stored_rows().group_column is None for item in data.evaluation)
        kept = load_data(parse(["--method", "ft", *given, *more, "--save_logits"]))
        assert all(item.group_column == "patient" for item in kept.evaluation) and "Note: no group" not in capsys.readouterr().out
        sets = [set(item.load()["patient"]) for item in (data.train, *data.evaluation)]
        assert sum(map(len, sets)) == len(set.union(*sets)) == (24 if more else 20) and min(map(len, sets)) > 1
    # Without images that are held out, or logits that are kept, nothing would read them.
    code, _ = train(place, "clip", "ft", "--eval_datasets", str(folders["test"]), "--group_column", "patient")
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code != 0 and "--hold_out" in said and "--save_logits" in said
    measured = ["evaluate", str(place / "clip"), "--eval_datasets", str(folders["test"]), "--group_column", "patient", "--use_cpu"]
    assert main([*measured, "--output_dir", str(tmp_path / "out")]) != 0
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--group_column patient" in said and "--save_logits" in said and not (tmp_path / "out").exists()
    assert main([*measured, "--output_dir", str(tmp_path / "out"), "--save_logits"]) == 0
    (report,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["reports"]
    assert report["multi_label"]["test"]["n_groups"] == 4
    assert {run.split()[0] for run in load_list_predictions(tmp_path / "out" / "logits", report["multi_label"])["test"].group} == {"test"}


def test_a_held_out_set_of_one_group_is_refused_before_the_training(tmp_path, place, capsys):
    folder = listed_folder(tmp_path / "photos", 60)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    # Whole patients are drawn by the rarest label of their first image.
    rows = [{**row, "patient": number % 6, "label": ["cat"] if number < 6 else row["label"]} for number, row in enumerate(rows)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--method", "ft", "--train_dataset", str(folder), "--model", str(place / "clip"), "--group_column", "patient", "--use_cpu", "--hold_out"]
    for share, more, compared in (("0.1", ["--save_logits"], False), ("0.1", [], True)):
        with pytest.raises(ValueError, match=r"'patient' of the set 'held-out' that --hold_out 0\.1 makes.*--group_column"):
            load_data(parse([*given, share, *more]), compared)
    # Where nothing is drawn from the groups they only hold images together, and of two there is enough.
    load_data(parse([*given, "0.1"]))
    assert all(item.group_column == "patient" for item in load_data(parse([*given, "0.2", "--save_logits"])).evaluation)


def test_heads_of_lists_of_labels_are_not_merged_and_it_is_said_why(place, capsys):
    code, out = train(place, "clip", "ft", "--eval_datasets", str(place / "test"), "--max_steps", "1")
    assert code == 0
    shutil.copytree(out, place / "copied")
    capsys.readouterr()
    for method, sources in (("wise_ft", [out]), ("lines", [out]), ("model_stock", [out, place / "copied"])):
        given = ["--train_dataset", str(place / "photos"), "--eval_datasets", str(place / "test"), "--model", str(place / "clip"), "--use_cpu"]
        assert main(["train", "--method", method, "--finetuned_model", *map(str, sources), *given, "--output_dir", str(place / "merged")]) != 0
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"--finetuned_model {out}" in said and "trained multi-label head is not merged" in said and "lists of labels" in said


def test_a_merge_of_models_that_answer_by_prompts_is_measured_on_lists_of_labels(place, capsys):
    data = ["--train_dataset", str(place / "photos"), "--hold_out", "0.2", "--eval_datasets", str(place / "test"), "--use_cpu", "--disable_tqdm"]
    given = ["--model", str(place / "siglip"), *data]
    tuned = place / "siglip-merged"
    words = ["--per_device_train_batch_size", "16", "--max_steps", "3", "--learning_rate", "1e-3", "--report_to", "none"]
    assert main(["train", "--method", "flyp", *given, *words, "--output_dir", str(tuned)]) == 0
    start, end = json.loads((tuned / "evaluation.json").read_text())["reports"]
    # At the ends it is the one or the other, thresholds included.
    for alpha, expected in (("0", start), ("1", end)):
        out = place / f"wise-{alpha}"
        assert main(["train", "--method", "wise_ft", "--alpha", alpha, "--finetuned_model", str(tuned), *given, "--output_dir", str(out)]) == 0
        facts, found = load_robustft_json(out), json.loads((out / "evaluation.json").read_text())["reports"][-1]
        assert facts["problem_type"] == "multi_label_classification" and facts["head"] == "zero-shot prompts" and "detector" not in facts
        for name in ("test", "validation"):
            for key in ("map", "f1", "ece"):
                assert found["multi_label"][name][key] == pytest.approx(expected["multi_label"][name][key], abs=1e-6), (alpha, name, key)
        assert facts["thresholds"]["classes"] == pytest.approx({name: row["threshold"] for name, row in expected["multi_label"]["test"]["classes"].items()}, abs=1e-5)
        assert "mean average precision" in (out / "README.md").read_text()
    assert start["multi_label"]["test"]["map"] != end["multi_label"]["test"]["map"]
    capsys.readouterr()
    for more, said in (
        (["--finetune_with", "ft", "--max_steps", "1"], "--finetune_with flyp"),
        (["--finetuned_model", str(tuned), "--alpha_sweep", "0.5"], "--alpha_sweep"),
    ):
        assert main(["train", "--method", "wise_ft", *more, *given, "--output_dir", str(place / "refused")]) != 0
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in error and "lists of labels" in error
    # A comparison makes and merges such runs.
    words = ["--methods", "flyp", "wise_ft", "lines", "model_stock", "--finetune_with", "flyp", "--learning_rates", "1e-3", "--max_steps", "3"]
    assert main(["compare", "--dry_run", *words, *given, "--output_dir", str(place / "planned")]) == 0
    planned = [line for line in capsys.readouterr().out.splitlines() if line.startswith("hf-robustft train")]
    assert [line.split()[3] for line in planned] == ["zero_shot", *["flyp", "wise_ft", "lines"] * 2, "model_stock"]
    assert all("--save_logits" in line and "--alpha_sweep" not in line for line in planned)
