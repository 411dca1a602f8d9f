# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Which commit the branches and tags of repositories on the Hub stand for, for as long as a command runs.

A model goes by its id, a data set by `datasets/` and its id.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_commits: dict[tuple[str, str | None], str] | None = None


@contextmanager
def one_commit() -> Iterator[None]:
    """Within it all files of a repository are of one commit, that of the first one which was asked for, whoever asks."""
    global _commits
    before, _commits = _commits, {} if _commits is None else _commits
    try:
        yield
    finally:
        _commits = before


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
