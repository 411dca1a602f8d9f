# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Weights are known again by a few values of each, and others than those of a fit are noticed."""

import copy
import time

import pytest
import torch
from helpers import CLASSES, TEMPLATES
from safetensors.torch import load_file, save_file

from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.modeling.fitted_weights import check_fitted_weights, weight_files, weights_sample
from hf_robustft.modeling.metadata import FITTED, load_robustft_json, update_robustft_json
from hf_robustft.publishing.metadata import write_robustft_json


def sample(folder):
    return weights_sample(weight_files(folder).values())


def detector():
    return OpenSetDetector.fit(torch.arange(80.0).reshape(20, 4), class_names=CLASSES, logit_scale=torch.tensor(10.0), fitted_on="made up")


@pytest.fixture
def folder(first_tiny_clip, tmp_path):
    first_tiny_clip.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_it_is_of_values_and_not_of_files_or_names(first_tiny_clip, folder, tmp_path):
    wanted = sample(folder)
    assert wanted.startswith("F32:")
    first_tiny_clip.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(weight_files(tmp_path / "shards")) > 1 and sample(tmp_path / "shards") == wanted
    tensors = load_file(folder / "model.safetensors")
    renamed = {f"model.{name}": value for name, value in reversed(tensors.items())} | {"position_ids": torch.arange(9)}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    assert sample(folder) == wanted
    (folder / "other.safetensors").write_bytes(b"somebody else's")
    assert sample(folder) == wanted


def test_a_step_of_training_changes_it_whatever_is_trained(folder):
    tensors, wanted = load_file(folder / "model.safetensors"), sample(folder)
    floats = [name for name, value in tensors.items() if value.is_floating_point()]
    assert len(floats) > 50
    for name in floats:
        moved = tensors | {name: tensors[name] + 1e-4}
        save_file(moved, folder / "model.safetensors")
        assert sample(folder) != wanted, name


@pytest.mark.parametrize("numbers", [1, 2, 3, 15, 16, 17, 31, 48, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_first_and_the_last_number_of_each_are_looked_at(tmp_path, numbers, dtype):
    values = torch.arange(numbers, dtype=torch.float32).to(dtype)
    # Another one before it, so that its numbers do not begin where those of the file do.
    save_file({"a": torch.ones(3, dtype=dtype), "b": values}, tmp_path / "model.safetensors")
    wanted = sample(tmp_path)
    for place in (0, numbers - 1 - (numbers * values.element_size() % 8) // values.element_size()):
        other = values.clone()
        other[place] += 100
        save_file({"a": torch.ones(3, dtype=dtype), "b": other}, tmp_path / "model.safetensors")
        assert sample(tmp_path) != wanted


def test_a_large_file_takes_milliseconds(tmp_path):
    save_file({f"layer.{number}": torch.full((1000, 250), float(number)) for number in range(200)}, tmp_path / "model.safetensors")
    start = time.process_time()
    sample(tmp_path)
    # 200 MB: to hash all of them takes ten times as long.
    assert time.process_time() - start < 0.1


def of_header(text):
    return len(text).to_bytes(8, "little") + text + b"12345678"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x05", b"\xff" * 8, of_header(b"[]"), of_header(b"{"), of_header(b'{"a": [1]}')),
        *(of_header(b'{"a": {"dtype": "F32", "data_offsets": [%s]}}' % offsets) for offsets in (b"-400, 8", b"8, 4", b"0, 16", b"0, 1e999", b"0", b"0, null")),
    ],
)
def test_a_file_of_something_else_is_refused_by_name(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        sample(tmp_path)


def test_the_parts_of_a_fit_bring_it_and_go_with_it(folder):
    write_robustft_json(folder, method="carot", class_names=CLASSES, templates=TEMPLATES, settings={})
    assert "fitted_weights" not in load_robustft_json(folder)
    detector().save(folder)
    facts = load_robustft_json(folder)
    assert facts["fitted_weights"] == sample(folder)
    check_fitted_weights(folder, facts, FITTED)
    update_robustft_json(folder, card={"command": "train"})
    assert load_robustft_json(folder)["fitted_weights"] == sample(folder)
    update_robustft_json(folder, detector=None, temperature=None)
    assert "fitted_weights" not in load_robustft_json(folder)


def test_other_weights_are_refused_where_it_can_be_told(first_tiny_clip, folder, tmp_path):
    write_robustft_json(folder, method="carot", class_names=CLASSES, templates=TEMPLATES, settings={})
    detector().save(folder)
    facts = load_robustft_json(folder)
    other = copy.deepcopy(first_tiny_clip)
    with torch.no_grad():
        other.visual_projection.weight.mul_(1.001)
    other.save_pretrained(folder)
    with pytest.raises(ValueError, match="detector.*fitted with.*finish_checkpoint"):
        check_fitted_weights(folder, facts, FITTED)
    check_fitted_weights(folder, facts, ("prediction_sets",))
    check_fitted_weights(folder, {**facts, "detector": None}, ())
    check_fitted_weights(folder, {name: value for name, value in facts.items() if name != "fitted_weights"}, FITTED)
    check_fitted_weights(tmp_path, facts, FITTED)
    # Which values another precision would have, nothing says.
    other.to(torch.bfloat16).save_pretrained(folder)
    check_fitted_weights(folder, facts, FITTED)
