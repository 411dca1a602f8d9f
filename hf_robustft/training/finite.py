# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""NaN and infinity stop a run where they come up: in a loss, in a gradient before its step, in weights before they are saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ..modeling.tensor_files import not_finite

#: Steps that float16 skips one after the other until it is clear that no scale of the loss is small enough.
MOST_SKIPPED = 50
_ADVICE = "Lower --learning_rate, lengthen --warmup_steps, or look for broken images and weights."


def refuse_loss(terms: Mapping[str, Tensor], step: int) -> None:
    """Name which of the `terms` of a loss at a `step` makes their sum NaN or infinite. Raises FloatingPointError."""
    values = {name: value.item() for name, value in terms.items()}
    guilty = [name for name, value in values.items() if not math.isfinite(value)] or list(values)
    raise FloatingPointError(
        f"The loss is not finite at step {step}: {', '.join(guilty)} "
        f"(of {', '.join(f'{name} = {value:g}' for name, value in values.items())}). {_ADVICE}"
    )


def check_gradient(norm: Tensor | float | None, terms: Iterable[str], step: int) -> None:
    """
    Refuse a gradient that would make weights NaN, before the step.

    Args:
        norm (`torch.Tensor` or `float`, *optional*): Of all gradients together; `None` where nobody knows it.
        terms (`Iterable[str]`), step (`int`): Of which loss, and at which step, for the message.

    Raises:
        FloatingPointError: If the norm is not finite.
    """
    if norm is None or math.isfinite(norm):
        return
    raise FloatingPointError(
        f"The gradient is not finite at step {step}, though the loss ({', '.join(terms)}) is; the step was not taken. {_ADVICE}"
    )


def check_skipped(skipped: int, step: int) -> None:
    """Refuse to go on at a `step` when `skipped` steps in a row were. Raises FloatingPointError."""
    if skipped >= MOST_SKIPPED:
        raise FloatingPointError(
            f"The gradient overflows in float16: {skipped} steps in a row were skipped up to step {step}, and nothing is learned. "
            f"Give --bf16 instead of --fp16, or neither. {_ADVICE}"
        )


def check_weights(tensors: Mapping[str, Tensor], step: int, folder: str | Path) -> None:
    """
    Refuse to save weights that answer nothing.

    Args:
        tensors (`Mapping[str, torch.Tensor]`): By name.
        step (`int`), folder (`str` or `Path`): After which step they are, and where they would be saved, for the message.

    Raises:
        FloatingPointError: If one of them holds NaN or infinity.
    """
    if names := not_finite(tensors):
        raise FloatingPointError(
            f"{len(names)} weights are not finite after step {step}, such as {names[0]}: they are not saved, and {folder} stays "
            f"as it was. {_ADVICE}"
        )
