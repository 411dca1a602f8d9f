# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The last layer is computed for the token that is read alone, changes nothing by it, and is whole for whoever looks at it."""

import copy
import functools
import logging
from contextlib import nullcontext
from types import MethodType

import pytest
import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from helpers.families import FAMILY_NAMES, family_images, family_model, family_processor
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from transformers.models.clip import modeling_clip

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
    return lambda: monkeypatch.setattr(dual_encoder, "reading", lambda *_: nullcontext({}))


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

        def count(module, args, side=side):
            seen[side] = args[0].shape[1]

        # One of those for which no layer is made whole.
        count.__module__ = "torch.utils.module_tracker"
        mlp.register_forward_pre_hook(count)
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


class Mixed(nn.Module):
    """A module whose output for a token is that of all of them."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, hidden):
        return self.inner(hidden) + hidden.mean(dim=1, keepdim=True)


def other_mlp(model, side):
    layer = getattr(model, side).encoder.layers[-1]
    # Which is still counted in it.
    layer.mlp.activation_fn = Mixed(layer.mlp.activation_fn)


def other_query(model, side):
    attention = getattr(model, side).encoder.layers[-1].self_attn
    attention.q_proj = Mixed(attention.q_proj)


def other_mlp_forward(model, side):
    mlp = getattr(model, side).encoder.layers[-1].mlp.fc2
    mlp.forward = lambda hidden: type(mlp).forward(mlp, hidden) + hidden.mean()


def one_layer_twice(model, side):
    layers = getattr(model, side).encoder.layers
    layers[0] = layers[-1]


def causal_attention(model, side):
    getattr(model, side).encoder.layers[-1].self_attn.is_causal = True


def wrapped_attention(model, side):
    layer = getattr(model, side).encoder.layers[-1]
    layer.self_attn = checkpoint_wrapper(layer.self_attn)


CHANGES = (
    *(hook_a_layer, hook_a_norm, hook_a_tower, other_attention, other_forward, other_layer, other_tower, all_outputs),
    *(other_mlp, other_query, other_mlp_forward, one_layer_twice, causal_attention, wrapped_attention),
)


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


def assert_as_whole(model, inputs, core=None):
    """For a change that is made for both towers: as Transformers computes it."""
    core = core or model
    theirs = core.get_image_features(inputs[0]), core.get_text_features(inputs[1])
    for mine, plain in zip(features(model, inputs, together=False), theirs, strict=True):
        torch.testing.assert_close(mine, plain.pooler_output, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["CLIPEncoderLayer.forward", "CLIPAttention.forward", "CLIPMLP.forward", "CLIPTextModel.forward"])
def test_functions_put_into_classes_of_transformers_are_obeyed(name, monkeypatch):
    kind = getattr(modeling_clip, name.partition(".")[0])
    old = kind.forward

    @functools.wraps(old)
    def mixed(self, *args, **kwargs):
        output = old(self, *args, **kwargs)
        if isinstance(output, dict):
            output.pooler_output = output.last_hidden_state.mean(dim=1)
        elif isinstance(output, tuple):
            output = output[0] + output[0].mean(dim=1, keepdim=True), output[1]
        else:
            output = output + output.mean(dim=1, keepdim=True)
        return output

    monkeypatch.setattr(kind, "forward", mixed)
    assert_as_whole(family_model("clip").double(), batch("clip"))


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_another_function_of_attention_is_obeyed(kind, monkeypatch):
    model, inputs = family_model("clip").double(), batch("clip")
    model.set_attn_implementation(kind)
    old = modeling_clip.ALL_ATTENTION_FUNCTIONS.get_interface(kind, modeling_clip.eager_attention_forward)

    def mixed(*args, **kwargs):
        output, weights = old(*args, **kwargs)
        return output + output.mean(dim=1, keepdim=True), weights

    if kind == "eager":
        monkeypatch.setattr(modeling_clip, "eager_attention_forward", mixed)
    else:
        monkeypatch.setitem(modeling_clip.ALL_ATTENTION_FUNCTIONS, kind, mixed)
    assert_as_whole(model, inputs)


@pytest.mark.parametrize("patched", [True, False])
def test_a_function_of_the_model_itself_is_obeyed(patched):
    """And those that Accelerate puts around it do not change what it computes."""
    model, inputs = family_model("clip").double(), batch("clip")
    plain = model.get_image_features

    def averaged(*args, **kwargs):
        output = plain(*args, **kwargs)
        output.pooler_output = model.visual_projection(output.last_hidden_state.mean(dim=1))
        return output

    if patched:
        model.get_image_features = averaged
    else:
        model.forward = MethodType(convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(type(model).forward)), model)
    seen = watch(model)
    assert_as_whole(model, inputs)
    features(model, inputs)
    assert (seen["image"] == 1) != patched


def test_hooks_of_all_modules_and_of_a_wrapper_are_obeyed():
    model, inputs = family_model("clip").double(), batch("clip")
    fc2 = model.vision_model.encoder.layers[-1].mlp.fc2
    seen = watch(model)
    mixed = lambda module, args, output: output + output.mean(dim=1, keepdim=True) if module is fc2 else None  # noqa: E731
    hook = nn.modules.module.register_module_forward_hook(mixed)
    try:
        assert_as_whole(model, inputs)
    finally:
        hook.remove()
    features(model, inputs)
    assert set(seen.values()) == {1}

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = model

        def forward(self, **kwargs):
            return self.module(**kwargs)

    wrapper = Wrapper()
    wrapper.register_forward_hook(lambda *_: None)
    features(wrapper, inputs)
    assert min(seen.values()) > 1


@pytest.mark.parametrize("side", ["vision_model", "text_model"])
def test_a_layer_that_takes_no_more_arguments_is_given_none(side):
    """Neither for its own tower nor for the other one."""
    model, inputs = family_model("clip").double(), batch("clip")
    attention = getattr(model, side).encoder.layers[0].self_attn
    old = attention.forward
    attention.forward = lambda hidden_states, attention_mask=None, is_causal=False: old(
        hidden_states=hidden_states, attention_mask=attention_mask, is_causal=is_causal
    )
    assert_as_whole(model, inputs)
    for mine, plain in zip(features(model, inputs), features(model, inputs, together=False), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-12)


def test_one_layer_of_two_towers(whole):
    model, inputs = family_model("siglip").double(), batch("siglip")
    model.text_model.encoder.layers[-1] = model.vision_model.encoder.layers[-1]
    ours = features(model, inputs)
    whole()
    for mine, plain in zip(ours, features(model, inputs), strict=True):
        torch.testing.assert_close(mine, plain, rtol=0, atol=1e-12)


def test_a_norm_that_mixes_tokens_is_obeyed():
    model, inputs = family_model("clip").double(), batch("clip")
    norm = model.text_model.final_layer_norm
    more = nn.TransformerEncoderLayer(norm.normalized_shape[0], 2, 32, batch_first=True).double().eval()
    model.text_model.final_layer_norm = nn.Sequential(more, norm)
    assert_as_whole(model, inputs)


def test_the_tower_reads_where_it_was_built_to():
    """Not where its configuration says since."""
    model, inputs = family_model("clip").double(), batch("clip")
    ids = torch.randint(3, 60, (4, 16), generator=torch.Generator().manual_seed(0))
    ids[:, 5], ids[:, 9] = 63, 61
    model.config.text_config.eos_token_id = 61
    assert_as_whole(model, (inputs[0], ids))


def test_weights_that_are_made_of_others(whole):
    """They say nothing of tokens, and the layer is computed for one."""
    model, inputs = family_model("clip").double(), batch("clip")

    class Half(nn.Module):
        def forward(self, weight):
            return weight / 2

    for tower in (model.vision_model, model.text_model):
        layer = tower.encoder.layers[-1]
        for part in (layer.self_attn.q_proj, layer.layer_norm2):
            nn.utils.parametrize.register_parametrization(part, "weight", Half())
        nn.utils.parametrizations.weight_norm(layer.mlp.fc1)
    seen = watch(model)
    ours = results(model, inputs)
    assert set(seen.values()) == {1}
    whole()
    assert_equal(ours, results(model, inputs))


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


def test_a_copy_computes_with_its_own_weights():
    """As a teacher does, that is copied from a student."""
    model, inputs = family_model("clip").double(), batch("clip")
    features(model, inputs)
    other = copy.deepcopy(model)
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


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_in_the_model(fails):
    """Shallow copies and replicas of several devices would take it along, with the weights of this model."""
    model, inputs = family_model("clip").double(), batch("clip")
    before = [dict(vars(module)) for module in model.modules()]
    if fails:
        with pytest.raises(ValueError, match="image size"):
            features(model, (torch.cat([inputs[0], inputs[0]], dim=-1), inputs[1]), together=False)
        with pytest.raises(ValueError, match="image size"):
            features(model, (torch.cat([inputs[0], inputs[0]], dim=-1), inputs[1]))
    else:
        features(model, inputs)
        features(model, inputs, together=False)
    for module, old in zip(model.modules(), before, strict=True):
        assert vars(module).keys() == old.keys() and "forward" not in vars(module)


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


