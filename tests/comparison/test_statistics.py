# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Paired differences over seeds and whole groups, against loops and against data whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.predictions import predictions, set_of

from hf_robustft.comparison.statistics import (
    Bootstrap,
    Sampled,
    cluster_draws,
    difference,
    grouped,
    mean_and_sd,
    mean_over,
    paired_difference,
)
from hf_robustft.evaluation.resampling import bootstrap_draws


def test_mean_and_sd_of_seeds():
    assert mean_and_sd([0.5]) == (0.5, None)
    assert mean_and_sd([1.0, 2.0, 4.0]) == (pytest.approx(7 / 3), pytest.approx(np.sqrt(7 / 3)))


def test_cluster_draws_draw_whole_groups():
    groups = np.array(["b", "a", "b", "c", "a", "b"])
    found = cluster_draws(groups, 50, seed=4)
    for times, drawn in zip(found, np.random.default_rng(4).integers(0, 3, (50, 3)), strict=True):
        assert times.tolist() == [int((drawn == "abc".index(group)).sum()) for group in groups]
    with pytest.raises(ValueError, match="one group"):
        cluster_draws(["a", "a"], 5)


def test_a_paired_difference_is_that_of_a_loop():
    rng = np.random.default_rng(0)
    one, other, groups = rng.random((3, 40)), rng.random((2, 40)), rng.integers(0, 7, 40)
    found = paired_difference(one, other, groups, draws=400, seed=5)
    means = []
    for drawn in np.random.default_rng(5).integers(0, 7, (400, 7)):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        means.append(one[:, rows].mean() - other[:, rows].mean())
    variance = np.var(means, ddof=1) * 7 / 6
    variance += np.var(one.mean(axis=1), ddof=1) / 3 + np.var(other.mean(axis=1), ddof=1) / 2
    assert found.mean == pytest.approx(one.mean() - other.mean()) and found.se == pytest.approx(np.sqrt(variance))
    assert found.high - found.mean == pytest.approx(found.mean - found.low) and found.high > found.mean + 1.96 * found.se
    assert found.beyond_noise == (not found.low <= 0 <= found.high)


def test_equal_models_do_not_differ():
    values = np.random.default_rng(0).random((3, 40))
    found = paired_difference(values[:1], values[:1], np.arange(40) % 5)
    assert (found.mean, found.se, found.low, found.high, found.beyond_noise) == (0, 0, 0, 0, False)
    # A candidate of several seeds is the same as itself, and still its seeds vary.
    found = paired_difference(values, values)
    assert found.mean == 0 < found.se and not found.beyond_noise


def test_equal_accuracies_do_not_differ_whatever_the_number_of_seeds():
    """The mean of seven times 0.1 is another float than 0.1: no difference, and not one that is beyond noise."""
    unlike = 0
    for n in (30, 120):
        for right in range(n + 1):
            values = (np.arange(n) < right).astype(float)
            for seeds in (3, 5, 7):
                sides = [np.tile(values, (count, 1)) for count in (1, seeds)]
                unlike += sides[0].mean(axis=1).mean() != sides[1].mean(axis=1).mean()
                found = paired_difference(*sides, draws=10)
                assert found.mean == 0 and found.low <= 0 <= found.high and found.beyond_noise is False
    assert unlike > 10


def test_few_images_that_all_move_alike_say_nothing_of_chance():
    """No sample of them differs from another, so that the bootstrap would be sure of a single one."""
    for n in (2, 5, 6, 40):
        for seeds in (1, 2):
            found = paired_difference(np.ones((seeds, n)), np.zeros(n))
            assert found.mean == 1 and (found.beyond_noise, found.se) == ((None, None) if n < 6 else (True, 0))
            groups = np.repeat(np.arange(n), 10)
            assert paired_difference(np.ones((seeds, 10 * n)), np.zeros(10 * n), groups).beyond_noise == found.beyond_noise
    # One that moves otherwise tells how far chance may go, and two models that are the same do not differ.
    assert paired_difference([1, 1, 1, 0.5], np.zeros(4)).se > 0 and paired_difference([1, 0, 1], [1, 0, 1]).beyond_noise is False


def test_a_known_shift_is_found_without_bias():
    """Paired: what the images have in common cancels, however far they lie apart."""
    rng = np.random.default_rng(0)
    images = 10 * rng.random(60)
    found = paired_difference(images + 0.25, images, np.arange(60) % 12)
    assert found.mean == pytest.approx(0.25) and found.se == pytest.approx(0, abs=1e-9) and found.beyond_noise
    estimates = [paired_difference(images + 0.25 + rng.normal(0, 1, 60), images, draws=10).mean for _ in range(300)]
    assert np.mean(estimates) == pytest.approx(0.25, abs=4 / np.sqrt(60 * 300))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_covers_the_truth(seeds):
    """Groups of ten alike images, and trainings whose seeds move the whole set: 95 % of intervals hold the truth."""
    rng = np.random.default_rng(seeds)
    groups, hits, trials = np.repeat(np.arange(30), 10), 0, 400
    for _ in range(trials):
        shared = 0.3 + rng.normal(0, 1, 30)[groups]
        one = shared + rng.normal(0, 0.5, (seeds, 300)) + (rng.normal(0, 0.2, (seeds, 1)) if seeds > 1 else 0)
        found = paired_difference(one, np.zeros(300), groups, draws=200, seed=int(rng.integers(1 << 30)))
        hits += found.low <= 0.3 <= found.high
    # Four standard errors of a share of 400.
    assert 0.95 - 0.045 <= hits / trials <= 0.95 + 0.04


def test_images_of_one_group_taken_for_independent_would_be_too_sure():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 10)
    values = rng.normal(0, 1, 30)[groups]
    assert paired_difference(values, 0 * values, groups).se > 2.5 * paired_difference(values, 0 * values).se


def test_seeds_widen_the_interval():
    """The variance of the mean of two seeds is added, and two of them tell little: the interval is that of a t quantile."""
    images = np.random.default_rng(0).random(50)
    alone = paired_difference(images, np.zeros(50))
    found = paired_difference(np.array([images - 0.1, images + 0.1]), np.zeros(50))
    assert found.mean == pytest.approx(alone.mean) and found.se**2 == pytest.approx(alone.se**2 + 0.02 / 2)
    assert (found.high - found.mean) / found.se > 4 > (alone.high - alone.mean) / alone.se


def test_one_unit_says_nothing_of_chance():
    found = paired_difference([1.0, 0.0], [0.0, 0.0], ["a", "a"])
    assert (found.mean, found.se, found.low, found.high, found.beyond_noise) == (0.5, None, None, None, None)
    with pytest.raises(ValueError, match="same images"):
        paired_difference(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="not finite"):
        paired_difference([np.nan, 1], [0, 1])


def test_the_mean_over_sets_shares_the_draws_of_shared_groups():
    """By hand: one draw of concepts serves the sets that share some; the set without groups is resampled by itself."""
    sets = [set_of("a", 40, images=1, groups=6), set_of("b", 30, images=2, groups=8), set_of("c", 20, images=3, groups=0)]
    rival = [set_of(item.name, len(item), seed=7, images=k + 1, groups=(6, 8, 0)[k]) for k, item in enumerate(sets)]
    bootstrap = Bootstrap({item.name: item for item in sets}, draws=60, seed=9)
    sides = [bootstrap.sample([predictions(*side)]) for side in (sets, rival)]
    concepts = sorted({*sets[0].group, *sets[1].group})
    drawn = np.random.default_rng([9, 0]).integers(0, len(concepts), (60, len(concepts)))
    alone = np.random.default_rng([9, 1]).integers(0, 20, (60, 20))
    for metric, per_image in (("accuracy", lambda item: item.correct), ("nll", lambda item: item.nll)):
        means = []
        for sample in range(60):
            picked = [concepts[k] for k in drawn[sample]]
            rows = [np.concatenate([np.flatnonzero(item.group == name) for name in picked]) for item in sets[:2]]
            rows.append(alone[sample])
            pairs = zip(sets, rival, rows, strict=True)
            means.append(np.mean([per_image(one)[of].mean() - per_image(two)[of].mean() for one, two, of in pairs]))
        merged = [mean_over([side[item.name][metric] for item in sets]) for side in sides]
        assert merged[0].draws - merged[1].draws == pytest.approx(np.array(means), rel=1e-9, abs=1e-12)
        found = difference(*merged)
        assert found.se == pytest.approx(np.std(means, ddof=1) * np.sqrt(6 / 5))
        want = np.mean([per_image(one).mean() - per_image(two).mean() for one, two in zip(sets, rival, strict=True)])
        assert found.mean == pytest.approx(want)


def test_chains_of_shared_groups_share_one_draw():
    """a meets b, and b meets c: all three share. d meets none."""
    groups = {"a": ["x", "y"], "d": ["p", "q"], "c": ["z", "w"], "b": ["y", "z"]}
    sets = {
        name: replace(set_of(name, 20, images=k), group=np.array(values * 10))
        for k, (name, values) in enumerate(groups.items())
    }
    shared = Bootstrap(sets)._shared
    assert shared["a"] == shared["b"] == shared["c"] and shared["a"][1] == ["w", "x", "y", "z"]
    assert shared["d"][1] == ["p", "q"] and shared["d"][0] != shared["a"][0]


def test_ece_is_resampled_as_a_whole():
    """It is not a mean over images: its values are those of the runs, and its draws those of a report's bootstrap."""
    runs = [predictions(set_of(seed=seed)) for seed in (1, 2)]
    found = Bootstrap(runs[0].labelled, draws=30).sample(runs)["id"]["ece"]
    assert found.values.tolist() == [run.sets["id"].metrics()["ece"] for run in runs] and found.units == 6
    want = [
        bootstrap_draws(torch.from_numpy(item.confidence), torch.from_numpy(item.correct), groups=item.group, draws=30, seed=[0, 0])["ece"]
        for item in (run.sets["id"] for run in runs)
    ]
    assert found.draws == pytest.approx(np.mean(want, axis=0), rel=1e-12)


def test_images_in_another_order_change_nothing():
    runs = [predictions(set_of(seed=seed)) for seed in (1, 2)]
    order = np.random.default_rng(0).permutation(24)
    arrays = ("predicted", "confidence", "label", "nll", "brier", "group")
    mixed = [
        predictions(replace(run.sets["id"], **{key: getattr(run.sets["id"], key)[order] for key in arrays}))
        for run in runs
    ]
    for metric in ("accuracy", "nll", "ece", "brier"):
        one, other = (
            difference(*(Bootstrap(side[0].labelled).sample([run])["id"][metric] for run in side)) for side in (runs, mixed)
        )
        assert vars(other) == pytest.approx(vars(one), rel=1e-9, abs=1e-12)


def test_other_images_are_refused():
    bootstrap = Bootstrap({"id": set_of()})
    for other in (predictions(set_of(images=1)), predictions(set_of("else"))):
        with pytest.raises(ValueError, match="same images of 'id'"):
            bootstrap.sample([other])


def test_groups_are_those_that_any_run_names_and_the_same_in_all():
    one = set_of(groups=6)
    bare, other = replace(one, group=None), replace(one, group=one.group[::-1])
    assert grouped([bare, one, other]) is one and grouped([bare, bare]) is bare
    bootstrap = Bootstrap({"id": grouped([bare, one])})
    assert bootstrap.sample([predictions(bare)])["id"]["nll"].units == 6
    with pytest.raises(ValueError, match="'id' in other groups.*--group_column"):
        bootstrap.sample([predictions(other)])


def test_samples_of_reports_are_compared_alike():
    """The draws that an `evaluation.json` keeps serve where nothing else was kept."""
    draws = np.random.default_rng(0).random((2, 200))
    found = difference(Sampled(np.array([0.7]), draws[0], 100), Sampled(np.array([0.2]), draws[1], 100))
    assert found.se == pytest.approx(np.std(draws[0] - draws[1], ddof=1) * np.sqrt(100 / 99))
    assert found.mean == pytest.approx(0.5)
