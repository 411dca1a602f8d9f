# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Student and teacher spread over processes by FSDP2."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..modeling.dual_encoder import DualEncoder
from ..modeling.spread_weights import full_values, is_sharded, is_spread, placed_like
from .distributed import mean_gradient_over_processes, same_start, world_size


def shard_model(model: nn.Module, device: torch.device | str, reshard_after_forward: bool | None = None) -> nn.Module:
    """
    Spread a model over all processes with FSDP2, in place: each encoder layer is a unit, the rest another.

    The scalar logit scale stays whole in every process (`fully_shard` takes no scalars), and so does a bias; their gradients
    are averaged.
    All processes start from the weights of the first.

    Args:
        model ([`~transformers.PreTrainedModel`]): Plain, on any device. Needs a process group.
        device (`torch.device` or `str`): Where to train; its type gives the mesh.
        reshard_after_forward (`bool`, *optional*): As in `torch.distributed.fsdp.fully_shard`; by default layers are
            freed after their forward pass and the rest is kept until the backward pass.

    Returns:
        The model.

    Raises:
        ValueError: If there is no group of several processes, or the model is already spread.
    """
    if world_size() == 1:
        raise ValueError(
            "`fully_shard` spreads the model over processes, and only one runs; start several with "
            "`torchrun --nproc_per_node N` or `accelerate launch --num_processes N`."
        )
    if is_sharded(model):
        raise ValueError("The model is already spread over processes; pass a plain one.")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model.to(device)
    same_start(model)
    mesh = init_device_mesh(torch.device(device).type, (world_size(),))
    options = {"mesh": mesh, "reshard_after_forward": reshard_after_forward}
    encoder = DualEncoder.of(model)
    for layers in encoder.layers():
        for layer in layers:
            fully_shard(layer, **options)
    fully_shard(model, **options, ignored_params=set(encoder.scalars))
    for scalar in encoder.scalars:
        if scalar.requires_grad:
            mean_gradient_over_processes(scalar)
    return model


def shard_run(model: nn.Module, frozen: Iterable[nn.Module], device: torch.device) -> None:
    """Spread the `model` of a run and its `frozen` copies over the processes' `device`s, unless it is spread already."""
    if not is_sharded(model):
        shard_model(model, device)
    for copied in frozen:
        # Freed after each forward pass: no backward pass would do it, and the update must see its own part.
        shard_model(copied, device, reshard_after_forward=True)


def check_sharding(args: Any, beside_the_model: list[str], trains_the_model: bool) -> None:
    """
    Refuse what does not go together with `fully_shard`.

    Args:
        args ([`RobustTrainingArguments`]): Settings of the run.
        beside_the_model (list of `str`): Modules that train beside the model, by name.
        trains_the_model (`bool`): Whether any parameter of the model trains.

    Raises:
        ValueError: For a single process, a frozen model, modules beside the model, and settings that were never shown
            to be exact with spread weights.
    """
    if world_size() == 1:
        raise ValueError(
            "`fully_shard` spreads the model over processes, and only one runs; start several with "
            "`torchrun --nproc_per_node N` or `accelerate launch --num_processes N`."
        )
    if beside_the_model or not trains_the_model:
        what = f"trains {', '.join(beside_the_model)} beside the model" if beside_the_model else "freezes the model"
        raise ValueError(
            f"`fully_shard` spreads the weights of a model that trains alone, and this method {what}; "
            "leave --fully_shard away: DDP does this run exactly."
        )
    refused = {
        "fp16": "spread gradients have no common loss scale; use --bf16",
        "torch_compile": "leave one of the two away",
        "load_best_model_at_end": "evaluate the checkpoints afterwards",
        "contrastive_chunk_size": "the gradient cache runs under DDP; leave one of the two away",
    }
    for name, advice in refused.items():
        if getattr(args, name, False):
            raise ValueError(f"`{name}` does not go together with `fully_shard`: {advice}.")


def _whole_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "state": {index: full_values(values) for index, values in state["state"].items()}}


def _spread_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread = {}
    for index, values in state["state"].items():
        like = parameters[int(index)]
        spread[index] = {
            name: placed_like(v, like) if torch.is_tensor(v) and v.shape == like.shape else v
            for name, v in values.items()
        }
    return {**state, "state": spread}


def separate_plain_parameters(optimizer: torch.optim.Optimizer) -> None:
    """
    Move parameters that are not spread into groups of their own: fused and foreach kernels take one kind at a time.

    The optimizer's saved state then is whole (every process must call `state_dict()`), and is spread again on loading.

    Args:
        optimizer (`torch.optim.Optimizer`): Changed in place.
    """
    for group in list(optimizer.param_groups):
        spread = [p for p in group["params"] if is_spread(p)]
        plain = [p for p in group["params"] if not is_spread(p)]
        if spread and plain:
            group["params"] = spread
            optimizer.add_param_group({**{k: v for k, v in group.items() if k != "params"}, "params": plain})
    optimizer.register_state_dict_post_hook(_whole_state)
    optimizer.register_load_state_dict_pre_hook(_spread_state)
