# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which parameters of a dual encoder train: whole parts of it, or the last layers of its towers."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from .dual_encoder import DualEncoder

#: The two towers, what maps their features to the common space, and the scale of similarities with their bias.
TOWERS = ("image", "text")
PARTS = (*TOWERS, "projections", "scale")


def parameters_by_part(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """
    The parameters of each part of a model, in the order in which its modules hold them.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped.

    Returns:
        `dict[str, list[torch.nn.Parameter]]`: By the names of `PARTS`; a model without linear projections has none there. What
        no feature depends on is in no part.
    """
    encoder = DualEncoder.of(model)
    sides = dict(zip(TOWERS, (encoder.image_side(), encoder.text_side()), strict=True))
    weights = {id(weight) for weight in (encoder.visual_projection, encoder.text_projection) if weight is not None}
    maps = [m for side in sides.values() for m in side.modules() if id(getattr(m, "weight", None)) in weights]
    projections = [parameter for module in maps for parameter in module.parameters()]
    apart = {id(p) for module in encoder.unused_modules() for p in module.parameters()} | set(map(id, projections))
    towers = {name: [p for p in side.parameters() if id(p) not in apart] for name, side in sides.items()}
    return {**towers, "projections": projections, "scale": encoder.scalars}


def last_layers(model: nn.Module, tower: str, count: int) -> list[nn.Module]:
    """
    The last transformer layers of a tower.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped.
        tower (`str`): One of `TOWERS`.
        count (`int`): So many; 0 for all.

    Raises:
        ValueError: If the tower has fewer.
    """
    layers = DualEncoder.of(model).layers()[TOWERS.index(tower)]
    if count > len(layers):
        raise ValueError(
            f"`train_last_layers={count}`: the {tower} tower of a {DualEncoder.of(model).name} like this has {len(layers)} layers; give {len(layers)} or "
            "fewer, or leave it out, and the embeddings train too."
        )
    return layers[-count:]


def parameters_to_train(model: nn.Module, parts: Collection[str], count: int = 0) -> set[int]:
    """
    The ids of the parameters in some parts of a model.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped.
        parts (collection of `str`): Names of `PARTS`.
        count (`int`, *optional*, defaults to 0): Of a tower, take these last transformer layers, and the norms and maps
            behind them, alone; 0 takes all of it.

    Raises:
        ValueError: If a tower among the parts has fewer layers.
    """
    found = set()
    for name, parameters in parameters_by_part(model).items():
        order = [id(parameter) for parameter in parameters]
        if count and name in TOWERS and name in parts:
            # A tower holds its modules in the order in which it runs them.
            order = order[order.index(id(next(last_layers(model, name, count)[0].parameters()))) :]
        found |= set(order) if name in parts else set()
    return found


def train_only(model: nn.Module, parts: Collection[str], count: int = 0) -> None:
    """
    Freeze all but some parts of a model, in place; what is frozen already stays so.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped.
        parts (collection of `str`): Names of `PARTS`.
        count (`int`, *optional*, defaults to 0): As for [`parameters_to_train`].

    Raises:
        ValueError: If a tower that trains has fewer layers.
    """
    kept = parameters_to_train(model, parts, count)
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.requires_grad_(False)


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The towers and projections of a `model` of which nothing trains."""
    encoder = DualEncoder.of(model)
    modules = (module for side in (encoder.image_side(), encoder.text_side()) for module in side.children())
    return [module for module in modules if not any(parameter.requires_grad for parameter in module.parameters())]
