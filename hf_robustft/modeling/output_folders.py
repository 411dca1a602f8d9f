# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Output folders that are known to be writable, and apart from what is read, before work is spent."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..data.class_folders import split_role


def check_output_dir(path: str | Path, option: str = "--output_dir") -> None:
    """
    Refuse a folder that cannot be written, before work is spent. What is made to find out is removed again.

    Args:
        path (`str` or `Path`): The folder; it need not exist.
        option (`str`, *optional*, defaults to `"--output_dir"`): What the user calls it, for the message.

    Raises:
        OSError: If a file is in the way, or the folder cannot be made or written.
    """
    folder = Path(path).expanduser()
    made: list[Path] = []
    try:
        # From the top down: each folder that is made here is removed again.
        for part in (*reversed(folder.absolute().parents), folder.absolute()):
            if part.is_dir():
                continue
            if part.exists() or part.is_symlink():
                raise OSError(f"{part} is not a folder")
            part.mkdir()
            made.append(part)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OSError(f"`{option} {path}` cannot be written ({reason}); give a folder that you may write.") from error
    finally:
        for part in reversed(made):
            with suppress(OSError):
                part.rmdir()


@contextmanager
def unless_refused(path: str | Path) -> Iterator[None]:
    """If the block raises, remove the folder `path` and those above it again, where they were made in it and are empty."""
    folder = Path(path).expanduser().absolute()
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for part in missing:
                part.rmdir()
        raise


def check_apart(
    output_dir: str | Path, inputs: Mapping[str, str | Path | None], option: str = "--output_dir"
) -> None:
    """
    Refuse an output folder that would overwrite what a run reads, or put its files among the data.

    Args:
        output_dir (`str` or `Path`): The folder.
        inputs (`Mapping[str, str | Path | None]`): By the option as the user gave it, what it reads; only folders count.
        option (`str`, *optional*, defaults to `"--output_dir"`): What the user calls the folder, for the message.

    Raises:
        ValueError: If it lies in one of them, or one of them is a checkpoint in it, which the run would replace, or a split
            in it, so that it is the data set.
    """
    output = Path(output_dir).expanduser().resolve()
    for reader, place in inputs.items():
        if place is None or not Path(place).expanduser().is_dir():
            continue
        inside = is_within(output_dir, place)
        found = Path(place).expanduser().resolve()
        split = found.parent == output and bool(split_role(found.name))
        if inside or split or output in found.parents and found.name.startswith("checkpoint-"):
            where = "lies in" if inside else "holds"
            raise ValueError(
                f"`{option} {output_dir}` {where} the folder that `{reader}` reads, which the run would change; give "
                "another folder."
            )


def is_within(path: str | Path, folder: str | Path) -> bool:
    """Whether a path is a folder or lies in it, links followed."""
    path, folder = Path(path).expanduser().resolve(), Path(folder).expanduser().resolve()
    return path == folder or folder in path.parents
