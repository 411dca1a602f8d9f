# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What we override or call of `transformers.Trainer` although its name says that it is private, with the parameters that we
use: a version of Transformers that renames one fails here, in one line.
"""

import ast
import inspect
from pathlib import Path

import pytest
from transformers import Trainer

import hf_robustft.training
from hf_robustft.training.methods import METHODS

#: Parameters by the name of the private method, in the order of its signature.
OVERRIDDEN = {
    "_clip_grad_norm": ["model"],
    "_get_grad_norm": ["model", "grad_norm"],
    "_get_output_dir": ["trial"],
    "_get_train_sampler": ["train_dataset"],
    "_init_training_state": [
        *("max_steps", "num_update_steps_per_epoch", "num_train_epochs", "resume_from_checkpoint", "trial")
    ],
    "_load_best_model": [],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_optimizer_and_scheduler": ["checkpoint"],
    "_prepare_for_training": ["max_steps", "train_dataloader", "resume_from_checkpoint"],
    "_prepare_inputs": ["inputs"],
    "_push_from_checkpoint": ["checkpoint_folder"],
    "_run_epoch": [
        *("model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch", "trial"),
        *("ignore_keys_for_eval", "start_time", "resume_from_checkpoint", "epochs_trained"),
        "steps_trained_in_current_epoch",
    ],
    "_save": ["output_dir", "state_dict"],
    "_save_checkpoint": ["model", "trial"],
    "_save_optimizer_and_scheduler": ["output_dir"],
    "_wrap_model": ["model", "training", "dataloader"],
}
CALLED = {"_finish_current_push": []}

#: Attributes of an instance that we read or set.
ATTRIBUTES = ["_created_lr_scheduler"]

PRIVATE = {name for name in dir(Trainer) if name.startswith("_") and not name.startswith("__")}


def overrides() -> dict[str, list[str]]:
    """By the name of each private attribute of Trainer: the classes of the methods that define it again."""
    found = {}
    for cls in dict.fromkeys(cls for method in METHODS.values() for cls in method.__mro__):
        if not issubclass(Trainer, cls):
            for name in PRIVATE & vars(cls).keys():
                found.setdefault(name, []).append(cls.__name__)
    return found


def calls() -> set[str]:
    """Private attributes of Trainer that a file of the room of training uses, other than through `super()`."""
    files = Path(hf_robustft.training.__file__).parent.glob("*.py")
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute) and not isinstance(node.value, ast.Call)}
    return (names & PRIVATE) - OVERRIDDEN.keys()


def test_every_private_method_that_is_overridden_is_listed_and_overridden_once():
    found = overrides()
    differing = sorted(found.keys() ^ OVERRIDDEN.keys())
    assert not differing, f"list {differing} with their parameters, or take them off; better, override something public"
    several = {name: classes for name, classes in found.items() if len(classes) > 1}
    assert not several, f"one override of each is enough: {several}"


def test_every_private_method_that_is_called_is_listed():
    assert calls() == CALLED.keys()


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED])
def test_trainer_still_has_the_private_method_with_these_parameters(name):
    assert hasattr(Trainer, name), f"this version of Transformers has no Trainer.{name}"
    parameters = list(inspect.signature(getattr(Trainer, name)).parameters)[1:]
    assert parameters == {**OVERRIDDEN, **CALLED}[name], f"Trainer.{name} has other parameters"


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_trainer_still_has_the_private_attribute(name):
    assert f"self.{name} = " in inspect.getsource(Trainer.__init__)
