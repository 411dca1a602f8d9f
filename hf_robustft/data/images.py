# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From encoded files to upright RGB images.

A file of two kilobytes may stand for gigabytes of pixels. No more than `max_pixels` are decoded, by default as many as need 0.3
to 1.3 GiB, by format: a JPEG with more is decoded at 1/2, 1/4 or 1/8 of its size, any other image refused.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import fsspec
import numpy as np
from datasets import DownloadConfig
from datasets.utils.file_utils import xopen
from PIL import Image, UnidentifiedImageError

from .messages import say_once

MAX_PIXELS, MAX_PIXELS_VARIABLE = 2**26, "HF_ROBUSTFT_MAX_PIXELS"
"""Pixels of an image that are decoded at most, and the environment variable that allows another number."""
#: Pixels that are made RGB at once: what conversions need besides the image and the result stays small.
_BAND = 2**22
_PIPE, _ABOUT_FILE = "it is a pipe or device, not a file", (FileNotFoundError, IsADirectoryError, PermissionError)
#: Twelve bits: a sixteenth of the whole range of greys of 16 bits.
_DIM = 4096
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Where the last column and row of the stored image come to lie: left instead of right, and above instead of below.
_LAST_IS_LEFT, _LAST_IS_ABOVE = (2, 3, 6, 7), (3, 4, 7, 8)


class UnreadableImage(OSError):
    """An image that is missing, broken, empty, too large, or of a kind that has no meaning as RGB.

    Attributes:
        summary (`str`, *optional*, defaults to `""`): One line for logs and reports: which image, and why.
    """

    def __init__(self, message: str, summary: str = ""):
        # A loader raises a worker's error again from its message alone, so that must suffice.
        super().__init__(message)
        self.summary = summary or message

    @classmethod
    def because(cls, where: str, reason: str) -> UnreadableImage:
        """The error for the image that `where` names."""
        return cls(f"The image of {where} cannot be read: {reason}; mend or remove it", f"{where}: {reason}")


def max_pixels() -> int:
    """Pixels of an image that are decoded at most. Raises ValueError if `HF_ROBUSTFT_MAX_PIXELS` is not a number of them."""
    given = os.environ.get(MAX_PIXELS_VARIABLE, "").strip()
    if given and not (given.isdecimal() and int(given)):
        raise ValueError(f"{MAX_PIXELS_VARIABLE} is {given!r}; give the pixels of the largest image to decode, or unset it.")
    return int(given or MAX_PIXELS)


def too_large(width: int, height: int, what: str = "it is") -> str:
    """Why an image of `width` x `height` pixels is not decoded, or not made, and what allows it."""
    most = f"the {max_pixels() / 1e6:.3g} million that are decoded (the environment variable {MAX_PIXELS_VARIABLE} allows others)"
    return f"{what} {width} x {height} pixels, more than {most}"


def check_regular(path: str, where: str) -> None:
    """Refuse a pipe, socket or device at the `path` of the image that `where` names: reading might never end. Raises UnreadableImage."""
    if not os.path.isfile(path) and not os.path.isdir(path) and os.path.exists(path):
        raise UnreadableImage.because(where, _PIPE)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB with 8 bits a channel.

    Transparent pixels (RGBA, LA, palettes with transparency) are composited on white. 16-bit greys are scaled to 8 bits,
    where PIL's own conversion would clip all but the darkest 256 of them to white.

    Raises:
        ValueError: integers that are not 16-bit greys, 32-bit integers that may be 8-bit greys, or floating-point numbers: nothing
            says which of them is white.
    """
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.size and (levels.min() < 0 or levels.max() > 65535):
            raise ValueError(f"its pixels are integers from {levels.min()} to {levels.max()}, not 16-bit greys")
        if image.mode == "I" and levels.size and 0 < levels.max() < 256:
            # Taken for 16 bits they would be black.
            raise ValueError(f"its pixels are 32-bit integers up to {levels.max()}, and nothing says whether 255 or 65535 is white")
        if 0 < levels.max(initial=0) < _DIM:
            say_once(
                f"A 16-bit grey image has no pixel above {_DIM - 1} of 65535 and is read as almost black; if white is less in your images, as of "
                "cameras of 12 bits, scale them to 65535 first."
            )
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, and nothing says which of them is white")
    if image.mode == "RGB" and image.info.get("transparency") is None:
        return image
    rows = max(1, _BAND // max(1, image.width))
    if rows >= image.height:
        return _band_to_rgb(image)
    result = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        result.paste(_band_to_rgb(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return result


def _band_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    """One line, without the addresses of objects that PIL puts into some messages."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a known format, or its beginning is broken"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _unreadable(error: Exception, where: str) -> Exception:
    """What to raise for an error of PIL's: about the image, or about the machine where that is in trouble."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, (*_ABOUT_FILE, NotADirectoryError)):
        # A full table of open files or a failing disk says nothing about the image.
        return OSError(error.errno, f"The image of {where} could not be fetched: {_reason(error)}.")
    return UnreadableImage.because(where, _reason(error))


class EncodedImage:
    """An image whose size is known and whose pixels are read, once, at the size that is needed.

    Args:
        encoded (`dict`, `bytes`, `str` or `Image.Image`, *optional*): What `datasets.Image(decode=False)` gives, a
            dict of "bytes" and "path"; bytes; the path of a file; or a PIL image, which is taken as it is.
        where (`str`, *optional*, defaults to `"the file"`): Which image this is, in messages, such as "row 17
            (cat/1.jpg)".

    Attributes:
        size (`tuple[int, int]`): Width and height in pixels of the upright image.
        scalable (`bool`): Whether `read` can give a fraction of the size at less cost: for JPEG.
        least_shrink (`int`): What `read` must shrink by at least, so that no more than `max_pixels` are decoded.

    Raises:
        UnreadableImage: the file is missing, empty, broken, a pipe or device, has more pixels than `max_pixels` and cannot be
            shrunk, or more than twice `PIL.Image.MAX_IMAGE_PIXELS`.
        OSError: a file on another machine cannot be fetched, or this machine cannot open files.
    """

    def __init__(self, encoded: dict | bytes | str | Image.Image | None, where: str = "the file"):
        self.where = where
        content, path = (encoded.get("bytes"), encoded.get("path")) if isinstance(encoded, dict) else (encoded, None)
        if content is None and path is None:
            raise UnreadableImage(f"{where} has no image; leave the row out.", f"{where}: no image")
        if isinstance(content, str):
            content, path = None, content
        if content is not None:
            path = None
        elif "://" in path:
            # Errors of the network stay what they are: they say nothing about the image.
            with xopen(path, "rb", download_config=DownloadConfig()) as file:
                content, path = file.read(), None
        if isinstance(content, (bytes, bytearray, memoryview)) and not len(content):
            raise UnreadableImage.because(where, "the file is empty")
        limit = max_pixels()
        with self._guarded():
            if path and not os.path.isfile(path) and not os.path.isdir(path) and os.path.exists(path):
                raise UnreadableImage.because(where, _PIPE)
            try:
                image = content if isinstance(content, Image.Image) else Image.open(path or io.BytesIO(content))
            except UnidentifiedImageError:
                if path and not os.path.getsize(path):
                    raise UnreadableImage.because(where, "the file is empty") from None
                raise
            # Of other formats too little is known before they are decoded: some say last how the image is turned.
            self.scalable = image.format in ("JPEG", "MPO") and len(getattr(image, "tile", ())) == 1
            if image.format == "EPS":
                raise UnreadableImage.because(where, "it is PostScript, a program, which is not run")
            # Of a progressive JPEG all is held in memory at its full size, whatever is decoded.
            shrinks = (1, 2, 4, 8) if self.scalable and not image.info.get("progressive") else (1,)
            self.least_shrink = next((by for by in shrinks if image.width * image.height <= limit * by**2), 0)
            if not self.least_shrink:
                raise UnreadableImage.because(where, too_large(*image.size))
            if not self.scalable:
                image.load()
            if min(image.size) < 1:
                raise UnreadableImage.because(where, f"it is {image.width} x {image.height} pixels")
            self._image, self._orientation = image, image.getexif().get(_ORIENTATION)
            self.size = image.size[::-1] if self._orientation in (5, 6, 7, 8) else image.size

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (MemoryError, UnreadableImage):
            raise
        except Exception as error:
            # On broken files PIL's readers fail with errors of almost any kind (struct, zlib, KeyError, ...).
            raise _unreadable(error, self.where) from error

    def read(self, shrink: int = 1) -> Image.Image:
        """The upright RGB image; the first picture of an animation.

        Args:
            shrink (`int`, *optional*, defaults to 1): 1, or for a `scalable` image 2, 4 or 8: decode at that fraction
                of the size, rounded up; not below `least_shrink`.

        Returns:
            A PIL image of mode RGB.

        Raises:
            UnreadableImage: the file is truncated or broken, or its pixels cannot be RGB.
        """
        image = self._image
        with self._guarded():
            if shrink < self.least_shrink:
                raise UnreadableImage.because(self.where, too_large(*image.size))
            if shrink > 1:
                image.draft(None, (max(1, image.width // shrink), max(1, image.height // shrink)))
            image.load()
            image, turn = to_rgb(image), _TURNS.get(self._orientation)
            return image if turn is None else image.transpose(turn)

    def origin(self, shrink: int) -> tuple[float, float]:
        """Where in `read(shrink)` the upper left corner lies, in its pixels.

        A fraction of the size is rounded up, so the last column and row may lie in part outside the image; an image that
        is turned has them at its beginning.
        """
        width, height = self.size
        left = (-width % shrink) / shrink if self._orientation in _LAST_IS_LEFT else 0.0
        return left, (-height % shrink) / shrink if self._orientation in _LAST_IS_ABOVE else 0.0


def decode_image(encoded: dict | bytes | str | Image.Image | None, where: str = "the file") -> Image.Image:
    """Read one image: upright, as RGB, the first picture of an animation; a JPEG of more than `max_pixels` at a fraction of its size.

    EXIF data that cannot be parsed count as none. A truncated file is an error unless `PIL.ImageFile.
    LOAD_TRUNCATED_IMAGES` was set, which makes PIL fill what is missing with grey.

    Args:
        encoded (`dict`, `bytes`, `str` or `Image.Image`, *optional*): A dict of "bytes" and "path" as
            `datasets.Image(decode=False)` gives it, bytes, or the path of a file.
        where (`str`, *optional*, defaults to `"the file"`): Which image this is, in messages.

    Returns:
        A PIL image of mode RGB.

    Raises:
        UnreadableImage: (an OSError) the image is missing, empty, truncated, broken, too large, or cannot be RGB.
        OSError: a file on another machine cannot be fetched, or this machine cannot open files.
    """
    source = EncodedImage(encoded, where)
    return source.read(source.least_shrink)


def images_fingerprint(dataset: datasets.Dataset, image_column: str = "image", skips: bool = False) -> str:
    """
    SHA-256 over the encoded images of a data set in their order.

    The fingerprint that `datasets` keeps would be cheaper, but it follows paths and times of files: it changes when data
    are moved and stays when the pictures behind stored paths change.

    Args:
        dataset (`datasets.Dataset`): Rows with an image column, as `Benchmark.load` returns them.
        image_column (`str`, *optional*, defaults to `"image"`).
        skips (`bool`, *optional*, defaults to `False`): Count an image that is missing as one of no bytes.

    Returns:
        `str`: 64 hexadecimal digits.

    Raises:
        OSError: If an image is missing, or its file cannot be read.
    """
    rows = dataset.select_columns([image_column]).cast_column(image_column, datasets.Image(decode=False))
    digest = hashlib.sha256()
    for index, row in enumerate(rows):
        encoded = row[image_column] or {}
        content, path = encoded.get("bytes"), encoded.get("path")
        if content is None and path is None:
            if not skips:
                raise OSError(f"row {index} has no image; leave the row out.")
            content = b""
        if content is None:
            try:
                check_regular(path, f"row {index}")
                with open(path, "rb") if Path(path).is_file() else fsspec.open(path, "rb") as file:
                    content = file.read()
            except (OSError, ValueError) as error:
                if not skips or not isinstance(error, (*_ABOUT_FILE, UnreadableImage)):
                    raise OSError(
                        f"The image of row {index} ({path}) cannot be read: {error}; mend or remove it."
                    ) from error
                content = b""
        # The length goes first, so that no two lists of images run together to the same bytes.
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()
