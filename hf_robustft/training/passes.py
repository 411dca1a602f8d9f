# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Passes over data of unknown length: each ends with an optimizer step of the micro-batches that are left, as a pass of
known length does, and a checkpoint holds how far the pass had come.

Transformers finds the last step of a pass by its length. Without one, the gradients of an incomplete window would stay
and be added to those of the next pass, and a resumed run would count all its steps as of the first pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers.trainer_utils import has_length

from ..objectives.base import take
from .state import load_state


class _NoBatch(dict):
    """Stands for a micro-batch that an incomplete window lacks: nothing is computed of it."""


class UncountedPasses:
    """
    The part of `RobustTrainer` that trains on iterable data sets whose passes end when they end.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

    _pass = 0
    _pass_batches = 0
    _pass_is_over = False
    _window_batches = 0

    @property
    def _is_uncounted(self) -> bool:
        return self._stream is None and self.train_dataset is not None and not has_length(self.train_dataset)

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device):
        batches, items = [], None
        while len(batches) < num_batches:
            got, items = self._next_batches(epoch_iterator, num_batches - len(batches), device)
            if not got:
                break
            batches += [batch for batch in got if self._is_wanted(batch)]
        self._pass_batches += len(batches)
        if len(batches) == num_batches:
            return batches, items
        self._pass_is_over = True
        if not batches:
            # Transformers would go on asking until the steps of the run are through.
            self.control.should_epoch_stop = True
            return batches, items
        # A step is made where the window is full, so what it lacks comes first, and is nothing.
        self._window_batches = len(batches)
        return [*(_NoBatch() for _ in range(num_batches - len(batches))), *batches], items

    def _next_batches(self, epoch_iterator, num_batches: int, device: torch.device):
        try:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        except ValueError as error:
            # Accelerate's words for a pass without a batch.
            if "does not contain any data" not in str(error):
                raise
            return [], None

    def _is_wanted(self, batch: Mapping[str, Any]) -> bool:
        # Transformers keeps the incomplete batches of iterable data sets, whatever `dataloader_drop_last` says.
        if not (self.args.dataloader_drop_last and isinstance(self.train_dataset, IterableDataset)):
            return True
        rows = [len(batch[name]) for name in ("pixel_values", "image_features", "labels") if name in batch]
        return not rows or min(rows) >= self.args.per_device_train_batch_size

    def training_step(self, model: nn.Module, inputs: Mapping[str, Any], num_items_in_batch=None) -> Tensor:
        if isinstance(inputs, _NoBatch):
            self.current_gradient_accumulation_steps = self._window_batches
            return torch.zeros((), device=self.args.device)
        return super().training_step(model, inputs, num_items_in_batch)

    def _run_epoch(self, *args, **kwargs):
        resumed = kwargs["resume_from_checkpoint"] is not None and kwargs["epoch"] == kwargs["epochs_trained"]
        skipped = kwargs["steps_trained_in_current_epoch"] if resumed and not self.args.ignore_data_skip else 0
        self._pass, self._pass_batches, self._pass_is_over = kwargs["epoch"], skipped, False
        super()._run_epoch(*args, **kwargs)
        if self._pass_is_over and not self._pass_batches:
            done, wanted = self.state.global_step, self.state.max_steps
            if not done:
                raise ValueError(
                    "The training data give not a single batch; look at the data set's `__iter__`, and at the batch size "
                    "if incomplete batches are dropped."
                )
            warnings.warn(
                f"The training data give no batch in pass {self._pass + 1}, so training ends after {done} of {wanted} steps, "
                "before its schedule does; an iterable data set must start again at each `iter()`.",
                stacklevel=2,
            )

    def _init_training_state(self, *args, **kwargs) -> tuple[int, int]:
        epochs, batches = super()._init_training_state(*args, **kwargs)
        checkpoint = kwargs.get("resume_from_checkpoint", args[3] if len(args) > 3 else None)
        if checkpoint is None or not self._is_uncounted:
            return epochs, batches
        state = load_state(checkpoint)
        return take(state, "pass.number"), 0 if self.args.ignore_data_skip else take(state, "pass.batches")

    def extra_state(self) -> dict[str, Any]:
        state = super().extra_state()
        if self._is_uncounted:
            over = self._pass_is_over
            state["pass.number"] = self._pass + over
            state["pass.batches"] = 0 if over else self._pass_batches
        return state
