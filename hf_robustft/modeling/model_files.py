# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The files that a model is read from: their names, whether they stayed the same while they were read, and which head they give."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..files import settle
from .adapters import ADAPTERS_FILE
from .lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .metadata import METADATA_FILE, ZERO_SHOT_HEAD
from .zero_shot import HEAD_FILE

INDEX_FILE = "model.safetensors.index.json"
_MODEL_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", INDEX_FILE)
WEIGHT_FILES = (*_MODEL_WEIGHTS, HEAD_FILE, ADAPTERS_FILE, ADAPTER_WEIGHTS)
CONFIG_FILES = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", ADAPTER_CONFIG),
)
#: What loading the model depends on, and what the Trainer writes beside it.
MODEL_FILES = (
    *(*WEIGHT_FILES, *CONFIG_FILES),
    *("training_args.bin", "robustft_state.json", "robustft_state.safetensors"),
)


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether the `name` of a file fits one of the `patterns`."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def weights_in(folder: str | Path) -> list[str]:
    """Return the names of the files of a model's own weights in a `folder`, one or several."""
    folder = Path(folder)
    return [path.name for path in folder.iterdir() if fits(path.name, _MODEL_WEIGHTS)] if folder.is_dir() else []


def content_hash(folder: str | Path) -> str:
    """A SHA-256 of the files in a `folder` that a model and its answers depend on, by name and content."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if fits(path.name, (*WEIGHT_FILES, *CONFIG_FILES, METADATA_FILE)):
            with open(path, "rb") as file:
                digest.update(f"{path.name}\n{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


@contextmanager
def reading(folder: str | Path) -> Iterator[None]:
    """
    Refuse what the block has read of a model in a `folder` if another process has changed it meanwhile.

    Raises:
        OSError: If it has.
        OSError, ValueError: As [`settle`], which comes first.
    """
    settle(folder)
    before, failed = _model_in(folder), None
    try:
        yield
    except (OSError, ValueError) as error:
        # Perhaps only of half of it.
        failed = error
    settle(folder)
    if _model_in(folder) != before:
        raise OSError(f"{folder} was changed by another command while it was read; start again.") from failed
    if failed is not None:
        raise failed


def _model_in(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """By which the files that a model is read from are known to be the same."""
    found: dict[str, tuple[int, ...]] = {}
    for path in Path(folder).iterdir():
        if fits(path.name, (*MODEL_FILES, METADATA_FILE)):
            with suppress(OSError):
                state = path.stat()
                found[path.name] = (state.st_ino, state.st_size, state.st_mtime_ns)
    return found


def has_trained_head(directory: str | Path, facts: Mapping[str, Any]) -> bool:
    """
    Return whether the results of a folder belong to a trained head.

    That is decided by its `robustft.json`, and only if that does not say (or does not exist), by `head.safetensors`.

    Args:
        directory (`str` or `Path`): The folder.
        facts (`Mapping[str, Any]`): What `load_robustft_json` returned; empty without the file.

    Raises:
        OSError: If the metadata claim a head that is not there.
    """
    path = Path(directory) / HEAD_FILE
    claimed = facts["head"] != ZERO_SHOT_HEAD if "head" in facts else path.is_file()
    if claimed and not path.is_file():
        raise FileNotFoundError(
            f"No {HEAD_FILE} in {directory}, though its {METADATA_FILE} says that the results are those of a trained head; "
            "restore it, or train again."
        )
    return claimed
