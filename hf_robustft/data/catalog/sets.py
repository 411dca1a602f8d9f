# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks that go by name, as descriptions; `data.benchmarks.load_benchmark` makes `Benchmark`s of them.

What is written here and in the facts was collected from public code and stored pages of the Hub, not from the Hub itself. Numbers of rows
with `rows_verified=False` come from papers or memory. The order of labels inside each copy was not verified for any of
them: it is compared with the registry's when a copy is opened, by its ClassLabel or its classnames.txt. Sources and
licences of class names and templates stand in the json files of `data/catalog/facts`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..packaged import asset_path
from ..prompts import label_key
from .imagenet import imagenet_1k, imagenet_set, imagenet_shifts, imagenet_split, objectnet_set
from .registered import described_sets
from .schema import NAME, check_facts, facts

FEW_SHOT_SETS = (
    "caltech101",
    "oxford-pets",
    "stanford-cars",
    "flowers102",
    "food101",
    "fgvc-aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)
OPEN_SET_PARTNERS = ("dtd", "food101", "caltech101")


def _facts(name: str) -> dict[str, Any]:
    return facts("datasets")["sets"][name]


def _classification(name: str) -> dict[str, dict]:
    sets = described_sets(name, _facts(name))
    if name != "caltech101":
        return sets
    # CoOp leaves out background images and the second set of faces.
    ignored = set(facts("datasets")["caltech101_ignored"])
    return {key: _some_classes(described, lambda names: not set(names) & ignored) for key, described in sets.items()}


def _some_classes(described: dict, keeps: Callable[[tuple[str, ...]], bool]) -> dict[str, Any]:
    """A set with the rows of some of its classes."""
    labels = described["registered"].label_names
    kept = [label for label, names in enumerate(labels) if keeps(names)]
    positions = tuple(kept.index(label) if label in kept else -1 for label in range(len(labels)))
    data = replace(described["registered"], positions=positions)
    return {**described, "registered": data, "class_names": tuple(labels[label][0] for label in kept)}


def _caltech101_open_set(partner: str) -> dict[str, dict]:
    """The classes of Caltech101 that CRoFT takes for unseen beside PACS or VLCS."""
    wanted = {label_key(name) for name in facts("datasets")["caltech101_open_set"][partner]}
    described = described_sets("caltech101", _facts("caltech101"))["test"]
    described = _some_classes(described, lambda names: label_key(names[1]) in wanted)
    name, count = f"caltech101-open-{partner}", len(described["class_names"])
    note = f"the {count} classes on CRoFT's list beside {partner.upper()}, test split alone"
    return {"test": {**described, "name": name, "role": "open_set", "suite": name, "note": note}}


DOMAINS = {name: tuple(_facts(name)["domains"]) for name in ("pacs", "vlcs")}
# The authors' own splits were not published with their code; these are drawn by row, the same at every reading.
_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "id": (0.9, 1.0)}


def _leave_one_out(name: str, target: str) -> dict[str, dict]:
    """Train on all domains but one. The sources are divided 80/10/10 by row; the domain left out is the shift."""
    described, sources = described_sets(name, _facts(name))["train"], tuple(d for d in DOMAINS[name] if d != target)
    parts = [(role, sources, share) for role, share in _SHARES.items()] + [(target, (target,), (0.0, 1.0))]
    sets = {}
    for key, domains, share in parts:
        drawn = "all images" if key == target else f"{round(100 * (share[1] - share[0]))} % of the images"
        sets[key] = {
            **described,
            "name": f"{name}-{key}",
            "role": "shift" if key == target else key,
            "registered": replace(described["registered"], domains=domains, share=share),
            "suite": f"{name}-{target}",
            "note": f"{drawn} of {', '.join(domains)}; not the authors' splits",
        }
    return sets


# Emoji Shift

_EMOJI_SETS = {
    "train": ("train", "Noto Emoji", "Apache-2.0"),
    "validation": ("validation", "Noto Emoji", "Apache-2.0"),
    "noto": ("id", "Noto Emoji", "Apache-2.0"),
    "twemoji": ("shift", "Twemoji", "CC-BY-4.0"),
    "openmoji": ("shift", "OpenMoji", "CC-BY-SA-4.0"),
    "fluent-emoji": ("shift", "Fluent Emoji", "MIT"),
    "fluent-emoji-high-contrast": ("shift", "Fluent Emoji High Contrast", "MIT"),
    "open_set": ("open_set", "Noto Emoji", "Apache-2.0"),
}


def _emoji_shift() -> dict[str, dict]:
    """Emoji Shift: one list of concepts, drawn by rival artists; training on one style, shifts are the others."""
    folder = asset_path("emoji_shift")
    described = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    return {
        name: {
            "name": name,
            "role": role,
            "class_names": tuple(described["open_set_classes" if role == "open_set" else "classes"]),
            "templates": tuple(described["templates"]),
            "path": "parquet",
            "data_files": str(folder / f"{name}.parquet"),
            # The drawing, of which a set has several views.
            "group_column": "code_point",
            "suite": "emoji_shift",
            "licence": licence,
            "source": source,
        }
        for name, (role, source, licence) in _EMOJI_SETS.items()
    }


def _one(describe: Callable[..., dict], *arguments) -> Callable[[], dict[str, dict]]:
    return lambda: {"test": describe(*arguments)}


REGISTRY: dict[str, Callable[[], dict[str, dict]]] = {
    "emoji_shift": _emoji_shift,
    "imagenet-1k": imagenet_1k,
    "imagenet-shifts": imagenet_shifts,
    **{
        name: _one(imagenet_set, name, name, "shift")
        for name in ("imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-sketch")
    },
    "objectnet": _one(objectnet_set),
    "imagenet-seen-unseen": functools.partial(imagenet_split, 1, "imagenet-seen-unseen"),
    **{name: functools.partial(_classification, name) for name in ("cifar-10", "cifar-100", *FEW_SHOT_SETS)},
    **{f"caltech101-open-{name}": functools.partial(_caltech101_open_set, name) for name in DOMAINS},
    **{
        f"{name}-{target}": functools.partial(_leave_one_out, name, target)
        for name, domains in DOMAINS.items()
        for target in domains
    },
}
"""Name -> function that gives the sets of the suite: by key the fields of a `Benchmark`."""
_PACKAGED = frozenset(REGISTRY)


@dataclass(frozen=True)
class Group:
    """
    Suites that a paper reports together, each with training data of its own.

    Attributes:
        suites (`tuple[str, ...]`): Names of the registry.
        one_copy (`bool`): Whether one folder holds the images of all of them.
    """

    suites: tuple[str, ...]
    one_copy: bool


#: By the name that `--train_dataset` takes.
GROUPS = {
    **{name: Group(tuple(f"{name}-{domain}" for domain in domains), True) for name, domains in DOMAINS.items()},
    "few-shot": Group(FEW_SHOT_SETS, False),
}


def register_benchmark(name: str, described: Mapping[str, Any]) -> None:
    """
    Give your own benchmark a name, for `load_benchmark`, and for `--train_dataset` and `--eval_datasets` in this process.

    Args:
        name (`str`): The name: letters, digits, "-", "_" and ".". Registered again, it stands for the new facts.
        described (`Mapping`): Its facts, by the schema of [`data.catalog.schema`].

    Raises:
        ValueError: If the name is one of the package's or has other characters, or the facts do not fit the schema.
        FileNotFoundError: If the path of a copy is neither a folder nor a Hub id.

    Example:

    ```python
    >>> from hf_robustft import load_benchmark, register_benchmark

    >>> register_benchmark(
    ...     "birds",
    ...     {
    ...         "classes": ["heron", ["great tit", "parus_major"]],
    ...         "templates": ["a photo of a {}, a bird."],
    ...         "sets": {
    ...             "train": {"role": "train", "copies": [{"path": "birds/photos"}]},
    ...             "drawings": {"role": "shift", "copies": [{"path": "birds/drawings"}], "licence": "CC-BY-4.0"},
    ...         },
    ...     },
    ... )
    >>> load_benchmark("birds", "drawings").class_names
    ('heron', 'great tit')
    ```
    """
    fits = isinstance(name, str) and re.fullmatch(NAME, name)
    if not fits or name in _PACKAGED or name.startswith("imagenet-seen-unseen"):
        why = "is one of the package" if fits else "has other characters than letters, digits, '-', '_' and '.'"
        raise ValueError(f"The name {name!r} {why}; give your benchmark another one.")
    check_facts(name, described)
    # Now, so that folders are found from where they were named.
    sets = described_sets(name, described, folders=True)
    REGISTRY[name] = lambda: dict(sets)


def registered_sets(name: str) -> dict[str, dict] | None:
    """The sets that go by `name`, or None. "imagenet-seen-unseen-seed7" draws the seen classes with seed 7."""
    seeded = re.fullmatch(r"imagenet-seen-unseen-seed(\d{1,10})", name)
    if seeded:
        return imagenet_split(int(seeded[1]), name)
    return REGISTRY[name]() if name in REGISTRY else None


def named_templates(name: str) -> tuple[str, ...] | None:
    """Templates that go by name: "imagenet-80" (CLIP's), "imagenet-croft-7", or "croft-" and a data set; else None."""
    if name in ("imagenet-80", "imagenet-croft-7"):
        return tuple(facts("imagenet")["templates" if name == "imagenet-80" else "templates_croft"])
    template = facts("datasets")["sets"].get(name.removeprefix("croft-"), {}).get("template_croft")
    return (template,) if template is not None and name.startswith("croft-") else None
