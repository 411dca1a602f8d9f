# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Measure accuracy, calibration and open-set detection of a CLIP checkpoint, without training.

    hf-robustft evaluate outputs/carot --eval_datasets emoji_shift
    hf-robustft evaluate outputs/carot --eval_datasets my_images/test my_sketches:shift something_else:open_set
    hf-robustft evaluate openai/clip-vit-base-patch16 --eval_datasets imagenet-1k imagenet-v2 imagenet-r objectnet --streaming

Class names, prompts and a trained head are those of the checkpoint's folder (robustft.json, head.safetensors), if it has
them; a plain model takes its classes from the data. Labels of your own data are matched with them by name. Prints the
tables and writes evaluation.json, report.html for a person to read, reliability.png, with shifts shift.png, and with open sets
scores.png and thresholds.png. Several processes share the work under `accelerate launch -m hf_robustft.cli evaluate ...`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.benchmarks import Benchmark
from ..data.class_projection import head_classes
from ..data.messages import quoted
from ..data.packaged import CHECKPOINTS
from ..evaluation.benchmark_checks import with_validation
from ..evaluation.detector import OpenSetDetector
from ..evaluation.evaluator import Evaluator
from ..evaluation.prediction_sets import ConformalClassifier
from ..evaluation.predictions import PREDICTIONS_FILE
from ..evaluation.report import EvaluationReport
from ..files import locked
from ..modeling.checkpoint import load_dual_encoder, load_processor, own_files
from ..modeling.checkpoint_file import is_packaged
from ..modeling.fitted_weights import check_fitted_weights
from ..modeling.heads import load_head
from ..modeling.metadata import FITTED, METADATA_FILE, load_robustft_json
from ..modeling.model_files import has_trained_head, reading
from ..modeling.output_folders import check_apart, check_output_dir
from ..modeling.processes import commits_of_the_first
from ..publishing.card_sections import draw_pictures
from ..publishing.report_page import write_page
from ..publishing.run_folder import EVALUATION_FILE, LOGITS, LOGITS_STAGE, replacing
from ..training.image_check import check_images
from .commands import CommandParser, RunOptions, check_revision, option, quiet_if_asked
from .data_sets import (
    SETS,
    DataOptions,
    ask_commits,
    check_columns,
    evaluation_benchmarks,
    model_classes,
    train_benchmark,
    validation_benchmark,
)
from .label_lists import refuse_idle_groups
from .option_rules import check_bank
from .specs import Spec


@dataclass(kw_only=True)
class EvaluateOptions:
    """What is measured, on what."""

    model: str = option(
        f"Folder or Hub id of a CLIP, SigLIP or other dual encoder, or one of the package: {quoted(tuple(CHECKPOINTS))}.",
        positional=True,
        metavar="MODEL",
    )
    eval_datasets: list[str] = option(f"Sets to measure on. {SETS}", metavar="SET")
    output_dir: str = option("Folder for the results.", "outputs/evaluate")
    name: str | None = option("What the report calls the model (default: the last part of MODEL).", None)
    revision: str | None = option("Commit, branch or tag of MODEL on the Hub.", None)
    zero_shot: bool = option("Use prompts even if the folder has a trained head for the classes.", False)
    knn_bank: str | None = option(
        "Known images, such as the training set, for the open-set score knn.", None, metavar="SET"
    )
    knn_k: int | None = option("Neighbour whose distance counts for knn; 10 by default.", None)
    save_logits: bool = option("Write the logits of each image too.", False)
    save_predictions: bool = option(
        "Write what the model says of each image into predictions.parquet too. The validation set of a suite is measured "
        "for it.",
        False,
    )


def parser() -> CommandParser:
    """The parser of `hf-robustft evaluate`."""
    parts = (EvaluateOptions, DataOptions, RunOptions)
    return CommandParser(parts, prog="hf-robustft evaluate", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """Carry out what `arguments` say; returns the exit code."""
    evaluate(*parser().parse(arguments))
    return 0


def evaluate(options: EvaluateOptions, data: DataOptions, running: RunOptions) -> EvaluationReport:
    """
    Measure, print and write.

    Args:
        options ([`EvaluateOptions`]), data ([`DataOptions`]), running ([`RunOptions`]): The parts of the command line.

    Raises:
        ValueError: If the data do not fit the model or each other, or an option is out of range.
        OSError: If model or data cannot be read.
    """
    check_bank(options.knn_bank, options.knn_k)
    state, output = PartialState(cpu=running.use_cpu), options.output_dir
    check_output(options, state.is_main_process)
    check_revision(options.model, options.revision)
    quiet_if_asked(running)
    with locked(output, "hf-robustft evaluate") if state.is_main_process else nullcontext():
        return _evaluate(options, data, running, state)


def _evaluate(options: EvaluateOptions, data: DataOptions, running: RunOptions, state: PartialState) -> EvaluationReport:
    output, policy = Path(options.output_dir), data.policy()
    state.wait_for_everyone()
    is_here = Path(options.model).is_dir() and not is_packaged(options.model)
    with reading(options.model) if is_here else nullcontext():
        # The data before any weights.
        with commits_of_the_first(state):
            processor = load_processor(options.model, revision=options.revision, option="MODEL")
            ask_commits([*options.eval_datasets, options.knn_bank])
        folder = own_files(options.model, options.revision)
        facts = load_robustft_json(folder) if folder is not None and (folder / METADATA_FILE).is_file() else {}
        own = folder is not None and not (options.zero_shot or data.class_names or data.templates)
        if own:
            check_fitted_weights(folder, facts, FITTED)
        known = model_classes(data, facts.get("class_names", ()), facts.get("templates", ()), facts.get("label_names"))
        check_columns([*options.eval_datasets, options.knn_bank], data, measured=options.eval_datasets)
        benchmarks, notes = evaluation_benchmarks(options.eval_datasets, data, known)
        if options.knn_bank is not None and all(benchmark.role != "open_set" for benchmark in benchmarks):
            raise ValueError("`--knn_bank` is for the detection of unknown classes; give a set `NAME:open_set` too, or leave it out.")
        if data.group_column is not None and not options.save_logits:
            refuse_idle_groups(benchmarks, data.group_column)
        notes = [whose_classes(options.model, data, facts), *notes]
        images = check_images(None, benchmarks, earlier=facts.get("image_hashes", ()), allow_overlap=True)
        evaluator = Evaluator(
            benchmarks,
            processor,
            batch_size=running.batch_size,
            num_workers=running.num_workers,
            progress=not running.disable_tqdm,
            knn_bank=None
            if options.knn_bank is None
            else train_benchmark(options.knn_bank, replace(data, streaming=False)),
            knn_k=10 if options.knn_k is None else options.knn_k,
            bad_images=policy,
            # It measures once.
            kept_bytes=0,
            # They hold for the sigmoids of its own prompts.
            thresholds=None if data.class_names or data.templates else facts.get("thresholds"),
        )
        validation = None
        if options.save_predictions:
            found = (validation_benchmark(text, data, benchmarks) for text in options.eval_datasets)
            validation = next((item for item in found if item is not None), None)
            with_validation(evaluator.benchmarks, validation)
        head = None
        if folder is not None and not options.zero_shot and has_trained_head(folder, facts):
            head = load_head(folder)
            closed = [benchmark for benchmark in benchmarks if benchmark.role != "open_set"]
            if data.templates is not None and all(head.class_names in head_classes(benchmark) for benchmark in closed):
                raise ValueError(
                    f"`--templates {data.templates}` would do nothing: the trained head of {options.model} classifies without prompts; "
                    "leave it out, or measure the prompts instead with --zero_shot."
                )
        model, _ = load_dual_encoder(options.model, revision=options.revision, option="MODEL")
        if own:
            # Of the Hub they were not here before.
            check_fitted_weights(folder, facts, FITTED)
        # Its threshold is one of the logits of its own head.
        detector = _own_detector(folder, facts, benchmarks) if own else None
        sets = ConformalClassifier.from_pretrained(folder) if own and "prediction_sets" in facts else None
    if state.is_main_process:
        for note in notes:
            print(f"Note: {note}.")
        for note in images.notes:
            print(f"Note: {note}")
    logits = output / LOGITS_STAGE if options.save_logits else None
    try:
        report = evaluator.evaluate(
            model.to(state.device),
            head=None if head is None else head.to(state.device),
            name=options.name or Path(options.model).name,
            logits_dir=logits,
            validation=validation,
            prediction_sets=sets,
            detector=detector,
        )
        report.shared_images = images.shared
        if state.is_main_process:
            # With everything that an earlier evaluation left there: its logits, and pictures that this one does not give.
            with replacing(output) as stage:
                report.save_json(stage / EVALUATION_FILE)
                pictures = draw_pictures(stage, report, scores=evaluator.scores, detector=detector)
                page = write_page(output, stage, [report], benchmarks)
                if logits is not None:
                    shutil.move(logits, stage / LOGITS)
                if options.save_predictions:
                    evaluator.predictions.save(stage)
    finally:
        if logits is not None and state.is_main_process:
            shutil.rmtree(logits, ignore_errors=True)
    if state.is_main_process:
        print(report.table())
        written = [EVALUATION_FILE, *([PREDICTIONS_FILE] if options.save_predictions else []), page, *pictures]
        print(f"Saved to {output}: {', '.join(written)}")
    state.wait_for_everyone()
    return report


def check_output(options: EvaluateOptions, is_main_process: bool = True) -> None:
    """
    Refuse an output folder that cannot be written, or that holds or is the folder of a model.

    Args:
        options ([`EvaluateOptions`]): The command line.
        is_main_process (`bool`, *optional*, defaults to `True`): Whether to try to write.

    Raises:
        OSError: If it cannot be written.
        ValueError: If results of this evaluation would take the place of a model's own.
    """
    check_apart(
        options.output_dir,
        {
            "MODEL": None if is_packaged(options.model) else options.model,
            **{f"--eval_datasets {text}": Spec.parse(text).folder for text in options.eval_datasets},
        },
    )
    if any((Path(options.output_dir) / name).is_file() for name in (METADATA_FILE, "config.json")):
        raise ValueError(
            f"`--output_dir {options.output_dir}` holds a model with results of its own, which would be overwritten; give "
            "another folder, such as outputs/evaluate."
        )
    if is_main_process:
        check_output_dir(options.output_dir)


def whose_classes(model: str, data: DataOptions, facts: Mapping[str, Any]) -> str:
    """A note on where class names and prompts come from: the options for `data`, the `facts` of the `model`, or the data."""
    names = facts.get("class_names", ())
    if data.class_names:
        return f"the classes are those of --class_names {data.class_names}"
    if names:
        return f"the {len(names)} classes are those of the model ({METADATA_FILE} in {model})"
    return "the model names no classes; they are those of the data"


def _own_detector(
    folder: Path | None, facts: Mapping[str, Any], benchmarks: Sequence[Benchmark]
) -> OpenSetDetector | None:
    if all(item.role != "open_set" for item in benchmarks) or "detector" not in facts:
        return None
    detector = OpenSetDetector.from_pretrained(folder)
    return detector if any(item.class_names == detector.class_names for item in benchmarks) else None
