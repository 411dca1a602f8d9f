# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Conformal test martingales: their definitions, and that their false alarms keep to the level however often one looks."""

import math

import pytest
import torch

from hf_robustft.deployment import martingales
from hf_robustft.deployment.martingales import (
    EXPONENTS,
    block_gaps,
    conformal_p_values,
    distance_to_bank,
    first_alarm,
    likely_start,
    log_martingale,
    uniform_numbers,
)

LEVEL = 0.1


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_p_values_are_those_of_the_definition(monkeypatch):
    # Few values, so that many are equal, over several blocks.
    reference, stream, ties = (random(0, 11) * 6).floor(), (random(1, 40) * 6).floor(), random(2, 40)
    expected, bag = [], reference.tolist()
    for value, tie in zip(stream.tolist(), ties.tolist(), strict=True):
        bag.append(value)
        expected.append((sum(other < value for other in bag) + tie * sum(other == value for other in bag)) / len(bag))
    for block in (1, 7, 64):
        monkeypatch.setattr(martingales, "_BLOCK", block)
        assert conformal_p_values(reference, stream, ties).tolist() == expected


def test_the_money_is_that_of_the_definition():
    p_values = random(3, 30)
    kept = [1 / (1 + math.log(1 + n)) for n in range(31)]
    for n, log_money in enumerate(log_martingale(p_values).tolist(), 1):
        money = kept[n]
        for start in range(1, n + 1):
            won = [math.prod(e * p ** (e - 1) for p in p_values[start - 1 : n].tolist()) for e in EXPONENTS]
            money += (kept[start - 1] - kept[start]) * sum(won) / len(won)
        assert log_money == pytest.approx(math.log(money), abs=1e-9)


def test_a_bet_is_fair():
    # One p-value, by the middles of a million intervals; the bold bet is infinite at 0.
    middles = (torch.arange(10**6, dtype=torch.float64) + 0.5) / 10**6
    kept = 1 / (1 + math.log(2))
    mean = sum((e * middles ** (e - 1)).mean().item() for e in EXPONENTS) / len(EXPONENTS)
    assert kept + (1 - kept) * mean == pytest.approx(1, abs=0.03)
    assert log_martingale(middles[:1]).exp().item() == pytest.approx(kept + (1 - kept) * sum(e * 5e-7 ** (e - 1) for e in EXPONENTS) / 4)


def quiet(number: int, reference: int, length: int, fixed: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The p-values of a stream from the distribution of its reference, which has ties, and the money on them."""
    values = (random(number, reference + length) * 50).floor()
    ties = random(number + 10**6, length)
    if fixed:
        parts = [conformal_p_values(values[:reference], value[None], tie[None]) for value, tie in zip(values[reference:], ties, strict=True)]
        p_values = torch.cat(parts)
    else:
        p_values = conformal_p_values(values[:reference], values[reference:], ties)
    return p_values, log_martingale(p_values)


def test_false_alarms_of_a_thousand_quiet_streams_keep_to_the_level():
    p_values, money = zip(*(quiet(number, 20, 400) for number in range(1000)), strict=True)
    alarms = sum(first_alarm(each, LEVEL, 1) is not None for each in money)
    # At most the level, within four standard deviations of what chance makes of 1,000.
    assert 0 < alarms <= 1000 * LEVEL + 4 * math.sqrt(1000 * LEVEL * (1 - LEVEL))
    # Independent, not only uniform each: the products of neighbours too.
    pairs = torch.stack(p_values)
    for sample, quantile in ((pairs.flatten(), lambda x: x), (pairs[:, ::2].mul(pairs[:, 1::2]).flatten(), lambda x: x - x * x.log())):
        ordered = quantile(sample.sort().values)
        steps = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)
        # Kolmogorov and Smirnov at 1 in 1,000.
        assert torch.maximum((steps - ordered).abs(), (steps - 1 / len(ordered) - ordered).abs()).max() < 1.95 / math.sqrt(len(ordered))


def test_a_fixed_reference_would_raise_false_alarms():
    alarms = sum(first_alarm(quiet(number, 20, 400, fixed=True)[1], LEVEL, 1) is not None for number in range(50))
    assert alarms > 50 * 2 * LEVEL


def test_several_statistics_share_the_level():
    money = torch.tensor([0.0, math.log(99.0), math.log(100.1), 0.0, 7.0])
    assert first_alarm(money, 0.01, 1) == 3
    assert first_alarm(money, 0.01, 4) == 5 and first_alarm(money[:4], 0.01, 4) is None


@pytest.mark.parametrize("before", [0, 3000])
def test_a_change_is_found_soon_also_after_a_long_quiet_time(before):
    reference, stream = random(5, 500), torch.cat([random(6, before), random(7, 200) * 0.3])
    found = first_alarm(log_martingale(conformal_p_values(reference, stream, random(8, len(stream)))), 0.01, 4)
    assert before < found < before + (20 if before == 0 else 40)
    p_values = conformal_p_values(reference, stream, random(8, len(stream)))[: found + 30]
    assert abs(likely_start(p_values) - before) < 10


def test_what_comes_later_changes_nothing_before():
    p_values = random(9, 300)
    assert torch.equal(log_martingale(p_values)[:120], log_martingale(p_values[:120]))
    reference, stream, ties = random(10, 30), random(11, 300), random(12, 300)
    assert torch.equal(conformal_p_values(reference, stream, ties)[:120], conformal_p_values(reference, stream[:120], ties[:120]))


def test_numbers_of_names_depend_on_no_others():
    names = [f"{number}.png" for number in range(500)] + ["\udcff.png"]
    numbers = uniform_numbers(names, "0/score")
    assert torch.equal(numbers[[3, 500]], uniform_numbers([names[3], names[500]], "0/score"))
    assert not torch.equal(numbers, uniform_numbers(names, "1/score")) and len(set(numbers.tolist())) == len(names)
    assert 0 < numbers.min() and numbers.max() < 1 and abs(numbers.mean() - 0.5) < 0.05


def test_gaps_and_distances_are_those_of_the_definitions(monkeypatch):
    embeds = torch.nn.functional.normalize(random(13, 11, 5) - 0.5, dim=1)
    embeds[6] = embeds[4]
    gaps = block_gaps(embeds, 4)
    for block, gap in enumerate(gaps.tolist()):
        rows = embeds[4 * block : 4 * block + 4].tolist()
        pairs = [math.dist(rows[i], rows[j]) for i in range(4) for j in range(i)]
        assert gap == pytest.approx(min(pairs), abs=1e-12)
    assert len(gaps) == 2 and gaps[1] == 0 and block_gaps(embeds[:3], 4).shape == (0,)
    monkeypatch.setattr(martingales, "_BLOCK", 3)
    cosines = embeds[:7] @ embeds[7:].T
    for neighbours in (2, 9):
        expected = [1 - sum(sorted(row, reverse=True)[:neighbours]) / min(neighbours, 4) for row in cosines.tolist()]
        assert distance_to_bank(embeds[:7], embeds[7:], neighbours).tolist() == pytest.approx(expected)


def test_what_makes_no_p_values_is_refused():
    with pytest.raises(ValueError, match="finite"):
        conformal_p_values(torch.tensor([1.0, math.nan]), torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="Shapes"):
        conformal_p_values(torch.ones(2), torch.ones(2), torch.ones(1))
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="p-values"):
            log_martingale(torch.tensor([0.5, wrong]))
    assert log_martingale(torch.ones(0)).shape == conformal_p_values(torch.ones(3), torch.ones(0), torch.ones(0)).shape == (0,)
