# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Which images two data sets share, told by what is in the files and not by what they are called.

An image is known by a hash of its encoded bytes, as they lie in a file, a tar or a parquet file. So a copy is found
under any name, in any order, packed or not. An image that was encoded again (resized, or saved as another format) is
another image here: to find those, images would have to be decoded, and the near-equal ones compared.

>>> training, test = hash_images(train_set), hash_images(test_set)
>>> compare(test, training.sketch()).share
0.0

What a checkpoint remembers of its images is a `Sketch`: their smallest hashes, at most 4,096 of them. Of a set with no
more images than that it holds all; of a larger one enough to estimate which share of another set was among them. Of n
images, m copies stay unseen with a probability of about (1 - 4096 / n)^m: of 120 copies out of 50,000 images one time in
30,000, out of 1.3 million two times in three. A hash tells somebody who has an image whether it was used, and tells
nobody else anything.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from datasets import DownloadConfig, Image
from datasets.download.streaming_download_manager import xopen
from scipy.special import bdtrc, betaincinv

from .streams.rows import RowStream

if TYPE_CHECKING:
    from .benchmarks import Benchmark

HASH_BYTES = 6
HASH_SPACE = 1 << (8 * HASH_BYTES)
#: Hashes of the training set that are kept, in 32 kB.
SKETCH_SIZE = 4096
#: Of each set to measure on fewer: there are more such sets, and they are smaller.
TEST_SKETCH_SIZE = 1024
#: Images of a data set that are hashed; of a larger one this many, evenly spaced. Reading decides what it costs.
MOST_IMAGES = 50_000
#: Of a stream from elsewhere, whose images would have to be fetched twice.
MOST_FETCHED = 1_000
#: Above this share of copies a set is not said to have some, but refused.
TOLERATED = 0.05
_READERS = 8
_NAMED = 3
_WORDS = {
    **{"train": "training images", "validation": "validation images", "id": "test images", "shift": "test images"},
    "open_set": "open-set images",
    "unknown": "images that the threshold for unknown was chosen on, those",
}
#: The role of images of none of the classes on which something was chosen: like validation images, they are not to be measured on.
CHOSEN_ON = "unknown"
_CUT = "not all images are looked at"


@dataclass(frozen=True)
class Sketch:
    """
    What is kept of the images of a data set, to compare others with it later.

    Attributes:
        name, role (`str`): Of the data set.
        hashes (`np.ndarray`): uint64, ascending.
        bound (`int`): Every hash of the set below it is among `hashes`.
        read (`int`): Images that were looked at.
        images (`int`, *optional*): Images of the whole set, where it is known.
        labels (`str`, *optional*): As [`ImageHashes`] has them.
    """

    name: str
    role: str
    hashes: np.ndarray = field(repr=False)
    bound: int
    read: int
    images: int | None
    labels: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        packed = self.hashes.astype(">u8").tobytes()
        packed = b"".join(packed[start + 8 - HASH_BYTES : start + 8] for start in range(0, len(packed), 8))
        return {
            "name": self.name,
            "role": self.role,
            "images": self.images,
            "read": self.read,
            "bound": self.bound,
            "blake2b_48": base64.b64encode(packed).decode("ascii"),
            **({} if self.labels is None else {"labels": self.labels}),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Sketch:
        """
        From what `to_dict` gave.

        Raises:
            ValueError: If a part is missing or of the wrong kind.
        """
        try:
            packed = base64.b64decode(content["blake2b_48"], validate=True)
            parts = [packed[start : start + HASH_BYTES] for start in range(0, len(packed), HASH_BYTES)]
            hashes = np.array([int.from_bytes(part, "big") for part in parts], dtype=np.uint64)
            numbers = content["bound"], content["read"], content.get("images") or 0
            whole = all(type(number) is int and number >= 0 for number in numbers)
            texts = all(isinstance(content[key], str) for key in ("name", "role", *(("labels",) if "labels" in content else ())))
        except (KeyError, TypeError, AttributeError, binascii.Error) as error:
            raise ValueError(f"The hashes of a data set's images are incomplete ({error!r}).") from None
        if not whole or not texts or len(packed) % HASH_BYTES or (np.diff(hashes.astype(np.int64)) <= 0).any():
            raise ValueError("The hashes of a data set's images are damaged.")
        return cls(content["name"], content["role"], hashes, content["bound"], content["read"], content.get("images"), content.get("labels"))


@dataclass(frozen=True)
class ImageHashes:
    """
    The hashes of the images of a data set.

    Attributes:
        name, role (`str`): Of the data set.
        hashes (`np.ndarray`): uint64, below 2^48, in the order of the data, without images that cannot be read.
        where (`tuple[str, ...]`): Which image each of them is, for messages.
        read (`int`): Images that were looked at, the unreadable ones included.
        images (`int`, *optional*): Images of the whole set, where it is known.
        labels (`str`, *optional*): A digest of these images with the names of their classes, in whatever order they lie; `None` of a stream,
            and where classes are not read.
    """

    name: str
    role: str
    hashes: np.ndarray = field(repr=False)
    where: tuple[str, ...] = field(repr=False)
    read: int
    images: int | None
    labels: str | None = None

    def sketch(self, size: int | None = None) -> Sketch:
        """The `size` smallest different hashes, or all of them."""
        distinct = np.unique(self.hashes)
        kept = distinct if size is None else distinct[:size]
        bound = int(kept[-1]) + 1 if len(kept) < len(distinct) else HASH_SPACE
        return Sketch(self.name, self.role, kept, bound, self.read, self.images, self.labels)


@dataclass(frozen=True)
class Overlap:
    """
    The images that a data set shares with another.

    Attributes:
        name (`str`): The data set.
        of (`str`): Whose images it has, in words, such as "training images of 'photos'".
        found (`int`): Images of it that are among the other's.
        compared (`int`): Images that could be compared.
        images (`int`, *optional*): All images of it.
        share (`float`): Share of its images that are among the other's; an estimate unless `exact`.
        at_least (`float`): A lower bound of the share, at 99 % confidence; the share itself if `exact`. Where not all
            of the other's images were looked at, it takes them to be different ones.
        exact (`bool`): Whether all images of both were compared.
        pictures (`int`): Different ones among those found.
        first (`tuple[str, ...]`): The first of them.
    """

    name: str
    of: str
    found: int
    compared: int
    images: int | None
    share: float
    at_least: float
    exact: bool
    pictures: int
    first: tuple[str, ...] = ()

    @property
    def tolerable(self) -> bool:
        """
        Whether no more than `TOLERATED` of the images are shared, as far as can be told, or a single picture that is not
        all there is: a placeholder, or one of the ten images of a small set, is not the same data given twice.
        """
        return self.at_least <= TOLERATED or (self.pictures == 1 and self.share < 1)

    def __str__(self) -> str:
        first = f" (first: {', '.join(self.first)})" if self.first else ""
        if self.exact:
            return f"{self.found:,} of the {self.compared:,} images of {self.name!r} are {self.of}{first}"
        return (
            f"{self.found:,} of {self.compared:,} compared images of {self.name!r} are {self.of}, by "
            f"estimate {100 * self.share:.0f} % of the set{first}"
        )


def hash_images(
    source: Benchmark | datasets.Dataset | RowStream,
    name: str | None = None,
    role: str | None = None,
    image_column: str = "image",
    most: int = MOST_IMAGES,
) -> ImageHashes:
    """
    Hash the encoded images of a data set. No image is decoded; one that cannot be read is left out.

    Args:
        source ([`Benchmark`], `datasets.Dataset` or [`RowStream`]): The data, stored or streamed.
        name, role (`str`, *optional*): What to call it; by default as the benchmark.
        image_column (`str`, *optional*, defaults to `"image"`): Of a `datasets.Dataset`.
        most (`int`, *optional*, defaults to 50,000): Images to hash, evenly spaced, at least 1; of a stream that is not
            on this machine 1,000 at the most.

    Returns:
        [`ImageHashes`]

    Raises:
        ValueError, OSError: As [`Benchmark.open`].
    """
    # Whoever reads `robustft.json`, and its sketches, needs no torch.
    from .benchmarks import Benchmark

    class_names, labels = (), None
    if isinstance(source, Benchmark):
        name, role = name or source.name, role or source.role
        rows, class_names = source.open(), source.class_names
        if class_names and not source.streaming and rows.label_column is not None:
            labels = rows.dataset.with_format(None).select_columns([rows.label_column])[rows.label_column][:]
        source, image_column = (rows, "") if source.streaming else (rows.dataset, rows.image_column)
    if isinstance(source, RowStream):
        images, encoded = source.examples, _streamed(source, most)
    else:
        images, encoded = len(source), _stored(source, image_column, most)
    hashes, where, read, whole, labelled = [], [], 0, True, []
    chosen = () if labels is None else _spaced(images, most)
    with ThreadPoolExecutor(_READERS) as pool:
        for found, place in _in_turn(pool, encoded):
            if place is _CUT:
                whole = False
                continue
            read += 1
            if found is not None:
                hashes.append(found)
                where.append(place)
                of = [] if labels is None else labels[chosen[read - 1]]
                names = sorted(class_names[label] for label in (of if isinstance(of, Sequence) else [of]))
                labelled.append(f"{found:x} {names}")
    images = read if whole else images
    digest = None if labels is None else blake2b("\n".join(sorted(labelled)).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return ImageHashes(name or "the data", role or "train", np.array(hashes, np.uint64), tuple(where), read, images, digest)


def compare(images: ImageHashes, known: Sketch) -> Overlap:
    """
    Which images of one data set are among those of another.

    Args:
        images ([`ImageHashes`]): The set to judge.
        known ([`Sketch`]): The other.

    Returns:
        [`Overlap`]
    """
    comparable = np.flatnonzero(images.hashes < known.bound)
    shared = comparable[np.isin(images.hashes[comparable], known.hashes)]
    # Of a set of which some images were looked at, a copy is recognised with this probability.
    seen = min(1.0, known.read / known.images) if known.images else 1.0
    exact = known.bound == HASH_SPACE and known.images == known.read and images.images == images.read
    pictures = len(np.unique(images.hashes[shared]))
    at_least = _lower_bound(images, shared, known.bound, seen)
    share = min(1.0, len(shared) / len(comparable) / seen) if len(comparable) else 0.0
    return Overlap(
        name=images.name,
        of=f"{_WORDS.get(known.role, 'images')} of {known.name!r}",
        found=len(shared),
        compared=len(comparable) if not exact else images.read,
        images=images.images,
        share=max(share, at_least),
        at_least=share if exact else at_least,
        exact=exact,
        pictures=pictures,
        first=tuple(images.where[row] for row in shared[:_NAMED]),
    )


def _lower_bound(images: ImageHashes, shared: np.ndarray, bound: int, seen: float) -> float:
    """
    A lower bound of the share of images that are the other's, at 99 %; they are seen with a probability, below a bound.

    Copies of one picture are seen together or not at all, so different pictures are counted. At least shared are those
    that were found, with all their copies, and those that must have been missed, with as few copies as any picture of the
    set has; and the share of the pictures that could be compared, with as few copies each. Both hold at 99.5 %.
    """
    if not len(shared):
        return 0.0
    total = len(images.hashes)
    pictures, copies = np.unique(images.hashes, return_counts=True)
    found, comparable = len(np.unique(images.hashes[shared])), int((pictures < bound).sum())
    missed = fewest_trials(found, len(pictures), seen * bound / HASH_SPACE, 0.995) - found
    by_number = len(shared) + missed * int(copies.min())
    by_share = min(1.0, lowest_share(found, comparable, 0.995) / seen) * len(pictures) * int(copies.min())
    at_least = min(1.0, max(by_number, by_share) / total)
    return at_least if images.images == images.read else lowest_share(int(at_least * total), total)


def fewest_trials(count: int, most: int, p: float, confidence: float = 0.99) -> int:
    """
    A lower bound of the number of trials of which `count` were successes.

    Args:
        count (`int`): Successes.
        most (`int`): Trials there may have been at the most.
        p (`float`): Probability of a success, above 0.
        confidence (`float`, *optional*, defaults to 0.99): How often the bound must hold.

    Returns:
        `int`: The smallest number with which that many successes are at least as likely as `1 - confidence`.
    """
    if not count or p >= 1:
        return count
    low, high = count, max(count, most)
    while low < high:
        middle = (low + high) // 2
        if bdtrc(count - 1, middle, p) > 1 - confidence:
            high = middle
        else:
            low = middle + 1
    return low


def lowest_share(count: int, n: int, confidence: float = 0.99) -> float:
    """Return Clopper and Pearson's (1934) one-sided lower bound, at a `confidence`, of a share of which `count` of `n` is a sample."""
    return float(betaincinv(count, n - count + 1, 1 - confidence)) if count else 0.0


def _stored(dataset: datasets.Dataset, image_column: str, most: int) -> Iterator[tuple[dict | None, str]]:
    """Encoded images of at most `most` evenly spaced rows, and which they are; `_CUT` if these are not all."""
    rows = dataset.with_format(None).select_columns([image_column])
    rows = rows.cast_column(image_column, Image(decode=False))
    chosen = _spaced(len(rows), most)
    if len(chosen) < len(rows):
        rows = rows.select(chosen)
        yield None, _CUT
    for row, example in zip(chosen, rows, strict=True):
        yield example[image_column], _called(example[image_column], f"row {row}")


def _streamed(stream: RowStream, most: int) -> Iterator[tuple[dict | None, str]]:
    """As `_stored`, of a stream: every n-th row of all shards here, the first rows of evenly spaced shards elsewhere."""
    most = most if stream.local else min(most, MOST_FETCHED)
    shards = _spaced(stream.source.n_shards, most)
    each = -(-most // len(shards)) if len(shards) else 0
    step = 1
    if stream.local and stream.shuffles_in_windows and stream.examples:
        # Rows often lie in the order of their classes, so the first ones would be of few classes.
        step, each = -(-stream.examples // most), most
    if len(shards) < stream.source.n_shards or step > 1:
        yield None, _CUT
    for shard in shards:
        taken = 0
        for row, example in stream.rows(shard, 0, step, 0):
            if example is None:
                continue
            if taken == each:
                yield None, _CUT
                break
            taken += 1
            yield example["image"], _called(example["image"], f"row {row} of shard {shard}")


def _spaced(total: int, most: int) -> Sequence[int]:
    return range(total) if total <= most else np.linspace(0, total - 1, most).round().astype(int).tolist()


def _called(encoded: dict | None, row: str) -> str:
    path = (encoded or {}).get("path")
    return f"{row} ({os.path.basename(str(path))})" if path else row


def _in_turn(pool: ThreadPoolExecutor, encoded: Iterable[tuple[dict | None, str]]) -> Iterator[tuple[int | None, str]]:
    """Hashes in order, read by several threads, a few hundred images at a time."""
    waiting: list[tuple[dict | None, str]] = []
    for item in encoded:
        waiting.append(item)
        if len(waiting) == 32 * _READERS:
            yield from zip(
                pool.map(_hash, [image for image, _ in waiting]), [place for _, place in waiting], strict=True
            )
            waiting = []
    yield from zip(pool.map(_hash, [image for image, _ in waiting]), [place for _, place in waiting], strict=True)


def _hash(encoded: dict | None) -> int | None:
    """The hash of an encoded image; None for one that is missing, empty, or cannot be read."""
    if encoded is None:
        return None
    content, path = encoded.get("bytes"), encoded.get("path")
    if content is None and path is not None:
        try:
            if "://" in path:
                with xopen(path, "rb", download_config=DownloadConfig()) as file:
                    content = file.read()
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    content = file.read()
        except OSError:
            return None
    return int.from_bytes(blake2b(content, digest_size=HASH_BYTES).digest(), "big") if content else None
