# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The files of a checkpoint that are ours: its state (tensors in safetensors, counters in JSON), and the list of all of its
files, so that none that is lost, damaged or of another step is resumed from.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..files import sync, write_whole
from ..modeling.tensor_files import check_is_content, opened, read_json_object, shapes_and_kinds

TENSORS = "robustft_state.safetensors"
VALUES = "robustft_state.json"
#: Beside the state, which is the same of every run with the same settings.
CLOCK = "robustft_clock.json"
FORMAT = 1
FILES = "robustft_files.json"
#: What a resumed run reads; the rest (tokenizer, arguments) it brings along.
_RESUMED = (
    *("*.safetensors", "*.safetensors.index.json", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth"),
    *("trainer_state.json", "robustft_state.json", "config.json"),
)
#: Of them, what a run cannot go on exactly without.
_NEEDED = ("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state*.pth")


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


def write_seconds(directory: str | Path, seconds: float) -> None:
    """Write into the checkpoint `directory` how many `seconds` its run had taken."""
    write_whole(Path(directory) / CLOCK, json.dumps({"wall_seconds": seconds}))


def read_seconds(directory: str | Path) -> float:
    """How many seconds a run had taken when the checkpoint `directory` was written; 0 where it does not say."""
    try:
        seconds = float(read_json_object(Path(directory) / CLOCK)["wall_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    return seconds if 0 < seconds < math.inf else 0.0


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_files(folder: str | os.PathLike, step: int) -> None:
    """
    List the files of a complete checkpoint, and bring all of them to the disk.

    Args:
        folder (`str` or path): The checkpoint; without the list it does not count as one.
        step (`int`): The optimizer step after which it was written.
    """
    folder = Path(folder)
    found = sorted({path for pattern in _RESUMED for path in folder.glob(pattern)})
    # Hashes are made in threads while the disk is busy.
    with ThreadPoolExecutor() as pool:
        synced = pool.submit(sync, folder)
        hashes = pool.map(_hash, found)
        files = {path.name: {"bytes": path.stat().st_size, "sha256": digest} for path, digest in zip(found, hashes, strict=True)}
        synced.result()
    write_whole(folder / FILES, json.dumps({"format": FORMAT, "step": step, "files": files}, indent=1))


def check_files(folder: str | os.PathLike) -> int:
    """
    Refuse a checkpoint if the files in `folder` are not those that it was saved with.

    Args:
        folder (`str` or path): The checkpoint.

    Returns:
        `int`: The step after which it was saved.

    Raises:
        OSError: If one is missing or empty, or the checkpoint was not saved to its end.
        ValueError: If one has different contents.
    """
    folder = Path(folder)
    if not (folder / FILES).is_file():
        raise OSError(
            f"{folder} has no {FILES}, which is written last, so the checkpoint may not be whole; {_INSTEAD}."
        )
    manifest = read_json_object(folder / FILES)
    files, step = manifest.get("files"), manifest.get("step")
    if manifest.get("format") != FORMAT or not isinstance(files, dict) or not isinstance(step, int):
        raise ValueError(f"{folder / FILES} is not a list of files that this version reads; {_INSTEAD}.")
    for name in files:
        if not (folder / name).is_file():
            raise OSError(f"{folder} has no {name}, which the checkpoint was saved with; {_INSTEAD}.")
        check_is_content(folder / name)
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(_hash, [folder / name for name in files])
        for (name, saved), digest in zip(files.items(), hashes, strict=True):
            if saved != {"bytes": (folder / name).stat().st_size, "sha256": digest}:
                raise ValueError(
                    f"{folder / name} is not the file that the checkpoint was saved with: it was cut off, changed, or is "
                    f"that of another step; {_INSTEAD}."
                )
    return step


_INSTEAD = "copy the folder again, or resume from another checkpoint"


def _check_without_list(folder: Path) -> None:
    """As `check_files`, as far as that can be told of a checkpoint of a version that listed no files."""
    for pattern in _NEEDED:
        found = sorted(folder.glob(pattern))
        if not found:
            raise OSError(f"{folder} has no {pattern}, so the run cannot go on exactly; {_INSTEAD}.")
        for path in found:
            check_is_content(path)
            # The names of the parts stand at the end of such a file.
            if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
                raise ValueError(f"{path} is cut off or damaged; {_INSTEAD}.")
    for path in sorted(folder.glob("*.safetensors")):
        shapes_and_kinds(path)


def whole_state(folder: str | os.PathLike) -> dict[str, Any]:
    """
    The state that `save_state` wrote into a checkpoint, if all of that is of one step and as it was saved.

    Args:
        folder (`str` or path): The checkpoint.

    Raises:
        OSError, ValueError: By the name of the file that is missing, damaged, or of another step.
    """
    folder = Path(folder)
    state = load_state(folder)
    steps = {}
    if state.get("lists_files"):
        steps[FILES] = check_files(folder)
    else:
        _check_without_list(folder)
    step = steps["trainer_state.json"] = read_json_object(folder / "trainer_state.json").get("global_step")
    if named := re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", folder.resolve().name):
        steps["the name of its folder"] = int(named[1])
    # Steps that half precision skipped are not counted.
    updates = state.get("optimizer_steps")
    if len(set(steps.values())) > 1 or not isinstance(step, int) or not isinstance(updates, int) or updates > step:
        told = ", ".join(f"{value} by {name}" for name, value in {**steps, VALUES: updates}.items())
        raise ValueError(f"{folder} is mixed of several checkpoints, its step being {told}; {_INSTEAD}.")
    return state


def is_unwritten(error: BaseException) -> bool:
    """Whether an error is that of a file that could not be written, in the words of Python, safetensors or torch."""
    of_torch = isinstance(error, RuntimeError) and ("PytorchStreamWriter" in str(error) or "inline_container" in str(error))
    return isinstance(error, (OSError, SafetensorError)) or of_torch
