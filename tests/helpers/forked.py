# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Python processes that start in a moment: forked from one that has imported what they need.

Importing torch, Transformers and datasets costs seconds of a core for each process that a test starts. A child is a
process of its own, with its arguments, environment, folder and files for what it prints, and ends as any program does.
What a variable of the environment decides at import (`HF_ENDPOINT`, `HF_HOME`) must be set for the server.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[1]
PRELOADED = (
    *("datasets", "hf_robustft.training.methods", "hf_robustft.deployment.pipeline", "hf_robustft.cli.train", "helpers"),
    # What a measurement imports when it is made.
    *("torchmetrics.functional.classification", "matplotlib.pyplot"),
)

#: Several processes on a busy machine of two cores take minutes; a hang must still end.
SECONDS = 900
#: The name of this machine may not resolve, or to an address of a network that is not there: gloo takes loopback.
ALONE = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | (
    {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
)


class ForkServer:
    """
    A process that has imported `modules` and forks on request.

    Args:
        environment: Of the server, and of its children beside what a request gives; a variable that is `None` is left out.
        modules: To be imported once.
    """

    def __init__(self, environment: Mapping[str, str | None] | None = None, modules: Sequence[str] = PRELOADED):
        paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
        variables = {**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)}
        self.environment = {name: value for name, value in variables.items() if value is not None}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.forked", *modules],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self,
        arguments: Sequence,
        *,
        ranks: Sequence[Mapping[str, str]] = ({},),
        timeout: float,
        cwd: str | Path | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess:
        """
        Run `python <arguments>` (a script, `-m module` or `-c code`) once for each of `ranks`, all at once.

        Returns the first exit status that is not 0 (after which the others are ended, as by torchrun), or 0, with what all
        of them printed.
        """
        arguments = [str(argument) for argument in arguments]
        with tempfile.TemporaryDirectory() as folder:
            files = [(f"{folder}/{rank}.out", f"{folder}/{rank}.err") for rank in range(len(ranks))]
            for file in itertools.chain(*files):
                Path(file).touch()
            request = [
                {
                    "arguments": arguments,
                    "environment": {**self.environment, **environment, **rank},
                    "cwd": str(cwd or os.getcwd()),
                    "files": out_and_err,
                }
                for rank, out_and_err in zip(ranks, files, strict=True)
            ]
            watch = threading.Timer(timeout, self.kill)
            watch.start()
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            watch.cancel()
            out, err = ("".join(Path(pair[kind]).read_text() for pair in files) for kind in (0, 1))
        if not answer:
            raise AssertionError(
                f"no end after {timeout} s, or the server of processes died; stderr ends with {err[-3000:]!r}"
            )
        return subprocess.CompletedProcess([sys.executable, *arguments], json.loads(answer), out, err)

    def kill(self) -> None:
        """End the server and all of its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with self.process:
            pass


@functools.cache
def fork_server() -> ForkServer:
    """The server of processes that need no Hub, started at the first call."""
    server = ForkServer({"HF_HUB_OFFLINE": "1"})
    atexit.register(server.kill)
    return server


def run_ranks(
    processes: int, *arguments, server: ForkServer | None = None, cwd: str | Path | None = None, **environment
) -> subprocess.CompletedProcess:
    """
    Run `python <arguments>` in `processes` processes that find each other as torchrun's do; one process is run alone.

    They are forked from `server`, by default from `fork_server`.
    """
    alone = {**ALONE, **environment}
    if server is None:
        server = fork_server()
    else:
        del alone["HF_HUB_OFFLINE"]
    if processes == 1:
        return server.run(arguments, timeout=SECONDS, cwd=cwd, **alone)
    # Kept here for as long as they run, as torchrun's agent does: there is no race for a port.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "TORCHELASTIC_RUN_ID": "tests"}
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    return server.run(arguments, ranks=ranks, timeout=SECONDS, cwd=cwd, **alone)


def _serve() -> dict:
    """Fork on request for as long as somebody asks; returns only in a child, with what it shall be."""
    gc.collect()
    gc.freeze()
    for line in iter(sys.stdin.readline, ""):
        children = {}
        for child in json.loads(line):
            pid = os.fork()
            if not pid:
                return child
            children[pid] = child
        status = 0
        while children:
            pid, ended = os.wait()
            del children[pid]
            code = os.waitstatus_to_exitcode(ended)
            if code and not status:
                status = code
                for other in children:
                    os.kill(other, signal.SIGKILL)
        print(json.dumps(status), flush=True)
    # Not by an exception: what the server has loaded need not be taken apart.
    os._exit(0)


def _become(child: dict) -> None:
    """Turn this process into what was asked for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(child["environment"])
    os.chdir(child["cwd"])
    for descriptor, file in zip((0, 1, 2), (os.devnull, *child["files"]), strict=True):
        opened = os.open(file, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)
        os.dup2(opened, descriptor)
        os.close(opened)
    kind, *rest = child["arguments"]
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *rest]
        sys.path.insert(0, str(Path(kind).resolve().parent))
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    # As in `tests/conftest.py`.
    os.fsync = lambda descriptor: None
    _become(_serve())
