# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Trains the tiny CLIP for a few steps in this process, or in all processes that torchrun started, and saves the end."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from conftest import random_batch, tiny_config
from helpers import CLASSES, TEMPLATES, tiny_tokenizer
from safetensors.torch import save_file
from transformers import CLIPModel

from hf_robustft import RobustTrainingArguments, ZeroShotHead
from hf_robustft.training.distributed import world_size
from hf_robustft.training.methods import METHODS

GLOBAL_BATCH = 8


def collate(examples: list[dict]) -> dict:
    return {name: torch.stack([example[name] for example in examples]) for name in examples[0]}


def main(method: str, output: str, processes: int, settings: dict) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = CLIPModel(tiny_config()).double()
    pairs = random_batch(3 * GLOBAL_BATCH, seed=1, dtype=torch.float64)
    dataset = [{name: value[i] for name, value in pairs.items()} for i in range(3 * GLOBAL_BATCH)]
    defaults = {
        "output_dir": output,
        "use_cpu": True,
        "max_steps": 3,
        "per_device_train_batch_size": GLOBAL_BATCH // processes,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "ema_update_every": 1,
        "contrastive_positives": "same_label",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "max_grad_norm": 0.5,
    }
    args = RobustTrainingArguments(**{**defaults, **settings})
    extra = {}
    if method == "ft":
        weight = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        extra["head"] = ZeroShotHead(10 * weight, ["a", "b", "c", "d"])
    if "croft" in method:
        extra |= {"class_names": CLASSES, "templates": TEMPLATES, "processing_class": tiny_tokenizer()}
    trainer = METHODS[method](model, args, train_dataset=dataset, data_collator=collate, **extra)
    if world_size() != processes:
        raise RuntimeError(f"{world_size()} processes run, {processes} were meant to")
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if trainer.is_world_process_zero():
        state = {f"student.{name}": value for name, value in trainer.model.state_dict().items()}
        if getattr(trainer, "teacher", None) is not None:
            state.update({f"teacher.{name}": value for name, value in trainer.teacher.state_dict().items()})
        for name, module in trainer.trainable_modules().items():
            state.update({f"{name}.{key}": value for key, value in module.state_dict().items()})
        if "croft" in method:
            state["generator"] = trainer.generator.weight.detach()
        save_file(
            {name: value.contiguous().clone() for name, value in state.items()}, Path(output) / "end.safetensors"
        )
        logs = [
            {k: v for k, v in entry.items() if k.startswith("loss") or k == "grad_norm"}
            for entry in trainer.state.log_history
        ]
        (Path(output) / "logs.json").write_text(json.dumps([entry for entry in logs if entry]))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]))
