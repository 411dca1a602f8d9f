# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Many runs as child processes, several at once: those that are finished are kept, the others are made.

Each run has a folder, `RUNS/<name>`, and a log beside it, `RUNS/<name>.log`. `run.json` in the folder says with which settings
on which data it is made, and, once it is finished, in how many seconds. So a comparison that was stopped, by whatever, goes on
where it was, and one with other settings is refused before anything is overwritten.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..evaluation.report_schema import number
from ..files import is_half_of, write_whole
from ..modeling.metadata import METADATA_FILE
from ..publishing.run_folder import EVALUATION_FILE

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

RECORD_FILE = "run.json"
#: Settings that the first records do not have, which says nothing of these runs.
LABELS, STARTING_WEIGHTS = "the labels", "the files of the model"
#: Seconds that a child has to end its step after SIGTERM, and that another comparison's has to end at all.
GRACE = 30.0
_POLL = 0.05
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Run:
    """
    A run to be made.

    Attributes:
        name (`str`): Of its folder.
        method (`str`): Runs of one method are thought to take equally long.
        arguments (`tuple[str, ...]`): What the command that makes it is given.
        settings (`dict`): JSON values that must be equal where a finished folder is taken for this run.
        needs (`tuple[str, ...]`): The names of runs that must be finished before.
    """

    name: str
    method: str
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


@dataclass
class Outcome:
    """
    What became of the runs.

    Attributes:
        seconds (`dict[str, float]`): By the name of each finished run, how long it took.
        failed (`dict[str, str]`): By the name of each run that could not be made, why, in one line.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def finished_runs(folder: str | Path, runs: Sequence[Run]) -> dict[str, float]:
    """
    Which runs need not be made again.

    Args:
        folder (`str` or `Path`): Where the folders of the runs are.
        runs (`Sequence[Run]`): All of them.

    Returns:
        `dict[str, float]`: Seconds by name.

    Raises:
        ValueError: If the folder of a run holds something else: a run of other settings or data, or what no comparison made.
    """
    found = {}
    for run in runs:
        place = Path(folder) / run.name
        # A comparison that was killed as it began a run leaves half of its record at most.
        if not place.is_dir() or all(is_half_of(item.name, RECORD_FILE) for item in place.iterdir()):
            continue
        record = _record(place)
        if record is None:
            raise ValueError(
                f"{place} was not made by a comparison, and a run of this one would be written there; move it away, or give "
                "another --output_dir."
            )
        finished = "seconds" in record and all((place / name).is_file() for name in (METADATA_FILE, EVALUATION_FILE))
        if differing := _differing(record["settings"], run.settings):
            raise ValueError(
                f"{place} was {'made' if finished else 'begun'} with {'; '.join(differing)}: nothing is overwritten; give another "
                f"--output_dir, or the same settings and data{'' if finished else ', or remove it, since it is not finished'}."
            )
        if finished:
            found[run.name] = float(record["seconds"])
    return found


def _record(place: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((place / RECORD_FILE).read_text(encoding="utf-8"))
        fine = isinstance(record["settings"], dict) and 0 <= number(record.get("seconds", 0)) < math.inf
        return record if fine else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    now = json.loads(json.dumps(now))
    later = [name for name in now if name not in before and name.startswith((LABELS, STARTING_WEIGHTS))]
    names = [name for name in {**before, **now} if before.get(name) != now.get(name) and name not in later]
    return [f"{name} {_shown(before.get(name))}, and is now to be made with {_shown(now.get(name))}" for name in names]


def _shown(value: Any) -> str:
    return "its default" if value is None else value if isinstance(value, str) else json.dumps(value)


def time_left(
    runs: Sequence[Run], seconds: Mapping[str, float], elapsed: Mapping[str, float], jobs: int
) -> float | None:
    """
    Seconds until all runs are finished, by those that are.

    A run is expected to take the median of its method; of a method that has none yet, of those that need other runs or of
    those that need none, as it does.

    Args:
        runs (`Sequence[Run]`): All of them.
        seconds (`Mapping[str, float]`): Of the finished ones, by name.
        elapsed (`Mapping[str, float]`): By name, how long those that are being made have been at it.
        jobs (`int`): How many are made at once.

    Returns:
        `float`: Seconds; `None` if nothing is known yet.
    """
    kinds: dict[Any, list[float]] = {}
    for run in runs:
        if run.name in seconds:
            for kind in (run.method, bool(run.needs), None):
                kinds.setdefault(kind, []).append(seconds[run.name])
    if not kinds:
        return None
    left = []
    for run in runs:
        if run.name not in seconds:
            known = next(kinds[kind] for kind in (run.method, bool(run.needs), None) if kind in kinds)
            left.append(max(statistics.median(known) - elapsed.get(run.name, 0.0), 0.0))
    # The last run may begin when the others end.
    return max(sum(left) / max(jobs, 1), max(left, default=0.0))


def in_words(seconds: float) -> str:
    """A duration of so many `seconds` for people: "40 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Schedule:
    """
    Makes runs.

    Args:
        folder (`str` or `Path`): Where the folders of the runs are.
        runs (`Sequence[Run]`): In the order in which they are begun.
        command (`Callable[[Run, Path], Sequence[str]]`): The command line that makes a run in a folder.
        slots (`Sequence[Mapping[str, str]]`, *optional*): What is added to the environment of each of the runs that are made at
            once, such as `CUDA_VISIBLE_DEVICES`. One at a time by default.
        say (`Callable[[str], None]`, *optional*): Prints a line.
        terminal (`IO[str]`, *optional*): Where a line that changes says what is being made.

    Raises:
        ValueError: As [`finished_runs`].
    """

    def __init__(
        self,
        folder: str | Path,
        runs: Sequence[Run],
        command: Callable[[Run, Path], Sequence[str]],
        slots: Sequence[Mapping[str, str]] = ({},),
        say: Callable[[str], None] = print,
        terminal: IO[str] | None = None,
    ):
        self.folder, self.runs, self.command, self.slots, self.say = Path(folder), list(runs), command, slots, say
        self.terminal = terminal
        if unknown := [name for run in runs for name in run.needs if name not in {other.name for other in runs}]:
            raise ValueError(f"A run needs {unknown[0]}, which is none of the runs.")
        self.outcome = Outcome(finished_runs(folder, runs))
        self._children: dict[int, _Child] = {}
        self._drawn = 0.0

    @property
    def pending(self) -> list[Run]:
        """The runs that are neither finished nor failed nor being made, in order."""
        busy = {child.run.name for child in self._children.values()}
        return [run for run in self.runs if run.name not in {*self.outcome.seconds, *self.outcome.failed, *busy}]

    def carry_out(self) -> Outcome:
        """
        Make what is not finished; a run that fails keeps no other from being made, but those that need it.

        Raises:
            OSError: If another comparison is making one of the runs.
            KeyboardInterrupt: As it came in, with words on how far this went, when all children have ended.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_unlocked()
        # Who planned at the same time may have made some since.
        self.outcome.seconds |= finished_runs(self.folder, self.runs)
        try:
            while self._children or self.pending:
                self._begin()
                self._draw()
                time.sleep(_POLL)
                for slot, child in list(self._children.items()):
                    if (status := child.process.poll()) is not None:
                        del self._children[slot]
                        self._end(child, status)
        except BaseException as error:
            self._stop()
            if isinstance(error, KeyboardInterrupt):
                done, all_ = len(self.outcome.seconds), len(self.runs)
                error.args = (f"Interrupted: {done} of {all_} runs are finished and stay.",)
            raise
        finally:
            self._clear()
        return self.outcome

    def left(self) -> float | None:
        """Seconds until all is done; `None` if that is not known yet."""
        elapsed = {child.run.name: time.perf_counter() - child.started for child in self._children.values()}
        runs = [run for run in self.runs if run.name not in self.outcome.failed]
        return time_left(runs, self.outcome.seconds, elapsed, len(self.slots))

    # ---- Each run ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        for run in self.pending:
            lost = next((name for name in run.needs if name in self.outcome.failed), None)
            if lost is not None:
                self._fail(run, f"needs {lost}, which failed")
            elif len(self._children) == len(self.slots):
                return
            elif all(name in self.outcome.seconds for name in run.needs):
                slot = next(index for index in range(len(self.slots)) if index not in self._children)
                if (child := self._start(run, self.slots[slot])) is not None:
                    self._children[slot] = child

    def _start(self, run: Run, environment: Mapping[str, str]) -> _Child | None:
        """Begin a run, unless somebody has finished it by now."""
        place, log = self.folder / run.name, _locked(self._log(run))
        if found := finished_runs(self.folder, [run]):
            log.close()
            self.outcome.seconds |= found
            return None
        # What a run that was stopped has left is worth nothing to another one. Its record stays until the new one is whole: without one the
        # folder would be nobody's.
        for item in place.iterdir() if place.is_dir() else ():
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item, ignore_errors=True)
            elif item.name != RECORD_FILE:
                item.unlink(missing_ok=True)
        place.mkdir(exist_ok=True)
        _write_record(place, {"settings": dict(run.settings)})
        log.truncate(0)
        words = list(self.command(run, place))
        # Our own program and its options, as words: no shell reads them.
        process = subprocess.Popen(  # noqa: S603
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            # Ctrl-C reaches the children through this process alone, which also waits for them.
            start_new_session=True,
            preexec_fn=partial(_end_with_parent, os.getpid()) if _LIBC is not None else None,
        )
        # The child has the log open, and so holds the lock for as long as it lives.
        log.close()
        return _Child(run, process, time.perf_counter())

    def _end(self, child: _Child, status: int) -> None:
        run, seconds = child.run, time.perf_counter() - child.started
        place = self.folder / run.name
        if status == 0 and not all((place / name).is_file() for name in (METADATA_FILE, EVALUATION_FILE)):
            return self._fail(run, f"ended without {METADATA_FILE} and {EVALUATION_FILE}; see {self._log(run)}")
        if status != 0:
            ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
            return self._fail(run, _last_line(self._log(run)) or ended)
        _write_record(place, {"settings": dict(run.settings), "seconds": round(seconds, 1)})
        self.outcome.seconds[run.name] = seconds
        self._say(f"{self._count()} {run.name}: {in_words(seconds)}{self._left_in_words()}")

    def _fail(self, run: Run, why: str) -> None:
        self.outcome.failed[run.name] = why
        self._say(f"{self._count()} {run.name}: FAILED: {why}")

    def _log(self, run: Run) -> Path:
        return self.folder / f"{run.name}.log"

    def _check_unlocked(self) -> None:
        deadline = time.monotonic() + GRACE
        for run in self.pending:
            while not _is_free(self._log(run)):
                if time.monotonic() > deadline:
                    raise OSError(
                        f"{self.folder / run.name} is being made by another process; wait until that has ended, or give another "
                        "--output_dir."
                    )
                time.sleep(_POLL)

    def _stop(self) -> None:
        """End all children: by SIGTERM, and those that are still there after [`GRACE`], or a second Ctrl-C, at once."""
        children, self._children = list(self._children.values()), {}
        for child in children:
            with suppress(OSError):
                child.process.terminate()
        deadline = time.monotonic() + GRACE
        try:
            for child in children:
                child.process.wait(max(deadline - time.monotonic(), 0.0))
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            pass
        for child in children:
            # The processes that read images for a child are of its group.
            with suppress(OSError):
                os.killpg(child.process.pid, signal.SIGKILL) if hasattr(os, "killpg") else child.process.kill()
            child.process.wait()

    # ---- What is said ------------------------------------------------------------------------------------------

    def _count(self) -> str:
        all_ = len(self.runs)
        return f"[{len(self.outcome.seconds) + len(self.outcome.failed):>{len(str(all_))}}/{all_}]"

    def _left_in_words(self) -> str:
        left = self.left()
        return f"; about {in_words(left)} left" if left else ""

    def _say(self, line: str) -> None:
        self._clear()
        self.say(line)

    def _clear(self) -> None:
        if self.terminal is not None and self._drawn:
            self.terminal.write("\r\033[K")
            self.terminal.flush()
            self._drawn = 0.0

    def _draw(self) -> None:
        if self.terminal is None or time.monotonic() - self._drawn < 1.0:
            return
        now = time.perf_counter()
        made = [f"{child.run.name} ({in_words(now - child.started)})" for child in self._children.values()]
        line = f"{self._count()} {', '.join(made)}{self._left_in_words()}"
        self.terminal.write(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}")
        self.terminal.flush()
        self._drawn = time.monotonic()


@dataclass
class _Child:
    """A run that is being made, by which process and since when."""

    run: Run
    process: subprocess.Popen
    started: float


def _end_with_parent(parent: int) -> None:
    # In the child, before it becomes another program: it ends at once if the parent is killed, so that nothing goes on unseen.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It was killed before that.
        os._exit(1)


def _write_record(place: Path, record: Mapping[str, Any]) -> None:
    write_whole(place / RECORD_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _locked(log: Path) -> IO[str]:
    file = log.open("a", encoding="utf-8")
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _is_free(log: Path) -> bool:
    if not log.exists():
        return True
    try:
        _locked(log).close()
    except OSError:
        return False
    return True


def _last_line(log: Path) -> str:
    """The last line of a `log` that says something, without its "error: "."""
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - 20_000, 0))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else ""
