# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Heads that are more than a matrix: their formulas by plain loops, their files, and a temperature in each."""

import json
import math

import pytest
import torch
from helpers import CLASSES
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from hf_robustft import ClipAdapterHead, TemperatureScaling, TipAdapterHead, ZeroShotHead, load_head
from hf_robustft.modeling.heads import KINDS, MultiLabelHead

pytestmark = pytest.mark.numbers
DIM = 8


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear(dtype=torch.float64):
    return ZeroShotHead(14 * normalize(random(4, DIM, seed=1), dim=-1).to(dtype), CLASSES)


def head_of(kind, dtype=torch.float64):
    """A head of each kind, with values that none of its defaults has."""
    if kind in ("clip_adapter", "multi_label_clip_adapter"):
        return KINDS[kind].around(linear(dtype), ratio=0.3, reduction=2, seed=5)
    if kind == "tip_adapter":
        labels = torch.tensor([0, 2, 2, 3, 0])
        return TipAdapterHead.around(linear(dtype), random(3, 5, DIM, seed=2), labels, alpha=2.5, beta=3.5)
    head = linear(dtype) if kind == "linear" else MultiLabelHead(linear(dtype).weight, CLASSES)
    torch.nn.init.normal_(head.bias)
    return head


def test_clip_adapter_is_the_papers_formula_on_features_of_any_norm():
    head = head_of("clip_adapter")
    features = 7 * random(6, DIM, seed=3)
    logits = torch.empty(6, 4, dtype=torch.float64)
    for row, feature in enumerate(features):
        hidden = [max(0.0, sum(w * x for w, x in zip(line, feature, strict=True)).item()) for line in head.down]
        adapted = [max(0.0, sum(w * x for w, x in zip(line, hidden, strict=True)).item()) for line in head.up]
        mixed = [0.3 * a + 0.7 * x.item() for a, x in zip(adapted, feature, strict=True)]
        norm = math.sqrt(sum(x * x for x in mixed))
        for column, weights in enumerate(head.weight):
            logits[row, column] = sum(w.item() * x / norm for w, x in zip(weights, mixed, strict=True))
    assert head.down.shape == (4, DIM) and head.up.shape == (DIM, 4)
    torch.testing.assert_close(head(normalize(features, dim=-1)), logits, rtol=0, atol=1e-12)
    assert (logits - linear()(normalize(features, dim=-1))).abs().max() > 0.1


def test_a_ratio_or_alpha_of_0_is_the_zero_shot_classifier():
    embeds = normalize(random(6, DIM, seed=3), dim=-1)
    adapter = ClipAdapterHead.around(linear(), ratio=0.0, seed=5)
    torch.testing.assert_close(adapter(embeds), linear()(embeds), rtol=0, atol=1e-13)
    cache = TipAdapterHead.around(linear(), random(3, 5, DIM), torch.tensor([0, 2, 2, 3, 0]), alpha=0)
    assert torch.equal(cache(embeds), linear()(embeds))


def test_tip_adapter_is_its_closed_form():
    features, labels = random(3, 5, DIM, seed=2), [0, 2, 2, 3, 0]
    head, embeds = head_of("tip_adapter"), normalize(random(6, DIM, seed=3), dim=-1)
    logits = [[sum(w * x for w, x in zip(line, v, strict=True)).item() for line in linear().weight] for v in embeds]
    for row, embed in enumerate(embeds):
        for image, label in enumerate(labels):
            mean = sum(view[image] for view in features) / 3
            cosine = sum(a * b for a, b in zip(mean, embed, strict=True)) / math.sqrt(sum(a * a for a in mean))
            logits[row][label] += 2.5 * math.exp(-3.5 * (1 - cosine))
    torch.testing.assert_close(head(embeds), torch.tensor(logits, dtype=torch.float64), rtol=0, atol=1e-12)
    # A view counts by its norm: the mean is that of the features, as in the authors' code.
    assert not torch.allclose(head.keys, normalize(normalize(features, dim=-1).mean(0), dim=-1))
    assert head.classes.tolist() == labels


@pytest.mark.parametrize("kind", KINDS)
def test_a_temperature_divides_the_logits(kind, tiny_clip):
    head, embeds = head_of(kind), normalize(random(6, DIM, seed=3), dim=-1)
    before, scale = head(embeds).detach(), tiny_clip.logit_scale.exp().item()
    TemperatureScaling(1.7).fold_into(tiny_clip, head)
    torch.testing.assert_close(head(embeds), before / 1.7, rtol=1e-14, atol=1e-14)
    assert tiny_clip.logit_scale.exp().item() == pytest.approx(scale / 1.7, rel=1e-6)
    with pytest.raises(ValueError, match="bfloat16 would round the temperature away"):
        TemperatureScaling(1.7).fold_into(tiny_clip, head.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_the_same_head_again(kind, dtype, tmp_path):
    head = head_of(kind, dtype)
    head.save_pretrained(tmp_path)
    found = load_head(tmp_path)
    assert type(found) is type(head) is type(KINDS[kind].from_pretrained(tmp_path)) and found.class_names == CLASSES
    assert found.state_dict().keys() == head.state_dict().keys() == set(KINDS[kind].parts)
    for name, value in head.state_dict().items():
        assert torch.equal(found.state_dict()[name], value) and found.state_dict()[name].dtype == value.dtype, name
    # Only what the method trains.
    trains = {name for name, parameter in found.named_parameters() if parameter.requires_grad}
    adapter = {"clip_adapter": {"down", "up"}, "tip_adapter": {"keys"}}
    assert trains == adapter.get(kind.removeprefix("multi_label_"), {"weight", "bias"})
    assert found.function == ("sigmoid" if kind.startswith("multi_label") else "softmax")
    other = next(cls for name, cls in KINDS.items() if name not in (kind, "linear"))
    with pytest.raises(ValueError, match=f"is a {type(head).__name__}, not a {other.__name__}"):
        other.from_pretrained(tmp_path)


def test_files_of_before_there_were_kinds_are_read_and_linear_heads_are_written_as_then(tmp_path):
    head = head_of("linear", torch.float32)
    old = {"format": "pt", "class_names": json.dumps(list(CLASSES))}
    save_file({"weight": head.weight.detach(), "bias": head.bias.detach()}, tmp_path / "head.safetensors", old)
    found = load_head(tmp_path)
    assert (
        type(found) is ZeroShotHead and torch.equal(found.weight, head.weight) and torch.equal(found.bias, head.bias)
    )
    head.save_pretrained(tmp_path)
    with safe_open(tmp_path / "head.safetensors", "pt") as file:
        assert file.metadata() == old and set(file.keys()) == {"weight", "bias"}


def _changed(path, metadata=None, **tensors):
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    values = {name: value for name, value in {**load_file(path), **tensors}.items() if value is not None}
    save_file(values, path, {**facts, **(metadata or {})})


@pytest.mark.parametrize(
    ("kind", "metadata", "tensors", "message"),
    [
        ("linear", {"kind": "quantum"}, {}, "kind 'quantum'.*linear, multi_label, clip_adapter, multi_label_clip_adapter, tip_adapter"),
        ("tip_adapter", {"kind": "linear"}, {}, "instead of weight, bias"),
        ("tip_adapter", {}, {"keys": None}, "instead of weight, bias, keys"),
        ("tip_adapter", {}, {"keys": torch.zeros(5, 3)}, r"needs keys \(images, 8\)"),
        ("tip_adapter", {}, {"classes": torch.tensor([0, 1, 2, 3, 4])}, "classes of the cached images are 0 to 4"),
        ("tip_adapter", {}, {"classes": torch.tensor([0, 1, -2, 3, 3])}, "classes of the cached images are -2 to 3"),
        ("tip_adapter", {}, {"classes": torch.zeros(5)}, "classes of the cached images"),
        ("tip_adapter", {}, {"alpha": torch.tensor(math.nan)}, "not finite"),
        ("tip_adapter", {}, {"alpha": torch.tensor(-1.0)}, "alpha of a head must be finite and not negative"),
        ("clip_adapter", {}, {"ratio": torch.tensor(1.5)}, r"ratio of a head must lie in \[0, 1\]"),
        ("clip_adapter", {}, {"ratio": torch.zeros(2)}, "is not a head"),
        ("clip_adapter", {}, {"up": torch.zeros(8, 3)}, r"shapes \(width, 8\)"),
        ("clip_adapter", {"class_names": "["}, {}, "is not a head"),
    ],
)
def test_files_that_are_no_heads_are_refused_in_a_line(kind, metadata, tensors, message, tmp_path):
    path = head_of(kind, torch.float32).save_pretrained(tmp_path)
    _changed(path, metadata, **tensors)
    with pytest.raises(ValueError, match=message) as caught:
        load_head(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("reduction", [0, 3, 16])
def test_a_reduction_that_does_not_divide_is_refused(reduction):
    with pytest.raises(ValueError, match=f"clip_adapter_reduction={reduction}` does not divide the 8 dimensions"):
        ClipAdapterHead.around(linear(), reduction=reduction)
