# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
A file of answers for any number of images: read by several processes, classified in batches, written part by part.

Memory does not grow with the images. What ends the process, be it kill -9, costs the answers of a few seconds, and the same call
goes on after those that were written.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec.asyn
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .. import __version__
from ..data.messages import quoted
from ..data.readers import reading_context
from ..data.transforms import ImageTransform
from ..files import locked
from ..locks import FolderInUse
from ..modeling.features import normalised
from .answer_files import STATE, AnswerFiles, digest_of, state_of
from .answer_tables import Columns
from .image_sources import DataRows, FileList, Place, names_in, news
from .new_images import prepared
from .output_names import check_output
from .pipeline import OpenSetImageClassificationPipeline

#: A part is written when it has so many answers, or when so many seconds have passed.
_ANSWERS, _SECONDS = 1000, 10.0


@dataclass(frozen=True)
class Predicted:
    """
    What became of a run.

    Attributes:
        summary (`dict[str, Any]`): Of all answers: `images`, `labels` (images by label), `unknown` (`None` if nothing judges that),
            `broken` (images that could not be read), `named` (the first of them).
        answered (`int`): Images that this call answered; the others were answered before.
        seconds (`float`): What that took.
    """

    summary: dict[str, Any]
    answered: int
    seconds: float


class PreparedImages(Dataset):
    """
    Images, prepared where the workers are; asked for by a name and what is to be read.

    Args:
        transform ([`ImageTransform`]): For evaluation.
        digests (`bool`, *optional*, defaults to `False`): Whether to hash files too.
    """

    def __init__(self, transform: ImageTransform, digests: bool = False):
        self.transform, self.digests = transform, digests

    def __getitem__(self, item: tuple[str, Any]) -> dict[str, Any]:
        """As [`prepared`] has it, with the `state` of a file before it is read: size, time and, if it stayed so, the hash of its content."""
        name, image = item
        state = state_of(image) if isinstance(image, str) else None
        found = prepared(self.transform, image, name)
        if self.digests and state is not None and found["error"] is None:
            digest = digest_of(image)
            # Of one that is written to meanwhile the hash may be that of what was not read.
            state = [*state, digest] if digest is not None and state_of(image) == state else state
        return {**found, "state": state}


def predict(
    classify: OpenSetImageClassificationPipeline,
    images: Sequence[str] | DataRows,
    output: str | Path,
    *,
    record: Mapping[str, Any],
    batch_size: int = 256,
    num_workers: int = 0,
    progress: bool = True,
    overwrite: bool = False,
    **options: Any,
) -> Predicted:
    """
    Answer images and write the answers into one file, each as `classify` gives it for that image.

    Args:
        classify ([`OpenSetImageClassificationPipeline`]): The model.
        images (`Sequence[str]` or [`DataRows`]): Files, or the rows of a data set.
        output (`str` or `Path`): The file: .csv, .jsonl or .parquet.
        record (`Mapping[str, Any]`): By the name of an option what the answers depend on, as JSON. A run that did not come to its end is
            continued if its record is the same.
        batch_size (`int`, *optional*, defaults to 256): Images encoded at once.
        num_workers (`int`, *optional*, defaults to 0): Processes that read images.
        progress (`bool`, *optional*, defaults to `True`): Whether to show how far it is.
        overwrite (`bool`, *optional*, defaults to `False`): Whether to replace a file that is there, and an unfinished run of another
            record, or of images that have changed since they were answered.
        options (`Any`, *optional*): Of the answers: `top_k`, `function_to_apply`.

    Returns:
        [`Predicted`]: What was answered.

    Raises:
        ValueError: If the output is there, or belongs to an unfinished run of another record, or of images that have changed since.
        FolderInUse: If another process writes it.
        OSError: If something cannot be written, or this machine cannot open files.
    """
    files, record = AnswerFiles(output), {"hf_robustft": __version__, **record}
    began = time.perf_counter()
    with _held(files):
        place = _place(files, record, images, overwrite)
        answered = 0
        if place is not None:
            source = images if isinstance(images, DataRows) else FileList(files.names, sum(1 for _ in names_in(files.names)))
            settings = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
            answered = _answer_all(classify, source, place, files, settings, options)
            files.write(Columns.of(files.answers()))
        summary = files.finished["summary"]
        check_output(files.output, overwrite or not files.waits())
        files.put()
        files.remove()
    files.remove_folder()
    return Predicted(summary, answered, time.perf_counter() - began)


@contextmanager
def _held(files: AnswerFiles) -> Iterator[None]:
    try:
        with locked(files.folder, "hf-robustft predict"):
            yield
    except FolderInUse as error:
        raise FolderInUse(str(error).replace(str(files.folder), f"`--output {files.output}`", 1).replace("another folder", "another name")) from None


def _place(files: AnswerFiles, record: dict[str, Any], images: Sequence[str] | DataRows, overwrite: bool) -> Place | None:
    """How far the images are answered, after a run that was interrupted, or a new one is begun; `None` if the one file is made."""
    try:
        known = files.finished or files.record
        waits = files.waits()
        is_other = known is not None and _differences(known, record)
        if known is not None and files.finished is not None and not waits and (is_other or not files.output.exists()):
            # It has come to its end, but for what is removed then.
            known = None
        if known is not None and is_other and not overwrite:
            raise ValueError(
                f"`--output {files.output}`: a run that was interrupted had {'; '.join(is_other)}. Give what it had to continue it, another name, "
                "or --overwrite to begin again."
            )
        if known is not None and not is_other:
            if files.finished is not None:
                return None
            check_output(files.output, overwrite)
            place = files.reached()
            changed = [] if isinstance(images, DataRows) else files.changed()
            if changed and not overwrite:
                which = f"{len(changed):,} image{'s' * (len(changed) > 1)} that {'were' if len(changed) > 1 else 'was'}"
                raise ValueError(
                    f"`--output {files.output}`: {which} answered before the interruption changed since: {quoted(changed, 3)}. Give another name, or "
                    "--overwrite to begin again."
                )
            if not changed:
                if not isinstance(images, DataRows) and (said := news(images, files.names)):
                    warnings.warn(f"{said}.", stacklevel=4)
                return place
    except ValueError as error:
        if not overwrite or "is damaged" not in str(error):
            raise
    check_output(files.output, overwrite)
    files.begin(record, None if isinstance(images, DataRows) else images)
    return Place()


def _differences(known: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """In what two records differ, in words."""
    found = []
    for name in dict.fromkeys([*known, *record]):
        before, now = known.get(name), record.get(name)
        if name not in ("format", "list", "summary") and before != now:
            found.append(f"{name} {_shown(before)} instead of {_shown(now)}")
    return found


def _shown(value: Any) -> str:
    text = "none" if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = " ".join(text.split())
    # Long paths differ in how they end.
    return text if len(text) <= 60 else f"{text[:18]}...{text[-39:]}"


def _answer_all(classify, source: FileList | DataRows, place: Place, files: AnswerFiles, settings: dict, options: dict) -> int:
    """Answer what is left of a `source` from a `place` on, and write it part by part; returns the number of images."""
    answers: list[dict[str, Any]] = []
    first = reached = place
    written = time.monotonic()
    bar = tqdm(total=source.total, initial=place.count, desc="predict", unit=" images", disable=not settings["progress"], leave=False)
    try:
        with bar:
            for more, after in _answered(classify, source, place, settings["batch_size"], settings["num_workers"], options):
                answers += more
                reached = after
                bar.update(len(more))
                if len(answers) >= _ANSWERS or time.monotonic() - written > _SECONDS:
                    files.add(answers, place.count, reached)
                    answers, place, written = [], reached, time.monotonic()
    except BaseException:
        # What was answered stays, if that is possible still.
        with suppress(OSError):
            if answers:
                files.add(answers, place.count, reached)
        raise
    if answers:
        files.add(answers, place.count, reached)
    return reached.count - first.count


def _answered(
    classify, source: FileList | DataRows, place: Place, batch_size: int, num_workers: int, options: Mapping[str, Any]
) -> Iterator[tuple[list[dict[str, Any]], Place]]:
    """The answers of each batch in the order of the images, and the place after it."""
    transform, waiting = classify.transform, deque()
    if classify.device.type != "cpu":
        # A quarter of the bytes for workers to hand over and for the bus, and the same numbers on the device.
        transform = replace(transform, output="uint8")

    def batches() -> Iterator[list[tuple[str, Any]]]:
        batch: list[tuple[str, Any]] = []
        for after, name, image in source.items(place):
            batch.append((name, image))
            if len(batch) == batch_size:
                waiting.append(after)
                yield batch
                batch = []
        if batch:
            waiting.append(after)
            yield batch

    loader = DataLoader(
        PreparedImages(transform, digests=True),
        # Names and encoded images go to the workers as others hand them numbers, no more than they have asked for.
        batch_sampler=batches(),
        collate_fn=collated,
        num_workers=num_workers,
        multiprocessing_context=reading_context(num_workers),
        worker_init_fn=leave_the_parent_process,
        pin_memory=classify.device.type == "cuda",
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        pixel_values = batch["pixel_values"].to(classify.device, non_blocking=True)
        logits = classify.forward({"pixel_values": normalised(pixel_values, transform, classify.model.dtype)})["logits"]
        rows = zip(logits.split(1), batch["images"], batch["errors"], strict=True)
        answers = [classify.postprocess({"logits": row, "image": name, "error": error}, **options) for row, name, error in rows]
        yield [{**_writable(answer), STATE: state} for answer, state in zip(answers, batch["states"], strict=True)], waiting.popleft()


def collated(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch of `items` that [`PreparedImages`] gave."""
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "images": [item["image"] for item in items],
        "errors": [item["error"] for item in items],
        "states": [item["state"] for item in items],
    }


def _writable(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without half characters, by which Python stands in for bytes of a file's name that are not UTF-8: as `\\udcff`."""
    texts = {name: value.encode("utf-8", "backslashreplace").decode() for name, value in answer.items() if isinstance(value, str)}
    return {**answer, **texts}


def leave_the_parent_process(worker: int) -> None:
    """Begin the process of a `worker` that reads images."""
    # In a forked worker, locks that a thread of the parent process held would never be released.
    fsspec.asyn.reset_lock()
