# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Fixtures of the tests against the loopback Hub. Clients read HF_ENDPOINT when imported, so they run in subprocesses."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hub.loopback import LoopbackHub

TESTS = Path(__file__).resolve().parents[1]
#: Two cores that are busy with other things can take minutes for what takes seconds.
SECONDS = 900


@pytest.fixture
def hub():
    """An empty Hub with the accounts alice (also of acme; tokens hf_alice and, to read, hf_alice_read) and bob."""
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="session")
def run_with_hub_in():
    """As `run_with_hub`, in a folder of one's own: `run_with_hub_in(folder, what, hub, ...)`."""

    def run(folder, what, hub, token="hf_alice", check=True, **environment):
        arguments = ["-c", what] if isinstance(what, str) else list(map(str, what))
        left_out = {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE"}
        settings = {
            **{name: value for name, value in os.environ.items() if name not in left_out},
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(Path(folder) / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            # A proxy of this machine must not see what is meant for the loopback interface.
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]),
            **({} if token is None else {"HF_TOKEN": token}),
            **environment,
        }
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=settings, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
        if check and done.returncode:
            raise AssertionError(f"exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
        return done

    return run


@pytest.fixture
def run_with_hub(run_with_hub_in, tmp_path):
    """
    `run_with_hub(what, hub, token="hf_alice", check=True, **environment)` runs Python with unmodified clients of `hub`.

    `what` is source code, or a list of Python's arguments, such as `["-m", "hub.push_worker", ...]`: the modules of
    tests/ can be imported. The working folder is `tmp_path`, with a cache that is empty at first. `token=None` is an
    anonymous user. Returns the finished process (`stdout`, `stderr`); with `check`, it must have succeeded.
    """
    return functools.partial(run_with_hub_in, tmp_path)
