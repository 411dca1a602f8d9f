# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Trains the tiny CLIP by a list of jobs, in this process or in all processes that torchrun started.

A job is a dict of JSON values: `name` (its folder), `method`, `family` (by default CLIP), `dtype`, `settings` of the run,
`frozen` (a part of the model), `optimizer` (given instead of made by the Trainer), `uneven` (the last process loses a row of each batch),
`interrupt` (Ctrl-C in a process of that rank within that step), `iterated` (so many examples in a data set that is iterated, of
another number in a process if it is a list), `spoiled` (a module, by its name in the run, whose weights change in the last process before a
step), `lists` for images with lists of labels, and `gradients` to save the terms and gradients of one step instead of the end of a training.
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from helpers import CLASSES, TEMPLATES, random_batch, stack, tiny_config, tiny_tokenizer
from helpers.families import family_batch, family_model, family_processor
from helpers.label_lists import listed
from safetensors.torch import save_file
from torch.utils.data import IterableDataset
from transformers import CLIPModel, TrainerCallback

from hf_robustft import CrossEntropyMixin, RobustTrainingArguments, ZeroShotHead
from hf_robustft.modeling.dual_encoder import DualEncoder
from hf_robustft.modeling.spread_weights import full_tensor, full_values, is_sharded, placed_like
from hf_robustft.training.distributed import end_gloo, rank, world_size
from hf_robustft.training.given import Suggested
from hf_robustft.training.interruption import Interrupted
from hf_robustft.training.methods import METHODS

GLOBAL_BATCH = 8


class OneStep(TrainerCallback):
    """Stands at a step at which the teacher has left the student, and keeps the gradients of that step."""

    trainer = None
    gradients = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.optimizer_steps = 1
        teacher = getattr(self.trainer, "teacher", None)
        if teacher is not None:
            generator = torch.Generator().manual_seed(5)
            for parameter in teacher.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter.dtype)
                parameter.data += placed_like(0.05 * noise, parameter)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        gradients = {name: p.grad for name, p in self.trainer.model.named_parameters()}
        for module, owner in self.trainer.trainable_modules().items():
            gradients |= {f"{module}.{name}": p.grad for name, p in owner.named_parameters()}
        self.gradients = {name: full_tensor(value).clone() for name, value in gradients.items() if value is not None}


def save(path: Path, tensors: dict) -> None:
    save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, path)


def uneven(examples: list[dict]) -> dict:
    return stack(examples[: -1 if rank() else None])


class Iterated(IterableDataset):
    """Examples one by one, without a known length."""

    def __init__(self, examples: list[dict]):
        self.examples = examples

    def __iter__(self):
        return iter(self.examples)


class ToldToStop(TrainerCallback):
    """Ctrl-C in one process only, within a step."""

    def __init__(self, rank: int, step: int):
        self.rank, self.step = rank, step

    def on_step_begin(self, args, state, control, **kwargs):
        if args.process_index == self.rank and state.global_step == self.step - 1:
            os.kill(os.getpid(), signal.SIGINT)


class Spoiled(TrainerCallback):
    """The weights of a module change in the last process alone, before a step."""

    trainer = None

    def __init__(self, module: str, step: int, by: float):
        self.module, self.step, self.by = module, step, by

    def on_step_begin(self, args, state, control, **kwargs):
        if rank() == world_size() - 1 and state.global_step == self.step - 1:
            known = {"model": self.trainer.model, **self.trainer.frozen_models(), **self.trainer.trainable_modules()}
            with torch.no_grad():
                for parameter in known[self.module].parameters():
                    parameter.mul_(1 + self.by)


def work(job: dict, output: Path, processes: int) -> None:
    output.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, job.get("dtype", "float64"))
    torch.manual_seed(0)
    family = job.get("family")
    model = (family_model(family) if family else CLIPModel(tiny_config())).train().to(dtype)
    for module in model.modules():
        # Each process draws masks of its own.
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for rate in ("dropout", "attention_dropout"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    if job.get("frozen"):
        model.get_submodule(job["frozen"]).requires_grad_(False)
    options = {"n": 3 * GLOBAL_BATCH, "seed": 1, "dtype": dtype}
    pairs = family_batch(family, **options) if family else random_batch(**options)
    dataset = [{name: value[i] for name, value in pairs.items()} for i in range(3 * GLOBAL_BATCH)]
    if job.get("lists"):
        dataset = listed(n=3 * GLOBAL_BATCH)
    if "iterated" in job:
        count = job["iterated"]
        count = count[int(os.environ.get("RANK", 0))] if isinstance(count, list) else count
        dataset = Iterated(dataset[:count])
    defaults = {
        "output_dir": str(output),
        "use_cpu": True,
        "max_steps": 1 if job.get("gradients") else 5,
        "per_device_train_batch_size": GLOBAL_BATCH // processes,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        # Of methods that have them.
        "ema_update_every": Suggested(1, "the tests"),
        "trajectory_update_every": Suggested(1, "the tests"),
        "contrastive_positives": Suggested("same_label", "the tests"),
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_grad_norm": 0.0 if job.get("gradients") else 0.5,
    }
    args = RobustTrainingArguments(**{**defaults, **job.get("settings", {})})
    method, extra = job["method"], {}
    if job.get("lists"):
        extra["processing_class"] = family_processor(family)
    elif issubclass(METHODS[method], CrossEntropyMixin) and method != "lp_ft":
        weight = torch.randn(4, DualEncoder.of(model).embed_dim, dtype=dtype, generator=torch.Generator().manual_seed(2))
        extra["head"] = ZeroShotHead(10 * weight, ["a", "b", "c", "d"])
    if METHODS[method].needs_labels and not job.get("lists"):
        tokenizer = family_processor(family) if family and method == "croft" else tiny_tokenizer()
        extra |= {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tokenizer}
    if job.get("optimizer") == "given":
        extra["optimizers"] = (torch.optim.SGD(model.parameters(), lr=0.05), None)
    step = OneStep()
    if job.get("gradients"):
        extra["callbacks"] = [step]
    if "interrupt" in job:
        extra["callbacks"] = [ToldToStop(**job["interrupt"])]
    spoiled = Spoiled(**job["spoiled"]) if "spoiled" in job else None
    if spoiled is not None:
        extra["callbacks"] = [spoiled]
    collator = None if job.get("lists") else uneven if job.get("uneven") else stack
    trainer = METHODS[method](model, args, train_dataset=dataset, data_collator=collator, **extra)
    step.trainer = trainer
    if spoiled is not None:
        spoiled.trainer = trainer
    if world_size() != processes:
        raise RuntimeError(f"{world_size()} processes run, {processes} were meant to")
    try:
        trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    except ValueError as refusal:
        if spoiled is None:
            raise
        (output / f"refused-{trainer.args.process_index}").write_text(str(refusal))
        return
    except Interrupted as stop:
        (output / f"stopped-{trainer.args.process_index}").write_text(str(stop))
        trainer.accelerator.wait_for_everyone()
        return
    if is_sharded(trainer.model) != getattr(args, "fully_shard", False):
        raise RuntimeError("the model is spread over processes, or it is not, against what the job says")
    state = {f"student.{name}": value for name, value in full_values(trainer.model.state_dict()).items()}
    if getattr(trainer, "teacher", None) is not None:
        state |= {f"teacher.{name}": value for name, value in full_values(trainer.teacher.state_dict()).items()}
    if trainer.is_world_process_zero():
        for name, module in trainer.trainable_modules().items():
            state |= {f"{name}.{key}": value for key, value in module.state_dict().items()}
        if "croft" in method:
            state["generator"] = trainer.generator.weight
        logs = [
            {k: v for k, v in entry.items() if k.startswith(("loss", "gradient_share/")) or k == "grad_norm"}
            for entry in trainer.state.log_history
        ]
        save(output / "end.safetensors", step.gradients if job.get("gradients") else state)
        (output / "logs.json").write_text(json.dumps([entry for entry in logs if entry]))
    # No process leaves while another still writes or talks to it.
    trainer.accelerator.wait_for_everyone()


def main(output: str, processes: int, jobs: list[dict]) -> None:
    torch.set_num_threads(1)
    for job in jobs:
        work(job, Path(output) / job["name"], processes)
    end_gloo()


if __name__ == "__main__":
    if len(sys.argv) == 5:  # One job by itself: method, folder, processes, settings.
        method, folder, processes, settings = sys.argv[1:]
        main(folder, int(processes), [{"name": ".", "method": method, "settings": json.loads(settings)}])
    else:
        main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
