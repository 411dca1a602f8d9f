# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a card states of every run: rate, batch, length, precision, optimizer, and whose choice they were."""

import pytest
from helpers import arguments

from hf_robustft import FLYPTrainer, RobustTrainingArguments
from hf_robustft.training.push_parts import what_ran


def test_what_ran_is_stated_also_where_it_is_the_default(tmp_path):
    stated = what_ran(arguments(tmp_path, max_steps=-1, per_device_train_batch_size=8, num_train_epochs=2.5))
    assert stated["Batch"] == "8 per device × 1 process × 1 accumulated = 8" and stated["Length"] == "2.5 epochs"
    assert stated["Precision"] == "float32" and stated["Optimizer"].endswith("weight decay 0.1")
    stated = what_ran(
        arguments(tmp_path, max_steps=1200, gradient_accumulation_steps=4, per_device_train_batch_size=8)
    )
    assert stated["Length"] == "1,200 steps" and stated["Batch"].endswith(" = 32")
    assert stated["Not set by hand"] == "the tests: ema_update_every=1"


@pytest.mark.parametrize(("warmup", "words"), [(0, "none"), (0.02, "2 % of the steps"), (30, "30 steps")])
def test_the_warm_up_says_of_what(tmp_path, warmup, words):
    args = arguments(tmp_path, learning_rate=3e-4, warmup_steps=warmup, lr_scheduler_type="cosine")
    assert what_ran(args)["Learning rate"] == f"0.0003, schedule cosine, warm-up {words}"


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
