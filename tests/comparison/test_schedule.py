# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Many runs as child processes: order, continuing, failing, stopping and the time left, with children that do next to nothing."""

import gc
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from hf_robustft import files as whole_files
from hf_robustft.comparison import schedule
from hf_robustft.comparison.schedule import Run, Schedule, finished_runs, in_words, time_left

#: What a child does: {0} is the folder of its run.
FINISHES = "for n in 'robustft.json', 'evaluation.json': open(f'{0}/{{n}}', 'w').write('{{}}')\nprint('done')"
FAILS = "print('one line')\nprint('error: the disk is full')\nraise SystemExit(2)"
STAYS = "import time, os\nopen('{0}/pid', 'w').write(str(os.getpid()))\ntime.sleep(60)"
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + STAYS


def scheduled(folder, runs, programs=(), **options):
    """A schedule whose children run `programs` by the name of the run, and its lines."""
    lines, begun = [], []

    def command(run, place):
        begun.append(run.name)
        code = dict(programs).get(run.name, FINISHES).format(place)
        return [sys.executable, "-S", "-E", "-c", code]

    made = Schedule(folder, runs, command, **{"say": lines.append, **options})
    return made, lines, begun


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    # Whoever adopts it may be slow to notice that it has ended.
    state = Path(f"/proc/{pid}/stat")
    return not (state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def pid_of(place) -> int:
    deadline = time.monotonic() + 20
    while not (place / "pid").is_file() or not (place / "pid").read_text():
        assert time.monotonic() < deadline, f"no child in {place}"
        time.sleep(0.01)
    return int((place / "pid").read_text())


def test_runs_are_made_in_order_each_in_a_folder_with_a_log(tmp_path):
    runs = [Run("wise", "wise_ft", needs=("ft",)), Run("ft", "ft", settings={"seed": 0}), Run("flyp", "flyp")]
    made, lines, begun = scheduled(tmp_path, runs)
    outcome = made.carry_out()
    # The merge waits for what it merges.
    assert begun == ["ft", "wise", "flyp"]
    assert set(outcome.seconds) == {"ft", "wise", "flyp"} and not outcome.failed
    assert json.loads((tmp_path / "ft" / "run.json").read_text())["settings"] == {"seed": 0}
    assert (tmp_path / "ft.log").read_text() == "done\n"
    assert re.match(r"\[1/3\] ft: .* left$", lines[0]) and lines[-1].startswith("[3/3]")


def test_as_many_at_once_as_there_are_slots_each_with_its_own_environment(tmp_path):
    waits = (
        "import os, time, pathlib\np = pathlib.Path('{0}')\n(p / 'slot').write_text(os.environ['SLOT'])\n"
        "other = p.with_name({{'a': 'b', 'b': 'a'}}.get(p.name, p.name)) / 'slot'\n"
        "end = time.monotonic() + 20\nwhile not other.is_file() and time.monotonic() < end: time.sleep(0.01)\n" + FINISHES
    )
    runs = [Run(name, "ft") for name in "abc"]
    made, _, begun = scheduled(tmp_path, runs, {name: waits for name in "abc"}, slots=({"SLOT": "0"}, {"SLOT": "1"}))
    # Each of the first two ends only when it has seen the other.
    outcome = made.carry_out()
    assert set(outcome.seconds) == set("abc") and max(outcome.seconds.values()) < 15
    assert {(tmp_path / name / "slot").read_text() for name in "ab"} == {"0", "1"}


def test_what_is_finished_is_kept_and_what_is_half_made_is_made_again(tmp_path):
    runs = [Run("ft", "ft", settings={"learning_rate": 1e-3, "data": "a"}), Run("flyp", "flyp")]
    scheduled(tmp_path, runs[:1])[0].carry_out()
    (tmp_path / "flyp").mkdir()
    (tmp_path / "flyp" / "run.json").write_text('{"settings": {}}')
    (tmp_path / "flyp" / "checkpoint-3").mkdir()
    before = (tmp_path / "ft" / "run.json").stat().st_mtime_ns
    made, _, begun = scheduled(tmp_path, runs)
    assert [run.name for run in made.pending] == ["flyp"]
    assert set(made.carry_out().seconds) == {"ft", "flyp"} and begun == ["flyp"]
    assert (tmp_path / "ft" / "run.json").stat().st_mtime_ns == before
    assert not (tmp_path / "flyp" / "checkpoint-3").exists()
    # Without its results it is not finished, whatever its record says.
    (tmp_path / "ft" / "evaluation.json").unlink()
    assert set(finished_runs(tmp_path, runs)) == {"flyp"}


def test_a_run_whose_beginning_was_cut_off_is_made_again(tmp_path, monkeypatch):
    """A kill leaves the folder as it is: with half of a record, or with a part of what another run had left there."""
    place = tmp_path / "ft"
    place.mkdir()
    half = whole_files.whole_file(place / "run.json").__enter__()
    half.write_text("{")
    assert [path.name for path in place.iterdir()] == [half.name]
    made, _, begun = scheduled(tmp_path, [Run("ft", "ft")])
    assert set(made.carry_out().seconds) == {"ft"} == set(begun) and not half.exists()
    (place / "evaluation.json").unlink()

    class Killed(BaseException):
        pass

    def cut_off(before):
        # What else is removed at this moment, as by a collection of garbage, goes its way.
        def step(*given, **options):
            if str(place) in str(given):
                raise Killed
            return before(*given, **options)

        return step

    for module, step in ((schedule.shutil, "rmtree"), (Path, "unlink"), (schedule, "_write_record"), (schedule.subprocess, "Popen")):
        (place / "checkpoint-3").mkdir(exist_ok=True)
        (place / "log.txt").touch()
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(module, step, cut_off(getattr(module, step)))
            scheduled(tmp_path, [Run("ft", "ft")])[0].carry_out()
        # Of what was killed nothing is open: the lock of a log goes with its file.
        gc.collect()
        made, _, _ = scheduled(tmp_path, [Run("ft", "ft")])
        assert [run.name for run in made.pending] == ["ft"], step
    assert set(made.carry_out().seconds) == {"ft"} and not (place / "checkpoint-3").exists()


def test_what_another_comparison_has_finished_since_is_kept(tmp_path):
    """Both planned before either began."""
    runs = [Run("ft", "ft", settings={"learning_rate": 1e-3}), Run("flyp", "flyp"), Run("wise", "wise_ft", needs=("ft",))]
    (first, *_), (second, lines, begun) = scheduled(tmp_path, runs), scheduled(tmp_path, runs)
    first.carry_out()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")}
    assert set(second.carry_out().seconds) == {"ft", "flyp", "wise"} and begun == lines == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*")} == before
    # Also what is finished after it began.
    late = [Run("long", "ft"), Run("other", "flyp")]
    third, _, begun = scheduled(tmp_path, late, say=lambda line: scheduled(tmp_path, late[1:])[0].carry_out() if "long" in line else None)
    assert set(third.carry_out().seconds) == {"long", "other"} and begun == ["long"]
    # What was made with other settings is refused, and stays.
    fourth, *_ = scheduled(tmp_path, [Run("new", "ft", settings={"seed": 1})])
    scheduled(tmp_path, [Run("new", "ft", settings={"seed": 2})])[0].carry_out()
    with pytest.raises(ValueError, match="--output_dir"):
        fourth.carry_out()
    assert json.loads((tmp_path / "new" / "run.json").read_text())["settings"] == {"seed": 2}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": 3e-4, "data": "a"}, ("learning_rate 0.001", "0.0003")),
        ({"learning_rate": 1e-3, "data": "b"}, ("data a", "with b")),
        ({"learning_rate": 1e-3, "data": "a", "max_steps": 3}, ("max_steps its default", "3")),
    ],
)
def test_a_folder_of_other_settings_or_data_is_refused_and_stays(tmp_path, settings, named):
    scheduled(tmp_path, [Run("ft", "ft", settings={"learning_rate": 1e-3, "data": "a"})])[0].carry_out()
    before = {path: path.read_bytes() for path in (tmp_path / "ft").iterdir()}
    with pytest.raises(ValueError, match="--output_dir") as caught:
        scheduled(tmp_path, [Run("new", "ft"), Run("ft", "ft", settings=settings)])
    assert all(words in str(caught.value) for words in (str(tmp_path / "ft"), *named))
    assert {path: path.read_bytes() for path in (tmp_path / "ft").iterdir()} == before


def test_a_half_made_run_of_other_settings_is_refused_and_stays(tmp_path):
    (tmp_path / "ft" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "ft" / "run.json").write_text('{"settings": {"learning_rate": 0.001}}')
    with pytest.raises(ValueError, match="--output_dir") as caught:
        scheduled(tmp_path, [Run("ft", "ft", settings={"learning_rate": 3e-4})])
    assert all(words in str(caught.value) for words in (str(tmp_path / "ft"), "learning_rate 0.001", "0.0003", "not finished"))
    assert (tmp_path / "ft" / "checkpoint-3").is_dir()


def test_a_folder_that_no_comparison_made_is_refused_and_stays(tmp_path):
    (tmp_path / "ft").mkdir()
    (tmp_path / "ft" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="ft was not made by a comparison"):
        scheduled(tmp_path, [Run("ft", "ft")])
    assert (tmp_path / "ft" / "thesis.tex").is_file()


@pytest.mark.parametrize("record", ['{"settings": []}', "[" * 100_000, '{"settings": {}, "seconds": "1"}', '{"settings": {}, "seconds": [1]}', '{"settings": {}, "seconds": 1e999}'])
def test_a_record_that_is_none_is_refused_and_stays(tmp_path, record):
    (tmp_path / "ft").mkdir()
    for name, text in (("run.json", record), ("robustft.json", "{}"), ("evaluation.json", "{}")):
        (tmp_path / "ft" / name).write_text(text)
    with pytest.raises(ValueError, match="ft was not made by a comparison"):
        scheduled(tmp_path, [Run("ft", "ft")])
    assert (tmp_path / "ft" / "run.json").read_text() == record


def test_after_a_failure_the_rest_goes_on_and_the_end_names_it(tmp_path):
    runs = [Run("ft", "ft"), Run("wise", "wise_ft", needs=("ft",)), Run("flyp", "flyp"), Run("empty", "x"), Run("shot", "x")]
    shot = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    made, lines, _ = scheduled(tmp_path, runs, {"ft": FAILS, "empty": "pass", "shot": shot})
    outcome = made.carry_out()
    assert set(outcome.seconds) == {"flyp"}
    assert outcome.failed["ft"] == "the disk is full" and "ft" in outcome.failed["wise"]
    assert "robustft.json" in outcome.failed["empty"] and "signal 9" in outcome.failed["shot"]
    assert any("ft: FAILED: the disk is full" in line for line in lines)
    # And it is not taken for finished afterwards.
    assert set(finished_runs(tmp_path, runs)) == {"flyp"}


@pytest.mark.parametrize("program", [STAYS, DEAF])
def test_an_interruption_ends_the_children_and_says_how_far_it_went(tmp_path, monkeypatch, program):
    monkeypatch.setattr(schedule, "GRACE", 0.3 if program is DEAF else 20.0)

    def interrupt(line):
        pid_of(tmp_path / "long")
        raise KeyboardInterrupt

    runs = [Run("ft", "ft"), Run("long", "ft"), Run("never", "ft")]
    made, _, begun = scheduled(tmp_path, runs, {"long": program}, slots=({}, {}), say=interrupt)
    with pytest.raises(KeyboardInterrupt, match="1 of 3 runs are finished"):
        made.carry_out()
    assert not is_alive(pid_of(tmp_path / "long"))
    assert set(finished_runs(tmp_path, runs)) == {"ft"} and "never" not in begun


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for a signal when the parent is gone")
def test_children_end_with_a_killed_parent_and_are_waited_for(tmp_path, monkeypatch):
    runs = [Run("long", "ft")]
    parent = os.fork()
    if not parent:
        try:
            scheduled(tmp_path, runs, {"long": STAYS})[0].carry_out()
        finally:
            os._exit(0)
    child = pid_of(tmp_path / "long")
    # As long as it lives nobody else makes this run.
    monkeypatch.setattr(schedule, "GRACE", 0.1)
    with pytest.raises(OSError, match="long is being made by another process"):
        scheduled(tmp_path, runs)[0].carry_out()
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    monkeypatch.setattr(schedule, "GRACE", 20.0)
    outcome = scheduled(tmp_path, runs)[0].carry_out()
    assert set(outcome.seconds) == {"long"} and not is_alive(child)


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel for a signal when the parent is gone")
def test_a_child_whose_parent_was_killed_before_it_could_ask_ends(tmp_path):
    child = os.fork()
    if not child:
        schedule._end_with_parent(os.getppid() + 1)
        (tmp_path / "goes on").touch()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1 and not (tmp_path / "goes on").exists()


def test_the_time_left_is_that_of_finished_runs_of_the_method():
    runs = [*(Run(f"ft-{i}", "ft") for i in range(4)), Run("wise", "wise_ft", needs=("ft-0",)), Run("flyp", "flyp")]
    assert time_left(runs, {}, {}, 2) is None
    # Two of ft in 10 s each, 7 s of the first gone, and flyp, of which nothing is known, as ft.
    seconds = {"ft-0": 8.0, "ft-1": 12.0, "wise": 1.0}
    assert time_left(runs, seconds, {"ft-2": 7.0}, 1) == pytest.approx(3 + 10 + 10)
    assert time_left(runs, seconds, {"ft-2": 7.0}, 2) == pytest.approx((3 + 10 + 10) / 2)
    # No more at once than there is to do.
    assert time_left(runs, seconds, {"ft-2": 7.0}, 8) == pytest.approx(10)
    assert time_left(runs, dict.fromkeys((run.name for run in runs), 1.0), {}, 2) == 0
    assert [in_words(s) for s in (40.4, 600, 6000, 11100)] == ["40 s", "10 min", "1 h 40 min", "3 h 05 min"]


def test_a_terminal_is_told_what_is_being_made(tmp_path):
    class Terminal:
        text = ""

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    terminal = Terminal()
    scheduled(tmp_path, [Run("ft", "ft")], terminal=terminal)[0].carry_out()
    assert "[0/1] ft (" in terminal.text and terminal.text.endswith("\r\033[K")
