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

import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from hf_robustft.cli.endings import first_look_or_exit, how_to_resume, run

if __name__ == "__main__":
    # Before torch and Transformers, which take seconds: a mistyped flag is answered at once.
    first_look_or_exit("train", sys.argv[1:])

import torch
from accelerate import PartialState
from job_arguments import (
    DataArguments,
    ModelArguments,
    load_eval_benchmarks,
    load_train_benchmark,
    load_validation_benchmark,
    parse,
    replaced_images,
)
from transformers import CLIPModel, CLIPProcessor

from hf_robustft.cli.option_checks import check_options
from hf_robustft.cli.shared_options import quiet_if_asked
from hf_robustft.cli.specs import Spec
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.class_projection import head_classes
from hf_robustft.data.images import BadImages
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.evaluation.fitting import check_fit
from hf_robustft.evaluation.report import EvaluationReport
from hf_robustft.modeling.checkpoint import load_checkpoint
from hf_robustft.modeling.feature_cache import cache_features
from hf_robustft.modeling.files import check_apart, check_output_dir, unless_refused
from hf_robustft.modeling.interpolation import check_alpha, check_interpolation, interpolate_weights
from hf_robustft.publishing.finish import finish_checkpoint
from hf_robustft.publishing.run_folder import drop_former, former_checkpoints, set_aside
from hf_robustft.training.distributed import check_world_size
from hf_robustft.training.finishing import finish_run
from hf_robustft.training.hub_push import push_finished
from hf_robustft.training.image_check import ImageCheck, check_images, image_hashes_of
from hf_robustft.training.methods import METHODS, RobustTrainingArguments
from hf_robustft.training.push_parts import changed_arguments
from hf_robustft.training.trainer import RobustTrainer


@dataclass
class Job:
    """What every step of the job needs."""

    model_args: ModelArguments
    data_args: DataArguments
    args: RobustTrainingArguments
    model: CLIPModel
    processor: CLIPProcessor
    fine_tuned: CLIPModel | None
    train: Benchmark
    benchmarks: list[Benchmark]
    validation: Benchmark | None
    bad_images: BadImages
    evaluator: Evaluator | None
    images: ImageCheck

    @property
    def output(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def trains(self) -> bool:
        return self.model_args.method != "zero_shot" and self.fine_tuned is None


def check(model_args: ModelArguments, data_args: DataArguments, args: RobustTrainingArguments) -> None:
    """Refuse what no run can do."""
    check_world_size(args.world_size)
    check_fit(model_args.detector, model_args.true_positive_rate)
    check_alpha(model_args.alpha)
    if args.should_save:
        check_output_dir(args.output_dir)
    inputs = {"--model": model_args.model, "--finetuned_model": model_args.finetuned_model}
    inputs |= {f"--train_dataset {data_args.train_dataset}": Spec.parse(data_args.train_dataset).folder}
    inputs |= {f"--eval_datasets {text}": Spec.parse(text).folder for text in data_args.eval_datasets}
    check_apart(args.output_dir, inputs)
    if data_args.feature_cache is not None:
        check_apart(data_args.feature_cache, inputs, option="--feature_cache")
    former_checkpoints(args.output_dir, args.resume_from_checkpoint)
    check_options(model_args, data_args, args)


def prepare(model_args: ModelArguments, data_args: DataArguments, args: RobustTrainingArguments) -> Job:
    """Everything loaded and checked, nothing measured."""
    if args.should_save:
        print(
            f"{model_args.method} on {args.device}: {args.world_size} process(es), {torch.get_num_threads()} thread(s) each"
        )
    bad_images = data_args.policy()
    model, processor = load_checkpoint(model_args.model, option="--model")
    fine_tuned = None
    if model_args.method == "wise_ft" and model_args.finetuned_model:
        fine_tuned, _ = load_checkpoint(model_args.finetuned_model, option="--finetuned_model")
        check_interpolation(model, fine_tuned)
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
    images = compare_images(model_args, data_args, train, benchmarks, validation)
    if args.should_save:
        print("".join(f"Note: {note}\n" for note in images.notes), end="")
    return Job(
        model_args,
        data_args,
        args,
        model,
        processor,
        fine_tuned,
        train,
        benchmarks,
        validation,
        bad_images,
        evaluator,
        images,
    )


def compare_images(
    model_args: ModelArguments,
    data_args: DataArguments,
    train: Benchmark,
    benchmarks: list[Benchmark],
    validation: Benchmark | None,
) -> ImageCheck:
    """Refuse sets to measure on that hold training images, or name those that hold a few."""
    earlier = image_hashes_of(model_args.model)
    trains = model_args.method != "zero_shot" and model_args.finetuned_model is None
    if model_args.finetuned_model is not None:
        earlier = [*earlier, *image_hashes_of(model_args.finetuned_model)]
    sets = [*benchmarks, *([validation] if validation is not None and validation not in benchmarks else [])]
    return check_images(train if trains else None, sets, earlier=earlier, allow_overlap=data_args.allow_overlap)


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
    if args.should_save:
        print("".join(f"{line}\n" for line in args.described_origins()), end="")
    trainer.train_benchmark, trainer.image_check = train, job.images
    if args.resume_from_checkpoint is not None:
        trainer.check_checkpoint(args.resume_from_checkpoint)
    if method == "ft" and closed and all(train.class_names not in head_classes(benchmark) for benchmark in closed):
        raise ValueError(
            "`--method ft` trains a head for the classes of the training set, which are those of no evaluation set; "
            "give --eval_datasets with the same classes, or use --method flyp."
        )
    return trainer


def save(job: Job, trainer: RobustTrainer | None) -> None:
    """The model takes the place of whatever the output folder held; what a former run left there goes."""
    method, output = job.model_args.method, job.output
    if method not in ("wise_ft", "zero_shot"):
        trainer.save_model(_internal_call=True)
    elif job.args.should_save:
        if method == "wise_ft":
            # Only the interpolated weights are ever written there.
            fine_tuned = job.fine_tuned if trainer is None else trainer.model
            start, _ = load_checkpoint(job.model_args.model, option="--model")
            start.load_state_dict(interpolate_weights(start, fine_tuned, job.model_args.alpha))
        finish_checkpoint(
            output,
            model=job.model if method == "zero_shot" else start,
            processor=job.processor,
            method=method,
            class_names=job.train.class_names,
            templates=job.train.templates,
            settings=changed_arguments(job.args),
            alpha=job.model_args.alpha if method == "wise_ft" else None,
            image_hashes=job.images.hashes,
            label_names=job.train.label_names,
        )
        if trainer is None:
            set_aside(former_checkpoints(output))
            drop_former(output)
        else:
            trainer.drop_former_checkpoints()
    PartialState().wait_for_everyone()


def main(arguments: list[str] | None = None) -> EvaluationReport | None:
    """Run the job; returns the final report."""
    started = time.perf_counter()
    given = sys.argv[1:] if arguments is None else arguments
    model_args, data_args, args = parse(given)
    quiet_if_asked(args)
    check(model_args, data_args, args)
    method, output = model_args.method, Path(args.output_dir)
    with unless_refused(output):
        job = prepare(model_args, data_args, args)
        trainer = build_trainer(job) if job.trains else None

    baseline, seconds = None, None
    if job.evaluator and not data_args.skip_baseline and (method != "zero_shot" or model_args.fold_temperature):
        baseline = job.evaluator.evaluate(job.model.to(args.device), name="zero-shot")
    if trainer is not None:
        before = time.perf_counter()
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        seconds = time.perf_counter() - before
        print(replaced_images(trainer), end="")
    save(job, trainer)
    done = finish_run(
        args,
        job.processor,
        method=method,
        evaluator=job.evaluator,
        train=job.train,
        validation=job.validation,
        baseline=baseline,
        detector=model_args.detector,
        true_positive_rate=model_args.true_positive_rate,
        fold_temperature=model_args.fold_temperature,
        save_logits=data_args.save_logits,
        bad_images=job.bad_images,
        base_model=model_args.model,
        base_model_note="The checkpoint that comes with hf_robustft." if model_args.model == "emoji_clip" else None,
        wall_seconds=seconds,
        log_history=() if trainer is None else trainer.state.log_history,
        notes=job.images.notes,
        command=f"accelerate launch --num_processes {args.world_size} examples/run_robust_ft.py {shlex.join(given)}".strip(),
    )
    if args.should_save:
        print("".join(f"{note}\n" for note in done.notes), end="")
        if done.report is None:
            print("No --eval_datasets: nothing was measured, so there is no evaluation.json and no card.")
        else:
            print(done.report.table(baseline=baseline))
        print(f"Saved to {output}: {', '.join(sorted(p.name for p in output.iterdir() if p.is_file()))}")
        print(f"Total {time.perf_counter() - started:.0f} s")
    if args.push_to_hub and args.should_save:
        print(f"Pushed to {push_finished(args, trainer).url}")
    return done.report


def going_on(checkpoint: str | None) -> str:
    """How to go on after Ctrl-C."""
    return how_to_resume(["accelerate", "launch", *sys.argv], parse(sys.argv[1:])[2].output_dir, checkpoint)


if __name__ == "__main__":
    sys.exit(run(main, going_on))
