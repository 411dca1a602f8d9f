#!/usr/bin/env python
# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Which rule of selection loses least: its regret over several suites, such as one for each artist that is trained on.

    python examples/emoji/build_rotations.py --artwork artwork --output rotations
    hf-robustft train --recipe emoji_shift/carot --train_dataset rotations/twemoji/train.parquet --learning_rate 3e-4 ...
    python examples/regret.py --suites runs/noto runs/twemoji runs/openmoji --output outputs/regret

A suite is a folder of finished runs on the same data: of each method at each rate, measured on shifted sets and (for the rules
`id` and `id_within`) on a set with the role validation; one of `zero_shot`; and, for the rule `concepts`, the twins that
`train --leave_out_classes` makes. A method counts in a suite where all its rates are there. Writes `regret.json` and
`regret.md`; nothing is trained or measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bound_terms import named
from scipy.stats import binomtest

from hf_robustft.comparison.concepts import is_twin, with_concepts
from hf_robustft.comparison.runs import ZERO_SHOT, Candidate, rate_text, read_run, read_runs
from hf_robustft.comparison.selection import (
    PLACES,
    RULES,
    Loss,
    by_method,
    find_rule,
    regret,
    shift_means,
    spread_over_rates,
    summarise_regret,
)
from hf_robustft.evaluation.findings import listed
from hf_robustft.objectives.papers import METHOD_FACTS
from hf_robustft.publishing.run_folder import EVALUATION_FILE

#: What is no rule, to read the losses of rules by.
DO_NOTHING, ANY_RATE = "zero-shot", "always {}"


@dataclass
class Suite:
    """What was measured on the data of one suite."""

    name: str
    candidates: dict[Candidate, dict]
    roles: dict[str, str]
    baseline: dict[str, dict] | None
    seeds: dict[Candidate, int]
    notes: list[str] = field(default_factory=list)


def read_suite(name: str, folder: Path, rates: list[float] | None) -> Suite:
    """
    The suite of a `name` in a folder of finished runs, with the methods that have all `rates` (all that there are, by default). One that has
    no rate, as it trains nothing, counts too.

    Raises:
        OSError, ValueError: If runs cannot be read or compared, or nothing says how they fare under shift.
    """
    runs = [read_run(path.parent) for path in sorted(folder.glob(f"*/{EVALUATION_FILE}"))]
    if not runs:
        raise ValueError(f"there is no finished run in {folder}; give folders of runs")
    comparison = read_runs([run.folder for run in runs if not is_twin(run)])
    if comparison.measure.of_lists or "shift" not in comparison.sets.values():
        why = "are of lists of labels" if comparison.measure.of_lists else "have no shifted set that all were measured on"
        raise ValueError(f"the runs in {folder} {why}, and regret is of accuracy under shift; leave them out")
    found, notes = comparison.candidates, list(comparison.notes)
    grid = set(rates or (candidate.learning_rate for candidate in found)) - {None}
    kept = []
    for method, items in by_method(found).items():
        missing = grid - {candidate.learning_rate for candidate in items}
        if [item.learning_rate for item in items] == [None]:
            kept += items
            continue
        if missing:
            notes.append(f"{method} is left out: there is no run at {', '.join(map(rate_text, sorted(missing)))}.")
        else:
            kept += [candidate for candidate in items if candidate.learning_rate in grid]
    candidates = {candidate: comparison.measured(candidate) for candidate in kept}
    roles = {name: role for name, role in comparison.sets.items() if role != "open_set"}
    baseline = None if comparison.zero_shot is None else comparison.measured(ZERO_SHOT)
    twins: dict[str, list[Path]] = {}
    for run in runs:
        if is_twin(run):
            twins.setdefault(json.dumps(run.facts["left_out_classes"]), []).append(run.folder)
    try:
        if twins:
            folds = [read_runs(folders) for folders in twins.values()]
            # A method whose rates do not all have twins would be chosen among by fewer than the other rules have.
            whole = [items for items in by_method(candidates).values() if all(item in fold.candidates for item in items for fold in folds)]
            twinned = {item: candidates[item] for items in whole for item in items} or candidates
            of_twins, roles, baseline = with_concepts(twinned, roles, baseline, *folds)
            if without := dict.fromkeys(item.method_label for item in candidates if item not in twinned):
                notes.append(f"concepts does not choose among {listed(list(without))}, which has no twin of each rate.")
            candidates |= of_twins
    except ValueError as error:
        notes.append(f"concepts: {error}")
    return Suite(name, candidates, roles, baseline, {item: len(found[item]) for item in kept}, notes)


def losses_of(rule: str, suite: Suite) -> list[Loss]:
    """What a rule, or what is none, loses in a suite."""
    if rule in RULES:
        try:
            return regret(rule, suite.candidates, suite.roles, suite.baseline)
        except ValueError as error:
            suite.notes.append(f"{rule}: {error}")
            return []
    shifts = tuple(name for name, role in suite.roles.items() if role == "shift")
    found = []
    for method, items in by_method(suite.candidates).items():
        means = {item: shift_means(suite.candidates[item], shifts) for item in items}
        if rule == DO_NOTHING:
            chosen, reached = ZERO_SHOT, shift_means(suite.baseline, shifts)
        else:
            of_rate = [item for item in items if item.learning_rate is not None and ANY_RATE.format(rate_text(item.learning_rate)) == rule]
            if not of_rate:
                # Another suite has it.
                continue
            chosen = of_rate[0]
            reached = means[chosen]
        accuracy = max(mean["accuracy"] for mean in means.values()) - reached["accuracy"]
        found.append(Loss(rule, method, chosen, shifts, accuracy, reached["nll"] - min(mean["nll"] for mean in means.values())))
    return found


def compared(losses: dict[str, list[tuple[str, Loss]]], rule: str, other: str) -> dict[str, float]:
    """How often `rule` loses less, as much, or more shift accuracy than `other`, over suites and methods; and a sign test."""
    by_place = [{(suite, loss.method): round(loss.accuracy, PLACES) for suite, loss in losses[name] if loss.method} for name in (rule, other)]
    pairs = [(by_place[0][place], by_place[1][place]) for place in by_place[0] if place in by_place[1]]
    less, more = sum(a < b for a, b in pairs), sum(a > b for a, b in pairs)
    p = binomtest(less, less + more).pvalue if less + more else 1.0
    return {"less": less, "same": len(pairs) - less - more, "more": more, "p": float(p)}


def table(rows: dict[str, dict], methods: list[str], metric: str, scale: float, digits: int) -> list[str]:
    """Mean and worst of a metric's losses, by rule and method."""
    labels = [METHOD_FACTS[name].label if name in METHOD_FACTS else name for name in methods]
    lines = [f"| rule | {' | '.join(labels)} | over methods |", "|---" * (len(methods) + 2) + "|"]
    for rule, numbers in rows.items():
        cells = []
        for method in (*methods, None):
            of = numbers.get(method)
            values = [scale * of[f"{metric}_{name}"] for name in ("mean", "worst")] if of else []
            cells.append(f"{values[0]:.{digits}f} / {values[1]:.{digits}f} ({of['n']})" if of else "")
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return lines


def spreads(suites: Iterable[Suite]) -> dict[str, dict]:
    """The range of each method's shift means over rates, by suite, and the greatest of them."""
    found: dict[str, dict] = {}
    for suite in suites:
        for method, numbers in spread_over_rates(suite.candidates, suite.roles).items():
            found.setdefault(method, {})[suite.name] = numbers
    return found


def verdict(losses: dict[str, list[tuple[str, Loss]]]) -> dict:
    """
    The rule with the least worst loss within a method among those that look at no test set, where all of these could choose,
    and how sure that is.
    """
    places = {
        rule: {(suite, loss.method): loss for suite, loss in found if loss.method}
        for rule, found in losses.items()
        if rule in RULES and found and find_rule(rule).role != "shift"
    }
    if not places:
        return {}
    common = set.intersection(*(set(of) for of in places.values()))
    if not common:
        return {"places": 0}
    worst = {rule: round(max(of[place].accuracy for place in common), PLACES) for rule, of in places.items()}
    best = min(worst, key=worst.get)
    tied = [rule for rule in worst if worst[rule] == worst[best]]
    within = {rule: [(suite, loss) for suite, loss in found if (suite, loss.method) in common] for rule, found in losses.items()}
    others = {rule: compared(within, best, rule) for rule in places if rule != best}
    return {"places": len(common), "rule": best, "tied": tied, "worst": worst, "against": others}


def at_an_end(losses: list[tuple[str, Loss]], suites: list[Suite]) -> str | None:
    """Where the best rate is the first or last of the grid, so that a better one may lie beyond; `None` if nowhere."""
    rates = {(suite.name, method): items for suite in suites for method, items in by_method(suite.candidates).items()}
    ends = [
        f"{suite}: {loss.chosen.label}"
        for suite, loss in losses
        if loss.method and loss.chosen.learning_rate is not None and loss.chosen in (rates[suite, loss.method][0], rates[suite, loss.method][-1])
    ]
    if not ends:
        return None
    of = sum(1 for _, loss in losses if loss.method and loss.chosen.learning_rate is not None)
    return f"The best rate is at an end of the grid in {len(ends)} of {of} cases, so a better one may lie beyond ({'; '.join(ends)})."


def main() -> None:
    """Read, choose, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", type=Path, nargs="+", required=True, help="Folders of finished runs, one for each suite.")
    parser.add_argument("--output", type=Path, default=Path("outputs/regret"), help="Folder of the tables.")
    parser.add_argument("--rates", type=float, nargs="+", help="The grid (default: all rates of a suite).")
    asked = parser.parse_args()
    try:
        suites = [read_suite(name, folder, asked.rates) for name, folder in named(asked.suites).items()]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if empty := next((suite for suite in suites if not suite.candidates), None):
        parser.error(f"{empty.name}: no method has all rates; {' '.join(empty.notes)} Give --rates, or leave the suite out")
    grid = sorted({item.learning_rate for suite in suites for item in suite.candidates} - {None})
    names = [*RULES, *(ANY_RATE.format(rate_text(rate)) for rate in grid)]
    if all(suite.baseline is not None for suite in suites):
        names.append(DO_NOTHING)
    losses = {rule: [(suite.name, loss) for suite in suites for loss in losses_of(rule, suite)] for rule in names}
    rows = {rule: summarise_regret(loss for _, loss in found) for rule, found in losses.items() if found}
    methods = list(dict.fromkeys(method for numbers in rows.values() for method in numbers if method))
    spread, chosen = spreads(suites), verdict(losses)

    command = f"python examples/regret.py {shlex.join(sys.argv[1:])}"
    lines = [
        "# Regret of the rules of selection",
        "",
        f"`{command}`. Suites: "
        + "; ".join(f"{suite.name} ({', '.join(by_method(suite.candidates))}; {sum(suite.seeds.values())} runs)" for suite in suites)
        + f". Rates: {', '.join(map(rate_text, grid))}. Each cell is mean / worst over suites (and, for `shift`, over the "
        "declared sets), with their number: what the rule's choice loses on the shifted sets it has not seen against the best of "
        "the same method, or of all methods.",
        "",
        *(f"- `{rule}`: {find_rule(rule).says}." for rule in rows if rule in RULES),
        "",
        "Shift accuracy lost, points:",
        "",
        *table(rows, methods, "accuracy", 100, 1),
        "",
        "Shift NLL lost, nats:",
        "",
        *table(rows, methods, "nll", 1, 2),
        "",
        "How much a method depends on its rate (greatest less smallest shift mean over rates; mean / worst over suites):",
        "",
        "| method | accuracy, points | NLL, nats | suites |",
        "|---|---|---|---|",
    ]
    for method, by_suite in spread.items():
        cells = []
        for metric, scale, digits in (("accuracy", 100, 1), ("nll", 1, 2)):
            values = [scale * numbers[metric] for numbers in by_suite.values()]
            cells.append(f"{sum(values) / len(values):.{digits}f} / {max(values):.{digits}f}")
        lines.append(f"| {method} | {' | '.join(cells)} | {len(by_suite)} |")
    if chosen.get("rule"):
        against = "; ".join(
            f"than {rule} in {of['less']}, the same in {of['same']}, more in {of['more']} (p = {of['p']:.2g})"
            for rule, of in chosen["against"].items()
        )
        lines += [
            "",
            f"Of the rules that look at no test set, {listed([f'`{rule}`' for rule in chosen['tied']])} {'has' if len(chosen['tied']) == 1 else 'have'} the "
            "least worst loss of accuracy within a method, over the "
            f"{chosen['places']} pairs of suite and method in which all of them choose: "
            + ", ".join(f"{rule} {100 * value:.1f}" for rule, value in chosen["worst"].items())
            + (f". {'It' if len(chosen['tied']) == 1 else '`' + chosen['rule'] + '`'} loses less {against}." if against else "."),
        ]
    elif chosen:
        lines += ["", "There is no suite in which all rules that look at no test set could choose, so they are not compared."]
    end = at_an_end(losses["oracle"], suites)
    lines += ["", end] if end else []
    notes = [f"{suite.name}: {note}" for suite in suites for note in dict.fromkeys(suite.notes)]
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    content = {
        "command": command,
        "suites": {
            suite.name: {
                "roles": suite.roles,
                "seeds": {item.label: count for item, count in suite.seeds.items()},
                "zero_shot": suite.baseline,
                "candidates": {item.label: numbers for item, numbers in suite.candidates.items()},
                "notes": suite.notes,
            }
            for suite in suites
        },
        "losses": [
            {"suite": suite, **asdict(loss), "chosen": loss.chosen.label} for found in losses.values() for suite, loss in found
        ],
        "rules": {rule: {method or "over methods": of for method, of in numbers.items()} for rule, numbers in rows.items()},
        "spread_over_rates": spread,
        "verdict": chosen,
    }
    asked.output.mkdir(parents=True, exist_ok=True)
    (asked.output / "regret.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (asked.output / "regret.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
