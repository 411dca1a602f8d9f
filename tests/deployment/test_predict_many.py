# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Ten thousand images, fifty of them broken: all are answered, the fifty are named, memory is flat, and kills lose and double nothing.

Minutes; `python -m pytest -m slow tests/deployment/test_predict_many.py -s` prints what was measured.
"""

import csv
import json
import random
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


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    """The answers of a command that nothing disturbed, with what it needed and printed."""
    output = tmp_path_factory.mktemp("whole") / "whole.csv"
    return output, *measured(folders[1], "--output", output)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_images_need_the_memory_of_a_thousand_and_the_broken_ones_are_named(folders, whole, tmp_path):
    small, large, bad = folders
    output, found, said = whole
    few, _ = measured(small, "--output", tmp_path / "few.csv")
    print(f"\nPeak memory: {few['peak']:.0f} MiB for {N // 10:,} images, {found['peak']:.0f} MiB for {N:,}\n{said}")
    with open(output, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == sorted(map(str, large.rglob("*.png"))) and len(rows) == N
    assert sorted(row["image"] for row in rows if row["error"]) == bad and f"{BROKEN}," in said
    # Of which the names of nine thousand files take a part.
    assert found["peak"] - few["peak"] < 24


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_lose_and_double_nothing_of_ten_thousand_images(folders, whole, tmp_path):
    draw, output, kills, known = random.Random(1), tmp_path / "killed.csv", 0, 0
    parts = tmp_path / ".killed.csv.parts"
    while True:
        run, begun, wait = started(folders[1], "--output", output), None, draw.uniform(0.1, 3)
        while kills < 4 and run.poll() is None:
            # From the first part of this process on, at a random time.
            if begun is None and len(list(parts.glob("0*"))) > known:
                begun = time.monotonic()
            if begun is not None and time.monotonic() - begun > wait:
                run.kill()
                break
            time.sleep(0.02)
        _, err = run.communicate()
        if run.returncode == 0:
            break
        assert run.returncode == -9, err[-2000:]
        kills, known = kills + 1, len(list(parts.glob("0*")))
    print(f"\nKilled {kills} times, the last time after {known} parts, and continued: the same {output.stat().st_size:,} bytes")
    assert kills == 4 and output.read_bytes() == whole[0].read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
