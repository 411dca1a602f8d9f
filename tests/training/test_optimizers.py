# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whoever makes the optimizer: what a method trains beside the model is in it, once, and follows its schedule."""

import copy
import warnings

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, random_batch, rows, stack, tiny_processor
from helpers.families import FAMILY_NAMES, family_model
from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from hf_robustft import ZeroShotHead
from hf_robustft.training.given import Suggested
from hf_robustft.training.methods import METHODS

BESIDE = {"ft": "head", "croft": "adapters", "carot+croft": "adapters"}


def trainer_of(method, model, tmp_path, cls=None, n=16, options=(), **settings):
    chosen = {"num_train_epochs": 2, "max_grad_norm": 0.0, "warmup_steps": 0, **settings}
    # Of methods that train the scale.
    chosen["bound_logit_scale"] = Suggested(False, "the tests")
    names = {}
    if method in BESIDE:
        names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    return (cls or METHODS[method])(
        model,
        arguments(tmp_path, **chosen),
        train_dataset=rows(random_batch(n, dtype=model.dtype)),
        data_collator=stack,
        **names,
        **dict(options),
    )


def sgd(parameters, lr=0.05, **options):
    return torch.optim.SGD(parameters, lr=lr, **options)


def state_of(trainer) -> dict:
    state = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for module in trainer.trainable_modules().values():
        state |= {f"beside.{name}": value.clone() for name, value in module.state_dict().items()}
    if hasattr(trainer, "generator"):
        state["generator"] = trainer.generator.weight.detach().clone()
    return state


def assert_same(got: dict, want: dict) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=0, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture
def model(tiny_clip):
    return tiny_clip.double()


def made_by_the_trainer(method, model, tmp_path, **settings):
    """A run with Trainer's own SGD without decay, which one that is given must equal."""
    own = {"optim": "sgd", "learning_rate": 0.05, "weight_decay": 0.0}
    trainer = trainer_of(method, copy.deepcopy(model), tmp_path, **{**own, **settings})
    start = state_of(trainer)
    trainer.train()
    end = state_of(trainer)
    assert any(not torch.equal(end[name], value) for name, value in start.items() if name.startswith("beside"))
    return end


@pytest.mark.parametrize("kind", ["optimizers", "optimizer_cls_and_kwargs", "override", "attribute"])
@pytest.mark.parametrize("method", BESIDE)
def test_what_is_beside_the_model_trains_with_any_optimizer(model, tmp_path, method, kind):
    want = made_by_the_trainer(method, model, tmp_path)
    options, cls = {}, METHODS[method]
    if kind == "optimizers":
        options["optimizers"] = (sgd(model.parameters()), None)
    if kind == "optimizer_cls_and_kwargs":
        options["optimizer_cls_and_kwargs"] = (torch.optim.SGD, {"lr": 0.05})
    if kind == "override":

        class cls(METHODS[method]):
            def create_optimizer(self, model=None):
                self.optimizer = sgd(self.model.parameters())
                return self.optimizer

    # The rate in the arguments is another one than the optimizer's, which also the generator must follow.
    rate = 0.05 if kind == "optimizer_cls_and_kwargs" else 0.3
    trainer = trainer_of(method, model, tmp_path, cls, options=options, learning_rate=rate, weight_decay=0.0)
    if kind == "attribute":
        trainer.optimizer = sgd(model.parameters())
    trainer.train()
    assert_same(state_of(trainer), want)


@pytest.mark.parametrize("held", [False, True])
def test_a_given_schedule_moves_the_head_too(model, tmp_path, held):
    def run(model, holds):
        head = ZeroShotHead.from_model(model, tiny_processor(), CLASSES, TEMPLATES)
        optimizer = sgd([*model.parameters(), *(head.parameters() if holds else ())])
        pair = optimizer, LambdaLR(optimizer, lambda step: 0.5**step)
        trainer = trainer_of("ft", model, tmp_path, options={"optimizers": pair, "head": head}, learning_rate=0.3)
        trainer.train()
        groups = trainer.optimizer.param_groups
        everything = [id(p) for group in groups for p in group["params"]]
        assert len(everything) == len(set(everything)) and {id(p) for p in head.parameters()} <= set(everything)
        assert groups[0]["lr"] == 0.05 * 0.5**4
        return state_of(trainer)

    by_hand = copy.deepcopy(model)
    got = run(model, held)
    # Without a scheduler the same rates, step by step.
    head = ZeroShotHead.from_model(by_hand, tiny_processor(), CLASSES, TEMPLATES)
    optimizer = sgd([*by_hand.parameters(), *head.parameters()])
    constant = {"head": head, "optimizers": (optimizer, None)}
    trainer = trainer_of("ft", by_hand, tmp_path, options=constant, lr_scheduler_type="constant")

    class Halves(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * 0.5**state.global_step

    trainer.add_callback(Halves())
    trainer.train()
    assert_same(got, state_of(trainer))


def test_groups_of_layers_keep_their_rates(model, tmp_path):
    towers = [list(model.vision_model.parameters()), list(model.visual_projection.parameters())]
    optimizer = torch.optim.SGD([{"params": towers[0], "lr": 0.01}, {"params": towers[1]}], lr=0.05)
    trainer = trainer_of(
        "ft", model, tmp_path, options={"optimizers": (optimizer, None)}, lr_scheduler_type="constant"
    )
    trainer.train()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [0.01, 0.05, 0.05]
    assert {id(p) for p in trainer.optimizer.param_groups[-1]["params"]} == {id(p) for p in trainer.head.parameters()}
    optimizer = torch.optim.SGD([{"params": towers[0], "lr": 0.01}, {"params": towers[1]}], lr=0.05)
    pair = optimizer, LambdaLR(optimizer, lambda step: 1.0)
    trainer = trainer_of("ft", model, tmp_path, options={"optimizers": pair})
    with pytest.raises(ValueError, match="2 groups.*head.*`head=`") as caught:
        trainer.train()
    assert "\n" not in str(caught.value)


def test_a_whole_optimizer_is_warned_of_by_nothing(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="A contrastive batch of 8 pairs")
        trainer_of("flyp", model, tmp_path, options={"optimizers": (sgd(model.parameters()), None)}).train()


def test_what_the_optimizer_lacks_is_said(model, tmp_path):
    start = copy.deepcopy(model.state_dict())
    part = [p for name, p in model.named_parameters() if "projection" in name]
    trainer = trainer_of("flyp", model, tmp_path, options={"optimizers": (sgd(part), None)})
    with pytest.warns(UserWarning, match=f"lacks {len(list(model.parameters())) - 2} of the .*logit_scale"):
        trainer.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == {"visual_projection.weight", "text_projection.weight"}


def test_an_optimizer_of_another_model_is_refused(model, tmp_path):
    other = copy.deepcopy(model)
    trainer = trainer_of("flyp", model, tmp_path, options={"optimizers": (sgd(other.parameters()), None)})
    with pytest.raises(ValueError, match="none of the .* parameters"):
        trainer.train()


@pytest.mark.parametrize(
    "settings",
    [{"optim": "adamw_torch"}, {"weight_decay": 0.5}, {"adam_beta2": 0.9}, {"decay_all_parameters": True}, {"lr_schedule": "reference"},
     {"lr_scheduler_type": "linear"}, {"warmup_steps": 3}],
)  # fmt: skip
def test_settings_that_a_given_pair_has_itself_are_named(model, tmp_path, settings):
    optimizer = sgd(model.parameters())
    pair = {"optimizers": (optimizer, LambdaLR(optimizer, lambda step: 1.0))}
    (name,) = settings
    with pytest.warns(UserWarning, match=f"^`{name}=[^`]*` does nothing: what is given as `optimizers`"):
        trainer_of("flyp", model, tmp_path, options=pair, **settings)
    # What it has already is no contradiction.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does? nothing.*")
        trainer_of("flyp", model, tmp_path, options=pair, optim="sgd", weight_decay=optimizer.defaults["weight_decay"])


class TwoModes(torch.optim.SGD):
    """As schedule-free optimizers are: other weights in training than in evaluation."""

    def train(self):
        pass

    def eval(self):
        pass


@pytest.mark.parametrize(
    "kind", ["scheduler alone", "another's scheduler", "modes", "class of modes", "schedule_free"]
)
def test_what_cannot_be_right_is_refused_at_construction(model, tmp_path, kind):
    optimizer, settings = sgd(model.parameters()), {}
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    options = {
        "scheduler alone": {"optimizers": (None, schedule)},
        "another's scheduler": {"optimizers": (sgd(model.parameters()), schedule)},
        "modes": {"optimizers": (TwoModes(model.parameters(), lr=0.1), None)},
        "class of modes": {"optimizer_cls_and_kwargs": (TwoModes, {"lr": 0.1})},
        "schedule_free": {},
    }[kind]
    if kind == "schedule_free":
        settings["optim"] = "schedule_free_adamw"
    say = "train and eval modes" if "mode" in kind or "free" in kind else "scheduler in `optimizers`"
    with pytest.raises(ValueError, match=say) as caught:
        trainer_of("flyp", model, tmp_path, options=options, **settings)
    assert "\n" not in str(caught.value)


def test_settings_beside_a_class_of_optimizers_that_do_nothing_are_named(model, tmp_path):
    def said(options, **settings):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            cls_and_kwargs = {"optimizer_cls_and_kwargs": (torch.optim.AdamW, options)}
            trainer_of("flyp", copy.deepcopy(model), tmp_path, options=cls_and_kwargs, weight_decay=0.0, **settings)
        return [str(warning.message) for warning in caught if "nothing: what is given" in str(warning.message)]

    # Without a rate among its options AdamW trains with its own, a hundred times that of the run.
    [text] = said({}, learning_rate=1e-5, adam_beta2=0.95)
    assert "`learning_rate=1e-05`, `adam_beta2=0.95` do nothing" in text
    assert not said({"lr": 1e-5, "betas": (0.9, 0.95)}, learning_rate=1e-5, adam_beta2=0.95)


def test_a_weight_decay_that_trainer_replaces_is_refused(model, tmp_path):
    def made(decay, **settings):
        options = {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.05, "weight_decay": decay})}
        return trainer_of("ft", copy.deepcopy(model), tmp_path, options=options, **settings)

    with pytest.raises(ValueError, match="`weight_decay=0.3` in `optimizer_cls_and_kwargs`.*now 0.1") as caught:
        made(0.3)
    assert "\n" not in str(caught.value)
    trainer = made(0.3, weight_decay=0.3)
    trainer.train()
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.3, 0.0}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_no_norm_of_any_family_decays(tiny_clip, tmp_path, family):
    # AIMv2's are of a class of their own and called `rms_norm1`, which Transformers takes for weights.
    model = family_model(family)
    trainer = trainer_of("flyp", tiny_clip, tmp_path)
    decayed = trainer.get_decay_parameter_names(model)
    own = {name for name, value in model.named_parameters() if value.ndim < 2 and "embedding" not in name}
    assert own and not own & set(decayed) and "logit_scale" not in decayed
    assert len(decayed) >= sum(value.ndim == 2 and "embedding" not in name for name, value in model.named_parameters())


def test_an_optimizer_with_modes_that_a_subclass_makes_is_refused(model, tmp_path):
    class Own(METHODS["flyp"]):
        def create_optimizer(self, model=None):
            self.optimizer = TwoModes(self.model.parameters(), lr=0.1)
            return self.optimizer

    with pytest.raises(ValueError, match="train and eval modes"):
        trainer_of("flyp", model, tmp_path, Own).train()


@pytest.mark.parametrize("optim", ["galore_adamw_layerwise", "adalomo"])
def test_optimizers_of_the_backward_pass_train_the_model_alone(model, tmp_path, optim):
    modules = ["attn"] if optim.startswith("galore") else None
    trainer = trainer_of("ft", model, tmp_path, optim=optim, optim_target_modules=modules)
    with pytest.raises(ValueError, match=f"optim='{optim}'.*head"):
        trainer.train()
