# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Which captions a text tower has to see: each once, no longer than needed, and none that it has seen before.

A caption's feature depends on its tokens up to the last one that counts ([`CaptionRules`]): two rows that agree so far are
one caption.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.prompts import check_class_names, check_templates, fill_template
from .caption_rules import CaptionRules

#: What tokenizers say that know no limit is far above it.
_NO_LIMIT = 1_000_000
#: Characters of a name or prompt that a message shows.
_SHOWN = 60
#: The tokens of beginning and end.
_FRAME = 2


def pad_captions(parts: Sequence[Tensor], padding: int | None, least: int = 0) -> Tensor:
    """
    Captions of several tables in one, as wide as the widest.

    Args:
        parts (sequence of `torch.Tensor` of shape `(texts, length)`): Token ids.
        padding (`int` or `None`): What follows the shorter ones; 0 for a model that names none.
        least (`int`, *optional*, defaults to 0): Tokens that rows have at least.

    Returns:
        `torch.Tensor` of shape `(all texts, longest)`.
    """
    width = max(least, *(part.shape[1] for part in parts))
    return torch.cat([F.pad(part, (0, width - part.shape[1]), value=padding) for part in parts])


def caption_keys(input_ids: Tensor, rules: CaptionRules) -> list[bytes]:
    """
    What identifies each caption: its tokens up to the last one that counts.

    Args:
        input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids on any device; copied to the host once.
        rules ([`CaptionRules`]): How the model reads captions.

    Returns:
        List of `bytes`, eight a token; equal for two captions if and only if the text tower cannot tell them apart.
    """
    ends = rules.end_positions(input_ids)
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


def distinct_captions(input_ids: Tensor, rules: CaptionRules, fixed_shapes: bool = False) -> DistinctCaptions:
    """
    Each caption of a batch once, in order of appearance, cut after the longest.

    Args:
        input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids, at least one row.
        rules ([`CaptionRules`]): How the model reads captions.
        fixed_shapes (`bool`, *optional*, defaults to `False`): Keep the length, and fill the number of rows up to a
            multiple of 8 (no further than `texts`) by repeating one: for compiled models, which are compiled again for
            new shapes.

    Returns:
        [`DistinctCaptions`]
    """
    keys = caption_keys(input_ids, rules)
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
    def features(self, input_ids: Tensor, rules: CaptionRules, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """
        The features of captions; those not known yet are encoded, each once, and remembered.

        Args:
            input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids.
            rules ([`CaptionRules`]): How the model reads captions.
            encode (`Callable`): From token ids `(new texts, length)` to features `(new texts, dim)`; not called if all
                are known.

        Returns:
            `torch.Tensor` of shape `(texts, dim)`, without gradient.
        """
        keys = caption_keys(input_ids, rules)
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


def check_class_prompts(tokenizer, class_names: Sequence[str], templates: Sequence[str], rules: CaptionRules) -> None:
    """
    Refuse classes whose prompts are the same tokens: the model could not tell them apart, whatever it has learned.

    Names that are cut because a prompt is longer than the model reads, and names and templates with characters that the
    tokenizer does not know, are named in a warning.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The model's tokenizer, or a processor that holds one.
        class_names (sequence of `str`): One name per class.
        templates (sequence of `str`): Prompt templates with one `{}` each.
        rules ([`CaptionRules`]): How the model reads captions.

    Raises:
        ValueError: If two classes have equal tokens in every template, or the tokenizer is not the model's.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    rules.check_tokenizer(tokenizer)
    names, templates = check_class_names(class_names), check_templates(templates)

    def keys(template: str, chosen: Sequence[str]) -> list[bytes]:
        texts = [fill_template(template, name) for name in chosen]
        table = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")["input_ids"]
        return caption_keys(table, rules)

    # The shortest leaves the names most room: what differs there is told apart by one template at least.
    shortest = min(templates, key=len)
    first: dict[bytes, str] = {}
    for name, key in zip(names, keys(shortest, names), strict=True):
        earlier = first.setdefault(key, name)
        if earlier != name and all(len(set(keys(template, (earlier, name)))) == 1 for template in templates):
            cut = _cut(tokenizer, shortest, (earlier, name))
            reason = (
                f"both are cut to the {_limit(tokenizer)} tokens that the model reads; shorten them"
                if len(cut) == 2
                else "its tokenizer knows neither; rename them, or take a model that reads them"
                if len(_unknown(tokenizer, (earlier, name))) == 2
                else "its tokenizer knows no difference; rename one"
            )
            raise ValueError(
                f"The classes {earlier!r} and {name!r} give the model the same prompt, such as "
                f"{_shortened(fill_template(shortest, name))}: {reason}"
            )
    for what, texts in (("class names", names), ("templates", [template.replace("{}", "") for template in templates])):
        unknown = _unknown(tokenizer, texts)
        if unknown:
            warnings.warn(
                f"{len(unknown)} of {len(texts)} {what} hold something that the model's tokenizer does not know ({_named(unknown)}): it reaches the "
                f"model as {tokenizer.unk_token!r}, whatever it is. Rename them, or take a model that reads them.",
                stacklevel=3,
            )
    longest = max(templates, key=len)
    cut = _cut(tokenizer, longest, names)
    if cut:
        warnings.warn(
            f"The model reads {_limit(tokenizer)} tokens, and {len(cut)} of {len(names)} prompts of the template "
            f"{_shortened(longest)} are longer and cut ({_named(cut)}); shorten the names or the template.",
            stacklevel=3,
        )


def _shortened(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _named(texts: Sequence[str]) -> str:
    return ", ".join(map(_shortened, texts[:3])) + (", ..." if len(texts) > 3 else "")


def _unknown(tokenizer, texts: Sequence[str]) -> list[str]:
    """The texts with something that the tokenizer has no token for."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.pad_token_id):
        # CLIP's reads bytes, and calls its end of text unknown too.
        return []
    table = tokenizer(list(texts), verbose=False)["input_ids"]
    return [text for text, ids in zip(texts, table, strict=True) if unknown in ids]


def _limit(tokenizer) -> int:
    return getattr(tokenizer, "model_max_length", _NO_LIMIT)


def _cut(tokenizer, template: str, names: Sequence[str]) -> list[str]:
    """The names whose prompt is longer than the tokenizer's limit."""
    limit = _limit(tokenizer)
    if limit >= _NO_LIMIT:
        return []
    prompts = {name: fill_template(template, name) for name in names}
    # No token is shorter than a byte.
    long = [name for name, prompt in prompts.items() if len(prompt.encode()) + _FRAME > limit]
    if not long:
        return []
    table = tokenizer([prompts[name] for name in long], truncation=True, max_length=limit + 1)["input_ids"]
    return [name for name, ids in zip(long, table, strict=True) if len(ids) > limit]
