# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Classes gained and forgotten, risk against coverage, and the worst mistakes, against loops over the images."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.predictions import NAMES, predictions, set_of

from hf_robustft.comparison.per_image import forgotten, per_class, risk_coverage, worst_mistakes
from hf_robustft.comparison.statistics import paired_difference
from hf_robustft.evaluation.predictions import SetPredictions

ARRAYS = ("row", "predicted", "confidence", "label", "nll", "brier", "group")


def runs_of(*seeds, right=0.6, **more):
    return [predictions(set_of("a", 60, seed, right, images=1, **more), set_of("b", 40, seed, right, images=2, **more)) for seed in seeds]


def in_order(item, order):
    return replace(item, **{key: getattr(item, key)[order] for key in ARRAYS})


def test_classes_are_those_of_a_loop():
    runs, (before,) = runs_of(1, 2), runs_of(3)
    found = {change.name: change for change in per_class(runs, before, ["a", "b"], draws=50)}
    assert set(found) == set(NAMES)
    for name, change in found.items():
        marks = [item.label == name for item in before.sets.values()]
        after = np.array([np.concatenate([item.correct[of] for item, of in zip(run.sets.values(), marks, strict=True)]) for run in runs])
        old = np.concatenate([item.correct[of] for item, of in zip(before.sets.values(), marks, strict=True)])
        groups = [group for item, of in zip(before.sets.values(), marks, strict=True) for group in item.group[of]]
        assert (change.n, change.units) == (len(old), len(set(groups)))
        assert (change.before, change.after) == (pytest.approx(old.mean()), pytest.approx(after.mean()))
        bootstrap, found = paired_difference(after, old, groups, draws=50), change.difference
        assert found.mean == bootstrap.mean and -1 <= found.low <= found.mean <= found.high <= 1
        assert found.se >= bootstrap.se
    gains = [change.difference.mean for change in per_class(runs, before, ["a", "b"], draws=50)]
    assert gains == sorted(gains, reverse=True)


def test_a_class_that_another_set_spells_otherwise_is_one_class():
    """A trained head labels both sets, whose folders are called "owl" and "Owl"."""
    runs, (before,) = runs_of(1, 2), runs_of(3)

    def capital(run):
        words = {key: np.char.capitalize(getattr(run.sets["b"], key)) for key in ("label", "predicted")}
        return predictions(run.sets["a"], replace(run.sets["b"], **words))

    found = per_class([capital(run) for run in runs], capital(before), ["a", "b"], draws=20)
    assert found == per_class(runs, before, ["a", "b"], draws=20) and {change.name for change in found} == set(NAMES)


def test_what_was_forgotten_fell_beyond_noise():
    (before,) = runs_of(3, right=0.9)

    def without_owls(run):
        return predictions(*(replace(item, predicted=np.where(item.label == "owl", "cat", item.label)) for item in run.sets.values()))

    after = without_owls(before)
    found = forgotten([after], before, ["a", "b"])
    assert [change.name for change in found["classes"]] == ["owl"] and found["classes"][0].after == 0
    assert (found["judged"], found["by_chance"]) == (4, pytest.approx(0.1))
    worse = predictions(*(replace(item, predicted=np.roll(item.label, 1)) for item in before.sets.values()))
    lost = forgotten([worse], before, ["a", "b"])["sets"]
    assert {change.name for change in lost} == {"a", "b"}
    assert [change.difference.mean for change in lost] == sorted(change.difference.mean for change in lost)
    same = forgotten([before], before, ["a", "b"])
    assert not same["sets"] and not same["classes"]


def test_a_group_of_several_sets_is_drawn_as_one_where_a_class_has_enough():
    """Patients in four hospitals: all their images change together. Of a class that is one drawing each artist's is what there is."""
    item = set_of("a", 40, images=1, groups=0)
    item = replace(item, predicted=item.label)
    hospitals = [replace(item, name=name, group=np.array([f"{row % 8}" for row in range(40)])) for name in "abcd"]
    artists = [replace(item, name=name, group=item.label) for name in "abcd"]
    for sets, units in ((hospitals, lambda name: len({*hospitals[0].group[item.label == name]})), (artists, lambda name: 4)):
        for change in per_class([predictions(*sets)], predictions(*sets), "abcd", draws=20):
            assert change.units == units(change.name) >= 3 and change.n == 4 * (item.label == change.name).sum()
    # A set without groups has as many as images.
    (change, *_) = per_class([predictions(hospitals[0], replace(item, name="b"))], predictions(hospitals[0], replace(item, name="b")), "ab", draws=20)
    of = item.label == change.name
    assert change.units == of.sum() + len({*hospitals[0].group[of]})


@pytest.mark.parametrize("sets", [1, 4])
def test_what_has_not_changed_is_rarely_listed(sets):
    """Two models of the same skill, which fail on other patients: of the classes no more are listed than is said."""
    rng, listed, by_chance = np.random.default_rng(0), 0, 0.0
    label, patient = np.repeat([f"class {k}" for k in range(10)], 16), np.repeat(np.arange(80), 2)
    for _ in range(12):
        ease = rng.normal(0, 0.6, 80)
        runs = [[], []]
        skills = rng.normal(0, 0.8, (2, 80))
        for name in "abcd"[:sets]:
            for run, skill in zip(runs, skills, strict=True):
                right = (ease + skill)[patient] + rng.normal(0, 0.5, 160) > 0
                numbers = [np.full(160, 0.5)] * 3
                found = SetPredictions(name, "shift", np.arange(160), np.where(right, label, "x"), numbers[0], label, *numbers[1:], group=patient.astype(str))
                run.append(found)
        found = forgotten([predictions(*runs[0])], predictions(*runs[1]), "abcd"[:sets], draws=150)
        listed, by_chance = listed + len(found["classes"]), by_chance + found["by_chance"]
    # Three standard errors of a count of 3.
    assert by_chance == pytest.approx(3) and listed <= by_chance + 3 * np.sqrt(by_chance)


@pytest.mark.parametrize(
    "gained, lost, kept, low, high",
    [(6, 0, 0, 0.3626, 1.0), (0, 0, 6, -0.2450, 0.2450), (0, 6, 0, -1.0, -0.3626), (0, 5, 1, -1.0, -0.2096), (3, 2, 1, None, None)],
)
def test_intervals_of_a_handful_of_images_are_possible_ones(gained, lost, kept, low, high):
    """Six of six gained were "+100 (+100 to +100)", five of six lost "-125 to -42". By hand, from the table of Agresti and Min."""
    before = np.array([False] * gained + [True] * lost + [True] * kept)
    after = np.array([True] * gained + [False] * lost + [True] * kept)
    item = replace(set_of("a", len(before), images=1, groups=0), label=np.full(len(before), "owl"))
    sides = [predictions(replace(item, predicted=np.where(right, "owl", "cat"))) for right in (after, before)]
    (change,) = per_class(sides[:1], sides[1], ["a"])
    found, n, b, c = change.difference, len(before) + 2, gained + 0.5, lost + 0.5
    reach = 1.959964 * np.sqrt(b + c - (b - c) ** 2 / n) / n
    assert found.low <= max(-1, (b - c) / n - reach) + 1e-6 and found.high >= min(1, (b - c) / n + reach) - 1e-6
    assert found.beyond_noise == (found.low > 0 or found.high < 0) and -1 <= found.low <= found.mean <= found.high <= 1
    if 6 in (gained, lost, kept):
        # Where no bootstrap sample differs from another, the interval is that of the table.
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    elif low is not None:
        assert found.high <= 0


def test_groups_that_one_run_names_hold_for_the_others():
    runs, (before,) = runs_of(1, 2), runs_of(3)
    bare = predictions(*(replace(item, group=None) for item in before.sets.values()))
    assert per_class(runs, bare, ["a", "b"], draws=50) == per_class(runs, before, ["a", "b"], draws=50)
    assert forgotten(runs, bare, ["a", "b"], draws=50) == forgotten(runs, before, ["a", "b"], draws=50)


def test_a_class_with_one_drawing_is_not_judged():
    """Ten views of one drawing say nothing of how far chance moves its class, and two drawings nothing that can be relied on."""
    item = set_of("a", 40, images=1)
    item = replace(item, group=item.label)
    other = replace(item, predicted=np.roll(item.label, 1))
    found = forgotten([predictions(other)], predictions(item), ["a"])
    assert not found["classes"] and (found["judged"], found["by_chance"]) == (0, 0)
    assert all(change.difference.beyond_noise is None for change in per_class([predictions(other)], predictions(item), ["a"]))
    for drawings, lost in ((2, []), (3, ["bee", "cat", "dog", "owl"])):
        group = np.array([f"{name} {k % drawings}" for k, name in enumerate(item.label)])
        item, other = replace(item, predicted=item.label, group=group), replace(item, predicted=np.full(40, "fox"), group=group)
        found = forgotten([predictions(other)], predictions(item), ["a"])
        assert sorted(change.name for change in found["classes"]) == lost and found["judged"] == len(lost)


def test_risk_is_that_of_the_most_confident():
    runs = [set_of("a", 37, seed, images=1) for seed in (1, 2)]
    found = risk_coverage(runs, points=37)
    risks = [
        [np.mean(~run.correct[np.argsort(-run.confidence)[:k]]) for k in range(1, 38)]
        for run in runs
    ]
    assert found["risk"] == pytest.approx(np.mean(risks, axis=0)) and found["coverage"] == pytest.approx(np.arange(1, 38) / 37)
    areas = np.mean(risks, axis=1)
    assert found["aurc"] == {"mean": pytest.approx(areas.mean()), "sd": pytest.approx(areas.std(ddof=1))}
    assert found["risk"][-1] == pytest.approx(np.mean([1 - run.correct.mean() for run in runs]))
    few = risk_coverage(runs, points=5)
    assert len(few["coverage"]) == 5 and few["coverage"][-1] == 1 and few["aurc"] == found["aurc"]
    assert few["risk"] == pytest.approx([found["risk"][round(37 * share) - 1] for share in few["coverage"]])


def test_ties_are_kept_together():
    """The mean over all orders of what has the same confidence."""
    item = set_of("a", 8, images=1)
    item = replace(item, confidence=np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.2, 0.2, 0.1]))
    rng, risks = np.random.default_rng(0), []
    for _ in range(4000):
        order = rng.permutation(8)
        order = order[np.argsort(-item.confidence[order], kind="stable")]
        risks.append(np.cumsum(~item.correct[order]) / np.arange(1, 9))
    assert risk_coverage([item])["risk"] == pytest.approx(np.mean(risks, axis=0), abs=0.03)
    mirrored = risk_coverage([in_order(item, slice(None, None, -1))])
    assert mirrored["risk"] == pytest.approx(risk_coverage([item])["risk"], rel=1e-12)


def test_the_worst_mistakes_come_with_their_rows():
    """Rows are the numbers in the data, also where images before them could not be read; one of a group is shown."""
    item = replace(set_of("a", 50, images=1, groups=20), row=np.arange(50) * 3 + 7)
    wrong = sorted((-item.confidence[k], item.row[k], k) for k in range(50) if not item.correct[k])
    want, groups = [], set()
    for confidence, row, k in wrong:
        if item.group[k] not in groups and len(want) < 5:
            groups.add(item.group[k])
            texts = {"label": item.label[k], "predicted": item.predicted[k], "group": item.group[k]}
            want.append({"set": "a", "row": row, "confidence": pytest.approx(-confidence), **texts})
    assert worst_mistakes([item], 5) == want
    assert worst_mistakes([in_order(item, np.random.default_rng(0).permutation(50))], 5) == want
    alone = replace(item, group=None)
    assert [entry["row"] for entry in worst_mistakes([alone], 4)] == [row for _, row, _ in wrong[:4]]
    assert worst_mistakes([alone], 4)[0]["group"] is None


def test_mistakes_of_several_seeds_count_by_their_mean():
    item = set_of("a", 3, images=1, groups=0)
    label = np.array(["bee", "cat", "dog"])
    first = replace(item, label=label, predicted=np.array(["cat", "owl", "dog"]), confidence=np.array([0.9, 0.6, 0.9]))
    second = replace(item, label=label, predicted=np.array(["bee", "dog", "dog"]), confidence=np.array([0.9, 0.7, 0.9]))
    found = worst_mistakes([first, second])
    assert [(entry["row"], entry["predicted"]) for entry in found] == [(1, "dog"), (0, "cat")]
    assert [entry["confidence"] for entry in found] == [pytest.approx(0.65), pytest.approx(0.45)]
