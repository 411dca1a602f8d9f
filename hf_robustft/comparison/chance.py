# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether chance may have made a rule's choice: what cannot be told from it on the images that the rule looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..data.left_out import LEFT_OUT
from .differences import Differences
from .rules import find_rule
from .runs import Comparison


def chance_of_choice(comparison: Comparison, rule: Mapping[str, Any]) -> dict[str, Any]:
    """
    Compare the choice of a rule with what else it could have chosen, by the metrics and on the sets that it looked at.

    Args:
        comparison ([`Comparison`]): The runs.
        rule (`Mapping`): Of [`choices.rule_of`].

    Returns:
        `dict`: `n`, how many images the rule looked at; `others`, how many candidates it did not choose; `ties`, the labels
        of those that differ from the choice by no more than noise in each metric that it looks at; and, where zero-shot was measured on
        these images and they are not of classes left out, `zero_shot_ties`, whether that does, too, and `zero_shot_is_better`, whether
        it is more accurate there by more than noise.
    """
    looked_at, metrics, n = rule["looked_at"], find_rule(rule["name"], comparison.measure).metrics, 0
    apart: dict[str, bool] = {}
    key = comparison.measure.key
    of_start: dict[str, bool] = {}
    for part in comparison.twins if LEFT_OUT in looked_at else [comparison]:
        measured = {candidate: runs for candidate, runs in part.candidates.items() if all(name in run.sets for run in runs for name in looked_at)}
        of = {candidate.label: runs for candidate, runs in measured.items()}
        chosen = of.pop(rule["chosen"])
        n += sum(chosen[0].measured(name)["n"] for name in looked_at)
        # Whatever their role elsewhere, these are the sets that decide here.
        differences = Differences(part, dict.fromkeys(looked_at, "id"))
        for label, runs in of.items():
            found = differences.against(runs, chosen)["id_mean"]
            apart[label] = apart.get(label, False) or any(found[metric]["beyond_noise"] for metric in metrics)
        start = part.zero_shot
        if LEFT_OUT not in looked_at and start is not None and all(name in start.sets for name in looked_at):
            found = differences.against(chosen, [start])["id_mean"]
            of_start["zero_shot_ties"] = not any(found[metric]["beyond_noise"] for metric in metrics)
            of_start["zero_shot_is_better"] = bool(found[key]["beyond_noise"] and found[key]["mean"] < 0)
    return {"n": n, "others": len(apart), "ties": [label for label, told in apart.items() if not told], **of_start}
