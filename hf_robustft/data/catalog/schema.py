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
| `licence`, `source`, `note` | either | texts for the model card |
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..labels import quoted
from ..prompts import DEFAULT_TEMPLATES, check_class_names, check_templates
from ..spelling import did_you_mean
from .hub_copies import Repository

ROLES = ("train", "validation", "id", "shift", "open_set")
_SAID = {"licence": str, "source": str, "note": str}
_BENCHMARK = {"classes": list, "sets": dict, "templates": list, "domains": list, "evaluation_only": bool, "border": int}
_BENCHMARK |= {"template_croft": str, **_SAID}
_SET = {"role": str, "copies": list, **_SAID}
_KINDS = {str: "a text", list: "a list", dict: "a dict", bool: "True or False", int: "a whole number"}
_COPY = {name: list if name == "image_columns" else object for name in (item.name for item in fields(Repository))}


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
    try:
        check_class_names(item if isinstance(item, str) else [*item, ""][0] for item in described["classes"])
        check_templates(described.get("templates", DEFAULT_TEMPLATES))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not described["sets"]:
        raise ValueError(f"{where} has no sets; give at least one, such as 'test'.")
    for key, described_set in described["sets"].items():
        place = f"Set {key!r} of benchmark {name!r}"
        check_sets(place, described_set)


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


def _check(where: str, found: Any, known: Mapping[str, type], required: tuple[str, ...]) -> None:
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} is described by a {type(found).__name__}; give a dict of {quoted(list(known), 20)}.")
    for name in found:
        if name not in known:
            more = did_you_mean(str(name), known) or f"; the schema knows {quoted(list(known), 20)}"
            raise ValueError(f"{where} has an unknown fact {name!r}{more}.")
        kind = (list, tuple) if known[name] is list else Mapping if known[name] is dict else known[name]
        if not isinstance(found[name], kind):
            raise ValueError(f"{where} has {name}={found[name]!r}; give {_KINDS[known[name]]}.")
    missing = [name for name in required if name not in found]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}; the schema needs {quoted(required)}.")


def copies(described: Mapping[str, Any]) -> tuple[Repository, ...]:
    """Return the copies of a set from its facts, `described`."""
    return tuple(
        Repository(**{name: tuple(value) if isinstance(value, list) else value for name, value in copy.items()})
        for copy in described["copies"]
    )
