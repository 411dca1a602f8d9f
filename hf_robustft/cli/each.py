# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`--train_dataset pacs`: one run for each suite of a group, and a table of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.catalog.sets import GROUPS
from ..evaluation.report import EvaluationReport
from ..files import write_csv
from ..training.given import Suggested
from .first_look import SUITE

SUMMARY_FILE = "summary.csv"


def suites_of(train_dataset: str) -> list[str]:
    """
    The suites that `--train_dataset` stands for; none if it names one data set.

    Args:
        train_dataset (`str`): `pacs`, `vlcs=/data/VLCS`, or the name of one data set.

    Raises:
        ValueError: If one folder is given for sets that lie in several.
    """
    name, equals, copy = train_dataset.partition("=")
    if name not in GROUPS:
        return []
    if equals and not GROUPS[name].one_copy:
        raise ValueError(
            f"`--train_dataset {train_dataset}`: {name} is {len(GROUPS[name].suites)} data sets, which no one folder holds; "
            f"train on one of them at a time, such as {GROUPS[name].suites[0]}={copy}."
        )
    return [f"{suite}{equals}{copy}" for suite in GROUPS[name].suites]


def of_suite(values: Mapping[str, Any], suite: str) -> dict[str, Any]:
    """
    The settings of the run of one suite.

    Args:
        values (`Mapping[str, Any]`): The settings of all runs, by name; those that nobody gave are [`Suggested`].
        suite (`str`): Such as `"pacs-sketch"`, or `"vlcs-sun=/data/VLCS"`.

    Returns:
        `dict[str, Any]`: `train_dataset` is the suite, `output_dir` a folder in the one given, and `{suite}` stands for the
        suite in all texts.
    """
    name, own = suite.partition("=")[0], {key: for_suite(value, suite) for key, value in values.items()}
    output = own["output_dir"]
    if isinstance(output, Suggested):
        own["output_dir"] = Suggested(str(Path(output.value) / name), output.origin)
    else:
        own["output_dir"] = str(Path(output) / name)
    return own | {"train_dataset": suite}


def for_suite(value: Any, suite: str) -> Any:
    """The `value` of a setting in the run of a `suite`, for which `{suite}` stands in texts."""
    if isinstance(value, Suggested):
        return Suggested(for_suite(value.value, suite), value.origin)
    if isinstance(value, list):
        return [for_suite(item, suite) for item in value]
    return value.replace(SUITE, suite if value == SUITE else suite.partition("=")[0]) if isinstance(value, str) else value


def on_other_data(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """
    A recipe for the training data that are given: one suite of its group, or data whose sets it cannot name.

    Args:
        recipe (`Mapping[str, Any]`): The settings of the recipe.
        given (`Mapping[str, Any]`): The settings that a user gave.

    Returns:
        `tuple`: The settings, and the sets that the recipe measures on and that are left out for other data.
    """
    data, own = str(given.get("train_dataset", "")), recipe.get("train_dataset")
    name = data.partition("=")[0].partition("/")[0]
    if not name or own is None or name == own:
        return dict(recipe), []
    if name in suites_of(own):
        return {key: for_suite(value, data) for key, value in recipe.items()}, []
    dropped = [] if "eval_datasets" in given else recipe.get("eval_datasets", [])
    return {key: value for key, value in recipe.items() if key != "eval_datasets"}, dropped


def check_group(group: str, args: Any) -> None:
    """
    Refuse what several runs cannot share.

    Args:
        group (`str`): As given by `--train_dataset`.
        args ([`RobustTrainingArguments`]): Settings of the first run.

    Raises:
        ValueError: For one repository, or one checkpoint to resume from.
    """
    one = f"`--train_dataset {group}` is a run for each of {len(suites_of(group))} suites"
    if args.push_to_hub:
        raise ValueError(f"{one}, which one repository cannot hold; leave `--push_to_hub` out and publish the folders.")
    if args.resume_from_checkpoint is not None:
        raise ValueError(
            f"{one}, each with checkpoints of its own; resume one by `--train_dataset {suites_of(group)[0]}` with its "
            "`--output_dir`, or leave `--resume_from_checkpoint` out."
        )


def summary(reports: Mapping[str, EvaluationReport]) -> list[dict[str, Any]]:
    """
    A row for each suite, and their plain mean.

    Args:
        reports (`Mapping[str, EvaluationReport]`): By suite.

    Returns:
        `list[dict[str, Any]]`: Accuracy and ECE in distribution, accuracy, ECE and NLL averaged over the shifts, and the
        AUROC of the energy score against each open set; rates are fractions. What was not measured is missing.
    """
    rows = []
    for suite, report in reports.items():
        first = next((result for result in report.results.values() if result.role == "id"), None)
        row = {} if first is None else {"id_accuracy": first.accuracy, "id_ece": first.ece}
        row |= {f"shift_{key}": report.shift_mean[key] for key in ("accuracy", "ece", "nll") if report.shifts}
        aurocs = {f"auroc_{name}": f"open_set/{name}/energy/auroc" for name in report.open_set or {}}
        metrics = report.metrics()
        rows.append({"suite": suite} | row | {key: metrics[name] for key, name in aurocs.items() if name in metrics})
    shared = [key for key in rows[0] if key != "suite" and all(key in row for row in rows)]
    return [*rows, {"suite": "mean"} | {key: sum(row[key] for row in rows) / len(rows) for key in shared}]


def write_summary(output_dir: str | Path, rows: list[dict[str, Any]]) -> Path:
    """Write the rows of [`summary`] into `output_dir` as `summary.csv`; returns its path."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    return write_csv(Path(output_dir) / SUMMARY_FILE, [names, *([row.get(name) for name in names] for row in rows)])


def summary_table(rows: list[dict[str, Any]]) -> str:
    """The rows of [`summary`] for the terminal: rates in percent."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    heads = [name.replace("_", " ") + ("" if name in ("suite", "shift_nll") else " %") for name in names]
    lines = [heads]
    for row in rows:
        cells = [row["suite"]]
        for name in names[1:]:
            value = row.get(name)
            cells.append("-" if value is None else f"{value:.2f}" if name == "shift_nll" else f"{100 * value:.1f}")
        lines.append(cells)
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )
