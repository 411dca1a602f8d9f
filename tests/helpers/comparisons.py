# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Comparisons of made-up numbers that hang together as measured ones do."""

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from hf_robustft.comparison.runs import ZERO_SHOT, Candidate, Comparison, FinishedRun
from hf_robustft.evaluation.predictions import Predictions, SetPredictions
from hf_robustft.evaluation.report import DatasetResult, EvaluationReport

METHODS = ("ft", "flyp", "carot", "tracer", "wise_ft", "croft")
SHIFTS = {"sketch": 0.55, "cartoon": 0.42, "night": 0.3}


def _result(rng, name, role, accuracy, too_sure, n_classes, draws, n=2000):
    accuracy = min(max(accuracy, 0.02), 0.99)
    shares = [(index + 1) ** 1.5 * rng.uniform(0.7, 1.3) for index in range(15)]
    counts = [round(n * share / sum(shares)) for share in shares] + [0]
    sure = [(index + 0.5) / 15 for index in range(15)]
    ece, nll = abs(too_sure) + 0.02, 0.1 - 2.2 * math.log(accuracy)
    numbers = {"accuracy": accuracy, "ece": ece, "nll": nll, "brier": 1.1 * (1 - accuracy)}
    errors = {"accuracy_se": 0.011, "ece_se": 0.008, "nll_se": 0.04, "brier_se": 0.01}
    # The same images are drawn for every model, so most of what the draw does is common to all.
    common = random.Random(name)
    luck = [common.gauss(0, 1) for _ in range(draws)]
    drawn = {
        key: [numbers[key] + errors[f"{key}_se"] * (0.9 * value + rng.gauss(0, 0.3)) for value in luck]
        for key in ("accuracy", "ece", "nll")
    }
    return DatasetResult(
        name=name,
        role=role,
        n=n,
        n_classes=n_classes,
        **numbers,
        **errors,
        ece_noise_floor=0.02,
        adaptive_ece=ece,
        classwise_ece=ece / n_classes,
        reliability={
            "lower": [index / 15 for index in range(15)] + [1.0],
            "upper": [(index + 1) / 15 for index in range(15)] + [1.0],
            "count": counts,
            "confidence": [*sure, None],
            "accuracy": [
                *(min(1.0, max(0.0, value * (1 - 2 * too_sure) + rng.gauss(0, 0.02))) for value in sure),
                None,
            ],
        },
        draws=drawn,
    )


def _predictions(rng, name, role, accuracy, classes, per_class=12):
    """Of images in groups of three, those of some classes harder than others."""
    luck = np.random.default_rng(rng.getrandbits(32))
    label = np.repeat(np.array(classes), per_class)
    hard = np.repeat(np.linspace(-0.3, 0.3, len(classes)), per_class)
    right = luck.random(len(label)) < np.clip(accuracy + hard, 0.02, 0.98)
    confidence = np.clip(0.5 + 0.3 * right + luck.normal(0, 0.15, len(label)), 0.05, 0.99)
    return SetPredictions(
        name,
        role,
        np.arange(len(label)),
        np.where(right, label, np.roll(label, per_class)),
        confidence,
        label,
        -np.log(confidence),
        1 - confidence,
        group=np.array([f"drawing {row // 3}" for row in range(len(label))]),
    )


def _with_scores(rng, item, lift):
    """The same, with scores that tell known classes by so much."""
    luck = np.random.default_rng(rng.getrandbits(32))
    return replace(item, scores={name: share * lift + luck.normal(size=len(item)) for name, share in (("msp", 0.5), ("energy", 1.0))})


def _unknown(rng, shifts, auroc):
    scores = {}
    for rank, score in enumerate(("msp", "mcm", "max_logit", "energy")):
        level = min(0.99, auroc + 0.012 * rank + rng.gauss(0, 0.003))
        within = {name: {"auroc": level - 0.2, "fpr95": 1.4 - level, "accepted": 0.8} for name in shifts}
        scores[score] = {"auroc": level, "fpr95": 1.2 - level, "shifts": within}
    return {"n": 2100, "id": "photo", "scores": scores}


def made_up_comparison(
    methods=METHODS,
    rates=(1e-4, 3e-4, 1e-3),
    seeds=(0, 1, 2),
    shifts=SHIFTS,
    open_sets=("unseen",),
    classes=tuple(f"class {index}" for index in range(200)),
    zero_shot=True,
    predictions=False,
    draws=200,
    seed=0,
):
    """
    A comparison whose runs lie in no folder.

    Args:
        methods, rates, seeds: Every method is run at every rate with every seed.
        shifts: The accuracy of the zero-shot model by shifted set.
        open_sets, classes, zero_shot, draws: Sets of unseen classes, names of the classes, whether zero-shot was measured and predictions were kept, bootstrap samples.
    """
    rng = random.Random(seed)
    start = {"photo": 0.67, **dict(shifts)}
    roles = {"photo": "id", **dict.fromkeys(shifts, "shift"), "validation": "validation"}
    facts = {
        "class_names": list(classes),
        "card": {
            "hardware": "Example(R) Processor, 2 cores, 1 process of 1 thread",
            "wall_seconds": 313.4,
            "sets": [{"name": "train", "role": "train", "images": 16 * len(classes), "n_classes": len(classes)}],
        },
    }

    def run(candidate, number, accuracies, too_sure, auroc):
        results = {
            name: _result(rng, name, role, accuracies[name], too_sure[name], len(classes), draws)
            for name, role in roles.items()
        }
        kept = {}
        if predictions:
            kept = {name: _predictions(rng, name, role, accuracies[name], classes) for name, role in roles.items()}
            for name, item in kept.items():
                vars(results[name]).update(item.metrics(), n=len(item))
                kept[name] = _with_scores(rng, item, 1.0)
            for name in open_sets:
                item = _predictions(rng, name, "open_set", 0.5, classes)
                kept[name] = _with_scores(rng, replace(item, label=None, nll=None, brier=None), 0.0)
        unseen = {name: _unknown(rng, shifts, auroc) for name in open_sets} or None
        report = EvaluationReport(candidate.label, results, settings={"n_bins": 15}, open_set=unseen)
        rate = candidate.learning_rate
        # A file system takes no longer names, and no slash.
        folder = Path(f"{candidate.method.replace('/', '')[:40]}-{rate}-{number}")
        return FinishedRun(folder, candidate, number, report, Predictions(kept) if kept else None, facts=facts)

    runs = []
    for method in methods:
        skill, sure = rng.uniform(-0.05, 0.06), rng.uniform(0.0, 0.12)
        for step, rate in enumerate(rates):
            for number in seeds:
                luck = rng.gauss(0, 0.003)
                accuracies = {name: value + skill - 0.02 * step**1.5 + luck for name, value in start.items()}
                accuracies["photo"] = start["photo"] + 0.2 + 0.04 * step + skill / 3 + luck
                too_sure = {name: sure + 0.05 * step for name in start}
                too_sure["photo"] = 0.02
                accuracies["validation"], too_sure["validation"] = accuracies["photo"] + 0.01, 0.02
                runs.append(run(Candidate(method, rate), number, accuracies, too_sure, 0.82 + 0.04 * step + skill))
    sets = {**start, "validation": start["photo"]}
    before = run(ZERO_SHOT, None, sets, dict.fromkeys(sets, 0.04), 0.76) if zero_shot else None
    return Comparison(runs, before)
