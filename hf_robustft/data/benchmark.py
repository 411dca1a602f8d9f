# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A benchmark: where a data set lives, which columns and classes it has, and what part it plays; opened and checked once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, IterableDataset
from torch import Tensor

from .catalog.registered import RegisteredData, open_registered
from .catalog.schema import EVALUATION_ONLY_REPOSITORIES, ROLES
from .class_projection import ClassProjection
from .column_checks import require_column, require_dataset
from .columns import StoredRows, own_class_names, say_unused
from .hub import check_commit
from .messages import quoted
from .own_data import checked_rows, open_rows
from .prompts import DEFAULT_TEMPLATES, check_class_names, check_templates, read_names_and_templates
from .streams.rows import RowStream

_PLACE = ("path", "data_files", "split", "config", "revision")


@dataclass(frozen=True, repr=False)
class Benchmark:
    """
    One data set for training or evaluation, as a description that never changes; [`open`] reads it, once.

    Args:
        name (`str`): Key of the set in reports and metrics (`<name>/accuracy`), without "/" or blanks.
        role (`str`): "train", "validation", "id" (test data like the training data), "shift", or "open_set" (other
            classes).
        class_names (`tuple[str, ...]`, *optional*, defaults to `()`): The classes in label order, as prompts say them, or a dict from
            what the data call each class to its name; () for image-caption pairs without labels.
        templates (`tuple[str, ...]`, *optional*, defaults to `("a photo of a {}.",)`): Prompt templates with one `{}` each.
        path (`str`, *optional*): A folder, a builder of `datasets` such as "parquet" (with `data_files`), or a Hub id
            "owner/name".
        data_files (`str`, *optional*): File or pattern for a builder or Hub id.
        split (`str`, *optional*, defaults to `"train"`): Split to load.
        config (`str`, *optional*): Configuration of a Hub data set.
        revision (`str`, *optional*): Commit or tag of a Hub data set.
        image_column (`str`, *optional*, defaults to `"image"`): Column of images.
        label_column (`str`, *optional*, defaults to `"label"`): Column of labels: integers, a ClassLabel, or class
            names as strings; or lists of them for images that may have several, or none. It is read only if there are class
            names.
        caption_column (`str`, *optional*): Column of captions, text or lists of text (default: captions are made from
            class names).
        label_names (`tuple[str, ...]`, *optional*): What the data set calls the classes, in the order of
            `class_names`, where that differs (folders such as n01440764).
        group_column (`str`, *optional*): Column of what images have in common (the patient, the drawing), text or whole
            numbers. Standard errors draw whole groups; by default each image by itself.
        suite (`str`, *optional*): The suite that the set belongs to.
        licence, source, note (`str`, *optional*): Facts for the model card.
        dataset (`Dataset`, *optional*): Rows held in memory instead of `path`.
        registered ([`RegisteredData`], *optional*): What the registry knows of the data: copies on the Hub, of which
            the first that exists is read, or a folder. `path`, `data_files`, `split`, `config` and `revision` are
            those of the first; [`place`] says which one was read.
        projection ([`ClassProjection`], *optional*): How logits of a larger head (ImageNet's 1000 classes) become
            those of this set's classes.
        evaluation_only (`bool`, *optional*, defaults to `False`): The data may not be trained or tuned on: the roles
            "train" and "validation" are refused.
        border (`int`, *optional*, defaults to 0): Pixels to cut from each side of the image before the transform
            (ObjectNet has a red border of 2).
        streaming (`bool`, *optional*, defaults to `False`): Read rows as they come, through `stream` instead of
            `load`: nothing is downloaded or copied before.
        opened (`InitVar[StoredRows | RowStream | None]`, *optional*): The checked rows, where whoever describes the
            data has opened them already.

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
    group_column: str | None = None
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
    opened: InitVar[StoredRows | RowStream | None] = None

    def __post_init__(self, opened: StoredRows | RowStream | None):
        if opened is not None:
            # Where `open` remembers what it has opened; never copied to a description that `replace` makes of this one.
            vars(self)["_rows"] = opened
        if not self.name or re.search(r"[\s/]", self.name):
            raise ValueError(
                f"benchmark name {self.name!r} must not be empty or hold blanks or '/'; give another name."
            )
        if self.role not in ROLES:
            raise ValueError(
                f"role {self.role!r} of data set {self.name!r} is unknown; choose one of {quoted(ROLES)}."
            )
        if self.registered is not None and self.dataset is not None:
            object.__setattr__(self, "registered", None)
        if self.registered is not None:
            for name, value in self.registered.place.items():
                object.__setattr__(self, name, value)
        elif (self.path is None) == (self.dataset is None):
            raise ValueError(f"data set {self.name!r} needs either path or dataset; give exactly one of them.")
        if self.dataset is not None:
            require_dataset(self.dataset, f"data set {self.name!r}")
        if self.streaming and self.dataset is not None:
            raise ValueError(
                f"The rows of data set {self.name!r} are in memory already, so they cannot be streamed; leave streaming out."
            )
        if self.role in ("train", "validation") and (
            self.evaluation_only or (self.path or "").lower() in EVALUATION_ONLY_REPOSITORIES
        ):
            raise ValueError(
                f"data set {self.name!r} may never be trained or tuned on, its licence says, but its role is "
                f"{self.role!r}; take it for evaluation: 'id', 'shift' or 'open_set'."
            )
        object.__setattr__(self, "templates", check_templates(self.templates))
        if isinstance(self.class_names, Mapping):
            for name, value in read_names_and_templates(self.class_names, None, self.label_names).items():
                object.__setattr__(self, name, value)
        if self.class_names:
            object.__setattr__(self, "class_names", check_class_names(self.class_names))
        elif self.caption_column is None and self.label_column is not None:
            raise ValueError(
                f"data set {self.name!r} has neither class names nor captions; give class_names or caption_column "
                "(label_column=None if images are all there is)."
            )
        if self.label_names is not None:
            object.__setattr__(self, "label_names", tuple(map(str, self.label_names)))
            if len(self.label_names) != len(self.class_names):
                raise ValueError(
                    f"data set {self.name!r} has {len(self.label_names)} label_names and {len(self.class_names)} "
                    "class_names; give one label name per class name."
                )
            check_class_names(self.label_names, "label")
        if self.projection is not None and len(self.projection.groups) != len(self.class_names):
            raise ValueError(
                f"data set {self.name!r} has {len(self.class_names)} classes, its projection gives "
                f"{len(self.projection.groups)}; give one group of columns per class."
            )

    def __repr__(self) -> str:
        # The classes and prompts of ImageNet would fill screens.
        place = self.path or ("no known copy" if self.dataset is None else f"{len(self.dataset)} rows in memory")
        return f"Benchmark({self.name!r}, role={self.role!r}, {len(self.class_names)} classes, {place!r})"

    def project_logits(self, logits: Tensor) -> Tensor:
        """Turn the logits of a head into those of this set's classes.

        Args:
            logits (`torch.Tensor` of shape `(..., head classes)`): Of a head for this set's classes or, if there is a
                projection, for the larger set of classes.

        Returns:
            `torch.Tensor` of shape `(..., classes)`: The logits; those given where there is nothing to project.

        Raises:
            ValueError: If the last dimension has neither of these sizes.
        """
        if self.projection is not None:
            return self.projection(logits)
        if logits.shape[-1] != len(self.class_names):
            raise ValueError(
                f"The logits have {logits.shape[-1]} columns, data set {self.name!r} has {len(self.class_names)} "
                "classes and no projection; use a head of its classes."
            )
        return logits

    @cached_property
    def _rows(self) -> StoredRows | RowStream:
        rows = self._open()
        place = {"path": self.path, "revision": self.revision, **rows.place}
        check_commit(place["path"], place["revision"], _commit_of(rows))
        return rows

    def _open(self) -> StoredRows | RowStream:
        where = f"data set {self.name!r}"
        if self.registered is None:
            return checked_rows(self, self.dataset if self.dataset is not None else open_rows(self))
        rows = open_registered(
            self.registered, where, self.streaming, training=self.role == "train", group_column=self.group_column
        )
        if self.caption_column is not None:
            require_column(("image", "label"), self.caption_column, "caption_column", where)
        if isinstance(rows, StoredRows):
            say_unused(rows.dataset.unique("label"), self.class_names, where)
        return rows

    def open(self) -> StoredRows | RowStream:
        """
        Open the data and check what can be checked; the second call returns the same object.

        Returns:
            [`StoredRows`], of which nothing but the columns of labels, captions and groups has been read; or, with `streaming`,
            [`RowStream`], of which no row has been read.

        Raises:
            ValueError: Empty data, a missing column, labels outside the classes, names that disagree (see
                [`data.columns.check_dataset`]), or a format that cannot be streamed.
            OSError: The path does not exist, or the Hub data set cannot be reached.
        """
        return self._rows

    @property
    def several(self) -> int:
        """Number of classes where each image has a list of labels, which may be empty; 0 where it has one. Opens own data."""
        labelled = self.registered is None and self.class_names and self.label_column is not None
        return self.open().several if labelled else 0

    @property
    def place(self) -> dict[str, str | None]:
        """Where the data are: `path`, `data_files`, `split`, `config`, `revision`; once opened, of the copy that was."""
        rows = vars(self).get("_rows")
        return {**{name: getattr(self, name) for name in _PLACE}, **({} if rows is None else rows.place)}

    @property
    def commit(self) -> str | None:
        """The commit of the Hub that the rows are of, once they are opened; `None` of any others."""
        return _commit_of(vars(self).get("_rows"))

    @property
    def n_images(self) -> int | None:
        """Number of images, if it is known without opening anything; never of a stream."""
        rows: Any = self.dataset if self.dataset is not None else vars(self).get("_rows")
        return len(rows) if hasattr(rows, "__len__") else None

    def load(self) -> Dataset:
        """
        The data as a `datasets.Dataset`, memory-mapped where it lies in arrow or parquet files.

        Images decode when read and labels are integers that index `class_names`. The second call returns the same object.

        Raises:
            ValueError, OSError: As [`open`], and for a benchmark that is streamed.
        """
        return self.stored_rows().dataset

    def stored_rows(self) -> StoredRows:
        """
        The rows of a benchmark that is not streamed, as training reads them.

        Raises:
            ValueError, OSError: As [`open`], and for a benchmark that is streamed.
        """
        if self.streaming:
            raise ValueError(
                f"data set {self.name!r} is streamed, so its rows cannot be asked for by number, which a draw of few "
                "shots, a bank of neighbours and a look at single images need; leave streaming=True (--streaming) out."
            )
        return cast(StoredRows, self._rows)

    def row_stream(self) -> RowStream:
        """
        The rows of a benchmark that is streamed, as training and evaluation read them.

        Raises:
            ValueError, OSError: As [`open`], and for a benchmark that is not streamed.
        """
        if not self.streaming:
            raise ValueError(
                f"data set {self.name!r} is not streamed; use load(), or describe it with streaming=True."
            )
        return cast(RowStream, self._rows)

    def stream(self) -> IterableDataset:
        """
        The rows of a benchmark that is streamed, for any other use.

        Returns:
            A `datasets.IterableDataset` of the rows that belong to the benchmark, with the columns `image` (encoded:
            {"bytes", "path"}), `label` (an index of `class_names`) if there are classes, and `caption` if there are
            captions.

        Raises:
            ValueError, OSError: As [`row_stream`]; while it is read, a label or caption that is wrong, with its row.
        """
        return self.row_stream().dataset()

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        *,
        name: str,
        role: str,
        class_names: Iterable[str] | Mapping[str, str] | Mapping[int, str] | str | Path | None = None,
        templates: Iterable[str] | str | Path = DEFAULT_TEMPLATES,
        label_column: str | None = "label",
        caption_column: str | None = None,
        **options,
    ) -> Benchmark:
        """A benchmark of rows that are already loaded.

        Args:
            dataset (`Dataset`): A `datasets.Dataset` (not a DatasetDict, not a stream).
            name, role (`str`): As in `Benchmark`.
            class_names (`Iterable[str]`, `Mapping[str | int, str]`, `str` or `Path`, *optional*): The classes in label
                order, a dict from what the data call each class to its name, or the path of a text file of them
                (default: the ClassLabel's names, or the sorted strings of a string column; none with
                `caption_column`).
            templates (`Iterable[str]`, `str` or `Path`, *optional*, defaults to `("a photo of a {}.",)`): Prompt
                templates, one template, or the path of a text file of them.
            label_column (`str`, *optional*, defaults to `"label"`), caption_column (`str`, *optional*), options
                (`Any`, *optional*): Further fields of `Benchmark`.

        Raises:
            ValueError: as `Benchmark` and `Benchmark.load`; the data are checked at once.
        """
        settings = read_names_and_templates(class_names, templates, options.get("label_names"))
        columns = {"label_column": label_column, "caption_column": caption_column}
        return opened_benchmark(cls, {"name": name, "role": role, "dataset": dataset, **columns, **options, **settings})


def _commit_of(rows: StoredRows | RowStream | None) -> str | None:
    if not isinstance(rows, StoredRows):
        return getattr(rows, "commit", None)
    # `datasets` names the folder of its cache after it.
    folders = {Path(file["filename"]).parent.name for file in rows.dataset.cache_files}
    found = {name for name in folders if re.fullmatch(r"[0-9a-f]{40}", name)}
    return found.pop() if len(found) == 1 else None


def opened_benchmark(kind: type[Benchmark], settings: dict) -> Benchmark:
    """
    The benchmark of this `kind` that `settings` describe, opened; the data name their classes where they do not.

    Raises:
        ValueError, OSError: As [`Benchmark`] and its `open`, or if there is a single class to be told from others.
    """
    label_column = settings.get("label_column", "label")
    if settings.get("class_names") or settings.get("caption_column") or label_column is None:
        benchmark = kind(**settings)
        benchmark.open()
        return benchmark
    # Read first, without looking at the labels; then the description can be completed.
    of_classes = ("label_names", "projection")
    described = kind(**{**settings, "label_column": None, **dict.fromkeys(of_classes)})
    where, naming = f"data set {described.name!r}", described.role != "open_set"
    rows = open_rows(described, naming) if described.dataset is None else described.dataset
    names = own_class_names(rows, label_column, where)
    if len(names) == 1 and naming and described.dataset is None:
        raise ValueError(
            f"{where} has the single class {names[0]!r}, which cannot be told from others; choose another label_column "
            "(--label_column), or give class_names (--class_names on the command line)."
        )
    later = {name: settings[name] for name in of_classes if name in settings}
    described = replace(described, label_column=label_column, class_names=names, **later)
    return replace(described, opened=checked_rows(described, rows))
