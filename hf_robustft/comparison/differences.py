# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The paired differences between the candidates of a comparison, from predictions where runs kept them, else from reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .runs import Comparison, FinishedRun
from .statistics import Bootstrap, Sampled, difference, grouped, mean_over

#: Means over the sets of a role.
MEANS = {"id_mean": "id", "shift_mean": "shift"}


class Differences:
    """
    Differences of all metrics, of each test set, of the means over sets, and of validation sets where predictions were kept.

    Two candidates whose runs kept predictions are compared by these. Others are compared by the bootstrap samples that reports
    keep: they are of the same images in all runs with as many, of the same groups and by the same seed.

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
        self._validation = [name for name, role in sets.items() if role == "validation" and name not in self.tested]
        self._measure = comparison.measure
        self._runs = [*comparison.runs, *([] if comparison.zero_shot is None else [comparison.zero_shot])]
        self._bootstraps: dict[tuple[str, ...], Bootstrap] = {}

    def against(self, runs: Sequence[FinishedRun], others: Sequence[FinishedRun]) -> dict[str, dict[str, Any]]:
        """
        Compare a candidate with another.

        Args:
            runs, others (`Sequence[FinishedRun]`): The seeds of each.

        Returns:
            `dict`: By set or mean, and metric, [`statistics.Difference`] as a mapping: `runs` less `others`.
        """
        both = (*runs, *others)
        by_image = all(kept(run, self.tested) for run in both)
        sides = [self._sample(side, self.tested, by_image) for side in (runs, others)]
        groups = dict(self.groups)
        if self._validation and all(kept(run, self._validation) for run in both):
            groups |= {name: [name] for name in self._validation}
            sides = [
                side | self._sample(of, self._validation, True) for side, of in zip(sides, (runs, others), strict=True)
            ]
        found: dict[str, dict[str, Any]] = {}
        for group, names in groups.items():
            found[group] = {}
            for metric in self._measure.metrics:
                pair = [[side[name][metric] for name in names] for side in sides]
                paired = by_image or group in self._validation or all(_paired(both, name, metric) for name in names)
                found[group][metric] = asdict(_difference(*pair, paired))
        return found

    def _sample(
        self, runs: Sequence[FinishedRun], names: Sequence[str], by_image: bool
    ) -> dict[str, dict[str, Sampled]]:
        key = (by_image, *names, *(id(run) for run in runs))
        if key not in self._sampled:
            if by_image:
                self._sampled[key] = self._bootstrap(tuple(names)).sample([run.predictions for run in runs])
            else:
                self._sampled[key] = {
                    name: {metric: _of_reports(runs, name, metric) for metric in self._measure.metrics} for name in names
                }
        return self._sampled[key]

    def _bootstrap(self, names: tuple[str, ...]) -> Bootstrap:
        """The draws of some sets: of the images that the first run with predictions has seen; other runs must have the same."""
        if names not in self._bootstraps:
            first = next(run for run in self._runs if kept(run, names))
            sets = {name: grouped(run.predictions.sets[name] for run in self._runs if kept(run, names)) for name in names}
            self._bootstraps[names] = Bootstrap(sets, n_bins=first.report.settings.get("n_bins", 15))
        return self._bootstraps[names]


def kept(run: FinishedRun, names: Sequence[str]) -> bool:
    """Return whether a `run` kept predictions of all sets of these `names`."""
    return run.predictions is not None and all(name in run.predictions.sets for name in names)


def _of_reports(runs: Sequence[FinishedRun], name: str, metric: str) -> Sampled:
    results = [run.report.results[name] for run in runs]
    draws = [(result.draws or {}).get(metric, ()) for result in results]
    values = np.array([getattr(result, metric) for result in results])
    same = _paired(runs, name, metric) and len(draws[0]) > 1
    # One unit says nothing of how far chance moves the number.
    return Sampled(values, np.mean(draws, axis=0) if same else np.zeros(0), results[0].n_drawn if same else 1)


def _paired(runs: Sequence[FinishedRun], name: str, metric: str) -> bool:
    """Whether the bootstrap samples of a set in the reports of `runs` are of the same images."""
    found = [(run.report.results[name], run.report.settings.get("seed")) for run in runs]
    return len({(len((result.draws or {}).get(metric, ())), result.n_groups, seed) for result, seed in found}) == 1


def _difference(ones: list[Sampled], others: list[Sampled], paired: bool):
    sizes = {len(item.draws) for item in (*ones, *others)}
    if len(sizes) > 1 or not paired:
        ones, others = ([Sampled(item.values, np.zeros(0), 1) for item in side] for side in (ones, others))
    return difference(mean_over(ones), mean_over(others))
