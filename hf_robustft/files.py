# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The room of writing: files that are whole or not there, folders whose files change together, and a lock per folder.

Every file of this package is written beside its place, brought to the disk, and renamed. Several files of a folder change by a
journal: the new ones are written into `STAGE`, the journal beside them says which come and which go, one rename to `READY`
decides, and whatever is killed after that is finished by the next reader or writer on the same machine. So after kill -9, at
any moment, a folder is what it was or what it was to become.

After loss of power that holds as far as the system keeps what it says of `fsync`, which is called on each file before its
rename and on each folder after one. On Linux local disks do. On macOS the data reach the drive, which may still hold them in
its own memory. On Windows there is no `fsync` of a folder: the contents are on the disk, and whether the rename is, NTFS
decides; after loss of power one of the two whole states is found there too. Network file systems do what their server does.

A lock is held by a process that changes a folder, so that a second one is refused instead of mixing its files in. The system
gives it back when its holder ends, however that ends. On a file system without locks a warning says that nobody is kept out.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import shlex
import shutil
import stat
import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The lock of a folder, in it: there while it is held, and after a kill until the next one.
LOCK = ".robustft_lock"
#: Files that are being written, and worth nothing yet.
STAGE = ".robustft_new"
#: Complete: once the stage has this name its files count, and `settle` finishes what was interrupted.
READY = ".robustft_ready"
JOURNAL = ".robustft_journal.json"
#: Seconds for which a reader waits while another process moves files into their places.
_PATIENCE = 10.0
#: A journal has a few hundred bytes per file.
_LONGEST_JOURNAL = 1 << 22
_FORMAT = 1
#: Seconds after which a half-written file has no writer.
_ABANDONED = 3600.0


class FolderInUse(OSError):
    """Another process, or another thread of this one, is changing a folder."""


def is_of_this_room(name: str) -> bool:
    """Whether the `name` of a file or folder is one that this module makes in a folder for a while."""
    return name in (LOCK, STAGE, READY, JOURNAL)


# ---- Whole files -----------------------------------------------------------------------------------------------------


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """
    Write a file beside its place, and rename it when the block ends: readers find the old file or the new one.

    Args:
        path (`str` or `Path`): The file; its folder is made if it does not exist.

    Yields:
        `Path`: Where to write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two processes may write the same file.
    half = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        yield half
        if STAGE in path.absolute().parts:
            # All of a stage is brought to the disk at once, before it counts.
            os.replace(half, path)
        else:
            put_in_place(half, path)
    except BaseException:
        half.unlink(missing_ok=True)
        raise
    for other in path.parent.glob(f".{_literal(path.name)}.*.new"):
        with suppress(OSError):
            if time.time() - other.stat().st_mtime > _ABANDONED:
                other.unlink()


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def half_names(name: str) -> str:
    """The pattern of the names under which a file called `name` is written before it takes its place."""
    return f".{_literal(name)}*.new"


def write_whole(path: str | Path, text: str) -> Path:
    """Write a text file with Unix line ends, whole or not at all; returns its path."""
    with whole_file(path) as half:
        half.write_text(text, encoding="utf-8", newline="\n")
    return Path(path)


def put_in_place(half: str | Path, place: str | Path) -> None:
    """
    Give a file or a folder that was written beside its place the name that counts, when all of it is on the disk.

    Args:
        half (`str` or `Path`): What was written, in the same folder as `place`.
        place (`str` or `Path`): A file there is replaced; a folder must not be there, unless it is empty.
    """
    sync(half)
    os.replace(half, place)
    sync_folder(Path(place).parent)


def sync(path: str | Path) -> None:
    """Bring a file (`path`), or a folder with all that is in it, to the disk. See the module for how far that goes."""
    path = Path(path)
    if not path.is_dir():
        # Windows flushes what may be written.
        descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            sync(Path(folder) / name)
        sync_folder(folder)


def sync_folder(folder: str | Path) -> None:
    """Bring the names in a `folder` to the disk, where the system can (not on Windows)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---- Folders whose files change together -------------------------------------------------------------------------------


@contextmanager
def changing(
    folder: str | Path, goes: Callable[[Collection[str]], Iterable[str]] = lambda comes: (), by: str | None = None
) -> Iterator[Path]:
    """
    Yield an empty folder whose files take their places in another folder when the block ends, all of them or none.

    If the block raises, or the process is killed in it, the folder is as it was. If the process is killed afterwards,
    `settle` finishes the change. The folder is locked all the while.

    Args:
        folder (`str` or `Path`): The folder, created if it does not exist.
        goes (`Callable`, *optional*): Given the names of the files that come, relative to the folder, returns those of the
            files that go. By default none does.
        by (`str`, *optional*): As for [`locked`].

    Yields:
        `Path`: Where to write the new files.

    Raises:
        FolderInUse: If another process is changing the folder.
        OSError: If the folder cannot be written.
        ValueError: If it holds a change that cannot be finished here, or a link where a folder is to be written.
    """
    folder = Path(folder)
    with locked(folder, by):
        stage = folder / STAGE
        _remove(stage)
        stage.mkdir()
        try:
            yield stage
            comes = _files_of(stage)
            _write_journal(stage, folder, comes, [name for name in goes(comes) if name not in comes])
            sync(stage)
            os.rename(stage, folder / READY)
        except BaseException:
            _remove(stage)
            raise
        sync_folder(folder)
        _finish(folder, written_here=True)


def settle(folder: str | Path) -> bool:
    """
    Finish a change of files that was interrupted; without one nothing happens.

    Args:
        folder (`str` or `Path`): The folder.

    Returns:
        `bool`: Whether there was one.

    Raises:
        FolderInUse: If another process, which lives, does not come to the end of it.
        OSError: If the folder cannot be written.
        ValueError: If another machine was changing the folder, or this is a copy of it, or what says how to go on is damaged.
    """
    folder = Path(folder)
    if not os.path.lexists(folder / READY):
        return False
    deadline = time.monotonic() + _PATIENCE
    while os.path.lexists(folder / READY):
        try:
            with locked(folder):
                if os.path.lexists(folder / READY):
                    _finish(folder)
        except FolderInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        except OSError:
            # Where nothing can be written: what cannot be finished anyway is said first.
            _read_journal(folder)
            raise
    return True


def _remove(path: Path) -> None:
    """Remove a folder of ours; a link in its place is removed itself."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def _files_of(stage: Path) -> dict[str, int]:
    """Return the sizes of the files in a stage by name."""
    found = {}
    for path in sorted(stage.rglob("*")):
        name, mode = path.relative_to(stage).as_posix(), path.lstat().st_mode
        if stat.S_ISREG(mode):
            found[name] = path.lstat().st_size
        elif not stat.S_ISDIR(mode):
            raise ValueError(f"{name} was to be written into {stage.parent} and is not a file; write a copy.")
    return found


def _write_journal(stage: Path, folder: Path, comes: dict[str, int], goes: list[str]) -> None:
    marks = {name: mark for name in goes if (mark := _mark(folder / name)) is not None}
    for name in (*comes, *marks):
        if not _stays_inside(name):
            raise ValueError(f"{name!r} cannot be the name of a file in {folder}; choose another one.")
        _check_no_links(folder, name)
    journal = {"format": _FORMAT, **_here(), "folder": _identity(folder), "stage": _identity(stage), "comes": comes, "goes": marks}
    (stage / JOURNAL).write_text(json.dumps(journal), encoding="utf-8")


def _finish(folder: Path, written_here: bool = False) -> None:
    """Carry out the journal of a folder that is locked, from wherever it was left."""
    ready, journal = folder / READY, _read_journal(folder, written_here)
    if journal is not None:
        for name, mark in journal["goes"].items():
            # A file that was put there since is somebody else's.
            if _mark(folder / name) == mark:
                (folder / name).unlink()
        for name in journal["comes"]:
            if (ready / name).exists():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(ready / name, folder / name)
        for place in {(folder / name).parent for name in (*journal["goes"], *journal["comes"])} - {folder}:
            sync_folder(place)
            with suppress(OSError):
                place.rmdir()
        # Until all is in its place, for good, the journal stays.
        sync_folder(folder)
        (ready / JOURNAL).unlink()
    shutil.rmtree(ready, ignore_errors=True)


def _read_journal(folder: Path, written_here: bool = False) -> dict[str, Any] | None:
    """
    Return what is to be done in a folder, after all of it has been checked; `None` if only empty folders are left to remove.
    """
    ready, path = folder / READY, folder / READY / JOURNAL
    damaged = ValueError(
        f"{ready} is damaged: files that were to come into {folder} together are in it, and what says which is missing or "
        "wrong; move them there yourself and remove it, or make or copy the folder again."
    )
    if ready.is_symlink() or not ready.is_dir():
        if not os.path.lexists(ready):
            # Finished by another process, just now.
            return None
        raise damaged
    try:
        if not stat.S_ISREG(path.lstat().st_mode) or path.lstat().st_size > _LONGEST_JOURNAL:
            raise damaged
        journal = json.loads(path.read_text(encoding="utf-8"))
        comes, goes = journal["comes"], journal["goes"]
        names = [*comes, *goes]
        if journal["format"] != _FORMAT or not isinstance(comes, dict) or not isinstance(goes, dict):
            raise damaged
    except FileNotFoundError:
        if any(not found.is_dir() or found.is_symlink() for found in ready.rglob("*")):
            raise damaged from None
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise damaged from None
    if not all(map(_stays_inside, names)):
        raise damaged
    why = None
    if {name: journal.get(name) for name in ("machine", "host")} != _here():
        why = f"on another machine ({_shown(journal.get('host'))})"
    elif not written_here and (journal.get("folder"), journal.get("stage")) != (_identity(folder), _identity(ready)):
        why = "in another folder, of which this is a copy"
    if why is not None:
        raise ValueError(
            f"{folder} holds a change of its files that was begun {why} and did not end ({ready.name}), so it is not used here; "
            "finish it there (any command that reads the folder does) and copy the folder again, or move the files in "
            f"{ready.name} into the folder yourself and remove it."
        )
    for name in names:
        _check_no_links(folder, name)
        _check_no_links(ready, name)
    for name, size in comes.items():
        found = _mark(ready / name)
        if (ready / name).is_symlink() or (found[0] != size if found else _mark(folder / name) is None):
            raise damaged
    return journal


def _stays_inside(name: Any) -> bool:
    if not isinstance(name, str) or "\\" in name or "\0" in name or os.name == "nt" and ":" in name:
        return False
    parts = name.split("/")
    return all(part not in ("", ".", "..") for part in parts) and not is_of_this_room(parts[0])


def _check_no_links(folder: Path, name: str) -> None:
    """Raises ValueError if one of the folders between `folder` and a file in it is a link."""
    for parent in list(Path(name).parents)[:-1]:
        if (folder / parent).is_symlink():
            raise ValueError(
                f"{folder / parent} is a link, and files of this folder are not written to where it leads; put a folder in its place."
            )


def _mark(path: Path) -> list[int] | None:
    """By which a file is known to be the same; `None` of what is not a file."""
    with suppress(OSError):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode):
            return [found.st_size, found.st_mtime_ns]
    return None


def _identity(folder: Path) -> int:
    # Of a moved folder it stays, of a copied one it does not. The number of the device may be another after a restart.
    return folder.stat().st_ino


def _here() -> dict[str, str]:
    """This machine: what tells it from others, and the name by which people know it."""
    host, known = platform.node(), ""
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError, ValueError):
            known = known or Path(place).read_text(encoding="ascii").strip()
    return {"machine": hashlib.sha256(f"hf_robustft {host} {known}".encode()).hexdigest()[:16], "host": host}


def _shown(value: Any) -> str:
    """A word of a file from elsewhere, for a message of one line."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return " ".join(text.split())[:80] if isinstance(value, (str, int)) else "unknown"


# ---- Locks -----------------------------------------------------------------------------------------------------------


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
def locked(folder: str | Path, by: str | None = None, *, reads: bool = False) -> Iterator[None]:
    """
    Keep other processes from changing a folder while the block runs; it begins by finishing what was interrupted there.

    Within it, the same thread may lock the folder again. A lock is given back when its holder ends, however that ends.

    Args:
        folder (`str` or `Path`): The folder, made if it does not exist, and removed again if it is empty then.
        by (`str`, *optional*): The command, for those who are refused; by default the name of the program. A whole command line
            might hold a token.
        reads (`bool`, *optional*, defaults to `False`): Whether the block only reads: a folder that cannot be written is read
            without a lock.

    Raises:
        FolderInUse: If another process or thread holds the lock. The message names it.
        OSError: If the folder cannot be written.
        ValueError: As [`settle`].
    """
    folder = Path(folder)
    key = os.path.realpath(folder)
    if key in _held and _held[key].thread == threading.get_ident():
        yield
        return
    held = _take(folder, key, by, reads)
    try:
        settle(folder)
        yield
    finally:
        _give_back(folder, key, held)


def _take(folder: Path, key: str, by: str | None, reads: bool) -> _Held | None:
    # Late: a command line is looked at before packages that take their time are imported.
    from filelock import lock_descriptor

    held = _Held(threading.get_ident(), None)
    try:
        while key not in _held:
            try:
                for part in () if reads else (*reversed(folder.absolute().parents), folder.absolute()):
                    if not part.is_dir():
                        part.mkdir(exist_ok=True)
                        held.made.append(part)
                descriptor = _opened(folder / LOCK)
            except OSError as error:
                if reads and not os.path.lexists(folder / READY):
                    return None
                where = Path(error.filename or folder)
                raise OSError(
                    f"{folder} cannot be written ({where.name}: {error.strerror or error}); give a folder that you may write."
                ) from error
            try:
                if not lock_descriptor(descriptor, blocking=False):
                    os.close(descriptor)
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


def _holder(folder: Path) -> str:
    """Who holds the lock of a folder, in words."""
    try:
        with open(folder / LOCK, "rb") as file:
            file.seek(1)
            found = json.loads(file.read(2000))
        command, process, machine, since = (_shown(found[name]) for name in ("command", "process", "machine", "since"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"
    return f"`{command}` (process {process} on {shlex.quote(machine)}, since {since})"
