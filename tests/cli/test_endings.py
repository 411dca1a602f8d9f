# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How a command ends: one line for what a user can mend, a traceback without secrets for a fault, and how to go on after Ctrl-C."""

import os
import shlex
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader, Dataset

from hf_robustft import cli
from hf_robustft.cli import COMMANDS, endings, main
from hf_robustft.cli.endings import (
    BROKEN_PIPE,
    INTERRUPTED,
    TERMINATED,
    WRONG,
    Terminated,
    how_to_go_on,
    launcher,
    one_line,
    run,
    train_program,
)
from hf_robustft.data.images import decode_image


@pytest.mark.parametrize("method", [["--method", "auto"], ["--method=auto"]])
def test_an_interrupted_comparison_of_auto_goes_on_by_the_same_command(method, tmp_path):
    said = how_to_go_on(["hf-robustft", "train"], [*method, "--output_dir", str(tmp_path)])(KeyboardInterrupt("13 of 16 runs are finished"))
    assert said == f"Go on with: hf-robustft train {' '.join(method)} --output_dir {tmp_path}"


def test_warnings_say_what_they_say(capsys, monkeypatch):
    monkeypatch.delenv("HF_ROBUSTFT_TRACEBACK", raising=False)
    usual = warnings.formatwarning

    def command():
        print(warnings.formatwarning("half the\nweights", UserWarning, "program.py", 3), end="")

    assert run(command) == 0
    assert capsys.readouterr().out == "Warning: half the weights\n" and warnings.formatwarning is usual


@pytest.mark.parametrize(
    ("error", "holds"),
    [
        (OSError(28, "No space left on device", "x.bin"), "disk is full while x.bin"),
        (OSError(28, "No space left on device"), "--output where"),
        (OSError(27, "File too large"), "ulimit -f"),
        (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), "ulimit -f"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"), "Permission denied"),
        (RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"), "disk is full"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), "--per_device_train_batch_size"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "--batch_size"),
        (MemoryError(), "--batch_size"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), "--num_workers"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:6024. GLHF!"), "Another process"),
        (RuntimeError("[gloo/unbound_buffer.cc:78] Timed out waiting 1800000ms for recv operation to complete"), "--ddp_timeout"),
        (torch.distributed.DistStoreError("Timed out after 1801 seconds waiting for clients. 1/2 clients joined."), "--ddp_timeout"),
        (torch.distributed.DistNetworkError("The client socket has timed out after 1800000ms while trying to connect to (a, 1)."), "--ddp_timeout"),
        (torch.distributed.DistNetworkError("The server socket has failed to listen on any local network address. name: EADDRINUSE"), "MASTER_PORT"),
        (RuntimeError("WandbCallback requires wandb to be installed. Run `pip install wandb`."), "wandb"),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb"), "wandb"),
        (ImportError("TensorBoardCallback requires tensorboard to be installed."), "tensorboard"),
        (ValueError("two\nlines"), "two lines"),
    ],
)  # fmt: skip
def test_errors_in_one_line(error, holds, capsys):
    def command():
        raise error

    assert run(command) == WRONG
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and holds in printed


class Unreadable(Dataset):
    """Images of which one cannot be read."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        decode_image(b"no image", f"row {index} (cat/1.jpg)")


def test_an_error_of_a_process_that_reads_comes_without_its_traceback(capsys):
    assert run(lambda: list(DataLoader(Unreadable(), num_workers=1, multiprocessing_context="fork"))) == WRONG
    printed = capsys.readouterr().err
    assert printed.startswith("error: The image of row 0 (cat/1.jpg) cannot be read: ") and len(printed) < 200
    fault = RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\nRuntimeError: shapes differ\n")
    assert one_line(fault) is None


@pytest.mark.parametrize(
    ("rank", "processes", "begin"),
    [("0", "2", "error: "), ("1", "2", "error in process 1: "), ("1", "1", "error: "), (None, None, "error: ")],
)
def test_of_several_processes_that_fail_alike_the_main_one_says_it(rank, processes, begin, capsys, monkeypatch):
    """The others give it time to: the launcher ends them in it."""
    waited = []
    monkeypatch.setattr(endings.time, "sleep", waited.append)
    for name, value in (("RANK", rank), ("WORLD_SIZE", processes)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)

    def command():
        raise ValueError("wrong")

    assert run(command) == WRONG
    assert capsys.readouterr().err == f"{begin}wrong\n" and bool(waited) == begin.startswith("error in")


@pytest.mark.parametrize(
    "error", [TypeError("x"), KeyError("x"), RuntimeError("x"), ImportError("x", name="hf_robustft.data")]
)
def test_faults_of_the_program_keep_their_traceback(error):
    assert one_line(error) is None


PROGRAM = """
import sys, threading
from hf_robustft.cli.endings import first_look_or_exit, run
token, kind = "hf_" + "Q7wE9r" * 6, getattr(__builtins__, sys.argv[1])

def fail(text):
    try:
        raise OSError("https://me:secret@hub.example/" + text)
    except OSError as error:
        raise ExceptionGroup("all of " + text, [kind(text)]) from error

def command():
    thread = threading.Thread(target=fail, args=(token,), name="beside")
    thread.start()
    thread.join()
    try:
        fail(token)
    except ExceptionGroup:
        raise kind("at last " + token + " and a-password")

if sys.argv[2] == "script":
    first_look_or_exit("train", [])
    command()
sys.exit(run(command))
"""


@pytest.mark.parametrize(("kind", "way", "asked"), [("KeyError", "command", "0"), ("ValueError", "command", "1"), ("KeyError", "script", "0")])
def test_no_traceback_tells_a_token(kind, way, asked):
    environment = {**os.environ, "HF_ROBUSTFT_TRACEBACK": asked, "HF_TOKEN": "a-password"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, kind, way], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == ""
    told = ("in thread beside", "direct cause", "During handling", "ExceptionGroup: all of [removed]", f"{kind}: ")
    for text in (*told, "https://[removed]@hub.example/[removed]", "at last [removed] and [removed]"):
        assert text in done.stderr, text
    assert not [secret for secret in ("Q7wE9r", "secret", "a-password") if secret in done.stderr]


def test_interruptions_and_broken_pipes_have_their_own_status(capsys, repository):
    import signal

    from hf_robustft.training.interruption import Interrupted

    for error, status in (
        (KeyboardInterrupt(), INTERRUPTED),
        (Interrupted("Interrupted after step 3 of 9.", "out/checkpoint-3"), INTERRUPTED),
        (Interrupted("Interrupted after step 3 of 9.", None, signal.SIGTERM), TERMINATED),
    ):

        def command(error=error):
            raise error

        assert run(command, lambda error: f"Go on with {getattr(error, 'checkpoint', None)}", leaving=False) == status
        printed = capsys.readouterr().err.strip()
        assert printed.startswith("Interrupted") and "\n" not in printed
        assert printed.endswith(f"Go on with {getattr(error, 'checkpoint', None)}")

    def swallowed():
        try:
            raise KeyboardInterrupt
        except:  # noqa: E722
            raise ImportError("No module named 'version'", name="version") from None

    assert run(swallowed, leaving=False) == INTERRUPTED and capsys.readouterr().err.strip() == "Interrupted."
    reader = subprocess.Popen(
        [sys.executable, "-m", "hf_robustft.cli", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    reader.stdout.close()
    assert reader.wait(60) in (0, BROKEN_PIPE) and reader.stderr.read() == b""
    reader.stderr.close()


@pytest.mark.parametrize(
    "words", [["predict", "emoji_clip_carot", "~nobody-here/photos", "--output", "answers.csv"], ["train", "--train_dataset", "~nobody-here/photos"],
              ["evaluate", "~nobody-here/clip", "--eval_datasets", "emoji_shift/validation"], ["calibrate", "~nobody-here/clip", "--dataset", "a"],
              ["verify", "emoji_clip_carot", "--data", "noto=~nobody-here/photos"], ["publish", "~nobody-here/clip", "--repo_id", "a/b"]]
)  # fmt: skip
def test_the_home_of_nobody_is_no_traceback(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == WRONG
    error = capsys.readouterr().err
    assert "Traceback" not in error and "~" in error.strip().splitlines()[-1]


def test_another_process_than_the_main_one_says_that_sigterm_ended_it(monkeypatch, capsys):
    """On another machine the main one waits for it, and would say that it says why."""
    from hf_robustft.training.interruption import Interrupted

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for error, says in (
        (Terminated(), "Process 1: Interrupted. Go on with it"),
        (Interrupted("Interrupted within a step.", None, Terminated.signal, alone=True), "Process 1: Interrupted within a step. Go on with it"),
        # What stops all processes after the same step, and what a terminal sends to all, the main one says.
        (Interrupted("Interrupted after step 3 of 9.", "out/checkpoint-3", Terminated.signal), ""),
        (KeyboardInterrupt(), ""),
    ):

        def command(error=error):
            raise error

        run(command, lambda error: "Go on with it", leaving=False)
        assert capsys.readouterr().err.strip() == says


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_after_ctrl_c_how_to_go_on(command, monkeypatch, capsys):
    def stopped(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_carry_out", stopped)
    assert main([command, "my folder"]) == INTERRUPTED
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("Interrupted. ") and line.endswith(f"with: hf-robustft {command} 'my folder'")


def test_the_command_that_goes_on_starts_as_many_processes_as_there_were(monkeypatch):
    """On a CPU `accelerate launch --num_processes 2` starts one process, which refuses to go on."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert train_program(1) == ["hf-robustft", "train"] and launcher(1)[0] == "accelerate"
    assert train_program(2) == ["torchrun", "--nproc_per_node", "2", "-m", "hf_robustft.cli", "train"]
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert train_program(2) == ["accelerate", "launch", "--num_processes", "2", "-m", "hf_robustft.cli", "train"]


def test_the_command_that_goes_on_names_one_checkpoint(tmp_path):
    from hf_robustft.training.interruption import Interrupted

    flags = ["--resume-from-checkpoint", f"{tmp_path}/checkpoint-12", "--seed", "3", "--output_dir", str(tmp_path)]
    for step in (12, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (1, 1))
    say = how_to_go_on(["run.py"], flags)
    assert say(KeyboardInterrupt()) == f"Nothing was trained; start again with: {shlex.join(['run.py', *flags])}"
    assert say(Interrupted("within a step")).startswith("Nothing was saved; start again with: run.py --resume-from")
    for step in (3, 9):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (9e9, 9e9))
    resume = f"--seed 3 --output_dir {tmp_path} --resume_from_checkpoint {tmp_path}/checkpoint"
    assert say(KeyboardInterrupt()) == f"Go on with: run.py {resume}-9"
    assert say(Interrupted("", f"{tmp_path}/checkpoint-3")) == f"Go on with: run.py {resume}-3"
    for step in (3, 9):
        (tmp_path / f"checkpoint-{step}").rmdir()
    (tmp_path / "model.safetensors").write_bytes(b"")
    os.utime(tmp_path / "model.safetensors", (9e9, 9e9))
    assert "hf-robustft evaluate" in say(KeyboardInterrupt())
