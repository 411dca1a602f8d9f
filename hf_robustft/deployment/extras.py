# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What an export needs beyond the package, known without importing it."""

from __future__ import annotations

from importlib.util import find_spec

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
