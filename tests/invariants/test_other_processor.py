# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The emulated processor of `tests/other_processor`: rows depend on how many there are, and nothing else is wrong."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import torch
from torch.nn import functional as F
torch.set_num_threads(1)
torch.manual_seed(0)
for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-14)):
    rows, weight, bias = torch.randn(24, 32, dtype=dtype), torch.randn(48, 32, dtype=dtype), torch.randn(48, dtype=dtype)
    products = {
        "matmul": lambda x: x @ weight.t(),
        "linear": lambda x: F.linear(x, weight, bias),
        "without bias": lambda x: F.linear(x, weight),
        "addmm": lambda x: torch.addmm(bias, x, weight.t(), beta=0.5, alpha=2),
        "bmm": lambda x: torch.bmm(x[None], weight.t()[None])[0],
        "inference": torch.inference_mode()(lambda x: F.linear(x, weight, bias)),
    }
    for name, product in products.items():
        whole, part = product(rows), product(rows[:10])
        assert torch.equal(whole, product(rows)), f"{name}: the same shapes give the same bits"
        assert not torch.equal(whole[:10], part), f"{name}: other shapes give others"
        scale = {"addmm": 2}.get(name, 1) * rows[:10].abs() @ weight.t().abs() + bias.abs()
        assert ((whole[:10] - part).abs() <= limit * scale).all(), f"{name}: up to rounding"
    grown = rows.clone().requires_grad_()
    F.linear(grown, weight, bias).square().sum().backward()
    exact = 2 * (rows.double() @ weight.double().t() + bias.double()) @ weight.double()
    torch.testing.assert_close(grown.grad.double(), exact, rtol=0, atol=30 * limit * exact.abs().max().item())
print("held")
"""


def test_rows_depend_on_how_many_there_are():
    paths = [str(Path(__file__).parents[1] / "other_processor"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0 and ended.stdout == "held\n", ended.stderr[-2000:]
    assert not ended.stderr, "it warns of nothing"
