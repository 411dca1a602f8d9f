# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`encode` gives the model's own embeddings, whatever padding, mask, precision and wrapper."""

from types import SimpleNamespace

import pytest
import torch
from conftest import random_batch
from helpers import assert_golden, golden_model
from torch import nn

from hf_robustft.modeling.features import (
    ClipFeatures,
    encode,
    encode_images,
    encode_texts,
    logit_scale,
    project_images,
    project_texts,
    unwrapped,
)


class Compiled(nn.Module):
    """Wraps as `torch.compile` does."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod, self.calls = model, 0

    def forward(self, **inputs):
        self.calls += 1
        return self._orig_mod(**inputs)


class Parallel(nn.Module):
    """Wraps as `DistributedDataParallel` does."""

    def __init__(self, model):
        super().__init__()
        self.module, self.calls = model, 0

    def forward(self, **inputs):
        self.calls += 1
        return self.module(**inputs)


class Fixed(nn.Module):
    """A model that returns given embeddings."""

    def __init__(self, embeds):
        super().__init__()
        self.embeds, self.logit_scale = embeds, nn.Parameter(torch.zeros((), dtype=embeds.dtype))

    def forward(self, pixel_values, input_ids):
        raw = SimpleNamespace(pooler_output=self.embeds)
        return SimpleNamespace(image_embeds=self.embeds, text_embeds=self.embeds, vision_model_output=raw)


@torch.no_grad()
def test_equals_the_models_own_outputs_with_its_mask(tiny_clip):
    model, batch = tiny_clip.double(), random_batch(dtype=torch.float64)
    mask = torch.ones_like(batch["input_ids"])
    for row in range(len(mask)):
        first_end = (batch["input_ids"][row] == 63).nonzero()[0].item()
        mask[row, first_end + 1 :] = 0
    assert mask.min() == 0, "the batch must hold padding for the mask to matter"
    own = model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"], attention_mask=mask)
    features = encode(model, batch)
    torch.testing.assert_close(features.image_embeds, own.image_embeds, rtol=0, atol=1e-12)
    torch.testing.assert_close(features.text_embeds, own.text_embeds, rtol=0, atol=1e-12)
    torch.testing.assert_close(features.logits_per_image, own.logits_per_image, rtol=0, atol=1e-11)
    torch.testing.assert_close(features.logits_per_text, own.logits_per_text, rtol=0, atol=1e-11)
    torch.testing.assert_close(features.logit_scale, model.logit_scale.exp())


@torch.no_grad()
def test_norms_are_one_and_captions_differ(tiny_clip):
    features = encode(tiny_clip, random_batch())
    torch.testing.assert_close(features.image_embeds.norm(dim=1), torch.ones(8))
    torch.testing.assert_close(features.text_embeds.norm(dim=1), torch.ones(8))
    cosines = features.text_embeds @ features.text_embeds.t()
    assert cosines.fill_diagonal_(0).max() < 0.999


@torch.no_grad()
@pytest.mark.parametrize("filler", [63, 0])
def test_padding_to_the_full_context_changes_nothing(tiny_clip, filler):
    model, batch = tiny_clip.double(), random_batch(dtype=torch.float64)
    trimmed = encode(model, batch).text_embeds
    full = torch.full((8, 16), filler)
    full[:, :12] = batch["input_ids"]
    for row in full:
        row[(row == 63).nonzero()[0].item() + 1 :] = filler
    torch.testing.assert_close(encode(model, {**batch, "input_ids": full}).text_embeds, trimmed, rtol=0, atol=1e-12)


@torch.no_grad()
def test_without_captions_the_images_are_the_same(tiny_clip):
    batch = random_batch()
    with_captions, without = encode(tiny_clip, batch), encode(tiny_clip, batch, captions=False)
    assert without.text_embeds is None
    torch.testing.assert_close(without.image_embeds, with_captions.image_embeds, rtol=0, atol=0)
    batch.pop("input_ids")
    torch.testing.assert_close(
        encode(tiny_clip, batch, captions=False).image_embeds, with_captions.image_embeds, rtol=0, atol=0
    )


def test_gradients_reach_both_towers_and_the_scale(tiny_clip):
    encode(tiny_clip, random_batch()).logits_per_image.diagonal().sum().backward()
    without = [name for name, p in tiny_clip.named_parameters() if p.grad is None]
    assert without == []
    assert tiny_clip.logit_scale.grad.abs() > 0


@pytest.mark.parametrize("missing", ["pixel_values", "input_ids"])
def test_a_missing_input_is_named(tiny_clip, missing):
    batch = random_batch()
    batch.pop(missing)
    with pytest.raises(ValueError, match=f"no {missing}.*ClipCollator"):
        encode(tiny_clip, batch)


def test_without_captions_pixels_are_still_needed(tiny_clip):
    with pytest.raises(ValueError, match="no pixel_values"):
        encode(tiny_clip, {"input_ids": random_batch()["input_ids"]}, captions=False)


def test_each_image_needs_one_caption(tiny_clip):
    batch = random_batch()
    batch["input_ids"] = batch["input_ids"][:5]
    with pytest.raises(ValueError, match="8 images and 5 captions"):
        encode(tiny_clip, batch)


@torch.no_grad()
def test_half_precision_is_normalised_in_float32(tiny_clip):
    # The norm of 64 times 40,000 is 320,000; float16 ends at 65,504, where a half-precision norm is infinite.
    embeds = torch.full((2, 64), 40_000.0, dtype=torch.float16)
    assert torch.isinf(embeds.norm(dim=1)).all()
    features = encode(Fixed(embeds), {"pixel_values": torch.zeros(2, 1), "input_ids": torch.zeros(2, 1)})
    assert features.image_embeds.dtype == features.text_embeds.dtype == features.logit_scale.dtype == torch.float32
    torch.testing.assert_close(features.image_embeds, torch.full((2, 64), 0.125), rtol=1e-6, atol=0)
    half = encode(tiny_clip.to(torch.bfloat16), random_batch(dtype=torch.bfloat16))
    torch.testing.assert_close(half.image_embeds.norm(dim=1), torch.ones(8), rtol=1e-6, atol=0)


def test_logit_scale_keeps_float64_and_gradient(tiny_clip):
    model = tiny_clip.double()
    scale = logit_scale(model)
    assert scale.dtype == torch.float64 and scale.requires_grad
    assert scale.item() == pytest.approx(model.logit_scale.exp().item(), rel=1e-15)


@torch.no_grad()
def test_wrappers_are_called_and_seen_through(tiny_clip):
    parallel = Parallel(Compiled(tiny_clip))
    compiled = Compiled(Parallel(tiny_clip))
    assert unwrapped(parallel) is unwrapped(compiled) is unwrapped(tiny_clip) is tiny_clip
    batch = random_batch()
    bare = encode(tiny_clip, batch)
    for wrapper in (parallel, compiled):
        wrapped = encode(wrapper, batch)
        assert wrapper.calls == 1, "the forward call must pass through the wrapper, whose hooks average gradients"
        assert torch.equal(wrapped.image_embeds, bare.image_embeds)
        assert torch.equal(wrapped.logit_scale, bare.logit_scale)
        assert encode(wrapper, batch, captions=False).text_embeds is None


@torch.no_grad()
def test_embeddings_outside_training_are_the_same(tiny_clip):
    model, batch = tiny_clip.double(), random_batch(dtype=torch.float64)
    features = encode(model, batch)
    images = encode_images(Compiled(model), batch["pixel_values"])
    torch.testing.assert_close(images, features.image_embeds, rtol=0, atol=1e-12)
    texts = encode_texts(Compiled(model), batch["input_ids"])
    torch.testing.assert_close(texts, features.text_embeds, rtol=0, atol=1e-12)


def test_columns_of_other_processes_widen_the_logits():
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    whole = ClipFeatures(images, texts, torch.tensor(3.0))
    part = ClipFeatures(images[2:4], texts[2:4], torch.tensor(3.0), images, texts, row_offset=2)
    torch.testing.assert_close(part.logits_per_image, whole.logits_per_image[2:4])
    torch.testing.assert_close(part.logits_per_text, whole.logits_per_text[2:4])
    torch.testing.assert_close(whole.logits_per_text, whole.logits_per_image.t())


def test_golden_initial_features(golden_dir, golden):
    data = golden("e_carot_traj")
    for dtype, tag, limits in ((torch.float64, "f64", (1e-9, 1e-12)), (torch.float32, "f32", (2e-5, 1e-6))):
        model = golden_model(golden_dir, golden, dtype)
        with torch.no_grad():
            features = encode(model, {"pixel_values": data["images"][0].to(dtype), "input_ids": data["texts"][0]})
        for kind, got in (("image", features.image_embeds), ("text", features.text_embeds)):
            raw = data[f"init_{kind}_features_{tag}"]
            assert_golden(got, raw / raw.norm(dim=1, keepdim=True), limits, f"{kind} {tag}")


def test_raw_features_are_those_before_normalisation(tiny_clip):
    batch = random_batch()
    features = encode(tiny_clip, batch)
    assert torch.equal(features.image_features, project_images(tiny_clip, batch["pixel_values"]))
    unit = features.image_features / features.image_features.norm(dim=1, keepdim=True)
    torch.testing.assert_close(features.image_embeds, unit)
    assert not torch.allclose(features.image_features, features.image_embeds)
    assert features.extra_text_features is None


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize("longer", ["captions", "texts"])
def test_extra_texts_ride_along(tiny_clip, captions, longer):
    model, batch = tiny_clip.double(), random_batch(dtype=torch.float64)
    texts = random_batch(5, seed=3)["input_ids"]
    if longer == "captions":
        texts = texts[:, :9]
    else:
        batch["input_ids"] = batch["input_ids"][:, :10]
        batch["input_ids"][:, -1] = 63
    features = encode(model, batch, captions=captions, extra_texts=texts)
    torch.testing.assert_close(features.extra_text_features, project_texts(model, texts), rtol=0, atol=1e-12)
    plain = encode(model, batch, captions=captions)
    torch.testing.assert_close(features.image_embeds, plain.image_embeds, rtol=0, atol=1e-12)
    if captions:
        torch.testing.assert_close(features.text_embeds, plain.text_embeds, rtol=0, atol=1e-12)
    else:
        assert features.text_embeds is None


def test_cached_image_features_spare_the_image_tower(tiny_clip):
    pixels = random_batch()["pixel_values"]
    raw = project_images(tiny_clip, pixels).detach()
    tiny_clip.vision_model.forward = lambda *args, **kwargs: pytest.fail("the image tower ran")
    features = encode(tiny_clip, {"image_features": raw}, captions=False)
    assert torch.equal(features.image_features, raw) and features.text_embeds is None
    with pytest.raises(ValueError, match="no pixel_values"):
        encode(tiny_clip, {"image_features": raw, "input_ids": random_batch()["input_ids"]})
