# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Temperature scaling: one number, fitted on in-distribution validation images, that divides all logits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..modeling.dual_encoder import DualEncoder
from ..modeling.zero_shot import ZeroShotHead
from .binning import PIECE_ELEMENTS, check_scores

_APPLIED = ("temperature", "folded", "folded_bias")


class TemperatureScaling:
    """
    Calibrated probabilities `softmax(logits / T)` (Guo et al. 2017, arXiv:1706.04599).

    T > 1 makes a model less confident, T < 1 more confident; the predicted classes stay the same.

    Args:
        temperature (`float`, *optional*, defaults to 1.0): T, by which logits are divided.

    Attributes:
        temperature (`float`): T, still to be applied to the model's logits.
        folded (`float`): The temperature that `fold_into` has put into the model's weights; 1 if none.
        folded_bias (`float`): What is then added to the logits by the model's weights, on top of their own logit bias; 0 but
            for [`~evaluation.platt_scaling.PlattScaling`].
        n (`int`, *optional*): Validation images of the fit.
        nll_before, nll_after (`float`, *optional*): Their mean negative log-likelihood at T = 1 and at the fitted T.
        record (`dict[str, Any]`): Further JSON values that are stored too, such as the name of the set of the fit.

    Raises:
        ValueError: If the temperature is not a positive number.
    """

    def __init__(self, temperature: float = 1.0):
        self.temperature = _positive(temperature, "temperature")
        self.folded = 1.0
        self.folded_bias = 0.0
        self.n: int | None = None
        self.nll_before: float | None = None
        self.nll_after: float | None = None
        self.record: dict[str, Any] = {}

    def __repr__(self) -> str:
        fitted = "" if self.n is None else f", n={self.n}, nll {self.nll_before:.4f} -> {self.nll_after:.4f}"
        folded = "" if self.folded == 1 else f", folded={self.folded:.6g}"
        return f"{type(self).__name__}({self.temperature:.6g}{folded}{fitted})"

    def fit(self, logits: Tensor, labels: Tensor) -> TemperatureScaling:
        """
        Set the temperature to the one that minimises the negative log-likelihood.

        The likelihood is convex in 1/T, so the root of its derivative, bracketed and found to the last digits in
        float64, is the only minimum. L-BFGS, the usual choice, finds the same number if it is run in 1/T, in float64 and
        with tolerances far below its defaults; the bracket needs none of these settings, cannot stop early, and reports
        when there is no minimum at all, where a descent would run off to 0 or infinity and return what it had.

        Args:
            logits (`torch.Tensor` of shape `(n, classes)`): Logits of in-distribution validation images; those of test
                images would make the test optimistic.
            labels (`torch.Tensor` of shape `(n,)`): Integer class indices.

        Returns:
            [`TemperatureScaling`]: Itself.

        Raises:
            ValueError: If the shapes disagree, a label is not a class, a logit is not finite, or there is no minimum:
                every label has the largest logit (T would be 0), or the logits favour the labels no more than chance
                does (T would be infinite).
        """
        logits, labels = check_scores(logits, labels)
        # Relative to the label's own logit, in units in which the largest gap is 1.
        gaps = logits - logits.gather(1, labels[:, None])
        unit = max(gaps.max().item(), -gaps.min().item()) or 1.0
        gaps /= unit
        pieces = gaps.split(max(1, PIECE_ELEMENTS // gaps.shape[1]))

        def slope(inverse: float) -> float:
            """Return the derivative of the mean negative log-likelihood by the inverse temperature; it never falls."""
            return torch.cat([((inverse * some).softmax(dim=1) * some).sum(dim=1) for some in pieces]).mean().item()

        if slope(0.0) >= 0:
            raise ValueError(
                f"The logits of these {len(labels)} images favour their labels no more than chance does, so no finite "
                "temperature is best; check that labels and logits are in the same class order."
            )
        if gaps.max().item() <= 0:
            raise ValueError(
                f"{'The only image has its' if len(labels) == 1 else f'All of these {len(labels)} images have their'} label as the largest logit, so the likelihood grows as "
                "the temperature falls to 0; fit on more or harder validation images, none of them trained on."
            )
        low = high = 1.0
        while slope(high) <= 0:
            high *= 2
        while slope(low) >= 0:
            low /= 2
        self.temperature = unit / brentq(slope, low, high, xtol=1e-300, rtol=1e-14, maxiter=500)
        self.n = len(labels)
        self.nll_before = cross_entropy(logits, labels).item()
        self.nll_after = cross_entropy(logits / self.temperature, labels).item()
        return self

    def apply(self, logits: Tensor) -> Tensor:
        """
        Divide logits by the temperature.

        Args:
            logits (`torch.Tensor` of shape `(..., classes)`): At the model's own scale.

        Returns:
            `torch.Tensor` of the same shape, dtype and device: `logits / T`.
        """
        return logits / self.temperature

    def probabilities(self, logits: Tensor) -> Tensor:
        """
        Turn logits into calibrated probabilities.

        Args:
            logits (`torch.Tensor` of shape `(..., classes)`): At the model's own scale.

        Returns:
            `torch.Tensor` of the same shape: `softmax(logits / T)` over the last dimension, in float64 on the CPU.
        """
        return (logits.detach().cpu().double() / self.temperature).softmax(dim=-1)

    @torch.no_grad()
    def fold_into(self, model: nn.Module, head: ZeroShotHead | None = None) -> None:
        """
        Put the temperature into the weights, so that the plain model is calibrated and T becomes 1.

        [`DualEncoder.fold`] subtracts log T from the logit scale, which is a logarithm. Every threshold on the model's
        logits or energies moves with it: use `fold_temperature` where there is a detector.

        Args:
            model ([`~transformers.PreTrainedModel`]): The model, possibly wrapped; changed in place.
            head ([`ZeroShotHead`], *optional*): A head that was built or trained with the model; its logits
                are divided by T, in place. A zero-shot head that is built afterwards already contains T.

        Raises:
            ValueError: If the dtype of the logit scale or head is too coarse to hold the product (bfloat16 and float16
                mostly are); nothing is changed then.
        """
        if head is not None and head.weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"A head in {head.weight.dtype} would round the temperature away; fold it into a float32 head."
            )
        DualEncoder.of(model).fold(self.temperature)
        if head is not None:
            head.fold(self.temperature)
        self.folded *= self.temperature
        self.folded_bias /= self.temperature
        self.temperature = 1.0

    @torch.no_grad()
    def take_out_of(self, model: nn.Module, head: ZeroShotHead | None = None) -> None:
        """
        Undo what `fold_into` has put into weights.

        Args:
            model ([`~transformers.PreTrainedModel`]), head ([`ZeroShotHead`], *optional*): As for `fold_into`.
        """
        if self.folded_bias:
            cast(nn.Parameter, DualEncoder.of(model).logit_bias).sub_(self.folded_bias)
        TemperatureScaling(1 / self.folded).fold_into(model, head)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes that are set as JSON values, for the part `temperature` of `robustft.json`."""
        facts: dict[str, Any] = {"temperature": self.temperature, "folded": self.folded}
        if self.folded_bias:
            facts["folded_bias"] = self.folded_bias
        if self.n is not None:
            facts |= {"n": self.n, "nll_before": self.nll_before, "nll_after": self.nll_after}
        return facts | {name: value for name, value in self.record.items() if name not in facts}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> TemperatureScaling:
        """
        Restore what `to_dict` returned.

        Args:
            facts (`Mapping[str, Any]`): The part `temperature` of `robustft.json`.

        Returns:
            [`TemperatureScaling`]: The temperature.

        Raises:
            ValueError: If there is no temperature among the facts, or it is not a positive number.
        """
        if "temperature" not in facts:
            raise ValueError(f"There is no 'temperature' in {dict(facts)!r}; fit one and store it again.")
        scaling = cls(facts["temperature"])
        scaling.folded = _positive(facts.get("folded", 1.0), "folded")
        scaling.folded_bias = facts.get("folded_bias", 0.0)
        known = ("n", "nll_before", "nll_after")
        for name in known:
            setattr(scaling, name, facts.get(name))
        scaling.record = {name: facts[name] for name in facts if name not in (*_APPLIED, *known)}
        return scaling


def _positive(value: Any, what: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(
            f"{what} is {value!r}, but logits can be divided by positive numbers only; 1.0 changes nothing."
        )
    return float(value)
