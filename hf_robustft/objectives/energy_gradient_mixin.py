# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CRoFT as a mixin: feature adapters, the generator of shifted features, and the terms of the combined objective."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.prompts import check_class_names, check_templates, class_prompts
from ..data.randomness import choose
from ..modeling.adapters import FeatureAdapters, ensemble_features, merged_projections, near_unit
from ..modeling.feature_cache import feature_fingerprints, image_fingerprint
from ..modeling.features import ClipFeatures
from ..modeling.zero_shot import prompt_features
from .base import ObjectiveMixin, refuse_idle, take
from .energy_gradient import class_logits, energy_gradient_penalty, mixed_back, same_class_alignment
from .feature_shift import FeatureShiftGenerator
from .settings import SHARE, WEIGHT, ObjectiveSettings, Range, setting

#: Settings of the generator's optimizer, and all that shifted features alone use.
_OF_GENERATOR = ("generator_learning_rate", "generator_momentum", "generator_weight_decay")
_OF_SHIFTS = ("shift_alignment_weight", "energy_gradient_shifted", "generator_steps", "generator_order", *_OF_GENERATOR)


@dataclass
class CRoFTSettings(ObjectiveSettings):
    """The feature adapters, shifted features and the energy gradient (CRoFT; paper values are those of its code)."""

    adapter_image_ratio: float = setting(
        0.2, "Share of the adapted in the mixed image features; 0 leaves them as they are.", paper=0.2, range=SHARE
    )
    adapter_text_ratio: float = setting(
        0.5, "Share of the adapted in the mixed text features; 0 leaves them as they are.", paper=0.5, range=SHARE
    )
    text_adapter_order: str = setting(
        "before_ensemble",
        "Adapt the feature of each prompt, 'before_ensemble' (merges exactly into a CLIPModel), or 'after_ensemble' (the "
        "authors' code for several templates; one template only, for want of a merge).",
        choices=["before_ensemble", "after_ensemble"],
    )
    croft_weight: float = setting(
        1.0, "Weight of all of CRoFT's terms beside other objectives; 0 switches them off.", range=WEIGHT
    )
    energy_gradient_weight: float = setting(
        5.0, "Weight of the energy-gradient penalty (lambda2).", paper=5, range=WEIGHT
    )
    energy_gradient_reduction: str = setting(
        "sum",
        "Pooling of the energy gradient: 'sum' (the authors' ImageNet set-up) or 'mean' (PACS, VLCS; smaller by orders of "
        "magnitude, with weights up to 1000).",
        paper="sum",
        choices=["sum", "mean"],
    )
    feature_shifts: bool = setting(True, "Learn worst-case shifted features and train on them.", paper=True)
    shift_alignment_weight: float = setting(
        1.0, "Weight of the alignment of shifted and given features of a class (lambda1).", paper=1, range=WEIGHT
    )
    energy_gradient_shifted: bool = setting(
        True,
        "Pool shifted features in the energy gradient, and mix them back through the adapter (the authors' code: not for "
        "VLCS).",
        paper=True,
    )
    generator_steps: int = setting(
        1,
        "Steps of the generator of shifted features in each batch.",
        paper=1,
        range=Range("must be 0 or more steps per batch", whole_from=0),
    )
    generator_order: str = setting(
        "auto",
        "'reference' (the authors' code, whose inner steps move the adapters too; frozen encoders only), 'clean' (the "
        "generator steps alone, on detached features), or 'auto': the first where encoders are frozen.",
        paper="reference",
        choices=["auto", "reference", "clean"],
    )
    generator_learning_rate: float = setting(
        0.002, "Peak learning rate of the generator's SGD; it follows the run's schedule.", paper=0.002, range=WEIGHT
    )
    generator_momentum: float = setting(0.9, "Momentum of the generator's SGD.", paper=0.9, range=SHARE)
    generator_weight_decay: float = setting(0.1, "Weight decay of the generator's SGD.", paper=0.1, range=WEIGHT)
    class_templates_per_step: int = setting(
        1,
        "With encoders that train: prompts of each class that are encoded in a step, 1 (drawn again each time) or 0 (all "
        "templates).",
        range=Range("must be 1 (one prompt per class, drawn again in each step) or 0 (all templates)", high=1, whole_from=0),
    )


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


class EnergyGradientMixin(ObjectiveMixin):
    """
    CRoFT (Zhu et al., ICML 2024): adds the terms `classification`, `shift_classification`, `shift_alignment` and
    `energy_gradient`, and owns the feature adapters, the generator and its optimizer.

    The loss is that of the global batch in every process, from gathered features: the energy gradient pools all rows
    before it is squared, so it is no mean of the processes' own.

    With `freezes_model` (CRoFT itself) only the adapters train, on image features that are computed without gradient
    or were cached (`cache_features`). Without it the encoders train too and the mixin combines with any other
    objective, our own extension: class embeddings are then encoded anew in each step, the objectives beside it see
    adapted embeddings, and the generator steps alone on detached features (`generator_order="clean"`).

    Args:
        adapters ([`FeatureAdapters`], *optional*): Adapters to start from, such as those of `load_adapters`; by default
            new ones, the identity.
        class_names, templates (sequences of `str`, *optional*): Where the training set has none.
        class_features (`torch.Tensor` of shape `(classes, templates, embed_dim)`, *optional*): Projected text features
            before normalisation, instead of class names; frozen model only.

    Raises:
        ValueError: If there are no classes, the adapters do not fit the model, or a setting is impossible.
    """

    settings = CRoFTSettings
    freezes_model = False
    generator_loss: Tensor | None = None

    def __init__(
        self,
        *args,
        adapters: FeatureAdapters | None = None,
        class_names: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        class_features: Tensor | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        dim, weight = self.model.config.projection_dim, self.model.visual_projection.weight
        # Adapters are small and their second-order gradients delicate: never in half precision.
        dtype = weight.dtype if weight.dtype == torch.float64 else torch.float32
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
        self._settle_adapter_settings(adapters)
        self.adapters = adapters.to(self.args.device, dtype)
        rates = self.args.generator_learning_rate, self.args.generator_momentum, self.args.generator_weight_decay
        self.generator = FeatureShiftGenerator(dim, *rates, dtype, self.args.device)
        self._step: _Step | None = None
        if self.freezes_model:
            self.model.requires_grad_(False)
        self._prompt_features = None
        if class_features is not None:
            if class_features.ndim != 3 or class_features.shape[-1] != dim or not self.freezes_model:
                raise ValueError(
                    f"`class_features` of shape {tuple(class_features.shape)} must be (classes, templates, {dim}), "
                    "and the model frozen."
                )
            self._prompt_features = class_features.to(self.args.device, dtype)
            n_classes, n_templates = class_features.shape[:2]
        else:
            n_classes, n_templates = self._tokenize_prompts(class_names, templates)
        self._n_classes = n_classes
        if adapters.text_adapter_order == "after_ensemble" and n_templates > 1:
            raise ValueError(
                f"With `text_adapter_order='after_ensemble'` and {n_templates} templates the adapters cannot be merged into "
                "a CLIPModel; use 'before_ensemble', or one template."
            )
        for made_by in feature_fingerprints(self.train_dataset):
            self._check_cached_features(made_by)

    def _settle_adapter_settings(self, adapters: FeatureAdapters) -> None:
        """The adapters mix as they were made to; the arguments, and with them the card, say the same or refuse."""
        taken = {}
        for argument, of_adapters in (
            ("adapter_image_ratio", adapters.image_ratio),
            ("adapter_text_ratio", adapters.text_ratio),
            ("text_adapter_order", adapters.text_adapter_order),
        ):
            asked = getattr(self.args, argument)
            if asked == of_adapters:
                continue
            if argument in self.args.given:
                raise ValueError(
                    f"`{argument}={asked}` was asked for, but the adapters that were given are made for {of_adapters}; "
                    f"leave `{argument}` out, or start from other adapters."
                )
            taken[argument] = of_adapters
        if taken:
            self.args.suggest(taken, "the adapters that were given")
            warnings.warn(
                f"The adapters that were given set {', '.join(f'{name}={value}' for name, value in taken.items())}.",
                stacklevel=3,
            )

    def _check_cached_features(self, made_by: str) -> None:
        if image_fingerprint(self.model) != made_by:
            raise ValueError(
                "The cached features were made by another model than the one to train; make them anew with `cache_features` "
                "and this model."
            )

    def _tokenize_prompts(self, class_names, templates) -> tuple[int, int]:
        class_names = class_names or getattr(self.train_dataset, "class_names", None)
        templates = templates or getattr(self.train_dataset, "templates", None)
        if not class_names or not templates or self.processing_class is None:
            raise ValueError(
                "CRoFT needs the classes: pass a labelled training set, or `class_names=` and `templates=`, with "
                "`processing_class=`."
            )
        class_names, templates = check_class_names(class_names), check_templates(templates)
        self._classes = class_names, templates
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        prompts = class_prompts(class_names, templates)
        tokens = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
        self._prompt_ids = tokens["input_ids"].view(len(class_names), len(templates), -1).to(self.args.device)
        return len(class_names), len(templates)

    # ---- Settings ----------------------------------------------------------------------------------------------

    @property
    def _order(self) -> str:
        if self.args.generator_order != "auto":
            return self.args.generator_order
        return "reference" if self.freezes_model else "clean"

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
            if not cls.freezes_model or args.generator_order == "clean":
                # In the reference order the loss moves the generator too.
                refuse_idle(args, _OF_GENERATOR, reason)
        if not args.adapter_text_ratio:
            reason = "`adapter_text_ratio=0` leaves the text side as it is; set a share"
            refuse_idle(args, ["text_adapter_order"], reason)

    def validate_arguments(self, args) -> None:
        super().validate_arguments(args)
        if args.generator_order == "reference" and not self.freezes_model:
            raise ValueError(
                "`generator_order='reference'` steps the adapters under a graph that is used again, which trainable "
                "encoders do not survive; use 'clean', or train adapters alone with `CRoFTTrainer`."
            )
        if args.croft_weight and args.learning_rate <= 0:
            raise ValueError(
                f"`learning_rate={args.learning_rate}` must be above 0; the generator's rate is scaled with it."
            )
        order = args.generator_order if args.generator_order != "auto" else "reference"
        if self.freezes_model and order == "reference" and args.feature_shifts:
            if args.gradient_accumulation_steps > 1:
                raise ValueError(
                    f"`gradient_accumulation_steps={args.gradient_accumulation_steps}`: in the reference order the adapters "
                    "step within each batch; set it to 1, or --generator_order clean."
                )
            if args.fp16:
                raise ValueError(
                    "The reference order steps without a loss scaler; use bf16 or --generator_order clean."
                )

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        self.generator.restart()
        if self.freezes_model and self._prompt_features is None:
            features = prompt_features(self.model, self.processing_class, *self._classes, sharded=True)
            self._prompt_features = features.to(self.generator.weight)

    # ---- Features ----------------------------------------------------------------------------------------------

    def encodes_without_gradient(self) -> bool:
        return self.freezes_model or super().encodes_without_gradient()

    def extra_texts(self) -> Tensor | None:
        if self.freezes_model or not self.args.croft_weight:
            return super().extra_texts()
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
        if self.freezes_model:
            return features
        dtype = self.adapters.image_adapter.dtype
        images = self.adapters.adapt_images(features.image_features.to(dtype))
        adapted = replace(features, image_embeds=F.normalize(images, dim=-1))
        if features.text_embeds is not None:
            adapted.text_embeds = F.normalize(self.adapters.adapt_texts(features.text_embeds.to(dtype)), dim=-1)
        return adapted

    def effective_projections(self) -> tuple[Tensor, Tensor]:
        return self.adapters.effective_projections(self.model)

    def exported_parameters(self) -> dict[str, Tensor]:
        parameters = dict(super().exported_parameters())
        visual, text = self.effective_projections()
        parameters["visual_projection.weight"], parameters["text_projection.weight"] = visual, text
        return parameters

    def _begin_step(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> _Step:
        labels = batch.get("labels")
        if labels is None:
            raise ValueError("CRoFT needs `labels` in every batch; name the label column.")
        dtype = self.adapters.image_adapter.dtype
        images = self.gather_rows(features.image_features.to(dtype))
        if self.freezes_model:
            prompts = self._prompt_features
        else:
            prompts = features.extra_text_features.to(dtype).view(self._n_classes, -1, images.shape[-1])
        return _Step(
            labels=self.gather_rows(labels),
            scale=features.logit_scale,
            image_embeds=near_unit(self.adapters.adapt_images(images)),
            class_embeds=self.adapters.adapt_class_features(prompts),
            image_rows=near_unit(images),
            class_rows=near_unit(ensemble_features(prompts)),
        )

    # ---- Steps and terms ---------------------------------------------------------------------------------------

    def before_loss(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> None:
        super().before_loss(features, batch)
        self._step = None
        if not self.args.croft_weight:
            return
        step = self._step = self._begin_step(features, batch)
        if not self.args.feature_shifts:
            return
        reference = self._order == "reference"
        # The generator follows the run's schedule. The optimizer holds the rate of this very step.
        self.generator.set_rate(self.rate_factor())
        if reference:
            images, classes, scale = step.image_embeds, step.class_embeds, step.scale
        else:
            images, classes, scale = step.image_embeds.detach(), step.class_embeds.detach(), step.scale.detach()
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
        terms = super().loss_terms(features, batch)
        step, args = self._step, self.args
        if step is None:
            return terms
        logits = class_logits(step.image_embeds, step.class_embeds, step.scale)
        croft = {"classification": F.cross_entropy(logits, step.labels)}
        rows = step.image_rows
        if step.shifted is not None:
            shifted = step.shifted
            if args.energy_gradient_shifted and args.generator_steps:
                shifted = mixed_back(shifted, self.adapters.image_adapter, self.adapters.image_ratio)
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

    def after_optimizer_step(self) -> None:
        super().after_optimizer_step()
        if self._order == "reference" and self._step is not None and self.args.feature_shifts:
            # The authors' loss moves the generator too.
            self.generator.step()
        self._step = None

    def trainable_modules(self) -> dict[str, nn.Module]:
        return {**super().trainable_modules(), "adapters": self.adapters}

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

    @contextmanager
    def exported_weights(self):
        with super().exported_weights() as model:
            if model is not self.model:
                # Other weights than the student's, which have the adapters in them.
                yield model
                return
            with merged_projections(model, self.adapters):
                yield model

    def export_state_dict(self) -> dict[str, Tensor] | None:
        chosen = super().export_state_dict()
        if chosen is not None:
            return chosen
        with merged_projections(self.model, self.adapters) as model:
            return {name: value.detach().clone() for name, value in model.state_dict().items()}

    def save_extras(self, directory: str) -> None:
        super().save_extras(directory)
        if self.args.export_weights == "teacher" and not self._saving_checkpoint:
            # The file would undo the merging of the student's weights, and these are the teacher's.
            return
        self.adapters.save_pretrained(directory, self.model)
