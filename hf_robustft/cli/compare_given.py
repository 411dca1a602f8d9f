# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What `hf-robustft train` is given for each run of a comparison: of what was passed on all that its method reads, and what is decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..comparison.runs import rate_text
from ..comparison.schedule import Run
from ..training.methods import METHODS, RobustTrainingArguments
from ..training.settings import unused_settings
from .compare_length import BATCH_FLAG
from .config_file import read_config, recipes
from .merging import MERGES
from .option_checks import check, check_options
from .option_rules import CACHING, MEASURING, MERGE_OPTIONS
from .parser import UsageError
from .passed_on import is_given_anyway, refusal
from .train_arguments import SUITE, TrainCommand, parse, train_parser

#: Views of each image for methods that train on the features of a frozen model.
VIEWS = 4
#: At which WiSE-FT is measured too, for its line from the zero-shot to the fine-tuned model.
ALPHAS = (0.2, 0.4, 0.6, 0.8)
#: Settings of training, by name, each with its words on the command line.
Passed = Sequence[tuple[str, Sequence[str]]]


class Given:
    """
    What the runs of a comparison are given.

    Args:
        passed (`Passed`): What was passed on to all of them.
        output (`Path`): The folder of the comparison.
        seeds (`Sequence[int]`): Of the runs of each method.
        merged (`str`): The method whose runs are merged.

    Attributes:
        passed (`dict[str, list[str]]`): The words of each setting; a file of settings is opened, and flags come after it.
        epochs (`dict[str, int]`): By method, where a length was decided on.
        batches (`dict[str, int]`): By method, where a size of batches was decided on.
        settings (`dict[str, dict]`): By method what the record of a run says of its settings.
        suffix (`str`): Behind the names of runs: twins have one.
        lists (`bool`): Whether images have lists of labels, which is known when the data are opened.

    Raises:
        UsageError: If a file of settings sets what a comparison decides.
    """

    def __init__(self, passed: Passed, output: Path, seeds: Sequence[int], merged: str):
        self.passed = {name: list(words) for name, words in _with_config(passed)}
        self.output, self.seeds, self.merged = output, list(seeds), merged
        self.epochs: dict[str, int] = {}
        self.batches: dict[str, int] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        self.suffix, self.lists = "", False

    def parse(self, method: str) -> TrainCommand:
        """The settings of the runs of a method, without rate and seed; of one that merges, as if it trained what it merges."""
        command = parse([*self.words(method), "--output_dir", str(self.output / "runs" / method)])
        # Of several models none is there yet.
        (check_options if method in MERGES and MERGES[method].alpha is None else check)(*command)
        return command

    def reads(self, method: str, name: str) -> bool:
        """Whether the runs of a method take a setting of training, as derived from others where it merges."""
        trainer = METHODS.get(method)
        if name in MERGE_OPTIONS:
            return method in MERGE_OPTIONS[name]
        if name in ("feature_views", "feature_cache"):
            return trainer is not None and not trainer.trains_model
        if name == "paper_settings":
            return bool(getattr(trainer, "paper_settings", {}))
        if name == "shots":
            # A twin is measured on what is left out of them, whatever it trains.
            return trainer is not None or method == "tip_adapter" or "leave_out_classes" in self.passed
        if name == "caption_column":
            return trainer is not None
        if name in RobustTrainingArguments.__dataclass_fields__:
            if trainer is None:
                return name in MEASURING or method == "tip_adapter" and name in CACHING
            return name not in unused_settings(trainer, RobustTrainingArguments)
        return True

    def check_passed(self, methods: Sequence[str]) -> list[str]:
        """
        Refuse a setting that none of the `methods` reads, and return sentences on those that some read and others do not. Raises UsageError.
        """
        notes = []
        for name, words in self.passed.items():
            readers = [method for method in methods if self.reads(method, name)]
            if not readers:
                raise UsageError(f"`{' '.join(words)}` would do nothing: none of --methods {' '.join(methods)} reads it; leave it out")
            training = name in RobustTrainingArguments.__dataclass_fields__
            others = [method for method in methods if method not in readers and not (training and method not in METHODS)]
            if others:
                notes.append(f"`{' '.join(words)}` is for {', '.join(readers)}, not for {', '.join(others)}")
        return notes

    def words(self, method: str) -> list[str]:
        """The words of the runs of a `method`, without rate and seed."""
        words = [word for name, given in self.passed.items() if self.reads(method, name) for word in given]
        trainer = METHODS.get(method)
        if method != "zero_shot" and "caption_column" not in self.passed:
            words += ["--skip_baseline"]
        if trainer is not None and "save_strategy" not in self.passed:
            words += ["--save_strategy", "no"]
        if trainer is not None and not trainer.trains_model and "streaming" not in self.passed:
            if "feature_views" not in self.passed and not self._has_recipe(method):
                words += ["--feature_views", str(VIEWS)]
            if "feature_cache" not in self.passed:
                words += ["--feature_cache", str(self.output / "features")]
        if method == "wise_ft" and not self.lists and not {"alpha_sweep", "leave_out_classes"} & set(self.passed):
            words += ["--alpha_sweep", *map(str, ALPHAS)]
        if method in self.epochs:
            words += ["--num_train_epochs", str(self.epochs[method])]
        if method in self.batches:
            words += [f"--{BATCH_FLAG}", str(self.batches[method]), "--dataloader_drop_last"]
        if "disable_tqdm" not in self.passed:
            words += ["--disable_tqdm"]
        return ["--method", method, *words, "--save_logits" if self.lists else "--save_predictions"]

    def values(self, name: str) -> list[str]:
        """The values that a setting was given, as texts."""
        flag, *values = self.passed.get(name, [""])
        return [*([flag.partition("=")[2]] if "=" in flag else []), *values]

    def value(self, name: str, default: Any) -> Any:
        """The first value that a setting was given, as a text, or the `default`."""
        return next(iter(self.values(name)), default)

    def run(self, method: str, rate: float | None, seed: int | None) -> Run:
        """The run of a `method` at a `rate` with a `seed`; a merge of the runs of all seeds has none."""
        words, settings, needs = self.words(method), dict(self.settings[method]), ()
        if method in MERGES:
            needs = tuple(_name(self.merged, rate, item) + self.suffix for item in (self.seeds if seed is None else [seed]))
            words += ["--finetuned_model", *(str(self.output / "runs" / name) for name in needs)]
            settings["finetuned_model"] = list(needs)
        elif rate is not None:
            words += ["--learning_rate", rate_text(rate)]
            settings["learning_rate"] = rate
        if seed is not None:
            words += ["--seed", str(seed)]
            settings["seed"] = seed
        return Run(_name(method, rate, seed) + self.suffix, method, tuple(words), settings, needs)

    def _has_recipe(self, method: str) -> bool:
        return self.value("train_dataset", SUITE) == SUITE and "paper_settings" not in self.passed and f"{SUITE}/{method}" in recipes()


def _with_config(passed: Passed) -> list[tuple[str, list[str]]]:
    """The settings of a YAML file as if they were flags; flags come after it."""
    found = []
    for name, words in passed:
        if name != "config":
            found.append((name, list(words)))
            continue
        values = read_config(train_parser(), words[0].partition("=")[2] or words[-1])
        values = {key: value for key, value in values.items() if not is_given_anyway(key, value)}
        for key in values:
            why = refusal(key) if key != "output_dir" else "is given to the comparison by its own flag"
            if why is not None:
                raise UsageError(f"`--config` sets {key}, which {why}")
        found = [(key, [f"--{key}", *_texts(value)]) for key, value in values.items()] + found
    return found


def _name(method: str, rate: float | None, seed: int | None) -> str:
    return "-".join([method, *([] if rate is None else [rate_text(rate)]), *([] if seed is None else [str(seed)])])


def _texts(value: Any) -> list[str]:
    """A setting as the words of a command line."""
    items = value if isinstance(value, list) else [value]
    return [json.dumps(item) if isinstance(item, (dict, bool)) else str(item) for item in items]
