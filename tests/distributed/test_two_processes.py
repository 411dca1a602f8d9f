# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Two processes with half a batch each are one process with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("train_worker.py")


def launch(command: list, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300
    )


def torchrun(processes: int, script, *arguments) -> subprocess.CompletedProcess:
    return launch(["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes, script, *arguments])


@pytest.mark.parametrize("method", ["carot", "ft", "croft", "carot+croft"])
def test_two_processes_equal_one(method, tmp_path):
    ends, logs = [], []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        output.mkdir()
        arguments = [method, output, processes, "{}"]
        run = launch([WORKER, *arguments]) if processes == 1 else torchrun(processes, WORKER, *arguments)
        assert run.returncode == 0, run.stderr[-3000:]
        ends.append(load_file(output / "end.safetensors"))
        logs.append(json.loads((output / "logs.json").read_text()))
    one, two = ends
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
    assert len(logs[0]) == len(logs[1]) >= 3
    for before, after in zip(*logs, strict=True):
        assert before.keys() == after.keys()
        for name, value in before.items():
            assert after[name] == pytest.approx(value, rel=1e-9), name
    terms = {name for entry in logs[0] for name in entry}
    assert ("loss/self_distillation" in terms) == ("carot" in method)
    assert ("loss/energy_gradient" in terms) == ("croft" in method)


def test_two_processes_resume_to_the_same_bits(tmp_path):
    # Three steps an epoch, shuffled: step 5 is in the middle of the second. Its order must not be the first epoch's.
    settings = {"max_steps": 8, "train_sampling_strategy": "random", "save_strategy": "steps", "save_steps": 5}
    settings |= {"logging_steps": 2}
    ends = []
    for resumed in (False, True):
        if resumed:
            settings["resume_from_checkpoint"] = str(tmp_path / "checkpoint-5")
            (tmp_path / "end.safetensors").rename(tmp_path / "whole.safetensors")
        run = torchrun(2, WORKER, "carot", tmp_path, 2, json.dumps(settings))
        assert run.returncode == 0, run.stderr[-3000:]
        ends.append((load_file(tmp_path / "end.safetensors"), json.loads((tmp_path / "logs.json").read_text())))
    (whole, whole_logs), (again, again_logs) = ends
    for name, value in whole.items():
        assert torch.equal(again[name], value), name
    assert again_logs == whole_logs


def test_the_script_refuses_a_world_size_that_is_not_there(repository, tmp_path):
    # Without --use_cpu, on a machine without accelerator, each of torchrun's processes would train alone.
    script = repository / "examples" / "run_robust_ft.py"
    if torch.accelerator.is_available():
        pytest.skip("with an accelerator torchrun's processes find each other")
    run = torchrun(2, script, "--output_dir", tmp_path / "out")
    assert run.returncode != 0
    assert "error: The launcher started 2 process(es)" in run.stderr and "would use 1" in run.stderr
    assert "--use_cpu" in run.stderr and not (tmp_path / "out").exists()
