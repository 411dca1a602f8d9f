# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which settings a method reads, and the refusal of given ones that it would ignore."""

from __future__ import annotations

import warnings
from dataclasses import fields
from functools import cache
from typing import Any

from ..data.examples import TrainingExamples
from ..data.streams.examples import StreamingExamples
from ..modeling.dual_encoder import DualEncoder
from ..modeling.feature_cache import CachedFeatures
from ..modeling.kept_adapter import refuse_carried
from ..modeling.lora import refuse_adapters
from ..objectives.base import refuse_idle
from ..objectives.settings import ObjectiveSettings
from ..objectives.trained_parts import TrainedPartsSettings
from ..publishing.model_card import FEWER
from .arguments import RunArguments
from .distributed import world_size
from .given import methods_that_read, not_read
from .schedules import WITHOUT_WARMUP

_PACKAGE = __name__.partition(".")[0]


def declared_settings(trainer: type) -> frozenset[str]:
    """The settings that the objectives of the class `trainer` declare as theirs."""
    return frozenset(f.name for cls in trainer.__mro__ for f in fields(vars(cls).get("settings") or ObjectiveSettings))


def declarations(arguments: type[RunArguments]) -> dict[str, type[ObjectiveSettings]]:
    """By the name of each setting of an objective that the class `arguments` has: the dataclass that declares it."""
    of_objectives = (cls for cls in arguments.__mro__ if issubclass(cls, ObjectiveSettings))
    return {f.name: cls for cls in of_objectives if not issubclass(cls, RunArguments) for f in fields(cls)}


def unused_settings(trainer: type, arguments: type[RunArguments]) -> frozenset[str]:
    """Those of `arguments` that the class `trainer` does not read: of other objectives, or idle in this method."""
    idle = frozenset(trainer.idle_settings)
    if not trainer.trains_model:
        idle |= {f.name for f in fields(TrainedPartsSettings)}
    return frozenset(declarations(arguments).keys() - declared_settings(trainer) | idle)


def methods_with(setting: str, arguments: type[RunArguments]) -> tuple[str, ...]:
    """The names of the methods that read a `setting` of `arguments`, with those that merge what ft has trained with it."""
    # The methods are made of the Trainer that asks here.
    from .methods import METHODS

    return methods_that_read(setting, _unused_by_method(tuple(METHODS.items()), arguments))


@cache
def _unused_by_method(methods: tuple[tuple[str, type], ...], arguments: type[RunArguments]) -> dict[str, frozenset[str]]:
    return {name: unused_settings(trainer, arguments) for name, trainer in methods}


def settle_settings(trainer: type, args: RunArguments, encoder: DualEncoder) -> None:
    """
    Set what nobody gave to the defaults of a method and of a model, and refuse what does not go together.

    Args:
        trainer (`type`): The class of the method's Trainer.
        args ([`RobustTrainingArguments`]): Settings of the run.
        encoder ([`DualEncoder`]): The model; its weights may be on the meta device.

    Raises:
        ValueError: As `check_settings` of the class, and if the model lacks what an objective needs, or has an image adapter that
            is not in its weights, or adapters of PEFT.
    """
    refuse_carried(encoder.core, "training moves weights alone; go on with `load_adapters` in Python, or start from the model before it")
    refuse_adapters(encoder.core)
    own = trainer.model_defaults(encoder)
    origin = f"default of {trainer.method}{f' for a {encoder.name}' if own else ''}"
    args.take_defaults({**trainer.defaults, **own}, origin)
    trainer.check_settings(args)
    trainer.check_model(args, encoder)


def check_declared(trainer: type, args: RunArguments) -> None:
    """
    Refuse settings that were given and that a Trainer class does not read.

    A class from elsewhere with code of its own may read anything: until it declares `settings`, it is warned.

    Args:
        trainer (`type`): The class.
        args ([`RobustTrainingArguments`]): Settings of the run.

    Raises:
        ValueError: If there is such a setting, or an objective declares one that the arguments do not have.
    """
    arguments = type(args)
    for cls in trainer.__mro__:
        declared = vars(cls).get("settings")
        if declared is not None and not issubclass(arguments, declared):
            raise ValueError(
                f"{cls.__name__} declares `{declared.__name__}`, which `{arguments.__name__}` does not have; make the "
                f"arguments of a dataclass `class MyArguments({declared.__name__}, {arguments.__name__})`."
            )
    for name in sorted(args.given & unused_settings(trainer, arguments)):
        message = not_read(name, getattr(args, name), trainer.method, methods_with(name, arguments))
        silent = [cls.__name__ for cls in trainer.__mro__ if _may_read_anything(cls)]
        if not silent:
            raise ValueError(message)
        remedy = "take it out of `idle_settings`"
        if name not in trainer.idle_settings:
            remedy = f"write `settings = {declarations(arguments)[name].__name__}`"
        warnings.warn(f"{message} If {silent[0]} reads it, {remedy} there.", stacklevel=4)


def _may_read_anything(cls: type) -> bool:
    if cls.__module__.partition(".")[0] in (_PACKAGE, "transformers", "builtins") or "settings" in vars(cls):
        return False
    return any(
        callable(value) or isinstance(value, (property, staticmethod, classmethod)) for value in vars(cls).values()
    )


def check_schedule(args: Any) -> None:
    """
    Refuse a warm-up that was given to a learning-rate schedule which has none of its own length.

    Args:
        args ([`RobustTrainingArguments`]): Settings of the run.

    Raises:
        ValueError: For the schedule of CRoFT's code, and for those of Transformers that take none.
    """
    schedule, kind = (
        _with_origin(args, "lr_schedule"),
        getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type),
    )
    if not args.warmup_steps:
        return
    if args.lr_schedule == "epoch_cosine":
        refuse_idle(args, ["warmup_steps"], f"{schedule} has a warm-up of one epoch; choose another --lr_schedule")
    elif args.lr_schedule == "transformers" and kind in WITHOUT_WARMUP:
        advice = "constant_with_warmup" if kind == "constant" else "cosine"
        reason = f"`lr_scheduler_type={kind}` has no warm-up; set --lr_scheduler_type {advice}"
        refuse_idle(args, ["warmup_steps"], reason)


def check_data_settings(dataset: Any, args: Any) -> None:
    """
    Refuse given settings of the training images that these images have no use for.

    Args:
        dataset (`Any`): What the Trainer trains on, prepared.
        args ([`RobustTrainingArguments`]): Settings of the run.

    Raises:
        ValueError: For a shuffle buffer without a stream, or without shuffling, and for decoded images to keep where none are stored.
    """
    if dataset is None:
        return
    if not isinstance(dataset, StreamingExamples):
        refuse_idle(
            args, ["shuffle_buffer"], "the training set is not a stream, and is shuffled as a whole; stream it"
        )
    elif args.train_sampling_strategy == "sequential":
        refuse_idle(
            args, ["shuffle_buffer"], "a sequential stream is not shuffled; set --train_sampling_strategy random"
        )
    if args.cache_images != "none" and not isinstance(dataset, TrainingExamples):
        raise ValueError(
            f"`cache_images={args.cache_images}` keeps the decoded images of a stored `Benchmark`, and these are a {type(dataset).__name__}: "
            "leave it out."
        )
    if "train_crop" in args.given and not isinstance(dataset, (StreamingExamples, TrainingExamples, CachedFeatures)):
        warnings.warn(
            f"`train_crop={args.train_crop}` does nothing for a {type(dataset).__name__}, whose images come as they are; "
            "crop them there, or train on a `Benchmark`.",
            stacklevel=3,
        )


def fit_default_batch(dataset: Any, args: Any) -> None:
    """Make a batch that is the method's default (see `args.origins`) no larger than the `dataset` to train on."""
    name = "per_device_train_batch_size"
    if not args.origins.get(name, "").startswith("default of") or not hasattr(dataset, "__len__"):
        return
    largest, usual = max(1, len(dataset) // world_size()), getattr(args, name)
    if largest < usual:
        args.suggest({name: largest}, f"{args.origins[name]}, {usual} or {FEWER}")


def _with_origin(args: Any, name: str) -> str:
    origin = args.origins.get(name)
    return f"`{name}={getattr(args, name)!r}`" + (f" ({origin})" if origin else "")
