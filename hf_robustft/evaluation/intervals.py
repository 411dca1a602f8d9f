# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Clopper and Pearson's (1934) exact confidence limits of a share, of which `count` of `n` images are a sample."""

from __future__ import annotations

from scipy.special import betaincinv


def upper_bound(count: int, n: int, confidence: float = 0.95) -> float:
    """
    The one-sided upper confidence bound of a share.

    Args:
        count (`int`): Images that have it.
        n (`int`): All images, at least 1.
        confidence (`float`, *optional*, defaults to 0.95): With at least this probability the bound is not below the share.

    Returns:
        `float`: The bound, in (0, 1].
    """
    return 1.0 if count >= n else float(betaincinv(count + 1, n - count, confidence))


def share_interval(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    The two-sided confidence interval of a share, with the same chance of an error on both sides.

    Args:
        count (`int`), n (`int`), confidence (`float`, *optional*, defaults to 0.95): As for [`upper_bound`].

    Returns:
        `tuple[float, float]`: Its ends, in [0, 1].
    """
    one_sided = (1 + confidence) / 2
    return 1.0 - upper_bound(n - count, n, one_sided), upper_bound(count, n, one_sided)
