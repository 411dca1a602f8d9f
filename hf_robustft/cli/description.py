# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The flags of every command, described without importing what declares them.

torch and Transformers take seconds to import, and a misspelt flag or `--help` must not wait for them. `flags.json` holds
what `cli.describe` read from the real parsers; `Described` builds a parser from it that knows names, types, choices,
defaults and help. The real parser runs afterwards and decides. A description that was made from other files, or from
another version of Transformers, is not used.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .parser import HelpFormatter, Manners, Parser, boolean, main_flag, number, whole_number

FLAGS_FILE = Path(__file__).with_name("flags.json")
PACKAGE = Path(__file__).resolve().parent.parent
TYPES = {"boolean": boolean, "number": number, "whole number": whole_number}
_DATACLASSES = re.compile(rb"^@dataclass.*?(?=\n\n\n|\Z)", re.M | re.S)
#: Groups that `--help` leaves to `--help_all`.
REST = "the rest of Transformers' TrainingArguments"


def action_facts(action: argparse.Action, group: str) -> dict[str, Any]:
    """What a parser says of one argument, as JSON."""
    kind = type(action).__name__.strip("_").removesuffix("Action")
    facts = {
        "flags": [flag for flag in action.option_strings if "-" not in flag.lstrip("-")],
        "dest": action.dest,
        "action": {"StoreTrue": "store_true", "StoreFalse": "store_false", "Append": "append"}.get(kind, "store"),
        "type": next((name for name, type_ in TYPES.items() if type_ is action.type), None),
        "nargs": action.nargs,
        "const": action.const,
        "default": getattr(action.default, "value", action.default),
        "choices": None if action.choices is None else [getattr(item, "value", item) for item in action.choices],
        "help": action.help,
        "metavar": action.metavar,
        "required": action.required,
        "group": group,
    }
    if facts["action"] in ("store_true", "store_false"):
        facts.update(nargs=None, const=None)
    return {name: value for name, value in facts.items() if value not in (None, [], False) or name in ("default",)}


def source_hash(files: list[str]) -> str:
    """One hash over files of the package, whatever their line ends; outside `cli` their dataclasses alone declare flags."""
    digest = hashlib.sha256()
    for name in files:
        path = PACKAGE / name
        content = path.read_bytes().replace(b"\r\n", b"\n") if path.is_file() else b"missing"
        digest.update(content if name.startswith("cli/") else b"".join(_DATACLASSES.findall(content)))
    return digest.hexdigest()


def transformers_version() -> str | None:
    """The installed version, without importing it."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        return None


class Description:
    """`flags.json`, or what `cli.describe` would write into it."""

    def __init__(self, facts: dict[str, Any]):
        self.facts = facts

    @classmethod
    def load(cls) -> Description | None:
        """The description, or `None` where it is missing or does not describe what is installed."""
        try:
            facts = json.loads(FLAGS_FILE.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        current = facts["transformers"] == transformers_version() and facts["hash"] == source_hash(facts["sources"])
        return cls(facts) if current else None

    def parser(self, command: str, everything: bool = False) -> Parser:
        """
        The parser of a command, without the code that carries it out.

        Args:
            command (`str`): `"train"` (the example script), `"evaluate"` and so on.
            everything (`bool`, *optional*, defaults to `False`): Show in `--help` what `--help_all` shows.
        """
        facts = self.facts["commands"][command]
        parser = Parser(prog=facts["prog"], description=facts["description"], add_help=False)
        groups: dict[str, Any] = {}
        for item in facts["arguments"]:
            item = dict(item)
            flags, group = item.pop("flags", [item["dest"]]), item.pop("group")
            if item["action"] != "store":
                item.pop("type", None)
            if "type" in item:
                item["type"] = TYPES[item["type"]]
            if flags == [item["dest"]]:
                item.pop("dest"), item.pop("required", None)
            if group == REST and not everything:
                item["help"] = argparse.SUPPRESS
            if group not in groups:
                groups[group] = parser.add_argument_group(group)
            groups[group].add_argument(*flags, **item)
        return add_help(parser, any(item["group"] == REST for item in facts["arguments"]))


class _HelpAll(argparse.Action):
    """`--help_all`: the help with what `--help` leaves out."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        Description.load().parser("train", everything=True).print_help()
        parser.exit()


def add_help(parser: Manners, has_rest: bool) -> Any:
    """Add `--help`, and `--help_all` where there is more."""
    group = parser.add_argument_group("help")
    group.add_argument("-h", "--help", action="help", help="Show this and leave.")
    if has_rest:
        group.add_argument("--help_all", action=_HelpAll, help=f"Show {REST} too, and leave.")
    return parser


__all__ = ["Description", "HelpFormatter", "add_help", "main_flag"]
