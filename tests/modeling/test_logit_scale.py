# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A logit scale that no similarity can be multiplied by is refused by name wherever a model comes in; others are taken."""

import re

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, tiny_processor

from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.checkpoint import load_dual_encoder
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.features import encode_images
from hf_robustft.modeling.zero_shot import ZeroShotHead
from hf_robustft.training.methods import FLYPTrainer


@pytest.mark.parametrize("stored", [100.0, 1000.0, -110.0, -1e6, float("nan"), float("inf")])
def test_a_scale_that_is_no_logarithm_is_refused(tiny_clip, tmp_path, stored):
    """Such as 100 itself: in float32 its exponential is infinite."""
    with torch.no_grad():
        tiny_clip.logit_scale.fill_(stored)
    tiny_clip.save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    message = f"logit_scale of the model is {re.escape(f'{stored:g}')}.*4.6 for a scale of 100"
    of_folder = message if abs(stored) < float("inf") else "weights of .* are not finite .*logit_scale"
    for enters, expected in (
        (lambda: load_dual_encoder(tmp_path), of_folder),
        (lambda: FLYPTrainer(tiny_clip, arguments(tmp_path)), message),
        (lambda: ZeroShotHead.from_model(tiny_clip, tiny_processor(), CLASSES, TEMPLATES), message),
    ):
        with pytest.raises(ValueError, match=expected) as caught:
            enters()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("temperature", [1e-300, 1e300])
def test_a_temperature_that_no_scale_can_take_in_is_refused_unchanged(tiny_clip, temperature):
    before = tiny_clip.logit_scale.item()
    with pytest.raises(ValueError, match="such a model answers nothing"):
        TemperatureScaling(temperature).fold_into(tiny_clip)
    assert tiny_clip.logit_scale.item() == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("stored", [-3.0, 0.0, 4.625, 11.5])
def test_logits_at_any_scale_are_those_of_float64(tiny_clip, stored, dtype):
    """exp(11.5) = 98,716 lies beyond float16: cosines are scaled in float32, whatever the weights are in."""
    model = tiny_clip.to(dtype)
    with torch.no_grad():
        model.logit_scale.fill_(stored)
        scale = DualEncoder.of(model).check_logit_scale()
        assert scale == pytest.approx(torch.tensor(stored, dtype=torch.float64).exp().item(), rel=1e-12)
        head = ZeroShotHead.from_model(model, tiny_processor(), CLASSES, TEMPLATES)
        embeds = encode_images(model, torch.randn(5, 3, 32, 32).to(dtype))
        logits = head(embeds)
        assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        want = embeds.double() @ torch.nn.functional.normalize(head.weight.double(), dim=1).t() * scale
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.double(), want, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize("size", [3e4, 1e-4])
def test_features_whose_squares_float16_does_not_hold_have_unit_norm(tiny_clip, size):
    """Their norm lies beyond 65,504, or their squares below 6e-8."""
    model = tiny_clip.half()
    model.get_image_features = lambda pixel_values: type("Output", (), {"pooler_output": torch.full((2, 16), size).half()})
    embeds = encode_images(model, torch.zeros(2, 3, 32, 32))
    torch.testing.assert_close(embeds, torch.full((2, 16), 0.25), rtol=1e-6, atol=0)


@pytest.mark.parametrize("features", [torch.zeros(2, 16), torch.full((2, 16), 1e25), torch.full((2, 16), float("inf"))])
def test_features_without_a_direction_are_not_a_number(tiny_clip, features):
    """Not a vector of zeros, of which every class would be equally near, and which no check would find."""
    tiny_clip.get_image_features = lambda pixel_values: type("Output", (), {"pooler_output": features})
    assert encode_images(tiny_clip, torch.zeros(2, 3, 32, 32)).isnan().all()
