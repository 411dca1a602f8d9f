# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The commands that the crash campaign kills, each on a few made-up images and a model of a few numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

QUIET = "--use_cpu --disable_tqdm".split()
TRAIN = "train --model base --train_dataset images/train --output_dir out --report_to none --learning_rate 1e-3 --warmup_steps 0"
TRAIN = [*TRAIN.split(), *"--per_device_train_batch_size 4 --logging_steps 1 --seed 3 --use_cpu --disable_tqdm true".split()]
SAVING = "--max_steps 3 --save_strategy steps --save_steps 1 --save_total_limit 2".split()


@dataclasses.dataclass
class Job:
    """
    A command that changes something.

    Args:
        command: As it is given the first time, and again unless it trains.
        processes: So many of them.
        starts_from: A job whose folder it works on: "finished", a run in `out`; "runs" or "seeds", two in `runs`; "compared", the runs of "auto".
        hub: Whether what counts is on the Hub.
        in_parts: Whether it keeps what it has done and goes on from there.
        has_runs: Whether it starts processes of its own and waits for them.
    """

    command: Sequence[str]
    processes: int = 1
    starts_from: str | None = None
    hub: bool = False
    in_parts: bool = False
    has_runs: bool = False

    @property
    def resumes(self) -> bool:
        return "--save_steps" in self.command


def jobs() -> dict[str, Job]:
    """All jobs of the campaign, by name."""
    from hf_robustft.cli.train_arguments import CHOICES
    from hf_robustft.training.methods import METHODS

    found = {f"train, {method}": Job([*TRAIN, *SAVING, "--method", method, "--templates", "imagenet-croft-7"]) for method in METHODS}
    sets = "--eval_datasets images/test images/held_out:validation".split()
    for method in ("carot", "tracer", "ft"):
        found[f"train, {method}, streamed"] = Job([*TRAIN, *SAVING, "--method", method, "--streaming"])
        found[f"train, {method}, 2 processes"] = Job([*TRAIN, *SAVING, "--method", method, "--per_device_train_batch_size", "2"], 2)
    none = "--max_steps 1 --save_strategy no".split()
    found["train and finish, carot"] = Job([*TRAIN, *SAVING, *sets, "--method", "carot", "--save_predictions", "--fold_temperature"])
    for method in CHOICES:
        if method not in METHODS and method != "zero_shot":
            # What trains nothing takes no settings of training.
            words = [*TRAIN[:7], "--use_cpu", "--disable_tqdm", "true"] if method in ("tip_adapter", "model_stock") else [*TRAIN, *none]
            merged = ["--finetuned_model", "runs/one", "runs/two"] if method == "model_stock" else []
            found[f"train, {method}"] = Job([*words, *sets, "--method", method, *merged], starts_from="seeds" if merged else None)
    found["train, zero_shot"] = Job([*TRAIN[:7], *QUIET[:1], *sets, "--method", "zero_shot", "--disable_tqdm", "true"])
    found["evaluate"] = Job(["evaluate", "base", *sets, "--output_dir", "out", "--save_logits", *QUIET])
    found["calibrate"] = Job(
        ["calibrate", "out", "--dataset", "images/held_out", "--eval_datasets", "images/test", *QUIET], starts_from="finished"
    )
    watched = ["--reference", "known", "--stream", "images", "--output_dir", "out", "--batch_size", "4"]
    found["watch"] = Job(["watch", "runs/one", *watched, *QUIET], starts_from="runs", in_parts=True)
    found["predict"] = Job(["predict", "runs/one", "images", "--output", "out/answers.csv", "--batch_size", "4", *QUIET], starts_from="runs")
    exported = ["export", "runs/one", "--output_dir", "out", "--dataset", "images/held_out", "--precision", "fp32", "int8"]
    found["export"] = Job([*exported, "--min_agreement", "0.1", "--text", *QUIET], starts_from="runs")
    found["demo"] = Job(["demo", "runs/one", "--dataset", "images/held_out", "--space", "out", *QUIET], starts_from="runs")
    moved = ["--data", "test=images/test", "held_out=images/held_out", "--output", "out/verification.json", "--markdown", "out/verification.md"]
    found["verify"] = Job(["verify", "runs/one", *moved, "--overwrite", *QUIET], starts_from="runs")
    found["publish"] = Job(["publish", "out", "--repo_id", "alice/clip", "--retries", "0"], starts_from="finished", hub=True)
    compared = ["--train_dataset", "images/train", "--model", "base", "--eval_datasets", *sets[1:], "--max_steps", "1"]
    compared += ["--per_device_train_batch_size", "4", "--jobs", "1", "--learning_rates", "1e-3", "--seeds", "0", "--use_cpu"]
    found["compare"] = Job(["compare", *compared, "--methods", "flyp", "ft", "wise_ft", "--output_dir", "out"], has_runs=True)
    found["compare, finished runs"] = Job(["compare", "runs/one", "runs/two", "--output_dir", "out"], starts_from="runs")
    chooses = TRAIN.index("--learning_rate")
    found["auto"] = Job([*TRAIN[:chooses], *TRAIN[chooses + 2 :], *sets, "--method", "auto", "--max_steps", "1"], has_runs=True)
    # Given again it chooses and writes.
    found["auto, its runs finished"] = Job(found["auto"].command, starts_from="compared", in_parts=True)
    return found
