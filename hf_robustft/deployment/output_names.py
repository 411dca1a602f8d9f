# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a file of answers may be called, and what lies beside it meanwhile. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

FORMATS = (".csv", ".jsonl", ".parquet")


def working_folder(output: str | Path) -> Path:
    """Where the answers lie before they become the file `output`."""
    output = Path(output).expanduser()
    return output.with_name(f".{output.name}.parts")


def check_output(output: str | Path, overwrite: bool) -> None:
    """
    Refuse a file of another format, a folder, and a file that is there, unless it is to be overwritten.

    Args:
        output (`str` or `Path`): As it was given.
        overwrite (`bool`): Whether a file may be replaced.

    Raises:
        ValueError: By the name of the option.
    """
    path = Path(output).expanduser()
    if path.is_dir():
        raise ValueError(f"`--output {output}` is a folder; name a file in it, such as {path / 'answers.csv'}.")
    if path.suffix.lower() not in FORMATS:
        ending = f"the ending {path.suffix}" if path.suffix else "no ending"
        raise ValueError(f"`--output {output}` has {ending}; give a name that ends in {', '.join(FORMATS)}.")
    # A link that leads nowhere is somebody's too.
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"`--output {output}` is there already; give another name, or --overwrite to replace it.")
