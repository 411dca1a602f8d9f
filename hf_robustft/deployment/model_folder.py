# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Where the files lie that belong to a model: the folder that it was loaded from, or the cache of the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from transformers import PreTrainedModel

from ..modeling.checkpoint_file import checkpoint_folder
from ..modeling.metadata import METADATA_FILE, ZERO_SHOT_HEAD, load_robustft_json
from ..modeling.zero_shot import HEAD_FILE


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
