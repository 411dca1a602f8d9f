# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether what was read from an `evaluation.json` can be a report: types, ranges and lengths, each fault in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .open_set import CORRECT_METRICS, SHIFT_METRICS
from .open_set import METRICS as OPEN_SET_METRICS

ROLES = ("id", "shift", "validation", "train")
_SHARES = ("accuracy", "ece", "ece_noise_floor", "adaptive_ece", "classwise_ece")
_ERRORS = ("accuracy_se", "ece_se", "nll_se", "brier_se")
_BINS = ("lower", "upper", "count", "confidence", "accuracy")
#: Rounding may carry a mean of numbers from [0, 1] this far out of it.
_ROUNDING = 1e-9
#: Above it JSON's numbers are not whole in other programs.
_LARGEST = 2**53

Check = Callable[[Any], bool]


def check_report(values: Any) -> None:
    """
    Check a report as `EvaluationReport.to_dict` writes it, with all its fields.

    Raises:
        ValueError: If a value cannot be what it is called; the first such value is named.
    """
    _need(values["model"], "model", "a text", lambda value: isinstance(value, str) and bool(value))
    _need(values["results"], "results", "a mapping", _mapping)
    for name, result in values["results"].items():
        check_result(result, f"results/{name}")
    if values["spectrum"] is not None:
        _check_spectrum(values["spectrum"])
    _need(values["logit_scale"], "logit_scale", "a number above 0", lambda value: value is None or _number(value) > 0)
    _check_settings(values["settings"])
    check_open_set(values["open_set"])
    for name, part in (values["open_set"] or {}).items():
        _check_open_set_numbers(part, f"open_set/{name}", values["results"])


def check_result(values: Any, what: str) -> None:
    """Check the numbers of one data set. Raises ValueError as `check_report`."""
    _need(values["name"], f"{what}/name", "a text", lambda value: isinstance(value, str) and bool(value))
    _need(values["role"], f"{what}/role", f"one of {', '.join(ROLES)}", lambda value: value in ROLES)
    for key in ("n", "n_classes"):
        _need(values[key], f"{what}/{key}", "a whole number of at least 1", _count)
    for key in _SHARES:
        _need(values[key], f"{what}/{key}", "a number from 0 to 1", _share)
    for key in (*_ERRORS, "nll"):
        _need(values[key], f"{what}/{key}", "a number of at least 0", lambda value: _number(value) >= 0)
    _need(
        values["brier"], f"{what}/brier", "a number from 0 to 2", lambda value: -_ROUNDING <= _number(value) <= 2.001
    )
    _need(values["head"], f"{what}/head", "a text", lambda value: isinstance(value, str))
    _need(
        values["head_classes"], f"{what}/head_classes", "a whole number", lambda value: value is None or _count(value)
    )
    _check_bins(values["reliability"], f"{what}/reliability", values["n"])
    _check_read(values, what)
    if values["predictions"] is not None:
        _check_predictions(values["predictions"], f"{what}/predictions")
    if values["draws"] is not None:
        _need(values["draws"], f"{what}/draws", "lists of numbers by metric", _draws)


def _check_bins(values: Any, what: str, n: int) -> None:
    _need(values, what, f"a mapping of {', '.join(_BINS)}", lambda value: _mapping(value) and set(value) == set(_BINS))
    lists = [values[key] for key in _BINS]
    whole = all(isinstance(value, list) for value in lists) and len({len(value) for value in lists}) == 1
    _need(whole and len(lists[0]) >= 2, what, "five lists of the same length", bool)
    for key in ("lower", "upper"):
        _need(values[key], f"{what}/{key}", "numbers from 0 to 1", lambda value: all(map(_share, value)))
    counts = values["count"]
    _need(counts, f"{what}/count", "whole numbers", lambda value: all(_count(item, 0) for item in value))
    _need(sum(counts), f"{what}/count", f"counts that add up to n = {n}", lambda value: value == n)
    for key in ("confidence", "accuracy"):
        pairs = list(zip(values[key], counts, strict=True))
        _need(
            values[key],
            f"{what}/{key}",
            "a number from 0 to 1 for each bin with images and null for the others",
            lambda _, pairs=pairs: all(_share(item) if count else item is None for item, count in pairs),
        )


def _check_read(values: Mapping[str, Any], what: str) -> None:
    """Where images came from, and those that were left out."""
    source, unreadable = values.get("source"), values.get("unreadable")
    if source is not None:
        _need(source, f"{what}/source", "texts by name, a path among them", _source)
    if unreadable is not None:
        _need(unreadable, f"{what}/unreadable", "count, of, and a list of lines as first", _unreadable)


def _check_predictions(values: Any, what: str) -> None:
    keys = {"class", "share", "label_share", "majority", "majority_share"}
    _need(
        values, what, f"a mapping of {', '.join(sorted(keys))}", lambda value: _mapping(value) and set(value) == keys
    )
    for key in ("class", "majority"):
        _need(values[key], f"{what}/{key}", "a text", lambda value: isinstance(value, str))
    for key in ("share", "label_share", "majority_share"):
        _need(values[key], f"{what}/{key}", "a number from 0 to 1", _share)


def _check_spectrum(values: Any) -> None:
    _need(values, "spectrum", "a mapping", _mapping)
    kinds: dict[str, tuple[str, Check]] = {
        "smallest_singular_value": ("a number of at least 0", lambda value: _number(value) >= 0),
        "largest_singular_value": ("a number of at least 0", lambda value: _number(value) >= 0),
        "n": ("a whole number", _count),
        "dimension": ("a whole number", _count),
        "note": ("a text or null", lambda value: value is None or isinstance(value, str)),
        "dataset": ("a text", lambda value: isinstance(value, str)),
    }
    for key, (words, check) in kinds.items():
        _need(values.get(key, _MISSING), f"spectrum/{key}", words, check)


def _check_settings(values: Any) -> None:
    _need(values, "settings", "a mapping", _mapping)
    kinds: dict[str, tuple[str, Check]] = {
        "n_bins": ("a whole number", _count),
        "bootstrap_draws": ("a whole number", _count),
        "knn_k": ("a whole number", _count),
        "knn_bank": ("a text", lambda value: isinstance(value, str)),
        "versions": (
            "texts by name",
            lambda value: _mapping(value) and all(isinstance(item, str) for item in value.values()),
        ),
        "temperature_folded_since": ("a number above 0", lambda value: _number(value) > 0),
    }
    for key, (words, check) in kinds.items():
        if key in values:
            _need(values[key], f"settings/{key}", words, check)
    if "knn_bank" in values:
        _need(values.get("knn_k", _MISSING), "settings/knn_k", "a whole number, as there is a knn_bank", _count)


def check_open_set(results: object) -> None:
    """Raises ValueError unless `results`, as read from JSON, is `None` or what `open_set_results` returns."""
    if results is None:
        return
    if not isinstance(results, dict):
        raise ValueError(f"The part open_set is a {type(results).__name__}, not a mapping; evaluate the model again.")
    for name, result in results.items():
        if not isinstance(result, dict):
            raise ValueError(f"Open set {name!r} is no mapping; evaluate the model again.")
        described = {key: value for key, value in result.items() if key not in ("source", "unreadable")}
        _check_keys(described, ("n", "id", "scores"), f"open set {name!r}")
        if not isinstance(result["scores"], dict):
            raise ValueError(f"The scores of open set {name!r} are no mapping; evaluate the model again.")
        for score, row in result["scores"].items():
            what = f"score {score!r} of open set {name!r}"
            _check_keys(row, (*OPEN_SET_METRICS, "shifts", "correct_only"), what)
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


def _check_open_set_numbers(part: Mapping[str, Any], what: str, results: Mapping[str, Any]) -> None:
    _need(part["n"], f"{what}/n", "a whole number of at least 1", _count)
    _need(part["id"], f"{what}/id", "the name of a result", lambda value: isinstance(value, str) and value in results)
    _need(part["scores"], f"{what}/scores", "the numbers of at least one score", bool)
    _check_read(part, what)
    for score, row in part["scores"].items():
        rows = [({key: row[key] for key in OPEN_SET_METRICS}, f"{what}/{score}")]
        rows += [(numbers, f"{what}/{score}/{shift}") for shift, numbers in row["shifts"].items()]
        if row["correct_only"] is not None:
            rows.append((row["correct_only"], f"{what}/{score}/correct_only"))
        for numbers, where in rows:
            for key, value in numbers.items():
                _need(value, f"{where}/{key}", "a number from 0 to 1", _share)


_MISSING = object()


def _need(value: Any, what: str, words: str, check: Check) -> None:
    try:
        fine = bool(check(value))
    except (TypeError, ValueError, OverflowError):
        fine = False
    if not fine:
        shown = "missing" if value is _MISSING else repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise ValueError(f"{what} is {shown}, but must be {words}; restore the file or evaluate the model again.")


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _number(value: Any) -> float:
    """The number, or NaN, which no comparison accepts."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return math.nan
    return float(value)


def _share(value: Any) -> bool:
    return -_ROUNDING <= _number(value) <= 1 + _ROUNDING


def _count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST


def _source(value: Any) -> bool:
    return _mapping(value) and "path" in value and all(isinstance(item, str) for item in value.values())


def _unreadable(value: Any) -> bool:
    return (
        _mapping(value)
        and {"count", "of", "first"} <= set(value)
        and _count(value["count"], 0)
        and _count(value["of"], 0)
        and isinstance(value["first"], list)
        and all(isinstance(line, str) for line in value["first"])
    )


def _draws(value: Any) -> bool:
    return _mapping(value) and all(
        isinstance(items, list) and len(items) >= 2 and all(not math.isnan(_number(item)) for item in items)
        for items in value.values()
    )
