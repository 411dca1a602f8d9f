# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A small data set, its images as files, and a checkpoint with a detector."""

import pytest

# Nothing that takes seconds, as in `tests/conftest.py`.

N = 12


@pytest.fixture
def data():
    """A `Benchmark` of `N` images."""
    from helpers import TEMPLATES, image_dataset

    from hf_robustft.data.benchmarks import Benchmark

    return Benchmark.from_dataset(image_dataset(N), name="val", role="validation", templates=TEMPLATES)


@pytest.fixture
def photos(data, tmp_path):
    """The images of `data` as files in their order, some of them in folders."""
    folder = tmp_path / "photos"
    for index, row in enumerate(data.load()):
        path = folder / ("a" if index < 5 else "b/deep") / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        row["image"].save(path)
    return folder


@pytest.fixture
def checkpoint(tiny_clip, tmp_path, data):
    """A saved model with names, templates, a detector that accepts half of the images, and a temperature."""
    from helpers import CLASSES, TEMPLATES, tiny_processor
    from helpers.detectors import detector

    from hf_robustft.modeling.metadata import ZERO_SHOT_HEAD
    from hf_robustft.publishing.metadata import write_robustft_json

    folder = tmp_path / "my-clip"
    tiny_clip.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    write_robustft_json(
        folder, method="croft", class_names=CLASSES, templates=TEMPLATES, settings={}, head=ZERO_SHOT_HEAD
    )
    detector(tiny_clip, data).save(folder)
    return folder
