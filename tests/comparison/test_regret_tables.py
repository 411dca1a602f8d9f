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


def test_correlations_with_the_terms_of_the_bound(suites, script):
    folder, found = suites
    content = script("bound_terms", "--suites", folder / "a", folder / "b", "--draws", "50")
    of = content["correlations"]["ID ECE"]["shift error"]
    runs = [results for name, results in found["a"].items() if name[:4] in ("caro", "flyp")]
    expected = spearmanr([run["photo"].ece for run in runs], [1 - fmean(run[name].accuracy for name in ("sketch", "cartoon")) for run in runs])
    assert of["suites"]["a"] == pytest.approx(expected.statistic)
    assert of["mean"] == pytest.approx(fmean(of["suites"].values())) and -1 <= of["low"] <= of["high"] <= 1
