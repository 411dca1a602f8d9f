# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
An anchor for the spread of image features, whatever map they end in: their covariance stays near that of the teacher's.

CaRot bounds the error under shift by the smallest singular value of the covariance of image features, and raises it by a
constraint on the projection, which must be their last map and linear. This holds the covariance itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..modeling.dual_encoder import DualEncoder, at_least_float32
from ..modeling.features import ClipFeatures
from .settings import WEIGHT, ObjectiveSettings, setting
from .teacher import TeacherMixin
from .trained_parts import refuse_without_effect, trained_sides


def covariance(embeds: Tensor) -> Tensor:
    """
    Covariance of a batch of features, `1/B Σ_i (v_i - v̄)(v_i - v̄)ᵀ`.

    Args:
        embeds (`torch.Tensor` of shape `(batch, embed_dim)`): The features.

    Returns:
        `torch.Tensor` of shape `(embed_dim, embed_dim)`, in float32 (float64 for float64 features) whatever autocast says.
    """
    with torch.autocast(embeds.device.type, enabled=False):
        centred = at_least_float32(embeds)
        centred = centred - centred.mean(dim=0)
        return centred.t() @ centred / len(centred)


def covariance_anchor_loss(image_embeds: Tensor, teacher_image_embeds: Tensor) -> Tensor:
    """
    Distance of the covariance of the student's image features from that of the teacher's, `||Cov(v) - Cov(v_T)||_F`.

    The norm is not squared, as CaRot's. In a batch smaller than their dimension both covariances have singular values of 0;
    those of one batch can be compared nonetheless.

    Args:
        image_embeds (`torch.Tensor` of shape `(global_batch, embed_dim)`): Unit-norm embeddings of the whole batch: the
            covariance of a part is not a part of the covariance.
        teacher_image_embeds (`torch.Tensor` of the same shape): The teacher's. No gradient flows to them.

    Returns:
        `torch.Tensor`: Scalar, at most √2; its gradient is zero, not NaN, where the two are the same.

    Raises:
        ValueError: If the shapes differ.
    """
    if image_embeds.shape != teacher_image_embeds.shape or image_embeds.ndim != 2:
        raise ValueError(
            "The covariance anchor needs image embeddings of student and teacher of one shape (batch, embed_dim), "
            f"got {tuple(image_embeds.shape)} and {tuple(teacher_image_embeds.shape)}."
        )
    return torch.linalg.matrix_norm(covariance(image_embeds) - covariance(teacher_image_embeds.detach()))


@dataclass
class CovarianceAnchorSettings(ObjectiveSettings):
    """The anchor of the image features' covariance."""

    covariance_anchor_weight: float = setting(
        1.0, "Weight of the distance of the image features' covariance from the teacher's.", range=WEIGHT
    )


class CovarianceAnchorMixin(TeacherMixin):
    """
    Adds the term `covariance_anchor` (weight `covariance_anchor_weight`): [`covariance_anchor_loss`] from the teacher.

    Every process computes it of the global batch, from gathered features. It is our own, in no paper: what CaRot's constraint
    is for, said of the features, so that it is defined for every model.

    The default weight gives it about the say of CaRot's constraint: of the norms of all terms' gradients it has 8 % on average
    over the first 90 steps from the packaged checkpoint on Emoji Shift (5 to 11 %, by `log_gradient_shares`), where
    orthogonality has 10 % (7 to 15 %) at its published weight.
    """

    settings: type[ObjectiveSettings] = CovarianceAnchorSettings
    distillation_weights = ("covariance_anchor_weight",)

    @classmethod
    def check_model(cls, args, encoder: DualEncoder) -> None:
        super().check_model(args, encoder)
        if args.covariance_anchor_weight and "image" not in trained_sides(cls, args, encoder):
            refuse_without_effect(args, "covariance_anchor_weight", "the features of images")

    def distillation_terms(self, features: ClipFeatures, teacher: ClipFeatures) -> dict[str, Tensor]:
        terms, weight = super().distillation_terms(features, teacher), self.args.covariance_anchor_weight
        if not weight:
            return terms
        both = ([f.image_embeds, f.all_image_embeds] for f in (features, teacher))
        loss = covariance_anchor_loss(*(rows if columns is None else columns for rows, columns in both))
        return {**terms, "covariance_anchor": weight * loss}
