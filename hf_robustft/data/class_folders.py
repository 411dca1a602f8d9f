# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Folders of images: which of their files are data, and whether their folders are classes.

Images are known by their ending, never read from hidden and helper folders. Folders become class names by themselves only
where there is no doubt. There is, where
- folders are called like splits (`train`, `test_set`, `val`) and hold folders of images, or are at least half of all, or
  stand for both training and test data (one class called "test" among others is a class);
- folders called like splits, for training and for tests, lie inside the folders of the classes;
- there is only one folder with images: a wrapper around the classes, or a single class;
- a folder holds no image;
- a folder called like pictures in general (`images`) lies beside a table;
- two folders have one name but for case, blanks or Unicode form.
Each of these is refused with the way out. But for the last, `class_names` settle it.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import PIL.Image
from datasets import ClassLabel, Dataset, Features, Image

from .labels import class_positions
from .messages import quoted, say_once
from .prompts import class_key

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    + (".pbm", ".pgm", ".ppm", ".pnm", ".jp2", ".avif")
)
# What file managers, network drives and notebooks put beside pictures, small copies of them above all.
_HELPER_FOLDERS = frozenset(
    ("@eadir", "@__thumb", "@recycle", "#recycle", "$recycle.bin", "lost+found", "system volume information")
    + ("thumbs", "thumbnails")
)
_NEVER_SAID = frozenset(("__macosx", "__pycache__"))
_HELPER_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
_SPECIAL = "pipe or device"
SPLIT_NAMES = ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
_FILLERS = (
    "set",
    "sets",
    "data",
    "dataset",
    "split",
    "images",
    "image",
    "imgs",
    "img",
    "photos",
    "pictures",
    "folder",
)
_PICTURES = frozenset(
    ("image", "images", "img", "imgs", "jpegimages", "photo", "photos", "pic", "pics", "picture", "pictures")
)
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".xlsx")
_TEXTS = frozenset((*_TABLES, ".md", ".txt", ".yaml", ".yml", ".xml", ".html", ".pdf", ".py", ".parquet"))


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder, those of its folders included.

    Attributes:
        images (`tuple[Path, ...]`): Images by their ending, sorted. Whether they can be read is not known yet.
        others (`dict[str, list[Path]]`): The other files by ending in lower case, "" for none.
        helpers (`tuple[Path, ...]`): Folders such as `@eaDir` that were not read. Hidden ones are not among them.
    """

    images: tuple[Path, ...]
    others: dict[str, list[Path]] = field(default_factory=dict)
    helpers: tuple[Path, ...] = ()

    def left_out(self, *more: FolderFiles) -> str:
        """
        What was not read, here and in `more` folders, in words: "3 files ending in .heic, 1 file without an ending"; "" if
        all was.
        """
        counts: Counter[str] = Counter()
        for files in (self, *more):
            counts.update({ending: len(found) for ending, found in files.others.items()})
        helpers = [folder.name for files in (self, *more) for folder in files.helpers]
        words = []
        for ending, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            files = f"{count} {'file' if count == 1 else 'files'}"
            if ending == _SPECIAL:
                words.append(f"{count} {_SPECIAL if count == 1 else 'pipes or devices'}")
            else:
                words.append(f"{files} ending in {ending}" if ending else f"{files} without an ending")
        if helpers:
            folders = "folder" if len(helpers) == 1 else "folders"
            words.append(f"{len(helpers)} helper {folders} ({quoted(sorted(set(helpers)))})")
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


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden or helpers, sorted."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_helper(entry.name))


def image_files(folder: str | Path, first: bool = False, deep: bool = True) -> FolderFiles:
    """
    List the images of a folder at any depth; the one rule of what is read from folders.

    Hidden files and the contents of hidden and helper folders (`.ipynb_checkpoints`, `__MACOSX`, `@eaDir`, `thumbs`) are
    not looked at. Links are followed, but never back into a folder that is being listed. Pipes and devices are not read.

    Args:
        folder (`str` or `Path`): An existing folder; its own name does not matter.
        first (`bool`, *optional*, defaults to `False`): Look no further than the first image.
        deep (`bool`, *optional*, defaults to `True`): Look into its folders.

    Returns:
        [`FolderFiles`]: The images, and what else was found.
    """
    images: list[Path] = []
    helpers: list[Path] = []
    others: dict[str, list[Path]] = {}
    # Each folder goes with those around it, which a link from inside must not enter again.
    root = os.path.realpath(folder)
    open_folders = [(str(folder), {root, *map(str, Path(root).parents)})]
    while open_folders and not (first and images):
        place, inside = open_folders.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if first and images:
                    break
                path, ending = Path(entry.path), os.path.splitext(entry.name)[1].lower()
                if not _leads_to(entry.is_dir):
                    if is_hidden(entry.name):
                        continue
                    # A link that leads nowhere, or back to itself, is an image that cannot be read, which reading it says.
                    if not _leads_to(entry.is_file) and os.path.exists(path):
                        ending = _SPECIAL
                    (images if ending in readable_suffixes() else others.setdefault(ending, [])).append(path)
                elif is_helper(entry.name):
                    # Those whose names do not say that they are hidden are told.
                    helpers += [] if entry.name.startswith(".") or entry.name.lower() in _NEVER_SAID else [path]
                elif ending in readable_suffixes() and not os.listdir(path):
                    # An empty folder in the place of an image is an image that cannot be read.
                    images.append(path)
                elif deep and (real := os.path.realpath(path)) not in inside:
                    open_folders.append((entry.path, inside | {real}))
    return FolderFiles(tuple(sorted(images)), others, tuple(sorted(helpers)))


def _leads_to(kind: Callable[[], bool]) -> bool:
    """What `os.DirEntry` says of an entry's kind; of a link back to itself, which it fails on, that it is none."""
    try:
        return kind()
    except OSError:
        return False


def split_word(name: str) -> str | None:
    """The name of the split that a folder is called after, such as "train" for `Train_Images`; else None."""
    words = [word for word in re.findall(r"[a-z]+", name.lower()) if word not in _FILLERS]
    if len(words) != 1:
        return None
    ending = next((filler for filler in _FILLERS if words[0].endswith(filler)), "")
    word = words[0].removesuffix(ending)
    return word if word in SPLIT_NAMES else None


def split_role(name: str) -> str | None:
    """Return "train" or "test" if the `name` of a folder is that of a split, such as `train`, `test_set` or `val2017`; else None."""
    word = split_word(name)
    return None if word is None else "train" if word.startswith("train") else "test"


def load_class_folders(
    root: Path, class_names: Sequence[str] | None, label_names: Sequence[str] | None, naming: bool
) -> Dataset:
    """
    The images of class folders, as paths, with a ClassLabel.

    Args:
        root (`Path`): The folder in which the class folders lie.
        class_names, label_names (`Sequence[str]`, *optional*): The classes in label order, and what the folders are called.
        naming (`bool`): Whether the names of the folders are to become the class names.

    Returns:
        [`~datasets.Dataset`]: Columns "image" and "label". What was not read is logged.

    Raises:
        ValueError: Images outside the folders, folders of one name, folders that are not among the classes, or, if they
            are to name the classes, that may not be classes.
    """
    outside = image_files(root, deep=False)
    folders = {folder.name: image_files(folder) for folder in visible_folders(root)}
    filled = [name for name, files in folders.items() if files.images]
    stray = [file.name for file in outside.images if file.is_file()]
    if stray:
        raise ValueError(
            f"{len(stray)} image(s) of {str(root)!r}, such as {stray[0]!r}, lie outside the class folders; "
            "move them into the folder of their class."
        )
    positions: dict[str, int] = {}
    for index, name in enumerate(filled):
        other = filled[positions.setdefault(class_key(name), index)]
        if other != name:
            raise ValueError(
                f"The folders {str(root / other)!r} and {str(root / name)!r} ({ascii(other)} and {ascii(name)}) are one class: "
                "their names differ only in case, blanks or Unicode form; put their images into one folder."
            )
    if class_names is not None:
        positions = _given_positions(root, folders, class_names, label_names)
    elif naming and (fault := layout_fault(root, folders)):
        raise ValueError(f"{fault[0].upper()}{fault[1:]}.")
    told = {ending: files for ending, files in outside.others.items() if ending and ending not in _TEXTS}
    if left := replace(outside, others=told).left_out(*folders.values()):
        say_once(f"{root}: not read: {left}.")
    empty = [name for name, files in folders.items() if not files.images]
    if empty:
        say_once(f"{root}: no image in the folders {quoted(empty)}.")
    deep = [file for name in filled for file in folders[name].images if file.parent != root / name]
    if deep:
        say_once(
            f"{root}: {'1 image lies' if len(deep) == 1 else f'{len(deep)} images lie'} deeper than the class folders and "
            f"count as theirs, such as {str(deep[0].relative_to(root))!r}."
        )
    paths = [str(file) for name in filled for file in folders[name].images]
    labels = [positions[class_key(name)] for name in filled for _ in folders[name].images]
    names = filled if class_names is None else list(label_names or class_names)
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"image": paths, "label": labels}, features=features)


def load_flat_folder(root: Path) -> Dataset:
    """The images that lie in a folder (`root`) itself, as paths, in a column "image". What was not read is logged."""
    files = image_files(root, deep=False)
    if left := replace(files, others={ending: found for ending, found in files.others.items() if ending and ending not in _TEXTS}).left_out():
        say_once(f"{root}: not read: {left}.")
    return Dataset.from_dict({"image": [str(file) for file in files.images]}, features=Features({"image": Image()}))


def _given_positions(
    root: Path, folders: Mapping[str, FolderFiles], class_names: Sequence[str], label_names: Sequence[str] | None
) -> dict[str, int]:
    """The class of each folder by the key of its name, where the classes are given."""
    names, positions = list(label_names or class_names), class_positions(class_names, label_names)
    filled = [name for name, files in folders.items() if files.images]
    unknown = [name for name in filled if class_key(name) not in positions]
    if unknown:
        fault = layout_fault(root, folders)
        raise ValueError(
            f"the folders {quoted(unknown)} of {str(root)!r} are not among the {len(names)} class names {quoted(names)}; "
            "correct class_names, or give label_names (in a file of class names: lines `folder<TAB>name`)"
            + (f"; {fault}." if fault else ".")
        )
    of_class: dict[int, str] = {}
    for name in filled:
        other = of_class.setdefault(positions[class_key(name)], name)
        if other != name:
            raise ValueError(
                f"The folders {other!r} and {name!r} of {str(root)!r} are one class by class_names; put their images into "
                "one folder, or correct class_names."
            )
    return positions


def layout_fault(root: Path, folders: Mapping[str, FolderFiles], single: bool = False) -> str | None:
    """
    Why folders may not be classes, with the way out; None if there is no doubt that they are.

    Args:
        root (`Path`): The folder in which they lie.
        folders (`Mapping`): Their files, by name.
        single (`bool`, *optional*, defaults to `False`): Whether a single class, and empty folders, are no reason.
    """
    filled = [name for name, files in folders.items() if files.images]
    pictures = [name for name in filled if name.lower() in _PICTURES]
    tables = sorted(
        file.name for file in root.iterdir() if file.suffix.lower() in _TABLES and not is_hidden(file.name)
    )
    settle = "if they are classes, give class_names (--class_names on the command line)"
    if pictures and tables:
        return (
            f"{str(root)!r} holds {quoted(tables)} beside the folder {pictures[0]!r}, so its folders seem not to be classes; "
            "if that table has the labels, call it metadata.csv (or .jsonl) with the path of each image in a column "
            f"file_name; {settle}"
        )
    # The folders in which the images of each lie; none where some lie in the folder itself.
    inner: dict[str, list[str]] = {}
    for name in filled:
        files = folders[name].images
        deep = all(file.parent != root / name for file in files)
        inner[name] = sorted({file.relative_to(root / name).parts[0] for file in files}) if deep else []
    if len(filled) == 1:
        name = filled[0]
        if inner[name]:
            return (
                f"{str(root)!r} holds images in one folder only, {name!r}, where they are in the folders {quoted(inner[name])}; "
                f"give {str(root / name)!r} if these are the classes"
            )
        if single:
            return None
        return (
            f"{str(root)!r} holds images in one folder only, {name!r}, and a single class cannot be told from others; give "
            "the folder that holds one folder of images per class, or metadata.csv with a column file_name and labels"
        )
    parted = [name for name in filled if {split_role(part) for part in inner[name]} >= {"train", "test"}]
    if parted:
        return (
            f"the folders {quoted(parted)} of {str(root)!r} hold folders that are called like splits, {quoted(inner[parted[0]])}, so images to train "
            f"and to test on would be one set; put the splits outside, such as {inner[parted[0]][0]}/{parted[0]}, or give {str(root / parted[0])!r} if "
            f"it is not a class; {settle}"
        )
    roles = {name: split_role(name) for name in filled if split_role(name)}
    whole = [name for name in roles if inner[name]]
    if whole:
        return (
            f"the folders {quoted(whole)} of {str(root)!r} are called like splits and hold folders of images, but the others do not; "
            f"give one of them, such as {str(root / max(whole, key=roles.get))!r}; {settle}"
        )
    if len(set(roles.values())) > 1 or 2 * len(roles) >= len(filled):
        return (
            f"the folders {quoted(sorted(roles))} of {str(root)!r} are called like splits, not like classes; put one "
            f"folder of images per class into each; {settle}"
        )
    empty = [name for name, files in folders.items() if not files.images]
    if empty and not single:
        more = folders[empty[0]].left_out()
        return (
            f"the folders {quoted(empty)} of {str(root)!r} hold no image that can be read"
            + (f" ({empty[0]!r}: {more})" if more else "")
            + ", so they cannot be classes; remove or fill them, or give class_names (--class_names on the command line)"
        )
    return None
