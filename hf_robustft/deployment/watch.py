# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Watch a folder that images come into: is it still what the model was fitted on? Needs no labels, and may be asked every day.

Each call reads the images that are new, in an order that chance decides, and goes on from what the last call has written. What ends the
process costs the images of the last minute.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .. import __version__
from ..data.class_folders import image_files
from ..data.messages import quoted
from ..data.readers import reading_context
from ..evaluation.collect import classify
from ..evaluation.open_set import DEFAULT_SCORE, score
from ..files import locked
from ..modeling.features import encode_images, normalised
from .image_sources import DataRows
from .martingales import uniform_numbers
from .pipeline import OpenSetImageClassificationPipeline
from .predict import PreparedImages, collated, leave_the_parent_process
from .watch_files import Watched, check_same, load, save
from .watch_page import as_html
from .watching import Reference, Stream, judge

#: What was measured is written when so many seconds have passed, and so many times as many as the last time took.
_SECONDS, _SHARE = 60.0, 9


@dataclass(frozen=True)
class Batch:
    """
    What was measured on some images, those that could not be read left out.

    Attributes:
        names, labels (`list[str]`): Of the images; the label is the most probable class.
        known (`list[bool | None]`): Whether the detector accepts each; `None` without one.
        embeds (`torch.Tensor` of shape `(n, embed_dim)`): Of unit norm, float32.
        score, probability (`torch.Tensor` of shape `(n,)`): Float64.
        errors (`dict[str, tuple[str, int]]`): By name why others could not be read, and how many before them could.
    """

    names: list[str]
    labels: list[str]
    known: list[bool | None]
    embeds: Tensor
    score: Tensor
    probability: Tensor
    errors: dict[str, tuple[str, int]]


def watch(
    model: OpenSetImageClassificationPipeline,
    reference: list[str] | DataRows,
    stream: str | Path,
    output_dir: str | Path,
    *,
    record: Mapping[str, Any],
    level: float = 0.01,
    seed: int = 0,
    batch_size: int = 256,
    num_workers: int = 0,
    progress: bool = True,
    overwrite: bool = False,
) -> tuple[dict[str, Any], int]:
    """
    Measure the images that are new in a folder, judge all that came in, and write it.

    Args:
        model ([`OpenSetImageClassificationPipeline`]): The model.
        reference (`list[str]` or [`DataRows`]): Images such as the model was fitted for, which it has not learned from: files, or the rows
            of a data set. They are read by the first call.
        stream (`str` or `Path`): The folder, searched at any depth.
        output_dir (`str` or `Path`): Where the watch is written, and goes on from.
        record (`Mapping[str, Any]`): By the name of an option what a watch depends on, as JSON; it goes on if that is the same, but for
            names of what is known by its content.
        level (`float`, *optional*, defaults to 0.01): The probability of a false alarm, ever.
        seed (`int`, *optional*, defaults to 0): Of the chance that is involved.
        batch_size (`int`, *optional*, defaults to 256), num_workers (`int`, *optional*, defaults to 0), progress (`bool`, *optional*,
            defaults to `True`): As for [`Evaluator`].
        overwrite (`bool`, *optional*, defaults to `False`): Whether to begin again.

    Returns:
        `tuple`: The report, and how many images were new.

    Raises:
        ValueError: If the watch that is there is of something else, or damaged, or the model or the reference cannot be used.
        FolderInUse: If another process writes it.
        OSError: If something cannot be read or written.
    """
    if model.thresholds is not None:
        raise ValueError("MODEL gives an image several labels, of which there is not one confidence; watch a model of classes that exclude each other.")
    folder, record = Path(output_dir).expanduser(), {"hf_robustft": __version__, **record, "--level": level, "--seed": seed}
    settings = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    with locked(folder, "hf-robustft watch"):
        watched = None if overwrite else load(folder)
        if watched is not None:
            check_same(watched.record, record, folder)
            if watched.record.get("hf_robustft") != __version__:
                warnings.warn(f"{folder} was begun with another version of hf_robustft; should it prepare images otherwise, that may raise an alarm.", stacklevel=2)
            watched.record = record
        else:
            found = _reference(model, reference, seed, settings)
            watched = Watched(record, found, Stream(found.bank.new_zeros(0, found.bank.shape[1])))
        before, place = len(watched.stream.names), Path(stream).expanduser()
        new = _new_images(place, watched, seed)

        def write() -> dict[str, Any]:
            unreadable = [facts["after"] for facts in watched.broken.values()]
            judgement = judge(watched.reference, watched.stream, level, seed, unreadable)
            save(folder, watched, judgement.report, as_html(judgement, watched, place))
            return judgement.report

        states: dict[str, tuple[int | None, int | None]] = {}

        def pairs() -> Iterator[tuple[str, str]]:
            for name in new:
                # Before it is read: one that is written to its end meanwhile is read again.
                states[name] = _state(place / name)
                yield name, os.path.join(place, name)

        due = time.monotonic() + _SECONDS
        for batch in measured(model, pairs(), len(new), "watch", settings):
            _take(watched, batch, place, states)
            if (begun := time.monotonic()) > due:
                write()
                due = (ended := time.monotonic()) + max(_SECONDS, _SHARE * (ended - begun))
        return write(), len(watched.stream.names) - before


def _take(watched: Watched, batch: Batch, place: Path, states: dict[str, tuple[int | None, int | None]]) -> None:
    for name in batch.names:
        watched.broken.pop(name, None)
        states.pop(name)
    for name, (error, before) in batch.errors.items():
        size, changed = states.pop(name)
        after = len(watched.stream.names) + before
        watched.broken[name] = {"error": error.replace(str(place / name), name), "size": size, "time": changed, "after": after}
    watched.stream.add(watched.reference, batch.names, batch.labels, batch.known, batch.embeds, batch.score, batch.probability)


def _state(path: Path) -> tuple[int | None, int | None]:
    try:
        found = path.stat()
    except OSError:
        return None, None
    return found.st_size, found.st_mtime_ns


def _new_images(place: Path, watched: Watched, seed: int) -> list[str]:
    """The images of a folder that were not measured, in an order that their names and the seed decide."""
    seen, names = set(watched.stream.names), []
    for path in image_files(place).images:
        name = path.relative_to(place).as_posix()
        broken = watched.broken.get(name)
        if name not in seen and (broken is None or (broken["size"], broken["time"]) != _state(path)):
            names.append(name)
    # Files that lie in folders by class would come class by class, and no such order is exchangeable.
    return [names[index] for index in uniform_numbers(names, f"{seed}/order").argsort(stable=True).tolist()]


def _reference(model: OpenSetImageClassificationPipeline, images: list[str] | DataRows, seed: int, settings: dict) -> Reference:
    pairs = ((name, image) for _, name, image in images.items()) if isinstance(images, DataRows) else ((name, name) for name in images)
    total = images.total if isinstance(images, DataRows) else len(images)
    batches = list(measured(model, pairs, total, "reference", settings))
    errors = [name for batch in batches for name in batch.errors]
    if errors:
        raise ValueError(f"`--reference`: {len(errors)} image{'s' * (len(errors) > 1)} cannot be read: {quoted(errors, 3)}; remove or replace them.")
    if not batches:
        raise ValueError("`--reference` holds no image.")
    parts = [torch.cat([getattr(batch, name) for batch in batches]) for name in ("embeds", "score", "probability")]
    known = [each for batch in batches for each in batch.known]
    # A place of its own for each, wherever the reference lies.
    names = [str(index) for index in range(len(known))]
    labels = [label for batch in batches for label in batch.labels]
    return Reference.of(names, labels, *parts, known=None if model.detector is None else known, seed=seed)


def measured(
    model: OpenSetImageClassificationPipeline, pairs: Iterable[tuple[str, Any]], total: int | None, what: str, settings: Mapping[str, Any]
) -> Iterator[Batch]:
    """
    Measure images.

    Args:
        model ([`OpenSetImageClassificationPipeline`]): The model.
        pairs (`Iterable[tuple[str, Any]]`): The name of each image, and what is read.
        total (`int`, *optional*): How many there are, if that is known.
        what (`str`): What the progress bar calls them.
        settings (`Mapping[str, Any]`): `batch_size`, `num_workers` and `progress`.

    Yields:
        [`Batch`]: In the order of the images.

    Raises:
        OSError: If this machine cannot open files.
    """
    transform, size = model.transform, settings["batch_size"]
    if model.device.type != "cpu":
        transform = replace(transform, output="uint8")

    def batches() -> Iterator[list[tuple[str, Any]]]:
        batch = []
        for pair in pairs:
            batch.append(pair)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    loader = DataLoader(
        PreparedImages(transform),
        batch_sampler=batches(),
        collate_fn=collated,
        num_workers=settings["num_workers"],
        multiprocessing_context=reading_context(settings["num_workers"]),
        worker_init_fn=leave_the_parent_process,
        pin_memory=model.device.type == "cuda",
        generator=torch.Generator().manual_seed(0),
    )
    with tqdm(total=total, desc=what, unit=" images", disable=not settings["progress"], leave=False) as bar, torch.no_grad():
        for items in loader:
            pixels = normalised(items["pixel_values"].to(model.device, non_blocking=True), transform, model.model.dtype)
            yield _batch(model, encode_images(model.model, pixels), items)
            bar.update(len(items["images"]))


def _batch(model: OpenSetImageClassificationPipeline, embeds: Tensor, items: Mapping[str, Any]) -> Batch:
    kept, errors = [], {}
    for index, (name, error) in enumerate(zip(items["images"], items["errors"], strict=True)):
        if error is None:
            kept.append(index)
        else:
            errors[name] = (error, len(kept))
    names, logits = [items["images"][index] for index in kept], classify(model.head, embeds)[kept].cpu()
    embeds = embeds[kept].float().cpu()
    if not kept:
        return Batch([], [], [], embeds, torch.zeros(0), torch.zeros(0), errors)
    if model.detector is not None:
        said = model.detector.predict(logits)
        values = torch.tensor([[one.score, one.probability] for one in said], dtype=torch.float64)
        return Batch(names, [one.label for one in said], [one.is_known for one in said], embeds, values[:, 0], values[:, 1], errors)
    best = logits.argmax(1)
    probability = model.temperature.probabilities(logits).gather(1, best[:, None])[:, 0]
    labels = [model.head.class_names[index] for index in best.tolist()]
    return Batch(names, labels, [None] * len(names), embeds, score(DEFAULT_SCORE, logits=logits).double(), probability.double(), errors)
