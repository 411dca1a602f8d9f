# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Finished folders of given numbers, without a model in them: what a comparison reads."""

from pathlib import Path

import numpy as np

from helpers.reports import result
from hf_robustft import read_runs
from hf_robustft.data.left_out import LEFT_OUT
from hf_robustft.data.overlap import HASH_SPACE, Sketch
from hf_robustft.evaluation.predictions import Predictions, SetPredictions
from hf_robustft.evaluation.report import EvaluationReport, save_reports
from hf_robustft.modeling.metadata import update_robustft_json
from hf_robustft.objectives.papers import METHOD_FACTS
from hf_robustft.publishing.metadata import write_robustft_json

SETS = {"photo": "id", "sketch": "shift", "cartoon": "shift"}
CLASSES = ("cat", "dog", "owl", "bee")


def hashes(name, role, images=1200, first=0):
    """Fingerprints of a set; `first` tells sets of other images apart."""
    return Sketch(name, role, np.arange(first, first + 8, dtype=np.uint64), HASH_SPACE, images, images).to_dict()


def report(method, accuracies, sets=SETS, open_set=None, numbers=None, **changes):
    given = zip(sets.items(), accuracies, strict=True)
    numbers = numbers or {}
    results = {
        name: result(name, role, **{"accuracy": accuracy, **changes, **numbers.get(name, {})})
        for (name, role), accuracy in given
    }
    settings = {"n_bins": 15, "bootstrap_draws": 1000}
    return EvaluationReport(METHOD_FACTS[method].label, results, settings=settings, open_set=open_set)


def finished(
    folder, method="carot", rate=1e-3, seed=0, accuracies=(0.9, 0.5, 0.4), baseline=None, settings=(), hashed=(), card=(), sets=SETS,
    open_set=None, classes=CLASSES, parts=(), numbers=None, **changes,
) -> Path:  # fmt: skip
    """
    Write a folder as a run leaves it, without its weights.

    Args:
        accuracies: Of the sets in the order of `sets`; other numbers of each set are in `changes`.
        baseline: The accuracies of the zero-shot model, measured in the same run.
        settings, card, parts: Further entries of `robustft.json`.
        numbers: Of single sets, by name.
        hashed: Fingerprints that take the place of the usual ones, by name.
    """
    rates = {} if rate is None else {"learning_rate": rate}
    images = {
        name: hashes(name, role, first=10 * place)
        for place, (name, role) in enumerate({"train": "train", **sets}.items())
    }
    write_robustft_json(
        folder,
        method=method,
        class_names=classes,
        templates=("a {}.",),
        settings={**rates, "seed": seed, **dict(settings)},
        image_hashes=list((images | dict(hashed)).values()),
        head="zero-shot prompts",
    )
    update_robustft_json(
        folder, card={"method": method, "seed": seed, "base_model": "emoji_clip", **dict(card)}, **dict(parts)
    )
    reports = [report(method, accuracies, sets, open_set, numbers, **changes)]
    if baseline is not None:
        reports.insert(0, report("zero_shot", baseline, sets, open_set, **changes))
    save_reports(Path(folder) / "evaluation.json", reports)
    return Path(folder)


def finished_twin(folder, method, rate, seed=0, accuracy=0.5, fold=0, **changes) -> Path:
    """As [`finished`], of a run that left one of the classes out of its training and was measured on it."""
    left_out = {"share": 0.25, "fold": fold, "classes": [CLASSES[fold]]}
    changes = {"sets": {LEFT_OUT: "id"}, "classes": [name for name in CLASSES if name != CLASSES[fold]]} | changes
    hashed = {"train": hashes("train", "train", images=900, first=500 + fold)}
    return finished(folder, method, rate, seed, (accuracy,), parts={"left_out_classes": left_out}, hashed=hashed, n=300, **changes)


def predictions(accuracies, sets, seed=0, n=120, group=True):
    """Predictions of made-up images, of which as many are right as `accuracies` say; two images of a group are alike in all runs."""
    made = {}
    for place, ((name, role), accuracy) in enumerate(zip(sets.items(), accuracies, strict=True)):
        own, common = np.random.default_rng([seed, place]), np.random.default_rng(place)
        ease = np.repeat(common.normal(size=n // 2), 2) + 0.5 * own.normal(size=n)
        right = np.argsort(np.argsort(-ease)) < round(accuracy * n)
        label = np.array(CLASSES)[np.arange(n) // 2 % len(CLASSES)]
        other = np.array(CLASSES)[(np.arange(n) // 2 + 1) % len(CLASSES)]
        confidence = own.uniform(0.3, 0.99, n)
        nll = np.where(right, -np.log(confidence), 2 + own.uniform(size=n))
        groups = np.array([f"drawing {row // 2}" for row in range(n)]) if group else None
        made[name] = SetPredictions(
            name,
            role,
            np.arange(n),
            np.where(right, label, other),
            confidence,
            label,
            nll,
            (1 - confidence) ** 2,
            {},
            groups,
        )
    return Predictions(made)


def finished_with_predictions(folder, method, rate, seed, accuracies, sets, **changes) -> Path:
    """As [`finished`], with `predictions.parquet`: a validation set among `sets` is there, and not in the report."""
    made = predictions(accuracies, sets, 0 if seed is None else seed + 1)
    reported = {name: role for name, role in sets.items() if role != "validation"}
    numbers = {name: made.sets[name].metrics() for name in reported}
    finished(folder, method, rate, seed, [0.0] * len(reported), sets=reported, numbers=numbers, n=120, **changes)
    made.save(folder)
    return Path(folder)


#: The sets of a suite with held-out images for validation.
VALIDATED = {"photo": "id", "sketch": "shift", "cartoon": "shift", "held out": "validation"}


def draws(around, offset=0.0, spread=0.01, seed=0):
    """Bootstrap samples of the accuracy: the same images for all, so that an `offset` moves each alike."""
    noise = np.random.default_rng(seed).normal(0, spread, 50)
    return {"accuracy": (around + offset + noise).tolist()}


def of_shift(folders, rows, **changes):
    """Runs whose two shifted sets have these accuracies; `rows`: name, method, rate, seed, accuracies."""
    for name, method, rate, seed, accuracies in rows:
        finished(folders / name, method, rate, seed, accuracies, draws=draws(0.0), **changes)
    return read_runs([folders / name for name, *_ in rows])
