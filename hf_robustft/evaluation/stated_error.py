# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Which options of what is fitted on validation images go together: the threshold for "unknown", and prediction sets.

Imports neither torch nor Transformers, so that the first look at a command line says it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ERRORS, RATE = ("max_false_acceptance", "max_false_refusal"), "true_positive_rate"
#: By which the threshold is chosen: a stated error, or the share of known images that is accepted.
STATED_ERROR = (*_ERRORS, "confidence", "per_class_thresholds", RATE)


def check_stated_error(given: Mapping[str, Any], has_unknown: bool, keep_detector: bool) -> None:
    """
    Refuse options for the choice of a threshold that contradict each other or would be ignored, whatever the folder holds.

    Args:
        given (`Mapping[str, Any]`): Those of `STATED_ERROR` that were given.
        has_unknown (`bool`): Whether there are unknown images.
        keep_detector (`bool`): Whether the folder keeps its detector.

    Raises:
        ValueError: By the names of the options.
    """
    stated = [name for name in _ERRORS if name in given]
    others = [name for name in given if name != RATE]
    if (given or has_unknown) and not keep_detector:
        raise ValueError(f"--remove_detector removes what {'--' + next(iter(given)) if given else '--unknown'} chooses; leave one of them out.")
    if RATE in given and (others or has_unknown):
        other = others[0] if others else "unknown"
        raise ValueError(f"--{RATE} chooses the threshold by a share of the known images alone, and not by --{other}; leave one of them out.")
    if len(stated) > 1:
        raise ValueError("--max_false_acceptance and --max_false_refusal state two errors for one threshold; leave one of them out.")
    if others and not stated:
        raise ValueError(f"--{others[0]} is for a stated error; give --max_false_acceptance or --max_false_refusal too, or leave it out.")
    if stated == ["max_false_acceptance"] and not has_unknown:
        raise ValueError("--max_false_acceptance is about unknown images; give some by --unknown, or state --max_false_refusal instead.")


def check_sets(method: str | None, coverage: float | None, class_conditional: bool | None) -> None:
    """
    Refuse options that say how to fit prediction sets which are removed.

    Args:
        method (`str`, *optional*), coverage (`float`, *optional*), class_conditional (`bool`, *optional*): Those that were given.

    Raises:
        ValueError: By the names of the options.
    """
    if method == "none" and (coverage is not None or class_conditional):
        raise ValueError("--prediction_sets none removes the sets, and --coverage or --class_conditional say how to fit them; leave one out.")
