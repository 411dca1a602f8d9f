# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The constraint on the projections: reference values and gradients, closed forms, orientation and precision."""

from types import SimpleNamespace

import pytest
import torch
from helpers import assert_golden, tolerance
from torch import nn

from hf_robustft import SingularValueMixin
from hf_robustft.objectives import singular_value
from hf_robustft.objectives.singular_value import cross_frobenius_penalty, orthogonality_penalty

pytestmark = pytest.mark.numbers


def alone(model, **settings) -> SingularValueMixin:
    mixin = SingularValueMixin()
    mixin.model = model
    mixin.args = SimpleNamespace(**{"orthogonality_weight": 0.2, "cross_frobenius_weight": 0.05, **settings})
    return mixin


def matrix(rows, columns, seed=0, dtype=torch.float64):
    return torch.randn(rows, columns, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tag", ["f64", "f32"])
@pytest.mark.parametrize("case", ["c0", "c1"])
def test_golden(golden, case, tag):
    data, manifest = golden("b_orth_cross"), golden.manifest("b_orth_cross")
    limits, dtype = tolerance(manifest["tolerance"][tag]), torch.float64 if tag == "f64" else torch.float32
    coefficients = manifest["cases"][case]

    def weights():
        stored = (data[f"{case}/{kind}_projection"] for kind in ("visual", "text"))
        return [weight.to(dtype, copy=True).requires_grad_() for weight in stored]

    visual, _ = weights()
    value = orthogonality_penalty(visual)
    value.backward()
    assert_golden(value, data[f"{case}/orth_value_{tag}"], limits, "orth")
    assert_golden(visual.grad, data[f"{case}/orth_grad_visual_{tag}"], limits, "orth gradient")
    visual, text = weights()
    value = cross_frobenius_penalty(visual, text)
    value.backward()
    assert_golden(value, data[f"{case}/cross_value_{tag}"], limits, "cross")
    assert_golden(visual.grad, data[f"{case}/cross_grad_visual_{tag}"], limits, "cross gradient, visual")
    assert_golden(text.grad, data[f"{case}/cross_grad_text_{tag}"], limits, "cross gradient, text")

    visual, text = (nn.Parameter(weight.detach()) for weight in weights())
    parameters = {"visual_projection.weight": visual, "text_projection.weight": text}
    projections = SimpleNamespace(named_parameters=parameters.items)
    settings = {
        "orthogonality_weight": coefficients["coef_orth"],
        "cross_frobenius_weight": coefficients["coef_cross"],
    }
    terms = alone(projections, **settings).loss_terms(None, {})
    assert list(terms) == ["cross_frobenius", "orthogonality"]
    total = sum(terms.values())
    total.backward()
    assert_golden(total, data[f"{case}/combined_value_{tag}"], limits, "combined")
    assert_golden(visual.grad, data[f"{case}/combined_grad_visual_{tag}"], limits, "combined gradient, visual")
    assert_golden(text.grad, data[f"{case}/combined_grad_text_{tag}"], limits, "combined gradient, text")


def test_closed_forms():
    # W Wᵀ = diag(4, 9), minus the identity diag(3, 8): norm sqrt(9 + 64), not squared.
    weight = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]], dtype=torch.float64)
    assert orthogonality_penalty(weight).item() == pytest.approx(73**0.5, abs=1e-14)
    # The gradient is 2 G W / ||G||.
    weight.requires_grad_()
    orthogonality_penalty(weight).backward()
    expected = 2 * torch.tensor([[6.0, 0.0, 0.0], [0.0, 24.0, 0.0]], dtype=torch.float64) / 73**0.5
    torch.testing.assert_close(weight.grad, expected)
    # Vᵀ T of one-row matrices is an outer product: its norm is the product of the norms.
    assert cross_frobenius_penalty(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0, 0.0]])).item() == 10.0


@pytest.mark.parametrize("shape", [(4, 4), (4, 9)])
def test_an_orthonormal_matrix_has_zero_gradient(shape):
    weight = torch.zeros(shape, dtype=torch.float64)
    weight[range(4), [2, 0, 3, 1]] = 1.0
    weight.requires_grad_()
    value = orthogonality_penalty(weight)
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(weight.grad, torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(5, 8), (8, 5)])
def test_value_from_singular_values(shape):
    weight = matrix(*shape)
    singular = torch.zeros(shape[0], dtype=torch.float64)
    values = torch.linalg.svdvals(weight)
    singular[: len(values)] = values
    expected = (singular.square() - 1).square().sum().sqrt().item()
    assert orthogonality_penalty(weight).item() == pytest.approx(expected, rel=1e-12)


def test_orientation_is_that_of_nn_linear(tiny_clip):
    weight = tiny_clip.visual_projection.weight
    assert weight.shape == (16, 32)
    wide = torch.cat([torch.eye(3), torch.zeros(3, 2)], dim=1)
    assert orthogonality_penalty(wide).item() == 0.0
    # The transpose has W Wᵀ - I = diag(0, 0, 0, -1, -1).
    assert orthogonality_penalty(wide.t()).item() == pytest.approx(2**0.5)
    visual, text = matrix(4, 6), matrix(4, 3, seed=1)
    expected = (visual.t() @ text).square().sum().sqrt()
    torch.testing.assert_close(cross_frobenius_penalty(visual, text), expected)


@pytest.mark.same_bits("the same products; half precision is converted exactly")
def test_autocast_and_half_weights_compute_in_float32():
    weight, text = matrix(16, 64, dtype=torch.float32), matrix(16, 32, seed=1, dtype=torch.float32)
    plain = orthogonality_penalty(weight), cross_frobenius_penalty(weight, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (weight @ weight.t()).dtype == torch.bfloat16, "autocast must be on for this test to mean anything"
        inside = orthogonality_penalty(weight), cross_frobenius_penalty(weight, text)
    for outer, inner in zip(plain, inside, strict=True):
        assert inner.dtype == torch.float32
        assert torch.equal(outer, inner)
    half = weight.to(torch.bfloat16)
    assert orthogonality_penalty(half).dtype == torch.float32
    assert torch.equal(orthogonality_penalty(half), orthogonality_penalty(half.float()))


def test_terms_are_weighted(tiny_clip):
    terms = alone(tiny_clip).loss_terms(None, {})
    visual, text = tiny_clip.visual_projection.weight, tiny_clip.text_projection.weight
    torch.testing.assert_close(terms["orthogonality"], 0.2 * orthogonality_penalty(visual))
    torch.testing.assert_close(terms["cross_frobenius"], 0.05 * cross_frobenius_penalty(visual, text))


def test_a_weight_of_zero_computes_nothing(tiny_clip, monkeypatch):
    def never(*args):
        raise AssertionError("a term of weight 0 was computed")

    monkeypatch.setattr(singular_value, "orthogonality_penalty", never)
    assert alone(tiny_clip, orthogonality_weight=0.0).loss_terms(None, {}).keys() == {"cross_frobenius"}
    monkeypatch.setattr(singular_value, "cross_frobenius_penalty", never)
    assert alone(tiny_clip, orthogonality_weight=0.0, cross_frobenius_weight=0.0).loss_terms(None, {}) == {}
    with pytest.raises(AssertionError, match="computed"):
        alone(tiny_clip).loss_terms(None, {})


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"must be a matrix .*\(5,\)"):
        orthogonality_penalty(torch.ones(5))
    with pytest.raises(ValueError, match=r"one embedding dimension.*\(4, 6\).*\(5, 6\)"):
        cross_frobenius_penalty(torch.ones(4, 6), torch.ones(5, 6))
    with pytest.raises(ValueError, match="must be matrices"):
        cross_frobenius_penalty(torch.ones(4, 6), torch.ones(4))


@pytest.mark.parametrize("name", ["orthogonality_weight", "cross_frobenius_weight"])
def test_a_model_without_linear_projections_is_refused(tiny_clip, name):
    tiny_clip.text_projection = nn.Sequential(tiny_clip.text_projection, nn.GELU())
    given, encoder = {"orthogonality_weight": 0, "cross_frobenius_weight": 0}, alone(tiny_clip).encoder
    SingularValueMixin.check_model(SimpleNamespace(**given), encoder)
    with pytest.raises(ValueError, match=f"`{name}=0.2` .*linear projections.*--method covariance_anchor.*set it to 0") as caught:
        SingularValueMixin.check_model(SimpleNamespace(**given | {name: 0.2}), encoder)
    assert "\n" not in str(caught.value)
    # Nobody asked for the product's norm, which is a term beside others.
    assert SingularValueMixin.model_defaults(encoder) == {"cross_frobenius_weight": 0.0}


def test_a_frozen_projection_is_refused(tiny_clip):
    tiny_clip.visual_projection.requires_grad_(False)
    with pytest.raises(ValueError, match="orthogonality_weight=0.2.*frozen"):
        alone(tiny_clip).validate_arguments(SimpleNamespace(orthogonality_weight=0.2, cross_frobenius_weight=0))
    alone(tiny_clip).validate_arguments(SimpleNamespace(orthogonality_weight=0, cross_frobenius_weight=0))
