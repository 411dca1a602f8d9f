# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Copies of a data set on the Hub: the first one that exists is opened, and its class names are checked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import ClassLabel, Dataset, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import hf_hub_download, metadata_load, repo_exists
from huggingface_hub.errors import (
    EntryNotFoundError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..hub import at_one_commit, is_cached, out_of_reach
from ..labels import holds_integers
from ..messages import quoted
from ..prompts import label_key, read_text
from ..streams.rows import OpenSplit, open_split

WDS_IMAGES = ("webp", "jpg", "png", "jpeg")
_OWN_COPY = "give path of your own copy (NAME=FOLDER on the command line)"


@dataclass(frozen=True)
class Repository:
    """
    One copy of a data set on the Hub.

    Args:
        path (`str`): Hub id.
        split (`str`, *optional*, defaults to `'train'`): Split to load.
        data_files (`str`, *optional*): Pattern of the split's files. Webdataset repositories need it: `datasets` guesses
            their kind from file extensions and may take a shard count in a text file for the data.
        config, revision (`str`, *optional*): Configuration and commit, if they matter.
        image_columns (`tuple[str, ...]`, *optional*, defaults to `('image',)`): The column of images; of several names,
            exactly one must be there.
        label_column (`str`, *optional*, defaults to `'label'`): Column of labels.
        domain_column (`str`, *optional*): Column of the domain, for data in several styles.
        class_file (`str`, *optional*): File of class names in label order, for repositories whose labels are bare integers.
        rows (`int`, *optional*): Number of images as far as known.
        rows_verified (`bool`, *optional*, defaults to `False`): Whether `rows` was read from a copy of the repository's
            facts, not from memory or a paper.
        gated (`bool`, *optional*): Whether access must be asked for; None where that is not known.
        note (`str`, *optional*, defaults to `''`): Further facts.
    """

    path: str
    split: str = "train"
    data_files: str | None = None
    config: str | None = None
    revision: str | None = None
    image_columns: tuple[str, ...] = ("image",)
    label_column: str = "label"
    domain_column: str | None = None
    class_file: str | None = None
    rows: int | None = None
    rows_verified: bool = False
    gated: bool | None = None
    note: str = ""

    @property
    def place(self) -> dict:
        """Where this copy is, as fields of a `Benchmark`."""
        return {name: getattr(self, name) for name in ("path", "data_files", "split", "config", "revision")}


def check_label_order(found: Sequence[str], label_names: Sequence[tuple[str, ...]], where: str) -> None:
    """
    Refuse class names of a copy that are not those of the registry, in the same order.

    Args:
        found (`Sequence[str]`): The copy's own class names, in label order.
        label_names (`Sequence[tuple[str, ...]]`): For each label, the names it may have.
        where (`str`): Words for the copy, used in the message.

    Raises:
        ValueError: If `found` names other classes or another order; shows both.
    """
    expected = [names[0] for names in label_names]
    if len(found) != len(expected):
        raise ValueError(
            f"{where} has {len(found)} classes, {quoted(found)}, but the registry knows {len(expected)}, "
            f"{quoted(expected)}; the copy is another data set, or has changed: give path of a copy that fits."
        )
    wrong = [
        label
        for label, (name, names) in enumerate(zip(found, label_names, strict=True))
        if label_key(name) not in {label_key(other) for other in names}
    ]
    if wrong:
        first = wrong[0]
        raise ValueError(
            f"{where} calls class {first} {found[first]!r}, the registry calls it {expected[first]!r} ({len(wrong)} of "
            f"{len(found)} differ; data: {quoted(found)}; registry: {quoted(expected)}); its labels would mean other "
            "classes: give path of a copy that fits."
        )


def open_repository(
    repository: Repository, label_names: Sequence[tuple[str, ...]], streaming: bool = False
) -> Dataset | OpenSplit:
    """
    Open one copy and check its class names before any row is read.

    Args:
        repository (`Repository`): The copy.
        label_names (`Sequence[tuple[str, ...]]`): For each label, the names it may have.
        streaming (`bool`, *optional*, defaults to `False`): Read rows as they come instead of downloading all of them.

    Returns:
        The split as the repository has it, opened if it is to be streamed; use `image_column_of` for the image column.

    Raises:
        DatasetNotFoundError: there is no such repository, or it is gated or private (see `open_first`).
        ValueError: no label column, or class names in another order.
        OSError: it cannot be reached.
    """
    where = f"the data set {repository.path!r}"
    repository = replace(repository, revision=at_one_commit(repository.path, repository.revision))
    options = {"revision": repository.revision}
    if repository.data_files:
        options["data_files"] = {repository.split: repository.data_files}
    # What can be checked is checked before a download that may be of 150 GB.
    if repository.class_file is not None:
        _check_class_file(repository, label_names, where)
    builder = None
    if streaming or repository.class_file is None:
        builder = load_dataset_builder(repository.path, repository.config, **options)
        described = builder.info.features or {}
        if repository.class_file is None and isinstance(described.get(repository.label_column), ClassLabel):
            check_label_order(described[repository.label_column].names, label_names, where)
    if streaming:
        # Builders forget what the data set says of itself as soon as its files are named.
        declared = declared_rows(repository) if repository.data_files else None
        opened = open_split(builder, repository.split, declared)
    else:
        opened = load_dataset(repository.path, repository.config, split=repository.split, **options)
    features = opened.features or {}
    if features and repository.label_column not in features:
        raise ValueError(
            f"{where} has no column {repository.label_column!r}; its columns are {quoted(list(features), 20)}: it has "
            "changed since the registry was written; give path of a copy that fits."
        )
    feature = features.get(repository.label_column)
    if isinstance(feature, ClassLabel):
        check_label_order(feature.names, label_names, where)
    elif repository.class_file is None and (feature is None or holds_integers(feature)):
        warnings.warn(
            f"{where} does not say what it calls its classes, so their order could not be checked against the "
            "registry's; compare a few images with their labels.",
            stacklevel=2,
        )
    return opened


def declared_rows(repository: Repository) -> int | None:
    """
    Number of rows of the split of a `repository` that the README of the data set declares; None if it says nothing.

    Raises:
        OSError: the README cannot be fetched, or its header is damaged.
    """
    try:
        file = hf_hub_download(repository.path, "README.md", repo_type="dataset", revision=repository.revision)
    except LocalEntryNotFoundError as error:
        raise OSError(f"README.md cannot be fetched: {_words(error)}.") from error
    except EntryNotFoundError:
        return None
    try:
        described = (metadata_load(file) or {}).get("dataset_info") or []
    except ValueError as error:
        raise OSError(f"The header of README.md of {repository.path!r} is damaged: {_words(error)}.") from error
    configs = [described] if isinstance(described, dict) else described
    wanted = repository.config or (configs[0].get("config_name") if len(configs) == 1 else "default")
    for config in configs:
        if config.get("config_name") == wanted or len(configs) == 1:
            for split in config.get("splits") or []:
                if split.get("name") == repository.split and isinstance(split.get("num_examples"), int):
                    return split["num_examples"]
    return None


def _check_class_file(repository: Repository, label_names: Sequence[tuple[str, ...]], where: str) -> None:
    try:
        file = hf_hub_download(
            repository.path, repository.class_file, repo_type="dataset", revision=repository.revision
        )
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return  # Opening the data says so in the words that decide whether another copy is tried.
    except LocalEntryNotFoundError as error:
        raise OSError(f"{repository.class_file} cannot be fetched to check the classes: {_words(error)}.") from error
    except EntryNotFoundError:
        warnings.warn(
            f"{where} has no {repository.class_file}, so the order of its classes could not be checked against the "
            "registry's; compare a few images with their labels.",
            stacklevel=3,
        )
        return
    lines = read_text(file).split("\n")
    check_label_order([line.strip() for line in lines if line.strip()], label_names, f"{where} ({Path(file).name})")


def open_first(
    repositories: Sequence[Repository], label_names: Sequence[tuple[str, ...]], where: str, streaming: bool = False
) -> tuple[Dataset | OpenSplit, Repository]:
    """
    Open the first copy that exists.

    A repository that does not exist (or that this account cannot see) moves on to the next with a warning. One that is
    gated, or cannot be reached, does not: a model must not be measured on another copy because of a missing login.

    Args:
        repositories (`Sequence[Repository]`): The copies.
        label_names (`Sequence`), streaming (`bool`, *optional*): As for [`open_repository`].
        where (`str`): Words for the benchmark, used in messages.

    Returns:
        The opened split and the repository that it is of.

    Raises:
        OSError: none exists, one is gated, or the Hub cannot be reached.
        ValueError: as `open_repository`.
    """
    missing: list[str] = []
    for repository in repositories:
        reason = "" if is_cached(repository.path) else out_of_reach()
        if reason:
            raise OSError(
                f"{where}: {repository.path!r} cannot be loaded from the Hub: {reason.rstrip('.')}; {_OWN_COPY}."
            )
        try:
            return open_repository(repository, label_names, streaming), repository
        except DatasetNotFoundError as error:
            if _exists(repository.path):
                page = f"https://huggingface.co/datasets/{repository.path}"
                raise OSError(
                    f"{where}: the data set {repository.path!r} is there but cannot be opened: {_words(error)}. If it is "
                    f"gated, accept its terms at {page} and log in with `hf auth login`; or give path of another copy."
                ) from error
            missing.append(repository.path)
            after = repositories[len(missing) :]
            if after:
                warnings.warn(
                    f"{where}: there is no data set {repository.path!r} on the Hub (or this account cannot see it); "
                    f"trying {after[0].path!r} instead.",
                    stacklevel=2,
                )
        except (OSError, RuntimeError, HTTPError, DatasetsError) as error:
            raise OSError(f"{where}: {repository.path!r} cannot be loaded from the Hub: {_words(error)}.") from error
    raise OSError(f"{where}: none of its copies {quoted(missing)} exists on the Hub; {_OWN_COPY}.")


def _exists(path: str) -> bool:
    try:
        return repo_exists(path, repo_type="dataset")
    except Exception:
        # Nobody could say that it is missing, and only a missing one may be replaced by another.
        return True


def _words(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def image_column_of(columns: Sequence[str], candidates: Sequence[str], where: str) -> str:
    """
    The one of `candidates` that is among `columns`; `where` is words for the data, used in messages.

    Raises:
        ValueError: If there is none, or there are several.
    """
    found = [name for name in candidates if name in columns]
    if len(found) != 1:
        raise ValueError(
            f"{where} has {len(found)} of the image columns {quoted(candidates)}; its columns are {quoted(columns, 20)}. "
            "Shards that mix image formats lose images, others are laid out in another way: give path of a copy that fits."
        )
    return found[0]
