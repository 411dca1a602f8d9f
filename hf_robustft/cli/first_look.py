# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What can be said of a command line in its first second, before torch and Transformers are imported.

The real parser and the loaders decide afterwards. What is refused here they would refuse too; what they alone can tell is
left to them.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..data.messages import closest, did_you_mean, quoted
from ..data.packaged import CHECKPOINTS, check_not_packaged
from ..deployment.extras import check_format
from ..deployment.output_names import check_output, working_folder
from ..evaluation.stated_error import STATED_ERROR, check_stated_error
from ..files import READY
from ..training.given import methods_that_read, not_read
from .config_file import read_config, read_recipe, recipes
from .description import Description
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
from .verify_rules import check_verified_output, named_places

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


#: What roles are called elsewhere. "ood" is not among them: some mean shifted images by it, others those of other classes.
_OTHER_ROLES = {
    **dict.fromkeys(("val", "valid", "dev", "holdout", "held_out"), "validation"),
    **dict.fromkeys(("test", "eval", "in_distribution"), "id"),
    **dict.fromkeys(("unknown", "unseen", "novel", "openset", "open"), "open_set"),
    **dict.fromkeys(("shifted", "domain_shift"), "shift"),
}


def nearest_role(word: str) -> str | None:
    """The role that is meant by a word which is not one; `None` where that is not clear."""
    word = word.lower().replace("-", "_")
    near = [_OTHER_ROLES[word]] if word in _OTHER_ROLES else closest(word, ("id", "validation", "shift", "open_set"), 1)
    return near[0] if near else None


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
        if command == "export":
            check_format(values.get("format", "onnx"))
        if command == "demo":
            check_demo_options(values)
            _check_output(values.get("space"), "--space")
        if command == "predict":
            _check_predicted(values, description.facts["data"])
        if command == "verify":
            _check_verified(values, description.facts["data"])
        if command == "watch":
            _check_watched(values, description.facts["data"])
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
                f"{_beside(folder) or '; `last` finds the newest one in --output_dir'}"
            )
    _check_output(values.get("output_dir"))
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
                    raise UsageError(f"`--{name} {item}` {allowed.problem}")


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
    """Refuse a rule that there is not, and folders that are not there where these are compared `alone`."""
    rule = values.get("rule", RULES[0])
    if rule not in RULES and not (rule == "shift" or rule.startswith("shift:") and rule != "shift:"):
        raise UsageError(unknown_choice(f"--rule {rule}", rule, [*RULES, "shift:<set>"]))
    for folder in values.get("folders", ()) if alone and not values.keys() - {"folders", "rule", "output_dir"} else ():
        if not Path(folder).exists():
            raise UsageError(f"There is no folder {folder}{_beside(folder) or '; give folders of finished runs, or --train_dataset to train some'}")


def _check_predicted(values: dict[str, Any], registered: list[str]) -> None:
    """Refuse images that are not there, and a file of answers that is."""
    check_output(values["output"], values.get("overwrite", False) or working_folder(values["output"]).is_dir())
    _check_output(str(Path(values["output"]).expanduser().parent), "--output")
    words, names = values.get("images", ()), values.get("image_list")
    if bool(words) == (names is not None):
        raise UsageError(
            f"`--image_list {names}` is given beside IMAGES; leave one of them out" if words else "Give IMAGES, or a list of them by `--image_list`"
        )
    if names not in (None, "-") and not Path(names).expanduser().is_file():
        there = Path(names).expanduser()
        what = "is a folder; give it as IMAGES" if there.is_dir() else f": there is no such file{_beside(names)}"
        raise UsageError(f"`--image_list {names}`{' ' if there.is_dir() else ''}{what}")
    for word in words:
        _check_images(word, "IMAGES", registered)


def _check_watched(values: dict[str, Any], registered: list[str]) -> None:
    """Refuse a reference and a folder that are not there."""
    _check_images(values["reference"], "--reference", registered)
    if not Path(values["stream"]).expanduser().is_dir():
        what = "is a file; name the folder" if Path(values["stream"]).expanduser().is_file() else f"there is no such folder{_beside(values['stream'])}"
        raise UsageError(f"`--stream {values['stream']}`: {what}")
    stream, reference = (Path(values[name]).expanduser().resolve() for name in ("stream", "reference"))
    if reference.is_dir() and (reference.is_relative_to(stream) or stream.is_relative_to(reference)):
        raise UsageError(f"`--reference {values['reference']}` and `--stream {values['stream']}` share images; give folders apart from each other")


def _check_images(word: str, option: str, registered: list[str]) -> None:
    """Refuse a word of the command line that can be neither images nor a data set."""
    if re.match(r"\w{2,}://", word):
        raise UsageError(f"`{option} {word}` is a web address, which is not fetched; download the images and give their path")
    first, *rest = word.split("/")
    elsewhere = first in registered or len(rest) in (1, 2) and not looks_local(f"{first}/") and not Path(first).exists()
    if not os.path.lexists(word) and not set("*?[=") & set(word) and (not elsewhere or re.search(r"\.[A-Za-z]{2,5}$", word)):
        near = did_you_mean(word, registered) if "/" not in word else ""
        raise UsageError(f"`{option} {word}`: there is no such file or folder{near or _beside(word)}")


def _check_verified(values: dict[str, Any], registered: list[str]) -> None:
    """Refuse places that are none, and files that are there."""
    for name in ("output", "markdown"):
        if name in values:
            check_verified_output(name, values[name], values.get("overwrite", False))
            _check_output(str(Path(values[name]).expanduser().parent), f"--{name}")
    for name, place in named_places(values.get("data", ())).items():
        _check_data(place, f"--data {name}=", registered)


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
            raise UsageError(f"`--{name} {values[name]}`: there is no such file{_beside(values[name])}")
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
            _check_data(text, f"--{name}", registered)


def check_model(text: str, option: str, hub: bool) -> None:
    """
    Refuse a model that is neither a checkpoint folder nor, with `hub`, a possible id of the Hub.

    Args:
        text (`str`): What was given.
        option (`str`): The flag or argument, for the message.
        hub (`bool`): Whether it may be an id of the Hub.

    Raises:
        UsageError: If it is neither.
    """
    path = Path(text).expanduser()
    if hub and text in CHECKPOINTS:
        return
    if not hub:
        check_not_packaged(text, option)
    if (path / "config.json").is_file() or os.path.lexists(path / READY):
        # Where a change was interrupted, whoever reads the folder finishes that first.
        return
    if path.is_dir():
        nested = sorted(item.parent.name for item in path.glob("*/config.json"))
        more = f"; did you mean {path / nested[-1]}?" if nested else "; give a folder that save_pretrained wrote"
        if any(path.iterdir()) and (option == "DIR" or not nested):
            # `publish`, `calibrate` and `load_checkpoint` know what such a folder holds instead.
            return
        raise UsageError(f"`{option} {text}`: the folder has no config.json{more}")
    if path.is_file():
        raise UsageError(f"`{option} {text}` is a file; give the folder of the checkpoint")
    if not hub or looks_local(text):
        more = f", a Hub id, or one of the package: {quoted(tuple(CHECKPOINTS))}" if hub else ""
        what = f"give a folder that save_pretrained wrote{more}"
        raise UsageError(f"`{option} {text}`: there is no checkpoint folder at that path{_beside(text) or '; ' + what}")
    if "/" not in text and (near := closest(text, CHECKPOINTS)):
        raise UsageError(f"`{option} {text}` is unknown; did you mean {near[0]}?")


def looks_local(text: str) -> bool:
    """Whether a text cannot be an id of the Hub, `owner/name`."""
    return text.startswith((".", "/", "~")) or text.count("/") > 1 or "\\" in text or " " in text


def _check_data(text: str, option: str, registered: list[str]) -> None:
    place, colon, role = text.rpartition(":")
    roles = ("id", "validation", "shift", "open_set")
    if colon and place and role not in roles and (near := nearest_role(role)) and not Path(text).exists():
        raise UsageError(f"`{option} {text}`: {role!r} is not a role; did you mean {place}:{near}?")
    place = place if colon and role in roles else text
    name, _, copy = place.partition("=")
    if name.split("/")[0] in registered:
        if copy and looks_local(copy) and not Path(copy).expanduser().exists():
            raise UsageError(f"`{option} {text}`: {copy} does not exist{_beside(copy)}")
        return
    path = Path(place).expanduser()
    if path.is_dir() and not any(files for _, _, files in os.walk(path)):
        what = "give one folder of images for each class, or parquet files"
        raise UsageError(f"`{option} {text}`: there is no file in the folder {place}; {what}")
    if path.exists() or "," not in place and _may_hold(path.parent, path.name):
        return
    if "," in place and Path(place.split(",")[0].rpartition(":")[0] or place.split(",")[0]).expanduser().exists():
        raise UsageError(f"`{option} {text}`: {place} does not exist; separate several data sets by blanks, not by commas")
    if place.count("/") > 2 or place.startswith((".", "/", "~")):
        raise UsageError(f"`{option} {text}`: {place} does not exist{_beside(place)}")
    if "/" not in place and not re.fullmatch(r"imagenet-seen-unseen-seed\d+", place):
        more = did_you_mean(place, [*registered, *(item.name for item in Path(".").iterdir() if item.is_dir())])
        raise UsageError(
            f"`{option} {text}`: there is no data set {place!r}, neither registered nor as a path{more or '; a Hub id is owner/name'}"
        )


def _may_hold(folder: Path, split: str) -> bool:
    """
    Whether the last part of a path may be a `split` of the data in `folder` rather than a folder itself. To ask `datasets` means to
    search all of `folder`, which may be somebody's home: it names splits after files or usual words, or as a README says.
    """
    if folder in (Path("."), Path("/")) or not folder.is_dir():
        return False
    items = [item for pattern in ("*", "*/*") for item in folder.glob(pattern)]
    if not any(item.suffix in (".parquet", ".tar", ".arrow", ".csv", ".jsonl", ".zip") for item in items):
        return False
    described = any((folder / name).is_file() for name in ("README.md", "dataset_dict.json"))
    return described or re.search("train|test|val|dev", split.lower()) is not None or any(split in item.name for item in items)


def _beside(text: str) -> str:
    """`"; did you mean ...?"` with what lies where the path goes astray."""
    path = Path(text).expanduser()
    for outer, inner in zip(path.parents, path.parts[::-1], strict=False):
        if outer.is_dir():
            near = closest(inner, [item.name for item in outer.iterdir()], 1)
            return f"; did you mean {outer / near[0]}?" if near else ""
    return ""


def _check_output(text: str | None, option: str = "--output_dir") -> None:
    if text is None:
        return
    path = Path(text).expanduser()
    for existing in (path, *path.absolute().parents):
        try:
            # Asked once: another process may take an empty folder away between two questions.
            a_folder = stat.S_ISDIR(existing.stat().st_mode)
            break
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
    else:
        return
    if not a_folder:
        raise UsageError(f"`{option} {text}`: {existing} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK) and existing.is_dir():
        raise UsageError(f"`{option} {text}`: {existing} cannot be written to; name another folder")
