# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What was fitted on a model's logits and is a part of its `robustft.json`: how it is found there, and whose it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..modeling.checkpoint_file import checkpoint_folder
from ..modeling.metadata import METADATA_FILE, load_robustft_json
from .temperature import TemperatureScaling


def load_part(
    source: str | Path, part: str, *, how: str, revision: str | None = None, token: str | bool | None = None
) -> tuple[Path, dict[str, Any], TemperatureScaling | None]:
    """
    Read the `robustft.json` of a checkpoint that must have a part.

    Args:
        source (`str` or `Path`): The folder, or the checkpoint's id on the Hub.
        part (`str`): The name of the part.
        how (`str`): For messages: how the part comes about.
        revision (`str`, *optional*), token (`str` or `bool`, *optional*): As for `load_dual_encoder`.

    Returns:
        `tuple`: The folder, the file's content, and the temperature in it, `None` if there is none.

    Raises:
        OSError, ValueError: If there is no `robustft.json`, it has no such part, or its temperature is broken.
    """
    directory = checkpoint_folder(source, METADATA_FILE, revision=revision, token=token)
    content = load_robustft_json(directory)
    if part not in content:
        raise ValueError(f"{METADATA_FILE} in {directory} holds no {part.replace('_', ' ')}; {how}.")
    temperature = content.get("temperature")
    return directory, content, None if temperature is None else TemperatureScaling.from_dict(temperature)


def check_classes_of(content: Mapping[str, Any], directory: str | Path, class_names: Sequence[str], what: str, again: str) -> None:
    """
    Refuse what was fitted for other classes than a checkpoint has.

    Args:
        content (`Mapping[str, Any]`): Of its `robustft.json`.
        directory (`str` or `Path`): The checkpoint's folder, for messages.
        class_names (`Sequence[str]`): The classes of the fit.
        what (`str`), again (`str`): For messages: what was fitted, with its verb, and what to do.

    Raises:
        ValueError: If the checkpoint has class names, and these are others or in another order.
    """
    names = tuple(content["class_names"])
    if names and names != tuple(class_names):
        raise ValueError(
            f"{what} for other classes than the model in {directory}: {class_difference(class_names, names)}. {again} on that model."
        )


def class_difference(fitted: Sequence[str], given: Sequence[str]) -> str:
    """Say where the `fitted` classes and those that were `given` differ, for a message."""
    if len(fitted) != len(given):
        return f"{len(fitted)} at the fit, {len(given)} here"
    first = next(i for i, pair in enumerate(zip(fitted, given, strict=True)) if pair[0] != pair[1])
    return f"number {first} (counted from 0) is {fitted[first]!r} at the fit and {given[first]!r} here"
