# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What of a folder goes into the stage of its new files: what stays, and weights in which scalars change."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..modeling.zero_shot import HEAD_FILE
from . import eval_results
from .card_file import CARD_FILE, is_untouched


def copy_what_stays(folder: Path, stage: Path, stays: Sequence[str]) -> None:
    """
    Copy what the card speaks of, such as pictures and the family, and what people wrote of card and entries, which their writers keep.

    Args:
        folder (`Path`): The folder.
        stage (`Path`): Of its new files; what is there already stays.
        stays (`Sequence[str]`): Names of files that are copied too.
    """
    written = (folder / CARD_FILE, *(folder / eval_results.FOLDER).glob("*.yaml"))
    theirs = [path for path in written if path.is_file() and not (is_untouched if path.name == CARD_FILE else eval_results.is_ours)(path)]
    for path in (*theirs, *(folder / name for name in stays)):
        name = path.relative_to(folder)
        if path.is_file() and not (stage / name).exists():
            (stage / name).parent.mkdir(exist_ok=True)
            shutil.copy2(path, stage / name)


def save_scalars(folder: Path, stage: Path, scalars: Mapping[str, Tensor]) -> None:
    """
    Write again the files of the weights that hold some scalars, mostly one.

    Args:
        folder (`Path`): The folder.
        stage (`Path`): Of its new files.
        scalars (`Mapping[str, torch.Tensor]`): By name.

    Raises:
        OSError: If no file of the folder holds one of them.
    """
    missing = set(scalars)
    for path in sorted(folder.glob("*.safetensors")):
        if path.name == HEAD_FILE:
            continue
        with safe_open(path, framework="pt") as file:
            found, metadata = missing & set(file.keys()), file.metadata()
        if found:
            tensors = load_file(path)
            tensors |= {name: scalars[name].detach().to("cpu", tensors[name].dtype) for name in found}
            save_file(tensors, stage / path.name, metadata=metadata)
            missing -= found
    if missing:
        raise OSError(
            f"No .safetensors file in {folder} holds `{sorted(missing)[0]}`; save the model there with save_pretrained first."
        )
