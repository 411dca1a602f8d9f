# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The arguments of `run_robust_ft.py`, and the data that they name."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from hf_robustft.cli.data_sets import (
    SETS,
    DataOptions,
    Known,
    default_evaluation,
    evaluation_benchmarks,
    train_benchmark,
    validation_benchmark,
)
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.few_shot import few_shot
from hf_robustft.evaluation.fitting import DETECTORS
from hf_robustft.training.arguments import RobustTrainingArguments
from hf_robustft.training.given import RecordsGiven, Suggested

CONFIGS = Path(__file__).resolve().parent / "configs"
SUITE = "emoji_shift"
CHOICES = ("carot", "croft", "carot+croft", "flyp", "ft", "wise_ft", "zero_shot")


@dataclass
class ModelArguments(RecordsGiven):
    """What to fine-tune, and how."""

    method: str = field(default="carot", metadata={"help": f"One of {', '.join(CHOICES)}."})
    model: str = field(
        default="emoji_clip",
        metadata={"help": "A CLIPModel: a folder, a Hub id, or 'emoji_clip', the packaged checkpoint."},
    )
    finetuned_model: str | None = field(
        default=None, metadata={"help": "wise_ft: interpolate with this fine-tuned folder instead of training one."}
    )
    alpha: float = field(
        default=0.5, metadata={"help": "wise_ft: share of the fine-tuned weights, 0 (zero-shot) to 1 (fine-tuned)."}
    )
    detector: str = field(
        default="energy",
        metadata={
            "help": f"Score of the open-set detector that is fitted on the validation set: {', '.join(DETECTORS)}."
        },
    )
    true_positive_rate: float = field(
        default=0.95, metadata={"help": "Share of validation images that the detector accepts as known."}
    )
    fold_temperature: bool = field(
        default=False,
        metadata={"help": "Fold the temperature fitted on the validation set into the weights before measuring."},
    )


@dataclass
class DataArguments(RecordsGiven, DataOptions):
    """What to train on and what to measure on."""

    train_dataset: str = field(
        default=SUITE,
        metadata={
            "help": "A name of the registry ('emoji_shift', 'imagenet-1k', 'pacs-sketch', or 'imagenet-1k=/data/imagenet' for "
            "your own copy); or your own data: a folder of class folders, parquet files or tars, a .parquet file, or a "
            "Hub id."
        },
    )
    eval_datasets: list[str] = field(
        default_factory=list,
        metadata={
            "help": f"Sets to measure on. {SETS} By default the test sets of the suite that is trained on; none of your "
            "own data."
        },
    )
    caption_column: str | None = field(
        default=None, metadata={"help": "Column of captions: train on image-caption pairs instead of class names."}
    )
    shots: int | None = field(
        default=None, metadata={"help": "Train on that many images of each class, drawn with --seed; all by default."}
    )
    feature_views: int | None = field(
        default=None,
        metadata={
            "help": "croft: compute the features of that many views of each image once and train from them (0: one view "
            "by the evaluation transform). By default images are encoded anew in each epoch."
        },
    )
    feature_cache: str | None = field(
        default=None, metadata={"help": "Folder in which the features of --feature_views are kept for later runs."}
    )
    allow_overlap: bool = field(
        default=False,
        metadata={
            "help": "Go on where evaluation sets hold images that are trained on, or test sets the validation images; the "
            "card says so. By default more than 5 % of such images are an error. Copies are recognised by their bytes."
        },
    )
    skip_baseline: bool = field(
        default=False, metadata={"help": "Do not measure the model before training; no column for it then."}
    )
    save_logits: bool = field(
        default=False, metadata={"help": "Write the logits of every measured image into <output_dir>/logits."}
    )


#: The parts of a command line, in the order in which `parse` gives them.
PARTS = (ModelArguments, DataArguments, RobustTrainingArguments)


def parse(arguments: list[str] | None = None) -> tuple[ModelArguments, DataArguments, RobustTrainingArguments]:
    """Flags over a YAML file over the recipe of the packaged benchmark over the defaults."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--config", help="A YAML file of arguments; flags override it.")
    first.add_argument("--method", default=None)
    first.add_argument("--train_dataset", default=None)
    early, _ = first.parse_known_args(arguments)
    parser = HfArgumentParser(PARTS, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", help="A YAML file of arguments; flags override it.")
    for action in parser._actions:
        # What was not given stays away, so that what was given is known.
        action.default = argparse.SUPPRESS
    config = read_config(parser, early.config) if early.config else {}
    method = early.method or config.get("method", "carot")
    if method not in CHOICES:
        raise ValueError(f"`--method {method}` is unknown; choose one of {', '.join(CHOICES)}.")
    suggested = {"output_dir": Suggested(f"outputs/{method}", f"method {method}")}
    if (early.train_dataset or config.get("train_dataset", SUITE)) == SUITE and method != "zero_shot":
        recipe = read_config(parser, CONFIGS / SUITE / f"{method}.yaml")
        origin = f"recipe {SUITE}/{method}"
        suggested.update({name: Suggested(value, origin) for name, value in recipe.items()})
    flags = vars(parser.parse_args(arguments))
    values = {**suggested, **config, **flags}
    return tuple(part(**{f.name: values[f.name] for f in fields(part) if f.name in values}) for part in PARTS)


def read_config(parser: argparse.ArgumentParser, path: str | Path) -> dict[str, Any]:
    """
    The settings of a YAML file, by the types of the flags.

    Raises:
        OSError: If there is no such file.
        ValueError: If it sets something that is not an argument, or a value of the wrong type.
    """
    if not Path(path).is_file():
        raise OSError(f"There is no config file {str(path)!r}; examples are in examples/configs.")
    settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    actions = {action.dest: action for action in reversed(parser._actions)}
    unknown = sorted(set(settings) - set(actions)) if isinstance(settings, dict) else [type(settings).__name__]
    if unknown:
        raise ValueError(f"{path} sets {', '.join(unknown)}, which is no argument of this script; see --help.")
    return {name: _typed(actions[name], value, path) for name, value in settings.items()}


def _typed(action: argparse.Action, value: Any, path: str | Path) -> Any:
    # YAML reads 1e-3 as text; a flag's own type reads it as the command line does.
    try:
        if isinstance(value, list) and action.nargs in ("+", "*"):
            return [action.type(str(item)) for item in value]
        if isinstance(value, str) and callable(action.type):
            return [action.type(value)] if action.nargs == "+" else action.type(value)
        if action.type in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, action.type))):
            raise TypeError
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        raise ValueError(f"{path} sets {action.dest} to {value!r}, which `--{action.dest}` does not take.") from None
    return value


def load_train_benchmark(data_args: DataArguments, seed: int) -> Benchmark:
    """The benchmark to train on; with `--shots` a part of it."""
    benchmark = train_benchmark(data_args.train_dataset, data_args, data_args.caption_column)
    return benchmark if data_args.shots is None else few_shot(benchmark, data_args.shots, seed)


def load_eval_benchmarks(data_args: DataArguments, train: Benchmark) -> tuple[list[Benchmark], list[str]]:
    """The benchmarks to measure on, and notes on how their classes differ from the training set's."""
    texts = data_args.eval_datasets or default_evaluation(data_args.train_dataset)
    return evaluation_benchmarks(texts, data_args, Known.of(train))


def load_validation_benchmark(data_args: DataArguments, benchmarks: list[Benchmark]) -> Benchmark | None:
    """In-distribution images that are not tested on, to fit detector and temperature."""
    return validation_benchmark(data_args.train_dataset, data_args, benchmarks)


def replaced_images(trainer) -> str:
    """Lines on the training images that this process could not read; each process counts its own."""
    counter = getattr(trainer.train_dataset, "bad_images", None)
    if counter is None or not counter.unreadable:
        return ""
    found = counter.summary()
    return f"{found['count']} training images cannot be read and were replaced: {'; '.join(found['first'])}\n"
