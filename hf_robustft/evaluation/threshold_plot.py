# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The picture of threshold curves, in the style of the other pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .figures import add_legend, checked_png, new_figure, plain_axes, save_figure, short_name
from .open_set import SCORES
from .plots import DASHES, LEGEND_WIDTH, ROLE_COLOURS, SHIFT_COLOURS, THRESHOLD

WIDTH, HEIGHT = 8.0, 3.6
_SIDES = (("refusal", "id", "known images refused"), ("acceptance", "open_set", "unknown images accepted"))


def plot_thresholds(open_set: Mapping[str, Mapping[str, Any]], path: str | Path, dpi: int = 150) -> Path:
    """
    Draw the threshold curve of each open set, below each other, into one PNG.

    Args:
        open_set (`Mapping[str, Mapping]`): The part `open_set` of a report; sets without a `threshold_curve` are left out.
        path (`str` or `Path`): File to write, ending in `.png`.
        dpi (`int`, *optional*, defaults to 150): Pixels per inch; the picture is 8 inches wide.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If no set has a curve, or the file is not a PNG.
    """
    path = checked_png(path)
    curves = {name: part["threshold_curve"] for name, part in open_set.items() if part.get("threshold_curve") is not None}
    if not curves:
        raise ValueError("No open set has a threshold curve to draw; evaluate the model again.")
    figure = new_figure(WIDTH, HEIGHT * len(curves))
    titles = []
    for axes, (name, curve) in zip(figure.subplots(len(curves), 1, squeeze=False)[:, 0], curves.items(), strict=True):
        threshold = np.array(curve["threshold"])
        for place, (shift, shares) in enumerate(curve["shifts"].items()):
            colour = SHIFT_COLOURS[2 + place % (len(SHIFT_COLOURS) - 2)]
            axes.plot(threshold, 100 * np.array(shares), color=colour, linewidth=1.1, linestyle=DASHES, label=f"{short_name(shift, LEGEND_WIDTH)} refused")
        for key, role, label in _SIDES:
            low, share, high = (100 * np.array(curve[key + ending]) for ending in ("_low", "", "_high"))
            axes.fill_between(threshold, low, high, color=ROLE_COLOURS[role], alpha=0.2, linewidth=0)
            axes.plot(threshold, share, color=ROLE_COLOURS[role], linewidth=1.8, label=label)
        if (chosen := curve["chosen"]) is not None:
            axes.axvline(chosen["threshold"], color=THRESHOLD, linewidth=1.1, linestyle=DASHES, label=f"the detector: {chosen['threshold']:.4g}")
            for key, role, _ in _SIDES:
                axes.plot([chosen["threshold"]], [100 * chosen[key]["share"]], "o", color=ROLE_COLOURS[role], markersize=5)
        axes.set(ylim=(0, 100), ylabel="share of the images, %")
        axes.set_xlabel(SCORES[curve["score"]].label if curve["score"] in SCORES else short_name(curve["score"]), fontsize=10)
        titles.append(axes.set_title(short_name(name), fontsize=11, fontweight="bold"))
        plain_axes(axes, "both")
    handles, _ = figure.axes[0].get_legend_handles_labels()
    add_legend(figure, handles, "outside right upper", columns=1)
    return save_figure(figure, path, dpi, titles)
