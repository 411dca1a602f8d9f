# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
How much each term of the loss moves the parameters: the norm of its gradient, measured at a few steps of a run.

The loss of a term says nothing of that: a penalty may be large and all but constant. The gradient is that of the whole
optimizer step, over all micro-batches, chunks and processes, of everything that the step moves. It is taken of the graph
that the backward pass of the step uses afterwards, so that training is the same, bit for bit, with and without.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.shares import floor_share
from .distributed import is_distributed

#: A term whose gradient is smaller than this share of that of the rest is warned of,
VOID = 1e-3
#: but not before so many steps, and such a share of the run: a term that holds the weights to where they started, or to a
#: teacher, is 0 there.
EARLY_STEPS, EARLY_SHARE = 10, 0.1


def measured_steps(every: float, total_steps: int) -> range:
    """
    The optimizer steps of a run whose gradients are measured: one in each interval, in its middle.

    Args:
        every (`float`): Steps of an interval, or, below 1, a fraction of the run; 0 measures nothing.
        total_steps (`int`): Optimizer steps of the run.

    Returns:
        `range`: Steps, counted from 0.
    """
    if not every or total_steps < 1:
        return range(0)
    interval = int(every) if every >= 1 else max(1, floor_share(every, total_steps))
    return range(interval // 2, total_steps, interval)


class TermGradients:
    """
    The gradients of each term over one optimizer step, held in main memory.

    Args:
        parameters (`Sequence[torch.nn.Parameter]`): What the step moves, whole in each process.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters = list(parameters)
        self._sums: dict[str, list[Tensor | None]] = {}

    @property
    def terms(self) -> list[str]:
        """Their names."""
        return list(self._sums)

    def add(self, term: str, gradients: Sequence[Tensor | None]) -> None:
        """Add the `gradients` of a micro-batch, or of a part of one, to those of `term`: one of each parameter."""
        sums = self._sums.setdefault(term, [None] * len(self.parameters))
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                # Not in place: gradients may share their memory.
                sums[index] = gradient.cpu() if sums[index] is None else sums[index] + gradient.cpu()

    def norms(self) -> dict[str, tuple[float, float]]:
        """
        Norms of the gradients of the global batch, but for a factor that all have; every process must ask for them.

        Returns:
            `dict[str, tuple[float, float]]`: By term, that of its own gradient and that of the sum of all others.
        """
        squares = torch.zeros(2, len(self._sums), dtype=torch.float64)
        for parameter, *gradients in zip(self.parameters, *self._sums.values(), strict=True):
            known = next((gradient for gradient in gradients if gradient is not None), None)
            if known is None:
                continue
            rows = torch.stack([(torch.zeros_like(known) if g is None else g).flatten() for g in gradients])
            rows = rows.to(parameter.device)
            if is_distributed():
                dist.all_reduce(rows)
            both = torch.stack([rows, rows.sum(0) - rows])
            squares += torch.linalg.vector_norm(both, dim=-1).cpu().double() ** 2
        own, others = squares.sqrt().tolist()
        return dict(zip(self._sums, zip(own, others, strict=True), strict=True))


class GradientShares:
    """
    Logs `gradient_share/<term>`, the norm of each term's gradient as a share of the sum of these norms, and warns of a
    term that moves next to nothing (`log_gradient_shares`).

    Args:
        trainer ([`RobustTrainer`]): The Trainer of the run.

    Raises:
        ValueError: If shares were asked for where gradients cannot be taken of one term without changing the run.
    """

    def __init__(self, trainer: Any):
        self._trainer, self._steps = trainer, range(0)
        self._found: TermGradients | None = None
        self._warned: set[str] = set()
        args = trainer.args
        obstacle = _obstacle(trainer) if args.log_gradient_shares else None
        if obstacle and "log_gradient_shares" in args.given:
            raise ValueError(
                f"`log_gradient_shares={args.log_gradient_shares:g}` takes the gradient of each term by itself, which "
                f"{obstacle} does not allow; set it to 0, or leave that away."
            )
        if obstacle:
            args.derive(log_gradient_shares=0.0)

    def begin(self, total_steps: int) -> None:
        """Begin a run of `total_steps` optimizer steps."""
        self._steps, self._found = measured_steps(self._trainer.args.log_gradient_shares, total_steps), None

    def add(self, terms: Mapping[str, Tensor], encoding: Any = None) -> None:
        """
        Take the gradients of the terms of a micro-batch, if the step is one to be measured.

        Args:
            terms (`Mapping[str, torch.Tensor]`): Scalars by name, with the graph that the backward pass will use.
            encoding ([`CachedEncoding`], *optional*): The cache between the terms and the encoders, which takes the
                gradients further with its own.
        """
        trainer = self._trainer
        if trainer.state.global_step not in self._steps or not torch.is_grad_enabled():
            return
        if self._found is None:
            moved = [p for group in trainer.optimizer.param_groups for p in group["params"]] + trainer.own_parameters()
            self._found = TermGradients([parameter for parameter in moved if parameter.requires_grad])
        if len(terms) == 1:
            # All of the gradient, whatever it is.
            self._found.add(*terms, ())
            return
        parameters = self._found.parameters
        leaves = {} if encoding is None else encoding.leaves
        scaler = trainer.accelerator.scaler
        for name, term in terms.items():
            if not term.requires_grad:
                self._found.add(name, ())
                continue
            # Half precision would lose in a term what it keeps of the scaled loss.
            term = term if scaler is None else scaler.scale(term)
            inputs = [*parameters, *leaves.values()]
            gradients = torch.autograd.grad(term, inputs, retain_graph=True, allow_unused=True)
            self._found.add(name, gradients[: len(parameters)])
            if encoding is not None:
                encoding.take_along(name, gradients[len(parameters) :], self._found)

    def finish(self) -> None:
        """Log what the optimizer step that ends has shown; every process must call this at the end of each step."""
        found, self._found = self._found, None
        if found is None:
            return
        trainer, step = self._trainer, self._trainer.state.global_step - 1
        norms = found.norms() if len(found.terms) > 1 else dict.fromkeys(found.terms, (1.0, 0.0))
        total = sum(own for own, _ in norms.values())
        if not math.isfinite(total) or not total:
            # A loss scaler that looks for its scale.
            return
        due = trainer.control.should_log
        trainer.log({f"gradient_share/{name}": own / total for name, (own, _) in norms.items()})
        # The entry of the losses, if it is due at this step, is still to come.
        trainer.control.should_log = due
        if step < max(EARLY_STEPS, EARLY_SHARE * trainer.state.max_steps) or not trainer.args.should_log:
            return
        for name, (own, others) in norms.items():
            if own < VOID * others and name not in self._warned:
                self._warned.add(name)
                warnings.warn(
                    f"The term {name!r} of the loss hardly moves the parameters: at step {step + 1} the norm of its gradient "
                    f"is {own / others:.1g} of that of all other terms together. Raise its weight, or set it to 0, which "
                    "saves its cost.",
                    stacklevel=2,
                )


def _obstacle(trainer: Any) -> str | None:
    """What keeps the graph of a step from being used for one term by itself, if anything."""
    args = trainer.args
    optim = str(getattr(args.optim, "value", args.optim))
    if args.torch_compile:
        return "a compiled model (`torch_compile`)"
    if args.fully_shard:
        return "FSDP2 (`fully_shard`), which makes gradients in the backward pass of a step alone,"
    if trainer.is_deepspeed_enabled:
        return "DeepSpeed"
    if "lomo" in optim or "layerwise" in optim:
        return f"an optimizer that steps in the backward pass (`optim={optim}`)"
    if (args.activation_checkpointing_kwargs or {}).get("use_reentrant"):
        return "reentrant checkpointing (`use_reentrant`)"
    return None
