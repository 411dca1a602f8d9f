# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation says about unseen classes: known against unseen images, by every score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from .open_set import detection_metrics, threshold_at_recall

METRICS = ("auroc", "aupr_in", "aupr_out", "fpr95", "fpr95_nearest_recall", "fpr95_percentile")
SHIFT_METRICS = ("auroc", "fpr95", "accepted")
READ = ("source", "unreadable")  # What an evaluation adds on where the images came from.
CORRECT_METRICS = ("auroc", "fpr95_percentile")

Scores = Mapping[str, Mapping[str, Tensor]]


def open_set_results(
    scores: Scores, *, known: str, correct: Tensor, shifts: Sequence[str], open_sets: Sequence[str]
) -> dict[str, dict]:
    """
    The part `open_set` of an [`EvaluationReport`].

    Args:
        scores: Of each data set and score one number an image, higher for known classes, all from one head.
        known (`str`): The in-distribution set.
        correct (`torch.Tensor` of shape `(n,)`): Of its images, 0/1: was the prediction right.
        shifts: The shifted sets, whose classes are known too.
        open_sets: The sets of unseen classes.

    Returns:
        `dict`: By open set `{"n", "id", "scores"}`. `scores` holds of each score the six numbers of
        `detection_metrics` over all ID images; `shifts`, the same question for each shifted set in place of the ID set
        (`auroc`, `fpr95`), and `accepted`, the share of its images that reach the threshold which accepts at least 95 %
        of the ID images; and `correct_only`, `auroc` and `fpr95_percentile` over the correctly classified ID images
        alone, as CRoFT's code has them (`None` if no image is classified correctly).

    Raises:
        ValueError: If a set is empty or a score is not finite.
    """
    chosen = correct.bool()
    results = {}
    for name in open_sets:
        rows = {}
        for score, unseen in scores[name].items():
            known_scores = scores[known][score]
            threshold = threshold_at_recall(known_scores)
            row: dict = {key: detection_metrics(known_scores, unseen)[key] for key in METRICS}
            row["shifts"] = {shift: _shift_metrics(scores[shift][score], unseen, threshold) for shift in shifts}
            row["correct_only"] = None
            if chosen.any():
                found = detection_metrics(known_scores[chosen], unseen)
                row["correct_only"] = {key: found[key] for key in CORRECT_METRICS}
            rows[score] = row
        results[name] = {"n": len(next(iter(scores[name].values()))), "id": known, "scores": rows}
    return results


def _shift_metrics(shifted: Tensor, unseen: Tensor, threshold: float) -> dict[str, float]:
    found = detection_metrics(shifted, unseen)
    accepted = (shifted >= threshold).double().mean().item()
    return {"auroc": found["auroc"], "fpr95": found["fpr95"], "accepted": accepted}


def shift_mean(row: Mapping) -> dict[str, float]:
    """Plain mean over the shifts of what one score gives for each of them; empty without shifts."""
    values = list(row["shifts"].values())
    return {key: sum(value[key] for value in values) / len(values) for key in SHIFT_METRICS} if values else {}


def open_set_metrics(results: Mapping[str, Mapping] | None) -> dict[str, float]:
    """Flat keys: `open_set/<open set>/<score>/auroc` and `/fpr95`, `open_set/<open set>/<score>/<shift>/auroc`."""
    flat = {}
    for name, result in (results or {}).items():
        for score, row in result["scores"].items():
            prefix = f"open_set/{name}/{score}"
            flat.update({f"{prefix}/{key}": row[key] for key in ("auroc", "fpr95")})
            flat.update({f"{prefix}/{shift}/auroc": value["auroc"] for shift, value in row["shifts"].items()})
    return flat


def check_open_set(results: object) -> None:
    """Raises ValueError unless `results`, as read from JSON, is `None` or what `open_set_results` returns."""
    if results is None:
        return
    if not isinstance(results, dict):
        raise ValueError(f"The part open_set is a {type(results).__name__}, not a mapping; evaluate the model again.")
    for name, result in results.items():
        if not isinstance(result, dict):
            raise ValueError(f"Open set {name!r} is no mapping; evaluate the model again.")
        described = {key: value for key, value in result.items() if key not in READ}
        _check_keys(described, ("n", "id", "scores"), f"open set {name!r}")
        if not isinstance(result["scores"], dict):
            raise ValueError(f"The scores of open set {name!r} are no mapping; evaluate the model again.")
        for score, row in result["scores"].items():
            what = f"score {score!r} of open set {name!r}"
            _check_keys(row, (*METRICS, "shifts", "correct_only"), what)
            if not isinstance(row["shifts"], dict):
                raise ValueError(f"The shifts of {what} are not a mapping; evaluate the model again.")
            for shift, values in row["shifts"].items():
                _check_keys(values, SHIFT_METRICS, f"{what} on {shift!r}")
            if row["correct_only"] is not None:
                _check_keys(row["correct_only"], CORRECT_METRICS, f"{what}, correct_only")


def _check_keys(values: object, keys: Sequence[str], what: str) -> None:
    if not isinstance(values, dict) or set(values) != set(keys):
        found = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(
            f"The {what} holds {found}, not {sorted(keys)}; restore the file or evaluate the model again."
        )
