# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Evaluation reports of given numbers."""

from hf_robustft.evaluation.report import DatasetResult, EvaluationReport


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
