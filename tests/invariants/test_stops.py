# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
How many functions of the package have a row of a user's folder in hand before it reaches a loss: no more than there were.

One training step of FLYP on a folder of two classes with an image each, in one process, from `load_benchmark` to the call of
the objective's loss. `sys.setprofile` reports each call and return. A function is a stop if one of its arguments (other
than `self` and `cls`), or what it returns or yields, is the row or holds it: the file or the folder of its class as a path,
the encoded bytes, an image or array of its pixels, its caption, a table, column, list, batch or benchmark with any of them.
The name of its class alone is not the row. Nested functions and comprehensions are not counted beside the function in which they stand.
One of the two pictures is red and the other blue, so that what is done to each image counts once for the row.

A return is a stop with a second call for the same row. `python tests/invariants/test_stops.py` lists all of them.
"""

from __future__ import annotations

import inspect
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import torch

import hf_robustft
from hf_robustft import FLYPTrainer, RobustTrainingArguments, load_benchmark, load_checkpoint
from hf_robustft.data.benchmarks import asset_path

PACKAGE = Path(hf_robustft.__file__).parent
#: What was reached in `data/`, and in the whole package, where a method may add two; lower them with the code.
MOST = {"data/": (34, 3), "": (60, 6)}


class Stops:
    """
    A profile function that counts the calls of functions of the package that have a row in hand.

    Args:
        file: The row's image file; its picture is red, all others are blue.
        caption: The row's caption.
    """

    def __init__(self, file: Path, caption: str):
        self.texts, self.encoded = {str(file), str(file.parent), caption}, file.read_bytes()
        self.calls: Counter[tuple[str, str]] = Counter()
        # Frames, not their ids: those of frames that are gone are given to others.
        self.counted: set = set()
        self.arrived = False

    def holds(self, value, depth: int = 4) -> bool:
        """Whether a value is the row or holds it."""
        if isinstance(value, (str, Path)):
            return str(value) in self.texts
        if isinstance(value, bytes):
            return value == self.encoded
        if isinstance(value, PIL.Image.Image):
            return self.holds(np.asarray(value.convert("RGB")).transpose(2, 0, 1))
        # A convolution's weights have three channels too.
        if isinstance(value, (np.ndarray, torch.Tensor)) and not isinstance(value, torch.nn.Parameter):
            if value.ndim in (3, 4) and value.shape[-3] == 3:
                return bool((value[..., 0, :, :] > value[..., 2, :, :]).any())
            # The classes of the two rows.
            return isinstance(value, np.ndarray) and value.shape == (2,) and value.dtype.kind == "i"
        if isinstance(value, (datasets.Dataset, pa.Table, pa.ChunkedArray)):
            return len(value) > 0
        if depth == 0:
            return False
        if isinstance(value, dict):
            return any(self.holds(item, depth - 1) for item in value.values())
        if isinstance(value, (list, tuple, set, frozenset)):
            return any(self.holds(item, depth - 1) for item in value)
        # The files of a folder, checked rows, a benchmark.
        own = type(value).__module__.startswith(f"{hf_robustft.__name__}.data.") and not inspect.isroutine(value)
        return own and any(self.holds(item, depth - 1) for item in vars(value).values())

    def __call__(self, frame, event: str, value) -> None:
        code = frame.f_code
        if self.arrived or event not in ("call", "return") or not code.co_filename.startswith(str(PACKAGE)):
            return
        place = Path(code.co_filename).relative_to(PACKAGE).as_posix()
        name = code.co_qualname.partition(".<locals>")[0]
        if event == "call":
            self.arrived = place.startswith("objectives/") and "loss" in code.co_name
            count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
            count += bool(code.co_flags & inspect.CO_VARKEYWORDS)
            given = [frame.f_locals.get(n) for n in code.co_varnames[:count] if n not in ("self", "cls")]
        else:
            given = [value]
        if not self.arrived and not name.startswith("<") and ".<locals>" not in code.co_qualname:
            if frame not in self.counted and any(map(self.holds, given)):
                self.calls[place, name] += 1
                self.counted.add(frame)
        if event == "return" and not code.co_flags & inspect.CO_GENERATOR:
            self.counted.discard(frame)


def count_stops(folder: Path) -> Counter:
    """The calls of each stop, by file and name, of a row in a new `folder`."""
    for name, colour in (("heron", (255, 0, 0)), ("newt", (0, 0, 255))):
        (folder / name).mkdir(parents=True)
        PIL.Image.new("RGB", (50, 40), colour).save(folder / name / "one.png")
    model, processor = load_checkpoint(str(asset_path("emoji_clip")))[:2]
    settings = {"per_device_train_batch_size": 2, "max_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    arguments = RobustTrainingArguments(str(folder.parent / "run"), use_cpu=True, report_to=[], **settings)
    stops = Stops(folder / "heron" / "one.png", "a photo of a heron.")
    before = sys.getprofile()
    sys.setprofile(stops)
    try:
        benchmark = load_benchmark(folder, name="train", role="train")
        FLYPTrainer(model, args=arguments, train_dataset=benchmark, processing_class=processor).train()
    finally:
        sys.setprofile(before)
    assert stops.arrived
    return stops.calls


def numbers(calls: Counter, room: str) -> tuple[int, int]:
    """Stops and returns in a room."""
    counts = [count for (place, _), count in calls.items() if place.startswith(room)]
    return len(counts), sum(count > 1 for count in counts)


def test_a_row_makes_no_more_stops_between_its_folder_and_the_loss(tmp_path):
    calls = count_stops(tmp_path / "photos")
    # It is seen where it must be.
    assert {"TrainingExamples.__getitem__", "ClipCollator.__call__", "image_files"} <= {name for _, name in calls}
    for room, most in MOST.items():
        found = numbers(calls, room)
        assert found[0] <= most[0] and found[1] <= most[1], (room, found, sorted(calls.items()))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as place:
        found = count_stops(Path(place) / "photos")
    for (file, name), count in found.items():
        print(f"{count:3d} {file}: {name}")
    for room in MOST:
        print(f"{room or 'package'}: stops {numbers(found, room)[0]}, returns {numbers(found, room)[1]}")
