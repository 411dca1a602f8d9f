# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a model and its processor compute beside the weights: two of one shape may read images and captions otherwise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..data.transforms import ImageTransform

#: Of a configuration, what changes no output: names, how weights were drawn and stored, and what a call returns.
_NO_MATTER = frozenset(
    ("architectures", "dtype", "torch_dtype", "transformers_version", "id2label", "label2id", "problem_type", "chunk_size_feed_forward")
    + ("initializer_factor", "initializer_range", "logit_scale_init_value", "output_attentions", "output_hidden_states", "return_dict")
)
#: Words and signs that tokenizers of one vocabulary may take apart differently.
_PROBE = "A photo of the Café's 21 cats, dogs & birds: naïve <b>x</b>\u3000小猫 _ 🐈."


def model_record(model: Any) -> dict[str, Any]:
    """
    Record what the configuration of a model says of its computation.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model.

    Returns:
        `dict[str, Any]`: JSON values by name, those of its towers as `text_config.hidden_act`; `{}` for a model without one.
    """
    config = getattr(model, "config", None)
    return {} if config is None else json.loads(json.dumps(dict(_flat(config.to_dict())), default=str))


def _flat(config: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if name in _NO_MATTER or name.startswith("_"):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{outer}{name}.")
        else:
            yield f"{outer}{name}", value


def processor_record(processor: Any) -> dict[str, Any]:
    """
    Record how a processor prepares images and takes captions apart.

    Args:
        processor (`Any`): A processor of images, texts or both, or `None`.

    Returns:
        `dict[str, Any]`: JSON values by name; `{}` for `None` and for what is not a processor of Transformers.
    """
    record: dict[str, Any] = {}
    try:
        settings = ImageTransform.from_processor(processor, train=False).settings
        record |= {f"image {name}": value for name, value in settings.items()}
    except (ValueError, TypeError, AttributeError):
        # A tokenizer by itself, or images that the user's own data set prepares.
        pass
    tokenizer = getattr(processor, "tokenizer", processor)
    if hasattr(tokenizer, "get_vocab"):
        content = [sorted(tokenizer.get_vocab().items()), tokenizer(_PROBE, verbose=False)["input_ids"]]
        record["tokenizer"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return json.loads(json.dumps(record, default=str))


def check_prepared(dataset: Any, processor: Any) -> None:
    """
    Refuse cached features of images that a processor prepares otherwise: the model would be measured on others than it is trained on.

    Args:
        dataset (`Any`): What is trained on; parts of it (`Subset`, `ConcatDataset`) are looked at too.
        processor (`Any`): The processor of the run, or `None`.

    Raises:
        ValueError: With what differs.
    """
    for part in getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]:
        if part is not None:
            check_prepared(part, processor)
    there = getattr(dataset, "prepared", None)
    if there is None or not hasattr(getattr(processor, "image_processor", processor), "image_mean"):
        return
    here = ImageTransform.from_processor(processor, train=False).settings
    differing = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if differing:
        made, now = (", ".join(f"{name} {side.get(name)}" for name in differing) for side in (there, here))
        raise ValueError(
            f"The cached features are of images that were prepared with {made}, and the processor of this run has {now}; make them again by "
            "`cache_features` with this processor."
        )
