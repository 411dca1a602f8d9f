# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What `hf-robustft verify` refuses before anything is loaded. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

ENDINGS = {"output": ".json", "markdown": ".md"}


def named_places(texts: Sequence[str]) -> dict[str, str]:
    """
    Read `--data`.

    Args:
        texts (`Sequence[str]`): `NAME=PLACE` each.

    Returns:
        `dict[str, str]`: The places by name.

    Raises:
        ValueError: If one is not of that form, or a name is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise ValueError(f"`--data {text}` is not NAME=PLACE; give the name of a set in the results, and where it lies now.")
        if name in found:
            raise ValueError(f"`--data {text}`: {name} was given before; give each set one place.")
        found[name] = place
    return found


def check_verified_output(name: str, output: str, overwrite: bool) -> None:
    """
    Refuse a file of another ending, a folder, and a file that is there, unless it is to be overwritten.

    Args:
        name (`str`): `"output"` or `"markdown"`.
        output (`str`): As it was given.
        overwrite (`bool`): Whether a file may be replaced.

    Raises:
        ValueError: By the name of the option.
    """
    path, ending = Path(output).expanduser(), ENDINGS[name]
    if path.is_dir():
        raise ValueError(f"`--{name} {output}` is a folder; name a file in it, such as {path / f'verification{ending}'}.")
    if path.suffix.lower() != ending:
        raise ValueError(f"`--{name} {output}`: give a name that ends in {ending}.")
    if (path.parent / "config.json").is_file() and not path.name.startswith("verification"):
        raise ValueError(f"`--{name} {output}` lies in the folder of a model, where other names are its own; call it verification{ending}.")
    # A link that leads nowhere is somebody's too.
    if os.path.lexists(path) and not overwrite:
        raise ValueError(f"`--{name} {output}` is there already; give another name, or --overwrite to replace it.")
