# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CaRot's constraint on the visual projection, which raises the smallest singular value of the image features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..modeling.dual_encoder import PROJECTION_WEIGHTS, DualEncoder
from ..modeling.features import ClipFeatures
from ..modeling.spread_weights import full_tensor
from .base import ObjectiveMixin
from .settings import WEIGHT, ObjectiveSettings, setting
from .trained_parts import parts_to_train

_WEIGHTS = ("orthogonality_weight", "cross_frobenius_weight")


def _full_precision(weight: Tensor) -> Tensor:
    # Of a weight that FSDP2 spreads over processes a part would give the penalty of a part.
    weight = full_tensor(weight)
    return weight if weight.dtype == torch.float64 else weight.float()


def orthogonality_penalty(visual_projection: Tensor) -> Tensor:
    """
    Distance of a projection from having orthonormal rows, `||W Wᵀ - I||_F` (CaRot, Oh et al., NeurIPS 2024).

    The norm is not squared, as in the authors' code, to which the published weight of 0.2 belongs.

    Args:
        visual_projection (`torch.Tensor` of shape `(embed_dim, width)`):
            The weight as `nn.Linear` stores it; OpenAI's checkpoints hold its transpose.

    Returns:
        `torch.Tensor`: Scalar, float32 (float64 for a float64 weight) whatever autocast says. At an orthonormal
        matrix its gradient is zero, not NaN.

    Raises:
        ValueError: If the weight is not a matrix.
    """
    if visual_projection.ndim != 2:
        raise ValueError(
            f"`visual_projection` must be a matrix (embed_dim, width), got shape {tuple(visual_projection.shape)}."
        )
    with torch.autocast(visual_projection.device.type, enabled=False):
        weight = _full_precision(visual_projection)
        identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        return torch.linalg.matrix_norm(weight @ weight.t() - identity)


def cross_frobenius_penalty(visual_projection: Tensor, text_projection: Tensor) -> Tensor:
    """
    Norm of the product of the two projections, `||W_vᵀ W_t||_F` (a term of CaRot's published commands).

    Args:
        visual_projection (`torch.Tensor` of shape `(embed_dim, vision_width)`): As `nn.Linear` stores it.
        text_projection (`torch.Tensor` of shape `(embed_dim, text_width)`): As `nn.Linear` stores it.

    Returns:
        `torch.Tensor`: Scalar, not squared, in float32 (float64 for float64 weights) whatever autocast says.

    Raises:
        ValueError: If the two do not share their embedding dimension.
    """
    if visual_projection.ndim != 2 or text_projection.ndim != 2 or len(visual_projection) != len(text_projection):
        raise ValueError(
            "The projections must be matrices with one embedding dimension, "
            f"got {tuple(visual_projection.shape)} and {tuple(text_projection.shape)}."
        )
    with torch.autocast(visual_projection.device.type, enabled=False):
        product = _full_precision(visual_projection).t() @ _full_precision(text_projection)
        return torch.linalg.matrix_norm(product)


@dataclass
class SingularValueSettings(ObjectiveSettings):
    """The constraint on the projections (CaRot)."""

    orthogonality_weight: float = setting(
        0.2, "Weight of the (un-squared) norm of W Wᵀ - I of the visual projection.", paper=0.2, range=WEIGHT
    )
    cross_frobenius_weight: float = setting(
        0.05, "Weight of the norm of the projections' product.", paper=0.05, range=WEIGHT
    )


class SingularValueMixin(ObjectiveMixin):
    """
    Adds the terms `orthogonality` (weight `orthogonality_weight`) and `cross_frobenius` (`cross_frobenius_weight`).

    Both depend on the weights alone, so they are the same in every process and need no gathering.
    """

    settings: type[ObjectiveSettings] = SingularValueSettings

    @classmethod
    def model_defaults(cls, encoder: DualEncoder) -> dict[str, Any]:
        # A term beside others, such as TRACER's, has no meaning there. The constraint is what a method is for.
        without = {} if cls._has_projections(encoder) else {"cross_frobenius_weight": 0.0}
        return {**super().model_defaults(encoder), **without}

    @staticmethod
    def _has_projections(encoder: DualEncoder) -> bool:
        return encoder.visual_projection is not None and encoder.text_projection is not None

    @classmethod
    def check_model(cls, args, encoder: DualEncoder) -> None:
        super().check_model(args, encoder)
        for name in _WEIGHTS:
            if getattr(args, name) and not cls._has_projections(encoder):
                raise ValueError(
                    f"`{name}={getattr(args, name)}` constrains linear projections, which a {encoder.name} does not end in; use "
                    f"`--method covariance_anchor`, which holds the spread of the image features themselves, or set it to 0 (`--{name} 0`)."
                )
        weights = [f"{name}={getattr(args, name):g}" for name in _WEIGHTS if getattr(args, name)]
        if weights and "projections" not in parts_to_train(cls, args):
            raise ValueError(
                f"`train={args.train}` freezes the projections, on which `{'` and `'.join(weights)}` {'acts' if len(weights) == 1 else 'act'}; "
                f"name projections too, or set {' and '.join(name.partition('=')[0] for name in weights)} to 0."
            )

    def validate_arguments(self, args) -> None:
        super().validate_arguments(args)
        if args.orthogonality_weight and not self.encoder.visual_projection.requires_grad:
            raise ValueError(
                f"`orthogonality_weight={args.orthogonality_weight}` constrains the visual projection, which is frozen; "
                "let it train, or set the weight to 0."
            )

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = super().loss_terms(features, batch)
        if not (self.args.cross_frobenius_weight or self.args.orthogonality_weight):
            return terms
        # With adapters in front of it, the projection that the exported model will have is the one to constrain.
        parameters = self.exported_parameters()
        visual, text = (parameters[name] for name in PROJECTION_WEIGHTS)
        if self.args.cross_frobenius_weight:
            penalty = cross_frobenius_penalty(visual, text)
            terms["cross_frobenius"] = self.args.cross_frobenius_weight * penalty
        if self.args.orthogonality_weight:
            terms["orthogonality"] = self.args.orthogonality_weight * orthogonality_penalty(visual)
        return terms
