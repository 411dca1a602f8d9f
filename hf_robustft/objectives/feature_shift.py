# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The generator of covariate-shifted features, with the optimizer that is its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .base import take
from .energy_gradient import feature_shift_loss, shifted_features


class FeatureShiftGenerator(nn.Module):
    """
    CRoFT's generator (Zhu et al., ICML 2024): one matrix, started from the identity, and its SGD.

    Args:
        embed_dim (`int`): Size of the features.
        learning_rate, momentum, weight_decay (`float`): Of its SGD; the rate is the peak of the run's schedule.
        dtype, device (*optional*): Of the matrix.
    """

    def __init__(
        self,
        embed_dim: int,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(embed_dim, dtype=dtype, device=device))
        self.learning_rate = learning_rate
        self._options = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
        self.restart()

    def restart(self) -> None:
        """Back to the identity, without momentum."""
        with torch.no_grad():
            self.weight.copy_(torch.eye(len(self.weight)))
        self.optimizer = torch.optim.SGD([self.weight], **self._options)

    def set_rate(self, factor: float) -> None:
        """Use `factor` times the peak learning rate from now on."""
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * factor

    def forward(self, image_embeds: Tensor) -> Tensor:
        """Shifted features of shape `(batch, embed_dim)`, see [`shifted_features`]."""
        return shifted_features(image_embeds, self.weight)

    def loss(self, image_embeds, class_embeds, labels, logit_scale, alignment_weight: float) -> Tensor:
        """What the generator descends, see [`feature_shift_loss`]."""
        shifted = self(image_embeds)
        return feature_shift_loss(shifted, image_embeds, class_embeds, labels, logit_scale, alignment_weight)

    def step(self) -> None:
        """An optimizer step; without a gradient nothing moves, weight decay included."""
        self.optimizer.step()
        self.zero_grad()

    def state(self) -> dict[str, Any]:
        """Matrix and momentum, by the names of a checkpoint's entries."""
        momentum = self.optimizer.state.get(self.weight, {}).get("momentum_buffer")
        state = {"generator": self.weight.detach(), "generator_has_momentum": momentum is not None}
        return state if momentum is None else {**state, "generator_momentum": momentum}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises ValueError if an entry is missing."""
        with torch.no_grad():
            self.weight.copy_(take(state, "generator"))
        if take(state, "generator_has_momentum"):
            momentum = take(state, "generator_momentum").to(self.weight).clone()
            self.optimizer.state[self.weight]["momentum_buffer"] = momentum
