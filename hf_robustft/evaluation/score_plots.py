# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Histograms of an open-set score: in-distribution, shifted and unseen images, with the threshold of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from ..modeling.files import whole_file
from .open_set import SCORES, as_floats, detection_metrics
from .plots import short_name

# Okabe & Ito's palette, which colour-blind readers can tell apart.
COLOURS = {"id": "#0072B2", "shift": "#009E73", "open_set": "#D55E00"}
THRESHOLD, REFUSED, DASHES = "#1A1A1A", "#EBEBEB", (0, (4, 3))
TITLES = {"id": "in-distribution", "shift": "shifted, known classes", "open_set": "unseen classes"}
WANTED = {"id": "should be accepted", "shift": "should be accepted", "open_set": "should be refused"}
NAMES = {
    "msp": "largest softmax probability (msp)",
    "mcm": "largest softmax probability of the cosines (mcm)",
    "max_logit": "largest logit (max_logit)",
    "energy": "energy score, log-sum-exp of the logits",
    "knn": "minus the squared distance to the k-th nearest known image (knn)",
}
WIDTH, PANEL_HEIGHT, BINS = 8.0, 1.7, 60


def plot_scores(
    scores: Mapping[str, Mapping[str, Tensor]],
    roles: Mapping[str, str],
    path: str | Path,
    score: str = "energy",
    threshold: float | None = None,
    dpi: int = 150,
) -> Path:
    """
    Draw a score's histograms over in-distribution, shifted and unseen images, below each other, into one PNG.

    Each panel shows shares of its own images; sets of the same role are pooled. All panels have the same bins and axes, so
    heights can be compared. On the right, with a threshold, the share of images that are accepted, and for known images the
    AUROC against all unseen ones.

    Args:
        scores: Of each data set and score one number an image, such as `Evaluator.scores`.
        roles: The role of each data set: `id`, `shift` or `open_set`; sets of other roles are left out.
        path: File to write, ending in `.png`; folders are made as needed.
        score (`str`, *optional*, defaults to `"energy"`): The score to draw.
        threshold (`float`, *optional*): Of a detector for this score (`OpenSetDetector.threshold`): images at or above
            it are accepted.
        dpi (`int`, *optional*, defaults to 150): Pixels per inch; the picture is 8 inches wide.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If there is no in-distribution or no open set, the score is unknown or missing, a number is not
            finite, or the file is no PNG.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"The histograms are a PNG, but the file is called {path.name!r}; let the name end in .png.")
    if score not in SCORES:
        raise ValueError(f"There is no open-set score {score!r}; choose one of {', '.join(SCORES)}.")
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"The threshold is {threshold}, which no score can be compared with; give a finite number.")
    pooled = _pooled(scores, roles, score)
    figure = Figure(figsize=(WIDTH, PANEL_HEIGHT * len(pooled) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(pooled), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    everything = np.concatenate([values for _, values in pooled.values()])
    edges = np.linspace(*_limits(everything, threshold), BINS + 1)
    highest = max(np.histogram(values, edges)[0].max() / len(values) for _, values in pooled.values())
    for axes, (role, (names, values)) in zip(panels, pooled.items(), strict=True):
        _panel(axes, role, names, values, edges)
        axes.set_ylim(0, 1.08 * highest)
        lines = []
        if threshold is not None:
            axes.axvspan(edges[0], threshold, color=REFUSED, zorder=0)
            axes.axvline(threshold, color=THRESHOLD, linewidth=1.2, linestyle=DASHES)
            lines.append(f"accepted {100 * (values >= threshold).mean():.1f} %")
        if role != "open_set":
            lines.append(
                f"against unseen:\nAUROC {100 * detection_metrics(values, pooled['open_set'][1])['auroc']:.1f} %"
            )
        axes.text(1.015, 0.5, "\n".join(lines), transform=axes.transAxes, va="center", fontsize=10, linespacing=1.7)
    if threshold is not None:
        handles = [
            Line2D([], [], color=THRESHOLD, linewidth=1.2, linestyle=DASHES, label=f"threshold {threshold:.4g}"),
            Patch(color=REFUSED, label="refused as unknown"),
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    panels[-1].set_xlabel(f"{NAMES[score]}\nhigher: more like a known class", fontsize=10)
    figure.supylabel("share of the images", fontsize=10)
    with whole_file(path) as half:
        figure.savefig(half, dpi=dpi, format="png")
    return path


def _pooled(scores: Mapping, roles: Mapping[str, str], score: str) -> dict[str, tuple[list[str], np.ndarray]]:
    """By role, in the order of the panels: the names of its sets and all their scores."""
    missing = sorted(set(scores) - set(roles))
    if missing:
        raise ValueError(f"The role of {missing[0]!r} is not given; give the role of every data set in scores.")
    pooled = {}
    for role in COLOURS:
        names = [name for name in scores if roles[name] == role]
        for name in names:
            if score not in scores[name]:
                raise ValueError(
                    f"Data set {name!r} has no score {score!r}, only {', '.join(scores[name]) or 'none'}; choose another."
                )
        if names:
            values = [as_floats(scores[name][score], f"scores of {name!r}", "(images,)").numpy() for name in names]
            pooled[role] = (names, np.concatenate(values))
    for role in ("id", "open_set"):
        if role not in pooled:
            raise ValueError(f"There is no set with the role {role!r} to draw; evaluate on one as well.")
    return pooled


def _limits(values: np.ndarray, threshold: float | None) -> tuple[float, float]:
    low, high = values.min(), values.max()
    if threshold is not None:
        low, high = min(low, threshold), max(high, threshold)
    # Scores that are all equal still need bins of some width.
    margin = 0.02 * (high - low) or max(abs(high), 1.0) * 1e-3
    return low - margin, high + margin


def _panel(axes, role: str, names: list[str], values: np.ndarray, edges: np.ndarray) -> None:
    share = np.histogram(values, edges)[0] / len(values)
    axes.stairs(share, edges, fill=True, color=COLOURS[role], alpha=0.35)
    axes.stairs(share, edges, color=COLOURS[role], linewidth=1.4)
    sets = short_name(names[0]) if len(names) == 1 else f"{len(names)} sets"
    title = axes.set_title(f"{TITLES[role]} ({sets}, n = {len(values):,}): {WANTED[role]}", loc="left", fontsize=10)
    # A dollar sign in a name is no formula.
    title.set_parse_math(False)
    title.set_color(COLOURS[role])
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.locator_params(axis="y", nbins=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.tick_params(labelsize=9)
