# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Probabilities of each class by itself, of models that were trained with a sigmoid, and their calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ..modeling.dual_encoder import DualEncoder
from ..modeling.features import logit_bias
from ..modeling.zero_shot import ZeroShotHead
from .multi_label import check_targets
from .temperature import TemperatureScaling

#: What makes probabilities of logits, under the names that Transformers' image classification pipeline has for it.
FUNCTIONS = ("softmax", "sigmoid")


def pair_logits(model: nn.Module, logits: Tensor) -> Tensor:
    """
    What a model was trained to give the sigmoid of, for a pair of an image and a caption: `logits + logit bias`.

    Args:
        model ([`~transformers.PreTrainedModel`]): A model of a sigmoid family, possibly wrapped.
        logits (`torch.Tensor` of shape `(n, classes)`): Its scaled similarities without the bias, as `collect_logits` and the
            zero-shot head give them.

    Returns:
        `torch.Tensor` of shape `(n, classes)`, in float64 on the CPU.
    """
    return logits.detach().cpu().double() + logit_bias(model).detach().cpu().double()


#: A folded bias may be moved by this much through rounding, which changes odds by as large a share.
_ROUNDING = 1e-3


class PlattScaling(TemperatureScaling):
    """
    Calibrated probabilities of each class by itself, `sigmoid(logits / T + bias)` (Platt 1999).

    As with a temperature alone the order of the classes stays the same. One model cannot have both: a temperature that is
    right for the softmax over classes is another than this one. It is fitted to be folded into weights, and not stored
    otherwise.

    Args:
        temperature (`float`, *optional*, defaults to 1.0): T, by which logits are divided.
        bias (`float`, *optional*, defaults to 0.0): What is then added to them.

    Attributes:
        bias (`float`): As given or fitted.
        n, nll_before, nll_after: As of [`TemperatureScaling`], but the likelihood is the mean over pairs of image and class.

    Raises:
        ValueError: If the temperature is not a positive number.
    """

    def __init__(self, temperature: float = 1.0, bias: float = 0.0):
        super().__init__(temperature)
        self.bias = bias

    def fit(self, logits: Tensor, labels: Tensor) -> PlattScaling:
        """
        Set temperature and bias to those that minimise the mean negative log-likelihood of pairs of image and class.

        That is logistic regression with one feature and without a penalty, by scikit-learn. Targets are not smoothed as Platt
        did for a few dozen examples.

        Args:
            logits (`torch.Tensor` of shape `(n, classes)`): Of in-distribution validation images, with the logit bias in them
                (see [`pair_logits`]).
            labels (`torch.Tensor` of shape `(n,)` or `(n, classes)`): Integer class indices; or whether each image has each
                label, 0 or 1.

        Returns:
            [`PlattScaling`]: Itself.

        Raises:
            ValueError: If the shapes disagree, a label is not a class, a logit is not finite, or no minimum keeps the order of the
                classes: one logit parts all right pairs from all wrong ones, all pairs are of one kind, or right pairs have no
                higher logits than wrong ones.
        """
        # Here, since importing it takes a second or two.
        from sklearn.linear_model import LogisticRegression

        logits, targets = check_targets(logits, labels)
        right, wrong = logits[targets], logits[~targets]
        if not len(right) or not len(wrong):
            raise ValueError(
                f"The pairs of {len(logits)} images and {logits.shape[1]} classes are all {'wrong' if len(wrong) else 'right'}, "
                "so nothing says what a logit means; fit on images with labels."
            )
        if right.min() >= wrong.max():
            raise ValueError(
                f"One logit parts all {len(right)} right pairs of image and class from all wrong ones, so the likelihood grows as "
                "the temperature falls to 0; fit on more or harder validation images, none of them trained on."
            )
        # Of mean 0 and size 1, so that the two parameters hardly depend on each other.
        middle, unit = logits.mean().item(), logits.std().item() or 1.0
        regression = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=200)
        regression.fit(((logits - middle) / unit).reshape(-1, 1).numpy(), targets.flatten().numpy())
        slope, at_middle = regression.coef_.item() / unit, regression.intercept_.item()
        if slope <= 0:
            raise ValueError(
                f"The logits of these {len(logits)} images favour their labels no more than chance does, so no positive "
                "temperature is best; check that labels and logits are in the same class order."
            )
        self.temperature, self.bias = 1 / slope, at_middle - slope * middle
        self.n = len(logits)
        self.nll_before = binary_cross_entropy_with_logits(logits, targets.double()).item()
        self.nll_after = binary_cross_entropy_with_logits(self.apply(logits), targets.double()).item()
        return self

    def apply(self, logits: Tensor) -> Tensor:
        """Return `logits / T + bias`, in the dtype and on the device of `logits`."""
        return logits / self.temperature + self.bias

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return `sigmoid(logits / T + bias)`, in float64 on the CPU."""
        return self.apply(logits.detach().cpu().double()).sigmoid()

    @torch.no_grad()
    def fold_into(self, model: nn.Module, head: ZeroShotHead | None = None) -> None:
        """
        Put temperature and bias into the weights, so that the plain model is calibrated, T becomes 1 and the bias 0.

        Args:
            model ([`~transformers.PreTrainedModel`]): A model with a logit bias, possibly wrapped; changed in place.
            head ([`ZeroShotHead`], *optional*): As for [`TemperatureScaling`]; the bias is the model's alone.

        Raises:
            ValueError: If the model has no logit bias, or its dtype is too coarse; nothing is changed then.
        """
        encoder = DualEncoder.of(model)
        if encoder.logit_bias is None:
            raise ValueError(f"A {encoder.name} has no logit bias that Platt scaling could move; fit a temperature.")
        parameter = encoder.logit_bias
        wanted = parameter.detach().cpu().double() / self.temperature + self.bias
        stored = wanted.to(parameter.dtype)
        if not (stored.double() - wanted).abs().max() <= _ROUNDING:
            raise ValueError(
                f"A logit bias in {parameter.dtype} cannot hold {wanted.item():.6g}: rounding would change it by more than {_ROUNDING:g}. Load "
                "the model in float32."
            )
        super().fold_into(model, head)
        parameter.copy_(stored)
        self.folded_bias += self.bias
        self.bias = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what [`TemperatureScaling`] does. Raises ValueError before it is folded: nothing could apply the bias."""
        if self.bias:
            raise ValueError("Platt scaling is stored once it is in the weights; call fold_into() first.")
        return super().to_dict()
