# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Linear probing before fine-tuning (LP-FT): the head is fitted on the features of the start before anything trains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from torch import Tensor

from ..data.labels import check_class_indices
from ..modeling.processes import failing_together
from .base import ObjectiveMixin, refuse_idle
from .settings import ObjectiveSettings, Range, setting

#: Iterations of L-BFGS, as in the authors' code.
_ITERATIONS = 200


def fit_linear_probe(embeds: Tensor, labels: Tensor, n_classes: int, inverse_penalty: float = 1.0) -> tuple[Tensor, Tensor]:
    """
    Logistic regression of labels on embeddings: multinomial, as LP-FT fits it (Kumar et al., ICLR 2022); of lists of labels one for
    each class, whether an image has it.

    As in the authors' code the embeddings are first shifted and scaled by the mean and standard deviation of all their
    numbers, which the result takes in again, and a class without images gets a row of zeros. Of lists of labels it is a class that no
    image has, or all have, which gets a row of zeros; its bias is the log odds of its images, half of one added on either side, as the
    likeliest is infinite.

    Args:
        embeds (`torch.Tensor` of shape `(n, embed_dim)`): Embeddings, on the CPU.
        labels (`torch.Tensor` of shape `(n,)` or `(n, n_classes)`): Class indices; or 0 and 1, of lists of labels.
        n_classes (`int`): Classes of the head.
        inverse_penalty (`float`, *optional*, defaults to 1.0): `C` of scikit-learn's `LogisticRegression`: the weight of the
            summed cross-entropy beside half the sum of squares of the weights.

    Returns:
        Two `torch.Tensor`: the weight `(n_classes, embed_dim)` and the bias `(n_classes,)`.

    Raises:
        ValueError: If the labels are all the same, one is the index of no class, or lists of labels tell no image from another.
    """
    mean, deviation = embeds.mean(), embeds.std(correction=0)
    scaled = ((embeds - mean) / deviation).numpy()
    weight, bias = embeds.new_zeros(n_classes, embeds.shape[1]), embeds.new_zeros(n_classes)
    if labels.ndim == 2:
        with_label = labels.sum(dim=0).to(bias.dtype)
        bias.copy_(((with_label + 0.5) / (len(labels) - with_label + 0.5)).log())
        fitted = ((with_label > 0) & (with_label < len(labels))).nonzero()[:, 0]
        if not len(fitted):
            raise ValueError(
                f"Of the {len(labels)} training images all have the same labels, and a linear probe tells images with a label from images "
                "without it; look at the labels."
            )
        for index in fitted.tolist():
            rows, constants, _ = _regression(scaled, labels[:, index], inverse_penalty)
            weight[index] = rows[0] / deviation
            bias[index] = constants[0] - rows[0].sum() * mean / deviation
        return weight, bias
    check_class_indices(labels, n_classes)
    if len(labels.unique()) < 2:
        raise ValueError("All training images have the same label, and a linear probe tells classes apart; look at the labels.")
    rows, constants, present = _regression(scaled, labels, inverse_penalty)
    if len(rows) == 1:
        # One of two classes is fitted as one row, and a softmax over two rows is the same with half of it in each.
        rows, constants = torch.cat([-rows, rows]) / 2, torch.cat([-constants, constants]) / 2
    weight[present] = rows / deviation
    bias[present] = constants - rows.sum(dim=1) * mean / deviation
    return weight, bias


def _regression(scaled: np.ndarray, labels: Tensor, inverse_penalty: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights and intercepts of a logistic regression, one row where there are two classes, and the classes that there are."""
    # Here, since importing it takes a second or two.
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=inverse_penalty, max_iter=_ITERATIONS)
    model.fit(scaled, labels.numpy())
    rows, constants = (torch.as_tensor(value, dtype=torch.as_tensor(scaled).dtype) for value in (model.coef_, model.intercept_))
    return rows, constants, torch.as_tensor(model.classes_)


@dataclass
class LinearProbeSettings(ObjectiveSettings):
    """The linear probe before fine-tuning (LP-FT)."""

    probe_inverse_penalty: float = setting(
        1.0,
        "Weight of the data beside the penalty on the weights in the linear probe (C of LogisticRegression). The paper "
        "chooses it on validation images.",
        range=Range("must be above 0", above=True, below=True),
    )


class LinearProbeMixin(ObjectiveMixin):
    """
    Fits the head on the features of all training images, as evaluation prepares them, before training begins; with lists of labels
    each class by itself.

    A resumed run has its head from the checkpoint, and a head that the user gave is the result of a probe already. In
    several processes the first one fits, for all.
    """

    settings: type[ObjectiveSettings] = LinearProbeSettings

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.head_is_given:
            refuse_idle(self.args, ["probe_inverse_penalty"], "the head that is given is not fitted; leave `head=` out")

    def fit_head(self) -> None:
        embeds, labels = self.embed_training_images()
        state = PartialState()
        with failing_together("The linear probe", state), torch.no_grad():
            if state.is_main_process:
                fitted = fit_linear_probe(embeds, labels, len(self.head.weight), self.args.probe_inverse_penalty)
                for parameter, value in zip(self.head.parameters(), fitted, strict=True):
                    parameter.copy_(value)
        for parameter in self.head.parameters():
            parameter.data.copy_(broadcast(parameter.data))
