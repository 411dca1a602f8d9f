# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""L2-SP: a penalty on the distance of the weights from where they started."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..modeling.features import ClipFeatures
from ..modeling.spread_weights import full_tensor
from .settings import WEIGHT, ObjectiveSettings, setting
from .starting_model import StartingModelMixin


def starting_weights_penalty(weights: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """
    The squared distance from the starting weights, `Σ ||w - w₀||²` (L2-SP, Li et al., ICML 2018).

    The sum is not halved, as in the code of LP-FT (Kumar et al., ICLR 2022), whose weight of 0.01 belongs to it; the paper
    of L2-SP writes `α/2`.

    Args:
        weights (iterable of pairs of `torch.Tensor`): The parameters that train, each with where it started. No gradient
            flows to the latter.

    Returns:
        `torch.Tensor`: Scalar. Its gradient is `2 (w - w₀)`.
    """
    return full_tensor(sum((weight - start.detach()).square().sum() for weight, start in weights))


@dataclass
class StartingWeightsSettings(ObjectiveSettings):
    """The penalty towards the starting weights (L2-SP)."""

    l2_sp_weight: float = setting(
        0.01, "Weight of the squared distance from the starting weights.", paper=0.01, range=WEIGHT
    )


class StartingWeightsMixin(StartingModelMixin):
    """
    Adds the term `l2_sp` (weight `l2_sp_weight`) on every parameter of the model that trains; a head beside the model has no
    start worth keeping and only decays.

    The term depends on the weights alone, so it is the same in every process. Adaptive optimizers rescale its gradient with
    the rest.
    """

    settings: type[ObjectiveSettings] = StartingWeightsSettings

    def needs_start(self) -> bool:
        return bool(self.args.l2_sp_weight) or super().needs_start()

    def loss_terms(self, features: ClipFeatures, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        terms = super().loss_terms(features, batch)
        if self.args.l2_sp_weight:
            terms["l2_sp"] = self.args.l2_sp_weight * starting_weights_penalty(self.start_weights().values())
        return terms
