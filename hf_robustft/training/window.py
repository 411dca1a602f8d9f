# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The losses since the last log entry, as a part of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..objectives.base import take


class LossWindow:
    """
    Sums of named losses over the optimizer steps since the last log entry, on the device, without a host sync.

    Trainer's own sum starts at zero in a resumed run, so that the first entry after a resume would differ from the
    uninterrupted run's; this one is saved and restored.
    """

    def __init__(self):
        self.sums: dict[str, Tensor] = {}
        self.steps = 0

    def add(self, losses: Mapping[str, Tensor], micro_batches: int) -> None:
        """Add the losses of one of `micro_batches` micro-batches of an optimizer step."""
        for name, value in losses.items():
            # MPS has no float64.
            dtype = torch.float32 if value.device.type == "mps" else torch.float64
            share = value.detach().to(dtype) / micro_batches
            self.sums[name] = self.sums[name] + share if name in self.sums else share

    def finish_step(self) -> None:
        """Count an optimizer step."""
        self.steps += 1

    def means(self, mean_over_processes: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The mean of each loss over the window's steps and over processes; the window starts again."""
        if not self.sums:
            return {}
        values = mean_over_processes(torch.stack(list(self.sums.values()))) / self.steps
        means = dict(zip(self.sums, values.tolist(), strict=True))
        self.__init__()
        return means

    def state(self, mean_over_processes: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """What `load_state` needs to continue the window, averaged over processes, which the window then is itself."""
        state: dict[str, Any] = {"window_steps": self.steps, "window_names": list(self.sums)}
        if self.sums:
            values = state["window_sums"] = mean_over_processes(torch.stack(list(self.sums.values())))
            # A resumed run adds to the average; to log the same bits, the run that goes on must do so too.
            self.sums = dict(zip(self.sums, values.clone().unbind(), strict=True))
        return state

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue a saved window. Raises ValueError if the state holds none."""
        self.steps = take(state, "window_steps")
        names = take(state, "window_names")
        values = take(state, "window_sums").to(device).unbind() if names else ()
        self.sums = dict(zip(names, values, strict=True))
