# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The values that numbers of a run may have. Imports nothing, so that a command line is checked before torch is loaded."""

from __future__ import annotations

import math

_POSITIVE = "must be positive"
_NOT_NEGATIVE = "must be 0 or more"
_ONE_OR_MORE = "must be 1 or more"
_SHARE = "must lie between 0 and 1"

#: Name of a setting -> lowest value, highest value, whether the lowest is excluded, and what a message says.
RANGES: dict[str, tuple[float, float, bool, str]] = {
    **dict.fromkeys(
        ("learning_rate", "num_train_epochs", "adam_epsilon", "logging_steps", "save_steps", "eval_steps"),
        (0, math.inf, True, _POSITIVE),
    ),
    **dict.fromkeys(
        ("weight_decay", "max_grad_norm", "warmup_steps", "eval_delay", "dataloader_num_workers", "num_workers", "seed"),
        (0, math.inf, False, _NOT_NEGATIVE),
    ),
    **dict.fromkeys(
        ("data_seed", "retries", "feature_views"),
        (0, math.inf, False, _NOT_NEGATIVE),
    ),
    **dict.fromkeys(
        (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "batch_size",
            "knn_k",
            "shots",
            "save_total_limit",
            "dataloader_prefetch_factor",
        ),
        (1, math.inf, False, _ONE_OR_MORE),
    ),
    **dict.fromkeys(("alpha", "bad_images_threshold", "adam_beta1", "adam_beta2"), (0, 1, False, _SHARE)),
    "true_positive_rate": (0, 1, True, "must lie in (0, 1]"),
}


def out_of_range(name: str, value: float) -> str | None:
    """What is wrong with a number, such as `"must be positive"`; `None` if nothing is."""
    if name not in RANGES:
        return None
    low, high, excluded, message = RANGES[name]
    return None if (low < value if excluded else low <= value) and value <= high else message
