# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Selective projection decay (SPD): AdamW that takes back steps away from the starting weights where the gradient opposes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.spread_weights import full_tensor

#: What `optim` calls it.
SPD = "spd"


def opposes_deviation(gradient: Tensor, deviation: Tensor) -> Tensor:
    """
    SPD's condition, `-<g, w - w₀> < 0`: descent by this gradient leads back towards the starting weights, and what moved the
    weights away from them until now no longer lowers the loss (Tian et al., NeurIPS 2024).

    Args:
        gradient (`torch.Tensor`): Of the loss, at the weights before the step. Neither momentum nor the step of Adam.
        deviation (`torch.Tensor` of the same shape): `w - w₀` before the step; plain or spread over processes.

    Returns:
        `torch.Tensor`: Boolean scalar, `False` for weights that are still where they started.
    """
    return full_tensor((gradient * deviation).sum()) > 0


def deviation_norm(deviation: Tensor) -> Tensor:
    """`||deviation||`, a scalar; every process must ask for that of a tensor which is spread over processes."""
    return full_tensor(deviation.square().sum()).sqrt()


def deviation_ratio(before: Tensor, after: Tensor) -> Tensor:
    """
    SPD's ratio, the share of the distance from the starting weights that a step has added: `max(0, 1 - before / after)`
    (Tian et al., NeurIPS 2024).

    Taking that share of the deviation back is the projection onto the ball around the starting weights on whose surface the
    weights were before the step.

    Args:
        before, after (`torch.Tensor`, scalar): `||w - w₀||` before and after the step.

    Returns:
        `torch.Tensor`: Scalar in [0, 1]; 0 after a step onto the starting weights themselves.
    """
    return torch.where(after > before, (after - before) / after, torch.zeros_like(after))


class AdamSPD(torch.optim.AdamW):
    """
    AdamW with selective projection decay (SPD; Tian et al., "Rethinking Weight Decay for Robust Fine-Tuning of Foundation
    Models", NeurIPS 2024, algorithm 2; `adamSPD.py` of the authors).

    AdamW makes its step from `w` to `v`. For each tensor of which [`opposes_deviation`] says so the weights then become
    `v - spd_weight · r · (v - w₀)`, with the `r` of [`deviation_ratio`]; the others keep their step. At an `spd_weight` of 1 a
    tensor comes no farther from its start in such a step; at 0 this is AdamW.

    The starting weights are those before the first step. They are in the optimizer's state, so that a resumed run has the same.

    Args:
        params (`Iterable`): Parameters, or groups of them. A group may have its own `spd_weight`, and `from_zero=True` where the
            starting weights are 0 and none are stored.
        lr (`float`, *optional*, defaults to 1e-3): Learning rate.
        betas (`tuple[float, float]`, *optional*, defaults to `(0.9, 0.999)`), eps (`float`, *optional*, defaults to 1e-8):
            Adam's.
        weight_decay (`float`, *optional*, defaults to 0.0): AdamW's decay towards 0, a part of the step; SPD has none.
        spd_weight (`float`, *optional*, defaults to 1.0): The strength of the decay, lambda in the paper.

    Raises:
        ValueError: If `spd_weight` is negative or not finite, or as [`~torch.optim.AdamW`] does.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        spd_weight: float = 1.0,
    ):
        if not 0 <= spd_weight < float("inf"):
            raise ValueError(f"`spd_weight={spd_weight}` must be finite and not negative; 0 switches the projection off.")
        # No fused kernel: with a loss scaler it would take gradients that are still scaled.
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        own = {"spd_weight": spd_weight, "from_zero": False}
        self.defaults |= own
        for group in self.param_groups:
            for name, value in own.items():
                group.setdefault(name, value)

    def set_options(self, parameters: Iterable[nn.Parameter], **options: Any) -> None:
        """Give some of the `parameters` that are held other `options`, in groups of their own."""
        chosen = set(map(id, parameters))
        for group in list(self.param_groups):
            theirs = [p for p in group["params"] if id(p) in chosen]
            others = [p for p in group["params"] if id(p) not in chosen]
            if theirs and others:
                group["params"] = others
                self.add_param_group({**group, "params": theirs, **options})
            elif theirs:
                group.update(options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """
        Make a step.

        Args:
            closure (`Callable`, *optional*): Computes the loss again, with its gradients.

        Returns:
            What `closure` gives, `None` without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moving = []
        for group in self.param_groups:
            for parameter in group["params"] if group["spd_weight"] else ():
                if parameter.grad is not None:
                    start = None if group["from_zero"] else self._start(parameter)
                    deviation = _deviation(parameter, start)
                    opposed = opposes_deviation(parameter.grad, deviation)
                    moving.append((parameter, start, group["spd_weight"], opposed, deviation_norm(deviation)))
        super().step()
        for parameter, start, weight, opposed, before in moving:
            if start is not None:
                # Not earlier: AdamW makes its own state for parameters that have none at all.
                self.state[parameter]["start"] = start
            deviation = _deviation(parameter, start)
            # Without a look at the condition on the host, which would wait for the device.
            share = opposed * (weight * deviation_ratio(before, deviation_norm(deviation)))
            parameter.sub_(share * deviation)
        return loss

    def _start(self, parameter: nn.Parameter) -> Tensor:
        state = self.state.get(parameter, {})
        return state["start"] if "start" in state else parameter.detach().clone()


def _deviation(parameter: nn.Parameter, start: Tensor | None) -> Tensor:
    return parameter.detach() if start is None else parameter.detach() - start
