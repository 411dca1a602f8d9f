# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Files of cached features: what they depend on, writing them whole, and reading them only where every fact agrees."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import fsspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..data.benchmarks import Benchmark
from ..data.transforms import ImageTransform

FORMAT = 1
# What a vision tower computes beyond its weights. A tower with the same weights and another activation is another.
_TOWER_SETTINGS = ("hidden_act", "num_attention_heads", "layer_norm_eps", "image_size", "patch_size")
#: The facts a file must share with what is asked for, and what it means if it does not.
_MADE = {
    "format": "it was written by another version of hf_robustft",
    "model": "it was made by another model: the weights of its vision tower or visual projection differ",
    "tower": "it was made by another model: the configuration of its vision tower differs",
    "rows": "it was made of other data: the number of images differs",
    "images": "it was made of other data: the images or their order differ",
    "views": "it holds other views",
    "seed": "its views were drawn with another seed",
    "transform": "it was made with another image transform",
    "dtype": "it holds features of another precision",
}


def images_fingerprint(dataset: datasets.Dataset, image_column: str = "image", skips: bool = False) -> str:
    """
    SHA-256 over the encoded images of a data set in their order.

    The fingerprint that `datasets` keeps would be cheaper, but it follows paths and times of files: it changes when data
    are moved and stays when the pictures behind stored paths change.

    Args:
        dataset: Rows with an image column, as `Benchmark.load` returns them.
        image_column (`str`, *optional*, defaults to `"image"`).
        skips (`bool`, *optional*, defaults to `False`): Count an image that is missing as one of no bytes.

    Returns:
        `str`: 64 hexadecimal digits.

    Raises:
        OSError: If an image is missing, or its file cannot be read.
    """
    rows = dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    digest = hashlib.sha256()
    for index, row in enumerate(rows):
        encoded = row[image_column] or {}
        content, path = encoded.get("bytes"), encoded.get("path")
        if content is None and path is None:
            if not skips:
                raise OSError(f"row {index} has no image; leave the row out")
            content = b""
        if content is None:
            try:
                with open(path, "rb") if Path(path).is_file() else fsspec.open(path, "rb") as file:
                    content = file.read()
            except (OSError, ValueError) as error:
                if not skips or not isinstance(error, (FileNotFoundError, IsADirectoryError, PermissionError)):
                    raise OSError(
                        f"the image of row {index} ({path}) cannot be read: {error}; mend or remove it"
                    ) from error
                content = b""
        # The length goes first, so that no two lists of images run together to the same bytes.
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


def feature_facts(
    model: nn.Module,
    fingerprint: str,
    benchmark: Benchmark,
    transform: ImageTransform,
    views: int,
    seed: int,
    skips: bool = False,
) -> dict[str, Any]:
    """All that the features depend on, as JSON gives it back."""
    config, dataset = model.config.vision_config, benchmark.load()
    facts = {
        "format": FORMAT,
        "model": fingerprint,
        "tower": {name: getattr(config, name) for name in _TOWER_SETTINGS},
        "rows": len(dataset),
        "images": images_fingerprint(dataset, benchmark.image_column, skips),
        "views": views,
        "seed": int(seed) if views else None,
        "transform": {**asdict(transform), "resample": str(getattr(transform.resample, "value", transform.resample))},
        "dtype": str(feature_dtype(model)).removeprefix("torch."),
    }
    return json.loads(json.dumps(facts))


def file_name(facts: dict[str, Any]) -> str:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"features-{key[:32]}.safetensors"


def feature_dtype(model: nn.Module) -> torch.dtype:
    return torch.float64 if model.dtype == torch.float64 else torch.float32


def write_features(path: Path, features: Tensor, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, then renamed: a run that is stopped here leaves no half file under the name that is looked for.
    half = path.with_name(f".{path.name}.{os.getpid()}.new")
    metadata = {"format": "pt", "facts": json.dumps(facts, sort_keys=True), "content": _content(features)}
    try:
        save_file({"features": features}, half, metadata=metadata)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def _content(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy()).hexdigest()


def read_features(path: Path, facts: dict[str, Any]) -> Tensor:
    """The features in a file, after every fact of it has been compared with `facts`."""
    damaged = f"{path} is no undamaged file of cached features"
    cure = "remove it, or give another cache_file"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            features = file.get_tensor("features")
        stored = json.loads(metadata["facts"])
        content = metadata["content"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{damaged} ({error}); {cure}.") from None
    if not isinstance(stored, dict):
        raise ValueError(f"{damaged} (its facts are no JSON object); {cure}.")
    for name, meaning in _MADE.items():
        if stored.get(name) != facts[name]:
            there, here = _difference(stored.get(name), facts[name])
            raise ValueError(f"{path} cannot be used here: {meaning} (there {there}, here {here}); {cure}.")
    if _content(features) != content or features.shape[:2] != (max(facts["views"], 1), facts["rows"]):
        raise ValueError(f"{damaged} (its features are not those that were written); {cure}.")
    return features


def _difference(there: Any, here: Any) -> tuple[str, str]:
    """Two unequal facts in few words: of settings those that differ, of fingerprints the beginning."""
    if isinstance(there, dict) and isinstance(here, dict):
        differing = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
        return tuple(", ".join(f"{name} {side.get(name)}" for name in differing) for side in (there, here))
    return tuple(side[:12] if isinstance(side, str) else str(side) for side in (there, here))
