# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What is known image by image of the chosen candidates: classes, what was forgotten, abstaining, the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .differences import kept
from .per_image import forgotten, per_class, risk_coverage, worst_mistakes
from .runs import Comparison
from .unknown import choose_score

#: Mistakes that are kept of each set.
MISTAKES = 6


def details(
    comparison: Comparison, sets: Mapping[str, str], shown: Sequence[str], winner: str, decided_on: str
) -> dict[str, Any]:
    """
    Look into the predictions of some candidates.

    Args:
        comparison ([`Comparison`]): The runs.
        sets (`Mapping[str, str]`): Their sets, and the role that each has here.
        shown (`Sequence[str]`): The labels of the candidates.
        winner (`str`): The label of the one whose mistakes are shown.
        decided_on (`str`): `"shift_mean"` or `"id_mean"`: by which sets classes are compared.

    Returns:
        `dict`: Those of the keys `per_class`, `forgotten`, `risk_coverage`, `score_choice` and `worst_mistakes` of which something
        is known; all but the last by label.
    """
    tested = [name for name, role in sets.items() if role in ("id", "shift")]
    deciding = [name for name, role in sets.items() if role == decided_on.removesuffix("_mean")]
    shifts = [name for name, role in sets.items() if role == "shift"]
    unseen = {name: comparison.runs[0].report.open_set[name]["id"] for name, role in sets.items() if role == "open_set"}
    runs = {candidate.label: of for candidate, of in comparison.candidates.items() if candidate.label in shown}
    runs = {
        label: [run.predictions for run in of] for label, of in runs.items() if all(kept(run, tested) for run in of)
    }
    start = comparison.zero_shot
    start = start.predictions if start is not None and kept(start, tested) else None
    found: dict[str, Any] = {"per_class": {}, "forgotten": {}, "risk_coverage": {}, "score_choice": {}, "worst_mistakes": []}
    for label, of in runs.items():
        if start is not None:
            found["per_class"][label] = [asdict(change) for change in per_class(of, start, deciding)]
            fell = forgotten(of, start, tested)
            found["forgotten"][label] = {
                **fell,
                **{key: [asdict(change) for change in fell[key]] for key in ("sets", "classes")},
            }
    for label, of in {**({} if start is None else {comparison.zero_shot.candidate.label: [start]}), **runs}.items():
        found["risk_coverage"][label] = {name: risk_coverage([one.sets[name] for one in of]) for name in tested}
        chosen = {name: choose_score(of, name, known, shifts) for name, known in unseen.items()}
        found["score_choice"] |= {label: {name: item for name, item in chosen.items() if item}} if any(chosen.values()) else {}
    if winner in runs:
        for name in deciding:
            found["worst_mistakes"] += worst_mistakes([one.sets[name] for one in runs[winner]], MISTAKES)
    return {key: value for key, value in found.items() if value}
