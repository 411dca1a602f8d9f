# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The teacher that averages the whole trajectory, and TRACER's two terms of distillation from it."""

import copy

import pytest
import torch
from helpers import arguments, random_batch, rows, stack, step_logs
from helpers.walking import Walking
from torch import nn
from transformers import TrainerCallback

from hf_robustft import CaRotTrainer, TRACERTrainer, TrajectoryDistillationMixin
from hf_robustft.modeling.features import ClipFeatures, encode
from hf_robustft.objectives.self_distillation import self_distillation_loss
from hf_robustft.objectives.teacher import beta_kernel
from hf_robustft.objectives.trajectory_distillation import batch_softmax_distillation, feature_distillation

pytestmark = pytest.mark.numbers


class Alone(Walking, TrajectoryDistillationMixin):
    """The mixin without a Trainer."""


def trajectory(tmp_path, **settings):
    return arguments(tmp_path, teacher="trajectory", **settings)


def average(states, beta):
    """The average of stored states, by the density that torch has of the Beta distribution."""
    times = (torch.arange(len(states), dtype=torch.float64) + 0.5) / len(states)
    both = torch.tensor(beta, dtype=torch.float64)
    weights = torch.distributions.Beta(both, both).log_prob(times).exp()
    return sum(weight * state for weight, state in zip(weights, states, strict=True)) / weights.sum()


def walked(tmp_path, dtype, steps, **settings):
    """A mixin whose student took `steps` random steps, and the states that its teacher was to average."""
    model = nn.Linear(40, 5, bias=False, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.weight.copy_(torch.randn(5, 40, generator=generator, dtype=torch.float64))
    mixin = Alone(model, trajectory(tmp_path, **settings), steps)
    states, every = [model.weight.detach().double().clone()], mixin.args.teacher_interval(steps)
    for step in range(steps):
        with torch.no_grad():
            model.weight += 1e-3 * torch.randn(5, 40, generator=generator, dtype=torch.float64) + 1e-4
        mixin.step()
        if step % every == every - 1:
            states.append(model.weight.detach().double().clone())
    return mixin, states


@pytest.mark.parametrize(
    ("beta", "every", "steps"), [(0.5, 1, 2000), (0.5, 7, 300), (0.02, 1, 200), (1.0, 0.02, 300), (10.0, 3, 300)]
)
def test_the_teacher_is_the_average_of_the_stored_weights(tmp_path, beta, every, steps):
    settings = {"trajectory_beta": beta, "trajectory_update_every": every}
    mixin, states = walked(tmp_path, torch.float64, steps, **settings)
    assert mixin.teacher_updates == len(states) - 1 == steps // mixin.args.teacher_interval(steps)
    want = average(states, beta)
    assert (mixin.teacher.weight - want).abs().max() <= 1e-12 * want.abs().max()
    # It is another average than that of the other kernels, and not the student.
    for other in (average(states, 0.9 * beta), states[-1]):
        assert (want - other).abs().max() > 1e-6


def test_float32_is_near_the_exact_average(tmp_path):
    mixin, states = walked(tmp_path, torch.float32, 2000)
    way = (average(states, 0.5) - states[0]).norm()
    assert (mixin.teacher.weight - average(states, 0.5)).norm() <= 1e-3 * way


def test_the_kernel_is_a_beta_density(tmp_path):
    times = (torch.arange(101, dtype=torch.float64) + 0.5) / 101
    for beta in (0.2, 0.5, 1.0, 3.0):
        got = torch.tensor([beta_kernel(index, 100, beta) for index in range(101)], dtype=torch.float64)
        both = torch.tensor(beta, dtype=torch.float64)
        ratio = got / torch.distributions.Beta(both, both).log_prob(times).exp()
        torch.testing.assert_close(ratio, ratio[:1].expand(101), rtol=1e-12, atol=0)
        torch.testing.assert_close(got, got.flip(0), rtol=1e-12, atol=0)
        assert got.isfinite().all() and (got > 0).all()
    assert {beta_kernel(index, 100, 1.0) for index in range(101)} == {1.0}
    assert beta_kernel(0, 25030, 0.5) == beta_kernel(25030, 25030, 0.5) == pytest.approx((0.5 / 25031) ** -0.5, rel=1e-4)


@pytest.mark.parametrize(("index", "beta"), [(0, 0.0), (0, -0.5), (0, float("nan")), (0, float("inf")), (11, 0.5), (-1, 0.5)])
def test_a_kernel_outside_its_range_is_refused(index, beta):
    with pytest.raises(ValueError, match=f"0 to 10 .*beta={beta} and index={index}") as caught:
        beta_kernel(index, 10, beta)
    assert "\n" not in str(caught.value)


def test_of_one_pair_by_hand():
    student = ClipFeatures(torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]]), torch.tensor(10.0))
    teacher = ClipFeatures(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor(1.0))
    # (0.16 + 0.64) / 2 of the images, (1 + 1) / 2 of the captions.
    assert feature_distillation(student, teacher).item() == pytest.approx(1.4)
    assert batch_softmax_distillation(student, teacher).item() == 0, "a batch of one has one distribution"


def random_features(seed, grad=False):
    generator = torch.Generator().manual_seed(seed)
    image, text = nn.functional.normalize(torch.randn(2, 8, 6, dtype=torch.float64, generator=generator), dim=-1)
    scale = torch.tensor(10.0 + seed, dtype=torch.float64)
    return [value.clone().requires_grad_(grad) for value in (image, text, scale)]


def test_batch_distillation_is_half_of_both_divergences():
    inputs, of_teacher = random_features(0, grad=True), random_features(1, grad=True)

    def features():
        return ClipFeatures(*inputs), ClipFeatures(*of_teacher)

    student, teacher = features()
    pairs = [(student.logits_per_image, teacher.logits_per_image), (student.logits_per_text, teacher.logits_per_text)]
    ratios = [(p.softmax(1), p.softmax(1) / q.softmax(1)) for q, p in pairs]
    want = sum((p * ratio.log()).sum(1).mean() for p, ratio in ratios) / 2
    loss = batch_softmax_distillation(*features())
    torch.testing.assert_close(loss, want, rtol=1e-12, atol=0)
    carot = torch.autograd.grad(self_distillation_loss(*pairs[0], *pairs[1]), inputs)
    for one, two in zip(torch.autograd.grad(loss, inputs), carot, strict=True):
        torch.testing.assert_close(one, two / 2, rtol=1e-10, atol=1e-14)
    (batch_softmax_distillation(*features()) + feature_distillation(*features())).backward()
    assert all(value.grad is None for value in of_teacher), "no gradient may reach the teacher"


@pytest.mark.parametrize("loss", [batch_softmax_distillation, feature_distillation])
def test_parts_of_the_batch_average_to_the_whole(loss):
    def part(values, rows):
        image, text, scale = values
        return ClipFeatures(image[rows], text[rows], scale, image, text, rows.start)

    one, two = random_features(0), random_features(1)
    parts = [loss(part(one, half), part(two, half)) for half in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(sum(parts) / 2, loss(ClipFeatures(*one), ClipFeatures(*two)), rtol=1e-12, atol=0)


def test_equal_models_pull_nowhere(tiny_clip, tmp_path):
    model, batch = tiny_clip.double(), random_batch(dtype=torch.float64)
    mixin = Alone(model, trajectory(tmp_path), 10)
    assert mixin.loss_terms(encode(model, batch), batch) == {}, "no distillation in the first step"
    # A later step at which the student is back where the teacher is.
    mixin.optimizer_steps = 1
    terms = mixin.loss_terms(encode(model, batch), batch)
    assert terms.keys() == {"batch_distillation", "feature_distillation"}
    assert all(abs(value.item()) < 1e-12 for value in terms.values())
    sum(terms.values()).backward()
    assert max(p.grad.abs().max() for p in model.parameters()) < 1e-10


@pytest.mark.parametrize("alone", ["batch", "feature"])
def test_each_term_has_its_weight(tiny_clip, tmp_path, alone):
    model, batch = tiny_clip.double(), random_batch(dtype=torch.float64)
    weights = {"batch_distillation_weight": 0.0, "feature_distillation_weight": 0.0}
    mixin = Alone(model, trajectory(tmp_path, **{**weights, f"{alone}_distillation_weight": 3.0}), 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    mixin.optimizer_steps = 1
    ((name, term),) = mixin.loss_terms(encode(model, batch), batch).items()
    loss = {"batch": batch_softmax_distillation, "feature": feature_distillation}[alone]
    assert name == f"{alone}_distillation" and term > 0
    torch.testing.assert_close(term, 3 * loss(encode(model, batch), encode(mixin.teacher, batch)))
    nothing = Alone(model, trajectory(tmp_path, **weights), 10)
    assert nothing.teacher is None and nothing.loss_terms(None, {}) == nothing.extra_state() == {}
    with pytest.raises(ValueError, match="export_weights='teacher'.*batch_distillation_weight=0.*feature_distillation"):
        nothing.validate_arguments(trajectory(tmp_path, export_weights="teacher", **weights))


def test_captions_are_remembered_between_two_moves(tiny_clip, tmp_path):
    model, batch = tiny_clip.double(), random_batch(dtype=torch.float64)
    mixin, seen = Alone(model, trajectory(tmp_path, trajectory_update_every=3), 9), []
    mixin.teacher.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    generator = torch.Generator().manual_seed(3)
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        mixin.step()
        fresh = encode(mixin.teacher, batch)  # with gradient, and so without memory
        terms = mixin.loss_terms(encode(model, batch), batch)
        want = 2000 * feature_distillation(encode(model, batch), fresh)
        torch.testing.assert_close(terms["feature_distillation"], want, rtol=1e-12, atol=0)
    # Eight for each comparison, and anew before and after the move of step 3 only.
    assert mixin.teacher_updates == 1 and seen == [8, 8, 8, 8, 8, 8, 8]


# In a run


class Weights(TrainerCallback):
    """Keeps the weights before and after each step."""

    def __init__(self):
        self.states = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.states.append([p.detach().clone() for p in model.parameters()])

    on_step_end = on_train_begin


def trained(cls, model, folder, resume=None, **settings):
    recorder = Weights()
    settings = {"max_steps": 6, "warmup_steps": 0, "learning_rate": 1e-2, **settings}
    data = rows(random_batch(24, dtype=next(model.parameters()).dtype))
    trainer = cls(
        copy.deepcopy(model), arguments(folder, **settings), train_dataset=data, data_collator=stack, callbacks=[recorder]
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer, recorder.states


@pytest.mark.parametrize(("cls", "own"), [(TRACERTrainer, {}), (CaRotTrainer, {"teacher": "trajectory"})])
def test_the_teacher_of_a_run(tiny_clip, tmp_path, cls, own):
    trainer, states = trained(cls, tiny_clip.double(), tmp_path, trajectory_update_every=2, **own)
    kept = [states[index] for index in (0, 2, 4, 6)]
    for got, *values in zip(trainer.teacher.parameters(), *kept, strict=True):
        want = average(values, 0.5)
        assert (got - want).abs().max() <= 1e-12 * want.abs().max()
    logs = step_logs(trainer)
    assert [log.get("teacher/updates", 0) for log in logs] == [0, 1, 1, 2, 2, 3]
    terms = {name for name in logs[1] if "distillation" in name}
    assert terms == ({"loss/self_distillation"} if own else {"loss/batch_distillation", "loss/feature_distillation"})
    assert not terms & logs[0].keys()


def test_another_length_or_kernel_is_another_run(tiny_clip, tmp_path):
    short = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trained(TRACERTrainer, tiny_clip, tmp_path, **short)
    written = str(tmp_path / "checkpoint-1")
    with pytest.raises(ValueError, match="number of steps 2, this run has the number of steps 3") as caught:
        trained(TRACERTrainer, tiny_clip, tmp_path / "longer", resume=written, max_steps=3)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="`trajectory_beta=0.5`, this run has `trajectory_beta=1.5`"):
        trained(TRACERTrainer, tiny_clip, tmp_path / "other", resume=written, max_steps=2, trajectory_beta=1.5)
    trained(CaRotTrainer, tiny_clip, tmp_path / "carot", **short)
    with pytest.warns(UserWarning, match="2 steps, this one has 3"):
        trained(CaRotTrainer, tiny_clip, tmp_path / "c", resume=str(tmp_path / "carot" / "checkpoint-1"), max_steps=3)
