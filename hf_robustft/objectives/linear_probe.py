# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Linear probing before fine-tuning (LP-FT): the head is fitted on the features of the start before anything trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import broadcast
from torch import Tensor

from ..modeling.processes import failing_together
from .base import ObjectiveMixin, refuse_idle
from .settings import ObjectiveSettings, Range, setting

#: Iterations of L-BFGS, as in the authors' code.
_ITERATIONS = 200


def fit_linear_probe(embeds: Tensor, labels: Tensor, n_classes: int, inverse_penalty: float = 1.0) -> tuple[Tensor, Tensor]:
    """
    Multinomial logistic regression of labels on embeddings, as LP-FT fits it (Kumar et al., ICLR 2022).

    As in the authors' code the embeddings are first shifted and scaled by the mean and standard deviation of all their
    numbers, which the result takes in again, and a class without images gets a row of zeros.

    Args:
        embeds (`torch.Tensor` of shape `(n, embed_dim)`): Embeddings, on the CPU.
        labels (`torch.Tensor` of shape `(n,)`): Class indices.
        n_classes (`int`): Classes of the head.
        inverse_penalty (`float`, *optional*, defaults to 1.0): `C` of scikit-learn's `LogisticRegression`: the weight of the
            summed cross-entropy beside half the sum of squares of the weights.

    Returns:
        Two `torch.Tensor`: the weight `(n_classes, embed_dim)` and the bias `(n_classes,)`.

    Raises:
        ValueError: If the labels are all the same.
    """
    from sklearn.linear_model import LogisticRegression

    if len(labels.unique()) < 2:
        raise ValueError("All training images have the same label, and a linear probe tells classes apart; look at the labels.")
    mean, deviation = embeds.mean(), embeds.std(correction=0)
    # One of two classes is fitted as one row, and a softmax over two rows is the same with half of it in each.
    model = LogisticRegression(C=inverse_penalty, max_iter=_ITERATIONS)
    model.fit(((embeds - mean) / deviation).numpy(), labels.numpy())
    rows, constants = (torch.as_tensor(value, dtype=embeds.dtype) for value in (model.coef_, model.intercept_))
    if len(rows) == 1:
        rows, constants = torch.cat([-rows, rows]) / 2, torch.cat([-constants, constants]) / 2
    weight, bias = embeds.new_zeros(n_classes, embeds.shape[1]), embeds.new_zeros(n_classes)
    present = torch.as_tensor(model.classes_)
    weight[present] = rows / deviation
    bias[present] = constants - rows.sum(dim=1) * mean / deviation
    return weight, bias


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
    Fits the head on the features of all training images, as evaluation prepares them, before training begins.

    A resumed run has its head from the checkpoint, and a head that the user gave is the result of a probe already. In
    several processes the first one fits, for all.
    """

    label_lists: tuple[str, ...] = ()
    settings: type[ObjectiveSettings] = LinearProbeSettings

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.head_is_given:
            refuse_idle(self.args, ["probe_inverse_penalty"], "the head that is given is not fitted; leave `head=` out")

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        if self.is_resuming or self.head_is_given:
            return
        embeds, labels = self.embed_training_images()
        state = PartialState()
        with failing_together("The linear probe", state), torch.no_grad():
            if state.is_main_process:
                fitted = fit_linear_probe(embeds, labels, len(self.head.weight), self.args.probe_inverse_penalty)
                for parameter, value in zip(self.head.parameters(), fitted, strict=True):
                    parameter.copy_(value)
        for parameter in self.head.parameters():
            parameter.data.copy_(broadcast(parameter.data))
