# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a card says of errors: only what chance does not explain, and nothing where there is nothing to say."""

import numpy as np
from helpers.cards import benchmark, report, tables
from helpers.reports import full_report

from hf_robustft.evaluation.error_analysis import analyse_errors
from hf_robustft.publishing.error_section import error_section
from hf_robustft.publishing.model_card import write_model_card


def with_errors(wrong, n=40, classes=4):
    """A report on a set of which the first class is taken for the second as often as said, and the others are right."""
    made = report(names=(("photo", "id"),))
    labels = np.repeat(np.arange(classes), n)
    predicted = labels.copy()
    predicted[:wrong] = 1
    made.results["photo"].accuracy = float((labels == predicted).mean())
    names = ("a|b", "dog", "owl", "bee")
    made.error_analysis = {"photo": analyse_errors(np.arange(len(labels)), labels, predicted, np.ones(len(labels)), np.ones(len(labels)), names)}
    return made


def test_what_chance_explains_is_not_said():
    assert error_section(report()) == "" == error_section(with_errors(0)) == error_section(with_errors(2))
    # A pair that occurs often enough, in a class that is not worse than the others by more than chance explains.
    few = error_section(with_errors(3))
    assert "less accurate" not in few and r"a\|b for dog (3)" in few
    said = error_section(with_errors(20))
    assert r"1 of 4 classes are less accurate than the whole by more than chance explains: a\|b 50 % of 40 images (34 to 66)" in said
    assert r"a\|b for dog (20)" in said and "photo (ID)" in said


def test_the_card_has_it_once_and_the_point_of_the_detector(tmp_path):
    made = with_errors(20)
    made.open_set = full_report().open_set
    made.open_set["unseen"]["id"] = "photo"
    (tmp_path / "thresholds.png").write_bytes(b"png")
    card = write_model_card(tmp_path, report=made, method="flyp", data=[benchmark("photo", "id")], settings={}).read_text(encoding="utf-8")
    assert card.count("### Where it errs") == 1 and "](thresholds.png)" in card
    chosen = made.open_set["unseen"]["threshold_curve"]["chosen"]
    for key, words in (("refusal", "are refused although"), ("acceptance", "of the images of unseen are accepted although")):
        row = chosen[key]
        numbers = [f"{100 * row[name]:.1f}" for name in ("share", "low", "high")]
        assert f"{numbers[0]} % (95 % interval {numbers[1]} to {numbers[2]})" in card and words in card
    assert all(len({len(row) for row in rows}) == 1 for rows in tables(tmp_path / "README.md"))
    plain = write_model_card(tmp_path / "plain", report=report(), method="flyp", data=[benchmark("photo", "id")], settings={}).read_text(encoding="utf-8")
    assert "Where it errs" not in plain and "thresholds.png" not in plain
