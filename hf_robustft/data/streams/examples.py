# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Images that are read as they come: endlessly and in a new order each pass for training, once each for evaluation.

>>> benchmark = load_benchmark("imagenet-1k", "train", streaming=True)
>>> examples = StreamingExamples.from_benchmark(benchmark, processor)
>>> loader = DataLoader(examples, batch_size=64, collate_fn=ClipCollator(processor.tokenizer), num_workers=4)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import fsspec.asyn
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..bad_images import UNREADABLE, BadImages
from ..examples import CaptionedImages, check_transform, counter, zeros_and_ones
from ..images import UnreadableImage
from ..transforms import ImageTransform
from .order import DEFAULT_BUFFER, Position, Reader, parts_of_a_shard
from .rows import RowStream

#: Unreadable images in a row after which a stream is taken for broken as a whole.
_HOPELESS = 1000


class StreamingExamples(CaptionedImages, IterableDataset):
    """Images with captions as `TrainingExamples` gives them, from a stream that starts again in another order at its end.

    Crop and caption of an example are pure functions of (seed, pass, row). Iterated in a data loader, its workers share
    the rows; `examples` says which part of them one of several readers gets, and from where on.

    Args:
        stream ([`RowStream`]): The rows, from `Benchmark.row_stream`.
        transform ([`ImageTransform`]): A training transform (evaluation transforms work too: no crop is drawn then).
        class_names (`Sequence[str]`, *optional*): The classes in label order (needed unless there are captions).
        templates (`Sequence[str]`, *optional*): Prompt templates with one "{}" each, for captions from class names.
        seed (`int`, *optional*, defaults to 0): Seed of the order and of all random choices.
        shuffle (`bool`, *optional*, defaults to `True`): A new order in each pass, or that of the data.
        buffer (`int`, *optional*, defaults to `DEFAULT_BUFFER`): Rows that a reader shuffles at once, held encoded in
            memory.
        size (`int`, *optional*): Examples of one pass, where you know it better than the data.
        bad_images ([`BadImages`], *optional*): What is done about images that cannot be read (default: the first one
            is an error). By "skip" the next image takes its place, and a line about it travels with that one (see
            `data.bad_images`).
        border (`int`, *optional*, defaults to 0): Pixels to cut off on each side of an image first.

    Attributes:
        size (`int` or `None`): examples of one pass, `len()` of the data set, if known.

    Raises:
        ValueError: neither captions nor class names and templates, or a size or buffer below 1.
    """

    def __init__(
        self,
        stream: RowStream,
        transform: ImageTransform,
        *,
        class_names: Sequence[str] = (),
        templates: Sequence[str] = (),
        seed: int = 0,
        shuffle: bool = True,
        buffer: int = DEFAULT_BUFFER,
        size: int | None = None,
        bad_images: BadImages | None = None,
        border: int = 0,
    ):
        labelled, captioned = stream.rule.label_column is not None, stream.rule.caption_column is not None
        super().__init__(transform, labelled, captioned, class_names, templates, seed, border)
        self.several = stream.several if labelled else 0
        self.size = stream.examples if size is None else size
        if buffer < 1 or (self.size is not None and self.size < 1):
            raise ValueError(f"buffer {buffer}, size {self.size}: a stream needs at least 1 of each.")
        self.stream, self.shuffle, self.buffer = stream, shuffle, buffer
        self.bad_images = counter(bad_images, stream.where, self.size)

    @classmethod
    def from_benchmark(
        cls,
        benchmark,
        processor,
        *,
        seed: int = 0,
        shuffle: bool = True,
        buffer: int = DEFAULT_BUFFER,
        size: int | None = None,
        bad_images: BadImages | None = None,
        **options,
    ) -> StreamingExamples:
        """The training examples of a benchmark that is streamed, for a checkpoint.

        Args:
            benchmark (`Any`): The data, a `Benchmark` with streaming=True.
            processor (`Any`): The checkpoint's `CLIPProcessor` or image processor.
            seed (`int`, *optional*, defaults to 0), shuffle (`bool`, *optional*, defaults to `True`), buffer (`int`,
                *optional*, defaults to `DEFAULT_BUFFER`), size (`int`, *optional*), bad_images ([`BadImages`],
                *optional*): As above.
            options (`Any`, *optional*): Options of the training `ImageTransform`, such as `scale` or `flip`.
        """
        return cls(
            benchmark.row_stream(),
            ImageTransform.from_processor(processor, train=True, **options),
            class_names=benchmark.class_names,
            templates=benchmark.templates,
            seed=seed,
            shuffle=shuffle,
            buffer=buffer,
            size=size,
            bad_images=bad_images,
            border=benchmark.border,
        )

    def __len__(self) -> int:
        if self.size is None:
            # What `len` raises of objects without a length; callers ask for it to learn that there is none.
            raise TypeError(f"nobody says how many rows {self.stream.where} has, so a pass has no known length.")
        return self.size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        reader, readers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return (example for _, example in self.examples(reader, readers))

    def examples(
        self, reader: int = 0, readers: int = 1, position: Position | None = None
    ) -> Iterator[tuple[Position, dict[str, Any]]]:
        """One reader's examples without end, each with the position after it. What comes before `position` is not decoded.

        Yields:
            `Position`, and a dict with `pixel_values` (3, size, size), `caption` str, and `label` int if there are
            classes.

        Raises:
            OSError: an image cannot be read, by the policy "error"; or 1000 in a row cannot, by any policy.
            ValueError: a label or caption that is wrong, or no rows at all.
        """
        _leave_the_parent_process()
        settings = {"seed": self.seed, "shuffle": self.shuffle, "buffer": self.buffer, "position": position}
        unreadable: list[str] = []
        for after, item in Reader(self.stream, reader, readers, **settings):
            try:
                row = item.example
                example = self.example(row, item.epoch, item.index, _named(item.where, row["image"]))
            except UnreadableImage as error:
                if not self.bad_images.skips or len(unreadable) >= _HOPELESS:
                    raise
                unreadable.append(error.summary)
                continue
            if unreadable:
                example[UNREADABLE], unreadable = unreadable, []
            yield after, example


class StreamedEvaluationImages(IterableDataset):
    """Batches of the images of a stream, each once, over any number of processes and data loader workers.

    Whole shards are dealt out to the readers; where there are fewer shards than readers, every n-th row of a shard. Give it
    to a data loader with `batch_size=None`.

    Args:
        stream ([`RowStream`]): The rows, from `Benchmark.row_stream`.
        transform ([`ImageTransform`]): An evaluation transform.
        batch_size (`int`): Images of a batch; the last one of each reader may have fewer.
        labelled (`bool`, *optional*, defaults to `True`): Whether to give the labels.
        grouped (`bool`, *optional*, defaults to `False`): Whether to give the groups.
        process (`int`, *optional*, defaults to 0), processes (`int`, *optional*, defaults to 1): This process and
            their number.
        border (`int`, *optional*, defaults to 0): Pixels to cut off on each side of an image first.
        bad_images ([`BadImages`], *optional*): What is done about images that cannot be read (default: the first one
            is an error).

    Raises:
        ValueError: a training transform, or a batch size below 1.
    """

    def __init__(
        self,
        stream: RowStream,
        transform: ImageTransform,
        batch_size: int,
        *,
        labelled: bool = True,
        grouped: bool = False,
        process: int = 0,
        processes: int = 1,
        border: int = 0,
        bad_images: BadImages | None = None,
    ):
        check_transform(transform)
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        self.stream, self.transform, self.batch_size = stream, transform, batch_size
        self.labelled, self.grouped = labelled, grouped
        self.process, self.processes, self.border = process, processes, border
        self.bad_images = counter(bad_images, stream.where, stream.examples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Batches of one reader.

        Yields:
            `index` (batch,) int64, which sorts in the order of the data, `pixel_values` (batch, 3, size, size), `labels`
            (batch,) int64 and `groups`, a list of texts, if asked for, and the lines of unreadable images. At last a batch without rows whose `rows` is
            the number of stored rows that the reader came by, of whatever class.
        """
        _leave_the_parent_process()
        worker = get_worker_info()
        reader, readers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        seen, batch, unreadable = 0, [], []
        for row in self._rows(reader * self.processes + self.process, readers * self.processes):
            seen += 1
            if row is None:
                continue
            index, where, example = row
            try:
                pixels = self.transform.decode(
                    example["image"], where=_named(where, example["image"]), border=self.border
                )
            except UnreadableImage as error:
                if not self.bad_images.skips:
                    raise
                unreadable.append(error.summary)
                continue
            label = example.get("label", -1)
            label = zeros_and_ones(label, self.stream.several) if self.labelled and self.stream.several else label
            batch.append((index, pixels, label, example.get("group")))
            if len(batch) == self.batch_size:
                yield self._collated(batch, unreadable)
                batch, unreadable = [], []
        if batch or unreadable:
            yield self._collated(batch, unreadable)
        yield {**self._collated([], []), "rows": seen}

    def _rows(self, reader: int, readers: int) -> Iterator[tuple[int, str, dict] | None]:
        shards = self.stream.source.n_shards
        parts = parts_of_a_shard(max(shards, 1), readers)
        for place in range(reader, shards * parts, readers):
            shard, part = divmod(place, parts)
            for row, example in self.stream.rows(shard, 0, parts, part):
                where = f"row {row} of shard {shard} of {self.stream.where}"
                yield None if example is None else (self.stream.source.row_id(shard, row), where, example)

    def _collated(self, batch: list[tuple], unreadable: list[str]) -> dict[str, Any]:
        pixels = [pixels for _, pixels, *_ in batch]
        collated: dict[str, Any] = {
            "index": torch.tensor([index for index, *_ in batch], dtype=torch.int64),
            "pixel_values": torch.stack(pixels) if pixels else torch.empty(0, *self.transform.shape),
        }
        if self.labelled:
            collated["labels"] = torch.tensor([label for _, _, label, _ in batch], dtype=torch.int64)
        if self.grouped:
            collated["groups"] = [group for *_, group in batch]
        return {**collated, UNREADABLE: unreadable} if unreadable else collated


def check_count(stream: RowStream, counted: int) -> str | None:
    """Compare the rows that were `counted` in an evaluation with those that the `stream` declared.

    Returns:
        A sentence for a warning if the numbers differ and the declared one was not verified; else None.

    Raises:
        OSError: the numbers differ.
    """
    if stream.declared is None or counted == stream.declared:
        return None
    says = f"{stream.where}: {counted} rows were read, but {stream.declared_by} says there are {stream.declared}" + (
        "" if stream.certain else " (not verified)"
    )
    if stream.certain:
        raise OSError(
            f"{says}; a truncated shard is read without an error, so no result is given for a part of the data: fetch the "
            "data again, correct the number in the data set's README, or give path of a whole copy."
        )
    return f"{says}; compare before numbers are published"


def _named(where: str, encoded: dict | None) -> str:
    path = None if encoded is None else encoded.get("path")
    return f"{where} ({path})" if path else where


def _leave_the_parent_process() -> None:
    """In a forked worker, locks that a thread of the parent process held would never be released."""
    if get_worker_info() is not None:
        fsspec.asyn.reset_lock()
