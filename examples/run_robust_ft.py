#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Fine-tune a CLIPModel robustly; report accuracy, calibration and open-set detection before and after.

`hf-robustft train` step by step, to be copied and changed. With no argument: CaRot on Emoji Shift from the packaged
checkpoint, nothing to download.

    accelerate launch --num_cpu_threads_per_process 2 examples/run_robust_ft.py
    accelerate launch --num_cpu_threads_per_process 2 examples/run_robust_ft.py --method croft --shots 16
    accelerate launch examples/run_robust_ft.py --method flyp --learning_rate 1e-5 --num_train_epochs 3
    accelerate launch examples/run_robust_ft.py --recipe emoji_shift/carot --seed 1
    accelerate launch examples/run_robust_ft.py --model openai/clip-vit-base-patch16 \\
        --train_dataset my_images/train --eval_datasets my_images/validation:validation my_images/test:id \\
        my_sketches:shift something_else:open_set
"""

import os
import shlex
import sys
import time
from contextlib import nullcontext, suppress

from hf_robustft.cli.endings import first_look_or_exit, how_to_go_on, launcher, run, without_resume

if __name__ == "__main__":
    # Before torch and Transformers, which take seconds: a mistyped flag is answered at once.
    first_look_or_exit("train", sys.argv[1:])

from hf_robustft import EvaluationReport, finish_checkpoint, load_dual_encoder, pipeline
from hf_robustft.cli.merging import MERGES, load_fine_tuned, merge
from hf_robustft.cli.train import conclude, facts, load_data, make_cache, make_trainer
from hf_robustft.cli.train_arguments import TrainCommand, check, parse
from hf_robustft.files import locked
from hf_robustft.training.hub_push import push_finished


def main(arguments: list[str] | None = None) -> EvaluationReport | None:
    """Run the job; returns the final report."""
    arguments = sys.argv[1:] if arguments is None else arguments

    # Flags over --config over a recipe over the defaults. What no run can do, or would ignore, is refused here.
    command = parse(arguments)
    check(*command)

    # One process writes into the folder, and no other command meanwhile.
    args = command[-1]
    with locked(args.output_dir, "run_robust_ft.py") if args.should_save else nullcontext():
        return job(command, arguments)


def job(command: TrainCommand, arguments: list[str]) -> EvaluationReport | None:
    """Load, measure, train, finish and use."""
    started = time.perf_counter()
    model_args, data_args, args = command

    # Load: every set of images as a `Benchmark`, whatever it is stored as; and once they are known to fit, the model.
    data = load_data(command)
    model, processor = load_dual_encoder(model_args.model, revision=model_args.model_revision, option="--model")

    # A method is a Trainer whose loss is the sum of its objectives; `zero_shot` and `tip_adapter` train nothing.
    trainer = make_trainer(command, model, processor, data)
    cache = make_cache(command, model, processor, data)
    fine_tuned = load_fine_tuned(model_args, model, data.train)

    # Baseline.
    baseline = None
    if data.evaluator is not None and model_args.changes_the_model and not data_args.skip_baseline:
        baseline = data.evaluator.evaluate(model.to(args.device), name="zero-shot")

    # Train. WiSE-FT and others save a function of the weights before and after, most methods the trained ones.
    if trainer is not None:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    to_save, known = None if trainer else model, facts(command, data, trainer)
    if model_args.method in MERGES:
        to_save, merged = merge(model_args, data, model, processor, fine_tuned, trainer)
        known |= merged

    # Finish: save, fit temperature, detector and prediction sets, measure what was saved, write the card.
    report = finish_checkpoint(
        args.output_dir,
        trainer=trainer,
        model=to_save,
        processor=processor,
        evaluator=data.evaluator,
        validation=data.validation,
        baseline=baseline,
        detector=model_args.detector,
        true_positive_rate=model_args.true_positive_rate,
        fold_temperature=model_args.fold_temperature,
        prediction_sets=model_args.prediction_sets,
        coverage=model_args.coverage,
        save_logits=data_args.save_logits,
        save_predictions=data_args.save_predictions,
        command=shlex.join([*launcher(args.world_size), "examples/run_robust_ft.py", *without_resume(arguments)]),
        **known,
        **cache,
    )
    conclude(args, trainer, report, baseline, time.perf_counter() - started)

    # Use: the folder is all that is needed, here and anywhere else.
    if args.should_save and report is not None and not data_args.streaming:
        classify = pipeline(args.output_dir, require_detector=False)
        first = data.evaluation[0]
        with suppress(OSError):  # of an image that cannot be read, which was named above
            print(f"The first image of {first.name}: {classify(first.load()[0][first.image_column])}")
    if args.push_to_hub and args.should_save:
        print(f"Pushed to {push_finished(args, trainer).url}")
    return report


if __name__ == "__main__":
    processes = int(os.environ.get("WORLD_SIZE", 1))
    started = launcher(processes) if processes > 1 else ["accelerate", "launch"]
    sys.exit(run(main, how_to_go_on([*started, sys.argv[0]], sys.argv[1:])))
