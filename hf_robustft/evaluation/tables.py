# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""An evaluation report, or two side by side, as a table for the terminal and in markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .detection import FPR_CONVENTION
from .findings import sentences
from .open_set import shift_mean
from .report import DatasetResult, EvaluationReport

ARROW = " \N{RIGHTWARDS ARROW} "
ROLE_ORDER = ("id", "shift", "validation", "train")
HEADER = ("set", "images", "accuracy %", "ECE % (floor)", "NLL", "Brier")
MULTI_LABEL_HEADER = ("set", "images", "mAP %", "F1 %", "F1 micro %", "ECE %")
_MULTI_LABEL_CELLS = ("map", "f1", "f1_micro", "ece")
OPEN_SET_HEADER = ("score", "ID AUROC %", "ID FPR95 %", "shifts AUROC %", "shifts FPR95 %", "shifts accepted %")


@dataclass
class _Row:
    """A line of a table: label, number of images if there is a column for it, and cells (this model, difference or "")."""

    label: str
    images: str | None
    cells: list[tuple[str, str]]
    is_mean: bool = False


def ordered(report: EvaluationReport) -> list[DatasetResult]:
    """Return the results of a `report` in the order of every table and figure: ID, shifts, validation, train."""
    return sorted(report.results.values(), key=lambda result: ROLE_ORDER.index(result.role))


def label(result: DatasetResult) -> str:
    """Return the name of the data set of a `result`, with its role unless it is a shift."""
    if result.role in ("shift", result.name):
        return result.name
    return f"{result.name} ({'ID' if result.role == 'id' else result.role})"


def _rows(report: EvaluationReport, baseline: EvaluationReport | None) -> list[_Row]:
    if baseline is not None:
        check_same_data(report, baseline)
    rows = []
    for result in ordered(report):
        before = None if baseline is None else baseline.results.get(result.name)
        rows.append(_Row(label(result), f"{result.n:,}", _cells(vars(result), before and vars(before), baseline)))
    if report.shifts:
        before = None
        if same_shifts(report, baseline):
            before = baseline.shift_mean
        name = "mean of 1 shift" if len(report.shifts) == 1 else f"mean of {len(report.shifts)} shifts"
        mean = _Row(name, "", _cells(report.shift_mean, before, baseline), is_mean=True)
        last = max(index for index, result in enumerate(ordered(report)) if result.role == "shift")
        rows.insert(last + 1, mean)
    return rows


def same_shifts(report: EvaluationReport, baseline: EvaluationReport | None) -> bool:
    """Return whether the means over shifts of `report` and `baseline` are means over the same sets."""
    return baseline is not None and {r.name for r in report.shifts} == {r.name for r in baseline.shifts}


def check_same_data(report: EvaluationReport, baseline: EvaluationReport) -> None:
    """
    Refuse to compare models that were measured on different data.

    Args:
        report ([`EvaluationReport`]), baseline ([`EvaluationReport`]): The two models.

    Raises:
        ValueError: If the reports share no data set, or differ in the size of one that they share.
    """
    shared = [name for name in report.results if name in baseline.results]
    lists = [name for name in report.multi_label or () if name in (baseline.multi_label or ())]
    if not shared and not lists:
        raise ValueError(
            f"{baseline.model!r} was evaluated on {sorted({**baseline.results, **(baseline.multi_label or {})})} and {report.model!r} on "
            f"{sorted({**report.results, **(report.multi_label or {})})}; a comparison needs a common data set."
        )
    sizes = {name: (baseline.results[name].n, report.results[name].n) for name in shared}
    sizes |= {name: (baseline.multi_label[name]["n"], report.multi_label[name]["n"]) for name in lists}
    for name in set(report.open_set or ()) & set(baseline.open_set or ()):
        sizes[name] = (baseline.open_set[name]["n"], report.open_set[name]["n"])
    for name, (before, after) in sizes.items():
        if before != after:
            raise ValueError(
                f"Data set {name!r} has {before} images for {baseline.model!r} and {after} for {report.model!r}; "
                "evaluate both models on the same images."
            )


def choice_of_images(report: EvaluationReport) -> str:
    """Say what the standard errors of a `report` are from: "the choice of images alone", and which of them are drawn together."""
    groups = {result.name: result.n_groups for result in report.results.values() if result.n_groups is not None}
    if not groups:
        return "the choice of images alone"
    alike = len(groups) == len(report.results) and len(set(groups.values())) == 1
    words = f"{next(iter(groups.values())):,} in each set" if alike else ", ".join(f"{name}: {n:,}" for name, n in groups.items())
    return f"the choice of images alone, drawn in whole groups ({words})"


def _notes(report: EvaluationReport, baseline: EvaluationReport | None) -> list[str]:
    lines = []
    if baseline is not None:
        lines.append(
            f"Each cell: {baseline.model}{ARROW}{report.model}, and the difference; ± and brackets belong to {report.model}."
        )
    n_bins, draws = report.settings.get("n_bins"), report.settings.get("bootstrap_draws")
    bins = f"{n_bins} equal-width bins over the whole set; " if n_bins else ""
    lines.append(
        f"ECE: {bins}in brackets its noise floor, the ECE of a perfectly calibrated model with the same confidences. "
        f"±: one bootstrap standard error{f' ({draws} draws)' if draws else ''}, from {choice_of_images(report)}. "
        "NLL in nats; Brier score summed over classes, from 0 to 2."
    )
    heads = [_head_text(item) for item in (baseline, report) if item is not None]
    lines.append(f"Head: {heads[0]}." if len(set(heads)) == 1 else f"Heads: {ARROW.join(heads)}.")
    lines += _class_notes(report) + _data_notes(report)
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


def _class_notes(report: EvaluationReport) -> list[str]:
    projected = [
        f"{result.n_classes:,} classes ({result.name})"
        for result in ordered(report)
        if result.head_classes is not None and result.head_classes > result.n_classes
    ]
    if not projected:
        return []
    classes = max(result.head_classes or 0 for result in report.results.values())
    return [f"Of the {classes:,} classes of the head, softmax is over the {', '.join(projected)} that the set knows."]


def _data_notes(report: EvaluationReport) -> list[str]:
    """Copies on the Hub that were read, and images that could not be."""
    results = [(result.name, result.source, result.unreadable) for result in ordered(report)]
    results += [(name, row.get("source"), row.get("unreadable")) for name, row in (report.open_set or {}).items()]
    places = [
        f"{name} from {source['path']} ({source.get('split', 'all')})"
        for name, source, _ in results
        if source is not None and "/" in source["path"]
    ]
    lines = [f"Images: {', '.join(places)}."] if places else []
    for name, _, found in results:
        if found is not None:
            lines.append(unreadable_line(name, found))
    return lines


def unreadable_line(name: str, found: Mapping) -> str:
    """Say which images of the set of this `name` could not be read, of what a report has `found` of them."""
    first = "; ".join(found["first"][:3]) + ("; ..." if found["count"] > 3 else "")
    return f"{name}: {found['count']:,} of {found['of']:,} images cannot be read and are left out: {first}."


def _head_text(report: EvaluationReport) -> str:
    names: dict[str, list[str]] = {}
    for result in report.results.values():
        names.setdefault(result.head, []).append(result.name)
    if len(names) == 1:
        return next(iter(names))
    return ", ".join(f"{head} ({', '.join(sets)})" for head, sets in names.items())


def _open_set_rows(report: EvaluationReport, baseline: EvaluationReport | None, name: str) -> list[_Row]:
    result = report.open_set[name]
    before = ((baseline and baseline.open_set) or {}).get(name)
    if before is not None and before["id"] != result["id"]:
        before = None
    return [
        _Row(score, None, _open_set_cells(row, before and before["scores"].get(score), baseline is not None))
        for score, row in result["scores"].items()
    ]


def _open_set_notes(report: EvaluationReport) -> list[str]:
    lines = [
        "AUROC: how often an image of a known class scores higher than one of an unseen class; higher is better, 50 % is "
        f"chance. {FPR_CONVENTION}"
    ]
    compared = {
        shift for result in report.open_set.values() for row in result["scores"].values() for shift in row["shifts"]
    }
    left_out = [result.name for result in report.shifts if result.name not in compared]
    if compared:
        lines.append(
            f"ID: all images of the in-distribution set. Shifts: plain mean over {len(compared)} shifted "
            f"set{'s' if len(compared) > 1 else ''}, whose classes are known and whose images should be accepted; each "
            "takes the place of the in-distribution set in AUROC and FPR95. Accepted: the share of their images at the "
            "threshold of ID FPR95; higher is better."
        )
    if "knn_bank" in report.settings:
        lines.append(f"knn: neighbour {report.settings['knn_k']} among the images of {report.settings['knn_bank']}.")
    if left_out:
        lines.append(f"Not among the shifts here, as their classes or prompts are others: {', '.join(left_out)}.")
    return lines


def _multi_label_rows(report: EvaluationReport, baseline: EvaluationReport | None) -> list[_Row]:
    rows = []
    for name, row in (report.multi_label or {}).items():
        before = ((baseline and baseline.multi_label) or {}).get(name)
        cells, olds = multi_label_cells(row), multi_label_cells(before or {})
        if baseline is None:
            cells = [(text, "") for text in cells]
        else:
            pairs = [(row[key], (before or {}).get(key)) for key in _MULTI_LABEL_CELLS]
            differences = ["" if None in pair else f"{100 * (pair[0] - pair[1]):+.1f}" for pair in pairs]
            cells = [(f"{old}{ARROW}{text}", difference) for old, text, difference in zip(olds, cells, differences, strict=True)]
        rows.append(_Row(multi_label_name(name, row), f"{row['n']:,}", cells))
    return rows


def multi_label_name(name: str, row: Mapping[str, Any]) -> str:
    """Return the `name` of a set with lists of labels, with its role, which its `row` says, unless it is a shift."""
    return name if row["role"] in ("shift", name) else f"{name} ({'ID' if row['role'] == 'id' else row['role']})"


def multi_label_cells(row: Mapping[str, Any]) -> list[str]:
    """Return mAP, F1, micro F1 and ECE of the `row` of a set with lists of labels, in percent; "n/a" for what is not known."""
    return ["n/a" if row.get(key) is None else f"{100 * row[key]:.1f}" for key in _MULTI_LABEL_CELLS]


def multi_label_notes(report: EvaluationReport, baseline: EvaluationReport | None = None) -> list[str]:
    """Return what the numbers of a `report` on lists of labels are, of which images and thresholds, beside a `baseline`."""
    found = report.multi_label or {}
    kinds = {row["probabilities"] for row in found.values()}
    words = {"sigmoid": "the sigmoid of each class", "softmax": "the share of each class against the rest (softmax)"}
    said = ", ".join(words[kind] for kind in sorted(kinds))
    before = {row["probabilities"] for name, row in ((baseline and baseline.multi_label) or {}).items() if name in found}
    if before - kinds:
        said += f"; of {baseline.model} {', '.join(words[kind] for kind in sorted(before))}"
    lines = [
        "mAP: mean average precision over classes with images, ranked by logit. F1: mean over these classes, and of all pairs "
        f"(micro). ECE: mean over all classes. Probabilities: {said}."
    ]
    for name, row in found.items():
        of = "all 0.5, without validation images" if row["thresholds_of"] is None else f"of the highest F1 on {row['thresholds_of']}"
        default = f", 0.5 for {len(row['default_thresholds'])} classes without images there" if row["thresholds_of"] and row["default_thresholds"] else ""
        own = ", each model's own" if baseline is not None and row["thresholds_of"] is not None else ""
        lines.append(f"{name}: {row['n_labels']:,} labels of {row['n_classes']:,} classes; thresholds {of}{default}{own}.")
        if row.get("unreadable") is not None:
            lines.append(unreadable_line(name, row["unreadable"]))
    return lines


def _parts(report: EvaluationReport, baseline: EvaluationReport | None) -> list[tuple]:
    """Return title, header, rows and notes of each table: that of all data sets, and one per open set."""
    title = report.model if baseline is None else f"{baseline.model}{ARROW}{report.model}"
    several = _multi_label_rows(report, baseline)
    if not report.results:
        return [(title, MULTI_LABEL_HEADER, several, multi_label_notes(report, baseline))]
    rows = _rows(report, baseline)
    parts = [(title, HEADER, rows, [*_notes(report, baseline), *sentences(report, baseline)])]
    if several:
        parts.append(("images with lists of labels", MULTI_LABEL_HEADER, several, multi_label_notes(report, baseline)))
    for name, result in (report.open_set or {}).items():
        known, rows = report.results[result["id"]], _open_set_rows(report, baseline, name)
        title = (
            f"known or unknown: {known.name} ({known.n:,} images) against {name} ({result['n']:,} of unseen classes)"
        )
        # The columns that the rows fill: without shifts there are none for them.
        parts.append((title, OPEN_SET_HEADER[: 1 + max(len(row.cells) for row in rows)], rows, []))
    if report.open_set:
        parts[-1][-1].extend(_open_set_notes(report))
    return parts


def terminal_table(report: EvaluationReport, baseline: EvaluationReport | None = None, width: int = 100) -> str:
    """Return the tables of `report`, beside `baseline`, for a terminal of `width` columns: see [`EvaluationReport.table`]."""
    output = StringIO()
    console = Console(file=output, width=width, color_system=None, force_terminal=False, force_jupyter=False)
    for number, (title, header, rows, lines) in enumerate(_parts(report, baseline)):
        # Side by side there is room for the numbers or for the counts, and `check_same_data` compared the counts.
        counted = rows[0].images is not None and baseline is None
        columns = header[1:] if counted or "images" not in header else header[2:]
        if number:
            console.print()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(title), title_justify="left")
        table.add_column(header[0], overflow="fold")
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            # Text, not str: rich reads [brackets] in a string as markup.
            cells = [Text("\n".join(part for part in cell if part)) for cell in row.cells]
            table.add_row(Text(row.label), *([row.images] if counted else []), *cells, end_section=row.is_mean)
        console.print(table)
        for line in lines:
            console.print(Text(line))
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")


def markdown_table(report: EvaluationReport, baseline: EvaluationReport | None = None) -> str:
    """Return the tables of `report`, beside `baseline`, in markdown: see [`EvaluationReport.markdown`]."""
    parts = []
    for number, (title, header, rows, notes) in enumerate(_parts(report, baseline)):
        lines = [_markdown_row(header), "|:--|" + "--:|" * (len(header) - 1)]
        for row in rows:
            cells = [f"{value} ({difference})" if difference else value for value, difference in row.cells]
            texts = [_escaped(row.label), *([] if row.images is None else [row.images]), *cells]
            lines.append(_markdown_row([f"**{text}**" if row.is_mean and text else text for text in texts]))
        parts += [*([f"**{_escaped(title)}**"] if number else []), "\n".join(lines)]
        parts += ["  \n".join(map(_escaped, notes))] if notes else []
    return "\n\n".join(parts)


def _open_set_cells(row: dict, before: dict | None, compared: bool) -> list[tuple[str, str]]:
    values = [row["auroc"], row["fpr95"], *shift_mean(row).values()]
    texts = [f"{100 * value:.1f}" for value in values]
    if not compared:
        return [(text, "") for text in texts]
    old: list[float | None] = [None] * len(values)
    if before is not None:
        old[:2] = before["auroc"], before["fpr95"]
        if set(before["shifts"]) == set(row["shifts"]):
            old[2:] = shift_mean(before).values()
    return [
        (f"n/a{ARROW}{text}", "") if was is None else (f"{100 * was:.1f}{ARROW}{text}", f"{100 * (value - was):+.1f}")
        for was, value, text in zip(old, values, texts, strict=True)
    ]


def metric_texts(values: Mapping[str, Any], plus_minus: str = " ±") -> list[str]:
    """Return the cells of accuracy, ECE, NLL and Brier in `values`: `plus_minus` and error, and noise floor, if known."""
    se, floor = values.get("accuracy_se"), values.get("ece_noise_floor")
    return [
        f"{100 * values['accuracy']:.1f}" + ("" if se is None else f"{plus_minus}{100 * se:.1f}"),
        f"{100 * values['ece']:.1f}" + ("" if floor is None else f" ({100 * floor:.1f})"),
        f"{values['nll']:.3f}",
        f"{values['brier']:.3f}",
    ]


def _cells(values: dict, before: dict | None, baseline: EvaluationReport | None) -> list[tuple[str, str]]:
    texts = metric_texts(values)
    if baseline is None:
        return [(text, "") for text in texts]
    if before is None:
        return [(f"n/a{ARROW}{text}", "") for text in texts]
    units = (("accuracy", "{:+.1f}", 100), ("ece", "{:+.1f}", 100), ("nll", "{:+.3f}", 1), ("brier", "{:+.3f}", 1))
    differences = [form.format(scale * (values[key] - before[key])) for key, form, scale in units]
    # With error and floor of the second model alone the table fits in 100 columns with the longest name at hand.
    plain = metric_texts({key: before[key] for key, _, _ in units})
    return [(f"{old}{ARROW}{new}", difference) for old, new, difference in zip(plain, texts, differences, strict=True)]


def _markdown_row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    text = " ".join(text.split()).replace("\\", "\\\\").replace("<", "&lt;")
    for character in "|*_`":
        text = text.replace(character, "\\" + character)
    return text
