# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a registered benchmark knows of its data, and how the rows it means are read, from the Hub or one's own folder."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Value, concatenate_datasets

from ..column_checks import check_group_column
from ..columns import RowRule, StoredRows, check_dataset
from ..folders import folder_layout, folder_splits, load_folder
from ..hub import is_hub_id
from ..labels import LabelRule, holds_integers
from ..messages import quoted
from ..prompts import DEFAULT_TEMPLATES, class_key, label_key
from ..streams.rows import OpenSplit, RowStream, count_rows, stream_of
from .hub_copies import WDS_IMAGES, Repository, check_label_order, image_column_of, open_first
from .schema import copies

_SPLIT_ALIASES = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation", "eval", "evaluation"),
}
# Names of the domains of PACS and VLCS as other collections (DomainBed) spell their folders.
_DOMAIN_ALIASES = {
    "caltech": ("caltech101",),
    "labelme": (),
    "pascal": ("voc2007",),
    "sun": ("sun09",),
    "art_painting": ("art", "artpainting"),
}


@dataclass(frozen=True)
class RegisteredData:
    """
    What is known of a benchmark's data: its copies, what they call the classes, and which rows are meant.

    Args:
        repositories (`tuple[Repository, ...]`): Copies on the Hub, in the order in which they are tried; () where none is
            known.
        label_names (`tuple[tuple[str, ...], ...]`): For each label of the data, in order, all names that copies give it.
        key (`str`, *optional*, defaults to `'test'`): "train" or "test", to find the split of your own folder.
        positions (`tuple[int, ...]`, *optional*): For each label of the data its class in the benchmark, or -1 for rows that
            are left out (default: the labels themselves).
        all_domains (`tuple[str, ...]`, *optional*, defaults to `()`): Every domain of the data; () for data of one style.
        domains (`tuple[str, ...]`, *optional*, defaults to `()`): The domains whose rows are kept.
        share (`tuple[float, float]`, *optional*, defaults to `(0.0, 1.0)`): Rows whose random number lies in [low, high) are
            kept; it depends on `seed` and the row number alone.
        seed (`int`, *optional*, defaults to `0`): Seed of these numbers.
        folder (`str`, *optional*): Your own copy, which is read instead of the repositories.
    """

    repositories: tuple[Repository, ...]
    label_names: tuple[tuple[str, ...], ...] = field(repr=False)
    key: str = "test"
    positions: tuple[int, ...] | None = field(default=None, repr=False)
    all_domains: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    share: tuple[float, float] = (0.0, 1.0)
    seed: int = 0
    folder: str | None = None

    @property
    def place(self) -> dict:
        """Where the data are read from first, as fields of a `Benchmark`."""
        if self.folder is not None:
            return {"path": self.folder, "data_files": None, "split": self.key, "config": None, "revision": None}
        return self.repositories[0].place if self.repositories else {"path": None}


def data_key(role: str) -> str:
    """Return which split of a folder a set of this `role` is: "train" or "test"."""
    return "train" if role == "train" else "test"


def said(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the facts of a benchmark or set, `described`, say about it beside its classes and copies."""
    names = ("licence", "source", "note", "evaluation_only", "border", "group_column")
    return {name: described[name] for name in names if name in described}


def described_sets(name: str, described: Mapping[str, Any], folders: bool = False) -> dict[str, dict[str, Any]]:
    """
    The sets of a benchmark, as the fields of a [`Benchmark`] each.

    Args:
        name (`str`): What the benchmark is called.
        described (`Mapping`): Its facts (see [`catalog.schema`]).
        folders (`bool`, *optional*, defaults to `False`): Whether the path of a copy may be a folder.

    Raises:
        ValueError: If more is said about a folder than its path.
        FileNotFoundError: If a path is neither a folder nor a Hub id.
    """
    labels = tuple((names,) if isinstance(names, str) else tuple(names) for names in described["classes"])
    found = {}
    for key, part in described["sets"].items():
        here = [copy for copy in part["copies"] if folders and Path(copy["path"]).expanduser().is_dir()]
        folder = here[0] if here else None
        wrong = [copy["path"] for copy in part["copies"] if folder is None and not is_hub_id(copy["path"])]
        if wrong:
            raise FileNotFoundError(
                f"Set {key!r} of benchmark {name!r}: the path {wrong[0]!r} does not exist; give a folder or a Hub id owner/name."
            )
        if folder is not None and len(part["copies"]) > 1:
            raise ValueError(f"Set {key!r} of benchmark {name!r} has copies beside the folder {folder['path']!r}; give one of them.")
        if folder is not None and len(folder) > 1:
            more = next(fact for fact in folder if fact != "path")
            raise ValueError(f"Set {key!r} of benchmark {name!r}: {more} does not go with a folder; leave it out.")
        domains = tuple(described.get("domains", ()))
        data = RegisteredData(copies(part), labels, data_key(part["role"]), all_domains=domains, domains=domains)
        if folder is not None:
            data = replace(data, repositories=(), folder=str(Path(folder["path"]).expanduser().absolute()))
        found[key] = {
            "name": name if key == "test" else f"{name}-{key}",
            "role": part["role"],
            "class_names": tuple(names[0] for names in labels),
            "templates": tuple(described.get("templates", DEFAULT_TEMPLATES)),
            "registered": data,
            "suite": name,
            **said(described),
            **said(part),
        }
    return found


def own_copy(data: RegisteredData, given: dict, where: str) -> tuple[RegisteredData, dict]:
    """
    What a user says about the copy to read, built into the data; the other options are given back.

    Args:
        data (`RegisteredData`): What the registry knows.
        given (`dict`): Fields of a `Benchmark`. `path` is a folder, one of the known repositories or another Hub id;
            `revision`, `config`, `data_files`, `image_column` and `label_column` describe it.
        where (`str`): Words for the benchmark, used in messages.

    Returns:
        The data with the one copy to read, and the fields that are not about it.

    Raises:
        ValueError: a description of a copy without its path.
        OSError: `path` is neither a folder nor a Hub id.
    """
    about = ("path", "split", "revision", "config", "data_files", "image_column", "label_column")
    copy = {key: given[key] for key in about if given.get(key) is not None}
    rest = {key: value for key, value in given.items() if key not in copy}
    if "path" not in copy:
        if copy:
            raise ValueError(
                f"{where} has {next(iter(copy))} of its registered copies; give path of the copy you mean."
            )
        return data, rest
    path = str(copy.pop("path"))
    if Path(path).expanduser().is_dir():
        if copy:
            raise ValueError(f"{where}: {next(iter(copy))} does not go with the folder {path!r}; leave it out.")
        return replace(data, folder=str(Path(path).expanduser().absolute())), rest
    if not is_hub_id(path):
        raise FileNotFoundError(f"{where}: the path {path!r} does not exist; give a folder or a Hub id owner/name.")
    if "image_column" in copy:
        copy["image_columns"] = (copy.pop("image_column"),)
    known = next((repository for repository in data.repositories if repository.path == path), None)
    if known is None:
        known = Repository(path, data.key, image_columns=("image", "img", *WDS_IMAGES))
        if data.all_domains:
            known = replace(known, domain_column="domain")
    return replace(data, repositories=(replace(known, **copy),)), rest


def describe_registered(described: dict, given: dict) -> dict:
    """
    The fields of a registered benchmark with those that a user gives.

    Args:
        described (`dict`): What the registry says, fields of a `Benchmark`.
        given (`dict`): Fields that the user gives; `path` and what belongs to it say which copy is read.

    Raises:
        ValueError: a field that is fixed, or another number of class names.
        OSError: as `own_copy`.
    """
    name, data = described["name"], described.get("registered")
    fixed = sorted({"registered", "projection", "evaluation_only", "border", "dataset"} & set(given))
    if fixed:
        raise ValueError(f"{fixed[0]} of the registered benchmark {name!r} is fixed; leave it out.")
    if data is not None:
        data, given = own_copy(data, given, f"benchmark {name!r}")
        described = {**described, "registered": data}
    classes = given.get("class_names")
    if classes is not None and len(classes) != len(described["class_names"]):
        raise ValueError(
            f"{len(classes)} class names are given, the registered benchmark {name!r} has "
            f"{len(described['class_names'])} classes; give one per class, in the same order."
        )
    return {**described, **given}


def check_one_path(sets: dict[str, dict], path: str, source: str) -> None:
    """
    Refuse one path for all sets of a suite that it cannot serve: they would silently be the same images.

    Args:
        sets (`dict[str, dict]`): The suite's sets, as the registry describes them.
        path (`str`): The folder or Hub id given for all of them.
        source (`str`): Name of the suite.

    Raises:
        ValueError: If the path is one set, and the suite has several.
    """
    parts = [described["registered"] for described in sets.values() if "registered" in described]
    keys = [part.key for part in parts]
    several = len(parts) == len(sets) and len(set(keys)) == len(keys)
    root = Path(path).expanduser()
    if all(part.all_domains for part in parts) or (several and (not root.is_dir() or len(folder_splits(root)) > 1)):
        return
    raise ValueError(
        f"{path!r} cannot be all of the sets {quoted(list(sets), 20)} of {source}: name the one that it is with split"
        + (", or give a folder divided into train and test." if several else ".")
    )


def open_registered(
    data: RegisteredData,
    where: str,
    streaming: bool = False,
    training: bool = False,
    group_column: str | None = None,
) -> StoredRows | RowStream:
    """
    The rows that a registered benchmark means.

    Your own folder is listed, not copied, so it is read in the same way if it is to be streamed.

    Args:
        data ([`RegisteredData`]): What the registry knows.
        where (`str`): Words for the benchmark, used in messages.
        streaming (`bool`, *optional*, defaults to `False`): Whether rows are read as they come.
        training (`bool`, *optional*, defaults to `False`): Whether the rows are to be trained on.
        group_column (`str`, *optional*): Column of what images are drawn together with.

    Returns:
        [`StoredRows`] with the columns "image" and "label" and that of groups, of which labels, domains and groups have been
        read; or [`RowStream`], whose rows are checked when they come.

    Raises:
        OSError: As [`open_first`].
        ValueError: As [`open_first`]; for labels outside the classes, for domains that the data do not have, and for a part
            of the rows of a stream whose files do not say how many they hold.
    """
    if data.folder is not None:
        rows, image, label, domain = _read_folder(data, where)
        place, repository, found = data.place, None, None
    else:
        require_copy(data, where)
        rows, repository = open_first(data.repositories, data.label_names, where, streaming)
        place, label, domain = repository.place, repository.label_column, repository.domain_column
        image = image_column_of(list(rows.features), repository.image_columns, where)
        found = len(rows) if isinstance(rows, Dataset) else rows.declared
        compare_rows(repository, found, where)
    domain = domain if data.all_domains else None
    if domain is not None and domain not in rows.features:
        raise ValueError(f"{where} has no column {domain!r} of domains; its columns are {quoted(list(rows.features))}.")
    streamed = not isinstance(rows, Dataset)
    check_group_column(rows.features, group_column, where)
    rule = RowRule(
        where,
        image,
        label,
        group_column=group_column,
        label=registered_rule(rows.features[label], data.label_names),
        positions=data.positions,
        domain_column=domain,
        domain_names=tuple(rows.features[domain].names)
        if domain and isinstance(rows.features[domain], ClassLabel)
        else None,
        all_domains=data.all_domains,
        domains=data.domains,
        share=data.share,
        seed=data.seed,
        first_rows=_first_rows(rows, data, where) if streamed else (0,),
    )
    if streamed:
        stream = stream_of(rows, rule, repository.rows, repository.rows_verified, training)
        return replace(stream, place=place)
    classes, kept = rule.by_column(rows)
    rows = rows.select_columns([image] if group_column is None else [image, group_column])
    rows = rows if image == "image" else rows.rename_column(image, "image")
    # Labels go in before rows are chosen: a column cannot be added to a selection without copying its images.
    rows = rows.add_column("label", np.where(kept, classes, 0), feature=Value("int64"))
    rows = rows if kept.all() else rows.select(np.flatnonzero(kept))
    if streaming:
        rule = RowRule(where, "image", "label", group_column=group_column, label=int)
        return replace(stream_of(rows, rule), place=place)
    return replace(check_dataset(rows, where=where, group_column=group_column), label_column="label", place=place)


def require_copy(data: RegisteredData, where: str) -> None:
    """
    Refuse `data` of which no copy on the Hub is known; `where` is words for the benchmark.

    Raises:
        OSError: Says what to give.
    """
    if not data.repositories:
        raise OSError(
            f"{where}: no copy on the Hub is known; give path, a folder with "
            + (f"one folder per domain ({quoted(data.all_domains)}), each with " if data.all_domains else "")
            + "one folder of images per class (NAME=FOLDER on the command line)."
        )


def compare_rows(repository: Repository, found: int | None, where: str) -> None:
    """Warn if a `repository` has another number of rows, those `found`, than the registry knows; `where` says whose."""
    if repository.rows is not None and found is not None and found != repository.rows:
        warnings.warn(
            f"{where}: {repository.path!r} holds {found} images, the registry expects {repository.rows}"
            + ("" if repository.rows_verified else " (not verified)")
            + "; a truncated shard is read without an error, so compare before numbers are published.",
            stacklevel=3,
        )


def registered_rule(feature, label_names: Sequence[tuple[str, ...]]) -> LabelRule:
    """What labels of the type `feature` mean, as positions in `label_names`: numbers by themselves, text by any name."""
    if holds_integers(feature):
        rule = f"is outside its {len(label_names)} classes; a split without labels, or another data set"
        return LabelRule({label: label for label in range(len(label_names))}, rule)
    names: dict[str, int] = {}
    for label, spellings in enumerate(label_names):
        for key in {label_key(name) for name in spellings}:
            names[key] = label if names.get(key, label) == label else -1
    known = quoted([spellings[0] for spellings in label_names])
    return LabelRule(
        names, f"is not the name of one of its classes, {known}; give path of a copy that fits", key=label_key
    )


def _read_folder(data: RegisteredData, where: str) -> tuple[Dataset, str, str, str | None]:
    root = Path(data.folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{where}: the folder {str(root)!r} does not exist; correct path.")
    if not data.all_domains:
        return *_class_folders(root, data, where), None
    folders = {label_key(entry.name): entry for entry in root.iterdir() if entry.is_dir()}
    parts = []
    for domain in data.all_domains:
        spellings = (domain, *_DOMAIN_ALIASES.get(domain, ()))
        folder = next((folders[label_key(name)] for name in spellings if label_key(name) in folders), None)
        if folder is None:
            raise ValueError(
                f"{where}: {str(root)!r} has no folder for the domain {domain!r}; it needs one folder per domain, "
                f"{quoted(data.all_domains)}, each with one folder of images per class."
            )
        part, image, label = _class_folders(folder, data, where)
        parts.append(part.select_columns([image, label]).add_column("domain", [domain] * len(part)))
    return concatenate_datasets(parts), "image", "label", "domain"


def _class_folders(root: Path, data: RegisteredData, where: str) -> tuple[Dataset, str, str]:
    splits = [str(split) for split in folder_splits(root)]
    named = [split for split in splits if split.lower() in _SPLIT_ALIASES[data.key]]
    # An undivided folder counts as "train"; so does one whose only split is train, which must not pass for test data.
    undivided = splits == ["train"] and not any(entry.is_dir() for entry in root.glob("train/*"))
    if len(named) != 1 and not undivided:
        raise ValueError(
            f"{where}: {str(root)!r} has the splits {quoted(splits, 20)}, of which {len(named)} can be its "
            f"{data.key} split; give the path of one of them."
        )
    split = "train" if undivided else named[0]
    if folder_layout(root)[0] != "classes":
        dataset = load_folder(root, split)
        feature = dataset.features.get("label")
        if feature is None:
            raise ValueError(f"{where}: {str(root)!r} has no column 'label'; it has {quoted(dataset.column_names)}.")
        if isinstance(feature, ClassLabel):
            check_label_order(feature.names, data.label_names, f"{where}: {str(root)!r}")
        return dataset, image_column_of(dataset.column_names, ("image", "webp", "jpg", "png", "jpeg"), where), "label"
    failure: ValueError | None = None
    for spelling in range(max(len(names) for names in data.label_names)):
        names = [names[min(spelling, len(names) - 1)] for names in data.label_names]
        if len({class_key(name) for name in names}) == len(names):
            try:
                return load_folder(root, split, names), "image", "label"
            except ValueError as error:
                failure = failure or error
    raise ValueError(f"{where}: {failure}")


def _first_rows(opened: OpenSplit, data: RegisteredData, where: str) -> tuple[int, ...]:
    """Number of the first row of each shard, where rows are drawn by number."""
    if data.share == (0.0, 1.0) or opened.dataset.num_shards == 1:
        return (0,) * (data.share != (0.0, 1.0))
    counts = count_rows(opened)
    if counts is None:
        raise ValueError(
            f"{where} is a part of its rows, drawn by their number, and the {opened.dataset.num_shards} files of the kind "
            f"{opened.kind!r} do not say how many they hold; load it without streaming."
        )
    return tuple(itertools.accumulate(counts[:-1], initial=0))
