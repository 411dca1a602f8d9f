# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a training command refuses before anything is loaded: what no run can do, and what was given and would be ignored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from ..data.hold_out import check_share
from ..evaluation.fitting import check_fit
from ..files import locked
from ..modeling.checkpoint_file import is_packaged
from ..modeling.dual_encoder import DualEncoder
from ..modeling.output_folders import check_apart, check_output_dir
from ..modeling.processes import commits_of_the_first
from ..publishing.run_folder import former_checkpoints
from ..training.distributed import check_world_size
from ..training.methods import METHODS, RobustTrainingArguments
from ..training.settings import settle_settings
from .data_sets import default_evaluation
from .each import suites_of
from .merging import MERGE_OPTIONS, MERGES, check_merge
from .specs import Spec

if TYPE_CHECKING:
    from .train_arguments import DataArguments, ModelArguments

#: What a command that trains nothing still reads of `RobustTrainingArguments`; and what says that nothing is done.
MEASURING = {
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
#: What `tip_adapter` reads beside: it trains nothing and keeps training images.
CACHING = {"tip_alpha", "tip_beta", "tip_views", "train_crop"}
_NOTHING = {"report_to": [], "save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no"}


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
    check_fit(model_args.detector, model_args.true_positive_rate)
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
    method = model_args.method
    _check_model_options(model_args)
    _check_data_options(model_args, data_args)
    _check_left_out(model_args, data_args)
    if not _measures(data_args) and "eval_strategy" in args.given and args.eval_strategy != "no":
        _refuse(args, ["eval_strategy"], "nothing is measured without --eval_datasets")
    if data_args.feature_views == 0:
        _refuse(args, ["train_crop"], "--feature_views 0 computes one view by the evaluation transform")
    if method in MERGES:
        _refuse(args, ["lora_keep_adapter"], f"{method} saves merged weights, and not an adapter")
    if model_args.trains:
        trainer = model_args.trainer
        args.take_defaults(trainer.defaults, f"default of {trainer.method}")
        trainer.check_settings(args)
        return
    what = "--finetuned_model is trained already" if model_args.finetuned_model else f"{method} trains nothing"
    caching = CACHING if method == "tip_adapter" else set()
    if caching and not args.tip_views:
        _refuse(args, ["train_crop"], "--tip_views 0 keeps one view by the evaluation transform")
    for name in sorted(args.given - MEASURING - caching):
        value = getattr(args, name)
        if not name.startswith("hub_") and not (name in _NOTHING and value == _NOTHING[name]):
            _refuse(args, [name], f"{what}, and this is a setting of training")


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


def _check_model_options(model_args: Any) -> None:
    for name, methods in MERGE_OPTIONS.items():
        if model_args.method not in methods:
            _refuse(model_args, [name], f"it is for --method {', '.join(methods)}, not {model_args.method}")
    if is_packaged(model_args.model) or Path(model_args.model).expanduser().is_dir():
        _refuse(model_args, ["model_revision"], f"{model_args.model} is not on the Hub")
    if model_args.detector == "none":
        _refuse(model_args, ["true_positive_rate"], "--detector none fits no detector")


def _check_data_options(model_args: Any, data_args: Any) -> None:
    method, trainer = model_args.method, model_args.trainer
    if data_args.hold_out is not None:
        check_share(data_args.hold_out)
    if data_args.caption_column is not None:
        if trainer is None or trainer.needs_labels:
            why = "learns from class labels" if model_args.learns else "only measures"
            others = " or ".join(name for name, other in METHODS.items() if not other.needs_labels)
            raise ValueError(f"`--caption_column`: `--method {method}` {why}; train on captions with {others}.")
        _refuse(data_args, ["shots", "hold_out"], "image-caption pairs have no classes to draw them from")
    if data_args.feature_views is not None and (trainer is None or trainer.trains_model):
        raise ValueError(
            f"`--feature_views` caches the features of a frozen model, and `--method {method}` does not train on them; "
            f"leave it out, or use --method {', '.join(name for name, other in METHODS.items() if not other.trains_model)}."
        )
    if data_args.feature_cache is not None and data_args.feature_views is None:
        raise ValueError("`--feature_cache` keeps the features of --feature_views; give that too, or leave it out.")
    if not model_args.learns and data_args.leave_out_classes is None:
        _refuse(data_args, ["shots"], "nothing is trained")
    if method == "zero_shot":
        _refuse(data_args, ["skip_baseline"], "zero_shot measures nothing else")
    if not _measures(data_args):
        _refuse(data_args, ["skip_baseline", "save_logits", "save_predictions"], "nothing is measured without --eval_datasets")
    if data_args.bad_images == "error":
        _refuse(data_args, ["bad_images_threshold"], "--bad_images error stops at the first one")


def _check_left_out(model_args: Any, data_args: Any) -> None:
    if data_args.leave_out_classes is None:
        _refuse(data_args, ["leave_out_fold"], "it says which classes --leave_out_classes leaves out")
        return
    given = f"`--leave_out_classes {data_args.leave_out_classes}`"
    if not model_args.judged_by_prompts:
        why = "changes a head, which knows no other classes" if model_args.learns else "trains nothing"
        raise ValueError(f"{given} asks what training leaves of other classes, and `--method {model_args.method}` {why}; leave it out.")
    if data_args.caption_column is not None:
        raise ValueError(f"{given}: image-caption pairs have no classes to leave out; leave it out.")
    none_fitted = "--leave_out_classes fits nothing on validation images"
    _refuse(model_args, ["detector", "true_positive_rate", "fold_temperature", "select_alpha"], none_fitted)


def _measures(data_args: Any) -> bool:
    given = (data_args.leave_out_classes, data_args.hold_out)
    return given != (None, None) or bool(data_args.eval_datasets or default_evaluation(data_args.train_dataset))


def _refuse(options: Any, names: Sequence[str], reason: str) -> None:
    for name in names:
        value = getattr(options, name)
        if name in options.given and value is not False:
            words = value if isinstance(value, list) else [getattr(value, "value", value)]
            shown = "" if value is True else " " + " ".join(map(str, words))
            raise ValueError(f"`--{name}{shown}` would do nothing: {reason}; leave it out.")
