# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The anchor of the image features' covariance: a plain computation, closed forms, precision, and one teacher for all terms."""

import pytest
import torch
from helpers import arguments, random_batch, rows, stack, step_logs
from helpers.walking import Walking
from torch import nn

from hf_robustft import CovarianceAnchorMixin, CovarianceAnchorTrainer, SelfDistillationMixin
from hf_robustft.modeling.features import ClipFeatures, encode
from hf_robustft.objectives import covariance_anchor
from hf_robustft.objectives.covariance_anchor import covariance_anchor_loss

pytestmark = pytest.mark.numbers


def unit(batch=9, dim=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(batch, dim, dtype=torch.float64, generator=generator), dim=-1).to(dtype)


class Alone(Walking, CovarianceAnchorMixin, SelfDistillationMixin):
    """Both objectives of the method that have a teacher, without a Trainer."""


def moved(model, seed=3):
    """Takes the student away from its teacher."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("batch", [9, 3])
def test_value_and_gradient_are_those_of_a_plain_sum(batch):
    student, teacher = unit(batch).requires_grad_(), unit(batch, seed=1).requires_grad_()
    spreads = []
    for embeds in (student, teacher.detach()):
        mean = sum(embeds) / batch
        spreads.append(sum(torch.outer(row - mean, row - mean) for row in embeds) / batch)
    want = (spreads[0] - spreads[1]).square().sum().sqrt()
    got = covariance_anchor_loss(student, teacher)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (got, want)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    got.backward()
    assert teacher.grad is None, "no gradient may reach the teacher"


def test_it_sees_the_spread_and_neither_the_mean_nor_the_order():
    # Two features at right angles: a covariance of ½ along their difference; two equal ones: none.
    apart, together = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0.0]] * 2, dtype=torch.float64)
    assert covariance_anchor_loss(apart, together).item() == pytest.approx(0.5, rel=1e-14)
    student, teacher = unit(), unit(seed=1)
    same = covariance_anchor_loss(student.flip(0), teacher + torch.tensor([1.0, -2.0, 0.0, 3.0]))
    torch.testing.assert_close(same, covariance_anchor_loss(student, teacher), rtol=1e-12, atol=0)


def test_equal_features_have_a_gradient_of_zero():
    student = unit().requires_grad_()
    loss = covariance_anchor_loss(student, student)
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, student)[0], torch.zeros_like(student))


@pytest.mark.same_bits("the same products; half precision is converted exactly")
def test_autocast_and_half_features_compute_in_float32():
    student, teacher = unit(dtype=torch.bfloat16), unit(seed=1, dtype=torch.bfloat16)
    plain = covariance_anchor_loss(student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (student.t() @ student).dtype == torch.bfloat16, "autocast must be on for this test to mean anything"
        inside = [covariance_anchor_loss(*pair) for pair in ((student, teacher), (student.float(), teacher.float()))]
    for value in inside:
        assert value.dtype == torch.float32 and torch.equal(value, plain)


@pytest.mark.parametrize("shape", [(8, 4), (9, 5), (9,)])
def test_unequal_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"one shape \(batch, embed_dim\)"):
        covariance_anchor_loss(torch.ones(9, 4), torch.ones(shape))


def test_of_several_processes_it_takes_all_rows():
    student, teacher = unit(), unit(seed=1)

    def part(embeds, chosen):
        return ClipFeatures(embeds[chosen], embeds[chosen], torch.tensor(1.0), embeds, embeds)

    mixin = CovarianceAnchorMixin()
    mixin.args = covariance_anchor.CovarianceAnchorSettings(covariance_anchor_weight=2.0)
    want = 2 * covariance_anchor_loss(student, teacher)
    for part_of in (slice(0, 4), slice(4, 9)):
        (term,) = mixin.distillation_terms(part(student, part_of), part(teacher, part_of)).values()
        torch.testing.assert_close(term, want, rtol=1e-14, atol=0)


@pytest.mark.parametrize("alone", ["distillation", "covariance_anchor"])
def test_each_term_has_its_weight_and_the_teacher_encodes_once(tiny_clip, tmp_path, alone, monkeypatch):
    model, batch = tiny_clip.double(), random_batch(dtype=torch.float64)
    both = Alone(model, arguments(tmp_path), 10)
    assert both.loss_terms(encode(model, batch), batch) == {}, "no term in the first step"
    moved(model)
    both.optimizer_steps, calls = 1, []
    both.teacher.vision_model.register_forward_pre_hook(lambda *_: calls.append(1))
    terms = both.loss_terms(encode(model, batch), batch)
    assert terms.keys() == {"self_distillation", "covariance_anchor"} and len(calls) == 1
    weights = {"distillation_weight": 0.0, "covariance_anchor_weight": 0.0}
    one = Alone(model, arguments(tmp_path, **{**weights, f"{alone}_weight": 3.0}), 10)
    one.teacher, one.optimizer_steps = both.teacher, 1
    if alone == "distillation":
        monkeypatch.setattr(covariance_anchor, "covariance_anchor_loss", None)
    ((name, term),) = one.loss_terms(encode(model, batch), batch).items()
    assert name == {"distillation": "self_distillation"}.get(alone, alone) and term > 0
    torch.testing.assert_close(term, terms[name] * 3 / getattr(both.args, f"{alone}_weight"))
    nothing = Alone(model, arguments(tmp_path, **weights), 10)
    assert nothing.teacher is None and nothing.loss_terms(None, {}) == nothing.extra_state() == {}
    with pytest.raises(ValueError, match="export_weights='teacher'.*covariance_anchor_weight=0.*distillation_weight=0"):
        nothing.validate_arguments(arguments(tmp_path, export_weights="teacher", **weights))


def test_it_holds_the_spread_in_a_run(tiny_clip, tmp_path):
    data, distances = rows(random_batch(24, dtype=torch.float64)), {}
    start = encode(tiny_clip.double(), random_batch(24, dtype=torch.float64)).image_embeds.detach()
    for weight in (0.0, 30.0):
        args = arguments(tmp_path, covariance_anchor_weight=weight, num_train_epochs=8, ema_update_every=0, warmup_steps=0)
        model = type(tiny_clip)(tiny_clip.config).double()
        model.load_state_dict(tiny_clip.state_dict())
        trainer = CovarianceAnchorTrainer(model.eval(), args, train_dataset=data, data_collator=stack)
        trainer.train()
        logs = step_logs(trainer)
        assert ("loss/covariance_anchor" in logs[1]) == bool(weight) and "loss/covariance_anchor" not in logs[0]
        end = encode(model.eval(), random_batch(24, dtype=torch.float64)).image_embeds
        distances[weight] = covariance_anchor_loss(end, start).item()
    assert distances[30.0] < 0.5 * distances[0.0]
