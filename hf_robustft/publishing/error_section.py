# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The card's section on errors: which classes are worst, and which is taken for which; only where that says something."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.error_analysis import class_rates, worst_classes
from ..evaluation.report import EvaluationReport
from ..evaluation.tables import label, ordered
from .text import markdown_text

#: Of each set: classes and pairs that are named, and how often a pair must occur.
NAMED, FEWEST = 3, 3


def error_section(report: EvaluationReport) -> str:
    """
    Say where a model errs.

    Args:
        report ([`EvaluationReport`]): The results that the card shows.

    Returns:
        `str`: The section in markdown: for each test set the classes that are less accurate than the whole by more than chance
        explains, and the pairs of classes of which at least three images are confused. Empty if there is neither.
    """
    lines = []
    for result in ordered(report):
        part = (report.error_analysis or {}).get(result.name)
        if part is None or result.role not in ("id", "shift"):
            continue
        worst = worst_classes(part, result.accuracy)
        pairs = [pair for pair in part["confusions"] if pair["n"] >= FEWEST]
        said = []
        if worst:
            named = ", ".join(_class(name, part["classes"][name]) for name in worst[:NAMED])
            said.append(f"{len(worst):,} of {len(part['classes']):,} classes are less accurate than the whole by more than chance explains: {named}{', ...' * (len(worst) > NAMED)}")
        if pairs:
            named = ", ".join(f"{markdown_text(pair['label'])} for {markdown_text(pair['predicted'])} ({pair['n']:,})" for pair in pairs[:NAMED])
            said.append(f"most often taken for each other: {named}")
        if said:
            lines.append(f"- {markdown_text(label(result))}: {'; '.join(said)}.")
    if not lines:
        return ""
    introduction = "By class, with 95 % intervals; a class of few images has a wide one. All classes are in `evaluation.json`."
    return "\n".join(["### Where it errs", "", introduction, "", *lines])


def _class(name: str, row: Mapping[str, Any]) -> str:
    rates = class_rates(row)
    low, high = (f"{100 * end:.0f}" for end in rates["interval"])
    return f"{markdown_text(name)} {100 * rates['accuracy']:.0f} % of {row['images']:,} images ({low} to {high})"
