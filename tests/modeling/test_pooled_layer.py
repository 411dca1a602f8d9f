# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The last layer is computed for the token that is read alone, changes nothing by it, and is whole for whoever looks at it."""

import copy
import logging
import pickle

import pytest
import torch
from helpers.families import FAMILY_NAMES, family_images, family_model, family_processor
from torch import nn

from hf_robustft.modeling import dual_encoder, pooled_layer
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.pooled_layer import at, mask_row

CAPTIONS = ["a photo of the zebra", "a zoo", "zz a", "the cat and the dog"]
#: Towers that are read at one token; the others pool all, or may be of any kind.
ONE_TOKEN = {
    **dict.fromkeys(("clip", "metaclip_2", "chinese_clip", "altclip", "blip"), ("image", "text")),
    **dict.fromkeys(("aimv2", "siglip", "siglip2"), ("text",)),
    "vision-text-dual-encoder": (),
}
#: What follows the attention in a layer.
MLPS = ("mlp", "ffn", "intermediate")


@pytest.fixture
def whole(monkeypatch):
    """Call it to have all layers computed for all tokens from then on."""
    return lambda: monkeypatch.setattr(dual_encoder, "reading", lambda *_: {})


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(pooled_layer, "_said", set())


def batch(name, dtype=torch.float64):
    ids = family_processor(name).tokenizer(
        CAPTIONS, padding="max_length", max_length=64 if "siglip" in name else 16, truncation=True, return_tensors="pt"
    )["input_ids"]
    return family_images(name, 4, dtype=dtype), ids


def features(model, inputs, together=True):
    encoder = DualEncoder.of(model)
    return encoder.forward(*inputs) if together else (encoder.image_features(inputs[0]), encoder.text_features(inputs[1]))


def watch(model):
    """Counts the tokens of each row that the MLP of the last layer of each tower sees."""
    seen = {}
    for side, layers in zip(("image", "text"), DualEncoder.of(model).layers(), strict=True):
        mlp = next((getattr(layers[-1], name) for name in MLPS if hasattr(layers[-1], name)), None)
        if mlp is None:
            continue

        def forward(hidden, side=side, mlp=mlp):
            seen[side] = hidden.shape[1]
            return type(mlp).forward(mlp, hidden)

        mlp.forward = forward
    return seen


def results(model, inputs, together=True):
    """Features, and the gradient of every weight of a sum of them that tells all of them apart."""
    model.zero_grad()
    sides = features(model, inputs, together)
    weights = [torch.linspace(0.5, 2.0, side.numel(), dtype=side.dtype).view_as(side) for side in sides]
    sum((side * weight).sum() for side, weight in zip(sides, weights, strict=True)).backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    # The similarities of a compiled model have a gradient of 0.
    gradients.pop("_orig_mod.logit_scale", None)
    return {"image": sides[0].detach(), "text": sides[1].detach(), **gradients}


def assert_equal(ours, theirs, atol=1e-12):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=atol, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_features_and_gradients_are_those_of_the_whole_layer(name, attention, together, whole):
    model, inputs = family_model(name).double(), batch(name)
    model.set_attn_implementation(attention)
    seen = watch(model)
    ours = results(model, inputs, together)
    assert {side for side, tokens in seen.items() if tokens == 1} == set(ONE_TOKEN[name])
    whole()
    theirs = results(model, inputs, together)
    assert min(seen.values()) > 1
    # Eager attention has its softmax in float32, and AIMv2 its norms.
    assert_equal(ours, theirs, 1e-6 if attention == "eager" or name == "aimv2" else 1e-12)


def test_captions_are_read_where_they_end(whole):
    """At any place of the row, whatever follows, and where the highest id is the end."""
    model = family_model("clip").double()
    for end in (63, 2):
        model.config.text_config.eos_token_id = model.text_model.eos_token_id = end
        ids = torch.randint(3, 62, (12, 16), generator=torch.Generator().manual_seed(0))
        ids[torch.arange(12), torch.arange(12)] = 63
        ours = DualEncoder.of(model).text_features(ids)
        torch.testing.assert_close(ours, model.get_text_features(ids).pooler_output, rtol=0, atol=1e-12)
    assert ours.unique(dim=0).shape == ours.shape


@pytest.mark.parametrize("rows", [1, 5])
def test_a_row_of_a_mask_against_a_loop(rows):
    generator = torch.Generator().manual_seed(rows)
    mask, tokens = torch.randn(rows, 1, 7, 7, generator=generator), torch.tensor([3, 0, 6, 2, 2])
    expected = torch.stack([mask[i if rows > 1 else 0, :, token][:, None] for i, token in enumerate(tokens)])
    assert torch.equal(mask_row(mask, tokens, 7, True), expected)
    for token in (0, 4, -1):
        assert torch.equal(mask_row(mask, token, 7, False), mask[:, :, [token]])
    assert mask_row(mask[:, :, :1], tokens, 7, False) is not None and mask_row(None, tokens, 7, False) is None
    causal = torch.ones(7, 7).tril().bool()
    assert torch.equal(mask_row(None, tokens, 7, True), causal[tokens][:, None, None])
    values = torch.randn(5, 7, 2, generator=generator)
    assert torch.equal(at(values, tokens), torch.stack([values[i, [t]] for i, t in enumerate(tokens)]))
    assert torch.equal(at(values, -1), values[:, -1:])


def test_outputs_that_are_asked_for_stay_whole():
    model, inputs = family_model("clip").double(), batch("clip")
    before = model(pixel_values=inputs[0], input_ids=inputs[1], output_hidden_states=True)
    features(model, inputs)
    after = model(pixel_values=inputs[0], input_ids=inputs[1], output_hidden_states=True)
    for side in ("vision_model_output", "text_model_output"):
        assert torch.equal(after[side].last_hidden_state, before[side].last_hidden_state)
        assert len(after[side].hidden_states) == len(before[side].hidden_states)
        assert all(map(torch.equal, after[side].hidden_states, before[side].hidden_states))
    # Transformers leaves its record's hooks where it was once asked for it.
    seen = watch(model)
    features(model, inputs)
    assert seen == {"image": 1, "text": 1}


class Doubled(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, *args, **kwargs):
        output, weights = self.attention(*args, **kwargs)
        return 2 * output, weights


def hook_a_layer(model, side):
    getattr(model, side).encoder.layers[-1].register_forward_hook(lambda module, args, output: output * 1.5)


def hook_a_norm(model, side):
    norm = "post_layernorm" if side == "vision_model" else "final_layer_norm"
    getattr(getattr(model, side), norm).register_forward_pre_hook(lambda module, args: (args[0] + args[0].mean(1, keepdim=True),))


def hook_a_tower(model, side):
    def pooled_by_the_mean(module, args, output):
        output.pooler_output = output.last_hidden_state.mean(dim=1)
        return output

    getattr(model, side).register_forward_hook(pooled_by_the_mean)


def other_attention(model, side):
    layer = getattr(model, side).encoder.layers[-1]
    layer.self_attn = Doubled(layer.self_attn)


def other_forward(model, side):
    layer = getattr(model, side).encoder.layers[-1]
    old = layer.forward
    layer.forward = lambda hidden, *args, **kwargs: 2 * old(hidden, *args, **kwargs)


def other_layer(model, side):
    layers = getattr(model, side).encoder.layers

    class TwiceLayer(type(layers[0])):
        def forward(self, *args, **kwargs):
            return 2 * super().forward(*args, **kwargs)

    for layer in layers:
        layer.__class__ = TwiceLayer


def other_tower(model, side):
    """Whose pooled output is that of the token in the middle."""
    tower = getattr(model, side)

    class Middle(type(tower)):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.pooler_output = output.last_hidden_state[:, output.last_hidden_state.shape[1] // 2]
            return output

    tower.__class__ = Middle


def all_outputs(model, side):
    getattr(model, side).config.output_hidden_states = True


CHANGES = (hook_a_layer, hook_a_norm, hook_a_tower, other_attention, other_forward, other_layer, other_tower, all_outputs)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("side", ["vision_model", "text_model"])
@pytest.mark.parametrize("before", [True, False])
def test_it_steps_aside_for_what_others_put_there(change, side, before, caplog):
    """And says so; the other tower goes on."""
    if change is hook_a_norm and side == "vision_model":
        pytest.skip("that norm sees one token in Transformers too")
    model, inputs = family_model("clip").double(), batch("clip")
    if not before:
        features(model, inputs)
    change(model, side)
    seen = watch(model)
    with caplog.at_level(logging.INFO):
        ours = features(model, inputs)
        features(model, inputs)
    image, text = (1, 1)
    assert (seen["image"] > image) == (side == "vision_model") and (seen["text"] > text) == (side == "text_model")
    assert caplog.text.count("is computed for all its tokens") == 1
    theirs = model.get_image_features(inputs[0]), model.get_text_features(inputs[1])
    for mine, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain.pooler_output, rtol=0, atol=1e-12)


def test_a_model_of_a_subclass_computes_what_it_says():
    model, inputs = family_model("clip").double(), batch("clip")

    class Averaged(type(model)):
        def get_image_features(self, *args, **kwargs):
            output = super().get_image_features(*args, **kwargs)
            output.pooler_output = self.visual_projection(output.last_hidden_state.mean(dim=1))
            return output

    model.__class__ = Averaged
    ours = DualEncoder.of(model).image_features(inputs[0])
    torch.testing.assert_close(ours, model.get_image_features(inputs[0]).pooler_output, rtol=0, atol=1e-12)


def test_dropout_is_drawn_for_all_tokens():
    model, inputs = family_model("chinese_clip").double().train(), batch("chinese_clip")
    drawn = []
    for plain in (False, True):
        torch.manual_seed(0)
        drawn.append(
            model.get_text_features(inputs[1], attention_mask=(inputs[1] != 0).long()).pooler_output
            if plain
            else DualEncoder.of(model).text_features(inputs[1])
        )
    torch.testing.assert_close(*drawn, rtol=0, atol=1e-12)


def test_a_copy_computes_with_its_own_weights(whole):
    """As a teacher does, that is copied from a student; and one that went through a file of Python objects."""
    model, inputs = family_model("clip").double(), batch("clip")
    features(model, inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        with torch.no_grad():
            for value in other.parameters():
                value.mul_(1.1)
        seen = watch(other)
        ours = features(other, inputs)
        assert set(seen.values()) == {1}
        theirs = other.get_image_features(inputs[0]), other.get_text_features(inputs[1])
        for mine, plain in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, plain.pooler_output, rtol=0, atol=1e-12)
        assert not torch.equal(ours[0], features(model, inputs)[0])


def test_layers_put_behind_the_last_one_are_not_forgotten():
    model, inputs = family_model("clip").double(), batch("clip")
    features(model, inputs)
    for tower in (model.vision_model, model.text_model):
        tower.encoder.layers.append(copy.deepcopy(tower.encoder.layers[0]))
    ours = features(model, inputs)
    theirs = model.get_image_features(inputs[0]), model.get_text_features(inputs[1])
    for mine, plain in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, plain.pooler_output, rtol=0, atol=1e-12)


@pytest.mark.parametrize("reentrant", [True, False])
def test_with_activation_checkpointing(reentrant, whole):
    model, inputs = family_model("clip").double().train(), batch("clip")
    whole_model = copy.deepcopy(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    seen = watch(model)
    ours = results(model, inputs)
    assert set(seen.values()) == {1}
    whole()
    assert_equal(ours, results(whole_model, inputs))


def test_in_half_precision(whole):
    """As close to the whole layer as rounding in that precision lets it be."""
    model, inputs = family_model("clip").bfloat16(), batch("clip", torch.bfloat16)
    ours = features(model, inputs)
    whole()
    for mine, plain in zip(ours, features(model, inputs), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0.05, atol=0.05)


@pytest.mark.slow
def test_compiled(whole):
    model, inputs = family_model("clip").double(), batch("clip")
    compiled = torch.compile(model)
    ours = results(compiled, inputs)
    shorter = inputs[0], inputs[1][:, :12].index_fill(1, torch.tensor([11]), 63)
    again = features(compiled, shorter)
    whole()
    assert_equal({name.removeprefix("_orig_mod."): value for name, value in ours.items()}, results(model, inputs))
    torch.testing.assert_close(again, features(model, shorter), rtol=0, atol=1e-12)


