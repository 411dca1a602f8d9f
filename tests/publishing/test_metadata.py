# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`robustft.json` comes back as it was written, holds nothing private, and refuses what it cannot be."""

import json
import math
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

import hf_robustft
from hf_robustft.modeling.metadata import update_robustft_json
from hf_robustft.publishing.metadata import METADATA_FILE, load_robustft_json, write_robustft_json

FACTS = {"method": "carot", "class_names": ("red panda", "cat"), "templates": ("a {}.", "the {}.")}


class Schedule(Enum):
    COSINE = "cosine"


def test_it_comes_back_as_written(tmp_path):
    settings = {"learning_rate": 1e-5, "bf16": True, "lr_scheduler_type": Schedule.COSINE, "betas": (0.9, 0.98)}
    path = write_robustft_json(tmp_path / "new", **FACTS, settings=settings, alpha=0.5, head="zero-shot prompts")
    assert path == tmp_path / "new" / "robustft.json"
    assert load_robustft_json(tmp_path / "new") == {
        "format": 1,
        "hf_robustft": hf_robustft.__version__,
        "method": "carot",
        "class_names": ["red panda", "cat"],
        "templates": ["a {}.", "the {}."],
        "settings": {"learning_rate": 1e-5, "bf16": True, "lr_scheduler_type": "cosine", "betas": [0.9, 0.98]},
        "alpha": 0.5,
        "head": "zero-shot prompts",
    }


def test_class_names_are_stored_as_the_prompts_say_them(tmp_path):
    write_robustft_json(tmp_path, method="ft", class_names=["red_panda", "Münze"], templates=["a {}"], settings={})
    assert load_robustft_json(tmp_path)["class_names"] == ["red panda", "Münze"]
    assert "alpha" not in load_robustft_json(tmp_path) and "head" not in load_robustft_json(tmp_path)


def test_a_model_trained_on_captions_has_no_classes(tmp_path):
    write_robustft_json(tmp_path, method="flyp", class_names=(), templates=(), settings={})
    assert load_robustft_json(tmp_path)["class_names"] == []


def test_nothing_private_is_stored(tmp_path):
    settings = {
        "output_dir": "out",
        "hub_token": "hf_secret",
        "push_to_hub": True,
        "resume_from_checkpoint": "out/checkpoint-1",
        "wandb_api_key": "abc",
        "nested": {"cache_dir": "c", "depth": 2},
        "images": Path("/home/me/photos"),
        "tokenizer": "clip",
        "include_num_input_tokens_seen": "no",
    }
    path = write_robustft_json(tmp_path, **FACTS, settings=settings)
    assert load_robustft_json(tmp_path)["settings"] == {
        "nested": {"depth": 2},
        "images": "photos",
        "tokenizer": "clip",
        "include_num_input_tokens_seen": "no",
    }
    assert "/home" not in path.read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": ""}, "method"),
        ({"class_names": ("cat", "Cat")}, "appears twice"),
        ({"templates": ("a photo",)}, "exactly once"),
        ({"templates": ()}, "empty"),
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"settings": {"learning_rate": math.inf}}, "finite"),
    ],
)
def test_unfit_facts_are_refused_and_nothing_is_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write_robustft_json(tmp_path, **{**FACTS, "settings": {}, **change})
    assert not list(tmp_path.iterdir())


def test_a_folder_without_it_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="no robustft.json"):
        load_robustft_json(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "format None"),
        ('{"method": "ft"}', "format None"),
        (json.dumps({"format": 2}), "format 2, but hf_robustft .* reads 1"),
        (json.dumps({"format": 1, "method": "ft"}), "no 'class_names'"),
        (json.dumps({"format": 1, "method": 3}), "no 'method' of type str"),
        (
            json.dumps({"format": 1, "method": "ft", "class_names": ["a", "A"], "templates": ["{}"], "settings": {}}),
            "appears twice",
        ),
    ],
)
def test_another_file_is_a_value_error(tmp_path, content, message):
    (tmp_path / "robustft.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_robustft_json(tmp_path)


def test_reading_it_needs_no_torch(repository):
    code = "import sys, hf_robustft.publishing.metadata; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository, timeout=60).returncode == 0


def rewrite(folder, **parts):
    path = folder / METADATA_FILE
    content = {**json.loads(path.read_text(encoding="utf-8")), **parts}
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}), encoding="utf-8")


@pytest.mark.parametrize("part", ["temperature", "thresholds", "detector", "prediction_sets"])
@pytest.mark.parametrize("change", [{"templates": ["a sketch of a {}."]}, {"templates": ["a {}.", "{}"]}, {"class_names": ["dog", "cat"]}])
def test_prompts_changed_after_a_fit_are_noticed(tmp_path, part, change):
    write_robustft_json(tmp_path, method="flyp", class_names=["cat", "dog"], templates=["a {}."], settings={})
    update_robustft_json(tmp_path, **{part: {"n": 8}})
    assert load_robustft_json(tmp_path)[part] == {"n": 8}
    before = (tmp_path / METADATA_FILE).read_bytes()
    rewrite(tmp_path, **change)
    with pytest.raises(ValueError, match=rf"'templates'.*\b{part}\b.*--templates") as caught:
        load_robustft_json(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="'templates'"):
        update_robustft_json(tmp_path, card={})
    (tmp_path / METADATA_FILE).write_bytes(before)
    assert update_robustft_json(tmp_path, **{part: None}) and "fitted_prompts" not in load_robustft_json(tmp_path)
    rewrite(tmp_path, **change)
    assert load_robustft_json(tmp_path)["templates"] == change.get("templates", ["a {}."]), "nothing is fitted any more"


def test_a_trained_head_and_a_fit_of_before_do_not_say_which_prompts(tmp_path):
    write_robustft_json(tmp_path, method="ft", class_names=["cat", "dog"], templates=["a {}."], settings={}, head="linear head")
    update_robustft_json(tmp_path, temperature={"n": 8})
    rewrite(tmp_path, templates=["a sketch of a {}."])
    assert "fitted_prompts" not in load_robustft_json(tmp_path), "a head reads no prompts"
    write_robustft_json(tmp_path, method="flyp", class_names=["cat", "dog"], templates=["a {}."], settings={})
    update_robustft_json(tmp_path, temperature={"n": 8})
    rewrite(tmp_path, templates=["a sketch of a {}."], fitted_prompts=None)
    assert load_robustft_json(tmp_path)["temperature"] == {"n": 8}
    # The next fit says it.
    update_robustft_json(tmp_path, thresholds={"n": 8})
    rewrite(tmp_path, templates=["a {}."])
    with pytest.raises(ValueError, match="temperature, thresholds"):
        load_robustft_json(tmp_path)
