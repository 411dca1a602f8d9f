# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The frontier of a comparison as a picture, in the style of the pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..evaluation.figures import checked_png, new_figure, plain_axes, save_figure, short_name
from ..evaluation.plots import BEFORE, SHIFT_COLOURS, SHIFT_MARKERS
from .measures import measure_of
from .runs import rate_text

#: Where there are more methods than colours.
_LINES = ("-", "--", ":")


def plot_frontier(summary: Mapping[str, Any], path: str | Path, dpi: int = 150) -> Path:
    """
    Draw the mean accuracy (of lists of labels the mAP) under shift against that in distribution into one PNG: a line for each method over its rates.

    Of two lines the upper one is better whatever the rate. Bars are standard deviations over seeds; the rates stand beside the
    points.

    Args:
        summary (`Mapping`): Of [`summarise`] or [`load_comparison`].
        path (`str` or `Path`): File to write, ending in `.png`.
        dpi (`int`, *optional*, defaults to 150): Pixels per inch; the picture is 7 by 5 inches.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If no set in distribution or no shift was measured, or the file is not a PNG.
    """
    path, rows, measure = checked_png(path), summary["candidates"], measure_of(summary)
    if not all(row["id_mean"] and row["shift_mean"] for row in rows):
        raise ValueError("The picture needs a set in distribution and a shift; measure on such sets too.")
    figure = new_figure(7.0, 5.0)
    axes = figure.subplots()
    lines: dict[str, list[Mapping]] = {}
    labels: list[tuple[str, tuple[float, float], str]] = []
    for row in rows:
        lines.setdefault(row["method_label"], []).append(row)
    for place, (name, points) in enumerate(lines.items()):
        turn, colour = divmod(place, len(SHIFT_COLOURS))
        style = {"color": SHIFT_COLOURS[colour], "marker": SHIFT_MARKERS[(turn + colour) % len(SHIFT_MARKERS)], "linestyle": _LINES[turn % len(_LINES)]}
        (x, xerr), (y, yerr) = (
            zip(*(_value(point[mean][measure.key]) for point in points), strict=True)
            for mean in ("id_mean", "shift_mean")
        )
        axes.errorbar(
            x, y, yerr, xerr, **style, markersize=6, linewidth=1.3, elinewidth=0.8, label=short_name(name), zorder=3
        )
        rates = [point["learning_rate"] for point in points]
        labels += [
            (rate_text(rate), at, style["color"])
            for rate, at in zip(rates, zip(x, y, strict=True), strict=True)
            if len(points) > 1 and rate is not None
        ]
    if summary["baseline"] is not None:
        at = [_value(summary["baseline"][mean][measure.key])[0] for mean in ("id_mean", "shift_mean")]
        axes.plot(
            *([value] for value in at), "*", color=BEFORE, markersize=13, label=summary["baseline"]["label"], zorder=2
        )
        axes.axhline(at[1], color=BEFORE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    names = {
        role: [item["name"] for item in summary["data"]["sets"] if item["role"] == role] for role in ("id", "shift")
    }
    axes.set_xlabel(f"{measure.word} in distribution ({_sets(names['id'])}), %")
    axes.set_ylabel(f"{measure.word} under shift ({_sets(names['shift'])}), %")
    axes.margins(0.1)
    plain_axes(axes, "both")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, handlelength=3.5)
    _write_rates(axes, labels)
    return save_figure(figure, path, dpi)


def _write_rates(axes: Axes, labels: Sequence[tuple[str, tuple[float, float], str]]) -> None:
    """Write the rate beside each point, on the side where it is farthest from other points and labels."""
    # The scale is known when the legend has its room.
    axes.figure.draw_without_rendering()
    pixel = axes.figure.dpi / 72
    taken = [axes.transData.transform(at) for _, at, _ in labels]
    for place, (text, at, colour) in enumerate(labels):
        others, found = taken[:place] + taken[place + 1 :], []
        for align, aside, above in (("left", 4, 7), ("right", -4, 7), ("left", 4, -8), ("right", -4, -8)):
            middle = taken[place] + pixel * np.array([aside + np.sign(aside) * 2.5 * len(text), above])
            # A label is wider than it is high.
            room = min((np.linalg.norm((middle - other) / (2.5, 1)) for other in others), default=0.0)
            found.append((room, align, aside, above, middle))
        _, align, aside, above, middle = max(found, key=lambda item: item[0])
        style = {"textcoords": "offset points", "fontsize": 8, "color": colour, "ha": align, "va": "center"}
        axes.annotate(text, at, xytext=(aside, above), **style)
        taken.append(middle)


def _value(spread: Mapping[str, Any]) -> tuple[float, float]:
    return 100 * spread["mean"], 100 * (spread["sd"] or 0.0)


def _sets(names: list[str]) -> str:
    return f"mean of {len(names)}" if len(names) > 1 else short_name(names[0])
