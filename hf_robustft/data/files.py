# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which files of a folder are data: images by their ending, never those of hidden and helper folders."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from .messages import quoted

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    + (".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".avif")
)
# What file managers, network drives and notebooks put beside pictures, small copies of them above all.
_HELPER_FOLDERS = frozenset(
    ("@eadir", "@__thumb", "@recycle", "#recycle", "$recycle.bin", "lost+found", "system volume information")
    + ("thumbs", "thumbnails")
)
_HELPER_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
_SPECIAL = "pipe or device"


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder, those of its folders included.

    Attributes:
        images (`tuple[Path, ...]`): Images by their ending, sorted. Whether they can be read is not known yet.
        others (`dict[str, int]`): Number of the other files by ending in lower case, "" for none.
        helpers (`tuple[Path, ...]`): Folders such as `@eaDir` that were not read. Hidden ones are not among them.
    """

    images: tuple[Path, ...]
    others: dict[str, int]
    helpers: tuple[Path, ...] = ()

    def left_out(self) -> str:
        """What was not read, in words: "3 files ending in .heic, 1 without an ending"; "" if all was."""
        return left_out_words(self.others, self.helpers)


def left_out_words(others: dict[str, int], helpers: Sequence[Path] = ()) -> str:
    """Return the words of `FolderFiles.left_out`, for the `others` and `helpers` of several folders together."""
    words = []
    for ending, count in sorted(others.items(), key=lambda item: (-item[1], item[0])):
        files = f"{count} {'file' if count == 1 else 'files'}"
        if ending == _SPECIAL:
            words.append(f"{count} {_SPECIAL if count == 1 else 'pipes or devices'}")
        else:
            words.append(f"{files} ending in {ending}" if ending else f"{files} without an ending")
    if helpers:
        names = sorted({folder.name for folder in helpers})
        words.append(f"{len(helpers)} helper {'folder' if len(helpers) == 1 else 'folders'} ({quoted(names)})")
    return ", ".join(words)


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """The endings whose formats this Pillow reads; AVIF, WebP and TIFF depend on how it was built."""
    known, readers = PIL.Image.registered_extensions(), PIL.Image.OPEN
    return frozenset(suffix for suffix in IMAGE_SUFFIXES if known.get(suffix) in readers)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden: its name begins with a dot, or is a helper's."""
    return name.startswith(".") or name.lower() in _HELPER_FILES


def is_helper(name: str) -> bool:
    """Whether a folder of this name is never read: hidden, `__MACOSX`, `@eaDir`, `thumbs` and the like."""
    return name.startswith((".", "__")) or name.lower() in _HELPER_FOLDERS


def is_visible_helper(name: str) -> bool:
    """Whether a helper folder's name does not say by a dot or "__" that it is hidden."""
    return is_helper(name) and not name.startswith((".", "__"))


def image_files(folder: str | Path) -> FolderFiles:
    """
    List the images of a folder at any depth; the one rule of what is read from folders.

    Hidden files and the contents of hidden and helper folders (`.ipynb_checkpoints`, `__MACOSX`, `@eaDir`, `thumbs`) are
    not looked at. Links are followed, but never back into a folder that is being listed. Pipes and devices are not read.

    Args:
        folder (`str` or `Path`): An existing folder; its own name does not matter.

    Returns:
        [`FolderFiles`]: The images, and what else was found.
    """
    images: list[Path] = []
    helpers: list[Path] = []
    others: Counter[str] = Counter()
    for file, kind in _walk(Path(folder)):
        if kind is _IMAGE:
            images.append(file)
        elif kind is _HELPER:
            helpers.append(file)
        else:
            others[kind] += 1
    return FolderFiles(tuple(sorted(images)), dict(others), tuple(sorted(helpers)))


def holds_images(folder: str | Path) -> bool:
    """Return whether `image_files` would find an image in a `folder`; looks no further than the first."""
    return any(kind is _IMAGE for _, kind in _walk(Path(folder)))


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden or helpers, sorted."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_helper(entry.name))


def files_called(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the files in a `folder` with one of the `names`, at any depth, as `image_files` looks for images, sorted."""
    endings = {os.path.splitext(name)[1] for name in names}
    return sorted(file for file, kind in _walk(folder) if kind in endings and file.name in names)


_IMAGE, _HELPER = object(), object()


def _walk(folder: Path) -> Iterator[tuple[Path, object]]:
    """The files of a folder, each as an image or by its ending, and its helper folders that are not hidden."""
    # Each folder goes with those around it, which a link from inside must not enter again.
    open_folders = [(str(folder), {_identity(place) for place in (folder.resolve(), *folder.resolve().parents)})]
    while open_folders:
        place, inside = open_folders.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir():
                    if is_helper(entry.name):
                        if is_visible_helper(entry.name):
                            yield Path(entry.path), _HELPER
                    elif os.path.splitext(entry.name)[1].lower() in readable_suffixes() and not os.listdir(entry.path):
                        # An empty folder in the place of an image is an image that cannot be read.
                        yield Path(entry.path), _IMAGE
                    elif (identity := _identity(entry.path)) not in inside:
                        open_folders.append((entry.path, inside | {identity}))
                elif not is_hidden(entry.name):
                    ending = os.path.splitext(entry.name)[1].lower()
                    # A link that leads nowhere is an image that cannot be read, which reading it says.
                    if not entry.is_file() and os.path.exists(entry.path):
                        ending = _SPECIAL
                    yield Path(entry.path), _IMAGE if ending in readable_suffixes() else ending


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
