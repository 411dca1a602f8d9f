# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Fixtures shared by all tests: one thread unless OMP_NUM_THREADS says otherwise, offline, a tiny CLIP, and the golden numbers of `tests/golden`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Set to nothing it would count as not set.
os.environ["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE") or "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

import functools
import gc
import importlib.util
import json
import signal
import sys
import types
from pathlib import Path

import pytest

# No torch here: with `-n` the process that hands out the tests reads this file too, and the others wait for it.

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture(autouse=True, scope="session")
def threads():
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))


@pytest.fixture(autouse=True, scope="session")
def no_wait_for_the_disk():
    """No test ends in a loss of power; those that are about `fsync` look at its calls."""
    os.fsync = lambda descriptor: None


@pytest.fixture(autouse=True, scope="session")
def no_collection_for_each_trainer():
    """Trainers of Transformers start with a whole garbage collection, longer than a short run; Python's own go on."""
    from accelerate.utils import memory

    memory.gc = types.SimpleNamespace(collect=lambda: 0)


@pytest.fixture(autouse=True, scope="session")
def templates_are_compiled_once():
    """A card is made of a template that huggingface_hub compiles for each, which takes longer than to fill it."""
    from jinja2 import Environment

    Environment.compile = functools.cache(Environment.compile)


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """What a file of tests has imported, half a million objects, stays out of later collections."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def ctrl_c():
    """A shell that runs the tests in the background has them ignore Ctrl-C, and with them the processes they start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Where lines are counted, coverage takes SIGTERM, and ends the process that a test only means to interrupt.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="module")
def script(repository):
    """The module `examples/run_robust_ft.py`."""
    path = repository / "examples" / "run_robust_ft.py"
    spec = importlib.util.spec_from_file_location("run_robust_ft", path)
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules["run_robust_ft"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["run_robust_ft"]


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def golden(golden_dir):
    """`golden("a_clip_loss")` -> dict of tensors; `golden.manifest("a_clip_loss")` -> its entry of the manifest."""
    from safetensors.torch import load_file

    def load(stem: str) -> dict:
        return load_file(golden_dir / f"{stem}.safetensors")

    manifest = json.loads((golden_dir / "manifest.json").read_text())["files"]
    load.manifest = lambda stem: next(entry for entry in manifest if entry["file"] == f"{stem}.safetensors")
    return load


@pytest.fixture(scope="session")
def first_tiny_clip():
    import torch
    from helpers import tiny_config
    from transformers import CLIPModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPModel(tiny_config()).eval()


@pytest.fixture
def tiny_clip(first_tiny_clip):
    """A random `CLIPModel` (2 layers, width 32, 16-dimensional embeddings, 32 px), the same at every call."""
    from helpers.copies import copied

    return copied(first_tiny_clip)
