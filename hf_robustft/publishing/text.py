# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What may leave this machine, and how it is written so that it stays text in markdown, HTML and YAML."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from enum import Enum
from typing import Any

from ..data.messages import without_tokens

# Of a setting's name, cut at "_": it says where a run lived or who ran it, not what was run.
_PRIVATE_WORDS = {"dir", "dirs", "path", "folder", "file", "hub", "key", "resume", "root", "trackio"}
_SECRET_WORDS = {"token", "password", "passwd", "secret", "apikey", "key", "credential", "credentials"}
_PRIVATE_NAMES = {"run_name", "project", "report_to", "local_rank"}
#: What a published command has in place of a folder of the machine that it ran on.
WITHHELD = "<your folder>"
# Ranges by number, so that this file holds no such character itself.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_HALF = re.compile("[\ud800-\udfff]")
_PART = r"""[^\s\\/"'`,;:|<>()\[\]=]+"""
# The look-behind keeps URLs and relative paths, whose slashes follow a letter, a dot or a colon.
_PATH = re.compile(rf"(?<![\w.:/~\\-])(?:(?:file://)?(?:[\\/]{_PART}){{2,}}|(?:~|[A-Za-z]:)(?:[\\/]{_PART})+)[\\/]?")
_WHOLE_PATH = re.compile(r"(?:file://)?(?:[\\/]|~[^\s\\/]*[\\/]|[A-Za-z]:[\\/])\S.*", re.DOTALL)


def one_line(text: Any) -> str:
    """
    Put a text on one line: without control characters, and with blanks collapsed.

    Marks that change the direction of writing, with which a text can look different from what it says, are removed too,
    and half surrogates, which no file can hold, are replaced.

    Args:
        text (`Any`): The text, or a value that `str` makes one of.

    Returns:
        `str`: The line.
    """
    return " ".join(_CONTROL.sub(" ", _HALF.sub("\ufffd", _DIRECTION.sub("", str(text)))).split())


def public_text(text: Any) -> str:
    """Return the prose `text` with absolute paths cut to their last part, and access tokens of the Hub removed."""
    return without_tokens(_PATH.sub(lambda match: _last_part(match.group()), without_tokens(str(text))))


def public_value(text: Any) -> str:
    """Return the value `text` as `public_text` does; if all of it is an absolute path (with blanks), its last part."""
    text = str(text)
    return public_text(_last_part(text) if _WHOLE_PATH.fullmatch(text) else text)


def public_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """
    Convert settings to JSON types, without those that name places, accounts or secrets.

    Args:
        settings (`Mapping[str, Any]`): Training arguments by name; values may be enums, paths, lists or mappings.

    Returns:
        `dict[str, Any]`: Left out are names with a part such as `dir`, `path`, `token`, `hub` or `resume`
        (`output_dir`, `hub_token`, `resume_from_checkpoint`, ...), `run_name`, `project` and `report_to`. In the
        values that are left, absolute paths are cut to their last part.
    """
    return {str(name): _public_value(value) for name, value in settings.items() if not _is_private(str(name))}


def public_command(command: str) -> str:
    """
    Remove secrets and machine paths from a shell command; a long one gets one line per option.

    Args:
        command (`str`): As typed, or `shlex.join(sys.argv)`.

    Returns:
        `str`: Options and variables that hold secrets (`--hub_token`, `HF_TOKEN=`) are dropped with their values;
        relative paths stay as typed, and of absolute ones all but the last part becomes `<your folder>`.

    Raises:
        ValueError: If quotes are not closed.
    """
    try:
        words = shlex.split(command.replace("\\\n", " "))
    except ValueError as error:
        raise ValueError(f"The command is not a shell command line ({error}); give it as typed.") from None
    kept: list[str] = []
    drop_value = False
    for word in words:
        name, equals, value = word.partition("=")
        if drop_value and not word.startswith("-"):
            drop_value = False
            continue
        drop_value = False
        if (word.startswith("-") or equals) and _SECRET_WORDS & _words(name):
            drop_value = not equals
        else:
            # A program, such as python, is found by its name.
            place = _placed if any("=" not in earlier for earlier in kept) else public_value
            kept.append(f"{name}={place(value)}" if equals and not _PATH.match(name) else place(word))
    return _wrapped([shlex.quote(one_line(word)) for word in kept])


def markdown_text(text: Any) -> str:
    """Return `text` in one line, escaped so that markdown (including tables) and HTML show it as it is."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An underscore between letters does not start emphasis, so names such as emoji_shift stay readable in the source.
    text = re.sub(r"([\\`*\[\]|~$#]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", text)
    # At the start of a line these would begin a list or underline a heading.
    return re.sub(r"^(?:([-+=])(?=[-=\s]|$)|(\d+)([.)])(?=\s|$))", r"\2\\\1\3", text)


def unbroken(text: str) -> str:
    """Return markdown `text` whose hyphens inside words do not break a line, for narrow cells of a table."""
    return re.sub(r"(?<=[^\W\d_])-(?=[^\W\d_])", "\N{NON-BREAKING HYPHEN}", text)


def code_span(text: Any) -> str:
    """Return `text` in one line as inline code, or escaped where backticks or a table's bars would end the code."""
    text = one_line(text)
    return f"`{text}`" if text and not set("`|<>&") & set(text) else markdown_text(text)


def code_block(code: str, language: str) -> str:
    """Return a block of `code` in a `language`, with a fence longer than any run of backticks inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code.rstrip()}\n{fence}"


def link_or_text(text: Any) -> str:
    """Return a web address `text` as a link, anything else as escaped text."""
    text = one_line(text)
    if re.fullmatch(r"https?://[^\s<>|()\[\]`\"\\]+", text):
        return f"<{text}>"
    return markdown_text(public_text(text))


def source_string(text: Any) -> str:
    """Return `text` as a string in Python's source, also valid JSON, with invisible characters escaped."""
    quoted = json.dumps(str(text), ensure_ascii=False)
    for hidden in (_CONTROL, _DIRECTION, _HALF):
        quoted = hidden.sub(lambda match: f"\\u{ord(match.group()):04x}", quoted)
    return quoted


def duration(seconds: float) -> str:
    """Return `seconds` as a person writes them: 41.3 s, 12 min 13 s, 5 h 2 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def shown_value(value: Any) -> str:
    """Return the `value` of a setting from `public_settings` in words; numbers keep all their digits."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        return ", ".join(shown_value(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}: {shown_value(item)}" for name, item in value.items())
    return str(value)


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def _is_private(name: str) -> bool:
    return bool((_PRIVATE_WORDS | _SECRET_WORDS) & _words(name)) or name in _PRIVATE_NAMES


def _public_value(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return public_settings(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_public_value(item) for item in items]
    return one_line(public_value(value))


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1].removeprefix("~")


def _placed(word: str) -> str:
    """A word of a command whose absolute paths say that something is withheld: cut, they would name other files."""
    if _WHOLE_PATH.fullmatch(word):
        return without_tokens(f"{WITHHELD}/{_last_part(word)}")
    return without_tokens(_PATH.sub(lambda match: f"{WITHHELD}/{_last_part(match.group())}", word))


def _wrapped(words: list[str], width: int = 90) -> str:
    if len(" ".join(words)) <= width:
        return " ".join(words)
    lines = [""]
    for word in words:
        if word.startswith("--"):
            lines.append(f"    {word}")
        else:
            lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return " \\\n".join(lines)
