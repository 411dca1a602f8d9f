#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
How long a command takes to print its help or to refuse what is wrong: the whole process, and what it imports.

    python examples/speed/start_up.py --output outputs/start_up.json                   # a minute on an idle core
    python examples/speed/start_up.py --package ../another/clone                       # of another version, for a comparison

Of each command line the least of `--rounds` runs counts, after one that fills the file cache. Time of the processor (user and
system) is shown beside that of the clock, since it says the same while other work runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
SCRIPT = "examples/run_robust_ft.py"
DATA = ["--eval_datasets", "emoji_shift"]
#: Of each program its help, and mistakes: in a flag, a value, a model, data, and options that do not go together.
CASES = {
    "hf-robustft": {"help": ["--help"], "flag": ["evalute"]},
    "train": {
        "help": ["--help"],
        "flag": ["--learning_rat", "1"],
        "value": ["--max_steps", "many"],
        "model": ["--model", "/no/model"],
        "data": ["--train_dataset", "/no/data"],
        "options": ["--method", "ft", "--distillation_weight", "1"],
    },
    "evaluate": {
        "help": ["--help"],
        "flag": ["emoji_clip", *DATA, "--use_cp"],
        "value": ["emoji_clip", *DATA, "--batch_size", "many"],
        "model": ["/no/model", *DATA],
        "data": ["emoji_clip", "--eval_datasets", "/no/data"],
        "options": ["emoji_clip", *DATA, "--knn_k", "3"],
    },
    "compare": {
        "help": ["--help"],
        "flag": ["--rul", "id"],
        "value": ["--jobs", "many"],
        "model": ["--model", "/no/model"],
        "data": ["--train_dataset", "/no/data"],
    },
    "calibrate": {
        "help": ["--help"],
        "flag": ["/no/model", "--datset", "emoji_shift"],
        "value": ["/no/model", "--dataset", "emoji_shift", "--batch_size", "many"],
        "model": ["/no/model", "--dataset", "emoji_shift"],
    },
    "publish": {
        "help": ["--help"],
        "flag": ["/no/model", "--repo_id", "a/b", "--dryrun"],
        "value": ["/no/model", "--repo_id", "a/b", "--retries", "many"],
        "model": ["/no/model", "--repo_id", "a/b"],
    },
}
CASES[SCRIPT] = CASES["train"]


def run(words: list[str], folder: str, package: Path) -> tuple[float, float, set[str]]:
    """Seconds of the clock and of the processor that a command line takes, and the modules that it imports."""
    # As an installed package is, which has its bytecode.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(  # noqa: S603
        [sys.executable, *words], cwd=folder, env=environment | {"PYTHONPATH": str(package)}, capture_output=True, text=True
    )
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 2):
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr}")
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, modules


def measure(package: Path, rounds: int) -> list[dict]:
    """A row for each of `CASES`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for command, cases in CASES.items():
            program = [str(package / SCRIPT)] if command == SCRIPT else ["-m", "hf_robustft.cli"]
            program += [] if command in (SCRIPT, "hf-robustft") else [command]
            for case, words in cases.items():
                _, _, modules = run(["-X", "importtime", *program, *words], folder, package)
                times = [run([*program, *words], folder, package)[:2] for _ in range(rounds)]
                wall, processor = (min(column) for column in zip(*times, strict=True))
                rows.append({"command": command, "case": case, "wall": wall, "processor": processor, "torch": "torch" in modules})
    return rows


def table(rows: list[dict]) -> str:
    """Markdown: a line per command; seconds of the processor / of the clock, with a star where torch was imported."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines = [f"| s of the processor / clock | {' | '.join(cases)} |", f"|:--|{'--:|' * len(cases)}"]
    for command in dict.fromkeys(row["command"] for row in rows):
        found = {row["case"]: row for row in rows if row["command"] == command}
        cells = [
            f"{found[case]['processor']:.2f} / {found[case]['wall']:.2f}{'*' if found[case]['torch'] else ''}" if case in found else ""
            for case in cases
        ]
        lines.append(f"| `{command}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, default=HERE, help="The clone to measure (default: this one).")
    parser.add_argument("--rounds", type=int, default=3, help="Runs of each command line (default: 3).")
    parser.add_argument("--output", type=Path, help="A JSON file for the rows.")
    options = parser.parse_args()
    rows = measure(options.package.resolve(), options.rounds)
    print(table(rows))
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        machine = {"platform": platform.platform(), "processor": platform.machine(), "python": platform.python_version()}
        options.output.write_text(json.dumps({"machine": machine, "rounds": options.rounds, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
