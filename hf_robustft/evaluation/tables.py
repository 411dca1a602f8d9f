# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""An evaluation report, or two side by side, as a table for the terminal and in markdown."""

from __future__ import annotations

from dataclasses import dataclass
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .report import DatasetResult, EvaluationReport

ARROW = " \N{RIGHTWARDS ARROW} "
ROLE_ORDER = ("id", "shift", "validation", "train")
HEADER = ("set", "images", "accuracy %", "ECE % (floor)", "NLL", "Brier")


@dataclass
class Row:
    """A line of the table: label, number of images, and per metric (this model, difference or `""`)."""

    label: str
    images: str
    cells: list[tuple[str, str]]
    is_mean: bool = False


def ordered(report: EvaluationReport) -> list[DatasetResult]:
    """The results in the order of every table and figure: in-distribution, shifts, validation, train."""
    return sorted(report.results.values(), key=lambda result: ROLE_ORDER.index(result.role))


def label(result: DatasetResult) -> str:
    """The name of a data set, with its role where it is no shift."""
    if result.role in ("shift", result.name):
        return result.name
    return f"{result.name} ({'ID' if result.role == 'id' else result.role})"


def table_rows(report: EvaluationReport, baseline: EvaluationReport | None) -> list[Row]:
    """The rows that both tables show. Raises ValueError if the baseline was measured on other data."""
    if baseline is not None:
        check_same_data(report, baseline)
    rows = []
    for result in ordered(report):
        before = None if baseline is None else baseline.results.get(result.name)
        rows.append(Row(label(result), f"{result.n:,}", _cells(_values(result), before and _values(before), baseline)))
    if report.shifts:
        before = None
        if baseline is not None and {r.name for r in report.shifts} == {r.name for r in baseline.shifts}:
            before = baseline.shift_mean
        name = "mean of 1 shift" if len(report.shifts) == 1 else f"mean of {len(report.shifts)} shifts"
        mean = Row(name, "", _cells(report.shift_mean, before, baseline), is_mean=True)
        last = max(index for index, result in enumerate(ordered(report)) if result.role == "shift")
        rows.insert(last + 1, mean)
    return rows


def check_same_data(report: EvaluationReport, baseline: EvaluationReport) -> None:
    """Raises ValueError unless the two reports share a data set and agree in the size of those that they share."""
    shared = [name for name in report.results if name in baseline.results]
    if not shared:
        raise ValueError(
            f"{baseline.model!r} was evaluated on {sorted(baseline.results)} and {report.model!r} on "
            f"{sorted(report.results)}; a comparison needs a common data set."
        )
    for name in shared:
        sizes = baseline.results[name].n, report.results[name].n
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"Data set {name!r} has {sizes[0]} images for {baseline.model!r} and {sizes[1]} for {report.model!r}; "
                "evaluate both models on the same images."
            )


def notes(report: EvaluationReport, baseline: EvaluationReport | None) -> list[str]:
    """What a reader of either table must know: conventions, heads and the spectrum."""
    lines = []
    if baseline is not None:
        lines.append(
            f"Each cell: {baseline.model}{ARROW}{report.model}, and the difference; ± and brackets are of {report.model}."
        )
    n_bins, draws = report.settings.get("n_bins"), report.settings.get("bootstrap_draws")
    bins = f"{n_bins} equal-width bins over the whole set; " if n_bins else ""
    lines.append(
        f"ECE: {bins}in brackets its noise floor, the ECE of a perfectly calibrated model with the same confidences. "
        f"±: one bootstrap standard error{f' ({draws} draws)' if draws else ''}, from the choice of images alone. "
        "NLL in nats; Brier summed over classes, 0 to 2."
    )
    heads = [_head_text(item) for item in (baseline, report) if item is not None]
    lines.append(f"Head: {heads[0]}." if len(set(heads)) == 1 else f"Heads: {ARROW.join(heads)}.")
    spectrum = report.spectrum
    if spectrum is not None:
        values = [f"{spectrum['smallest_singular_value']:.3e}"]
        if baseline is not None and baseline.spectrum is not None:
            values.insert(0, f"{baseline.spectrum['smallest_singular_value']:.3e}")
        lines.append(
            f"Smallest singular value of the covariance of the image embeddings of {spectrum['dataset']} "
            f"(n = {spectrum['n']:,}, dimension {spectrum['dimension']}): {ARROW.join(values)}."
        )
        if spectrum["note"]:
            lines.append(spectrum["note"])
    return lines


def _head_text(report: EvaluationReport) -> str:
    names: dict[str, list[str]] = {}
    for result in report.results.values():
        names.setdefault(result.head, []).append(result.name)
    if len(names) == 1:
        return next(iter(names))
    return ", ".join(f"{head} ({', '.join(sets)})" for head, sets in names.items())


def terminal_table(report: EvaluationReport, baseline: EvaluationReport | None = None, width: int = 100) -> str:
    """See [`EvaluationReport.table`]."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(_title(report, baseline)), title_justify="left")
    # Side by side there is room for the numbers or for the counts, and `check_same_data` compared the counts.
    header = HEADER if baseline is None else (HEADER[0], *HEADER[2:])
    table.add_column(header[0], overflow="fold")
    for name in header[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in table_rows(report, baseline):
        # Text, not str: rich reads [brackets] in a string as markup.
        cells = [Text("\n".join(part for part in cell if part)) for cell in row.cells]
        counts = [row.images] if baseline is None else []
        table.add_row(Text(row.label), *counts, *cells, end_section=row.is_mean)
    output = StringIO()
    console = Console(file=output, width=width, color_system=None, force_terminal=False, force_jupyter=False)
    console.print(table)
    for line in notes(report, baseline):
        console.print(Text(line))
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")


def markdown_table(report: EvaluationReport, baseline: EvaluationReport | None = None) -> str:
    """See [`EvaluationReport.markdown`]."""
    lines = [_markdown_row(HEADER), "|:--|" + "--:|" * (len(HEADER) - 1)]
    for row in table_rows(report, baseline):
        cells = [f"{value} ({difference})" if difference else value for value, difference in row.cells]
        texts = [_escaped(row.label), row.images, *cells]
        lines.append(_markdown_row([f"**{text}**" if row.is_mean and text else text for text in texts]))
    return "\n".join([*lines, "", "  \n".join(_escaped(line) for line in notes(report, baseline))])


def _title(report: EvaluationReport, baseline: EvaluationReport | None) -> str:
    return report.model if baseline is None else f"{baseline.model}{ARROW}{report.model}"


def _values(result: DatasetResult) -> dict:
    keys = ("accuracy", "accuracy_se", "ece", "ece_noise_floor", "nll", "brier")
    return {key: getattr(result, key) for key in keys}


def _texts(values: dict) -> list[str]:
    se, floor = values.get("accuracy_se"), values.get("ece_noise_floor")
    return [
        f"{100 * values['accuracy']:.1f}" + ("" if se is None else f" ±{100 * se:.1f}"),
        f"{100 * values['ece']:.1f}" + ("" if floor is None else f" ({100 * floor:.1f})"),
        f"{values['nll']:.3f}",
        f"{values['brier']:.3f}",
    ]


def _cells(values: dict, before: dict | None, baseline: EvaluationReport | None) -> list[tuple[str, str]]:
    texts = _texts(values)
    if baseline is None:
        return [(text, "") for text in texts]
    if before is None:
        return [(f"n/a{ARROW}{text}", "") for text in texts]
    units = (("accuracy", "{:+.1f}", 100), ("ece", "{:+.1f}", 100), ("nll", "{:+.3f}", 1), ("brier", "{:+.3f}", 1))
    differences = [form.format(scale * (values[key] - before[key])) for key, form, scale in units]
    # With error and floor of the second model alone the table fits in 100 columns with the longest name at hand.
    plain = _texts({key: before[key] for key, _, _ in units})
    return [(f"{old}{ARROW}{new}", difference) for old, new, difference in zip(plain, texts, differences, strict=True)]


def _markdown_row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    text = " ".join(text.split()).replace("\\", "\\\\").replace("<", "&lt;")
    for character in "|*_`":
        text = text.replace(character, "\\" + character)
    return text
