# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""PEFT that a user has put on the linear layers of a model, projections among them, takes part in all features."""

import pytest
import torch
import torch.nn.functional as F
from helpers.families import FAMILY_NAMES, family_batch, family_model, plain_images

from hf_robustft.modeling.dual_encoder import PROJECTIONS, DualEncoder
from hf_robustft.modeling.features import encode

peft = pytest.importorskip("peft")


def linear_maps(model) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


@pytest.mark.parametrize("name", FAMILY_NAMES)
@pytest.mark.parametrize("targets", ["all-linear", "names"])
def test_features_are_those_of_the_wrapped_model(name, targets):
    model, plain = family_model(name), DualEncoder.of(family_model(name))
    maps = linear_maps(model)
    config = peft.LoraConfig(r=2, target_modules="all-linear" if targets == "all-linear" else maps, init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wrapped = peft.get_peft_model(model, config).eval()
    encoder, batch = DualEncoder.of(model), family_batch(name, 4)
    read = {**plain_images(name, 4), **encoder.caption_rules.inputs(batch["input_ids"], torch.float32)}
    with torch.no_grad():
        images, texts = encoder.forward(batch["pixel_values"], batch["input_ids"])
        own = wrapped(**read).logits_per_image
        before = plain.forward(batch["pixel_values"], batch["input_ids"])
        found = encode(model, batch)
        alone = encoder.image_features(batch["pixel_values"]), encoder.text_features(batch["input_ids"])
    logits = encoder.scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).t()
    logits = logits if encoder.logit_bias is None else logits + encoder.logit_bias
    torch.testing.assert_close(logits, own, rtol=1e-5, atol=1e-5)
    for one, two, start in zip((images, texts), alone, before, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
        assert (one - start).abs().max() > 1e-3
    torch.testing.assert_close(found.image_features, images, rtol=1e-5, atol=1e-5)
    assert encoder.embed_dim == images.shape[1] == plain.embed_dim
    if targets == "names" and not plain.pools_images:
        assert not any(isinstance(getattr(model, side), torch.nn.Linear) for side in PROJECTIONS), "the projections are wrapped too"
