# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The training's log in a card: a few rows of the named losses, the teacher's momentum and the calibration over time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hf_robustft.publishing.text import markdown_text

ROWS = 8
#: Evaluation sets in the table; more would not fit a page.
SETS = 2
_PLAIN = {"loss": "Loss", "teacher/momentum": "Momentum", "generator/loss": "Generator", "logit_scale": "Logit scale"}
_EVALUATED = re.compile(r"eval_(?P<name>[^/]+)/(?P<metric>accuracy|ece)")
_SINGULAR = "eval_spectrum/smallest_singular_value"


def training_log(log_history: Iterable[Mapping[str, Any]], rows: int = ROWS) -> tuple[dict[str, float], ...]:
    """
    The rows of a Trainer's `state.log_history` that a card shows.

    Entries of one step are joined. Where there were evaluations, rows are taken among those steps, else among all; the
    first and the last are always there.

    Args:
        log_history: The entries, in order.
        rows (`int`, *optional*, defaults to 8): At most so many.

    Returns:
        `tuple[dict[str, float], ...]`: Each with `step` and the named losses, the momentum, the logit scale, and accuracy,
        ECE and smallest singular value of the evaluation sets, as far as they were logged and are finite.
    """
    steps: dict[int, dict[str, float]] = {}
    for entry in log_history:
        wanted = {key: value for key, value in entry.items() if _is_shown(key) and _is_finite(value)}
        if wanted and _is_finite(entry.get("step")):
            steps.setdefault(int(entry["step"]), {}).update(wanted)
    evaluated = [step for step, row in steps.items() if any(key.startswith("eval_") for key in row)]
    chosen = sorted(evaluated if len(evaluated) > 1 else steps)
    if len(chosen) > rows:
        chosen = [chosen[round(index * (len(chosen) - 1) / (rows - 1))] for index in range(rows)]
    return tuple({"step": step, **steps[step]} for step in chosen)


def history_table(log: Iterable[Mapping[str, float]]) -> list[list[str]]:
    """
    A table of what `training_log` gave.

    Returns:
        `list[list[str]]`: The header and the rows in markdown; empty without a log.
    """
    log = list(log)
    if not log:
        return []
    keys = list(dict.fromkeys(key for row in log for key in row if key != "step"))
    terms = [key for key in keys if key.startswith("loss/")]
    sets = list(dict.fromkeys(match["name"] for match in map(_EVALUATED.fullmatch, keys) if match))[:SETS]
    plain = [key for key in _PLAIN if key in keys]
    columns = [(_PLAIN[key], key, _number) for key in plain if key == "loss"]
    # Words, not one long name, so that the header breaks and the table fits a page.
    columns += [(markdown_text(key.removeprefix("loss/").replace("_", " ")), key, _number) for key in terms]
    columns += [(_PLAIN[key], key, _number) for key in plain if key != "loss"]
    for name in sets:
        columns += [
            (f"{markdown_text(name)} {title}", f"eval_{name}/{metric}", _percent)
            for title, metric in (("accuracy %", "accuracy"), ("ECE %", "ece"))
        ]
    if _SINGULAR in keys:
        columns.append(("Smallest singular value", _SINGULAR, _number))
    rows = [[f"{row['step']:,}", *(show(row.get(key)) for _, key, show in columns)] for row in log]
    return [["Step", *(title for title, _, _ in columns)], *rows]


def _is_shown(key: str) -> bool:
    return key in _PLAIN or key == _SINGULAR or key.startswith("loss/") or _EVALUATED.fullmatch(key) is not None


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2e}" if value and abs(value) < 1e-3 else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
