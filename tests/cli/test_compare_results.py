# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`hf-robustft compare` once its runs are made: what is written and said, of failed runs too, and what is never overwritten."""

import base64
import io
import json
import re
import shutil
import signal
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from helpers import CLASSES
from helpers.finished import finished, finished_twin, predictions
from PIL import Image

from hf_robustft import cli
from hf_robustft.cli import compare, compare_runs
from hf_robustft.cli.reopened import reopened
from hf_robustft.cli.train import load_data
from hf_robustft.cli.train_arguments import parse
from hf_robustft.comparison.runs import FinishedRun, read_run
from hf_robustft.comparison.schedule import Outcome
from hf_robustft.data.benchmarks import load_benchmark


def test_what_was_decided_is_in_the_results_and_the_first_line_says_that_no_shift_was_measured(own, tmp_path, capsys, monkeypatch):
    shutil.copytree(own / "photo", tmp_path / "photo")
    shutil.copytree(own / "sketch", tmp_path / "sketch")
    (tmp_path / "sketch" / CLASSES[0]).rename(tmp_path / "sketch" / f"{CLASSES[0]}x")

    def carry_out(plan, runs, *_):
        for run in plan.runs:
            finished(runs / run.name, run.method, run.settings.get("learning_rate"), 0, (0.9,), sets={"held-out": "id"})
        return Outcome({run.name: 1.0 for run in plan.runs})

    monkeypatch.setattr(compare, "carry_out", carry_out)
    words = ["--train_dataset", str(tmp_path / "photo"), "--methods", "carot", "--learning_rates", "1e-3", "--seeds", "0", "--max_steps", "5"]
    assert cli.main(["compare", *words, "--output_dir", str(tmp_path / "out")]) == 0
    out, summary = capsys.readouterr().out, json.loads((tmp_path / "out" / "comparison.json").read_text())
    (note,) = [note for note in summary["notes"] if "is not measured" in note]
    assert f"'{CLASSES[0]}x'" in note and f"did you mean {CLASSES[0]}?" in note and str(tmp_path) not in "".join(summary["notes"])
    assert any("to validate on or to test on" in note and "for each" in note for note in summary["notes"])
    for name in ("comparison.md", "comparison.html"):
        assert "did you mean" in (tmp_path / "out" / name).read_text(), name
    # The first sentence, wherever the terminal breaks its lines.
    assert "no shift was measured" in " ".join(out.split()).partition(". ")[0]


def test_a_comparison_of_other_runs_is_not_overwritten(own, tmp_path, capsys):
    out, words = tmp_path / "out", ["compare", "--train_dataset", str(own / "photo"), "--learning_rates", "1e-3", "--seeds", "0", "--max_steps", "5"]
    made = [finished(out / "runs" / f"{name}-1e-3-0", name) for name in ("flyp", "carot")]
    finished(other := tmp_path / "elsewhere" / "flyp-1e-3-0", "flyp")
    assert cli.main(["compare", *map(str, made), "--output_dir", str(out)]) == 0
    before = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    capsys.readouterr()
    for refused in (["compare", str(other)], ["compare", str(made[0])], [*words, "--methods", "flyp"], [*words, "--methods", "flyp", "--dry_run"]):
        assert cli.main([*refused, "--output_dir", str(out)]) == 2
        error = capsys.readouterr().err
        assert "`--output_dir" in error and "-1e-3-0" in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    # Of the same runs, and of more, it is made again.
    assert cli.main([*words, "--methods", "carot", "flyp", "lp", "--dry_run", "--output_dir", str(out)]) == 2
    assert "was not made by a comparison" in capsys.readouterr().err
    assert cli.main(["compare", *map(str, [*made, finished(tmp_path / "lp", "lp")]), "--output_dir", str(out)]) == 0
    assert len(json.loads((out / "comparison.json").read_text())["candidates"]) == 3
    (out / "comparison.json").write_text("{}")
    for left in ("comparison.json", "comparison.md"):
        capsys.readouterr()
        assert cli.main(["compare", *map(str, made), "--output_dir", str(out)]) == 2
        error = capsys.readouterr().err
        assert "`--output_dir" in error and left in error and error.count("\n") == 1
        (out / "comparison.json").unlink(missing_ok=True)


def test_a_comparison_is_not_written_into_a_run_that_it_reads(tmp_path, capsys):
    made = [finished(tmp_path / "runs" / name, name) for name in ("flyp", "carot")]
    (tmp_path / "link").symlink_to(made[1])
    before = sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file())
    for place in (made[1], made[1] / "new" / "one", tmp_path / "link"):
        arguments = [*map(str, made), "--output_dir", str(place)]
        for start in (lambda words: cli.main(["compare", *words]), compare.run):
            try:
                assert start(arguments) == 2
                error = capsys.readouterr().err
            except ValueError as found:
                error = str(found)
            assert f"`--output_dir {place}`" in error and f"`DIR {made[1]}`" in error
            assert sorted((path, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()) == before
    # The folder around them is another one.
    assert cli.main(["compare", *map(str, made), "--output_dir", str(tmp_path / "runs")]) == 0


def test_finished_runs_show_their_mistakes_where_the_data_can_be_opened_again(own, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(shutil.copytree(own, tmp_path / "my"))
    sets, words = {"sketch": "shift", "cartoon": "shift"}, "--train_dataset photo --eval_datasets sketch:shift cartoon:shift"
    hashed = load_data(parse([*words.split(), "--output_dir", "x"])).check.hashes
    made = predictions((0.5, 0.25), sets, n=16)
    numbers = {name: made.sets[name].metrics() for name in sets}
    capsys.readouterr()

    def run(words):
        card = {"command": f"hf-robustft train \\\n    --method wise_ft {words} --finetuned_model gone"}
        folder = finished("run", "carot", sets=sets, accuracies=(0.5, 0.25), numbers=numbers, n=16, card=card, hashed={item["name"]: item for item in hashed})
        made.save(folder)
        return read_run(folder)

    def compared():
        assert cli.main(["compare", "run", "--output_dir", "out"]) == 0
        page, out = Path("out/comparison.html").read_text(), capsys.readouterr().out
        summary = json.loads(Path("out/comparison.json").read_text())
        notes = [line.removeprefix("Note: ") for line in out.splitlines() if "without their pictures" in line]
        assert notes == [summary[key] for key in ("no_pictures",) if key in summary] and all(note in unescape(page) for note in notes)
        return summary["worst_mistakes"], re.findall('src="data:image/webp;base64,([^"]*)"', page), " ".join(notes)

    run(words)
    worst, pictures, said = compared()
    assert {item["set"] for item in worst} == set(sets) and len(pictures) == len(worst) and not said
    rows = load_benchmark("sketch").load()
    first = next(number for number, item in enumerate(worst) if item["set"] == "sketch")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[first]))).convert("RGB"), float)
    distances = [np.abs(shown - np.asarray(row["image"].convert("RGB").resize(shown.shape[1::-1]), float)).mean() for row in rows]
    assert np.argmin(distances) == worst[first]["row"]
    # One set has other images than were measured, or nobody knows where they are.
    next(Path("cartoon").rglob("*.png")).unlink()
    _, pictures, said = compared()
    assert len(pictures) == sum(item["set"] == "sketch" for item in worst) and "cartoon" in said and said.startswith("Some of")
    for other, named in (
        (words.replace("sketch:", "'<your folder>/sketch':"), "where sketch lies"),
        (words.replace("photo", "foto"), "no foto"),
        ("--train_dataset dtd", "dtd is not on this machine"),
        (f"{words} --mthod x", "--mthod"),
    ):
        found, why = reopened(run(other), list(sets))
        assert not found and named in why
    assert "names no `hf-robustft train`" in reopened(FinishedRun(Path("run"), None, 0, None), ["sketch"])[1]


@pytest.mark.parametrize("lost", [["carot-1e-3-0-left-out"], ["carot-1e-4-0-left-out", "carot-1e-3-0-left-out"], ["carot-1e-4-0", "carot-1e-3-0"]])
def test_of_twins_that_failed_the_rest_is_compared(own, tmp_path, capsys, monkeypatch, lost):
    def carry_out(plan, runs, *_):
        for run in plan.runs:
            rate = run.settings.get("learning_rate")
            if run.name.endswith("-left-out"):
                finished_twin(runs / run.name, run.method, rate)
            elif run.method != "zero_shot":
                finished(runs / run.name, run.method, rate)
            else:
                finished(runs / run.name, "zero_shot", None, None)
        return Outcome({run.name: 1.0 for run in plan.runs if run.name not in lost}, dict.fromkeys(lost, "out of luck"))

    monkeypatch.setattr(compare, "carry_out", carry_out)
    words = ["--train_dataset", str(own / "photo"), "--methods", "carot", "--learning_rates", "1e-4", "1e-3", "--seeds", "0", "--rule", "concepts"]
    status = cli.main(["compare", *words, "--output_dir", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert [line for line in err.splitlines() if "out of luck" in line] == [line for line in err.splitlines() if "its log" in line]
    assert [line.split()[1] for line in err.splitlines() if "out of luck" in line] == [f"{name}:" for name in lost]
    if len(lost) == 1:
        summary = json.loads((tmp_path / "out" / "comparison.json").read_text())
        assert status == 1 and summary["rule"]["grid"] == {"CaRot": [1e-4]} and summary["rule"]["chosen"] == "CaRot, 1e-4"
        assert any("CaRot, 1e-3" in note and "concepts" in note for note in summary["notes"])
    else:
        assert status == (2 if lost[0].endswith("left-out") else 1) and not (tmp_path / "out" / "comparison.json").exists()


def test_means_over_fewer_seeds_are_named_where_a_run_failed(own, tmp_path, monkeypatch):
    """A lucky seed that is left alone may be what the rule chooses."""
    lost = ["carot-1e-3-1"]

    def carry_out(plan, runs, *_):
        for run in plan.runs:
            finished(runs / run.name, run.method, run.settings.get("learning_rate"), run.settings.get("seed"))
        return Outcome({run.name: 1.0 for run in plan.runs if run.name not in lost}, dict.fromkeys(lost, "out of luck"))

    monkeypatch.setattr(compare, "carry_out", carry_out)
    words = ["--train_dataset", str(own / "photo"), "--methods", "carot", "--learning_rates", "1e-4", "1e-3", "--seeds", "0", "1"]
    assert cli.main(["compare", *words, "--output_dir", str(tmp_path / "out")]) == 1
    notes = json.loads((tmp_path / "out" / "comparison.json").read_text())["notes"]
    assert notes[-2] == "1 of 5 runs is missing, as it failed: carot-1e-3-1." and "CaRot, 1e-3 (of 2 seeds 0)" in notes[-1]
    assert "CaRot, 1e-4" not in notes[-1]


def test_failed_runs_are_named_at_the_end_with_exit_status_1(own, tmp_path, capsys, monkeypatch):
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable} -SE\nimport sys\nsys.exit('error: out of luck.')\n")
    program.chmod(0o755)
    monkeypatch.setattr(compare_runs.sys, "executable", str(program))
    words = ["--train_dataset", str(own / "photo"), "--methods", "flyp", "--seeds", "3", "--learning_rates", "1e-3"]
    assert cli.main(["compare", *words, "--jobs", "5", "--output_dir", str(tmp_path / "out")]) == 1
    out, err = capsys.readouterr()
    # No more than there are.
    assert "2 runs, 2 at once; seed 3; time: known after the first runs; about 12 MB of disk" in out
    assert "flyp-1e-3-3: FAILED: out of luck" in out
    assert [line.partition(": out of luck")[0] for line in err.splitlines()] == ["error: zero_shot", "error: flyp-1e-3-3"]
    assert f"out of luck; its log: {tmp_path / 'out' / 'runs' / 'flyp-1e-3-3.log'}" in err


@pytest.mark.slow
def test_a_comparison_that_was_stopped_twice_goes_on_where_it_was(own, tmp_path):
    """Real runs of two steps, by `pytest -m slow tests/cli/test_compare_results.py`: a minute or two."""
    words = f"--train_dataset {own / 'photo'} --methods flyp wise_ft --learning_rates 1e-3 --seeds 0 --max_steps 2 --jobs 1 --use_cpu"
    command = [sys.executable, "-m", "hf_robustft.cli", "compare", *words.split(), "--output_dir", str(tmp_path)]

    def stopped_after(finished, number):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.startswith(f"[{finished}/4]"):
                    process.send_signal(number)
                    break
            return process.wait(), process.stderr.read()

    status, error = stopped_after(1, signal.SIGTERM)
    assert status == 143 and "1 of 4 runs are finished" in error and "Go on with: hf-robustft compare --train_dataset" in error
    assert stopped_after(2, signal.SIGKILL)[0] == -signal.SIGKILL
    records = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("runs/*/run.json")}
    kept = {name: (tmp_path / "runs" / name / "run.json").stat().st_mtime_ns for name, found in records.items() if "seconds" in found}
    assert len(kept) == 2
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "4 runs, of which 2 are finished" in done.stdout, done.stderr
    assert {name: (tmp_path / "runs" / name / "run.json").stat().st_mtime_ns for name in kept} == kept
    summary = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["label"] for row in summary["candidates"]] == ["FT, 1e-3", "FLYP, 1e-3", "WiSE-FT, 1e-3"]
    assert summary["baseline"] is not None and (tmp_path / "comparison.md").is_file()
    # All of them finished: nothing is made again.
    done = subprocess.run([*command, "--dry_run"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == ""
