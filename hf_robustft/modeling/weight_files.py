# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Files in safetensors: what is in them, and in one line why they cannot be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

_LFS = b"version https://git-lfs"
#: What safetensors calls the kinds of number that weights may be in.
FLOATS = ("F16", "BF16", "F32", "F64")
HALVES = ("F16", "BF16")


class UnreadableFile(OSError, ValueError):
    """A file that is there, but whose content is not what it should be."""


def check_is_content(path: Path) -> None:
    """
    Refuse a file without content, and one that stands for its content in a clone without git-lfs.

    Raises:
        OSError: If it is empty, a git-lfs pointer, or cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(len(_LFS))
    if not start:
        raise OSError(f"{path} is empty; copy or save it again.")
    if start == _LFS:
        raise OSError(
            f"{path} is a git-lfs pointer, not the file itself; fetch the content by `git lfs pull` in its folder."
        )


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """
    A safetensors file, open for reading.

    Raises:
        OSError: If there is no such file, or it is empty or a git-lfs pointer.
        UnreadableFile: If it is cut off, damaged, or in another format.
    """
    path = Path(path)
    check_is_content(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise UnreadableFile(
            f"{path} cannot be read: it is damaged or not in safetensors ({reason}); copy or save it again."
        ) from None


def shapes_and_kinds(path: str | Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and kind of number (`"F32"`, ...) of each tensor of a safetensors file, by name; no tensor is read."""
    with opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}
        return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}


def read_json_object(path: str | Path) -> dict[str, Any]:
    """
    The object in a JSON file.

    Raises:
        OSError: If there is no such file, or it is empty or a git-lfs pointer.
        ValueError: If it is not JSON, or JSON of another kind.
    """
    path = Path(path)
    check_is_content(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); copy or save it again.") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__} instead of an object; copy or save it again.")
    return dict(content)
