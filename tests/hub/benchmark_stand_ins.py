# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Small stand-ins for ImageNet and its shifts, laid out like the repositories that the registry names."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Sequence

import datasets
import numpy as np
from PIL import Image

from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.catalog.imagenet import imagenet_classes
from hf_robustft.data.catalog.schema import facts


def picture(label: int, kind: str = "JPEG", seed: int = 0) -> bytes:
    """A noisy image that says its class by its colours."""
    pixels = np.random.default_rng([label, seed]).integers(0, 64, (36, 40, 3), dtype=np.uint8)
    pixels += np.array([label % 4, label // 4 % 4, label // 16 % 4], dtype=np.uint8) * 48
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def tar(labels: Iterable[int], ending: str, seed: int = 0) -> bytes:
    """A shard of samples `<number>.<ending>`, `<number>.cls`."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number, label in enumerate(labels):
            image = picture(label, {"jpg": "JPEG"}.get(ending, ending.upper()), seed)
            for name, data in ((ending, image), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"s{number:07d}.{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def parquet(labels: Sequence[int], names: Sequence[str], seed: int = 0) -> bytes:
    """A parquet file with the columns image and label, a ClassLabel."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    table = {"image": [{"bytes": picture(label, seed=seed), "path": None} for label in labels], "label": list(labels)}
    file = io.BytesIO()
    datasets.Dataset.from_dict(table, features=features).to_parquet(file)
    return file.getvalue()


def readme(**splits: int) -> dict[str, bytes]:
    """A README that declares the number of rows of each split."""
    rows = "".join(f"  - name: {name}\n    num_examples: {count}\n    num_bytes: 1\n" for name, count in splits.items())
    return {"README.md": f"---\ndataset_info:\n  splits:\n{rows}---\n".encode()}


def webdataset(
    split: str, shards: Sequence[Sequence[int]], ending: str, names: Sequence[str], seed: int = 0
) -> dict[str, bytes]:
    """The files of a repository that CLIP_benchmark's exporter wrote."""
    return {
        **readme(**{split: sum(map(len, shards))}),
        **{f"{split}/{number}.tar": tar(labels, ending, seed) for number, labels in enumerate(shards)},
        f"{split}/nshards.txt": str(len(shards)).encode(),
        "classnames.txt": "\n".join(names).encode(),
        "zeroshot_classification_templates.txt": b"a photo of a {c}.",
    }


def seed_imagenet(hub) -> dict[str, int]:
    """Seed the Hub with ImageNet and its shifts; returns the number of images of each test set.

    ImageNet-1k is parquet with a ClassLabel, the shifts are tars; ObjectNet is missing where the registry looks first.
    """
    clip_names = [row[1] for row in facts("imagenet")["classes"]]
    subset = {name: [clip_names[i] for i in facts("imagenet")[name]] for name in ("imagenet_r", "imagenet_a")}
    every = list(range(0, 1000, 83))
    hub.seed(
        "dataset",
        "ILSVRC/imagenet-1k",
        {
            **readme(train=len(every) + 4, validation=4),
            "data/train-00000-of-00002.parquet": parquet(every, imagenet_classes()),
            "data/train-00001-of-00002.parquet": parquet([999, 500, 1, 2], imagenet_classes()),
            "data/validation-00000-of-00001.parquet": parquet([0, 999, 388, 640], imagenet_classes(), seed=1),
        },
    )
    hub.seed(
        "dataset",
        "clip-benchmark/wds_imagenetv2",
        webdataset("test", [[0, 10], [999, 2, 7]], "webp", clip_names, 3),
    )
    hub.seed(
        "dataset",
        "clip-benchmark/wds_imagenet-r",
        webdataset("test", [[0, 199, 57]], "jpg", subset["imagenet_r"], 4),
    )
    hub.seed(
        "dataset",
        "clip-benchmark/wds_imagenet-a",
        webdataset("test", [[199], [0, 4], [77]], "jpg", subset["imagenet_a"], 5),
    )
    hub.seed("dataset", "clip-benchmark/wds_imagenet_sketch", webdataset("test", [[3, 4, 998]], "jpg", clip_names, 6))
    names = load_benchmark("objectnet").class_names
    hub.seed("dataset", "timm/objectnet-720p-in1k", {"data/test-00000-of-00001.parquet": parquet([0, 112, 5], names, seed=2)})
    return {
        "imagenet-1k": 4,
        "imagenet-v2": 5,
        "imagenet-r": 3,
        "imagenet-a": 4,
        "imagenet-sketch": 3,
        "objectnet": 3,
    }


def seed_every_class(hub) -> None:
    """Seed the Hub with an image of every class of ImageNet, to train and to test on, and of its shifts."""
    clip_names = [row[1] for row in facts("imagenet")["classes"]]
    every = range(1000)
    splits = {"data/train-0.parquet": parquet(every, imagenet_classes())}
    splits["data/validation-0.parquet"] = parquet(every, imagenet_classes(), seed=1)
    hub.seed("dataset", "ILSVRC/imagenet-1k", splits)
    hub.seed("dataset", "clip-benchmark/wds_imagenetv2", webdataset("test", [every], "webp", clip_names, 2))
    hub.seed("dataset", "clip-benchmark/wds_imagenet_sketch", webdataset("test", [every], "jpg", clip_names, 3))
    for seed, name in enumerate(("imagenet-r", "imagenet-a"), 4):
        names = [clip_names[i] for i in facts("imagenet")[name.replace("-", "_")]]
        hub.seed("dataset", f"clip-benchmark/wds_{name}", webdataset("test", [range(200)], "jpg", names, seed))
