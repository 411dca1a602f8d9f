# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a PIL image to the tensor a CLIP vision tower reads, with PIL, NumPy and torch alone (no torchvision)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from hf_robustft.data.randomness import pick, uniform


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` as RGB. Transparent pixels (RGBA, LA, palettes with transparency) are composited on white."""
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def random_crop_box(
    width: int,
    height: int,
    rng: random.Random,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """Where a random resized crop cuts, by the rule of torchvision's `RandomResizedCrop`.

    Up to ten times, an area (a share of the image, uniform in `scale`) and an aspect ratio (log-uniform in `ratio`)
    are drawn, and the first rectangle that fits is put at a uniform place. If none fits, the largest centred rectangle
    whose aspect ratio lies in `ratio` is taken.

    Args:
        width, height: size of the image in pixels.
        rng: source of the draws; `data.randomness.example_rng` gives one per example.
        scale: smallest and largest share of the image's area (default 0.9 to 1, as CaRot trains).
        ratio: smallest and largest width / height.

    Returns:
        (left, top, right, bottom) in pixels, right and bottom exclusive.
    """
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for _ in range(10):
        area = width * height * uniform(rng, *scale)
        aspect = math.exp(uniform(rng, *log_ratio))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left, top = pick(rng, width - crop_width + 1), pick(rng, height - crop_height + 1)
            return left, top, left + crop_width, top + crop_height
    crop_width, crop_height = width, height
    if width / height < ratio[0]:
        crop_height = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        crop_width = min(width, max(1, round(height * ratio[1])))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def _resampling(value) -> Image.Resampling:
    """A PIL filter from its name, its PIL number, or torchvision's enum (whose value is the name)."""
    value = getattr(value, "value", value)
    names = {filter.name.lower(): filter for filter in Image.Resampling}
    if isinstance(value, str) and value.lower() in names:
        return names[value.lower()]
    if isinstance(value, int) and value in set(Image.Resampling):
        return Image.Resampling(value)
    raise ValueError(f"resample is {value!r}; choose one of {', '.join(sorted(names))}")


@dataclass(frozen=True)
class ImageTransform:
    """Image to tensor, for training (random resized crop) or evaluation (resize, centre crop).

    Evaluation gives, bit for bit, what transformers' `CLIPImageProcessorPil` gives with the same settings. The
    torchvision-backed processor resizes by other arithmetic and differs a little from both.

    Args:
        size: side of the square result in pixels.
        mean, std: per-channel normalisation, applied after rescaling to 0..1.
        train: random resized crop with the generator given at each call, else resize and centre crop.
        scale: share of the image's area that a training crop keeps (default 0.9 to 1.0).
        ratio: width / height of a training crop before it is made square (default 3/4 to 4/3).
        resample: PIL filter, by name or number (default "bicubic").
        flip: probability of a horizontal flip in training (default 0, as CaRot trains).
        resize: evaluation: length of the shortest side, or (height, width), before the crop (default: `size`).
        do_resize, do_center_crop: evaluation: leave a step out. Without the crop, `resize` must give the final size.
        rescale_factor: pixels are multiplied by it first (default 1/255).

    Raises:
        ValueError: a size below 1, a range that is empty or out of bounds, an unknown filter, not three channels.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    train: bool = field(kw_only=True)
    scale: tuple[float, float] = field(default=(0.9, 1.0), kw_only=True)
    ratio: tuple[float, float] = field(default=(3 / 4, 4 / 3), kw_only=True)
    resample: str | int = field(default="bicubic", kw_only=True)
    flip: float = field(default=0.0, kw_only=True)
    resize: int | tuple[int, int] | None = field(default=None, kw_only=True)
    do_resize: bool = field(default=True, kw_only=True)
    do_center_crop: bool = field(default=True, kw_only=True)
    rescale_factor: float = field(default=1 / 255, kw_only=True)

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"image size is {self.size}; give the side in pixels, at least 1")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must be three numbers each, std above 0")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}; give two shares of the area with 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {self.ratio}; give two aspect ratios with 0 < smallest <= largest")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}; give a probability between 0 and 1")
        object.__setattr__(self, "_filter", _resampling(self.resample))
        # A pixel has 256 values: the table holds each one normalised, computed in transformers' order of precision
        # (product in float64, the rest in float32), so the result is the same to the last bit and cheap to look up.
        levels = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        mean, std = np.asarray(self.mean, dtype=np.float32), np.asarray(self.std, dtype=np.float32)
        object.__setattr__(self, "_table", (levels[None, :] - mean[:, None]) / std[:, None])

    @classmethod
    def from_processor(cls, processor, *, train: bool, **options) -> ImageTransform:
        """The transform that a checkpoint's own processor describes.

        Args:
            processor: a `CLIPProcessor`, or an image processor (`CLIPImageProcessor`, `CLIPImageProcessorPil`).
            train: training (random resized crop to the same final size, with the same filter) or evaluation.
            options: further arguments of `ImageTransform`, such as `scale` or `flip`.

        Raises:
            ValueError: the processor pads, or its result is not a square of fixed size.
        """
        source = getattr(processor, "image_processor", processor)

        def side(sizes, key):
            return sizes.get(key) if isinstance(sizes, dict) else getattr(sizes, key, None)

        do_resize, do_crop = bool(source.do_resize), bool(getattr(source, "do_center_crop", False))
        sizes = source.size if do_resize else None
        height, width = side(sizes, "height"), side(sizes, "width")
        resize = side(sizes, "shortest_edge") or ((height, width) if height and width else None)
        final = (side(source.crop_size, "height"), side(source.crop_size, "width")) if do_crop else (height, width)
        if getattr(source, "do_pad", False) or side(sizes, "longest_edge") or (do_resize and resize is None):
            raise ValueError(
                f"the image processor asks for size {source.size} or padding; use one that resizes the shortest side "
                "or to a fixed height and width"
            )
        if not final[0] or final[0] != final[1]:
            raise ValueError(
                f"the image processor gives images of height and width {final}; a fixed square is needed: set "
                "do_center_crop and a square crop_size, or a square size"
            )
        normalize = bool(source.do_normalize)
        settings = {
            "size": int(final[0]),
            "mean": tuple(source.image_mean) if normalize else (0.0, 0.0, 0.0),
            "std": tuple(source.image_std) if normalize else (1.0, 1.0, 1.0),
            "resample": _resampling(source.resample if source.resample is not None else "bilinear").name.lower(),
            "resize": resize,
            "do_resize": do_resize,
            "do_center_crop": do_crop,
            "rescale_factor": float(source.rescale_factor) if source.do_rescale else 1.0,
        }
        return cls(train=train, **{**settings, **options})

    def __call__(self, image: Image.Image, rng: random.Random | None = None) -> torch.Tensor:
        """Turn one image into a tensor.

        Args:
            image: any PIL image; it is converted by `to_rgb`.
            rng: the example's generator; needed in training, unused in evaluation.

        Returns:
            float32 tensor (3, size, size).

        Raises:
            ValueError: training without `rng`, or (evaluation without centre crop) an image of another size.
        """
        image = to_rgb(image)
        image = self._random_crop(image, rng) if self.train else self._centre_crop(image)
        pixels = np.asarray(image)
        result = np.empty((3, self.size, self.size), dtype=np.float32)
        for channel in range(3):
            # No level is out of range; "clip" spares NumPy the check and the copy that comes with it.
            np.take(self._table[channel], pixels[..., channel], out=result[channel], mode="clip")
        return torch.from_numpy(result)

    def _random_crop(self, image: Image.Image, rng: random.Random | None) -> Image.Image:
        if rng is None:
            raise ValueError("a training transform needs the example's generator: transform(image, rng)")
        # Cut first, then resize, so that the filter does not reach past the edge of the crop.
        image = image.crop(random_crop_box(*image.size, rng, self.scale, self.ratio))
        image = image.resize((self.size, self.size), self._filter)
        if self.flip > 0 and rng.random() < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image

    def _centre_crop(self, image: Image.Image) -> Image.Image:
        if self.do_resize:
            target = self.resize if self.resize is not None else self.size
            if isinstance(target, int):
                width, height = image.size
                longest = int(target * max(width, height) / min(width, height))
                target = (longest, target) if width <= height else (target, longest)
            image = image.resize((target[1], target[0]), self._filter)
        if self.do_center_crop:
            # PIL fills what lies outside a small image with 0, as transformers pads it.
            left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
            image = image.crop((left, top, left + self.size, top + self.size))
        if image.size != (self.size, self.size):
            raise ValueError(
                f"the image came out {image.width} x {image.height}, not {self.size} x {self.size} pixels; "
                "set do_center_crop or a square resize"
            )
        return image
