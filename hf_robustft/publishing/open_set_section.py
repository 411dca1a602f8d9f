# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The card's section on open sets: which scores tell unseen classes, and the detector that lies in the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.detection import FPR_CONVENTION
from ..evaluation.detector import OpenSetDetector
from ..evaluation.open_set import DEFAULT_SCORE, SCORES, shift_mean
from ..evaluation.report import EvaluationReport
from ..modeling.metadata import METADATA_FILE, load_robustft_json
from . import snippets, verdict
from .card_facts import SetFacts
from .card_file import SCORES_FILE, THRESHOLDS_FILE
from .text import code_span, markdown_text, public_text

HEADER = ("Score", "Model", "ID AUROC %", "ID FPR95 %", "Shifts AUROC %", "Shifts FPR95 %", "Shifts accepted %")

_INTRODUCTION = (
    "A *shift* shows the known classes in a different way, and should be accepted. An *open set* shows classes that are not "
    "among the class names, and should be refused as unknown. Every score is higher for images that look known. AUROC and "
    "accepted should be high, FPR95 low."
)


def open_set_facts(
    output_dir: Path,
    report: EvaluationReport,
    baseline: EvaluationReport | None,
    names: tuple[str, str | None],
    data: Sequence[SetFacts],
) -> dict[str, Any]:
    """
    Gather what a card says about open sets.

    Args:
        output_dir (`Path`): Folder of the checkpoint; its `robustft.json` may hold a detector, and `scores.png` is shown.
        report ([`EvaluationReport`]), baseline ([`EvaluationReport`], *optional*): The results; each set in
            `report.open_set` becomes a table.
        names (`tuple[str, str | None]`): What the tables call the two models, in markdown.
        data (`Sequence[SetFacts]`): The sets of the card, for the number of classes.

    Returns:
        `dict[str, Any]`: A `section` in markdown with its headline, a `sentence` for the summary at the top, the open `sets`'
        names, a `snippet` that uses the detector in the folder, and the `leading_score` that the text is about. All are
        empty without open sets and detector.

    Raises:
        ValueError: If the baseline was measured on another number of images of an open set, or against another set.
    """
    facts = load_robustft_json(output_dir) if (output_dir / METADATA_FILE).is_file() else {}
    detector, sets = facts.get("detector"), report.open_set or {}
    leading = leading_score(report, detector)
    parts = [_table(name, report, _before(name, report, baseline), names, data, leading) for name in sets]
    if sets:
        parts = [_INTRODUCTION, *parts, _conventions(report)]
        if (output_dir / SCORES_FILE).is_file():
            parts.append(
                f"![Histograms of the score: in-distribution, shifted and unseen-class images]({SCORES_FILE})"
            )
        parts += [line for line in (_chosen(name, facts.get("threshold_curve")) for name, facts in sets.items()) if line]
        if (output_dir / THRESHOLDS_FILE).is_file():
            parts.append(f"![Known images refused and unknown images accepted, by threshold]({THRESHOLDS_FILE})")
    if detector is not None:
        parts.append(_detector(detector, measured=bool(sets)))
    return {
        "section": "\n\n".join(["## Known or unknown", *parts]) if parts else "",
        "sentence": verdict.open_set_sentence(report, baseline, leading) if sets else "",
        "sets": ", ".join(markdown_text(name) for name in sets),
        "snippet": "" if detector is None else snippets.open_set_snippet(),
        "leading_score": leading,
    }


def leading_score(report: EvaluationReport, detector: Mapping[str, Any] | None) -> str | None:
    """Return the score that the text is about: that of the `detector`, else energy, else the first one of `report`."""
    scores = [score for facts in (report.open_set or {}).values() for score in facts["scores"]]
    wanted = [detector["score"]] if detector else []
    return next((score for score in [*wanted, DEFAULT_SCORE, *scores] if score in scores), None)


def _before(name: str, report: EvaluationReport, baseline: EvaluationReport | None) -> Mapping[str, Any] | None:
    before = ((baseline.open_set if baseline is not None else None) or {}).get(name)
    now = report.open_set[name]
    if before is not None and (before["n"], before["id"]) != (now["n"], now["id"]):
        raise ValueError(
            f"Open set {name!r} has {before['n']} images against {before['id']!r} for {baseline.model!r} and {now['n']} "
            f"against {now['id']!r} for {report.model!r}; evaluate both models on the same images."
        )
    return before


def _table(
    name: str,
    report: EvaluationReport,
    before: Mapping[str, Any] | None,
    names: tuple[str, str | None],
    data: Sequence[SetFacts],
    leading: str,
) -> str:
    facts = report.open_set[name]
    classes = next((item.n_classes for item in data if item.name == name and item.n_classes), None)
    images = f"{facts['n']:,} images" + (f" of {classes:,} unseen classes" if classes else " of unseen classes")
    known = report.results.get(facts["id"])
    against = f"{known.n:,} images of " if known is not None else ""
    lines = [
        f"**{markdown_text(name)}**: {images}, against {against}{markdown_text(facts['id'])} (ID).",
        "",
        _row(HEADER),
        "|:--|:--|" + "--:|" * (len(HEADER) - 2),
    ]
    for score, values in facts["scores"].items():
        title = code_span(score)
        if before is not None and score in before["scores"]:
            lines.append(_row([title, names[1], *_cells(before["scores"][score])]))
            title = ""
        lines.append(_row([title, names[0], *_cells(values)]))
    values = facts["scores"].get(leading)
    if values is not None:
        lines += ["", *_details(leading, values, facts["id"])]
    return "\n".join(lines)


def _details(score: str, values: Mapping[str, Any], known: str) -> list[str]:
    lines, shifts = [], values["shifts"]
    if len(shifts) > 1:
        each = ", ".join(
            f"{markdown_text(name)} {_percent(found['auroc'])} ({_percent(found['accepted'])})"
            for name, found in shifts.items()
        )
        lines.append(f"- {code_span(score)} for each shift, AUROC % (accepted %): {each}.")
    correct = values["correct_only"]
    if correct is not None:
        lines.append(
            f"- As CRoFT's code counts, with correctly classified images of {markdown_text(known)} only, {code_span(score)} "
            f"has an AUROC of {_percent(correct['auroc'])} % and, above the 5th percentile of their scores, an FPR of "
            f"{_percent(correct['fpr95_percentile'])} %. The table counts all images, including those that are classified wrongly."
        )
    return lines


def _chosen(name: str, curve: Mapping[str, Any] | None) -> str:
    """Say what the threshold of the detector does on the test images; empty where it was not measured."""
    if curve is None or curve["chosen"] is None:
        return ""
    chosen = curve["chosen"]
    refusal, acceptance = (
        f"{_percent(row['share'])} % ({100 * curve['confidence']:g} % interval {_percent(row['low'])} to {_percent(row['high'])})"
        for row in (chosen["refusal"], chosen["acceptance"])
    )
    return (
        f"At the detector's threshold, {chosen['threshold']:.4g}, {acceptance} of the images of {markdown_text(name)} are accepted although "
        f"their classes are unknown, and {refusal} of the in-distribution test images are refused although theirs are known."
    )


def _conventions(report: EvaluationReport) -> str:
    scores = list(dict.fromkeys(score for facts in report.open_set.values() for score in facts["scores"]))
    words = "; ".join(
        f"{code_span(score)} is {SCORES[score].words if score in SCORES else 'a score of your own'}"
        for score in scores
    )
    lines = [
        # A list right after another list would be joined to it, with gaps between all lines.
        "How the numbers are counted:",
        "",
        "- AUROC: the share of pairs of an image of a known and one of an unseen class in which the known one scores "
        "higher, ties counting one half; 50 % is guessing.",
        f"- {FPR_CONVENTION}",
    ]
    if report.shifts:
        mean = f"mean over {len(report.shifts)} shifts" if len(report.shifts) > 1 else "one shift"
        lines.append(
            f"- Shifts: known classes under shift against the open set ({mean}), FPR95 at a threshold on the shift itself. "
            "Accepted: the share of the shifted images that reach the threshold that accepts 95 % of the ID images; the "
            "others are refused although their classes are known."
        )
    lines.append(f"- {words}.")
    return "\n".join(lines)


def risk_lines(detector: OpenSetDetector) -> list[str]:
    """Return sentences on the error for which the threshold of a `detector` was chosen, in plain text; none if none was stated."""
    risk = detector.risk
    if risk is None:
        return []
    words = {"false_refusal": "known images refused", "false_acceptance": "unknown images accepted"}
    whose = {"false_refusal": detector.fitted_on, "false_acceptance": risk.get("unknown")}
    kept, own = risk["controls"], detector.thresholds
    lines = [
        f"Chosen to keep the share of {words[kept]} at or below {_percent(risk['max_error'])} %, with a confidence of {100 * risk['confidence']:g} %: its "
        f"upper bound is {_percent(risk['bound'])} %{'' if own is None else ', where all images have the common threshold'}."
    ]
    for name, text in words.items():
        found = risk[name]
        if found is not None:
            of = f" of {whose[name]}" if whose[name] else ""
            lines.append(
                f"{text.capitalize()}: {_percent(found['share'])} % of {found['n']:,}{of} ({100 * risk['confidence']:g} % interval "
                f"{_percent(found['low'])} to {_percent(found['high'])})."
            )
    if own is not None:
        rest = len(detector.class_names) - len(own)
        few = f" The other {rest:,} had too few images and have the common one; nothing is stated for them by themselves." if rest else ""
        lines.append(f"{len(own):,} predicted classes have thresholds of their own, each of which keeps that share by itself.{few}")
    return lines


def _detector(detector: Mapping[str, Any], measured: bool) -> str:
    on = f" of {markdown_text(public_text(detector['fitted_on']))}" if detector.get("fitted_on") else ""
    if detector.get("risk") is not None:
        found = OpenSetDetector(**detector)
        said = " ".join(markdown_text(public_text(line)) for line in risk_lines(found))
        return (
            f"The detector in {code_span(METADATA_FILE)} calls an image unknown if its {code_span(found.score)} is below {found.threshold:.4g}. {said} "
            "That holds for images like those it was chosen on. It belongs to these class names in this order and to the logit scale "
            f"{detector['logit_scale']:.2f}; for others it must be fitted again."
            + (" The table uses other thresholds, which are set on the test images themselves." if measured else "")
        )
    return (
        f"The detector in {code_span(METADATA_FILE)} calls an image unknown if its {code_span(detector['score'])} is below "
        f"{detector['threshold']:.4g}: the highest threshold that accepts at least "
        f"{_percent(detector['true_positive_rate'])} % of the {detector['n']:,} images{on} on which it was fitted "
        f"({_percent(detector['achieved_true_positive_rate'])} % there). It belongs to these class names in this order and "
        f"to the logit scale {detector['logit_scale']:.2f}; for others it must be fitted again."
        + (" The table uses other thresholds, which are set on the test images themselves." if measured else "")
    )


def _cells(values: Mapping[str, Any]) -> list[str]:
    mean = shift_mean(values)
    numbers = (values["auroc"], values["fpr95"], *(mean.get(key) for key in ("auroc", "fpr95", "accepted")))
    return ["n/a" if value is None else _percent(value) for value in numbers]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
