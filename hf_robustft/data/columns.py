# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What stored rows mean: one rule book, read by column for data that are loaded and by row for those that are streamed.

A label, a caption, a domain and a draw of rows are each judged by one function, whether it is given a whole column or what a
stream has just read. No image is decoded here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Image, LargeList, List, Value

from .column_checks import (
    NO_GROUP,
    check_group_column,
    check_groups,
    check_kind,
    check_one_meaning,
    check_two_columns,
    is_missing,
    require_column,
    without_gaps,
)
from .column_checks import groups_of as groups_of
from .column_checks import require_dataset as require_dataset
from .labels import (
    INDICATOR,
    NO_LIST,
    LabelFault,
    LabelRule,
    classes_of,
    holds_integers,
    holds_several,
    is_indicator,
    is_text,
    label_rule,
    lists_of_classes,
    one_label,
    refuse_rows,
)
from .messages import quoted, say_once
from .prompts import check_class_names, class_key, label_key
from .randomness import example_rng

_NO_TEXT = LabelFault("the caption", "has no text: write one or leave the row out")


@dataclass(frozen=True)
class RowRule:
    """
    From the columns of a stored row to an example, or to nothing where the row is left out.

    Args:
        where (`str`): Words for the data set, used in messages.
        image_column (`str`): The column of images.
        label_column, caption_column (`str`, *optional*): The columns of labels and captions; `None` for what is not read.
        group_column (`str`, *optional*): The column of what images are drawn together with, text or whole numbers.
        label (`Callable`, *optional*): What a stored label means, such as a [`LabelRule`].
        several (`int`): Number of classes where each row has a list of labels, which may be empty; 0 where it has one label.
        positions (`tuple[int, ...]`, *optional*): For each label its class, or -1 for rows that are left out. By default the
            label itself.
        domain_column (`str`, *optional*): The column of domains; `None` keeps the rows of all of them.
        domain_names (`tuple[str, ...]`, *optional*): Names of domains that are stored as integers.
        all_domains, domains (`tuple[str, ...]`): All domains, and those that are kept.
        share (`tuple[float, float]`): Rows whose random number lies in [low, high) are kept.
        seed (`int`): Seed of these numbers.
        first_rows (`tuple[int, ...]`): Number of the first row of each shard, for these numbers.
    """

    where: str
    image_column: str = "image"
    label_column: str | None = None
    caption_column: str | None = None
    group_column: str | None = None
    label: Callable[[Any], int] | None = field(default=None, repr=False)
    several: int = 0
    positions: tuple[int, ...] | None = field(default=None, repr=False)
    domain_column: str | None = None
    domain_names: tuple[str, ...] | None = None
    all_domains: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    share: tuple[float, float] = (0.0, 1.0)
    seed: int = 0
    first_rows: tuple[int, ...] = field(default=(0,), repr=False)

    @property
    def columns(self) -> list[str]:
        """The columns that are read beside the image."""
        names = (self.label_column, self.caption_column, self.domain_column, self.group_column)
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def keeps_all(self) -> bool:
        """Whether no row is left out."""
        return self.domain_column is None and self.share == (0.0, 1.0) and -1 not in (self.positions or ())

    def class_of(self, value: Any) -> int:
        """The class of a stored label, -1 if rows of that class are left out. Raises `LabelFault` if it means no class."""
        label = self.label(value)
        return label if self.positions is None else self.positions[label]

    def _classes_of(self, values: Any) -> list[int]:
        if values is None:
            raise NO_LIST
        if is_indicator(values, self.several):
            raise INDICATOR
        return sorted({self.class_of(value) for value in values})

    def _domain_name(self, value: Any) -> str:
        numbered = self.domain_names is not None and value in range(len(self.domain_names))
        return str(self.domain_names[value] if numbered else value)

    def domain_of(self, value: Any) -> str:
        """What two spellings of the name of a stored domain have in common."""
        return label_key(self._domain_name(value))

    def draws(self, row: int) -> bool:
        """Whether the row of this number is in the share."""
        return self.share[0] <= example_rng(self.seed, 0, row, "share").random() < self.share[1]

    @cached_property
    def _known_domains(self) -> tuple[set[str], set[str]]:
        return {label_key(name) for name in self.all_domains}, {label_key(name) for name in self.domains}

    def by_column(self, dataset: Dataset) -> tuple[Any, np.ndarray]:
        """
        The class of each row of a data set (a list, where rows have several; `None` without labels), and whether it is kept.

        Raises:
            ValueError: For the first row whose label, caption or group is wrong, with the number of such rows; for domains that
                are not those of the data; or for a single group.
        """
        classes, kept = None, np.ones(len(dataset), dtype=bool)
        stored = dataset.select_columns(self.columns).with_format("arrow")[:] if self.columns else None
        if self.label_column is not None:
            labels = stored[self.label_column], self.class_of, self.label_column, self.where
            classes = lists_of_classes(*labels, self.several) if self.several else classes_of(*labels)
            present = chain(*classes) if self.several else np.unique(classes).tolist()
            check_one_meaning(getattr(self.label, "named", {}), present, self.label_column, self.where)
            kept &= True if self.several else classes >= 0
        if self.caption_column is not None:
            # Chunk by chunk: all captions of a large data set in one array could pass arrow's limit of 2 GiB.
            chunks = stored[self.caption_column].chunks
            missing = np.concatenate([np.empty(0, dtype=bool), *map(_without_text, chunks)])
            refuse_rows(missing, lambda row: _NO_TEXT, self.caption_column, self.where)
        if self.group_column is not None:
            values = without_gaps(stored[self.group_column], self.group_column, self.where)
            check_groups(len(pc.unique(values)), self.group_column, self.where)
        if self.domain_column is not None:
            values = stored[self.domain_column].to_pylist()
            names = {value: self.domain_of(value) for value in dict.fromkeys(values)}
            known, wanted = self._known_domains
            if set(names.values()) != known:
                found = sorted(map(self._domain_name, names))
                raise ValueError(
                    f"{self.where} has the domains {quoted(found)}, the registry knows {quoted(self.all_domains)}."
                )
            kept &= [names[value] in wanted for value in values]
        if self.share != (0.0, 1.0):
            kept &= [self.draws(row) for row in range(len(dataset))]
        return classes, kept

    def __call__(self, shard: int, row: int, values: Mapping) -> dict | None:
        """
        The example of a row as a stream gives it: `image` (encoded, or `None`), `label`, `caption` and `group` where they are
        read.

        Raises:
            ValueError: For a label, caption, group or domain that is wrong, with the row.
        """
        example, place = {"image": values[self.image_column]}, f"row {row} of shard {shard} of {self.where}"
        column = self.label_column
        try:
            if column is not None:
                example["label"] = self._classes_of(values[column]) if self.several else self.class_of(values[column])
            column = self.caption_column
            if column is not None:
                example["caption"] = value = values[column]
                kind = pa.string() if value is None or isinstance(value, str) else pa.list_(pa.string())
                if _without_text(pa.array([value], kind))[0]:
                    raise _NO_TEXT
            column = self.group_column
            if column is not None:
                if is_missing(values[column]):
                    raise NO_GROUP
                example["group"] = str(values[column])
        except LabelFault as fault:
            raise ValueError(f"{fault.label} of {place}, column {column!r}, {fault.rule}.") from None
        if not self.several and example.get("label", 0) < 0:
            return None
        if self.share != (0.0, 1.0) and not self.draws(self.first_rows[shard] + row):
            return None
        if self.domain_column is not None:
            value, (known, wanted) = values[self.domain_column], self._known_domains
            if self.domain_of(value) not in known:
                raise ValueError(f"{place} is of the domain {value!r}, which the registry does not know.")
            return example if self.domain_of(value) in wanted else None
        return example


@dataclass(frozen=True)
class StoredRows:
    """
    Checked rows that can be asked for by number.

    Args:
        dataset ([`~datasets.Dataset`]): Images that decode when read, labels that are integers of classes.
        image_column, label_column, caption_column, group_column (`str`, *optional*): Its columns; `None` for what is not read.
        place (`Mapping`, *optional*): Where it was read from, as fields of a [`Benchmark`].
    """

    dataset: Dataset
    image_column: str = "image"
    label_column: str | None = None
    caption_column: str | None = None
    group_column: str | None = None
    place: Mapping[str, str | None] = field(default_factory=dict)

    @cached_property
    def encoded(self) -> Dataset:
        """The rows with images still encoded, so that an unreadable file can be reported with its row."""
        columns = [self.image_column, self.label_column, self.caption_column, self.group_column]
        rows = self.dataset.select_columns(list(dict.fromkeys(column for column in columns if column is not None)))
        return rows.cast_column(self.image_column, Image(decode=False))

    # Asked for with each image, and `Dataset.features` is a copy of all names of classes.
    @cached_property
    def several(self) -> int:
        """Number of classes where each row has a list of labels; 0 where it has one."""
        feature = None if self.label_column is None else self.dataset.features[self.label_column]
        return len(feature.feature.names) if holds_several(feature) else 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], str]:
        """`image` (encoded, or `None`), `label`, `caption` and `group` of a row where they are read, and words for where it is."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the {len(self)} rows.")
        row, example = self.encoded[index], {}
        for name, column in (
            ("image", self.image_column),
            ("label", self.label_column),
            ("caption", self.caption_column),
        ):
            if column is not None:
                example[name] = row[column]
        if self.group_column is not None:
            example["group"] = str(row[self.group_column])
        encoded = example["image"]
        return example, f"row {index}" + ("" if encoded is None else f" ({encoded.get('path') or 'stored bytes'})")

    @cached_property
    def _texts(self) -> Dataset | None:
        columns = [column for column in (self.label_column, self.caption_column, self.group_column) if column is not None]
        return self.dataset.select_columns(list(dict.fromkeys(columns))) if columns else None

    def without_image(self, index: int) -> dict[str, Any]:
        """`label`, `caption` and `group` of a row where they are read; the bytes of its image are not."""
        row = {} if self._texts is None else self._texts[index]
        named = (("label", self.label_column), ("caption", self.caption_column))
        example = {name: row[column] for name, column in named if column is not None}
        return example if self.group_column is None else {**example, "group": str(row[self.group_column])}


def arrow_column(dataset: Dataset, column: str) -> pa.ChunkedArray:
    """Return a `column` of a `dataset` as it is stored."""
    return dataset.select_columns([column]).with_format("arrow")[:].column(column)


def _without_text(values: pa.Array) -> np.ndarray:
    """Whether each of these captions, texts or lists of texts, is missing, blank, empty, or has a blank text in it."""
    missing = values.is_null().to_numpy(zero_copy_only=False).copy()
    kinds = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    several = any(is_kind(values.type) for is_kind in kinds)
    texts = pc.list_flatten(values) if several else values
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(texts, ""))), 0)
    blank = blank.to_numpy(zero_copy_only=False)
    if not several:
        return missing | blank
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    missing[np.repeat(np.arange(len(values)), lengths)[blank]] = True
    return missing | (lengths == 0)


def own_class_names(rows: Any, column: str, where: str) -> tuple[str, ...]:
    """
    What the data set itself calls its classes: the ClassLabel's names, or the sorted strings of a string column.

    Args:
        rows ([`~datasets.Dataset`] or an opened split): The data; of what is streamed only the columns are known.
        column (`str`): The label column.
        where (`str`): Words for the data set, used in messages.

    Raises:
        ValueError: There is no such column, or one of bare integers, which names no classes, or of text that is streamed.
    """
    streamed = not isinstance(rows, Dataset)
    require_column(rows.features, column, "label_column", where)
    feature, several = one_label(rows.features[column]), holds_several(rows.features[column])
    if isinstance(feature, ClassLabel):
        return check_class_names(feature.names)
    if is_text(feature) and not streamed:
        stored = arrow_column(rows, column)
        found = pc.unique(pc.list_flatten(stored) if several else stored).to_pylist()
        return check_class_names(sorted(name for name in found if name is not None))
    why = "a stream is not read to learn its classes" if is_text(feature) else "which names no classes"
    raise ValueError(
        f"column {column!r} of {where} holds {feature}, {why if not streamed else 'and ' + why}; give class_names "
        "(--class_names on the command line): a text file with one name a line."
    )


def say_unused(labels: Iterable[int], class_names: Sequence[str], where: str) -> None:
    """Log which of `class_names` have no image among the checked `labels` of the data `where`: there may be more names."""
    unused = sorted(set(range(len(class_names))) - set(labels))
    if unused:
        names = quoted([class_names[label] for label in unused])
        say_once(f"{where}: no image of {len(unused)} of its {len(class_names)} classes: {names}.")


def row_rule(
    features: Mapping[str, Any],
    *,
    where: str,
    class_names: Sequence[str] = (),
    own_names: Sequence[str] | None = None,
    image_column: str = "image",
    label_column: str | None = "label",
    caption_column: str | None = None,
    group_column: str | None = None,
    rule: LabelRule | None = None,
) -> RowRule:
    """
    The rule of data that a description fits, after all the checks that need no row.

    Args:
        features (`Mapping`): The columns and their types, of `datasets`.
        where (`str`): Words for the data set, used in messages.
        class_names (`Sequence[str]`, *optional*): The classes in label order; if empty, the label column is not read.
        own_names (`Sequence[str]`, *optional*): What the data set calls the same classes, where that differs.
        image_column, label_column, caption_column, group_column (`str`, *optional*): The columns; `None` for one that does not
            matter.
        rule ([`LabelRule`], *optional*): What the labels mean, where that is known better than by the names.

    Raises:
        ValueError: A column is missing or of another kind, or the names disagree with those of a ClassLabel.
    """
    if class_names or caption_column is None:
        check_two_columns(image_column, label_column)
    require_column(features, image_column, "image_column", where)
    feature = features[image_column]
    is_file = isinstance(feature, Value) and feature.dtype in ("string", "large_string", "binary", "large_binary")
    is_encoded = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
    check_kind(feature, isinstance(feature, Image) or is_file or is_encoded, image_column, where, "images", "image")
    label_column, several = label_column if class_names else None, 0
    if label_column is not None:
        names = check_class_names(class_names)
        require_column(features, label_column, "label_column", where)
        feature = features[label_column]
        several = len(names) if holds_several(feature) else 0
        rule = rule or label_rule(one_label(feature), names, own_names, label_column, where)
    if caption_column is not None:
        if caption_column == label_column:
            raise ValueError(
                f"column {caption_column!r} of {where} cannot be both the labels and the captions (label_column, caption_column); leave "
                "caption_column out, and captions are made from the class names by the templates, such as {}."
            )
        require_column(features, caption_column, "caption_column", where)
        feature = features[caption_column]
        texts = is_text(feature.feature if isinstance(feature, (List, LargeList)) else feature)
        check_kind(feature, texts, caption_column, where, "captions (text or lists of text)", "caption")
    check_group_column(features, group_column, where)
    return RowRule(where, image_column, label_column, caption_column, group_column, label=rule, several=several)


def check_dataset(
    dataset: Dataset, *, where: str, class_names: Sequence[str] = (), say: bool = False, **described
) -> StoredRows:
    """
    Check a data set against its description, before anything is computed on it.

    Args:
        dataset ([`~datasets.Dataset`]): Rows with an image, and a label or a caption or both.
        where (`str`), class_names (`Sequence[str]`, *optional*), described (`Any`, *optional*): The description, as
            for [`row_rule`].
        say (`bool`, *optional*, defaults to `False`): Whether to log which classes have no image.

    Returns:
        [`StoredRows`]: The data set with images that decode when read and integer labels.

    Raises:
        ValueError: The data set is empty, a column is missing or of another kind, or a label, caption or group is wrong.
    """
    # Values must come back as stored, whatever output format or transform the caller has set for other uses.
    dataset = dataset.with_format(None)
    if len(dataset) == 0:
        raise ValueError(f"{where} is empty: it has no rows; check the path, the split and any filter.")
    rule = row_rule(dataset.features, where=where, class_names=class_names, **described)
    image, column = dataset.features[rule.image_column], rule.label_column
    if not isinstance(image, Image) or not image.decode:
        dataset = dataset.cast_column(rule.image_column, Image(mode=getattr(image, "mode", None)))
    classes, _ = rule.by_column(dataset)
    if column is not None:
        if say:
            say_unused(set(chain(*classes) if rule.several else classes.tolist()), class_names, where)
        feature = one_label(dataset.features[column])
        called = feature.names if isinstance(feature, ClassLabel) else class_names
        same = [*map(class_key, called)] == [*map(class_key, class_names)]
        named = isinstance(feature, ClassLabel) or not rule.several
        # A class that a list names twice would be drawn twice as often, and counted twice.
        distinct = not rule.several or arrow_column(dataset, column).to_pylist() == classes
        if not (rule.label.keeps_numbers and holds_integers(feature) and same and named and distinct):
            names = ClassLabel(names=list(check_class_names(class_names)))
            names = List(names) if rule.several else names
            replaced = dataset.remove_columns(column).add_column(column, classes, feature=names)
            dataset = replaced.select_columns(dataset.column_names)
    return StoredRows(dataset, rule.image_column, column, rule.caption_column, rule.group_column)
