# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Finished folders as runs of candidates: read, told apart, and refused where they cannot be compared.

>>> comparison = read_runs(["outputs/carot-0", "outputs/carot-1", "outputs/flyp-0"])
>>> [candidate.label for candidate in comparison.candidates]
['CaRot, 1e-3', 'FLYP, 1e-3']
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.messages import one_line
from ..evaluation.findings import listed
from ..evaluation.list_predictions import load_list_predictions
from ..evaluation.predictions import PREDICTIONS_FILE, Predictions, load_predictions
from ..evaluation.report import SWEEP_TABLE, EvaluationReport, load_reports
from ..files import read_csv
from ..modeling.metadata import METADATA_FILE, load_robustft_json
from ..modeling.model_files import reading
from ..objectives.papers import METHOD_FACTS
from ..publishing.run_folder import EVALUATION_FILE, LOGITS
from .measures import ACCURACY, MEAN_PRECISION, Measure
from .same_data import (
    check_data,
    check_predictions,
    check_twins,
    left_out,
    of_versions,
    unreadable,
    without_predictions,
)
from .variants import with_variants

#: Where runs are compared at all.
_TESTS = ("id", "shift")
_ROLES = ("id", "shift", "validation", "train", "open_set")


@dataclass(frozen=True)
class Candidate:
    """
    What is chosen: a method at a learning rate, over all its seeds.

    Attributes:
        method (`str`): Short name, such as `"carot"`.
        learning_rate (`float`, *optional*): `None` for what trains nothing.
        variant (`str`, *optional*, defaults to `""`): Other settings by which it differs from the method's other candidates,
            such as `"alpha 0.5"`.
    """

    method: str
    learning_rate: float | None
    variant: str = ""

    @property
    def method_label(self) -> str:
        """The method, with its variant: `"WiSE-FT (alpha 0.5)"`."""
        label = METHOD_FACTS[self.method].label if self.method in METHOD_FACTS else self.method
        return f"{label} ({self.variant})" if self.variant else label

    @property
    def label(self) -> str:
        """`"CaRot, 3e-4"`."""
        return self.method_label + ("" if self.learning_rate is None else f", {rate_text(self.learning_rate)}")


ZERO_SHOT = Candidate("zero_shot", None)


def rate_text(rate: float) -> str:
    """Return a learning `rate` as people write it, such as "3e-4"."""
    return np.format_float_scientific(float(f"{rate:.3g}"), trim="-", exp_digits=1)


@dataclass
class FinishedRun:
    """
    A finished folder.

    Attributes:
        folder (`Path`): The folder.
        candidate ([`Candidate`]): The method at its rate.
        seed (`int`, *optional*): Of the training; `None` where nothing was trained.
        report ([`EvaluationReport`]): What was measured.
        predictions ([`~evaluation.predictions.Predictions`], *optional*): Of each image, where the run kept them; of lists of labels
            [`~evaluation.list_predictions.ListPredictions`], from its logits.
        baseline ([`EvaluationReport`], *optional*): Of the model that it started from, where that was measured too.
        facts (`dict`): Its `robustft.json`.
        sweep (`dict[float, dict[str, float]]`): By alpha the metrics on the way from zero-shot to fine-tuned weights, where the
            run has varied it.
    """

    folder: Path
    candidate: Candidate
    seed: int | None
    report: EvaluationReport
    predictions: Predictions | None = None
    baseline: EvaluationReport | None = None
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    sweep: dict[float, dict[str, float]] = field(default_factory=dict, repr=False)
    _computed: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    @property
    def fold(self) -> tuple[int, int] | None:
        """Into how many folds the classes fall, and which a twin was not trained on, see [`concepts`]; `None` of any other run."""
        found = self.facts.get("left_out_classes")
        return None if found is None else (round(1 / found["share"]), found["fold"])

    @property
    def measure(self) -> Measure:
        """By what it is compared: mAP where its images have lists of labels."""
        return ACCURACY if self.report.results or not self.report.multi_label else MEAN_PRECISION

    def measured(self, name: str) -> Mapping[str, Any]:
        """The metrics of the set of this `name`, and `n`, its images; those of a validation set come from the predictions."""
        if name in self.report.results:
            return vars(self.report.results[name])
        if name not in self._computed:
            found = self.predictions.sets[name]
            self._computed[name] = {"n": len(found), **found.metrics(self.report.settings.get("n_bins", 15))}
        return self._computed[name]

    @property
    def sets(self) -> dict[str, str]:
        """The role of each set that was measured, as a `dict`: ID, shifts, validation, training images, open sets."""
        found = {name: result.role for name, result in self.report.results.items()}
        lists = self.report.multi_label or {}
        # Of images without any label there is no average precision.
        found |= {name: row["role"] for name, row in lists.items() if self.measure is MEAN_PRECISION and row["map"] is not None}
        found |= dict.fromkeys(self.report.open_set or (), "open_set")
        kept = {} if self.predictions is None else self.predictions.sets
        found |= {name: item.role for name, item in kept.items() if item.role == "validation" and name not in lists}
        return dict(sorted(found.items(), key=lambda item: _ROLES.index(item[1])))


@dataclass
class Comparison:
    """
    Runs that were trained and measured on the same data.

    Attributes:
        runs (`list[FinishedRun]`): Of everything but the zero-shot model.
        zero_shot ([`FinishedRun`], *optional*): The model before fine-tuning.
        notes (`list[str]`): What is left out, in sentences.
        twins (`list[Comparison]`): Of runs with the same settings on a part of the classes, one for each fold, see [`concepts`].
    """

    runs: list[FinishedRun]
    zero_shot: FinishedRun | None = None
    notes: list[str] = field(default_factory=list)
    twins: list[Comparison] = field(default_factory=list)

    @property
    def measure(self) -> Measure:
        """By what candidates are compared."""
        return self.runs[0].measure

    @property
    def candidates(self) -> dict[Candidate, list[FinishedRun]]:
        """The runs of each candidate by seed, as a `dict`; methods as they came, from the smallest rate to the largest."""
        methods = list(dict.fromkeys((run.candidate.method, run.candidate.variant) for run in self.runs))
        found: dict[Candidate, list[FinishedRun]] = {}
        for run in sorted(
            self.runs,
            key=lambda run: (
                methods.index((run.candidate.method, run.candidate.variant)),
                run.candidate.learning_rate or 0.0,
                -1 if run.seed is None else run.seed,
            ),
        ):
            found.setdefault(run.candidate, []).append(run)
        return found

    @property
    def sets(self) -> dict[str, str]:
        """
        The role of each set that all runs were measured on, as a `dict`: ID, shifts, validation, open sets. Of a validation set without lists
        of labels the runs of one candidate are enough: rules choose among those that have it.
        """
        every = [[run.sets for run in runs] for runs in self.candidates.values()]
        # A baseline that a run measured before its training knows of no validation images.
        start = self.runs[0].sets if self.zero_shot is None else self.zero_shot.sets
        found, lists = {name: role for sets in every for of in sets for name, role in of.items()}, self.measure.of_lists
        return {
            name: role
            for name, role in sorted(found.items(), key=lambda item: _ROLES.index(item[1]))
            if (any if role == "validation" and not lists else all)(all(name in of for of in sets) for sets in every) and (name in start or role == "validation")
        }

    def measured(self, candidate: Candidate) -> dict[str, dict[str, float]]:
        """
        Collect what a candidate reaches.

        Args:
            candidate ([`Candidate`]): One of `candidates`, or `ZERO_SHOT`.

        Returns:
            `dict[str, dict[str, float]]`: By set, without open sets: the metrics of its `measure`, means over seeds; and
            `n`, its images.
        """
        start = candidate == ZERO_SHOT and self.zero_shot is not None
        runs = [self.zero_shot] if start else self.candidates[candidate]
        return {
            name: {metric: float(np.mean([run.measured(name)[metric] for run in runs])) for metric in (*self.measure.metrics, "n")}
            for name, role in self.sets.items()
            if role != "open_set" and all(name in run.sets for run in runs)
        }


def read_run(folder: str | Path) -> FinishedRun:
    """
    Read a finished folder.

    Args:
        folder (`str` or `Path`): What `train` or [`finish_checkpoint`] made, with evaluation sets.

    Returns:
        [`FinishedRun`]: The run; its candidate has no variant yet.

    Raises:
        OSError: If the folder is not there, or not finished.
        ValueError: If its files are of another format or damaged, or its predictions are not those that its report measured.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give folders of finished runs.")
    with reading(folder):
        return _read(folder)


def _read(folder: Path) -> FinishedRun:
    for name, why in (
        (METADATA_FILE, "it is not the folder of a run, or the run is not finished"),
        (EVALUATION_FILE, "the run is not finished, or was not measured; give it --eval_datasets"),
    ):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} cannot be compared: there is no {name} in it ({why}).")
    facts, reports = load_robustft_json(folder), load_reports(folder / EVALUATION_FILE)
    zero_shot = METHOD_FACTS["zero_shot"].label
    predictions = load_predictions(folder) if (folder / PREDICTIONS_FILE).is_file() else None
    if not reports[-1].results and reports[-1].multi_label:
        predictions = Predictions(load_list_predictions(folder / LOGITS, reports[-1].multi_label))
    if predictions is not None:
        check_predictions(folder, predictions, reports[-1])
    return FinishedRun(
        folder=folder,
        candidate=Candidate(facts["method"], _rate(facts)),
        seed=None if facts["method"] == "zero_shot" else _seed(facts),
        report=reports[-1],
        predictions=predictions,
        baseline=next((report for report in reports[:-1] if report.model == zero_shot), None),
        facts=facts,
        sweep=_sweep(folder / SWEEP_TABLE),
    )


def read_runs(folders: Iterable[str | Path]) -> Comparison:
    """
    Read finished folders that are to be compared.

    Folders of one method and rate that differ in the seed alone are runs of one [`Candidate`]. The zero-shot model is that of a
    run of `zero_shot`, or the baseline that a run measured before its training. Runs that left classes out of their training are
    kept aside as `twins` of those that did not; where all did, they are what is compared.

    Args:
        folders (`Iterable[str | Path]`): Of `train` or [`finish_checkpoint`], of whatever methods.

    Returns:
        [`Comparison`]: The runs.

    Raises:
        OSError: If one of them is not there, or not finished.
        ValueError: If they were trained or measured on different data, nothing was trained, or two are the same run.
    """
    paths = {Path(folder).resolve(): Path(folder) for folder in folders}
    read = _of_merged([read_run(folder) for folder in paths.values()])
    trained = with_variants([run for run in read if run.candidate.method != "zero_shot"])
    start = [run for run in read if run.candidate.method == "zero_shot"]
    (runs, twins), (zero_shots, zero_twins) = (
        ([run for run in of if run.fold is None], [run for run in of if run.fold is not None]) for of in (trained, start)
    )
    alone = not runs and not zero_shots
    comparison = _compared(twins, zero_twins) if alone else _compared(runs, zero_shots)
    if twins and not alone:
        check_twins(runs[0], [*twins, *zero_twins])
        _pair(comparison, twins, zero_twins)
    comparison.notes += of_versions(read)
    return comparison


def _compared(runs: list[FinishedRun], zero_shots: list[FinishedRun]) -> Comparison:
    if not runs:
        raise ValueError("There is no trained model to compare; give folders of finished runs besides zero_shot.")
    seen: dict[Any, FinishedRun] = {}
    called: dict[str, FinishedRun] = {}
    for run in (*runs, *zero_shots):
        like = called.setdefault(run.candidate.label, run)
        if like.candidate != run.candidate:
            rates = f"{like.candidate.learning_rate!r} and {run.candidate.learning_rate!r}"
            raise ValueError(
                f"{like.folder} and {run.folder} are both called {run.candidate.label}, and their learning rates are {rates}; leave "
                "one of them out."
            )
        other = seen.setdefault((run.candidate, run.seed), run)
        if other is not run:
            seed = "" if run.seed is None else f" with seed {run.seed}"
            raise ValueError(
                f"{other.folder} and {run.folder} are both {run.candidate.label}{seed}; leave one of them out."
            )
    of_lists = runs[0].measure is MEAN_PRECISION
    if strange := next((run for run in (*runs, *zero_shots) if run.measure is not runs[0].measure), None):
        raise ValueError(f"{(strange if of_lists else runs[0]).folder} was measured on one label per image, and {(runs[0] if of_lists else strange).folder} on lists of labels; compare them apart.")
    # Of lists of labels a baseline kept no logits.
    with_baseline = next((run for run in runs if run.baseline is not None and not of_lists), None)
    if not zero_shots and with_baseline is not None:
        zero_shots = [
            replace(with_baseline, candidate=ZERO_SHOT, seed=None, report=with_baseline.baseline, predictions=None)
        ]
    comparison = Comparison(runs, zero_shots[0] if zero_shots else None)
    check_data([*runs, *zero_shots])
    if not any(role in _TESTS for role in comparison.sets.values()):
        every = [*runs, *zero_shots]
        sets = sorted({name for run in every for name, role in run.sets.items() if role in _TESTS})
        raise ValueError(
            f"No set was measured in all of the {len(every)} folders (there are {', '.join(sets) or 'none whose images have labels'}); measure them on the same sets."
        )
    comparison.notes += left_out([*runs, *zero_shots], comparison.sets)
    comparison.notes += without_predictions(comparison)
    comparison.notes += unreadable(runs, comparison.sets)
    return comparison


def _pair(comparison: Comparison, twins: Sequence[FinishedRun], zero_twins: Sequence[FinishedRun]) -> None:
    """Give a `comparison` the twins of its candidates and of zero-shot; say which have none in a fold, and which are of none."""
    candidates = comparison.candidates
    if strays := [twin.folder.name for twin in twins if twin.candidate not in candidates]:
        comparison.notes.append(f"Left classes out of their training, and no other run here is like them otherwise: {', '.join(strays)}.")
    folds: dict[Any, list[FinishedRun]] = {}
    for twin in twins:
        if twin.candidate in candidates:
            folds.setdefault(twin.fold, []).append(twin)
    paired = [_compared(folds[fold], [run for run in zero_twins if run.fold == fold]) for fold in sorted(folds)]
    comparison.notes += [note for fold in paired for note in fold.notes]
    without = [item for item in candidates if any(item not in fold.candidates for fold in paired)]
    if len(without) < len(candidates):
        comparison.twins = paired
    if without:
        whole = {item.method_label for item in candidates if item not in without}
        names = dict.fromkeys(item.label if item.method_label in whole else item.method_label for item in without)
        why = "of which no run left classes out" if len(paired) < 2 else "of which no runs left the classes of each fold out"
        comparison.notes.append(f"The rule concepts does not choose among {listed(list(names))}, {why}.")


def _rate(facts: Mapping[str, Any]) -> float | None:
    method, settings, merge = facts["method"], facts["settings"], facts.get("merge") or {}
    if settings.get("learning_rate") is not None:
        return float(settings["learning_rate"])
    if method in ("zero_shot", "tip_adapter") or method not in METHOD_FACTS or "fine_tuned" in merge:
        return None
    # Settings name what differs from the arguments' defaults, not from the method's.
    from ..training.methods import RobustTrainingArguments

    return float(RobustTrainingArguments.__dataclass_fields__["learning_rate"].default)


def _sweep(path: Path) -> dict[float, dict[str, float]]:
    if not path.is_file():
        return {}
    try:
        numbers = [{name: float(value) for name, value in row.items() if value} for row in read_csv(path)]
        if not all(map(math.isfinite, (value for row in numbers for value in row.values()))):
            raise ValueError("A number is not finite")
        return {row.pop("alpha"): row for row in numbers}
    except (TypeError, ValueError, KeyError, csv.Error) as error:
        raise ValueError(f"{path} is not a table of numbers by alpha ({one_line(error)}); measure the alphas again.") from None


def _seed(facts: Mapping[str, Any]) -> int | None:
    return (facts.get("card") or {}).get("seed", facts["settings"].get("seed"))


def _of_merged(runs: list[FinishedRun]) -> list[FinishedRun]:
    """Give what was made of another given run the rate and the seed of that."""
    by_name = {run.folder.resolve().name: run for run in runs}
    found = []
    for run in runs:
        sources = (run.facts.get("merge") or {}).get("fine_tuned", ())
        made_of = [by_name[name] for source in sources if (name := Path(source).name) in by_name]
        if sources and len(made_of) == len(sources):
            commands = [(item.facts.get("card") or {}).get("command", "") for item in made_of]
            run = replace(run, facts={**run.facts, "merge": {**run.facts["merge"], "commands": commands}})
        of = made_of[0] if len(made_of) == len(sources) == 1 else None
        if of is not None and of is not run:
            merge = {**run.facts["merge"], "fine_tuned": [of.candidate.method_label]}
            candidate = replace(run.candidate, learning_rate=of.candidate.learning_rate)
            run = replace(run, candidate=candidate, seed=of.seed, facts={**run.facts, "merge": merge})
        found.append(run)
    return found
