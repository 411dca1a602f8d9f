# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Watch a folder that images come into: is it still what the model was fitted on? Needs no labels.

    hf-robustft watch outputs/croft --reference my_images/validation --stream incoming
    hf-robustft watch outputs/croft --reference emoji_shift/validation --stream incoming --output_dir outputs/watch --level 0.001

Give it again as often as you like, every day from cron: it reads the files with new names and goes on. Looking often raises no false
alarms: that there ever is one has probability at most --level. An alarm says whether the style has shifted, classes are unknown, or a
camera is broken, and stands until --overwrite; one of files that cannot be read, until the latest can. watch.html shows the evidence and
the most unusual images; watch.json has the numbers. The exit status is 0 without an alarm, 3 with one, and 2 after an error.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.class_folders import image_files
from ..data.messages import quoted
from ..data.packaged import CHECKPOINTS
from ..deployment.image_sources import DataRows, list_hash
from ..deployment.pipeline import pipeline
from ..deployment.watch import watch
from ..deployment.watch_files import PAGE, WATCH
from ..deployment.watching import FEW, why
from ..files import locked
from ..modeling.checkpoint import commit_of
from ..modeling.checkpoint_file import is_packaged, local_folder
from ..modeling.model_files import content_hash, reading
from ..modeling.output_folders import check_apart, check_output_dir
from .commands import CommandParser, RunOptions, check_revision, option, quiet_if_asked
from .predict import identity, is_data_set, streamed

#: The exit status with an alarm.
ALARM = 3


@dataclass(kw_only=True)
class WatchOptions:
    """What is watched, by what."""

    model: str = option(
        f"Folder or Hub id of a checkpoint, or one of the package: {quoted(tuple(CHECKPOINTS))}.", positional=True, metavar="MODEL"
    )
    reference: str = option(
        "Images such as the model was fitted for, which it has not learned from, a few hundred or more: a folder, or one data set, such as "
        "emoji_shift/validation. Labels are not read.",
        metavar="SET",
    )
    stream: str = option("Folder that images come into, searched at any depth.", metavar="FOLDER")
    output_dir: str = option("Folder of what is found, from which the next command goes on.", "outputs/watch", metavar="FOLDER")
    level: float = option("Probability of a false alarm, ever, however often one looks.", 0.01)
    seed: int = option("Seed of halves, orders and ties.", 0)
    image_column: str | None = option("Column of the images of a data set.", None)
    revision: str | None = option("Commit, branch or tag of MODEL on the Hub.", None)
    overwrite: bool = option("Begin again, with all that lies in the folder then, and forget an alarm.", False)


def parser() -> CommandParser:
    """The parser of `hf-robustft watch`."""
    return CommandParser((WatchOptions, RunOptions), prog="hf-robustft watch", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """Carry out what `arguments` say; returns the exit status. Raises ValueError as [`watch`], or for several processes."""
    options, running = parser().parse(arguments)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("`hf-robustft watch` works in one process; call it without a launcher.")
    quiet_if_asked(running)
    check_revision(options.model, options.revision)
    check_output_dir(options.output_dir)
    model = None if is_packaged(options.model) else options.model
    check_apart(options.output_dir, {"MODEL": model, f"--reference {options.reference}": options.reference, f"--stream {options.stream}": options.stream})
    with locked(Path(options.output_dir).expanduser(), "hf-robustft watch"):
        return _run(options, running)


def _run(options: WatchOptions, running: RunOptions) -> int:
    reference, the_reference = reference_images(options)
    here = None if is_packaged(options.model) else local_folder(options.model)
    with reading(here) if here is not None else nullcontext():
        model = pipeline(options.model, revision=options.revision, device=PartialState(cpu=running.use_cpu).device, require_detector=False)
        folder = local_folder(options.model)
        weights = commit_of(model.model) if folder is None else content_hash(folder)
    if model.detector is None and model.thresholds is None:
        warnings.warn(f"{options.model} has no detector: its score is the energy, and nothing says which share is accepted.", stacklevel=2)
    names = {"MODEL": options.model, "--reference": options.reference, "--image_column": options.image_column}
    # Of the same folder, wherever the command is given.
    names["--stream"] = os.path.abspath(Path(options.stream).expanduser())
    report, new = watch(
        model,
        reference,
        options.stream,
        options.output_dir,
        record={**names, "the model": weights[:16], "the reference": the_reference},
        level=options.level,
        seed=options.seed,
        batch_size=running.batch_size,
        num_workers=running.num_workers,
        progress=not running.disable_tqdm,
        overwrite=options.overwrite,
    )
    print("\n".join(summary(report, new, options.output_dir)))
    return ALARM if report["alarm"] else 0


def reference_images(options: WatchOptions) -> tuple[list[str] | DataRows, str]:
    """
    The images of the reference that the `options` name, and by what a later command knows that they are the same.

    Raises:
        ValueError: If there are none, or they have no columns.
        OSError: If something does not exist, or cannot be read.
    """
    word = options.reference
    if is_data_set(word):
        benchmark = streamed(word, options.image_column, "--reference")
        return DataRows(word, benchmark.row_stream()), identity(benchmark)
    if options.image_column is not None:
        raise ValueError(f"`--image_column {options.image_column}` is for a data set, and image files have no columns; leave it out.")
    folder = Path(word).expanduser()
    files = image_files(folder).images if folder.is_dir() else ()
    if not files:
        raise ValueError(f"`--reference {word}`: there is no image in it; give a folder of images, or a data set.")
    # A link that leads nowhere is one that cannot be read, which is said of all such together.
    sizes = (file.stat().st_size if file.exists() else None for file in files)
    return [str(file) for file in files], list_hash(f"{file.relative_to(folder)} {size}" for file, size in zip(files, sizes, strict=True))[:16]


def summary(report: Mapping[str, Any], new: int, output_dir: str) -> list[str]:
    """What a `report` says of the images, `new` ones among them, and is written to `output_dir`, one line each, for the terminal."""
    lines = [f"{report['images']:,} images, {new:,} of them new", f"{'ALARM: ' if report['alarm'] else ''}{report['verdict']}", why(report)]
    accepted, guess = report["accepted"], report["estimated_accuracy"]["all"]
    if accepted["stream"] is not None:
        lines.append(f"Accepted: {100 * accepted['stream']:.1f} %, of the reference {100 * accepted['reference']:.1f} %")
    if guess is not None and report["verdict"] != FEW:
        before = 100 * report["confidence"]["reference"]
        caveat = "; after an alarm often far too high" if report["alarm"] else ""
        lines.append(f"Estimated accuracy: {100 * guess['accuracy']:.1f} % (mean confidence; on the reference {before:.1f} %{caveat})")
    if report["unreadable"]:
        lines.append(f"Could not be read: {report['unreadable']:,}, which {WATCH} names")
    return [*lines, f"Saved to {Path(output_dir) / PAGE}"]
