# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Shares in whole numbers: the exact decimal product, wherever a fraction becomes a number of steps or images."""

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np
import pytest
from helpers import arguments

from hf_robustft.data.bad_images import BadImages
from hf_robustft.data.catalog.imagenet import imagenet_seen_unseen
from hf_robustft.data.catalog.schema import facts
from hf_robustft.data.shares import ceil_share, floor_share
from hf_robustft.evaluation.detection import threshold_at_recall

HUNDREDTHS = [f"0.{k:02d}" for k in range(1, 100)]
TOTALS = (1, 3, 7, 40, 100, 130, 1000, 25030)


def exact(text: str, total: int, rounding: str) -> int:
    return int((Decimal(text) * total).to_integral_value(rounding))


def test_by_hand():
    assert int(0.29 * 100) == 28 and floor_share(0.29, 100) == 29
    assert math.ceil(0.07 * 100) == 8 and ceil_share(0.07, 100) == 7
    assert floor_share(np.float32(0.29), 100) == 29 and floor_share(1, 7) == 7 and ceil_share(1e-12, 7) == 1


@pytest.mark.parametrize("total", TOTALS)
def test_every_hundredth_of_a_run(tmp_path, total):
    floats = 0
    for text in HUNDREDTHS:
        down, up = exact(text, total, ROUND_FLOOR), exact(text, total, ROUND_CEILING)
        assert (floor_share(float(text), total), ceil_share(float(text), total)) == (down, up), text
        floats += (int(float(text) * total), math.ceil(float(text) * total)) != (down, up)
    assert total != 100 or floats > 5, "floats get some of these wrong"
    for text in ("0.07", "0.14", "0.28", "0.29", "0.57", "0.58"):
        args = arguments(tmp_path, ema_update_every=float(text), warmup_steps=float(text))
        assert args.teacher_interval(total) == max(1, exact(text, total, ROUND_FLOOR))
        assert args.get_warmup_steps(total) == exact(text, total, ROUND_CEILING)


def test_whole_steps_stay_what_they_are(tmp_path):
    args = arguments(tmp_path, ema_update_every=29, warmup_steps=7)
    assert (args.teacher_interval(100), args.get_warmup_steps(100)) == (29, 7)


@pytest.mark.parametrize("text", ["0.07", "0.29", "0.57", "0.58"])
def test_the_allowed_share_of_unreadable_images(text):
    allowed = exact(text, 100, ROUND_FLOOR)
    for found in (allowed, allowed + 1):
        counter = BadImages(threshold=float(text), total=100)
        counter.read, counter.unreadable = 100, {f"row {i}": 1 for i in range(found)}
        if found == allowed:
            counter.finish()
            continue
        with pytest.raises(OSError, match=f"{found} of the 100 images"):
            counter.finish()


@pytest.mark.parametrize("thousandths", [249, 400, 568, 573])
def test_seen_classes(thousandths):
    names = [row[1] for row in facts("imagenet")["classes"]]
    drawn = np.random.RandomState(1).choice(names, thousandths, replace=False)
    wanted = tuple(i for i, name in enumerate(names) if name in set(drawn.tolist()))
    assert imagenet_seen_unseen(1, float(f"0.{thousandths}"))[0] == wanted


@pytest.mark.parametrize("n", [20, 40, 100, 140, 1000])
def test_the_threshold_of_a_recall_counts_exactly(n):
    """The k-th score for the smallest k with k / n at least the recall, by exact arithmetic."""
    scores = np.arange(n, 0, -1, dtype=float)
    for text in HUNDREDTHS:
        k = exact(text, n, ROUND_CEILING)
        assert threshold_at_recall(scores, float(text)) == scores[k - 1], text
