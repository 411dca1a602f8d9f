# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The manners of every command line of this package: an error is one line that names what to change, and nothing is guessed.

`Manners` goes in front of `argparse.ArgumentParser` (`Parser`) or of Transformers' `HfArgumentParser`. It imports neither
torch nor Transformers, so that what is wrong with a command line is said in the first second.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ..data.messages import closest, did_you_mean

_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "t", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "f", "n", "0"), False),
}
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2212"


class UsageError(ValueError):
    """A command line that cannot be carried out, in one line."""


def boolean(text: str | bool) -> bool:
    """`True` where `text` is true, yes, on or 1; `False` for false, no, off, 0. Raises ValueError for anything else."""
    if isinstance(text, bool):
        return text
    if text.strip().casefold() not in _BOOLEANS:
        raise ValueError(f"must be true or false{did_you_mean(text, ('true', 'false'))}")
    return _BOOLEANS[text.strip().casefold()]


def number(text: str | float) -> float:
    """The finite number that `text` is. Raises ValueError for anything else."""
    try:
        value = float(text)
    except ValueError:
        more = "; write a decimal point" if re.fullmatch(r"-?\d+,\d+", str(text).strip()) else ""
        raise ValueError(f"must be a number{more}") from None
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


def whole_number(text: str | int) -> int:
    """The whole number that `text` is, also written as 1e3. Raises ValueError for anything else."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = number(text)
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise ValueError("must be a whole number")
    return int(value)


def _is_boolean(type_: Any) -> bool:
    return type_ is boolean or type_ is bool or getattr(type_, "__name__", "") == "string_to_bool"


def shown(text: str) -> str:
    """A value (`text`) as a message shows it: as it is, or in quotes if it would not be seen otherwise."""
    return text if text.strip() and not re.search(r"\s", text) else repr(text)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Each flag with one spelling, and with its default where that says something."""

    def __init__(self, prog: str, **kwargs):
        super().__init__(prog, **{"max_help_position": 36, "width": 110, **kwargs})

    def add_argument(self, action: argparse.Action) -> None:
        """As `argparse` has it, without `--no_x`, which stands beside `--x`."""
        if not isinstance(action, argparse._StoreFalseAction):
            super().add_argument(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        flag = main_flag(action)
        if _is_boolean(action.type):
            return flag.replace("--", "--[no_]") if action.default is True else flag
        metavar = self._format_args(action, self._get_default_metavar_for_optional(action))
        return flag if action.nargs == 0 else f"{flag} {metavar}"

    def _metavar_formatter(self, action: argparse.Action, default_metavar: str):
        named = super()._metavar_formatter(action, default_metavar)
        # More words than fit beside the text stand in it.
        if action.choices is None or len(main_flag(action)) + len(named(1)[0]) < self._max_help_position - 4:
            return named
        return lambda size: ("NAME",) * size

    def _get_help_string(self, action: argparse.Action) -> str | None:
        # A share written as "5 %" is not a conversion.
        text = re.sub(r"(?<!%)%(?![%(])", "%%", action.help or "")
        silent = (None, argparse.SUPPRESS, "", []) if not _is_boolean(action.type) else (None, argparse.SUPPRESS, False)
        if action.default in silent or action.nargs == 0 or "(default" in text or not action.option_strings:
            return text
        return f"{text} (default: {shown_value(action.default)})".strip()

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return {number: "NUMBER", whole_number: "N"}.get(action.type, "VALUE")


def shown_value(value: Any) -> str:
    """A default `value` as help shows it."""
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    return str(value).lower() if isinstance(value, bool) else str(value)


def main_flag(action: argparse.Action) -> str:
    """The flag of an `action` that messages and help use: the first long one, or the name of a positional argument."""
    long = [flag for flag in action.option_strings if flag.startswith("--")]
    return (long or action.option_strings or [action.metavar or action.dest])[0]


class Manners:
    """
    Goes in front of `argparse.ArgumentParser` or a subclass.

    An error raises [`UsageError`] instead of printing the usage and leaving. Flags are not abbreviated. A misspelt flag or
    value is answered with those that are close. Hyphens stand for underscores. A boolean flag needs no value and takes only
    the word for one. Negative numbers may have exponents. Numbers are finite, and 1e3 is a whole number. A flag without a
    value, an empty value, a list given in two parts and a stray word are refused; of a single value given twice the last
    counts, which is said on standard error.
    """

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})
        #: By argument the numbers that it may be, where a description says so; elsewhere who declares it checks them.
        self.ranges: dict[str, Any] = {}
        self._negative_number_matcher = re.compile(
            r"^-(?:\d[\d_]*\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|inf|infinity|nan)$", re.IGNORECASE
        )

    def error(self, message: str):
        """Raises UsageError."""
        raise UsageError(message)

    def exit(self, status: int = 0, message: str | None = None):
        """Leave after the help; Raises UsageError after anything else."""
        if status:
            raise UsageError((message or "").strip())
        super().exit(status, message)

    def flags(self) -> list[str]:
        """Every flag in the spelling that messages use."""
        return list(
            dict.fromkeys(main_flag(action) for action in self._actions if action.option_strings and action.dest != "help")
        )

    def action_of(self, dest: str) -> argparse.Action | None:
        """The argument that sets `dest`; of a flag and its `--no_` form the flag."""
        return next((action for action in self._actions if action.dest == dest), None)

    def parse_known_args(self, args=None, namespace=None):
        """As `argparse` has it, but nothing is left over: what belongs to no argument is refused."""
        arguments = sys.argv[1:] if args is None else [str(argument) for argument in args]
        self._adopt()
        namespace, rest = super().parse_known_args(self._prepared(arguments), namespace)
        if rest:
            raise self._stray(rest[0])
        return namespace, []

    def format_usage(self) -> str:
        """One line: what must be given."""
        return f"usage: {self._short_usage()}\n"

    def format_help(self) -> str:
        """The help, below one line of usage."""
        self._adopt()
        # A line instead of one entry for each of up to two hundred flags.
        self.usage = self._short_usage()
        return super().format_help()

    def _short_usage(self) -> str:
        needed = [action for action in self._actions if action.required]
        needed.sort(key=lambda action: bool(action.option_strings))
        parts = [
            f"{main_flag(action)} {action.metavar or action.dest.upper()}" if action.option_strings else main_flag(action)
            for action in needed
        ]
        return " ".join([self.prog.replace("%", "%%"), *parts, "[--flag VALUE ...]"])

    def _adopt(self) -> None:
        """Give every argument our types: Transformers' own do not know an exponent, an infinity, or a flag alone."""
        for action in self._actions:
            action.type = {int: whole_number, float: number}.get(action.type, action.type)
            if _is_boolean(action.type):
                action.type = boolean
                if action.nargs is None:
                    action.nargs, action.const = "?", True
            for flag in action.option_strings:
                if flag.startswith("--"):
                    self._option_string_actions.setdefault(flag.replace("_", "-"), action)

    def _prepared(self, arguments: list[str]) -> list[str]:
        """The arguments with booleans made explicit; refuses what argparse would take in silence."""
        prepared, seen = [], {}
        # Of several positional arguments the last takes what is left, which argparse looks for in one place only.
        words = prepared if sum(not action.option_strings for action in self._actions) < 2 else []
        position = 0
        while position < len(arguments):
            text = arguments[position]
            position += 1
            if text == "--":
                rest = arguments[position - 1 :]
                return [*prepared, *rest] if words is prepared else [*prepared, "--", *words, *rest[1:]]
            flag, equals, value = text.partition("=")
            action = self._option_string_actions.get(flag) if flag.startswith("-") else None
            if action is None:
                if self._looks_like_a_flag(text):
                    # Before argparse finds that a required flag is missing, of which this may be the misspelling.
                    raise self._stray(text)
                words.append(text)
                continue
            if equals and not value.strip():
                raise UsageError(self._empty(action))
            following = arguments[position] if position < len(arguments) else None
            if not equals and action.nargs != 0 and following is not None and not following.strip():
                raise UsageError(self._empty(action))
            if action.type is boolean and action.nargs == "?":
                if not equals:
                    takes = following is not None and self._stands_for_a_boolean(following)
                    value = arguments[position] if takes else "true"
                    position += takes
                text = f"{flag}={value}"
            prepared.append(text)
            if words is not prepared and action.nargs is None and not equals and following is not None:
                prepared.append(following)
                position += 1
            elif words is not prepared and action.nargs in ("+", "*") and not equals:
                while position < len(arguments) and not arguments[position].startswith("-"):
                    prepared.append(arguments[position])
                    position += 1
            self._note_repetition(action, flag, seen)
        return prepared if words is prepared or not words else [*prepared, "--", *words]

    def _looks_like_a_flag(self, text: str) -> bool:
        return text[:1] in _DASHES and bool(text.strip(_DASHES)) and not (
            " " in text or self._negative_number_matcher.match(text)
        )

    def _stands_for_a_boolean(self, text: str) -> bool:
        """Whether the word behind a boolean flag is its value; with positional arguments only a correct one is."""
        if text in self._option_string_actions:
            # However much it looks like one, as --rule does.
            return False
        if text.strip().casefold() in _BOOLEANS or closest(text, ("true", "false")):
            return True
        return not text.startswith("-") and all(action.option_strings for action in self._actions)

    def _empty(self, action: argparse.Action) -> str:
        return (
            f"`{main_flag(action)}` is followed by an empty value; give one, or leave the flag out (is a variable of your "
            "shell unset?)"
        )

    def _note_repetition(self, action: argparse.Action, flag: str, seen: dict[str, str]) -> None:
        if action.dest in seen and not isinstance(action, argparse._AppendAction):
            if action.nargs in ("+", "*") or isinstance(action.nargs, int) and action.nargs > 1:
                raise UsageError(
                    f"`{main_flag(action)}` is given twice; give all its values once, `{main_flag(action)} A B`"
                )
            before = "" if flag == seen[action.dest] else f" after `{seen[action.dest]}`"
            print(f"Note: `{flag}` is given again{before}; the last one counts.", file=sys.stderr)
        seen[action.dest] = flag

    def _stray(self, text: str) -> UsageError:
        """What is left over, in one line: a flag that does not exist, or a word that belongs to none."""
        name, equals, value = text.partition("=")
        flags = self.flags()
        if self._looks_like_a_flag(text):
            names = [*flags, *(flag for flag in self._option_string_actions if flag.startswith("--no_"))]
            word = name.lstrip("-").replace("-", "_")
            for action in self._get_positional_actions():
                if word in (action.dest, *_POSITIONS.get(action.dest, ())):
                    order = " ".join(main_flag(other) for other in self._get_positional_actions())
                    return UsageError(f"`{name}` is unknown; {main_flag(action)} is given without a flag, `{self.prog} {order}`")
            return unknown_flag(name, names, self._where())
        if equals and (near := closest(name, flags, 1)):
            return UsageError(f"{shown(text)} belongs to no flag; did you mean {near[0]} {shown(value)}?")
        if near := [flag for flag in flags if flag[2:] == text.replace("-", "_")]:
            return UsageError(f"{shown(text)} belongs to no flag; did you mean {near[0]}?")
        return UsageError(
            f"{shown(text)} belongs to no flag; write --flag VALUE, with quotes around a value with spaces; {self._where()}"
        )

    def _where(self) -> str:
        return f"`{self.prog} --help` lists what there is"

    def _get_value(self, action, arg_string):
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError:
            flag = main_flag(action)
            try:
                action.type(arg_string)
            except ValueError as error:
                raise UsageError(f"`{flag} {shown(arg_string)}` {error}") from None
            raise

    def _match_argument(self, action, arg_strings_pattern):
        try:
            return super()._match_argument(action, arg_strings_pattern)
        except argparse.ArgumentError:
            kind = {number: "a number", whole_number: "a whole number"}.get(action.type, "a value")
            raise UsageError(f"`{main_flag(action)}` needs {kind} behind it") from None

    def _check_value(self, action, value):
        choices = action.choices
        if choices is None or isinstance(action, argparse._SubParsersAction) or value in choices:
            return super()._check_value(action, value)
        names = [str(getattr(choice, "value", choice)) for choice in choices]
        raise UsageError(unknown_choice(f"{main_flag(action)} {shown(str(value))}", str(value), names))

    def parse_values(self, dest: str, values: Iterable[str]) -> Any:
        """Texts, as a file has them, for the argument `dest`: converted and checked as on the command line."""
        self._adopt()
        action = self.action_of(dest)
        found = []
        for text in values:
            value = self._get_value(action, text)
            self._check_value(action, value)
            found.append(value)
        return found if action.nargs in ("+", "*") else found[0]


#: What flags are called by other programs, and were by Transformers before.
_ELSEWHERE = {
    "warmup_ratio": ("--warmup_steps",),
    "evaluation_strategy": ("--eval_strategy",),
    "no_cuda": ("--use_cpu",),
    "cpu": ("--use_cpu",),
    "lr": ("--learning_rate", "--learning_rates"),
    "wd": ("--weight_decay",),
    "epochs": ("--num_train_epochs",),
    "steps": ("--max_steps",),
    "batch_size": ("--per_device_train_batch_size",),
    "num_workers": ("--dataloader_num_workers",),
    "workers": ("--dataloader_num_workers", "--num_workers"),
    "model_name_or_path": ("--model",),
    "dataset_name": ("--train_dataset",),
    "data": ("--train_dataset", "--dataset", "--eval_datasets"),
    "dataset": ("--train_dataset", "--eval_datasets"),
    "output": ("--output_dir",),
    "out": ("--output_dir",),
    "resume": ("--resume_from_checkpoint",),
}

_MODEL = ("model", "checkpoint", "model_name_or_path", "dir", "folder")
#: What is taken for the flags of words that have none, by the name of the argument.
_POSITIONS = {"model": _MODEL, "directory": _MODEL, "folder": _MODEL, "images": ("image", "dataset", "data", "input")}


def unknown_flag(name: str, flags: Sequence[str], where: str) -> UsageError:
    """The error where the flag `name` is not among `flags`; `where` says what lists them, for a name like none."""
    near = [flag for flag in _ELSEWHERE.get(name.replace("-", "_").removeprefix("__"), ()) if flag in flags] or closest(name, flags)
    more = f"did you mean {' or '.join(near)}?" if near else where
    return UsageError(f"`{name}` is unknown; {more}")


def unknown_choice(what: str, word: str, names: Sequence[str]) -> str:
    """The message on `what` was given where `word` is not among `names`."""
    near = did_you_mean(word, names)
    return f"`{what}` is unknown{f'{near} Choose' if near else '; choose'} one of {', '.join(names)}"


class Parser(Manners, argparse.ArgumentParser):
    """`argparse.ArgumentParser` with `Manners`."""
