# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Ten thousand images, fifty of them broken: all are answered, the fifty are named, memory is flat, and kills lose and double nothing.

Minutes; `python -m pytest -m slow tests/deployment/test_predict_many.py -s` prints what was measured.
"""

import csv
import json
import random
import re
import subprocess
import sys
import time

import pytest
from helpers.broken_images import broken

from hf_robustft import load_benchmark

N, BROKEN = 10_000, 50
#: Prints the peak of its memory in MiB, and the seconds since it was begun.
PROGRAM = """
import json, resource, sys, time
began = time.time()
from hf_robustft.cli import main
status = main(sys.argv[1:])
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "seconds": time.time() - began}))
sys.exit(status)
"""


def started(*words, **more) -> subprocess.Popen:
    command = [sys.executable, "-c", PROGRAM, "predict", "emoji_clip_carot", *map(str, words), "--use_cpu", "--disable_tqdm", "--num_workers", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def measured(*words) -> tuple[dict, str]:
    run = started(*words)
    out, err = run.communicate()
    assert run.returncode == 0, err[-2000:]
    *said, last = out.splitlines()
    return json.loads(last), "\n".join(said)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of 1,000 and of 10,000 images of Emoji Shift; in the second fifty are broken in thirteen ways."""
    rows = load_benchmark("emoji_shift", "noto").load()
    encoded = [rows[index]["image"] for index in range(len(rows))]
    contents, draw = [], random.Random(0)
    small, large = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("large")
    for number in range(N):
        if number < len(encoded):
            (large / "first").mkdir(exist_ok=True)
            encoded[number].save(large / "first" / f"{number:05}.png")
            contents.append((large / "first" / f"{number:05}.png").read_bytes())
        else:
            place = large / f"{number // 1000}"
            place.mkdir(exist_ok=True)
            (place / f"{number:05}.png").write_bytes(contents[number % len(contents)])
    for number in range(N // 10):
        (small / f"{number:05}.png").write_bytes(contents[number % len(contents)])
    faults = [content for fault, content in broken().items() if fault != "folder"]
    files = sorted(large.rglob("*.png"))
    bad = draw.sample(files, BROKEN)
    for number, path in enumerate(bad):
        path.write_bytes(faults[number % len(faults)][1])
    return small, large, sorted(map(str, bad))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_images_with_broken_ones_and_kills(folders, tmp_path):
    small, large, bad = folders
    few, _ = measured(small, "--output", tmp_path / "few.csv")
    whole, said = measured(large, "--output", tmp_path / "whole.csv")
    print(f"\nPeak memory: {few['peak']:.0f} MiB for {N // 10:,} images, {whole['peak']:.0f} MiB for {N:,}\n{said}")
    with open(tmp_path / "whole.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(map(str, large.rglob("*.png"))) and len(rows) == N
    assert sorted(row["image"] for row in rows if row["error"]) == bad and f"{BROKEN}," in said
    # Less than what nine thousand names of files take, and a small part of a thousand images.
    assert whole["peak"] - few["peak"] < 24

    draw, output, kills, reached = random.Random(1), tmp_path / "killed.csv", 0, [0]
    parts = tmp_path / ".killed.csv.parts"
    while True:
        run = started(large, "--output", output)
        begun = time.monotonic()
        wait = draw.uniform(0.2, 4)
        while run.poll() is None and kills < 8:
            # From the first part of this process on, at a random time.
            count = len(list(parts.glob("0*"))) if parts.is_dir() else 0
            if count <= len(reached) - 1:
                begun = time.monotonic()
            if time.monotonic() - begun > wait:
                run.kill()
                break
            time.sleep(0.02)
        _, err = run.communicate()
        if run.returncode == 0:
            break
        assert run.returncode == -9, err[-2000:]
        kills += 1
        ends = [int(re.match(r"\d+-(\d+)", path.name)[1]) for path in parts.glob("0*")]
        reached = [0] * (len(ends) + 1)
    assert kills >= 3
    print(f"Killed {kills} times and continued: the same {output.stat().st_size:,} bytes")
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
