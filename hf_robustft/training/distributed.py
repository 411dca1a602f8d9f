# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Rank, world size and gathers, safe without a process group."""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .selective_projection import SPD

if dist.is_available():
    from torch.distributed._functional_collectives import all_gather_single_autograd, wait_tensor

#: The origin of settings that the launcher's environment made.
LAUNCHER = "accelerate launch"
_OTHER_ENGINES = {
    "MEGATRON_LM": "Megatron-LM",
    "PARALLELISM_CONFIG": "a parallelism config",
    "TP": "tensor parallelism",
}


@atexit.register
def end_gloo() -> None:
    """
    End gloo's threads before the interpreter goes: one that still frees a tensor then aborts the process (exit code -6).

    They end with the group, and the group with the last that refers to it, such as a Trainer in a cycle of references.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
        # A thread that lets go of the tensors of the last collective needs the interpreter's lock, which the group's
        # destructor keeps while it waits for that thread: for ever, if they meet.
        time.sleep(0.2)
        dist.destroy_process_group()
        gc.collect()


def is_distributed() -> bool:
    """Whether a process group of more than one process is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """The number of processes; 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """
    The rows of all processes, in rank order, with gradient.

    Backward sums what every process's loss says of this process's rows. DDP then divides by the world size, so that mean
    losses over local rows give the gradient of the mean over the global batch.

    Args:
        rows (`torch.Tensor` of shape `(batch, ...)`): As many rows in every process.

    Returns:
        `torch.Tensor` of shape `(world_size * batch, ...)`; `rows` itself in one process.
    """
    return wait_tensor(all_gather_single_autograd(rows, 0, dist.group.WORLD)) if is_distributed() else rows


def mean_gradient_over_processes(parameter: torch.nn.Parameter) -> None:
    """Average this parameter's gradient over processes in every backward pass (what DDP does for the wrapped model)."""

    def average(gradient: Tensor) -> Tensor:
        if is_distributed():
            gradient = gradient.clone()
            dist.all_reduce(gradient)
            gradient /= world_size()
        return gradient

    parameter.register_hook(average)


def check_world_size(used: int) -> None:
    """
    Refuse to train on fewer or more processes than were started.

    On a machine without accelerator, processes that were started without `use_cpu` form a group that
    `TrainingArguments` do not see: each would train alone and overwrite the others' results.

    Args:
        used (`int`): The world size that the run goes by, `TrainingArguments.world_size`.

    Raises:
        ValueError: If the launcher's `WORLD_SIZE`, or the process group, is of another size, or `accelerate launch` was
            asked for several processes and started one.
    """
    if used == 1 and _several_were_asked_for():
        raise ValueError(
            "`accelerate launch` was asked for several processes and starts one on CPU; start them with `torchrun "
            "--nproc_per_node N -m hf_robustft.cli train --use_cpu`, or give `--num_processes 1`. (By MASTER_PORT without "
            "WORLD_SIZE; unset it if you set it yourself.)"
        )
    promised = int(os.environ.get("WORLD_SIZE", used))
    if promised != used or world_size() != used:
        raise ValueError(
            f"The launcher started {promised} process(es), {world_size()} of them are in a group, and this run would use "
            f"{used}; on CPU start several with `torchrun --nproc_per_node N -m hf_robustft.cli train --use_cpu`."
        )


def _several_were_asked_for() -> bool:
    # Without accelerator `accelerate launch --num_processes 2` tells one process where to meet the others, and that is all.
    by_mpi = any(name.startswith(("PMI_", "OMPI_", "MV2_", "MPI_LOCAL")) for name in os.environ)
    by_accelerate = "ACCELERATE_USE_CPU" in os.environ and "MASTER_PORT" in os.environ
    return by_accelerate and not by_mpi and "WORLD_SIZE" not in os.environ


def effective_precision(args: Any) -> str:
    """
    The precision that a run computes in, whether the arguments or the launcher asked for it.

    Args:
        args ([`~transformers.TrainingArguments`]): Settings of the run.

    Returns:
        `str`: `"fp32"`, `"bf16"`, `"fp16"` or `"fp8"`.
    """
    precision = getattr(args, "mixed_precision", None) or "no"
    return "fp32" if precision == "no" else str(precision)


def adopt_launcher(args: Any) -> None:
    """
    Let arguments say what the launcher's environment asked for, so that every check and every record sees it.

    `accelerate launch --mixed_precision bf16` is as `--bf16`, `--dynamo_backend inductor` as `--torch_compile` with that
    backend. What was given in the arguments wins.

    Args:
        args ([`RobustTrainingArguments`]): Changed in place; at the end of their construction.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked in ("fp16", "bf16") and not (args.fp16 or args.bf16):
        if asked in args.given:
            args.mixed_precision = "no"
        else:
            args.suggest({asked: True}, LAUNCHER)
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no" and not args.torch_compile:
        if "torch_compile" in args.given:
            args.suggest({"torch_compile_backend": "no"}, "torch_compile")
        else:
            args.suggest({"torch_compile": True, "torch_compile_backend": backend}, LAUNCHER)


def check_launcher(args: Any, beside_the_model: Iterable[str] = ()) -> None:
    """
    Refuse launchers under which a run would silently be another one.

    Args:
        args ([`RobustTrainingArguments`]): Settings of the run.
        beside_the_model (sequence of `str`, *optional*): Modules that train beside the model, which DeepSpeed's engine
            does not hold.

    Raises:
        ValueError: For half precision that the device has not got, for several GPUs in one process, for Accelerate's FSDP plugin (on CPU Accelerate ignores it without a word, and elsewhere it cannot
            spread the scalar logit scale), for DeepSpeed where it is not exact, and for `split_batches`.
    """
    if getattr(args, "n_gpu", 0) > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process would run in `nn.DataParallel`, which splits the contrastive batch; "
            "start one process a GPU with `accelerate launch --num_processes N ...` or set CUDA_VISIBLE_DEVICES."
        )
    if getattr(args, "fsdp", None) or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise ValueError(
            "Accelerate's FSDP plugin cannot spread such a model (its logit scale is a scalar), and on CPU Accelerate "
            "ignores the plugin silently; drop --fsdp and the FSDP lines of the Accelerate config, and pass "
            "--fully_shard, which spreads the model by FSDP2 under any launcher of several processes."
        )
    _check_precision(args)
    for name, what in _OTHER_ENGINES.items():
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in ("true", "1"):
            raise ValueError(
                f"The launcher asks for {what}, which this run would ignore; leave it out of the Accelerate config, and "
                "spread a model with --fully_shard."
            )
    stage = _deepspeed_stage(args)
    if stage is not None:
        _check_deepspeed(args, stage, sorted(beside_the_model))
    config = getattr(args, "accelerator_config", None)
    steps = (getattr(config, "gradient_accumulation_kwargs", None) or {}).get("num_steps")
    for given in (steps, os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")):
        if given not in (None, "auto", "") and int(given) != args.gradient_accumulation_steps:
            raise ValueError(
                f"The Accelerate config accumulates {given} gradients, the arguments {args.gradient_accumulation_steps}; "
                f"pass --gradient_accumulation_steps {given}, where every check sees it, and leave it out there."
            )
    if getattr(config, "split_batches", False):
        raise ValueError(
            "`split_batches` would divide --per_device_train_batch_size among the processes; leave it off and set "
            f"--per_device_train_batch_size to the batch of one process ({args.per_device_train_batch_size} "
            f"// {world_size()} = {args.per_device_train_batch_size // world_size()} for what you asked)."
        )


def _check_precision(args: Any) -> None:
    precision = effective_precision(args)
    origin = args.origins.get(precision, "")
    named = f"`{precision}`" + (f", asked for by {origin}," if origin else "")
    if precision == "fp8":
        raise ValueError("fp8, asked for by the launcher, was never shown to train right here; use bf16.")
    if precision == "fp16" and args.device.type == "cpu":
        raise ValueError(f"{named} trains on GPUs only; use bf16 on a CPU, or full precision.")


def _deepspeed_stage(args: Any) -> int | None:
    """The ZeRO stage that arguments or launcher ask for; `None` without DeepSpeed."""
    config = getattr(args, "hf_deepspeed_config", None)
    if config is not None:
        return int(config.config.get("zero_optimization", {}).get("stage", 0))
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() != "true":
        return None
    return int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))


def _check_deepspeed(args: Any, stage: int, beside_the_model: list[str]) -> None:
    if args.device.type == "cpu":
        raise ValueError(
            "DeepSpeed was asked for on CPU, where Accelerate ignores it silently; start with `torchrun "
            "--nproc_per_node N ... --use_cpu`, without a DeepSpeed config."
        )
    if stage == 3:
        raise ValueError(
            "DeepSpeed ZeRO-3 gathers weights without gradient, which the orthogonality of the whole projection needs, "
            "and its teacher would be a part of one; use --fully_shard (FSDP2), or ZeRO-2 where the weights fit."
        )
    if beside_the_model:
        raise ValueError(
            f"DeepSpeed trains the model alone, and this method also trains {', '.join(beside_the_model)}; start the "
            "same run without DeepSpeed (plain `accelerate launch --multi_gpu`)."
        )
    if str(getattr(args.optim, "value", args.optim)) == SPD:
        raise ValueError(
            "DeepSpeed steps flat pieces of weights, and `optim='spd'` decides by whole tensors; start the same run without "
            "DeepSpeed, or use --fully_shard."
        )
    if args.bound_logit_scale:
        raise ValueError(
            "DeepSpeed keeps weights of its own and would undo the bound on the logit scale in the next step; set "
            "--bound_logit_scale false, or use --fully_shard instead of DeepSpeed."
        )


def check_global_batches(examples: int, args: Any) -> None:
    """
    Refuse a training set whose last global batch several processes cannot share equally.

    Accelerate fills such a batch with examples from the beginning, or gives the processes batches of different sizes;
    both are another objective than that of one process.

    Args:
        examples (`int`): Length of the training set.
        args ([`RobustTrainingArguments`]): Settings of the run.

    Raises:
        ValueError: If several processes run, batches are left incomplete and the last one would be.
    """
    global_batch = args.per_device_train_batch_size * world_size()
    if world_size() > 1 and not args.dataloader_drop_last and examples % global_batch:
        raise ValueError(
            f"{examples} training examples leave a last batch of {examples % global_batch} for {world_size()} processes "
            f"with {args.per_device_train_batch_size} each; set --dataloader_drop_last, or a "
            "--per_device_train_batch_size that divides the data."
        )


def check_local_batch(batch: Mapping[str, Any], args: Any) -> None:
    """
    Refuse a batch of another size than the other processes hold, before anything is gathered.

    Nothing is communicated: in several processes every batch must have `per_device_train_batch_size` rows.

    Args:
        batch (`Mapping`): The local batch, tensors of shape `(rows, ...)` by name.
        args ([`RobustTrainingArguments`]): Settings of the run.

    Raises:
        ValueError: If several processes run and this one's batch has another number of rows.
    """
    if world_size() == 1:
        return
    rows = {name: len(batch[name]) for name in ("pixel_values", "image_features", "labels") if name in batch}
    wrong = {name: n for name, n in rows.items() if n != args.per_device_train_batch_size}
    if wrong:
        name, n = next(iter(wrong.items()))
        raise ValueError(
            f"Process {rank()} got {n} rows of `{name}` where every process must have "
            f"{args.per_device_train_batch_size}: gathered batches must be equal. Drop or fill the incomplete batch "
            "(--dataloader_drop_last), and let the collator return one row an example."
        )


def same_start(*modules: nn.Module) -> None:
    """
    Give every process the weights and buffers of the first, as DDP does for the model that it wraps.

    Args:
        modules (`torch.nn.Module`): Plain modules, the same in every process but for their values.
    """
    if is_distributed():
        for module in modules:
            for value in (*module.parameters(), *module.buffers()):
                dist.broadcast(value.data, src=0)
