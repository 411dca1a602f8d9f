# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Streams in two processes: each image of an evaluation once, and a training that resumes at the same rows."""

import json
import random
from pathlib import Path

import pytest
import torch
from helpers import tiny_config, tiny_processor
from helpers.streams import WRITERS, Numbered, benchmark, recorded
from launching import run_in
from safetensors.torch import load_file
from transformers import CLIPModel

from hf_robustft.data.streams.order import Position
from hf_robustft.data.streams.rows import ROW_BITS
from hf_robustft.evaluation.collect import collect_logits

WORKER = Path(__file__).with_name("stream_worker.py")
SHARDS = {1: (11,), 3: (5, 2, 4), 8: (1, 2, 1, 2, 1, 1, 2, 1)}
#: 22 rows in batches of two: five whole steps of two processes and a half in a pass.
SIZES = {"parquet": (5, 9, 8), "tar": (22,)}


def run(output: Path, jobs: list[dict]) -> dict[str, list[dict]]:
    """What each process wrote of each job."""
    run_in(2, WORKER, output, json.dumps(jobs))
    return {
        job["name"]: [json.loads((output / f"{job['name']}-{rank}.json").read_text()) for rank in range(2)]
        for job in jobs
    }


@pytest.mark.timeout(1000)
def test_two_processes_with_two_workers_score_each_image_once(tiny_clip, tmp_path):
    jobs = []
    for kind in ("parquet", "tar"):
        for shards, sizes in SHARDS.items():
            folder = str(WRITERS[kind](tmp_path / f"{kind}{shards}", sizes))
            jobs.append({"name": f"{kind}{shards}", "kind": kind, "folder": folder, "workers": 2, "own": True})
    short = {**jobs[1], "name": "short", "declared": 12, "workers": 0}
    Path(folder := str(tmp_path / "broken")).mkdir()
    WRITERS["tar"](Path(folder), (4, 4))
    file = tmp_path / "broken" / "train" / "00001.tar"
    content = file.read_bytes()
    place = content.index(b"\x89PNG")
    file.write_bytes(content[:place] + bytes(64) + content[place + 64 :])
    broken = {"name": "broken", "kind": "tar", "folder": folder, "workers": 0}
    results = run(tmp_path / "out", [*jobs, short, broken])
    for job in jobs:
        one, two = results[job["name"]]
        assert (one["logits"], one["labels"]) == (two["logits"], two["labels"])
        assert one["labels"] == [n % 4 for n in range(11)]
        chosen = benchmark(job["kind"], Path(job["folder"]), (), role="id")
        alone, _ = collect_logits(tiny_clip, chosen, tiny_processor(), batch_size=4, progress=False)
        torch.testing.assert_close(torch.tensor(one["logits"]), alone, rtol=1e-5, atol=1e-6)
        own = one["own"] + two["own"]
        assert len(own) == len(set(own)) == 11 and one["own"] and two["own"]
    for told in results["short"]:
        assert told["error"].startswith("OSError: data set 'short': 11 rows were read, but the data set itself says")
    assert "row 0 of shard 1" in results["broken"][1]["error"]
    assert results["broken"][0]["error"].startswith("RuntimeError: Evaluation on 'broken' failed in process 1")


class Replayed(Numbered):
    """Streaming examples in the order of given rows `(pass, row)`."""

    order: list[tuple[int, int]] = []

    def examples(self, reader=0, readers=1, position=None):
        for epoch, index in self.order:
            shard, row = index >> ROW_BITS, index & ((1 << ROW_BITS) - 1)
            (_, example), *_ = self.stream.rows(shard, row)
            yield Position(), self.example(example, epoch, index, "a row")


def test_two_processes_over_unequal_shards_train_as_one_process_does(tmp_path):
    # Dealt out whole, the short shard would come again and again while the long one is not half through.
    folder = str(WRITERS["parquet"](tmp_path / "rows", (2, 22)))
    settings = {"num_train_epochs": 2, "seed": 3, "learning_rate": 0.1, "optim": "sgd"}
    job = {"name": "two", "kind": "parquet", "folder": folder}
    job["train"] = {**settings, "per_device_train_batch_size": 3, "save_at": [8]}
    found = run(tmp_path / "out", [job])["two"]
    steps = [[tuple(row) for process in found for row in process["seen"][step]] for step in range(8)]
    for first in (0, 4):
        seen = [index for step in steps[first : first + 4] for _, index in step]
        assert len(seen) == len(set(seen)) == 24, "each row once in a pass, as in one process"
    torch.manual_seed(0)
    model, described = CLIPModel(tiny_config()).eval(), benchmark("parquet", Path(folder), ())
    alone = recorded(model, described, tmp_path / "one", **settings, per_device_train_batch_size=6)
    for first in (0, 4):
        assert len({index for step in alone[first : first + 4] for _, index in step}) == 24
    Replayed.order = [row for step in steps for row in step]
    again = {**settings, "per_device_train_batch_size": 6, "save_at": [8], "kind": Replayed}
    assert recorded(model, described, tmp_path / "again", **again) == steps
    places = tmp_path / "again", tmp_path / "out" / "two"
    one, two = (load_file(place / "checkpoint-8" / "model.safetensors") for place in places)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)


#: Every second combination by default; each pair of combinations trains eight short runs in two processes.
MORE = pytest.mark.slow(reason="the other two combinations of files and workers take as long again")


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order and the same number of processes")
@pytest.mark.timeout(1900)
@pytest.mark.parametrize(
    "cases",
    [[("parquet", 0), ("tar", 2)], pytest.param([("parquet", 2), ("tar", 0)], marks=MORE)],
    ids=["two", "more"],
)
def test_two_processes_resume_at_the_same_rows_in_every_pass(tmp_path, cases):
    whole, resumed = [], []
    for kind, workers in cases:
        folder, name = str(WRITERS[kind](tmp_path / kind, SIZES[kind])), f"{kind}{workers}"
        draw = random.Random(name)
        steps = [draw.randrange(*bounds) for bounds in ((1, 6), (6, 11), (11, 15))]
        settings = {"num_train_epochs": 3, "dataloader_num_workers": workers}
        job = {"name": name, "kind": kind, "folder": folder, "train": {**settings, "save_at": steps}}
        whole.append(job)
        for step in steps:
            checkpoint = tmp_path / "out" / name / f"checkpoint-{step}"
            again = {"name": f"{name}-{step}", "resume": str(checkpoint), "train": settings}
            resumed.append(({**job, **again}, name, step))
    results = run(tmp_path / "out", [*whole, *(job for job, _, _ in resumed)])
    for job in whole:
        seen = [tuple(row) for part in results[job["name"]] for batch in part["seen"] for row in batch]
        assert len(seen) == len(set(seen)) == 60, "no row comes twice in a pass"
        assert {epoch for epoch, _ in seen} >= {0, 1, 2}
    for job, name, step in resumed:
        for rank in range(2):
            wanted = results[name][rank]["seen"][step:]
            assert wanted and results[job["name"]][rank]["seen"] == wanted, (name, step, rank)
