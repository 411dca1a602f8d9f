# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The room of writing: files that are whole or not there, and folders whose files change together.

Every file of this package is written beside its place, brought to the disk, and renamed. Several files of a folder change by a
journal: the new ones are written into `STAGE`, the journal beside them says which come and which go, one rename to `READY`
decides, and whatever is killed after that is finished by the next reader or writer on the same machine. So after kill -9, at
any moment, a folder is what it was or what it was to become.

After loss of power that holds as far as the system keeps what it says of `fsync`, which is called on each file before its
rename and on each folder after one. On Linux local disks do. On macOS the data reach the drive, which may still hold them in
its own memory. On Windows there is no `fsync` of a folder: the contents are on the disk, and whether the rename is, NTFS
decides; after loss of power one of the two whole states is found there too. Network file systems do what their server does.

A folder that is changed is locked (`locks.py`).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .locks import LOCK, FolderInUse, hold, shown

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
#: What spreadsheets take for the beginning of a formula, the wide signs too.
_FORMULA = tuple("=+-@\t\r\uff1d\uff0b\uff0d\uff20")


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


def is_half_of(name: str, whole: str) -> bool:
    """Whether the `name` of a file is one under which the file `whole` beside it is written, before it is whole."""
    return re.fullmatch(rf"\.{re.escape(whole)}\.[0-9a-f]{{8}}\.new", name) is not None


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


def write_csv(path: str | Path, rows: Iterable[Iterable[Any]]) -> Path:
    """
    Write comma-separated values, whole or not at all.

    Args:
        path (`str` or `Path`): The file.
        rows (`Iterable[Iterable[Any]]`): The heads of the columns, then the rows. A text that a spreadsheet would take for a formula
            gets an apostrophe before it; numbers are written as they are.

    Returns:
        `Path`: The file.
    """
    with whole_file(path) as half, open(half, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in row] for row in rows)
    return Path(path)


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read the rows of a file (`path`) that [`write_csv`] wrote, by the heads of the columns, which are as they were given."""
    with open(path, newline="", encoding="utf-8") as file:
        heads, *rows = list(csv.reader(file)) or [[]]
    heads = [head[1:] if head.startswith("'") and head[1:].startswith(_FORMULA) else head for head in heads]
    return [dict(zip(heads, row, strict=True)) for row in rows]


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
        why = f"on another machine ({shown(journal.get('host'))})"
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


# ---- With a lock -----------------------------------------------------------------------------------------------------


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
    with hold(folder, by, reads) as first:
        if first:
            settle(folder)
        yield
