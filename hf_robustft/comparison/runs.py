# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Finished folders as runs of candidates: read, told apart, and refused where they cannot be compared.

>>> comparison = read_runs(["outputs/carot-0", "outputs/carot-1", "outputs/flyp-0"])
>>> [candidate.label for candidate in comparison.candidates]
['CaRot, 1e-3', 'FLYP, 1e-3']
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.findings import listed
from ..evaluation.predictions import PREDICTIONS_FILE, Predictions, load_predictions
from ..evaluation.report import SWEEP_TABLE, EvaluationReport, load_reports
from ..evaluation.tables import unreadable_line
from ..modeling.metadata import METADATA_FILE, load_robustft_json
from ..objectives.papers import METHOD_FACTS
from ..publishing.run_folder import EVALUATION_FILE, settle

METRICS = ("accuracy", "nll", "ece", "brier")
#: Where runs are compared at all.
_TESTS = ("id", "shift")
_ROLES = ("id", "shift", "validation", "train", "open_set")
#: Settings that change nothing in the trained model, or that tell apart the runs of one candidate.
_OF_THE_JOB = re.compile(
    r"seed|data_seed|learning_rate|preset|use_cpu|disable_tqdm|report_to|export_weights|shard_teacher|fully_shard|full_determinism"
    r"|per_device_eval_batch_size|skip_memory_metrics|activation_checkpointing|gradient_checkpointing|contrastive_chunk_size"
    r"|torch_compile.*|ddp_.*|do_.*|log_.*|logging_.*|eval_.*|save_.*|hub_.*|push_to_hub.*|dataloader_(?!drop_last).*"
)


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
        predictions ([`~evaluation.predictions.Predictions`], *optional*): Of each image, where the run kept them.
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
        found |= dict.fromkeys(self.report.open_set or (), "open_set")
        kept = {} if self.predictions is None else self.predictions.sets
        found |= {name: item.role for name, item in kept.items() if item.role == "validation"}
        return dict(sorted(found.items(), key=lambda item: _ROLES.index(item[1])))


@dataclass
class Comparison:
    """
    Runs that were trained and measured on the same data.

    Attributes:
        runs (`list[FinishedRun]`): Of everything but the zero-shot model.
        zero_shot ([`FinishedRun`], *optional*): The model before fine-tuning.
        notes (`list[str]`): What is left out, in sentences.
    """

    runs: list[FinishedRun]
    zero_shot: FinishedRun | None = None
    notes: list[str] = field(default_factory=list)

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
        """The role of each set that all runs were measured on, as a `dict`: ID, shifts, validation, open sets."""
        first, *others = (run.sets for run in self.runs)
        # A baseline that a run measured before its training knows of no validation images.
        start = first if self.zero_shot is None else self.zero_shot.sets
        return {
            name: role
            for name, role in first.items()
            if all(name in other for other in others) and (name in start or role == "validation")
        }

    def measured(self, candidate: Candidate) -> dict[str, dict[str, float]]:
        """
        Collect what a candidate reaches.

        Args:
            candidate ([`Candidate`]): One of `candidates`, or `ZERO_SHOT`.

        Returns:
            `dict[str, dict[str, float]]`: By set, without open sets: `accuracy`, `nll`, `ece` and `brier`, means over seeds.
        """
        start = candidate == ZERO_SHOT and self.zero_shot is not None
        runs = [self.zero_shot] if start else self.candidates[candidate]
        return {
            name: {metric: float(np.mean([run.measured(name)[metric] for run in runs])) for metric in METRICS}
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
        ValueError: If its files are of another format or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}; give folders of finished runs.")
    settle(folder)
    for name, why in (
        (METADATA_FILE, "it is not the folder of a run, or the run is not finished"),
        (EVALUATION_FILE, "the run is not finished, or was not measured; give it --eval_datasets"),
    ):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} cannot be compared: there is no {name} in it ({why}).")
    facts, reports = load_robustft_json(folder), load_reports(folder / EVALUATION_FILE)
    zero_shot = METHOD_FACTS["zero_shot"].label
    return FinishedRun(
        folder=folder,
        candidate=Candidate(facts["method"], _rate(facts)),
        seed=None if facts["method"] == "zero_shot" else _seed(facts),
        report=reports[-1],
        predictions=load_predictions(folder) if (folder / PREDICTIONS_FILE).is_file() else None,
        baseline=next((report for report in reports[:-1] if report.model == zero_shot), None),
        facts=facts,
        sweep=_sweep(folder / SWEEP_TABLE),
    )


def read_runs(folders: Iterable[str | Path]) -> Comparison:
    """
    Read finished folders that are to be compared.

    Folders of one method and rate that differ in the seed alone are runs of one [`Candidate`]. The zero-shot model is that of a
    run of `zero_shot`, or the baseline that a run measured before its training.

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
    runs = _with_variants([run for run in read if run.candidate.method != "zero_shot"])
    zero_shots = [run for run in read if run.candidate.method == "zero_shot"]
    if not runs:
        raise ValueError("There is no trained model to compare; give folders of finished runs besides zero_shot.")
    seen: dict[Any, FinishedRun] = {}
    for run in (*runs, *zero_shots):
        other = seen.setdefault((run.candidate, run.seed), run)
        if other is not run:
            seed = "" if run.seed is None else f" with seed {run.seed}"
            raise ValueError(
                f"{other.folder} and {run.folder} are both {run.candidate.label}{seed}; leave one of them out."
            )
    with_baseline = next((run for run in runs if run.baseline is not None), None)
    if not zero_shots and with_baseline is not None:
        zero_shots = [
            replace(with_baseline, candidate=ZERO_SHOT, seed=None, report=with_baseline.baseline, predictions=None)
        ]
    comparison = Comparison(runs, zero_shots[0] if zero_shots else None)
    _check_data([*runs, *zero_shots])
    if not any(role in _TESTS for role in comparison.sets.values()):
        sets = sorted({name for run in read for name, role in run.sets.items() if role in _TESTS})
        raise ValueError(
            f"No set was measured in all of the {len(read)} folders (there are {', '.join(sets)}); measure them on the same sets."
        )
    comparison.notes += _left_out([*runs, *zero_shots], comparison.sets)
    comparison.notes += _unreadable(runs, comparison.sets)
    return comparison


def _rate(facts: Mapping[str, Any]) -> float | None:
    method, settings, merge = facts["method"], facts["settings"], facts.get("merge") or {}
    if "learning_rate" in settings:
        return float(settings["learning_rate"])
    if method in ("zero_shot", "tip_adapter") or method not in METHOD_FACTS or "fine_tuned" in merge:
        return None
    # Settings name what differs from the arguments' defaults, not from the method's.
    from ..training.methods import RobustTrainingArguments

    return RobustTrainingArguments.__dataclass_fields__["learning_rate"].default


def _sweep(path: Path) -> dict[float, dict[str, float]]:
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return {row.pop("alpha"): row for row in rows}


def _seed(facts: Mapping[str, Any]) -> int | None:
    return (facts.get("card") or {}).get("seed", facts["settings"].get("seed"))


def _of_merged(runs: list[FinishedRun]) -> list[FinishedRun]:
    """Give what was made of another given run the rate and the seed of that."""
    by_name = {run.folder.resolve().name: run for run in runs}
    found = []
    for run in runs:
        sources = (run.facts.get("merge") or {}).get("fine_tuned", ())
        of = by_name.get(Path(sources[0]).name) if len(sources) == 1 else None
        if of is not None and of is not run:
            merge = {**run.facts["merge"], "fine_tuned": [of.candidate.method_label]}
            candidate = replace(run.candidate, learning_rate=of.candidate.learning_rate)
            run = replace(run, candidate=candidate, seed=of.seed, facts={**run.facts, "merge": merge})
        found.append(run)
    return found


def _told(run: FinishedRun) -> dict[str, Any]:
    """The settings by which a run may differ from another of its method."""
    told = {name: value for name, value in run.facts["settings"].items() if not _OF_THE_JOB.fullmatch(name)}
    merge = run.facts.get("merge") or {}
    if "alpha" in run.facts:
        # A chosen alpha differs from seed to seed.
        rule = merge.get("alpha_rule", "given")
        told["alpha"] = run.facts["alpha"] if rule == "given" else rule
    if "trained_with" in merge or "fine_tuned" in merge:
        trained_with = merge.get("trained_with")
        told["of"] = (
            METHOD_FACTS[trained_with].label
            if trained_with in METHOD_FACTS
            else trained_with or ", ".join(merge["fine_tuned"])
        )
    if (run.facts.get("temperature") or {}).get("folded", 1.0) != 1.0:
        told["folded_temperature"] = True
    return told


def _with_variants(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    told = [_told(run) for run in runs]
    named = []
    for run, own in zip(runs, told, strict=True):
        method = run.candidate.method
        alike = [item for other, item in zip(runs, told, strict=True) if other.candidate.method == method]
        differing = [
            name
            for name in dict.fromkeys(key for item in alike for key in item)
            if any(item.get(name) != own.get(name) for item in alike)
        ]
        if differing:
            values, usual = _defaults(method)
            pairs = [
                (name, own.get(name, values.get(name, False)), usual.get(name, False)) for name in sorted(differing)
            ]
            words = ", ".join(_words(name, value) for name, value, is_usual in pairs if value != is_usual)
            run = replace(run, candidate=replace(run.candidate, variant=words))
        named.append(run)
    return named


def _defaults(method: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The value of each setting that a run does not name, and that which a run of this method usually has."""
    # Not before they are needed: the Trainers import all of Transformers' training.
    from ..training.methods import METHODS, RobustTrainingArguments

    values = {item.name: getattr(item.default, "value", item.default) for item in fields(RobustTrainingArguments)}
    values = {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}
    return values, values | dict(getattr(METHODS.get(method), "defaults", {}))


def _words(name: str, value: Any) -> str:
    name = name.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {value}"


def _check_data(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs whose data differ from those of the first."""
    first = runs[0]
    for run in runs[1:]:
        differing = _differences(first, run)
        if differing:
            raise ValueError(
                f"{first.folder} and {run.folder} cannot be compared: they differ in {listed(differing)}; give runs on the same data."
            )


def _differences(one: FinishedRun, two: FinishedRun) -> list[str]:
    differing = [
        words
        for words, key in (("the classes", "class_names"), ("the prompts", "templates"))
        if one.facts.get(key) != two.facts.get(key)
    ]
    bases = [(run.facts.get("card") or {}).get("base_model") for run in (one, two)]
    if all(bases) and bases[0] != bases[1]:
        differing.append(f"the model they start from ({bases[0]} and {bases[1]})")
    trained = [_images(run, ("train",)) for run in (one, two)]
    # Few shots are drawn with the seed.
    drawn = (
        all("--shots" in (run.facts.get("card") or {}).get("command", "") for run in (one, two))
        and one.seed != two.seed
    )
    if all(trained) and trained[0] != trained[1] and not drawn:
        differing.append("the training images")
    images = [_images(run, ("id", "shift", "validation", "open_set")) for run in (one, two)]
    sets = [run.sets for run in (one, two)]
    for name in sorted(set(images[0]) & set(images[1]) | set(sets[0]) & set(sets[1])):
        hashes, counts = [known.get(name) for known in images], [_count(run, name) for run in (one, two)]
        if sets[0].get(name, "") != sets[1].get(name, "") and all(name in known for known in sets):
            differing.append(f"the role of {name} ({sets[0][name]} and {sets[1][name]})")
        elif (all(hashes) and hashes[0] != hashes[1]) or (None not in counts and counts[0] != counts[1]):
            differing.append(f"the images of {name}")
    return differing


def _images(run: FinishedRun, roles: Sequence[str]) -> dict[str, tuple]:
    """Fingerprints of the images of each set, by name."""
    entries = [entry for entry in run.facts.get("image_hashes", ()) if entry["role"] in roles]
    return {entry["name"]: (entry.get("images"), entry["read"], entry["blake2b_48"]) for entry in entries}


def _count(run: FinishedRun, name: str) -> int | None:
    if name in run.report.results:
        return run.report.results[name].n
    return (run.report.open_set or {}).get(name, {}).get("n")


def _left_out(runs: Sequence[FinishedRun], shared: Mapping[str, str]) -> list[str]:
    notes = []
    for name, role in {name: role for run in runs for name, role in run.sets.items()}.items():
        if name in shared:
            continue
        without = listed(list(dict.fromkeys(run.folder.name for run in runs if name not in run.sets)))
        kept = role == "validation"
        notes.append(
            f"{name} is left out: {without} {'kept no predictions of it (--save_predictions)' if kept else 'did not measure it'}."
        )
    return notes


def _unreadable(runs: Sequence[FinishedRun], shared: Mapping[str, str]) -> list[str]:
    """Runs on the same images leave out the same ones."""
    notes = []
    for name in shared:
        found = [run.report.results[name].unreadable for run in runs if name in run.report.results]
        found += [run.report.open_set[name].get("unreadable") for run in runs if name in (run.report.open_set or {})]
        if worst := max(filter(None, found), key=lambda item: item["count"], default=None):
            notes.append(unreadable_line(name, worst))
    return notes
