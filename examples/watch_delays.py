#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What `hf-robustft watch` does on Emoji Shift: false alarms on quiet streams, delays to an alarm, verdicts, and estimates of accuracy.

    python examples/watch_delays.py --output outputs/watch_delays

Each image is measured once; streams are random orders of what was measured, judged by the code of the command. Quiet streams are random
halves of the test images of the training artist, so that the null hypothesis holds exactly. All others have the validation images as
reference, and begin with what is foreign, or with it after 200 images of the training artist. The verdict is that of a look at the end
of the stream, 300 images after the change. Writes `watch_delays.json` and `watch_delays.md`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from hf_robustft import load_benchmark, pipeline
from hf_robustft.deployment.image_sources import DataRows
from hf_robustft.deployment.watch import measured
from hf_robustft.deployment.watching import STATISTICS, Reference, Stream, judge

SUITE, VALIDATION, TEST, UNSEEN = "emoji_shift", "validation", "noto", "open_set"
#: At which a stream that is quiet is looked at.
LEVELS = (0.01, 0.05, 0.1, 0.2)
QUIET, FOREIGN = 200, 300


@dataclass(frozen=True)
class Measured:
    """
    What was measured on images, by index.

    Attributes:
        embeds (`torch.Tensor` of shape `(n, embed_dim)`), score (`torch.Tensor` of shape `(n,)`), probability (`torch.Tensor` of shape
            `(n,)`): As the command has them.
        known (`torch.Tensor` of shape `(n,)`), right (`torch.Tensor` of shape `(n,)`): Whether the detector accepts, and the answer is right.
        labels (`torch.Tensor` of shape `(n,)`), classes (`torch.Tensor` of shape `(n,)`): Number of the most probable class, and of the
            true one.
    """

    embeds: Tensor
    score: Tensor
    probability: Tensor
    known: Tensor
    right: Tensor
    labels: Tensor
    classes: Tensor

    def __getitem__(self, index: Tensor) -> Measured:
        return Measured(*(getattr(self, item.name)[index] for item in fields(self)))

    def __add__(self, other: Measured) -> Measured:
        return Measured(*(torch.cat([getattr(self, item.name), getattr(other, item.name)]) for item in fields(self)))

    def __len__(self) -> int:
        return len(self.score)


def measure(model, key: str, limit: int | None) -> Measured:
    """What the command measures on a set of Emoji Shift, or on so many of its images from beginning to end."""
    benchmark = load_benchmark(SUITE, key, streaming=True)
    rows = DataRows(key, benchmark.row_stream())
    step = 1 if limit is None else max(1, rows.total // limit)
    chosen = islice(rows.items(), 0, None if limit is None else step * limit, step)
    pairs = ((name, image) for _, name, image in chosen)
    batches = list(measured(model, pairs, rows.total, key, {"batch_size": 250, "num_workers": 0, "progress": False}))
    classes = torch.tensor(load_benchmark(SUITE, key).load()["label"])[::step][:limit]
    labels = [label for batch in batches for label in batch.labels]
    right = torch.tensor([label == benchmark.class_names[number] for label, number in zip(labels, classes.tolist(), strict=True)])
    parts = [torch.cat([getattr(batch, name) for batch in batches]) for name in ("embeds", "score", "probability")]
    known = torch.tensor([each is not False for batch in batches for each in batch.known])
    number = {name: index for index, name in enumerate(model.head.class_names)}
    return Measured(*parts, known, right, torch.tensor([number[label] for label in labels]), classes)


def shuffled(of: Measured, seed: int) -> Tensor:
    """A random order of what was measured."""
    return torch.randperm(len(of), generator=torch.Generator().manual_seed(seed))


def reference_of(of: Measured, seed: int) -> Reference:
    """As the command makes it of the images of `--reference`."""
    names = [str(number) for number in range(len(of))]
    return Reference.of(names, [str(number) for number in of.labels.tolist()], of.embeds, of.score, of.probability, known=of.known.tolist(), seed=seed)


def play(reference: Reference, of: Measured, level: float, seed: int) -> dict:
    """The report on a stream in the order in which it is given."""
    stream, names = Stream(of.embeds[:0]), [str(number) for number in range(len(of))]
    stream.add(reference, names, [str(number) for number in of.labels.tolist()], of.known.tolist(), of.embeds, of.score, of.probability)
    return judge(reference, stream, level, seed).report


def false_alarms(test: Measured, streams: int) -> dict:
    """Over quiet streams: how many raise an alarm at each level, by any statistic and by each."""
    found: dict[str, Counter] = {str(level): Counter() for level in LEVELS}
    for seed in range(streams):
        order = shuffled(test, seed)
        half = len(order) // 2
        report = play(reference_of(test[order[:half]], seed), test[order[half:]], LEVELS[0], seed)
        for level in LEVELS:
            needed = torch.tensor(len(STATISTICS) / level).log10().item()
            raised = [name for name, facts in report["statistics"].items() if facts["log10_highest"] >= needed]
            found[str(level)].update({name: 1 for name in (*raised, *(["any"] if raised else []))})
    return {"streams": streams, "images": len(test) - len(test) // 2, "alarms": {level: dict(counts) for level, counts in found.items()}}


def scenes(sets: dict[str, Measured]) -> dict[str, Callable[[int], Measured]]:
    """What comes in, by the number of its order."""
    test, unseen = sets[TEST], sets[UNSEEN]

    def some(key: str, seed: int) -> Measured:
        return sets[key][shuffled(sets[key], seed)[:FOREIGN]]

    def mixed(seed: int) -> Measured:
        both = test[shuffled(test, seed)[: FOREIGN * 4 // 5]] + unseen[shuffled(unseen, seed)[: FOREIGN // 5]]
        return both[shuffled(both, seed)]

    def of_classes(of: Measured, share: float, seed: int) -> Measured:
        names = of.classes.unique()
        chosen = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[: max(1, int(share * len(names)))]]
        part = of[torch.isin(of.classes, chosen)]
        return part[shuffled(part, seed)[:FOREIGN]]

    found = {key: partial(some, key) for key in sets if key not in (VALIDATION, TEST, UNSEEN)}
    found["unseen classes"] = partial(some, UNSEEN)
    found["one image in five of unseen classes"] = mixed
    found["fifteen unseen classes"] = partial(of_classes, unseen, 0.1)
    found["one image again and again"] = lambda seed: test[shuffled(test, seed)[:1].repeat(FOREIGN)]
    found["a fifth of the known classes"] = partial(of_classes, test, 0.2)
    found["nothing new"] = partial(some, TEST)
    return found


def delays(sets: dict[str, Measured], orders: int, level: float) -> dict:
    """By what comes in: how many images until an alarm, and what the verdict is."""
    found = {}
    references = [reference_of(sets[VALIDATION], seed) for seed in range(orders)]
    for name, scene in scenes(sets).items():
        found[name] = {}
        for start, before in (("from the beginning", 0), (f"after {QUIET}", QUIET)):
            alarms, verdicts, raised = [], Counter(), Counter()
            for seed in range(orders):
                quiet = sets[TEST][shuffled(sets[TEST], seed + orders)[:before]]
                report = play(references[seed], quiet + scene(seed), level, seed)
                alarms.append(None if report["alarm_at_image"] is None else report["alarm_at_image"] - before)
                verdicts[report["verdict"]] += 1
                raised.update(report["raised_by"])
            reached = [alarm for alarm in alarms if alarm is not None and alarm > 0]
            quartiles = torch.tensor(reached, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist() if reached else None
            found[name][start] = {
                "orders": orders, "alarms": len(reached), "too_early": sum(alarm is not None and alarm <= 0 for alarm in alarms),
                "delay": quartiles, "longest": max(reached, default=None), "verdicts": dict(verdicts), "raised_by": dict(raised),
            }  # fmt: skip
    return found


def estimates(sets: dict[str, Measured]) -> dict:
    """By set: estimated and true accuracy, of all images and of those that the detector accepts."""
    return {
        key: {
            what: {"estimated": of.probability.mean().item(), "true": of.right.double().mean().item(), "images": len(of)}
            for what, of in (("all", of), ("accepted", of[of.known]))
        }
        for key, of in sets.items() if key != UNSEEN
    }  # fmt: skip


def markdown(content: dict) -> str:
    """The tables."""
    quiet = content["quiet"]
    lines = [f"`{content['command']}`", "", f"| Level | Alarms on {quiet['streams']:,} quiet streams | At most expected |", "|--:|--:|--:|"]
    for level, counts in quiet["alarms"].items():
        lines.append(f"| {float(level):g} | {counts.get('any', 0)} | {float(level) * quiet['streams']:g} |")
    lines += ["", "| What comes in | Alarms % | Images until the alarm | After 200 quiet | Verdicts % |", "|:--|--:|--:|--:|:--|"]
    for name, starts in content["delays"].items():
        (first, second), cells = starts.values(), []
        for of in (first, second):
            low, middle, high = of["delay"] or (None,) * 3
            cells.append("" if middle is None else f"{middle:.0f} ({low:.0f} to {high:.0f})")
        verdicts = first["verdicts"] if not second["alarms"] else {
            verdict: first["verdicts"].get(verdict, 0) + second["verdicts"].get(verdict, 0) for verdict in {**first["verdicts"], **second["verdicts"]}
        }  # fmt: skip
        total = sum(verdicts.values())
        said = ", ".join(f"{verdict} {100 * count / total:.0f}" for verdict, count in sorted(verdicts.items(), key=lambda item: -item[1]))
        share = 100 * (first["alarms"] + second["alarms"]) / (first["orders"] + second["orders"])
        lines.append(f"| {name} | {share:.0f} | {cells[0]} | {cells[1]} | {said} |")
    lines += ["", "| Set | Estimated accuracy % | True | Of accepted images: estimated | True | Accepted % |", "|:--|--:|--:|--:|--:|--:|"]
    for key, of in content["accuracy"].items():
        numbers = [100 * of[what][kind] for what in ("all", "accepted") for kind in ("estimated", "true")]
        share = 100 * of["accepted"]["images"] / of["all"]["images"]
        lines.append(f"| {key} | {' | '.join(f'{number:.1f}' for number in [*numbers, share])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji_clip_carot", help="A checkpoint with the classes of Emoji Shift, or emoji_clip.")
    parser.add_argument("--streams", type=int, default=1000, help="Quiet streams.")
    parser.add_argument("--orders", type=int, default=200, help="Orders of what is foreign.")
    parser.add_argument("--level", type=float, default=0.01)
    parser.add_argument("--limit", type=int, default=None, help="Only so many images of each set, to try it.")
    parser.add_argument("--output", type=Path, default=Path("outputs/watch_delays"))
    asked = parser.parse_args()
    of = load_benchmark(SUITE, TEST)
    # The model before the fine-tuning has neither classes nor a detector of its own.
    own = {} if asked.model != "emoji_clip" else {"class_names": of.class_names, "templates": of.templates, "require_detector": False}
    model = pipeline(asked.model, **own)
    sets = {key: measure(model, key, asked.limit) for key in load_benchmark(SUITE) if key != "train"}
    content = {
        "command": shlex.join(["python", "examples/watch_delays.py", *sys.argv[1:]]),
        "quiet": false_alarms(sets[TEST], asked.streams),
        "delays": delays(sets, asked.orders, asked.level),
        "accuracy": estimates(sets),
    }
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "watch_delays.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    text = markdown(content)
    (asked.output / "watch_delays.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
