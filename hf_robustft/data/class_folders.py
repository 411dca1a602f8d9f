# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Folders that are classes: which they are, and layouts that only look like them.

Folders become class names by themselves only where there is no doubt. There is, where
- folders are called like splits (`train`, `test_set`, `val`) and hold folders of images, or are at least half of all, or
  stand for both training and test data (one class called "test" among others is a class);
- there is only one folder with images: a wrapper around the classes, or a single class;
- a folder holds no image;
- a folder called like pictures in general (`images`) lies beside a table;
- two folders have one name but for case, blanks or Unicode form.
Each of these is refused with the way out. But for the last, `class_names` settle it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Image

from .files import (
    FolderFiles,
    image_files,
    is_hidden,
    is_visible_helper,
    left_out_words,
    readable_suffixes,
    visible_folders,
)
from .labels import class_positions
from .messages import quoted, say_once
from .prompts import class_key

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
    _refuse_stray(root)
    folders = {folder.name: image_files(folder) for folder in visible_folders(root)}
    _refuse_twins(root, folders)
    filled = [name for name, files in folders.items() if files.images]
    if class_names is None:
        fault = layout_fault(root, folders) if naming else None
        if fault:
            raise ValueError(fault)
        names = filled
        positions = {class_key(name): index for index, name in enumerate(names)}
    else:
        names = list(label_names or class_names)
        positions = class_positions(class_names, label_names)
        unknown = [name for name in filled if class_key(name) not in positions]
        if unknown:
            fault = layout_fault(root, folders)
            raise ValueError(
                f"the folders {quoted(unknown)} of {str(root)!r} are not among the {len(names)} class names "
                f"{quoted(names)}; correct class_names, or give label_names (in a file of class names: lines "
                "`folder<TAB>name`)"
                + (f"; {fault}" if fault else "")
            )
        of_class: dict[int, str] = {}
        for name in filled:
            other = of_class.setdefault(positions[class_key(name)], name)
            if other != name:
                raise ValueError(
                    f"The folders {other!r} and {name!r} of {str(root)!r} are one class by class_names; put their images "
                    "into one folder, or correct class_names"
                )
    _say(root, folders)
    paths = [str(file) for name in filled for file in folders[name].images]
    labels = [positions[class_key(name)] for name in filled for _ in folders[name].images]
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"image": paths, "label": labels}, features=features)


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
    inner = {name: _inner(root / name, folders[name]) for name in filled}
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
    empty = [name for name in folders if name not in filled]
    if empty and not single:
        more = folders[empty[0]].left_out()
        return (
            f"the folders {quoted(empty)} of {str(root)!r} hold no image that can be read"
            + (f" ({empty[0]!r}: {more})" if more else "")
            + ", so they cannot be classes; remove or fill them, or give class_names (--class_names on the command line)"
        )
    return None


def _inner(folder: Path, files: FolderFiles) -> list[str]:
    """The folders in a folder with images; [] if some images lie in the folder itself."""
    inner = {file.relative_to(folder).parts[0] for file in files.images}
    return [] if any(file.parent == folder for file in files.images) else sorted(inner)


def _refuse_stray(root: Path) -> None:
    stray = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.suffix.lower() in readable_suffixes() and not is_hidden(entry.name) and entry.is_file()
    )
    if stray:
        raise ValueError(
            f"{len(stray)} image(s) of {str(root)!r}, such as {stray[0]!r}, lie outside the class folders; "
            "move them into the folder of their class"
        )


def _refuse_twins(root: Path, folders: Mapping[str, FolderFiles]) -> None:
    first: dict[str, str] = {}
    for name, files in folders.items():
        other = first.setdefault(class_key(name), name) if files.images else name
        if other != name:
            raise ValueError(
                f"The folders {str(root / other)!r} and {str(root / name)!r} ({ascii(other)} and {ascii(name)}) are one class: "
                "their names differ only in case, blanks or Unicode form; put their images into one folder"
            )


def _say(root: Path, folders: Mapping[str, FolderFiles]) -> None:
    """Log what was not read, and images that lie deeper than their class folder."""
    others: Counter[str] = Counter(
        entry.suffix.lower()
        for entry in root.iterdir()
        if entry.is_file() and not is_hidden(entry.name) and entry.suffix and entry.suffix.lower() not in _TEXTS
    )
    for files in folders.values():
        others.update(files.others)
    helpers = [helper for files in folders.values() for helper in files.helpers]
    helpers += [entry for entry in root.iterdir() if entry.is_dir() and is_visible_helper(entry.name)]
    left = left_out_words(others, helpers)
    if left:
        say_once(f"{root}: not read: {left}")
    empty = [name for name, files in folders.items() if not files.images]
    if empty:
        say_once(f"{root}: no image in the folders {quoted(empty)}")
    deep = [file for name, files in folders.items() for file in files.images if file.parent != root / name]
    if deep:
        say_once(
            f"{root}: {'1 image lies' if len(deep) == 1 else f'{len(deep)} images lie'} deeper than the class folders and "
            f"count as theirs, such as {str(deep[0].relative_to(root))!r}"
        )
