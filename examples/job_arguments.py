# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The arguments of `run_robust_ft.py`, and the data that they name."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.few_shot import few_shot
from hf_robustft.evaluation.detector import DETECTOR_SCORES
from hf_robustft.training.arguments import RobustTrainingArguments

CONFIGS = Path(__file__).resolve().parent / "configs"
SUITE = "emoji_shift"
ROLES = ("id", "validation", "shift", "open_set")
CHOICES = ("carot", "croft", "carot+croft", "flyp", "ft", "wise_ft", "zero_shot")
DETECTORS = (*DETECTOR_SCORES, "none")


@dataclass
class ModelArguments:
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
class DataArguments:
    """What to train on and what to measure on."""

    train_dataset: str = field(
        default=SUITE,
        metadata={"help": "'emoji_shift', a folder of class folders or parquet files, a .parquet file, or a Hub id."},
    )
    eval_datasets: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sets to measure on, each `name_or_path[:role]`, role id (default), validation (also fits detector "
            "and temperature), shift, or open_set (images of other classes); 'emoji_shift' stands for its test set, its "
            "four shifts and its unseen classes, 'emoji_shift/validation' for one of its sets."
        },
    )
    image_column: str | None = field(default=None, metadata={"help": "Column of the images in your own data."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the labels in your own data."})
    caption_column: str | None = field(
        default=None, metadata={"help": "Column of captions: train on image-caption pairs instead of class names."}
    )
    class_names: str | None = field(
        default=None, metadata={"help": "Text file of class names in label order, one a line, or `label<TAB>name`."}
    )
    templates: str | None = field(default=None, metadata={"help": "Text file of prompts with one {} each."})
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
    skip_baseline: bool = field(
        default=False, metadata={"help": "Do not measure the model before training; no column for it then."}
    )
    save_logits: bool = field(
        default=False, metadata={"help": "Write the logits of every measured image into <output_dir>/logits."}
    )


def parse(arguments: list[str] | None = None) -> tuple[ModelArguments, DataArguments, RobustTrainingArguments]:
    """Flags over a YAML file over the recipe of the packaged benchmark over the defaults."""
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--config", help="A YAML file of arguments; flags override it.")
    first.add_argument("--method", default=None)
    first.add_argument("--train_dataset", default=None)
    early, _ = first.parse_known_args(arguments)
    parser = HfArgumentParser((ModelArguments, DataArguments, RobustTrainingArguments), description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--config", help="A YAML file of arguments; flags override it.")
    given = _read_config(parser, early.config) if early.config else {}
    method = early.method or given.get("method", "carot")
    if method not in CHOICES:
        raise ValueError(f"`--method {method}` is unknown; choose one of {', '.join(CHOICES)}.")
    settings = {"output_dir": f"outputs/{method}"}
    if (early.train_dataset or given.get("train_dataset", SUITE)) == SUITE and method != "zero_shot":
        settings.update(_read_config(parser, CONFIGS / SUITE / f"{method}.yaml"))
    parser.set_defaults(**{**settings, **given})
    model_args, data_args, training_args, _ = parser.parse_args_into_dataclasses(arguments)
    return model_args, data_args, training_args


def _read_config(parser: argparse.ArgumentParser, path: str | Path) -> dict:
    if not Path(path).is_file():
        raise OSError(f"There is no config file {str(path)!r}; examples are in examples/configs.")
    settings = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    known = {action.dest for action in parser._actions}
    unknown = sorted(set(settings) - known) if isinstance(settings, dict) else [type(settings).__name__]
    if unknown:
        raise ValueError(f"{path} sets {', '.join(unknown)}, which is no argument of this script; see --help.")
    return settings


def _own(data_args: DataArguments, captions: bool) -> dict:
    names = ("image_column", "label_column", "class_names", "templates", *(("caption_column",) if captions else ()))
    given = {name: getattr(data_args, name) for name in names}
    return {key: value for key, value in given.items() if value is not None}


def load_train_benchmark(data_args: DataArguments, seed: int) -> Benchmark:
    """The benchmark to train on; with `--shots` a part of it."""
    if data_args.train_dataset == SUITE:
        benchmark = load_benchmark(SUITE, "train")
    else:
        own = _own(data_args, captions=True)
        benchmark = load_benchmark(data_args.train_dataset, name="train", role="train", **own)
    return benchmark if data_args.shots is None else few_shot(benchmark, data_args.shots, seed)


def load_eval_benchmarks(data_args: DataArguments, train: Benchmark) -> list[Benchmark]:
    """The benchmarks to measure on, with the training set's classes where they are one's own."""
    specs = data_args.eval_datasets or ([SUITE] if data_args.train_dataset == SUITE else [])
    benchmarks: list[Benchmark] = []
    for spec in specs:
        path, _, role = spec.rpartition(":")
        if role not in ROLES:
            path, role = spec, "id"
        if path == SUITE:
            benchmarks += [b for b in load_benchmark(SUITE).values() if b.role in ("id", "shift", "open_set")]
        elif path.startswith(f"{SUITE}/"):
            benchmarks.append(load_benchmark(SUITE, path.removeprefix(f"{SUITE}/")))
        else:
            own = _own(data_args, captions=False)
            if role == "open_set":
                # Its images are of other classes, so labels and names of the known ones say nothing of it.
                own = {
                    "label_column": None,
                    **({"image_column": own["image_column"]} if "image_column" in own else {}),
                }
            elif train.class_names:
                own = {"class_names": train.class_names, "templates": train.templates, **own}
            benchmarks.append(load_benchmark(path, name=Path(path).stem, role=role, **own))
    names = [benchmark.name for benchmark in benchmarks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two evaluation sets are called {', '.join(twice)}; rename a folder, reports are by name.")
    return benchmarks


def validation_benchmark(data_args: DataArguments, benchmarks: list[Benchmark]) -> Benchmark | None:
    """In-distribution images that are not tested on, to fit detector and temperature: those with role validation."""
    chosen = next((benchmark for benchmark in benchmarks if benchmark.role == "validation"), None)
    if chosen is None and data_args.train_dataset == SUITE:
        chosen = load_benchmark(SUITE, "validation")
    return chosen
