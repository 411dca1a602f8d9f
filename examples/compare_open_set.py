#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Compare accuracy, calibration and the detection of unseen classes on Emoji Shift, from 1, 4 and 16 images of each class.

    python examples/compare_open_set.py --jobs 2 --output outputs/open_set

First each method is trained with each candidate setting and a seed of its own, and measured on the validation split; the
setting with the best validation accuracy is used for the runs that are reported. One thread a job. A run whose result is
already there is not repeated, so an interrupted comparison continues. Writes `comparison.json` and `comparison.md`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import torch
from ablations import SELECTION_SEED, run
from open_set_tables import (
    COMBINED_ENERGY_WEIGHT,
    CROFT_CHOICE_SHOTS,
    CROFT_RATE,
    ENCODER_METHODS,
    ENERGY_WEIGHTS,
    METHODS,
    RATES,
    RECIPES,
    Choices,
    Results,
    markdown,
    summarise,
)

from hf_robustft.evaluation.open_set import SHIFT_METRICS, shift_mean

RUN_FILE = "run.json"


def arguments_of(method: str, shots: int, setting: str, seed: int, output: Path) -> list[str]:
    """The arguments of one run, all that matters written out; the rest is the method's config."""
    if method == "zero_shot":
        return ["--method", method]
    start = ["--method", method, "--skip_baseline", "true"]
    recipe = RECIPES[shots]
    start += ["--seed", str(seed), "--shots", str(shots)]
    if method == "croft":
        energy = ["--energy_gradient_reduction", "mean", "--energy_gradient_weight", setting]
        views = ["--feature_views", str(recipe.views), "--feature_cache", str(output / "cache")]
        return [*start, "--learning_rate", CROFT_RATE, *energy, *views]
    start += ["--learning_rate", setting, "--num_train_epochs", str(recipe.epochs)]
    start += ["--per_device_train_batch_size", str(recipe.batch)]
    if method == "carot+croft":
        start += ["--energy_gradient_reduction", "mean", "--energy_gradient_weight", COMBINED_ENERGY_WEIGHT]
    return start


def measure(folder: Path, arguments: list[str]) -> tuple[dict, float]:
    """Report and seconds of a run, from its folder if it is there and was made with the same arguments."""
    record = folder / RUN_FILE
    found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if (folder / "evaluation.json").is_file():
        if found.get("arguments") != arguments:
            raise RuntimeError(
                f"{folder} holds a result of other arguments ({shlex.join(found.get('arguments', ['unknown']))}); "
                "remove it, or give another --output."
            )
        return run(folder, arguments), found["seconds"]
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    # A run that is cut off between its result and its time counts with no time, but is not lost.
    record.write_text(json.dumps({"arguments": arguments, "seconds": 0.0}), encoding="utf-8")
    report = run(folder, arguments)
    seconds = time.perf_counter() - started
    record.write_text(json.dumps({"arguments": arguments, "seconds": seconds}), encoding="utf-8")
    return report, seconds


def select(output: Path, shots: list[int], jobs: int) -> tuple[Choices, dict[str, dict[int, str]], float]:
    """Validation accuracy by method, shots and setting; the best setting (of equals the first); seconds in all."""
    tasks = [(method, k, rate) for k in sorted(shots, reverse=True) for method in ENCODER_METHODS for rate in RATES]
    tasks += [("croft", CROFT_CHOICE_SHOTS, weight) for weight in ENERGY_WEIGHTS]

    def one(task: tuple[str, int, str]) -> tuple[float, float]:
        method, k, setting = task
        arguments = arguments_of(method, k, setting, SELECTION_SEED, output)
        # No test set is read here, so nothing about shifts or unseen classes can enter the choice.
        arguments += ["--eval_datasets", "emoji_shift/validation", "--detector", "none"]
        report, seconds = measure(output / f"select-{method}-{k}-{setting}", arguments)
        return report["results"]["validation"]["accuracy"], seconds

    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(one, tasks))
    selection: Choices = {}
    for (method, k, setting), (accuracy, _) in zip(tasks, found, strict=True):
        selection.setdefault(method, {}).setdefault(k, {})[setting] = accuracy
    chosen = {m: {k: max(of, key=of.get) for k, of in by_shots.items()} for m, by_shots in selection.items()}
    chosen["croft"] = dict.fromkeys(shots, chosen["croft"][CROFT_CHOICE_SHOTS])
    return selection, chosen, sum(seconds for _, seconds in found)


def run_seeds(output: Path, results: Results, shots: list[int], seeds: list[int], jobs: int) -> None:
    """Train and measure what is reported; long runs first, so that the jobs end together."""
    trained = ("carot+croft", "carot", "flyp", "croft")
    tasks = [(m, k, seed) for k in sorted(shots, reverse=True) for m in trained for seed in seeds]

    def one(task: tuple[str, int, int]) -> tuple[dict, float]:
        method, k, seed = task
        setting = results.chosen[method][k]
        arguments = arguments_of(method, k, setting, seed, output)
        return measure(output / f"{method}-{k}-{setting}-seed{seed}", arguments)

    report, seconds = measure(output / "zero_shot", arguments_of("zero_shot", 0, "", 0, output))
    results.roles = {role: [] for role in ("id", "shift")}
    for name, result in report["results"].items():
        results.roles[result["role"]].append(name)
        results.sizes[name] = result["n"]
    results.sizes["unseen"] = next(iter(report["open_set"].values()))["n"]
    for k in shots:
        results.runs[k] = {method: [] for method in METHODS}
        results.seconds[k] = {method: [] for method in METHODS}
        results.runs[k]["zero_shot"] = [numbers(report)]
        results.seconds[k]["zero_shot"] = [seconds]
    with ThreadPoolExecutor(jobs) as pool:
        for (method, k, _), (report, seconds) in zip(tasks, pool.map(one, tasks), strict=True):
            results.runs[k][method].append(numbers(report))
            results.seconds[k][method].append(seconds)


def numbers(report: dict) -> dict[str, float]:
    """What is reported of one run, under flat keys; `shifts` is the plain mean over the shifted sets."""
    sets = report["results"] | {"shifts": report["shift_mean"]}
    flat = {f"{name}/{key}": values[key] for name, values in sets.items() for key in ("accuracy", "ece")}
    flat |= {f"{name}/ece_noise_floor": result["ece_noise_floor"] for name, result in report["results"].items()}
    (unseen,) = report["open_set"].values()
    for score, row in unseen["scores"].items():
        flat |= {f"{score}/{key}": row[key] for key in ("auroc", "fpr95")}
        by_shift = row["shifts"] | {"shifts": shift_mean(row)}
        flat |= {f"{score}/{name}/{key}": values[key] for name, values in by_shift.items() for key in SHIFT_METRICS}
    return flat


def main() -> None:
    """Select, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/open_set"), help="Folder of runs and tables.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="Seeds of the reported runs.")
    parser.add_argument(
        "--shots", type=int, nargs="+", default=list(RECIPES), choices=list(RECIPES), help="Images of each class."
    )
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time, one thread each.")
    args = parser.parse_args()
    if SELECTION_SEED in args.seeds:
        parser.error(f"seed {SELECTION_SEED} chooses the settings; report others")
    # As the runs, so that the hardware is described as they have it.
    torch.set_num_threads(1)
    try:
        selection, chosen, seconds = select(args.output, args.shots, args.jobs)
        print("chosen on validation:", chosen, flush=True)
        results = Results(selection, chosen, runs={}, seconds={}, selection_seconds=seconds)
        run_seeds(args.output, results, args.shots, args.seeds, args.jobs)
    except RuntimeError as error:
        sys.exit(f"error: {error}\nStart the same command again to continue; what is done is not repeated.")
    summary = {k: {method: summarise(of) for method, of in runs.items()} for k, runs in results.runs.items()}
    facts = {"seeds": args.seeds, **asdict(results), "summary": summary}
    (args.output / "comparison.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    command = f"python examples/compare_open_set.py {shlex.join(sys.argv[1:])}".strip()
    text = markdown(results, summary, args.seeds, args.jobs, command)
    (args.output / "comparison.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
