# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which methods can train on images with lists of labels, and the refusal of those that cannot."""

from __future__ import annotations

from dataclasses import MISSING, fields
from types import SimpleNamespace

from ..modeling.dual_encoder import DualEncoder
from .arguments import RunArguments


def serves_label_lists(trainer: type, similarity: str) -> bool:
    """Whether the class `trainer` can train models of a `similarity` (`"softmax"`, `"sigmoid"`) on images with lists of labels."""
    declared = [vars(cls).get("label_lists") for cls in trainer.__mro__]
    said = [kinds for kinds in declared if kinds is not None]
    return bool(said) and all(similarity in kinds for kinds in said)


def _fits(trainer: type, args: RunArguments, encoder: DualEncoder) -> bool:
    """Whether a class can train a model by its defaults."""
    usual = {f.name: f.default for f in fields(args) if f.default is not MISSING} | trainer.defaults | trainer.model_defaults(encoder)
    try:
        trainer.check_model(SimpleNamespace(**{**vars(args), **usual, "given": frozenset()}), encoder)
    except ValueError:
        return False
    return True


def check_label_lists(trainer: type, args: RunArguments, encoder: DualEncoder, several: int, captioned: bool) -> bool:
    """
    Refuse a method that cannot train on images with lists of labels, and settle the settings of one that can.

    Args:
        trainer (`type`): The class of the method's Trainer.
        args ([`RobustTrainingArguments`]): Settings of the run.
        encoder ([`DualEncoder`]): The model; its weights may be on the meta device.
        several (`int`): Number of classes where images have lists of labels; 0 where each has one.
        captioned (`bool`): Whether images have captions of their own.

    Returns:
        `bool`: Whether the method learns from lists of labels: not where each image has one, and not from captions alone.

    Raises:
        ValueError: With the methods that can, or as `check_label_lists` of the class.
    """
    if not several:
        return False
    learns = trainer.needs_labels or not captioned
    if learns and not serves_label_lists(trainer, encoder.similarity):
        # The methods are made of the Trainer that asks here.
        from .methods import METHODS

        able = [name for name, other in METHODS.items() if serves_label_lists(other, encoder.similarity) and _fits(other, args, encoder)]
        raise ValueError(
            f"The training set has lists of labels, on which the method {trainer.method!r} cannot train a {encoder.name}; choose one of "
            f"{', '.join(able)}, or name a column of one label per image with label_column (--label_column)."
        )
    trainer.check_label_lists(args, encoder, captioned)
    return learns
