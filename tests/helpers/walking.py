# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Mixins that follow a model over optimizer steps, without a Trainer."""

from types import SimpleNamespace

from hf_robustft.modeling.features import encode


class Walking:
    """What a mixin needs of a Trainer; `step()` stands for one optimizer step of `total` in all."""

    def __init__(self, model, args, total):
        self.model, self.args, self.optimizer_steps = model, args, 0
        self.state = SimpleNamespace(max_steps=total)
        self.prepare_training(total)

    def step(self):
        self.optimizer_steps += 1
        self.after_optimizer_step()

    def encode_global(self, model, batch):
        return encode(model, batch)
