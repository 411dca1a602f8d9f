# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Fine-tune CLIP robustly, measure it before and after, and write a checkpoint with detector and card.

    hf-robustft train --method croft --shots 16
    hf-robustft train --train_dataset my_images/train --eval_datasets my_images/test my_sketches:shift
    accelerate launch -m hf_robustft.cli train --recipe emoji_shift/flyp --seed 1

With no argument: CaRot on Emoji Shift from the packaged checkpoint, nothing to download. Flags override
--config, then the recipe (for emoji_shift the method's own), then defaults. --method NAME --help has its own.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin

from ..data.benchmarks import Benchmark
from ..data.class_projection import head_classes
from ..data.few_shot import few_shot
from ..data.hold_out import groups_in_common
from ..data.left_out import leave_out_classes
from ..data.messages import quoted, unreadable_note
from ..data.packaged import CHECKPOINTS
from ..data.pinned import pinned
from ..evaluation.benchmark_checks import checked_benchmarks
from ..evaluation.evaluator import Evaluator
from ..evaluation.report import EvaluationReport
from ..files import is_of_this_room, locked
from ..modeling.checkpoint import load_dual_encoder, load_processor, outline
from ..modeling.feature_cache import cache_features
from ..modeling.heads import TipAdapterHead
from ..modeling.output_folders import unless_refused
from ..modeling.processes import commits_of_the_first
from ..modeling.tensor_files import weights_fingerprint
from ..objectives.cross_entropy import CrossEntropyMixin
from ..publishing.finish import finish_checkpoint
from ..publishing.hardware import describe_hardware
from ..publishing.run_folder import drop_former, former_checkpoints, set_aside
from ..training.finished_folder import changed_arguments
from ..training.hub_push import push_finished
from ..training.image_check import ImageCheck, check_images, image_hashes_of
from ..training.methods import RobustTrainingArguments
from ..training.trainer import RobustTrainer
from ..training.unreadable_images import with_names
from .commands import CommandParser
from .data_sets import (
    Known,
    ask_commits,
    check_columns,
    default_evaluation,
    evaluation_benchmarks,
    held_out,
    notes_on_validation,
    train_benchmark,
    validation_benchmark,
)
from .each import check_group, suites_of, summary, summary_table, write_summary
from .endings import train_program, without_resume
from .first_look import word_behind
from .label_lists import check_lists, learns_lists, measured_lists
from .merging import MERGES, check_left_out, check_start, load_fine_tuned, merge, merges_head, notes_on_models
from .option_checks import check, settle
from .train_arguments import AUTO, DataArguments, TrainCommand, parse, train_parser


@dataclass
class TrainingData:
    """
    The data of a run, opened and compared.

    Attributes:
        train ([`Benchmark`]): To train on.
        evaluation (`list[Benchmark]`): To measure on; may be empty.
        validation ([`Benchmark`], *optional*): In-distribution images that are not tested on, to fit on.
        evaluator ([`Evaluator`], *optional*): Of `evaluation`; `None` if that is empty.
        check ([`ImageCheck`]): Which images the sets have in common.
        sweeper ([`Evaluator`], *optional*): Of `evaluation` and `validation`, for `--alpha_sweep`.
        left_out (`dict`, *optional*): The `share` and `fold` of `--leave_out_classes`, and the names of the `classes`.
        notes (`list[str]`): What a method without training has to say of its images.
    """

    train: Benchmark
    evaluation: list[Benchmark]
    validation: Benchmark | None
    evaluator: Evaluator | None
    check: ImageCheck
    sweeper: Evaluator | None = None
    left_out: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def load_data(command: TrainCommand, compared: bool = False) -> TrainingData:
    """
    The data sets that a command line names, before any weights are read. Sets with training images among them are refused;
    see `check_images`.

    Args:
        command ([`TrainCommand`]): The command line.
        compared (`bool`, *optional*, defaults to `False`): Whether the run is to be compared with others, by one label per image.

    Returns:
        [`TrainingData`]

    Raises:
        ValueError: If the model cannot serve the method, data do not fit it or each other, or the sets to measure on hold training
            images.
        OSError: If a data set cannot be read, or there is no such model.
    """
    model_args, data_args, args = command
    processes = "1 process" if args.world_size == 1 else f"{args.world_size} processes"
    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    say(args, f"{model_args.method} on {args.device}: {processes} of {threads}")
    leaves_out = data_args.leave_out_classes is not None
    texts = data_args.eval_datasets or ([] if leaves_out else default_evaluation(data_args.train_dataset))
    with commits_of_the_first(PartialState()):
        processor = load_processor(model_args.model, revision=model_args.model_revision, option="--model")
        for source in model_args.finetuned_model:
            load_processor(source, option="--finetuned_model")
        ask_commits([data_args.train_dataset, *texts])
    encoder = outline(model_args.model, revision=model_args.model_revision, option="--model")
    if model_args.trains:
        settle(model_args, args, encoder)
    check_start(model_args, args, encoder)
    measured = texts if data_args.hold_out is None else [data_args.train_dataset, *texts]
    check_columns([data_args.train_dataset, *texts], data_args, measured=measured)
    train = train_benchmark(data_args.train_dataset, data_args, data_args.caption_column)
    multi_label = learns_lists(command, train, encoder, compared)
    if data_args.shots is not None and data_args.hold_out is None:
        train = few_shot(train, data_args.shots, args.seed)
    try:
        evaluation, notes = evaluation_benchmarks(texts, data_args, Known.of(train))
    except ValueError as error:
        if "train_dataset" in data_args.given:
            raise
        raise ValueError(
            f"{error} The classes are those of the default of --train_dataset, {data_args.train_dataset}: give your training images."
        ) from error
    dropped = data_args.origins.get("eval_datasets") if not data_args.eval_datasets else None
    notes = [*notes_on_models(model_args), *([] if dropped is None else [dropped]), *notes, *notes_on_validation(texts, data_args), *groups_in_common(train, evaluation)]
    say(args, *(f"Note: {note}." for note in notes))
    validation = validation_benchmark(data_args.train_dataset, data_args, evaluation)
    if leaves_out:
        if tests := [benchmark.name for benchmark in evaluation if benchmark.role != "validation"]:
            raise ValueError(
                f"`--leave_out_classes {data_args.leave_out_classes}` is to choose settings without a look at test sets, and "
                f"--eval_datasets has {quoted(tests)}; give validation sets alone."
            )
    if data_args.hold_out is not None:
        train, evaluation, validation = held_out(train, evaluation, validation, data_args.hold_out, data_args.group_column)
        sizes = {item.name: len(item.load()) for item in (train, *evaluation, validation) if item.dataset is not None}
        say(args, f"Held out of training by class: {', '.join(f'{name} {size} images' for name, size in sizes.items())}")
        train = train if data_args.shots is None else few_shot(train, data_args.shots, args.seed)
    if leaves_out:
        how = {"share": data_args.leave_out_classes, "fold": data_args.leave_out_fold}
        train, unseen = leave_out_classes(train, validation, **how)
        left_out = how | {"classes": [name for name in unseen.class_names if name not in train.class_names]}
        check_left_out(model_args, train.class_names, left_out)
        verb = "Trains on" if model_args.learns else "Merges what was trained on"
        say(args, f"{verb} {len(train.class_names)} of {len(unseen.class_names)} classes; measures {unseen.note}.")
        evaluation, validation = [unseen], None
    if multi_label:
        evaluation, validation, noted = measured_lists(evaluation, validation, data_args, compared)
        say(args, *noted)
    reading = {"batch_size": args.eval_batch_size, "num_workers": args.dataloader_num_workers, "progress": not args.disable_tqdm}
    reading |= {"bad_images": data_args.policy()}
    evaluator = Evaluator(evaluation, processor, **reading) if evaluation else None
    if model_args.method == "zero_shot" and not evaluation:
        raise ValueError("`--method zero_shot` only measures, and there is nothing to measure; give --eval_datasets.")
    if model_args.fold_temperature and validation is None:
        raise ValueError("`--fold_temperature` fits on validation images; give --eval_datasets <path>:validation too.")
    closed = [benchmark for benchmark in evaluation if benchmark.role != "open_set"]
    merged = merges_head(model_args)
    if (model_args.has_head or merged) and closed and not leaves_out and all(train.class_names not in head_classes(item) for item in closed):
        raise ValueError(
            f"`--method {model_args.method}` makes a head for the classes of the training set, which are those of no evaluation "
            f"set; give --eval_datasets with the same classes, or {'--merged_head rebuilt' if merged else 'use --method flyp'}."
        )
    if model_args.alpha_sweep and not evaluation:
        raise ValueError("`--alpha_sweep` measures, and there is nothing to measure; give --eval_datasets.")
    if model_args.select_alpha and validation is None:
        raise ValueError("`--select_alpha` chooses on validation images; give --eval_datasets <path>:validation too.")
    sets = [*evaluation, *([validation] if validation is not None and validation not in evaluation else [])]
    check_lists(command, multi_label, sets, evaluator, validation, compared)
    sources = [(model_args.model, model_args.model_revision), *((source, None) for source in model_args.finetuned_model)]
    earlier = [entry for source in sources for entry in image_hashes_of(*source)]
    seen = train if model_args.learns else None
    check = check_images(seen, sets, earlier=earlier, allow_overlap=data_args.allow_overlap)
    say(args, *(f"Note: {note}" for note in check.notes))
    if data_args.save_predictions:
        checked_benchmarks(sets)
    sweeper = Evaluator(sets, processor, **reading) if model_args.alpha_sweep else None
    return TrainingData(train, evaluation, validation, evaluator, check, sweeper, left_out if leaves_out else None)


def make_trainer(
    command: TrainCommand, model: PreTrainedModel, processor: ProcessorMixin, data: TrainingData
) -> RobustTrainer | None:
    """
    The Trainer of the method, `None` where nothing is trained. With `--feature_views` it trains on features, cached here.

    Args:
        command ([`TrainCommand`]): The command line.
        model ([`~transformers.PreTrainedModel`]), processor ([`~transformers.ProcessorMixin`]): What is trained.
        data ([`TrainingData`]): On what.

    Raises:
        ValueError: If settings, model and data do not fit together. Nothing is left in the output folder then.
        OSError: If images cannot be read, or the checkpoint to resume from is not whole.
    """
    model_args, data_args, args = command
    if not model_args.trains:
        return None
    closed = [benchmark for benchmark in data.evaluation if benchmark.role != "open_set"]
    if data.left_out is not None and issubclass(model_args.trainer, CrossEntropyMixin):
        closed = []  # They have no place in the head.
    bad_images, train_dataset, began = data_args.policy(), data.train, weights_fingerprint(model)
    with unless_refused(args.output_dir):
        if data_args.feature_views is not None:
            options = _caching(data_args, args, data.train, data_args.feature_views)
            train_dataset = cache_features(model.to(args.device), data.train, processor, **options)
        trainer = model_args.trainer(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=[b for b in closed if b.role == "validation"] or closed or None,
            processing_class=processor,
            bad_images=bad_images,
        )
        say(args, *args.described_origins())
        trainer.train_benchmark, trainer.image_check, trainer.began_with = data.train, data.check, began
        # Before anything is measured.
        args.resume_from_checkpoint = trainer.checkpoint_to_resume(args.resume_from_checkpoint)
    return trainer


def make_cache(command: TrainCommand, model: PreTrainedModel, processor: ProcessorMixin, data: TrainingData) -> dict[str, Any]:
    """
    The head of `--method tip_adapter`, which keeps training images instead of training.

    Args:
        command ([`TrainCommand`]): The command line.
        model ([`~transformers.PreTrainedModel`]), processor ([`~transformers.ProcessorMixin`]): What encodes the images.
        data ([`TrainingData`]): Which images.

    Returns:
        `dict[str, Any]`: For [`finish_checkpoint`]; empty for other methods.

    Raises:
        ValueError: If the training set is a stream or has no labels.
        OSError: If an image cannot be read.
    """
    model_args, data_args, args = command
    if model_args.method != "tip_adapter":
        return {}
    say(args, *args.described_origins())
    with unless_refused(args.output_dir):
        options = _caching(data_args, args, data.train, args.tip_views) | {"alpha": args.tip_alpha, "beta": args.tip_beta}
        head = TipAdapterHead.from_benchmark(model.to(args.device), data.train, processor, **options)
    bad = options["bad_images"]
    unread = {"count": len(bad.unreadable), "of": bad.total, "left_out": True} if bad.unreadable else None
    data.notes += unreadable_note(unread)
    say(args, *with_names(data.notes, bad.unreadable))
    return {"head": head, "search_head": not {"tip_alpha", "tip_beta"} & args.given, "unreadable_images": unread}


def _caching(data_args: DataArguments, args: RobustTrainingArguments, train: Benchmark, views: int) -> dict[str, Any]:
    return {
        "views": views,
        "seed": args.seed if args.data_seed is None else args.data_seed,
        "batch_size": args.eval_batch_size,
        "num_workers": args.dataloader_num_workers,
        "cache_dir": data_args.feature_cache,
        "progress": not args.disable_tqdm,
        "bad_images": data_args.policy().of(f"the training set {train.name!r}"),
        **({"crop": args.train_crop} if views else {}),
    }


def facts(command: TrainCommand, data: TrainingData, trainer: RobustTrainer | None) -> dict[str, Any]:
    """What `robustft.json` and the card say of a job (its `command` and `data`) beyond what its `trainer` knows."""
    model_args, _, args = command
    found = {"method": model_args.method, "base_model": model_args.model, "left_out_classes": data.left_out}
    if model_args.model in CHECKPOINTS:
        found["base_model_note"] = CHECKPOINTS[model_args.model]
    if (commit := pinned(model_args.model, model_args.model_revision)) is not None:
        found["base_model_revision"] = commit
    if trainer is not None:
        return found
    return found | {
        "class_names": data.train.class_names,
        "templates": data.train.templates,
        "label_names": data.train.label_names,
        "settings": changed_arguments(args),
        "image_hashes": data.check.hashes,
        "notes": [*data.check.notes, *data.notes],
        "shared_images": data.check.shared,
        "train": data.train,
        "hardware": describe_hardware(args.device, args.world_size),
        "seed": args.seed,
    }


def say(args: RobustTrainingArguments, *lines: str) -> None:
    """Print `lines`, in the main process by its `args`."""
    if args.should_save:
        print("".join(f"{line}\n" for line in lines), end="")


def conclude(
    args: RobustTrainingArguments,
    trainer: RobustTrainer | None,
    report: EvaluationReport | None,
    baseline: EvaluationReport | None,
    seconds: float,
) -> None:
    """
    Print the results and what was saved.

    Args:
        args ([`RobustTrainingArguments`]): Settings of the run.
        trainer ([`RobustTrainer`], *optional*): What trained.
        report ([`EvaluationReport`], *optional*), baseline ([`EvaluationReport`], *optional*): The results.
        seconds (`float`): That the job took.
    """
    output = Path(args.output_dir)
    if trainer is None and args.should_save:
        set_aside(former_checkpoints(output))
        drop_former(output)
    if trainer is not None:
        say(args, *trainer.said_of_unreadable_images())
    say(args, "No --eval_datasets: nothing was measured, so there is no evaluation.json and no card." if report is None else report.table(baseline=baseline))
    if args.should_save:
        written = sorted(p.name for p in output.iterdir() if p.is_file() and not is_of_this_room(p.name))
        say(args, f"Saved to {output}: {', '.join(written)}", f"Total {seconds:.0f} s")


def train(arguments: Sequence[str], suite: str | None = None) -> EvaluationReport | None:
    """
    Carry the command out. `examples/run_robust_ft.py` is the same, to be copied and changed.

    Args:
        arguments (`Sequence[str]`): The command line behind `hf-robustft train`.
        suite (`str`, *optional*): The one to train on, where `--train_dataset` stands for several; by default all of them
            in turn.

    Returns:
        [`EvaluationReport`]: The results; `None` if nothing was measured, or for several suites.

    Raises:
        ValueError: If the arguments or data do not fit each other.
        OSError: If something cannot be read or written.
    """
    started = time.perf_counter()
    command = model_args, data_args, args = parse(arguments, suite)
    suites = suites_of(data_args.train_dataset)
    check_group(data_args.train_dataset, args) if suites else check(*command)
    with locked(args.output_dir, "hf-robustft train") if args.should_save else nullcontext():
        if not suites:
            return _train(command, arguments, started)
        train_each(arguments, suites, args)
        return None


def _train(command: TrainCommand, arguments: Sequence[str], started: float) -> EvaluationReport | None:
    model_args, data_args, args = command
    data = load_data(command)
    model, processor = load_dual_encoder(model_args.model, revision=model_args.model_revision, option="--model")
    fine_tuned = load_fine_tuned(model_args, model, data.train)
    trainer = make_trainer(command, model, processor, data)
    cache = make_cache(command, model, processor, data)
    baseline = None
    if data.evaluator is not None and model_args.changes_the_model and not data_args.skip_baseline:
        baseline = data.evaluator.evaluate(model.to(args.device), name="zero-shot")
    if trainer is not None:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    saved, known = None if trainer else model, facts(command, data, trainer)
    if model_args.method in MERGES:
        saved, merged = merge(model_args, data, model, processor, fine_tuned, trainer)
        known |= merged
    report = finish_checkpoint(
        args.output_dir,
        trainer=trainer,
        model=saved,
        processor=processor,
        evaluator=data.evaluator,
        validation=data.validation,
        baseline=baseline,
        detector=model_args.detector if data.left_out is None else "none",
        true_positive_rate=model_args.true_positive_rate,
        fold_temperature=model_args.fold_temperature,
        prediction_sets=model_args.prediction_sets,
        coverage=model_args.coverage,
        save_logits=data_args.save_logits,
        save_predictions=data_args.save_predictions,
        command=shlex.join([*train_program(args.world_size), *without_resume(arguments)]),
        **known,
        **cache,
    )
    conclude(args, trainer, report, baseline, time.perf_counter() - started)
    if args.push_to_hub and args.should_save:
        print(f"Pushed to {push_finished(args, trainer).url}")
    return report


def train_each(arguments: Sequence[str], suites: Sequence[str], args: RobustTrainingArguments) -> None:
    """
    Train on each suite of a group, in a folder of its own, and write a table of all.

    Args:
        arguments (`Sequence[str]`): The command line behind `hf-robustft train`.
        suites (`Sequence[str]`): As `--train_dataset` would name each.
        args ([`RobustTrainingArguments`]): Settings, with the folder for all.

    Raises:
        ValueError, OSError: As [`train`]. What no run can do is refused before the first.
    """
    parts = {suite: parse(arguments, suite) for suite in suites}
    for suite in suites:
        check(*parts[suite])
    reports = {}
    for number, suite in enumerate(suites, 1):
        say(args, f"{suite} ({number} of {len(suites)})")
        reports[suite.partition("=")[0]] = train(arguments, suite)
    if args.should_save and all(report is not None for report in reports.values()):
        rows = summary(reports)
        say(args, summary_table(rows), f"Saved to {write_summary(args.output_dir, rows)}")


def run(arguments: Sequence[str]) -> int:
    """Carry out what `arguments` say; returns the exit code: 1 if a run of `--method auto` failed."""
    if word_behind("--method", arguments) == AUTO:
        from .auto import train_chosen  # It starts this command for each run.

        return train_chosen(arguments)[1]
    train(arguments)
    return 0


def parser() -> CommandParser:
    """The parser of `hf-robustft train`."""
    return train_parser(__doc__)
