# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""ImageNet, its shifts, and its seen and unseen classes, as descriptions for the registry."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from ..class_projection import ClassProjection
from ..shares import floor_share
from .registered import RegisteredData, data_key, said
from .schema import copies, facts

SEEN_SHARE = 0.4


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 classes of ImageNet as prompts say them: CLIP's names, the two pairs of equal names told apart."""
    data = facts("imagenet")
    return tuple(data["told_apart"].get(str(label), row[1]) for label, row in enumerate(data["classes"]))


@functools.cache
def _imagenet_labels() -> tuple[tuple[str, ...], ...]:
    """For each class its name in prompts, WordNet id, CLIP's own name, all its lemmas, and the first of them."""
    names = imagenet_classes()
    rows = facts("imagenet")["classes"]
    return tuple(
        (name, wnid, clip_name, lemmas, lemmas.split(",")[0])
        for name, (wnid, clip_name, lemmas) in zip(names, rows, strict=True)
    )


def imagenet_seen_unseen(seed: int, share: float = SEEN_SHARE) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The classes of ImageNet that CRoFT's set-up I trains on, and those it keeps unseen.

    As in its code, names are drawn from CLIP's list by NumPy's legacy generator, whose numbers never change. A class is
    seen if its name was drawn, so the two classes called "missile", or "sunglasses", fall on one side: 400 names may be
    401 or 402 classes.

    Args:
        seed (`int`): Seed of the draw; the paper uses 1, 2 and 3.
        share (`float`, *optional*, defaults to `SEEN_SHARE`): Share of the 1000 names that is seen.

    Returns:
        Seen and unseen class indices, each in ascending order.

    Raises:
        ValueError: a seed that NumPy does not take, or a share that leaves one side empty.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed!r}; give a whole number from 0 to {2**32 - 1}.")
    names = [row[1] for row in facts("imagenet")["classes"]]
    count = floor_share(share, len(names))
    if not 0 < count < len(names):
        raise ValueError(f"share is {share}; it must leave seen and unseen classes, so lie between 0 and 1.")
    drawn = set(np.random.RandomState(seed).choice(names, count, replace=False).tolist())
    seen = tuple(index for index, name in enumerate(names) if name in drawn)
    return seen, tuple(index for index, name in enumerate(names) if name not in drawn)


def _imagenet_data(name: str) -> tuple[RegisteredData, tuple[int, ...]]:
    """The data of one set and, for each of its labels, the index of the class in ImageNet-1k."""
    described = facts("imagenet")["sets"][name]
    labels = _imagenet_labels()
    indices = tuple(facts("imagenet")[name.replace("-", "_")]) if name in ("imagenet-r", "imagenet-a") else None
    if indices is not None:
        labels = tuple(labels[index] for index in indices)
    elif name == "imagenet-v2":
        # Its folders are numbers; without them as names they would be sorted as text: 0, 1, 10, 100, ...
        labels = tuple((*names, str(index)) for index, names in enumerate(labels))
    return RegisteredData(copies(described), labels, data_key(described["role"])), indices or tuple(range(1000))


def imagenet_set(name: str, suite: str, role: str) -> dict:
    """One set by its `name`, "train", "imagenet-1k" (the validation images) or a shift, with a `role` in a `suite`."""
    data, indices = _imagenet_data(name)
    names = imagenet_classes()
    subset = len(indices) < len(names)
    return {
        "name": "imagenet-1k-train" if name == "train" else name,
        "role": role,
        "class_names": tuple(names[index] for index in indices),
        "templates": tuple(facts("imagenet")["templates"]),
        "registered": data,
        "projection": ClassProjection.of_subset(names, indices) if subset else None,
        "suite": suite,
        **said(facts("imagenet")["sets"][name]),
    }


def objectnet_set(suite: str = "objectnet") -> dict:
    """
    ObjectNet's 113 classes that ImageNet knows, each with the maximum over the ImageNet classes it stands for, in a `suite`.
    """
    data = facts("objectnet")
    described = data["sets"]["objectnet"]
    labels = tuple((prompt, folder, label) for folder, label, prompt, _ in data["classes"])
    return {
        "name": "objectnet",
        "role": "shift",
        "class_names": tuple(row[2] for row in data["classes"]),
        "templates": tuple(facts("imagenet")["templates"]),
        "registered": RegisteredData(copies(described), labels),
        "projection": ClassProjection(imagenet_classes(), tuple(tuple(row[3]) for row in data["classes"])),
        "evaluation_only": True,
        "border": 2,
        "suite": suite,
        **said(described),
    }


def imagenet_1k() -> dict[str, dict]:
    """The training images and the test images."""
    return {
        "train": imagenet_set("train", "imagenet-1k", "train"),
        "test": imagenet_set("imagenet-1k", "imagenet-1k", "id"),
    }


def imagenet_shifts() -> dict[str, dict]:
    """ImageNet and the five shifts that CaRot reports."""
    suite = "imagenet-shifts"
    shifts = ("imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-sketch")
    return {
        "train": imagenet_set("train", suite, "train"),
        "imagenet-1k": imagenet_set("imagenet-1k", suite, "id"),
        **{name: imagenet_set(name, suite, "shift") for name in shifts},
        "objectnet": objectnet_set(suite),
    }


def imagenet_split(seed: int, suite: str) -> dict[str, dict]:
    """
    CRoFT's set-up I by its `seed`, as the `suite` of that name: train and test on the seen classes, shifts of the seen
    classes, and the unseen as open set.
    """
    seen, unseen = imagenet_seen_unseen(seed)
    names = imagenet_classes()
    sets = {}
    for key, source, role, classes in (
        ("train", "train", "train", seen),
        ("imagenet-seen", "imagenet-1k", "id", seen),
        ("imagenet-v2-seen", "imagenet-v2", "shift", seen),
        ("imagenet-sketch-seen", "imagenet-sketch", "shift", seen),
        ("imagenet-a-seen", "imagenet-a", "shift", seen),
        ("imagenet-r-seen", "imagenet-r", "shift", seen),
        ("imagenet-unseen", "imagenet-1k", "open_set", unseen),
    ):
        data, indices = _imagenet_data(source)
        position = {index: place for place, index in enumerate(classes)}
        sets[key] = {
            **imagenet_set(source, suite, role),
            "name": key,
            "class_names": tuple(names[index] for index in classes),
            "templates": tuple(facts("imagenet")["templates_croft"]),
            "registered": replace(data, positions=tuple(position.get(index, -1) for index in indices)),
            "projection": None,
            "note": f"{len(classes)} {'unseen' if role == 'open_set' else 'seen'} classes of ImageNet, drawn with seed {seed}",
        }
    return sets
