# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One self-contained page of a comparison: every number on it is looked up in `comparison.json` and says where."""

from __future__ import annotations

import base64
import io
import shlex
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..data.benchmarks import Benchmark
from ..data.images import decode_image
from ..evaluation.open_set import DEFAULT_SCORE
from ..files import write_whole
from ..publishing.text import duration, one_line, source_string
from . import charts
from .runs import rate_text

PAGE = Path(__file__).resolve().parent / "page"
MISSING = "\N{EN DASH}"
#: Pixels of the longer side of a small picture.
THUMBNAIL = 112
_MINUS = str.maketrans("-", "\N{MINUS SIGN}")


#: How numbers are written, by the name that the page gives in `data-form`.
FORMS: dict[str, Callable[[Any], str]] = {
    "percent": lambda value: f"{100 * value:.1f}",
    "points": lambda value: f"{100 * value:+.1f}",
    "share": lambda value: f"{100 * value:.0f}",
    "tenths": lambda value: f"{value:.1f}",
    "nats": lambda value: f"{value:.3f}",
    "nats-change": lambda value: f"{value:+.3f}",
    "count": lambda value: f"{value:,}",
    "rate": rate_text,
    "duration": duration,
    "text": str,
}


def written(value: Any, form: str) -> str:
    """Return `value` as the page writes it, in a `form` of `FORMS`; a dash where there is none."""
    if value is None:
        return MISSING
    text = FORMS[form](value)
    return text if form == "text" else text.translate(_MINUS) if form != "rate" else text


class Node:
    """
    A value of the summary that knows its address, a JSON pointer such as `/candidates/3/shift_mean/accuracy/mean`.

    What is not there is a node too, which is false, so that a page can ask for anything.
    """

    __slots__ = ("pointer", "raw")

    def __init__(self, raw: Any, pointer: str = ""):
        self.raw, self.pointer = raw, pointer

    def __getitem__(self, key: Any) -> Node:
        key = key.raw if isinstance(key, Node) else key
        try:
            value = self.raw[key]
        except (KeyError, IndexError, TypeError):
            value = None
        return Node(value, f"{self.pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")

    def __getattr__(self, key: str) -> Node:
        if key.startswith("__"):
            raise AttributeError(key)
        return self[key]

    def __iter__(self) -> Iterator[Node]:
        keys = range(len(self.raw)) if isinstance(self.raw, list) else self.raw or ()
        return (self[key] for key in keys)

    def __len__(self) -> int:
        return len(self.raw or ())

    def __bool__(self) -> bool:
        return self.raw is not None and self.raw is not False and not (hasattr(self.raw, "__len__") and not self.raw)

    def __float__(self) -> float:
        return float(self.raw)

    def __eq__(self, other: object) -> bool:
        return self.raw == (other.raw if isinstance(other, Node) else other)

    def __hash__(self) -> int:
        return hash(self.pointer)

    def __str__(self) -> str:
        return MISSING if self.raw is None else str(self.raw)

    def pairs(self) -> list[tuple[str, Node]]:
        """Keys and nodes of a mapping."""
        return [(key, self[key]) for key in (self.raw or ())]


def shown(node: Node, form: str) -> Markup:
    """Return what a `node` holds for the page, in a `form` of `FORMS` and with its address; the filter `as` of the templates."""
    if node.raw is None:
        return Markup('<span class="none">{}</span>').format(MISSING)
    return Markup('<data value="{}" data-path="{}" data-form="{}">{}</data>').format(
        node.raw, node.pointer, form, written(node.raw, form)
    )


def tick(value: float, scale: charts.Scale, form: str) -> str:
    """Return a tick's `value` on a `scale`, in a `form`: with as many decimals as the distance between the ticks needs."""
    ticks = scale.ticks
    factor = 100 if form in ("percent", "points", "share") else 1
    step = factor * (ticks[1] - ticks[0]) if len(ticks) > 1 else 1
    decimals = (
        0 if round(step, 6) == int(round(step, 6)) else 1 if round(10 * step, 6) == int(round(10 * step, 6)) else 2
    )
    return f"{factor * value:.{decimals}f}".translate(_MINUS)


#: Heading, picture, and what a screen reader says of it.
Picture = tuple[str, charts.Chart, str]
#: Parts of the page: the template of each in `page/sections`, its heading, and its name among the links.
SECTIONS = {
    "choice": ("The choice", "Choice"),
    "next": ("What to do next", "Next"),
    "candidates": ("All candidates", "Candidates"),
    "frontier": ("What accuracy in distribution costs under shift", "Frontier"),
    "calibration": ("Calibration", "Calibration"),
    "unknown": ("Unknown classes", "Unknown classes"),
    "classes": ("Classes that gained and lost", "Classes"),
    "forgotten": ("What was forgotten", "Forgotten"),
    "mistakes": ("The worst mistakes", "Mistakes"),
    "measured": ("How it was measured", "Measured"),
}


def write_html(
    summary: Mapping[str, Any], path: str | Path, thumbnails: Mapping[tuple[str, int], str] | None = None
) -> Path:
    """
    Write the page of a comparison: one file that needs no network, sound whatever is missing in the summary.

    Args:
        summary (`Mapping[str, Any]`): Of [`summarise`] or [`load_comparison`].
        path (`str` or `Path`): The file.
        thumbnails (`Mapping`, *optional*): Data URIs of pictures by set and row, of [`thumbnails`].

    Returns:
        `Path`: The file.
    """
    page = _environment().get_template("page.html")
    return write_whole(path, page.render(_view(Node(summary), thumbnails or {})))


def thumbnails(
    mistakes: Iterable[Mapping[str, Any]], benchmarks: Iterable[Benchmark], size: int = THUMBNAIL
) -> dict[tuple[str, int], str]:
    """
    Read the pictures of the worst mistakes, small.

    Args:
        mistakes (`Iterable[Mapping]`): The `worst_mistakes` of a summary, of which `set` and `row` are read.
        benchmarks (`Iterable[Benchmark]`): The data sets, by whose names the sets are found. Mistakes on other sets, on sets
            that are streamed, in rows that a set has not, and in images that can no longer be read (a warning names these),
            have no picture.
        size (`int`, *optional*, defaults to 112): Pixels of the longer side.

    Returns:
        `dict[tuple[str, int], str]`: By set and row a data URI, for [`write_html`].
    """
    known, found = {benchmark.name: benchmark for benchmark in benchmarks if not benchmark.streaming}, {}
    for name, row in dict.fromkeys((item["set"], item["row"]) for item in mistakes):
        if name in known and row < len(rows := known[name].stored_rows()):
            example, where = rows[row]
            try:
                image = decode_image(example["image"], where)
            except OSError as error:
                # It was measured, and hours of runs should not end without their page.
                warnings.warn(f"The page shows a mistake without its picture: {one_line(error)}", stacklevel=2)
                continue
            image.thumbnail((size, size))
            file = io.BytesIO()
            image.save(file, "WEBP", quality=80)
            found[name, row] = f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
    return found


def _view(s: Node, pictures: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    """What the templates are given: the summary, and what follows from it."""
    names: dict[str, list[str]] = {role: [] for role in ("id", "shift", "validation", "concepts", "open_set")}
    for item in s.data.sets:
        names.setdefault(item.role.raw, []).append(item.name.raw)
    candidates = list(s.candidates)
    winner = next((row for row in candidates if row.label == s.winner.candidate), None)
    rows = [s.baseline, *candidates] if s.baseline else candidates
    compared = _compared(rows, winner)
    return {
        "s": s,
        "title": f"Which method for {_data_name(s)}?",
        "ids": names["id"],
        "shifts": names["shift"],
        "open_sets": names["open_set"],
        "validation": names["validation"],
        "concepts": names["concepts"],
        "rows": rows,
        "winner": winner,
        "doubts": _doubts(s, names, winner),
        "compared": compared,
        "frontiers": _frontiers(s, rows, winner),
        "unknown_frontiers": {name: _unknown_frontiers(rows, winner, name) for name in names["open_set"]},
        "reliability_chart": charts.reliability_chart,
        "risk_charts": {name: _risk_chart(s, compared, name) for name in (*names["id"], *names["shift"])},
        "sections": SECTIONS,
        # Files of the package.
        "style": Markup((PAGE / "style.css").read_text(encoding="utf-8")),  # noqa: S704
        "script": Markup((PAGE / "page.js").read_text(encoding="utf-8")),  # noqa: S704
        "picture_of": lambda item: pictures.get((item.set.raw, item.row.raw)),
    }


def _data_name(s: Node) -> str:
    train = s.data.train.raw or {}
    name = train.get("suite") or train.get("name")
    return name if name and name != "train" else "these data"


def _doubts(s: Node, names: Mapping[str, list[str]], winner: Node | None) -> list[str]:
    """What was not measured, or too little, to be sure of the choice."""
    doubts = []
    if not s.rule and len(s.candidates) > 1:
        doubts.append(
            "Let a rule choose that does not look at the sets of the test: measure validation images (--save_predictions)."
        )
    if not s.baseline:
        doubts.append("Measure the zero-shot model: compare a run of zero_shot too, or train without --skip_baseline.")
    if not names["shift"]:
        doubts.append(
            "Measure shifted sets: how the model fares on other images than those like the training images is unknown."
        )
    if not names["open_set"]:
        doubts.append("Measure images of unseen classes: whether the model knows what it does not know is unknown.")
    if any(len(row.seeds) < 2 for row in s.candidates):
        doubts.append("Train with more seeds: a candidate has one run, so what another seed would give is unknown.")
    elif winner is not None and s.winner.ties:
        doubts.append(
            "Train with more seeds, or measure on more images: some candidates cannot be told from the choice."
        )
    return doubts


def _compared(rows: list[Node], winner: Node | None) -> list[Node]:
    """The few rows whose pictures stand side by side: zero-shot, the winner and FLYP, or the next best where FLYP has won."""
    others = [row for row in rows if row.method and row is not winner]
    if winner is not None and winner.method != "flyp":
        others = [row for row in others if row.method == "flyp"]
    elif winner is not None:
        others = [row for row in others if row.method != "flyp"]
    place = "shift_mean" if any(row.shift_mean for row in others) else "id_mean"
    # The one that the rule chose among its rates, else the highest.
    others.sort(key=lambda row: (not row.chosen_by_rule, -(row[place].accuracy.mean.raw or 0.0)))
    return [*(row for row in rows if not row.method), *([] if winner is None else [winner]), *others[:1]]


def _colours(rows: list[Node], winner: Node | None) -> dict[str, int]:
    """The colours of the methods that have one: the winner, FLYP, and those that come highest under shift."""
    place = "shift_mean" if any(row.shift_mean for row in rows) else "id_mean"
    trained = [row for row in rows if row.method]
    ranked = sorted(trained, key=lambda row: -(row[place].accuracy.mean.raw or 0.0))
    named = [*([] if winner is None else [winner]), *(row for row in trained if row.method == "flyp"), *ranked]
    methods = list(dict.fromkeys(row.method_label.raw for row in named))
    return {method: colour for colour, method in enumerate(methods[: charts.COLOURS])}


def _frontiers(s: Node, rows: list[Node], winner: Node | None) -> list[Picture]:
    """The pictures of what is reached under shift by what is reached in distribution; none where one was not measured."""
    found = [
        _frontier(rows, winner, "Accuracy under shift", ("shift_mean", "accuracy"), "percent", s.curves),
        _frontier(rows, winner, "NLL under shift (lower is better)", ("shift_mean", "nll"), "nats"),
    ]
    return [picture for picture in found if picture is not None]


def _unknown_frontiers(rows: list[Node], winner: Node | None, name: str) -> list[Picture]:
    """The same pictures of the AUROC against a set of unseen classes, in distribution and under shift."""
    found = [
        _frontier(rows, winner, f"AUROC {where}", ("open_set", name, DEFAULT_SCORE, key), "percent")
        for where, key in (("in distribution", "auroc"), ("under shift", "shifts_auroc"))
    ]
    return [picture for picture in found if picture is not None]


def _frontier(
    rows: list[Node], winner: Node | None, heading: str, place: Sequence[str], form: str, curves: Node | None = None
) -> Picture | None:
    """One picture: its heading, itself, and what a screen reader says; `None` where nothing can be drawn."""

    def value(row: Node) -> Node:
        for key in place:
            row = row[key]
        return row["mean"]

    def point(x: Node, y: Node, name: str, chosen: bool = False) -> charts.Point:
        numbers = f"{written(x.raw, 'percent')} % accuracy in distribution\n{written(y.raw, form)}{unit}: {heading}"
        return charts.Point(x, y, f"{name}\n{numbers}", chosen)

    rows = [row for row in rows if row.id_mean.accuracy.mean and value(row)]
    colours, unit = _colours(rows, winner), " %" if form == "percent" else ""
    lines: dict[str, charts.Line] = {}
    for label, points in curves.pairs() if curves else ():
        of = next((row.method_label.raw for row in rows if row.label == label), None)
        on_the_way = [point(item[0], item[1], f"{label}, alpha {item[2].raw:g}") for item in points]
        lines[f"{label} (alpha)"] = charts.Line(
            f"{label}, weights mixed with zero-shot",
            on_the_way,
            colours.get(of),
            dashed=True,
            marker="circle",
            named=False,
        )
    for row in rows:
        name = row.method_label.raw or row.label.raw
        colour = colours.get(name) if row.method else charts.START
        marker = charts.MARKERS[colour or 0] if row.method else "star"
        line = lines.setdefault(name, charts.Line(name, [], colour, marker=marker))
        chosen = bool(row.chosen_by_rule) or row is winner
        line.points.append(point(row.id_mean.accuracy.mean, value(row), row.label.raw, chosen))
    if not any(row.method for row in rows):
        return None
    # The most important one last: it is drawn on top.
    drawn = sorted(
        lines.values(), key=lambda line: (not line.dashed, -(charts.COLOURS if line.colour is None else line.colour))
    )
    chart = charts.line_chart(
        drawn, "accuracy in distribution, %", f"{heading}{',' if unit else ''}{unit}", "percent", form
    )
    alt = f"{heading} against accuracy in distribution: a line over learning rates for each method. The numbers are in the tables."
    return heading, chart, alt


def _risk_chart(s: Node, compared: list[Node], name: str) -> charts.Chart | None:
    """Of one set, the share of wrong predictions by the share of images that are kept, where predictions were kept."""
    lines = []
    for number, row in enumerate(compared):
        curve = s.risk_coverage[row.label.raw][name]
        if curve:
            points = [charts.Point(x, y, "") for x, y in zip(curve.coverage, curve.risk, strict=True)]
            colour = charts.START if not row.method else max(0, number - 1)
            line = charts.Line(row.label.raw, points, colour, marker=None)
            lines.append(line)
    if not lines:
        return None
    return charts.line_chart(lines[::-1], "share of images kept, %", "wrong among them, %", "percent", "percent")


def _reach(items: Iterable[Node]) -> float:
    """How far from zero the differences of `items` go, with their intervals."""
    ends = [item.difference[key].raw for item in items for key in ("mean", "low", "high")]
    return max((abs(end) for end in ends if end is not None), default=0.0) or 1.0


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "as": shown,
        "tick": tick,
        "several_rates": lambda pairs: any(range["rates"].raw > 1 for _, range in pairs),
        "reach": _reach,
        "gains": lambda items: [item for item in items if item.difference["mean"].raw > 0],
        "losses": lambda items: [item for item in items if item.difference["mean"].raw < 0],
        "by_set": lambda items: [list(group) for _, group in groupby(items, key=lambda item: item.set.raw)],
        "select_drawn": lambda charts: [name for name, chart in charts.items() if chart is not None],
        "python": source_string,
        "shell": lambda text: shlex.quote(one_line(text)),
        "scale": lambda scale: f"{scale.low!r} {scale.high!r} {scale.start!r} {scale.end!r}",
    }
    return environment
