# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A card tells shifts from open sets, says what the scores are worth, and what the detector in the folder does."""

import copy
import re
from dataclasses import replace

import pytest
import torch
from helpers import CLASSES, TEMPLATES, tiny_processor
from helpers.cards import NASTY, SETS, TOKEN, benchmark, html, python_blocks, report, run, tables
from huggingface_hub import ModelCard
from PIL import Image

from hf_robustft.evaluation.detection import FPR_CONVENTION
from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.evaluation.report import TRAINED_HEAD
from hf_robustft.evaluation.report_schema import check_open_set
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.metadata import update_robustft_json
from hf_robustft.objectives.papers import METHOD_FACTS
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.model_card import write_model_card
from hf_robustft.publishing.open_set_section import leading_score
from hf_robustft.publishing.verdict import open_set_sentence, warning_sentence

HEADER = ["Score", "Model", "ID AUROC %", "ID FPR95 %", "Shifts AUROC %", "Shifts FPR95 %", "Shifts accepted %"]


def row(auroc, fpr95=0.6, shifts=(("sketch", 0.7, 0.8, 0.9), ("cartoon", 0.5, 0.9, 0.8)), correct=True):
    return {
        "auroc": auroc,
        "aupr_in": 0.81,
        "aupr_out": 0.71,
        "fpr95": fpr95,
        "fpr95_nearest_recall": 0.62,
        "fpr95_percentile": 0.63,
        "shifts": {name: {"auroc": a, "fpr95": f, "accepted": s} for name, a, f, s in shifts},
        "correct_only": {"auroc": 0.912, "fpr95_percentile": 0.333} if correct else None,
    }


def measured(model="croft", energy=0.8251, name="unseen", known="photo", names=None, **changes):
    """A report with one open set, scored by `msp` and `energy`."""
    found = report(model, names or (("photo", "id"), ("sketch", "shift"), ("cartoon", "shift")))
    scores = {"msp": row(0.7, **changes), "energy": row(energy, **changes)}
    found.open_set = {name: {"n": 210, "id": known, "scores": scores}}
    check_open_set(found.open_set)
    return found


@pytest.fixture(scope="module")
def data():
    return [*(benchmark(name, role) for name, role in SETS), benchmark("unseen", "open_set", ("x", "y", "z"))]


@pytest.fixture
def write(tmp_path, data):
    """Write a card with the given facts; returns its path."""

    def write(**facts):
        given = {"report": measured(), "method": "croft", "data": data, "settings": {}, "seed": 7}
        return write_model_card(tmp_path / "my-clip", **{**given, **facts})

    return write


@pytest.fixture
def fitted(tmp_path):
    """A detector and a temperature in the folder of the card."""
    folder = tmp_path / "my-clip"
    write_robustft_json(folder, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    logits = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    scaling = TemperatureScaling(1.25)
    scaling.n, scaling.nll_before, scaling.nll_after = 40, 1.5, 1.25
    found = OpenSetDetector.fit(
        logits, class_names=CLASSES, logit_scale=14.28, temperature=scaling, fitted_on="photo-validation"
    )
    found.save(folder)
    return found


# ---- Numbers -------------------------------------------------------------------------------------------------------


def test_the_table_has_every_score_with_the_baseline_above(write):
    path = write(baseline=measured("zero-shot", energy=0.75, fpr95=0.9))
    assert tables(path)[1] == [
        HEADER,
        ["msp", "zero-shot", "70.0", "90.0", "60.0", "85.0", "85.0"],
        ["", "CRoFT", "70.0", "60.0", "60.0", "85.0", "85.0"],
        ["energy", "zero-shot", "75.0", "90.0", "60.0", "85.0", "85.0"],
        ["", "CRoFT", "82.5", "60.0", "60.0", "85.0", "85.0"],
    ]
    text = path.read_text()
    for fact in (
        "## Known or unknown",
        "**unseen**: 210 images of 3 unseen classes, against 400 images of photo (ID).",
        "`energy` for each shift, AUROC % (accepted %): sketch 70.0 (90.0), cartoon 50.0 (80.0).",
        "with correctly classified images of photo only, `energy` has an AUROC of 91.2 %",
        "an FPR of 33.3 %. The table counts all images",
        FPR_CONVENTION,
        "known classes under shift against the open set (mean over 2 shifts)",
        "`energy` is the log of the summed exponentials",
        "AUROC and accepted should be high, FPR95 low.",
        "measured on unseen.",
        "The model gives every image one of the labels",
        "arXiv:2405.16417",
    ):
        assert fact in text, fact
    assert "No claim is made" not in text and "detector" not in text.lower().replace("without the detector", "")


def test_the_sentence_at_the_top_and_the_warning_have_the_numbers(write):
    text = write(baseline=measured("zero-shot", energy=0.9)).read_text()
    assert (
        "Images of classes it does not know, by `energy`: in 82.5 % of pairs (zero-shot: 90.0 %) an image of photo scores "
        "above one of unseen, and of unseen 60.0 % still pass as known at a threshold that accepts 95 % of photo."
        in text
    )
    assert "AUROC of `energy` on unseen (90.0 % before, 82.5 % now)" in text
    assert "AUROC of" not in warning_sentence(measured(), measured("zero-shot", energy=0.82514), "energy")
    # Some views each of a handful of drawings are no more than these.
    before, after = measured("zero-shot", energy=0.9), measured()
    for item in (before, after):
        item.results["photo"].n_groups = item.open_set["unseen"]["n_groups"] = 9
    assert "AUROC of" not in warning_sentence(after, before, "energy")
    assert warning_sentence(measured(), report("zero-shot"), "energy") == ""
    assert open_set_sentence(measured(), None, "knn") == ""


def test_a_card_without_shifts_or_a_right_answer_leaves_them_out(write):
    found = measured(names=(("photo", "id"),), shifts=(), correct=False)
    path = write(report=found)
    assert tables(path)[1][1][4:] == ["n/a"] * 3
    text = path.read_text()
    assert "for each shift" not in text and "As CRoFT's code" not in text and "- Shifts:" not in text


def test_a_baseline_of_other_images_is_refused(write):
    for before in (measured("zero-shot", known="cartoon"), measured("zero-shot")):
        if before.open_set["unseen"]["id"] == "photo":
            before.open_set["unseen"]["n"] = 211
        with pytest.raises(ValueError, match="'unseen' has 21"):
            write(baseline=before)


def test_the_data_table_counts_the_images_that_were_scored(write, data):
    rows = {row[0]: row for row in tables(write())[-1]}
    assert rows["unseen"][1:4] == ["open set", "210", "3 others"]


def test_the_model_index_holds_every_score_with_its_convention(write):
    loaded = ModelCard.load(write()).data
    found = {
        (item.metric_type, item.metric_args["score"]): item
        for item in loaded.eval_results
        if item.dataset_name == "unseen"
    }
    assert {key: item.metric_value for key, item in found.items()} == {
        ("roc_auc", "msp"): 0.7,
        ("fpr95", "msp"): 0.6,
        ("roc_auc", "energy"): 0.8251,
        ("fpr95", "energy"): 0.6,
    }
    one = found["fpr95", "energy"]
    assert one.metric_name == "FPR at 95 % TPR of energy" and "highest" in one.metric_args["threshold"]
    facts = one.dataset_args
    assert (facts["part"], facts["images"], facts["known_set"], facts["known_images"]) == (
        "open set",
        210,
        "photo",
        400,
    )
    assert one.task_type == "zero-shot-image-classification"
    assert {"roc_auc", "fpr95"} <= set(loaded.metrics) and "out-of-distribution-detection" in loaded.tags
    assert len(loaded.eval_results) == 3 * 4 + 4


def test_an_open_set_scored_by_a_trained_head_is_filed_under_its_task(write):
    found = measured("ft")
    for result in found.results.values():
        result.head = TRAINED_HEAD
    items = ModelCard.load(write(report=found, method="ft")).data.eval_results
    assert {item.task_type for item in items} == {"image-classification"}


# ---- Detector and temperature --------------------------------------------------------------------------------------


def test_the_detector_in_the_folder_is_described_with_code(write, fitted):
    path = write()
    text = path.read_text()
    for fact in (
        f"calls an image unknown if its `energy` is below {fitted.threshold:.4g}: the highest threshold",
        "at least 95.0 % of the 40 images of photo-validation on which it was fitted (95.0 % there)",
        "the logit scale 14.28; for others it must be fitted again. The table uses other thresholds",
        "holds a temperature of 1.25, fitted on 40 images (NLL 1.500 before, 1.250 after)",
        "The numbers above are without it.",
        'refused at a\n  different rate: see "Shifts accepted".',
        "Without the detector, the model gives",
        'A folder of images, with "unknown" as an answer (needs `hf_robustft`):',
    ):
        assert fact in text, fact
    assert len(python_blocks(path)) == 3 and "from hf_robustft import pipeline" in python_blocks(path)[0]


def test_a_detector_that_was_not_measured_is_said_to_be_so(write, fitted):
    text = write(report=report("croft")).read_text()
    assert "How well the detector in `robustft.json` recognises images of none of the classes was not measured." in text
    assert "## Known or unknown\n\nThe detector in" in text and "The table's thresholds" not in text


@pytest.mark.parametrize(("temperature", "more"), [(1.0, ""), (1.1, " A further one of 1.1 is not in them.")])
def test_a_folded_temperature_is_in_the_numbers(write, fitted, temperature, more):
    folded = {"temperature": temperature, "folded": 1.25}
    update_robustft_json(write().parent, detector=None, temperature=folded)
    text = write(report=report("croft")).read_text()
    assert f"- The logit scale has a temperature of 1.25 in it; the numbers above include it.{more}\n" in text
    assert "Known or unknown" not in text


def test_the_text_speaks_of_the_score_that_was_chosen_before_the_results(write, fitted):
    assert leading_score(measured(), None) == "energy"
    assert leading_score(measured(), replace(fitted, score="msp").to_dict()) == "msp"
    assert leading_score(measured(), replace(fitted, score="mcm").to_dict()) == "energy"
    only = measured()
    del only.open_set["unseen"]["scores"]["energy"]
    assert leading_score(only, None) == "msp"
    assert leading_score(report(), None) is None


def test_the_histograms_are_shown_only_if_they_are_there(write):
    path = write()
    assert "](scores.png)" not in path.read_text()
    (path.parent / "scores.png").write_bytes(b"png")
    assert "](scores.png)" in write().read_text()
    assert "](scores.png)" not in write(report=report("croft")).read_text()


def test_the_code_runs_as_printed(tiny_clip, write, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "my-clip"
    tiny_clip.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    write_robustft_json(folder, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    logits = torch.zeros(5, 4)
    scale = tiny_clip.logit_scale.exp().item()
    never = replace(OpenSetDetector.fit(logits, class_names=CLASSES, logit_scale=scale), threshold=1e6)
    never.save(folder)
    (folder / "photos").mkdir()
    for index in range(2):
        Image.effect_noise((40, 36), 50 + 40 * index).convert("RGB").save(folder / "photos" / f"{index}.png")
    run(python_blocks(write())[:1], folder, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for index, line in enumerate(lines):
        assert re.fullmatch(rf"photos/{index}\.png: unknown \(0\.\d{{3}} for ({'|'.join(CLASSES)})\)", line), line


# ---- What must not happen ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nasty", NASTY)
def test_no_name_can_break_out_of_its_place(write, nasty):
    name = re.sub(r"[\s/]", "", nasty)
    shifts = ((name + "1", 0.5, 0.5, 0.5), (name + "2", 0.5, 0.5, 0.5))
    found = measured(nasty, name=name, known=name, names=((name, "id"), *((shift[0], "shift") for shift in shifts)))
    scores = found.open_set[name]["scores"]
    scores.clear()
    scores[nasty] = row(0.7, shifts=shifts)
    write_robustft_json(write().parent, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={})
    foreign = OpenSetDetector.fit(torch.randn(9, 4), class_names=CLASSES, logit_scale=9.0, fitted_on=nasty)
    foreign.save(write().parent)
    before = copy.deepcopy(found)
    path = write(
        report=found,
        baseline=before,
        data=[benchmark(name, "id"), benchmark("train", "train"), benchmark("unseen", "open_set")],
    )
    assert html(path) == []
    assert [len(cells) for cells in tables(path)[1]] == [7] * 3
    assert ModelCard.load(path).data.eval_results


def test_the_place_of_the_validation_set_stays_here(write, fitted):
    private = replace(fitted, fitted_on=f"/home/me/val with {TOKEN}")
    private.save(write().parent)
    text = write().read_text()
    assert "/home" not in text and TOKEN not in text and "images of val with" in text


def test_a_report_without_open_sets_has_the_card_it_had(write):
    plain, empty = report("croft"), report("croft")
    empty.open_set = {}
    first = write(report=plain).read_bytes()
    assert write(report=empty).read_bytes() == first
    assert b"Known or unknown" not in first and b"No claim is made about images of none of the classes" in first
    assert b"roc_auc" not in first and b"out-of-distribution" not in first


def test_the_combination_of_two_papers_is_called_our_own():
    both = METHOD_FACTS["carot+croft"]
    assert both.label == "CaRot + CRoFT" and "neither paper contains it" in both.summary
    assert [paper.name for paper in both.papers] == ["CaRot", "FLYP", "CRoFT"]
    assert [paper.name for paper in METHOD_FACTS["croft"].papers] == ["CRoFT"]
