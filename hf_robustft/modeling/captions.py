# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Which captions a text tower has to see: each once, no longer than needed, and none that it has seen before.

CLIP's text tower is causal and is read at the end-of-text token, so its feature of a caption depends on the tokens up
to that one alone: not on padding, nor on the other captions of a batch. Two rows that agree so far are one caption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: `eos_token_id` of checkpoints converted before it was put right; the tower then reads the highest token id.
_LEGACY_END_OF_TEXT = 2


def pad_captions(parts: Sequence[Tensor], padding: int) -> Tensor:
    """
    Captions of several tables in one, as wide as the widest.

    Args:
        parts (sequence of `torch.Tensor` of shape `(texts, length)`): Token ids.
        padding (`int`): What follows the shorter ones.

    Returns:
        `torch.Tensor` of shape `(all texts, longest)`.
    """
    width = max(part.shape[1] for part in parts)
    return torch.cat([F.pad(part, (0, width - part.shape[1]), value=padding) for part in parts])


def end_positions(input_ids: Tensor, end_of_text: int) -> Tensor:
    """
    The position at which the text tower of `CLIPModel` reads each caption.

    Args:
        input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids.
        end_of_text (`int`): `text_config.eos_token_id`.

    Returns:
        `torch.Tensor` of shape `(texts,)`: The first end-of-text token; 0 where there is none, as `CLIPModel` has it;
        the highest id where the configuration says 2, the value of old conversions.
    """
    if end_of_text == _LEGACY_END_OF_TEXT:
        return input_ids.int().argmax(dim=-1)
    return (input_ids == end_of_text).int().argmax(dim=-1)


def caption_keys(input_ids: Tensor, end_of_text: int) -> list[bytes]:
    """
    What identifies each caption: its tokens up to the one that is read.

    Args:
        input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids on any device; copied to the host once.
        end_of_text (`int`): `text_config.eos_token_id`.

    Returns:
        List of `bytes`, eight a token; equal for two captions if and only if the text tower cannot tell them apart.
    """
    ends = end_positions(input_ids, end_of_text)
    table = torch.cat([ends[:, None], input_ids], dim=1).long().cpu().numpy()
    return [row[1 : row[0] + 2].tobytes() for row in table]


def _longest(keys: Sequence[bytes]) -> int:
    return max(len(key) for key in keys) // 8


@dataclass(frozen=True)
class DistinctCaptions:
    """
    The captions of a batch, each once.

    Attributes:
        input_ids (`torch.Tensor` of shape `(distinct, length)`): Token ids to encode.
        rows (`torch.Tensor` of shape `(texts,)`, *optional*): The row of `input_ids` that each text of the batch is;
            `None` if they are the rows in order.
    """

    input_ids: Tensor
    rows: Tensor | None = None

    def spread(self, features: Tensor) -> Tensor:
        """
        The features of every text from those of the distinct ones, with gradient.

        Args:
            features (`torch.Tensor` of shape `(distinct, dim)`).

        Returns:
            `torch.Tensor` of shape `(texts, dim)`: Copies; each distinct feature collects the sum of their gradients.
        """
        if self.rows is None:
            return features
        # The same numbers both ways, but each sums its gradients in a fixed order on one kind of device only, and a
        # resumed run must repeat every bit: the CPU adds into an index in any order, CUDA into a selection.
        if features.device.type == "cpu":
            return features.index_select(0, self.rows)
        return features[self.rows]


def distinct_captions(input_ids: Tensor, end_of_text: int, fixed_shapes: bool = False) -> DistinctCaptions:
    """
    Each caption of a batch once, in order of appearance, cut after the longest.

    Args:
        input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids, at least one row.
        end_of_text (`int`): `text_config.eos_token_id`.
        fixed_shapes (`bool`, *optional*, defaults to `False`): Keep the length, and fill the number of rows up to a
            multiple of 8 (no further than `texts`) by repeating one: for compiled models, which are compiled anew for
            new shapes.

    Returns:
        [`DistinctCaptions`]
    """
    keys = caption_keys(input_ids, end_of_text)
    numbers: dict[bytes, int] = {}
    rows, chosen = [], []
    for position, key in enumerate(keys):
        number = numbers.setdefault(key, len(numbers))
        if number == len(chosen):
            chosen.append(position)
        rows.append(number)
    if fixed_shapes:
        wanted = min(-(-len(chosen) // 8) * 8, len(keys))
        chosen += chosen[:1] * (wanted - len(chosen))
    else:
        input_ids = input_ids[:, : _longest(keys)]
    if len(chosen) == len(keys):
        return DistinctCaptions(input_ids)
    device = input_ids.device
    return DistinctCaptions(input_ids[torch.tensor(chosen, device=device)], torch.tensor(rows, device=device))


class CaptionMemory:
    """
    Text features of one model, kept as long as its weights do not change.

    Whoever changes the weights calls `clear`. Features that are found again were computed in another batch: they equal
    fresh ones up to rounding.

    Args:
        capacity (`int`): Captions kept. A full memory keeps what it has; others are computed each time.

    Raises:
        ValueError: If `capacity` is negative.
    """

    def __init__(self, capacity: int):
        if capacity < 0:
            raise ValueError(f"A memory of {capacity} captions cannot be; give 0 or more.")
        self.capacity = capacity
        self.clear()

    def __len__(self) -> int:
        return len(self._rows)

    def clear(self) -> None:
        """Forget all captions."""
        self._rows: dict[bytes, int] = {}
        self._features: Tensor | None = None

    @torch.no_grad()
    def features(self, input_ids: Tensor, end_of_text: int, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """
        The features of captions; those not known yet are encoded, each once, and remembered.

        Args:
            input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids.
            end_of_text (`int`): `text_config.eos_token_id`.
            encode (callable): From token ids `(new texts, length)` to features `(new texts, dim)`; not called if all
                are known.

        Returns:
            `torch.Tensor` of shape `(texts, dim)`, without gradient.
        """
        keys = caption_keys(input_ids, end_of_text)
        new: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            if key not in self._rows:
                new.setdefault(key, row)
        sources = [] if self._features is None else [self._features]
        if new:
            chosen = torch.tensor(list(new.values()), device=input_ids.device)
            sources.append(encode(input_ids[chosen, : _longest(list(new))]))
        rows = {**self._rows, **{key: len(self._rows) + number for number, key in enumerate(new)}}
        features = torch.cat(sources)
        if new and len(self._rows) < self.capacity:
            # A copy, for a part would hold the whole.
            self._features = features if len(rows) <= self.capacity else features[: self.capacity].clone()
            self._rows = {key: row for key, row in rows.items() if row < self.capacity}
        return features[torch.tensor([rows[key] for key in keys], device=features.device)]
