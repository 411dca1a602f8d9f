# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Words for messages: names in quotes, what a mistyped name may stand for, and warnings that are given once."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)
_TOKEN = re.compile(r"\b(?:(?:hf|api_org)_[A-Za-z0-9]{16,}|hf_(?:oauth|jwt)_[\w.-]{16,})")
#: The name and the password within an address.
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@]+@")
#: "row 7 (/home/me/photos/cat/7 (1).jpg): ..."
_FILE = re.compile(r"\(((?:[A-Za-z]:)?[\\/](?:(?!\): ).)*)\)(?=: |$)")
_FOLDERS = re.compile(r"[\\/]")
_OF_THE_ENVIRONMENT = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def without_tokens(text: str, instead: str = "[removed]") -> str:
    """
    Return `text` with something else (`instead`) for access tokens of the Hub, for names and passwords in addresses, and for what
    `HF_TOKEN` holds.
    """
    text = _CREDENTIALS.sub(f"{instead}@", _TOKEN.sub(instead, text))
    for secret in map(os.environ.get, _OF_THE_ENVIRONMENT):
        text = text.replace(secret, instead) if secret and len(secret) >= 8 else text
    return text


def without_folders(line: str) -> str:
    """Return a `line` about an image, in which a file of this machine is named by its folder and name alone."""
    return _FILE.sub(lambda match: f"({'/'.join(_FOLDERS.split(match[1])[-2:]).lstrip('/')})", line)


def one_line(error: Exception) -> str:
    """What an `error` says, without line breaks."""
    return " ".join(str(error).split())


def printable(text: str) -> str:
    """Return `text` with a mark for each letter that no page can show, or that would show it as something else."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def quoted(names: Sequence[str], limit: int = 5) -> str:
    """Return the first `limit` of `names` in quotes, with the number of all: `'dog', 'cat', ... (200 in all)`."""
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown}, ... ({len(names)} in all)"


@functools.cache
def say_once(message: str) -> None:
    """Log a `message` about data as a warning, once, in the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        logger.warning(message)


def closest(word: str, known: Iterable[str], at_most: int = 3) -> list[str]:
    """
    The names that `word` may stand for, the likeliest first.

    Case, leading dashes and the difference between `-` and `_` do not count. A name of which `word` is the beginning is
    likelier than one that looks like it.

    Args:
        word (`str`): As somebody wrote it.
        known (`Iterable[str]`): The names there are.
        at_most (`int`, *optional*, defaults to 3): How many to return.
    """
    keys: dict[str, str] = {}
    for name in known:
        keys.setdefault(_key(name), name)
    key = _key(word)
    if key in keys:
        return [keys[key]]
    begun = [name for other, name in keys.items() if len(key) > 2 and other.startswith(key)]
    near = [keys[other] for other in get_close_matches(key, keys, at_most, cutoff=0.75)]
    return list(dict.fromkeys([*begun, *near]))[:at_most]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean a or b?"` for a `word` close to some of `known`, for a message, or `""`."""
    names = closest(word, known)
    return f"; did you mean {' or '.join(names)}?" if names else ""


def nearby(text: str) -> Path | None:
    """
    What the path in a `text` that is not there may stand for: what lies where it goes astray and is called like it, or what its last part
    names from here.
    """
    path = Path(text).expanduser()
    for outer, inner in zip(path.parents, path.parts[::-1], strict=False):
        if outer.is_dir():
            near = closest(inner, [item.name for item in outer.iterdir()], 1)
            if near:
                rest = outer / near[0] / path.relative_to(outer / inner)
                return rest if rest.exists() else outer / near[0]
            break
    here = Path(path.name)
    return here if len(path.parts) > 1 and not path.is_absolute() and here.is_dir() else None


def beside(text: str) -> str:
    """Return `"; did you mean ...?"` with what is [`nearby`] the path in a `text` that is not there, or `""`."""
    near = nearby(text)
    return "" if near is None else f"; did you mean {near}?"


def _key(name: str) -> str:
    return name.casefold().lstrip("-\u2010\u2011\u2012\u2013\u2014\u2212").replace("-", "_")


def unreadable_note(record: Mapping[str, Any] | None) -> list[str]:
    """
    What a card says of training images that could not be read.

    Args:
        record (`Mapping[str, Any]`, *optional*): `unreadable_images` of a `robustft.json`: `count`, `of` how many if that is known, and
            whether they were `left_out` of training; or others took their places. `None` if all could be read.

    Returns:
        `list[str]`: A sentence, or none if all could be read.
    """
    count, of = (record or {}).get("count"), (record or {}).get("of")
    if not count:
        return []
    images = f"{count:,} of the {of:,} training images" if of else f"{count:,} training {'image' if count == 1 else 'images'}"
    was, place = ("was", "another took its place") if count == 1 else ("were", "others took their places")
    return [f"{images} could not be read and {was} left out." if record.get("left_out") else f"{images} could not be read; {place}."]
