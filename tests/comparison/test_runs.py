# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Finished folders are told apart by what differs between them, and refused where they cannot be compared."""

import itertools
import json
import re

import pytest
from helpers.finished import finished, finished_twin, finished_with_predictions, hashes

from hf_robustft.comparison.runs import ZERO_SHOT, Candidate, rate_text, read_run, read_runs
from hf_robustft.comparison.summary import summarise
from hf_robustft.modeling.metadata import update_robustft_json


def labels(comparison):
    return {candidate.label: [run.seed for run in runs] for candidate, runs in comparison.candidates.items()}


def test_seeds_of_a_method_and_rate_are_one_candidate(tmp_path):
    finished(tmp_path / "a", "flyp", 1e-3, 0)
    for seed, accuracy in ((2, 0.9), (0, 0.8), (1, 0.7)):
        finished(tmp_path / f"c{seed}", "carot", 3e-4, seed, (accuracy, 0.5, 0.4))
    finished(tmp_path / "d", "carot", 1e-5, 0)
    comparison = read_runs([tmp_path / name for name in ("a", "c2", "c0", "d", "c1", "../" + tmp_path.name + "/a")])
    assert labels(comparison) == {"FLYP, 1e-3": [0], "CaRot, 1e-5": [0], "CaRot, 3e-4": [0, 1, 2]}
    assert comparison.sets == {"photo": "id", "sketch": "shift", "cartoon": "shift"}
    measured = comparison.measured(Candidate("carot", 3e-4))
    assert measured["photo"] == pytest.approx({"accuracy": 0.8, "nll": 1.25, "ece": 0.0815, "brier": 0.625, "n": measured["photo"]["n"]})
    assert measured["photo"]["n"] == comparison.runs[0].report.results["photo"].n
    assert comparison.zero_shot is None and comparison.notes == []


def test_other_settings_that_differ_are_the_variant(tmp_path):
    job = {"disable_tqdm": True, "logging_steps": 3, "dataloader_num_workers": 2, "per_device_eval_batch_size": 7}
    finished(tmp_path / "a", "tracer", settings={"teacher": "trajectory"})
    finished(tmp_path / "b", "tracer", seed=1, settings={"teacher": "trajectory", **job})
    # Its teacher is the arguments' default, so it is not among the settings.
    finished(tmp_path / "c", "tracer")
    finished(tmp_path / "d", "tracer", settings={"teacher": "trajectory", "weight_decay": 0.25})
    comparison = read_runs([tmp_path / name for name in "abcd"])
    assert labels(comparison) == {
        "TRACER, 1e-3": [0, 1],
        "TRACER (teacher ema), 1e-3": [0],
        "TRACER (weight decay 0.25), 1e-3": [0],
    }
    assert labels(read_runs([tmp_path / "b"])) == {"TRACER, 1e-3": [1]}


def test_a_rate_that_a_record_leaves_open_is_that_of_the_method(tmp_path):
    found = []
    for name, settings in (("null", {"learning_rate": None}), ("absent", {})):
        finished(tmp_path / name, "flyp", None)
        path = tmp_path / name / "robustft.json"
        content = json.loads(path.read_text())
        content["settings"] = {key: value for key, value in content["settings"].items() if key != "learning_rate"} | settings
        path.write_text(json.dumps(content))
        found.append(read_run(tmp_path / name).candidate)
    assert found[0] == found[1]


def test_what_was_made_of_a_given_run_has_its_rate_and_seed(tmp_path):
    finished(tmp_path / "flyp-0", "flyp", 3e-4, 7)
    for alpha in (0.5, 0.75):
        merge = {"fine_tuned": ["flyp-0"], "alpha": alpha, "alpha_rule": "given"}
        finished(tmp_path / f"w{alpha}", "wise_ft", None, 42, parts={"alpha": alpha, "merge": merge})
    chosen = {"fine_tuned": ["flyp-0"], "alpha": 0.3, "alpha_rule": "best accuracy on validation"}
    finished(tmp_path / "chosen", "wise_ft", None, 42, parts={"alpha": 0.3, "merge": chosen})
    folders = [tmp_path / name for name in ("flyp-0", "w0.5", "w0.75", "chosen")]
    assert labels(read_runs(folders)) == {
        "FLYP, 3e-4": [7],
        "WiSE-FT (alpha 0.5), 3e-4": [7],
        "WiSE-FT (alpha 0.75), 3e-4": [7],
        "WiSE-FT (alpha best accuracy on validation), 3e-4": [7],
    }
    assert labels(read_runs(folders[1:3])) == {"WiSE-FT (alpha 0.5)": [42], "WiSE-FT (alpha 0.75)": [42]}


def test_zero_shot_is_a_run_of_its_own_or_a_baseline(tmp_path):
    finished(tmp_path / "a", "carot", baseline=(0.6, 0.55, 0.5))
    finished(tmp_path / "b", "flyp")
    comparison = read_runs([tmp_path / "b", tmp_path / "a"])
    assert comparison.measured(ZERO_SHOT)["photo"]["accuracy"] == 0.6
    assert [run.candidate.method for run in comparison.runs] == ["flyp", "carot"]
    # As near as other versions of the same code may come.
    finished(tmp_path / "z", "zero_shot", None, 42, (0.605, 0.55, 0.5))
    comparison = read_runs([tmp_path / "a", tmp_path / "z"])
    assert comparison.zero_shot.folder == tmp_path / "z" and comparison.zero_shot.seed is None
    assert comparison.measured(ZERO_SHOT)["photo"]["accuracy"] == 0.605
    with pytest.raises(ValueError, match="zero_shot"):
        read_runs([tmp_path / "z"])


def test_a_set_that_not_all_have_is_left_out_and_said(tmp_path):
    finished(tmp_path / "a")
    finished(tmp_path / "b", "flyp", accuracies=(0.9, 0.5), sets={"photo": "id", "sketch": "shift"})
    comparison = read_runs([tmp_path / "a", tmp_path / "b"])
    assert list(comparison.sets) == ["photo", "sketch"]
    assert len(comparison.notes) == 1 and "cartoon" in comparison.notes[0] and "b did not" in comparison.notes[0]
    finished(tmp_path / "b", "flyp", accuracies=(0.9,), sets={"other": "id"})
    with pytest.raises(ValueError, match="cartoon, other, photo, sketch"):
        read_runs([tmp_path / "a", tmp_path / "b"])


def test_the_same_run_twice_is_refused_by_both_names(tmp_path):
    finished(tmp_path / "one")
    finished(tmp_path / "two")
    with pytest.raises(ValueError, match="one and .*two are both CaRot, 1e-3 with seed 0"):
        read_runs([tmp_path / "one", tmp_path / "two"])


def test_rates_that_are_written_alike_are_refused(tmp_path):
    """All that is told of a candidate is by its label."""
    for name, rate in (("a", 1.2341e-4), ("b", 1.2349e-4)):
        finished(tmp_path / name, "carot", rate, seed=ord(name))
    with pytest.raises(ValueError, match="a and .*b are both called CaRot, 1.23e-4.* 0.00012341 and 0.00012349"):
        read_runs([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_groups": 20}, "the groups of cartoon, of which there are 12 and 20"),
        ({"hashed": {"train": hashes("train", "train", first=100)}}, "the training images"),
        ({"hashed": {"sketch": hashes("sketch", "shift", first=100)}}, "the images of sketch"),
        ({"classes": ("cat", "dog", "owl", "bat")}, "the classes"),
        ({"n": 1000}, "the images of cartoon, the images of photo and the images of sketch"),
        (
            {"sets": {"photo": "id", "sketch": "id", "cartoon": "shift"}},
            "the role of sketch (shift and id)",
        ),
        ({"card": {"base_model": "openai/clip-vit-base-patch16"}}, "emoji_clip and openai/clip-vit-base-patch16"),
    ],
)
def test_other_data_are_refused_in_one_line(tmp_path, changes, said):
    finished(tmp_path / "one", n_groups=12)
    finished(tmp_path / "two", "flyp", **changes)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        read_runs([tmp_path / "one", tmp_path / "two"])
    assert "one and " in str(error.value) and "two cannot" in str(error.value) and "\n" not in str(error.value)


def test_what_one_run_does_not_record_hides_nothing_of_two_others(tmp_path):
    folders = [finished(tmp_path / "silent"), finished(tmp_path / "one", "flyp"), finished(tmp_path / "two", "ft", hashed={"train": hashes("train", "train", first=100)})]
    content = json.loads((folders[0] / "robustft.json").read_text())
    content["image_hashes"] = [entry for entry in content["image_hashes"] if entry["role"] != "train"]
    (folders[0] / "robustft.json").write_text(json.dumps(content))
    assert len(read_runs(folders[:2]).runs) == len(read_runs(folders[::2]).runs) == 2
    for order in itertools.permutations(folders):
        with pytest.raises(ValueError, match="the training images"):
            read_runs(order)


def test_what_the_model_was_trained_on_before_hides_no_other_training_images(tmp_path):
    """Its training set was called train, too."""
    folders = [finished(tmp_path / "one"), finished(tmp_path / "two", "flyp", hashed={"train": hashes("train", "train", first=100)})]
    for folder in folders:
        content = json.loads((folder / "robustft.json").read_text())
        content["image_hashes"].insert(1, hashes("train", "train", first=700))
        (folder / "robustft.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the training images"):
        read_runs(folders)


@pytest.mark.parametrize(("name", "role", "said"), [("train", "train", "the labels of the training images"), ("sketch", "shift", "the labels of sketch")])
def test_the_same_images_with_other_labels_are_refused(tmp_path, name, role, said):
    labelled = {text: hashes(name, role, first=20 if name == "sketch" else 0) | {"labels": text} for text in ("0123", "4567")}
    finished(tmp_path / "one", hashed={name: labelled["0123"]})
    finished(tmp_path / "two", "flyp", hashed={name: labelled["4567"]})
    with pytest.raises(ValueError, match=said):
        read_runs([tmp_path / "one", tmp_path / "two"])
    finished(tmp_path / "two", "flyp", hashed={name: labelled["0123"]})
    # As runs before this version are.
    finished(tmp_path / "three", "ft")
    assert len(read_runs([tmp_path / each for each in ("one", "two", "three")]).runs) == 3


def test_other_weights_of_a_model_of_the_same_name_are_refused(tmp_path):
    """The record has the name of a folder, not its path; what was measured before the training tells two of a name apart."""
    finished(tmp_path / "one", baseline=(0.6, 0.55, 0.5))
    finished(tmp_path / "two", "flyp", baseline=(0.6, 0.55, 0.52))
    with pytest.raises(ValueError, match=r"one and .*two cannot .*50.0 and 52.0 % of cartoon"):
        read_runs([tmp_path / "one", tmp_path / "two"])
    finished(tmp_path / "two", "flyp", baseline=(0.6, 0.55, 0.5), nll=1.3)
    with pytest.raises(ValueError, match="NLL on photo was 1.250 and 1.300"):
        read_runs([tmp_path / "one", tmp_path / "two"])
    finished(tmp_path / "zero", "zero_shot", None, None, (0.7, 0.55, 0.5))
    with pytest.raises(ValueError, match=r"60.0 and 70.0 % of photo"):
        read_runs([tmp_path / "one", tmp_path / "zero"])
    for name, commit in (("two", "a" * 40), ("three", "b" * 40)):
        finished(tmp_path / name, "flyp" if name == "two" else "ft", card={"base_model": "some/clip", "base_model_revision": commit})
    with pytest.raises(ValueError, match="the commit of the model they start from"):
        read_runs([tmp_path / "two", tmp_path / "three"])


def test_images_that_were_prepared_otherwise_are_refused(tmp_path):
    for name, method, size in (("one", "carot", 224), ("two", "flyp", 336), ("three", "ft", None)):
        path = finished(tmp_path / name, method) / "evaluation.json"
        if size is not None:
            path.write_text(path.read_text().replace('"n_bins": 15', f'"n_bins": 15, "image_size": {size}, "image_resampling": "bicubic (PIL)"'))
    with pytest.raises(ValueError, match=r"how images are prepared \(to 224 pixels, bicubic \(PIL\) and 336 pixels"):
        read_runs([tmp_path / "one", tmp_path / "two"])
    assert len(read_runs([tmp_path / "one", tmp_path / "three"]).runs) == 2


def test_calibration_errors_of_other_bins_are_refused(tmp_path):
    for name, method in (("one", "carot"), ("two", "flyp")):
        finished(tmp_path / name, method)
    path = tmp_path / "two" / "evaluation.json"
    path.write_text(path.read_text().replace('"n_bins": 15', '"n_bins": 10'))
    with pytest.raises(ValueError, match=r"the bins of the ECE \(15 and 10\)"):
        read_runs([tmp_path / "one", tmp_path / "two"])


def test_few_shots_may_differ_with_the_seed_alone(tmp_path):
    shots = {"card": {"command": "hf-robustft train --shots 4"}}
    other = {"train": hashes("train", "train", first=100)}
    finished(tmp_path / "one", **shots)
    finished(tmp_path / "two", seed=1, hashed=other, **shots)
    assert labels(read_runs([tmp_path / "one", tmp_path / "two"])) == {"CaRot, 1e-3": [0, 1]}
    finished(tmp_path / "two", "flyp", hashed=other, **shots)
    with pytest.raises(ValueError, match="training images"):
        read_runs([tmp_path / "one", tmp_path / "two"])


def test_other_numbers_of_shots_are_other_training_images(tmp_path):
    """As seeds of one candidate their mean would be that of no training."""
    other = {"train": hashes("train", "train", first=100)}
    finished(tmp_path / "one", card={"command": "hf-robustft train --shots 4"})
    finished(tmp_path / "two", seed=1, hashed=other, card={"command": "hf-robustft train \\\n  --shots=4"})
    assert labels(read_runs([tmp_path / "one", tmp_path / "two"])) == {"CaRot, 1e-3": [0, 1]}
    finished(tmp_path / "two", seed=1, hashed=other, card={"command": "hf-robustft train --shots 16"})
    with pytest.raises(ValueError, match="training images"):
        read_runs([tmp_path / "one", tmp_path / "two"])


def test_what_was_exported_and_the_views_of_features_tell_candidates_apart(tmp_path):
    finished(tmp_path / "one")
    finished(tmp_path / "two", seed=1, settings={"export_weights": "teacher"})
    assert labels(read_runs([tmp_path / "one", tmp_path / "two"])) == {"CaRot, 1e-3": [0], "CaRot (export weights teacher), 1e-3": [1]}
    for seed, views in enumerate((4, 1)):
        finished(tmp_path / f"lp-{seed}", "lp", seed=seed, card={"command": f"hf-robustft train --feature_views {views} --seed {seed}"})
    assert [len(of) for of in labels(read_runs([tmp_path / "lp-0", tmp_path / "lp-1"])).values()] == [1, 1]


def test_what_is_not_finished_or_not_ours_is_one_line(tmp_path):
    folder = finished(tmp_path / "a")
    evaluation = (folder / "evaluation.json").read_text()
    for name, text, said in (
        ("evaluation.json", None, "evaluation.json"),
        ("evaluation.json", json.dumps({**json.loads(evaluation), "format": 0}), "format 0"),
        ("robustft.json", None, "robustft.json"),
    ):
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_text(text)
        with pytest.raises((OSError, ValueError), match=said) as error:
            read_run(folder)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
        (folder / "evaluation.json").write_text(evaluation)
    with pytest.raises(OSError, match="nowhere"):
        read_run(tmp_path / "nowhere")


def test_a_rate_is_written_as_people_write_it():
    rates = {1e-3: "1e-3", 3e-4: "3e-4", 0.00025: "2.5e-4", 1.0: "1e+0", 0.0003000001: "3e-4"}
    assert {rate: rate_text(rate) for rate in rates} == rates


def test_validation_images_are_measured_where_predictions_were_kept(tmp_path):
    sets = {"photo": "id", "sketch": "shift", "held out": "validation"}
    for seed, accuracy in ((0, 0.7), (1, 0.8)):
        finished_with_predictions(
            tmp_path / f"c{seed}", "carot", 1e-3, seed, (0.9, 0.5, accuracy), sets, baseline=(0.6, 0.4)
        )
    comparison = read_runs([tmp_path / "c0", tmp_path / "c1"])
    assert comparison.sets == sets
    measured = comparison.measured(Candidate("carot", 1e-3))
    assert measured["held out"]["accuracy"] == pytest.approx(0.75) and set(measured["held out"]) == {
        "accuracy",
        "nll",
        "ece",
        "brier",
        "n",
    }
    assert measured["held out"]["n"] == 120
    assert comparison.runs[0].measured("held out")["n"] == 120
    # The baseline was measured before, and nobody kept its predictions.
    assert set(comparison.measured(ZERO_SHOT)) == {"photo", "sketch"} and comparison.notes == []
    (tmp_path / "c1" / "predictions.parquet").unlink()
    comparison = read_runs([tmp_path / "c0", tmp_path / "c1"])
    assert comparison.sets == {"photo": "id", "sketch": "shift"}
    # Neither is said of the run that kept them, whose baseline did not.
    assert len(comparison.notes) == 2 and all("--save_predictions" in note and "c1" in note and "c0" not in note for note in comparison.notes)


def test_images_that_no_run_could_read_are_told(tmp_path):
    unreadable = {"count": 2, "of": 105, "first": ["row 75 (star/00.png): the file is empty", "row 76 (star/01.png): the file is empty"]}
    for folder, method in (("a", "carot"), ("b", "flyp")):
        finished(tmp_path / folder, method, numbers={"sketch": {"unreadable": unreadable}})
    (note,) = read_runs([tmp_path / "a", tmp_path / "b"]).notes
    assert "sketch: 2 of 105 images cannot be read" in note and "star/00.png" in note


def test_runs_that_left_classes_out_are_kept_aside_as_twins(tmp_path):
    for rate in (1e-4, 1e-3):
        finished(tmp_path / f"c{rate}", "carot", rate)
        finished_twin(tmp_path / f"c{rate}-left-out", "carot", rate, accuracy=100 * rate, baseline=(0.7,))
        finished_twin(tmp_path / f"c{rate}-second", "carot", rate, fold=1, accuracy=0.4)
    comparison = read_runs(sorted(tmp_path.iterdir()))
    assert labels(comparison) == {"CaRot, 1e-4": [0], "CaRot, 1e-3": [0]} and comparison.notes == []
    assert set(comparison.sets) == {"photo", "sketch", "cartoon"}
    first, second = comparison.twins
    assert labels(first) == labels(second) == labels(comparison)
    assert first.measured(Candidate("carot", 1e-3))["left_out_classes"]["accuracy"] == pytest.approx(0.1)
    assert first.measured(ZERO_SHOT)["left_out_classes"]["accuracy"] == 0.7 and second.zero_shot is None
    # The zero-shot model may be measured on these classes by itself.
    finished_twin(tmp_path / "zero-second", "zero_shot", None, fold=1, accuracy=0.6)
    both = read_runs(sorted(tmp_path.iterdir()))
    assert both.zero_shot is None and both.twins[1].measured(ZERO_SHOT)["left_out_classes"]["accuracy"] == 0.6
    alone = read_runs(sorted(tmp_path.glob("*-second")))
    assert labels(alone) == labels(both) and alone.measured(ZERO_SHOT)["left_out_classes"]["accuracy"] == 0.6


def test_the_twin_of_a_merge_is_the_merge_of_twins(tmp_path):
    for rate in ("1e-4", "1e-3"):
        finished(tmp_path / f"ft-{rate}-0", "ft", float(rate))
        finished_twin(tmp_path / f"ft-{rate}-0-left-out", "ft", float(rate), accuracy=0.4)
        for end, make in (("", finished), ("-left-out", finished_twin)):
            # A merge names what it was made of, and no rate.
            merge = {"merge": {"fine_tuned": [f"ft-{rate}-0{end}"], "head": "interpolated", "alpha": 0.5, "alpha_rule": "given"}, "alpha": 0.5}
            update_robustft_json(make(tmp_path / f"wise_ft-{rate}-0{end}", "wise_ft", None), **merge)
    comparison = read_runs(sorted(tmp_path.iterdir()))
    assert labels(comparison) == dict.fromkeys(("FT, 1e-4", "FT, 1e-3", "WiSE-FT, 1e-4", "WiSE-FT, 1e-3"), [0])
    assert labels(comparison.twins[0]) == labels(comparison) and comparison.notes == []
    rule = summarise(comparison, "concepts")["rule"]
    assert rule["grid"] == {"FT": [1e-4, 1e-3], "WiSE-FT": [1e-4, 1e-3]} and rule["by_method"]["WiSE-FT"] == rule["chosen"] == "WiSE-FT, 1e-4"


def test_merges_of_runs_on_few_shots_are_compared_with_them(tmp_path):
    """Each seed draws other images, and a merge, which draws none, has those of what it merges."""
    merged = {"head": "interpolated", "alpha": 0.5, "alpha_rule": "given"}
    for seed in (0, 1):
        drawn = {"hashed": {"train": hashes("train", "train", first=100 * seed)}}
        finished(tmp_path / f"ft-{seed}", "ft", 1e-3, seed, card={"command": "hf-robustft train --shots 4"}, **drawn)
        update_robustft_json(finished(tmp_path / f"wise-{seed}", "wise_ft", None, seed, **drawn), merge={"fine_tuned": [f"ft-{seed}"], **merged}, alpha=0.5)
    stock = {"card": {"seed": None}, "merge": {"fine_tuned": ["ft-0", "ft-1"], "head": "rebuilt"}}
    update_robustft_json(finished(tmp_path / "stock", "model_stock", None, **drawn), **stock)
    assert labels(read_runs(sorted(tmp_path.iterdir())))["WiSE-FT, 1e-3"] == [0, 1]
    # Of runs on all images it is a mistake.
    for seed in (0, 1):
        update_robustft_json(tmp_path / f"ft-{seed}", card={"method": "ft", "seed": seed, "base_model": "emoji_clip", "command": "hf-robustft train"})
    with pytest.raises(ValueError, match="the training images"):
        read_runs(sorted(tmp_path.glob("[fw]*")))


def test_a_twin_is_that_of_the_run_with_its_settings(tmp_path):
    """Alone among twins, that of another teacher would pass for that of the usual one."""
    finished(tmp_path / "ema", "tracer")
    finished(tmp_path / "trajectory", "tracer", settings={"teacher": "trajectory"})
    finished_twin(tmp_path / "ema-left-out", "tracer", 1e-3)
    folded = {"parts": {"temperature": {"value": 1.0, "folded": 1.2}}}
    finished(tmp_path / "folded", "carot", settings={"per_device_train_batch_size": 48}, **folded)
    finished(tmp_path / "lp", "lp")
    # Its training images are fewer, and no whole batch of the usual size.
    finished_twin(tmp_path / "carot-left-out", "carot", 1e-3, settings={"per_device_train_batch_size": 36})
    finished_twin(tmp_path / "stray", "ft", 1e-3)
    comparison = read_runs(sorted(tmp_path.iterdir()))
    assert set(labels(comparison.twins[0])) == {"TRACER (teacher ema), 1e-3", "CaRot, 1e-3"}
    strays, without = comparison.notes
    assert "stray" in strays and "left-out" not in strays
    assert "TRACER and LP" in without or "LP and TRACER" in without


def test_folds_are_the_same_however_their_share_is_rounded(tmp_path):
    for method, share in (("carot", 0.33), ("flyp", 0.3333)):
        finished(tmp_path / method, method)
        twin = finished_twin(tmp_path / f"{method}-left-out", method, 1e-3)
        update_robustft_json(twin, left_out_classes={"share": share, "fold": 0, "classes": ["cat"]})
    comparison = read_runs(sorted(tmp_path.iterdir()))
    assert len(comparison.twins) == 1 and comparison.notes == []


def test_predictions_of_another_model_than_was_measured_are_refused(tmp_path):
    """Calibrated afterwards, the file holds what the model said before: differences would not be those of the table."""
    sets = {"photo": "id", "sketch": "shift"}
    for name, accuracy in (("a", 0.9), ("b", 0.8)):
        finished_with_predictions(tmp_path / name, "carot", 1e-3, 0, (accuracy, 0.5), sets)
    read_run(tmp_path / "a")
    (tmp_path / "b" / "predictions.parquet").replace(tmp_path / "a" / "predictions.parquet")
    with pytest.raises(ValueError, match="a cannot be compared: its predictions.parquet .*photo differs.*delete") as error:
        read_run(tmp_path / "a")
    assert "\n" not in str(error.value)


def test_twins_in_different_folds_are_not_compared_and_it_is_said_why(tmp_path):
    for fold, method in enumerate(("carot", "flyp")):
        finished(tmp_path / method, method)
        finished_twin(tmp_path / f"{method}-left-out", method, 1e-3, fold=fold)
    comparison = read_runs(sorted(tmp_path.iterdir()))
    assert comparison.twins == [] and len(comparison.notes) == 1 and "each fold" in comparison.notes[0]


def test_twins_on_other_data_or_without_any_run_are_said_in_one_line(tmp_path):
    finished(tmp_path / "one")
    for changes, said in (
        ({"classes": ("dog", "owl", "bat")}, "the classes"),
        ({"card": {"base_model": "openai/clip-vit-base-patch16"}}, "openai/clip-vit-base-patch16"),
    ):
        finished_twin(tmp_path / "twin", "carot", 1e-3, **changes)
        with pytest.raises(ValueError, match=f"one and .*twin cannot.*{said}") as error:
            read_runs([tmp_path / "one", tmp_path / "twin"])
        assert "\n" not in str(error.value)
    finished_twin(tmp_path / "twin", "carot", 1e-4)
    comparison = read_runs([tmp_path / "one", tmp_path / "twin"])
    assert comparison.twins == [] and len(comparison.notes) == 1 and "twin" in comparison.notes[0]
    for name in ("a", "b"):
        finished_twin(tmp_path / name, "carot", 1e-3)
    with pytest.raises(ValueError, match="a and .*b are both CaRot, 1e-3 with seed 0"):
        read_runs([tmp_path / name for name in ("one", "a", "b")])


def test_runs_of_several_versions_are_said_to_be(tmp_path):
    for name, rate in (("a", 1e-4), ("b", 3e-4), ("c", 1e-3)):
        finished(tmp_path / name, rate=rate)
    folders = [tmp_path / name for name in "abc"]
    assert not [note for note in read_runs(folders).notes if "version" in note]
    path = tmp_path / "b" / "robustft.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), "hf_robustft": "0.1.0"}), encoding="utf-8")
    (said,) = [note for note in read_runs(folders).notes if "version" in note]
    assert "(a and c)" in said and "0.1.0 (b)" in said
