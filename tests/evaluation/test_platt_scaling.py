# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Temperature and bias of sigmoids: the most likely ones, exactly in the weights, and out of them again."""

import math

import pytest
import torch
from helpers.families import family_model
from scipy.optimize import minimize
from torch.nn.functional import binary_cross_entropy_with_logits

from hf_robustft.evaluation.platt_scaling import PlattScaling, pair_logits
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.dual_encoder import DualEncoder


def pairs(n=300, classes=5, seed=0, scale=6.0, bias=-9.0):
    """Logits with a bias, and labels drawn by the sigmoids of others."""
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    has = torch.rand(n, classes, generator=generator, dtype=torch.float64) < (1.3 * cosines - 1.7).sigmoid()
    return scale * cosines + bias, has


# ---- The fit -------------------------------------------------------------------------------------------------------


def test_the_fit_is_the_most_likely_one():
    logits, has = pairs()
    fitted = PlattScaling().fit(logits, has)

    def loss(values):
        return binary_cross_entropy_with_logits(values[0] * logits + values[1], has.double()).item()

    found = minimize(loss, (0.2, 0.3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-15, "maxiter": 4000})
    assert 1 / fitted.temperature == pytest.approx(found.x[0], abs=1e-6)
    assert fitted.bias == pytest.approx(found.x[1], abs=1e-5)
    # The gradient by both is 0, which the search above cannot show to more digits.
    gaps = fitted.probabilities(logits) - has.double()
    assert abs(gaps.mean().item()) < 1e-9 and abs((gaps * logits).mean().item()) < 1e-8
    assert fitted.nll_before == pytest.approx(loss((1, 0))) and fitted.nll_after == pytest.approx(loss(found.x))
    # What generated the labels, within what 1,500 pairs say.
    assert 6 / fitted.temperature == pytest.approx(1.3, abs=0.25)


def test_one_label_per_image_is_the_same_as_its_row_of_zeros_and_a_one():
    logits, _ = pairs()
    labels = torch.arange(300) % 5
    logits = logits + 6 * torch.nn.functional.one_hot(labels, 5)
    one, several = PlattScaling().fit(logits, labels), PlattScaling().fit(logits, torch.nn.functional.one_hot(labels, 5))
    assert (one.temperature, one.bias) == (several.temperature, several.bias)


@pytest.mark.parametrize(
    "message, change",
    [
        ("parts all", lambda logits, has: (torch.where(has, 1.0, -1.0), has)),
        ("all wrong", lambda logits, has: (logits, torch.zeros_like(has))),
        ("all right", lambda logits, has: (logits, torch.ones_like(has))),
        ("no more than chance", lambda logits, has: (-logits, has)),
        ("not all finite", lambda logits, has: (logits / 0, has)),
        ("0 or 1 for each", lambda logits, has: (logits, 2 * has.long())),
        ("0 or 1 for each", lambda logits, has: (logits, has[:, 1:])),
    ],
)
def test_where_there_is_no_best_one_it_says_so(message, change):
    with pytest.raises(ValueError, match=message):
        PlattScaling().fit(*change(*pairs(40)))


# ---- The weights ---------------------------------------------------------------------------------------------------


def test_folded_the_models_own_sigmoids_are_those_and_taken_out_they_are_the_first():
    model = family_model("siglip")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scalars = [value.detach().clone() for value in DualEncoder.of(model).scalars]
    cosines = torch.rand(7, 3, dtype=torch.float64) * 2 - 1
    scale = scalars[0].double().exp()
    fitted = PlattScaling(temperature=0.37, bias=2.5)
    want = fitted.probabilities(pair_logits(model, scale * cosines))
    fitted.fold_into(model)
    got = pair_logits(model, DualEncoder.of(model).scale.detach().double() * cosines).sigmoid()
    assert (got - want).abs().max() < 1e-6
    assert (fitted.temperature, fitted.bias, fitted.folded, fitted.folded_bias) == (1.0, 0.0, 0.37, 2.5)
    # A temperature on top divides what was added, too.
    again = TemperatureScaling.from_dict(fitted.to_dict())
    again.temperature = 2.0
    again.fold_into(model)
    assert (again.folded, again.folded_bias) == (0.74, 1.25)
    TemperatureScaling.from_dict(again.to_dict()).take_out_of(model)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=1e-6, atol=1e-6 if "logit" in name else 0)


def test_it_is_not_stored_before_it_is_in_the_weights_and_needs_a_bias(tiny_clip):
    with pytest.raises(ValueError, match="fold_into"):
        PlattScaling(bias=1.0).to_dict()
    scale = tiny_clip.logit_scale.item()
    with pytest.raises(ValueError, match="no logit bias"):
        PlattScaling(2.0, 1.0).fold_into(tiny_clip)
    assert tiny_clip.logit_scale.item() == scale and math.isfinite(scale)


def test_a_bias_that_the_dtype_would_round_away_is_refused_unchanged():
    model = family_model("siglip").bfloat16()
    model.logit_bias.data.fill_(-12.9)
    before, fitted = model.logit_bias.item(), PlattScaling(bias=0.02)
    with pytest.raises(ValueError, match="A logit bias in torch.bfloat16 cannot hold"):
        fitted.fold_into(model)
    assert (model.logit_bias.item(), fitted.bias, fitted.folded_bias) == (before, 0.02, 0.0)
