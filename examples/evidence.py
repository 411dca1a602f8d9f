#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What the papers claim, judged on Emoji Shift: a table of all methods and a verdict on each claim, from finished runs.

    hf-robustft compare --methods carot tracer flyp ft wise_ft --learning_rates 1e-4 3e-4 1e-3 --seeds 0 1 2 3 4
    hf-robustft compare --output_dir outputs/compare-all
    hf-robustft compare --methods carot --distillation_weight 0 --learning_rates 1e-4 3e-4 1e-3 --rule id_within \\
        --output_dir outputs/carot-distillation
    hf-robustft compare --methods carot --orthogonality_weight 0 --learning_rates 1e-4 3e-4 1e-3 --rule id_within \\
        --output_dir outputs/carot-orthogonality
    hf-robustft compare --methods croft --energy_gradient_weight 100 --rule id_within --output_dir outputs/croft-gradient
    python examples/evidence.py outputs/compare outputs/compare-all --parts carot-distillation=outputs/carot-distillation \\
        carot-orthogonality=outputs/carot-orthogonality croft+gradient=outputs/croft-gradient

`--parts` are runs of a method without, or with more of, a term of its loss. Claims on what is not there are not tested. Writes
`evidence.md`, `evidence.json` and `frontier.png`, and puts the tables into `--pages` that have some with the same columns,
where rows of what was not judged stay. Nothing is trained or measured.

Then as many seeds of the other methods at the rate that was chosen, `--rates_of` what was written so, for which no rule is asked:

    hf-robustft compare --methods carot+croft wise_ft lines l2_sp lp_ft lipsum_ft car_ft --learning_rates 1e-4 \\
        --seeds 0 1 2 3 4 --rule id_within --output_dir outputs/seeds/encoders
    hf-robustft compare --methods croft --learning_rates 2e-4 --seeds 0 1 2 3 4 --rule id_within --output_dir outputs/seeds/croft
    hf-robustft compare --methods lp --learning_rates 3e-2 --seeds 0 1 2 3 4 --rule id_within --output_dir outputs/seeds/lp
    hf-robustft compare --methods clip_adapter --learning_rates 7e-4 --seeds 0 1 2 3 4 --rule id_within \\
        --output_dir outputs/seeds/clip_adapter
    hf-robustft compare --methods tip_adapter tip_adapter_f --learning_rates 3e-4 --seeds 0 1 2 3 4 --rule id_within \\
        --output_dir outputs/seeds/tip_adapter
    python examples/evidence.py outputs/seeds --rates_of model_cards/evidence/evidence.json --output model_cards/evidence/seeds \\
        --pages README.md examples/guides/evidence.md
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from bound_terms import ERRORS, TERMS, correlation, numbers

from hf_robustft.comparison.choices import rule_of
from hf_robustft.comparison.claims import (
    CANNOT_TELL,
    NOT_TESTED,
    SINGULAR,
    Claim,
    Judgement,
    Measurements,
    Outcome,
    judge,
    verdict_of,
)
from hf_robustft.comparison.pictures import plot_frontier
from hf_robustft.comparison.runs import Comparison, rate_text, read_run, read_runs
from hf_robustft.comparison.same_data import check_data
from hf_robustft.comparison.statistics import Difference
from hf_robustft.comparison.summary import summarise
from hf_robustft.comparison.tables import NOISE_MARK, NOISE_NOTE
from hf_robustft.comparison.variants import with_variants
from hf_robustft.evaluation.findings import listed
from hf_robustft.evaluation.open_set import DEFAULT_SCORE
from hf_robustft.objectives.papers import METHOD_FACTS
from hf_robustft.publishing.run_folder import EVALUATION_FILE
from hf_robustft.publishing.text import public_command

ACCURACY, ECE, NLL, KNOWN = {"shift accuracy": 0.0}, {"shift ECE": 0.0}, {"shift NLL": 0.0}, {"ID accuracy": 0.0}
#: What is said to be kept may be a point lower.
KEPT, BOTH = {"ID accuracy": 0.01}, ACCURACY | ECE
#: Names of `--parts`.
PARTS = {
    "carot-orthogonality": "CaRot without orthogonality",
    "carot-distillation": "CaRot without self-distillation",
    "croft+gradient": "CRoFT with more energy gradient",
}
WISE, CAROT, LP_FT, CROFT, TRACER = (f"{name}, abstract" for name in ("WiSE-FT", "CaRot", "LP-FT", "CRoFT", "TRACER"))
V1, TABLES, OURS = "CaRot, abstract of arXiv v1", "TRACER, Tables 1 and 2", "our question"
CLAIMS = (
    Claim("FT costs accuracy under shift", "zero_shot", "ft", ACCURACY, source=WISE),
    Claim("FT costs calibration under shift", "zero_shot", "ft", ECE, source=V1),
    Claim("FLYP costs accuracy under shift", "zero_shot", "flyp", ACCURACY, source=TRACER),
    Claim("FLYP costs calibration under shift", "zero_shot", "flyp", ECE, source=V1),
    Claim("FLYP is more accurate than FT under shift", "flyp", "ft", ACCURACY, source=TABLES),
    Claim("FLYP is more accurate than FT in distribution", "flyp", "ft", KNOWN, source=TABLES),
    Claim("FLYP is more accurate than FT under shift, at equal accuracy in distribution", "flyp", "ft", ACCURACY, "equal_id", OURS),
    Claim("WiSE-FT is more accurate than FT under shift", "wise_ft", "ft", ACCURACY, source=WISE),
    Claim("WiSE-FT keeps FT's accuracy in distribution", "wise_ft", "ft", KEPT, source=WISE),
    Claim("WiSE-FT is more accurate than FT under shift, at equal accuracy in distribution", "wise_ft", "ft", ACCURACY, "equal_id", OURS),
    Claim("WiSE-FT is better calibrated than FT under shift", "wise_ft", "ft", ECE, source=OURS),
    Claim("CaRot is more accurate than FLYP under shift", "carot", "flyp", ACCURACY, source=TABLES),
    Claim("CaRot is better calibrated than FLYP under shift", "carot", "flyp", ECE, source=TABLES),
    Claim("CaRot has a lower NLL than FLYP under shift", "carot", "flyp", NLL, source=OURS),
    Claim("CaRot keeps FLYP's accuracy in distribution", "carot", "flyp", KEPT, source=TABLES),
    Claim("CaRot is better calibrated than FLYP in distribution", "carot", "flyp", {"ID ECE": 0.0}, source=CAROT),
    Claim("CaRot is more accurate than FLYP under shift, at equal accuracy in distribution", "carot", "flyp", ACCURACY, "equal_id", OURS),
    Claim("CaRot has a lower ECE and NLL than FLYP under shift, at equal accuracy in distribution", "carot", "flyp", ECE | NLL, "equal_id", OURS),
    Claim("CaRot is more accurate than zero-shot under shift", "carot", "zero_shot", ACCURACY, source=TABLES),
    Claim("CaRot is more accurate, with a lower NLL, than zero-shot under shift, at its chosen rate", "carot", "zero_shot", ACCURACY | NLL, "chosen", OURS),
    Claim("The orthogonality constraint raises the smallest singular value", "carot", "carot-orthogonality", {SINGULAR: 0.0}, source=CAROT),
    Claim("The orthogonality constraint gains accuracy under shift", "carot", "carot-orthogonality", ACCURACY, source=CAROT),
    Claim("Self-distillation calibrates under shift", "carot", "carot-distillation", ECE, source=CAROT),
    Claim("Self-distillation gains accuracy under shift", "carot", "carot-distillation", ACCURACY, source=CAROT),
    Claim("TRACER is more accurate and better calibrated than CaRot under shift", "tracer", "carot", BOTH, source=TRACER),
    Claim("TRACER is more accurate and better calibrated than CaRot under shift, at the chosen rates", "tracer", "carot", BOTH, "chosen", OURS),
    Claim("TRACER is more accurate and better calibrated than CaRot under shift, at equal accuracy in distribution", "tracer", "carot", BOTH, "equal_id", OURS),
    Claim("TRACER keeps CaRot's accuracy in distribution", "tracer", "carot", KEPT, source=TABLES),
    Claim("TRACER's accuracy under shift depends less on the rate than CaRot's", "tracer", "carot", ACCURACY, "spread", TRACER),
    Claim("TRACER is more accurate than zero-shot under shift", "tracer", "zero_shot", ACCURACY, source=TABLES),
    Claim("TRACER keeps zero-shot's calibration under shift", "tracer", "zero_shot", {"shift ECE": 0.01}, source=TABLES),
    Claim("CRoFT gains accuracy in distribution", "croft", "zero_shot", KNOWN, source=CROFT),
    Claim("CRoFT gains accuracy under shift", "croft", "zero_shot", ACCURACY, source=CROFT),
    Claim("CRoFT keeps accuracy under shift", "croft", "zero_shot", {"shift accuracy": 0.01}, source=OURS),
    Claim("CRoFT tells unknown classes from known ones better than zero-shot", "croft", "zero_shot", {"ID AUROC": 0.0}, source=CROFT),
    Claim("CRoFT tells unknown classes from shifted known ones better than zero-shot", "croft", "zero_shot", {"shift AUROC": 0.0}, source=CROFT),
    Claim(
        "The energy gradient buys more detection under shift than a lower rate does, at equal accuracy in distribution",
        "croft+gradient", "croft", {"shift AUROC": 0.0}, "equal_id", CROFT,
    ),
    Claim("A linear probe is more accurate than FT under shift, at the chosen rates", "lp", "ft", ACCURACY, "chosen", LP_FT),
    Claim("FT is more accurate than a linear probe in distribution, at the chosen rates", "ft", "lp", KNOWN, "chosen", LP_FT),
    Claim("LP-FT is more accurate than FT under shift", "lp_ft", "ft", ACCURACY, source=LP_FT),
    Claim("LP-FT is more accurate than a linear probe under shift, at the chosen rates", "lp_ft", "lp", ACCURACY, "chosen", LP_FT),
    Claim("CAR-FT is more accurate than FT under shift", "car_ft", "ft", ACCURACY, source=TABLES),
    Claim("Lipsum-FT is more accurate than FT under shift", "lipsum_ft", "ft", ACCURACY, source=TABLES),
)  # fmt: skip
#: How CaRot's bound says that its terms and the errors under shift go together, both named as in `bound_terms.py`.
BOUND = {(term, error): -1 if term == SINGULAR else 1 for term in TERMS for error in ERRORS[:2]}
#: The methods of the short table; others follow in the long ones.
ORDER = ("ft", "wise_ft", "lp", "lipsum_ft", "flyp", "carot", "tracer", "croft")
_MERGES = {"wise_ft": "ft", "lines": "ft", "model_stock": "ft"}
_HOW = {"concepts": "classes left out of training", "id": "new views of the training drawings", "given": "as given"}
_COLUMNS = ("noto accuracy %", "noto ECE %", "shift accuracy %", "shift ECE %", "shift NLL", "AUROC % noto / unknown", "AUROC % shifts / unknown")
_METRICS = {"accuracy": "accuracy", "ece": "ECE", "nll": "NLL"}
_DASH = "\N{EN DASH}"
#: First columns of tables whose rows stay on a page where they are of nothing that is judged.
_NAMED = ("method", "claim")
_TABLE = re.compile(r"(?:^\|.*(?:\n|\Z))+", re.MULTILINE)


def finished(folders: Sequence[Path]) -> list[Path]:
    """
    The finished runs below some folders. Two comparisons may have made the same run, which they call the same: the first counts.

    Raises:
        ValueError: If a folder has none, or two of one name have other settings or data.
    """
    once: dict[str | Path, Path] = {}
    for folder in folders:
        found = [path.parent for path in sorted(folder.glob(f"**/{EVALUATION_FILE}"))]
        if not found:
            raise ValueError(f"there is no finished run below {folder}; give folders of comparisons, or of runs")
        for run in found:
            other = once.setdefault(run.name if run.parent.name == "runs" else run, run)
            if other != run:
                check_data(both := [read_run(other), read_run(run)])
                if any(item.candidate.variant for item in with_variants(both)):
                    raise ValueError(f"{other} and {run} have one name and other settings; leave one of them out, or give it to --parts")
    return list(once.values())


def chosen_rates(comparison: Comparison, given: Mapping[str, float]) -> dict[str, tuple[float | None, str]]:
    """By method a rate and how it was chosen: given, by the rule `concepts`, as that of what a merge is made of, or by `id`."""
    found: dict[str, tuple[float | None, str]] = {}
    labels = {candidate.label: candidate for candidate in comparison.candidates}
    for rule in ("concepts", "id"):
        try:
            chosen = [labels[label] for label in rule_of(rule, comparison)["by_method"].values()]
        except ValueError:
            # Nothing that it looks at was measured.
            continue
        found |= {item.method: (item.learning_rate, rule) for item in chosen if item.method not in found and not item.variant}
    found |= {method: (rate, "given") for method, rate in given.items()}
    merges = {name: of for name, of in _MERGES.items() if name in found and of in found and name not in given}
    return found | {name: (found[of][0], f"as {METHOD_FACTS[of].label}") for name, of in merges.items()}


def bound(comparison: Comparison, draws: int = 2000) -> list[Judgement]:
    """Whether the terms of CaRot's bound go with the errors under shift, by Spearman's correlation over all runs."""
    if not {"id", "shift"} <= set(comparison.sets.values()):
        return []
    rows = {item.label: [numbers(run, comparison.sets) for run in runs] for item, runs in comparison.candidates.items() if all(run.report.spectrum for run in runs)}
    found = []
    for (term, error), sign in BOUND.items() if len(rows) > 2 else ():
        value = correlation({"": rows}, term, error, draws)
        gap = Difference(value["mean"], None, value["low"], value["high"], None)
        claim = Claim(f"A {'larger' if sign < 0 else 'smaller'} {term} goes with a smaller {error}", "", "", {}, source="CaRot's bound, abstract")
        outcome = Outcome(f"rank correlation over {len(rows)} candidates", "", gap, verdict_of(gap, sign))
        found.append(Judgement(claim, outcome.verdict, [outcome]))
    return found


def cell(spread: Mapping | None, metric: str = "") -> str:
    """A mean and deviation over seeds."""
    if spread is None:
        return _DASH
    scale, digits = (1, 2) if metric == "nll" else (100, 1)
    text = f"{scale * spread['mean']:.{digits}f}"
    return text if spread["sd"] is None else f"{text} ± {scale * spread['sd']:.{digits}f}"


def values(row: Mapping) -> list[str]:
    """The cells of `_COLUMNS`."""
    known, shift = row["id_mean"], row["shift_mean"]
    scores = next(iter(row["open_set"].values()), {}).get(DEFAULT_SCORE, {})
    cells = [cell(known["accuracy"]), cell(known["ece"]), cell(shift["accuracy"]), cell(shift["ece"]), cell(shift["nll"], "nll")]
    return [*cells, *(cell(scores.get(name)) for name in ("auroc", "shifts_auroc"))]


def gap_text(gap: Mapping | None, metric: str, interval: bool = True) -> str:
    """A paired difference; `~` before one that noise explains."""
    if gap is None:
        return _DASH
    scale, digits = (1, 3) if "nll" in metric.lower() else (1, 2) if metric in ("", SINGULAR) else (100, 1)
    mean, low, high = ("" if gap[key] is None else f"{scale * gap[key]:+.{digits}f}" for key in ("mean", "low", "high"))
    noise = gap["low"] is not None and gap["low"] <= 0 <= gap["high"]
    return f"{NOISE_MARK if noise else ''}{mean}" + (f" ({low} to {high})" if interval and low else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table in markdown, whose first columns are words."""
    lines = [f"| {' | '.join(header)} |", "|" + ":--|" * left + "--:|" * (len(header) - left)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def told(judged: Judgement) -> list[str]:
    """A row of the table of claims."""
    names = {name: facts.label for name, facts in METHOD_FACTS.items()} | PARTS
    sides = " less ".join(names.get(name, name) for name in (judged.claim.better, judged.claim.than) if name)
    parts = []
    for metric in dict.fromkeys(outcome.metric for outcome in judged.outcomes):
        of = [outcome for outcome in judged.outcomes if outcome.metric == metric]
        each = "; ".join(f"{outcome.place} {gap_text(vars(outcome.difference), metric)}" for outcome in of)
        parts.append(f"{sides}, {metric}: {each}" if metric else each)
    # Where the verdict is not the same at all rates.
    at: dict[str, list[str]] = {}
    for place, verdict in judged.places.items():
        at.setdefault(verdict, []).append(place)
    clear = [f"{'' if verdict == judged.verdict else f'{verdict} '}at {listed(places)}" for verdict, places in at.items() if verdict != CANNOT_TELL and len(at) > 1]
    return [judged.claim.says, judged.claim.source, "<br>".join(parts), f"**{judged.verdict}**" + (f" ({', '.join(clear)})" if clear else "")]


def page(summary: Mapping, chosen: Mapping, judged: Sequence[Judgement], command: str, picture: bool) -> str:
    """The tables in markdown."""
    own = [row for row in summary["candidates"] if not row["variant"]]
    start, methods = summary["baseline"], {row["method"]: row["method_label"] for row in own}
    seeds = sorted({len(row["seeds"]) for row in own})
    several = len(own) > len(methods)
    rivals = {"zero_shot": "zero-shot", "flyp": "FLYP"} if "flyp" in methods else {"zero_shot": "zero-shot"}
    picked = [row for row in own if row["method"] in chosen and row["learning_rate"] == chosen[row["method"]][0]]
    rate = {row["label"]: _DASH if row["learning_rate"] is None else rate_text(row["learning_rate"]) for row in own}

    def gaps(row: Mapping, metrics: Sequence[str] = tuple(_METRICS), others: Sequence[str] = tuple(rivals), **options) -> list[str]:
        found = [(row.get(f"against_{other}") or {}).get("shift_mean") or {} for other in others]
        return [gap_text(of.get(metric), metric, **options) for of in found for metric in metrics]

    short = [["zero-shot", _DASH, *values(start)[:3], _DASH, values(start)[3], _DASH]] if start else []
    for row in (row for row in picked if row["method"] in ORDER):
        accuracy, ece = gaps(row, ("accuracy", "ece"), ("zero_shot",), interval=False)
        means = [value.partition(" ")[0] for value in values(row)]
        short.append([row["method_label"], rate[row["label"]], *means[:3], accuracy, means[3], ece])
    zero = [["zero-shot", _DASH, _DASH, _DASH, *values(start)]] if start else []
    hows = {row["method"]: _HOW.get(chosen[row["method"]][1], chosen[row["method"]][1]) for row in picked}
    header = ["method", "rate", "accuracy %", "ECE %", "accuracy under shift %", "against zero-shot", "ECE under shift %", "against zero-shot"]
    equal = [
        [f"{100 * place['id']:g}", *(_DASH if place["accuracy"].get(name) is None else f"{100 * place['accuracy'][name]:.1f}" for name in methods.values())]
        for place in summary["equal_id"]
    ]
    untested = [one for one in judged if one.verdict == NOT_TESTED]
    tested = [one for one in judged if one.verdict != NOT_TESTED]
    counts = {verdict: sum(one.verdict == verdict for one in tested) for verdict in dict.fromkeys(one.verdict for one in tested)}
    parts = [
        "# Emoji Shift: all methods, and what the papers claim\n",
        f"```bash\n{command}\n```\n",
        f"{sum(len(row['folders']) for row in own)} runs on {'; '.join(summary['hardware'])}, {' or '.join(map(str, seeds))} seeds of each method at {'each' if several else 'one'} rate, "
        f"{summary['seconds'] / 3600:.1f} hours of training in sum, with what else the machine did. Mean ± standard deviation over seeds. Shifts: plain mean over four "
        f"artists never trained on. Unknown: 150 classes never trained on, told by the {DEFAULT_SCORE}.\n",
        "## In short\n", table(header, short, 2),
        f"Means over seeds. {NOISE_MARK}: cannot be told from noise.\n",
        "## At one rate for each method\n",
        table(["method", "rate", "chosen by", "seeds", *_COLUMNS], [*zero, *([row["method_label"], rate[row["label"]], hows[row["method"]], str(len(row["seeds"])), *values(row)] for row in picked)], 3),
        *(["## At each rate\n",
        table(["method", "rate", "seeds", *_COLUMNS], [[row["method_label"], rate[row["label"]], str(len(row["seeds"])), *values(row)] for row in own], 2)] if several else []),
        "## Paired differences under shift\n",
        table(["method", "rate", *(f"{word}, against {other}" for other in rivals.values() for word in _METRICS.values())], [[row["method_label"], rate[row["label"]], *gaps(row)] for row in own], 2),
        f"Points, and nats; 95 % intervals{'; FLYP is that at the same rate' if 'flyp' in rivals else ''}. {NOISE_NOTE}\n",
    ]  # fmt: skip
    if equal:
        parts += ["## Accuracy under shift at equal accuracy in distribution\n", table(["noto accuracy %", *methods.values()], equal)]
        parts += ["Interpolated between the rates of each method, so without any choice of a rate.\n"]
    parts += [
        "## Claims\n",
        f"Of {len(tested)} claims: {', '.join(f'{verdict} {count}' for verdict, count in counts.items())}.\n",
        "Differences are over the same images, with 95 % intervals: drawings are resampled with all their views and in all sets at once, and the variance "
        "between seeds is added. "
        + ("**Holds**: at every rate that was tested the whole interval is on the side that is claimed. **Does not hold**: at a rate it is "
           "on the other side, and at none on the side that is claimed. **Depends on the rate**: both happen. " if several else
           "**Holds**: the whole interval is on the side that is claimed. **Does not hold**: it is on the other side. ")
        + "Else nothing can be told. What is said to be kept may be a point worse. Intervals are not widened for the number of claims: one or two verdicts may be chance.\n",
        table(["claim", "who says so", f"difference {'' if several else 'at one rate '}(95 % interval)", "verdict"], list(map(told, tested)), 4),
        "Accuracies, AUROC and ECE in points, NLL in nats, of singular values the decimal logarithm. "
        + ('"Spread": greatest less smallest over the rates. ' if several else "") +
        "Correlations: Spearman's, over all runs; candidates are resampled.\n",
        *(f"Not tested, {why}: {'; '.join(one.claim.says for one in untested if one.why == why)}.\n" for why in dict.fromkeys(one.why for one in untested)),
        *(["![Accuracy under shift against accuracy in distribution](frontier.png)\n"] if picture else []),
    ]
    return "\n".join(parts)


def cells(row: str) -> tuple[str, ...]:
    """The cells of a line of a table."""
    return tuple(cell.strip() for cell in row.strip().strip("|").split("|"))


def by_first_cells(rows: Sequence[str], number: int) -> dict[tuple[str, ...], list[str]]:
    """Lines of a table by as many of their first cells."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        found.setdefault(cells(row)[:number], []).append(row)
    return found


def with_tables(text: str, source: str) -> tuple[str, int]:
    """
    A page with the tables of `source` in the place of those that have the same columns, and how many these are; rows of what the source has
    not stay. Where a table has several rows of a method, they are those of its rates.
    """
    new = {cells((lines := found.group().splitlines())[0]): lines for found in _TABLE.finditer(source)}
    count = 0

    def merged(found: re.Match) -> str:
        nonlocal count
        header, *rest = found.group().splitlines()
        if cells(header) not in new or not rest:
            return found.group()
        count += 1
        # Where lines are compared at equal accuracy, that accuracy changes with the runs, so no row of those tables stays.
        sides = rest[1:] if cells(header)[0] in _NAMED else [], new[cells(header)][2:]
        number = 2 if any(len(rows) > 1 for side in sides for rows in by_first_cells(side, 1).values()) else 1
        rows = by_first_cells(sides[0], number) | by_first_cells(sides[1], number)
        # Of a method that has other rates here, after those that it had.
        methods = list(dict.fromkeys(key[0] for key in rows))
        ordered = sorted(rows, key=lambda key: methods.index(key[0]))
        return "\n".join([*new[cells(header)][:2], *(row for key in ordered for row in rows[key])]) + "\n"

    return _TABLE.sub(merged, text), count


def short(row: Mapping) -> dict:
    """What of a candidate goes into the JSON file."""
    against = {key: row[key] for key in ("against_zero_shot", "against_flyp") if key in row}
    return {
        **{mean: {metric: row[mean][metric] for metric in _METRICS} for mean in ("id_mean", "shift_mean")},
        "open_set": {name: scores.get(DEFAULT_SCORE) for name, scores in row["open_set"].items()},
        **{key: {mean: {metric: of[mean][metric] for metric in _METRICS} for mean in ("id_mean", "shift_mean")} for key, of in against.items()},
    }


def rounded(content: object) -> object:
    """Numbers to six digits."""
    if isinstance(content, Mapping):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value) for value in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content


def main() -> None:
    """Read, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="Of a comparison, or of single runs.")
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART=FOLDER", help=f"Of {', '.join(PARTS)}.")
    parser.add_argument("--rates", nargs="+", default=[], metavar="METHOD=RATE", help="Of methods whose rate no rule is to choose.")
    parser.add_argument("--rates_of", type=Path, metavar="EVIDENCE.json", help="Evidence that chose the rates: no rule is to choose again.")
    parser.add_argument("--draw", nargs="+", help="Methods in the picture (default: all that have several rates).")
    parser.add_argument("--pages", type=Path, nargs="+", default=[], help="Markdown files with tables to put in their place.")
    parser.add_argument("--output", type=Path, default=Path("outputs/evidence"), help="Folder of the tables.")
    asked = parser.parse_args()
    try:
        given = {method: float(rate) for method, rate in (word.split("=", 1) for word in asked.rates)}
        folders = dict(word.split("=", 1) for word in asked.parts)
    except ValueError:
        parser.error("give --rates METHOD=RATE and --parts PART=FOLDER")
    if unknown := set(folders) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if given and asked.rates_of:
        parser.error(f"--rates and --rates_of {asked.rates_of} both choose rates; give one of them")
    if missing := [str(path) for path in asked.pages if not path.is_file()]:
        parser.error(f"--pages {missing[0]}: there is no such file")
    try:
        before = json.loads(asked.rates_of.read_text(encoding="utf-8"))["chosen"] if asked.rates_of else {}
        chosen = {method: (of["learning_rate"], of["by"]) for method, of in before.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        parser.error(f"--rates_of {asked.rates_of} is not the evidence.json of earlier evidence ({type(error).__name__}: {error})")
    try:
        comparison = read_runs(finished(asked.folders))
        comparison.runs.sort(key=lambda run: (*ORDER, run.candidate.method).index(run.candidate.method))
        parts = {name: read_runs(finished([Path(folder)])).runs for name, folder in folders.items()}
        check_data([*comparison.runs, *(run for runs in parts.values() for run in runs)])
    except (OSError, ValueError) as error:
        parser.error(str(error))
    trained = {(run.candidate.method, run.candidate.learning_rate) for run in comparison.runs}
    if asked.rates_of:
        # There rates are rounded.
        near = {(method, rate_text(rate)): rate for method, rate in trained if rate is not None}
        chosen = {method: (rate if rate is None else near.get((method, rate_text(rate)), rate), how) for method, (rate, how) in chosen.items()}
        if other := sorted(f"{method} at {rate}" for method, rate in trained if chosen.get(method, ("",))[0] != rate):
            parser.error(f"{asked.rates_of} did not choose {', '.join(other)}; leave these runs out, or --rates_of")
    else:
        if other := [f"{method} at {rate:g}" for method, rate in given.items() if (method, rate) not in trained]:
            parser.error(f"--rates names {', '.join(other)}, for which there are no runs; name rates that were trained")
        chosen = chosen_rates(comparison, given)
    measurements = Measurements(comparison, {name: rate for name, (rate, _) in chosen.items()}, parts)
    judged = [*(judge(claim, measurements) for claim in CLAIMS), *bound(comparison)]
    command = public_command(f"python examples/evidence.py {shlex.join(sys.argv[1:])}")
    summary = summarise(comparison, command=command)
    # Of the runs that the page counts.
    summary["seconds"] = sum((run.facts.get("card") or {}).get("wall_seconds") or 0.0 for run in comparison.runs if not run.candidate.variant)
    drawn = asked.draw or [row["method"] for row in summary["candidates"] if summary["spread_over_rates"][row["method_label"]]["rates"] > 1]
    lines = [row for row in summary["candidates"] if row["method"] in drawn and not row["variant"]]
    text = page(summary, chosen, judged, command, picture=bool(lines))
    if variants := [row["label"] for row in summary["candidates"] if row["variant"]]:
        print(f"Not in the tables, as their settings are not the usual ones: {', '.join(variants)}.", file=sys.stderr)
    content = {
        "command": command,
        "chosen": {name: {"learning_rate": rate, "by": how} for name, (rate, how) in chosen.items()},
        "zero_shot": summary["baseline"] and short(summary["baseline"]),
        "candidates": [{key: row[key] for key in ("label", "method", "learning_rate", "variant", "seeds")} | short(row) for row in summary["candidates"]],
        **{key: summary[key] for key in ("equal_id", "spread_over_rates")},
        "claims": [asdict(one) for one in judged],
    }
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "evidence.json").write_text(json.dumps(rounded(content), indent=1) + "\n", encoding="utf-8")
    (asked.output / "evidence.md").write_text(text, encoding="utf-8")
    if lines:
        plot_frontier({**summary, "candidates": lines}, asked.output / "frontier.png", dpi=130)
    for path in asked.pages:
        merged, count = with_tables(path.read_text(encoding="utf-8"), text)
        path.write_text(merged, encoding="utf-8")
        print(f"{path}: {count} tables" if count else f"{path} has no table with the columns of these, and is as it was.", file=sys.stderr)
    print(text)


if __name__ == "__main__":
    main()
