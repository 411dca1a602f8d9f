# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The methods: objectives over the one Trainer, with each paper's settings."""

from __future__ import annotations

from ..objectives.contrastive import ContrastiveMixin
from ..objectives.cross_entropy import CrossEntropyMixin
from ..objectives.self_distillation import SelfDistillationMixin
from ..objectives.singular_value import SingularValueMixin
from .trainer import RobustTrainer


class FLYPTrainer(ContrastiveMixin, RobustTrainer):
    """
    Fine-tune like you pretrain: the contrastive loss on captions made of class names (Goyal et al., CVPR 2023).

    Both towers, both projections and the logit scale train.
    """

    method = "flyp"


class CaRotTrainer(SelfDistillationMixin, SingularValueMixin, ContrastiveMixin, RobustTrainer):
    """
    CaRot: FLYP's loss, orthogonality of the visual projection, self-distillation from an EMA teacher
    (Oh et al., NeurIPS 2024).

    The defaults of [`RobustTrainingArguments`] are the published settings; `preset="reference"` adds those of the
    authors' code (schedule, decay on every parameter, unbounded logit scale, no clipping).
    """

    method = "carot"


class FineTuneTrainer(CrossEntropyMixin, RobustTrainer):
    """
    Ordinary fine-tuning: cross-entropy of image tower and linear head, started from the zero-shot classifier
    (the FT baseline of WiSE-FT, Wortsman et al., CVPR 2022).
    """

    method = "ft"


#: Trainers by the name that `--method` takes.
METHODS = {trainer.method: trainer for trainer in (CaRotTrainer, FLYPTrainer, FineTuneTrainer)}
