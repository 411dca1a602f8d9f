# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The threshold for "unknown" of a finished folder, chosen for a stated error: what may be asked for, and on which images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..data.bad_images import BadImages
from ..data.benchmarks import Benchmark
from ..data.messages import quoted
from ..data.overlap import ImageHashes, Sketch, compare, hash_images
from ..data.prompts import class_key
from ..evaluation.collect import collect_logits
from ..evaluation.detector import OpenSetDetector, fold_temperature
from ..evaluation.open_set import DEFAULT_SCORE
from ..evaluation.report import EvaluationReport
from ..evaluation.risk_control import check_enough, check_risk
from ..evaluation.stated_error import RATE, check_stated_error
from ..evaluation.temperature import TemperatureScaling
from ..modeling.features import logit_scale
from ..modeling.zero_shot import ZeroShotHead


def wanted_risk(
    facts: Mapping[str, Any], risk: Mapping[str, Any] | None, unknown: Benchmark | None, keep_detector: bool
) -> dict[str, Any]:
    """
    Check for which error the threshold for "unknown" is to be chosen.

    Args:
        facts (`Mapping[str, Any]`): The `robustft.json` of the folder.
        risk (`Mapping[str, Any]`, *optional*): What was asked for: options of [`OpenSetDetector.fit`]; those that are `None` were not given.
        unknown ([`Benchmark`], *optional*): Images of none of the classes.
        keep_detector (`bool`): Whether the folder keeps its detector.

    Returns:
        `dict[str, Any]`: What was given; empty where the detector is fitted as it was.

    Raises:
        ValueError: If options contradict each other, would be ignored, or need unknown images.
    """
    # 0 is a number that was given, and refused below, though it equals False.
    given = {name: value for name, value in (risk or {}).items() if value is not None and value is not False}
    stated = [name for name in given if name.startswith("max_")]
    former = (facts.get("detector") or {}).get("risk") or {}
    if unknown is not None and unknown.role != "open_set":
        raise ValueError(f"`--unknown {unknown.name}` has the role {unknown.role!r}; give images of none of the classes, with the role open_set.")
    check_stated_error(given, unknown is not None, keep_detector)
    if not 0 < given.get(RATE, 1) <= 1:
        raise ValueError(f"--{RATE} {given[RATE]} is the share of known images to accept; give one above 0, and 1 at most.")
    if unknown is not None and not stated and not former:
        raise ValueError("--unknown is for the choice of a threshold; give --max_false_acceptance or --max_false_refusal too, or leave it out.")
    if unknown is None and not given and keep_detector and former.get("controls") == "false_acceptance":
        raise ValueError(
            "The folder's detector keeps --max_false_acceptance, which is about unknown images; give some by --unknown, choose by "
            "--max_false_refusal or --true_positive_rate instead, or remove the detector by --remove_detector."
        )
    if stated:
        control = stated[0].removeprefix("max_")
        check_risk(control, given[stated[0]], given.get("confidence", 0.95), unknown is not None)
    return given


def check_unknown(
    unknown: Benchmark, class_names: Sequence[str], reports: Sequence[EvaluationReport], hashes: Sequence[Mapping[str, Any]], allowed: bool
) -> tuple[list[str], ImageHashes]:
    """
    Refuse unknown images that are of known classes, or measured too unless that is `allowed`.

    Args:
        unknown ([`Benchmark`]): Images of none of the classes.
        class_names (`Sequence[str]`): The known classes.
        reports (`Sequence[EvaluationReport]`): What the folder holds.
        hashes (`Sequence[Mapping[str, Any]]`): Of the images that were trained on, validated on and measured, as `image_hashes` of
            `robustft.json` has them, the sets of this call included.
        allowed (`bool`): Whether measured images may be chosen on.

    Returns:
        `tuple[list[str], ImageHashes]`: Notes on images that are the same as others, and by what these are recognised later.

    Raises:
        ValueError: If the set is measured, has known classes, or shares more than a few images with another set.
    """
    keys = {class_key(name) for name in class_names}
    shared = [name for name in unknown.class_names if class_key(name) in keys]
    if shared:
        raise ValueError(
            f"`--unknown {unknown.name}` is for images of none of the classes, and {len(shared)} of its classes ({quoted(shared, 3)}) are classes of "
            "the model; leave these out."
        )
    sketches = [Sketch.from_dict(entry) for entry in hashes]
    named = {name for report in reports for name in report.open_set or {}} | {item.name for item in sketches if item.role == "open_set"}
    if unknown.name in named and not allowed:
        raise ValueError(
            f"`--unknown {unknown.name}` is an open set that is measured, and a threshold chosen on it would make its numbers look better than "
            "they are; give other images of unknown classes, or confirm that you mean it with --allow_test_set."
        )
    images = hash_images(unknown, role="open_set")
    others = [item for item in sketches if (item.role, item.name) != ("open_set", unknown.name)]
    found = [(overlap, item.role) for overlap, item in ((compare(images, item), item) for item in others) if overlap.found]
    for overlap, role in found:
        if overlap.tolerable or (role == "open_set" and allowed):
            continue
        why = "which are measured" if role == "open_set" else "which are of known classes"
        more = ", or confirm that you mean it with --allow_test_set" if role == "open_set" else ""
        raise ValueError(f"`--unknown {unknown.name}`: {overlap}, {why}; give other images of unknown classes{more}.")
    return [f"{overlap}." for overlap, _ in found], images


def check_images_of_choice(risk: Mapping[str, Any], validation: int | None, unknown: int | None) -> None:
    """
    Refuse a stated error that so few images cannot show, before any is classified.

    Args:
        risk (`Mapping[str, Any]`): What [`wanted_risk`] returned.
        validation (`int`, *optional*), unknown (`int`, *optional*): The images of each set, where that is known.

    Raises:
        ValueError: By the name of the option.
    """
    for control, n in (("false_refusal", validation), ("false_acceptance", unknown)):
        if f"max_{control}" in risk and n is not None:
            check_enough(control, n, risk[f"max_{control}"], risk.get("confidence", 0.95))


def logits_of_unknown(
    model: nn.Module,
    unknown: Benchmark,
    validation: Benchmark,
    processor: Any,
    head: ZeroShotHead | None,
    bad_images: BadImages | None,
    options: Mapping[str, Any],
) -> Tensor:
    """
    Classify unknown images by the head of the known classes.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, before a temperature is folded.
        unknown ([`Benchmark`]): The images.
        validation ([`Benchmark`]): Whose classes and templates the head has.
        processor (`ProcessorMixin`): The model's.
        head ([`ZeroShotHead`], *optional*): A trained head.
        bad_images ([`~hf_robustft.data.bad_images.BadImages`], *optional*), options (`Mapping[str, Any]`): How images are read.

    Returns:
        `torch.Tensor` of shape `(m, classes)`: The logits.
    """
    judge = head or ZeroShotHead.from_model(model, processor, validation.class_names, validation.templates)
    bad = None if bad_images is None else bad_images.of(f"data set {unknown.name!r}")
    return collect_logits(model, unknown, processor, head=judge, bad_images=bad, **options)[0]


def refitted_detector(
    model: nn.Module,
    temperature: TemperatureScaling,
    detector: OpenSetDetector | None,
    logits: Tensor,
    head: ZeroShotHead | None,
    unknown_logits: Tensor | None,
    risk: Mapping[str, Any],
    class_names: Sequence[str],
    names: tuple[str, str | None],
) -> OpenSetDetector | None:
    """
    Fold a temperature into a model, and fit its detector again: for a stated error, or as it was.

    Args:
        model ([`~transformers.PreTrainedModel`]), temperature ([`TemperatureScaling`]), head ([`ZeroShotHead`], *optional*): As for
            [`fold_temperature`]; changed in place.
        detector ([`OpenSetDetector`], *optional*): The former one.
        logits (`torch.Tensor` of shape `(n, classes)`), unknown_logits (`torch.Tensor` of shape `(m, classes)`, *optional*): Before folding.
        risk (`Mapping[str, Any]`): What [`wanted_risk`] returned.
        class_names (`Sequence[str]`): The known classes.
        names (`tuple[str, str | None]`): Of the validation set and of the set of unknown images.

    Returns:
        [`OpenSetDetector`] or `None`: `None` if there was none and no error is stated.
    """
    factor = temperature.temperature
    if not risk:
        if detector is not None and detector.risk is not None and names[1] is not None:
            # These may be other images than those of the former choice.
            detector = replace(detector, risk={**detector.risk, "unknown": names[1]})
        return fold_temperature(model, temperature, detector, logits, head, unknown_logits)
    fold_temperature(model, temperature, None, None, head)
    return OpenSetDetector.fit(
        logits / factor,
        class_names=class_names,
        logit_scale=logit_scale(model),
        score=DEFAULT_SCORE if detector is None else detector.score,
        temperature=temperature,
        fitted_on=names[0],
        unknown_logits=None if unknown_logits is None else unknown_logits / factor,
        chosen_on=names[1],
        **risk,
    )
