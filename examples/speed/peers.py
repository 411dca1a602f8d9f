# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Measures FLYP and CaRot beside what else fine-tunes a CLIP model: a training step, and an epoch of JPEG files.

    python examples/speed/peers.py --output_dir outputs/peers                 # ViT-B/32 size, batch 32
    python examples/speed/peers.py --output_dir outputs/peers --quick         # a tiny model: tries the script, not the speed
    python examples/speed/peers.py --output_dir outputs/peers --epoch train   # trains on the epochs, far longer

All get the same files (500 x 375 pixels), captions, batches, weights and threads, read them as each does, and take turns. A
step reads its batch itself, without workers. An epoch is what the loader of each gives in a pass over all files, with and
without workers; with `--epoch train` it is trained on as well. sentence-transformers and open_clip take part where they are
installed (peers-requirements.txt); the package needs neither.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from peer_trainers import OURS, PEERS, ProcessedFiles, checkpoint, prepare, stacked
from run import machine
from steps import TakesTurns
from torch.utils.data import DataLoader
from turns import Contender, interleave, median_ratio

RESULTS = "peers.json"
WORKERS = (0, 2)
VERSIONS = ("accelerate", "datasets", "pillow", "tokenizers", "torchvision", "sentence-transformers", "open_clip_torch")


# ---- Turns --------------------------------------------------------------------------------------------------------


class Every:
    """A turn that lasts `count` steps: asks at the first step and after each `count`-th."""

    def __init__(self, turn, count: int):
        self.turn, self.count, self.calls = turn, count, 0

    def __call__(self) -> bool:
        self.calls += 1
        return self.turn() if self.calls % self.count == 1 or self.count == 1 else True


def train(turn, name: str, folder: str, batch: int, workers: int = 0, steps: int = 1) -> None:
    """
    Train as a peer does; a turn lasts some steps.

    Args:
        turn: Called before the first step and after each `steps`.
        name (`str`): Of [`PEERS`].
        folder (`str`): As [`prepare`] left it.
        batch, workers (`int`): Pairs in a step, and processes that read.
        steps (`int`, *optional*, defaults to 1): In a turn.
    """
    peer, turns = PEERS[name], Every(turn, steps)
    if peer.loop:
        model, processor = checkpoint(Path(folder))
        peer.function(turns, model, _passes(_loader(Path(folder), processor, batch, workers)))
        turn.losses = turns.losses
        return
    trainer = peer.function(Path(folder), batch, workers)
    # Last, so that a turn ends after the teacher has moved.
    trainer.add_callback(TakesTurns(turns, trainer.args.device))
    trainer.train()


def read(turn, name: str, folder: str, batch: int, workers: int = 0) -> None:
    """Read the batches of an epoch in each turn, by the loader that [`train`] has."""
    peer = PEERS[name]
    if peer.loop:
        loader = _loader(Path(folder), checkpoint(Path(folder))[1], batch, workers)
    else:
        loader = peer.function(Path(folder), batch, workers).get_train_dataloader()
    while turn():
        for _ in loader:
            pass


def _loader(folder: Path, processor, batch: int, workers: int) -> DataLoader:
    settings = {"batch_size": batch, "num_workers": workers, "persistent_workers": workers > 0}
    return DataLoader(ProcessedFiles(folder, processor), collate_fn=stacked, **settings)


def _passes(loader: DataLoader) -> Iterator[dict]:
    while True:
        yield from loader


# ---- The measurement ---------------------------------------------------------------------------------------------------


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, as a namespace with every size filled in."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help=f"folder for {RESULTS} and peers.md")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script itself")
    parser.add_argument("--model", choices=["tiny", "vit-b-32", "vit-b-16", "vit-l-14"], help="default vit-b-32")
    parser.add_argument("--batch", type=int, help="pairs in a step, default 32")
    parser.add_argument("--files", type=int, help="files of an epoch, a multiple of --batch, default 512")
    parser.add_argument("--rounds", type=int, help="steps of each that count, default 4; of epochs half as many")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch in a process, default 2")
    parser.add_argument("--epoch", choices=["read", "train"], default="read", help="what an epoch is, default read")
    parser.add_argument("--at_once", type=int, default=2, help="peers beside FLYP and CaRot that take turns, default 2 (20 GB)")
    parser.add_argument("--only", nargs="+", choices=list(PEERS)[2:], help="peers beside FLYP and CaRot, default all")
    options = parser.parse_args(arguments)
    options.model = options.model or ("tiny" if options.quick else "vit-b-32")
    for name, usual, quick in (("batch", 32, 8), ("files", 512, 16), ("rounds", 4, 2)):
        value = getattr(options, name)
        setattr(options, name, (quick if options.quick else usual) if value is None else value)
    options.warm = 1 if options.quick else 2
    if options.batch < 4 or min(options.rounds, options.threads, options.at_once) < 1:
        parser.error("--batch must be at least 4, --rounds, --threads and --at_once at least 1")
    if options.files < options.batch or options.files % options.batch:
        parser.error(f"--files {options.files} is not a multiple of --batch {options.batch}; incomplete batches are not compared")
    return options


def compare(what: str, function: Callable, settings: dict, options, progress, pairs: int, rounds: int, warm: int) -> list[dict]:
    """
    A row for each peer, those that are not installed among them.

    Args:
        what (`str`): What is timed, for the table.
        function: [`train`] or [`read`].
        settings (`dict`): Its settings, alike for all.
        options: The command line.
        progress: Told what is going on.
        pairs (`int`): Image-caption pairs in a turn.
        rounds, warm (`int`): Turns of each that count, and that do not.
    """
    names = [name for name in PEERS if name in OURS or name in (options.only or PEERS)]
    found = {
        name: {"what": what, "name": name, "difference": PEERS[name].difference, "not_run": PEERS[name].lacking} for name in names
    }
    there = [name for name in names if name not in OURS and PEERS[name].installed]
    # Each holds a model in training; ours takes part in every group, so that a ratio is of turns side by side.
    for group in [there[first : first + options.at_once] for first in range(0, len(there), options.at_once)] or [[]]:
        sides = {
            name: Contender(f"{what}: {name}", function, {**settings, "name": name}, options.threads, children=True)
            for name in (*OURS, *group)
        }
        interleave(list(sides.values()), rounds, warm, progress)
        for name, side in sides.items():
            if "not_run" not in found[name]:
                continue
            del found[name]["not_run"]
            found[name] |= {"seconds": side.seconds, "median": side.median, "images_per_second": pairs / side.median}
            found[name]["ratios"] = {our: median_ratio(sides[our], side) for our in OURS if our != name}
    return list(found.values())


def as_markdown(rows: list[dict]) -> str:
    """The rows as a Markdown table."""
    headings = ["what", "who", "seconds", "images/s", *(f"{our} over it" for our in OURS), "more or less than FLYP of ours"]
    lines = [f"| {' | '.join(headings)} |", "|---|---|---:|---:|---:|---:|---|"]
    for row in rows:
        if "not_run" in row:
            cells = ["", "", "", "", f"not run: {row['not_run']}"]
        else:
            ratios = [f"{row['ratios'][our]:.3f}" if our in row["ratios"] else "" for our in OURS]
            cells = [f"{row['median']:.3g}", f"{row['images_per_second']:.3g}", *ratios, row["difference"]]
        lines.append(f"| {' | '.join([row['what'], row['name'], *cells])} |")
    return "\n".join(lines)


def _versions() -> dict[str, str | None]:
    found = {}
    for package in VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def main(arguments: list[str] | None = None) -> list[dict]:
    """Measure, write the files, print the table; returns the rows."""
    options = parse(arguments)
    # The children read these; nothing here is fetched.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from rich.console import Console

    options.output_dir.mkdir(parents=True, exist_ok=True)
    start, path, found = time.perf_counter(), options.output_dir / RESULTS, []
    command = " ".join(["python examples/speed/peers.py", *(sys.argv[1:] if arguments is None else arguments)])
    result = {"machine": machine(options.threads), "versions": _versions(), "command": command}
    result["settings"] = {name: str(value) if name == "output_dir" else value for name, value in vars(options).items()}

    def write(rows: list[dict]) -> None:
        # After each measurement, so that a run that is stopped leaves what it has measured.
        found.extend(rows)
        whole = {**result, "total_seconds": round(time.perf_counter() - start, 1), "rows": found}
        path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        (options.output_dir / "peers.md").write_text(as_markdown(found) + "\n", encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder, Console(stderr=True).status("writing files") as status:
        prepare(Path(folder), options.model, options.files)
        common = {"folder": folder, "batch": options.batch}
        write(compare("step", train, common, options, status.update, options.batch, options.rounds, options.warm))
        function, verb = (train, "training on") if options.epoch == "train" else (read, "reading")
        for workers in WORKERS:
            settings = {**common, "workers": workers}
            if options.epoch == "train":
                settings["steps"] = options.files // options.batch
            what = f"{verb} an epoch of {options.files} files, {workers} workers"
            rounds = max(1, options.rounds // 2)
            write(compare(what, function, settings, options, status.update, options.files, rounds, 1))
    Console(width=200).print(as_markdown(found), markup=False)
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes; written to {path}")
    return found


if __name__ == "__main__":
    main()
