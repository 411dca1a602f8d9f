# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How much each term moves the parameters: equal to a plain loop, in any arrangement of the step, and without a trace."""

import copy
import math
import warnings

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, random_batch, rows, stack, tiny_processor
from transformers import TrainerCallback

from hf_robustft import CaRotTrainer, ObjectiveMixin, RobustTrainer
from hf_robustft.training.gradient_shares import TermGradients, measured_steps
from hf_robustft.training.methods import METHODS

PREFIX = "gradient_share/"


class Loop(TrainerCallback):
    """At each step: the gradients of each term by themselves, from a graph of its own, over all micro-batches."""

    def __init__(self):
        self.steps, self._sums = [], {}

    def see(self, trainer, terms):
        modules = {**trainer.trainable_modules(), "model": trainer.model}
        moved = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        if hasattr(trainer, "generator"):
            moved.append(trainer.generator.weight)
        for name, term in terms.items():
            found = torch.autograd.grad(term, moved, retain_graph=True, allow_unused=True)
            flat = torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(moved, found, strict=True)]
            )
            self._sums[name] = self._sums.get(name, 0) + flat

    def on_step_end(self, args, state, control, **kwargs):
        norms = {name: gradient.norm().item() for name, gradient in self._sums.items()}
        others = {name: (sum(self._sums.values()) - g).norm().item() for name, g in self._sums.items()}
        total = sum(norms.values())
        self.steps.append(({name: norm / total for name, norm in norms.items()}, norms, others))
        self._sums = {}

#: Of methods with one term, which has all of the gradient, flyp says it all: `python -m pytest -m slow` on this file for the
#: others.
ONE_TERM = ("ft", "lp", "lp_ft", "clip_adapter", "tip_adapter_f")
ALL_METHODS = [
    pytest.param(method, marks=[pytest.mark.slow] if method in ONE_TERM else []) for method in METHODS
]


def run(cls, model, folder, *, n=24, loop=None, **settings):
    """Train a copy of `model` for three steps of 8 pairs; a `loop` sees the terms of each micro-batch."""
    if loop is not None:
        kind = cls

        class cls(kind):  # noqa: N801
            method = kind.method

            def loss_terms(self, features, batch):
                terms = super().loss_terms(features, batch)
                loop.see(self, terms)
                return terms

    model = copy.deepcopy(model)
    batch = random_batch(n, dtype=next(model.parameters()).dtype)
    defaults = {"num_train_epochs": 1, "warmup_steps": 0, "log_gradient_shares": 1}
    names = {}
    if cls.needs_labels:
        names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    callbacks = [] if loop is None else [loop]
    args = arguments(folder, **{**defaults, **settings})
    trainer = cls(model, args, train_dataset=rows(batch), data_collator=stack, callbacks=callbacks, **names)
    trainer.train()
    return trainer


def shares(trainer):
    entries = [entry for entry in trainer.state.log_history if any(key.startswith(PREFIX) for key in entry)]
    return {e["step"]: {k.removeprefix(PREFIX): v for k, v in e.items() if k.startswith(PREFIX)} for e in entries}


def assert_shares(got, want, limit=1e-12):
    assert got.keys() == want.keys()
    for step, terms in want.items():
        assert got[step].keys() == terms.keys()
        for name, value in terms.items():
            assert got[step][name] == pytest.approx(value, rel=limit, abs=1e-15), (step, name)


# ---- What is measured -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL_METHODS)
def test_shares_are_those_of_a_plain_loop(tiny_clip, tmp_path, method):
    # Two micro-batches a step, but for methods that step within a batch.
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2} if method != "croft" else {}
    loop = Loop()
    trainer = run(METHODS[method], tiny_clip.double(), tmp_path, loop=loop, **halves)
    want = {step: terms for step, (terms, _, _) in enumerate(loop.steps, start=1)}
    assert_shares(shares(trainer), want)
    losses = {key.removeprefix("loss/") for entry in trainer.state.log_history for key in entry if "loss/" in key}
    assert set(want[2]) == losses and len(want) == 3
    # What holds the weights to where they started, or to a teacher, moves nothing at first.
    assert all(value > 1e-12 for value in want[3].values()), want[3]
    if "croft" in method:
        assert min(want[3].values()) > 1e-8, "the generator and the adapters see every term"


class Cancelling(ObjectiveMixin):
    """Two terms that undo each other, a third that is small beside them, and one without gradient."""

    def loss_terms(self, features, batch):
        weight = self.model.visual_projection.weight
        terms = {"up": 3 * weight.sum(), "down": -3 * weight.sum(), "size": 1e-2 * weight.square().sum()}
        return {**super().loss_terms(features, batch), **terms, "constant": torch.ones(())}


class CancellingTrainer(Cancelling, RobustTrainer):
    method = "cancelling"


def test_the_rest_is_the_sum_of_the_other_gradients(tiny_clip, tmp_path):
    weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    found = TermGradients([weight, torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))])
    found.add("a", (torch.tensor([[3.0, 4.0]]).double(), None))
    found.add("b", (torch.tensor([[-3.0, 0.0]]).double(), torch.tensor([0.0, 2.0]).double()))
    found.add("b", (None, torch.tensor([0.0, 2.0]).double()))
    found.add("c", ())
    own, others = zip(*found.norms().values(), strict=True)
    assert own == pytest.approx((5, 5, 0))
    assert others == pytest.approx((5, 5, math.sqrt(32)))


def test_a_term_alone_is_all_of_the_gradient_and_costs_nothing(tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setattr(TermGradients, "norms", lambda self: pytest.fail("measured"))
    trainer = run(METHODS["flyp"], tiny_clip, tmp_path)
    assert shares(trainer) == {step: {"contrastive": 1.0} for step in (1, 2, 3)}


@pytest.mark.parametrize(
    "settings",
    [
        {"contrastive_chunk_size": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
        {"activation_checkpointing": True},
    ],
    ids=["chunks of micro-batches", "checkpointing"],
)
def test_however_the_step_is_computed(tiny_clip, tmp_path, settings):
    model, same = tiny_clip.double(), {"contrastive_chunk_size": 0, "activation_checkpointing": False}
    got, want = (
        shares(run(METHODS["carot+croft"], model, tmp_path, **arranged))
        for arranged in (settings, {key: same.get(key, value) for key, value in settings.items()})
    )
    assert_shares(got, want, 1e-9)


def test_a_scaled_loss_has_the_same_shares(tiny_clip, tmp_path):
    class Scaled(CaRotTrainer):
        method = "carot"

        def prepare_training(self, total_steps):
            super().prepare_training(total_steps)
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    # The optimizer knows nothing of this scaler: at this rate the weights stay where they are.
    settings = {"learning_rate": 1e-30, "max_grad_norm": 0.0, "ema_update_every": 0}
    want = shares(run(CaRotTrainer, tiny_clip.double(), tmp_path, **settings))
    assert_shares(shares(run(Scaled, tiny_clip.double(), tmp_path, **settings)), want)


# ---- Without a trace ------------------------------------------------------------------------------------------------


def outcome(trainer):
    modules = {"model": trainer.model, **trainer.trainable_modules()}
    for name in ("teacher", "generator"):
        if getattr(trainer, name, None) is not None:
            modules[name] = getattr(trainer, name)
    values = {f"{key}.{name}": v for key, module in modules.items() for name, v in module.state_dict().items()}
    values |= {"randomness": torch.get_rng_state()}
    states = trainer.optimizer.state_dict()["state"]
    values |= {f"{i}.{name}": v for i, of in states.items() for name, v in of.items() if torch.is_tensor(v)}
    return values, [
        {k: v for k, v in e.items() if "runtime" not in k and "per_second" not in k} for e in steps(trainer)
    ]


def steps(trainer):
    return [entry for entry in trainer.state.log_history if not any(key.startswith(PREFIX) for key in entry)]


@pytest.mark.same_bits("the same run twice; only one of them looks at its gradients")
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *(pytest.param(*method.values, {}, marks=method.marks) for method in ALL_METHODS),
        ("carot+croft", {"contrastive_chunk_size": 3}),
        ("carot", {"bf16": True}),
    ],
)
def test_training_is_the_same_to_the_last_bit(tiny_clip, tmp_path, method, settings):
    for module in tiny_clip.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.1
    both = []
    for every in (1, 0):
        torch.manual_seed(3)
        both.append(run(METHODS[method], tiny_clip, tmp_path, log_gradient_shares=every, logging_steps=2, **settings))
    (seen, log), (unseen, want) = map(outcome, both)
    assert seen.keys() == unseen.keys()
    assert not [name for name, value in unseen.items() if not torch.equal(seen[name], value)]
    assert log == want and [entry["step"] for entry in log if "loss" in entry] == [2]
    assert len(shares(both[0])) == 3 and not shares(both[1])


# ---- When, and what is said -----------------------------------------------------------------------------------------


def test_steps_in_the_middle_of_their_intervals():
    assert list(measured_steps(0.5, 250)) == [62, 187]
    assert list(measured_steps(100, 250)) == [50, 150]
    assert list(measured_steps(0.1, 30)) == [1, 4, 7, 10, 13, 16, 19, 22, 25, 28]
    assert list(measured_steps(1, 3)) == [0, 1, 2] == list(measured_steps(0.01, 3))
    assert not measured_steps(0, 250) and not measured_steps(500, 250) and not measured_steps(0.5, 0)


def test_the_default_measures_twice(tiny_clip, tmp_path):
    settings = {"log_gradient_shares": arguments(tmp_path).log_gradient_shares, "num_train_epochs": 4}
    assert sorted(shares(run(CaRotTrainer, tiny_clip, tmp_path, **settings))) == [4, 10]


def told(caught):
    return [str(warning.message) for warning in caught if "hardly moves" in str(warning.message)]


@pytest.mark.parametrize("weight", [1e-6, 0.2])
def test_a_term_that_moves_next_to_nothing_is_warned_of_once(tiny_clip, tmp_path, weight):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = run(CaRotTrainer, tiny_clip, tmp_path, orthogonality_weight=weight, num_train_epochs=4)
    if weight == 0.2:
        assert told(caught) == []
        return
    (message,) = told(caught)
    # The first step at which no term is young.
    assert "'orthogonality'" in message and "at step 11 " in message and "\n" not in message
    assert shares(trainer)[11]["orthogonality"] < 1e-3


def test_terms_that_cancel_are_not_called_void(tiny_clip, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = run(CancellingTrainer, tiny_clip.double(), tmp_path, num_train_epochs=4, learning_rate=1e-6)
    (message,) = told(caught)
    assert "'constant'" in message, "a constant moves nothing; the small one is small beside two that undo each other"
    assert shares(trainer)[12]["size"] < 1e-3 and shares(trainer)[12]["constant"] == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"torch_compile": True, "torch_compile_backend": "eager"}, "torch_compile"),
        ({"fully_shard": True}, "fully_shard"),
        (
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
            "use_reentrant",
        ),
    ],
)
def test_refused_where_a_graph_is_used_once(tiny_clip, tmp_path, settings, named):
    def trainer(**more):
        return CaRotTrainer(tiny_clip, arguments(tmp_path, **settings, **more), train_dataset=[], data_collator=stack)

    with pytest.raises(ValueError, match=rf"`log_gradient_shares=0.5`.*{named}") as caught:
        trainer(log_gradient_shares=0.5)
    assert "\n" not in str(caught.value)
    assert trainer().args.log_gradient_shares == 0
