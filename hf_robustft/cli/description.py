# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The flags of every command, described without importing what declares them.

torch and Transformers take seconds to import, and a misspelt flag or `--help` must not wait for them. `flags.json` holds
what `python -m hf_robustft.cli.describe` read from the real parsers; [`Description`] builds a parser from it that knows
names, types, choices, defaults and help. The real parser runs afterwards and decides. A description that was made from
other files, or from a version of Transformers that declares other flags, is not used: then the real parsers are asked for one.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
from collections.abc import Mapping
from importlib import util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..objectives.settings import Range
from .parser import Parser, boolean, number, shown_value, whole_number

FLAGS_FILE = Path(__file__).with_name("flags.json")
PACKAGE = Path(__file__).resolve().parent.parent
TYPES = {"boolean": boolean, "number": number, "whole number": whole_number}
#: What `train --help` shows, by group and in order. The settings of the method come with it.
SHOWN = {
    "method": "method recipe paper_settings",
    "model": "model",
    "data": """train_dataset caption_column image_column label_column class_names templates shots hold_out streaming bad_images
        allow_overlap""",
    "evaluation": "eval_datasets detector true_positive_rate fold_temperature skip_baseline per_device_eval_batch_size",
    "training": """output_dir config train lora_rank learning_rate num_train_epochs max_steps per_device_train_batch_size
        contrastive_chunk_size gradient_accumulation_steps weight_decay warmup_steps lr_schedule optim max_grad_norm
        train_crop seed bf16 activation_checkpointing dataloader_num_workers fully_shard use_cpu logging_steps report_to
        save_strategy resume_from_checkpoint""",
    "publishing": "push_to_hub hub_model_id hub_strategy",
}
#: Files of Transformers that declare flags beside the fields of its TrainingArguments: how those become flags, choices, trackers.
_FILES_OF_TRANSFORMERS = ("hf_argparser.py", "trainer_utils.py", "debug_utils.py", "integrations/integration_utils.py")
_DATACLASSES = re.compile(rb"^@dataclass.*?(?=\n\n\n|\Z)", re.M | re.S)


class Description:
    """`flags.json`, or what `cli.describe` would write into it."""

    def __init__(self, facts: Mapping[str, Any]):
        self.facts = facts

    @classmethod
    def load(cls) -> Description | None:
        """The description, or `None` where it is missing or does not describe what is installed."""
        try:
            facts = json.loads(FLAGS_FILE.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if facts["hash"] != source_hash(facts["sources"]):
            return None
        # Most versions change no flag; to find that out takes a twentieth of a second.
        same = facts["transformers"] == transformers_version() or facts["transformers_hash"] == transformers_hash()
        return cls(facts) if same else None

    @classmethod
    def of_what_is_installed(cls) -> Description:
        """As [`load`]; where that is `None`, read from the real parsers, which takes seconds."""
        description = cls.load()
        if description is None:
            from .describe import describe

            description = cls(describe())
        return description

    def parser(self, command: str, everything: bool = False, method: str = "carot") -> Parser:
        """
        The parser of a command, without the code that carries it out.

        Args:
            command (`str`): `"train"`, `"evaluate"` and so on.
            everything (`bool`, *optional*, defaults to `False`): Whether its help shows every flag of `train`, each with the
                whole of its text.
            method (`str`, *optional*, defaults to `"carot"`): Whose settings, defaults and paper the help of `train` shows.
        """
        facts = self.facts["commands"][command]
        methods = self.facts["methods"] if command == "train" else {}
        description = methods.get(method, {}).get("description", facts["description"])
        parser = Parser(prog=facts["prog"], description=description, add_help=False)
        groups: dict[str, Any] = {}
        for item in facts["arguments"]:
            item = dict(item)
            if "range" in item:
                parser.ranges[item["dest"]] = Range(**item.pop("range"))
            flags, group, brief = item.pop("flags", [item["dest"]]), item.pop("group"), item.pop("brief", None)
            if item["action"] in ("store_true", "store_false"):
                item.pop("type", None)
            if "type" in item:
                item["type"] = TYPES[item["type"]]
            if methods:
                group = self._as_shown(item, group, None if everything else brief or "", methods.get(method, methods["carot"]))
            if flags == [item["dest"]]:
                item.pop("dest"), item.pop("required", None)
            if group not in groups:
                groups[group] = parser.add_argument_group(f"method {method}" if group == "method" else group)
            groups[group].add_argument(*flags, **item)
        help_ = parser.add_argument_group("help")
        help_.add_argument("-h", "--help", action="help", help="Show this and exit.")
        if methods:
            more = "Show all settings, those of Transformers too, and the whole of each."
            help_.add_argument("--help_all", action="help", help=more)
        return parser

    def _as_shown(self, item: dict[str, Any], group: str, brief: str | None, method: Mapping[str, Any]) -> str:
        """
        Give an argument of `train` the text and the default that its help shows; returns its group.

        Args:
            item: The argument.
            group (`str`): Its group, unless it is a setting of the method.
            brief (`str`, *optional*): Its text in one line; `""` for the first sentence of the whole, `None` for all of it.
            method: What the description says of the method.
        """
        name = item["dest"]
        group = "method" if name in method["settings"] else group
        usual = name in SHOWN.get(group, "").split() and name not in method["idle"]
        if brief is not None and name not in method["settings"] and not usual:
            item["help"] = argparse.SUPPRESS
            return group
        text, default, note = item.get("help") or "", method["defaults"].get(name, item["default"]), ""
        paper = method["paper"].get(name)
        if paper is not None:
            same = shown_value(paper) == shown_value(default)
            note = f" (default{' and' if same else f': {shown_value(default)};'} paper: {shown_value(paper)})"
            text = re.sub(r" Paper: \S+$", "", text)
        if brief == "":
            text = re.split(r"(?<=[A-Za-z0-9)'`])\.\s+(?=[A-Z`'])", text, maxsplit=1)[0].rstrip(".")
            silent = default in (None, False, "", []) and not isinstance(default, float)
            room = 74 - len(note if note or silent else f" (default: {shown_value(default)})")
            text = text if len(text) <= room else re.split(r"(?<=.{15})(?:[;:] |, (?=or[ ,]|such |on )| \()", text, maxsplit=1)[0]
        elif brief is None and item.get("choices") and str(item["choices"][0]) not in text:
            text += f" One of {', '.join(map(str, item['choices']))}."
        text = (brief or text) + note
        item |= {"help": text, "default": default}
        return group


def source_hash(files: list[str]) -> str:
    """One hash over files of the package, whatever their line ends; outside `cli` their dataclasses alone declare flags."""
    digest = hashlib.sha256()
    for name in files:
        path = PACKAGE / name
        content = path.read_bytes().replace(b"\r\n", b"\n") if path.is_file() else b"missing"
        digest.update(content if name.startswith("cli/") else b"".join(_DATACLASSES.findall(content)))
    return digest.hexdigest()


def transformers_version() -> str | None:
    """The installed version, without importing it."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        return None


def transformers_hash(folder: Path | None = None) -> str:
    """
    One hash over what declares the flags of Transformers, but for their help, without importing it.

    Args:
        folder (`Path`, *optional*): Where it is; by default what is installed.
    """
    digest = hashlib.sha256()
    try:
        folder = folder or Path(util.find_spec("transformers").origin).parent
        classes = [node for node in ast.parse((folder / "training_args.py").read_bytes()).body if isinstance(node, ast.ClassDef)]
        (body,) = [node.body for node in classes if node.name == "TrainingArguments"]
        for field in [node for node in body if isinstance(node, ast.AnnAssign)]:
            for facts in [node for node in ast.walk(field) if isinstance(node, ast.Dict)]:
                kept = [pair for pair in zip(facts.keys, facts.values, strict=True) if getattr(pair[0], "value", None) != "help"]
                facts.keys, facts.values = [key for key, _ in kept], [value for _, value in kept]
            digest.update(ast.unparse(field).encode())
        for name in _FILES_OF_TRANSFORMERS:
            digest.update((folder / name).read_bytes())
    except (AttributeError, OSError, SyntaxError, ValueError):
        return "unknown"
    return digest.hexdigest()
