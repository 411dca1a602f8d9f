# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What can be told from noise: paired differences of two candidates on the same images, over seeds and whole groups of images.

Two things move a difference by chance. Which images a set holds: they are resampled, in whole groups where the set has any,
by the same draws for both candidates. And the seeds of the trainings: the variance of their mean is added to that of the
bootstrap, and since there are few of them, intervals take the t quantile for Welch and Satterthwaite's degrees of freedom. A
candidate of one seed says nothing about seeds, and then the interval covers the choice of images alone.

Resampling seeds and images together would count the part of the variance that belongs to both three times (Owen 2007, The
pigeonhole bootstrap); the sum counts it twice, so intervals are a little wide.

The ECE of few images is too high, and more so that of a model with a small one, which no resampling undoes. Of some hundreds of
images, or few groups, the intervals of its differences are too narrow: 85 % of them instead of 95 hold the truth, and fewer of a mean
over several such sets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit

from ..evaluation.list_predictions import ListPredictions
from ..evaluation.predictions import Predictions, SetPredictions
from ..evaluation.resampling import bootstrap_draws, draw_counts, group_codes
from .measures import ACCURACY, MEAN_PRECISION

DRAWS = 1000
LEVEL = 0.95
#: Means over unlike numbers of seeds differ by less than this where they are equal.
ROUNDING = 1e-12
#: Fewer images or groups often all move the same way by chance: five of them in one of 16 cases.
FEWEST_ALIKE = 6


@dataclass(frozen=True)
class Difference:
    """
    How much higher a number of one candidate is than that of another.

    Attributes:
        mean (`float`): The difference.
        se (`float`, *optional*): Its standard error.
        low, high (`float`, *optional*): The ends of its 95 % interval.
        beyond_noise (`bool`, *optional*): Whether the interval leaves 0 out. All but the mean are `None` where a single image,
            or a single group, says nothing of how far chance moves it; nor do fewer than six that all move by the same.
    """

    mean: float
    se: float | None
    low: float | None
    high: float | None
    beyond_noise: bool | None


@dataclass(frozen=True)
class Sampled:
    """
    A number of one candidate, and what chance does to it.

    Attributes:
        values (`np.ndarray` of shape `(seeds,)`): The number by seed, on the images as they are.
        draws (`np.ndarray` of shape `(draws,)`): Its mean over seeds in each bootstrap sample of the images. Samples of two
            candidates are paired.
        units (`int`): Images, or groups of them, that were drawn from.
    """

    values: np.ndarray
    draws: np.ndarray
    units: int


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of `values` over seeds, and their standard deviation, which is `None` of one."""
    values = np.asarray(values, dtype=np.float64)
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def cluster_draws(groups: np.ndarray | Sequence, n_draws: int = DRAWS, seed: int | Sequence[int] = 0) -> np.ndarray:
    """
    Draw whole groups of images with replacement.

    Args:
        groups (array or list of `n`): The group of each image.
        n_draws (`int`, *optional*, defaults to 1000): Samples.
        seed (`int` or `Sequence[int]`, *optional*, defaults to 0): Seed of numpy's generator.

    Returns:
        `np.ndarray` of shape `(n_draws, n)`: How often each image is in each sample.

    Raises:
        ValueError: If there is one group alone.
    """
    codes, units = group_codes(groups)
    return np.concatenate(list(draw_counts(units, n_draws, seed)))[:, codes].astype(np.int64)


def paired_difference(
    one: np.ndarray | Sequence,
    other: np.ndarray | Sequence,
    groups: np.ndarray | Sequence | None = None,
    *,
    draws: int = DRAWS,
    seed: int | Sequence[int] = 0,
) -> Difference:
    """
    Compare the means of per-image values of two candidates on the same images.

    Args:
        one, other (array of shape `(n,)` or `(seeds, n)`): The values of each image by each seed, such as correctness or NLL.
        groups (array or list of `n`, *optional*): The group of each image; by default each image by itself.
        draws (`int`, *optional*, defaults to 1000): Bootstrap samples.
        seed (`int` or `Sequence[int]`, *optional*, defaults to 0): Of the bootstrap.

    Returns:
        [`Difference`]: `one` less `other`.

    Raises:
        ValueError: If they are not of the same images, or a value is not finite.
    """
    sides = [np.atleast_2d(np.asarray(side, dtype=np.float64)) for side in (one, other)]
    n = sides[0].shape[1]
    if sides[1].shape[1] != n or n < 1 or (groups is not None and len(groups) != n):
        shapes = f"{np.shape(one)} and {np.shape(other)}" + ("" if groups is None else f" with {len(groups)} groups")
        raise ValueError(f"Values of shape {shapes} are not of the same images; give one for each image.")
    if not all(np.isfinite(side).all() for side in sides):
        raise ValueError("A value is not finite, so nothing can be compared; look for a model that diverged.")
    units = n if groups is None else len(np.unique(groups))
    if units == 1:
        return difference(*(Sampled(side.mean(axis=1), np.zeros(0), 1) for side in sides))
    codes = np.arange(n) if groups is None else group_codes(groups)[0]
    sizes = np.bincount(codes, minlength=units)
    sums = np.column_stack([np.bincount(codes, side.mean(axis=0), minlength=units) for side in sides])
    means = np.concatenate([times @ sums / (times @ sizes)[:, None] for times in draw_counts(units, draws, seed)])
    return difference(*(Sampled(side.mean(axis=1), means[:, k], units) for k, side in enumerate(sides)))


def difference(one: Sampled, other: Sampled) -> Difference:
    """
    Compare a number of two candidates that were resampled by the same draws.

    Args:
        one, other ([`Sampled`]): The number of each.

    Returns:
        [`Difference`]: `one` less `other`.
    """
    mean, degrees = float(one.values.mean() - other.values.mean()), min(one.units, other.units) - 1
    mean = 0.0 if abs(mean) < ROUNDING else mean
    if degrees < 1:
        return Difference(mean, None, None, None, None)
    # Samples of few units vary less than their like does. A sample without any image of a set is NaN.
    images = float(np.nanvar(one.draws - other.draws, ddof=1)) * (degrees + 1) / degrees
    if mean and images < ROUNDING**2 and degrees + 1 < FEWEST_ALIKE:
        return Difference(mean, None, None, None, None)
    parts = [(images, degrees)]
    for side in (one, other):
        seeds = len(side.values)
        parts += [(float(np.var(side.values, ddof=1)) / seeds, seeds - 1)] if seeds > 1 else []
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / of for part, of in parts) if variance > 0 else 1.0
    se = math.sqrt(variance)
    reach = float(stdtrit(freedom, (1 + LEVEL) / 2)) * se
    return Difference(mean, se, mean - reach, mean + reach, abs(mean) > reach)


def mean_over(sampled: Sequence[Sampled]) -> Sampled:
    """Average a number over several sets that were `sampled` with the same seeds, each set counted once."""
    values, draws = (np.mean([getattr(item, name) for item in sampled], axis=0) for name in ("values", "draws"))
    return Sampled(values, draws, min(item.units for item in sampled))


def grouped(items: Iterable[SetPredictions]) -> SetPredictions:
    """Of the predictions of several runs for one set (`items`) the first that name groups; the first where none do."""
    items = list(items)
    return next((item for item in items if item.group is not None), items[0])


def of_the_same_images(runs: Sequence[Predictions], reference: SetPredictions) -> list[SetPredictions]:
    """
    Pick one set from runs that must have predictions for the same images of it.

    Args:
        runs (`Sequence[Predictions]`): The runs.
        reference ([`SetPredictions`]): The set, of any run.

    Returns:
        `list[SetPredictions]`: Of each run.

    Raises:
        ValueError: If one of them has other images, or the same in other groups, or none.
    """
    found = [run.sets.get(reference.name) for run in runs]
    for item in found:
        same = item is not None and all(
            np.array_equal(getattr(item, name), getattr(reference, name)) for name in ("row", "label")
        )
        if not same:
            raise ValueError(
                f"The predictions of two runs are not for the same images of {reference.name!r}; evaluate both on the same "
                f"data with {'--save_logits' if isinstance(reference, ListPredictions) else '--save_predictions'}."
            )
        if not (item.group is None or reference.group is None or np.array_equal(item.group, reference.group)):
            raise ValueError(
                f"The predictions of two runs are for the same images of {reference.name!r} in other groups; evaluate both with the "
                "same --group_column."
            )
    return [item for item in found if item is not None]


def shared_draws(sets: Mapping[str, SetPredictions]) -> dict[str, tuple[int, list[str]]]:
    """
    Decide which `sets`, by name, are resampled by the same draws: those that have groups in common, and those that have some in common with these.

    Returns:
        `dict`: By name the number of the draws, from 0 on, and all groups that they draw from; none for a set without groups, which has
        draws of its own.
    """
    parts: list[tuple[list[str], set[str]]] = []
    for name, item in sets.items():
        groups = set() if item.group is None else set(item.group.tolist())
        met = [part for part in parts if part[1] & groups]
        parts = [part for part in parts if part not in met]
        parts.append(([*(of for names, _ in met for of in names), name], groups.union(*(more for _, more in met))))
    return {name: (number, sorted(groups)) for number, (names, groups) in enumerate(parts) for name in names}


class Bootstrap:
    """
    The draws by which all candidates of a comparison are resampled.

    Each set is resampled by its own groups, or image by image without any. Sets that have groups in common share the draws of
    all of their groups: other artists have drawn the same concepts.

    Args:
        sets (`Mapping[str, SetPredictions]`): The labelled sets by name, with the images and groups that every run must have.
        draws (`int`, *optional*, defaults to 1000): Bootstrap samples.
        seed (`int`, *optional*, defaults to 0): Of the draws.
        n_bins (`int`, *optional*, defaults to 15): Bins of the ECE.

    Example:

    ```python
    bootstrap = Bootstrap(of_carot[0].labelled)
    carot, flyp = bootstrap.sample(of_carot), bootstrap.sample(of_flyp)
    difference(carot["sketch"]["accuracy"], flyp["sketch"]["accuracy"])
    shifts = (mean_over([side[name]["nll"] for name in ("sketch", "cartoon")]) for side in (carot, flyp))
    difference(*shifts)
    ```
    """

    def __init__(self, sets: Mapping[str, SetPredictions], *, draws: int = DRAWS, seed: int = 0, n_bins: int = 15):
        self.sets, self.draws, self.seed, self.n_bins = dict(sets), draws, seed, n_bins
        #: By set the number of the draws that it shares, and all groups that they draw from.
        self._shared = shared_draws(self.sets)

    def sample(self, runs: Sequence[Predictions]) -> dict[str, dict[str, Sampled]]:
        """
        Resample a candidate.

        Args:
            runs (`Sequence[Predictions]`): Of its seeds.

        Returns:
            `dict[str, dict[str, Sampled]]`: By set, `accuracy`, `nll`, `ece` and `brier`; of lists of labels `map`, `nll`, `ece` and `f1`.

        Raises:
            ValueError: If a run has other images than the comparison.
        """
        found = {}
        for name, reference in self.sets.items():
            items = of_the_same_images(runs, reference)
            draws = [self._draws(item, reference, *self._shared[name]) for item in items]
            values = [item.metrics(self.n_bins) for item in items]
            units = len(reference) if reference.group is None else len(np.unique(reference.group))
            found[name] = {
                metric: Sampled(
                    np.array([value[metric] for value in values]),
                    np.mean([draw[metric] for draw in draws], axis=0),
                    units,
                )
                for metric in (MEAN_PRECISION if isinstance(reference, ListPredictions) else ACCURACY).metrics
            }
        return found

    def _draws(
        self, item: SetPredictions, reference: SetPredictions, number: int, groups: Sequence[str]
    ) -> dict[str, np.ndarray]:
        units = {} if reference.group is None else {"groups": reference.group, "every_group": groups}
        if isinstance(item, ListPredictions):
            return item.sampled(**units, n_bins=self.n_bins, draws=self.draws, seed=[self.seed, number])
        columns = (torch.from_numpy(values) for values in (item.confidence, item.correct, item.nll, item.brier))
        seed = [self.seed, number]
        return bootstrap_draws(*columns, **units, n_bins=self.n_bins, draws=self.draws, seed=seed)
