# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Learning-rate schedule and data order: both pure functions of the step or epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Sampler

#: Transformers' schedules that take no warm-up.
WITHOUT_WARMUP = ("constant", "reduce_lr_on_plateau", "greedy")
#: The rate of the first epoch in the schedule of the CRoFT code.
FIRST_EPOCH_RATE = 1e-5


def reference_learning_rate(step: int, total_steps: int, warmup_steps: int, base: float, min_lr: float = 0.0) -> float:
    """
    The schedule of the CaRot and FLYP code: `base * (step + 1) / warmup_steps`, then a cosine from `base`.

    It differs from Transformers' cosine in that the first step already moves (theirs starts at 0), the peak is used
    twice, and `min_lr` is added after the warm-up rather than being a floor.

    Args:
        step (`int`): Index of the optimizer step, from 0.
        total_steps (`int`), warmup_steps (`int`): Lengths of the run and of the warm-up, in optimizer steps.
        base (`float`): Peak learning rate.
        min_lr (`float`, *optional*, defaults to 0.0): Added to the cosine.

    Returns:
        `float`: The learning rate of that step.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    # A run of exactly its warm-up asks for the rate of step `total_steps` when it ends; nothing trains with it.
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress)) * base + min_lr


def _schedule(optimizer: torch.optim.Optimizer, rate: Callable[[int, float], float]) -> LambdaLR:
    # `rate(step, peak)` of every parameter group, as the factors that torch takes.
    def factor(base: float) -> Callable[[int], float]:
        return lambda step: rate(step, base) / base if base else 0.0

    # A second run has the optimizer of the first, whose rate has come down by then; the peak is what torch multiplies.
    return LambdaLR(optimizer, [factor(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups])


def reference_schedule(
    optimizer: torch.optim.Optimizer, total_steps: int, warmup_steps: int, min_lr: float = 0.0
) -> LambdaLR:
    """[`reference_learning_rate`], with its `total_steps`, `warmup_steps` and `min_lr`, for all groups of an `optimizer`."""
    return _schedule(
        optimizer, lambda step, base: reference_learning_rate(step, total_steps, warmup_steps, base, min_lr)
    )


def epoch_cosine_learning_rate(epoch: int, total_epochs: int, base: float, warmup: float = FIRST_EPOCH_RATE) -> float:
    """
    The schedule of the CRoFT code: one epoch at a constant rate, then a cosine that moves once per epoch.

    The warm-up epoch does not count in the cosine, so the last epoch of a run is `total_epochs - 2` steps into it.

    Args:
        epoch (`int`): Index of the epoch, from 0.
        total_epochs (`int`): Epochs of the run.
        base (`float`): Peak learning rate, that of the second epoch.
        warmup (`float`, *optional*, defaults to 1e-5): The rate of the first epoch.

    Returns:
        `float`: The learning rate of that epoch.

    Raises:
        ValueError: If there is not a single epoch.
    """
    if total_epochs < 1:
        raise ValueError(f"`total_epochs={total_epochs}` is not a run; the cosine over epochs needs at least 1.")
    if epoch == 0:
        return warmup
    return 0.5 * base * (1 + math.cos(math.pi * (epoch - 1) / total_epochs))


def epoch_cosine_schedule(optimizer: torch.optim.Optimizer, total_steps: int, total_epochs: int) -> LambdaLR:
    """
    [`epoch_cosine_learning_rate`], with its `total_epochs`, for all groups of an `optimizer`. It is stepped `total_steps`
    times, once per optimizer step.
    """
    steps_per_epoch = max(1, total_steps // max(1, total_epochs))
    return _schedule(
        optimizer, lambda step, base: epoch_cosine_learning_rate(step // steps_per_epoch, total_epochs, base)
    )


class EpochSampler(Sampler):
    """
    The order of one epoch, a pure function of seed and epoch.

    Accelerate fetches one batch ahead of the step that is saved, so an order that came from a generator's state would
    not survive a resumed run.

    Args:
        size (`int`): Number of examples.
        seed (`int`): Seed of the order.
        shuffle (`bool`): A new permutation each epoch, or the stored order.
        keyed (`bool`): Yield `(epoch, index)` instead of `index`, for data sets whose random views are functions of
            both (`TrainingExamples`).
    """

    def __init__(self, size: int, *, seed: int, shuffle: bool, keyed: bool):
        self.size, self.seed, self.shuffle, self.keyed = size, seed, shuffle, keyed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator:
        epoch = self.epoch
        order: Iterable[int] = range(self.size)
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            # As numbers of Python, each of which takes five times as much memory, some at a time.
            parts = torch.randperm(self.size, generator=generator).split(65_536)
            order = (index for part in parts for index in part.tolist())
        for index in order:
            yield (epoch, index) if self.keyed else index
