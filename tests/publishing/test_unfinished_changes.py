# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whoever reads a folder finishes the change that was interrupted there, and refuses one that is not its own to finish."""

import shutil

import pytest
from helpers import image_dataset
from test_calibrate import digests, folder, made, sets  # noqa: F401
from transformers import CLIPModel

from hf_robustft import OpenSetDetector, files, load_dual_encoder, pipeline
from hf_robustft.cli import main
from hf_robustft.comparison.runs import read_run
from hf_robustft.deployment.pipeline import OpenSetImageClassificationPipeline
from hf_robustft.evaluation.report import load_reports
from hf_robustft.files import READY, changing
from hf_robustft.modeling.checkpoint import load_processor
from hf_robustft.modeling.metadata import load_robustft_json, update_robustft_json
from hf_robustft.publishing.hub import publish


class Killed(BaseException):
    """Stands for a process that ends: nothing after it runs."""


NAMES = ("config.json", "robustft.json", "evaluation.json", "preprocessor_config.json", "model.safetensors")
READERS = {
    "publish": lambda place: publish(place, "me/mine", dry_run=True),
    "pipeline": pipeline,
    "compare": read_run,
    "load_dual_encoder": load_dual_encoder,
    "load_processor": load_processor,
    "load_robustft_json": load_robustft_json,
    "load_reports": lambda place: load_reports(place / "evaluation.json"),
    "detector": OpenSetDetector.from_pretrained,
    "update": lambda place: update_robustft_json(place, alpha=None),
}


def interrupted(folder) -> None:  # noqa: F811
    """Leave a change that was decided on, with none of its files in its place."""

    def killed(*_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_finish", killed)
        with pytest.raises(Killed), changing(folder) as stage:
            for name in NAMES:
                if (folder / name).is_file():
                    shutil.move(folder / name, stage / name)


def test_every_reader_finishes_what_was_interrupted_and_refuses_a_copy_of_it(folder, tmp_path):  # noqa: F811
    update_robustft_json(folder, alpha=None)
    before = digests(folder)
    for name, read in READERS.items():
        interrupted(folder)
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        copied = digests(copy)
        with pytest.raises(ValueError, match=rf"{name} holds a change .* of which this is a copy"):
            read(copy)
        assert digests(copy) == copied, name
        shutil.rmtree(copy)
        read(folder)
        assert digests(folder) == before, name


def test_commands_find_it_before_they_miss_a_file(folder, tmp_path, capsys):  # noqa: F811
    image_dataset(8).to_parquet(tmp_path / "test.parquet")
    words = ["evaluate", "--eval_datasets", str(tmp_path / "test.parquet"), "--output_dir", str(tmp_path / "out"), "--use_cpu", "--disable_tqdm"]
    before = digests(folder)
    interrupted(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert main([words[0], str(copy), *words[1:]]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {copy} holds a change of its files that was begun in another folder")
    assert main([words[0], str(folder), *words[1:]]) == 0
    assert digests(folder) == before


def test_a_model_that_was_loaded_from_half_a_change_is_loaded_again(folder):  # noqa: F811
    model = CLIPModel.from_pretrained(folder)
    processor = load_processor(folder)
    interrupted(folder)
    with pytest.raises(OSError, match="load the model again"):
        OpenSetImageClassificationPipeline(model, processor)
    assert not (folder / READY).exists()
    OpenSetImageClassificationPipeline(model, processor)


def test_a_pipeline_is_saved_as_a_whole(folder, tmp_path):  # noqa: F811
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"")
    (folder / "model-00001-of-00002.safetensors").rename(tmp_path / "stale")
    classify, before = pipeline(folder), digests(folder)
    # Into its own folder, where what is not the model's stays.
    (tmp_path / "stale").rename(folder / "model-00001-of-00002.safetensors")
    classify.save_pretrained(folder)
    after = digests(folder)
    assert set(after) == set(before) and after["evaluation.json"] == before["evaluation.json"]

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    classify.processor.save_pretrained, failing = full, tmp_path / "new"
    for place in (folder, failing):
        with pytest.raises(OSError, match="No space left"):
            classify.save_pretrained(place)
    assert digests(folder) == after and not failing.exists()
