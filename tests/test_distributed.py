# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Gathers and ranks without a process group; with one, see tests/distributed."""

import pytest
import torch

from hf_robustft.training import distributed


def test_one_process_needs_no_group():
    rows = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather_rows(rows) is rows
    assert (distributed.rank(), distributed.world_size(), distributed.is_distributed()) == (0, 1, False)


def test_gradients_stay_as_they_are_in_one_process():
    weight = torch.nn.Parameter(torch.ones(2))
    distributed.mean_gradient_over_processes(weight)
    (3 * weight).sum().backward()
    assert weight.grad.tolist() == [3.0, 3.0]


def test_a_launcher_that_promised_more_processes_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.check_world_size(1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"started 2 process.*would use 1.*torchrun.*--use_cpu"):
        distributed.check_world_size(1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.check_world_size(1)
    with pytest.raises(ValueError, match=r"would use 2"):
        distributed.check_world_size(2)
