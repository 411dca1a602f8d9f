# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The methods: objectives over the one Trainer, with each paper's settings."""

from __future__ import annotations

from dataclasses import dataclass

from ..objectives.adapter_heads import (
    ClipAdapterMixin,
    ClipAdapterSettings,
    FrozenHeadMixin,
    TipAdapterMixin,
    TipAdapterSettings,
)
from ..objectives.context_distillation import ContextDistillationMixin, ContextDistillationSettings
from ..objectives.contrastive import ContrastiveMixin, ContrastiveSettings
from ..objectives.covariance_anchor import CovarianceAnchorMixin, CovarianceAnchorSettings
from ..objectives.croft import EnergyGradientMixin, FrozenEnergyGradientMixin
from ..objectives.cross_entropy import CrossEntropyMixin, HeadSettings
from ..objectives.energy_gradient import CRoFTSettings, JointCRoFTSettings
from ..objectives.linear_probe import LinearProbeMixin, LinearProbeSettings
from ..objectives.random_text import RandomTextMixin, RandomTextSettings
from ..objectives.self_distillation import SelfDistillationMixin, SelfDistillationSettings
from ..objectives.settings import document, paper_values
from ..objectives.singular_value import SingularValueMixin, SingularValueSettings
from ..objectives.starting_weights import StartingWeightsMixin, StartingWeightsSettings
from ..objectives.teacher import EMATeacherSettings, TeacherSettings, TrajectoryTeacherSettings
from ..objectives.trained_parts import TrainedPartsSettings
from ..objectives.trajectory_distillation import TrajectoryDistillationMixin, TrajectoryDistillationSettings
from .arguments import RunArguments
from .trainer import RobustTrainer

#: A contrastive batch needs negatives, and Transformers' batch of 8 has hardly any. The papers use 512, which needs the
#: memory of several accelerators; 64 pairs of ViT-B/16 fit one with 16 GB.
CONTRASTIVE_DEFAULTS = {"per_device_train_batch_size": 64}
#: What CaRot, FLYP and WiSE-FT have in common on ImageNet.
_ON_IMAGENET = {
    "learning_rate": 1e-5,
    "weight_decay": 0.1,
    "warmup_steps": 0.02,
    "num_train_epochs": 10,
    "per_device_train_batch_size": 512,
}
#: What the runs on ImageNet have in common in the code of LP-FT.
_OF_LP_FT = {
    "optim": "sgd",
    "optim_args": "momentum=0.9",
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,
    "warmup_steps": 0,
    "num_train_epochs": 10,
    "per_device_train_batch_size": 128,
}


class FLYPTrainer(ContrastiveMixin, RobustTrainer):
    """
    Fine-tune like you pretrain: the contrastive loss on captions made of class names (Goyal et al., CVPR 2023).

    Both towers, both projections and the logit scale train.

    Arguments and errors as for [`RobustTrainer`].
    """

    method = "flyp"
    defaults = CONTRASTIVE_DEFAULTS
    paper_settings = {**_ON_IMAGENET, "lr_schedule": "reference"}


class CaRotTrainer(SelfDistillationMixin, SingularValueMixin, ContrastiveMixin, RobustTrainer):
    """
    CaRot: FLYP's loss, orthogonality of the visual projection, self-distillation from an EMA teacher
    (Oh et al., NeurIPS 2024).

    The defaults of [`RobustTrainingArguments`] are the published settings; `preset="reference"` adds those of the
    authors' code (schedule, decay on every parameter, unbounded logit scale, no clipping). `paper_settings` are both,
    with the paper's epochs and batch.

    Arguments and errors as for [`RobustTrainer`].
    """

    method = "carot"
    defaults = CONTRASTIVE_DEFAULTS
    paper_settings = {
        "preset": "reference",
        **_ON_IMAGENET,
        **paper_values(SingularValueSettings, SelfDistillationSettings, EMATeacherSettings),
    }


class TRACERTrainer(TrajectoryDistillationMixin, SingularValueMixin, ContrastiveMixin, RobustTrainer):
    """
    TRACER: FLYP's loss and CaRot's cross-Frobenius term, and distillation of in-batch distributions and of features from a
    teacher that is a weighted average of the whole trajectory (Asadollahzadeh et al., ICML 2026).

    `paper_settings` are those of the authors' scripts, which print weights before the common factor of 0.9; their code is
    CaRot's otherwise, hence `preset="reference"`. Of the paper's four terms of distillation there are the two to which its
    ablation traces the gain. The teacher moves 50 times in a run by default, and at every step in the paper.

    Arguments and errors as for [`RobustTrainer`].
    """

    method = "tracer"
    defaults = {**CONTRASTIVE_DEFAULTS, "teacher": "trajectory", "orthogonality_weight": 0.0}
    paper_settings = {
        "preset": "reference",
        **_ON_IMAGENET,
        **paper_values(SingularValueSettings, TrajectoryDistillationSettings, TrajectoryTeacherSettings),
        "teacher": "trajectory",
        "orthogonality_weight": 0.0,
    }


class FineTuneTrainer(CrossEntropyMixin, RobustTrainer):
    """
    Ordinary fine-tuning: cross-entropy of image tower and linear head, started from the zero-shot classifier
    (the FT baseline of WiSE-FT, Wortsman et al., CVPR 2022).

    Arguments and errors as for [`RobustTrainer`] and [`CrossEntropyMixin`].
    """

    method = "ft"
    defaults = {"learning_rate": 3e-5, "per_device_train_batch_size": 64}
    paper_settings = {**_ON_IMAGENET, "learning_rate": 3e-5}
    # The head has taken the scale in; the preset is that of the contrastive methods.
    idle_settings = ("bound_logit_scale", "preset")


class LinearProbeTrainer(FrozenHeadMixin, RobustTrainer):
    """
    Linear probing (LP): cross-entropy of a linear head on frozen features; on images, or on features that
    `cache_features` computed once.

    `paper_settings` are those of the linear probe on ImageNet in the code of LP-FT (Kumar et al., ICLR 2022).

    Arguments and errors as for [`RobustTrainer`] and [`CrossEntropyMixin`].
    """

    method = "lp"
    defaults = {"learning_rate": 3e-2, "per_device_train_batch_size": 64}
    idle_settings = FineTuneTrainer.idle_settings
    paper_settings = {**_OF_LP_FT, "head_start": "zeros", "learning_rate": 0.1, "num_train_epochs": 5}


class LPFTTrainer(LinearProbeMixin, FineTuneTrainer):
    """
    LP-FT: the head is fitted on the frozen features by logistic regression, then image tower and head are fine-tuned
    (Kumar et al., ICLR 2022).

    `paper_settings` are those of the authors' code for ImageNet, with the middle rate of its three (1e-5, 3e-5, 1e-4). For
    that set alone the authors train the head by SGD (`--method lp --paper_settings`).

    Arguments and errors as for [`RobustTrainer`] and [`CrossEntropyMixin`].
    """

    method = "lp_ft"
    paper_settings = {**_OF_LP_FT, "learning_rate": 3e-5}
    # The probe sets all of the head.
    idle_settings = (*FineTuneTrainer.idle_settings, "head_start")


class L2SPTrainer(StartingWeightsMixin, FineTuneTrainer):
    """
    Ordinary fine-tuning with a penalty on the distance from the starting weights (L2-SP, Li et al., ICML 2018).

    Its weight, and `paper_settings`, are those of LP-FT's code (Kumar et al., ICLR 2022) for ImageNet, with the middle rate of
    its three (1e-4, 3e-4, 1e-3).

    Arguments and errors as for [`RobustTrainer`] and [`CrossEntropyMixin`].
    """

    method = "l2_sp"
    paper_settings = {**_OF_LP_FT, "learning_rate": 3e-4, **paper_values(StartingWeightsSettings)}


class CARFTTrainer(ContextDistillationMixin, FineTuneTrainer):
    """
    CAR-FT: ordinary fine-tuning that keeps the distribution of each image over contexts (Mao et al., IJCV 2024).

    The weight of 1 and the direction of the divergence are recalled; the text of the paper was not at hand.

    Arguments and errors as for [`RobustTrainer`], [`CrossEntropyMixin`] and [`ContextDistillationMixin`].
    """

    method = "car_ft"
    paper_settings = {}


class LipsumFTTrainer(RandomTextMixin, FineTuneTrainer):
    """
    Lipsum-FT: ordinary fine-tuning that keeps the logits of random texts (Nam et al., ICLR 2024).

    `paper_settings` are those of the authors' code on ImageNet. There the rows of the head have unit norm at the start and are
    multiplied by the logit scale, which the head has taken in here: the same function, and another step of the optimizer.

    Arguments and errors as for [`RobustTrainer`], [`CrossEntropyMixin`] and [`RandomTextMixin`].
    """

    method = "lipsum_ft"
    paper_settings = {
        "learning_rate": 1e-5,
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "warmup_steps": 0.1,
        "max_steps": 50_000,
        "per_device_train_batch_size": 256,
        **paper_values(RandomTextSettings),
    }


class CRoFTTrainer(FrozenEnergyGradientMixin, RobustTrainer):
    """
    CRoFT: linear adapters on the features of a frozen CLIP, trained with the energy-gradient regulariser and learned
    worst-case feature shifts (Zhu et al., ICML 2024).

    The exported checkpoint is a plain model with the adapters merged into its projections. Of a SigLIP that is the text adapter; an
    image adapter (`adapter_image_ratio` above 0) is kept beside the weights, and plain Transformers does not apply it. Train on images, or on features
    that `cache_features` computed once. The settings of the authors' code are `paper_settings`:
    `RobustTrainingArguments(output_dir=..., **CRoFTTrainer.paper_settings)`.

    Arguments and errors as for [`RobustTrainer`] and [`FrozenEnergyGradientMixin`].
    """

    method = "croft"
    # Two matrices train: at the rate of a whole model they stay where they start.
    defaults = {"learning_rate": 3e-3, "per_device_train_batch_size": 32}
    # The model is frozen, its logit scale too; the adapters decay in any case; the preset is that of the contrastive methods.
    idle_settings = ("bound_logit_scale", "decay_all_parameters", "preset")
    paper_settings = {
        "learning_rate": 0.002,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "weight_decay": 0.1,
        "max_grad_norm": 0.0,
        "lr_schedule": "epoch_cosine",
        "num_train_epochs": 30,
        "per_device_train_batch_size": 32,
        "dataloader_drop_last": True,
        "generator_order": "reference",
        "train_crop": "croft",
    }


class ClipAdapterTrainer(ClipAdapterMixin, RobustTrainer):
    """
    CLIP-Adapter: two layers on the image embeddings of a frozen CLIP, trained with cross-entropy (Gao et al., IJCV 2024).

    The adapter is saved beside the unchanged model, in `head.safetensors`. Train on images, or on features that
    `cache_features` computed once. `paper_settings` are those of CoOp's code, on which the authors' code rests.

    Arguments and errors as for [`RobustTrainer`] and [`CrossEntropyMixin`].
    """

    method = "clip_adapter"
    defaults = {"learning_rate": 3e-3, "per_device_train_batch_size": 32}
    # The model is frozen, its logit scale too; the adapter has neither norms nor biases, and needs CLIP's own classifier; the
    # preset is that of others.
    idle_settings = ("bound_logit_scale", "decay_all_parameters", "head_start", "preset")
    paper_settings = {
        "learning_rate": 0.002,
        "optim": "sgd",
        "optim_args": "momentum=0.9",
        "weight_decay": 5e-4,
        "max_grad_norm": 0.0,
        "lr_schedule": "epoch_cosine",
        "num_train_epochs": 200,
        "per_device_train_batch_size": 32,
        "dataloader_drop_last": True,
        "train_crop": "croft",
        **paper_values(ClipAdapterSettings),
    }


class TipAdapterFTrainer(TipAdapterMixin, RobustTrainer):
    """
    Tip-Adapter-F: the keys of a cache of the training images, trained with cross-entropy (Zhang et al., ECCV 2022).

    The cache is saved beside the unchanged model, in `head.safetensors`. Train on images, or on features that
    `cache_features` computed once. Alpha and beta, where neither is given, are chosen on validation images when the run is
    finished.

    Arguments and errors as for [`RobustTrainer`] and [`TipAdapterMixin`].
    """

    method = "tip_adapter_f"
    defaults = {"learning_rate": 1e-3, "per_device_train_batch_size": 256}
    idle_settings = ClipAdapterTrainer.idle_settings
    paper_settings = {
        "learning_rate": 1e-3,
        "adam_epsilon": 1e-4,
        "weight_decay": 0.01,
        "max_grad_norm": 0.0,
        "warmup_steps": 0,
        "num_train_epochs": 20,
        "per_device_train_batch_size": 256,
        "train_crop": "tip_adapter",
    }


class CaRotCRoFTTrainer(
    EnergyGradientMixin, SelfDistillationMixin, SingularValueMixin, ContrastiveMixin, RobustTrainer
):
    """
    CaRot and CRoFT in one run, to ask for calibration and detection at once. Our own combination, in neither paper.

    Encoders and adapters train together: the contrastive loss and self-distillation see adapted embeddings, the
    orthogonality term acts on adapter times projection, the teacher follows the merged weights, and the generator of
    shifted features steps alone.

    Arguments and errors as for [`RobustTrainer`] and [`EnergyGradientMixin`].
    """

    method = "carot+croft"
    defaults = CONTRASTIVE_DEFAULTS
    # There is no authors' code of the combination.
    idle_settings = ("preset",)


class CovarianceAnchorTrainer(CovarianceAnchorMixin, SelfDistillationMixin, ContrastiveMixin, RobustTrainer):
    """
    CaRot with the covariance of image features anchored at the teacher's, in place of the constraint on the projection. Our
    own, in no paper.

    It is defined for every model, also where image features do not end in a linear map (SigLIP), and stands beside CaRot where
    they do.

    Arguments and errors as for [`RobustTrainer`].
    """

    method = "covariance_anchor"
    defaults = CONTRASTIVE_DEFAULTS
    # There is no authors' code of it.
    idle_settings = ("preset",)


#: Trainers by the name that `--method` takes.
METHODS = {
    trainer.method: trainer
    for trainer in (
        CaRotTrainer,
        TRACERTrainer,
        FLYPTrainer,
        FineTuneTrainer,
        CRoFTTrainer,
        CaRotCRoFTTrainer,
        CovarianceAnchorTrainer,
        ClipAdapterTrainer,
        TipAdapterFTrainer,
        LinearProbeTrainer,
        LPFTTrainer,
        L2SPTrainer,
        CARFTTrainer,
        LipsumFTTrainer,
    )
}


@dataclass
class RobustTrainingArguments(
    ContrastiveSettings,
    SingularValueSettings,
    SelfDistillationSettings,
    TrajectoryDistillationSettings,
    CovarianceAnchorSettings,
    TeacherSettings,
    EMATeacherSettings,
    TrajectoryTeacherSettings,
    JointCRoFTSettings,
    CRoFTSettings,
    ClipAdapterSettings,
    TipAdapterSettings,
    HeadSettings,
    LinearProbeSettings,
    StartingWeightsSettings,
    ContextDistillationSettings,
    RandomTextSettings,
    TrainedPartsSettings,
    RunArguments,
):
    """
    [`~transformers.TrainingArguments`] with the settings that the objectives declare. Defaults are the published values
    of CaRot (Oh et al., NeurIPS 2024) and, for its objective, of CRoFT's code (Zhu et al., ICML 2024) unless a line says
    otherwise. A setting that is given and that the method does not use is refused when the Trainer is made.

    Defaults that differ from `TrainingArguments`: `learning_rate=1e-5`, `weight_decay=0.1`,
    `lr_scheduler_type="cosine"`, `warmup_steps=0.02` (500 of 25,030), `remove_unused_columns=False` (the collator
    needs raw columns) and `logging_nan_inf_filter=False` (a loss that is not finite stops the run by name).

    `logging_steps` is 500 as in Transformers, or a twentieth of a run, whichever is less. A method has defaults of its
    own for what nobody gives (`Trainer.defaults`, such as CRoFT's rate); the Trainer sets them when it is made.
    `args.given` names the fields that you gave, `args.origins` where others come from that a preset or a recipe set.

    Raises:
        ValueError: At construction, for values that no run can have.
    """


# From the declarations, so that text, default and check of a setting stand in one place.
RobustTrainingArguments.__doc__ = document(RobustTrainingArguments)
