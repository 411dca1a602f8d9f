# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a registered benchmark knows of its data, and how the rows it means are read, from the Hub or one's own folder."""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Value, concatenate_datasets

from hf_robustft.data.catalog.hub_copies import (
    WDS_IMAGES,
    Repository,
    check_label_order,
    image_column_of,
    label_key,
    open_first,
)
from hf_robustft.data.columns import arrow_column, holds_integers, quoted
from hf_robustft.data.folders import folder_kind, folder_splits, load_folder
from hf_robustft.data.hub import is_hub_id
from hf_robustft.data.labels import LabelRule, classes_of
from hf_robustft.data.prompts import class_key
from hf_robustft.data.randomness import example_rng
from hf_robustft.data.streams.rows import RowMeaning, RowStream, first_rows, stream_of
from hf_robustft.data.streams.shards import Opened, count_rows

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
    """What is known of a benchmark's data: its copies, what they call the classes, and which rows are meant.

    Args:
        repositories: copies on the Hub, in the order in which they are tried; () where none is known.
        label_names: for each label of the data, in order, all names that copies give it.
        key: "train" or "test", to find the split of a folder of one's own.
        positions: for each label of the data its class in the benchmark, or -1 for rows that are left out (default:
            the labels themselves).
        all_domains: every domain of the data; () for data of one style.
        domains: the domains whose rows are kept.
        share: rows whose random number lies in [low, high) are kept; it depends on `seed` and the row number alone.
        seed: seed of these numbers.
        folder: one's own copy, which is read instead of the repositories.
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


@functools.cache
def facts(name: str) -> dict:
    """A json file of the registry: "imagenet", "objectnet" or "datasets"."""
    return json.loads((Path(__file__).parent / "facts" / f"{name}.json").read_text(encoding="utf-8"))


def own_copy(data: RegisteredData, given: dict, where: str) -> tuple[RegisteredData, dict]:
    """What a user says about the copy to read, built into the data; the other options are given back.

    Args:
        data: what the registry knows.
        given: fields of a `Benchmark`. `path` is a folder, one of the known repositories or another Hub id;
            `revision`, `config`, `data_files`, `image_column` and `label_column` describe it.
        where: words for the benchmark, used in messages.

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
                f"{where} has {next(iter(copy))} of its registered copies; give path of the copy you mean"
            )
        return data, rest
    path = str(copy.pop("path"))
    if Path(path).expanduser().is_dir():
        if copy:
            raise ValueError(f"{where}: {next(iter(copy))} does not go with the folder {path!r}; leave it out")
        return replace(data, folder=str(Path(path).expanduser().absolute())), rest
    if not is_hub_id(path):
        raise FileNotFoundError(f"{where}: the path {path!r} does not exist; give a folder or a Hub id owner/name")
    if "image_column" in copy:
        copy["image_columns"] = (copy.pop("image_column"),)
    known = next((repository for repository in data.repositories if repository.path == path), None)
    if known is None:
        known = Repository(path, data.key, image_columns=("image", "img", *WDS_IMAGES))
        if data.all_domains:
            known = replace(known, domain_column="domain")
    return replace(data, repositories=(replace(known, **copy),)), rest


def describe_registered(described: dict, given: dict) -> dict:
    """The fields of a registered benchmark with those that a user gives.

    Args:
        described: what the registry says, fields of a `Benchmark`.
        given: fields that the user gives; `path` and what belongs to it say which copy is read.

    Raises:
        ValueError: a field that is fixed, or another number of class names.
        OSError: as `own_copy`.
    """
    name, data = described["name"], described.get("registered")
    fixed = sorted({"registered", "projection", "evaluation_only", "border", "dataset"} & set(given))
    if fixed:
        raise ValueError(f"{fixed[0]} of the registered benchmark {name!r} is fixed; leave it out")
    if data is not None:
        data, given = own_copy(data, given, f"benchmark {name!r}")
        described = {**described, "registered": data}
    classes = given.get("class_names")
    if classes is not None and len(classes) != len(described["class_names"]):
        raise ValueError(
            f"{len(classes)} class names are given, the registered benchmark {name!r} has "
            f"{len(described['class_names'])} classes; give one per class, in the same order"
        )
    return {**described, **given}


def check_one_path(sets: dict[str, dict], path: str, source: str) -> None:
    """Raise ValueError if one path cannot serve all sets of a suite: they would silently be the same images.

    Args:
        sets: the suite's sets, as the registry describes them.
        path: the folder or Hub id given for all of them.
        source: name of the suite.
    """
    parts = [described["registered"] for described in sets.values() if "registered" in described]
    keys = [part.key for part in parts]
    several = len(parts) == len(sets) and len(set(keys)) == len(keys)
    root = Path(path).expanduser()
    if all(part.all_domains for part in parts) or (several and (not root.is_dir() or len(folder_splits(root)) > 1)):
        return
    raise ValueError(
        f"{path!r} cannot be all of the sets {quoted(list(sets), 20)} of {source}: name the one that it is with split"
        + (", or give a folder divided into train and test" if several else "")
    )


def read_registered(data: RegisteredData, where: str) -> tuple[Dataset, dict]:
    """Read the rows that a registered benchmark means.

    Returns:
        A data set with the columns "image" and "label", the labels as positions of classes, and where it was read
        from, as fields of a `Benchmark`. Label and domain columns have been read, images have not.

    Raises:
        OSError, ValueError: as `open_first`; labels outside the classes; domains that the data do not have.
    """
    if data.folder is not None:
        dataset, image, label, domain = _read_folder(data, where)
        place = data.place
    else:
        require_copy(data, where)
        dataset, repository = open_first(data.repositories, data.label_names, where)
        place = repository.place
        image, label, domain = (
            image_column_of(dataset.column_names, repository.image_columns, where),
            repository.label_column,
            repository.domain_column,
        )
        compare_rows(repository, len(dataset), where)
    rule = registered_rule(dataset.features[label], data.label_names)
    labels = classes_of(arrow_column(dataset, label), rule, label, where)
    keep = np.ones(len(labels), dtype=bool)
    if data.positions is not None:
        labels = np.asarray(data.positions)[labels]
        keep &= labels >= 0
    if data.all_domains and domain is not None:
        keep &= _of_domains(dataset, domain, data, where)
    if data.share != (0.0, 1.0):
        numbers = np.array([example_rng(data.seed, 0, row, "share").random() for row in range(len(labels))])
        keep &= (numbers >= data.share[0]) & (numbers < data.share[1])
    dataset = dataset.select_columns([image])
    dataset = dataset if image == "image" else dataset.rename_column(image, "image")
    # Labels go in before rows are chosen: a column cannot be added to a selection without copying its images.
    dataset = dataset.add_column("label", np.where(keep, labels, 0), feature=Value("int64"))
    return dataset if keep.all() else dataset.select(np.flatnonzero(keep)), place


def require_copy(data: RegisteredData, where: str) -> None:
    """Raise OSError, saying what to give, if no copy on the Hub is known."""
    if not data.repositories:
        raise OSError(
            f"{where}: no copy on the Hub is known; give path, a folder with "
            + (f"one folder per domain ({quoted(data.all_domains)}), each with " if data.all_domains else "")
            + "one folder of images per class"
        )


def compare_rows(repository: Repository, found: int | None, where: str) -> None:
    """Warn if a copy has another number of rows than the registry knows."""
    if repository.rows is not None and found is not None and found != repository.rows:
        warnings.warn(
            f"{where}: {repository.path!r} holds {found} images, the registry expects {repository.rows}"
            + ("" if repository.rows_verified else " (not verified)")
            + "; a truncated shard is read without an error, so compare before numbers are published",
            stacklevel=3,
        )


def registered_rule(feature, label_names: Sequence[tuple[str, ...]]) -> LabelRule:
    """What the labels of a copy mean, as positions in `label_names`: numbers by themselves, text by any of the names."""
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


def require_domains(columns: list[str], column: str, where: str) -> None:
    """Raise ValueError if the copy has no column of domains."""
    if column not in columns:
        raise ValueError(f"{where} has no column {column!r} of domains; its columns are {quoted(columns)}")


def _of_domains(dataset: Dataset, column: str, data: RegisteredData, where: str) -> np.ndarray:
    require_domains(dataset.column_names, column, where)
    feature = dataset.features[column]
    values = dataset.with_format("arrow", columns=[column])[:].column(column).to_pylist()
    names = [feature.int2str(value) for value in values] if isinstance(feature, ClassLabel) else values
    found = sorted({str(name) for name in names})
    if {label_key(name) for name in found} != {label_key(name) for name in data.all_domains}:
        raise ValueError(f"{where} has the domains {quoted(found)}, the registry knows {quoted(data.all_domains)}")
    kept = {label_key(name) for name in data.domains}
    return np.array([label_key(str(name)) in kept for name in names])


def _read_folder(data: RegisteredData, where: str) -> tuple[Dataset, str, str, str | None]:
    root = Path(data.folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{where}: the folder {str(root)!r} does not exist; correct path")
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
                f"{quoted(data.all_domains)}, each with one folder of images per class"
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
            f"{data.key} split; give the path of one of them"
        )
    split = "train" if undivided else named[0]
    if folder_kind(root) != "classes":
        dataset = load_folder(root, split)
        feature = dataset.features.get("label")
        if feature is None:
            raise ValueError(f"{where}: {str(root)!r} has no column 'label'; it has {quoted(dataset.column_names)}")
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


def stream_registered(data: RegisteredData, where: str, training: bool = False) -> tuple[RowStream, dict]:
    """The rows that a registered benchmark means, to be read as they come; the twin of `read_registered`.

    A folder of one's own is listed, not copied, so it is read as if it were not streamed.

    Args:
        data: what the registry knows.
        where: words for the benchmark, used in messages.
        training: whether the rows are to be trained on.

    Returns:
        The stream, with what `read_registered` checks of columns checked of each row when it comes, and where it is read
        from, as fields of a `Benchmark`.

    Raises:
        OSError, ValueError: as `open_first`; parts that are drawn by row number, of files that do not say their rows.
    """
    if data.folder is not None:
        dataset, place = read_registered(data, where)
        return stream_of(
            dataset,
            RowMeaning(where, "image", "label", rule=registered_rule(dataset.features["label"], data.label_names)),
        ), place
    require_copy(data, where)
    opened, repository = open_first(data.repositories, data.label_names, where, streaming=True)
    features = opened.dataset.features
    label, domain = repository.label_column, repository.domain_column if data.all_domains else None
    if domain is not None:
        require_domains(list(features), domain, where)
    meaning = RowMeaning(
        where,
        image_column_of(list(features), repository.image_columns, where),
        label,
        rule=registered_rule(features[label], data.label_names),
        key=label_key,
        positions=data.positions,
        domain_column=domain,
        domain_names=tuple(features[domain].names) if domain and isinstance(features[domain], ClassLabel) else None,
        all_domains=frozenset(map(label_key, data.all_domains)),
        domains=frozenset(map(label_key, data.domains)),
        share=data.share,
        seed=data.seed,
        first_rows=_first_rows(opened, data, where),
    )
    compare_rows(repository, opened.declared, where)
    stream = stream_of(opened, meaning, repository.rows, repository.rows_verified, training)
    return stream, repository.place


def _first_rows(opened: Opened, data: RegisteredData, where: str) -> tuple[int, ...]:
    """Number of the first row of each shard, where rows are drawn by number."""
    if data.share == (0.0, 1.0) or opened.dataset.num_shards == 1:
        return (0,) * (data.share != (0.0, 1.0))
    counts = count_rows(opened)
    if counts is None:
        raise ValueError(
            f"{where} is a part of its rows, drawn by their number, and the {opened.dataset.num_shards} files of the kind "
            f"{opened.kind!r} do not say how many they hold; load it without streaming"
        )
    return first_rows(counts)
