# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""WiSE-FT, Model Stock and LiNeS by hand and by plain loops, their ends exactly, and what is refused."""

import copy
import math

import pytest
import torch
from helpers import assert_golden, tiny_config, tolerance
from helpers.families import FAMILY_NAMES, family_model
from torch import nn
from transformers import CLIPModel

from hf_robustft import interpolate_weights, lines, model_stock
from hf_robustft.modeling.dual_encoder import DualEncoder

pytestmark = pytest.mark.numbers


def fine_tuned(model, seed=3):
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
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


# ---- Model Stock -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3])
def test_stock_of_equal_models_is_that_model(tiny_clip, count):
    end = fine_tuned(tiny_clip)
    with torch.no_grad():
        # As a tower that was frozen.
        end.text_projection.weight.copy_(tiny_clip.text_projection.weight)
    for name, value in model_stock(tiny_clip, [copy.deepcopy(end) for _ in range(count)]).items():
        assert torch.equal(value, end.state_dict()[name]), name


@pytest.mark.parametrize("degrees", [0, 20, 60, 90])
def test_stock_of_two_by_its_closed_form(degrees):
    """Changes of length 2 at an angle: the mean is 2 cos(angle / 2) long, and t = 2 cos / (1 + cos) of it stays."""
    angle = math.radians(degrees)
    start = torch.tensor([1.0, -3.0], dtype=torch.float64)
    turned = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    ends = [start + 2 * torch.tensor([1.0, 0.0], dtype=torch.float64), start + 2 * turned]
    stock = model_stock({"w": start}, [{"w": end} for end in ends])["w"]
    length = 2 * math.cos(angle / 2) * 2 * math.cos(angle) / (1 + math.cos(angle))
    half = torch.tensor([math.cos(angle / 2), math.sin(angle / 2)], dtype=torch.float64)
    torch.testing.assert_close(stock, start + length * half, rtol=0, atol=1e-14)


@pytest.mark.parametrize("count", [2, 4])
def test_stock_is_the_point_nearest_to_the_centre(count):
    """The paper's geometry: models lie around a centre, at right angles to one another and to the way from the start."""
    start = torch.full((count + 1,), 0.5, dtype=torch.float64)
    centre = start + 3 * torch.eye(count + 1, dtype=torch.float64)[0]
    ends = [{"w": centre + 2 * direction} for direction in torch.eye(count + 1, dtype=torch.float64)[1:]]
    stock = model_stock({"w": start}, ends)["w"]
    mean = sum(end["w"] for end in ends) / count
    torch.testing.assert_close((mean - start) @ (centre - stock), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-14)
    assert (stock - start).norm() * (mean - start).norm() == pytest.approx(((stock - start) @ (mean - start)).item())


def test_stock_of_three_by_a_plain_loop(tiny_clip):
    ends = [fine_tuned(tiny_clip, seed) for seed in (3, 4, 5)]
    for shared, end in enumerate(ends):
        with torch.no_grad():
            for parameter, value in zip(end.parameters(), fine_tuned(tiny_clip, 9).parameters(), strict=True):
                parameter += value * (1 + shared)
    result = model_stock(tiny_clip, ends)
    for name, value in tiny_clip.state_dict().items():
        changes = [(end.state_dict()[name] - value.double()).flatten() if value.is_floating_point() else None for end in ends]
        if changes[0] is None:
            assert torch.equal(result[name], value)
            continue
        cosines = [torch.nn.functional.cosine_similarity(changes[i], changes[j], dim=0) for i, j in ((0, 1), (0, 2), (1, 2))]
        cosine = sum(cosines) / 3
        assert cosine > 0
        expected = value.double().flatten() + 3 * cosine / (1 + 2 * cosine) * sum(changes) / 3
        torch.testing.assert_close(result[name], expected.view_as(value).float(), rtol=1e-6, atol=1e-7)


def test_stock_where_models_do_not_agree_is_the_start():
    start, one = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0])
    for other in ([0.0, 2.0], [0.5, 3.0], [1.0, 2.0], [1.0, 5.0]):
        stock = model_stock({"w": start}, [{"w": one}, {"w": torch.tensor(other)}])["w"]
        assert torch.equal(stock, start), other


def test_stock_of_one_model_or_of_others_is_refused():
    start = {"w": torch.ones(2)}
    for one in ([start], [], start):
        with pytest.raises(ValueError, match="two fine-tuned models"):
            model_stock(start, one)
    with pytest.raises(ValueError, match="`w` has shape"):
        model_stock(start, [start, {"w": torch.ones(3)}])


# ---- LiNeS -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("layers", [2, 4])
def test_lines_by_a_plain_loop(layers, whole):
    config = tiny_config()
    config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers = layers, layers + 1
    start = CLIPModel(config)
    end, alpha = fine_tuned(start), 0.3
    result = lines(start, end, alpha, whole_projections=whole)
    for name, value in start.state_dict().items():
        share = alpha
        for tower, count in (("text_model", layers), ("vision_model", layers + 1)):
            for i in range(count):
                if name.startswith(f"{tower}.encoder.layers.{i}."):
                    share = alpha + (1 - alpha) * i / (count - 1)
        if whole and name in ("visual_projection.weight", "text_projection.weight", "logit_scale"):
            share = 1.0
        expected = value + share * (end.state_dict()[name] - value) if value.is_floating_point() else value
        torch.testing.assert_close(result[name], expected, rtol=1e-6, atol=1e-6, msg=name)
    deepest = f"vision_model.encoder.layers.{layers}.mlp.fc1.weight"
    assert torch.equal(result[deepest], end.state_dict()[deepest])
    for name, value in lines(start, end, 1.0).items():
        assert torch.equal(value, end.state_dict()[name]), name


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_lines_keeps_the_same_share_of_scale_and_bias_and_takes_whole_what_there_is(family):
    start = family_model(family)
    end = fine_tuned(start)
    after, encoder = end.state_dict(), DualEncoder.of(start)
    scalars = {name: value for name, value in start.named_parameters() if id(value) in set(map(id, encoder.scalars))}
    assert ("logit_bias" in scalars) == ("siglip" in family)
    for name, value in scalars.items():
        expected = value + 0.3 * (after[name] - value)
        torch.testing.assert_close(lines(start, end, 0.3)[name], expected.detach(), rtol=1e-6, atol=1e-6, msg=name)
    if encoder.visual_projection is None:
        with pytest.raises(ValueError, match=f"`whole_projections`.*{encoder.name}.*leave it out") as caught:
            lines(start, end, 0.3, whole_projections=True)
        assert "\n" not in str(caught.value)
        return
    result = lines(start, end, 0.3, whole_projections=True)
    for name in ("visual_projection.weight", "text_projection.weight", *scalars):
        assert torch.equal(result[name], after[name]), name


def test_lines_of_a_model_with_other_layers_is_refused(tiny_clip):
    config = tiny_config()
    config.vision_config.num_hidden_layers = 3
    with pytest.raises(ValueError, match=r"different tensors .*layers\.2"):
        lines(tiny_clip, CLIPModel(config))
    with pytest.raises(ValueError, match="alpha=1.5"):
        lines(tiny_clip, tiny_clip, 1.5)
