# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The picture of in distribution against shift shows every set at its numbers."""

import pytest
from helpers.cards import report, result
from helpers.pictures import printed_figures
from matplotlib import colors
from PIL import Image

from hf_robustft.evaluation.plots import plot_shift
from hf_robustft.evaluation.report import EvaluationReport


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved while a test runs."""
    return printed_figures(monkeypatch)


def two():
    before, after = report("zero-shot", accuracy=0.6, ece=0.2), report("CaRot", accuracy=0.9, ece=0.05)
    after.results["sketch"].accuracy, after.results["cartoon"].accuracy = 0.5, 0.7
    after.results["cartoon"].ece = 0.3
    return before, after


def test_every_number_is_where_it_belongs(tmp_path, figures):
    path = plot_shift(two(), tmp_path / "new" / "shift.png")
    assert path.is_file() and Image.open(path).size[0] > 1000
    scatter, bars = figures[0].axes
    points = {(line.get_xdata()[0], line.get_ydata()[0]): line for line in scatter.lines if len(line.get_xdata()) == 1}
    assert set(points) == {(60, 60), (90, 50), (90, 70)}
    assert colors.same_color(points[60, 60].get_markerfacecolor(), "white")
    arrows = [(text.xyann, text.xy) for text in scatter.texts]
    assert arrows == [((60, 60), (90, 50)), ((60, 60), (90, 70))]
    widths = {round(bar.get_y() + bar.get_height() / 2, 2): bar.get_width() for bar in bars.patches}
    assert widths == {-0.19: 20, 0.19: 5, 0.81: 20, 1.19: 5, 1.81: 20, 2.19: 30}
    assert [text.get_text() for text in bars.get_yticklabels()] == ["photo (ID)", "sketch", "cartoon"]


def test_one_model_alone_and_many_shifts_with_names_of_any_kind(tmp_path, figures):
    names = ["$x$", "<b>", "a\nb", "x" * 300, *(f"s{i}" for i in range(10))]
    many = EvaluationReport("m" * 80, {"photo": result("photo", "id"), **{n: result(n, "shift") for n in names}})
    plot_shift(many, tmp_path / "shift.png")
    scatter, bars = figures[0].axes
    assert not scatter.texts and len(bars.patches) == 15
    labels = [text.get_text() for text in bars.get_yticklabels()]
    assert labels[1:4] == ["$x$", "<b>", "a b"] and len(labels[4]) == 32
    drawn = [(line.get_color(), line.get_marker()) for line in scatter.lines if len(line.get_xdata()) == 1]
    assert len(set(drawn)) == len(drawn) == 14


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no result on a shift"):
        plot_shift(report(names=(("photo", "id"),)), tmp_path / "a.png")
    with pytest.raises(ValueError, match="no result on a set in distribution"):
        plot_shift(report(names=(("sketch", "shift"),)), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"end in \.png"):
        plot_shift(report(), tmp_path / "a.svg")
    with pytest.raises(ValueError, match="3 reports"):
        plot_shift([report()] * 3, tmp_path / "a.png")
    with pytest.raises(ValueError, match="300 images"):
        plot_shift([report(n=300), report()], tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
