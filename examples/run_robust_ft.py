#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Fine-tune a CLIPModel robustly, and report accuracy and calibration before and after.

With no argument: CaRot on Emoji Shift from the packaged checkpoint, nothing to download.

    accelerate launch --num_cpu_threads_per_process 2 examples/run_robust_ft.py
    accelerate launch examples/run_robust_ft.py --method flyp --learning_rate 1e-5 --num_train_epochs 3
    accelerate launch examples/run_robust_ft.py --config examples/configs/emoji_shift/carot.yaml --seed 1
    accelerate launch examples/run_robust_ft.py --model openai/clip-vit-base-patch16 \\
        --train_dataset my_images/train --eval_datasets my_images/test:id my_sketches:shift
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import yaml
from accelerate import PartialState
from transformers import CLIPModel, CLIPProcessor, HfArgumentParser

from hf_robustft.data.benchmarks import Benchmark, asset_path, load_benchmark
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.evaluation.plots import plot_reliability
from hf_robustft.evaluation.report import EvaluationReport, save_reports
from hf_robustft.modeling.interpolation import interpolate_weights
from hf_robustft.modeling.zero_shot import HEAD_FILE, ZeroShotHead
from hf_robustft.publishing.hardware import describe_hardware
from hf_robustft.publishing.metadata import write_robustft_json
from hf_robustft.publishing.model_card import write_model_card
from hf_robustft.publishing.papers import METHOD_FACTS
from hf_robustft.training.arguments import RobustTrainingArguments
from hf_robustft.training.distributed import check_world_size
from hf_robustft.training.methods import METHODS
from hf_robustft.training.trainer import RobustTrainer

CONFIGS = Path(__file__).resolve().parent / "configs"
SUITE = "emoji_shift"
ROLES = ("id", "validation", "shift")
CHOICES = ("carot", "flyp", "ft", "wise_ft", "zero_shot")


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
            "help": "Sets to measure on, each `name_or_path[:role]`, role id (default), validation or shift; "
            "'emoji_shift' stands for its test set and its four shifts, 'emoji_shift/validation' for one of its sets."
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


def load_model(name: str) -> tuple[CLIPModel, CLIPProcessor]:
    """The model in float32 and its processor; the error of a missing folder names the fix."""
    path = str(asset_path("emoji_clip")) if name == "emoji_clip" else name
    looks_local = os.path.isdir(path) or path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not os.path.isfile(os.path.join(path, "config.json")):
        raise OSError(
            f"`--model {name}`: there is no checkpoint folder with a config.json at that path; "
            "give a folder that save_pretrained wrote, a Hub id, or 'emoji_clip'."
        )
    try:
        return CLIPModel.from_pretrained(path, dtype=torch.float32), CLIPProcessor.from_pretrained(path)
    except OSError as error:
        raise OSError(f"`--model {name}` is no folder here, and cannot be had from the Hub: {error}") from error


def _own(data_args: DataArguments, captions: bool) -> dict:
    names = ("image_column", "label_column", "class_names", "templates", *(("caption_column",) if captions else ()))
    given = {name: getattr(data_args, name) for name in names}
    return {key: value for key, value in given.items() if value is not None}


def load_train_benchmark(data_args: DataArguments) -> Benchmark:
    """The benchmark to train on."""
    if data_args.train_dataset == SUITE:
        return load_benchmark(SUITE, "train")
    return load_benchmark(data_args.train_dataset, name="train", role="train", **_own(data_args, captions=True))


def load_eval_benchmarks(data_args: DataArguments, train: Benchmark) -> list[Benchmark]:
    """The benchmarks to measure on, with the training set's classes where they are one's own."""
    specs = data_args.eval_datasets or ([SUITE] if data_args.train_dataset == SUITE else [])
    benchmarks: list[Benchmark] = []
    for spec in specs:
        path, _, role = spec.rpartition(":")
        if role not in ROLES:
            path, role = spec, "id"
        if path == SUITE:
            benchmarks += [b for b in load_benchmark(SUITE).values() if b.role in ("id", "shift")]
        elif path.startswith(f"{SUITE}/"):
            benchmarks.append(load_benchmark(SUITE, path.removeprefix(f"{SUITE}/")))
        else:
            own = _own(data_args, captions=False)
            if train.class_names:
                own = {"class_names": train.class_names, "templates": train.templates, **own}
            benchmarks.append(load_benchmark(path, name=Path(path).stem, role=role, **own))
    names = [benchmark.name for benchmark in benchmarks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Two evaluation sets are called {', '.join(twice)}; rename a folder, reports are by name.")
    return benchmarks


def build_trainer(
    model: CLIPModel,
    processor: CLIPProcessor,
    method: str,
    args: RobustTrainingArguments,
    train_benchmark: Benchmark,
    eval_benchmarks: list[Benchmark],
) -> RobustTrainer:
    """The method's Trainer. What is impossible is refused here, before anything is measured."""
    trainer = METHODS["ft" if method == "wise_ft" else method](
        model,
        args,
        train_dataset=train_benchmark,
        eval_dataset=[b for b in eval_benchmarks if b.role == "validation"] or eval_benchmarks or None,
        processing_class=processor,
    )
    if args.resume_from_checkpoint is not None:
        trainer.check_checkpoint(args.resume_from_checkpoint)
    if method == "ft" and eval_benchmarks:
        if all(benchmark.class_names != train_benchmark.class_names for benchmark in eval_benchmarks):
            raise ValueError(
                "`--method ft` trains a head for the classes of the training set, which are those of no evaluation set; "
                "give --eval_datasets with the same classes, or use --method flyp."
            )
    return trainer


def interpolate(model_args: ModelArguments, args: RobustTrainingArguments) -> None:
    """Replace the weights in `output_dir` by those between the zero-shot and the fine-tuned model; no head stays."""
    zero_shot, processor = load_model(model_args.model)
    fine_tuned, _ = load_model(model_args.finetuned_model or args.output_dir)
    fine_tuned.load_state_dict(interpolate_weights(zero_shot, fine_tuned, model_args.alpha))
    fine_tuned.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    (Path(args.output_dir) / HEAD_FILE).unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> EvaluationReport | None:
    """Run the job; returns the final report."""
    started = time.perf_counter()
    arguments = sys.argv[1:] if arguments is None else arguments
    model_args, data_args, args = parse(arguments)
    output = Path(args.output_dir)
    check_world_size(args.world_size)
    if args.should_save:
        print(
            f"{model_args.method} on {args.device}: {args.world_size} process(es), {torch.get_num_threads()} thread(s) each"
        )
    model, processor = load_model(model_args.model)
    train_benchmark = load_train_benchmark(data_args)
    benchmarks = load_eval_benchmarks(data_args, train_benchmark)
    evaluator = None
    if benchmarks:
        evaluator = Evaluator(
            benchmarks,
            processor,
            batch_size=args.eval_batch_size,
            num_workers=args.dataloader_num_workers,
            progress=not args.disable_tqdm,
        )
    method = model_args.method
    if method == "zero_shot" and evaluator is None:
        raise ValueError("`--method zero_shot` only measures, and there is nothing to measure; give --eval_datasets.")
    trainer = None
    if method != "zero_shot" and not (method == "wise_ft" and model_args.finetuned_model):
        trainer = build_trainer(model, processor, method, args, train_benchmark, benchmarks)

    baseline = evaluator.evaluate(model.to(args.device), name="zero-shot") if evaluator else None
    seconds = None
    if trainer is not None:
        before = time.perf_counter()
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        seconds = time.perf_counter() - before
        trainer.save_model()
        trainer.accelerator.wait_for_everyone()
    if method == "zero_shot" and args.should_save:
        model.save_pretrained(output)
        processor.save_pretrained(output)
    if method == "wise_ft" and args.should_save:
        interpolate(model_args, args)
    PartialState().wait_for_everyone()

    # What is reported is what was saved: the folder is loaded again, as a user will.
    head = None
    if method == "ft":
        head = ZeroShotHead.from_pretrained(output).to(args.device)
    saved = CLIPModel.from_pretrained(output).to(args.device)
    report = baseline
    if evaluator and method != "zero_shot":
        report = evaluator.evaluate(saved, head=head, name=METHOD_FACTS[method].label)
    if args.should_save:
        write_results(
            output, model_args, data_args, args, report, baseline, train_benchmark, benchmarks, seconds, arguments
        )
        if report is not None:
            print(report.table(baseline=baseline if report is not baseline else None))
        print(f"Saved to {output}: {', '.join(sorted(p.name for p in output.iterdir() if p.is_file()))}")
        print(f"Total {time.perf_counter() - started:.0f} s")
    return report


def write_results(
    output, model_args, data_args, args, report, baseline, train_benchmark, benchmarks, seconds, arguments
) -> None:
    """`robustft.json`, and with evaluation sets `evaluation.json`, `reliability.png` and the card."""
    # TrainingArguments turns the default None of some switches into False.
    defaults = {field.name: field.default or False for field in fields(RobustTrainingArguments)}
    settings = {
        name: value
        for name, value in vars(args).items()
        if name in defaults and isinstance(value, (bool, int, float, str)) and (value or False) != defaults[name]
    }
    alpha = model_args.alpha if model_args.method == "wise_ft" else None
    write_robustft_json(
        output,
        method=model_args.method,
        class_names=train_benchmark.class_names,
        templates=train_benchmark.templates,
        settings=settings,
        alpha=alpha,
    )
    if report is None:
        print("No --eval_datasets: nothing was measured, so there is no evaluation.json and no card.")
        return
    trained = report is not baseline
    save_reports(output / "evaluation.json", [baseline, report] if trained else [report])
    plot_reliability([baseline, report] if trained else report, output / "reliability.png")
    write_model_card(
        output,
        report=report,
        baseline=baseline if trained else None,
        method=model_args.method,
        base_model=model_args.model,
        base_model_note="The checkpoint that comes with hf_robustft." if model_args.model == "emoji_clip" else None,
        settings=settings,
        alpha=alpha,
        data=[train_benchmark, *benchmarks],
        hardware=describe_hardware(args.device, args.world_size),
        wall_seconds=seconds,
        seed=args.seed,
        command=f"accelerate launch examples/run_robust_ft.py {shlex.join(arguments)}".strip(),
    )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("HF_ROBUSTFT_TRACEBACK"):
            raise
        sys.exit(f"error: {' '.join(str(error).split())}")
