# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Processes hold the same weights: student, teacher, and what trains beside them.

DDP gives the weights of the first process to the others when it wraps the student, once. A teacher is updated by each process for
itself, and so is the student by averaged gradients; one that is wrong, and finite, in one of them spoils the run of all and shows
nowhere, for what is saved is that of the first.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import TrainerCallback

from ..modeling.spread_weights import is_spread
from .distributed import is_distributed, world_size

#: Distance between processes, as a share of the norm of the weights, that machines of other kinds may come to by rounding.
ROUNDING = 1e-4
#: Numbers that are summed at once: torch makes whole numbers of 64 bits of them first.
_AT_ONCE = 2**22
_WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _checksum(value: Tensor) -> Tensor:
    # A sum of the bits as whole numbers has no rounding.
    bits = value.detach().contiguous().view(_WHOLE_NUMBERS[value.element_size()]).flatten()
    return torch.stack([part.sum(dtype=torch.int64) for part in bits.split(_AT_ONCE)]).sum()


def differing(tensors: Mapping[str, Tensor]) -> list[str]:
    """
    The names of the tensors that are not the same in all processes, each of which must ask for it.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): Plain ones on one device, with the same names and shapes in each process.
    """
    if not is_distributed() or not tensors:
        return []
    own = torch.stack([_checksum(value) for value in tensors.values()])
    found = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(found, own)
    equal = (torch.stack(found) == found[0]).all(dim=0).tolist()
    return [name for name, same in zip(tensors, equal, strict=True) if not same]


def distance(tensors: Mapping[str, Tensor], names: list[str]) -> float:
    """
    The greatest distance of a process from the first, as a share of the norm of all `tensors` there; every process must ask for it.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): As for [`differing`].
        names (list of `str`): Those that differ.
    """
    norm = torch.stack([value.detach().double().square().sum() for value in tensors.values()]).sum()
    dist.broadcast(norm, src=0)
    apart = torch.zeros_like(norm)
    for name in names:
        first = tensors[name].detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(first, src=0)
        apart += (tensors[name].detach().double() - first.double()).square().sum()
    share = (apart / norm).sqrt().nan_to_num(nan=torch.inf)
    dist.all_reduce(share, op=dist.ReduceOp.MAX)
    return share.item()


def check_agreement(trainer: Any) -> None:
    """
    Refuse to go on where processes hold different weights; every process must come here.

    Args:
        trainer ([`RobustTrainer`]): The Trainer of the run. Weights that are spread over processes are not looked at.

    Raises:
        ValueError: If they differ by more than rounding, by the name of the first that does.
    """
    if not is_distributed():
        return
    modules = {"model": trainer.model, **trainer.frozen_models(), **trainer.trainable_modules()}
    for what, module in modules.items():
        tensors = {name: value for name, value in module.named_parameters() if not is_spread(value)}
        names = differing(tensors)
        if not names:
            continue
        share, step = distance(tensors, names), trainer.state.global_step
        if share > ROUNDING:
            raise ValueError(
                f"The processes hold different weights at step {step}: {len(names)} of {len(tensors)} tensors of `{what}`, such as "
                f"{names[0]}, are {share:.1g} of their norm apart. Change weights in every process or in none, look for a faulty "
                "machine, and go on from an earlier checkpoint."
            )
        if trainer.args.should_log:
            warnings.warn(
                f"The processes hold weights of `{what}` that are {share:.1g} of their norm apart at step {step}, which is rounding: they run "
                "on machines of other kinds.",
                stacklevel=2,
            )


class Agreement(TrainerCallback):
    """
    Looks at the weights of all processes when training begins, also from a checkpoint, and when it ends; checkpoints do so themselves.

    Args:
        trainer ([`RobustTrainer`]): The Trainer of the run.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        check_agreement(self.trainer)

    def on_train_end(self, args, state, control, **kwargs):
        check_agreement(self.trainer)
