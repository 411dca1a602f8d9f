# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Metrics that choose: their names are known before a run, and the library knows which way each is better."""

import copy

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, tiny_processor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_robustft import Benchmark, CaRotTrainer, Evaluator, FineTuneTrainer, FLYPTrainer, ZeroShotHead
from hf_robustft.data.class_projection import ClassProjection
from hf_robustft.evaluation.detection import detection_metrics
from hf_robustft.evaluation.metric_names import (
    GREATER_IS_BETTER,
    checked_direction,
    greater_is_better,
    metric_names,
    resolve_metric,
)
from hf_robustft.evaluation.report import DATASET_METRICS, SHIFT_METRICS


def benchmark(name="tiny", role="id", n=12, seed=3, classes=CLASSES, templates=TEMPLATES, **options):
    return Benchmark.from_dataset(
        image_dataset(n, seed, classes), name=name, role=role, templates=templates, **options
    )


UNSEEN = ("cow", "ant")
SETS = {
    "one": [benchmark()],
    "validation alone": [benchmark("held", "validation")],
    "shift alone": [benchmark("sketch", "shift")],
    "everything": [
        benchmark("photo"),
        benchmark("held", "validation"),
        benchmark("sketch", "shift"),
        benchmark("other", "shift", templates=("a {}.",)),
        benchmark("part", "shift", classes=CLASSES[:2], projection=ClassProjection(CLASSES, ((0,), (1,)))),
        benchmark("strange", "open_set", classes=UNSEEN),
        benchmark("odd", "open_set", classes=("fox", "elk")),
    ],
}


# ---- Names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "head"), [*((sets, head) for sets in SETS for head in (None, CLASSES)), ("everything", CLASSES[:2])]
)
def test_names_are_those_of_the_report(tiny_clip, sets, head):
    trained = None if head is None else ZeroShotHead(torch.randn(len(head), 16), head)
    bank = benchmark("bank", "train", seed=9) if sets == "everything" else None
    evaluator = Evaluator(SETS[sets], tiny_processor(), progress=False, bootstrap_draws=2, knn_bank=bank)
    report = evaluator.evaluate(tiny_clip, head=trained)
    assert metric_names(SETS[sets], head, knn=bank is not None) == list(report.metrics())


def test_every_metric_of_the_library_has_a_direction_or_none():
    names = {key.rsplit("/", 1)[-1] for key in metric_names(SETS["everything"])}
    numbers = detection_metrics(torch.tensor([1.0, 2.0]), torch.tensor([0.0]))
    assert names | set(DATASET_METRICS) | set(SHIFT_METRICS) | set(numbers) <= set(GREATER_IS_BETTER)


def test_directions():
    better = ["accuracy", "auroc", "aupr_in", "aupr_out", "smallest_singular_value", "accepted"]
    worse = ["ece", "adaptive_ece", "classwise_ece", "nll", "brier", "loss"]
    worse += ["fpr95", "fpr95_nearest_recall", "fpr95_percentile"]
    for name, direction in [*((n, True) for n in better), *((n, False) for n in worse)]:
        spelled = (name, f"eval_{name}", f"eval_noto/{name}", f"open_set/x/energy/{name}")
        assert [greater_is_better(key) for key in spelled] == [direction] * 4, name
        assert checked_direction(name, None) is checked_direction(name, direction) is direction
        with pytest.raises(ValueError, match=f"`greater_is_better={not direction}`.*`{name}`"):
            checked_direction(name, not direction)
    assert greater_is_better("noto/n") is None and checked_direction("mine", True) is True


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("photo/ece", "photo/ece"),
        ("eval_photo/ece", "photo/ece"),
        ("shift_mean/brier", "shift_mean/brier"),
        ("smallest_singular_value", "spectrum/smallest_singular_value"),
        ("strange/energy/auroc", "open_set/strange/energy/auroc"),
        ("eval_open_set/odd/msp/fpr95", "open_set/odd/msp/fpr95"),
    ],
)
def test_a_part_of_a_name_may_do(given, meant):
    assert resolve_metric(given, metric_names(SETS["everything"])) == meant


def test_a_metric_of_the_only_set_needs_no_set():
    assert resolve_metric("ece", metric_names(SETS["one"])) == "tiny/ece"
    assert resolve_metric("eval_nll", metric_names(SETS["shift alone"])) == "sketch/nll"


@pytest.mark.parametrize(
    ("sets", "given", "say"),
    [
        ("everything", "ece", "could be photo/ece or held/ece or sketch/ece"),
        ("everything", "auroc", "could be .*open_set/strange/msp/auroc or "),
        ("one", "acuracy", "did you mean `tiny/accuracy`.*choose one of tiny/accuracy, tiny/ece"),
        ("one", "eval_tiny_nll", "did you mean `tiny/nll`"),
        ("one", "tinny/brier", "did you mean `tiny/brier`"),
        ("one", "loss", "cross-entropy is `tiny/nll`"),
        ("one", "energy/auroc", "open_set.*choose one of"),
        ("one", "fpr95", "role open_set"),
        ("one", "shift_mean/ece", "choose one of"),
        ("one", "n", "does not say which model is better"),
        ("one", "tiny/ece_noise_floor", "does not say which model is better"),
    ],
)
def test_other_names_are_refused_with_the_list(sets, given, say):
    with pytest.raises(ValueError, match=f"`metric_for_best_model='{given}'`.*{say}") as caught:
        resolve_metric(given, metric_names(SETS[sets]))
    assert "\n" not in str(caught.value)


# ---- What chooses ---------------------------------------------------------------------------------------------------

EACH_STEP = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "warmup_steps": 0}


def trainer_of(cls, model, tmp_path, evaluation=None, trainer_options=(), **settings):
    return cls(
        model,
        arguments(tmp_path, **settings),
        train_dataset=benchmark("train", "train", 16, 0),
        eval_dataset=benchmark() if evaluation is None else evaluation,
        processing_class=tiny_processor(),
        **dict(trainer_options),
    )


@pytest.mark.parametrize("metric", ["accuracy", "ece", "nll", "eval_tiny/brier", "tiny/adaptive_ece", "classwise_ece"])
@pytest.mark.parametrize("strategy", ["steps", "best"])
def test_the_best_checkpoint_is_the_best(tiny_clip, tmp_path, metric, strategy):
    settings = {**EACH_STEP, "save_strategy": strategy, "load_best_model_at_end": True, "learning_rate": 0.01}
    trainer = trainer_of(
        FLYPTrainer, tiny_clip, tmp_path, num_train_epochs=2, metric_for_best_model=metric, **settings
    )
    trainer.train()
    key = "eval_tiny/" + metric.rsplit("/", 1)[-1]
    values = [entry[key] for entry in trainer.state.log_history if key in entry]
    best = max(values) if metric == "accuracy" else min(values)
    assert len(values) == 4 and trainer.args.metric_for_best_model == key
    assert trainer.state.best_metric == best and (len(set(values)) > 1 or metric == "accuracy")
    assert trainer.evaluate()[key] == pytest.approx(best, rel=1e-6)


def test_early_stopping_waits_for_the_direction_of_the_metric(tiny_clip, tmp_path):
    class Falls(TrainerCallback):
        # Before the early stopping callback sees them.
        def on_evaluate(self, args, state, control, metrics, **kwargs):
            metrics["eval_tiny/nll"] = 5.0 - state.global_step

    callbacks = [Falls(), EarlyStoppingCallback(1)]
    settings = {**EACH_STEP, "metric_for_best_model": "nll", "load_best_model_at_end": True}
    trainer = trainer_of(
        FLYPTrainer, tiny_clip, tmp_path, trainer_options={"callbacks": callbacks}, max_steps=4, **settings
    )
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_metric == 1.0


@pytest.mark.parametrize(("metric", "mode"), [("accuracy", "max"), ("ece", "min")])
def test_a_plateau_is_one_of_the_metrics_direction(tiny_clip, tmp_path, metric, mode):
    settings = {**EACH_STEP, "lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": metric}
    trainer = trainer_of(
        FLYPTrainer, tiny_clip, tmp_path, max_steps=2, lr_scheduler_kwargs={"patience": 3}, **settings
    )
    trainer.train()
    assert trainer.lr_scheduler.mode == mode and trainer.lr_scheduler.patience == 3
    wrong = {"mode": "max" if mode == "min" else "min"}
    with pytest.raises(ValueError, match=f"mode.*{metric}.*mode='{mode}'"):
        trainer_of(FLYPTrainer, tiny_clip, tmp_path, max_steps=2, lr_scheduler_kwargs=wrong, **settings)
    optimizer = torch.optim.SGD(tiny_clip.parameters(), lr=0.1)
    given = {"optimizers": (optimizer, ReduceLROnPlateau(optimizer, **wrong))}
    with pytest.raises(ValueError, match=f"mode.*{metric}.*mode='{mode}'"):
        trainer_of(FLYPTrainer, tiny_clip, tmp_path, trainer_options=given, metric_for_best_model=metric, **EACH_STEP)


@pytest.mark.parametrize(
    ("settings", "options", "say"),
    [
        ({"metric_for_best_model": "eval_tiny/acc"}, {}, "did you mean `tiny/accuracy`"),
        ({"load_best_model_at_end": True}, {}, "metric_for_best_model.*cross-entropy is `tiny/nll`"),
        ({"metric_for_best_model": "ece", "greater_is_better": True}, {}, "greater_is_better=True.*ece"),
        ({"metric_for_best_model": "accuracy", "greater_is_better": False}, {}, "greater_is_better=False.*accuracy"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, {}, "cross-entropy is `tiny/nll`"),
        ({"lr_scheduler_type": "greedy", "eval_strategy": "no"}, {}, "eval strategy"),
        ({}, {"callbacks": [EarlyStoppingCallback()]}, "Early stopping.*metric_for_best_model"),
    ],
)
def test_what_cannot_choose_is_refused_at_construction(tiny_clip, tmp_path, settings, options, say):
    with pytest.raises(ValueError, match=say) as caught:
        trainer_of(FLYPTrainer, tiny_clip, tmp_path, trainer_options=options, **{**EACH_STEP, **settings})
    assert "\n" not in str(caught.value)


def test_a_score_that_a_trained_head_lacks_is_refused_before_training(tiny_clip, tmp_path):
    sets = [benchmark(), benchmark("strange", "open_set", classes=UNSEEN)]
    settings = {**EACH_STEP, "metric_for_best_model": "strange/mcm/auroc", "max_steps": 1}
    trainer_of(FLYPTrainer, copy.deepcopy(tiny_clip), tmp_path, sets, **settings).train()
    trainer = trainer_of(FineTuneTrainer, tiny_clip, tmp_path, sets, **settings)
    with pytest.raises(ValueError, match="strange/mcm/auroc.*choose one of"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_a_subclass_may_choose_by_a_metric_of_its_own(tiny_clip, tmp_path):
    class Own(FLYPTrainer):
        def available_metrics(self):
            return [*super().available_metrics(), "own/steps"]

        def evaluate(self, *args, **kwargs):
            return {**super().evaluate(*args, **kwargs), "eval_own/steps": self.state.global_step}

    settings = {**EACH_STEP, "metric_for_best_model": "own/steps", "greater_is_better": True, "max_steps": 3}
    trainer = trainer_of(Own, tiny_clip, tmp_path, **settings)
    trainer.train()
    assert trainer.state.best_metric == 3


def test_a_metric_that_is_assigned_later_has_its_own_direction(tiny_clip, tmp_path):
    trainer = trainer_of(FLYPTrainer, tiny_clip, tmp_path, metric_for_best_model="ece", max_steps=1, **EACH_STEP)
    assert trainer.args.greater_is_better is False
    trainer.args.metric_for_best_model = "accuracy"
    trainer.train()
    assert trainer.args.greater_is_better is True and trainer.args.metric_for_best_model == "eval_tiny/accuracy"

    class Own(FLYPTrainer):
        def available_metrics(self):
            return [*super().available_metrics(), "own/steps"]

    trainer = trainer_of(Own, tiny_clip, tmp_path, max_steps=1, **EACH_STEP)
    trainer.args.metric_for_best_model = "own/steps"
    with pytest.raises(ValueError, match="own/steps.*greater_is_better"):
        trainer.train()


def test_a_set_whose_name_begins_like_the_prefix_is_not_taken_for_another(tiny_clip, tmp_path):
    sets = [benchmark("eval_x", seed=4), benchmark("x")]
    for given, meant in (("x/ece", "x/ece"), ("eval_x/ece", "x/ece"), ("eval_eval_x/ece", "eval_x/ece")):
        trainer = trainer_of(CaRotTrainer, copy.deepcopy(tiny_clip), tmp_path, sets, metric_for_best_model=given)
        # Once more at the start of the training.
        trainer.settle_choice()
        assert trainer.args.metric_for_best_model == f"eval_{meant}"
    assert resolve_metric("eval_x/ece", ["eval_x/ece"]) == "eval_x/ece"


# ---- Names of sets --------------------------------------------------------------------------------------------------


def test_the_keys_of_a_dict_are_the_names_of_its_sets(tiny_clip, tmp_path):
    sets = {"dev": benchmark("x"), "test": benchmark("x", seed=4)}
    trainer = trainer_of(CaRotTrainer, tiny_clip, tmp_path, sets, metric_for_best_model="dev/ece")
    metrics = trainer.evaluate()
    report = Evaluator([benchmark("dev"), benchmark("test", seed=4)], tiny_processor(), progress=False, seed=7)
    expected = report.evaluate(tiny_clip).metrics()
    # Batches of another size are rounded otherwise by some processors.
    assert {key: metrics[f"eval_{key}"] for key in expected} == pytest.approx(expected, rel=1e-6)
    alone = trainer.evaluate("test", metric_key_prefix="last")
    assert alone["last_test/nll"] == pytest.approx(expected["test/nll"], rel=1e-6) and "last_dev/nll" not in alone
    with pytest.raises(ValueError, match="'tset'.*dev, test"):
        trainer.evaluate("tset")
