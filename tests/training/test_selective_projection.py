# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Selective projection decay: the paper's algorithm in a plain loop, what takes part in it, and a run that is resumed."""

import copy

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, random_batch, rows, stack, tiny_processor
from helpers.families import family_batch, family_model
from helpers.runs import Kill, Killed, assert_same_run
from helpers.runs import trainer_of as resumable
from transformers import TrainerCallback

from hf_robustft import CaRotTrainer, CRoFTTrainer, FineTuneTrainer, FLYPTrainer
from hf_robustft.training.arguments import RunArguments
from hf_robustft.training.distributed import _check_deepspeed
from hf_robustft.training.finished_folder import what_ran
from hf_robustft.training.given import Suggested
from hf_robustft.training.selective_projection import AdamSPD, deviation_ratio, opposes_deviation

BETAS, EPS = (0.9, 0.98), 1e-6


class Loop:
    """Algorithm 2 of the paper, tensor by tensor, on copies in float64; with AdamW's decay in front where there is one."""

    def __init__(self, weights: dict, weight: float, decay: float = 0.0, zero=(), left=()):
        self.weights = {name: value.detach().double().clone() for name, value in weights.items()}
        self.start = {n: torch.zeros_like(w) if n in zero else w.clone() for n, w in self.weights.items()}
        self.weight, self.decay, self.left, self.selected = weight, decay, left, 0
        self.steps = dict.fromkeys(self.weights, 0)
        self.m = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        self.v = copy.deepcopy(self.m)

    def step(self, gradients: dict, lr: float):
        for name, gradient in gradients.items():
            self.steps[name] += 1
            g, old, start = gradient.double(), self.weights[name], self.start[name]
            self.m[name] = BETAS[0] * self.m[name] + (1 - BETAS[0]) * g
            self.v[name] = BETAS[1] * self.v[name] + (1 - BETAS[1]) * g * g
            m, v = (moment[name] / (1 - beta ** self.steps[name]) for moment, beta in ((self.m, BETAS[0]), (self.v, BETAS[1])))
            new = old - lr * self.decay * old - lr * m / (v.sqrt() + EPS)
            condition = -torch.dot(g.flatten(), (old - start).flatten())
            if condition < 0 and name not in self.left:
                radius, distance = torch.dist(old, start), torch.dist(new, start)
                ratio = max(0.0, float(distance - radius) / float(distance))
                self.selected += ratio > 0
                new = new - self.weight * ratio * (new - start)
            self.weights[name] = new


@pytest.mark.parametrize(("weight", "decay"), [(1.0, 0.0), (0.3, 0.0), (2.5, 0.0), (1.0, 0.4)])
def test_a_step_is_that_of_the_paper(weight, decay):
    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (5, 7), "vector": (3,), "scalar": (), "apart": (4, 2)}
    weights = {n: torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for n, s in shapes.items()}
    target = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
    options = {"lr": 0.05, "betas": BETAS, "eps": EPS, "weight_decay": decay, "spd_weight": weight}
    optimizer = AdamSPD(list(weights.values()), **options)
    optimizer.set_options([weights["matrix"]], from_zero=True)
    optimizer.set_options([weights["apart"]], spd_weight=0.0)
    loop = Loop(weights, weight, decay, zero=("matrix",), left=("apart",))
    for step in range(40):
        for name, value in weights.items():
            # Noise, so that momentum and gradient disagree; the vector has no gradient in the first steps.
            noise = torch.randn(shapes[name], generator=generator, dtype=torch.float64)
            value.grad = None if name == "vector" and step < 3 else value.detach() - target[name] + noise
        gradients = {name: value.grad for name, value in weights.items() if value.grad is not None}
        loop.step(gradients, 0.05)
        optimizer.step()
    for name, value in weights.items():
        torch.testing.assert_close(value.detach(), loop.weights[name], rtol=0, atol=1e-13)
    assert 5 < loop.selected < 100
    assert "start" not in optimizer.state[weights["matrix"]] and "start" in optimizer.state[weights["scalar"]]


def test_condition_and_ratio():
    start, weight = torch.zeros(3), torch.tensor([1.0, 0.0, 0.0])
    # Descent goes against the gradient: along the deviation where the two point apart.
    assert not opposes_deviation(torch.tensor([-1.0, 5.0, 0.0]), weight - start)
    assert opposes_deviation(torch.tensor([1.0, -5.0, 0.0]), weight - start)
    assert not opposes_deviation(torch.ones(3), start)
    ratios = [deviation_ratio(torch.tensor(a), torch.tensor(b)).item() for a, b in ((1.0, 2.0), (2.0, 1.0), (1.0, 0.0), (0.0, 0.0))]
    assert ratios == [0.5, 0.0, 0.0, 0.0]


def test_a_projected_step_ends_where_it_was_as_far_from_the_start():
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = AdamSPD([weight], lr=0.1)
    for gradient in ([-1.0, -1, -1, -1], [-1.0, -1, -1, -1], [0.1, 0.1, 0.1, 0.2]):
        before = weight.detach().norm()
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    # The momentum of the last step goes on, the gradient opposes it.
    assert before > 0.1 and weight.detach().norm() == pytest.approx(before.item(), rel=1e-14)


@pytest.mark.same_bits("the same kernels on the same numbers")
def test_without_strength_it_is_adamw():
    torch.manual_seed(0)
    pair = [torch.nn.Linear(4, 3) for _ in range(2)]
    pair[1].load_state_dict(pair[0].state_dict())
    ours = AdamSPD(pair[0].parameters(), lr=0.1, weight_decay=0.1, spd_weight=0.0)
    theirs = torch.optim.AdamW(pair[1].parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        inputs = torch.randn(6, 4)
        for module, optimizer in zip(pair, (ours, theirs), strict=True):
            optimizer.zero_grad()
            module(inputs).square().sum().backward()
            optimizer.step()
    assert torch.equal(pair[0].weight, pair[1].weight) and torch.equal(pair[0].bias, pair[1].bias)


class SeeSteps(TrainerCallback):
    """Makes each step of a run in the plain loop too."""

    trainer = loop = None

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.parameters = dict(self.trainer.model.named_parameters())
        for module in self.trainer.trainable_modules().values():
            self.parameters |= dict(module.named_parameters(prefix="beside"))
        self.parameters = {n: p for n, p in self.parameters.items() if p.requires_grad}
        if self.loop is None:
            zero = [name for name in self.parameters if ".lora_A." in name or ".lora_B." in name]
            left = [name for name in self.parameters if name in ("logit_scale", "logit_bias")]
            self.loop = Loop(self.parameters, args.spd_weight, args.weight_decay, zero, left)
        gradients = {name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None}
        self.loop.step(gradients, self.trainer.optimizer.param_groups[0]["lr"])


def run_in_both(cls, model, tmp_path, family=None, **settings):
    chosen = {"optim": "spd", "num_train_epochs": 4, "learning_rate": 0.01, "adam_beta2": BETAS[1], "adam_epsilon": EPS}
    names = {}
    if cls in (FineTuneTrainer, CRoFTTrainer):
        names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    pairs = family_batch(family, n=16, seed=1, dtype=model.dtype) if family else random_batch(16, dtype=model.dtype)
    see = SeeSteps()
    trainer = cls(
        model,
        arguments(tmp_path, **{**chosen, "warmup_steps": 0, **settings}),
        train_dataset=rows(pairs),
        data_collator=stack,
        callbacks=[see],
        **names,
    )
    see.trainer = trainer
    if trainer.trains_model:
        trainer.args.derive(bound_logit_scale=False)
    trainer.train()
    assert see.loop.selected > 10
    for name, parameter in see.parameters.items():
        torch.testing.assert_close(parameter.detach(), see.loop.weights[name], rtol=0, atol=1e-11, msg=lambda text, n=name: f"{n}: {text}")
    return trainer


@pytest.mark.parametrize("cls", [FLYPTrainer, FineTuneTrainer, CaRotTrainer])
def test_a_run_is_the_plain_loop(tiny_clip, tmp_path, cls):
    trainer = run_in_both(cls, tiny_clip.double(), tmp_path, spd_weight=0.7)
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.0}
    apart = [group for group in trainer.optimizer.param_groups if not group["spd_weight"]]
    scale = trainer.model.logit_scale
    assert [id(p) for group in apart for p in group["params"]] == ([id(scale)] if scale.requires_grad else [])


def test_accumulated_gradients_and_a_decay_towards_zero_besides(tiny_clip, tmp_path):
    settings = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "weight_decay": 0.05}
    run_in_both(FLYPTrainer, tiny_clip.double(), tmp_path, decay_all_parameters=True, num_train_epochs=8, **settings)


def test_neither_scale_nor_bias_of_siglip_takes_part(tmp_path):
    trainer = run_in_both(FLYPTrainer, family_model("siglip").double(), tmp_path, family="siglip")
    apart = [group for group in trainer.optimizer.param_groups if not group["spd_weight"]]
    assert len([p for group in apart for p in group["params"]]) == 2


def test_of_adapters_the_start_is_zero(tiny_clip, tmp_path):
    """Where what they add is 0; of norms (DoRA) and of projections it is what they were."""
    trainer = run_in_both(FLYPTrainer, tiny_clip.double(), tmp_path, lora_rank=2, lora_dora=True, num_train_epochs=6)
    zero = {id(p) for group in trainer.optimizer.param_groups if group["from_zero"] for p in group["params"]}
    assert zero == set(map(id, trainer.lora.matrices())) and len(zero) == 2 * len(trainer.lora.layers)
    held = {id(p) for p, state in trainer.optimizer.optimizer.state.items() if "start" in state}
    assert held.isdisjoint(zero) and id(trainer.model.visual_projection.weight) in held
    assert len(held) == len(trainer.lora.layers) + 2


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2}])
def test_a_resumed_run_keeps_the_starting_weights(tiny_clip, tmp_path, settings):
    settings = {"optim": "spd", "learning_rate": 0.01, "num_train_epochs": 2, "save_steps": 4, **settings}
    whole = resumable(FLYPTrainer, tiny_clip, tmp_path / "whole", **settings)
    whole.train()
    with pytest.raises(Killed):
        resumable(FLYPTrainer, tiny_clip, tmp_path / "cut", callbacks=[Kill(4)], **settings).train()
    other = copy.deepcopy(tiny_clip)
    with torch.no_grad():
        # The start comes from the checkpoint, whatever model the Trainer was given.
        other.visual_projection.weight.add_(0.1)
    resumed = resumable(FLYPTrainer, other, tmp_path / "cut", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    assert_same_run(whole, resumed)
    starts = [[s["start"] for s in run.optimizer.optimizer.state.values() if "start" in s] for run in (whole, resumed)]
    assert starts[0] and all(torch.equal(*pair) for pair in zip(*starts, strict=True))


def test_it_takes_the_place_of_the_weight_decay(tmp_path):
    args = arguments(tmp_path, optim="spd", optim_args=Suggested("momentum=0.9", "a paper"), weight_decay=Suggested(0.1, "a paper"))
    assert (args.optim, args.weight_decay, args.optim_args) == ("spd", 0.0, None)
    assert args.origins["weight_decay"] == "optim spd"
    assert arguments(tmp_path, optim="spd").described_origins()[-1] == "optim spd: weight_decay=0.0"
    assert what_ran(args)["Optimizer"] == "spd, strength 1, weight decay 0"
    assert copy.deepcopy(args).optim == "spd" and arguments(tmp_path, optim="spd", weight_decay=0.2).weight_decay == 0.2
    assert arguments(tmp_path).optim == RunArguments(output_dir=str(tmp_path), use_cpu=True).optim != "spd"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spd_weight": 0.5}, "`spd_weight=0.5`.*--optim spd"),
        ({"optim": "spd", "optim_args": "momentum=0.9"}, "`optim_args=momentum=0.9`.*--spd_weight"),
        ({"optim": "sdp"}, "`optim='sdp'` is unknown.*spd"),
    ],
)
def test_what_would_do_nothing_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        arguments(tmp_path, **settings)
    assert "\n" not in str(caught.value)


def test_deepspeed_is_refused(tmp_path, monkeypatch):
    args = arguments(tmp_path, optim="spd")
    args.derive(bound_logit_scale=False)
    monkeypatch.setattr(type(args), "device", torch.device("cuda"))
    with pytest.raises(ValueError, match="`optim='spd'`.*--fully_shard") as caught:
        _check_deepspeed(args, 2, [])
    assert "\n" not in str(caught.value)
    _check_deepspeed(arguments(tmp_path, bound_logit_scale=False), 2, [])


def test_an_impossible_strength_is_refused():
    with pytest.raises(ValueError, match="`spd_weight=-1`"):
        AdamSPD([torch.nn.Parameter(torch.ones(1))], spd_weight=-1)
