# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint of which a file is lost, damaged or of another step is refused by the name of that file."""

import copy
import json
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import TEMPLATES, arguments, image_dataset, tiny_config, tiny_processor
from safetensors import SafetensorError
from transformers import CLIPModel, TrainerCallback, modeling_utils, trainer_utils

from hf_robustft import Benchmark, CaRotCRoFTTrainer
from hf_robustft.cli.endings import one_line
from hf_robustft.publishing.card_sections import training_log
from hf_robustft.training import checkpoint_files
from hf_robustft.training.checkpoint_files import FILES, VALUES, check_files, record_files
from hf_robustft.training.checkpoints import ExactCheckpoints

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


@pytest.mark.parametrize(("damage", "word"), [(cut_off, True), (of_another_step, "last")])
def test_a_damaged_last_checkpoint_is_named_and_the_one_before_is_taken(run, tiny_clip, tmp_path, damage, word):
    saved = Path(run.args.output_dir)
    for step in (1, 2, 3):
        shutil.copytree(saved / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    damage(tmp_path / "checkpoint-3" / "optimizer.pt", saved / "checkpoint-2" / "optimizer.pt")
    (tmp_path / "checkpoint-2" / "robustft_state.json").write_text("{}")
    # What a run that was killed while it saved leaves.
    (tmp_path / ".robustft_checkpoint" / "checkpoint-4").mkdir(parents=True)
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10" / "optimizer.pt").write_bytes(b"")
    trainer = trainer_of(tiny_clip, tmp_path)
    with pytest.warns(UserWarning, match="goes on from .*checkpoint-1") as told:
        trainer.train(resume_from_checkpoint=word)
    (line,) = [str(warning.message) for warning in told if "goes on from" in str(warning.message)]
    assert "\n" not in line
    for name in ("checkpoint-10 has no robustft_state", "checkpoint-3", "optimizer.pt", "checkpoint-2/robustft_state.json"):
        assert name in line
    assert trainer.state.global_step == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]
    for name in ("model.safetensors", "robustft_state.safetensors", "optimizer.pt"):
        assert (tmp_path / "checkpoint-4" / name).read_bytes() == (saved / "checkpoint-4" / name).read_bytes()


def test_where_none_is_whole_nothing_is_resumed(run, tiny_clip, tmp_path):
    shutil.copytree(Path(run.args.output_dir) / "checkpoint-2", tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "optimizer.pt").unlink()
    for resumed in (True, str(tmp_path / "checkpoint-2")):
        trainer = trainer_of(tiny_clip, tmp_path)
        with pytest.raises(OSError, match="no optimizer.pt") as caught:
            trainer.train(resume_from_checkpoint=resumed)
        assert trainer.state.global_step == 0 and "\n" not in str(caught.value)


def test_counters_that_differ_are_refused(run, tmp_path):
    renamed = shutil.copytree(Path(run.args.output_dir) / "checkpoint-2", tmp_path / "checkpoint-3")
    with pytest.raises(ValueError, match="2 by robustft_files.json.*3 by the name of its folder"):
        run.check_checkpoint(renamed)
    # All of its files are listed, and one is that of a later step of another run.
    mixed = shutil.copytree(Path(run.args.output_dir) / "checkpoint-2", tmp_path / "checkpoint-2")
    shutil.copy(Path(run.args.output_dir) / "checkpoint-1" / "trainer_state.json", mixed)
    record_files(mixed, 2)
    with pytest.raises(ValueError, match="1 by trainer_state.json"):
        run.check_checkpoint(mixed)


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_that_is_resumed_after_its_last_step_makes_none(run, tiny_clip, tmp_path, step):
    # A pass has 2 steps of 8 images, so that 3 are within one and 4 at the end of one.
    whole = trainer_of(tiny_clip, tmp_path / "whole", max_steps=step)
    whole.train()
    resumed = trainer_of(tiny_clip, tmp_path / "whole", max_steps=step)
    before = {path: path.read_bytes() for path in (tmp_path / "whole" / f"checkpoint-{step}").iterdir()}
    resumed.train(resume_from_checkpoint="last")
    assert resumed.state.global_step == resumed.optimizer_steps == step
    assert {path: path.read_bytes() for path in before} == before
    for (name, value), other in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert value.equal(other), name
    # What its card says is of the whole run, in the same order, though a checkpoint's file is sorted.
    logs = [json.dumps([row for row in training_log(trainer.state.log_history) if "loss" in row]) for trainer in (whole, resumed)]
    assert logs[0] == logs[1] != "[]"
    assert resumed.seconds_trained() > checkpoint_files.read_seconds(tmp_path / "whole" / f"checkpoint-{step}") > 0


def test_a_run_that_is_resumed_after_its_last_step_removes_what_the_other_would_have_removed(run, tiny_clip, tmp_path):
    folder = shutil.copytree(run.args.output_dir, tmp_path / "run")
    trainer_of(tiny_clip, folder, save_total_limit=2).train(resume_from_checkpoint="last")
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["checkpoint-3", "checkpoint-4"]


def full_disk(monkeypatch, name, error):
    """Writing a file called `name` of checkpoint-3 fails with the words of its writer, and leaves a part of it."""

    def failing(write):
        def wrapped(content, path, *rest, **options):
            if (Path(path).parent.name, Path(path).name) != ("checkpoint-3", name):
                return write(content, path, *rest, **options)
            Path(path).write_bytes(b"half")
            raise error

        return wrapped

    for module, writer in ((torch, "save"), (modeling_utils, "safe_save_file"), (checkpoint_files, "save_file")):
        monkeypatch.setattr(module, writer, failing(getattr(module, writer)))


@pytest.mark.parametrize("best", [None, 1, 2, 4])
@pytest.mark.parametrize("limit", [None, 0, 1, 2, 3, 9])
def test_the_checkpoints_that_go_are_those_that_trainer_removes(tmp_path, limit, best):
    left = []
    for ours, name in enumerate(("theirs", "ours")):
        for step in (1, 2, 4, 10):
            (tmp_path / name / f"checkpoint-{step}" / "global_step").mkdir(parents=True)
        kept = best and str(tmp_path / name / f"checkpoint-{best}")
        if ours:
            state = SimpleNamespace(best_model_checkpoint=kept)
            ExactCheckpoints._rotate(SimpleNamespace(args=SimpleNamespace(save_total_limit=limit), state=state), str(tmp_path / name))
        else:
            trainer_utils.rotate_checkpoints(str(tmp_path / name), limit, kept)
        left.append(sorted(path.name for path in (tmp_path / name).iterdir()))
    assert left[0] == left[1]


def test_a_checkpoint_that_was_being_removed_does_not_stay_behind(tiny_clip, tmp_path, monkeypatch):
    """A kill within the removal left half of one, which no later save counted among those to remove."""
    removing = shutil.rmtree

    def killed(path, *args, **kwargs):
        half = next(Path(path).rglob("checkpoint-1/optimizer.pt"), None)
        if half is not None:
            half.unlink()
            raise KeyboardInterrupt
        removing(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tiny_clip, tmp_path, save_total_limit=1).train()
    monkeypatch.undo()
    assert (tmp_path / "checkpoint-2").is_dir()
    trainer_of(tiny_clip, tmp_path, save_total_limit=1).train(resume_from_checkpoint=True)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["checkpoint-4"]


def test_a_full_disk_ends_the_run_with_the_way_on(tiny_clip, tmp_path, monkeypatch):
    full = {
        "model.safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        "optimizer.pt": RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        "rng_state.pth": OSError(28, "No space left on device"),
    }
    for name, error in full.items():
        folder = tmp_path / name
        with monkeypatch.context() as patch:
            full_disk(patch, name, error)
            with pytest.raises(OSError, match="checkpoint-3 was not written") as caught:
                trainer_of(tiny_clip, folder).train()
        text = str(caught.value)
        assert "\n" not in text and f"--resume_from_checkpoint {folder}/checkpoint-2" in text
        assert "disk is full" in one_line(caught.value)
        assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    resumed = trainer_of(tiny_clip, folder)
    resumed.train(resume_from_checkpoint="last")
    assert resumed.state.global_step == 4


class SmallFiles(TrainerCallback):
    """Files of more than so many bytes cannot be written any more from the end of a step on."""

    def __init__(self, step: int, size: int):
        self.step, self.size, self.usual = step, size, resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.usual[1]))

    def lift(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.usual)


def test_a_disk_that_takes_no_more_in_truth(tiny_clip, tmp_path):
    trainer, limit = trainer_of(tiny_clip, tmp_path), SmallFiles(3, 20_000)
    trainer.add_callback(limit)
    try:
        with pytest.raises(OSError, match="checkpoint-3 was not written.*File too large.*checkpoint-2"):
            trainer.train()
    finally:
        limit.lift()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    trainer.check_checkpoint(tmp_path / "checkpoint-2")


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


def test_half_a_file_of_a_checkpoint_without_list_is_refused(run, tmp_path):
    folder = shutil.copytree(Path(run.args.output_dir) / "checkpoint-2", tmp_path / "checkpoint-2")
    (folder / FILES).unlink()
    saved = json.loads((folder / VALUES).read_text())
    del saved["values"]["lists_files"]
    (folder / VALUES).write_text(json.dumps(saved))
    for damage in (removed, emptied, cut_off):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"):
            whole = (folder / name).read_bytes()
            damage(folder / name, None)
            with pytest.raises((OSError, ValueError), match=name.partition(".")[0]) as caught:
                run.check_checkpoint(folder)
            assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
            (folder / name).write_bytes(whole)
    run.check_checkpoint(folder)


def test_every_byte_of_a_large_file_is_compared(tmp_path):
    path = tmp_path / "optimizer.pt"
    path.write_bytes(bytes(1 << 20))
    record_files(tmp_path, 3)
    assert check_files(tmp_path) == 3
    content = bytearray(1 << 20)
    content[777_777] = 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="optimizer.pt"):
        check_files(tmp_path)
