# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`encode` gives the model's own embeddings, whatever padding, mask, precision and wrapper."""

from types import SimpleNamespace

import pytest
import torch
from helpers import assert_golden, golden_model, random_batch, tiny_config
from torch import nn
from transformers import AutoTokenizer, CLIPModel

from hf_robustft.data.benchmarks import EMOJI_CLIP_DIR, load_benchmark
from hf_robustft.data.prompts import class_prompts
from hf_robustft.modeling.dual_encoder import DualEncoder, unwrapped
from hf_robustft.modeling.features import (
    ClipFeatures,
    encode,
    encode_images,
    encode_texts,
    is_bare,
    logit_scale,
    remember_captions,
)

pytestmark = pytest.mark.numbers


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


class Fixed(CLIPModel):
    """A model that returns given features."""

    def __init__(self, features):
        nn.Module.__init__(self)
        self.features, self.logit_scale = features, nn.Parameter(torch.zeros((), dtype=features.dtype))
        self.config, self.text_model, self.text_projection = tiny_config(), nn.Identity(), nn.Identity()

    def forward(self, pixel_values, input_ids):
        raw = SimpleNamespace(pooler_output=self.features)
        return SimpleNamespace(text_model_output=raw, vision_model_output=raw)


def repeated(batch, kinds=3):
    """The batch with `kinds` captions only, in turn, every second one padded with other tokens."""
    ids = batch["input_ids"][torch.arange(len(batch["input_ids"])) % kinds].clone()
    for row in ids[1::2]:
        row[(row == 63).nonzero()[0].item() + 1 :] = 0
    return {**batch, "input_ids": ids}


@pytest.fixture
def seen_texts(tiny_clip):
    """The shape of every table of token ids that the text tower of `tiny_clip` gets to see."""
    shapes = []
    tiny_clip.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def relative_error(got, want):
    return ((got.double() - want.double()).abs().max() / want.double().abs().max()).item()


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


@pytest.mark.same_bits("the same images in one batch")
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
    features = encode(Fixed(embeds), {"pixel_values": torch.zeros(2, 1), "input_ids": torch.tensor([[1], [2]])})
    assert features.image_embeds.dtype == features.text_embeds.dtype == features.logit_scale.dtype == torch.float32
    torch.testing.assert_close(features.image_embeds, torch.full((2, 64), 0.125), rtol=1e-6, atol=0)
    half = encode(tiny_clip.to(torch.bfloat16), random_batch(dtype=torch.bfloat16))
    torch.testing.assert_close(half.image_embeds.norm(dim=1), torch.ones(8), rtol=1e-6, atol=0)


def test_logit_scale_keeps_float64_and_gradient(tiny_clip):
    model = tiny_clip.double()
    scale = logit_scale(model)
    assert scale.dtype == torch.float64 and scale.requires_grad
    assert scale.item() == pytest.approx(model.logit_scale.exp().item(), rel=1e-15)


@pytest.mark.same_bits("the same batch")
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
        assert wrapper.calls == 2


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


@pytest.mark.same_bits("the same batch")
def test_raw_features_are_those_before_normalisation(tiny_clip):
    batch = random_batch()
    features = encode(tiny_clip, batch)
    assert torch.equal(features.image_features, DualEncoder.of(tiny_clip).image_features(batch["pixel_values"]))
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
    torch.testing.assert_close(
        features.extra_text_features, DualEncoder.of(model).text_features(texts), rtol=0, atol=1e-12
    )
    plain = encode(model, batch, captions=captions)
    torch.testing.assert_close(features.image_embeds, plain.image_embeds, rtol=0, atol=1e-12)
    if captions:
        torch.testing.assert_close(features.text_embeds, plain.text_embeds, rtol=0, atol=1e-12)
    else:
        assert features.text_embeds is None


def test_cached_image_features_spare_the_image_tower(tiny_clip):
    pixels = random_batch()["pixel_values"]
    raw = DualEncoder.of(tiny_clip).image_features(pixels).detach()
    tiny_clip.vision_model.forward = lambda *args, **kwargs: pytest.fail("the image tower ran")
    features = encode(tiny_clip, {"image_features": raw}, captions=False)
    assert torch.equal(features.image_features, raw) and features.text_embeds is None
    with pytest.raises(ValueError, match="no pixel_values"):
        encode(tiny_clip, {"image_features": raw, "input_ids": random_batch()["input_ids"]})


# Texts: each once, none longer than needed, none where none is


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", ["tiny", "shipped"])
def test_trimmed_deduplicated_and_remembered_texts_equal_the_plain_path(tiny_clip, name, dtype, limit):
    if name == "tiny":
        model, batch = tiny_clip.to(dtype), repeated(random_batch(16, dtype=dtype), kinds=5)
        ids = torch.cat([batch["input_ids"], torch.full((16, 4), 63)], dim=1)
    else:
        model = CLIPModel.from_pretrained(EMOJI_CLIP_DIR, dtype=dtype).eval()
        classes = load_benchmark("emoji_shift", "train")
        captions = class_prompts(classes.class_names[:20], classes.templates)[:40]
        captions = [captions[row * row % 40] for row in range(16)]
        assert len(set(captions)) < 16
        ids = AutoTokenizer.from_pretrained(EMOJI_CLIP_DIR)(captions, padding="max_length", return_tensors="pt")
        ids = ids["input_ids"]
        size = model.config.vision_config.image_size
        batch = {"pixel_values": torch.zeros(16, 3, size, size, dtype=dtype)}
    assert ids.shape[1] == model.config.text_config.max_position_embeddings
    plain = model.get_text_features(input_ids=ids).pooler_output
    memory = remember_captions(model, 100)
    shapes, forward = [], model.text_model.forward

    def spied(input_ids, **kwargs):
        shapes.append(input_ids.shape)
        return forward(input_ids=input_ids, **kwargs)

    model.text_model.forward = spied
    with torch.enable_grad():
        deduplicated = encode(model, {**batch, "input_ids": ids}).text_features
    first = encode(model, {"pixel_values": batch["pixel_values"][:10], "input_ids": ids[:10]}).text_features
    again = encode(model, {**batch, "input_ids": ids}).text_features
    distinct = {tuple(row.tolist()) for row in plain.float().mul(1e3).round()}
    assert len(shapes) <= 3 and all(shape[1] < ids.shape[1] for shape in shapes)
    assert shapes[0][0] == len(distinct) < 16 and sum(shape[0] for shape in shapes[1:]) == len(distinct) == len(memory)
    for got in (deduplicated, again):
        assert got.dtype == dtype and relative_error(got, plain) <= limit
    assert relative_error(first, plain[:10]) <= limit


def test_gradients_of_repeated_captions_equal_the_plain_path(tiny_clip):
    model, batch = tiny_clip.double(), repeated(random_batch(dtype=torch.float64))
    weights = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = []
    for plain in (True, False):
        model.zero_grad()
        if plain:
            logits = model(pixel_values=batch["pixel_values"], input_ids=batch["input_ids"]).logits_per_image
        else:
            logits = encode(model, batch).logits_per_image
        (logits * weights).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, want in gradients[0].items():
        got = gradients[1][name]
        if name.endswith("k_proj.bias"):
            assert (got - want).abs().max() < 1e-12, name
        elif name.endswith("token_embedding.weight"):
            # Tokens after the end are not seen, so that cutting them leaves their gradient 0, not rounded to 0.
            torch.testing.assert_close(got, want, rtol=0, atol=1e-12 * want.abs().max().item())
        else:
            assert relative_error(got, want) < 1e-12, name


@pytest.mark.parametrize("captions", [True, False])
def test_the_text_tower_sees_each_text_once_and_cut(tiny_clip, seen_texts, captions):
    batch = repeated(random_batch(dtype=torch.float64))
    texts = torch.cat([batch["input_ids"][:2], random_batch(5, seed=3)["input_ids"][3:]])[:, :10]
    model = tiny_clip.double()
    features = encode(model, batch, captions=captions, extra_texts=texts)
    # Three captions of 5, 6 and 7 tokens, two of them among the texts; the texts' own are of 8 and 9 tokens.
    assert seen_texts == [(5 if captions else 4, 9)]
    torch.testing.assert_close(
        features.extra_text_features, DualEncoder.of(model).text_features(texts), rtol=0, atol=1e-12
    )
    if captions:
        plain = DualEncoder.of(model).text_features(batch["input_ids"])
        torch.testing.assert_close(features.text_features, plain, rtol=0, atol=1e-12)
        torch.testing.assert_close(features.text_embeds, plain / plain.norm(dim=1, keepdim=True))


def test_texts_of_a_tower_with_dropout_have_masks_of_their_own(tiny_clip, seen_texts):
    batch = repeated(random_batch(9), kinds=3)
    for rate, training, rows in ((0.5, True, 9), (0.5, False, 3), (0.0, True, 3)):
        for layer in tiny_clip.text_model.encoder.layers:
            layer.self_attn.dropout = rate
        features = encode(tiny_clip.train(training), batch)
        assert seen_texts.pop()[0] == rows
        assert torch.equal(features.text_features[0], features.text_features[3]) is (rows == 3)
    # Other families keep the rate under another name.
    tiny_clip.text_model.encoder.layers[0].self_attn.attention_dropout = 0.5
    encode(tiny_clip, batch)
    assert seen_texts.pop()[0] == 9
    tiny_clip.text_model.encoder.layers[0].self_attn.attention_dropout = 0.0
    # Dropout as a module, as adapters in the layers bring it.
    tiny_clip.text_model.encoder.layers[0].mlp.fc2 = nn.Sequential(
        tiny_clip.text_model.encoder.layers[0].mlp.fc2, nn.Dropout(0.1)
    )
    encode(tiny_clip, batch)
    assert seen_texts.pop()[0] == 9
    # In the image tower it does not matter.
    tiny_clip.text_model.eval()
    encode(tiny_clip, batch)
    assert seen_texts.pop()[0] == 3


def test_a_compiled_model_sees_few_shapes(tiny_clip, seen_texts):
    batch = random_batch(20)
    for wrapper in (Compiled(tiny_clip), Parallel(Compiled(tiny_clip)), Compiled(Parallel(tiny_clip))):
        for kinds, kept in ((3, 8), (7, 8), (10, 16), (20, 20)):
            few = repeated(batch, kinds)
            features = encode(wrapper, few)
            assert seen_texts.pop() == (kept, 12), "rows in eights, the length as the collator padded it"
            torch.testing.assert_close(features.text_embeds, encode(tiny_clip, few).text_embeds)
            seen_texts.clear()


def test_compiling_in_place_is_seen(tiny_clip, seen_texts):
    tiny_clip._compiled_call_impl = tiny_clip._call_impl  # what `nn.Module.compile` sets
    assert not is_bare(tiny_clip)
    encode(tiny_clip, repeated(random_batch(20)))
    assert seen_texts == [(8, 12)]


@pytest.mark.same_bits("the same images in one batch")
def test_where_no_text_is_needed_a_bare_models_text_tower_does_not_run(tiny_clip, seen_texts):
    batch = random_batch()
    bare = encode(tiny_clip, batch, captions=False)
    assert seen_texts == []
    wrapped = encode(Parallel(tiny_clip), batch, captions=False)
    assert seen_texts == [(1, 1)], "the wrapper must see a forward call, which takes a text"
    assert torch.equal(bare.image_embeds, wrapped.image_embeds)
    assert torch.equal(bare.image_features, wrapped.image_features)
    gradients = []
    for features in (bare, wrapped):
        tiny_clip.zero_grad()
        (features.image_embeds[:, 0].sum() * features.logit_scale).backward()
        gradients.append({n: p.grad for n, p in tiny_clip.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and "visual_projection.weight" in gradients[0]
    assert all(torch.equal(gradients[1][name], value) for name, value in gradients[0].items())


def test_what_makes_a_model_more_than_its_forward(tiny_clip):
    assert is_bare(tiny_clip)
    assert not is_bare(Parallel(tiny_clip)) and not is_bare(Compiled(tiny_clip))

    class Other(CLIPModel):
        pass

    assert not is_bare(Other(tiny_config()))
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        hook = getattr(tiny_clip, register)(lambda *args: None)
        assert not is_bare(tiny_clip), register
        hook.remove()
        assert is_bare(tiny_clip)
    tiny_clip.forward = tiny_clip.forward  # as Accelerate does for autocast
    assert not is_bare(tiny_clip)


@pytest.mark.same_bits("the same batch")
def test_a_frozen_text_tower_keeps_no_graph(tiny_clip):
    def saved(frozen):
        tiny_clip.requires_grad_(True)
        for part in (tiny_clip.text_model, tiny_clip.text_projection) if frozen else ():
            part.requires_grad_(False)
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            features = encode(tiny_clip, batch)
        return features, sum(sizes)

    batch = repeated(random_batch())
    (trained, both), (frozen, images) = saved(False), saved(True)
    assert trained.text_features.requires_grad and not frozen.text_features.requires_grad
    assert frozen.image_features.requires_grad and torch.equal(trained.text_embeds, frozen.text_embeds)
    pixels_alone = encode(tiny_clip, batch, captions=False)
    assert pixels_alone.image_features.requires_grad and images < both


@pytest.mark.same_bits("remembered, nothing is computed again")
def test_only_a_bare_frozen_model_remembers(tiny_clip, seen_texts):
    memory, batch = remember_captions(tiny_clip, 100), repeated(random_batch())
    encode(tiny_clip, batch)
    with torch.no_grad():
        encode(Parallel(tiny_clip), batch)
        encode(tiny_clip.train(), batch)
    assert len(memory) == 0 and [rows for rows, _ in seen_texts] == [3, 3, 3]
    tiny_clip.eval()
    with torch.no_grad():
        first, again = encode(tiny_clip, batch), encode(tiny_clip, batch)
        assert len(memory) == 3 and len(seen_texts) == 4
        assert torch.equal(first.text_embeds, again.text_embeds)
        texts = random_batch(5, seed=3)["input_ids"]
        extra = encode(tiny_clip, batch, extra_texts=texts).extra_text_features
        assert seen_texts[4:] == [(5, 9)] and len(memory) == 8
        torch.testing.assert_close(extra, DualEncoder.of(tiny_clip).text_features(texts))
