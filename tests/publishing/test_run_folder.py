# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run: replaced as a whole, finished after an interruption, and never at the cost of the user's files."""

import json
import os
from pathlib import Path

import pytest
from helpers import CLASSES, TEMPLATES, tiny_processor

from hf_robustft import ZeroShotHead, files, finish_checkpoint
from hf_robustft.modeling import output_folders
from hf_robustft.publishing import run_folder
from hf_robustft.publishing.folder import chosen_files
from hf_robustft.publishing.metadata import load_robustft_json, write_robustft_json
from hf_robustft.publishing.progress_card import write_progress_card

FACTS = {"class_names": CLASSES, "templates": TEMPLATES}


def listing(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path, tiny_clip):
    """A finished folder of `ft`, with a card, files of other runs, and files of the user's."""
    head = ZeroShotHead.from_model(tiny_clip, tiny_processor(), CLASSES, TEMPLATES)
    finish_checkpoint(tmp_path, method="ft", model=tiny_clip, processor=tiny_processor(), head=head, **FACTS)
    write_progress_card(tmp_path, title="ft", method="ft", step=1, total_steps=2)
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "evaluation.json", "shift.png"):
        (tmp_path / name).write_text("of another run")
    for name in ("vocab.json", "training_args.bin", "robustft_state.json", ".evaluation.json.new"):
        (tmp_path / name).write_text("of another run")
    (tmp_path / "logits").mkdir()
    (tmp_path / "logits" / "test.safetensors").write_text("of another run")
    for name in ("notes.txt", "LICENSE", "logits/mine.csv", "model.bin"):
        (tmp_path / name).write_text("the user's")
    return tmp_path


MINE = {"notes.txt", "LICENSE", "logits/mine.csv", "model.bin"}
MODEL = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}


def test_nothing_of_another_run_stays_and_all_of_the_users(folder, tiny_clip):
    finish_checkpoint(folder, method="flyp", model=tiny_clip, processor=tiny_processor(), **FACTS)
    assert listing(folder) == MODEL | MINE | {"robustft.json"}
    assert load_robustft_json(folder)["head"] == "zero-shot prompts"


def test_the_model_in_the_folder_is_kept_if_none_is_given(folder, tmp_path_factory):
    weights = (folder / "model.safetensors").read_bytes()
    finish_checkpoint(folder, method="flyp", **FACTS)
    assert (folder / "model.safetensors").read_bytes() == weights
    # Results of no head: the head goes, and the card of the former run.
    assert not listing(folder) & {"head.safetensors", "README.md", "evaluation.json", "shift.png"}
    with pytest.raises(FileNotFoundError, match="no model"):
        finish_checkpoint(tmp_path_factory.mktemp("empty"), method="flyp", **FACTS)


def test_an_edited_card_stays(folder, tiny_clip):
    card = folder / "README.md"
    card.write_text(card.read_text() + "\nMine.\n")
    finish_checkpoint(folder, method="flyp", model=tiny_clip, processor=tiny_processor(), **FACTS)
    assert card.read_text().endswith("Mine.\n")


def test_a_failure_leaves_the_folder_as_it_was(folder, tiny_clip):
    before = {name: (folder / name).read_bytes() for name in listing(folder)}
    with pytest.raises(ValueError, match="appears twice"):
        finish_checkpoint(
            folder,
            method="flyp",
            model=tiny_clip,
            processor=tiny_processor(),
            class_names=("a", "a"),
            templates=("{}",),
        )
    assert {name: (folder / name).read_bytes() for name in listing(folder)} == before
    new = folder / "new"
    with pytest.raises(ValueError), run_folder.replacing(new):
        raise ValueError
    assert not new.exists()


@pytest.mark.parametrize("moved", range(8))
def test_an_interruption_at_any_move_is_finished_by_the_next_reader(folder, tiny_clip, monkeypatch, moved):
    """The folder is one model or the other at every point at which a process may die."""
    replace, calls = os.replace, []

    def dying(source, target):
        if Path(source).parent.name == files.READY:
            calls.append(target)
            if len(calls) > moved:
                raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", dying)
    try:
        finish_checkpoint(folder, method="flyp", model=tiny_clip, processor=tiny_processor(), **FACTS)
    except KeyboardInterrupt:
        assert (folder / files.READY).is_dir()
    monkeypatch.setattr(files.os, "replace", replace)
    files.settle(folder)
    files.settle(folder)
    assert listing(folder) == MODEL | MINE | {"robustft.json"}
    assert load_robustft_json(folder)["method"] == "flyp"


def checkpoint(folder, step, total, written):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "trainer_state.json").write_text(json.dumps({"max_steps": total, "global_step": step}))
    os.utime(path / "trainer_state.json", (written, written))
    return path


def test_checkpoints_of_an_unfinished_run_are_not_another_runs_to_replace(tmp_path):
    first, second = checkpoint(tmp_path, 2, 9, 100), checkpoint(tmp_path, 4, 9, 200)
    (tmp_path / "checkpoint-5-mine").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint-4 .*9 steps.*--resume_from_checkpoint"):
        run_folder.former_checkpoints(tmp_path)
    # A resumed run goes on from its own, and makes the later ones again.
    assert run_folder.former_checkpoints(tmp_path, True) == []
    assert run_folder.former_checkpoints(tmp_path, second) == []
    assert run_folder.former_checkpoints(tmp_path, first) == [second]
    # A model that was saved afterwards, or the last step: that run was finished.
    (tmp_path / "robustft.json").write_text("{}")
    assert run_folder.former_checkpoints(tmp_path) == [first, second]
    os.utime(tmp_path / "robustft.json", (150, 150))
    with pytest.raises(ValueError, match="did not finish"):
        run_folder.former_checkpoints(tmp_path)
    third = checkpoint(tmp_path, 9, 9, 300)
    assert run_folder.former_checkpoints(tmp_path) == [first, second, third]
    run_folder.set_aside([first, second, third])
    assert run_folder.checkpoints(tmp_path) == []
    run_folder.put_back([first, second])
    run_folder.drop_former(tmp_path)
    assert run_folder.checkpoints(tmp_path) == [first, second]


def test_a_head_that_the_metadata_do_not_claim_is_not_published(folder):
    assert "head.safetensors" in chosen_files(folder)
    write_robustft_json(folder, method="flyp", settings={}, head="zero-shot prompts", **FACTS)
    assert "head.safetensors" not in chosen_files(folder)
    write_robustft_json(folder, method="ft", settings={}, head="trained linear head", **FACTS)
    (folder / "head.safetensors").unlink()
    with pytest.raises(OSError, match="No head.safetensors"):
        chosen_files(folder)


def test_output_folders_that_cannot_be_written_are_found_and_nothing_is_left(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "file", tmp_path / "file" / "out", tmp_path / "link", "/proc/out", tmp_path / ("n" * 300)):
        with pytest.raises(OSError, match="--output_dir .* cannot be written"):
            output_folders.check_output_dir(path)
    output_folders.check_output_dir(tmp_path / "a b" / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}
    with pytest.raises(ValueError), output_folders.unless_refused(tmp_path / "x" / "y"):
        (tmp_path / "x" / "y").mkdir(parents=True)
        raise ValueError
    assert not (tmp_path / "x").exists()
    with pytest.raises(ValueError, match="lies in the folder that `--model` reads"):
        output_folders.check_apart(tmp_path / "model" / "out", {"--model": tmp_path})
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(ValueError, match="holds the folder that `--model` reads"):
        output_folders.check_apart(tmp_path, {"--model": tmp_path / "checkpoint-3"})
    (tmp_path / "data" / "train").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds the folder that `--train_dataset data/train` reads"):
        output_folders.check_apart(tmp_path / "data", {"--train_dataset data/train": tmp_path / "data" / "train"})
    with pytest.raises(ValueError, match="`--feature_cache .*` holds"):
        output_folders.check_apart(tmp_path / "data", {"x": tmp_path / "data" / "train"}, option="--feature_cache")
    output_folders.check_apart(tmp_path, {"--train_dataset data/train": tmp_path / "data" / "train"})
    output_folders.check_apart(tmp_path / "out", {"--model": tmp_path / "checkpoint-3", "--train_dataset": "emoji_shift"})
