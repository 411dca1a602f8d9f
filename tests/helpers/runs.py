# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Short runs that are killed and resumed, and what must be equal afterwards."""

import copy

import torch
from transformers import TrainerCallback

from helpers import TEMPLATES, arguments, image_dataset, tiny_processor
from hf_robustft import Benchmark
from hf_robustft.training.given import Suggested

#: 22 images in batches of 4: five steps an epoch, incomplete batch dropped (CaRot), or six, the last of 2 (FT).
BENCHMARK = Benchmark.from_dataset(image_dataset(22), name="tiny", role="train", templates=TEMPLATES)


CLOCK = ("runtime", "per_second")


class Killed(Exception):
    """Stands for whatever ends a process."""


class Kill(TrainerCallback):
    """Ends the run at the first step after the checkpoint of `step` that has begun."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step > self.step:
            raise Killed


def trainer_of(cls, model, folder, callbacks=(), evaluation=None, processor=None, **settings):
    # With the teacher moving at steps 0, 4, 8 and 12, its last momentum is logged after a resume at step 10.
    defaults = {f"{teacher}_update_every": Suggested(4, "this file") for teacher in ("ema", "trajectory")}
    defaults |= {"num_train_epochs": 3, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}
    return cls(
        copy.deepcopy(model),
        arguments(folder, **{**defaults, **settings}),
        train_dataset=BENCHMARK,
        eval_dataset=evaluation,
        processing_class=tiny_processor() if processor is None else processor,
        callbacks=list(callbacks),
    )


def with_dropout(model):
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.1
    return model.train()


def entries(trainer):
    return [
        {key: value for key, value in entry.items() if not key.endswith(CLOCK) and key != "train_loss"}
        for entry in trainer.state.log_history
    ]


def assert_same_run(whole, resumed):
    assert resumed.state.global_step == whole.state.global_step
    assert entries(resumed) == entries(whole), "every logged number must be equal to the last bit"
    pairs = {"model": (whole.model, resumed.model)}
    if getattr(whole, "teacher", None) is not None:
        pairs["teacher"] = (whole.teacher, resumed.teacher)
        assert resumed.teacher_updates == whole.teacher_updates and resumed.last_momentum == whole.last_momentum
    if hasattr(whole, "generator"):
        pairs["generator"] = (whole.generator, resumed.generator)
        momentum = [run.generator.optimizer.state[run.generator.weight]["momentum_buffer"] for run in (whole, resumed)]
        assert torch.equal(*momentum) and momentum[0].abs().max() > 0
        assert not torch.equal(whole.generator.weight, torch.eye(16))
    pairs |= {name: (module, resumed.trainable_modules()[name]) for name, module in whole.trainable_modules().items()}
    for what, (one, two) in pairs.items():
        for name, value in one.state_dict().items():
            assert torch.equal(two.state_dict()[name], value), f"{what}.{name}"
    assert resumed.optimizer_steps == whole.optimizer_steps == whole.state.global_step
