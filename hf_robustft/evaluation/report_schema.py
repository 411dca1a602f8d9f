# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether what was read from an `evaluation.json` can be a report: types, ranges and lengths, each fault in one line."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from .binning import MOST_BINS
from .detection import METRICS
from .open_set import CORRECT_METRICS, SHIFT_METRICS

ROLES = ("id", "shift", "validation", "train")
#: Rounding may carry a mean of numbers from [0, 1] this far out of it.
_ROUNDING = 1e-9
#: Above it JSON's numbers are not whole in other programs.
_LARGEST = 2**53
MISSING = object()

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
    need(values["model"], "model", NAME)
    need(values["results"], "results", MAPPING)
    for name, result in values["results"].items():
        _check_result(result, f"results/{name}")
    if values["spectrum"] is not None:
        need(values["spectrum"], "spectrum", MAPPING)
        check_fields(values["spectrum"], _SPECTRUM, "spectrum")
    need(values["logit_scale"], "logit_scale", optional(_POSITIVE))
    settings = values["settings"]
    need(settings, "settings", MAPPING)
    check_fields(settings, {key: kind for key, kind in _SETTINGS.items() if key in settings}, "settings")
    if "knn_bank" in settings:
        need(settings.get("knn_k", MISSING), "settings/knn_k", ("a whole number, as there is a knn_bank", _count))
    check_open_set(values["open_set"])
    _check_multi_label(values["multi_label"])
    _check_prediction_sets(values["prediction_sets"])
    for name in (values["prediction_sets"] or {"sets": ()})["sets"]:
        known = ("a set among the results", lambda value: value in values["results"])
        need(name, f"prediction_sets/{name}", known)
    check_errors(values["error_analysis"], values["results"])
    _check_shared(values["shared_images"])
    for name, part in (values["open_set"] or {}).items():
        known = part["id"]
        need(known, f"open_set/{name}/id", ("the name of a result", lambda value: value in values["results"]))


def _check_multi_label(results: Any) -> None:
    need(results, "multi_label", optional(MAPPING))
    for name, part in (results or {}).items():
        what = f"multi_label/{name}"
        need(part, what, MAPPING)
        check_fields({"source": None, "unreadable": None, "n_groups": None} | part, _MULTI_LABEL, what)
        for of, row in part["classes"].items():
            need(row, f"{what}/classes/{of}", MAPPING)
            check_fields(row, _MULTI_LABEL_CLASS, f"{what}/classes/{of}")


def _check_prediction_sets(part: Any) -> None:
    need(part, "prediction_sets", optional(MAPPING))
    if part is None:
        return
    need(part, "prediction_sets", _keys(*_PREDICTION_SETS))
    check_fields(part, _PREDICTION_SETS, "prediction_sets")
    for name, row in part["sets"].items():
        what = f"prediction_sets/{name}"
        need(row, what, _keys(*_SETS_OF))
        check_fields(row, _SETS_OF, what)
        counts = list(zip(row["class_held"], row["class_images"], strict=False))
        words = f"counts of images that add up to n = {row['n']}, of which no more are held"
        fits = len(row["class_held"]) == len(row["class_images"]) and all(held <= n for held, n in counts)
        need(row["class_images"], f"{what}/class_images", (words, lambda value, fits=fits, n=row["n"]: fits and sum(value) == n))


def check_open_set(results: Any) -> None:
    """
    Check the part `open_set` of a report.

    Args:
        results (`dict[str, dict]`, *optional*): What `open_set_results` returns, as read from JSON.

    Raises:
        ValueError: If a value cannot be what it is called; the first such value is named.
    """
    need(results, "open_set", optional(MAPPING))
    for name, part in (results or {}).items():
        what = f"open_set/{name}"
        need(part, what, MAPPING)
        later = {*_READ, "threshold_curve"}
        need({key: part[key] for key in part if key not in later}, what, _keys("n", "id", "scores"))
        _check_curve(part.get("threshold_curve"), f"{what}/threshold_curve")
        check_fields(part, {"n": COUNT, "id": TEXT, "scores": MAPPING}, what)
        need(part["scores"], f"{what}/scores", ("the numbers of at least one score", bool))
        check_fields({key: part.get(key) for key in _READ}, _READ, what)
        for score, row in part["scores"].items():
            _check_score(row, f"{what}/{score}")


def _check_curve(curve: Any, what: str) -> None:
    need(curve, what, optional(_keys("score", "confidence", "chosen", "shifts", *CURVE_LISTS)))
    if curve is None:
        return
    check_fields(curve, {"score": TEXT, "confidence": SHARE, "shifts": MAPPING}, what)
    length = len(curve["threshold"])
    ascending = ("finite numbers, each above the one before", lambda value: length >= 2 and all(one < other for one, other in pairwise(map(number, value))))
    need(curve["threshold"], f"{what}/threshold", ascending)
    shares = (f"{length} numbers from 0 to 1", lambda value: isinstance(value, list) and len(value) == length and all(map(_share, value)))
    check_fields(curve, dict.fromkeys(CURVE_LISTS[1:], shares), what)
    check_fields(curve["shifts"], dict.fromkeys(curve["shifts"], shares), f"{what}/shifts")
    need(curve["chosen"], f"{what}/chosen", optional(_keys(*_CHOSEN)))
    for key in _CHOSEN if curve["chosen"] is not None else ():
        need(curve["chosen"][key], f"{what}/chosen/{key}", _CHOSEN[key])


def check_errors(parts: Any, results: Mapping[str, Any]) -> None:
    """
    Check the part `error_analysis` of a report.

    Args:
        parts (`dict[str, dict]`, *optional*): By set what `analyse_errors` returns.
        results (`Mapping[str, Any]`): The results of the report, which have the same sets.

    Raises:
        ValueError: If a value cannot be what it is called; the first such value is named.
    """
    need(parts, "error_analysis", optional(MAPPING))
    for name, part in (parts or {}).items():
        what = f"error_analysis/{name}"
        need(name, what, ("a set among the results", lambda value: value in results))
        need(part, what, _keys(*_ERRORS))
        check_fields(part, _ERRORS, what)
        for of, row in part["classes"].items():
            fits = row["right"] <= min(row["images"], row["predicted"]) and (row["confidence"] is None) == (not row["predicted"])
            words = "images, right, predicted and the mean confidence, in which neither images nor predictions are fewer than the right ones"
            need(row, f"{what}/classes/{of}", (words, lambda value, fits=fits: fits and optional(SHARE)[1](value["confidence"])))
            check_fields(row, dict.fromkeys(("images", "right", "predicted"), _LEAST_0), f"{what}/classes/{of}")
        for key, kinds in (("confusions", _CONFUSION), ("worst", _MISTAKE), ("most_confident", _MISTAKE)):
            _check_rows(part[key], kinds, f"{what}/{key}")


def _check_shared(rows: Any) -> None:
    need(rows, "shared_images", optional(_ROWS))
    _check_rows(rows or [], _SHARED, "shared_images")


def _check_rows(rows: Any, kinds: Mapping[str, Kind], what: str) -> None:
    for place, row in enumerate(rows):
        need(row, f"{what}/{place}", _keys(*kinds))
        check_fields(row, kinds, f"{what}/{place}")


def _check_score(row: Any, what: str) -> None:
    need(row, what, _keys(*METRICS, "shifts", "correct_only"))
    need(row["shifts"], f"{what}/shifts", MAPPING)
    parts = [({key: row[key] for key in METRICS}, METRICS, what)]
    parts += [(values, SHIFT_METRICS, f"{what}/{shift}") for shift, values in row["shifts"].items()]
    if row["correct_only"] is not None:
        parts.append((row["correct_only"], CORRECT_METRICS, f"{what}/correct_only"))
    for values, metrics, where in parts:
        need(values, where, _keys(*metrics))
        check_fields(values, dict.fromkeys(metrics, SHARE), where)


def _check_result(values: Mapping[str, Any], what: str) -> None:
    check_fields(values, _RESULT, what)
    check_bins(values["reliability"], f"{what}/reliability", values["n"])


def check_bins(bins: Any, what: str, n: int | None = None) -> None:
    """Check the `bins` of a reliability diagram of `n` images, which messages call `what`. Raises ValueError as [`check_report`]."""
    need(bins, what, _keys(*_BINS))
    lists = [bins[key] for key in _BINS]
    whole = all(isinstance(value, list) for value in lists) and len({len(value) for value in lists}) == 1
    need(whole and len(lists[0]) >= 2, what, ("five lists of the same length", bool))
    for key in ("lower", "upper"):
        need(bins[key], f"{what}/{key}", ("numbers from 0 to 1", lambda value: all(map(_share, value))))
    counts = bins["count"]
    need(counts, f"{what}/count", ("whole numbers", lambda value: all(_count(item, 0) for item in value)))
    n = sum(counts) if n is None else n
    need(sum(counts), f"{what}/count", (f"counts that add up to n = {n}", lambda value: value == n))
    for key in ("confidence", "accuracy"):
        pairs = list(zip(bins[key], counts, strict=True))
        fits = all(_share(item) if count else item is None for item, count in pairs)
        words = "a number from 0 to 1 for each bin with images and null for the others"
        need(bins[key], f"{what}/{key}", (words, lambda _, fits=fits: fits))


def check_fields(values: Mapping[str, Any], kinds: Mapping[str, Kind], what: str) -> None:
    """Check those of `values`, which messages call `what`, that have `kinds`. Raises ValueError as [`check_report`]."""
    for key, kind in kinds.items():
        need(values.get(key, MISSING), f"{what}/{key}", kind)


def need(value: Any, what: str, kind: Kind, advice: str = "restore the file or evaluate the model again") -> None:
    """Check that a `value` that messages call `what` is of a `kind`. Raises ValueError with `advice` if it is not."""
    words, check = kind
    try:
        fine = bool(check(value))
    except (TypeError, ValueError, OverflowError, LookupError, AttributeError):
        fine = False
    if not fine:
        shown = "missing" if value is MISSING else repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        raise ValueError(f"{what} is {shown}, but must be {words}; {advice}.")


def number(value: Any) -> float:
    """Return a `value` that is a number, or NaN, which no comparison accepts."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return math.nan
    return float(value)


def _share(value: Any) -> bool:
    return -_ROUNDING <= number(value) <= 1 + _ROUNDING


def _count(value: Any, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST


def _texts(values: Any) -> bool:
    return all(isinstance(item.encode(), bytes) for item in values)


def optional(kind: Kind) -> Kind:
    """Return what is of a `kind`, or null."""
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
        isinstance(items, list) and len(items) >= 2 and not math.isnan(sum(map(number, items))) for items in lists
    )


#: A half surrogate is a character that no file can hold.
TEXT: Kind = ("a text", lambda value: isinstance(value.encode(), bytes))
NAME: Kind = ("a text", lambda value: bool(value.encode()))
MAPPING: Kind = ("a mapping", lambda value: isinstance(value, dict))
COUNT: Kind = ("a whole number of at least 1", _count)
SHARE: Kind = ("a number from 0 to 1", _share)
NUMBER: Kind = ("a finite number", lambda value: not math.isnan(number(value)))
_POSITIVE: Kind = ("a number above 0", lambda value: number(value) > 0)
NOT_NEGATIVE: Kind = ("a number of at least 0", lambda value: number(value) >= 0)
#: Where images came from, those that were left out, and how many belong together.
_READ = {
    "source": optional(
        ("texts by name, a path among them", lambda value: "path" in value and _texts(value.values()))
    ),
    "unreadable": optional(
        ("count, of, and a list of lines as first", lambda value: _unreadable(value) and _texts(value["first"]))
    ),
    "n_groups": optional(COUNT),
}
_BINS = ("lower", "upper", "count", "confidence", "accuracy")
_PREDICTIONS = {"class": TEXT, "majority": TEXT, "share": SHARE, "label_share": SHARE, "majority_share": SHARE}
_RESULT = {
    "name": NAME,
    "role": (f"one of {', '.join(ROLES)}", lambda value: value in ROLES),
    **dict.fromkeys(("n", "n_classes"), COUNT),
    **dict.fromkeys(("accuracy", "ece", "ece_noise_floor", "adaptive_ece", "classwise_ece"), SHARE),
    **dict.fromkeys(("accuracy_se", "ece_se", "nll_se", "brier_se", "nll"), NOT_NEGATIVE),
    "brier": ("a number from 0 to 2", lambda value: -_ROUNDING <= number(value) <= 2.001),
    "head": TEXT,
    "head_classes": optional(COUNT),
    **_READ,
    "predictions": optional(
        (
            f"a mapping of {', '.join(sorted(_PREDICTIONS))}",
            lambda value: (
                set(value) == set(_PREDICTIONS) and all(check(value[key]) for key, (_, check) in _PREDICTIONS.items())
            ),
        )
    ),
    "draws": optional(("lists of numbers by metric", _draws)),
}
_LEAST_0: Kind = ("a whole number of at least 0", lambda value: _count(value, 0))
_NAMES: Kind = ("a list of texts", lambda value: isinstance(value, list) and _texts(value))
_MULTI_LABEL = {
    **{"role": _RESULT["role"], "head": TEXT, "probabilities": TEXT, "thresholds_of": optional(TEXT)},
    **dict.fromkeys(("n", "n_classes"), COUNT),
    **dict.fromkeys(("n_labels", "without_label"), _LEAST_0),
    **dict.fromkeys(("without_images", "default_thresholds"), _NAMES),
    **dict.fromkeys(("map", "f1"), optional(SHARE)),
    **dict.fromkeys(("f1_micro", "ece"), SHARE),
    "classes": MAPPING,
    **_READ,
}
_MULTI_LABEL_CLASS = {
    **{"n": _LEAST_0, "average_precision": optional(SHARE), "f1": optional(SHARE)},
    **dict.fromkeys(("ece", "threshold"), SHARE),
}
_COUNTS: Kind = ("a list of whole numbers", lambda value: isinstance(value, list) and all(_count(item, 0) for item in value))
#: By class, in their order: images, and those whose prediction set holds their class.
CLASS_COUNTS = ("class_images", "class_held")
_PREDICTION_SETS = {
    **{"method": TEXT, "coverage": SHARE, "n": COUNT, "fitted_on": optional(TEXT)},
    "unbounded": ("true or false", lambda value: isinstance(value, bool)),
    "own_quantiles": optional(_LEAST_0),
    "sets": MAPPING,
}
_SETS_OF = {
    **{"n": COUNT, "mean_size": NOT_NEGATIVE},
    **dict.fromkeys(("coverage", "empty", "single"), SHARE),
    "interval": ("two numbers from 0 to 1", lambda value: isinstance(value, list) and len(value) == 2 and all(map(_share, value))),
    **dict.fromkeys(CLASS_COUNTS, _COUNTS),
}
_ROWS: Kind = ("a list of mappings", lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value))
_ERRORS = {
    **dict.fromkeys(("n_wrong", "n_confusions", "classes_left_out"), _LEAST_0),
    "classes": MAPPING,
    **dict.fromkeys(("confusions", "worst", "most_confident"), _ROWS),
}
_CONFUSION = {"label": TEXT, "predicted": TEXT, "n": COUNT}
_MISTAKE = {"row": _LEAST_0, "file": optional(TEXT), "label": TEXT, "predicted": TEXT, "confidence": SHARE, "nll": NOT_NEGATIVE}
_SHARED = {
    **dict.fromkeys(("set", "with", "means"), TEXT),
    **dict.fromkeys(("found", "pictures"), COUNT),
    **{"compared": _LEAST_0, "images": optional(_LEAST_0), "share": SHARE, "at_least": SHARE},
    **{"exact": ("true or false", lambda value: isinstance(value, bool)), "first": _NAMES},
}
#: The lists of a curve, see `threshold_curve`.
CURVE_LISTS = ("threshold", "refusal", "refusal_low", "refusal_high", "acceptance", "acceptance_low", "acceptance_high")
_MEASURED_SHARE: Kind = (
    "share, low and high from 0 to 1, and n",
    lambda value: set(value) == {"share", "low", "high", "n"} and all(_share(value[key]) for key in ("share", "low", "high")) and _count(value["n"]),
)
_CHOSEN = {"threshold": NUMBER, "own_thresholds": _LEAST_0, "refusal": _MEASURED_SHARE, "acceptance": _MEASURED_SHARE}
_SPECTRUM = {
    **dict.fromkeys(("smallest_singular_value", "largest_singular_value"), NOT_NEGATIVE),
    **dict.fromkeys(("n", "dimension"), COUNT),
    "note": optional(TEXT),
    "dataset": TEXT,
}
_SETTINGS = {
    "n_bins": (f"a whole number from 1 to {MOST_BINS:,}", lambda value: _count(value) and value <= MOST_BINS),
    **dict.fromkeys(("bootstrap_draws", "knn_k"), COUNT),
    "knn_bank": TEXT,
    "versions": ("texts by name", lambda value: isinstance(value, dict) and _texts(value.values())),
    "temperature_folded_since": _POSITIVE,
}
