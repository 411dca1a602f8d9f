# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Before training: are images that a model is measured or tuned on among those that it is trained on?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..data.benchmarks import Benchmark
from ..data.examples import TrainingExamples
from ..data.messages import one_line, printable, say_once
from ..data.overlap import (
    CHOSEN_ON,
    SKETCH_SIZE,
    TEST_SKETCH_SIZE,
    TOLERATED,
    ImageHashes,
    Overlap,
    Sketch,
    compare,
    hash_images,
)
from ..data.streams.examples import StreamingExamples
from ..modeling.checkpoint_file import checkpoint_folder
from ..modeling.metadata import METADATA_FILE, load_robustft_json

#: Roles of the sets that a model is measured on, in the order in which a set is compared with those before it.
_MEASURED = ("id", "shift", "open_set")


@dataclass
class ImageCheck:
    """
    What a comparison of data sets by their images found.

    Attributes:
        overlaps (`list[Overlap]`): Sets with images that the model was trained or tuned on.
        repeats (`list[tuple[Overlap, str]]`): Pairs of sets to measure on that have common images, and what follows from that.
        hashes (`list[dict]`): For `robustft.json`: by which a later check recognises the images of each set.
    """

    overlaps: list[Overlap] = field(default_factory=list)
    repeats: list[tuple[Overlap, str]] = field(default_factory=list)
    hashes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """A sentence for each overlap, for the terminal and the card."""
        return [f"{found}; {follows}." for found, follows in self._found()]

    @property
    def shared(self) -> list[dict[str, Any]]:
        """The same for `shared_images` of a report."""
        return [_record(found, follows) for found, follows in self._found()]

    def _found(self) -> list[tuple[Overlap, str]]:
        return [(found, "what is measured on them says nothing about new images") for found in self.overlaps] + self.repeats


def check_images(
    train: Benchmark | Callable[[], ImageHashes | None] | None,
    others: Iterable[Benchmark],
    *,
    earlier: Iterable[Mapping[str, Any]] = (),
    allow_overlap: bool = False,
) -> ImageCheck:
    """
    Compare the images of the sets of a run: all others with the training set, test sets with the validation set and with
    one another.

    Images are told apart by their encoded bytes (see `data.overlap`). In several processes the main one reads them.

    Args:
        train ([`Benchmark`] or a function that returns [`ImageHashes`], *optional*): The training set.
        others (iterable of [`Benchmark`]): Sets to measure or tune on; those with the role `train` are meant to be what
            they are.
        earlier (`Iterable[Mapping[str, Any]]`, *optional*): `image_hashes` of the checkpoint that training starts
            from; what that was trained on counts as training images too.
        allow_overlap (`bool`, *optional*, defaults to `False`): Report an overlap that would be an error.

    Returns:
        [`ImageCheck`]

    Raises:
        ValueError: If more than 5 % of the images of a set, and more than a single picture, are among those of another that
            they must not be in.
        OSError: If a data set cannot be read.
    """
    state = PartialState()
    found: list[Any] = [None]
    if state.is_main_process:
        try:
            found[0] = _checked(train, [item for item in others if item.role != "train"], list(earlier))
        except (ValueError, OSError) as error:
            found[0] = error
    broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    check: ImageCheck = found[0]
    refused = [overlap for overlap in check.overlaps if not overlap.tolerable]
    if refused and not allow_overlap:
        more = f" ({len(refused)} such pairs)" if len(refused) > 1 else ""
        raise ValueError(
            f"{refused[0]}{more}, and only {100 * TOLERATED:g} % is allowed: numbers measured on them would say nothing "
            "about new images; give other images, or --allow_overlap to go on, which the card will say"
        )
    return check


def image_hashes_of(source: str | Path, revision: str | None = None) -> list[dict[str, Any]]:
    """
    Return what the `robustft.json` of a checkpoint says about its images; the `source` is a folder, or a Hub id with a `revision`;
    [] without one. Nothing that is made of its weights keeps its threshold, and the images which that was chosen on.
    """
    try:
        folder = checkpoint_folder(source, METADATA_FILE, revision=revision)
    except FileNotFoundError:
        return []
    except OSError as error:
        # Where the weights are in the cache, nothing else says it.
        say_once(f"{source}: its {METADATA_FILE} cannot be read, so that images which it has seen are not looked for in the data: {one_line(error)}")
        return []
    entries = load_robustft_json(folder).get("image_hashes", []) if (folder / METADATA_FILE).is_file() else []
    return [entry for entry in entries if entry["role"] != CHOSEN_ON]


def training_hashes(benchmark: Benchmark | None, examples: Any) -> ImageHashes | None:
    """Return the hashes of the images of a `benchmark` or of `examples` that a Trainer trains on, `None` if they are not known."""
    if benchmark is not None:
        return hash_images(benchmark, role="train")
    if isinstance(examples, TrainingExamples):
        rows = examples.rows
        return hash_images(rows.dataset, "the training data", "train", rows.image_column)
    if isinstance(examples, StreamingExamples):
        return hash_images(examples.stream, "the training data", "train")
    return None


def _checked(train: Any, others: Sequence[Benchmark], earlier: Sequence[Mapping[str, Any]]) -> ImageCheck:
    hashed = [hash_images(item) for item in others]
    train = hash_images(train, role="train") if isinstance(train, Benchmark) else train() if train else None
    trained = [Sketch.from_dict(entry) for entry in earlier if entry.get("role") == "train"]
    if train is not None:
        # Trained on the same images again: said once.
        trained = [item for item in trained if not np.isin(item.hashes, train.hashes).all()]
    check = ImageCheck()
    for known in [*([] if train is None else [train.sketch()]), *trained]:
        check.overlaps += [compare(images, known) for images in hashed]
    for tuned in hashed:
        if tuned.role == "validation":
            check.overlaps += [compare(images, tuned.sketch()) for images in hashed if images.role != "validation"]
    # Where nothing is trained, what the model was tuned on before.
    tuned_before = [] if train is not None else [Sketch.from_dict(entry) for entry in earlier if entry.get("role") in ("validation", CHOSEN_ON)]
    check.overlaps += [compare(images, known) for known in tuned_before for images in hashed if images.role != "validation"]
    check.overlaps = [overlap for overlap in check.overlaps if overlap.found]
    check.repeats = _repeats(hashed)
    kept = [*([] if train is None else [train.sketch(SKETCH_SIZE)]), *trained]
    check.hashes = [item.to_dict() for item in (*kept, *(item.sketch(TEST_SKETCH_SIZE) for item in hashed))]
    return check


def _record(found: Overlap, follows: str) -> dict[str, Any]:
    numbers = {name: getattr(found, name) for name in ("found", "compared", "images", "share", "at_least", "exact", "pictures")}
    return {"set": found.name, "with": found.of, **numbers, "first": list(map(printable, found.first)), "means": follows}


def _repeats(hashed: Sequence[ImageHashes]) -> list[tuple[Overlap, str]]:
    """What the sets to measure on have in common: said, not refused, for each number is right by itself."""
    measured = sorted((images for images in hashed if images.role in _MEASURED), key=lambda i: _MEASURED.index(i.role))
    said = []
    for place, images in enumerate(measured):
        for other in measured[:place]:
            found = compare(images, other.sketch())
            if found.found:
                said.append((found, _consequence(images.role, other.role)))
    return said


def _consequence(role: str, other: str) -> str:
    if role == other:
        return "the results on the two sets are not independent"
    if role == "open_set":
        return "open-set detection is measured on images that are also scored as those of known classes"
    return "so far the two are the same data, and their difference says nothing about a shift"
