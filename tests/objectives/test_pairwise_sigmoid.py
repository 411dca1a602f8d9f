# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The pairwise sigmoid loss and its distillation: plain loops, Transformers' own loss, parts of the whole, small losses."""

import math

import pytest
import torch
from torch import nn
from transformers import SiglipConfig, SiglipModel

from hf_robustft.objectives.pairwise_sigmoid import (
    pairwise_sigmoid_distillation_loss,
    pairwise_sigmoid_divergence,
    pairwise_sigmoid_loss,
    pairwise_sigmoid_loss_of_rows,
)

pytestmark = pytest.mark.numbers
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def parts(rows=6, dim=5, seed=0, scale=7.0, bias=-3.0):
    """Unit images and captions, scale and bias, each a leaf in float64."""
    generator = torch.Generator().manual_seed(seed)
    embeds = nn.functional.normalize(torch.randn(2, rows, dim, dtype=torch.float64, generator=generator), dim=-1)
    scalars = (torch.tensor(value, dtype=torch.float64) for value in (scale, bias))
    return [value.clone().requires_grad_() for value in (*embeds, *scalars)]


def logits(inputs):
    images, texts, scale, bias = inputs
    return scale * images @ texts.t() + bias


def assert_same(got, want, inputs):
    """Two losses and their gradients by all inputs are equal."""
    torch.testing.assert_close(got, want, **EXACT)
    # Both may be of the same logits.
    gradients = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (got, want))
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, **EXACT)


@pytest.mark.parametrize("labelled", [False, True])
def test_value_and_gradients_are_those_of_a_double_loop(labelled):
    inputs, labels = parts(), torch.tensor([0, 1, 0, 2, 1, 0])
    images, texts, scale, bias = inputs
    want = 0
    for i in range(6):
        for j in range(6):
            together = labels[i] == labels[j] if labelled else i == j
            logit = scale * (images[i] * texts[j]).sum() + bias
            want = want + torch.log1p(torch.exp(-logit if together else logit)) / 6
    got = pairwise_sigmoid_loss(*inputs, labels=labels if labelled else None)
    assert_same(got, want, inputs)


def test_it_is_the_loss_of_transformers():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 20, "max_position_embeddings": 6}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SiglipModel(SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 16, "patch_size": 8}))
        images, tokens = torch.randn(5, 3, 16, 16, dtype=torch.float64), torch.randint(0, 20, (5, 6))
    model = model.double().eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.0)
        model.logit_bias.fill_(-4.0)
    output = model(input_ids=tokens, pixel_values=images, return_loss=True)
    inputs = output.image_embeds, output.text_embeds
    got = pairwise_sigmoid_loss(*inputs, model.logit_scale.exp(), model.logit_bias)
    assert_same(got, output.loss, [*inputs, model.logit_scale, model.logit_bias])


#: Two labels, one, none, all; captions of classes 0 to 2, the third of a class that its own image has not.
LISTS = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]])
CAPTIONS = torch.tensor([1, 1, 2, 0, 2, 0])


def test_an_image_belongs_together_with_each_caption_of_one_of_its_classes():
    inputs = parts()
    images, texts, scale, bias = inputs
    want, positives = 0, 0
    for i in range(6):
        for j in range(6):
            together = CAPTIONS[j].item() in LISTS[i].nonzero()[:, 0].tolist()
            positives += together
            logit = scale * (images[i] * texts[j]).sum() + bias
            want = want + torch.log1p(torch.exp(-logit if together else logit)) / 6
    assert positives == 4 + 2 + 0 + 6 + 2 + 2
    got = pairwise_sigmoid_loss(*inputs, labels=LISTS, caption_labels=CAPTIONS)
    assert_same(got, want, inputs)
    chunks = [
        pairwise_sigmoid_loss_of_rows(rows, row_offset=2 * index, row_labels=of_rows, column_labels=CAPTIONS)
        for index, (rows, of_rows) in enumerate(zip(logits(inputs).split(2), LISTS.split(2), strict=True))
    ]
    assert_same(sum(chunks) / 3, got, inputs)
    with pytest.raises(ValueError, match="lists of labels"):
        pairwise_sigmoid_loss(*inputs, labels=LISTS)


def test_lists_of_one_label_each_are_labels():
    inputs, labels = parts(), torch.tensor([0, 1, 0, 2, 1, 0])
    lists = nn.functional.one_hot(labels, 3)
    assert_same(pairwise_sigmoid_loss(*inputs, labels=lists, caption_labels=labels), pairwise_sigmoid_loss(*inputs, labels=labels), inputs)


@pytest.mark.parametrize("labelled", [False, True])
def test_chunks_of_rows_average_to_the_whole(labelled):
    inputs, labels = parts(12), torch.arange(12) % 5
    rows = logits(inputs).split(4)
    chunks = [
        pairwise_sigmoid_loss_of_rows(
            part,
            row_offset=4 * index,
            row_labels=labels[4 * index : 4 * index + 4] if labelled else None,
            column_labels=labels if labelled else None,
        )
        for index, part in enumerate(rows)
    ]
    assert_same(sum(chunks) / 3, pairwise_sigmoid_loss(*inputs, labels=labels if labelled else None), inputs)


def test_distinct_labels_are_the_diagonal_and_one_label_makes_every_pair_a_positive():
    inputs = parts()
    assert_same(pairwise_sigmoid_loss(*inputs, labels=torch.arange(6)), pairwise_sigmoid_loss(*inputs), inputs)
    every = -nn.functional.logsigmoid(logits(inputs)).sum() / 6
    assert_same(pairwise_sigmoid_loss(*inputs, labels=torch.zeros(6)), every, inputs)


def test_of_one_pair_by_hand():
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert pairwise_sigmoid_loss(one, one, 3.0, -1.0).item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-14)


def test_small_losses_of_negatives_survive_float32():
    # One at a logit of -17 costs 4e-8; in float32, 17 is known to 2e-6.
    negatives = torch.full((2, 300_000), -17.0)
    loss = pairwise_sigmoid_loss_of_rows(negatives, row_labels=torch.zeros(2), column_labels=torch.ones(300_000))
    assert loss.item() == pytest.approx(300_000 * math.log1p(math.exp(-17)), rel=1e-4)
    # Both are about 1e-7 from yes, or from no.
    sure = torch.tensor([[17.0, -17.0]])
    other = sure + torch.tensor([[-1.0, 1.0]])
    want = [pairwise_sigmoid_divergence(other.to(dtype), sure.to(dtype)).item() for dtype in (torch.float32, torch.float64)]
    assert want[0] == pytest.approx(want[1], rel=1e-4) and want[1] > 0


# ---- Distillation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [pairwise_sigmoid_distillation_loss, pairwise_sigmoid_divergence])
def test_distillation_is_a_double_loop_over_answers(loss):
    inputs, of_teacher = parts(), parts(seed=1, scale=5.0, bias=-2.0)
    student, teacher = logits(inputs), logits(of_teacher)
    want = 0
    for i in range(6):
        for j in range(6):
            ours, theirs = (1 / (1 + torch.exp(-z[i, j])) for z in (student, teacher.detach()))
            for yes, wanted in ((ours, theirs), (1 - ours, 1 - theirs)):
                entropy = wanted.log() if loss is pairwise_sigmoid_divergence else 0
                want = want + wanted * (entropy - yes.log()) / 6
    got = loss(student, teacher)
    assert_same(got, want, inputs)
    got.backward()
    assert all(value.grad is None for value in of_teacher), "no gradient may reach the teacher"


def test_divergence_and_cross_entropy_have_one_gradient_and_equal_models_none():
    inputs, teacher = parts(), logits(parts(seed=1)).detach()
    losses = [loss(logits(inputs), teacher) for loss in (pairwise_sigmoid_distillation_loss, pairwise_sigmoid_divergence)]
    for one, two in zip(*(torch.autograd.grad(loss, inputs) for loss in losses), strict=True):
        torch.testing.assert_close(one, two, **EXACT)
    same = pairwise_sigmoid_divergence(logits(inputs), logits(inputs))
    assert same.item() == 0
    assert all(gradient.abs().max() < 1e-13 for gradient in torch.autograd.grad(same, inputs))


@pytest.mark.parametrize("loss", [pairwise_sigmoid_distillation_loss, pairwise_sigmoid_divergence])
def test_parts_of_a_distillation_average_to_the_whole(loss):
    inputs = parts(12)
    student, teacher = logits(inputs), logits(parts(12, seed=1))
    chunks = [loss(one, two) for one, two in zip(student.split(4), teacher.split(4), strict=True)]
    assert_same(sum(chunks) / 3, loss(student, teacher), inputs)


@pytest.mark.parametrize("shape", [(5, 4), (6, 4), (6,)])
def test_unequal_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="embeddings of one shape"):
        pairwise_sigmoid_loss(torch.ones(6, 5), torch.ones(shape), 1.0)
    for loss in (pairwise_sigmoid_distillation_loss, pairwise_sigmoid_divergence):
        with pytest.raises(ValueError, match="the same pairs"):
            loss(torch.ones(6, 5), torch.ones(shape))
