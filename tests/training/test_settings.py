# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Every setting of an objective changes the runs of the methods that read it, and is refused by all others."""

import copy
import functools
import re
import warnings
from dataclasses import dataclass, fields

import pytest
import torch
from helpers import CLASSES, arguments, image_dataset, random_batch, rows, stack, step_logs, tiny_processor
from transformers import HfArgumentParser, TrainingArguments

from hf_robustft import (
    Benchmark,
    CaRotTrainer,
    ContrastiveMixin,
    FLYPTrainer,
    ObjectiveMixin,
    ObjectiveSettings,
    RobustTrainer,
    RobustTrainingArguments,
    SingularValueMixin,
    setting,
)
from hf_robustft.objectives.self_distillation import SelfDistillationSettings
from hf_robustft.objectives.settings import WEIGHT, paper_values
from hf_robustft.training.given import Suggested
from hf_robustft.training.methods import METHODS
from hf_robustft.training.run_record import run_record
from hf_robustft.training.schedules import WITHOUT_WARMUP
from hf_robustft.training.settings import declared_settings, fit_default_batch, methods_with

OWNED = sorted(frozenset().union(*map(declared_settings, METHODS.values())))
IDLE = sorted({name for trainer in METHODS.values() for name in trainer.idle_settings})
#: A value of each setting that is not its default, and what else a run needs for it to show.
OTHER = {
    "contrastive_positives": ("same_label", {}),
    "contrastive_label_smoothing": (0.2, {}),
    "preset": ("reference", {}),
    "orthogonality_weight": (0.9, {}),
    "cross_frobenius_weight": (0.9, {}),
    "distillation_weight": (0.3, {}),
    "teacher": ("trajectory", {}),
    ("teacher", "tracer"): ("ema", {}),
    "ema_update_every": (2, {"teacher": "ema"}),
    "ema_start_momentum": (0.5, {"teacher": "ema"}),
    "ema_end_momentum": (0.1, {"teacher": "ema"}),
    "ema_warmup_ratio": (0.9, {"teacher": "ema"}),
    "ema_from_first_step": (False, {"teacher": "ema", "ema_update_every": 2}),
    "trajectory_update_every": (2, {"teacher": "trajectory"}),
    "trajectory_beta": (1.5, {"teacher": "trajectory"}),
    "batch_distillation_weight": (0.3, {}),
    "feature_distillation_weight": (30.0, {}),
    "covariance_anchor_weight": (30.0, {}),
    "export_weights": ("teacher", {}),
    "adapter_image_ratio": (0.6, {}),
    "adapter_text_ratio": (0.2, {}),
    "text_adapter_order": ("after_ensemble", {}),
    "croft_weight": (0.4, {}),
    "energy_gradient_weight": (1.0, {}),
    "energy_gradient_reduction": ("mean", {}),
    "feature_shifts": (False, {}),
    "shift_alignment_weight": (0.2, {}),
    "energy_gradient_shifted": (False, {}),
    "generator_steps": (2, {}),
    "generator_order": ("clean", {}),
    "generator_learning_rate": (0.5, {}),
    "generator_momentum": (0.1, {}),
    "generator_weight_decay": (5.0, {}),
    "class_templates_per_step": (0, {}),
    "clip_adapter_ratio": (0.7, {}),
    "clip_adapter_reduction": (2, {}),
    "tip_alpha": (3.0, {}),
    "tip_beta": (4.0, {}),
    "tip_views": (2, {}),
    "decay_all_parameters": (True, {"weight_decay": 5.0}),
    "head_start": ("zeros", {}),
    "probe_inverse_penalty": (0.1, {}),
    "l2_sp_weight": (1.0, {}),
    "context_weight": (0.3, {}),
    "random_text_weight": (0.3, {}),
    "random_texts": (5, {}),
    "random_text_length": (3, {}),
    "bound_logit_scale": (False, {}),
}
#: Shown elsewhere: by several processes, by a model at the bound, by prompts that a merge excludes, by images that can be
#: cropped; and of trainable encoders there is one order only.
ELSEWHERE = {
    (name, method) for name in ("shard_teacher", "bound_logit_scale", "text_adapter_order") for method in METHODS
}
ELSEWHERE |= {("generator_order", "carot+croft"), ("tip_views", "tip_adapter_f")}
#: What trains is chosen for every method alike; see `test_trained_parts.py`.
OF_ALL = sorted(declared_settings(RobustTrainer))
ELSEWHERE |= {(name, method) for name in OF_ALL for method in METHODS}
OTHER |= {"train": ("image", {}), "train_last_layers": (1, {}), "lora_rank": (2, {}), "lora_alpha": (2.0, {})}
OTHER |= {"lora_dropout": (0.1, {}), "lora_towers": ("image", {}), "lora_rslora": (True, {}), "lora_dora": (True, {})}
OTHER |= {"lora_keep_adapter": (True, {})}


@functools.cache
def data():
    return rows(random_batch(32))


@functools.cache
def processor():
    return tiny_processor()


def trainer_of(cls, model, folder, **settings):
    names = {}
    if cls.needs_labels:
        # An ensemble of one template, since the other order of adapting is made for that only.
        templates = ("a {}.",) if cls.method == "croft" else ("a {}.", "the {}.")
        names = {"class_names": CLASSES, "templates": templates, "processing_class": processor()}
    quiet = {"max_steps": 4, "optim": "sgd", "learning_rate": 1e-2, "warmup_steps": 0, "energy_gradient_weight": 5.0}
    quiet = {name: Suggested(value, "the tests") for name, value in quiet.items()}
    return cls(
        model,
        arguments(folder, **{**quiet, **settings}),
        train_dataset=data(),
        data_collator=stack,
        **names,
    )


def outcome(trainer):
    """All that a run leaves: logged numbers and exported weights."""
    logs = [{k: v for k, v in log.items() if "grad_norm" not in k} for log in step_logs(trainer)]
    with trainer.exported_weights() as model:
        return logs, {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    return one[0] == two[0] and all(torch.equal(value, two[1][name]) for name, value in one[1].items())


@pytest.fixture(scope="module")
def plain(first_tiny_clip, tmp_path_factory):
    """The run of a method with its defaults, once for each further setting."""
    kept = {}

    def run(method, **settings):
        key = (method, *sorted(settings.items()))
        if key not in kept:
            trainer = trainer_of(METHODS[method], copy.deepcopy(first_tiny_clip), tmp_path_factory.mktemp("plain"), **settings)
            trainer.train()
            kept[key] = outcome(trainer)
        return kept[key]

    return run


def test_every_setting_is_tried():
    own = {f.name for f in fields(RobustTrainingArguments)} - {f.name for f in fields(TrainingArguments)}
    assert set(OWNED) | set(IDLE) == {name for name in OTHER if isinstance(name, str)} | {"shard_teacher"}
    # What belongs to no objective is read by every method.
    rest = {
        "contrastive_chunk_size",
        "lr_schedule",
        "min_lr",
        "train_crop",
        "cache_images",
        "shuffle_buffer",
        "fully_shard",
        "save_on_interrupt",
        "log_gradient_shares",
        "spd_weight",
    }
    assert own - set(OTHER) == rest | {"shard_teacher"}


def tried() -> list[tuple[str, str]]:
    """Each setting with each method, without those that are shown elsewhere."""
    pairs = [(name, method) for name in sorted({*OWNED, *IDLE}) for method in METHODS]
    return [pair for pair in pairs if pair not in ELSEWHERE or pair[1] not in methods_with(pair[0], RobustTrainingArguments)]


@pytest.mark.parametrize(("name", "method"), tried())
def test_a_setting_acts_or_is_refused(tiny_clip, tmp_path, plain, name, method):
    cls = METHODS[method]
    if method not in methods_with(name, RobustTrainingArguments):
        value = OTHER[name][0] if name in OTHER else False
        with pytest.raises(ValueError, match=f"`{name}=.*{re.escape(repr(method))} does not use it") as caught:
            trainer_of(cls, tiny_clip, tmp_path, **{name: value})
        message = str(caught.value)
        assert "\n" not in message and message.endswith(f"does: {', '.join(methods_with(name, RobustTrainingArguments))}.")
        default = next(f.default for f in fields(RobustTrainingArguments) if f.name == name)
        with pytest.raises(ValueError, match=f"`{name}="):
            trainer_of(cls, tiny_clip, tmp_path, **{name: default})
        return
    value, beside = OTHER.get((name, method), OTHER[name])
    trainer = trainer_of(cls, tiny_clip, tmp_path, **{**beside, name: value})
    trainer.train()
    assert not same(outcome(trainer), plain(method, **beside)), f"{name} does nothing in {method}"


IDLE_SETTINGS = [
    ("carot", {"distillation_weight": 0}, ["ema_update_every", "ema_start_momentum", "ema_from_first_step"]),
    ("carot", {"ema_update_every": 0}, ["ema_end_momentum", "ema_warmup_ratio", "ema_from_first_step"]),
    ("carot", {}, ["shard_teacher", "trajectory_update_every", "trajectory_beta"]),
    ("carot", {"distillation_weight": 0}, ["teacher", "trajectory_beta"]),
    ("carot", {"teacher": "trajectory"}, ["ema_update_every", "ema_end_momentum", "ema_from_first_step"]),
    ("tracer", {}, ["ema_update_every", "ema_start_momentum"]),
    ("tracer", {"teacher": "ema"}, ["trajectory_beta"]),
    ("tracer", {"trajectory_update_every": 0}, ["trajectory_beta"]),
    ("tracer", {"batch_distillation_weight": 0, "feature_distillation_weight": 0}, ["trajectory_update_every"]),
    ("covariance_anchor", {"distillation_weight": 0, "covariance_anchor_weight": 0}, ["ema_update_every"]),
    ("carot+croft", {"croft_weight": 0}, ["energy_gradient_weight", "generator_steps", "class_templates_per_step"]),
    ("croft", {"feature_shifts": False}, ["shift_alignment_weight", "energy_gradient_shifted", "generator_momentum"]),
    ("croft", {"energy_gradient_weight": 0}, ["energy_gradient_reduction"]),
    ("croft", {"generator_steps": 0}, ["shift_alignment_weight", "energy_gradient_shifted"]),
    ("croft", {"generator_steps": 0, "generator_order": "clean"}, ["generator_learning_rate"]),
    ("croft", {"adapter_text_ratio": 0}, ["text_adapter_order"]),
    ("lipsum_ft", {"random_text_weight": 0}, ["random_texts", "random_text_length"]),
    ("croft", {"lr_schedule": "epoch_cosine", "max_steps": -1}, ["warmup_steps"]),
    ("flyp", {"lr_scheduler_type": "constant"}, ["warmup_steps"]),
    ("flyp", {}, ["shuffle_buffer"]),
]
VALUES = {"warmup_steps": 5, "shard_teacher": False, "shuffle_buffer": 100}


@pytest.mark.parametrize(("method", "others", "names"), IDLE_SETTINGS)
def test_a_setting_that_another_makes_idle_is_refused(tiny_clip, tmp_path, method, others, names):
    trainer_of(METHODS[method], copy.deepcopy(tiny_clip), tmp_path, **others)
    for name in names:
        value = VALUES.get(name, OTHER.get(name, (None,))[0])
        with pytest.raises(ValueError, match=f"`{name}=.*would do nothing.*leave `{name}` out") as caught:
            trainer_of(METHODS[method], tiny_clip, tmp_path, **{**others, name: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WITHOUT_WARMUP)
def test_a_warm_up_that_a_schedule_does_not_take_is_refused(tmp_path, name):
    choice = {"metric_for_best_model": "accuracy", "eval_strategy": "steps", "eval_steps": 1}
    FLYPTrainer.check_settings(arguments(tmp_path, lr_scheduler_type=name, **choice))
    with pytest.raises(ValueError, match=f"`warmup_steps=5`.*{name}.*leave `warmup_steps` out") as caught:
        FLYPTrainer.check_settings(arguments(tmp_path, lr_scheduler_type=name, warmup_steps=5, **choice))
    assert "\n" not in str(caught.value)
    # No warm-up may be said.
    FLYPTrainer.check_settings(arguments(tmp_path, lr_scheduler_type=name, warmup_steps=0, **choice))


def test_where_a_schedule_comes_from_is_said(tiny_clip, tmp_path):
    schedule = Suggested("epoch_cosine", "recipe a/b")
    with pytest.raises(ValueError, match=r"`lr_schedule='epoch_cosine'` \(recipe a/b\)"):
        trainer_of(FLYPTrainer, tiny_clip, tmp_path, lr_schedule=schedule, warmup_steps=3, max_steps=-1)


class Silent(ObjectiveMixin):
    def loss_terms(self, features, batch):
        return {**super().loss_terms(features, batch), "silent": self.args.distillation_weight * features.logit_scale}


class Declaring(Silent):
    settings = SelfDistillationSettings


@dataclass
class OwnSettings(ObjectiveSettings):
    """A term of one's own."""

    own_weight: float = setting(0.3, "Weight of the own term.", paper=0.7, range=WEIGHT)


@dataclass
class OwnArguments(OwnSettings, RobustTrainingArguments):
    """The arguments that hold it."""


class OwnMixin(ObjectiveMixin):
    settings = OwnSettings

    def loss_terms(self, features, batch):
        return {**super().loss_terms(features, batch), "own": self.args.own_weight * features.logit_scale}


def own_method(*mixins):
    return type("Own", (*mixins, SingularValueMixin, ContrastiveMixin, RobustTrainer), {"method": "own"})


def test_objectives_of_ones_own(tiny_clip, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CaRotTrainer.check_settings(arguments(tmp_path, distillation_weight=1.0))
        own_method(Declaring).check_settings(arguments(tmp_path, distillation_weight=1.0, orthogonality_weight=0.1))
        own_method(Silent).check_settings(arguments(tmp_path, orthogonality_weight=0.1))
    with pytest.warns(UserWarning, match="distillation_weight=1.0.*If Silent reads it.*SelfDistillationSettings"):
        own_method(Silent).check_settings(arguments(tmp_path, distillation_weight=1.0))
    with pytest.raises(ValueError, match="distillation_weight=1.0"):
        own_method().check_settings(arguments(tmp_path, distillation_weight=1.0))
    with pytest.raises(ValueError, match="OwnMixin declares `OwnSettings`.*`RobustTrainingArguments`"):
        own_method(OwnMixin).check_settings(arguments(tmp_path))


def test_settings_of_ones_own(tiny_clip, tmp_path):
    def made(**settings):
        return OwnArguments(str(tmp_path), use_cpu=True, report_to="none", max_steps=1, **settings)

    assert made().own_weight == 0.3 and paper_values(OwnSettings) == {"own_weight": 0.7}
    with pytest.raises(ValueError, match="`own_weight=-1` must"):
        made(own_weight=-1)
    with pytest.raises(ValueError, match="`own_weight=0.3`.*'flyp' does not use it"):
        FLYPTrainer.check_settings(made(own_weight=0.3))
    # Whoever does not give it may take the same arguments to any method.
    FLYPTrainer.check_settings(made())
    args = made(own_weight=2.0, orthogonality_weight=0.1)
    assert copy.copy(args).given == args.given >= {"own_weight", "orthogonality_weight"}
    trainer = own_method(OwnMixin)(tiny_clip, args, train_dataset=rows(random_batch(16)), data_collator=stack)
    assert run_record(trainer, 1)["own_weight"] == 2.0
    trainer.train()
    assert "loss/own" in step_logs(trainer)[0]
    (parsed,) = HfArgumentParser(OwnArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--own_weight", "4", "--use_cpu"]
    )
    assert parsed.own_weight == 4.0


def test_papers_agree():
    """What a setting says of its paper is what the method of that paper takes."""
    for trainer in METHODS.values():
        for cls in trainer.__mro__:
            declared = vars(cls).get("settings")
            for name, value in paper_values(declared).items() if declared else ():
                # A method may take over an objective of another paper with a weight of its own.
                own = trainer.defaults.get(name, value)
                assert trainer.paper_settings.get(name, own) == own


@pytest.mark.parametrize("method", METHODS)
def test_defaults_of_the_method_yield_to_everything(tiny_clip, tmp_path, method):
    cls = METHODS[method]
    # The constructor derives nothing from them, so that they may come after it.
    early = RobustTrainingArguments(str(tmp_path), use_cpu=True, **cls.defaults)
    late = RobustTrainingArguments(str(tmp_path), use_cpu=True)
    late.take_defaults(cls.defaults, f"default of {method}")
    for field in fields(early):
        if field.name != "accelerator_config":
            assert getattr(early, field.name) == getattr(late, field.name), field.name
    assert set(late.origins) == set(cls.defaults) and not late.given & set(cls.defaults)
    for name, value in cls.defaults.items():
        other = "ema" if name == "teacher" else 7
        given = RobustTrainingArguments(str(tmp_path), use_cpu=True, **{name: other})
        suggested = RobustTrainingArguments(str(tmp_path), use_cpu=True, **{name: Suggested(other, "recipe a/b")})
        assigned = RobustTrainingArguments(str(tmp_path), use_cpu=True)
        setattr(assigned, name, other)
        for args in (given, suggested, assigned):
            args.take_defaults(cls.defaults, f"default of {method}")
            assert getattr(args, name) == other != value
    # A second Trainer with the same arguments has its own defaults, not the first one's.
    late.take_defaults({"weight_decay": 0.5}, "default of other")
    assert (
        late.learning_rate == 1e-5 and late.per_device_train_batch_size == 8 and set(late.origins) == {"weight_decay"}
    )


def test_default_batch_and_rate(tiny_clip, tmp_path):
    data = Benchmark.from_dataset(image_dataset(70), name="tiny", role="train", templates=("a {}.",))

    def made(method, dataset=data, **settings):
        args = RobustTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **settings)
        return METHODS[method](
            copy.deepcopy(tiny_clip), args, train_dataset=dataset, processing_class=tiny_processor()
        ).args

    assert made("croft").learning_rate == 3e-3 and made("carot").learning_rate == 1e-5
    assert made("flyp").per_device_train_batch_size == 64 and made("flyp", max_steps=3).get_warmup_steps(100) == 2
    assert made("flyp", per_device_train_batch_size=8).per_device_train_batch_size == 8
    few = Benchmark.from_dataset(image_dataset(12), name="few", role="train", templates=("a {}.",))
    assert made("flyp", few).per_device_train_batch_size == 12
    assert made("flyp", few, per_device_train_batch_size=64).per_device_train_batch_size == 64


@pytest.mark.parametrize("method", [name for name, trainer in METHODS.items() if trainer.paper_settings])
def test_paper_settings_are_accepted_by_their_method(tmp_path, method):
    args = RobustTrainingArguments(str(tmp_path), use_cpu=True, **METHODS[method].paper_settings)
    METHODS[method].check_settings(args)
    assert args.given >= set(METHODS[method].paper_settings)


def test_small_contrastive_batches_are_warned_of(tiny_clip, tmp_path, recwarn):
    trainer_of(FLYPTrainer, copy.deepcopy(tiny_clip), tmp_path, max_steps=1).train()
    trainer_of(METHODS["ft"], tiny_clip, tmp_path, max_steps=1).train()
    assert len([w for w in recwarn if "contrastive batch of 8 pairs" in str(w.message)]) == 1


@pytest.mark.parametrize(("steps", "settings", "entries"), [(6, {}, 6), (45, {}, 15), (6, {"logging_steps": 4}, 1)])
def test_a_short_run_logs_its_losses(tiny_clip, tmp_path, steps, settings, entries):
    args = RobustTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", max_steps=steps, **settings)
    trainer = FLYPTrainer(tiny_clip, args, train_dataset=rows(random_batch(32)), data_collator=stack)
    trainer.train()
    assert len(step_logs(trainer)) == entries


def test_evaluation_by_steps_happens_in_a_short_run(tiny_clip, tmp_path):
    test = Benchmark.from_dataset(image_dataset(8), name="test", role="id", templates=("a {}.",))
    args = RobustTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", eval_strategy="steps", max_steps=3)
    trainer = FLYPTrainer(
        tiny_clip,
        args,
        train_dataset=rows(random_batch(16)),
        data_collator=stack,
        eval_dataset=test,
        processing_class=tiny_processor(),
    )
    trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_test/accuracy" in entry] == [3]


def test_a_default_batch_that_was_made_smaller_says_which_it_is(tmp_path):
    args = RobustTrainingArguments(output_dir=str(tmp_path))
    for images, batch in ((48, 48), (100, 64)):
        args.take_defaults({"per_device_train_batch_size": 64}, "default of ft")
        fit_default_batch(range(images), args)
        assert args.per_device_train_batch_size == batch and "per_device_train_batch_size" not in args.given
        (said,) = args.described_origins()
        assert ("64 or all images where there are fewer" in said) == (images < 64) and said.endswith(f"per_device_train_batch_size={batch}")
