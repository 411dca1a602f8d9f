# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The accelerator's part: images a second and model FLOP utilisation in bfloat16, compiled and not, of CaRot and FLYP.

It runs where Accelerate finds a CUDA device (ROCm's count as such). Utilisation is the arithmetic that the model
prescribes (`cost_model`), over time, over the fastest of a few square matrix products measured in the same run.
Batches lie on the device already: reading images is the data path's own measurement.
"""

from __future__ import annotations

import time

from cost_model import step_flops
from steps import ours
from table import Row
from turns import Contender, interleave, median_ratio
from workload import model_config

#: Pairs in a step, chosen so that two models of the size fit beside each other into 80 GB.
BATCHES = {"vit-b-16": 256, "vit-l-14": 64, "tiny": 8}
#: Captions of a batch are padded to a multiple of 8 for a compiled model.
CAPTION_LENGTH = 24


def on_device(turn, method: str, model: str, batch: int, compiled: bool) -> dict:
    """`ours` in bfloat16 on the accelerator; returns the device's own peak of memory."""
    import torch
    from accelerate import PartialState

    ours(
        turn,
        method,
        model,
        batch,
        device=PartialState().device,
        caption_length=CAPTION_LENGTH,
        use_cpu=False,
        bf16=True,
        torch_compile=compiled,
        dataloader_pin_memory=False,
    )
    return {"device_peak_bytes": torch.accelerator.max_memory_allocated()}


def matmul_ceiling(repeats: int = 30) -> dict[str, float]:
    """Floating-point operations a second of square bfloat16 products, by size; the largest is the ceiling."""
    import torch
    from accelerate import PartialState

    device = PartialState().device
    found = {}
    for size in (4096, 8192, 16384):
        one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        for _ in range(3):
            one @ other
        torch.accelerator.synchronize()
        start = time.perf_counter()
        for _ in range(repeats):
            one @ other
        torch.accelerator.synchronize()
        found[str(size)] = 2 * size**3 * repeats / (time.perf_counter() - start)
    return found


def _row(item: str, what: str, one: Contender, other: Contender, model: str, method: str, ceiling: float) -> Row:
    batch = one.settings["batch"]
    flops = step_flops(model_config(model), batch, CAPTION_LENGTH, teacher=method == "carot")
    utilisation = flops / one.median / ceiling
    memory = one.results[0]["device_peak_bytes"] / 1e9
    return Row(
        item,
        f"{model}, bfloat16, batch {batch}: {what}",
        batch / one.median,
        batch / other.median,
        "images/s",
        # As elsewhere the ratio is one of times: below 1 is faster.
        median_ratio(one, other),
        note=f"A: {utilisation:.0%} of the matmul ceiling, {memory:.1f} GB",
        details={
            "rounds": [list(pair) for pair in zip(one.seconds, other.seconds, strict=True)],
            "flops_per_step": flops,
            "ceiling": ceiling,
            "utilisation": [utilisation, flops / other.median / ceiling],
            "device_peak_bytes": [side.results[0]["device_peak_bytes"] for side in (one, other)],
        },
    )


def measure(options, progress) -> list[Row]:
    """Two rows a model, or one that says why there is none."""
    from accelerate import PartialState

    device = PartialState().device.type
    if device != "cuda":
        return [Row("gpu", "images a second on an accelerator", None, None, "", note="not run: no GPU")]
    from memory import in_a_process

    progress("matmul ceiling")
    speeds = in_a_process(matmul_ceiling)
    ceiling = max(speeds.values())
    rows = [Row("gpu ceiling", "square matrix products, bfloat16", ceiling / 1e12, None, "TFLOP/s", details=speeds)]
    for model in ("tiny",) if options.quick else ("vit-b-16", "vit-l-14"):
        common = {"model": model, "batch": BATCHES[model]}

        def contender(name, method, compiled, common=common):
            settings = {**common, "method": method, "compiled": compiled}
            return Contender(f"{common['model']} {name}", on_device, settings, options.threads)

        eager, compiled = contender("CaRot", "carot", False), contender("CaRot, compiled", "carot", True)
        # The first steps compile, and choose kernels.
        interleave([compiled, eager], 3 * options.rounds, 8, progress)
        rows.append(
            _row(f"gpu {model} compiled", "CaRot compiled, over not", compiled, eager, model, "carot", ceiling)
        )
        carot, flyp = contender("CaRot", "carot", False), contender("FLYP", "flyp", False)
        interleave([carot, flyp], 3 * options.rounds, 8, progress)
        rows.append(_row(f"gpu {model} carot", "CaRot, over FLYP", carot, flyp, model, "carot", ceiling))
    return rows
