# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The paired differences between the candidates of a comparison, from predictions where runs kept them, else from reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .runs import METRICS, Comparison, FinishedRun
from .statistics import Bootstrap, Sampled, difference, mean_over

#: Means over the sets of a role.
MEANS = {"id_mean": "id", "shift_mean": "shift"}


class Differences:
    """
    Differences of all metrics, of each test set and of the means over sets.

    Two candidates whose runs kept predictions are compared by these. Others are compared by the bootstrap samples that reports
    keep: they are of the same images in all runs with as many.

    Args:
        comparison ([`Comparison`]): The runs.
        sets (`Mapping[str, str]`): Their sets, and the role that each has here.
    """

    def __init__(self, comparison: Comparison, sets: Mapping[str, str]):
        self.groups = {name: [name] for name, role in sets.items() if role in MEANS.values()}
        means = {mean: [name for name, role in sets.items() if role == of] for mean, of in MEANS.items()}
        self.groups |= {mean: names for mean, names in means.items() if names}
        self.tested = [name for name in self.groups if name not in MEANS]
        self._sampled: dict[tuple, dict[str, dict[str, Sampled]]] = {}
        # The images that the first run with predictions has seen; other runs must have the same.
        every = [*comparison.runs, *([] if comparison.zero_shot is None else [comparison.zero_shot])]
        kept = next((run for run in every if self._kept(run)), None)
        self._bootstrap = kept and Bootstrap(
            {name: kept.predictions.sets[name] for name in self.tested}, n_bins=kept.report.settings.get("n_bins", 15)
        )

    def against(self, runs: Sequence[FinishedRun], others: Sequence[FinishedRun]) -> dict[str, dict[str, Any]]:
        """
        Compare a candidate with another.

        Args:
            runs, others (`Sequence[FinishedRun]`): The seeds of each.

        Returns:
            `dict`: By set or mean, and metric, [`statistics.Difference`] as a mapping: `runs` less `others`.
        """
        by_image = all(map(self._kept, (*runs, *others)))
        sides = [self._sample(side, by_image) for side in (runs, others)]
        found: dict[str, dict[str, Any]] = {}
        for group, names in self.groups.items():
            found[group] = {}
            for metric in METRICS:
                pair = [[side[name][metric] for name in names] for side in sides]
                found[group][metric] = asdict(_difference(*pair))
        return found

    def _kept(self, run: FinishedRun) -> bool:
        return run.predictions is not None and all(name in run.predictions.sets for name in self.tested)

    def _sample(self, runs: Sequence[FinishedRun], by_image: bool) -> dict[str, dict[str, Sampled]]:
        key = (by_image, *(id(run) for run in runs))
        if key not in self._sampled:
            if by_image:
                self._sampled[key] = self._bootstrap.sample([run.predictions for run in runs])
            else:
                self._sampled[key] = {
                    name: {metric: _of_reports(runs, name, metric) for metric in METRICS} for name in self.tested
                }
        return self._sampled[key]


def _of_reports(runs: Sequence[FinishedRun], name: str, metric: str) -> Sampled:
    results = [run.report.results[name] for run in runs]
    draws = [(result.draws or {}).get(metric, ()) for result in results]
    values = np.array([getattr(result, metric) for result in results])
    same = len({len(item) for item in draws}) == 1 and len(draws[0]) > 1
    # One unit says nothing of how far chance moves the number.
    return Sampled(
        values,
        np.mean(draws, axis=0) if same else np.zeros(0),
        (results[0].n_groups or results[0].n) if same else 1,
    )


def _difference(ones: list[Sampled], others: list[Sampled]):
    sizes = {len(item.draws) for item in (*ones, *others)}
    if len(sizes) > 1:
        ones, others = ([Sampled(item.values, np.zeros(0), 1) for item in side] for side in (ones, others))
    return difference(mean_over(ones), mean_over(others))
