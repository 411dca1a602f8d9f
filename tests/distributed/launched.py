# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
`accelerate launch` and the processes that it starts, none of which imports torch by itself.

`start` forks the launchers and, beside them, as many workers. What a launcher starts is this file, run as a stand-in: it
writes down the environment that it was given and waits for the worker of its rank, which takes over that environment.
"""

import json
import os
import runpy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PART = "TEST_LAUNCH_PART"


def start(launchers: Sequence[Sequence], processes: int, worker: Path, arguments: Sequence, folder: Path):
    """
    Run `accelerate launch <options>` for each of `launchers`, at once, with `processes` processes in all.

    Args:
        worker: The script that each process runs, with `arguments`.
        folder: Empty, for what the parts tell each other.

    Returns:
        `subprocess.CompletedProcess`: The first exit status that is not 0, and what all of them printed.
    """
    from helpers.forked import ALONE, SECONDS, fork_server

    commands = [list(map(str, [*options, __file__, folder])) for options in launchers]
    parts = [*(f"launcher {number}" for number in range(len(commands))), *(f"process {rank}" for rank in range(processes))]
    job = [folder, json.dumps(commands), worker, *arguments]
    ranks = [{PART: part} for part in parts]
    return fork_server().run([__file__, *job], ranks=ranks, timeout=SECONDS, **ALONE)


def waited_for(path: Path, alive: Callable[[], bool] = lambda: True) -> str:
    while not path.exists():
        if not alive():
            sys.exit(f"nobody will write {path.name}")
        time.sleep(0.02)
    return path.read_text()


def written(path: Path, text: str) -> None:
    path.with_suffix(".part").write_text(text)
    path.with_suffix(".part").rename(path)


def stand_in(folder: Path) -> None:
    rank, parent = os.environ["RANK"], os.getppid()
    written(folder / f"environment-{rank}", json.dumps(dict(os.environ)))
    sys.exit(int(waited_for(folder / f"status-{rank}", lambda: os.getppid() == parent)))


def launcher(options: list[str]) -> None:
    sys.argv = ["accelerate launch", *options]
    runpy.run_module("accelerate.commands.launch", run_name="__main__", alter_sys=True)


def process(rank: str, folder: Path, worker: str, arguments: list[str]) -> None:
    environment = json.loads(waited_for(folder / f"environment-{rank}"))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv, status = [worker, *arguments], 1
    try:
        runpy.run_path(worker, run_name="__main__")
        status = 0
    finally:
        written(folder / f"status-{rank}", str(status))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    part, _, number = os.environ.pop(PART, "stand-in").partition(" ")
    if part == "stand-in":
        stand_in(folder)
    elif part == "launcher":
        launcher(json.loads(sys.argv[2])[int(number)])
    else:
        process(number, folder, sys.argv[3], sys.argv[4:])
