# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How a command ends: with an exit status, and one line on standard error where something was wrong."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from pathlib import Path
from types import FrameType

from ..data.messages import without_tokens
from ..data.pinned import one_commit
from .first_look import AUTO, first_look, last_checkpoint, word_behind
from .parser import UsageError

#: Everything that a user can mend, and what a shell reports of a process that Ctrl-C, SIGTERM or a closed pipe ended.
WRONG, INTERRUPTED, TERMINATED, BROKEN_PIPE = 2, 130, 143, 141

#: Seconds in which the main process of several is to fail too, where all fail alike.
_MAIN_FIRST = 10.0

_DISK_FULL = ("No space left on device", "StorageFull", "PytorchStreamWriter failed writing", "inline_container")
_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "bad_alloc", "std::bad_alloc")
_WORKER = ("DataLoader worker",)
#: What `Path.expanduser` says.
_HOME = ("Could not determine home directory",)
#: What gloo and NCCL say of it.
_PEER = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
#: What `failing_together` says where another process has failed.
_ELSEWHERE = ("whose own error says why",)
#: And of one that lives and does not come, or was never started.
_LATE = ("Timed out waiting", "waiting for clients", "client socket has timed out", "wait timeout", "failed to pass monitoredBarrier")


def run(
    command: Callable[[], object],
    go_on: Callable[[KeyboardInterrupt], str] | None = None,
    leaving: bool = True,
) -> int:
    """
    Carry a command out.

    Args:
        command (`Callable`): Returns its exit status; anything that is not a number counts as 0.
        go_on (`Callable`, *optional*): Says after an interruption how to go on.
        leaving (`bool`, *optional*, defaults to `True`): Whether the process ends afterwards: SIGTERM is answered as Ctrl-C
            is, a second Ctrl-C is ignored, and a traceback is printed without tokens.

    Returns:
        `int`: The exit status: 0; 2 after an error, of which one line is on standard error; 130 after Ctrl-C and 143
        after SIGTERM; 141 where the reader of a pipe went away. An error that nobody expected keeps its traceback, and
        with `HF_ROBUSTFT_TRACEBACK=1` every one does.
    """
    usual, in_thread = warnings.formatwarning, threading.excepthook
    listens = _listen() if leaving else []
    if leaving:
        threading.excepthook = _without_tokens(in_thread)
    if not _asked_for_tracebacks():
        warnings.formatwarning = _warning_line
    try:
        with one_commit():
            status = command()
        sys.stdout.flush()
        return status if isinstance(status, int) and not isinstance(status, bool) else 0
    except BrokenPipeError:
        # The interpreter flushes once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, Exception) as error:
        interruption = _interruption(error)
        line = one_line(error) if interruption is None else ""
        if line is None or _asked_for_tracebacks():
            if leaving:
                sys.excepthook = _without_tokens(sys.excepthook)
            raise
        if interruption is None:
            _say(line)
            return WRONG
        # A second Ctrl-C on the way out would print what the first did not.
        if leaving:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        status = TERMINATED if getattr(interruption, "signal", None) == signal.SIGTERM else INTERRUPTED
        rank = os.environ.get("RANK", "0")
        # Ctrl-C reaches all processes, and the main one says it; SIGTERM may be meant for one of them, which the others then wait for.
        if rank == "0" or status == TERMINATED and getattr(interruption, "alone", False):
            more = "" if go_on is None else without_tokens(go_on(interruption), "$HF_TOKEN")
            which = "" if rank == "0" else f"Process {rank}: "
            print(f"\n{which}{str(interruption) or 'Interrupted.'} {more}".rstrip(), file=sys.stderr)
        return status
    finally:
        warnings.formatwarning, threading.excepthook = usual, in_thread
        for number in listens:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _USUAL[number])


def _interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interruption that an `error` is, or that brought it about: some packages have a bare `except` around their imports."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


class Terminated(KeyboardInterrupt):
    """SIGTERM, outside of training, which has its own way to stop."""

    signal, alone = signal.SIGTERM, True


class _Stop:
    """Answers Ctrl-C with `KeyboardInterrupt` and SIGTERM with [`Terminated`], but for training, which puts its own in place."""

    #: What training that has ended says of an interruption.
    after_training = ""

    def __init__(self):
        self.owner = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() == self.owner:
            raise (Terminated if number == signal.SIGTERM else KeyboardInterrupt)(self.after_training)
        # A forked process that reads images.
        signal.signal(number, _USUAL[number])
        os.kill(os.getpid(), number)


_USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def _listen() -> list[int]:
    """Answer signals by [`_Stop`], unless something else does; returns which of them this call has changed."""
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers: list[int] = [number for number, usual in _USUAL.items() if signal.getsignal(number) is usual]
    stop = _Stop()
    for number in numbers:
        signal.signal(number, stop)
    return numbers


def _say(line: str) -> None:
    """Print an error; of several processes that fail alike, the main one does."""
    rank = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else "0"
    if rank != "0":
        # The launcher ends the others as soon as the main process has failed. Whoever is still there failed alone.
        with suppress(KeyboardInterrupt):
            time.sleep(_MAIN_FIRST)
    line = without_tokens(line)
    print(f"error: {line}" if rank == "0" else f"error in process {rank}: {line}", file=sys.stderr)


def _warning_line(message, *place) -> str:
    """A warning to a user says what it says; where in the program it was given is nothing to them."""
    return f"Warning: {without_tokens(' '.join(str(message).split()))}\n"


def _without_tokens(hook: Callable[..., object]) -> Callable[..., None]:
    """A `hook` that prints what nothing caught, with all that it came of, without the tokens in it."""

    def masked(*error: object) -> None:
        with redirect_stderr(io.StringIO()) as said:
            hook(*error)
        print(without_tokens(said.getvalue()), end="", file=sys.stderr)

    return masked


def _asked_for_tracebacks() -> bool:
    return os.environ.get("HF_ROBUSTFT_TRACEBACK", "") not in ("", "0")


def one_line(error: BaseException) -> str | None:
    """
    What an error tells its reader; `None` of one that is a fault of the program, whose traceback is needed.
    """
    text = _said(error)
    number = _errno(error, text)
    if number in (errno.ENOSPC, errno.EDQUOT) or _mentions(text, _DISK_FULL):
        where = f" while {error.filename} was written" if getattr(error, "filename", None) else ""
        return f"The disk is full{where}; free space, or write elsewhere with --output_dir (--output where a command writes a file). ({text})"
    if number == errno.EFBIG:
        return f"A file would become larger than this system or `ulimit -f` allows; raise that, or write elsewhere. ({text})"
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and _mentions(text, _MEMORY):
        return (
            "Memory is used up; make the batch smaller (--per_device_train_batch_size with --contrastive_chunk_size, or "
            f"--batch_size), or use --gradient_checkpointing. ({_first_sentence(text)})"
        )
    if isinstance(error, RuntimeError) and _mentions(text, _HOME):
        return "A path begins with ~ and a user whom this machine does not know; write it out, or put ./ before a name that begins so."
    if isinstance(error, RuntimeError) and _mentions(text, _WORKER):
        return (
            "A process that reads images has died, often for want of memory (shared memory in a container); use fewer, "
            f"--dataloader_num_workers or --num_workers. ({_first_sentence(text)})"
        )
    if isinstance(error, RuntimeError) and _mentions(text, _ELSEWHERE):
        return text
    if isinstance(error, RuntimeError) and _mentions(text, _PEER):
        return f"Another process of this run has ended, and says why, so that this one cannot go on. ({_first_sentence(text)})"
    if isinstance(error, RuntimeError) and _mentions(text, _LATE):
        return (
            "Another process of this run did not answer in time, so that this one cannot go on; see what that one says, and whether all were "
            f"started. A training waits as many seconds as --ddp_timeout says. ({_first_sentence(text)})"
        )
    if type(error).__name__ == "DistNetworkError":
        return (
            "The processes of this run cannot meet where the launcher's MASTER_ADDR and MASTER_PORT say; give each run a port of its own, and "
            f"an address that all machines reach. ({_first_sentence(text)})"
        )
    if isinstance(error, RuntimeError) and "to be installed" in text:
        # What Transformers' callbacks raise for a tracker that is missing.
        return text
    if isinstance(error, ImportError):
        ours = (error.name or "").split(".")[0] == "hf_robustft"
        return None if ours else f"{text}; install the package that is missing" if error.name else text
    if isinstance(error, (ValueError, OSError, FloatingPointError)) or number is not None:
        return text or type(error).__name__
    return None


def _said(error: BaseException) -> str:
    """What an `error` says, without line breaks, and without the traceback that comes before it from a process that reads images."""
    text = str(error)
    if (sent := re.match(r"Caught (\w+) in DataLoader worker process \d+\.\n", text)) is not None:
        places = [*re.finditer(rf"^(?:[\w.<>]+\.)?{sent[1]}: ", text, re.MULTILINE)]
        text = text[places[-1].end() :] if places else text
    return " ".join(text.split())


def _errno(error: BaseException, text: str) -> int | None:
    """The number by which the system said what was wrong with a file, also to safetensors, whose errors have it in their `text` alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", text) if type(error).__module__.startswith("safetensors") else None
    return int(found[1]) if found else None


def _mentions(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase.casefold() in text.casefold() for phrase in phrases)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[a-z0-9)])\.\s", text, maxsplit=1)[0][:300]


def first_look_or_exit(command: str, arguments: Sequence[str]) -> None:
    """
    Leave with one line and exit status 2 if the first look at the `arguments` of a `command` finds something wrong.

    For the top of a script, before its imports; Ctrl-C and SIGTERM during these end in one line too.
    """
    status = run(lambda: first_look(command, arguments, prog=Path(sys.argv[0]).name) and 0)
    if status:
        sys.exit(status)
    usual = _without_tokens(sys.excepthook)

    def hook(kind, error, trace):
        if _interruption(error) is None or _asked_for_tracebacks():
            return usual(kind, error, trace)

        def again() -> None:
            raise error

        status = run(again, how_to_go_on(["accelerate", "launch", sys.argv[0]], arguments))
        sys.stderr.flush()
        # Python would end itself by the signal.
        os._exit(status)

    sys.excepthook, threading.excepthook = hook, _without_tokens(threading.excepthook)
    _listen()


def train_program(processes: int = 1) -> list[str]:
    """The words that start `train` on so many processes."""
    return ["hf-robustft", "train"] if processes == 1 else [*launcher(processes), "-m", "hf_robustft.cli", "train"]


def launcher(processes: int) -> list[str]:
    """The words that start so many processes, as these were started: on a CPU `accelerate launch` starts one."""
    by_another = processes > 1 and "ACCELERATE_MIXED_PRECISION" not in os.environ
    return ["torchrun", "--nproc_per_node", str(processes)] if by_another else ["accelerate", "launch", "--num_processes", str(processes)]


def how_to_go_on(program: Sequence[str], arguments: Sequence[str]) -> Callable[[KeyboardInterrupt], str]:
    """
    What to say after an interruption of a training command.

    Args:
        program (`Sequence[str]`): The words that start it, such as `["hf-robustft", "train"]`.
        arguments (`Sequence[str]`): Those behind it.
    """
    started = time.time()

    def say(interruption: KeyboardInterrupt) -> str:
        if word_behind("--method", arguments) == AUTO:
            # A comparison, whose finished runs stay.
            return f"Go on with: {shlex.join([*program, *arguments])}"
        folder = "outputs"
        # What it has to say of the command line was said.
        with suppress(UsageError), redirect_stderr(io.StringIO()):
            folder = vars(first_look("train", arguments)).get("output_dir", folder)
        checkpoint = getattr(interruption, "checkpoint", None) or last_checkpoint(folder, since=started)
        if checkpoint is not None:
            words = [*program, *without_resume(arguments), "--resume_from_checkpoint", checkpoint]
            return f"Go on with: {shlex.join(words)}"
        if any(path.stat().st_mtime >= started for path in Path(folder).glob("model*.safetensors")):
            return f"The model is in {folder}, without its results; measure it with: hf-robustft evaluate {folder}"
        # Training says after which step it was interrupted.
        what = "saved" if str(interruption) else "trained"
        return f"Nothing was {what}; start again with: {shlex.join([*program, *arguments])}"

    return say


def without_resume(arguments: Sequence[str]) -> list[str]:
    """The words (`arguments`) of a run that starts at its beginning, which ends as one that is resumed does."""
    kept, skip = [], False
    for argument in arguments:
        flag, equals, _ = argument.replace("-", "_").partition("=")
        if flag == "__resume_from_checkpoint":
            skip = not equals
        elif not skip or argument.startswith("--"):
            kept.append(argument)
            skip = False
        else:
            skip = False
    return kept
