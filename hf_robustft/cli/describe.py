# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Write `flags.json` from the real parsers: `python -m hf_robustft.cli.describe`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from ..data.catalog.sets import GROUPS, REGISTRY
from ..files import write_whole
from ..objectives.settings import Range, paper_values
from ..training.arguments import REFERENCE_PRESET
from ..training.methods import METHODS, RobustTrainingArguments
from ..training.settings import declarations, declared_settings, unused_settings
from ..training.trainer import RobustTrainer
from . import COMMANDS
from .auto import HELP, AutoOptions
from .description import FLAGS_FILE, PACKAGE, SHOWN, TYPES, source_hash, transformers_hash, transformers_version
from .first_look import AUTO, SUITE
from .merging import MERGES
from .option_rules import CACHING, MEASURING
from .passed_on import refusal
from .train_arguments import DataArguments, ModelArguments

#: Flags of the command that are of use to some methods only, beside the settings of their objectives.
OF_METHODS = {name: ("finetuned_model", "merged_head", *merge.options) for name, merge in MERGES.items()} | {
    name: ("feature_views", "feature_cache") for name, trainer in METHODS.items() if not trainer.trains_model
}
OF_METHODS["tip_adapter"] = ("tip_alpha", "tip_beta", "tip_views")
#: What `--help` says of arguments of Transformers, in one line.
BRIEF = {
    "per_device_eval_batch_size": "Images encoded at once",
    "output_dir": "Folder of the run (default: outputs/<method>)",
    "true_positive_rate": "Share of validation images that the detector accepts",
    "train": "Parts that train, with commas",
    "lora_rank": "Train towers by LoRA of that rank; 0: off",
    "num_train_epochs": "Passes over the training set",
    "max_steps": "Optimizer steps, instead of epochs",
    "per_device_train_batch_size": "Images per device and step",
    "gradient_accumulation_steps": "Batches per optimizer step",
    "optim": "The optimizer",
    "max_grad_norm": "Clip gradients at this norm; 0: off",
    "hold_out": "Share of each class to validate on, and again to test on",
    "seed": "Seed of order, crops, prompts and few shots",
    "bf16": "Mixed precision",
    "activation_checkpointing": "Less memory for one more forward pass",
    "dataloader_num_workers": "Processes that read images",
    "use_cpu": "Do not use an accelerator",
    "logging_steps": "Steps between log entries; in a short run fewer",
    "report_to": "Trackers, such as tensorboard or wandb",
    "save_strategy": "When to write checkpoints: no, steps, epoch, best",
    "resume_from_checkpoint": "A checkpoint folder, or 'last'",
    "push_to_hub": "Upload checkpoints, and at the end the finished folder",
    "hub_model_id": "Repository to upload to",
    "hub_strategy": "When to upload: end, every_save, checkpoint, ...",
}
OTHERS, REST = "settings of other methods", "everything else"


def describe() -> dict[str, Any]:
    """What `flags.json` holds."""
    places = dict.fromkeys([*declarations(RobustTrainingArguments), "preset", *sum(OF_METHODS.values(), ())], OTHERS)
    places |= {item: group for group, names in SHOWN.items() for item in names.split()}
    mro = [cls.__module__ for cls in RobustTrainingArguments.__mro__ if cls.__module__.startswith(PACKAGE.name)]
    sources = [f"cli/{name}.py" for name in ("auto", "commands", "data_sets", "describe", "option_rules", "train_arguments", *COMMANDS)]
    sources += sorted({"/".join(module.split(".")[1:]) + ".py" for module in (*mro, METHODS["ft"].__module__)})
    commands = {}
    for name in COMMANDS:
        module = import_module(f"{__package__}.{name}")
        commands[name] = _command(module.parser(), module.__doc__.strip(), places if name == "train" else None)
    trainers = {name: METHODS["ft"] if merge.alpha else None for name, merge in MERGES.items()}
    trainers = {**METHODS, "tip_adapter": None, **trainers, "zero_shot": None}
    parts = {"model": ModelArguments, "data": DataArguments, "training": RobustTrainingArguments}
    return {
        "transformers": transformers_version(),
        "transformers_hash": transformers_hash(),
        "sources": sources,
        "hash": source_hash(sources),
        "data": [*sorted([*REGISTRY, *GROUPS]), SUITE],
        "trackers": sorted(INTEGRATION_TO_CALLBACK),
        "parts": {name: [field.name for field in fields(part) if field.init] for name, part in parts.items()},
        "methods": {**{name: _method(name, trainer) for name, trainer in trainers.items()}, AUTO: _auto()},
        "commands": commands,
    }


def _method(name: str, trainer: Any) -> dict[str, Any]:
    """What the help of `train` says of a method: its settings, what it refuses, and its defaults and the paper's values by setting."""
    # What every method has is in the help of every training.
    common = declared_settings(RobustTrainer)
    settings = () if trainer is None else declared_settings(trainer) - common - set(trainer.idle_settings)
    own = paper_values(*declarations(RobustTrainingArguments).values())
    paper = {name: own[name] for name in sorted(settings) if name in own} | dict(getattr(trainer, "paper_settings", {}))
    if paper.get("preset") == "reference":
        paper = {**REFERENCE_PRESET, **paper}
    idle = set() if getattr(trainer, "paper_settings", {}) else {"paper_settings"}
    if trainer is not None:
        idle |= common & unused_settings(trainer, RobustTrainingArguments)
    if trainer is None:
        of_training = set(SHOWN["training"].split()) & set(RobustTrainingArguments.__dataclass_fields__)
        idle |= of_training - MEASURING - (CACHING if name == "tip_adapter" else set())
    presets = ("preset",) if trainer is not None and "preset" not in trainer.idle_settings else ()
    return {
        "settings": sorted({*settings, *presets, *OF_METHODS.get(name, ())}),
        "idle": sorted(idle),
        "defaults": dict(getattr(trainer, "defaults", {})),
        "paper": paper,
        **(_facts_of(trainer) if name in METHODS else {}),
    }


def _facts_of(trainer: type) -> dict[str, Any]:
    """What [`~cli.option_rules.MethodFacts`] has of a Trainer class."""
    return {
        "needs_labels": trainer.needs_labels,
        "trains_model": trainer.trains_model,
        "has_head": ModelArguments.makes_head(trainer),
        "unused": sorted(unused_settings(trainer, RobustTrainingArguments)),
    }


def _auto() -> dict[str, Any]:
    """As [`_method`], of the comparison that `--method auto` stands for."""
    refused = [name for names in SHOWN.values() for name in names.split() if refusal(name) and name not in ("method", "seed")]
    return {"settings": [], "idle": sorted(refused), "defaults": {"seed": AutoOptions.seed}, "paper": {}, "description": HELP}


def _command(parser: argparse.ArgumentParser, description: str, places: Mapping[str, str] | None) -> dict[str, Any]:
    parser._adopt()
    titles = {id(action): group.title for group in parser._action_groups for action in group._group_actions}
    actions = [action for action in parser._actions if action.dest not in ("help", argparse.SUPPRESS)]
    groups = [titles[id(action)] if places is None else places.get(action.dest, REST) for action in actions]
    declared = {} if places is None else RobustTrainingArguments.__dataclass_fields__
    ranges = {name: field.metadata.get("range") for name, field in declared.items()}
    items = [
        _argument(action, group, places, ranges.get(action.dest)) for action, group in zip(actions, groups, strict=True)
    ]
    if places is not None:
        order, place = [*SHOWN, OTHERS, REST], {name: i for i, name in enumerate(places)}
        items.sort(key=lambda item: (order.index(item["group"]), place.get(item["dest"], -1)))
    return {"prog": parser.prog, "description": description, "arguments": items}


def _argument(
    action: argparse.Action, group: str, places: Mapping[str, str] | None, allowed: Range | None
) -> dict[str, Any]:
    """What a parser says of one argument, as JSON."""
    kind = type(action).__name__.strip("_").removesuffix("Action")
    facts = {
        "flags": [flag for flag in action.option_strings if "-" not in flag.lstrip("-")],
        "dest": action.dest,
        "action": {"StoreTrue": "store_true", "StoreFalse": "store_false", "Extend": "extend"}.get(kind, "store"),
        "type": next((name for name, type_ in TYPES.items() if type_ is action.type), None),
        "nargs": action.nargs,
        "const": action.const,
        "default": getattr(action.default, "value", action.default),
        "choices": None if action.choices is None else [getattr(item, "value", item) for item in action.choices],
        "help": action.help,
        "brief": None if places is None else BRIEF.get(action.dest),
        "metavar": action.metavar,
        "required": action.required,
        "group": group,
    }
    if facts["action"] in ("store_true", "store_false"):
        facts.update(nargs=None, const=None)
    if allowed is not None:
        facts["range"] = {f.name: value for f in fields(allowed) if (value := getattr(allowed, f.name)) != f.default}
    return {name: value for name, value in facts.items() if value not in (None, [], False) or name in ("default",)}


def as_text(facts: Mapping[str, Any]) -> str:
    """The `facts` as JSON with one argument on each line, so that a change of one is a change of one line."""
    lines = ["{"]
    for name, value in facts.items():
        if name != "commands":
            lines.append(f" {json.dumps(name)}: {json.dumps(value)},")
    lines.append(' "commands": {')
    for name, command in facts["commands"].items():
        items = ",\n".join(f"    {json.dumps(item, ensure_ascii=False)}" for item in command["arguments"])
        lines += [f"  {json.dumps(name)}: {{"]
        lines += [f"   {json.dumps(key)}: {json.dumps(command[key], ensure_ascii=False)}," for key in ("prog", "description")]
        lines += ['   "arguments": [', items, "   ]", "  },"]
    lines[-1] = "  }"
    return "\n".join([*lines, " }", "}", ""])


if __name__ == "__main__":
    write_whole(FLAGS_FILE, as_text(describe()))
    print(f"Wrote {FLAGS_FILE.relative_to(PACKAGE.parent)}")
