# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`--train` and `--train_last_layers`: what they leave out is frozen in every respect, and the rest trains as it always did."""

import copy
import warnings

import pytest
import torch
from helpers import CLASSES, TEMPLATES, arguments, random_batch, rows, stack, tiny_config, tiny_processor
from helpers.families import FAMILY_NAMES, family_images, family_model
from helpers.runs import Kill, Killed, assert_same_run
from helpers.runs import trainer_of as resumable
from transformers import CLIPModel, TrainerCallback

from hf_robustft import CaRotTrainer
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.features import encode
from hf_robustft.modeling.trained_parts import PARTS, parameters_by_part, train_only
from hf_robustft.training.finished_folder import changed_arguments
from hf_robustft.training.methods import METHODS
from hf_robustft.training.run_record import run_record

#: Settings that make terms of each method move their parameters already in the first step.
QUIET = {"max_steps": 1, "optim": "sgd", "warmup_steps": 0, "max_grad_norm": 0.0, "log_gradient_shares": 0.0}


class Gradients(TrainerCallback):
    """Keeps the gradients of the last step."""

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def trainer_of(method, model, folder, **settings):
    cls, names = METHODS[method], {}
    if cls.needs_labels:
        names = {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_processor()}
    dataset = rows(random_batch(16, dtype=model.dtype))
    step = Gradients()
    args = arguments(folder, **{**QUIET, **settings})
    trainer = cls(copy.deepcopy(model), args, train_dataset=dataset, data_collator=stack, callbacks=[step], **names)
    trainer.step = step
    return trainer


def trained(trainer):
    return {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_parameter_that_features_depend_on_is_in_one_part(family):
    model = family_model(family)
    found, encoder = parameters_by_part(model), DualEncoder.of(model)
    assert tuple(found) == PARTS and found["scale"] == encoder.scalars
    held = [id(parameter) for parameters in found.values() for parameter in parameters]
    assert len(held) == len(set(held)) and len(found["projections"]) == (0 if "siglip" in family else 2)
    ids = torch.full((2, 6), 7)
    ids[:, -1] = encoder.caption_rules.end_of_text or 1
    features = encoder.forward(family_images(family, 2), ids)
    (sum(side.square().sum() for side in features) + sum(encoder.scalars)).backward()
    assert {id(p) for p in model.parameters() if p.grad is not None} == set(held)
    # What no feature depends on would keep DDP waiting for its gradient.
    train_only(model, PARTS)
    assert {id(p) for p in model.parameters() if p.requires_grad} == set(held)


CHOICES = [
    # Method, settings, what the names of the parameters that train begin with.
    ("flyp", {"train": "image"}, ["vision_model."]),
    ("flyp", {"train": "text, projections"}, ["text_model.", "visual_projection.", "text_projection."]),
    ("flyp", {"train": "scale"}, ["logit_scale"]),
    ("ft", {"train": "projections"}, ["visual_projection."]),
    ("ft", {"train_last_layers": 1}, ["vision_model.encoder.layers.1.", "vision_model.post_layernorm.", "visual_projection."]),
    (
        "carot",
        {"train": "projections,text", "train_last_layers": 1, "contrastive_chunk_size": 3},
        ["text_model.encoder.layers.1.", "text_model.final_layer_norm.", "visual_projection.", "text_projection."],
    ),
]


@pytest.mark.parametrize(("method", "settings", "prefixes"), CHOICES)
def test_what_is_left_out_is_frozen_and_the_rest_has_the_gradients_it_always_had(tiny_clip, tmp_path, method, settings, prefixes):
    model = tiny_clip.double()
    whole, part = trainer_of(method, model, tmp_path), trainer_of(method, model, tmp_path, weight_decay=0.5, **settings)
    wanted = {name for name in trained(whole) if name.startswith(tuple(prefixes))}
    assert trained(part) == wanted and wanted
    whole.train()
    part.train()
    assert part.step.found.keys() == wanted
    for name, gradient in part.step.found.items():
        torch.testing.assert_close(gradient, whole.step.found[name], rtol=1e-10, atol=1e-12, msg=name)
    held = {id(p) for group in part.optimizer.param_groups for p in group["params"]}
    for name, parameter in part.model.named_parameters():
        assert (id(parameter) in held) == (name in wanted), name
        if name not in wanted:
            assert torch.equal(parameter, model.get_parameter(name)), f"{name} is not as it was"
    assert any(not torch.equal(part.model.get_parameter(name), model.get_parameter(name)) for name in wanted)


def test_a_tower_that_is_frozen_draws_no_noise(tmp_path):
    config = tiny_config()
    config.text_config.attention_dropout = config.vision_config.attention_dropout = 0.5
    modes = {}

    class Watched(METHODS["flyp"]):
        def loss_terms(self, features, batch):
            modes.update(text=self.model.text_model.training, image=self.model.vision_model.training)
            again = encode(self.model, batch)
            modes["same"] = [torch.equal(one, two) for one, two in ((again.image_embeds, features.image_embeds), (again.text_embeds, features.text_embeds))]
            return super().loss_terms(features, batch)

    data = {"train_dataset": rows(random_batch(8)), "data_collator": stack}
    Watched(CLIPModel(config), arguments(tmp_path, **QUIET, train="image,projections"), **data).train()
    assert modes == {"text": False, "image": True, "same": [False, True]}


@pytest.mark.same_bits("resumed from what was saved; the same batches in the same order")
def test_killed_and_resumed_equals_uninterrupted(tiny_clip, tmp_path):
    settings = {"train": "image,projections", "train_last_layers": 1, "max_steps": 4}
    whole = resumable(CaRotTrainer, tiny_clip, tmp_path / "whole", **settings)
    whole.train()
    with pytest.raises(Killed):
        resumable(CaRotTrainer, tiny_clip, tmp_path / "killed", callbacks=[Kill(2)], **settings).train()
    other = resumable(CaRotTrainer, tiny_clip, tmp_path / "killed", **{**settings, "train": "text,projections"})
    with pytest.raises(ValueError, match="`train='image,projections'`.*this run has `train='text,projections'`"):
        other.train(resume_from_checkpoint=True)
    resumed = resumable(CaRotTrainer, tiny_clip, tmp_path / "killed", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(whole, resumed)


REFUSED = [
    ("flyp", {"train": "imgae"}, r"`train=imgae`: there is no 'imgae'; did you mean image\?"),
    *(
        ("flyp", {"train": f"{name},scale"}, rf"there is no '{name}'; did you mean {meant}\?")
        for name, meant in (("vision", "image"), ("Visual", "image"), ("language", "text"), ("caption", "text"))
    ),
    ("flyp", {"train": " , "}, "`train=' , '` names nothing"),
    ("flyp", {"train": "projections", "train_last_layers": 1}, "`train_last_layers=1`.*trains no tower"),
    ("ft", {"train": "image,scale"}, "`train=image,scale`: the method 'ft' trains image and projections, never scale"),
    ("ft", {"train": "text"}, "`train=text`: .*never text"),
    ("carot", {"train": "image"}, "`train=image` freezes the projections.*`orthogonality_weight=0.2` and `cross_frobenius_weight=0.05`"),
    ("tracer", {"train": "text,scale"}, "`train=text,scale` freezes the projections.*`cross_frobenius_weight="),
    *(
        ("covariance_anchor", {"train": train}, f"`covariance_anchor_weight=1` .*images, which `train={train}` leaves.*--train")
        for train in ("text", "text,scale", "scale")
    ),
    (
        "tracer",
        {"train": "scale", "cross_frobenius_weight": 0.0},
        "`feature_distillation_weight=2000` .*features of images and captions, which `train=scale` leaves",
    ),
    ("flyp", {"train_last_layers": -1}, "`train_last_layers=-1` must be"),
    ("flyp", {"train_last_layers": 3}, "`train_last_layers=3`: the image tower of a .* has 2 layers"),
    *(
        (method, {name: value}, f"`{name}={value}` was given, and the method '{method}' does not use it")
        for method in ("lp", "croft", "clip_adapter", "tip_adapter_f")
        for name, value in (("train", "image"), ("train_last_layers", 1))
    ),
]


@pytest.mark.parametrize(("method", "settings", "message"), REFUSED)
def test_what_no_run_can_do_is_refused_before_anything_is_loaded(tiny_clip, tmp_path, method, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        args = arguments(tmp_path, **settings)
        args.take_defaults(METHODS[method].defaults, "the method")
        METHODS[method].check_settings(args)
        # What the command line looks at before data are opened.
        METHODS[method].check_model(args, DualEncoder.of(tiny_clip.to("meta")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_an_anchor_of_image_features_needs_one_map_of_images_that_trains(family, tmp_path):
    """By `--train` or by adapters: the projection behind a tower is one, where there is such a thing."""
    encoder, method = DualEncoder.of(family_model(family).to("meta")), METHODS["covariance_anchor"]
    linear = encoder.visual_projection is not None
    for settings, option in (
        ({"train": "text,scale"}, "train"),
        ({"train": "text", "covariance_anchor_weight": 0.0}, None),
        ({"train": "image"}, None),
        ({"train": "text,projections" if linear else "text"}, None if linear else "train"),
        ({"lora_rank": 4, "lora_towers": "text"}, None if linear else "lora_towers"),
        ({"lora_rank": 4, "train": "text,scale"}, "train"),
        ({"lora_rank": 4, "lora_towers": "image"}, None),
    ):
        args = arguments(tmp_path, **settings)
        if option is None:
            method.check_model(args, encoder)
            continue
        with pytest.raises(ValueError, match=f"`covariance_anchor_weight=1`.*`{option}={settings[option]}`.*--{option}") as caught:
            method.check_model(args, encoder)
        assert "\n" not in str(caught.value)


def test_a_model_that_comes_frozen_is_refused(tiny_clip, tmp_path):
    # Without the constraint there is nothing that frozen projections would be in the way of.
    trainer_of("carot", tiny_clip, tmp_path, train="image", orthogonality_weight=0, cross_frobenius_weight=0)
    tiny_clip.vision_model.requires_grad_(False)
    with pytest.raises(ValueError, match="`train=image` leaves nothing to train"):
        trainer_of("flyp", tiny_clip, tmp_path, train="image")


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        # The head would train alone.
        ("lp", "ft", "40 of the 40 .*such as vision_model"),
        # And the text tower stays.
        ("ft", "flyp", ".*such as logit_scale"),
        ("croft", "carot", "78 of the 78 .*such as logit_scale"),
    ],
)
def test_what_an_earlier_trainer_has_frozen_is_said(tiny_clip, tmp_path, first, second, named):
    settings = {"orthogonality_weight": 0, "cross_frobenius_weight": 0} if second == "carot" else {}
    used = trainer_of(first, tiny_clip, tmp_path).model
    with pytest.warns(UserWarning, match=f"The model comes with {named}.*earlier Trainer.*requires_grad_"):
        trainer_of(second, used, tmp_path, **settings)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The model comes with")
        # The same method again has all that it trains, and a model of which idle parameters are frozen too.
        trainer_of(first, used, tmp_path)
        trainer_of("flyp", family_model("blip"), tmp_path)
        used.requires_grad_(True)
        trainer_of(second, used, tmp_path, **settings)


def test_it_is_recorded(tiny_clip, tmp_path):
    trainer = trainer_of("flyp", tiny_clip, tmp_path, train="text,image", train_last_layers=1)
    assert {"train": "text,image", "train_last_layers": 1}.items() <= changed_arguments(trainer.args).items()
    assert {"train": "text,image", "train_last_layers": 1}.items() <= run_record(trainer, 1).items()
    count = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in trainer.model.parameters())
    assert trainer.what_trained() == f"image, text; of towers the last layer: {count:,} parameters of a model of {every:,}"
    # A SigLIP has no projections, and of frozen ones nothing trains.
    of_siglip = trainer_of("flyp", family_model("siglip"), tmp_path, train_last_layers=1)
    assert of_siglip.what_trained().startswith("image, text, scale; of towers the last layer: ")
    tiny_clip.visual_projection.requires_grad_(False)
    assert trainer_of("ft", tiny_clip, tmp_path, train_last_layers=1).what_trained().startswith("image; of")
    assert trainer_of("flyp", tiny_clip, tmp_path).what_trained() == trainer_of("ft", tiny_clip, tmp_path).what_trained() == ""
