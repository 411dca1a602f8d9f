# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What all pictures have in common: figures without a display, their look, short names, and a file that is whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from ..files import whole_file


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, `width` by `height` inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(axes, grid: str) -> None:
    """Give `axes` the look of all pictures: no frame, and a pale `grid` (`"x"`, `"y"` or `"both"`) behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color="0.9", linewidth=0.7)
    axes.tick_params(labelsize=9)


def add_legend(figure: Figure, handles: list, place: str, columns: int) -> None:
    """Give a `figure` a legend of `handles` at the `place` that matplotlib calls so, in so many `columns`."""
    figure.legend(handles=handles, loc=place, ncols=columns, frameon=False, fontsize=9)


def short_name(name: str, width: int = 32) -> str:
    """Return a `name` in one line of at most `width` letters; names differ at their ends, so the middle is left out."""
    name = " ".join("".join(character if character.isprintable() else " " for character in str(name)).split())
    if len(name) <= width:
        return name
    end = (width - 1) // 2
    return f"{name[: width - 1 - end]}\N{HORIZONTAL ELLIPSIS}{name[-end:]}"


def checked_png(path: str | Path) -> Path:
    """Return `path` as a `Path`. Raises ValueError if it does not end in .png."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"The picture is a PNG, but the file is called {path.name!r}; let the name end in .png.")
    return path


def save_figure(figure: Figure, path: Path, dpi: int, names: Iterable[Text] = ()) -> Path:
    """Write a `figure` as the PNG `path` at `dpi`, its texts (and `names`, those of ticks) as they are, and return the path."""
    legends = [text for legend in figure.legends for text in legend.get_texts()]
    titles = [title for axes in figure.axes for title in (axes.title, axes.xaxis.label)]
    for text in (*legends, *titles, *names):
        # A dollar sign in a name does not start a formula.
        text.set_parse_math(False)
    figure.dpi = dpi
    with whole_file(path) as half:
        # `savefig` would draw it twice, and follow a user's `savefig.*` settings, by which a card's pictures could be transparent.
        FigureCanvasAgg(figure).print_png(half)
    return path
