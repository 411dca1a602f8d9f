# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Models made from the weights of others: those at which fine-tuning started, and those of one or more fine-tuned models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from .dual_encoder import LOGIT_BIAS, LOGIT_SCALE, PROJECTION_WEIGHTS, DualEncoder
from .kept_adapter import refuse_carried
from .zero_shot import ZeroShotHead


def interpolate_weights(
    zero_shot: nn.Module | Mapping[str, Tensor], fine_tuned: nn.Module | Mapping[str, Tensor], alpha: float = 0.5
) -> dict[str, Tensor]:
    """
    `(1 - alpha) * zero_shot + alpha * fine_tuned` for every tensor (WiSE-FT, Wortsman et al., CVPR 2022).

    Given two whole models this interpolates both towers, the projections and the logarithm of the logit scale. A trained
    head is a module of its own: WiSE-FT interpolates it too, with the zero-shot head that it started from.

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
    return {name: _mixed(start, second[name], alpha) for name, start in first.items()}


def model_stock(
    start: nn.Module | Mapping[str, Tensor], fine_tuned: Sequence[nn.Module | Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """
    Model Stock (Jang et al., ECCV 2024): for every tensor the point between the start and the mean of several models
    that were fine-tuned from it which lies nearest to where the mean of many would be.

    With `c` the cosine between the changes of two models, averaged over all pairs, it is `t * mean + (1 - t) * start`,
    where `t = k * c / (1 + (k - 1) * c)` for `k` models. The paper has two; the average over pairs is mergekit's reading
    for more.

    Args:
        start (`torch.nn.Module` or `Mapping[str, torch.Tensor]`): The model before fine-tuning, or its state dict.
        fine_tuned (`Sequence[torch.nn.Module | Mapping[str, torch.Tensor]]`): Two models or more, or their state dicts, that
            differ in seed or settings.

    Returns:
        `dict[str, torch.Tensor]`: A state dict. Sums are taken in float64 and rounded once, to the first fine-tuned model's
        dtype. A tensor stays at the start where no two models agree on a direction (the cosine is 0 or below, or
        a change is zero). Integer buffers must agree and are copied.

    Raises:
        ValueError: If there are fewer than two models, or names, shapes or integer buffers disagree.
    """
    if isinstance(fine_tuned, (nn.Module, Mapping)) or len(fine_tuned) < 2:
        raise ValueError("Model Stock needs two fine-tuned models or more, a list; give another run from the same start.")
    pairs = [check_interpolation(start, model) for model in fine_tuned]
    first, others = pairs[0][0], [second for _, second in pairs]
    result = {}
    for name, origin in first.items():
        ends = [other[name] for other in others]
        if not origin.is_floating_point():
            result[name] = ends[0].clone()
            continue
        wide = origin.to(ends[0].device, torch.float64)
        changes = torch.stack([(end.to(wide) - wide).flatten() for end in ends])
        ratio = _stock_ratio(changes)
        result[name] = (wide + ratio * changes.mean(0).view_as(wide)).to(ends[0].dtype)
    return result


def _stock_ratio(changes: Tensor) -> Tensor:
    """The share `t` of the mean of `changes`, one in a row."""
    count, norms = len(changes), changes.norm(dim=1)
    cosines = [changes[i] @ changes[j] / (norms[i] * norms[j]) for i, j in combinations(range(count), 2)]
    # Of a change of zero it is not a number. Opposite changes would come near to a pole: the mean of many is the start.
    cosine = torch.stack(cosines).nan_to_num(0.0).mean().clamp(0.0, 1.0)
    return count * cosine / (1 + (count - 1) * cosine)


def lines(
    start: nn.Module, fine_tuned: nn.Module | Mapping[str, Tensor], alpha: float = 0.1, *, whole_projections: bool = False
) -> dict[str, Tensor]:
    """
    LiNeS (Wang et al., ICLR 2025): shallow layers stay near the start, and the last one takes all that it learned.

    Of a layer's change the share `alpha + (1 - alpha) * l / (L - 1)` is kept, with `l` from 0 to `L - 1` within
    its tower, and `alpha` of whatever lies outside of layers: embeddings, final norms, projections, logit scale and logit bias.

    Args:
        start (`torch.nn.Module`): The model before fine-tuning; or the [`ZeroShotHead`] from which a head was trained, which
            counts as a projection.
        fine_tuned (`torch.nn.Module` or `Mapping[str, torch.Tensor]`): The model after fine-tuning, or its state dict.
        alpha (`float`, *optional*, defaults to 0.1): Share of the change in the first layers; 1 gives the fine-tuned model.
        whole_projections (`bool`, *optional*, defaults to `False`): Take projections, logit scale and logit bias from the
            fine-tuned model, as the last layer that they are; in the paper's experiments `alpha` of their change is kept.

    Returns:
        `dict[str, torch.Tensor]`: A state dict, rounded as by `interpolate_weights`.

    Raises:
        ValueError: If `alpha` is outside [0, 1], the model is neither a dual encoder nor a head, or has no projections to take
            whole, or names, shapes or integer buffers disagree.
    """
    check_alpha(alpha)
    first, second = check_interpolation(start, fine_tuned)
    is_head = isinstance(start, ZeroShotHead)
    depths = {} if is_head else DualEncoder.of(start).depths()
    shares = {name: alpha + (1.0 - alpha) * depth for name, depth in depths.items()}
    if whole_projections:
        if not is_head:
            check_whole_projections(DualEncoder.of(start))
        shares |= dict.fromkeys(first if is_head else (*PROJECTION_WEIGHTS, LOGIT_SCALE, LOGIT_BIAS), 1.0)
    return {name: _mixed(value, second[name], shares.get(name, alpha)) for name, value in first.items()}


def _mixed(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    if not end.is_floating_point():
        return end.clone()
    wide = torch.promote_types(torch.promote_types(start.dtype, end.dtype), torch.float32)
    mixed = (1.0 - alpha) * start.to(end.device, wide) + alpha * end.to(wide)
    return mixed.to(end.dtype)


def check_alpha(alpha: float, name: str = "alpha") -> None:
    """
    Refuse an `alpha`, the share of the fine-tuned weights, that is not one; messages call it by its `name`.

    Raises:
        ValueError: If it lies outside [0, 1].
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"`{name}={alpha}` lies outside [0, 1]; 0 is the zero-shot model, 1 the fine-tuned one.")


def check_whole_projections(encoder: DualEncoder, name: str = "whole_projections") -> None:
    """
    Refuse to take the projections of an `encoder` whole where it has none; messages call the setting by its `name`.

    Raises:
        ValueError: If they are not linear maps.
    """
    if encoder.visual_projection is None:
        raise ValueError(f"`{name}` takes linear projections whole, which a {encoder.name} does not end in; leave it out.")


def check_interpolation(
    zero_shot: nn.Module | Mapping[str, Tensor], fine_tuned: nn.Module | Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    """
    Refuse two models, `zero_shot` and `fine_tuned`, between which nothing can be interpolated.

    Returns:
        The two state dicts.

    Raises:
        ValueError: If names, shapes or integer buffers disagree, or one has an image adapter that is not in its weights.
    """
    for model in (zero_shot, fine_tuned):
        refuse_carried(model, "weights alone can be merged; train with adapter_image_ratio=0, and the text adapter is in them")
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
