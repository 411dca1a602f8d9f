# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Ordinary fine-tuning: its loss, its start as the zero-shot classifier, what trains and what is saved."""

import copy
import math

import pytest
import torch
from helpers import (
    CLASSES,
    TEMPLATES,
    arguments,
    image_dataset,
    random_batch,
    rows,
    stack,
    step_logs,
    tiny_processor,
    tiny_tokenizer,
)
from torch.utils.data import ConcatDataset, Subset
from transformers import CLIPModel

from hf_robustft import Benchmark, CRoFTTrainer, FineTuneTrainer, ZeroShotHead
from hf_robustft.data.examples import TrainingExamples
from hf_robustft.data.labels import check_class_indices
from hf_robustft.modeling.features import encode_images
from hf_robustft.objectives.cross_entropy import classification_loss
from hf_robustft.training.methods import LPFTTrainer, TipAdapterFTrainer
from hf_robustft.training.schedules import reference_learning_rate

pytestmark = pytest.mark.numbers


def trainer_of(model, tmp_path, dataset=None, collator=stack, **settings):
    options = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    options.update({key: settings.pop(key) for key in list(settings) if key in (*options, "head")})
    dataset = rows(random_batch(16)) if dataset is None else dataset
    return FineTuneTrainer(
        model, arguments(tmp_path, **settings), train_dataset=dataset, data_collator=collator, **options
    )


def test_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]], dtype=torch.float64)
    right, wrong = -math.log(0.75), -math.log(0.25)
    assert classification_loss(logits, torch.tensor([1, 1])).item() == pytest.approx(right, abs=1e-15)
    assert classification_loss(logits, torch.tensor([0, 1])).item() == pytest.approx((right + wrong) / 2, abs=1e-15)
    smoothed = classification_loss(logits, torch.tensor([1, 1]), label_smoothing=0.2).item()
    assert smoothed == pytest.approx(0.9 * right + 0.1 * wrong, abs=1e-15)


@pytest.mark.parametrize("labels", [torch.tensor([0]), torch.tensor([[0], [1]]), torch.tensor([0, 1, 1])])
def test_one_label_a_row(labels):
    with pytest.raises(ValueError, match=r"\(2, 4\) need as many labels"):
        classification_loss(torch.zeros(2, 4), labels)


@pytest.mark.same_bits("the same head on the same features")
def test_head_starts_as_the_zero_shot_classifier(tiny_clip, tmp_path):
    zero_shot, batch = ZeroShotHead.from_model(tiny_clip, tiny_tokenizer(), CLASSES, TEMPLATES), random_batch()
    trainer = trainer_of(tiny_clip, tmp_path, rows(batch), max_steps=1, train_sampling_strategy="sequential")
    with torch.no_grad():
        images = encode_images(tiny_clip, batch["pixel_values"])
        logits = zero_shot(images)
        assert torch.equal(trainer.head(images), logits)
    trainer.train()
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"]).item()
    assert step_logs(trainer)[0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_image_tower_and_head_train_and_the_text_side_stays(tiny_clip, tmp_path):
    start = copy.deepcopy(tiny_clip.state_dict())
    trainer = trainer_of(tiny_clip, tmp_path, num_train_epochs=2, warmup_steps=0)
    head = copy.deepcopy(trainer.head.state_dict())
    trainer.train()
    moved = {name for name, value in tiny_clip.state_dict().items() if not torch.equal(value, start[name])}
    assert {n for n, _ in tiny_clip.named_parameters() if n.startswith(("vision_model", "visual_projection"))} == moved
    assert {name for name, p in tiny_clip.named_parameters() if p.requires_grad} == moved
    assert not torch.equal(trainer.head.weight, head["weight"]) and not torch.equal(trainer.head.bias, head["bias"])
    logs = step_logs(trainer)
    assert len(logs) == 4 and all(log["loss"] == log["loss/cross_entropy"] for log in logs)


@pytest.mark.parametrize("decay", [False, True])
def test_a_run_equals_a_loop_by_hand(tiny_clip, tmp_path, decay):
    # In particular, the head's gradient starts anew at every step although Trainer clears the model's only.
    model, hand = tiny_clip.double(), copy.deepcopy(tiny_clip)
    batch = random_batch(24, dtype=torch.float64)
    trainer = trainer_of(
        model,
        tmp_path,
        rows(batch),
        num_train_epochs=2,
        optim="sgd",
        lr_schedule="reference",
        warmup_steps=1,
        weight_decay=0.1 if decay else 0.0,
        decay_all_parameters=True,
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
    )
    head = copy.deepcopy(trainer.head)
    trainer.train()
    trained = [*hand.vision_model.parameters(), *hand.visual_projection.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(trained, lr=1e-3, weight_decay=0.1 if decay else 0.0)
    losses = []
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = reference_learning_rate(step, 6, 1, 1e-3)
        part = slice(8 * (step % 3), 8 * (step % 3) + 8)
        loss = classification_loss(head(encode_images(hand, batch["pixel_values"][part])), batch["labels"][part])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [log["loss"] for log in step_logs(trainer)] == pytest.approx(losses, rel=1e-12)
    torch.testing.assert_close(trainer.head.weight, head.weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(trainer.head.bias, head.bias, rtol=0, atol=1e-12)
    for name, parameter in hand.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=1e-12, msg=name)


def test_head_is_saved_beside_a_plain_clip_model(tiny_clip, tmp_path):
    trainer = trainer_of(tiny_clip, tmp_path, max_steps=2, warmup_steps=0)
    trainer.train()
    trainer.save_model(tmp_path / "final")
    loaded = ZeroShotHead.from_pretrained(tmp_path / "final")
    assert loaded.class_names == CLASSES
    assert torch.equal(loaded.weight, trainer.head.weight) and torch.equal(loaded.bias, trainer.head.bias)
    model = CLIPModel.from_pretrained(tmp_path / "final")
    assert not any("head" in name for name in model.state_dict())
    assert all(torch.equal(v, tiny_clip.state_dict()[n]) for n, v in model.state_dict().items())


def test_decay_reaches_the_heads_weight_not_its_bias(tiny_clip, tmp_path):
    for everything in (False, True):
        trainer = trainer_of(copy.deepcopy(tiny_clip), tmp_path, decay_all_parameters=everything)
        decay = {id(p): g["weight_decay"] for g in trainer.create_optimizer().param_groups for p in g["params"]}
        assert decay[id(trainer.head.weight)] == 0.1
        assert decay[id(trainer.head.bias)] == (0.1 if everything else 0.0)


def test_clipping_counts_the_heads_gradient(tiny_clip, tmp_path):
    # A small head hands little gradient on to the tower, so that its own is most of the norm.
    model, batch = copy.deepcopy(tiny_clip), random_batch()
    start = torch.randn(4, 16, generator=torch.Generator().manual_seed(0)) / 100
    head = ZeroShotHead(start, CLASSES)
    trainer = trainer_of(
        tiny_clip,
        tmp_path,
        rows(batch),
        head=ZeroShotHead(start, CLASSES),
        max_steps=2,
        optim="sgd",
        weight_decay=0.0,
        lr_schedule="reference",
        warmup_steps=1,
        max_grad_norm=0.01,
        train_sampling_strategy="sequential",
    )
    trainer.args.max_steps = 1
    trainer.train()
    classification_loss(head(encode_images(model, batch["pixel_values"])), batch["labels"]).backward()
    tower = [p.grad for p in (*model.vision_model.parameters(), *model.visual_projection.parameters())]
    norm = torch.cat([g.flatten() for g in [*tower, head.weight.grad, head.bias.grad]]).norm().item()
    assert torch.cat([g.flatten() for g in tower]).norm().item() < 0.9 * norm
    assert step_logs(trainer)[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)
    step = torch.cat([(trainer.head.weight - start).flatten(), trainer.head.bias]).norm().item()
    own = torch.cat([head.weight.grad.flatten(), head.bias.grad]).norm().item()
    assert step == pytest.approx(1e-3 * 0.01 * own / norm, rel=1e-3)


def test_a_head_may_be_given(tiny_clip, tmp_path):
    head = ZeroShotHead(torch.ones(4, 16), CLASSES)
    trainer = trainer_of(tiny_clip, tmp_path, head=head, class_names=None, templates=None, processing_class=None)
    assert torch.equal(trainer.head.weight, torch.ones(4, 16))


@pytest.mark.parametrize("cls", [FineTuneTrainer, TipAdapterFTrainer, CRoFTTrainer])
@pytest.mark.parametrize("kind", ["class_names", "head"])
def test_classes_in_another_order_than_the_labels_are_refused(tiny_clip, tmp_path, cls, kind):
    if (cls, kind) == (CRoFTTrainer, "head"):
        pytest.skip("CRoFT has no head")
    train = Benchmark.from_dataset(image_dataset(8), name="train", role="train", templates=TEMPLATES)

    def made(names, train=train):
        given = {"class_names": names} if kind == "class_names" else {"head": ZeroShotHead(torch.ones(len(names), 16), names)}
        return cls(copy.deepcopy(tiny_clip), arguments(tmp_path), train_dataset=train, processing_class=tiny_processor(), templates=TEMPLATES, **given)

    turned = ("bee", "cat", "dog", "owl")
    for names, words in ((turned, "'cat' has another number"), (("Cat", "owl", "DOG", "bee"), "'dog' has"), (CLASSES[:3], "nothing would be learned")):
        with pytest.raises(ValueError, match=f"`{kind}=`.*'cat', 'dog', 'owl', 'bee'.*{words}"):
            made(names)
    # A part of data, or several of them, name no classes themselves.
    examples = TrainingExamples.from_benchmark(train, tiny_processor())
    for part in (Subset(examples, range(4)), ConcatDataset([examples, Subset(examples, range(4))])):
        with pytest.raises(ValueError, match=f"`{kind}=`.*'cat' has another number"):
            made(turned, part)
        if kind == "class_names":
            made(CLASSES, part)
    # Other words for a class, and classes behind those of the training set, are the user's.
    for names in (("CAT", "a dog", "owl", "bee"), (*CLASSES, "fox")):
        made(names)


@pytest.mark.parametrize("missing", ["class_names", "templates", "processing_class"])
def test_a_head_needs_names_templates_and_processor(tiny_clip, tmp_path, missing):
    with pytest.raises(ValueError, match="head needs class names, templates and a processor"):
        trainer_of(tiny_clip, tmp_path, **{missing: None})


@pytest.mark.parametrize("cls", [FineTuneTrainer, LPFTTrainer, CRoFTTrainer, TipAdapterFTrainer])
@pytest.mark.parametrize("label", [-100, -1, 4])
def test_labels_that_are_no_class_stop_a_run_on_your_own_data(tiny_clip, tmp_path, cls, label):
    batch = random_batch(8)
    batch["labels"][5] = label
    options = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    with pytest.raises(ValueError, match=rf"(label|are|to) {label}.*4 classes"):
        cls(tiny_clip, arguments(tmp_path), train_dataset=rows(batch), data_collator=stack, **options).train()


def test_labels_of_a_batch_are_whole_numbers():
    for labels in (torch.zeros(2), torch.zeros(2, dtype=torch.bool)):
        with pytest.raises(ValueError, match="`labels`.*whole numbers"):
            classification_loss(torch.zeros(2, 4), labels)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        labels = torch.tensor([3, 0], dtype=dtype)
        check_class_indices(labels, 4)
        assert classification_loss(torch.zeros(2, 4), labels).item() == pytest.approx(math.log(4))


def test_labels_are_needed(tiny_clip, tmp_path):
    batch = random_batch()
    batch.pop("labels")
    with pytest.raises(ValueError, match="needs `labels` in every batch"):
        trainer_of(tiny_clip, tmp_path, dataset=rows(batch)).train()
