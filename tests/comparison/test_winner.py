# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The verdict of a comparison: what wins, by how much, and what may be chance, in words that follow from the numbers."""

import re
from dataclasses import replace

import pytest
from helpers.finished import VALIDATED, finished, finished_with_predictions, of_shift

from hf_robustft import load_comparison, read_runs, summarise
from hf_robustft.comparison.summary import save_comparison
from hf_robustft.comparison.tables import markdown_table, terminal_table
from hf_robustft.comparison.winner import find_winner, may_be_chance
from hf_robustft.evaluation.predictions import load_predictions


@pytest.mark.parametrize(
    ("validation", "start", "said", "unsaid"),
    [
        # All right, zero-shot too: nothing that the rule looks at tells one from another.
        (1.0, 1.0, "FLYP at 1e-3 cannot be told from it, nor can zero-shot. {tied} at 1e-3 is as accurate there, and the lower NLL decided", "more accurate"),
        (1.0, 0.6, "FLYP at 1e-3 cannot be told from it. {tied} at 1e-3 is as accurate there", "nor can"),
        (0.5, 0.9, "cannot be told from it. On the 120 images that the rule looked at, zero-shot is more accurate. {tied} at", "nor can"),
    ],
)
def test_a_choice_that_validation_images_do_not_support_is_said_to_be_one(tmp_path, validation, start, said, unsaid):
    for method in ("carot", "flyp"):
        finished_with_predictions(tmp_path / method, method, 1e-3, 0, (0.9, 0.6, 0.5, validation), VALIDATED)
    finished_with_predictions(tmp_path / "z", "zero_shot", None, None, (0.6, 0.4, 0.4, start), VALIDATED)
    # Lower confidences of the same images: only the NLL differs.
    made = load_predictions(tmp_path / "flyp")
    made.sets["held out"] = replace(made.sets["held out"], nll=load_predictions(tmp_path / "carot").sets["held out"].nll + 0.1)
    made.save(tmp_path / "flyp")
    summary = summarise(read_runs(sorted(tmp_path.iterdir())))
    assert summary["rule"]["name"] == "id_within" and summary["rule"]["chosen"] == "CaRot, 1e-3" and summary["rule"]["tied"] == ["FLYP, 1e-3"]
    words = summary["winner"]["words"]
    assert said.format(tied="FLYP") in words and unsaid not in words
    # A set of classes that were left out says nothing of it, and of one candidate only what it gains.
    alone = summarise(read_runs([tmp_path / "carot", tmp_path / "z"]))
    assert alone["rule"]["tied"] == [] and ("it cannot be told from zero-shot" in alone["winner"]["words"]) == (start == validation)


@pytest.mark.parametrize("gained", [0.0, 0.1])
def test_where_no_candidate_gains_on_validation_the_verdict_says_what_id_within_does_then(tmp_path, gained):
    for number, rate in enumerate((1e-5, 1e-4, 1e-3)):
        finished_with_predictions(tmp_path / f"{rate}", "flyp", rate, 0, (0.9, 0.6, 0.5, 0.5 + 0.05 * number + gained), VALIDATED)
    finished_with_predictions(tmp_path / "z", "zero_shot", None, None, (0.6, 0.4, 0.4, 0.6), VALIDATED)
    summary = summarise(read_runs(sorted(tmp_path.iterdir())))
    words = "no candidate gains over zero-shot: id_within took the best accuracy there"
    assert summary["rule"]["without_gain"] == (gained == 0) and summary["rule"]["chosen"] == "FLYP, 1e-3"
    for text in (summary["winner"]["words"], markdown_table(summary), " ".join(terminal_table(summary).split())):
        assert (f"On the 120 images that the rule looked at, {words}" in text) == (gained == 0)
    # The rule in words, which the tables show, says it in any case.
    assert "where none of its rates gains there, the best accuracy" in " ".join(markdown_table(summary).split())
    of_lists = may_be_chance({**summary, "measure": "map", "rule": {"name": "id_within", "without_gain": True}})
    assert "On what the rule looked at" in of_lists and "the best mAP there" in of_lists


def test_of_many_that_are_better_the_furthest_ahead_are_named(tmp_path):
    rates = (1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 6e-4)
    for number, rate in enumerate(rates):
        accuracy = 0.4 if number == 0 else 0.5 + 0.05 * number
        finished_with_predictions(tmp_path / f"{rate}", "carot", rate, 0, (0.9, accuracy, accuracy, 0.95 - 0.1 * number), VALIDATED)
    words = summarise(read_runs(sorted(tmp_path.iterdir())), "id")["winner"]["words"]
    assert "The rule id chooses CaRot at 1e-4" in words and "and 2 more are better there" in words
    named = [words.index(f"CaRot at {rate} (+") for rate in ("6e-4", "5e-4", "4e-4")]
    assert named == sorted(named) and "CaRot at 2e-4 (" not in words


def test_a_choice_that_is_worse_than_zero_shot_is_not_what_is_said_first(tmp_path):
    for method, accuracies in (("carot", (0.9, 0.4, 0.3, 0.9)), ("flyp", (0.9, 0.35, 0.3, 0.8)), ("zero_shot", (0.6, 0.8, 0.7, 0.6))):
        rate, seed = (None, None) if method == "zero_shot" else (1e-3, 0)
        finished_with_predictions(tmp_path / method, method, rate, seed, accuracies, VALIDATED)
    summary = summarise(read_runs(sorted(tmp_path.iterdir())))
    assert summary["winner"]["candidate"] == "CaRot, 1e-3" and summary["winner"]["zero_shot_is_better"]
    first = "Zero-shot is better under shift (mean of 2 sets) than what the rule id_within chooses, CaRot at 1e-3: 35.0 %, -40.0"
    assert summary["winner"]["words"].startswith(first) and terminal_table(summary, 160).startswith(first)


#: Accuracy under shift of zero-shot, CaRot and FLYP; whether it is clear, and what is said.
WINNERS = [
    (0.40, 0.50, 0.45, True, "CaRot at 1e-3 is ahead under shift (mean of 2 sets): 50.0 %, +10.0 (95 % interval +10.0 to +10.0) over zero-shot."),
    (0.40, 0.50, 0.50, False, "FLYP at 3e-4 cannot be told from it."),
    (0.50, 0.50, 0.40, False, "No candidate is ahead of zero-shot under shift (mean of 2 sets): the highest, CaRot at 1e-3, has 50.0 %, which cannot be told from zero-shot: +0.0"),
    (0.60, 0.50, 0.40, False, "-10.0 (95 % interval -10.0 to -10.0) against zero-shot, which is better."),
]  # fmt: skip


@pytest.mark.parametrize(("zero_shot", "carot", "flyp", "is_clear", "words"), WINNERS)
def test_the_winner_has_margin_and_noise(tmp_path, zero_shot, carot, flyp, is_clear, words):
    rows = [("a", "carot", 1e-3, 0, (0.9, carot, carot)), ("b", "flyp", 3e-4, 0, (0.9, flyp, flyp))]
    summary = summarise(of_shift(tmp_path, rows, baseline=(0.9, zero_shot, zero_shot)))
    winner = summary["winner"]
    assert (winner["candidate"], winner["is_clear"], winner["chosen_by"]) == ("CaRot, 1e-3", is_clear, None)
    assert words in winner["words"]
    assert "not what another seed would give" in winner["words"]
    # Who chooses by the sets that are reported is told so.
    assert "No rule chose it" in winner["words"]
    bold = re.findall(r"^\| \*\*(.*?)\*\* ", markdown_table(summary), flags=re.M)
    assert bold == (["CaRot, 1e-3"] if is_clear else [])


@pytest.mark.parametrize(("right", "is_said"), [(0.27, True), (0.6, False)])
def test_a_winner_that_guesses_is_said_to(tmp_path, right, is_said):
    """The highest of several that have learned nothing is no result."""
    finished(tmp_path / "a", "carot", accuracies=(0.9, right, 0.7), baseline=(0.9, 0.1, 0.1), n=60)
    summary = summarise(read_runs([tmp_path / "a"]))
    (shifted,) = (item for item in summary["data"]["sets"] if item["name"] == "sketch")
    said = f"On sketch it cannot be told from guessing, which gets {100 / shifted['n_classes']:.1f} %."
    assert (said in summary["winner"]["words"]) == is_said


@pytest.mark.parametrize(("right", "frequent", "said"), [(0.6, 0.65, "cannot be told from"), (0.5, 0.65, "is no better than"), (0.6, 0.25, None), (0.6, None, None)])
def test_a_winner_that_may_always_give_the_most_frequent_class_is_said_to(tmp_path, right, frequent, said):
    answers = {"class": "cat", "majority": "cat", "share": 0.5, "label_share": 0.4, "majority_share": frequent}
    finished(tmp_path / "a", "carot", accuracies=(0.9, right, 0.9), baseline=(0.9, 0.1, 0.1), n=200, predictions=None if frequent is None else answers)
    summary = summarise(read_runs([tmp_path / "a"]))
    words = summary["winner"]["words"]
    assert ("On " in words) == (said is not None) and ("majority_share" in summary["data"]["sets"][1]) == (said is not None)
    if said:
        assert f"On sketch it {said} always giving the most frequent class, which gets 65.0 %." in words
    save_comparison(summary, tmp_path / "comparison.json")
    assert load_comparison(tmp_path)["data"] == summary["data"]


#: Differences from zero-shot and from the highest candidate, as (mean, beyond noise): of each of the others the same; what is said and what is not.
SENTENCES = [
    ([(0.1, None)], [(-0.1, None)], "A at 1e-3 is the highest in", "ahead"),
    ([(-0.1, None)], [(-0.1, None)], "No candidate is ahead of zero-shot", "the highest in"),
    # Two seeds far apart: the highest may be chance, and another is ahead for sure.
    ([(0.1, False), (0.09, True)], [(-0.01, False)], "A at 1e-3 is the highest", "ahead"),
    ([(0.1, False), (0.09, False)], [(-0.01, False)], "No candidate is ahead of zero-shot", "A at 1e-3 is"),
    ([(0.1, True), (0.1, True)], [(0.0, False)], "A at 1e-3 is the highest", "ahead"),
    ([(0.1, True), (0.0, False)], [(-0.1, True)], "A at 1e-3 is ahead", "is the highest in"),
    ([(0.1, True), (0.0, False)], [(-0.1, False), (-0.1, None), (-0.1, True)], "B1 at 1e-3 cannot be told from it. How far chance moves the difference from B2 at 1e-3 is not known", "behind"),
    ([(0.1, True)], [], "A at 1e-3 has 50.0 %", "ahead"),
]  # fmt: skip


@pytest.mark.parametrize(("gains", "lags", "said", "unsaid"), SENTENCES)
def test_the_winner_is_said_as_it_is(gains, lags, said, unsaid):
    def differing(mean, beyond):
        return {"mean": mean, "se": None if beyond is None else 0.01, "low": mean, "high": mean, "beyond_noise": beyond}

    def row(name, gain):
        found = {"method": name, "method_label": name, "label": f"{name}, 1e-3", "learning_rate": 1e-3, "variant": "", "seeds": [0]}
        return found | {"id_mean": {"accuracy": {"mean": 0.5}}, "against_zero_shot": {"id_mean": {"accuracy": differing(*gain)}}}

    rows = [row("A", gains[0]), *(row(f"B{k}", gains[-1]) for k, _ in enumerate(lags, 1))]
    for other, lag in zip(rows[1:], lags, strict=True):
        other["against_winner"] = {"id_mean": {"accuracy": differing(*lag)}}
    summary = {"decided_on": "id_mean", "candidates": rows, "data": {"sets": [{"name": "photo", "role": "id"}]}}
    words = find_winner(summary, "A, 1e-3", None)["words"]
    assert said in words and unsaid not in words


def test_what_else_moved_is_said_with_its_direction(tmp_path):
    samples = {key: [0.0, 0.001, 0.002] for key in ("accuracy", "ece", "nll")}
    finished(tmp_path / "a", accuracies=(0.9, 0.5, 0.5), draws=samples)
    finished(tmp_path / "z", "zero_shot", None, accuracies=(0.8, 0.4, 0.4), draws=samples, ece=0.02, nll=1.5)
    words = summarise(read_runs([tmp_path / "a", tmp_path / "z"]))["winner"]["words"]
    assert (
        "Better than zero-shot too: NLL under shift -0.250, accuracy in distribution +10.0 and NLL in distribution -0.250."
        in words
    )
    assert "Worse than zero-shot: ECE under shift +6.2 and ECE in distribution +6.2." in words
    # Of a candidate that loses accuracy nothing else is better "too".
    finished(tmp_path / "b", accuracies=(0.7, 0.3, 0.3), draws=samples)
    words = summarise(read_runs([tmp_path / "b", tmp_path / "z"]))["winner"]["words"]
    assert "Better than zero-shot: NLL under shift -0.250 and NLL in distribution -0.250." in words
