# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Images that were decoded once and are kept as 256 levels, for all readers and all epochs of a run.

Reading a photograph is mostly decoding it. What one process has decoded lies in files that the others on the machine read;
the system keeps these in memory where there is room. No reader waits for another: each appends to a file of its own, and names
the place in a common index by one write of eight bytes, after the levels are there. Two that decode the same image at once both
write it, and either copy will do.
"""

from __future__ import annotations

import os
import shutil
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from .images import EncodedImage, UnreadableImage

#: In the output folder of a run, while it trains.
FOLDER = ".decoded_images"
_INDEX = "index"
_PLACE, _SIZE = struct.Struct("<Q"), struct.Struct("<II")
#: Bits of a place that say where in a file; those above say which file, counted from 1.
_OFFSET_BITS = 44
_CHANNELS = 3
#: Images whose sizes tell how much room all will take.
_SAMPLED = 100


class DecodedImages:
    """
    The decoded images of a training set, by their numbers.

    Nothing is kept before `begin`: `read` decodes then. The images are those that `decode_image` gives, which reads no JPEG at a
    fraction of its size for speed. A copy in another process, forked or spawned, reads and writes the same files.

    Args:
        count (`int`): Images in the training set.
    """

    def __init__(self, count: int):
        self.count = count
        self._folder: Path | None = None
        self._forget()

    def begin(self, folder: str | Path) -> None:
        """Keep images in a `folder` that is there and was empty when the first process began. Raises OSError if that cannot be."""
        self._folder = Path(folder)
        self._forget()
        # All processes do so; a file that is long enough stays as it is.
        with open(self._folder / _INDEX, "ab") as index:
            if index.tell() < self.count * _PLACE.size:
                os.truncate(index.fileno(), self.count * _PLACE.size)

    def end(self) -> None:
        """Keep no more. The files are whose who made the folder."""
        self._close()
        self._folder = None

    def read(self, number: int) -> Image.Image | None:
        """Return the RGB image of this `number` if a process has kept it, else `None`."""
        if self._folder is None:
            return None
        self._after_fork()
        index = self._index()
        index.seek(number * _PLACE.size)
        (place,) = _PLACE.unpack(index.read(_PLACE.size))
        if not place:
            return None
        levels = self._opened(place >> _OFFSET_BITS)
        levels.seek(place & ((1 << _OFFSET_BITS) - 1))
        size = _SIZE.unpack(levels.read(_SIZE.size))
        return Image.frombytes("RGB", size, levels.read(size[0] * size[1] * _CHANNELS))

    def keep(self, number: int, image: Image.Image) -> None:
        """
        Keep an image, if there is room.

        Args:
            number (`int`): Its number.
            image (`Image.Image`): Of mode RGB.
        """
        if self._folder is None or self._is_full:
            return
        self._after_fork()
        try:
            if self._own is None:
                self._own = self._new_file()
            file_number, levels = self._own
            offset = levels.seek(0, os.SEEK_END)
            _write_all(levels, _SIZE.pack(*image.size) + image.tobytes())
            index = self._index()
            index.seek(number * _PLACE.size)
            _write_all(index, _PLACE.pack(file_number << _OFFSET_BITS | offset))
        except OSError as error:
            # What is not kept is decoded again, with the same result.
            self._is_full = True
            warnings.warn(
                f"cache_images: no more decoded images can be kept in {self._folder} ({error.strerror or error}); the others are decoded in "
                "each epoch.",
                stacklevel=2,
            )

    def __getstate__(self) -> dict:
        return {"count": self.count, "_folder": self._folder}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._forget()

    def _forget(self) -> None:
        self._process, self._is_full = os.getpid(), False
        self._files: dict[int | str, BinaryIO] = {}
        self._own: tuple[int, BinaryIO] | None = None

    def _after_fork(self) -> None:
        # Where a file that both have open is read next is known to the system alone, which both move.
        if self._process != os.getpid():
            self._close()

    def _close(self) -> None:
        for file in (*self._files.values(), *([] if self._own is None else [self._own[1]])):
            file.close()
        self._forget()

    def _index(self) -> BinaryIO:
        if _INDEX not in self._files:
            self._files[_INDEX] = open(self._folder / _INDEX, "r+b", buffering=0)
        return self._files[_INDEX]

    def _opened(self, file_number: int) -> BinaryIO:
        if file_number not in self._files:
            self._files[file_number] = open(self._folder / str(file_number), "rb", buffering=0)
        return self._files[file_number]

    def _new_file(self) -> tuple[int, BinaryIO]:
        file_number = 1
        while True:
            try:
                return file_number, open(self._folder / str(file_number), "xb", buffering=0)
            except FileExistsError:
                file_number += 1


def _write_all(file: BinaryIO, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def decoded_bytes(rows, count: int = _SAMPLED) -> int:
    """
    About how much room the decoded images of a training set take.

    Args:
        rows ([`~hf_robustft.data.columns.StoredRows`]): The training set.
        count (`int`, *optional*, defaults to 100): Images whose sizes are looked at, spread over the set.

    Returns:
        `int`: Bytes; 0 if none of them can be read.
    """
    step, found = max(1, len(rows) // count), []
    for number in range(0, len(rows), step):
        row, where = rows[number]
        try:
            width, height = EncodedImage(row["image"], where).size
        except UnreadableImage:
            continue
        found.append(width * height * _CHANNELS)
    return round(sum(found) / len(found) * len(rows)) if found else 0


def room_in(folder: str | Path) -> int:
    """Bytes that are free on the disk of a `folder`, or of the first above it that is there."""
    folder = Path(folder).absolute()
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    return shutil.disk_usage(there).free
