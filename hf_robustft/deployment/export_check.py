# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether an exported graph decides as the pipeline does, on images, and what it costs in accuracy and calibration."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.bad_images import BadImages
from ..data.benchmarks import Benchmark
from ..data.examples import EvaluationImages, collate_images
from ..data.readers import reading_context
from ..data.transforms import ImageTransform
from ..evaluation.calibration import expected_calibration_error, negative_log_likelihood
from ..modeling.features import encode_images, normalised
from .pipeline import OpenSetImageClassificationPipeline

#: What the images of a check are called that nobody gave.
RANDOM = "random pictures"
#: Sides of the grids of colours that random pictures are made of.
_GRIDS = (1, 2, 3, 5, 8, 16, 64)


@dataclass
class CheckImages:
    """
    Images to compare answers on.

    Attributes:
        levels (`torch.Tensor` of shape `(n, 3, size, size)`): uint8 levels, resized and cut.
        labels (`torch.Tensor` of shape `(n,)`, *optional*): Class indices, where each image has one.
        name (`str`): What they are.
    """

    levels: Tensor
    labels: Tensor | None
    name: str

    def __len__(self) -> int:
        return len(self.levels)

    def part(self, index: Tensor) -> CheckImages:
        """Those of some rows."""
        return CheckImages(self.levels[index], None if self.labels is None else self.labels[index], self.name)


def random_pictures(size: int, n: int, seed: int = 0) -> CheckImages:
    """`n` pictures of random colours in grids, coarse and fine, smoothed, of `size` x `size` pixels, drawn with a `seed`."""
    generator = np.random.default_rng(seed)
    pictures = []
    for number in range(n):
        side = min(_GRIDS[number % len(_GRIDS)], size)
        grid = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
        pictures.append(np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)))
    return CheckImages(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous(), None, RANDOM)


def read_images(
    benchmark: Benchmark,
    classify: OpenSetImageClassificationPipeline,
    most: int,
    *,
    batch_size: int = 256,
    num_workers: int = 0,
    bad_images: BadImages | None = None,
    progress: bool = True,
) -> CheckImages:
    """
    Read images of a data set, evenly spread over its rows.

    Args:
        benchmark ([`Benchmark`]): The data, with the classes of the pipeline.
        classify ([`OpenSetImageClassificationPipeline`]): Prepares them.
        most (`int`): So many of them, at most.
        batch_size (`int`, *optional*), num_workers (`int`, *optional*), bad_images ([`BadImages`], *optional*), progress
            (`bool`, *optional*): As for [`Evaluator`].

    Raises:
        ValueError: If the data are a stream, or their classes others.
        OSError: If an image cannot be read.
    """
    if benchmark.streaming:
        raise ValueError("`--streaming` reads data to their end, and an export looks at some images of them; leave it out.")
    if benchmark.class_names and benchmark.class_names != classify.head.class_names:
        raise ValueError(
            f"`--dataset {benchmark.name}` has {len(benchmark.class_names)} classes, which are not the "
            f"{len(classify.head.class_names)} of the model; give images of its classes."
        )
    transform = ImageTransform.from_processor(classify.processor, train=False, output="uint8")
    labelled = benchmark.label_column is not None and bool(benchmark.class_names)
    columns = {"image_column": benchmark.image_column, "label_column": benchmark.label_column if labelled else None}
    images = EvaluationImages(benchmark.load(), transform, bad_images=bad_images, border=benchmark.border, **columns)
    rows = np.unique(np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)).tolist()
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    options = {"num_workers": num_workers, "multiprocessing_context": reading_context(num_workers)}
    loader = DataLoader(images, batch_sampler=batches, collate_fn=collate_images, **options)
    levels, labels = [], []
    for batch in tqdm(loader, desc=benchmark.name, disable=not progress, leave=False):
        batch = images.bad_images.take(batch)
        if len(batch["pixel_values"]):
            levels.append(batch["pixel_values"])
            labels.append(batch.get("labels"))
    images.bad_images.finish()
    if not levels:
        raise ValueError(f"`--dataset {benchmark.name}` has no image that can be read.")
    single = labelled and not benchmark.several
    return CheckImages(torch.cat(levels), torch.cat(labels) if single else None, benchmark.name)


@dataclass
class Answers:
    """
    What is answered to images.

    Attributes:
        decisions (`numpy.ndarray` of shape `(n, decisions)`): Of each image the index of its class, and where there is a
            detector or thresholds of several labels, what these say.
        probabilities, logits (`torch.Tensor` of shape `(n, classes)`): In float64.
        seconds (`float`): The time of all but the first batch.
        timed (`int`): The images of these.
    """

    decisions: np.ndarray
    probabilities: Tensor
    logits: Tensor
    seconds: float
    timed: int

    def agreement(self, other: Answers) -> float:
        """The share of images on which all decisions are the same."""
        return float((self.decisions == other.decisions).all(axis=1).mean())

    def part(self, index: Tensor) -> Answers:
        """Those of some images."""
        return Answers(self.decisions[index.numpy()], self.probabilities[index], self.logits[index], self.seconds, self.timed)


def pipeline_answers(classify: OpenSetImageClassificationPipeline, images: CheckImages, batch_size: int) -> Answers:
    """What a pipeline (`classify`) answers to `images`, in batches of `batch_size`."""
    transform = ImageTransform.from_processor(classify.processor, train=False)
    names = {name: index for index, name in enumerate(classify.head.class_names)}
    seconds: list[float] = []
    logits = []
    with torch.no_grad():
        for levels in images.levels.split(batch_size):
            pixels = normalised(levels, transform)
            start = time.perf_counter()
            embeds = encode_images(classify.model, pixels.to(classify.model.device, classify.model.dtype))
            logits.append(classify.head(embeds.to(classify.head.weight.dtype)).cpu())
            seconds.append(time.perf_counter() - start)
    found = torch.cat(logits)
    decisions, probabilities = [], torch.empty(found.shape, dtype=torch.float64)
    for number, row in enumerate(found):
        answer = classify.postprocess({"logits": row[None], "image": None, "error": None}, top_k=None)
        for item in answer["classes"]:
            probabilities[number, names[item["label"]]] = item["score"]
        decision = [names[answer["nearest_class"]]] + ([] if answer["is_known"] is None else [int(answer["is_known"])])
        if "labels" in answer:
            given = {item["label"] for item in answer["labels"]}
            decision += [int(name in given) for name in names]
        decisions.append(decision)
    return Answers(np.array(decisions), probabilities, found.double(), *_timed(seconds, len(found), batch_size))


def graph_answers(
    run: Callable[[np.ndarray], Mapping[str, np.ndarray]], images: CheckImages, transform: ImageTransform, input: str, batch_size: int
) -> Answers:
    """
    What a graph answers.

    Args:
        run (`Callable`): Maps an input to outputs by name.
        images ([`CheckImages`]), batch_size (`int`): The images, and how many at once.
        transform ([`ImageTransform`]): Of the model.
        input (`str`): What the graph takes, one of `INPUTS`.
    """
    seconds: list[float] = []
    parts = []
    for batch in graph_inputs(images, transform, input, batch_size):
        start = time.perf_counter()
        parts.append(run(batch))
        seconds.append(time.perf_counter() - start)
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    decisions = [found["label"][:, None]] + ([found["is_known"][:, None]] if "is_known" in found else [])
    decisions += [found["has_label"]] if "has_label" in found else []
    values = (torch.from_numpy(found[name]).double() for name in ("probabilities", "logits"))
    return Answers(np.concatenate([item.astype(np.int64) for item in decisions], axis=1), *values, *_timed(seconds, len(images), batch_size))


def graph_inputs(images: CheckImages, transform: ImageTransform, input: str, batch_size: int) -> Iterator[np.ndarray]:
    """
    The batches of some images as a graph takes them.

    Args:
        images ([`CheckImages`]), transform ([`ImageTransform`]), input (`str`), batch_size (`int`): As for [`graph_answers`].
    """
    for levels in images.levels.split(batch_size):
        yield (levels.permute(0, 2, 3, 1).contiguous() if input == "uint8" else normalised(levels, transform)).numpy()


def _timed(seconds: list[float], n: int, batch_size: int) -> tuple[float, int]:
    # The first batch pays for memory that the others find.
    return (sum(seconds[1:]), n - batch_size) if len(seconds) > 1 else (seconds[0], n)


def compared(answers: Answers, reference: Answers, images: CheckImages, size: int, temperature: float | None) -> dict[str, Any]:
    """
    A row of the table of an export.

    Args:
        answers ([`Answers`]), reference ([`Answers`]): Of the graph, and of the pipeline in float32.
        images ([`CheckImages`]): To which.
        size (`int`): Bytes of the file.
        temperature (`float`, *optional*): Divides the logits of a softmax; `None` for sigmoids.

    Returns:
        `dict[str, Any]`: `agreement`, `max_probability_difference`, `images_per_second`, `bytes`; with labels and a softmax
        `accuracy`, `ece` and `nll` too.
    """
    row: dict[str, Any] = {
        "agreement": answers.agreement(reference),
        "max_probability_difference": (answers.probabilities - reference.probabilities).abs().max().item(),
        "images_per_second": answers.timed / answers.seconds,
        "bytes": size,
    }
    if images.labels is not None and temperature is not None:
        probabilities, labels = answers.probabilities, images.labels
        row |= {
            "accuracy": (torch.from_numpy(answers.decisions[:, 0]) == labels).double().mean().item(),
            "ece": expected_calibration_error(probabilities, labels),
            "nll": negative_log_likelihood(answers.logits / temperature, labels, from_logits=True),
        }
    return row
