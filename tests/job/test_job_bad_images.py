# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The job on one's own images of which some are broken: trained and measured, and the broken ones named."""

import json

import pytest
from helpers import CLASSES, image_dataset, tiny_processor
from helpers.forked import run_ranks

QUIET = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", "--save_strategy", "no", "--logging_steps", "1"]

SAID = "1 of the 16 training images could not be read; another took its place."


def notes_of(folder) -> list[str]:
    return json.loads((folder / "robustft.json").read_text())["card"].get("notes", [])


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
    assert f"{SAID[:-1]}: row" in printed and "(owl/2.png)" in printed
    assert SAID in (tmp_path / "out" / "README.md").read_text() and notes_of(tmp_path / "out") == [SAID]
    result = report.results["test"]
    assert result.n == 15 and result.unreadable["count"] == 1 and "(owl/2.png)" in result.unreadable["first"][0]
    saved = (tmp_path / "out" / "evaluation.json").read_text()
    assert json.loads(saved)["reports"][-1]["results"]["test"]["unreadable"] == result.unreadable
    assert str(tmp_path) not in saved


@pytest.mark.parametrize("method", ["croft", "tip_adapter"])
def test_images_without_features_are_left_out_and_counted(script, arguments, tmp_path, capsys, method):
    if method == "croft":
        arguments += ["--feature_views", "1"]
    else:
        arguments = arguments[: arguments.index("--per_device_train_batch_size")] + ["--use_cpu", "--disable_tqdm", "true"]
    script.main([*arguments, "--method", method])
    assert json.loads((tmp_path / "out" / "robustft.json").read_text())["unreadable_images"] == {"count": 1, "of": 16, "left_out": True}
    said = "1 of the 16 training images could not be read and was left out."
    assert said in (tmp_path / "out" / "README.md").read_text() and notes_of(tmp_path / "out") == [said]
    assert f"{said[:-1]}: row" in capsys.readouterr().out


def test_a_run_that_is_resumed_after_its_last_step_still_knows_them(script, arguments, tmp_path):
    arguments += ["--max_steps", "2", "--save_strategy", "steps", "--save_steps", "2"]
    script.main(arguments)
    (tmp_path / "out" / "robustft.json").unlink()
    script.main([*arguments, "--resume_from_checkpoint", "last"])
    assert notes_of(tmp_path / "out") == [SAID]


def test_a_merge_says_of_which_model_training_images_could_not_be_read(script, arguments, tmp_path, capsys):
    script.main(arguments)
    record = {"count": 1, "of": 16, "left_out": False}
    assert json.loads((tmp_path / "out" / "robustft.json").read_text())["unreadable_images"] == record
    merging = ["--use_cpu", "--disable_tqdm", "true"]
    for name in ("--train_dataset", "--eval_datasets", "--model", "--skip_baseline"):
        merging += arguments[arguments.index(name) :][:2]
    capsys.readouterr()
    script.main([*merging, "--method", "wise_ft", "--finetuned_model", str(tmp_path / "out"), "--output_dir", str(tmp_path / "merged")])
    assert SAID[:-1] in capsys.readouterr().out
    # A merge of what is merged knows it still.
    script.main([*merging, "--method", "model_stock", "--finetuned_model", str(tmp_path / "merged"), str(tmp_path / "out"), "--output_dir", str(tmp_path / "twice")])
    for name, of in (("merged", 1), ("twice", 2)):
        said = json.loads((tmp_path / name / "robustft.json").read_text())
        assert said["merge"]["unreadable_images"] == [{"model": "out", **record}] * of and "unreadable_images" not in said
        assert (tmp_path / name / "README.md").read_text().count(f"In the training of `out`, {SAID}") == of


def test_those_of_all_processes_are_counted(arguments, repository, tmp_path):
    """The main process reads but one of the two."""
    for name in ("cat/0.png", "bee/3.png"):
        (tmp_path / "train" / name).write_bytes(b"")
    image_dataset(1, seed=2)[0]["image"].save(tmp_path / "train" / "owl" / "2.png")
    arguments += ["--bad_images_threshold", "0.3", "--num_train_epochs", "1", "--save_strategy", "epoch"]
    done = run_ranks(2, repository / "examples" / "run_robust_ft.py", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    said = "2 of the 16 training images could not be read; others took their places."
    assert notes_of(tmp_path / "out") == [said] and done.stdout.count(said[:-1]) == 1
    # Checkpoints are pushed.
    states = list((tmp_path / "out").glob("checkpoint-*/robustft_state.json"))
    assert len(states) == 1 and str(tmp_path) not in states[0].read_text()


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
