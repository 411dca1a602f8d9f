# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Data sets that lie on disk: class folders, images with a metadata file, parquet, tars, and `save_to_disk` folders.

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
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, Image, load_dataset, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetNotFoundError, DatasetsError

from .class_folders import (
    SPLIT_NAMES,
    image_files,
    is_hidden,
    layout_fault,
    load_class_folders,
    load_flat_folder,
    split_role,
    visible_folders,
)
from .class_lists import check_class_lists, first_and
from .messages import quoted, say_once
from .prompts import read_text

METADATA_FILES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_DEEPEST = 100


def folder_layout(path: Path) -> tuple[str, dict[str, Path]]:
    """
    How data lie in the folder `path`, told without looking for their images.

    Returns:
        `tuple`: "saved", "saved_splits", "metadata", "parquet" or "classes", and the folder of each split where the splits
        are folders: those at the top, if all of them are called like splits and hold a metadata file or folders of images.
    """
    if (path / "dataset_dict.json").is_file():
        return "saved_splits", {}
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return "saved", {}
    if _has_metadata(path):
        return "metadata", {}
    folders, splits = visible_folders(path), {}
    if folders and all(split_role(folder.name) for folder in folders):
        described = [folder for folder in folders if _has_metadata(folder)]
        if all(folder in described or _holds_class_folders(folder) for folder in folders):
            splits = {folder.name: folder for folder in folders}
            if described:
                return "metadata", splits
    # Two levels are enough for the layouts of the Hub, and a search of every level is slow among a million images.
    if any(next(path.glob(pattern), None) for pattern in ("*.parquet", "*/*.parquet")):
        return "parquet", {}
    return "classes", splits


def folder_splits(path: Path, flat: bool = False) -> tuple[str, ...]:
    """Return the splits of the folder `path`; ("train",) if it is not divided. Images without folders are data if they may be `flat`.

    Raises:
        ValueError: No data set, or files of which some belong to no split.
    """
    if holds_tars(path):
        return tuple(tar_splits(path))
    kind, splits = folder_layout(path)
    if kind == "saved_splits":
        return tuple(load_from_disk(str(path)))
    if kind == "parquet":
        if set("[]*?") & set(str(path)):
            raise ValueError(
                f"`datasets` takes the letters [ ] * ? in {str(path)!r} for a pattern and finds no file there; "
                "rename the folder or name one .parquet file."
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
                f"{quoted(list(files))}; name one .parquet file or name every file after its split."
            )
        return tuple(files)
    if kind == "classes" and not splits and not _holds_class_folders(path) and not (flat and image_files(path, first=True, deep=False).images):
        raise _no_data(path)
    return tuple(splits) or ("train",)


def load_folder(
    path: Path,
    split: str,
    class_names: Sequence[str] | None = None,
    label_names: Sequence[str] | None = None,
    naming: bool = False,
    flat: bool = False,
) -> Dataset:
    """Load one split of a folder.

    Args:
        path (`Path`): An existing folder of any kind that `folder_layout` knows.
        split (`str`): One of `folder_splits(path)`.
        class_names (`Sequence[str]`, *optional*): For class folders, the classes in label order (default: the sorted
            names of the folders).
        label_names (`Sequence[str]`, *optional*): What the folders are called, in the same order, where that differs.
        naming (`bool`, *optional*, defaults to `False`): Whether the names of class folders are to become the class
            names, so that there must be no doubt about what the folders are.
        flat (`bool`, *optional*, defaults to `False`): Whether images may lie in the folder itself, without a class.

    Returns:
        The data set, memory-mapped or made of file paths; images decode when read.

    Raises:
        ValueError: No data set, no such split, class folders that cannot be matched to `class_names`, or a
            metadata file that names images which are not there.
    """
    kind, roots = folder_layout(path)
    splits = folder_splits(path) if kind in ("saved_splits", "parquet") else tuple(roots) or ("train",)
    if split not in splits:
        raise ValueError(f"{str(path)!r} has no split {split!r}; its splits are {quoted(splits, 20)}.")
    if kind == "saved":
        return load_from_disk(str(path))
    if kind == "saved_splits":
        return load_from_disk(str(path))[split]
    if kind == "parquet":
        with named_errors(str(path)):
            builder = load_dataset_builder(str(path))
            builder.download_and_prepare()
            dataset = builder.as_dataset(split=split)
            check_class_lists(first_and(builder, split), dataset.features, str(path))
            return dataset
    root = roots.get(split, path)
    # Of several splits some may lie in class folders.
    if kind == "metadata" and (root == path or _has_metadata(root)):
        return _load_metadata(root, split)
    if flat and not _holds_class_folders(root):
        dataset = load_flat_folder(root)
    else:
        dataset = load_class_folders(root, class_names, label_names, naming)
    if not len(dataset):
        raise _no_data(root)
    return dataset


def class_doubt(path: Path, split: str) -> str:
    """Return why the class folders of a `split` in `path` may not be classes (see `data.class_folders`); "" if there is no doubt."""
    kind, splits = folder_layout(path)
    root = splits.get(split, path)
    folders = {folder.name: image_files(folder) for folder in visible_folders(root)}
    return (layout_fault(root, folders, single=True) or "") if kind == "classes" else ""


def _has_metadata(path: Path) -> bool:
    return any((path / name).is_file() for name in METADATA_FILES)


def _holds_class_folders(path: Path) -> bool:
    return any(image_files(folder, first=True).images for folder in visible_folders(path))


def _no_data(path: Path) -> ValueError:
    files = image_files(path)
    count = len(files.images)
    found = [f"{count} image{'s' if count > 1 else ''} outside of any folder"] if count else []
    found += [files.left_out()] if files.left_out() else []
    return ValueError(
        f"The folder {str(path)!r} holds no data set: expected one folder of images per class, images with "
        "metadata.csv or metadata.jsonl (columns file_name and label), parquet files, or what datasets' save_to_disk wrote; "
        + (f"it holds {', '.join(found)}" if found else "it is empty")
        + ("; images of unknown classes need no folders, with the role open_set." if count else ".")
    )


def holds_tars(folder: Path) -> bool:
    """Whether a folder holds tars of samples (webdataset), at its top or in folders named as splits."""
    return bool(tars(folder)) or any(
        entry.name.lower() in SPLIT_NAMES and entry.is_dir() and bool(tars(entry)) for entry in folder.iterdir()
    )


def tars(folder: Path) -> list[Path]:
    """The tars in a folder, sorted; no pipes or folders of such a name."""
    return sorted(file for file in folder.glob("*.tar") if file.is_file() and not is_hidden(file.name))


def tar_splits(folder: Path) -> dict[str, list[str]]:
    """The tars of a folder by split, as patterns: by the name of their folder, or of the tars; "train" if neither says it.

    Raises:
        ValueError: the names of some tars say a split and those of others do not.
    """
    splits: dict[str, list[str]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.name.lower() in SPLIT_NAMES:
            splits[entry.name] = [glob.escape(str(file)) for file in tars(entry)]
        elif entry.is_dir() and (left := tars(entry)):
            say_once(f"{folder}: not read: {quoted([str(file.relative_to(folder)) for file in left])}; only folders called like splits are looked into.")
    top = tars(folder)
    named = {file: [word for word in re.split(r"[^a-z]+", file.stem.lower()) if word in SPLIT_NAMES] for file in top}
    for file, words in named.items():
        splits.setdefault(words[0] if len(words) == 1 else "train", []).append(glob.escape(str(file)))
    wrong = [file.name for file, words in named.items() if len(words) != 1]
    if wrong and len(splits) > 1:
        raise ValueError(
            f"The tars {quoted(wrong)} in {str(folder)!r} name no one split, but others do; put each split's tars into "
            "a folder of its name."
        )
    return {split: files for split, files in splits.items() if files}


@contextmanager
def named_errors(path: str, data_files: dict | None = None) -> Iterator[None]:
    """Turn errors of `datasets` about the contents of `path` or `data_files` into one line. Raises ValueError."""
    try:
        yield
    except DatasetNotFoundError:
        raise
    except (DatasetsError, pa.ArrowInvalid) as error:
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        what = _named_files(path, data_files)
        raise ValueError(f"The data {what} cannot be read: {reason}; correct the files or fetch them again.") from error
    except ValueError as error:
        label = re.fullmatch(r"invalid literal for int\(\) with base 10: b(['\"].*['\"])", str(error))
        if label is None:
            raise
        raise ValueError(
            f"A .cls file in {_named_files(path, data_files)} holds {label[1]}, and these hold numbers; write the number of the class (its line in classnames.txt, "
            "from 0), or call these files .txt and name them by label_column (--label_column txt)."
        ) from error


def _named_files(path: str, data_files: dict | None) -> str:
    files = [file for found in (data_files or {}).values() for file in ([found] if isinstance(found, str) else found)]
    return quoted(files, 3) if files else repr(path)


def _load_metadata(root: Path, split: str) -> Dataset:
    files = image_files(root)
    endings = {Path(name).suffix for name in METADATA_FILES}
    tables = sorted(file for ending in endings for file in files.others.get(ending, ()) if file.name in METADATA_FILES)
    for file in tables:
        if file.suffix != ".parquet":
            _check_text(file)
    try:
        # `datasets` takes no name such as "train-set" for a split.
        name = re.sub(r"\W", "_", split)
        data_files = {name: [glob.escape(str(file)) for file in tables]}
        dataset = load_dataset("imagefolder", data_files=data_files, split=name, drop_labels=True)
    except DatasetNotFoundError:
        raise
    except (ValueError, OverflowError, RecursionError, DatasetsError) as error:
        raise ValueError(_table_fault(tables, error)) from error
    names = quoted(sorted({file.name for file in tables}))
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
                f"{os.path.relpath(several[0], root)!r}; each counts as often as it is listed{_contradictions(dataset, column, set(several), root)}."
            )
        listed.update(paths)
    more = sorted(found - listed - {os.path.realpath(path) for path in listed - found})
    if more:
        first, several = os.path.relpath(more[0], root), len(more) > 1
        many = f"{len(more)} images" if several else "1 image"
        say_once(
            f"{root}: {many} that {names} does not list {'are' if several else 'is'} not read"
            f"{', such as' if several else ':'} {first!r}."
        )
    told = {ending: found for ending, found in files.others.items() if ending not in endings}
    if left := replace(files, others=told).left_out():
        say_once(f"{root}: not read: {left}.")
    return dataset


def _contradictions(dataset: Dataset, column: str, several: Collection[str], root: Path) -> str:
    """What other columns say of the images `several` that the `column` of a `dataset` lists more than once, where they say several things."""
    table = dataset.with_format("arrow")[:]
    told: dict[str, dict[str, set[str]]] = {}
    others = [name for name, feature in dataset.features.items() if not isinstance(feature, Image)]
    for row, path in enumerate(pc.struct_field(table.column(column), "path").to_pylist()):
        if path is not None and (path := os.path.normpath(path)) in several:
            for name in others:
                told.setdefault(name, {}).setdefault(path, set()).add(repr(table.column(name)[row].as_py()))
    unlike = {name: [path for path, values in found.items() if len(values) > 1] for name, found in told.items()}
    return "".join(
        f"; {name!r} is not the same in all rows of {os.path.relpath(paths[0], root)!r} ({', '.join(sorted(told[name][paths[0]])[:3])})"
        + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
        for name, paths in unlike.items()
        if paths
    )


def _check_text(table: Path) -> None:
    """Refuse a table that is not UTF-8, or nested so deeply that reading it would crash the process."""
    for number, line in enumerate(read_text(table).split("\n"), 1):
        if table.suffix == ".jsonl" and line.count("[") + line.count("{") > _DEEPEST:
            depth = deepest = 0
            for sign in re.sub(r'"(?:[^"\\]|\\.)*"', "", line):
                depth += (sign in "[{") - (sign in "]}")
                deepest = max(deepest, depth)
            if deepest > _DEEPEST:
                raise ValueError(f"Line {number} of {str(table)!r} is nested {deepest} deep; write at most {_DEEPEST}.")


def _table_fault(tables: Sequence[Path], error: Exception) -> str:
    """What is wrong with metadata files that `datasets` does not read."""
    reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
    if "must be present as dictionary key" not in reason:
        return f"{quoted(tables)}: {reason}; correct it."
    for table in tables:
        columns = _column_names(table)
        if not any(name.endswith(("file_name", "file_names")) for name in columns):
            commas = (
                ", and separate columns with commas" if len(columns) == 1 and set(columns[0]) & set(";\t|") else ""
            )
            return (
                f"{str(table)!r} has no column 'file_name' (its columns: {quoted(columns, 20)}); call that of the paths of "
                f"the images file_name{commas}."
            )
    return f"{quoted(tables)}: {reason}."


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
        "correct file_name, or remove the rows."
    )
