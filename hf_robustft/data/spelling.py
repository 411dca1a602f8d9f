# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a mistyped name may stand for."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


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


def _key(name: str) -> str:
    return name.casefold().lstrip("-\u2010\u2011\u2012\u2013\u2014\u2212").replace("-", "_")
