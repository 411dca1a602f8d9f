# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The rows of the table, and how they are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from rich.table import Table


@dataclass
class Row:
    """
    One comparison.

    Args:
        item (`str`): Its letter.
        what (`str`): What is compared, A over B.
        a, b (`float`): The two sides, medians; `b` is `None` for a figure that stands alone, both if it was not run.
        unit (`str`): Of both.
        ratio (`float`, *optional*): A over B.
        limit (`float`, *optional*): What the ratio, or A where there is no ratio, may be at most.
        note (`str`, *optional*): What a reader must know of it, such as that it was scaled up.
        details (`dict`, *optional*): For the JSON only.
    """

    item: str
    what: str
    a: float | None
    b: float | None
    unit: str
    ratio: float | None = None
    limit: float | None = None
    note: str = ""
    details: dict = field(default_factory=dict)

    @property
    def within(self) -> bool | None:
        """Whether the limit is kept; `None` without one."""
        value = self.a if self.ratio is None else self.ratio
        return None if self.limit is None or value is None else value <= self.limit

    def as_json(self) -> dict:
        """All fields, and `within_limit`."""
        return {**asdict(self), "within_limit": self.within}


def _number(row: Row, value: float | None) -> str:
    if value is None:
        return ""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text} {row.unit}".strip()


def _cells(row: Row) -> list[str]:
    ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
    limit = "" if row.limit is None else f"{row.limit:g}"
    return [row.item, row.what, _number(row, row.a), _number(row, row.b), ratio, limit]


_HEADINGS = ("item", "A over B", "A", "B", "ratio", "limit", "")


def as_table(rows: list[Row], title: str, judged: bool = True) -> Table:
    """
    The rows as a table for the terminal.

    Args:
        rows: The rows.
        title (`str`): Above the table.
        judged (`bool`, *optional*, defaults to `True`): Say whether limits were kept; sizes to try the suite have none.
    """
    table = Table(title=title, title_justify="left", expand=False)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading in ("A", "B", "ratio", "limit") else "left")
    verdicts = {None: "", True: "[green]kept[/green]", False: "[red]missed[/red]"}
    for row in rows:
        cells = _cells(row)
        if row.note:
            cells[1] += f"\n[dim]{row.note}[/dim]"
        table.add_row(*cells, verdicts[row.within] if judged else "")
    return table


def as_markdown(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join(_HEADINGS)} |", "|---|---|---:|---:|---:|---:|---|"]
    verdicts = {None: "", True: "kept", False: "**missed**"}
    for row in rows:
        cells = _cells(row)
        if row.note:
            cells[1] += f" ({row.note})"
        lines.append(f"| {' | '.join([*cells, verdicts[row.within]])} |")
    return "\n".join(lines)
