# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Starts scripts in one process or several, on this machine and without network."""

import os
import subprocess
import sys

from helpers.forked import ALONE, SECONDS, run_ranks


def launch(command: list, **environment) -> subprocess.CompletedProcess:
    """Run `python <command>`; a run that takes too long fails with what it had written."""
    environment = {**os.environ, **ALONE, **environment}
    command = [sys.executable, *map(str, command)]
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as caught:
        written = caught.stderr or b""
        raise AssertionError(f"no end after {SECONDS} s; stderr ends with {written[-3000:]!r}") from caught


def torchrun(processes: int, script, *arguments, **environment) -> subprocess.CompletedProcess:
    """Run a script in several processes. The agent finds a free port and keeps it: there is no race for one."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, script, *arguments]
    return launch(command, **environment)


def run_in(processes: int, script, *arguments, **environment) -> None:
    """Run a script in `processes` processes; it must succeed."""
    run = run_ranks(processes, script, *arguments, **environment)
    assert run.returncode == 0, run.stderr[-8000:]
