# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What `hf-robustft watch` knows from one day to the next, in its output folder. All files change together, or none.

`watch.json` says what is watched, what was found, and the SHA-256 of the files that the next call reads: `watch_images.jsonl`, a line for
each image, `watch_reference.safetensors`, what was measured on the reference, and `watch_latest.safetensors`, the latest embeddings.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ..data.messages import quoted
from ..files import changing, write_whole
from ..modeling.tensor_files import opened, write_tensors
from .watching import BLOCK, RECENT, Reference, Stream

WATCH, PAGE = "watch.json", "watch.html"
_IMAGES, _REFERENCE, _LATEST = "watch_images.jsonl", "watch_reference.safetensors", "watch_latest.safetensors"
_FORMAT = 1
#: What is shown of a record and not compared: models and references are known by their content, wherever they lie.
_SHOWN = ("MODEL", "--reference", "hf_robustft")
_TENSORS = ("score", "probability", "bank", "distance", "gaps", "mean", "centres")


@dataclass
class Watched:
    """
    A watch as far as it has come.

    Attributes:
        record (`dict[str, Any]`): By the name of an option what all of it depends on, as JSON.
        reference ([`Reference`]), stream ([`Stream`]): What was measured.
        broken (`dict[str, dict[str, Any]]`): By the name of a file that could not be read its `error`, its `size` and `time`, by which
            a file that was written to its end since is known, and `after` how many images it came.
    """

    record: dict[str, Any]
    reference: Reference
    stream: Stream
    broken: dict[str, dict[str, Any]] = field(default_factory=dict)


def save(folder: Path, watched: Watched, report: Mapping[str, Any], page: str) -> None:
    """
    Write a watch.

    Args:
        folder (`Path`): Its output folder.
        watched ([`Watched`]): What the next call goes on from.
        report (`Mapping[str, Any]`): What was found, as JSON.
        page (`str`): The same as HTML.

    Raises:
        FolderInUse, OSError: As [`~hf_robustft.files.changing`].
    """
    reference, stream = watched.reference, watched.stream
    with changing(folder, by="hf-robustft watch") as stage:
        tensors = {name: getattr(reference, name) for name in _TENSORS}
        accepted = -1.0 if reference.accepted is None else reference.accepted
        numbers = torch.tensor([reference.clip, reference.spread, reference.class_spread, accepted], dtype=torch.float64)
        write_tensors(stage / _REFERENCE, {**tensors, "numbers": numbers}, {})
        write_tensors(stage / _LATEST, {"recent": stream.recent}, {})
        write_whole(stage / _IMAGES, "".join(f"{json.dumps(row)}\n" for row in _rows(stream)))
        hashes = {name: _hash(stage / name) for name in (_IMAGES, _REFERENCE, _LATEST)}
        broken = [{"image": name, **facts} for name, facts in sorted(watched.broken.items())]
        content = {"format": _FORMAT, "record": watched.record, **report, "classes": reference.classes, "broken": broken, "files": hashes}
        write_whole(stage / WATCH, json.dumps(content, indent=1) + "\n")
        write_whole(stage / PAGE, page)


def load(folder: Path) -> Watched | None:
    """
    Read a watch.

    Args:
        folder (`Path`): Its output folder, which is locked.

    Returns:
        [`Watched`]: `None` if there is none.

    Raises:
        ValueError: If a file is missing or damaged, or not what was written with the others.
    """
    path = folder / WATCH
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        _check(isinstance(content, dict) and content.get("format") == _FORMAT, "another version wrote it")
        _check(isinstance(content.get("record"), dict) and isinstance(content.get("files"), dict), "it does not say of what it is")
        broken = _broken(content.get("broken"))
        for name in (_IMAGES, _REFERENCE, _LATEST):
            path = folder / name
            _check(content["files"].get(name) == _hash(path), f"it is not what {WATCH} was written with")
        path = folder / _REFERENCE
        reference = _reference(path, content.get("classes"))
        path = folder / _LATEST
        recent = _tensors(path, ("recent",))["recent"]
        path = folder / _IMAGES
        return Watched(content["record"], reference, _stream(path, recent, reference), broken)
    except (ValueError, OSError, KeyError, IndexError, TypeError, RecursionError) as error:
        if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, ValueError, IsADirectoryError)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is missing or damaged ({reason}); begin again with --overwrite, or give another --output_dir.") from None


def check_same(known: Mapping[str, Any], record: Mapping[str, Any], folder: Path) -> None:
    """
    Refuse to go on with a watch of something else.

    Args:
        known (`Mapping[str, Any]`), record (`Mapping[str, Any]`): What it depended on, and does now.
        folder (`Path`): Its output folder.

    Raises:
        ValueError: In one line, in what they differ.
    """
    other = [name for name in dict.fromkeys([*known, *record]) if name not in _SHOWN and known.get(name) != record.get(name)]
    if other:
        said = "; ".join(f"{_short(name)} {_short(known.get(name))} instead of {_short(record.get(name))}" for name in other)
        raise ValueError(
            f"`--output_dir {folder}` holds a watch with {said}. Give what it had to go on, another folder, or --overwrite to begin again."
        )


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 40 else f"{text[:37]}..."


def _check(holds: bool, why: str) -> None:
    if not holds:
        raise ValueError(why[:1].upper() + why[1:])


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _rows(stream: Stream) -> list[dict[str, Any]]:
    columns = zip(stream.names, stream.labels, stream.known, stream.probability, stream.score, stream.distance, strict=True)
    rows = [dict(zip(("image", "label", "is_known", "probability", "score", "distance"), row, strict=True)) for row in columns]
    for index, gap in enumerate(stream.gaps, 1):
        rows[index * BLOCK - 1]["gap"] = gap
    return rows


def _stream(lines: Path, recent: Tensor, reference: Reference) -> Stream:
    stream, finite = Stream(recent), _is_finite
    with open(lines, encoding="utf-8") as file:
        for count, line in enumerate(file, 1):
            row = json.loads(line)
            _check(isinstance(row, dict), f"line {count} is not an object")
            numbers = [row.get(name) for name in ("probability", "score", "distance")]
            _check(isinstance(row.get("image"), str) and isinstance(row.get("label"), str), f"line {count} has no image or label")
            path = PurePosixPath(row["image"])
            _check(not path.is_absolute() and ".." not in path.parts, f"line {count} is of an image elsewhere")
            _check(row.get("is_known") is None or isinstance(row["is_known"], bool), f"line {count} has a wrong is_known")
            _check(all(map(finite, numbers)) and 0 <= numbers[0] <= 1, f"line {count} has a wrong number")
            _check(("gap" in row) == (count % BLOCK == 0), f"line {count} has a gap too many or too few")
            stream.names.append(row["image"])
            stream.labels.append(row["label"])
            stream.known.append(row["is_known"])
            for name, number in zip(("probability", "score", "distance"), numbers, strict=True):
                getattr(stream, name).append(float(number))
            if "gap" in row:
                _check(finite(row["gap"]) and 0 <= row["gap"] <= reference.clip, f"line {count} has a wrong gap")
                stream.gaps.append(float(row["gap"]))
    _check(len(set(stream.names)) == len(stream.names), "an image is there twice")
    _check(recent.shape == (min(len(stream.names), RECENT), len(reference.mean)), f"{_LATEST} is of other images")
    _check((reference.accepted is None) == (None in stream.known) or not stream.known, "the detector came or went")
    return stream


def _reference(path: Path, classes: Any) -> Reference:
    _check(isinstance(classes, list) and all(isinstance(name, str) for name in classes) and len(set(classes)) == len(classes), "it has no classes")
    tensors = _tensors(path, (*_TENSORS, "numbers"))
    n, dim = len(tensors["score"]), tensors["mean"].shape[-1]
    bank, distance = len(tensors["bank"]), n - n // 2
    shapes = {"score": (n,), "probability": (n,), "bank": (bank, dim), "distance": (distance,), "gaps": (distance // BLOCK,), "mean": (dim,), "numbers": (4,)}
    shapes["centres"] = (len(classes), dim)
    for name, shape in shapes.items():
        _check(tensors[name].shape == shape and n > 0 and bank > 0, f"{name} has a wrong shape")
    clip, spread, class_spread, accepted = tensors.pop("numbers").tolist()
    _check(min(clip, spread, class_spread) >= 0 and (accepted == -1 or 0 <= accepted <= 1), "a number is out of range")
    found = {"clip": clip, "spread": spread, "class_spread": class_spread, "classes": tuple(classes)}
    return Reference(**tensors, **found, accepted=None if accepted == -1 else accepted)


def _tensors(path: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    with opened(path) as file:
        _check(set(file.keys()) == set(names), f"it does not hold {quoted(names, 9)}")
        found = {name: file.get_tensor(name) for name in names}
    for name, tensor in found.items():
        kind = torch.float32 if name in ("bank", "recent") else torch.float64
        _check(tensor.dtype == kind and bool(tensor.isfinite().all()), f"{name} is not of finite {kind}".replace("torch.", ""))
    return found


def _broken(content: Any) -> dict[str, dict[str, Any]]:
    kinds: dict[str, Callable[[Any], bool]] = {
        "image": lambda value: isinstance(value, str), "error": lambda value: isinstance(value, str),
        "size": lambda value: value is None or _is_whole(value), "time": lambda value: value is None or _is_whole(value),
        "after": lambda value: _is_whole(value) and value >= 0,
    }  # fmt: skip
    _check(isinstance(content, list), "it has no list of broken images")
    for item in content:
        _check(isinstance(item, dict) and item.keys() == kinds.keys(), "a broken image has other fields")
        _check(all(fits(item[name]) for name, fits in kinds.items()), "a broken image has a field of a wrong kind")
    return {item["image"]: {name: item[name] for name in ("error", "size", "time", "after")} for item in content}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)
