# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Every setting is documented, checked early, and harmless to publish."""

import copy
import math
import pickle
import re
from dataclasses import fields

import pytest
import torch
from helpers import arguments, random_batch, rows, stack
from transformers import HfArgumentParser, TrainingArguments

from hf_robustft import CaRotTrainer, RobustTrainingArguments
from hf_robustft.training.arguments import REFERENCE_PRESET

THEIRS = {f.name: f.default for f in fields(TrainingArguments)}
OWN = [f for f in fields(RobustTrainingArguments) if f.name not in THEIRS]
CHANGED = [f for f in fields(RobustTrainingArguments) if f.name in THEIRS and f.default != THEIRS[f.name]]


def test_there_are_own_fields():
    assert {f.name for f in OWN} >= {"distillation_weight", "ema_update_every", "lr_schedule", "preset"}


@pytest.mark.parametrize("field", OWN, ids=lambda f: f.name)
def test_own_field_is_documented_with_its_default(field):
    document = " ".join(RobustTrainingArguments.__doc__.split())
    entry = re.search(rf"\b{field.name} \(`(\w+)`, \*optional\*, defaults to `?([^`)]*)`?\)", document)
    assert entry, f"{field.name} is not in the docstring as ``name (`type`, *optional*, defaults to `x`)``"
    assert entry[1] == getattr(field.type, "__name__", field.type)
    default = f'"{field.default}"' if isinstance(field.default, str) else str(field.default)
    assert entry[2] == default
    assert len(field.metadata.get("help", "")) > 20


def test_headings_and_words_of_the_docstring_are_whole():
    headings = re.findall(r"^> (.*)$", RobustTrainingArguments.__doc__, flags=re.MULTILINE)
    assert {"CLIP-Adapter (Gao et al., IJCV 2024)", "Tip-Adapter (Zhang et al., ECCV 2022)", "Settings of every run"} <= set(headings)
    assert not [heading for heading in headings if heading.count("(") != heading.count(")")]
    assert not re.search(r"defaults to (True|False)", RobustTrainingArguments.__doc__), "in backticks, as Transformers has it"


@pytest.mark.parametrize("field", CHANGED, ids=lambda f: f.name)
def test_changed_default_is_listed_and_has_help(field):
    document = " ".join(RobustTrainingArguments.__doc__.split("Defaults that differ")[1].split())
    entry = re.search(rf"`{field.name}=([^`]*)`", document)
    assert entry, f"the changed default of {field.name} is not listed"
    stated = entry[1].strip('"')
    default = str(getattr(field.default, "value", field.default))
    assert stated == default or float(stated) == float(default)
    assert len(field.metadata.get("help", "")) > 10


def test_published_values_are_the_defaults():
    values = {f.name: f.default for f in fields(RobustTrainingArguments)}
    paper = {"learning_rate": 1e-5, "weight_decay": 0.1, "warmup_steps": 0.02, "distillation_weight": 1.5}
    paper |= {"orthogonality_weight": 0.2, "cross_frobenius_weight": 0.05, "ema_update_every": 0.02}
    paper |= {"ema_start_momentum": 0.05, "ema_end_momentum": 0.9, "ema_warmup_ratio": 0.2}
    assert {name: values[name] for name in paper} == paper


def test_the_command_line_parses_and_prints_help(tmp_path, capsys):
    parser = HfArgumentParser(RobustTrainingArguments)
    with pytest.raises(SystemExit) as left:
        parser.parse_args(["--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    for field in OWN:
        assert f"--{field.name}" in printed
    (args,) = parser.parse_args_into_dataclasses(
        f"--output_dir {tmp_path} --ema_update_every 0.1 --preset reference --bound_logit_scale True --use_cpu".split()
    )
    assert args.ema_update_every == 0.1 and args.lr_schedule == "reference"


@pytest.mark.parametrize("field", [f for f in OWN if f.metadata.get("choices")], ids=lambda f: f.name)
def test_choices_are_enforced(tmp_path, field, capsys):
    for choice in field.metadata["choices"]:
        arguments(tmp_path, **{field.name: choice})
    with pytest.raises(ValueError, match=f"`{field.name}='wrong'` is unknown; choose one of ") as caught:
        arguments(tmp_path, **{field.name: "wrong"})
    assert all(choice in str(caught.value) for choice in field.metadata["choices"])
    with pytest.raises(SystemExit):
        HfArgumentParser(RobustTrainingArguments).parse_args([f"--{field.name}", "wrong"])
    capsys.readouterr()


WRONG = {
    "orthogonality_weight": [-0.1, math.nan, math.inf],
    "cross_frobenius_weight": [-1.0, math.nan],
    "distillation_weight": [-1.5, math.inf],
    "min_lr": [-1e-9, math.nan],
    "ema_start_momentum": [-0.01, 1.01, math.nan],
    "ema_end_momentum": [2.0, math.nan],
    "ema_warmup_ratio": [-0.2, 20.0],
    "contrastive_label_smoothing": [1.0, -0.1, math.nan],
    "contrastive_chunk_size": [-1],
    "adapter_image_ratio": [-0.1, 1.1, math.nan],
    "adapter_text_ratio": [-0.1, 1.1, math.nan],
    "croft_weight": [-1.0, math.nan],
    "energy_gradient_weight": [-5.0, math.inf],
    "shift_alignment_weight": [-1.0, math.nan],
    "generator_learning_rate": [-0.002, math.nan],
    "generator_momentum": [-0.1, 1.5],
    "generator_weight_decay": [-0.1, math.inf],
    "generator_steps": [-1],
    "shuffle_buffer": [0, -1],
    "class_templates_per_step": [-1, 2],
    "ema_update_every": [-1, 1.5, math.nan, math.inf],
    "trajectory_update_every": [-1, 1.5, math.nan],
    "log_gradient_shares": [-1, 1.5, math.nan],
    "l2_sp_weight": [-1.0, math.nan],
    "covariance_anchor_weight": [-1.0, math.nan, math.inf],
    "train_last_layers": [-1],
    "lora_rank": [-1],
    "lora_alpha": [0.0, -1.0, math.nan],
    "lora_dropout": [-0.1, 1.0, math.nan],
    "probe_inverse_penalty": [0.0, math.nan, math.inf],
    "context_weight": [-1.0, math.nan],
    "random_text_weight": [-1.0, math.nan],
    "random_texts": [-1],
    "random_text_length": [-1],
    "trajectory_beta": [0, -0.5, math.nan, 11],
    "batch_distillation_weight": [-1.0, math.nan],
    "feature_distillation_weight": [-1.0, math.inf],
    "spd_weight": [-1.0, math.nan, math.inf],
    "warmup_steps": [-1, 2.5, math.nan],
    "clip_adapter_ratio": [-0.1, 1.1, math.nan],
    "clip_adapter_reduction": [0, -1],
    "tip_alpha": [-0.1, math.inf],
    "tip_beta": [-0.1, math.nan],
    "tip_views": [-1],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_impossible_numbers_are_refused_by_name(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"`{name}={value}` must") as caught:
        arguments(tmp_path, **{name: value})
    assert "\n" not in str(caught.value)


def test_every_own_number_is_checked():
    numbers = {f.name for f in OWN if f.type in (float, int, "float", "int")}
    assert numbers <= set(WRONG)


#: Of values that Python takes for a number, or for True, and that are none.
MISTAKEN = {"float": ("0.5", None, True, [1.0]), "int": ("1", None, True, 2.0), "bool": ("false", None, 1)}


@pytest.mark.parametrize("kind", MISTAKEN)
def test_a_value_of_another_type_is_refused_by_name(tmp_path, kind):
    theirs = {
        "float": ["num_train_epochs", "logging_steps"],
        "int": ["seed", "per_device_train_batch_size"],
        "bool": [],
    }
    names = [f.name for f in OWN if getattr(f.type, "__name__", f.type) == kind]
    for name in (*names, *theirs[kind]):
        for value in MISTAKEN[kind]:
            with pytest.raises(ValueError, match=re.escape(f"`{name}={value!r}` must be ")):
                arguments(tmp_path, **{name: value})
    assert names
    HfArgumentParser(RobustTrainingArguments)
    assert arguments(tmp_path, eval_steps=None).eval_steps is None


@pytest.mark.parametrize(
    ("name", "value"), [("adam_beta2", 1.0), ("seed", 2**32), ("save_total_limit", 2.5), ("learning_rate", "x")]
)
def test_what_would_fail_after_the_data_were_read_is_refused_at_once(tmp_path, name, value):
    with pytest.raises(ValueError, match=re.escape(f"`{name}={value!r}` must ")):
        arguments(tmp_path, **{name: value})


@pytest.mark.parametrize(
    ("every", "total", "interval"),
    [
        (0.29, 100, 29),
        (0.02, 25030, 500),
        (0.02, 1000, 20),
        (0.02, 30, 1),
        (0.5, 9, 4),
        (500, 25030, 500),
        (1, 10, 1),
        (0, 10, 0),
    ],
)
def test_teacher_interval(tmp_path, every, total, interval):
    for teacher in ("ema", "trajectory"):
        args = arguments(tmp_path, teacher=teacher, **{f"{teacher}_update_every": every})
        assert args.teacher_interval(total) == interval


def test_warm_up_fraction_is_the_papers(tmp_path):
    assert arguments(tmp_path).get_warmup_steps(25030) in (500, 501)
    assert arguments(tmp_path, warmup_steps=500).get_warmup_steps(25030) == 500


def test_preset_sets_what_the_authors_do(tmp_path):
    plain, reference = arguments(tmp_path), arguments(tmp_path, preset="reference")
    assert {name: getattr(reference, name) for name in REFERENCE_PRESET} == REFERENCE_PRESET
    same = [f.name for f in OWN if f.name not in (*REFERENCE_PRESET, "preset")]
    assert all(getattr(plain, name) == getattr(reference, name) for name in same)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_grad_norm", 0.5),
        ("lr_schedule", "reference"),
        ("bound_logit_scale", False),
        ("ema_from_first_step", False),
    ],
)
def test_preset_keeps_what_was_set(tmp_path, name, value):
    args = arguments(tmp_path, preset="reference", **{name: value})
    assert getattr(args, name) == value
    others = {key: setting for key, setting in REFERENCE_PRESET.items() if key != name}
    assert {key: getattr(args, key) for key in others} == others


def test_auto_find_batch_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="auto_find_batch_size.*number of negatives"):
        arguments(tmp_path, auto_find_batch_size=True)


def test_the_token_is_in_nothing_that_is_saved(tmp_path):
    args = arguments(tmp_path, hub_token="hf_verysecret")
    assert args.hub_token == copy.copy(args).hub_token == copy.deepcopy(args).hub_token == "hf_verysecret"
    theirs = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, hub_token="hf_verysecret")
    assert b"verysecret" in pickle.dumps(theirs), "Transformers hides the token itself now; drop `__getstate__`"
    torch.save(args, tmp_path / "training_args.bin")
    assert b"verysecret" not in (tmp_path / "training_args.bin").read_bytes()
    assert b"verysecret" not in pickle.dumps(args)
    assert "verysecret" not in args.to_json_string() and "verysecret" not in str(args)
    assert copy.deepcopy(args).distillation_weight == args.distillation_weight


def test_the_token_is_in_no_file_of_a_run(tiny_clip, tmp_path):
    args = arguments(tmp_path, hub_token="hf_verysecret", max_steps=2, save_strategy="steps", save_steps=1)
    trainer = CaRotTrainer(tiny_clip, args, train_dataset=rows(random_batch(16)), data_collator=stack)
    trainer.train()
    trainer.save_model()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "training_args.bin" for path in files)
    assert not [path for path in files if b"verysecret" in path.read_bytes()]


def run(model, tmp_path, **settings):
    args = arguments(tmp_path, **settings)
    CaRotTrainer(model, args, train_dataset=rows(random_batch(16)), data_collator=stack).train()


def test_a_warm_up_that_never_ends_is_warned_of(tiny_clip, tmp_path):
    with pytest.warns(UserWarning, match=r"Warm-up takes 500 steps \(`warmup_steps=500`\) and the run has 6"):
        run(tiny_clip, tmp_path, max_steps=6, warmup_steps=500)


def test_a_teacher_that_hardly_moves_is_warned_of(tiny_clip, tmp_path):
    with pytest.warns(UserWarning, match="teacher will be updated only 1 times in 6 steps"):
        run(tiny_clip, tmp_path, max_steps=6, ema_update_every=500)


def test_defaults_warn_of_nothing(tiny_clip, tmp_path, recwarn):
    run(tiny_clip, tmp_path, max_steps=6, ema_update_every=0.02)
    assert [str(w.message) for w in recwarn if re.search("teacher|[Ww]arm-up", str(w.message))] == []
