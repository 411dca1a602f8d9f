# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Weight-space interpolation: the ends exactly, the middle by hand and as the reference, and what is refused."""

import copy

import pytest
import torch
from helpers import assert_golden, tolerance
from torch import nn

from hf_robustft import interpolate_weights

pytestmark = pytest.mark.numbers


def fine_tuned(model):
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return changed


def test_by_hand():
    mixed = interpolate_weights({"w": torch.tensor([0.0, 4.0])}, {"w": torch.tensor([8.0, -4.0])}, 0.25)
    assert mixed["w"].tolist() == [2.0, 2.0]
    assert interpolate_weights({"w": torch.tensor(1.0)}, {"w": torch.tensor(2.0)})["w"].item() == 1.5


@pytest.mark.parametrize("alpha", ["0.0", "0.3", "0.5", "1.0"])
def test_golden(golden, alpha):
    data, limits = golden("h_zeroshot_wise"), tolerance(golden.manifest("h_zeroshot_wise")["tolerance"]["f32"])
    ends = [{name: data[f"wise/theta{end}/{name}"] for name in "wbs"} for end in (0, 1)]
    mixed = interpolate_weights(*ends, float(alpha))
    for name in "wbs":
        assert_golden(mixed[name], data[f"wise/alpha{alpha}/{name}"], limits, name)


def test_the_ends_are_exact_and_load(tiny_clip):
    start, end = tiny_clip, fine_tuned(tiny_clip)
    for alpha, model in ((0, start), (1.0, end)):
        mixed = interpolate_weights(start, end, alpha)
        assert mixed.keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(mixed[name], value), name
    middle = interpolate_weights(start, end)
    copy.deepcopy(start).load_state_dict(middle)
    for name, value in middle.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (start.state_dict()[name] + end.state_dict()[name]) / 2)
    torch.testing.assert_close(middle["logit_scale"], (start.logit_scale + end.logit_scale).detach() / 2)


def test_inputs_are_left_alone(tiny_clip):
    end = fine_tuned(tiny_clip)
    before = {name: value.clone() for name, value in end.state_dict().items()}
    for value in interpolate_weights(tiny_clip, end, 1.0).values():
        value.zero_()
    assert all(torch.equal(before[name], value) for name, value in end.state_dict().items())


def test_dtype_is_the_fine_tuned_models():
    mixed = interpolate_weights({"w": torch.ones(2, dtype=torch.float64)}, {"w": torch.zeros(2)}, 0.5)
    assert mixed["w"].dtype == torch.float32


@pytest.mark.parametrize("dtypes", [(torch.float16, torch.float32), (torch.float32, torch.float16)])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_half_precision_end_is_interpolated_in_float32(dtypes, half):
    """One rounding at the end, to the fine-tuned model's dtype: by exact arithmetic in float64."""
    generator = torch.Generator().manual_seed(1)
    dtypes = [half if dtype == torch.float16 else dtype for dtype in dtypes]
    first, second = (torch.randn(1000, generator=generator).to(dtype) for dtype in dtypes)
    for alpha in (0.0, 0.3, 0.5, 0.7, 1.0):
        mixed = interpolate_weights({"w": first}, {"w": second}, alpha)["w"]
        exact = (1 - alpha) * first.double() + alpha * second.double()
        assert mixed.dtype == second.dtype
        # Half a unit of the last place of the result, and four float32 roundings before it.
        limit = torch.finfo(mixed.dtype).eps / 2 * exact.abs() + 4 * torch.finfo(torch.float32).eps
        assert ((mixed.double() - exact).abs() <= limit + torch.finfo(mixed.dtype).tiny).all(), alpha
    both = interpolate_weights({"w": first.to(half)}, {"w": second.to(half)}, 0.3)["w"]
    exact = 0.7 * first.to(half).double() + 0.3 * second.to(half).double()
    assert both.dtype == half and (both != exact.to(half)).float().mean() < 0.01


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_the_segment_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha.*outside"):
        interpolate_weights({"w": torch.ones(1)}, {"w": torch.ones(1)}, alpha)


def test_other_names_are_refused():
    with pytest.raises(ValueError, match="different tensors .*extra"):
        interpolate_weights({"w": torch.ones(1)}, {"w": torch.ones(1), "extra": torch.ones(1)})


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="`w` has shape"):
        interpolate_weights({"w": torch.ones(1, 3)}, {"w": torch.ones(3)})


def test_integer_buffers_must_agree():
    first, second = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    assert interpolate_weights(first, second)["num_batches_tracked"].item() == 0
    second.num_batches_tracked += 1
    with pytest.raises(ValueError, match="num_batches_tracked.*cannot be interpolated"):
        interpolate_weights(first, second)
