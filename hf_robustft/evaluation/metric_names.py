# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The names of the metrics, and which way each is better: the one table for everything that chooses by a metric.

Transformers assumes that a greater value is better unless a metric's name ends in `loss`, and would choose the worst
calibrated checkpoint as the best.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from ..data.benchmarks import Benchmark
from .benchmark_checks import checked_benchmarks, head_keys
from .open_set import available_scores
from .report import DATASET_METRICS, MULTI_LABEL_METRICS, SHIFT_METRICS

#: By the last part of a metric's name, whether a greater value is better; `None` where neither is.
GREATER_IS_BETTER: dict[str, bool | None] = {
    "accuracy": True,
    "ece": False,
    "adaptive_ece": False,
    "classwise_ece": False,
    "nll": False,
    "brier": False,
    "loss": False,
    "map": True,
    "f1": True,
    "f1_micro": True,
    "auroc": True,
    "aupr_in": True,
    "aupr_out": True,
    "fpr95": False,
    "fpr95_nearest_recall": False,
    "fpr95_percentile": False,
    "accepted": True,
    "smallest_singular_value": True,
    # Facts about a set, not about how good the model is.
    "n": None,
    "ece_noise_floor": None,
}


def greater_is_better(name: str) -> bool | None:
    """
    Return whether a greater value of a metric is better.

    Args:
        name (`str`): A key of [`EvaluationReport.metrics`], with or without a prefix such as `eval_`, or its last part.

    Returns:
        `bool` or `None`: `None` for names that are not the library's, and for those that do not rank models.
    """
    return GREATER_IS_BETTER.get(_last(name))


def _last(name: str) -> str:
    return name.rsplit("/", 1)[-1].removeprefix("eval_")


def _ranks(name: str) -> bool:
    # Metrics that a user adds are not in the table.
    return GREATER_IS_BETTER.get(_last(name), True) is not None


def checked_direction(name: str, given: bool | None, option: str = "greater_is_better") -> bool | None:
    """
    Return the direction of a metric, where it is known, else what was given.

    Args:
        name (`str`): The metric.
        given (`bool`, *optional*): What the user says.
        option (`str`, *optional*, defaults to `"greater_is_better"`): What the message calls that.

    Returns:
        `bool` or `None`: Whether a greater value is better; `None` if nobody says.

    Raises:
        ValueError: If the two contradict each other: the worst model would be chosen.
    """
    known = greater_is_better(name)
    if known is None or given is None or given == known:
        return given if known is None else known
    raise ValueError(
        f"`{option}={given}` would choose the worst model: of `{name}` the {'greater' if known else 'smaller'} value is "
        f"better; leave `{option}` out."
    )


def metric_names(
    benchmarks: Sequence[Benchmark] | Mapping[str, Benchmark],
    trained_classes: Sequence[str] | None = None,
    knn: bool = False,
) -> list[str]:
    """
    List the keys of [`EvaluationReport.metrics`] that an [`Evaluator`] of these benchmarks will report, before it runs.

    Args:
        benchmarks (sequence or mapping of [`Benchmark`]): As for [`Evaluator`].
        trained_classes (sequence of `str`, *optional*): The class names of a trained head; zero-shot heads without.
        knn (`bool`, *optional*, defaults to `False`): Whether there is a bank for the score `knn`.

    Returns:
        `list[str]`: The keys.

    Raises:
        ValueError: If the benchmarks cannot be evaluated together.
    """
    sets = checked_benchmarks(benchmarks)
    heads = head_keys(sets, trained_classes)
    roles = {role: [name for name, item in sets.items() if item.role == role] for role in ("id", "shift", "open_set")}
    closed = [(name, item) for name, item in sets.items() if item.role != "open_set"]
    names = [f"{name}/{key}" for name, item in closed for key in (MULTI_LABEL_METRICS if item.several else DATASET_METRICS)]
    if any(not sets[name].several for name in roles["shift"]):
        names += [f"shift_mean/{key}" for key in SHIFT_METRICS]
    if roles["id"] or any(item.role == "validation" for item in sets.values()):
        names.append("spectrum/smallest_singular_value")
    for name in roles["open_set"]:
        head = heads[name]
        compared = [shift for shift in roles["shift"] if heads[shift] == head]
        for score in available_scores(cosines=head is not None, bank=knn):
            prefix = f"open_set/{name}/{score}"
            names += [f"{prefix}/auroc", f"{prefix}/fpr95", *(f"{prefix}/{shift}/auroc" for shift in compared)]
    return names


def resolve_metric(name: str, available: Sequence[str], option: str = "metric_for_best_model") -> str:
    """
    Find the metric that a name means.

    Args:
        name (`str`): `noto/ece`, `eval_noto/ece`, or a part from the end, such as `ece`, that only one metric has.
        available (sequence of `str`): From [`metric_names`].
        option (`str`, *optional*, defaults to `"metric_for_best_model"`): What the message calls the name.

    Returns:
        `str`: An element of `available`.

    Raises:
        ValueError: If no metric or several are meant, or one that does not say which model is better.
    """
    bare = name.removeprefix("eval_")
    # `eval_x/ece` is the set x, as in Transformers, and else the set eval_x.
    found = [key for key in (bare, name) if key in available][:1]
    if not found:
        found = [key for key in available if key.endswith(f"/{bare}")]
        # The mean over a single shift is that shift.
        found = [key for key in found if not key.startswith("shift_mean/")] or found
    if len(found) == 1 and _ranks(found[0]):
        return found[0]
    ranking = [key for key in available if _ranks(key)]
    if len(found) == 1:
        problem = f"does not say which model is better; choose one of {', '.join(ranking)}"
    elif found:
        problem = f"could be {' or '.join(found)}; give the whole name"
    else:
        problem = (
            f"is not measured by this run's evaluation sets{_hint(bare, ranking)}; choose one of {', '.join(ranking)}"
        )
    raise ValueError(f"`{option}={name!r}` {problem}.")


def _hint(bare: str, ranking: Sequence[str]) -> str:
    if _last(bare) == "loss":
        losses = [key for key in ranking if key.endswith("/nll")]
        return f" (an evaluation has no loss; its cross-entropy is `{losses[0]}`)" if losses else ""
    open_set = any(bare.endswith(key) for key in ("auroc", "fpr95", "aupr_in", "aupr_out"))
    if open_set and not any(key.startswith("open_set/") for key in ranking):
        return " (it takes a set with the role open_set beside one with the role id)"
    # Compared by the whole name and by its end; Transformers' own names have an underscore for the slash.
    candidates = {key: key for key in ranking}
    for key in ranking:
        candidates.setdefault(key.rsplit("/", 1)[-1], key)
        candidates.setdefault(key.replace("/", "_"), key)
    close = difflib.get_close_matches(bare, candidates, n=1)
    return f" (did you mean `{candidates[close[0]]}`?)" if close else ""
