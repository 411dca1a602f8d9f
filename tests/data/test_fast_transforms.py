# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What `fast` and `output="uint8"` change, and what they do not."""

import importlib.util
import io
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from helpers import tiny_processor
from PIL import Image
from transformers import CLIPModel, CLIPProcessor
from transformers.models.clip import CLIPImageProcessorPil

from hf_robustft.data.bad_images import UNREADABLE, BadImages
from hf_robustft.data.benchmarks import EMOJI_CLIP_DIR, Benchmark, load_benchmark
from hf_robustft.data.examples import ClipCollator, EvaluationImages, TrainingExamples, collate_images
from hf_robustft.data.transforms import PAPER_CROPS, ImageTransform, random_crop_box
from hf_robustft.modeling import features
from hf_robustft.modeling.features import encode_images, normalised
from hf_robustft.modeling.zero_shot import ZeroShotHead

CLIP = CLIPImageProcessorPil()
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def data_path(repository):
    spec = importlib.util.spec_from_file_location("data_path", repository / "examples" / "speed" / "data_path.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def photos(data_path):
    """JPEGs by size."""
    return {(500, 375): data_path.jpegs(500, 375, 3), (2000, 1500): data_path.jpegs(2000, 1500, 2)}


def opened(content):
    return Image.open(io.BytesIO(content))


def levels(train, processor=CLIP, **options):
    """The same transform, exact and fast, giving levels."""
    exact = ImageTransform.from_processor(processor, train=train, fast=False, output="uint8", **options)
    return exact, replace(exact, fast=True)


def differences(exact, fast, files):
    pairs = [
        (exact.decode(file, random.Random(i)), fast.decode(file, random.Random(i))) for i, file in enumerate(files)
    ]
    return torch.stack([(a.int() - b.int()).abs() for a, b in pairs]).float()


# Resizing


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("train", [False, True])
def test_torchs_kernel_differs_by_one_level_at_most(photos, train, resample):
    off = differences(*levels(train, resample=resample), photos[500, 375])
    print(f"largest difference {off.max():.0f} level, in {(off > 0).float().mean():.2%} of the values")
    assert 0 < off.max() <= 1 and (off > 0).float().mean() < 0.01


@pytest.mark.same_bits("the same function of the same image")
def test_small_images_and_other_filters_are_left_to_pil(photos):
    small = opened(photos[500, 375][0]).resize((128, 128))
    for train in (False, True):
        exact, fast = levels(train)
        assert torch.equal(exact(small, random.Random(1)), fast(small, random.Random(1)))
        exact, fast = levels(train, resample="lanczos")
        image = opened(photos[500, 375][0])
        assert torch.equal(exact(image, random.Random(1)), fast(image, random.Random(1)))


@pytest.mark.same_bits("the same function of the same image")
def test_training_is_fast_and_evaluation_exact_unless_told(photos):
    content = photos[500, 375][0]
    for train in (False, True):
        exact, fast = levels(train)
        result = replace(exact, fast=None).decode(content, random.Random(0))
        assert torch.equal(result, (fast if train else exact).decode(content, random.Random(0)))
        assert not torch.equal(result, (exact if train else fast).decode(content, random.Random(0)))
    expected = CLIP(opened(content), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(ImageTransform.from_processor(CLIP, train=False).decode(content), expected)


# JPEGs at a fraction of their size


@pytest.mark.parametrize("train", [False, True])
def test_large_jpegs_are_decoded_at_a_fraction(photos, train, monkeypatch):
    drafts, kind = [], type(opened(photos[500, 375][0]))
    draft = kind.draft

    def recorded(image, mode, size):
        drafts.append((image.size, size))
        return draft(image, mode, size)

    monkeypatch.setattr(kind, "draft", recorded)
    exact, fast = levels(train)
    exact.decode(photos[2000, 1500][0], random.Random(0))
    fast.decode(photos[500, 375][0], random.Random(0))
    assert drafts == []
    fast.decode(photos[2000, 1500][0], random.Random(0))
    assert drafts == [((2000, 1500), (1000, 750))]


@pytest.mark.parametrize("train", [False, True])
def test_a_fraction_changes_little(photos, train):
    off = differences(*levels(train), photos[2000, 1500])
    print(f"levels differ by {off.mean():.2f} on average, {off.max():.0f} at most")
    assert 0 < off.mean() < 0.5 and off.max() <= 8


@pytest.fixture(scope="module")
def packaged():
    model, processor = CLIPModel.from_pretrained(EMOJI_CLIP_DIR).eval(), CLIPProcessor.from_pretrained(EMOJI_CLIP_DIR)
    benchmark = load_benchmark("emoji_shift", "noto")
    head = ZeroShotHead.from_model(model, processor, benchmark.class_names, benchmark.templates)
    return model, processor, head, benchmark.load()


@pytest.mark.parametrize("size", [(500, 375), (2000, 1500)])
def test_a_fraction_changes_embeddings_and_logits_little(packaged, photos, size):
    """On noise like photographs, and on emoji drawn large, whose edges are sharp."""
    model, processor, head, rows = packaged
    files = list(photos[size])
    for i in range(3):
        buffer = io.BytesIO()
        rows[40 * i]["image"].convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    for train in (False, True):
        embeds = []
        for transform in levels(train, processor):
            pixels = torch.stack([transform.decode(file, random.Random(i)) for i, file in enumerate(files)])
            with torch.no_grad():
                embeds.append(encode_images(model, normalised(pixels, transform)))
        cosines = (embeds[0] * embeds[1]).sum(dim=-1)
        with torch.no_grad():
            off = (head(embeds[0]) - head(embeds[1])).abs().max()
        print(f"train={train}: cosine at least {cosines.min():.6f}, logits off by {off:.3f} at most")
        assert cosines.min() > 0.9999 and off < 0.25


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("size", [(641, 487), (642, 483), (647, 481), (1203, 485)])
def test_a_fraction_of_an_odd_size_stays_in_place(size, orientation):
    """A ramp over the whole image would show a shift of a tenth of a pixel."""
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    image = Image.fromarray(np.stack([x, y, (x + y) / 2], axis=-1).round().astype(np.uint8))
    exif, buffer = image.getexif(), io.BytesIO()
    exif[0x0112] = orientation
    image.save(buffer, "JPEG", quality=98, subsampling=0, exif=exif)
    for train in (False, True):
        exact = ImageTransform(48, HALF, HALF, train=train, fast=False, output="uint8", scale=(0.3, 1.0), flip=0.5)
        off = differences(exact, replace(exact, fast=True), [buffer.getvalue()] * 6)
        assert off.mean() < 0.5 and off.max() <= 3


# Levels


@pytest.mark.same_bits("one level after another by the same formula, as a table")
@pytest.mark.parametrize("factor", [1 / 255, 1 / 127.5, 1.0])
def test_levels_are_normalised_to_the_last_bit(factor):
    settings = {"rescale_factor": factor, "train": False}
    transform = ImageTransform(16, (0.48, 0.45, 0.4), (0.26, 0.25, 0.28), **settings)
    raw = replace(transform, output="uint8")
    images = [
        Image.fromarray(np.arange(768, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3) + i) for i in range(9)
    ]
    expected = torch.stack([transform(image) for image in images])
    pixels = torch.stack([raw(image) for image in images])
    assert pixels.dtype == torch.uint8 and pixels.shape == (9, 3, 16, 16) and expected.dtype == torch.float32
    assert torch.equal(normalised(pixels, raw), expected)
    # As a device other than the CPU looks them up; other memory layouts; other precisions, rounded once.
    assert torch.equal(features._looked_up(pixels, torch.from_numpy(raw.level_table)), expected)
    assert torch.equal(normalised(pixels.contiguous(memory_format=torch.channels_last), raw), expected)
    assert torch.equal(normalised(pixels, raw, torch.bfloat16), expected.bfloat16())
    assert torch.equal(normalised(pixels, raw, torch.float64), expected.double())


def test_normalised_images_pass_through():
    images = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert normalised(images) is images and normalised(images, None, torch.float32).dtype == torch.float32
    with pytest.raises(ValueError, match="uint8, and nothing says how they are normalised"):
        normalised(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="output is 'int8'; choose 'float32' or 'uint8'"):
        ImageTransform(16, HALF, HALF, train=False, output="int8")


@pytest.mark.same_bits("one level after another by the same formula, as a table")
def test_levels_travel_through_data_set_and_collator():
    rows = load_benchmark("emoji_shift", "noto").load().select(range(6))
    transform = ImageTransform.from_processor(CLIPImageProcessorPil.from_pretrained(EMOJI_CLIP_DIR), train=False)
    raw = replace(transform, output="uint8")
    plain, batch = (collate_images([EvaluationImages(rows, t)[i] for i in range(6)]) for t in (transform, raw))
    assert batch["pixel_values"].dtype == torch.uint8
    assert torch.equal(normalised(batch["pixel_values"], raw), plain["pixel_values"])


def test_levels_and_unreadable_images_reach_the_batch():
    buffer, processor = io.BytesIO(), tiny_processor()
    Image.effect_noise((40, 50), 90).convert("RGB").save(buffer, "PNG")
    stored = [{"bytes": buffer.getvalue(), "path": None}, {"bytes": b"no image", "path": "a.png"}]
    kinds = Features({"image": ImageFeature(decode=False), "label": ClassLabel(names=["cat", "dog"])})
    dataset = Dataset.from_dict({"image": stored, "label": [0, 1]}, features=kinds)
    benchmark = Benchmark.from_dataset(dataset, name="own", role="train", templates=("the {}.",))
    data = TrainingExamples.from_benchmark(benchmark, processor, bad_images=BadImages(), output="uint8", crop="croft")
    assert (data.transform.flip, data.bad_images.name, data.bad_images.total) == (0.5, "the training data", 2)
    batch = ClipCollator(processor.tokenizer)([data[0], data[1]])
    assert batch["pixel_values"].dtype == torch.uint8 and batch["pixel_values"].shape == (2, 3, 32, 32)
    # The broken image is replaced by the other one, with the label and caption of that, cut another way.
    assert batch["labels"].tolist() == [0, 0] and batch["input_ids"][0].equal(batch["input_ids"][1])
    assert not batch["pixel_values"][0].equal(batch["pixel_values"][1])
    assert all("row 1 (a.png): it is not an image" in line for line in batch[UNREADABLE])
    assert UNREADABLE not in ClipCollator(processor.tokenizer)([data[0], data[0]])


# The papers' crops


def test_crops_by_the_papers_names():
    assert PAPER_CROPS["carot"] == {"scale": (0.9, 1.0), "flip": 0.0}
    croft = ImageTransform.from_processor(CLIP, train=True, crop="croft")
    assert (croft.scale, croft.flip, croft.resample, croft.size) == ((0.08, 1.0), 0.5, "bicubic", 224)
    assert ImageTransform.from_processor(CLIP, train=True, crop="carot") == ImageTransform.from_processor(
        CLIP, train=True
    )
    assert ImageTransform.from_processor(CLIP, train=True, crop="croft", flip=0.1).flip == 0.1
    boxes = [random_crop_box(500, 375, random.Random(i), croft.scale) for i in range(300)]
    shares = [(right - left) * (bottom - top) / (500 * 375) for left, top, right, bottom in boxes]
    assert min(shares) < 0.12 and max(shares) > 0.9 and min(shares) > 0.075
    for options in ({"train": True, "crop": "flyp"}, {"train": False, "crop": "croft"}):
        with pytest.raises(ValueError, match="choose one of carot, croft.*, in training alone"):
            ImageTransform.from_processor(CLIP, **options)


# The measurement of speed


def test_the_measurement_runs(data_path, tmp_path, capsys):
    result = data_path.main(["--rounds", "1", "--images", "2", "--output", str(tmp_path / "out" / "speed.json")])
    assert json.loads((tmp_path / "out" / "speed.json").read_text()) == result
    for size in ("500x375", "2000x1500"):
        sides = result["sizes"][size]["sides"]
        assert len(sides) == 6 and all(row["images_per_second_and_core"] > 0 for row in sides.values())
        assert sides["CLIPImageProcessorPil"]["ratio"] == 1.0
    assert "Training at 500 x 375" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        data_path.main(["--rounds", "0"])
