# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What candidates are compared by: accuracy where each image has one label, mean average precision where it has a list of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """
    The number that leads a comparison, of which more is better, and those beside it.

    Attributes:
        key (`str`): Its key in results, differences and the summary.
        word (`str`): What sentences and headings call it. Of the start of a heading it is `title`.
        metrics (`tuple[str, ...]`): The keys of all numbers that are compared; NLL and ECE are among those of every measure.
        notes (`tuple[str, ...]`): What the numbers are, in sentences.
        rules_without (`Mapping[str, str]`): Rules that are not defined for it, with the reason.
    """

    key: str
    word: str
    metrics: tuple[str, ...]
    notes: tuple[str, ...]
    rules_without: Mapping[str, str]

    @property
    def title(self) -> str:
        """At the start of a heading."""
        return self.word[0].upper() + self.word[1:] if self.word.islower() else self.word

    @property
    def of_lists(self) -> bool:
        """Whether images have lists of labels."""
        return self.key == "map"

    def in_words(self, text: str) -> str:
        """A `text` about accuracy as one about this measure."""
        return text if self.key == "accuracy" else text.replace("accuracy", self.word).replace("Accuracy", self.title)


ACCURACY = Measure(
    "accuracy",
    "accuracy",
    ("accuracy", "nll", "ece", "brier"),
    (
        "Accuracy: top-1. Means over sets count each set once.",
        "NLL: negative log-likelihood of the right class, in nats. Brier: summed over classes, from 0 to 2.",
        "ECE: expected calibration error of the top label; its noise floor is what a perfectly calibrated model with the same confidences "
        "would show.",
    ),
    {},
)
MEAN_PRECISION = Measure(
    "map",
    "mAP",
    ("map", "nll", "ece", "f1"),
    (
        "mAP: mean average precision, the mean over the classes that have images. Means over sets count each set once.",
        "F1: mean over the same classes, of the labels above thresholds that are fitted to the validation images for each model, and 0.5 "
        "without such images. ECE: of the probability of each class by itself, mean over classes.",
        "NLL: of whether an image has each label, in nats, mean over classes. Probabilities are sigmoids, and the shares of classes for the "
        "prompts of a model that was trained with a softmax, such as zero-shot CLIP.",
    ),
    {
        "id_nearest": "it asks for the standard error of a share of images, which mAP is not",
        "concepts": "of lists of labels no classes can be left out: an image has several",
    },
)
MEASURES = {measure.key: measure for measure in (ACCURACY, MEAN_PRECISION)}


def measure_of(summary: Mapping[str, Any]) -> Measure:
    """The measure of a `summary` of [`summarise`]; accuracy if it names none."""
    return MEASURES[summary.get("measure", ACCURACY.key)]
