# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Images as patches of a grid of their own, packed into one tensor, are those of SigLIP 2's own processor."""

import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Siglip2ImageProcessorPil

from hf_robustft.data.patches import pack_patches, unpack_patches
from hf_robustft.data.transforms import ImageTransform, PatchTransform
from hf_robustft.modeling.features import normalised

SIZES = [(64, 64), (61, 97), (500, 333), (1200, 90), (7, 300), (9, 9), (1, 1), (3000, 1), (640, 480)]
OWN = {"patch_size": 8, "max_num_patches": 30}
NAMES = ("pixel_values", "pixel_attention_mask", "spatial_shapes")


def picture(width, height, mode="RGB"):
    """Smooth noise: edges for the filter to work on."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(width).integers(0, 256, (7, 7, channels), dtype=np.uint8)
    return Image.fromarray(noise.squeeze(), mode=mode).resize((width, height), Image.Resampling.BICUBIC)


def grid(packed, size=8):
    return unpack_patches(packed[None], size)[2][0].tolist()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        OWN,
        {**OWN, "resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.1]},
        {**OWN, "do_normalize": False},
        {**OWN, "do_rescale": False},
        {**OWN, "max_num_patches": 1},
    ],
    ids=["published", "small", "bicubic", "raw", "no-rescale", "one"],
)
def test_evaluation_agrees_with_the_processor_to_the_last_bit(changes):
    processor = Siglip2ImageProcessorPil(**changes)
    transform = ImageTransform.from_processor(processor, train=False)
    levels = replace(transform, output="uint8")
    for size in SIZES:
        for image in (picture(*size), picture(*size, mode="L")):
            theirs = processor(image.convert("RGB"), return_tensors="pt")
            packed = transform(image)
            assert packed.shape == transform.shape and packed.dtype == torch.float32
            for name, ours in zip(NAMES, unpack_patches(packed[None], processor.patch_size), strict=True):
                assert torch.equal(ours, theirs[name].to(ours.dtype)), (size, name)
            # And from levels, which are normalised where the model is: in NumPy's look-up and in torch's.
            quarter = levels(image)[None]
            assert quarter.dtype == torch.uint8 and torch.equal(normalised(quarter, levels)[0], packed)
            assert torch.equal(normalised(quarter, levels, torch.float64)[0].float(), packed)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (257, 2), (511, 1)])
def test_every_grid_is_held_exactly_in_every_precision(shape, dtype):
    image = torch.zeros(3, 2 * shape[0], 2 * shape[1], dtype=dtype)
    assert grid(pack_patches(image, 2, 600).to(dtype), 2) == list(shape)


def test_a_training_crop_has_a_grid_of_its_own():
    """By its own aspect ratio, which varies about that of the image, as far as `ratio` says, and no farther."""
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=256)
    for size in [(640, 480), (480, 640), (900, 150), (90, 90)]:
        image = picture(*size)
        wide = ImageTransform.from_processor(processor, train=True, scale=(0.5, 1.0))
        evaluated = replace(wide, train=False)
        own, grids = grid(evaluated(image)), set()
        for i in range(20):
            packed = wide(image, random.Random(i))
            assert packed.shape == wide.shape and torch.equal(packed, wide(image, random.Random(i)))
            height, width = grid(packed)
            grids.add((height, width))
            assert 0.7 < width / height / (own[1] / own[0]) < 1.45
        assert len(grids) > 3
        exact = replace(wide, scale=(1.0, 1.0), ratio=(1.0, 1.0), fast=False)
        assert torch.equal(exact(image, random.Random(0)), evaluated(image))
        flipped = replace(exact, flip=1.0)(image, random.Random(0))
        assert torch.equal(flipped, evaluated(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert isinstance(wide, PatchTransform) and wide.scale == (0.5, 1.0)
    croft = ImageTransform.from_processor(processor, train=True, crop="croft")
    assert (croft.scale, croft.flip) == ((0.08, 1.0), 0.5)


def test_files_are_decoded_as_images_are_opened():
    processor = Siglip2ImageProcessorPil(**OWN)
    file = io.BytesIO()
    picture(640, 300).save(file, "JPEG")
    content = file.getvalue()
    for train in (False, True):
        transform = ImageTransform.from_processor(processor, train=train, fast=False)
        opened = transform(Image.open(io.BytesIO(content)), random.Random(1))
        assert torch.equal(transform.decode(content, random.Random(1)), opened)
        inside = transform.decode(content, random.Random(1), border=9)
        assert inside.shape == opened.shape and not torch.equal(inside, opened)
        # At a fraction of its size it has the same grid, and levels that differ a little.
        fast = replace(transform, fast=True).decode(content, random.Random(1))
        assert torch.equal(fast[-1], opened[-1]) and 0 < (fast - opened).abs().max() < 0.1
        assert grid(transform.blank()) and transform.blank().shape == transform.shape


@pytest.mark.parametrize(
    "options, name",
    [
        ({"max_patches": 0}, "max_num_patches 0"),
        ({"max_patches": 256**2}, "max_num_patches 65536"),
        ({"size": 1}, "patch_size is 1"),
        ({"resize": 8}, "resize"),
        ({"do_center_crop": False}, "do_center_crop"),
    ],
)
def test_what_no_grid_can_have_is_refused(options, name):
    with pytest.raises(ValueError, match=name):
        ImageTransform.from_processor(Siglip2ImageProcessorPil(), train=False, **options)
