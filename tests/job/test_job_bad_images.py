# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The job on one's own images of which some are broken: trained and measured, and the broken ones named."""

import json

import pytest
from helpers import CLASSES, image_dataset, tiny_processor

QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--save_strategy", "no", "--logging_steps", "1"]


@pytest.fixture
def arguments(tmp_path, tiny_clip):
    """Two folders of 16 images, of which one is broken in each."""
    tiny_clip.save_pretrained(tmp_path / "base")
    tiny_processor().save_pretrained(tmp_path / "base")
    seeds = {"train": 0, "test": 1}
    for split in seeds:
        for number, row in enumerate(image_dataset(16, seed=seeds[split])):
            folder = tmp_path / split / CLASSES[row["label"]]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{number}.png")
        broken = tmp_path / split / "owl" / "2.png"
        broken.write_bytes(broken.read_bytes()[:300])
    sets = ["--train_dataset", tmp_path / "train", "--eval_datasets", tmp_path / "test"]
    sets += ["--model", tmp_path / "base", "--output_dir", tmp_path / "out", "--method", "flyp"]
    sets += ["--per_device_train_batch_size", 8, "--num_train_epochs", 2, "--skip_baseline", "true"]
    return [*map(str, sets), *QUIET]


@pytest.mark.parametrize("streaming", [False, True])
def test_broken_images_are_replaced_left_out_and_named(script, arguments, tmp_path, capsys, streaming):
    report = script.main([*arguments, *(["--streaming"] if streaming else [])])
    printed = capsys.readouterr().out
    assert "1 training image cannot be read and was replaced: row" in printed and "owl/2.png" in printed
    result = report.results["test"]
    assert result.n == 15 and result.unreadable["count"] == 1 and "(owl/2.png)" in result.unreadable["first"][0]
    saved = (tmp_path / "out" / "evaluation.json").read_text()
    assert json.loads(saved)["reports"][-1]["results"]["test"]["unreadable"] == result.unreadable
    assert str(tmp_path) not in saved


def test_the_first_one_stops_a_strict_run(script, arguments):
    with pytest.raises(OSError, match="2.png"):
        script.main([*arguments, "--bad_images", "error"])


def test_too_many_stop_the_run(script, arguments, tmp_path):
    for name in ("cat/0.png", "bee/3.png"):
        (tmp_path / "train" / name).write_bytes(b"")
    with pytest.raises(
        OSError, match=r"of the 16 images of .* cannot be read, more than the 1 % .*--bad_images_threshold"
    ):
        script.main(arguments)
