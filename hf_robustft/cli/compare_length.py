# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How long the runs of a comparison train where nobody says: batches that let all methods make the same steps, and passes over the data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ..objectives.contrastive import ContrastiveMixin
from ..training.methods import METHODS, RobustTrainingArguments

#: Where nobody says how long to train: at least so many passes over the data and optimizer steps of the usual batch.
EPOCHS, STEPS, BATCH = 10, 150, 64
BATCH_FLAG, _LENGTHS = "per_device_train_batch_size", {"num_train_epochs", "max_steps"}


def lengths(
    args_of: Mapping[str, RobustTrainingArguments], images: int, passed: Iterable[str]
) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """
    Batches by which all methods make the same steps, and passes over the data.

    Args:
        args_of (`Mapping[str, RobustTrainingArguments]`): Settings by method.
        images (`int`): What is trained on.
        passed (`Iterable[str]`): The names of settings that the user gave.

    Returns:
        `tuple`: Batches by method where the usual one would leave images over and the user gave none; epochs by method where neither
        the user, a recipe nor a paper says how long to train; and notes on both.
    """
    batches = {} if {BATCH_FLAG, "dataloader_drop_last"} & set(passed) else equal_batches(args_of, images)
    notes = words_on_batches(args_of, batches, images)
    # Of a recipe or a paper the own length stays.
    open_ = {name: args for name, args in args_of.items() if not _LENGTHS & set(args.origins)}
    if _LENGTHS & set(passed) or not open_:
        return batches, {}, notes
    epochs = passes([batches[name] for name in open_ if name in batches], images)
    of = "" if len(open_) == len(args_of) else f" of {', '.join(open_)}"
    told = words_on_length(open_, batches, images, epochs)
    return batches, dict.fromkeys(open_, epochs), [*notes, f"Each run{of} makes {told}; give --num_train_epochs or --max_steps"]


def equal_batches(args_of: Mapping[str, RobustTrainingArguments], images: int) -> dict[str, int]:
    """
    Batches that leave nearly no image over. An incomplete batch is dropped by the contrastive methods alone, which would train less.

    Args:
        args_of (`Mapping[str, RobustTrainingArguments]`): Settings by method.
        images (`int`): What is trained on.

    Returns:
        `dict[str, int]`: By method the batch near its usual one; without those that train none of the model or by a paper's settings,
        and those that leave no image over anyway.
    """
    found = {}
    for method, args in args_of.items():
        usual = _usual_batch(method, args)
        if not (METHODS[method].trains_model or usual == BATCH) or args.origins.get(BATCH_FLAG, "").startswith("paper"):
            continue
        # A method's own batch is never more than there is.
        if images % usual and not (images < usual and _is_own(args)):
            found[method] = images // max(round(images / usual), 1)
    return found


def words_on_batches(args_of: Mapping[str, RobustTrainingArguments], batches: Mapping[str, int], images: int) -> list[str]:
    """What is said of `batches`, of [`equal_batches`] for the settings `args_of` each method and so many `images`."""
    pairs = sorted({(_usual_batch(method, args_of[method]), batch) for method, batch in batches.items()})
    dropped = {batch: f", {images % batch} of them left out of each pass, others each time" if images % batch else "" for _, batch in pairs}
    return [
        f"Methods that usually take {usual} images a step take {batch}, so that all make the same steps of the {images} training "
        f"images{dropped[batch]}; give --{BATCH_FLAG}"
        for usual, batch in pairs
    ]


def passes(batches: Iterable[int], images: int) -> int:
    """Passes over so many `images` for [`STEPS`] steps of one of these `batches`, the usual one without any; [`EPOCHS`] at least."""
    return max(EPOCHS, math.ceil(STEPS / max(images // min(batches, default=BATCH), 1)))


def words_on_length(args_of: Mapping[str, RobustTrainingArguments], batches: Mapping[str, int], images: int, epochs: int) -> str:
    """So many `epochs` over so many `images` in words, with the optimizer steps; by method (`args_of`, `batches`) where these differ."""
    found: dict[str, list[str]] = {}
    for method, args in args_of.items():
        batch = batches.get(method) or _usual_batch(method, args)
        batch = min(batch, images) if _is_own(args) else batch
        drops = method in batches or args.dataloader_drop_last or issubclass(METHODS[method], ContrastiveMixin)
        count = images // batch if drops else math.ceil(images / batch)
        steps, size = math.ceil(count / args.gradient_accumulation_steps), batch * min(args.gradient_accumulation_steps, count)
        up_to = "" if images % size == 0 or drops and args.gradient_accumulation_steps == 1 else "up to "
        found.setdefault(f"{epochs * steps:,} steps of {up_to}{size} images", []).append(method)
    told = ", ".join(words + (f" ({', '.join(methods)})" if len(found) > 1 else "") for words, methods in found.items())
    why = f"{EPOCHS}, or for a small set as many as give {STEPS} steps of about {BATCH} images"
    return f"{epochs} passes over the {images} training images ({why}): {told}"


def _usual_batch(method: str, args: RobustTrainingArguments) -> int:
    """As given, by a recipe or by a paper; or the method's own, which the Trainer sets."""
    return (METHODS[method].defaults if _is_own(args) else {}).get(BATCH_FLAG, getattr(args, BATCH_FLAG))


def _is_own(args: RobustTrainingArguments) -> bool:
    """Whether the batch is nobody's choice but the method's."""
    return BATCH_FLAG not in args.given and args.origins.get(BATCH_FLAG, "default of").startswith("default of")
