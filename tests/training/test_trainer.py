# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The Trainer: sums and logs named terms, bounds the scale, accumulates exactly, and refuses what cannot work."""

import copy
import dataclasses
import math

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, random_batch, rows, stack, step_logs, tiny_processor
from helpers.families import family_batch, family_model
from transformers import CLIPVisionModel, TrainingArguments

from hf_robustft import (
    Benchmark,
    CaRotTrainer,
    ContrastiveMixin,
    CrossEntropyMixin,
    FineTuneTrainer,
    FLYPTrainer,
    ObjectiveMixin,
    RobustTrainer,
    SingularValueMixin,
)


class RaiseScale(ObjectiveMixin):
    """An objective that pushes the logit scale up."""

    def loss_terms(self, features, batch):
        return {**super().loss_terms(features, batch), "raise_scale": -features.logit_scale}


class RaiseScaleTrainer(RaiseScale, RobustTrainer):
    method = "raise_scale"


def trained(cls, model, tmp_path, n=24, batch=None, **settings):
    batch = random_batch(n) if batch is None else batch
    trainer = cls(model, arguments(tmp_path, **settings), train_dataset=rows(batch), data_collator=stack)
    trainer.train()
    return trainer


def terms_of(log):
    return {name: value for name, value in log.items() if name.startswith("loss/")}


def with_scale(model, scale):
    with torch.no_grad():
        model.logit_scale.fill_(math.log(scale))
    return model


# ---- Terms and logs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
def test_loss_is_the_sum_of_the_logged_terms(tiny_clip, tmp_path, every):
    logs = step_logs(trained(CaRotTrainer, tiny_clip, tmp_path, num_train_epochs=2, logging_steps=every))
    assert len(logs) == 6 // every
    for log in logs[1:] if every == 1 else logs:
        names = ("contrastive", "cross_frobenius", "orthogonality", "self_distillation")
        assert terms_of(log).keys() == {f"loss/{name}" for name in names}
    for log in logs:
        assert sum(terms_of(log).values()) == pytest.approx(log["loss"], rel=1e-6)


def test_a_window_logs_the_mean_of_its_steps(tiny_clip, tmp_path):
    other = copy.deepcopy(tiny_clip)
    each = step_logs(trained(CaRotTrainer, tiny_clip, tmp_path, num_train_epochs=2, logging_steps=1))
    both = step_logs(trained(CaRotTrainer, other, tmp_path, num_train_epochs=2, logging_steps=3))
    for i, log in enumerate(both):
        window = each[3 * i : 3 * i + 3]
        for name in ("loss", *terms_of(log)):
            assert log[name] == pytest.approx(sum(entry.get(name, 0.0) for entry in window) / 3, rel=1e-12), name
        assert log["logit_scale"] == window[-1]["logit_scale"]
        assert log["teacher/momentum"] == window[-1]["teacher/momentum"]


def test_a_weight_of_zero_leaves_its_term_out(tiny_clip, tmp_path):
    log = step_logs(
        trained(
            CaRotTrainer, tiny_clip, tmp_path, cross_frobenius_weight=0.0, distillation_weight=0.0, num_train_epochs=1
        )
    )[-1]
    assert terms_of(log).keys() == {"loss/contrastive", "loss/orthogonality"}
    assert "teacher/updates" not in log


def test_every_parameter_of_the_model_moves(tiny_clip, tmp_path):
    start = copy.deepcopy(tiny_clip.state_dict())
    trained(CaRotTrainer, tiny_clip, tmp_path, num_train_epochs=2)
    still = [name for name, p in tiny_clip.named_parameters() if torch.equal(p, start[name])]
    assert still == []


class Penalty(ObjectiveMixin):
    """A user's objective that uses every hook."""

    def prepare_training(self, total_steps):
        super().prepare_training(total_steps)
        self.calls = {"prepare": [total_steps], "loss": 0, "after": []}

    def loss_terms(self, features, batch):
        self.calls["loss"] += 1
        terms = super().loss_terms(features, batch)
        terms["weight_size"] = 0.01 * self.model.visual_projection.weight.norm()
        return terms

    def after_optimizer_step(self):
        super().after_optimizer_step()
        self.calls["after"].append(self.optimizer_steps)

    def log_values(self):
        return {**super().log_values(), "penalty/steps": len(self.calls["after"])}


class PenalisedTrainer(Penalty, SingularValueMixin, ContrastiveMixin, RobustTrainer):
    method = "penalised"


def test_a_users_mixin_adds_a_named_term_and_sees_every_step(tiny_clip, tmp_path):
    size = 0.01 * tiny_clip.visual_projection.weight.norm().item()
    trainer = trained(
        PenalisedTrainer,
        tiny_clip,
        tmp_path,
        num_train_epochs=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    logs = step_logs(trainer)
    names = {"loss/contrastive", "loss/cross_frobenius", "loss/orthogonality", "loss/weight_size"}
    assert terms_of(logs[0]).keys() == names
    assert logs[0]["loss/weight_size"] == pytest.approx(size, rel=1e-6)
    assert [log["penalty/steps"] for log in logs] == [1, 2, 3, 4, 5, 6]
    assert trainer.calls == {"prepare": [6], "loss": 12, "after": [1, 2, 3, 4, 5, 6]}


# ---- Optimisation ---------------------------------------------------------------------------------------------------


class BothTrainer(SingularValueMixin, CrossEntropyMixin, RobustTrainer):
    method = "both"


@pytest.mark.numbers
@pytest.mark.parametrize("cls", [FineTuneTrainer, BothTrainer])
@pytest.mark.parametrize("n", [24, 20, 22])
def test_accumulation_equals_the_whole_batch(tiny_clip, tmp_path, cls, n):
    # With 20 examples the last step has 4, that is one micro-batch of the two. With 22 it has 6, in micro-batches of 4 and 2.
    batch, runs = random_batch(n, dtype=torch.float64), []
    for size, accumulated in ((8, 1), (4, 2)):
        trainer = cls(
            copy.deepcopy(tiny_clip).double(),
            arguments(
                tmp_path,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=accumulated,
                num_train_epochs=2,
                warmup_steps=0,
            ),
            train_dataset=rows(batch),
            data_collator=stack,
            class_names=CLASSES,
            templates=TEMPLATES,
            processing_class=tiny_processor(),
        )
        trainer.train()
        runs.append(trainer)
    whole, parts = runs
    assert whole.state.global_step == parts.state.global_step == 6
    for one, two in ((whole.model, parts.model), (whole.head, parts.head)):
        for name, value in one.state_dict().items():
            if "k_proj.bias" not in name:  # their gradient is rounding noise around 0, which AdamW normalises
                torch.testing.assert_close(two.state_dict()[name], value, rtol=0, atol=1e-10, msg=name)
    for one, two in zip(step_logs(whole), step_logs(parts), strict=True):
        assert one.keys() == two.keys()
        for name in ("loss", "grad_norm", *terms_of(one)):
            assert two[name] == pytest.approx(one[name], rel=1e-9), name


@pytest.mark.parametrize("start", [100.0, 110.0])
def test_scale_is_bounded(tiny_clip, tmp_path, start):
    settings = {"num_train_epochs": 1, "warmup_steps": 0, "learning_rate": 0.01}
    bounded = trained(RaiseScaleTrainer, with_scale(copy.deepcopy(tiny_clip), start), tmp_path, **settings)
    free = trained(
        RaiseScaleTrainer, with_scale(copy.deepcopy(tiny_clip), start), tmp_path, bound_logit_scale=False, **settings
    )
    assert bounded.model.logit_scale.exp().item() == pytest.approx(start, rel=1e-5)
    assert free.model.logit_scale.exp().item() > 1.02 * start
    assert [log["logit_scale"] for log in step_logs(bounded)] == pytest.approx([start] * 3, rel=1e-5)


def test_a_small_scale_may_grow_to_100(tiny_clip, tmp_path):
    trainer = trained(
        RaiseScaleTrainer,
        with_scale(tiny_clip, 99.0),
        tmp_path,
        num_train_epochs=1,
        warmup_steps=0,
        learning_rate=0.03,
    )
    assert trainer.model.logit_scale.exp().item() == pytest.approx(100.0, rel=1e-5)


class OnlyProjection(ObjectiveMixin):
    def loss_terms(self, features, batch):
        return {"size": self.model.visual_projection.weight.norm() + 0.0 * features.logit_scale}


class OnlyProjectionTrainer(OnlyProjection, RobustTrainer):
    method = "only_projection"


@pytest.mark.parametrize("everything", [False, True])
def test_the_scale_is_not_decayed_unless_everything_is(tiny_clip, tmp_path, everything):
    args = arguments(tmp_path, decay_all_parameters=everything)
    trainer = FLYPTrainer(tiny_clip, args, train_dataset=rows(random_batch()), data_collator=stack)
    groups = trainer.create_optimizer().param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = {name: decay[id(p)] for name, p in tiny_clip.named_parameters()}
    assert named["visual_projection.weight"] == 0.1
    spared = ("logit_scale", "vision_model.post_layernorm.weight", "text_model.encoder.layers.0.mlp.fc1.bias")
    assert [named[name] for name in spared] == [0.1 if everything else 0.0] * 3
    # At a learning rate times decay of 0.1, a few steps without gradient on the scale show whether it shrinks.
    start = tiny_clip.logit_scale.item()
    settings = {"weight_decay": 100.0, "num_train_epochs": 1, "lr_schedule": "reference", "warmup_steps": 1}
    trained(OnlyProjectionTrainer, tiny_clip, tmp_path, decay_all_parameters=everything, **settings)
    assert tiny_clip.logit_scale.item() < 0.9 * start if everything else tiny_clip.logit_scale.item() == start


@pytest.mark.parametrize("everything", [False, True])
def test_siglips_scale_and_bias_never_decay(tmp_path, everything):
    model = family_model("siglip")
    args = arguments(tmp_path, decay_all_parameters=everything)
    trainer = FLYPTrainer(model, args, train_dataset=rows(family_batch("siglip")), data_collator=stack)
    groups = trainer.create_optimizer().param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = {name: decay[id(p)] for name, p in model.named_parameters()}
    assert (named["logit_scale"], named["logit_bias"], named["text_model.head.weight"]) == (0.0, 0.0, 0.1)
    assert named["text_model.head.bias"] == (0.1 if everything else 0.0)


# ---- Refusals -------------------------------------------------------------------------------------------------------


class Broken(ObjectiveMixin):
    def loss_terms(self, features, batch):
        bad = torch.tensor(float("nan" if self.optimizer_steps >= 2 else 1.0))
        return {**super().loss_terms(features, batch), "broken": bad}


class BrokenTrainer(Broken, ContrastiveMixin, RobustTrainer):
    method = "broken"


def one_line(caught):
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_term(tiny_clip, tmp_path):
    with pytest.raises(FloatingPointError, match=r"not finite at step 2: broken \(of contrastive = .*learning_rate"):
        trained(BrokenTrainer, tiny_clip, tmp_path, num_train_epochs=2)


def test_poisoned_weights_are_traced_to_the_terms_that_use_them(tiny_clip, tmp_path):
    with torch.no_grad():
        tiny_clip.vision_model.pre_layrnorm.weight[0] = float("inf")
    with pytest.raises(FloatingPointError, match=r"at step 0: contrastive \(of contrastive = nan, cross_frob"):
        trained(CaRotTrainer, tiny_clip, tmp_path, num_train_epochs=1)


def test_plain_training_arguments_are_refused(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match="takes `RobustTrainingArguments`.*got `TrainingArguments`") as caught:
        CaRotTrainer(tiny_clip, TrainingArguments(output_dir=str(tmp_path), use_cpu=True))
    one_line(caught)


def test_another_model_is_refused(tiny_clip, tmp_path):
    other = CLIPVisionModel(tiny_clip.config.vision_config)
    with pytest.raises(ValueError, match="CLIPVisionModel.*CLIPModel, MetaClip2Model") as caught:
        CaRotTrainer(other, arguments(tmp_path))
    one_line(caught)


class OnlySingularTrainer(SingularValueMixin, RobustTrainer):
    method = "only_singular"


@pytest.mark.parametrize("cls", [RobustTrainer, OnlySingularTrainer])
def test_a_run_without_terms_is_refused(tiny_clip, tmp_path, cls):
    with pytest.raises(ValueError, match=f"{cls.__name__} has no loss term") as caught:
        off = {} if cls is RobustTrainer else {"orthogonality_weight": 0.0, "cross_frobenius_weight": 0.0}
        trained(cls, tiny_clip, tmp_path, **off)
    one_line(caught)


def test_fewer_examples_than_a_batch_are_refused(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match="5 examples, fewer than one global batch of 8.*size to 5 or less") as caught:
        trained(CaRotTrainer, tiny_clip, tmp_path, n=5)
    one_line(caught)


def test_a_batch_of_one_is_refused(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match="per_device_train_batch_size=1.*without negatives") as caught:
        trained(CaRotTrainer, tiny_clip, tmp_path, per_device_train_batch_size=1)
    one_line(caught)


def test_other_orders_are_refused(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match="train_sampling_strategy='group_by_length'.*'random' or 'sequential'"):
        trained(CaRotTrainer, tiny_clip, tmp_path, train_sampling_strategy="group_by_length")


def test_eager_attention_is_warned_of_where_it_would_spoil_a_comparison(tiny_clip, tmp_path):
    tiny_clip.set_attn_implementation("eager")
    with pytest.warns(UserWarning, match="expects SDPA attention, this model uses 'eager'"):
        CaRotTrainer(tiny_clip, arguments(tmp_path, preset="reference"))


def test_data_that_may_only_be_evaluated_on_are_not_trained_on(tiny_clip, tmp_path):
    benchmark = Benchmark.from_dataset(image_dataset(8), name="objects", role="id", templates=TEMPLATES)
    forbidden = dataclasses.replace(benchmark, evaluation_only=True)
    with pytest.raises(ValueError, match="'objects' may be evaluated on, never trained"):
        CaRotTrainer(tiny_clip, arguments(tmp_path), train_dataset=forbidden, processing_class=tiny_processor())
