# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Benchmarks of the small data set, an Evaluator of them, and its numbers from the whole arrays."""

import datasets
import torch

from helpers import CLASSES, TEMPLATES, image_dataset, tiny_processor
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.examples import EvaluationImages, collate_images
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.modeling.features import encode_images
from hf_robustft.modeling.zero_shot import ZeroShotHead


def benchmark(role="id", n=30, classes=CLASSES, templates=TEMPLATES, **changes):
    rows = image_dataset(n, seed=n, classes=classes)
    return Benchmark.from_dataset(rows, name=changes.pop("name", role), role=role, templates=templates, **changes)


def unreadable(n, row):
    rows = image_dataset(n).cast_column("image", datasets.Image(decode=False)).to_list()
    rows[row]["image"] = {"bytes": b"no picture", "path": None}
    features = image_dataset(1).features
    return Benchmark.from_dataset(datasets.Dataset.from_list(rows, features=features), name="broken", role="id")


def evaluator(benchmarks, **settings):
    return Evaluator(
        benchmarks, tiny_processor(), **{"batch_size": 8, "bootstrap_draws": 50, **settings}, progress=False
    )


def whole_arrays(model, chosen, head=None):
    """Embeddings, logits and labels of a benchmark in one piece, by the same parts."""
    processor = tiny_processor()
    images = EvaluationImages(chosen.load(), ImageTransform.from_processor(processor, train=False))
    batch = collate_images([images[index] for index in range(len(images))])
    head = head or ZeroShotHead.from_model(model, processor, chosen.class_names, chosen.templates)
    with torch.no_grad():
        embeds = encode_images(model, batch["pixel_values"].to(model.dtype))
        return embeds, head(embeds.to(head.weight.dtype)), batch["labels"]
