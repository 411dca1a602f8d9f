# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What makes a run the run that it is: recorded in its checkpoints, and compared before one is resumed."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data.examples import TrainingExamples
from ..data.hub import contents_digest
from ..data.images import check_regular
from ..data.streams.examples import StreamingExamples
from ..data.streams.rows import RowStream
from ..modeling.feature_cache import CachedFeatures
from .distributed import effective_precision
from .model_record import model_record, processor_record
from .settings import declared_settings, unused_settings

#: So many images, spread over the training set, are compared by their bytes.
IMAGES_COMPARED = 16
#: And so many by their size alone.
SIZES_COMPARED = 1024
#: Arguments of every run without which the optimizer would take other steps.
_ARGUMENTS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "dataloader_drop_last",
    "train_sampling_strategy",
    "train_crop",
    "cache_images",
    "learning_rate",
    "lr_schedule",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "min_lr",
    "warmup_steps",
    "optim",
    "optim_args",
    "spd_weight",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "label_smoothing_factor",
    "decay_all_parameters",
    "bound_logit_scale",
)
#: In the record of a stream from the Hub, what its files hold.
_FILES = "files"
#: Settings of objectives that change no step.
_OF_OUTPUT = {"export_weights", "preset", "shard_teacher"}
#: A stream's own record compares these more exactly.
_OF_STREAMS = {"world_size", "per_device_train_batch_size", "seed", "train_sampling_strategy"}
#: How an entry is called where no argument has its name.
_WORDS = {
    "world_size": "the number of processes",
    "seed_of_draws": "beside `data_seed` a `seed` of",
    "precision": "the precision",
    "total_steps": "the number of steps",
    "class_names": "the classes",
    "templates": "the templates",
    "data": "the training set",
    "model": "a model with",
    "processor": "a processor with",
}


def run_record(trainer: Any, total_steps: int) -> dict[str, Any]:
    """
    What a resumed run must have in common with the one that wrote a checkpoint.

    Args:
        trainer ([`RobustTrainer`]): The Trainer of the run.
        total_steps (`int`): Its optimizer steps.

    Returns:
        `dict[str, Any]`: JSON values by name.
    """
    args, dataset = trainer.args, trainer.train_dataset
    names = {*_ARGUMENTS, *declared_settings(type(trainer))} - unused_settings(type(trainer), type(args)) - _OF_OUTPUT
    record = {name: _plain(getattr(args, name)) for name in sorted(names)}
    record["seed"] = args.seed if args.data_seed is None else args.data_seed
    # Of what is drawn besides, such as random texts.
    record["seed_of_draws"] = args.seed
    record["world_size"] = args.world_size
    record["precision"] = effective_precision(args)
    record["total_steps"] = total_steps
    record["class_names"] = list(getattr(dataset, "class_names", None) or ())
    record["templates"] = list(getattr(dataset, "templates", None) or ())
    record["model"] = model_record(trainer.model)
    if getattr(trainer, "_processor_record", None) is None:
        trainer._processor_record = processor_record(trainer.processing_class)
    record["processor"] = trainer._processor_record
    if getattr(trainer, "_data_record", None) is None:
        trainer._data_record = data_record(dataset)
    record["data"] = trainer._data_record
    record["streamed"] = isinstance(dataset, StreamingExamples)
    return record


def data_record(dataset: Any) -> dict[str, Any]:
    """
    Record the length of a training set, and digests of its labels and captions and of a sample of its images.

    Args:
        dataset (`Any`): The training set. Of a stream, the first rows of some shards are read, if they are on this machine,
            and the Hub is asked for the hashes of its files otherwise; of a data set that is not ours, only the length is recorded.

    Returns:
        `dict[str, Any]`: The record.
    """
    if isinstance(dataset, StreamingExamples):
        if dataset.stream.local:
            return {"examples": dataset.size, "first_rows": _digest(*_first_rows(dataset.stream))}
        files = contents_digest(dataset.stream.files)
        return {"examples": dataset.size, **({} if files is None else {_FILES: files})}
    record: dict[str, Any] = {"examples": len(dataset)} if hasattr(dataset, "__len__") else {}
    if isinstance(dataset, TrainingExamples):
        rows = dataset.rows.encoded
        columns = [name for name in rows.column_names if name != dataset.rows.image_column]
        record["rows"] = _digest(repr(rows.select_columns(columns)[:]).encode())
        chosen = _spread(len(rows), IMAGES_COMPARED)
        record["images"] = _digest(*(_encoded(dataset.rows[index][0]["image"]) for index in chosen))
        sizes = [_size(dataset.rows[index][0]["image"]) for index in _spread(len(rows), SIZES_COMPARED)]
        record["sizes"] = _digest(repr(sizes).encode())
    elif isinstance(dataset, CachedFeatures):
        tensors = [dataset.features] if dataset.labels is None else [dataset.features, dataset.labels]
        record["features"] = _digest(*(tensor.contiguous().numpy().tobytes() for tensor in tensors))
    return record


def _spread(count: int, chosen: int) -> range:
    return range(0, count, max(1, count // chosen))


def _first_rows(stream: RowStream) -> Iterator[bytes]:
    shards = _spread(stream.source.n_shards, IMAGES_COMPARED)
    for shard in shards:
        for _, row in itertools.islice(stream.rows(shard), -(-IMAGES_COMPARED // len(shards))):
            if row is not None:
                yield _encoded(row["image"])
                yield repr([row.get("label"), row.get("caption")]).encode()


def _size(image: dict | None) -> int | None:
    if image is None:
        return None
    if image.get("bytes") is not None:
        return len(image["bytes"])
    try:
        return os.stat(image["path"]).st_size
    except OSError:
        return None


def _encoded(image: dict | None) -> bytes:
    if image is None:
        return b""
    if image.get("bytes") is not None:
        return image["bytes"]
    try:
        check_regular(image["path"], "a row")
        return Path(image["path"]).read_bytes()
    except OSError:
        # What cannot be read is the business of the policy on bad images.
        return b""


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def check_same_run(saved: Mapping[str, Any] | None, trainer: Any, total_steps: int | None = None) -> None:
    """
    Refuse to resume a checkpoint with settings that make another run of it.

    Args:
        saved (`Mapping`, *optional*): The record in the checkpoint; `None` for one of an older version.
        trainer ([`RobustTrainer`]): The Trainer that resumes.
        total_steps (`int`, *optional*): Optimizer steps of its run, where they are known.

    Raises:
        ValueError: If an entry differs, by name and with both values.
    """
    if saved is None:
        warnings.warn(
            "The checkpoint comes from a version that did not record its settings, so nobody can tell whether this run "
            "goes on with the same ones.",
            stacklevel=3,
        )
        return
    streams = isinstance(trainer.train_dataset, StreamingExamples)
    if saved["streamed"] != streams:
        # The stream's own state says what to do about it.
        return
    now = json.loads(json.dumps(run_record(trainer, total_steps or saved["total_steps"])))
    # Older versions recorded less of the data, and nothing of what prepares and reads them.
    now["data"] = {name: value for name, value in now["data"].items() if name in saved["data"]}
    if _FILES in saved["data"] and _FILES not in now["data"] and streams and not trainer.train_dataset.stream.local:
        warnings.warn(
            "The Hub does not say what the files of the training set hold, so nobody can tell whether they are those that the run began with.",
            stacklevel=3,
        )
        saved = {**saved, "data": {name: value for name, value in saved["data"].items() if name != _FILES}}
    other = {part: _differing(saved.get(part, {}), now.pop(part)) for part in ("model", "processor")}
    saved = {**saved, **{part: before for part, (before, _) in other.items()}}
    now |= {part: after for part, (_, after) in other.items()}
    skipped = (set() if trainer.fixed_length else {"total_steps"}) | (_OF_STREAMS if streams else set())
    if saved.get("seed") != now["seed"]:
        # It is told once.
        skipped.add("seed_of_draws")
    differing = [name for name in now if name in saved and saved[name] != now[name] and name not in skipped]
    # The whole batch says more than its share in one process.
    differing.sort(key=lambda name: (name != "world_size", name in _WORDS))
    if differing:
        told = [f"{_said(name, saved[name])}, this run has {_said(name, now[name])}" for name in differing]
        raise ValueError(
            f"The checkpoint was written with {'; with '.join(told)}; "
            "resume with the same settings, or start a new run from its weights with --model."
        )
    if now["total_steps"] != saved["total_steps"]:
        warnings.warn(
            f"The checkpoint was written by a run of {saved['total_steps']} steps, this one has {now['total_steps']}: "
            "from here on the learning rate, and what else is a share of the run, follow the new length.",
            stacklevel=3,
        )


def _differing(saved: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of what both know, what differs."""
    names = [name for name in now if name in saved and saved[name] != now[name]]
    return {name: saved[name] for name in names}, {name: now[name] for name in names}


def _said(name: str, value: Any) -> str:
    if name == "class_names":
        return f"{len(value)} classes ({', '.join(map(str, value[:5]))}{', ...' if len(value) > 5 else ''})"
    text = ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else repr(value)
    return f"{_WORDS[name]} {text}" if name in _WORDS else f"`{name}={value!r}`"


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    return value if value is None or isinstance(value, (bool, int, float, str, list, dict)) else str(value)
