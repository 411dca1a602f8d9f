# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What an export and a demo need beyond the package, and where they may be written, known without importing much."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..files import READY, is_of_this_room

#: By which the folder of a Space is known as one that was written here.
SPACE_FILE, SPACE_FORMAT = "space.json", "hf_robustft space 1"
#: The formats of an export, and the packages that each needs.
FORMATS: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "torch_export": ()}
#: The files of each precision of an export, the float32 one first.
PRECISIONS = {"fp32": "model", "fp16": "model_fp16", "int8": "model_int8", "int8-static": "model_int8_static"}
#: Share of images on which a graph must decide as the pipeline, unless another one is stated.
MIN_AGREEMENT = 0.999


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


def check_export_options(
    format: str,
    precisions: Sequence[str],
    min_agreement: float | None = None,
    check_images: int = 1,
    batch_size: int = 1,
    opset: int | None = None,
    has_images: bool = False,
) -> None:
    """
    Refuse options of an export that are out of range, or would do nothing.

    Args:
        format (`str`), precisions (`Sequence[str]`), min_agreement (`float`, *optional*), check_images (`int`, *optional*), batch_size (`int`,
            *optional*), opset (`int`, *optional*): As for [`~hf_robustft.export_checkpoint`].
        has_images (`bool`, *optional*, defaults to `False`): Whether images were given.

    Raises:
        ValueError: By the name of the option.
    """
    check_format(format)
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown or not precisions:
        raise ValueError(f"`--precision {' '.join(unknown)}` is unknown; choose of {', '.join(PRECISIONS)}.")
    others = [name for name in precisions if name != "fp32"]
    if format != "onnx" and others:
        raise ValueError(f"`--precision {others[0]}` is for --format onnx; a {format} has fp32 alone.")
    if format != "onnx" and opset is not None:
        raise ValueError(f"`--opset {opset}` is for --format onnx; leave it out.")
    if opset is not None and not 18 <= opset <= 25:
        raise ValueError(f"`--opset {opset}`: torch's exporter writes 18 and later; leave it out for its own.")
    if "int8-static" in precisions and not has_images:
        raise ValueError("`--precision int8-static` fixes ranges by validation images; give them by --dataset.")
    if min_agreement is not None and not 0 < min_agreement <= 1:
        raise ValueError(f"`--min_agreement {min_agreement:g}` is a share of images; give one above 0, and 1 at most.")
    if min_agreement is not None and not others:
        raise ValueError(f"`--min_agreement {min_agreement:g}` is for other precisions than fp32, which needs {MIN_AGREEMENT}; leave it out.")
    for name, value in (("check_images", check_images), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"`--{name} {value}` must be at least 1.")


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
