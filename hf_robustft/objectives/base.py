# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The contract between an objective and the Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..modeling.features import ClipFeatures
from ..modeling.sharding import placed_like
from .settings import ObjectiveSettings


class ObjectiveMixin:
    """
    Base of every objective mixin, and the end of every chain.

    A method is a class that lists its objectives before `RobustTrainer`:

    ```python
    class CaRotTrainer(SelfDistillationMixin, SingularValueMixin, ContrastiveMixin, RobustTrainer): ...
    ```

    A mixin implements any of the methods below and always calls `super()` (cooperatively), so that objectives
    combine in any number. It may read `self.args`, `self.model` (never wrapped), `self.state` and
    `self.optimizer_steps` (real optimizer steps so far: those that a loss scaler skipped do not count), and encode a
    batch with another model through `self.encode_global(model, batch)`. It never names another mixin.
    """

    #: Whether the objective needs caption embeddings. If no objective of a method does, captions are not encoded.
    needs_captions: bool = False
    #: Whether the objective uses `label_smoothing_factor`.
    smooths_labels: bool = False
    #: The dataclass of the settings that the objective reads, beside those of every run. A setting that was given is
    #: refused by methods of which no objective declares it.
    settings: type[ObjectiveSettings] | None = None
    #: Settings that do nothing for a method, although every run or one of its objectives has them.
    idle_settings: tuple[str, ...] = ()

    @classmethod
    def check_settings(cls, args) -> None:
        """Refuse given settings that other settings make idle; before anything is loaded. See `refuse_idle`."""

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Named, already weighted scalars of this batch. A weight of 0 computes nothing and returns no term."""
        return {}

    def encodes_without_gradient(self) -> bool:
        """Whether the model is frozen, so that batches are encoded in eval mode without gradient."""
        return False

    def extra_texts(self) -> Tensor | None:
        """Token ids `(texts, length)` to encode with the batch, as `features.extra_text_features`; or `None`."""
        return None

    def adapt_features(self, features: ClipFeatures) -> ClipFeatures:
        """The student's features as all objectives shall see them, before they are gathered."""
        return features

    def effective_projections(self) -> tuple[Tensor, Tensor]:
        """Weights of the visual and the text projection as they are exported, with gradient."""
        return self.model.visual_projection.weight, self.model.text_projection.weight

    def exported_parameters(self) -> dict[str, Tensor]:
        """The student's parameters as they are exported, by name."""
        return dict(self.model.named_parameters())

    def exported_weights(self):
        """
        A context manager that yields the model with the weights that `save_model` writes: `self.model`, which has them for
        as long as the context lasts, or another one.
        """
        return nullcontext(self.model)

    def before_loss(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> None:
        """Inner steps with an optimizer of the mixin's own, before the terms are computed."""

    def prepare_training(self, total_steps: int) -> None:
        """Once a run, after the initial weights are loaded and before a checkpoint's extra state is."""

    def after_optimizer_step(self) -> None:
        """Once per real optimizer step, with the new weights."""

    def trainable_modules(self) -> dict[str, nn.Module]:
        """Modules beside the model that the Trainer's optimizer trains and its checkpoints hold, by name."""
        return {}

    def frozen_copies(self) -> list[nn.Module]:
        """Frozen copies of the model that an objective keeps, to be spread over processes with the model."""
        return []

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint must hold to continue exactly: tensors and JSON values, by name."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `extra_state` gave. A missing name is an error, never a silent restart."""

    def log_values(self) -> dict[str, float]:
        """Numbers to log beside the losses."""
        return {}

    def validate_arguments(self, args) -> None:
        """Refuse impossible settings before anything is loaded or trained."""

    def evaluation_head(self):
        """A trained classification head that evaluation should use instead of class prompts, or `None`."""
        return None

    def export_state_dict(self) -> dict[str, Tensor] | None:
        """Weights to export instead of the student's, or `None`."""
        return None

    def save_extras(self, directory: str) -> None:
        """Write files that belong beside the exported weights."""


def refuse_idle(args: Any, names: Iterable[str], reason: str) -> None:
    """
    Refuse settings that were given and would do nothing.

    Args:
        args ([`~hf_robustft.RobustTrainingArguments`]): Settings of the run.
        names: Of the settings that would do nothing.
        reason (`str`): Why, and what to set instead.

    Raises:
        ValueError: If one of them was given.
    """
    for name in names:
        if name in args.given:
            value = getattr(args, name)
            raise ValueError(
                f"`{name}={getattr(value, 'value', value)}` was given and would do nothing: {reason}, or leave `{name}` out."
            )


def take(state: Mapping[str, Any], name: str) -> Any:
    """
    `state[name]`, or an error that says what a missing entry means.

    Raises:
        ValueError: If the checkpoint does not hold `name`.
    """
    if name not in state:
        raise ValueError(
            f"The checkpoint's robustft state has no `{name}`, so the run cannot be continued exactly; "
            "resume with the method and settings that wrote the checkpoint, or start a new run from its weights."
        )
    return state[name]


def take_module(state: Mapping[str, Any], prefix: str, module: nn.Module) -> None:
    """
    Load every parameter and buffer of `module` from the entries `<prefix>.<name>` of a state.

    Raises:
        ValueError: If an entry is missing or has another shape.
    """
    for name, value in module.state_dict().items():
        saved = take(state, f"{prefix}.{name}")
        if saved.shape != value.shape:
            raise ValueError(
                f"The checkpoint's `{prefix}.{name}` has shape {tuple(saved.shape)}, this model's {tuple(value.shape)}; "
                "resume with the base model that the checkpoint was trained from."
            )
        with torch.no_grad():
            value.copy_(placed_like(saved, value))
