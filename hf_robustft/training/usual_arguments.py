# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Settings of Transformers' own that could do nothing here, or harm: refused by name, with what to use instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
from transformers import get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    is_azureml_available,
    is_flytekit_available,
)

from .optimizer_options import check_optimizer_options
from .selective_projection import SPD

_LOOP = "belongs to Transformers' evaluation loop, and benchmarks are measured by `Evaluator`; leave it out"
_TEXT = "is for models that write text, which a dual encoder is not; leave it out"
_HALF = "would measure other weights than those that are saved; leave it out, `bf16` covers the training"

#: Fields of `TrainingArguments` that only work at their default, and what to say of another value.
REFUSED = {
    "average_tokens_across_devices": "has nothing to average: losses count images, not tokens; leave it out",
    "batch_eval_metrics": _LOOP,
    "bf16_full_eval": _HALF,
    "dataloader_in_order": "would give batches in an order that nobody can repeat, so that a resumed run skipped others than those that it has "
    "seen; leave it out",
    "do_predict": "has nothing to predict with; classify images with `hf_robustft.pipeline` on the finished folder",
    "eval_accumulation_steps": _LOOP,
    "eval_do_concat_batches": _LOOP,
    "eval_use_gather_object": _LOOP,
    "fp16_full_eval": _HALF,
    "include_for_metrics": _LOOP,
    "include_num_input_tokens_seen": _TEXT,
    "label_names": "would rename no column here; the benchmark's `label_column` names the labels",
    "length_column_name": "serves sampling by length, which image-text pairs do not have; leave it out",
    "liger_kernel_config": "configures kernels that dual encoders do not have; use `torch_compile`",
    "logging_nan_inf_filter": "has nothing to filter: a loss that is not finite stops the run by name; leave it out",
    "neftune_noise_alpha": _TEXT,
    "parallelism_config": "spreads models by means that dual encoders do not have; use `fully_shard`",
    "prediction_loss_only": _LOOP,
    "remove_unused_columns": "would drop the images and labels that batches are made of; leave it out",
    "use_cache": _TEXT,
    "use_liger_kernel": "has no kernels for dual encoders; use `torch_compile`",
}

#: Arguments of `Trainer` that could do nothing, and what to use instead.
REFUSED_OF_TRAINER = {
    "compute_loss_func": "is not called, as the loss is the sum of the objectives' terms; write an `ObjectiveMixin`",
    "compute_metrics": "is not called, as benchmarks are measured by `Evaluator`; override `evaluate` and `available_metrics`",
    "model_init": "is not called, as head, adapters and teacher belong to one model; pass `model=`, in a Trainer for each",
    "preprocess_logits_for_metrics": "is not called, as benchmarks are measured by `Evaluator`; leave it out",
}

#: What schedules cannot do without, as `lr_scheduler_kwargs`.
_LOWEST = '\'{"min_lr_rate": 0.1}\', the lowest rate as a share of the highest (or "min_lr", the rate itself)'
_NEEDED = {
    "cosine_with_min_lr": _LOWEST,
    "cosine_warmup_with_min_lr": _LOWEST,
    "warmup_stable_decay": "'{\"num_decay_steps\": 100}', the steps of the decay at the end",
}

_PACKAGES = {"azure_ml": "azureml-mlflow", "comet_ml": "comet-ml", "flyte": "flytekit"}


def check_usual_arguments(args: Any) -> None:
    """
    Refuse fields of `TrainingArguments` that could do nothing.

    Args:
        args ([`RobustTrainingArguments`]): Settings of a run.

    Raises:
        ValueError: If one of `REFUSED` is not at its default, or a field serves an optimizer, schedule or tracker that the
            run does not have.
    """
    defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(args)}
    for name, advice in REFUSED.items():
        value = getattr(args, name)
        if (value or None) != (defaults[name] or None):
            raise ValueError(f"`{name}={value}` {advice}.")
    for name in ("activation_checkpointing_kwargs", "lr_scheduler_kwargs"):
        value = getattr(args, name)
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"`{name}={value}` must be a mapping; write it as JSON on a command line.")
    if args.activation_checkpointing_kwargs and not args.activation_checkpointing:
        raise ValueError(
            f"`activation_checkpointing_kwargs={args.activation_checkpointing_kwargs}` would do nothing without "
            "`activation_checkpointing`; switch it on, or leave them out."
        )
    if args.fsdp_config and not args.fsdp:
        raise ValueError(
            f"`fsdp_config={args.fsdp_config}` configures Accelerate's FSDP plugin, which cannot spread such a model; leave "
            "it out, and use `fully_shard`."
        )
    optim = str(getattr(args.optim, "value", args.optim))
    if args.optim_target_modules is not None and not optim.startswith(("galore", "apollo")):
        raise ValueError(
            f"`optim_target_modules={args.optim_target_modules}` serves GaLore and APOLLO, not `optim={optim!r}`; leave it out."
        )
    if optim == SPD and args.optim_args:
        raise ValueError(
            f"`optim_args={args.optim_args}` serves optimizers of Transformers, not `optim='spd'`, which has --spd_weight, "
            "--adam_beta1, --adam_beta2 and --adam_epsilon; leave it out."
        )
    if optim != SPD and "spd_weight" in args.given:
        raise ValueError(
            f"`spd_weight={args.spd_weight:g}` is the strength of `optim='spd'` and would do nothing with `optim={optim!r}`; "
            "set --optim spd, or leave it out."
        )
    check_optimizer_options(args)
    if args.lr_schedule != "transformers":
        for name in ("lr_scheduler_type", "lr_scheduler_kwargs"):
            if name in args.given and getattr(args, name) != defaults[name]:
                raise ValueError(
                    f"`lr_schedule={args.lr_schedule!r}` is a schedule of its own, beside which `{name}="
                    f"{getattr(getattr(args, name), 'value', getattr(args, name))}` would do nothing; give one of the two."
                )
    kind = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if (
        args.lr_schedule == "transformers"
        and args.lr_scheduler_kwargs
        and kind in ("constant", "constant_with_warmup")
    ):
        raise ValueError(
            f"`lr_scheduler_kwargs={args.lr_scheduler_kwargs}` would do nothing, as `lr_scheduler_type={kind}` takes none; "
            "leave it out."
        )
    if args.min_lr and args.lr_schedule != "reference":
        raise ValueError(
            f"`min_lr={args.min_lr}` is added to the reference schedule only; set `lr_schedule='reference'`, or "
            "`lr_scheduler_type='cosine_with_min_lr'` with `lr_scheduler_kwargs`."
        )
    _check_schedule(args)
    check_trackers(args.report_to)


def check_choice_of_best(args: Any) -> None:
    """
    Refuse `load_best_model_at_end` where the checkpoints are not those that are measured, and say what to add.

    Args:
        args ([`RobustTrainingArguments`]): Settings of a run, before Transformers has looked at them.

    Raises:
        ValueError: If nothing is measured, or not whenever a checkpoint is saved.
    """
    if not args.load_best_model_at_end:
        return
    measured, saved = (getattr(value, "value", value) for value in (args.eval_strategy, args.save_strategy))
    if saved == "best" and measured != "no":
        return
    if saved != measured or saved == "no":
        add = f"--save_strategy {measured}" if measured != "no" else f"--eval_strategy {saved}"
        if measured == "no" and saved not in ("steps", "epoch"):
            add = "--eval_strategy epoch --save_strategy epoch"
        raise ValueError(
            "`load_best_model_at_end` chooses among checkpoints that are measured when they are saved, and here "
            f"`eval_strategy={measured!r}` and `save_strategy={saved!r}`; add {add}, or leave it out."
        )


def _check_schedule(args: Any) -> None:
    name, settings = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type), args.lr_scheduler_kwargs or {}
    if name in ("reduce_lr_on_plateau", "greedy"):
        # They follow a metric, whose direction is not known yet.
        return
    try:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
        scheduler = get_scheduler(name, optimizer, 1, 100, scheduler_specific_kwargs=dict(settings))
        for rate in getattr(scheduler, "lr_lambdas", ()):
            # Some look at their settings after the warm-up, or at the end.
            _ = [float(rate(step)) for step in (1, 50, 99, 100)]
    except Exception as error:
        # Whatever Transformers' functions raise for settings that they do not take.
        advice = f"give --lr_scheduler_kwargs {_NEEDED[name]}" if name in _NEEDED else "correct lr_scheduler_kwargs"
        raise ValueError(
            f"`lr_scheduler_type={name!r}` cannot be made with `lr_scheduler_kwargs={dict(settings)}` "
            f"({' '.join(str(error).split())}); {advice}."
        ) from error


def check_trackers(names: list[str]) -> None:
    """
    Refuse trackers that cannot be reported to, before any work.

    Args:
        names (list of `str`): From `report_to`.

    Raises:
        ValueError: If Transformers knows no such tracker, or its package is not installed.
    """
    if not names:
        return
    available = set(get_available_reporting_integrations())
    available |= {"azure_ml"} if is_azureml_available() else set()
    available |= {"flyte"} if is_flytekit_available() else set()
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            close = difflib.get_close_matches(str(name), INTEGRATION_TO_CALLBACK, n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(
                f"`report_to={name!r}` is unknown{hint}; choose of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, or 'none'."
            )
        if name not in available:
            raise ValueError(
                f"`report_to={name!r}` needs a package that is not installed here; `pip install "
                f"{_PACKAGES.get(name, name)}`, or leave --report_to out."
            )


def check_trainer_options(options: Mapping[str, Any]) -> None:
    """
    Refuse arguments of `Trainer` that could do nothing.

    Args:
        options (`Mapping[str, Any]`): Keyword arguments that a Trainer was given.

    Raises:
        ValueError: If one of `REFUSED_OF_TRAINER` is given.
    """
    for name, advice in REFUSED_OF_TRAINER.items():
        if options.get(name) is not None:
            raise ValueError(f"`{name}` {advice}.")
