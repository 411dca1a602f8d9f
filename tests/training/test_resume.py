# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A run that is killed and resumed equals one that was not: weights, teacher, head, and every logged number."""

import json
import shutil
import warnings

import pytest
import torch
from helpers import TEMPLATES, image_dataset, step_logs
from helpers.families import family_model, family_processor
from helpers.runs import Kill, Killed, assert_same_run, entries, trainer_of, with_dropout
from safetensors.torch import load_file
from transformers import CLIPModel

from hf_robustft import (
    Benchmark,
    CaRotCRoFTTrainer,
    CaRotTrainer,
    CovarianceAnchorTrainer,
    CRoFTTrainer,
    FineTuneTrainer,
    FLYPTrainer,
    TRACERTrainer,
)
from hf_robustft.training.checkpoint_files import TENSORS, VALUES

CASES = [
    # In mid-epoch and at the end of one; with the logging window open and just closed. Workers hand out examples and know no
    # method: with them at either place, and once with an incomplete last batch.
    (CaRotTrainer, 6, 3, 0),
    (CaRotTrainer, 8, 3, 2),
    (CaRotTrainer, 10, 3, 0),
    (CaRotTrainer, 10, 4, 2),
    (TRACERTrainer, 10, 4, 0),
    (TRACERTrainer, 6, 4, 0),
    (FineTuneTrainer, 8, 3, 0),
    (FineTuneTrainer, 8, 5, 2),
    (FineTuneTrainer, 12, 5, 0),
    (CRoFTTrainer, 8, 3, 0),
    (CRoFTTrainer, 12, 5, 0),
    (CaRotCRoFTTrainer, 8, 3, 0),
    (CaRotCRoFTTrainer, 10, 4, 0),
    (CovarianceAnchorTrainer, 6, 4, 0),
    (CovarianceAnchorTrainer, 10, 4, 0),
]
#: Of what goes on as another does at that place: `python -m pytest -m slow tests/training/test_resume.py`, half a minute.
SELDOM = [(CaRotTrainer, 6, 3, 0), (CaRotTrainer, 10, 3, 0), (TRACERTrainer, 6, 4, 0), (FineTuneTrainer, 8, 3, 0)]
SELDOM += [(FineTuneTrainer, 12, 5, 0), (CRoFTTrainer, 8, 3, 0), (CaRotCRoFTTrainer, 8, 3, 0), (CovarianceAnchorTrainer, 10, 4, 0)]
METHODS = (CaRotTrainer, TRACERTrainer, FineTuneTrainer, CRoFTTrainer, CaRotCRoFTTrainer, CovarianceAnchorTrainer)
#: An incomplete batch is dropped by contrastive methods.
STEPS_PER_EPOCH = {cls: 6 if cls in (FineTuneTrainer, CRoFTTrainer) else 5 for cls in METHODS}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """
    The uninterrupted run, once for each method, logging interval, number of workers and interval of saving: what a teacher remembers of
    captions is forgotten at each, and encoded again in other batches.
    """
    kept = {}

    def run(cls, model, **settings):
        key = (cls, *settings.values())
        if key not in kept:
            kept[key] = trainer_of(cls, with_dropout(model), tmp_path_factory.mktemp("whole"), **settings)
            kept[key].train()
        return kept[key]

    return run


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
@pytest.mark.parametrize(
    ("cls", "step", "logging_steps", "workers"),
    [pytest.param(*case, marks=pytest.mark.slow if case in SELDOM else ()) for case in CASES],
)
def test_killed_and_resumed_equals_uninterrupted(tiny_clip, tmp_path, whole_run, cls, step, logging_steps, workers):
    model = with_dropout(tiny_clip)  # masks come from torch's generator, which must be restored too
    settings = {"logging_steps": logging_steps, "dataloader_num_workers": workers, "save_steps": step}
    whole = whole_run(cls, model, **settings)
    assert whole.state.max_steps == 3 * STEPS_PER_EPOCH[cls]
    with pytest.raises(Killed):
        trainer_of(cls, model, tmp_path, callbacks=[Kill(step)], **settings).train()
    checkpoint = tmp_path / f"checkpoint-{step}"
    assert checkpoint.is_dir() and list(tmp_path.glob("checkpoint-*")) == [checkpoint]
    torch.manual_seed(12345)
    torch.rand(7)
    resumed = trainer_of(cls, model, tmp_path, **settings)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same_run(whole, resumed)


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
@pytest.mark.parametrize(
    "name, cls", [("siglip", TRACERTrainer), ("siglip", CovarianceAnchorTrainer), ("siglip2", TRACERTrainer)]
)
def test_of_siglip_too(tmp_path, name, cls):
    model, options = family_model(name), {"processor": family_processor(name), "logging_steps": 4, "num_train_epochs": 2, "save_steps": 6}
    model.logit_bias.data.fill_(-1.5)
    whole = trainer_of(cls, model, tmp_path / "whole", **options)
    whole.train()
    with pytest.raises(Killed):
        trainer_of(cls, model, tmp_path, callbacks=[Kill(6)], **options).train()
    resumed = trainer_of(cls, model, tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_same_run(whole, resumed)
    biases = {model.logit_bias.item(), whole.model.logit_bias.item(), whole.teacher.logit_bias.item()}
    assert len(biases) == 3, "the bias trains, and the teacher follows it"


def test_the_cases_cover_what_they_claim():
    ends = {(cls, step % STEPS_PER_EPOCH[cls] == 0) for cls, step, _, _ in CASES}
    assert ends == {(cls, end) for cls in METHODS for end in (True, False)}
    usual = [case for case in CASES if case not in SELDOM]
    assert {cls for cls, *_ in usual} == set(METHODS) and len(usual) == len(CASES) - len(SELDOM)
    assert {step % STEPS_PER_EPOCH[cls] == 0 for cls, step, *_ in usual} == {True, False}
    helped = {(step % STEPS_PER_EPOCH[cls] == 0, STEPS_PER_EPOCH[cls]) for cls, step, _, workers in CASES if workers}
    assert helped == {(False, 5), (True, 5), (False, 6)}
    assert any(step % logging for _, step, logging, _ in CASES)


def test_accumulation_evaluation_and_the_last_checkpoint_by_itself(tiny_clip, tmp_path):
    # Two micro-batches a step; evaluation in between draws nothing; `True` finds the newest checkpoint.
    settings = {
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 4,
        "save_steps": 5,
        "logging_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "evaluation": Benchmark.from_dataset(image_dataset(9, seed=5), name="other", role="id", templates=TEMPLATES),
    }
    whole = trainer_of(CaRotTrainer, tiny_clip, tmp_path / "whole", **settings)
    whole.train()
    assert any("eval_other/accuracy" in entry for entry in whole.state.log_history)
    with pytest.raises(Killed):
        trainer_of(CaRotTrainer, tiny_clip, tmp_path / "killed", [Kill(6)], **settings).train()
    resumed = trainer_of(CaRotTrainer, tiny_clip, tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(whole, resumed)


def test_workers_change_nothing(tiny_clip, whole_run):
    alone, helped = (
        whole_run(CaRotTrainer, tiny_clip, logging_steps=3, dataloader_num_workers=workers, save_steps=6) for workers in (0, 2)
    )
    assert entries(alone) == entries(helped)


def test_crops_and_captions_differ_between_epochs(tiny_clip, tmp_path):
    seen = []
    trainer = trainer_of(CaRotTrainer, tiny_clip, tmp_path, save_strategy="no", num_train_epochs=2)
    collate = trainer.data_collator

    def record(examples):
        batch = collate(examples)
        seen.append(batch)
        return batch

    trainer.data_collator = record
    trainer.train()
    pixels = torch.cat([batch["pixel_values"] for batch in seen]).flatten(1)
    captions = [tuple(row.tolist()) for batch in seen for row in torch.nn.functional.pad(batch["input_ids"], (0, 9))]
    assert len(pixels) == len(captions) == 40
    # Of 22 images there would be 22 crops without chance; a few of the 40 may coincide, pixels being whole.
    assert len({row.numpy().tobytes() for row in pixels}) > 30, "each epoch must draw its own crops"
    assert len({caption[:16] for caption in captions}) > 4, "captions must use more than one template"


@pytest.fixture
def checkpoint(tiny_clip, tmp_path):
    trainer = trainer_of(CaRotTrainer, tiny_clip, tmp_path / "run", max_steps=2)
    trainer.train()
    return tmp_path / "run" / "checkpoint-2"


@pytest.mark.parametrize("lost", [TENSORS, VALUES])
def test_a_checkpoint_without_our_state_is_refused(tiny_clip, tmp_path, checkpoint, lost):
    (checkpoint / lost).unlink()
    with pytest.raises(OSError, match=f"has no {lost}.*start a new run") as caught:
        trainer_of(CaRotTrainer, tiny_clip, tmp_path).train(resume_from_checkpoint=str(checkpoint))
    assert "\n" not in str(caught.value)
    newest = trainer_of(CaRotTrainer, tiny_clip, checkpoint.parent)
    with pytest.raises(OSError, match=f"has no {lost}"):
        newest.train(resume_from_checkpoint=True)


@pytest.mark.parametrize(("cls", "name"), [(FLYPTrainer, "flyp"), (FineTuneTrainer, "ft")])
def test_a_checkpoint_of_another_method_is_refused(tiny_clip, tmp_path, checkpoint, cls, name):
    with pytest.raises(ValueError, match="checkpoint") as caught:
        trainer_of(cls, tiny_clip, tmp_path).train(resume_from_checkpoint=str(checkpoint))
    assert "carot" in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)


def forget_record(checkpoint):
    """Make the checkpoint one of an older version, which recorded no settings."""
    saved = json.loads((checkpoint / VALUES).read_text())
    del saved["values"]["run"], saved["values"]["lists_files"]
    (checkpoint / VALUES).write_text(json.dumps(saved))


def test_a_checkpoint_without_teacher_is_refused_by_a_run_that_has_one(tiny_clip, tmp_path):
    trainer_of(CaRotTrainer, tiny_clip, tmp_path, max_steps=2, distillation_weight=0.0).train()
    # By the settings, before anything is loaded; by what is missing, where a checkpoint holds no record of them.
    with pytest.raises(ValueError, match="`distillation_weight=0.0`, this run has `distillation_weight=1.5`"):
        trainer_of(CaRotTrainer, tiny_clip, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    forget_record(tmp_path / "checkpoint-2")
    with (
        pytest.warns(UserWarning, match="did not record its settings"),
        pytest.raises(ValueError, match=r"no `teacher\..*cannot be continued exactly"),
    ):
        trainer_of(CaRotTrainer, tiny_clip, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("name", ["checkpoint-500", "model.safetensors"])
def test_a_missing_folder_is_refused_in_one_line(tiny_clip, tmp_path, checkpoint, name):
    with pytest.raises(OSError, match="no checkpoint folder") as caught:
        trainer_of(CaRotTrainer, tiny_clip, tmp_path).train(resume_from_checkpoint=str(checkpoint / name))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_checkpoint_can_be_moved_and_holds_both_models(tiny_clip, tmp_path, checkpoint):
    moved = tmp_path / "elsewhere" / "step"
    moved.parent.mkdir()
    shutil.move(checkpoint, moved)
    student = CLIPModel.from_pretrained(moved).state_dict()
    state = load_file(moved / TENSORS)
    assert {f"teacher.{name}" for name in student} == {name for name in state if name.startswith("teacher.")}
    assert not torch.equal(state["teacher.logit_scale"], student["logit_scale"])
    resumed = trainer_of(CaRotTrainer, tiny_clip, tmp_path / "new", max_steps=4)
    resumed.train(resume_from_checkpoint=str(moved))
    assert resumed.state.global_step == 4 and len(step_logs(resumed)) == 4


def test_the_best_checkpoint_stays_whatever_its_folder_is_called(tiny_clip, tmp_path, monkeypatch):
    # A resumed run finds it by its whole path, and `output_dir` is as it was given.
    monkeypatch.chdir(tmp_path)
    run = trainer_of(FLYPTrainer, tiny_clip, "run", save_total_limit=2)
    for step in (2, 4, 6):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)
    run.state.best_model_checkpoint = str(tmp_path / "run" / "checkpoint-2")
    run._rotate("run")
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-6"]


def test_the_best_checkpoint_is_found_where_the_folder_was_moved_and_another_is_chosen_where_it_is_gone(tiny_clip, tmp_path, monkeypatch):
    accuracy = {1: 0.5, 2: 0.25, 3: 0.2, 4: 0.1}
    monkeypatch.setattr(
        FLYPTrainer, "evaluate", lambda self, **options: {"eval_validation/accuracy": accuracy[self.state.global_step]}
    )
    validation = Benchmark.from_dataset(image_dataset(8, seed=1), name="validation", role="validation", templates=TEMPLATES)
    settings = {"max_steps": 4, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    settings |= {"metric_for_best_model": "accuracy", "evaluation": validation}

    def run(folder, resume=None):
        trainer = trainer_of(FLYPTrainer, tiny_clip, folder, **settings)
        trainer.train(resume_from_checkpoint=None if resume is None else str(folder / resume))
        return trainer

    # A best step that was measured and never saved is not gone.
    seldom = settings | {"save_steps": 2, "load_best_model_at_end": False}
    trainer_of(FLYPTrainer, tiny_clip, tmp_path / "seldom", **seldom).train()
    resumed = trainer_of(FLYPTrainer, tiny_clip, tmp_path / "seldom", **seldom)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The best checkpoint")
        resumed.train(resume_from_checkpoint=str(tmp_path / "seldom" / "checkpoint-2"))
    assert (resumed.state.best_metric, resumed.state.best_global_step) == (0.5, 1)

    best = run(tmp_path / "first").model.state_dict()
    (tmp_path / "first").rename(tmp_path / "moved")
    # After the last step nothing is saved, so that nothing set the path right: the last weights were taken for the best.
    moved = run(tmp_path / "moved", "checkpoint-4")
    assert moved.state.best_model_checkpoint == str(tmp_path / "moved" / "checkpoint-1")
    assert all(torch.equal(value, best[name]) for name, value in moved.model.state_dict().items())
    shutil.rmtree(tmp_path / "moved" / "checkpoint-1")
    with pytest.warns(UserWarning, match="best checkpoint of the run, of step 1, is gone"):
        gone = run(tmp_path / "moved", "checkpoint-2")
    assert gone.state.best_model_checkpoint == str(tmp_path / "moved" / "checkpoint-3")
