# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
An image adapter that no weight can take in: it stays in `adapters.safetensors`, and the model carries its matrix.

Image features of SigLIP end in an attention pooling head and not in a linear map, so CRoFT's image adapter cannot be merged
there. [`~modeling.adapters.carry_kept`] puts the matrix into a buffer of the model that is not saved with the weights, and every image
feature goes through it ([`DualEncoder`]). The configuration of the checkpoint names the file, so that a model that was
loaded without it is refused and not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.utils import CONFIG_NAME

from .adapter_file import ADAPTERS_FILE, IMAGE, KEPT, read_adapter_file
from .dual_encoder import IMAGE_ADAPTER, unwrapped
from .metadata import METADATA_FILE, load_robustft_json
from .tensor_files import read_json_object

#: What `robustft.json` says under `adapters` of a checkpoint with such an adapter.
FACTS = {"file": ADAPTERS_FILE, KEPT: [IMAGE]}


def claims_adapter(folder: str | Path) -> str | None:
    """The file in a checkpoint's `folder` that says that an image adapter belongs to the weights, `None` if none does."""
    folder = Path(folder)
    if (folder / CONFIG_NAME).is_file() and read_json_object(folder / CONFIG_NAME).get(IMAGE_ADAPTER) is not None:
        return CONFIG_NAME
    said = load_robustft_json(folder).get("adapters") if (folder / METADATA_FILE).is_file() else None
    return METADATA_FILE if said and said.get(KEPT) else None


def check_adapter_file(folder: str | Path) -> None:
    """
    Refuse a checkpoint's `folder` that lacks the image adapter that belongs to its weights.

    Raises:
        OSError: If the adapter is missing.
        ValueError: If there is one that is merged.
    """
    folder = Path(folder)
    claimed = claims_adapter(folder)
    if claimed is None:
        return
    if not (folder / ADAPTERS_FILE).is_file():
        raise FileNotFoundError(
            f"There is no {ADAPTERS_FILE} in {folder}, though its {claimed} says that image features go through the adapter in it; "
            "restore it, or train again."
        )
    if read_adapter_file(folder)[1].get(KEPT) != IMAGE:
        raise ValueError(
            f"{ADAPTERS_FILE} in {folder} holds adapters that are merged, though its {claimed} says that the image adapter is not; "
            "restore the file of that training."
        )


def put(model: nn.Module, matrix: Tensor) -> None:
    """Let a `model`, possibly wrapped, carry the `matrix` `(embed_dim, embed_dim)` that its image features go through."""
    core = unwrapped(model)
    core.register_buffer(IMAGE_ADAPTER, matrix.detach().to(core.device), persistent=False)
    setattr(core.config, IMAGE_ADAPTER, ADAPTERS_FILE)


def drop(model: nn.Module) -> None:
    """Take the image adapter out of a `model`, possibly wrapped, that carries one."""
    core = unwrapped(model)
    for holder in (core, core.config):
        if getattr(holder, IMAGE_ADAPTER, None) is not None:
            delattr(holder, IMAGE_ADAPTER)


@contextmanager
def carrying(model: nn.Module, matrix: Tensor | None) -> Iterator[None]:
    """
    A model carries an image adapter as long as the context lasts.

    Args:
        model (`torch.nn.Module`): A dual encoder without one, possibly wrapped.
        matrix (`torch.Tensor` of shape `(embed_dim, embed_dim)`, *optional*): What its image features are multiplied by; `None`
            leaves them as they are.
    """
    if matrix is None:
        yield
        return
    put(model, matrix)
    try:
        yield
    finally:
        drop(model)


def refuse_carried(model: nn.Module, doing: str) -> None:
    """
    Refuse a model with an image adapter where only weights count.

    Args:
        model (`torch.nn.Module`): Any module, possibly wrapped.
        doing (`str`): What cannot be done, with what to do instead.

    Raises:
        ValueError: If the model carries one, or its configuration names one.
    """
    core: Any = unwrapped(model)
    if any(getattr(holder, IMAGE_ADAPTER, None) is not None for holder in (core, getattr(core, "config", None))):
        raise ValueError(f"The model has an image adapter in {ADAPTERS_FILE}, which is not in its weights: {doing}.")
