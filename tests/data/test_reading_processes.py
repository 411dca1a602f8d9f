# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Processes that read begin, or others are begun in their place: what is read is the same, and nothing stays behind."""

import ast
import os
import subprocess
import sys

import pytest
import torch
from fork_storm import storm
from helpers.forked import fork_server

from hf_robustft.data import readers
from hf_robustft.data.readers import reading_context

#: The first of the processes that are forked hang before they run any Python of their own, as python/cpython#112275 has it.
SCRIPT = """
import mmap, os, sys, time
import psutil
from torch.utils.data import DataLoader
from hf_robustft.data import readers

hanging, forks = int(sys.argv[1]), mmap.mmap(-1, 1)

def hang():
    forks[0] += 1
    if forks[0] <= hanging:
        time.sleep(1000)

readers.FORK_CAN_HANG = True
readers.SECONDS, readers.TRIES = {0: (60.0, 5), 2: (2.0, 5)}.get(hanging, (0.5, 2))

def read():
    loader = DataLoader(range(20), batch_size=3, num_workers=2, multiprocessing_context=readers.reading_context(2))
    return [number for batch in loader for number in batch.tolist()]

assert read() == list(range(20))
os.register_at_fork(after_in_child=hang)
me = psutil.Process()
open_before = me.num_fds()
assert read() == list(range(20))
for _ in range(200):
    # A loader's own threads and files end a little later.
    if me.num_fds() <= open_before and not me.children():
        break
    time.sleep(0.1)
print(me.num_fds() <= open_before, len(me.children()))
"""


def forked(hanging: int) -> subprocess.CompletedProcess:
    return fork_server().run(["-c", SCRIPT, hanging], timeout=120)


linux = pytest.mark.skipif(sys.platform != "linux", reason="only there processes are forked by default")


@linux
@pytest.mark.parametrize("hanging", [0, 2])
def test_what_hangs_is_begun_again_and_leaves_nothing(hanging):
    done = forked(hanging)
    assert done.returncode == 0, done.stderr
    again = done.stderr.count("did not begin")
    # On a busy machine one that does not hang may be late too.
    assert again >= hanging if hanging else not again
    assert done.stdout.split() == ["True", "0"]


@linux
def test_what_hangs_each_time_is_an_error_that_names_the_way_out():
    done = forked(200)
    assert done.returncode == 1
    # Extension modules may have words of their own to say after it.
    error = [line for line in done.stderr.splitlines() if line.startswith("RuntimeError")]
    assert len(error) == 1 and "--dataloader_num_workers 0" in error[0]


def test_only_workers_that_can_hang_are_watched(monkeypatch):
    monkeypatch.setattr(readers, "FORK_CAN_HANG", True)
    monkeypatch.setattr(readers.multiprocessing, "get_start_method", lambda allow_none: "fork")
    assert reading_context(0) is None and reading_context(2) is not None
    monkeypatch.setattr(readers.multiprocessing, "get_start_method", lambda allow_none: "spawn")
    assert reading_context(2) is None, "the user's own choice"
    monkeypatch.setattr(readers.multiprocessing, "get_start_method", lambda allow_none: "fork")
    monkeypatch.setattr(readers, "FORK_CAN_HANG", False)
    assert reading_context(2) is None


def test_every_loader_with_workers_is_watched(repository):
    # `StreamLoader` is given the context by the Trainer: tests/training/test_passes.py.
    calls = {}
    for file in (repository / "hf_robustft").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", "") == "DataLoader" and {"num_workers", None} & {word.arg for word in call.keywords}:
                calls[file.name] = "reading_context(" in text
    assert len(calls) >= 6 and [name for name, watched in calls.items() if not watched] == ["streaming.py"]


@linux
@pytest.mark.slow(reason="half a minute of forks, of which one in 400 hangs with Python 3.11.7's own context")
def test_none_hangs_beside_threads_that_enter_python(monkeypatch):
    monkeypatch.setattr(readers, "FORK_CAN_HANG", True)
    monkeypatch.setattr(readers, "SECONDS", 5.0)
    forks, hung = storm(reading_context(1), 30)
    assert forks > 100 and not hung


class Ended(torch.utils.data.Dataset):
    """A worker that reads it ends."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        os._exit(3)


@linux
def test_a_process_that_ends_is_told_from_its_exit_code(monkeypatch):
    monkeypatch.setattr(readers, "FORK_CAN_HANG", True)
    loader = torch.utils.data.DataLoader(Ended(), num_workers=1, multiprocessing_context=reading_context(1))
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        next(iter(loader))
    process = reading_context(1).Process(target=int)
    monkeypatch.setattr(type(process), "run", lambda self: os._exit(5))
    process.start()
    process.join()
    assert process.exitcode == 5
