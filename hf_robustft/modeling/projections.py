# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A CLIP model's two projections: finding them, multiplying them, and exchanging their values for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .features import unwrapped

PROJECTIONS = ("visual_projection", "text_projection")


def projection_weights(model: nn.Module, embed_dim: int) -> list[Tensor]:
    """
    The weights of `visual_projection` and `text_projection`, of shapes `(embed_dim, tower's width)`.

    Raises:
        ValueError: If the model has not both, or they give features of another size than `embed_dim`.
    """
    model = unwrapped(model)
    modules = [getattr(model, name, None) for name in PROJECTIONS]
    if not all(isinstance(module, nn.Linear) for module in modules):
        raise ValueError(f"A {type(model).__name__} has not both projections of a CLIP model; give a `CLIPModel`.")
    for name, module in zip(PROJECTIONS, modules, strict=True):
        if len(module.weight) != embed_dim:
            raise ValueError(
                f"The model's `{name}` gives features of size {len(module.weight)}, but the adapters are for "
                f"{embed_dim}; give the model that they were made for."
            )
    return [module.weight for module in modules]


def mixed_with_identity(matrix: Tensor, ratio: float) -> Tensor:
    """`I + ratio * (matrix - I)`."""
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    return identity + ratio * (matrix - identity)


def product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` in the wider of their dtypes, also under autocast."""
    with torch.autocast(left.device.type, enabled=False):
        dtype = torch.promote_types(left.dtype, right.dtype)
        return left.to(dtype) @ right.to(dtype)


@torch.no_grad()
def folded(weight: Tensor, matrix: Tensor, ratio: float) -> Tensor:
    """
    `(I + ratio * (matrix - I)) @ weight`, taken in float64 and rounded once to the dtype of `weight`; on the CPU
    wherever they are, so that the same bits, and so the same fingerprint, come out on each device.

    Raises:
        ValueError: If it is not finite.
    """
    result = product(mixed_with_identity(matrix.cpu().double(), ratio), weight.cpu().double()).to(weight.dtype)
    if not result.isfinite().all():
        raise ValueError(
            "Merging gives a projection that is not finite; the training that made the adapters diverged."
        )
    return result


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
