# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""In distribution against shift, in one picture: what fine-tuning gave on the one and cost on the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..modeling.files import whole_file
from .plots import AFTER, BEFORE, EDGE, GAP, LEGEND_WIDTH, short_name
from .report import DatasetResult, EvaluationReport
from .tables import check_same_data, ordered

#: Okabe & Ito's colours without yellow; markers tell the sets apart where these are used up.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vP"
_DIAGONAL = {"color": "0.45", "linewidth": 0.9, "linestyle": (0, (4, 3)), "zorder": 1}


def plot_shift(reports: EvaluationReport | Sequence[EvaluationReport], path: str | Path, dpi: int = 150) -> Path:
    """
    Draw the accuracy under each shift against the accuracy in distribution, and the ECE of every set, into one PNG.

    Left: a point for each shift, at the accuracy on the first in-distribution set; with two reports an arrow from the
    earlier model (hollow) to the later one. An arrow up and to the right is a gain on both; below the dashed line a model
    is worse under shift than in distribution. Right: the ECE of every set, earlier model in grey.

    Args:
        reports ([`EvaluationReport`] or a sequence of one or two): One model, or a model before and after.
        path: File to write, ending in `.png`; folders are made as needed.
        dpi (`int`, *optional*, defaults to 150): Pixels per inch; the picture is 10.5 inches wide.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If there are no or more than two reports, the last has no set in distribution or no shift, the two
            were measured on other data, or the file is no PNG.
    """
    given = [reports] if isinstance(reports, EvaluationReport) else list(reports)
    if not 1 <= len(given) <= 2:
        raise ValueError(f"There are {len(given)} reports to draw; give one, or one before and one after fine-tuning.")
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"The picture is a PNG, but the file is called {path.name!r}; let the name end in .png.")
    before, after = (given[0], given[1]) if len(given) == 2 else (None, given[0])
    inside = next((result for result in ordered(after) if result.role == "id"), None)
    if inside is None or not after.shifts:
        what = "a set in distribution" if inside is None else "a shift"
        raise ValueError(f"The report of {after.model!r} has no result on {what}; evaluate it on such a set too.")
    if before is not None:
        check_same_data(after, before)
    results = [inside, *after.shifts]
    figure = Figure(figsize=(10.5, max(4.2, 1.9 + 0.42 * len(results))), layout="constrained")
    FigureCanvasAgg(figure)
    scatter, bars = figure.subplots(1, 2, width_ratios=(1, 1.05))
    handles = _draw_accuracies(scatter, inside, after, before)
    _draw_errors(bars, results, before)
    handles += _legend(after, before)
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False, fontsize=9
    )
    for text in (
        *legend.get_texts(),
        *bars.get_yticklabels(),
        *(axes.title for axes in figure.axes),
        scatter.xaxis.label,
    ):
        # A dollar sign in a name is no formula.
        text.set_parse_math(False)
    with whole_file(path) as half:
        figure.savefig(half, dpi=dpi, format="png")
    return path


def _draw_accuracies(axes, inside: DatasetResult, after: EvaluationReport, before: EvaluationReport | None) -> list:
    start = None if before is None else before.results.get(inside.name)
    handles = []
    for index, result in enumerate(after.shifts):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index // len(COLOURS) % len(MARKERS)]
        earlier = None if before is None else before.results.get(result.name)
        style = {"color": colour, "marker": marker, "markersize": 7, "linestyle": "none", "zorder": 3}
        end = 100 * inside.accuracy, 100 * result.accuracy
        if start is not None and earlier is not None:
            origin = 100 * start.accuracy, 100 * earlier.accuracy
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 4, "shrinkB": 4}
            axes.annotate("", xy=end, xytext=origin, arrowprops=arrow, zorder=2)
            axes.plot(*([value] for value in origin), **style, markerfacecolor="white")
        axes.plot(*([value] for value in end), **style)
        handles.append(
            Line2D(
                [],
                [],
                color=colour,
                marker=marker,
                linestyle="none",
                markersize=7,
                label=short_name(result.name, LEGEND_WIDTH),
            )
        )
    axes.plot([0, 100], [0, 100], **_DIAGONAL)
    axes.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy under shift, %")
    axes.set_xlabel(f"accuracy in distribution ({short_name(inside.name, LEGEND_WIDTH)}), %")
    axes.set_title("Accuracy", fontsize=11, fontweight="bold")
    axes.set_aspect("equal")
    _plain(axes, "both")
    return handles


def _draw_errors(axes, results: list[DatasetResult], before: EvaluationReport | None) -> None:
    for row, result in enumerate(results):
        earlier = None if before is None else before.results.get(result.name)
        offset = 0 if earlier is None else 0.19
        height = 0.62 if earlier is None else 0.36
        axes.barh(row + offset, 100 * result.ece, height, color=AFTER, edgecolor=EDGE, linewidth=0.6, zorder=2)
        axes.plot([100 * result.ece_noise_floor] * 2, [row + offset - height / 2, row + offset + height / 2],
                  color=GAP, linewidth=2.2, zorder=3)  # fmt: skip
        if earlier is not None:
            axes.barh(row - offset, 100 * earlier.ece, height, color="0.75", edgecolor=BEFORE, linewidth=0.6, zorder=2)
    names = [f"{short_name(result.name)}{' (ID)' if result.role == 'id' else ''}" for result in results]
    axes.set_yticks(range(len(results)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("expected calibration error, %")
    axes.set_title("Error of the confidence", fontsize=11, fontweight="bold")
    _plain(axes, "x")


def _legend(after: EvaluationReport, before: EvaluationReport | None) -> list:
    handles = []
    if before is not None:
        handles.append(Line2D([], [], color="0.75", marker="s", markersize=9, markeredgecolor=BEFORE, linestyle="none",
                              label=f"{short_name(before.model, LEGEND_WIDTH)} (left: hollow)"))  # fmt: skip
    handles += [
        Line2D(
            [],
            [],
            color=AFTER,
            marker="s",
            markersize=9,
            markeredgecolor=EDGE,
            linestyle="none",
            label=short_name(after.model, LEGEND_WIDTH),
        ),
        Line2D([], [], color=GAP, linewidth=2.2, label="noise floor of the ECE"),
        Line2D(
            [], [], **{key: value for key, value in _DIAGONAL.items() if key != "zorder"}, label="shift as good as ID"
        ),
    ]
    return handles


def _plain(axes, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color="0.9", linewidth=0.7)
    axes.tick_params(labelsize=9)
