# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`adapters.safetensors`: what is in it, writing and reading it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .projections import PROJECTIONS
from .tensor_file import write_tensors
from .weight_files import opened

ADAPTERS_FILE = "adapters.safetensors"
FORMAT = "1"
TENSORS = ("image_adapter", "text_adapter", *PROJECTIONS)
FACTS = ("image_ratio", "text_ratio", "text_adapter_order", "base_fingerprint", "merged_fingerprint")


def write_adapters_file(directory: str | Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> Path:
    """Write the `TENSORS` and the `FACTS` into `directory` (made where it is missing), whole or not at all."""
    path = Path(directory) / ADAPTERS_FILE
    values = {name: tensors[name].clone() for name in TENSORS}
    metadata = {"format": "pt", "adapters_format": FORMAT, **{name: facts[name] for name in FACTS}}
    return write_tensors(path, values, metadata)


def read_adapters_file(directory: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """
    The `TENSORS` and the `FACTS` of the file in `directory`.

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
            raise ValueError(
                f"{path} has the {name} {facts[name]!r}, which is not a number; restore the file."
            ) from None
    image, text = tensors["image_adapter"], tensors["text_adapter"]
    if image.ndim != 2 or image.shape[0] != image.shape[1] or text.shape != image.shape:
        raise ValueError(
            f"{path} has adapters of shapes {tuple(image.shape)} and {tuple(text.shape)}, not two square ones of one size; "
            "restore the file."
        )
    return tensors, facts
