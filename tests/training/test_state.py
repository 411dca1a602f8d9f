# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Our part of a checkpoint: what goes in comes out, and a damaged one is refused."""

import json

import pytest
import torch

from hf_robustft.training.checkpoint_files import FORMAT, TENSORS, VALUES, load_state, save_state


def example():
    return {
        "teacher.weight": torch.randn(3, 4, dtype=torch.float64),
        "teacher.scale": torch.tensor(2.5),
        "half": torch.randn(5).to(torch.bfloat16),
        "counts": torch.arange(4),
        "part": torch.randn(4, 6).t()[:3],
        "updates": 7,
        "momentum": 0.1 + 0.2,
        "never": None,
        "method": "carot",
        "names": ["loss", "loss/contrastive"],
    }


def test_round_trip(tmp_path):
    state = example()
    save_state(tmp_path / "new", state)
    loaded = load_state(tmp_path / "new")
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            assert loaded[name].dtype == value.dtype and torch.equal(loaded[name], value), name
        else:
            assert loaded[name] == value, name


def test_no_tensors_and_shared_tensors(tmp_path):
    save_state(tmp_path, {"steps": 3})
    assert load_state(tmp_path) == {"steps": 3}
    shared = torch.randn(3)
    save_state(tmp_path, {"a": shared, "b": shared, "c": shared[:2]})
    loaded = load_state(tmp_path)
    assert torch.equal(loaded["b"], shared) and torch.equal(loaded["c"], shared[:2])


def test_gradient_is_not_stored(tmp_path):
    save_state(tmp_path, {"w": torch.nn.Parameter(torch.ones(2))})
    assert load_state(tmp_path)["w"].requires_grad is False


@pytest.mark.parametrize("lost", [TENSORS, VALUES])
def test_a_missing_file_says_what_to_do(tmp_path, lost):
    save_state(tmp_path, example())
    (tmp_path / lost).unlink()
    with pytest.raises(OSError, match=f"has no {lost}.*choose a checkpoint.*or start a new run") as caught:
        load_state(tmp_path)
    assert "\n" not in str(caught.value)


def test_both_files_missing_are_both_named(tmp_path):
    with pytest.raises(OSError, match=f"{TENSORS} and no {VALUES}"):
        load_state(tmp_path)


def test_a_newer_format_is_refused(tmp_path):
    save_state(tmp_path, example())
    saved = json.loads((tmp_path / VALUES).read_text())
    assert saved["format"] == FORMAT
    (tmp_path / VALUES).write_text(json.dumps({**saved, "format": FORMAT + 1}))
    with pytest.raises(ValueError, match=f"format {FORMAT + 1}, this version reads {FORMAT}"):
        load_state(tmp_path)


def test_a_mismatched_pair_is_refused(tmp_path):
    save_state(tmp_path / "one", example())
    save_state(tmp_path / "two", {"other": torch.ones(1), "updates": 1})
    (tmp_path / "one" / VALUES).write_text((tmp_path / "two" / VALUES).read_text())
    with pytest.raises(ValueError, match="not of one checkpoint"):
        load_state(tmp_path / "one")


def test_a_value_that_json_cannot_hold_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError):
        save_state(tmp_path, {"w": torch.ones(1), "bad": object()})
    assert not (tmp_path / TENSORS).exists() and not (tmp_path / VALUES).exists()
