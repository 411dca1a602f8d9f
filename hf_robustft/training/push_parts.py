# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a push is made of: the settings that it tells, and the files as they are at its moment."""

from __future__ import annotations

import os
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..publishing.folder import leaves
from .distributed import effective_precision
from .schedules import FIRST_EPOCH_RATE, WITHOUT_WARMUP

_PRECISION = {"fp32": "float32", "bf16": "bf16, mixed", "fp16": "fp16, mixed"}


def changed_arguments(args: TrainingArguments) -> dict[str, Any]:
    """The training arguments that are not at their defaults, those of private nature included."""
    # TrainingArguments turns the default None of some switches into False.
    defaults = {field.name: field.default or False for field in fields(args)}
    return {
        name: value
        for name, value in vars(args).items()
        if name in defaults and isinstance(value, (bool, int, float, str)) and (value or False) != defaults[name]
    }


def what_ran(args: TrainingArguments, optimizer: Any = None, scheduler: Any = None) -> dict[str, str]:
    """
    What a card states of a training run in any case, defaults included: name and value in words.

    Settings that neither the user gave nor the library's own defaults hold come with their origin: a method's defaults, a
    recipe, the launcher.

    Args:
        args ([`~transformers.TrainingArguments`]): Settings of the run.
        optimizer, scheduler (*optional*): Those that trained in place of what the settings say.
    """
    each, processes, accumulation = args.train_batch_size, args.world_size, args.gradient_accumulation_steps
    length = f"{args.max_steps:,} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    precision = effective_precision(args)
    origins = "; ".join(args.described_origins()) if hasattr(args, "described_origins") else ""
    rate, decay, kind = f"{args.learning_rate:g}", f"{args.weight_decay:g}", getattr(args.optim, "value", args.optim)
    if optimizer is not None:
        groups = optimizer.param_groups
        rate = _values([group.get("initial_lr", group["lr"]) for group in groups])
        decay, kind = _values([group.get("weight_decay", 0.0) for group in groups]), type(optimizer).__name__
    schedule = _schedule(args) if scheduler is None else f"schedule {type(scheduler).__name__}"
    return {
        "Learning rate": f"{rate}, {schedule}",
        "Batch": f"{each:,} per device × {processes} {'process' if processes == 1 else 'processes'} × {accumulation} accumulated = "
        f"{each * processes * accumulation:,}",
        "Length": length,
        "Precision": _PRECISION.get(precision, precision),
        "Optimizer": f"{kind}, weight decay {decay}",
        **({"Not set by hand": origins} if origins else {}),
    }


def _schedule(args: TrainingArguments) -> str:
    name = getattr(args, "lr_schedule", None) or "transformers"
    if name == "transformers":
        name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if name == "epoch_cosine":
        warmup = f"one epoch at {FIRST_EPOCH_RATE:g}"
    elif not args.warmup_steps or name in WITHOUT_WARMUP:
        warmup = "none"
    else:
        share = args.warmup_steps < 1
        warmup = f"{100 * args.warmup_steps:g} % of the steps" if share else f"{args.warmup_steps:g} steps"
    return f"schedule {name}, warm-up {warmup}"


def _values(numbers: list[float]) -> str:
    return " and ".join(dict.fromkeys(f"{number:g}" for number in numbers))


def linked_copy(folder: Path, copy: Path) -> None:
    """A copy of a folder whose files take no space where the file system allows: they are never rewritten, only removed."""

    def left_out(place: str, names: list[str]) -> list[str]:
        # A copy would hold what a link points to outside of the folder.
        return [name for name in names if leaves(Path(place) / name, folder)]

    def link(source: str, target: str) -> None:
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    shutil.copytree(folder, copy, copy_function=link, ignore=left_out)
