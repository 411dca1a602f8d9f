# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Lists of a report as claims: the answers class by class, and the curve of thresholds. Each list is one claim on how many entries agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.report import EvaluationReport
from .claim_noise import share_of_ties
from .claims import FAILS, NOT_MEASURED, Claim, Comparison


def detail_claims(claimed: EvaluationReport, measured: EvaluationReport | None, by: Comparison) -> list[Claim]:
    """
    Compare the lists of two reports.

    Args:
        claimed ([`EvaluationReport`]): What the folder says.
        measured ([`EvaluationReport`], *optional*): What was found; `None` if nothing could be measured.
        by ([`Comparison`]): What the rules depend on.

    Returns:
        `list[Claim]`: One for each set with classes, and for each open set with a curve.
    """
    claims = []
    for name, part in (claimed.error_analysis or {}).items():
        now = ((measured and measured.error_analysis) or {}).get(name)
        images = round(share_of_ties(claimed.results[name].n) * claimed.results[name].n)
        off = [] if now is None else [_off(row, now["classes"].get(of)) for of, row in part["classes"].items()]
        # An image that is decided otherwise changes what is right of its own class, and how often two are predicted.
        claims.append(_list(name, "answers by class", len(part["classes"]), off.count(0), sum(off) <= 3 * images, now, by, (name,)))
    for name, facts in (claimed.open_set or {}).items():
        curve = facts.get("threshold_curve")
        if curve is None:
            continue
        now = (((measured and measured.open_set) or {}).get(name) or {}).get("threshold_curve")
        now = now if now is not None and now["score"] == curve["score"] else None
        known = claimed.results[facts["id"]].n
        rooms = {"threshold": 2 * by.d + 1e-6, "refusal": share_of_ties(known) + 1e-6, "acceptance": share_of_ties(facts["n"]) + 1e-6}
        agree = 0 if now is None else _agreeing(curve, now, rooms)
        points = len(curve["threshold"])
        # Which scores are on the curve depends on their order.
        fits = points - agree <= max(1, points // 20)
        claims.append(_list(name, f"thresholds of {curve['score']}", points, agree, fits, now, by, (name, facts["id"])))
    return claims


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


def _agreeing(one: Mapping[str, Any], two: Mapping[str, Any], rooms: Mapping[str, float]) -> int:
    if len(one["threshold"]) != len(two["threshold"]):
        return 0
    rows = zip(*(zip(one[name], two[name], strict=True) for name in rooms), strict=True)
    return sum(all(abs(a - b) <= room for (a, b), room in zip(row, rooms.values(), strict=True)) for row in rows)
