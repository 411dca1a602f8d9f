# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The rows of a stream, their images still encoded: where they come from, and what they mean.

They come from shards that are read from front to back, or can be asked for by number. Both sources have the same three
things: `n_shards`, `rows(shard, ...)`, and `row_id`. No image is decoded here.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetBuilder, DownloadConfig, Features, Image, IterableDataset, List, Value
from datasets.table import table_cast
from datasets.utils.file_utils import xopen

from ..columns import RowRule
from ..messages import one_line

#: Rows that one read hands over. More would hold more encoded images in memory; fewer would not read less.
ROWS_AT_ONCE = 16
#: Rows of a shard; with a million shards their numbers still are whole as float64, in which tables of results hold them.
ROW_BITS = 32


class ShardRows:
    """Rows of files that can only be read from front to back: tars and parquet, here or on the Hub.

    Args:
        dataset (`IterableDataset`): A stream as `datasets` opens it.
        image_column (`str`): Its column of images, which stay encoded.
        columns (`Sequence[str]`): Further columns that are read.
        parquet (`Sequence[str]`, *optional*): The parquet files of the stream, one a shard; () for another format.
    """

    def __init__(
        self, dataset: IterableDataset, image_column: str, columns: Sequence[str], parquet: Sequence[str] = ()
    ):
        self.parquet = tuple(parquet)
        encoded = dataset.decode(False).select_columns([image_column, *columns])
        # Arrow tables are cut without touching the bytes in them; a row becomes Python values when it is wanted.
        self.dataset = encoded.cast_column(image_column, Image(decode=False)).with_format("arrow")
        self.n_shards = self.dataset.num_shards

    def rows(self, shard: int, start: int = 0, step: int = 1, part: int = 0) -> Iterator[tuple[int, dict]]:
        """The rows of one shard from row `start` on whose number modulo `step` is `part`, with their numbers."""
        first = 0
        # Closed with this generator, so that no file stays open until the garbage is collected.
        with closing(self._tables(shard)) as tables:
            for table in tables:
                for row in range(max(start, first), first + len(table)):
                    if row % step == part:
                        yield row, table.slice(row - first, 1).to_pylist()[0]
                first += len(table)

    def _tables(self, shard: int) -> Iterator[pa.Table]:
        if self.parquet:
            yield from _parquet_tables(self.parquet[shard], self.dataset.features.arrow_schema)
            return
        try:
            # Not the iteration that `datasets` meant for workers, which would divide the shard's rows once more.
            yield from self.dataset.shard(num_shards=self.n_shards, index=shard).iter(batch_size=ROWS_AT_ONCE)
        except pa.ArrowInvalid as error:
            # As where an image of a tar has no label beside it.
            raise ValueError(f"The samples of shard {shard} differ in their parts ({one_line(error)}); correct the file or fetch it again.") from error

    def row_id(self, shard: int, row: int) -> int:
        """A number that no other row has, in the order of the data."""
        return shard << ROW_BITS | row


class IndexedRows:
    """Rows that can be asked for by number; each is a shard of its own, so that shuffling shards shuffles the rows.

    Args:
        dataset (`Dataset`): Rows in memory or memory-mapped.
        image_column (`str`): Its column of images, which stay encoded.
        columns (`Sequence[str]`): Further columns that are read.
    """

    def __init__(self, dataset: Dataset, image_column: str, columns: Sequence[str]):
        encoded = dataset.with_format(None).select_columns([image_column, *columns])
        self.dataset = encoded.cast_column(image_column, Image(decode=False))
        self.n_shards = len(self.dataset)

    def rows(self, shard: int, start: int = 0, step: int = 1, part: int = 0) -> Iterator[tuple[int, dict]]:
        """The one row `shard`, as `ShardRows.rows` gives those of a shard."""
        if start == 0 and part == 0:
            yield 0, self.dataset[shard]

    def row_id(self, shard: int, row: int) -> int:
        """The row's number."""
        return shard


@dataclass(frozen=True)
class OpenSplit:
    """A split as it was opened to be streamed.

    Args:
        dataset (`IterableDataset`): The stream.
        files (`tuple[str, ...]`): Its files, one per shard, or () where shards are not files.
        kind (`str`): The reader of `datasets`: "parquet", "webdataset", "imagefolder" and so on.
        declared (`int`, *optional*): Number of rows that the data set says it has, or None.
    """

    dataset: IterableDataset
    files: tuple[str, ...]
    kind: str
    declared: int | None = None

    @property
    def features(self) -> Features:
        """Its columns and their types."""
        return self.dataset.features


def open_split(builder: DatasetBuilder, split: str, declared: int | None = None) -> OpenSplit:
    """Open one split of a data set whose builder is known; the first rows of a tar may be read, for its columns.

    Args:
        builder (`DatasetBuilder`): From `datasets.load_dataset_builder`.
        split (`str`): Name of the split.
        declared (`int`, *optional*): Number of rows where it is known better than by the builder.

    Raises:
        ValueError: no such split, or a format whose columns are not known before it is read.
        OSError: the files cannot be read.
    """
    if builder.name == "parquet" and not builder.config.batch_size:
        # By default the size of the first group of rows, which fails where that is empty.
        builder.config.batch_size = ROWS_AT_ONCE
    dataset = builder.as_streaming_dataset(split=split)
    if dataset.features is None:
        raise ValueError(
            f"files of the kind {builder.name!r} do not say which columns they hold, so they cannot be streamed; "
            "convert them to parquet, or load them without streaming."
        )
    described = (builder.info.splits or {}).get(split)
    if declared is None and described is not None:
        declared = described.num_examples
    files = tuple(str(file) for file in (builder.config.data_files or {}).get(split, ()))
    return OpenSplit(dataset, files if len(files) == dataset.num_shards else (), builder.name, declared)


def listed(opened: OpenSplit) -> Dataset | None:
    """Return the rows of `opened`, a folder of image files, as paths, or None for formats that hold the images themselves.

    The list of a folder is known without reading an image, and what is listed can be shuffled as a whole.
    """
    if opened.kind != "imagefolder":
        return None
    encoded = opened.dataset.decode(False)
    return Dataset.from_list(list(encoded), features=encoded.features)


def count_rows(opened: OpenSplit) -> tuple[int, ...] | None:
    """Return the rows of each file of `opened`, from footers of parquet files or headers of tars on this machine; else None.

    Raises:
        OSError: a file is damaged.
    """
    if not opened.files or opened.kind not in ("parquet", "webdataset"):
        return None
    if opened.kind == "parquet":
        return tuple(_parquet_rows(file) for file in opened.files)
    if any("://" in file for file in opened.files):
        return None
    return tuple(_tar_samples(file) for file in opened.files)


def _parquet_tables(file: str, schema: pa.Schema) -> Iterator[pa.Table]:
    with opened_parquet(file) as content:
        # `datasets` scans with Arrow's threads, and one that still reads ahead when the interpreter goes aborts the process.
        for batch in content.iter_batches(batch_size=ROWS_AT_ONCE, columns=schema.names, use_threads=False):
            yield table_cast(pa.Table.from_batches([batch]), schema)


def _parquet_rows(file: str) -> int:
    with opened_parquet(file) as content:
        return content.metadata.num_rows


@contextmanager
def opened_parquet(file: str) -> Iterator[Any]:
    """The parquet `file`, here or on the Hub, for as long as it is open. Raises OSError if it is damaged."""
    try:
        with xopen(file, "rb", download_config=DownloadConfig()) as opened:
            yield pq.ParquetFile(opened, pre_buffer=False)
    except Exception as error:
        # Arrow's errors on what is in a file have no number, unlike those of the system; on the network they may be either.
        # The name of their class is gone where a stream is closed by the end of the interpreter, so it is not looked up then.
        of_the_content = isinstance(error, OSError) and error.errno is None and "://" not in file
        if not (of_the_content or isinstance(error, pa.ArrowInvalid)):
            raise
        reason = " ".join(str(error).split())
        raise OSError(f"The parquet file {file!r} is damaged: {reason}; fetch it again.") from error


def _tar_samples(file: str) -> int:
    """Samples of a tar: runs of files with the same name up to the first dot. Only headers are read."""
    count, last = 0, None
    try:
        with tarfile.open(file, "r:") as tar:
            while (member := tar.next()) is not None:
                folder, _, name = member.name.rpartition("/")
                stem, extension, _ = name.partition(".")
                if member.isreg() and extension and stem and not stem.startswith("__"):
                    count, last = count + ((folder, stem) != last), (folder, stem)
                tar.members.clear()  # They would be kept, a million of them.
    except tarfile.TarError as error:
        raise OSError(f"The tar {file!r} is damaged: {error}; fetch it again.") from error
    return count


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
        counts (`tuple[int, ...]`, *optional*): Stored rows of each shard, where they are known.
        place (`Mapping[str, str | None]`, *optional*): Where they are read from, as fields of a `Benchmark`.
        commit (`str`, *optional*): That of the Hub which its files are of.
        files (`tuple[str, ...]`, *optional*): The files of its shards, where these are files.
    """

    source: ShardRows | IndexedRows
    rule: RowRule
    declared: int | None = None
    declared_by: str = ""
    certain: bool = True
    local: bool = True
    counts: tuple[int, ...] | None = field(default=None, repr=False)
    place: Mapping[str, str | None] = field(default_factory=dict)
    commit: str | None = None
    files: tuple[str, ...] = field(default=(), repr=False)

    @property
    def where(self) -> str:
        """Words for the data set."""
        return self.rule.where

    @property
    def several(self) -> int:
        """Number of classes where each row has a list of labels; 0 where it has one."""
        return self.rule.several

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
        """The stream as a data set with the columns `image` (encoded), and `label`, `caption` and `group` where they are read."""
        features = Features({"image": Image(decode=False)})
        if self.rule.label_column is not None:
            features["label"] = List(Value("int64")) if self.several else Value("int64")
        if self.rule.caption_column is not None:
            stored = self.source.dataset.features[self.rule.caption_column]
            features["caption"] = List(Value("string")) if not isinstance(stored, Value) else Value("string")
        if self.rule.group_column is not None:
            features["group"] = Value("string")
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
        path = str((first or {}).get("path"))
        return RowStream(source, rule, len(opened), "the list of its files", local="://" not in path, commit=_commit([path]))
    parquet = opened.files if opened.kind == "parquet" else ()
    source = ShardRows(opened.dataset, rule.image_column, rule.columns, parquet)
    of: dict[str, Any] = {"commit": _commit(opened.files), "files": opened.files}
    local = bool(opened.files) and not any("://" in file for file in opened.files)
    if opened.declared is not None:
        return RowStream(source, rule, opened.declared, "the data set itself", local=local, **of)
    counts = count_rows(opened) if local or (training and rows is None) else None
    if counts is not None:
        return RowStream(source, rule, sum(counts), "the headers of its files", local=local, counts=counts, **of)
    return RowStream(source, rule, rows, "" if rows is None else "the registry", certain, local, **of)


def _commit(files: Iterable[str]) -> str | None:
    """The commit of the Hub that `files` are of, by their addresses."""
    found = {match[1] if (match := re.match(r"hf://datasets/[^@]+@([0-9a-f]{40})/", file)) else None for file in files}
    return found.pop() if len(found) == 1 else None
