# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What is shipped with the package: the folders of its data and checkpoints, and the names of the latter."""

from __future__ import annotations

from pathlib import Path

from .messages import quoted

ASSETS = Path(__file__).resolve().parents[1] / "assets"
#: The checkpoints, by the name that stands for them wherever a checkpoint is taken, and what a card says of each.
CHECKPOINTS = {
    "emoji_clip": "The checkpoint that comes with hf_robustft.",
    "emoji_clip_carot": "CaRot's result of the quick start, which comes with hf_robustft.",
}


def asset_path(name: str) -> Path:
    """The folder of a data set or checkpoint that is shipped with the package ("emoji_shift", "emoji_clip").

    Raises:
        ValueError: the package ships nothing of that name.
    """
    known = sorted(entry.name for entry in ASSETS.iterdir() if entry.is_dir()) if ASSETS.is_dir() else []
    if name not in known:
        raise ValueError(f"The package ships no {name!r}; it ships {quoted(known, 20) or 'nothing: reinstall it'}.")
    return ASSETS / name


def check_not_packaged(folder: str | Path, option: str) -> None:
    """
    Refuse to work in the folder of a packaged checkpoint, which everything else here starts from.

    Args:
        folder (`str` or `Path`): Its path, or its name where no folder is called that.
        option (`str`): What the user calls it, for the message.

    Raises:
        ValueError: If it is one, or lies in one.
    """
    path = Path(folder).expanduser()
    named = ASSETS / str(folder) if str(folder) in CHECKPOINTS and not path.exists() else path.resolve()
    if named.is_relative_to(ASSETS):
        raise ValueError(
            f"`{option} {folder}` is part of the package, which stays as it is; copy it first, cp -r {named} outputs/mine, and "
            "give the copy."
        )
