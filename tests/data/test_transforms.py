# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
import math
import random

import numpy as np
import pytest
import torch
from helpers import sent_to_a_worker, tiny_processor
from PIL import Image
from transformers.models.clip import CLIPImageProcessorPil

from hf_robustft.data.randomness import example_rng
from hf_robustft.data.transforms import ImageTransform, random_crop_box, to_rgb

HALF = (0.5, 0.5, 0.5)


def picture(width, height, mode="RGB", seed=0):
    """Smooth noise: edges for the filter to work on, in every channel."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    noise = np.random.default_rng(seed).integers(0, 256, (7, 7, channels), dtype=np.uint8)
    return Image.fromarray(noise.squeeze(), mode=mode).resize((width, height), Image.Resampling.BICUBIC)


def small_processor(**changes):
    settings = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    return CLIPImageProcessorPil(**{**settings, **changes})


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(),
        small_processor(),
        small_processor(resample=2, image_mean=HALF, image_std=HALF),
        small_processor(size={"shortest_edge": 57}),
        small_processor(size={"height": 48, "width": 48}, do_center_crop=False),
        small_processor(size={"height": 60, "width": 52}),
        small_processor(do_resize=False),
        small_processor(do_normalize=False),
        small_processor(rescale_factor=1 / 127.5),
        small_processor(do_rescale=False),
    ],
    ids=["clip", "48", "bilinear", "57-48", "square", "60x52-48", "crop", "raw", "factor", "no-rescale"],
)
def test_evaluation_agrees_with_the_checkpoints_processor(processor):
    """The largest difference over sizes and modes is exactly 0: same filter, same crop, same order of precision."""
    transform = ImageTransform.from_processor(processor, train=False)
    worst = 0.0
    for mode in ("RGB", "L", "RGBA", "LA"):
        for size in ((64, 64), (61, 97), (97, 61), (48, 48), (31, 20), (20, 31), (500, 333)):
            image = picture(*size, mode=mode, seed=size[0])
            expected = processor(image, return_tensors="pt")["pixel_values"][0].float()
            result = transform(image)
            assert result.shape == expected.shape and result.dtype == torch.float32
            worst = max(worst, (result - expected).abs().max().item())
    print(f"largest difference from {type(processor).__name__}: {worst}")
    assert worst == 0.0


def test_palette_images_and_their_transparency():
    palette = picture(40, 40).quantize(16)
    assert np.array_equal(np.asarray(to_rgb(palette)), np.asarray(palette.convert("RGB")))
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 0, 0) and to_rgb(clear).getpixel((3, 3)) == (255, 255, 255)
    assert abs(to_rgb(half).getpixel((0, 0))[0] - 127) <= 1
    keyed = Image.new("P", (2, 2), 0)
    keyed.putpalette([10, 20, 30, 40, 50, 60])
    keyed.putpixel((1, 1), 1)
    keyed.info["transparency"] = 0
    assert to_rgb(keyed).getpixel((0, 0)) == (255, 255, 255) and to_rgb(keyed).getpixel((1, 1)) == (40, 50, 60)


class Scripted:
    def __init__(self, *values):
        self.values = list(values)

    def random(self):
        return self.values.pop(0)


def test_crop_box_by_hand():
    # Area share 0.95, log-ratio in the middle (ratio 1): sides sqrt(0.95 * 100 * 100) = 97.47 -> 97.
    # Places 0 to 3: left from 0.99, top from 0.3.
    assert random_crop_box(100, 100, Scripted(0.5, 0.5, 0.99, 0.3)) == (3, 1, 100, 98)
    # Log-ratio at 0.6 of its range (ratio 1.0592), area share 0.9: wider than high, 97.64 x 92.18.
    assert random_crop_box(100, 100, Scripted(0.0, 0.6, 0.0, 0.0)) == (0, 0, 98, 92)
    # A rectangle that does not fit (ratio 4/3 of the whole) is drawn again.
    assert random_crop_box(100, 100, Scripted(0.9, 1.0, 0.5, 0.5, 0.0, 0.0)) == (0, 0, 97, 97)


@pytest.mark.parametrize(
    "size, box",
    [((100, 100), (0, 0, 100, 100)), ((200, 100), (33, 0, 166, 100)), ((100, 200), (0, 33, 100, 166))],
)
def test_crop_box_when_nothing_fits(size, box):
    """Ten tries of ratio 4/3 (or 3/4) over the whole area of an image that has another shape."""
    ratio_draw = 0.0 if size[0] > size[1] else 1.0
    assert random_crop_box(*size, Scripted(*[1.0, ratio_draw] * 10)) == box


def test_crop_boxes_keep_area_and_ratio():
    shares, ratios, places = [], [], set()
    for index in range(2000):
        left, top, right, bottom = random_crop_box(300, 240, example_rng(0, 0, index, "crop"))
        assert 0 <= left < right <= 300 and 0 <= top < bottom <= 240
        shares.append((right - left) * (bottom - top) / (300 * 240))
        ratios.append((right - left) / (bottom - top))
        places.add((left > 0, top > 0, right < 300, bottom < 240))
    rounding = 0.01
    assert min(shares) > 0.9 - rounding and max(shares) <= 1.0
    assert min(ratios) > 3 / 4 - rounding and max(ratios) < 4 / 3 + rounding
    assert len(places) > 8  # crops touch and leave every side


def test_tiny_images_still_give_a_crop():
    for width, height in ((1, 1), (1, 9), (9, 1), (2, 3)):
        left, top, right, bottom = random_crop_box(width, height, random.Random(0))
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert ImageTransform(8, HALF, HALF, train=True)(picture(width, height), random.Random(0)).shape == (3, 8, 8)


def test_training_crop_is_the_cut_resized_and_normalised():
    image = picture(80, 60)
    transform = ImageTransform(32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), train=True)
    box = random_crop_box(80, 60, example_rng(0, 1, 2, "crop"))
    pixels = np.asarray(image.crop(box).resize((32, 32), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    expected = (pixels - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    result = transform(image, example_rng(0, 1, 2, "crop"))
    assert np.abs(result.numpy().transpose(1, 2, 0) - expected).max() < 1e-5
    assert not torch.equal(result, transform(image, example_rng(0, 2, 2, "crop")))


def test_flip_is_off_by_default_and_a_mirror_when_asked():
    image = picture(64, 64)
    plain = ImageTransform(32, HALF, HALF, train=True)
    always = ImageTransform(32, HALF, HALF, train=True, flip=1.0)
    for index in range(5):
        straight = plain(image, example_rng(0, 0, index, "crop"))
        assert torch.equal(always(image, example_rng(0, 0, index, "crop")), straight.flip(-1))
    half = ImageTransform(32, HALF, HALF, train=True, flip=0.5)
    flipped = sum(not torch.equal(half(image, random.Random(i)), plain(image, random.Random(i))) for i in range(200))
    assert abs(flipped - 100) < 4 * math.sqrt(50)


def test_a_tokenizer_prepares_no_images():
    with pytest.raises(ValueError, match="CLIPTokenizer.* prepares no images; .*CLIPProcessor"):
        ImageTransform.from_processor(tiny_processor().tokenizer, train=True)


def test_from_processor_takes_the_checkpoints_settings_for_training():
    processor = small_processor(resample=2, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    transform = ImageTransform.from_processor(processor, train=True, flip=0.5, scale=(0.5, 1.0))
    assert (transform.size, transform.resample, transform.flip) == (48, "bilinear", 0.5)
    assert (transform.mean, transform.std, transform.scale) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (0.5, 1.0))

    class Wrapped:
        image_processor = processor

    assert ImageTransform.from_processor(Wrapped(), train=True, flip=0.5, scale=(0.5, 1.0)) == transform


@pytest.mark.same_bits("the same function of the same image")
def test_transforms_can_be_sent_to_workers():
    transform = sent_to_a_worker(ImageTransform.from_processor(small_processor(), train=False))
    image = picture(50, 70)
    assert torch.equal(transform(image), ImageTransform.from_processor(small_processor(), train=False)(image))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": {"shortest_edge": 48}, "do_center_crop": False}, "fixed square"),
        ({"crop_size": {"height": 48, "width": 40}}, "fixed square"),
        ({"size": {"shortest_edge": 48, "longest_edge": 96}}, "shortest side"),
        ({"do_pad": True}, "padding"),
    ],
)
def test_processors_that_cannot_be_followed(changes, message):
    with pytest.raises(ValueError, match=message):
        ImageTransform.from_processor(small_processor(**changes), train=False)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": 0}, "image size is 0"),
        ({"std": (0.5, 0.5, 0.0)}, "std above 0"),
        ({"mean": (0.5,)}, "three numbers"),
        ({"scale": (0.0, 1.0)}, "scale is"),
        ({"scale": (0.9, 1.1)}, "scale is"),
        ({"ratio": (2.0, 1.0)}, "ratio is"),
        ({"flip": 1.5}, "flip is 1.5"),
        ({"resample": "cubic"}, "resample is 'cubic'; choose one of bicubic"),
        ({"resample": 77}, "resample is 77"),
    ],
)
def test_impossible_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        ImageTransform(**{"size": 32, "mean": HALF, "std": HALF, "train": True, **changes})


def test_training_needs_a_generator_and_evaluation_a_fixed_size():
    with pytest.raises(ValueError, match="needs the example's generator"):
        ImageTransform(32, HALF, HALF, train=True)(picture(40, 40))
    with pytest.raises(ValueError, match="came out 64 x 32, not 32 x 32"):
        ImageTransform(32, HALF, HALF, train=False, do_center_crop=False)(picture(80, 40))
