# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Resuming in several processes, and what they refuse."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.forked import run_ranks
from launching import run_in
from safetensors.torch import load_file

from hf_robustft.data.packaged import asset_path

WORKER = Path(__file__).with_name("train_worker.py")
# Three steps an epoch, shuffled: step 5 is in the middle of the second. Its order must not be the first epoch's.
SETTINGS = {"max_steps": 8, "train_sampling_strategy": "random", "save_strategy": "steps", "save_steps": 5}
SETTINGS |= {"logging_steps": 2}


def ends(folder: Path, method: str = "carot", **settings) -> tuple[dict, list[dict]]:
    job = {"name": "run", "method": method, "settings": {**SETTINGS, **settings}}
    run_in(2, WORKER, folder, 2, json.dumps([job]))
    return load_file(folder / "run" / "end.safetensors"), json.loads((folder / "run" / "logs.json").read_text())


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order and the same number of processes")
@pytest.mark.timeout(1900)
@pytest.mark.parametrize(
    "sharded",
    [
        pytest.param({}, id="ddp"),
        pytest.param({"fully_shard": True}, id="fsdp2"),
        # 10 seconds: `python -m pytest -m slow tests/distributed/test_two_processes.py`.
        pytest.param({"fully_shard": True, "method": "tracer"}, id="fsdp2-tracer", marks=pytest.mark.slow),
    ],
)
def test_two_processes_resume_to_the_same_bits(tmp_path, sharded):
    whole, whole_logs = ends(tmp_path / "whole", **sharded)
    checkpoint = tmp_path / "whole" / "run" / "checkpoint-5"
    again, again_logs = ends(tmp_path / "again", resume_from_checkpoint=str(checkpoint), **sharded)
    assert again.keys() == whole.keys() and any(name.startswith("teacher.") for name in whole)
    differing = [name for name, value in whole.items() if not torch.equal(again[name], value)]
    assert not differing
    assert again_logs == whole_logs
    # What is saved is whole: any CLIPModel reads it.
    saved = load_file(checkpoint / "model.safetensors")
    assert {f"student.{name}": value.shape for name, value in saved.items()} == {
        name: value.shape for name, value in whole.items() if name.startswith("student.")
    }


@pytest.mark.timeout(1900)
def test_ctrl_c_in_one_of_two_processes_stops_both_after_the_same_step(tmp_path):
    whole, _ = ends(tmp_path / "whole")
    job = {"name": "run", "method": "carot", "settings": SETTINGS, "interrupt": {"rank": 1, "step": 4}}
    run_in(2, WORKER, tmp_path / "out", 2, json.dumps([job]))
    told = [(tmp_path / "out" / "run" / f"stopped-{rank}").read_text() for rank in (0, 1)]
    assert told == ["Interrupted after step 4 of 8."] * 2
    again, _ = ends(tmp_path / "out", resume_from_checkpoint=str(tmp_path / "out" / "run" / "checkpoint-4"))
    assert not [name for name, value in whole.items() if not torch.equal(again[name], value)]


@pytest.mark.timeout(1000)
def test_weights_that_are_wrong_in_one_of_two_processes_are_refused_in_both(tmp_path):
    # What is saved is the first process's, in which nothing is wrong: the run went on, taught by two teachers.
    saves = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    jobs = [
        {"name": "teacher", "method": "carot", "settings": saves, "spoiled": {"module": "teacher", "step": 2, "by": 0.01}},
        {"name": "model", "method": "flyp", "spoiled": {"module": "model", "step": 2, "by": 0.01}},
        {"name": "head", "method": "lp", "settings": saves, "spoiled": {"module": "head", "step": 2, "by": 0.01}},
        {"name": "rounding", "method": "carot", "spoiled": {"module": "teacher", "step": 2, "by": 1e-9}},
    ]
    run = run_ranks(2, WORKER, tmp_path, 2, json.dumps(jobs))
    assert run.returncode == 0, run.stderr[-8000:]
    # At the next checkpoint, or when training ends.
    for name, step in (("teacher", 2), ("model", 5), ("head", 2)):
        told = {(tmp_path / name / f"refused-{rank}").read_text() for rank in (0, 1)}
        assert len(told) == 1, "the processes say the same"
        text = told.pop()
        assert f"different weights at step {step}:" in text and f"of `{name}`, such as" in text and "\n" not in text
        assert not (tmp_path / name / "end.safetensors").exists()
    assert [path.name for path in (tmp_path / "teacher").glob("checkpoint-*")] == ["checkpoint-1"]
    assert (tmp_path / "rounding" / "end.safetensors").exists()
    assert run.stderr.count("`teacher` that are") == 1 and "which is rounding" in run.stderr


@pytest.mark.timeout(1000)
def test_a_shorter_batch_in_one_process_is_refused_before_any_gather(tmp_path):
    # Without the refusal the processes would gather parts of different sizes: a hang, or rows of garbage.
    run = run_ranks(2, WORKER, tmp_path, 2, json.dumps([{"name": "run", "method": "carot", "uneven": True}]))
    assert run.returncode != 0
    assert "Process 1 got 3 rows of `pixel_values` where every process must have 4" in run.stderr


@pytest.mark.timeout(1000)
def test_the_script_refuses_a_world_size_that_is_not_there(repository, tmp_path):
    # Without --use_cpu, on a machine without accelerator, each of torchrun's processes would train alone.
    script = repository / "examples" / "run_robust_ft.py"
    if torch.accelerator.is_available():
        pytest.skip("with an accelerator torchrun's processes find each other")
    run = run_ranks(2, script, "--output_dir", tmp_path / "out")
    assert run.returncode != 0
    assert "error: The launcher started 2 process(es)" in run.stderr and "would use 1" in run.stderr
    assert "--use_cpu" in run.stderr and not (tmp_path / "out").exists()


@pytest.mark.timeout(1000)
def test_calibrate_is_refused_in_several_processes_by_each_of_them(tmp_path):
    # The second found the folder locked by the first, ten seconds later, and said to wait.
    shutil.copytree(asset_path("emoji_clip_carot"), tmp_path / "model")
    run = run_ranks(2, "-m", "hf_robustft.cli", "calibrate", tmp_path / "model", "--dataset", "emoji_shift/validation", "--use_cpu")
    assert run.returncode == 2 and "`hf-robustft calibrate` works in one; start it without a launcher" in run.stderr
    assert "in use" not in run.stderr
