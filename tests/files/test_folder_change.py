# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Several files of a folder change together or not at all."""

import errno
import json
import os
import shutil

import pytest
from helpers.kills import ends_before

from hf_robustft import files
from hf_robustft.files import JOURNAL, LOCK, READY, STAGE, changing, is_of_this_room, settle
from hf_robustft.publishing.run_folder import replacing

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


def seen(folder) -> dict[str, str]:
    """What is in a folder for its users."""
    return {name: text for name, text in content(folder).items() if not is_of_this_room(name.split("/")[0])}


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
    # The lock is gone too.
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
        patch.setattr(files.os, "replace", failing)
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


def replaced(folder) -> None:
    with replacing(folder, keep=KEEP) as stage:
        change(stage)


def test_kill_9_at_any_moment_leaves_the_old_files_or_the_new_ones(folder, tmp_path_factory):
    """Before each rename, each removal and each opening for writing, and again in what finishes it."""
    before, moment, outcomes = content(folder), 0, []
    while True:
        moment += 1
        place = tmp_path_factory.mktemp("killed")
        shutil.copytree(folder, place, dirs_exist_ok=True)
        if not ends_before(moment, lambda place=place: replaced(place), place):
            assert content(place) == AFTER
            break
        if (place / READY).exists():
            # The one who finishes it is killed too, at its own moments.
            ends_before(1 + moment % 7, lambda place=place: settle(place), place)
        settle(place)
        assert not (place / READY).exists() and seen(place) in (before, AFTER), moment
        outcomes.append(seen(place) == AFTER)
        replaced(place)
        assert content(place) == AFTER, moment
    # Old up to one moment, new from there on.
    assert sum(outcomes) > 5 and outcomes == sorted(outcomes) and not outcomes[0]


def test_a_first_change_of_a_new_folder_is_all_or_nothing(tmp_path):
    for moment in range(1, 100):
        place = tmp_path / str(moment) / "new"
        killed = ends_before(moment, lambda place=place: replaced(place), place)
        if place.exists():
            settle(place)
            assert len(seen(place)) in (0, 5), moment
        if not killed:
            assert len(seen(place)) == 5
            return
    raise AssertionError("no end")


@pytest.mark.parametrize("call", ["rename", "replace", "fsync", "mkdir", "open"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"])
def test_a_full_disk_and_ctrl_c_lose_nothing_whichever_call_fails(tmp_path_factory, folder, monkeypatch, call, error):
    before = content(folder)
    for moment in range(40):
        place = tmp_path_factory.mktemp("failing")
        shutil.copytree(folder, place, dirs_exist_ok=True)
        calls, real = [], getattr(os, call)

        def failing(*arguments, calls=calls, real=real, moment=moment, **options):
            calls.append(arguments)
            # Twice, as somebody who presses Ctrl-C again while what was begun is taken back.
            if len(calls) in (moment + 1, moment + 2):
                raise error
            return real(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            try:
                replaced(place)
            except (OSError, KeyboardInterrupt):
                pass
        settle(place)
        assert seen(place) in (before, AFTER), (call, moment)
        replaced(place)
        assert content(place) == AFTER
        if len(calls) <= moment:
            return
    raise AssertionError("no end")


def interrupted(folder) -> dict:
    """Leave a change that was decided on and not carried out; returns its journal."""

    def killed(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_finish", killed)
        with pytest.raises(Killed):
            replaced(folder)
    return json.loads((folder / READY / JOURNAL).read_text())


def test_a_folder_that_was_copied_is_not_changed_by_the_journal_that_came_along(folder, tmp_path_factory):
    interrupted(folder)
    copy = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(folder, copy)
    before = content(copy)
    with pytest.raises(ValueError, match=r"in another folder, of which this is a copy.*move the files in \.robustft_ready"):
        settle(copy)
    with pytest.raises(ValueError, match="copy"):
        replaced(copy)
    assert content(copy) == before
    # Moved, it is still itself.
    moved = folder.rename(folder.parent / "moved")
    assert settle(moved) and content(moved) == AFTER
    moved.rename(folder)


def test_a_journal_of_another_machine_is_named_and_not_obeyed(folder, monkeypatch):
    interrupted(folder)
    before = content(folder)
    with monkeypatch.context() as patch:
        patch.setattr(files.platform, "node", lambda: "another\nhost")
        with pytest.raises(ValueError, match=r"begun on another machine \(") as caught:
            settle(folder)
        assert "\n" not in str(caught.value) and content(folder) == before
    assert settle(folder) and content(folder) == AFTER


@pytest.mark.parametrize("kind", ["comes", "goes"])
@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hosts", "a/../../outside", "..", "logits/..", "", "a//b", "a\\..\\b", "./a", READY, LOCK, f"{STAGE}/a"]
)
def test_a_journal_cannot_reach_out_of_its_folder(folder, kind, name):
    journal = interrupted(folder)
    outside = folder.parent / "outside"
    outside.write_text("outside")
    journal[kind][name] = {"comes": 3, "goes": files._mark(outside)}[kind]
    (folder / READY / JOURNAL).write_text(json.dumps(journal))
    before = content(folder)
    with pytest.raises(ValueError, match="is damaged"):
        settle(folder)
    assert content(folder) == before and outside.read_text() == "outside"
    outside.unlink()


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"format": 1, "comes": [], "goes": {}}', "{", "null", '{"new": ["a"], "stays": []}'])
def test_a_damaged_journal_is_refused_and_what_came_is_kept(folder, text):
    interrupted(folder)
    (folder / READY / JOURNAL).write_text(text)
    before = content(folder)
    with pytest.raises(ValueError, match=r"is damaged.*move them there yourself"):
        settle(folder)
    (folder / READY / JOURNAL).unlink()
    with pytest.raises(ValueError, match="is damaged"):
        settle(folder)
    assert {name: text for name, text in before.items() if not name.endswith(JOURNAL)} == content(folder)


def test_half_of_what_was_to_come_is_not_put_in_place(folder):
    interrupted(folder)
    left = next(path for path in (folder / READY).glob("*.png"))
    left.write_text("N")
    with pytest.raises(ValueError, match="is damaged"):
        settle(folder)
    left.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        settle(folder)


def test_links_are_neither_followed_nor_written_through(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mine.yaml").write_text("mine")
    shutil.rmtree(folder / ".eval_results")
    (folder / ".eval_results").symlink_to(elsewhere)
    before = content(folder)
    with pytest.raises(ValueError, match=r"eval_results is a link"):
        replaced(folder)
    assert content(folder) == before and [path.name for path in elsewhere.iterdir()] == ["mine.yaml"]
    (folder / ".eval_results").unlink()
    # In the place of the stage, of the journal, and of a file that comes.
    (folder / STAGE).symlink_to(elsewhere)
    replaced(folder)
    interrupted(folder)
    name = next(path for path in (folder / READY).glob("*.png"))
    name.unlink()
    name.symlink_to(elsewhere / "mine.yaml")
    with pytest.raises(ValueError, match="is damaged"):
        settle(folder)
    shutil.rmtree(folder / READY)
    (folder / READY).symlink_to(elsewhere)
    with pytest.raises(ValueError, match="is damaged"):
        settle(folder)
    assert [path.name for path in elsewhere.iterdir()] == ["mine.yaml"] and (elsewhere / "mine.yaml").read_text() == "mine"


def test_what_somebody_put_there_since_is_not_removed(folder):
    journal = interrupted(folder)
    assert "scores.png" in journal["goes"]
    (folder / "scores.png").write_text("mine, and new")
    settle(folder)
    assert (folder / "scores.png").read_text() == "mine, and new"


def test_a_change_of_a_folder_that_cannot_be_written_is_named(folder, monkeypatch):
    interrupted(folder)

    def refusing(path, *arguments, **options):
        if str(path).endswith(LOCK):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **options)

    real = os.open
    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(OSError, match=rf"cannot be written \({LOCK}: Permission denied\)"):
        settle(folder)


def test_a_name_that_no_file_may_have_is_refused_before_anything_changes(tmp_path):
    (tmp_path / "a").write_text("a")
    with pytest.raises(ValueError, match="cannot be the name"), changing(tmp_path, lambda comes: ["a"]) as stage:
        (stage / "b\\c").write_text("")
    with pytest.raises(ValueError, match="is not a file"), changing(tmp_path, lambda comes: ["a"]) as stage:
        (stage / "link").symlink_to(tmp_path / "a")
    assert content(tmp_path) == {"a": "a"}


def test_all_is_brought_to_the_disk_before_it_counts(folder, monkeypatch):
    """Each new file and its folder before the rename, and the renames before the journal goes."""
    log, real = [], {name: getattr(os, name) for name in ("fsync", "rename", "replace", "unlink")}
    monkeypatch.setattr(os, "fsync", lambda descriptor: log.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))))
    for name in ("rename", "replace"):
        monkeypatch.setattr(os, name, lambda a, b, name=name: (log.append((name, str(b))), real[name](a, b))[1])
    monkeypatch.setattr(os, "unlink", lambda a, *rest, **more: (log.append(("unlink", str(a))), real["unlink"](a, *rest, **more))[1])
    replaced(folder)
    decided = log.index(("rename", str(folder / READY)))
    assert {path for kind, path in log[:decided] if kind == "fsync"} >= {
        *(str(folder / STAGE / name) for name in ("robustft.json", "model.safetensors", ".eval_results/new.yaml", JOURNAL)),
        *(str(folder / STAGE), str(folder / STAGE / ".eval_results")),
    }
    assert log[decided + 1] == ("fsync", str(folder))
    gone = log.index(("unlink", str(folder / READY / JOURNAL)))
    moves = [index for index, (kind, _) in enumerate(log) if kind == "replace"]
    assert decided < moves[0] and moves[-1] < log.index(("fsync", str(folder)), moves[-1]) < gone
