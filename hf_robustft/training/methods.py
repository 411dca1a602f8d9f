# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The methods: objectives over the one Trainer, with each paper's settings."""

from __future__ import annotations

from ..objectives.contrastive import ContrastiveMixin
from ..objectives.cross_entropy import CrossEntropyMixin
from ..objectives.energy_gradient_mixin import EnergyGradientMixin
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


class CRoFTTrainer(EnergyGradientMixin, RobustTrainer):
    """
    CRoFT: linear adapters on the features of a frozen CLIP, trained with the energy-gradient regulariser and learned
    worst-case feature shifts (Zhu et al., ICML 2024).

    The exported checkpoint is a plain `CLIPModel` with the adapters merged into its projections. Train on images, or
    on features that `cache_features` computed once. The settings of the authors' code are `paper_settings`:
    `RobustTrainingArguments(output_dir=..., **CRoFTTrainer.paper_settings)`.
    """

    method = "croft"
    freezes_model = True
    paper_settings = {
        "learning_rate": 0.002,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "weight_decay": 0.1,
        "max_grad_norm": 0.0,
        "lr_schedule": "epoch_cosine",
        "warmup_steps": 0,
        "num_train_epochs": 30,
        "per_device_train_batch_size": 32,
        "dataloader_drop_last": True,
        "generator_order": "reference",
        "train_crop": "croft",
    }


class CaRotCRoFTTrainer(
    EnergyGradientMixin, SelfDistillationMixin, SingularValueMixin, ContrastiveMixin, RobustTrainer
):
    """
    CaRot and CRoFT in one run, to ask for calibration and detection at once. Our own combination, in neither paper.

    Encoders and adapters train together: the contrastive loss and self-distillation see adapted embeddings, the
    orthogonality term acts on adapter times projection, the teacher follows the merged weights, and the generator of
    shifted features steps alone.
    """

    method = "carot+croft"


#: Trainers by the name that `--method` takes.
METHODS = {
    trainer.method: trainer
    for trainer in (CaRotTrainer, FLYPTrainer, FineTuneTrainer, CRoFTTrainer, CaRotCRoFTTrainer)
}
