# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The benchmarks that go by name, as descriptions; `data.benchmarks.load_benchmark` makes `Benchmark`s of them.

What is written here was collected from public code and stored pages of the Hub, not from the Hub itself. Numbers of rows
with `rows_verified=False` come from papers or memory. The order of labels inside each copy was not verified for any of
them: it is compared with the registry's when a copy is opened, by its ClassLabel or its classnames.txt. Sources and
licences of class names and templates stand in the json files of `data/catalog/facts`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..columns import quoted
from .hub_copies import Repository, label_key, wds_repository
from .imagenet import imagenet_1k, imagenet_set, imagenet_shifts, imagenet_split, objectnet_set
from .registered import RegisteredData, facts

ASSETS = Path(__file__).resolve().parents[2] / "assets"
EVALUATION_ONLY_REPOSITORIES = ("clip-benchmark/wds_objectnet", "timm/objectnet", "timm/objectnet-720p-in1k")


def asset_path(name: str) -> Path:
    """The folder of a data set or checkpoint that is shipped with the package ("emoji_shift", "emoji_clip").

    Raises:
        ValueError: the package ships nothing of that name.
    """
    known = sorted(entry.name for entry in ASSETS.iterdir() if entry.is_dir()) if ASSETS.is_dir() else []
    if name not in known:
        raise ValueError(f"the package ships no {name!r}; it ships {quoted(known, 20) or 'nothing: reinstall it'}")
    return ASSETS / name


# Other data sets


def _classification_copies() -> dict[str, dict[str, tuple[Repository, ...]]]:
    def hub(
        path: str, train: int | None, test: int | None, test_split: str = "test", verified: bool = True, **columns
    ):
        copies = (("train", "train", train), ("test", test_split, test))
        return {
            key: Repository(
                path, split, rows=rows, rows_verified=verified and rows is not None, gated=False, **columns
            )
            for key, split, rows in copies
        }

    def wds(name: str, train: int | None = None, test: int | None = None, verified: bool = True):
        return {
            key: wds_repository(name, key, rows=rows, rows_verified=verified and rows is not None, gated=False)
            for key, rows in (("train", train), ("test", test))
        }

    def together(*copies: dict[str, Repository]) -> dict[str, tuple[Repository, ...]]:
        return {key: tuple(copy[key] for copy in copies) for key in ("train", "test")}

    cifar = {"image_columns": ("img", "image")}
    return {
        "cifar-10": together(
            hub("uoft-cs/cifar10", 50000, 10000, verified=False, **cifar), wds("cifar10", 50000, 10000, False)
        ),
        "cifar-100": together(
            hub("uoft-cs/cifar100", 50000, 10000, label_column="fine_label", **cifar),
            wds("vtab-cifar100", 50000, 10000, False),
        ),
        "dtd": together(hub("tanganke/dtd", 3760, 1880), wds("vtab-dtd")),
        "food101": together(hub("ethz/food101", 75750, 25250, "validation"), wds("food101")),
        "caltech101": together(wds("vtab-caltech101")),
        "oxford-pets": together(
            hub("timm/oxford-iiit-pet", 3680, 3669), hub("isaacchung/OxfordPets", 3680, 3669), wds("vtab-pets")
        ),
        "eurosat": together(hub("timm/eurosat-rgb", 16200, 5400), wds("vtab-eurosat")),
        "fgvc-aircraft": together(wds("fgvc_aircraft")),
        "flowers102": together(hub("nelorth/oxford-flowers", 7169, 1020), wds("vtab-flowers")),
        "ucf101": together(hub("flwrlabs/ucf101", 1786096, 697222)),
        "stanford-cars": together(hub("tanganke/stanford_cars", 8144, 8041), wds("cars")),
        "sun397": together(hub("dpdl-benchmark/sun397", 76127, 21750), hub("tanganke/sun397", None, None)),
    }


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
_SPLITS_DIFFER = "the splits of the copy, not CoOp's: few-shot numbers do not compare with CRoFT's tables"
_NOTES = {
    **dict.fromkeys(FEW_SHOT_SETS, _SPLITS_DIFFER),
    "ucf101": "all frames of each video, not CoOp's one frame per video: numbers do not compare with CRoFT's tables",
    "flowers102": f"{_SPLITS_DIFFER}; this copy trains on the larger part, the original on the smaller",
}


def _labels(name: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(names) for names in facts("datasets")["sets"][name]["classes"])


def _classification(name: str) -> dict[str, dict]:
    labels = _labels(name)
    # CoOp leaves out background images and the second set of faces.
    ignored = facts("datasets")["caltech101_ignored"] if name == "caltech101" else ()
    kept = [label for label, names in enumerate(labels) if not set(names) & set(ignored)]
    positions = tuple(kept.index(label) if label in kept else -1 for label in range(len(labels))) if ignored else None
    return {
        key: {
            "name": name if key == "test" else f"{name}-train",
            "role": "id" if key == "test" else "train",
            "class_names": tuple(labels[label][0] for label in kept),
            "templates": tuple(facts("datasets")["sets"][name]["templates"]),
            "registered": RegisteredData(repositories, labels, key, positions),
            "suite": name,
            "note": _NOTES.get(name),
        }
        for key, repositories in _classification_copies()[name].items()
    }


def _caltech101_open_set(partner: str) -> dict[str, dict]:
    """The classes of Caltech101 that CRoFT takes for unseen beside PACS or VLCS."""
    labels = _labels("caltech101")
    wanted = {label_key(name) for name in facts("datasets")["caltech101_open_set"][partner]}
    kept = [label for label, names in enumerate(labels) if label_key(names[1]) in wanted]
    described = _classification("caltech101")["test"]
    positions = tuple(kept.index(label) if label in kept else -1 for label in range(len(labels)))
    return {
        "test": {
            **described,
            "name": f"caltech101-open-{partner}",
            "role": "open_set",
            "class_names": tuple(labels[label][0] for label in kept),
            "registered": replace(described["registered"], positions=positions),
            "suite": f"caltech101-open-{partner}",
            "note": f"the {len(kept)} classes on CRoFT's list beside {partner.upper()}, test split alone",
        }
    }


DOMAINS = {
    "pacs": ("art_painting", "cartoon", "photo", "sketch"),
    "vlcs": ("caltech", "labelme", "pascal", "sun"),
}
_DOMAIN_COPIES = {
    "pacs": (
        Repository("flwrlabs/pacs", "train", domain_column="domain", rows=9991, rows_verified=True, gated=False),
    ),
    "vlcs": (),
}
# The authors' own splits were not published with their code; these are drawn by row, the same at every reading.
_SHARES = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "id": (0.9, 1.0)}


def _leave_one_out(name: str, target: str) -> dict[str, dict]:
    """Train on all domains but one. The sources are divided 80/10/10 by row; the domain left out is the shift."""
    described, sources = facts("datasets")["sets"][name], tuple(d for d in DOMAINS[name] if d != target)
    sets = {}
    for key, domains, share in (
        *((role, sources, share) for role, share in _SHARES.items()),
        (target, (target,), None),
    ):
        data = RegisteredData(_DOMAIN_COPIES[name], _labels(name), "train", all_domains=DOMAINS[name], domains=domains)
        drawn = "all images" if share is None else f"{round(100 * (share[1] - share[0]))} % of the images"
        sets[key] = {
            "name": f"{name}-{key}",
            "role": "shift" if key == target else key,
            "class_names": tuple(names[0] for names in _labels(name)),
            "templates": tuple(described["templates"]),
            "registered": data if share is None else replace(data, share=share),
            "suite": f"{name}-{target}",
            "source": "Li et al., 2017" if name == "pacs" else "Fang et al., 2013",
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
