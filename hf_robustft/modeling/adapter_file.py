# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`adapters.safetensors`: CRoFT's adapters beside a model's weights."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .tensor_files import opened

ADAPTERS_FILE = "adapters.safetensors"
FORMAT = "1"
TENSORS = ("image_adapter", "text_adapter")
FACTS = ("image_ratio", "text_ratio", "text_adapter_order", "base_fingerprint", "merged_fingerprint")
#: The fact of a file whose image adapter is in no weight, and its value.
KEPT, IMAGE = "kept", "image"


def read_adapter_file(directory: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """
    Read the file.

    Args:
        directory (`str` or `Path`): The folder.

    Returns:
        `tuple`: `TENSORS`, with the parameters that the adapters are merged into as they were before, and `FACTS`.

    Raises:
        OSError: If the folder holds no `adapters.safetensors`.
        ValueError: If the file is damaged, of another format, or was written by something else.
    """
    path = Path(directory) / ADAPTERS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"No {ADAPTERS_FILE} in {directory}; a run with adapters writes it beside the weights."
        )
    with opened(path) as file:
        facts = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    missing = [name for name in FACTS if name not in facts] + [name for name in TENSORS if name not in tensors]
    if missing or facts.get("adapters_format") != FORMAT:
        what = (
            f"has no {missing[0]}" if missing else f"has the format {facts.get('adapters_format')!r}, not {FORMAT!r}"
        )
        raise ValueError(f"{path} {what}; write it with `FeatureAdapters.save_pretrained` of this version.")
    for name in ("image_ratio", "text_ratio"):
        try:
            float(facts[name])
        except ValueError:
            raise ValueError(f"{path} has the {name} {facts[name]!r}, not a number; restore the file.") from None
    image, text = tensors["image_adapter"], tensors["text_adapter"]
    if not (image.is_floating_point() and text.is_floating_point()):
        raise ValueError(f"{path} has adapters of {image.dtype} and {text.dtype}, not of floating-point numbers; restore the file.")
    if image.ndim != 2 or image.shape[0] != image.shape[1] or text.shape != image.shape:
        raise ValueError(
            f"{path} has adapters of shapes {tuple(image.shape)} and {tuple(text.shape)}, not two square ones of one size; "
            "restore the file."
        )
    return tensors, facts
