# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The part of a checkpoint that is ours: tensors in safetensors, counters in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..modeling.tensor_files import opened, read_json_object

TENSORS = "robustft_state.safetensors"
VALUES = "robustft_state.json"
FORMAT = 1


def save_state(directory: str | Path, state: Mapping[str, Any]) -> None:
    """
    Write a flat state of tensors and JSON values into `directory`.

    Raises:
        TypeError: If a value is neither a tensor nor representable in JSON.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in state.items() if isinstance(v, torch.Tensor)}
    values = {k: v for k, v in state.items() if not isinstance(v, torch.Tensor)}
    text = json.dumps({"format": FORMAT, "tensors": sorted(tensors), "values": values}, indent=1)
    save_file(tensors, directory / TENSORS, metadata={"format": "pt"})
    (directory / VALUES).write_text(text, encoding="utf-8")


def load_state(directory: str | Path) -> dict[str, Any]:
    """
    Read what `save_state` wrote.

    Raises:
        OSError: If one of the two files is missing: resuming without them would silently restart the teacher.
        ValueError: If they do not belong together, or come from a newer version.
    """
    directory = Path(directory)
    missing = [name for name in (TENSORS, VALUES) if not (directory / name).is_file()]
    if missing:
        raise OSError(
            f"{directory} has no {' and no '.join(missing)}, so teacher and counters cannot be resumed; choose a "
            "checkpoint that RobustTrainer saved without `save_only_model`, or start a new run from its weights."
        )
    saved = read_json_object(directory / VALUES)
    if saved.get("format") != FORMAT:
        raise ValueError(
            f"{directory / VALUES} has format {saved.get('format')}, this version reads {FORMAT}; "
            "resume with the version that wrote it."
        )
    with opened(directory / TENSORS) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if sorted(tensors) != saved.get("tensors") or not isinstance(saved.get("values"), dict):
        raise ValueError(f"{TENSORS} and {VALUES} in {directory} are not of one checkpoint; restore the pair.")
    return {**tensors, **saved["values"]}
