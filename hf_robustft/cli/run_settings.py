# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a finished run of a comparison is known by: its settings, and the data that it saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from ..comparison.schedule import LABELS, STARTING_WEIGHTS
from ..modeling.checkpoint_file import is_packaged, local_folder
from ..modeling.model_files import content_hash
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
    # What the model was trained on before may have the name of the training set, which comes first.
    for entry in reversed(data.check.hashes):
        digest = hashlib.sha256(f"{entry['read']} {entry['blake2b_48']}".encode()).hexdigest()[:8]
        size = "" if entry.get("images") is None else f"{entry['images']} images, "
        found[f"the {entry['role']} data {entry['name']}"] = f"({size}{digest})"
        if "labels" in entry:
            found[f"{LABELS} of the {entry['role']} data {entry['name']}"] = f"({entry['labels'][:8]})"
    names = "\n".join((*data.train.class_names, *data.train.templates))
    found["the classes and prompts"] = f"({len(data.train.class_names)} classes, {hashlib.sha256(names.encode()).hexdigest()[:8]})"
    return found


def told_of_model(model: str) -> dict[str, str]:
    """The files of a `model` in a folder as a setting; of one of the package or the Hub the name or the commit is one."""
    folder = None if is_packaged(model) else local_folder(model)
    return {} if folder is None else {STARTING_WEIGHTS: f"({content_hash(folder)[:8]})"}


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
