# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`--cache_images uint8`: where a run keeps its decoded images, and for how long."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.columns import StoredRows
from ..data.decoded_images import FOLDER, DecodedImages, decoded_bytes, room_in


def check_room(rows: StoredRows, output_dir: str | Path) -> None:
    """
    Refuse to keep decoded images for which the disk has no room, and warn of more than the memory holds.

    Args:
        rows ([`~hf_robustft.data.columns.StoredRows`]): The training set; the sizes of some of its images are read.
        output_dir (`str` or `Path`): Of the run, where they would be kept.

    Raises:
        ValueError: If they need more than is free.
    """
    needed, free = decoded_bytes(rows), room_in(output_dir)
    what = f"`cache_images=uint8`: {len(rows):,} decoded images take about {_gigabytes(needed)}"
    if needed > free:
        raise ValueError(f"{what}, and the disk of {output_dir} has {_gigabytes(free)} free; make room, or leave it out.")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > memory:
            warnings.warn(f"{what}, more than the memory of {_gigabytes(memory)}: many will be read from the disk.", stacklevel=3)


@contextmanager
def keeping_decoded(images: DecodedImages | None, args: Any) -> Iterator[None]:
    """
    Keep decoded images as long as the context lasts; every process must enter it.

    Args:
        images ([`~hf_robustft.data.decoded_images.DecodedImages`], *optional*): Those of the training set; `None` keeps nothing.
        args ([`RobustTrainingArguments`]): Settings of the run. The images lie in its `output_dir`.
    """
    folder, makes = Path(args.output_dir) / FOLDER, args.local_process_index == 0
    if makes:
        # What a killed run left may be of other images.
        _remove(folder)
    if images is None:
        yield
        return
    if makes:
        folder.mkdir(parents=True, exist_ok=True)
    PartialState().wait_for_everyone()
    images.begin(folder)
    try:
        yield
    finally:
        images.end()
        if makes:
            _remove(folder)


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    # Another process of the machine may write its last image there.
    shutil.rmtree(folder, ignore_errors=True)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
