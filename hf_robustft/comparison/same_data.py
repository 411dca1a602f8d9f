# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether runs were trained and measured on the same data, and what is not compared because it was not measured in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.findings import listed
from ..evaluation.list_predictions import ListPredictions
from ..evaluation.predictions import PREDICTIONS_FILE, Predictions
from ..evaluation.report import EvaluationReport
from ..evaluation.tables import unreadable_line
from ..publishing.claim_noise import OF_AN_ERROR, share_of_ties
from ..publishing.run_folder import EVALUATION_FILE
from .variants import flag_of

if TYPE_CHECKING:
    from .runs import Comparison, FinishedRun


def check_data(runs: Sequence[FinishedRun]) -> None:
    """Refuse `runs` of which two differ in their data, or in the model that they start from. Raises ValueError then."""
    # Each with each: what one does not record, such as its training images, hides nothing of two others.
    for one, two in combinations(runs, 2):
        if differing := _differences(one, two):
            raise ValueError(f"{one.folder} and {two.folder} cannot be compared: they differ in {listed(differing)}; give runs on the same data.")


def check_predictions(folder: Path, predictions: Predictions, report: EvaluationReport) -> None:
    """Refuse `predictions` in a `folder` whose numbers are not those of its `report`. Raises ValueError then."""
    for name, row in (report.multi_label or {}).items():
        if isinstance(item := predictions.sets.get(name), ListPredictions):
            # Where no image has a label there is nothing to compare, and the set is left out.
            keys = ("map", "f1", "ece") if item.label.any() else ()
            found = item.metrics(report.settings.get("n_bins", 15)) if keys else {}
            known = len(item) == row["n"] and all((row[key] is not None) == bool(keys) for key in ("map", "f1"))
            if not known or not np.allclose([found[key] for key in keys], [row[key] for key in keys], rtol=1e-6, atol=1e-9):
                raise ValueError(
                    f"{folder} cannot be compared: its logits are not of the model that {EVALUATION_FILE} measured ({name} differs); make the "
                    "run again with --save_logits."
                )
    for name, result in report.results.items():
        item = predictions.sets.get(name)
        if item is None or item.label is None:
            continue
        found = (len(item), float(item.correct.mean()), float(item.nll.mean()))
        if not np.allclose(found, (result.n, result.accuracy, result.nll), rtol=1e-6, atol=1e-9):
            raise ValueError(
                f"{folder} cannot be compared: its {PREDICTIONS_FILE} is not of the model that {EVALUATION_FILE} measured ({name} differs), "
                f"as after `hf-robustft calibrate`; delete {PREDICTIONS_FILE}, or make the run again."
            )


def check_twins(run: FinishedRun, twins: Sequence[FinishedRun]) -> None:
    """Refuse `twins` that start elsewhere than a `run`, or whose classes and those that they leave out are not all of its own. Raises ValueError then."""
    names = run.facts["class_names"]
    for twin in twins:
        whole = {*twin.facts["class_names"], *twin.facts["left_out_classes"]["classes"]} == set(names)
        # Its images are fewer, and of another set.
        changes = {"class_names": names if whole else twin.facts["class_names"], "image_hashes": ()}
        check_data([run, replace(twin, facts=twin.facts | changes)])


def _differences(one: FinishedRun, two: FinishedRun) -> list[str]:
    differing = [
        words
        for words, key in (("the classes", "class_names"), ("the prompts", "templates"))
        if one.facts.get(key) != two.facts.get(key)
    ]
    bases, commits = ([(run.facts.get("card") or {}).get(key) for run in (one, two)] for key in ("base_model", "base_model_revision"))
    if all(bases) and bases[0] != bases[1]:
        differing.append(f"the model they start from ({bases[0]} and {bases[1]})")
    elif all(commits) and commits[0] != commits[1]:
        differing.append(f"the commit of the model they start from ({commits[0]} and {commits[1]})")
    elif (found := _other_start(one, two)) is not None:
        # Of a folder the record has the name alone, which two may share.
        differing.append(f"the model they start from, or how it reads images (before training {found})")
    read = [[run.report.settings.get(key) for key in ("image_size", "image_resampling")] for run in (one, two)]
    if not any(None in of for of in read) and read[0] != read[1]:
        differing.append(f"how images are prepared (to {' and '.join(f'{size} pixels, {resampling}' for size, resampling in read)})")
    bins = [run.report.settings.get("n_bins", 15) for run in (one, two)]
    if bins[0] != bins[1]:
        differing.append(f"the bins of the ECE ({bins[0]} and {bins[1]})")
    known = [run.facts.get("image_hashes", ()) for run in (one, two)]
    # Of several of one name, the first is that of the run.
    named = [{(entry["name"], entry["role"]): entry["labels"] for entry in reversed(entries) if "labels" in entry} for entries in known]
    relabelled = [key for key in named[0] if named[0][key] != named[1].get(key, named[0][key])]
    trained = [images_of(entries, ("train",)) for entries in known]
    # Few shots are drawn with the seed, as many for each.
    drawn = flag_of(one, "--shots") is not None and flag_of(one, "--shots") == flag_of(two, "--shots") and one.seed != two.seed
    if all(trained) and trained[0] != trained[1] and not drawn:
        differing.append("the training images")
    elif not drawn and any(role == "train" for _, role in relabelled):
        differing.append("the labels of the training images")
    images = [images_of(entries, ("id", "shift", "validation", "open_set")) for entries in known]
    lists = [{name: list(row["classes"]) for name, row in (run.report.multi_label or {}).items()} for run in (one, two)]
    differing += [f"the classes of {name}" for name in sorted(set(lists[0]) & set(lists[1])) if lists[0][name] != lists[1][name]]
    sets = [run.sets for run in (one, two)]
    for name in sorted(set(images[0]) & set(images[1]) | set(sets[0]) & set(sets[1])):
        hashes, counts = [of.get(name) for of in images], [_count(run, name) for run in (one, two)]
        if sets[0].get(name, "") != sets[1].get(name, "") and all(name in known for known in sets):
            differing.append(f"the role of {name} ({sets[0][name]} and {sets[1][name]})")
        elif (all(hashes) and hashes[0] != hashes[1]) or (None not in counts and counts[0] != counts[1]):
            differing.append(f"the images of {name}")
        elif any(of == name and role != "train" for of, role in relabelled):
            differing.append(f"the labels of {name}")
        elif None not in (groups := [_groups(run, name) for run in (one, two)]) and groups[0] != groups[1]:
            differing.append(f"the groups of {name}, of which there are {groups[0]} and {groups[1]}")
    return differing


def _other_start(one: FinishedRun, two: FinishedRun) -> str | None:
    """
    In words where two runs have measured other numbers before their training; `None` if they have not, or one did not measure there.

    Other versions of the same code may move a number by half of its standard error, as in [`publishing.claim_noise`].
    """
    starts = [(run.report if run.candidate.method == "zero_shot" else run.baseline) for run in (one, two)]
    if None in starts:
        return None
    for name, result in starts[0].results.items():
        other = starts[1].results.get(name)
        if other is None or other.n != result.n:
            continue
        room = max(OF_AN_ERROR * result.accuracy_se, share_of_ties(result.n)) + 1e-9
        if abs(result.accuracy - other.accuracy) > room:
            return f"{100 * result.accuracy:.1f} and {100 * other.accuracy:.1f} % of {name} were right"
        if abs(result.nll - other.nll) > max(OF_AN_ERROR * result.nll_se, 1e-3 * result.nll) + 1e-9:
            return f"the NLL on {name} was {result.nll:.3f} and {other.nll:.3f}"
    return None


def images_of(entries: Iterable[Mapping[str, Any]], roles: Sequence[str]) -> dict[str, tuple]:
    """
    By name fingerprints of the images of each set that has one of these `roles`, from the `entries` of `robustft.json`; of several of one
    name, as what the model was trained on before may have that of the training set, all of them.
    """
    found: dict[str, tuple] = {}
    for entry in entries:
        if entry["role"] in roles:
            found[entry["name"]] = (*found.get(entry["name"], ()), (entry.get("images"), entry["read"], entry["blake2b_48"]))
    return found


def _count(run: FinishedRun, name: str) -> int | None:
    if name in run.report.results:
        return run.report.results[name].n
    if name in (run.report.multi_label or {}):
        return run.report.multi_label[name]["n"]
    return (run.report.open_set or {}).get(name, {}).get("n")


def _groups(run: FinishedRun, name: str) -> int | None:
    if name in run.report.results:
        return run.report.results[name].n_groups
    return (run.report.multi_label or {}).get(name, {}).get("n_groups")


def left_out(runs: Sequence[FinishedRun], shared: Mapping[str, str]) -> list[str]:
    """Sentences on the sets of some `runs` that are not among those `shared` by all, or cannot be compared."""
    notes = []
    for name, row in {name: row for run in runs for name, row in (run.report.multi_label or {}).items()}.items():
        if row["map"] is None:
            notes.append(f"{name} is left out: no image of it has a label.")
        elif not runs[0].measure.of_lists:
            notes.append(f"{name} is left out: its images have lists of labels, and what is compared was measured on one label per image, too.")
    for name, role in {name: role for run in runs for name, role in run.sets.items()}.items():
        if name in shared:
            continue
        without = _folders(run for run in runs if name not in run.sets and not (role == "validation" and _is_baseline(run)))
        # The report has validation images with lists of labels, as it has others.
        kept = role == "validation" and not any(run.measure.of_lists for run in runs)
        notes.append(
            f"{name} is left out: {without} {'kept no predictions of it (--save_predictions)' if kept else 'did not measure it'}."
        )
    return notes


def without_predictions(comparison: Comparison) -> list[str]:
    """Sentences on what is not known of those runs of a `comparison` that kept no predictions, where others did."""
    if comparison.measure.of_lists:
        # Runs on them keep logits, without which they are not compared at all.
        return []
    notes, sets, start = [], comparison.sets, comparison.zero_shot
    for name in (name for name, role in sets.items() if role == "validation"):
        if without := [run for run in comparison.runs if name not in run.sets]:
            labels = [item.label for item, runs in comparison.candidates.items() if any(name not in run.sets for run in runs)]
            notes.append(f"{_folders(without)} kept no predictions of {name} (--save_predictions): rules that look at it do not choose among {listed(labels)}.")
        if start is not None and not _is_baseline(start) and name not in start.sets:
            notes.append(
                f"{_folders([start])} kept no predictions of {name} (--save_predictions): id_within and id_nearest, which ask for the gain over zero-shot "
                "there, do not choose."
            )
    tested = [name for name, role in sets.items() if role in ("id", "shift")]
    runs = [*comparison.runs, *([start] if start is not None and not _is_baseline(start) else [])]
    without = [run for run in runs if run.predictions is None or not all(name in run.predictions.sets for name in tested)]
    if 0 < len(without) < len(runs):
        notes.append(
            f"{_folders(without)} kept no predictions of {listed(tested)} (--save_predictions): differences from others come from the samples in reports, if "
            "any, and classes and single images are not compared."
        )
    return notes


def of_versions(runs: Sequence[FinishedRun]) -> list[str]:
    """A sentence on the versions of this package that made some `runs`, where they are several: what differs may be these."""
    found: dict[str, list[FinishedRun]] = {}
    for run in runs:
        found.setdefault(run.facts.get("hf_robustft") or "unknown", []).append(run)
    told = [f"{version} ({_some_folders(of)})" for version, of in found.items()]
    return [f"Made by several versions of hf_robustft, by which they may differ too: {listed(told)}."] if len(found) > 1 else []


def _some_folders(runs: Sequence[FinishedRun]) -> str:
    names = list(dict.fromkeys(run.folder.name for run in runs))
    return listed([*names[:3], f"{len(names) - 3} more"] if len(names) > 4 else names)


def _is_baseline(run: FinishedRun) -> bool:
    """Whether a `run` is what another one measured before its training, of which no predictions are kept."""
    return run.candidate.method == "zero_shot" != run.facts["method"]


def _folders(runs: Iterable[FinishedRun]) -> str:
    return listed(list(dict.fromkeys(run.folder.name for run in runs)))


def unreadable(runs: Sequence[FinishedRun], shared: Mapping[str, str]) -> list[str]:
    """Sentences on images of the `shared` sets that could not be read; `runs` on the same images leave out the same ones."""
    notes = []
    for name in shared:
        found = [run.report.results[name].unreadable for run in runs if name in run.report.results]
        found += [run.report.open_set[name].get("unreadable") for run in runs if name in (run.report.open_set or {})]
        found += [run.report.multi_label[name].get("unreadable") for run in runs if name in (run.report.multi_label or {})]
        if worst := max(filter(None, found), key=lambda item: item["count"], default=None):
            notes.append(unreadable_line(name, worst))
    return notes
