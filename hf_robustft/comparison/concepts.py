# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What the rule `concepts` looks at: each candidate has a twin, trained with the same settings on a part of the classes and
measured on the others. `read_runs` finds the twins among the folders that it is given, and `hf-robustft compare --rule concepts`
trains them.

>>> flags = twin_flags()  # for `hf-robustft train`, beside the candidate's own flags; no test sets are given
>>> candidates, roles, baseline = with_concepts(candidates, roles, baseline, read_runs(twin_folders))
>>> choose("concepts", candidates, roles, baseline)
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from ..data.left_out import LEFT_OUT
from .measures import ACCURACY
from .rules import CONCEPTS, Candidates, Measured
from .runs import ZERO_SHOT, Candidate, Comparison, FinishedRun


def twin_flags(share: float = 0.2, fold: int = 0) -> list[str]:
    """
    The flags of `hf-robustft train` that make a run the twin of another. A twin is given no evaluation set but that for
    validation.

    Args:
        share (`float`, *optional*, defaults to 0.2), fold (`int`, *optional*, defaults to 0): Which classes are left out, as for
            [`data.left_out.left_out_positions`].
    """
    return ["--leave_out_classes", f"{share:g}", "--leave_out_fold", str(fold)]


def is_twin(run: FinishedRun) -> bool:
    """Whether a `run` was trained on a part of the classes."""
    return run.fold is not None


def with_concepts(
    candidates: Candidates, roles: Mapping[str, str], baseline: Measured | None, *twins: Comparison
) -> tuple[Candidates, dict[str, str], Measured | None]:
    """
    Give candidates what was measured of their twins, as a set with the role `concepts`.

    Args:
        candidates (`Mapping`), roles (`Mapping[str, str]`), baseline (`Mapping`, *optional*): As for [`selection.choose`].
        twins ([`Comparison`]): Of the twins, one for each fold; means over folds are taken.

    Returns:
        `tuple`: The same three with the set `left_out_classes`.

    Raises:
        ValueError: If a candidate has no twin in one of the folds.
    """

    def measured(candidate: Candidate) -> dict[str, float]:
        numbers = [comparison.measured(candidate)[LEFT_OUT] for comparison in twins]
        return {metric: fmean(of[metric] for of in numbers) for metric in ACCURACY.metrics}

    without = [item.label for item in candidates for comparison in twins if item not in comparison.candidates]
    if without or not twins:
        raise ValueError(
            f"The rule {CONCEPTS!r} looks at runs that leave classes out, and there is none of "
            f"{', '.join(dict.fromkeys(without)) or 'any candidate'}; train them with {' '.join(twin_flags())}."
        )
    found = {item: {**sets, LEFT_OUT: measured(item)} for item, sets in candidates.items()}
    start = baseline
    if baseline is not None and all(comparison.zero_shot is not None for comparison in twins):
        start = {**baseline, LEFT_OUT: measured(ZERO_SHOT)}
    return found, {**roles, LEFT_OUT: CONCEPTS}, start
