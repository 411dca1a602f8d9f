# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What is done about images that cannot be read.

A large collection of images always holds a few that are broken. By the policy "skip" they are left out of an evaluation
and replaced in training, counted and named, and the run stops when there are too many of them; by the policy "error" the
first one stops it. Images are read where the data loader's workers run; what could not be read travels in the batch
under the key `UNREADABLE` to the main process, which counts (`BadImages.take`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from .shares import floor_share

logger = logging.getLogger(__name__)

UNREADABLE = "unreadable"
"""Key of examples and batches: a list of one line for each image that could not be read."""
POLICIES = ("skip", "error")
DEFAULT_THRESHOLD = 0.01
NAMED = 20
"""Images that reports name; a log names the first 5."""
_STREAM_MINIMUM = 1000
_NO_NAME = "the data"


class BadImages:
    """The policy for images that cannot be read, and the count of them.

    By "skip", an evaluation leaves them out and training puts another image in their place. The run stops when their
    share is above the threshold: for a data set of known size as soon as those found are more than that share of the whole;
    for a stream, of the images read so far but at least of 1,000. A single one never stops a run. In training on several
    processes each process counts what it reads itself.

    Args:
        policy (`str`, *optional*, defaults to `"skip"`): `"skip"`, or `"error"`: the first unreadable image stops the run.
        threshold (`float`, *optional*, defaults to 0.01): Largest share of unreadable images that is allowed, above 0, at most 1.
        name (`str`, *optional*, defaults to `"the data"`): What messages call the data set.
        total (`int`, *optional*): Number of images in the data set; `None` if it is not known.

    Attributes:
        read (`int`): Images read so far, the unreadable ones included; in training, over all epochs.
        unreadable (`dict[str, int]`): By a line that describes each unreadable image, in the order in which they were met, how
            often it was met.

    Raises:
        ValueError: If the policy is another one, or the threshold is out of range.
    """

    def __init__(
        self,
        policy: str = "skip",
        threshold: float = DEFAULT_THRESHOLD,
        name: str = _NO_NAME,
        total: int | None = None,
    ):
        if policy not in POLICIES:
            raise ValueError(f"bad_images is {policy!r}; choose 'skip' or 'error'.")
        if not 0 < threshold <= 1:
            raise ValueError(
                f"bad_images_threshold is {threshold}; give a share above 0, at most 1 (bad_images='error' allows none)."
            )
        self.policy, self.threshold, self.name, self.total = policy, threshold, name, total
        self.read = 0
        self.unreadable: dict[str, int] = {}

    @property
    def skips(self) -> bool:
        """Whether unreadable images are skipped."""
        return self.policy == "skip"

    def of(self, name: str, total: int | None = None) -> BadImages:
        """The same policy for a data set called `name`, of `total` images if that is known, counted from 0."""
        return BadImages(self.policy, self.threshold, name, total)

    def bound(self, name: str, total: int) -> BadImages:
        """Return this counter, bound to a data set by its `name` and `total`. Raises ValueError if it counts another one."""
        if self.total not in (None, total):
            raise ValueError(
                f"these BadImages count the {self.total} images of {self.name} already, not the {total} of {name}; "
                "give each data set its own: bad_images.of(name)."
            )
        self.total = total
        if self.name == _NO_NAME:
            self.name = name
        return self

    def count(self, read: int, unreadable: Sequence[str]) -> None:
        """Add images that were read, or could not be; the first ones are logged.

        Args:
            read (`int`): Images read, the unreadable ones included.
            unreadable (`Sequence[str]`): One line for each that was unreadable.

        Raises:
            OSError: the share of unreadable images is above the threshold.
        """
        self.read += read
        for line in unreadable:
            if line not in self.unreadable and len(self.unreadable) < 5:
                logger.warning("Unreadable image in %s, skipped: %s", self.name, line)
            self.unreadable[line] = self.unreadable.get(line, 0) + 1
        if unreadable:
            self._check(max(self.read, _STREAM_MINIMUM) if self.total is None else self.total)

    def take(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Count a batch.

        Args:
            batch (`dict[str, Any]`): Tensors by name, as a collator made them; its list `UNREADABLE`, if there is one,
                is removed.

        Returns:
            `batch`.

        Raises:
            OSError: the share of unreadable images is above the threshold.
        """
        unreadable = batch.pop(UNREADABLE, [])
        rows = next((len(value) for value in batch.values() if hasattr(value, "shape") and value.ndim), 0)
        self.count(rows + len(unreadable), unreadable)
        return batch

    def add(self, others: Iterable[dict[str, Any]]) -> None:
        """Add the `state` of other counters, such as those of the other processes; raises OSError as `count` does."""
        for state in others:
            self.read += state["read"]
            for line, times in state["unreadable"].items():
                self.unreadable[line] = self.unreadable.get(line, 0) + times
        self.finish()

    def state(self) -> dict[str, Any]:
        """`read` and `unreadable`, for `add`."""
        return {"read": self.read, "unreadable": dict(self.unreadable)}

    def finish(self) -> None:
        """Judge what was counted when no more images will come. Raises OSError as `count` does, and where no image is left."""
        self._check(self.read if self.total is None else self.total)
        if self.unreadable and self.read == sum(self.unreadable.values()):
            raise OSError(f"No image of {self.name} can be read ({next(iter(self.unreadable))}); mend the data or leave the set out.")

    def _check(self, of: int) -> None:
        found = len(self.unreadable)
        if found > max(1, floor_share(self.threshold, of)):
            among = f"{self.read} images read" if self.total is None else f"{self.total} images"
            raise OSError(
                f"{found} of the {among} of {self.name} cannot be read, more than the {100 * self.threshold:g} % that "
                f"bad_images_threshold allows: {'; '.join(list(self.unreadable)[:3])}{'; ...' if found > 3 else ''}; "
                "mend or remove them, or give a higher bad_images_threshold (--bad_images_threshold)."
            )

    def summary(self) -> dict[str, Any]:
        """For reports: `count` of distinct unreadable images, `of` how many, and the `first` lines."""
        of = self.read if self.total is None else self.total
        return {"count": len(self.unreadable), "of": of, "first": list(self.unreadable)[:NAMED]}
