# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
import errno
import io
import logging
import random
import warnings
import zipfile

import numpy as np
import pytest
from datasets import Dataset
from helpers import sent_to_a_worker
from helpers.broken_images import broken, class_folder, encoded, picture, unusual
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from hf_robustft.data.bad_images import UNREADABLE, BadImages
from hf_robustft.data.benchmarks import load_benchmark
from hf_robustft.data.examples import EvaluationImages, TrainingExamples, collate_images
from hf_robustft.data.images import EncodedImage, UnreadableImage, decode_image, to_rgb
from hf_robustft.data.messages import say_once
from hf_robustft.data.transforms import ImageTransform

CLASSES = ("cat", "dog", "owl")
TRAIN = ImageTransform(16, (0.5,) * 3, (0.5,) * 3, train=True)
EVAL = ImageTransform(16, (0.5,) * 3, (0.5,) * 3, train=False)


def levels(image):
    return np.asarray(image).astype(int)


# Reading


@pytest.mark.parametrize("name", sorted(unusual()))
def test_unusual_images_are_read(name):
    image, result = picture(1), decode_image({"bytes": unusual()[name], "path": None})
    assert result.mode == "RGB" and result.size == ((32, 40) if name == "turned.jpg" else (40, 32))
    if name == "turned.jpg":
        result = result.transpose(Image.Transpose.ROTATE_90)
    if name in ("grey.jpg", "sixteen_bit.png", "one_bit.png"):
        image = image.convert("L").convert("RGB")
    # JPEG, palettes and dithering lose the noise and keep what the picture shows.
    lossless = name in ("sixteen_bit.png", "transparent.png", "animated.webp", "animated.png")
    limit = 0 if lossless else 6
    assert np.abs(levels(result).mean((0, 1)) - levels(image).mean((0, 1))).max() <= limit
    if lossless:
        assert np.array_equal(levels(result), levels(image))


def test_sixteen_bits_are_scaled_not_clipped():
    greys = np.array([[0, 1, 128, 129, 257, 32768, 65534, 65535]], dtype=np.uint16)
    expected = np.rint(greys / 257).astype(int)
    for image in (
        Image.fromarray(greys),
        Image.fromarray(greys.astype(np.int32)),
        Image.fromarray(greys.astype(">u2")),
    ):
        assert np.array_equal(levels(to_rgb(image)), np.repeat(expected[..., None], 3, axis=-1))
    with pytest.raises(ValueError, match="integers from 0 to 70000"):
        to_rgb(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))
    with pytest.raises(ValueError, match="32-bit integers up to 255"):
        to_rgb(Image.fromarray(np.array([[0, 255]], dtype=np.int32)))
    for black in (np.zeros((1, 2), np.int32), np.array([[0, 255]], np.uint16)):
        assert levels(to_rgb(Image.fromarray(black))).max() <= 1
    with pytest.raises(ValueError, match="floating-point numbers"):
        to_rgb(Image.fromarray(np.ones((2, 2), dtype=np.float32)))


def test_greys_of_twelve_bits_are_said_to_be_dark(caplog):
    say_once.cache_clear()
    for greys in ([[0, 0]], [[0, 4096]], [[0, 4095]], [[9, 900]]):
        to_rgb(Image.fromarray(np.array(greys, np.uint16)))
    assert ["no pixel above 4095 of 65535" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_cameras_turn_images(format, orientation):
    image = picture(3, (64, 48))
    exif = image.getexif()
    exif[0x0112] = orientation
    content = encoded(image, format, exif=exif)
    source = EncodedImage(content)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
    assert source.size == upright.size == ((64, 48) if orientation < 5 else (48, 64))
    assert source.scalable is (format == "JPEG")
    assert np.array_equal(levels(source.read()), levels(upright))
    if format == "JPEG":
        small = EncodedImage(content).read(4)
        assert small.size == tuple(side // 4 for side in upright.size)
        assert np.abs(levels(small) - levels(upright.reduce(4))).mean() < 6


def test_broken_exif_data_count_as_none():
    image, generator = picture(4), random.Random(0)
    exif = image.getexif()
    exif[0x0112] = 6
    sound = exif.tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(150):
            data = bytearray(sound)
            for _ in range(6):
                data[generator.randrange(6, len(data))] = generator.randrange(256)
            content = encoded(image, "JPEG", exif=bytes(data[: generator.randrange(7, len(data))]))
            assert sorted(decode_image(content).size) == [32, 40]


@pytest.mark.parametrize("form", ["dict", "bytes", "path", "file", "image"])
def test_every_form_of_an_encoded_image(form, tmp_path):
    content, path = encoded(picture(5), "PNG"), tmp_path / "a b#1.png"
    path.write_bytes(content)
    given = {
        "dict": {"bytes": content, "path": "elsewhere.png"},
        "bytes": content,
        "path": str(path),
        "file": {"bytes": None, "path": str(path)},
        "image": picture(5),
    }
    assert np.array_equal(levels(decode_image(given[form])), levels(picture(5)))


def test_addresses_are_fetched(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("good.png", encoded(picture(5), "PNG"))
        archive.writestr("bad.png", b"x")
    assert decode_image({"bytes": None, "path": f"zip://good.png::{tmp_path}/a.zip"}).size == (40, 32)
    with pytest.raises(UnreadableImage):
        decode_image({"bytes": None, "path": f"zip://bad.png::{tmp_path}/a.zip"})
    with pytest.raises(OSError) as error:
        decode_image({"bytes": None, "path": f"zip://good.png::{tmp_path}/gone.zip"})
    assert not isinstance(error.value, UnreadableImage)


@pytest.mark.parametrize("fault", [fault for fault in broken() if fault != "folder"])
def test_broken_images_are_named(fault):
    suffix, content = broken()[fault]
    with pytest.raises(UnreadableImage, match=rf"^The image of row 7 \({fault}\) cannot be read: ") as error:
        decode_image({"bytes": content, "path": fault + suffix}, f"row 7 ({fault})")
    assert "\n" not in str(error.value) and "0x" not in str(error.value)
    assert error.value.summary.startswith(f"row 7 ({fault}): ")


def test_missing_files_and_images(tmp_path):
    with pytest.raises(UnreadableImage, match="No such file"):
        decode_image(str(tmp_path / "gone.png"))
    with pytest.raises(UnreadableImage, match="row 3 has no image; leave the row out"):
        decode_image(None, "row 3")
    with pytest.raises(UnreadableImage, match="row 3 has no image"):
        decode_image({"bytes": None, "path": None}, "row 3")
    with pytest.raises(UnreadableImage, match="directory"):
        decode_image(str(tmp_path))


def test_trouble_of_the_machine_is_not_blamed_on_images(monkeypatch):
    def fails(error):
        def opened(*_):
            raise error

        monkeypatch.setattr(Image, "open", opened)

    fails(OSError(errno.EMFILE, "Too many open files"))
    with pytest.raises(OSError, match="could not be fetched: Too many open files") as error:
        decode_image(b"x")
    assert not isinstance(error.value, UnreadableImage)
    fails(MemoryError())
    with pytest.raises(MemoryError):
        decode_image(b"x")


# Counting


def test_policy_and_threshold_are_checked():
    with pytest.raises(ValueError, match="bad_images is 'ignore'; choose 'skip' or 'error'"):
        BadImages("ignore")
    for threshold in (0, -0.1, 1.5):
        with pytest.raises(ValueError, match=f"bad_images_threshold is {threshold}"):
            BadImages(threshold=threshold)
    assert BadImages().skips and not BadImages("error").skips and BadImages().threshold == 0.01


def test_a_share_above_the_threshold_stops(caplog):
    few = BadImages(name="photos", total=1000)
    with caplog.at_level(logging.WARNING):
        few.count(500, [f"row {i}: broken" for i in range(10)])
    assert caplog.messages == [f"Unreadable image in photos, skipped: row {i}: broken" for i in range(5)]
    with pytest.raises(
        OSError, match=r"^11 of the 1000 images of photos cannot be read, more than the 1 % that"
    ) as error:
        few.count(1, ["row 10: broken"])
    assert "row 0: broken; row 1: broken; row 2: broken; ..." in str(error.value) and "\n" not in str(error.value)
    enough = BadImages(threshold=0.02, total=1000)
    enough.count(1000, [f"row {i}: broken" for i in range(13)])
    enough.count(1000, [f"row {i}: broken" for i in range(13)])
    assert enough.summary()["count"] == 13 and enough.summary()["of"] == 1000 and enough.read == 2000
    assert set(enough.unreadable.values()) == {2}


def test_a_single_image_never_stops_a_run_and_a_second_may():
    small = BadImages(total=40)
    small.count(1, ["row 0: broken"])
    with pytest.raises(OSError, match="2 of the 40 images of the data"):
        small.count(1, ["row 1: broken"])


def test_a_stream_is_judged_by_what_was_read():
    stream = BadImages(name="a stream")
    stream.count(12, [f"row {i}: broken" for i in range(10)])
    stream.count(4000, [f"row {i}: broken" for i in range(10, 40)])
    with pytest.raises(OSError, match="41 of the 4013 images read of a stream"):
        stream.count(1, ["row 41: broken"])
    short = BadImages()
    short.count(100, ["row 0: broken", "row 1: broken"])
    with pytest.raises(OSError, match="2 of the 100 images read"):
        short.finish()


def test_counts_of_processes_are_added():
    parts = [BadImages(total=1000) for _ in range(2)]
    parts[0].count(500, [f"row {i}: broken" for i in range(7)])
    parts[1].count(500, [f"row {i}: broken" for i in range(7, 10)])
    whole = parts[0].of("photos", 1000)
    whole.add(part.state() for part in parts)
    assert whole.summary() == {"count": 10, "of": 1000, "first": [f"row {i}: broken" for i in range(10)]}
    with pytest.raises(OSError, match="13 of the 1000"):
        whole.add([{"read": 3, "unreadable": {f"row {i}: broken": 1 for i in range(10, 13)}}])
    many = BadImages(threshold=1.0, total=50)
    many.count(50, [f"row {i}: broken" for i in range(30)])
    assert many.summary()["count"] == 30 and len(many.summary()["first"]) == 20


def test_one_counter_counts_one_data_set():
    counter = BadImages()
    assert counter.bound("photos", 10) is counter and counter.bound("photos", 10).total == 10
    with pytest.raises(ValueError, match="count the 10 images of photos already, not the 11 of others"):
        counter.bound("others", 11)
    assert counter.of("others").total is None


# Training and evaluation

N = 87


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """100 files, 13 of them broken, and the paths of those."""
    root = tmp_path_factory.mktemp("photos")
    return root, class_folder(root, CLASSES, N)


@pytest.fixture(scope="module")
def training(folder):
    return load_benchmark(str(folder[0]), name="photos", role="train")


def examples(benchmark, **options):
    settings = {"class_names": CLASSES, "templates": ("a {}.", "the {}.")}
    return TrainingExamples(benchmark.load(), TRAIN, **settings, **options)


def collate(batch):
    return {"captions": [example["caption"] for example in batch], **collate_images(batch)}


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_of_training_keeps_its_batches_and_names_the_broken(folder, training, workers):
    data = examples(training, bad_images=BadImages(threshold=0.2))
    loader = DataLoader(
        data, batch_size=10, sampler=[(1, i) for i in range(100)], num_workers=workers, collate_fn=collate
    )
    for batch in loader:
        assert batch["pixel_values"].shape == (10, 3, 16, 16) and len(batch["labels"]) == 10
        for caption, label in zip(batch["captions"], batch["labels"].tolist(), strict=True):
            assert CLASSES[label] in caption
        data.bad_images.take(batch)
        assert UNREADABLE not in batch
    counter = data.bad_images
    # A replacement may be broken too, and is met a second time.
    assert counter.read == 100 + sum(counter.unreadable.values())
    assert len(counter.unreadable) == 13 and counter.summary()["of"] == 100
    assert sorted(folder[1]) == sorted(line.split(" (", 1)[1].split("): ", 1)[0] for line in counter.unreadable)


def test_replacements_are_the_same_in_any_process(folder, training):
    first, second = examples(training, bad_images=BadImages()), examples(training, bad_images=BadImages())
    replaced = 0
    for epoch in (0, 3):
        for index in range(100):
            a, b = first[(epoch, index)], sent_to_a_worker(second)[(epoch, index)]
            assert a["pixel_values"].equal(b["pixel_values"]) and a["caption"] == b["caption"]
            assert a.get(UNREADABLE) == b.get(UNREADABLE)
            replaced += UNREADABLE in a
    assert replaced == 26


def test_the_threshold_stops_an_epoch(training):
    data = examples(training, bad_images=BadImages(threshold=0.05))
    with pytest.raises(OSError, match=r"^6 of the 100 images of the training data cannot be read, more than the 5 %"):
        for index in range(100):
            data.bad_images.take(collate([data[(0, index)]]))


def test_by_default_the_first_unreadable_image_is_an_error(training):
    for data in (examples(training), EvaluationImages(training.load(), EVAL)):
        with pytest.raises(UnreadableImage, match="cannot be read: .*; mend or remove it") as error:
            list(DataLoader(data, batch_size=10, collate_fn=collate_images))
        # A loader builds the error of a worker anew, from its text.
        assert str(type(error.value)(f"in worker 1: {error.value}")) == f"in worker 1: {error.value}"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluation_leaves_them_out(folder, training, workers):
    rows = training.load()
    stored = list(rows["label"])
    data = EvaluationImages(rows, EVAL, bad_images=BadImages(threshold=0.2))
    kept, labels = [], []
    for at, batch in enumerate(DataLoader(data, batch_size=8, num_workers=workers, collate_fn=collate_images)):
        positions = batch.pop("kept", range(len(batch["pixel_values"])))
        kept += [8 * at + int(position) for position in positions]
        labels += batch["labels"].tolist()
        assert len(batch["pixel_values"]) == len(batch["labels"])
        data.bad_images.take(batch)
    assert len(kept) == N and data.bad_images.read == 100
    assert labels == [stored[i] for i in kept]
    summary = data.bad_images.summary()
    assert (summary["count"], summary["of"]) == (13, 100)
    assert all(any(path in line for line in summary["first"]) for path in folder[1])


def test_a_batch_of_nothing_but_broken_images():
    rows = Dataset.from_dict({"image": [b"x", b"y"], "label": [0, 1]})
    data = EvaluationImages(rows, EVAL, bad_images=BadImages(threshold=1.0))
    batch = collate_images([data[0], data[1]])
    assert batch["pixel_values"].shape == (0, 3, 0, 0) and len(batch["kept"]) == len(batch["labels"]) == 0
    assert len(batch[UNREADABLE]) == 2


def test_training_on_nothing_but_broken_images_ends():
    rows = Dataset.from_dict({"image": [b"x", b"y"], "label": [0, 1]})
    data = TrainingExamples(rows, TRAIN, class_names=("a", "b"), templates=("{}",), bad_images=BadImages())
    with pytest.raises(OSError, match="101 images drawn in turn cannot be read, the last: row"):
        data[0]


def test_a_border_is_cut_before_the_transform():
    image = picture(6, (44, 36))
    rows = Dataset.from_dict({"image": [encoded(image, "PNG"), encoded(picture(6, (4, 30)), "PNG")], "label": [0, 0]})
    data = EvaluationImages(rows, EVAL, border=2)
    assert data[0]["pixel_values"].equal(EVAL(image.crop((2, 2, 42, 34))))
    with pytest.raises(UnreadableImage, match="of 4 x 30 pixels a border of 2 leaves none"):
        data[1]
    with pytest.raises(ValueError, match="border is -1"):
        EvaluationImages(rows, EVAL, border=-1)
