# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The contract between an objective and the Trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..modeling.dual_encoder import DualEncoder
from ..modeling.features import ClipFeatures
from ..modeling.kept_adapter import carrying
from ..modeling.spread_weights import exchanged, is_sharded, placed_like, whole_copy
from ..modeling.trained_parts import PARTS
from .settings import ObjectiveSettings

if TYPE_CHECKING:
    from ..modeling.zero_shot import ZeroShotHead


class ObjectiveMixin:
    """
    Base of every objective mixin, and the end of every chain.

    A method is a class that lists its objectives before `RobustTrainer`:

    ```python
    class CaRotTrainer(SelfDistillationMixin, SingularValueMixin, ContrastiveMixin, RobustTrainer): ...
    ```

    A mixin implements any of the methods below and always calls `super()` (cooperatively), so that objectives
    combine in any number. It may read `self.args`, `self.model` (never wrapped), `self.state`,
    `self.optimizer_steps` (real optimizer steps so far: those that a loss scaler skipped do not count) and `self.is_resuming`
    (whether a checkpoint will be loaded after `prepare_training`), encode a batch with another model through
    `self.encode_global(model, batch)`, look at what was given to train on (`self.training_images`, a `datasets.Dataset` as the
    [`Benchmark`] that it becomes), have all training images encoded by `self.embed_training_images()`, and use the exported
    model within `self.exported_weights()`. It never names another mixin.

    Attributes:
        needs_captions (`bool`, defaults to `False`):
            Whether the objective needs caption embeddings. If no objective of a method does, captions are not encoded.
        needs_labels (`bool`, defaults to `False`):
            Whether the objective learns from class labels. If one of a method does, captions alone are refused.
        trains_model (`bool`, defaults to `True`):
            Whether the model trains. Otherwise the Trainer freezes it, encodes batches in eval mode without gradient,
            and takes cached features.
        trained_parts (`tuple[str, ...]`, defaults to all):
            Parts of the model (see `modeling.trained_parts`) that the objective can train, if the model trains.
        smooths_labels (`bool`, defaults to `False`): Whether the objective uses `label_smoothing_factor`.
        fixed_length (`bool`, defaults to `False`): Whether a resumed run must have the steps that it was planned with.
        label_lists (`tuple[str, ...]`, *optional*):
            The kinds of models, by their `similarity` (`"softmax"`, `"sigmoid"`), that the objective can train on images with
            lists of labels. `None` has no say; a method needs one objective that can, and none that cannot.
        multi_label (`bool`, defaults to `False`): Whether a run learns from lists of labels. The Trainer sets it.
        settings (subclass of [`ObjectiveSettings`], *optional*):
            The dataclass of the settings that the objective reads, beside those of every run. A setting that was given
            is refused by methods of which no objective declares it.
        idle_settings (`tuple[str, ...]`):
            Settings that do nothing for a method, although every run or one of its objectives has them.
        head ([`ZeroShotHead`], *optional*):
            A trained classification head that evaluation uses instead of class prompts.
        searches_head (`bool`, defaults to `False`):
            Whether numbers of the head are still to be chosen on validation images when the run is finished.
        head_is_given (`bool`, defaults to `False`): Whether the user gave that head.
        classes (`tuple`, *optional*): The class names and the prompt templates, each a tuple of `str`.
    """

    needs_captions: bool = False
    needs_labels: bool = False
    trains_model: bool = True
    trained_parts: tuple[str, ...] = PARTS
    smooths_labels: bool = False
    fixed_length: bool = False
    label_lists: tuple[str, ...] | None = None
    multi_label: bool = False
    settings: type[ObjectiveSettings] | None = None
    idle_settings: tuple[str, ...] = ()
    head: ZeroShotHead | None = None
    searches_head: bool = False
    head_is_given: bool = False
    classes: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    # ---- Before a run, in this order ---------------------------------------------------------------------------

    @classmethod
    def check_settings(cls, args: Any) -> None:
        """
        Refuse given settings that other settings make idle (see [`refuse_idle`]). Called before anything is loaded, also
        by the command line, and first of all when a Trainer is made.

        Args:
            args ([`RobustTrainingArguments`]): Settings of the run, with the method's defaults.
        """

    @classmethod
    def model_defaults(cls, encoder: DualEncoder) -> dict[str, Any]:
        """
        Settings that a model asks for where nobody gives them. Called when a Trainer is made, first of all.

        Args:
            encoder ([`DualEncoder`]): The model.

        Returns:
            `dict[str, Any]`: By name; they come before the method's own `defaults`.
        """
        return {}

    @classmethod
    def check_model(cls, args: Any, encoder: DualEncoder) -> None:
        """
        Refuse a model that lacks what the objective needs. Called when a Trainer is made, after `check_settings`, and by the
        command line before data are opened.

        Args:
            args ([`RobustTrainingArguments`]): Settings of the run, with the method's defaults.
            encoder ([`DualEncoder`]): The model; its weights may be on the meta device.
        """

    @classmethod
    def check_label_lists(cls, args: Any, encoder: DualEncoder, captioned: bool) -> None:
        """
        Refuse settings that images with lists of labels leave no sense to, and set what they ask for. Called when a Trainer is
        made for such images, and by the command line once data are opened, before weights are read.

        Args:
            args ([`RobustTrainingArguments`]): Settings of the run, with the method's defaults.
            encoder ([`DualEncoder`]): The model; its weights may be on the meta device.
            captioned (`bool`): Whether images have captions of their own, which say nothing of classes.
        """

    def validate_arguments(self, args: Any) -> None:
        """
        Refuse impossible settings. Called when a Trainer is made, before its data are looked at.

        Args:
            args ([`RobustTrainingArguments`]): Settings of the run, with the method's defaults.
        """

    def trainable_modules(self) -> dict[str, nn.Module]:
        """
        Modules beside the model that the Trainer's optimizer trains and its checkpoints hold. Called many times, and
        always with the same answer.

        Returns:
            `dict[str, nn.Module]`: By name.
        """
        return {}

    def own_parameters(self) -> list[nn.Parameter]:
        """Parameters that the objective steps itself; their gradients count in `gradient_share/<term>`."""
        return []

    def prepare_training(self, total_steps: int) -> None:
        """
        Begin a run. Called by each `train()`, after the initial weights are loaded and before a checkpoint's extra state.

        Args:
            total_steps (`int`): Optimizer steps of the run.
        """

    def frozen_models(self) -> dict[str, nn.Module]:
        """
        Frozen copies of the model that an objective keeps. Called after `prepare_training`, to spread them over processes
        with the model, and whenever weights are exported.

        Returns:
            `dict[str, nn.Module]`: By name; the one that `export_weights` names is exported in the student's place.
        """
        return {}

    # ---- In each step, in this order ---------------------------------------------------------------------------

    def extra_texts(self) -> Tensor | None:
        """
        Texts to encode with the batch. Called before each forward pass of the student. There is one table of them: an objective that has
        texts refuses those of another ([`refuse_other_texts`]).

        Returns:
            `torch.Tensor` of shape `(texts, length)`, *optional*: Token ids; their features are
            `features.extra_text_features`.
        """
        return None

    def adapt_features(self, features: ClipFeatures) -> ClipFeatures:
        """
        Change the student's features for all objectives. Called after each forward pass, before features are gathered.

        Args:
            features ([`ClipFeatures`]): Of the batch of this process.
        """
        return features

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """
        The terms of the loss. Called once per batch; a mixin that steps with an optimizer of its own does so before it
        calls `super()`.

        Args:
            features ([`ClipFeatures`]): Of the batch of this process, with the columns of all.
            batch (`Mapping[str, torch.Tensor]`): What the collator made.

        Returns:
            `dict[str, torch.Tensor]`: Weighted scalars by name. A weight of 0 computes nothing and returns no term.
        """
        return {}

    def exported_parameters(self, exact: bool = False) -> dict[str, Tensor]:
        """
        The student's parameters as they are exported. Called by objectives that act on these, and by every export.

        Args:
            exact (`bool`, *optional*, defaults to `False`):
                Whether to give the very bits that are saved, without gradient. Otherwise they come with gradient, as
                fast as a step needs them.

        Returns:
            `dict[str, torch.Tensor]`: By name.
        """
        return dict(self.model.named_parameters())

    def exported_image_adapter(self) -> Tensor | None:
        """
        What image features of the exported model go through that no weight can take in. Called by every export.

        Returns:
            `torch.Tensor` of shape `(embed_dim, embed_dim)`, *optional*: It is saved beside the weights by `save_extras`.
        """
        return None

    def after_optimizer_step(self) -> None:
        """Follow the new weights. Called once per real optimizer step."""

    def log_values(self) -> dict[str, float]:
        """Numbers to log beside the losses, by name. Called with each log entry."""
        return {}

    # ---- In checkpoints and exports ----------------------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint must hold to continue exactly: tensors and JSON values, by name. Called by each checkpoint."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """
        Take back what `extra_state` gave. Called when a run is resumed, and when its best checkpoint is loaded.

        Args:
            state (`Mapping[str, Any]`): What `extra_state` of all objectives gave, by name.

        Raises:
            ValueError: If a name is missing (see [`take`]); a silent restart would be another run.
        """

    def save_extras(self, directory: str) -> None:
        """
        Write files that belong beside the weights. Called with the folder of each checkpoint and each export.

        Args:
            directory (`str`): The folder.
        """

    # ---- Not to be overridden ----------------------------------------------------------------------------------

    @property
    def encoder(self) -> DualEncoder:
        """The parts of `self.model`."""
        return DualEncoder.of(self.model)

    @contextmanager
    def plain_model(self) -> Iterator[None]:
        """
        Take out of `self.model`, as long as the context lasts, what only trains it: it is as a model of its class is, named and
        saved as one. An objective that puts something in extends this, and merges it meanwhile.
        """
        yield

    @contextmanager
    def exported_weights(self) -> Iterator[nn.Module]:
        """
        The model with the weights that `save_model` writes; all processes must ask for it.

        Yields:
            `self.model`, which has them for as long as the context lasts, or another one. Before a run that is to export
            a frozen copy, the two are the same.
        """
        source = self.frozen_models().get(getattr(self.args, "export_weights", "student"), self.model)
        with self.plain_model():
            model = whole_copy(source) if is_sharded(source) else source
            changed, own, adapter = {}, dict(self.model.named_parameters()), None
            if source is self.model:
                adapter = self.exported_image_adapter()
                changed = {n: v for n, v in self.exported_parameters(exact=True).items() if v is not own[n]}
            held = dict(model.named_parameters())
            with exchanged([held[name] for name in changed], list(changed.values())), carrying(model, adapter):
                yield model


def refuse_idle(args: Any, names: Iterable[str], reason: str) -> None:
    """
    Refuse settings that were given and would do nothing.

    Args:
        args ([`~hf_robustft.RobustTrainingArguments`]): Settings of the run.
        names (`Iterable[str]`): Of the settings that would do nothing.
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


def refuse_other_texts(objective: ObjectiveMixin, texts: Tensor | None) -> None:
    """
    Refuse the `texts` of another objective beside those of an `objective`, which would take them for its own.

    Raises:
        ValueError: If there are any.
    """
    if texts is not None:
        owners = [cls.__name__ for cls in type(objective).__mro__ if "extra_texts" in vars(cls) and cls is not ObjectiveMixin]
        raise ValueError(
            f"{' and '.join(owners)} each have texts of their own encoded with the batch, and there is one table of them; leave one of the "
            "objectives out, or set its weight to 0."
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
