# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The page of a report: its numbers are those of `evaluation.json`, and it is sound whatever was not measured."""

import json
import re
import warnings

import numpy as np
import pytest
from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from helpers.evaluations import benchmark, evaluator
from helpers.hostile_names import HOSTILE, Reader
from helpers.pages import check_numbers, check_sound
from helpers.reports import errors, full_report, report

from hf_robustft import EvaluationReport, finish_checkpoint, load_benchmark
from hf_robustft.cli import evaluate as command
from hf_robustft.evaluation.report import load_reports, save_reports
from hf_robustft.publishing.card_file import GENERATED_PAGE, PAGE_FILE
from hf_robustft.publishing.folder import chosen_files
from hf_robustft.publishing.recalibrate import recalibrate
from hf_robustft.publishing.report_page import CLASSES as MOST
from hf_robustft.publishing.report_page import MISTAKES, PICTURES, report_page, write_page


def content_of(tmp_path, reports):
    return json.loads(save_reports(tmp_path / "evaluation.json", reports).read_text(encoding="utf-8"))


def test_every_number_is_that_of_the_file(tmp_path):
    reports = [full_report(model="zero-shot", accuracy=0.6), full_report()]
    content, page = content_of(tmp_path, reports), check_sound(report_page(reports))
    texts, points = check_numbers(page, content)
    assert texts > 400 and points == 8
    assert len(page.all("data", **{"data-of": "gap"})) >= 12 and page.all("g", **{"class": "point"})
    # Its own numbers, and the other's beside it.
    assert page.all("data", **{"data-path": "/reports/1/results/photo/ece"}) and page.all("data", **{"data-path": "/reports/0/results/photo/ece"})
    # A changed number is not on the page.
    counts = content["reports"][1]["error_analysis"]["photo"]["classes"]["class 0"]
    for old, new in ((counts, " ".join(["7", *counts.split()[1:]])), (counts, counts[:-1] + ("1" if counts[-1] != "1" else "2"))):
        content["reports"][1]["error_analysis"]["photo"]["classes"]["class 0"] = new
        with pytest.raises(AssertionError):
            check_numbers(page, content)
        content["reports"][1]["error_analysis"]["photo"]["classes"]["class 0"] = old
    check_numbers(page, content)
    # As it is read from the file.
    assert report_page(load_reports(tmp_path / "evaluation.json")) == report_page(reports)


def only(**kept):
    made = full_report()
    return EvaluationReport(made.model, kept.pop("results", made.results), settings=made.settings, **kept)


def all_right():
    made = report()
    labels = np.arange(1200) % 4
    from hf_robustft.evaluation.error_analysis import analyse_errors

    made.error_analysis = {"photo": analyse_errors(labels, labels, labels, np.ones(1200), np.zeros(1200), tuple("abcd"))}
    return made


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: only(), "were not compared"),
        (lambda: only(shared_images=[]), "No set has images in common"),
        (lambda: only(results={}, multi_label=full_report().multi_label), "both are left out"),
        (lambda: full_report(chosen=False), "No detector is marked"),
        (lambda: full_report(classes=("cat", "dog")), "All classes of photo"),
        (lambda: full_report(classes=tuple(f"class {index}" for index in range(40))), f"The {MOST} least accurate of 40 classes"),
        (all_right, "Every image is classified rightly"),
        (report, "in distribution"),
    ],
    ids=range(8),
)
def test_the_page_is_sound_and_says_what_is_missing(tmp_path, made, said):
    made = made()
    page = check_sound(report_page([made]))
    check_numbers(page, content_of(tmp_path, [made]))
    words = " ".join(" ".join(text.split()) for tag, _, text in page.elements if tag == "body")
    assert said in words
    assert not [item for item in page.all("p") if not item[2].strip()]


def test_an_older_report_has_a_curve_that_is_missing_and_no_errors(tmp_path):
    made = full_report()
    del made.open_set["unseen"]["threshold_curve"]
    made.error_analysis = None
    page = check_sound(report_page([made]))
    check_numbers(page, content_of(tmp_path, [made]))
    assert "No threshold curve" in "".join(text for _, _, text in page.all("section")) and not page.all("section", id="errors")


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_name_is_markup(tmp_path, kind):
    nasty, plain = HOSTILE[kind], "qqq"

    def made(word):
        classes = (word, f"{word} 2", "c")
        name = re.sub(r"[\s/]", "", word)
        found = full_report(classes, model=word, shift=name, unseen=f"{name}-unseen")
        found.error_analysis = {of: errors(1200, 0.6, classes, seed=place) for place, of in enumerate(found.results)}
        for row in found.shared_images:
            row |= {"set": word, "with": word, "first": [word], "means": word}
        found.results["photo"].source = {"path": word}
        found.settings["versions"] = {word: word}
        return found

    usual, page = Reader(report_page([made(plain)])), report_page([made(nasty)])
    shown = Reader(page)
    assert (shown.tags, shown.attributes, shown.comments) == (usual.tags, usual.attributes, usual.comments)
    assert shown.links == usual.links and page.count("<script>") == 1


def folder_of_images(folder, n=24):
    rows = image_dataset(n, seed=1)
    for number, row in enumerate(rows):
        place = folder / CLASSES[row["label"]]
        place.mkdir(parents=True, exist_ok=True)
        row["image"].save(place / f"{number}.png")
    return folder


def test_a_run_and_an_evaluation_of_it_say_the_same(tiny_clip, tmp_path, monkeypatch):
    """With pictures and names of files, and the same bytes when it is done again."""
    monkeypatch.chdir(tmp_path)
    test = folder_of_images(tmp_path / "images")
    own = load_benchmark(test, role="id", name="images", class_names=CLASSES, templates=TEMPLATES)
    facts = {"method": "flyp", "class_names": CLASSES, "templates": TEMPLATES, "model": tiny_clip, "processor": tiny_processor()}
    facts |= {"detector": "none", "validation": benchmark("validation", 11), "evaluator": evaluator([own]), "shared_images": []}
    for name in ("run", "again"):
        finish_checkpoint(tmp_path / name, **facts)
    run, again = ((tmp_path / name / PAGE_FILE).read_bytes() for name in ("run", "again"))
    assert run == again and PAGE_FILE not in chosen_files(tmp_path / "run")
    command.run(["run", "--eval_datasets", "images", "--output_dir", "out", "--batch_size", "8", "--disable_tqdm"])
    (trained,), (measured,) = (load_reports(tmp_path / name / "evaluation.json") for name in ("run", "out"))
    assert measured.error_analysis == trained.error_analysis
    pages = [check_sound((tmp_path / name / PAGE_FILE).read_text(encoding="utf-8")) for name in ("run", "out")]
    part = trained.error_analysis["images"]
    worst = [item["row"] for item in part["worst"]][:MISTAKES]
    rows = worst + [item["row"] for item in part["most_confident"] if item["row"] not in worst][:MISTAKES]
    pictures = [[attributes["src"] for _, attributes, _ in page.all("img")] for page in pages]
    assert pictures[0] == pictures[1] and len(pictures[0]) == len(rows) > 4 and len(set(pictures[0])) > 4
    sections = [[text for _, attributes, text in page.all("section") if attributes["id"] in ("errors", "calibration")] for page in pages]
    assert sections[0] == sections[1] and part["worst"][0]["file"] in sections[0][0]
    assert re.fullmatch(rf"({'|'.join(CLASSES)})/\d+\.png", part["worst"][0]["file"])


def test_pictures_are_few_and_small(tmp_path):
    sets = {name: benchmark("shift", 400, name=name) for name in ("a", "b", "c", "d", "e", "f", "g", "h")}
    made = report(shifts=tuple((name, 0.5) for name in sets))
    made.error_analysis = {name: errors(400, 0.4, seed=place) for place, name in enumerate(sets)}
    write_page(tmp_path, tmp_path, [made], sets.values())
    page = check_sound((tmp_path / PAGE_FILE).read_text(encoding="utf-8"))
    shown = [attributes["alt"] for _, attributes, _ in page.all("img")]
    assert len(shown) == PICTURES and {re.search(" of ([a-h]),", alt)[1] for alt in shown} == set(sets)
    assert (tmp_path / PAGE_FILE).stat().st_size < 900_000


def test_a_page_of_somebody_else_is_kept(tiny_clip, tmp_path):
    facts = {"method": "flyp", "class_names": CLASSES, "templates": TEMPLATES, "model": tiny_clip, "processor": tiny_processor()}
    facts |= {"detector": "none", "evaluator": evaluator([benchmark("id", 9)])}
    (tmp_path / PAGE_FILE).write_text("<h1>mine</h1>")
    with pytest.warns(UserWarning, match=PAGE_FILE):
        finish_checkpoint(tmp_path, **facts)
    assert (tmp_path / PAGE_FILE).read_text() == "<h1>mine</h1>" and (tmp_path / GENERATED_PAGE).is_file()
    (tmp_path / PAGE_FILE).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finish_checkpoint(tmp_path, **facts)
    assert (tmp_path / PAGE_FILE).is_file() and not (tmp_path / GENERATED_PAGE).exists()


def test_a_calibration_says_what_was_measured_before_or_measures_again(tiny_clip, tmp_path):
    facts = {"method": "flyp", "class_names": CLASSES, "templates": TEMPLATES, "model": tiny_clip, "processor": tiny_processor()}
    test, validation = benchmark("id", 40), benchmark("validation", 30, name="validation")
    finish_checkpoint(tmp_path, detector="none", evaluator=evaluator([test]), **facts)
    page = (tmp_path / PAGE_FILE).read_text(encoding="utf-8")
    assert check_sound(page).all("img") and "Measured before" not in page
    assert abs(recalibrate(tmp_path, validation, progress=False).fitted - 1) > 1e-3
    page = check_sound((tmp_path / PAGE_FILE).read_text(encoding="utf-8"))
    content = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert page.all("data", **{"data-path": "/reports/0/settings/temperature_folded_since"}) and not page.all("img")
    check_numbers(page, content)
    recalibrate(tmp_path, validation, [test], progress=False)
    page = check_sound((tmp_path / PAGE_FILE).read_text(encoding="utf-8"))
    check_numbers(page, json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8")))
    assert page.all("img") and not page.all("data", **{"data-path": "/reports/0/settings/temperature_folded_since"})
    # Nothing changes, and what is shown stays.
    before = (tmp_path / PAGE_FILE).read_bytes()
    assert abs(recalibrate(tmp_path, validation, progress=False).fitted - 1) < 1e-6
    assert (tmp_path / PAGE_FILE).read_bytes() == before
