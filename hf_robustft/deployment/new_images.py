# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""New images on their way to a model: files, PIL images and encoded ones, of which some cannot be read."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.class_folders import image_files
from ..data.images import UnreadableImage, decode_image
from ..data.messages import quoted
from ..data.transforms import ImageTransform

#: Of Linux; elsewhere paths are shorter.
_LONGEST_PATH = 4096


def prepared(transform: ImageTransform, source: Any, name: str | None, among_several: bool = True) -> dict[str, Any]:
    """
    Prepare one image for a model.

    Args:
        transform ([`ImageTransform`]): Of the model, for evaluation.
        source (`Any`): The path of a file, a PIL image, or an encoded image as `datasets` has it, a `dict` of "bytes" and "path".
        name (`str`, *optional*): What the image is called in the answer.
        among_several (`bool`, *optional*, defaults to `True`): Whether an image that cannot be read becomes a blank one, instead of an error.

    Returns:
        `dict`: `pixel_values` of the transform's `shape`, `image` (the name), and `error`: `None`, or in one line why it cannot be read.

    Raises:
        OSError: If a single image does not exist or cannot be read, or this machine cannot open files.
        ValueError: If it is a web address, or something else.
    """
    try:
        return {"pixel_values": transform(_opened(source, name)), "image": name, "error": None}
    except (UnreadableImage, FileNotFoundError) as error:
        if not among_several:
            raise
        # A blank image goes through the model in its place: the images of a batch have one shape.
        return {"pixel_values": transform.blank(), "image": name, "error": " ".join(str(error).split())}


def images_in(folder: Path) -> list[str]:
    """Return the paths of the images of a `folder`; what else is in it is warned of. Raises ValueError if there is none."""
    files = image_files(folder)
    left_out = files.left_out()
    if not files.images:
        raise ValueError(
            f"There is no image in {folder}{f', only {left_out}' if left_out else ''}; give a folder with image files, such "
            "as .jpg or .png."
        )
    if left_out:
        warnings.warn(f"Not read in {folder}: {left_out}.", stacklevel=3)
    return [str(file) for file in files.images]


def name_of(source: Any) -> str | None:
    """Return the name of the file of an image (`source`), `None` for one that was not read from a file."""
    if isinstance(source, dict):
        return source.get("path")
    if isinstance(source, Image.Image):
        return getattr(source, "filename", None) or None
    return str(source)


def _opened(source: Any, called: str | None) -> Image.Image:
    """Return an image as the evaluation reads it."""
    if isinstance(source, dict):
        if not {"bytes", "path"} & set(source):
            raise ValueError(f"An image is given as a dict of {quoted(list(source))}; give paths of files or PIL images, such as one column of a data set.")
        return decode_image(source, called or "the image")
    if isinstance(source, Image.Image):
        return decode_image(source, "the PIL image")
    if not isinstance(source, (str, Path)):
        raise ValueError(f"An image is given as a {type(source).__name__}; give paths of files or PIL images.")
    name = str(source)
    if re.match(r"\w{2,}://", name):
        raise ValueError(f"{name} is a web address, which is not fetched; download the image and give its path.")
    if name.startswith("data:") or len(name) > _LONGEST_PATH:
        raise ValueError(
            f"An image is given as a text of {len(name):,} characters ({name[:20]}...), which is not a path; decode it (base64), and give the PIL image."
        )
    # As that of a folder.
    path = name if os.path.exists(name) else os.path.expanduser(name)
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no image file {name}; correct the path.")
    return decode_image(path, name)
