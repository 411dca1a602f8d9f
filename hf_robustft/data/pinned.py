# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Which commit the branches and tags of repositories on the Hub stand for, for as long as a command runs.

A model goes by its id, a data set by `datasets/` and its id.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

_commits: dict[tuple[str, str | None], str] | None = None
#: By place why it did not answer, and until when it is not asked again.
_silent: dict[str, tuple[str, float]] | None = None


@contextmanager
def one_commit() -> Iterator[None]:
    """
    Within it all files of a repository are of one commit, that of the first one which was asked for, whoever asks; and who does not
    answer is not asked again for a while.
    """
    global _commits, _silent
    before = _commits, _silent
    _commits, _silent = ({} if state is None else state for state in before)
    try:
        yield
    finally:
        _commits, _silent = before


def pinned(source: str, revision: str | None) -> str | None:
    """Return the commit of the repository `source` that a `revision` stands for, or as it was given where none is known yet."""
    return (_commits or {}).get((source, revision), revision)


def pinning() -> bool:
    """Whether [`one_commit`] holds."""
    return _commits is not None


def known_commits() -> dict[tuple[str, str | None], str]:
    """Which commit each revision of a repository stands for, as far as [`one_commit`] has asked."""
    return dict(_commits or {})


def pin(source: str, revision: str | None, commit: str) -> None:
    """Say that a `revision` of the repository `source` stands for a `commit`, for as long as [`one_commit`] holds."""
    if _commits is not None:
        _commits.setdefault((source, revision), commit)


def silent(place: str) -> str:
    """Why a `place` on the net did not answer a moment ago, as far as [`one_commit`] knows; `""` if it may be asked."""
    reason, until = (_silent or {}).get(place, ("", 0.0))
    return reason if time.monotonic() < until else ""


def keep_silent(place: str, reason: str, seconds: float = 60.0) -> None:
    """Say for a `reason` that a `place` is not to be asked for so many `seconds`, as long as [`one_commit`] holds."""
    if _silent is not None:
        _silent[place] = reason, time.monotonic() + seconds
