# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which reader gets which rows of a stream, and in which order: pure functions of seed, pass and reader.

The shards of all passes form one endless sequence, a new permutation of them for each pass, and are dealt out to the readers
in turn, so no reader gets ahead by more than the difference of shard sizes. Where there are fewer shards than readers, or one
shard is known to hold far more than a reader's share, each shard is cut into parts by row number (every n-th row), and the
parts are dealt out. A reader shuffles the rows of a pass in
windows: it fills a buffer, and gives the buffer's rows in a random order while it fills the next. So where a reader stands
is four small numbers (`Position`), from which it can go on without reading more than one window again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch

from .rows import RowStream

DEFAULT_BUFFER = 1000
#: How many times a reader's share of the rows a part of a shard may hold. Reading every shard in every reader costs more.
_UNEVEN = 1.25


class Position(NamedTuple):
    """Where a reader stands.

    Args:
        turn (`int`, *optional*, defaults to 0): Number of the part, in the reader's own sequence, in which the current
            window begins.
        row (`int`, *optional*, defaults to 0): Row of that part's shard from which the window was filled.
        window (`int`, *optional*, defaults to 0): Number of the window in its pass.
        taken (`int`, *optional*, defaults to 0): Rows of the window that were given.
    """

    turn: int = 0
    row: int = 0
    window: int = 0
    taken: int = 0


class Item(NamedTuple):
    """A row as a reader gives it: the pass, a number that no other row has, which row that is in words, the example."""

    epoch: int
    index: int
    where: str
    example: dict


def parts_of_a_shard(shards: int, readers: int, counts: Sequence[int] | None = None) -> int:
    """
    Return into how many parts each of `shards` is cut so that each of `readers` gets one in every pass.

    Where a part would hold far more than a reader's share of the rows, by their `counts` in each shard, every reader gets a
    part of every shard: with whole shards, some would read a short one again and again while another reads a long one.
    """
    parts = -(-readers // shards)
    longest = max(counts or (0,))
    if longest >= readers and longest / parts > _UNEVEN * sum(counts) / readers:
        return readers
    return parts


def permutation(size: int, seed: int, *what: object) -> np.ndarray:
    """Return a random order of `size` things that depends only on the `seed` and the purpose (`what`)."""
    digest = blake2b(":".join(map(str, (int(seed), *what))).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
    return torch.randperm(size, generator=generator).numpy()


class Reader:
    """One of several readers that share a stream: its endless sequence of rows.

    Args:
        stream ([`RowStream`]): The rows.
        reader (`int`, *optional*, defaults to 0), readers (`int`, *optional*, defaults to 1): Which of how many
            readers this is.
        seed (`int`, *optional*, defaults to 0): Seed of the order.
        shuffle (`bool`, *optional*, defaults to `True`): A new order in each pass, or that of the data.
        buffer (`int`, *optional*, defaults to `DEFAULT_BUFFER`): Rows that are shuffled at once; each is held encoded,
            in memory. Rows that can be asked for by number are all shuffled at once and need none.
        position ([`Position`], *optional*): Where to go on (default: the beginning).

    Raises:
        ValueError: `reader` is none of the `readers`, a buffer below 1, or a stream without shards.
    """

    def __init__(
        self,
        stream: RowStream,
        reader: int = 0,
        readers: int = 1,
        *,
        seed: int = 0,
        shuffle: bool = True,
        buffer: int = DEFAULT_BUFFER,
        position: Position | None = None,
    ):
        if not 0 <= reader < readers or buffer < 1:
            raise ValueError(
                f"reader {reader} of {readers}, buffer {buffer}: give 0 <= reader < readers and 1 or more."
            )
        if stream.source.n_shards < 1:
            raise ValueError(f"{stream.where} is empty: it has no shards; check the path, the split and any pattern.")
        self.stream, self.reader, self.readers, self.seed, self.shuffle = stream, reader, readers, seed, shuffle
        self.shards = stream.source.n_shards
        self.parts = parts_of_a_shard(self.shards, readers, stream.counts)
        self.buffer = buffer if shuffle and stream.shuffles_in_windows else 1
        self.position = Position() if position is None else position
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def slot(self, turn: int) -> tuple[int, int, int]:
        """Pass, shard and part of the reader's `turn`-th part."""
        epoch, place = divmod(self.reader + turn * self.readers, self.shards * self.parts)
        shard, part = divmod(place, self.parts)
        if self.shuffle:
            if self._order[0] != epoch:
                self._order = epoch, permutation(self.shards, self.seed, epoch, "shards")
            shard = int(self._order[1][shard])
        return epoch, shard, part

    def _rows(self, position: Position) -> Iterator[tuple[int, int, Item]]:
        """(turn, row, item) of every row from the beginning of a window on."""
        turn, start, empty = position.turn, position.row, set()
        while True:
            epoch, shard, part = self.slot(turn)
            found = start > 0
            for row, example in self.stream.rows(shard, start, self.parts, part):
                if example is not None:
                    found = True
                    where = f"row {row} of shard {shard} of {self.stream.where}"
                    yield turn, row, Item(epoch, self.stream.source.row_id(shard, row), where, example)
            if not found:
                empty.add(shard)
                if len(empty) == self.shards:
                    raise ValueError(
                        f"reader {self.reader + 1} of {self.readers} found no row in any of the {self.shards} shards of "
                        f"{self.stream.where}: all rows are left out, or there are fewer than readers; check the classes "
                        "and domains, or use fewer --dataloader_num_workers and processes."
                    )
            turn, start = turn + 1, 0

    def __iter__(self) -> Iterator[tuple[Position, Item]]:
        """Rows without end, each with the position after it."""
        turn, row, window, skip = self.position
        rows = self._rows(self.position)
        ahead = next(rows)
        coming: list[tuple[int, int, Item]] = []
        while True:
            current = coming
            while len(current) < self.buffer and (not current or ahead[2].epoch == current[0][2].epoch):
                current.append(ahead)
                ahead = next(rows)
            items: list[Item | None] = [item for _, _, item in current]
            order = range(len(items))
            if self.shuffle and len(items) > 1:
                what = (items[0].epoch, self.readers, self.reader, window, "window")
                order = permutation(len(items), self.seed, *what).tolist()
            epoch, coming = items[0].epoch, []
            for taken, place in enumerate(order):
                if taken >= skip:
                    item, items[place] = items[place], None
                    yield Position(turn, row, window, taken + 1), item
                # The next window fills as this one empties, so that reading never stops to fill a whole one.
                if len(coming) < self.buffer and (not coming or ahead[2].epoch == coming[0][2].epoch):
                    coming.append(ahead)
                    ahead = next(rows)
            skip = 0
            turn, row = coming[0][:2]
            window = window + 1 if coming[0][2].epoch == epoch else 0
