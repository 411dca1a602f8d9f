# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Rules of selection against brute force on made-up measurements, and what each of them can see."""

import copy
import itertools
import random
from collections.abc import Mapping
from statistics import fmean

import pytest

from hf_robustft.comparison.frontier import Point, at_equal_id, frontier
from hf_robustft.comparison.runs import Candidate
from hf_robustft.comparison.selection import (
    RULES,
    NotLookedAt,
    View,
    choose,
    find_rule,
    regret,
    reported,
    rotations,
    spread_over_rates,
    summarise_regret,
)

ROLES = {"val": "validation", "test": "id", "a": "shift", "b": "shift", "c": "shift", "new": "concepts"}
RATES = (1e-3, 1e-4, 3e-4)
METHODS = ("carot", "flyp", "tracer")
NAMES = [*(name for name in RULES if name != "shift"), *rotations("shift", ROLES)]
METRICS = ("accuracy", "nll", "ece", "brier")
#: Of each set: few enough for a standard error of more than a tenth of what is gained.
IMAGES = 12


def made_up(seed: int, coarse: bool = False):
    """Numbers of three methods at three rates, and of the zero-shot model; coarse ones tie often."""
    rng = random.Random(seed)

    def number(metric: str) -> float:
        return rng.randrange(4) / 4 if coarse else rng.random()

    found = {
        Candidate(method, rate): {name: {"n": IMAGES, **{metric: number(metric) for metric in METRICS}} for name in ROLES}
        for method in METHODS
        for rate in RATES
    }
    return found, {name: {metric: number(metric) / 2 for metric in METRICS} for name in ROLES}


def by_brute_force(rule, candidates, start, pool):
    """The choice among `pool`, which has another order than by rate, by the words of the rule."""

    def mean(item, names, metric):
        return sum(candidates[item][name][metric] for name in names) / len(names)

    def places(item, names):
        """Sum of its places in the two orders; one place for equal values."""
        place = 0
        for name in names:
            better = sorted({candidates[one][name]["accuracy"] for one in pool}, reverse=True)
            lower = sorted({candidates[one][name]["nll"] for one in pool})
            accuracies = [candidates[one][name]["accuracy"] for one in pool]
            losses = [candidates[one][name]["nll"] for one in pool]
            place += sum(accuracies.count(value) for value in better[: better.index(candidates[item][name]["accuracy"])])
            place += sum(losses.count(value) for value in lower[: lower.index(candidates[item][name]["nll"])])
        return place

    if rule == "id_within" and len({item.method for item in pool}) == 1:
        best, zero = max(mean(item, ["val"], "accuracy") for item in pool), start["val"]["accuracy"]
        keeps = [item for item in pool if mean(item, ["val"], "accuracy") - zero >= 0.9 * (best - zero)]
        if best <= zero:
            keeps = [item for item in pool if mean(item, ["val"], "accuracy") == best]
        return min(keeps, key=lambda item: item.learning_rate)
    if rule == "id_nearest":
        best, zero = max(candidates[item]["val"]["accuracy"] for item in pool), start["val"]["accuracy"]
        error = max((best * (1 - best) / IMAGES) ** 0.5, 1 / IMAGES)
        keeps = [
            (abs(candidates[item]["val"]["nll"] - start["val"]["nll"]), METHODS.index(item.method), item.learning_rate, item)
            for item in pool
            if best - candidates[item]["val"]["accuracy"] <= max(error, 0.1 * (best - zero)) + 1e-9
        ]
        return min(keeps)[-1]
    names = {"id": ["val"], "id_within": ["val"], "concepts": ["new"], "oracle": ["a", "b", "c"]}.get(rule, [rule[6:]])
    if rule in ("id", "id_within", "oracle"):
        scores = {item: mean(item, names, "accuracy") for item in pool}
        best = max(scores.values())
    else:
        scores = {item: -places(item, names) for item in pool}
        best = max(scores.values())
    tied = [item for item in pool if scores[item] == best]
    if len({item.method for item in pool}) == 1:
        return min(tied, key=lambda item: item.learning_rate)
    return min(tied, key=lambda item: mean(item, names, "nll"))


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("rule", NAMES)
def test_choices_are_those_of_brute_force(rule, coarse):
    for seed in range(40):
        candidates, start = made_up(seed, coarse)
        choice = choose(rule, candidates, ROLES, start)
        picks = {
            method: by_brute_force(rule, candidates, start, [item for item in candidates if item.method == method])
            for method in METHODS
        }
        assert choice.by_method == picks
        assert choice.candidate == by_brute_force(rule, candidates, start, list(picks.values()))
        assert choice.rule == rule
        # Those that would be chosen instead if their NLL were the lowest; it counts by itself in the others.
        if rule in ("id", "id_within", "oracle"):
            sets = choice.looked_at
            accuracies = {item: sum(candidates[item][name]["accuracy"] for name in sets) for item in picks.values()}
            assert choice.tied == tuple(item for item in accuracies if item != choice.candidate and accuracies[item] == max(accuracies.values()))


def test_means_over_seeds_tie_whatever_the_order_of_the_sum():
    """0.1, 0.2 and 0.6 add up to another float than 0.6, 0.2 and 0.1; they are as good."""
    roles, tied = {"val": "validation", "a": "shift", "new": "concepts"}, 0
    rng = random.Random(0)
    for _ in range(200):
        values = [rng.randrange(60) / 60 for _ in range(3)]
        small, large = (values[0] + values[1] + values[2]) / 3, (values[2] + values[1] + values[0]) / 3
        tied += small != large
        numbers = {Candidate("carot", 1e-4): small, Candidate("carot", 1e-3): large}
        candidates = {item: {name: {"accuracy": value, "nll": value, "n": 60} for name in roles} for item, value in numbers.items()}
        for rule in ("id", "id_within", "id_nearest", "shift:a", "concepts", "oracle"):
            start = {"val": {"accuracy": 0.0, "nll": 2.0}}
            assert choose(rule, candidates, roles, start).candidate.learning_rate == 1e-4
        line = [Point(item, value, shift) for (item, value), shift in zip(numbers.items(), (0.2, 0.4), strict=True)]
        assert at_equal_id(line, small) == at_equal_id(line, large) == pytest.approx(0.3)
    assert tied > 10


def test_exactly_ninety_percent_of_the_gain_is_kept():
    roles = {"val": "validation"}
    for start in range(91):
        for gain in range(10, 101 - start, 10):
            reached = {1e-3: start + gain, 1e-4: start + gain * 9 // 10, 1e-5: start + gain * 9 // 10 - 1}
            candidates = {Candidate("carot", rate): {"val": {"accuracy": value / 100}} for rate, value in reached.items()}
            assert choose("id_within", candidates, roles, {"val": {"accuracy": start / 100}}).candidate.learning_rate == 1e-4


def test_a_smaller_rate_wins_a_tie_whatever_the_order():
    same = {"val": {"accuracy": 0.5, "nll": 1.0, "n": 10}, "a": {"accuracy": 0.5, "nll": 1.0}, "new": {"accuracy": 0.5, "nll": 1.0}}
    for order in itertools.permutations(RATES):
        candidates = {Candidate("carot", rate): same for rate in order}
        roles = {"val": "validation", "a": "shift", "new": "concepts"}
        for rule in ("id", "id_within", "id_nearest", "shift:a", "concepts", "oracle"):
            assert choose(rule, candidates, roles, {"val": {"accuracy": 0.1, "nll": 2.0}}).candidate.learning_rate == 1e-4


@pytest.mark.parametrize("rule", ["id", "id_within", "shift:a", "concepts", "oracle"])
def test_of_methods_that_tie_the_lower_nll_is_chosen_whatever_the_order(rule):
    """On few images many methods have the same accuracy, and the first of a list is no better than the last."""
    # Each is ahead of the other on one of two sets, so that the sums of ranks tie too.
    numbers = {"carot": {"accuracy": 0.5, "nll": 1.5}, "ft": {"accuracy": 0.5, "nll": 1.25}}
    if rule in ("shift:a", "concepts"):
        numbers = {"carot": {"accuracy": 0.6, "nll": 1.5}, "ft": {"accuracy": 0.5, "nll": 1.25}}
    roles = {"val": "validation", "a": "shift", "new": "concepts"}
    for order in itertools.permutations(numbers):
        candidates = {Candidate(name, 1e-4): dict.fromkeys(roles, numbers[name]) for name in order}
        assert choose(rule, candidates, roles, {"val": {"accuracy": 0.1}}).candidate.method == "ft"
    assert "NLL" in find_rule(rule).says


def test_id_nearest_takes_the_one_that_moved_least_of_those_as_good_as_the_best():
    """Where all are right on a few images, the surest is no better; of more images less is as good."""

    def numbers(accuracy, nll, n):
        return {"val": {"accuracy": accuracy, "nll": nll, "n": n}}

    def chosen(n, *reached):
        candidates = {Candidate(method, 1e-4): numbers(*of, n) for method, of in zip(METHODS, reached, strict=False)}
        return choose("id_nearest", candidates, {"val": "validation"}, numbers(0.8, 0.5, n)).candidate.method

    assert chosen(35, (1.0, 0.001), (1.0, 0.05), (0.8, 0.5)) == "flyp"
    # One image of 35 less, which a standard error of nothing would not allow; two are more than a tenth of the gain.
    assert chosen(35, (1.0, 0.001), (34 / 35, 0.05)) == "flyp" and chosen(35, (1.0, 0.001), (33 / 35, 0.05)) == "carot"
    # Of 900 images one standard error of 90 % is one point; a tenth of the gain is one point too, of 10,000 the larger.
    assert chosen(900, (0.9, 0.2), (0.89, 0.3)) == "flyp" and chosen(900, (0.9, 0.2), (0.8899, 0.3)) == "carot"
    assert chosen(10_000, (0.9, 0.2), (0.89, 0.3)) == "flyp" and chosen(10_000, (0.9, 0.2), (0.8899, 0.3)) == "carot"
    # Nearer is nearer on either side.
    assert chosen(900, (0.9, 0.2), (0.9, 0.7), (0.9, 0.9)) == "flyp"
    with pytest.raises(ValueError, match="zero-shot"):
        choose("id_nearest", {Candidate("carot", 1e-4): numbers(0.9, 0.1, 9)}, {"val": "validation"})


def test_id_within_keeps_ninety_percent_of_the_gain():
    def numbers(accuracy):
        return {"val": {"accuracy": accuracy}}

    roles, start = {"val": "validation"}, numbers(0.5)
    candidates = {Candidate("carot", 1e-3): numbers(1.0), Candidate("carot", 1e-4): numbers(0.949)}
    assert choose("id_within", candidates, roles, start).candidate.learning_rate == 1e-3
    candidates[Candidate("carot", 1e-4)] = numbers(0.951)
    found = choose("id_within", candidates, roles, start)
    assert found.candidate.learning_rate == 1e-4 and not found.without_gain
    # Nothing gains: the least harm is chosen, not the smallest rate.
    candidates = {Candidate("carot", 1e-3): numbers(0.49), Candidate("carot", 1e-4): numbers(0.45)}
    for least in (0.5, 0.499):
        candidates[Candidate("carot", 1e-3)] = numbers(least)
        found = choose("id_within", candidates, roles, start)
        assert found.candidate.learning_rate == 1e-3 and found.without_gain and not choose("id", candidates, roles, start).without_gain
    with pytest.raises(ValueError, match="zero-shot"):
        choose("id_within", candidates, roles)


class Watched(dict):
    """A dict that notes the keys that are asked for."""

    def __init__(self, values, seen):
        super().__init__(values)
        self.seen = seen

    def __getitem__(self, key):
        self.seen.add(key)
        return super().__getitem__(key)

    def _all(self, *_):
        raise AssertionError("a rule went through everything")

    values = items = get = _all


@pytest.mark.parametrize("rule", NAMES)
def test_a_rule_sees_what_it_says_and_nothing_else(rule):
    candidates, start = made_up(1)
    sets, metrics = set(), set()

    def watched(measured):
        return Watched({name: Watched(numbers, metrics) for name, numbers in measured.items()}, sets)

    choice = choose(rule, {item: watched(numbers) for item, numbers in candidates.items()}, ROLES, watched(start))
    described = find_rule(rule)
    assert sets == set(choice.looked_at) == set(described.looks_at(ROLES))
    assert {ROLES[name] for name in sets} == {described.role}
    looked_at = {*described.metrics, *described.sees_too}
    assert metrics <= looked_at and not {"ece", "brier"} & looked_at
    # What it does not look at may be anything, or be missing.
    bare = {
        item: {name: {metric: numbers[name][metric] for metric in looked_at} for name in choice.looked_at}
        for item, numbers in candidates.items()
    }
    assert choose(rule, bare, ROLES, {name: start[name] for name in choice.looked_at}) == choice


def test_a_view_refuses_what_is_not_looked_at():
    view = View({"val": {"accuracy": 1.0, "ece": 0.0}, "a": {}}, ["val"], "id", "CaRot, 1e-3", ["accuracy"])
    assert view["val"]["accuracy"] == 1.0 and list(view) == ["val"]
    for look in (
        lambda: view["a"],
        lambda: view.get("a"),
        lambda: "a" in view,
        lambda: view["val"]["ece"],
        lambda: view["val"].get("ece"),
    ):
        with pytest.raises(NotLookedAt, match="id"):
            look()


@pytest.mark.parametrize("through", [dict, copy.copy, copy.deepcopy, vars, lambda view: {**view}])
def test_nothing_else_is_in_a_view_however_it_is_taken_apart(through):
    secret = 0.123456
    view = View({"val": {"accuracy": 1.0, "ece": secret}, "a": {"accuracy": secret}}, ["val"], "id", "CaRot", ["accuracy"])

    def walked(value):
        found = list(value.items()) if isinstance(value, Mapping) else list(vars(value).items()) if hasattr(value, "__dict__") else []
        if isinstance(value, View):
            found += vars(value).items()
        return [value, *(each for _, inner in found for each in walked(inner))]

    assert secret not in [item for item in walked(through(view)) if isinstance(item, float)]
    assert 1.0 in walked(through(view))


def test_a_shifted_set_that_has_chosen_is_not_reported():
    roles = {"val": "validation", "test": "id", "a": "shift", "b": "shift"}
    assert reported(find_rule("shift:a"), roles, ["a"]) == {**roles, "a": "validation"}
    assert reported(find_rule("oracle"), roles, ["a", "b"]) == roles
    with pytest.raises(ValueError, match="'shift:a' looks at a"):
        reported(find_rule("shift:a"), {"a": "shift", "val": "validation"}, ["a"])


def test_what_was_not_measured_is_named():
    candidates, start = made_up(0)
    with pytest.raises(ValueError, match="concepts"):
        choose("concepts", candidates, {name: role for name, role in ROLES.items() if role != "concepts"})
    with pytest.raises(ValueError, match="'new'.*CaRot, 1e-3"):
        choose("concepts", {Candidate("carot", 1e-3): {"val": {}}}, ROLES)
    with pytest.raises(ValueError, match="a, b, c"):
        choose("shift:twemoji", candidates, ROLES)
    with pytest.raises(ValueError, match="shift:a, shift:b, shift:c"):
        choose("shift", candidates, ROLES)
    for name in ("best", "id:a", "shift:", "oracle:a"):
        with pytest.raises(ValueError, match="id_within"):
            find_rule(name)
    with pytest.raises(ValueError, match="candidate"):
        choose("id", {}, ROLES)


@pytest.mark.parametrize("rule", RULES)
def test_regret_is_that_of_brute_force(rule):
    for seed in range(10):
        candidates, start = made_up(seed)
        losses = regret(rule, candidates, ROLES, start)
        assert len(losses) == (len(METHODS) + 1) * (3 if rule == "shift" else 1)
        for loss in losses:
            judged = [name for name in "abc" if rule != "shift" or name != loss.rule[6:]]
            assert list(loss.judged_on) == judged
            pool = [item for item in candidates if loss.method in (None, item.method)]
            accuracy, nll = (
                {item: fmean(candidates[item][name][metric] for name in judged) for item in pool}
                for metric in ("accuracy", "nll")
            )
            assert loss.accuracy == max(accuracy.values()) - accuracy[loss.chosen] >= 0
            assert loss.nll == nll[loss.chosen] - min(nll.values()) >= 0
            choice = choose(loss.rule, candidates, ROLES, start)
            assert loss.chosen == (choice.candidate if loss.method is None else choice.by_method[loss.method])
            if rule == "oracle":
                assert loss.accuracy == 0


def test_regret_is_summarised_over_suites():
    suites = [made_up(seed) for seed in range(5)]
    losses = [loss for candidates, start in suites for loss in regret("shift", candidates, ROLES, start)]
    found = summarise_regret(losses)
    assert set(found) == {*METHODS, None}
    for method, numbers in found.items():
        mine = [loss for loss in losses if loss.method == method]
        assert numbers["n"] == len(mine) == 15
        assert numbers["accuracy_mean"] == fmean(loss.accuracy for loss in mine)
        assert numbers["accuracy_worst"] == max(loss.accuracy for loss in mine)
        assert numbers["nll_worst"] == max(loss.nll for loss in mine)


def test_no_set_is_left_to_judge_a_rule_that_looks_at_the_only_one():
    roles = {"val": "validation", "a": "shift"}
    with pytest.raises(ValueError, match="shift:a"):
        regret("shift", made_up(0)[0], roles)


def test_spread_is_the_range_over_rates():
    candidates, _ = made_up(3)
    for method, numbers in spread_over_rates(candidates, ROLES).items():
        means = [fmean(candidates[Candidate(method, rate)][name]["nll"] for name in "abc") for rate in RATES]
        assert numbers["rates"] == 3 and numbers["nll"] == max(means) - min(means)


def test_frontier_has_a_line_for_each_method_and_variant():
    points = [Point(Candidate("carot", rate), rate, 1.0) for rate in RATES]
    points += [Point(Candidate("wise_ft", rate, "alpha 0.5"), rate, 1.0) for rate in RATES]
    points += [Point(Candidate("wise_ft", rate), rate, 1.0) for rate in RATES[:2]]
    lines = frontier(points)
    assert {name: len(line) for name, line in lines.items()} == {"carot": 3, "wise_ft, alpha 0.5": 3, "wise_ft": 2}
    assert [point.candidate.learning_rate for point in lines["carot"]] == sorted(RATES)


def test_interpolation_at_equal_accuracy_is_that_of_brute_force():
    rng = random.Random(0)
    for _ in range(50):
        line = [Point(Candidate("carot", rate), rng.random(), rng.random()) for rate in RATES]
        ordered = sorted(line, key=lambda point: point.id_accuracy)
        for left, right in itertools.pairwise(ordered):
            share = rng.random()
            at = left.id_accuracy + share * (right.id_accuracy - left.id_accuracy)
            assert at_equal_id(line, at) == pytest.approx(left.value + share * (right.value - left.value), abs=1e-9)
        assert at_equal_id(line, ordered[0].id_accuracy) == pytest.approx(ordered[0].value)
        assert at_equal_id(line, ordered[-1].id_accuracy) == pytest.approx(ordered[-1].value)
        assert at_equal_id(line, ordered[0].id_accuracy - 1e-6) is None
        assert at_equal_id(line, ordered[-1].id_accuracy + 1e-6) is None
    assert at_equal_id([], 0.5) is None
    twice = [Point(Candidate("a", rate), 0.5, value) for rate, value in ((1, 0.2), (2, 0.4))]
    assert at_equal_id(twice, 0.5) == pytest.approx(0.3)
