# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Own images for the commands."""

from pathlib import Path

import pytest
from helpers import CLASSES, image_dataset


def class_folder(root: Path, n: int, seed: int) -> None:
    """`n` pictures of four classes."""
    for index, row in enumerate(image_dataset(n, seed)):
        folder = root / CLASSES[row["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        row["image"].save(folder / f"{index}.png")


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A folder of three styles of the same classes."""
    root = tmp_path_factory.mktemp("own") / "my"
    for seed, (style, n) in enumerate((("photo", 80), ("sketch", 16), ("cartoon", 16))):
        class_folder(root / style, n, seed)
    return root
