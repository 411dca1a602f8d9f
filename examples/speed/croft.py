# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Item f: an epoch of CRoFT on cached features and on images."""

from __future__ import annotations

import tempfile
import time

import datasets
import torch
from data_path import jpegs
from table import Row
from transformers import CLIPImageProcessorPil, PrinterCallback, TrainerCallback
from turns import Contender, interleave, median_ratio
from workload import random_model

from hf_robustft import Benchmark, CRoFTTrainer, RobustTrainingArguments, cache_features
from hf_robustft.data.examples import collate_images

CLASSES = 400
#: Different ones.
PICTURES = 64


class _EpochTurns(TrainerCallback):
    def __init__(self, turn):
        self.turn = turn

    def on_train_begin(self, args, state, control, **kwargs):
        control.should_training_stop = not self.turn()

    on_epoch_end = on_train_begin


def photographs(count: int, classes: int) -> Benchmark:
    """`count` pictures of 500 x 375 pixels in the size of ImageNet's files, in turn from a few; labels in turn."""
    files = [{"bytes": file, "path": None} for file in jpegs(500, 375, min(count, PICTURES))]
    names = [f"class {number}" for number in range(classes)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    rows = {"image": [files[i % len(files)] for i in range(count)], "label": [i % classes for i in range(count)]}
    return Benchmark.from_dataset(
        datasets.Dataset.from_dict(rows, features=features), name="photographs", role="train"
    )


def epoch(turn, model: str, images: int, batch: int, cached: bool) -> None:
    """Epochs of CRoFT with the settings of its code; what computing the features took goes into `turn.info`."""
    clip, classes = random_model(model), min(CLASSES, images)
    size = clip.config.vision_config.image_size
    processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    data = photographs(images, classes)
    if cached:
        start = time.perf_counter()
        data = cache_features(clip, data, processor, views=1, batch_size=batch, progress=False)
        turn.info["seconds"] = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        settings = {**CRoFTTrainer.paper_settings, "per_device_train_batch_size": batch, "num_train_epochs": 1000}
        args = RobustTrainingArguments(
            output_dir=folder, use_cpu=True, save_strategy="no", report_to="none", disable_tqdm=True, **settings
        )
        texts = torch.randn(classes, 1, clip.config.projection_dim, generator=torch.Generator().manual_seed(3))
        trainer = CRoFTTrainer(
            clip,
            args,
            train_dataset=data,
            processing_class=processor,
            data_collator=None if cached else collate_images,
            class_features=texts,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(_EpochTurns(turn))
        trainer.train()


def measure(options, progress) -> list[Row]:
    """A row of the epochs, and one of what the cache costs once."""
    images = options.images
    settings = {"model": options.model, "images": images, "batch": options.batch}
    with_cache = Contender("CRoFT, cached", epoch, {**settings, "cached": True}, options.threads)
    without = Contender("CRoFT, images", epoch, {**settings, "cached": False}, options.threads)
    interleave([with_cache, without], max(2, options.rounds // 2), 1, progress)
    once = with_cache.info["seconds"]
    what = f"CRoFT epoch of {images} images"
    rounds = [list(pair) for pair in zip(with_cache.seconds, without.seconds, strict=True)]
    ratio = median_ratio(with_cache, without)
    note = "computing the features, once"
    return [
        Row("f", f"{what}, cached features over images", with_cache.median, without.median, "s", ratio, 0.05,
            details={"rounds": rounds}),
        Row("f once", f"{note}, over an epoch on images", once, without.median, "s", once / without.median),
    ]  # fmt: skip
