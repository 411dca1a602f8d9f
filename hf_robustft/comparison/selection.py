# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
A learning rate and a method chosen by a rule from what was measured, and what the choice loses.

What a rule loses by what it does not look at is its *regret* against the best candidate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from .measures import ACCURACY, Measure
from .rules import (
    CONCEPTS,
    GREATER_IS_BETTER,
    KEPT,
    PLACES,
    RULES,
    Candidates,
    Measured,
    NotLookedAt,
    Rule,
    View,
    find_rule,
    gains,
    lowest_nll,
    reported,
    rotations,
    sets_of_choice,
)
from .runs import Candidate

#: Those of `rules.py` as well.
__all__ = [
    "CONCEPTS",
    "Candidates",
    "Choice",
    "GREATER_IS_BETTER",
    "KEPT",
    "Loss",
    "Measured",
    "NotLookedAt",
    "PLACES",
    "RULES",
    "Rule",
    "View",
    "by_method",
    "choose",
    "find_rule",
    "line_of",
    "regret",
    "reported",
    "rotations",
    "sets_of_choice",
    "shift_means",
    "spread_over_rates",
    "summarise_regret",
]


@dataclass(frozen=True)
class Choice:
    """
    What a rule has chosen.

    Attributes:
        rule (`str`): Its name.
        candidate ([`Candidate`]): Its choice over all methods.
        looked_at (`tuple[str, ...]`): The sets that it has looked at.
        by_method (`dict[str, Candidate]`): Its choice among the rates of each method, see [`line_of`].
        metric (`str`): What decided, in words.
        tied (`tuple[Candidate, ...]`): The choices of other methods that are as good by that, with which the NLL dealt.
        without_gain (`bool`): Whether no candidate gains over zero-shot on these sets, and the rule says what it does then.
    """

    rule: str
    candidate: Candidate
    looked_at: tuple[str, ...]
    by_method: dict[str, Candidate]
    metric: str
    tied: tuple[Candidate, ...] = ()
    without_gain: bool = False


@dataclass(frozen=True)
class Loss:
    """
    What a choice loses against the best candidate that there was, on the shifted sets that it was not made by.

    Attributes:
        rule (`str`): Its name, with the set it looked at.
        method (`str`, *optional*): The method among whose candidates was chosen; `None` for all of them.
        chosen ([`Candidate`]): The choice.
        judged_on (`tuple[str, ...]`): The shifted sets.
        accuracy, nll (`float`): The best mean over these sets that any candidate reaches, less that of the choice for
            the accuracy (of lists of labels the mAP), the other way round for the NLL: never below 0.
    """

    rule: str
    method: str | None
    chosen: Candidate
    judged_on: tuple[str, ...]
    accuracy: float
    nll: float


def line_of(candidate: Candidate) -> str:
    """What the rates of a `candidate` are compared within: its method, with its variant, which is a method of its own."""
    return f"{candidate.method}, {candidate.variant}" if candidate.variant else candidate.method


def by_method(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """The candidates of each method (see [`line_of`]) as they come, each by ascending learning rate."""
    found: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        found.setdefault(line_of(candidate), []).append(candidate)
    return {method: sorted(items, key=lambda item: item.learning_rate or 0.0) for method, items in found.items()}


def choose(
    rule: str | Rule,
    candidates: Candidates,
    roles: Mapping[str, str],
    baseline: Measured | None = None,
    measure: Measure = ACCURACY,
) -> Choice:
    """
    Choose by a rule, which is shown nothing but the sets and metrics that it says it looks at.

    Args:
        rule (`str` or [`Rule`]): A name of `RULES`, or `shift:<set>`.
        candidates (`Mapping`): By candidate and set, `{"accuracy", "nll", ...}`: means over seeds; and `n`, the images.
        roles (`Mapping[str, str]`): The role of each set: `id`, `shift`, `validation` or `concepts`.
        baseline (`Mapping`, *optional*): The zero-shot model's numbers, by set. `id_within` and `id_nearest` need them.
        measure ([`Measure`], *optional*): What leads the comparison, in the place of accuracy.

    Returns:
        [`Choice`]: Ties go as the rule says; methods that are equal in all that it looks at, in the order of `candidates`.

    Raises:
        ValueError: If there is no such rule or candidate, or what it looks at was not measured.
    """
    rule = find_rule(rule, measure) if isinstance(rule, str) else rule
    if not candidates:
        raise ValueError("There is no candidate to choose; give at least one finished run.")
    sets = sets_of_choice(rule, roles)
    if rule.is_partial:
        candidates = {item: measured for item, measured in candidates.items() if all(name in measured for name in sets)} or candidates
    start, seen = None, (*rule.metrics, *rule.sees_too)
    if rule.baseline:
        if baseline is None:
            raise ValueError(f"The rule {rule.name!r} looks at the zero-shot model, which was not measured; measure it.")
        start = View(baseline, sets, rule.name, "the zero-shot model", rule.metrics, rule.measure.key)
    views = {
        candidate: View(measured, sets, rule.name, candidate.label, seen, rule.measure.key)
        for candidate, measured in candidates.items()
    }
    picks = {
        method: items[rule.within([views[item] for item in items], start)]
        for method, items in by_method(candidates).items()
    }
    finalists = list(picks.values())
    seen_of = [views[item] for item in finalists]
    equal = rule.between(seen_of, start)
    best = finalists[lowest_nll(seen_of, equal)]
    tied = tuple(finalists[index] for index in equal if finalists[index] != best)
    without_gain = bool(rule.without_gain) and not gains(list(views.values()), start)
    return Choice(rule.name, best, sets, picks, rule.metric, tied, without_gain)


def shift_means(measured: Measured, sets: Sequence[str], measure: Measure = ACCURACY) -> dict[str, float]:
    """Accuracy (or what else the `measure` is) and NLL of a candidate, from what was `measured`, averaged over `sets`, each counted once."""
    return {metric: fmean(measured[name][metric] for name in sets) for metric in (measure.key, "nll")}


def regret(
    rule: str, candidates: Candidates, roles: Mapping[str, str], baseline: Measured | None = None, measure: Measure = ACCURACY
) -> list[Loss]:
    """
    What the choices of a rule lose on the shifted sets that it does not look at.

    Args:
        rule (`str`), candidates (`Mapping`), roles (`Mapping[str, str]`), baseline (`Mapping`, *optional*), measure ([`Measure`],
            *optional*): As for [`choose`]. `shift` stands for all rotations.

    Returns:
        `list[Loss]`: For each rotation, one of each method against the best of its own candidates, and one over all methods.
        The bound itself is judged by all sets; it loses nothing in accuracy, and may in NLL.

    Raises:
        ValueError: As [`choose`], or if no shifted set is left to be judged by.
    """
    losses = []
    for name in rotations(rule, roles):
        choice = choose(name, candidates, roles, baseline, measure)
        hidden = () if find_rule(name, measure).is_bound else choice.looked_at
        judged = tuple(item for item, role in roles.items() if role == "shift" and item not in hidden)
        if not judged:
            raise ValueError(f"The rule {name!r} looks at every shifted set, so none is left to judge it by.")
        means = {candidate: shift_means(measured, judged, measure) for candidate, measured in candidates.items()}
        pools = {**by_method(candidates), None: list(candidates)}
        for method, chosen in [*choice.by_method.items(), (None, choice.candidate)]:
            pool = [means[candidate] for candidate in pools[method]]
            lost = {
                "accuracy": max(item[measure.key] for item in pool) - means[chosen][measure.key],
                "nll": means[chosen]["nll"] - min(item["nll"] for item in pool),
            }
            losses.append(Loss(name, method, chosen, judged, **lost))
    return losses


def summarise_regret(losses: Iterable[Loss]) -> dict[str | None, dict[str, float]]:
    """
    Mean and worst of the losses of one rule, over suites and rotations.

    Args:
        losses (`Iterable[Loss]`): Of all suites.

    Returns:
        `dict`: By method (`None` over all methods), `n` (how many losses), and `accuracy_mean`, `accuracy_worst`,
        `nll_mean`, `nll_worst`.
    """
    found: dict[str | None, list[Loss]] = {}
    for loss in losses:
        found.setdefault(loss.method, []).append(loss)
    return {
        method: {
            "n": len(items),
            **{
                f"{metric}_{name}": statistic(getattr(item, metric) for item in items)
                for metric in GREATER_IS_BETTER
                for name, statistic in (("mean", fmean), ("worst", max))
            },
        }
        for method, items in found.items()
    }


def spread_over_rates(candidates: Candidates, roles: Mapping[str, str], measure: Measure = ACCURACY) -> dict[str, dict[str, float]]:
    """
    How much a method depends on its learning rate: the range of its means over the shifted sets.

    Args:
        candidates (`Mapping`), roles (`Mapping[str, str]`), measure ([`Measure`], *optional*): As for [`choose`].

    Returns:
        `dict`: By method, `rates` (how many candidates), and the greatest less the smallest `accuracy` (or what else leads) and `nll`.
    """
    sets = [name for name, role in roles.items() if role == "shift"]
    found = {}
    for method, items in by_method(candidates).items():
        means = [shift_means(candidates[item], sets, measure) for item in items]
        ranges = {key: max(mean[key] for mean in means) - min(mean[key] for mean in means) for key in (measure.key, "nll")}
        found[method] = {"rates": len(items), **ranges}
    return found
