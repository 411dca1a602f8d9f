# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Temperature scaling: the fitted minimum, what has none, and the fold into a model."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import CLASSES, TEMPLATES, tiny_tokenizer
from transformers import CLIPModel

from hf_robustft import ZeroShotHead
from hf_robustft.data.prompts import class_prompts
from hf_robustft.evaluation.calibration import expected_calibration_error, negative_log_likelihood
from hf_robustft.evaluation.temperature import TemperatureScaling
from hf_robustft.modeling.features import encode_images


def drawn(n=4000, classes=5, sharpness=2.0, seed=0):
    """Logits and labels drawn from their own softmax: at T = 1 they are calibrated."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]


def nll(logits, labels, temperature):
    return negative_log_likelihood(logits / temperature, labels, from_logits=True)


@pytest.mark.parametrize("wrong", [0.01, 0.2, 1.0, 3.0, 500.0])
def test_it_finds_the_temperature_that_was_put_in(wrong):
    logits, labels = drawn()
    own = TemperatureScaling().fit(logits, labels).temperature
    assert own == pytest.approx(1.0, abs=0.05)
    scaling = TemperatureScaling().fit(wrong * logits, labels)
    assert scaling.temperature == pytest.approx(wrong * own, rel=1e-12)
    assert scaling.n == 4000
    assert scaling.nll_before == pytest.approx(nll(wrong * logits, labels, 1.0), rel=1e-14)
    assert scaling.nll_after == pytest.approx(nll(logits, labels, own), rel=1e-12)
    probabilities = scaling.probabilities(wrong * logits)
    assert expected_calibration_error(probabilities, labels) < 0.03


def test_it_is_the_minimum_on_a_grid():
    logits, labels = drawn(n=60, classes=3, seed=4)
    scaling = TemperatureScaling().fit(logits, labels)
    grid = scaling.temperature * np.geomspace(0.1, 10, 401)
    values = [nll(logits, labels, t) for t in grid]
    assert int(np.argmin(values)) == 200
    assert scaling.nll_after <= min(values) + 1e-15
    # One step of 1e-4 to either side already costs.
    for step in (1 - 1e-4, 1 + 1e-4):
        assert nll(logits, labels, step * scaling.temperature) > scaling.nll_after


def test_it_is_worked_by_hand():
    # Two classes, gap 1 in favour of the label three times and against it once: p(label) = 3/4 at the minimum.
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    scaling = TemperatureScaling().fit(logits, torch.zeros(4, dtype=torch.long))
    assert scaling.temperature == pytest.approx(1 / math.log(3), rel=1e-13)
    torch.testing.assert_close(
        scaling.probabilities(logits)[:, 0], torch.tensor([0.75, 0.75, 0.75, 0.25], dtype=torch.float64)
    )


def test_order_and_offsets_do_not_matter():
    logits, labels = drawn(n=200)
    want = TemperatureScaling().fit(logits, labels).temperature
    offsets = torch.randn(200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = TemperatureScaling().fit(logits.flip(0) + offsets.flip(0), labels.flip(0)).temperature
    assert got == pytest.approx(want, rel=1e-11)
    assert TemperatureScaling(7.0).fit(logits, labels).temperature == want


def test_one_error_at_a_huge_scale():
    # One wrong in 1,000: far from T = 1, where the softmax saturates.
    logits = torch.zeros(1000, 2, dtype=torch.float64)
    logits[:, 0] = 1e6
    labels = torch.zeros(1000, dtype=torch.long)
    labels[3] = 1
    assert TemperatureScaling().fit(logits, labels).temperature == pytest.approx(1e6 / math.log(999), rel=1e-12)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[2.0, 1.0], [0.0, 1.0]], [0, 1], "largest logit"),
        ([[2.0, 2.0], [0.0, 1.0]], [0, 1], "largest logit"),
        ([[1.0, 2.0], [2.0, 0.0]], [0, 1], "no more than chance"),
        ([[1.0, 0.0], [0.0, 1.0]], [0, 0], "no more than chance"),
        ([[1.0, 1.0], [3.0, 3.0]], [0, 1], "no more than chance"),
        ([[1.0], [3.0]], [0, 0], "no more than chance"),
        ([[1.0, math.nan]], [0], "not all finite"),
        ([[1.0, 0.0]], [2], "2 classes"),
        ([[1.0, 0.0]], [0, 1], "one integer class index"),
    ],
)
def test_data_without_a_best_temperature_are_refused(logits, labels, message):
    scaling = TemperatureScaling(3.0)
    with pytest.raises(ValueError, match=message):
        scaling.fit(torch.tensor(logits), torch.tensor(labels))
    assert scaling.temperature == 3.0 and scaling.n is None


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan, "2", None, True])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        TemperatureScaling(temperature)
    with pytest.raises(ValueError, match="temperature is"):
        TemperatureScaling.from_dict({"temperature": temperature})
    with pytest.raises(ValueError, match="folded is"):
        TemperatureScaling.from_dict({"temperature": 1.0, "folded": temperature})


def test_apply_keeps_the_dtype_and_probabilities_are_float64():
    logits = torch.tensor([[2.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    scaling = TemperatureScaling(2.0)
    assert scaling.apply(logits).dtype == torch.bfloat16 and scaling.apply(logits).tolist() == [[1.0, 0.0]]
    assert scaling.probabilities(logits)[0, 0].item() == pytest.approx(1 / (1 + math.exp(-1)), rel=1e-15)


def test_json_round_trip():
    logits, labels = drawn(n=50)
    for scaling in (TemperatureScaling(1.5), TemperatureScaling().fit(logits, labels)):
        again = TemperatureScaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
        assert vars(again) == vars(scaling)
    assert TemperatureScaling(1.5).to_dict() == {"temperature": 1.5, "folded": 1.0}
    with pytest.raises(ValueError, match="no 'temperature'"):
        TemperatureScaling.from_dict({"n": 3})


@torch.no_grad()
def test_the_folded_model_is_calibrated_without_our_code(tiny_clip, tmp_path):
    model, tokenizer = tiny_clip.double(), tiny_tokenizer()
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    head = ZeroShotHead.from_model(model, tokenizer, CLASSES, TEMPLATES[:1])
    scaling = TemperatureScaling(2.5)
    want = scaling.probabilities(head(encode_images(model, images)))
    head.bias.fill_(0.5)
    bias_logits = head(encode_images(model, images))

    scaling.fold_into(model, head)
    assert scaling.temperature == 1.0 and scaling.folded == 2.5
    torch.testing.assert_close(head(encode_images(model, images)), bias_logits / 2.5, rtol=1e-12, atol=1e-12)
    rebuilt = ZeroShotHead.from_model(model, tokenizer, CLASSES, TEMPLATES[:1])
    torch.testing.assert_close(rebuilt.weight, head.weight, rtol=1e-12, atol=1e-12)
    model.save_pretrained(tmp_path)
    plain = CLIPModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    tokens = tokenizer(class_prompts(CLASSES, TEMPLATES[:1]), padding=True, return_tensors="pt")["input_ids"]
    got = plain(pixel_values=images, input_ids=tokens).logits_per_image.softmax(dim=1)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)

    # Folded twice, the temperatures multiply; a further T of 1 changes no bit.
    before = model.logit_scale.clone()
    scaling.fold_into(model)
    assert torch.equal(model.logit_scale, before) and scaling.folded == 2.5
    scaling.temperature = 2.0
    scaling.fold_into(model)
    assert scaling.folded == 5.0 and model.logit_scale.item() == pytest.approx(before.item() - math.log(2), abs=1e-15)


def test_a_coarse_logit_scale_is_refused_unchanged(tiny_clip):
    scaling, model = TemperatureScaling(1.3), tiny_clip.to(torch.bfloat16)
    before = model.logit_scale.clone()
    with pytest.raises(ValueError, match="bfloat16 cannot hold the temperature"):
        scaling.fold_into(model)
    assert torch.equal(model.logit_scale, before) and scaling.temperature == 1.3
    model.float()
    head = ZeroShotHead(torch.ones(2, 3, dtype=torch.bfloat16), ["a", "b"])
    with pytest.raises(ValueError, match="head in torch.bfloat16"):
        scaling.fold_into(model, head)
    assert torch.equal(model.logit_scale, before.float())


#: Where a minimum lies can be seen in values of the function to the root of float64's precision, 1.5e-8, and no better.
MINIMUM = 1e-7

# ---- The usual way -------------------------------------------------------------------------------------------------


def by_lbfgs(logits, labels) -> float:
    """The temperature by L-BFGS on the negative log-likelihood in 1/T, in float64."""
    logits = logits.double()
    inverse = torch.ones((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [inverse], max_iter=200, tolerance_grad=1e-15, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits * inverse, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return 1 / inverse.item()


@pytest.mark.numbers
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("scale", [0.2, 1.0, 30.0])
def test_lbfgs_finds_the_same_temperature(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(400, 12, generator=generator)
    labels = torch.multinomial((1.5 * logits).softmax(dim=1), 1, generator=generator)[:, 0]
    labels = labels if seed % 2 else logits.argmax(dim=1)
    wrong = torch.rand(400, generator=generator) < 0.3
    labels = torch.where(wrong, torch.randint(0, 12, (400,), generator=generator), labels)
    found = TemperatureScaling().fit(scale * logits, labels).temperature
    assert found == pytest.approx(by_lbfgs(scale * logits, labels), rel=MINIMUM)


def test_what_is_stored_along_comes_back():
    scaling = TemperatureScaling(1.5)
    scaling.record = {"fitted_on": "validation", "history": [{"temperature": 1.5}]}
    again = TemperatureScaling.from_dict(json.loads(json.dumps(scaling.to_dict())))
    assert again.record == scaling.record and again.to_dict() == scaling.to_dict()
