# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One's own data, from a folder, files or the Hub: what they say of themselves (splits, a name), and their rows."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, DatasetBuilder, load_dataset_builder
from datasets.inspect import SplitsNotFoundError
from huggingface_hub.errors import HTTPError

from .catalog.hub_copies import Repository, declared_rows
from .class_folders import IMAGE_SUFFIXES, split_role
from .class_lists import check_class_lists, first_and
from .columns import StoredRows, arrow_column, check_dataset, row_rule, say_unused
from .folders import folder_layout, folder_splits, holds_tars, load_folder, named_errors, tar_splits
from .hub import at_one_commit, require_hub, unread_files
from .labels import LabelRule, is_text
from .messages import beside, quoted, say_once
from .prompts import read_names_and_templates
from .streams.rows import OpenSplit, RowStream, listed, open_split, stream_of

if TYPE_CHECKING:
    from .benchmarks import Benchmark

#: Files on the Hub of which the footers are read.
_REMOTE_FOOTERS = 8
#: What to do with files of other kinds, by their endings.
_INSTEAD = {
    "unpack it, and give the folder": (".zip", ".rar", ".7z"),
    "give the folder that it lies in": (".tar",),
    "put it into the folder of the images as metadata.csv or metadata.jsonl, and give the folder": (".csv", ".tsv", ".json", ".jsonl", ".xlsx"),
    "give the folder of the class folders": IMAGE_SUFFIXES,
}
#: What tables call a column that says of each row whether it is to train or to test on.
_SPLIT_COLUMNS = ("split", "splits", "subset", "partition", "set", "phase", "fold", "usage", "mode")
_BUILDERS = ("parquet", "imagefolder", "json", "csv", "arrow", "webdataset")


def describe_own_data(source: str, split: str | None, given: dict, known: Sequence[str]) -> dict:
    """The fields of a `Benchmark` for data that are not registered; the class names only where a file beside tars has them.

    Args:
        source (`str`): A folder, a .parquet file, or a Hub id.
        split (`str`, *optional*): The split to take; needed where there are several.
        given (`dict`): Fields that the user gives, which come before what is found.
        known (`Sequence[str]`): Names of the registry, for the message about a name that is none.

    Returns:
        `name`, `role` ("id" by default), `split`, `path` and, for a file, `data_files`, with all that is given.

    Raises:
        ValueError: an unknown name, a file that is not a parquet file, no split chosen of several, or an unknown split.
        OSError: a path that does not exist, or a Hub data set that cannot be reached.
    """
    path = Path(source).expanduser().absolute()
    if path.is_file() and path.suffix.lower() == ".parquet":
        where, splits, stem = {"path": "parquet", "data_files": str(path)}, (split or "train",), path.stem
    elif path.is_file():
        instead = next((what for what, endings in _INSTEAD.items() if path.suffix.lower() in endings), "give a .parquet file or a folder")
        raise ValueError(f"The file {source!r} is not a parquet file; {instead}.")
    elif path.is_dir():
        flat = _may_be_flat(given.get("role"), given.get("label_column", "label"))
        where, splits, stem = {"path": str(path)}, folder_splits(path, flat), path.name
        if holds_tars(path) and "class_names" not in given and (path / "classnames.txt").is_file():
            given = {**given, **read_names_and_templates(path / "classnames.txt", None, given.get("label_names"))}
    elif "/" not in source and "\\" not in source and not path.suffix:
        raise ValueError(
            f"unknown data set {source!r}: it is neither one of {quoted(known, 40)} nor an existing path; "
            "give a name, a path, or a Hub id owner/name."
        )
    else:
        require_hub(source)
        builder = from_hub(
            load_dataset_builder,
            source,
            given.get("config"),
            revision=at_one_commit(source, given.get("revision")),
            data_files={split: given["data_files"]} if split and given.get("data_files") else given.get("data_files"),
        )
        if builder.name == "text":
            raise ValueError(
                f"`datasets` takes {source!r} for lines of text, as it does with tars beside a count of them; name its "
                "files, such as split='test', data_files='test/*.tar'."
            )
        found = builder.config.data_files or {}
        if "data_files" not in given and (left := unread_files([str(file) for files in found.values() for file in files])):
            count = "1 file is" if len(left) == 1 else f"{len(left)} files are"
            say_once(f"{source}: {count} in none of its splits ({quoted(list(found))}) and not read: {quoted(left, 3)}.")
        splits = tuple(builder.info.splits or found)
        where, stem = {"path": source}, source.split("/")[-1]
    if split is None:
        if len(splits) != 1:
            raise ValueError(f"{source!r} has the splits {quoted(splits, 20)}; choose one with split.")
        split = splits[0]
    _known_split(dict.fromkeys(splits), split, source)
    name = re.sub(r"[\s/]+", "-", stem if len(splits) == 1 else f"{stem}-{split}")
    return {"name": name, "role": "id", "split": split, **where, **given}


def open_rows(benchmark: Benchmark, naming: bool = False) -> Dataset | OpenSplit:
    """
    Open what a [`Benchmark`] with a `path` describes; its columns are not checked.

    Args:
        benchmark ([`Benchmark`]): The description.
        naming (`bool`, *optional*, defaults to `False`): Whether the names of class folders are to become the class names.

    Returns:
        The rows; or, if they are to be streamed, the opened split. A folder of image files and what `save_to_disk` wrote are
        streamed as a data set too, of paths or of memory-mapped rows: nothing has to be copied to read it in any order.

    Raises:
        ValueError: A folder that holds no data set, folders that are none of the classes, or a format that cannot be
            streamed.
        OSError: The path does not exist, or the Hub data set cannot be reached.
    """
    path, split = benchmark.path, benchmark.split
    folder, files = Path(path).expanduser(), None
    if path in _BUILDERS:
        files = {split: _file_pattern(benchmark.data_files)}
    elif not folder.is_dir():
        require_hub(path)
        # A pattern by itself would always be the files of a split called "train".
        files = {split: benchmark.data_files} if benchmark.data_files else None
        return from_hub(_opened, path, benchmark, files, benchmark.config, revision=at_one_commit(path, benchmark.revision))
    elif holds_tars(folder):
        path, files = "webdataset", {split: _known_split(tar_splits(folder), split, path)}
    elif not benchmark.streaming or folder_layout(folder)[0] != "parquet":
        flat = _may_be_flat(benchmark.role, benchmark.label_column)
        return load_folder(folder, split, benchmark.class_names or None, benchmark.label_names, naming, flat)
    else:
        path = str(folder)
        _known_split({name: name for name in folder_splits(folder)}, split, benchmark.path)
    return _opened(path, benchmark, files)


def _opened(path: str, benchmark: Benchmark, files: dict | None, *config, **options) -> Dataset | OpenSplit:
    split = benchmark.split
    with named_errors(path, files):
        builder = load_dataset_builder(path, *config, data_files=files, **options)
        if not benchmark.streaming:
            # As `load_dataset` does it.
            builder.download_and_prepare()
            rows = builder.as_dataset(split=split)
            _check_files(builder, split, rows.features, path)
            return rows
        declared = None
        if config and files:
            # A builder forgets what the data set says of itself as soon as its files are named.
            declared = declared_rows(Repository(path, split, config=benchmark.config, revision=options["revision"]))
        opened = open_split(builder, split, declared)
        _check_files(builder, split, opened.features, path)
        files = listed(opened)
        return opened if files is None else files


def _check_files(builder: DatasetBuilder, split: str, features: Mapping[str, Any], path: str) -> None:
    """Refuse parquet files that number their classes differently. Of files on the Hub, whose footers cost requests, a few are looked at."""
    files = [str(file) for file in first_and(builder, split)] if builder.name == "parquet" else []
    check_class_lists([file for number, file in enumerate(files) if number <= _REMOTE_FOOTERS or "://" not in file], features, path)


def checked_rows(
    benchmark: Benchmark, rows: Dataset | OpenSplit, rule: LabelRule | None = None
) -> StoredRows | RowStream:
    """
    Rows that were opened, after the checks of what a [`Benchmark`] says about them.

    Args:
        benchmark ([`Benchmark`]): Their description.
        rows ([`~datasets.Dataset`] or [`OpenSplit`]): As [`open_rows`] gives them, or held in memory.
        rule ([`LabelRule`], *optional*): What their labels mean, where that is known better than by the benchmark's names.

    Raises:
        ValueError: Empty data, a missing column, a column of another kind, class names that disagree, or a label or
            caption that is wrong; of a stream, those that show without reading a row.
        OSError: A damaged file on this machine.
    """
    where = f"data set {benchmark.name!r}"
    described: dict[str, Any] = {
        "where": where,
        "class_names": benchmark.class_names,
        "own_names": benchmark.label_names,
        "image_column": benchmark.image_column,
        "label_column": benchmark.label_column,
        "caption_column": benchmark.caption_column,
        "group_column": benchmark.group_column,
        "rule": rule,
    }
    used = (benchmark.label_column if benchmark.class_names else None, benchmark.caption_column, benchmark.group_column)
    for column, feature in rows.features.items() if isinstance(rows, Dataset) else ():
        if column.lower() in _SPLIT_COLUMNS and column not in used and is_text(feature):
            counts = arrow_column(rows, column).value_counts().to_pylist()
            _say_splits(column, {item["values"]: item["counts"] for item in counts}, where)
    if not benchmark.streaming:
        return check_dataset(rows, say=rule is None, **described)
    meaning = row_rule(rows.features, **described)
    if isinstance(rows, Dataset) and meaning.label_column is not None:
        # What can be asked for by number is checked before it is used, as if it were loaded.
        classes, _ = replace(meaning, caption_column=None).by_column(rows)
        if rule is None:
            say_unused(set(chain(*classes) if meaning.several else classes.tolist()), benchmark.class_names, where)
    return stream_of(rows, meaning, training=benchmark.role == "train")


def _say_splits(column: str, rows: Mapping[Any, int], where: str) -> None:
    """Log a `column` by which some `rows`, counted by their text, are to train and others to test on: all are taken, whatever it says."""
    if {split_role(value) for value in rows if value is not None} >= {"train", "test"}:
        told = ", ".join(f"{value!r} {count:,}" for value, count in list(rows.items())[:5]) + (", ..." if len(rows) > 5 else "")
        say_once(
            f"{where}: the column {column!r} is not read, and the rows of all its splits are taken ({told}); to train on some and test on "
            "others, give each split a folder or file of its own."
        )


def _may_be_flat(role: str | None, label_column: str | None) -> bool:
    """Whether the images of a folder need no folders of classes: those of an open set, whose labels are not read."""
    return role == "open_set" and label_column is None


def _known_split(splits: Mapping[str, Any], split: str, source: str) -> Any:
    if split not in splits:
        raise ValueError(f"{source!r} has no split {split!r}; its splits are {quoted(list(splits), 20)}.")
    return splits[split]


def _file_pattern(files: str | None) -> str:
    """`files` as the pattern that `datasets` wants: a file that exists stands for itself, brackets and all."""
    if files and Path(files).exists():
        return glob.escape(files)
    if not files or not set("*?[") & set(files):
        raise FileNotFoundError(f"The data file {files!r} does not exist; correct the path.")
    return files


def from_hub(function: Callable, path: str, *arguments, **options) -> Any:
    """
    Return `function(path, *arguments, **options)`. Raises OSError with one line if the Hub does not give the data set, and ValueError if it has
    several configurations and none was chosen.
    """
    try:
        return function(path, *arguments, **options)
    except (OSError, RuntimeError, HTTPError, SplitsNotFoundError, JSONDecodeError) as error:
        # What is wrong says only the error that this one came of.
        told = error.__cause__ if isinstance(error, SplitsNotFoundError) and error.__cause__ is not None else error
        reason = " ".join(str(told).split()).rstrip(".")
        reason = f"it answers with something else than JSON ({reason})" if isinstance(told, JSONDecodeError) else reason
        raise OSError(f"No folder {path!r} here, and it cannot be loaded from the Hub: {reason}{beside(path) or '.'}") from error
    except ValueError as error:
        configs = re.search(r"Config name is missing\..*available configs: \[(.*?)\]", str(error), re.DOTALL)
        if configs is None:
            raise
        raise ValueError(
            f"{path!r} has the configurations {configs[1]}; choose one in Python, load_benchmark({path!r}, config=...), or name a folder with its files."
        ) from error
