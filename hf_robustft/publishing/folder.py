# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which files of a checkpoint folder are published, and whether they are fit for it."""

from __future__ import annotations

import fnmatch
import json
import mmap
import os
import posixpath
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
import yaml
from huggingface_hub import ModelCard, get_token, parse_eval_result_entries

from ..evaluation.detector import OpenSetDetector
from ..evaluation.prediction_sets import ConformalClassifier
from ..evaluation.report import load_reports
from ..files import is_of_this_room
from ..modeling.checkpoint import load_processor
from ..modeling.fitted_weights import check_fitted_weights
from ..modeling.kept_adapter import check_adapter_file
from ..modeling.metadata import FITTED, METADATA_FILE, load_robustft_json
from ..modeling.model_files import CONFIG_FILES, INDEX_FILE, WEIGHT_FILES, has_trained_head
from ..modeling.tensor_files import opened
from ..modeling.zero_shot import HEAD_FILE
from .card_file import CARD_FILE, is_generated
from .run_folder import EVALUATION_FILE

#: What a loaded model depends on. Of these the repository keeps none that the folder does not have.
MODEL_FILES = (*WEIGHT_FILES, METADATA_FILE)
#: What else is published. Optimizer states, logs, pickled arguments and checkpoints of the run are not.
OTHER_FILES = (*CONFIG_FILES, CARD_FILE, "LICENSE*", EVALUATION_FILE, ".eval_results/*.yaml")
_PICTURE = re.compile(r"(?:\]\(|src=[\"'])(?!\w+:|/|#)([^)\s\"']+\.(?:png|svg|jpe?g|webp|gif))", re.IGNORECASE)
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{20,}")
_SHORTEST_SECRET = 8


def chosen_files(folder: str | Path, include: Iterable[str] = ()) -> dict[str, Path]:
    """
    Choose the files of a checkpoint folder that belong on the Hub.

    Args:
        folder (`str` or `Path`): The folder.
        include (`Iterable[str]`, *optional*): Patterns such as `"runs/*"` of further files, relative to the folder.

    Returns:
        `dict[str, Path]`: Path by name in the repository, sorted: weights, configuration, tokenizer and processor,
        `robustft.json`, head, adapters, card and the pictures it shows, `evaluation.json` and `.eval_results`.

    Raises:
        OSError: If there is no such folder, or its `robustft.json` claims a head that is not there.
        ValueError: If its `robustft.json` is broken, a pattern of `include` fits nothing, or a file is a link, or lies behind one, that leaves the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise OSError(f"There is no folder {str(folder)!r}; give the output folder of a finished run.")
    patterns = [*MODEL_FILES, *OTHER_FILES, *include]
    shown = pictures(folder / CARD_FILE)
    files, elsewhere = _files_in(folder)
    if METADATA_FILE in files and not has_trained_head(folder, load_robustft_json(folder)):
        # Of another run, or of the user's: the results are not those of this head.
        files.pop(HEAD_FILE, None)
    chosen = {name: path for name, path in files.items() if name in shown or matches(name, patterns)}
    behind = [name for name in elsewhere if any(wanted.startswith(f"{name}/") for wanted in (*patterns, *shown))]
    for name in [*behind, *(name for name, path in chosen.items() if leaves(path, folder))]:
        raise ValueError(
            f"{name} in {folder} is a link to {(folder / name).resolve()}, outside of the folder, and what lies there is not "
            "published; put a copy in its place, or remove the link."
        )
    for pattern in include:
        if not any(matches(name, [pattern]) for name in files):
            raise ValueError(f"`--include {pattern}` fits no file in {folder}; correct it, or leave it out.")
    return chosen


def leaves(path: Path, folder: Path) -> bool:
    """Return whether a `path` leads out of a `folder`, by links or `..`; a link to what is also in the folder does not."""
    return not path.resolve().is_relative_to(folder.resolve())


def _files_in(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return files by name, including those behind links that stay inside, and links to folders elsewhere."""
    files: dict[str, Path] = {}
    elsewhere: list[str] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        inside = []
        around = {Path(place).resolve(), *Path(place).resolve().parents}
        for path in (Path(place) / name for name in sorted(folders)):
            if leaves(path, folder):
                elsewhere.append(path.relative_to(folder).as_posix())
            # Not in circles: a folder around this one holds nothing new.
            elif path.resolve() not in around:
                inside.append(path.name)
        folders[:] = inside
        found = {(Path(place) / name).relative_to(folder).as_posix(): Path(place) / name for name in names}
        files |= {name: path for name, path in found.items() if not is_of_this_room(path.name)}
    return {name: path for name, path in sorted(files.items()) if path.is_file()}, elsewhere


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a `name` in the repository fits one of `patterns`; only a `*` at the end of one crosses folders."""
    depth = name.count("/")
    return any(
        fnmatch.fnmatchcase(name, pattern) and (depth == pattern.count("/") or pattern.endswith("/*"))
        for pattern in patterns
    )


def pictures(card: Path) -> set[str]:
    """Return the names of the pictures in the folder of a `card` that it shows."""
    return {name for name in _shown(card) if not name.startswith("../")}


def _shown(card: Path) -> set[str]:
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return {posixpath.normpath(match) for match in _PICTURE.findall(text)}


def check_files(folder: str | Path, files: Mapping[str, Path], token: str | None = None) -> None:
    """
    Refuse to publish what would not load, what has no valid card, and what holds a secret.

    Args:
        folder (`str` or `Path`): The checkpoint folder, for the messages.
        files (`Mapping[str, Path]`): What `chosen_files` returned.
        token (`str`, *optional*): An access token that must not be in any file, besides the one of this machine.

    Raises:
        OSError: If configuration, weights, tokenizer, image processor, an adapter that belongs to the weights, card or a file that it refers to are missing, or
            weights cannot be read.
        ValueError: If weights are not finite or not those that something was fitted with, metadata or the results in `evaluation.json` are
            broken, or a file holds an access token.
    """
    _check_presence(folder, files)
    check_secrets(folder, files, token)
    load_processor(Path(folder))
    check_adapter_file(folder)
    for name, path in files.items():
        if name.endswith(".safetensors"):
            _check_weights(path)
        elif name == EVALUATION_FILE:
            load_reports(path)
        elif name.endswith(".json"):
            _read_json(path)
        elif name.startswith(".eval_results/"):
            _check_results(path)
    facts = load_robustft_json(folder) if METADATA_FILE in files else {}
    check_fitted_weights(folder, facts, FITTED)
    if "detector" in facts:
        OpenSetDetector.from_pretrained(folder)
    if "prediction_sets" in facts:
        ConformalClassifier.from_pretrained(folder)
    _check_card(files[CARD_FILE])


def check_secrets(folder: str | Path, files: Mapping[str, Path], token: str | None = None) -> None:
    """
    Refuse files that contain an access token.

    Args:
        folder (`str` or `Path`), files (`Mapping[str, Path]`), token (`str`, *optional*): As for `check_files`.

    Raises:
        ValueError: If a file contains something like a token of the Hub, `token`, or the one that this machine is logged
            in with.
    """
    secrets = [value for value in (token, get_token(), os.environ.get("HF_TOKEN")) if value]
    for name, path in files.items():
        if path.is_file() and holds_token(path, secrets):
            raise ValueError(f"{name} in {folder} holds an access token; remove it there, and revoke the token.")


def _check_presence(folder: str | Path, files: Mapping[str, Path]) -> None:
    processor = "save the processor there with `processor.save_pretrained`"
    needed = {
        "config.json": (("config.json",), "give the folder that `save_pretrained` or the Trainer wrote"),
        "model.safetensors": (("model.safetensors", INDEX_FILE), "save the model there"),
        "tokenizer": (("tokenizer.json", "vocab.json"), processor),
        "image processor": (("preprocessor_config.json", "processor_config.json"), processor),
        CARD_FILE: (
            (CARD_FILE,),
            "a run with --eval_datasets writes the card; write it with `write_model_card` in Python, or your own README.md",
        ),
    }
    for what, (names, advice) in needed.items():
        if not any(name in files for name in names):
            raise FileNotFoundError(f"There is no {what} in {folder}; {advice}.")
    if INDEX_FILE in files:
        parts = set(_read_json(files[INDEX_FILE]).get("weight_map", {}).values())
        missing = sorted(parts - set(files))
        if missing:
            raise FileNotFoundError(f"{INDEX_FILE} in {folder} names {missing[0]}, which is missing; save again.")
    outside = sorted(_shown(files[CARD_FILE]) - pictures(files[CARD_FILE]))
    if outside:
        warnings.warn(
            f"The card in {folder} shows {outside[0]}, which is outside the folder and is not published; copy it into the "
            "folder to show it on the Hub.",
            stacklevel=3,
        )
    missing = sorted(pictures(files[CARD_FILE]) - set(files))
    if missing:
        raise FileNotFoundError(f"The card in {folder} shows {missing[0]}, which is missing; write the card again.")
    card = files[CARD_FILE]
    if (
        METADATA_FILE not in files
        and is_generated(card)
        and METADATA_FILE in card.read_text("utf-8", errors="replace")
    ):
        raise FileNotFoundError(
            f"The card in {folder} refers to {METADATA_FILE}, which is missing; copy it from the folder of the run, or write "
            "the card again with `write_model_card`."
        )


def _check_weights(path: Path) -> None:
    with opened(path) as file:
        for name in file.keys():
            value = file.get_tensor(name)
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise ValueError(f"{name} in {path} is not finite; such a model cannot answer. Train again.")


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); save it again.") from None


def _check_results(path: Path) -> None:
    try:
        parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a list of evaluation results ({error!r}); evaluate again.") from None


def _check_card(path: Path) -> None:
    # Line ends stay as they are: the card's parser tells them apart.
    content = path.read_bytes().decode("utf-8", errors="replace")
    try:
        card = ModelCard(content)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"The metadata of {path} are not valid ({' '.join(str(error).split())}); correct them."
        ) from None
    if not card.text.strip():
        raise ValueError(f"{path} holds no text; write the card with `write_model_card`, or write your own.")


def holds_token(path: Path, secrets: Iterable[str] = ()) -> bool:
    """Return whether the file at `path` contains something like an access token of the Hub, or one of `secrets`."""
    if path.stat().st_size == 0:
        return False
    secrets = [secret.encode() for secret in secrets if len(secret) >= _SHORTEST_SECRET]
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _TOKEN.search(content) is not None or any(content.find(secret) >= 0 for secret in secrets)
