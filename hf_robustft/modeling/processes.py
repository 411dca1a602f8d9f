# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Processes that count together and fail together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather

from ..data.pinned import known_commits, pin


class _FailedElsewhere(RuntimeError):
    """Another process has failed and said so; it no longer waits for the others."""


def check_one_process(what: str, state: PartialState) -> None:
    """Refuse to go on in several processes (`state`) with `what`, which works in one. Raises ValueError."""
    if state.num_processes > 1:
        raise ValueError(f"There are {state.num_processes} processes, and `{what}` works in one; start it without a launcher.")


def together(state: PartialState, *counts: int, failed: bool = False) -> tuple[int, ...]:
    """
    Sum a few counts over the processes. Whenever processes meet, be it to compare or because one has failed, each sends one
    message of this form, so that a failure is understood at whichever meeting the others are.

    Args:
        state (`PartialState`): The processes.
        counts (`int`): At most two.
        failed (`bool`, *optional*, defaults to `False`): Whether this process has failed.

    Raises:
        RuntimeError: In a process that has not failed, if another one has.
    """
    counts = (*counts, 0, 0)[:2]
    if state.num_processes == 1:
        return counts
    told = gather(torch.tensor([[int(failed), *counts]], device=state.device)).cpu()
    if not failed and told[:, 0].any():
        raise _FailedElsewhere(", ".join(str(rank) for rank in told[:, 0].nonzero().flatten().tolist()))
    return tuple(told[:, 1:].sum(dim=0).tolist())


@contextmanager
def failing_together(what: str, state: PartialState) -> Iterator[None]:
    """
    Raise in every process if the block failed in one; a process that stopped alone would leave the others waiting.

    Args:
        what (`str`): What the block does, for the message.
        state (`PartialState`): The processes.

    Raises:
        RuntimeError: In the processes that did not fail, if another one did.
    """
    try:
        try:
            yield
        except _FailedElsewhere:
            raise
        except Exception:
            together(state, failed=True)
            raise
        together(state)
    except _FailedElsewhere as where:
        raise RuntimeError(f"{what} failed in process {where}, whose own error says why.") from None


@contextmanager
def commits_of_the_first(state: PartialState) -> Iterator[None]:
    """
    The main process goes through the block before the others, which take models and data of the commits that it was told by the Hub.

    Args:
        state (`PartialState`): The processes. All of them come here.
    """
    known: list[Any] = [None]
    if not state.is_main_process:
        broadcast_object_list(known)
        for (source, revision), commit in known[0].items():
            pin(source, revision, commit)
    try:
        yield
    finally:
        if state.is_main_process and state.num_processes > 1:
            broadcast_object_list([known_commits()])
