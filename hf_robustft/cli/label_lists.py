# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What `hf-robustft train` does where images have lists of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..data.benchmarks import Benchmark
from ..data.column_checks import check_groups, groups_of
from ..evaluation.benchmark_checks import refuse_lists
from ..evaluation.evaluator import Evaluator
from ..modeling.dual_encoder import DualEncoder
from ..objectives.cross_entropy import CrossEntropyMixin
from ..publishing.label_lists import check_multi_label
from ..training.label_lists import check_label_lists, serves_label_lists
from .merging import MERGES, merges_head
from .train_arguments import DataArguments, ModelArguments, TrainCommand


def learns_lists(command: TrainCommand, train: Benchmark, encoder: DualEncoder, compared: bool) -> bool:
    """
    Whether the method of a command learns from lists of labels that the training set has, or is measured as those that do.

    Args:
        command ([`TrainCommand`]): The command line.
        train ([`Benchmark`]): What it trains on, opened.
        encoder ([`DualEncoder`]): Of `--model`.
        compared (`bool`): Whether the data are looked at for all runs of a comparison.

    Raises:
        ValueError: If the method cannot, or options are given that are for one label per image.
    """
    model_args, _, args = command
    merges = model_args.method in MERGES
    if train.several and (compared or model_args.method == "zero_shot"):
        # Of a comparison each method is asked by itself; the prompts of a model that stays as it is need no training set.
        learns = True
    elif train.several and merges:
        _check_merge_of_lists(model_args, encoder)
        learns = not model_args.trains or check_label_lists(model_args.trainer, args, encoder, train.several, train.caption_column is not None)
    elif model_args.trains:
        learns = check_label_lists(model_args.trainer, args, encoder, train.several, train.caption_column is not None)
    elif train.several:
        raise ValueError(
            f"The training set has lists of labels, and `--method {model_args.method}` needs one label per image; choose a method that "
            "trains on them, such as ft, or measure a model on them with hf-robustft evaluate."
        )
    else:
        return False
    if learns:
        for name in ("detector", "true_positive_rate"):
            if name in model_args.given and model_args.detector != "none":
                raise ValueError(
                    f"`--{name} {getattr(model_args, name)}`: no detector is fitted on lists of labels, where an image without any has none; "
                    "leave it out."
                )
        for name in ("prediction_sets", "coverage"):
            if name in model_args.given and model_args.prediction_sets != "none":
                raise ValueError(
                    f"`--{name} {getattr(model_args, name)}`: prediction sets are for images with one label, and the training set has lists of "
                    "them; leave it out."
                )
    return learns


def merges_lists(trainer: type, encoder: DualEncoder) -> bool:
    """Whether models of an `encoder` that a class `trainer` trains on lists of labels can be merged: they answer by prompts and sigmoids."""
    return encoder.similarity == "sigmoid" and not issubclass(trainer, CrossEntropyMixin) and serves_label_lists(trainer, "sigmoid")


def _check_merge_of_lists(model_args: ModelArguments, encoder: DualEncoder) -> None:
    given, lists = f"`--method {model_args.method}`", "The training set has lists of labels"
    if encoder.similarity != "sigmoid":
        raise ValueError(
            f"{lists}, and {given} merges models that answer by prompts, which of a {encoder.name} give no probability of each label; train with ft, "
            "lp_ft or l2_sp, or merge SigLIPs."
        )
    if merges_head(model_args) or model_args.trains and not merges_lists(model_args.trainer, encoder):
        raise ValueError(f"{lists}, and {given} merges no heads of such; merge runs that answer by prompts, such as those of --finetune_with flyp.")
    if model_args.alpha_sweep or model_args.select_alpha:
        raise ValueError(f"`--{'alpha_sweep' if model_args.alpha_sweep else 'select_alpha'}` goes by accuracy, and the training set has lists of labels; give one alpha.")


def check_lists(
    command: TrainCommand,
    multi_label: bool,
    sets: Sequence[Benchmark],
    evaluator: Evaluator | None,
    validation: Benchmark | None,
    compared: bool = False,
) -> None:
    """
    Refuse sets whose labels do not fit what a method learns from.

    Args:
        command ([`TrainCommand`]): The command line.
        multi_label (`bool`): Whether the method learns from lists of labels.
        sets (`Sequence[Benchmark]`): To measure on and to fit on.
        evaluator ([`Evaluator`], *optional*), validation ([`Benchmark`], *optional*): What measures, and what is fitted on.
        compared (`bool`, *optional*, defaults to `False`): As for [`learns_lists`]; such runs keep logits in place of predictions.

    Raises:
        ValueError: If the method learns from one label per image and a set has lists, or the other way round where it matters.
    """
    single = next((benchmark.name for benchmark in sets if benchmark.role != "open_set" and not benchmark.several), None)
    if multi_label and compared and single is not None:
        raise ValueError(f"Benchmark {single!r} has one label per image, and runs on lists of labels are compared by mAP; leave it out.")
    if multi_label:
        check_multi_label(evaluator, validation, command.model_args.fold_temperature, command.data_args.save_predictions and not compared)
    else:
        refuse_lists(sets)


def measured_lists(
    evaluation: Sequence[Benchmark], validation: Benchmark | None, data_args: DataArguments, compared: bool = False
) -> tuple[list[Benchmark], Benchmark | None, list[str]]:
    """
    The sets that a run on lists of labels measures: those to measure on, if there are any, with the validation images, on which each model has
    its own thresholds fitted. Groups say which images are held out together, and where logits are kept they are beside them, for a comparison.

    Args:
        evaluation (`Sequence[Benchmark]`): The sets to measure on.
        validation ([`Benchmark`], *optional*): What is fitted on.
        data_args ([`DataArguments`]): Of the command line.
        compared (`bool`, *optional*, defaults to `False`): As for [`check_lists`].

    Returns:
        `tuple`: The sets to measure on, what is fitted on, and sentences for the user.

    Raises:
        ValueError: If there are groups that nothing would read, or a set that was held out is of one group.
    """
    notes = []
    if data_args.group_column is not None and data_args.hold_out is not None and (data_args.save_logits or compared):
        _check_held_groups([*evaluation, validation], data_args)
    if data_args.group_column is not None and not (data_args.save_logits or compared):
        if data_args.hold_out is None:
            raise ValueError(
                f"`--group_column {data_args.group_column}` would do nothing: measures of lists of labels have no standard errors; hold images out of "
                "training with --hold_out, or keep the logits with --save_logits, from which a comparison draws whole groups."
            )
        # By identity: benchmarks of rows in memory are equal when their descriptions are.
        place = next((place for place, item in enumerate(evaluation) if item is validation), None)
        evaluation = [_without_groups(item) for item in evaluation]
        validation = evaluation[place] if place is not None else None if validation is None else _without_groups(validation)
        notes = [
            f"Note: no group of `--group_column {data_args.group_column}` is in two of the sets. Measures of lists of labels have no standard errors; "
            "a comparison draws whole groups where the logits are kept (--save_logits)."
        ]
    if not evaluation or validation is None or any(validation is item for item in evaluation):
        return list(evaluation), validation, notes
    return [*evaluation, validation], validation, notes


def _check_held_groups(sets: Sequence[Benchmark | None], data_args: DataArguments) -> None:
    """Refuse sets of one group, which after the training could not be measured: images are drawn by class, and few groups may have them all."""
    for item in sets:
        # What is read from elsewhere was looked at when it was opened.
        if item is not None and item.dataset is not None and item.group_column is not None:
            where = f"the set {item.name!r} that --hold_out {data_args.hold_out:g} makes"
            check_groups(len(np.unique(groups_of(item.load(), data_args.group_column, where))), data_args.group_column, where)


def _without_groups(benchmark: Benchmark) -> Benchmark:
    if benchmark.group_column is None:
        return benchmark
    return replace(benchmark, group_column=None, opened=replace(benchmark.open(), group_column=None))


def refuse_idle_groups(benchmarks: Sequence[Benchmark], column: str) -> None:
    """
    Refuse a column of groups that nothing would read: of lists of labels a comparison reads it, beside the logits.

    Args:
        benchmarks (`Sequence[Benchmark]`): What is measured, without its logits being kept.
        column (`str`): The name of the column.

    Raises:
        ValueError: If all sets have lists of labels.
    """
    known = [benchmark for benchmark in benchmarks if benchmark.role != "open_set"]
    if known and all(benchmark.several for benchmark in known):
        raise ValueError(
            f"`--group_column {column}` would do nothing: measures of lists of labels have no standard errors; leave it out, or keep the logits "
            "with --save_logits, from which a comparison draws whole groups."
        )
