# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The sentences at the top of a card: what the model gets right, and how far its confidence can be trusted."""

from __future__ import annotations

import math

from ..evaluation.findings import Change, at_chance, beyond_chance, by_more, listed, one_class, percent, sentences
from ..evaluation.report import DatasetResult, EvaluationReport
from ..evaluation.tables import same_shifts
from .text import code_span, markdown_text, public_value


def confidence_gap(result: DatasetResult) -> float:
    """Return mean confidence minus accuracy over the whole set, from the reliability bins of `result`."""
    bins = result.reliability
    total = sum(
        count * (confidence - accuracy)
        for count, confidence, accuracy in zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
        if count
    )
    return total / sum(bins["count"])


def calibration_verdict(result: DatasetResult) -> str:
    """
    Judge a set's confidence by its bins.

    Args:
        result ([`DatasetResult`]): The set.

    Returns:
        `str`: `"noise"` if the ECE is within two bootstrap standard errors of its noise floor; else `"high"` or
        `"low"` if at least half of the ECE is confidence above (below) accuracy on average; else `"mixed"`.
    """
    if result.ece <= result.ece_noise_floor + 2 * result.ece_se:
        return "noise"
    gap = confidence_gap(result)
    if abs(gap) < result.ece / 2:
        return "mixed"
    return "high" if gap > 0 else "low"


def summary_sentence(subject: str, report: EvaluationReport, baseline: EvaluationReport | None) -> str:
    """
    Say in one sentence how accurate the model is, in distribution and under shift, and whether to trust its confidence.

    Args:
        subject (`str`): What the model is, in markdown: the sentence's beginning.
        report ([`EvaluationReport`]): The model's results.
        baseline ([`EvaluationReport`], *optional*): Results of the model that it started from, quoted in brackets.

    Returns:
        `str`: Markdown.
    """
    inside = [result for result in report.results.values() if result.role == "id"]
    shifts = report.shifts
    if not inside and not shifts:
        return f"{subject} was not measured on a test set: the results below are on training or validation data."
    right, off = [], []
    for result in inside:
        name, before = markdown_text(result.name), _before(baseline, result.name)
        right.append(f"{percent(result.accuracy)} of the {result.n:,} images of {name}{before}")
        words = {
            "noise": "no more than sampling noise",
            "high": "mostly too high",
            "low": "mostly too low",
            "mixed": "too high in parts and too low in others",
        }[calibration_verdict(result)]
        off.append(f"{points(result.ece)} on {name} (ECE; {words})")
    if shifts:
        mean, before = report.shift_mean, _mean_before(report, baseline)
        if len(shifts) == 1:
            right.append(f"{percent(mean['accuracy'])} of those of the shift {markdown_text(shifts[0].name)}{before}")
        else:
            right.append(f"{percent(mean['accuracy'])} on average over {len(shifts)} shifts{before}")
        off.append(f"{points(mean['ece'])} under shift ({'' if inside else 'ECE; '}{_shift_words(shifts)})")
    return (
        f"{subject} labels {listed(right)} correctly; its confidence is off by {listed(off)}: "
        f"{_advice(inside, shifts)}."
    )


def open_set_sentence(report: EvaluationReport, baseline: EvaluationReport | None, score: str) -> str:
    """
    Say how well a score recognises images of unknown classes, and how many a threshold on it still lets through.

    Args:
        report ([`EvaluationReport`]): The model's results.
        baseline ([`EvaluationReport`], *optional*): Results of the model that it started from, quoted in brackets.
        score (`str`): Name of the score.

    Returns:
        `str`: Markdown; empty if no open set has the score.
    """
    parts = []
    for name, facts in report.open_set.items():
        if score not in facts["scores"]:
            continue
        found, before = facts["scores"][score], _score_before(baseline, name, score)
        was = "" if before is None else f" ({model_name(baseline)}: {percent(before['auroc'])})"
        inside, outside = markdown_text(facts["id"]), markdown_text(name)
        parts.append(
            f"in {percent(found['auroc'])} of pairs{was} an image of {inside} scores above one of {outside}, and of {outside} "
            f"{percent(found['fpr95'])} still pass as known at a threshold that accepts 95 % of {inside}"
        )
    return f"Images of classes it does not know, by {code_span(score)}: {'; '.join(parts)}." if parts else ""


def warning_sentence(report: EvaluationReport, baseline: EvaluationReport | None, score: str | None = None) -> str:
    """
    Write what a reader must be told about the numbers.

    That is a model at chance level, one class for everything, what is worse than in the baseline by more than two standard
    errors (accuracy, ECE and NLL of each set, and the AUROC of `score` on open sets), and sets that are too small.

    Args:
        report ([`EvaluationReport`]): The model's results.
        baseline ([`EvaluationReport`], *optional*): Results of the model that it started from.
        score (`str`, *optional*): Name of an open-set score.

    Returns:
        `str`: Markdown; empty if there is nothing to say.
    """
    lines = sentences(report, baseline, text=markdown_text, model=lambda _: model_name(baseline))
    compared = []
    for name, facts in (report.open_set or {}).items():
        known = _score_before(baseline, name, score)
        if known is None or score not in facts["scores"] or facts["id"] not in report.results:
            continue
        now, was = facts["scores"][score]["auroc"], known["auroc"]
        sizes = report.results[facts["id"]].n_drawn, facts.get("n_groups") or facts["n"]
        error = math.hypot(_auroc_error(now, *sizes), _auroc_error(was, *sizes))
        compared.append(Change(name, "auroc", was, now, error))
    worse = [
        f"{markdown_text(change.set)} ({percent(change.before)} before, {percent(change.now)} now)"
        for change in beyond_chance(compared)
    ]
    if worse:
        lines.append(
            f"Worse than {model_name(baseline)}, {by_more(len(compared))}: AUROC of {code_span(score)} on {listed(worse)}."
        )
    return " ".join(lines)


def _auroc_error(auroc: float, known: int, unknown: int) -> float:
    """Return Hanley and McNeil's (1982) standard error of an AUROC."""
    first, second = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    variance = auroc * (1 - auroc) + (known - 1) * (first - auroc**2) + (unknown - 1) * (second - auroc**2)
    return math.sqrt(max(variance, 0.0) / (known * unknown))


def _score_before(baseline: EvaluationReport | None, name: str, score: str | None) -> dict | None:
    """Return the baseline's numbers for a score on an open set, if it has them."""
    sets = (baseline.open_set if baseline is not None else None) or {}
    return sets.get(name, {}).get("scores", {}).get(score)


def model_name(report: EvaluationReport) -> str:
    """Return what a `report` calls its model, in markdown, without machine paths."""
    return markdown_text(public_value(report.model))


def points(fraction: float) -> str:
    """Return a `fraction` as percentage points with one decimal."""
    return f"{100 * fraction:.1f} points"


def _before(baseline: EvaluationReport | None, name: str) -> str:
    if baseline is None or name not in baseline.results:
        return ""
    return f" ({model_name(baseline)}: {percent(baseline.results[name].accuracy)})"


def _mean_before(report: EvaluationReport, baseline: EvaluationReport | None) -> str:
    if not same_shifts(report, baseline):
        return ""
    return f" ({model_name(baseline)}: {percent(baseline.shift_mean['accuracy'])})"


def _shift_words(shifts: list[DatasetResult]) -> str:
    words = {"noise": "no more than sampling noise", "high": "too high", "low": "too low", "mixed": "mixed"}
    verdicts = [calibration_verdict(result) for result in shifts]
    if len(shifts) == 1:
        return words[verdicts[0]]
    if len(set(verdicts)) == 1:
        return f"{words[verdicts[0]]} on all {len(shifts)}"
    return listed([f"{words[kind]} on {verdicts.count(kind)}" for kind in words if kind in verdicts])


def _advice(inside: list[DatasetResult], shifts: list[DatasetResult]) -> str:
    useless = [result for result in (*inside, *shifts) if at_chance(result) or one_class(result)]
    if useless:
        names = listed([markdown_text(result.name) for result in useless])
        return f"it says nothing about images like those of {names}, whatever its confidence is"
    calibrated = bool(inside) and all(calibration_verdict(result) == "noise" for result in inside)
    holds_under_shift = bool(shifts) and all(calibration_verdict(result) == "noise" for result in shifts)
    if calibrated and holds_under_shift:
        return "read it as a probability on data like these"
    if calibrated and shifts:
        return "read it as a probability on data like the training data, not under shift"
    if calibrated:
        return "read it as a probability on data like the training data; shifts were not measured"
    if holds_under_shift and not inside:
        return "read it as a probability on shifts like these"
    return "do not read it as a probability without recalibration"
