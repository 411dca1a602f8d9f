# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""YAML files of arguments, one's own or a recipe of the package, read by the types of the flags."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ..data.messages import closest, did_you_mean
from .parser import Manners, UsageError, main_flag, unknown_choice

#: What may not be set in a file: it would be read too late, or not at all.
_FLAGS_ONLY = ("config", "help", "help_all")
class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-1 for a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def recipes() -> list[str]:
    """The names of the recipes that come with the package, such as `"emoji_shift/carot"`."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.glob("*/*.yaml"))


def read_recipe(parser: Manners, name: str, method: str | None = None) -> dict[str, Any]:
    """
    The settings of a recipe, as [`read_config`] reads them.

    Args:
        parser ([`Manners`]): Whose flags the keys are.
        name (`str`): Such as `"emoji_shift/carot"`.
        method (`str`, *optional*): The method that was given beside it.

    Raises:
        UsageError: If there is no such recipe (the message names those that there are), or it is another method's.
    """
    if name not in recipes():
        raise UsageError(unknown_choice(f"--recipe {name}", name, recipes()))
    settings = read_config(parser, RECIPES / f"{name}.yaml")
    if method not in (None, settings["method"]):
        other = f"{name.partition('/')[0]}/{method}"
        instead = f", or give --recipe {other}" if other in recipes() else ""
        raise UsageError(f"`--recipe {name}` is not for `--method {method}`; leave one of them out{instead}")
    return settings


def read_config(parser: Manners, path: str | Path) -> dict[str, Any]:
    """
    The settings of a YAML file.

    A plain value is read as its flag reads it: 1e-3 is a number, `save_strategy: no` the word. `null` leaves a setting at
    its default.

    Args:
        parser ([`Manners`]): Whose flags the keys are, with underscores or hyphens.
        path (`str` or `Path`): The file.

    Raises:
        UsageError: If there is no such file, it is not a YAML mapping, a key is unknown or given twice, or a value does
            not fit its flag. The message names the file, and the line where there is one.
    """
    path = Path(path)
    node = _compose(path)
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{_at(path, node)}: a config file is a mapping of arguments, `learning_rate: 1e-5` on each line")
    known = [flag.removeprefix("--") for flag in parser.flags()]
    # `--no_x` sets x, which a file does by `x: false`.
    known = [name for name in known if name not in _FLAGS_ONLY and parser.action_of(name) is not None]
    settings: dict[str, Any] = {}
    for key, value in node.value:
        name = str(key.value).removeprefix("--").replace("-", "_") if isinstance(key, yaml.ScalarNode) else ""
        if name not in known:
            positive = name.removeprefix("no_")
            hint = f"; write {positive}: false" if positive in known else did_you_mean(name, known)
            raise UsageError(
                f"{_at(path, key)}: {key.value!r} is not an argument{hint or '; `--help_all` lists what there is'}"
            )
        if name in settings:
            raise UsageError(f"{_at(path, key)}: {name} is set a second time; leave one of them out")
        read = _value(parser, path, name, value)
        if read is not None:
            settings[name] = read
    return settings


def _compose(path: Path) -> yaml.Node | None:
    if not path.is_file():
        if path.is_dir():
            raise UsageError(f"`--config {path}` is a folder; name a YAML file in it")
        beside = sorted(item.name for item in path.parent.iterdir()) if path.parent.is_dir() else []
        near = closest(path.name, [name for name in beside if name.endswith((".yaml", ".yml", ".json"))], 1)
        more = f"did you mean {path.with_name(near[0])}?" if near else f"for a recipe of the package give --recipe, one of {', '.join(recipes())}"
        raise UsageError(f"`--config {path}`: there is no such file; {more}")
    try:
        return yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text in UTF-8 ({error.reason}); save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        hint = "; indent with spaces" if "\\t" in str(error.problem) else ""
        raise UsageError(f"{path}{where}: this is not YAML: {error.problem or error.context}{hint}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from None


def _at(path: Path, node: yaml.Node) -> str:
    return f"{path}, line {node.start_mark.line + 1}"


def _value(parser: Manners, path: Path, name: str, node: yaml.Node) -> Any:
    action = next(action for action in parser._actions if main_flag(action) == f"--{name}")
    several = action.nargs in ("+", "*")
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:null":
            if not node.value:
                # A value that was forgotten is not one that is meant to be the default.
                raise UsageError(f"{_at(path, node)}: {name} has no value; give one, or leave the line out (null is the default)")
            return None
        texts = [node.value]
    elif isinstance(node, yaml.SequenceNode) and several:
        wrong = next((item for item in node.value if not isinstance(item, yaml.ScalarNode)), None)
        if wrong is not None:
            raise UsageError(f"{_at(path, wrong)}: {name} is a list of plain values")
        texts = [item.value for item in node.value]
    elif isinstance(node, yaml.MappingNode) and action.type in (str, dict, None) and not several:
        return _plain(node)
    else:
        kind = {yaml.SequenceNode: "a list", yaml.MappingNode: "a mapping"}[type(node)]
        raise UsageError(f"{_at(path, node)}: {name} takes {'a list' if several else 'one value'}, not {kind}")
    if not texts or any(not text.strip() for text in texts):
        raise UsageError(f"{_at(path, node)}: {name} is empty; give a value, or leave it out")
    try:
        return parser.parse_values(action.dest, texts)
    except UsageError as error:
        raise UsageError(f"{_at(path, node)}: {error}") from None


def _plain(node: yaml.Node) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(" ".join(str(error).split())) from None
    finally:
        loader.dispose()
