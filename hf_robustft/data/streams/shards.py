# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Where a stream's rows come from: shards that are read from front to back, or rows that can be asked for by number.

Both have the same three things: `n_shards`, `rows(shard, ...)`, and `row_id`. No image is decoded here.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetBuilder, DownloadConfig, Features, Image, IterableDataset
from datasets.table import table_cast
from datasets.utils.file_utils import xopen

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
        if not self.parquet:
            # Not the iteration that `datasets` meant for workers, which would divide the shard's rows once more.
            return self.dataset.shard(num_shards=self.n_shards, index=shard).iter(batch_size=ROWS_AT_ONCE)
        return _parquet_tables(self.parquet[shard], self.dataset.features.arrow_schema)

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
            "convert them to parquet, or load them without streaming"
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
    with _opened_parquet(file) as content:
        # `datasets` scans with Arrow's threads, and one that still reads ahead when the interpreter goes aborts the process.
        for batch in content.iter_batches(batch_size=ROWS_AT_ONCE, columns=schema.names, use_threads=False):
            yield table_cast(pa.Table.from_batches([batch]), schema)


def _parquet_rows(file: str) -> int:
    with _opened_parquet(file) as content:
        return content.metadata.num_rows


@contextmanager
def _opened_parquet(file: str) -> Iterator[Any]:
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
        raise OSError(f"The parquet file {file!r} is damaged: {reason}; fetch it again") from error


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
    except tarfile.ReadError as error:
        raise OSError(f"The tar {file!r} is damaged: {error}; fetch it again") from error
    return count
