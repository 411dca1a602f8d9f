# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""With `export_weights="teacher"` what is measured, what is chosen and what is saved are the same weights."""

import copy

import pytest
import torch
from helpers import TEMPLATES, arguments, image_dataset, step_logs, tiny_processor
from safetensors.torch import load_file
from transformers import CLIPModel

from hf_robustft import Benchmark, Evaluator, FeatureAdapters
from hf_robustft.modeling.adapters import merge_adapters
from hf_robustft.training.methods import METHODS


def benchmark(name="tiny", role="id", n=12, seed=3):
    return Benchmark.from_dataset(image_dataset(n, seed=seed), name=name, role=role, templates=TEMPLATES)


def trainer_of(method, model, tmp_path, options=(), **settings):
    chosen = {"num_train_epochs": 2, "warmup_steps": 0, "learning_rate": 0.01, "export_weights": "teacher", **settings}
    return METHODS[method](
        model,
        arguments(tmp_path, **chosen),
        train_dataset=benchmark("train", "train", 16, 0),
        eval_dataset=benchmark(),
        processing_class=tiny_processor(),
        **dict(options),
    )


def measured(folder) -> dict:
    return (
        Evaluator([benchmark()], tiny_processor(), progress=False, seed=7)
        .evaluate(CLIPModel.from_pretrained(folder))
        .metrics()
    )


def adapters():
    made = FeatureAdapters(16)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for matrix in (made.image_adapter, made.text_adapter):
            matrix += 0.3 * torch.randn(matrix.shape, generator=generator)
    return made


#: Each method once, and each way; all of them: `python -m pytest -m slow tests/training/test_exported_teacher.py`.
OFTEN = (("carot", True), ("tracer", False), ("carot+croft", False))


@pytest.mark.parametrize(
    ("method", "best"),
    [
        pytest.param(method, best, marks=() if (method, best) in OFTEN else pytest.mark.slow)
        for method in ("carot", "tracer", "carot+croft")
        for best in (False, True)
    ],
)
def test_measured_chosen_and_saved_weights_are_the_same(tiny_clip, tmp_path, method, best):
    each_step = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    settings = {**each_step, "metric_for_best_model": "nll", "load_best_model_at_end": best}
    student = trainer_of(method, copy.deepcopy(tiny_clip), tmp_path / "s", **{**settings, "export_weights": "student"})
    student.train()
    trainer = trainer_of(method, tiny_clip, tmp_path / "t", **settings)
    trainer.train()
    assert step_logs(trainer) == step_logs(student), "evaluating the teacher leaves the run alone"
    values = [[e["eval_tiny/nll"] for e in t.state.log_history if "eval_tiny/nll" in e] for t in (trainer, student)]
    assert values[0] != values[1]
    assert trainer.state.best_metric == min(values[0])
    trainer.save_model()
    of_the_folder = measured(tmp_path / "t")["tiny/nll"]
    assert of_the_folder == pytest.approx(min(values[0]) if best else values[0][-1], rel=1e-5)
    assert trainer.evaluate()["eval_tiny/nll"] == pytest.approx(of_the_folder, rel=1e-5)
    # Adapters beside merged weights would undo the merging of others.
    assert not (tmp_path / "t" / "adapters.safetensors").exists()
    assert (tmp_path / "t" / "checkpoint-4" / "adapters.safetensors").exists() == (method == "carot+croft")


def test_the_teacher_starts_with_the_adapters(tiny_clip, tmp_path):
    merged = merge_adapters(copy.deepcopy(tiny_clip), adapters())
    trainer = trainer_of("carot+croft", tiny_clip, tmp_path, {"adapters": adapters()}, ema_update_every=0, max_steps=2)
    before = trainer.evaluate()["eval_tiny/nll"]
    trainer.train()
    assert trainer.optimizer_steps == 2
    for name, value in trainer.teacher.state_dict().items():
        assert torch.equal(value, merged.state_dict()[name]), name
    assert not torch.equal(merged.visual_projection.weight, trainer.model.visual_projection.weight)
    assert trainer.evaluate()["eval_tiny/nll"] == pytest.approx(before, rel=1e-6)


def test_a_state_that_an_engine_hands_over_does_not_hide_the_teacher(tiny_clip, tmp_path):
    # DeepSpeed gives the student's weights along with the call that saves.
    trainer = trainer_of("carot", tiny_clip, tmp_path, max_steps=2)
    trainer.train()
    trainer._save(str(tmp_path / "out"), state_dict=trainer.model.state_dict())
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(saved["logit_scale"], trainer.teacher.logit_scale)
    assert not torch.equal(saved["logit_scale"], trainer.model.logit_scale)
