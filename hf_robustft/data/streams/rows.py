# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a row of a stream means: its image still encoded, its label as a class of the benchmark, its captions.

A stream cannot be checked before it is read, so what `data.columns` and `data.catalog.registered` check of whole columns is
checked here row by row, by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from datasets import Dataset, Features, Image, IterableDataset, List, Value

from hf_robustft.data.columns import (
    arrow_column,
    check_captions,
    own_class_names,
    require_column,
    say_unused,
    with_image_column,
)
from hf_robustft.data.labels import LabelFault, LabelRule, classes_of, label_rule
from hf_robustft.data.prompts import class_key
from hf_robustft.data.randomness import example_rng
from hf_robustft.data.streams.shards import IndexedRows, Opened, ShardRows, count_rows


@dataclass(frozen=True)
class RowMeaning:
    """From the columns of a stored row to an example, or to nothing where the row is left out.

    Args:
        where: words for the data set, used in messages.
        image_column, label_column, caption_column: names of the columns; None for what is not read.
        rule: what a stored label means.
        key: what two spellings of the name of a domain have in common.
        positions: for each label its class, or -1 for rows that are left out (default: the label itself).
        domain_column: column of domains (None: all rows are kept).
        domain_names: names of integer domains.
        all_domains, domains: keys of all domains, and of those that are kept.
        share: rows whose random number lies in [low, high) are kept.
        seed: seed of these numbers.
        first_rows: number of the first row of each shard, for these numbers.
    """

    where: str
    image_column: str
    label_column: str | None = None
    caption_column: str | None = None
    rule: LabelRule | None = field(default=None, repr=False)
    key: Callable[[str], str] = class_key
    positions: tuple[int, ...] | None = field(default=None, repr=False)
    domain_column: str | None = None
    domain_names: tuple[str, ...] | None = None
    all_domains: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    share: tuple[float, float] = (0.0, 1.0)
    seed: int = 0
    first_rows: tuple[int, ...] = field(default=(0,), repr=False)

    @property
    def columns(self) -> list[str]:
        """The columns that are read beside the image."""
        return [name for name in (self.label_column, self.caption_column, self.domain_column) if name is not None]

    @property
    def keeps_all(self) -> bool:
        """Whether no row is left out."""
        return self.domain_column is None and self.share == (0.0, 1.0) and -1 not in (self.positions or ())

    def __call__(self, shard: int, row: int, values: Mapping) -> dict | None:
        """The example of a row: `image` (encoded, or None), `label` and `caption` where they are read.

        Raises:
            ValueError: a label or caption that is missing or none of those described.
        """
        example = {"image": values[self.image_column]}
        if self.label_column is not None:
            example["label"] = self._label(shard, row, values[self.label_column])
        if self.caption_column is not None:
            example["caption"] = self._caption(shard, row, values[self.caption_column])
        if example.get("label", 0) < 0 or not self._in_share(shard, row):
            return None
        if self.domain_column is not None:
            return example if self._domain(shard, row, values[self.domain_column]) in self.domains else None
        return example

    def _domain(self, shard: int, row: int, value) -> str:
        name = self.key(str(value if self.domain_names is None else self.domain_names[value]))
        if name not in self.all_domains:
            raise ValueError(f"{self._place(shard, row)} is of the domain {value!r}, which the registry does not know")
        return name

    def _label(self, shard: int, row: int, value) -> int:
        try:
            label = self.rule(value)
        except LabelFault as fault:
            place = f"{self._place(shard, row)}, column {self.label_column!r},"
            raise ValueError(f"{fault.label} of {place} {fault.rule}") from None
        return label if self.positions is None else self.positions[label]

    def _caption(self, shard: int, row: int, value) -> str | list[str]:
        texts = [value] if isinstance(value, str) or value is None else value
        if not texts or any(text is None or not text.strip() for text in texts):
            raise ValueError(
                f"the caption of {self._place(shard, row)}, column {self.caption_column!r}, has no text; write one or "
                "leave the row out"
            )
        return value

    def _in_share(self, shard: int, row: int) -> bool:
        if self.share == (0.0, 1.0):
            return True
        number = example_rng(self.seed, 0, self.first_rows[shard] + row, "share").random()
        return self.share[0] <= number < self.share[1]

    def _place(self, shard: int, row: int) -> str:
        return f"row {row} of shard {shard} of {self.where}"


@dataclass(frozen=True)
class RowStream:
    """The rows of a benchmark as they come, shard by shard.

    Args:
        source: where the rows come from.
        meaning: what they mean.
        declared: number of stored rows that the data set, or the registry, says there are; None if neither does.
        declared_by: who says so.
        certain: whether another number is an error; otherwise it is only told.
        local: whether the images lie on this machine, so that reading them twice fetches nothing twice.
    """

    source: ShardRows | IndexedRows
    meaning: RowMeaning
    declared: int | None = None
    declared_by: str = ""
    certain: bool = True
    local: bool = True

    @property
    def where(self) -> str:
        """Words for the data set."""
        return self.meaning.where

    @property
    def examples(self) -> int | None:
        """Examples of one pass; None where it is not known how many rows are left out."""
        return self.declared if self.meaning.keeps_all and self.certain else None

    @property
    def shuffles_in_windows(self) -> bool:
        """Whether rows come in the order of their shards, so that shuffling the shards does not shuffle the rows."""
        return isinstance(self.source, ShardRows)

    def rows(self, shard: int, start: int = 0, step: int = 1, part: int = 0) -> Iterator[tuple[int, dict | None]]:
        """Row numbers of a shard from `start` on, those that leave the rest `part` when divided by `step`, with their
        examples, or None for a row that is left out."""
        for row, values in self.source.rows(shard, start, step, part):
            yield row, self.meaning(shard, row, values)

    def dataset(self) -> IterableDataset:
        """The stream as a data set with the columns `image` (encoded), and `label` and `caption` where they are read."""
        features = Features({"image": Image(decode=False)})
        if self.meaning.label_column is not None:
            features["label"] = Value("int64")
        if self.meaning.caption_column is not None:
            stored = self.source.dataset.features[self.meaning.caption_column]
            features["caption"] = List(Value("string")) if not isinstance(stored, Value) else Value("string")
        # A list is what `datasets` divides over workers; as many parts as there are shards, within reason.
        parts = _parts(self.source.n_shards, 1024)
        return IterableDataset.from_generator(_examples, features, gen_kwargs={"stream": self, "shards": parts})


def _parts(count: int, most: int) -> list[range]:
    bounds = [count * part // most for part in range(most + 1)] if count > most else list(range(count + 1))
    return [range(low, high) for low, high in zip(bounds, bounds[1:], strict=False)]


def _examples(stream: RowStream, shards: list[range]) -> Iterator[dict]:
    for shard in (shard for part in shards for shard in part):
        yield from (example for _, example in stream.rows(shard) if example is not None)


def without_rows(opened: Opened | Dataset) -> Dataset:
    """A data set of the same columns and no rows, of which the checks of `data.columns` say what the types say."""
    features = (opened if isinstance(opened, Dataset) else opened.dataset).features
    return Dataset.from_dict({name: [] for name in features}, features=features)


def checked_stream(opened: Opened | Dataset, benchmark, rule: LabelRule | None = None) -> RowStream:
    """The stream of one's own data, after the checks that need no row.

    Args:
        opened: the split as it was opened, or rows that can be asked for by number.
        benchmark: their description, a `Benchmark`.
        rule: what their labels mean, where that is known better than by the benchmark's names.

    Raises:
        ValueError: a missing column, a column of another kind, or class names that disagree.
        OSError: a damaged file on this machine.
    """
    where = f"benchmark {benchmark.name!r}"
    empty = without_rows(opened)
    with_image_column(empty, benchmark.image_column, where)
    column, classes = benchmark.label_column, benchmark.class_names
    if classes and column is not None:
        require_column(empty, column, "label_column", where)
        matched = rule is not None
        rule = rule or label_rule(empty.features[column], classes, benchmark.label_names, column, where)
        if isinstance(opened, Dataset):
            # What can be asked for by number is checked before it is used, as if it were loaded.
            labels = classes_of(arrow_column(opened, column), rule, column, where)
            if not matched:
                say_unused(set(labels.tolist()), classes, where)
    if benchmark.caption_column is not None:
        check_captions(empty, benchmark.caption_column, where)
    meaning = RowMeaning(
        where,
        benchmark.image_column,
        column if classes else None,
        benchmark.caption_column,
        rule=rule,
    )
    return stream_of(opened, meaning, training=benchmark.role == "train")


def stream_of(
    opened: Opened | Dataset,
    meaning: RowMeaning,
    rows: int | None = None,
    certain: bool = True,
    training: bool = False,
) -> RowStream:
    """The stream of an opened split with a known meaning.

    Args:
        opened: the split as it was opened, or rows that can be asked for by number.
        meaning: what its rows mean.
        rows: number of rows that the registry knows, used where neither the data set itself nor its files say it.
        certain: whether the registry's number was verified.
        training: count the rows of parquet files on the Hub too if nobody says it; a pass must have a length.
    """
    if isinstance(opened, Dataset):
        source = IndexedRows(opened, meaning.image_column, meaning.columns)
        first = next(source.rows(0), (0, {}))[1].get(meaning.image_column) if len(opened) else None
        local = "://" not in str((first or {}).get("path"))
        return RowStream(source, meaning, len(opened), "the list of its files", local=local)
    parquet = opened.files if opened.kind == "parquet" else ()
    source = ShardRows(opened.dataset, meaning.image_column, meaning.columns, parquet)
    local = bool(opened.files) and not any("://" in file for file in opened.files)
    if opened.declared is not None:
        return RowStream(source, meaning, opened.declared, "the data set itself", local=local)
    counts = count_rows(opened) if local or (training and rows is None) else None
    if counts is not None:
        return RowStream(source, meaning, sum(counts), "the headers of its files", local=local)
    return RowStream(source, meaning, rows, "" if rows is None else "the registry", certain, local)


def class_names_of(opened: Opened | Dataset, column: str, where: str) -> tuple[str, ...]:
    """What the data call their classes, as `own_class_names` says it; of a stream, from the type of the column alone.

    Raises:
        ValueError: no such column, one of bare numbers, or of text that only rows would tell.
    """
    listed = isinstance(opened, Dataset)
    return own_class_names(opened if listed else without_rows(opened), column, where, streamed=not listed)


def first_rows(counts: Sequence[int]) -> tuple[int, ...]:
    """Number of the first row of each of the shards with these numbers of rows."""
    starts = [0]
    for count in counts[:-1]:
        starts.append(starts[-1] + count)
    return tuple(starts)
