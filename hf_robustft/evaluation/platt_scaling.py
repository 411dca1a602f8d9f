# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Probabilities of each class by itself, of models that were trained with a sigmoid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..modeling.features import logit_bias


@torch.no_grad()
def sigmoid_probabilities(model: nn.Module, logits: Tensor) -> Tensor:
    """
    The probability of each class by itself, `sigmoid(logits + logit bias)`: what the model was trained to give a pair of an
    image and a caption.

    Args:
        model ([`~transformers.PreTrainedModel`]): A model of a sigmoid family, possibly wrapped.
        logits (`torch.Tensor` of shape `(n, classes)`): Its scaled similarities without the bias, as `collect_logits` and the
            zero-shot head give them.

    Returns:
        `torch.Tensor` of shape `(n, classes)`, in float64 on the CPU.
    """
    return (logits.detach().cpu().double() + logit_bias(model).cpu().double()).sigmoid()
