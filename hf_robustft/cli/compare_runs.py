# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How the runs of a comparison are carried out: how many at once, on what, and what is said before they begin."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors import SafetensorError, safe_open

from ..comparison.runs import rate_text
from ..comparison.schedule import Outcome, Run, Schedule, in_words
from ..data.packaged import CHECKPOINTS, asset_path
from ..modeling.checkpoint_file import local_folder
from .compare_plan import Plan

#: Memory of a process that trains: what it imports, and so many times the weights (gradients, moments, teacher, activations).
_BASE_BYTES, _COPIES = 1.2e9, 10
_BYTES_OF_A_WEIGHT = 4
#: What says which devices of a kind a process sees: as `accelerate launch --gpu_ids` does. Others are one device, as MPS is.
_VISIBLE = {
    **{"cuda": "CUDA_VISIBLE_DEVICES", "xpu": "ZE_AFFINITY_MASK", "npu": "ASCEND_RT_VISIBLE_DEVICES", "mlu": "MLU_VISIBLE_DEVICES"},
    **{"musa": "MUSA_VISIBLE_DEVICES", "sdaa": "SDAA_VISIBLE_DEVICES", "hpu": "HABANA_VISIBLE_MODULES", "neuron": "NEURON_RT_VISIBLE_CORES"},
}


def slots(jobs: int | None, use_cpu: bool = False, weights: int | None = None) -> list[dict[str, str]]:
    """
    The environment of each run that is made at once.

    Args:
        jobs (`int`, *optional*): How many; by default one for each accelerator, or for each core that the memory has room for.
        use_cpu (`bool`, *optional*, defaults to `False`): Whether accelerators are left alone.
        weights (`int`, *optional*): Bytes of the model.

    Returns:
        `list[dict[str, str]]`: `CUDA_VISIBLE_DEVICES` of each, or what other accelerators have in its place, in turn; without any
        `OMP_NUM_THREADS`, unless that is set already.
    """
    devices = [] if use_cpu else _accelerators()
    if devices:
        return [devices[index % len(devices)] for index in range(jobs or len(devices))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _free_memory()
    room = cores if memory is None else max(int(memory // (_BASE_BYTES + _COPIES * (weights or 0))), 1)
    jobs = jobs or min(cores, room)
    threads = os.environ.get("OMP_NUM_THREADS", str(max(cores // jobs, 1)))
    return [{"OMP_NUM_THREADS": threads}] * jobs


def _accelerators() -> list[dict[str, str]]:
    """Of each accelerator the environment of a process that sees it alone. Starts none of them: the runs need their memory."""
    kind = PartialState().device.type
    if kind == "cpu":
        return []
    if kind not in _VISIBLE:
        return [{}]
    count, variable = getattr(torch, kind).device_count(), _VISIBLE[kind]
    visible = [item.strip() for item in os.environ.get(variable, "").split(",") if item.strip()]
    return [{variable: name} for name in (visible or [str(index) for index in range(count)])[:count]]


def _free_memory() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return None


def model_bytes(model: str) -> int | None:
    """Bytes of the weights of a `model` in float32, as a run saves them; `None` of one that is not on this machine."""
    with suppress(OSError, SafetensorError):
        folder = asset_path(model) if model in CHECKPOINTS else local_folder(model)
        total = 0
        for path in folder.glob("*.safetensors") if folder is not None else ():
            with safe_open(path, framework="pt") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
            total += _BYTES_OF_A_WEIGHT * sum(torch.Size(shape).numel() for shape in shapes)
        return total or None
    return None


def disk_bytes(folder: Path, plan: Plan, finished: Mapping[str, float]) -> int | None:
    """Estimate the bytes that the runs of a `plan` in a `folder` which are not `finished` will take: as those that are, or by the weights."""
    sizes = [sum(file.stat().st_size for file in (folder / name).rglob("*") if file.is_file()) for name in finished]
    each = sum(sizes) / len(sizes) if sizes else model_bytes(plan.model)
    return None if each is None else int(each * (len(plan.runs) - len(finished)))


def size_in_words(size: float) -> str:
    """A `size` in bytes for people: "6 MB", "1.4 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(size / 1e6, 1):.0f} MB"


def command_of(run: Run, place: Path) -> list[str]:
    """What makes a `run` in the folder `place`, but for the words that start it."""
    return [*run.arguments, "--output_dir", str(place)]


def announce(plan: Plan, schedule: Schedule, at_once: int) -> list[str]:
    """Return the lines that are said of a `plan` and its `schedule` before the first run, when so many are made `at_once`."""
    finished, all_ = len(schedule.outcome.seconds), len(plan.runs)
    seeds = f"seeds {', '.join(map(str, plan.seeds))}" if len(plan.seeds) > 1 else f"seed {plan.seeds[0]}"
    lines = [f"Note: {note}." for note in plan.notes]
    for method, rates in plan.rates.items():
        lines.append(f"{method}: learning rates {', '.join(map(rate_text, rates))}")
    if finished == all_:
        return [*lines, f"{all_} run{'s' * (all_ > 1)}, all of them finished; {seeds}"]
    left = schedule.left()
    time = "time: known after the first runs" if left is None else f"about {in_words(left)}"
    disk = disk_bytes(schedule.folder, plan, schedule.outcome.seconds)
    room = "disk: known after the first run" if disk is None else f"about {size_in_words(disk)} of disk"
    kept = f", of which {finished} {'is' if finished == 1 else 'are'} finished" if finished else ""
    lines.append(f"{all_} run{'s' * (all_ > 1)}{kept}, {min(at_once, all_ - finished)} at once; {seeds}; {time}; {room}")
    folder = next(path for path in (schedule.folder, *schedule.folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if disk is not None and disk > free:
        lines.append(f"Note: only {size_in_words(free)} are free in {schedule.folder}.")
    return lines


def carry_out(plan: Plan, folder: Path, at_once: Sequence[Mapping[str, str]], dry_run: bool = False) -> Outcome | None:
    """
    Make the runs of a plan that are not finished.

    Args:
        plan ([`Plan`]): What is to be made.
        folder (`Path`): Where the folders of the runs are.
        at_once (`Sequence[Mapping[str, str]]`): Of [`slots`].
        dry_run (`bool`, *optional*, defaults to `False`): Print the commands alone.

    Returns:
        [`Outcome`]: What became of them; `None` after a dry run.

    Raises:
        ValueError: If a folder holds a run of other settings or data.
        OSError: If another comparison is making the same runs.
    """

    def command(run: Run, place: Path) -> list[str]:
        return [sys.executable, "-m", "hf_robustft.cli", "train", *command_of(run, place)]

    terminal = sys.stdout if sys.stdout.isatty() else None
    say = lambda line: print(line, flush=True)  # noqa: E731
    schedule = Schedule(folder, plan.runs, command, at_once, say, terminal)
    if dry_run:
        # Beside the commands, which may be piped to a shell, what was decided, and which folders are left out.
        for note in plan.notes:
            print(f"Note: {note}.", file=sys.stderr)
        for run in schedule.pending:
            say(shlex.join(["hf-robustft", "train", *command_of(run, folder / run.name)]))
        return None
    for line in announce(plan, schedule, len(at_once)):
        say(line)
    return schedule.carry_out()
