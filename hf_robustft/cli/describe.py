# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Write `flags.json` from the real parsers: `python -m hf_robustft.cli.describe`."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from importlib import import_module
from typing import Any

from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..data.catalog.sets import REGISTRY
from ..training.methods import RobustTrainingArguments
from . import COMMANDS, command_parser
from .description import FLAGS_FILE, PACKAGE, REST, action_facts, source_hash, transformers_version
from .train_arguments import DataArguments, ModelArguments, train_parser


def _file_of(cls: type) -> str:
    return "/".join(cls.__module__.split(".")[1:]) + ".py"


#: Files whose change may change a flag, below the package.
SOURCES = (
    "cli/calibrate.py",
    "cli/data_sets.py",
    "cli/evaluate.py",
    "cli/publish.py",
    "cli/shared_options.py",
    "cli/train.py",
    "cli/train_arguments.py",
    *sorted({_file_of(cls) for cls in RobustTrainingArguments.__mro__ if cls.__module__.startswith(PACKAGE.name)}),
)
_EVALUATION = ("eval_datasets", "skip_baseline", "save_logits", "detector", "true_positive_rate", "fold_temperature")
_EVALUATION += ("per_device_eval_batch_size", "eval_strategy", "eval_steps", "metric_for_best_model", "greater_is_better")
_TRAINING = """
    output_dir learning_rate num_train_epochs max_steps per_device_train_batch_size gradient_accumulation_steps weight_decay
    warmup_steps lr_scheduler_type lr_schedule min_lr decay_all_parameters max_grad_norm optim optim_args seed data_seed bf16
    fp16 use_cpu gradient_checkpointing torch_compile dataloader_num_workers train_crop shuffle_buffer fully_shard
    shard_teacher logging_steps logging_first_step report_to run_name disable_tqdm save_strategy save_steps save_total_limit
    save_on_interrupt load_best_model_at_end resume_from_checkpoint config recipe
""".split()
_PUBLISHING = ("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_revision", "export_weights")
METHOD, MODEL, DATA = "method", "model", "data"
_INHERITED = {field.name for field in fields(TrainingArguments)}
_OWN = [field.name for field in fields(RobustTrainingArguments) if field.name not in _INHERITED]
_ORDER = (METHOD, MODEL, DATA, "evaluation", "training", "publishing", "settings of the methods", REST)


def group_of(name: str) -> str:
    """The heading under which `--help` of the training script shows an argument."""
    if name in ("method", "preset", "alpha", "finetuned_model"):
        return METHOD
    if name in _EVALUATION:
        return "evaluation"
    if name in _TRAINING:
        return "training"
    if name in _PUBLISHING:
        return "publishing"
    if name in {field.name for field in fields(DataArguments)}:
        return DATA
    if name in {field.name for field in fields(ModelArguments)}:
        return MODEL
    return "settings of the methods" if name in _OWN else REST


def describe() -> dict[str, Any]:
    """What `flags.json` holds."""
    commands = {}
    for name in COMMANDS:
        module = import_module(f"{__package__}.{name}")
        if name == "train":
            commands[name] = _command(train_parser(), "hf-robustft train", module.__doc__.strip(), group_of, _ORDER)
            continue
        commands[name] = _command(command_parser(name, module), f"hf-robustft {name}", module.__doc__.strip())
    return {
        "transformers": transformers_version(),
        "sources": list(SOURCES),
        "hash": source_hash(list(SOURCES)),
        "data": sorted(REGISTRY),
        "trackers": sorted(INTEGRATION_TO_CALLBACK),
        "commands": commands,
    }


def _command(parser: argparse.ArgumentParser, prog: str, description: str, group_of=None, order=()) -> dict[str, Any]:
    parser._adopt()
    titles = {id(action): group.title for group in parser._action_groups for action in group._group_actions}
    items = [
        action_facts(action, group_of(action.dest) if group_of else titles[id(action)])
        for action in parser._actions
        if action.dest not in ("help", "help_all", argparse.SUPPRESS)
    ]
    if order:
        place = {name: i for i, name in enumerate([*_EVALUATION, *_TRAINING, *_PUBLISHING])}
        items.sort(key=lambda item: (order.index(item["group"]), place.get(item["dest"], -1)))
    return {"prog": prog, "description": description, "arguments": items}


def as_text(facts: dict[str, Any]) -> str:
    """JSON with one argument on each line, so that a change of one is a change of one line."""
    facts = dict(facts)
    commands = facts.pop("commands")
    lines = ["{"] + [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in facts.items()] + [' "commands": {']
    for name, command in commands.items():
        command = dict(command)
        items = command.pop("arguments")
        lines += [f"  {json.dumps(name)}: {{"]
        lines += [f"   {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}," for key, value in command.items()]
        lines += ['   "arguments": [', *_listed([json.dumps(item, ensure_ascii=False) for item in items], 4), "   ]", "  },"]
    lines[-1] = "  }"
    return "\n".join([*lines, " }", "}", ""])


def _listed(items: list[str], indent: int) -> list[str]:
    return [" " * indent + item + ("," if i < len(items) - 1 else "") for i, item in enumerate(items)]


def main() -> None:
    """Write the file."""
    FLAGS_FILE.write_text(as_text(describe()), encoding="utf-8")
    print(f"Wrote {FLAGS_FILE.relative_to(PACKAGE.parent)}")


if __name__ == "__main__":
    main()
