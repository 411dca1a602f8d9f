# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Data sets that lie on disk: class folders, images with a metadata file, parquet, and `save_to_disk` folders.

The `imagefolder` reader of `datasets` guesses splits from words in paths, so a class called "train" or a file called
`my-test-1.png` silently hides the rest of the data. Here, folders are splits only if all folders at the top are named
as splits and hold class folders or a metadata file.
"""

from __future__ import annotations

import functools
import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image, load_dataset, load_dataset_builder, load_from_disk

from hf_robustft.data.columns import quoted
from hf_robustft.data.prompts import class_key

SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
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
    """The words of `FolderFiles.left_out`, for several folders together."""
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
def _readable_suffixes() -> frozenset[str]:
    """The endings whose formats this Pillow reads; AVIF, WebP and TIFF depend on how it was built."""
    known, readers = PIL.Image.registered_extensions(), PIL.Image.OPEN
    return frozenset(suffix for suffix in IMAGE_SUFFIXES if known.get(suffix) in readers)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden: its name begins with a dot, or is a helper's."""
    return name.startswith(".") or name.lower() in _HELPER_FILES


def is_helper(name: str) -> bool:
    """Whether a folder of this name is never read: hidden, `__MACOSX`, `@eaDir`, `thumbs` and the like."""
    return name.startswith((".", "__")) or name.lower() in _HELPER_FOLDERS


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
    folder = Path(folder)
    images: list[Path] = []
    helpers: list[Path] = []
    others: Counter[str] = Counter()
    # Each folder goes with those around it, which a link from inside must not enter again.
    open_folders = [(str(folder), {_identity(place) for place in (folder.resolve(), *folder.resolve().parents)})]
    while open_folders:
        place, inside = open_folders.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir():
                    if is_helper(entry.name):
                        helpers += [] if entry.name.startswith((".", "__")) else [Path(entry.path)]
                    elif (identity := _identity(entry.path)) not in inside:
                        open_folders.append((entry.path, inside | {identity}))
                elif not is_hidden(entry.name):
                    # A link that leads nowhere is an image that cannot be read, which reading it says.
                    if not entry.is_file() and os.path.exists(entry.path):
                        others[_SPECIAL] += 1
                    elif (ending := os.path.splitext(entry.name)[1].lower()) in _readable_suffixes():
                        images.append(Path(entry.path))
                    else:
                        others[ending] += 1
    return FolderFiles(tuple(sorted(images)), dict(others), tuple(sorted(helpers)))


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not is_helper(entry.name))


def _has_metadata(path: Path) -> bool:
    return any((path / name).is_file() for name in METADATA_FILES)


def _split_folders(path: Path) -> dict[str, Path]:
    """Folders at the top of `path` that are splits; empty if they are classes, or hold no data of their own."""
    folders = _folders(path)
    named = folders and all(folder.name.lower() in SPLIT_NAMES for folder in folders) and not _has_metadata(path)
    if named and all(_has_metadata(folder) or _folders(folder) for folder in folders):
        return {folder.name: folder for folder in folders}
    return {}


def folder_kind(path: Path) -> str:
    """What a folder holds: "saved", "saved_splits", "metadata", "parquet" or "classes".

    Raises:
        ValueError: none of these.
    """
    if (path / "dataset_dict.json").is_file():
        return "saved_splits"
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "saved"
    if _has_metadata(path) or any(_has_metadata(folder) for folder in _split_folders(path).values()):
        return "metadata"
    # Two levels are enough for the layouts of the Hub, and a search of every level is slow among a million images.
    if any(next(path.glob(pattern), None) for pattern in ("*.parquet", "*/*.parquet")):
        return "parquet"
    if any(image_files(folder).images for folder in _folders(path)):
        return "classes"
    raise ValueError(
        f"the folder {str(path)!r} holds no data set: expected one folder of images per class, images with "
        "metadata.jsonl, parquet files, or what datasets' save_to_disk wrote"
    )


def folder_splits(path: Path) -> tuple[str, ...]:
    """The splits of a folder; ("train",) where it is not divided.

    Raises:
        ValueError: no data set, or parquet files of which some belong to no split.
    """
    kind = folder_kind(path)
    if kind == "saved":
        return ("train",)
    if kind == "saved_splits":
        return tuple(load_from_disk(str(path)))
    if kind == "parquet":
        if set("[]*?") & set(str(path)):
            raise ValueError(
                f"`datasets` takes the letters [ ] * ? in {str(path)!r} for a pattern and finds no file there; "
                "rename the folder or name one .parquet file"
            )
        files = load_dataset_builder(str(path)).config.data_files
        found = {str(Path(file).resolve()) for names in files.values() for file in names}
        # With a README, `datasets` reads the split of each file from its header, and leaving files out is meant.
        left = (
            []
            if (path / "README.md").is_file()
            else sorted(
                str(file.relative_to(path)) for file in path.rglob("*.parquet") if str(file.resolve()) not in found
            )
        )
        if left:
            raise ValueError(
                f"the parquet files {quoted(left)} in {str(path)!r} belong to none of its splits "
                f"{quoted(list(files))}; name one .parquet file or name every file after its split"
            )
        return tuple(files)
    return tuple(_split_folders(path)) or ("train",)


def load_folder(path: Path, split: str, class_names: Sequence[str] | None = None) -> Dataset:
    """Load one split of a folder.

    Args:
        path: an existing folder of any kind that `folder_kind` knows.
        split: one of `folder_splits(path)`.
        class_names: for class folders, their names in label order (default: the sorted names of the folders).

    Returns:
        The data set, memory-mapped or made of file paths; images decode when read.

    Raises:
        ValueError: no data set, no such split, or class folders that cannot be matched to `class_names`.
    """
    kind, splits = folder_kind(path), folder_splits(path)
    if split not in splits:
        raise ValueError(f"{str(path)!r} has no split {split!r}; its splits are {quoted(splits, 20)}")
    if kind == "saved":
        return load_from_disk(str(path))
    if kind == "saved_splits":
        return load_from_disk(str(path))[split]
    if kind == "parquet":
        return load_dataset(str(path), split=split)
    root = _split_folders(path).get(split, path)
    if kind == "metadata":
        pattern = glob.escape(str(root)) + "/**"
        return load_dataset("imagefolder", data_files={split: pattern}, split=split, drop_labels=True)
    return _load_class_folders(root, class_names)


def _load_class_folders(root: Path, class_names: Sequence[str] | None) -> Dataset:
    stray = sorted(
        entry.name for entry in root.iterdir() if entry.is_file() and entry.suffix.lower() in IMAGE_SUFFIXES
    )
    if stray:
        raise ValueError(
            f"{len(stray)} image(s) of {str(root)!r}, such as {stray[0]!r}, lie outside the class folders; "
            "move them into the folder of their class"
        )
    folders = _folders(root)
    names = list(class_names) if class_names is not None else [folder.name for folder in folders]
    position = {class_key(name): index for index, name in enumerate(names)}
    unknown = [folder.name for folder in folders if class_key(folder.name) not in position]
    if unknown:
        raise ValueError(
            f"the folders {quoted(unknown)} of {str(root)!r} are none of the {len(names)} class names "
            f"{quoted(names)}; correct class_names, or give label_names (lines `folder<TAB>name` in a file)"
        )
    paths: list[str] = []
    labels: list[int] = []
    for folder in folders:
        found = image_files(folder).images
        paths += [str(file) for file in found]
        labels += [position[class_key(folder.name)]] * len(found)
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"image": paths, "label": labels}, features=features)
