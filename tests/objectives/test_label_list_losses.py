# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The loss of a head on lists of labels, and the bias that it starts from: plain loops, parts of the whole, the best of all."""

import math

import pytest
import torch
from torch import nn

from hf_robustft.objectives.multi_label import common_bias, multi_label_loss

pytestmark = pytest.mark.numbers
LABELS = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])


def logits(rows=4, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(rows, 3, dtype=torch.float64, generator=generator) + shift).requires_grad_()


def test_value_and_gradient_are_those_of_a_double_loop():
    given, want = logits(), 0
    for row in range(4):
        for column in range(3):
            logit = given[row, column]
            want = want + torch.log1p(torch.exp(-logit if LABELS[row, column] else logit)) / 4
    got = multi_label_loss(given, LABELS)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, given, retain_graph=True)[0] for loss in (got, want)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    # The closed form of the gradient, and torch's own loss of each class, summed.
    torch.testing.assert_close(gradients[0], (given.sigmoid() - LABELS) / 4, rtol=1e-12, atol=1e-12)
    mean = nn.functional.binary_cross_entropy_with_logits(given, LABELS.double())
    torch.testing.assert_close(got, 3 * mean, rtol=1e-12, atol=1e-12)


def test_parts_average_to_the_whole_and_sure_negatives_keep_their_loss():
    given, labels = logits(8), torch.cat([LABELS, 1 - LABELS])
    parts = [multi_label_loss(*part) for part in zip(given.split(2), labels.split(2), strict=True)]
    torch.testing.assert_close(sum(parts) / 4, multi_label_loss(given, labels), rtol=1e-12, atol=1e-12)
    sure = torch.full((2, 100_000), -17.0)
    assert multi_label_loss(sure, torch.zeros_like(sure)).item() == pytest.approx(1e5 * math.log1p(math.exp(-17)), rel=1e-4)
    with pytest.raises(ValueError, match=r"\(4,\)"):
        multi_label_loss(logits(), torch.arange(4))
    for unknown in (-1, 2, math.nan):
        labels = LABELS.double()
        labels[2, 1] = unknown
        with pytest.raises(ValueError, match=rf"{unknown} in `labels`.*0 or 1"):
            multi_label_loss(logits(), labels)


@pytest.mark.parametrize("shift", [0.0, 28.0, -500.0])
def test_the_common_bias_expects_as_many_labels_as_there_are_and_is_the_likeliest(shift):
    given = logits(shift=shift)
    bias = common_bias(given, LABELS)
    assert (given + bias).sigmoid().sum().item() == pytest.approx(LABELS.sum().item(), rel=1e-10)
    best = multi_label_loss(given + bias, LABELS)
    assert all(multi_label_loss(given + bias + step, LABELS) > best for step in (-1e-3, 1e-3))
    assert bias.item() + shift == pytest.approx(common_bias(logits(), LABELS).item(), abs=1e-9)


def test_of_equal_logits_it_is_the_share_of_labels_and_all_or_none_have_no_bias():
    assert common_bias(torch.zeros(4, 3), LABELS).item() == pytest.approx(math.log(6 / 6), abs=1e-12)
    more = LABELS.clone()
    more[1] = torch.tensor([1, 1, 0])
    assert common_bias(torch.full((4, 3), 2.0), more).item() == pytest.approx(math.log(8 / 4) - 2, abs=1e-12)
    for labels, word in ((torch.zeros(4, 3), "no label"), (torch.ones(4, 3), "every label")):
        with pytest.raises(ValueError, match=word):
            common_bias(logits(), labels)
    with pytest.raises(ValueError, match="shape"):
        common_bias(logits(), torch.arange(4))
