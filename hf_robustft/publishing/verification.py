# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a verification found: its exit status, its tables, and its files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..files import write_whole
from .claim_noise import LEVEL
from .claims import FAILS, HOLDS, NOT_MEASURED, Claim
from .text import markdown_text, one_line

FORMAT = 1
KIND = "hf_robustft verification"
#: Exit statuses beside 0: a claim fails; none fails, and one or more could not be measured.
FAILED, INCOMPLETE = 1, 3
_HEAD = ("Of", "Claim", "Claimed", "Measured", "Verdict")
#: What the tables show where it holds: what a card shows first. Everything else is in the file.
_SHOWN = ("accuracy", "ECE", "NLL", "Brier score", "coverage", "mAP", "F1", "temperature", "threshold for unknown")
_PERCENT = ("accuracy", "ECE", "adaptive ECE", "class-wise ECE", "noise floor", "coverage", "sets with", "AUROC", "FPR95", "AUPR", "accepted",
            "known images", "unknown images", "mAP", "F1", "micro F1", "Accuracy", "Expected", "FPR at", "standard error of the accuracy",
            "standard error of the ECE", "Mean average", "accuracy of the mean", "ece of the mean", "images of the most", "lower end", "upper end",
            "refusal by", "acceptance by")  # fmt: skip


@dataclass
class Verification:
    """
    What became of the claims of a model.

    Attributes:
        model (`str`): What was verified, as it was given.
        claims (`list[Claim]`): Each with its verdict.
        facts (`dict[str, Any]`): What else was compared or counted: hash of the files, commit, versions then and now.
        notes (`list[str]`): What the reader should know.
        leading (`str`, *optional*): The open-set score that the tables show.
    """

    model: str
    claims: list[Claim]
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    leading: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many claims hold, fail and were not measured."""
        counted = Counter(claim.verdict for claim in self.claims)
        return {verdict: counted[verdict] for verdict in (HOLDS, FAILS, NOT_MEASURED)}

    @property
    def status(self) -> int:
        """The exit status: 0 if all claims hold, 1 if one fails, else 3."""
        return FAILED if self.counts[FAILS] else INCOMPLETE if self.counts[NOT_MEASURED] else 0

    def table(self, width: int = 100) -> str:
        """
        Lay out a table for a terminal.

        Args:
            width (`int`, *optional*, defaults to 100): Its columns.

        Returns:
            `str`: Lines without a trailing newline: what the card shows first, all that fails or was not measured, and how many
            others hold.
        """
        output = StringIO()
        console = Console(file=output, width=width, color_system=None, force_terminal=False, force_jupyter=False)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in _HEAD:
            table.add_column(name, justify="right" if name in ("Claimed", "Measured") else "left", overflow="fold")
        for row in self._rows():
            # Text, not str: rich reads [brackets] in a string as markup.
            table.add_row(*map(Text, row))
        console.print(table)
        for line in self._lines():
            console.print(Text(line))
        return "\n".join(line.rstrip() for line in output.getvalue().splitlines()).strip("\n")

    def markdown(self) -> str:
        """Lay out the same in markdown, with a heading."""
        lines = [f"# Verification of {markdown_text(self.model)}", "", _markdown_row(_HEAD), "|:--|:--|--:|--:|:--|"]
        lines += [_markdown_row(list(map(markdown_text, row))) for row in self._rows()]
        return "\n".join([*lines, "", *(f"- {markdown_text(line)}" for line in self._lines()), ""])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        claims = [{key: value for key, value in asdict(claim).items() if value not in (None, "")} for claim in self.claims]
        counts = {name.replace(" ", "_"): count for name, count in self.counts.items()}
        head = {"format": FORMAT, "kind": KIND, "model": self.model, "status": self.status, "counts": counts}
        return {**head, **self.facts, "level": LEVEL, "notes": self.notes, "claims": claims}

    def save(self, output: str | Path | None = None, markdown: str | Path | None = None) -> list[Path]:
        """
        Write a JSON file, a markdown file, or both; each is whole or not there.

        Args:
            output (`str` or `Path`, *optional*): Of the JSON.
            markdown (`str` or `Path`, *optional*): Of the markdown.

        Returns:
            `list[Path]`: The files.
        """
        written = []
        if output is not None:
            text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
            written.append(write_whole(output, text + "\n"))
        if markdown is not None:
            written.append(write_whole(markdown, self.markdown()))
        return written

    def _rows(self) -> list[list[str]]:
        chosen = [claim for claim in self.claims if claim.verdict != HOLDS or self._leads(claim)]
        # What could not be measured of a set for one reason is one row.
        absent = Counter((claim.of, claim.reason) for claim in chosen if claim.verdict == NOT_MEASURED)
        rows, said = [], set()
        for claim in chosen:
            key = claim.of, claim.reason
            count = absent[key] if claim.verdict == NOT_MEASURED else 1
            if count == 1:
                rows.append(_row(claim))
            elif key not in said:
                said.add(key)
                rows.append([one_line(claim.of), f"{count} numbers", "", "", f"{NOT_MEASURED}: {one_line(claim.reason)}"])
        return rows

    def _leads(self, claim: Claim) -> bool:
        if claim.of == "README.md":
            return False
        detection = self.leading is not None and claim.name in (f"AUROC of {self.leading}", f"FPR95 of {self.leading}")
        return detection or claim.name in _SHOWN

    def _lines(self) -> list[str]:
        counts, shown = self.counts, len([claim for claim in self.claims if claim.verdict == HOLDS and self._leads(claim)])
        rest = counts[HOLDS] - shown
        more = f", {rest:,} of them not shown" if rest else ""
        said = f"{counts[HOLDS]:,} of {len(self.claims):,} claims hold{more}; {counts[FAILS]:,} fail, {counts[NOT_MEASURED]:,} were not measured."
        return [said, *map(one_line, self.notes)]


def _row(claim: Claim) -> list[str]:
    verdict = {HOLDS: HOLDS, FAILS: FAILS.upper(), NOT_MEASURED: NOT_MEASURED}[claim.verdict]
    by = f", other images: p = {claim.p:.2g}" if claim.verdict == HOLDS and claim.p is not None else ""
    by = ", within half a standard error" if claim.verdict == HOLDS and claim.rule == "versions" else by
    why = f": {claim.reason}" if claim.reason else by
    both = claim.claimed, claim.measured
    close = claim.verdict == FAILS
    words = [claim.of, claim.name, *(_shown(claim.name, value, close) for value in both), f"{verdict}{why}"]
    return [one_line(word) for word in words]


def _shown(name: str, value: float | str | None, close: bool) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, int):
        return f"{value:,}"
    if name.startswith(_PERCENT):
        return f"{100 * value:.{3 if close else 1}f} %"
    return f"{value:.{7 if close else 4}g}"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def described_code(differing: Sequence[str], claimed: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """What a verification keeps of the settings `claimed` and `measured`, and of what of them is `differing`."""
    names = ("versions", "dtype", "device")
    then, now = ({name: of.get(name) for name in names} for of in (claimed, measured))
    return {"code": {"differing": list(differing), "then": then, "now": now}}
