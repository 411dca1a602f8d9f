# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What a training command takes: what to fine-tune and how, on which data, and every field of `RobustTrainingArguments`.

What its method, its data or its other options have no use for is refused by `option_checks.py`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, NamedTuple

from transformers.trainer_utils import SchedulerType

from ..data.messages import quoted
from ..data.packaged import CHECKPOINTS
from ..evaluation.fitting import DETECTORS, PREDICTION_SETS
from ..objectives.cross_entropy import CrossEntropyMixin
from ..training.given import RecordsGiven, Suggested
from ..training.methods import METHODS, RobustTrainingArguments
from .commands import CommandParser, option, quiet_if_asked
from .config_file import read_config, read_recipe, recipes
from .data_sets import SETS, DataOptions, default_evaluation
from .each import of_suite, on_other_data
from .first_look import AUTO, check_numbers, resumed_folder
from .merging import MERGEABLE, MERGES
from .option_checks import check as check
from .option_checks import check_options as check_options
from .option_rules import ChosenMethod, check_one_choice_of_settings, trained_method
from .parser import Manners

SUITE = "emoji_shift"
CHOICES = (*METHODS, "tip_adapter", *MERGES, "zero_shot")

@dataclass
class ModelArguments(ChosenMethod, RecordsGiven):
    """What to fine-tune, and how."""

    methods = METHODS

    method: str = option(
        f"{', '.join((*CHOICES, AUTO))}. The last compares several and keeps the one that a rule chooses.",
        "carot",
    )
    model: str = option(
        f"A CLIP, SigLIP or other dual encoder: a folder, a Hub id, or one of the package: {quoted(tuple(CHECKPOINTS))}.", "emoji_clip"
    )
    model_revision: str | None = option("Commit, branch or tag of --model on the Hub.", None)
    finetuned_model: list[str] = option(
        "Folders of fine-tuned runs to merge. One for wise_ft and lines, instead of training; two or more for model_stock.", []
    )
    finetune_with: str | None = option("The method that trains what is merged, ft by default. For wise_ft and lines.", None)
    alpha: float = option("Share of the fine-tuned weights, from 0 to 1. For wise_ft: 0 is the zero-shot model.", 0.5)
    lines_alpha: float = option("Share of the change that the first layer keeps. For lines; the last layer keeps all.", 0.1)
    lines_whole_projections: bool = option(
        "Keep all of the change of projections, logit scale, bias and head too. For lines; in the paper it is that of the first layer.",
        False,
    )
    merged_head: str | None = option(
        "'interpolated' merges trained heads, 'rebuilt' takes the text tower's. For wise_ft, lines and model_stock; by default "
        "interpolated like the weights where there is a trained head.",
        None,
    )
    alpha_sweep: list[float] = option(
        "Measure the model at each of these alphas too. For wise_ft and lines, without training again; into alpha_sweep.csv and "
        "alpha_sweep.png.",
        [],
    )
    select_alpha: bool = option(
        "Save the alpha of --alpha_sweep with the best accuracy on the validation set, instead of the one given.", False
    )
    paper_settings: bool = option(
        "Train by the settings of the method's paper, where you give none. See the guide on methods.", False
    )
    detector: str = option(
        f"Score of the open-set detector: {', '.join(DETECTORS)}. It is fitted on the validation set.", "energy"
    )
    true_positive_rate: float = option("Share of validation images that the detector accepts as known.", 0.95)
    prediction_sets: str = option(
        f"Method of the prediction sets: {', '.join(PREDICTION_SETS)}. They are fitted on the validation set.", "raps"
    )
    coverage: float = option("Share of images like the validation images whose prediction set holds their class.", 0.95)
    fold_temperature: bool = option(
        "Fold the fitted temperature into the weights. Before measuring, on the validation set.", False
    )

    @staticmethod
    def makes_head(trainer: type) -> bool:
        """Whether the head of a Trainer class is measured in place of class prompts."""
        return issubclass(trainer, CrossEntropyMixin)


@dataclass
class DataArguments(RecordsGiven, DataOptions):
    """What to train on and what to measure on."""

    train_dataset: str = option(
        "A registered name, your folder or file, or a Hub id. Names are 'emoji_shift', 'imagenet-1k', "
        "'pacs-sketch' and so on ('imagenet-1k=/data/imagenet' for your own copy); 'pacs', 'vlcs' and 'few-shot' are a run "
        "for each of their suites, for which {suite} stands in other settings. Your own data are a folder of class "
        "folders, of parquet files or of tars, or a .parquet file.",
        SUITE,
    )
    eval_datasets: list[str] = option(
        f"Sets to measure on, NAME[:ROLE] each. {SETS} By default the test sets of the suite that is trained on; "
        "none of your own data.",
        [],
    )
    caption_column: str | None = option(
        "Column of captions: train on image-caption pairs instead of class names.", None
    )
    shots: int | None = option("Train on that many images of each class. Drawn with --seed; all by default.", None)
    hold_out: float | None = option(
        "Keep this share of the images of each class out of training, to validate on, and as much again to test on. Where no "
        "such sets are given; the same images with every --seed, at most 0.25.",
        None,
    )
    leave_out_classes: float | None = option(
        "Train without that share of the classes, and measure them alone. By prompts among the names of all classes, on their "
        "training and validation images: a way to choose settings that looks at no test set. 0.2 is every fifth class.",
        None,
    )
    leave_out_fold: int = option("Which classes --leave_out_classes leaves out: from 0, each class is in one fold.", 0)
    feature_views: int | None = option(
        "Compute the features of that many views once. Images are not encoded again in each epoch then; 0 is "
        "one view by the evaluation transform.",
        None,
    )
    feature_cache: str | None = option(
        "Folder in which the features of --feature_views are kept for later runs.", None
    )
    allow_overlap: bool = option(
        "Go on where sets to measure on hold training images. Or test sets the validation images; the card "
        "says so. By default more than 5 % of such images are an error. Copies are recognised by their bytes.",
        False,
    )
    skip_baseline: bool = option("Do not measure the model before training.", False)
    save_logits: bool = option("Write the logits of every measured image into <output_dir>/logits.", False)
    save_predictions: bool = option(
        "Write what the model says of every image into <output_dir>/predictions.parquet. Validation images are measured "
        "for it too.",
        False,
    )

    @property
    def measures(self) -> bool:
        """Whether there is anything to measure on."""
        given = (self.leave_out_classes, self.hold_out)
        return given != (None, None) or bool(self.eval_datasets or default_evaluation(self.train_dataset))


class TrainCommand(NamedTuple):
    """
    A command line that was read. Each part knows what was given.

    Attributes:
        model_args ([`ModelArguments`]): What to fine-tune, and how.
        data_args ([`DataArguments`]): On which data.
        args ([`RobustTrainingArguments`]): Settings of the Trainer.
    """

    model_args: ModelArguments
    data_args: DataArguments
    args: RobustTrainingArguments


#: The parts of a command line, in the order of [`TrainCommand`].
PARTS = (ModelArguments, DataArguments, RobustTrainingArguments)


def train_parser(description: str | None = None) -> CommandParser:
    """The parser of a training command; its `description` stands above the help."""
    parser = CommandParser(PARTS, prog="hf-robustft train", description=description)
    parser.add_argument("--config", metavar="FILE", help="A YAML file of arguments; flags override it.")
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help=f"Settings that come with the package, such as {SUITE}/carot. For {SUITE} the method's own by default.",
    )
    # A text for the dataclass, whose names Transformers refuses only after torch is loaded.
    parser.action_of("lr_scheduler_type").choices = [item.value for item in SchedulerType]
    parser.action_of("method").choices = [*CHOICES, AUTO]
    parser.action_of("finetune_with").choices = list(MERGEABLE)
    parser.action_of("merged_head").choices = ["interpolated", "rebuilt"]
    parser.action_of("detector").choices = list(DETECTORS)
    parser.action_of("prediction_sets").choices = list(PREDICTION_SETS)
    return parser


@cache
def _parser_of_what_is_given() -> CommandParser:
    """What was not given stays away, so that what was given is known. Made once: a comparison reads a line for each run."""
    parser = train_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return parser


def parse(arguments: Sequence[str] | None = None, suite: str | None = None) -> TrainCommand:
    """
    Read a command line: flags over a YAML file over a recipe over the defaults.

    Args:
        arguments (`Sequence[str]`, *optional*): By default those of the process.
        suite (`str`, *optional*): The one whose turn it is, where `--train_dataset` stands for several.

    Returns:
        [`TrainCommand`]: The three parts.

    Raises:
        ValueError: For what cannot be read, or no run can have.
    """
    parser = _parser_of_what_is_given()
    flags = vars(parser.parse_args(arguments))
    given = {**(read_config(parser, flags["config"]) if "config" in flags else {}), **flags}
    if given.get("method") == AUTO:
        raise ValueError(f"`--method {AUTO}` compares methods, which `hf-robustft train --method {AUTO}` does; name a method here.")
    # Those of `RobustTrainingArguments` it checks itself.
    check_numbers(parser, {f.name: given[f.name] for f in fields(DataArguments) if f.name in given})
    values = {**suggestions(parser, given), **given}
    values = values if suite is None else of_suite(values, suite)
    if "resume_from_checkpoint" in values:
        output = values["output_dir"]
        folder = output.value if isinstance(output, Suggested) else output
        values["resume_from_checkpoint"] = resumed_folder(values["resume_from_checkpoint"], folder)
    parts = (part(**{f.name: values[f.name] for f in fields(part) if f.name in values}) for part in PARTS)
    command = TrainCommand(*parts)
    quiet_if_asked(command.args)
    return command


def suggestions(parser: Manners, given: dict[str, Any]) -> dict[str, Suggested]:
    """
    The settings of a recipe or a paper, for what was not given. The recipe of the packaged data need not be asked for.

    Args:
        parser ([`Manners`]): Whose flags the recipe sets.
        given (`dict[str, Any]`): What was given.

    Raises:
        ValueError: If both are asked for, or there is no such recipe or paper.
    """
    check_one_choice_of_settings(given)
    chosen, name, origin = {}, given.get("recipe"), None
    if name is not None:
        chosen = read_recipe(parser, name, given.get("method"))
    chosen, dropped = on_other_data(chosen, given)
    method, trains = (given.get(key, chosen.get(key, default)) for key, default in (("method", "carot"), ("finetune_with", None)))
    if given.get("paper_settings", False):
        chosen, origin = paper_settings(method, trains), f"paper of {method}"
    elif name is None and given.get("train_dataset", SUITE) == SUITE and method != "zero_shot":
        own = trains is None and f"{SUITE}/{method}" in recipes()
        name = f"{SUITE}/{method if own else trained_method(method, trains)}"
        chosen = {**read_recipe(parser, name), "method": method}
    found = {"output_dir": Suggested(f"outputs/{method}", f"method {method}")}
    if origin is None and chosen.pop("paper_settings", False):
        found |= {key: Suggested(value, f"paper of {method}") for key, value in paper_settings(method, trains).items()}
    found |= {key: Suggested(value, origin or f"recipe {name}") for key, value in chosen.items()}
    if dropped:
        why = f"recipe {name} measures on {', '.join(dropped)}, left out for {given['train_dataset']}: --eval_datasets names yours"
        found["eval_datasets"] = Suggested([], why)
    return found


def paper_settings(method: str, finetune_with: str | None = None) -> dict[str, Any]:
    """
    The settings of the paper of a method, or of the one that trains for it (`finetune_with`), its batch shared out over the
    processes that were started.

    Raises:
        ValueError: If no paper describes the method, or the processes cannot share the batch.
    """
    trained = finetune_with or ("ft" if method == "wise_ft" else method)
    settings = dict(getattr(METHODS.get(trained), "paper_settings", {}))
    if not settings:
        known = ", ".join(name for name, trainer in METHODS.items() if trainer.paper_settings)
        raise ValueError(f"`--paper_settings`: no paper has settings for `--method {method}`; it is for {known}, wise_ft.")
    name = "per_device_train_batch_size"
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if settings[name] % processes:
        raise ValueError(
            f"`--paper_settings`: {processes} processes cannot share the paper's batch of {settings[name]} equally; start another number, or give --{name}."
        )
    return {**settings, name: settings[name] // processes}
