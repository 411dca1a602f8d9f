# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
CRoFT as two mixins, one for a frozen model and one that trains with the encoders: feature adapters, the generator of
shifted features, and the terms of the combined objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.labels import check_class_indices, check_label_order
from ..data.prompts import check_class_names, check_templates, class_prompts
from ..data.randomness import choose
from ..modeling.adapters import FeatureAdapters, adapted_weights, ensemble_features, near_unit
from ..modeling.dual_encoder import DualEncoder
from ..modeling.feature_cache import class_lists
from ..modeling.features import ClipFeatures
from ..modeling.zero_shot import prompt_features
from .base import ObjectiveMixin, refuse_idle, refuse_other_texts, take
from .energy_gradient import (
    CRoFTSettings,
    FeatureShiftGenerator,
    JointCRoFTSettings,
    class_logits,
    energy_gradient_penalty,
    mixed_back,
    same_class_alignment,
    settle_adapter_settings,
)
from .settings import ObjectiveSettings

#: Settings of the generator's optimizer, and all that shifted features alone use.
_OF_GENERATOR = ("generator_learning_rate", "generator_momentum", "generator_weight_decay")
_OF_SHIFTS = ("shift_alignment_weight", "energy_gradient_shifted", "generator_steps", "generator_order", *_OF_GENERATOR)


@dataclass
class _Step:
    """The features of one batch, of all processes, as CRoFT names them."""

    labels: Tensor
    scale: Tensor
    image_embeds: Tensor  # a: adapted
    class_embeds: Tensor  # b: adapted
    image_rows: Tensor  # z: not adapted
    class_rows: Tensor  # w: not adapted
    shifted: Tensor | None = None  # c


class CRoFTObjective(ObjectiveMixin):
    """
    What [`FrozenEnergyGradientMixin`] and [`EnergyGradientMixin`] share (CRoFT, Zhu et al., ICML 2024): the terms
    `classification`, `shift_classification`, `shift_alignment` and `energy_gradient`, the feature adapters, the
    generator and its optimizer.

    Where image features do not end in a linear map (SigLIP's), texts alone are adapted by default, with `adapter_image_ratio=0`: the
    energy gradient is then that by the text adapter, and shifted features are classified as they are. With frozen encoders a
    ratio may be given: the image adapter then stays in `adapters.safetensors`, beside the weights.

    The loss is that of the global batch in every process, from gathered features: the energy gradient pools all rows
    before it is squared, so it is not a mean of the processes' own.

    Args:
        adapters ([`FeatureAdapters`], *optional*): Adapters to start from, such as those of `load_adapters`; by default
            new ones, the identity.
        class_names (`Sequence[str]`, *optional*), templates (`Sequence[str]`, *optional*): Where the training set has none.
        args (`Any`), kwargs (`Any`, *optional*): As for [`RobustTrainer`].

    Raises:
        ValueError: If there are no classes, the adapters do not fit the model, or a setting is impossible.
    """

    needs_labels = True
    label_lists: tuple[str, ...] = ()
    settings: type[ObjectiveSettings] = CRoFTSettings
    generator_loss: Tensor | None = None
    #: Whether an image adapter that no weight can take in may be kept beside the weights.
    keeps_image_adapter: bool = False

    def __init__(
        self,
        *args,
        adapters: FeatureAdapters | None = None,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        dim = self.encoder.embed_dim
        # Adapters are small and their second-order gradients delicate: never in half precision.
        dtype = torch.float64 if self.model.dtype == torch.float64 else torch.float32
        if adapters is None:
            adapters = FeatureAdapters(
                dim,
                image_ratio=self.args.adapter_image_ratio,
                text_ratio=self.args.adapter_text_ratio,
                text_adapter_order=self.args.text_adapter_order,
            )
        if tuple(adapters.image_adapter.shape) != (dim, dim):
            raise ValueError(
                f"The adapters have shape {tuple(adapters.image_adapter.shape)}, the model's embeddings dimension {dim}; "
                "give adapters of this model."
            )
        settle_adapter_settings(self.args, adapters)
        self._check_sides(self.args, self.encoder)
        adapted_weights(self.model, adapters)
        self.adapters = adapters.to(self.args.device, dtype)
        if not self.adapters.image_ratio and self.encoder.feature_maps[0] is None:
            # Shifted features pass through it whatever the ratio, and would move what no model has.
            self.adapters.image_adapter.requires_grad_(False)
        rates = self.args.generator_learning_rate, self.args.generator_momentum, self.args.generator_weight_decay
        self.generator = FeatureShiftGenerator(dim, *rates, dtype, self.args.device)
        self._n_classes, n_templates = self._take_classes(class_names, templates)
        if adapters.text_adapter_order == "after_ensemble" and n_templates > 1:
            raise ValueError(
                f"With `text_adapter_order='after_ensemble'` and {n_templates} templates the adapters cannot be merged into "
                "the model; use 'before_ensemble', or one template."
            )

    def _take_classes(self, class_names, templates) -> tuple[int, int]:
        """Settle the class prompts; returns the numbers of classes and templates."""
        for own in class_lists(self.train_dataset) if class_names else ():
            check_label_order(class_names, own, "`class_names=`", "the training set")
        class_names = class_names or getattr(self.train_dataset, "class_names", None)
        templates = templates or getattr(self.train_dataset, "templates", None)
        if not class_names or not templates or self.processing_class is None:
            raise ValueError(
                "CRoFT needs the classes: pass a labelled training set, or `class_names=` and `templates=`, with "
                "`processing_class=`."
            )
        self._classes = check_class_names(class_names), check_templates(templates)
        return len(self._classes[0]), len(self._classes[1])

    # ---- Settings ----------------------------------------------------------------------------------------------

    @staticmethod
    def _order(args) -> str:
        """`"reference"` where the adapters step with the generator, within a batch."""
        return "clean"

    @classmethod
    def check_settings(cls, args) -> None:
        super().check_settings(args)
        if not args.croft_weight:
            terms = ["energy_gradient_weight", "energy_gradient_reduction", "feature_shifts", *_OF_SHIFTS]
            reason = "`croft_weight=0` switches all of CRoFT's terms off; set a weight"
            refuse_idle(args, [*terms, "class_templates_per_step"], reason)
        if not args.feature_shifts:
            refuse_idle(args, _OF_SHIFTS, "`feature_shifts=False` makes no shifted features; switch them on")
        if not args.energy_gradient_weight:
            reason = "`energy_gradient_weight=0` switches the penalty off; set a weight"
            refuse_idle(args, ["energy_gradient_reduction"], reason)
        if not args.generator_steps:
            reason = "with `generator_steps=0` shifted features are only classified; let the generator step"
            refuse_idle(args, ["shift_alignment_weight", "energy_gradient_shifted"], reason)
            if cls._order(args) == "clean":
                # In the reference order the loss moves the generator too.
                refuse_idle(args, _OF_GENERATOR, reason)
        if not args.adapter_text_ratio:
            reason = "`adapter_text_ratio=0` leaves the text side as it is; set a share"
            refuse_idle(args, ["text_adapter_order"], reason)

    @classmethod
    def model_defaults(cls, encoder: DualEncoder) -> dict[str, Any]:
        without = {} if encoder.feature_maps[0] is not None else {"adapter_image_ratio": 0.0}
        return {**super().model_defaults(encoder), **without}

    @classmethod
    def check_model(cls, args, encoder: DualEncoder) -> None:
        super().check_model(args, encoder)
        cls._check_sides(args, encoder)

    @classmethod
    def _check_sides(cls, args, encoder: DualEncoder) -> None:
        images, texts = encoder.feature_maps
        if texts is None:
            raise ValueError(
                f"CRoFT's adapters are merged into linear maps, which text features of a {encoder.name} do not end in; use "
                "`--method covariance_anchor`, or `--method clip_adapter` for an adapter beside the encoders."
            )
        if images is None and args.adapter_image_ratio and not (cls.keeps_image_adapter and encoder.pools_images):
            raise ValueError(
                f"`adapter_image_ratio={args.adapter_image_ratio}` adapts image features, which of a {encoder.name} do not end in a "
                "linear map that the adapter could be merged into; set --adapter_image_ratio 0, or use `--method croft` or `clip_adapter`."
            )
        if images is None and not args.adapter_text_ratio:
            raise ValueError(f"`adapter_text_ratio=0`: of a {encoder.name} nothing but texts can be adapted; set a share.")

    def validate_arguments(self, args) -> None:
        super().validate_arguments(args)
        if args.croft_weight and args.learning_rate <= 0:
            raise ValueError(
                f"`learning_rate={args.learning_rate}` must be above 0; the generator's rate is scaled with it."
            )

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        self.generator.restart()

    # ---- Steps and terms ---------------------------------------------------------------------------------------

    def _class_prompts(self, features: ClipFeatures) -> Tensor:
        """Projected text features of the class prompts, of shape `(classes, templates, embed_dim)`; each subclass says whose."""
        raise NotImplementedError(f"{type(self).__name__} does not say where its class prompts are encoded.")

    def _begin_step(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> _Step:
        labels = batch.get("labels")
        if labels is None:
            raise ValueError("CRoFT needs `labels` in every batch; name the label column.")
        check_class_indices(labels, self._n_classes)
        images = self.gather_rows(features.image_features.to(self.adapters.image_adapter.dtype))
        prompts = self._class_prompts(features)
        return _Step(
            labels=self.gather_rows(labels.long()),
            scale=features.logit_scale,
            image_embeds=near_unit(self.adapters.adapt_images(images)),
            class_embeds=self.adapters.adapt_class_features(prompts),
            image_rows=near_unit(images),
            class_rows=near_unit(ensemble_features(prompts)),
        )

    def _shift_features(self, step: _Step) -> None:
        """Let the generator step, and shift the features of the batch with it."""
        reference = self._order(self.args) == "reference"
        # The generator follows the run's schedule. The optimizer holds the rate of this very step.
        self.generator.set_rate(self.rate_factor())
        images, classes, scale = step.image_embeds, step.class_embeds, step.scale
        if not reference:
            images, classes, scale = images.detach(), classes.detach(), scale.detach()
        for _ in range(self.args.generator_steps):
            loss = self.generator.loss(images, classes, step.labels, scale, self.args.shift_alignment_weight)
            # In the reference order the graph of the adapted features is used by every repetition and by the loss:
            # the adapters' gradients are those at the start of the step, applied to adapters that move on.
            loss.backward(retain_graph=reference, inputs=None if reference else [self.generator.weight])
            if reference:
                self.optimizer.step()
                self.adapters.zero_grad()
            self.generator.step()
            self.generator_loss = loss.detach()
        shifted = self.generator(images)
        step.shifted = shifted if reference else shifted.detach()

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        args, step = self.args, None
        if args.croft_weight:
            step = self._begin_step(features, batch)
            if args.feature_shifts:
                # Before other objectives look at adapters that are about to move.
                self._shift_features(step)
        terms = super().loss_terms(features, batch)
        if step is None:
            return terms
        logits = class_logits(step.image_embeds, step.class_embeds, step.scale)
        croft = {"classification": F.cross_entropy(logits, step.labels)}
        rows = step.image_rows
        if step.shifted is not None:
            shifted = step.shifted
            if args.energy_gradient_shifted and args.generator_steps:
                shifted = mixed_back(shifted, self.adapters.image_adapter, self.adapters.image_ratio)
                if args.shift_alignment_weight:
                    alignment = same_class_alignment(step.shifted, step.image_rows, step.labels)
                    croft["shift_alignment"] = -args.shift_alignment_weight * alignment
                rows = torch.cat([rows, step.shifted])
            croft["shift_classification"] = F.cross_entropy(
                class_logits(shifted, step.class_embeds, step.scale), step.labels
            )
        if args.energy_gradient_weight:
            penalty = energy_gradient_penalty(
                rows,
                step.class_rows,
                self.adapters.image_adapter,
                self.adapters.text_adapter,
                self.adapters.image_ratio,
                self.adapters.text_ratio,
                args.energy_gradient_reduction,
            )
            croft["energy_gradient"] = args.energy_gradient_weight * penalty
        terms.update({name: args.croft_weight * value for name, value in croft.items()})
        return terms

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {**super().trainable_modules(), "adapters": self.adapters}

    def own_parameters(self) -> list[nn.Parameter]:
        return [*super().own_parameters(), self.generator.weight]

    # ---- State and export --------------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        state = super().extra_state()
        state["adapter_ratios"] = [self.adapters.image_ratio, self.adapters.text_ratio]
        state.update(self.generator.state())
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        ratios = [self.adapters.image_ratio, self.adapters.text_ratio]
        if take(state, "adapter_ratios") != ratios:
            raise ValueError(
                f"The checkpoint's adapters mix with ratios {state['adapter_ratios']}, this run's with {ratios}; resume "
                "with the settings that wrote the checkpoint."
            )
        self.generator.load_state(state)

    def log_values(self) -> dict[str, float]:
        values = super().log_values()
        if self.generator_loss is not None:
            values["generator/loss"] = self.generator_loss.item()
        return values

    def exported_parameters(self, exact: bool = False) -> dict[str, Tensor]:
        return super().exported_parameters(exact) | self.adapters.effective_projections(self.model, exact)

    def exported_image_adapter(self) -> Tensor | None:
        return self.adapters.kept_image_matrix(self.model)

    def save_extras(self, directory: str) -> None:
        super().save_extras(directory)
        if self.args.export_weights == "teacher" and not self._saving_checkpoint:
            # The file would undo the merging of the student's weights, and these are the teacher's.
            return
        self.adapters.save_pretrained(directory, self.model)


class FrozenEnergyGradientMixin(CRoFTObjective):
    """
    CRoFT itself: only the adapters train, on image features that are computed without gradient or were cached
    (`cache_features`).

    Args:
        class_features (`torch.Tensor` of shape `(classes, templates, embed_dim)`, *optional*): Projected text features
            before normalisation, instead of class names.
        args (`Any`), kwargs (`Any`, *optional*): As for [`RobustTrainer`]; `adapters`, `class_names` and `templates` as for
            [`CRoFTObjective`].

    Raises:
        ValueError: As [`CRoFTObjective`].
    """

    trains_model = False
    keeps_image_adapter = True

    def __init__(self, *args, class_features: Tensor | None = None, **kwargs):
        self._prompt_features = class_features
        super().__init__(*args, **kwargs)

    def _take_classes(self, class_names, templates) -> tuple[int, int]:
        given = self._prompt_features
        if given is None:
            return super()._take_classes(class_names, templates)
        dim = len(self.generator.weight)
        if given.ndim != 3 or given.shape[-1] != dim:
            raise ValueError(f"`class_features` of shape {tuple(given.shape)} must be (classes, templates, {dim}).")
        self._prompt_features = given.to(self.generator.weight)
        return given.shape[0], given.shape[1]

    @staticmethod
    def _order(args) -> str:
        return "clean" if args.generator_order == "clean" else "reference"

    def validate_arguments(self, args) -> None:
        super().validate_arguments(args)
        if self._order(args) == "clean" or not args.feature_shifts:
            return
        if args.gradient_accumulation_steps > 1:
            raise ValueError(
                f"`gradient_accumulation_steps={args.gradient_accumulation_steps}`: in the reference order the adapters "
                "step within each batch; set it to 1, or --generator_order clean."
            )
        if args.fp16:
            raise ValueError("The reference order steps without a loss scaler; use bf16 or --generator_order clean.")

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        if self._prompt_features is None:
            features = prompt_features(self.model, self.processing_class, *self._classes, sharded=True)
            self._prompt_features = features.to(self.generator.weight)

    def _class_prompts(self, features: ClipFeatures) -> Tensor:
        return self._prompt_features

    def after_optimizer_step(self) -> None:
        super().after_optimizer_step()
        # The authors' loss moves the generator too. In the clean order it has no gradient, and stays.
        self.generator.step()


class EnergyGradientMixin(CRoFTObjective):
    """
    CRoFT's terms for encoders that train too, combined with any other objective: our own extension.

    Class embeddings are encoded again in each step, the objectives beside it see adapted embeddings, and the generator
    steps alone, on detached features (`generator_order="clean"`). Arguments and errors as for [`CRoFTObjective`].
    """

    settings: type[ObjectiveSettings] = JointCRoFTSettings

    def _take_classes(self, class_names, templates) -> tuple[int, int]:
        shape = super()._take_classes(class_names, templates)
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        tokens = tokenizer(class_prompts(*self._classes), padding=True, truncation=True, return_tensors="pt")
        self._prompt_ids = tokens["input_ids"].view(*shape, -1).to(self.args.device)
        return shape

    def validate_arguments(self, args) -> None:
        super().validate_arguments(args)
        if args.generator_order == "reference":
            raise ValueError(
                "`generator_order='reference'` steps the adapters under a graph that is used again, which trainable "
                "encoders do not survive; use 'clean', or train adapters alone with `CRoFTTrainer`."
            )

    def extra_texts(self) -> Tensor | None:
        if not self.args.croft_weight:
            return super().extra_texts()
        refuse_other_texts(self, super().extra_texts())
        n_classes, n_templates, _ = self._prompt_ids.shape
        if not self.args.class_templates_per_step:
            return self._prompt_ids.flatten(0, 1)
        chosen = torch.tensor(
            [
                choose(n_templates, seed=self.args.seed, epoch=self.optimizer_steps, index=row, what="class prompt")
                for row in range(n_classes)
            ],
            device=self._prompt_ids.device,
        )
        return self._prompt_ids[torch.arange(n_classes, device=chosen.device), chosen]

    def adapt_features(self, features: ClipFeatures) -> ClipFeatures:
        features = super().adapt_features(features)
        dtype = self.adapters.image_adapter.dtype
        images = self.adapters.adapt_images(features.image_features.to(dtype))
        adapted = replace(features, image_embeds=F.normalize(images, dim=-1))
        if features.text_embeds is not None:
            adapted.text_embeds = F.normalize(self.adapters.adapt_texts(features.text_embeds.to(dtype)), dim=-1)
        return adapted

    def _class_prompts(self, features: ClipFeatures) -> Tensor:
        prompts = features.extra_text_features.to(self.adapters.image_adapter.dtype)
        return prompts.view(self._n_classes, -1, prompts.shape[-1])
