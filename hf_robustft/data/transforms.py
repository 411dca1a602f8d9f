# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From an image to the tensor an image tower reads, with PIL, NumPy and torch alone (no torchvision)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from .images import EncodedImage, UnreadableImage, max_pixels, to_rgb, too_large
from .patches import BASE, CHANNELS, pack_patches
from .randomness import pick, uniform

PAPER_CROPS = {
    "carot": {"scale": (0.9, 1.0), "flip": 0.0},
    "croft": {"scale": (0.08, 1.0), "flip": 0.5},
    "tip_adapter": {"scale": (0.5, 1.0), "flip": 0.5},
}
"""How the papers cut training images, as options of `ImageTransform`; all resize with the bicubic filter."""
_KERNELS = {Image.Resampling.BICUBIC: "bicubic", Image.Resampling.BILINEAR: "bilinear"}
# Smaller images gain nothing from torch's kernel over PIL's.
_FAST_AREA = 128 * 128
_FAST_GAP = 2.0


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
        width, height (`int`): Size of the image in pixels.
        rng (`random.Random`): Source of the draws; `data.randomness.example_rng` gives one per example.
        scale (`tuple[float, float]`, *optional*, defaults to `(0.9, 1.0)`): Smallest and largest share of the image's
            area.
        ratio (`tuple[float, float]`, *optional*, defaults to `(3 / 4, 4 / 3)`): Smallest and largest width / height.

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
    raise ValueError(f"resample is {value!r}; choose one of {', '.join(sorted(names))}.")


def _is_finite(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _are_three(values) -> bool:
    return isinstance(values, tuple | list) and len(values) == 3 and all(map(_is_finite, values))


def _as_tuple(values):
    return tuple(values) if isinstance(values, list | np.ndarray) else values


@dataclass(frozen=True)
class ImageTransform:
    """Image to tensor, for training (random resized crop) or evaluation (resize, centre crop).

    Evaluation gives, bit for bit, what transformers' `CLIPImageProcessorPil` gives with the same settings. The
    torchvision-backed processor resizes by other arithmetic and differs a little from both.

    With `fast`, by default in training alone, images of more than 128 x 128 pixels are resized by torch's integer kernel,
    which differs from PIL's by one level of 256 in less than 1 % of the values; and `decode` reads JPEGs at 1/2, 1/4 or
    1/8 of their size so long as what is cut out stays twice as large as the result. Of images of 2000 x 1500 pixels, cut
    to 224 or 48, that moves levels by 0.4 on average and 5 at most, and the embeddings of the packaged CLIP by an angle
    whose cosine is above 0.9999.

    Args:
        size (`int`): Side of the square result in pixels.
        mean, std (`tuple[float, float, float]`): Per-channel normalisation, applied after rescaling to 0..1.
        train (`bool`, *optional*): Random resized crop with the generator given at each call, else resize and centre
            crop.
        scale (`tuple[float, float]`, *optional*): Share of the image's area that a training crop keeps (default 0.9 to
            1.0).
        ratio (`tuple[float, float]`, *optional*): Width / height of a training crop before it is made square (default
            3/4 to 4/3).
        resample (`str` or `int`, *optional*): PIL filter, by name or number (default "bicubic").
        flip (`float`, *optional*): Probability of a horizontal flip in training (default 0, as CaRot trains).
        resize (`int` or `tuple[int, int]`, *optional*): Evaluation: length of the shortest side, or (height, width),
            before the crop (default: `size`).
        do_resize, do_center_crop (`bool`, *optional*): Evaluation: leave a step out. Without the crop, `resize` must
            give the final size.
        rescale_factor (`float`, *optional*): Pixels are multiplied by it first (default 1/255).
        fast (`bool`, *optional*): Resize and decode in less time and not exactly alike (default: in training, not in
            evaluation).
        output (`str`, *optional*): "float32" (default), normalised; or "uint8", the 256 levels, a quarter of the bytes
            to hand from process to process and device, which `normalised` of `modeling.features` turns into the same
            numbers there.

    Raises:
        ValueError: a size below 1, a range that is empty or out of bounds, an unknown filter or output, not three
            channels, numbers by which every image becomes the same, a crop larger than what it is cut from.
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
    fast: bool | None = field(default=None, kw_only=True)
    output: str = field(default="float32", kw_only=True)
    #: Whether results have the height and width `size`.
    _is_square: ClassVar[bool] = True

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"image size is {self.size}; give the side in pixels, at least 1.")
        if not _are_three(self.mean) or not _are_three(self.std) or min(self.std) <= 0:
            raise ValueError(
                f"mean {self.mean} and std {self.std} (image_mean and image_std of a processor) must be three numbers each, "
                "std above 0."
            )
        if not _is_finite(self.rescale_factor) or self.rescale_factor <= 0:
            raise ValueError(f"rescale_factor is {self.rescale_factor!r}; give a number above 0, such as 1/255.")
        if self.do_resize and self.do_center_crop and self.resize is not None and np.min(self.resize) < self.size:
            raise ValueError(
                f"size (shortest side, or height and width) is {self.resize} and crop_size {self.size}: images would get "
                f"black borders; give a size of at least {self.size}."
            )
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale is {self.scale}; give two shares of the area with 0 < smallest <= largest <= 1.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio is {self.ratio}; give two aspect ratios with 0 < smallest <= largest.")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}; give a probability between 0 and 1.")
        if self.output not in ("float32", "uint8"):
            raise ValueError(f"output is {self.output!r}; choose 'float32' or 'uint8'.")
        object.__setattr__(self, "_filter", _resampling(self.resample))
        object.__setattr__(self, "_fast", self.train if self.fast is None else self.fast)
        # A pixel has 256 values: the table holds each one normalised, computed in transformers' order of precision
        # (product in float64, the rest in float32), so the result is the same to the last bit and cheap to look up.
        levels = (np.arange(256, dtype=np.float64) * self.rescale_factor).astype(np.float32)
        mean, std = np.asarray(self.mean, dtype=np.float32), np.asarray(self.std, dtype=np.float32)
        with np.errstate(all="ignore"):
            table = (levels[None, :] - mean[:, None]) / std[:, None]
        if not np.isfinite(table).all() or (table[:, 0] == table[:, -1]).any():
            raise ValueError(
                f"with rescale_factor {self.rescale_factor}, mean {self.mean} and std {self.std} (image_mean and image_std "
                "of a processor) black and white become the same number, or none; give those the model was trained with."
            )
        object.__setattr__(self, "_table", table)

    @property
    def level_table(self) -> np.ndarray:
        """What each of the 256 levels of each channel becomes by normalisation, float32 (3, 256)."""
        return self._table

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a result."""
        return CHANNELS, self.size, self.size

    @property
    def facts(self) -> dict[str, int | str]:
        """What the report of an evaluation says of how images were prepared."""
        return {"image_size": self.size, "image_resampling": f"{self.resample} (PIL)"}

    @property
    def settings(self) -> dict[str, Any]:
        """What a processor says of images, whether they are prepared for training or not; JSON values."""
        of_training = ("train", "scale", "ratio", "flip", "fast", "output")
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in of_training}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def blank(self) -> torch.Tensor:
        """A result that stands for an image which cannot be read: a black one."""
        return replace(self, train=False)(Image.new("RGB", (self.size, self.size)))

    @classmethod
    def from_processor(cls, processor, *, train: bool, crop: str | None = None, **options) -> ImageTransform:
        """The transform that a checkpoint's own processor describes.

        Args:
            processor (`Any`): A `CLIPProcessor`, or an image processor (`CLIPImageProcessor`,
                `CLIPImageProcessorPil`). Of a `Siglip2Processor`, the result is a [`PatchTransform`].
            train (`bool`): Training (random resized crop to the same final size, with the same filter) or evaluation.
            crop (`str`, *optional*): In training, "carot", "croft" or "tip_adapter": crop and flip as in that paper
                (`PAPER_CROPS`; default "carot").
            options (`Any`, *optional*): Further arguments of `ImageTransform`, such as `scale` or `flip`; they go
                before `crop`.

        Raises:
            ValueError: the processor pads, its result is not a square of fixed size, or there is no such crop.
        """
        if crop is not None:
            if not train or crop not in PAPER_CROPS:
                raise ValueError(f"crop is {crop!r}; choose one of {', '.join(PAPER_CROPS)}, in training alone.")
            options = {**PAPER_CROPS[crop], **options}
        source = getattr(processor, "image_processor", processor)
        if not hasattr(source, "image_mean"):
            raise ValueError(
                f"A {type(processor).__name__} prepares no images; give the processor of the checkpoint, such as "
                "CLIPProcessor.from_pretrained(checkpoint)."
            )

        normalize = bool(source.do_normalize)
        common = {
            "mean": _as_tuple(source.image_mean) if normalize else (0.0, 0.0, 0.0),
            "std": _as_tuple(source.image_std) if normalize else (1.0, 1.0, 1.0),
            "resample": _resampling(source.resample if source.resample is not None else "bilinear").name.lower(),
            "rescale_factor": source.rescale_factor if source.do_rescale else 1.0,
        }
        if "spatial_shapes" in getattr(source, "model_input_names", ()):
            if not source.do_resize:
                raise ValueError("The image processor does not resize images to whole patches; set do_resize.")
            patches = {"size": source.patch_size, "max_patches": source.max_num_patches}
            return PatchTransform(train=train, **{**common, **patches, **options})

        def side(sizes, key):
            return sizes.get(key) if isinstance(sizes, dict) else getattr(sizes, key, None)

        do_resize, do_crop = bool(source.do_resize), bool(getattr(source, "do_center_crop", False))
        sizes = source.size if do_resize else None
        height, width = side(sizes, "height"), side(sizes, "width")
        resize = side(sizes, "shortest_edge") or ((height, width) if height and width else None)
        final = (side(source.crop_size, "height"), side(source.crop_size, "width")) if do_crop else (height, width)
        if getattr(source, "do_pad", False) or side(sizes, "longest_edge") or (do_resize and resize is None):
            raise ValueError(
                f"The image processor asks for size {source.size} or padding; use one that resizes the shortest side "
                "or to a fixed height and width."
            )
        if not final[0] or final[0] != final[1]:
            raise ValueError(
                f"The image processor gives images of height and width {final}; a fixed square is needed: set "
                "do_center_crop and a square crop_size, or a square size."
            )
        settings = {
            **common,
            "size": int(final[0]),
            "resize": resize,
            "do_resize": do_resize,
            "do_center_crop": do_crop,
        }
        return cls(train=train, **{**settings, **options})

    def __call__(self, image: Image.Image, rng: random.Random | None = None) -> torch.Tensor:
        """Turn one image into a tensor.

        Args:
            image (`Image.Image`): Any PIL image; it is converted by `to_rgb`.
            rng (`random.Random`, *optional*): The example's generator; needed in training, unused in evaluation.

        Returns:
            Of `shape`, (3, size, size), float32 or uint8 as `output` says.

        Raises:
            ValueError: training without `rng`, or (evaluation without centre crop) an image of another size.
        """
        image = to_rgb(image)
        return self._cut(image, *self._plan(image.size, rng), rng)

    def decode(
        self, encoded, rng: random.Random | None = None, where: str = "the file", border: int = 0
    ) -> torch.Tensor:
        """Read one encoded image and turn it into a tensor, decoding no more of a JPEG than `fast` needs.

        Args:
            encoded (`Any`): As for `EncodedImage`.
            rng (`random.Random`, *optional*): The example's generator; needed in training, unused in evaluation.
            where (`str`, *optional*, defaults to `"the file"`): Which image this is, in messages.
            border (`int`, *optional*, defaults to 0): Pixels to cut off on each side first (ObjectNet's images have a
                red border of 2).

        Returns:
            As `__call__` gives it; without `fast`, the very same but for a JPEG of more than `max_pixels`.

        Raises:
            UnreadableImage: (an OSError) the image cannot be read, or nothing is left of it inside the border.
            ValueError: as `__call__`.
        """
        source = EncodedImage(encoded, where)
        if border:
            image, (width, height) = source.read(), source.size
            if min(width, height) <= 2 * border:
                raise UnreadableImage.because(where, f"of {width} x {height} pixels a border of {border} leaves none")
            return self(image.crop((border, border, width - border, height - border)), rng)
        box, target = self._plan(source.size, rng, where)
        shrink = 1
        if self._fast and source.scalable:
            room = min((box[2] - box[0]) / target[0], (box[3] - box[1]) / target[1]) / _FAST_GAP
            shrink = next((shrink for shrink in (8, 4, 2) if shrink <= room), 1)
        shrink = max(shrink, source.least_shrink)
        box = tuple(edge / shrink + start for edge, start in zip(box, 2 * source.origin(shrink), strict=True))
        return self._cut(source.read(shrink), box, target, rng)

    def _plan(
        self, size: tuple[int, int], rng: random.Random | None, where: str = "the image"
    ) -> tuple[tuple, tuple[int, int]]:
        """The box to cut out of an image of `size`, and the width and height to which it is resized."""
        if self.train:
            return self._crop(size, rng, self.ratio), (self.size, self.size)
        target = self.size if self.resize is None else self.resize
        if not self.do_resize:
            target = size
        elif isinstance(target, int):
            longest = int(target * max(size) / min(size))
            target = (target, longest) if size[0] <= size[1] else (longest, target)
        else:
            target = target[1], target[0]
        if target[0] * target[1] > max_pixels():
            # One row of pixels, whose shortest side is made as long as that of any other image.
            raise UnreadableImage.because(where, too_large(*target, f"of {size[0]} x {size[1]} pixels it is resized to"))
        return (0, 0, *size), target

    def _crop(self, size: tuple[int, int], rng: random.Random | None, ratio: tuple[float, float]) -> tuple:
        if rng is None:
            raise ValueError("A training transform needs the example's generator: transform(image, rng).")
        return random_crop_box(*size, rng, self.scale, ratio)

    def _cut(self, image: Image.Image, box: tuple, target: tuple[int, int], rng: random.Random | None) -> torch.Tensor:
        """The result from a box in an RGB image, which need not lie on whole pixels and is resized to `target`."""
        # Cut first, then resize, so that the filter does not reach past the edge of the crop by a whole pixel.
        outer = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
        box = tuple(edge - outer[at % 2] for at, edge in enumerate(box))
        if outer != (0, 0, *image.size):
            image = image.crop(outer)
        whole = box == (0, 0, *image.size) and target != image.size
        fast = self._fast and whole and self._filter in _KERNELS and image.width * image.height > _FAST_AREA
        levels = np.array(image if fast else image.resize(target, self._filter, box=box))
        levels = torch.from_numpy(levels).permute(2, 0, 1)
        if fast:
            kernel = _KERNELS[self._filter]
            levels = functional.interpolate(levels[None], target[::-1], mode=kernel, antialias=True)[0]
        if self.train and self.flip > 0 and rng.random() < self.flip:
            levels = levels.flip(-1)
        height, width = levels.shape[1:]
        if not self._is_square:
            pass
        elif not self.train and self.do_center_crop:
            # Padding by less than nothing cuts. Around a small image there is 0, as transformers pads it.
            left, top = (width - self.size) // 2, (height - self.size) // 2
            levels = functional.pad(levels, (-left, left + self.size - width, -top, top + self.size - height))
        elif (width, height) != (self.size, self.size):
            raise ValueError(
                f"The image came out {width} x {height}, not {self.size} x {self.size} pixels; "
                "set do_center_crop or a square resize."
            )
        if self.output == "uint8":
            return levels.contiguous()
        result = np.empty(levels.shape, dtype=np.float32)
        for channel in range(CHANNELS):
            # No level is out of range; "clip" spares NumPy the check and the copy that comes with it.
            np.take(self._table[channel], levels[channel].numpy(), out=result[channel], mode="clip")
        return torch.from_numpy(result)


@dataclass(frozen=True)
class PatchTransform(ImageTransform):
    """Image to patches of a grid of its own aspect ratio, packed into one tensor (`data.patches`), for SigLIP 2's NaFlex.

    The image is resized to as many whole patches as there may be. Evaluation gives, bit for bit, the patches of
    `Siglip2ImageProcessorPil`. A training crop has a grid of its own, and its `ratio` is relative to that of the image: the
    share `scale` of a panorama is a panorama.

    Args:
        size (`int`): Side of a patch in pixels.
        max_patches (`int`): Patches of an image, at most.

    The others are those of [`ImageTransform`]; `resize`, `do_resize` and `do_center_crop` do not apply.

    Raises:
        ValueError: as [`ImageTransform`], or sizes that no grid can have.
    """

    max_patches: int = field(kw_only=True)
    _is_square: ClassVar[bool] = False

    def __post_init__(self):
        if self.resize is not None or not (self.do_resize and self.do_center_crop):
            raise ValueError("resize, do_resize and do_center_crop do not apply to patches; leave them out.")
        super().__post_init__()
        if self.size < 2 or not 0 < self.max_patches < BASE**2:
            raise ValueError(
                f"patch_size is {self.size} and max_num_patches {self.max_patches}; give a side of at least 2 pixels and a "
                f"number of patches from 1 to {BASE**2 - 1}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.max_patches + 1, CHANNELS * self.size**2

    @property
    def facts(self) -> dict[str, int | str]:
        sizes = {"patch_size": self.size, "max_num_patches": self.max_patches}
        return {**sizes, "image_resampling": f"{self.resample} (PIL)"}

    def _plan(
        self, size: tuple[int, int], rng: random.Random | None, where: str = "the image"
    ) -> tuple[tuple, tuple[int, int]]:
        # Only here, for nothing else that reads data needs Transformers.
        from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

        box = (0, 0, *size)
        if self.train:
            box = self._crop(size, rng, tuple(ratio * size[0] / size[1] for ratio in self.ratio))
        height, width = get_image_size_for_max_num_patches(box[3] - box[1], box[2] - box[0], self.size, self.max_patches)
        return box, (width, height)

    def _cut(self, image: Image.Image, box: tuple, target: tuple[int, int], rng: random.Random | None) -> torch.Tensor:
        return pack_patches(super()._cut(image, box, target, rng), self.size, self.max_patches)
