# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Every knob of a run: `TrainingArguments` plus those of the objectives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import TrainingArguments

from ..data.shares import ceil_share, floor_share
from ..evaluation.metric_names import checked_direction
from .distributed import adopt_launcher
from .given import RecordsGiven
from .ranges import RANGES, out_of_range
from .usual_arguments import check_choice_of_best, check_usual_arguments

#: What the authors' CaRot code does where Transformers, or we, do otherwise. Their loader shuffles, as ours does.
REFERENCE_PRESET: dict[str, Any] = {
    "lr_schedule": "reference",
    "max_grad_norm": 0.0,
    "decay_all_parameters": True,
    "bound_logit_scale": False,
    "ema_from_first_step": True,
}


#: Transformers' interval between log entries, from which a short run takes less; see the class.
DEFAULT_LOGGING_STEPS = 500


def _option(default: Any, text: str, **extra: Any) -> Any:
    return field(default=default, metadata={"help": text, **extra})


@dataclass
class RobustTrainingArguments(RecordsGiven, TrainingArguments):
    """
    [`~transformers.TrainingArguments`] with the settings of the objectives. Defaults are the published values of
    CaRot (Oh et al., NeurIPS 2024) unless a line says otherwise. A setting that is given and that the method does not use
    is refused when the Trainer is made.

    > Parameters that control the contrastive loss

        contrastive_positives (`str`, *optional*, defaults to `"diagonal"`):
            `"diagonal"`: only a pair's own caption is positive. `"same_label"`: every caption of its class is.
        contrastive_label_smoothing (`float`, *optional*, defaults to 0.0):
            Share of the target spread over the batch.
        contrastive_chunk_size (`int`, *optional*, defaults to 0):
            Pairs of a batch that are encoded at once: the same gradients in the memory of a chunk, for one more
            forward pass. 0 encodes the whole batch at once.

    > Parameters that control the constraint on the projections

        orthogonality_weight (`float`, *optional*, defaults to 0.2):
            Weight of the (un-squared) norm of `W Wᵀ - I` of the visual projection.
        cross_frobenius_weight (`float`, *optional*, defaults to 0.05):
            Weight of the norm of the product of both projections.

    > Parameters that control self-distillation

        distillation_weight (`float`, *optional*, defaults to 1.5):
            Weight of the distillation loss; 0 makes no teacher.
        ema_update_every (`float`, *optional*, defaults to 0.02):
            Optimizer steps between updates of the teacher, or, below 1, a fraction of the run (the paper's 500 of
            25,030). 0 keeps the teacher at the initial weights.
        ema_start_momentum (`float`, *optional*, defaults to 0.05), ema_end_momentum (`float`, *optional*, defaults
            to 0.9): Momentum of the teacher at the start and after its warm-up.
        ema_warmup_ratio (`float`, *optional*, defaults to 0.2):
            Length of that warm-up as a share of the run.
        ema_from_first_step (`bool`, *optional*, defaults to `True`):
            Count steps from 0, so that the first update follows the first step (as the authors' code); otherwise
            the first follows step `ema_update_every`.

    > Parameters that control the feature adapters and the energy gradient (CRoFT, Zhu et al., ICML 2024; defaults are
    those of its code)

        adapter_image_ratio (`float`, *optional*, defaults to 0.2), adapter_text_ratio (`float`, *optional*, defaults
            to 0.5): Share of the adapted in the mixed features; 0 leaves a side as it is.
        text_adapter_order (`str`, *optional*, defaults to `"before_ensemble"`):
            Adapt each prompt's feature (merges exactly into a `CLIPModel`), or the `"after_ensemble"` of the prompts
            (the authors' code for several templates; one template only, for want of a merge).
        croft_weight (`float`, *optional*, defaults to 1.0):
            Weight of all of CRoFT's terms beside other objectives; 0 switches them off.
        energy_gradient_weight (`float`, *optional*, defaults to 5.0):
            Weight of the energy-gradient penalty (the paper's lambda2).
        energy_gradient_reduction (`str`, *optional*, defaults to `"sum"`):
            How it pools: `"sum"` (the authors' ImageNet set-up) or `"mean"` (PACS, VLCS), smaller by orders of
            magnitude, with weights up to 1000.
        feature_shifts (`bool`, *optional*, defaults to `True`):
            Learn worst-case shifted features and train on them.
        shift_alignment_weight (`float`, *optional*, defaults to 1.0):
            Weight of the alignment of shifted and given features of a class (lambda1).
        energy_gradient_shifted (`bool`, *optional*, defaults to `True`):
            Pool shifted features in the energy gradient, and mix them back through the adapter. The authors' code
            does neither for VLCS.
        generator_steps (`int`, *optional*, defaults to 1):
            Steps of the generator of shifted features in each batch.
        generator_order (`str`, *optional*, defaults to `"auto"`):
            `"reference"`: as the authors' code, whose inner steps move the adapters too; frozen encoders only.
            `"clean"`: the generator steps alone, on detached features. `"auto"`: the first where encoders are frozen.
        generator_learning_rate (`float`, *optional*, defaults to 0.002), generator_momentum (`float`, *optional*,
            defaults to 0.9), generator_weight_decay (`float`, *optional*, defaults to 0.1):
            Of the generator's own SGD. Its rate follows the run's schedule.
        class_templates_per_step (`int`, *optional*, defaults to 1):
            With encoders that train, prompts of each class that are encoded in a step, drawn anew each time: 1, or 0
            for all templates.

    > Parameters that control optimisation

        lr_schedule (`str`, *optional*, defaults to `"transformers"`):
            `"transformers"`: as `lr_scheduler_type` says. `"reference"`: linear warm-up from `1/warmup_steps` of the
            peak, then cosine, as the authors' code. `"epoch_cosine"`: an epoch at 1e-5, then a cosine that moves once
            an epoch, as the code of CRoFT.
        min_lr (`float`, *optional*, defaults to 0.0):
            Added to the cosine of the reference schedule.
        decay_all_parameters (`bool`, *optional*, defaults to `False`):
            Weight decay on norms, biases and logit scale too, as the authors' code. Not the paper's point, and
            decaying the logit scale makes every model less confident over time.
        bound_logit_scale (`bool`, *optional*, defaults to `True`):
            Keep the logit scale at or below max(100, the loaded scale) after each step, as CLIP's pretraining did.
            The authors' code does not.

    > Parameters that control the training images

        train_crop (`str`, *optional*, defaults to `"carot"`):
            `"carot"`: random crops of 0.9 to 1 of the area, no flip. `"croft"`: of 0.08 to 1, flipped half of the time.
        shuffle_buffer (`int`, *optional*, defaults to 1000):
            Rows of a stream that each reader shuffles at once, held encoded in memory.

    > Parameters that control several processes

        fully_shard (`bool`, *optional*, defaults to `False`):
            Spread weights, gradients and optimizer over the processes with FSDP2, on CPU or accelerators, under any
            launcher. Accelerate's own FSDP plugin is refused: it cannot spread a `CLIPModel`.
        shard_teacher (`bool`, *optional*, defaults to `True`):
            With `fully_shard`: spread the teacher too, or keep it whole in each process (faster, more memory).

    > Parameters that control output

        save_on_interrupt (`bool`, *optional*, defaults to `True`):
            Write a checkpoint when Ctrl-C or SIGTERM stops the run, unless `save_strategy="no"`.
        export_weights (`str`, *optional*, defaults to `"student"`):
            Which weights `save_model` writes: `"student"` or `"teacher"`. Checkpoints always hold both.
        preset (`str`, *optional*, defaults to `"none"`):
            `"reference"` sets `lr_schedule`, `max_grad_norm=0`, `decay_all_parameters`, `bound_logit_scale=False` and
            `ema_from_first_step` as the authors' code has them. A field that you give keeps your value. The order of
            the data stays random, as in that code.

    Defaults that differ from `TrainingArguments`: `learning_rate=1e-5`, `weight_decay=0.1`,
    `lr_scheduler_type="cosine"`, `warmup_steps=0.02` (500 of 25,030), `remove_unused_columns=False` (the collator
    needs raw columns) and `logging_nan_inf_filter=False` (a loss that is not finite stops the run by name).

    `logging_steps` is 500 as in Transformers, or a twentieth of a run, whichever is less. A method has defaults of its
    own for what nobody gives (`Trainer.defaults`, such as CRoFT's rate); the Trainer sets them when it is made.
    `args.given` names the fields that you gave, `args.origins` where others come from that a preset or a recipe set.

    Raises:
        ValueError: At construction, for values that no run can have.
    """

    learning_rate: float = _option(1e-5, "Peak learning rate. Paper: 1e-5 for ViT-B/16 on ImageNet.")
    weight_decay: float = _option(0.1, "Weight decay of AdamW. Paper: 0.1.")
    lr_scheduler_type: str = _option("cosine", "Schedule after the warm-up. Paper: cosine.")
    warmup_steps: float = _option(
        0.02, "Warm-up in optimizer steps, or, below 1, as a fraction of the run. Paper: 500 of 25,030, that is 0.02."
    )
    remove_unused_columns: bool = _option(False, "Drop columns the model does not take. The collator needs them.")
    logging_nan_inf_filter: bool = _option(
        False, "Average NaN losses away in the log. Off: the run stops and names the term that is not finite."
    )

    contrastive_positives: str = _option(
        "diagonal",
        "Which captions are positives: 'diagonal' (a pair's own; the papers) or 'same_label' (all of its class).",
        choices=["diagonal", "same_label"],
    )
    contrastive_label_smoothing: float = _option(
        0.0, "Share of the contrastive target spread over the batch. Paper: 0."
    )
    contrastive_chunk_size: int = _option(
        0, "Pairs encoded at once: the whole batch's gradients in a chunk's memory, a forward pass dearer. 0: all."
    )

    orthogonality_weight: float = _option(0.2, "Weight of the orthogonality of the visual projection. Paper: 0.2.")
    cross_frobenius_weight: float = _option(
        0.05, "Weight of the norm of the product of the projections. Paper's published command: 0.05."
    )

    distillation_weight: float = _option(1.5, "Weight of self-distillation; 0 makes no teacher. Paper: 1.5.")
    ema_update_every: float = _option(
        0.02,
        "Optimizer steps between teacher updates, or, below 1, a fraction of the run. Paper: 500 of 25,030, that is "
        "0.02. 0 keeps the teacher at the initial weights.",
    )
    ema_start_momentum: float = _option(0.05, "Momentum of the teacher at the first step. Paper: 0.05.")
    ema_end_momentum: float = _option(0.9, "Momentum of the teacher after its warm-up. Paper: 0.9.")
    ema_warmup_ratio: float = _option(0.2, "Warm-up of the momentum as a share of the run. Paper: 0.2.")
    ema_from_first_step: bool = _option(
        True, "Update the teacher after steps 0, k, 2k, ... (authors' code) instead of k-1, 2k-1, ..."
    )

    adapter_image_ratio: float = _option(0.2, "Share of the adapted in the mixed image features. Paper: 0.2.")
    adapter_text_ratio: float = _option(0.5, "Share of the adapted in the mixed text features. Paper: 0.5.")
    text_adapter_order: str = _option(
        "before_ensemble",
        "Adapt prompts 'before_ensemble' (merges exactly) or 'after_ensemble' (the authors' code; one template only).",
        choices=["before_ensemble", "after_ensemble"],
    )
    croft_weight: float = _option(1.0, "Weight of all of CRoFT's terms beside other objectives; 0 is off.")
    energy_gradient_weight: float = _option(5.0, "Weight of the energy-gradient penalty (lambda2). Paper's code: 5.")
    energy_gradient_reduction: str = _option(
        "sum",
        "Pooling of the energy gradient: 'sum' (the authors' ImageNet set-up) or 'mean' (PACS, VLCS; much smaller).",
        choices=["sum", "mean"],
    )
    feature_shifts: bool = _option(True, "Learn worst-case shifted features and train on them.")
    shift_alignment_weight: float = _option(
        1.0, "Weight of the alignment of shifted and given features of a class (lambda1). Paper's code: 1."
    )
    energy_gradient_shifted: bool = _option(
        True, "Pool shifted features in the energy gradient and mix them back (the authors' code: not for VLCS)."
    )
    generator_steps: int = _option(1, "Steps of the generator of shifted features in each batch. Paper's code: 1.")
    generator_order: str = _option(
        "auto",
        "'reference' (the authors' code; frozen encoders only), 'clean' (the generator steps alone), or 'auto'.",
        choices=["auto", "reference", "clean"],
    )
    generator_learning_rate: float = _option(0.002, "Peak learning rate of the generator's SGD. Paper's code: 0.002.")
    generator_momentum: float = _option(0.9, "Momentum of the generator's SGD. Paper's code: 0.9.")
    generator_weight_decay: float = _option(0.1, "Weight decay of the generator's SGD. Paper's code: 0.1.")
    class_templates_per_step: int = _option(
        1, "With trainable encoders: prompts of each class encoded in a step, 1 (drawn anew) or 0 (all templates)."
    )

    lr_schedule: str = _option(
        "transformers",
        "'transformers' (lr_scheduler_type), 'reference' (first step at 1/warmup of the peak, then cosine) or "
        "'epoch_cosine' (CRoFT: an epoch at 1e-5, then a cosine that moves once an epoch).",
        choices=["transformers", "reference", "epoch_cosine"],
    )
    min_lr: float = _option(0.0, "Added to the cosine of the reference schedule. Paper: 0.")
    decay_all_parameters: bool = _option(
        False, "Weight decay on norms, biases and the logit scale too, as the authors' code."
    )
    bound_logit_scale: bool = _option(True, "Keep the logit scale at or below max(100, the loaded scale).")

    train_crop: str = _option(
        "carot",
        "Random crops of the training images: 'carot' (0.9 to 1 of the area) or 'croft' (0.08 to 1, and flips).",
        choices=["carot", "croft"],
    )
    shuffle_buffer: int = _option(1000, "Rows of a stream that each reader shuffles at once, held encoded in memory.")

    fully_shard: bool = _option(False, "Spread model and teacher over the processes with FSDP2, on CPU too.")
    shard_teacher: bool = _option(True, "With fully_shard: spread the teacher too, or keep it whole in each process.")

    save_on_interrupt: bool = _option(
        True, "Write a checkpoint when Ctrl-C or SIGTERM stops the run, unless save_strategy is 'no'."
    )
    export_weights: str = _option(
        "student", "Weights that save_model writes: 'student' or 'teacher' (the EMA).", choices=["student", "teacher"]
    )
    preset: str = _option(
        "none", "'reference' sets what the authors' code does otherwise; see the class.", choices=["none", "reference"]
    )

    def __post_init__(self):
        self._take_suggestions()
        self._check_choices()
        if self.preset == "reference":
            self.suggest(REFERENCE_PRESET, "preset reference")
        self._check_numbers()
        if self.metric_for_best_model is not None:
            self.greater_is_better = checked_direction(self.metric_for_best_model, self.greater_is_better)
        check_choice_of_best(self)
        TrainingArguments.__post_init__(self)
        if self.auto_find_batch_size:
            raise ValueError(
                "`auto_find_batch_size` would change the number of negatives, and with it the objective, in mid-run; "
                "set --per_device_train_batch_size to a size that fits."
            )
        adopt_launcher(self)
        check_usual_arguments(self)
        self._record_assignments()

    def _check_choices(self) -> None:
        for f in fields(self):
            choices = f.metadata.get("choices")
            if f.name in _OWN and choices and getattr(self, f.name) not in choices:
                raise ValueError(
                    f"`{f.name}={getattr(self, f.name)!r}` is unknown; choose one of {', '.join(choices)}."
                )

    def _check_numbers(self) -> None:
        weights = ["orthogonality_weight", "cross_frobenius_weight", "distillation_weight", "min_lr", "croft_weight"]
        weights += ["energy_gradient_weight", "shift_alignment_weight", "generator_learning_rate"]
        for name in (*weights, "generator_weight_decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"`{name}={value}` must be finite and not negative; 0 switches the term off.")
        ratios = ("adapter_image_ratio", "adapter_text_ratio", "generator_momentum")
        for name in ("ema_start_momentum", "ema_end_momentum", "ema_warmup_ratio", *ratios):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}={value}` must lie in [0, 1].")
        if not 0 <= self.contrastive_label_smoothing < 1:
            raise ValueError(
                f"`contrastive_label_smoothing={self.contrastive_label_smoothing}` must lie in [0, 1); 0 is off."
            )
        for name in ("ema_update_every", "warmup_steps"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value >= 1 and value != int(value)):
                raise ValueError(
                    f"`{name}={value}` must be a whole number of optimizer steps, or a fraction of the run below 1."
                )
        if self.contrastive_chunk_size < 0:
            raise ValueError(
                f"`contrastive_chunk_size={self.contrastive_chunk_size}` must be a number of pairs, or 0 for the whole batch."
            )
        if self.shuffle_buffer < 1:
            raise ValueError(f"`shuffle_buffer={self.shuffle_buffer}` must be 1 (the order of the files) or more rows.")
        if self.generator_steps < 0:
            raise ValueError(f"`generator_steps={self.generator_steps}` must be 0 or more steps a batch.")
        if self.class_templates_per_step not in (0, 1):
            raise ValueError(
                f"`class_templates_per_step={self.class_templates_per_step}` must be 1 (one prompt a class, drawn anew in "
                "each step) or 0 (all templates)."
            )
        if self.lr_schedule == "epoch_cosine" and (
            self.max_steps > 0 or self.num_train_epochs < 1 or self.num_train_epochs % 1
        ):
            given = f"max_steps={self.max_steps}" if self.max_steps > 0 else f"num_train_epochs={self.num_train_epochs}"
            raise ValueError(
                f"`lr_schedule='epoch_cosine'` moves with whole epochs and cannot follow `{given}`; give "
                "--num_train_epochs as a whole number of at least 1, and no --max_steps."
            )
        for name in RANGES:
            value = getattr(self, name, None)
            # A text, as Transformers allows for some, is its own to read.
            problem = out_of_range(name, value) if isinstance(value, (int, float)) else None
            if problem is not None and name in self.given:
                raise ValueError(f"`{name}={value}` {problem}.")

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

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """As Transformers', but 0.07 of 100 is 7: their float product is 7.000000000000001, which they round up."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return ceil_share(self.warmup_steps, num_training_steps)

    def __getstate__(self) -> dict[str, Any]:
        # Trainer pickles its arguments into `training_args.bin`, which is pushed: the token must not be in it.
        return {**self.__dict__, "hub_token": None}


_OWN = set(RobustTrainingArguments.__annotations__)
