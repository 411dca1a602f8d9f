# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What self-contained pages have in common: values that know where they come from, how numbers are written, and the look."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from . import charts

#: Macros, style and script of all pages.
COMMON = Path(__file__).resolve().parent / "page"
MISSING = "\N{EN DASH}"
_MINUS = str.maketrans("-", "\N{MINUS SIGN}")
#: How numbers are written, by the name that a page gives in `data-form`.
FORMS: dict[str, Callable[[Any], str]] = {
    "percent": lambda value: f"{100 * value:.1f}",
    "points": lambda value: f"{100 * value:+.1f}",
    "share": lambda value: f"{100 * value:.0f}",
    "tenths": lambda value: f"{value:.1f}",
    "nats": lambda value: f"{value:.3f}",
    "nats-change": lambda value: f"{value:+.3f}",
    "count": lambda value: f"{value:,}",
    "number": lambda value: f"{value:.4g}",
    "text": str,
}
#: Forms in which a dash stays a dash.
_AS_THEY_ARE = ("text", "rate")
#: Browsers end a line after the dash of `3e-4`.
_RATE = re.compile(r"\b(\d+(?:\.\d+)?e-\d+)\b")


def written(value: Any, form: str, forms: Mapping[str, Callable[[Any], str]] = FORMS) -> str:
    """Return `value` as a page writes it, in a `form` of `forms`; a dash where there is none."""
    if value is None:
        return MISSING
    text = forms[form](value)
    return text if form in _AS_THEY_ARE else text.translate(_MINUS)


class Node:
    """
    A value of a file that knows its address, a JSON pointer such as `/candidates/3/shift_mean/accuracy/mean`.

    What is not there is a node too, which is false, so that a page can ask for anything.
    """

    __slots__ = ("pointer", "raw")

    def __init__(self, raw: Any, pointer: str = ""):
        self.raw, self.pointer = raw, pointer

    def __getitem__(self, key: Any) -> Node:
        key = key.raw if isinstance(key, Node) else key
        try:
            value = self.raw[key]
        except (KeyError, IndexError, TypeError):
            value = None
        return Node(value, f"{self.pointer}/{str(key).replace('~', '~0').replace('/', '~1')}")

    def __getattr__(self, key: str) -> Node:
        if key.startswith("__"):
            raise AttributeError(key)
        return self[key]

    def __iter__(self) -> Iterator[Node]:
        keys = range(len(self.raw)) if isinstance(self.raw, list) else self.raw or ()
        return (self[key] for key in keys)

    def __len__(self) -> int:
        return len(self.raw or ())

    def __bool__(self) -> bool:
        return self.raw is not None and self.raw is not False and not (hasattr(self.raw, "__len__") and not self.raw)

    def __float__(self) -> float:
        return float(self.raw)

    def __eq__(self, other: object) -> bool:
        return self.raw == (other.raw if isinstance(other, Node) else other)

    def __hash__(self) -> int:
        return hash(self.pointer)

    def __str__(self) -> str:
        return MISSING if self.raw is None else str(self.raw)

    def pairs(self) -> list[tuple[str, Node]]:
        """Keys and nodes of a mapping."""
        return [(key, self[key]) for key in (self.raw or ())]


def shown(node: Node, form: str, forms: Mapping[str, Callable[[Any], str]] = FORMS) -> Markup:
    """Return what a `node` holds for a page, in a `form` of `forms` and with its address; the filter `as` of the templates."""
    if node.raw is None:
        return Markup('<span class="none">{}</span>').format(MISSING)
    parts = _RATE.split(written(node.raw, form, forms))
    text = Markup("").join(Markup('<span class="whole">{}</span>').format(part) if index % 2 else part for index, part in enumerate(parts))
    return Markup('<data value="{}" data-path="{}" data-form="{}">{}</data>').format(node.raw, node.pointer, form, text)


def tick(value: float, scale: charts.Scale, form: str) -> str:
    """Return a tick's `value` on a `scale`, in a `form`: with as many decimals as the distance between the ticks needs."""
    ticks = scale.ticks
    factor = 100 if form in ("percent", "points", "share") else 1
    step = factor * (ticks[1] - ticks[0]) if len(ticks) > 1 else 1
    decimals = (
        0 if round(step, 6) == int(round(step, 6)) else 1 if round(10 * step, 6) == int(round(10 * step, 6)) else 2
    )
    return f"{factor * value:.{decimals}f}".translate(_MINUS)


def reach(items: Iterable[Node]) -> float:
    """Return how far from zero the differences of `items` go, with their intervals."""
    ends = [item.difference[key].raw for item in items for key in ("mean", "low", "high")]
    return max((abs(end) for end in ends if end is not None), default=0.0) or 1.0


def environment(folder: Path, forms: Mapping[str, Callable[[Any], str]] = FORMS) -> Environment:
    """
    Return what renders the templates of a page.

    Args:
        folder (`Path`): Where they are; `macros.html` is that of all pages.
        forms (`Mapping[str, Callable]`, *optional*): How numbers are written.

    Returns:
        `jinja2.Environment`: All that is not marked as safe is escaped. `style` and `script` are globals.
    """
    made = Environment(
        loader=FileSystemLoader([folder, COMMON]), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {
        "as": partial(shown, forms=forms),
        "tick": tick,
        "reach": reach,
        "scale": lambda scale: f"{scale.low!r} {scale.high!r} {scale.start!r} {scale.end!r}",
    }
    # Files of the package.
    made.globals["style"] = Markup((COMMON / "style.css").read_text(encoding="utf-8"))  # noqa: S704
    made.globals["script"] = Markup((COMMON / "page.js").read_text(encoding="utf-8"))  # noqa: S704
    return made
