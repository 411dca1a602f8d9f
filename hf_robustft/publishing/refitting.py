# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a recalibration fits again beside the temperature: prediction sets and the open-set detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data.benchmarks import Benchmark
from ..evaluation.benchmark_checks import refuse_lists
from ..evaluation.detector import OpenSetDetector
from ..evaluation.fitting import check_fit, too_few
from ..evaluation.prediction_sets import DEFAULT_COVERAGE, DEFAULT_METHOD, ConformalClassifier
from ..evaluation.report import EvaluationReport
from ..evaluation.stated_error import check_sets
from ..evaluation.temperature import TemperatureScaling
from ..modeling.features import logit_scale


def wanted_sets(
    facts: Mapping[str, Any], method: str | None, coverage: float | None, own: bool | None, validation: Sequence[Benchmark]
) -> dict[str, Any] | None:
    """
    What prediction sets a folder is to have.

    Args:
        facts (`Mapping[str, Any]`): Its `robustft.json`.
        method (`str`, *optional*): That was asked for, or `"none"`.
        coverage (`float`, *optional*), own (`bool`, *optional*): Share of images, and whether classes get quantiles of their own.
        validation (`Sequence[Benchmark]`): What they would be fitted on.

    Returns:
        `dict` or `None`: Options of `ConformalClassifier.fit`: those of the folder's sets but for what is asked for. `None` for no sets.

    Raises:
        ValueError: If an option is out of range or contradicts another, or images have lists of labels.
    """
    check_fit(prediction_sets=method or DEFAULT_METHOD, coverage=DEFAULT_COVERAGE if coverage is None else coverage)
    check_sets(method, coverage, own)
    if method == "none":
        return None
    asked = {"method": method, "coverage": coverage, "class_conditional": own}
    asked = {name: value for name, value in asked.items() if value is not None}
    if "prediction_sets" not in facts and not asked:
        return None
    refuse_lists(validation, "prediction sets are for images with one label")
    former: dict[str, Any] = {}
    if "prediction_sets" in facts:
        sets = ConformalClassifier.from_dict(facts["prediction_sets"])
        same = ("method", "coverage", "randomized", "allow_empty", "seed", "lam", "k_reg")
        former = {name: getattr(sets, name) for name in same} | {"class_conditional": sets.class_quantiles is not None}
    return {"method": DEFAULT_METHOD, "coverage": DEFAULT_COVERAGE, **former, **asked}


def fit_sets(
    model: nn.Module, logits: Tensor, labels: Tensor, validation: Benchmark, wanted: Mapping[str, Any], notes: list[str]
) -> ConformalClassifier:
    """
    Fit prediction sets for a model with its temperature in the weights.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model.
        logits (`torch.Tensor` of shape `(n, classes)`), labels (`torch.Tensor` of shape `(n,)`): Of the validation images, by this model.
        validation ([`Benchmark`]): The images.
        wanted (`Mapping[str, Any]`): What [`wanted_sets`] returned.
        notes (`list[str]`): What the user should know is added.

    Returns:
        [`ConformalClassifier`]: The sets.
    """
    sets = ConformalClassifier.fit(
        logits,
        labels,
        class_names=validation.class_names,
        logit_scale=logit_scale(model),
        temperature=TemperatureScaling(),
        fitted_on=validation.name,
        **wanted,
    )
    notes += too_few(sets)
    if sets.common:
        notes.append(
            f"{len(sets.common)} of {len(sets.class_names)} classes have fewer than {sets.min_per_class} images of {validation.name}: they have "
            "the common quantile, and no coverage is stated for them by themselves."
        )
    return sets


def drop_other_coverage(report: EvaluationReport, sets: ConformalClassifier | None) -> None:
    """Remove from a `report` the coverage of other prediction sets than `sets`, in place."""
    measured = report.prediction_sets
    if measured is not None and (sets is None or {**sets.summary(), "sets": measured["sets"]} != measured):
        report.prediction_sets = None


def former_detector(
    directory: Path, facts: Mapping[str, Any], validation: Benchmark, keep: bool, notes: list[str]
) -> OpenSetDetector | None:
    """
    The detector to refit.

    Args:
        directory (`Path`), facts (`Mapping[str, Any]`): The folder and its `robustft.json`.
        validation ([`Benchmark`]): What it will be fitted on.
        keep (`bool`): Whether to refit it.
        notes (`list[str]`): A note is added if it was fitted on other images.

    Returns:
        [`OpenSetDetector`] or `None`: `None` if there is none, or none is to be kept.
    """
    if "detector" not in facts or not keep:
        return None
    detector = OpenSetDetector.from_pretrained(directory)
    if detector.fitted_on != validation.name:
        notes.append(f"The open-set detector, fitted on {detector.fitted_on}, is now fitted on {validation.name}.")
    return replace(detector, fitted_on=validation.name)
