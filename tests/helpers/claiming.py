# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A finished folder with claims of every kind, and the data that they were measured on."""

from pathlib import Path

import torch
from transformers import CLIPModel

from helpers import CLASSES, TEMPLATES, image_dataset, tiny_config, tiny_processor
from hf_robustft import load_benchmark
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.evaluation.evaluator import Evaluator
from hf_robustft.publishing.finish import finish_checkpoint
from hf_robustft.training.image_check import check_images

SETS = {"photo": ("id", 80), "sketch": ("shift", 60), "unseen": ("open_set", 40), "held_out": ("validation", 80)}
PROCESSOR = tiny_processor()


def labelled(model, n, seed, wrong):
    """Images whose labels are what the model says, a share of them changed."""
    rows = image_dataset(n, seed=seed)
    images = Benchmark.from_dataset(rows, name="rows", role="id", class_names=CLASSES, templates=TEMPLATES)
    guesses = collect_logits(model, images, PROCESSOR, progress=False)[0].argmax(dim=1)
    draw = torch.Generator().manual_seed(seed)
    labels = torch.where(torch.rand(n, generator=draw) < wrong, (guesses + 1) % len(CLASSES), guesses)
    names = image_dataset(1).features["label"]
    return rows.remove_columns("label").add_column("label", labels.tolist()).cast_column("label", names)


def made(desk: Path) -> Path:
    """Write into `desk` a finished folder `clip`, its data sets as parquet files, and others like them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(tiny_config()).eval()
    for seed, (name, (role, n)) in enumerate(SETS.items()):
        rows = image_dataset(n, seed=9, classes=("ant", "fox")) if role == "open_set" else labelled(model, n, seed, 0.2 + 0.1 * seed)
        rows.to_parquet(desk / f"{name}.parquet")
    labelled(model, 70, 21, 0.2).to_parquet(desk / "other_photo.parquet")
    labelled(model, 20, 22, 0.2).to_parquet(desk / "few.parquet")
    image_dataset(60, seed=5, classes=("ant", "fox")).to_parquet(desk / "strangers.parquet")
    sets = {}
    for name, (role, _) in SETS.items():
        classes = {"label_column": None} if role == "open_set" else {"class_names": CLASSES, "templates": TEMPLATES}
        sets[name] = load_benchmark(str(desk / f"{name}.parquet"), name=name, role=role, **classes)
    *measured, validation = sets.values()
    hashes = check_images(None, sets.values(), allow_overlap=True).hashes
    facts = {"method": "carot", "class_names": CLASSES, "templates": TEMPLATES, "settings": {}, "image_hashes": hashes}
    finish_checkpoint(
        desk / "clip", model=model, processor=PROCESSOR, evaluator=Evaluator(measured, PROCESSOR, bootstrap_draws=50, progress=False),
        validation=validation, coverage=0.8, **facts,
    )  # fmt: skip
    return desk
