# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Options of a training command that its method, its data or its other options have no use for are refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hf_robustft.cli.data_sets import default_evaluation
from hf_robustft.training.methods import METHODS

#: What a command that trains nothing still reads of `RobustTrainingArguments`; and what says that nothing is done.
_MEASURING = {
    "output_dir",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "disable_tqdm",
    "use_cpu",
    "seed",
    "data_seed",
    "log_level",
    "push_to_hub",
    "ddp_backend",
    "ddp_timeout",
}
_NOTHING = {"report_to": [], "save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no"}
#: Methods that learn from class labels, which image-caption pairs do not have.
_OF_CLASSES = ("ft", "croft", "carot+croft", "wise_ft")


def trainer_of(method: str) -> type | None:
    """The Trainer class behind `--method`; `None` for a method that trains nothing."""
    return METHODS.get("ft" if method == "wise_ft" else method)


def paper_settings(method: str) -> dict[str, Any]:
    """
    The settings of a method's paper, its batch shared out over the processes that were started.

    Raises:
        ValueError: If no paper describes the method, or the processes cannot share the batch.
    """
    settings = dict(getattr(trainer_of(method), "paper_settings", {}))
    if not settings:
        known = ", ".join(name for name, trainer in METHODS.items() if trainer.paper_settings)
        raise ValueError(
            f"`--paper_settings`: no paper has settings for `--method {method}`; it is for {known}, wise_ft."
        )
    name = "per_device_train_batch_size"
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if settings[name] % processes:
        raise ValueError(
            f"`--paper_settings`: {processes} processes cannot share the paper's batch of {settings[name]} equally; start "
            f"another number, or give --{name}."
        )
    return {**settings, name: settings[name] // processes}


def check_options(model_args: Any, data_args: Any, args: Any) -> None:
    """
    Refuse what was given and would be ignored, before anything is loaded.

    Args:
        model_args ([`ModelArguments`]), data_args ([`DataArguments`]), args ([`RobustTrainingArguments`]): The parts of
            the command line. Each knows what was given.

    Raises:
        ValueError: By the name of the option, with what it is for.
    """
    method = model_args.method
    trains = method != "zero_shot" and not (method == "wise_ft" and model_args.finetuned_model)
    _check_model_options(model_args)
    _check_data_options(model_args, data_args, trains)
    if not _measures(data_args) and "eval_strategy" in args.given and args.eval_strategy != "no":
        _refuse(args, ["eval_strategy"], "nothing is measured without --eval_datasets")
    if data_args.feature_views == 0:
        _refuse(args, ["train_crop"], "--feature_views 0 computes one view by the evaluation transform")
    if trains:
        trainer_of(method).check_settings(args)
        return
    what = "zero_shot trains nothing" if method == "zero_shot" else "--finetuned_model is trained already"
    for name in sorted(args.given - _MEASURING):
        value = getattr(args, name)
        if not name.startswith("hub_") and not (name in _NOTHING and value == _NOTHING[name]):
            _refuse(args, [name], f"{what}, and this is a setting of training")


def _check_model_options(model_args: Any) -> None:
    if model_args.method != "wise_ft":
        _refuse(model_args, ["alpha", "finetuned_model"], f"it is for --method wise_ft, not {model_args.method}")
    if model_args.detector == "none":
        _refuse(model_args, ["true_positive_rate"], "--detector none fits no detector")


def _check_data_options(model_args: Any, data_args: Any, trains: bool) -> None:
    method = model_args.method
    if data_args.caption_column is not None:
        if method in _OF_CLASSES or method == "zero_shot":
            why = "only measures" if method == "zero_shot" else "learns from class labels"
            raise ValueError(f"`--caption_column`: `--method {method}` {why}; train on captions with carot or flyp.")
        _refuse(data_args, ["shots"], "image-caption pairs have no classes to draw them from")
    if data_args.feature_views is not None and method != "croft":
        raise ValueError(
            f"`--feature_views` caches the features of a frozen model, and `--method {method}` does not train on them; "
            "leave it out, or use --method croft."
        )
    if data_args.feature_cache is not None and data_args.feature_views is None:
        raise ValueError("`--feature_cache` keeps the features of --feature_views; give that too, or leave it out.")
    if not trains:
        _refuse(data_args, ["shots"], "nothing is trained")
    if method == "zero_shot":
        _refuse(data_args, ["skip_baseline"], "zero_shot measures nothing else")
    if not _measures(data_args):
        _refuse(data_args, ["skip_baseline", "save_logits"], "nothing is measured without --eval_datasets")
    if data_args.bad_images == "error":
        _refuse(data_args, ["bad_images_threshold"], "--bad_images error stops at the first one")


def _measures(data_args: Any) -> bool:
    return bool(data_args.eval_datasets or default_evaluation(data_args.train_dataset))


def _refuse(options: Any, names: Sequence[str], reason: str) -> None:
    for name in names:
        value = getattr(options, name)
        if name in options.given and value is not False:
            shown = "" if value is True else f" {getattr(value, 'value', value)}"
            raise ValueError(f"`--{name}{shown}` would do nothing: {reason}; leave it out.")
