# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CRoFT's settings, and its objective: energy, the energy-gradient regulariser, worst-case feature shifts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling.adapters import FeatureAdapters, near_unit
from .base import take
from .settings import SHARE, WEIGHT, ObjectiveSettings, Range, setting

#: Where the energy gradient is taken: the adapters plus this constant (the authors' code).
OFFSET = 1e-4
REDUCTIONS = ("sum", "mean")


@dataclass
class CRoFTSettings(ObjectiveSettings):
    """The feature adapters, shifted features and the energy gradient (CRoFT; paper values are those of its code)."""

    adapter_image_ratio: float = setting(
        0.2,
        "Share of the adapted in the mixed image features; 0 leaves them as they are, and is the default for SigLIP, whose image "
        "features end in no linear map: above 0 its adapter (croft alone) stays in adapters.safetensors, which Transformers does "
        "not read.",
        paper=0.2,
        range=SHARE,
    )
    adapter_text_ratio: float = setting(
        0.5, "Share of the adapted in the mixed text features; 0 leaves them as they are.", paper=0.5, range=SHARE
    )
    text_adapter_order: str = setting(
        "before_ensemble",
        "When text features are adapted: those of each prompt, 'before_ensemble' (merges exactly into the model), or their "
        "mean, 'after_ensemble' (the authors' code for several templates; one template only, for want of a merge).",
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
        1.0, "Weight of the alignment of shifted features (lambda1) with those given, class by class.", paper=1, range=WEIGHT
    )
    energy_gradient_shifted: bool = setting(
        True,
        "Pool shifted features in the energy gradient; they are mixed back through the adapter then (the authors' code: not "
        "for VLCS).",
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
        "What the steps of the generator move: the adapters too, as in the authors' code ('reference', frozen encoders only), "
        "or the generator alone, on detached features ('clean'). 'auto' is the first where encoders are frozen.",
        paper="reference",
        choices=["auto", "reference", "clean"],
    )
    generator_learning_rate: float = setting(
        0.002, "Peak learning rate of the generator's SGD; it follows the run's schedule.", paper=0.002, range=WEIGHT
    )
    generator_momentum: float = setting(0.9, "Momentum of the generator's SGD.", paper=0.9, range=SHARE)
    generator_weight_decay: float = setting(0.1, "Weight decay of the generator's SGD.", paper=0.1, range=WEIGHT)


@dataclass
class JointCRoFTSettings(CRoFTSettings):
    """What CRoFT has beside encoders that train."""

    class_templates_per_step: int = setting(
        1,
        "Prompts of each class that are encoded in a step, with encoders that train: 1 (drawn again each time) or 0 (all "
        "templates).",
        range=Range("must be 1 (one prompt per class, drawn again in each step) or 0 (all templates)", high=1, whole_from=0),
    )


def energy(logits: Tensor) -> Tensor:
    """
    The log-partition of class logits, `log Σ_k exp(logits_k)`: larger for in-distribution images.

    The energy of the literature is its negative; the sign here is that of CRoFT's code and of every score in
    `evaluation.open_set`.

    Args:
        logits (`torch.Tensor` of shape `(batch, classes)`): At the model's learned logit scale.

    Returns:
        `torch.Tensor` of shape `(batch,)`.
    """
    return torch.logsumexp(logits, dim=-1)


def class_logits(image_embeds: Tensor, class_embeds: Tensor, logit_scale: Tensor) -> Tensor:
    """`logit_scale * image_embeds @ class_embeds.T`, of shape `(batch, classes)`."""
    return logit_scale * image_embeds @ class_embeds.t()


def same_class_alignment(first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
    """
    Similarity of two sets of features within classes, averaged over all pairs of rows (other classes count as 0).

    Args:
        first, second (`torch.Tensor` of shape `(batch, embed_dim)`): Features; row i of both has label i.
        labels (`torch.Tensor` of shape `(batch,)`): Class indices.

    Returns:
        `torch.Tensor`: Scalar, the mean over all batch² pairs, the pair (i, i) included.

    Raises:
        ValueError: If the three do not have as many rows.
    """
    if first.shape != second.shape or labels.shape != first.shape[:1]:
        raise ValueError(
            f"Features of shape {tuple(first.shape)} and {tuple(second.shape)} need one label a row, "
            f"got labels of shape {tuple(labels.shape)}."
        )
    same = labels[:, None] == labels[None, :]
    return (same * (first @ second.t())).mean()


def shifted_features(image_embeds: Tensor, generator: Tensor) -> Tensor:
    """
    Covariate-shifted image features `u(a G + a)`, unit up to 1e-6 in the norm (CRoFT, Zhu et al., ICML 2024).

    Args:
        image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Adapted unit features `a`.
        generator (`torch.Tensor` of shape `(embed_dim, embed_dim)`): `G`, applied from the right, not transposed.

    Returns:
        `torch.Tensor` of shape `(batch, embed_dim)`.
    """
    return near_unit(image_embeds @ generator + image_embeds)


def feature_shift_loss(
    shifted: Tensor,
    image_embeds: Tensor,
    class_embeds: Tensor,
    labels: Tensor,
    logit_scale: Tensor,
    alignment_weight: float = 1.0,
) -> Tensor:
    """
    What the generator descends: shifted features keep their class and leave the features of that class
    (CRoFT, Zhu et al., ICML 2024).

    `CE(s c bᵀ, y) + alignment_weight * same_class_alignment(c, a, y)`. Nothing is detached here.

    Args:
        shifted (`torch.Tensor` of shape `(batch, embed_dim)`): `c`, of [`shifted_features`].
        image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): `a`, which they were made from.
        class_embeds (`torch.Tensor` of shape `(classes, embed_dim)`): `b`, adapted class embeddings.
        labels (`torch.Tensor` of shape `(batch,)`): Class indices `y`.
        logit_scale (`torch.Tensor`, scalar): `s`, already exponentiated.
        alignment_weight (`float`, *optional*, defaults to 1.0): The paper's lambda1.

    Returns:
        `torch.Tensor`: Scalar.
    """
    classification = F.cross_entropy(class_logits(shifted, class_embeds, logit_scale), labels)
    if not alignment_weight:
        return classification
    return classification + alignment_weight * same_class_alignment(shifted, image_embeds, labels)


def mixed_back(shifted: Tensor, image_adapter: Tensor, image_ratio: float) -> Tensor:
    """
    Shifted features through the adapter as the authors' code has it: `r c + (1 - r) c A`.

    The ratios are swapped and the adapter is not transposed, as against the model's forward; no normalisation.

    Args:
        shifted (`torch.Tensor` of shape `(batch, embed_dim)`): `c`.
        image_adapter (`torch.Tensor` of shape `(embed_dim, embed_dim)`): `A`.
        image_ratio (`float`): `r`.

    Returns:
        `torch.Tensor` of shape `(batch, embed_dim)`.
    """
    return image_ratio * shifted + (1 - image_ratio) * (shifted @ image_adapter)


def energy_gradient(
    image_rows: Tensor,
    class_rows: Tensor,
    image_adapter: Tensor,
    text_adapter: Tensor,
    image_ratio: float = 0.2,
    text_ratio: float = 0.5,
    reduction: str = "sum",
) -> Tensor:
    """
    Gradient of the pooled `exp(cosine)` by a shift that both adapters share, in the finite-shift construction of the
    authors' code (CRoFT, Zhu et al., ICML 2024).

    One matrix `delta`, 1e-4 in every entry, is added to both adapters; `exp(cosine)` of all image rows and classes is
    pooled and differentiated by `delta`. There is neither a logarithm nor a logit scale, and `delta` being shared, the
    gradients of both sides add up.

    Args:
        image_rows (`torch.Tensor` of shape `(rows, embed_dim)`): Unit image features before the adapter, with the
            shifted ones below them.
        class_rows (`torch.Tensor` of shape `(classes, embed_dim)`): Unit class features before the adapter.
        image_adapter, text_adapter (`torch.Tensor` of shape `(embed_dim, embed_dim)`): Applied from the right, not
            transposed, as the authors' code does here (and only here).
        image_ratio, text_ratio (`float`, *optional*, default to 0.2 and 0.5): Mixing ratios.
        reduction (`str`, *optional*, defaults to `"sum"`): Pool by the `"sum"` or the `"mean"` over rows and classes.

    Returns:
        `torch.Tensor` of shape `(embed_dim, embed_dim)`: Differentiable again, by both adapters and by whatever the rows
        came from.

    Raises:
        ValueError: If the reduction is unknown or the shapes do not fit.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"`reduction={reduction!r}` is unknown; choose one of {', '.join(REDUCTIONS)}.")
    dim = image_rows.shape[-1]
    shapes = [tuple(matrix.shape) for matrix in (image_adapter, text_adapter)]
    if class_rows.shape[-1] != dim or shapes != [(dim, dim)] * 2:
        raise ValueError(
            f"Image rows have dimension {dim}, class rows {class_rows.shape[-1]}, adapters {shapes[0]} and {shapes[1]}; "
            "all must be of one dimension."
        )
    # The gradient by delta is what is asked for, under no_grad too.
    with torch.enable_grad():
        delta = torch.full_like(image_adapter, OFFSET).requires_grad_()
        images = near_unit(image_ratio * (image_rows @ (image_adapter + delta)) + (1 - image_ratio) * image_rows)
        classes = near_unit(text_ratio * (class_rows @ (text_adapter + delta)) + (1 - text_ratio) * class_rows)
        similarity = (images @ classes.t()).exp()
        pooled = similarity.sum() if reduction == "sum" else similarity.mean()
        return torch.autograd.grad(pooled, delta, create_graph=True)[0]


def energy_gradient_penalty(
    image_rows: Tensor,
    class_rows: Tensor,
    image_adapter: Tensor,
    text_adapter: Tensor,
    image_ratio: float = 0.2,
    text_ratio: float = 0.5,
    reduction: str = "sum",
) -> Tensor:
    """
    The energy-gradient regulariser: the squared [`energy_gradient`], reduced (CRoFT, Zhu et al., ICML 2024).

    `image_rows`, `class_rows`, `image_adapter`, `text_adapter`, `image_ratio`, `text_ratio` and errors are those of
    [`energy_gradient`]. With `reduction="sum"` the penalty is the mean of the squared gradient of the sum (the authors'
    ImageNet set-up), with `"mean"` the sum of the squared gradient of the mean (PACS, VLCS), which is smaller by
    `(rows * classes / embed_dim)²`.

    Returns:
        `torch.Tensor`: Scalar.
    """
    rows = image_rows, class_rows, image_adapter, text_adapter
    squared = energy_gradient(*rows, image_ratio, text_ratio, reduction).square()
    return squared.mean() if reduction == "sum" else squared.sum()


class FeatureShiftGenerator(nn.Module):
    """
    CRoFT's generator (Zhu et al., ICML 2024): one matrix, started from the identity, and its SGD.

    Args:
        embed_dim (`int`): Size of the features.
        learning_rate, momentum, weight_decay (`float`): Of its SGD; the rate is the peak of the run's schedule.
        dtype (`torch.dtype`, *optional*), device (`torch.device`, *optional*): Of the matrix.
    """

    def __init__(
        self,
        embed_dim: int,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(embed_dim, dtype=dtype, device=device))
        self.learning_rate = learning_rate
        self._options = {"lr": learning_rate, "momentum": momentum, "weight_decay": weight_decay}
        self.restart()

    def restart(self) -> None:
        """Back to the identity, without momentum."""
        with torch.no_grad():
            self.weight.copy_(torch.eye(len(self.weight)))
        self.optimizer = torch.optim.SGD([self.weight], **self._options)

    def set_rate(self, factor: float) -> None:
        """Use `factor` times the peak learning rate from now on."""
        self.optimizer.param_groups[0]["lr"] = self.learning_rate * factor

    def forward(self, image_embeds: Tensor) -> Tensor:
        """Shifted features of shape `(batch, embed_dim)`, see [`shifted_features`]."""
        return shifted_features(image_embeds, self.weight)

    def loss(self, image_embeds, class_embeds, labels, logit_scale, alignment_weight: float) -> Tensor:
        """What the generator descends, see [`feature_shift_loss`]."""
        shifted = self(image_embeds)
        return feature_shift_loss(shifted, image_embeds, class_embeds, labels, logit_scale, alignment_weight)

    def step(self) -> None:
        """An optimizer step; without a gradient nothing moves, weight decay included."""
        self.optimizer.step()
        self.zero_grad()

    def state(self) -> dict[str, Any]:
        """Matrix and momentum, by the names of a checkpoint's entries."""
        momentum = self.optimizer.state.get(self.weight, {}).get("momentum_buffer")
        state = {"generator": self.weight.detach(), "generator_has_momentum": momentum is not None}
        return state if momentum is None else {**state, "generator_momentum": momentum}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave. Raises ValueError if an entry is missing."""
        with torch.no_grad():
            self.weight.copy_(take(state, "generator"))
        if take(state, "generator_has_momentum"):
            momentum = take(state, "generator_momentum").to(self.weight).clone()
            self.optimizer.state[self.weight]["momentum_buffer"] = momentum


def settle_adapter_settings(args: Any, adapters: FeatureAdapters) -> None:
    """
    The adapters mix as they were made to; the arguments, and with them the card, say the same or refuse.

    Args:
        args ([`RobustTrainingArguments`]): Settings of the run, which are changed.
        adapters ([`FeatureAdapters`]): Those of the run.

    Raises:
        ValueError: If another mixture was asked for.
    """
    taken = {}
    for argument, of_adapters in (
        ("adapter_image_ratio", adapters.image_ratio),
        ("adapter_text_ratio", adapters.text_ratio),
        ("text_adapter_order", adapters.text_adapter_order),
    ):
        asked = getattr(args, argument)
        if asked == of_adapters:
            continue
        if argument in args.given:
            raise ValueError(
                f"`{argument}={asked}` was asked for, but the adapters that were given are made for {of_adapters}; "
                f"leave `{argument}` out, or start from other adapters."
            )
        taken[argument] = of_adapters
    if taken:
        args.suggest(taken, "the adapters that were given")
        warnings.warn(
            f"The adapters that were given set {', '.join(f'{name}={value}' for name, value in taken.items())}.",
            stacklevel=4,
        )
