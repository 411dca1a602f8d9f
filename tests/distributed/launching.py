# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Starts scripts in one process or several, on this machine and without network."""

import os
import subprocess
import sys

#: Several processes that import torch on a busy machine of two cores take minutes; a hang must still end.
SECONDS = 900


def launch(command: list, **environment) -> subprocess.CompletedProcess:
    """Run `python <command>`; a run that takes too long fails with what it had written."""
    # The name of this machine may not resolve, or to an address of a network that is not there: gloo takes loopback.
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    environment = {**os.environ, **loopback, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
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
    run = (
        launch([script, *arguments], **environment)
        if processes == 1
        else torchrun(processes, script, *arguments, **environment)
    )
    assert run.returncode == 0, run.stderr[-8000:]
