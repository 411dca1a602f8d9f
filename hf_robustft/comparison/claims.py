# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Whether what is said of methods holds in a comparison: verdicts, from paired differences and their intervals alone.

>>> claim = Claim("CaRot is more accurate under shift than FLYP", "carot", "flyp", {"shift accuracy": 0.0})
>>> judge(claim, Measurements(read_runs(folders))).verdict
'holds'
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..evaluation.open_set import DEFAULT_SCORE
from ..evaluation.predictions import SetPredictions
from ..evaluation.resampling import draw_counts, group_codes
from .differences import kept
from .runs import Comparison, FinishedRun, rate_text
from .statistics import DRAWS, Bootstrap, Difference, Sampled, difference, grouped, mean_over, shared_draws

HOLDS, FAILS, CANNOT_TELL, NOT_TESTED = "holds", "does not hold", "cannot tell", "not tested"
DEPENDS = "depends on the rate"
_ROLES = {"id": "ID", "shift": "shift"}
_METRICS = {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL"}
#: Of a singular value its decimal logarithm.
SINGULAR = "smallest singular value"
#: Whether more of a metric is better.
BETTER = {f"{role} {name}": 1 if name in ("accuracy", "AUROC") else -1 for role in _ROLES.values() for name in (*_METRICS.values(), "AUROC")}
BETTER |= {SINGULAR: 1}
#: Units that are never fewer than what else is counted: of a number that no draw of images moves.
_MANY = 10**9


@dataclass(frozen=True)
class Claim:
    """
    What is said of two methods.

    Attributes:
        says (`str`): In one sentence.
        better, than (`str`): Methods, such as `"carot"` and `"zero_shot"`, or names of `parts` of [`Measurements`].
        metrics (`Mapping[str, float]`): By name of `BETTER` in what the first is said to be better: higher accuracy, AUROC and
            singular value, lower ECE and NLL; and by how much it may be worse where it is said to keep it (0.01 is a point).
        at (`str`, *optional*, defaults to `"rates"`): Where it is tested: at each of the `"rates"` that both have; at the one that
            was `"chosen"` for each; at `"equal_id"` accuracy, in the middle of what both lines span; or whether the metrics'
            `"spread"` over the rates, the greatest less the smallest, is smaller.
        source (`str`, *optional*, defaults to `""`): Who says so, and where.
    """

    says: str
    better: str
    than: str
    metrics: Mapping[str, float]
    at: str = "rates"
    source: str = ""


@dataclass(frozen=True)
class Outcome:
    """A single `difference`, of a `metric` at a `place` ("3e-4"), and the `verdict` from it."""

    place: str
    metric: str
    difference: Difference
    verdict: str


@dataclass(frozen=True)
class Judgement:
    """The `verdict` on a `claim`, that at each of the `places`, and its `outcomes`; without these, `why` it was not tested."""

    claim: Claim
    verdict: str
    outcomes: Sequence[Outcome] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    why: str = ""


def verdict_of(found: Difference, sign: int = 1, margin: float = 0.0) -> str:
    """
    Judge a difference: it `HOLDS` if its whole interval is better than nothing, less the margin, and `FAILS` if it is worse.

    Args:
        found ([`Difference`]): Of what should be better, less the other.
        sign (`int`, *optional*, defaults to 1): -1 where less is better.
        margin (`float`, *optional*, defaults to 0.0): By how much it may be worse.
    """
    if found.low is None:
        return CANNOT_TELL
    low, high = sorted((sign * found.low, sign * found.high))
    return HOLDS if low > -margin else FAILS if high < -margin else CANNOT_TELL


def judge(claim: Claim, measurements: Measurements) -> Judgement:
    """
    Judge a claim. At a place it holds if it holds for all metrics, and fails if it fails for one. Over places it holds if it holds at
    all of them; it fails if it fails at one and holds at none.

    Args:
        claim ([`Claim`]): What is said.
        measurements ([`Measurements`]): What was measured.

    Returns:
        [`Judgement`]: With the verdict `HOLDS`, `FAILS`, `CANNOT_TELL`, `DEPENDS` (it holds at one rate and fails at another) or
        `NOT_TESTED`.

    Raises:
        ValueError: If `claim.at` or a metric is unknown.
    """
    unknown = [name for name in claim.metrics if name not in BETTER]
    if unknown or claim.at not in _PLACES:
        raise ValueError(f"There is no {unknown[0] if unknown else claim.at!r}; there are {', '.join(BETTER if unknown else _PLACES)}.")
    lines = [measurements.line(name) for name in (claim.better, claim.than)]
    missing = [name for name, line in zip((claim.better, claim.than), lines, strict=True) if not line]
    if missing:
        return Judgement(claim, NOT_TESTED, why=f"no run of {' or '.join(missing)} with predictions")
    places = _PLACES[claim.at](measurements, (claim.better, claim.than), lines)
    outcomes, by_place = [], {}
    for place, (one, other) in places.items():
        if not all(metric in one and metric in other for metric in claim.metrics):
            continue
        found = []
        for metric, margin in claim.metrics.items():
            gap = difference(one[metric], other[metric])
            sign = -1 if claim.at == "spread" else BETTER[metric]
            found.append(Outcome(place, metric, gap, verdict_of(gap, sign, margin)))
        verdicts = {outcome.verdict for outcome in found}
        by_place[place] = FAILS if FAILS in verdicts else HOLDS if verdicts == {HOLDS} else CANNOT_TELL
        outcomes += found
    if not by_place:
        return Judgement(claim, NOT_TESTED, why=_WHY_NOT[claim.at])
    found = set(by_place.values())
    verdict = DEPENDS if {HOLDS, FAILS} <= found else next(item for item in (FAILS, CANNOT_TELL, HOLDS) if item in found)
    return Judgement(claim, verdict, outcomes, by_place)


class Measurements:
    """
    What claims are judged by: each run that kept its predictions, resampled once, with the same draws.

    Args:
        comparison ([`Comparison`]): The runs.
        chosen (`Mapping[str, float]`, *optional*): By method the rate at which claims on the `"chosen"` ones are tested.
        parts (`Mapping[str, Sequence[FinishedRun]]`, *optional*): Further runs on the same data by a name, such as those of a method
            without a term of its loss.
        draws (`int`, *optional*, defaults to 1000): Bootstrap samples.
    """

    def __init__(
        self,
        comparison: Comparison,
        chosen: Mapping[str, float | None] | None = None,
        parts: Mapping[str, Sequence[FinishedRun]] | None = None,
        draws: int = DRAWS,
    ):
        self._names = {role: [name for name, of in comparison.sets.items() if of == role] for role in (*_ROLES, "open_set")}
        tests = [name for role in _ROLES for name in self._names[role]]
        start = [] if comparison.zero_shot is None else [comparison.zero_shot]
        named: dict[str, list[FinishedRun]] = {}
        for run in (*start, *comparison.runs):
            if not run.candidate.variant:
                named.setdefault(run.candidate.method, []).append(run)
        self._runs = {name: [run for run in runs if kept(run, tests)] for name, runs in (named | dict(parts or {})).items()}
        #: By name the rate that was chosen, of parts that of their method.
        self.chosen = {name: (chosen or {}).get(runs[0].candidate.method) for name, runs in self._runs.items() if runs}
        self._draws, self._found = draws, {}
        every = [run for runs in self._runs.values() for run in runs]
        if every:
            self._sets = {name: grouped(run.predictions.sets[name] for run in every) for name in tests}
            self._bootstrap = Bootstrap(self._sets, draws=draws, n_bins=every[0].report.settings.get("n_bins", 15))
            unseen = [name for name in self._names["open_set"] if all(kept(run, [name]) for run in every)]
            self._sets |= {name: grouped(run.predictions.sets[name] for run in every) for name in unseen}
            self._shared = shared_draws(self._sets)

    def line(self, name: str) -> dict[float | None, list[FinishedRun]]:
        """The runs of a method or part, by ascending rate, and of a rate by seed."""
        found: dict[float | None, list[FinishedRun]] = {}
        # What is computed for each seed along a line takes the same place at each rate for the same seed.
        for run in sorted(self._runs.get(name, ()), key=lambda run: -1 if run.seed is None else run.seed):
            found.setdefault(run.candidate.learning_rate, []).append(run)
        return dict(sorted(found.items(), key=lambda item: item[0] or 0.0))

    def of(self, runs: Sequence[FinishedRun]) -> dict[str, Sampled]:
        """The metrics of a candidate, by name of `BETTER`, of those that were measured, over its seeds."""
        each = [self._of(run) for run in runs]
        shared = [name for name in each[0] if all(name in one for one in each)]
        found = {name: _over_seeds([one[name] for one in each]) for name in shared}
        if SINGULAR in found and len(runs) == 1 and runs[0].seed is not None:
            # One seed says nothing of how far chance moves it.
            found[SINGULAR] = Sampled(found[SINGULAR].values, found[SINGULAR].draws, 1)
        return found

    def _of(self, run: FinishedRun) -> dict[str, Sampled]:
        if id(run) not in self._found:
            found, sampled = {}, self._bootstrap.sample([run.predictions])
            for role, word in _ROLES.items():
                if names := self._names[role]:
                    found |= {f"{word} {label}": mean_over([sampled[name][metric] for name in names]) for metric, label in _METRICS.items()}
                    aurocs = self._aurocs(run, names)
                    found |= {f"{word} AUROC": mean_over(aurocs)} if aurocs else {}
            if run.report.spectrum and run.report.spectrum["smallest_singular_value"] > 0:
                value = np.log10(run.report.spectrum["smallest_singular_value"])
                found[SINGULAR] = Sampled(np.array([value]), np.full(self._draws, value), _MANY)
            self._found[id(run)] = found
        return self._found[id(run)]

    def _aurocs(self, run: FinishedRun, names: Sequence[str]) -> list[Sampled]:
        """Of each known set against each set of unseen classes; empty where a score is missing."""
        unseen = [name for name in self._names["open_set"] if name in self._sets]
        sets = {name: replace(run.predictions.sets[name], group=self._sets[name].group) for name in (*names, *unseen)}
        found = []
        for known, other in itertools.product(names, unseen):
            pair = [sets[name] for name in (known, other)]
            if not all(DEFAULT_SCORE in item.scores for item in pair):
                return []
            value, sampled = auroc_draws(*pair, self._draws, shared=[self._shared[name] for name in (known, other)])
            units = min(len(item) if item.group is None else len(np.unique(item.group)) for item in pair)
            found.append(Sampled(np.array([value]), sampled, units))
        return found


def auroc_draws(
    known: SetPredictions,
    unseen: SetPredictions,
    draws: int = DRAWS,
    seed: int = 0,
    score: str = DEFAULT_SCORE,
    shared: Sequence[tuple[int, Sequence[str]]] = ((0, ()), (1, ())),
) -> tuple[float, np.ndarray]:
    """
    Resample how well a score tells known images from unseen ones, in whole groups of either where they have any.

    Args:
        known, unseen ([`SetPredictions`]): With the `score`.
        draws (`int`, *optional*, defaults to 1000), seed (`int`, *optional*, defaults to 0): Of the bootstrap.
        score (`str`, *optional*, defaults to `"energy"`): Which.
        shared (`Sequence[tuple[int, Sequence[str]]]`, *optional*): Of both what [`~comparison.statistics.shared_draws`] says of them among other
            sets, so that those with groups in common are resampled by the same draws; by default each has its own.

    Returns:
        `tuple[float, np.ndarray]`: The AUROC, and that of each sample; NaN of one without any image of a set.
    """
    values, weights, sizes, starts = [], [], [], []
    for item, (number, groups) in zip((known, unseen), shared, strict=True):
        codes, units = (np.arange(len(item)), len(item)) if item.group is None else group_codes(item.group, groups or None)
        order = np.argsort(codes, kind="stable")
        values.append(item.scores[score][order])
        starts.append(np.flatnonzero(np.diff(codes[order], prepend=-1)))
        # Of the groups that are drawn from, those that this set has.
        own = codes[order][starts[-1]]
        sizes.append(np.bincount(codes)[own])
        weights.append(np.concatenate([times[:, own] for times in draw_counts(units, draws, [seed, number])]).astype(np.float64))
    # Of each pair of groups: how many pairs of their images are in the right order, ties counted half.
    pairs = (values[0][:, None] > values[1]).astype(np.float32) + 0.5 * (values[0][:, None] == values[1]).astype(np.float32)
    right = np.add.reduceat(np.add.reduceat(pairs, starts[0], axis=0, dtype=np.float64), starts[1], axis=1)
    every = [weight @ size for weight, size in zip(weights, sizes, strict=True)]
    with np.errstate(invalid="ignore"):
        sampled = np.einsum("dg,dg->d", weights[0] @ right, weights[1]) / (every[0] * every[1])
    return float(right.sum() / pairs.size), sampled


def _over_seeds(each: Sequence[Sampled]) -> Sampled:
    return Sampled(np.concatenate([one.values for one in each]), np.mean([one.draws for one in each], axis=0), each[0].units)


def _of_lines(measurements: Measurements, line: Mapping, of: Callable[..., np.ndarray]) -> dict[str, Sampled]:
    """By metric, `of` a line (its numbers by rate, what is asked for of a rate, `values` or `draws`, and which of both) for each seed that all rates have and for each draw."""
    seeds = set.intersection(*({run.seed for run in runs} for runs in line.values()))
    if not seeds:
        return {}
    each = [measurements.of([run for run in runs if run.seed in seeds]) for runs in line.values()]
    found = {}
    for metric in set.intersection(*map(set, each)):
        items = [one[metric] for one in each]
        values, draws = (of(each, np.array([getattr(one, name) for one in items]), name) for name in ("values", "draws"))
        found[metric] = Sampled(values, draws, items[0].units)
    return found


def _at_rates(measurements: Measurements, names: Sequence[str], lines: Sequence[Mapping]) -> dict[str, tuple]:
    fixed = [list(line) == [None] for line in lines]
    rates = [rate for rate in lines[fixed[0]] if any(fixed) or rate in lines[1]]
    pairs = {rate: [line[None if is_fixed else rate] for line, is_fixed in zip(lines, fixed, strict=True)] for rate in rates}
    return {"" if rate is None else rate_text(rate): tuple(map(measurements.of, pair)) for rate, pair in pairs.items()}


def _at_chosen(measurements: Measurements, names: Sequence[str], lines: Sequence[Mapping]) -> dict[str, tuple]:
    rates = [measurements.chosen.get(name) for name in names]
    if any(rate not in line for rate, line in zip(rates, lines, strict=True)):
        return {}
    words = dict.fromkeys(rate_text(rate) for rate in rates if rate is not None)
    return {" and ".join(words): tuple(measurements.of(line[rate]) for rate, line in zip(rates, lines, strict=True))}


def _at_equal_id(measurements: Measurements, names: Sequence[str], lines: Sequence[Mapping]) -> dict[str, tuple]:
    numbers = [[measurements.of(runs) for runs in line.values()] for line in lines]
    if any("ID accuracy" not in one for of in numbers for one in of):
        return {}
    means = [[one["ID accuracy"].values.mean() for one in of] for of in numbers]
    low, high = max(map(min, means)), min(map(max, means))
    if min(map(len, means)) < 2 or low > high:
        return {}
    place = (low + high) / 2

    def interpolated(each: Sequence[Mapping[str, Sampled]], values: np.ndarray, name: str) -> np.ndarray:
        # Between the same two rates in each seed and draw, never beyond them. Draws have others in between where two rates are as accurate.
        usual = np.array([one["ID accuracy"].values.mean() for one in each])
        order = np.argsort(usual, kind="stable")
        right = order[np.clip(np.searchsorted(usual[order], place), 1, len(order) - 1)]
        left = order[list(order).index(right) - 1]
        at = [getattr(each[rate]["ID accuracy"], name) for rate in (left, right)]
        width = at[1] - at[0]
        share = np.where(width == 0, 0.5, (place - at[0]) / np.where(width == 0, 1.0, width)).clip(0, 1)
        return values[left] + share * (values[right] - values[left])

    sides = tuple(_of_lines(measurements, line, interpolated) for line in lines)
    return {f"at {100 * place:.1f} %": sides}


def _spread(measurements: Measurements, names: Sequence[str], lines: Sequence[Mapping]) -> dict[str, tuple]:
    rates = [rate for rate in lines[0] if rate in lines[1]]
    if len(rates) < 2:
        return {}
    sides = (_of_lines(measurements, {rate: line[rate] for rate in rates}, lambda _, values, name: np.ptp(values, axis=0)) for line in lines)
    return {f"over {', '.join(map(rate_text, rates))}": tuple(sides)}


_PLACES = {"rates": _at_rates, "chosen": _at_chosen, "equal_id": _at_equal_id, "spread": _spread}
_WHY_NOT = {
    "rates": "both have no rate in common",
    "chosen": "no rate was chosen for both",
    "equal_id": "they share no accuracy in distribution between two rates",
    "spread": "both do not have two rates in common",
}
