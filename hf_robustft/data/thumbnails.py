# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Single images of a data set for a page: small pictures, and what their files are called."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterable, Sequence

from PIL import Image

from .benchmark import Benchmark
from .images import EncodedImage
from .messages import one_line, printable, without_tokens

#: Pixels of the longer side of a small picture.
THUMBNAIL = 112
#: Letters of a file's name.
_LONGEST = 120


def thumbnail(encoded: dict | bytes | str | Image.Image | None, where: str = "the file", size: int = THUMBNAIL) -> str:
    """
    Make a small picture that a page holds.

    Args:
        encoded (`dict`, `bytes`, `str` or `PIL.Image.Image`), where (`str`, *optional*): As for [`~data.images.EncodedImage`].
        size (`int`, *optional*, defaults to 112): Pixels of the longer side, at most.

    Returns:
        `str`: A data URI.

    Raises:
        OSError: If the image cannot be read.
    """
    source = EncodedImage(encoded, where)
    shrink = source.least_shrink
    if source.scalable:
        # A JPEG is decoded at a fraction of its size, which takes a fraction of the time and of the memory.
        shrink = max(shrink, next((by for by in (8, 4, 2) if max(source.size) >= 2 * size * by), 1))
    image = source.read(shrink)
    image.thumbnail((size, size))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def thumbnails(
    places: Iterable[tuple[str, int]], benchmarks: Iterable[Benchmark], size: int = THUMBNAIL, most: int | None = None
) -> dict[tuple[str, int], str]:
    """
    Make small pictures of rows.

    Args:
        places (`Iterable[tuple[str, int]]`): Names of sets and numbers of rows.
        benchmarks (`Iterable[Benchmark]`): The data sets, by whose names the sets are found. Rows of other sets, of sets that are
            streamed, and that a set has not, have no picture, and neither have images that can no longer be read (a warning names
            these).
        size (`int`, *optional*, defaults to 112): Pixels of the longer side.
        most (`int`, *optional*): Pictures, at most; the first ones.

    Returns:
        `dict[tuple[str, int], str]`: By set and row a data URI.
    """
    known, found = {benchmark.name: benchmark for benchmark in benchmarks if not benchmark.streaming}, {}
    for name, row in dict.fromkeys(places):
        if len(found) == most:
            break
        if name in known and 0 <= row < len(rows := known[name].stored_rows()):
            example, where = rows[row]
            try:
                found[name, row] = thumbnail(example["image"], where, size)
            except OSError as error:
                # It was measured, and hours of runs should not end without their page.
                warnings.warn(f"The page shows a mistake without its picture: {one_line(error)}", stacklevel=2)
    return found


def file_names(benchmark: Benchmark, rows: Sequence[int]) -> list[str | None]:
    """
    Say what the files of some rows are called, in words that may be published.

    Args:
        benchmark ([`Benchmark`]): The data set.
        rows (`Sequence[int]`): Numbers of its rows.

    Returns:
        `list[str | None]`: Of each the name of its file with that of its folder, since where a file lies on this machine is private;
        `None` where the data have no name, or are streamed.
    """
    if benchmark.streaming:
        return [None] * len(rows)
    stored = benchmark.stored_rows()
    encoded = stored.encoded.select_columns([stored.image_column])[list(rows)][stored.image_column]
    return [_shown((image or {}).get("path")) for image in encoded]


def _shown(path: str | None) -> str | None:
    if not path:
        return None
    name = "/".join(part for part in re.split(r"[\\/]", str(path))[-2:] if part)
    name = printable(without_tokens(name))
    return name if len(name) <= _LONGEST else f"...{name[3 - _LONGEST :]}"
