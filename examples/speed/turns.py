# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Takes turns: each contender is a process (or several) of its own, which works while the others sleep.

A contender is a function `contender(turn, **settings)` that calls `turn()` before its first step and after every step,
and ends when it gets `False`. What lies between two calls is timed, so a Trainer is timed with all that it does in a
step: reading the batch, callbacks, schedule and log included.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import socket
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

#: For the C library's allocator: keep what is freed. By default it hands memory back and takes it again at a whim of its
#: own, which adds from 0.1 to 1 s to a step of some seconds, and differently in each; both sides are spared it.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**36), "MALLOC_MMAP_MAX_": "0"}

#: Seconds that a contender may need to start, or for one step; what takes longer hangs.
PATIENCE = 900


class Turn:
    """The contender's end of the line. `turn.info` is sent along when it is ready: numbers of its preparation."""

    def __init__(self, line: Connection):
        self.line, self.started, self.info = line, None, {}

    def __call__(self) -> bool:
        now = time.perf_counter()
        self.line.send(("ready", self.info) if self.started is None else ("step", now - self.started))
        going = self.line.recv()
        self.started = time.perf_counter()
        return going


class Steps:
    """A turn for a contender in this process: `True` so many times; the times of the steps are in `seconds`."""

    def __init__(self, count: int):
        self.left, self.seconds, self.started, self.info = count, [], None, {}

    def __call__(self) -> bool:
        now = time.perf_counter()
        if self.started is not None:
            self.seconds.append(now - self.started)
        self.left -= 1
        self.started = time.perf_counter()
        return self.left >= 0


def peak_memory(whose: int = resource.RUSAGE_SELF) -> int:
    """Bytes of this process's largest resident set so far, or with `resource.RUSAGE_CHILDREN` of the largest child that has ended."""
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(whose).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _work(line: Connection, contender: Callable, threads: int | None, environment: dict, settings: dict) -> None:
    os.environ.update(environment)
    try:
        if threads is not None:
            # Where these are unset Accelerate gives every process of a group all cores.
            os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
            import torch

            torch.set_num_threads(threads)
        result = contender(Turn(line), **settings)
        line.send(("end", {"peak_bytes": peak_memory(), **(result or {})}))
    except Exception:
        # Raised again, with this text, in the process that waits for it.
        line.send(("error", traceback.format_exc()))


@dataclass
class Contender:
    """
    One side of a comparison.

    Args:
        name (`str`): As the table shows it.
        function: The contender, importable by its module.
        settings (`dict`): Its keyword arguments.
        threads (`int` or `None`): Threads of torch in each process; `None` for a function without torch.
        processes (`int`, *optional*, defaults to 1): More than one form a group of torch.distributed, each calling
            `function`; a step lasts as long as the slowest of them.
        children (`bool`, *optional*, defaults to `False`): Whether the function starts processes itself, such as the workers of
            a loader.

    Attributes:
        seconds: Of each step, after [`interleave`].
        info (`dict`): What the function put into `turn.info` of the first process.
        results: What the function returned (a dict, or nothing) in each process, with `peak_bytes`, its largest resident
            set.
    """

    name: str
    function: Callable
    settings: dict
    threads: int | None
    processes: int = 1
    children: bool = False
    seconds: list[float] = field(default_factory=list)
    info: dict = field(default_factory=dict)
    results: list[dict] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def peak(self) -> int:
        """Bytes of the largest resident sets of all processes together."""
        return sum(result["peak_bytes"] for result in self.results)

    def start(self) -> None:
        """Start the processes, and wait until all are ready for their first step."""
        context = multiprocessing.get_context("spawn")
        self._workers = []
        address = _group_address() if self.processes > 1 else {}
        for rank in range(self.processes):
            here, there = context.Pipe()
            environment = {}
            if address:
                ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.processes}
                ranks["LOCAL_WORLD_SIZE"] = self.processes
                environment = {**address, **{name: str(value) for name, value in ranks.items()}}
            work = (there, self.function, self.threads, environment, self.settings)
            # A daemon may have no children; what is none ends too when this process does, by the end of its line.
            worker = context.Process(target=_work, args=work, daemon=not self.children)
            with _in_environment(ALLOCATOR):
                worker.start()
            there.close()
            self._workers.append((worker, here))
        self.info = [self._answer(line, "ready") for _, line in self._workers][0]

    def step(self) -> float:
        """Let it do one step; returns the seconds that it took."""
        for _, line in self._workers:
            line.send(True)
        return max(self._answer(line, "step") for _, line in self._workers)

    def stop(self) -> None:
        """End its processes."""
        for _, line in self._workers:
            line.send(False)
        self.results = [self._answer(line, "end") for _, line in self._workers]
        for worker, _ in self._workers:
            worker.join()

    def kill(self) -> None:
        """End its processes at once, whatever they do."""
        for worker, _ in getattr(self, "_workers", []):
            if worker.is_alive():
                worker.kill()

    def _answer(self, line: Connection, wanted: str):
        if not line.poll(PATIENCE):
            raise RuntimeError(f"{self.name} has not answered for {PATIENCE} s.")
        try:
            kind, value = line.recv()
        except EOFError:
            raise RuntimeError(
                f"{self.name} ended without a word: most likely the system stopped it for want of memory."
            ) from None
        if kind != wanted:
            raise RuntimeError(f"{self.name} failed:\n{value}")
        return value


@contextmanager
def _in_environment(variables: dict[str, str]) -> Iterator[None]:
    # The allocator reads its settings before the first line of Python.
    saved = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _group_address() -> dict[str, str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    # The name of a machine may not resolve, or to a network that is not there: gloo takes loopback.
    return address | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})


def interleave(contenders: list[Contender], rounds: int, warm: int, progress: Callable[[str], None]) -> None:
    """
    Time contenders in turn: `warm` rounds that are not counted, then `rounds`, each in the reverse order of the last.

    Args:
        contenders: Two or more; their `seconds`, `info` and `results` are filled.
        rounds, warm (`int`): Steps of each that count, and that do not.
        progress: Told what is going on.

    Raises:
        RuntimeError: If a contender fails.
    """
    try:
        for contender in contenders:
            progress(f"starting: {contender.name}")
            contender.start()
        for number in range(warm + rounds):
            order = contenders if number % 2 == 0 else contenders[::-1]
            for contender in order:
                progress(
                    f"{contender.name}, {'warm-up' if number < warm else f'round {number - warm + 1} of {rounds}'}"
                )
                seconds = contender.step()
                if number >= warm:
                    contender.seconds.append(seconds)
        for contender in contenders:
            contender.stop()
    finally:
        for contender in contenders:
            contender.kill()


def median_ratio(one: Contender, other: Contender) -> float:
    """Median over the rounds of what `one` took over what `other` took in the same round."""
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))
