# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The figures behind the pictures that a test has drawn."""

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def printed_figures(monkeypatch) -> list[Figure]:
    """A list that every figure which is written from now on is added to."""
    saved, real = [], FigureCanvasAgg.print_png
    monkeypatch.setattr(FigureCanvasAgg, "print_png", lambda self, *args: (saved.append(self.figure), real(self, *args))[1])
    return saved
