# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Twins of candidates, and the example scripts that judge rules and the bound over finished runs of several suites."""

import importlib
import json
import random
import sys
from statistics import fmean

import pytest
from helpers import CLASSES, TEMPLATES
from helpers.cards import result
from scipy.stats import spearmanr

from hf_robustft.comparison.concepts import is_twin, twin_flags, with_concepts
from hf_robustft.comparison.runs import ZERO_SHOT, Candidate, read_run, read_runs
from hf_robustft.comparison.selection import choose
from hf_robustft.evaluation.report import EvaluationReport, save_reports
from hf_robustft.publishing.metadata import write_robustft_json

RATES = (1e-4, 1e-3)
SETS = {"photo": "id", "val": "validation", "sketch": "shift", "cartoon": "shift"}


def write_run(folder, rng, method, rate=None, seed=0, twin=False):
    """A finished folder with made-up numbers."""
    names = {"left_out_classes": "id"} if twin else SETS
    results = {name: result(name, role, accuracy=rng.random(), nll=rng.random(), ece=rng.random()) for name, role in names.items()}
    spectrum = {"smallest_singular_value": rng.random(), "largest_singular_value": 1.0, "n": 9, "dimension": 4, "note": None, "dataset": next(iter(names))}
    settings = {"seed": seed} | ({} if rate is None else {"learning_rate": rate})
    facts = {"class_names": CLASSES[1:] if twin else CLASSES, "templates": TEMPLATES, "settings": settings}
    more = {"share": 0.25, "fold": 0, "classes": [CLASSES[0]]} if twin else None
    write_robustft_json(folder, method=method, left_out_classes=more, **facts)
    save_reports(folder / "evaluation.json", [EvaluationReport("model", results, spectrum=spectrum)])
    return results


@pytest.fixture
def suites(tmp_path):
    """Two folders of runs, and what is in them by suite and name of the run."""
    rng, found = random.Random(0), {}
    for suite in ("a", "b"):
        found[suite] = {"zero_shot": write_run(tmp_path / suite / "zero_shot", rng, "zero_shot")}
        for method in ("carot", "flyp"):
            for rate in RATES:
                for seed in (0, 1):
                    name = f"{method}-{rate:g}-{seed}"
                    found[suite][name] = write_run(tmp_path / suite / name, rng, method, rate, seed)
                name = f"twin-{method}-{rate:g}"
                found[suite][name] = write_run(tmp_path / suite / name, rng, method, rate, twin=True)
    return tmp_path, found


@pytest.fixture
def script(repository, monkeypatch, tmp_path):
    def run(name, *arguments):
        monkeypatch.syspath_prepend(str(repository / "examples"))
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments), "--output", str(tmp_path / "out")])
        importlib.import_module(name).main()
        return json.loads((tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8"))

    return run


def test_candidates_are_given_the_numbers_of_their_twins(suites):
    folder, found = suites
    runs = {path.name: read_run(path) for path in sorted((folder / "a").iterdir())}
    twins = read_runs([run.folder for run in runs.values() if is_twin(run)])
    assert {name for name, run in runs.items() if is_twin(run)} == {name for name in runs if name.startswith("twin-")}
    candidates, roles, _ = with_concepts({Candidate("carot", rate): {"val": {}} for rate in RATES}, {"val": "validation"}, None, twins)
    assert roles == {"val": "validation", "left_out_classes": "concepts"}
    for rate in RATES:
        numbers = candidates[Candidate("carot", rate)]
        assert numbers["val"] == {}
        expected = found["a"][f"twin-carot-{rate:g}"]["left_out_classes"]
        assert (numbers["left_out_classes"]["accuracy"], numbers["left_out_classes"]["nll"]) == (expected.accuracy, expected.nll)
    assert choose("concepts", candidates, roles).looked_at == ("left_out_classes",)
    with pytest.raises(ValueError, match="FT, 1e-4.*--leave_out_classes 0.2"):
        with_concepts({Candidate("ft", 1e-4): {}}, {}, None, twins)
    with pytest.raises(ValueError, match="any candidate"):
        with_concepts({}, {}, None)
    assert twin_flags(0.25, 1) == ["--leave_out_classes", "0.25", "--leave_out_fold", "1"]


def test_the_regret_table_is_that_of_brute_force(suites, script):
    folder, found = suites
    content = script("regret", "--suites", folder / "a", folder / "b")
    assert content["verdict"]["rule"] in ("id", "id_within", "id_nearest", "concepts")
    assert set(content["rules"]) == {"id", "id_within", "id_nearest", "shift", "concepts", "oracle", "always 1e-4", "always 1e-3", "zero-shot"}

    def mean(suite, method, rate, sets, metric="accuracy"):
        return fmean(getattr(found[suite][f"{method}-{rate:g}-{seed}"][name], metric) for seed in (0, 1) for name in sets)

    shifts = ["sketch", "cartoon"]
    for method in ("carot", "flyp"):
        losses = []
        for suite in ("a", "b"):
            chosen = max(RATES, key=lambda rate: mean(suite, method, rate, ["val"]))
            best = max(mean(suite, method, rate, shifts) for rate in RATES)
            losses.append(best - mean(suite, method, chosen, shifts))
        numbers = content["rules"]["id"][method]
        assert numbers["accuracy_mean"] == pytest.approx(fmean(losses)) and numbers["accuracy_worst"] == pytest.approx(max(losses))
        assert content["rules"]["oracle"][method]["accuracy_worst"] == 0
        assert content["rules"]["shift"][method]["n"] == 4
        spread = content["spread_over_rates"][method]["a"]["accuracy"]
        assert spread == pytest.approx(abs(mean("a", method, RATES[0], shifts) - mean("a", method, RATES[1], shifts)))
        best = max(mean("a", method, rate, shifts) for rate in RATES)
        zero_shot = fmean(found["a"]["zero_shot"][name].accuracy for name in shifts)
        row = next(loss for loss in content["losses"] if (loss["suite"], loss["rule"], loss["method"]) == ("a", "zero-shot", method))
        assert row["accuracy"] == pytest.approx(best - zero_shot) and row["chosen"] == ZERO_SHOT.label
    assert content["rules"]["id"]["over methods"]["n"] == 2


def test_suites_whose_folders_have_one_name_are_two(suites, script):
    folder, _ = suites
    usual = script("regret", "--suites", folder / "a", folder / "b")
    for name in ("a", "b"):
        (folder / f"of {name}").mkdir()
        (folder / name).rename(folder / f"of {name}" / "runs")
    places = [folder / f"of {name}" / "runs" for name in ("a", "b")]
    content = script("regret", "--suites", *places)
    assert list(content["suites"]) == ["of a/runs", "of b/runs"]
    assert content["verdict"]["places"] == usual["verdict"]["places"] == 4 and content["rules"] == usual["rules"]
    assert set(content["spread_over_rates"]["carot"]) == {"of a/runs", "of b/runs"}
    correlations = script("bound_terms", "--suites", *places, "--draws", "20")["correlations"]
    assert set(correlations["ID ECE"]["shift error"]["suites"]) == {"of a/runs", "of b/runs"}
    for name in ("regret", "bound_terms"):
        with pytest.raises(SystemExit):
            script(name, "--suites", places[0], places[0])


def test_a_method_without_rates_and_a_suite_of_other_rates_count(suites, script):
    folder, found = suites
    rng = random.Random(1)
    write_run(folder / "a" / "tip", rng, "tip_adapter")
    other = {rate: write_run(folder / "c" / f"carot-{rate:g}", rng, "carot", rate) for rate in (1e-3, 1e-2)}
    other["zero_shot"] = write_run(folder / "c" / "zero_shot", rng, "zero_shot")
    content = script("regret", "--suites", *(folder / name for name in "abc"))
    # It has one candidate, which loses nothing to its best, and takes nothing from the rules that twins choose by.
    assert content["rules"]["oracle"]["tip_adapter"] == content["rules"]["id"]["tip_adapter"]
    assert content["rules"]["oracle"]["tip_adapter"]["accuracy_worst"] == 0
    assert content["rules"]["concepts"]["carot"]["n"] == 2 and "tip_adapter" not in content["rules"]["concepts"]
    assert {name: content["rules"][f"always {name}"]["carot"]["n"] for name in ("1e-4", "1e-3", "1e-2")} == {"1e-4": 2, "1e-3": 3, "1e-2": 1}
    means = {rate: fmean(other[rate][name].accuracy for name in ("sketch", "cartoon")) for rate in (1e-3, 1e-2)}
    row = next(loss for loss in content["losses"] if (loss["suite"], loss["rule"]) == ("c", "always 1e-2"))
    assert row["accuracy"] == pytest.approx(max(means.values()) - means[1e-2])


def test_rules_that_lose_as_much_are_all_named(suites, script):
    folder, _ = suites
    for name in ("a", "b"):
        for path in (folder / name).glob("*-0.001-*"):
            path.rename(folder / f"{name} {path.name}")
        for path in (folder / name).glob("twin-*-0.001"):
            path.rename(folder / f"{name} {path.name}")
    content = script("regret", "--suites", folder / "a", folder / "b")
    # With one rate there is nothing to choose.
    assert content["verdict"]["tied"] == ["id", "id_within", "id_nearest", "concepts"] == list(content["verdict"]["worst"])
    assert "`id`, `id_within`, `id_nearest` and `concepts` have the least" in (folder / "out" / "regret.md").read_text(encoding="utf-8")


def test_what_regret_cannot_be_of_is_one_line(suites, script, capsys):
    folder, _ = suites
    rng = random.Random(2)
    for name in ("zero_shot", "carot"):
        numbers = {"photo": result("photo", "id", accuracy=rng.random())}
        write_robustft_json(folder / "d" / name, method=name, class_names=CLASSES, templates=TEMPLATES, settings={})
        save_reports(folder / "d" / name / "evaluation.json", [EvaluationReport("model", numbers)])
    for arguments, said in (((folder / "d",), "shifted set"), ((folder / "nowhere",), "no finished run"), ((folder / "a", "--rates", "5e-4"), "5e-4")):
        with pytest.raises(SystemExit):
            script("regret", "--suites", *arguments)
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_correlations_are_over_the_sets_that_all_have(suites, script):
    folder, found = suites
    usual = script("bound_terms", "--suites", folder / "a", "--draws", "20")["correlations"]
    # One run was measured on a shift more.
    path = folder / "a" / "carot-0.0001-0" / "evaluation.json"
    more = {**found["a"]["carot-0.0001-0"], "night": result("night", "shift", accuracy=0.01, nll=9.0, ece=0.9)}
    report = read_run(path.parent).report
    save_reports(path, [EvaluationReport("model", more, spectrum=report.spectrum)])
    assert script("bound_terms", "--suites", folder / "a", "--draws", "20")["correlations"] == usual


def test_correlations_with_the_terms_of_the_bound(suites, script):
    folder, found = suites
    content = script("bound_terms", "--suites", folder / "a", folder / "b", "--draws", "50")
    of = content["correlations"]["ID ECE"]["shift error"]
    runs = [results for name, results in found["a"].items() if name[:4] in ("caro", "flyp")]
    expected = spearmanr([run["photo"].ece for run in runs], [1 - fmean(run[name].accuracy for name in ("sketch", "cartoon")) for run in runs])
    assert of["suites"]["a"] == pytest.approx(expected.statistic)
    assert of["mean"] == pytest.approx(fmean(of["suites"].values())) and -1 <= of["low"] <= of["high"] <= 1
