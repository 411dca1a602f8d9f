# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Rank, world size and gathers, safe without a process group."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group of more than one process is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


class _GatherRows(torch.autograd.Function):
    # Backward sums what every process's loss says of this process's rows. DDP then divides by the world size, so that
    # mean losses over local rows give the gradient of the mean over the global batch.
    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather_rows(rows: Tensor) -> Tensor:
    """
    The rows of all processes, in rank order, with gradient.

    Args:
        rows (`torch.Tensor` of shape `(batch, ...)`): As many rows in every process.

    Returns:
        `torch.Tensor` of shape `(world_size * batch, ...)`; `rows` itself in one process.
    """
    return _GatherRows.apply(rows) if is_distributed() else rows


def mean_gradient_over_processes(parameter: torch.nn.Parameter) -> None:
    """Average this parameter's gradient over processes in every backward pass (what DDP does for the wrapped model)."""

    def average(gradient: Tensor) -> Tensor:
        if is_distributed():
            gradient = gradient.clone()
            dist.all_reduce(gradient)
            gradient /= world_size()
        return gradient

    parameter.register_hook(average)


def check_world_size(used: int) -> None:
    """
    Refuse to train on fewer or more processes than were started.

    On a machine without accelerator, processes that were started without `use_cpu` form a group that
    `TrainingArguments` do not see: each would train alone and overwrite the others' results.

    Args:
        used (`int`): The world size that the run goes by, `TrainingArguments.world_size`.

    Raises:
        ValueError: If the launcher's `WORLD_SIZE`, or the process group, is of another size.
    """
    promised = int(os.environ.get("WORLD_SIZE", used))
    if promised != used or world_size() != used:
        raise ValueError(
            f"The launcher started {promised} process(es), {world_size()} of them are in a group, and this run would use "
            f"{used}; on CPU start several with `torchrun --nproc_per_node N examples/run_robust_ft.py --use_cpu`."
        )
