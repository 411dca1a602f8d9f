# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Weight-space interpolation between a zero-shot and a fine-tuned model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def interpolate_weights(
    zero_shot: nn.Module | Mapping[str, Tensor], fine_tuned: nn.Module | Mapping[str, Tensor], alpha: float = 0.5
) -> dict[str, Tensor]:
    """
    `(1 - alpha) * zero_shot + alpha * fine_tuned` for every tensor (WiSE-FT, Wortsman et al., CVPR 2022).

    Given two whole models this interpolates both towers, the projections and the logarithm of the logit scale;
    a classification head is then rebuilt from the interpolated text tower. That differs from interpolating two heads
    (the original code does the latter): pass the heads' state dicts too for that.

    Args:
        zero_shot (`torch.nn.Module` or `Mapping[str, torch.Tensor]`): The model before fine-tuning, or its state dict.
        fine_tuned (`torch.nn.Module` or `Mapping[str, torch.Tensor]`): The model after fine-tuning, or its state dict.
        alpha (`float`, *optional*, defaults to 0.5): 0 gives the zero-shot weights, 1 the fine-tuned ones.

    Returns:
        `dict[str, torch.Tensor]`: A state dict for `load_state_dict`. The sum is taken in the wider of the two dtypes,
        float32 at least, and rounded once, to the fine-tuned model's dtype. Integer buffers must agree and are copied.

    Raises:
        ValueError: If `alpha` is outside [0, 1], or names, shapes or integer buffers disagree.
    """
    check_alpha(alpha)
    first, second = check_interpolation(zero_shot, fine_tuned)
    result = {}
    for name, start in first.items():
        end = second[name]
        if not end.is_floating_point():
            result[name] = end.clone()
        else:
            wide = torch.promote_types(torch.promote_types(start.dtype, end.dtype), torch.float32)
            mixed = (1.0 - alpha) * start.to(end.device, wide) + alpha * end.to(wide)
            result[name] = mixed.to(end.dtype)
    return result


def check_alpha(alpha: float) -> None:
    """
    Refuse an `alpha`, the share of the fine-tuned weights, that is not one.

    Raises:
        ValueError: If it lies outside [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"`alpha={alpha}` lies outside [0, 1]; 0 is the zero-shot model, 1 the fine-tuned one.")


def check_interpolation(
    zero_shot: nn.Module | Mapping[str, Tensor], fine_tuned: nn.Module | Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """
    Refuse two models, `zero_shot` and `fine_tuned`, between which nothing can be interpolated.

    Returns:
        The two state dicts.

    Raises:
        ValueError: If names, shapes or integer buffers disagree.
    """
    first = zero_shot.state_dict() if isinstance(zero_shot, nn.Module) else zero_shot
    second = fine_tuned.state_dict() if isinstance(fine_tuned, nn.Module) else fine_tuned
    if first.keys() != second.keys():
        different = sorted(first.keys() ^ second.keys())
        raise ValueError(
            f"The two models have different tensors ({', '.join(different[:3])}{', ...' if len(different) > 3 else ''}); "
            "interpolate a model with the checkpoint it was fine-tuned from."
        )
    for name, start in first.items():
        end = second[name]
        if start.shape != end.shape:
            raise ValueError(f"`{name}` has shape {tuple(start.shape)} in one model, {tuple(end.shape)} in the other.")
        if not end.is_floating_point() and not torch.equal(start.to(end.device), end):
            raise ValueError(f"The integer buffer `{name}` differs between the models and cannot be interpolated.")
    return first, second
