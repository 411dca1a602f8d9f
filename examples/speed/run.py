# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Measures how fast training and evaluation are, and writes a table and `speed.json`.

    python examples/speed/run.py --output_dir outputs/speed                 # everything, 30 minutes on two idle cores
    python examples/speed/run.py --output_dir outputs/speed --only a c      # some items
    python examples/speed/run.py --output_dir outputs/speed --quick         # a tiny model: tries the suite, not the speed

a  CaRot step over a bare PyTorch loop that computes the last layers whole
b  CaRot step over FLYP step
c  CaRot step over a reference-style step (captions padded to 77, nothing reused, one parameter after the other)
d  memory of a step at batch 512 by chunk size (gradient cache), over batch 32
e  zero-shot head of 80,000 prompts, trimmed over padded
f  CRoFT epoch on cached features, over images
g  metrics of 50,000 x 1,000 logits: seconds and memory
h  2 processes over 1
t  TRACER step over CaRot and FLYP steps
i  reading a training picture over CLIPImageProcessor (more of it: data_path.py)
p  evaluating JPEG files, over CLIP_benchmark's loop and the zero-shot pipeline of Transformers
s  memory of evaluating 50,000 images as a stream, over 5,000
v  logits of a batch of images in evaluation, over the plain forward pass
gpu  images a second and utilisation on an accelerator, if there is one
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib import import_module
from pathlib import Path

ITEMS = {"a": "steps", "b": "steps", "c": "steps", "t": "steps", "d": "memory", "e": "heads", "f": "croft", "g": "scores"}
ITEMS |= {"h": "processes", "i": "pictures", "p": "evaluations", "s": "evaluations", "v": "embeddings", "gpu": "gpu"}
RESULTS = "speed.json"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, as a namespace with every size filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help=f"folder for {RESULTS} and table.md")
    parser.add_argument("--only", nargs="+", choices=list(ITEMS), default=list(ITEMS), help="items to measure")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the suite itself")
    parser.add_argument("--model", choices=["tiny", "vit-b-32", "vit-b-16", "vit-l-14"], help="default vit-b-32")
    parser.add_argument("--batch", type=int, help="pairs in a step, default 32")
    parser.add_argument("--rounds", type=int, help="steps of each side that count, default 8")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch in a process, default 2")
    options = parser.parse_args(arguments)
    quick = options.quick
    options.model = options.model or ("tiny" if quick else "vit-b-32")
    options.batch = options.batch or (8 if quick else 32)
    options.rounds = options.rounds or (2 if quick else 8)
    options.warm = 1 if quick else 3
    options.prompts, options.images = (64, 16) if quick else (1000, 512)
    options.stream = 400 if quick else 50_000
    options.logits = (500, 10) if quick else (50_000, 1000)
    if options.batch < 4 or options.rounds < 1 or options.threads < 1:
        parser.error("--batch must be at least 4, --rounds and --threads at least 1")
    return options


def measure(options: argparse.Namespace, progress, finished) -> list:
    """The rows of the chosen items, in their order; `finished` is called with those so far after each item."""
    rows = []
    for item in sorted(set(options.only), key=list(ITEMS).index):
        module = import_module(ITEMS[item])
        rows += (
            module.measure(options, progress, item) if ITEMS[item] in ("steps", "evaluations") else module.measure(options, progress)
        )
        finished(rows)
    return rows


def machine(threads: int) -> dict[str, str]:
    """What the numbers were measured on."""
    import psutil
    import torch
    import transformers

    from hf_robustft.publishing.hardware import describe_hardware

    torch.set_num_threads(threads)
    return {
        "hardware": describe_hardware(),
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the files; returns 0 also where a limit was missed, which the table says."""
    options = parse(arguments)
    # The children read these; nothing here is fetched.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from rich.console import Console
    from table import as_markdown, as_table

    options.output_dir.mkdir(parents=True, exist_ok=True)
    start, console, path = time.perf_counter(), Console(), options.output_dir / RESULTS
    facts = machine(options.threads)
    settings = {name: str(value) if name == "output_dir" else value for name, value in vars(options).items()}
    command = " ".join(["python examples/speed/run.py", *(sys.argv[1:] if arguments is None else arguments)])

    def write(rows: list) -> None:
        result = {
            "machine": facts,
            "command": command,
            "settings": settings,
            "seconds": round(time.perf_counter() - start, 1),
            "ratios": {row.item: row.ratio for row in rows if row.ratio is not None},
            "rows": [row.as_json() for row in rows],
        }
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (options.output_dir / "table.md").write_text(as_markdown(rows) + "\n", encoding="utf-8")

    with Console(stderr=True).status("starting") as status:
        # After each item, so that a run that is stopped leaves what it has measured.
        rows = measure(options, status.update, write)
    title = f"{options.model}, batch {options.batch}, float32 on {facts['hardware']}"
    console.print(as_table(rows, title, judged=not options.quick))
    console.print(f"{(time.perf_counter() - start) / 60:.1f} minutes; written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
