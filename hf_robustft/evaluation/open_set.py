# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Open-set detection: scores that tell known classes from unseen ones, and the part of a report that says how well they do it.

`SCORES` is the table of scores and the one place to add another: the evaluation, its tables, the pictures, the card, the
detector and the choices of `--detector` all read it. Every score is higher for images that look in-distribution (ID), and
ID is the positive class of every metric. All numbers are computed in float64, whatever the precision of the logits.
Scores are of the model's own logits, at its learned logit scale; only `mcm` is defined on cosines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .detection import as_floats, detection_metrics, threshold_at_recall

SHIFT_METRICS = ("auroc", "fpr95", "accepted")
CORRECT_METRICS = ("auroc", "fpr95_percentile")
# Unit vectors have cosines within [-1, 1] up to the rounding of their precision.
_COSINE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class OpenSetScore:
    """
    An open-set score, as a row of the table `SCORES`.

    Attributes:
        function (`Callable`): Maps float64 inputs of shape `(n, ...)`, and the options in `takes` by keyword, to one
            number per image.
        needs (`str`): The inputs: `"logits"`, `"cosines"` (which only a zero-shot head has) or `"features"`.
        label (`str`): The score under the axis of a histogram.
        words (`str`): What the score is, for the sentence "... is ..." of a model card.
        takes (`tuple[str, ...]`, *optional*, defaults to `("temperature",)`): Options of `score` that have an effect:
            `"temperature"`, `"bank"`, `"k"`.
        higher_is_known (`bool`, *optional*, defaults to `True`): Whether `function` is higher for known classes. If not,
            `score` returns its negative.
        lowest, highest (`Callable`, *optional*): Map a score and an error to the least and the most that the score may become where
            each input is off by that error. A detector can be made only of scores that have them.
    """

    function: Callable[..., Tensor]
    needs: str
    label: str
    words: str
    takes: tuple[str, ...] = ("temperature",)
    higher_is_known: bool = True
    lowest: Callable[[float, float], float] | None = None
    highest: Callable[[float, float], float] | None = None


def _largest_probability(values: Tensor, temperature: float) -> Tensor:
    return (values / temperature).softmax(dim=1).amax(dim=1)


def lowest_probability(value: float, error: float) -> float:
    """Return the least that a probability, the `value` of a softmax, may become where each logit is off by `error`."""
    # Log-odds of a probability are its logit minus the log-sum-exp of the others, and both may move.
    # Beyond exp(700), which no float64 holds much more than, the probability is 0 but for one of exactly 1.
    return value / (value + (1.0 - value) * math.exp(min(2 * error, 700.0))) - math.ulp(1.0)


def _highest_probability(value: float, error: float) -> float:
    return 1.0 - lowest_probability(1.0 - value, error)


def _energy(logits: Tensor, temperature: float) -> Tensor:
    return temperature * torch.logsumexp(logits / temperature, dim=1)


def _lowest_logit(value: float, error: float) -> float:
    # Neither the largest logit nor the log-sum-exp moves further than the logit that moves most.
    return value - error


def _highest_logit(value: float, error: float) -> float:
    return value + error


def _knn_score(features: Tensor, bank: Tensor | np.ndarray | None, k: int) -> Tensor:
    if bank is None:
        raise ValueError("The score 'knn' measures distances to a bank of ID features; pass bank=... as well.")
    bank = as_floats(bank, "features of the bank", "(bank size, embed_dim)")
    if bank.shape[1] != features.shape[1]:
        raise ValueError(
            f"The features have {features.shape[1]} dimensions and those of the bank {bank.shape[1]}; "
            "make both with one model."
        )
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= len(bank):
        raise ValueError(
            f"k is {k!r}, but a bank of {len(bank)} features has neighbours 1 to {len(bank)}; "
            "give one of these numbers, or a larger bank."
        )
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(_unit_rows(bank, "features of the bank"))
    distances, _ = neighbours.kneighbors(_unit_rows(features, "features"))
    return -torch.from_numpy(distances[:, k - 1]).square()


def _unit_rows(features: Tensor, what: str) -> np.ndarray:
    norms = features.norm(dim=1, keepdim=True)
    if (norms == 0).any():
        raise ValueError(f"Of the {what} row {int(norms.argmin())} is zero and has no direction; leave it out.")
    return (features / norms).numpy()


#: The scores by name, in the order of every table.
SCORES = {
    "msp": OpenSetScore(
        _largest_probability,
        needs="logits",
        label="largest softmax probability (msp)",
        words="the confidence, that is the largest probability",
        lowest=lowest_probability,
        highest=_highest_probability,
    ),
    "mcm": OpenSetScore(
        _largest_probability,
        needs="cosines",
        label="largest softmax probability of the cosines (mcm)",
        words="the largest probability without the logit scale (softmax of the cosines)",
        lowest=lowest_probability,
        highest=_highest_probability,
    ),
    "max_logit": OpenSetScore(
        lambda logits: logits.amax(dim=1),
        needs="logits",
        label="largest logit (max_logit)",
        words="the largest logit",
        takes=(),
        lowest=_lowest_logit,
        highest=_highest_logit,
    ),
    "energy": OpenSetScore(
        _energy,
        needs="logits",
        label="energy score, log-sum-exp of the logits",
        words="the log of the summed exponentials of the logits, at the model's logit scale",
        lowest=_lowest_logit,
        highest=_highest_logit,
    ),
    "knn": OpenSetScore(
        _knn_score,
        needs="features",
        label="minus the squared distance to the k-th nearest known image (knn)",
        words="minus the squared distance to the k-th nearest of known images' embeddings",
        takes=("bank", "k"),
    ),
}
#: The score that texts and pictures show, and that a detector is made of, unless another one is chosen.
DEFAULT_SCORE = "energy"


def open_set_score(name: str) -> OpenSetScore:
    """
    Return a row of `SCORES`.

    Args:
        name (`str`): A key of `SCORES`.

    Returns:
        [`OpenSetScore`]: The score.

    Raises:
        ValueError: If there is no such score.
    """
    if name not in SCORES:
        raise ValueError(f"There is no open-set score {name!r}; choose one of {', '.join(SCORES)}.")
    return SCORES[name]


def available_scores(*, cosines: bool, bank: bool) -> tuple[str, ...]:
    """
    Return the names of the scores that can be computed.

    Args:
        cosines (`bool`): Whether the head is a zero-shot head, whose logits are cosines times the logit scale.
        bank (`bool`): Whether there is a bank of features of known images.

    Returns:
        `tuple[str, ...]`: Keys of `SCORES`, in its order.
    """
    return tuple(
        name
        for name, entry in SCORES.items()
        if (cosines or entry.needs != "cosines") and (bank or "bank" not in entry.takes)
    )


def score(
    name: str,
    *,
    logits: Tensor | np.ndarray | None = None,
    cosines: Tensor | np.ndarray | None = None,
    features: Tensor | np.ndarray | None = None,
    bank: Tensor | np.ndarray | None = None,
    k: int = 10,
    temperature: float = 1.0,
) -> Tensor:
    """
    Score images: one number per image, higher for images of known classes.

    - `"msp"`: the largest softmax probability of `logits` (Hendrycks & Gimpel 2017, arXiv:1610.02136).
    - `"mcm"`: the largest softmax probability of `cosines`, without the logit scale (maximum concept matching, Ming et
      al., "Delving into Out-of-Distribution Detection with Vision-Language Representations", NeurIPS 2022), by default
      at temperature 1, a value that was not checked against the paper.
    - `"max_logit"`: the largest of `logits` (Hendrycks et al. 2022, arXiv:1911.11132).
    - `"energy"`: T logsumexp(logits / T), the negative free energy (Liu et al. 2020, arXiv:2010.03759), and at T = 1
      the score of CRoFT. At CLIP's logit scale of 100 it is close to the largest logit.
    - `"knn"`: minus the squared Euclidean distance from the unit-norm feature to the k-th nearest of the unit-norm
      features in `bank` (deep nearest neighbours, Sun et al. 2022, arXiv:2204.06507; squared as in CRoFT's code).

    Arguments that a score does not use may be given all the same, so that a loop over `SCORES` can pass them all; only
    `temperature` may not, where it would have no effect.

    Args:
        name (`str`): One of `SCORES`.
        logits (`torch.Tensor` or array of shape `(n, classes)`): At the model's learned scale.
        cosines (`torch.Tensor` or array of shape `(n, classes)`): Of unit image and class embeddings: for a zero-shot
            head logits / logit scale.
        features (`torch.Tensor` or array of shape `(n, embed_dim)`): Image features, of any norm but 0.
        bank (`torch.Tensor` or array of shape `(bank size, embed_dim)`): Features of known ID images.
        k (`int`, *optional*, defaults to 10): Which neighbour, counted from 1.
        temperature (`float`, *optional*, defaults to 1.0): T of `msp`, `mcm` and `energy`: logits, or cosines, are
            divided by it.

    Returns:
        `torch.Tensor` of shape `(n,)`: float64, on the CPU.

    Raises:
        ValueError: If the name is unknown, an input is missing, empty, not finite or of the wrong shape, cosines lie
            outside [-1, 1], a feature is zero, the bank holds fewer than `k` features, or the temperature is not
            positive or has no effect.
    """
    entry = open_set_score(name)
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}, but logits can be divided by positive numbers only; use 1.0.")
    if temperature != 1 and "temperature" not in entry.takes:
        raise ValueError(f"temperature is {temperature}, but the order of {name!r} has none; leave it at 1.0.")
    given = {"logits": logits, "cosines": cosines, "features": features}[entry.needs]
    if given is None:
        raise ValueError(f"The score {name!r} is one of {entry.needs}, which were not given; pass {entry.needs}=...")
    values = as_floats(given, entry.needs, "(images, embed_dim)" if entry.needs == "features" else "(images, classes)")
    if entry.needs == "cosines" and values.abs().max() > 1 + _COSINE_TOLERANCE:
        raise ValueError(
            f"The cosines reach {values.abs().max():.4g}, but those of unit vectors lie within [-1, 1]; divide the "
            "logits of a zero-shot head by the logit scale (a trained head has no cosines)."
        )
    options = {"temperature": temperature, "bank": bank, "k": k}
    found = entry.function(values, **{option: options[option] for option in entry.takes})
    return found if entry.higher_is_known else -found


Scores = Mapping[str, Mapping[str, Tensor]]


def open_set_results(
    scores: Scores, *, known: str, correct: Tensor, shifts: Sequence[str], open_sets: Sequence[str]
) -> dict[str, dict]:
    """
    Compute the part `open_set` of an [`EvaluationReport`].

    Args:
        scores (`Mapping[str, Mapping[str, torch.Tensor]]`): By data set and score one number per image, higher for known
            classes, all from one head.
        known (`str`): The in-distribution set.
        correct (`torch.Tensor` of shape `(n,)`): 0/1 for each of its images, whether the prediction is right.
        shifts (`Sequence[str]`): The shifted sets, whose classes are known too.
        open_sets (`Sequence[str]`): The sets of unseen classes.

    Returns:
        `dict`: By open set `{"n", "id", "scores"}`. `scores` holds of each score the six numbers of
        `detection_metrics` over all ID images; `shifts`, the same question for each shifted set in place of the ID set
        (`auroc`, `fpr95`), and `accepted`, the share of its images that reach the threshold which accepts at least 95 %
        of the ID images; and `correct_only`, `auroc` and `fpr95_percentile` over the correctly classified ID images
        alone, as CRoFT's code has them (`None` if no image is classified correctly).

    Raises:
        ValueError: If a set is empty or a score is not finite.
    """
    chosen = correct.bool()
    results = {}
    for name in open_sets:
        rows = {}
        for score, unseen in scores[name].items():
            known_scores = scores[known][score]
            threshold = threshold_at_recall(known_scores)
            row: dict = detection_metrics(known_scores, unseen)
            row["shifts"] = {shift: _shift_metrics(scores[shift][score], unseen, threshold) for shift in shifts}
            row["correct_only"] = None
            if chosen.any():
                found = detection_metrics(known_scores[chosen], unseen)
                row["correct_only"] = {key: found[key] for key in CORRECT_METRICS}
            rows[score] = row
        results[name] = {"n": len(next(iter(scores[name].values()))), "id": known, "scores": rows}
    return results


def _shift_metrics(shifted: Tensor, unseen: Tensor, threshold: float) -> dict[str, float]:
    found = detection_metrics(shifted, unseen)
    accepted = (shifted >= threshold).double().mean().item()
    return {"auroc": found["auroc"], "fpr95": found["fpr95"], "accepted": accepted}


def shift_mean(row: Mapping) -> dict[str, float]:
    """Average the numbers of a score over the shifts in its `row` of the results; empty without shifts."""
    values = list(row["shifts"].values())
    return {key: sum(value[key] for value in values) / len(values) for key in SHIFT_METRICS} if values else {}


def open_set_metrics(results: Mapping[str, Mapping] | None) -> dict[str, float]:
    """Return `results` by `open_set/<open set>/<score>/auroc` and `/fpr95`, and `open_set/<open set>/<score>/<shift>/auroc`."""
    flat = {}
    for name, result in (results or {}).items():
        for score, row in result["scores"].items():
            prefix = f"open_set/{name}/{score}"
            flat.update({f"{prefix}/{key}": row[key] for key in ("auroc", "fpr95")})
            flat.update({f"{prefix}/{shift}/auroc": value["auroc"] for shift, value in row["shifts"].items()})
    return flat
