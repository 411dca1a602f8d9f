# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What a comparison found, as one mapping of JSON types: `comparison.json`, the one source of every table, picture and page.

Keys, of which those are missing that nothing is known of:

- `format` (1), `hf_robustft` (the version), `command`, `hardware` (a list), `seconds` (of all runs), `notes` (sentences).
- `data`: `train` (the entry of the card, or `None`), `classes`, `sets`: a list of `{"name", "role", "n", "n_classes", "groups"}`;
  `groups` is how many units are drawn in a bootstrap, `None` where each image is its own.
- `decided_on`: `"shift_mean"`, or `"id_mean"` where no shift was measured.
- `baseline`: the zero-shot model, as a candidate without a rate; `None` if it was not measured.
- `candidates`: a list, methods as they came and rates ascending, of
  `{"method", "method_label", "label", "learning_rate", "variant", "seeds", "folders", "chosen_by_rule"}`, and
  - `sets`: by set `{"n", "accuracy", "nll", "ece", "ece_noise_floor", "brier"}`, each metric as `{"mean", "sd"}` over seeds
    (`sd` is `None` for one seed); the validation set is among them where predictions were kept;
  - `id_mean`, `shift_mean`: the same metrics, averaged over the sets of that role; `None` without one;
  - `open_set`: by set of unseen classes and score `{"auroc", "fpr95", "shifts_auroc", "shifts_fpr95", "shifts_accepted"}`;
  - `against_zero_shot`, `against_flyp`, `against_winner`: by set, or `shift_mean` and `id_mean`, and metric, a paired difference
    `{"mean", "se", "low", "high", "beyond_noise"}`: the candidate less the other. `se`, `low`, `high` and `beyond_noise` are
    `None` where nothing says how far chance moves it. FLYP is that at the same rate.
- `winner`: `{"candidate" (a label), "chosen_by" (a rule, or None), "is_clear", "ties" (labels), "words"}`. It is clear if it is
  ahead of zero-shot, and of every other candidate, by more than noise.
- `reliability`: by label (`"zero-shot"` for the baseline) and set, the bins of the first seed.

Rates, accuracies and errors of calibration are fractions, NLL is in nats.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..evaluation.open_set import shift_mean
from ..modeling.files import write_whole
from ..publishing.text import one_line, public_command
from .runs import METRICS, ZERO_SHOT, Candidate, Comparison, FinishedRun
from .winner import find_winner

FORMAT = 1
COMPARISON_FILE = "comparison.json"
#: Means over the sets of a role.
MEANS = {"id_mean": "id", "shift_mean": "shift"}
_Z = 1.959964


def summarise(comparison: Comparison, rule: str | None = None, command: str | None = None) -> dict[str, Any]:
    """
    Summarise a comparison.

    Args:
        comparison ([`Comparison`]): Of [`read_runs`].
        rule (`str`, *optional*): By which a candidate is chosen, a name of `selection.RULES`.
        command (`str`, *optional*): That made the comparison.

    Returns:
        `dict[str, Any]`: See this module's docstring.

    Raises:
        ValueError: If the rule is unknown, or looks at a set that was not measured.
    """
    sets, candidates, zero_shot = comparison.sets, comparison.candidates, comparison.zero_shot
    roles = {mean: [name for name, role in sets.items() if role == of] for mean, of in MEANS.items()}
    decided_on = "shift_mean" if roles["shift_mean"] else "id_mean"
    cards = [run.facts.get("card") or {} for run in comparison.runs]
    summary = {
        "format": FORMAT,
        "hf_robustft": __version__,
        "command": None if command is None else public_command(command),
        "hardware": list(dict.fromkeys(card["hardware"] for card in cards if card.get("hardware"))),
        "seconds": sum(card.get("wall_seconds") or 0.0 for card in cards),
        "notes": list(comparison.notes),
        "data": _data(comparison),
        "decided_on": decided_on,
        "baseline": None if zero_shot is None else {"label": ZERO_SHOT.label, **_numbers([zero_shot], sets)},
        "candidates": [{**_named(candidate, runs), **_numbers(runs, sets)} for candidate, runs in candidates.items()],
    }
    flyp = {candidate.learning_rate: runs for candidate, runs in candidates.items() if candidate.method == "flyp"}
    for row, (candidate, runs) in zip(summary["candidates"], candidates.items(), strict=True):
        if zero_shot is not None:
            row["against_zero_shot"] = _against(runs, [zero_shot], sets)
        if candidate.method != "flyp" and candidate.learning_rate in flyp:
            row["against_flyp"] = _against(runs, flyp[candidate.learning_rate], sets)
    best = _highest(summary["candidates"], decided_on)
    of_best = next(runs for candidate, runs in candidates.items() if candidate.label == best)
    for row, runs in zip(summary["candidates"], candidates.values(), strict=True):
        if runs is not of_best:
            row["against_winner"] = _against(runs, of_best, sets)
    summary["winner"] = find_winner(summary, best, None)
    shown = {ZERO_SHOT.label: zero_shot} if zero_shot is not None else {}
    shown |= {candidate.label: runs[0] for candidate, runs in candidates.items()}
    closed = [name for name, role in sets.items() if role in MEANS.values()]
    summary["reliability"] = {
        label: {name: run.report.results[name].reliability for name in closed} for label, run in shown.items()
    }
    return summary


def save_comparison(summary: Mapping[str, Any], path: str | Path) -> Path:
    """Write a `summary` of [`summarise`] as JSON to `path`, and return it. Raises ValueError if a number is not finite."""
    try:
        text = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"The comparison cannot be written to {path}: a number is not finite ({error}).") from None
    return write_whole(path, text + "\n")


def load_comparison(path: str | Path) -> dict[str, Any]:
    """
    Read a `comparison.json`, from which tables and page can be made again.

    Args:
        path (`str` or `Path`): The file, or the folder that it is in.

    Returns:
        `dict[str, Any]`: The summary.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not one of ours.
    """
    path = Path(path)
    path = path / COMPARISON_FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no comparison at {path}; `hf-robustft compare` writes one.")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({one_line(error)}); compare the folders again.") from None
    version = summary.get("format") if isinstance(summary, dict) else None
    if version != FORMAT:
        raise ValueError(
            f"{path} has the format {version!r}, but this version reads {FORMAT}; compare the folders again."
        )
    missing = [name for name in ("data", "decided_on", "candidates", "winner") if name not in summary]
    if missing:
        raise ValueError(f"{path} has no {missing[0]!r}; compare the folders again.")
    return summary


def _data(comparison: Comparison) -> dict[str, Any]:
    first = comparison.runs[0]
    card = first.facts.get("card") or {}
    entries = {entry["name"]: entry for entry in card.get("sets", ())}
    rows = []
    for name, role in comparison.sets.items():
        result, unseen = first.report.results.get(name), (first.report.open_set or {}).get(name, {})
        row = {"name": name, "role": role, "n": unseen.get("n") if result is None else result.n}
        row["n_classes"] = entries.get(name, {}).get("n_classes") if result is None else result.n_classes
        rows.append(row)
    train = next((entry for entry in entries.values() if entry.get("role") == "train"), None)
    return {"train": train, "classes": len(first.facts.get("class_names", ())), "sets": rows}


def _named(candidate: Candidate, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    return {
        "method": candidate.method,
        "method_label": candidate.method_label,
        "label": candidate.label,
        "learning_rate": candidate.learning_rate,
        "variant": candidate.variant,
        "seeds": [run.seed for run in runs],
        "folders": [run.folder.name for run in runs],
        "chosen_by_rule": False,
    }


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def _numbers(runs: Sequence[FinishedRun], sets: Mapping[str, str]) -> dict[str, Any]:
    """What runs of a candidate reach: of each set, of the means over sets, and of open sets."""
    found: dict[str, Any] = {"sets": {}}
    for name, role in sets.items():
        if role != "open_set":
            results = [run.measured(name) for run in runs]
            metrics = [metric for metric in (*METRICS, "ece_noise_floor") if metric in results[0]]
            spreads = {metric: _spread([result[metric] for result in results]) for metric in metrics}
            found["sets"][name] = {"n": results[0]["n"], **spreads}
    for mean, of in MEANS.items():
        names = [name for name, role in sets.items() if role == of]
        values = (
            {metric: [np.mean([run.measured(name)[metric] for name in names]) for run in runs] for metric in METRICS}
            if names
            else {}
        )
        found[mean] = {metric: _spread(each) for metric, each in values.items()} or None
    found["open_set"] = {
        name: _open_set([run.report.open_set[name] for run in runs])
        for name, role in sets.items()
        if role == "open_set"
    }
    return found


def _open_set(results: Sequence[Mapping]) -> dict[str, Any]:
    scores = [score for score in results[0]["scores"] if all(score in result["scores"] for result in results)]
    found = {}
    for score in scores:
        rows = [result["scores"][score] for result in results]
        each = [
            {key: row[key] for key in ("auroc", "fpr95")}
            | {f"shifts_{key}": value for key, value in shift_mean(row).items()}
            for row in rows
        ]
        found[score] = {key: _spread([item[key] for item in each]) for key in each[0]}
    return found


def _against(
    runs: Sequence[FinishedRun], others: Sequence[FinishedRun], sets: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """The paired differences of two candidates, by set or mean, and metric."""
    groups = {name: [name] for name, role in sets.items() if role in MEANS.values()}
    groups |= {
        mean: names for mean, of in MEANS.items() if (names := [name for name, role in sets.items() if role == of])
    }
    return {
        group: {metric: _difference(runs, others, names, metric) for metric in METRICS}
        for group, names in groups.items()
    }


def _difference(
    runs: Sequence[FinishedRun], others: Sequence[FinishedRun], names: Sequence[str], metric: str
) -> dict[str, Any]:
    """
    The difference of a metric's mean over sets, and how far the choice of images and seeds moves it.

    The bootstrap samples that reports keep are of the same images in all runs, so their differences are paired.
    """
    means = [
        [float(np.mean([run.measured(name)[metric] for name in names])) for run in side] for side in (runs, others)
    ]
    mean = float(np.mean(means[0]) - np.mean(means[1]))
    found = {"mean": mean, "se": None, "low": None, "high": None, "beyond_noise": None}
    draws = [[_draws(run, names, metric) for run in side] for side in (runs, others)]
    flat = [item for side in draws for item in side]
    if all(item is not None and item.shape == flat[0].shape for item in flat):
        variance = np.var(np.mean(draws[0], axis=0) - np.mean(draws[1], axis=0), ddof=1)
        variance += sum(np.var(side, ddof=1) / len(side) for side in means if len(side) > 1)
        found["se"] = se = float(np.sqrt(variance))
        found |= {"low": mean - _Z * se, "high": mean + _Z * se, "beyond_noise": abs(mean) > _Z * se}
    return found


def _draws(run: FinishedRun, names: Sequence[str], metric: str) -> np.ndarray | None:
    each = [(run.report.results[name].draws or {}).get(metric) for name in names]
    if any(item is None or len(item) != len(each[0]) for item in each):
        return None
    return np.mean(each, axis=0)


def _highest(rows: Sequence[Mapping], decided_on: str) -> str:
    return max(rows, key=lambda row: row[decided_on]["accuracy"]["mean"])["label"]
