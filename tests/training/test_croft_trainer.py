# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CRoFT in the Trainer: what trains, what is exported, what it may be combined with, and what it refuses."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import CLASSES, TEMPLATES, arguments, image_dataset, step_logs, tiny_processor
from helpers.families import family_model, family_processor
from safetensors.torch import load_file
from transformers import CLIPModel

from hf_robustft import (
    Benchmark,
    CaRotCRoFTTrainer,
    CRoFTTrainer,
    EnergyGradientMixin,
    FeatureAdapters,
    RobustTrainer,
    ZeroShotHead,
    load_adapters,
)
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.feature_cache import cache_features
from hf_robustft.modeling.features import encode_images
from hf_robustft.modeling.zero_shot import prompt_features
from hf_robustft.objectives.singular_value import orthogonality_penalty

BENCHMARK = Benchmark.from_dataset(image_dataset(24), name="tiny", role="train", templates=TEMPLATES)
TEST = Benchmark.from_dataset(image_dataset(12, seed=5), name="test", role="id", templates=TEMPLATES)


def trainer_of(cls, model, folder, dataset=BENCHMARK, **settings):
    options = {name: settings.pop(name) for name in ("adapters", "class_names", "templates") if name in settings}
    return cls(
        copy.deepcopy(model),
        arguments(folder, **{"num_train_epochs": 2, "learning_rate": 0.05, "optim": "sgd", **settings}),
        train_dataset=dataset,
        eval_dataset=TEST,
        processing_class=tiny_processor(),
        **options,
    )


def test_only_the_adapters_train_and_the_model_stays_in_eval_mode(tiny_clip, tmp_path):
    trainer = trainer_of(CRoFTTrainer, tiny_clip, tmp_path)
    trainer.train()
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, tiny_clip.state_dict()[name]), name
    assert not trainer.model.training
    for matrix in (*trainer.adapters.parameters(), trainer.generator.weight):
        assert not torch.equal(matrix, torch.eye(16))
    terms = {"classification", "shift_classification", "shift_alignment", "energy_gradient"}
    assert {name.removeprefix("loss/") for name in step_logs(trainer)[0] if name.startswith("loss/")} == terms


def test_with_trainable_encoders_everything_trains(tiny_clip, tmp_path):
    trainer = trainer_of(CaRotCRoFTTrainer, tiny_clip, tmp_path, optim="adamw_torch", learning_rate=1e-3)
    trainer.train()
    for name, value in trainer.model.named_parameters():
        assert not torch.equal(value, tiny_clip.state_dict()[name]) or name.endswith("k_proj.bias"), name
    for matrix in (*trainer.adapters.parameters(), trainer.generator.weight):
        assert not torch.equal(matrix, torch.eye(16))
    logs = step_logs(trainer)
    assert {"loss/contrastive", "loss/orthogonality", "loss/energy_gradient"} <= set(logs[0])
    assert "loss/self_distillation" in logs[1]


@pytest.mark.same_bits("the same merge of the same matrices; outputs have a tolerance")
@pytest.mark.parametrize("cls", [CRoFTTrainer, CaRotCRoFTTrainer])
def test_the_export_is_the_adapted_model(tiny_clip, tmp_path, cls):
    trainer = trainer_of(cls, tiny_clip.double(), tmp_path / "run")
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    saved = CLIPModel.from_pretrained(tmp_path / "out", dtype=torch.float64)
    pixels = torch.randn(5, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = F.normalize(trainer.adapters.adapt_images(DualEncoder.of(trainer.model.eval()).image_features(pixels)), dim=-1)
        torch.testing.assert_close(encode_images(saved, pixels), own, rtol=0, atol=1e-12)
        assert (encode_images(trainer.model, pixels) - own).abs().max() > 1e-6
    # The Trainer's evaluation is of that model, and leaves the weights that train as they are.
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    metrics = trainer.evaluate()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    head = ZeroShotHead.from_model(saved, tiny_processor(), CLASSES, TEMPLATES)
    again = trainer._evaluator.evaluate(saved).metrics()
    assert metrics["eval_test/nll"] == pytest.approx(again["test/nll"], rel=1e-12) and head.weight.shape == (4, 16)
    # Trained on from there, the unmerged projections are back.
    adapters = load_adapters(saved, tmp_path / "out")
    assert torch.equal(saved.visual_projection.weight, trainer.model.visual_projection.weight)
    assert torch.equal(adapters.text_adapter, trainer.adapters.text_adapter)


@pytest.mark.same_bits("read from the file, nothing is computed")
def test_training_goes_on_from_saved_adapters(tiny_clip, tmp_path):
    first = trainer_of(CRoFTTrainer, tiny_clip, tmp_path / "first")
    first.train()
    first.save_model(str(tmp_path / "out"))
    model = CLIPModel.from_pretrained(tmp_path / "out")
    adapters = load_adapters(model, tmp_path / "out")
    second = trainer_of(CRoFTTrainer, model, tmp_path / "second", adapters=adapters)
    assert torch.equal(second.adapters.image_adapter, first.adapters.image_adapter)
    second.train()
    assert step_logs(second)[0]["loss"] < step_logs(first)[0]["loss"]


def test_checkpoints_hold_the_unmerged_weights(tiny_clip, tmp_path):
    trainer = trainer_of(CRoFTTrainer, tiny_clip, tmp_path, save_strategy="steps", save_steps=3)
    trainer.train()
    saved = load_file(tmp_path / "checkpoint-3" / "model.safetensors")
    assert torch.equal(saved["visual_projection.weight"], tiny_clip.visual_projection.weight)
    model = CLIPModel.from_pretrained(tmp_path / "checkpoint-3")
    adapters = load_adapters(model, tmp_path / "checkpoint-3")
    assert torch.equal(model.visual_projection.weight, tiny_clip.visual_projection.weight)
    assert not torch.equal(adapters.image_adapter, torch.eye(16))


@pytest.mark.parametrize("order", ["reference", "clean"])
def test_cached_features_equal_images_of_the_same_views(tiny_clip, tmp_path, order):
    model, settings = tiny_clip.double(), {"generator_order": order, "num_train_epochs": 3}
    live = trainer_of(CRoFTTrainer, model, tmp_path / "live", **settings)
    live.train()
    features = cache_features(model, BENCHMARK, tiny_processor(), views=3, seed=7, progress=False)
    cached = trainer_of(CRoFTTrainer, model, tmp_path / "cached", dataset=features, **settings)
    cached.train()
    assert len(step_logs(live)) == len(step_logs(cached)) == 9
    for one, two in zip(step_logs(live), step_logs(cached), strict=True):
        for name in one:
            if name.startswith("loss"):
                assert two[name] == pytest.approx(one[name], rel=1e-9), name
    for one, two in zip(live.adapters.parameters(), cached.adapters.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-10)
    fewer = cache_features(model, BENCHMARK, tiny_processor(), views=1, seed=7, progress=False)
    other = trainer_of(CRoFTTrainer, model, tmp_path / "other", dataset=fewer, **settings)
    other.train()
    assert step_logs(other)[0]["loss"] == pytest.approx(step_logs(live)[0]["loss"], rel=1e-9)
    assert step_logs(other)[-1]["loss"] != pytest.approx(step_logs(live)[-1]["loss"], rel=1e-6)


def test_orthogonality_is_that_of_the_exported_projection(tiny_clip, tmp_path):
    adapters = FeatureAdapters(16)
    with torch.no_grad():
        adapters.image_adapter.add_(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    trainer = trainer_of(
        CaRotCRoFTTrainer, tiny_clip, tmp_path, adapters=adapters, max_steps=1, orthogonality_weight=1.0
    )
    want = orthogonality_penalty(adapters.image_matrix() @ tiny_clip.visual_projection.weight).item()
    plain = orthogonality_penalty(tiny_clip.visual_projection.weight).item()
    trainer.train()
    assert (
        step_logs(trainer)[0]["loss/orthogonality"] == pytest.approx(want, rel=1e-5) != pytest.approx(plain, rel=1e-3)
    )


def test_the_teacher_follows_the_exported_weights(tiny_clip, tmp_path):
    settings = {"ema_start_momentum": 0.0, "ema_end_momentum": 0.0, "ema_update_every": 1, "max_steps": 2}
    trainer = trainer_of(CaRotCRoFTTrainer, tiny_clip.double(), tmp_path, **settings)
    trainer.train()
    student = copy.deepcopy(trainer.model.state_dict())
    with trainer.exported_weights() as model:
        exported = copy.deepcopy(model.state_dict())
    for name, value in trainer.teacher.state_dict().items():
        torch.testing.assert_close(value, exported[name], rtol=0, atol=1e-12, msg=name)
    assert not torch.equal(exported["visual_projection.weight"], student["visual_projection.weight"])
    assert all(torch.equal(value, student[name]) for name, value in trainer.model.state_dict().items())


def test_a_weight_of_0_is_the_other_method(tiny_clip, tmp_path):
    from hf_robustft import CaRotTrainer

    plain = trainer_of(CaRotTrainer, tiny_clip, tmp_path / "plain")
    plain.train()
    none = trainer_of(CaRotCRoFTTrainer, tiny_clip, tmp_path / "none", croft_weight=0.0, weight_decay=0.0)
    assert none.extra_texts() is None
    none.train()
    assert not any("classification" in name for name in step_logs(none)[0])
    assert step_logs(none)[0]["loss"] == pytest.approx(step_logs(plain)[0]["loss"], rel=1e-5)


def test_class_prompts_are_drawn_anew_each_step_and_repeatably(tiny_clip, tmp_path):
    trainer = trainer_of(CaRotCRoFTTrainer, tiny_clip, tmp_path)
    drawn = []
    for trainer.optimizer_steps in (0, 1, 2, 0):
        texts = trainer.extra_texts()
        assert texts.shape[0] == 4
        drawn.append(texts)
    assert torch.equal(drawn[0], drawn[3]) and not torch.equal(drawn[0], drawn[1])
    everything = trainer_of(CaRotCRoFTTrainer, tiny_clip, tmp_path, class_templates_per_step=0)
    assert everything.extra_texts().shape[0] == 4 * len(TEMPLATES)


def test_a_users_combination_of_the_mixin_trains(tiny_clip, tmp_path):
    class Own(EnergyGradientMixin, RobustTrainer):
        method = "own"

    trainer = trainer_of(Own, tiny_clip, tmp_path, class_templates_per_step=0)
    trainer.train()
    assert trainer._order(trainer.args) == "clean" and len(step_logs(trainer)) == 6
    assert not torch.equal(trainer.model.visual_projection.weight, tiny_clip.visual_projection.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"generator_order": "reference", "cls": CaRotCRoFTTrainer}, "trainable encoders"),
        ({"gradient_accumulation_steps": 2}, "gradient_accumulation_steps=2.*clean"),
        ({"text_adapter_order": "after_ensemble"}, "after_ensemble.*3 templates"),
        ({"adapters": FeatureAdapters(12)}, r"\(12, 12\).*dimension 16"),
        ({"adapter_image_ratio": 1.5}, "adapter_image_ratio=1.5"),
        ({"generator_steps": -1}, "generator_steps=-1"),
        ({"energy_gradient_weight": float("nan")}, "energy_gradient_weight=nan"),
        ({"energy_gradient_reduction": "max"}, "energy_gradient_reduction='max'"),
        ({"class_templates_per_step": 3}, "class_templates_per_step=3"),
        ({"lr_schedule": "epoch_cosine", "max_steps": 3}, "epoch_cosine.*max_steps"),
        ({"lr_schedule": "epoch_cosine", "num_train_epochs": 0}, "num_train_epochs=0"),
        ({"lr_schedule": "epoch_cosine", "num_train_epochs": 1.5}, "epoch_cosine.*num_train_epochs=1.5"),
        ({"adapters": FeatureAdapters(16, 0.3), "adapter_image_ratio": 0.4}, "adapter_image_ratio=0.4.*0.3"),
        ({"adapters": FeatureAdapters(16), "adapter_text_ratio": 0.4}, "adapter_text_ratio=0.4.*0.5"),
        ({"adapters": FeatureAdapters(16, 0.3), "adapter_image_ratio": 0.2}, "adapter_image_ratio=0.2.*0.3"),
        ({"adapters": FeatureAdapters(16), "text_adapter_order": "after_ensemble"}, "after_ensemble.*before_ensemble"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(tiny_clip, tmp_path, settings, message):
    cls = settings.pop("cls", CRoFTTrainer)
    with pytest.raises(ValueError, match=message):
        trainer_of(cls, tiny_clip, tmp_path, **settings)


def test_given_adapters_keep_their_ratios_and_the_arguments_say_so(tiny_clip, tmp_path):
    with pytest.warns(UserWarning, match="adapter_image_ratio=0.3, adapter_text_ratio=0.75"):
        trainer = trainer_of(CRoFTTrainer, tiny_clip, tmp_path, adapters=FeatureAdapters(16, 0.3, 0.75))
    assert (trainer.args.adapter_image_ratio, trainer.args.adapter_text_ratio) == (0.3, 0.75)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer_of(
            CRoFTTrainer, tiny_clip, tmp_path / "same", adapters=FeatureAdapters(16, 0.3), adapter_image_ratio=0.3
        )


def test_features_of_another_model_and_encoders_that_train_are_refused(tiny_clip, tmp_path):
    features = cache_features(tiny_clip, BENCHMARK, tiny_processor(), progress=False)
    other = copy.deepcopy(tiny_clip)
    with torch.no_grad():
        other.vision_model.post_layernorm.weight[0] += 1e-3
    with pytest.raises(ValueError, match="another model"):
        trainer_of(CRoFTTrainer, other, tmp_path, dataset=features)
    with pytest.raises(ValueError, match="encoders that train"):
        trainer_of(CaRotCRoFTTrainer, tiny_clip, tmp_path, dataset=features)


def test_a_run_without_classes_or_labels_is_refused(tiny_clip, tmp_path):
    pairs = Benchmark.from_dataset(
        image_dataset(8).add_column("caption", ["a cat."] * 8), name="pairs", role="train", caption_column="caption"
    )
    with pytest.raises(ValueError, match="needs the classes"):
        trainer_of(CRoFTTrainer, tiny_clip, tmp_path, dataset=pairs)
    trainer = trainer_of(CRoFTTrainer, tiny_clip, tmp_path, dataset=pairs, class_names=CLASSES, templates=TEMPLATES)
    with pytest.raises(ValueError, match="needs `labels`"):
        trainer.train()


def test_a_checkpoint_with_other_ratios_is_refused(tiny_clip, tmp_path):
    trainer_of(CRoFTTrainer, tiny_clip, tmp_path, save_strategy="steps", save_steps=3).train()
    other = trainer_of(CRoFTTrainer, tiny_clip, tmp_path, adapter_image_ratio=0.4)
    with pytest.raises(ValueError, match="adapter_image_ratio=0.2.*adapter_image_ratio=0.4"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


class CRoFTAlone(EnergyGradientMixin, RobustTrainer):
    """CRoFT's terms beside encoders that train, and no other objective."""


@pytest.mark.parametrize("name", ["siglip", "siglip2"])
def test_of_siglip_texts_alone_are_adapted(tmp_path, name):
    """Whose features end in the head of the text tower, with a bias; those of images end in no linear map."""
    model, processor = family_model(name).double(), family_processor(name)
    with torch.no_grad():
        model.text_model.head.bias.normal_()
    settings = arguments(tmp_path / "run", num_train_epochs=2, learning_rate=0.05, optim="sgd")
    options = {"train_dataset": BENCHMARK, "eval_dataset": TEST, "processing_class": processor}
    trainer = CRoFTTrainer(copy.deepcopy(model), settings, **options)
    assert trainer.args.adapter_image_ratio == 0 and "adapter_image_ratio" in trainer.args.origins
    trainer.train()
    trained, eye = trainer.adapters, torch.eye(32, dtype=torch.float64)
    assert torch.equal(trained.image_adapter, eye) and not torch.equal(trained.text_adapter, eye)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in trainer.model.state_dict().items())
    terms = {"classification", "shift_classification", "shift_alignment", "energy_gradient"}
    assert {key.removeprefix("loss/") for key in step_logs(trainer)[0] if key.startswith("loss/")} == terms

    trainer.save_model(str(tmp_path / "out"))
    saved = type(model).from_pretrained(tmp_path / "out", dtype=torch.float64)
    moved = {key for key, value in saved.state_dict().items() if not torch.equal(value, model.state_dict()[key])}
    assert moved == {"text_model.head.weight", "text_model.head.bias"}
    prompts = prompt_features(model, processor, CLASSES, TEMPLATES)
    merged = prompt_features(saved, processor, CLASSES, TEMPLATES)
    torch.testing.assert_close(merged, trained.adapt_texts(prompts).detach(), rtol=0, atol=1e-12)
    metrics, again = trainer.evaluate(), trainer._evaluator.evaluate(saved).metrics()
    assert metrics["eval_test/nll"] == pytest.approx(again["test/nll"], rel=1e-12)
    assert torch.equal(load_adapters(saved, tmp_path / "out").text_adapter, trained.text_adapter)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in saved.state_dict().items())
    # Where encoders train too, nothing says which weights an adapter beside them belongs to.
    with pytest.raises(ValueError, match="adapter_image_ratio=0.2.*--method croft"):
        CRoFTAlone(copy.deepcopy(model), arguments(tmp_path / "joint"), adapters=FeatureAdapters(32), **options)
