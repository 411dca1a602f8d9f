# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Lists of a report as claims: bins of confidence, what each class is taken for, the mistakes that are named, and the curve of thresholds. Each
list is one claim on how many entries agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..data.messages import quoted
from ..data.prompts import class_key
from ..evaluation.intervals import share_interval
from ..evaluation.report import DatasetResult, EvaluationReport
from ..modeling.metadata import METADATA_FILE
from .card_sections import FOLDED_SINCE
from .claim_noise import share_of_ties
from .claims import FAILS, HOLDS, NOT_MEASURED, Claim, Comparison
from .run_folder import EVALUATION_FILE

#: By which an image that is named is known.
_MISTAKE = ("row", "label", "predicted")


def detail_claims(claimed: EvaluationReport, measured: EvaluationReport | None, by: Comparison) -> list[Claim]:
    """
    Compare the lists of two reports.

    Args:
        claimed ([`EvaluationReport`]): What the folder says.
        measured ([`EvaluationReport`], *optional*): What was found; `None` if nothing could be measured.
        by ([`Comparison`]): What the rules depend on.

    Returns:
        `list[Claim]`: Of each set with classes those on its bins, answers, mistakes and prediction sets; of each open set that on its curve.
    """
    claims = []
    for name, row in claimed.results.items():
        claims.append(_bins(row, None if measured is None else measured.results.get(name), by))
    for name, part in (claimed.error_analysis or {}).items():
        now = ((measured and measured.error_analysis) or {}).get(name)
        n = claimed.results[name].n
        images = round(share_of_ties(n) * n)
        off = [] if now is None else [_off(row, now["classes"].get(of)) for of, row in part["classes"].items()]
        # An image that is decided otherwise changes what is right of its own class, and how often two are predicted.
        fits = sum(off) <= 3 * images and now is not None and abs(part["n_wrong"] - now["n_wrong"]) <= images
        sure = now is not None and all(_as_sure(row, now["classes"].get(of), by.d) for of, row in part["classes"].items())
        claims.append(_list(name, "answers by class", len(part["classes"]), off.count(0), fits and sure, now, by, (name,)))
        pairs = [] if now is None else _pairs(part, now)
        fits = sum(pairs) <= 2 * images and now is not None and abs(part["n_confusions"] - now["n_confusions"]) <= 2 * images
        claims.append(_list(name, "classes taken for others", len(part["confusions"]), pairs.count(0), fits, now, by, (name,)))
        for key, words in (("worst", "worst mistakes"), ("most_confident", "most confident mistakes")):
            found = {} if now is None else {tuple(row[of] for of in _MISTAKE): row for row in now[key]}
            pairs = [(row, found.get(tuple(row[of] for of in _MISTAKE))) for row in part[key]]
            gone, agree = [two for _, two in pairs].count(None), sum(two is not None and _as_bad(one, two, by.d) for one, two in pairs)
            # What is decided otherwise comes or goes, and another takes its place.
            fits = gone <= images and gone + agree == len(pairs)
            claims.append(_list(name, words, len(pairs), agree, fits, now, by, (name,)))
    for name, row in (claimed.multi_label or {}).items():
        now = ((measured and measured.multi_label) or {}).get(name)
        agree = 0 if now is None else sum(_same_numbers(of, now["classes"].get(item), row["n"], by.d) for item, of in row["classes"].items())
        counts = now is not None and all(row[key] == now[key] for key in ("n_labels", "without_label"))
        claims.append(_list(name, "numbers by class", len(row["classes"]), agree, counts and agree == len(row["classes"]), now, by, (name,)))
    for name, row in ((claimed.prediction_sets or {}).get("sets") or {}).items():
        now = (((measured and measured.prediction_sets) or {}).get("sets") or {}).get(name)
        now = now if now is not None and len(now["class_held"]) == len(row["class_held"]) else None
        off = [] if now is None else [sum(abs(a - b) for a, b in zip(*pair, strict=True)) for pair in _by_class(row, now)]
        images = round(share_of_ties(row["n"]) * row["n"])
        claims.append(_list(name, "sets by class", len(row["class_held"]), off.count(0), sum(off) <= images, now, by, (name, "sets")))
    for name, facts in (claimed.open_set or {}).items():
        curve = facts.get("threshold_curve")
        if curve is None:
            continue
        now = (((measured and measured.open_set) or {}).get(name) or {}).get("threshold_curve")
        now = now if now is not None and now["score"] == curve["score"] else None
        known, unknown = share_of_ties(claimed.results[facts["id"]].n) + 1e-6, share_of_ties(facts["n"]) + 1e-6
        rooms = {"threshold": 2 * by.d + 1e-6}
        # The ends of an interval move by more than the share between them, by at most twice as much.
        rooms |= {"refusal": known, "acceptance": unknown} | {f"{key}_{end}": 2 * room for key, room in (("refusal", known), ("acceptance", unknown)) for end in ("low", "high")}
        lists = [curve, now or {}]
        same = [of for of in curve["shifts"] if of in claimed.results and of not in by.missing and by.same.get(of, True)]
        shifts = {of: share_of_ties(claimed.results[of].n) + 1e-6 for of in same}
        lists = [{**of, **{f"shifts/{item}": of.get("shifts", {}).get(item, ()) for item in shifts}} for of in lists]
        rooms |= {f"shifts/{of}": room for of, room in shifts.items()}
        agree = 0 if now is None else _agreeing(*lists, rooms)
        points = len(curve["threshold"])
        # Which scores are on the curve depends on their order.
        fits = points - agree <= max(1, points // 20) and (now is None or _as_marked(curve["chosen"], now["chosen"]))
        claims.append(_list(name, f"thresholds of {curve['score']}", points, agree, fits, now, by, (name, facts["id"])))
    return claims


def derived_claims(claimed: EvaluationReport, shift_mean: Any, thresholds: Mapping[str, Any] | None = None) -> list[Claim]:
    """
    Compare numbers of a report that follow from others with these: the mean over the shifts, the ends of intervals, and the thresholds of
    lists of labels, which are those that answers are given by.

    Args:
        claimed ([`EvaluationReport`]): What the folder says.
        shift_mean (`Any`): The mean that its file has, which is not read with the report.
        thresholds (`Mapping[str, Any]`, *optional*): The part `thresholds` of `robustft.json`.
    """
    wanted = claimed.shift_mean
    given = shift_mean if isinstance(shift_mean, Mapping) else {}
    claims = [_follows(EVALUATION_FILE, f"{key} of the mean over shifts", given.get(key), wanted.get(key), 1e-9) for key in {**wanted, **given}]
    for name, row in ((claimed.prediction_sets or {}).get("sets") or {}).items():
        held, ends = sum(row["class_held"]), ("lower", "upper")
        claims.append(_follows(name, "images whose set holds their class", round(row["coverage"] * row["n"], 6), held, 1e-5))
        pairs = zip(ends, row["interval"], share_interval(held, row["n"]), strict=True)
        claims += [_follows(name, f"{end} end of the interval of the coverage", one, two) for end, one, two in pairs]
    for name, facts in (claimed.open_set or {}).items():
        curve = facts.get("threshold_curve") or {}
        for key, row in ((key, (curve.get("chosen") or {}).get(key)) for key in ("refusal", "acceptance")):
            if row is not None:
                pairs = zip(("low", "high"), share_interval(round(row["share"] * row["n"]), row["n"], curve["confidence"]), strict=True)
                claims += [_follows(name, f"{key} by the detector, {end} end of its interval", row[end], two) for end, two in pairs]
    # Those of a report before a calibration are others.
    given = (thresholds or {}).get("classes") or {} if FOLDED_SINCE not in claimed.settings else {}
    given = {class_key(name): value for name, value in given.items()}
    for name, row in (claimed.multi_label or {}).items() if given else ():
        if row["thresholds_of"] is not None and row["thresholds_of"] == thresholds.get("fitted_on"):
            off = [of for of, item in row["classes"].items() if not math.isclose(item["threshold"], given.get(class_key(of), math.nan), abs_tol=1e-9)]
            why = "" if not off else f"{METADATA_FILE} has others for {quoted(off, 3)}"
            total = len(row["classes"])
            claims.append(Claim(name, "thresholds of labels", total, total - len(off), FAILS if off else HOLDS, reason=why))
    return claims


def _follows(of: str, name: str, given: Any, wanted: float | None, room: float = 1e-6) -> Claim:
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    if number and wanted is not None and math.isclose(given, wanted, rel_tol=room, abs_tol=room):
        return Claim(of, name, given, wanted)
    return Claim(of, name, given if number and math.isfinite(given) else str(given)[:60], wanted, FAILS, reason="the other numbers there give another")


def _bins(row: DatasetResult, now: DatasetResult | None, by: Comparison) -> Claim:
    """The bins of a reliability diagram."""
    images, bins = round(share_of_ties(row.n) * row.n), [row.reliability, None if now is None else now.reliability]
    if now is None or len(bins[1]["count"]) != len(bins[0]["count"]):
        return _list(row.name, "bins of confidence", len(bins[0]["count"]), 0, False, None, by, (row.name,))
    off = []
    for place, counts in enumerate(zip(*(item["count"] for item in bins), strict=True)):
        right, sure = ([round((item[key][place] or 0.0) * count, 6) for item, count in zip(bins, counts, strict=True)] for key in ("accuracy", "confidence"))
        edges = sum(abs(bins[0][key][place] - bins[1][key][place]) > 1e-9 for key in ("lower", "upper"))
        # An image in the next bin takes its confidence along; of the others each may move by half of d.
        moved = max(abs(sure[0] - sure[1]) - min(counts) * by.d / 2 - 1e-5, 0.0)
        off.append(max(abs(counts[0] - counts[1]), math.ceil(abs(right[0] - right[1]) - 1e-5), math.ceil(moved)) + row.n * edges)
    # It changes two bins.
    return _list(row.name, "bins of confidence", len(off), off.count(0), sum(off) <= 2 * images, now, by, (row.name,))


def _list(of: str, name: str, entries: int, agree: int, fits: bool, now: Any, by: Comparison, sets: tuple[str, ...]) -> Claim:
    absent = [by.missing[item] for item in sets if item in by.missing]
    if now is None:
        return Claim(of, name, entries, verdict=NOT_MEASURED, reason=absent[0] if absent else "the measurement does not give it")
    if not all(by.same.get(item, True) for item in sets):
        reason = "other images than those of the claim, and no standard error of it is known"
        return Claim(of, name, entries, agree, NOT_MEASURED, "images", reason=reason)
    if by.differing:
        reason = "measured by other code, and no standard error of it is known"
        return Claim(of, name, entries, agree, NOT_MEASURED, "versions", reason=reason) if agree < entries else Claim(of, name, entries, agree)
    if fits:
        return Claim(of, name, entries, agree, rule="rounding")
    reason = f"the same images, and {entries - agree:,} of {entries:,} differ by more than rounding may do"
    return Claim(of, name, entries, agree, FAILS, "rounding", reason=reason)


def _off(one: Mapping[str, Any], two: Mapping[str, Any] | None) -> int:
    return sum(abs(one[name] - (0 if two is None else two[name])) for name in ("images", "right", "predicted"))


def _as_sure(one: Mapping[str, Any], two: Mapping[str, Any] | None, d: float) -> bool:
    """Whether the mean confidence of what is taken for a class is as it was, where the counts are."""
    if two is None or one["predicted"] != two["predicted"] or one["confidence"] is None:
        return True
    # A file has six digits.
    return abs(one["confidence"] - two["confidence"]) <= d / 2 + 2e-6


def _pairs(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[int]:
    """By how many images each of the most frequent confusions is off; of those that the other list has no room for, beyond its last one."""
    now = {(row["label"], row["predicted"]): row["n"] for row in two["confusions"]}
    least = min(now.values(), default=0) if two["n_confusions"] > len(now) else 0
    counts = [(row["n"], now.get((row["label"], row["predicted"]))) for row in one["confusions"]]
    return [abs(n - found) if found is not None else max(n - least, 0) for n, found in counts]


def _same_numbers(one: Mapping[str, Any], two: Mapping[str, Any] | None, n: int, d: float) -> bool:
    """Whether the numbers of a class of lists of labels are those of before, but for one of its images that is ranked or given otherwise."""
    if two is None or one["n"] != two["n"]:
        return False
    rooms = dict.fromkeys(("average_precision", "f1"), 2 / max(one["n"], 1)) | {"ece": 2 * share_of_ties(n) + d / 2, "threshold": d}
    pairs = ((one[key], two[key], room + 1e-9) for key, room in rooms.items())
    return all(a is b is None or a is not None and b is not None and abs(a - b) <= room for a, b, room in pairs)


def _as_marked(one: Mapping[str, Any] | None, two: Mapping[str, Any] | None) -> bool:
    """Whether the threshold that is marked on a curve is that of the detector."""
    if one is None or two is None:
        return True
    return math.isclose(one["threshold"], two["threshold"], rel_tol=1e-9, abs_tol=1e-12) and one["own_thresholds"] == two["own_thresholds"]


def _as_bad(one: Mapping[str, Any], two: Mapping[str, Any], d: float) -> bool:
    return abs(one["confidence"] - two["confidence"]) <= d / 2 + 1e-9 and abs(one["nll"] - two["nll"]) <= 2 * d + 1e-9


def _by_class(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Of each class its images and those whose set holds it, in both."""
    return list(zip(*(zip(item["class_images"], item["class_held"], strict=True) for item in (one, two)), strict=True))


def _agreeing(one: Mapping[str, Any], two: Mapping[str, Any], rooms: Mapping[str, float]) -> int:
    if len(one["threshold"]) != len(two["threshold"]):
        return 0
    rows = zip(*(zip(one[name], two[name], strict=True) for name in rooms), strict=True)
    return sum(all(abs(a - b) <= room for (a, b), room in zip(row, rooms.values(), strict=True)) for row in rows)
