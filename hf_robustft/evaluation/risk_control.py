# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
A threshold for a stated error: how many unknown images are accepted, or how many known ones refused, with confidence.

Thresholds are tested in a fixed order, from the safest on, each by the exact binomial upper bound (Clopper and Pearson) of its
error, and the last one that passes before the first that fails is chosen. As the error can only grow along the order, every test is
at the whole level: fixed-sequence testing, the special case of Learn then Test (Angelopoulos et al. 2021, arXiv:2110.01052) that
needs no correction for the choice. Here the tested errors grow by one image at a time, so that it ends at a count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from .detection import as_floats
from .intervals import share_interval, upper_bound
from .report_schema import COUNT, MAPPING, MISSING, NUMBER, SHARE, TEXT, Kind, need, number, optional

#: What is held to a stated share.
CONTROLS = ("false_acceptance", "false_refusal")


def same(value: float) -> float:
    """Return `value`."""
    return value


@dataclass(frozen=True)
class ThresholdChoice:
    """
    A threshold and what is known of its errors.

    Attributes:
        threshold (`float`): Images that score at least this are accepted.
        controls (`str`): `"false_acceptance"` or `"false_refusal"`, the error that is held to `max_error`.
        max_error (`float`): The share that was stated.
        confidence (`float`): The probability, over the images of the choice, with which the error is at most `max_error`.
        bound (`float`): The upper confidence bound of that error: of as many wrong images as the choice allows, since fewer of them,
            where scores are equal, are part of what chance has chosen.
        false_refusal (`dict[str, float]`): `share` of the known images that are refused, its two-sided interval `low` and `high`
            at the confidence, and their number `n`. The interval is of one threshold; the bound also holds after the choice.
        false_acceptance (`dict[str, float]`, *optional*): The same of unknown images that are accepted; `None` without any.
    """

    threshold: float
    controls: str
    max_error: float
    confidence: float
    bound: float
    false_refusal: dict[str, float]
    false_acceptance: dict[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON values."""
        return asdict(self)


def allowed_errors(n: int, max_error: float, confidence: float = 0.95) -> int:
    """
    Count how many wrong decisions among `n` still show that their share is at most `max_error`.

    Args:
        n (`int`): Images.
        max_error (`float`): The share.
        confidence (`float`, *optional*, defaults to 0.95): Of the upper bound.

    Returns:
        `int`: The largest count whose upper bound is at most `max_error`; -1 if even none among `n` shows too little.
    """
    if n == 0:
        return -1
    counts = np.arange(n)
    return int((betaincinv(counts + 1, n - counts, confidence) <= max_error).sum()) - 1


def least_shown(max_error: float, confidence: float = 0.95) -> int:
    """Return how many images without any error show, at a `confidence`, that its share is at most `max_error`: 59 for 5 % at 95 %."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-max_error) - 1e-9)


def choose_threshold(
    known_scores: Tensor | Sequence[float],
    unknown_scores: Tensor | Sequence[float] | None = None,
    *,
    max_error: float,
    confidence: float = 0.95,
    control: str | None = None,
    lowest: Callable[[float], float] = same,
    highest: Callable[[float], float] = same,
) -> ThresholdChoice:
    """
    Choose the threshold on a score for a stated error.

    With unknown images: the lowest threshold at which, with the confidence, at most a share `max_error` of unknown images is accepted.
    Without: the highest at which at most such a share of known images is refused; nothing is said then of unknown ones. Either holds for
    images like those given, none of which may be measured on afterwards.

    Args:
        known_scores (`torch.Tensor` or list of shape `(n,)`): Scores of images of known classes, higher for known ones.
        unknown_scores (`torch.Tensor` or list of shape `(m,)`, *optional*): Of images of none of the classes.
        max_error (`float`): The share, in (0, 1).
        confidence (`float`, *optional*, defaults to 0.95): In (0, 1).
        control (`str`, *optional*): `"false_acceptance"` or `"false_refusal"`; by default the former with unknown images. With the latter they are
            only measured.
        lowest, highest (`Callable`, *optional*): Map a score to the least and the most that another rounding may make of it; by default
            itself.

    Returns:
        [`ThresholdChoice`]: The threshold and its errors.

    Raises:
        ValueError: If a number is out of range, a score is not finite, or there are too few images to show such an error.
    """
    known = as_floats(known_scores, "scores of known images", "(images,)").sort().values
    unknown = None if unknown_scores is None else as_floats(unknown_scores, "scores of unknown images", "(images,)").sort().values
    control = control or ("false_refusal" if unknown is None else "false_acceptance")
    check_risk(control, max_error, confidence, unknown is not None)
    judged = known if control == "false_refusal" or unknown is None else unknown
    check_enough(control, len(judged), max_error, confidence)
    count = allowed_errors(len(judged), max_error, confidence)
    if control == "false_refusal":
        threshold = lowest(judged[count].item())
    else:
        # Just above the first unknown image that is one too many.
        threshold = math.nextafter(highest(judged[len(judged) - 1 - count].item()), math.inf)
    return ThresholdChoice(
        threshold=threshold,
        controls=control,
        max_error=float(max_error),
        confidence=float(confidence),
        bound=upper_bound(count, len(judged), confidence),
        false_refusal=measured_share(int((known < threshold).sum()), len(known), confidence),
        false_acceptance=None if unknown is None else measured_share(int((unknown >= threshold).sum()), len(unknown), confidence),
    )


def check_risk(control: str, max_error: float, confidence: float, has_unknown: bool) -> None:
    """
    Refuse an error that cannot be stated.

    Args:
        control (`str`): One of `CONTROLS`.
        max_error (`float`): The share.
        confidence (`float`): Of its bound.
        has_unknown (`bool`): Whether there are unknown images.

    Raises:
        ValueError: If the error is unknown, a number lies outside (0, 1), or unknown images are needed.
    """
    if control not in CONTROLS:
        raise ValueError(f"control {control!r} is unknown; choose one of {', '.join(CONTROLS)}.")
    for name, value in ((f"max_{control}", max_error), ("confidence", confidence)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
            raise ValueError(f"{name} is {value!r}, but must be a share between 0 and 1, such as {0.95 if name == 'confidence' else 0.05}.")
    if control == "false_acceptance" and not has_unknown:
        raise ValueError(
            "max_false_acceptance is the share of unknown images that are accepted, and there are none; give some, or state max_false_refusal."
        )


def check_enough(control: str, n: int, max_error: float, confidence: float = 0.95) -> None:
    """
    Refuse an error that so few images cannot show.

    Args:
        control (`str`): One of `CONTROLS`.
        n (`int`): The images on which the threshold would be chosen.
        max_error (`float`), confidence (`float`, *optional*, defaults to 0.95): As for [`choose_threshold`].

    Raises:
        ValueError: If even no error among them shows too little.
    """
    if allowed_errors(n, max_error, confidence) < 0:
        raise ValueError(
            f"max_{control} {max_error}: {n} images cannot show that at a confidence of {confidence}, even without any error among "
            f"them; give at least {least_shown(max_error, confidence)}, or state a larger error."
        )


def measured_share(count: int, n: int, confidence: float) -> dict[str, float]:
    """Return `count` of `n` as `share`, with the ends `low` and `high` of its interval at a `confidence`, and `n`."""
    low, high = share_interval(count, n, confidence)
    return {"share": count / n, "low": low, "high": high, "n": n}


def choose_thresholds(
    known: tuple[Tensor, Tensor],
    unknown: tuple[Tensor, Tensor] | None,
    class_names: Sequence[str],
    stated: Mapping[str, float],
    *,
    confidence: float = 0.95,
    per_class: bool = False,
    lowest: Callable[[float], float] = same,
    highest: Callable[[float], float] = same,
) -> tuple[float, dict[str, float] | None, Tensor, dict[str, Any]]:
    """
    Choose a common threshold, and one for each predicted class that has enough images.

    The common one keeps the error over all images. A threshold of its own keeps it over the images that are given this class, each by
    itself; a class without one has the common threshold, and nothing is stated for it by itself.

    Args:
        known (`tuple`): Scores `(n,)` and indices `(n,)` of the most probable class of images of known classes.
        unknown (`tuple`, *optional*): The same of images of none of the classes.
        class_names (`Sequence[str]`): The classes.
        stated (`Mapping[str, float]`): One of `CONTROLS` and its `max_error`.
        confidence (`float`, *optional*, defaults to 0.95): As for [`choose_threshold`].
        per_class (`bool`, *optional*, defaults to `False`): Whether classes get thresholds of their own.
        lowest, highest (`Callable`, *optional*): As for [`choose_threshold`].

    Returns:
        `tuple`: The common threshold, the others by class name (`None` unless `per_class`), which known images are accepted, and as
        JSON values what was chosen: the attributes of [`ThresholdChoice`] but for the threshold, with both errors by all thresholds
        together, and with `per_class` `bounds`, the upper bound of the error of each class with its own.

    Raises:
        ValueError: If not one error is stated, or as [`choose_threshold`].
    """
    if len(stated) != 1:
        raise ValueError(f"One error can be kept, and {' and '.join(f'max_{name}' for name in stated) or 'none'} are stated; give one of max_false_acceptance and max_false_refusal.")
    ((control, max_error),) = stated.items()
    options = {"max_error": max_error, "confidence": confidence, "control": control, "lowest": lowest, "highest": highest}
    common = choose_threshold(known[0], None if unknown is None else unknown[0], **options)
    limits, own, bounds = torch.full((len(class_names),), common.threshold, dtype=torch.float64), {}, {}
    judged = known if control == "false_refusal" or unknown is None else unknown
    for index, name in enumerate(class_names) if per_class else ():
        if allowed_errors(int((judged[1] == index).sum()), max_error, confidence) < 0:
            continue
        theirs = judged[0][judged[1] == index]
        # Of the judged images alone: the others do not take part in the choice.
        both = (theirs, None) if control == "false_refusal" else (theirs[:1], theirs)
        found = choose_threshold(*both, **options)
        limits[index], own[name], bounds[name] = found.threshold, found.threshold, found.bound
    accepted = known[0] >= limits[known[1]]
    risk = {name: value for name, value in common.to_dict().items() if name != "threshold"}
    if per_class:
        risk["false_refusal"] = measured_share(int((~accepted).sum()), len(accepted), confidence)
        if unknown is not None:
            passed = unknown[0] >= limits[unknown[1]]
            risk["false_acceptance"] = measured_share(int(passed.sum()), len(passed), confidence)
        risk["bounds"] = bounds
    return common.threshold, own if per_class else None, accepted, risk


def check_stored_risk(risk: Any, thresholds: Any, class_names: Sequence[str]) -> None:
    """
    Check what `robustft.json` says of a stated error, and of thresholds of single classes.

    Args:
        risk (`Mapping[str, Any]`, *optional*), thresholds (`Mapping[str, float]`, *optional*): As [`choose_thresholds`] returns them.
        class_names (`Sequence[str]`): The classes that there are.

    Raises:
        ValueError: If a value is missing, unknown or cannot be what it is called.
    """
    what, again = "risk of the detector", "fit the detector again"
    numbers = ("finite numbers by class name", lambda value: all(name in class_names and NUMBER[1](item) for name, item in value.items()))
    need(thresholds, "thresholds of the detector", optional(numbers), again)
    need(risk, what, optional(MAPPING), again)
    if risk is None:
        return
    control = (f"one of {', '.join(CONTROLS)}", lambda value: value in CONTROLS)
    share = ("share, low and high from 0 to 1, and n", lambda value: set(value) == {"share", "low", "high", "n"} and all(SHARE[1](value[key]) for key in ("share", "low", "high")) and COUNT[1](value["n"]))
    kinds = {"controls": control, **dict.fromkeys(("max_error", "confidence"), _INSIDE), "bound": SHARE, "false_refusal": share}
    kinds |= {"false_acceptance": optional(share)}
    kinds |= {"bounds": ("shares by class name", lambda value: all(SHARE[1](item) for item in value.values())), "unknown": TEXT}
    unknown = sorted(set(map(str, risk)) - set(kinds))
    if unknown:
        raise ValueError(f"{what} has an unknown entry {unknown[0][:60]!r}; {again}.")
    for name, kind in kinds.items():
        if name in risk or name not in ("bounds", "unknown"):
            need(risk.get(name, MISSING), f"{name} of the {what}", kind, again)


_INSIDE: Kind = ("a number between 0 and 1", lambda value: 0 < number(value) < 1)
