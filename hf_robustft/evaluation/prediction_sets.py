# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Prediction sets that are fitted once, saved with the checkpoint, and hold the class of a new image with a stated share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.prompts import check_class_names
from ..modeling.metadata import METADATA_FILE, load_robustft_json, update_robustft_json
from .binning import PIECE_ELEMENTS, check_scores
from .conformal import (
    K_REG,
    LAM,
    aps_scores,
    check_coverage,
    conformal_quantile,
    image_draws,
    lac_scores,
    least_images,
    raps_scores,
)
from .detection import as_floats
from .detector import COSINE_ROUNDING, SCALE_TOLERANCE
from .open_set import lowest_probability
from .report_schema import COUNT, NOT_NEGATIVE, NUMBER, TEXT, Kind, need, optional
from .stored_part import check_classes_of, class_difference, load_part
from .temperature import TemperatureScaling

#: By name: least ambiguous sets, adaptive sets, and adaptive sets with a penalty for many classes.
METHODS = ("lac", "aps", "raps")
DEFAULT_METHOD, DEFAULT_COVERAGE = "raps", 0.95
_AGAIN = "fit the prediction sets again"


@dataclass(frozen=True)
class ConformalClassifier:
    """
    Gives each image a set of classes that holds its own with a stated share, by split conformal prediction.

    Made by `fit` or `from_pretrained`. The guarantee: of new images, whose labels are drawn with those of the fit, the sets of at least
    `coverage` hold the label, averaged over fits and images. It is one about such images alone (no shift keeps it), and about all
    of them together: single classes and hard images may be held less often. It asks for images on which nothing else was chosen. A
    temperature, an alpha or the best of several runs chosen on the same images takes something away: a temperature very
    little, the best of many runs more (`examples/guides/prediction_sets.md`).

    Attributes:
        method (`str`): `"lac"`, `"aps"` or `"raps"`, see [`~hf_robustft.evaluation.conformal.lac_scores`] and the functions beside it.
        coverage (`float`): The share, in (0, 1).
        quantile (`float`, *optional*): The highest score of a class in a set, raised by what another rounding (a cosine by
            1e-5) may add to a score; `None` where there were too few images, and then every set holds all classes.
        class_names (`tuple[str, ...]`): The classes in logit order.
        scale (`float`): The model's exponentiated logit scale, divided by the temperature. Both move together when a
            temperature is folded, and the sets stay the same.
        n (`int`): Images of the fit.
        randomized (`bool`): Whether `"aps"` and `"raps"` count a share of a class's own probability that the image itself draws (see
            [`~hf_robustft.evaluation.conformal.image_draws`]); if not, all of it, and sets are larger.
        allow_empty (`bool`): Whether a set may be empty. If not, the most probable class has the lowest score there is, 0, and is in each
            set. Of a model that is right more often than `coverage`, more sets than that hold the label then.
        seed (`int`): Of the draws.
        lam (`float`), k_reg (`int`): The penalty of `"raps"`.
        class_quantiles (`dict[str, float | None]`, *optional*): With class-conditional sets, the quantiles of the classes that have enough
            images of their own. The others have the common quantile, and no guarantee by themselves.
        min_per_class (`int`, *optional*): What was enough.
        temperature ([`TemperatureScaling`], *optional*): Of the probabilities; `None` if none was given.
        fitted_on (`str`, *optional*): Name of the validation set.

    Raises:
        ValueError: If the method is unknown or a value is of the wrong kind or out of range.
    """

    method: str
    coverage: float
    quantile: float | None
    class_names: tuple[str, ...]
    scale: float
    n: int
    randomized: bool = True
    allow_empty: bool = False
    seed: int = 0
    lam: float = LAM
    k_reg: int = K_REG
    class_quantiles: dict[str, float | None] | None = None
    min_per_class: int | None = None
    temperature: TemperatureScaling | None = None
    fitted_on: str | None = None

    def __post_init__(self):
        check_method(self.method)
        check_coverage(self.coverage)
        for name, kind in _KINDS.items():
            need(getattr(self, name), f"{name} of the prediction sets", kind, _AGAIN)
        object.__setattr__(self, "class_names", check_class_names(self.class_names))
        strange = set(self.class_quantiles or ()) - set(self.class_names)
        if strange:
            raise ValueError(f"class_quantiles of the prediction sets has {min(strange)!r}, which is none of the classes; {_AGAIN}.")

    @classmethod
    def fit(
        cls,
        logits: Tensor,
        labels: Tensor,
        *,
        class_names: Sequence[str],
        logit_scale: float | Tensor,
        method: str = DEFAULT_METHOD,
        coverage: float = DEFAULT_COVERAGE,
        temperature: float | TemperatureScaling | None = None,
        class_conditional: bool = False,
        min_per_class: int | None = None,
        randomized: bool = True,
        allow_empty: bool = False,
        seed: int = 0,
        lam: float = LAM,
        k_reg: int = K_REG,
        fitted_on: str | None = None,
    ) -> ConformalClassifier:
        """
        Set the quantile from the scores of the labels of validation images.

        Args:
            logits (`torch.Tensor` of shape `(n, classes)`): Logits of in-distribution images that were neither trained nor tested on,
                at the model's learned scale. Of probabilities give the logarithms.
            labels (`torch.Tensor` of shape `(n,)`): Integer class indices.
            class_names (`Sequence[str]`): The classes in the order of the logits.
            logit_scale (`float` or scalar `torch.Tensor`): exp of the model's parameter.
            method (`str`, *optional*, defaults to `"raps"`): One of `METHODS`.
            coverage (`float`, *optional*, defaults to 0.95): The share of images whose set is to hold their label, in (0, 1).
            temperature (`float` or [`TemperatureScaling`], *optional*): Of the probabilities.
            class_conditional (`bool`, *optional*, defaults to `False`): Give each class a quantile of its own, so that of the images of each
                such class the sets of at least `coverage` hold it.
            min_per_class (`int`, *optional*): Images that a class needs for that; by default the fewest that give a finite
                quantile, 19 for a coverage of 0.95.
            randomized (`bool`, *optional*, defaults to `True`), allow_empty (`bool`, *optional*, defaults to `False`), seed (`int`, *optional*,
                defaults to 0), lam (`float`, *optional*, defaults to 0.01), k_reg (`int`, *optional*, defaults to 5): As the attributes.
            fitted_on (`str`, *optional*): Name of the validation set, for reports and cards.

        Returns:
            [`ConformalClassifier`]: The sets.

        Raises:
            ValueError: If logits are empty, not finite, or not those of these classes, a label is not a class, or an option is
                out of range.
        """
        check_method(method)
        check_coverage(coverage)
        class_names = check_class_names(class_names)
        if isinstance(temperature, (int, float)):
            temperature = TemperatureScaling(temperature)
        if min_per_class is not None and not class_conditional:
            raise ValueError(f"min_per_class {min_per_class} is for class_conditional=True; give both, or neither.")
        enough = (least_images(coverage) if min_per_class is None else min_per_class) if class_conditional else None
        if enough is not None and enough < least_images(coverage):
            raise ValueError(
                f"min_per_class {enough}: below {least_images(coverage)} images the quantile at a coverage of {coverage} is infinite; "
                "give at least as many."
            )
        logits, labels = check_scores(logits, labels)
        _check_columns(logits, class_names)
        # The functions that make scores are those that will judge new images.
        empty = cls(
            method=method,
            coverage=float(coverage),
            quantile=None,
            class_names=class_names,
            scale=_scale(logit_scale, temperature),
            n=len(labels),
            randomized=randomized,
            allow_empty=allow_empty,
            seed=seed,
            lam=lam,
            k_reg=k_reg,
            temperature=temperature,
            fitted_on=fitted_on,
        )
        rows = zip(empty._pieces(logits), labels.split(empty._rows), strict=True)
        scores = torch.cat([found.gather(1, theirs[:, None])[:, 0] for found, theirs in rows])
        own = None
        if enough is not None:
            counts = torch.bincount(labels, minlength=len(class_names)).tolist()
            large = [index for index, count in enumerate(counts) if count >= enough]
            own = {class_names[index]: empty._quantile(scores[labels == index]) for index in large}
        values = {item.name: getattr(empty, item.name) for item in fields(cls)}
        values |= {"quantile": empty._quantile(scores), "class_quantiles": own, "min_per_class": enough}
        return cls(**values)

    @property
    def common(self) -> tuple[str, ...]:
        """Of class-conditional sets, the classes with too few images for a quantile of their own; else empty."""
        own = self.class_quantiles
        return () if own is None else tuple(name for name in self.class_names if name not in own)

    def holds(self, logits: Tensor) -> Tensor:
        """
        Say which classes each image's set holds.

        Args:
            logits (`torch.Tensor` of shape `(n, classes)`): Logits of the model of the fit (see `check`), at its learned scale.

        Returns:
            `torch.Tensor` of shape `(n, classes)`: Bool.

        Raises:
            ValueError: If logits are empty, not finite, or of another number of classes.
        """
        logits = as_floats(logits, "logits", "(images, classes)")
        _check_columns(logits, self.class_names)
        highest = torch.tensor([self._highest(name) for name in self.class_names], dtype=torch.float64)
        return torch.cat([scores <= highest for scores in self._pieces(logits)])

    def predict_sets(self, logits: Tensor) -> list[tuple[str, ...]]:
        """
        Give each image its set.

        Args:
            logits (`torch.Tensor` of shape `(n, classes)`): As for `holds`.

        Returns:
            `list[tuple[str, ...]]`: Class names, the most probable first; one per image, in order.

        Raises:
            ValueError: As `holds`.
        """
        order = torch.as_tensor(logits).detach().cpu().double().argsort(dim=1, descending=True, stable=True)
        rows = zip(self.holds(logits), order.tolist(), strict=True)
        return [tuple(self.class_names[index] for index in ranked if row[index]) for row, ranked in rows]

    def check(
        self,
        class_names: Sequence[str],
        logit_scale: float | Tensor,
        temperature: float | TemperatureScaling | None = None,
    ) -> None:
        """
        Refuse a model that the sets were not fitted for.

        Args:
            class_names (`Sequence[str]`): The classes of the head whose logits will be given.
            logit_scale (`float` or scalar `torch.Tensor`): exp of the model's parameter.
            temperature (`float` or [`TemperatureScaling`], *optional*): What divides its logits; by default that of the sets.

        Raises:
            ValueError: If the classes are others or in another order, or logit scale / temperature differs by more than 0.1 %.
        """
        given = check_class_names(class_names)
        if given != self.class_names:
            raise ValueError(f"The prediction sets are for other classes: {class_difference(self.class_names, given)}. Fit them again.")
        scale = _scale(logit_scale, self.temperature if temperature is None else temperature)
        if not math.isclose(scale, self.scale, rel_tol=SCALE_TOLERANCE):
            raise ValueError(
                f"The model's logit scale divided by its temperature is {scale:.6g}, but the prediction sets were fitted at "
                f"{self.scale:.6g} and hold for that alone. Fit them again, or undo what moved it: another temperature, or "
                "weights loaded in half precision."
            )

    def summary(self) -> dict[str, Any]:
        """Return what a report says beside what it measured: method, coverage, images of the fit, classes with a quantile of their own."""
        own = None if self.class_quantiles is None else len(self.class_quantiles)
        facts = {"method": self.method, "coverage": self.coverage, "n": self.n, "fitted_on": self.fitted_on}
        return {**facts, "unbounded": self.quantile is None, "own_quantiles": own}

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values, for the part `prediction_sets` of `robustft.json`; the temperature has its own part."""
        unused = {"temperature"} | ({"lam", "k_reg"} if self.method != "raps" else set())
        unused |= {"seed", "randomized"} if self.method == "lac" else set()
        unused |= set() if self.class_quantiles is not None else {"class_quantiles", "min_per_class"}
        unused |= set() if self.fitted_on is not None else {"fitted_on"}
        facts = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in unused}
        return {**facts, "class_names": list(self.class_names)}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any], temperature: TemperatureScaling | None = None) -> ConformalClassifier:
        """
        Restore what `to_dict` returned.

        Args:
            facts (`Mapping[str, Any]`): The part `prediction_sets` of `robustft.json`.
            temperature ([`TemperatureScaling`], *optional*): Of the part `temperature`.

        Returns:
            [`ConformalClassifier`]: The sets.

        Raises:
            ValueError: If a fact is missing, unknown, of the wrong kind or out of range.
        """
        try:
            return cls(**{str(name): value for name, value in facts.items() if name != "temperature"}, temperature=temperature)
        except TypeError as error:
            raise ValueError(f"The prediction sets are incomplete or of another version ({error}); {_AGAIN}.") from None

    def save(self, directory: str | Path) -> Path:
        """
        Write the parts `prediction_sets` and, if there is one, `temperature` of the `robustft.json` of a checkpoint.

        Args:
            directory (`str` or `Path`): Folder of the checkpoint.

        Returns:
            `Path`: The file.

        Raises:
            OSError: If the folder has no `robustft.json`.
            ValueError: If the file belongs to a model with other classes, or holds another temperature than the sets were fitted
                with.
        """
        content = load_robustft_json(directory)
        self._check_file(content, directory)
        parts: dict[str, Any] = {"prediction_sets": self.to_dict()}
        stored = TemperatureScaling.from_dict(content.get("temperature", {"temperature": 1.0})).temperature
        own = 1.0 if self.temperature is None else self.temperature.temperature
        if "temperature" in content and not math.isclose(stored, own, rel_tol=SCALE_TOLERANCE):
            raise ValueError(
                f"{METADATA_FILE} in {directory} holds the temperature {stored:.6g}, and the prediction sets were fitted with {own:.6g}; fit "
                "them with temperature=TemperatureScaling.from_dict(...) of that part."
            )
        if "temperature" not in content and self.temperature is not None:
            parts["temperature"] = self.temperature.to_dict()
        return update_robustft_json(directory, **parts)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, token: str | bool | None = None
    ) -> ConformalClassifier:
        """
        Load the sets that `save` wrote into a checkpoint folder.

        Args:
            source (`str` or `Path`): The folder, or the checkpoint's id on the Hub.
            revision (`str`, *optional*), token (`str` or `bool`, *optional*): As for `load_dual_encoder`.

        Returns:
            [`ConformalClassifier`]: The sets.

        Raises:
            OSError, ValueError: If there is no `robustft.json`, no or broken prediction sets in it, or some for other classes.
        """
        how = (
            "fit them on in-distribution validation images with `hf-robustft calibrate --prediction_sets raps`, or with "
            "`ConformalClassifier.fit` and `save`"
        )
        directory, content, temperature = load_part(source, "prediction_sets", how=how, revision=revision, token=token)
        try:
            sets = cls.from_dict(content["prediction_sets"], temperature)
        except ValueError as error:
            raise ValueError(f"{METADATA_FILE} in {directory}: {error}") from None
        sets._check_file(content, directory)
        return sets

    def _check_file(self, content: Mapping[str, Any], directory: str | Path) -> None:
        check_classes_of(content, directory, self.class_names, "The prediction sets are", "Fit them")

    @property
    def _rows(self) -> int:
        return max(1, PIECE_ELEMENTS // len(self.class_names))

    def _pieces(self, logits: Tensor) -> Iterator[Tensor]:
        """Yield the scores of all classes, some images at a time."""
        divisor = 1.0 if self.temperature is None else self.temperature.temperature
        for some in logits.split(self._rows):
            logarithms = (some / divisor).log_softmax(dim=1)
            scores = self._scores(logarithms.exp(), logarithms)
            if not self.allow_empty:
                # Part of the score, so that the quantile knows of it: put in afterwards, it would make sets larger than they need be.
                scores[torch.arange(len(scores)), logarithms.argmax(dim=1)] = 0.0
            yield scores

    def _scores(self, probabilities: Tensor, logarithms: Tensor) -> Tensor:
        if self.method == "lac":
            return lac_scores(probabilities)
        draws = image_draws(logarithms, self.seed) if self.randomized else None
        if self.method == "aps":
            return aps_scores(probabilities, draws)
        return raps_scores(probabilities, draws, lam=self.lam, k_reg=self.k_reg)

    def _quantile(self, scores: Tensor) -> float | None:
        """Return the quantile of scores, raised by what another rounding may add to one; `None` if it is infinite."""
        found, error = conformal_quantile(scores, self.coverage), COSINE_ROUNDING * self.scale
        if found == math.inf:
            return None
        if self.method == "lac":
            return 1 - lowest_probability(1 - found, error)
        # A sum of probabilities moves by at most half of what a logit does. Draws move too, up as often as down.
        return found + error / 2

    def _highest(self, name: str) -> float:
        value = self.quantile if name not in (self.class_quantiles or {}) else (self.class_quantiles or {})[name]
        return math.inf if value is None else value


def check_method(method: str, what: str = "method") -> None:
    """Refuse a `method`, which messages call `what`, that is none of `METHODS`. Raises ValueError."""
    if method not in METHODS:
        raise ValueError(f"{what} {method!r} of prediction sets is unknown; choose one of {', '.join(METHODS)}.")


def _scale(logit_scale: float | Tensor, temperature: float | TemperatureScaling | None) -> float:
    scale = float(logit_scale.detach() if isinstance(logit_scale, Tensor) else logit_scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"logit_scale is {scale}; give exp of the model's parameter, which is positive.")
    divisor = temperature.temperature if isinstance(temperature, TemperatureScaling) else temperature
    return scale if divisor is None else scale / divisor


def _check_columns(logits: Tensor, class_names: Sequence[str]) -> None:
    if logits.shape[1] != len(class_names):
        raise ValueError(
            f"The logits have {logits.shape[1]} columns, but the prediction sets know {len(class_names)} classes; give the logits of the "
            "head with these classes."
        )


def _quantiles(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) and _QUANTILE[1](item) for key, item in value.items())


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


_BOOL: Kind = ("true or false", lambda value: isinstance(value, bool))
_QUANTILE: Kind = optional(NUMBER)
_KINDS: dict[str, Kind] = {
    "quantile": _QUANTILE,
    "scale": ("a number above 0", lambda value: NUMBER[1](value) and value > 0),
    **dict.fromkeys(("randomized", "allow_empty"), _BOOL),
    **{"n": COUNT, "min_per_class": optional(COUNT), "lam": NOT_NEGATIVE},
    **dict.fromkeys(("seed", "k_reg"), ("a whole number of at least 0", _whole(0))),
    "class_quantiles": optional(("finite numbers or null by class name", _quantiles)),
    "fitted_on": optional(TEXT),
}
