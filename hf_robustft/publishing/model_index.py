# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The YAML block of a card: what the Hub reads, results as a model-index included."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation.report import TRAINED_HEAD, DatasetResult, EvaluationReport
from hf_robustft.evaluation.tables import ordered
from hf_robustft.publishing.papers import METHOD_FACTS
from hf_robustft.publishing.text import one_line

if TYPE_CHECKING:
    from hf_robustft.publishing.card_facts import CardFacts, SetFacts

PARTS = {
    "train": "training",
    "validation": "validation",
    "id": "test, in distribution",
    "shift": "test, shift",
    "open_set": "open set",
}


def card_data(title: str, report: EvaluationReport, facts: CardFacts) -> ModelCardData:
    """
    The metadata of a card.

    Args:
        title (`str`): Name of the model in the model-index.
        report: The results; each set becomes four entries, and each open set two a score, with the convention of the
            metric in its arguments.
        facts ([`CardFacts`]): The rest. The base model is used if it is a Hub id.

    Returns:
        `ModelCardData`
    """
    method, data, base_model = facts.method, facts.sets, facts.base_model
    base = {}
    if base_model is not None and is_hub_id(base_model):
        base = {"base_model": base_model}
        if method not in METHOD_FACTS or METHOD_FACTS[method].trains:
            base["base_model_relation"] = "finetune"
    if facts.emissions is not None:
        base["co2_eq_emissions"] = dict(facts.emissions)
    tags = ["hf_robustft", one_line(method), "clip", "calibration", "robustness"]
    open_set_tags = ["out-of-distribution-detection"] if report.open_set else []
    open_set_metrics = ["roc_auc", "fpr95"] if report.open_set else []
    hub_data = [benchmark.path for benchmark in data if benchmark.role == "train" and on_hub(benchmark)]
    return ModelCardData(
        license=one_line(facts.licence),
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=list(dict.fromkeys([*tags, *open_set_tags, *facts.tags])),
        datasets=list(dict.fromkeys(hub_data)) or None,
        metrics=["accuracy", "expected_calibration_error", "nll", "brier_score", *open_set_metrics],
        model_name=title,
        eval_results=_eval_results(report, {benchmark.name: benchmark for benchmark in data}),
        **base,
    )


def _eval_results(report: EvaluationReport, benchmarks: Mapping[str, SetFacts]) -> list[EvalResult]:
    results: list[EvalResult] = []
    used: set[tuple] = set()
    for result in ordered(report):
        data = _dataset(result.name, benchmarks.get(result.name), used)
        data["dataset_args"] = {
            "part": PARTS.get(result.role, result.role),
            "images": result.n,
            "classes": result.n_classes,
            "head": one_line(result.head),
        }
        results += _entries(_task(result.head), data, _metric_values(result))
    for name, facts in (report.open_set or {}).items():
        data = _dataset(name, benchmarks.get(name), used)
        known = report.results.get(facts["id"])
        data["dataset_args"] = {
            "part": PARTS["open_set"],
            "images": facts["n"],
            "known_set": one_line(facts["id"]),
            **({} if known is None else {"known_images": known.n, "head": one_line(known.head)}),
        }
        task = _task(None if known is None else known.head)
        results += _entries(task, data, [value for item in facts["scores"].items() for value in _score_values(*item)])
    return results


def _task(head: str | None) -> str:
    return "image-classification" if head == TRAINED_HEAD else "zero-shot-image-classification"


def _entries(task: str, data: dict[str, Any], values: Iterable[tuple[str, str, float, dict]]) -> list[EvalResult]:
    return [
        EvalResult(task_type=task, metric_type=kind, metric_name=title, metric_value=value, metric_args=args, **data)
        for kind, title, value, args in values
    ]


def _dataset(set_name: str, benchmark: SetFacts | None, used: set[tuple]) -> dict[str, Any]:
    """What the Hub calls a set; `used` are the Hub data sets that other sets of this card are called by already."""
    name = one_line(set_name)
    data: dict[str, Any] = {"dataset_type": name, "dataset_name": name}
    if benchmark is not None and on_hub(benchmark):
        hub = {
            "dataset_type": benchmark.path,
            "dataset_config": benchmark.config,
            "dataset_split": benchmark.split,
            "dataset_revision": benchmark.revision,
        }
        # The Hub merges results of one type, config, split and revision, whatever files they were measured on.
        if tuple(hub.values()) not in used:
            data.update(hub)
            used.add(tuple(hub.values()))
    elif benchmark is not None and benchmark.suite:
        suite = one_line(benchmark.suite)
        data = {"dataset_type": suite, "dataset_name": f"{suite}: {name}", "dataset_config": name}
    return data


def _metric_values(result: DatasetResult) -> list[tuple[str, str, float, dict[str, Any]]]:
    ece_args = {
        "n_bins": n_bins(result),
        "norm": "l1",
        "bins": "equal width, closed on the left; confidence 1.0 has a bin of its own",
        "over": "top label, whole data set",
        "noise_floor": result.ece_noise_floor,
        "standard_error": result.ece_se,
    }
    return [
        ("accuracy", "Accuracy", result.accuracy, {"standard_error": result.accuracy_se}),
        ("expected_calibration_error", "Expected calibration error", result.ece, ece_args),
        ("nll", "Negative log-likelihood", result.nll, {"unit": "nats", "standard_error": result.nll_se}),
        ("brier_score", "Brier score", result.brier, {"range": "0 to 2", "standard_error": result.brier_se}),
    ]


def _score_values(score: str, values: Mapping[str, Any]) -> list[tuple[str, str, float, dict[str, Any]]]:
    args = {"score": one_line(score), "positive": "known classes, all images of known_set"}
    return [
        ("roc_auc", f"AUROC of {one_line(score)}", values["auroc"], args),
        (
            "fpr95",
            f"FPR at 95 % TPR of {one_line(score)}",
            values["fpr95"],
            {**args, "threshold": "highest that accepts at least 95 % of known_set", "better": "lower"},
        ),
    ]


def is_hub_id(base_model: str) -> bool:
    """Whether a name is that of a repository on the Hub (`owner/name`), and of nothing on this machine."""
    if base_model.count("/") != 1 or Path(base_model).expanduser().exists():
        return False
    try:
        validate_repo_id(base_model)
    except HFValidationError:
        return False
    return True


def on_hub(benchmark: Benchmark | SetFacts) -> bool:
    """Whether a benchmark is a data set on the Hub."""
    return benchmark.path is not None and is_hub_id(benchmark.path)


def n_bins(result: DatasetResult) -> int:
    """How many equal-width bins a result's ECE has."""
    # The last entry is the bin of exactly 1.0.
    return len(result.reliability["count"]) - 1
