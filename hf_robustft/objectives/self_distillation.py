# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CaRot's self-distillation: the student's in-batch distributions follow those of its teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..modeling.features import ClipFeatures
from .pairwise_sigmoid import pairwise_sigmoid_distillation_loss
from .settings import WEIGHT, ObjectiveSettings, setting
from .teacher import TeacherMixin


def self_distillation_loss(
    student_logits_per_image: Tensor,
    teacher_logits_per_image: Tensor,
    student_logits_per_text: Tensor | None = None,
    teacher_logits_per_text: Tensor | None = None,
) -> Tensor:
    """
    Cross-entropy of the student's in-batch distributions under the teacher's, summed over both directions
    (CaRot, Oh et al., NeurIPS 2024).

    `mean_i [-Σ_j p_T(j|i) log p_S(j|i)]` over images plus the same over captions: not halved, the teacher's entropy
    not subtracted, no temperature beyond each model's own logit scale.

    Args:
        student_logits_per_image (`torch.Tensor` of shape `(rows, global_batch)`): Scaled similarities of images to
            captions, with the student's logit scale.
        teacher_logits_per_image (`torch.Tensor` of the same shape):
            The teacher's, with its own scale. No gradient flows to it.
        student_logits_per_text (`torch.Tensor`, *optional*), teacher_logits_per_text (`torch.Tensor`, *optional*):
            Captions to images; default to the transposes, which exist only where the batch is whole.

    Returns:
        `torch.Tensor`: Scalar.

    Raises:
        ValueError: If the shapes differ, or a transpose is needed of a part of the matrix.
    """
    if student_logits_per_image.shape != teacher_logits_per_image.shape:
        raise ValueError(
            "Student and teacher must score the same pairs, got logits of shape "
            f"{tuple(student_logits_per_image.shape)} and {tuple(teacher_logits_per_image.shape)}."
        )
    if student_logits_per_text is None or teacher_logits_per_text is None:
        rows, columns = student_logits_per_image.shape
        if rows != columns:
            raise ValueError(
                f"{rows} rows of {columns} columns are a part of the batch; "
                "pass student_logits_per_text and teacher_logits_per_text too."
            )
        student_logits_per_text = student_logits_per_image.t()
        teacher_logits_per_text = teacher_logits_per_image.t()
    per_image = F.cross_entropy(student_logits_per_image, teacher_logits_per_image.detach().softmax(dim=1))
    per_text = F.cross_entropy(student_logits_per_text, teacher_logits_per_text.detach().softmax(dim=1))
    return per_image + per_text


@dataclass
class SelfDistillationSettings(ObjectiveSettings):
    """Self-distillation (CaRot)."""

    distillation_weight: float = setting(
        1.5, "Weight of self-distillation; 0 makes no teacher.", paper=1.5, range=WEIGHT
    )


class SelfDistillationMixin(TeacherMixin):
    """
    Adds the term `self_distillation` (weight `distillation_weight`): [`self_distillation_loss`] from the teacher, or, for
    models with SigLIP's loss, [`~hf_robustft.objectives.pairwise_sigmoid.pairwise_sigmoid_distillation_loss`].
    """

    settings: type[ObjectiveSettings] = SelfDistillationSettings
    distillation_weights = ("distillation_weight",)

    def distillation_terms(self, features: ClipFeatures, teacher: ClipFeatures) -> dict[str, Tensor]:
        terms, weight = super().distillation_terms(features, teacher), self.args.distillation_weight
        if not weight:
            return terms
        if self.encoder.similarity == "sigmoid":
            loss = pairwise_sigmoid_distillation_loss(features.logits_per_image, teacher.logits_per_image)
        else:
            loss = self_distillation_loss(
                features.logits_per_image,
                teacher.logits_per_image,
                features.logits_per_text,
                teacher.logits_per_text,
            )
        return {**terms, "self_distillation": weight * loss}
