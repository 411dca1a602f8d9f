# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Fixtures shared by all tests: one thread unless OMP_NUM_THREADS says otherwise, offline, a tiny CLIP, and the golden numbers of `tests/golden`."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Set to nothing it would count as not set.
os.environ["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE") or "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

import copy
import gc
import importlib.util
import json
import signal
import sys
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


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """A Trainer starts with a whole garbage collection: what is imported stays out of it, half a million objects."""
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
    # A copy takes half as long as a new model.
    return copy.deepcopy(first_tiny_clip)
