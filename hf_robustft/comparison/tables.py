# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A comparison as tables for the terminal and in markdown, from its summary alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..evaluation.detection import FPR_CONVENTION
from ..evaluation.open_set import DEFAULT_SCORE
from ..publishing.text import markdown_text
from .measures import measure_of
from .runs import rate_text
from .statistics import LEVEL

#: Before a difference that chance may explain.
NOISE_MARK = "~"
NOISE_NOTE = (
    f"{NOISE_MARK}: cannot be told from noise. The {100 * LEVEL:g} % interval of the paired difference, over the choice of images "
    "(whole groups where a set has any) and over seeds, includes 0."
)
#: Before a difference of which nothing is known but itself.
UNKNOWN_MARK = "?"
UNKNOWN_NOTE = f"{UNKNOWN_MARK}: nothing says how far chance moves it."
_DASH = "\N{EN DASH}"


@dataclass
class _Table:
    """Title, header, rows (cells; those of the winner are bold) and the lines below."""

    title: str
    header: list[str]
    rows: list[list[str]]
    bold: int | None = None
    notes: list[str] = field(default_factory=list)


def terminal_table(summary: Mapping[str, Any], width: int = 100) -> str:
    """
    Lay out a comparison for the terminal: the winner in words, then the tables.

    Args:
        summary (`Mapping`): Of [`summarise`] or [`load_comparison`].
        width (`int`, *optional*, defaults to 100): Columns of the terminal. Names are folded, and what does not fit stands in a
            table of its own.

    Returns:
        `str`: Lines without a trailing newline.
    """
    output = StringIO()
    console = Console(file=output, width=width, color_system=None, force_terminal=False, force_jupyter=False)
    for line in summary["winner"]["words"].replace(". ", ".\n").splitlines():
        console.print(Text(line))
    for table in _tables(summary):
        for part in _fitting(table, width):
            console.print()
            # As the title of the table it would be folded to the width of that.
            console.print(Text(part.title))
            laid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for place, name in enumerate(part.header):
                laid.add_column(Text(name), justify="right" if place else "left", overflow="fold", no_wrap=bool(place))
            for row in part.rows:
                # Text, not str: rich reads [brackets] in a string as markup.
                laid.add_row(*map(Text, row))
            console.print(laid)
            for line in part.notes:
                console.print(Text(line))
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")


def markdown_table(summary: Mapping[str, Any]) -> str:
    """Lay out a comparison in markdown: the winner in words, then the tables; `summary` as for [`terminal_table`]."""
    parts = [markdown_text(summary["winner"]["words"])]
    for table in _tables(summary):
        lines = [_markdown_row(table.header), "|:--|" + "--:|" * (len(table.header) - 1)]
        lines += [_markdown_row(row, bold=place == table.bold) for place, row in enumerate(table.rows)]
        parts += [f"**{markdown_text(table.title)}**", "\n".join(lines)]
        parts += ["  \n".join(map(markdown_text, table.notes))] if table.notes else []
    return "\n\n".join(parts) + "\n"


def _markdown_row(cells: Sequence[str], bold: bool = False) -> str:
    texts = [f"**{markdown_text(cell)}**" if bold and cell else markdown_text(cell) for cell in cells]
    return f"| {' | '.join(texts)} |"


def _tables(summary: Mapping[str, Any]) -> list[_Table]:
    tables = [_headline(summary), *_f1(summary), _calibration(summary), *_open_sets(summary)]
    tables[-1].notes += _notes(summary)
    tables += _scores(summary)
    return [*tables, *_at_equal_id(summary), *_rates(summary), *_rules(summary)]


def _rows(summary: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    baseline = summary.get("baseline")
    return [*([] if baseline is None else [baseline]), *summary["candidates"]]


def _bold(summary: Mapping[str, Any]) -> int | None:
    winner = summary["winner"]
    labels = [row["label"] for row in _rows(summary)]
    return labels.index(winner["candidate"]) if winner["is_clear"] else None


def _names(summary: Mapping[str, Any], role: str) -> list[str]:
    return [item["name"] for item in summary["data"]["sets"] if item["role"] == role]


def _headline(summary: Mapping[str, Any]) -> _Table:
    measure = measure_of(summary)
    key = measure.key
    validation, concepts, ids, shifts = (_names(summary, role) for role in ("validation", "concepts", "id", "shift"))
    header, columns = [f"{measure.word} %", "seeds"], []
    for name in (*validation, *concepts, *ids):
        header.append(name)
        columns.append(lambda row, name=name: _percent(row["sets"].get(name, {}).get(key)))
    if shifts:
        header.append("shifts" if len(shifts) > 1 else shifts[0])
        columns.append(lambda row: _percent((row["shift_mean"] or {}).get(key)))
    where = "shifts" if shifts else "ID"
    for against, name in (("against_zero_shot", "zero-shot"), ("against_flyp", "FLYP")):
        if any(row.get(against) for row in summary["candidates"]):
            header.append(f"{where} against {name}")
            columns.append(lambda row, against=against: _difference(row.get(against), summary["decided_on"], key, 100, 1))
    if len(shifts) > 1:
        for name in shifts:
            header.append(name)
            columns.append(lambda row, name=name: _percent(row["sets"].get(name, {}).get(key)))
    rows = [[row["label"], _seeds(row), *(column(row) for column in columns)] for row in _rows(summary)]
    return _Table(measure.title, header, rows, _bold(summary))


def _f1(summary: Mapping[str, Any]) -> list[_Table]:
    """Of lists of labels F1 at the fitted thresholds, beside that of zero-shot."""
    if not measure_of(summary).of_lists:
        return []
    groups = [(mean, word) for mean, word in (("id_mean", "ID"), ("shift_mean", "shifts")) if _rows(summary)[-1][mean]]
    header, against = ["F1 %", *(word for _, word in groups)], groups[-1]
    rows = [[row["label"], *(_percent((row[mean] or {}).get("f1")) for mean, _ in groups)] for row in _rows(summary)]
    if summary.get("baseline"):
        header.append(f"{against[1]} against zero-shot")
        rows = [[*cells, _difference(row.get("against_zero_shot"), against[0], "f1", 100, 1)] for cells, row in zip(rows, _rows(summary), strict=True)]
    return [_Table("F1, mean over classes", header, rows)]


def _seeds(row: Mapping[str, Any]) -> str:
    return str(len(row["seeds"])) if any(seed is not None for seed in row.get("seeds", ())) else _DASH


def _calibration(summary: Mapping[str, Any]) -> _Table:
    groups = [(mean, word) for mean, word in (("id_mean", "ID"), ("shift_mean", "shifts")) if _rows(summary)[-1][mean]]
    header = ["ECE %, NLL", *(f"{word} {metric}" for metric in ("ECE %", "NLL") for _, word in groups)]
    against = [(group, metric) for metric in ("ece", "nll") for group, _ in groups[-1:]]
    if summary.get("baseline"):
        header += [f"{groups[-1][1]} {metric} against zero-shot" for metric in ("ECE", "NLL")]
    rows = []
    for row in _rows(summary):
        cells = [_percent((row[group] or {}).get("ece")) for group, _ in groups]
        cells += [_spread((row[group] or {}).get("nll"), 1, 3) for group, _ in groups]
        if summary.get("baseline"):
            cells += [
                _difference(
                    row.get("against_zero_shot"),
                    group,
                    metric,
                    100 if metric == "ece" else 1,
                    1 if metric == "ece" else 3,
                )
                for group, metric in against
            ]
        rows.append([row["label"], *cells])
    return _Table("Calibration", header, rows)


def _open_sets(summary: Mapping[str, Any]) -> list[_Table]:
    tables = []
    for name in _names(summary, "open_set"):
        scored = [(row, row["open_set"].get(name, {}).get(DEFAULT_SCORE)) for row in _rows(summary)]
        keys = {"auroc": "ID AUROC %", "fpr95": "ID FPR95 %"}
        keys |= {
            "shifts_auroc": "shifts AUROC %",
            "shifts_fpr95": "shifts FPR95 %",
            "shifts_accepted": "shifts accepted %",
        }
        keys = {key: word for key, word in keys.items() if any(found and key in found for _, found in scored)}
        if not keys:
            continue
        rows = [[row["label"], *(_percent((found or {}).get(key)) for key in keys)] for row, found in scored]
        note = f"Score {DEFAULT_SCORE}. AUROC: how often an image of a known class scores higher than one of an unseen class. {FPR_CONVENTION}"
        tables.append(_Table(f"Known or unknown: {name}", [DEFAULT_SCORE, *keys.values()], rows, notes=[note]))
    return tables


def _at_equal_id(summary: Mapping[str, Any]) -> list[_Table]:
    rows, tables = summary.get("equal_id") or [], []
    unseen = next(iter(_names(summary, "open_set")), None)
    measure = measure_of(summary)
    for metric, title in (
        (measure.key, f"{measure.title} under shift at equal {measure.word} in distribution"),
        ("auroc", f"AUROC under shift against {unseen}, score {DEFAULT_SCORE}, at equal accuracy in distribution"),
    ):
        methods = list(rows[0].get(metric) or ()) if rows else []
        if len(methods) < 2:
            continue
        cells = [[f"{100 * row['id']:g}", *(_number(row[metric][method], 100, 1) for method in methods)] for row in rows]
        tables.append(_Table(title, [f"ID {measure.word} %", *methods], cells))
    if tables:
        tables[-1].notes.append(
            f"Interpolated between the rates of each method: what it reaches under shift at the same {measure.word} in distribution, whatever "
            "the rate."
        )
    return tables


def _scores(summary: Mapping[str, Any]) -> list[_Table]:
    found, tables = summary.get("score_choice") or {}, []
    for name in _names(summary, "open_set"):
        items = {label: of[name] for label, of in found.items() if name in of}
        rows = []
        for label, item in items.items():
            best, usual = (item["scores"].get(score) or {} for score in (item["chosen"], DEFAULT_SCORE))
            rows.append([label, item["chosen"], *(_percent(of.get(key)) for key in ("auroc", "shifts_auroc") for of in (best, usual))])
        if rows:
            first = next(iter(items.values()))
            header = ["AUROC %", "chosen", "ID", f"ID, {DEFAULT_SCORE}", "shifts", f"shifts, {DEFAULT_SCORE}"]
            note = (
                f"Chosen for each candidate by its AUROC on one half ({first['validation']:,} images of unseen classes), and measured on the "
                f"other ({first['test']:,}), beside {DEFAULT_SCORE}, whatever was chosen."
            )
            tables.append(_Table(f"Which score for {name}", header, rows, notes=[note]))
    return tables


def _rates(summary: Mapping[str, Any]) -> list[_Table]:
    spreads = {name: item for name, item in (summary.get("spread_over_rates") or {}).items() if item["rates"] > 1}
    if not spreads:
        return []
    measure = measure_of(summary)
    by_method = (summary.get("rule") or {}).get("by_method", {})
    rates = {
        row["label"]: _DASH if row["learning_rate"] is None else rate_text(row["learning_rate"])
        for row in summary["candidates"]
    }
    rows = [
        [name, str(item["rates"]), f"{100 * item[measure.key]:.1f}", f"{item['nll']:.3f}"]
        for name, item in spreads.items()
    ]
    header = ["how much the rate matters", "rates", f"shifts {measure.word}", "shifts NLL"]
    if by_method:
        header.append(f"chosen by {summary['rule']['name']}")
        rows = [[*row, rates.get(by_method.get(row[0]), _DASH)] for row in rows]
    note = "The best mean over the shifts of any rate less the worst: what a wrong rate can cost."
    return [_Table("Dependence on the rate", header, rows, notes=[note])]


def _rules(summary: Mapping[str, Any]) -> list[_Table]:
    found = summary.get("choices") or {}
    if len(summary["candidates"]) < 2 or not found:
        return []
    rows, measure = [], measure_of(summary)
    for name, item in found.items():
        lost = item["regret"] or {}
        words = f"{name} (a bound)" if item["is_bound"] else name
        rows.append([words, item["overall"], _number(lost.get(measure.key), 100, 1), _number(lost.get("nll"), 1, 3)])
    says = {}
    for name, item in found.items():
        base, _, part = name.partition(":")
        says[f"{base}:<set>" if part else base] = (
            item["says"].replace(f"the shifted set {part}", "the shifted set <set>") if part else item["says"]
        )
    lines = [f"{name}: {text}." for name, text in says.items()]
    note = f"Lost: {measure.word} and NLL against the best candidate, on the shifted sets that the rule does not look at."
    return [
        _Table(
            "What each rule would choose", ["rule", "choice", f"{measure.word} lost", "NLL lost"], rows, notes=[note, *lines]
        )
    ]


def _number(value: float | None, scale: float, digits: int) -> str:
    return _DASH if value is None else f"{scale * value:.{digits}f}"


def _notes(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    if any(len(row["seeds"]) > 1 for row in summary["candidates"]):
        lines.append("±: standard deviation over seeds.")
    if any(row.get("against_zero_shot") or row.get("against_flyp") for row in summary["candidates"]):
        same = "; FLYP is that at the same rate" if any(row.get("against_flyp") for row in summary["candidates"]) else ""
        lines += [f"Differences are paired, with their 95 % interval{same}.", NOISE_NOTE]
        if any(item["beyond_noise"] is None for row in summary["candidates"] for key in ("against_zero_shot", "against_flyp") for of in row.get(key, {}).values() for item in of.values()):
            lines.append(UNKNOWN_NOTE)
    shifts = len(_names(summary, "shift"))
    if shifts > 1:
        lines.append(f"Shifts: plain mean over {shifts} sets.")
    elif not shifts:
        lines.append("No shift was measured: nothing is known of other images than those like the training images.")
    if summary.get("baseline") is None:
        # What a run on lists of labels measured before its training kept no logits.
        other = " with --save_logits" if measure_of(summary).of_lists else ", or train without --skip_baseline"
        lines.append(f"Zero-shot was not measured: compare a run of zero_shot too{other}.")
    lines += measure_of(summary).notes if measure_of(summary).of_lists else ()
    return [*lines, *(f"Note: {note}" for note in summary.get("notes", ()))]


def _percent(spread: Mapping[str, Any] | None) -> str:
    return _spread(spread, 100, 1)


def _spread(spread: Mapping[str, Any] | None, scale: float, digits: int) -> str:
    if spread is None:
        return _DASH
    sd = "" if spread["sd"] is None else f" ±{scale * spread['sd']:.{digits}f}"
    return f"{scale * spread['mean']:.{digits}f}{sd}"


def _difference(against: Mapping[str, Any] | None, group: str, metric: str, scale: float, digits: int) -> str:
    found = ((against or {}).get(group) or {}).get(metric)
    if found is None:
        return _DASH
    mark = "" if found["beyond_noise"] else NOISE_MARK if found["beyond_noise"] is False else UNKNOWN_MARK
    text = f"{mark}{scale * found['mean']:+.{digits}f}"
    if found["se"] is None:
        return text
    return f"{text} ({scale * found['low']:+.{digits}f} to {scale * found['high']:+.{digits}f})"


def _fitting(table: _Table, width: int) -> list[_Table]:
    """Cut a table that is wider than the terminal between columns; each part begins with the names."""
    # Two spaces of padding and the line between columns.
    widths = [max(len(row[place]) for row in (table.header, *table.rows)) + 3 for place in range(len(table.header))]
    # Names are folded to a third of the terminal.
    room = width - min(widths[0], width // 3 + 2)
    parts: list[list[int]] = [[]]
    for place in range(1, len(widths)):
        if parts[-1] and sum(widths[item] for item in parts[-1]) + widths[place] > room:
            parts.append([])
        parts[-1].append(place)
    chosen = [[0, *places] for places in parts]
    titles = [table.title] + [f"{table.title} (continued)"] * (len(parts) - 1)
    notes: Sequence[list[str]] = [[]] * (len(parts) - 1) + [table.notes]
    return [
        _Table(
            title,
            [table.header[i] for i in places],
            [[row[i] for i in places] for row in table.rows],
            table.bold,
            list(lines),
        )
        for title, places, lines in zip(titles, chosen, notes, strict=True)
    ]
