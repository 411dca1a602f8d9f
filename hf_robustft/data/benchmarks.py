# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks: where a data set lives, which columns and classes it has, and what part it plays.

>>> shifts = load_benchmark("emoji_shift")               # every set of the suite, by name
>>> sketch = load_benchmark("emoji_shift", "twemoji")    # one of them
>>> renditions = load_benchmark("imagenet-r")             # a set of the registry, from the Hub
>>> own = load_benchmark("photos/", role="shift")        # one folder of images per class
>>> images = own.load()                                  # a checked datasets.Dataset
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset, IterableDataset
from torch import Tensor

from hf_robustft.data.catalog.registered import (
    RegisteredData,
    check_one_path,
    describe_registered,
    read_registered,
    stream_registered,
)
from hf_robustft.data.catalog.sets import (
    ASSETS,
    EVALUATION_ONLY_REPOSITORIES,
    REGISTRY,
    asset_path,
    named_templates,
    registered_sets,
)
from hf_robustft.data.class_projection import ClassProjection
from hf_robustft.data.columns import arrow_column, check_dataset, own_class_names, quoted, say_unused
from hf_robustft.data.files import say_once
from hf_robustft.data.labels import LabelRule
from hf_robustft.data.own_data import describe_own_data, open_rows
from hf_robustft.data.own_data import read_rows as _read
from hf_robustft.data.prompts import DEFAULT_TEMPLATES, check_class_names, check_templates, read_names_and_templates
from hf_robustft.data.streams.rows import RowStream, checked_stream, class_names_of

__all__ = ["ROLES", "REGISTRY", "Benchmark", "asset_path", "load_benchmark"]

ROLES = ("train", "validation", "id", "shift", "open_set")
EMOJI_SHIFT_DIR = ASSETS / "emoji_shift"
EMOJI_CLIP_DIR = ASSETS / "emoji_clip"


@dataclass(frozen=True)
class Benchmark:
    """One data set for training or evaluation, as a description; `load` reads it.

    Args:
        name: key of the set in reports and metrics (`<name>/accuracy`), without "/" or blanks.
        role: "train", "validation", "id" (test data like the training data), "shift", or "open_set" (other classes).
        class_names: the classes in label order, as prompts say them, or a dict from what the data call each class to its
            name; () for image-caption pairs without labels.
        templates: prompt templates with one "{}" each (default: "a photo of a {}.").
        path: a folder, a builder of `datasets` such as "parquet" (with `data_files`), or a Hub id "owner/name".
        data_files: file or pattern for a builder or Hub id.
        split: split to load (default "train").
        config: configuration of a Hub data set.
        revision: commit or tag of a Hub data set.
        image_column: column of images (default "image").
        label_column: column of labels (default "label"): integers, a ClassLabel, or class names as strings. It is
            read only if there are class names.
        caption_column: column of captions, text or lists of text (default: captions are made from class names).
        label_names: what the data set calls the classes, in the order of `class_names`, where that differs
            (folders such as n01440764).
        suite: the suite that the set belongs to.
        licence, source, note: facts for the model card.
        dataset: rows held in memory instead of `path`.
        registered: what the registry knows of the data: copies on the Hub, of which the first that exists is read, or
            a folder. `path`, `data_files`, `split`, `config` and `revision` say which copy it is, after `load` for sure.
        projection: how logits of a larger head (ImageNet's 1000 classes) become those of this set's classes.
        evaluation_only: the data may not be trained or tuned on: the roles "train" and "validation" are refused.
        border: pixels to cut from each side of the image before the transform (ObjectNet has a red border of 2).
        streaming: read rows as they come, through `stream` instead of `load`: nothing is downloaded or copied before.

    Raises:
        ValueError: an unknown role, a name that cannot be a key, wrong class names or templates, no data, a role that
            the licence of the data forbids, or a projection to another number of classes.
    """

    name: str
    role: str
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    path: str | None = None
    data_files: str | None = None
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    image_column: str = "image"
    label_column: str | None = "label"
    caption_column: str | None = None
    label_names: tuple[str, ...] | None = None
    suite: str | None = None
    licence: str | None = None
    source: str | None = None
    note: str | None = None
    dataset: Dataset | None = field(default=None, repr=False, compare=False)
    registered: RegisteredData | None = field(default=None, repr=False)
    projection: ClassProjection | None = field(default=None, repr=False)
    evaluation_only: bool = False
    border: int = 0
    streaming: bool = False
    _loaded: Dataset | None = field(default=None, init=False, repr=False, compare=False)
    _rows: RowStream | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self):
        if not self.name or re.search(r"[\s/]", self.name):
            raise ValueError(
                f"benchmark name {self.name!r} must not be empty or hold blanks or '/'; give another name"
            )
        if self.role not in ROLES:
            raise ValueError(
                f"role {self.role!r} of benchmark {self.name!r} is unknown; choose one of {quoted(ROLES)}"
            )
        if self.registered is not None and self.dataset is not None:
            object.__setattr__(self, "registered", None)
        if self.registered is not None:
            self._say_where(self.registered.place)
        elif (self.path is None) == (self.dataset is None):
            raise ValueError(f"benchmark {self.name!r} needs either path or dataset; give exactly one of them")
        if self.streaming and self.dataset is not None:
            raise ValueError(
                f"the rows of benchmark {self.name!r} are in memory already, so they cannot be streamed; leave streaming out"
            )
        if self.role in ("train", "validation") and (
            self.evaluation_only or (self.path or "").lower() in EVALUATION_ONLY_REPOSITORIES
        ):
            raise ValueError(
                f"benchmark {self.name!r} may never be trained or tuned on, its licence says, but its role is "
                f"{self.role!r}; take it for evaluation: 'id', 'shift' or 'open_set'"
            )
        object.__setattr__(self, "templates", check_templates(self.templates))
        if isinstance(self.class_names, Mapping):
            for name, value in read_names_and_templates(self.class_names, None, self.label_names).items():
                object.__setattr__(self, name, value)
        if self.class_names:
            object.__setattr__(self, "class_names", check_class_names(self.class_names))
        elif self.caption_column is None and self.label_column is not None:
            raise ValueError(
                f"benchmark {self.name!r} has neither class names nor captions; give class_names or caption_column "
                "(label_column=None if images are all there is)"
            )
        if self.label_names is not None:
            object.__setattr__(self, "label_names", tuple(map(str, self.label_names)))
            if len(self.label_names) != len(self.class_names):
                raise ValueError(
                    f"benchmark {self.name!r} has {len(self.label_names)} label_names and {len(self.class_names)} "
                    "class_names; give one label name per class name"
                )
            check_class_names(self.label_names, "label")
        if self.projection is not None and len(self.projection.groups) != len(self.class_names):
            raise ValueError(
                f"benchmark {self.name!r} has {len(self.class_names)} classes, its projection gives "
                f"{len(self.projection.groups)}; give one group of columns per class"
            )

    def _say_where(self, place: dict) -> None:
        for name, value in place.items():
            object.__setattr__(self, name, value)

    def project_logits(self, logits: Tensor) -> Tensor:
        """Logits of shape (..., classes) from those of a head for this set's classes or for a larger set of classes.

        Raises:
            ValueError: neither number of columns, or another number than its classes where it has no projection.
        """
        if self.projection is not None:
            return self.projection(logits)
        if logits.shape[-1] != len(self.class_names):
            raise ValueError(
                f"the logits have {logits.shape[-1]} columns, benchmark {self.name!r} has {len(self.class_names)} "
                "classes and no projection; use a head of its classes"
            )
        return logits

    def load(self) -> Dataset:
        """Read and check the data; the second call returns the same object.

        Returns:
            A `datasets.Dataset`, memory-mapped where it lies in arrow or parquet files. Images decode when read and
            labels are integers that index `class_names`. Nothing but the label and caption columns has been read.

        Raises:
            ValueError: empty data, a missing column, labels outside the classes, names that disagree (see
                `data.columns.check_dataset`).
            OSError: the path does not exist, or the Hub data set cannot be reached.
        """
        if self.streaming:
            raise ValueError(
                f"benchmark {self.name!r} is streamed, so its rows cannot be asked for by number, which a draw of few "
                "shots, a bank of neighbours and a look at single images need; leave streaming=True (--streaming) out"
            )
        if self._loaded is None and self.registered is not None:
            dataset, place = read_registered(self.registered, f"benchmark {self.name!r}")
            self._say_where(place)
            self._check(dataset)
        elif self._loaded is None:
            self._check(self.dataset if self.dataset is not None else _read(self))
        return self._loaded

    def stream(self) -> IterableDataset:
        """The data as they come, for any other use: training and evaluation read the same rows through `row_stream`.

        Returns:
            A `datasets.IterableDataset` of the rows that belong to the benchmark, with the columns `image` (encoded:
            {"bytes", "path"}), `label` (an index of `class_names`) if there are classes, and `caption` if there are
            captions.

        Raises:
            ValueError, OSError: as `row_stream`; while it is read, a label or caption that is wrong, with its row.
        """
        return self.row_stream().dataset()

    def row_stream(self) -> RowStream:
        """Open the data and check what can be checked before a row is read; the second call returns the same object.

        Raises:
            ValueError: it is not described as streaming; columns that are missing or of another kind, names that
                disagree, or a format that cannot be streamed.
            OSError: the path does not exist, or the Hub data set cannot be reached.
        """
        if not self.streaming:
            raise ValueError(
                f"benchmark {self.name!r} is not streamed; use load(), or describe it with streaming=True"
            )
        if self._rows is None and self.registered is not None:
            where = f"benchmark {self.name!r}"
            rows, place = stream_registered(self.registered, where, training=self.role == "train")
            self._say_where(place)
            object.__setattr__(self, "_rows", rows)
        elif self._rows is None:
            object.__setattr__(self, "_rows", checked_stream(open_rows(self), self))
        return self._rows

    def _open(self) -> None:
        self.row_stream() if self.streaming else self.load()

    def _check(self, dataset: Dataset, rule: LabelRule | None = None) -> None:
        checked = check_dataset(
            dataset,
            where=f"benchmark {self.name!r}",
            class_names=self.class_names,
            own_names=self.label_names,
            image_column=self.image_column,
            label_column=self.label_column,
            caption_column=self.caption_column,
            rule=rule,
        )
        object.__setattr__(self, "_loaded", checked)
        if rule is None and self.class_names and self.label_column is not None:
            labels = arrow_column(checked, self.label_column)
            say_unused(pc.unique(labels).to_pylist(), self.class_names, f"benchmark {self.name!r}")

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        *,
        name: str,
        role: str,
        class_names: Iterable[str] | Mapping[str | int, str] | str | Path | None = None,
        templates: Iterable[str] | str | Path = DEFAULT_TEMPLATES,
        label_column: str | None = "label",
        caption_column: str | None = None,
        **options,
    ) -> Benchmark:
        """A benchmark of rows that are already loaded.

        Args:
            dataset: a `datasets.Dataset` (not a DatasetDict, not a stream).
            name, role: as in `Benchmark`.
            class_names: the classes in label order, a dict from what the data call each class to its name, or the path
                of a text file of them (default: the ClassLabel's names, or the sorted strings of a string column; none
                with `caption_column`).
            templates: prompt templates, one template, or the path of a text file of them.
            label_column, caption_column, options: further fields of `Benchmark`.

        Raises:
            ValueError: as `Benchmark` and `Benchmark.load`; the data are checked at once.
        """
        settings = read_names_and_templates(class_names, templates, options.get("label_names"))
        if not settings.get("class_names") and caption_column is None and label_column is not None:
            settings["class_names"] = own_class_names(dataset, label_column, f"benchmark {name!r}")
        columns = {"label_column": label_column, "caption_column": caption_column}
        benchmark = cls(name=name, role=role, dataset=dataset, **columns, **{**options, **settings})
        benchmark.load()
        return benchmark


def load_benchmark(
    source: str | Path,
    /,
    split: str | None = None,
    *,
    class_names: Iterable[str] | Mapping[str | int, str] | str | Path | None = None,
    templates: Iterable[str] | str | Path | None = None,
    **overrides,
) -> Benchmark | dict[str, Benchmark]:
    """Describe a benchmark: one of ours by name, or your own data.

    Args:
        source: a name of the registry ("emoji_shift", "imagenet-r"); a folder with one folder of images per class, with
            images and metadata.jsonl, with parquet files, with tars of samples (webdataset), or written by
            `save_to_disk`; a .parquet file; or a Hub id "owner/name".
        split: for a suite of several, one of its sets (default: all); otherwise the split (needed where there are several).
        class_names: the classes in label order, a dict {label: name}, or a text file with one name a line, or with
            `label<TAB>name`, where the label is what the data call the class: a name or a number (default: folder names,
            ClassLabel names, or the sorted strings of the label column). Numbers without labels are 0 to N - 1.
        templates: prompt templates, one template, a text file with one a line, or a name ("imagenet-80",
            "imagenet-croft-7", "croft-dtd" and so on).
        overrides: fields of `Benchmark`. For own data, `role` is "id" and `name` the name of the folder or file by
            default. With `caption_column` and without `class_names` the label column is not read. For a name of the
            registry, `path` is a copy of the data: a folder, one of the known repositories, or another Hub id.

    Returns:
        One `Benchmark`, or all of a suite by key, if it has several. Own data have been read and checked; with
        `streaming=True` they have been opened, and their columns checked.

    Raises:
        ValueError: an unknown name or split, or data that do not fit their description (see `Benchmark.load`).
        OSError: a path that does not exist, or a Hub data set that cannot be reached.
    """
    unknown = sorted(set(overrides) - {item.name for item in fields(Benchmark) if item.init})
    if unknown:
        raise ValueError(f"load_benchmark knows no option {unknown[0]!r}; it takes the fields of Benchmark")
    if isinstance(templates, str):
        templates = named_templates(templates) or templates
    named = read_names_and_templates(class_names, templates, overrides.get("label_names"))
    given = {**overrides, **named}
    source = str(source)
    sets = registered_sets(source)
    if sets is None:
        return _own_benchmark(source, split, given)
    if given.get("path") is None and Path(source).exists():
        say_once(
            f"{source!r} is read as the registered benchmark; {source!r} here is not read: to read it, write ./{source}, or "
            f"path={source!r} ({source}={source} on the command line) if it is a copy of that benchmark"
        )
    if split is None and len(sets) > 1:
        if given.get("path") is not None:
            check_one_path(sets, str(given["path"]), source)
        return {key: Benchmark(**describe_registered(described, given)) for key, described in sets.items()}
    split = split or next(iter(sets))
    if split not in sets:
        raise ValueError(f"{source} has no set {split!r}; its sets are {quoted(list(sets), 20)}")
    return Benchmark(**describe_registered(sets[split], given))


def _own_benchmark(source: str, split: str | None, given: dict) -> Benchmark:
    settings = describe_own_data(source, split, given, known=sorted(REGISTRY))
    label_column = settings.get("label_column", "label")
    if settings.get("class_names") or settings.get("caption_column") or label_column is None:
        benchmark = Benchmark(**settings)
        benchmark._open()
        return benchmark
    # The data name their classes: read them first, without looking at the labels, then complete the description.
    described = Benchmark(**{**settings, "label_column": None})
    naming = settings["role"] != "open_set"
    opened = open_rows(described, naming) if described.streaming else _read(described, naming)
    names_of = class_names_of if described.streaming else own_class_names
    names = settings["class_names"] = names_of(opened, label_column, f"benchmark {settings['name']!r}")
    if len(names) == 1 and naming:
        raise ValueError(
            f"benchmark {settings['name']!r} has the single class {names[0]!r}, which cannot be told from others; choose "
            "another label_column (--label_column), or give class_names (--class_names on the command line)"
        )
    benchmark = Benchmark(**settings)
    if benchmark.streaming:
        object.__setattr__(benchmark, "_rows", checked_stream(opened, benchmark))
    else:
        benchmark._check(opened)
    return benchmark
