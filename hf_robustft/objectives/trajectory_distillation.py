# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""TRACER's distillation: the in-batch distributions and the features of the student follow those of its teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..modeling.dual_encoder import DualEncoder
from ..modeling.features import ClipFeatures
from .pairwise_sigmoid import pairwise_sigmoid_divergence
from .settings import WEIGHT, ObjectiveSettings, setting
from .teacher import TeacherMixin
from .trained_parts import refuse_without_effect, trained_sides


def batch_softmax_distillation(student: ClipFeatures, teacher: ClipFeatures) -> Tensor:
    """
    How far the student's in-batch distributions are from the teacher's, the mean of both directions ("contrastive
    relational distillation" of TRACER, Asadollahzadeh et al., ICML 2026).

    `½ mean_i [KL(p_T(.|i) || p_S(.|i))]` over images plus the same over captions, each model at its own logit scale. The
    half is the authors' code's; the paper's equation 23 has none. Its gradient is half that of
    [`~hf_robustft.objectives.self_distillation.self_distillation_loss`], from which the teacher's entropy is not subtracted.

    Args:
        student ([`ClipFeatures`]): Of the rows of this process, with the columns of all.
        teacher ([`ClipFeatures`]): The teacher's. No gradient flows to it.

    Returns:
        `torch.Tensor`: Scalar, 0 where the two are the same.
    """

    def divergence(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        wanted = teacher_logits.detach().log_softmax(dim=1)
        return F.kl_div(student_logits.log_softmax(dim=1), wanted, reduction="batchmean", log_target=True)

    per_image = divergence(student.logits_per_image, teacher.logits_per_image)
    per_text = divergence(student.logits_per_text, teacher.logits_per_text)
    return (per_image + per_text) / 2


def feature_distillation(student: ClipFeatures, teacher: ClipFeatures) -> Tensor:
    """
    Mean squared error of the student's unit features against the teacher's, images plus captions (TRACER).

    The mean is over rows and dimensions, as in the authors' code, to which the published weight of 2,000 belongs; the
    paper's equation 20 sums over dimensions.

    Args:
        student ([`ClipFeatures`]): Of the rows of this process.
        teacher ([`ClipFeatures`]): The teacher's. No gradient flows to it.

    Returns:
        `torch.Tensor`: Scalar, 0 where the two are the same.
    """
    images = F.mse_loss(student.image_embeds, teacher.image_embeds.detach())
    return images + F.mse_loss(student.text_embeds, teacher.text_embeds.detach())


@dataclass
class TrajectoryDistillationSettings(ObjectiveSettings):
    """Distillation of in-batch distributions and of features (TRACER)."""

    batch_distillation_weight: float = setting(
        1.0, "Weight of matching in-batch distributions.", paper=0.9, range=WEIGHT
    )
    feature_distillation_weight: float = setting(
        2000.0, "Weight of matching unit features (mean squared error).", paper=1800, range=WEIGHT
    )


class TrajectoryDistillationMixin(TeacherMixin):
    """
    Adds the terms `batch_distillation` (weight `batch_distillation_weight`: [`batch_softmax_distillation`]) and
    `feature_distillation` (`feature_distillation_weight`: [`feature_distillation`]). For models with SigLIP's loss the former
    is [`~hf_robustft.objectives.pairwise_sigmoid.pairwise_sigmoid_divergence`].

    The paper has two more terms, which change nothing in its ablation (shifted accuracy of 64.06 instead of 64.08) and are
    left out. The weights of the authors' scripts are 1 and 2,000, times a common 0.9.
    """

    settings: type[ObjectiveSettings] = TrajectoryDistillationSettings
    distillation_weights = ("batch_distillation_weight", "feature_distillation_weight")

    @classmethod
    def check_model(cls, args, encoder: DualEncoder) -> None:
        super().check_model(args, encoder)
        if args.feature_distillation_weight and not trained_sides(cls, args, encoder):
            refuse_without_effect(args, "feature_distillation_weight", "the features of images and captions")

    def distillation_terms(self, features: ClipFeatures, teacher: ClipFeatures) -> dict[str, Tensor]:
        terms, args = super().distillation_terms(features, teacher), self.args
        if args.batch_distillation_weight:
            if self.encoder.similarity == "sigmoid":
                distillation = pairwise_sigmoid_divergence(features.logits_per_image, teacher.logits_per_image)
            else:
                distillation = batch_softmax_distillation(features, teacher)
            terms["batch_distillation"] = args.batch_distillation_weight * distillation
        if args.feature_distillation_weight:
            distillation = feature_distillation(features, teacher)
            terms["feature_distillation"] = args.feature_distillation_weight * distillation
        return terms
