# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether the weights in a folder are still those that its temperature, thresholds, detector and prediction sets were fitted with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Not a trained head, whose classes are compared, nor adapters, which have fingerprints of the weights that they belong to.
_FILES = ("model.safetensors", "model-*-of-*.safetensors")
#: Bytes of each of the pieces of a tensor that are looked at, and their number.
_PIECE, _PIECES = 64, 4
# As `safetensors` has it.
_LONGEST_HEADER = 100_000_000


def weight_files(folder: str | Path) -> dict[str, Path]:
    """Return by name the files in a `folder` that hold a model's own weights."""
    return {path.name: path for pattern in _FILES for path in Path(folder).glob(pattern)}


def weights_sample(files: Iterable[Path]) -> str | None:
    """
    A hash of a few values of each weight in some files: milliseconds, where a hash of all takes seconds.

    It depends on values and precision alone, and not on which file holds a weight or what it is called there.

    Args:
        files (iterable of `Path`): The files.

    Returns:
        `str` or `None`: The precisions and the hash, as `"F32:4c1f..."`; `None` where there are no weights.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a file is not in the format of safetensors.
    """
    found = [entry for path in files for entry in _tensors(path)]
    if not found:
        return None
    precisions = "+".join(sorted({precision for precision, _ in found}))
    return f"{precisions}:{hashlib.sha256(b''.join(sorted(digest for _, digest in found))).hexdigest()}"


def check_fitted_weights(folder: str | Path, facts: Mapping[str, Any], parts: tuple[str, ...]) -> None:
    """
    Refuse weights that are not those that something in `robustft.json` was fitted with.

    Nothing is refused where that cannot be told: in a folder without weights, with weights of another precision, or of an earlier version.

    Args:
        folder (`str` or `Path`): The folder.
        facts (`Mapping[str, Any]`): What its `robustft.json` says.
        parts (`tuple[str, ...]`): The parts of it that are to be used.

    Raises:
        ValueError: If the weights are others.
    """
    used, wanted = [part for part in parts if part in facts], facts.get("fitted_weights")
    if not used or wanted is None:
        return
    there = weights_sample(weight_files(folder).values())
    if there is not None and there != wanted and there.partition(":")[0] == wanted.partition(":")[0]:
        raise ValueError(
            f"The weights in {folder} are not those that {', '.join(used)} of its robustft.json {'was' if len(used) == 1 else 'were'} fitted "
            "with; put those back, or complete the folder with these by `finish_checkpoint`, which fits again."
        )


def _tensors(path: Path) -> Iterator[tuple[str, bytes]]:
    """The precision of each floating-point tensor of a file, and a digest of its size and some of its values."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            if length > _LONGEST_HEADER:
                raise ValueError
            header = json.loads(file.read(length))
            entries = [(entry["dtype"], *entry["data_offsets"]) for name, entry in header.items() if name != "__metadata__"]
            entries = [(str(precision), int(start), int(stop)) for precision, start, stop in entries]
            if any(not 0 <= start <= stop <= path.stat().st_size - 8 - length for _, start, stop in entries):
                raise ValueError
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise ValueError(f"{path} is not in the format of safetensors; save the model again.") from None
        for precision, start, stop in entries:
            # Buffers of positions come and go with the version of Transformers.
            if not precision.startswith(("F", "BF")):
                continue
            digest = hashlib.sha256(f"{precision}:{stop - start}".encode())
            for piece in range(_PIECES):
                # The first one at the beginning, the last one at the end, each on the boundary of a number.
                file.seek(8 + length + start + max(stop - start - _PIECE, 0) * piece // (_PIECES - 1) // 8 * 8)
                digest.update(file.read(min(_PIECE, stop - start)))
            yield precision, digest.digest()
