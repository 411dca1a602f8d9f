# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a training command takes: what to fine-tune and how, on which data, and every field of `RobustTrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import HfArgumentParser
from transformers.trainer_utils import SchedulerType

from hf_robustft.cli.data_sets import SETS, DataOptions
from hf_robustft.cli.description import add_help
from hf_robustft.cli.parser import Manners
from hf_robustft.evaluation.fitting import DETECTORS
from hf_robustft.training.given import RecordsGiven
from hf_robustft.training.methods import RobustTrainingArguments

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
    paper_settings: bool = field(
        default=False,
        metadata={"help": "Train by the settings of the method's paper and its code, where you give none; see the README."},
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
            "by the evaluation transform). By default images are encoded again in each epoch."
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


class TrainParser(Manners, HfArgumentParser):
    """Transformers' parser of dataclasses with the manners of this package."""


def train_parser(description: str | None = None) -> TrainParser:
    """The parser of a training command."""
    parser = TrainParser(PARTS, description=description, add_help=False)
    parser.add_argument("--config", metavar="FILE", help="A YAML file of arguments; flags override it.")
    # A text for the dataclass, whose names Transformers refuses only after torch is loaded.
    parser.action_of("lr_scheduler_type").choices = [item.value for item in SchedulerType]
    parser.action_of("method").choices = list(CHOICES)
    parser.action_of("detector").choices = list(DETECTORS)
    return add_help(parser, has_rest=True)
