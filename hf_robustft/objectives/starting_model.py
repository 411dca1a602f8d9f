# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What objectives that hold on to the model of the start have in common: a frozen copy of it, in every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.features import ClipFeatures
from ..modeling.spread_weights import placed_like, whole_copy
from .base import ObjectiveMixin, take


class StartingModelMixin(ObjectiveMixin):
    """
    Keeps the model as it was when training began, frozen and in eval mode, if `needs_start` says so.

    Checkpoints hold those of its weights that train. A resumed run could read them from the base model instead, but the
    Trainer of that run may have been given another model, and would go on with another objective without a word.
    """

    start: nn.Module | None = None

    def needs_start(self) -> bool:
        """Whether any objective compares with the model of the start. An objective that does so extends the answer."""
        return False

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        self.start = None
        if self.needs_start():
            with self.exported_weights() as model:
                self.start = whole_copy(model).eval().requires_grad_(False)

    def start_features(self, batch: Mapping[str, Tensor]) -> ClipFeatures:
        """The features that the model of the start gives for a `batch`, without gradient."""
        with torch.no_grad():
            return self.encode_global(self.start, batch)

    def start_weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The weights that the model is exported with, as far as they train, by name, each with what it was at the start."""
        if self.start is None:
            return {}
        held = dict(self.start.named_parameters())
        with torch.enable_grad():
            exported = self.exported_parameters()
        return {name: (p, placed_like(held[name], p)) for name, p in exported.items() if p.requires_grad}

    def frozen_models(self) -> dict[str, nn.Module]:
        return {**super().frozen_models(), **({} if self.start is None else {"start": self.start})}

    def extra_state(self) -> dict[str, Any]:
        return super().extra_state() | {f"start.{name}": start for name, (_, start) in self.start_weights().items()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        for name in self.start_weights():
            held = self.start.get_parameter(name)
            held.copy_(placed_like(take(state, f"start.{name}"), held))
