# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which words of `hf-robustft compare` are its own, and which are passed on to each `hf-robustft train`. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .parser import Manners, UsageError, boolean, unknown_flag

#: Flags of one run, and what there is in their place.
_FOR_ONE = {"method": "methods", "learning_rate": "learning_rates", "seed": "seeds"}
_REFUSED = {
    "recipe": "it holds the settings of one method; methods take those of emoji_shift by themselves, --paper_settings those of papers",
    "finetuned_model": "what is merged is what this comparison trains; see --finetune_with",
    "resume_from_checkpoint": "it goes on where it was stopped by itself: give the same command again",
    "push_to_hub": "no folder is the result before the comparison is done; publish one by `hf-robustft publish`",
    "skip_baseline": "the zero-shot model is measured once",
    "leave_out_classes": "a run that leaves classes out measures them and no test set; --rule concepts trains such runs, or give it to `hf-robustft train`",
    "save_predictions": "rules and tables look at the predictions, so each run saves them",
}
#: What each run is given in any case, so that it may be asked for.
_ALWAYS = "save_predictions"
#: What `train --method auto` chooses by itself, and what it has in place of the words for a comparison.
_OF_COMPARE = ("methods", "learning_rates", "seeds", "rule", "jobs", "dry_run")
_FOR_AUTO = {
    "learning_rate": "is what `--method auto` chooses; leave it out, or name a method",
    "resume_from_checkpoint": "is not needed with `--method auto`, which goes on where it was stopped by itself: give the same command without it",
    "push_to_hub": "does not go with `--method auto`; publish the folder that it ends with by `hf-robustft publish`",
}
HELP = ("-h", "--help")


def refusal(name: str) -> str | None:
    """Why a setting of this `name` is not passed on, and what to do; `None` if it is."""
    if name in _FOR_ONE:
        return f"is for one run; give --{_FOR_ONE[name]}"
    # A token would be in the command line of each run.
    why = _REFUSED.get("push_to_hub" if name.startswith("hub_") else name)
    return None if why is None else f"cannot be given to a comparison: {why}"


def check_auto(arguments: Sequence[str]) -> None:
    """Refuse what `train --method auto` cannot be given among its `arguments`. Raises UsageError."""
    for word in arguments:
        flag = word.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_") if flag.startswith("--") else ""
        if name in _OF_COMPARE:
            raise UsageError(f"`{flag}` is for `hf-robustft compare`, of which `--method auto` is a small form; leave it out, or give it there")
        why = _FOR_AUTO.get("push_to_hub" if name.startswith("hub_") else name)
        if why is None and name not in ("method", "seed", _ALWAYS):
            why = refusal(name)
        if why is not None:
            raise UsageError(f"`{flag}` {why}")


def is_given_anyway(name: str, value: Any) -> bool:
    """Whether a setting of this `name` has this `value`, true or the text of it, in each run, asked for or not."""
    try:
        return name == _ALWAYS and boolean(value)
    except (ValueError, AttributeError):
        return False


def parted(arguments: Sequence[str], own: Manners, train: Manners) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """
    Part a command line.

    Args:
        arguments (`Sequence[str]`): The words behind `hf-robustft compare`.
        own ([`Manners`]): The parser of its own flags.
        train ([`Manners`]): The parser of `hf-robustft train`.

    Returns:
        `tuple`: The words for `own`; and of each flag of training its name as a setting, and its words.

    Raises:
        UsageError: For a flag that neither has, or one that a comparison of many runs cannot take.
    """
    groups: list[list[str]] = [[]]
    for word in arguments:
        if word.startswith("--") and len(word) > 2 or word == "-h":
            groups.append([])
        groups[-1].append(word)
    mine, passed = groups[0], []
    names = {parser: {flag.removeprefix("--") for flag in parser.flags()} for parser in (own, train)}
    for group in groups[1:]:
        flag, equals, value = group[0].partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        positive = name.removeprefix("no_") if name not in names[train] else name
        if flag in HELP or name in names[own]:
            mine += group
        elif is_given_anyway(name, value if equals else next(iter(group[1:]), True)):
            continue
        elif (why := refusal(positive)) is not None:
            raise UsageError(f"`{flag}` {why}")
        elif positive in names[train]:
            passed.append((positive, group))
        else:
            known = names[own] | names[train] - _FOR_ONE.keys() - _REFUSED.keys()
            raise unknown_flag(flag, [f"--{item}" for item in sorted(known)], "`hf-robustft compare --help` lists what there is")
    return mine, passed
