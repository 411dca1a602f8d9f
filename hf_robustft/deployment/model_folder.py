# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Where the files lie that belong to a model (the folder that it was loaded from, or the cache of the Hub), and what they say of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..modeling.checkpoint_file import checkpoint_folder
from ..modeling.fitted_weights import check_fitted_weights
from ..modeling.metadata import FITTED, METADATA_FILE, ZERO_SHOT_HEAD, load_robustft_json, with_prompts
from ..modeling.model_files import has_trained_head
from ..modeling.zero_shot import HEAD_FILE, ZeroShotHead


def source_folder(model: PreTrainedModel) -> Path:
    """Return the folder that a `model` was loaded from. Raises ValueError if it is from elsewhere."""
    source = model.config.name_or_path
    if source and os.path.isdir(source):
        return Path(source)
    raise ValueError(
        f"The model was not loaded from a folder (its source is {source!r}); give the directory of its {METADATA_FILE}, or "
        "load it with `hf_robustft.pipeline`, which also takes an id on the Hub."
    )


def hub_folder(source: str, revision: str | None, token: str | bool | None, needed: bool = True) -> Path:
    """
    Find the cached commit of a repository, with `robustft.json` and, if there is one, the trained head.

    Args:
        source (`str`): Its id on the Hub.
        revision (`str`, *optional*), token (`str` or `bool`, *optional*): As for `load_checkpoint`.
        needed (`bool`, *optional*, defaults to `True`): Whether there must be a `robustft.json`.

    Returns:
        `Path`: The folder in the cache, whose name is the commit.
    """
    folder = checkpoint_folder(source, METADATA_FILE, *(() if needed else ("config.json",)), revision=revision, token=token)
    if needed and load_robustft_json(folder).get("head") != ZERO_SHOT_HEAD:
        checkpoint_folder(source, METADATA_FILE, HEAD_FILE, revision=folder.name, token=token)
    return folder


def facts_to_use(directory: Path, class_names: Sequence[str] | None, templates: Sequence[str] | None) -> tuple[dict[str, Any], bool, bool]:
    """
    What `robustft.json` says of a model that classifies by its own classes and prompts, or by given ones.

    Args:
        directory (`Path`): The folder with `robustft.json`.
        class_names (`Sequence[str]`, *optional*), templates (`Sequence[str]`, *optional*): Instead of its own.

    Returns:
        `tuple(dict, bool, bool)`: The facts, and whether a detector and a trained head are left out of them, being of other classes or
            prompts.

    Raises:
        ValueError: If there are no class names, a trained head has no use for the templates, or the weights in the folder are not those that
            what is used was fitted with.
        OSError: If there is no `robustft.json`, and no class names are given.
    """
    own = load_robustft_json(directory) if class_names is None or (directory / METADATA_FILE).is_file() else {}
    facts, head_left_out = own, False
    if class_names is not None or templates is not None:
        if class_names is None and has_trained_head(directory, own):
            raise ValueError("templates would do nothing: the trained head of the checkpoint classifies without prompts; leave them out.")
        facts = with_prompts(own, class_names, templates)
        head = own.get("head", ZeroShotHead.label if (directory / HEAD_FILE).is_file() else ZERO_SHOT_HEAD)
        head_left_out = head != facts.get("head", head)
    check_fitted_weights(directory, facts, FITTED)
    if not facts["class_names"]:
        raise ValueError(
            f"{METADATA_FILE} of {directory} has no class names (the model was trained on captions); write them "
            "into it with `write_robustft_json`, and fit a detector for them."
        )
    return facts, "detector" in own and "detector" not in facts, head_left_out


def check_has_detector(facts: dict[str, Any], left_out: bool) -> None:
    """
    Refuse `facts` of a model that gives one label to an image, where nothing says what is unknown.

    Args:
        facts (`dict[str, Any]`): As [`facts_to_use`] returns them.
        left_out (`bool`): Whether a detector was left out of them.

    Raises:
        ValueError: If there is neither a detector nor, for images with several labels, thresholds.
    """
    if "detector" in facts or "thresholds" in facts:
        return
    missing, remedy = (
        ("The detector of this checkpoint was fitted for its own classes and prompts, and not for those given", "leave those out")
        if left_out
        else (f"{METADATA_FILE} of this checkpoint has no detector", "fit one on validation images (`hf-robustft calibrate FOLDER --dataset ...`)")
    )
    raise ValueError(
        f"{missing}, so nothing says what is unknown; {remedy}, give detector=..., or classify without one: by "
        "require_detector=False in Python, and in the command by leaving --require_detector out."
    )
