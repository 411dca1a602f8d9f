# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The teacher of a self-distillation: an average of the student's weights, exponential (EMA) or over its whole trajectory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from ..data.shares import floor_share
from ..modeling.captions import CaptionMemory
from ..modeling.features import ClipFeatures, remember_captions
from ..modeling.spread_weights import placed_like, whole_copy
from .base import ObjectiveMixin, refuse_idle, take, take_module
from .settings import SHARE, STEPS, ObjectiveSettings, Range, setting

#: Captions whose text features the teacher keeps between two of its moves: 32 MiB at 512 dimensions.
REMEMBERED_CAPTIONS = 16_384


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


def beta_kernel(index: int, updates: int, beta: float) -> float:
    """
    Weight of a state of the student in the average over its trajectory (TRACER, Asadollahzadeh et al., ICML 2026).

    The density of Beta(β, β) at `τ = (index + ½) / (updates + 1)`, without its constant factor, which an average does not
    see. Below 1 the two ends of the run weigh most, 1 is the plain average, above 1 the middle weighs most. The ½ keeps
    the ends finite.

    Args:
        index (`int`): 0 for the weights before training, k for those at the k-th update of the teacher.
        updates (`int`): Updates of the whole run. The authors' code counts optimizer steps here also where it updates at
            some of them only, and so stays in the first part of the kernel; with an update at each step the two agree.
        beta (`float`): Both parameters of the distribution; the paper's is 0.5.

    Returns:
        `float`: Positive.

    Raises:
        ValueError: If `beta` is not positive and finite, or the index is not one of `0 ... updates`.
    """
    if not 0 < beta < math.inf or not 0 <= index <= updates:
        raise ValueError(
            f"A Beta kernel needs 0 < beta < inf and an index of 0 to {updates} (the planned updates), got beta={beta} and "
            f"index={index}."
        )
    before, after = (index + 0.5) / (updates + 1), (updates - index + 0.5) / (updates + 1)
    return (before * after) ** (beta - 1.0)


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
class EMATeacherSettings(ObjectiveSettings):
    """The teacher that is an exponential moving average of the weights (CaRot)."""

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


@dataclass
class TrajectoryTeacherSettings(ObjectiveSettings):
    """The teacher that is a weighted average of all weights since the start (TRACER)."""

    trajectory_update_every: float = setting(
        0.02,
        "Steps between updates of the trajectory teacher, or, below 1, a fraction of the run. 0 keeps it at the initial "
        "weights.",
        paper=1,
        range=STEPS,
    )
    trajectory_beta: float = setting(
        0.5,
        "The kernel Beta(b, b) that weighs the trajectory: below 1 its ends weigh most, 1 is the plain average.",
        paper=0.5,
        range=Range("must lie above 0 and be at most 10; 1 is the plain average", high=10, above=True),
    )


@dataclass
class TeacherSettings(EMATeacherSettings, TrajectoryTeacherSettings):
    """The teacher of a self-distillation."""

    teacher: str = setting(
        "ema",
        "Average of the weights that teaches: exponential moving ('ema'), or over the whole run ('trajectory').",
        choices=["ema", "trajectory"],
    )
    export_weights: str = setting(
        "student",
        "Weights that save_model writes: 'student' or 'teacher'. Checkpoints hold both.",
        choices=["student", "teacher"],
    )
    shard_teacher: bool = setting(
        True, "Spread the teacher too, with fully_shard, or keep it whole in each process (faster, more memory)."
    )

    def teacher_interval(self, total_steps: int) -> int:
        """
        Optimizer steps between updates of the teacher.

        Args:
            total_steps (`int`): Optimizer steps of the run.

        Returns:
            `int`: At least 1, or 0 for a teacher that never moves.
        """
        every = getattr(self, f"{self.teacher}_update_every")
        return max(1, floor_share(every, total_steps)) if 0 < every < 1 else int(every)


class TeacherMixin(ObjectiveMixin):
    """
    Owns a teacher, an average of the student's weights, for the objectives that distil from it.

    The teacher is a frozen copy of the student as it is exported, in eval mode, made when training starts; it is not a
    submodule of the student, so optimizers, DDP and `save_pretrained` do not see it. Every so many optimizer steps it
    becomes `m * teacher + (1 - m) * student`: with `teacher="ema"`, m follows the schedule of [`ema_momentum`]; with
    `teacher="trajectory"`, m is the share of the earlier states in the sum of all weights of [`beta_kernel`], so that the
    teacher is the weighted average of the trajectory so far. In float32 this running average is off by some 1e-4 of the
    way that it has come after 25,000 updates, which is why it takes no accumulator of higher precision.

    It and the counters travel in every checkpoint. While it stands still, the teacher encodes a caption once and
    remembers its features (`REMEMBERED_CAPTIONS` at most). It encodes a batch once, whichever objectives distil from it:
    they implement `distillation_terms`.
    """

    needs_captions = True
    settings: type[ObjectiveSettings] = TeacherSettings
    #: Settings of an objective that weigh its terms. If all are 0, there is no teacher.
    distillation_weights: tuple[str, ...] = ()
    teacher: nn.Module | None = None
    last_momentum: float | None = None
    teacher_updates: int = 0
    _kernel_sum: float = 0.0
    _teacher_captions: CaptionMemory | None = None

    @classmethod
    def _weights(cls) -> list[str]:
        return [name for kind in cls.__mro__ for name in vars(kind).get("distillation_weights", ())]

    @classmethod
    def _without_teacher(cls, args) -> str:
        """Why there is no teacher, or nothing where there is one."""
        weights = cls._weights()
        if any(getattr(args, name) for name in weights):
            return ""
        made = "makes" if len(weights) == 1 else "make"
        return f"{' and '.join(f'`{name}=0`' for name in weights)} {made} no teacher; set a weight"

    @classmethod
    def check_settings(cls, args) -> None:
        super().check_settings(args)
        kinds = {"ema": EMATeacherSettings, "trajectory": TrajectoryTeacherSettings}
        own = {kind: [f.name for f in fields(settings)] for kind, settings in kinds.items()}
        reason = cls._without_teacher(args)
        if reason:
            refuse_idle(args, ["teacher", *own["ema"], *own["trajectory"], "shard_teacher"], reason)
        mine, interval = own.pop(args.teacher), f"{args.teacher}_update_every"
        for kind, names in own.items():
            refuse_idle(args, names, f"it is of the other kind of teacher; set --teacher {kind}")
        if not getattr(args, interval):
            names = [name for name in mine if name != interval]
            refuse_idle(args, names, f"with `{interval}=0` the teacher stands still; set an interval")
        if not args.fully_shard:
            refuse_idle(args, ["shard_teacher"], "every process holds all of the teacher; set --fully_shard")

    def validate_arguments(self, args) -> None:
        super().validate_arguments(args)
        reason = self._without_teacher(args)
        if args.export_weights == "teacher" and reason:
            raise ValueError(f"`export_weights='teacher'` needs a teacher, and {reason}, or export the student.")

    @property
    def fixed_length(self) -> bool:
        """The kernel of a trajectory spans the run that was planned."""
        return self.args.teacher == "trajectory" and self.teacher is not None

    def prepare_training(self, total_steps: int) -> None:
        super().prepare_training(total_steps)
        self.teacher, self.teacher_updates, self.last_momentum = None, 0, None
        self._teacher_captions = None
        if self._without_teacher(self.args):
            return
        # As they are exported: adapters that a run starts with are in the teacher's weights too.
        with self.exported_weights() as model:
            self.teacher = whole_copy(model).eval().requires_grad_(False)
        self._teacher_captions = remember_captions(self.teacher, REMEMBERED_CAPTIONS)
        every, steps = self.args.teacher_interval(total_steps), self._update_steps(total_steps)
        self._kernel_sum = beta_kernel(0, len(steps), self.args.trajectory_beta)
        if every > 1 and every >= total_steps:
            setting = f"{self.args.teacher}_update_every"
            warnings.warn(
                f"The teacher will be updated only {len(steps)} times in {total_steps} steps, fewer than "
                f"`{setting}={getattr(self.args, setting):g}`; set it to {max(1, round(total_steps / 50))} for this "
                "run, or to 0.02, a fraction of any run.",
                stacklevel=2,
            )

    def _update_steps(self, total_steps: int) -> range:
        every = self.args.teacher_interval(total_steps)
        if not every:
            return range(0)
        # The k-th state of the trajectory is the one after k intervals; after its first step a run is still at the start,
        # which would count twice.
        early = self.args.teacher == "ema" and self.args.ema_from_first_step
        return range(0 if early else every - 1, total_steps, every)

    def teacher_features(self, batch: Mapping[str, Tensor]) -> ClipFeatures | None:
        """
        What the teacher says of a batch.

        Args:
            batch (`Mapping[str, torch.Tensor]`): What the collator made.

        Returns:
            [`ClipFeatures`], *optional*: Without gradient; `None` without a teacher, and in the first step, where teacher
            and student are still the same.
        """
        if self.teacher is None or self.optimizer_steps == 0:
            return None
        with torch.no_grad():
            return self.encode_global(self.teacher, batch)

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = super().loss_terms(features, batch)
        teacher = self.teacher_features(batch)
        return terms if teacher is None else {**terms, **self.distillation_terms(features, teacher)}

    def distillation_terms(self, features: ClipFeatures, teacher: ClipFeatures) -> dict[str, Tensor]:
        """
        The terms of an objective that distils; it calls `super()` as in `loss_terms`.

        Args:
            features ([`ClipFeatures`]): The student's.
            teacher ([`ClipFeatures`]): The teacher's, of the same batch, without gradient.

        Returns:
            `dict[str, torch.Tensor]`: Weighted scalars by name.
        """
        return {}

    def after_optimizer_step(self) -> None:
        super().after_optimizer_step()
        if self.teacher is None:
            return
        step, total_steps = self.optimizer_steps - 1, self.state.max_steps
        steps = self._update_steps(total_steps)
        if step in steps:
            self.teacher_updates += 1
            self.last_momentum = self._momentum(step, total_steps, len(steps))
            update_teacher(self.teacher, self.exported_parameters(), self.last_momentum)
            self._teacher_captions.clear()

    def _momentum(self, step: int, total_steps: int, updates: int) -> float:
        args = self.args
        if args.teacher == "ema":
            return ema_momentum(
                step, total_steps, args.ema_start_momentum, args.ema_end_momentum, args.ema_warmup_ratio
            )
        before = self._kernel_sum
        self._kernel_sum += beta_kernel(self.teacher_updates, updates, args.trajectory_beta)
        return before / self._kernel_sum

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
            if self.args.teacher == "trajectory":
                state["teacher_kernel_sum"] = self._kernel_sum
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        if self.teacher is not None:
            take_module(state, "teacher", self.teacher)
            self._teacher_captions.clear()
            self.teacher_updates = take(state, "teacher_updates")
            self.last_momentum = take(state, "teacher_momentum")
            if self.args.teacher == "trajectory":
                self._kernel_sum = take(state, "teacher_kernel_sum")

    def log_values(self) -> dict[str, float]:
        values = super().log_values()
        if self.last_momentum is not None:
            values["teacher/momentum"] = self.last_momentum
            values["teacher/updates"] = self.teacher_updates
        return values
