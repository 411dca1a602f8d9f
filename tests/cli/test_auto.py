# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft train --method auto`: what is chosen, and the folder that it ends with."""

import shlex

import numpy as np
import pytest
from helpers.families import save_family
from helpers.finished import CLASSES, SETS, finished
from helpers.label_lists import listed_folder
from helpers.list_runs import finished_on_lists

from hf_robustft import cli
from hf_robustft.cli import compare
from hf_robustft.cli.auto import METHODS, AutoOptions, choice, complete_chosen, methods_for, worse_than
from hf_robustft.cli.commands import CommandParser
from hf_robustft.cli.passed_on import parted
from hf_robustft.cli.reopened import _command as reopened_command
from hf_robustft.cli.train_arguments import train_parser
from hf_robustft.comparison.runs import read_run
from hf_robustft.comparison.schedule import Outcome
from hf_robustft.comparison.summary import load_comparison
from hf_robustft.evaluation.predictions import Predictions, SetPredictions
from hf_robustft.evaluation.report import load_reports
from hf_robustft.modeling.metadata import load_robustft_json

COMMAND = "hf-robustft train --method auto"
RULE = {
    "name": "id_within",
    "says": "the smallest rate that keeps most",
    "looked_at": ["validation"],
    "grid": {"FLYP": [1e-4, 1e-3], "WiSE-FT": [1e-3], "Tip-Adapter": [None]},
    "seeds": [0],
    "chosen": "FLYP, 1e-3",
}


def summary():
    """A comparison whose rule chose FLYP."""
    named = [("wise_ft", "WiSE-FT"), ("flyp", "FLYP")]
    rows = [
        {"label": f"{label}, 1e-3", "method": name, "method_label": label, "learning_rate": 1e-3, "variant": "", "folders": [f"{name}-1e-3-0"]}
        for name, label in named
    ]
    return {"rule": dict(RULE), "candidates": rows, "winner": {"zero_shot_is_better": False}}


@pytest.mark.parametrize(("worse", "name"), [(None, "flyp-1e-3-0"), (("validation", 0.1), "zero_shot")])
def test_the_choice_of_the_rule_is_kept_unless_it_is_worse_than_zero_shot(worse, name):
    folder, record, words = choice(summary(), worse)
    assert folder == name and "FLYP, 1e-3" in words and "id_within" in words
    assert record["rule"] == "id_within" and record["looked_at"] == ["validation"] and record["grid"] == RULE["grid"]
    assert record["chosen"] == ("zero-shot" if name == "zero_shot" else "FLYP, 1e-3")
    assert ("10.0 points below" in words) == (name == "zero_shot") == (record.get("instead_of") == "FLYP, 1e-3")


def test_the_last_words_say_that_chance_may_have_chosen():
    found = summary()
    found["rule"]["chance"] = {"n": 21, "others": 1, "ties": ["WiSE-FT, 1e-3"]}
    found["winner"]["zero_shot_is_better"] = True
    _, record, words = choice(found, None)
    assert record["doubt"].endswith("on the 21 images that the rule looked at, WiSE-FT at 1e-3 cannot be told from it")
    assert record["doubt"] in words and "the zero-shot model is better" in words and "doubt" not in choice(found, ("validation", 0.1))[1]


@pytest.mark.parametrize(
    ("family", "first"), [("siglip", "covariance_anchor"), ("blip", "carot"), (None, "carot")], ids=str
)
@pytest.mark.parametrize("form", ["--model {}", "--model={}"])
def test_the_methods_are_those_that_can_serve_the_model(family, first, form, tmp_path):
    words = ["--method", "auto", "--max_steps", "3"]
    if family is not None:
        save_family(family, tmp_path)
        words += form.format(tmp_path).split()
    _, passed = parted(words, CommandParser(AutoOptions), train_parser())
    assert methods_for(passed) == [first, *METHODS[1:]]


@pytest.mark.parametrize(("family", "methods"), [("siglip", ["covariance_anchor", "tracer", "flyp"]), ("clip", ["lp_ft", "l2_sp", "ft"])])
def test_the_methods_on_lists_of_labels_are_those_that_can_learn_from_them(family, methods, tmp_path):
    save_family(family, tmp_path / family)
    photos = listed_folder(tmp_path / "photos")
    (tmp_path / "data.yaml").write_text(f"train_dataset: {photos}\n")
    for given in (f"--train_dataset {photos}", f"--config {tmp_path / 'data.yaml'}"):
        _, passed = parted(["--method", "auto", "--model", str(tmp_path / family), *given.split()], CommandParser(AutoOptions), train_parser())
        assert methods_for(passed) == methods


@pytest.mark.parametrize(("helps", "fails"), [(True, False), (False, False), (True, True)])
def test_on_lists_of_labels_the_choice_is_by_map_and_zero_shot_stays_where_it_is_worse(helps, fails, tmp_path, monkeypatch, capsys):
    photos, out = listed_folder(tmp_path / "photos"), tmp_path / "out"
    sets = {"held-out": "id", "validation": "validation"}
    made = []

    def carry_out(plan, runs, *_):
        made.extend(plan.runs)
        *finished, last = plan.runs
        for number, run in enumerate(finished if fails else plan.runs):
            rate, skill = run.settings.get("learning_rate"), 0.8 if run.method == "zero_shot" else 1.5 if helps else 0.01 * number
            sets_of = [{"name": name, "role": role, "n_classes": 4} for name, role in {"train": "train", **sets}.items()]
            finished_on_lists(runs / run.name, run.method, rate, 0, skill, sets, n=200, card={"sets": sets_of, "command": "hf-robustft train"})
        return Outcome({run.name: 1.0 for run in finished}, {last.name: "out of luck"}) if fails else Outcome({run.name: 1.0 for run in plan.runs})

    monkeypatch.setattr(compare, "carry_out", carry_out)
    words = ["--method", "auto", "--train_dataset", str(photos), "--use_cpu", "--max_steps", "2", "--output_dir", str(out)]
    # As of a comparison: a choice among fewer is none that a script takes for whole.
    assert cli.main(["train", *words]) == (1 if fails else 0)
    assert [run.method for run in made] == ["zero_shot", *(name for name in ("lp_ft", "l2_sp", "ft") for _ in range(3))]
    (said, error), selection = capsys.readouterr(), load_robustft_json(out)["selection"]
    assert (f"{made[-1].name}: out of luck" in error) == fails
    assert selection["rule"] == "id_within" and selection["looked_at"] == ["validation"] and "mAP" in selection["says"]
    measured = load_reports(out / "evaluation.json")[-1]
    if helps:
        assert measured.model in ("LP-FT", "L2-SP", "FT") and "instead_of" not in selection
    else:
        runs = out / "comparison" / "runs"
        chosen = next(run.name for run in made if read_run(runs / run.name).candidate.label == selection["instead_of"])
        rows = [load_reports(runs / name / "evaluation.json")[-1].multi_label["validation"]["map"] for name in ("zero_shot", chosen)]
        assert measured.model == "zero-shot" and f"its mAP is {100 * (rows[0] - rows[1]):.1f} points below" in selection["why"]
    assert "hf-robustft compare --methods lp_ft l2_sp ft --seeds 0 --train_dataset" in load_comparison(out / "comparison")["command"].replace("\\\n    ", "")
    assert "accuracy" not in selection.get("why", "") and "Chosen by the rule id_within" in said
    assert list((out / "logits").glob("*.safetensors"))


def test_worse_is_what_validation_images_say_beyond_noise(tmp_path):
    def kept(name, right, role="validation"):
        n = len(right)
        said = np.where(right, "cat", "dog")
        item = SetPredictions("held", role, np.arange(n), said, np.ones(n), np.full(n, "cat"), np.ones(n), np.ones(n))
        (tmp_path / name).mkdir()
        Predictions({"held": item}).save(tmp_path / name)
        return tmp_path / name

    start = kept("start", np.arange(200) < 160)
    assert worse_than(kept("worse", np.arange(200) < 120), start) == ("held", pytest.approx(0.2))
    assert worse_than(kept("noise", np.arange(200) < 159), start) is None
    assert worse_than(kept("better", np.arange(200) < 190), start) is None
    # What a test set says is not looked at.
    assert worse_than(kept("tested", np.arange(200) < 50, "id"), start) is None


@pytest.fixture
def output(tmp_path):
    """A comparison of which two runs are finished, in the folder of a former run."""
    runs = tmp_path / "comparison" / "runs"
    sets = [{"name": name, "role": role, "n_classes": 4} for name, role in {"train": "train", **SETS}.items()]
    for name, method in (("flyp-1e-3-0", "flyp"), ("zero_shot", "zero_shot")):
        card = {"sets": sets, "command": f"hf-robustft train --method {method} --train_dataset emoji_shift"}
        card["run"] = {"Not set by hand": "default of x, 64 or all images where there are fewer: per_device_train_batch_size=48"}
        card["settings"] = {"per_device_train_batch_size": 48, "weight_decay": 0.3}
        finished(runs / name, method, None if method == "zero_shot" else 1e-3, 0, (0.9 if method == "flyp" else 0.8, 0.5, 0.4), card=card)
        (runs / name / "run.json").write_text("{}")
    (tmp_path / "head.safetensors").write_text("of a former run")
    (tmp_path / "mine.txt").write_text("notes")
    return tmp_path


def test_the_folder_of_the_choice_is_complete_and_says_how_it_was_chosen(output):
    record = {**choice(summary(), None)[1], "doubt": "Chance may have made this choice: on the 21 images"}
    report = complete_chosen(output, "flyp-1e-3-0", record, COMMAND)
    facts, reports = load_robustft_json(output), load_reports(output / "evaluation.json")
    own = "hf-robustft train --method flyp --train_dataset emoji_shift"
    assert facts["selection"] == {**record, "command": own} and facts["card"]["command"] == COMMAND
    assert facts["method"] == "flyp" and list(facts["class_names"]) == list(CLASSES)
    # Before and after, though the run measured itself alone.
    assert [item.model for item in reports] == ["zero-shot", "FLYP"] and reports[-1].to_dict() == report.to_dict()
    card = (output / "README.md").read_text(encoding="utf-8")
    for words in ("`id_within`", "keeps most", "validation", "FLYP at 0.0001, 0.001; WiSE", "Tip-Adapter, with seed", "seed 0", "on the 21 images"):
        assert words in card
    assert COMMAND in card and own not in card and "64 or all images where there are fewer" in card
    assert "`weight_decay`" in card and "| `per_device_train_batch_size`" not in card
    # The data are where the run has found them.
    assert shlex.join(["--train_dataset", reopened_command(read_run(output))[1].train_dataset]) in own
    assert not (output / "run.json").exists() and not (output / "head.safetensors").exists()
    assert (output / "mine.txt").is_file() and (output / "comparison" / "runs" / "flyp-1e-3-0" / "evaluation.json").is_file()


def test_where_nothing_was_better_the_folder_is_the_zero_shot_model_and_says_why(output):
    name, record, _ = choice(summary(), ("validation", 0.1))
    complete_chosen(output, name, record, COMMAND)
    facts = load_robustft_json(output)
    assert facts["method"] == "zero_shot" and facts["selection"]["instead_of"] == "FLYP, 1e-3"
    assert [item.model for item in load_reports(output / "evaluation.json")] == ["zero-shot"]
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "10.0 points below" in card and "kept the zero-shot model" in card and "no training" not in card


@pytest.mark.parametrize(
    ("command", "named"),
    [("--learning_rate 1e-3", "--learning_rate"), ("--push_to_hub", "publish"), ("--finetuned_model x", "--finetuned_model"), ("--alpha 2", "alpha")],
)
def test_what_auto_decides_by_itself_is_refused(command, named, tmp_path, capsys):
    assert cli.main(["train", "--method", "auto", *command.split(), "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("**/*.log"))
