# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
A lock per folder, held by a process that changes it, so that a second one is refused instead of mixing its files in.

The system gives it back when its holder ends, however that ends. It is for one thread, which may take it again; processes that
are forked do not hold it. On a file system without locks a warning says that nobody is kept out.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The lock of a folder, in it: there while it is held, and after a kill until the next one.
LOCK = ".robustft_lock"
#: Seconds in which a process that a killed holder has just forked comes to let go of its lock.
FORKED_SECONDS = 5.0


class FolderInUse(OSError):
    """Another process, or another thread of this one, is changing a folder."""


@dataclass
class _Held:
    """A lock that this process holds; its descriptor is `None` where the file system has none."""

    thread: int
    descriptor: int | None
    made: list[Path] = field(default_factory=list)


_held: dict[str, _Held] = {}


def _after_fork() -> None:
    # What a parent holds is not held by the processes that read images for it, which may outlive it.
    for held in _held.values():
        if held.descriptor is not None:
            os.close(held.descriptor)
        held.descriptor, held.made = None, []
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def hold(folder: Path, by: str | None = None, reads: bool = False) -> Iterator[bool]:
    """
    Hold the lock of a folder; see [`~hf_robustft.files.locked`], which also finishes what was interrupted there.

    Args:
        folder (`Path`), by (`str`, *optional*), reads (`bool`, *optional*, defaults to `False`): As there.

    Yields:
        `bool`: Whether this thread did not hold it already.

    Raises:
        FolderInUse, OSError: As there.
    """
    key = os.path.realpath(folder)
    if key in _held and _held[key].thread == threading.get_ident():
        yield False
        return
    held = _take(folder, key, by, reads)
    try:
        yield True
    finally:
        _give_back(folder, key, held)


def _take(folder: Path, key: str, by: str | None, reads: bool) -> _Held | None:
    # Late: a command line is looked at before packages that take their time are imported.
    from filelock import lock_descriptor

    held, end = _Held(threading.get_ident(), None), time.monotonic() + FORKED_SECONDS
    try:
        while key not in _held:
            try:
                for part in () if reads else (*reversed(folder.absolute().parents), folder.absolute()):
                    if not part.is_dir():
                        part.mkdir(exist_ok=True)
                        held.made.append(part)
                descriptor = _opened(folder / LOCK)
            except OSError as error:
                if reads:
                    return None
                where = Path(error.filename or folder)
                raise OSError(
                    f"{folder} cannot be written ({where.name}: {error.strerror or error}); give a folder that you may write."
                ) from error
            try:
                if not lock_descriptor(descriptor, blocking=False):
                    os.close(descriptor)
                    if time.monotonic() < end and _has_ended(folder):
                        time.sleep(0.01)
                        continue
                    break
            except OSError as error:
                os.close(descriptor)
                (folder / LOCK).unlink(missing_ok=True)
                warnings.warn(
                    f"{folder} is on a file system without locks ({error.strerror or error}): see to it that no other command "
                    "changes it meanwhile.",
                    stacklevel=4,
                )
                _held[key] = held
                return held
            if _is_at(descriptor, folder / LOCK):
                held.descriptor = descriptor
                _held[key] = held
                _sign(descriptor, by)
                return held
            # Its holder removed it in between.
            os.close(descriptor)
        raise FolderInUse(
            f"{folder} is in use by {_holder(folder)}; wait until that has ended, or give another folder. Nothing was changed."
        )
    except BaseException:
        _give_back(folder, key, held)
        raise


def _give_back(folder: Path, key: str, held: _Held | None) -> None:
    if held is None:
        return
    if _held.get(key) is held:
        del _held[key]
    if held.descriptor is not None:
        # While it is held: who opened it before finds that it is no longer there. Windows removes what is closed.
        for step in (lambda: (folder / LOCK).unlink(), lambda: os.close(held.descriptor))[:: -1 if os.name == "nt" else 1]:
            with suppress(OSError):
                step()
    for part in reversed(held.made):
        with suppress(OSError):
            part.rmdir()


def _opened(path: Path) -> int:
    # A link would lead to another file.
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:
        # Left by another user whose process was killed.
        return os.open(path, os.O_RDONLY | flags)


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _sign(descriptor: int, by: str | None) -> None:
    by = by or Path(sys.argv[0] or "python").name
    content = {"command": by, "process": os.getpid(), "machine": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    # Whoever is refused learns less, on a full disk.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        # The first byte is what Windows locks, and others cannot read.
        os.write(descriptor, b" " + json.dumps(content).encode())


def _signed(folder: Path) -> tuple[str, ...] | None:
    """What the holder of a lock has written of itself: its command, process, machine and time."""
    try:
        with open(folder / LOCK, "rb") as file:
            file.seek(1)
            found = json.loads(file.read(2000))
        return tuple(shown(found[name]) for name in ("command", "process", "machine", "since"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _holder(folder: Path) -> str:
    """Who holds the lock of a folder, in words."""
    if (signed := _signed(folder)) is None:
        return "another process"
    command, process, machine, since = signed
    return f"`{command}` (process {process} on {shlex.quote(machine)}, since {since})"


def _has_ended(folder: Path) -> bool:
    """Whether the process that signed a lock is known to have ended."""
    _, process, machine, _ = _signed(folder) or (None, "", None, None)
    # On Windows that signal would end the process.
    if os.name != "posix" or machine != platform.node() or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def shown(value: Any) -> str:
    """A word (`value`) of a file from elsewhere, for a message of one line."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return " ".join(text.split())[:80] if isinstance(value, (str, int)) else "unknown"
