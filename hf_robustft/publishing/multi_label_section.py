# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a card says of images with lists of labels: results, sentence, code, and what the plain pipeline shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..evaluation.findings import listed, percent
from ..evaluation.report import EvaluationReport
from ..evaluation.tables import multi_label_cells, multi_label_name, multi_label_notes
from ..modeling.metadata import METADATA_FILE, MULTI_LABEL, load_robustft_json
from ..modeling.zero_shot import HEAD_FILE
from . import snippets
from .run_folder import similarity_in
from .text import code_span, markdown_text, public_text
from .verdict import model_name, points


def is_multi_label(folder: str | Path) -> bool:
    """Return whether the model in a `folder` was trained on lists of labels, as its `robustft.json` says."""
    path = Path(folder) / METADATA_FILE
    return path.is_file() and load_robustft_json(folder).get("problem_type") == MULTI_LABEL


def multi_label_section(
    folder: Path, report: EvaluationReport, baseline: EvaluationReport | None, names: tuple[str, str | None]
) -> dict[str, Any]:
    """
    Gather what the template says about lists of labels.

    Args:
        folder (`Path`): Folder of the checkpoint.
        report ([`EvaluationReport`]), baseline ([`EvaluationReport`], *optional*): The results.
        names (`tuple[str, str | None]`): What the table calls the two models, in markdown.

    Returns:
        `dict[str, Any]`: `rows` and `notes` of the table, empty without such results; and for a model that was trained on lists of
        labels `trained`, the `snippet` that gives them, and `thresholds`, a sentence on where they come from.
    """
    rows: list[list[str | None]] = []
    for name, row in (report.multi_label or {}).items():
        title, before = markdown_text(multi_label_name(name, row)), ((baseline and baseline.multi_label) or {}).get(name)
        if before is not None:
            rows.append([title, names[1], f"{before['n']:,}", *multi_label_cells(before)])
        rows.append(["" if before is not None else title, names[0], f"{row['n']:,}", *multi_label_cells(row)])
    notes = [markdown_text(line) for line in multi_label_notes(report, baseline)] if rows else []
    trained = is_multi_label(folder)
    return {
        "rows": rows,
        "notes": notes,
        "trained": trained,
        "snippet": snippets.label_lists_snippet() if trained else None,
        "thresholds": _thresholds(folder) if trained else None,
    }


def multi_label_summary(subject: str, report: EvaluationReport, baseline: EvaluationReport | None) -> str:
    """
    Say in one sentence how well the model ranks images for each label, and how far its probabilities are off.

    Args:
        subject (`str`): What the model is, in markdown: the sentence's beginning.
        report ([`EvaluationReport`]): The model's results.
        baseline ([`EvaluationReport`], *optional*): Results of the model that it started from, quoted in brackets.

    Returns:
        `str`: Markdown.
    """
    right, off = [], []
    for name, row in (report.multi_label or {}).items():
        if row["role"] not in ("id", "shift"):
            continue
        before = ((baseline and baseline.multi_label) or {}).get(name, {}).get("map")
        was = "" if before is None else f" ({model_name(baseline)}: {percent(before)})"
        shown = "unknown" if row["map"] is None else percent(row["map"])
        right.append(f"{shown} on the {row['n']:,} images of {markdown_text(name)}{was}")
        off.append(f"{points(row['ece'])} on {markdown_text(name)}")
    if not right:
        return f"{subject} was not measured on a test set: the results below are on training or validation data."
    return (
        f"{subject} gives an image any number of labels, or none: its mean average precision is {listed(right)}; the probability of a "
        f"class is off by {listed(off)} on average (ECE of each class)."
    )


def plain_pipeline_sentence(folder: Path) -> str | None:
    """Say of a SigLIP that was trained on lists of labels what the plain pipeline shows; `None` for another model, in a `folder`."""
    if similarity_in(folder) != "sigmoid" or (folder / HEAD_FILE).is_file():
        return None
    return (
        "**The plain pipeline shows the sigmoid of each class by itself**, with the model's logit bias in it: the probabilities that "
        "were trained and measured, of one template. They do not add up to 1."
    )


def _thresholds(folder: Path) -> str:
    found = load_robustft_json(folder).get("thresholds") or {}
    if found.get("fitted_on") is None:
        return f"There were no validation images, so the thresholds in {code_span(METADATA_FILE)} are all 0.5."
    default = f"; {len(found['default'])} classes without images there have 0.5" if found["default"] else ""
    return (
        f"The threshold of each class in {code_span(METADATA_FILE)} has the highest F1 on {found['n']:,} images of "
        f"{markdown_text(public_text(found['fitted_on']))}{default}."
    )
