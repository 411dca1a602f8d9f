# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The files of a comparison, all of them made from its summary."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..data.benchmarks import Benchmark
from ..data.thumbnails import thumbnails
from ..files import changing, write_whole
from .html import write_html
from .measures import measure_of
from .pictures import plot_frontier
from .summary import COMPARISON_FILE, load_comparison, save_comparison
from .tables import markdown_table

MARKDOWN_FILE, FRONTIER_FILE, PAGE_FILE = "comparison.md", "frontier.png", "comparison.html"


def places(runs: Iterable[str | Path], folder: str | Path) -> dict[str, str]:
    """
    Where runs are, seen from the folder of their comparison, for `comparison.json`.

    Args:
        runs (`Iterable[str | Path]`): Their folders.
        folder (`str` or `Path`): That of the comparison.

    Returns:
        `dict[str, str]`: The name of each folder, by a digest of its relative path: a path may say whose machine it is.
    """
    found = {os.path.relpath(Path(run).resolve(), Path(folder).resolve()): Path(run).resolve().name for run in runs}
    return {hashlib.sha256(path.encode()).hexdigest()[:12]: name for path, name in found.items()}


def check_unclaimed(folder: str | Path, runs: Iterable[str | Path]) -> None:
    """
    Refuse a folder whose files would be lost: those of a comparison with runs that are not among these, or of something else.

    Args:
        folder (`str` or `Path`): Where a comparison is to be written.
        runs (`Iterable[str | Path]`): The folders of its runs. One of more runs takes the place of one of fewer.

    Raises:
        ValueError: By the option.
    """
    folder, found = Path(folder), f"`--output_dir {folder}` holds"
    if not (folder / COMPARISON_FILE).exists():
        if others := [name for name in (MARKDOWN_FILE, PAGE_FILE, FRONTIER_FILE) if (folder / name).exists()]:
            raise ValueError(f"{found} {others[0]} of something else than a comparison; move it away, or give another --output_dir")
        return
    try:
        before = load_comparison(folder)
    except ValueError as error:
        raise ValueError(f"{found} a {COMPARISON_FILE} that would be overwritten ({error}); move it away, or give another --output_dir") from None
    now, known = places(runs, folder), before.get("places")
    if known is None:
        # Written without the command line, which knows the names of its runs alone.
        now, known = ({name: name for name in of} for of in (now.values(), (name for row in before["candidates"] for name in row["folders"])))
    if lost := [name for place, name in known.items() if place not in now]:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise ValueError(f"{found} a comparison of other runs ({lost[0]}{more}), which would be overwritten; compare those too, or give another --output_dir")


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
        OSError: If the folder cannot be written.
    """
    folder = Path(folder)
    # The picture may be of an earlier comparison in this folder.
    with changing(folder, lambda comes: [FRONTIER_FILE]) as stage:
        written = [save_comparison(summary, stage / COMPARISON_FILE)]
        text, picture = markdown_table(summary), stage / FRONTIER_FILE
        if all(row["id_mean"] and row["shift_mean"] for row in summary["candidates"]):
            written.append(plot_frontier(summary, picture))
            text += f"\n![{measure_of(summary).title} under shift against {measure_of(summary).word} in distribution]({FRONTIER_FILE})\n"
        pictures = thumbnails([(item["set"], item["row"]) for item in summary.get("worst_mistakes", ())], benchmarks)
        written[1:1] = [write_whole(stage / MARKDOWN_FILE, text), write_html(summary, stage / PAGE_FILE, pictures)]
    return [folder / path.name for path in written]
