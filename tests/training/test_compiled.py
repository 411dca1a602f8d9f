# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
A compiled model trains to the weights of one that is not, with adapters, with patches of any grid, and with a mask of its own.

They compile for a minute: `python -m pytest -m slow tests/training/test_compiled.py`.
"""

import copy

import pytest
import torch
from helpers import arguments, rows, stack
from helpers.families import family_batch, family_model
from torch._dynamo.utils import counters

from hf_robustft.training.methods import METHODS

pytestmark = pytest.mark.slow
#: By name the family, what is set, the precision (NaFlex stretches its positions in float32), and the error that rounding may leave.
CASES = {
    "lora": ("clip", {"lora_rank": 2, "lora_alpha": 4.0}, torch.float64, 1e-12),
    "dora": ("clip", {"lora_rank": 2, "lora_dora": True}, torch.float64, 1e-12),
    "naflex": ("siglip2", {}, torch.float32, 1e-6),
    "aimv2": ("aimv2", {}, torch.float64, 1e-10),
}


def train(model, folder, batch, **settings):
    """Two steps of SGD from a copy of the model."""
    fixed = {"num_train_epochs": 1, "optim": "sgd", "learning_rate": 1e-2, "warmup_steps": 0, "log_gradient_shares": 0.0}
    data = {"train_dataset": rows(batch), "data_collator": stack}
    trainer = METHODS["flyp"](copy.deepcopy(model), arguments(folder, **fixed, **settings), **data)
    trainer.train()
    return trainer.model.state_dict()


@pytest.mark.parametrize("name", CASES)
def test_compiled_is_as_it_is_without(name, tmp_path):
    family, settings, dtype, limit = CASES[name]
    if settings:
        pytest.importorskip("peft")
    model, batch = family_model(family).train().to(dtype), family_batch(family, 16, dtype=dtype)
    plain = train(model, tmp_path, batch, **settings)
    counters.clear()
    # Graphs are traced and cut as by inductor, without its compiler, which not every machine has.
    compiled = train(model, tmp_path, batch, torch_compile=True, torch_compile_backend="aot_eager", **settings)
    assert counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    assert compiled.keys() == plain.keys()
    difference = max((compiled[key] - value).abs().max().item() for key, value in plain.items())
    start = model.state_dict()
    # Adapters end at 0 where nothing has trained.
    changes = [value if key not in start else value - start[key] for key, value in plain.items() if key in start or "lora_B" in key]
    moved = max(change.abs().max().item() for change in changes)
    assert moved > 1e3 * limit and difference < limit, f"{difference:.3g}, moved by {moved:.3g}"
