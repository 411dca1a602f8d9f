# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The card says what prediction sets promise, what was measured, and by how much shifts miss it."""

import json

import pytest
from helpers.finished import finished

from hf_robustft.evaluation.report import load_reports
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.publishing.prediction_sets_section import coverage_text, prediction_sets_section

SETS = {"method": "raps", "coverage": 0.9, "quantile": 0.7, "scale": 16.7, "n": 400, "fitted_on": "validation"}


def row(coverage, low, high, n=1200):
    counts = {"class_images": [n, 0, 0, 0], "class_held": [round(coverage * n), 0, 0, 0]}
    return {"n": n, "coverage": coverage, "interval": [low, high], "mean_size": 1.5, "empty": 0.0, "single": 0.625, **counts}


@pytest.fixture
def made(tmp_path):
    def make(rows=None, measured=(), **changes):
        folder = finished(tmp_path / "run")
        facts = load_robustft_json(folder)
        facts["prediction_sets"] = {**SETS, "class_names": facts["class_names"], **changes}
        (folder / "robustft.json").write_text(json.dumps(facts))
        report = load_reports(folder / "evaluation.json")[-1]
        if rows is not None:
            told = {"method": "raps", "coverage": 0.9, "n": 400, "fitted_on": "validation", "unbounded": False, "own_quantiles": None}
            report.prediction_sets = {**told, **dict(measured), "sets": rows}
        return prediction_sets_section(folder, report)

    return make


def test_the_table_and_the_missed_shift(made):
    text = made({"photo": row(0.91, 0.89, 0.93), "sketch": row(0.755, 0.73, 0.78), "cartoon": row(0.895, 0.88, 0.91)})
    assert "| photo (ID) | 1,200 | 91.0 (89.0 to 93.0) | 1.50 | 62.5 | 0.0 |" in text
    assert "400 images of validation" in text and "at least 90 %" in text
    assert "does not hold under shift" in text and "It was missed on sketch by 14.5 points." in text
    assert "cartoon by" not in text


def test_shifts_that_are_held_and_no_shifts(made):
    assert "which no theory promises" in made({"sketch": row(0.92, 0.9, 0.94)})
    assert "under shift" not in made({"photo": row(0.92, 0.9, 0.94)})


def test_what_is_not_known_is_said(made):
    assert "was not measured" in made() and "was not measured" in made({"photo": row(0.9, 0.88, 0.92)}, {"coverage": 0.8})
    assert "every set holds all classes" in made(quantile=None)
    own = made(class_quantiles={"cat": 0.5, "dog": None}, min_per_class=9)
    assert "For 2 classes it holds by themselves" in own and "The other 2 had fewer than 9 images" in own


def test_a_hostile_name_stays_text(made):
    text = made(fitted_on="<script>alert(1)</script> | a\n# b")
    assert "<script>" not in text and "\n# b" not in text


def test_the_line_of_the_terminal():
    assert coverage_text(row(0.91, 0.89, 0.93)) == (
        "sets hold the class of 91.0 % of 1,200 images (95 % interval 89.0 to 93.0), with 1.50 classes on average"
    )
