# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The flags that several commands share, each with one definition."""

from __future__ import annotations

import argparse
from collections.abc import Container
from dataclasses import fields
from typing import get_type_hints

from datasets import disable_progress_bars
from transformers.utils.logging import disable_progress_bar

from .data_sets import DataOptions
from .parser import boolean, number


def add_switch(group, flag: str, text: str) -> None:
    """A boolean flag, off by default; it may be followed by true or false."""
    group.add_argument(flag, type=boolean, nargs="?", const=True, default=False, help=text)


def add_data_options(parser: argparse.ArgumentParser, without: Container[str] = ()) -> None:
    """How data are read, as training takes it: the fields of [`DataOptions`]."""
    group, hints = parser.add_argument_group("data"), get_type_hints(DataOptions)
    for option in fields(DataOptions):
        text = option.metadata["help"].replace("%", "%%")
        if option.name in without:
            continue
        if hints[option.name] is bool:
            add_switch(group, f"--{option.name}", text)
        else:
            kind = number if hints[option.name] is float else str
            group.add_argument(f"--{option.name}", type=kind, default=option.default, help=text)


def data_options(options: argparse.Namespace) -> DataOptions:
    """The [`DataOptions`] of a command line."""
    return DataOptions(**{f.name: getattr(options, f.name) for f in fields(DataOptions) if hasattr(options, f.name)})


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How a command that runs the model runs."""
    group = parser.add_argument_group("run")
    group.add_argument("--batch_size", type=int, default=256, help="Images encoded at once.")
    group.add_argument("--num_workers", type=int, default=0, help="Processes that read images.")
    add_switch(group, "--use_cpu", "Do not use an accelerator.")
    add_switch(group, "--disable_tqdm", "Show no progress bars.")


def quiet_if_asked(options: argparse.Namespace) -> None:
    """No progress bars of Transformers and `datasets` with `--disable_tqdm`."""
    if options.disable_tqdm:
        disable_progress_bar()
        disable_progress_bars()
