# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Most tests begin with a quick copy of a model: it is what `copy.deepcopy` makes."""

import copy

import torch
from helpers.copies import copied


def test_a_quick_copy_is_a_deep_one(tiny_clip):
    # Tied weights, and a hook that both copies must have for themselves.
    tiny_clip.text_projection.weight = tiny_clip.visual_projection.weight
    tiny_clip.vision_model.requires_grad_(False)
    tiny_clip.visual_projection.register_forward_hook(print)
    quick, deep = copied(tiny_clip), copy.deepcopy(tiny_clip)
    assert quick.text_projection.weight is quick.visual_projection.weight is not tiny_clip.visual_projection.weight
    for (name, one), (other_name, other), (_, first) in zip(quick.named_modules(), deep.named_modules(), tiny_clip.named_modules(), strict=True):
        assert (name, type(one), vars(one).keys(), one.training) == (other_name, type(other), vars(other).keys(), other.training)
        assert not any(getattr(one, table) is getattr(first, table) for table in ("_modules", "_parameters", "_forward_hooks", "_buffers"))
        assert list(one._forward_hooks.values()) == list(other._forward_hooks.values())
    tensors, others, firsts = (dict([*model.named_parameters(), *model.named_buffers()]) for model in (quick, deep, tiny_clip))
    assert tensors.keys() == others.keys()
    for name, value in tensors.items():
        assert torch.equal(value, others[name]) and value.requires_grad == others[name].requires_grad
        assert value.data_ptr() != firsts[name].data_ptr()
    assert quick.config is not tiny_clip.config and quick.config.to_dict() == deep.config.to_dict()
