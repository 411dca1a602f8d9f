# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Measures what more reading processes cost: files, kept levels (`--cache_images uint8`) and tars, with 1 to 16 of them.

    python examples/speed/readers.py --output_dir outputs/readers             # some minutes on idle cores
    python examples/speed/readers.py --output_dir outputs/readers --quick     # few small files: tries the script

Each row is a loader of its own, with pictures of 500 x 375 pixels, cropped to 224 as in training. Its first pass starts the
processes and fills what is kept; the passes after it are measured. Where there are more processes than cores, images per second
say nothing of a larger machine. What the processor does for an image does: if it stays level, readers do not hold each other up,
and each core that is added reads as much again. What the receiving process does for an image is what no reader can take from it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace

from memory import in_a_process

RESULTS = "readers.json"
PROCESSES = (1, 2, 8, 16)
SOURCES = {"files": "JPEG files", "kept": "kept levels", "tars": "tars of JPEG files"}
#: Tars can be shared out among so many readers.
SHARDS = 16
BATCH, CLASSES = 32, 10


@dataclass
class Reading:
    """
    What a loader took for a pass.

    Args:
        source (`str`): One of [`SOURCES`].
        processes (`int`): That read.
        images (`int`): Of a pass.
        seconds (`float`): Of a pass, median.
        reading, receiving (`float`): Seconds of the processor for an image, of all readers together and of the process that receives.
        own (`float`): Bytes of memory that a reader shares with no other process, mean.
        first (`float`): Seconds of the first pass, in which readers start.
    """

    source: str
    processes: int
    images: int
    seconds: float
    reading: float
    receiving: float
    own: float
    first: float


def read(source: str, processes: int, folder: str, images: int, passes: int) -> Reading:
    """
    Pass over the pictures; to be called in a process of its own.

    Args:
        source (`str`): One of [`SOURCES`].
        processes (`int`): That read.
        folder (`str`): As [`write`] left it.
        images (`int`): There.
        passes (`int`): That are measured, after a first one.

    Returns:
        [`Reading`]
    """
    import psutil
    import torch
    from torch.utils.data import DataLoader

    # What a run has imported, its readers hold too.
    from hf_robustft import CaRotTrainer  # noqa: F401
    from hf_robustft.training.kept_images import keeping_decoded

    torch.set_num_threads(1)
    # Of more readers than cores, which is what is asked here.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    if "fork" in multiprocessing.get_all_start_methods():
        # As in a run on Linux; this process was spawned.
        multiprocessing.set_start_method("fork", force=True)
    examples, collator = _examples(Path(folder), source)
    settings = {"batch_size": BATCH, "num_workers": processes, "persistent_workers": True, "collate_fn": collator}
    with ExitStack() as stack:
        kept = getattr(examples, "decoded", None)
        if kept is not None:
            stack.enter_context(keeping_decoded(kept, SimpleNamespace(output_dir=folder, local_process_index=0)))
        loader, here = DataLoader(examples, **settings), psutil.Process()

        def endless():
            while True:
                yield from loader

        batches = endless()

        def one_pass() -> float:
            start = time.perf_counter()
            # A stream has no end: its next pass is already being read when this one is through.
            for batch in itertools.islice(batches, images // BATCH):
                if len(batch["pixel_values"]) != BATCH:
                    raise RuntimeError(f"{source}: a batch of {len(batch['pixel_values'])} images came.")
            return time.perf_counter() - start

        def spent(process) -> float:
            times = process.cpu_times()
            return times.user + times.system

        first = one_pass()
        readers = here.children()
        before, mine, seconds = sum(map(spent, readers)), spent(here), []
        for _number in range(passes):
            seconds.append(one_pass())
        after, total = sum(map(spent, readers)), images * passes
        own = statistics.mean(reader.memory_full_info().uss for reader in readers)
        received = (spent(here) - mine) / total
    return Reading(source, processes, images, statistics.median(seconds), (after - before) / total, received, own, first)


def _examples(folder: Path, source: str):
    from evaluations import class_names
    from peer_trainers import word_tokenizer
    from transformers import CLIPImageProcessor, CLIPProcessor

    from hf_robustft import load_benchmark
    from hf_robustft.data.examples import ClipCollator, TrainingExamples
    from hf_robustft.data.streams.examples import StreamingExamples

    names = class_names(CLASSES)
    tokenizer = word_tokenizer([f"a photo of a {name}." for name in names])
    processor = CLIPProcessor(image_processor=CLIPImageProcessor(), tokenizer=tokenizer)
    # An accelerator normalises the levels.
    options = {"output": "uint8"}
    if source == "tars":
        columns = {"image_column": "jpg", "label_column": "cls"}
        benchmark = load_benchmark(str(folder / "tars"), "train", class_names=names, streaming=True, role="train", **columns)
        return StreamingExamples.from_benchmark(benchmark, processor, **options), ClipCollator(tokenizer)
    benchmark = load_benchmark(str(folder / "files"), role="train")
    examples = TrainingExamples.from_benchmark(benchmark, processor, keep_decoded=source == "kept", **options)
    return examples, ClipCollator(tokenizer)


def write(folder: Path, images: int, width: int, height: int) -> None:
    """The same pictures as files, in a folder for each class, and in tars."""
    from data_path import jpegs
    from evaluations import class_names, write_tars
    from peer_trainers import PICTURES

    encoded = jpegs(width, height, min(images, PICTURES))
    for number in range(images):
        place = folder / "files" / class_names(CLASSES)[number % CLASSES]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06}.jpg").write_bytes(encoded[number % len(encoded)])
    (folder / "tars").mkdir()
    write_tars(folder / "tars", images, CLASSES, SHARDS)


def as_markdown(rows: list[Reading]) -> str:
    """The rows as a Markdown table."""
    heads = ["from", "processes", "images/s", "reading, ms an image", "receiving, ms an image", "own memory of a reader, MB", "first pass, s"]
    lines = [f"| {' | '.join(heads)} |", "|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        numbers = [f"{row.images / row.seconds:.0f}", f"{1e3 * row.reading:.2f}", f"{1e3 * row.receiving:.2f}"]
        lines.append(f"| {SOURCES[row.source]} | {row.processes} | {' | '.join(numbers)} | {row.own / 1e6:.0f} | {row.first:.1f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[Reading]:
    """Measure, write the files, print the table; returns the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help=f"folder for {RESULTS} and readers.md")
    parser.add_argument("--quick", action="store_true", help="few small files, to try the script itself")
    parser.add_argument("--processes", type=int, nargs="+", default=list(PROCESSES), help="that read, default 1 2 8 16")
    parser.add_argument("--images", type=int, help="of a pass, default 2048")
    parser.add_argument("--passes", type=int, help="that are measured, default 3")
    options = parser.parse_args(arguments)
    images = (64 if options.quick else 2048) if options.images is None else options.images
    passes = (1 if options.quick else 3) if options.passes is None else options.passes
    if images < BATCH or images % BATCH or min(*options.processes, passes) < 1:
        parser.error(f"--images must be a multiple of {BATCH}, --processes and --passes at least 1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from run import machine

    options.output_dir.mkdir(parents=True, exist_ok=True)
    facts, rows = machine(1), []
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), images, *((50, 40) if options.quick else (500, 375)))
        for source in SOURCES:
            for processes in options.processes:
                rows.append(in_a_process(read, source, processes, folder, images, passes))
                # After each, so that a run that is stopped leaves what it has measured.
                result = {"machine": facts, "cores": os.cpu_count(), "rows": [asdict(row) for row in rows]}
                (options.output_dir / RESULTS).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                (options.output_dir / "readers.md").write_text(as_markdown(rows) + "\n", encoding="utf-8")
    print(as_markdown(rows))
    return rows


if __name__ == "__main__":
    main()
