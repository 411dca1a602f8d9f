# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Set finished runs of several methods side by side: which is best on these data, by how much, and how sure that is.

    hf-robustft compare outputs/carot outputs/flyp outputs/tracer

The folders are those of runs that were trained and measured on the same data, of any methods, rates and seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..comparison.runs import read_runs
from .commands import CommandParser, option


@dataclass(kw_only=True)
class CompareOptions:
    """What is compared."""

    folders: list[str] = option("Folders of finished runs.", positional=True, metavar="DIR")


def parser() -> CommandParser:
    """The parser of `hf-robustft compare`."""
    return CommandParser(CompareOptions, prog="hf-robustft compare", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """Carry out what `arguments` say; returns the exit code."""
    (options,) = parser().parse(arguments)
    comparison = read_runs(options.folders)
    for candidate, runs in comparison.candidates.items():
        print(f"{candidate.label}: {len(runs)} run{'s' if len(runs) > 1 else ''}")
    for note in comparison.notes:
        print(f"Note: {note}")
    return 0
