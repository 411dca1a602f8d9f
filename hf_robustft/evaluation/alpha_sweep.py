# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Every model between a start and its fine-tuned self, measured without training again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..files import write_csv
from ..modeling.interpolation import check_alpha, interpolate_weights
from ..modeling.zero_shot import ZeroShotHead
from .benchmark_checks import refuse_lists
from .evaluator import Evaluator
from .plots import plot_alpha_sweep
from .report import SWEEP_PICTURE, SWEEP_TABLE, DatasetResult, EvaluationReport

#: The grid of WiSE-FT's authors.
ALPHAS = tuple(i / 10 for i in range(11))


@dataclass(frozen=True)
class AlphaSweep:
    """
    What [`sweep_alpha`] measured.

    Attributes:
        reports (`dict[float, EvaluationReport]`): By alpha, ascending.
    """

    reports: dict[float, EvaluationReport]

    def best(self) -> float:
        """
        The alpha with the highest accuracy on the validation set; of equal ones the smallest.

        Raises:
            ValueError: If no set has the role validation.
        """
        found = {alpha: _first(report, "validation") for alpha, report in self.reports.items()}
        accuracies = {alpha: result.accuracy for alpha, result in found.items() if result is not None}
        if len(accuracies) < len(found):
            raise ValueError("No set has the role validation, by which alpha is chosen; give the evaluator one.")
        return max(accuracies, key=lambda alpha: accuracies[alpha])

    def table(self, saved: float | None = None) -> str:
        """
        Lay out the main numbers for the terminal, one line for each alpha.

        Args:
            saved (`float`, *optional*): The alpha of the model that is saved, whose line gets a mark.

        Returns:
            `str`: The table, without a trailing newline.
        """
        columns = [(role, _first(report, role)) for report in [next(iter(self.reports.values()))] for role in ("validation", "id")]
        heads = ["alpha", *(f"{result.name} acc %" for _, result in columns if result is not None)]
        shifts = next(iter(self.reports.values())).shifts
        heads += ["shift acc %", "shift ECE %", "shift NLL"] if shifts else []
        rows = [heads]
        for alpha, report in self.reports.items():
            row = [f"{'* ' if alpha == saved else ''}{alpha:g}"]
            found = [_first(report, role) for role, result in columns if result is not None]
            row += [f"{100 * result.accuracy:.1f}" for result in found if result is not None]
            if shifts:
                mean = report.shift_mean
                row += [f"{100 * mean['accuracy']:.1f}", f"{100 * mean['ece']:.1f}", f"{mean['nll']:.2f}"]
            rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)

    def save(self, directory: str | Path, saved: float | None = None) -> list[Path]:
        """
        Write `alpha_sweep.csv`, all metrics as fractions, and where there is a set in distribution and a shift
        `alpha_sweep.png`. The column `temperature` is 1: none was folded into these models, whatever the folder says of its own.

        Args:
            directory (`str` or `Path`): The folder.
            saved (`float`, *optional*): The alpha of the model that is saved, which the picture marks.

        Returns:
            `list[Path]`: The files.
        """
        path = Path(directory) / SWEEP_TABLE
        metrics = {alpha: report.metrics() for alpha, report in self.reports.items()}
        names = list(dict.fromkeys(name for row in metrics.values() for name in row))
        rows = [[alpha, 1.0, *(row.get(name) for name in names)] for alpha, row in metrics.items()]
        write_csv(path, [["alpha", "temperature", *names], *rows])
        first = next(iter(self.reports.values()))
        if _first(first, "id") is None or not first.shifts:
            return [path]
        return [path, plot_alpha_sweep(self.reports, Path(directory) / SWEEP_PICTURE, saved)]


def sweep_alpha(
    zero_shot: PreTrainedModel,
    fine_tuned: nn.Module | Mapping[str, Tensor],
    evaluator: Evaluator,
    alphas: Iterable[float] = ALPHAS,
    *,
    heads: tuple[ZeroShotHead, ZeroShotHead] | None = None,
    merge: Callable[..., dict[str, Tensor]] = interpolate_weights,
) -> AlphaSweep:
    """
    Measure the models between a start and its fine-tuned self, one at a time, in the memory of one.

    Args:
        zero_shot ([`~transformers.PreTrainedModel`]): The model before fine-tuning, on the device that runs it.
        fine_tuned (`torch.nn.Module` or `Mapping[str, torch.Tensor]`): The model after fine-tuning, or its state dict.
        evaluator ([`Evaluator`]): Of the sets to measure on.
        alphas (`Iterable[float]`, *optional*, defaults to `(0.0, 0.1, ..., 1.0)`): Shares of the fine-tuned weights.
        heads (`tuple` of two [`ZeroShotHead`], *optional*): The zero-shot head that fine-tuning started from, and the trained
            one. Without them every model has the head of its own text tower.
        merge (`Callable`, *optional*, defaults to `interpolate_weights`): Makes a state dict of start, end and alpha, for models
            and for heads; [`lines`] is another.

    Returns:
        [`AlphaSweep`]: A report for each alpha. At 0 it is the zero-shot model's, at 1 the fine-tuned one's.

    Raises:
        ValueError: If there is no alpha, one lies outside [0, 1], or models or heads do not fit.

    Example:

    ```python
    from hf_robustft import Evaluator, load_benchmark, load_dual_encoder, sweep_alpha

    start, processor = load_dual_encoder("emoji_clip")
    tuned, _ = load_dual_encoder("outputs/carot")
    sweep = sweep_alpha(start, tuned, Evaluator(load_benchmark("emoji_shift"), processor))
    print(sweep.table(), sweep.best())
    ```
    """
    alphas = sorted(set(alphas))
    if not alphas:
        raise ValueError("There is no alpha to measure; give at least one.")
    refuse_lists(evaluator.benchmarks.values())
    for alpha in alphas:
        check_alpha(alpha)
    model = copy.deepcopy(zero_shot)
    head = None if heads is None else copy.deepcopy(heads[1])
    reports = {}
    for alpha in alphas:
        model.load_state_dict(merge(zero_shot, fine_tuned, alpha))
        if head is not None:
            head.load_state_dict(merge(*heads, alpha))
        reports[alpha] = evaluator.evaluate(model, head=head, name=f"alpha {alpha:g}")
    return AlphaSweep(reports)


def _first(report: EvaluationReport, role: str) -> DatasetResult | None:
    return next((result for result in report.results.values() if result.role == role), None)
