# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The files of a checkpoint that are ours: its state (tensors in safetensors, counters in JSON), and the list of all of its
files, so that none that is lost, damaged or of another step is resumed from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..modeling.tensor_files import check_is_content, opened, read_json_object

TENSORS = "robustft_state.safetensors"
VALUES = "robustft_state.json"
FORMAT = 1
FILES = "robustft_files.json"
#: What a resumed run reads; the rest (tokenizer, arguments) it brings along.
_RESUMED = (
    *("*.safetensors", "*.safetensors.index.json", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
    *("trainer_state.json", "robustft_state.json", "config.json"),
)
#: Of a large file so many blocks are compared, spread evenly: optimizers have gigabytes, and change everywhere at once.
_BLOCKS, _BLOCK = 64, 1 << 16


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
    Read what `save_state` wrote into `directory`.

    Args:
        directory (`str` or `Path`): The checkpoint.

    Returns:
        `dict[str, Any]`: The state.

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


def _described(path: Path) -> dict[str, Any]:
    size, digest = path.stat().st_size, hashlib.sha256()
    with open(path, "rb") as file:
        if size <= _BLOCKS * _BLOCK:
            digest.update(file.read())
        else:
            for block in range(_BLOCKS):
                file.seek((size - _BLOCK) * block // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return {"bytes": size, "digest": digest.hexdigest()[:16]}


def record_files(folder: str | os.PathLike) -> None:
    """Write down the files of a complete checkpoint in a `folder`; without the list it does not count as one."""
    folder = Path(folder)
    found = sorted({path for pattern in _RESUMED for path in folder.glob(pattern)})
    new = folder / f"{FILES}.new"
    new.write_text(json.dumps({path.name: _described(path) for path in found}, indent=1), encoding="utf-8")
    os.replace(new, folder / FILES)


def check_files(folder: str | os.PathLike) -> None:
    """
    Refuse a checkpoint if the files in `folder` are not those that it was saved with.

    Args:
        folder (`str` or path): The checkpoint.

    Raises:
        OSError: If one is missing or empty, or the checkpoint was not saved to its end.
        ValueError: If one has different contents.
    """
    folder = Path(folder)
    if not (folder / FILES).is_file():
        raise OSError(
            f"{folder} has no {FILES}, which is written last, so the checkpoint may not be whole; copy the folder again, "
            "or resume from another checkpoint."
        )
    for name, saved in read_json_object(folder / FILES).items():
        if not (folder / name).is_file():
            raise OSError(
                f"{folder} has no {name}, which the checkpoint was saved with; copy the folder again, or resume from "
                "another checkpoint."
            )
        check_is_content(folder / name)
        if _described(folder / name) != saved:
            raise ValueError(
                f"{folder / name} is not the file that the checkpoint was saved with: it was cut off, changed, or is that "
                "of another step; copy the folder again, or resume from another checkpoint."
            )
