# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Items p and s: a whole evaluation of JPEG files over two loops that a user would write, and the memory of a long stream.

All three loops of item p read the same files with the same number of workers, and know the classes by one prompt each. The
prompts are encoded once in a pass, by the pipeline once in a batch. Ours measures calibration and standard errors as well.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

from memory import in_a_process
from peer_trainers import PICTURES, checkpoint, prepare
from table import Row
from turns import Contender, interleave, median_ratio

#: The template of each class's prompt.
TEMPLATE = "a photo of a {}."
WORKERS = 2
#: Of Emoji Shift.
CLASSES = 200


def class_names(count: int) -> list[str]:
    """The first of ImageNet's."""
    from hf_robustft.data.catalog.imagenet import imagenet_classes

    return imagenet_classes()[:count]


def _fork_workers() -> None:
    # As a script does on Linux; the process that measures is a spawned one, whose workers would be spawned too. The
    # pipeline's cannot be.
    if multiprocessing.parent_process() is not None and "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork", force=True)


def _files(folder: str) -> list[str]:
    return [str(path) for path in sorted((Path(folder) / "pictures").iterdir())]


def ours(turn, folder: str, batch: int, classes: int) -> dict:
    """`Evaluator`, which reads every file again in each pass."""
    import datasets

    from hf_robustft import Benchmark, Evaluator

    _fork_workers()
    names, files = class_names(classes), _files(folder)
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    labels = [number % classes for number in range(len(files))]
    rows = datasets.Dataset.from_dict({"image": files, "label": labels}, features=columns)
    benchmark = Benchmark("files", "id", tuple(names), (TEMPLATE,), dataset=rows)
    model, processor = checkpoint(Path(folder))
    settings = {"batch_size": batch, "num_workers": WORKERS, "progress": False, "kept_bytes": 0}
    evaluator = Evaluator([benchmark], processor, **settings)
    while turn():
        evaluator.evaluate(model)
    return {"predicted": evaluator.predictions.sets["files"].predicted.tolist()}


class Pictures:
    """The files through the image processor, as CLIP_benchmark has them through the model's transform."""

    def __init__(self, files: list[str], processor):
        self.files, self.processor = files, processor

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int):
        from PIL import Image

        with Image.open(self.files[index]) as image:
            return self.processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"][0], index


def benchmark_loop(turn, folder: str, batch: int, classes: int) -> dict:
    """What CLIP_benchmark does: a loader, unit features, logits, the top class; its metrics are left out."""
    import torch
    from torch.nn.functional import normalize

    _fork_workers()
    model, processor = checkpoint(Path(folder))
    loader = torch.utils.data.DataLoader(Pictures(_files(folder), processor.image_processor), batch, num_workers=WORKERS)
    names = class_names(classes)
    while turn():
        predicted = []
        with torch.no_grad():
            prompts = [TEMPLATE.format(name) for name in names]
            tokens = processor.tokenizer(prompts, padding="max_length", return_tensors="pt")
            head = normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
            for pixel_values, _ in loader:
                features = normalize(model.get_image_features(pixel_values).pooler_output, dim=-1)
                predicted += [names[index] for index in (100 * features @ head.t()).argmax(dim=1).tolist()]
    return {"predicted": predicted}


def zero_shot_pipeline(turn, folder: str, batch: int, classes: int) -> dict:
    """Transformers' `zero-shot-image-classification`, in batches."""
    from transformers import pipeline

    _fork_workers()
    model, processor = checkpoint(Path(folder))
    parts = {"image_processor": processor.image_processor, "tokenizer": processor.tokenizer}
    classify = pipeline("zero-shot-image-classification", model=model, **parts, batch_size=batch, num_workers=WORKERS)
    names = class_names(classes)
    while turn():
        answers = classify(_files(folder), candidate_labels=names, hypothesis_template=TEMPLATE)
        predicted = [answer[0]["label"] for answer in answers]
    return {"predicted": predicted}


def stream_memory(folder: str, batch: int, threads: int) -> dict:
    """
    Evaluate a folder of tars as a stream.

    Args:
        folder (`str`): As [`write_tars`] left it.
        batch (`int`): Images encoded at once.
        threads (`int`): Threads of torch.

    Returns:
        `dict`: `images`, `seconds`, `peak` and `workers` (bytes of the largest resident sets of the process, and of one worker).
    """
    import time

    import torch
    from turns import peak_memory

    from hf_robustft import Evaluator, load_benchmark, load_dual_encoder

    torch.set_num_threads(threads)
    model, processor = load_dual_encoder("emoji_clip")
    names = load_benchmark("emoji_shift")["noto"].class_names
    benchmark = load_benchmark(folder, "train", class_names=names, image_column="jpg", label_column="cls", streaming=True)
    evaluator = Evaluator([benchmark], processor, batch_size=batch, num_workers=WORKERS, progress=False)
    start = time.perf_counter()
    report = evaluator.evaluate(model)
    seconds = time.perf_counter() - start
    peaks = {"peak": peak_memory(), "workers": peak_memory(resource.RUSAGE_CHILDREN)}
    return {"images": report.results[benchmark.name].n, "seconds": seconds, **peaks}


def write_tars(folder: Path, images: int, classes: int, shards: int = 4) -> None:
    """Tars of JPEG files of 500 x 375 pixels with a class each, in the layout of WebDataset."""
    from data_path import jpegs

    encoded = jpegs(500, 375, min(images, PICTURES))
    for shard in range(shards):
        with tarfile.open(folder / f"train-{shard:02}.tar", "w") as tar:
            for number in range(shard, images, shards):
                for suffix, content in (("jpg", encoded[number % len(encoded)]), ("cls", str(number % classes).encode())):
                    member = tarfile.TarInfo(f"{number:06}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))


def measure(options, progress, item: str) -> list[Row]:
    """Two rows of time (p), or one of memory (s)."""
    return _passes(options, progress) if item == "p" else [_memory(options, progress)]


def _passes(options, progress) -> list[Row]:
    rows, classes = [], options.prompts // 10
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), options.model, options.images, [TEMPLATE.format(name) for name in class_names(classes)])
        settings = {"folder": folder, "batch": options.batch, "classes": classes}
        sides = [
            Contender(function.__name__, function, settings, options.threads, children=True)
            for function in (ours, benchmark_loop, zero_shot_pipeline)
        ]
        interleave(sides, max(1, options.rounds // 4), 1, progress)
    one, *others = sides
    for item, name, other in zip(("p", "p pipeline"), ("CLIP_benchmark's loop", "the zero-shot pipeline"), others, strict=True):
        pairs = zip(one.results[0]["predicted"], other.results[0]["predicted"], strict=True)
        same = statistics.mean(a == b for a, b in pairs)
        note = f"{WORKERS} workers, {classes} classes; {options.images / one.median:.3g} images per second against "
        note += f"{options.images / other.median:.3g}; the same top class for {same:.1%}"
        rounds = {"rounds": [list(pair) for pair in zip(one.seconds, other.seconds, strict=True)], "same": same}
        what = f"evaluating {options.images} JPEG files over {name}"
        rows.append(Row(item, what, one.median, other.median, "s", median_ratio(one, other), None, note, rounds))
    return rows


def _memory(options, progress) -> Row:
    found = []
    for images in (options.stream // 10, options.stream):
        with tempfile.TemporaryDirectory() as folder:
            progress(f"evaluating a stream of {images:,}")
            write_tars(Path(folder), images, CLASSES)
            found.append(in_a_process(stream_memory, folder, 256, options.threads))
    few, many = found
    what = f"memory of evaluating a stream of {many['images']:,} images, over {few['images']:,}"
    note = f"emoji_clip, {CLASSES} classes, tars of 500 x 375 JPEG files, {WORKERS} workers of up to {many['workers'] / 1e9:.2f} GB; "
    note += f"{many['images'] / many['seconds']:.0f} images per second"
    ratio = many["peak"] / few["peak"]
    return Row("s", what, many["peak"] / 1e9, few["peak"] / 1e9, "GB", ratio, None, note, {"few": few, "many": many})
