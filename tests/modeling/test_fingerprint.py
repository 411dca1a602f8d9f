# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The fingerprint of a model's weights: what changes it and what does not."""

import copy
import hashlib
import json

import pytest
import torch
from torch import nn
from transformers import CLIPModel

from hf_robustft.modeling.tensor_files import weights_fingerprint


def test_by_hand():
    module = nn.Module()
    module.b = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    module.a = nn.Parameter(torch.tensor(3.0))
    digest = hashlib.sha256()
    digest.update(json.dumps(["a", "torch.float32", []]).encode() + b"\n" + bytes([0, 0, 0x40, 0x40]))
    digest.update(json.dumps(["b", "torch.float32", [1, 2]]).encode() + b"\n")
    digest.update(bytes([0, 0, 0x80, 0x3F, 0, 0, 0, 0xC0]))
    assert weights_fingerprint(module) == digest.hexdigest()


def test_one_bit_of_any_tensor_changes_it(tiny_clip):
    base = weights_fingerprint(tiny_clip)
    assert len(base) == 64 and base == weights_fingerprint(tiny_clip)
    for name, value in tiny_clip.state_dict().items():
        flat = value.reshape(-1).view(torch.uint8)
        flat[-1] ^= 1
        assert weights_fingerprint(tiny_clip) != base, name
        flat[-1] ^= 1
    assert weights_fingerprint(tiny_clip) == base


def test_mode_gradient_copy_file_and_wrapper_change_nothing(tiny_clip, tmp_path):
    base = weights_fingerprint(tiny_clip)
    tiny_clip.save_pretrained(tmp_path)
    assert weights_fingerprint(CLIPModel.from_pretrained(tmp_path)) == base
    assert weights_fingerprint(copy.deepcopy(tiny_clip).train().requires_grad_(False)) == base
    assert weights_fingerprint(torch.compile(tiny_clip)) == base
    assert weights_fingerprint(nn.DataParallel(tiny_clip)) == base


def test_memory_layout_changes_nothing():
    module = nn.Linear(3, 5)
    base = weights_fingerprint(module)
    module.weight = nn.Parameter(module.weight.detach().t().contiguous().t())
    assert not module.weight.is_contiguous()
    assert weights_fingerprint(module) == base


def test_name_dtype_and_shape_count():
    def of(name, value):
        module = nn.Module()
        module.register_buffer(name, value)
        return weights_fingerprint(module)

    zeros = [
        of("a", torch.zeros(4)),
        of("b", torch.zeros(4)),
        of("a", torch.zeros(2, 2)),
        of("a", torch.zeros(4, dtype=torch.int32)),
        of("a", torch.zeros(4, dtype=torch.bfloat16)),
        of("a", torch.zeros(4, dtype=torch.float16)),
        of("a", torch.zeros(4, dtype=torch.bool)),
        of("a", torch.zeros(0)),
    ]
    assert len(set(zeros)) == len(zeros)


def test_bfloat16(tiny_clip):
    half = copy.deepcopy(tiny_clip).to(torch.bfloat16)
    assert weights_fingerprint(half) != weights_fingerprint(tiny_clip)
    assert weights_fingerprint(half) == weights_fingerprint(copy.deepcopy(tiny_clip).to(torch.bfloat16))


def test_excluded_tensors_and_modules_do_not_count(tiny_clip):
    exclude = ["logit_scale", "text_model"]
    kept, base = weights_fingerprint(tiny_clip, exclude), weights_fingerprint(tiny_clip)
    assert kept != base
    with torch.no_grad():
        tiny_clip.logit_scale.add_(1.0)
        tiny_clip.text_model.final_layer_norm.bias.add_(1.0)
    assert weights_fingerprint(tiny_clip, exclude) == kept
    assert weights_fingerprint(tiny_clip, "logit_scale") == weights_fingerprint(tiny_clip, ["logit_scale"])
    with torch.no_grad():
        tiny_clip.text_projection.weight[0, 0] += 1.0  # not in `text_model`
    assert weights_fingerprint(tiny_clip, exclude) != kept


@pytest.mark.parametrize("name", ["logit_scales", "text", "text_model.", ""])
def test_an_unknown_excluded_name_is_an_error(tiny_clip, name):
    with pytest.raises(ValueError, match="no weights named"):
        weights_fingerprint(tiny_clip, [name])


def test_nothing_to_take_a_fingerprint_of():
    with pytest.raises(ValueError, match="No weights are left"):
        weights_fingerprint(nn.ReLU())
    with pytest.raises(ValueError, match="No weights are left"):
        weights_fingerprint(nn.Linear(2, 2), ["weight", "bias"])
    with pytest.raises(ValueError, match="not a tensor with data"):
        weights_fingerprint(nn.Linear(2, 2, device="meta"))
