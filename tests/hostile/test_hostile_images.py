# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Images that stand for more pixels than there is memory, and what is not a file in the place of an image."""

import os
import random
import socket

import datasets
import numpy as np
import pytest
from helpers.broken_images import encoded, picture, png_header, unusual
from PIL import EpsImagePlugin, Image

from hf_robustft.data import images
from hf_robustft.data.bad_images import BadImages
from hf_robustft.data.examples import EvaluationImages
from hf_robustft.data.images import (
    MAX_PIXELS,
    MAX_PIXELS_VARIABLE,
    EncodedImage,
    UnreadableImage,
    decode_image,
    images_fingerprint,
    to_rgb,
)
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.training.run_record import _encoded

EVALUATION = ImageTransform(32, (0.5,) * 3, (0.5,) * 3, train=False)
TRAINING = ImageTransform(32, (0.5,) * 3, (0.5,) * 3, train=True)
READERS = {
    "plain": decode_image,
    "evaluation": EVALUATION.decode,
    "training": lambda content: TRAINING.decode(content, random.Random(0)),
    "border": lambda content: EVALUATION.decode(content, border=2),
}
LARGE = picture(1, (200, 100))
FORMATS = {
    "png": ("PNG", {}),
    "bmp": ("BMP", {}),
    "gif": ("GIF", {"save_all": True, "append_images": [picture(2, (200, 100))]}),
    "webp": ("WEBP", {"save_all": True, "append_images": [picture(2, (200, 100))]}),
    "tiff": ("TIFF", {"save_all": True, "append_images": [picture(2, (200, 100))]}),
    "jpeg2000": ("JPEG2000", {}),
    "progressive": ("JPEG", {"progressive": True}),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", FORMATS)
def test_more_pixels_than_the_bound_are_not_decoded(monkeypatch, kind, reader):
    name, options = FORMATS[kind]
    content = encoded(LARGE, name, **options)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "20000")
    assert READERS[reader](content) is not None, "the bound itself is allowed"
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "19999")
    with pytest.raises(UnreadableImage, match=f"200 x 100 pixels.*{MAX_PIXELS_VARIABLE}"):
        READERS[reader](content)


@pytest.mark.parametrize("reader", READERS)
def test_the_header_alone_decides(monkeypatch, reader):
    monkeypatch.delenv(MAX_PIXELS_VARIABLE, raising=False)
    side = int(MAX_PIXELS**0.5)
    with pytest.raises(UnreadableImage, match=MAX_PIXELS_VARIABLE):
        READERS[reader](png_header(side + 1, side))
    with pytest.raises(UnreadableImage, match="truncated|broken|data"):
        # Within the bound the pixels are asked for, and there are none.
        READERS[reader](png_header(side // 64, side // 64))


def test_a_large_jpeg_is_decoded_at_a_fraction_of_its_size(monkeypatch):
    smooth = LARGE.resize((50, 25)).resize((200, 100), Image.Resampling.BICUBIC)
    content = encoded(smooth, "JPEG", quality=95)
    whole, image = EVALUATION.decode(content), decode_image(content)
    for limit, by in ((19_999, 2), (5_000, 2), (4_999, 4), (1_249, 8)):
        monkeypatch.setenv(MAX_PIXELS_VARIABLE, str(limit))
        source = EncodedImage(content)
        assert (source.least_shrink, source.size) == (by, (200, 100))
        assert decode_image(content).size == (200 // by, -(-100 // by))
        with pytest.raises(UnreadableImage, match=MAX_PIXELS_VARIABLE):
            source.read()
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "19999")
    assert (EVALUATION.decode(content) - whole).abs().mean() < 0.02
    assert (TRAINING.decode(content, random.Random(3)) - TRAINING(image, random.Random(3))).abs().mean() < 0.02
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "300")
    with pytest.raises(UnreadableImage, match=MAX_PIXELS_VARIABLE):
        decode_image(content)


def test_a_line_of_pixels_is_not_resized_to_millions(monkeypatch):
    content = encoded(picture(1, (500, 1)), "PNG")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "100000")
    with pytest.raises(UnreadableImage, match=f"row 3.*16000 x 32.*{MAX_PIXELS_VARIABLE}"):
        EVALUATION.decode(content, where="row 3")
    with pytest.raises(UnreadableImage, match=MAX_PIXELS_VARIABLE):
        EVALUATION(decode_image(content))
    assert TRAINING.decode(content, random.Random(0)).shape == (3, 32, 32)


@pytest.mark.parametrize("value", ["-1", "0", "many", "1e9", "2.5"])
def test_a_bound_that_is_not_a_number_is_named(monkeypatch, value):
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, value)
    with pytest.raises(ValueError, match=f"{MAX_PIXELS_VARIABLE} is '{value}'"):
        decode_image(encoded(LARGE, "PNG"))


@pytest.mark.parametrize("name", [*unusual(), "integers", "transparent_rgb"])
def test_bands_of_an_image_are_what_the_whole_is(monkeypatch, tmp_path, name):
    if name == "integers":
        image = Image.fromarray(np.arange(40 * 32, dtype=np.int32).reshape(32, 40) * 51)
    elif name == "transparent_rgb":
        image = picture(1)
        image.info["transparency"] = image.getpixel((3, 3))
    else:
        (tmp_path / name).write_bytes(unusual()[name])
        image = Image.open(tmp_path / name)
        image.load()
    whole = np.asarray(to_rgb(image))
    monkeypatch.setattr(images, "_BAND", 7 * 40)
    assert np.array_equal(np.asarray(to_rgb(image)), whole)


@pytest.fixture
def special(tmp_path):
    """Paths of a pipe, a socket and a device, all with the ending of an image."""
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "zero.png")
    with socket.socket(socket.AF_UNIX) as server:
        # A socket's path has few letters.
        before = os.getcwd()
        os.chdir(tmp_path)
        server.bind("socket.png")
        os.chdir(before)
        yield [str(tmp_path / f"{name}.png") for name in ("pipe", "zero", "socket")]


@pytest.mark.timeout(60)
def test_pipes_sockets_and_devices_are_not_read(special):
    for path in special:
        for reader in READERS.values():
            with pytest.raises(UnreadableImage, match="pipe or device"):
                reader({"path": path, "bytes": None})
        assert _encoded({"path": path, "bytes": None}) == b""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"image": special, "label": [0, 1, 0]}, features=features)
    kept = EvaluationImages(rows, EVALUATION, bad_images=BadImages("skip", 1.0))
    assert all("pipe or device" in kept[row]["unreadable"][0] for row in range(3))
    with pytest.raises(OSError, match="row 0.*pipe or device"):
        images_fingerprint(rows)
    assert len(images_fingerprint(rows, skips=True)) == 64


def test_postscript_is_not_run(monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program was started"))
    content = encoded(LARGE, "EPS")
    for reader in READERS.values():
        with pytest.raises(UnreadableImage, match="PostScript"):
            reader(content)
