# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Weights that FSDP2 spread over processes: seen whole, copied whole, and set from whole values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

if torch.distributed.is_available():
    from torch.distributed.tensor import DTensor, distribute_tensor
else:
    DTensor = ()


def is_spread(value: Any) -> bool:
    """Whether a `value` is a tensor that is spread over processes."""
    return isinstance(value, DTensor)


def is_sharded(model: nn.Module) -> bool:
    """Whether any parameter of the model is spread over processes."""
    return any(is_spread(parameter) for parameter in model.parameters())


def full_tensor(value: Any) -> Any:
    """
    The whole of a spread tensor, with gradient; anything else as it is.

    Args:
        value (`Any`): A `DTensor` (then every process must call this), a plain tensor, or any other value.

    Returns:
        A plain `torch.Tensor` for tensors. Its gradient must be the same in every process: each keeps its own part of
        it, and nothing is summed.
    """
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """[`full_tensor`] of each of the `values`, detached; every process must call this, with the same names in order."""
    return {name: full_tensor(v.detach()) if isinstance(v, Tensor) else v for name, v in values.items()}


def placed_like(value: Tensor, target: Tensor) -> Tensor:
    """
    A tensor spread over processes as another one is.

    Args:
        value (`torch.Tensor`): Whole (the same in every process) or spread.
        target (`torch.Tensor` of the same shape): Gives device and placement.

    Returns:
        `torch.Tensor`: The values of `value`; plain if `target` is.
    """
    if not isinstance(target, DTensor):
        return full_tensor(value)
    if (
        isinstance(value, DTensor)
        and value.placements == target.placements
        and value.device_mesh == target.device_mesh
    ):
        return value
    # No source rank: every process cuts its part out of what it has, nothing is sent.
    whole = full_tensor(value).to(target.device)
    return distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)


def whole_copy(model: nn.Module) -> nn.Module:
    """
    An independent copy of a model with plain weights; of a spread one every process must ask for it.

    Args:
        model ([`~transformers.PreTrainedModel`]): Plain or spread over processes.

    Returns:
        The copy, in the training mode of the model and with the same parameters frozen.
    """
    if not is_sharded(model):
        return copy.deepcopy(model)
    plain_class = next(c for c in type(model).__mro__ if not c.__name__.startswith("FSDP"))
    names = dict(model.named_parameters())
    with torch.random.fork_rng(devices=[]):
        made = plain_class(copy.deepcopy(model.config))
    for name, parameter in made.named_parameters():
        parameter.data = full_tensor(names[name].detach()).clone()
        parameter.requires_grad_(names[name].requires_grad)
    for name, buffer in model.named_buffers():
        made.get_buffer(name).data = buffer.detach().clone()
    made.train(model.training)
    for name, module in model.named_modules():
        for setting, value in vars(module).items():
            # Dropout rates and the like, where they were changed after the model was made.
            if isinstance(value, (float, int)) and not setting.startswith("_"):
                setattr(made.get_submodule(name), setting, value)
    return made


@torch.no_grad()
def set_weights(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    """Copy `values` into `weights`, in place."""
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


@contextmanager
def exchanged(weights: Sequence[Tensor], values: Sequence[Tensor]) -> Iterator[None]:
    """`weights` hold `values` as long as the context lasts, and their very bits again afterwards, whatever happens."""
    before = [weight.detach().clone() for weight in weights]
    try:
        set_weights(weights, values)
        yield
    finally:
        set_weights(weights, before)
