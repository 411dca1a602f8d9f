# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What a reader of the numbers must be told: a model at chance level, one that answers with one class, what became worse
than before fine-tuning, and sets that are too small. The same sentences stand in the terminal, in `evaluation.json` and in
the card.

A difference between two models is judged by its standard error on the same images. Both were resampled with the same
draws, so the spread of the differences of their draws is that of the difference itself; where a report holds no draws, or
has them of other images, the two are taken as independent, which calls fewer things worse.

A report compares many sets and metrics, and among enough comparisons chance alone exceeds two standard errors. Which of
them are told is decided by Holm's (1979) correction for all of them, so that of 20 models that are no worse than before at
most one is called worse in anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from scipy.special import bdtr, bdtrc

from .report import DatasetResult, EvaluationReport

#: Standard errors that a difference must exceed to be told, however few there are.
BEYOND = 2.0
#: How often chance alone may have a report tell a difference.
ALPHA = 0.05
#: How often a model that knows nothing may pass for one that is better than chance; two standard errors.
ALPHA_CHANCE = 0.0228
#: Sets with fewer images, or groups of them, are called small; with fewer than `FEWEST` nothing is compared.
SMALL, FEWEST = 100, 30
#: From this share of one class among the answers on a model is said to know no other class, if the share of the class
#: among the images is lower by at least the second number.
ONE_CLASS, ONE_CLASS_EXCESS = 0.9, 0.1
_METRICS = ("accuracy", "ece", "nll")
_WORDS = {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL"}
#: Differences that the tables do not show are not told either.
_SHOWN = {"accuracy": 0.001, "ece": 0.001, "nll": 0.001}
_ROLES = ("id", "shift")

Text = Callable[[str], str]


@dataclass(frozen=True)
class Change:
    """
    A metric of one set in two models.

    Attributes:
        set, metric (`str`): Which.
        before, now (`float`): Its values.
        error (`float`): Standard error of the difference.
    """

    set: str
    metric: str
    before: float
    now: float
    error: float

    @property
    def rise(self) -> float:
        """By how much it is worse, as a `float`; negative where it is better."""
        return self.now - self.before if self.metric in ("ece", "nll") else self.before - self.now

    @property
    def errors(self) -> float:
        """By how many standard errors it is worse, as a `float`."""
        if self.error > 0:
            return self.rise / self.error
        return math.copysign(math.inf, self.rise) if self.rise else 0.0


def at_chance(result: DatasetResult) -> bool:
    """Return whether guessing reaches the accuracy of `result` more often than one time in 44; never with a single class."""
    # Of guessing, or of always giving the most frequent class.
    chance = max(1 / result.n_classes, (result.predictions or {}).get("majority_share", 0.0))
    if chance >= 1:
        return False
    return is_guessing(result.accuracy, result.n_drawn, chance)


def is_guessing(accuracy: float, n: int, chance: float) -> bool:
    """Return whether guessing, right for a share `chance`, reaches an `accuracy` on `n` images more often than one time in 44."""
    # Where few right answers are expected, a normal approximation would take one of a hundred for knowledge.
    return bool(bdtrc(round(accuracy * n) - 1, n, chance) > ALPHA_CHANCE)


def is_below_guessing(accuracy: float, n: int, chance: float) -> bool:
    """Return whether guessing, right for a share `chance`, has an `accuracy` on `n` images, or a lower one, less often than one time in 44."""
    return bool(bdtr(round(accuracy * n), n, chance) <= ALPHA_CHANCE)


def one_class(result: DatasetResult) -> bool:
    """Return whether nearly all answers in `result` are one class, to which far fewer of the images belong."""
    found = result.predictions
    if not found:
        return False
    return found["share"] >= ONE_CLASS and found["share"] - found["label_share"] >= ONE_CLASS_EXCESS


def error_of_difference(now: DatasetResult, before: DatasetResult, metric: str) -> float:
    """
    Compute the standard error of the difference of a metric between two models.

    Args:
        now ([`DatasetResult`]), before ([`DatasetResult`]): The results on the same images.
        metric (`str`): `accuracy`, `ece` or `nll`.

    Returns:
        `float`: From the paired draws, if both have them. For accuracy and NLL, which are means over images, it is that
        under the hypothesis of no difference, as in McNemar's test.
    """
    first, second = ((item.draws or {}).get(metric) for item in (now, before))
    if not first or not second or len(first) != len(second) or now.n != before.n:
        return math.hypot(getattr(now, f"{metric}_se"), getattr(before, f"{metric}_se"))
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((value - mean) ** 2 for value in differences) / (len(differences) - 1)
    if metric != "ece":
        variance += (getattr(now, metric) - getattr(before, metric)) ** 2 / now.n_drawn
    return math.sqrt(variance)


def comparisons(report: EvaluationReport, baseline: EvaluationReport | None) -> list[Change]:
    """Return the changes from `baseline` to `report` in the metrics of all test sets and shifts with enough images."""
    return [
        Change(
            now.name, metric, getattr(before, metric), getattr(now, metric), error_of_difference(now, before, metric)
        )
        for now, before in _common(report, baseline)
        if now.n_drawn >= FEWEST
        for metric in _METRICS
    ]


def worse(report: EvaluationReport, baseline: EvaluationReport | None) -> list[Change]:
    """Return the metrics of test sets and shifts that are worse in `report` than in `baseline`, see `beyond_chance`."""
    return [
        change for change in beyond_chance(comparisons(report, baseline)) if change.rise >= _SHOWN[change.metric] / 2
    ]


def beyond_chance(compared: Sequence[Change]) -> list[Change]:
    """
    Find the comparisons in which a model is worse by more than two standard errors, and by more than chance explains.

    Args:
        compared (`Sequence[Change]`): All comparisons of a kind, for Holm's correction (one-sided, at `ALPHA`).

    Returns:
        `list[Change]`: Those that are worse, in order.
    """
    found: set[int] = set()
    for left, index in enumerate(sorted(range(len(compared)), key=lambda i: -compared[i].errors)):
        errors = compared[index].errors
        if errors <= BEYOND or 0.5 * math.erfc(errors / math.sqrt(2)) > ALPHA / (len(compared) - left):
            break
        found.add(index)
    return [change for index, change in enumerate(compared) if index in found]


def sentences(
    report: EvaluationReport, baseline: EvaluationReport | None = None, text: Text = str, model: Text | None = None
) -> list[str]:
    """
    Write the findings, most serious first.

    Args:
        report ([`EvaluationReport`]): The model.
        baseline ([`EvaluationReport`], *optional*): The model it started from.
        text (`Callable[[str], str]`, *optional*, defaults to `str`): Writes names of sets and classes, such as escaped for
            markdown.
        model (`Callable[[str], str]`, *optional*): Writes the name of a model; `text` by default.

    Returns:
        `list[str]`: Sentences; empty if there is nothing to say.
    """
    tests = [result for result in report.results.values() if result.role in _ROLES]
    lines = []
    for result in tests:
        if at_chance(result):
            # Guessing does as well whatever the shares of the classes.
            below = is_below_guessing(result.accuracy, result.n_drawn, 1 / result.n_classes)
            few = ", which cannot be told from chance with so few images" if result.n_drawn < SMALL and not below else ""
            hint = ": look whether its labels are those of the classes, in their order" if below and not one_class(result) else ""
            lines.append(
                f"{'Worse' if below else 'No better'} than chance on {text(result.name)}: {percent(result.accuracy)} of {result.n:,} images are right"
                f"{few}, and {_known_nothing(result, text)}{hint}."
            )
        if one_class(result):
            found = result.predictions
            lines.append(
                f"One class for nearly everything on {text(result.name)}: {percent(found['share'])} of the answers are "
                f"{text(found['class'])}, which {percent(found['label_share'])} of the images are."
            )
    changes = worse(report, baseline)
    if changes:
        parts = []
        for metric in _METRICS:
            of = [change for change in changes if change.metric == metric]
            if of:
                parts.append(f"{_WORDS[metric]} on {listed([_change(change, text) for change in of])}")
        name = (model or text)(baseline.model)
        lines.append(f"Worse than {name}, {by_more(len(comparisons(report, baseline)))}: {'; '.join(parts)}.")
    small = [result for result in tests if result.n_drawn < SMALL]
    if small:
        sets = listed(
            [
                f"{text(result.name)} ({result.n}{f' in {result.n_groups} groups' if result.n_groups else ''}, "
                f"±{100 * result.accuracy_se:.1f} points)"
                for result in small
            ]
        )
        lines.append(f"Too few images to tell small differences: {sets}.")
    return lines


def by_more(compared: int) -> str:
    """Return by how much what `beyond_chance` finds among `compared` changes is worse, in words."""
    return "each by more than two standard errors" + (
        f", with Holm's correction for {compared} comparisons" if compared > 1 else ""
    )


def listed(parts: list[str]) -> str:
    """Return `parts` as "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _common(
    report: EvaluationReport, baseline: EvaluationReport | None
) -> Iterable[tuple[DatasetResult, DatasetResult]]:
    for name, now in report.results.items():
        before = None if baseline is None else baseline.results.get(name)
        if before is not None and now.role in _ROLES and before.n == now.n:
            yield now, before


def _known_nothing(result: DatasetResult, text: Text) -> str:
    found = result.predictions or {}
    if found.get("majority_share", 0.0) > 1 / result.n_classes:
        return f"always answering {text(found['majority'])} would be right for {percent(found['majority_share'])}"
    return f"guessing among {result.n_classes:,} classes would get {percent(1 / result.n_classes)}"


def _change(change: Change, text: Text) -> str:
    show = (lambda value: f"{value:.3f}") if change.metric == "nll" else percent
    return f"{text(change.set)} ({show(change.before)} before, {show(change.now)} now)"


def percent(fraction: float) -> str:
    """Return a `fraction` as percent with one decimal, such as "36.7 %"."""
    return f"{100 * fraction:.1f} %"
