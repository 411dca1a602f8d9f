# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Where lines, points and labels of the page's pictures stand. Numbers in, coordinates out: the template draws them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.ticker import MaxNLocator

from .figures import short_name
from .plots import FEW

#: Of a picture with axes, in units of the drawing. The page sets text at most `FONT` units high.
WIDTH, HEIGHT, FONT = 480.0, 380.0, 15.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 16.0, 16.0, 56.0
#: Lines with a colour and a label of their own; the page has as many colours.
COLOURS = 6
#: The colour of the zero-shot model.
START = -1
MARKERS = ("circle", "square", "diamond", "up", "down", "plus")


@dataclass(frozen=True)
class Scale:
    """An axis: `low` to `high` of the data at `start` to `end` of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 2)

    @property
    def ticks(self) -> list[float]:
        """Round values of the data within the axis."""
        values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [round(float(value), 10) for value in values if self.low <= value <= self.high]

    @classmethod
    def around(cls, values: Iterable[float], start: float, end: float, share: float = 0.08) -> Scale:
        """Return the scale from `start` to `end` that shows all `values`, with a `share` of their range as margin on both sides."""
        values = list(values)
        low, high = min(values), max(values)
        margin = share * (high - low) or max(abs(low), 1e-3) * share
        return cls(low - margin, high + margin, start, end)


@dataclass(frozen=True)
class Point:
    """A point of a line: its two numbers (with the places in the summary that they come from), and what it is."""

    x: Any
    y: Any
    title: str
    chosen: bool = False


@dataclass
class Line:
    """A line: its name, its points in order, and how it is drawn. `colour` is `None` for grey; `named` lines in colour get a label."""

    name: str
    points: list[Point]
    colour: int | None = None
    dashed: bool = False
    marker: str | None = "circle"
    named: bool = True
    drawn: list[tuple[float, float]] = field(default_factory=list)
    #: The ends of an interval at each point, and the outline of all of them.
    band: tuple[list[float], list[float]] | None = None
    band_path: str | None = None
    label: dict[str, Any] | None = None

    @property
    def path(self) -> str:
        """The line in SVG's words."""
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in self.drawn)


@dataclass
class Chart:
    """A picture with two axes and lines on it."""

    lines: list[Line]
    x: Scale
    y: Scale
    x_label: str
    y_label: str
    x_form: str
    y_form: str
    width: float = WIDTH
    height: float = HEIGHT


def line_chart(lines: Sequence[Line], x_label: str, y_label: str, x_form: str, y_form: str) -> Chart:
    """
    Lay out lines over two axes, each coloured line with its name beside one of its points.

    Args:
        lines (`Sequence[Line]`): The lines, the most important one last (it is drawn on top and named first).
        x_label, y_label (`str`): What the axes show.
        x_form, y_form (`str`): How the page writes their numbers, for the ticks.

    Returns:
        [`Chart`]: The picture.
    """
    points = [point for line in lines for point in line.points]
    ends = [end for line in lines for side in line.band or () for end in side]
    x = Scale.around((float(point.x) for point in points), LEFT, WIDTH - RIGHT)
    y = Scale.around([*(float(point.y) for point in points), *ends], HEIGHT - BOTTOM, TOP)
    for line in lines:
        line.drawn = [(x(float(point.x)), y(float(point.y))) for point in line.points]
        if line.band is not None:
            across = [at for at, _ in line.drawn]
            around = [*zip(across, map(y, line.band[1]), strict=True), *reversed(list(zip(across, map(y, line.band[0]), strict=True)))]
            line.band_path = "M" + "L".join(f"{left:g} {top:g}" for left, top in around) + "Z"
    _name(lines)
    return Chart(list(lines), x, y, x_label, y_label, x_form, y_form)


#: Of a reliability diagram: bars above, and a strip with the share of the images in each bin.
SMALL_WIDTH, BARS, STRIP = 300.0, 230.0, 40.0


def reliability_chart(bins: Any) -> dict[str, Any]:
    """
    Lay out a reliability diagram.

    Args:
        bins (`Mapping`): Nodes of the summary, as [`reliability_bins`] has them. Confidences of exactly 1.0, which have a bin of
            their own, are drawn within the last.

    Returns:
        `dict`: The scales `x` and `y`, and `bars`.
    """
    x, y = Scale(0.0, 1.0, 44.0, SMALL_WIDTH - 16), Scale(0.0, 1.0, BARS, 10.0)
    most = max(count.raw for count in bins["count"])
    bars = []
    for index, count in enumerate(bins["count"]):
        low, high = float(bins["lower"][index]), float(bins["upper"][index])
        if not count.raw:
            continue
        low = low if high > low else float(bins["lower"][max(index - 1, 0)])
        bars.append(
            {
                "left": x(low) + 1,
                "width": x(high) - x(low) - 2,
                "accuracy": bins["accuracy"][index],
                "confidence": bins["confidence"][index],
                "n": count,
                "few": count.raw < FEW,
                "strip": round(STRIP * count.raw / most, 2),
            }
        )
    return {"x": x, "y": y, "bars": bars, "height": BARS + STRIP + 66}


def text_width(text: str, font: float = FONT) -> float:
    """Return about how wide `text` is, in the units of `font`, its height; ideographs are twice as wide as letters."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return font * (0.55 * (len(text) - wide) + 1.05 * wide)


def _name(lines: Sequence[Line]) -> None:
    """Give each coloured line a label where it covers the fewest marks; none where it would cover another label."""
    marks = [mark for line in lines for mark in _marks(line.drawn)]
    taken: list[tuple[float, float, float, float]] = []
    for line in reversed(lines):
        if line.colour is None or not line.named:
            continue
        text = short_name(line.name, NAME)
        width, best = text_width(text), None
        order = sorted(range(len(line.drawn)), key=lambda index: (not line.points[index].chosen, -index))
        for rank, index in enumerate(order[:PLACES]):
            px, py = line.drawn[index]
            for side, (dx, dy, anchor) in enumerate(_PLACES):
                # Outside of the ring round what was chosen.
                if line.points[index].chosen:
                    dx, dy = dx * 1.7, dy + (7 if dy > 12 else -7 if dy < 0 else 0)
                left = px + dx - {"start": 0, "middle": width / 2, "end": width}[anchor]
                box = (left, py + dy - 0.8 * FONT, left + width, py + dy + 0.25 * FONT)
                if box[0] < LEFT or box[2] > WIDTH - 2 or box[1] < 2 or box[3] > HEIGHT - BOTTOM:
                    continue
                if any(_overlap(box, other) for other in taken):
                    continue
                covered = sum(box[0] - 3 <= mx <= box[2] + 3 and box[1] - 3 <= my <= box[3] + 3 for mx, my in marks)
                cost = covered + 0.3 * side + 0.5 * rank
                if best is None or cost < best[0]:
                    best = (
                        cost,
                        box,
                        {"x": round(px + dx, 1), "y": round(py + dy, 1), "anchor": anchor, "text": text},
                    )
        if best is not None:
            taken.append(best[1])
            line.label = best[2]


#: Beside a point: right, left, above, below, and the corners; the height is that of the text's base line.
_PLACES = (
    (10, 5, "start"),
    (-10, 5, "end"),
    (0, -11, "middle"),
    (0, 22, "middle"),
    (8, -8, "start"),
    (8, 18, "start"),
    (-8, -8, "end"),
    (-8, 18, "end"),
)


#: Points of a line that its label may stand beside, and letters of a label.
PLACES, NAME = 6, 22


def _marks(drawn: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points of a line, each counted as three, and places on the way between them."""
    marks = [point for point in drawn for _ in range(3)]
    for (ax, ay), (bx, by) in zip(drawn, drawn[1:], strict=False):
        steps = max(2, int((abs(bx - ax) + abs(by - ay)) / 8))
        marks += [(ax + (bx - ax) * step / steps, ay + (by - ay) * step / steps) for step in range(1, steps)]
    return marks


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
