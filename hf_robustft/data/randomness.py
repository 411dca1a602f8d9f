# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Random choices of an example as pure functions of (seed, epoch, index, purpose).

The crop of an image and the template of its caption must not depend on how many worker processes read the data, on
how many devices train, or on whether training was resumed. So no generator is shared or carried on: each choice seeds
its own from a hash of what it is for.

    >>> choose(80, seed=0, epoch=3, index=1201, what="template")
    20
"""

from __future__ import annotations

import random
from hashlib import blake2b


def example_rng(seed: int, epoch: int, index: int, what: str) -> random.Random:
    """A generator that depends on nothing but its four arguments.

    Args:
        seed (`int`): Seed of the run.
        epoch (`int`): Pass over the data, from 0.
        index (`int`): Row of the example in the data set.
        what (`str`): Purpose, such as "crop" or "template"; two purposes get independent streams.

    Returns:
        A `random.Random`. Only its `random()` is promised to stay the same in every Python version, so draw through
        `uniform` and `pick` of this module where runs must agree between versions.
    """
    key = f"{int(seed)}:{int(epoch)}:{int(index)}:{what}".encode()
    # Crops are to be repeated, not to be secret.
    return random.Random(int.from_bytes(blake2b(key, digest_size=16).digest(), "little"))  # noqa: S311


def uniform(rng: random.Random, low: float, high: float) -> float:
    """A number between `low` and `high`, from one draw of `rng`."""
    return low + (high - low) * rng.random()


def pick(rng: random.Random, n: int) -> int:
    """Return an integer in [0, `n`) from one draw of `rng`. Raises ValueError if `n` is below 1."""
    if n < 1:
        raise ValueError(f"There is nothing to choose from: n is {n}, it must be at least 1.")
    # The largest value of random(), 1 - 2**-53, times n never rounds up to n.
    return int(rng.random() * n)


def choose(n: int, *, seed: int, epoch: int, index: int, what: str) -> int:
    """An integer in [0, n) for one example: `pick(example_rng(seed, epoch, index, what), n)`."""
    return pick(example_rng(seed, epoch, index, what), n)
