# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`report.html`: a report for a person to read, in one file that needs no network. Its numbers are those of `evaluation.json`."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from ..data.benchmarks import Benchmark
from ..data.thumbnails import thumbnails
from ..evaluation import charts, html
from ..evaluation.error_analysis import by_accuracy, class_rates, worst_classes
from ..evaluation.findings import sentences
from ..evaluation.html import Node
from ..evaluation.report import EvaluationReport
from ..evaluation.tables import ordered
from ..files import write_whole
from .card_file import GENERATED_PAGE, PAGE_FILE, PAGE_MARK, is_page
from .card_sections import FOLDED_SINCE

FOLDER = Path(__file__).resolve().parent / "page"
#: On the page, of each set: classes from the least accurate on, and classes whose confidence is most wrong.
CLASSES, MISJUDGED = 25, 8
#: Mistakes of each kind.
MISTAKES = 8
#: Pictures of the whole page, and pixels of the longer side of one.
PICTURES, PICTURE_SIZE = 96, 96
#: Of a class with fewer predictions no precision is shown.
FEWEST = 5
#: Of a curve every so many points are in its table.
_EVERY = 5
FORMS: dict[str, Callable[[Any], str]] = {
    **html.FORMS,
    # The probability of the right class, of its negative logarithm.
    "of-nats": lambda value: f"{100 * math.exp(-value):.2g}",
}
ROLES = {"id": "in distribution", "shift": "shift", "validation": "validation", "train": "training"}
SECTIONS = {
    "results": ("Results", "Results"),
    "errors": ("Where it errs", "Errors"),
    "calibration": ("Can its confidence be believed?", "Calibration"),
    "unknown": ("Known or unknown", "Unknown"),
    "sets": ("Prediction sets", "Sets"),
    "lists": ("Images with lists of labels", "Lists"),
    "shared": ("Images that sets have in common", "Shared images"),
    "measured": ("How it was measured", "Measured"),
}


def write_page(folder: str | Path, stage: str | Path, reports: Sequence[EvaluationReport], benchmarks: Iterable[Benchmark] = ()) -> str:
    """
    Write the page of a report into the stage of a folder.

    Args:
        folder (`str` or `Path`): The folder, in which a `report.html` of somebody else stays as it is.
        stage (`str` or `Path`): Where to write.
        reports (`Sequence[EvaluationReport]`): Those of `evaluation.json`: the model itself last, before it the one that it is set beside.
        benchmarks (`Iterable[Benchmark]`, *optional*): The sets that were measured, whose images are shown where the model errs.

    Returns:
        `str`: The name of the file: `report.html`, or `report.generated.html` beside one of somebody else.
    """
    name, theirs = PAGE_FILE, Path(folder) / PAGE_FILE
    if theirs.is_file() and not is_page(theirs):
        name = GENERATED_PAGE
        warnings.warn(f"{PAGE_FILE} in {folder} is not of hf_robustft and is kept; the page of the report is {name} beside it.", stacklevel=2)
    pictures = thumbnails(_places(reports[-1]), benchmarks, PICTURE_SIZE, PICTURES)
    write_whole(Path(stage) / name, report_page(reports, pictures))
    return name


def report_page(reports: Sequence[EvaluationReport], pictures: Mapping[tuple[str, int], str] | None = None) -> str:
    """
    Lay out the page of a report, sound whatever was not measured.

    Args:
        reports (`Sequence[EvaluationReport]`): As for [`write_page`].
        pictures (`Mapping`, *optional*): Data URIs by set and row, of [`~data.thumbnails.thumbnails`].

    Returns:
        `str`: The page.
    """
    return _environment().get_template("page.html").render(_view(reports, pictures or {}))


def _places(report: EvaluationReport) -> list[tuple[str, int]]:
    """Sets and rows of the mistakes, rank by rank, so that all sets have pictures where there are too many."""
    found = []
    for key in ("worst", "most_confident"):
        lists = []
        for name, part in (report.error_analysis or {}).items():
            before = [item["row"] for item in part["worst"][:MISTAKES]] if key == "most_confident" else []
            lists.append([(name, item["row"]) for item in part[key] if item["row"] not in before][:MISTAKES])
        longest = max(map(len, lists), default=0)
        found += [of[rank] for rank in range(longest) for of in lists if rank < len(of)]
    return found


def _view(reports: Sequence[EvaluationReport], pictures: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    report, before = reports[-1], reports[-2] if len(reports) > 1 else None
    # As in the file, but for texts that hold several numbers.
    raw = {"findings": sentences(report, before), "reports": [{**vars(item), "results": {name: vars(row) for name, row in item.results.items()}} for item in reports]}
    root = Node(raw)
    r, baseline = root.reports[len(reports) - 1], None if before is None else root.reports[len(reports) - 2]
    parts = {
        "errors": r.error_analysis,
        "calibration": r.results,
        "unknown": r.open_set,
        "sets": r.prediction_sets,
        "lists": r.multi_label,
    }
    return {
        "title": report.model or "Model",
        "kicker": "Evaluation report",
        "mark": Markup(PAGE_MARK),  # noqa: S704
        "sections": {id: words for id, words in SECTIONS.items() if parts.get(id, True)},
        "findings": root.findings,
        "r": r,
        "baseline": baseline,
        "names": [result.name for result in ordered(report)],
        "shows_pictures": bool(pictures),
        "picture_of": lambda name, item: pictures.get((name, item.row.raw)),
        "reliability_chart": charts.reliability_chart,
        "curve_chart": curve_chart,
        "every": lambda curve: [*range(0, len(curve.threshold) - 1, _EVERY), len(curve.threshold) - 1],
        "fewest": FEWEST,
        "roles": ROLES,
        "folded_since": r.settings[FOLDED_SINCE],
    }


def curve_chart(curve: Node) -> charts.Chart:
    """
    Lay out a threshold curve.

    Args:
        curve (`Node`): Of [`threshold_curve`].

    Returns:
        [`Chart`]: Refused known and accepted unknown images by threshold, with intervals; shifts dashed; what was chosen as two points.
    """

    def line(name: str, shares: Node, colour: int, dashed: bool = False) -> charts.Line:
        points = [charts.Point(x, y, "") for x, y in zip(curve.threshold, shares, strict=True)]
        return charts.Line(name, points, colour, dashed=dashed, marker=None, named=False)

    lines = [line(f"{name} refused", shares, 2 + place % 4, True) for place, (name, shares) in enumerate(curve.shifts.pairs())]
    for name, key, colour in (("unknown images accepted", "acceptance", 1), ("known images refused", "refusal", 0)):
        lines.append(line(name, curve[key], colour))
        lines[-1].band = (list(map(float, curve[f"{key}_low"])), list(map(float, curve[f"{key}_high"])))
    if curve.chosen:
        at, ends = curve.chosen.threshold, [(name, curve.chosen[key]) for name, key in (("known images refused", "refusal"), ("unknown images accepted", "acceptance"))]
        title = "threshold {}\n{} %: {}"
        points = [charts.Point(at, row.share, title.format(html.written(at.raw, "number"), html.written(row.share.raw, "percent"), name)) for name, row in ends]
        lines.append(charts.Line("the threshold of the detector", points, charts.START, named=False))
    return charts.line_chart(lines, f"threshold on the score {curve.score}", "share of the images, %", "number", "percent")


def _rate(row: Node, what: str, form: str, end: int | None = None) -> Markup:
    """Return what follows from the counts of a class: the filter `rate` of the templates."""
    value = class_rates(row.raw)[what]
    value = value if end is None or value is None else value[end]
    if value is None:
        return Markup('<span class="none">{}</span>').format(html.MISSING)
    of = what if end is None else f"{what}/{end}"
    return Markup('<data value="{}" data-path="{}" data-form="{}" data-of="{}">{}</data>').format(
        value, row.pointer, form, of, html.written(value, form, FORMS)
    )


def _misjudged(part: Node) -> list[str]:
    """Classes whose confidence is wrong beyond noise, the most wrong first."""
    rates = {name: class_rates(row) for name, row in part.classes.raw.items() if row["predicted"] >= FEWEST}
    wrong = [name for name, of in rates.items() if of["beyond"]]
    return sorted(wrong, key=lambda name: -abs(rates[name]["gap"]))


def _least_precise(part: Node) -> list[str]:
    """Classes of images with lists of labels from the lowest average precision on, those without one last."""
    rows = part.classes.raw
    return sorted(rows, key=lambda name: (rows[name]["average_precision"] is None, rows[name]["average_precision"] or 0.0))[:CLASSES]


@cache
def _environment() -> Environment:
    made = html.environment(FOLDER, FORMS)
    made.filters |= {
        "rate": _rate,
        "among": lambda names, parts: [name for name in names if name in (parts.raw or {})],
        "least_precise": _least_precise,
        "least_accurate": lambda part: by_accuracy(part.raw)[:CLASSES],
        "below": lambda part, accuracy: worst_classes(part.raw, accuracy.raw),
        "misjudged": _misjudged,
        "most_misjudged": lambda names: names[:MISJUDGED],
        "first_few": lambda items: list(items)[:MISTAKES],
        "further": lambda items, others: [item for item in items if item not in list(others)][:MISTAKES],
        "overlaps": lambda items, others: any(item in list(others) for item in items),
        "repeated": lambda pairs: [pair for pair in pairs if pair.n.raw > 1],
        "gap": lambda row: class_rates(row.raw)["gap"],
        "beyond": lambda row: bool(class_rates(row.raw)["beyond"]),
    }
    return made
