# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A report survives JSON, and its tables say what it holds."""

import json
import math

import pytest
from helpers.reports import report, result

from hf_robustft.evaluation.report import (
    TRAINED_HEAD,
    EvaluationReport,
    load_reports,
    save_reports,
)


def test_the_mean_is_over_shifts_alone():
    assert report().shift_mean == {"accuracy": 0.375, "ece": 0.0815, "nll": 1.25, "brier": 0.625}
    assert report(results={"photo": result("photo", "id")}).shift_mean == {}


def test_metric_keys():
    metrics = report().metrics()
    keys = {"accuracy", "ece", "ece_noise_floor", "adaptive_ece", "classwise_ece", "nll", "brier", "n"}
    assert {key.split("/")[1] for key in metrics if key.startswith("photo/")} == keys
    assert metrics["photo/accuracy"] == 0.875 and metrics["shift_mean/accuracy"] == 0.375
    assert metrics["spectrum/smallest_singular_value"] == 2.5e-5
    assert "spectrum/smallest_singular_value" not in report(spectrum=None).metrics()
    assert len(metrics) == 4 * 8 + 4 + 1


def test_json_round_trip(tmp_path):
    path = report().save_json(tmp_path / "new" / "evaluation.json")
    assert EvaluationReport.load_json(path) == report()
    content = json.loads(path.read_text())
    assert content["format"] == 1 and content["reports"][0]["shift_mean"]["accuracy"] == 0.375
    save_reports(path, [report("before"), report("after")])
    assert [item.model for item in load_reports(path)] == ["before", "after"]
    with pytest.raises(ValueError, match="holds 2 reports"):
        EvaluationReport.load_json(path)


def test_a_number_that_json_cannot_hold_is_refused(tmp_path):
    bad = report(results={"photo": result("photo", nll=math.inf)})
    with pytest.raises(ValueError, match="not finite"):
        bad.save_json(tmp_path / "evaluation.json")
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "format 2"),
        (lambda c: c["reports"][0].pop("results"), r"missing \['results'\]"),
        (lambda c: c["reports"][0].update(extra=1), r"unknown \['extra'\]"),
        (lambda c: c["reports"][0]["results"]["photo"].pop("ece"), r"result 'photo': missing \['ece'\]"),
        (lambda c: c["reports"][0]["results"]["photo"].update(name="x"), "its name is 'x'"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(tmp_path, change, message):
    path = report().save_json(tmp_path / "evaluation.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_reports(path)


def test_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(OSError, match="no evaluation report"):
        load_reports(tmp_path / "evaluation.json")
    for text, message in (("{", "not JSON"), ("[]", "format None")):
        (tmp_path / "evaluation.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_reports(tmp_path / "evaluation.json")


def cells(line):
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_terminal_table():
    lines = report().table().splitlines()
    assert max(map(len, lines)) <= 100
    order = [next(i for i, line in enumerate(lines) if line.strip().startswith(name)) for name in
             ("photo (ID)", "sketch", "cartoon", "mean of 2 shifts", "validation")]  # fmt: skip
    assert order == sorted(order)
    assert lines[order[0]].split() == ["photo", "(ID)", "1,200", "87.5", "±1.4", "8.2", "(2.6)", "1.250", "0.625"]
    assert lines[order[3]].split() == ["mean", "of", "2", "shifts", "37.5", "8.2", "1.250", "0.625"]
    text = " ".join(lines)
    assert "2.500e-05" in text and "15 equal-width bins" in text and "zero-shot prompts" in text


def test_terminal_table_with_baseline():
    baseline = report("zero-shot", (("sketch", 0.3), ("cartoon", 0.25)))
    lines = report().table(baseline).splitlines()
    assert max(map(len, lines)) <= 100 and lines[0].strip() == "zero-shot → fine-tuned"
    row = next(i for i, line in enumerate(lines) if line.strip().startswith("sketch"))
    assert "30.0 → 25.0 ±1.4" in lines[row] and "1.250 → 1.250" in lines[row]
    assert lines[row + 1].split() == ["-5.0", "+0.0", "+0.000", "+0.000"]
    mean = next(i for i, line in enumerate(lines) if "mean of 2 shifts" in line)
    assert "27.5 → 37.5" in lines[mean] and "+10.0" in lines[mean + 1]


def test_the_widest_numbers_are_never_cut():
    wide = {"accuracy": 1.0, "ece": 0.999, "ece_noise_floor": 0.111, "nll": 12.345, "n": 50_000}
    both = [
        report(results={"a-data-set-with-a-very-long-name": result("a-data-set-with-a-very-long-name", **wide)})
    ] * 2
    text = both[0].table(both[1])
    assert "100.0 → 100.0 ±1.4" in text and "99.9 → 99.9 (11.1)" in text
    assert "12.345 → 12.345" in text and "…" not in text and max(map(len, text.splitlines())) <= 100


def test_markdown_table():
    lines = report().markdown().splitlines()
    assert lines[0] == "| set | images | accuracy % | ECE % (floor) | NLL | Brier |"
    assert lines[1].count("|") == 7
    assert cells(lines[2]) == ["photo (ID)", "1,200", "87.5 ±1.4", "8.2 (2.6)", "1.250", "0.625"]
    assert "**37.5**" in lines[5]
    compared = report().markdown(report("zero-shot")).splitlines()
    assert cells(compared[2])[2] == "87.5 → 87.5 ±1.4 (+0.0)"


def test_names_cannot_break_the_tables():
    named = report("a|b", results={"x": result("x|y_<z>[red]\n", "id")}, spectrum=None)
    row = named.markdown().splitlines()[2]
    assert row.startswith(r"| x\|y\_&lt;z>[red] (ID) | 1,200 |")
    # rich must not take brackets in a name for its markup.
    assert "x|y_<z>[red]" in named.table()


def test_heads_and_notes_are_named():
    mixed = report()
    mixed.results["sketch"].head = TRAINED_HEAD
    mixed.spectrum["note"] = "too few images"
    text = " ".join(mixed.table().split())
    assert "trained linear head (sketch)" in text and "too few images" in text
    text = " ".join(mixed.table(report("zero-shot")).split())
    assert "zero-shot prompts → zero-shot prompts (validation, cartoon, photo), trained linear head (sketch)" in text


def test_a_set_that_the_baseline_lacks_is_marked():
    baseline = report("zero-shot", (("sketch", 0.3),))
    text = report().table(baseline)
    assert "n/a → 50.0 ±1.4" in text
    # The means would be over different sets.
    assert "n/a → 37.5" in text


def test_other_data_cannot_be_compared():
    other = report("zero-shot", results={"elsewhere": result("elsewhere")})
    smaller = report("zero-shot", results={"photo": result("photo", "id", n=7)})
    for function in (report().table, report().markdown):
        with pytest.raises(ValueError, match="common data set"):
            function(other)
        with pytest.raises(ValueError, match="7 images for 'zero-shot' and 1200"):
            function(smaller)
