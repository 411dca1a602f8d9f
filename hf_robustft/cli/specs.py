# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Data sets as command lines name them: `NAME[/SET][=PATH][:ROLE]`.

NAME is one of the registry (`imagenet-r`, `pacs-sketch`, `dtd`), of which a set can be chosen, and PATH is your own copy of
it. Anything else is your own data: a folder of class folders, of parquet files or of tars, what `save_to_disk` wrote, a
.parquet file, or a Hub id; `/SPLIT` behind it chooses a split.
"""

from __future__ import annotations

import os
import re
import tarfile
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path

from datasets import get_dataset_split_names
from datasets.inspect import SplitsNotFoundError
from huggingface_hub.errors import HTTPError

from ..data.catalog.hub_copies import WDS_IMAGES
from ..data.catalog.sets import GROUPS, registered_sets
from ..data.class_folders import split_word
from ..data.folders import folder_layout, folder_splits, holds_tars, tars
from ..data.hub import at_one_commit, is_hub_id, require_hub
from ..data.messages import quoted
from .first_look import SUITE
from .first_paths import nearest_role

ROLES = ("id", "validation", "shift", "open_set")


@dataclass(frozen=True)
class Spec:
    """What a command line says about one data set.

    Attributes:
        text: all of it.
        source: a name of the registry, a path or a Hub id.
        part: a set of a suite, or a split.
        copy: your own copy of a registered set.
        role: as given, or None.
        registered: whether `source` is of the registry.
    """

    text: str
    source: str
    part: str | None = None
    copy: str | None = None
    role: str | None = None
    registered: bool = False

    @classmethod
    def parse(cls, text: str) -> Spec:
        """
        Read `NAME[/SET][=PATH][:ROLE]`.

        Raises:
            ValueError: A role that there is not, or '=' without a path.
        """
        place, _, role = text.rpartition(":")
        if not place or role not in ROLES:
            if place and re.fullmatch(r"[\w-]*", role) and not Path(text).expanduser().exists():
                raise ValueError(_unknown_role(text, role, place))
            place, role = text, None
        name, equals, copy = place.partition("=")
        suite, _, part = name.partition("/")
        if (suite in GROUPS or SUITE in text) and not Path(place).expanduser().exists():
            one = f"one of them, such as {GROUPS[suite].suites[0]}" if suite in GROUPS else "the name of one data set"
            raise ValueError(
                f"{text!r} stands for several data sets, one for each run of `hf-robustft train --train_dataset "
                f"{{{','.join(GROUPS)}}}`; give {one}."
            )
        if registered_sets(suite) is not None:
            if equals and not copy:
                raise ValueError(f"{text!r}: the path of your copy is missing after '='; give it, or leave '=' out")
            return cls(text, suite, part or None, copy or None, role, registered=True)
        return cls(text, *_own_place(place), None, role)

    @property
    def name(self) -> str:
        """What reports call your own data."""
        # Folders may have dots in their names; only of a file the ending is cut.
        path = Path(self.source).expanduser()
        stem = self.part or (path.stem if path.is_file() else os.path.basename(os.path.abspath(path)))
        return re.sub(r"\s+", "-", stem) or "data"

    @property
    def has_columns(self) -> bool:
        """Whether the data have columns to name: own data that are not a folder of class folders."""
        folder = Path(self.source).expanduser()
        classes = folder.is_dir() and not holds_tars(folder) and folder_layout(folder)[0] == "classes"
        return not self.registered and not classes

    @property
    def folder(self) -> str | None:
        """The path of your own data, or of your own copy; None for a name of the registry alone."""
        return self.copy if self.registered else self.source


def _unknown_role(text: str, role: str, place: str) -> str:
    near = nearest_role(role)
    hint = f"; did you mean {place}:{near}?" if near else ""
    return (
        f"{text!r}: there is no role {role!r}; the roles are id (test data like the training data), shift, validation and "
        f"open_set (images of other classes){hint}"
    )


#: What a split is called elsewhere.
_CALLED_TOO = {"validation": ("valid", "val", "dev")}


def own_split(spec: Spec, *usual: str) -> str | None:
    """
    The split of own data that `spec` means: the one named; else, of several, the first that there is of those `usual` for the purpose.

    Raises:
        ValueError: If there are several, and none of the usual name.
    """
    folder = Path(spec.source).expanduser()
    if spec.part is not None or folder.is_file():
        return spec.part
    if folder.is_dir():
        splits = _folder_splits(folder)
    elif is_hub_id(spec.source):
        require_hub(spec.source)
        try:
            splits = tuple(get_dataset_split_names(spec.source, revision=at_one_commit(spec.source)))
        except (OSError, RuntimeError, HTTPError, SplitsNotFoundError, JSONDecodeError):
            # Opening the data says what is wrong.
            return None
    else:
        return None
    if len(splits) < 2:
        return None
    for word in usual:
        # A folder called `training_set` or `Test` is as good as one called `train` or `test`.
        called = [split for split in splits if split_word(str(split)) in (word, f"{word}ing", *_CALLED_TOO.get(word, ()))]
        if word in splits or len(called) == 1:
            return word if word in splits else called[0]
    raise ValueError(f"{spec.text!r} has the splits {quoted(splits, 20)}; choose one, such as {spec.source}/{splits[0]}")


def own_columns(spec: Spec, given: dict[str, str]) -> dict[str, str]:
    """
    The columns of own data.

    Args:
        spec ([`Spec`]): The data.
        given (`dict[str, str]`): `image_column`, `label_column` and `group_column`, those that a user named.

    Returns:
        `dict[str, str]`: The same, or none for class folders, which have no columns; of a folder of tars, what is not given
        is what the files in its first tar are named for.

    Raises:
        ValueError: If there is not one kind of image in the tar.
    """
    folder = Path(spec.source).expanduser()
    if not spec.has_columns:
        return {}
    if not folder.is_dir() or not holds_tars(folder) or {"image_column", "label_column"} <= set(given):
        return given
    return {**_tar_columns(folder, spec.source, given.get("image_column")), **given}


def _tar_columns(folder: Path, source: str, image_column: str | None) -> dict[str, str]:
    first = next(iter(tars(folder)), None) or next(file for place in sorted(folder.glob("*/")) for file in tars(place))
    endings = set()
    try:
        with tarfile.open(first) as tar:
            for _ in range(20):
                member = tar.next()
                if member is None:
                    break
                endings.add(member.name.rpartition("/")[2].partition(".")[2])
    except tarfile.TarError as error:
        raise OSError(f"The tar {str(first)!r} is damaged: {' '.join(str(error).split())}; fetch it again.") from error
    images = sorted(name for name in endings if name.lower() in WDS_IMAGES) if image_column is None else [image_column]
    if len(images) != 1:
        raise ValueError(
            f"{source!r}: {first.name} holds files ending in {quoted(sorted(endings), 20)}, of which {len(images)} are "
            "images; name the one to read with --image_column"
        )
    return {"image_column": images[0], **({"label_column": "cls"} if "cls" in endings else {})}


def _own_place(place: str) -> tuple[str, str | None]:
    """A path or Hub id, and the split that is named behind it."""
    outer, _, last = place.rstrip("/").rpartition("/")
    if Path(place).expanduser().exists():
        beside = Path(outer or ".").expanduser() / "classnames.txt"
        if beside.is_file() and last in _folder_splits(beside.parent):
            # Of tars: their names of classes lie above the folders of the splits.
            return outer or ".", last
        return place, None
    if is_hub_id(outer) and not Path(outer).exists():
        return outer, last
    if outer and Path(outer).expanduser().is_dir() and last in _folder_splits(Path(outer).expanduser()):
        return outer, last
    return place, None


def _folder_splits(folder: Path) -> tuple[str, ...]:
    try:
        return folder_splits(folder)
    except ValueError:
        return ()
