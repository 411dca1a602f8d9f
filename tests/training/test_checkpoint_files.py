# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint of which a file is lost, damaged or of another step is refused by the name of that file."""

import copy
import json
import shutil
from pathlib import Path

import pytest
from helpers import TEMPLATES, arguments, image_dataset, tiny_processor

from hf_robustft import Benchmark, CaRotCRoFTTrainer
from hf_robustft.training import checkpoint_files
from hf_robustft.training.checkpoint_files import FILES, VALUES, check_files, record_files

DATA = Benchmark.from_dataset(image_dataset(16), name="tiny", role="train", templates=TEMPLATES)
#: What a resumed run reads.
READ = (
    *("model.safetensors", "adapters.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json"),
    *("trainer_state.json", "robustft_state.json", "robustft_state.safetensors", FILES),
)


def trainer_of(model, folder, **settings):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "warmup_steps": 2, **settings}
    return CaRotCRoFTTrainer(
        copy.deepcopy(model), arguments(folder, **settings), train_dataset=DATA, processing_class=tiny_processor()
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    import torch
    from helpers import tiny_config
    from transformers import CLIPModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPModel(tiny_config()).eval()
    trainer = trainer_of(model, tmp_path_factory.mktemp("run"))
    trainer.train()
    return trainer


def removed(path, other):
    path.unlink()


def emptied(path, other):
    path.write_bytes(b"")


def cut_off(path, other):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])


def of_another_step(path, other):
    shutil.copy(other, path)


@pytest.mark.parametrize("damage", [removed, emptied, cut_off, of_another_step])
def test_a_damaged_file_is_named_before_anything_is_loaded(run, tmp_path, damage):
    saved = Path(run.args.output_dir)
    # The dice of a run without dropout, and its configuration, are the same at every step.
    same = {
        name
        for name in READ
        if (saved / "checkpoint-1" / name).read_bytes() == (saved / "checkpoint-2" / name).read_bytes()
    }
    assert same <= {"rng_state.pth", "config.json"}
    for name in READ:
        if damage is of_another_step and name in same:
            continue
        folder = shutil.copytree(saved / "checkpoint-2", tmp_path / name / "checkpoint-2")
        run.check_checkpoint(folder)
        damage(folder / name, saved / "checkpoint-1" / name)
        with pytest.raises((OSError, ValueError)) as caught:
            run.check_checkpoint(folder)
        message = str(caught.value)
        assert "\n" not in message and str(folder) in message
        # A list of another step names the first file that is not its own.
        assert name in message or (name == FILES and damage is of_another_step)


def test_the_last_checkpoint_is_looked_at_too(run, tiny_clip, tmp_path):
    shutil.copytree(Path(run.args.output_dir) / "checkpoint-2", tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "optimizer.pt").unlink()
    for resumed in (True, str(tmp_path / "checkpoint-2")):
        trainer = trainer_of(tiny_clip, tmp_path)
        with pytest.raises(OSError, match="no optimizer.pt"):
            trainer.train(resume_from_checkpoint=resumed)
        assert trainer.state.global_step == 0


def test_what_the_resumed_run_does_not_read_may_change(run, tmp_path):
    folder = shutil.copytree(Path(run.args.output_dir) / "checkpoint-2", tmp_path / "checkpoint-2")
    for name in ("tokenizer.json", "training_args.bin"):
        (folder / name).unlink()
    (folder / "notes.txt").write_text("mine")
    run.check_checkpoint(folder)


def test_a_checkpoint_of_an_older_version_has_no_list(run, tmp_path):
    folder = shutil.copytree(Path(run.args.output_dir) / "checkpoint-2", tmp_path / "checkpoint-2")
    (folder / FILES).unlink()
    saved = json.loads((folder / VALUES).read_text())
    del saved["values"]["lists_files"], saved["values"]["run"]["data"]["sizes"]
    (folder / VALUES).write_text(json.dumps(saved))
    run.check_checkpoint(folder)


def test_large_files_are_compared_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_files, "_BLOCK", 16)
    monkeypatch.setattr(checkpoint_files, "_BLOCKS", 4)
    path = tmp_path / "optimizer.pt"
    path.write_bytes(bytes(1000))
    record_files(tmp_path)
    check_files(tmp_path)
    for place in (0, 999):
        content = bytearray(1000)
        content[place] = 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match="optimizer.pt"):
            check_files(tmp_path)
    path.write_bytes(bytes(1001))
    with pytest.raises(ValueError, match="optimizer.pt"):
        check_files(tmp_path)
