# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a finished run of a comparison is known by: its settings, and the data that it saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ..training.methods import RobustTrainingArguments
from .train import TrainingData

#: What changes no number of a run, or is told by its data.
_NOT_OF_THE_RUN = (
    *("train_dataset", "eval_datasets", "output_dir", "logging_dir", "run_name", "feature_cache", "disable_tqdm", "use_cpu"),
    *("dataloader_num_workers", "dataloader_prefetch_factor", "report_to", "skip_baseline", "save_predictions", "save_logits"),
    *("finetuned_model", "log_level", "class_names", "templates"),
)


def told_of(data: TrainingData) -> dict[str, str]:
    """The `data` of a comparison as settings of its runs: each set with its role, size and a digest of its images."""
    found = {}
    for entry in data.check.hashes:
        digest = hashlib.sha256(f"{entry['read']} {entry['blake2b_48']}".encode()).hexdigest()[:8]
        size = "" if entry.get("images") is None else f"{entry['images']} images, "
        found[f"the {entry['role']} data {entry['name']}"] = f"({size}{digest})"
    names = "\n".join((*data.train.class_names, *data.train.templates))
    found["the classes and prompts"] = f"({len(data.train.class_names)} classes, {hashlib.sha256(names.encode()).hexdigest()[:8]})"
    return found


def settings_of(parts: Iterable[Any]) -> dict[str, Any]:
    """The settings of a run, in several `parts`, that are not at their defaults, as JSON values."""
    found = {}
    for part in parts:
        default = type(part)() if not isinstance(part, RobustTrainingArguments) else type(part)(output_dir="")
        for item in fields(part):
            value, usual = (_plain(getattr(owner, item.name)) for owner in (part, default))
            if item.name not in _NOT_OF_THE_RUN and (value or None) != (usual or None):
                found[item.name] = value
    return found


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.loads(json.dumps(value, default=str))
