# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A share of a whole in whole numbers, by the decimal that was typed: 0.29 of 100 is 29, not the 28.99... of a float."""

from __future__ import annotations

import math
from fractions import Fraction


def floor_share(share: float, total: int) -> int:
    """
    The largest whole number that is at most `share * total`.

    Args:
        share (`float`): The share, taken as the shortest decimal that reads as this number.
        total (`int`): The whole.

    Returns:
        `int`: Exact: no rounding of the product takes part.
    """
    return math.floor(_exact(share) * total)


def ceil_share(share: float, total: int) -> int:
    """The smallest whole number that is at least `share * total`; otherwise as [`floor_share`]."""
    return math.ceil(_exact(share) * total)


def _exact(share: float) -> Fraction:
    # NumPy's scalars print as their own shortest decimal, which a conversion to float would lose.
    return Fraction(str(share))
