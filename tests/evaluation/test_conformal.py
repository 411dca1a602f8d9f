# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Scores, quantile and coverage of split conformal prediction against brute force, and the guarantee in simulation."""

import math
from fractions import Fraction
from itertools import product

import pytest
import torch
from scipy.stats import betabinom, binom, binomtest

from hf_robustft.evaluation.conformal import (
    aps_scores,
    class_coverage,
    conformal_quantile,
    conformal_rank,
    coverage_report,
    image_draws,
    lac_scores,
    least_images,
    raps_scores,
)
from hf_robustft.evaluation.intervals import share_interval, upper_bound
from hf_robustft.evaluation.prediction_sets import METHODS, ConformalClassifier

pytestmark = pytest.mark.numbers

CLASSES = ("cat", "dog", "owl", "bee", "ant")
#: Of the tests that draw: what a seed may be off by once in two thousand.
TAIL = 5e-4


def shares(n=40, classes=5, seed=0):
    """Probabilities in tenths, so that many are equal."""
    counts = torch.randint(0, classes, (n, 10), generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.one_hot(counts, classes).sum(dim=1).double() / 10


def by_hand(row, u, lam, k_reg):
    """The scores of RAPS, class by class, of classes that are equally probable the first one counts as more so."""
    found = []
    for own, mine in enumerate(row):
        before = [p for other, p in enumerate(row) if p > mine or (p == mine and other < own)]
        found.append(sum(before) + u * mine + lam * max(len(before) + 1 - k_reg, 0))
    return found


@pytest.mark.parametrize("lam, k_reg", [(0.0, 5), (0.01, 5), (0.3, 1), (0.1, 0)])
@pytest.mark.parametrize("random", [False, True])
def test_adaptive_scores_are_those_by_hand_also_of_equal_probabilities(lam, k_reg, random):
    rows = shares()
    draws = torch.rand(len(rows), generator=torch.Generator().manual_seed(1), dtype=torch.float64) if random else None
    us = draws.tolist() if random else [1.0] * len(rows)
    wanted = torch.tensor([by_hand(row, u, lam, k_reg) for row, u in zip(rows.tolist(), us, strict=True)], dtype=torch.float64)
    found = raps_scores(rows, draws, lam=lam, k_reg=k_reg)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    if lam == 0:
        assert torch.equal(aps_scores(rows, draws), found)


def test_least_ambiguous_sets_hold_what_is_probable_enough():
    rows = shares()
    assert torch.equal(lac_scores(rows) <= 0.7 + 1e-12, rows >= 0.3 - 1e-12)


@pytest.mark.parametrize("coverage", [0.9, 0.95, 0.5, 0.1, 2 / 3, 0.999])
def test_the_quantile_is_the_least_score_that_enough_do_not_exceed(coverage):
    for n, seed in product((1, 2, 8, 9, 10, 19, 20, 99, 100, 999), range(3)):
        scores = torch.randint(0, 7, (n,), generator=torch.Generator().manual_seed(seed)).double()
        share = Fraction(repr(coverage))
        # Infinity is the score of the new image, for all that is known.
        fits = [value for value in [*scores.tolist(), math.inf] if (scores <= value).sum().item() + (value == math.inf) >= (n + 1) * share]
        assert conformal_quantile(scores, coverage) == min(fits)
        assert (conformal_quantile(scores, coverage) == math.inf) == (n < least_images(coverage))


def test_ranks_by_hand():
    # In floating point (29 + 1) * 0.9 is more than 27, and would be rounded up.
    assert [conformal_rank(n, 0.9) for n in (9, 19, 29, 99, 100)] == [9, 18, 27, 90, 91]
    assert [least_images(coverage) for coverage in (0.5, 0.9, 0.95, 0.99)] == [1, 9, 19, 99]
    for wrong in (0, 1, 1.5, -0.1, True, math.nan, "0.9", None):
        with pytest.raises(ValueError, match="coverage"):
            conformal_rank(10, wrong)


@pytest.mark.parametrize("count, n", [(0, 10), (3, 20), (10, 10), (899, 1000)])
def test_intervals_are_those_of_scipy(count, n):
    wanted = binomtest(count, n).proportion_ci(0.9, method="exact")
    assert share_interval(count, n, 0.9) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert upper_bound(count, n, 0.95) == pytest.approx(wanted.high, abs=1e-9)


def test_coverage_by_hand():
    sets = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0]]).bool()
    found = coverage_report(sets, torch.tensor([0, 2, 0, 2, 0]))
    assert found["interval"] == pytest.approx(list(binomtest(2, 5).proportion_ci(0.95, method="exact")), abs=1e-9)
    wanted = {"n": 5, "coverage": 0.4, "mean_size": 7 / 5, "empty": 0.2, "single": 0.4, "class_images": [3, 0, 2], "class_held": [1, 0, 1]}
    assert {name: found[name] for name in wanted} == wanted
    assert class_coverage(found, ("a", "b", "c")) == {"a": (1 / 3, 3), "c": (0.5, 2)}
    with pytest.raises(ValueError, match="labels"):
        coverage_report(sets, torch.tensor([0, 2, 0, 2, 3]))


def test_a_draw_belongs_to_the_image_and_moves_little_with_its_rounding():
    logits = 3 * torch.randn(2000, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    draws = image_draws(logits.log_softmax(dim=1))
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(image_draws(logits[order].log_softmax(dim=1)), draws[order])
    one_by_one = torch.cat([image_draws(row[None].log_softmax(dim=1)) for row in logits[:50]])
    torch.testing.assert_close(one_by_one, draws[:50], rtol=0, atol=1e-12)
    moved = image_draws((logits + 1e-4 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))).log_softmax(dim=1))
    around = (moved - draws).abs()
    assert torch.minimum(around, 1 - around).max() < 5e-3
    # Uniform: Kolmogorov's distance for 2,000 images is below 0.044 but once in a thousand times.
    ranks = torch.arange(1, 2001, dtype=torch.float64) / 2000
    assert (draws.sort().values - ranks).abs().max() < 0.044
    assert draws.min() >= 0 and draws.max() < 1
    assert (image_draws(logits.log_softmax(dim=1), seed=1) - draws).abs().max() > 0.5


def drawn(n, generator, classes=5):
    """Logits and labels of a model that is right somewhat more often than not, and too sure of itself."""
    labels = torch.randint(classes, (n,), generator=generator)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(n), labels] += 1.5
    return 3 * logits, labels


def many(method, n, m, repeats=1000, **options):
    """By draw, which of `m` new images have their label in the set, after a fit on `n`, and the labels."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(repeats):
        sets = ConformalClassifier.fit(
            *drawn(n, generator), class_names=CLASSES, logit_scale=1.0, method=method, coverage=0.9, allow_empty=True, **options
        )
        logits, labels = drawn(m, generator)
        yield sets.holds(logits).gather(1, labels[:, None])[:, 0], labels


def in_band(count, n, share):
    return binom.ppf(TAIL, n, share) <= count <= binom.ppf(1 - TAIL, n, share)


@pytest.mark.parametrize("method", METHODS)
def test_one_new_image_is_held_as_often_as_the_theory_says(method):
    """Of a new image after each fit it is rank / (n + 1), exactly: 45 of 50."""
    held = sum(int(found.sum()) for found, _ in many(method, 49, 1))
    assert in_band(held, 1000, 45 / 50)


@pytest.mark.parametrize("method", METHODS)
def test_the_coverage_of_a_fit_scatters_as_the_theory_says(method):
    """Of 40 new images after a fit on 49, a beta-binomial number is held: its lowest twentieth is as rare as that."""
    numbers = betabinom(40, 45, 5)
    low = next(k for k in range(41) if numbers.cdf(k) > 0.05)
    counts = [int(found.sum()) for found, _ in many(method, 49, 40)]
    assert in_band(sum(count <= low for count in counts), 1000, numbers.cdf(low))
    assert abs(sum(counts) / 1000 - numbers.mean()) < 4 * numbers.std() / 1000**0.5


#: Both: `python -m pytest -m "slow or not slow" tests/evaluation/test_conformal.py -k own_share`.
@pytest.mark.parametrize("method", ["lac", pytest.param("raps", marks=pytest.mark.slow)])
def test_class_conditional_sets_hold_each_class_with_its_own_share(method):
    """Class 0 is rare and hard; with a common quantile it is held too seldom, with its own as often as the others."""

    def uneven(n, generator):
        logits, labels = drawn(n, generator)
        labels = torch.where((labels == 0) & (torch.arange(n) % 2 == 0), 1, labels)
        logits[labels == 0] -= torch.tensor([3.0, 0, 0, 0, 0], dtype=torch.float64)
        return logits, labels

    counts, common = torch.zeros(5, 2), torch.zeros(2)
    generator = torch.Generator().manual_seed(1)
    for _ in range(1000):
        logits, labels = uneven(200, generator)
        new, theirs = uneven(20, generator)
        options = {"class_names": CLASSES, "logit_scale": 1.0, "coverage": 0.9, "method": method, "allow_empty": True}
        sets = ConformalClassifier.fit(logits, labels, class_conditional=True, **options)
        assert sets.common == ()
        held = sets.holds(new).gather(1, theirs[:, None])[:, 0]
        counts += torch.stack([torch.bincount(theirs[held], minlength=5), torch.bincount(theirs, minlength=5)], dim=1)
        hard = theirs == 0
        plain = ConformalClassifier.fit(logits, labels, **options).holds(new).gather(1, theirs[:, None])[:, 0]
        common += torch.tensor([plain[hard].sum(), hard.sum()])
    for held, n in counts.tolist():
        # At least the share, and at most 1 / (n + 1) more, with n of 20 and more; images of a draw share its fit.
        assert 0.9 - 4 * (0.09 / n) ** 0.5 * 1.3 < held / n < 0.9 + 1 / 10 + 0.02
    assert common[0] / common[1] < 0.85


@pytest.mark.parametrize("method", METHODS)
def test_sets_that_are_never_empty_hold_the_label_often_enough_and_not_much_more_often(method):
    """With some 84 % of the images right, they need no more than the stated 90 %: what is always held is part of the score."""
    generator, held, right = torch.Generator().manual_seed(2), 0, 0
    for _ in range(1000):
        logits, labels = drawn(50, generator)
        logits[torch.arange(50), labels] += 2.1
        options = {"class_names": CLASSES, "logit_scale": 1.0, "coverage": 0.9, "method": method}
        sets = ConformalClassifier.fit(logits[:49], labels[:49], **options).holds(logits[49:])
        assert sets[0, logits[49].argmax()]
        held += int(sets[0, labels[49]])
        right += int(logits[49].argmax() == labels[49])
    assert 750 < right < 890
    assert in_band(held, 1000, 45 / 50)


def test_at_least_the_most_probable_class_is_held_unless_empty_sets_are_allowed():
    generator = torch.Generator().manual_seed(3)
    logits, labels = drawn(200, generator)
    logits[torch.arange(200), labels] += 30
    options = {"class_names": CLASSES, "logit_scale": 1.0, "coverage": 0.9, "method": "lac"}
    new, _ = drawn(200, generator)
    empty = ConformalClassifier.fit(logits, labels, allow_empty=True, **options).holds(new)
    full = ConformalClassifier.fit(logits, labels, **options).holds(new)
    assert (empty.sum(dim=1) == 0).any()
    # All images of the fit are right, so the most probable class is enough.
    assert torch.equal(full, torch.nn.functional.one_hot(new.argmax(dim=1), 5).bool())
