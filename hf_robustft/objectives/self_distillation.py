# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Self-distillation from a teacher that is an exponential moving average (EMA) of the student."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.shares import floor_share
from ..modeling.captions import CaptionMemory
from ..modeling.features import ClipFeatures, remember_captions
from ..modeling.spread_weights import placed_like, whole_copy
from .base import ObjectiveMixin, refuse_idle, take, take_module
from .settings import SHARE, STEPS, WEIGHT, ObjectiveSettings, setting

#: Captions whose text features the teacher keeps between two of its moves: 32 MiB at 512 dimensions.
REMEMBERED_CAPTIONS = 16_384


def self_distillation_loss(
    student_logits_per_image: Tensor,
    teacher_logits_per_image: Tensor,
    student_logits_per_text: Tensor | None = None,
    teacher_logits_per_text: Tensor | None = None,
) -> Tensor:
    """
    Cross-entropy of the student's in-batch distributions under the teacher's, summed over both directions
    (CaRot, Oh et al., NeurIPS 2024).

    `mean_i [-Σ_j p_T(j|i) log p_S(j|i)]` over images plus the same over captions: not halved, the teacher's entropy
    not subtracted, no temperature beyond each model's own logit scale.

    Args:
        student_logits_per_image (`torch.Tensor` of shape `(rows, global_batch)`): Scaled similarities of images to
            captions, with the student's logit scale.
        teacher_logits_per_image (`torch.Tensor` of the same shape):
            The teacher's, with its own scale. No gradient flows to it.
        student_logits_per_text (`torch.Tensor`, *optional*), teacher_logits_per_text (`torch.Tensor`, *optional*):
            Captions to images; default to the transposes, which exist only where the batch is whole.

    Returns:
        `torch.Tensor`: Scalar.

    Raises:
        ValueError: If the shapes differ, or a transpose is needed of a part of the matrix.
    """
    if student_logits_per_image.shape != teacher_logits_per_image.shape:
        raise ValueError(
            "Student and teacher must score the same pairs, got logits of shape "
            f"{tuple(student_logits_per_image.shape)} and {tuple(teacher_logits_per_image.shape)}."
        )
    if student_logits_per_text is None or teacher_logits_per_text is None:
        rows, columns = student_logits_per_image.shape
        if rows != columns:
            raise ValueError(
                f"{rows} rows of {columns} columns are a part of the batch; "
                "pass student_logits_per_text and teacher_logits_per_text too."
            )
        student_logits_per_text = student_logits_per_image.t()
        teacher_logits_per_text = teacher_logits_per_image.t()
    per_image = F.cross_entropy(student_logits_per_image, teacher_logits_per_image.detach().softmax(dim=1))
    per_text = F.cross_entropy(student_logits_per_text, teacher_logits_per_text.detach().softmax(dim=1))
    return per_image + per_text


def ema_momentum(step: int, total_steps: int, start: float, end: float, warmup_ratio: float) -> float:
    """
    The teacher's momentum at an update: linear from `start` to `end` over the first `warmup_ratio` of the run.

    Args:
        step (`int`): Index of the optimizer step, from 0 (not the number of updates).
        total_steps (`int`): Optimizer steps of the whole run.
        start (`float`), end (`float`): Momentum at step 0 and after the ramp; 1 keeps the teacher, 0 copies the student.
        warmup_ratio (`float`): Length of the ramp as a share of the run; 0 means `end` throughout.

    Returns:
        `float`: `m` of `teacher = m * teacher + (1 - m) * student`.
    """
    ramp = total_steps * warmup_ratio
    return start + (end - start) * step / ramp if step < ramp else end


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module | Mapping[str, Tensor], momentum: float) -> None:
    """
    `teacher <- momentum * teacher + (1 - momentum) * student`, parameter by parameter, in place.

    Buffers are not averaged (as in the reference; CLIP's hold position indices only).

    Args:
        teacher (`torch.nn.Module`): The module to move.
        student (`torch.nn.Module` or `Mapping[str, torch.Tensor]`): A module of the same parameters, or these by name.
        momentum (`float`): 1 keeps the teacher, 0 copies the student.
    """
    student = dict(student.named_parameters()) if isinstance(student, nn.Module) else student
    names, targets = zip(*teacher.named_parameters(), strict=True)
    targets = list(targets)
    sources = [placed_like(student[name].detach(), target) for name, target in zip(names, targets, strict=True)]
    torch._foreach_mul_(targets, momentum)
    torch._foreach_add_(targets, sources, alpha=1.0 - momentum)


@dataclass
class SelfDistillationSettings(ObjectiveSettings):
    """Self-distillation from the moving average of the weights (CaRot)."""

    distillation_weight: float = setting(
        1.5, "Weight of self-distillation; 0 makes no teacher.", paper=1.5, range=WEIGHT
    )
    ema_update_every: float = setting(
        0.02,
        "Optimizer steps between updates of the teacher, or, below 1, a fraction of the run (the paper's 500 of 25,030). "
        "0 keeps the teacher at the initial weights.",
        paper=0.02,
        range=STEPS,
    )
    ema_start_momentum: float = setting(0.05, "Momentum of the teacher at the first step.", paper=0.05, range=SHARE)
    ema_end_momentum: float = setting(0.9, "Momentum of the teacher after its warm-up.", paper=0.9, range=SHARE)
    ema_warmup_ratio: float = setting(0.2, "Warm-up of the momentum as a share of the run.", paper=0.2, range=SHARE)
    ema_from_first_step: bool = setting(
        True, "Update the teacher after steps 0, k, 2k, ... (authors' code) instead of k-1, 2k-1, ..."
    )
    export_weights: str = setting(
        "student",
        "Weights that save_model writes: 'student' or 'teacher'. Checkpoints hold both.",
        choices=["student", "teacher"],
    )
    shard_teacher: bool = setting(
        True, "Spread the teacher too, with fully_shard, or keep it whole in each process (faster, more memory)."
    )

    def ema_interval(self, total_steps: int) -> int:
        """
        Optimizer steps between updates of the teacher.

        Args:
            total_steps (`int`): Optimizer steps of the run.

        Returns:
            `int`: At least 1, or 0 for a teacher that never moves.
        """
        if self.ema_update_every == 0:
            return 0
        if self.ema_update_every < 1:
            return max(1, floor_share(self.ema_update_every, total_steps))
        return int(self.ema_update_every)


class SelfDistillationMixin(ObjectiveMixin):
    """
    Adds the term `self_distillation` (weight `distillation_weight`) and owns the teacher.

    The teacher is a frozen copy of the student as it is exported, in eval mode, made when training starts; it is not a
    submodule of the student, so optimizers, DDP and `save_pretrained` do not see it. It moves towards the student every
    `ema_update_every` optimizer steps; it and the counters travel in every checkpoint. The first step has no
    distillation term: teacher and student are still the same.

    While it stands still, the teacher encodes a caption once and remembers its features (`REMEMBERED_CAPTIONS` at most).
    """

    needs_captions = True
    settings = SelfDistillationSettings
    teacher: nn.Module | None = None
    last_momentum: float | None = None
    teacher_updates: int = 0
    _teacher_captions: CaptionMemory | None = None

    @classmethod
    def check_settings(cls, args) -> None:
        super().check_settings(args)
        of_the_average = [f.name for f in fields(SelfDistillationSettings) if f.name.startswith("ema_")]
        if not args.distillation_weight:
            reason = "`distillation_weight=0` makes no teacher; set a weight (the paper's is 1.5)"
            refuse_idle(args, [*of_the_average, "shard_teacher"], reason)
        if not args.ema_update_every:
            of_the_average.remove("ema_update_every")
            refuse_idle(args, of_the_average, "with `ema_update_every=0` the teacher stands still; set an interval")
        if not args.fully_shard:
            refuse_idle(args, ["shard_teacher"], "every process holds all of the teacher; set --fully_shard")

    def validate_arguments(self, args) -> None:
        super().validate_arguments(args)
        if args.export_weights == "teacher" and not args.distillation_weight:
            raise ValueError(
                "`export_weights='teacher'` needs a teacher, and `distillation_weight=0` makes none; "
                "set a weight (the paper's is 1.5), or export the student."
            )

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        self.teacher, self.teacher_updates, self.last_momentum = None, 0, None
        self._teacher_captions = None
        if not self.args.distillation_weight:
            return
        # As they are exported: adapters that a run starts with are in the teacher's weights too.
        with self.exported_weights() as model:
            self.teacher = whole_copy(model).eval().requires_grad_(False)
        self._teacher_captions = remember_captions(self.teacher, REMEMBERED_CAPTIONS)
        every = self.args.ema_interval(total_steps)
        updates = len(self._update_steps(total_steps, every))
        if every > 1 and every >= total_steps:
            warnings.warn(
                f"The teacher will be updated only {updates} times in {total_steps} steps, fewer than "
                f"`ema_update_every={self.args.ema_update_every:g}`; set it to {max(1, round(total_steps / 50))} for this "
                "run, or to 0.02, the paper's fraction of any run.",
                stacklevel=2,
            )

    def _update_steps(self, total_steps: int, every: int) -> range:
        if not every:
            return range(0)
        return range(0 if self.args.ema_from_first_step else every - 1, total_steps, every)

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = super().loss_terms(features, batch)
        if self.args.distillation_weight and self.optimizer_steps > 0:
            with torch.no_grad():
                teacher = self.encode_global(self.teacher, batch)
            terms["self_distillation"] = self.args.distillation_weight * self_distillation_loss(
                features.logits_per_image,
                teacher.logits_per_image,
                features.logits_per_text,
                teacher.logits_per_text,
            )
        return terms

    def after_optimizer_step(self) -> None:
        super().after_optimizer_step()
        if self.teacher is None:
            return
        step, total_steps = self.optimizer_steps - 1, self.state.max_steps
        if step in self._update_steps(total_steps, self.args.ema_interval(total_steps)):
            self.last_momentum = ema_momentum(
                step, total_steps, self.args.ema_start_momentum, self.args.ema_end_momentum, self.args.ema_warmup_ratio
            )
            update_teacher(self.teacher, self.exported_parameters(), self.last_momentum)
            self._teacher_captions.clear()
            self.teacher_updates += 1

    def frozen_models(self) -> dict[str, nn.Module]:
        return {**super().frozen_models(), **({} if self.teacher is None else {"teacher": self.teacher})}

    def extra_state(self) -> dict[str, Any]:
        state = super().extra_state()
        if self.teacher is not None:
            # What is remembered was encoded in other batches, and is fresh features only up to rounding. A run that is
            # resumed here remembers nothing; to repeat its bits, the run that goes on must not either.
            self._teacher_captions.clear()
            state.update({f"teacher.{name}": value for name, value in self.teacher.state_dict().items()})
            state["teacher_updates"] = self.teacher_updates
            state["teacher_momentum"] = self.last_momentum
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        if self.teacher is not None:
            take_module(state, "teacher", self.teacher)
            self._teacher_captions.clear()
            self.teacher_updates = take(state, "teacher_updates")
            self.last_momentum = take(state, "teacher_momentum")

    def log_values(self) -> dict[str, float]:
        values = super().log_values()
        if self.last_momentum is not None:
            values["teacher/momentum"] = self.last_momentum
            values["teacher/updates"] = self.teacher_updates
        return values
