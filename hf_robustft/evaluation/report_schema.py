# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether what was read from an `evaluation.json` can be a report: types, ranges and lengths, each fault in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from .open_set import CORRECT_METRICS, METRICS, SHIFT_METRICS

ROLES = ("id", "shift", "validation", "train")
#: Rounding may carry a mean of numbers from [0, 1] this far out of it.
_ROUNDING = 1e-9
#: Above it JSON's numbers are not whole in other programs.
_LARGEST = 2**53
_MISSING = object()

#: What a value must be, in words, and the test.
Kind = tuple[str, Callable[[Any], bool]]


def check_report(values: Mapping[str, Any]) -> None:
    """
    Check a report as `EvaluationReport.to_dict` writes it, with all its fields.

    Args:
        values (`Mapping[str, Any]`): The fields of an [`EvaluationReport`] as JSON types.

    Raises:
        ValueError: If a value cannot be what it is called; the first such value is named.
    """
    _need(values["model"], "model", _NAME)
    _need(values["results"], "results", _MAPPING)
    for name, result in values["results"].items():
        _check_result(result, f"results/{name}")
    if values["spectrum"] is not None:
        _need(values["spectrum"], "spectrum", _MAPPING)
        _check_fields(values["spectrum"], _SPECTRUM, "spectrum")
    _need(values["logit_scale"], "logit_scale", _optional(_POSITIVE))
    settings = values["settings"]
    _need(settings, "settings", _MAPPING)
    _check_fields(settings, {key: kind for key, kind in _SETTINGS.items() if key in settings}, "settings")
    if "knn_bank" in settings:
        _need(settings.get("knn_k", _MISSING), "settings/knn_k", ("a whole number, as there is a knn_bank", _count))
    check_open_set(values["open_set"])
    for name, part in (values["open_set"] or {}).items():
        known = part["id"]
        _need(known, f"open_set/{name}/id", ("the name of a result", lambda value: value in values["results"]))


def check_open_set(results: Any) -> None:
    """
    Check the part `open_set` of a report.

    Args:
        results (`dict[str, dict]`, *optional*): What `open_set_results` returns, as read from JSON.

    Raises:
        ValueError: If a value cannot be what it is called; the first such value is named.
    """
    _need(results, "open_set", _optional(_MAPPING))
    for name, part in (results or {}).items():
        what = f"open_set/{name}"
        _need(part, what, _MAPPING)
        _need({key: part[key] for key in part if key not in _READ}, what, _keys("n", "id", "scores"))
        _check_fields(part, {"n": _COUNT, "id": _TEXT, "scores": _MAPPING}, what)
        _need(part["scores"], f"{what}/scores", ("the numbers of at least one score", bool))
        _check_fields({key: part.get(key) for key in _READ}, _READ, what)
        for score, row in part["scores"].items():
            _check_score(row, f"{what}/{score}")


def _check_score(row: Any, what: str) -> None:
    _need(row, what, _keys(*METRICS, "shifts", "correct_only"))
    _need(row["shifts"], f"{what}/shifts", _MAPPING)
    parts = [({key: row[key] for key in METRICS}, METRICS, what)]
    parts += [(values, SHIFT_METRICS, f"{what}/{shift}") for shift, values in row["shifts"].items()]
    if row["correct_only"] is not None:
        parts.append((row["correct_only"], CORRECT_METRICS, f"{what}/correct_only"))
    for values, metrics, where in parts:
        _need(values, where, _keys(*metrics))
        _check_fields(values, dict.fromkeys(metrics, _SHARE), where)


def _check_result(values: Mapping[str, Any], what: str) -> None:
    _check_fields(values, _RESULT, what)
    bins, what = values["reliability"], f"{what}/reliability"
    lists = [bins[key] for key in _BINS]
    whole = all(isinstance(value, list) for value in lists) and len({len(value) for value in lists}) == 1
    _need(whole and len(lists[0]) >= 2, what, ("five lists of the same length", bool))
    for key in ("lower", "upper"):
        _need(bins[key], f"{what}/{key}", ("numbers from 0 to 1", lambda value: all(map(_share, value))))
    counts, n = bins["count"], values["n"]
    _need(counts, f"{what}/count", ("whole numbers", lambda value: all(_count(item, 0) for item in value)))
    _need(sum(counts), f"{what}/count", (f"counts that add up to n = {n}", lambda value: value == n))
    for key in ("confidence", "accuracy"):
        pairs = list(zip(bins[key], counts, strict=True))
        fits = all(_share(item) if count else item is None for item, count in pairs)
        words = "a number from 0 to 1 for each bin with images and null for the others"
        _need(bins[key], f"{what}/{key}", (words, lambda _, fits=fits: fits))


def _check_fields(values: Mapping[str, Any], kinds: Mapping[str, Kind], what: str) -> None:
    for key, kind in kinds.items():
        _need(values.get(key, _MISSING), f"{what}/{key}", kind)


def _need(value: Any, what: str, kind: Kind) -> None:
    words, check = kind
    try:
        fine = bool(check(value))
    except (TypeError, ValueError, OverflowError, LookupError, AttributeError):
        fine = False
    if not fine:
        shown = "missing" if value is _MISSING else repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise ValueError(f"{what} is {shown}, but must be {words}; restore the file or evaluate the model again.")


def _number(value: Any) -> float:
    """Return the number, or NaN, which no comparison accepts."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return math.nan
    return float(value)


def _share(value: Any) -> bool:
    return -_ROUNDING <= _number(value) <= 1 + _ROUNDING


def _count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST


def _texts(values: Any) -> bool:
    return all(isinstance(item, str) for item in values)


def _optional(kind: Kind) -> Kind:
    words, check = kind
    return f"{words} or null", lambda value: value is None or check(value)


def _keys(*names: str) -> Kind:
    words = f"a mapping of {', '.join(sorted(names))}"
    return words, lambda value: isinstance(value, dict) and set(value) == set(names)


def _unreadable(value: Any) -> bool:
    return _count(value["count"], 0) and _count(value["of"], 0) and isinstance(value["first"], list)


def _draws(value: Any) -> bool:
    lists = value.values()
    return all(
        isinstance(items, list) and len(items) >= 2 and not math.isnan(sum(map(_number, items))) for items in lists
    )


_TEXT: Kind = ("a text", lambda value: isinstance(value, str))
_NAME: Kind = ("a text", lambda value: isinstance(value, str) and bool(value))
_MAPPING: Kind = ("a mapping", lambda value: isinstance(value, dict))
_COUNT: Kind = ("a whole number of at least 1", _count)
_SHARE: Kind = ("a number from 0 to 1", _share)
_POSITIVE: Kind = ("a number above 0", lambda value: _number(value) > 0)
_NOT_NEGATIVE: Kind = ("a number of at least 0", lambda value: _number(value) >= 0)
#: Where images came from, those that were left out, and how many belong together.
_READ = {
    "source": _optional(
        ("texts by name, a path among them", lambda value: "path" in value and _texts(value.values()))
    ),
    "unreadable": _optional(
        ("count, of, and a list of lines as first", lambda value: _unreadable(value) and _texts(value["first"]))
    ),
    "n_groups": _optional(_COUNT),
}
_BINS = ("lower", "upper", "count", "confidence", "accuracy")
_PREDICTIONS = {"class": _TEXT, "majority": _TEXT, "share": _SHARE, "label_share": _SHARE, "majority_share": _SHARE}
_RESULT = {
    "name": _NAME,
    "role": (f"one of {', '.join(ROLES)}", lambda value: value in ROLES),
    **dict.fromkeys(("n", "n_classes"), _COUNT),
    **dict.fromkeys(("accuracy", "ece", "ece_noise_floor", "adaptive_ece", "classwise_ece"), _SHARE),
    **dict.fromkeys(("accuracy_se", "ece_se", "nll_se", "brier_se", "nll"), _NOT_NEGATIVE),
    "brier": ("a number from 0 to 2", lambda value: -_ROUNDING <= _number(value) <= 2.001),
    "head": _TEXT,
    "head_classes": _optional(_COUNT),
    "reliability": _keys(*_BINS),
    **_READ,
    "predictions": _optional(
        (
            f"a mapping of {', '.join(sorted(_PREDICTIONS))}",
            lambda value: (
                set(value) == set(_PREDICTIONS) and all(check(value[key]) for key, (_, check) in _PREDICTIONS.items())
            ),
        )
    ),
    "draws": _optional(("lists of numbers by metric", _draws)),
}
_SPECTRUM = {
    **dict.fromkeys(("smallest_singular_value", "largest_singular_value"), _NOT_NEGATIVE),
    **dict.fromkeys(("n", "dimension"), _COUNT),
    "note": _optional(_TEXT),
    "dataset": _TEXT,
}
_SETTINGS = {
    **dict.fromkeys(("n_bins", "bootstrap_draws", "knn_k"), _COUNT),
    "knn_bank": _TEXT,
    "versions": ("texts by name", lambda value: isinstance(value, dict) and _texts(value.values())),
    "temperature_folded_since": _POSITIVE,
}
