# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Exact odds of counts: where few are expected, a normal approximation is wrong by several times."""

from __future__ import annotations

import math


def upper_tail(count: int, n: int, p: float) -> float:
    """
    The probability of at least `count` successes in `n` independent trials.

    Args:
        count (`int`): From 0 to `n`.
        n (`int`): Trials.
        p (`float`): Probability of each, above 0 and below 1.

    Returns:
        `float`
    """
    if count <= n * p:
        # The shorter side, whose terms fall from the first on.
        return 1.0 - _sum(n - count + 1, n, 1 - p) if count else 1.0
    return _sum(count, n, p)


def fewest_trials(count: int, most: int, p: float, confidence: float = 0.99) -> int:
    """
    A lower bound of the number of trials of which `count` were successes.

    Args:
        count (`int`): Successes.
        most (`int`): Trials there may have been at the most.
        p (`float`): Probability of a success, above 0.
        confidence (`float`, *optional*, defaults to 0.99): How often the bound must hold.

    Returns:
        `int`: The smallest number with which that many successes are at least as likely as `1 - confidence`.
    """
    if not count or p >= 1:
        return count
    low, high = count, max(count, most)
    while low < high:
        middle = (low + high) // 2
        if upper_tail(count, middle, p) > 1 - confidence:
            high = middle
        else:
            low = middle + 1
    return low


def lowest_share(count: int, n: int, confidence: float = 0.99) -> float:
    """Return Clopper and Pearson's (1934) one-sided lower bound, at a `confidence`, of a share of which `count` of `n` is a sample."""
    low, high = 0.0, count / n if n else 0.0
    for _ in range(50 if count else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if upper_tail(count, n, middle) > 1 - confidence else (middle, high)
    return low


def _sum(count: int, n: int, p: float) -> float:
    """The upper tail where no more than `count` are expected."""
    choose = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    term = math.exp(choose + count * math.log(p) + (n - count) * math.log1p(-p))
    total = 0.0
    for k in range(count, n + 1):
        total += term
        term *= (n - k) / (k + 1) * p / (1 - p)
        if term <= 1e-12 * total:
            break
    return min(1.0, total)
