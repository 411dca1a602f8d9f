# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Fixtures shared by all tests: one thread unless OMP_NUM_THREADS says otherwise, offline, a tiny CLIP, and the golden data where it lies beside the repository."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Set to nothing it would count as not set.
os.environ["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE") or "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = REPOSITORY.parent / "shared" / "golden"


@pytest.fixture(autouse=True, scope="session")
def threads():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))


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
    # The script imports what lies beside it, as Python lets a script do.
    sys.path.insert(0, str(path.parent))
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(path.parent))
    del sys.modules["run_robust_ft"], sys.modules["job_arguments"]


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip(f"golden vectors are not beside this checkout ({GOLDEN.name}/ of the reference runs)")
    return GOLDEN


@pytest.fixture(scope="session")
def golden(golden_dir):
    """`golden("a_clip_loss")` -> dict of tensors; `golden.manifest("a_clip_loss")` -> its entry of the manifest."""

    def load(stem: str) -> dict:
        return load_file(golden_dir / f"{stem}.safetensors")

    manifest = json.loads((golden_dir / "manifest.json").read_text())["files"]
    load.manifest = lambda stem: next(entry for entry in manifest if entry["file"] == f"{stem}.safetensors")
    return load


def tiny_config(**overrides) -> CLIPConfig:
    settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPConfig(
        text_config={
            **settings,
            "vocab_size": 64,
            "max_position_embeddings": 16,
            "bos_token_id": 62,
            "eos_token_id": 63,
            "pad_token_id": 63,
            "hidden_act": "quick_gelu",
        },
        vision_config={**settings, "image_size": 32, "patch_size": 8, "hidden_act": "quick_gelu"},
        projection_dim=16,
        **overrides,
    )


@pytest.fixture
def tiny_clip() -> CLIPModel:
    """A random CLIPModel (2 layers, width 32, 16-dimensional embeddings, 32 px), the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CLIPModel(tiny_config()).eval()


def random_batch(n: int = 8, seed: int = 0, dtype=torch.float32) -> dict:
    """`n` random image-caption pairs for `tiny_clip`, captions of different lengths, padded after the EOS."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.full((n, 12), 63)
    for row in range(n):
        length = 3 + row % 8
        input_ids[row, 0] = 62
        input_ids[row, 1 : 1 + length] = torch.randint(0, 60, (length,), generator=generator)
    return {
        "pixel_values": torch.randn(n, 3, 32, 32, generator=generator).to(dtype),
        "input_ids": input_ids,
        "labels": torch.arange(n) % 4,
    }
