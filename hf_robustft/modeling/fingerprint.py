# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One short string for the weights of a model, to tell later whether they are still the same to the bit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import nn

from .features import unwrapped


def weights_fingerprint(model: nn.Module, exclude: Iterable[str] = ()) -> str:
    """
    SHA-256 over the names, dtypes, shapes and bytes of a model's `state_dict()`, in the order of the names.

    It depends on no device, on no memory layout and on no wrapper (DDP, `torch.compile`), and it survives saving and
    loading. It does depend on the dtype: a model cast from float32 to bfloat16 is another model.

    Args:
        model: Any module, possibly wrapped.
        exclude (iterable of `str`, *optional*, defaults to none): Names in the state dict to leave out; the name of a
            module (`"text_model"`) leaves out all that is in it.

    Returns:
        `str`: 64 hexadecimal digits.

    Raises:
        ValueError: If an excluded name is not in the model, nothing is left, or an entry is no tensor with data.
    """
    names = [exclude] if isinstance(exclude, str) else list(exclude)
    state = unwrapped(model).state_dict()
    left_out = {entry for name in names for entry in _named(state, name)}
    kept = sorted(state.keys() - left_out)
    if not kept:
        raise ValueError("No weights are left to take a fingerprint of; exclude less, or give a module that has some.")
    digest = hashlib.sha256()
    for name in kept:
        tensor = state[name]
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            raise ValueError(
                f"`{name}` is no tensor with data, so it has no fingerprint; load the weights, or exclude it."
            )
        header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        digest.update(header.encode() + b"\n")
        # Flat first: a scalar cannot be viewed as bytes. Bytes rather than values: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _named(state: dict, name: str) -> list[str]:
    entries = [entry for entry in state if entry == name or entry.startswith(name + ".")]
    if not entries:
        raise ValueError(f"The model has no weights named {name!r} to exclude; take a name of its `state_dict()`.")
    return entries
