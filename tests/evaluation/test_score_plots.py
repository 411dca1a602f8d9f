# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The histograms of open-set scores show all images, and the numbers beside them are those of the scores."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from test_plots import figures  # noqa: F401

from hf_robustft.evaluation.detection import detection_metrics
from hf_robustft.evaluation.plots import SCORE_BINS, SCORE_PANEL_HEIGHT, SCORE_WIDTH, plot_scores

ROLES = {"photo": "id", "sketch": "shift", "cartoon": "shift", "unseen": "open_set", "held": "validation"}


def scores(names=tuple(ROLES), n=200):
    means = {"photo": 12, "sketch": 11, "cartoon": 10, "unseen": 8, "held": 100}
    found = {}
    for index, name in enumerate(names):
        generator = torch.Generator().manual_seed(index)
        values = means[name] + torch.randn(n, generator=generator, dtype=torch.float64)
        found[name] = {"energy": values, "msp": values.sigmoid()}
    return found


def shares(axes):
    return np.asarray(axes.patches[-1].get_data().values)


@pytest.mark.parametrize(
    ("names", "panels"), [(tuple(ROLES), ["ID", "shift", "open"]), (("photo", "unseen"), ["ID", "open"])]
)
def test_one_panel_a_role(tmp_path, figures, names, panels):  # noqa: F811
    backend = matplotlib.get_backend()
    path = plot_scores(scores(names), ROLES, tmp_path / "new" / "scores.png", dpi=50)
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width == SCORE_WIDTH * 50
        assert abs(image.height - (SCORE_PANEL_HEIGHT * len(panels) + 1.2) * 50) <= 1
    assert len(figures[0].axes) == len(panels) and not figures[0].legends
    assert matplotlib.get_backend() == backend


def test_all_images_of_a_role_are_drawn_and_counted(tmp_path, figures):  # noqa: F811
    given = scores()
    plot_scores(given, ROLES, tmp_path / "scores.png", threshold=9.5, dpi=40)
    axes = figures[0].axes
    pooled = [
        given["photo"]["energy"],
        torch.cat([given["sketch"]["energy"], given["cartoon"]["energy"]]),
        given["unseen"]["energy"],
    ]
    for panel, values in zip(axes, pooled, strict=True):
        # The validation set, at 100, is left out, or the axis would reach it.
        assert panel.get_xlim()[1] < 20
        text = panel.texts[0].get_text()
        assert f"accepted {100 * (values >= 9.5).double().mean():.1f} %" in text
        if panel is not axes[-1]:
            auroc = detection_metrics(values, pooled[-1])["auroc"]
            assert f"AUROC {100 * auroc:.1f} %" in text
        heights = [np.asarray(patch.get_data().values) for patch in panel.patches if hasattr(patch, "get_data")]
        edges = np.asarray(next(p for p in panel.patches if hasattr(p, "get_data")).get_data().edges)
        assert heights[0].sum() == pytest.approx(1) and len(heights[0]) == SCORE_BINS
        assert heights[0] == pytest.approx(np.histogram(values, edges)[0] / len(values))
        # Nothing is cut off above.
        assert panel.get_ylim()[1] > heights[0].max() and panel.get_ylim() == axes[0].get_ylim()
        assert [line.get_xdata()[0] for line in panel.lines] == [9.5]
    assert "AUROC" not in axes[-1].texts[0].get_text()
    assert "2 sets, n = 400): should be accepted" in axes[1].get_title(loc="left")
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["threshold 9.5", "refused as unknown"]


def test_other_scores_constants_and_names(tmp_path, figures):  # noqa: F811
    plot_scores(scores(), ROLES, tmp_path / "msp.PNG", score="msp", dpi=40)
    assert "msp" in figures[0].axes[-1].get_xlabel() and not figures[0].axes[0].lines
    # A dollar sign is no formula, equal scores still need a bin, and a threshold beyond all of them is drawn.
    equal = {r"$\frac{1": {"energy": torch.zeros(4)}, "unseen": {"energy": torch.zeros(3)}}
    plot_scores(equal, {r"$\frac{1": "id", "unseen": "open_set"}, tmp_path / "equal.png", threshold=2.0, dpi=40)
    low, high = figures[1].axes[0].get_xlim()
    assert low < 0 and high > 2


def test_bad_input_is_refused(tmp_path):
    path = tmp_path / "scores.png"
    broken = scores()
    broken["sketch"]["energy"][3] = float("nan")
    empty = {**scores(), "unseen": {"energy": torch.zeros(0)}}
    for given, roles, settings, message in (
        (scores(("photo", "sketch")), ROLES, {}, "no set with the role 'open_set'"),
        (scores(("unseen",)), ROLES, {}, "no set with the role 'id'"),
        (scores(), {"photo": "id"}, {}, "role of 'cartoon' is not given"),
        (scores(), ROLES, {"score": "entropy"}, "no open-set score 'entropy'"),
        (scores(), ROLES, {"score": "knn"}, "'photo' has no score 'knn', only energy, msp"),
        (scores(), ROLES, {"threshold": float("nan")}, "threshold is nan"),
        (broken, ROLES, {}, "scores of 'sketch' hold NaN"),
        (empty, ROLES, {}, "scores of 'unseen' .* are empty"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_scores(given, roles, path, **settings)
    with pytest.raises(ValueError, match=r"scores\.jpg"):
        plot_scores(scores(), ROLES, tmp_path / "scores.jpg")
    assert not list(tmp_path.iterdir())
