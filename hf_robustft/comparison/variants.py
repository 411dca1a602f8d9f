# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What tells apart runs of one method at one rate: the settings by which they differ, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ..objectives.papers import METHOD_FACTS

if TYPE_CHECKING:
    from .runs import FinishedRun

_BATCH = "per_device_train_batch_size"
#: Settings that change nothing in the trained model, or that tell apart the runs of one candidate.
_OF_THE_JOB = re.compile(
    r"seed|data_seed|learning_rate|preset|use_cpu|disable_tqdm|report_to|shard_teacher|fully_shard|full_determinism"
    r"|per_device_eval_batch_size|skip_memory_metrics|activation_checkpointing|gradient_checkpointing|contrastive_chunk_size"
    r"|torch_compile.*|ddp_.*|do_.*|log_.*|logging_.*|eval_.*|save_.*|hub_.*|push_to_hub.*|dataloader_(?!drop_last).*"
)


def _told(run: FinishedRun) -> dict[str, Any]:
    """The settings by which a run may differ from another of its method."""
    told = {name: value for name, value in run.facts["settings"].items() if not _OF_THE_JOB.fullmatch(name)}
    merge = run.facts.get("merge") or {}
    if "alpha" in run.facts:
        # A chosen alpha differs from seed to seed.
        rule = merge.get("alpha_rule", "given")
        told["alpha"] = run.facts["alpha"] if rule == "given" else rule
    if "trained_with" in merge or "fine_tuned" in merge:
        trained_with = merge.get("trained_with")
        told["of"] = (
            METHOD_FACTS[trained_with].label
            if trained_with in METHOD_FACTS
            else trained_with or ", ".join(merge["fine_tuned"])
        )
    if (run.facts.get("temperature") or {}).get("folded", 1.0) != 1.0:
        told["folded_temperature"] = True
    # An option of the data, which settings do not name.
    if (views := flag_of(run, "--feature_views")) is not None:
        told["feature_views"] = views
    return told


def flag_of(run: FinishedRun, flag: str) -> str | None:
    """What the commands of a `run`, or of all that it merges, give for a `flag`; `None` if one does not give it."""
    commands = (run.facts.get("merge") or {}).get("commands") or [(run.facts.get("card") or {}).get("command") or ""]
    found = [re.search(rf"(?:^|\s){flag}(?:\s+|=)(\S+)", command.replace("\\\n", " ")) for command in commands]
    return None if None in found else " ".join(dict.fromkeys(match[1] for match in found if match))


def with_variants(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """Give the candidates of `runs` the settings by which they differ from others of their method."""
    told = [_told(run) for run in runs]
    for run, own in zip(runs, told, strict=True):
        alike = [item for other, item in zip(runs, told, strict=True) if other.fold is None and other.candidate.method == run.candidate.method]
        if run.fold is not None and alike:
            # A twin has no validation images to fit a temperature on, and fewer to train on, which another batch may divide.
            if all("folded_temperature" in item for item in alike):
                own["folded_temperature"] = True
            for name in (_BATCH, "dataloader_drop_last"):
                if all(item.get(name) == alike[0].get(name) for item in alike):
                    own.pop(name, None)
                    own |= {name: alike[0][name]} if name in alike[0] else {}
    named = []
    for run, own in zip(runs, told, strict=True):
        method = run.candidate.method
        alike = [item for other, item in zip(runs, told, strict=True) if other.candidate.method == method]
        differing = [
            name
            for name in dict.fromkeys(key for item in alike for key in item)
            if any(item.get(name) != own.get(name) for item in alike)
        ]
        if differing:
            values, usual = _defaults(method)
            pairs = [
                (name, own.get(name, values.get(name, False)), usual.get(name, False)) for name in sorted(differing)
            ]
            words = ", ".join(_words(name, value) for name, value, is_usual in pairs if value != is_usual)
            run = replace(run, candidate=replace(run.candidate, variant=words))
        named.append(run)
    return named


def _defaults(method: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The value of each setting that a run does not name, and that which a run of this method usually has."""
    # Not before they are needed: the Trainers import all of Transformers' training.
    from ..training.methods import METHODS, RobustTrainingArguments

    values = {item.name: getattr(item.default, "value", item.default) for item in fields(RobustTrainingArguments)}
    values = {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str))}
    return values, values | dict(getattr(METHODS.get(method), "defaults", {}))


def _words(name: str, value: Any) -> str:
    name = name.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {value}"
