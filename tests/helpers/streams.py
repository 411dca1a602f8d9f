# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Small data sets as files for the tests of streams: parquet shards, tars and class folders of the same pictures."""

from __future__ import annotations

import copy
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import TrainerCallback

from helpers import CLASSES, TEMPLATES, arguments, tiny_processor
from hf_robustft import FLYPTrainer
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.examples import ClipCollator
from hf_robustft.data.streams.examples import StreamingExamples


def picture(number: int, label: int) -> bytes:
    """A PNG that no other number has, of the colour of its class."""
    pixels = np.random.default_rng(number).integers(0, 128, (36, 44, 3), dtype=np.uint8)
    pixels[..., label % 3] += np.uint8(64 + 32 * (label // 3))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(sizes: Sequence[int]) -> list[list[tuple[bytes, int]]]:
    """(image, label) of the rows of shards of these sizes, labels in turn."""
    starts = np.cumsum([0, *sizes])
    return [[(picture(n, n % 4), n % 4) for n in range(starts[i], starts[i + 1])] for i in range(len(sizes))]


def write_tars(folder: Path, sizes: Sequence[int], split: str = "train", image: str = "png") -> Path:
    """`<folder>/<split>/00000.tar` and so on, as webdataset has them."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    for shard, content in enumerate(rows(sizes)):
        with tarfile.open(folder / split / f"{shard:05d}.tar", "w") as tar:
            for row, (encoded, label) in enumerate(content):
                for name, data in ((image, encoded), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{shard:03d}{row:05d}.{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (folder / "classnames.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def write_parquet(folder: Path, sizes: Sequence[int], split: str = "train", **columns) -> Path:
    """`<folder>/<split>-00000-of-00003.parquet` and so on, with a ClassLabel, in row groups of 3."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    first = 0
    for shard, content in enumerate(rows(sizes)):
        table = {
            "image": [{"bytes": encoded, "path": f"{shard}-{row}.png"} for row, (encoded, _) in enumerate(content)],
            "label": [label for _, label in content],
            **{name: values[first : first + len(content)] for name, values in columns.items()},
        }
        first += len(content)
        kinds = {name: datasets.Value("string") for name in columns}
        written = datasets.Dataset.from_dict(table, features=datasets.Features({**features, **kinds}))
        file = folder / f"{split}-{shard:05d}-of-{len(sizes):05d}.parquet"
        pq.write_table(written.data.table, file, row_group_size=3)
    return folder


def write_folders(folder: Path, sizes: Sequence[int]) -> Path:
    """`<folder>/<class>/<number>.png`."""
    for number, (encoded, label) in enumerate(row for shard in rows(sizes) for row in shard):
        (folder / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        (folder / CLASSES[label] / f"{number:05d}.png").write_bytes(encoded)
    return folder


WRITERS = {"parquet": write_parquet, "tar": write_tars, "folders": write_folders}


def benchmark(kind: str, folder: Path, sizes: Sequence[int], role: str = "train", **settings) -> Benchmark:
    """A benchmark of files of a kind, streamed unless `streaming=False`."""
    written = settings.pop("columns", {})
    path = folder if folder.is_dir() and any(folder.iterdir()) else WRITERS[kind](folder, sizes, **written)
    columns = {"image_column": "png", "label_column": "cls"} if kind == "tar" else {}
    described = {
        "name": kind,
        "class_names": CLASSES,
        "templates": TEMPLATES,
        "streaming": True,
        **columns,
        **settings,
    }
    return Benchmark(role=role, path=str(path), **described)


class Numbered(StreamingExamples):
    """Streaming examples that say which row of which pass they are."""

    def example(self, row, epoch, index, where):
        return {**super().example(row, epoch, index, where), "row": (epoch, index)}


class NumberedCollator(ClipCollator):
    """Batches that say which rows they hold."""

    def __call__(self, examples):
        return {**super().__call__(examples), "rows": torch.tensor([example["row"] for example in examples])}


class Recording(FLYPTrainer):
    """Keeps the rows `(pass, row)` of each batch that it trained on."""

    def compute_loss(self, model, inputs, **kwargs):
        self.seen.append([tuple(row) for row in inputs.pop("rows").tolist()])
        return super().compute_loss(model, inputs, **kwargs)


class SaveAt(TrainerCallback):
    """Saves after the given steps."""

    def __init__(self, steps):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = state.global_step in self.steps


def recorded(
    model, described: Benchmark, folder: Path, resume: Path | None = None, save_at: Sequence[int] = (), **settings
) -> list[list[tuple]]:
    """The rows of each batch of a run of this process, resumed from a checkpoint if one is given."""
    processor, buffer, kind = tiny_processor(), settings.pop("buffer", 5), settings.pop("kind", Numbered)
    args = arguments(folder, **{"per_device_train_batch_size": 2, "logging_steps": 100, **settings})
    shuffle = args.train_sampling_strategy == "random"
    trainer = Recording(
        copy.deepcopy(model),
        args,
        train_dataset=kind.from_benchmark(described, processor, seed=args.seed, shuffle=shuffle, buffer=buffer),
        processing_class=processor,
        data_collator=NumberedCollator(processor.tokenizer),
        callbacks=[SaveAt(save_at)],
    )
    trainer.seen = []
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer.seen
