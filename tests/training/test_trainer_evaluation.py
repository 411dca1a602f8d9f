# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Evaluation inside the Trainer: the Evaluator's numbers under Trainer's keys, and no trace left in the run."""

import copy

import pytest
import torch
from helpers import (
    CLASSES,
    TEMPLATES,
    arguments,
    assert_rounded,
    image_dataset,
    random_batch,
    rows,
    stack,
    step_logs,
    tiny_processor,
)

from hf_robustft import Benchmark, CaRotTrainer, Evaluator, FineTuneTrainer, ZeroShotHead
from hf_robustft.training.checkpoint_files import load_state


def benchmark(name="tiny", role="id", n=15, seed=3):
    return Benchmark.from_dataset(image_dataset(n, seed=seed), name=name, role=role, templates=TEMPLATES)


def trainer_of(cls, model, tmp_path, evaluation, **settings):
    return cls(
        model,
        arguments(tmp_path, **settings),
        train_dataset=benchmark("train", "train", 16, 0),
        eval_dataset=evaluation,
        processing_class=tiny_processor(),
    )


@pytest.mark.numbers
@pytest.mark.parametrize("kind", [lambda b: b, lambda b: [b], lambda b: {"tiny": b}])
def test_numbers_are_the_evaluators(tiny_clip, tmp_path, kind):
    chosen = benchmark()
    metrics = trainer_of(CaRotTrainer, tiny_clip, tmp_path, kind(chosen)).evaluate()
    report = Evaluator([chosen], tiny_processor(), progress=False, seed=7).evaluate(tiny_clip)
    # In batches of another size, so up to rounding.
    want = {f"eval_{key}": value for key, value in report.metrics().items()}
    assert_rounded({key: metrics[key] for key in want}, want)


def test_a_trained_head_is_evaluated(tiny_clip, tmp_path):
    trainer = trainer_of(FineTuneTrainer, tiny_clip, tmp_path, benchmark())
    with torch.no_grad():
        trainer.head.weight.zero_()
        trainer.head.bias[2] = 5.0
    # Always class 2: 4 of 15 images, whose labels go round.
    assert trainer.evaluate()["eval_tiny/accuracy"] == pytest.approx(4 / 15)
    zero_shot = Evaluator([benchmark()], tiny_processor(), progress=False).evaluate(tiny_clip)
    own_head = ZeroShotHead.from_model(tiny_clip, tiny_processor(), CLASSES, TEMPLATES)
    same = Evaluator([benchmark()], tiny_processor(), progress=False).evaluate(tiny_clip, head=own_head)
    assert zero_shot.results["tiny"].nll == pytest.approx(same.results["tiny"].nll, rel=1e-6)


def test_sets_that_the_trained_head_does_not_classify_are_named(tiny_clip, tmp_path, recwarn):
    part = image_dataset(8, classes=CLASSES[:2])
    sets = [benchmark(), Benchmark.from_dataset(part, name="part", role="shift", templates=TEMPLATES)]
    trainer_of(FineTuneTrainer, tiny_clip, tmp_path, sets).evaluate()
    told = [str(warning.message) for warning in recwarn if "measured by class prompts" in str(warning.message)]
    assert len(told) == 1 and "'part' has other classes than the trained head" in told[0]
    recwarn.clear()
    for cls, chosen in ((CaRotTrainer, sets), (FineTuneTrainer, sets[:1])):
        trainer_of(cls, tiny_clip, tmp_path, chosen).evaluate()
    assert not [warning for warning in recwarn if "measured by class prompts" in str(warning.message)]


def test_other_data_of_the_same_name_are_evaluated_anew(tiny_clip, tmp_path):
    trainer = trainer_of(FineTuneTrainer, tiny_clip, tmp_path, None)
    with torch.no_grad():
        trainer.head.weight.zero_()
        trainer.head.bias[2] = 5.0
    assert trainer.evaluate(benchmark(n=15))["eval_tiny/accuracy"] == pytest.approx(4 / 15)
    assert trainer.evaluate(benchmark(n=10))["eval_tiny/accuracy"] == pytest.approx(2 / 10)


@pytest.mark.same_bits("the same training batches; evaluating between them leaves no trace")
def test_evaluation_during_training_leaves_the_run_alone(tiny_clip, tmp_path):
    runs = []
    for settings in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        runs.append(
            trainer_of(CaRotTrainer, copy.deepcopy(tiny_clip), tmp_path, benchmark(), num_train_epochs=2, **settings)
        )
        runs[-1].train()
    plain, evaluated = runs
    assert step_logs(evaluated) == step_logs(plain)
    assert all(torch.equal(v, evaluated.model.state_dict()[n]) for n, v in plain.model.state_dict().items())
    assert sum("eval_tiny/accuracy" in entry for entry in evaluated.state.log_history) == 4
    assert not any(module.training for module in evaluated.teacher.modules())


def test_the_best_checkpoint_by_a_metric_is_loaded(tiny_clip, tmp_path):
    trainer = trainer_of(
        CaRotTrainer,
        tiny_clip,
        tmp_path,
        benchmark(),
        num_train_epochs=2,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model="eval_tiny/nll",
        load_best_model_at_end=True,
        warmup_steps=0,
        learning_rate=0.01,
    )
    trainer.train()
    values = [entry["eval_tiny/nll"] for entry in trainer.state.log_history if "eval_tiny/nll" in entry]
    assert trainer.state.best_metric == min(values) and len(set(values)) == 4
    assert trainer.evaluate()["eval_tiny/nll"] == min(values)


def test_the_best_models_head_and_teacher_come_back_with_it(tiny_clip, tmp_path):
    settings = {
        "num_train_epochs": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "metric_for_best_model": "eval_tiny/accuracy",
        "load_best_model_at_end": True,
        "warmup_steps": 0,
        "learning_rate": 1e-7,
    }
    for cls, own in ((FineTuneTrainer, "module.head"), (CaRotTrainer, "teacher")):
        trainer = trainer_of(cls, copy.deepcopy(tiny_clip), tmp_path / cls.method, benchmark(), **settings)
        trainer.train()
        # Such small steps move no image to another class, so that the first checkpoint stays the best.
        assert trainer.state.best_model_checkpoint.endswith("checkpoint-1")
        saved = load_state(trainer.state.best_model_checkpoint)
        module = trainer.head if cls is FineTuneTrainer else trainer.teacher
        assert all(torch.equal(value, saved[f"{own}.{name}"]) for name, value in module.state_dict().items())
        last = load_state(tmp_path / cls.method / "checkpoint-4")
        assert any(not torch.equal(saved[name], last[name]) for name in saved if name.startswith(own))


def test_the_best_model_cannot_come_back_from_weights_alone(tiny_clip, tmp_path):
    settings = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 1, "eval_steps": 1}
    with pytest.raises(ValueError, match="load_best_model_at_end.*save_only_model"):
        trainer_of(
            CaRotTrainer,
            tiny_clip,
            tmp_path,
            benchmark(),
            load_best_model_at_end=True,
            save_only_model=True,
            **settings,
        )


@pytest.mark.parametrize("data", ["rows", "dataset"])
def test_data_that_are_no_benchmark_are_refused(tiny_clip, tmp_path, data):
    wrong = rows(random_batch()) if data == "rows" else image_dataset(8)
    trainer = CaRotTrainer(
        tiny_clip, arguments(tmp_path, max_steps=2), train_dataset=rows(random_batch(16)), data_collator=stack
    )
    with pytest.raises(ValueError, match="Benchmark") as caught:
        trainer.evaluate(wrong)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="eval_dataset.*Benchmark"):
        CaRotTrainer(tiny_clip, arguments(tmp_path), eval_dataset=wrong)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        trainer.evaluate()


def test_predict_says_what_to_use_instead(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match="ZeroShotHead.from_model"):
        trainer_of(CaRotTrainer, tiny_clip, tmp_path, None).predict([])
