# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The learning rate of every step and the order of every epoch."""

import math
import warnings

import pytest
import torch
from helpers import arguments, random_batch, rows, stack
from torch import nn

from hf_robustft import FLYPTrainer
from hf_robustft.training.schedules import (
    EpochSampler,
    epoch_cosine_learning_rate,
    epoch_cosine_schedule,
    reference_learning_rate,
    reference_schedule,
)

TABLES = ["lr0", "lr1", "lr2", "lr3"]


def scheduled(total, warmup, base, min_lr=0.0, groups=1):
    """Learning rates that an optimizer has when it takes each step, one row a step."""
    weights = [nn.Parameter(torch.zeros(1)) for _ in range(groups)]
    optimizer = torch.optim.SGD([{"params": [w], "lr": base / 2**i} for i, w in enumerate(weights)], lr=base)
    scheduler, rates = reference_schedule(optimizer, total, warmup, min_lr), []
    for _ in range(total):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return torch.tensor(rates, dtype=torch.float64)


@pytest.mark.parametrize("case", TABLES)
def test_golden_tables(golden, case):
    want, facts = golden("d_ema")[f"{case}/lr"], golden.manifest("d_ema")["cases"][case]
    total, warmup, base, min_lr = (facts[k] for k in ("total_steps", "warmup_length", "base_lr", "min_lr"))
    got = [reference_learning_rate(step, total, warmup, base, min_lr) for step in range(total)]
    assert len(want) == total
    torch.testing.assert_close(torch.tensor(got, dtype=torch.float64), want, rtol=1e-10, atol=0)
    torch.testing.assert_close(scheduled(total, warmup, base, min_lr)[:, 0], want, rtol=1e-10, atol=0)


def test_golden_trajectory_rates(golden):
    want, facts = golden("e_carot_traj")["lr"], golden.manifest("e_carot_traj")["hyper"]
    got = scheduled(facts["total_steps"], facts["warmup_length"], facts["lr"], facts["min_lr"])[:, 0]
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)


def test_by_hand():
    rates = [reference_learning_rate(step, 8, 4, 2.0, 0.5) for step in range(8)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0], "linear, the first step already moves"
    assert rates[4] == 2.5, "the peak again, with min_lr added to the cosine"
    assert rates[6] == pytest.approx(1.0 + 0.5), "half-way down the cosine"
    assert rates[7] == pytest.approx(1 + math.cos(math.pi * 3 / 4) + 0.5)


def test_no_warm_up_and_nothing_but_warm_up():
    assert reference_learning_rate(0, 5, 0, 3.0) == 3.0
    assert [reference_learning_rate(step, 3, 6, 6.0) for step in range(4)] == [1.0, 2.0, 3.0, 4.0]
    assert math.isfinite(reference_learning_rate(6, 6, 6, 1.0))


def test_no_epochs_are_no_cosine():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    for call in (lambda: epoch_cosine_learning_rate(1, 0, 1.0), lambda: epoch_cosine_schedule(optimizer, 10, 0)):
        with pytest.raises(ValueError, match="total_epochs=0"):
            call()
    assert [epoch_cosine_learning_rate(epoch, 1, 1.0) for epoch in (0, 1)] == [1e-5, 1.0]


def test_every_group_follows_its_own_peak():
    rates = scheduled(10, 3, 1.0, groups=2)
    torch.testing.assert_close(rates[:, 1], rates[:, 0] / 2)
    with_floor = scheduled(10, 3, 1.0, min_lr=0.25, groups=2)
    torch.testing.assert_close(with_floor[3:] - rates[3:], torch.full((7, 2), 0.25, dtype=torch.float64))


def test_a_peak_of_zero_stays_zero():
    assert torch.equal(scheduled(4, 2, 0.0, groups=1), torch.zeros(4, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: reference_schedule(optimizer, 6, 2, 1e-3),
        lambda optimizer: epoch_cosine_schedule(optimizer, 6, 3),
    ],
    ids=["reference", "epoch_cosine"],
)
def test_a_second_run_with_the_same_optimizer_has_the_rates_of_the_first(make):
    # The first leaves the rate near 0, of which a schedule would take the second's peak: 0 in every step, or many times too high.
    optimizer, runs = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5), []
    for _ in range(2):
        scheduler, rates = make(optimizer), []
        for _ in range(6):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        runs.append(rates)
    assert runs[0] == runs[1] and max(runs[0]) >= 0.5


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_steps": 1, "warmup_steps": 0.1}, True),
        ({"max_steps": 2, "warmup_steps": 1}, False),
        ({"max_steps": 1, "warmup_steps": 0}, False),
        ({"max_steps": 1, "warmup_steps": 0.1, "lr_schedule": "reference"}, False),
    ],
)
def test_a_run_whose_every_rate_is_zero_says_so_before_it_trains(tiny_clip, tmp_path, settings, says):
    trainer = FLYPTrainer(
        tiny_clip, arguments(tmp_path, **settings), train_dataset=rows(random_batch(16)), data_collator=stack
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.create_optimizer_and_scheduler(settings["max_steps"])
    told = [str(warning.message) for warning in caught if "learning rate is 0 in every step" in str(warning.message)]
    assert len(told) == says and all("--warmup_steps 0" in text and "\n" not in text for text in told)


def sampler(**settings):
    return EpochSampler(**{"size": 50, "seed": 3, "shuffle": True, "keyed": False, **settings})


def order(chosen, epoch):
    chosen.set_epoch(epoch)
    return list(chosen)


def test_order_is_a_function_of_seed_and_epoch():
    first, second = sampler(), sampler()
    ahead = order(first, 5)
    torch.manual_seed(99)
    for epoch in (0, 2, 5, 5):
        list(second)
        again = order(second, epoch)
    assert again == ahead
    assert ahead != order(sampler(seed=4), 5)


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = [tuple(order(sampler(), epoch)) for epoch in range(6)]
    assert all(sorted(indices) == list(range(50)) for indices in epochs)
    assert len(set(epochs)) == 6
    assert len({tuple(order(sampler(seed=s), e)) for s in range(4) for e in range(4)}) == 16


def test_iterating_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    list(sampler())
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_set_during_iteration_concerns_the_next():
    chosen = sampler()
    iterator = iter(chosen)
    head = [next(iterator) for _ in range(10)]
    chosen.set_epoch(1)
    assert head + list(iterator) == order(sampler(), 0)
    assert list(chosen) == order(sampler(), 1)


def test_keys_pair_the_epoch_with_the_index():
    plain, keyed = order(sampler(), 4), order(sampler(keyed=True), 4)
    assert keyed == [(4, index) for index in plain]


def test_sequential_keeps_the_stored_order():
    assert order(sampler(shuffle=False), 3) == list(range(50))
    assert order(sampler(shuffle=False, keyed=True), 3)[:2] == [(3, 0), (3, 1)]
    assert len(sampler()) == 50
