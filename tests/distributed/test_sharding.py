# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""FSDP2 by itself: what two processes must see of spread weights, and what is refused. Training is in test_equal_to_one."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny_config
from launching import run_in
from transformers import CLIPModel

from hf_robustft.modeling.spread_weights import full_tensor, is_sharded, placed_like, whole_copy
from hf_robustft.training import sharding


@pytest.mark.timeout(1000)
def test_spread_weights_are_seen_copied_and_set_whole():
    run_in(2, Path(__file__).with_name("shard_worker.py"))


def test_plain_models_pass_through(tiny_clip):
    weight = tiny_clip.visual_projection.weight
    assert not is_sharded(tiny_clip) and full_tensor(weight) is weight and placed_like(weight, weight) is weight
    copied = whole_copy(tiny_clip)
    assert copied is not tiny_clip and torch.equal(copied.visual_projection.weight, weight)


def test_one_process_has_nobody_to_share_with():
    with pytest.raises(ValueError, match=r"only one runs.*torchrun --nproc_per_node"):
        sharding.shard_model(CLIPModel(tiny_config()), "cpu")
    with pytest.raises(ValueError, match=r"only one runs.*accelerate launch"):
        sharding.check_sharding(SimpleNamespace(), [], True)


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(sharding, "world_size", lambda: 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fp16": True}, "`fp16` does not go together with `fully_shard`.*--bf16"),
        ({"torch_compile": True}, "`torch_compile` does not go"),
        ({"load_best_model_at_end": True}, "`load_best_model_at_end` does not go.*afterwards"),
        ({"contrastive_chunk_size": 8}, "`contrastive_chunk_size` does not go.*DDP"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(two_processes, settings, message):
    sharding.check_sharding(SimpleNamespace(), [], True)
    with pytest.raises(ValueError, match=message):
        sharding.check_sharding(SimpleNamespace(**settings), [], True)


def test_methods_that_train_beside_the_model_are_refused(two_processes):
    with pytest.raises(ValueError, match=r"trains head beside the model; leave --fully_shard away"):
        sharding.check_sharding(SimpleNamespace(), ["head"], True)
    with pytest.raises(ValueError, match=r"freezes the model; leave --fully_shard away"):
        sharding.check_sharding(SimpleNamespace(), [], False)
