# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""An `evaluation.json` that was damaged or edited is refused in one line, wherever it is read, and never published."""

import copy
import json
import random

import pytest
from helpers.reports import report

from hf_robustft.evaluation.report import load_reports, save_reports
from hf_robustft.publishing.report_page import report_page
from hf_robustft.publishing.verdict import summary_sentence, warning_sentence

WRONG = (None, True, "", "text", [], {}, -1, -0.5, 1e308, 2, 0, [1, 2], {"a": 1}, 10**400, [None], "0.5")


def whole():
    """A report with every part there is."""
    full = report()
    numbers = dict.fromkeys(("auroc", "aupr_in", "aupr_out", "fpr95", "fpr95_nearest_recall", "fpr95_percentile"), 0.5)
    row = {**numbers, "shifts": {"sketch": {"auroc": 0.5, "fpr95": 0.5, "accepted": 0.5}}}
    row["correct_only"] = {"auroc": 0.5, "fpr95_percentile": 0.5}
    full.open_set = {"unseen": {"n": 10, "id": "photo", "scores": {"energy": row}}}
    photo = full.results["photo"]
    photo.predictions = {"class": "cat", "share": 0.5, "label_share": 0.25, "majority": "dog", "majority_share": 0.5}
    photo.draws = {"accuracy": [0.5, 0.25], "ece": [0.1, 0.125], "nll": [1.0, 2.0]}
    photo.source = {"path": "owner/pictures", "split": "test"}
    photo.unreadable = {"count": 1, "of": 1201, "first": ["row 3: broken"]}
    row = {"n": 1200, "coverage": 0.5, "interval": [0.4, 0.6], "mean_size": 1.5, "empty": 0.0, "single": 0.5}
    row |= {"class_images": [600, 600, 0, 0], "class_held": [300, 300, 0, 0]}
    facts = {"method": "raps", "coverage": 0.9, "n": 100, "fitted_on": "validation", "unbounded": False, "own_quantiles": None}
    full.prediction_sets = {**facts, "sets": {"photo": row}}
    counts = {"images": 600, "right": 500, "predicted": 550, "confidence": 0.875}
    mistake = {"row": 7, "file": "cat/7.png", "label": "cat", "predicted": "dog", "confidence": 0.75, "nll": 2.5}
    errors = {"n_wrong": 150, "classes": {"cat": counts, "dog": {**counts, "right": 0, "predicted": 0, "confidence": None}}, "classes_left_out": 0}
    errors |= {"confusions": [{"label": "cat", "predicted": "dog", "n": 3}], "n_confusions": 1}
    full.error_analysis = {"photo": {**errors, "worst": [mistake], "most_confident": [{**mistake, "file": None}]}}
    found = {"set": "photo", "with": "training images of 'train'", "found": 2, "compared": 1200, "images": 1200, "share": 0.001, "at_least": 0.001}
    full.shared_images = [{**found, "exact": True, "pictures": 2, "first": ["row 3 (a.png)"], "means": "nothing is new"}]
    share = {"share": 0.25, "low": 0.125, "high": 0.5, "n": 8}
    curve = {name: [0.0, 1.0] for name in ("threshold", "refusal", "refusal_low", "refusal_high", "acceptance", "acceptance_low", "acceptance_high")}
    curve |= {"score": "energy", "confidence": 0.95, "shifts": {"sketch": [0.0, 1.0]}}
    curve |= {"chosen": {"threshold": 0.5, "own_thresholds": 0, "refusal": share, "acceptance": share}}
    full.open_set["unseen"]["threshold_curve"] = curve
    return full


def places(value, path=()):
    """The paths of all values."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed(content, path, action, value=None):
    content = copy.deepcopy(content)
    place = content
    for key in path[:-1]:
        place = place[key]
    if action == "remove":
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return content


def use(path):
    """All that is done with the reports of a file."""
    reports = load_reports(path)
    for item in reports:
        report_page([item])
        item.table(), item.markdown(), item.metrics(), summary_sentence("It", item, None), warning_sentence(item, item)
    save_reports(path.with_name("again.json"), reports)


def test_a_whole_report_survives(tmp_path):
    path = save_reports(tmp_path / "evaluation.json", [whole()])
    assert load_reports(path) == [whole()]
    use(path)


def test_three_hundred_mutations_are_refused_in_one_line_or_do_no_harm(tmp_path):
    path = save_reports(tmp_path / "evaluation.json", [whole()])
    content = json.loads(path.read_text())
    everywhere = list(places(content))
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        place = rng.choice(everywhere)
        action = rng.choice(("remove", "set", "set", "set"))
        value = rng.choice(WRONG)
        path.write_text(json.dumps(changed(content, place, action, value)))
        try:
            use(path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1000 and str(path) in str(error), (
                place,
                action,
                value,
            )
    assert refused > 200


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("results/photo/accuracy", "0.9", "results/photo/accuracy"),
        ("results/photo/accuracy", 1.5, "results/photo/accuracy"),
        ("results/photo/accuracy", True, "results/photo/accuracy"),
        ("results/photo/n", 3.5, "results/photo/n"),
        ("results/photo/role", "shfit", "one of id, shift"),
        ("results/photo/role", [], "one of id, shift"),
        ("results/photo/reliability/count", [1, 2], "add up to n = 1200"),
        ("results/photo/reliability/confidence", [0.5], "same length"),
        ("results/photo/reliability/confidence", [None, None], "null for the others"),
        ("results/photo/draws", {"accuracy": "0.1 x"}, "draws of result 'photo'"),
        ("results/photo", [], "Result 'photo'"),
        ("results", [], "results"),
        ("spectrum", {"n": 3}, "spectrum/smallest_singular_value"),
        ("settings", [], "settings"),
        ("settings/versions", {"torch": 2}, "settings/versions"),
        ("logit_scale", "big", "logit_scale"),
        ("open_set/unseen/id", "elsewhere", "open_set/unseen/id"),
        ("open_set/unseen/scores/energy/auroc", 82.5, "open_set/unseen/energy/auroc"),
        ("open_set/unseen/scores/energy/shifts", [], "shifts"),
        ("model", 3, "model"),
        ("error_analysis/photo/classes/cat", "3 4 5 0.5", "error_analysis/photo/classes/cat"),
        ("error_analysis/photo/classes/cat", "3 3 5 -", "error_analysis/photo/classes/cat"),
        ("error_analysis/photo/classes/cat", "3 3 5 nan", "error_analysis/photo/classes/cat"),
        ("error_analysis/photo/classes/cat", "3 3", "counts by class"),
        ("error_analysis/photo/worst/0/nll", -1, "error_analysis/photo/worst/0/nll"),
        ("error_analysis/photo/confusions/0", {}, "error_analysis/photo/confusions/0"),
        ("shared_images/0/found", 0, "shared_images/0/found"),
        ("open_set/unseen/threshold_curve/threshold", "1.0 0.0", "threshold_curve/threshold"),
        ("open_set/unseen/threshold_curve/refusal", "0.5", "threshold_curve/refusal"),
        ("open_set/unseen/threshold_curve/refusal", "a b", "threshold_curve"),
        ("open_set/unseen/threshold_curve/chosen/refusal/low", 2, "chosen/refusal"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, place, value, named):
    path = save_reports(tmp_path / "evaluation.json", [whole()])
    content = json.loads(path.read_text())
    path.write_text(json.dumps(changed(content, ("reports", 0, *(int(key) if key == "0" else key for key in place.split("/"))), "set", value)))
    with pytest.raises(ValueError, match=named):
        load_reports(path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[]", "format"),
        ('{"format": 2, "reports": []}', "format 2"),
        ('{"format": 1}', "no list of reports"),
        ('{"format": 1, "reports": {}}', "no list of reports"),
        ('{"format": 1, "reports": []}', "no list of reports"),
        ('{"format": 1, "reports": [3]}', "is a mapping"),
        ("[" * 100_000, "not JSON"),
        ('{"format": 1, "reports": [{"model": NaN}]}', "NaN"),
        ("\x00", "not JSON"),
    ],
)
def test_other_files_are_refused(tmp_path, text, named):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=named) as caught:
        load_reports(path)
    assert "\n" not in str(caught.value)


def test_counts_of_prediction_sets_take_a_line_and_must_add_up(tmp_path):
    path = save_reports(tmp_path / "evaluation.json", [whole()])
    assert '"class_images": "600 600 0 0"' in path.read_text()
    content = json.loads(path.read_text())
    row = content["reports"][0]["prediction_sets"]["sets"]["photo"]
    for name, text in (("class_images", "600 599 0 0"), ("class_held", "601 300 0 0"), ("class_held", "300 300"), ("class_held", "a b")):
        kept, row[name] = row[name], text
        path.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="prediction_sets"):
            load_reports(path)
        row[name] = kept
    del content["reports"][0]["prediction_sets"]
    path.write_text(json.dumps(content))
    assert load_reports(path)[0].prediction_sets is None
