# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Weights in files: written whole, read or refused in one line, and known again by a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..files import whole_file
from .dual_encoder import unwrapped

_LFS = b"version https://git-lfs"
#: What safetensors calls the kinds of number that weights may be in.
FLOATS = ("F16", "BF16", "F32", "F64")
HALVES = ("F16", "BF16")
#: Of thousands of weights, or of tens of thousands of class names, it has a few hundred kilobytes.
_LONGEST_HEADER = 10_000_000


class UnreadableFile(OSError, ValueError):
    """A file that is there, but whose content is not what it should be."""


def check_is_content(path: Path) -> None:
    """
    Refuse a file (`path`) without content, and one that stands for its content in a clone without git-lfs.

    Raises:
        OSError: If it is empty, a git-lfs pointer, or cannot be opened.
    """
    with open(path, "rb") as file:
        start = file.read(len(_LFS))
    if not start:
        raise OSError(f"{path} is empty; copy or save it again.")
    if start == _LFS:
        raise OSError(
            f"{path} is a git-lfs pointer, not the file itself; fetch the content by `git lfs pull` in its folder."
        )


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """
    The safetensors file `path`, open for reading.

    Raises:
        OSError: If there is no such file, or it is empty or a git-lfs pointer.
        UnreadableFile: If it is cut off, damaged, or in another format.
    """
    path = Path(path)
    check_is_content(path)
    with open(path, "rb") as start:
        length = int.from_bytes(start.read(8), "little")
    if length > _LONGEST_HEADER:
        raise UnreadableFile(f"{path} cannot be read: it is damaged or not in safetensors (a header of {length:,} bytes); copy or save it again.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        reason = " ".join(str(error).split())
        raise UnreadableFile(
            f"{path} cannot be read: it is damaged or not in safetensors ({reason}); copy or save it again."
        ) from None


def shapes_and_kinds(path: str | Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and kind of number (`"F32"`, ...) of each tensor of the safetensors file `path`, by name; none is read."""
    with opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}
        return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in parts.items()}


def read_json_object(path: str | Path) -> dict[str, Any]:
    """
    The object in the JSON file `path`.

    Raises:
        OSError: If there is no such file, or it is empty or a git-lfs pointer.
        ValueError: If it is not JSON, or JSON of another kind.
    """
    path = Path(path)
    check_is_content(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); copy or save it again.") from None
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__} instead of an object; copy or save it again.")
    return dict(content)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """
    Write a safetensors file.

    Args:
        path (`str` or `Path`): The file; its folder is made if it does not exist.
        tensors (`Mapping[str, torch.Tensor]`): On any device.
        metadata (`Mapping[str, str]`): Facts for its header.

    Returns:
        `Path`: The file.
    """
    values = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    with whole_file(path) as half:
        save_file(values, half, metadata=dict(metadata))
        _sort_metadata(half)
    return Path(path)


def _sort_metadata(path: Path) -> None:
    # safetensors writes the metadata in the order of a hash that every process draws for itself.
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of those of the `tensors` that hold NaN or infinity."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()]


def weights_fingerprint(model: nn.Module, exclude: Iterable[str] = ()) -> str:
    """
    SHA-256 over the names, dtypes, shapes and bytes of a model's `state_dict()`, in the order of the names.

    It depends on no device, on no memory layout and on no wrapper (DDP, `torch.compile`), and it survives saving and
    loading. It does depend on the dtype: a model cast from float32 to bfloat16 is another model.

    Args:
        model (`torch.nn.Module`): Any module, possibly wrapped.
        exclude (iterable of `str`, *optional*, defaults to none): Names in the state dict to leave out; the name of a
            module (`"text_model"`) leaves out all that is in it.

    Returns:
        `str`: 64 hexadecimal digits.

    Raises:
        ValueError: If an excluded name is not in the model, nothing is left, or an entry is not a tensor with data.
    """
    names = [exclude] if isinstance(exclude, str) else list(exclude)
    state = unwrapped(model).state_dict()
    left_out = {entry for name in names for entry in _named(state, name)}
    kept = sorted(state.keys() - left_out)
    if not kept:
        raise ValueError("No weights are left to take a fingerprint of; exclude less, or give a module that has some.")
    digest = hashlib.sha256()
    for name in kept:
        tensor = state[name]
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            raise ValueError(
                f"`{name}` is not a tensor with data, so it has no fingerprint; load the weights, or exclude it."
            )
        header = json.dumps([name, str(tensor.dtype), list(tensor.shape)])
        digest.update(header.encode() + b"\n")
        # Flat first: a scalar cannot be viewed as bytes. Bytes rather than values: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _named(state: dict, name: str) -> list[str]:
    entries = [entry for entry in state if entry == name or entry.startswith(name + ".")]
    if not entries:
        raise ValueError(f"The model has no weights named {name!r} to exclude; take a name of its `state_dict()`.")
    return entries
