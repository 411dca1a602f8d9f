# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Logits of lists of labels that are not what a run wrote, and runs that do not fit each other: one line each, and nothing dropped in silence."""

import json

import pytest
import torch
from helpers.finished import CLASSES
from helpers.list_runs import finished_on_lists, list_targets
from helpers.reports import result
from safetensors import safe_open
from safetensors.torch import save_file

from hf_robustft.comparison.runs import read_run, read_runs
from hf_robustft.comparison.summary import save_comparison, summarise
from hf_robustft.comparison.tables import markdown_table

NO_LABEL = torch.zeros(40, len(CLASSES), dtype=torch.bool)


def rewritten(path, facts=(), **changes):
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}
    tensors |= {key: change(tensors[key].clone()).contiguous() for key, change in changes.items()}
    save_file(tensors, path, metadata | dict(facts))


def reported(folder, change):
    content = json.loads((folder / "evaluation.json").read_text())
    change(content["reports"][-1]["multi_label"])
    (folder / "evaluation.json").write_text(json.dumps(content))


def as_first(value):
    return lambda tensor: tensor.index_fill(0, torch.tensor([0]), value)


@pytest.mark.parametrize(
    "facts, changes",
    [
        *[({}, {"rows": change}) for change in (as_first(1), as_first(-1), torch.Tensor.double, lambda rows: rows.to(torch.float8_e4m3fn))],
        *[({}, {"logits": lambda logits, kind=kind: logits.to(kind)}) for kind in (torch.int64, torch.complex64, torch.float8_e4m3fn)],
        *[({}, {"labels": lambda labels, kind=kind: labels.to(kind)}) for kind in (torch.complex64, torch.float8_e4m3fn, torch.uint64)],
        *[({}, {"logits": as_first(value)}) for value in (float("nan"), float("inf"))],
        ({}, {"labels": as_first(2)}),
        *[({"pair_bias": value}, {}) for value in ("NaN", "1e999", '"1"', "true", "null", "[]", "1" + "0" * 400)],
        *[({"class_names": value}, {}) for value in ("5", "[" * 100_000, '["cat", "cat", "owl", "bee"]', '["bee", "owl", "dog", "cat"]')],
        ({"probabilities": "softmax"}, {}),
    ],
)
def test_a_file_that_no_run_wrote_is_refused_by_its_name(tmp_path, facts, changes):
    folder = finished_on_lists(tmp_path / "run")
    rewritten(folder / "logits" / "photo.safetensors", facts, **changes)
    with pytest.raises(ValueError, match="photo.safetensors.*--save_logits") as caught:
        read_run(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_probabilities_that_nobody_knows_are_refused_where_the_report_has_them_too(tmp_path):
    folder = finished_on_lists(tmp_path / "run", function="softmax")
    rewritten(folder / "logits" / "photo.safetensors", {"probabilities": "relu"})
    reported(folder, lambda rows: rows["photo"].update(probabilities="relu"))
    with pytest.raises(ValueError, match="photo.safetensors.*relu"):
        read_run(folder)


@pytest.mark.parametrize("name", ["../../other/logits/photo", "/photo", "a\nb", "a\0b"])
def test_the_name_of_a_set_leads_nowhere_else(tmp_path, name):
    finished_on_lists(tmp_path / "other")
    folder = finished_on_lists(tmp_path / "run")
    reported(folder, lambda rows: rows.update({name: rows.pop("photo")}))
    with pytest.raises(ValueError, match="--save_logits") as caught:
        read_run(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("change", [{"classes": {"cat": 1}}, {"n_classes": 7}])
def test_a_report_that_fits_no_logits_is_refused(tmp_path, change):
    folder = finished_on_lists(tmp_path / "run")
    reported(folder, lambda rows: rows["photo"].update(change))
    with pytest.raises(ValueError, match="classes"):
        read_run(folder)


def test_bins_that_no_memory_holds_are_refused(tmp_path):
    folder = finished_on_lists(tmp_path / "run")
    path = folder / "evaluation.json"
    path.write_text(path.read_text().replace('"n_bins": 15', f'"n_bins": {2**40}'))
    with pytest.raises(ValueError, match="n_bins"):
        read_run(folder)


@pytest.mark.parametrize("key", ["map", "f1"])
def test_a_report_that_does_not_know_what_logits_say_is_refused(tmp_path, key):
    folder = finished_on_lists(tmp_path / "run")
    reported(folder, lambda rows: rows["photo"].update({key: None}))
    with pytest.raises(ValueError, match="evaluation.json measured .photo differs."):
        read_run(folder)


@pytest.mark.parametrize("name", ["sketch", "validation"])
def test_a_set_without_any_label_is_left_out_by_a_note(tmp_path, name):
    folders = [finished_on_lists(tmp_path / f"{skill}", skill=skill, rate=skill / 100, targets={name: NO_LABEL}) for skill in (0.5, 1.0)]
    comparison = read_runs(folders)
    assert comparison.notes == [f"{name} is left out: no image of it has a label."] and name not in comparison.sets
    summary = summarise(comparison)
    save_comparison(summary, tmp_path / "comparison.json")
    table = markdown_table(summary)
    assert "run of zero_shot too with --save_logits" in table and "skip_baseline" not in table
    assert (summary["rule"] is None) == (name == "validation") and "photo" in summary["candidates"][0]["sets"]
    # What the logits have is looked at all the same.
    rewritten(folders[0] / "logits" / f"{name}.safetensors", labels=lambda labels: labels[:1].repeat(40, 1).index_fill(0, torch.tensor([0]), 1))
    with pytest.raises(ValueError, match=f"{name} differs"):
        read_run(folders[0])


def test_where_no_image_of_any_set_has_a_label_nothing_is_compared(tmp_path):
    with pytest.raises(ValueError, match="none whose images have labels"):
        read_runs([finished_on_lists(tmp_path / "run", targets=dict.fromkeys(("photo", "sketch", "validation"), NO_LABEL))])


def test_lists_beside_single_labels_are_left_out_by_a_note(tmp_path):
    folders = [finished_on_lists(tmp_path / f"{skill}", skill=skill, rate=skill / 100) for skill in (0.5, 1.0)]
    for folder in folders:
        content = json.loads((folder / "evaluation.json").read_text())
        content["reports"][-1]["results"] = {"single": vars(result("single", "id"))}
        (folder / "evaluation.json").write_text(json.dumps(content))
    comparison = read_runs(folders)
    assert list(comparison.sets) == ["single"] and len(comparison.notes) == 3
    assert all("lists of labels" in note and note.startswith(name) for name, note in zip(("photo", "sketch", "validation"), comparison.notes, strict=True))


def test_runs_that_do_not_fit_each_other_are_told_apart(tmp_path):
    one = finished_on_lists(tmp_path / "one")
    swapped = finished_on_lists(tmp_path / "swapped", rate=1e-2, classes=CLASSES[::-1])
    (swapped / "robustft.json").write_text((one / "robustft.json").read_text().replace("0.001", "0.01"))
    with pytest.raises(ValueError, match="differ in the classes of photo"):
        read_runs([one, swapped])
    rows = {"photo": torch.arange(40) + 1}
    with pytest.raises(ValueError, match="same images of 'photo'.*--save_logits"):
        summarise(read_runs([one, finished_on_lists(tmp_path / "rows", rate=1e-2, rows=rows)]))
    labels = {"photo": list_targets("photo").flip(0)}
    with pytest.raises(ValueError, match="same images of 'photo'.*--save_logits"):
        summarise(read_runs([one, finished_on_lists(tmp_path / "labels", rate=1e-2, targets=labels)]))
    fewer = finished_on_lists(tmp_path / "fewer", rate=1e-2, sets={"photo": "id", "sketch": "shift"})
    assert read_runs([one, fewer]).notes == ["validation is left out: fewer did not measure it."]


@pytest.mark.parametrize("n", [1, 2, 6])
def test_of_few_images_a_comparison_is_made_all_the_same(tmp_path, n):
    labels = torch.eye(4, dtype=torch.bool)[torch.arange(n) % 4]
    given = {"n": n, "targets": dict.fromkeys(("photo", "sketch", "validation"), labels)}
    folders = [finished_on_lists(tmp_path / f"{seed}", seed=seed, **given) for seed in range(5)]
    folders += [finished_on_lists(tmp_path / "lp", "lp", 1e-2, skill=9.0, **given)]
    folders += [finished_on_lists(tmp_path / "start", "zero_shot", None, None, skill=0.1, function="softmax", **given)]
    summary = summarise(read_runs(folders))
    save_comparison(summary, tmp_path / "comparison.json")
    (row,) = [row for row in summary["candidates"] if row["method"] == "lp"]
    assert row["id_mean"]["map"]["mean"] == 1.0 and (row["against_zero_shot"]["photo"]["map"]["se"] is None) == (n == 1)
