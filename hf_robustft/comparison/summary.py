# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What a comparison found, as one mapping of JSON types: `comparison.json`, the one source of every table, picture and page.

Keys; one about which nothing is known is missing:

- `format` (1), `hf_robustft` (the version), `command`, `hardware` (a list), `seconds` (of the trainings of all runs, twins too), `notes` (sentences).
- `places`: where the command line found the runs, see [`output.places`], by which it tells another comparison from this one.
- `data`: `train` (the entry of the card, or `None`), `classes`, `sets`: a list of `{"name", "role", "n", "n_classes", "groups"}`;
  of a labelled set whose classes are not equally frequent `majority_share`, that of the most frequent one, too;
  `groups` is how many units are drawn in a bootstrap, of `left_out_classes` over all folds, `None` where each image is its own.
- `decided_on`: `"shift_mean"`, or `"id_mean"` where no shift was measured.
- `measure`: `"map"` where images have lists of labels. Then `map` stands wherever `accuracy` is named below, and `f1` in place of `brier`, and
  nothing is said of open sets, bins of confidence and single images. Missing where candidates are compared by accuracy.
- `baseline`: the zero-shot model, as a candidate without a rate; `None` if it was not measured.
- `candidates`: a list, methods as they came and rates ascending, of
  `{"method", "method_label", "label", "learning_rate", "variant", "seeds", "folders", "chosen_by_rule"}`;
  `chosen_by_rule` is whether it is the rule's choice among the rates of its method, and
  - `sets`: by set `{"n", "accuracy", "nll", "ece", "ece_noise_floor", "brier"}`, each metric as `{"mean", "sd"}` over seeds
    (`sd` is `None` for one seed); the validation set is among them where predictions were kept, and `left_out_classes`, of the role
    `concepts`, where there are twins: what those reach on the classes that they were not trained on, see [`concepts`];
  - `id_mean`, `shift_mean`: the same metrics, averaged over the sets of that role; `None` without one;
  - `open_set`: by set of unseen classes and score `{"auroc", "fpr95", "shifts_auroc", "shifts_fpr95", "shifts_accepted"}`;
  - `against_zero_shot`, `against_flyp`, `against_winner`: by set (validation too, where both kept predictions), or `shift_mean` and `id_mean`, and metric, a paired difference
    `{"mean", "se", "low", "high", "beyond_noise"}`: the candidate less the other. `se`, `low`, `high` and `beyond_noise` are
    `None` where nothing says how far chance moves it. FLYP is that at the same rate.
- `rule`: the one that has chosen, `{"name", "says", "looked_at", "grid" (rates by method_label), "seeds", "chosen" (a label), "chance", "tied", "without_gain"}`; `None`
  where nothing was measured that a rule may look at. Of `concepts` grid and seeds are those of the twins. `chance` is what cannot be
  told from the choice by what the rule looked at, `{"n" (images), "others", "ties" (labels), "zero_shot_ties", "zero_shot_is_better"}`,
  see [`chance`]; `tied` are the labels of what other methods have that is as good there, between which the lower NLL decided; `without_gain` is
  whether no candidate gains over zero-shot there, so that `id_within` had no share of a gain to keep, and took the best.
- `choices`: what each rule would choose, by its name, see [`choices.choices`]. `oracle` looks at what is reported: a bound, not a
  result (`is_bound`).
- `frontier`: by `method_label` points `[ID accuracy, shift accuracy, shift NLL, rate]`; `curves`: by label points
  `[ID accuracy, shift accuracy, alpha]` between zero-shot and fine-tuned weights.
- `equal_id`: at some accuracies in distribution `{"id", "accuracy", "nll", "auroc"}`, by `method_label` what is reached under shift.
- `spread_over_rates`: by `method_label` `{"rates", "accuracy", "nll"}`, the greatest less the smallest mean over shifts.
- `winner`: `{"candidate" (a label), "chosen_by" (a rule, or None), "is_clear", "ties", "better" (labels), "zero_shot_is_better",
  "words"}`. It is clear if it is ahead of zero-shot, and of every other candidate, by more than noise.
- Of what the rule chose among the rates of each method, or of each method's highest candidate, where predictions were kept:
  `per_class` (by label the classes of the sets decided on, `{"name", "n", "units", "before", "after", "difference"}` against zero-shot),
  `forgotten` (by label what fell beyond noise: `sets` and `classes` as before, `judged`, `by_chance`) and `risk_coverage` (by label,
  zero-shot too, and set `{"coverage", "risk", "aurc"}`), `score_choice` (by label, zero-shot too, and set of unseen classes: the
  open-set score chosen on one half of the classes, and its AUROC on the other, see [`unknown.choose_score`]); `worst_mistakes`: a list of `{"set", "row", "label", "predicted",
  "confidence", "group"}` of the winner, from each set decided on; `no_pictures`, why the page shows none of some, a sentence.
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
from ..data.left_out import LEFT_OUT
from ..evaluation.open_set import shift_mean
from ..evaluation.report import no_number
from ..files import settle, write_whole
from ..publishing.text import one_line, public_command
from .chance import chance_of_choice
from .choices import at_equal_ids, choices, curves, lines, rule_of, spread, usable_rule
from .details import details
from .differences import MEANS, Differences, kept
from .measures import ACCURACY, Measure
from .rules import CONCEPTS, PLACES, find_rule, reported
from .runs import ZERO_SHOT, Candidate, Comparison, FinishedRun
from .statistics import grouped, mean_and_sd
from .summary_schema import check_summary
from .winner import find_winner

FORMAT = 1
COMPARISON_FILE = "comparison.json"


def summarise(comparison: Comparison, rule: str | None = None, command: str | None = None) -> dict[str, Any]:
    """
    Summarise a comparison.

    Args:
        comparison ([`Comparison`]): Of [`read_runs`].
        rule (`str`, *optional*): By which a candidate is chosen, a name of `rules.RULES` or `shift:<set>`. By default
            `concepts` where runs have twins, else `id_within` or `id`, where validation images were measured; else the highest
            candidate is named, and that no rule chose it.
        command (`str`, *optional*): That made the comparison.

    Returns:
        `dict[str, Any]`: See this module's docstring.

    Raises:
        ValueError: If the rule is unknown, or looks at a set that was not measured, or at the only one to report.
    """
    candidates, zero_shot, measure = comparison.candidates, comparison.zero_shot, comparison.measure
    rule = usable_rule(comparison) if rule is None else rule
    chosen = None if rule is None else rule_of(rule, comparison)
    sets = comparison.sets if chosen is None else reported(find_rule(rule, measure), comparison.sets, chosen["looked_at"])
    roles = {mean: [name for name, role in sets.items() if role == of] for mean, of in MEANS.items()}
    decided_on = "shift_mean" if roles["shift_mean"] else "id_mean"
    cards = [run.facts.get("card") or {} for run in (*comparison.runs, *(twin for fold in comparison.twins for twin in fold.runs))]
    summary = {
        "format": FORMAT,
        "hf_robustft": __version__,
        "command": None if command is None else public_command(command),
        "hardware": list(dict.fromkeys(card["hardware"] for card in cards if card.get("hardware"))),
        "seconds": sum(card.get("wall_seconds") or 0.0 for card in cards),
        "notes": list(comparison.notes),
        "data": _data(comparison, sets),
        "decided_on": decided_on,
        **({} if measure is ACCURACY else {"measure": measure.key}),
        "rule": chosen,
        "baseline": None if zero_shot is None else {"label": ZERO_SHOT.label, **_numbers([zero_shot], sets, measure)},
        "candidates": [{**_named(candidate, runs), **_numbers(runs, sets, measure)} for candidate, runs in candidates.items()],
    }
    for row, candidate in ((summary["baseline"], ZERO_SHOT), *zip(summary["candidates"], candidates, strict=True)):
        if row is not None and (of_twins := _of_twins(comparison, candidate)):
            row["sets"][LEFT_OUT] = of_twins
    differences = Differences(comparison, sets)
    # Of several with the same rate that without a variant.
    of_flyp = sorted((candidate for candidate in candidates if candidate.method == "flyp"), key=lambda candidate: -len(candidate.variant))
    flyp = {candidate.learning_rate: candidates[candidate] for candidate in of_flyp}
    for row, (candidate, runs) in zip(summary["candidates"], candidates.items(), strict=True):
        if zero_shot is not None:
            row["against_zero_shot"] = differences.against(runs, [zero_shot])
        if candidate.method != "flyp" and candidate.learning_rate in flyp:
            row["against_flyp"] = differences.against(runs, flyp[candidate.learning_rate])
    best = _highest(summary["candidates"], decided_on, measure) if chosen is None else chosen["chosen"]
    of_best = next(runs for candidate, runs in candidates.items() if candidate.label == best)
    for row, runs in zip(summary["candidates"], candidates.values(), strict=True):
        if runs is not of_best:
            row["against_winner"] = differences.against(runs, of_best)
        row["chosen_by_rule"] = chosen is not None and row["label"] in chosen["by_method"].values()
    if chosen is not None and not find_rule(rule, measure).is_bound:
        chosen["chance"] = chance_of_choice(comparison, chosen)
    summary["choices"] = choices(comparison)
    summary["frontier"], summary["curves"] = lines(summary["candidates"], measure), curves(comparison, sets)
    summary["equal_id"] = at_equal_ids(summary["candidates"], measure)
    summary["spread_over_rates"] = spread(comparison, sets)
    summary["winner"] = find_winner(summary, best, None if chosen is None or find_rule(rule, measure).is_bound else rule)
    shown = (
        [row["label"] for row in summary["candidates"] if row["chosen_by_rule"] or row["label"] == best]
        if chosen
        else _best_of_methods(summary, measure)
    )
    if measure.of_lists:
        return summary
    summary["reliability"] = _reliability(comparison, sets)
    return summary | details(comparison, sets, shown, best, decided_on)


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
        ValueError: If it is not one of ours, or a value in it cannot be what it is called.
    """
    path = Path(path)
    path = path / COMPARISON_FILE if path.is_dir() else path
    settle(path.parent)
    if not path.is_file():
        raise FileNotFoundError(f"There is no comparison at {path}; `hf-robustft compare` writes one.")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"), parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({one_line(error)}); compare the folders again.") from None
    version = summary.get("format") if isinstance(summary, dict) else None
    if version != FORMAT:
        raise ValueError(
            f"{path} has the format {version!r}, but this version reads {FORMAT}; compare the folders again."
        )
    try:
        check_summary(summary)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return summary


def _data(comparison: Comparison, sets: Mapping[str, str]) -> dict[str, Any]:
    first = comparison.runs[0]
    card = first.facts.get("card") or {}
    entries = {entry["name"]: entry for entry in card.get("sets", ())}
    rows = []
    for name, role in sets.items():
        images = first.report.open_set[name] if role == "open_set" else next(run for run in comparison.runs if name in run.sets).measured(name)
        groups = _groups(comparison.runs, name)
        images = (first.report.multi_label or {}).get(name, images)
        # An open set of pictures has no classes.
        n_classes = images.get("n_classes", entries.get(name, {}).get("n_classes")) or None
        frequent = (images.get("predictions") or {}).get("majority_share", 0.0) if role in MEANS.values() else 0.0
        more = {"majority_share": frequent} if n_classes and frequent > 1 / n_classes else {}
        rows.append({"name": name, "role": role, "n": images["n"], "n_classes": n_classes, "groups": groups, **more})
    if comparison.twins:
        n = sum(fold.runs[0].measured(LEFT_OUT)["n"] for fold in comparison.twins)
        n_classes = len({name for fold in comparison.twins for name in fold.runs[0].facts[LEFT_OUT]["classes"]})
        groups = [_groups(fold.runs, LEFT_OUT) for fold in comparison.twins]
        rows.append({"name": LEFT_OUT, "role": CONCEPTS, "n": n, "n_classes": n_classes, "groups": None if None in groups else sum(groups)})
    train = next((entry for entry in entries.values() if entry.get("role") == "train"), None)
    return {"train": train, "classes": len(first.facts.get("class_names", ())), "sets": rows}


def _groups(runs: Sequence[FinishedRun], name: str) -> int | None:
    """Into how many groups the images of a set fall, by predictions or, where none were kept, by reports; `None` where each is its own."""
    known = [run.predictions.sets[name] for run in runs if kept(run, [name])]
    if known and (group := grouped(known).group) is not None:
        return len(np.unique(group))
    reported = [run.report.results.get(name) for run in runs]
    others = [(of or {}).get(name, {}).get("n_groups") for run in runs for of in (run.report.multi_label, run.report.open_set)]
    return next(filter(None, [*(item.n_groups for item in reported if item is not None), *others]), None)


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
    return dict(zip(("mean", "sd"), mean_and_sd(values), strict=True))


def _numbers(runs: Sequence[FinishedRun], sets: Mapping[str, str], measure: Measure) -> dict[str, Any]:
    """What runs of a candidate reach: of each set, of the means over sets, and of open sets."""
    found: dict[str, Any] = {"sets": {}}
    for name, role in sets.items():
        if role != "open_set" and all(name in run.sets for run in runs):
            results = [run.measured(name) for run in runs]
            metrics = [metric for metric in (*measure.metrics, "ece_noise_floor") if metric in results[0]]
            spreads = {metric: _spread([result[metric] for result in results]) for metric in metrics}
            found["sets"][name] = {"n": results[0]["n"], **spreads}
    for mean, of in MEANS.items():
        names = [name for name, role in sets.items() if role == of]
        values = (
            {metric: [np.mean([run.measured(name)[metric] for name in names]) for run in runs] for metric in measure.metrics}
            if names
            else {}
        )
        found[mean] = {metric: _spread(each) for metric, each in values.items()} or None
    found["open_set"] = {
        name: _open_set([run.report.open_set[name] for run in runs], [name for name, role in sets.items() if role == "shift"])
        for name, role in sets.items()
        if role == "open_set"
    }
    return found


def _of_twins(comparison: Comparison, candidate: Candidate) -> dict[str, Any] | None:
    """What the twins of a candidate reach on the classes that they were not trained on: a mean over folds of means over seeds."""
    every = [[fold.zero_shot] if candidate == ZERO_SHOT else fold.candidates.get(candidate, [None]) for fold in comparison.twins]
    if not every or None in (run for runs in every for run in runs):
        return None
    results = [[run.measured(LEFT_OUT) for run in runs] for runs in every]
    spreads = {metric: [_spread([item[metric] for item in fold]) for fold in results] for metric in comparison.measure.metrics}
    found = {metric: of[0] if len(of) == 1 else {"mean": float(np.mean([item["mean"] for item in of])), "sd": None} for metric, of in spreads.items()}
    return {"n": sum(fold[0]["n"] for fold in results), **found}


def _open_set(results: Sequence[Mapping], shifts: Sequence[str]) -> dict[str, Any]:
    scores = [score for score in results[0]["scores"] if all(score in result["scores"] for result in results)]
    found = {}
    for score in scores:
        rows = [result["scores"][score] for result in results]
        # A run may have been measured on more of them than the others.
        same = [name for name in shifts if all(name in row["shifts"] for row in rows)]
        each = [
            {key: row[key] for key in ("auroc", "fpr95")}
            | {f"shifts_{key}": value for key, value in shift_mean({"shifts": {name: row["shifts"][name] for name in same}}).items()}
            for row in rows
        ]
        found[score] = {key: _spread([item[key] for item in each]) for key in each[0]}
    return found


def _reliability(comparison: Comparison, sets: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    runs = {} if comparison.zero_shot is None else {ZERO_SHOT.label: comparison.zero_shot}
    runs |= {candidate.label: of[0] for candidate, of in comparison.candidates.items()}
    tested = [name for name, role in sets.items() if role in MEANS.values()]
    return {label: {name: run.report.results[name].reliability for name in tested} for label, run in runs.items()}


def _best_of_methods(summary: Mapping[str, Any], measure: Measure) -> list[str]:
    methods: dict[str, list[Mapping]] = {}
    for row in summary["candidates"]:
        methods.setdefault(row["method_label"], []).append(row)
    return [_highest(rows, summary["decided_on"], measure) for rows in methods.values()]


def _highest(rows: Sequence[Mapping], decided_on: str, measure: Measure) -> str:
    return max(rows, key=lambda row: round(row[decided_on][measure.key]["mean"], PLACES))["label"]
