# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The command line: `hf-robustft evaluate | calibrate | publish`, or `python -m hf_robustft.cli`."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from hf_robustft import __version__

#: What each command does, in the words of the overview. Its module is imported only when it is asked for.
COMMANDS = {
    "evaluate": "Measure accuracy, calibration and open-set detection of a CLIP checkpoint.",
    "calibrate": "Fit a temperature on validation images and fold it into a checkpoint.",
    "publish": "Upload a finished checkpoint folder with its card to the Hub.",
}


def main(arguments: list[str] | None = None) -> int:
    """
    Run a command.

    Args:
        arguments (`list[str]`, *optional*): Command and options; by default those of the process.

    Returns:
        `int`: The exit status: 0, or 2 after an error, of which one line is on standard error (all of the traceback
        with `HF_ROBUSTFT_TRACEBACK=1`).
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(prog="hf-robustft", description="Robust, calibrated fine-tuning of CLIP.")
    parser.add_argument("--version", action="version", version=f"hf_robustft {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = arguments[0] if arguments and arguments[0] in COMMANDS else None
    module = None
    for name, summary in COMMANDS.items():
        if name != chosen:
            commands.add_parser(name, help=summary, add_help=False)
            continue
        module = import_module(f"{__name__}.{name}")
        own = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(own)
    options = parser.parse_args(arguments)
    try:
        return module.run(options)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("HF_ROBUSTFT_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
