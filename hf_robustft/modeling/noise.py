# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Whether modules draw random numbers when they are called."""

from __future__ import annotations

from torch import nn

#: Where attention layers hold their rate of dropout, if they do not hold a module.
_RATES = ("dropout", "attention_dropout", "dropout_p", "dropout_prob", "attn_dropout")


def dropout_rate(module: nn.Module) -> float:
    """The rate at which a module itself drops out, 0 if it does not."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p
    # Attention holds its rate as a number, other layers as a module.
    rates = [getattr(module, name, None) for name in _RATES]
    return max((rate for rate in rates if isinstance(rate, (int, float))), default=0.0)


def draws_noise(part: nn.Module) -> bool:
    """Whether anything in a part of a model drops out, in the mode that it is in."""
    return any(module.training and dropout_rate(module) > 0 for module in part.modules())
