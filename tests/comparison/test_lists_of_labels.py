# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A comparison of runs on lists of labels: mAP wherever single labels have accuracy, in numbers, choices, words, tables and page."""

import json
import re
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from helpers.browser import BROWSER, seen_in_browser
from sklearn.metrics import average_precision_score

from hf_robustft.comparison.html import write_html
from hf_robustft.comparison.output import write_comparison
from hf_robustft.comparison.runs import ZERO_SHOT, Candidate, Comparison, FinishedRun
from hf_robustft.comparison.statistics import Bootstrap
from hf_robustft.comparison.summary import load_comparison, save_comparison, summarise
from hf_robustft.comparison.tables import markdown_table, terminal_table
from hf_robustft.evaluation.list_predictions import ListPredictions
from hf_robustft.evaluation.multi_label import fit_thresholds, multi_label_results
from hf_robustft.evaluation.predictions import Predictions
from hf_robustft.evaluation.report import EvaluationReport
from hf_robustft.evaluation.resampling import draw_counts

NAMES, N = ("cat", "dog", "kite", "zebra"), 60
ROLES = {"photo": "id", "sketch": "shift", "night": "shift", "validation": "validation"}


def targets(name):
    """Of the last class two images of each set, of the first half."""
    generator = torch.Generator().manual_seed(len(name))
    labels = torch.rand(N, 4, generator=generator) < torch.tensor([0.5, 0.3, 0.2, 0.0])
    labels[:2, 3] = True
    return labels


def a_run(candidate, seed, skill, function="sigmoid", roles=ROLES):
    """With logits that know the labels by so much."""
    generator, made = torch.Generator().manual_seed(1000 + round(100 * skill) + (seed or 0)), {}
    for name, role in roles.items():
        labels = targets(name)
        signal = skill * (0.6 if role == "shift" else 1.0)
        logits = 2 * signal * (labels.double() - 0.3) + torch.randn(N, 4, generator=generator, dtype=torch.float64)
        made[name] = ListPredictions(name, role, np.arange(N), labels.numpy(), NAMES, logits, function, torch.full((4,), 0.5))
    fit = made["validation"]
    thresholds = fit_thresholds(fit.probabilities, torch.from_numpy(fit.label))[0]
    made = {name: ListPredictions(**{**vars(item), "thresholds": thresholds}) for name, item in made.items()}
    rows = {
        name: {
            "role": item.role, "head": "made up", "probabilities": function, "thresholds_of": "validation", "default_thresholds": [],
            **multi_label_results(item.logits, item.probabilities, torch.from_numpy(item.label), NAMES, thresholds),
        }
        for name, item in made.items()
    }  # fmt: skip
    report = EvaluationReport(candidate.label, {}, settings={"n_bins": 15}, multi_label=rows)
    facts = {"class_names": list(NAMES), "method": candidate.method, "settings": {}}
    return FinishedRun(Path(f"{candidate.method}-{candidate.learning_rate}-{seed}"), candidate, seed, report, Predictions(made), facts=facts)


def a_comparison(roles=ROLES):
    skills = {("ft", 1e-5): 0.8, ("ft", 1e-4): 1.6, ("lp", 1e-2): 0.9, ("lp", 1e-1): 0.75}
    runs = [a_run(Candidate(*of), seed, skill, roles=roles) for of, skill in skills.items() for seed in (0, 1)]
    return Comparison(runs, a_run(ZERO_SHOT, None, 0.5, "softmax", roles))


@pytest.fixture(scope="module")
def comparison():
    return a_comparison()


@pytest.fixture(scope="module")
def summary(comparison):
    return summarise(comparison)


def precision(item, rows=slice(None)):
    y, z = item.label[rows], item.logits.numpy()[rows]
    return fmean(average_precision_score(y[:, c], z[:, c]) for c in range(4) if y[:, c].any())


@pytest.mark.numbers
def test_the_paired_difference_is_that_of_scikit_learn_on_the_same_draws(comparison, summary):
    (row,) = [row for row in summary["candidates"] if row["label"] == "FT, 1e-4"]
    runs = [run.predictions.sets for run in comparison.candidates[Candidate("ft", 1e-4)]]
    start = comparison.zero_shot.predictions.sets
    # A set without groups is drawn by itself: by its place among those that are tested.
    for place, name in enumerate(("photo", "sketch")):
        sides = [run[name] for run in runs], [start[name]]
        draws = [np.mean([item.sampled(draws=1000, seed=[0, place])["map"] for item in side], axis=0) for side in sides]
        times = np.concatenate(list(draw_counts(N, 1000, [0, place]))).astype(int)[:25]
        for sample, counts in enumerate(times):
            rows = np.repeat(np.arange(N), counts)
            want = [fmean(precision(item, rows) for item in side) for side in sides]
            assert [side[sample] for side in draws] == pytest.approx(want, abs=1e-12)
        gain, values = row["against_zero_shot"][name]["map"], [precision(run[name]) for run in runs]
        assert gain["mean"] == pytest.approx(fmean(values) - precision(start[name]), abs=1e-12)
        variance = np.var(draws[0] - draws[1], ddof=1) * N / (N - 1) + np.var(values, ddof=1) / 2
        assert gain["se"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    shifts = row["against_zero_shot"]["shift_mean"]["map"]
    assert shifts["mean"] == pytest.approx(fmean(row["against_zero_shot"][name]["map"]["mean"] for name in ("sketch", "night")), abs=1e-12)


def test_whole_groups_are_drawn():
    """Each image three times in a group: its draws are those of the image alone; drawn one by one they scatter less."""
    alone = a_run(Candidate("ft", 1e-4), 0, 1.0).predictions.sets["photo"]
    names = np.array([f"drawing {number:02d}" for number in range(N)])
    thrice = {
        **{"row": np.arange(3 * N), "label": np.tile(alone.label, (3, 1)), "logits": alone.logits.repeat(3, 1)},
        "group": np.tile(names, 3),
    }
    thrice = replace(alone, **thrice)
    want, got, single = (
        Bootstrap({"photo": item}, draws=300).sample([Predictions({"photo": item})])["photo"] for item in (alone, thrice, replace(thrice, group=None))
    )
    for metric in ("map", "f1", "ece", "nll"):
        assert got[metric].values == pytest.approx(want[metric].values, abs=1e-12) and got[metric].units == N, metric
        assert np.allclose(got[metric].draws, want[metric].draws, atol=1e-12), metric
        assert single[metric].draws.std() < 0.75 * got[metric].draws.std(), metric
    # Sets of the same drawings share their draws.
    other = replace(thrice, name="sketch", role="shift")
    both = Bootstrap({"photo": thrice, "sketch": other}, draws=300).sample([Predictions({"photo": thrice, "sketch": other})])
    assert np.array_equal(both["photo"]["map"].draws, both["sketch"]["map"].draws)


@pytest.mark.numbers
def test_numbers_are_those_of_the_reports(comparison, summary):
    assert summary["measure"] == "map" and summary["decided_on"] == "shift_mean"
    for row, runs in zip(summary["candidates"], comparison.candidates.values(), strict=True):
        for name in ROLES:
            for key in ("map", "f1", "ece"):
                values = [run.report.multi_label[name][key] for run in runs]
                assert row["sets"][name][key]["mean"] == pytest.approx(fmean(values), abs=1e-12)
        assert row["id_mean"]["map"] == row["sets"]["photo"]["map"] and "accuracy" not in row["id_mean"]
    assert all(item["groups"] is None and item["n"] == N and item["n_classes"] == 4 for item in summary["data"]["sets"])


@pytest.mark.numbers
def test_rules_look_at_map(comparison, summary):
    validation = {row["label"]: row["sets"]["validation"]["map"]["mean"] for row in summary["candidates"]}
    shifted = {row["label"]: row["shift_mean"]["map"]["mean"] for row in summary["candidates"]}
    choices = summary["choices"]
    assert set(choices) == {"id", "id_within", "shift:sketch", "shift:night", "oracle"}
    assert choices["id"]["overall"] == max(validation, key=validation.get) and choices["oracle"]["overall"] == max(shifted, key=shifted.get)
    best = choices["id"]["overall"]
    assert choices["id"]["regret"]["map"] == pytest.approx(max(shifted.values()) - shifted[best], abs=1e-12)
    assert "the best mAP" in choices["id"]["says"] and choices["shift:night"]["metric"] == "mAP and NLL"
    # Of FT the smallest rate that keeps 90 % of what the best gains over zero-shot.
    start = summary["baseline"]["sets"]["validation"]["map"]["mean"]
    least = start + 0.9 * (max(validation["FT, 1e-5"], validation["FT, 1e-4"]) - start)
    kept = "FT, 1e-5" if validation["FT, 1e-5"] >= least else "FT, 1e-4"
    assert summary["rule"]["name"] == "id_within" and summary["rule"]["by_method"]["FT"] == kept
    assert summarise(comparison, "shift:night")["rule"]["looked_at"] == ["night"]
    for rule in ("concepts", "id_nearest"):
        with pytest.raises(ValueError, match=f"{rule}.*mAP.*choose one of id, id_within, oracle") as caught:
            summarise(comparison, rule)
        assert "\n" not in str(caught.value)


def test_words_tables_and_page_say_map_and_nothing_of_what_is_not_measured(summary, tmp_path):
    texts = [summary["winner"]["words"], terminal_table(summary, 100), markdown_table(summary)]
    files = {path.name: path for path in write_comparison(summary, tmp_path)}
    assert set(files) == {"comparison.json", "comparison.md", "comparison.html", "frontier.png"}
    texts += [files["comparison.md"].read_text(), files["comparison.html"].read_text()]
    # Zero-shot CLIP answers by shares of the classes and a trained head by sigmoids, whose NLL and ECE say nothing of each other.
    assert "mAP" in texts[0] and "F1" in texts[0] and not re.search("NLL|ECE", texts[0])
    assert all("mAP" in text and "NLL" in text for text in texts[1:])
    for text in texts:
        for word in ("accuracy", "accuracies", "auroc", "unseen", "unknown class", "brier", "save_predictions", "top-1"):
            assert word not in text.lower(), word
    for word in ("mAP under shift", "F1 %", "Loses mAP %", "What mAP in distribution costs under shift"):
        assert word in texts[-1], word
    winner = next(row for row in summary["candidates"] if row["label"] == summary["winner"]["candidate"])
    assert f"{100 * winner['shift_mean']['map']['mean']:.1f} % mAP under shift" in texts[0]
    # What was written is read again, and pages and tables of it are the same.
    again = load_comparison(tmp_path)
    assert again == json.loads(json.dumps(summary)) and markdown_table(again) == markdown_table(summary)
    for change in ({"measure": "speed"}, {"measure": ["map"]}, {"measure": "accuracy"}):
        save_comparison({**summary, **change}, tmp_path / "comparison.json")
        with pytest.raises(ValueError, match="measure|accuracy"):
            load_comparison(tmp_path)


def test_without_shifts_it_is_decided_in_distribution():
    summary = summarise(a_comparison({"photo": "id", "validation": "validation"}))
    assert summary["decided_on"] == "id_mean" and "% mAP in distribution" in summary["winner"]["words"]
    assert "no shift was measured" in summary["winner"]["words"].lower() and "mAP" in terminal_table(summary, 100)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_its_window_and_sorts_by_map(summary, tmp_path, width):
    script = """
    const seen = { errors }, page = document.documentElement;
    seen.wide = [page.scrollWidth, page.clientWidth];
    const table = document.querySelector("#candidates table.sortable"), heads = [...table.tHead.rows[0].cells];
    heads.find((head) => head.innerText.replace(/\\\\s+/g, " ").startsWith("mAP % under shift")).querySelector("button").click();
    seen.rows = [...table.tBodies[0].rows].map((row) => row.cells[0].innerText);
    seen.points = document.querySelectorAll("#frontier g.point").length;
    """.replace("\\\\", "\\")
    page = write_html(summary, tmp_path / "comparison.html")
    seen = seen_in_browser(page, page.read_text(encoding="utf-8"), script, f"--window-size={width},2000")
    assert seen["errors"] == [] and seen["wide"][0] <= seen["wide"][1] and seen["points"]
    rows = [summary["baseline"], *summary["candidates"]]
    assert seen["rows"] == [row["label"] for row in sorted(rows, key=lambda row: -row["shift_mean"]["map"]["mean"])]
