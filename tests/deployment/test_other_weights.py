# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Weights that take the place of those that a detector and a temperature were fitted with are refused wherever these are used."""

import shutil

import pytest
import torch
from helpers import CLASSES, TEMPLATES
from transformers import CLIPModel

from hf_robustft import finish_checkpoint
from hf_robustft.cli import main
from hf_robustft.deployment.pipeline import pipeline
from hf_robustft.modeling.metadata import load_robustft_json
from hf_robustft.publishing.folder import check_files, chosen_files


@pytest.fixture
def exchanged(checkpoint, tmp_path):
    """A copy of the checkpoint, with other weights."""
    other = CLIPModel.from_pretrained(checkpoint)
    with torch.no_grad():
        other.visual_projection.weight.mul_(1.01)
    folder = tmp_path / "exchanged"
    shutil.copytree(checkpoint, folder)
    other.save_pretrained(folder)
    return folder


@pytest.fixture
def labelled(photos, tmp_path):
    """The photos in a folder of each class."""
    files = sorted(photos.rglob("*.png"))
    for number, file in enumerate(files):
        target = tmp_path / "labelled" / CLASSES[number % len(CLASSES)] / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return tmp_path / "labelled"


def test_the_pipeline_refuses_them_before_it_reads_them(exchanged, photos, monkeypatch):
    with monkeypatch.context() as context:
        context.setattr("hf_robustft.deployment.pipeline.load_checkpoint", lambda *_, **__: pytest.fail("weights were read"))
        with pytest.raises(ValueError, match="temperature, detector.*fitted with"):
            pipeline(exchanged)
    # Of other prompts nothing was fitted.
    found = pipeline(exchanged, templates=["a sketch of a {}."], require_detector=False)(photos)
    assert {row["is_known"] for row in found} == {None}


def test_what_a_pipeline_saves_is_taken_and_guarded_as_well(checkpoint, photos, tmp_path):
    classify = pipeline(checkpoint)
    for dtype in (torch.float32, torch.float16):
        saved = tmp_path / str(dtype)
        classify.model.to(dtype)
        classify.save_pretrained(saved)
        assert len(pipeline(saved, dtype=torch.float32)(photos)) == 12
        assert load_robustft_json(saved)["fitted_weights"].startswith({torch.float32: "F32", torch.float16: "F16"}[dtype])
        other = CLIPModel.from_pretrained(saved, dtype=dtype)
        with torch.no_grad():
            other.text_projection.weight.mul_(1.1)
        other.save_pretrained(saved)
        with pytest.raises(ValueError, match="temperature, detector.*fitted with"):
            pipeline(saved)


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "predict", "export"])
def test_every_command_that_would_use_it_refuses_them_in_one_line(exchanged, labelled, tmp_path, command, capsys):
    usual = ["--use_cpu", "--disable_tqdm"]
    words = {
        "evaluate": [str(exchanged), "--eval_datasets", str(labelled), "--output_dir", str(tmp_path / "out")],
        "calibrate": [str(exchanged), "--dataset", f"{labelled}:validation"],
        "predict": [str(exchanged), str(labelled), "--output", str(tmp_path / "out.csv")],
        "export": [str(exchanged), "--output_dir", str(tmp_path / "out")],
    }[command]
    before = (exchanged / "robustft.json").read_bytes()
    assert main([command, *words, *usual]) != 0
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "detector" in said and "fitted with" in said and "finish_checkpoint" in said
    assert not list(tmp_path.glob("out*")) and (exchanged / "robustft.json").read_bytes() == before


def test_they_are_not_published(exchanged):
    (exchanged / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    with pytest.raises(ValueError, match="temperature, detector.*fitted with"):
        check_files(exchanged, chosen_files(exchanged))


def test_measured_without_what_was_fitted_they_are_taken(exchanged, labelled, tmp_path, capsys):
    words = [str(exchanged), "--eval_datasets", str(labelled), "--output_dir", str(tmp_path / "out"), "--use_cpu", "--disable_tqdm"]
    assert main(["evaluate", *words, "--zero_shot"]) == 0, capsys.readouterr().err
    assert main(["evaluate", *words, "--templates", "a sketch of a {}."]) == 0, capsys.readouterr().err


def test_a_fit_of_these_weights_takes_them(checkpoint, labelled, tmp_path, capsys):
    """Calibrated twice, and put back to the first state: each time what stands in the folder is of its own weights."""
    words = ["--dataset", f"{labelled}:validation", "--use_cpu", "--disable_tqdm"]
    first = (checkpoint / "robustft.json").read_bytes(), (checkpoint / "model.safetensors").read_bytes()
    seen = {load_robustft_json(checkpoint)["fitted_weights"]}
    for _ in range(2):
        assert main(["calibrate", str(checkpoint), *words]) == 0, capsys.readouterr().err
        seen.add(load_robustft_json(checkpoint)["fitted_weights"])
        pipeline(checkpoint, require_detector=False)
    assert len(seen) >= 2
    (checkpoint / "robustft.json").write_bytes(first[0])
    with pytest.raises(ValueError, match="fitted with"):
        pipeline(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(first[1])
    pipeline(checkpoint)


def test_the_folder_is_completed_with_them_as_the_refusal_says(exchanged, photos, data):
    with pytest.raises(ValueError, match="finish_checkpoint"):
        pipeline(exchanged)
    finish_checkpoint(exchanged, method="croft", class_names=CLASSES, templates=TEMPLATES, validation=data, settings={})
    found = pipeline(exchanged)(photos)
    assert {row["is_known"] for row in found} <= {True, False}
    assert load_robustft_json(exchanged)["detector"]["fitted_on"] == data.name
