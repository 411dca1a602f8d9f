# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Several files of a folder change together or not at all."""

import os

import pytest

from hf_robustft.publishing import run_folder
from hf_robustft.publishing.run_folder import CHANGE, changing, restore


@pytest.fixture
def folder(tmp_path):
    for name, text in (("a.json", "a"), ("b.md", "b"), ("c.txt", "c"), ("model.safetensors", "weights")):
        (tmp_path / name).write_text(text)
    (tmp_path / ".eval_results").mkdir()
    (tmp_path / ".eval_results" / "x.yaml").write_text("x")
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "a.json").write_text("inner")
    return tmp_path


def content(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def change(copy) -> None:
    assert not (copy / "model.safetensors").exists() and not (copy / "checkpoint-5").exists()
    (copy / "a.json").write_text("A")
    (copy / "b.md").unlink()
    (copy / "model.safetensors").write_text("WEIGHTS")
    (copy / "new.png").write_text("new")
    (copy / ".eval_results" / "x.yaml").write_text("X")


AFTER = {
    "a.json": "A",
    "c.txt": "c",
    "model.safetensors": "WEIGHTS",
    "new.png": "new",
    ".eval_results/x.yaml": "X",
    "checkpoint-5/a.json": "inner",
}


def test_all_changes_take_effect_and_what_is_equal_is_not_touched(folder):
    before = (folder / "c.txt").stat().st_ino
    with changing(folder) as copy:
        change(copy)
        assert content(folder)["a.json"] == "a"
    assert content(folder) == AFTER
    assert (folder / "c.txt").stat().st_ino == before


def test_an_error_in_the_block_changes_nothing(folder):
    before = content(folder)
    with pytest.raises(KeyError), changing(folder) as copy:
        change(copy)
        raise KeyError("stop")
    assert content(folder) == before


@pytest.mark.parametrize("moves", [1, 2, 3])
def test_a_failure_while_files_are_moved_puts_the_moved_ones_back(folder, monkeypatch, moves):
    before, done, real = content(folder), [], os.replace

    def failing(source, target):
        if CHANGE not in str(target):
            done.append(target)
            if len(done) == moves + 1:
                raise OSError("disk full")
        real(source, target)

    monkeypatch.setattr(run_folder.os, "replace", failing)
    with pytest.raises(OSError, match="disk full"), changing(folder) as copy:
        change(copy)
    assert len(done) > moves and content(folder) == before


class Killed(BaseException):
    """Stands for a process that ends: nothing after it runs."""


def killed_while_moving(folder, monkeypatch):
    real, moved = os.replace, []

    def dying(source, target):
        if CHANGE not in str(target):
            moved.append(target)
            if len(moved) == 3:
                raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.os, "replace", dying)
        patch.setattr(run_folder, "restore", lambda *_, **__: None)
        with pytest.raises(Killed), changing(folder) as copy:
            change(copy)


def test_a_killed_change_is_undone_by_the_next_one(folder, monkeypatch):
    before = content(folder)
    killed_while_moving(folder, monkeypatch)
    assert content(folder) != before and (folder / CHANGE).is_dir()
    with pytest.warns(UserWarning, match="had been interrupted; its files were put back"):
        restore(folder)
    assert content(folder) == before
    with changing(folder) as copy:
        change(copy)
    assert content(folder) == AFTER


def test_a_change_that_was_killed_before_anything_moved_leaves_no_trace(folder):
    before = content(folder)
    (folder / CHANGE / "new").mkdir(parents=True)
    (folder / CHANGE / "new" / "a.json").write_text("half")
    restore(folder)
    assert content(folder) == before and not (folder / CHANGE).exists()
