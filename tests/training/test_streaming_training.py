# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A run on a stream that is killed and resumed equals one that was not, in every pass, to the last bit."""

from __future__ import annotations

import random
import sys

import datasets
import pytest
import torch
from helpers import arguments, step_logs, tiny_processor
from helpers.runs import Kill, Killed, assert_same_run, trainer_of, with_dropout
from helpers.streams import benchmark, recorded

from hf_robustft import CaRotTrainer, FLYPTrainer, TRACERTrainer
from hf_robustft.data import readers
from hf_robustft.data.streams.examples import StreamingExamples
from hf_robustft.training.streaming import StreamLoader

#: 22 rows: eleven batches of two in a pass; unequal shards, one of them empty, and fewer than readers with two workers.
SIZES = {"parquet": (5, 0, 9, 8), "tar": (22,)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return {kind: benchmark(kind, folder / kind, sizes) for kind, sizes in SIZES.items()}


@pytest.fixture(scope="module")
def whole_run(data, tmp_path_factory):
    """Batches and folder of the uninterrupted run and the steps after which it saved, once for each kind and workers."""
    kept = {}

    def run(model, kind, workers):
        if (kind, workers) not in kept:
            folder = tmp_path_factory.mktemp("whole")
            draw = random.Random(f"{kind}{workers}")
            steps = [draw.randrange(11 * epoch + 1, 11 * epoch + 11) for epoch in range(3)]
            settings = {"num_train_epochs": 3, "dataloader_num_workers": workers, "save_at": steps}
            kept[kind, workers] = recorded(model, data[kind], folder, **settings), folder, steps
        return kept[kind, workers]

    return run


#: Each kind of file and each number of workers once; the other two:
#: `python -m pytest -m slow tests/training/test_streaming_training.py`.
OFTEN = ((0, "tar"), (2, "parquet"))


@pytest.mark.parametrize(
    ("workers", "kind"),
    [
        pytest.param(workers, kind, marks=() if (workers, kind) in OFTEN else pytest.mark.slow)
        for workers in (0, 2)
        for kind in SIZES
    ],
)
def test_the_rows_after_a_resume_are_the_uninterrupted_runs(tiny_clip, data, whole_run, tmp_path, kind, workers):
    whole, folder, steps = whole_run(tiny_clip, kind, workers)
    assert len(whole) == 33 and all(len(batch) == 2 for batch in whole)
    seen = [row for batch in whole for row in batch]
    assert len(set(seen)) == 66, "no row comes twice in a pass"
    assert {epoch for epoch, _ in seen} >= {0, 1, 2}
    for step in steps:
        settings = {"num_train_epochs": 3, "dataloader_num_workers": workers}
        resumed = recorded(
            tiny_clip, data[kind], tmp_path / str(step), resume=folder / f"checkpoint-{step}", **settings
        )
        assert resumed == whole[step:], f"resumed after step {step}"


def test_a_pass_holds_every_row_once_where_batches_fill_it(tiny_clip, whole_run):
    whole, *_ = whole_run(tiny_clip, "tar", 0)
    for epoch in range(3):
        rows = [row for batch in whole[11 * epoch : 11 * (epoch + 1)] for row in batch]
        assert sorted(rows) == [(epoch, index) for index in range(22)]


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
@pytest.mark.parametrize(("cls", "workers", "step"), [(CaRotTrainer, 0, 8), (CaRotTrainer, 2, 10), (TRACERTrainer, 0, 10)])
def test_killed_in_the_second_pass_and_resumed_equals_uninterrupted(tiny_clip, data, tmp_path, cls, workers, step):
    model = with_dropout(tiny_clip)
    settings = {"logging_steps": 3, "dataloader_num_workers": workers, "save_steps": step}

    def run(folder, **more):
        trainer = trainer_of(cls, model, folder, **settings, **more)
        examples = StreamingExamples.from_benchmark(data["parquet"], tiny_processor(), seed=7, buffer=5)
        trainer.train_dataset = examples
        return trainer

    whole = run(tmp_path / "whole")
    whole.train()
    # Five whole steps of four fit into a pass of 22; the two left over open the next pass.
    assert whole.state.max_steps == 15 and len(step_logs(whole)) == 5
    with pytest.raises(Killed):
        run(tmp_path / "killed", callbacks=[Kill(step)]).train()
    torch.manual_seed(12345)
    resumed = run(tmp_path / "killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / f"checkpoint-{step}"))
    assert_same_run(whole, resumed)


def test_the_logged_epoch_is_the_pass(tiny_clip, data, tmp_path):
    trainer = FLYPTrainer(
        tiny_clip,
        arguments(tmp_path, per_device_train_batch_size=4, num_train_epochs=2, gradient_accumulation_steps=2),
        train_dataset=data["parquet"],
        processing_class=tiny_processor(),
    )
    trainer.train()
    # Two steps of two batches of four in each pass of 22; what is left opens the next.
    assert [entry["epoch"] for entry in step_logs(trainer)] == [8 / 22, 16 / 22, 24 / 22, 32 / 22]
    assert isinstance(trainer.train_dataset, StreamingExamples) and len(trainer.train_dataset) == 22


def test_accumulated_gradients_stay_in_their_step(tiny_clip, data, tmp_path):
    # Eleven micro-batches fill a pass; the twelfth, of the next pass, belongs to the same step.
    one = recorded(tiny_clip, data["tar"], tmp_path / "1", max_steps=12, gradient_accumulation_steps=1)
    two = recorded(tiny_clip, data["tar"], tmp_path / "2", max_steps=6, gradient_accumulation_steps=2, save_at=[4])
    assert one == two and {epoch for epoch, _ in one[-1]} == {1}
    resumed = recorded(
        tiny_clip,
        data["tar"],
        tmp_path / "3",
        resume=tmp_path / "2" / "checkpoint-4",
        max_steps=6,
        gradient_accumulation_steps=2,
    )
    assert resumed == two[8:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataloader_num_workers": 2}, r"--dataloader_num_workers \(0 and 1 are the same\) = 1, this one has 2"),
        ({"per_device_train_batch_size": 4}, "--per_device_train_batch_size = 2, this one has 4"),
        ({"seed": 8}, "--seed .* = 7, this one has 8"),
        ({"train_sampling_strategy": "sequential"}, "--train_sampling_strategy = True, this one has False"),
        ({"buffer": 6}, "shuffle buffer = 5, this one has 6"),
    ],
)
def test_a_checkpoint_of_another_order_is_refused(tiny_clip, data, whole_run, tmp_path, settings, message):
    _, folder, steps = whole_run(tiny_clip, "tar", 0)
    with pytest.raises(ValueError, match=message + r".*resume with the same, or start a new run") as caught:
        recorded(tiny_clip, data["tar"], tmp_path, resume=folder / f"checkpoint-{steps[0]}", max_steps=33, **settings)
    assert "\n" not in str(caught.value)


def test_one_worker_may_take_over_from_none(tiny_clip, data, whole_run, tmp_path):
    whole, folder, (*_, step) = whole_run(tiny_clip, "tar", 0)
    settings = {"num_train_epochs": 3, "dataloader_num_workers": 1}
    assert recorded(tiny_clip, data["tar"], tmp_path, resume=folder / f"checkpoint-{step}", **settings) == whole[step:]


def test_streamed_and_stored_runs_do_not_resume_each_other(tiny_clip, data, whole_run, tmp_path):
    _, folder, (step, *_) = whole_run(tiny_clip, "tar", 0)
    stored = trainer_of(FLYPTrainer, tiny_clip, tmp_path / "a", max_steps=6)
    with pytest.raises(ValueError, match="by a run that streamed its data, this run does not.*--streaming"):
        stored.train(resume_from_checkpoint=str(folder / f"checkpoint-{step}"))
    trainer_of(FLYPTrainer, tiny_clip, tmp_path / "b", max_steps=2).train()
    with pytest.raises(ValueError, match="no `stream.settings`, so the run cannot be continued exactly"):
        recorded(tiny_clip, data["tar"], tmp_path / "c", resume=tmp_path / "b" / "checkpoint-2", max_steps=6)


def test_a_second_training_starts_at_the_beginning(tiny_clip, data, tmp_path):
    args = {"max_steps": 3, "per_device_train_batch_size": 4}
    trainer = FLYPTrainer(
        tiny_clip, arguments(tmp_path, **args), train_dataset=data["tar"], processing_class=tiny_processor()
    )
    trainer.train()
    first = trainer._stream.positions
    trainer.train()
    assert trainer._stream.positions == first and isinstance(trainer._stream, StreamLoader)


def test_what_cannot_be_trained_on_is_refused(tiny_clip, data, tmp_path):
    def trainer(dataset, **settings):
        return FLYPTrainer(
            tiny_clip, arguments(tmp_path, **settings), train_dataset=dataset, processing_class=tiny_processor()
        )

    examples = StreamingExamples.from_benchmark(data["tar"], tiny_processor())
    examples.size = None
    with pytest.raises(TypeError, match="a pass has no known length"):
        len(examples)
    with pytest.raises(
        ValueError, match=r"Nobody says how many rows .* 3 passes have no known length; give --max_steps"
    ):
        trainer(examples, num_train_epochs=3)
    assert len(step_logs(trained := trainer(examples, max_steps=4))) == 0
    trained.train()
    assert [entry["epoch"] for entry in step_logs(trained)] == [0, 0, 1, 1], "whole passes that were finished"
    with pytest.raises(ValueError, match="22 examples, fewer than one global batch of 32.*size to 22 or less"):
        trainer(data["tar"], per_device_train_batch_size=32)
    with pytest.raises(ValueError, match="group_by_length.* is not available for streams"):
        trainer(data["tar"], train_sampling_strategy="group_by_length")
    endless = datasets.Dataset.from_dict({"a": [1]}).to_iterable_dataset()
    with pytest.raises(ValueError, match="cannot be resumed exactly.*streaming=True"):
        trainer(endless, max_steps=3)


@pytest.mark.skipif(sys.platform != "linux", reason="only there processes are forked by default")
@pytest.mark.parametrize("stored", [True, False])
def test_workers_are_begun_for_certain(tiny_clip, data, tmp_path, monkeypatch, stored):
    begun = []
    launch = readers._Forked._launch
    monkeypatch.setattr(readers, "FORK_CAN_HANG", True)
    monkeypatch.setattr(readers._Forked, "_launch", lambda self, process: (launch(self, process), begun.append(self.pid)))
    settings = {"max_steps": 1, "dataloader_num_workers": 2}
    if stored:
        trainer_of(FLYPTrainer, tiny_clip, tmp_path, **settings).train()
    else:
        recorded(tiny_clip, data["parquet"], tmp_path, **settings)
    assert len(set(begun)) == 2
