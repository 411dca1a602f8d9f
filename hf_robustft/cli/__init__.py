# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The command line: `hf-robustft train | evaluate | compare | calibrate | predict | export | demo | watch | verify | publish`, or `python -m hf_robustft.cli`."""

from __future__ import annotations

import os
import shlex
import sys
from importlib import import_module

from .. import __version__
from .endings import how_to_go_on, run, train_program
from .first_look import first_look
from .parser import UsageError, unknown_choice

#: What each command does, in the words of the overview. Its module is imported only when it is asked for.
COMMANDS = {
    "train": "Fine-tune a CLIP model robustly, measure it before and after, and write it with its card.",
    "evaluate": "Measure accuracy, calibration and open-set detection of a CLIP checkpoint.",
    "compare": "Train several methods at several rates and seeds, or take finished runs, and say which is best.",
    "calibrate": "Fit a temperature on validation images and fold it into a checkpoint.",
    "predict": "Classify any number of images with a checkpoint, and write one file of answers.",
    "export": "Write a checkpoint as ONNX, or for torch.export, and check that it decides the same.",
    "demo": "Show a page on which a checkpoint answers images that are dropped on it, or write it as a Space.",
    "watch": "Test whether images that come in are still what a checkpoint was fitted on, without labels.",
    "verify": "Measure again what a model's card claims, and say what holds.",
    "publish": "Upload a finished checkpoint folder with its card to the Hub.",
}
_OVERVIEW = """\
usage: hf-robustft COMMAND ...

Robust, calibrated fine-tuning of CLIP.

commands:
{commands}

  hf-robustft COMMAND --help   what a command takes
  hf-robustft --version        the version"""


def main(arguments: list[str] | None = None) -> int:
    """
    Run a command.

    Args:
        arguments (`list[str]`, *optional*): Command and options; by default those of the process.

    Returns:
        `int`: The exit status: 0 (of `verify` 1 if a claim fails, 3 if some could not be measured; of `watch` 3 after an alarm); 2 after
        an error, of which one line is on standard error (all of the traceback
        with `HF_ROBUSTFT_TRACEBACK=1`); 130 after Ctrl-C.
    """
    given = sys.argv[1:] if arguments is None else [str(argument) for argument in arguments]
    go_on = None
    if given[:1] == ["train"]:
        go_on = how_to_go_on(train_program(int(os.environ.get("WORLD_SIZE", 1))), given[1:])
    elif given and given[0] in COMMANDS:
        # A comparison keeps the runs that it has, and answers that were written stay; the others change a folder at their end, as a whole.
        verb = "Go on" if given[0] in ("compare", "predict", "watch") else "Start again"
        go_on = lambda _: f"{verb} with: {shlex.join(['hf-robustft', *given])}"  # noqa: E731
    return run(lambda: _carry_out(given), go_on, leaving=arguments is None)


def _carry_out(arguments: list[str]) -> int:
    if arguments in (["--help"], ["-h"]):
        print(_OVERVIEW.format(commands="\n".join(f"  {name:<11}{text}" for name, text in COMMANDS.items())))
        raise SystemExit(0)
    if arguments == ["--version"]:
        print(f"hf_robustft {__version__}")
        raise SystemExit(0)
    if not arguments:
        raise UsageError(f"`hf-robustft` needs a command; choose one of {', '.join(COMMANDS)}")
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise UsageError(unknown_choice(name, name, list(COMMANDS)))
    first_look(name, rest)
    return import_module(f"{__name__}.{name}").run(rest)
