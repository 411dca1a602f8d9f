# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What the rules choose in a comparison, and what methods reach at equal accuracy in distribution, as JSON types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from ..data.left_out import LEFT_OUT
from ..evaluation.open_set import DEFAULT_SCORE
from .concepts import with_concepts
from .frontier import Point, at_equal_id, frontier
from .measures import ACCURACY, Measure
from .rules import CONCEPTS, PLACES, RULES, find_rule, rotations
from .runs import ZERO_SHOT, Candidate, Comparison
from .selection import choose, regret, spread_over_rates

#: The rules that choose where none is named, first those that can be judged by more.
USUAL_RULES = (CONCEPTS, "id_within", "id")
#: Steps between the accuracies in distribution at which methods are compared.
_STEPS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_FEWEST_PLACES, _MOST_PLACES = 3, 8


def usable_rule(comparison: Comparison) -> str | None:
    """
    The first of the usual rules whose sets were measured in this `comparison`; `None` if there is none. What a rule looks at at least two
    candidates have, or the only one: twins for `concepts`, for the others predictions of validation images.
    """
    candidates, *others = _measured(comparison)
    for rule in USUAL_RULES:
        try:
            choice = choose(rule, candidates, *others, comparison.measure)
        except ValueError:
            continue
        if sum(all(name in sets for name in choice.looked_at) for sets in candidates.values()) >= min(2, len(candidates)):
            return rule
    return None


def choices(comparison: Comparison) -> dict[str, dict[str, Any]]:
    """
    What each rule chooses, of those whose sets were measured.

    Args:
        comparison ([`Comparison`]): The runs.

    Returns:
        `dict`: By rule, `shift:<set>` for each shifted set: `says`, `is_bound`, `looked_at`, `metric`, `overall` (a label),
        `by_method` (labels by `method_label`), and `regret`: of the choice over all methods, on the shifted sets that the rule
        does not look at, `{"judged_on", "accuracy", "nll"}`; `None` where there is none.
    """
    measure, (candidates, roles, baseline) = comparison.measure, _measured(comparison)
    found = {}
    for name in (
        item for rule in RULES if rule != "shift" or "shift" in roles.values() for item in rotations(rule, roles)
    ):
        try:
            choice = choose(name, candidates, roles, baseline, measure)
        except ValueError:
            # Nothing of what it looks at was measured.
            continue
        try:
            lost = next(loss for loss in regret(name, candidates, roles, baseline, measure) if loss.method is None)
        except ValueError:
            lost = None
        rule = find_rule(name, measure)
        found[name] = {
            "says": rule.says,
            "is_bound": rule.is_bound,
            "looked_at": list(choice.looked_at),
            "metric": choice.metric,
            "overall": choice.candidate.label,
            "by_method": {candidate.method_label: candidate.label for candidate in choice.by_method.values()},
            "regret": lost and {"judged_on": list(lost.judged_on), measure.key: lost.accuracy, "nll": lost.nll},
        }
    return found


def rule_of(name: str, comparison: Comparison) -> dict[str, Any]:
    """
    A rule and what it chose from.

    Args:
        name (`str`): Of the rule.
        comparison ([`Comparison`]): The runs.

    Returns:
        `dict`: `name`, `says`, `looked_at`, `grid` (rates by `method_label`) and `seeds` of the runs that it looked at, `chosen` (a
        label), `by_method` (labels by `method_label`), `tied` (labels of the choices of other methods that are as good, between
        which the NLL decided) and `without_gain` (as [`Choice`] has it).

    Raises:
        ValueError: If there is no such rule, or what it looks at was not measured.
    """
    candidates, roles, baseline = _measured(comparison)
    choice = choose(name, candidates, roles, baseline, comparison.measure)
    grid: dict[str, list[float | None]] = {}
    for candidate, sets in candidates.items():
        if all(item in sets for item in choice.looked_at):
            grid.setdefault(candidate.method_label, []).append(candidate.learning_rate)
    runs = [run for fold in comparison.twins for run in fold.runs] if LEFT_OUT in choice.looked_at else comparison.runs
    return {
        "name": name,
        "says": find_rule(name, comparison.measure).says,
        "looked_at": list(choice.looked_at),
        "grid": grid,
        "seeds": sorted({run.seed for run in runs if run.seed is not None}),
        "chosen": choice.candidate.label,
        "by_method": {candidate.method_label: candidate.label for candidate in choice.by_method.values()},
        "tied": [candidate.label for candidate in choice.tied],
        "without_gain": choice.without_gain,
    }


def spread(comparison: Comparison, roles: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """
    By `method_label` how much a method of this `comparison` depends on the rate, see `spread_over_rates`; without shifts empty.
    `roles` are those that the sets have here.
    """
    if "shift" not in roles.values():
        return {}
    candidates = _measured(comparison)[0]
    names = {}
    for candidate in candidates:
        (key,) = spread_over_rates({candidate: candidates[candidate]}, roles, comparison.measure)
        names[key] = candidate.method_label
    return {names[key]: values for key, values in spread_over_rates(candidates, roles, comparison.measure).items()}


def lines(rows: Iterable[Mapping[str, Any]], measure: Measure = ACCURACY) -> dict[str, list[list[float | None]]]:
    """The frontier of the `rows` of a summary by a `measure`: by `method_label` points `[ID accuracy, shift accuracy, shift NLL, rate]`."""
    found: dict[str, list[list[float | None]]] = {}
    for row in rows:
        if row["id_mean"] and row["shift_mean"]:
            point = [
                row["id_mean"][measure.key]["mean"],
                *(row["shift_mean"][key]["mean"] for key in (measure.key, "nll")),
            ]
            found.setdefault(row["method_label"], []).append([*point, row["learning_rate"]])
    return found


def at_equal_ids(rows: Sequence[Mapping[str, Any]], measure: Measure = ACCURACY) -> list[dict[str, Any]]:
    """
    What methods reach under shift at the same accuracy in distribution, interpolated between their rates.

    Args:
        rows (`Sequence[Mapping]`): The candidates of a summary.
        measure ([`Measure`], *optional*): What leads the comparison; accuracy by default.

    Returns:
        `list[dict]`: At round accuracies that at least two methods span, `id`, and by `method_label` the `accuracy` and `nll` under
        shift and the `auroc` of shifted images against the first set of unseen classes; `None` outside of what a method spans.
    """
    values = {
        measure.key: lambda row: row["shift_mean"][measure.key]["mean"],
        "nll": lambda row: row["shift_mean"]["nll"]["mean"],
    }
    if any(_auroc(row) is not None for row in rows):
        values["auroc"] = _auroc
    rows = [row for row in rows if row["id_mean"] and row["shift_mean"]]
    drawn = {}
    for metric, value in values.items():
        points = [
            Point(
                Candidate(row["method"], row["learning_rate"], row["variant"]),
                row["id_mean"][measure.key]["mean"],
                value(row),
            )
            for row in rows
            if value(row) is not None
        ]
        drawn[metric] = {line[0].candidate.method_label: line for line in frontier(points).values()}
    spans = sorted(
        [round(end(point.id_accuracy for point in line), PLACES) for end in (min, max)]
        for line in drawn[measure.key].values()
        if len(line) > 1
    )
    return [
        {
            "id": place,
            **{
                metric: {name: at_equal_id(line, place) for name, line in of.items() if len(line) > 1}
                for metric, of in drawn.items()
            },
        }
        for place in _places(spans)
    ]


def curves(comparison: Comparison, roles: Mapping[str, str]) -> dict[str, list[list[float]]]:
    """
    The accuracies on the way from the zero-shot weights to the fine-tuned ones, where a run has varied alpha.

    Args:
        comparison ([`Comparison`]): The runs.
        roles (`Mapping[str, str]`): Their sets, and the role that each has here.

    Returns:
        `dict`: By label points `[ID accuracy, shift accuracy, alpha]`, means over seeds.
    """
    sets = [[name for name, of in roles.items() if of == role] for role in ("id", "shift")]
    found = {}
    for candidate, runs in comparison.candidates.items() if all(sets) else ():
        points: dict[float, list[list[float]]] = {}
        for run in runs:
            for alpha, metrics in run.sweep.items():
                # The alphas may have been measured on other sets than the run was since.
                if all(f"{name}/accuracy" in metrics for names in sets for name in names):
                    points.setdefault(alpha, []).append(
                        [fmean(metrics[f"{name}/accuracy"] for name in names) for names in sets]
                    )
        if points:
            found[candidate.label] = [
                [*map(fmean, zip(*pairs, strict=True)), alpha] for alpha, pairs in sorted(points.items())
            ]
    return found


def _measured(comparison: Comparison) -> tuple[dict, dict[str, str], dict | None]:
    """What rules are shown: candidates, roles and baseline."""
    candidates = {candidate: comparison.measured(candidate) for candidate in comparison.candidates}
    roles = {name: role for name, role in comparison.sets.items() if role != "open_set"}
    baseline = None if comparison.zero_shot is None else comparison.measured(ZERO_SHOT)
    if comparison.twins:
        folds = [fold.candidates for fold in comparison.twins]
        twinned = {item: sets for item, sets in candidates.items() if all(item in fold for fold in folds)}
        found, roles, baseline = with_concepts(twinned, roles, baseline, *comparison.twins)
        candidates |= found
    return candidates, roles, baseline


def _auroc(row: Mapping[str, Any]) -> float | None:
    for scores in row["open_set"].values():
        return scores.get(DEFAULT_SCORE, {}).get("shifts_auroc", {}).get("mean")
    return None


def _places(spans: Sequence[Sequence[float]]) -> list[float]:
    for step in _STEPS:
        numbers = range(round(1 / step) + 1)
        places = [
            round(number * step, 6)
            for number in numbers
            if sum(low <= round(number * step, 6) <= high for low, high in spans) > 1
        ]
        if len(places) >= _FEWEST_PLACES:
            return places[:: -(-len(places) // _MOST_PLACES)]
    return []
