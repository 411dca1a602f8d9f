# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What `accelerate launch` asks for by its environment is seen by the checks, or refused."""

import pytest
from helpers import arguments

from hf_robustft import FLYPTrainer
from hf_robustft.training.distributed import effective_precision


def test_precision_of_the_launcher_is_that_of_the_arguments(tiny_clip, tmp_path, monkeypatch):
    assert effective_precision(arguments(tmp_path)) == "fp32"
    assert effective_precision(arguments(tmp_path, bf16=True)) == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = arguments(tmp_path)
    assert args.bf16 and effective_precision(args) == "bf16" and args.origins["bf16"] == "accelerate launch"
    trainer = FLYPTrainer(tiny_clip, args)
    assert trainer.accelerator.mixed_precision == "bf16"


def test_what_is_given_wins_over_the_launcher(tiny_clip, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = arguments(tmp_path, bf16=False)
    assert effective_precision(args) == "fp32"
    assert FLYPTrainer(tiny_clip, args).accelerator.mixed_precision == "no"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp16", "fp16`, asked for by accelerate launch.*GPUs only"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "fp8.*use bf16"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--gradient_accumulation_steps 4"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism config"),
    ],
)
def test_what_cannot_be_is_refused(tiny_clip, tmp_path, monkeypatch, variable, value, message):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message) as caught:
        FLYPTrainer(tiny_clip, arguments(tmp_path))
    assert "\n" not in str(caught.value)


def test_fp16_on_a_cpu_is_refused_from_the_arguments_too(tiny_clip, tmp_path):
    with pytest.raises(ValueError, match="`fp16` trains on GPUs only"):
        FLYPTrainer(tiny_clip, arguments(tmp_path, fp16=True))


def test_accumulation_of_the_accelerator_config_is_refused(tiny_clip, tmp_path):
    config = {"gradient_accumulation_kwargs": {"num_steps": 3}}
    with pytest.raises(ValueError, match="--gradient_accumulation_steps 3"):
        FLYPTrainer(tiny_clip, arguments(tmp_path, accelerator_config=config))


def test_the_launchers_compiler_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "AOT_EAGER")
    args = arguments(tmp_path)
    assert args.torch_compile and args.torch_compile_backend == "aot_eager" and "torch_compile" in args.origins
    assert not arguments(tmp_path, torch_compile=False).torch_compile
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "NO")
    assert not arguments(tmp_path).torch_compile
