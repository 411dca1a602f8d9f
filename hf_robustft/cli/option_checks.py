# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a training command refuses before anything is loaded: what no run can do, and what was given and would be ignored."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from ..data.hold_out import check_share
from ..evaluation.fitting import check_fit
from ..files import locked
from ..modeling.dual_encoder import DualEncoder
from ..modeling.output_folders import check_apart, check_output_dir
from ..modeling.processes import commits_of_the_first
from ..publishing.run_folder import former_checkpoints
from ..training.distributed import check_world_size
from ..training.methods import RobustTrainingArguments
from ..training.settings import settle_settings
from .each import suites_of
from .merging import check_merge
from .option_rules import check_given
from .specs import Spec

if TYPE_CHECKING:
    from .train_arguments import DataArguments, ModelArguments


def check(model_args: ModelArguments, data_args: DataArguments, args: RobustTrainingArguments) -> None:
    """
    Refuse what no run can do, and what was given and would be ignored, before anything is loaded.

    Args:
        model_args ([`ModelArguments`]), data_args ([`DataArguments`]), args ([`RobustTrainingArguments`]): The parts of
            the command line.

    Raises:
        ValueError: By the name of the option.
        OSError: If the output folder cannot be written.
    """
    if suites_of(data_args.train_dataset):
        raise ValueError(
            f"`--train_dataset {data_args.train_dataset}` is a run for each of {', '.join(suites_of(data_args.train_dataset))}; "
            "give one of them, or run all by `hf-robustft train`."
        )
    check_world_size(args.world_size)
    check_fit(model_args.detector, model_args.true_positive_rate, model_args.prediction_sets, model_args.coverage)
    with commits_of_the_first(PartialState()):
        check_merge(model_args)
    if args.should_save:
        check_output_dir(args.output_dir)
    inputs = {"--model": model_args.model}
    inputs |= {f"--finetuned_model {source}": source for source in model_args.finetuned_model}
    inputs |= {f"--train_dataset {data_args.train_dataset}": Spec.parse(data_args.train_dataset).folder}
    inputs |= {f"--eval_datasets {text}": Spec.parse(text).folder for text in data_args.eval_datasets}
    check_apart(args.output_dir, inputs)
    if data_args.feature_cache is not None:
        if args.should_save:
            check_output_dir(data_args.feature_cache, "--feature_cache")
        check_apart(data_args.feature_cache, inputs, option="--feature_cache")
    with locked(args.output_dir, "hf-robustft train") if args.should_save else nullcontext():
        # Of a run that goes on it would be said that it did not finish.
        former_checkpoints(args.output_dir, args.resume_from_checkpoint)
    check_options(model_args, data_args, args)


def check_options(model_args: Any, data_args: Any, args: Any) -> None:
    """
    Refuse what was given and would be ignored, before anything is loaded.

    Args:
        model_args ([`ModelArguments`]), data_args ([`DataArguments`]), args ([`RobustTrainingArguments`]): The parts of
            the command line. Each knows what was given.

    Raises:
        ValueError: By the name of the option, with what it is for.
    """
    if data_args.hold_out is not None:
        check_share(data_args.hold_out)
    check_given(model_args, data_args, args)
    if model_args.trains:
        trainer = model_args.trainer
        args.take_defaults(trainer.defaults, f"default of {trainer.method}")
        trainer.check_settings(args)


def settle(model_args: ModelArguments, args: RobustTrainingArguments, encoder: DualEncoder) -> None:
    """
    Settle the settings of a method that trains, as [`training.settings.settle_settings`] does.

    Args:
        model_args ([`ModelArguments`]), args ([`RobustTrainingArguments`]): Parts of the command line.
        encoder ([`DualEncoder`]): The model; its weights may be on the meta device.

    Raises:
        ValueError: If the model lacks what the method needs. Of a method that nobody named, it says so.
    """
    try:
        settle_settings(model_args.trainer, args, encoder)
    except ValueError as error:
        if "method" in model_args.given:
            raise
        method = type(model_args)().method
        whose = "by default" if model_args.method == method else f"by {model_args.origins['method']}"
        raise ValueError(f"`--method` was not given, and is {model_args.method} {whose}: {error}") from error
