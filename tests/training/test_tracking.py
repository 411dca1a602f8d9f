# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What reaches an experiment tracker: named losses, momentum, smallest singular value and calibration over time."""

import importlib.util
import math
import re
import sys
import types

import pytest
from helpers import TEMPLATES, arguments, image_dataset, tiny_processor
from transformers import TrainerCallback
from transformers.integrations import rewrite_logs

from hf_robustft import Benchmark, CaRotTrainer
from hf_robustft.publishing.card_sections import training_log

WANTED = {
    "train/loss",
    "train/loss/contrastive",
    "train/loss/orthogonality",
    "train/loss/self_distillation",
    "train/teacher/momentum",
    "train/logit_scale",
    "train/learning_rate",
    "train/grad_norm",
    "eval/photo/accuracy",
    "eval/photo/ece",
    "eval/photo/nll",
    "eval/photo/brier",
    "eval/spectrum/smallest_singular_value",
}


class Tracker(TrainerCallback):
    """Keeps what the Trainer hands to every tracker, rewritten as these rewrite it."""

    def __init__(self):
        self.steps = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.steps.setdefault(state.global_step, {}).update(rewrite_logs(logs))


def benchmark(name, role, n, seed):
    return Benchmark.from_dataset(image_dataset(n, seed=seed), name=name, role=role, templates=TEMPLATES)


def train(model, folder, callbacks=(), **settings):
    options = {"num_train_epochs": 2, "eval_strategy": "steps", "eval_steps": 2, **settings}
    trainer = CaRotTrainer(
        model,
        arguments(folder, **options),
        train_dataset=benchmark("train", "train", 16, 0),
        eval_dataset=benchmark("photo", "id", 24, 3),
        processing_class=tiny_processor(),
        callbacks=list(callbacks),
    )
    trainer.train()
    return trainer


def test_every_number_reaches_a_tracker_at_its_step(tiny_clip, tmp_path):
    tracker = Tracker()
    trainer = train(tiny_clip, tmp_path, [tracker])
    found = {key for values in tracker.steps.values() for key in values}
    assert found >= WANTED, WANTED - found
    assert [step for step, values in tracker.steps.items() if "train/loss/contrastive" in values] == [1, 2, 3, 4]
    assert [step for step, values in tracker.steps.items() if "eval/photo/ece" in values] == [2, 4]
    for values in tracker.steps.values():
        for key, value in values.items():
            # What TensorBoard, Weights & Biases, trackio and MLflow all take as a name, and as a point of a curve.
            assert re.fullmatch(r"[A-Za-z0-9_./ -]+", key), key
            assert isinstance(value, (int, float)) and math.isfinite(value), key
    momenta = [
        values["train/teacher/momentum"] for values in tracker.steps.values() if "train/teacher/momentum" in values
    ]
    assert len(set(momenta)) > 1, "the momentum changes over the run"
    log = training_log(trainer.state.log_history)
    assert [row["step"] for row in log] == [2, 4]
    assert log[-1]["eval_spectrum/smallest_singular_value"] > 0 and log[-1]["loss/contrastive"] > 0


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_files_hold_the_curves(tiny_clip, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_clip, tmp_path, report_to="tensorboard")
    (file,) = (path for path in tmp_path.rglob("events.out.tfevents*"))
    events = EventAccumulator(str(file))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= WANTED
    assert [point.step for point in events.Scalars("eval/photo/ece")] == [2, 4]


def test_report_to_trackio_logs_the_same_numbers(tiny_clip, tmp_path, monkeypatch):
    """The Trainer's own callback for trackio, with a module in the place of the package that keeps what it is given."""
    from transformers.integrations import integration_utils

    class Config(dict):
        def update(self, values, allow_val_change):
            super().update(values)

    logged, config, now = [], Config(), types.SimpleNamespace(get=lambda: None)
    stub = types.ModuleType("trackio")
    stub.config, stub.context_vars = config, types.SimpleNamespace(current_space_id=now, current_project=now)
    stub.init, stub.finish, stub.log = (lambda **_: None), (lambda: None), logged.append
    monkeypatch.setitem(sys.modules, "trackio", stub)
    monkeypatch.setattr(integration_utils, "is_trackio_available", lambda: True)
    train(tiny_clip, tmp_path, report_to="trackio", hub_token="hf_" + "x1" * 17)
    assert {key for values in logged for key in values} >= WANTED
    assert config["ema_update_every"] == 1 and config["projection_dim"] == 16, "the settings go along"
    assert "x1x1" not in str(config), "and no token does"
