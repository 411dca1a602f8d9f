# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The card's section on prediction sets: what they promise, what was measured, and where the promise does not hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation.prediction_sets import METHODS, ConformalClassifier
from ..evaluation.report import EvaluationReport
from ..modeling.metadata import METADATA_FILE, load_robustft_json
from .card_sections import FOLDED_SINCE
from .text import code_span, markdown_text, public_text

_WORDS = dict(
    zip(
        METHODS,
        ("least ambiguous sets (LAC)", "adaptive prediction sets (APS)", "regularised adaptive prediction sets (RAPS)"),
        strict=True,
    )
)


def prediction_sets_section(output_dir: str | Path, report: EvaluationReport) -> str:
    """
    Say what the prediction sets of a checkpoint are worth.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoint.
        report ([`EvaluationReport`]): The results that the card shows.

    Returns:
        `str`: The section in markdown; empty if `robustft.json` has no prediction sets.

    Raises:
        ValueError: If those it has are broken.
    """
    folder = Path(output_dir)
    facts = load_robustft_json(folder).get("prediction_sets") if (folder / METADATA_FILE).is_file() else None
    if facts is None:
        return ""
    sets = ConformalClassifier.from_dict(facts)
    on = f" of {markdown_text(public_text(sets.fitted_on))}" if sets.fitted_on else ""
    goal = f"{100 * sets.coverage:g} %"
    parts = [
        "## Prediction sets",
        f"For each image `hf_robustft`'s pipeline also gives a set of classes, {code_span('prediction_set')}: {_WORDS[sets.method]} by split "
        f"conformal prediction, fitted on {sets.n:,} images{on}. **Of new images like these, the sets of at least {goal} hold the "
        "image's own class.** That is an average over all classes and images, not a statement about a single one, and images of "
        f"none of the classes have a set too.{_own(sets)}",
    ]
    if sets.quantile is None:
        parts.append("These images are too few for that coverage, so that every set holds all classes.")
    measured = report.prediction_sets
    same = measured is not None and {**sets.summary(), "sets": measured["sets"]} == measured
    if not same:
        parts.append("How often the sets of this folder hold the class of test images was not measured.")
        return "\n\n".join(parts)
    lines = ["| Set | Images | Coverage % (95 % interval) | Classes in a set | One class % | No class % |", "|:--|--:|--:|--:|--:|--:|"]
    for name, row in measured["sets"].items():
        title = markdown_text(name) + (" (ID)" if report.results[name].role == "id" else "")
        low, high = (f"{100 * value:.1f}" for value in row["interval"])
        cells = [title, f"{row['n']:,}", f"{100 * row['coverage']:.1f} ({low} to {high})", f"{row['mean_size']:.2f}"]
        cells += [f"{100 * row[key]:.1f}" for key in ("single", "empty")]
        lines.append(f"| {' | '.join(cells)} |")
    parts.append("\n".join(lines))
    if report.settings.get(FOLDED_SINCE) is not None:
        parts.append("**They were measured before the sets were fitted again, with a new temperature.**")
    parts += _missed(report, measured, goal)
    return "\n\n".join(parts)


def coverage_text(row: Mapping[str, Any]) -> str:
    """Return in words a `row` of what was measured of prediction sets, for the terminal."""
    low, high = (100 * value for value in row["interval"])
    return (
        f"sets hold the class of {100 * row['coverage']:.1f} % of {row['n']:,} images (95 % interval {low:.1f} to {high:.1f}), with "
        f"{row['mean_size']:.2f} classes on average"
    )


def _own(sets: ConformalClassifier) -> str:
    own = sets.class_quantiles
    if own is None:
        return ""
    rest = len(sets.common)
    few = f" The other {rest:,} had fewer than {sets.min_per_class} images, and no such statement holds for them by themselves." if rest else ""
    return f" For {len(own):,} classes it holds by themselves, as each has a quantile of its own.{few}"


def _missed(report: EvaluationReport, measured: Mapping[str, Any], goal: str) -> list[str]:
    """Say by how much the coverage was missed under shift."""
    shifts = {name: row for name, row in measured["sets"].items() if report.results[name].role == "shift"}
    if not shifts:
        return []
    below = {name: row for name, row in shifts.items() if row["interval"][1] < measured["coverage"]}
    said = ", ".join(f"{markdown_text(name)} by {100 * (measured['coverage'] - row['coverage']):.1f} points" for name, row in below.items())
    where = f"It was missed on {said}" if below else f"On these shifts {goal} was not clearly missed, which no theory promises"
    return [f"**The guarantee assumes images like those of the fit, and does not hold under shift.** {where}."]
