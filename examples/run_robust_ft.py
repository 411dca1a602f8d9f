#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Fine-tune a CLIPModel robustly; report accuracy, calibration and open-set detection before and after.

With no argument: CaRot on Emoji Shift from the packaged checkpoint, nothing to download.

    accelerate launch --num_cpu_threads_per_process 2 examples/run_robust_ft.py
    accelerate launch --num_cpu_threads_per_process 2 examples/run_robust_ft.py --method croft --shots 16
    accelerate launch examples/run_robust_ft.py --method flyp --learning_rate 1e-5 --num_train_epochs 3
    accelerate launch examples/run_robust_ft.py --config examples/configs/emoji_shift/carot.yaml --seed 1
    accelerate launch examples/run_robust_ft.py --model openai/clip-vit-base-patch16 \\
        --train_dataset my_images/train --eval_datasets my_images/validation:validation my_images/test:id \\
        my_sketches:shift something_else:open_set
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from job_arguments import (
    DETECTORS,
    DataArguments,
    ModelArguments,
    load_eval_benchmarks,
    load_train_benchmark,
    load_validation_benchmark,
    parse,
    replaced_images,
)
from transformers import CLIPModel, CLIPProcessor

from hf_robustft.cli.checkpoint import load_checkpoint
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.class_projection import head_classes
from hf_robustft.data.images import BadImages
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.detector import OpenSetDetector, fold_temperature
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.evaluation.report import TRAINED_HEAD, ZERO_SHOT_HEAD, EvaluationReport, save_reports
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.feature_cache import cache_features
from hf_robustft.modeling.features import logit_scale
from hf_robustft.modeling.interpolation import interpolate_weights
from hf_robustft.modeling.zero_shot import HEAD_FILE, ZeroShotHead
from hf_robustft.publishing.card_pictures import draw_pictures
from hf_robustft.publishing.hardware import describe_hardware
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.model_card import write_model_card
from hf_robustft.publishing.papers import METHOD_FACTS
from hf_robustft.training.arguments import RobustTrainingArguments
from hf_robustft.training.distributed import check_world_size
from hf_robustft.training.hub_push import push_finished
from hf_robustft.training.methods import METHODS
from hf_robustft.training.push_parts import changed_arguments
from hf_robustft.training.trainer import RobustTrainer


@dataclass
class Job:
    """What every step of the job needs."""

    model_args: ModelArguments
    data_args: DataArguments
    args: RobustTrainingArguments
    arguments: list[str]
    model: CLIPModel
    processor: CLIPProcessor
    train: Benchmark
    benchmarks: list[Benchmark]
    validation: Benchmark | None
    bad_images: BadImages
    evaluator: Evaluator | None

    @property
    def output(self) -> Path:
        return Path(self.args.output_dir)


def check(model_args: ModelArguments, data_args: DataArguments, args: RobustTrainingArguments) -> None:
    """Refuse what no run can do."""
    check_world_size(args.world_size)
    if model_args.detector not in DETECTORS:
        raise ValueError(f"`--detector {model_args.detector}` is unknown; choose one of {', '.join(DETECTORS)}.")
    if not 0 < model_args.true_positive_rate <= 1:
        raise ValueError(f"`--true_positive_rate {model_args.true_positive_rate}` must lie in (0, 1].")
    if data_args.feature_views is not None and model_args.method != "croft":
        raise ValueError(
            f"`--feature_views` caches the features of a frozen model, and `--method {model_args.method}` does not train "
            "from such; leave it out, or use --method croft."
        )
    if data_args.feature_cache is not None and data_args.feature_views is None:
        raise ValueError("`--feature_cache` keeps the features of --feature_views; give that too, or leave it out.")


def prepare(arguments: list[str]) -> Job:
    """Everything loaded and checked, nothing measured."""
    model_args, data_args, args = parse(arguments)
    check(model_args, data_args, args)
    if args.should_save:
        print(
            f"{model_args.method} on {args.device}: {args.world_size} process(es), {torch.get_num_threads()} thread(s) each"
        )
    bad_images = data_args.policy()
    model, processor = load_checkpoint(model_args.model)
    train = load_train_benchmark(data_args, args.seed)
    benchmarks, notes = load_eval_benchmarks(data_args, train)
    if args.should_save:
        print("".join(f"Note: {note}.\n" for note in notes), end="")
    validation = load_validation_benchmark(data_args, benchmarks)
    evaluator = None
    if benchmarks:
        evaluator = Evaluator(
            benchmarks,
            processor,
            batch_size=args.eval_batch_size,
            num_workers=args.dataloader_num_workers,
            progress=not args.disable_tqdm,
            bad_images=bad_images,
        )
    if model_args.method == "zero_shot" and evaluator is None:
        raise ValueError("`--method zero_shot` only measures, and there is nothing to measure; give --eval_datasets.")
    if model_args.fold_temperature and validation is None:
        raise ValueError("`--fold_temperature` fits on validation images; give --eval_datasets <path>:validation too.")
    return Job(
        model_args, data_args, args, arguments, model, processor, train, benchmarks, validation, bad_images, evaluator
    )


def build_trainer(job: Job) -> RobustTrainer:
    """The method's Trainer. What is impossible is refused here, before anything is measured."""
    method, args, train = job.model_args.method, job.args, job.train
    closed = [benchmark for benchmark in job.benchmarks if benchmark.role != "open_set"]
    train_dataset = train
    if job.data_args.feature_views is not None:
        train_dataset = cache_features(
            job.model.to(args.device),
            train,
            job.processor,
            views=job.data_args.feature_views,
            seed=args.seed if args.data_seed is None else args.data_seed,
            batch_size=args.eval_batch_size,
            num_workers=args.dataloader_num_workers,
            cache_dir=job.data_args.feature_cache,
            progress=not args.disable_tqdm,
            bad_images=job.bad_images.of(f"the training set {train.name!r}"),
            **({"crop": args.train_crop} if job.data_args.feature_views else {}),
        )
    trainer = METHODS["ft" if method == "wise_ft" else method](
        job.model,
        args,
        train_dataset=train_dataset,
        eval_dataset=[b for b in closed if b.role == "validation"] or closed or None,
        processing_class=job.processor,
        bad_images=job.bad_images,
    )
    trainer.train_benchmark = train
    if args.resume_from_checkpoint is not None:
        trainer.check_checkpoint(args.resume_from_checkpoint)
    if method == "ft" and closed and all(train.class_names not in head_classes(benchmark) for benchmark in closed):
        raise ValueError(
            "`--method ft` trains a head for the classes of the training set, which are those of no evaluation set; "
            "give --eval_datasets with the same classes, or use --method flyp."
        )
    return trainer


def interpolate(job: Job) -> None:
    """Replace the weights in `output_dir` by those between the zero-shot and the fine-tuned model; no head stays."""
    zero_shot, processor = load_checkpoint(job.model_args.model)
    fine_tuned, _ = load_checkpoint(job.model_args.finetuned_model or job.args.output_dir)
    fine_tuned.load_state_dict(interpolate_weights(zero_shot, fine_tuned, job.model_args.alpha))
    fine_tuned.save_pretrained(job.output)
    processor.save_pretrained(job.output)
    (job.output / HEAD_FILE).unlink(missing_ok=True)


def fit_detector(job: Job, model: CLIPModel, head: ZeroShotHead | None) -> OpenSetDetector | None:
    """
    Temperature and open-set detector from the validation set, saved with the checkpoint.

    With `--fold_temperature` the weights in the folder, `model` and `head` have the temperature in them afterwards.
    """
    if job.validation is None or job.model_args.detector == "none" and not job.model_args.fold_temperature:
        if job.args.should_save and job.model_args.detector != "none":
            print("No set with the role validation: neither a temperature nor an open-set detector was fitted.")
        return None
    logits, labels = collect_logits(
        model,
        job.validation,
        job.processor,
        head=head,
        batch_size=job.args.eval_batch_size,
        num_workers=job.args.dataloader_num_workers,
        progress=not job.args.disable_tqdm,
        bad_images=job.bad_images.of(f"data set {job.validation.name!r}"),
    )
    temperature = None
    try:
        temperature = TemperatureScaling().fit(logits, labels)
    except ValueError as error:
        if job.model_args.fold_temperature:
            raise
        if job.args.should_save:
            print(f"No temperature: {error}")
    detector = None
    if job.model_args.detector != "none":
        detector = OpenSetDetector.fit(
            logits,
            class_names=job.validation.class_names,
            logit_scale=logit_scale(model),
            score=job.model_args.detector,
            true_positive_rate=job.model_args.true_positive_rate,
            temperature=temperature,
            fitted_on=job.validation.name,
        )
    if job.model_args.fold_temperature:
        detector = fold_temperature(model, temperature, detector, logits, head)
        if job.args.should_save:
            model.save_pretrained(job.output)
            if head is not None:
                head.save_pretrained(job.output)
    if detector is not None and job.args.should_save:
        detector.save(job.output)
    return detector


def main(arguments: list[str] | None = None) -> EvaluationReport | None:
    """Run the job; returns the final report."""
    started = time.perf_counter()
    job = prepare(sys.argv[1:] if arguments is None else arguments)
    method, args, output = job.model_args.method, job.args, job.output
    trainer = None
    if method != "zero_shot" and not (method == "wise_ft" and job.model_args.finetuned_model):
        trainer = build_trainer(job)

    baseline = None
    if job.evaluator and not (job.data_args.skip_baseline and method != "zero_shot"):
        baseline = job.evaluator.evaluate(job.model.to(args.device), name="zero-shot")
    seconds = None
    if trainer is not None:
        before = time.perf_counter()
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        seconds = time.perf_counter() - before
        print(replaced_images(trainer), end="")
        # Not pushed yet: card, detector and temperature come with what is measured below.
        trainer.save_model(_internal_call=True)
        trainer.accelerator.wait_for_everyone()
    if method == "zero_shot" and args.should_save:
        job.model.save_pretrained(output)
        job.processor.save_pretrained(output)
    if method == "wise_ft" and args.should_save:
        interpolate(job)
    settings = changed_arguments(args)
    if args.should_save:
        write_robustft_json(
            output,
            method=method,
            class_names=job.train.class_names,
            templates=job.train.templates,
            settings=settings,
            alpha=job.model_args.alpha if method == "wise_ft" else None,
            head=TRAINED_HEAD if method == "ft" else ZERO_SHOT_HEAD,
        )
    PartialState().wait_for_everyone()

    # What is reported is what was saved: the folder is loaded again, as a user will.
    head = ZeroShotHead.from_pretrained(output).to(args.device) if method == "ft" else None
    saved = CLIPModel.from_pretrained(output).to(args.device)
    detector = fit_detector(job, saved, head)
    report = baseline
    if job.evaluator and (method != "zero_shot" or job.model_args.fold_temperature or job.data_args.save_logits):
        logits_dir = output / "logits" if job.data_args.save_logits else None
        report = job.evaluator.evaluate(saved, head=head, name=METHOD_FACTS[method].label, logits_dir=logits_dir)
    if method == "zero_shot" and not job.model_args.fold_temperature:
        baseline = report
    if args.should_save:
        log_history = () if trainer is None else trainer.state.log_history
        write_results(job, report, baseline, detector, settings, seconds, log_history)
        if report is not None:
            print(report.table(baseline=None if report is baseline else baseline))
        print(f"Saved to {output}: {', '.join(sorted(p.name for p in output.iterdir() if p.is_file()))}")
        print(f"Total {time.perf_counter() - started:.0f} s")
    if args.push_to_hub and args.should_save:
        print(f"Pushed to {push_finished(args, trainer).url}")
    return report


def write_results(
    job: Job, report, baseline, detector, settings: dict, seconds: float | None, log_history: Sequence[dict]
) -> None:
    """With evaluation sets `evaluation.json`, the pictures and the card."""
    if report is None:
        print("No --eval_datasets: nothing was measured, so there is no evaluation.json and no card.")
        return
    output, method = job.output, job.model_args.method
    trained = baseline is not None and report is not baseline
    reports = [baseline, report] if trained else [report]
    save_reports(output / "evaluation.json", reports)
    roles = {benchmark.name: benchmark.role for benchmark in job.benchmarks}
    draw_pictures(output, reports, scores=job.evaluator.scores, roles=roles, detector=detector)
    data = [job.train, *job.benchmarks]
    if job.validation is not None and job.validation not in job.benchmarks:
        data.append(job.validation)
    write_model_card(
        output,
        report=report,
        baseline=baseline if trained else None,
        method=method,
        base_model=job.model_args.model,
        base_model_note="The checkpoint that comes with hf_robustft."
        if job.model_args.model == "emoji_clip"
        else None,
        settings=settings,
        alpha=job.model_args.alpha if method == "wise_ft" else None,
        data=data,
        hardware=describe_hardware(job.args.device, job.args.world_size),
        wall_seconds=seconds,
        seed=job.args.seed,
        log_history=log_history,
        command=f"accelerate launch examples/run_robust_ft.py {shlex.join(job.arguments)}".strip(),
    )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("HF_ROBUSTFT_TRACEBACK"):
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")
