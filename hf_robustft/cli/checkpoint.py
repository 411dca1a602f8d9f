# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The model and processor that a command line names."""

from __future__ import annotations

import os

import torch
from transformers import CLIPModel, CLIPProcessor

from hf_robustft.data.benchmarks import asset_path


def load_checkpoint(name: str, option: str = "--model", revision: str | None = None) -> tuple[CLIPModel, CLIPProcessor]:
    """
    A `CLIPModel` in float32 and its processor.

    Args:
        name (`str`): A folder, a Hub id, or `"emoji_clip"`, the packaged checkpoint.
        option (`str`, *optional*, defaults to `"--model"`): What the command line calls it, for messages.
        revision (`str`, *optional*): On the Hub.

    Raises:
        OSError: If there is no such checkpoint; the message says what to give.
    """
    path = str(asset_path("emoji_clip")) if name == "emoji_clip" else name
    looks_local = os.path.isdir(path) or path.startswith((".", "/", "~")) or path.count("/") > 1
    if looks_local and not os.path.isfile(os.path.join(path, "config.json")):
        raise OSError(
            f"`{option} {name}`: there is no checkpoint folder with a config.json at that path; "
            "give a folder that save_pretrained wrote, a Hub id, or 'emoji_clip'."
        )
    try:
        model = CLIPModel.from_pretrained(path, dtype=torch.float32, revision=revision)
        return model, CLIPProcessor.from_pretrained(path, revision=revision)
    except OSError as error:
        raise OSError(f"`{option} {name}` is no folder here, and cannot be had from the Hub: {error}") from error
