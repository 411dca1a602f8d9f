# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The contrastive loss: reference values and gradients, symmetry, parts of the whole, and what is refused."""

import math
from types import SimpleNamespace

import pytest
import torch
from helpers import arguments, assert_golden, tolerance

from hf_robustft import ContrastiveMixin
from hf_robustft.modeling.features import ClipFeatures
from hf_robustft.objectives.contrastive import contrastive_loss, contrastive_loss_of_rows

pytestmark = pytest.mark.numbers

# The reference computes soft targets in float32 only.
CASES = [(case, tag) for case in ("plain0", "plain1", "ls0") for tag in ("f64", "f32")] + [("groundlabels0", "f32")]


class Alone(ContrastiveMixin):
    """The mixin without a Trainer, in one process."""

    encoder = SimpleNamespace(similarity="softmax")

    def __init__(self, **settings):
        self.args = SimpleNamespace(
            **{"contrastive_positives": "diagonal", "contrastive_label_smoothing": 0.0, **settings}
        )

    def gather_rows(self, rows):
        return rows


def unit(rows, dim, seed):
    embeds = torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return embeds / embeds.norm(dim=1, keepdim=True)


def features(rows=6, scale=9.0):
    return ClipFeatures(unit(rows, 5, 0), unit(rows, 5, 1), torch.tensor(scale, dtype=torch.float64))


@pytest.mark.parametrize(("case", "tag"), CASES)
def test_golden(golden, case, tag):
    data, manifest = golden("a_clip_loss"), golden.manifest("a_clip_loss")
    limits, dtype = tolerance(manifest["tolerance"][tag]), torch.float64 if tag == "f64" else torch.float32
    image, text = (data[f"{case}/{kind}_features"].to(dtype, copy=True).requires_grad_() for kind in ("image", "text"))
    log_scale = data[f"{case}/log_scale"].to(dtype, copy=True).requires_grad_()
    scale = log_scale.exp()
    scale.retain_grad()
    loss = contrastive_loss(
        image,
        text,
        scale,
        labels=data.get(f"{case}/labels"),
        label_smoothing=manifest["cases"][case]["label_smoothing"],
    )
    loss.backward()
    got = {"loss": loss, "grad_image": image.grad, "grad_text": text.grad}
    got |= {"grad_log_scale": log_scale.grad, "grad_scale": scale.grad}
    both = ClipFeatures(image, text, scale)
    got |= {"logits_per_image": both.logits_per_image, "logits_per_text": both.logits_per_text}
    for name, value in got.items():
        assert_golden(value, data[f"{case}/{name}_{tag}"], limits, name)


def test_two_pairs_by_hand():
    # Logits [[2, 0], [1, 3]]: rows give softplus(-2) each way of 2-0 and 3-1, columns of 2-1 and 3-0.
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    softplus = [math.log1p(math.exp(-gap)) for gap in (2, 2, 1, 3)]
    assert contrastive_loss_of_rows(logits, logits.t()).item() == pytest.approx(sum(softplus) / 4, abs=1e-14)


def test_uninformative_embeddings_cost_log_of_the_batch():
    same = torch.ones(7, 3, dtype=torch.float64) / math.sqrt(3)
    assert contrastive_loss(same, same, 50.0).item() == pytest.approx(math.log(7), abs=1e-12)


def test_swapping_images_and_captions_changes_nothing():
    images, texts = unit(9, 5, 0), unit(9, 5, 1)
    labels = torch.arange(9) % 3
    for options in ({}, {"label_smoothing": 0.2}, {"labels": labels}):
        forth, back = (contrastive_loss(a, b, 8.0, **options) for a, b in ((images, texts), (texts, images)))
        assert forth.item() == pytest.approx(back.item(), abs=1e-12)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(4))
    shuffled = contrastive_loss(images[order], texts[order], 8.0)
    assert shuffled.item() == pytest.approx(contrastive_loss(images, texts, 8.0).item(), abs=1e-12)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_chunks_of_rows_average_to_the_whole(labelled, smoothing):
    images, texts = unit(12, 5, 0), unit(12, 5, 1)
    labels = torch.arange(12) % 5 if labelled else None
    whole = contrastive_loss(images, texts, 9.0, labels=labels, label_smoothing=smoothing)
    scale, chunks = torch.tensor(9.0, dtype=torch.float64), []
    for start in range(0, 12, 4):
        part = slice(start, start + 4)
        own = ClipFeatures(images[part], texts[part], scale, images, texts, row_offset=start)
        chunks.append(
            contrastive_loss_of_rows(
                own.logits_per_image,
                own.logits_per_text,
                row_offset=start,
                row_labels=labels[part] if labelled else None,
                column_labels=labels,
                label_smoothing=smoothing,
            )
        )
    assert torch.stack(chunks).mean().item() == pytest.approx(whole.item(), abs=1e-12)


def test_distinct_labels_are_the_diagonal_and_equal_labels_share():
    images, texts = unit(6, 5, 0), unit(6, 5, 1)
    plain = contrastive_loss(images, texts, 9.0).item()
    assert contrastive_loss(images, texts, 9.0, labels=torch.arange(6)).item() == pytest.approx(plain, abs=1e-12)
    # With one label for all, every column is the target in equal parts: minus the mean log-probability.
    logits = 9.0 * images @ texts.t()
    mean = -(logits.log_softmax(1).mean() + logits.log_softmax(0).mean()) / 2
    shared = contrastive_loss(images, texts, 9.0, labels=torch.zeros(6, dtype=torch.long))
    assert shared.item() == pytest.approx(mean.item(), abs=1e-12)


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match="one pair has no negatives.*per_device_train_batch_size"):
        contrastive_loss(unit(1, 5, 0), unit(1, 5, 1), 9.0)


@pytest.mark.parametrize("shape", [(5, 4), (6, 4), (6,)])
def test_unequal_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="embeddings of one shape"):
        contrastive_loss(torch.ones(6, 5), torch.ones(shape), 1.0)


def test_mixin_term_is_the_function():
    batch = {"labels": torch.arange(6) % 2}
    clip = features()
    plain = Alone().loss_terms(clip, batch)
    assert plain.keys() == {"contrastive"}
    torch.testing.assert_close(plain["contrastive"], contrastive_loss(clip.image_embeds, clip.text_embeds, 9.0))
    labelled = Alone(contrastive_positives="same_label").loss_terms(clip, batch)["contrastive"]
    expected = contrastive_loss(clip.image_embeds, clip.text_embeds, 9.0, labels=batch["labels"])
    torch.testing.assert_close(labelled, expected)
    smoothed = Alone(contrastive_label_smoothing=0.3).loss_terms(clip, {})["contrastive"]
    expected = contrastive_loss(clip.image_embeds, clip.text_embeds, 9.0, label_smoothing=0.3)
    torch.testing.assert_close(smoothed, expected)


def test_same_label_needs_labels():
    with pytest.raises(ValueError, match="same_label.*needs a label column"):
        Alone(contrastive_positives="same_label").loss_terms(features(), {})


def test_a_lonely_pair_is_refused_before_training_and_incomplete_batches_are_dropped(tmp_path):
    with pytest.raises(ValueError, match="per_device_train_batch_size=1.*without negatives"):
        Alone().validate_arguments(arguments(tmp_path, per_device_train_batch_size=1))
    args = arguments(tmp_path)
    Alone().validate_arguments(args)
    assert args.dataloader_drop_last is True
