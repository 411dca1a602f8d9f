# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether what was read from a `comparison.json` can be a summary: every value that tables, pictures and page use, each fault in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..evaluation.report_schema import (
    COUNT,
    MAPPING,
    MISSING,
    NAME,
    SHARE,
    TEXT,
    Kind,
    check_bins,
    need,
    number,
    optional,
)
from .measures import MEASURES, Measure, measure_of

_ADVICE = "compare the folders again"
#: Beyond it pictures have no scale.
_LARGEST = 1e9

#: What checks a value, given what messages call it.
Check = Callable[[Any, str], None]


def check_summary(summary: Mapping[str, Any]) -> None:
    """
    Check a summary as [`summarise`] makes it.

    Args:
        summary (`Mapping[str, Any]`): As JSON types.

    Raises:
        ValueError: If a value cannot be what it is called, or parts of it do not belong together; the first such place is named.
    """
    _is((f"one of {', '.join(MEASURES)}", lambda value: value is MISSING or isinstance(value, str) and value in MEASURES))(summary.get("measure", MISSING), "measure")
    measure = measure_of(summary)
    _fields(*_summary(measure))(summary, "")
    means = {"id": "id_mean", "shift": "shift_mean"}
    measured = {means[item["role"]] for item in summary["data"]["sets"] if item["role"] in means}
    decided_on, rows = summary["decided_on"], summary["candidates"]
    named = [(f"candidates/{place}", row) for place, row in enumerate(rows)]
    named += [("baseline", summary["baseline"])] if summary.get("baseline") is not None else []
    for what, row in named:
        for mean in means.values():
            words = "null, as no set of that role was measured" if mean not in measured else "a mapping of metrics"
            # Where nothing was decided by it, it may be unknown of a row.
            fits = row[mean] is None if mean not in measured else row[mean] is not None or mean != decided_on
            _is((words, lambda _, fits=fits: fits))(row[mean], f"{what}/{mean}")
    labels = [row["label"] for row in rows]
    _is(("the label of a candidate", lambda value: value in labels))(summary["winner"]["candidate"], "winner/candidate")
    for place, row in enumerate(summary.get("equal_id") or ()):
        for metric in (measure.key, "nll", "auroc"):
            methods = (summary["equal_id"][0].get(metric) or {}).keys()
            kind = ("numbers of the same methods everywhere", lambda value, methods=methods: (value or {}).keys() == methods)
            _is(kind)(row.get(metric), f"equal_id/{place}/{metric}")


def _is(kind: Kind) -> Check:
    return lambda value, what: need(value, what, kind, _ADVICE)


def _fields(checks: Mapping[str, Check], or_missing: Mapping[str, Check] | None = None) -> Check:
    """A mapping that has the keys of `checks`, and may have those of `or_missing`."""

    def check(value: Any, what: str) -> None:
        _is(MAPPING)(value, what)
        start = f"{what}/" if what else ""
        for key, of in checks.items():
            of(value.get(key, MISSING), start + key)
        for key, of in (or_missing or {}).items():
            if key in value:
                of(value[key], start + key)

    return check


def _each(of: Check, least: int = 0) -> Check:
    """A list, each item of which `of` checks."""

    def check(value: Any, what: str) -> None:
        _is(("a list" + (f" of at least {least}" if least else ""), lambda value: isinstance(value, list) and len(value) >= least))(value, what)
        for place, item in enumerate(value):
            of(item, f"{what}/{place}")

    return check


def _by_name(of: Check) -> Check:
    """A mapping of any names, each value of which `of` checks."""

    def check(value: Any, what: str) -> None:
        _is(MAPPING)(value, what)
        for key, item in value.items():
            _is(TEXT)(key, what)
            of(item, f"{what}/{key}")

    return check


def _or_null(of: Check) -> Check:
    return lambda value, what: None if value is None else of(value, what)


def _numbers(*kinds: Kind) -> Check:
    """A list of as many numbers."""

    def check(value: Any, what: str) -> None:
        _is((f"a list of {len(kinds)}", lambda value: isinstance(value, list) and len(value) == len(kinds)))(value, what)
        for place, (item, kind) in enumerate(zip(value, kinds, strict=True)):
            _is(kind)(item, f"{what}/{place}")

    return check


def _difference(value: Any, what: str) -> None:
    _fields({"mean": _is(_NUMBER), **dict.fromkeys(("se", "low", "high"), _is(optional(_NUMBER))), "beyond_noise": _is(optional(_BOOL))})(value, what)
    known = {value[key] is None for key in ("se", "low", "high")}
    _is(("known with its interval, or without", lambda _: len(known) == 1))(value["se"], f"{what}/se")


def _curve(value: Any, what: str) -> None:
    _fields({"coverage": _each(_is(SHARE), 1), "risk": _each(_is(SHARE), 1), "aurc": _spread(SHARE)})(value, what)
    of = len(value["coverage"])
    _is((f"as long as coverage, {of}", lambda value: len(value) == of))(value["risk"], f"{what}/risk")


def _spread(kind: Kind) -> Check:
    return _fields({"mean": _is(kind), "sd": _is(optional(_SIZE))})


def _within(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: low <= number(value) <= high


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**64


_BOOL: Kind = ("true or false", lambda value: isinstance(value, bool))
_NUMBER: Kind = ("a number", _within(-_LARGEST, _LARGEST))
_SIZE: Kind = ("a number of at least 0", _within(0, _LARGEST))
_POSITIVE: Kind = ("a number above 0", lambda value: 0 < number(value) <= _LARGEST)
_WHOLE: Kind = ("a whole number", _whole)
_COUNT_OR_0: Kind = ("a whole number of at least 0", lambda value: _whole(value) and value >= 0)

_TEXTS, _LABELS = _each(_is(TEXT)), _by_name(_is(TEXT))
_KINDS = {"nll": _SIZE, "brier": ("a number from 0 to 2", _within(0, 2.001))}
_AGAINST = _by_name(_by_name(_difference))
_CANDIDATE = {
    **dict.fromkeys(("method", "method_label"), _is(NAME)),
    "variant": _is(TEXT),
    "learning_rate": _is(optional(_POSITIVE)),
    "seeds": _each(_is(optional(_WHOLE)), 1),
    "folders": _each(_is(NAME), 1),
    "chosen_by_rule": _is(_BOOL),
}
_CHANGE = _fields(
    {"name": _is(TEXT), "n": _is(COUNT), "units": _is(COUNT), "before": _is(SHARE), "after": _is(SHARE), "difference": _difference}
)
#: Files of before have 0 classes where a set has none.
_SETS = _each(
    _fields(
        {"name": _is(NAME), "role": _is(NAME), "n": _is(COUNT), "n_classes": _is(optional(_COUNT_OR_0)), "groups": _is(optional(COUNT))},
        {"majority_share": _is(SHARE)},
    )
)
_RULE = _fields(
    {
        **dict.fromkeys(("name", "says", "chosen"), _is(TEXT)),
        "looked_at": _TEXTS,
        "grid": _by_name(_each(_is(optional(_POSITIVE)))),
        "seeds": _each(_is(_WHOLE)),
        "by_method": _LABELS,
    },
    {
        "chance": _fields(
            {"n": _is(_COUNT_OR_0), "others": _is(_COUNT_OR_0), "ties": _TEXTS},
            dict.fromkeys(("zero_shot_ties", "zero_shot_is_better"), _is(_BOOL)),
        ),
        "tied": _TEXTS,
        "without_gain": _is(_BOOL),
    },
)
_CHOICE = {
    **dict.fromkeys(("says", "metric", "overall"), _is(TEXT)),
    "is_bound": _is(_BOOL),
    "looked_at": _TEXTS,
    "by_method": _LABELS,
}
_SCORE = _fields(
    {
        "chosen": _is(TEXT),
        "validation": _is(_COUNT_OR_0),
        "test": _is(_COUNT_OR_0),
        "scores": _by_name(_fields({"validation": _is(SHARE), "auroc": _spread(SHARE), "shifts_auroc": _or_null(_spread(SHARE))})),
    }
)
_AT_EQUAL = _by_name(_is(optional(_NUMBER)))
_SUMMARY: dict[str, Check] = {
    "data": _fields(
        {"classes": _is(_COUNT_OR_0), "sets": _SETS},
        {"train": _or_null(_fields({}, dict.fromkeys(("name", "suite"), _is(optional(TEXT)))))},
    ),
    "decided_on": _is(("shift_mean or id_mean", lambda value: value in ("shift_mean", "id_mean"))),
    "winner": _fields(
        {
            **dict.fromkeys(("candidate", "words"), _is(NAME)),
            "chosen_by": _is(optional(TEXT)),
            **dict.fromkeys(("is_clear", "zero_shot_is_better"), _is(_BOOL)),
            **dict.fromkeys(("ties", "better"), _TEXTS),
        }
    ),
}
_SUMMARY_OR_MISSING: dict[str, Check] = {
    **dict.fromkeys(("hf_robustft", "no_pictures"), _is(TEXT)),
    "command": _is(optional(TEXT)),
    **dict.fromkeys(("hardware", "notes"), _TEXTS),
    "seconds": _is(_SIZE),
    "places": _LABELS,
    "rule": _or_null(_RULE),
    "frontier": _by_name(_each(_numbers(SHARE, SHARE, _SIZE, optional(_POSITIVE)))),
    "curves": _by_name(_each(_numbers(SHARE, SHARE, _NUMBER))),
    "reliability": _by_name(_by_name(check_bins)),
    "per_class": _by_name(_each(_CHANGE)),
    "forgotten": _by_name(_fields({"sets": _each(_CHANGE), "classes": _each(_CHANGE), "judged": _is(_COUNT_OR_0), "by_chance": _is(_SIZE)})),
    "risk_coverage": _by_name(_by_name(_curve)),
    "score_choice": _by_name(_by_name(_SCORE)),
    "worst_mistakes": _each(
        _fields(
            {
                **dict.fromkeys(("set", "label", "predicted"), _is(TEXT)),
                "row": _is(_COUNT_OR_0),
                "confidence": _is(SHARE),
                "group": _is(optional(TEXT)),
            }
        )
    ),
}


def _summary(measure: Measure) -> tuple[dict[str, Check], dict[str, Check]]:
    """What a summary has, and what it may have, where candidates are compared by a `measure`."""
    metrics = {name: _spread(_KINDS.get(name, SHARE)) for name in measure.metrics}
    mean = _or_null(_fields(metrics))
    row = {
        "label": _is(NAME),
        "sets": _by_name(_fields({"n": _is(COUNT), **metrics}, {"ece_noise_floor": _spread(SHARE)})),
        "id_mean": mean,
        "shift_mean": mean,
        "open_set": _by_name(_by_name(_by_name(_spread(SHARE)))),
    }
    against = dict.fromkeys(("against_zero_shot", "against_flyp", "against_winner"), _AGAINST)
    regret = _or_null(_fields({"judged_on": _TEXTS, measure.key: _is(_NUMBER), "nll": _is(_NUMBER)}))
    needed = {**_SUMMARY, "candidates": _each(_fields(row | _CANDIDATE, against), 1)}
    return needed, {
        **_SUMMARY_OR_MISSING,
        "baseline": _or_null(_fields(row)),
        "choices": _by_name(_fields(_CHOICE | {"regret": regret})),
        "equal_id": _each(_fields({"id": _is(SHARE), measure.key: _AT_EQUAL, "nll": _AT_EQUAL}, {"auroc": _AT_EQUAL})),
        "spread_over_rates": _by_name(_fields({"rates": _is(COUNT), measure.key: _is(_SIZE), "nll": _is(_SIZE)})),
    }
