# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The pictures of a checkpoint's results, under the names by which its card shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from hf_robustft.evaluation.detector import OpenSetDetector
from hf_robustft.evaluation.plots import plot_reliability, plot_scores, plot_shift
from hf_robustft.evaluation.report import EvaluationReport
from hf_robustft.publishing.card_results import RELIABILITY_FILE, SHIFT_FILE
from hf_robustft.publishing.open_set_section import SCORES_FILE


def draw_pictures(
    folder: str | Path,
    reports: EvaluationReport | Sequence[EvaluationReport],
    *,
    scores: Mapping[str, Mapping[str, Tensor]] | None = None,
    roles: Mapping[str, str] | None = None,
    detector: OpenSetDetector | None = None,
) -> list[str]:
    """
    Draw `reliability.png`, `shift.png` and `scores.png`, as far as the results have what they show.

    An older picture that these results do not give is removed: a card would show it beside other numbers.

    Args:
        folder: Folder of the checkpoint or of the results.
        reports ([`EvaluationReport`] or a sequence of one or two): The model, or the model before and after.
        scores, roles (*optional*): `Evaluator.scores` and the role of each set, for `scores.png`.
        detector ([`OpenSetDetector`], *optional*): Whose score and threshold `scores.png` shows; else the energy.

    Returns:
        `list[str]`: Names of the files written.
    """
    folder = Path(folder)
    given = [reports] if isinstance(reports, EvaluationReport) else list(reports)
    after = given[-1]
    for name in (RELIABILITY_FILE, SHIFT_FILE, SCORES_FILE):
        (folder / name).unlink(missing_ok=True)
    written = []
    if after.results:
        plot_reliability(given, folder / RELIABILITY_FILE)
        written.append(RELIABILITY_FILE)
    if after.shifts and any(result.role == "id" for result in after.results.values()):
        plot_shift(given, folder / SHIFT_FILE)
        written.append(SHIFT_FILE)
    if after.open_set and scores and roles:
        score, threshold = ("energy", None) if detector is None else (detector.score, detector.threshold)
        plot_scores(scores, roles, folder / SCORES_FILE, score=score, threshold=threshold)
        written.append(SCORES_FILE)
    return written
