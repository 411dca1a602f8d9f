#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Do the two terms of CaRot's bound go with the error under shift? Rank correlations over finished runs.

    python examples/bound_terms.py --suites runs/noto runs/twemoji --output outputs/bound_terms

The bound says that the error under shift is small where the smallest singular value of the covariance of the image embeddings
in distribution is large and the calibration error in distribution is small (Oh et al., NeurIPS 2024). Over runs, the first
should correlate with errors under shift negatively and the second positively.

A suite is a folder of finished runs on the same data, as for `regret.py`. Spearman's correlation is taken within each suite,
and its mean over suites with the 95 % interval of a bootstrap that draws candidates (a method at a rate, with all its seeds).
Writes `bound_terms.json` and `bound_terms.md`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from hf_robustft.comparison.concepts import is_twin
from hf_robustft.comparison.runs import FinishedRun, read_run, read_runs
from hf_robustft.publishing.run_folder import EVALUATION_FILE

TERMS = ("smallest singular value", "ID ECE")
ERRORS = ("shift error", "shift ECE", "shift NLL")


def named(folders: Sequence[Path]) -> dict[str, Path]:
    """
    Folders of suites by a name, which is as much of the end of each path as tells them apart: runs of all lie in folders called `runs`.

    Raises:
        ValueError: If a folder is given twice.
    """
    parts = [folder.resolve().parts for folder in folders]
    if twice := next((str(folder) for number, folder in enumerate(folders) if parts[number] in parts[:number]), None):
        raise ValueError(f"{twice} is given twice, and would count twice; leave it out once")
    length = next(length for length in range(1, max(map(len, parts)) + 1) if len({part[-length:] for part in parts}) == len(parts))
    return {"/".join(part[-length:]): folder for part, folder in zip(parts, folders, strict=True)}


def numbers(run: FinishedRun, sets: Mapping[str, str]) -> dict[str, float]:
    """
    The terms and the errors of a run.

    Args:
        run ([`FinishedRun`]): The run.
        sets (`Mapping[str, str]`): The role of each set that all runs were measured on: a run may have more, and its mean is of others then.

    Raises:
        ValueError: If one of them was not measured.
    """
    known, shifts = ([run.report.results[name] for name, of in sets.items() if of == role] for role in ("id", "shift"))
    if not known or not shifts or not run.report.spectrum:
        raise ValueError(f"{run.folder} has no singular values, or was not measured in distribution or under shift as the others were; leave it out")
    accuracy, ece, nll = (float(np.mean([getattr(result, metric) for result in shifts])) for metric in ("accuracy", "ece", "nll"))
    values = (run.report.spectrum["smallest_singular_value"], known[0].ece, 1 - accuracy, ece, nll)
    return dict(zip((*TERMS, *ERRORS), values, strict=True))


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rank correlation; NaN where one of them does not vary."""
    ranks = np.stack([rankdata(x), rankdata(y)])
    if np.ptp(ranks, axis=1).min() == 0:
        return float("nan")
    return float(np.corrcoef(ranks)[0, 1])


def correlation(suites: dict[str, dict], term: str, error: str, draws: int, seed: int = 0) -> dict:
    """The correlation in each suite, and its mean over suites with an interval. `suites`: rows by candidate by name."""

    def of(groups) -> float:
        rows = [row for group in groups for row in group]
        return spearman(np.array([row[term] for row in rows]), np.array([row[error] for row in rows]))

    found = {name: of(groups.values()) for name, groups in suites.items()}
    rng, means = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = []
        for groups in suites.values():
            rows = list(groups.values())
            drawn.append(of([rows[i] for i in rng.integers(len(rows), size=len(rows))]))
        means.append(np.nanmean(drawn) if not np.isnan(drawn).all() else np.nan)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return {"suites": found, "mean": float(np.nanmean(list(found.values()))), "low": float(low), "high": float(high)}


def main() -> None:
    """Read, correlate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", type=Path, nargs="+", required=True, help="Folders of finished runs, one for each suite.")
    parser.add_argument("--output", type=Path, default=Path("outputs/bound_terms"), help="Folder of the tables.")
    parser.add_argument("--draws", type=int, default=2000, help="Of the bootstrap.")
    asked = parser.parse_args()
    suites: dict[str, dict] = {}
    try:
        for name, folder in named(asked.suites).items():
            runs = [read_run(path.parent) for path in sorted(folder.glob(f"*/{EVALUATION_FILE}"))]
            comparison = read_runs([run.folder for run in runs if not is_twin(run)])
            suites[name] = {item.label: [numbers(run, comparison.sets) for run in of] for item, of in comparison.candidates.items()}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    few = [name for name, groups in suites.items() if len(groups) < 3]
    if few:
        raise SystemExit(f"{', '.join(few)}: fewer than three candidates have no correlation; leave the suite out.")
    found = {term: {error: correlation(suites, term, error, asked.draws) for error in ERRORS} for term in TERMS}
    counts = "; ".join(f"{name}: {sum(map(len, groups.values()))} runs of {len(groups)} candidates" for name, groups in suites.items())
    command = f"python examples/bound_terms.py {shlex.join(sys.argv[1:])}"
    lines = [
        f"`{command}`. {counts}. Spearman's correlation within each suite; mean over suites with the 95 % interval of "
        f"{asked.draws} bootstrap draws of candidates.",
        "",
        f"| term | error | mean | 95 % | {' | '.join(suites)} |",
        "|---" * (4 + len(suites)) + "|",
    ]
    for term, errors in found.items():
        for error, value in errors.items():
            each = " | ".join(f"{value['suites'][name]:+.2f}" for name in suites)
            lines.append(f"| {term} | {error} | {value['mean']:+.2f} | {value['low']:+.2f} to {value['high']:+.2f} | {each} |")
    asked.output.mkdir(parents=True, exist_ok=True)
    content = {"command": command, "correlations": found, "runs": suites}
    (asked.output / "bound_terms.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (asked.output / "bound_terms.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
