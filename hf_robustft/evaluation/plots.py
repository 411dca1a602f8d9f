# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Reliability diagrams, drawn with matplotlib's figure API so that no global state and no display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..modeling.files import whole_file
from .report import DatasetResult, EvaluationReport
from .tables import ARROW, check_same_data, label, ordered

# Okabe & Ito's palette, which colour-blind readers can tell apart; the earlier model is grey in every case.
AFTER, EDGE, GAP, BEFORE = "#56B4E9", "#0072B2", "#E69F00", "#4D4D4D"
PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 3.5, 4.1, 3
#: Letters of a name of which as many as there are columns of the legend fit.
LEGEND_WIDTH = 24
#: Bins with fewer images are drawn faint: their accuracy says little.
FEW, FAINT = 10, 0.3


def plot_reliability(reports: EvaluationReport | Sequence[EvaluationReport], path: str | Path, dpi: int = 150) -> Path:
    """
    Draw a reliability diagram for each data set into one PNG.

    Above: the accuracy in each confidence bin as a bar with a standard error, faint where it is of fewer than 10 images,
    and the gap to the mean confidence of the bin, whose areas weighted by the histogram sum to the ECE. Below: the share of images in each bin. Confidences of exactly 1.0, a bin of their
    own in the ECE, are drawn with the last bin.

    Args:
        reports ([`EvaluationReport`] or a sequence of one or two): One model, or a model before (grey) and after.
        path: File to write, ending in `.png`; folders are made as needed.
        dpi (`int`, *optional*, defaults to 150): Pixels per inch; a panel is 3.5 by 4.1 inches.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If there are no or more than two reports, they share no data set or differ in its size, their numbers
            of bins differ, or the file is no PNG.
    """
    given = [reports] if isinstance(reports, EvaluationReport) else list(reports)
    if not 1 <= len(given) <= 2:
        raise ValueError(f"There are {len(given)} reports to draw; give one, or one before and one after fine-tuning.")
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"The diagram is a PNG, but the file is called {path.name!r}; let the name end in .png.")
    before, after = (given[0], given[1]) if len(given) == 2 else (None, given[0])
    if not after.results:
        raise ValueError(f"The report of {after.model!r} has no results to draw; evaluate it on a data set first.")
    if before is not None:
        check_same_data(after, before)

    results = ordered(after)
    columns = min(COLUMNS, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(PANEL_WIDTH * columns, PANEL_HEIGHT * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, columns, wspace=0.06, hspace=0.06)
    for index, result in enumerate(results):
        cell = grid[index // columns, index % columns].subgridspec(2, 1, height_ratios=(3.2, 1), hspace=0.05)
        upper = figure.add_subplot(cell[0])
        lower = figure.add_subplot(cell[1], sharex=upper)
        _panel(upper, lower, result, None if before is None else before.results.get(result.name))
    handles = _legend(after, before)
    # As many side by side as the panels leave room for.
    ncols = min(len(handles), 2 * columns - 1)
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=ncols, frameon=False, fontsize=9)
    for text in (*legend.get_texts(), *(axes.title for axes in figure.axes)):
        # A dollar sign in a name is no formula.
        text.set_parse_math(False)
    with whole_file(path) as half:
        figure.savefig(half, dpi=dpi, format="png")
    return path


def _panel(upper, lower, result: DatasetResult, before: DatasetResult | None) -> None:
    edges, share, confidence, accuracy = _drawn_bins(result)
    centres, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    filled = share > 0
    upper.plot([0, 1], [0, 1], color="black", linewidth=0.9, linestyle=(0, (4, 3)), zorder=4)
    bars = upper.bar(centres, accuracy, width, color=AFTER, edgecolor="white", linewidth=0.6, zorder=1)
    gap = np.where(filled, confidence - accuracy, 0)
    gaps = upper.bar(centres, gap, width * 0.5, bottom=accuracy, color=GAP, zorder=2)
    counts = share * result.n
    for patch, count in zip((*bars, *gaps), (*counts, *counts), strict=True):
        if count < FEW - 0.5:
            patch.set(alpha=FAINT)
    low, high = _interval(accuracy[filled], counts[filled])
    upper.vlines(centres[filled], low, high, color=EDGE, linewidth=0.9, alpha=0.8, zorder=3)
    # An under-confident bin's gap lies inside its bar, so the accuracy itself gets a line that no gap hides.
    upper.hlines(accuracy[filled], edges[:-1][filled], edges[1:][filled], color=EDGE, linewidth=2, zorder=3)
    lower.bar(centres, share, width, color=AFTER, edgecolor="white", linewidth=0.6)
    title = f"ECE {100 * result.ece:.1f} % (floor {100 * result.ece_noise_floor:.1f})"
    if before is not None:
        old_edges, old_share, old_confidence, old_accuracy = _drawn_bins(before)
        if len(old_edges) != len(edges):
            raise ValueError(
                f"Data set {result.name!r} has {len(old_edges) - 1} bins before and {len(edges) - 1} after; "
                "evaluate both models with the same n_bins."
            )
        seen = old_share > 0
        upper.plot(
            old_confidence[seen], old_accuracy[seen], "o-", color=BEFORE, markersize=4.5, linewidth=1.1,
            markeredgecolor="white", markeredgewidth=0.6, zorder=5,
        )  # fmt: skip
        lower.stairs(old_share, edges, color=BEFORE, linewidth=1.4)
        title = f"ECE {100 * before.ece:.1f}{ARROW}{100 * result.ece:.1f} % (floor {100 * result.ece_noise_floor:.1f})"
    # What tells its role stays, however long the name is.
    role = label(result).removeprefix(result.name)
    upper.set_title(f"{short_name(result.name, LEGEND_WIDTH)}{role}\n", fontsize=11, fontweight="bold")
    upper.text(0.5, 1.03, f"{title}, n = {result.n:,}", transform=upper.transAxes, ha="center", fontsize=9)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.tick_params(labelbottom=False)
    lower.set(xlabel="confidence", ylabel="share")
    lower.set_ylim(bottom=0)
    lower.locator_params(axis="y", nbins=3)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color="0.9", linewidth=0.7)
        axes.tick_params(labelsize=9)


def _interval(accuracy: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of one standard error, which is wide for a single image too."""
    spread = 1 / counts
    middle = (accuracy + spread / 2) / (1 + spread)
    half = np.sqrt(accuracy * (1 - accuracy) * spread + spread**2 / 4) / (1 + spread)
    return middle - half, middle + half


def _drawn_bins(result: DatasetResult) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Edges, shares, mean confidences and accuracies of the bins, those of exactly 1.0 joined to the last."""
    bins = result.reliability
    count = np.array(bins["count"], dtype=float)
    sums = {
        key: np.array([0.0 if value is None else value for value in bins[key]]) * count
        for key in ("confidence", "accuracy")
    }
    for values in (count, *sums.values()):
        values[-2] += values[-1]
    count = count[:-1]
    means = [sums[key][:-1] / np.maximum(count, 1) for key in ("confidence", "accuracy")]
    return np.array(bins["lower"]), count / count.sum(), *means


def _legend(after: EvaluationReport, before: EvaluationReport | None) -> list:
    handles = [
        Patch(facecolor=AFTER, edgecolor=EDGE, label=short_name(after.model, LEGEND_WIDTH)),
        Patch(color=GAP, label="gap to mean confidence"),
        Patch(facecolor=AFTER, alpha=FAINT, label=f"fewer than {FEW} images"),
        Line2D([], [], color="black", linewidth=0.9, linestyle=(0, (4, 3)), label="perfect calibration"),
    ]
    if before is not None:
        earlier = short_name(before.model, LEGEND_WIDTH)
        handles.insert(0, Line2D([], [], color=BEFORE, marker="o", markersize=4.5, linewidth=1.1, label=earlier))
    return handles


def short_name(name: str, width: int = 32) -> str:
    """A name in one line that fits a picture: names of one kind differ at their ends, so the middle is left out."""
    name = " ".join("".join(character if character.isprintable() else " " for character in str(name)).split())
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}"
