# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Data sets that lie on disk: class folders, images with a metadata file, parquet, and `save_to_disk` folders.

The `imagefolder` reader of `datasets` guesses splits from words in paths, so a class called "train" or a file called
`my-test-1.png` silently hides the rest of the data. Here, folders are splits only if all folders at the top are named
as splits and hold class folders or a metadata file.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Image, load_dataset, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetNotFoundError, DatasetsError

from .class_folders import layout_fault, load_class_folders, split_role
from .files import (
    files_called,
    holds_images,
    image_files,
    left_out_words,
    visible_folders,
)
from .messages import quoted, say_once
from .prompts import read_text

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_DEEPEST = 100


def _has_metadata(path: Path) -> bool:
    return any((path / name).is_file() for name in METADATA_FILES)


def _split_folders(path: Path) -> dict[str, Path]:
    """Folders at the top of `path` that are splits; empty if they are classes, or hold no data of their own."""
    folders = visible_folders(path)
    named = folders and all(split_role(folder.name) for folder in folders) and not _has_metadata(path)
    if named and all(_has_metadata(folder) or any(map(holds_images, visible_folders(folder))) for folder in folders):
        return {folder.name: folder for folder in folders}
    return {}


def folder_kind(path: Path) -> str:
    """Return what the folder `path` holds: "saved", "saved_splits", "metadata", "parquet" or "classes".

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
    if any(map(holds_images, visible_folders(path))):
        return "classes"
    files = image_files(path)
    found = (
        [f"{len(files.images)} image{'s' if len(files.images) > 1 else ''} outside of any folder"]
        if files.images
        else []
    )
    found += [files.left_out()] if files.left_out() else []
    raise ValueError(
        f"the folder {str(path)!r} holds no data set: expected one folder of images per class, images with "
        "metadata.csv or metadata.jsonl (columns file_name and label), parquet files, or what datasets' save_to_disk wrote; "
        + (f"it holds {', '.join(found)}" if found else "it is empty")
    )


def folder_splits(path: Path) -> tuple[str, ...]:
    """Return the splits of the folder `path`; ("train",) if it is not divided.

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
                f"The parquet files {quoted(left)} in {str(path)!r} belong to none of its splits "
                f"{quoted(list(files))}; name one .parquet file or name every file after its split"
            )
        return tuple(files)
    return tuple(_split_folders(path)) or ("train",)


def load_folder(
    path: Path,
    split: str,
    class_names: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    naming: bool = False,
) -> Dataset:
    """Load one split of a folder.

    Args:
        path (`Path`): An existing folder of any kind that `folder_kind` knows.
        split (`str`): One of `folder_splits(path)`.
        class_names (`Sequence[str]`, *optional*): For class folders, the classes in label order (default: the sorted
            names of the folders).
        label_names (`Sequence[str]`, *optional*): What the folders are called, in the same order, where that differs.
        naming (`bool`, *optional*, defaults to `False`): Whether the names of class folders are to become the class
            names, so that there must be no doubt about what the folders are.

    Returns:
        The data set, memory-mapped or made of file paths; images decode when read.

    Raises:
        ValueError: no data set, no such split, class folders that cannot be matched to `class_names`, or a
            metadata file that names images which are not there.
    """
    kind, splits = folder_kind(path), folder_splits(path)
    if split not in splits:
        raise ValueError(f"{str(path)!r} has no split {split!r}; its splits are {quoted(splits, 20)}")
    if kind == "saved":
        return load_from_disk(str(path))
    if kind == "saved_splits":
        return load_from_disk(str(path))[split]
    if kind == "parquet":
        with named_errors(str(path)):
            return load_dataset(str(path), split=split)
    root = _split_folders(path).get(split, path)
    if kind == "metadata":
        return _load_metadata(root, split)
    return load_class_folders(root, class_names, label_names, naming)


def class_doubt(path: Path, split: str) -> str:
    """Return why the class folders of a `split` in `path` may be none (see `data.class_folders`); "" if there is no doubt."""
    try:
        if folder_kind(path) != "classes":
            return ""
    except ValueError:
        return ""
    root = _split_folders(path).get(split, path)
    return (
        layout_fault(root, {folder.name: image_files(folder) for folder in visible_folders(root)}, single=True) or ""
    )


@contextmanager
def named_errors(path: str, data_files: dict | None = None) -> Iterator[None]:
    """Turn errors of `datasets` about the contents of `path` or `data_files` into one line. Raises ValueError."""
    try:
        yield
    except DatasetNotFoundError:
        raise
    except (DatasetsError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        files = [
            file for found in (data_files or {}).values() for file in ([found] if isinstance(found, str) else found)
        ]
        what = quoted(files, 3) if files else repr(path)
        raise ValueError(f"The data {what} cannot be read: {reason}; correct the files or fetch them again") from error


def _load_metadata(root: Path, split: str) -> Dataset:
    tables = files_called(root, METADATA_FILES)
    for file in tables:
        if file.suffix != ".parquet":
            _check_text(file)
    try:
        data_files = {split: [glob.escape(str(file)) for file in tables]}
        dataset = load_dataset("imagefolder", data_files=data_files, split=split, drop_labels=True)
    except DatasetNotFoundError:
        raise
    except (ValueError, RecursionError, DatasetsError) as error:
        raise ValueError(_table_fault(tables, error)) from error
    names = quoted(sorted({file.name for file in tables}))
    files = image_files(root)
    found = {os.path.normpath(file) for file in files.images}
    listed: set[str] = set()
    for column in (name for name, feature in dataset.features.items() if isinstance(feature, Image)):
        paths = pc.struct_field(dataset.with_format("arrow")[:].column(column), "path").to_pylist()
        paths = [os.path.normpath(path) for path in paths if path is not None]
        missing = [path for path in paths if path not in found and not os.path.isfile(path)]
        if missing:
            raise ValueError(_missing(missing, len(paths), names, root, found))
        several = [path for path, count in Counter(paths).items() if count > 1]
        if several:
            say_once(
                f"{root}: {names} lists {len(several)} image{'s' if len(several) > 1 else ''} more than once, such as "
                f"{os.path.relpath(several[0], root)!r}; each counts as often as it is listed"
            )
        listed.update(paths)
    more = sorted(set(found) - listed)
    more = (
        sorted(set(more) - {os.path.realpath(path) for path in listed - set(found)}) if listed - set(found) else more
    )
    if more:
        first = os.path.relpath(more[0], root)
        many = (
            f"{len(more)} images that {names} does not list are"
            if len(more) > 1
            else f"1 image that {names} does not list is"
        )
        say_once(f"{root}: {many} not read{', such as' if len(more) > 1 else ':'} {first!r}")
    tabular = {ending: count for ending, count in files.others.items() if ending not in (".csv", ".jsonl", ".parquet")}
    left = left_out_words(tabular, files.helpers)
    if left:
        say_once(f"{root}: not read: {left}")
    return dataset


def _check_text(table: Path) -> None:
    """Refuse a table that is not UTF-8, or nested so deeply that reading it would crash the process."""
    for number, line in enumerate(read_text(table).split("\n"), 1):
        if table.suffix == ".jsonl" and line.count("[") + line.count("{") > _DEEPEST:
            depth = deepest = 0
            for sign in re.sub(r'"(?:[^"\\]|\\.)*"', "", line):
                depth += (sign in "[{") - (sign in "]}")
                deepest = max(deepest, depth)
            if deepest > _DEEPEST:
                raise ValueError(f"line {number} of {str(table)!r} is nested {deepest} deep; write at most {_DEEPEST}")


def _table_fault(tables: Sequence[Path], error: Exception) -> str:
    """What is wrong with metadata files that `datasets` does not read."""
    reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
    if "must be present as dictionary key" not in reason:
        return f"{quoted(tables)}: {reason}; correct it"
    for table in tables:
        columns = _column_names(table)
        if not any(name.endswith(("file_name", "file_names")) for name in columns):
            commas = (
                ", and separate columns with commas" if len(columns) == 1 and set(columns[0]) & set(";\t|") else ""
            )
            return (
                f"{str(table)!r} has no column 'file_name' (its columns: {quoted(columns, 20)}); call that of the paths of "
                f"the images file_name{commas}"
            )
    return f"{quoted(tables)}: {reason}"


def _column_names(table: Path) -> list[str]:
    if table.suffix == ".parquet":
        return pq.read_schema(table).names
    first = next((line for line in read_text(table).split("\n") if line.strip()), "")
    return list(json.loads(first)) if table.suffix == ".jsonl" else next(csv.reader([first]), [])


def _missing(missing: list[str], rows: int, names: str, root: Path, found: set[str]) -> str:
    first = os.path.relpath(missing[0], root)
    same = {unicodedata.normalize("NFC", path) for path in found}
    form = (
        ", though there is one of that name in another Unicode form"
        if unicodedata.normalize("NFC", missing[0]) in same
        else ""
    )
    return (
        f"{names} of {str(root)!r} lists {first!r}, but there is no such file{form} ({len(missing)} such row{'s' if len(missing) > 1 else ''} of {rows}); "
        "correct file_name, or remove the rows"
    )
