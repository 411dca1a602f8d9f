# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Kill -9 at a chosen moment: a forked process ends before its n-th change of files, wherever in the program that is."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def is_change(event: str, arguments: tuple, folder: str) -> bool:
    """Whether an audit event of Python is a change of a file in a folder, or one relative to an opened folder, as `rmtree` makes."""
    if event == "open":
        path, _, flags = arguments
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(folder) and bool((flags or 0) & _WRITING)
    if event not in _CHANGES:
        return False
    paths = [os.fspath(item) for item in arguments if isinstance(item, (str, os.PathLike))]
    return any(path.startswith(folder) or not os.path.isabs(path) for path in paths)


def ends_before(moment: int, call: Callable[[], object], folder: Path) -> bool:
    """
    Whether a process that does `call` was killed before its change number `moment` (from 1) of files in a `folder`.

    It is forked, so that it knows all that this one does. If it makes fewer changes it comes to its end, and must not fail.
    """
    pid = os.fork()
    if not pid:
        seen = 0

        def watch(event, arguments):
            nonlocal seen
            if is_change(event, arguments, str(folder)):
                seen += 1
                if seen == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(watch)
            call()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), f"exit status {status}"
    return status != 0
