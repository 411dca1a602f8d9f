# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The numbers that Transformers' own settings, and options of the command line, may be.

Imports nothing heavy, so that a command line is checked before torch is loaded.
"""

from __future__ import annotations

from ..objectives.settings import Range

_POSITIVE = "learning_rate learning_rates num_train_epochs adam_epsilon logging_steps save_steps eval_steps"
_NOT_NEGATIVE = """
    weight_decay max_grad_norm warmup_steps eval_delay dataloader_num_workers num_workers data_seed retries
    feature_views
"""
_ONE_OR_MORE = """
    per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps batch_size knn_k shots
    save_total_limit dataloader_prefetch_factor top_k check_images
"""
_INNER_SHARE = "level coverage max_false_acceptance max_false_refusal confidence"
_SHARE = "alpha lines_alpha alpha_sweep bad_images_threshold"


class _StepsOrEpochs(Range):
    """Any negative number means epochs to Transformers; with 0 it would train one step."""

    def __contains__(self, value: float) -> bool:
        return value < 0 or super().__contains__(value)


RANGES: dict[str, Range] = {
    **dict.fromkeys(_POSITIVE.split(), Range("must be positive", above=True)),
    **dict.fromkeys(_NOT_NEGATIVE.split(), Range("must be 0 or more")),
    **dict.fromkeys(_ONE_OR_MORE.split(), Range("must be 1 or more", low=1)),
    **dict.fromkeys(_SHARE.split(), Range("must lie between 0 and 1", high=1)),
    **dict.fromkeys(("seed", "seeds"), Range("must lie between 0 and 2**32 - 1", high=2**32 - 1)),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), Range("must lie in [0, 1)", high=1, below=True)),
    **dict.fromkeys(_INNER_SHARE.split(), Range("must lie between 0 and 1, both excluded", high=1, above=True, below=True)),
    "min_agreement": Range("must lie in (0, 1]", high=1, above=True),
    "jobs": Range("must be at least 1", low=1),
    "hold_out": Range("must be above 0 and at most 0.25: so much of each class may be held out twice, to validate and to test", high=0.25, above=True),
    "true_positive_rate": Range("must lie in (0, 1]", high=1, above=True),
    "max_steps": _StepsOrEpochs("must be 1 or more, or -1 to train for --num_train_epochs", low=1),
}
