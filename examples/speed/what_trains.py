# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Measures the memory and the step of fine-tuning by what trains: everything, LoRA, the last two layers; at once and in chunks.

    python examples/speed/what_trains.py --output outputs/what_trains.json     # ViT-B/32 size; a quarter of an hour on two cores
    python examples/speed/what_trains.py --model tiny --batch 8 --rounds 1     # tries the script, says nothing of memory
    python examples/speed/what_trains.py --accelerator --model vit-l-14 --batch 512 --chunk 64

Memory is the largest that two steps of a process of its own have taken: its resident set, Python and torch included, or what the
allocator of an accelerator has handed out. Weights are random, captions are those of the speed suite. Times are those of
processes that take turns, one step each, as ratios to the step that trains everything at once.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from memory import GB, in_a_process
from rich.console import Console
from rich.table import Table
from turns import Contender, Steps, interleave, median_ratio, peak_memory

#: What trains, by the words of the table.
CHOICES = {"everything": {}, "LoRA, rank 8": {"lora_rank": 8}, "last 2 layers": {"train_last_layers": 2}}
MB = 1e6


def fine_tuning(turn, accelerator: bool = False, **settings) -> dict[str, int]:
    """
    Steps of a Trainer, and what they needed.

    Args:
        turn: Called before the first step and after each.
        accelerator (`bool`, *optional*, defaults to `False`): Train there, in bfloat16.
        settings: Of `steps.ours`: model, method, batch, and settings of the run.

    Returns:
        `dict[str, int]`: `parameters` that train, of `model_parameters`; bytes of the optimizer's state, and at the peak.
    """
    import torch
    from accelerate import PartialState
    from steps import ours

    where = {}
    if accelerator:
        where = {"device": PartialState().device, "use_cpu": False, "bf16": True, "dataloader_pin_memory": False}
    ours(turn, **settings, **where, log_gradient_shares=0.0)
    trainer = turn.trainer
    states = [value for state in trainer.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return {
        "parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "model_parameters": sum(value.numel() for value in trainer.exported_parameters().values()),
        "optimizer_bytes": sum(value.numel() * value.element_size() for value in states),
        "memory_bytes": torch.accelerator.max_memory_allocated() if accelerator else peak_memory(),
    }


def two_steps(threads: int, settings: dict) -> dict[str, int]:
    """[`fine_tuning`] for two steps: the first makes the optimizer's state, the second works beside it."""
    import torch

    torch.set_num_threads(threads)
    return fine_tuning(Steps(2), **settings)


def measure(options: argparse.Namespace, progress) -> list[dict]:
    """A row for each of `CHOICES`, at once and in chunks; `progress` is told what is going on."""
    rows = []
    common = {"model": options.model, "method": options.method, "batch": options.batch, "accelerator": options.accelerator}
    for chunk in (0, options.chunk):
        for name, chosen in CHOICES.items():
            settings = {**common, **chosen, "contrastive_chunk_size": chunk}
            progress(f"memory: {name}, chunks of {chunk or options.batch}")
            rows.append({"trains": name, "chunk": chunk, "settings": settings})
            rows[-1] |= in_a_process(two_steps, options.threads, settings)
    if options.rounds:
        sides = [Contender(f"{row['trains']}, {row['chunk']}", fine_tuning, row["settings"], options.threads) for row in rows]
        interleave(sides, options.rounds, 1, progress)
        for row, side in zip(rows, sides, strict=True):
            row |= {"seconds": side.seconds, "time_ratio": median_ratio(side, sides[0])}
    return rows


def as_table(rows: list[dict], title: str) -> Table:
    """The `rows` under a `title`."""
    table = Table(title=title, title_justify="left")
    for heading in ("trains", "chunks", "parameters", "of them", "optimizer", "peak memory", "over all", "step over all"):
        table.add_column(heading, justify="left" if heading == "trains" else "right")
    for row in rows:
        share = row["parameters"] / row["model_parameters"]
        cells = [row["trains"], f"{row['chunk'] or '-'}", f"{row['parameters']:,}", f"{share:.2%}"]
        cells += [f"{row['optimizer_bytes'] / MB:,.1f} MB", f"{row['memory_bytes'] / GB:.2f} GB"]
        cells += [f"{row['memory_bytes'] / rows[0]['memory_bytes']:.2f}"]
        table.add_row(*cells, f"{row['time_ratio']:.2f}" if "time_ratio" in row else "")
    return table


def main(arguments: list[str] | None = None) -> list[dict]:
    """Measure, print the table and write the file, if one is asked for; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b-32", choices=["tiny", "vit-b-32", "vit-b-16", "vit-l-14"])
    parser.add_argument("--method", default="flyp", choices=["flyp", "carot", "tracer"])
    parser.add_argument("--batch", type=int, default=32, help="pairs in a step, default 32")
    parser.add_argument("--chunk", type=int, default=0, help="pairs in a chunk; default: a quarter of the batch")
    parser.add_argument("--rounds", type=int, default=3, help="steps of each side that are timed, default 3; 0 times none")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch in a process, default 2")
    parser.add_argument("--accelerator", action="store_true", help="train on the accelerator, in bfloat16")
    parser.add_argument("--output", type=Path, help="file for the rows, as JSON")
    options = parser.parse_args(arguments)
    options.chunk = options.chunk or max(1, options.batch // 4)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # As wide as the table, also in a file.
    console = Console(width=max(Console().width, 120))
    with Console(stderr=True).status("starting") as status:
        rows = measure(options, status.update)
    console.print(as_table(rows, f"{options.method}, {options.model}, batch {options.batch}"))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


if __name__ == "__main__":
    main()
