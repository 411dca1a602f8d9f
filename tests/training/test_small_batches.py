# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Batches of one class and of one image: every method trains on them with finite numbers, or says before that it cannot."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, step_logs, tiny_processor

from hf_robustft import Benchmark
from hf_robustft.modeling.feature_cache import CachedFeatures, image_fingerprint
from hf_robustft.objectives.context_distillation import context_distillation_loss
from hf_robustft.objectives.contrastive import ContrastiveMixin, contrastive_loss
from hf_robustft.objectives.energy_gradient import feature_shift_loss, shifted_features
from hf_robustft.objectives.random_text import random_text_loss
from hf_robustft.objectives.self_distillation import self_distillation_loss
from hf_robustft.training.given import Suggested
from hf_robustft.training.methods import METHODS, FLYPTrainer


def small_set(labels):
    """A training set with these labels, in this order."""
    rows = image_dataset(4 * len(labels))
    own = [[i for i, label in enumerate(rows["label"]) if label == c] for c in range(len(CLASSES))]
    return Benchmark.from_dataset(
        rows.select([own[label].pop(0) for label in labels]), name="small", role="train", templates=TEMPLATES
    )


def made(cls, model, folder, labels, **settings):
    settings = {"num_train_epochs": 1, "train_sampling_strategy": "sequential", "warmup_steps": 0, **settings}
    if cls.method == "tip_adapter_f":
        settings["tip_views"] = 0
    return cls(
        copy.deepcopy(model), arguments(folder, **settings), train_dataset=small_set(labels), processing_class=tiny_processor()
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_a_batch_of_one_class_and_on_one_of_one_image(tiny_clip, tmp_path, method):
    trainer = made(METHODS[method], tiny_clip, tmp_path, [2, 2, 1], per_device_train_batch_size=2)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    logs = step_logs(trainer)
    # A contrastive batch of one image has nothing to tell apart: it is dropped.
    assert len(logs) == (1 if issubclass(METHODS[method], ContrastiveMixin) else 2)
    for entry in logs:
        assert all(math.isfinite(value) for value in entry.values())
        assert entry["loss"] == pytest.approx(sum(v for key, v in entry.items() if key.startswith("loss/")), rel=1e-6)
        assert entry["grad_norm"] > 0
    modules = [trainer.model, *trainer.trainable_modules().values()]
    assert all(value.isfinite().all() for module in modules for value in module.parameters())
    if METHODS[method].trains_model:
        assert any(not torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_a_run_on_one_image_ends_before_it_begins_where_images_are_contrasted(tiny_clip, tmp_path):
    """Of a default batch the message is not to make it smaller, nor of a given one to make it greater."""
    of_default = made(FLYPTrainer, tiny_clip, tmp_path, [1], per_device_train_batch_size=Suggested(8, "default of flyp"))
    with pytest.raises(ValueError, match="one image.*no negatives.*at least two images") as caught:
        of_default.train()
    assert "\n" not in str(caught.value) and not step_logs(of_default)
    with pytest.raises(ValueError, match="1 examples, fewer than one global batch of 8.*give more images"):
        made(FLYPTrainer, tiny_clip, tmp_path, [1], per_device_train_batch_size=8).train()


def units(seed, *shape):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("scale", [1e-3, 100.0, 1e4])
def test_losses_of_one_class_by_hand(images, scale):
    """Sums over explicit loops, for a batch of one class and at scales of which float32 holds no exponential."""
    image, text, start, classes = (units(seed, n, 4) for seed, n in enumerate((images, images, images, 3)))
    labels = torch.full((images,), 1)

    def log_softmax(row):
        most = max(row)
        return [value - most - math.log(sum(math.exp(other - most) for other in row)) for value in row]

    def matrix(rows, columns):
        return [[scale * sum((a * b).tolist()) for b in columns] for a in rows]

    logits = matrix(image, text)
    if images > 1:
        # All captions are positives, each with the same share.
        both = [logits, list(map(list, zip(*logits, strict=True)))]
        want = sum(-sum(log_softmax(row)) / images for side in both for row in side) / (2 * images)
        assert contrastive_loss(image, text, scale, labels=labels).item() == pytest.approx(want, rel=1e-9)
    else:
        with pytest.raises(ValueError, match="one pair has no negatives"):
            contrastive_loss(image, text, scale, labels=labels)
    teacher, student = matrix(start, text), logits
    want = sum(
        -math.exp(p) * q
        for one, two in ((teacher, student), *[(list(zip(*teacher, strict=True)), list(zip(*student, strict=True)))])
        for wanted, given in zip(one, two, strict=True)
        for p, q in zip(log_softmax(wanted), log_softmax(given), strict=True)
    )
    found = self_distillation_loss(torch.tensor(student), torch.tensor(teacher)).item()
    assert found == pytest.approx(want / images, rel=1e-5, abs=1e-6)
    of_contexts, of_start = (torch.tensor(matrix(rows, classes), dtype=torch.float64) for rows in (image, start))
    want = sum(
        math.exp(p) * (p - q)
        for one, two in zip(of_start.tolist(), of_contexts.tolist(), strict=True)
        for p, q in zip(log_softmax(one), log_softmax(two), strict=True)
    )
    assert context_distillation_loss(of_contexts, of_start).item() == pytest.approx(want / images, rel=1e-9, abs=1e-12)
    change = (of_contexts - of_start).square().sum().item()
    found = random_text_loss(image, start, classes, torch.tensor(scale, dtype=torch.float64)).item()
    assert found == pytest.approx(change / (2 * 3 * images), rel=1e-9)
    shifted = shifted_features(image, torch.eye(4, dtype=torch.float64))
    want = -sum(log_softmax(row)[1] for row in matrix(shifted, classes)) / images
    want += sum(sum((a * b).tolist()) for a in shifted for b in image) / images**2
    assert feature_shift_loss(shifted, image, classes, labels, torch.tensor(scale)).item() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(("method", "what"), [("croft", "gradient is not finite at step 0"), ("lp", "cross_entropy = nan")])
def test_an_image_whose_feature_has_no_direction_stops_a_run_by_name(tiny_clip, tmp_path, method, what):
    """Zero has no direction: CRoFT's second derivative of a norm is not a number there, and neither is a unit feature."""
    features = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0))
    features[0, 2] = 0
    cached = CachedFeatures(features, torch.arange(4), CLASSES, TEMPLATES, image_fingerprint(tiny_clip))
    run = METHODS[method](tiny_clip, arguments(tmp_path), train_dataset=cached, processing_class=tiny_processor())
    with pytest.raises(FloatingPointError, match=f"{what}.*broken images") as caught:
        run.train()
    assert "\n" not in str(caught.value)
