# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Commands that are killed at a moment of choice, and what a folder holds that matters.

A moment is the point before one operation on the disk: a file that is opened to be written, renamed or removed, a folder that
is made or removed, as Python's audit events tell, and the end of a file that torch or safetensors wrote, of which they do not.
What kill -9 leaves is what the folder holds at that moment: the system keeps what a process has written.

    python -m helpers.crashes moments FILE -- train ...     write down all moments of a command in the working folder
    python -m helpers.crashes at 17 -- train ...            SIGKILL at the 17th; `torn 17` leaves half of the file
    python -m helpers.crashes at_run 2:17 -- compare ...    SIGKILL for the second run that it begins, at its 17th; or torn_run
    python -m helpers.crashes after 0.25 -- train ...       the end after so many seconds of processor time, 0.25c: of the clock
    python -m helpers.crashes beside FILE -- train ...      no kill: begins after $DELAY seconds, and says in FILE-$DELAY how it ended
    python -m helpers.crashes copies FOLDER -- train ...    no kill: what each would leave of `out` is copied, torn files too
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

#: Fields that hold seconds, and what says how a run was started.
CLOCK = re.compile(
    r"""(["'])(wall_seconds|train_runtime|train_loss|eval_\w*runtime|\w+_per_second|seconds|command|created|date)\1: ("[^"\n]*"|'[^'\n]*'|[\d.e-]+)"""
    r'|value="[\d.e-]+" data-path="/seconds"[^>]*>[^<]*'
    r"|Wall time of training: [^\n]+|epoch_time|hf-robustft [^\n]+|sha256 [0-9a-f]{64}|\d+ s\b|in \d+(\.\d+)? (s|seconds|minutes)"
)
#: Of a checkpoint: pickled settings with the path of what it was resumed from, and hashes of files with clocks.
_NOT_COMPARED = {"training_args.bin", "robustft_files.json"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0, "os.rmdir": 0, "os.link": 1, "os.symlink": 1, "os.truncate": 0}


def contents(folder: str | Path) -> dict[str, bytes]:
    """All of a folder that matters, hidden files included, by name: bytes, without the wall clock."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_dir() or path.name in _NOT_COMPARED:
            continue
        content = path.read_bytes()
        if path.name == "tokenizer.json":
            # How the last call padded and cut, which the next one says again.
            content = json.dumps({**json.loads(content), "padding": None, "truncation": None}).encode()
        if path.suffix in (".json", ".md", ".html", ".yaml", ".log", ".csv"):
            content = CLOCK.sub("", content.decode()).encode()
        found[path.relative_to(folder).as_posix()] = content
    return found


def differing(got: dict[str, bytes], want: dict[str, bytes]) -> list[str]:
    """The names of what is missing, too much or other."""
    return sorted(name for name in got.keys() | want.keys() if got.get(name) != want.get(name))


class Moments:
    """
    Calls `each(number, what, path)` at each moment of this process that concerns `folder`, until `stop`.

    Audit hooks themselves stay for as long as the process lives. With `of_runs` the moments are those of each process that this one
    forks, from 1 in each.
    """

    def __init__(self, folder: Path, each: Callable[[int, str, Path], None], of_runs: bool = False):
        import safetensors.torch
        import torch

        self.folder, self.each, self.number, self.on = str(folder), each, 0, True
        self.process, self.of_runs = os.getpid(), of_runs
        sys.addaudithook(self._heard)
        self.writers = [(module, name, getattr(module, name)) for module, name in ((torch, "save"), (safetensors.torch, "serialize_file"))]
        for module, name, write in self.writers:
            setattr(module, name, self._told_of(write))

    def stop(self) -> None:
        self.on = False
        for module, name, write in self.writers:
            setattr(module, name, write)

    def _heard(self, event: str, given: tuple) -> None:
        if not self.on or event not in _CHANGES and not (event == "open" and isinstance(given[2], int) and given[2] & _WRITES):
            return
        path = given[_CHANGES.get(event, 0)]
        # A nameless file is opened by the name of its folder.
        if isinstance(path, (str, bytes, os.PathLike)) and not (event == "open" and os.path.isdir(path)):
            self._moment(event, Path(os.path.abspath(os.fsdecode(path))))

    def _moment(self, what: str, path: Path) -> None:
        # What is removed together with its folder has only a name.
        concerns = str(path).startswith(self.folder) or what in ("os.remove", "os.rmdir")
        if self.on and concerns and self.of_runs == (os.getpid() != self.process):
            self.on = False
            self.number += 1
            self.each(self.number, what, path)
            self.on = True

    def _told_of(self, write: Callable) -> Callable:
        def wrapped(content, path, *more, **options):
            result = write(content, path, *more, **options)
            if isinstance(path, (str, os.PathLike)):
                self._moment("written", Path(os.path.abspath(path)))
            return result

        return wrapped


def tear(what: str, path: Path) -> bool:
    """Leave half of a file that is being written at a moment; returns whether one is."""
    if what == "open":
        path.write_bytes(b'{"half": ')
    elif what == "written":
        os.truncate(path, path.stat().st_size * 6 // 10)
    return what in ("open", "written")


def kill_at(moment: int, torn: bool, run: int = 0) -> Callable[[int, str, Path], None]:
    """
    For [`Moments`]: SIGKILL at one of them, with half of the file that is being written there if it is to be `torn`; of those of runs, in
    the one that was begun as number `run`.
    """

    def each(number: int, what: str, path: Path) -> None:
        if number == moment and run in (0, ForkedRun.begun):
            if torn:
                tear(what, path)
            os.kill(os.getpid(), signal.SIGKILL)

    return each


def copy_into(folder: Path, source: Path) -> Callable[[int, str, Path], None]:
    """For [`Moments`]: copy `source` at each of them, once more with half of the file that is being written there."""

    def each(number: int, what: str, path: Path) -> None:
        if not source.is_dir():
            return
        shutil.copytree(source, folder / f"{number:04}-{what}-{path.name}", symlinks=True)
        if what in ("open", "written") and path.is_relative_to(source):
            torn = shutil.copytree(source, folder / f"{number:04}-torn-{path.name}", symlinks=True)
            tear(what, torn / path.relative_to(source))

    return each


class ForkedRun:
    """Stands for `subprocess.Popen` of a run of a comparison: a process that need not import anything again."""

    #: How many there were.
    begun = 0

    def __init__(self, words, stdin=None, stdout=None, stderr=None, env=None, start_new_session=True, preexec_fn=None, **_):
        self.args, self.returncode = words, None
        sys.stdout.flush()
        ForkedRun.begun += 1
        self.pid = os.fork()
        if self.pid:
            return
        status = 1
        try:
            os.setsid()
            if preexec_fn is not None:
                preexec_fn()
            for descriptor in (1, 2):
                os.dup2(stdout.fileno(), descriptor)
            os.environ.clear()
            os.environ.update(env)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            from hf_robustft import cli

            # As the program: signals are answered by the command itself.
            sys.argv = ["hf-robustft", *(str(word) for word in words[words.index("hf_robustft.cli") + 1 :])]
            status = cli.main()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self):
        if self.returncode is None:
            pid, ended = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(ended)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Carry out a command of `hf-robustft`, as the first words say."""
    kind, when, _, *command = arguments
    import hf_robustft.comparison.schedule as schedule
    from hf_robustft import cli, files
    from hf_robustft.deployment import predict, watch

    schedule.subprocess.Popen = ForkedRun
    # A part for each batch.
    predict._ANSWERS = 1
    watch._SECONDS, watch._SHARE = -1.0, 0
    # A launcher passes a signal on to all.
    if kind not in ("SIGINT", "SIGTERM") and os.environ.get("RANK", "0") != os.environ.get("KILLED_RANK", "0"):
        kind = "none"
    if kind == "moments":
        began = time.monotonic()
        # Line by line: what is not written yet is not written by a forked process too.
        with open(when, "w", buffering=1) as file:
            Moments(Path.cwd(), lambda number, what, path: print(number, what, path, file=file))
            Moments(Path.cwd(), lambda number, what, path: print("run", ForkedRun.begun, number, what, path, file=file), of_runs=True)
            status = cli.main(command)
            print(sum(os.times()[:4]), time.monotonic() - began, file=file)
        return status
    if kind == "beside":
        delay = os.environ["DELAY"]
        time.sleep(float(delay))
        with open(f"{when}-{delay}", "w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 2)
            status = cli.main(command)
            print(f"exit status {status}", file=sys.stderr, flush=True)
        return 0
    if kind == "copies":
        # A journal is bound to the number of its folder, which a copy does not keep, and a kill does.
        files._identity = lambda folder: 0
        moments = Moments(Path.cwd(), copy_into(Path(when), Path.cwd() / "out"))
        status = cli.main(command)
        moments.stop()
        return status
    if kind in ("at", "torn"):
        Moments(Path.cwd(), kill_at(int(when), kind == "torn"))
    elif kind in ("at_run", "torn_run"):
        run, moment = map(int, when.split(":"))
        Moments(Path.cwd(), kill_at(moment, kind == "torn_run", run), of_runs=True)
    elif kind == "after":
        # Left to the system, which ends the process at once, as kill -9 does.
        _later(when, signal.SIG_DFL)
    elif kind in ("SIGINT", "SIGTERM"):
        # The handler of this one is Python's; it sends the other within a moment.
        _later(when, lambda *_: os.kill(os.getpid(), getattr(signal, kind)))
        # As the program: signals are answered by the command itself.
        sys.argv = ["hf-robustft", *command]
        try:
            return cli.main()
        finally:
            # The interpreter on its way out has no handler.
            _later("0")
            _later("0c")
    return cli.main(command)


def _later(when: str, handler=None) -> None:
    """A signal in so many seconds of processor time, which no other process changes; with a "c" of the clock, for what waits for others."""
    timer, number = (signal.ITIMER_REAL, signal.SIGALRM) if when.endswith("c") else (signal.ITIMER_PROF, signal.SIGPROF)
    if handler is not None:
        signal.signal(number, handler)
    signal.setitimer(timer, float(when.removesuffix("c")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
