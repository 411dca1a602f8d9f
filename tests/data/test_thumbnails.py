# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Small pictures of rows, and what their files are called."""

import base64
import io

import numpy as np
import pytest
from helpers import CLASSES, image_dataset
from PIL import Image

from hf_robustft.data.benchmarks import Benchmark, load_benchmark
from hf_robustft.data.images import EncodedImage
from hf_robustft.data.thumbnails import file_names, thumbnail, thumbnails


def test_small_pictures_are_of_the_rows_that_are_named(tmp_path):
    shift = load_benchmark("emoji_shift", "twemoji")
    places = [("twemoji", 7), ("twemoji", 9), ("elsewhere", 0), ("twemoji", 10**9)]
    found = thumbnails(places, [shift], size=24)
    assert set(found) == {("twemoji", 7), ("twemoji", 9)}
    assert list(thumbnails(places, [shift], size=24, most=1)) == [("twemoji", 7)]
    for (_, row), uri in found.items():
        kind, _, data = uri.partition(",")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert kind == "data:image/webp;base64" and max(picture.size) == 24
        whole = shift.load()[row]["image"].convert("RGB").resize(picture.size, Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(whole, float) - np.asarray(picture.convert("RGB"), float)).mean() < 12


def test_a_picture_that_can_no_longer_be_read_is_named_and_left_out(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (30, 20), (number * 90, 10, 10)).save(tmp_path / "images" / name / f"{number}.png")
    benchmark = load_benchmark(tmp_path / "images", "train", name="own")
    rows = len(benchmark.load())
    (tmp_path / "images" / "cat" / "1.png").write_bytes(b"cut off since")
    with pytest.warns(UserWarning, match="1.png") as caught:
        found = thumbnails([("own", row) for row in range(rows)], [benchmark])
    assert len(found) == rows - 1 == 3 and len(caught) == 1


def test_a_jpeg_is_decoded_small(monkeypatch):
    """A photograph is not decoded at its full size for a picture of a hundred pixels."""
    file, decoded = io.BytesIO(), []
    Image.effect_mandelbrot((1600, 1200), (-2, -1, 1, 1), 30).convert("RGB").save(file, "JPEG")
    read = EncodedImage.read
    monkeypatch.setattr(EncodedImage, "read", lambda self, shrink=1: decoded.append(read(self, shrink)) or decoded[-1].copy())
    found = Image.open(io.BytesIO(base64.b64decode(thumbnail(file.getvalue(), size=100).partition(",")[2])))
    assert found.size == (100, 75) and decoded[0].size == (200, 150)
    assert thumbnail(file.getvalue(), size=100) == thumbnail(file.getvalue(), size=100)


def test_names_of_files_say_not_whose_machine_it_is(tmp_path):
    folder = tmp_path / "me" / "images"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "0.png")
    (folder / "cat" / "0.png").rename(folder / "cat" / "a\u202eb\n.png")
    (folder / "dog" / "0.png").rename(folder / "dog" / ("x" * 200 + ".png"))
    names = file_names(load_benchmark(folder, "train", name="own"), [1, 0])
    assert names[1] == "cat/a\ufffdb\ufffd.png" and "me" not in "".join(names)
    assert len(names[0]) == 120 and names[0].endswith("xx.png")
    assert file_names(load_benchmark("emoji_shift", "noto"), []) == []


def test_rows_in_memory_and_streams_have_no_names(tmp_path):
    assert file_names(Benchmark.from_dataset(image_dataset(3), name="own", role="id"), [0, 2]) == [None, None]
    image_dataset(3).to_parquet(tmp_path / "a.parquet")
    streamed = load_benchmark(tmp_path / "a.parquet", streaming=True, class_names=CLASSES)
    assert file_names(streamed, [0, 2]) == [None, None] and thumbnails([(streamed.name, 0)], [streamed]) == {}
