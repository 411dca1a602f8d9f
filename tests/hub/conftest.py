# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Fixtures of the tests against the loopback Hub. Clients read HF_ENDPOINT when imported, so they run in subprocesses."""

import functools
from pathlib import Path

import pytest
from helpers.forked import ForkServer, run_ranks

from hub.loopback import LoopbackHub, own_port


@pytest.fixture
def hub():
    """An empty Hub with the accounts alice (also of acme; tokens hf_alice and, to read, hf_alice_read) and bob."""
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="session")
def clients(tmp_path_factory):
    """
    Starts processes whose clients know the Hub. HF_ENDPOINT and HF_HOME count when clients are imported, which is once:
    every Hub has the same address, and HF_HOME is a link to the folder of the test.
    """
    home = tmp_path_factory.mktemp("clients") / "hf"
    server = ForkServer(
        {
            **dict.fromkeys(("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE")),
            "HF_ENDPOINT": f"http://127.0.0.1:{own_port()}",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            # A proxy of this machine must not see what is meant for the loopback interface.
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }
    )
    yield server, home
    server.kill()


@pytest.fixture(scope="session")
def run_with_hub_in(clients):
    """As `run_with_hub`, in a folder of its own: `run_with_hub_in(folder, what, hub, ...)`."""

    def run(folder, what, hub, token="hf_alice", check=True, processes=1, **environment):
        server, home = clients
        assert hub is None or hub.url == server.environment["HF_ENDPOINT"]
        (Path(folder) / "hf").mkdir(exist_ok=True)
        home.unlink(missing_ok=True)
        home.symlink_to(Path(folder) / "hf", target_is_directory=True)
        environment |= {} if token is None else {"HF_TOKEN": token}
        arguments = ["-c", what] if isinstance(what, str) else what
        done = run_ranks(processes, *arguments, server=server, cwd=folder, **environment)
        if check and done.returncode:
            raise AssertionError(f"exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}")
        return done

    return run


@pytest.fixture
def run_with_hub(run_with_hub_in, tmp_path):
    """
    `run_with_hub(what, hub, token="hf_alice", check=True, processes=1, **environment)` runs Python with unmodified clients of `hub`.

    `what` is source code, or a list of Python's arguments, such as `["-m", "hub.push_worker", ...]`: the modules of
    tests/ can be imported. The working folder is `tmp_path`, with a cache that is empty at first. `token=None` is an
    anonymous user. Returns the finished process (`stdout`, `stderr`); with `check`, it must have succeeded.
    """
    return functools.partial(run_with_hub_in, tmp_path)
