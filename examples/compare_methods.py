#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Compare the methods on Emoji Shift over several seeds, with learning rates chosen on the validation split.

    python examples/compare_methods.py --jobs 2 --output outputs/comparison

First every method is trained at every learning rate with a seed of its own and measured on the validation split;
the rate with the best validation accuracy is used for the runs that are reported. One thread a job. A run whose
result is already there is not repeated, so an interrupted comparison continues. Writes `comparison.json` and
`comparison.md`.

    python examples/compare_methods.py --ablations carot --seeds 0 1 2 --output outputs/ablations

instead leaves the terms of a method out one by one, at the rate of its recipe or at each of `--learning_rates`, and writes
`ablations-carot.md`; and

    python examples/compare_methods.py --methods tracer carot flyp ft wise_ft --learning_rates 1e-3 3e-4

trains these methods at each rate, with nothing chosen, and writes `rates.md`.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hf_robustft.evaluation.open_set import shift_mean
from hf_robustft.objectives.papers import METHOD_FACTS
from hf_robustft.publishing.hardware import describe_hardware

SCRIPT = Path(__file__).with_name("run_robust_ft.py")
TRAINED = ("ft", "flyp", "carot")
SELECTION_SEED = 100
METHODS = ("zero_shot", "ft", "wise_ft", "flyp", "carot")
NAMES = {method: METHOD_FACTS[method].label for method in METHODS}
METRICS = ("accuracy", "ece", "nll")
RATES = ("1e-4", "3e-4", "1e-3")
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
        done = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        print(f"{output}: {time.perf_counter() - started:.0f} s", flush=True)
    return json.loads(result.read_text(encoding="utf-8"))["reports"][-1]


def choose_learning_rates(output: Path, rates: list[str], jobs: int) -> dict[str, dict[str, float]]:
    """Validation accuracy by method and learning rate."""

    def measure(method: str, rate: str) -> float:
        arguments = ["--method", method, "--learning_rate", rate, "--seed", str(SELECTION_SEED)]
        report = run(output / f"select-{method}-{rate}", [*arguments, "--eval_datasets", "emoji_shift/validation"])
        return report["results"]["validation"]["accuracy"]

    tasks = [(method, rate) for method in reversed(TRAINED) for rate in rates]
    with ThreadPoolExecutor(jobs) as pool:
        found = dict(zip(tasks, pool.map(lambda task: measure(*task), tasks), strict=True))
    return {method: {rate: found[method, rate] for rate in rates} for method in TRAINED}


def measure_selection_runs(output: Path, rates: list[str]) -> dict[str, dict[str, dict]]:
    """Reports of the selection runs on the test sets, made after the choice and used for nothing but a table."""
    from hf_robustft import Evaluator, ZeroShotHead, load_benchmark
    from hf_robustft.modeling.checkpoint import load_checkpoint
    from hf_robustft.modeling.zero_shot import HEAD_FILE

    benchmarks = [
        benchmark for benchmark in load_benchmark("emoji_shift").values() if benchmark.role in ("id", "shift")
    ]
    found: dict[str, dict[str, dict]] = {}
    for method in TRAINED:
        found[method] = {}
        for rate in rates:
            folder = output / f"select-{method}-{rate}"
            written = folder / "test_sets.json"
            if not written.is_file():
                head = ZeroShotHead.from_pretrained(folder) if (folder / HEAD_FILE).is_file() else None
                model, processor = load_checkpoint(folder)
                evaluator = Evaluator(benchmarks, processor, progress=False)
                evaluator.evaluate(model, head=head, name=method).save_json(written)
            found[method][rate] = json.loads(written.read_text(encoding="utf-8"))["reports"][-1]
    return found


def run_seeds(output: Path, chosen: dict[str, str], seeds: list[int], jobs: int) -> dict[str, list[dict]]:
    """Reports by method; WiSE-FT interpolates the FT model of the same seed."""

    def one_seed(task: tuple[str, int]) -> dict[str, dict]:
        method, seed = task
        arguments = ["--learning_rate", chosen[method], "--seed", str(seed)]
        reports = {method: run(output / f"{method}-{seed}", ["--method", method, *arguments])}
        if method == "ft":
            start = ["--method", "wise_ft", "--merged_head", "rebuilt", "--finetuned_model", str(output / f"ft-{seed}")]
            reports["wise_ft"] = run(output / f"wise_ft-{seed}", [*start, "--seed", str(seed)])
        return reports

    tasks = [(method, seed) for seed in seeds for method in reversed(TRAINED)]
    collected: dict[str, list[dict]] = {name: [] for name in NAMES}
    with ThreadPoolExecutor(jobs) as pool:
        for reports in pool.map(one_seed, tasks):
            for method, report in reports.items():
                collected[method].append(report)
    collected["zero_shot"] = [run(output / "zero_shot", ["--method", "zero_shot"])]
    return collected


def summarise(reports: list[dict]) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and standard deviation over the seeds, by data set (and over the shifts) and metric."""
    sets: dict[str, dict[str, tuple[float, float]]] = {}
    first = reports[0]["results"]
    shifts = [name for name, result in first.items() if result["role"] == "shift"]
    columns = {name: [name] for name in first} | {"mean of shifts": shifts}
    for column, members in columns.items():
        sets[column] = {}
        for metric in (*METRICS, "ece_noise_floor"):
            values = [statistics.fmean(report["results"][m][metric] for m in members) for report in reports]
            sets[column][metric] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    spectra = [report["spectrum"]["smallest_singular_value"] for report in reports]
    sets["smallest singular value"] = {"value": (statistics.fmean(spectra), _deviation(spectra))}
    return sets


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _cell(value: tuple[float, float], percent: bool, single: bool) -> str:
    mean, deviation = (100 * v for v in value) if percent else value
    digits = 1 if percent else 2
    return f"{mean:.{digits}f}" if single else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def markdown(
    summary: dict,
    selection: dict,
    chosen: dict,
    seeds: list[int],
    by_rate: dict,
    seconds: float,
    jobs: int,
    command: str,
) -> str:
    """The tables of the comparison, and how they were made."""
    lines = [
        "# Emoji Shift: zero-shot, FT, WiSE-FT, FLYP and CaRot",
        "",
        f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))}) of training; the zero-shot "
        "model has no seed. All start from the packaged checkpoint and see the same images. Measured by",
        "",
        f"    {command}",
        "",
        f"on {describe_hardware()}, {jobs} runs at a time, in {seconds / 60:.0f} minutes. ECE: 15 equal-width bins over the whole set; its noise floor is "
        "the ECE a perfectly calibrated model with the same confidences would show on as many images.",
        "",
    ]
    first = next(iter(summary.values()))
    lines += [*summary_table(summary, next(iter(first))), ""]
    titles = {"accuracy": "Accuracy (%)", "ece": "ECE (%), noise floor in brackets", "nll": "NLL (nats)"}
    columns = [name for name in first if name != "smallest singular value"]
    for metric, title in titles.items():
        lines += [f"## {title}", "", "| method | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for method, sets in summary.items():
            cells = []
            for column in columns:
                cell = _cell(sets[column][metric], metric != "nll", method == "zero_shot")
                if metric == "ece":
                    cell += f" ({100 * sets[column]['ece_noise_floor'][0]:.1f})"
                cells.append(cell)
            lines.append(f"| {NAMES[method]} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["## Smallest singular value of the ID image-feature covariance", "", "| method | value |", "|---|---|"]
    for method, sets in summary.items():
        mean, deviation = sets["smallest singular value"]["value"]
        spread = "" if method == "zero_shot" else f" ± {deviation:.1e}"
        lines.append(f"| {NAMES[method]} | {mean:.2e}{spread} |")
    lines += ["", "## Learning rates", "", "Validation accuracy (%), seed 100; the best rate was used above.", ""]
    rates = list(next(iter(selection.values())))
    lines += ["| method | " + " | ".join(rates) + " |", "|---" * (len(rates) + 1) + "|"]
    for method, found in selection.items():
        cells = [f"**{100 * v:.1f}**" if rate == chosen[method] else f"{100 * v:.1f}" for rate, v in found.items()]
        lines.append(f"| {NAMES[method]} | " + " | ".join(cells) + " |")
    lines += ["", "## What the learning rate does to the shifts", ""]
    lines += [
        "The selection runs (seed 100), measured on the test sets after the choice was made. No choice rests on it.",
        "",
    ]
    lines += ["| method | rate | ID accuracy % | shift accuracy % | shift ECE % | shift NLL |", "|---" * 6 + "|"]
    for method, reports in by_rate.items():
        for rate, report in reports.items():
            sets = summarise([report])
            own, shift = sets[next(iter(sets))], sets["mean of shifts"]
            cells = [_cell(own["accuracy"], True, True), _cell(shift["accuracy"], True, True)]
            cells += [_cell(shift["ece"], True, True), _cell(shift["nll"], False, True)]
            lines.append(f"| {NAMES[method]} | {rate} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary_table(summary: dict, in_distribution: str) -> list[str]:
    """One row a method: in distribution, mean of the shifts, smallest singular value."""
    head = f"| method | {in_distribution} accuracy % | {in_distribution} ECE % | shift accuracy % | shift ECE % | shift NLL |"
    lines = [f"{head} smallest singular value |", "|---" * 7 + "|"]
    for method, sets in summary.items():
        single = method == "zero_shot"
        own, shift = sets[in_distribution], sets["mean of shifts"]
        values = [(own["accuracy"], True), (own["ece"], True), (shift["accuracy"], True), (shift["ece"], True)]
        cells = [_cell(value, percent, single) for value, percent in [*values, (shift["nll"], False)]]
        cells.append(f"{sets['smallest singular value']['value'][0]:.1e}")
        lines.append(f"| {NAMES[method]} | {' | '.join(cells)} |")
    return lines


def run_variants(
    output: Path, variants: dict[str, tuple[str, list[str]]], rate: str | None, seeds: list[int], jobs: int
) -> dict[str, list[dict]]:
    """
    Reports by the name of a variant: the folder that its runs are called after, and its arguments, in which `{seed}` stands
    for the seed. Without a `rate` at that of the recipe.
    """
    shared = ["--skip_baseline", "true"]

    def one(name: str, seed: int) -> dict:
        folder, arguments = variants[name]
        arguments = [*shared, *(text.replace("{seed}", str(seed)) for text in arguments), "--seed", str(seed)]
        if rate is not None and "--finetuned_model" not in arguments:
            arguments += ["--learning_rate", rate]
        return run(output / f"{folder}-{rate or 'recipe'}-{seed}", arguments)

    with ThreadPoolExecutor(jobs) as pool:
        # One variant after the other: a later one may take the models of an earlier one.
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


def ablations(output: Path, method: str, rate: str | None = None) -> dict[str, tuple[str, list[str]]]:
    """The variants of `run_variants` that leave parts of a method out, the same at each rate."""
    start = ["--method", method]
    if method == "croft":
        start += ["--feature_cache", str(output / "cache")]
    return {name: (f"{method}-{name.replace(' ', '_')}", [*start, *more]) for name, more in ABLATIONS[method].items()}


def methods_at(output: Path, methods: list[str], rate: str) -> dict[str, tuple[str, list[str]]]:
    """The variants of `run_variants` that are methods as they are; WiSE-FT takes the FT model of the same rate and seed."""
    variants = {METHOD_FACTS[method].label: (method, ["--method", method]) for method in methods}
    if "wise_ft" in methods:
        merged = ["--method", "wise_ft", "--finetuned_model", str(output / f"ft-{rate}-{{seed}}")]
        variants[METHOD_FACTS["wise_ft"].label] = ("wise_ft", merged)
    return variants


def compare_variants(
    title: str, variants_at: Callable[[str | None], dict], output: Path, rates: list[str] | None, seeds: list[int], jobs: int
) -> str:
    """The tables of the variants at each rate, and how they were made."""
    command = f"python examples/compare_methods.py {shlex.join(sys.argv[1:])}"
    lines = [f"# Emoji Shift: {title}", ""]
    lines += [
        f"`{command}` on {describe_hardware()}; mean ± standard deviation over seeds {', '.join(map(str, seeds))}."
    ]
    for rate in rates or [None]:
        collected = run_variants(output, variants_at(rate), rate, seeds, jobs)
        lines += ["", f"## Learning rate {rate or 'of the recipe'}", "", *ablation_table(collected)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Select, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/comparison"), help="Folder of runs and tables.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="Seeds of the reported runs.")
    parser.add_argument("--learning_rates", nargs="+", help=f"Rates to choose from; by default {', '.join(RATES)}.")
    parser.add_argument("--ablations", choices=list(ABLATIONS), help="Leave the terms of this method out one by one.")
    parser.add_argument("--jobs", type=int, default=1, help="Runs at a time, one thread each.")
    parser.add_argument("--methods", nargs="+", choices=sorted(METHOD_FACTS), help="Train these at each of --learning_rates.")
    args = parser.parse_args()
    if args.methods and (args.ablations or not args.learning_rates or "zero_shot" in args.methods):
        parser.error("--methods takes methods that train, with --learning_rates and without --ablations")
    if args.methods and "wise_ft" in args.methods and "ft" not in args.methods[: args.methods.index("wise_ft")]:
        parser.error("wise_ft takes the models of ft: name ft before it")
    if args.ablations or args.methods:
        if args.ablations:
            title, name = f"{METHOD_FACTS[args.ablations].label} without its parts", f"ablations-{args.ablations}.md"
            variants = functools.partial(ablations, args.output, args.ablations)
        else:
            title, name = "methods at given rates", "rates.md"
            variants = functools.partial(methods_at, args.output, args.methods)
        text = compare_variants(title, variants, args.output, args.learning_rates, args.seeds, args.jobs)
        (args.output / name).write_text(text, encoding="utf-8")
        print(text)
        return
    started, rates = time.perf_counter(), args.learning_rates or list(RATES)
    selection = choose_learning_rates(args.output, rates, args.jobs)
    chosen = {method: max(found, key=found.get) for method, found in selection.items()}
    print("learning rates:", chosen, flush=True)
    collected = run_seeds(args.output, chosen, args.seeds, args.jobs)
    by_rate = measure_selection_runs(args.output, rates)
    summary = {method: summarise(collected[method]) for method in NAMES}
    seconds = time.perf_counter() - started
    written = args.output / "comparison.json"
    if written.is_file():
        # Runs that are already there were paid for then.
        seconds += json.loads(written.read_text(encoding="utf-8"))["seconds"]
    command = f"python examples/compare_methods.py {shlex.join(sys.argv[1:])}".strip()
    facts = {"selection": selection, "chosen": chosen, "seeds": args.seeds, "seconds": seconds, "summary": summary}
    written.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    text = markdown(summary, selection, chosen, args.seeds, by_rate, seconds, args.jobs, command)
    (args.output / "comparison.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
