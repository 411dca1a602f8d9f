# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""One process at a time changes a folder; the second one is told by whom it is used, and nobody who has ended is waited for."""

import errno
import json
import os
import re
import signal
import threading
import time
from contextlib import nullcontext, suppress

import pytest

from hf_robustft import files, locks
from hf_robustft.files import LOCK, READY, FolderInUse, changing, locked, settle


class Other:
    """A process of its own that holds the lock of a folder until it is told to end, or killed."""

    def __init__(self, folder, by="hf-robustft train", work=None):
        (self.read, say), (listen, self.write) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            os.close(self.read), os.close(self.write)
            with suppress(BaseException), locked(folder, by):
                if work is not None:
                    work()
                os.write(say, b"x")
                os.read(listen, 1)
                status = 0
            os._exit(status)
        os.close(say), os.close(listen)
        assert os.read(self.read, 1) == b"x"

    def end(self):
        os.write(self.write, b"x")
        assert os.waitpid(self.pid, 0)[1] == 0

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def test_the_second_process_is_refused_at_once_and_told_who_holds_the_folder(tmp_path):
    other = Other(tmp_path / "run", "hf-robustft calibrate")
    started = time.perf_counter()
    with pytest.raises(FolderInUse) as caught, locked(tmp_path / "run"):
        pass
    assert time.perf_counter() - started < 2
    said = str(caught.value)
    assert f"`hf-robustft calibrate` (process {other.pid} on {os.uname().nodename}, since " in said and "\n" not in said
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\)", said) and "wait until" in said
    other.end()
    # Nothing is left, not even the folder that was made for it.
    assert not (tmp_path / "run").exists()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / LOCK).is_file()


def test_a_holder_that_was_killed_keeps_nobody_out(tmp_path):
    other = Other(tmp_path)
    other.kill()
    assert (tmp_path / LOCK).is_file()
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_the_processes_that_a_holder_forked_hold_nothing(tmp_path):
    """As those that read images do; some outlive a process that was killed for seconds."""
    pids = tmp_path / "pids"

    def work():
        if not (pid := os.fork()):
            time.sleep(60)
            os._exit(0)
        pids.write_text(str(pid))

    other = Other(tmp_path / "run", work=work)
    other.kill()
    try:
        with locked(tmp_path / "run"):
            pass
    finally:
        os.kill(int(pids.read_text()), signal.SIGKILL)


@pytest.mark.parametrize("seconds", [1, 60])
def test_a_killed_holders_process_that_has_not_run_yet_is_waited_for_a_little(tmp_path, monkeypatch, seconds):
    """Until it does, it holds what its parent held: a second descriptor stands for that."""
    pids = tmp_path / "pids"

    def work():
        os.dup(locks._held[os.path.realpath(tmp_path / "run")].descriptor)
        if not (pid := os.fork()):
            time.sleep(seconds)
            os._exit(0)
        pids.write_text(str(pid))

    Other(tmp_path / "run", work=work).kill()
    monkeypatch.setattr(locks, "FORKED_SECONDS", 30 if seconds == 1 else 0.1)
    try:
        with suppress(FolderInUse) if seconds == 60 else nullcontext(), locked(tmp_path / "run"):
            assert seconds == 1
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(pids.read_text()), signal.SIGKILL)


def test_a_forked_process_that_ends_leaves_the_lock_to_its_parent(tmp_path):
    with locked(tmp_path):
        if not (pid := os.fork()):
            status = 1
            # It is not the holder, and may not become one.
            with suppress(FolderInUse):
                with locked(tmp_path):
                    pass
                status = 2
            status = 0 if status == 1 else status
            os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert (tmp_path / LOCK).is_file()


def test_the_holder_may_lock_again_and_other_threads_may_not(tmp_path):
    refused = []

    def elsewhere():
        try:
            with locked(tmp_path):
                pass
        except FolderInUse as error:
            refused.append(str(error))

    (tmp_path / "link").symlink_to(tmp_path)
    with locked(tmp_path, "outer"), locked(tmp_path / "link"), changing(tmp_path) as stage:
        (stage / "a").write_text("a")
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(refused) == 1 and f"`outer` (process {os.getpid()} " in refused[0]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "link"}


def test_folders_in_a_locked_folder_are_not_locked(tmp_path):
    """So that the runs of a comparison are made while it holds its own folder."""
    with locked(tmp_path):
        other = Other(tmp_path / "runs" / "a")
        with pytest.raises(FolderInUse), locked(tmp_path / "runs" / "a"):
            pass
        other.end()


def test_what_is_only_read_needs_no_lock_where_none_can_be_made(tmp_path, monkeypatch):
    real = os.open

    def refusing(path, *arguments, **options):
        if str(path).endswith(LOCK):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    with locked(tmp_path, reads=True), locked(tmp_path / "missing", reads=True):
        pass
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=rf"cannot be written \({LOCK}: Read-only file system\)"), locked(tmp_path):
        pass
    with pytest.raises(OSError, match="cannot be written"), locked(tmp_path / "new" / "deep"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_named_and_used_all_the_same(tmp_path, monkeypatch):
    def lacking(descriptor, blocking):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.lock_descriptor", lacking)
    with pytest.warns(UserWarning, match=r"without locks \(No locks available\)"), changing(tmp_path) as stage:
        (stage / "a").write_text("a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_lock_that_leads_elsewhere_or_says_nonsense_does_no_harm(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=f"cannot be written .{LOCK}"), locked(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
    (tmp_path / LOCK).unlink()
    other = Other(tmp_path)
    for text in ("", " [1", " " + "[" * 1500, ' {"command": "a\\u001b[31m\\nb", "process": 1, "machine": [], "since": 2}'):
        (tmp_path / LOCK).write_text(text)
        with pytest.raises(FolderInUse, match="is in use by ") as caught, locked(tmp_path):
            pass
        assert str(caught.value).isprintable()
    other.end()


def test_a_lock_does_not_name_what_a_command_line_may_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/home/somebody/bin/train.py", "--hub_token", "hf_secretsecretsecretsecret"])
    with locked(tmp_path):
        text = (tmp_path / LOCK).read_text()
    assert json.loads(text)["command"] == "train.py" and "secret" not in text and "somebody" not in text


def test_a_reader_waits_for_a_writer_that_moves_files_and_not_for_one_that_works(tmp_path, monkeypatch):
    (tmp_path / READY).mkdir()
    other = Other(tmp_path, work=lambda: (tmp_path / READY).mkdir())
    # Finished by the other one as it locked the folder; what it has made since is there for as long as it lives.
    monkeypatch.setattr(files, "_PATIENCE", 0.2)
    with pytest.raises(FolderInUse, match="in use by `hf-robustft train`"):
        settle(tmp_path)
    monkeypatch.setattr(files, "_PATIENCE", 10.0)
    timer = threading.Timer(0.3, (tmp_path / READY).rmdir)
    timer.start()
    assert settle(tmp_path)
    other.end()
    assert not settle(tmp_path)
