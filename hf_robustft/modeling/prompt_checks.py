# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether a tokenizer tells the prompts of classes apart."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ..data.prompts import check_class_names, check_templates, fill_template
from .captions import caption_keys, pad_captions

#: What tokenizers say that know no limit is far above it.
_NO_LIMIT = 1_000_000
#: The tokens of beginning and end.
_FRAME = 2


def check_class_prompts(tokenizer, class_names: Sequence[str], templates: Sequence[str], end_of_text: int) -> None:
    """
    Refuse classes whose prompts are the same tokens: the model could not tell them apart, whatever it has learned.

    Names that are cut because a prompt is longer than the model reads are named in a warning.

    Args:
        tokenizer: The model's tokenizer, or a processor that holds one.
        class_names (sequence of `str`): One name per class.
        templates (sequence of `str`): Prompt templates with one `{}` each.
        end_of_text (`int`): `text_config.eos_token_id` of the model.

    Raises:
        ValueError: If two classes have equal tokens in every template.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    names, templates = check_class_names(class_names), check_templates(templates)

    def keys(template: str, chosen: Sequence[str]) -> list[bytes]:
        texts = [fill_template(template, name) for name in chosen]
        table = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")["input_ids"]
        return caption_keys(pad_captions([table], end_of_text), end_of_text)

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
                else "its tokenizer knows no difference; rename one"
            )
            raise ValueError(
                f"the classes {earlier!r} and {name!r} give the model the same prompt, such as "
                f"{fill_template(shortest, name)!r}: {reason}"
            )
    longest = max(templates, key=len)
    cut = _cut(tokenizer, longest, names)
    if cut:
        shown = ", ".join(repr(name) for name in cut[:3]) + (", ..." if len(cut) > 3 else "")
        warnings.warn(
            f"The model reads {_limit(tokenizer)} tokens, and {len(cut)} of {len(names)} prompts of the template "
            f"{longest!r} are longer and cut ({shown}); shorten the names or the template.",
            stacklevel=3,
        )


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
