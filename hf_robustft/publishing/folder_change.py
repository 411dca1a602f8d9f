# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Changing several files of a folder together: all of them, or none."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_robustft.publishing.eval_results import FOLDER

#: Inside the folder, so that moving a file into place is one rename, whatever is mounted where.
STAGE = ".robustft_change"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@contextmanager
def changing(folder: str | Path) -> Iterator[Path]:
    """
    A working copy of a folder, whose changes take effect together when the block ends.

    The copy holds the folder's own files and its `.eval_results`, but no weights and no further folders; weights that are
    written into it take the place of those of the same name. If the block raises, or a file cannot be moved into
    place, the folder is as it was. A process that is killed while files are moved leaves a journal, from which the next
    call puts everything back before it begins.

    Args:
        folder: The folder to change.

    Yields:
        `Path`: The working copy.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder = Path(folder)
    restore(folder)
    stage = folder / STAGE
    new, old = stage / "new", stage / "old"
    try:
        for path in (new, old):
            path.mkdir(parents=True)
        copied = [path for path in _files(folder) if path.suffix not in _WEIGHTS]
        for path in copied:
            _copy(folder / path, new / path)
        yield new
        changed = [path for path in _files(new) if not _same(new / path, folder / path)]
        removed = [path for path in copied if not (new / path).exists()]
        for path in (*changed, *removed):
            if (folder / path).exists():
                _copy(folder / path, old / path)
        _write_journal(stage, [*changed, *removed])
        for path in changed:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            os.replace(new / path, folder / path)
        for path in removed:
            (folder / path).unlink()
        _journal(stage).unlink()
    except BaseException:
        restore(folder, quiet=True)
        raise
    finally:
        # With the journal still there the copies are all that is left of the files.
        if not _journal(stage).exists():
            shutil.rmtree(stage, ignore_errors=True)


def restore(folder: str | Path, quiet: bool = False) -> None:
    """Put a folder back into the state before a change that was interrupted; without one nothing happens."""
    folder = Path(folder)
    stage = folder / STAGE
    if _journal(stage).is_file():
        for name in json.loads(_journal(stage).read_text(encoding="utf-8")):
            if (stage / "old" / name).exists():
                os.replace(stage / "old" / name, folder / name)
            elif not (stage / "new" / name).exists():
                (folder / name).unlink(missing_ok=True)
        if not quiet:
            warnings.warn(f"A change of {folder} had been interrupted; its files were put back.", stacklevel=3)
    if stage.is_dir():
        shutil.rmtree(stage)


def _files(folder: Path) -> list[Path]:
    """Relative paths of the folder's own files and those of its `.eval_results`."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_file():
            found.append(path.relative_to(folder))
        elif path.is_dir() and path.name == FOLDER:
            found += [file.relative_to(folder) for file in sorted(path.rglob("*")) if file.is_file()]
    return found


def _same(new: Path, old: Path) -> bool:
    return old.is_file() and filecmp.cmp(new, old, shallow=False)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _journal(stage: Path) -> Path:
    return stage / "journal.json"


def _write_journal(stage: Path, paths: list[Path]) -> None:
    half = stage / "journal.new"
    with open(half, "w", encoding="utf-8") as file:
        json.dump([path.as_posix() for path in paths], file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, _journal(stage))
