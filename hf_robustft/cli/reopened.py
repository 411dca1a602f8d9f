# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The data of finished runs, opened again by their records, for pictures of what a model gets wrong."""

from __future__ import annotations

import contextlib
import io
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..comparison.runs import FinishedRun
from ..comparison.same_data import images_of
from ..data.benchmarks import Benchmark
from ..publishing.text import WITHHELD, one_line
from .data_sets import default_evaluation
from .specs import Spec
from .train import load_data
from .train_arguments import SUITE, TrainCommand, parse

_ROLES = ("id", "shift")


def reopened(run: FinishedRun, names: Sequence[str]) -> tuple[list[Benchmark], str | None]:
    """
    Open the sets that a run was measured on, from this machine alone.

    Args:
        run ([`FinishedRun`]): The run.
        names (`Sequence[str]`): The sets.

    Returns:
        `tuple`: Those that hold the images of then, and a sentence on why others are missing, if any are.
    """
    try:
        command = _command(run)
        with contextlib.redirect_stdout(io.StringIO()):
            data = load_data(command)
    except (ValueError, OSError) as error:
        return [], f"the data of {run.folder.name} cannot be opened again: {one_line(error).rstrip('.')}"
    before = images_of(run.facts.get("image_hashes", ()), _ROLES)
    now = images_of(data.check.hashes, _ROLES)
    same = [item for item in data.evaluation if item.name in names and not item.streaming and before.get(item.name) == now[item.name]]
    others = [name for name in names if name not in {item.name for item in same}]
    return same, f"the images of {', '.join(others)} are no longer those that {run.folder.name} was measured on, or they are streamed" if others else None


def _command(run: FinishedRun) -> TrainCommand:
    """
    What opens the data of a run.

    Raises:
        ValueError: If its record does not say where they are.
        OSError: If they are not on this machine.
    """
    # That of `--method auto` does not say where its data are; that of the run which it chose does.
    command = (run.facts.get("selection") or {}).get("command") or (run.facts.get("card") or {}).get("command") or ""
    words = shlex.split(command.replace("\\\n", " "))
    if "train" not in words:
        raise ValueError("its record names no `hf-robustft train`")
    command = model_args, data_args, _ = parse(words[words.index("train") + 1 :])
    texts = data_args.eval_datasets or default_evaluation(data_args.train_dataset)
    for spec in map(Spec.parse, [data_args.train_dataset, *texts]):
        place = spec.copy if spec.registered else spec.source
        if place is not None and WITHHELD in place:
            raise ValueError(f"its record does not say where {place.removeprefix(WITHHELD).strip('/')} lies")
        if not (place is None and spec.source == SUITE) and not (place is not None and Path(place).expanduser().exists()):
            raise OSError(f"there is no {place} here" if place is not None else f"{spec.source} is not on this machine")
    # No model is needed for pictures, and which images the sets share was judged then.
    model_args.model, model_args.finetuned_model, data_args.allow_overlap = "emoji_clip", [], True
    return command
