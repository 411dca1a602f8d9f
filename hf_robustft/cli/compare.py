# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Set finished runs of several methods side by side: which is best on these data, by how much, and how sure that is.

    hf-robustft compare outputs/carot outputs/flyp outputs/tracer

The folders are those of runs that were trained and measured on the same data, of any methods, rates and seeds. Prints who is
ahead, by how much and whether chance explains it, with tables, and writes comparison.json, comparison.md, frontier.png and
comparison.html, a page that needs no network.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from ..comparison.output import write_comparison
from ..comparison.runs import read_runs
from ..comparison.summary import summarise
from ..comparison.tables import terminal_table
from ..modeling.files import check_output_dir
from .commands import CommandParser, option


@dataclass(kw_only=True)
class CompareOptions:
    """What is compared."""

    folders: list[str] = option("Folders of finished runs.", positional=True, metavar="DIR")
    output_dir: str = option("Folder for the results.", "outputs/compare")


def parser() -> CommandParser:
    """The parser of `hf-robustft compare`."""
    return CommandParser(CompareOptions, prog="hf-robustft compare", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """Carry out what `arguments` say; returns the exit code."""
    (options,) = parser().parse(arguments)
    check_output_dir(options.output_dir)
    comparison = read_runs(options.folders)
    summary = summarise(comparison, command=shlex.join(["hf-robustft", "compare", *arguments]))
    files = write_comparison(summary, options.output_dir)
    print(terminal_table(summary, shutil.get_terminal_size(fallback=(100, 24)).columns))
    print(f"Saved to {options.output_dir}: {', '.join(path.name for path in files)}")
    return 0
