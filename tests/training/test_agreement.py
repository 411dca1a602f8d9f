# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What processes compare of their weights; tests/distributed lets them differ."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_robustft.training.agreement import _checksum


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_the_sum_of_the_bits_tells_any_weight_from_another(dtype):
    for shape in ((), (1,), (3, 5), (0, 4)):
        value = torch.ones(shape).to(dtype)
        own = _checksum(value)
        assert own.shape == () and own.dtype == torch.int64 and own == _checksum(value.clone())
        if value.numel():
            other = value.clone()
            other.view(-1)[-1] = 0
            assert own != _checksum(other)
    for value in (torch.arange(6.0).view(2, 3).t(), torch.arange(3.0).expand(2, 3)):
        assert _checksum(value) == _checksum(value.contiguous())


def test_no_copy_of_a_large_tensor_is_made_to_sum_it():
    # As whole numbers of 64 bits, which torch makes of what it sums, an embedding of 1 GB would take 2 GB more.
    class Sums(TorchDispatchMode):
        sizes: list[int] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.sizes += [args[0].numel()] if func is torch.ops.aten.sum.default else []
            return func(*args, **(kwargs or {}))

    value = torch.ones(2**24 + 3, dtype=torch.bfloat16)
    with Sums() as seen:
        found = _checksum(value)
    assert seen.sizes and max(seen.sizes) <= 2**22
    assert found == value.view(torch.int16).sum(dtype=torch.int64)
