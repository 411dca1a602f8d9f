# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Training images that could not be read: of all processes, before and after a resume, and what a card says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from accelerate.utils import gather_object

from ..data.bad_images import NAMED, BadImages
from ..data.messages import unreadable_note, without_folders
from ..modeling.feature_cache import CachedFeatures
from .distributed import world_size

#: In the state of a checkpoint.
_STATE = "images.unreadable"


def with_names(notes: Sequence[str], unreadable: Iterable[str]) -> list[str]:
    """For the terminal: `notes` ([`unreadable_note`]), and the first of the lines of `unreadable`."""
    lines = [without_folders(line) for line in unreadable]
    more = f"; and {len(lines) - NAMED:,} more" if len(lines) > NAMED else ""
    return [f"{note.removesuffix('.')}: {'; '.join(lines[:NAMED])}{more}." for note in notes]


class UnreadableImages:
    """
    The part of `RobustTrainer` that knows which training images could not be read.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes, as the base of [`TrainingPasses`], which counts.
    """

    #: One line for each, since the run began; of all processes at the end of training.
    unreadable_images: Sequence[str] = ()
    _unreadable_before: Sequence[str] = ()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.unreadable_images = self._unreadable_before = ()
        result = super().train(*args, **kwargs)
        self.unreadable_images = self.gather_unreadable_images()
        return result

    @property
    def _unread(self) -> BadImages | None:
        data = self.train_dataset
        return data.left_out if isinstance(data, CachedFeatures) else getattr(data, "bad_images", None)

    def gather_unreadable_images(self) -> list[str]:
        """One line for each training image that could not be read in any process; all of them come here."""
        found = [] if self._unread is None else list(self._unread.unreadable)
        if world_size() > 1:
            found = gather_object(found)
        return _once([*self._unreadable_before, *found])

    def unreadable_record(self) -> dict[str, Any] | None:
        """For `robustft.json`; `None` if all could be read."""
        if not self.unreadable_images:
            return None
        total = None if self._unread is None else self._unread.total
        record = {"count": len(self.unreadable_images), "of": total, "left_out": isinstance(self.train_dataset, CachedFeatures)}
        return {name: value for name, value in record.items() if value is not None}

    def unreadable_notes(self) -> list[str]:
        """For the card."""
        return unreadable_note(self.unreadable_record())

    def said_of_unreadable_images(self) -> list[str]:
        """For the terminal, with the first of them by name."""
        return with_names(self.unreadable_notes(), self.unreadable_images)

    def extra_state(self) -> dict[str, Any]:
        state, found = super().extra_state(), self.gather_unreadable_images()
        return {**state, _STATE: found} if found else state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        found = state.get(_STATE, [])
        if not (isinstance(found, list) and all(isinstance(line, str) for line in found)):
            raise ValueError(f"The checkpoint's `{_STATE}` is {found!r}, and not a list of lines; resume from another checkpoint.")
        # The best checkpoint, which is loaded at the end, knows fewer.
        self._unreadable_before = _once([*self._unreadable_before, *found])


def _once(lines: Iterable[str]) -> list[str]:
    """A line for each image: on another machine its folder is another, and with other versions the reason reads otherwise."""
    images: dict[str, str] = {}
    for line in map(without_folders, lines):
        images.setdefault(line.partition(": ")[0], line)
    return list(images.values())
