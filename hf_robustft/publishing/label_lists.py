# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How a checkpoint that was trained on lists of labels is finished: what cannot be asked for, and the thresholds of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..data.benchmarks import Benchmark
from ..evaluation.benchmark_checks import check_several
from ..evaluation.evaluator import Evaluator
from ..evaluation.fitting import default_thresholds, fit_label_thresholds
from ..evaluation.several_labels import pair_bias
from ..modeling.metadata import MULTI_LABEL


def check_multi_label(
    evaluator: Evaluator | None, validation: Benchmark | None, fold_temperature: bool = False, save_predictions: bool = False
) -> None:
    """
    Refuse what does not fit a model that is trained on lists of labels.

    Args:
        evaluator ([`Evaluator`], *optional*): Of the sets to measure on.
        validation ([`Benchmark`], *optional*): Images to fit on.
        fold_temperature, save_predictions (`bool`, *optional*, defaults to `False`): As for `finish_checkpoint`.

    Raises:
        ValueError: For these two, for validation images with one label each, or as `check_several`.
    """
    if fold_temperature:
        raise ValueError(
            "`fold_temperature` (--fold_temperature) is for one label per image; leave it out, and calibrate the sigmoids of a SigLIP by "
            "hf-robustft calibrate --probabilities sigmoid."
        )
    if save_predictions:
        raise ValueError("`save_predictions` (--save_predictions) keeps one label per image, and the model is trained on lists; leave it out.")
    if validation is not None and not validation.several:
        raise ValueError(
            f"Benchmark {validation.name!r} has one label per image, and the model is trained on lists of labels, for which thresholds "
            "are fitted; give validation images with lists of labels."
        )
    if evaluator is not None:
        check_several(evaluator.benchmarks)


def label_thresholds(
    model: PreTrainedModel,
    head: nn.Module | None,
    validation: Benchmark | None,
    processor: Any,
    class_names: Sequence[str],
    trained: bool = True,
    **reading: Any,
) -> tuple[dict[str, Any] | None, list[str]]:
    """
    The thresholds above which the labels of a finished model are given.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, on the device that runs it.
        head ([`ZeroShotHead`], *optional*): Its trained head.
        validation ([`Benchmark`], *optional*): Images to fit on; without them all thresholds are 0.5.
        processor (`CLIPProcessor`): The model's processor.
        class_names (`Sequence[str]`): Its classes.
        trained (`bool`, *optional*, defaults to `True`): Whether it was trained on lists of labels, and so must have such probabilities;
            of the prompts of a softmax family thresholds are those of shares.
        reading (`Any`, *optional*): As for [`fit_label_thresholds`].

    Returns:
        `tuple`: The record for `robustft.json`, `None` of shares without validation images; and notes for the user.

    Raises:
        ValueError: If the model has no probability for each label by itself.
        OSError: If an image cannot be read.
    """
    shares = pair_bias(model, head) is None
    if trained and shares:
        raise ValueError(
            f"The model has no probability for each label by itself, which `problem_type={MULTI_LABEL!r}` means; train a head on lists of "
            "labels, or a SigLIP."
        )
    if validation is None:
        return None if shares else default_thresholds(class_names), ["No set with the role validation: no thresholds of labels were fitted, and all are 0.5."]
    return fit_label_thresholds(model, validation, processor, head, **reading), []
