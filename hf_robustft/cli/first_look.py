# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What can be said of a command line in its first second, before torch and Transformers are imported.

The real parser and the loaders decide afterwards. What is refused here they would refuse too; what they alone can tell is
left to them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..data.messages import beside
from ..deployment.extras import check_export_options
from ..evaluation.stated_error import STATED_ERROR, check_sets, check_stated_error
from ..training.given import methods_that_read, not_read
from .config_file import read_config, read_recipe, recipes
from .description import Description
from .first_paths import (
    check_data,
    check_model,
    check_outside,
    check_outside_runs,
    check_predicted,
    check_verified,
    check_watched,
    check_writable,
)
from .option_rules import (
    ChosenMethod,
    MethodFacts,
    check_bank,
    check_demo_options,
    check_given,
    check_one_choice_of_settings,
    check_sources,
    trained_method,
)
from .parser import Parser, UsageError, unknown_choice
from .passed_on import check_auto, parted

#: Stands in a setting for the suite whose turn it is, where `--train_dataset` names a group of them.
SUITE = "{suite}"
#: Files that must exist, and folders that must.
_FILES, _FOLDERS = ("class_names",), ("finetuned_model",)
_CHECKPOINTS = {"train": ("model",), "evaluate": ("model",), "calibrate": ("directory",), "publish": ("folder",), "predict": ("model",),
                "export": ("model",), "demo": ("model",), "watch": ("model",), "verify": ("model",), "compare": ()}  # fmt: skip
_DATA = ("train_dataset", "dataset", "eval_datasets", "knn_bank", "unknown")
#: The `--method` that stands for a comparison; see `cli.auto`.
AUTO = "auto"
#: Of `hf-robustft compare`; and `shift:<set>`, or `shift` of a single one.
RULES = ("id", "id_within", "id_nearest", "concepts", "oracle")
#: Stands for the last whole checkpoint, which the Trainer finds.
LAST = "last"
_LAST = (LAST, "true", "yes", "1")
_NONE = ("none", "false", "no", "0")


def first_look(
    command: str, arguments: Sequence[str], prog: str | None = None, passed_on: bool = False
) -> argparse.Namespace:
    """
    Refuse what is certainly wrong; print the help where it is asked for.

    Args:
        command (`str`): `"train"`, `"evaluate"`, `"compare"`, `"calibrate"`, `"predict"`, `"export"`, `"demo"`, `"watch"`,
            `"verify"` or `"publish"`.
        arguments (`Sequence[str]`): Those behind it.
        prog (`str`, *optional*): What the help calls the program.
        passed_on (`bool`, *optional*, defaults to `False`): Whether these are the settings of several runs, of which each takes
            what its method reads.

    Returns:
        `argparse.Namespace`: What was read, over the settings of a config file.

    Raises:
        UsageError: In one line, what is wrong and what to do.
    """
    description = Description.of_what_is_installed()
    method, passed = word_behind("--method", arguments) or "carot", []
    parser = description.parser(command, "--help_all" in arguments, method)
    if command == "compare":
        arguments, passed = parted(arguments, parser, description.parser("train", "--help_all" in arguments))
        if passed:
            first_look("train", [word for _, words in passed for word in words], passed_on=True)
    elif command == "train" and method == AUTO:
        check_auto(arguments)
        passed_on = True
    parser.prog = prog or parser.prog
    # Help shows the defaults; what was not given stays None here.
    nothing = argparse.Namespace(**{action.dest: None for action in parser._actions if action.dest != "help"})
    flags = {name: value for name, value in vars(parser.parse_args(list(arguments), nothing)).items() if value is not None}
    config = read_config(parser, flags["config"]) if "config" in flags else {}
    given = values = {**config, **flags}
    if "recipe" in values:
        values = {**read_recipe(parser, values["recipe"], values.get("method")), **values}
    check_numbers(parser, values)
    if command == "compare":
        _check_compared(values, alone=not passed)
    _check_trackers(values.get("report_to"), description.facts["trackers"])
    if values.get("fp16") and values.get("use_cpu"):
        raise UsageError("`--fp16` needs an accelerator, and `--use_cpu` uses none; leave one of them out, or use --bf16")
    _check_paths(command, values, description.facts["data"])
    try:
        if command == "evaluate":
            check_bank(values.get("knn_bank"), values.get("knn_k"))
        if command == "calibrate":
            risk = {name: values[name] for name in STATED_ERROR if values.get(name) not in (None, False)}
            check_stated_error(risk, "unknown" in values, not values.get("remove_detector", False))
            check_sets(values.get("prediction_sets"), values.get("coverage"), values.get("class_conditional"))
        if command == "export":
            asked = {name: values[name] for name in ("min_agreement", "check_images", "batch_size", "opset") if name in values}
            check_export_options(values.get("format", "onnx"), values.get("precision", ["fp32"]), has_images="dataset" in values, **asked)
            check_outside(values, {"MODEL": "model", "--dataset": "dataset"}, "outputs/export")
        if command == "demo":
            check_demo_options(values)
            check_writable(values.get("space"), "--space")
        if command == "predict":
            check_predicted(values, description.facts["data"])
        if command == "verify":
            check_verified(values, description.facts["data"])
        if command == "watch":
            check_watched(values, description.facts["data"])
            check_outside(values, {"MODEL": "model", "--reference": "reference", "--stream": "stream"}, "outputs/watch")
        if command == "train" and not passed_on and given.get("method") != AUTO:
            _check_options(description, parser, given)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if command == "train":
        values.setdefault("output_dir", f"outputs/{values.get('method', 'carot')}")
        folder = resumed_folder(values.get("resume_from_checkpoint"), values["output_dir"])
        if folder not in (None, LAST) and not Path(folder).is_dir():
            raise UsageError(
                f"`--resume_from_checkpoint {folder}`: there is no checkpoint folder at that path"
                f"{beside(folder) or '; `last` finds the newest one in --output_dir'}"
            )
    check_writable(values.get("output_dir"))
    check_writable(values.get("feature_cache"), "--feature_cache")
    return argparse.Namespace(**values)


def word_behind(flag: str, arguments: Sequence[str]) -> str | None:
    """Return the value of a `flag` among the `arguments` before anything is parsed."""
    words = [word for argument in arguments for word in argument.split("=", 1)]
    return next((word for before, word in zip(words, words[1:], strict=False) if before == flag), None)


def resumed_folder(text: Any, output_dir: str) -> str | None:
    """
    What `--resume_from_checkpoint` means: a folder, `"last"`, or `None`.

    Args:
        text (`Any`): A folder; `"last"` or `"true"` for the last whole checkpoint in `output_dir`; `"false"` or `None` for none.
        output_dir (`str`): Where the run writes its checkpoints.

    Raises:
        UsageError: If there is no checkpoint to go on from.
    """
    word = str(text).casefold() if text is not None else "none"
    if word in _NONE:
        return None
    if word not in _LAST or Path(str(text)).is_dir():
        return str(text)
    if last_checkpoint(output_dir) is None:
        raise UsageError(
            f"`--resume_from_checkpoint {text}`: there is no checkpoint in {output_dir} to go on from; leave the flag out "
            "to start, or name the folder of the run with --output_dir"
        )
    return LAST


def last_checkpoint(output_dir: str, since: float = 0.0) -> str | None:
    """The checkpoint of the most steps in `output_dir`, or `None`; `since` leaves out those that were written before."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    steps = {int(path.name.rpartition("-")[2]): path for path in found if path.is_dir() and path.stat().st_mtime >= since}
    return str(steps[max(steps)]) if steps else None


def check_numbers(parser: Parser, values: dict[str, Any]) -> None:
    """
    Refuse numbers out of their range.

    Args:
        parser ([`Parser`]): Whose flags they are.
        values (`dict[str, Any]`): The settings, by name.

    Raises:
        UsageError: By the name of the flag.
    """
    from ..training.ranges import RANGES

    for name, value in values.items():
        action, allowed = parser.action_of(name), parser.ranges.get(name, RANGES.get(name))
        for item in value if isinstance(value, list) else [value]:
            if allowed is not None and action is not None and isinstance(item, (int, float)) and not isinstance(item, bool):
                if item not in allowed:
                    percent = allowed.high == 1 and 1 < item <= 100 and item / 100 in allowed
                    raise UsageError(f"`--{name} {item}` {allowed.problem}{f'; {item:g} % is {item / 100:g}' if percent else ''}")


@dataclass
class _Chosen(ChosenMethod):
    """Stands for [`ModelArguments`]."""

    method: str
    finetuned_model: list[str]
    finetune_with: str | None
    methods: dict[str, MethodFacts]


def _check_options(description: Description, parser: Parser, given: dict[str, Any]) -> None:
    """
    Refuse what is given and does not go together, or would be ignored, as `train_arguments.check` does with all that there is.

    Args:
        description ([`Description`]): What is known of options and methods.
        parser ([`Parser`]): Whose flags a recipe sets.
        given (`dict[str, Any]`): The settings that the user gave.

    Raises:
        ValueError: By the name of the option.
    """
    facts = description.facts
    defaults = {item["dest"]: item["default"] for item in facts["commands"]["train"]["arguments"]}
    check_one_choice_of_settings(given)
    if "recipe" in given and "train_dataset" in given:
        # What of the recipe holds for other data the loaders know.
        return
    method, name = given.get("method", defaults["method"]), given.get("recipe")
    suite = defaults["train_dataset"]
    if name is None and given.get("train_dataset", suite) == suite and not given.get("paper_settings", False):
        names = (f"{suite}/{item}" for item in (method, trained_method(method, given.get("finetune_with"))))
        name = next((name for name in names if name in recipes()), None)
        recipe = {} if name is None else read_recipe(parser, name)
        recipe["method"] = method
    else:
        recipe = {} if name is None else read_recipe(parser, name, given.get("method"))
    settings = {**defaults, **recipe, **given}
    model, data, training = (
        argparse.Namespace(given=given.keys() & names, **{name: settings[name] for name in names})
        for names in facts["parts"].values()
    )
    methods = {
        name: MethodFacts(**{field.name: item[field.name] for field in fields(MethodFacts)})
        for name, item in facts["methods"].items()
        if "unused" in item
    }
    chosen = _Chosen(model.method, model.finetuned_model, model.finetune_with, methods)
    vars(chosen).update(vars(model))
    place = str(data.train_dataset)
    own = place.partition("=")[0].split("/")[0] not in facts["data"] and ("/" in place or Path(place).exists())
    # Of any other name the loaders know whether it is registered, and with which sets to measure on.
    data.measures = bool(data.eval_datasets) or (data.leave_out_classes, data.hold_out) != (None, None) or not own
    if training.report_to in ("none", ["none"]):
        training.report_to = []
    check_sources(chosen)
    check_given(chosen, data, training)
    if chosen.trains:
        for name in sorted(training.given & set(chosen.trainer.unused)):
            readers = methods_that_read(name, {method: item.unused for method, item in methods.items()})
            raise ValueError(not_read(name, given[name], trained_method(method, chosen.finetune_with), readers))


def _check_compared(values: dict[str, Any], alone: bool) -> None:
    """Refuse a rule that there is not, folders that are not there where these are compared `alone`, and results in one of them."""
    rule = values.get("rule", RULES[0])
    if rule not in RULES and not (rule == "shift" or rule.startswith("shift:") and rule != "shift:"):
        raise UsageError(unknown_choice(f"--rule {rule}", rule, [*RULES, "shift:<set>"]))
    for folder in values.get("folders", ()) if alone and not values.keys() - {"folders", "rule", "output_dir"} else ():
        if not Path(folder).exists():
            raise UsageError(f"There is no folder {folder}{beside(folder) or '; give folders of finished runs, or --train_dataset to train some'}")
    check_outside_runs(values)


def _check_trackers(given: Any, known: list[str]) -> None:
    for name in given if isinstance(given, list) else [given]:
        if isinstance(name, str) and name not in (*known, "all", "none"):
            raise UsageError(unknown_choice(f"--report_to {name}", name, [*known, "all", "none"]))


def _check_paths(command: str, values: dict[str, Any], registered: list[str]) -> None:
    # Of a group of suites the path of each run is known later.
    values = {
        name: [text for text in value if SUITE not in str(text)] if isinstance(value, list) else value
        for name, value in values.items()
        if SUITE not in str(value) or isinstance(value, list)
    }
    for name in _FILES:
        if name in values and not Path(values[name]).expanduser().is_file():
            advice = beside(values[name]) or "; give a text file with one class name per line"
            raise UsageError(f"`--{name} {values[name]}`: there is no such file{advice}")
    for name in _CHECKPOINTS[command]:
        if name in values:
            check_model(values[name], f"--{name}" if command == "train" else name.upper() if name == "model" else "DIR",
                        hub=name == "model")  # fmt: skip
    for name in _FOLDERS:
        for folder in values.get(name, ()):
            check_model(folder, f"--{name}", hub=True)
    for name in _DATA:
        given = values.get(name, [])
        for text in given if isinstance(given, list) else [given]:
            check_data(text, f"--{name}", registered)
