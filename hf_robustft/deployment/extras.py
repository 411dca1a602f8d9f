# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What an export and a demo need beyond the package, and where they may be written, known without importing much."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

from ..files import READY, is_of_this_room

#: By which the folder of a Space is known as one that was written here.
SPACE_FILE, SPACE_FORMAT = "space.json", "hf_robustft space 1"
#: The formats of an export, and the packages that each needs.
FORMATS = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "torch_export": ()}


def check_format(format: str) -> None:
    """
    Refuse a format that there is not, or whose packages are not installed.

    Args:
        format (`str`): One of `FORMATS`.

    Raises:
        ValueError: If it is not, or a package is missing.
    """
    if format not in FORMATS:
        raise ValueError(f"`--format {format}` is unknown; choose one of {', '.join(FORMATS)}.")
    missing = [name for name in FORMATS[format] if find_spec(name) is None]
    if missing:
        raise ValueError(f'`--format {format}` needs {", ".join(missing)}, which is not installed: pip install "hf_robustft[onnx]"')


def check_demo() -> None:
    """
    Refuse to show a page without what makes it.

    Raises:
        ValueError: If gradio is not installed.
    """
    if find_spec("gradio") is None:
        raise ValueError(
            '`hf-robustft demo` shows a page by gradio, which is not installed: pip install "hf_robustft[demo]", or write a Space by --space'
        )


def check_space_folder(folder: str | Path) -> None:
    """
    Refuse a folder for a Space that holds other things.

    Args:
        folder (`str` or `Path`): The folder; it need not exist.

    Raises:
        ValueError: If it is not empty and not a Space that was written here.
        OSError: If it cannot be read.
    """
    place = Path(folder).expanduser()
    if not place.is_dir() or os.path.lexists(place / READY) or all(is_of_this_room(name) for name in os.listdir(place)):
        return
    try:
        with open(place / SPACE_FILE, encoding="utf-8") as file:
            known = json.load(file)["format"] == SPACE_FORMAT
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        known = False
    if not known:
        raise ValueError(f"`--space {folder}` holds other things than a Space that hf-robustft demo wrote; give a new folder.")
