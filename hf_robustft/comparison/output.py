# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The files of a comparison, all of them made from its summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..data.benchmarks import Benchmark
from ..modeling.files import write_whole
from .html import thumbnails, write_html
from .pictures import plot_frontier
from .summary import COMPARISON_FILE, save_comparison
from .tables import markdown_table

MARKDOWN_FILE, FRONTIER_FILE, PAGE_FILE = "comparison.md", "frontier.png", "comparison.html"


def write_comparison(
    summary: Mapping[str, Any], folder: str | Path, benchmarks: Iterable[Benchmark] = ()
) -> list[Path]:
    """
    Write `comparison.json` and all that is made from it.

    Args:
        summary (`Mapping`): Of [`summarise`] or [`load_comparison`].
        folder (`str` or `Path`): Where; made if it does not exist.
        benchmarks (`Iterable[Benchmark]`, *optional*): The data sets, whose pictures the page shows where a model errs.

    Returns:
        `list[Path]`: `comparison.json`, `comparison.md`, `comparison.html` and, where ID and shifts were measured, `frontier.png`.

    Raises:
        OSError: If the folder cannot be written, or an image cannot be read.
    """
    folder = Path(folder)
    written = [save_comparison(summary, folder / COMPARISON_FILE)]
    text, picture = markdown_table(summary), folder / FRONTIER_FILE
    if all(row["id_mean"] and row["shift_mean"] for row in summary["candidates"]):
        written.append(plot_frontier(summary, picture))
        text += f"\n![Accuracy under shift against accuracy in distribution]({FRONTIER_FILE})\n"
    else:
        # Of an earlier comparison in this folder.
        picture.unlink(missing_ok=True)
    pictures = thumbnails(summary.get("worst_mistakes", ()), benchmarks)
    written[1:1] = [write_whole(folder / MARKDOWN_FILE, text), write_html(summary, folder / PAGE_FILE, pictures)]
    return written
