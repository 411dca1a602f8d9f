# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
import os
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from hf_robustft.data.randomness import choose, example_rng, pick, uniform


def test_values_are_pinned():
    """A change of these numbers changes every crop and caption: old runs could no longer be repeated."""
    assert [choose(80, seed=0, epoch=3, index=i, what="template") for i in (1201, 1202, 0)] == [20, 18, 44]
    assert example_rng(1, 2, 3, "crop").random() == 0.976457887020811


def test_the_same_in_a_process_with_another_hash_seed(repository):
    code = "from hf_robustft.data.randomness import choose;"
    code += "print([choose(1000, seed=5, epoch=1, index=i, what='crop') for i in range(20)])"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=repository,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert outputs == {str([choose(1000, seed=5, epoch=1, index=i, what="crop") for i in range(20)])}


def test_every_argument_matters():
    base = {"seed": 0, "epoch": 0, "index": 11, "what": "crop"}
    draws = [
        example_rng(*{**base, **change}.values()).random()
        for change in ({}, {"seed": 1}, {"epoch": 1}, {"index": 1}, {"what": "template"}, {"epoch": 1, "index": 1})
    ]
    # Joined without a separator, (epoch 1, index 1) and (epoch 0, index 11) could collide; all six must differ.
    assert len(set(draws)) == 6


def test_integers_of_other_types_give_the_same():
    assert choose(100, seed=np.int64(3), epoch=np.int32(1), index=np.int64(7), what="a") == choose(
        100, seed=3, epoch=1, index=7, what="a"
    )


def test_global_generators_stay_untouched():
    random.seed(0)
    np.random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()
    choose(10, seed=0, epoch=0, index=0, what="crop")
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_choices_are_uniform():
    n, draws = 8, 16000
    counts = Counter(choose(n, seed=0, epoch=0, index=i, what="template") for i in range(draws))
    expected = draws / n
    chi_square = sum((counts[k] - expected) ** 2 / expected for k in range(n))
    assert set(counts) == set(range(n))
    assert chi_square < 24.3  # the 0.999 quantile with 7 degrees of freedom


class Scripted:
    def __init__(self, *values):
        self.values = list(values)

    def random(self):
        return self.values.pop(0)


def test_pick_and_uniform_at_the_ends():
    assert pick(Scripted(0.0), 5) == 0
    for n in (*range(1, 3000), 102_400_000, 2**31 - 1, 2**31, 2**31 + 1):
        assert pick(Scripted(1 - 2**-53), n) == n - 1
    assert uniform(Scripted(0.25), 2.0, 4.0) == 2.5


@pytest.mark.parametrize("n", [0, -1])
def test_nothing_to_choose_from(n):
    with pytest.raises(ValueError, match="must be at least 1"):
        choose(n, seed=0, epoch=0, index=0, what="template")
