# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The arguments of `run_robust_ft.py`, and the data that they name."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from hf_robustft.cli.config_file import read_config
from hf_robustft.cli.data_sets import (
    Known,
    default_evaluation,
    evaluation_benchmarks,
    train_benchmark,
    validation_benchmark,
)
from hf_robustft.cli.first_look import resumed_folder
from hf_robustft.cli.option_checks import paper_settings
from hf_robustft.cli.train_arguments import PARTS, SUITE, DataArguments, ModelArguments, train_parser
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.few_shot import few_shot
from hf_robustft.training.given import Suggested
from hf_robustft.training.methods import RobustTrainingArguments

CONFIGS = Path(__file__).resolve().parent / "configs"


def parse(arguments: list[str] | None = None) -> tuple[ModelArguments, DataArguments, RobustTrainingArguments]:
    """Flags over a YAML file over the recipe of the packaged benchmark over the defaults."""
    parser = train_parser()
    for action in parser._actions:
        # What was not given stays away, so that what was given is known.
        action.default = argparse.SUPPRESS
    flags = vars(parser.parse_args(arguments))
    given = {**(read_config(parser, flags["config"]) if "config" in flags else {}), **flags}
    method = given.get("method", "carot")
    suggested = {"output_dir": Suggested(f"outputs/{method}", f"method {method}")}
    if given.get("paper_settings", False):
        origin = f"paper of {method}"
        suggested.update({name: Suggested(value, origin) for name, value in paper_settings(method).items()})
    elif given.get("train_dataset", SUITE) == SUITE and method != "zero_shot":
        recipe = read_config(parser, CONFIGS / SUITE / f"{method}.yaml")
        origin = f"recipe {SUITE}/{method}"
        suggested.update({name: Suggested(value, origin) for name, value in recipe.items()})
    values = {**suggested, **given}
    if "resume_from_checkpoint" in values:
        output = values["output_dir"]
        folder = output.value if isinstance(output, Suggested) else output
        values["resume_from_checkpoint"] = resumed_folder(values["resume_from_checkpoint"], folder)
    return tuple(part(**{f.name: values[f.name] for f in fields(part) if f.name in values}) for part in PARTS)


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
