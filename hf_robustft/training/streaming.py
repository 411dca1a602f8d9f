# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Training on a stream: an endless loader whose place in the data is a part of the checkpoint.

Transformers and Accelerate read streams in the first process alone, or by shards only, start each pass in the same order
and resume by reading again all that was read, from a wrong place after the first pass. So this loader is not theirs: each
batch brings along where its reader stands after it, checkpoints hold that of every reader of every process, and a resumed
run opens each reader's current shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..data.benchmarks import Benchmark
from ..data.streams.examples import StreamingExamples
from ..data.streams.order import Position, parts_of_a_shard
from ..objectives.base import take
from .distributed import world_size

#: Setting of a stream, and the option of the command line behind it.
_SETTINGS = {
    "processes": "number of processes",
    "readers": "--dataloader_num_workers (0 and 1 are the same)",
    "batch_size": "--per_device_train_batch_size",
    "seed": "--seed (or --data_seed)",
    "shuffle": "--train_sampling_strategy",
    "buffer": "shuffle buffer",
    "shards": "number of shards of the data",
    "parts": "number of parts of a shard",
}


class _ProcessBatches(IterableDataset):
    """Full batches of one process: of each of its readers, which are the workers of a data loader, those that it reads."""

    def __init__(self, loader: StreamLoader):
        self.examples, self.collator, self.batch_size = loader.examples, loader.collator, loader.batch_size
        self.process, self.processes = loader.process, loader.processes
        self.positions, self.batches = list(loader.positions), loader.batches

    def __iter__(self) -> Iterator[tuple[int, Position, Any]]:
        worker = get_worker_info()
        # The loader asks its first worker first, and the next batch is the turn of the reader that was to follow.
        readers = len(self.positions)
        slot = (self.batches + (0 if worker is None else worker.id)) % readers
        source = self.examples.examples(
            slot * self.processes + self.process, readers * self.processes, self.positions[slot]
        )
        batch = []
        for position, example in source:
            batch.append(example)
            if len(batch) == self.batch_size:
                yield slot, position, self.collator(batch)
                batch = []


class StreamLoader:
    """
    The batches of one process, without end; every pass of a Trainer over it goes on where the one before stopped.

    Args:
        examples ([`~hf_robustft.data.streams.examples.StreamingExamples`]): The stream.
        collator (`Callable`): From a list of examples to a batch.
        batch_size (`int`): Examples of each batch; no batch has fewer.
        process, processes (`int`): Which of how many processes this is.
        workers (`int`): Worker processes that read; 0 reads here.
        accumulation (`int`): Batches of an optimizer step, in which the length of a pass is counted.
        options (`Any`, *optional*): Further options of the `DataLoader`.
    """

    def __init__(
        self,
        examples: StreamingExamples,
        collator: Callable,
        batch_size: int,
        *,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
        accumulation: int = 1,
        **options,
    ):
        self.examples, self.collator, self.batch_size = examples, collator, batch_size
        self.process, self.processes, self.workers, self.accumulation = process, processes, workers, accumulation
        self.options = options
        self.positions = [Position()] * max(1, workers)
        self.batches = 0
        self._iterator: Iterator | None = None

    @property
    def dataset(self) -> StreamingExamples:
        """The examples, by the name that a `DataLoader` has for them."""
        return self.examples

    def __len__(self) -> int:
        """Batches of a pass: those of whole optimizer steps, at least one step. What is left belongs to the next pass."""
        whole = len(self.examples) // (self.batch_size * self.processes * self.accumulation)
        return max(1, whole) * self.accumulation

    def __iter__(self) -> StreamLoader:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            loader = DataLoader(
                _ProcessBatches(self),
                batch_size=None,
                collate_fn=_unchanged,
                num_workers=self.workers,
                # Without a generator of its own a loader draws from the global one, and a resumed run would differ.
                generator=torch.Generator().manual_seed(self.examples.seed),
                **self.options,
            )
            self._iterator = iter(loader)
        slot, position, batch = next(self._iterator)
        self.positions[slot] = Position(*position)
        self.batches += 1
        return batch

    def close(self) -> None:
        """Let the workers go; the next batch would start others at the same place."""
        self._iterator = None

    def settings(self) -> dict[str, Any]:
        """What must be the same for the order of the data to be."""
        examples, stream = self.examples, self.examples.stream
        shards = stream.source.n_shards
        readers = self.processes * len(self.positions)
        return {
            "processes": self.processes,
            "readers": len(self.positions),
            "batch_size": self.batch_size,
            "seed": examples.seed,
            "shuffle": examples.shuffle,
            "buffer": examples.buffer,
            "shards": shards,
            "parts": parts_of_a_shard(shards, readers, stream.counts),
        }

    def passes(self) -> int:
        """Passes that all readers of this process have finished."""
        settings = self.settings()
        parts, readers = settings["shards"] * settings["parts"], self.processes * len(self.positions)
        starts = (slot * self.processes + self.process for slot in range(len(self.positions)))
        return min((start + at.turn * readers) // parts for start, at in zip(starts, self.positions, strict=True))

    def start_from(self, positions: Tensor, batches: int) -> None:
        """Go on after `batches` batches, with readers at `positions` (readers, 4)."""
        self.close()
        self.positions = [Position(*row) for row in positions.tolist()]
        self.batches = batches

    def load_state(self, state: Mapping[str, Any]) -> None:
        """
        Go on where the stream of a checkpoint stood.

        Raises:
            ValueError: If it was read with other settings, or the state is not that of a stream.
        """
        saved, now = take(state, "stream.settings"), self.settings()
        for name, option in _SETTINGS.items():
            if saved.get(name) != now[name]:
                raise ValueError(
                    f"The checkpoint's run read its stream with {option} = {saved.get(name)}, this one has {now[name]}: the "
                    "rows would be dealt out or ordered otherwise, and some seen twice or never; resume with the same, or "
                    "start a new run from its weights."
                )
        self.start_from(take(state, "stream.positions")[self.process], take(state, "stream.batches"))


def streamed_examples(benchmark: Benchmark, processor: Any, args: Any, **options) -> StreamingExamples:
    """
    Make training examples of a streamed benchmark, as the arguments of a run ask.

    Args:
        benchmark ([`Benchmark`]): The data.
        processor (`Any`): The checkpoint's processor.
        args ([`~hf_robustft.RobustTrainingArguments`]): Settings of the run.
        options (`Any`, *optional*): As for `StreamingExamples.from_benchmark`.

    Returns:
        [`StreamingExamples`]: The examples.

    Raises:
        ValueError: As `check_stream`.
    """
    examples = StreamingExamples.from_benchmark(
        benchmark,
        processor,
        seed=args.seed if args.data_seed is None else args.data_seed,
        shuffle=args.train_sampling_strategy != "sequential",
        **options,
    )
    check_stream(examples, args)
    return examples


def check_stream(dataset: Any, args: Any) -> None:
    """
    Refuse streams that cannot be trained on as the arguments ask; other data sets pass.

    Args:
        dataset (`Any`): The training set.
        args ([`~hf_robustft.RobustTrainingArguments`]): Settings of the run.

    Raises:
        ValueError: For a stream of `datasets`; a data set that several processes would iterate each for itself; a pass of
            unknown length without `max_steps`; a set smaller than a global batch; a sampling strategy that needs the whole
            set.
    """
    if isinstance(dataset, datasets.IterableDataset):
        raise ValueError(
            "A stream of `datasets` cannot be resumed exactly, nor divided evenly among processes and workers; give its "
            "files or Hub id as `load_benchmark(..., streaming=True)`."
        )
    config = getattr(args, "accelerator_config", None)
    if (
        isinstance(dataset, IterableDataset)
        and world_size() > 1
        and getattr(config, "dispatch_batches", None) is False
    ):
        raise ValueError(
            "`dispatch_batches=False` would fill the last batch of each pass with examples from its beginning; leave it out, "
            "and the first process reads for all."
        )
    if not isinstance(dataset, StreamingExamples):
        return
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"`train_sampling_strategy={args.train_sampling_strategy!r}` is not available for streams; use 'random' or "
            "'sequential'."
        )
    if dataset.size is None and args.max_steps <= 0:
        raise ValueError(
            f"Nobody says how many rows {dataset.stream.where} has or keeps, so {args.num_train_epochs:g} passes have no "
            "known length; give --max_steps."
        )
    global_batch = args.per_device_train_batch_size * world_size()
    if dataset.size is not None and dataset.size < global_batch:
        raise ValueError(
            f"The training set has {dataset.size} examples, fewer than one global batch of {global_batch}; set "
            f"--per_device_train_batch_size to {max(1, dataset.size // world_size())} or less."
        )


def _unchanged(batch: Any) -> Any:
    return batch
