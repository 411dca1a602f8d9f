#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Leave the terms of a method out one by one on Emoji Shift, over several seeds.

    python examples/ablations.py carot --seeds 0 1 2 --output outputs/ablations

At the rate of its recipe, or at each of `--learning_rates`. One thread a job. A run whose result is already there is not
repeated, so an interrupted one continues. Writes `ablations-carot.md`. Methods are compared by `hf-robustft compare`.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hf_robustft.evaluation.open_set import shift_mean
from hf_robustft.objectives.papers import METHOD_FACTS
from hf_robustft.publishing.hardware import describe_hardware

SCRIPT = Path(__file__).with_name("run_robust_ft.py")
#: Of runs by which settings are chosen, in `compare_open_set.py`.
SELECTION_SEED = 100
METRICS = ("accuracy", "ece", "nll")
_NO_CONSTRAINT = ["--orthogonality_weight", "0", "--cross_frobenius_weight", "0"]
#: By method, the arguments of the runs that leave something out.
ABLATIONS: dict[str, dict[str, list[str]]] = {
    "carot": {
        "CaRot": [],
        "without orthogonality": ["--orthogonality_weight", "0"],
        "without cross-Frobenius": ["--cross_frobenius_weight", "0"],
        "without either constraint": _NO_CONSTRAINT,
        "without self-distillation": ["--distillation_weight", "0"],
        "contrastive loss alone (FLYP)": [*_NO_CONSTRAINT, "--distillation_weight", "0"],
        "with a teacher that stands still": ["--ema_update_every", "0"],
        "its teacher as the result": ["--export_weights", "teacher"],
    },
    "croft": {
        "CRoFT": [],
        "without energy gradient": ["--energy_gradient_weight", "0"],
        "without alignment of shifted features": ["--shift_alignment_weight", "0"],
        "without shifted features": ["--feature_shifts", "false"],
        "adapters alone": ["--energy_gradient_weight", "0", "--feature_shifts", "false"],
    },
}


def run(output: Path, arguments: list[str]) -> dict:
    """The last report of a run of the example script, from its folder if it is already there."""
    result = output / "evaluation.json"
    if not result.is_file():
        command = [sys.executable, str(SCRIPT), "--output_dir", str(output), "--disable_tqdm", "true", *arguments]
        started = time.perf_counter()
        done = subprocess.run(  # noqa: S603 (words, no shell)
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        print(f"{output}: {time.perf_counter() - started:.0f} s", flush=True)
    return json.loads(result.read_text(encoding="utf-8"))["reports"][-1]


def summarise(reports: list[dict]) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation over the seeds, by data set (and over the shifts) and metric."""
    sets: dict[str, dict[str, tuple[float, float]]] = {}
    first = reports[0]["results"]
    shifts = [name for name, result in first.items() if result["role"] == "shift"]
    columns = {name: [name] for name in first} | {"mean of shifts": shifts}
    for column, members in columns.items():
        sets[column] = {}
        for metric in METRICS:
            values = [statistics.fmean(report["results"][m][metric] for m in members) for report in reports]
            sets[column][metric] = (statistics.fmean(values), _deviation(values))
    return sets


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _cell(value: tuple[float, float], percent: bool, single: bool) -> str:
    mean, deviation = (100 * v for v in value) if percent else value
    digits = 1 if percent else 2
    return f"{mean:.{digits}f}" if single else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def run_variants(
    output: Path, variants: dict[str, tuple[str, list[str]]], rate: str | None, seeds: list[int], jobs: int
) -> dict[str, list[dict]]:
    """
    Reports by the name of a variant: the folder that its runs are called after, and its arguments. Without a `rate` at that of
    the recipe.
    """
    shared = ["--skip_baseline", "true"]

    def one(name: str, seed: int) -> dict:
        folder, arguments = variants[name]
        arguments = [*shared, *arguments, "--seed", str(seed)]
        if rate is not None:
            arguments += ["--learning_rate", rate]
        return run(output / f"{folder}-{rate or 'recipe'}-{seed}", arguments)

    with ThreadPoolExecutor(jobs) as pool:
        return {name: list(pool.map(functools.partial(one, name), seeds)) for name in variants}


def ablation_table(collected: dict[str, list[dict]]) -> list[str]:
    """One row an ablation: in distribution, mean of the shifts, and unseen classes by the energy."""
    single = len(next(iter(collected.values()))) == 1
    columns = [
        "noto accuracy %",
        "noto ECE %",
        "shift accuracy %",
        "shift ECE %",
        "shift NLL",
        "AUROC %",
        "AUROC shifts %",
    ]
    lines = [f"| run | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, reports in collected.items():
        sets = summarise(reports)
        own, shift = sets["noto"], sets["mean of shifts"]
        rows = [next(iter(report["open_set"].values()))["scores"]["energy"] for report in reports]
        aurocs = [[row["auroc"] for row in rows], [shift_mean(row)["auroc"] for row in rows]]
        values = [own["accuracy"], own["ece"], shift["accuracy"], shift["ece"], shift["nll"]]
        values += [(statistics.fmean(of), _deviation(of)) for of in aurocs]
        cells = [_cell(value, column != "shift NLL", single) for value, column in zip(values, columns, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def ablations(output: Path, method: str) -> dict[str, tuple[str, list[str]]]:
    """The variants of `run_variants` that leave parts of a method out."""
    start = ["--method", method]
    if method == "croft":
        start += ["--feature_cache", str(output / "cache")]
    return {name: (f"{method}-{name.replace(' ', '_')}", [*start, *more]) for name, more in ABLATIONS[method].items()}


def main() -> None:
    """Run, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=list(ABLATIONS), help="Leave the terms of this method out one by one.")
    parser.add_argument("--output", type=Path, default=Path("outputs/ablations"), help="Folder of runs and tables.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="Seeds of the runs.")
    parser.add_argument("--learning_rates", nargs="+", default=[None], help="By default that of the recipe.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time, one thread each.")
    args = parser.parse_args()
    command = f"python examples/ablations.py {shlex.join(sys.argv[1:])}"
    lines = [f"# Emoji Shift: {METHOD_FACTS[args.method].label} without its parts", ""]
    lines += [
        f"`{command}` on {describe_hardware()}; mean ± standard deviation over seeds {', '.join(map(str, args.seeds))}."
    ]
    for rate in args.learning_rates:
        collected = run_variants(args.output, ablations(args.output, args.method), rate, args.seeds, args.jobs)
        lines += ["", f"## Learning rate {rate or 'of the recipe'}", "", *ablation_table(collected)]
    text = "\n".join(lines) + "\n"
    (args.output / f"ablations-{args.method}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
