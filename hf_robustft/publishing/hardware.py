# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The machine that numbers were measured on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def describe_hardware(device: torch.device | str = "cpu", processes: int = 1) -> str:
    """
    Name the processor or accelerator, without the name of the host.

    Args:
        device (`torch.device`, *optional*, defaults to the CPU): Where the work ran.
        processes (`int`, *optional*, defaults to 1): Processes that shared it.

    Returns:
        `str`: For example `"Intel(R) Xeon(R) Processor, 2 cores, 1 process of 2 threads"`.
    """
    device = torch.device(device)
    count = "1 process" if processes == 1 else f"{processes} processes"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {count}"
    threads = torch.get_num_threads()
    return f"{_processor()}, {os.cpu_count()} cores, {count} of {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
