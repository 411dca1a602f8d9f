# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a comparison on your own images measures where nobody says, the splits of the data or folders of the same classes beside them, and in which roles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets import get_dataset_split_names

from ..data.beside import classes_in, sets_beside, sets_within, split_purpose
from ..data.catalog.sets import registered_sets
from ..data.class_folders import visible_folders
from ..data.folders import folder_layout, folder_splits, holds_tars
from ..data.hub import at_one_commit, require_hub
from ..data.messages import quoted
from ..data.own_data import from_hub
from .data_sets import MEASURED
from .parser import UsageError
from .specs import Spec, own_split


def own_sets(spec: Spec) -> tuple[list[str], list[str]]:
    """
    The sets to measure on that lie in or beside training data.

    Args:
        spec (`Spec`): Of `--train_dataset`: a folder, a file, or a data set on the Hub.

    Returns:
        `tuple[list[str], list[str]]`: The sets, as `--eval_datasets` takes them, and notes on how they were found.

    Raises:
        ValueError: If it holds several folders of the same classes, any of which could be trained on.
        OSError: If it cannot be read.
    """
    folder = Path(spec.source).expanduser()
    if spec.part is not None or folder.is_file():
        return [], []
    if not folder.is_dir():
        require_hub(spec.source)
        splits = from_hub(get_dataset_split_names, spec.source, revision=at_one_commit(spec.source))
    elif holds_tars(folder) or folder_layout(folder)[0] != "classes" or folder_layout(folder)[1]:
        splits = folder_splits(folder)
    elif inner := sets_within(folder):
        names = [path.name for path in inner]
        raise UsageError(
            f"`--train_dataset {spec.text}` holds {len(names)} folders of the same classes, {quoted(names)}; choose the one to train "
            f"on, such as --train_dataset {inner[0]}: the others are measured then"
        )
    else:
        return _beside(spec, folder)
    purposes = {split: split_purpose(str(split)) for split in splits if split != own_split(spec, "train")}
    found = {f"{spec.source}/{split}": purpose for split, purpose in purposes.items() if purpose in ("id", "validation")}
    notes = [f"Measured on the splits {', '.join(found)}; give --eval_datasets to choose"] if found else []
    return _with_roles(found), notes


def _beside(spec: Spec, folder: Path) -> tuple[list[str], list[str]]:
    classes = classes_in(folder) or {path.name: path.name for path in visible_folders(folder)}
    found = sets_beside(folder, list(classes.values()))
    notes = list(found.notes)
    if found.sets:
        roles = {role: [path for path, other in found.sets.items() if other == role] for role in ("id", "validation", "shift")}
        words = {"id": "to test on", "validation": "to validate on", "shift": "as shifts"}
        one = words | {"shift": "as a shift"}
        told = "; ".join(f"{', '.join(paths)} {words[role] if len(paths) > 1 else one[role]}" for role, paths in roles.items() if paths)
        lie = "lies a folder of the same classes, which is" if len(found.sets) == 1 else "lie folders of the same classes, which are"
        notes.append(f"Beside {spec.source} {lie} measured: {told}. Give --eval_datasets to choose")
    return _with_roles(found.sets), notes


def _with_roles(sets: Mapping[str, str]) -> list[str]:
    return [path if role == "id" else f"{path}:{role}" for path, role in sets.items()]


def roles_of(text: str) -> list[str]:
    """The roles of the sets that a `text` of `--eval_datasets` stands for."""
    spec = Spec.parse(text)
    if not spec.registered:
        return [spec.role or "id"]
    sets = registered_sets(spec.source)
    keys = [spec.part] if spec.part in sets else [key for key, item in sets.items() if item["role"] in MEASURED]
    return [spec.role or sets[key]["role"] for key in keys]
