# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The files of a run's folder that this library owns: one model and its results take the place of all of another's.

A folder may hold its user's own files, which are never touched. Ours are recognised by name (`MODEL_FILES`,
`RESULT_FILES`), and where people write too, by content: the card, the page of the report, and entries in `.eval_results`. `checkpoint-*` belong to
the Trainer.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transformers.utils import CONFIG_NAME

from ..evaluation.predictions import PREDICTIONS_FILE
from ..evaluation.report import SWEEP_PICTURE, SWEEP_TABLE
from ..files import changing, half_names
from ..modeling.families import FAMILIES
from ..modeling.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..modeling.metadata import METADATA_FILE
from ..modeling.model_files import MODEL_FILES, fits
from ..modeling.zero_shot import HEAD_FILE
from . import eval_results
from .card_file import (
    CARD_FILE,
    GENERATED_FILE,
    PAGES,
    PICTURES,
    is_page,
    is_untouched,
)

EVALUATION_FILE = "evaluation.json"
LOGITS = "logits"
#: Logits of an evaluation, until they belong to a finished folder.
LOGITS_STAGE = ".robustft_logits"
RESULT_FILES = (
    *(METADATA_FILE, EVALUATION_FILE, PREDICTIONS_FILE, *PICTURES),
    *(SWEEP_TABLE, SWEEP_PICTURE),
)
#: What an evaluation keeps of each image.
IMAGE_FILES = (f"{LOGITS}/*", PREDICTIONS_FILE)
#: Checkpoints of a former run, until the new run has saved its first.
FORMER = ".robustft_former"
#: A checkpoint that is being written.
BUILDING = ".robustft_checkpoint"
#: One of these is in every checkpoint, even in a part of one.
_OF_CHECKPOINTS = {"trainer_state.json", "config.json", "robustft_state.json", "optimizer.pt", "scheduler.pt"}
#: What stands for the last whole checkpoint of a run.
LAST = "last"


def _owned_files(folder: str | Path) -> list[str]:
    """Return the names, relative to a `folder`, of the files in it that this library wrote, without `checkpoint-*`."""
    folder = Path(folder)
    names = [path.name for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    halves = [half_names(name) for name in (*RESULT_FILES, CARD_FILE, GENERATED_FILE, *PAGES, HEAD_FILE)]
    owned = [name for name in names if fits(name, (*MODEL_FILES, *RESULT_FILES, *halves))]
    owned += [name for name in (CARD_FILE, GENERATED_FILE) if name in names and is_untouched(folder / name)]
    owned += [name for name in PAGES if name in names and is_page(folder / name)]
    entries = sorted((folder / eval_results.FOLDER).glob("*.yaml"))
    owned += [f"{eval_results.FOLDER}/{path.name}" for path in entries if eval_results.is_ours(path)]
    owned += [name for name in (ADAPTER_WEIGHTS, ADAPTER_CONFIG) if (folder / name).is_file()]
    owned += [f"{LOGITS}/{path.name}" for path in sorted((folder / LOGITS).glob("*.safetensors"))]
    return owned


@contextmanager
def replacing(folder: str | Path, keep: Iterable[str] = (), since: float | None = None, by: str | None = None) -> Iterator[Path]:
    """
    Yield an empty folder whose files take the place of all of ours in another folder when the block ends; see [`changing`].

    Args:
        folder (`str` or `Path`): The folder, created if it does not exist.
        keep (`Iterable[str]`, *optional*): Patterns of files of ours that stay.
        since (`float`, *optional*): Results that were written after this time stay too.
        by (`str`, *optional*): As for [`locked`].

    Yields:
        `Path`: Where to write the new files.
    """
    folder, keep = Path(folder), tuple(keep)

    def goes(comes: Iterable[str]) -> list[str]:
        return [name for name in _owned_files(folder) if not (fits(name, keep) or _is_result_since(folder / name, since))]

    with changing(folder, goes, by) as stage:
        yield stage


def _is_result_since(path: Path, since: float | None) -> bool:
    return since is not None and not fits(path.name, MODEL_FILES) and path.stat().st_mtime >= since


def similarity_in(folder: str | Path) -> str | None:
    """What makes probabilities of the scaled similarities of the model in a `folder`, by its configuration; `None` if that is missing."""
    path = Path(folder) / CONFIG_NAME
    if not path.is_file():
        return None
    family = FAMILIES.get(json.loads(path.read_text("utf-8")).get("model_type"))
    return None if family is None else family.similarity


# ---- Checkpoints of former runs ----------------------------------------------------------------------------------


def checkpoints(folder: str | Path) -> list[Path]:
    """Return the Trainer's `checkpoint-<step>` folders in a `folder`, by step."""
    return [path for path in step_folders(folder) if _is_checkpoint(path)]


def step_folders(folder: str | Path) -> list[Path]:
    """Return the folders in a `folder` that are called `checkpoint-<step>`, whatever is in them, by step."""
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if path.is_dir()), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def former_checkpoints(folder: str | Path, resumed: str | Path | bool | None = None) -> list[Path]:
    """
    Find the checkpoints in the folder of a run that are not its own.

    They are those of another run, or if the run is resumed from one of them, the later ones.

    Args:
        folder (`str` or `Path`): Output folder of the run.
        resumed (`str`, `Path` or `bool`, *optional*): The checkpoint that it is resumed from; `True` or `"last"` for the last
            whole one, whichever that is.

    Returns:
        `list[Path]`: The checkpoints, by step.

    Raises:
        ValueError: If a run that is not resumed would take the place of one that did not finish.
    """
    found = checkpoints(folder)
    if resumed is True or resumed == LAST:
        return []
    if resumed and Path(resumed).resolve().parent == Path(folder).resolve():
        step = re.fullmatch(r"checkpoint-(\d+)", Path(resumed).resolve().name)
        return [path for path in found if step and _step(path) > int(step[1])]
    if found:
        _check_finished(Path(folder), found)
    return found


def set_aside(former: Iterable[Path]) -> None:
    """Move the checkpoints `former` out of the way, so that runs are not mixed; `drop_former` removes them."""
    for path in former:
        if path.is_dir():
            aside = path.parent / FORMER
            aside.mkdir(exist_ok=True)
            shutil.rmtree(aside / path.name, ignore_errors=True)
            os.rename(path, aside / path.name)


def put_back(former: Iterable[Path]) -> None:
    """Undo `set_aside` of the checkpoints `former`, as far as their names are free."""
    for path in former:
        aside = path.parent / FORMER / path.name
        if aside.is_dir() and not path.exists():
            os.rename(aside, path)


def drop_former(folder: str | Path) -> None:
    """Remove the checkpoints in a `folder` that `set_aside` has moved."""
    shutil.rmtree(Path(folder) / FORMER, ignore_errors=True)


def settle_checkpoints(folder: str | Path) -> None:
    """Clear away what a run left in a `folder` that was killed while it wrote a checkpoint."""
    folder = Path(folder)
    shutil.rmtree(folder / BUILDING, ignore_errors=True)
    aside = folder / FORMER
    if aside.is_dir() and not checkpoints(folder):
        # The new one had not taken their place yet.
        put_back([folder / path.name for path in aside.iterdir()])
    drop_former(folder)


def _is_checkpoint(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return not names or bool(names & _OF_CHECKPOINTS)


def _check_finished(folder: Path, found: list[Path]) -> None:
    newest = max(found, key=lambda path: path.stat().st_mtime)
    state = newest / "trainer_state.json"
    total = None
    with suppress(OSError, ValueError):
        content = json.loads(state.read_text(encoding="utf-8"))
        total = (
            content["max_steps"] if isinstance(content, dict) and isinstance(content.get("max_steps"), int) else None
        )
    saved = [folder / name for name in (METADATA_FILE, "model.safetensors") if (folder / name).is_file()]
    written = state.stat().st_mtime if state.is_file() else newest.stat().st_mtime
    if (total and _step(newest) >= total) or any(path.stat().st_mtime >= written for path in saved):
        return
    raise ValueError(
        f"{folder} holds {newest.name} of a run that did not finish{f' ({total} steps)' if total else ''}, and this run would "
        f"take its place; continue it with --resume_from_checkpoint {newest}, give another --output_dir, or remove its "
        "checkpoint-* folders."
    )
