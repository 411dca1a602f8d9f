# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The loss of a head on images with lists of labels: each pair of an image and a class is a question of its own.

No pair counts more than another: neither rare classes nor the few right pairs are given more weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

#: Halvings of the interval that holds the bias, whose width is then far below the spacing of float64.
_HALVINGS = 100


def multi_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """
    Negative log-likelihood of the labels of an image, `-1/B Σ_ic log σ(y_ic z_ic)` with `y` 1 for the labels of an image and -1
    for all other classes: the binary cross-entropies of all classes, summed, and averaged over images as SigLIP's loss is.

    Args:
        logits (`torch.Tensor` of shape `(batch, classes)`): From a [`MultiLabelHead`], which holds scale and bias.
        labels (`torch.Tensor` of shape `(batch, classes)`): 0 and 1; a row may be all 0.

    Returns:
        `torch.Tensor`: Scalar; its mean over equal parts of the rows is that of the whole.

    Raises:
        ValueError: If the shapes differ, or a label is neither 0 nor 1.
    """
    if labels.shape != logits.shape:
        raise ValueError(
            f"Logits of shape {tuple(logits.shape)} need 0 or 1 for each image and class, got labels of shape {tuple(labels.shape)}."
        )
    if not ((labels == 0) | (labels == 1)).all():
        wrong = labels[(labels != 0) & (labels != 1)][0].item()
        raise ValueError(
            f"A training batch holds {wrong:g} in `labels`, which say by 0 or 1 whether an image has a class. A label that nobody knows is "
            "neither; leave such images out."
        )
    # Not `binary_cross_entropy_with_logits`, which loses most of a sure negative's loss to rounding.
    return -F.logsigmoid(logits.where(labels.bool(), -logits)).sum() / len(logits)


def common_bias(logits: Tensor, labels: Tensor) -> Tensor:
    """
    The bias that makes sigmoids of the logits of a softmax: added to all of them, their sigmoids expect as many labels as there
    are. Of all biases it gives these images the highest likelihood.

    Args:
        logits (`torch.Tensor` of shape `(n, classes)`): Of a softmax over classes, which fixes no common bias.
        labels (`torch.Tensor` of shape `(n, classes)`): 0 and 1.

    Returns:
        `torch.Tensor`: Scalar in float64 on the CPU.

    Raises:
        ValueError: If the shapes differ, or all pairs of image and class are right, or all wrong: no bias is best then.
    """
    if labels.shape != logits.shape:
        raise ValueError(f"Logits of shape {tuple(logits.shape)} need labels of that shape, got {tuple(labels.shape)}.")
    logits, wanted = logits.detach().cpu().double(), int(labels.sum())
    if not 0 < wanted < labels.numel():
        raise ValueError(
            f"The {len(labels)} training images have {'every label' if wanted else 'no label at all'}, so nothing tells images with a label "
            "from images without it; look at the label column."
        )
    # At the lower end every sigmoid is below the share of labels, at the upper end above it.
    middle = torch.tensor(wanted / (labels.numel() - wanted), dtype=torch.float64).log()
    low, high = middle - logits.max(), middle - logits.min()
    for _ in range(_HALVINGS):
        bias = (low + high) / 2
        low, high = (bias, high) if (logits + bias).sigmoid().sum() < wanted else (low, bias)
    return (low + high) / 2
