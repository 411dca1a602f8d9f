# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A pass over data that do not know their length is one over data that do: no gradient goes over its end."""

import copy
import warnings

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, random_batch, rows, stack, step_logs, tiny_processor
from torch.utils.data import IterableDataset

from hf_robustft.training import streaming
from hf_robustft.training.methods import METHODS


class Iterated(IterableDataset):
    """Examples one by one; `shift` lets each pass start elsewhere, as a data set with epochs does."""

    def __init__(self, examples, shift=0):
        self.examples, self.shift, self.epoch = examples, shift, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        start = self.shift * self.epoch % len(self.examples)
        yield from [*self.examples[start:], *self.examples[:start]]


class Counted(Iterated):
    length = None

    def __len__(self):
        return self.length or len(self.examples)


def trainer_of(method, model, tmp_path, dataset, **settings):
    chosen = {
        "optim": "sgd",
        "learning_rate": 0.05,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 8,
        "train_sampling_strategy": "sequential",
        **settings,
    }
    names = {}
    if METHODS[method].needs_labels:
        names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    return METHODS[method](
        copy.deepcopy(model), arguments(tmp_path, **chosen), train_dataset=dataset, data_collator=stack, **names
    )


def trained(*args, resume=None, **settings):
    trainer = trainer_of(*args, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def assert_same(got, want, log_from=0):
    for name, value in want.model.state_dict().items():
        assert torch.equal(got.model.state_dict()[name], value), name
    for name, module in want.trainable_modules().items():
        for key, value in module.state_dict().items():
            assert torch.equal(got.trainable_modules()[name].state_dict()[key], value), key
    keys = ("loss", "grad_norm", "learning_rate")
    logs = [[{key: entry[key] for key in keys} for entry in step_logs(run)] for run in (got, want)]
    assert logs[0] == logs[1]
    assert got.state.global_step == want.state.global_step


#: Every length is tried with the least that a method has, and every method with that which leaves a batch over; the others:
#: `python -m pytest -m slow tests/training/test_passes.py`.
LENGTHS = [(20, 2), (16, 2), (12, 4), (22, 3)]


@pytest.mark.parametrize(
    ("n", "accumulated", "method"),
    [
        pytest.param(*length, method, marks=pytest.mark.slow if method != "ft" and length != (22, 3) else ())
        for length in LENGTHS
        for method in ("ft", "flyp", "carot", "carot+croft")
    ],
)
def test_an_iterated_pass_is_a_counted_one(tiny_clip, tmp_path, method, n, accumulated):
    # 22 leave an incomplete batch, which contrastive methods drop. 5 batches by 2 are windows of 2, 2 and 1; 3 by 4 are one incomplete window, and the second pass must start empty.
    model, examples = tiny_clip.double(), rows(random_batch(n, dtype=torch.float64))
    settings = {"gradient_accumulation_steps": accumulated}
    want = trained(method, model, tmp_path, examples, **settings)
    assert want.state.global_step == 8
    for dataset in (Iterated(examples), Counted(examples)):
        assert_same(trained(method, model, tmp_path, dataset, **settings), want)


@pytest.mark.parametrize(
    "settings", [{"contrastive_chunk_size": 2}, {"dataloader_num_workers": 1}, {"max_grad_norm": 0.1}]
)
def test_the_same_in_chunks_by_workers_and_clipped(tiny_clip, tmp_path, settings):
    examples = rows(random_batch(20))
    want = trained("flyp", tiny_clip, tmp_path, examples, **settings)
    assert_same(trained("flyp", tiny_clip, tmp_path, Iterated(examples), **settings), want)


@pytest.mark.parametrize(
    ("n", "step"),
    [
        pytest.param(n, step, marks=pytest.mark.slow if (n, step) in ((20, 3), (20, 4), (16, 2), (16, 6)) else ())
        for n in (20, 16)
        for step in (2, 3, 4, 6)
    ],
)
def test_a_resumed_run_goes_on_in_its_pass(tiny_clip, tmp_path, step, n):
    # Three steps a pass (or two): before, at and after the end of one; each pass has an order of its own.
    dataset = Iterated(rows(random_batch(n)), shift=5)
    settings = {"save_strategy": "steps", "save_steps": 1}
    whole = trained("carot", tiny_clip, tmp_path, dataset, **settings)
    assert len({entry["loss"] for entry in step_logs(whole)}) == 8
    checkpoint = str(tmp_path / f"checkpoint-{step}")
    resumed = trained("carot", tiny_clip, tmp_path / "resumed", dataset, resume=checkpoint, **settings)
    assert_same(resumed, whole)


def test_a_length_that_is_not_true_leaks_nothing(tiny_clip, tmp_path):
    examples = rows(random_batch(20))
    dataset = Counted(examples)
    # Eight batches are promised, five come.
    dataset.length = 32
    got = trained("flyp", tiny_clip, tmp_path, dataset, max_steps=6)
    want = trained("flyp", tiny_clip, tmp_path, examples, max_steps=6)
    assert_same(got, want)


@pytest.mark.parametrize(("n", "accumulated"), [(22, 1), (10, 2)])
def test_the_incomplete_batch_that_is_left_out_is_no_step_of_an_iterated_pass(tiny_clip, tmp_path, n, accumulated):
    # Its loader counts it: the schedule was longer than the run, whose last steps were missing without a word.
    examples = rows(random_batch(n))
    settings = {"num_train_epochs": 3, "max_steps": -1, "gradient_accumulation_steps": accumulated}
    settings |= {"save_strategy": "steps", "save_steps": 1}
    want = trained("flyp", tiny_clip, tmp_path / "stored", examples, **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Training ends")
        got = trained("flyp", tiny_clip, tmp_path, Counted(examples), **settings)
    assert_same(got, want)
    assert got.state.global_step == got.state.max_steps == 3 * (n // 4 // accumulated)
    # In its second pass a resumed run took its place for another.
    step = got.state.global_step - 1
    again = trained("flyp", tiny_clip, tmp_path / "again", Counted(examples), resume=str(tmp_path / f"checkpoint-{step}"), **settings)
    assert_same(again, want)


def test_a_run_that_a_wrong_length_ends_early_says_so(tiny_clip, tmp_path):
    dataset = Counted(rows(random_batch(20)))
    dataset.length = 32
    settings = {"num_train_epochs": 1, "max_steps": -1, "gradient_accumulation_steps": 1}
    with pytest.warns(UserWarning, match="ends after 5 of 8 steps.*__len__"):
        trained("flyp", tiny_clip, tmp_path, dataset, **settings)


def test_stored_data_that_grow_are_said(tiny_clip, tmp_path):
    class Growing(list):
        def __getitem__(self, index):
            if len(self) < 17:
                self.append(super().__getitem__(0))
            return super().__getitem__(index)

    with pytest.warns(UserWarning, match="had 16 examples when training began and has 17 in pass 2"):
        trained("flyp", tiny_clip, tmp_path, Growing(rows(random_batch(16))), max_steps=-1, num_train_epochs=2)


def test_data_that_end_for_good_are_said(tiny_clip, tmp_path):
    class Once(Iterated):
        def __iter__(self):
            while self.examples:
                yield self.examples.pop()

    with pytest.warns(UserWarning, match="no batch in pass 2.*after 3 of 8 steps"):
        trainer = trained("flyp", tiny_clip, tmp_path, Once(rows(random_batch(20))))
    assert trainer.state.global_step == 3
    for empty in (Once([]), Iterated(rows(random_batch(3)))):
        with pytest.raises(ValueError, match="not a single batch"):
            trained("flyp", tiny_clip, tmp_path, empty)


def test_processes_that_would_each_fill_their_last_batch_are_refused(tiny_clip, tmp_path, monkeypatch):
    dataset = Iterated(rows(random_batch(20)))
    alone = {"accelerator_config": {"dispatch_batches": False}}
    trainer_of("flyp", tiny_clip, tmp_path, dataset, **alone)
    monkeypatch.setattr(streaming, "world_size", lambda: 2)
    trainer_of("flyp", tiny_clip, tmp_path, dataset)
    with pytest.raises(ValueError, match="dispatch_batches=False"):
        trainer_of("flyp", tiny_clip, tmp_path, dataset, **alone)
