# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which of some known images are nearest to a new one, by the cosine of their embeddings; with small pictures of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.bad_images import BadImages
from ..data.benchmark import Benchmark
from ..data.images import UnreadableImage
from ..data.thumbnails import file_names, thumbnail
from ..modeling.tensor_files import opened, write_tensors
from .pipeline import OpenSetImageClassificationPipeline
from .watch import measured

#: Images that are kept, by default and at most: 1,000 take some 6 MB.
IMAGES, MOST_IMAGES = 1000, 20_000
_ADDRESS = "data:image/webp;base64,"
_FORMAT = "hf_robustft nearest images 1"


@dataclass(frozen=True)
class Neighbour:
    """
    A known image.

    Attributes:
        similarity (`float`): The cosine of its embedding and that of the new image.
        name, label (`str`, *optional*): Its file and its class, where they are known.
        picture (`str`): A data URI.
    """

    similarity: float
    name: str | None
    label: str | None
    picture: str


@dataclass(frozen=True)
class NearestImages:
    """
    Known images, of which the nearest to a new one are found.

    Args:
        source (`str`): What the data set is called.
        embeds (`torch.Tensor` of shape `(images, embed_dim)`): Of unit norm, float32.
        names, labels (`Sequence[str | None]`): Of each image its file and its class.
        pictures (`Sequence[bytes]`): Of each image a small one, as WebP.
    """

    source: str
    embeds: Tensor
    names: Sequence[str | None]
    labels: Sequence[str | None]
    pictures: Sequence[bytes]

    @classmethod
    def read(
        cls,
        benchmark: Benchmark,
        classify: OpenSetImageClassificationPipeline,
        most: int = IMAGES,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        bad_images: BadImages | None = None,
        progress: bool = True,
    ) -> NearestImages:
        """
        Read images of a data set, evenly spread over its rows. Those that cannot be read are left out and logged.

        Args:
            benchmark ([`Benchmark`]): The data set.
            classify ([`OpenSetImageClassificationPipeline`]): Encodes them.
            most (`int`, *optional*, defaults to 1000): So many of them, at most.
            batch_size (`int`, *optional*, defaults to 32), num_workers (`int`, *optional*), bad_images ([`BadImages`], *optional*), progress
                (`bool`, *optional*): As for [`Evaluator`].

        Raises:
            ValueError: If the data are a stream, or no image can be read.
            OSError: If more images cannot be read than `bad_images` allows.
        """
        if benchmark.streaming:
            raise ValueError("`--streaming` reads data to their end, and a demo looks at some images of them; leave it out.")
        stored = benchmark.stored_rows()
        rows = spread(len(stored), most)
        bad_images = (bad_images or BadImages()).of(f"the data set {benchmark.name!r}", len(rows))
        settings = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
        pairs = ((str(row), stored[row][0]["image"]) for row in rows)
        batches = list(measured(classify, pairs, len(rows), benchmark.name, settings))
        found = {int(name): embed for batch in batches for name, embed in zip(batch.names, batch.embeds, strict=True)}
        pictures: dict[int, bytes] = {}
        for row in found:
            example, where = stored[row]
            try:
                pictures[row] = base64.b64decode(thumbnail(example["image"], where).removeprefix(_ADDRESS))
            except UnreadableImage:
                continue
        left = [stored[row][1] for row in rows if row not in pictures]
        if left and not bad_images.skips:
            raise OSError(f"`--bad_images error`: the image of {left[0]} in {benchmark.name} cannot be read; mend or remove it.")
        if not pictures:
            raise ValueError(f"`--dataset {benchmark.name}` has no image that can be read.")
        bad_images.count(len(rows), left)
        kept = list(pictures)
        single = benchmark.label_column is not None and benchmark.class_names and not benchmark.several
        labels = [benchmark.class_names[stored[row][0]["label"]] if single else None for row in kept]
        return cls(benchmark.name, torch.stack([found[row] for row in kept]), file_names(benchmark, kept), labels, list(pictures.values()))

    def of(self, embed: Tensor, k: int) -> list[Neighbour]:
        """
        The nearest images, the nearest first; of equal ones the first.

        Args:
            embed (`torch.Tensor` of shape `(embed_dim,)`): Of the new image, of unit norm.
            k (`int`): So many of them, at most.
        """
        similarity = self.embeds @ embed.float().cpu()
        order = similarity.argsort(descending=True, stable=True)[:k].tolist()
        return [
            Neighbour(similarity[i].item(), self.names[i], self.labels[i], _ADDRESS + base64.b64encode(self.pictures[i]).decode()) for i in order
        ]

    def save(self, path: str | Path) -> Path:
        """Write all of it into one safetensors file (`path`), which is returned."""
        facts = {"format": _FORMAT, "source": self.source, "names": json.dumps(list(self.names)), "labels": json.dumps(list(self.labels))}
        ends = torch.tensor([len(picture) for picture in self.pictures]).cumsum(0)
        pictures = torch.frombuffer(bytearray(b"".join(self.pictures)), dtype=torch.uint8)
        return write_tensors(path, {"embeds": self.embeds, "ends": ends, "pictures": pictures}, facts)

    @classmethod
    def load(cls, path: str | Path) -> NearestImages:
        """
        Read what [`~NearestImages.save`] wrote.

        Args:
            path (`str` or `Path`): The file.

        Raises:
            OSError: If there is no such file, or it cannot be read.
            ValueError: If it holds something else.
        """
        with opened(path) as file:
            facts, names = file.metadata() or {}, set(file.keys())
            if names != {"embeds", "ends", "pictures"}:
                raise _damaged(path)
            embeds, ends, pictures = (file.get_tensor(name) for name in ("embeds", "ends", "pictures"))
        return cls._checked(path, facts, embeds, ends, pictures)

    @classmethod
    def _checked(cls, path: str | Path, facts: Mapping[str, Any], embeds: Tensor, ends: Tensor, pictures: Tensor) -> NearestImages:
        try:
            names, labels = (json.loads(facts[name]) for name in ("names", "labels"))
        except (KeyError, ValueError, RecursionError):
            raise _damaged(path) from None
        n = embeds.shape[0] if embeds.dim() == 2 else 0
        lists = all(
            isinstance(words, list) and len(words) == n and all(isinstance(word, (str, type(None))) for word in words) for words in (names, labels)
        )
        kinds = (embeds.dtype, ends.dtype, pictures.dtype) == (torch.float32, torch.int64, torch.uint8)
        if facts.get("format") != _FORMAT or not lists or not kinds or not 0 < n <= MOST_IMAGES or ends.shape != (n,) or pictures.dim() != 1:
            raise _damaged(path)
        starts = [0, *ends.tolist()]
        if any(a > b for a, b in zip(starts, starts[1:], strict=False)) or starts[-1] != len(pictures) or not embeds.isfinite().all():
            raise _damaged(path)
        content = pictures.numpy().tobytes()
        return cls(str(facts.get("source", "")), embeds, names, labels, [content[a:b] for a, b in zip(starts, starts[1:], strict=False)])


def spread(total: int, most: int) -> list[int]:
    """Numbers of rows, `most` of them at most, evenly spread over a `total`."""
    return np.unique(np.linspace(0, total - 1, min(most, total)).round().astype(int)).tolist() if total else []


def _damaged(path: str | Path) -> ValueError:
    return ValueError(f"{path} does not hold nearest images as hf-robustft demo --space writes them; write the Space again.")
