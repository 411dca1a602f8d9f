# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What is to be answered, in its order: image files by name, or the rows of a data set. Each can be read on from any place."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..data.class_folders import FolderFiles, image_files, readable_suffixes
from ..data.messages import quoted
from ..data.streams.rows import RowStream

_ADDRESS = re.compile(r"\w{2,}://")
#: Bytes of a list of names that are read at once.
_BLOCK = 1 << 20


class Place(NamedTuple):
    """How far a source was read: the images before it, and the shard and the row to go on with."""

    count: int = 0
    shard: int = 0
    row: int = 0


START = Place()


@dataclass(frozen=True)
class FileList:
    """
    Image files whose names are in a file, each followed by a zero byte: however many there are, they take no memory.

    Args:
        path (`Path`): The file of names.
        total (`int`): How many there are.
    """

    path: Path
    total: int

    def items(self, place: Place = START) -> Iterator[tuple[Place, str, str]]:
        """From a `place` on: the place after each image, its name, and the file to read, which is the same."""
        for count, name in enumerate(itertools.islice(names_in(self.path), place.count, None), place.count + 1):
            yield Place(count, 0, count), name, name


@dataclass(frozen=True)
class DataRows:
    """
    The rows of a data set, which are called by its name and their number: `owner/name/test#17`.

    Args:
        name (`str`): What the user calls the data set.
        stream ([`RowStream`]): Its rows.
    """

    name: str
    stream: RowStream

    @property
    def total(self) -> int | None:
        """How many there are, if that is known."""
        return self.stream.examples

    def items(self, place: Place = START) -> Iterator[tuple[Place, str, dict]]:
        """From a `place` on: the place after each row, its name, and its encoded image. Shards before it are not opened."""
        count, first, start = place
        for shard in range(first, self.stream.source.n_shards):
            for row, example in self.stream.rows(shard, start):
                if example is not None:
                    count += 1
                    yield Place(count, shard, row + 1), f"{self.name}#{count - 1}", example["image"]
            start = 0


def named_images(words: Iterable[str]) -> tuple[list[str], str]:
    """
    The image files that words of a command line mean.

    A folder is searched at any depth, in the order of the paths, by the rule of [`~hf_robustft.data.class_folders.image_files`]; a
    pattern (`*`, `?`, `[...]`, `**`) stands for the images that it fits; any other word is a file, whatever its ending. An
    image that is named twice is taken once.

    Args:
        words (`Iterable[str]`): Files, folders and patterns.

    Returns:
        `tuple`: The paths, and what was left out in folders and by patterns, in words; `""` if nothing was.

    Raises:
        FileNotFoundError: If there is no such file or folder, or a pattern fits nothing.
        ValueError: If a folder holds no image, or a word is a web address.
    """
    found: dict[str, None] = {}
    left: list[FolderFiles] = []
    for word in words:
        if os.path.isdir(word):
            files = image_files(word)
            if not files.images:
                raise ValueError(f"There is no image in {word}{_only(files)}; give a folder with image files, such as .jpg or .png.")
        elif os.path.lexists(word):
            files = FolderFiles((Path(word),))
        elif glob.has_magic(word):
            files = _fitting(word)
            if not files.images:
                raise FileNotFoundError(f"The pattern {word!r} fits no image{_only(files)}; correct it, or give the folder.")
        else:
            _refuse_address(word)
            raise FileNotFoundError(f"There is no image file or folder {word}; correct the path.")
        # As paths, so that `./a.png` is `a.png`.
        found.update(dict.fromkeys(map(str, files.images)))
        left.append(files)
    return list(found), left[0].left_out(*left[1:]) if left else ""


def _only(files: FolderFiles) -> str:
    return f", only {files.left_out()}" if files.left_out() else ""


def _fitting(pattern: str) -> FolderFiles:
    """What a pattern fits, as [`image_files`] has what a folder holds; folders that it fits are searched."""
    images: dict[str, None] = {}
    others: dict[str, list[Path]] = {}
    helpers: list[Path] = []
    # Of `**` each folder inside another would be searched once more.
    deep = "**" in pattern
    for name in sorted(glob.glob(pattern, recursive=True)):
        ending = os.path.splitext(name)[1].lower()
        if os.path.isdir(name):
            files = FolderFiles(()) if deep else image_files(name)
            images.update(dict.fromkeys(map(str, files.images)))
            helpers += files.helpers
            for other, paths in files.others.items():
                others.setdefault(other, []).extend(paths)
        elif ending in readable_suffixes():
            images[name] = None
        else:
            others.setdefault(ending, []).append(Path(name))
    return FolderFiles(tuple(map(Path, images)), others, tuple(helpers))


def listed_images(content: bytes, where: str) -> list[str]:
    """
    The names in a list of image files: one per line, or each ended by a zero byte, as `find -print0` writes them.

    Args:
        content (`bytes`): The list. Lines may end as on any system; blank ones are skipped. Names may be of any bytes.
        where (`str`): What the user calls the list, for messages.

    Raises:
        ValueError: If it is empty, or a name is a web address.
    """
    if b"\0" in content:
        names = content.split(b"\0")
    else:
        names = [line.removesuffix(b"\r") for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    found = [os.fsdecode(name) for name in names if name.strip()]
    if not found:
        raise ValueError(f"{where} names no image; write one path per line.")
    for name in found:
        _refuse_address(name, f"{where}: ")
    return found


def _refuse_address(name: str, where: str = "") -> None:
    if _ADDRESS.match(name):
        raise ValueError(f"{where}{name} is a web address, which is not fetched; download the image and give its path.")


def as_list(names: Iterable[str]) -> bytes:
    """The content of a file of `names` for [`FileList`]."""
    return b"".join(os.fsencode(name) + b"\0" for name in names)


def names_in(path: Path) -> Iterator[str]:
    """The names in the file `path` of a [`FileList`], in their order, a few at a time."""
    rest = b""
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            *names, rest = (rest + block).split(b"\0")
            yield from map(os.fsdecode, names)


def list_hash(names: Iterable[str]) -> str:
    """A SHA-256 of `names` in their order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(as_list([name]))
    return digest.hexdigest()


def news(names: Sequence[str], path: Path) -> str | None:
    """What lies in the folders by now (`names`) and is not in the list in the file `path`, in words; `None` if nothing is."""
    known = set(names_in(path))
    more = [name for name in names if name not in known]
    if not more:
        return None
    return (
        f"{len(more)} {'image was' if len(more) == 1 else 'images were'} added since this was begun, and will not be in the "
        f"output: {quoted(more, 3)}"
    )
