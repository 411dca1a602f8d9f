# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Finished folders on images with lists of labels, with logits and without a model: what a comparison of such runs reads."""

from pathlib import Path

import torch

from helpers.finished import CLASSES, finished, hashes
from hf_robustft.evaluation.collect import save_logits
from hf_robustft.evaluation.multi_label import fit_thresholds, multi_label_results
from hf_robustft.evaluation.report import EvaluationReport, save_reports
from hf_robustft.objectives.papers import METHOD_FACTS

SETS = {"photo": "id", "sketch": "shift", "validation": "validation"}


def list_targets(name, n=40, classes=CLASSES):
    """The labels of a set, the same in all runs; the first image has none, and every class an image."""
    labels = torch.rand(n, len(classes), generator=torch.Generator().manual_seed(len(name))) < 0.4
    labels[0] = False
    labels[1 : 1 + len(classes)] |= torch.eye(len(classes), dtype=torch.bool)[: max(n - 1, 0)]
    return labels


def finished_on_lists(
    folder, method="ft", rate=1e-3, seed=0, skill=1.0, sets=SETS, n=40, classes=CLASSES, function="sigmoid", targets=(), rows=(), **changes
) -> Path:  # fmt: skip
    """
    Write a folder as a run on lists of labels leaves it.

    Args:
        skill: How much logits know of the labels.
        function: What makes probabilities of the logits.
        targets, rows: Labels and numbers of images of single sets, by name.
    """
    targets, rows = dict(targets), dict(rows)
    every = {name: targets.get(name, list_targets(name, n, classes)) for name in sets}
    images = {name: hashes(name, role, len(every[name]), 10 * place) for place, (name, role) in enumerate(sets.items(), 1)}
    finished(folder, method, rate, seed, (), sets={}, classes=classes, hashed=images, **changes)
    noise = torch.Generator().manual_seed(round(1000 * skill) + (seed or 0))
    logits = {name: 2 * skill * (has.float() - 0.3) + torch.randn(has.shape, generator=noise) for name, has in every.items()}
    of = {name: (item.double().sigmoid() if function == "sigmoid" else item.double().softmax(1)) for name, item in logits.items()}
    fit = next((name for name, role in sets.items() if role == "validation"), None)
    thresholds = torch.full((len(classes),), 0.5).double() if fit is None else fit_thresholds(of[fit], every[fit])[0]
    measured = {
        name: {
            "role": role, "head": "made up", "probabilities": function, "thresholds_of": fit, "default_thresholds": [],
            **multi_label_results(logits[name].double(), of[name], every[name], classes, thresholds),
        }
        for name, role in sets.items()
    }  # fmt: skip
    report = EvaluationReport(METHOD_FACTS[method].label, {}, settings={"n_bins": 15}, multi_label=measured)
    save_reports(Path(folder) / "evaluation.json", [report])
    facts = {"head": "made up", "class_names": list(classes), "probabilities": function, "pair_bias": 0.0 if function == "sigmoid" else None}
    for name, has in every.items():
        numbers = torch.as_tensor(rows.get(name, torch.arange(len(has))))
        save_logits(Path(folder) / "logits", name, {"logits": logits[name], "labels": has.long(), "rows": numbers}, facts)
    return Path(folder)
