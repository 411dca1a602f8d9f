# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What is fitted on validation images once a model is trained: a temperature, a detector, and the numbers of a cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor
from transformers import PreTrainedModel

from ..data.benchmarks import Benchmark
from ..data.messages import quoted
from ..data.transforms import ImageTransform
from ..modeling.features import evaluation_mode, logit_scale
from ..modeling.heads import TipAdapterHead
from ..modeling.processes import failing_together
from ..modeling.zero_shot import ZeroShotHead
from .benchmark_checks import refuse_lists
from .collect import collect_logits, evaluation_head, image_batches
from .conformal import check_coverage, least_images
from .detection import RECALL
from .detector import DETECTOR_SCORES, OpenSetDetector, fold_temperature
from .multi_label import DEFAULT_THRESHOLD, fit_thresholds
from .open_set import DEFAULT_SCORE
from .prediction_sets import DEFAULT_COVERAGE, DEFAULT_METHOD, METHODS, ConformalClassifier
from .several_labels import pair_bias
from .temperature import TemperatureScaling

DETECTORS = (*DETECTOR_SCORES, "none")
PREDICTION_SETS = (*METHODS, "none")
#: What images with lists of labels are for, in messages.
LISTS_CALIBRATE = "such images calibrate the sigmoids of a SigLIP, by hf-robustft calibrate --probabilities sigmoid"
#: Where the search of Tip-Adapter's code on ImageNet ends, and in how many steps from 0.1; the end is not among them.
CACHE_GRID = {"alpha": (3.0, 20), "beta": (7.0, 200)}


def check_fit(
    detector: str = DEFAULT_SCORE,
    true_positive_rate: float = RECALL,
    prediction_sets: str = DEFAULT_METHOD,
    coverage: float = DEFAULT_COVERAGE,
) -> None:
    """
    Refuse options that no fit can have, before anything is trained.

    Args:
        detector (`str`, *optional*, defaults to `"energy"`): The score, or `"none"` for no detector.
        true_positive_rate (`float`, *optional*, defaults to 0.95): Share of the images that it accepts as known.
        prediction_sets (`str`, *optional*, defaults to `"raps"`): The method of prediction sets, or `"none"` for none.
        coverage (`float`, *optional*, defaults to 0.95): Share of images whose set is to hold their class.

    Raises:
        ValueError: If score or method are unknown, or the rate lies outside (0, 1], or the coverage outside (0, 1).
    """
    if detector not in DETECTORS:
        raise ValueError(f"`--detector {detector}` is unknown; choose one of {', '.join(DETECTORS)}.")
    if not 0 < true_positive_rate <= 1:
        raise ValueError(f"`--true_positive_rate {true_positive_rate}` must lie in (0, 1].")
    if prediction_sets not in PREDICTION_SETS:
        raise ValueError(f"`--prediction_sets {prediction_sets}` is unknown; choose one of {', '.join(PREDICTION_SETS)}.")
    check_coverage(coverage, "--coverage")


def by_prompts(validation: Benchmark | None, templates: Sequence[str]) -> Benchmark | None:
    """Return the `validation` images, to be judged by the prompts (`templates`) that a folder says, whatever those of the set are."""
    if validation is None or not templates or validation.templates == templates:
        return validation
    return replace(validation, templates=templates, opened=validation.open())


def measured_otherwise(sets: Iterable[Benchmark], class_names: Sequence[str] | None, templates: Sequence[str]) -> list[str]:
    """Return notes on `sets` of the `class_names` of a folder that are measured by other prompts than those that it says, its `templates`."""
    names = tuple(class_names or ()) if templates else None
    others = [item for item in sets if item.role != "open_set" and item.class_names == names and item.templates != templates]
    return [
        f"{item.name} is measured by its own templates, {quoted(item.templates, 3)}, and the folder answers by those that it was trained with, "
        f"{quoted(templates, 3)}: its numbers are of other prompts; give it the same templates."
        for item in others
    ]


def fit_on_validation(
    model: PreTrainedModel,
    validation: Benchmark,
    processor: Any,
    head: ZeroShotHead | None = None,
    *,
    detector: str = DEFAULT_SCORE,
    true_positive_rate: float = RECALL,
    fold: bool = False,
    prediction_sets: str = DEFAULT_METHOD,
    coverage: float = DEFAULT_COVERAGE,
    **reading: Any,
) -> tuple[TemperatureScaling | None, OpenSetDetector | None, ConformalClassifier | None, list[str]]:
    """
    Fit a temperature, an open-set detector and prediction sets on in-distribution images that were neither trained nor tested on.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, on the device that runs it.
        validation ([`Benchmark`]): The images.
        processor (`CLIPProcessor`): The model's processor.
        head ([`ZeroShotHead`], *optional*): A trained head.
        detector (`str`, *optional*, defaults to `"energy"`): The score, or `"none"` for no detector.
        true_positive_rate (`float`, *optional*, defaults to 0.95): Share of the images that it accepts as known.
        fold (`bool`, *optional*, defaults to `False`): Put the temperature into `model` and `head`, in place; without a best one they
            stay.
        prediction_sets (`str`, *optional*, defaults to `"raps"`): Their method, or `"none"` for no sets. There are none where nothing else
            is fitted.
        coverage (`float`, *optional*, defaults to 0.95): Share of images whose set is to hold their class.
        reading (`Any`, *optional*): `batch_size`, `num_workers`, `progress`, `bad_images`, as for `collect_logits`.

    Returns:
        `tuple`: The [`TemperatureScaling`] or `None`, the [`OpenSetDetector`] or `None`, the [`ConformalClassifier`] or `None`, and notes
        for the user.

    Raises:
        ValueError: If an option is out of range, or the weights are too coarse for the temperature that is to be folded.
        OSError: If an image cannot be read.
    """
    check_fit(detector, true_positive_rate, prediction_sets, coverage)
    if detector == "none" and not fold:
        return None, None, None, []
    refuse_lists([validation], LISTS_CALIBRATE)
    logits, labels = collect_logits(model, validation, processor, head=head, **reading)
    notes, temperature, found, sets = [], None, None, None
    try:
        temperature = TemperatureScaling().fit(logits, labels)
    except ValueError as error:
        notes.append(f"No temperature{', and `--fold_temperature` folds none' if fold else ''}: {error}")
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
    if fold and temperature is not None:
        divisor = temperature.temperature
        found = fold_temperature(model, temperature, found, logits, head)
        logits = logits / divisor
    if prediction_sets != "none":
        sets = ConformalClassifier.fit(
            logits,
            labels,
            class_names=validation.class_names,
            logit_scale=logit_scale(model),
            method=prediction_sets,
            coverage=coverage,
            temperature=temperature,
            fitted_on=validation.name,
        )
        notes += too_few(sets)
    return temperature, found, sets, notes


def too_few(sets: ConformalClassifier) -> list[str]:
    """Return a note if `sets` were fitted on too few images to leave any class out."""
    if sets.quantile is not None:
        return []
    return [
        f"Each prediction set holds all classes: {sets.n} images of {sets.fitted_on} are too few for a coverage of {sets.coverage}, which "
        f"needs {least_images(sets.coverage)}."
    ]


def fit_label_thresholds(
    model: PreTrainedModel, validation: Benchmark, processor: Any, head: ZeroShotHead | None = None, **reading: Any
) -> dict[str, Any]:
    """
    Fit the thresholds above which an image is given each label, see [`~evaluation.multi_label.fit_thresholds`].

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, on the device that runs it.
        validation ([`Benchmark`]): Images with lists of labels.
        processor (`CLIPProcessor`): The model's processor.
        head ([`ZeroShotHead`], *optional*): A trained head; class prompts by default.
        reading (`Any`, *optional*): `batch_size`, `num_workers`, `progress`, `bad_images`, as for `collect_logits`.

    Returns:
        `dict[str, Any]`: As [`thresholds_record`].

    Raises:
        OSError: If an image cannot be read.
    """
    logits, labels = collect_logits(model, validation, processor, head=head, **reading)
    bias, logits = pair_bias(model, head), logits.detach().cpu().double()
    if bias is None:
        return thresholds_record(logits.softmax(dim=1), labels, validation) | {"probabilities": "softmax"}
    return thresholds_record((logits + bias.detach().cpu().double()).sigmoid(), labels, validation)


def thresholds_record(probabilities: Tensor, labels: Tensor, validation: Benchmark) -> dict[str, Any]:
    """
    What is stored of thresholds that are fitted to probabilities.

    Args:
        probabilities (`torch.Tensor` of shape `(n, classes)`): Of each class by itself.
        labels (`torch.Tensor` of shape `(n, classes)`): 0 and 1.
        validation ([`Benchmark`]): Whose they are.

    Returns:
        `dict[str, Any]`: As `robustft.json` has them: `fitted_on`, `n`, `classes` (thresholds by name) and `default` (names of
        classes without images, whose threshold is 0.5).
    """
    values, fitted = fit_thresholds(probabilities, labels)
    names = validation.class_names
    return {
        "fitted_on": validation.name,
        "n": len(labels),
        "classes": dict(zip(names, values.tolist(), strict=True)),
        "default": [name for name, own in zip(names, fitted.tolist(), strict=True) if not own],
    }


def default_thresholds(class_names: Sequence[str]) -> dict[str, Any]:
    """Return the record of thresholds of 0.5 for all of `class_names`, where there are no validation images to fit any on."""
    return {"n": 0, "classes": dict.fromkeys(class_names, DEFAULT_THRESHOLD), "default": list(class_names)}


def search_cache(
    model: PreTrainedModel, validation: Benchmark, processor: Any, head: TipAdapterHead, **reading: Any
) -> dict[str, Any]:
    """
    Set the alpha and beta of a cache to those of the highest accuracy on validation images.

    Of equal ones the lowest beta counts, and then the lowest alpha, as in the authors' code, which searches on the test
    set of ImageNet; here that is never done.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, on the device that runs it.
        validation ([`Benchmark`]): In-distribution images that were neither trained nor tested on.
        processor (`CLIPProcessor`): The model's processor.
        head ([`TipAdapterHead`]): Changed in place.
        reading (`Any`, *optional*): `batch_size`, `num_workers`, `progress`, `bad_images`, as for `collect_logits`.

    Returns:
        `dict[str, Any]`: JSON values for `robustft.json`: what was chosen, its accuracy, on which images and grid. There `alpha`
            is that of the folder's head: a temperature that is folded in later divides it, as all of the logits.

    Raises:
        ValueError: If the set has no labels, or is not one to choose on.
        OSError: If an image cannot be read.
    """
    if not isinstance(head, TipAdapterHead):
        raise ValueError(f"Alpha and beta are those of a `TipAdapterHead`, and the head is a {type(head).__name__}.")
    if validation.role != "validation" or validation.label_column is None or not validation.class_names:
        raise ValueError(
            f"{validation.name!r} has the role {validation.role!r}; alpha and beta of a cache are chosen on labelled images "
            "with the role validation, never on those that are measured."
        )
    refuse_lists([validation], LISTS_CALIBRATE)
    state, searched = PartialState(), evaluation_head(head, model)
    grid = {name: [i * (end - 0.1) / n + 0.1 for i in range(n)] for name, (end, n) in CACHE_GRID.items()}
    alphas = torch.tensor(grid["alpha"], dtype=head.weight.dtype, device=model.device)
    correct = torch.zeros(len(grid["beta"]), len(alphas) + 1, dtype=torch.long)
    transform = ImageTransform.from_processor(processor, train=False)
    with evaluation_mode(model), torch.no_grad(), failing_together(f"The search on {validation.name!r}", state):
        for _, embeds, labels in image_batches(model, validation, transform, **{"batch_size": 256, **reading}):
            embeds, labels = embeds.to(alphas.dtype), labels.to(embeds.device)
            zero_shot = ZeroShotHead.forward(searched, embeds)
            correct[:, -1] += len(labels)
            for row, beta in enumerate(grid["beta"]):
                votes = searched.votes(embeds, beta)
                # One at a time: of all together there would be twenty times as many logits.
                logits = (validation.project_logits(zero_shot + alpha * votes) for alpha in alphas)
                correct[row, :-1] += torch.stack([(of.argmax(dim=-1) == labels).sum() for of in logits]).cpu()
    correct = reduce(correct.to(state.device), "sum").cpu()
    correct, n = correct[:, :-1], int(correct[0, -1])
    row, column = (correct == correct.max()).nonzero()[0].tolist()
    found = {"alpha": grid["alpha"][column], "beta": grid["beta"][row]}
    with torch.no_grad():
        for name, value in found.items():
            getattr(head, name).fill_(value)
    grids = {name: {"first": values[0], "last": values[-1], "values": len(values)} for name, values in grid.items()}
    selector = {"selector": "accuracy", "accuracy": int(correct.max()) / n, "n": n, "fitted_on": validation.name}
    return {**found, **selector, "grid": grids}
