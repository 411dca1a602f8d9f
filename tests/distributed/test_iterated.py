# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Two processes that iterate a data set of unknown length are one process with the whole batch."""

import json
from pathlib import Path

import pytest
from launching import run_in
from safetensors.torch import load_file

WORKER = Path(__file__).with_name("train_worker.py")
#: Method, examples, and micro-batches of a step: whole passes; an incomplete last batch; an incomplete last step.
CASES = [("flyp", 24, 1), ("flyp", 20, 1), ("flyp", 20, 2), ("carot", 24, 2), ("ft", 16, 2), ("flyp", [20, 11], 2)]


def trained(processes: int, folder: Path) -> list[tuple[dict, list]]:
    """Final weights and logs of each case."""
    jobs = [
        {"name": str(place), "method": method, "iterated": count, "settings": {"gradient_accumulation_steps": accumulated}}
        for place, (method, count, accumulated) in enumerate(CASES)
    ]
    run_in(processes, WORKER, folder, processes, json.dumps(jobs))
    folders = [folder / job["name"] for job in jobs]
    return [(load_file(f / "end.safetensors"), json.loads((f / "logs.json").read_text())) for f in folders]


@pytest.mark.timeout(1000)
def test_two_processes_equal_one(tmp_path):
    one, two = trained(1, tmp_path / "one"), trained(2, tmp_path / "two")
    for case, (want, logs), (got, got_logs) in zip(CASES, one, two, strict=True):
        assert got.keys() == want.keys()
        for name, value in want.items():
            assert (got[name] - value).abs().max() <= 1e-10, (case, name)
        assert [entry.keys() for entry in got_logs] == [entry.keys() for entry in logs], case
        got_losses, losses = ([entry["loss"] for entry in entries if "loss" in entry] for entries in (got_logs, logs))
        assert got_losses == pytest.approx(losses, rel=1e-10), case
    # What the other process would read plays no part: the first reads for all.
    assert one[2][1] == one[5][1] != one[1][1]
