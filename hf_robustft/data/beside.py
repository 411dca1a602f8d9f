# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What lies beside a folder to train on: folders of the same classes, by what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .class_folders import image_files, split_word, visible_folders
from .messages import closest, quoted
from .prompts import class_key

#: What a folder is for that is called after a split; any other is a shift.
_ROLES = dict.fromkeys(("test", "testing", "eval", "evaluation"), "id") | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "validation"
)


def split_purpose(name: str) -> str | None:
    """Return the role that the `name` of a split stands for: "train", "id" or "validation"; `None` for any other name."""
    word = split_word(name)
    return None if word is None else _ROLES.get(word, "train")


def classes_in(folder: Path) -> dict[str, str]:
    """Return the names of the folders of a `folder` that hold images, by what two spellings have in common; {} beside images."""
    if image_files(folder, first=True, deep=False).images:
        return {}
    return {class_key(inner.name): inner.name for inner in visible_folders(folder) if image_files(inner, first=True).images}


@dataclass(frozen=True)
class Beside:
    """
    What was found beside a folder to train on.

    Attributes:
        sets (`dict[str, str]`): Roles by the path of each folder of the same classes.
        notes (`tuple[str, ...]`): Sentences on folders that are not taken.
    """

    sets: dict[str, str]
    notes: tuple[str, ...] = ()


def sets_beside(folder: str | Path, classes: Sequence[str]) -> Beside:
    """
    Find folders of the same classes beside a folder.

    Args:
        folder (`str` or `Path`): The folder to train on.
        classes (`Sequence[str]`): The names of its class folders.

    Returns:
        [`Beside`]: Of the folders in the same folder those with images of two of the classes or more and of no others. One that is
        called like a split has its role, any other is a shift.
    """
    folder, known = Path(folder).expanduser(), {class_key(name) for name in classes}
    # The one around "." has no name in it.
    around = folder.resolve().parent if folder.name in ("", "..") else folder.parent
    sets, notes = {}, []
    for other in visible_folders(around):
        if other.resolve() == folder.resolve() or split_purpose(other.name) == "train":
            continue
        found = classes_in(other)
        strange = sorted(name for key, name in found.items() if key not in known)
        if len(known & found.keys()) < 2:
            continue
        # As it was typed: `my/photo` has `my/sketch` beside it.
        path = str(around / other.name)
        if strange:
            missing = [name for name in classes if class_key(name) not in found]
            near = list(dict.fromkeys(word for name in strange for word in closest(name, missing, 1)))
            meant = f"; did you mean {' and '.join(near)}?" if near else "; take it away, or give --eval_datasets" if len(strange) == 1 else ""
            notes.append(f"{path} is not measured: {quoted(strange)} in it {'is' if len(strange) == 1 else 'are'} none of the classes{meant}")
        else:
            sets[path] = split_purpose(other.name) or "shift"
    return Beside(sets, tuple(notes))


def sets_within(folder: str | Path) -> list[Path]:
    """The folders in a `folder` where each holds class folders, at least two of which all have in common; [] if these are classes themselves."""
    inner = [path for path in visible_folders(Path(folder).expanduser()) if image_files(path, first=True).images]
    classes = [set(classes_in(path)) for path in inner]
    shared = set.intersection(*classes) if classes else set()
    return inner if len(inner) > 1 and len(shared) > 1 else []
