# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A file is the old one or the new one, whatever happens, and a folder is locked by one process at a time."""

import os
import time

import pytest
from helpers.kills import ends_before

from hf_robustft.files import put_in_place, whole_file, write_whole


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_half_a_file_is_never_seen(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), whole_file(tmp_path / "a.txt") as half:
        half.write_text("ne")
        raise RuntimeError
    assert names(tmp_path) == {"a.txt"} and (tmp_path / "a.txt").read_text() == "old"


def test_kill_9_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    moment, found = 0, []
    while True:
        moment += 1
        path = tmp_path / str(moment) / "a.txt"
        write_whole(path, "old")
        killed = ends_before(moment, lambda path=path: write_whole(path, "new"), path.parent)
        found.append(path.read_text())
        if not killed:
            break
    assert found == ["old"] * (len(found) - 1) + ["new"] and len(found) > 2


def test_two_at_once_do_not_write_into_one_half(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path) as one, whole_file(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one" and names(tmp_path) == {"a.txt"}


def test_what_a_kill_left_is_removed_once_nobody_can_be_writing_it(tmp_path):
    old, young, another = (tmp_path / name for name in (".a[1].txt.0a1b2c3d.new", ".a[1].txt.deadbeef.new", ".b.txt.0a1b2c3d.new"))
    for path in (old, young, another):
        path.write_text("half")
    for path in (old, another):
        os.utime(path, (time.time() - 4000,) * 2)
    write_whole(tmp_path / "a[1].txt", "whole")
    assert names(tmp_path) == {"a[1].txt", young.name, another.name}


def test_a_file_reaches_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    log, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: log.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "replace", lambda a, b: (log.append("replace"), replace(a, b))[1])
    write_whole(tmp_path / "a.txt", "new")
    half, *rest = log
    assert half.startswith(str(tmp_path / ".a.txt.")) and rest == ["replace", str(tmp_path)]


def test_a_folder_takes_its_place_as_a_whole(tmp_path, monkeypatch):
    half = tmp_path / ".checkpoint-3.new"
    (half / "inner").mkdir(parents=True)
    for name in ("a", "inner/b"):
        (half / name).write_text(name)
    log = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: log.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    put_in_place(half, tmp_path / "checkpoint-3")
    assert names(tmp_path) == {"checkpoint-3"} and (tmp_path / "checkpoint-3" / "inner" / "b").read_text() == "inner/b"
    assert set(log) == {str(path) for path in (half, half / "a", half / "inner", half / "inner" / "b", tmp_path)}
    # One that is there is not written into.
    half.mkdir()
    with pytest.raises(OSError):
        put_in_place(half, tmp_path / "checkpoint-3")
