# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that hold all of a run, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..modeling.sharding import full_values
from ..objectives.base import take, take_module
from .state import load_state, save_state


class ExactCheckpoints:
    """
    The part of `RobustTrainer` that saves and restores what the objectives add to a run.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

    def extra_state(self) -> dict[str, Any]:
        state = super().extra_state()
        state["method"] = self.method
        state["optimizer_steps"] = self.optimizer_steps
        state["logit_scale_bound"] = self._logit_scale_bound
        state.update(self._window.state(self._mean_over_processes))
        for name, module in self.trainable_modules().items():
            state.update({f"module.{name}.{key}": value for key, value in module.state_dict().items()})
        return state

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        super().load_extra_state(state)
        self.optimizer_steps = take(state, "optimizer_steps")
        self._window.load_state(state, self.args.device)
        self._logit_scale_bound = take(state, "logit_scale_bound")
        for name, module in self.trainable_modules().items():
            take_module(state, f"module.{name}", module)

    # Trainer calls this pair at the right places: before trainer_state.json, push and rotation, and after the
    # weights are loaded; `on_save` comes too late for a push.
    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = full_values(self.extra_state())
        if self.args.should_save:
            save_state(output_dir, state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        state = None if checkpoint is None else load_state(checkpoint)
        # Before the optimizer is loaded, whose groups differ between methods.
        if state is not None and take(state, "method") != self.method:
            raise ValueError(
                f"The checkpoint was written by method {state['method']!r}, this run is {self.method!r}; "
                "resume with the same method, or start anew from its weights."
            )
        super()._load_optimizer_and_scheduler(checkpoint)
        if state is not None:
            self.load_extra_state(state)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        # Head and teacher belong to the weights of the same checkpoint.
        self.load_extra_state(load_state(self.state.best_model_checkpoint))

    @staticmethod
    def check_checkpoint(folder: str | os.PathLike) -> None:
        """
        Refuse a folder that a run cannot be resumed from.

        Raises:
            OSError: If there is no such folder, or it lacks the state of teacher and counters.
        """
        if not os.path.isdir(folder):
            raise OSError(
                f"There is no checkpoint folder {str(folder)!r}; name one that holds model.safetensors and "
                "robustft_state.safetensors, such as <output_dir>/checkpoint-500."
            )
        load_state(folder)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        if isinstance(resume_from_checkpoint, (str, os.PathLike)):
            # A missing teacher is found before an hour of loading and skipping, not after.
            self.check_checkpoint(resume_from_checkpoint)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _save_checkpoint(self, model, trial):
        self._saving_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_checkpoint = False

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self._saving_checkpoint and state_dict is None:
            state_dict = self.export_state_dict()
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.save_extras(self.args.output_dir if output_dir is None else output_dir)
