# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The winner of a comparison in words, with its margin and how far chance alone moves it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..evaluation.findings import is_below_guessing, is_guessing, listed, percent
from .measures import Measure, measure_of
from .rules import find_rule
from .runs import Candidate

#: Of candidates that cannot be told from the winner so many are named.
NAMED = 3
#: What is told beside the measure that leads.
_WORDS = {"f1": "F1", "ece": "ECE", "nll": "NLL"}


def find_winner(summary: Mapping[str, Any], label: str, rule: str | None) -> dict[str, Any]:
    """
    Say who is ahead, and who cannot be told from it.

    Args:
        summary (`Mapping`): Of `summarise`, with the differences against zero-shot and against the candidate of this `label`.
        label (`str`): The candidate that `rule` has chosen, or the highest one.
        rule (`str`, *optional*): The rule's name; without one, that it was chosen by what it is measured on is said.

    Returns:
        `dict[str, Any]`: The `winner` of the summary.
    """
    measure = measure_of(summary)
    key, decided_on, rows = measure.key, summary["decided_on"], {row["label"]: row for row in summary["candidates"]}
    row, others = rows[label], {name: row for name, row in rows.items() if name != label}
    gain = row.get("against_zero_shot", {}).get(decided_on)
    lags = {name: other["against_winner"][decided_on][key] for name, other in others.items()}
    ties = [name for name, lag in lags.items() if not lag["beyond_noise"]]
    better = [name for name, lag in lags.items() if lag["beyond_noise"] and lag["mean"] > 0]
    ahead = gain is None or bool(gain[key]["beyond_noise"] and gain[key]["mean"] > 0)
    behind = gain is not None and bool(gain[key]["beyond_noise"]) and not ahead
    where = _where(summary)
    name, reached = spoken(row), f"{100 * row[decided_on][key]['mean']:.1f} %{f' {measure.word}' if measure.of_lists else ''}"
    if rule is not None and behind:
        words = [f"Zero-shot is better {where} than what the rule {rule} chooses, {name}: {reached}"]
    elif rule is not None:
        words = [f"The rule {rule} chooses {name}: {reached} {where}"]
    elif gain is not None and not any(_may_be_ahead(each, decided_on, key) for each in rows.values()):
        words = [f"No candidate is ahead of zero-shot {where}: the highest, {name}, has {reached}"]
    elif not others:
        words = [f"{name} has {reached} {where}"]
    else:
        words = [f"{name} is {'ahead' if ahead and not ties else 'the highest'} {where}: {reached}"]
    words[0] += "" if gain is None else f", {_gained(gain[key])}"
    if better:
        first = sorted(better, key=lambda item: -lags[item]["mean"])[: NAMED if len(better) > NAMED + 1 else None]
        told = [f"{spoken(rows[item])} ({points(lags[item])})" for item in first]
        named = listed([*told, *([f"{len(better) - len(first)} more"] if len(first) < len(better) else [])])
        words.append(f"{named} {'is' if len(better) == 1 else 'are'} better there, which the rule does not look at")
    unknown = [name for name in ties if lags[name]["se"] is None]
    named = ([spoken(rows[item]) for item in ties if (item in unknown) == of] for of in (False, True))
    words += _ties(*named, len(others) - len(better))
    # What a guess reaches in average precision is the share of images with the label, which is not kept.
    words.append("" if measure.of_lists else _guesses(summary, row, decided_on))
    if rule is not None:
        words.append(may_be_chance(summary))
    if gain is None:
        words.append("Zero-shot was not measured, so what was gained is not known; compare a run of zero_shot too")
    else:
        words += _beside(summary, row, decided_on)
    shown = [*([] if gain is None else [gain[key]]), *lags.values()]
    if any(item["se"] is not None for item in shown) and any(len(each["seeds"]) < 2 for each in rows.values()):
        words.append("Where a candidate has one seed, chance is the choice of images alone, and not what another seed would give")
    if rule is None and others:
        words.append(
            f"No rule chose it: it is the highest of {len(rows)} on the sets that it is measured on, which flatters it"
        )
    return {
        "candidate": label,
        "chosen_by": rule,
        "is_clear": ahead and not ties and not better and gain is not None,
        "ties": ties,
        "better": better,
        "zero_shot_is_better": behind,
        "words": " ".join(f"{part}." for part in words if part),
    }


def may_be_chance(summary: Mapping[str, Any]) -> str:
    """Return what a `summary` knows of whether chance, the NLL or no gain at all made the rule's choice, without a full stop; else nothing."""
    rule, measure = summary["rule"] or {}, measure_of(summary)
    chance, names = rule.get("chance") or {"ties": ()}, {row["label"]: spoken(row) for row in summary["candidates"]}
    ties, said, can = chance["ties"], [], "cannot"
    images = f"n the {chance['n']:,} images that the rule looked at" if "n" in chance else ""
    if ties:
        if len(ties) <= NAMED:
            who = listed([names[tie] for tie in ties])
        elif len(ties) < chance["others"]:
            who = f"{len(ties)} of the {chance['others']} other candidates"
        else:
            who, can = f"none of the {chance['others']} other candidates", "can"
        start = ", nor can zero-shot" if chance.get("zero_shot_ties") else ""
        said.append(f"Chance may have made this choice: o{images}, {who} {can} be told from it{start}")
    elif chance.get("zero_shot_ties"):
        said.append(f"O{images}, it cannot be told from zero-shot")
    if chance.get("zero_shot_is_better"):
        said.append(f"O{images}, zero-shot {'has the higher mAP' if measure.of_lists else 'is more accurate'}")
    said += _equally_good(rule, names, measure)
    if rule.get("without_gain"):
        found = find_rule(rule["name"], measure).without_gain
        said.append(f"O{images or 'n what the rule looked at'}, no candidate gains over zero-shot: {rule['name']} {found}")
    return ". ".join(said)


def _equally_good(rule: Mapping[str, Any], names: Mapping[str, str], measure: Measure) -> list[str]:
    """What other methods have that is as good as the choice to the `rule` by a `measure`, and what decided then; `names` are spoken ones by label."""
    tied = [names[tie] for tie in rule.get("tied", ())]
    if not tied:
        return []
    good = "accurate" if find_rule(rule["name"], measure).metrics == ("accuracy",) else "good"
    who = listed(tied) if len(tied) <= NAMED else f"The choices among the rates of {len(tied)} other methods"
    are = "is" if len(tied) == 1 else "are"
    return [f"{who} {are} as {good} there, and the lower NLL decided, which says little about other kinds of images"]


def _guesses(summary: Mapping[str, Any], row: Mapping[str, Any], decided_on: str) -> str:
    """On which of the sets that decide the candidate of a `row` is no better than guessing; empty if on none."""
    role = "shift" if decided_on == "shift_mean" else "id"
    sets = [item for item in summary["data"]["sets"] if item["role"] == role and (item.get("n_classes") or 0) > 1 and item["name"] in row["sets"]]
    # Where classes are not equally frequent, always giving one of them is the better guess, as reports have it.
    reached = {item["name"]: max(1 / item["n_classes"], item.get("majority_share", 0.0)) for item in sets}
    sets = [item for item in sets if reached[item["name"]] < 1]
    counted = {item["name"]: (row["sets"][item["name"]]["accuracy"]["mean"], item["groups"] or item["n"], reached[item["name"]]) for item in sets}
    found = [item for item in sets if is_guessing(*counted[item["name"]])]
    if not found:
        return ""
    below = any(is_below_guessing(*counted[item["name"]]) for item in found)
    chance = listed(list(dict.fromkeys(percent(reached[item["name"]]) for item in found)))
    ways = dict.fromkeys("always giving the most frequent class" if "majority_share" in item else "guessing" for item in found)
    return f"On {listed([item['name'] for item in found])} it {'is no better than' if below else 'cannot be told from'} {' or '.join(ways)}, which gets {chance}"


def spoken(row: Mapping[str, Any]) -> str:
    """Return the candidate of a `row` in a sentence: "CaRot at 3e-4"."""
    rate = Candidate(row["method"], row["learning_rate"], row["variant"]).label.removeprefix(row["method_label"])
    return row["method_label"] + rate.replace(", ", " at ")


def points(difference: Mapping[str, Any]) -> str:
    """Return a paired `difference` in percent with its interval: "+3.0, 95 % interval +2.1 to +3.9"."""
    text = f"{100 * difference['mean']:+.1f}"
    if difference["se"] is None:
        return text
    low, high = (f"{100 * difference[end]:+.1f}" for end in ("low", "high"))
    return f"{text}, 95 % interval {low} to {high}"


def _where(summary: Mapping[str, Any]) -> str:
    role = "shift" if summary["decided_on"] == "shift_mean" else "id"
    names = [item["name"] for item in summary["data"]["sets"] if item["role"] == role]
    sets = f"mean of {len(names)} sets" if len(names) > 1 else names[0]
    return f"under shift ({sets})" if role == "shift" else f"in distribution ({sets}; no shift was measured)"


def _gained(gain: Mapping[str, Any]) -> str:
    value, _, interval = points(gain).partition(", ")
    interval = f" ({interval})" if interval else ""
    if gain["beyond_noise"] is None:
        return f"{value} over zero-shot, and nothing says how far chance moves that"
    if not gain["beyond_noise"]:
        return f"which cannot be told from zero-shot: {value}{interval}"
    return (
        f"{value}{interval} over zero-shot"
        if gain["mean"] > 0
        else f"{value}{interval} against zero-shot, which is better"
    )


def _may_be_ahead(row: Mapping[str, Any], decided_on: str, key: str) -> bool:
    """Whether a candidate is ahead of zero-shot, by more than noise or by nobody knows how much of it."""
    gain = row["against_zero_shot"][decided_on][key]
    return gain["mean"] > 0 and gain["beyond_noise"] is not False


def _ties(names: list[str], unknown: list[str], others: int) -> list[str]:
    """Of so many `others` that are not better: which cannot be told from the winner, and of which nobody knows."""
    found = [f"{_some(names)} cannot be told from it"] if names else []
    if unknown:
        what = "these differences" if len(unknown) == others else f"the difference from {_some(unknown)}"
        found.append(
            f"How far chance moves {what} is not known: the runs kept neither predictions nor bootstrap samples of the same images"
        )
    if others and not found:
        found = [f"{'Every other candidate' if others > 1 else 'The other candidate'} is behind it by more than chance explains"]
    return found


def _some(names: list[str]) -> str:
    rest = len(names) - NAMED
    return listed([*names[:NAMED], f"{rest} more"] if rest > 1 else names)


def _beside(summary: Mapping[str, Any], row: Mapping[str, Any], decided_on: str) -> list[str]:
    """What else became better or worse than zero-shot by more than noise."""
    against, told, measure = row["against_zero_shot"], [], measure_of(summary)
    groups = ["shift_mean", "id_mean"] if decided_on == "shift_mean" else ["id_mean"]
    changes: dict[bool, list[str]] = {True: [], False: []}
    for group in groups:
        for metric, word in {measure.key: measure.word, **_WORDS}.items():
            if measure.of_lists and metric in ("ece", "nll"):
                # Of the shares of classes on one side, and of sigmoids on the other: no better and no worse.
                continue
            if (group, metric) == (decided_on, measure.key) or not against.get(group, {}).get(metric, {}).get(
                "beyond_noise"
            ):
                continue
            change = against[group][metric]["mean"]
            text = f"{change:+.3f}" if metric == "nll" else f"{100 * change:+.1f}"
            place = "" if decided_on == "id_mean" else " under shift" if group == "shift_mean" else " in distribution"
            changes[(change > 0) == (metric in (measure.key, "f1"))].append(f"{word}{place} {text}")
    for good, word in ((True, "Better"), (False, "Worse")):
        if changes[good]:
            too = " too" if good and against[decided_on][measure.key]["beyond_noise"] and against[decided_on][measure.key]["mean"] > 0 else ""
            told.append(f"{word} than zero-shot{too}: {listed(changes[good])}")
    return told
