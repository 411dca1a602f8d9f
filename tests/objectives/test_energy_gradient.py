# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CRoFT's pure functions: the authors' numbers, our own derivations, and what they refuse."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_golden, tolerance

from hf_robustft.modeling.adapters import FeatureAdapters, near_unit
from hf_robustft.objectives.energy_gradient import (
    OFFSET,
    class_logits,
    energy,
    energy_gradient,
    energy_gradient_penalty,
    feature_shift_loss,
    mixed_back,
    same_class_alignment,
    shifted_features,
)

pytestmark = pytest.mark.numbers

TYPES = {"f64": torch.float64, "f32": torch.float32}
#: Golden variant -> reduction, whether shifted rows are pooled and mixed back, whether there are shifts at all.
VARIANTS = {
    "setup1": ("sum", True, True),
    "setup2_pacs": ("mean", True, True),
    "setup2_vlcs": ("mean", False, True),
    "setup2_gen0": ("mean", False, True),
    "setup1_wccf_off": ("sum", False, False),
}


class Static:
    """One golden case: the forward, the shifted features, and what the authors' regulariser returns."""

    def __init__(self, data: dict, hyper: dict, case: str, tag: str):
        dtype = TYPES[tag]
        self.data, self.case, self.tag, self.hyper = data, case, tag, hyper
        images, texts = (data[f"{case}/{name}_features"].to(dtype) for name in ("image", "text"))
        self.labels = data[f"{case}/labels"]
        self.adapters = FeatureAdapters(images.shape[1], hyper["ratio"], hyper["ratio_text"], dtype=dtype)
        with torch.no_grad():
            self.adapters.image_adapter.copy_(data[f"{case}/fc_i"])
            self.adapters.text_adapter.copy_(data[f"{case}/fc_t"])
        self.generator = data[f"{case}/gen"].to(dtype).requires_grad_()
        self.scale = data[f"{case}/log_scale"].to(dtype).exp()
        self.a = near_unit(self.adapters.adapt_images(images))
        self.b = self.adapters.adapt_class_features(texts[:, None])
        self.z, self.w = near_unit(images), near_unit(texts)
        self.c = shifted_features(self.a, self.generator)

    def regulariser(self, variant: str):
        reduction, pooled, shifts = VARIANTS[variant]
        matrices = self.adapters.image_adapter, self.adapters.text_adapter
        ratios = self.adapters.image_ratio, self.adapters.text_ratio
        rows = torch.cat([self.z, self.c]) if pooled else self.z
        gradient = energy_gradient(rows, self.w, *matrices, *ratios, reduction)
        penalty = energy_gradient_penalty(rows, self.w, *matrices, *ratios, reduction)
        align = same_class_alignment(self.c, self.z, self.labels)
        mixed = mixed_back(self.c, matrices[0], ratios[0]) if pooled else self.c
        first = F.cross_entropy(class_logits(mixed, self.b, self.scale), self.labels)
        if pooled:
            first = first - self.hyper["lambda1"] * align
        return first, penalty, align, gradient, first * shifts + self.hyper["lambda2"] * penalty

    def check(self, name: str, got: torch.Tensor, limits):
        assert_golden(got, self.data[f"{self.case}/{name}_{self.tag}"], limits, f"{self.case}/{name}_{self.tag}")

    def check_gradients(self, name: str, loss: torch.Tensor, limits):
        parameters = [self.adapters.image_adapter, self.adapters.text_adapter, self.generator]
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        for which, parameter, gradient in zip(("fc_i", "fc_t", "gen"), parameters, gradients, strict=True):
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            self.check(f"{name}_grad_{which}", gradient, limits)


@pytest.fixture
def static(golden):
    data, facts = golden("f_croft_static"), golden.manifest("f_croft_static")
    return lambda case, tag: (Static(data, facts["cases"][case], case, tag), tolerance(facts["tolerance"][tag]))


@pytest.mark.parametrize("tag", ["f64", "f32"])
@pytest.mark.parametrize("case", ["c0", "c1"])
def test_golden_classification_and_feature_shifts(static, case, tag):
    given, limits = static(case, tag)
    logits = class_logits(given.a, given.b, given.scale)
    given.check("fwd_energy", energy(logits), limits)
    loss = F.cross_entropy(logits, given.labels)
    given.check("ce", loss, limits)
    given.check_gradients("ce", loss, limits)
    given.check("fp_cov", given.c, limits)
    loss = feature_shift_loss(given.c, given.a, given.b, given.labels, given.scale, given.hyper["lambda1"])
    given.check("fp_loss", loss, limits)
    given.check_gradients("fp", loss, limits)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tag", ["f64", "f32"])
@pytest.mark.parametrize("case", ["c0", "c1"])
def test_golden_regulariser(static, case, tag, variant):
    given, limits = static(case, tag)
    first, penalty, align, gradient, total = given.regulariser(variant)
    given.check(f"edr_{variant}_loss1", first, limits)
    given.check(f"edr_{variant}_loss2", penalty, limits)
    given.check(f"edr_{variant}_align", align, limits)
    given.check(f"edr_{variant}_energygrad", gradient, limits)
    given.check(f"edr_{variant}_total", total, limits)
    given.check_gradients(f"edr_{variant}", total, limits)
    classification = F.cross_entropy(class_logits(given.a, given.b, given.scale), given.labels)
    given.check(f"full_{variant}", classification + total, limits)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_energy_is_the_log_partition():
    logits = torch.tensor([[0.0, 0.0], [1000.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(energy(logits), torch.tensor([math.log(2.0), 1000.0], dtype=torch.float64))


def test_alignment_counts_pairs_of_a_class_among_all_pairs():
    first, second, labels = draw(5, 3), draw(5, 3, seed=1), torch.tensor([0, 1, 0, 2, 1])
    pairs = [(i, j) for i in range(5) for j in range(5) if labels[i] == labels[j]]
    assert len(pairs) == 9
    want = sum((first[i] @ second[j]).item() for i, j in pairs) / 25
    assert same_class_alignment(first, second, labels).item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_energy_gradient_is_that_of_finite_differences(reduction):
    rows, classes = near_unit(draw(6, 4)), near_unit(draw(3, 4, seed=1))
    images, texts = draw(4, 4, seed=2), draw(4, 4, seed=3)

    def pooled(shift):
        p = near_unit(0.3 * rows @ (images + OFFSET + shift) + 0.7 * rows)
        q = near_unit(0.6 * classes @ (texts + OFFSET + shift) + 0.4 * classes)
        return (p @ q.t()).exp().sum() / (1 if reduction == "sum" else 18)

    want = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            step = torch.zeros(4, 4, dtype=torch.float64)
            step[i, j] = 1e-6
            want[i, j] = (pooled(step) - pooled(-step)) / 2e-6
    got = energy_gradient(rows, classes, images, texts, 0.3, 0.6, reduction)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)
    penalty = energy_gradient_penalty(rows, classes, images, texts, 0.3, 0.6, reduction)
    torch.testing.assert_close(
        penalty, want.square().mean() if reduction == "sum" else want.square().sum(), rtol=1e-5, atol=0
    )


def test_without_an_image_adapter_it_is_the_gradient_of_the_text_adapter():
    rows, classes, texts = near_unit(draw(6, 4)), near_unit(draw(3, 4, seed=1)), draw(4, 4, seed=3)
    matrix = (texts + OFFSET).requires_grad_()
    q = near_unit(0.6 * classes @ matrix + 0.4 * classes)
    want = torch.autograd.grad((near_unit(rows) @ q.t()).exp().sum(), matrix)[0]
    got = energy_gradient(rows, classes, torch.eye(4, dtype=torch.float64), texts, 0.0, 0.6)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_the_two_reductions_differ_by_their_stated_factor():
    rows, classes, matrices = (
        near_unit(draw(6, 4)),
        near_unit(draw(3, 4, seed=1)),
        (draw(4, 4, seed=2), draw(4, 4, seed=3)),
    )
    by_sum, by_mean = (energy_gradient_penalty(rows, classes, *matrices, reduction=name) for name in ("sum", "mean"))
    assert (by_sum / by_mean).item() == pytest.approx((6 * 3 / 4) ** 2, rel=1e-12)


def test_the_penalty_is_differentiable_a_second_time():
    parameters = [near_unit(draw(5, 4)), near_unit(draw(3, 4, seed=1)), draw(4, 4, seed=2), draw(4, 4, seed=3)]
    parameters = [value.requires_grad_() for value in parameters]
    assert torch.autograd.gradcheck(lambda *values: energy_gradient_penalty(*values), parameters)


def test_the_penalty_can_be_measured_without_gradient():
    rows, matrices = (near_unit(draw(5, 4)), near_unit(draw(3, 4))), (draw(4, 4), draw(4, 4))
    with torch.no_grad():
        assert energy_gradient_penalty(*rows, *matrices).item() > 0


def test_shifted_features_are_unit_and_start_as_the_given_ones():
    given = near_unit(draw(5, 4))
    shifted = shifted_features(given, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(shifted, given, rtol=0, atol=2e-6)
    far = shifted_features(given, 10 * draw(4, 4, seed=3))
    torch.testing.assert_close(far.norm(dim=1), torch.ones(5, dtype=torch.float64), rtol=0, atol=1e-5)


def test_the_shift_loss_rewards_leaving_ones_own_class():
    labels, classes, scale = torch.tensor([0, 0]), torch.eye(2, dtype=torch.float64), torch.tensor(10.0)
    here = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    away = near_unit(torch.tensor([[1.0, 0.5], [1.0, -0.5]], dtype=torch.float64))
    stay, leave = (feature_shift_loss(c, here, classes, labels, scale, 5.0) for c in (here, away))
    assert leave < stay


def test_bad_input_is_refused():
    rows, classes, matrix = draw(5, 4), draw(3, 4), draw(4, 4)
    with pytest.raises(ValueError, match="'max'.*sum, mean"):
        energy_gradient_penalty(rows, classes, matrix, matrix, reduction="max")
    with pytest.raises(ValueError, match="class rows 6"):
        energy_gradient_penalty(rows, draw(3, 6), matrix, matrix)
    with pytest.raises(ValueError, match=r"adapters \(4, 4\) and \(3, 3\)"):
        energy_gradient_penalty(rows, classes, matrix, draw(3, 3))
    with pytest.raises(ValueError, match="one label a row"):
        same_class_alignment(rows, rows, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="one label a row"):
        same_class_alignment(rows, draw(6, 4), torch.zeros(5, dtype=torch.long))
