# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One self-contained page of a comparison: every number on it is looked up in `comparison.json` and says where."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment

from ..evaluation import charts, html
from ..evaluation.html import Node, written
from ..evaluation.open_set import DEFAULT_SCORE
from ..files import write_whole
from ..publishing.text import duration, one_line, source_string
from .measures import Measure, measure_of
from .runs import rate_text

PAGE = Path(__file__).resolve().parent / "page"
#: How numbers are written, by the name that the page gives in `data-form`.
FORMS: dict[str, Callable[[Any], str]] = {**html.FORMS, "rate": rate_text, "duration": duration}
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
#: What is known of single images, bins of confidence and unseen classes, which a comparison of lists of labels has none of.
_OF_ONE_LABEL = ("calibration", "unknown", "classes", "forgotten", "mistakes")


def write_html(
    summary: Mapping[str, Any], path: str | Path, thumbnails: Mapping[tuple[str, int], str] | None = None
) -> Path:
    """
    Write the page of a comparison: one file that needs no network, sound whatever is missing in the summary.

    Args:
        summary (`Mapping[str, Any]`): Of [`summarise`] or [`load_comparison`].
        path (`str` or `Path`): The file.
        thumbnails (`Mapping`, *optional*): Data URIs of pictures by set and row, of [`~data.thumbnails.thumbnails`].

    Returns:
        `Path`: The file.
    """
    page = _environment().get_template("page.html")
    return write_whole(path, page.render(_view(Node(summary), thumbnails or {})))


def _view(s: Node, pictures: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    """What the templates are given: the summary, and what follows from it."""
    names: dict[str, list[str]] = {role: [] for role in ("id", "shift", "validation", "concepts", "open_set")}
    for item in s.data.sets:
        names.setdefault(item.role.raw, []).append(item.name.raw)
    candidates = list(s.candidates)
    winner = next((row for row in candidates if row.label == s.winner.candidate), None)
    rows = [s.baseline, *candidates] if s.baseline else candidates
    measure = measure_of(s.raw)
    compared = _compared(rows, winner, measure)
    sections = {name: named for name, named in SECTIONS.items() if not measure.of_lists or name not in _OF_ONE_LABEL}
    return {
        "s": s,
        "measure": measure,
        "title": f"Which method for {_data_name(s)}?",
        "kicker": "Comparison of fine-tuning methods",
        "ids": names["id"],
        "shifts": names["shift"],
        "open_sets": names["open_set"],
        "validation": names["validation"],
        "concepts": names["concepts"],
        "rows": rows,
        "winner": winner,
        "doubts": _doubts(s, names, winner, measure),
        "compared": compared,
        "frontiers": _frontiers(s, rows, winner, measure),
        "unknown_frontiers": {name: _unknown_frontiers(rows, winner, measure, name) for name in names["open_set"]},
        "score_choices": {name: [(label, each[name]) for label, each in s.score_choice.pairs() if each[name]] for name in names["open_set"]},
        "reliability_chart": charts.reliability_chart,
        "risk_charts": {name: _risk_chart(s, compared, name) for name in (*names["id"], *names["shift"])},
        "sections": {name: (measure.in_words(heading), short) for name, (heading, short) in sections.items()},
        "picture_of": lambda item: pictures.get((item.set.raw, item.row.raw)),
    }


def _data_name(s: Node) -> str:
    train = s.data.train.raw or {}
    name = train.get("suite") or train.get("name")
    return name if name and name != "train" else "these data"


def _doubts(s: Node, names: Mapping[str, list[str]], winner: Node | None, measure: Measure) -> list[str]:
    """What was not measured, or too little, to be sure of the choice."""
    doubts = []
    if not s.rule and len(s.candidates) > 1:
        doubts.append(
            "Let a rule choose that does not look at the sets of the test: measure validation images" + ("." if measure.of_lists else " (--save_predictions).")
        )
    if s.rule.tied:
        doubts.append(
            "Choose by images that tell methods apart: to those that the rule looked at several are equally good. Give a shifted set to choose "
            "by (--rule shift:<set>), or more or harder validation images."
        )
    if not s.baseline:
        other = " with --save_logits" if measure.of_lists else ", or train without --skip_baseline"
        doubts.append(f"Measure the zero-shot model: compare a run of zero_shot too{other}.")
    if not names["shift"]:
        doubts.append(
            "Measure shifted sets: how the model fares on other images than those like the training images is unknown."
        )
    if not names["open_set"] and not measure.of_lists:
        doubts.append("Measure images of unseen classes: whether the model knows what it does not know is unknown.")
    if any(len(row.seeds) < 2 for row in s.candidates):
        doubts.append("Train with more seeds: a candidate has one run, so what another seed would give is unknown.")
    elif winner is not None and s.winner.ties:
        doubts.append(
            "Train with more seeds, or measure on more images: some candidates cannot be told from the choice."
        )
    return doubts


def _compared(rows: list[Node], winner: Node | None, measure: Measure) -> list[Node]:
    """The few rows whose pictures stand side by side: zero-shot, the winner and FLYP, or the next best where FLYP has won."""
    others = [row for row in rows if row.method and row is not winner]
    if winner is not None and winner.method != "flyp":
        others = [row for row in others if row.method == "flyp"]
    elif winner is not None:
        others = [row for row in others if row.method != "flyp"]
    place = "shift_mean" if any(row.shift_mean for row in others) else "id_mean"
    # The one that the rule chose among its rates, else the highest.
    others.sort(key=lambda row: (not row.chosen_by_rule, -(row[place][measure.key].mean.raw or 0.0)))
    return [*(row for row in rows if not row.method), *([] if winner is None else [winner]), *others[:1]]


def _colours(rows: list[Node], winner: Node | None, measure: Measure) -> dict[str, int]:
    """The colours of the methods that have one: the winner, FLYP, and those that come highest under shift."""
    place = "shift_mean" if any(row.shift_mean for row in rows) else "id_mean"
    trained = [row for row in rows if row.method]
    ranked = sorted(trained, key=lambda row: -(row[place][measure.key].mean.raw or 0.0))
    named = [*([] if winner is None else [winner]), *(row for row in trained if row.method == "flyp"), *ranked]
    methods = list(dict.fromkeys(row.method_label.raw for row in named))
    return {method: colour for colour, method in enumerate(methods[: charts.COLOURS])}


def _frontiers(s: Node, rows: list[Node], winner: Node | None, measure: Measure) -> list[Picture]:
    """The pictures of what is reached under shift by what is reached in distribution; none where one was not measured."""
    found = [
        _frontier(rows, winner, measure, f"{measure.title} under shift", ("shift_mean", measure.key), "percent", s.curves),
        _frontier(rows, winner, measure, "NLL under shift (lower is better)", ("shift_mean", "nll"), "nats"),
    ]
    return [picture for picture in found if picture is not None]


def _unknown_frontiers(rows: list[Node], winner: Node | None, measure: Measure, name: str) -> list[Picture]:
    """The same pictures of the AUROC against a set of unseen classes, in distribution and under shift."""
    found = [
        _frontier(rows, winner, measure, f"AUROC {where}", ("open_set", name, DEFAULT_SCORE, key), "percent")
        for where, key in (("in distribution", "auroc"), ("under shift", "shifts_auroc"))
    ]
    return [picture for picture in found if picture is not None]


def _frontier(
    rows: list[Node],
    winner: Node | None,
    measure: Measure,
    heading: str,
    place: Sequence[str],
    form: str,
    curves: Node | None = None,
) -> Picture | None:
    """One picture: its heading, itself, and what a screen reader says; `None` where nothing can be drawn."""

    def value(row: Node) -> Node:
        for key in place:
            row = row[key]
        return row["mean"]

    def point(x: Node, y: Node, name: str, chosen: bool = False) -> charts.Point:
        numbers = f"{written(x.raw, 'percent')} % {measure.word} in distribution\n{written(y.raw, form)}{unit}: {heading}"
        return charts.Point(x, y, f"{name}\n{numbers}", chosen)

    rows = [row for row in rows if row.id_mean[measure.key].mean and value(row)]
    colours, unit = _colours(rows, winner, measure), " %" if form == "percent" else ""
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
        line.points.append(point(row.id_mean[measure.key].mean, value(row), row.label.raw, chosen))
    if not any(row.method for row in rows):
        return None
    # The most important one last: it is drawn on top.
    drawn = sorted(
        lines.values(), key=lambda line: (not line.dashed, -(charts.COLOURS if line.colour is None else line.colour))
    )
    chart = charts.line_chart(
        drawn, f"{measure.word} in distribution, %", f"{heading}{',' if unit else ''}{unit}", "percent", form
    )
    alt = f"{heading} against {measure.word} in distribution: a line over learning rates for each method. The numbers are in the tables."
    return heading, chart, alt


def _risk_chart(s: Node, compared: list[Node], name: str) -> charts.Chart | None:
    """Of one set, the share of wrong predictions by the share of images that are kept, where predictions were kept."""
    lines, trained = [], [row.label.raw for row in compared if row.method]
    for row in compared:
        curve = s.risk_coverage[row.label.raw][name]
        if curve:
            points = [charts.Point(x, y, "") for x, y in zip(curve.coverage, curve.risk, strict=True)]
            colour = trained.index(row.label.raw) if row.method else charts.START
            line = charts.Line(row.label.raw, points, colour, marker=None)
            lines.append(line)
    if not lines:
        return None
    return charts.line_chart(lines[::-1], "share of images kept, %", "wrong among them, %", "percent", "percent")


def _environment() -> Environment:
    environment = html.environment(PAGE, FORMS)
    environment.filters |= {
        "several_rates": lambda pairs: any(range["rates"].raw > 1 for _, range in pairs),
        "gains": lambda items: [item for item in items if item.difference["mean"].raw > 0],
        "losses": lambda items: [item for item in items if item.difference["mean"].raw < 0],
        "by_set": lambda items: [list(group) for _, group in groupby(items, key=lambda item: item.set.raw)],
        "select_drawn": lambda charts: [name for name, chart in charts.items() if chart is not None],
        "python": source_string,
        "shell": lambda text: shlex.quote(one_line(text)),
    }
    return environment
