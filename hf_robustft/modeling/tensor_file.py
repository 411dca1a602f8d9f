# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Safetensors files that are whole or not there, and the same bytes whenever their content is the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from .files import whole_file


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """
    Write a safetensors file.

    Args:
        path (`str` or `Path`): The file; its folder is made if it does not exist.
        tensors (`Mapping[str, torch.Tensor]`): On any device.
        metadata (`Mapping[str, str]`): Facts for its header.

    Returns:
        `Path`: The file.
    """
    values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole_file(path) as half:
        save_file(values, half, metadata=dict(metadata))
        _sort_metadata(half)
    return Path(path)


def _sort_metadata(path: Path) -> None:
    # safetensors writes the metadata in the order of a hash that every process draws for itself.
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))
