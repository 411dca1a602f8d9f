# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""A threshold on an open-set score that is fitted once, saved with the checkpoint, and applied to images."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data.prompts import check_class_names
from ..modeling.features import logit_scale as model_logit_scale
from ..modeling.metadata import METADATA_FILE, load_robustft_json, update_robustft_json
from ..modeling.zero_shot import ZeroShotHead
from .detection import RECALL, as_floats, threshold_at_recall
from .open_set import DEFAULT_SCORE, SCORES, score
from .risk_control import check_stored_risk, choose_thresholds
from .stored_part import check_classes_of, class_difference, load_part
from .temperature import TemperatureScaling

#: The scores that a detector can be made of; `knn` would need its bank of features beside the checkpoint.
DETECTOR_SCORES = tuple(name for name, entry in SCORES.items() if entry.lowest is not None)
#: How far, relatively, a logit scale may be from the fit's. CLIP's in bfloat16 is a percent off, and its energies too.
SCALE_TOLERANCE = 1e-3
#: How far a cosine may be off where sums are rounded in another order: other processors, batches, numbers of threads.
#: A float32 product of 512 to 1024 terms is off by some 1e-6 in all, and the encoder's own noise comes on top.
COSINE_ROUNDING = 1e-5


@dataclass(frozen=True)
class OpenSetPrediction:
    """
    What a detector says about one image.

    Attributes:
        label (`str`): The most probable of the known classes, also where `is_known` is `False`.
        index (`int`): Its position in the class names.
        probability (`float`): Its probability among the known classes, at the fitted temperature.
        score (`float`): The detector's score, higher for known classes.
        is_known (`bool`): Whether the score reaches the threshold.
    """

    label: str
    index: int
    probability: float
    score: float
    is_known: bool


@dataclass(frozen=True)
class OpenSetDetector:
    """
    Tells images of known classes from others: known is what scores at least the threshold.

    Made by `fit` or `from_pretrained`. The score is of the model's own logits; the temperature acts on probabilities.

    Attributes:
        score (`str`): One of `DETECTOR_SCORES`.
        threshold (`float`): The lowest score of an image that passes for known. `fit` sets it below the score that
            FPR95 would take by what another rounding may move that score (a cosine by 1e-5), so that the share of the
            fit is still accepted on another processor or in other batches.
        true_positive_rate (`float`): The share of known images that the fit was asked to accept, in (0, 1].
        achieved_true_positive_rate (`float`): The share of the images of the fit that it accepts; at least the former.
        class_names (`tuple[str, ...]`): The known classes in logit order.
        logit_scale (`float`): The model's exponentiated logit scale at the fit; the threshold holds for no other.
        n (`int`): Images of the fit.
        temperature ([`TemperatureScaling`], *optional*): For the probabilities; `None` if none was given.
        fitted_on (`str`, *optional*): Name of the validation set.
        thresholds (`dict[str, float]`, *optional*): Thresholds of their own for images whose most probable class is one of these.
        risk (`dict`, *optional*): The error for which the thresholds were chosen, see [`~hf_robustft.evaluation.risk_control.choose_thresholds`].

    Raises:
        ValueError: If the score is unknown or a number is out of range.
    """

    score: str
    threshold: float
    true_positive_rate: float
    achieved_true_positive_rate: float
    class_names: tuple[str, ...]
    logit_scale: float
    n: int
    temperature: TemperatureScaling | None = None
    fitted_on: str | None = None
    thresholds: dict[str, float] | None = None
    risk: dict[str, Any] | None = None

    def __post_init__(self):
        _check_score(self.score)
        object.__setattr__(self, "class_names", check_class_names(self.class_names))
        for name, fits, range_ in (
            ("threshold", math.isfinite, "must be finite"),
            ("true_positive_rate", lambda value: 0 < value <= 1, "must lie in (0, 1]"),
            ("achieved_true_positive_rate", lambda value: 0 < value <= 1, "must lie in (0, 1]"),
            ("logit_scale", lambda value: 0 < value < math.inf, "must be positive and finite"),
            ("n", lambda value: 1 <= value < math.inf and value == int(value), "must be a whole number of images"),
        ):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not fits(value):
                raise ValueError(f"{name} of the detector is {value!r}, and {range_}; fit the detector again.")
        check_stored_risk(self.risk, self.thresholds, self.class_names)

    @classmethod
    def fit(
        cls,
        logits: Tensor,
        *,
        class_names: Sequence[str],
        logit_scale: float | Tensor,
        score: str = DEFAULT_SCORE,
        true_positive_rate: float = RECALL,
        temperature: float | TemperatureScaling | None = None,
        fitted_on: str | None = None,
        unknown_logits: Tensor | None = None,
        max_false_acceptance: float | None = None,
        max_false_refusal: float | None = None,
        confidence: float = 0.95,
        per_class_thresholds: bool = False,
        chosen_on: str | None = None,
    ) -> OpenSetDetector:
        """
        Set the highest threshold that accepts the asked share of in-distribution images, however they are rounded.

        Args:
            logits (`torch.Tensor` of shape `(n, classes)`): Logits of in-distribution validation images, all of them and not
                only the correctly classified ones, at the model's learned scale. The threshold's true-positive rate
                on new images scatters by about sqrt(t (1 - t) / n).
            class_names (`Sequence[str]`): The classes in the order of the logits.
            logit_scale (`float` or scalar `torch.Tensor`): exp of the model's parameter.
            score (`str`, *optional*, defaults to `"energy"`): One of `DETECTOR_SCORES`; `"mcm"` only for logits of a
                zero-shot head, whose cosines are logits / logit scale.
            true_positive_rate (`float`, *optional*, defaults to 0.95): The share t to accept, in (0, 1].
            temperature (`float` or [`TemperatureScaling`], *optional*): For the probabilities of `predict`.
            fitted_on (`str`, *optional*): Name of the validation set, for reports and cards.
            unknown_logits (`torch.Tensor` of shape `(m, classes)`, *optional*): Logits of images of none of the classes, which are not measured on
                afterwards.
            max_false_acceptance (`float`, *optional*), max_false_refusal (`float`, *optional*): In place of `true_positive_rate` the share of
                unknown images that are accepted, or of known ones that are refused, which the threshold is to keep with
                confidence (see [`~hf_robustft.evaluation.risk_control.choose_threshold`]).
            confidence (`float`, *optional*, defaults to 0.95): Of that.
            per_class_thresholds (`bool`, *optional*, defaults to `False`): Whether predicted classes with enough images get thresholds of
                their own, each of which keeps the share by itself.
            chosen_on (`str`, *optional*): Name of the set of unknown images.

        Returns:
            [`OpenSetDetector`]: The detector.

        Raises:
            ValueError: If logits are empty, not finite, or not those of these classes, or an option is out of range.
        """
        _check_score(score)
        if isinstance(temperature, (int, float)):
            temperature = TemperatureScaling(temperature)
        class_names, scale = check_class_names(class_names), _number(logit_scale)
        if not 0 < scale < math.inf:
            raise ValueError(f"logit_scale is {scale}; give exp of the model's parameter, which is positive.")
        logits = _checked_logits(logits, class_names)
        scores = _scores(logits, score, scale)
        own, risk = None, None
        stated = {"false_acceptance": max_false_acceptance, "false_refusal": max_false_refusal}
        stated = {name: value for name, value in stated.items() if value is not None}
        if not stated:
            if unknown_logits is not None or per_class_thresholds:
                raise ValueError("unknown_logits and per_class_thresholds are for a stated error; give max_false_acceptance or max_false_refusal.")
            threshold = _lowest_rounded(threshold_at_recall(scores, true_positive_rate), score, scale)
            accepted = scores >= threshold
        else:
            unknown = None if unknown_logits is None else _checked_logits(unknown_logits, class_names)
            threshold, own, accepted, risk = choose_thresholds(
                (scores, logits.argmax(dim=1)),
                None if unknown is None else (_scores(unknown, score, scale), unknown.argmax(dim=1)),
                class_names,
                stated,
                confidence=confidence,
                per_class=per_class_thresholds,
                lowest=lambda value: _lowest_rounded(value, score, scale),
                highest=lambda value: SCORES[score].highest(value, _error(score, scale)),
            )
            risk |= {"unknown": chosen_on} if chosen_on is not None else {}
            if not accepted.any():
                raise ValueError(
                    f"max_{risk['controls']} {risk['max_error']}: no image of a known class reaches the threshold that this takes; the score "
                    f"{score!r} does not tell them apart. State a larger error, or choose another score."
                )
        share = accepted.double().mean().item()
        return cls(
            score=score,
            threshold=threshold,
            true_positive_rate=float(true_positive_rate) if risk is None else share,
            achieved_true_positive_rate=share,
            class_names=class_names,
            logit_scale=scale,
            n=len(scores),
            temperature=temperature,
            fitted_on=fitted_on,
            thresholds=own,
            risk=risk,
        )

    def predict(self, logits: Tensor) -> list[OpenSetPrediction]:
        """
        Judge images by their logits.

        Args:
            logits (`torch.Tensor` of shape `(n, classes)`): Logits of the model that the detector was fitted on (see
                `check`), at its learned scale.

        Returns:
            `list[OpenSetPrediction]`: One per image, in order.

        Raises:
            ValueError: If logits are empty, not finite, or of another number of classes.
        """
        logits = _checked_logits(logits, self.class_names)
        scores = _scores(logits, self.score, self.logit_scale)
        probabilities = (self.temperature or TemperatureScaling()).probabilities(logits)
        indices = logits.argmax(dim=1)
        chosen = probabilities.gather(1, indices[:, None])[:, 0]
        return [
            OpenSetPrediction(self.class_names[index], index, probability, value, value >= self.threshold_of(self.class_names[index]))
            for index, probability, value in zip(indices.tolist(), chosen.tolist(), scores.tolist(), strict=True)
        ]

    def threshold_of(self, name: str) -> float:
        """
        Return the threshold for images of one predicted class.

        Args:
            name (`str`): The most probable class.

        Returns:
            `float`: That class's own threshold if it has one, else the common one.
        """
        return (self.thresholds or {}).get(name, self.threshold)

    def fit_options(self) -> dict[str, Any]:
        """Return the options of `fit`, without data and names, by which this detector was made."""
        if self.risk is None:
            return {"score": self.score, "true_positive_rate": self.true_positive_rate}
        stated = {f"max_{self.risk['controls']}": self.risk["max_error"], "confidence": self.risk["confidence"]}
        return {"score": self.score, **stated, "per_class_thresholds": self.thresholds is not None, "chosen_on": self.risk.get("unknown")}

    def check(self, class_names: Sequence[str], logit_scale: float | Tensor) -> None:
        """
        Refuse a model that the threshold was not fitted for.

        Args:
            class_names (`Sequence[str]`): The classes of the head whose logits `predict` will see.
            logit_scale (`float` or scalar `torch.Tensor`): exp of the model's parameter.

        Raises:
            ValueError: If the classes are others or in another order, or the logit scale differs by more than 0.1 %.
        """
        given, scale = check_class_names(class_names), _number(logit_scale)
        if given != self.class_names:
            raise ValueError(
                f"The detector was fitted for other classes: {class_difference(self.class_names, given)}. Refit."
            )
        if not math.isclose(scale, self.logit_scale, rel_tol=SCALE_TOLERANCE):
            raise ValueError(
                f"The model's logit scale is {scale:.6g}, but the detector was fitted at {self.logit_scale:.6g} and its "
                "threshold holds for that alone. Refit it, or undo what moved the scale: a folded temperature, or weights "
                "loaded in half precision."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values, for the part `detector` of `robustft.json`; the temperature has its own part."""
        facts = {name: value for name, value in asdict(self).items() if name != "temperature" and value is not None}
        return {**facts, "class_names": list(self.class_names)}

    def save(self, directory: str | Path) -> Path:
        """
        Write the parts `detector` and, if there is one, `temperature` of the `robustft.json` of a checkpoint.

        Args:
            directory (`str` or `Path`): Folder of the checkpoint.

        Returns:
            `Path`: The file.

        Raises:
            OSError: If the folder has no `robustft.json`.
            ValueError: If the file belongs to a model with other classes, or holds a temperature that the detector was not
                given.
        """
        content = load_robustft_json(directory)
        self._check_file(content, directory)
        parts: dict[str, Any] = {"detector": self.to_dict()}
        if self.temperature is not None:
            parts["temperature"] = self.temperature.to_dict()
        elif "temperature" in content and TemperatureScaling.from_dict(content["temperature"]).temperature != 1:
            raise ValueError(
                f"{METADATA_FILE} in {directory} holds the temperature {content['temperature']['temperature']}, which "
                "this detector was not given; fit it with temperature=TemperatureScaling.from_dict(...) of that part."
            )
        return update_robustft_json(directory, **parts)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, token: str | bool | None = None
    ) -> OpenSetDetector:
        """
        Load the detector that `save` wrote into a checkpoint folder.

        Args:
            source (`str` or `Path`): The folder, or the checkpoint's id on the Hub.
            revision (`str`, *optional*), token (`str` or `bool`, *optional*): As for `load_dual_encoder`.

        Returns:
            [`OpenSetDetector`]: The detector.

        Raises:
            OSError, ValueError: If there is no `robustft.json`, no or a broken detector in it, or one for other classes.
        """
        how = "fit one on in-distribution validation logits with `OpenSetDetector.fit` and `save` it there"
        directory, content, temperature = load_part(source, "detector", how=how, revision=revision, token=token)
        try:
            detector = cls(**content["detector"], temperature=temperature)
        except TypeError as error:
            raise ValueError(
                f"The detector of {METADATA_FILE} in {directory} is incomplete or of another version ({error}); fit and "
                "save it again."
            ) from None
        detector._check_file(content, directory)
        return detector

    def _check_file(self, content: Mapping[str, Any], directory: str | Path) -> None:
        check_classes_of(content, directory, self.class_names, "The detector is", "Fit it")


def fold_temperature(
    model: nn.Module,
    temperature: TemperatureScaling,
    detector: OpenSetDetector | None = None,
    validation_logits: Tensor | None = None,
    head: ZeroShotHead | None = None,
    unknown_logits: Tensor | None = None,
) -> OpenSetDetector | None:
    """
    Put a temperature into a model's weights and move its detector along.

    Folding divides all logits by T, and every threshold changes its meaning. The checkpoint's folder is not touched: save
    the model, then the detector, or `update_robustft_json(directory, detector=None, temperature=temperature.to_dict())`.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, possibly wrapped; changed in place (see `TemperatureScaling.fold_into`).
        temperature ([`TemperatureScaling`]): Its T is 1 afterwards.
        detector ([`OpenSetDetector`], *optional*): The model's detector before folding.
        validation_logits (`torch.Tensor` of shape `(n, classes)`, *optional*): In-distribution validation logits of the
            model before folding, to refit the detector on. Without them it is dropped with a warning.
        head ([`ZeroShotHead`], *optional*): A head to fold the temperature into as well.
        unknown_logits (`torch.Tensor` of shape `(m, classes)`, *optional*): Of the images of none of the classes on which the detector was chosen; needed
            by one that keeps a share of false acceptance.

    Returns:
        [`OpenSetDetector`] or `None`: Refitted for the folded model with the same score, rate and classes.

    Raises:
        ValueError: If the detector belongs to another model, the logits do not fit it, or the model's precision cannot
            hold the temperature; nothing is changed then.
    """
    factor, before = temperature.temperature, _number(model_logit_scale(model))
    if detector is not None:
        detector.check(detector.class_names, before)
        if validation_logits is not None:
            validation_logits = _checked_logits(validation_logits, detector.class_names)
            _scores(validation_logits, detector.score, before)
            if unknown_logits is None and (detector.risk or {}).get("controls") == "false_acceptance":
                raise ValueError(
                    "The detector keeps a share of false acceptance of unknown images, and there are none to choose its threshold on again; give "
                    "them, or remove the detector."
                )
            # What cannot be chosen is refused before anything is changed.
            _refitted(detector, validation_logits, unknown_logits, before, temperature)
    temperature.fold_into(model, head)
    if detector is None:
        return None
    if validation_logits is None:
        warnings.warn(
            f"The temperature {factor:.6g} was folded into the model, which moves the scores, and there were no "
            "validation logits to refit the open-set detector on: it is dropped. Fit a new one.",
            stacklevel=2,
        )
        return None
    unknown = None if unknown_logits is None else unknown_logits / factor
    return _refitted(detector, validation_logits / factor, unknown, _number(model_logit_scale(model)), temperature)


def _refitted(
    detector: OpenSetDetector, logits: Tensor, unknown: Tensor | None, scale: float, temperature: TemperatureScaling
) -> OpenSetDetector:
    facts = {"class_names": detector.class_names, "logit_scale": scale, "temperature": temperature, "fitted_on": detector.fitted_on}
    # Without a stated error nothing is chosen on unknown images.
    facts |= {} if detector.risk is None else {"unknown_logits": unknown}
    return OpenSetDetector.fit(logits, **facts, **detector.fit_options())


def _number(value: float | Tensor) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _check_score(name: str) -> None:
    if name not in DETECTOR_SCORES:
        why = "would need its bank of features beside the checkpoint" if name in SCORES else "is not known"
        raise ValueError(f"The score {name!r} of a detector {why}; choose one of {', '.join(DETECTOR_SCORES)}.")


def _checked_logits(logits: Tensor, class_names: Sequence[str]) -> Tensor:
    logits = as_floats(logits, "logits", "(images, classes)")
    if logits.shape[1] != len(class_names):
        raise ValueError(
            f"The logits have {logits.shape[1]} columns, but the detector knows {len(class_names)} classes; "
            "give the logits of the head with these classes."
        )
    return logits


def _scores(logits: Tensor, name: str, scale: float) -> Tensor:
    return score(name, logits=logits, cosines=logits / scale if SCORES[name].needs == "cosines" else None)


def _lowest_rounded(value: float, name: str, scale: float) -> float:
    """The least that a score may become where each cosine is off by `COSINE_ROUNDING`."""
    return SCORES[name].lowest(value, _error(name, scale))


def _error(name: str, scale: float) -> float:
    return COSINE_ROUNDING * (1.0 if SCORES[name].needs == "cosines" else scale)
