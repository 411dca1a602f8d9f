# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The learning rates of a comparison where nobody names them: around what each method is known to take."""

from __future__ import annotations

from collections.abc import Sequence

from ..comparison.runs import rate_text
from ..data.packaged import CHECKPOINTS
from ..training.methods import RobustTrainingArguments
from .config_file import read_recipe, recipes
from .parser import UsageError
from .train_arguments import SUITE, ModelArguments, train_parser

#: Rates of the packaged checkpoints, which are small, from which most of their recipes were chosen; and shares of a rate: below
#: that of another recipe, or around a paper's or a method's own default.
PACKAGED_RATES = (1e-4, 3e-4, 1e-3)
BELOW, AROUND = (1 / 10, 1 / 3, 1), (1 / 3, 1, 10 / 3)


def check_rates(rates: Sequence[float]) -> None:
    """Refuse learning `rates` by which runs could not be told apart. Raises UsageError."""
    if long := [rate for rate in rates if float(rate_text(rate)) != rate]:
        raise UsageError(f"`--learning_rates {long[0]}` has more than three digits, and runs are named by three; round it to {rate_text(long[0])}")


def rates_around(method: str, model_args: ModelArguments, args: RobustTrainingArguments) -> list[float]:
    """
    Three rates for a method.

    Args:
        method (`str`): Its name.
        model_args ([`ModelArguments`]), args ([`RobustTrainingArguments`]): The settings of its runs, which say whose rate theirs is.

    Returns:
        `list[float]`: For a packaged checkpoint those from which its recipes were chosen; otherwise shares of the recipe's, the
        paper's or the method's own rate, ascending.
    """
    centre, origin = args.learning_rate, args.origins.get("learning_rate", "")
    if not origin.startswith(("recipe", "paper")) and model_args.model in CHECKPOINTS and f"{SUITE}/{method}" in recipes():
        # The packaged checkpoint is small, and takes rates a hundred times those of the papers.
        centre, origin = read_recipe(train_parser(), f"{SUITE}/{method}")["learning_rate"], "recipe"
    if origin.startswith("recipe") and model_args.model in CHECKPOINTS and centre in PACKAGED_RATES:
        return list(PACKAGED_RATES)
    shares = BELOW if origin.startswith("recipe") else AROUND
    return [float(f"{share * centre:.0e}") for share in shares]
