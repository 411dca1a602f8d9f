# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The facts of a benchmark that goes by name: one schema, for those of the package (`facts/*.json`) and those that you register.

| fact | of | meaning |
|---|---|---|
| `classes` | the benchmark | a list in label order: the name in prompts, or a list of it and of what copies of the data call the class |
| `templates` | the benchmark | prompt templates with one "{}" each; "a photo of a {}." by default |
| `sets` | the benchmark | a dict: each set by key, such as "train" and "test", with the facts below |
| `domains` | the benchmark | names of the styles of the images, where the data have a column or folders of them |
| `evaluation_only`, `border` | the benchmark | see [`Benchmark`] |
| `template_croft` | the benchmark | the template of CRoFT's paper |
| `role` | a set | "train", "validation", "id", "shift" or "open_set" |
| `copies` | a set | where the images are, in the order in which copies are tried: dicts of the fields of [`Repository`], of which `path` is a Hub id; or one dict whose `path` is a folder |
| `group_column` | either | the column of what images are drawn together with, see [`Benchmark`] |
| `licence`, `source`, `note` | either | texts for the model card |
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..messages import did_you_mean, quoted
from ..prompts import DEFAULT_TEMPLATES, check_class_names, check_templates
from .hub_copies import Repository

#: What a benchmark and its sets may be called: as much as a command line can tell from `/`, `=` and `:`.
NAME = r"\w[\w.-]*"
ROLES = ("train", "validation", "id", "shift", "open_set")
EVALUATION_ONLY_REPOSITORIES = ("clip-benchmark/wds_objectnet", "timm/objectnet", "timm/objectnet-720p-in1k")
_TEXT, _TEXTS, _LIST, _DICT = "a text", "a list of texts", "a list", "a dict"
_SWITCH, _COUNT = "True or False", "a whole number of at least 0"
_IS: dict[str, Callable[[Any], bool]] = {
    _TEXT: lambda value: isinstance(value, (str, Path)) and bool(str(value).strip()),
    _TEXTS: lambda value: isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value),
    _LIST: lambda value: isinstance(value, (list, tuple)),
    _DICT: lambda value: isinstance(value, Mapping),
    _SWITCH: lambda value: isinstance(value, bool),
    _COUNT: lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
}
_SAID = dict.fromkeys(("licence", "source", "note", "group_column"), _TEXT)
_BENCHMARK = {"classes": _LIST, "sets": _DICT, "templates": _TEXTS, "domains": _TEXTS, "evaluation_only": _SWITCH}
_BENCHMARK |= {"border": _COUNT, "template_croft": _TEXT, **_SAID}
_SET = {"role": _TEXT, "copies": _LIST, **_SAID}
_COPY_KINDS = {"str": _TEXT, "int": _COUNT, "bool": _SWITCH, "tuple[str, ...]": _TEXTS}
_COPY = {item.name: _COPY_KINDS[item.type.removesuffix(" | None")] for item in fields(Repository)}


@functools.cache
def facts(name: str) -> dict[str, Any]:
    """Read a file of the package's facts by its `name`: "imagenet", "objectnet" or "datasets"."""
    return json.loads((Path(__file__).parent / "facts" / f"{name}.json").read_text(encoding="utf-8"))


def check_facts(name: str, described: Mapping[str, Any]) -> None:
    """
    Check the facts of a benchmark against the schema above.

    Args:
        name (`str`): What the benchmark is called, used in messages.
        described (`Mapping`): Its facts.

    Raises:
        ValueError: If a fact is missing, unknown or of another type; names the set and the fact.
    """
    where = f"Benchmark {name!r}"
    _check(where, described, _BENCHMARK, ("classes", "sets"))
    for item in described["classes"]:
        if not isinstance(item, str) and not (_IS[_TEXTS](item) and item):
            raise ValueError(f"{where} has the class {item!r}; give its name, or a list of names.")
    try:
        check_class_names(item if isinstance(item, str) else item[0] for item in described["classes"])
        check_templates(described.get("templates", DEFAULT_TEMPLATES))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not described["sets"]:
        raise ValueError(f"{where} has no sets; give at least one, such as 'test'.")
    for key, described_set in described["sets"].items():
        place = f"Set {key!r} of benchmark {name!r}"
        if not isinstance(key, str) or not re.fullmatch(NAME, key):
            raise ValueError(f"{place} has a name of other characters than letters, digits, '-', '_' and '.'; give another one.")
        check_sets(place, described_set)
        check_licence(place, described_set, described.get("evaluation_only", False))


def check_licence(where: str, described: Mapping[str, Any], evaluation_only: bool) -> None:
    """
    Check that data which may only be evaluated on has no other role; `where` and `described` are as for [`check_sets`].

    Raises:
        ValueError: If the set is to be trained or tuned on, and the benchmark is `evaluation_only`, or a copy is known to be.
    """
    known = any(str(copy["path"]).lower() in EVALUATION_ONLY_REPOSITORIES for copy in described["copies"])
    if described["role"] in ("train", "validation") and (evaluation_only or known):
        raise ValueError(
            f"{where} may never be trained or tuned on, its licence says, but its role is {described['role']!r}; give it "
            "'id', 'shift' or 'open_set', or leave it out."
        )


def check_sets(where: str, described: Mapping[str, Any]) -> None:
    """
    Check the facts of one set; `where` and `described` are as for [`check_facts`].

    Raises:
        ValueError: If a fact is missing, unknown or of another type.
    """
    _check(where, described, _SET, ("role", "copies"))
    if described["role"] not in ROLES:
        raise ValueError(f"{where} has the role {described['role']!r}; choose one of {quoted(ROLES)}.")
    for copy in described["copies"]:
        _check(f"A copy of {where[0].lower()}{where[1:]}", copy, _COPY, ("path",))


def _check(where: str, found: Any, known: Mapping[str, str], required: tuple[str, ...]) -> None:
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} is described by a {type(found).__name__}; give a dict of {quoted(list(known), 20)}.")
    for name in found:
        if name not in known:
            more = did_you_mean(str(name), known) or f"; the schema knows {quoted(list(known), 20)}"
            raise ValueError(f"{where} has an unknown fact {name!r}{more}.")
        if not _IS[known[name]](found[name]):
            raise ValueError(f"{where} has {name}={found[name]!r}; give {known[name]}.")
    missing = [name for name in required if name not in found]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}; the schema needs {quoted(required)}.")


def copies(described: Mapping[str, Any]) -> tuple[Repository, ...]:
    """Return the copies of a set from its facts, `described`."""
    return tuple(
        Repository(**{name: tuple(value) if isinstance(value, list) else value for name, value in copy.items()})
        for copy in described["copies"]
    )
