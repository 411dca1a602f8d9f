# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Image files that are broken in thirteen ways, good ones of every unusual kind, and a class folder that holds both."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """Noise whose mean colour depends on the seed."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 128, (size[1], size[0], 3), dtype=np.uint8)
    pixels[..., seed % 3] += np.uint8(100)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def _damaged_stream() -> bytes:
    content = bytearray(encoded(picture(0), "PNG"))
    start = content.index(b"IDAT") + 4
    content[start + 20 : start + 60] = bytes(40)
    return bytes(content)


def broken() -> dict[str, tuple[str, bytes]]:
    """Name of the fault -> (suffix, content); and by the name "folder" a folder in the place of a file."""
    jpeg, png = encoded(picture(0, (120, 90)), "JPEG"), encoded(picture(0), "PNG")
    integers = Image.fromarray(np.array([[0, 70000], [5, 6]], dtype=np.int32))
    return {
        "truncated": (".jpg", jpeg[: len(jpeg) // 2]),
        "header": (".jpg", jpeg[:30]),
        "empty": (".jpg", b""),
        "text": (".jpg", b"<html><body>404 not found</body></html>"),
        "noise": (".jpg", np.random.default_rng(0).bytes(500)),
        "truncated_png": (".png", png[: len(png) // 2]),
        "damaged_png": (".png", _damaged_stream()),
        "no_pixels": (".png", png_header(0, 5)),
        "bomb": (".png", png_header(60_000, 60_000)),
        "truncated_gif": (".gif", encoded(picture(0), "GIF")[:900]),
        "floating_point": (".tif", encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")),
        "integers": (".tif", encoded(integers, "TIFF")),
        "folder": (".jpg", b""),
    }


def unusual() -> dict[str, bytes]:
    """Files that are unusual and whole; each shows `picture(1)`, some without its colours."""
    image = picture(1)
    grey = np.asarray(image.convert("L"))
    turned = image.getexif()
    turned[0x0112] = 6
    return {
        "cmyk.jpg": encoded(image.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(image.convert("L"), "JPEG"),
        "palette.png": encoded(image.quantize(64), "PNG"),
        "sixteen_bit.png": encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG"),
        "one_bit.png": encoded(image.convert("1"), "PNG"),
        "transparent.png": encoded(image.convert("RGBA"), "PNG"),
        "animated.gif": encoded(image, "GIF", save_all=True, append_images=[picture(2), picture(3)]),
        "animated.webp": encoded(image, "WEBP", save_all=True, append_images=[picture(2)], lossless=True),
        "animated.png": encoded(image, "PNG", save_all=True, append_images=[picture(2)]),
        "turned.jpg": encoded(image, "JPEG", exif=turned),
    }


def class_folder(root: Path, classes: tuple[str, ...], n: int) -> list[str]:
    """A folder of `n` good images, the unusual ones among them, and 13 broken ones, dealt out to the classes.

    Returns:
        The paths of the broken ones.
    """
    for name in classes:
        (root / name).mkdir(parents=True)
    for i, (name, content) in enumerate(unusual().items()):
        (root / classes[i % len(classes)] / name).write_bytes(content)
    for i in range(n - len(unusual())):
        (root / classes[i % len(classes)] / f"{i}.jpg").write_bytes(encoded(picture(i), "JPEG"))
    paths = []
    for i, (fault, (suffix, content)) in enumerate(broken().items()):
        path = root / classes[i % len(classes)] / f"{fault}{suffix}"
        path.mkdir() if fault == "folder" else path.write_bytes(content)
        paths.append(str(path))
    return paths
