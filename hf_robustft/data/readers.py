# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Processes that read images: begun for certain, on a Python whose `fork` can hang."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing import context, popen_fork

from .messages import logger

#: Python before 3.11.10: a forked process waits without end for a lock that another thread of its parent held when it was
#: forked, such as one of a process group (python/cpython#112275).
FORK_CAN_HANG = sys.version_info < (3, 11, 10)
#: Seconds that a process is given to begin, and how often one that has not is put in the place of the last.
SECONDS, TRIES = 30.0, 4


def reading_context(workers: int) -> context.BaseContext | None:
    """
    Return what a `DataLoader` starts its workers with, as its `multiprocessing_context`.

    Where `fork` can hang, a worker that does not begin is ended and started again. It has taken nothing by then.

    Args:
        workers (`int`): How many there are.

    Returns:
        `multiprocessing.context.BaseContext` or `None`: `None`, for the default, where nothing can hang: without workers,
        with a start method other than `fork`, and from Python 3.11.10 on.
    """
    method = multiprocessing.get_start_method(allow_none=True) or ("fork" if sys.platform == "linux" else "spawn")
    return _Forking() if FORK_CAN_HANG and workers and method == "fork" else None


class _Forked(popen_fork.Popen):
    """A forked process that has said that it is here."""

    def _launch(self, process: _Reader) -> None:
        for left in reversed(range(TRIES)):
            ours, theirs = process.line = socket.socketpair()
            with ours:
                with theirs:
                    super()._launch(process)
                ours.settimeout(SECONDS)
                try:
                    ours.recv(1)
                except TimeoutError:
                    self._give_up(left)
                    continue
                # A process that has ended by now is told from its exit code, as any other.
                with contextlib.suppress(ConnectionError):
                    ours.send(b".")
                return
        raise RuntimeError(
            f"{TRIES} reading processes did not begin within {SECONDS:g} seconds each; read without any "
            "(--dataloader_num_workers 0), or with Python 3.11.10 or later, whose fork does not hang."
        )

    def _give_up(self, left: int) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.finalizer()
        if left:
            version = ".".join(map(str, sys.version_info[:3]))
            message = "A reading process did not begin within %g seconds, as can happen with Python %s; it is started again."
            logger.warning(message, SECONDS, version)


class _Reader(context.ForkProcess):
    """A process that waits until its parent knows that it has begun."""

    line: tuple[socket.socket, socket.socket]

    @staticmethod
    def _Popen(process: _Reader) -> _Forked:
        return _Forked(process)

    def run(self) -> None:
        ours, theirs = self.line
        ours.close()
        told = b""
        # Without an answer the parent has ended, or has put another process in this one's place.
        with theirs, contextlib.suppress(ConnectionError):
            theirs.send(b".")
            told = theirs.recv(1)
        if told:
            super().run()


class _Forking(context.ForkContext):
    Process = _Reader
