# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a card states of every run: rate, batch, length, precision, optimizer, and whose choice they were."""

import pytest
import torch
from helpers import arguments, image_dataset, random_batch, rows, stack, tiny_processor
from huggingface_hub.errors import HTTPError
from torch.optim.lr_scheduler import LambdaLR

from hf_robustft import Benchmark, FLYPTrainer, RobustTrainingArguments, finish_checkpoint
from hf_robustft.training.finished_folder import what_ran


def test_what_ran_is_stated_also_where_it_is_the_default(tmp_path):
    stated = what_ran(arguments(tmp_path, max_steps=-1, per_device_train_batch_size=8, num_train_epochs=2.5))
    assert stated["Batch"] == "8 per device × 1 process × 1 accumulated = 8" and stated["Length"] == "2.5 epochs"
    assert stated["Precision"] == "float32" and stated["Optimizer"].endswith("weight decay 0.1")
    stated = what_ran(
        arguments(tmp_path, max_steps=1200, gradient_accumulation_steps=4, per_device_train_batch_size=8)
    )
    assert stated["Length"] == "1,200 steps" and stated["Batch"].endswith(" = 32")
    assert stated["Not set by hand"] == "the tests: trajectory_update_every=1, ema_update_every=1"


@pytest.mark.parametrize(("warmup", "words"), [(0, "none"), (0.02, "2 % of the steps"), (30, "30 steps")])
def test_the_warm_up_says_of_what(tmp_path, warmup, words):
    args = arguments(tmp_path, learning_rate=3e-4, warmup_steps=warmup, lr_scheduler_type="cosine")
    assert what_ran(args)["Learning rate"] == f"0.0003, schedule cosine, warm-up {words}"


@pytest.mark.parametrize("name", ["constant", "reduce_lr_on_plateau", "greedy"])
def test_schedules_without_a_warm_up_state_none(tmp_path, name):
    choice = {"metric_for_best_model": "accuracy", "eval_strategy": "steps", "eval_steps": 1}
    args = arguments(tmp_path, lr_scheduler_type=name, **choice)
    assert what_ran(args)["Learning rate"] == f"0.001, schedule {name}, warm-up none"


def test_the_warm_up_of_crofts_code_is_an_epoch(tmp_path):
    args = arguments(tmp_path, lr_schedule="epoch_cosine", num_train_epochs=30, max_steps=-1)
    assert what_ran(args)["Learning rate"] == "0.001, schedule epoch_cosine, warm-up one epoch at 1e-05"


@pytest.mark.parametrize("kind", ["pair", "optimizer", "class", "override", "settings"])
def test_an_optimizer_of_ones_own_is_stated_as_it_ran(tiny_clip, tmp_path, kind):
    cls, options = FLYPTrainer, {}
    towers = [list(tiny_clip.vision_model.parameters()), list(tiny_clip.text_model.parameters())]
    own = torch.optim.SGD([{"params": towers[0], "lr": 0.01}, {"params": towers[1]}], lr=0.05, weight_decay=0.3)
    if kind in ("pair", "optimizer"):
        options["optimizers"] = own, LambdaLR(own, lambda step: 0.5**step) if kind == "pair" else None
    if kind == "class":
        options["optimizer_cls_and_kwargs"] = (torch.optim.SGD, {"lr": 0.05})
    if kind == "override":

        class cls(FLYPTrainer):
            def create_optimizer(self, model=None):
                self.optimizer = own
                return own

    args = arguments(tmp_path, max_steps=2, warmup_steps=0, lr_scheduler_type="linear", weight_decay=0.1)
    options |= {"train_dataset": rows(random_batch(16)), "data_collator": stack, "processing_class": tiny_processor()}
    test = Benchmark.from_dataset(image_dataset(8), name="test", role="id", templates=("a {}.",))
    trainer = cls(tiny_clip, args, eval_dataset=test, **options)
    trainer.train()
    rates = {"class": "0.05", "settings": "0.001"}.get(kind, "0.01 and 0.05")
    schedule = "schedule LambdaLR" if kind == "pair" else "schedule linear, warm-up none"
    optimizer = "SGD, weight decay 0.1 and 0" if kind == "class" else "SGD, weight decay 0.3"
    optimizer = f"{args.optim.value}, weight decay 0.1" if kind == "settings" else optimizer
    stated = what_ran(args, *trainer.given_optimizers())
    assert (stated["Learning rate"], stated["Optimizer"]) == (f"{rates}, {schedule}", optimizer)
    trainer.finish(detector="none")
    card = (tmp_path / "README.md").read_text()
    assert f"{rates}, {schedule}" in card and optimizer in card


def test_precision_of_the_arguments_and_of_the_launcher(tmp_path, monkeypatch):
    assert what_ran(arguments(tmp_path, bf16=True))["Precision"] == "bf16, mixed"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    stated = what_ran(arguments(tmp_path))
    assert stated["Precision"] == "bf16, mixed" and "accelerate launch: bf16=True" in stated["Not set by hand"]
    assert what_ran(arguments(tmp_path, bf16=False))["Precision"] == "float32"


def test_defaults_of_the_method_are_told_from_what_was_given(tiny_clip, tmp_path):
    common = {"output_dir": str(tmp_path), "use_cpu": True, "report_to": "none", "max_steps": 1}
    args = RobustTrainingArguments(**common, learning_rate=3e-4)
    FLYPTrainer(tiny_clip, args)
    stated = what_ran(args)
    assert stated["Not set by hand"] == "default of flyp: per_device_train_batch_size=64"
    assert stated["Batch"].startswith("64 per device") and stated["Learning rate"].startswith("0.0003, ")
    args = RobustTrainingArguments(**common, per_device_train_batch_size=64)
    FLYPTrainer(tiny_clip, args)
    assert "Not set by hand" not in what_ran(args)


def test_a_hub_out_of_reach_is_said_before_training_with_the_way_out(tiny_clip, tmp_path, monkeypatch):
    def unreachable(*_):
        raise HTTPError("Name or service not known")

    monkeypatch.setattr("hf_robustft.training.hub_push.open_repository", unreachable)
    with pytest.raises(OSError, match="not known.*without --push_to_hub.*hf-robustft publish"):
        FLYPTrainer(tiny_clip, arguments(tmp_path, push_to_hub=True), train_dataset=rows(random_batch(16)), data_collator=stack)


def test_a_folder_that_nobody_describes_is_not_finished(tiny_clip, tmp_path):
    for given in ({}, {"model": tiny_clip}):
        with pytest.raises(ValueError, match="`trainer=...`.*`method=...`"):
            finish_checkpoint(tmp_path, **given)
    assert not list(tmp_path.iterdir())
