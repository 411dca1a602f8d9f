# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The baselines with a head: LP, LP-FT, L2-SP, CAR-FT and Lipsum-FT against their definitions, and what they share."""

import copy

import numpy as np
import pytest
import torch
from helpers import (
    CLASSES,
    TEMPLATES,
    arguments,
    assert_rounded,
    image_dataset,
    random_batch,
    rows,
    stack,
    step_logs,
    tiny_processor,
    tiny_tokenizer,
)
from torch.utils.data import IterableDataset

from hf_robustft import Benchmark, RobustTrainer, ZeroShotHead, cache_features, load_benchmark
from hf_robustft.modeling.features import encode_images
from hf_robustft.modeling.zero_shot import prompt_features
from hf_robustft.objectives.context_distillation import context_distillation_loss, context_embeddings
from hf_robustft.objectives.contrastive import ContrastiveMixin
from hf_robustft.objectives.croft import EnergyGradientMixin
from hf_robustft.objectives.cross_entropy import classification_loss
from hf_robustft.objectives.linear_probe import fit_linear_probe
from hf_robustft.objectives.random_text import RandomTextMixin, random_text_loss, random_texts
from hf_robustft.objectives.starting_weights import starting_weights_penalty
from hf_robustft.training.methods import METHODS

BASELINES = ("lp", "lp_ft", "l2_sp", "car_ft", "lipsum_ft")
#: The term of each method, and its setting.
TERMS = {
    "l2_sp": ("l2_sp", "l2_sp_weight"),
    "car_ft": ("context", "context_weight"),
    "lipsum_ft": ("random_text", "random_text_weight"),
}


def trainer_of(method, model, folder, dataset=None, collator=stack, **settings):
    options = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    options.update({key: settings.pop(key) for key in list(settings) if key in (*options, "head")})
    defaults = {"optim": "sgd", "learning_rate": 1e-2, "warmup_steps": 0, "max_steps": 4}
    dataset = rows(random_batch(24)) if dataset is None else dataset
    args = arguments(folder, **{**defaults, **settings})
    return METHODS[method](copy.deepcopy(model), args, train_dataset=dataset, data_collator=collator, **options)


def trained(*args, resume=None, **settings):
    trainer = trainer_of(*args, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def parts(trainer):
    """All that trained, by name."""
    modules = {"model": trainer.model, "head": trainer.head}
    return {f"{key}.{name}": p for key, module in modules.items() for name, p in module.named_parameters()}


def same(one, two):
    return all(torch.equal(value, parts(two)[name]) for name, value in parts(one).items())


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return torch.nn.functional.normalize(normal(*shape, seed=seed), dim=-1)


# ---- Definitions --------------------------------------------------------------------------------------------------


@pytest.mark.numbers
def test_l2_sp_by_hand():
    start = [normal(3, 4), normal(5)]
    weights = [(value + normal(*value.shape, seed=1)).requires_grad_() for value in start]
    penalty = starting_weights_penalty(zip(weights, start, strict=True))
    numbers = (torch.cat([value.flatten() for value in values]).tolist() for values in (weights, start))
    by_hand = sum((w - s) ** 2 for w, s in zip(*numbers, strict=True))
    assert penalty.item() == pytest.approx(by_hand, rel=1e-14)
    penalty.backward()
    for weight, value in zip(weights, start, strict=True):
        torch.testing.assert_close(weight.grad, 2 * (weight.detach() - value), rtol=0, atol=1e-14)


@pytest.mark.numbers
def test_context_distillation_by_hand():
    logits, start = normal(6, 3).requires_grad_(), normal(6, 3, seed=1)
    loss = context_distillation_loss(logits, start)
    q, p = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) for z in (logits.detach().numpy(), start.numpy()))
    by_hand = sum(p[i, k] * np.log(p[i, k] / q[i, k]) for i in range(6) for k in range(3)) / 6
    assert loss.item() == pytest.approx(by_hand, rel=1e-13)
    loss.backward()
    np.testing.assert_allclose(logits.grad.numpy(), (q - p) / 6, rtol=0, atol=1e-15)
    assert context_distillation_loss(start, start).abs() < 1e-15


@pytest.mark.numbers
def test_contexts_are_templates_averaged_over_classes():
    prompts = normal(4, 3, 5)
    contexts = []
    for template in range(3):
        mean = np.mean([prompts[c, template] / prompts[c, template].norm() for c in range(4)], axis=0)
        contexts.append(mean / np.linalg.norm(mean))
    np.testing.assert_allclose(context_embeddings(prompts).numpy(), contexts, rtol=0, atol=1e-15)


@pytest.mark.numbers
def test_random_text_loss_by_hand():
    images, start, texts, scale = unit(6, 5).requires_grad_(), unit(6, 5, seed=1), unit(7, 5, seed=2), torch.tensor(20.0).double()
    loss = random_text_loss(images, start, texts, scale)
    v = images.detach()
    change = [[float(scale * (v[i] @ texts[m] - start[i] @ texts[m])) for m in range(7)] for i in range(6)]
    assert loss.item() == pytest.approx(sum(sum(c * c for c in row) / (2 * 7) for row in change) / 6, rel=1e-13)
    loss.backward()
    by_hand = [sum(change[i][m] * float(scale) * texts[m] for m in range(7)) / (7 * 6) for i in range(6)]
    torch.testing.assert_close(images.grad, torch.stack(by_hand), rtol=1e-13, atol=1e-13)
    assert random_text_loss(start, start, texts, scale) == 0


def test_random_texts_are_a_function_of_seed_and_step(tiny_clip, tmp_path):
    texts = random_texts(range(60), (62, 63), 80, 8, seed=3, step=5)
    assert texts.shape == (80, 10) and (texts[:, 0] == 62).all() and (texts[:, -1] == 63).all()
    assert set(texts[:, 1:-1].flatten().tolist()) == set(range(60))
    assert torch.equal(texts, random_texts(range(60), (62, 63), 80, 8, seed=3, step=5))
    for other in ({"seed": 4, "step": 5}, {"seed": 3, "step": 6}):
        assert not torch.equal(texts, random_texts(range(60), (62, 63), 80, 8, **other))
    trainer = trainer_of("lipsum_ft", tiny_clip, tmp_path, random_texts=500)
    drawn = trainer.extra_texts()
    assert drawn.shape == (500, 10) and (drawn[:, 0] == 62).all() and (drawn[:, -1] == 63).all()
    assert set(drawn[:, 1:-1].flatten().tolist()) == set(range(62))


@pytest.mark.numbers
def test_two_objectives_with_texts_of_their_own_are_refused(tiny_clip, tmp_path):
    # CRoFT's took the random texts for its class prompts.
    class Both(RandomTextMixin, EnergyGradientMixin, ContrastiveMixin, RobustTrainer):
        method = "both"

    def trainer(**settings):
        names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
        args = arguments(tmp_path, max_steps=1, **settings)
        return Both(copy.deepcopy(tiny_clip), args, train_dataset=rows(random_batch(8)), data_collator=stack, **names)

    with pytest.raises(ValueError, match="RandomTextMixin and EnergyGradientMixin each have texts") as caught:
        trainer(random_texts=4).train()
    assert "\n" not in str(caught.value)
    alone = trainer(random_text_weight=0.0)
    alone.train()
    assert "loss/energy_gradient" in step_logs(alone)[0]


def test_the_linear_probe_is_where_its_objective_is_flat():
    embeds, labels = unit(60, 5), torch.arange(60) % 3
    # A class without images, and one that moves the mean.
    embeds = embeds + labels[:, None] / 4
    weight, bias = fit_linear_probe(embeds, labels, 4, inverse_penalty=0.5)
    assert not weight[3].any() and not bias[3]
    mean, deviation = embeds.mean(), embeds.std(correction=0)
    rows = (weight[:3] * deviation).requires_grad_()
    constants = (bias[:3] + (weight[:3] * mean).sum(dim=1)).requires_grad_()
    loss = torch.nn.functional.cross_entropy((embeds - mean) / deviation @ rows.t() + constants, labels, reduction="sum")
    (0.5 * loss + rows.square().sum() / 2).backward()
    assert rows.grad.abs().max() < 0.01 and constants.grad.abs().max() < 0.01
    # The head itself gives these logits.
    head = ZeroShotHead(weight, CLASSES, bias=bias)
    want = (embeds - mean) / deviation @ rows.t() + constants
    torch.testing.assert_close(head(embeds)[:, :3], want, rtol=0, atol=1e-12)


@pytest.mark.numbers
def test_the_linear_probe_of_two_classes_and_of_one():
    embeds, labels = unit(40, 5), torch.arange(40) % 2
    weight, bias = fit_linear_probe(embeds, labels, 2)
    torch.testing.assert_close(weight[0], -weight[1], rtol=0, atol=1e-15)
    from sklearn.linear_model import LogisticRegression

    z = ((embeds - embeds.mean()) / embeds.std(correction=0)).numpy()
    want = LogisticRegression(max_iter=200).fit(z, labels.numpy()).predict_proba(z)
    np.testing.assert_allclose((embeds @ weight.t() + bias).softmax(dim=1).numpy(), want, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="the same label"):
        fit_linear_probe(embeds, torch.ones(40, dtype=torch.long), 2)


@pytest.mark.numbers
def test_the_linear_probe_of_lists_is_a_regression_of_each_class_by_itself():
    from sklearn.linear_model import LogisticRegression

    embeds = unit(60, 5)
    labels = (torch.rand(60, 5, generator=torch.Generator().manual_seed(1)) < 0.3).long()
    # Nobody has the fourth class, and all have the fifth.
    labels[:, 3], labels[:, 4] = 0, 1
    embeds = embeds + labels[:, :1] / 4
    weight, bias = fit_linear_probe(embeds, labels, 5, inverse_penalty=0.5)
    z = (embeds - embeds.mean()) / embeds.std(correction=0)
    for index in range(3):
        want = LogisticRegression(C=0.5, max_iter=200).fit(z.numpy(), labels[:, index].numpy()).predict_proba(z.numpy())[:, 1]
        np.testing.assert_allclose((embeds @ weight[index] + bias[index]).sigmoid().numpy(), want, rtol=0, atol=1e-12)
        row = (weight[index] * embeds.std(correction=0)).requires_grad_()
        constant = (bias[index] + weight[index].sum() * embeds.mean()).requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(z @ row + constant, labels[:, index].double(), reduction="sum")
        (0.5 * loss + row.square().sum() / 2).backward()
        assert row.grad.abs().max() < 0.01 and constant.grad.abs() < 0.01
    assert not weight[3:].any() and bias[3:].tolist() == pytest.approx([np.log(0.5 / 60.5), np.log(60.5 / 0.5)], rel=1e-12)
    # Of two classes of which each image has one, either is the other's opposite.
    one = torch.nn.functional.one_hot(torch.arange(60) % 2, 2)
    weight, bias = fit_linear_probe(embeds, one, 2)
    torch.testing.assert_close(weight[0], -weight[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(bias[0], -bias[1], rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="the same labels"):
        fit_linear_probe(embeds, torch.ones(60, 2, dtype=torch.long), 2)


# ---- Runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.numbers
@pytest.mark.parametrize("method", TERMS)
def test_a_run_equals_a_loop_by_hand(tiny_clip, tmp_path, method):
    model, batch = tiny_clip.double(), random_batch(24, dtype=torch.float64)
    term, setting = TERMS[method]
    settings = {"max_grad_norm": 0.0, "weight_decay": 0.0, "lr_scheduler_type": "constant", "random_texts": 6}
    settings = {name: value for name, value in settings.items() if name != "random_texts" or method == "lipsum_ft"}
    trainer = trainer_of(
        method, model, tmp_path, rows(batch), train_sampling_strategy="sequential", **{setting: 0.5}, **settings
    )
    hand, start, head = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(trainer.head)
    trainer.train()
    scale, logs = start.requires_grad_(False).logit_scale.exp(), step_logs(trainer)
    contexts = context_embeddings(prompt_features(start, tiny_tokenizer(), CLASSES, TEMPLATES))
    tower = [*hand.vision_model.parameters(), *hand.visual_projection.parameters()]
    optimizer = torch.optim.SGD([*tower, *head.parameters()], lr=1e-2)
    for step in range(4):
        part = slice(8 * (step % 3), 8 * (step % 3) + 8)
        images = encode_images(hand, batch["pixel_values"][part])
        with torch.no_grad():
            before = encode_images(start, batch["pixel_values"][part])
        if method == "l2_sp":
            held = [*start.vision_model.parameters(), *start.visual_projection.parameters()]
            value = sum((p - q.detach()).pow(2).sum() for p, q in zip(tower, held, strict=True))
        elif method == "car_ft":
            p, q = ((scale * v @ contexts.t()).softmax(dim=1) for v in (before, images))
            value = (p * (p / q).log()).sum(dim=1).mean()
        else:
            ids = random_texts(range(62), (62, 63), 6, 8, seed=7, step=step)
            texts = torch.nn.functional.normalize(start.get_text_features(input_ids=ids).pooler_output, dim=-1)
            value = (scale * images @ texts.t() - scale * before @ texts.t()).pow(2).sum(dim=1).mean() / (2 * 6)
        assert logs[step][f"loss/{term}"] == pytest.approx(0.5 * value.item(), rel=1e-9, abs=1e-13)
        assert (value.item() < 1e-13) == (step == 0), "0 for the unchanged model, and for no other"
        (classification_loss(head(images), batch["labels"][part]) + 0.5 * value).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in hand.named_parameters():
        torch.testing.assert_close(trainer.model.get_parameter(name), parameter, rtol=0, atol=1e-11, msg=name)
    torch.testing.assert_close(trainer.head.weight, head.weight, rtol=0, atol=1e-11)


@pytest.mark.parametrize("method", TERMS)
def test_a_weight_of_0_is_ft_and_a_great_one_holds_back(tiny_clip, tmp_path, method):
    term, setting = TERMS[method]
    plain, none = trained("ft", tiny_clip, tmp_path), trained(method, tiny_clip, tmp_path, **{setting: 0})
    assert same(plain, none) and none.start is None
    values = []
    for weight in (1e-6, {"l2_sp": 300, "car_ft": 5, "lipsum_ft": 0.5}[method]):
        trainer = trained(method, tiny_clip, tmp_path, max_grad_norm=0.0, learning_rate=1e-3, **{setting: weight})
        values.append(step_logs(trainer)[-1][f"loss/{term}"] / weight)
    assert 0 < values[1] < 0.9 * values[0]


@pytest.mark.numbers
@pytest.mark.parametrize("method", BASELINES)
def test_a_resumed_run_is_the_uninterrupted_one(tiny_clip, tmp_path, method, monkeypatch):
    settings = {"save_strategy": "steps", "save_steps": 2, "optim": "adamw_torch"}
    whole = trained(method, tiny_clip, tmp_path, **settings)
    # The model of a later Trainer may be another; what a run holds on to is in the checkpoint.
    with torch.no_grad():
        other = copy.deepcopy(tiny_clip)
        if method != "lp":
            other.vision_model.post_layernorm.weight.mul_(2)
    again = trainer_of(method, other, tmp_path, **settings)
    monkeypatch.setattr(again, "embed_training_images", lambda: pytest.fail("the probe is not repeated"))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(whole, again) and step_logs(again) == step_logs(whole)


@pytest.mark.numbers
@pytest.mark.parametrize("method", [name for name, trainer in METHODS.items() if trainer.smooths_labels])
def test_label_smoothing_is_that_of_the_definition(tiny_clip, tmp_path, method):
    batch = random_batch(dtype=torch.float64)
    trainer = trainer_of(method, tiny_clip.double(), tmp_path, rows(batch), max_steps=1, label_smoothing_factor=0.3)
    seen = []
    trainer.head.register_forward_hook(lambda module, inputs, logits: seen.append((inputs[0].detach(), logits.detach())))
    trainer.train()
    images, logits = seen[0]
    order = (images @ encode_images(tiny_clip, batch["pixel_values"]).t()).argmax(dim=1)
    targets = 0.7 * torch.nn.functional.one_hot(batch["labels"][order], 4).double() + 0.3 / 4
    want = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean().item()
    assert step_logs(trainer)[0]["loss/cross_entropy"] == pytest.approx(want, rel=1e-9)


# ---- The head -----------------------------------------------------------------------------------------------------


@pytest.mark.numbers
def test_lp_trains_the_head_alone_on_images_and_on_cached_features(tiny_clip, tmp_path):
    data = Benchmark.from_dataset(image_dataset(24), name="train", role="train", templates=TEMPLATES)
    features = cache_features(tiny_clip, data, tiny_processor(), views=2, seed=7, progress=False)
    ends = []
    for source in (data, features):
        trainer = trained("lp", tiny_clip, tmp_path, source, collator=None, num_train_epochs=2, max_steps=-1, head_start="zeros")
        assert all(torch.equal(p, tiny_clip.get_parameter(name)) for name, p in trainer.model.named_parameters())
        assert trainer.head.weight.abs().max() > 1e-4
        assert step_logs(trainer)[0]["loss"] == pytest.approx(np.log(4), rel=1e-6)
        ends.append({"weight": trainer.head.weight.detach(), "bias": trainer.head.bias.detach()})
    assert_rounded(ends[0], ends[1])
    start = trainer_of("lp", tiny_clip, tmp_path, data, collator=None)
    torch.testing.assert_close(
        start.head.weight, ZeroShotHead.from_model(tiny_clip, tiny_tokenizer(), CLASSES, TEMPLATES).weight
    )
    with torch.no_grad():
        tiny_clip.visual_projection.weight.mul_(1.5)
    with pytest.raises(ValueError, match="another model"):
        trainer_of("lp", tiny_clip, tmp_path, features, collator=None)


@pytest.mark.numbers
def test_lp_ft_starts_from_the_probe_of_stored_streamed_and_bare_rows(tiny_clip, tmp_path):
    dataset = image_dataset(24)
    stored = Benchmark.from_dataset(dataset, name="train", role="train", templates=TEMPLATES)
    (tmp_path / "data").mkdir()
    dataset.to_parquet(tmp_path / "data" / "train.parquet")
    streamed = load_benchmark(str(tmp_path / "data"), role="train", templates=TEMPLATES, streaming=True)
    # In the batches of the Trainer: where the solver stops depends on the last bits of the features.
    one_view = cache_features(tiny_clip, stored, tiny_processor(), batch_size=8, progress=False)
    embeds = torch.nn.functional.normalize(one_view.features[0], dim=-1)
    want = fit_linear_probe(embeds, one_view.labels, 4)
    for source in (stored, dataset, streamed):
        trainer = trainer_of("lp_ft", tiny_clip, tmp_path, source, collator=None, learning_rate=1e-30)
        assert not torch.equal(trainer.head.weight, want[0])
        trainer.train()
        assert_rounded([trainer.head.weight.detach(), trainer.head.bias.detach()], list(want))
    moved = trained("lp_ft", tiny_clip, tmp_path, stored, collator=None)
    assert not torch.equal(moved.model.visual_projection.weight, tiny_clip.visual_projection.weight)
    assert not torch.equal(moved.head.weight, want[0])


def test_a_head_that_is_given_is_not_fitted(tiny_clip, tmp_path):
    head = ZeroShotHead(torch.ones(4, 16), CLASSES)
    trainer = trained("lp_ft", tiny_clip, tmp_path, head=head, learning_rate=1e-30)
    assert torch.equal(trainer.head.weight, head.weight)
    with pytest.raises(ValueError, match="`probe_inverse_penalty=2.0` was given and would do nothing"):
        trainer_of("lp_ft", tiny_clip, tmp_path, head=head, probe_inverse_penalty=2.0)
    with pytest.raises(ValueError, match="`head_start=zeros` was given and would do nothing.*`head=`"):
        trainer_of("ft", tiny_clip, tmp_path, head=head, head_start="zeros")


class Iterated(IterableDataset):
    def __iter__(self):
        return iter(rows(random_batch(24)))


def test_what_cannot_be_is_said_in_one_line(tiny_clip, tmp_path):
    batch = random_batch()
    batch.pop("labels")
    captions = image_dataset(24).remove_columns("label").add_column("text", ["a cat."] * 24)
    (tmp_path / "captions").mkdir()
    captions.to_parquet(tmp_path / "captions" / "train.parquet")
    stream = load_benchmark(str(tmp_path / "captions"), role="train", caption_column="text", streaming=True)
    cases = [
        *((method, {"dataset": stream, "collator": None}, "`labels`|no labels") for method in ("lp", "lp_ft")),
        ("lp", {"dataset": stream, "collator": None, "class_names": None}, "A head needs class names"),
        ("lp_ft", {"dataset": Iterated()}, "this Iterated has no rows"),
        ("lp", {"dataset": rows(batch)}, "needs `labels`"),
        ("lp_ft", {"dataset": rows(batch)}, "have no labels"),
        ("car_ft", {"templates": ("a {}.",)}, "only one, 'a {}.'.*`context_weight`"),
        ("lipsum_ft", {"random_text_length": 15}, "`random_text_length=15`.*reads 14 tokens"),
        ("lipsum_ft", {"processing_class": None, "head": ZeroShotHead(torch.ones(4, 16), CLASSES)}, "`processing_class=`"),
        ("car_ft", {"templates": None, "head": ZeroShotHead(torch.ones(4, 16), CLASSES)}, "also beside `head=`"),
        ("lp_ft", {"probe_inverse_penalty": 0}, "`probe_inverse_penalty=0` must be above 0"),
        *((method, {setting: -1}, f"`{setting}=-1` must") for method, (_, setting) in TERMS.items()),
        ("lipsum_ft", {"random_texts": 1.5}, "`random_texts=1.5` must"),
    ]
    for method, settings, message in cases:
        with pytest.raises(ValueError, match=message) as caught:
            trained(method, tiny_clip, tmp_path, **settings)
        assert "\n" not in str(caught.value), method
