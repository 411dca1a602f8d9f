# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CLIP-Adapter and Tip-Adapter-F: how they start, what trains, a run by hand, and what they refuse."""

import copy

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
from helpers.runs import BENCHMARK, Kill, Killed, assert_same_run
from helpers.runs import trainer_of as run_of
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import Subset
from transformers import CLIPModel

from hf_robustft import (
    Benchmark,
    ClipAdapterHead,
    ClipAdapterTrainer,
    FineTuneTrainer,
    TipAdapterFTrainer,
    TipAdapterHead,
    ZeroShotHead,
    cache_features,
    load_head,
)

TRAINERS = (ClipAdapterTrainer, TipAdapterFTrainer)


def cached(model, views=2, n=16):
    benchmark = Benchmark.from_dataset(image_dataset(n), name="train", role="train", templates=TEMPLATES)
    return cache_features(model, benchmark, tiny_processor(), views=views, seed=7, progress=False)


def trainer_of(cls, model, folder, dataset=None, **settings):
    options = {name: settings.pop(name) for name in ("head", "class_names", "templates") if name in settings}
    dataset = cached(model) if dataset is None else dataset
    return cls(
        model, arguments(folder, **settings), train_dataset=dataset, processing_class=tiny_processor(), **options
    )


@pytest.mark.numbers
def test_tip_adapter_f_starts_as_tip_adapter(tiny_clip, tmp_path):
    """From images and from cached features; its first loss is that of the cache as it was built."""
    zero_shot = ZeroShotHead.from_model(tiny_clip, tiny_tokenizer(), CLASSES, TEMPLATES)
    images = Benchmark.from_dataset(image_dataset(16), name="train", role="train", templates=TEMPLATES)
    features = cached(tiny_clip)
    tip = TipAdapterHead.around(zero_shot, features.features, features.labels, alpha=2.0, beta=3.0)
    options = {"tip_alpha": 2.0, "tip_beta": 3.0, "per_device_train_batch_size": 16, "max_steps": 1}
    options["warmup_steps"] = 0
    for dataset, views in ((features, {}), (images, {"tip_views": 2})):
        trainer = trainer_of(TipAdapterFTrainer, tiny_clip, tmp_path, dataset, **options, **views)
        for name, value in tip.state_dict().items():
            # Images are encoded in batches of another size.
            near = {"rtol": 0, "atol": 0} if dataset is features else {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(trainer.head.state_dict()[name], value, **near)
        trainer.train()
        embeds = normalize(features.features[0], dim=-1)
        expected = cross_entropy(tip(embeds), features.labels).item()
        assert step_logs(trainer)[0]["loss"] == pytest.approx(expected, rel=1e-6)
    assert not torch.equal(trainer.head.keys, tip.keys)


@pytest.mark.numbers
def test_other_data_sets_give_one_view_as_it_comes(tiny_clip, tmp_path):
    batch = random_batch(12)
    names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    trainer = TipAdapterFTrainer(
        tiny_clip, arguments(tmp_path), train_dataset=rows(batch), data_collator=stack, **names
    )
    with torch.no_grad():
        features = tiny_clip.get_image_features(pixel_values=batch["pixel_values"])
    features = getattr(features, "pooler_output", features)
    torch.testing.assert_close(trainer.head.keys, normalize(features, dim=-1), rtol=0, atol=1e-6)
    assert trainer.head.classes.tolist() == batch["labels"].tolist()
    features = cached(tiny_clip)
    classes = {"class_names": CLASSES, "templates": TEMPLATES}
    part = trainer_of(TipAdapterFTrainer, tiny_clip, tmp_path, Subset(features, [3, 9]), **classes).head
    torch.testing.assert_close(part.keys, normalize(features.features[0, [3, 9]], dim=-1), rtol=0, atol=1e-6)


@pytest.mark.numbers
def test_rows_of_images_have_the_keys_of_the_benchmark_that_they_become(tiny_clip, tmp_path):
    for given in ({}, {"tip_views": 2}):
        want = cached(tiny_clip, views=given.get("tip_views", 10), n=8).features.mean(dim=0)
        keys = trainer_of(TipAdapterFTrainer, tiny_clip, tmp_path, image_dataset(8), **given).head.keys
        torch.testing.assert_close(keys, normalize(want, dim=-1), rtol=0, atol=1e-6)


@pytest.mark.numbers
@pytest.mark.parametrize("cls", TRAINERS)
def test_a_run_equals_a_loop_by_hand(tiny_clip, tmp_path, cls):
    model = tiny_clip.double()
    features, start = cached(model, views=3), copy.deepcopy(model.state_dict())
    settings = {"num_train_epochs": 3, "optim": "sgd", "weight_decay": 0.1, "max_grad_norm": 0.0, "warmup_steps": 0}
    settings |= {"learning_rate": 0.5, "train_sampling_strategy": "sequential", "lr_scheduler_type": "constant"}
    trainer = trainer_of(cls, model, tmp_path, features, **settings)
    head, losses = copy.deepcopy(trainer.head), []
    trainer.train()
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=0.5, weight_decay=0.1)
    for epoch in range(3):
        for part in (slice(0, 8), slice(8, 16)):
            loss = cross_entropy(head(normalize(features.features[epoch, part], dim=-1)), features.labels[part])
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert [log["loss"] for log in step_logs(trainer)] == pytest.approx(losses, rel=1e-12)
    for name, value in head.state_dict().items():
        torch.testing.assert_close(trainer.head.state_dict()[name], value, rtol=0, atol=1e-12, msg=name)
    assert losses[-1] < losses[0]
    # The plain model of the folder is the one that the run started from.
    trainer.save_model(tmp_path / "final")
    plain = CLIPModel.from_pretrained(tmp_path / "final", dtype=torch.float64).state_dict()
    assert plain.keys() == start.keys() and all(torch.equal(plain[name], value) for name, value in start.items())
    found = load_head(tmp_path / "final")
    assert type(found) is type(head)
    assert all(torch.equal(value, trainer.head.state_dict()[name]) for name, value in found.state_dict().items())


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
@pytest.mark.parametrize("cls", TRAINERS)
def test_killed_and_resumed_equals_uninterrupted(tiny_clip, tmp_path, cls):
    settings = {"max_steps": 8, "logging_steps": 3, "save_steps": 4, **({"tip_views": 1} if cls is TipAdapterFTrainer else {})}
    whole = run_of(cls, tiny_clip, tmp_path / "whole", **settings)
    whole.train()
    with pytest.raises(Killed):
        run_of(cls, tiny_clip, tmp_path / "killed", callbacks=[Kill(4)], **settings).train()
    resumed = run_of(cls, tiny_clip, tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))
    assert_same_run(whole, resumed)
    assert type(load_head(tmp_path / "killed" / "checkpoint-8")) is type(whole.head)


def test_the_seed_draws_the_adapter_and_nothing_else_does(tiny_clip, tmp_path):
    def start(seed):
        torch.rand(seed)
        return trainer_of(ClipAdapterTrainer, tiny_clip, tmp_path, seed=seed).head.down

    assert torch.equal(start(3), start(3)) and not torch.equal(start(3), start(4))
    bound = 16**-0.5
    assert 0.8 * bound < start(3).abs().max() <= bound, "within 1 / sqrt(inputs), as torch.nn.Linear"


@pytest.mark.parametrize("cls", TRAINERS)
def test_features_of_another_model_are_refused(tiny_clip, tmp_path, cls):
    features = cached(copy.deepcopy(tiny_clip))
    with torch.no_grad():
        tiny_clip.visual_projection.weight.mul_(1.5)
    with pytest.raises(ValueError, match="another model"):
        trainer_of(cls, tiny_clip, tmp_path, features)


def test_a_head_to_start_from_is_linear(tiny_clip, tmp_path):
    linear = ZeroShotHead(torch.ones(4, 16), CLASSES)
    assert torch.equal(trainer_of(ClipAdapterTrainer, tiny_clip, tmp_path, head=linear).head.weight, torch.ones(4, 16))
    for cls in (*TRAINERS, FineTuneTrainer):
        data = BENCHMARK if cls is FineTuneTrainer else None
        with pytest.raises(ValueError, match="`head` is a ClipAdapterHead; give a linear one"):
            trainer_of(cls, tiny_clip, tmp_path, data, head=ClipAdapterHead.around(linear))


@pytest.mark.parametrize(
    ("cls", "dataset", "settings", "message"),
    [
        (ClipAdapterTrainer, "cached", {"clip_adapter_reduction": 3}, "reduction=3` does not divide the 16"),
        (TipAdapterFTrainer, "cached", {"tip_views": 2}, "`tip_views=2` was given and would do nothing"),
        (TipAdapterFTrainer, "unlabelled", {}, "Tip-Adapter.*labels"),
        (TipAdapterFTrainer, "stream", {"max_steps": 1, "tip_views": 2}, "Tip-Adapter keeps a key for each training image.*a stream"),
        (TipAdapterFTrainer, "none", {}, "Tip-Adapter keeps a key for each training image.*missing"),
        (TipAdapterFTrainer, "cached", {"class_names": CLASSES[:3]}, "`class_names=` are 'cat', 'dog', 'owl', and the labels"),
        (TipAdapterFTrainer, "nameless", {"class_names": CLASSES[:3]}, "cached images are 0 to 3, and the head has 3"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(tiny_clip, tmp_path, cls, dataset, settings, message):
    features = cached(tiny_clip, n=8)
    if dataset == "unlabelled":
        features.labels = None
    elif dataset == "nameless":
        features.class_names = None
    elif dataset == "none":
        features = None
    elif dataset == "stream":
        image_dataset(8).to_parquet(tmp_path / "train.parquet")
        place = {"path": "parquet", "data_files": str(tmp_path / "train.parquet"), "split": "train", "streaming": True}
        features = Benchmark("s", "train", CLASSES, TEMPLATES, **place)
    names = {"class_names": CLASSES, "templates": TEMPLATES}
    with pytest.raises(ValueError, match=message) as caught:
        args = arguments(tmp_path, **{k: v for k, v in settings.items() if k not in names})
        names |= {k: v for k, v in settings.items() if k in names}
        cls(tiny_clip, args, train_dataset=features, processing_class=tiny_processor(), **names)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("tip_alpha", -1), ("tip_beta", float("inf")), ("tip_views", 1.5)])
def test_settings_have_ranges(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}={value}` must"):
        arguments(tmp_path, **{name: value})
