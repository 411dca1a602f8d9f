# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The data sets of a model's claims: found again by their names, and whether their images are those of the claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.benchmarks import REGISTRY, Benchmark, load_benchmark
from ..data.catalog.sets import registered_sets
from ..data.class_matching import load_matched
from ..data.class_projection import head_classes
from ..data.messages import one_line, quoted
from ..data.overlap import CHOSEN_ON, HASH_SPACE, Sketch, compare, hash_images
from ..publishing.card_facts import SetFacts
from ..publishing.folder_claims import ClaimingFolder
from .data_sets import Known, ReadingOptions, evaluation_benchmarks, model_classes
from .specs import ROLES, Spec

if TYPE_CHECKING:
    from .verify import VerifyOptions


_NO_PROMPTS = "The model names no classes and prompts (robustft.json), so how its images were classified is not known; restore that file."


@dataclass
class ClaimedSets:
    """
    What was found of the data sets of a model's claims.

    Attributes:
        benchmarks (`list[Benchmark]`): Those to measure on, opened, in the order of the report.
        same (`dict[str, bool]`): By name of each set that was found whether its images are those of the claims.
        missing (`dict[str, str]`): By name of each other one why it was not.
        validation ([`Benchmark`], *optional*): The images on which temperature, detector and prediction sets were fitted.
        unknown ([`Benchmark`], *optional*): The images of none of the classes on which the threshold was chosen.
        bank ([`Benchmark`], *optional*): The known images of the score `knn`.
        notes (`list[str]`): What the reader should know.
    """

    benchmarks: list[Benchmark] = field(default_factory=list)
    same: dict[str, bool] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    validation: Benchmark | None = None
    unknown: Benchmark | None = None
    bank: Benchmark | None = None
    notes: list[str] = field(default_factory=list)


def claimed_sets(of: ClaimingFolder, places: Mapping[str, str], options: VerifyOptions) -> ClaimedSets:
    """
    Find the data sets of all claims again.

    Args:
        of ([`ClaimingFolder`]): The model's folder.
        places (`Mapping[str, str]`): Where sets lie now, by name, as the user says; what is wrong with these is an error.
        options ([`VerifyOptions`]): For the columns of data in `places`.

    Returns:
        [`ClaimedSets`]: The sets, and why others cannot be read.

    Raises:
        ValueError: If a place is of no set of the claims, or its data do not fit the model.
        OSError: If a place cannot be read.
    """
    report, found = of.report, ClaimedSets()
    rows: dict[str, Any] = {name: vars(row) for name, row in report.results.items()} | (report.multi_label or {})
    rows |= {name: {**row, "role": "open_set"} for name, row in (report.open_set or {}).items()}
    roles = {name: row["role"] for name, row in rows.items()}
    if of.fitted_on is not None:
        roles.setdefault(of.fitted_on, "validation")
    if isinstance(of.unknown, str):
        roles.setdefault(of.unknown, "open_set")
    if "knn_bank" in report.settings:
        roles.setdefault(report.settings["knn_bank"], "train")
    strange = sorted(set(places) - set(roles))
    if strange:
        raise ValueError(
            f"`--data {strange[0]}={places[strange[0]]}`: the model claims nothing of a set {strange[0]!r}; its sets are "
            f"{quoted(list(roles), 20)}."
        )
    named = {name: getattr(options, name) for name in ("image_column", "label_column", "group_column")}
    columns = ReadingOptions(**named)
    given = next((f"--{name}" for name, value in named.items() if value is not None), None)
    if given is not None and not places:
        raise ValueError(f"`{given}` is for data of --data; give it too, or leave {given} out.")
    facts = of.facts
    known = model_classes(columns, facts.get("class_names", ()), facts.get("templates", ()), facts.get("label_names"))
    described = {item.name: item for item in (() if of.card is None else of.card.sets)}
    opened: dict[str, Benchmark] = {}
    for name, role in roles.items():
        try:
            if name in places:
                benchmark = _given(name, role, places[name], columns, known)
            else:
                benchmark = _recorded(name, role, described.get(name), rows.get(name, {}).get("source"), known)
            benchmark.open()
        except (ValueError, OSError) as error:
            if name in places:
                raise
            found.missing[name] = one_line(error).rstrip(".")
            continue
        opened[name] = benchmark
        found.same[name] = _is_same(benchmark, facts, rows.get(name), found.notes)
    for name, facts_of in (report.open_set or {}).items():
        if name in opened and facts_of["id"] not in opened:
            found.missing[name] = f"{facts_of['id']}, with which it is compared, cannot be read: {found.missing[facts_of['id']]}"
            del opened[name]
    found.benchmarks = [opened[name] for name in rows if name in opened]
    found.validation = opened.get(of.fitted_on or "")
    found.unknown = opened.get(of.unknown or "")
    found.bank = opened.get(report.settings.get("knn_bank", ""))
    if all(item.role != "open_set" for item in found.benchmarks):
        found.bank = None
    return found


def _given(name: str, role: str, place: str, columns: ReadingOptions, known: Known | None) -> Benchmark:
    """The data at a place that the user named."""
    spec = Spec.parse(place)
    if known is None and not spec.registered:
        raise ValueError(f"`--data {name}={place}`: {_NO_PROMPTS}")
    text = place if spec.registered or spec.role is not None else f"{place}:{role if role in ROLES else 'id'}"
    chosen = replace(columns) if spec.has_columns else replace(columns, image_column=None, label_column=None, group_column=None)
    benchmarks, _ = evaluation_benchmarks([text], chosen, known)
    if len(benchmarks) != 1:
        sets = quoted([item.name for item in benchmarks], 20)
        raise ValueError(f"`--data {name}={place}` stands for the sets {sets}; name one of them, such as {place}/{benchmarks[0].name}.")
    return _renamed(benchmarks[0], name, role, known)


def _recorded(name: str, role: str, described: SetFacts | None, source: Mapping[str, str] | None, known: Known | None) -> Benchmark:
    """The data that the card names. Raises ValueError with the reason where it names none that can be found."""
    if described is not None and described.suite is not None:
        return _renamed(_registered(name, described.suite), name, role, known)
    if known is None:
        raise ValueError(_NO_PROMPTS)
    if described is not None and described.path is not None:
        given = {"name": name, "role": role}
        given |= {key: value for key, value in (("config", described.config), ("revision", described.revision)) if value is not None}
        if role == "open_set":
            return load_benchmark(described.path, described.split, label_column=None, **given)
        return load_matched(
            described.path, described.split, class_names=known.class_names, templates=known.templates, label_names=known.label_names, **given
        )[0]
    where = f" ({source['path']}, when it was measured)" if source and "path" in source else ""
    raise ValueError(f"No card says where its images lie{where}; give --data {name}=PLACE")


def _registered(name: str, suite: str) -> Benchmark:
    for source in dict.fromkeys((suite, *REGISTRY)):
        for key, described in (registered_sets(source) or {}).items():
            if described["name"] == name and described.get("suite") == suite:
                return load_benchmark(source, key)
    raise ValueError(f"{suite} has no set {name!r} in this version; give --data {name}=PLACE")


def _renamed(benchmark: Benchmark, name: str, role: str, known: Known | None) -> Benchmark:
    """The same data as the claims call them, by the prompts of the model where its classes are theirs."""
    changes: dict[str, Any] = {"name": name, "role": role}
    if known is not None and role != "open_set" and known.class_names in head_classes(benchmark):
        changes["templates"] = known.templates
    return replace(benchmark, opened=vars(benchmark).get("_rows"), **changes)


def _is_same(benchmark: Benchmark, facts: Mapping[str, Any], row: Mapping[str, Any] | None, notes: list[str]) -> bool:
    """Whether the images are those of the claims, by the fingerprint in `robustft.json`, else by their number."""
    name = benchmark.name
    # Images of none of the classes are measured on, or something was chosen on them.
    role = CHOSEN_ON if row is None and benchmark.role == "open_set" else benchmark.role
    entry = next((item for item in facts.get("image_hashes", ()) if (item["name"], item["role"]) == (name, role)), None)
    if entry is None:
        # Of images that nothing was measured on, it is known how many something was fitted on.
        fits = [facts.get(part) or {} for part in ("temperature", "detector", "prediction_sets")] if row is None else []
        counts = [fit["n"] for fit in fits if fit.get("n") is not None and fit.get("fitted_on", benchmark.name) == benchmark.name]
        risk = (facts.get("detector") or {}).get("risk") or {}
        if role == CHOSEN_ON and isinstance(risk.get("false_acceptance"), dict):
            counts.append(risk["false_acceptance"].get("n"))
        unreadable = (row or {}).get("unreadable") or {}
        counts += [] if row is None else [row["n"], row["n"] + unreadable.get("count", 0)]
        same = not counts or benchmark.n_images in counts
        told = "the same" if same else "others"
        notes.append(f"The folder has no fingerprint of the images of {name}: they are taken for {told} by their number alone.")
        return same
    recorded = Sketch.from_dict(entry)
    hashed = hash_images(benchmark)
    now = hashed.sketch(None if recorded.bound == HASH_SPACE else len(recorded.hashes))
    same = np.array_equal(now.hashes, recorded.hashes) and (recorded.images is None or now.images == recorded.images)
    if not same and recorded.read != now.read and recorded.images is None:
        # It was read as a stream, of which some images are looked at.
        overlap = compare(hashed, recorded)
        same = 0 < overlap.compared == overlap.found
    if not same:
        notes.append(f"The images of {name} are not those of the claims: two samples are compared.")
    return same
