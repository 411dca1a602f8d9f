# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a path or Hub id of one's own data says by itself: where they lie, their splits, a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from datasets import load_dataset_builder

from hf_robustft.data.columns import quoted
from hf_robustft.data.folders import folder_splits
from hf_robustft.data.hub import require_hub
from hf_robustft.data.prompts import read_names_and_templates
from hf_robustft.data.reading import from_hub, holds_tars, tar_splits


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
