# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The settings that every run has: `TrainingArguments` and ours. Those of the objectives are declared beside these."""

from __future__ import annotations

import os
from copy import deepcopy
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from accelerate import PartialState
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils.generic import strtobool

from ..data.shares import ceil_share
from ..evaluation.metric_names import checked_direction
from ..objectives.settings import STEPS, WEIGHT, Range, problem, setting
from .distributed import adopt_launcher
from .given import RecordsGiven
from .ranges import RANGES
from .selective_projection import SPD
from .usual_arguments import check_choice_of_best, check_usual_arguments

#: What the authors' CaRot code does where Transformers, or we, do otherwise. Their loader shuffles, as ours does.
REFERENCE_PRESET: dict[str, Any] = {
    "lr_schedule": "reference",
    "max_grad_norm": 0.0,
    "decay_all_parameters": True,
    "bound_logit_scale": False,
    "ema_from_first_step": True,
}
#: Transformers' choice among its own depends on the version of torch.
_OPTIMIZER = TrainingArguments.__dataclass_fields__["optim"].default
#: Transformers' interval between log entries, from which a short run takes less; see the class.
DEFAULT_LOGGING_STEPS = 500


@dataclass
class RunArguments(RecordsGiven, TrainingArguments):
    """Settings of every run."""

    learning_rate: float = setting(1e-5, "Peak learning rate.", paper=1e-5)
    weight_decay: float = setting(0.1, "Weight decay of AdamW.", paper=0.1)
    optim: str = setting(
        _OPTIMIZER,
        "The optimizer: one of Transformers', or 'spd', AdamW with selective projection decay towards the starting weights "
        "(Tian et al., NeurIPS 2024) in place of the weight decay.",
        choices=[*(name.value for name in OptimizerNames), SPD],
    )
    spd_weight: float = setting(
        1.0,
        "Strength of the decay of --optim spd: the share that is taken back of a step away from the start which the gradient "
        "opposes.",
        range=Range("must be finite and not negative; 0 switches the projection off", below=True),
    )
    lr_scheduler_type: str = setting("cosine", "Schedule after the warm-up.", paper="cosine")
    warmup_steps: float = setting(
        0.02,
        "Warm-up in optimizer steps, or, below 1, as a fraction of the run (the paper's 500 of 25,030).",
        paper=0.02,
        range=STEPS,
    )
    remove_unused_columns: bool = setting(False, "Drop columns the model does not take. The collator needs them.")
    logging_nan_inf_filter: bool = setting(
        False, "Average NaN losses away in the log. Off: the run stops and names the term that is not finite."
    )

    contrastive_chunk_size: int = setting(
        0,
        "Pairs of a batch that are encoded at once: the same gradients in the memory of a chunk, for one more forward "
        "pass. 0 encodes the whole batch at once.",
        range=Range("must be a number of pairs, or 0 for the whole batch", whole_from=0),
    )
    lr_schedule: str = setting(
        "transformers",
        "Schedule of the learning rate: 'transformers' (as lr_scheduler_type says), 'reference' (the authors' code: linear "
        "warm-up from 1/warmup_steps of the peak, then cosine) or 'epoch_cosine' (CRoFT's code: an epoch at 1e-5, then a "
        "cosine that moves once per epoch).",
        choices=["transformers", "reference", "epoch_cosine"],
    )
    min_lr: float = setting(0.0, "Added to the cosine of the reference schedule.", paper=0, range=WEIGHT)
    decay_all_parameters: bool = setting(
        False,
        "Weight decay on norms, biases and the logit scale too, as the authors' code; decaying the logit scale makes every "
        "model less confident over time. SigLIP's scale and the bias beside it never decay.",
    )
    bound_logit_scale: bool = setting(
        True,
        "Keep the logit scale at or below max(100, the loaded scale) after each step, as CLIP's pretraining did; the "
        "authors' code does not.",
    )
    preset: str = setting(
        "none",
        "Do what the authors' code does otherwise: 'reference' sets lr_schedule, max_grad_norm, decay_all_parameters, "
        "bound_logit_scale and ema_from_first_step as it has them, where you give none.",
        choices=["none", "reference"],
    )
    train_crop: str = setting(
        "carot",
        "Random crops of the training images: 'carot' (0.9 to 1 of the area, no flip), 'croft' (0.08 to 1, flipped half of "
        "the time) or 'tip_adapter' (0.5 to 1, flipped half of the time).",
        choices=["carot", "croft", "tip_adapter"],
    )
    cache_images: str = setting(
        "none",
        "Keep decoded training images: 'uint8' decodes each once and keeps its 256 levels in output_dir until the run ends, for all "
        "readers and epochs; for sets that fit in memory. JPEGs are then not decoded at a fraction of their size.",
        choices=["none", "uint8"],
    )
    shuffle_buffer: int = setting(
        1000,
        "Rows of a stream that each reader shuffles at once, held encoded in memory.",
        range=Range("must be 1 (the order of the files) or more rows", low=1, whole_from=1),
    )
    fully_shard: bool = setting(
        False,
        "Spread weights, gradients and optimizer over the processes with FSDP2, on CPU or accelerators, under any launcher.",
    )
    log_gradient_shares: float = setting(
        0.5,
        "Measure how much each term of the loss moves the parameters, once in so many optimizer steps or, below 1, in such a "
        "fraction of the run; it is logged as gradient_share/<term>, and a term that moves next to nothing is warned of. A "
        "measurement costs a backward pass per term. 0 is off.",
        range=STEPS,
    )
    save_on_interrupt: bool = setting(
        True, "Write a checkpoint when Ctrl-C or SIGTERM stops the run, unless save_strategy is 'no'."
    )

    def __post_init__(self):
        self._take_suggestions()
        if self.preset == "reference":
            known = {name: value for name, value in REFERENCE_PRESET.items() if hasattr(self, name)}
            self.suggest(known, "preset reference")
        if self.optim == SPD:
            # It takes the place of the decay towards 0, and has no options of another optimizer's.
            others = {"optim_args": None} if self.optim_args else {}
            self.suggest({"weight_decay": 0.0, **others}, "optim spd")
        self._check_values()
        if self.metric_for_best_model is not None:
            self.greater_is_better = checked_direction(self.metric_for_best_model, self.greater_is_better)
        check_choice_of_best(self)
        self._check_against_transformers()
        if self.auto_find_batch_size:
            raise ValueError(
                "`auto_find_batch_size` would change the number of negatives, and with it the objective, in mid-run; "
                "set --per_device_train_batch_size to a size that fits."
            )
        adopt_launcher(self)
        check_usual_arguments(self)
        self._record_assignments()

    def _check_against_transformers(self) -> None:
        own = self.optim if self.optim == SPD else None
        if own:
            # Transformers takes no other optimizer than its own.
            self.optim = OptimizerNames.ADAMW_TORCH
        if self.use_cpu or strtobool(os.environ.get("ACCELERATE_USE_CPU", "False")):
            # Transformers gives the processes their time limit on accelerators alone; those that have met keep it.
            PartialState(cpu=True, backend=self.ddp_backend, timeout=timedelta(seconds=self.ddp_timeout))
        TrainingArguments.__post_init__(self)
        if own:
            self.optim = own

    def _check_values(self) -> None:
        for f in fields(self):
            value, choices, allowed = getattr(self, f.name), f.metadata.get("choices"), f.metadata.get("range")
            # Of Transformers' own fields those that were not declared again are its own to check, except for the range.
            ours = "paper" in f.metadata
            if choices and ours and value not in choices:
                raise ValueError(f"`{f.name}={value!r}` is unknown; choose one of {', '.join(choices)}.")
            if f.name in self.given:
                allowed = allowed or RANGES.get(f.name)
            wrong = problem(f, value, allowed) if ours or allowed is not None else None
            if wrong is not None:
                raise ValueError(f"`{f.name}={value!r}` {wrong}.")
        if self.lr_schedule == "epoch_cosine" and (
            self.max_steps > 0 or self.num_train_epochs < 1 or self.num_train_epochs % 1
        ):
            length = "max_steps" if self.max_steps > 0 else "num_train_epochs"
            raise ValueError(
                f"`lr_schedule='epoch_cosine'` moves with whole epochs and cannot follow `{length}={getattr(self, length)}`; "
                "give --num_train_epochs as a whole number of at least 1 and no --max_steps, or set --lr_schedule transformers "
                "(it comes from a recipe or from --paper_settings where you did not give it)."
            )

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """As Transformers', but 0.07 of 100 is 7: their float product is 7.000000000000001, which they round up."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return ceil_share(self.warmup_steps, num_training_steps)

    def __getstate__(self) -> dict[str, Any]:
        # Trainer pickles its arguments into `training_args.bin`, which is pushed: the token must not be in it.
        return {**self.__dict__, "hub_token": None}

    def __copy__(self) -> RunArguments:
        # By the state of a pickle a copy would lose the token.
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> RunArguments:
        copied = object.__new__(type(self))
        vars(copied).update(deepcopy(vars(self), memo))
        return copied
