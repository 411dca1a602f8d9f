# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What is fitted on validation images once a model is trained: a temperature, and an open-set detector."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from ..data.benchmarks import Benchmark
from ..modeling.features import logit_scale
from ..modeling.zero_shot import ZeroShotHead
from .collect import collect_logits
from .detector import DETECTOR_SCORES, OpenSetDetector, fold_temperature
from .open_set import DEFAULT_SCORE, RECALL
from .temperature import TemperatureScaling

DETECTORS = (*DETECTOR_SCORES, "none")


def check_fit(detector: str = DEFAULT_SCORE, true_positive_rate: float = RECALL) -> None:
    """
    Refuse options that no fit can have, before anything is trained.

    Args:
        detector (`str`, *optional*, defaults to `"energy"`): The score, or `"none"` for no detector.
        true_positive_rate (`float`, *optional*, defaults to 0.95): Share of the images that it accepts as known.

    Raises:
        ValueError: If the score is unknown, or the rate lies outside (0, 1].
    """
    if detector not in DETECTORS:
        raise ValueError(f"`--detector {detector}` is unknown; choose one of {', '.join(DETECTORS)}.")
    if not 0 < true_positive_rate <= 1:
        raise ValueError(f"`--true_positive_rate {true_positive_rate}` must lie in (0, 1].")


def fit_on_validation(
    model: PreTrainedModel,
    validation: Benchmark,
    processor: Any,
    head: ZeroShotHead | None = None,
    *,
    detector: str = DEFAULT_SCORE,
    true_positive_rate: float = RECALL,
    fold: bool = False,
    **reading: Any,
) -> tuple[TemperatureScaling | None, OpenSetDetector | None, list[str]]:
    """
    Fit a temperature and an open-set detector on in-distribution images that were neither trained nor tested on.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, on the device that runs it.
        validation ([`Benchmark`]): The images.
        processor (`CLIPProcessor`): The model's processor.
        head ([`ZeroShotHead`], *optional*): A trained head.
        detector (`str`, *optional*, defaults to `"energy"`): The score, or `"none"` for no detector.
        true_positive_rate (`float`, *optional*, defaults to 0.95): Share of the images that it accepts as known.
        fold (`bool`, *optional*, defaults to `False`): Put the temperature into `model` and `head`, in place.
        reading (`Any`, *optional*): `batch_size`, `num_workers`, `progress`, `bad_images`, as for `collect_logits`.

    Returns:
        `tuple`: The [`TemperatureScaling`] or `None`, the [`OpenSetDetector`] or `None`, and notes for the user.

    Raises:
        ValueError: If an option is out of range, or there is no best temperature and it is to be folded.
        OSError: If an image cannot be read.
    """
    check_fit(detector, true_positive_rate)
    if detector == "none" and not fold:
        return None, None, []
    logits, labels = collect_logits(model, validation, processor, head=head, **reading)
    notes, temperature, found = [], None, None
    try:
        temperature = TemperatureScaling().fit(logits, labels)
    except ValueError as error:
        if fold:
            raise
        notes.append(f"No temperature: {error}")
    if detector != "none":
        found = OpenSetDetector.fit(
            logits,
            class_names=validation.class_names,
            logit_scale=logit_scale(model),
            score=detector,
            true_positive_rate=true_positive_rate,
            temperature=temperature,
            fitted_on=validation.name,
        )
    if fold:
        found = fold_temperature(model, temperature, found, logits, head)
    return temperature, found, notes
