# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Rules that choose a learning rate and a method from what was measured, each with the sets that it looks at.

No rule looks at a calibration error: it has a noise floor, and a model that is unsure of everything has a small one on
shifted images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from .measures import ACCURACY, Measure
from .runs import Candidate

#: The role of images of classes that a twin run did not train on, see [`data.left_out.leave_out_classes`].
CONCEPTS = "concepts"
#: Share of the best gain over zero-shot that `id_within` and `id_nearest` keep.
KEPT = 0.9
#: Means over seeds that add up to the same in another order differ in the digits behind these.
PLACES = 12
#: The metrics of regret, and which way each is better: what leads the comparison, and NLL.
GREATER_IS_BETTER = {"accuracy": True, "nll": False}

Measured = Mapping[str, Mapping[str, float]]
Candidates = Mapping[Candidate, Measured]


class NotLookedAt(LookupError):
    """A rule has asked for a measurement that it says it does not look at."""


class View(Mapping):
    """
    A mapping of which a rule sees a part; asking for any other key raises [`NotLookedAt`], and nothing else is in it.

    Args:
        values (`Mapping`): All of it.
        allowed (`Sequence[str]`): The keys that may be seen.
        rule (`str`): Whose view it is, for messages.
        of (`str`): Whose values these are, for messages.
        inner (`Sequence[str]`, *optional*): The keys that may be seen of the values, where these are mappings.
        headline (`str`, *optional*, defaults to `"accuracy"`): Of these the key of the number that leads.
    """

    def __init__(
        self,
        values: Mapping,
        allowed: Sequence[str],
        rule: str,
        of: str,
        inner: Sequence[str] | None = None,
        headline: str = ACCURACY.key,
    ):
        self.headline = headline
        self._allowed, self._rule, self._of = tuple(allowed), rule, of
        seen = {key: values[key] for key in allowed if key in values}
        self._values = seen if inner is None else {key: View(seen[key], inner, rule, f"{of} on {key}") for key in seen}

    def __getitem__(self, key: str) -> Any:
        if key not in self._allowed:
            raise NotLookedAt(f"The rule {self._rule!r} looks at {', '.join(self._allowed)}, not at {key!r}.")
        if key not in self._values:
            raise ValueError(
                f"The rule {self._rule!r} looks at {key!r}, which was not measured for {self._of}; measure it, or choose "
                "another rule."
            )
        return self._values[key]

    def __iter__(self):
        return iter(self._allowed)

    def __len__(self) -> int:
        return len(self._allowed)


@dataclass(frozen=True)
class Rule:
    """
    How a candidate is chosen.

    Attributes:
        name (`str`): `id`, `id_within`, `id_nearest`, `shift` (over all shifted sets in turn), `shift:<set>`, `concepts` or `oracle`.
        says (`str`): The rule in words.
        role (`str`): Of the sets that it looks at.
        metrics (`tuple[str, ...]`): What decides.
        within (`Callable`): From the views of a method's candidates, by ascending rate, and of the zero-shot model to the
            number of the one that is chosen.
        between (`Callable`): The same between the choices of several methods: the numbers of those that are equally good, of which
            [`lowest_nll`] takes one.
        baseline (`bool`): Whether it looks at the zero-shot model's numbers too.
        only (`str`, *optional*): The one set of its role that it looks at; all of them by default.
        sees_too (`tuple[str, ...]`): What it looks at too: the NLL where several methods tie, the number of images `n`.
        is_bound (`bool`): Whether it looks at what it is judged by: an upper bound, never a result.
        is_partial (`bool`): Whether it chooses among those candidates that were measured on its sets, where not all were.
        measure ([`Measure`]): What leads the comparison, by whose key it looks.
        without_gain (`str`): What it did where no candidate gains over zero-shot on its sets; empty where that changes nothing.
    """

    name: str
    says: str
    role: str
    metrics: tuple[str, ...]
    within: Callable[[Sequence[View], View | None], int]
    between: Callable[[Sequence[View], View | None], list[int]]
    baseline: bool = False
    only: str | None = None
    sees_too: tuple[str, ...] = ()
    is_bound: bool = False
    is_partial: bool = False
    measure: Measure = ACCURACY
    without_gain: str = ""

    @property
    def metric(self) -> str:
        """What decides, in words."""
        return " and ".join("NLL" if name == "nll" else self.measure.word for name in self.metrics)

    def looks_at(self, roles: Mapping[str, str]) -> tuple[str, ...]:
        """
        The sets that the rule looks at.

        Args:
            roles (`Mapping[str, str]`): The role of each set that was measured.

        Raises:
            ValueError: If there is no such set.
        """
        found = tuple(name for name, role in roles.items() if role == self.role)
        if self.only is not None and self.only not in found:
            known = f"its shifted sets are {', '.join(found)}" if found else "there are no shifted sets"
            raise ValueError(f"The rule {self.name!r} looks at a shifted set that was not measured; {known}.")
        if not found:
            more = "" if self.role != CONCEPTS else "; --rule concepts trains what it looks at, as does `hf-robustft train --leave_out_classes 0.2`"
            raise ValueError(f"The rule {self.name!r} looks at a set with the role {self.role}, and none was measured{more}.")
        return found if self.only is None else (self.only,)


def _mean(view: View, metric: str) -> float:
    return round(fmean(view[name][metric] for name in view), PLACES)


def _most_accurate(views: Sequence[View], baseline: View | None) -> int:
    scores = [_mean(view, view.headline) for view in views]
    return scores.index(max(scores))


def gains(views: Sequence[View], baseline: View) -> bool:
    """Whether any of some candidates gains over zero-shot on what a rule looks at; `views` are theirs, `baseline` that of zero-shot."""
    return max(_mean(view, view.headline) for view in views) > _mean(baseline, baseline.headline)


def _smallest_within(views: Sequence[View], baseline: View | None) -> int:
    scores, start = [_mean(view, view.headline) for view in views], _mean(baseline, baseline.headline)
    best = max(scores)
    # Where nothing gains there is no gain to keep a share of.
    least = round(start + KEPT * (best - start), PLACES) if best > start else best
    return next(index for index, score in enumerate(scores) if score >= least)


def _nearest_to_zero_shot(views: Sequence[View], baseline: View | None) -> int:
    scores, start = [_mean(view, view.headline) for view in views], _mean(baseline, baseline.headline)
    best, images = max(scores), sum(views[0][name]["n"] for name in views[0])
    # A standard error of 0, where all are right, is less than one image.
    least = best - max(math.sqrt(best * (1 - best) / images), 1 / images)
    if best > start:
        least = min(least, start + KEPT * (best - start))
    moved = [round(abs(_mean(view, "nll") - _mean(baseline, "nll")), PLACES) for view in views]
    return min((index for index, score in enumerate(scores) if score >= round(least, PLACES)), key=moved.__getitem__)


def _nearest_between(views: Sequence[View], baseline: View | None) -> list[int]:
    return [_nearest_to_zero_shot(views, baseline)]


def _most_accurate_between(views: Sequence[View], baseline: View | None) -> list[int]:
    scores = [_mean(view, view.headline) for view in views]
    return [index for index, score in enumerate(scores) if score == max(scores)]


def lowest_nll(views: Sequence[View], tied: Sequence[int]) -> int:
    """Of the numbers of `tied` candidates the one whose view among `views` has the lowest NLL; it is looked at only where there are several."""
    return tied[0] if len(tied) == 1 else min(tied, key=lambda index: _mean(views[index], "nll"))


def _best_ranks(views: Sequence[View], baseline: View | None) -> int:
    ranks = _sums_of_ranks(views)
    return ranks.index(min(ranks))


def _best_ranks_between(views: Sequence[View], baseline: View | None) -> list[int]:
    ranks = _sums_of_ranks(views)
    return [index for index, rank in enumerate(ranks) if rank == min(ranks)]


def _sums_of_ranks(views: Sequence[View]) -> list[int]:
    """Sums over sets of the ranks by accuracy and by NLL; equal values share the best rank of theirs."""
    ranks = [0] * len(views)
    for name in views[0]:
        for metric, greater in ((views[0].headline, True), ("nll", False)):
            values = [round(view[name][metric], PLACES) for view in views]
            for index, value in enumerate(values):
                ranks[index] += sum(other > value if greater else other < value for other in values)
    return ranks


_TIES = "ties go to the smaller rate within a method, and to the lower NLL between methods"
#: By name. `shift:<set>` is made by [`find_rule`].
RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "id",
            f"the best accuracy on the validation set, within a method and between methods; {_TIES}",
            "validation",
            ("accuracy",),
            _most_accurate,
            _most_accurate_between,
            sees_too=("nll",),
            is_partial=True,
        ),
        Rule(
            "id_within",
            f"the smallest rate of a method that keeps {KEPT:.0%} of its best gain over zero-shot in accuracy on the "
            "validation set, and where none of its rates gains there, the best accuracy; between the methods' choices, which no rate puts in "
            "order, the best accuracy there, and of equal ones the lower NLL",
            "validation",
            ("accuracy",),
            _smallest_within,
            _most_accurate_between,
            sees_too=("nll",),
            baseline=True,
            is_partial=True,
            without_gain="took the best accuracy there in place of the smallest rate that keeps a share of a gain",
        ),
        Rule(
            "id_nearest",
            f"of those that keep {KEPT:.0%} of the best gain over zero-shot in accuracy on the validation set, or are within one standard "
            "error of the best (of a share, of at least one image), the one whose NLL there is nearest to that of zero-shot; the same "
            "within a method and between the methods' choices; ties go to the smaller rate",
            "validation",
            ("accuracy", "nll"),
            _nearest_to_zero_shot,
            _nearest_between,
            baseline=True,
            is_partial=True,
            sees_too=("n",),
        ),
        Rule(
            "shift",
            "one shifted set in turn is the validation set, by the sum of the ranks in accuracy and in NLL, and the "
            f"others are reported; {_TIES}",
            "shift",
            ("accuracy", "nll"),
            _best_ranks,
            _best_ranks_between,
        ),
        Rule(
            CONCEPTS,
            "the sum of the ranks in accuracy and in NLL, by prompts among all classes, on the images of classes that a "
            f"twin run was not trained on; {_TIES}",
            CONCEPTS,
            ("accuracy", "nll"),
            _best_ranks,
            _best_ranks_between,
            # A head cannot label other classes, so its method has no twin.
            is_partial=True,
        ),
        Rule(
            "oracle",
            f"the best mean accuracy on the shifted sets that are reported: an upper bound, not a choice; {_TIES}",
            "shift",
            ("accuracy",),
            _most_accurate,
            _most_accurate_between,
            sees_too=("nll",),
            is_bound=True,
        ),
    )
}


def find_rule(name: str, measure: Measure = ACCURACY) -> Rule:
    """
    The rule of a name; `shift:<set>` looks at one shifted set, and `shift` alone at each in turn, so that it chooses once only where
    there is one.

    Args:
        name (`str`): Of the rule.
        measure ([`Measure`], *optional*): What leads the comparison; accuracy by default.

    Raises:
        ValueError: If there is no such rule, or it is not defined for the measure.
    """
    base, _, part = name.partition(":")
    if base not in RULES or (":" in name and (base != "shift" or not part)):
        raise ValueError(f"There is no rule {name!r}; choose one of {', '.join(name for name in RULES if name != 'shift')} or shift:<set>.")
    if base in measure.rules_without:
        known = ", ".join(item for item in RULES if item not in ("shift", *measure.rules_without))
        raise ValueError(f"The rule {name!r} is not defined by {measure.word}: {measure.rules_without[base]}; choose one of {known} or shift:<set>.")
    rule = RULES[base]
    if measure is not ACCURACY:
        keys = {key: tuple(measure.key if item == ACCURACY.key else item for item in getattr(rule, key)) for key in ("metrics", "sees_too")}
        words = {key: measure.in_words(getattr(rule, key)) for key in ("says", "without_gain")}
        rule = replace(rule, measure=measure, **words, **keys)
    if not part:
        return rule
    says = rule.says.replace("one shifted set in turn", f"the shifted set {part}")
    return replace(rule, name=name, says=says, only=part)


def rotations(rule: str, roles: Mapping[str, str]) -> list[str]:
    """The names of the rules that `rule` stands for: one for each shifted set of `roles` for `shift`, else itself."""
    return [f"shift:{name}" for name in RULES["shift"].looks_at(roles)] if rule == "shift" else [rule]


def sets_of_choice(rule: Rule, roles: Mapping[str, str]) -> tuple[str, ...]:
    """
    The sets that a `rule` looks at to choose once.

    Raises:
        ValueError: If there are none among those of these `roles`, or the rule chooses once for each of several.
    """
    if rule.name == "shift" and len(names := rotations("shift", roles)) > 1:
        raise ValueError(f"The rule 'shift' chooses once for each set; choose one of {', '.join(names)}.")
    return rule.looks_at(roles)


def reported(rule: Rule, roles: Mapping[str, str], looked_at: Sequence[str]) -> dict[str, str]:
    """
    The role of each set once a `rule` has chosen by those that it `looked_at`: a shifted set that has chosen says nothing more of
    the choice, and is a validation set. A bound is reported on what it looks at.

    Raises:
        ValueError: If no set of these `roles` is left to report.
    """
    found = {name: "validation" if name in looked_at and not rule.is_bound else role for name, role in roles.items()}
    if not {"id", "shift"} & set(found.values()):
        raise ValueError(
            f"The rule {rule.name!r} looks at {', '.join(looked_at)}, and no other test set was measured to report; measure another, or "
            "choose another rule."
        )
    return found
