# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
CaRot on a stream for as long as it is let: two workers, images that cannot be read, a server that fails now and then.

What grows shows in an hour: memory, open files, processes. Then it is interrupted, and must have counted right.

    python tests/hub/test_soak.py --minutes 60 --table soak.md
    python -m pytest -m slow tests/hub/test_soak.py
"""

from __future__ import annotations

import argparse
import io
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets
import numpy as np
import psutil
import pytest
import torch
from helpers import CLASSES, tiny_config, tiny_processor
from helpers.broken_images import broken
from transformers import CLIPModel

from hf_robustft.training.checkpoint_files import whole_state
from hub.benchmark_stand_ins import picture
from hub.loopback import LoopbackHub

#: Of the stream: each shard is a file, and one image of each cannot be read.
SHARDS, ROWS = 6, 64
BATCH = 16
#: Seconds between two looks at the processes, and at most between two faults of the server.
LOOK, FAULT = 5.0, 20.0
#: What a request may meet, once.
FAULTS = ({"status": 503}, {"status": 500}, {"status": 429, "headers": {"Retry-After": "1"}}, {"reset": True}, {"cut": 900}, {"delay": 2.0})
#: Share of the time after which memory is no longer that of a start.
SETTLED = 0.25


def shard(number: int) -> bytes:
    """A parquet file of images with their labels, one of which is broken in a way of its own."""
    labels = [(number + row) % len(CLASSES) for row in range(ROWS)]
    images = [picture(label, seed=number * ROWS + row) for row, label in enumerate(labels)]
    kinds = [content for name, (_, content) in broken().items() if name != "folder"]
    images[number % ROWS] = kinds[number % len(kinds)]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=list(CLASSES))})
    rows = {"image": [{"bytes": image, "path": None} for image in images], "label": labels}
    file = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=features).cast_column("image", datasets.Image()).to_parquet(file)
    return file.getvalue()


def own_memory(process: psutil.Process) -> float:
    """
    What a process has written, in MiB, of pages that it shares with others a part. Of the libraries' files that part depends on
    who else uses them: it rises when another process ends.
    """
    rollup = Path(f"/proc/{process.pid}/smaps_rollup")
    if rollup.exists():
        lines = dict(line.split(":") for line in rollup.read_text().splitlines()[1:])
        if {"Pss_Anon", "Pss_Shmem"} <= lines.keys():
            return sum(int(lines[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem")) / 1024
    # What is theirs alone grows as children write into pages that they were forked with.
    memory = process.memory_full_info()
    return getattr(memory, "pss", memory.uss) / 2**20


def look(process: psutil.Process) -> dict[str, float]:
    """What a process and its children hold: memory in MiB (see `own_memory`), open files, threads, and how many they are."""
    found = {"memory": 0.0, "files": 0, "threads": 0, "processes": 0}
    for one in (process, *process.children(recursive=True)):
        try:
            with one.oneshot():
                seen = {"memory": own_memory(one), "files": one.num_fds(), "threads": one.num_threads(), "processes": 1}
        except (psutil.Error, OSError):
            continue
        for name, value in seen.items():
            found[name] += value
    return found


def slope(seconds: list[float], values: list[float]) -> float:
    """By how much a value grows in an hour, as a line of least squares has it."""
    return float(np.polyfit(seconds, values, 1)[0] * 3600)


def soak(folder: Path, minutes: float, seed: int = 0, say=lambda *words: None) -> dict:
    """
    Train, look, and interrupt.

    Args:
        folder: Where all of it lies.
        minutes: How long training goes on.
        seed: Of the faults.
        say: Told of each look.

    Returns:
        Figures: steps, the checkpoint's counters, faults by kind, and of each thing that is held its mean, its last and its slope.
    """
    torch.manual_seed(0)
    CLIPModel(tiny_config()).save_pretrained(folder / "base")
    tiny_processor().save_pretrained(folder / "base")
    command = "-m hf_robustft.cli train --method carot --model base --train_dataset alice/pictures --streaming --output_dir out".split()
    command += f"--per_device_train_batch_size {BATCH} --max_steps 10000000 --save_strategy steps --save_steps 200 --save_total_limit 2".split()
    command += "--bad_images_threshold 0.05 --dataloader_num_workers 2 --logging_steps 200 --use_cpu --report_to none --disable_tqdm true --learning_rate 1e-5".split()
    draw, looks, met = random.Random(seed), [], {}
    with LoopbackHub() as hub:
        hub.seed("dataset", "alice/pictures", {f"data/train-{n:05d}-of-{SHARDS:05d}.parquet": shard(n) for n in range(SHARDS)})
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        environment |= {"OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        environment |= {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        with open(folder / "log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=folder, env={**psutil.Process().environ(), **environment}, stdout=log, stderr=log
            )
            try:
                watched = psutil.Process(process.pid)
                while not list(folder.glob("out/checkpoint-*")) and process.poll() is None:
                    time.sleep(0.2)
                began = next_fault = time.monotonic()
                while (now := time.monotonic()) < began + 60 * minutes and process.poll() is None:
                    looks.append({"seconds": now - began, **look(watched)})
                    say(looks[-1])
                    if now >= next_fault:
                        how = draw.choice(FAULTS)
                        hub.fail(r"GET .*(resolve|objects)", times=1, after=draw.randrange(4), **how)
                        met[str(how)] = met.get(str(how), 0) + 1
                        next_fault = now + draw.uniform(FAULT / 4, FAULT)
                    time.sleep(LOOK)
                if process.poll() is None:
                    # A shell lets what it starts in the background ignore Ctrl-C.
                    process.send_signal(signal.SIGTERM)
                status = process.wait(timeout=600)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        failed = [request for request in hub.log if request.status in (500, 503, 429, "RESET")]
        left = len(hub.faults) and sum(fault.times for fault in hub.faults)
    words = (folder / "log").read_text(errors="replace")
    last = max(folder.glob("out/checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    assert status == 143 and last is not None, words[-3000:]
    state, counted = whole_state(last), json.loads((last / "trainer_state.json").read_text())
    kept = [item for item in looks if item["seconds"] >= SETTLED * looks[-1]["seconds"]]
    return {
        "minutes": minutes,
        "steps": counted["global_step"],
        "optimizer_steps": state["optimizer_steps"],
        "passes": counted["epoch"],
        "requests": len(hub.log),
        "failed_requests": len(failed),
        "faults": met,
        "faults_not_met": left,
        "last_words": words.strip().splitlines()[-1],
        "skipped_is_said": "image" in words and "skipped" in words,
        "last_loss": [entry["loss"] for entry in counted["log_history"] if "loss" in entry][-1],
        "held": {
            name: {
                "mean": float(np.mean([item[name] for item in kept])),
                "last": kept[-1][name],
                "most": max(item[name] for item in kept),
                "in_an_hour": slope([item["seconds"] for item in kept], [item[name] for item in kept]),
            }
            for name in ("memory", "files", "threads", "processes")
        },
    }


def table(found: dict) -> str:
    """The figures in Markdown."""
    units = {"memory": "Memory, MiB", "files": "Open files", "threads": "Threads", "processes": "Processes"}
    rows = [f"| {units[name]} | {of['mean']:.1f} | {of['most']:.1f} | {of['last']:.1f} | {of['in_an_hour']:+.1f} |" for name, of in found["held"].items()]
    return "\n".join(
        [
            f"{found['minutes']:g} minutes, {found['steps']:,} steps ({found['passes']:,.0f} times the number of the stream's {SHARDS * ROWS} images, {SHARDS} of which cannot "
            f"be read), {found['requests']:,} requests, of which {found['failed_requests']} failed; last loss {float(found['last_loss']):.3f}.",
            "",
            "| Held | Mean | Most | At the end | Grows in an hour by |",
            "|---|---:|---:|---:|---:|",
            *rows,
        ]
    )


def check(found: dict) -> None:
    """What must hold of any length."""
    assert found["optimizer_steps"] == found["steps"] > 0
    assert found["passes"] * SHARDS * ROWS == pytest.approx(found["steps"] * BATCH)
    assert found["failed_requests"] > 0 and found["skipped_is_said"] and "--resume_from_checkpoint" in found["last_words"]
    assert np.isfinite(float(found["last_loss"])) and found["held"]["processes"]["most"] <= 4
    assert found["held"]["files"]["last"] <= found["held"]["files"]["mean"] + 20


@pytest.mark.slow  # Three minutes on two cores.
def test_three_minutes_of_a_stream_that_fails_now_and_then(tmp_path):
    check(soak(tmp_path, 2.0))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        figures = soak(Path(place), given.minutes, given.seed, lambda seen: print(json.dumps(seen), flush=True))
    print(json.dumps(figures, indent=1))
    print(table(figures))
    if given.table:
        given.table.write_text(table(figures) + "\n")
    check(figures)
