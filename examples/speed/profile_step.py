# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Where the time of a CaRot step goes: the bare loop of `steps.py` under torch's profiler, beside the cost model.

    python examples/speed/profile_step.py                 # ViT-B/32, batch 32, a minute
"""

from __future__ import annotations

import argparse

import torch
from cost_model import parts
from steps import bare
from turns import Steps
from workload import model_config

#: Part of the loop -> parts of the cost model.
OPERATIONS = {
    "student, forward": (1 / 3, ("vision tower, forward and backward", "text tower, forward and backward")),
    "teacher, forward": (1, ("teacher's vision tower", "teacher's text tower")),
    "backward": (2 / 3, ("vision tower, forward and backward", "text tower, forward and backward")),
}
PARTS = ("student, forward", "teacher, forward", "losses, forward", "backward", "gradient clipping", "AdamW", "EMA")


class _Profiled(Steps):
    # The first steps warm up: they are neither counted nor profiled.
    def __init__(self, warm: int, count: int, profiler: torch.profiler.profile):
        super().__init__(warm + count)
        self.warm, self.profiler = warm, profiler

    def __call__(self) -> bool:
        going = super().__call__()
        if len(self.seconds) == self.warm and going:
            self.profiler.start()
        if not going:
            self.profiler.stop()
        return going


def seconds_of_parts(model: str, batch: int, steps: int) -> tuple[dict[str, float], list]:
    """Seconds of each part of a step, on average, and the profiler's operators."""
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    bare(_Profiled(3, steps, profiler), model, batch)
    averages = profiler.key_averages()
    return {event.key: event.cpu_time_total / 1e6 / steps for event in averages if event.key in PARTS}, averages


def main(arguments: list[str] | None = None) -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit-b-32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    seconds, averages = seconds_of_parts(options.model, options.batch, options.steps)
    costs, total = parts(model_config(options.model), options.batch), sum(seconds.values())
    print("| part | s | share | GFLOP/s |\n|---|---:|---:|---:|")
    for part in PARTS:
        share, names = OPERATIONS.get(part, (0, ()))
        speed = share * sum(costs[name][0] for name in names) / 1e9 / seconds[part]
        print(f"| {part} | {seconds[part]:.3f} | {seconds[part] / total:.1%} | {f'{speed:.0f}' if speed else ''} |")
    print(f"| all | {total:.2f} | 100% | |\n")
    print(averages.table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=50))


if __name__ == "__main__":
    main()
