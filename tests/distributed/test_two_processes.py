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


@pytest.mark.parametrize("method", ["carot", "ft"])
def test_two_processes_equal_one(method, tmp_path):
    ends, logs = [], []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        output.mkdir()
        arguments = [method, output, processes]
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
    assert ("loss/self_distillation" in terms) == (method == "carot")


def test_the_script_refuses_a_world_size_that_is_not_there(repository, tmp_path):
    script = repository / "examples" / "run_robust_ft.py"
    run = launch([script, "--use_cpu", "--output_dir", tmp_path], WORLD_SIZE="2")
    assert run.returncode != 0
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "WORLD_SIZE=2" in last and "torchrun" in last
