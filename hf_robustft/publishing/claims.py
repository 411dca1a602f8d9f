# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The numbers of a report as claims, and whether another measurement agrees with them by the rules of `claim_noise`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..evaluation.detection import ranked_detection_metrics, threshold_at_recall
from ..evaluation.predictions import Predictions
from ..evaluation.report import EvaluationReport
from .claim_noise import (
    DRAWS,
    OF_AN_ERROR,
    p_value,
    refused_by_holm,
    resampled_errors,
    rounding_tolerance,
    share_error,
    too_few,
)

HOLDS, FAILS, NOT_MEASURED = "holds", "fails", "not measured"
#: What the same code is: other versions of these round, decode or count otherwise.
VERSIONS = ("hf_robustft", "torch", "transformers", "torchmetrics", "pillow")
_SETTINGS = ("dtype", "device", "image_size", "image_resampling", "n_bins")
#: Numbers of a closed set: key of the result, name, kind, and the key of the standard error.
_CLOSED = (
    ("n", "images", "count", None),
    ("accuracy", "accuracy", "share", "accuracy_se"),
    ("ece", "ECE", "ece", "ece_se"),
    ("nll", "NLL", "nll", "nll_se"),
    ("brier", "Brier score", "brier", "brier_se"),
    ("adaptive_ece", "adaptive ECE", "ece", None),
    ("classwise_ece", "class-wise ECE", "classwise", None),
    ("ece_noise_floor", "noise floor of the ECE", "error", None),
    *((f"{key}_se", f"standard error of the {name}", "error", None) for key, name in
      (("accuracy", "accuracy"), ("ece", "ECE"), ("nll", "NLL"), ("brier", "Brier score"))),
)  # fmt: skip
_DETECTION = {
    "auroc": ("AUROC", "pairs"),
    "fpr95": ("FPR95", "threshold"),
    "aupr_in": ("AUPR, known", "same sizes"),
    "aupr_out": ("AUPR, unknown", "same sizes"),
    "fpr95_nearest_recall": ("FPR95, nearest recall", "same sizes"),
    "fpr95_percentile": ("FPR95, percentile", "threshold"),
    "accepted": ("accepted", "threshold"),
}
_SETS = (("n", "images in sets", "count"), ("coverage", "coverage", "share"), ("mean_size", "classes in a set", "size"),
         ("empty", "sets with no class", "share"), ("single", "sets with one class", "share"))  # fmt: skip
_OF_SETS = {name for _, name, _ in _SETS}
_LISTS = (("n", "images", "count"), ("map", "mAP", "ece"), ("f1", "F1", "ece"), ("f1_micro", "micro F1", "ece"), ("ece", "ECE", "ece"))
#: Numbers about the spread, which have no standard error: other versions may move them by so large a share.
_OF_SPREAD, _SHARE_OF_SPREAD = ("adaptive ECE", "class-wise ECE"), 0.1
#: Numbers whose difference is divided by no standard error that would be 0 where all images are alike.
_SHARES = (
    *("accuracy", "coverage", "sets with no class", "sets with one class"),
    *("known images refused by the detector", "unknown images accepted by the detector"),
)


@dataclass(frozen=True)
class Claim:
    """
    Something that a model's folder says, and what was found.

    Attributes:
        of (`str`): The data set or file that it is about.
        name (`str`): What is claimed, in words.
        claimed, measured (`float` or `str`, *optional*): The two values; `measured` is `None` if there is none.
        verdict (`str`): `"holds"`, `"fails"` or `"not measured"`.
        rule (`str`): `"equal"`, or one of those of `claim_noise`: `"rounding"`, `"versions"`, `"images"`.
        tolerance (`float`, *optional*): The largest difference that holds, of `"rounding"` and `"versions"`.
        p (`float`, *optional*): With `"images"`: how often chance alone makes a difference as large.
        reason (`str`): Why it fails or was not measured; else empty.
    """

    of: str
    name: str
    claimed: float | str | None
    measured: float | str | None = None
    verdict: str = HOLDS
    rule: str = "equal"
    tolerance: float | None = None
    p: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class _Number:
    """A number of a report with what its noise depends on; `sets` are the sets of images that it is about."""

    of: str
    name: str
    value: float
    kind: str
    sets: tuple[str, ...]
    n: int
    others: int = 1
    n_classes: int = 1
    units: int = 1
    error: float | None = None
    floor: float = 0.0
    scale: float = 0.0


def numbers(report: EvaluationReport) -> dict[tuple[str, str], _Number]:
    """Return all numbers of a `report` that another measurement can be compared with, by set and name."""
    found: list[_Number] = []
    for name, row in report.results.items():
        common = {"sets": (name,), "n": row.n, "n_classes": row.n_classes, "units": row.n_drawn}
        for key, words, kind, error in _CLOSED:
            floor = row.ece_noise_floor if key in ("ece", "adaptive_ece") else 0.0
            of_it = None if error is None else getattr(row, error)
            found.append(_Number(name, words, getattr(row, key), kind, error=of_it, floor=floor, **common))
        if row.predictions is not None:
            # The most frequent answer of fewer images has a larger share of them.
            found.append(_Number(name, "images of the most frequent answer", row.predictions["share"], "same sizes", others=row.n, **common))
    for name, row in (report.multi_label or {}).items():
        common = {"sets": (name,), "n": row["n"], "n_classes": row["n_classes"], "units": row.get("n_groups") or row["n"]}
        found += [_Number(name, words, row[key], kind, **common) for key, words, kind in _LISTS if row[key] is not None]
    for name, facts in (report.open_set or {}).items():
        found += _open_set(name, facts, report)
    for name, row in ((report.prediction_sets or {}).get("sets") or {}).items():
        known = report.results.get(name)
        common = {"sets": (name,), "n": row["n"], "units": row["n"] if known is None else known.n_drawn}
        found += [_Number(name, words, row[key], kind, **common) for key, words, kind in _SETS]
    spectrum = report.spectrum
    if spectrum is not None:
        common = {"sets": (spectrum["dataset"],), "n": spectrum["n"], "scale": spectrum["largest_singular_value"]}
        found += [_Number(spectrum["dataset"], f"{which} singular value", spectrum[f"{which}_singular_value"], "spectrum", **common) for which in ("smallest", "largest")]
    return {(item.of, item.name): item for item in found}


def _open_set(name: str, facts: Mapping[str, Any], report: EvaluationReport) -> list[_Number]:
    known, n = report.results.get(facts["id"]), facts["n"]
    sizes = {of: (row.n, row.n_drawn) for of, row in report.results.items()}
    sizes |= {name: (n, facts.get("n_groups") or n)}
    found = [_Number(name, "images", n, "count", (name,), n, units=sizes[name][1])]
    for key, value in _values(facts["scores"]):
        _, metric, shift, _ = key
        of = shift or facts["id"]
        sets = tuple(dict.fromkeys((of, facts["id"]) if metric == "accepted" else (name, of)))
        if any(item not in sizes for item in sets):
            continue
        first, last = sets[0], sets[-1]
        found.append(
            _Number(
                name,
                _detected(*key),
                value,
                _DETECTION[metric][1],
                sets,
                sizes[first][0],
                others=sizes[last][0],
                units=min(sizes[item][1] for item in sets),
            )
        )
    chosen = (facts.get("threshold_curve") or {}).get("chosen") or {}
    for key, words, of in (("refusal", "known images refused by the detector", facts["id"]), ("acceptance", "unknown images accepted by the detector", name)):
        if key in chosen and of in sizes:
            share, units = chosen[key]["share"], sizes[of][1]
            error = math.sqrt(share * (1 - share) / units)
            found.append(_Number(name, words, share, "share", (of,), sizes[of][0], units=units, error=error))
    return found if known is not None else found[:1]


def _detected(score: str, metric: str, shift: str, right: bool) -> str:
    """What a number of an open set is called."""
    return f"{_DETECTION[metric][0]} of {score}{f', {shift}' if shift else ''}{', right ones alone' if right else ''}"


def _values(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[tuple[str, str, str, bool], float]]:
    """The numbers of one open set, by score, metric, shift ("" for the known set) and whether of right answers alone."""
    found = []
    for score, row in scores.items():
        found += [((score, metric, "", False), row[metric]) for metric in _DETECTION if metric in row]
        found += [((score, metric, shift, False), value) for shift, of in row["shifts"].items() for metric, value in of.items()]
        found += [((score, metric, "", True), value) for metric, value in (row["correct_only"] or {}).items()]
    return found


def other_code(claimed: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """Return what of versions, device and precision differs in the settings `claimed` and `measured` of two reports, in words."""
    then, now = (item.get("versions") or {} for item in (claimed, measured))
    changed = [name for name in VERSIONS if name in now and then.get(name) != now[name]]
    found = [f"{name} {then.get(name, 'unknown')} then, {now[name]} now" for name in changed]
    pairs = ((name, claimed.get(name), measured.get(name)) for name in _SETTINGS)
    return found + [f"{name} {one} then, {two} now" for name, one, two in pairs if one != two]


@dataclass
class Comparison:
    """
    What a comparison of two reports depends on.

    Attributes:
        same (`dict[str, bool]`): By set whether the images are those that were claimed of.
        missing (`dict[str, str]`): Why sets were not measured, by name.
        differing (`list[str]`): What [`other_code`] found.
        d (`float`): See [`~publishing.claim_noise.logit_rounding`].
        errors (`Mapping`): Standard errors that reports do not have, by set and name.
    """

    same: Mapping[str, bool]
    missing: Mapping[str, str]
    differing: Sequence[str]
    d: float
    errors: Mapping[tuple[str, str], float] = field(default_factory=dict)


def compare_reports(claimed: EvaluationReport, measured: EvaluationReport | None, by: Comparison) -> list[Claim]:
    """
    Compare all numbers of a report with those of another measurement.

    Args:
        claimed ([`EvaluationReport`]): What the folder says.
        measured ([`EvaluationReport`], *optional*): What was found; `None` if nothing could be measured.
        by ([`Comparison`]): What the rules depend on.

    Returns:
        `list[Claim]`: One for each number that was claimed, in the order of the report.
    """
    now = {} if measured is None else numbers(measured)
    claims, tested = [], []
    for key, number in numbers(claimed).items():
        found = now.get(key)
        if found is None:
            whose = (number.of, *number.sets, *(("knn",) if " of knn" in number.name else ()), *(("sets",) if number.name in _OF_SETS else ()))
            absent = [by.missing[name] for name in whose if name in by.missing]
            reason = absent[0] if absent else "the measurement does not give it"
            claims.append(Claim(number.of, number.name, number.value, verdict=NOT_MEASURED, reason=reason))
            continue
        claim = Claim(number.of, number.name, number.value, found.value)
        same = all(by.same.get(name, True) for name in number.sets)
        if same and number.kind == "error" and number.units != found.units:
            reason = f"chance drew {number.units:,} images or groups of them then, {found.units:,} now; give --group_column as it was"
            claims.append(replace(claim, verdict=NOT_MEASURED, reason=reason))
        elif same:
            claims.append(_judged(claim, number, by))
        elif number.kind != "error":
            # Of other images a standard error is another one, and says nothing of the model.
            chance, reason = _chance(number, found, by)
            if chance is None:
                claims.append(replace(claim, verdict=NOT_MEASURED, rule="images", reason=reason))
            else:
                tested.append(len(claims))
                claims.append(replace(claim, rule="images", p=chance))
    refused = refused_by_holm([claims[index].p for index in tested])
    for index, is_refused in zip(tested, refused, strict=True):
        if is_refused:
            why = f"other images than those of the claim, and chance alone makes such a difference with p = {claims[index].p:.1e}"
            claims[index] = replace(claims[index], verdict=FAILS, reason=why)
    return claims


def _judged(claim: Claim, number: _Number, by: Comparison) -> Claim:
    """By the rules for the same images."""
    given = number.scale if number.kind == "spectrum" else number.value
    tolerance, rule = rounding_tolerance(number.kind, number.n, number.others, by.d, number.n_classes, given), "rounding"
    difference = abs(claim.measured - claim.claimed)
    if by.differing and number.kind != "count":
        error, rule = by.errors.get((number.of, number.name), number.error), "versions"
        if number.kind == "error" or error is None and number.name in _OF_SPREAD:
            tolerance = max(tolerance, _SHARE_OF_SPREAD * abs(number.value))
        elif error is None and difference > tolerance:
            reason = "measured by other code, and no standard error of it is known"
            return replace(claim, verdict=NOT_MEASURED, rule=rule, tolerance=tolerance, reason=reason)
        else:
            # One of 0, such as that of an accuracy of 1, leaves room for rounding alone.
            tolerance = max(tolerance, OF_AN_ERROR * (error or 0.0))
    if difference <= tolerance:
        return replace(claim, rule=rule, tolerance=tolerance)
    why = f"the same images, and off by {difference:.3g} where {tolerance:.2g} is allowed"
    return replace(claim, verdict=FAILS, rule=rule, tolerance=tolerance, reason=why)


def _chance(one: _Number, two: _Number, by: Comparison) -> tuple[float | None, str]:
    """How often chance makes their difference, of other images; `None` and why where that is not known."""
    units = min(one.units, two.units)
    if one.kind == "count":
        return None, "other images than those of the claim"
    if too_few(units):
        return None, f"other images than those of the claim, and {units} are too few to compare"
    errors = [item.error for item in (one, two)]
    if one.kind == "size" or None in errors:
        error = None if one.kind == "same sizes" else by.errors.get((one.of, one.name))
        if error is None:
            return None, "other images than those of the claim, and no standard error of it is known"
        # If both are samples of one population, the claim varies as the measurement does, by the number of images.
        errors = [error * math.sqrt(two.units / one.units), error]
        units = min(units, DRAWS) if one.kind in ("pairs", "threshold") else units
    error, unresolved = math.hypot(*errors), abs(one.floor - two.floor)
    if one.name in _SHARES:
        error = max(error, share_error(one.value, two.value, one.units, two.units))
        # A share has steps.
        unresolved = (1 / one.units + 1 / two.units) / 2
    return p_value(two.value - one.value, error, units, unresolved), ""


def unreported_errors(
    claimed: EvaluationReport,
    predictions: Predictions,
    correct: Mapping[str, np.ndarray],
    affected: Sequence[str],
) -> dict[tuple[str, str], float]:
    """
    Standard errors of the numbers that reports give none for: coverage of prediction sets, and those of open sets.

    Args:
        claimed ([`EvaluationReport`]): What is claimed.
        predictions ([`~evaluation.predictions.Predictions`]): Of the measurement.
        correct (`Mapping[str, np.ndarray]`): Whether each image of a known set is classified correctly.
        affected (`Sequence[str]`): The sets for which they are needed.

    Returns:
        `dict`: By set and name, as in [`numbers`]; each of a sample of as many images, or groups, as were measured.
    """
    found: dict[tuple[str, str], float] = {}
    for name, row in ((claimed.prediction_sets or {}).get("sets") or {}).items():
        measured = predictions.sets.get(name)
        if measured is not None:
            # As of all other errors, of as many images as were measured.
            units = len(measured) if measured.group is None else len(np.unique(measured.group))
        else:
            units = claimed.results[name].n_drawn if name in claimed.results else row["n"]
        for key, words, kind in _SETS:
            if kind == "share":
                found[name, words] = math.sqrt(row[key] * (1 - row[key]) / units)
    for name, facts in (claimed.open_set or {}).items():
        if name not in predictions.sets or facts["id"] not in predictions.sets:
            continue
        shifts = [item for item in next(iter(facts["scores"].values()))["shifts"] if item in predictions.sets]
        of = [facts["id"], *shifts, name]
        if set(of) & set(affected):
            found |= _open_set_errors(name, facts["id"], shifts, predictions, correct)
    return found


def _open_set_errors(name, known, shifts, predictions, correct) -> dict[tuple[str, str], float]:
    sets = {item: predictions.sets[item] for item in (known, *shifts, name)}

    def statistics(rows: Mapping[str, np.ndarray]) -> dict[tuple, float]:
        right, found = correct[known][rows[known]], {}
        for score in sets[name].scores:
            drawn = {item: of.scores[score][rows[item]] for item, of in sets.items()}
            threshold, unseen = threshold_at_recall(drawn[known]), drawn[name]
            found |= {(score, metric, "", False): value for metric, value in ranked_detection_metrics(drawn[known], unseen).items()}
            for shift in shifts:
                values = ranked_detection_metrics(drawn[shift], unseen) | {"accepted": (drawn[shift] >= threshold).mean()}
                found |= {(score, metric, shift, False): value for metric, value in values.items()}
            if right.any():
                found |= {(score, metric, "", True): value for metric, value in ranked_detection_metrics(drawn[known][right], unseen).items()}
        return found

    sizes, groups = {item: len(of) for item, of in sets.items()}, {item: of.group for item, of in sets.items()}
    errors = resampled_errors(statistics, sizes, groups)
    return {(name, _detected(*key)): error for key, error in errors.items()}
