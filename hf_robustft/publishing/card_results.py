# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The results in a card: the table of all sets, its conventions, and the spectrum of the embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_robustft.evaluation.report import EvaluationReport
from hf_robustft.evaluation.tables import label, ordered
from hf_robustft.publishing import verdict
from hf_robustft.publishing.model_index import n_bins
from hf_robustft.publishing.text import markdown_text

RELIABILITY_FILE = "reliability.png"
SHIFT_FILE = "shift.png"


def results_section(
    output_dir: Path,
    report: EvaluationReport,
    baseline: EvaluationReport | None,
    names: tuple[str, str | None],
) -> dict[str, Any]:
    """
    What the template says of the results.

    Args:
        output_dir: Folder of the checkpoint; pictures that lie in it are shown.
        report, baseline: The results.
        names: What the table calls the two models, in markdown.

    Returns:
        `dict[str, Any]`: Values by the names that the template uses.
    """
    results = ordered(report)
    draws = report.settings.get("bootstrap_draws")
    by_head: dict[str, list[str]] = {}
    for result in results:
        by_head.setdefault(markdown_text(result.head), []).append(markdown_text(result.name))
    heads = [head if len(by_head) == 1 else f"{head} on {', '.join(names)}" for head, names in by_head.items()]
    return {
        "rows": _table_rows(report, baseline, names),
        "draws": f" ({draws} draws)" if draws else "",
        "n_bins": n_bins(results[0]),
        "heads": "; ".join(heads),
        "data_notes_of_results": _class_notes(report) + _unreadable_notes(report),
        "logit_scale": None if report.logit_scale is None else f"{report.logit_scale:.2f}",
        "spectrum": _spectrum(report, baseline),
        "reliability_picture": (output_dir / RELIABILITY_FILE).is_file(),
        "shift_picture": bool(report.shifts) and (output_dir / SHIFT_FILE).is_file(),
        "shift_count": len(report.shifts),
        "shift_names": ", ".join(markdown_text(result.name) for result in report.shifts),
        "no_shift": not report.shifts,
        "has_id": any(result.role == "id" for result in results),
    }


def _table_rows(
    report: EvaluationReport, baseline: EvaluationReport | None, names: tuple[str, str | None]
) -> list[list[str]]:
    rows = []
    results = ordered(report)
    last_shift = max((index for index, result in enumerate(results) if result.role == "shift"), default=None)
    for index, result in enumerate(results):
        before = None if baseline is None else baseline.results.get(result.name)
        title = markdown_text(label(result))
        if before is not None:
            rows.append([title, names[1], f"{before.n:,}", *_cells(vars(before))])
        rows.append(["" if before is not None else title, names[0], f"{result.n:,}", *_cells(vars(result))])
        if index == last_shift and len(report.shifts) > 1:
            title = f"**mean of {len(report.shifts)} shifts**"
            if verdict.same_shifts(report, baseline):
                rows.append([title, names[1], "", *_cells(baseline.shift_mean)])
                title = ""
            rows.append([title, names[0], "", *_cells(report.shift_mean)])
    return rows


def _class_notes(report: EvaluationReport) -> list[str]:
    """Sets whose logits are those of a larger head, projected."""
    projected = [result for result in ordered(report) if (result.head_classes or 0) > result.n_classes]
    return [
        f"{markdown_text(result.name)}: of the {result.head_classes:,} classes of the head, probabilities are over the "
        f"{result.n_classes:,} that the set knows."
        for result in projected
    ]


def _unreadable_notes(report: EvaluationReport) -> list[str]:
    found = [(result.name, result.unreadable) for result in ordered(report)]
    found += [(name, facts.get("unreadable")) for name, facts in (report.open_set or {}).items()]
    return [
        f"{markdown_text(name)}: {facts['count']:,} of {facts['of']:,} images could not be read and are left out."
        for name, facts in found
        if facts is not None
    ]


def _cells(values: Mapping[str, Any]) -> list[str]:
    se, floor = values.get("accuracy_se"), values.get("ece_noise_floor")
    return [
        f"{100 * values['accuracy']:.1f}" + ("" if se is None else f" ± {100 * se:.1f}"),
        f"{100 * values['ece']:.1f}" + ("" if floor is None else f" ({100 * floor:.1f})"),
        f"{values['nll']:.3f}",
        f"{values['brier']:.3f}",
    ]


def _spectrum(report: EvaluationReport, baseline: EvaluationReport | None) -> str | None:
    if report.spectrum is None:
        return None
    spectrum = report.spectrum
    before = ""
    if baseline is not None and baseline.spectrum is not None:
        before = f" ({verdict.model_name(baseline)}: {baseline.spectrum['smallest_singular_value']:.3e})"
    sentence = (
        f"Smallest singular value of the centred covariance of the unit-norm image embeddings of "
        f"{markdown_text(spectrum['dataset'])}: {spectrum['smallest_singular_value']:.3e}{before}, "
        f"from n = {spectrum['n']:,} images in {spectrum['dimension']} dimensions."
    )
    return f"{sentence} {markdown_text(spectrum['note'])}" if spectrum.get("note") else sentence
