# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Mixed precision, activation checkpointing, `torch.compile` and SDPA through Trainer's own arguments."""

import copy

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, random_batch, rows, stack, step_logs, tiny_processor

from hf_robustft.training.methods import METHODS

TRAINED = ("carot", "flyp", "ft", "carot+croft")


def train(method, model, tmp_path, *, n=16, **settings):
    """Two steps of SGD from a copy of `model`; the trainer and the terms that its last step saw."""
    batch = random_batch(n, dtype=model.dtype)
    names = {}
    if METHODS[method].needs_labels:
        names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    seen = {}

    class Watched(METHODS[method]):
        def loss_terms(self, features, batch):
            terms = super().loss_terms(features, batch)
            seen.update(terms=terms, embeds=features.image_embeds)
            return terms

    chosen = {"num_train_epochs": 1, "optim": "sgd", "learning_rate": 1e-2, "warmup_steps": 0, **settings}
    trainer = Watched(
        copy.deepcopy(model),
        arguments(tmp_path, **chosen),
        train_dataset=rows(batch),
        data_collator=stack,
        **names,
    )
    trainer.train()
    return trainer, seen


def largest_difference(one, two) -> float:
    pairs = zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


@pytest.mark.parametrize("method", TRAINED)
def test_activation_checkpointing_changes_nothing(method, tiny_clip, tmp_path):
    model = tiny_clip.double()
    plain, _ = train(method, model, tmp_path)
    saved, _ = train(method, model, tmp_path, activation_checkpointing=True)
    assert saved.model.is_activation_checkpointing and not plain.model.is_activation_checkpointing
    assert largest_difference(saved, plain) < 1e-14


def test_activation_checkpointing_runs_the_layers_again(tiny_clip, tmp_path):
    calls = {}

    def counted(name, **settings):
        model = copy.deepcopy(tiny_clip)
        calls[name] = 0

        def count(module, args):
            calls[name] += 1

        model.vision_model.encoder.layers[0].mlp.fc1.register_forward_pre_hook(count)
        train("flyp", model, tmp_path, **settings)

    counted("plain")
    counted("saved", activation_checkpointing=True)
    assert calls["saved"] == 2 * calls["plain"] > 0


@pytest.mark.parametrize("method", TRAINED)
def test_losses_are_float32_under_bfloat16(method, tiny_clip, tmp_path):
    exact, _ = train(method, tiny_clip, tmp_path)
    half, seen = train(method, tiny_clip, tmp_path, bf16=True)
    assert seen["embeds"].dtype == torch.float32
    assert {name: term.dtype for name, term in seen["terms"].items()} == dict.fromkeys(seen["terms"], torch.float32)
    assert all(parameter.dtype == torch.float32 for parameter in half.model.parameters())
    for got, want in zip(step_logs(half), step_logs(exact), strict=True):
        # bfloat16 keeps 8 bits: a relative error of 1/256 in each product.
        assert got["loss"] == pytest.approx(want["loss"], rel=0.05) and got["loss"] != want["loss"]


@pytest.mark.parametrize("method", ("carot", "ft"))
def test_a_compiled_model_trains_to_the_same_weights(method, tiny_clip, tmp_path):
    # Graphs are traced and cut as by inductor, without its compiler, which not every machine has.
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    model = tiny_clip.double()
    plain, _ = train(method, model, tmp_path)
    compiled, _ = train(method, model, tmp_path, **settings)
    assert compiled.args.torch_compile and not plain.args.torch_compile
    assert largest_difference(compiled, plain) < 1e-12
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()


def test_captions_of_a_compiled_model_come_in_multiples_of_eight(tiny_clip, tmp_path):
    def collator(**settings):
        trainer = METHODS["flyp"](
            copy.deepcopy(tiny_clip), arguments(tmp_path, **settings), processing_class=tiny_processor()
        )
        return trainer.data_collator

    examples = [{"pixel_values": torch.zeros(3, 32, 32), "caption": "a cat."}]
    assert collator()(examples)["input_ids"].shape[1] % 8 != 0
    compiled = collator(torch_compile=True, torch_compile_backend="aot_eager")
    assert compiled(examples)["input_ids"].shape[1] % 8 == 0


def test_attention_is_sdpa_unless_asked_otherwise(tiny_clip):
    assert tiny_clip.config._attn_implementation == "sdpa"
