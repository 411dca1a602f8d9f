# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Several files of a folder change together or not at all."""

import os

import pytest

from hf_robustft.publishing import run_folder
from hf_robustft.publishing.run_folder import READY, STAGE, replacing, settle

KEEP = ("model*.safetensors", "shift.png")


@pytest.fixture
def folder(tmp_path):
    names = ("robustft.json", "evaluation.json", "scores.png", "shift.png", "model.safetensors", "c.txt")
    for name in names:
        (tmp_path / name).write_text(name[0])
    (tmp_path / ".eval_results").mkdir()
    (tmp_path / ".eval_results" / "mine.yaml").write_text("x")
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "robustft.json").write_text("inner")
    return tmp_path


def content(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def change(stage) -> None:
    assert not list(stage.iterdir())
    (stage / ".eval_results").mkdir()
    for name in ("robustft.json", "evaluation.json", "model.safetensors", "reliability.png", ".eval_results/new.yaml"):
        (stage / name).write_text("NEW")


AFTER = {
    **dict.fromkeys(("robustft.json", "evaluation.json", "model.safetensors", "reliability.png"), "NEW"),
    ".eval_results/new.yaml": "NEW",
    # Kept, the user's, and the Trainer's.
    "shift.png": "s",
    "c.txt": "c",
    ".eval_results/mine.yaml": "x",
    "checkpoint-5/robustft.json": "inner",
}


def test_all_changes_take_effect_and_what_stays_is_not_touched(folder):
    before = {name: (folder / name).stat().st_ino for name in ("c.txt", "shift.png")}
    with replacing(folder, keep=KEEP) as stage:
        change(stage)
        assert content(folder)["robustft.json"] == "r"
    assert content(folder) == AFTER
    assert {name: (folder / name).stat().st_ino for name in before} == before


def test_an_error_in_the_block_changes_nothing(folder):
    before = content(folder)
    with pytest.raises(KeyError), replacing(folder, keep=KEEP) as stage:
        change(stage)
        raise KeyError("stop")
    assert content(folder) == before


class Killed(BaseException):
    """Stands for a process that ends: nothing after it runs."""


@pytest.mark.parametrize("error", [OSError("disk full"), Killed()])
@pytest.mark.parametrize("moves", range(5))
def test_what_stops_while_files_are_moved_is_finished_by_the_next_reader(folder, monkeypatch, moves, error):
    done, real = [], os.replace

    def failing(source, target):
        if READY in str(source):
            done.append(target)
            if len(done) == moves + 1:
                raise error
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.os, "replace", failing)
        with pytest.raises(type(error)), replacing(folder, keep=KEEP) as stage:
            change(stage)
    assert len(done) == moves + 1 and content(folder) != AFTER
    settle(folder)
    assert content(folder) == AFTER
    with replacing(folder, keep=KEEP) as stage:
        change(stage)
    assert content(folder) == AFTER


def test_a_change_that_was_killed_before_it_was_complete_leaves_no_trace(folder):
    before = content(folder)
    (folder / STAGE).mkdir()
    (folder / STAGE / "robustft.json").write_text("half")
    settle(folder)
    assert {name: text for name, text in content(folder).items() if not name.startswith(STAGE)} == before
    with replacing(folder, keep=KEEP) as stage:
        change(stage)
    assert content(folder) == AFTER
