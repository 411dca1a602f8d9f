# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`comparison.json`: its numbers are those of the reports, its words follow from them, and tables follow from it alone."""

import json
import math
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from helpers.finished import VALIDATED, draws, finished, finished_twin, finished_with_predictions, of_shift

from hf_robustft import load_comparison, read_runs, summarise
from hf_robustft.comparison.choices import usable_rule
from hf_robustft.comparison.runs import Comparison
from hf_robustft.comparison.statistics import Sampled, difference, paired_difference
from hf_robustft.comparison.summary import save_comparison
from hf_robustft.comparison.tables import markdown_table, terminal_table
from hf_robustft.comparison.winner import may_be_chance


def unseen_classes(score, shifted):
    """What a report says of a set of unseen classes, which shifted images are told from by this AUROC."""
    row = {"aupr_in": 0.8, "aupr_out": 0.8, "fpr95_nearest_recall": 0.5, "fpr95_percentile": 0.5}
    row |= {"auroc": 0.8, "fpr95": 0.5, "correct_only": {"auroc": 0.9, "fpr95_percentile": 0.4}}
    row["shifts"] = {name: {"auroc": shifted, "fpr95": 0.6, "accepted": 0.9} for name in ("sketch", "cartoon")}
    return {"n": 300, "id": "photo", "scores": {score: row}}


def candidate(summary, label):
    return next(row for row in summary["candidates"] if row["label"] == label)


def test_the_numbers_are_means_and_deviations_over_seeds(tmp_path):
    rows = [
        ("a", "carot", 1e-3, 0, (0.9, 0.5, 0.4)),
        ("b", "carot", 1e-3, 1, (0.8, 0.7, 0.4)),
        ("c", "flyp", 1e-3, 0, (0.7, 0.4, 0.2)),
    ]
    summary = summarise(
        of_shift(tmp_path, rows, baseline=(0.6, 0.4, 0.3)), command=f"hf-robustft compare {tmp_path}/a"
    )
    carot = candidate(summary, "CaRot, 1e-3")
    assert (carot["seeds"], carot["folders"], carot["method"], carot["learning_rate"]) == (
        [0, 1],
        ["a", "b"],
        "carot",
        1e-3,
    )
    assert carot["sets"]["photo"]["accuracy"] == {"mean": pytest.approx(0.85), "sd": pytest.approx(0.1 / math.sqrt(2))}
    assert carot["sets"]["photo"]["n"] == 1200 and carot["sets"]["sketch"]["ece_noise_floor"]["mean"] == 0.0262
    assert carot["shift_mean"]["accuracy"] == {"mean": pytest.approx(0.5), "sd": pytest.approx(0.1 / math.sqrt(2))}
    assert candidate(summary, "FLYP, 1e-3")["id_mean"]["accuracy"] == {"mean": 0.7, "sd": None}
    assert summary["baseline"]["shift_mean"]["accuracy"]["mean"] == pytest.approx(0.35)
    assert carot["against_zero_shot"]["shift_mean"]["accuracy"]["mean"] == pytest.approx(0.15)
    assert carot["against_flyp"]["sketch"]["accuracy"]["mean"] == pytest.approx(0.2)
    assert "against_flyp" not in candidate(summary, "FLYP, 1e-3")
    sets = [
        {"name": name, "role": role, "n": 1200, "n_classes": 4}
        for name, role in (("photo", "id"), ("sketch", "shift"), ("cartoon", "shift"))
    ]
    assert [{key: row[key] for key in sets[0]} for row in summary["data"]["sets"]] == sets
    assert summary["data"]["classes"] == 4 and summary["decided_on"] == "shift_mean"
    assert str(tmp_path) not in json.dumps(summary), "places on this machine stay here"


def test_flyp_is_the_usual_one_where_there_are_several(tmp_path):
    finished(tmp_path / "a")
    finished(tmp_path / "b", "flyp", accuracies=(0.9, 0.45, 0.35))
    finished(tmp_path / "c", "flyp", accuracies=(0.9, 0.1, 0.1), settings={"weight_decay": 0.25})
    summary = summarise(read_runs(sorted(tmp_path.iterdir())))
    assert candidate(summary, "CaRot, 1e-3")["against_flyp"]["shift_mean"]["accuracy"]["mean"] == pytest.approx(0.05)


def test_a_mean_is_over_the_sets_that_all_have(tmp_path):
    finished(tmp_path / "a", accuracies=(0.9, 0.5, 0.1))
    finished(tmp_path / "b", "flyp", accuracies=(0.9, 0.4), sets={"photo": "id", "sketch": "shift"})
    summary = summarise(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert candidate(summary, "CaRot, 1e-3")["shift_mean"]["accuracy"]["mean"] == 0.5
    assert len(summary["notes"]) == 1 and "cartoon" in summary["notes"][0]


def test_without_predictions_differences_are_those_of_the_samples_in_the_reports(tmp_path):
    """The spread of the samples is common to both and cancels; what is left of the images is that of the difference."""
    own = np.random.default_rng(5).normal(0, 0.004, 50)
    for name, method, seed, accuracy in (("a", "carot", 0, 0.50), ("b", "carot", 1, 0.52), ("c", "flyp", 0, 0.45)):
        common = np.array(draws(accuracy, spread=0.1)["accuracy"])
        samples = {"accuracy": (common + (own if method == "carot" else 0)).tolist()}
        finished(tmp_path / name, method, seed=seed, accuracies=(0.9, accuracy, accuracy), draws=samples)
    summary = summarise(read_runs([tmp_path / name for name in "abc"]))
    found = candidate(summary, "CaRot, 1e-3")["against_flyp"]["shift_mean"]
    expected = difference(Sampled(np.array([0.50, 0.52]), own, 1200), Sampled(np.array([0.45]), 0 * own, 1200))
    assert found["accuracy"] == pytest.approx(asdict(expected))
    assert found["brier"] == {"mean": 0.0, "se": None, "low": None, "high": None, "beyond_noise": None}


def test_samples_of_other_images_are_not_paired(tmp_path):
    """Whole groups in one report and single images in another, or the samples of two seeds: nobody knows what they share."""
    for changes in ({"n_groups": 40}, {}):
        finished(tmp_path / "a", "carot", draws=draws(0.5, seed=1), **changes)
        finished(tmp_path / "b", "flyp", draws=draws(0.5, seed=2))
        found = candidate(summarise(read_runs([tmp_path / "a", tmp_path / "b"])), "CaRot, 1e-3")["against_flyp"]
        assert (found["sketch"]["accuracy"]["se"] is None) == (found["shift_mean"]["accuracy"]["beyond_noise"] is None) == bool(changes)
    text = (tmp_path / "a" / "evaluation.json").read_text()
    (tmp_path / "a" / "evaluation.json").write_text(text.replace('"bootstrap_draws": 1000', '"bootstrap_draws": 1000, "seed": 7'))
    found = candidate(summarise(read_runs([tmp_path / "a", tmp_path / "b"])), "CaRot, 1e-3")["against_flyp"]
    assert found["sketch"]["accuracy"] == {"mean": 0.0, "se": None, "low": None, "high": None, "beyond_noise": None}


def unknown(shifts):
    """Of a set of unseen classes, with these AUROCs against images of the shifted sets."""
    row = {"auroc": 0.8, "fpr95": 0.5, "aupr_in": 0.8, "aupr_out": 0.8, "fpr95_nearest_recall": 0.5, "fpr95_percentile": 0.5}
    row |= {"correct_only": {"auroc": 0.9, "fpr95_percentile": 0.4}}
    row["shifts"] = {name: {"auroc": value, "fpr95": 0.6, "accepted": 0.9} for name, value in shifts.items()}
    return {"unknown": {"n": 300, "id": "photo", "scores": {"energy": row}}}


def test_unseen_classes_are_judged_by_the_shifts_that_all_have_and_that_are_reported(tmp_path):
    def auroc(*shifts, rule=None):
        for place, found in enumerate(shifts):
            sets = {"photo": "id", **dict.fromkeys(found, "shift")}
            settings = {"sets": sets, "open_set": unknown(found)}
            finished(tmp_path / str(place), seed=place, accuracies=[0.5] * len(sets), **settings)
        summary = summarise(read_runs([tmp_path / str(place) for place in range(len(shifts))]), rule)
        return candidate(summary, "CaRot, 1e-3")["open_set"]["unknown"]["energy"].get("shifts_auroc")

    both = {"sketch": 0.7, "cartoon": 0.3}
    assert auroc(both, both) == {"mean": 0.5, "sd": 0.0}
    assert auroc(both, {"sketch": 0.7}) == {"mean": 0.7, "sd": 0.0}
    assert auroc({"sketch": 0.7}, {}) is None
    assert auroc(both, both, rule="shift:sketch") == {"mean": 0.3, "sd": 0.0}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A method at three rates and two seeds, of which validation prefers the highest, and FLYP; shifts prefer the lowest."""
    folder = tmp_path_factory.mktemp("runs")
    rates = {1e-4: (0.80, 0.60, 0.50, 0.80), 3e-4: (0.85, 0.55, 0.45, 0.89), 1e-3: (0.90, 0.50, 0.40, 0.90)}
    for rate, accuracies in rates.items():
        for seed in (0, 1):
            finished_with_predictions(folder / f"c{rate}-{seed}", "carot", rate, seed, accuracies, VALIDATED)
    finished_with_predictions(folder / "f", "flyp", 3e-4, 0, (0.8, 0.45, 0.4, 0.85), VALIDATED)
    finished_with_predictions(folder / "z", "zero_shot", None, None, (0.6, 0.45, 0.5, 0.6), VALIDATED)
    comparison = read_runs(sorted(folder.iterdir()))
    return comparison, summarise(comparison)


def test_a_rule_chooses_by_validation_images_alone(compared):
    comparison, summary = compared
    assert summary["rule"]["name"] == "id_within" and summary["rule"]["looked_at"] == ["held out"]
    assert summary["rule"]["grid"] == {"CaRot": [1e-4, 3e-4, 1e-3], "FLYP": [3e-4]} and summary["rule"]["seeds"] == [
        0,
        1,
    ]
    # 90 % of the gain from 0.6 to 0.9 is 0.87: 3e-4 is the smallest rate that keeps it.
    assert summary["winner"]["candidate"] == "CaRot, 3e-4" and summary["winner"]["chosen_by"] == "id_within"
    assert [row["label"] for row in summary["candidates"] if row["chosen_by_rule"]] == ["CaRot, 3e-4", "FLYP, 3e-4"]
    words = summary["winner"]["words"]
    assert (
        words.startswith("The rule id_within chooses CaRot at 3e-4: 50.0 % under shift")
        and "No rule chose it" not in words
    )
    assert "CaRot at 1e-4" in words and "which the rule does not look at" in words
    assert "another seed" in words, "FLYP has one seed"
    several = summarise(Comparison(comparison.runs[:-1], comparison.zero_shot))["winner"]["words"]
    assert "another seed" not in several
    assert {name: item["overall"] for name, item in summary["choices"].items()} == {
        "id": "CaRot, 1e-3",
        "id_within": "CaRot, 3e-4",
        "id_nearest": "CaRot, 3e-4",
        "shift:sketch": "CaRot, 1e-4",
        "shift:cartoon": "CaRot, 1e-4",
        "oracle": "CaRot, 1e-4",
    }
    lost = summary["choices"]["id"]["regret"]
    assert lost["accuracy"] == pytest.approx(0.1) and lost["judged_on"] == ["sketch", "cartoon"]
    assert [name for name, item in summary["choices"].items() if item["is_bound"]] == ["oracle"]
    with pytest.raises(ValueError, match="no rule 'best'"):
        summarise(comparison, rule="best")


def test_what_cannot_be_told_from_the_choice_by_what_the_rule_looked_at_is_said(compared):
    comparison, summary = compared
    values = {
        candidate.label: [run.predictions.sets["held out"].correct for run in runs] for candidate, runs in comparison.candidates.items()
    }
    chosen, groups = values.pop("CaRot, 3e-4"), comparison.runs[0].predictions.sets["held out"].group
    expected = [label for label, right in values.items() if not paired_difference(right, chosen, groups).beyond_noise]
    start = {"zero_shot_ties": False, "zero_shot_is_better": False}
    assert summary["rule"]["chance"] == {"n": 120, "others": 3, "ties": expected, **start} and expected == ["CaRot, 1e-3", "FLYP, 3e-4"]
    said = "on the 120 images that the rule looked at, CaRot at 1e-3 and FLYP at 3e-4 cannot be told from it."
    for text in (summary["winner"]["words"], markdown_table(summary), " ".join(terminal_table(summary).split())):
        assert said in text
    # More than a few are counted, and of none nothing is said.
    many = {**summary, "rule": {"chance": {"n": 21, "others": 9, "ties": ["CaRot, 1e-3"] * 5}}}
    assert "on the 21 images that the rule looked at, 5 of the 9 other candidates cannot" in may_be_chance(many)
    every = {**summary, "rule": {"chance": {"n": 21, "others": 9, "ties": ["CaRot, 1e-3"] * 9}}}
    assert "none of the 9 other candidates can be told" in may_be_chance(every)
    assert may_be_chance({**summary, "rule": {"chance": {"n": 21, "others": 9, "ties": []}}}) == may_be_chance({**summary, "rule": None}) == ""
    # Nothing is a choice that looks at what it is judged by.
    assert "chance" not in summarise(comparison, "oracle")["rule"]


def test_of_a_run_without_predictions_only_what_needs_them_is_left_out(tmp_path):
    for method, validation in (("carot", 0.8), ("flyp", 0.9), ("tracer", 0.95), ("zero_shot", 0.6)):
        rate, seed = (None, None) if method == "zero_shot" else (1e-3, 0)
        finished_with_predictions(tmp_path / f"{method}-run", method, rate, seed, (0.9, 0.6, 0.5, validation), VALIDATED)
    folders = sorted(tmp_path.iterdir())
    whole = summarise(read_runs(folders))
    assert whole["notes"] == [] and whole["rule"]["chosen"] == "TRACER, 1e-3"
    (tmp_path / "tracer-run" / "predictions.parquet").unlink()
    found = summarise(read_runs(folders))
    # The others are told from each other as before, by the same rule.
    assert found["rule"]["name"] == "id_within" and found["rule"]["chosen"] == "FLYP, 1e-3" and found["rule"]["grid"] == {"CaRot": [1e-3], "FLYP": [1e-3]}
    assert found["rule"]["chance"]["others"] == 1 and found["rule"]["chance"]["n"] == 120
    assert found["data"] == whole["data"] and len(found["candidates"]) == 3 and "held out" not in candidate(found, "TRACER, 1e-3")["sets"]
    for label in ("CaRot, 1e-3", "FLYP, 1e-3"):
        for key in ("sets", "against_zero_shot"):
            assert candidate(found, label)[key] == candidate(whole, label)[key]
        assert found["per_class"].get(label) == whole["per_class"].get(label)
    assert len(found["notes"]) == 2 and all("tracer-run" in note and "--save_predictions" in note for note in found["notes"])
    assert "held out" in found["notes"][0] and "TRACER, 1e-3" in found["notes"][0]
    save_comparison(found, tmp_path / "c.json")
    assert "tracer-run kept no predictions of held out" in markdown_table(load_comparison(tmp_path / "c.json"))
    # Of one candidate alone nothing is chosen, and without zero-shot's no gain is known.
    (tmp_path / "carot-run" / "predictions.parquet").unlink()
    alone = summarise(read_runs(folders))
    assert alone["rule"] is None and "CaRot, 1e-3 and TRACER, 1e-3" in alone["notes"][0] and "carot-run and tracer-run" in alone["notes"][0]
    (tmp_path / "zero_shot-run" / "predictions.parquet").unlink()
    none = summarise(read_runs([tmp_path / f"{name}-run" for name in ("flyp", "zero_shot")]))
    assert none["rule"]["name"] == "id" and any("zero_shot-run kept no predictions of held out" in note for note in none["notes"])


def test_a_shifted_set_that_chose_is_not_reported_as_a_shift(compared):
    comparison = Comparison(compared[0].runs[:3], compared[0].zero_shot)
    summary = summarise(comparison, rule="shift:sketch")
    roles = {item["name"]: item["role"] for item in summary["data"]["sets"]}
    assert roles == {"photo": "id", "sketch": "validation", "cartoon": "shift", "held out": "validation"}
    assert candidate(summary, "CaRot, 1e-4")["shift_mean"]["accuracy"]["mean"] == pytest.approx(0.5)
    assert "under shift (cartoon)" in summary["winner"]["words"]
    assert summary["spread_over_rates"]["CaRot"]["accuracy"] == pytest.approx(0.05)
    # The bound looks at what is reported, so it stays a bound.
    bound = summarise(comparison, rule="oracle")
    assert bound["winner"]["chosen_by"] is None and "No rule chose it" in bound["winner"]["words"]


def test_a_rule_that_looks_at_all_there_is_to_report_is_refused(tmp_path):
    for rate, accuracy in ((1e-4, 0.5), (1e-3, 0.4)):
        finished(tmp_path / str(rate), "carot", rate, 0, (accuracy,), sets={"sketch": "shift"})
    comparison = read_runs(sorted(tmp_path.iterdir()))
    assert summarise(comparison, "oracle")["winner"]["candidate"] == "CaRot, 1e-4"
    with pytest.raises(ValueError, match="'shift:sketch' looks at sketch"):
        summarise(comparison, "shift:sketch")


def test_the_rule_concepts_looks_at_twins_and_chooses_among_their_runs(tmp_path):
    shifts = {("carot", 1e-4): 0.5, ("carot", 1e-3): 0.4, ("flyp", 1e-4): 0.45, ("lp", 1e-3): 0.6}
    for (method, rate), accuracy in shifts.items():
        for seed in (0, 1):
            finished(tmp_path / f"{method}{rate}-{seed}", method, rate, seed, (0.8, accuracy, accuracy), baseline=(0.6, 0.4, 0.4))
    left_out = {("carot", 1e-4, 0): 0.6, ("carot", 1e-4, 1): 0.7, ("carot", 1e-3, 0): 0.3, ("flyp", 1e-4, 0): 0.64}
    for (method, rate, seed), accuracy in left_out.items():
        start = {"baseline": (0.71,)} if method == "flyp" else {}
        finished_twin(tmp_path / f"{method}{rate}-{seed}-left-out", method, rate, seed, accuracy, **start)
    folders = sorted(tmp_path.iterdir())
    comparison = read_runs(folders)
    summary = summarise(comparison, "concepts")
    rule = summary["rule"]
    assert (rule["looked_at"], rule["seeds"]) == (["left_out_classes"], [0, 1])
    # Their folders kept nothing by which they could be told apart.
    assert rule["chance"] == {"n": 300, "others": 2, "ties": ["CaRot, 1e-3", "FLYP, 1e-4"]}
    assert rule["grid"] == {"CaRot": [1e-4, 1e-3], "FLYP": [1e-4]} and rule["by_method"] == {"CaRot": "CaRot, 1e-4", "FLYP": "FLYP, 1e-4"}
    assert summary["winner"]["candidate"] == "CaRot, 1e-4" and summary["winner"]["chosen_by"] == "concepts"
    # It loses against all candidates, those that it does not choose among too.
    assert summary["choices"]["concepts"]["regret"]["accuracy"] == pytest.approx(0.1)
    assert summary["choices"]["concepts"]["regret"]["judged_on"] == ["sketch", "cartoon"]
    found = candidate(summary, "CaRot, 1e-4")
    assert found["sets"]["left_out_classes"]["accuracy"] == {"mean": pytest.approx(0.65), "sd": pytest.approx(0.1 / math.sqrt(2))}
    assert found["id_mean"]["accuracy"]["mean"] == 0.8 and summary["baseline"]["sets"]["left_out_classes"]["accuracy"]["mean"] == 0.71
    assert "left_out_classes" not in candidate(summary, "LP, 1e-3")["sets"]
    assert {"name": "left_out_classes", "role": "concepts", "n": 300, "n_classes": 1, "groups": None} in summary["data"]["sets"]
    assert any("LP" in note and "concepts" in note for note in summary["notes"])
    table = markdown_table(summary)
    assert "left_out_classes" in table and "65.0 ±7.1" in table and "a twin run was not trained on" in table
    json.dumps(summary, allow_nan=False)
    # It is the first where nobody names one, and there is more than one to choose among.
    assert summarise(comparison)["rule"] == rule and usable_rule(read_runs(sorted(tmp_path.glob("flyp*")))) == "concepts"
    assert usable_rule(read_runs([*(path for path in folders if "left-out" not in path.name), *tmp_path.glob("flyp*left-out")])) is None
    without = read_runs([folder for folder in folders if "left-out" not in folder.name])
    with pytest.raises(ValueError, match="'concepts'.*--leave_out_classes") as error:
        summarise(without, "concepts")
    assert "\n" not in str(error.value)


def test_numbers_of_several_folds_count_each_fold_once(tmp_path):
    finished(tmp_path / "a", "carot", 1e-3)
    for name, seed, fold, accuracy in (("b", 0, 0, 0.2), ("c", 1, 0, 0.4), ("d", 0, 1, 0.5)):
        finished_twin(tmp_path / name, "carot", 1e-3, seed, accuracy, fold)
    summary = summarise(read_runs(sorted(tmp_path.iterdir())), "concepts")
    found = candidate(summary, "CaRot, 1e-3")["sets"]["left_out_classes"]
    assert found["accuracy"] == {"mean": pytest.approx(0.4), "sd": None} and found["n"] == 600
    assert summary["data"]["sets"][-1]["n_classes"] == 2 and summary["data"]["sets"][-1]["n"] == 600


def test_differences_are_those_of_the_predictions(compared):
    comparison, summary = compared
    found = candidate(summary, "CaRot, 1e-4")["against_zero_shot"]["sketch"]["accuracy"]
    runs = [run.predictions.sets["sketch"] for run in comparison.runs if run.candidate.label == "CaRot, 1e-4"]
    start = comparison.zero_shot.predictions.sets["sketch"]
    expected = paired_difference([run.correct for run in runs], start.correct, start.group)
    assert found["mean"] == pytest.approx(expected.mean) == pytest.approx(0.15)
    gained = candidate(summary, "CaRot, 1e-4")["against_zero_shot"]["held out"]["accuracy"]
    assert gained["mean"] == pytest.approx(0.2) and gained["beyond_noise"]
    assert found["se"] == pytest.approx(expected.se, rel=0.15), "other draws of the same groups"
    alone = paired_difference([run.correct for run in runs], start.correct)
    assert abs(found["se"] - expected.se) < abs(alone.se - expected.se), "groups are drawn together"


def test_what_is_known_of_each_image_is_there_or_missing(compared):
    comparison, summary = compared
    assert list(summary["per_class"]) == ["CaRot, 3e-4", "FLYP, 3e-4"] == list(summary["forgotten"])
    row = next(row for row in summary["per_class"]["CaRot, 3e-4"] if row["name"] == "owl")
    assert (row["n"], row["units"]) == (60, 15) and set(row) == {"name", "n", "units", "before", "after", "difference"}
    assert set(summary["risk_coverage"]) == {"zero-shot", "CaRot, 3e-4", "FLYP, 3e-4"}
    assert set(summary["risk_coverage"]["zero-shot"]) == {"photo", "sketch", "cartoon"}
    assert {item["set"] for item in summary["worst_mistakes"]} == {"sketch", "cartoon"}
    assert all(item["groups"] == 60 for item in summary["data"]["sets"])
    json.dumps(summary, allow_nan=False)
    start = replace(comparison.zero_shot, predictions=None)
    left = summarise(Comparison(comparison.runs[-2:], start))
    assert "per_class" not in left and set(left["risk_coverage"]) == {"CaRot, 1e-3", "FLYP, 3e-4"}
    # Without its validation images nobody knows what was gained on them.
    assert left["rule"]["name"] == "id"


def test_methods_are_compared_at_equal_accuracy_in_distribution(tmp_path):
    rows = [
        *(("carot", rate, (inside, shift, shift)) for rate, inside, shift in ((1e-4, 0.80, 0.60), (1e-3, 0.90, 0.40))),
        *(("flyp", rate, (inside, shift, shift)) for rate, inside, shift in ((1e-4, 0.84, 0.44), (1e-3, 0.92, 0.36))),
        ("ft", 1e-4, (0.86, 0.5, 0.5)),
    ]
    for number, (method, rate, accuracies) in enumerate(rows):
        # One was measured by another score alone.
        unseen = unseen_classes("msp" if method == "ft" else "energy", 0.7 + 0.04 * number)
        finished(tmp_path / f"{method}{rate}", method, rate, 0, accuracies, open_set={"new": unseen})
    summary = summarise(read_runs(sorted(tmp_path.iterdir())))
    assert [row["id"] for row in summary["equal_id"]] == [0.84, 0.86, 0.88, 0.9]
    assert summary["equal_id"][1]["accuracy"] == {"CaRot": pytest.approx(0.48), "FLYP": pytest.approx(0.42)}
    assert summary["equal_id"][1]["auroc"] == {"CaRot": pytest.approx(0.724), "FLYP": pytest.approx(0.79)}
    for text in (terminal_table(summary), markdown_table(summary)):
        assert re.search(r"AUROC under shift against new, score energy, at equal accuracy in distribution.*\n 86 +72.4 +79.0 *\n|\| 86 \| 72.4 \| 79.0 \|", text, re.S)
    assert summary["frontier"]["CaRot"] == [[0.8, 0.6, 1.25, 1e-4], [0.9, 0.4, 1.25, 1e-3]]
    assert summary["spread_over_rates"]["CaRot"] == {"rates": 2, "accuracy": pytest.approx(0.2), "nll": 0.0}
    assert summary["spread_over_rates"]["FT"]["rates"] == 1


def test_a_sweep_of_alpha_is_a_curve(tmp_path):
    for seed in (0, 1):
        folder = finished(tmp_path / f"w{seed}", "wise_ft", 1e-3, seed)
        (folder / "alpha_sweep.csv").write_text(
            "alpha,photo/accuracy,sketch/accuracy,cartoon/accuracy\n"
            f"0.0,0.6,0.5,0.3\n1.0,{0.8 + 0.1 * seed},0.4,0.2\n"
        )  # fmt: skip
    curves = summarise(read_runs([tmp_path / "w0", tmp_path / "w1"]))["curves"]
    assert curves == {
        "WiSE-FT, 1e-3": [
            [pytest.approx(0.6), pytest.approx(0.4), 0.0],
            [pytest.approx(0.85), pytest.approx(0.3), 1.0],
        ]
    }


def test_groups_are_those_of_the_reports_where_no_predictions_were_kept(tmp_path):
    """Of 600 images in 15 groups few were drawn by themselves: a share that 600 would tell from guessing may be chance."""
    known = {"accuracies": (0.9, 0.32, 0.7), "baseline": (0.9, 0.1, 0.1), "n": 600}
    finished(tmp_path / "a", "carot", **known)
    finished(tmp_path / "b", "carot", **known, n_groups=15)
    for name, groups in (("a", None), ("b", 15)):
        summary = summarise(read_runs([tmp_path / name]))
        assert [item["groups"] for item in summary["data"]["sets"]] == [groups] * 3
        assert ("On sketch it cannot be told from guessing" in summary["winner"]["words"]) == (groups is not None)


def test_what_twins_took_and_how_their_images_are_drawn_is_counted(tmp_path):
    for method in ("carot", "flyp"):
        finished(tmp_path / method, method, 1e-3, card={"wall_seconds": 100.0})
        finished_twin(tmp_path / f"{method}-0", method, 1e-3, 0, 0.5, card={"wall_seconds": 70.0}, n_groups=50)
        finished_twin(tmp_path / f"{method}-1", method, 1e-3, 0, 0.6, 1, card={"wall_seconds": 5.0}, n_groups=20)
    summary = summarise(read_runs(sorted(tmp_path.iterdir())), "concepts")
    assert summary["seconds"] == 350.0
    assert summary["data"]["sets"][-1] == {"name": "left_out_classes", "role": "concepts", "n": 600, "n_classes": 2, "groups": 70}


def test_a_difference_of_which_nothing_is_known_is_explained_below_the_tables(tmp_path):
    finished(tmp_path / "a", "carot", baseline=(0.6, 0.4, 0.4))
    without = summarise(read_runs([tmp_path / "a"]))
    finished(tmp_path / "b", "carot", baseline=(0.6, 0.4, 0.4), draws={metric: draws(0.0)["accuracy"] for metric in ("accuracy", "nll", "ece", "brier")})
    known = summarise(read_runs([tmp_path / "b"]))
    for text in (terminal_table, markdown_table):
        assert "?+" in text(without) and "?: nothing says how far chance moves it." in text(without)
        assert "?" not in text(known)
        # What was not run is not named.
        assert "FLYP" not in text(known)


def test_what_was_not_measured_is_said(tmp_path):
    finished(tmp_path / "a", accuracies=(0.9,), sets={"photo": "id"})
    finished(tmp_path / "b", "flyp", accuracies=(0.8,), sets={"photo": "id"})
    summary = summarise(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert summary["decided_on"] == "id_mean" and summary["baseline"] is None
    assert candidate(summary, "CaRot, 1e-3")["shift_mean"] is None
    words = summary["winner"]["words"]
    assert "in distribution (photo; no shift was measured): 90.0 %" in words and "Zero-shot was not measured" in words
    assert "neither predictions nor bootstrap samples" in words and not summary["winner"]["is_clear"]
    for text in (terminal_table(summary), markdown_table(summary)):
        assert "No shift was measured" in text and "Zero-shot was not measured" in text


def test_tables_come_from_the_file_alone_and_fit_the_terminal(tmp_path):
    rows = [
        (f"{method}{rate}{seed}", method, rate, seed, (0.9, 0.5 + rate, 0.4))
        for method in ("carot", "flyp")
        for rate in (1e-3, 3e-4)
        for seed in (0, 1)
    ]
    open_set = {"unknown": unseen_classes("energy", 0.7)}
    summary = summarise(of_shift(tmp_path, rows, baseline=(0.6, 0.4, 0.3), open_set=open_set))
    path = save_comparison(summary, tmp_path / "out" / "comparison.json")
    again = load_comparison(tmp_path / "out")
    assert again == load_comparison(path) == summary
    assert markdown_table(again) == markdown_table(summary)
    for width in (72, 80, 100, 160):
        text = terminal_table(again, width)
        assert max(map(len, text.splitlines())) <= width
        for cell in ("CaRot, 3e-4", "90.0 ±0.0", "cartoon", "shifts AUROC %", "70.0", "8.2 ±0.0"):
            assert cell in " ".join(text.split()), (width, cell)
    for width in range(72, 120, 3):
        headers = [line for line in terminal_table(again, width).splitlines() if line.startswith((" accurac", " ECE"))]
        assert headers and all(line.startswith((" accuracy % ", " ECE %, NLL ")) for line in headers), (width, headers)


def test_a_file_that_is_not_ours_is_refused(tmp_path):
    with pytest.raises(OSError, match="no comparison"):
        load_comparison(tmp_path)
    for text, said in (("{", "not JSON"), ('{"format": 2}', "format 2"), ('{"format": 1}', "data is missing"), ('{"format": NaN}', "not JSON")):
        (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            load_comparison(tmp_path)
    with pytest.raises(ValueError, match="not finite"):
        save_comparison({"format": math.nan}, tmp_path / "comparison.json")
