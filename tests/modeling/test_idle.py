# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What no feature depends on: told by names, where a model has no weights yet, and by gradients, before it trains."""

import pytest
import torch
import transformers
from helpers.families import FAMILY_NAMES, IMAGE, TOWER, family_batch, family_model, family_processor
from torch import nn

from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.lora import adapted_maps
from hf_robustft.modeling.trained_parts import TOWERS, parameters_by_part

#: Text towers with attention to other models, to tokens that captions do not have, or to entities: all of it idle here.
OTHERS = {
    "bert": {"is_decoder": True, "add_cross_attention": True},
    "longformer": {"attention_window": 4, "max_position_embeddings": 34, "pad_token_id": 1},
    "luke": {"max_position_embeddings": 34, "pad_token_id": 1, "entity_vocab_size": 9, "entity_emb_size": 8},
}


def other_towers(kind: str) -> transformers.PreTrainedModel:
    """A text tower of `OTHERS`, and an image tower with a token for training by masks, which is idle here."""
    vocabulary = len(family_processor("vision-text-dual-encoder").tokenizer)
    text = {**TOWER, "vocab_size": vocabulary, "max_position_embeddings": 32, **OTHERS[kind]}
    return transformers.VisionTextDualEncoderModel(
        transformers.VisionTextDualEncoderConfig(
            text_config={"model_type": kind, **text}, vision_config={"model_type": "dinov2", **IMAGE}, projection_dim=16
        )
    ).eval()


def by_gradient(model: nn.Module, name: str) -> set[str]:
    """The parameters on which no feature of images or captions depends, scale and bias of similarities aside."""
    encoder, batch = DualEncoder.of(model), family_batch(name, 2)
    scalars = set(map(id, encoder.scalars))
    own = {key: value for key, value in model.named_parameters() if id(value) not in scalars}
    features = encoder.image_features(batch["pixel_values"]).sum() + encoder.text_features(batch["input_ids"]).sum()
    gradients = torch.autograd.grad(features, list(own.values()), allow_unused=True)
    return {key for key, gradient in zip(own, gradients, strict=True) if gradient is None}


@pytest.mark.parametrize("name", [*FAMILY_NAMES, *OTHERS])
def test_names_gradients_and_what_is_frozen_tell_the_same(name):
    family = name if name in FAMILY_NAMES else "vision-text-dual-encoder"
    model = family_model(name) if name in FAMILY_NAMES else other_towers(name)
    encoder, idle = DualEncoder.of(model), by_gradient(model, family)
    names = {id(value): key for key, value in model.named_parameters()}
    by_name = {names[id(value)] for module in encoder.unused_modules() for value in module.parameters()}
    # What lies in no layer has no name that LoRA could take it for.
    layers = {id(value) for tower in encoder.layers() for layer in tower for value in layer.parameters()}
    assert by_name == {key for key, value in model.named_parameters() if key in idle and id(value) in layers}
    assert bool(by_name) == (name in ("blip", *OTHERS))
    assert not idle & {f"{target}.{key}" for target in adapted_maps(model, TOWERS) for key in ("weight", "bias")}
    assert not by_name & {names[id(value)] for part in parameters_by_part(model).values() for value in part}
    # A second Trainer of the model asks again.
    for _ in range(2):
        assert set(encoder.freeze_idle()) == idle
        assert {key for key, value in model.named_parameters() if not value.requires_grad} == idle
