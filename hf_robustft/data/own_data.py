# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One's own data, from a folder, files or the Hub: what they say of themselves (splits, a name), and their rows."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from datasets import Dataset, load_dataset_builder

from hf_robustft.data.catalog.hub_copies import Repository, declared_rows
from hf_robustft.data.columns import quoted
from hf_robustft.data.files import is_hidden
from hf_robustft.data.folders import SPLIT_NAMES, folder_kind, folder_splits, load_folder, load_rows, named_errors
from hf_robustft.data.hub import require_hub
from hf_robustft.data.prompts import read_names_and_templates
from hf_robustft.data.streams.shards import Opened, listed, open_split

_BUILDERS = ("parquet", "imagefolder", "json", "csv", "arrow", "webdataset")


def describe_own_data(source: str, split: str | None, given: dict, known: Sequence[str]) -> dict:
    """The fields of a `Benchmark` for data that are not registered; the class names only where a file beside tars has them.

    Args:
        source: a folder, a .parquet file, or a Hub id.
        split: the split to take; needed where there are several.
        given: fields that the user gives, which come before what is found.
        known: names of the registry, for the message about a name that is none.

    Returns:
        `name`, `role` ("id" by default), `split`, `path` and, for a file, `data_files`, with all that is given.

    Raises:
        ValueError: an unknown name, a file that is no parquet file, no split chosen of several, or an unknown split.
        OSError: a path that does not exist, or a Hub data set that cannot be reached.
    """
    path = Path(source).expanduser().absolute()
    if path.is_file() and path.suffix.lower() == ".parquet":
        where, splits, stem = {"path": "parquet", "data_files": str(path)}, (split or "train",), path.stem
    elif path.is_file():
        raise ValueError(f"the file {source!r} is no parquet file; give a .parquet file or a folder")
    elif path.is_dir() and holds_tars(path):
        where, splits, stem = {"path": str(path)}, tuple(tar_splits(path)), path.name
        if "class_names" not in given and (path / "classnames.txt").is_file():
            given = {**given, **read_names_and_templates(path / "classnames.txt", None, given.get("label_names"))}
    elif path.is_dir():
        where, splits, stem = {"path": str(path)}, folder_splits(path), path.name
    elif "/" not in source and "\\" not in source and not path.suffix:
        raise ValueError(
            f"unknown benchmark {source!r}: it is neither one of {quoted(known, 40)} nor an existing path; "
            "give a name, a path, or a Hub id owner/name"
        )
    else:
        require_hub(source)
        builder = from_hub(
            load_dataset_builder,
            source,
            given.get("config"),
            revision=given.get("revision"),
            data_files={split: given["data_files"]} if split and given.get("data_files") else given.get("data_files"),
        )
        if builder.name == "text":
            raise ValueError(
                f"`datasets` takes {source!r} for lines of text, as it does with tars beside a count of them; name its "
                "files, such as split='test', data_files='test/*.tar'"
            )
        splits = tuple(builder.info.splits or builder.config.data_files or ())
        where, stem = {"path": source}, source.split("/")[-1]
    if split is None:
        if len(splits) != 1:
            raise ValueError(f"{source!r} has the splits {quoted(splits, 20)}; choose one with split")
        split = splits[0]
    elif split not in splits:
        raise ValueError(f"{source!r} has no split {split!r}; its splits are {quoted(splits, 20)}")
    name = re.sub(r"[\s/]+", "-", stem if len(splits) == 1 else f"{stem}-{split}")
    return {"name": name, "role": "id", "split": split, **where, **given}


def read_rows(benchmark, naming: bool = False) -> Dataset:
    """Read what a `Benchmark` with a `path` describes; its columns are not checked.

    Args:
        benchmark: the description.
        naming: whether the names of class folders are to become the class names.

    Raises:
        ValueError: a folder that holds no data set, or folders that are none of the classes.
        OSError: the path does not exist, or the Hub data set cannot be reached.
    """
    path, split = benchmark.path, benchmark.split
    if path in _BUILDERS:
        return load_rows(path, data_files={split: _file_pattern(benchmark.data_files)}, split=split)
    folder = Path(path).expanduser()
    if folder.is_dir() and holds_tars(folder):
        return load_rows("webdataset", data_files=_tars_of(folder, split), split=split)
    if folder.is_dir():
        return load_folder(folder, split, benchmark.class_names or None, benchmark.label_names, naming)
    require_hub(path)
    return from_hub(load_rows, path, benchmark.config, split=split, **hub_options(benchmark))


def open_rows(benchmark, naming: bool = False) -> Opened | Dataset:
    """Open what a `Benchmark` with a `path` describes, to be streamed; its columns are not checked.

    Args:
        benchmark: the description.
        naming: whether the names of class folders are to become the class names.

    Returns:
        The opened split; or, for a folder of image files and for what `save_to_disk` wrote, a data set of paths or of
        memory-mapped rows, of which nothing has to be copied to be read in any order.

    Raises:
        ValueError: as `read_rows`, or a format that cannot be streamed.
        OSError: as `read_rows`.
    """
    path, split = benchmark.path, benchmark.split
    if path in _BUILDERS:
        data_files = {split: _file_pattern(benchmark.data_files)}
        with named_errors(path, data_files):
            return _open(load_dataset_builder(path, data_files=data_files), split)
    folder = Path(path).expanduser()
    if folder.is_dir() and holds_tars(folder):
        return _open(load_dataset_builder("webdataset", data_files=_tars_of(folder, split)), split)
    if folder.is_dir():
        if folder_kind(folder) != "parquet":
            return load_folder(folder, split, benchmark.class_names or None, benchmark.label_names, naming)
        if split not in folder_splits(folder):
            raise ValueError(f"{path!r} has no split {split!r}; its splits are {quoted(folder_splits(folder), 20)}")
        with named_errors(str(folder)):
            return _open(load_dataset_builder(str(folder)), split)
    require_hub(path)
    return from_hub(_open_on_hub, path, benchmark.config, split=split, **hub_options(benchmark))


def _open_on_hub(path: str, config: str | None, *, split: str, revision: str | None, data_files: dict | None):
    builder = load_dataset_builder(path, config, revision=revision, data_files=data_files)
    # A builder forgets what the data set says of itself as soon as its files are named.
    described = Repository(path, split, config=config, revision=revision)
    return _open(builder, split, declared_rows(described) if data_files else None)


def _open(builder, split: str, declared: int | None = None) -> Opened | Dataset:
    opened = open_split(builder, split, declared)
    files = listed(opened)
    return opened if files is None else files


def hub_options(benchmark) -> dict:
    """What `datasets` is asked for a data set of the Hub: the revision, and the files of the split where they are given.

    A pattern by itself would always be the files of a split called "train".
    """
    files = benchmark.data_files
    return {"revision": benchmark.revision, "data_files": {benchmark.split: files} if files else None}


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
    top = tars(folder)
    named = {file: [word for word in re.split(r"[^a-z]+", file.stem.lower()) if word in SPLIT_NAMES] for file in top}
    for file, words in named.items():
        splits.setdefault(words[0] if len(words) == 1 else "train", []).append(glob.escape(str(file)))
    wrong = [file.name for file, words in named.items() if len(words) != 1]
    if wrong and len(splits) > 1:
        raise ValueError(
            f"the tars {quoted(wrong)} in {str(folder)!r} name no one split, but others do; put each split's tars into "
            "a folder of its name"
        )
    return {split: files for split, files in splits.items() if files}


def _tars_of(folder: Path, split: str) -> dict[str, list[str]]:
    splits = tar_splits(folder)
    if split not in splits:
        raise ValueError(f"{str(folder)!r} has no split {split!r}; its splits are {quoted(list(splits), 20)}")
    return {split: splits[split]}


def _file_pattern(files: str | None) -> str:
    """`files` as the pattern that `datasets` wants: a file that exists stands for itself, brackets and all."""
    if files and Path(files).exists():
        return glob.escape(files)
    if not files or not set("*?[") & set(files):
        raise FileNotFoundError(f"the data file {files!r} does not exist; correct the path")
    return files


def from_hub(function: Callable, path: str, config: str | None, **options):
    """`function(path, config, **options)`; raises OSError with one line if the Hub does not give the data set."""
    try:
        return function(path, config, **options)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"no folder {path!r} here, and it cannot be loaded from the Hub: {reason}") from error
