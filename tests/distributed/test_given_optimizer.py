# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""With an optimizer that is given, too, two processes are one: what trains beside the model trains and stays the same."""

import json
from pathlib import Path

import pytest
from launching import run_in
from test_equal_to_one import LIMITS, assert_equal, load_file

WORKER = Path(__file__).with_name("train_worker.py")
JOBS = [{"name": method, "method": method, "optimizer": "given"} for method in ("ft", "croft", "carot+croft")]


@pytest.mark.timeout(900)
def test_a_given_optimizer_in_two_processes(tmp_path):
    for processes in (1, 2):
        run_in(processes, WORKER, tmp_path / str(processes), processes, json.dumps(JOBS))
    for job in JOBS:
        one, two = (load_file(tmp_path / processes / job["name"] / "end.safetensors") for processes in "12")
        beside = [name for name in one if name.startswith(("head.", "adapters."))]
        assert len(beside) == 2 and all(one[name].abs().max() > 0 for name in beside)
        assert_equal(two, one, LIMITS["end"])
