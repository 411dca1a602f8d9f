# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a card says of the temperature in `robustft.json`, and whether the results above it were measured with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_robustft.evaluation.report import EvaluationReport
from hf_robustft.modeling.metadata import METADATA_FILE, load_robustft_json
from hf_robustft.publishing.text import code_span, markdown_text, public_text

#: In a report's settings: the temperature that was folded into the weights after the report was measured.
FOLDED_SINCE = "temperature_folded_since"


@dataclass(frozen=True)
class TemperatureSection:
    """
    What a card says of temperature scaling; all of it is empty without any.

    Attributes:
        sentence (`str`): In markdown.
        warning (`str`): That the results do not hold the temperature, in markdown.
        rows (`list[list[str]]`): Table of ECE and NLL before and after, header first.
        shifts (`str`): That the confidence under shift became worse, if it did.
    """

    sentence: str = ""
    warning: str = ""
    rows: tuple[list[str], ...] = ()
    shifts: str = ""


def temperature_section(output_dir: str | Path, report: EvaluationReport) -> TemperatureSection:
    """
    Gather what a card says of the temperature.

    Args:
        output_dir: Folder of the checkpoint.
        report: The results that the card shows.

    Returns:
        [`TemperatureSection`]
    """
    path = Path(output_dir) / METADATA_FILE
    facts = load_robustft_json(output_dir).get("temperature") if path.is_file() else None
    if facts is None:
        return TemperatureSection()
    since = report.settings.get(FOLDED_SINCE)
    warning = ""
    if since is not None:
        warning = (
            f"**The results here, open sets and pictures included, were measured before a temperature of {since:.4g} was "
            "folded into the logit scale.** Accuracy is the same; ECE, NLL, Brier and the open-set scores of the weights "
            f"in this folder are others{', those below' if facts.get('sets') else ''}."
        )
    return TemperatureSection(_sentence(facts, since is None), warning, _rows(facts), worse_under_shift(facts))


def worse_under_shift(facts: Mapping[str, Any]) -> str:
    """A sentence that the mean ECE over the shifts rose with the temperature; empty if it did not, or was not measured."""
    pairs = [row["ece"] for row in facts.get("sets", {}).values() if row["role"] == "shift"]
    if not pairs:
        return ""
    before, after = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    if round(after, 3) <= round(before, 3):
        return ""
    mean = "Mean ECE" if len(pairs) > 1 else "ECE"
    surer = "; this one makes the model surer of everything" if facts["folded"] < 1 else ""
    return (
        f"{mean} under shift rose from {100 * before:.1f}% to {100 * after:.1f}%: a temperature that is right in distribution "
        f"says nothing about shifts{surer}."
    )


def _sentence(facts: Mapping[str, Any], included: bool) -> str:
    fit = ""
    if facts.get("n") is not None:
        before, after = facts["nll_before"], facts["nll_after"]
        on = f" of {markdown_text(public_text(facts['fitted_on']))}" if facts.get("fitted_on") else ""
        ece = ""
        if facts.get("ece_before") is not None:
            ece = f"; ECE {100 * facts['ece_before']:.1f}% before, {100 * facts['ece_after']:.1f}% after"
        fit = f", fitted on {facts['n']:,} images{on} (NLL {before:.3f} before, {after:.3f} after{ece})"
    if facts.get("test_set"):
        fit += ", which the model was trained or measured on too, so that calibration on them looks better than it is"
    if facts.get("folded", 1.0) != 1:
        more = "" if facts["temperature"] == 1 else f" A further one of {facts['temperature']:.4g} is not in them."
        times = len(facts.get("history", ()))
        # The fit in the facts is the last one.
        last = f" (the product of {times} fits, the last one" if times > 1 else ""
        folded = f"The logit scale has a temperature of {facts['folded']:.4g} in it{last}{fit}{')' if last else ''}"
        return f"{folded}; the numbers above {'include it' if included else 'do not include all of it'}.{more}"
    return (
        f"{code_span(METADATA_FILE)} holds a temperature of {facts['temperature']:.4g}{fit}, by which `hf_robustft`'s "
        "pipeline divides the logits before it gives a probability. The numbers above are without it."
    )


def _rows(facts: Mapping[str, Any]) -> tuple[list[str], ...]:
    rows = [
        [
            markdown_text(name) + (" (ID)" if row["role"] == "id" else ""),
            f"{row['n']:,}",
            f"{100 * row['accuracy']:.1f}",
            *(f"{100 * value:.1f}" for value in row["ece"]),
            *(f"{value:.3f}" for value in row["nll"]),
        ]
        for name, row in facts.get("sets", {}).items()
    ]
    header = ["Set", "Images", "Accuracy %", "ECE % before", "ECE % after", "NLL before", "NLL after"]
    return (header, *rows) if rows else ()
