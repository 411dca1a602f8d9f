# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The rows of a stream: their images still encoded, their labels as classes of the benchmark, their captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from datasets import Dataset, Features, Image, IterableDataset, List, Value

from ..columns import RowRule
from .shards import IndexedRows, OpenSplit, ShardRows, count_rows


@dataclass(frozen=True)
class RowStream:
    """The rows of a benchmark as they come, shard by shard.

    Args:
        source ([`ShardRows`] or [`IndexedRows`]): Where the rows come from.
        rule ([`RowRule`]): What they mean.
        declared (`int`, *optional*): Number of stored rows that the data set, or the registry, says there are; None if
            neither does.
        declared_by (`str`, *optional*, defaults to `""`): Who says so.
        certain (`bool`, *optional*, defaults to `True`): Whether another number is an error; otherwise it is only
            told.
        local (`bool`, *optional*, defaults to `True`): Whether the images lie on this machine, so that reading them
            twice fetches nothing twice.
        place (`Mapping[str, str | None]`, *optional*): Where they are read from, as fields of a `Benchmark`.
    """

    source: ShardRows | IndexedRows
    rule: RowRule
    declared: int | None = None
    declared_by: str = ""
    certain: bool = True
    local: bool = True
    place: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Words for the data set."""
        return self.rule.where

    @property
    def examples(self) -> int | None:
        """Examples of one pass; None where it is not known how many rows are left out."""
        return self.declared if self.rule.keeps_all and self.certain else None

    @property
    def shuffles_in_windows(self) -> bool:
        """Whether rows come in the order of their shards, so that shuffling the shards does not shuffle the rows."""
        return isinstance(self.source, ShardRows)

    def rows(self, shard: int, start: int = 0, step: int = 1, part: int = 0) -> Iterator[tuple[int, dict | None]]:
        """Row numbers of a shard from `start` on, those that leave the rest `part` when divided by `step`, with their
        examples, or None for a row that is left out."""
        for row, values in self.source.rows(shard, start, step, part):
            yield row, self.rule(shard, row, values)

    def dataset(self) -> IterableDataset:
        """The stream as a data set with the columns `image` (encoded), and `label` and `caption` where they are read."""
        features = Features({"image": Image(decode=False)})
        if self.rule.label_column is not None:
            features["label"] = Value("int64")
        if self.rule.caption_column is not None:
            stored = self.source.dataset.features[self.rule.caption_column]
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


def stream_of(
    opened: OpenSplit | Dataset,
    rule: RowRule,
    rows: int | None = None,
    certain: bool = True,
    training: bool = False,
) -> RowStream:
    """The stream of an opened split with a known rule.

    Args:
        opened ([`OpenSplit`] or `Dataset`): The split as it was opened, or rows that can be asked for by number.
        rule ([`RowRule`]): What its rows mean.
        rows (`int`, *optional*): Number of rows that the registry knows, used where neither the data set itself nor
            its files say it.
        certain (`bool`, *optional*, defaults to `True`): Whether the registry's number was verified.
        training (`bool`, *optional*, defaults to `False`): Count the rows of parquet files on the Hub too if nobody
            says it; a pass must have a length.
    """
    if isinstance(opened, Dataset):
        source = IndexedRows(opened, rule.image_column, rule.columns)
        first = next(source.rows(0), (0, {}))[1].get(rule.image_column) if len(opened) else None
        local = "://" not in str((first or {}).get("path"))
        return RowStream(source, rule, len(opened), "the list of its files", local=local)
    parquet = opened.files if opened.kind == "parquet" else ()
    source = ShardRows(opened.dataset, rule.image_column, rule.columns, parquet)
    local = bool(opened.files) and not any("://" in file for file in opened.files)
    if opened.declared is not None:
        return RowStream(source, rule, opened.declared, "the data set itself", local=local)
    counts = count_rows(opened) if local or (training and rows is None) else None
    if counts is not None:
        return RowStream(source, rule, sum(counts), "the headers of its files", local=local)
    return RowStream(source, rule, rows, "" if rows is None else "the registry", certain, local)
