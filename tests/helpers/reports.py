# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Evaluation reports of given numbers."""

import numpy as np

from hf_robustft.evaluation.error_analysis import analyse_errors
from hf_robustft.evaluation.report import DatasetResult, EvaluationReport
from hf_robustft.evaluation.threshold_curve import chosen_point, threshold_curve


def result(name, role="shift", accuracy=0.5, n=1200, **changes):
    numbers = {
        "n_classes": 4,
        "accuracy_se": 0.014,
        "ece": 0.0815,
        "ece_se": 0.01,
        "ece_noise_floor": 0.0262,
        "adaptive_ece": 0.08,
        "classwise_ece": 0.04,
        "nll": 1.25,
        "nll_se": 0.02,
        "brier": 0.625,
        "brier_se": 0.01,
        "reliability": {"lower": [0.0, 1.0], "upper": [1.0, 1.0], "count": [n, 0]}
        | {"confidence": [0.58, None], "accuracy": [accuracy, None]},
    }
    return DatasetResult(name=name, role=role, n=n, accuracy=accuracy, **{**numbers, **changes})


def report(model="fine-tuned", shifts=(("sketch", 0.25), ("cartoon", 0.5)), **changes):
    results = [result("validation", "validation"), *(result(name, accuracy=value) for name, value in shifts)]
    results.append(result("photo", "id", accuracy=0.875))
    spectrum = {
        "smallest_singular_value": 2.5e-5,
        "largest_singular_value": 0.1,
        "n": 1200,
        "dimension": 16,
        "note": None,
        "dataset": "photo",
    }
    fields = {
        "results": {item.name: item for item in results},
        "spectrum": spectrum,
        "logit_scale": 14.5,
        "settings": {"n_bins": 15, "bootstrap_draws": 1000},
    }
    return EvaluationReport(model, **{**fields, **changes})


def errors(n=1200, accuracy=0.7, classes=tuple(f"class {number}" for number in range(12)), seed=0, files=True):
    """The part of a report on the errors of made-up predictions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(classes), n)
    hard = np.linspace(-0.25, 0.25, len(classes))[labels]
    predicted = np.where(rng.random(n) < accuracy + hard, labels, (labels + rng.integers(1, 3, n)) % len(classes))
    confidence, nll = rng.uniform(0.4, 1.0, n), rng.uniform(0.7, 9.0, n)
    names = (lambda rows: [f"{classes[labels[row]]}/{row}.png" for row in rows]) if files else None
    return analyse_errors(np.arange(n), labels, predicted, confidence, nll, classes, files=names)


def full_report(classes=tuple(f"class {number}" for number in range(12)), model="fine-tuned", accuracy=0.8, shift="sketch", unseen="unseen", chosen=True):
    """A report with all that a page can show."""
    made = report(model, shifts=((shift, accuracy - 0.25),))
    made.error_analysis = {
        name: errors(item.n, accuracy if item.role == "id" else accuracy - 0.25, classes, seed=place) for place, (name, item) in enumerate(made.results.items())
    }
    rng = np.random.default_rng(0)
    known, shifted, other = rng.normal(2, 1, 1200), rng.normal(1.5, 1, 1200), rng.normal(0, 1, 900)
    metrics = dict.fromkeys(("auroc", "aupr_in", "aupr_out", "fpr95", "fpr95_nearest_recall", "fpr95_percentile"), 0.875)
    row = {**metrics, "shifts": {shift: {"auroc": 0.75, "fpr95": 0.5, "accepted": 0.8125}}, "correct_only": None}
    curve = threshold_curve(known, other, {shift: shifted}, score="energy")
    if chosen:
        curve["chosen"] = chosen_point(known >= 0.5, other >= 0.5, 0.5)
    made.open_set = {unseen: {"n": 900, "id": "photo", "scores": {"msp": row, "energy": row}, "threshold_curve": curve}}
    held = {"n": 1200, "coverage": 0.9375, "interval": [0.92, 0.95], "mean_size": 1.5, "empty": 0.0, "single": 0.5, "class_images": [1200], "class_held": [1125]}
    facts = {"method": "raps", "coverage": 0.95, "n": 100, "fitted_on": "validation", "unbounded": False, "own_quantiles": None}
    made.prediction_sets = {**facts, "sets": {"photo": held}}
    found = {"set": "photo", "with": "training images of 'train'", "found": 2, "compared": 1000, "images": 1200, "share": 0.0025, "at_least": 0.00125}
    made.shared_images = [{**found, "exact": False, "pictures": 2, "first": ["row 3 (a.png)"], "means": "nothing is new"}]
    made.settings["versions"] = {"hf_robustft": "0.2.0", "torch": "2.13"}
    made.results["photo"].source = {"path": "photos", "split": "test"}
    made.results["photo"].unreadable = {"count": 1, "of": 1201, "first": ["row 3: broken"]}
    numbers = {"n": 40, "average_precision": 0.5, "f1": 0.625, "ece": 0.125, "threshold": 0.25}
    made.multi_label = {
        "street": {
            **{"role": "id", "head": "prompts", "probabilities": "sigmoid", "thresholds_of": None, "n": 60, "n_classes": len(classes)},
            **{"n_labels": 90, "without_label": 3, "without_images": [], "default_thresholds": [], "map": 0.5, "f1": None, "f1_micro": 0.5, "ece": 0.25},
            "classes": dict.fromkeys(classes, numbers),
        }
    }
    return made
