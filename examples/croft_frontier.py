#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What CRoFT's energy gradient buys on Emoji Shift beyond what a lower learning rate buys: accuracy in distribution against
the detection of unseen classes, over weights and rates, from features that are computed once.

    python examples/croft_frontier.py --output outputs/croft_frontier

The gradient is pooled by its mean. By its sum, in batches of one size, is the same with another weight: in batches of 32 with
as many shifted features, 200 classes and 96 dimensions, a weight of 1 there is one of (64 * 200 / 96)² = 17,778 here.

Unseen classes of even rank are for choosing, beside the validation split; those of odd rank, the test sets and the shifts
are only reported. One thread; a run whose result is already there is not repeated. Writes `frontier.json` and
`frontier.md`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor

from hf_robustft import CRoFTTrainer, RobustTrainingArguments, cache_features, load_benchmark, load_dual_encoder
from hf_robustft.evaluation.detection import detection_metrics
from hf_robustft.modeling.adapters import FeatureAdapters, near_unit
from hf_robustft.modeling.zero_shot import prompt_features
from hf_robustft.objectives.energy_gradient import class_logits, energy
from hf_robustft.publishing.hardware import describe_hardware

RECIPE = Path(sys.modules["hf_robustft"].__file__).parent / "recipes" / "emoji_shift" / "croft.yaml"
KNOWN, UNSEEN = ("validation", "noto"), ("unseen_even", "unseen_odd")


def cached(model, processor, views: int, cache: Path) -> tuple[object, dict[str, tuple[Tensor, Tensor]], list[str]]:
    """Training features, and by set the features and labels that are measured; the names of the shifts."""
    suite = load_benchmark("emoji_shift")
    options = {"cache_dir": cache, "progress": False}
    train = cache_features(model, suite["train"], processor, views=views, **options)
    sets = {}
    for name, benchmark in suite.items():
        if name != "train":
            found = cache_features(model, benchmark, processor, **options)
            sets[name] = found.features[0], found.labels
    features, labels = sets.pop("open_set")
    for rank, name in enumerate(UNSEEN):
        sets[name] = features[labels % 2 == rank], labels[labels % 2 == rank]
    return train, sets, [name for name, benchmark in suite.items() if benchmark.role == "shift"]


@torch.no_grad()
def measure(
    adapters: FeatureAdapters, prompts: Tensor, scale: Tensor, sets: dict, shifts: list[str]
) -> dict[str, float]:
    """Accuracies, and AUROC of the energy against each half of the unseen classes."""
    classes = adapters.adapt_class_features(prompts)
    logits = {
        name: class_logits(near_unit(adapters.adapt_images(features)), classes, scale)
        for name, (features, _) in sets.items()
    }
    energies = {name: energy(values) for name, values in logits.items()}

    def accuracy(name: str) -> float:
        return (logits[name].argmax(dim=1) == sets[name][1]).double().mean().item()

    def auroc(name: str, unseen: str) -> float:
        return detection_metrics(energies[name], energies[unseen])["auroc"]

    return {
        "validation accuracy": accuracy("validation"),
        "validation AUROC": auroc("validation", "unseen_even"),
        "noto accuracy": accuracy("noto"),
        "shift accuracy": statistics.fmean(map(accuracy, shifts)),
        "noto AUROC": auroc("noto", "unseen_odd"),
        "shift AUROC": statistics.fmean(auroc(name, "unseen_odd") for name in shifts),
    }


def run(folder: Path, settings: dict, recipe: dict, start, data) -> dict[str, float]:
    """Numbers of one run, from its file if it is there."""
    written = folder / f"{'-'.join(map(str, settings.values()))}.json"
    if written.is_file():
        return json.loads(written.read_text(encoding="utf-8"))
    (model, processor), (train, sets, shifts) = start, data
    started = time.perf_counter()
    output = str(folder / "trainer")
    args = RobustTrainingArguments(output, **{**recipe, **settings}, use_cpu=True, disable_tqdm=True)
    trainer = CRoFTTrainer(model, args, train_dataset=train, processing_class=processor)
    trainer.train()
    prompts = prompt_features(model, processor, train.class_names, train.templates)
    numbers = measure(trainer.adapters, prompts, model.logit_scale.exp(), sets, shifts)
    key = "gradient_share/energy_gradient"
    numbers["share"] = statistics.fmean([entry[key] for entry in trainer.state.log_history if key in entry] or [0.0])
    written.write_text(json.dumps({**numbers, "seconds": time.perf_counter() - started}), encoding="utf-8")
    print(settings, {name: round(value, 4) for name, value in numbers.items()}, flush=True)
    return run(folder, settings, recipe, start, data)


def beyond_the_rate(points: list[dict], plain: list[dict], column: str) -> list[float]:
    """`column` of each point less that of the runs without the term (`plain`), interpolated at its validation accuracy."""
    plain = sorted(plain, key=lambda numbers: numbers["validation accuracy"])
    grid, values = ([numbers[name] for numbers in plain] for name in ("validation accuracy", column))
    # Outside of what the rates span there is nothing to compare with.
    at = [np.interp(p["validation accuracy"], grid, values, left=np.nan, right=np.nan) for p in points]
    return [p[column] - value for p, value in zip(points, at, strict=True)]


def markdown(results: dict[tuple[float, float], dict[str, float]], zero_shot: dict[str, float], note: str) -> str:
    """The frontier as a table, and what the term buys beyond the rate."""
    names = ["validation accuracy", "validation AUROC", "noto accuracy", "noto AUROC", "shift accuracy", "shift AUROC"]
    gains = ["validation AUROC", "noto AUROC", "shift AUROC"]
    header = ["weight", "rate", "share of gradient", *names, *(f"Δ {name}" for name in gains)]
    lines = [note, "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    cells = [f"{100 * zero_shot[name]:.1f}" for name in names]
    lines.append(f"| {' | '.join(['zero-shot', '', '', *cells, '', '', ''])} |")
    plain = [numbers for (weight, _), numbers in results.items() if not weight]
    for (weight, rate), numbers in sorted(results.items()):
        cells = [f"{100 * numbers[name]:.1f}" for name in names]
        more = [beyond_the_rate([numbers], plain, name)[0] for name in gains] if weight else [np.nan] * len(gains)
        cells += ["" if np.isnan(value) else f"{100 * value:+.1f}" for value in more]
        lines.append(f"| {weight:g} | {rate:g} | {100 * numbers['share']:.2g} % | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/croft_frontier"), help="Folder of results.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="Seeds; their mean is reported.")
    parser.add_argument(
        "--weights", type=float, nargs="+", default=[1.0, 10.0, 100.0, 1e3, 1e4], help="Of the energy gradient."
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 2e-3], help="Learning rates with the term.")
    parser.add_argument(
        "--plain_rates",
        type=float,
        nargs="+",
        default=[1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 4e-3],
        help="Learning rates without it, which trade accuracy for detection too.",
    )
    parser.add_argument("--epochs", type=int, help="Instead of the recipe's.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.output.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    views = recipe.pop("feature_views")
    for name in ("method", "train_dataset", "learning_rate", "energy_gradient_weight"):
        recipe.pop(name)
    recipe |= {"logging_steps": 1000, "log_gradient_shares": 0.1}
    recipe |= {} if asked.epochs is None else {"num_train_epochs": asked.epochs}
    start = load_dual_encoder("emoji_clip")
    data = cached(*start, views, asked.output / "cache")
    identity = FeatureAdapters(start[0].config.projection_dim)
    prompts = prompt_features(*start, data[0].class_names, data[0].templates)
    zero_shot = measure(identity, prompts, start[0].logit_scale.exp(), *data[1:])
    results = {}
    points = [(0.0, rate) for rate in asked.plain_rates]
    points += [(weight, rate) for weight in asked.weights for rate in asked.rates]
    for weight, rate in points:
        found = []
        for seed in asked.seeds:
            settings = {"energy_gradient_weight": weight, "learning_rate": rate, "seed": seed}
            # A weight of 0 with a pooling of nothing is refused.
            of_run = {k: v for k, v in recipe.items() if weight or k != "energy_gradient_reduction"}
            found.append(run(asked.output, settings, of_run, start, data))
        results[weight, rate] = {name: statistics.fmean(one[name] for one in found) for name in found[0]}
    seconds = statistics.fmean(numbers["seconds"] for numbers in results.values())
    command = f"python examples/croft_frontier.py {shlex.join(sys.argv[1:])}".strip()
    note = (
        f"`{command}` on {describe_hardware()}, {seconds:.0f} s per run; seeds {', '.join(map(str, asked.seeds))}. Percent; "
        "Δ: against runs without the term at the same validation accuracy (interpolated between rates)."
    )
    text = markdown(results, zero_shot, note)
    facts = [{"weight": weight, "rate": rate, **numbers} for (weight, rate), numbers in results.items()]
    (asked.output / "frontier.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    (asked.output / "frontier.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
