# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What the commands share: the parser of dataclasses, and how a command that runs the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from datasets import disable_progress_bars
from transformers import HfArgumentParser
from transformers.utils.logging import disable_progress_bar

from ..data.packaged import CHECKPOINTS
from .parser import Manners


class CommandParser(Manners, HfArgumentParser):
    """
    Transformers' parser of dataclasses with the manners of this package.

    A field whose metadata hold `"positional": True` is an argument without a flag; a list with a default may be left out.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, add_help=False, **kwargs)
        self.add_argument_group("help").add_argument("-h", "--help", action="help", help="Show this and exit.")

    def add_argument(self, *names, positional: bool = False, **kwargs):
        """As `argparse` has it; `positional` drops the dashes."""
        if not positional:
            return super().add_argument(*names, **kwargs)
        if not kwargs.pop("required", False):
            kwargs["nargs"] = "*"
        return super().add_argument(names[0].removeprefix("--"), **kwargs)

    def parse(self, arguments: Sequence[str]) -> tuple[Any, ...]:
        """The dataclasses of a command line."""
        return self.parse_args_into_dataclasses(list(arguments), look_for_args_file=False)


def option(help: str, default: Any = MISSING, **more: Any) -> Any:
    """
    Declare a flag: a field of a dataclass that [`CommandParser`] reads.

    Args:
        help (`str`): What it does.
        default (`Any`, *optional*): Without one the flag is needed. A list is copied.
        more (`Any`, *optional*): Of `add_argument`: `choices`, `metavar`, `action`, `positional`.
    """
    chosen = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**chosen, metadata={"help": help, **more})


@dataclass
class RunOptions:
    """How a command that runs the model runs."""

    _argument_group_name = "run"

    batch_size: int = option("Images encoded at once.", 256)
    num_workers: int = option("Processes that read images.", 0)
    use_cpu: bool = option("Do not use an accelerator.", False)
    disable_tqdm: bool = option("Show no progress bars.", False)


def check_revision(model: str, revision: str | None) -> None:
    """
    Refuse a revision that would mean nothing.

    Args:
        model (`str`): As it was given.
        revision (`str`, *optional*): Commit, branch or tag.

    Raises:
        ValueError: If there is a revision, and the model is a folder or comes with the package.
    """
    if revision is not None and (model in CHECKPOINTS or Path(model).expanduser().is_dir()):
        raise ValueError(f"`--revision {revision}` names a commit of the Hub, and {model} is not there; leave it out.")


def quiet_if_asked(options: Any) -> None:
    """No progress bars of Transformers and `datasets` if the `options` say so."""
    if options.disable_tqdm:
        disable_progress_bar()
        disable_progress_bars()
