# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Training on lists of labels: the terms by hand, chunks, accumulation, resume, what is learned, and which methods cannot."""

import copy
import warnings

import datasets
import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, step_logs, tiny_processor
from helpers.families import family_model, family_processor
from helpers.label_lists import label_lists, listed, listed_images, listed_rows
from helpers.runs import Kill, Killed, assert_same_run
from sklearn.linear_model import LogisticRegression

from hf_robustft import Benchmark, ZeroShotHead, cache_features, load_benchmark, load_head
from hf_robustft.evaluation.collect import collect_logits
from hf_robustft.modeling.features import encode_images
from hf_robustft.modeling.heads import MultiLabelHead
from hf_robustft.objectives.multi_label import common_bias
from hf_robustft.training.label_lists import serves_label_lists
from hf_robustft.training.methods import (
    METHODS,
    CRoFTTrainer,
    FineTuneTrainer,
    FLYPTrainer,
    LinearProbeTrainer,
    TRACERTrainer,
)

#: By family, the methods that can; of SigLIP, CaRot too where its constraint on linear projections is off.
ABLE = {
    "clip": ["ft", "clip_adapter", "lp", "lp_ft", "l2_sp", "car_ft", "lipsum_ft"],
    "siglip": ["tracer", "flyp", "ft", "covariance_anchor", "clip_adapter", "lp", "lp_ft", "l2_sp", "car_ft", "lipsum_ft"],
}


def trainer_of(method, family, folder, train=None, evaluation=None, callbacks=(), dtype=torch.float32, **settings):
    return METHODS[method](
        family_model(family).to(dtype),
        arguments(folder, **{"num_train_epochs": 1, "warmup_steps": 0, **settings}),
        train_dataset=listed() if train is None else train,
        eval_dataset=evaluation,
        processing_class=family_processor(family),
        callbacks=list(callbacks),
    )


def first_batch(trainer):
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


# ---- The terms -----------------------------------------------------------------------------------------------------


@pytest.mark.numbers
@pytest.mark.parametrize("method, family", [("flyp", "siglip"), ("ft", "siglip"), ("ft", "clip")])
def test_the_term_and_its_gradient_are_a_double_loop_over_images_and_classes(tmp_path, method, family):
    trainer = trainer_of(method, family, tmp_path, dtype=torch.float64)
    batch = first_batch(trainer)
    batch["pixel_values"] = batch["pixel_values"].double()
    model, labels = trainer.model, batch["labels"]
    assert labels.shape == (8, 4) and set(labels.unique().tolist()) == {0, 1}
    # SigLIP reads captions of one length.
    ids = torch.nn.functional.pad(batch["input_ids"], (0, 64 - batch["input_ids"].shape[1])) if family == "siglip" else batch["input_ids"]
    output = model(pixel_values=batch["pixel_values"], input_ids=ids)
    want = 0
    for image in range(8):
        if method == "flyp":
            columns = batch["caption_labels"].tolist()
            scale, bias = model.logit_scale.exp(), model.logit_bias
            logits = [scale * (output.image_embeds[image] * text).sum() + bias for text in output.text_embeds]
        else:
            columns, head = range(4), trainer.head
            embeds = output.image_embeds[image] / output.image_embeds[image].norm()
            logits = [(head.weight[c] * embeds).sum() + head.bias[c] for c in columns]
        for column, logit in zip(columns, logits, strict=True):
            sign = -1 if labels[image, column] else 1
            want = want + torch.log1p(torch.exp(sign * logit)) / 8
    (loss,) = trainer.loss_terms(trainer._encode_student(model, batch), batch).values()
    assert loss.item() == pytest.approx(want.item(), rel=1e-12)
    parts = {**dict(model.named_parameters()), **dict(getattr(trainer.head, "named_parameters", dict)())}
    trained = {name: value for name, value in parts.items() if value.requires_grad}
    assert ("logit_bias" in trained) == (method == "flyp") and ("bias" in trained) == (method == "ft")
    gradients = [torch.autograd.grad(of, list(trained.values()), allow_unused=True) for of in (loss, want)]
    for name, one, two in zip(trained, *gradients, strict=True):
        assert (one is None) == (two is None), name
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.numbers
def test_captions_name_a_class_of_their_image_and_any_class_for_an_image_without(tmp_path):
    trainer = trainer_of("flyp", "siglip", tmp_path, train=listed(n=24))
    lists, drawn = label_lists(24), [set() for _ in range(24)]
    for epoch in range(40):
        for row in range(24):
            example = trainer.train_dataset[(epoch, row)]
            assert CLASSES[example["caption_label"]] in example["caption"]
            assert example["label"] == [int(c in lists[row]) for c in range(4)]
            drawn[row].add(example["caption_label"])
    assert all(found == set(lists[row] or range(4)) for row, found in enumerate(drawn))


# ---- The whole of it -----------------------------------------------------------------------------------------------


@pytest.mark.numbers
@pytest.mark.parametrize("method, family", [("flyp", "siglip"), ("tracer", "siglip"), ("ft", "siglip"), ("ft", "clip")])
def test_chunks_and_accumulated_batches_are_whole_batches(tmp_path, method, family):
    def trained(**settings):
        plain = {"optim": "sgd", "learning_rate": 1e-4, "train_sampling_strategy": "sequential"}
        trainer = trainer_of(method, family, tmp_path, dtype=torch.float64, **plain, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.train()
        modules = {"model": trainer.model, **trainer.trainable_modules()}
        return {f"{key}.{name}": value for key, module in modules.items() for name, value in module.state_dict().items()}

    whole, start = trained(), family_model(family).double().state_dict()
    others = [{"contrastive_chunk_size": 3}]
    if method == "ft":
        # Pairs of a batch stand by themselves, so that two halves are the whole.
        others.append({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4})
    for settings in others:
        found = trained(**settings)
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    moved = [name for name, value in start.items() if not torch.equal(whole[f"model.{name}"], value)]
    assert ("logit_bias" in moved) == (method != "ft" and family == "siglip") and moved


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
@pytest.mark.parametrize("method, family", [("tracer", "siglip"), ("ft", "clip"), ("lp_ft", "clip"), ("clip_adapter", "clip")])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, method, family):
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 8}
    whole = trainer_of(method, family, tmp_path / "whole", **settings)
    whole.train()
    with pytest.raises(Killed):
        trainer_of(method, family, tmp_path / "killed", callbacks=[Kill(8)], **settings).train()
    resumed = trainer_of(method, family, tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-8"))
    assert_same_run(whole, resumed)


@pytest.mark.numbers
@pytest.mark.parametrize("method, family", [("clip_adapter", "clip"), ("clip_adapter", "siglip"), ("lp_ft", "clip"), ("lp_ft", "siglip")])
def test_a_run_equals_a_loop_by_hand_and_its_folder_says_the_same(tmp_path, method, family):
    settings = {"optim": "sgd", "weight_decay": 0.0, "max_grad_norm": 0.0, "learning_rate": 0.05, "lr_scheduler_type": "constant"}
    settings |= {"train_sampling_strategy": "sequential", "train_crop": "croft", "per_device_train_batch_size": 8}
    trainer = trainer_of(method, family, tmp_path, dtype=torch.float64, **settings)
    batches = [trainer._prepare_inputs(batch) for batch in trainer.get_train_dataloader()]
    hand, head = copy.deepcopy(trainer.model), copy.deepcopy(trainer.head)
    # Both stages: what the head starts from is fitted to the embeddings of the start, all at once.
    embeds, labels = trainer.embed_training_images()
    embeds = embeds.double()
    assert labels.tolist() == [[int(c in row) for c in range(4)] for row in label_lists(24)]
    with torch.no_grad():
        if method == "lp_ft":
            mean, deviation = embeds.mean(), embeds.std(correction=0)
            for index in range(4):
                found = LogisticRegression(max_iter=200).fit(((embeds - mean) / deviation).numpy(), labels[:, index].numpy())
                weight = torch.from_numpy(found.coef_[0]) / deviation
                head.weight[index], head.bias[index] = weight, found.intercept_[0] - weight.sum() * mean
        elif family == "clip":
            head.bias.fill_(common_bias(embeds @ head.weight.t(), labels))
    trainer.train()
    tower = [parameter for parameter in hand.parameters() if parameter.requires_grad] if method == "lp_ft" else []
    assert bool(tower) == (method == "lp_ft")
    trained = [*tower, *([head.down, head.up] if method == "clip_adapter" else head.parameters())]
    optimizer, losses = torch.optim.SGD(trained, lr=0.05), []
    for batch in batches:
        images = encode_images(hand, batch["pixel_values"].double())
        if method == "clip_adapter":
            adapted = torch.relu(torch.relu(images @ head.down.t()) @ head.up.t())
            images = torch.nn.functional.normalize(0.2 * adapted + 0.8 * images, dim=-1)
        logits, has = images @ head.weight.t() + head.bias, batch["labels"].double()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, has, reduction="sum") / len(has)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert [log["loss/binary_cross_entropy"] for log in step_logs(trainer)] == pytest.approx(losses, rel=1e-6)
    for name, value in head.state_dict().items():
        torch.testing.assert_close(trainer.head.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
    for name, value in hand.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], value, rtol=1e-6, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")
    # What is read again gives the same scores, as sigmoids.
    trainer.save_model(tmp_path / "final")
    model, found = type(trainer.model).from_pretrained(tmp_path / "final", dtype=torch.float64), load_head(tmp_path / "final")
    assert type(found) is type(trainer.head) and found.function == "sigmoid"
    given = {"progress": False, "processor": family_processor(family)}
    scores = [collect_logits(of, listed("id", seed=3), head=its, **given)[0] for of, its in ((trainer.model, trainer.head), (model, found))]
    torch.testing.assert_close(*scores, rtol=1e-10, atol=1e-10)


@pytest.mark.numbers
@pytest.mark.parametrize("method", ["clip_adapter", "lp_ft"])
def test_lists_of_one_label_each_are_questions_of_their_own(tmp_path, method):
    """They are those lists, and not one choice among classes: the term is the one of lists, on targets of one 1 a row."""
    lists = [[row % 4] for row in range(16)]
    rows = datasets.Dataset.from_dict({"image": listed_images(lists), "label": lists}, features=listed_rows().features)
    ones = Benchmark.from_dataset(rows, name="train", role="train", templates=TEMPLATES)
    trainer = trainer_of(method, "clip", tmp_path, train=ones, learning_rate=1e-12)
    trainer.train()
    assert trainer.head.function == "sigmoid"
    embeds, labels = trainer.embed_training_images()
    assert torch.equal(labels, torch.eye(4, dtype=labels.dtype).repeat(4, 1))
    expected = trainer.head.cpu()(embeds).double().sigmoid().sum(dim=0)
    if method == "lp_ft":
        # The intercept is not penalised, so that each class is expected as often as it is there.
        assert expected.tolist() == pytest.approx([4.0] * 4, abs=1e-2)
    else:
        bare = torch.nn.functional.linear(embeds, trainer.head.weight, trainer.head.bias).double().sigmoid()
        assert bare.sum().item() == pytest.approx(16, rel=1e-4) and len(set(trainer.head.bias.tolist())) == 1


@pytest.mark.numbers
@pytest.mark.parametrize("method, family, rate", [("ft", "clip", 1e-3), ("lp", "siglip", 1e-1), ("flyp", "siglip", 1e-3), ("clip_adapter", "siglip", 3e-2)])
def test_training_raises_the_average_precision_and_lowers_the_calibration_error(tmp_path, method, family, rate):
    trainer = trainer_of(
        method, family, tmp_path, train=listed(n=64, seed=1), evaluation=listed("validation", n=32, seed=2),
        learning_rate=rate, num_train_epochs=8, per_device_train_batch_size=16, train_crop="croft",
    )  # fmt: skip
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_validation/map"] > before["eval_validation/map"] + 0.1, (before, after)
    assert after["eval_validation/ece"] < before["eval_validation/ece"], (before, after)


@pytest.mark.numbers
def test_the_best_checkpoint_is_chosen_by_the_average_precision(tmp_path):
    trainer = trainer_of(
        "ft", "clip", tmp_path, evaluation=listed("validation", seed=2), learning_rate=1e-2, num_train_epochs=3,
        save_strategy="epoch", eval_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="map",
    )  # fmt: skip
    assert trainer.args.metric_for_best_model == "eval_validation/map" and trainer.args.greater_is_better
    trainer.train()
    seen = [entry["eval_validation/map"] for entry in trainer.state.log_history if "eval_validation/map" in entry]
    assert len(seen) == 3 and trainer.state.best_metric == max(seen)
    assert trainer.evaluate()["eval_validation/map"] == pytest.approx(max(seen), abs=1e-6)


# ---- The head at the start -----------------------------------------------------------------------------------------


@pytest.mark.numbers
def test_the_head_starts_as_the_models_own_probabilities_or_with_a_bias_that_expects_the_labels(tmp_path):
    siglip, train = family_model("siglip"), listed()
    logits, _ = collect_logits(siglip, train, family_processor("siglip"), progress=False)
    head = trainer_of("ft", "siglip", tmp_path).head
    assert isinstance(head, MultiLabelHead) and head.bias.tolist() == [-1.5] * 4
    found, _ = collect_logits(siglip, train, family_processor("siglip"), head=head, progress=False)
    torch.testing.assert_close(found, logits - 1.5, rtol=0, atol=1e-5)
    trainer = trainer_of("lp", "clip", tmp_path, learning_rate=1e-12)
    assert trainer.head.bias.tolist() == [0] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.train()
    logits, labels = collect_logits(trainer.model, train, tiny_processor(), head=trainer.head, progress=False)
    assert len(set(trainer.head.bias.tolist())) == 1 and trainer.head.bias[0].item() != 0
    assert logits.double().sigmoid().sum().item() == pytest.approx(labels.sum().item(), rel=1e-4)


def test_features_that_were_cached_train_as_images_do(tiny_clip, tmp_path):
    train = listed()
    cached = cache_features(tiny_clip, train, tiny_processor(), views=0, progress=False)
    assert cached.several == 4 and cached.labels.shape == (24, 4)
    trainer = LinearProbeTrainer(
        tiny_clip, arguments(tmp_path, num_train_epochs=1), train_dataset=cached, processing_class=tiny_processor()
    )
    trainer.train()
    assert {"loss/binary_cross_entropy"} == {key for key in step_logs(trainer)[0] if key.startswith("loss/")}


# ---- Streams -------------------------------------------------------------------------------------------------------


def test_a_stream_gives_the_same_examples(tmp_path):
    listed_rows().to_parquet(tmp_path / "train.parquet")
    stream = load_benchmark(tmp_path / "train.parquet", role="train", class_names=CLASSES, templates=TEMPLATES, streaming=True)
    trainer = METHODS["flyp"](
        family_model("siglip"), arguments(tmp_path / "out", max_steps=3), train_dataset=stream, processing_class=family_processor("siglip")
    )
    assert trainer.multi_label and trainer.train_dataset.several == 4
    trainer.train()
    lists = label_lists(24)
    found = [example for (_, example), _ in zip(trainer.train_dataset.examples(), range(24), strict=False)]
    wanted = [[int(c in labels) for c in range(4)] for labels in lists]
    assert sorted(example["label"] for example in found) == sorted(wanted)
    assert all(example["label"][example["caption_label"]] or not any(example["label"]) for example in found)


# ---- What cannot be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ABLE)
def test_methods_that_cannot_are_refused_with_those_that_can(tmp_path, family):
    able = [name for name, trainer in METHODS.items() if serves_label_lists(trainer, "sigmoid" if family == "siglip" else "softmax")]
    assert [name for name in able if name != "carot" or family == "clip"] == ABLE[family]
    for method in METHODS:
        if method in ABLE[family]:
            assert trainer_of(method, family, tmp_path).multi_label
            continue
        with pytest.raises(ValueError) as caught:
            trainer_of(method, family, tmp_path)
        said = str(caught.value)
        assert "\n" not in said
        if "lists of labels" in said:
            assert f"choose one of {', '.join(ABLE[family])}," in said and "label_column" in said
        else:
            # What the model lacks for the method was found before.
            assert family == "siglip" and "projections" in said
    assert trainer_of("carot", "siglip", tmp_path, orthogonality_weight=0.0, cross_frobenius_weight=0.0).multi_label if family == "siglip" else True


def test_settings_for_one_label_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`contrastive_positives=diagonal`"):
        trainer_of("flyp", "siglip", tmp_path, contrastive_positives="diagonal")
    assert trainer_of("flyp", "siglip", tmp_path).args.contrastive_positives == "same_label"
    with pytest.raises(ValueError, match="`label_smoothing_factor=0.1`"):
        trainer_of("ft", "clip", tmp_path, label_smoothing_factor=0.1)
    heads = [kind(torch.zeros(4, 16), CLASSES) for kind in (ZeroShotHead, MultiLabelHead)]
    single = Benchmark.from_dataset(image_dataset(12), name="train", role="train", templates=TEMPLATES)
    for data, right, wrong in ((single, *heads), (listed(), *heads[::-1])):
        with pytest.raises(ValueError, match=f"`head` is a {type(wrong).__name__}.*a `{type(right).__name__}`"):
            FineTuneTrainer(family_model("clip"), arguments(tmp_path), train_dataset=data, processing_class=tiny_processor(), head=wrong)


def test_images_with_captions_of_their_own_are_contrasted_by_these_alone(tmp_path):
    rows = listed_rows().add_column("text", [f"picture {row}" for row in range(24)])
    train = Benchmark.from_dataset(rows, name="train", role="train", class_names=CLASSES, caption_column="text")
    trainer = trainer_of("flyp", "clip", tmp_path, train=train)
    assert not trainer.multi_label and trainer.args.contrastive_positives == "diagonal"
    trainer.train()
    with pytest.raises(ValueError, match="contrastive_positives=same_label"):
        trainer_of("flyp", "clip", tmp_path, train=train, contrastive_positives="same_label")


def test_images_without_any_label_at_all_teach_nothing(tmp_path):
    rows = listed_rows().map(lambda row: {"label": []})
    train = Benchmark.from_dataset(rows, name="train", role="train", class_names=CLASSES, templates=TEMPLATES)
    with pytest.raises(ValueError, match="no label at all"):
        trainer_of("ft", "clip", tmp_path, train=train).train()


def test_users_of_the_public_names_are_served():
    assert serves_label_lists(TRACERTrainer, "sigmoid") and not serves_label_lists(CRoFTTrainer, "softmax")
    assert not serves_label_lists(FLYPTrainer, "softmax")
