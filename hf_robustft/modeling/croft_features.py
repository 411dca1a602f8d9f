# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How CRoFT normalises features and averages those of a class."""

from __future__ import annotations

from torch import Tensor

from .zero_shot import class_embeddings

#: Added to the L2 norm before dividing by it, as CRoFT's code does.
EPSILON = 1e-6


def near_unit(features: Tensor) -> Tensor:
    """`features / (1e-6 + ||features||)` over the last dimension: CRoFT's normalisation; a zero vector stays zero."""
    return features / (EPSILON + features.norm(dim=-1, keepdim=True))


def ensemble_features(prompt_features: Tensor) -> Tensor:
    """
    One raw text feature per class, as CRoFT's code builds it before adapting.

    Args:
        prompt_features (`torch.Tensor` of shape `(classes, templates, embed_dim)`): Projected text features, not
            normalised.

    Returns:
        `torch.Tensor` of shape `(classes, embed_dim)`: With one template the feature itself, not normalised; with
        several the average of the unit features, of unit norm.

    Raises:
        ValueError: If `prompt_features` has another number of dimensions or no template.
    """
    check_prompts(prompt_features)
    return prompt_features[:, 0] if prompt_features.shape[1] == 1 else class_embeddings(prompt_features)


def check_prompts(prompt_features: Tensor) -> None:
    """Refuse `prompt_features` of another shape than `(classes, templates, embed_dim)`. Raises ValueError."""
    if prompt_features.ndim != 3 or prompt_features.shape[1] < 1:
        raise ValueError(
            f"Prompt features have the shape (classes, templates, embed_dim), got {tuple(prompt_features.shape)}; with "
            "one prompt per class add a dimension of size 1."
        )
