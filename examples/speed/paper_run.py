# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The paper's ImageNet run on 1, 8 and 64 accelerators, computed from the cost model: on paper, nothing of it measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cost_model import parameter_count, step_flops, towers
from workload import model_config

#: The run: ViT-B/16, 10 epochs of 1,281,167 images in batches of 512.
MODEL, IMAGES, EPOCHS, BATCH = "vit-b-16", 1_281_167, 10, 512
#: Tokens of the longest of 512 captions.
LONGEST = 17
#: Mean size of an image file of ImageNet.
FILE_BYTES = 110e3


@dataclass(frozen=True)
class Machines:
    """
    What the run is supposed to find: accelerators like an H100 SXM, eight to a machine.

    Attributes:
        peak: Operations a second of dense bfloat16 products, as the data sheet has it.
        share: What a transformer of this width reaches of it, an assumption.
        launches: Kernels of a step, counted from the layers: about 23 in a layer's forward pass under autocast, for
            student forward, student backward (twice as many) and teacher.
        launch: Seconds to start one.
        inside, outside: Bytes a second of an accelerator to its neighbours in the machine, and to other machines.
        decoded: Images a second that one core reads, decodes, crops and scales (measured on the CPU of README.md).
        memory: Bytes of an accelerator.
    """

    peak: float = 989e12
    share: float = 0.40
    launches: int = 24 * 23 * 4
    launch: float = 5e-6
    inside: float = 300e9
    outside: float = 50e9
    decoded: float = 420.0
    memory: float = 80e9


def operations_of_a_step(model: str, method: str) -> float:
    """
    Operations of a step of the global batch.

    Args:
        model (`str`): Name of a size in `workload.SIZES`.
        method (`str`): `"carot"`, `"tracer"` (a teacher encodes the batch too), `"flyp"` (both towers), `"ft"`, `"wise_ft"` (the
            vision tower alone) or `"croft"` (no tower has a backward pass, and captions are encoded once).
    """
    config = model_config(model)
    vision, _ = towers(config, LONGEST)
    if method in ("ft", "wise_ft"):
        return BATCH * vision.training_flops
    if method == "croft":
        return BATCH * vision.forward_flops
    return step_flops(config, BATCH, LONGEST, teacher=method in ("carot", "tracer"))


def seconds_of_a_step(
    accelerators: int, machines: Machines, model: str = MODEL, method: str = "carot"
) -> dict[str, float]:
    """
    Seconds of each stage of a step of the global batch.

    Args:
        accelerators (`int`): In all, eight to a machine.
        machines ([`Machines`]): Their speeds.
        model (`str`, *optional*), method (`str`, *optional*): As of [`operations_of_a_step`].

    Returns:
        `dict`: `arithmetic`, `launches` (the floor that starting kernels sets, however small the batch), `gradients`
        (their sum over all accelerators, float32), `cores` (processor cores an accelerator with which decoding takes
        as long as the accelerators do), `step` (the longer of the first two, plus the sums that nothing hides).
    """
    config = model_config(model)
    local, nodes = min(accelerators, 8), math.ceil(accelerators / 8)
    arithmetic = operations_of_a_step(model, method) / accelerators / (machines.peak * machines.share)
    size = 4 * parameter_count(config)
    # Within each machine first, then each accelerator its share with its like in the other machines.
    gradients = 2 * (local - 1) / local * size / machines.inside
    gradients += 2 * (nodes - 1) / nodes * size / local / machines.outside
    launches = machines.launches * machines.launch
    # A backward pass of two thirds of the step hides the sums, but for the last of about 25 pieces.
    busy = max(arithmetic, launches)
    step = busy + max(gradients - busy / 2, gradients / 25)
    cores = BATCH / step / machines.decoded / accelerators
    return {"arithmetic": arithmetic, "launches": launches, "gradients": gradients, "step": step, "cores": cores}


def paper_run(machines: Machines | None = None) -> str:
    """The run on 1, 8 and 64 accelerators as a Markdown table, with the facts that it was computed from."""
    machines = machines or Machines()
    config = model_config(MODEL)
    vision, text = towers(config, LONGEST)
    steps = math.ceil(IMAGES / BATCH) * EPOCHS
    an_image = step_flops(config, BATCH, LONGEST) / BATCH
    lines = [
        f"{MODEL}: {an_image / 1e9:.0f} GFLOP an image and step, {steps:,} steps of {BATCH}, "
        f"{an_image * BATCH * steps / 1e18:.2f} EFLOP; {parameter_count(config) / 1e6:.0f} million weights, "
        f"{4 * parameter_count(config) / 1e6:.0f} MB of gradients.",
        f"Kept for the backward pass in bfloat16: {(vision.kept_bytes(1, 2) + text.kept_bytes(1, 2)) / 1e6:.0f} MB a pair, "
        f"{(vision.kept_bytes(BATCH, 2) + text.kept_bytes(BATCH, 2)) / 1e9:.0f} GB for {BATCH} on one accelerator.",
        "",
        "| accelerators | pairs each | arithmetic | kernel launches | gradient sums | step | images/s | 10 epochs | "
        "cores each to keep up | read |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for accelerators in (1, 8, 64):
        stage = seconds_of_a_step(accelerators, machines)
        rate = BATCH / stage["step"]
        milliseconds = [f"{stage[name] * 1e3:.1f} ms" for name in ("arithmetic", "launches", "gradients", "step")]
        hours = stage["step"] * steps / 3600
        lines.append(
            f"| {accelerators} | {BATCH // accelerators} | {' | '.join(milliseconds)} | {rate:,.0f} | {hours:.2f} h | "
            f"{stage['cores']:.1f} | {rate * FILE_BYTES / 1e9:.2f} GB/s |"
        )
    return "\n".join(lines)


def recipe_hours(machines: Machines | None = None) -> str:
    """Hours of arithmetic of the ImageNet recipes on 1 and 8 accelerators as a Markdown table."""
    machines = machines or Machines()
    steps = math.ceil(IMAGES / BATCH) * EPOCHS
    models = {"vit-b-32": "ViT-B/32", "vit-b-16": "ViT-B/16", "vit-l-14": "ViT-L/14"}
    lines = ["| recipe | " + " | ".join(models.values()) + " |", "|---|" + "---:|" * len(models)]
    for names, method in (("carot, tracer", "carot"), ("flyp", "flyp"), ("ft, wise_ft", "ft")):
        cells = []
        for model in models:
            hours = [seconds_of_a_step(count, machines, model, method)["step"] * steps / 3600 for count in (1, 8)]
            cells.append(f"{hours[0]:.1f} h / {hours[1]:.2f} h")
        lines.append(f"| {names} | {' | '.join(cells)} |")
    return "\n".join(lines)
