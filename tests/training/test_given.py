# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What the user gave is known, not guessed from the default, and nothing overwrites it."""

import copy
import warnings
from dataclasses import dataclass, fields, replace

import pytest
from helpers import arguments, sent_to_a_worker
from transformers import HfArgumentParser

from hf_robustft import CaRotTrainer, RobustTrainingArguments
from hf_robustft.training.arguments import REFERENCE_PRESET
from hf_robustft.training.given import Suggested

DEFAULTS = {f.name: f.default for f in fields(RobustTrainingArguments)}


def built(tmp_path, *args, **settings):
    return RobustTrainingArguments(str(tmp_path), *args, use_cpu=True, **settings)


def test_given_are_keywords_and_positions_also_at_their_defaults(tmp_path):
    second = fields(RobustTrainingArguments)[1]
    args = built(tmp_path, second.default, learning_rate=DEFAULTS["learning_rate"], seed=3)
    assert args.given == {"output_dir", second.name, "use_cpu", "learning_rate", "seed"}
    assert args.origins == {}


def test_what_the_run_derives_is_not_given(tiny_clip, tmp_path):
    args = arguments(tmp_path)
    before = args.given
    CaRotTrainer(tiny_clip, args, train_dataset=[])
    assert args.dataloader_drop_last and args.given == before


def test_an_assignment_is_given(tmp_path):
    args = built(tmp_path, preset="reference")
    args.learning_rate = 1e-5
    args.bound_logit_scale = False
    assert args.given == {"output_dir", "use_cpu", "preset", "learning_rate", "bound_logit_scale"}
    assert "bound_logit_scale" not in args.origins and args.origins["lr_schedule"] == "preset reference"
    assert args.set_optimizer(learning_rate=2e-5).learning_rate == 2e-5 and "weight_decay" in args.given


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, sent_to_a_worker])
def test_copies_and_pickles_keep_the_record(tmp_path, again):
    args = built(tmp_path, preset="reference", learning_rate=DEFAULTS["learning_rate"])
    other = again(args)
    assert other.given == args.given and other.origins == args.origins
    other.seed = 1
    assert "seed" in other.given and "seed" not in args.given


@pytest.mark.parametrize("rebuild", ["replace", "parser", "to_dict"])
def test_where_every_field_is_passed_those_that_differ_count(tmp_path, rebuild):
    args = built(tmp_path, learning_rate=2e-3, orthogonality_weight=0.0)
    if rebuild == "replace":
        other = replace(args, distillation_weight=0.5)
    elif rebuild == "parser":
        flags = (
            f"--output_dir {tmp_path} --use_cpu --learning_rate 2e-3 --orthogonality_weight 0 --distillation_weight .5"
        )
        (other,) = HfArgumentParser(RobustTrainingArguments).parse_args_into_dataclasses(flags.split())
    else:
        other = RobustTrainingArguments(**{**args.to_dict(), "distillation_weight": 0.5})
    own = {f.name for f in fields(RobustTrainingArguments) if "paper" in f.metadata}
    assert other.given & own == {"learning_rate", "orthogonality_weight", "distillation_weight"}


def test_a_value_that_a_rebuild_cannot_tell_from_a_default_is_not_lost_silently(tmp_path):
    args = built(tmp_path, preset="reference", max_grad_norm=1.0, learning_rate=1e-5)
    assert args.max_grad_norm == 1.0
    for rebuild in (lambda: replace(args, seed=3), lambda: RobustTrainingArguments(**args.to_dict())):
        with pytest.warns(UserWarning, match="`max_grad_norm=1.0` becomes 0.0 .preset reference.*copy.copy") as caught:
            other = rebuild()
        assert len(caught) == 1 and "\n" not in str(caught[0].message)
        with pytest.warns(UserWarning, match="`learning_rate=1e-05` becomes 0.003 .default of croft"):
            other.take_defaults({"learning_rate": 3e-3}, "default of croft")
    # What cannot be lost is not warned of.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = replace(built(tmp_path, preset="reference", learning_rate=2e-3), seed=3)
        plain.take_defaults({"learning_rate": 3e-3}, "default of croft")
        built(tmp_path, preset="reference").take_defaults({"learning_rate": 3e-3}, "default of croft")
        kept = copy.copy(args)
        kept.seed = 3
        kept.take_defaults({"learning_rate": 3e-3}, "default of croft")
    assert plain.learning_rate == 2e-3 and (kept.learning_rate, kept.max_grad_norm) == (1e-5, 1.0)


def test_the_record_is_no_field(tmp_path):
    args = built(tmp_path)
    assert {f.name for f in fields(args)}.isdisjoint({"given", "origins", "_given", "_origins"})
    assert not [name for name in args.to_dict() if "given" in name or "origin" in name]
    assert "given" not in str(args)


def test_a_class_of_ones_own_records_too(tmp_path):
    @dataclass
    class Own(RobustTrainingArguments):
        extra: int = 3

    args = Own(output_dir=str(tmp_path), use_cpu=True, extra=3)
    assert args.given == {"output_dir", "use_cpu", "extra"}


def test_suggested_values_yield_and_say_where_they_come_from(tmp_path):
    args = built(tmp_path, learning_rate=Suggested(1e-3, "recipe a/b"), optim=Suggested("sgd", "recipe a/b"), seed=1)
    assert (args.learning_rate, args.optim, args.given) == (1e-3, "sgd", {"output_dir", "use_cpu", "seed"})
    assert args.origins == {"learning_rate": "recipe a/b", "optim": "recipe a/b"}
    args.suggest({"seed": 9, "weight_decay": 0.0}, "method x")
    assert args.seed == 1 and args.weight_decay == 0 and args.origins["weight_decay"] == "method x"
    with pytest.raises(ValueError, match="`distillation_weight=-1`"):
        built(tmp_path, distillation_weight=Suggested(-1, "recipe a/b"))


@pytest.mark.parametrize("name", sorted(REFERENCE_PRESET))
def test_the_preset_leaves_every_given_value_alone(tmp_path, name):
    default = DEFAULTS[name]
    args = built(tmp_path, preset="reference", **{name: default})
    assert getattr(args, name) == default
    others = {key: value for key, value in REFERENCE_PRESET.items() if key != name}
    assert {key: getattr(args, key) for key in others} == others


def test_the_preset_shuffles(tmp_path):
    args = built(tmp_path, preset="reference")
    assert args.train_sampling_strategy == "random" and "train_sampling_strategy" not in REFERENCE_PRESET


def test_flags_over_config_over_recipe_over_defaults(script, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("method: flyp\nlearning_rate: 1e-4\nwarmup_steps: 0\nseed: 42\n")
    _, data, args = script.parse(
        ["--config", str(config), "--learning_rate", "1e-3", "--use_cpu", "--output_dir", "x"]
    )
    assert args.given == {"learning_rate", "warmup_steps", "seed", "use_cpu", "output_dir"}
    assert (args.learning_rate, args.warmup_steps, args.per_device_train_batch_size) == (1e-3, 0, 128)
    assert args.origins["per_device_train_batch_size"] == "recipe emoji_shift/flyp"
    assert args.weight_decay == 0.1 and "weight_decay" not in args.origins
    _, _, args = script.parse(["--use_cpu"])
    assert args.given == {"use_cpu"} and args.output_dir == "outputs/carot" and args.learning_rate == 1e-4
    _, _, args = script.parse(["--use_cpu", "--preset", "reference", "--max_grad_norm", "1.0"])
    assert args.max_grad_norm == 1.0 and args.lr_schedule == "reference"


@pytest.mark.parametrize("text", ["fast", "[1, 2]", "true"])
def test_a_value_of_the_wrong_type_in_a_config_is_named(script, tmp_path, text):
    config = tmp_path / "run.yaml"
    config.write_text(f"learning_rate: {text}\n")
    with pytest.raises(ValueError, match="run.yaml, line 1: .*learning_rate"):
        script.parse(["--config", str(config), "--use_cpu"])


def test_what_a_derived_class_says_of_a_field_stands_above_the_method(tmp_path):
    @dataclass
    class OwnDefault(RobustTrainingArguments):
        learning_rate: float = 4e-4

    class OwnInit(RobustTrainingArguments):
        def __init__(self, **settings):
            super().__init__(learning_rate=4e-4, **settings)

    @dataclass
    class OwnPostInit(RobustTrainingArguments):
        def __post_init__(self):
            self.learning_rate = 4e-4
            super().__post_init__()

    @dataclass
    class OwnDefaultOfAnObjective(RobustTrainingArguments):
        distillation_weight: float = 0.7

    origins = OwnDefaultOfAnObjective(output_dir=str(tmp_path), use_cpu=True).origins
    assert origins == {"distillation_weight": "class OwnDefaultOfAnObjective"}
    for kind in (OwnDefault, OwnInit, OwnPostInit):
        args = kind(output_dir=str(tmp_path), use_cpu=True)
        args.take_defaults({"learning_rate": 3e-3, "per_device_train_batch_size": 32}, "default of croft")
        assert (args.learning_rate, args.per_device_train_batch_size) == (4e-4, 32)
    assert OwnDefault(output_dir=str(tmp_path), use_cpu=True).origins == {"learning_rate": "class OwnDefault"}
    assert OwnDefault(output_dir=str(tmp_path), use_cpu=True, learning_rate=1e-3).learning_rate == 1e-3
