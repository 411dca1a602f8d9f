# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which score tells unseen classes best: chosen on one half of the classes, reported on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.prompts import class_key
from ..evaluation.open_set import DEFAULT_SCORE
from ..evaluation.predictions import Predictions, SetPredictions
from .statistics import mean_and_sd


def unseen_halves(classes: Sequence) -> np.ndarray:
    """
    Split images of unseen classes by class, so that what is chosen by one half is reported on the other.

    Args:
        classes (`Sequence`): The class of each image.

    Returns:
        `np.ndarray`: Whether each image is for validation: those of the first, third, fifth... class in the order in which
        the classes appear. The others are for the test.
    """
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys(classes))}
    return np.array([ranks[name] % 2 == 0 for name in classes], dtype=bool)


def choose_score(runs: Sequence[Predictions], open_set: str, known: str, shifts: Sequence[str]) -> dict[str, Any] | None:
    """
    Choose the open-set score of a candidate, and measure it on images of other classes.

    Both halves are of all classes, known and unseen. An open set has no labels: it is split by its groups, which are of one class
    each, or image by image where it has none.

    Args:
        runs (`Sequence[Predictions]`): The candidate, by seed.
        open_set (`str`): The set of unseen classes.
        known (`str`): The set in distribution, by which the score is chosen.
        shifts (`Sequence[str]`): The shifted sets.

    Returns:
        `dict`: `chosen`, the score with the highest AUROC on the validation half, a mean over seeds; `validation` and `test`, how many
        images of unseen classes each half has; and `scores`, for the choice and the usual score, `{"validation", "auroc",
        "shifts_auroc"}`: the AUROC on the validation half, and on the test half in distribution and over the shifted sets as
        `{"mean", "sd"}`, the last `None` without any that has images of the test half. `None` where the scores of the images were
        not kept, or there is one group alone, or one known class.
    """
    sets = [run.sets for run in runs]
    if not all(name in of for of in sets for name in (open_set, known, *shifts)):
        return None
    names = [name for name in sets[0][open_set].scores if all(name in of[item].scores for of in sets for item in (open_set, known, *shifts))]
    unseen = sets[0][open_set]
    first = unseen_halves(unseen.row if unseen.group is None else unseen.group)
    classes = {class_key(name) for name in set(sets[0][known].label[unseen_halves(sets[0][known].label)].tolist())}
    # An empty half has no AUROC.
    shifts = [name for name in shifts if _of_half(sets[0][name], classes, False).any()]
    if not names or first.all() or not _of_half(sets[0][known], classes, False).any():
        return None

    def aurocs(score: str, of_known: str, validation: bool) -> list[float]:
        return [_auroc(of[of_known], of[open_set], score, _of_half(of[of_known], classes, validation), first == validation) for of in sets]

    on_validation = {score: float(np.mean(aurocs(score, known, True))) for score in names}
    chosen = max(names, key=on_validation.__getitem__)
    found = {}
    for score in dict.fromkeys((chosen, *(name for name in names if name == DEFAULT_SCORE))):
        under_shift = [aurocs(score, name, False) for name in shifts]
        found[score] = {
            "validation": on_validation[score],
            "auroc": _spread(aurocs(score, known, False)),
            "shifts_auroc": _spread(np.mean(under_shift, axis=0)) if under_shift else None,
        }
    return {"chosen": chosen, "validation": int(first.sum()), "test": int((~first).sum()), "scores": found}


def _of_half(item: SetPredictions, classes: set[str], validation: bool) -> np.ndarray:
    # By what decides whether two names are one class: a set may spell it otherwise than the known one.
    names, places = np.unique(item.label, return_inverse=True)
    return np.array([(class_key(str(name)) in classes) == validation for name in names], dtype=bool)[places]


def _auroc(known: SetPredictions, unseen: SetPredictions, score: str, of_known: np.ndarray, of_unseen: np.ndarray) -> float:
    # Here, since importing it takes a second or two.
    from sklearn.metrics import roc_auc_score

    values = [known.scores[score][of_known], unseen.scores[score][of_unseen]]
    return float(roc_auc_score(np.repeat([1, 0], [len(part) for part in values]), np.concatenate(values)))


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return dict(zip(("mean", "sd"), mean_and_sd(values), strict=True))
