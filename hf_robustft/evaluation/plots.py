# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The pictures of an evaluation, drawn with matplotlib's figure API, which needs neither global state nor a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from .detection import as_floats, detection_metrics
from .figures import add_legend, checked_png, new_figure, plain_axes, save_figure, short_name
from .open_set import DEFAULT_SCORE, open_set_score
from .report import DatasetResult, EvaluationReport
from .tables import ARROW, check_same_data, label, ordered

# Okabe & Ito's palette, which colour-blind readers can tell apart; the earlier model is grey in every picture.
AFTER, EDGE, GAP, BEFORE, BEFORE_FILL = "#56B4E9", "#0072B2", "#E69F00", "#4D4D4D", "0.75"
ROLE_COLOURS = {"id": "#0072B2", "shift": "#009E73", "open_set": "#D55E00"}
#: Of the shifts, without yellow; markers tell the sets apart when these are used up.
SHIFT_COLOURS, SHIFT_MARKERS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"), "osD^vP"
THRESHOLD, REFUSED, DASHES = "#1A1A1A", "#EBEBEB", (0, (4, 3))
PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 3.5, 4.1, 3
SCORE_WIDTH, SCORE_PANEL_HEIGHT, SCORE_BINS = 8.0, 1.7, 60
#: Letters of a name of which as many fit side by side as the legend has columns.
LEGEND_WIDTH = 24
#: Bins with fewer images are drawn faint: their accuracy says little.
FEW, FAINT = 10, 0.3
_TITLES = {
    "id": ("in-distribution", "should be accepted"),
    "shift": ("shifted, known classes", "should be accepted"),
    "open_set": ("unseen classes", "should be refused"),
}
_DIAGONAL = {"color": "0.45", "linewidth": 0.9, "linestyle": DASHES}


def plot_reliability(reports: EvaluationReport | Sequence[EvaluationReport], path: str | Path, dpi: int = 150) -> Path:
    """
    Draw a reliability diagram for each data set into one PNG.

    Above: the accuracy in each confidence bin as a bar with a standard error, faint in bins of fewer than 10 images, and
    the gap to the mean confidence of the bin; the gaps, weighted by the histogram, sum to the ECE. Below: the share of the
    images in each bin. Confidences of exactly 1.0, which have their own bin in the ECE, are drawn with the last bin.

    Args:
        reports ([`EvaluationReport`] or a sequence of one or two): One model, or a model before (grey) and after.
        path (`str` or `Path`): File to write, ending in `.png`; folders are created as needed.
        dpi (`int`, *optional*, defaults to 150): Pixels per inch; a panel is 3.5 by 4.1 inches.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If there are no or more than two reports, they share no data set or differ in its size or in the
            number of bins, or the file is not a PNG.
    """
    path, before, after = _checked(reports, path)
    if not after.results:
        raise ValueError(f"The report of {after.model!r} has no results to draw; evaluate it on a data set first.")
    if before is not None:
        check_same_data(after, before)
    results, columns = ordered(after), min(COLUMNS, len(after.results))
    rows = -(-len(results) // columns)
    figure = new_figure(PANEL_WIDTH * columns, PANEL_HEIGHT * rows + 0.5)
    grid = figure.add_gridspec(rows, columns, wspace=0.06, hspace=0.06)
    for index, result in enumerate(results):
        cell = grid[index // columns, index % columns].subgridspec(2, 1, height_ratios=(3.2, 1), hspace=0.05)
        upper = figure.add_subplot(cell[0])
        lower = figure.add_subplot(cell[1], sharex=upper)
        _draw_reliability(upper, lower, result, None if before is None else before.results.get(result.name))
    handles = [
        Patch(facecolor=AFTER, edgecolor=EDGE, label=short_name(after.model, LEGEND_WIDTH)),
        Patch(color=GAP, label="gap to mean confidence"),
        Patch(facecolor=AFTER, alpha=FAINT, label=f"fewer than {FEW} images"),
        Line2D([], [], color="black", linewidth=0.9, linestyle=DASHES, label="perfect calibration"),
    ]
    if before is not None:
        earlier = short_name(before.model, LEGEND_WIDTH)
        handles.insert(0, Line2D([], [], color=BEFORE, marker="o", markersize=4.5, linewidth=1.1, label=earlier))
    # As many side by side as the panels leave room for.
    add_legend(figure, handles, "outside upper center", columns=min(len(handles), 2 * columns - 1))
    return save_figure(figure, path, dpi)


def plot_shift(reports: EvaluationReport | Sequence[EvaluationReport], path: str | Path, dpi: int = 150) -> Path:
    """
    Draw the accuracy under each shift against the accuracy in distribution, and the ECE of every set, into one PNG.

    Left: a point for each shift, at the accuracy on the first in-distribution set; with two reports an arrow from the
    earlier model (hollow) to the later one. An arrow up and to the right is a gain on both; below the dashed line a model
    is worse under shift than in distribution. Right: the ECE of every set, the earlier model in grey.

    Args:
        reports ([`EvaluationReport`] or a sequence of one or two): One model, or a model before and after.
        path (`str` or `Path`): File to write, ending in `.png`; folders are created as needed.
        dpi (`int`, *optional*, defaults to 150): Pixels per inch; the picture is 10.5 inches wide.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If there are no or more than two reports, the last has no set in distribution or no shift, the two
            were measured on different data, or the file is not a PNG.
    """
    path, before, after = _checked(reports, path)
    inside = next((result for result in ordered(after) if result.role == "id"), None)
    if inside is None or not after.shifts:
        what = "a set in distribution" if inside is None else "a shift"
        raise ValueError(f"The report of {after.model!r} has no result on {what}; evaluate it on such a set too.")
    if before is not None:
        check_same_data(after, before)
    results = [inside, *after.shifts]
    figure = new_figure(10.5, max(4.2, 1.9 + 0.42 * len(results)))
    scatter, bars = figure.subplots(1, 2, width_ratios=(1, 1.05))
    handles = _draw_accuracies(scatter, inside, after, before)
    _draw_errors(bars, results, before)
    square = {"linestyle": "none", "marker": "s", "markersize": 9}
    if before is not None:
        name = f"{short_name(before.model, LEGEND_WIDTH)} (left: hollow)"
        handles.append(Line2D([], [], color=BEFORE_FILL, markeredgecolor=BEFORE, **square, label=name))
    handles += [
        Line2D([], [], color=AFTER, markeredgecolor=EDGE, **square, label=short_name(after.model, LEGEND_WIDTH)),
        Line2D([], [], color=GAP, linewidth=2.2, label="noise floor of the ECE"),
        Line2D([], [], **_DIAGONAL, label="shift as good as ID"),
    ]
    add_legend(figure, handles, "outside lower center", columns=min(4, len(handles)))
    return save_figure(figure, path, dpi, names=bars.get_yticklabels())


def plot_scores(
    scores: Mapping[str, Mapping[str, Tensor]],
    roles: Mapping[str, str],
    path: str | Path,
    score: str = DEFAULT_SCORE,
    threshold: float | None = None,
    dpi: int = 150,
) -> Path:
    """
    Draw a score's histograms over in-distribution, shifted and unseen images, below each other, into one PNG.

    Each panel shows shares of its own images; sets with the same role are pooled. All panels have the same bins and axes,
    so heights can be compared. On the right, with a threshold, the share of images that are accepted, and for known images
    the AUROC against all unseen ones.

    Args:
        scores (`Mapping[str, Mapping[str, torch.Tensor]]`): By data set and score one number per image, such as
            `Evaluator.scores`.
        roles (`Mapping[str, str]`): The role of each data set: `id`, `shift` or `open_set`; sets with other roles are left
            out.
        path (`str` or `Path`): File to write, ending in `.png`; folders are created as needed.
        score (`str`, *optional*, defaults to `"energy"`): The score to draw, a key of `SCORES`.
        threshold (`float`, *optional*): The threshold of a detector for this score (`OpenSetDetector.threshold`): images at
            or above it are accepted.
        dpi (`int`, *optional*, defaults to 150): Pixels per inch; the picture is 8 inches wide.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If there is no in-distribution or no open set, the score is unknown or missing, a number is not
            finite, or the file is not a PNG.
    """
    path, name = checked_png(path), open_set_score(score).label
    if threshold is not None and not np.isfinite(threshold):
        raise ValueError(f"The threshold is {threshold}, which no score can be compared with; give a finite number.")
    pooled = _pooled(scores, roles, score)
    figure = new_figure(SCORE_WIDTH, SCORE_PANEL_HEIGHT * len(pooled) + 1.2)
    panels = figure.subplots(len(pooled), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    everything = np.concatenate([values for _, values in pooled.values()])
    edges = np.linspace(*_limits(everything, threshold), SCORE_BINS + 1)
    highest = max(np.histogram(values, edges)[0].max() / len(values) for _, values in pooled.values())
    for axes, (role, (names, values)) in zip(panels, pooled.items(), strict=True):
        _draw_histogram(axes, role, names, values, edges)
        axes.set_ylim(0, 1.08 * highest)
        lines = []
        if threshold is not None:
            axes.axvspan(edges[0], threshold, color=REFUSED, zorder=0)
            axes.axvline(threshold, color=THRESHOLD, linewidth=1.2, linestyle=DASHES)
            lines.append(f"accepted {100 * (values >= threshold).mean():.1f} %")
        if role != "open_set":
            auroc = detection_metrics(values, pooled["open_set"][1])["auroc"]
            lines.append(f"against unseen:\nAUROC {100 * auroc:.1f} %")
        axes.text(1.015, 0.5, "\n".join(lines), transform=axes.transAxes, va="center", fontsize=10, linespacing=1.7)
    if threshold is not None:
        handles = [
            Line2D([], [], color=THRESHOLD, linewidth=1.2, linestyle=DASHES, label=f"threshold {threshold:.4g}"),
            Patch(color=REFUSED, label="refused as unknown"),
        ]
        add_legend(figure, handles, "outside upper right", columns=2)
    panels[-1].set_xlabel(f"{name}\nhigher: more like a known class", fontsize=10)
    figure.supylabel("share of the images", fontsize=10)
    return save_figure(figure, path, dpi)


def plot_alpha_sweep(
    reports: Mapping[float, EvaluationReport], path: str | Path, saved: float | None = None, dpi: int = 150
) -> Path:
    """
    Draw the mean accuracy under shift against the accuracy in distribution, a point for each alpha, into one PNG.

    Args:
        reports (`Mapping[float, EvaluationReport]`): By the share of the fine-tuned weights, ascending.
        path (`str` or `Path`): File to write, ending in `.png`.
        saved (`float`, *optional*): The alpha of the model that is saved, which gets a ring.
        dpi (`int`, *optional*, defaults to 150): Pixels per inch; the picture is 6 by 4.5 inches.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If there is no set in distribution or no shift, or the file is not a PNG.
    """
    path, first = checked_png(path), next(iter(reports.values()))
    inside = next((result.name for result in first.results.values() if result.role == "id"), None)
    if inside is None or not first.shifts:
        raise ValueError("The picture needs a set in distribution and a shift; measure on such sets too.")
    points = {a: (100 * r.results[inside].accuracy, 100 * r.shift_mean["accuracy"]) for a, r in reports.items()}
    figure = new_figure(6.0, 4.5)
    axes = figure.subplots()
    axes.plot(*zip(*points.values(), strict=True), color=EDGE, linewidth=1.2, zorder=1)
    ends = {0.0: ("zero-shot", "s", BEFORE), 1.0: ("fine-tuned", "D", GAP)}
    for (alpha, point), after in zip(points.items(), [*list(points.values())[1:], (0.0, 0.0)], strict=True):
        name, marker, colour = ends.get(alpha, (f"{alpha:g}", "o", AFTER))
        axes.plot(*([value] for value in point), marker, color=colour, markersize=7, zorder=3)
        # Beside the line: on the left where it rises, but for the first, which stands near the axis.
        place, side = ((6, 5), "left") if after[1] <= point[1] else ((6, -12), "left") if alpha == 0 else ((-6, 5), "right")
        axes.annotate(name, point, xytext=place, ha=side, textcoords="offset points", fontsize=9)
    if saved in points:
        axes.plot(*([value] for value in points[saved]), "o", mfc="none", mec=THRESHOLD, ms=14, label=f"saved: alpha {saved:g}")
        axes.legend(frameon=False, fontsize=9)
    axes.margins(0.14)
    axes.set_xlabel(f"accuracy in distribution ({short_name(inside)}), %")
    axes.set_ylabel(f"accuracy under shift (mean of {len(first.shifts)}), %")
    plain_axes(axes, "both")
    return save_figure(figure, path, dpi)


def _checked(
    reports: EvaluationReport | Sequence[EvaluationReport], path: str | Path
) -> tuple[Path, EvaluationReport | None, EvaluationReport]:
    given = [reports] if isinstance(reports, EvaluationReport) else list(reports)
    if not 1 <= len(given) <= 2:
        raise ValueError(f"There are {len(given)} reports to draw; give one, or one before and one after fine-tuning.")
    return checked_png(path), given[0] if len(given) == 2 else None, given[-1]


def _draw_reliability(upper, lower, result: DatasetResult, before: DatasetResult | None) -> None:
    edges, share, confidence, accuracy = _drawn_bins(result)
    centres, width = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    filled = share > 0
    upper.plot([0, 1], [0, 1], color="black", linewidth=0.9, linestyle=DASHES, zorder=4)
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
        plain_axes(axes, "y")


def _interval(accuracy: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's interval of one standard error, which is wide for a single image too."""
    spread = 1 / counts
    middle = (accuracy + spread / 2) / (1 + spread)
    half = np.sqrt(accuracy * (1 - accuracy) * spread + spread**2 / 4) / (1 + spread)
    return middle - half, middle + half


def _drawn_bins(result: DatasetResult) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return edges, shares, mean confidences and accuracies of the bins, with confidences of exactly 1.0 in the last."""
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


def _draw_accuracies(axes, inside: DatasetResult, after: EvaluationReport, before: EvaluationReport | None) -> list:
    start = None if before is None else before.results.get(inside.name)
    handles = []
    for index, result in enumerate(after.shifts):
        turn, place = divmod(index, len(SHIFT_COLOURS))
        colour, marker = SHIFT_COLOURS[place], SHIFT_MARKERS[turn % len(SHIFT_MARKERS)]
        earlier = None if before is None else before.results.get(result.name)
        style = {"color": colour, "marker": marker, "markersize": 7, "linestyle": "none"}
        end = 100 * inside.accuracy, 100 * result.accuracy
        if start is not None and earlier is not None:
            origin = 100 * start.accuracy, 100 * earlier.accuracy
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "shrinkA": 4, "shrinkB": 4}
            axes.annotate("", xy=end, xytext=origin, arrowprops=arrow, zorder=2)
            axes.plot(*([value] for value in origin), **style, markerfacecolor="white", zorder=3)
        axes.plot(*([value] for value in end), **style, zorder=3)
        handles.append(Line2D([], [], **style, label=short_name(result.name, LEGEND_WIDTH)))
    axes.plot([0, 100], [0, 100], **_DIAGONAL, zorder=1)
    axes.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy under shift, %")
    axes.set_xlabel(f"accuracy in distribution ({short_name(inside.name, LEGEND_WIDTH)}), %")
    axes.set_title("Accuracy", fontsize=11, fontweight="bold")
    axes.set_aspect("equal")
    plain_axes(axes, "both")
    return handles


def _draw_errors(axes, results: list[DatasetResult], before: EvaluationReport | None) -> None:
    for row, result in enumerate(results):
        earlier = None if before is None else before.results.get(result.name)
        offset, height = (0, 0.62) if earlier is None else (0.19, 0.36)
        style = {"height": height, "linewidth": 0.6, "zorder": 2}
        axes.barh(row + offset, 100 * result.ece, color=AFTER, edgecolor=EDGE, **style)
        ends = row + offset - height / 2, row + offset + height / 2
        axes.plot([100 * result.ece_noise_floor] * 2, ends, color=GAP, linewidth=2.2, zorder=3)
        if earlier is not None:
            axes.barh(row - offset, 100 * earlier.ece, color=BEFORE_FILL, edgecolor=BEFORE, **style)
    names = [f"{short_name(result.name)}{' (ID)' if result.role == 'id' else ''}" for result in results]
    axes.set_yticks(range(len(results)), names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("expected calibration error, %")
    axes.set_title("Error of the confidence", fontsize=11, fontweight="bold")
    plain_axes(axes, "x")


def _pooled(scores: Mapping, roles: Mapping[str, str], score: str) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return by role, in the order of the panels, the names of its sets and all their scores."""
    missing = sorted(set(scores) - set(roles))
    if missing:
        raise ValueError(f"The role of {missing[0]!r} is not given; give the role of every data set in scores.")
    pooled = {}
    for role in ROLE_COLOURS:
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
    held = values if threshold is None else np.append(values, threshold)
    low, high = held.min(), held.max()
    # Scores that are all equal still need bins of some width.
    margin = 0.02 * (high - low) or max(abs(high), 1.0) * 1e-3
    return low - margin, high + margin


def _draw_histogram(axes, role: str, names: list[str], values: np.ndarray, edges: np.ndarray) -> None:
    share = np.histogram(values, edges)[0] / len(values)
    axes.stairs(share, edges, fill=True, color=ROLE_COLOURS[role], alpha=0.35)
    axes.stairs(share, edges, color=ROLE_COLOURS[role], linewidth=1.4)
    sets = short_name(names[0]) if len(names) == 1 else f"{len(names)} sets"
    what, wanted = _TITLES[role]
    title = axes.set_title(f"{what} ({sets}, n = {len(values):,}): {wanted}", loc="left", fontsize=10)
    title.set(color=ROLE_COLOURS[role], parse_math=False)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.locator_params(axis="y", nbins=3)
    plain_axes(axes, "y")
