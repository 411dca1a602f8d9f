# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Reliability diagrams are written for one report and for two, and show the report's own bins."""

import matplotlib
import numpy as np
import pytest
import torch
from helpers.pictures import printed_figures
from PIL import Image

from hf_robustft.evaluation import plots
from hf_robustft.evaluation.calibration import ece_from_confidence, reliability_bins
from hf_robustft.evaluation.plots import plot_reliability, plot_scores, plot_shift
from hf_robustft.evaluation.report import DatasetResult, EvaluationReport


def report(model, names=("photo", "sketch"), n=200, n_bins=15, seed=0):
    results = {}
    for index, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed + index)
        confidence = torch.rand(n, generator=generator, dtype=torch.float64)
        confidence[:5] = 1.0
        correct = torch.rand(n, generator=generator) < confidence**2
        results[name] = DatasetResult(
            name=name,
            role="shift" if index else "id",
            n=n,
            n_classes=4,
            ece=ece_from_confidence(confidence, correct, n_bins),
            reliability=reliability_bins(confidence, correct, n_bins),
            **dict.fromkeys(("accuracy", "accuracy_se", "ece_se", "ece_noise_floor", "adaptive_ece"), 0.1),
            **dict.fromkeys(("classwise_ece", "nll", "nll_se", "brier", "brier_se"), 0.1),
        )
    return EvaluationReport(model, results)


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved during a test."""
    return printed_figures(monkeypatch)


def panels(figure):
    return [axes for axes in figure.axes if axes.get_title()]


@pytest.mark.parametrize(("names", "grid"), [(("a",), (1, 1)), (("a", "b"), (2, 1)), (("a", "b", "c", "d"), (3, 2))])
def test_one_panel_a_set(tmp_path, figures, names, grid):
    path = plot_reliability(report("model", names), tmp_path / "new" / "plot.png", dpi=50)
    with Image.open(path) as image:
        width, height = grid[0] * plots.PANEL_WIDTH * 50, (grid[1] * plots.PANEL_HEIGHT + 0.5) * 50
        assert image.format == "PNG" and abs(image.width - width) <= 1 and abs(image.height - height) <= 1
    assert [axes.get_title().strip() for axes in panels(figures[0])] == ["a (ID)", *names[1:]]


def test_the_gaps_weighted_by_the_histogram_are_the_ece(tmp_path, figures):
    drawn = report("model", ("photo",))
    plot_reliability(drawn, tmp_path / "plot.png", dpi=40)
    upper, lower = figures[0].axes
    bars, gaps = upper.containers
    share = np.array([bar.get_height() for bar in lower.containers[0]])
    gap = np.array([bar.get_height() for bar in gaps])
    assert share.sum() == pytest.approx(1) and len(share) == 15
    # The five images of confidence 1.0 are drawn in the last bin, which can only lessen the sum.
    assert (share * abs(gap)).sum() == pytest.approx(drawn.results["photo"].ece, abs=0.02)
    bins = drawn.results["photo"].reliability
    assert bins["count"][15] == 5 and share[14] == pytest.approx((bins["count"][14] + 5) / 200)
    middle = drawn.results["photo"].reliability["accuracy"][7]
    assert bars[7].get_height() == pytest.approx(middle)
    text = " ".join(item.get_text() for item in upper.texts)
    assert f"ECE {100 * drawn.results['photo'].ece:.1f} % (floor 10.0), n = 200" in text


def test_before_is_drawn_beside_after(tmp_path, figures):
    before, after = report("zero-shot", seed=5), report("CaRot")
    plot_reliability([before, after], tmp_path / "plot.png", dpi=40)
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert legend == ["zero-shot", "CaRot", "gap to mean confidence", "fewer than 10 images", "perfect calibration"]
    line = panels(figures[0])[0].lines[1]
    assert line.get_color() == plots.BEFORE
    want = [value for value in before.results["photo"].reliability["accuracy"][:14] if value is not None]
    assert line.get_ydata()[: len(want)] == pytest.approx(want)
    title = panels(figures[0])[0].texts[0].get_text()
    assert f"{100 * before.results['photo'].ece:.1f} → {100 * after.results['photo'].ece:.1f} %" in title


def test_no_global_state_and_no_formulas(tmp_path):
    backend = matplotlib.get_backend()
    plot_reliability(report(r"costs $\frac{1", (r"$\sqrt",)), tmp_path / "plot.PNG", dpi=40)
    assert matplotlib.get_backend() == backend


def test_bad_input_is_refused(tmp_path):
    one = report("one")
    path = tmp_path / "plot.png"
    for reports, message in (
        ([], "0 reports"),
        ([one] * 3, "3 reports"),
        (EvaluationReport("empty", {}), "no results"),
        ([report("two", ("elsewhere",)), one], "common data set"),
        ([report("two", n=300), one], "300 images"),
        ([report("two", n_bins=10), one], "10 bins before and 15 after"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_reliability(reports, path)
    with pytest.raises(ValueError, match=r"plot\.jpg"):
        plot_reliability(one, tmp_path / "plot.jpg")
    assert not list(tmp_path.iterdir())


def test_a_bin_of_one_image_is_faint_with_a_wide_error_and_panels_are_equally_wide(tmp_path, figures):
    drawn = report("model", ("a", "b", "c"), n=60)
    plot_reliability(drawn, tmp_path / "plot.png", dpi=40)
    axes = panels(figures[0])
    widths = [item.get_position().width for item in axes]
    # Not the labels but the ticks alone may differ.
    assert max(widths) - min(widths) < 0.03 * max(widths)
    counts = np.array(drawn.results["a"].reliability["count"][:15])
    counts[-1] += drawn.results["a"].reliability["count"][15]
    bars = axes[0].containers[0]
    assert [bar.get_alpha() == plots.FAINT for bar in bars] == [count < plots.FEW for count in counts]
    low, high = plots._interval(np.array([1.0, 0.5]), np.array([1.0, 10_000.0]))
    assert high[0] == 1.0 and low[0] == 0.5 and high[1] - low[1] == pytest.approx(0.01, rel=1e-3)


def test_long_names_neither_overlap_nor_leave_the_pictures_and_stay_different(tmp_path, figures):
    long = "a_very_long_name_of_a_data_set_that_nobody_wants_to_read_in_a_picture_"
    names = tuple(f"{long}{i}" for i in range(7))
    plot_reliability([report(long, names), report(f"{long}model", names)], tmp_path / "reliability.png", dpi=100)
    plot_shift([report(long, names), report(f"{long}model", names)], tmp_path / "shift.png", dpi=100)
    scores = {name: {"energy": torch.arange(9.0)} for name in names[:3]}
    roles = dict(zip(names, ("id", "shift", "open_set"), strict=False))
    plot_scores(scores, roles, tmp_path / "scores.png", threshold=2.0, dpi=100)
    assert len(figures) == 3
    for figure in figures:
        texts = [axes.title for axes in figure.axes] + [axes._left_title for axes in figure.axes]
        texts += [text for legend in figure.legends for text in legend.get_texts()]
        texts += [text for axes in figure.axes for text in (axes.xaxis.label, *axes.get_yticklabels())]
        boxes = [text.get_window_extent() for text in texts if text.get_text().strip()]
        whole = figure.bbox
        assert all(box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1 for box in boxes)
        # Tick labels of neighbouring panels may touch; names must not.
        shown = [text for text in texts if "very" in text.get_text()]
        extents = [text.get_window_extent() for text in shown]
        assert not any(a.overlaps(b) for i, a in enumerate(extents) for b in extents[i + 1 :])
    titles = [axes.get_title() for axes in panels(figures[0])]
    assert len(set(titles)) == 7 and titles[0].strip().endswith("(ID)")
