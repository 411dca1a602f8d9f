# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Training images that could not be read: of all processes, before and after a resume, and what a card says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from accelerate.utils import gather_object

from ..data.images import NAMED
from ..modeling.feature_cache import CachedFeatures
from .distributed import world_size

#: In the state of a checkpoint.
_STATE = "images.unreadable"


def unreadable_note(count: int, of: int | None, left_out: bool) -> list[str]:
    """
    What a card says of training images that could not be read.

    Args:
        count (`int`): How many.
        of (`int`, *optional*): Of how many; `None` if that is not known.
        left_out (`bool`): Whether they were left out of training; or others took their places.

    Returns:
        `list[str]`: A sentence, or none if all could be read.
    """
    if not count:
        return []
    images = f"{count:,} of the {of:,} training images" if of else f"{count:,} training {'image' if count == 1 else 'images'}"
    was, place = ("was", "another took its place") if count == 1 else ("were", "others took their places")
    return [f"{images} could not be read and {was} left out." if left_out else f"{images} could not be read; {place}."]


def with_names(notes: Sequence[str], unreadable: Iterable[str]) -> list[str]:
    """For the terminal: `notes` ([`unreadable_note`]), and the first of the lines of `unreadable`."""
    return [f"{note} {'; '.join([*unreadable][:NAMED])}." for note in notes]


class UnreadableImages:
    """
    The part of `RobustTrainer` that knows which training images could not be read.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes, as the base of [`TrainingPasses`], which counts.
    """

    #: One line for each, since the run began; of all processes at the end of training.
    unreadable_images: Sequence[str] = ()
    _unreadable_before: Sequence[str] = ()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        result = super().train(*args, **kwargs)
        self.unreadable_images = self.gather_unreadable_images()
        return result

    def gather_unreadable_images(self) -> list[str]:
        """One line for each training image that could not be read in any process; all of them come here."""
        counter = getattr(self.train_dataset, "bad_images", None)
        found = [] if counter is None else list(counter.unreadable)
        if world_size() > 1:
            found = gather_object(found)
        return list(dict.fromkeys([*self._unreadable_before, *found]))

    def unreadable_notes(self) -> list[str]:
        """For the card."""
        total = getattr(getattr(self.train_dataset, "bad_images", None), "total", None)
        return unreadable_note(len(self.unreadable_images), total, isinstance(self.train_dataset, CachedFeatures))

    def said_of_unreadable_images(self) -> list[str]:
        """For the terminal, with the first of them by name."""
        return with_names(self.unreadable_notes(), self.unreadable_images)

    def extra_state(self) -> dict[str, Any]:
        state, found = super().extra_state(), self.gather_unreadable_images()
        return {**state, _STATE: found} if found else state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        self._unreadable_before = state.get(_STATE, ())
