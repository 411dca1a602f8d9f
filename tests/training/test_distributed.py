# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Gathers, ranks and refusals without a process group; with one, see tests/distributed."""

from types import SimpleNamespace

import pytest
import torch

from hf_robustft.training import distributed


def test_one_process_needs_no_group():
    rows = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather_rows(rows) is rows
    assert (distributed.rank(), distributed.world_size(), distributed.is_distributed()) == (0, 1, False)
    layer = torch.nn.Linear(2, 2)
    before = layer.weight.clone()
    distributed.same_start(layer)
    assert torch.equal(layer.weight, before)


def test_gradients_stay_as_they_are_in_one_process():
    weight = torch.nn.Parameter(torch.ones(2))
    distributed.mean_gradient_over_processes(weight)
    (3 * weight).sum().backward()
    assert weight.grad.tolist() == [3.0, 3.0]


def test_a_launcher_that_promised_more_processes_is_refused(monkeypatch):
    for name in ("WORLD_SIZE", "ACCELERATE_USE_CPU", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    distributed.check_world_size(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"started 2 process.*would use 1.*torchrun.*--use_cpu"):
        distributed.check_world_size(1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.check_world_size(1)
    with pytest.raises(ValueError, match=r"would use 2"):
        distributed.check_world_size(2)
    monkeypatch.delenv("WORLD_SIZE")
    for name, value in {"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}.items():
        distributed.check_world_size(1)
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"accelerate launch.*several processes.*torchrun"):
        distributed.check_world_size(1)


@pytest.fixture
def clean(monkeypatch):
    for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def settings(device: str = "cpu", **values) -> SimpleNamespace:
    defaults = {
        "bound_logit_scale": False,
        "per_device_train_batch_size": 4,
        "dataloader_drop_last": False,
        "origins": {},
        "optim": "adamw_torch",
    }
    return SimpleNamespace(device=torch.device(device), **{**defaults, **values})


def zero(stage: int) -> SimpleNamespace:
    return SimpleNamespace(config={"zero_optimization": {"stage": stage}})


def test_plain_launchers_pass(clean):
    distributed.check_launcher(settings())
    distributed.check_launcher(settings(), ["head"])
    clean.setenv("ACCELERATE_USE_FSDP", "false")
    distributed.check_launcher(settings("cuda", accelerator_config=SimpleNamespace(split_batches=False)))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_accelerates_fsdp_plugin_is_refused(clean, device):
    message = r"FSDP plugin cannot spread.*on CPU Accelerate ignores.*--fully_shard"
    with pytest.raises(ValueError, match=message):
        distributed.check_launcher(settings(device, fsdp=True))
    clean.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=message):
        distributed.check_launcher(settings(device))


def test_deepspeed_is_refused_where_it_is_not_exact(clean):
    distributed.check_launcher(settings("cuda", hf_deepspeed_config=zero(2)))
    distributed.check_launcher(settings("cuda", hf_deepspeed_config=zero(1)))
    with pytest.raises(ValueError, match=r"ZeRO-3 .*without gradient.*--fully_shard.*ZeRO-2"):
        distributed.check_launcher(settings("cuda", hf_deepspeed_config=zero(3)))
    with pytest.raises(ValueError, match=r"also trains adapters, head; .*without DeepSpeed"):
        distributed.check_launcher(settings("cuda", hf_deepspeed_config=zero(2)), ["head", "adapters"])
    with pytest.raises(ValueError, match=r"bound on the logit scale.*--bound_logit_scale false"):
        distributed.check_launcher(settings("cuda", hf_deepspeed_config=zero(2), bound_logit_scale=True))
    with pytest.raises(ValueError, match=r"DeepSpeed was asked for on CPU.*--use_cpu"):
        distributed.check_launcher(settings("cpu", hf_deepspeed_config=zero(2)))


def test_deepspeed_of_accelerates_launcher_is_seen(clean):
    clean.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    distributed.check_launcher(settings("cuda"))
    with pytest.raises(ValueError, match="DeepSpeed was asked for on CPU"):
        distributed.check_launcher(settings("cpu"))
    clean.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(ValueError, match="ZeRO-3"):
        distributed.check_launcher(settings("cuda"))


def test_split_batches_is_refused(clean):
    clean.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"4 // 2 = 2"):
        distributed.check_launcher(settings(accelerator_config=SimpleNamespace(split_batches=True)))


def test_last_batches_that_cannot_be_shared_are_refused(monkeypatch):
    distributed.check_global_batches(23, settings())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    distributed.check_global_batches(24, settings())
    distributed.check_global_batches(23, settings(dataloader_drop_last=True))
    with pytest.raises(
        ValueError, match=r"23 training examples leave a last batch of 7 for 2 .*--dataloader_drop_last"
    ):
        distributed.check_global_batches(23, settings())


@pytest.mark.parametrize("name", ["pixel_values", "image_features", "labels"])
def test_a_local_batch_of_another_size_is_refused_without_talking(monkeypatch, name):
    batch = {name: torch.zeros(3, 2), "input_ids": torch.zeros(4, 5)}
    distributed.check_local_batch(batch, settings())
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    with pytest.raises(ValueError, match=rf"Process 1 got 3 rows of `{name}` where every process must have 4"):
        distributed.check_local_batch(batch, settings())
    distributed.check_local_batch({name: torch.zeros(4, 2)}, settings())


def test_several_gpus_in_one_process_are_refused():
    with pytest.raises(ValueError, match="2 GPUs in one process.*accelerate launch --num_processes"):
        distributed.check_launcher(SimpleNamespace(n_gpu=2))
