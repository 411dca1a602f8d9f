# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CAR-FT: what the model of the start says of the context of an image (its style, its background) is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..modeling.features import ClipFeatures, logit_scale
from ..modeling.zero_shot import class_embeddings, prompt_features
from .settings import WEIGHT, ObjectiveSettings, setting
from .starting_model import StartingModelMixin


def context_embeddings(prompt_embeds: Tensor) -> Tensor:
    """
    The embedding of each prompt template, whatever the class: normalise each prompt, average over classes, normalise again.

    Args:
        prompt_embeds (`torch.Tensor` of shape `(classes, templates, embed_dim)`): Text embeddings, of any norm.

    Returns:
        `torch.Tensor` of shape `(templates, embed_dim)`: Rows of unit norm.
    """
    return class_embeddings(prompt_embeds.transpose(0, 1))


def context_distillation_loss(context_logits: Tensor, start_context_logits: Tensor) -> Tensor:
    """
    Mean Kullback-Leibler divergence of the context distributions of a batch from those of the model of the start,
    `mean_i Σ_k q₀(k|i) log(q₀(k|i) / q(k|i))` (CAR-FT, Mao et al., IJCV 2024).

    The direction is not verified in the text of the paper, which was not at hand; its abstract says that the divergence
    "between context distributions induced by original/fine-tuned CLIP models" is minimised.

    Args:
        context_logits (`torch.Tensor` of shape `(batch, templates)`): Scaled similarities of images to contexts.
        start_context_logits (`torch.Tensor` of the same shape): Those of the model of the start. No gradient flows to them.

    Returns:
        `torch.Tensor`: Scalar.
    """
    start = start_context_logits.detach().log_softmax(dim=1)
    return F.kl_div(context_logits.log_softmax(dim=1), start, reduction="batchmean", log_target=True)


def check_contexts(templates: Sequence[str]) -> None:
    """Refuse fewer than two prompt `templates`, which are the contexts. Raises ValueError then."""
    if len(templates) < 2:
        raise ValueError(
            f"The contexts of CAR-FT are the prompt templates, and there is only one, {templates[0]!r}; give more "
            "(`--templates`, a file of them or imagenet-80), or set `context_weight` to 0, which is `--method ft`."
        )


@dataclass
class ContextDistillationSettings(ObjectiveSettings):
    """The contexts of images, distilled from the model of the start (CAR-FT)."""

    context_weight: float = setting(
        1.0,
        "Weight of the divergence from the context distributions of the start. 1 is recalled, not verified, as the paper's.",
        range=WEIGHT,
    )


class ContextDistillationMixin(StartingModelMixin):
    """
    Adds the term `context` (weight `context_weight`).

    Contexts are the prompt templates, averaged over the classes; they need at least two. The text tower must not train: its
    embeddings are computed once.

    Raises:
        ValueError: If class names, templates or the tokenizer are missing, or there is one template.
    """

    settings: type[ObjectiveSettings] = ContextDistillationSettings
    _contexts: Tensor | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not self.args.context_weight:
            return
        if self.classes is None or self.processing_class is None:
            raise ValueError(
                "The contexts of CAR-FT are the prompt templates: pass `class_names=`, `templates=` and `processing_class=`, "
                "also beside `head=`."
            )
        check_contexts(self.classes[1])

    def needs_start(self) -> bool:
        return bool(self.args.context_weight) or super().needs_start()

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        if self.args.context_weight:
            prompts = prompt_features(self.model, self.processing_class, *self.classes, sharded=True)
            self._contexts = context_embeddings(prompts)

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = super().loss_terms(features, batch)
        if self.args.context_weight:
            scaled_contexts = logit_scale(self.start) * self._contexts
            images = features.image_embeds, self.start_features(batch).image_embeds
            loss = context_distillation_loss(*(embeds @ scaled_contexts.t() for embeds in images))
            terms["context"] = self.args.context_weight * loss
        return terms
