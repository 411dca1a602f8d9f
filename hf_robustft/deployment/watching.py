# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Judge a stream of images by what was measured on a reference: quiet, or an alarm, with its kind and the numbers that it rests on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .martingales import (
    block_gaps,
    conformal_p_values,
    distance_to_bank,
    first_alarm,
    likely_start,
    log_martingale,
    uniform_numbers,
)

#: What is tested, in the words of the page.
STATISTICS = {
    "score": "the detector's score falls",
    "confidence": "the confidence falls",
    "distance": "embeddings leave those of the reference",
    "repeats": "embeddings repeat",
}
#: Raised by what is not a statistic, and has no level.
UNREADABLE = "unreadable"
QUIET, FEW, STYLE, UNKNOWN, BROKEN, PASSED, UNCLEAR = (
    "quiet", "not enough images", "style shift", "unknown classes", "broken camera", "a shift that has passed", "a shift of unclear kind",
)  # fmt: skip
#: Images of a block, of which the two most alike count.
BLOCK = 4
#: A half of the reference is the bank of the distances; of more images than these the rest is not needed.
_BANK, NEIGHBOURS = 5000, 10
#: Fewer images of a reference say nothing, and fewer of a stream do not make it quiet.
LEAST_REFERENCE, ENOUGH = 20, 30
#: The latest embeddings, which are kept to tell the kind of a change.
RECENT = 256
#: A style moves images of different classes together; unknown classes lower the scores and move each its own way. In between lies this
#: ratio of the two, which was chosen on Emoji Shift with emoji_clip_carot (other artists: about 1.2, unseen classes: 0.1 to 0.6). How often
#: it is right, there and with another model, `examples/watch_delays.py` measures.
_RATIO = 0.75
#: Share of blocks that repeat an image, beyond the reference's, from which it is the camera.
_MOST = 0.5
#: Of both, what is not there.
_NOTHING = 0.05


@dataclass(frozen=True)
class Reference:
    """
    What the stream is compared with.

    Attributes:
        score (`torch.Tensor` of shape `(n,)`), probability (`torch.Tensor` of shape `(n,)`): Of each image, float64.
        bank (`torch.Tensor` of shape `(m, embed_dim)`): Embeddings of a part, to which distances are measured.
        distance (`torch.Tensor` of shape `(n - n // 2,)`): Of the images of the other half, float64.
        gaps (`torch.Tensor` of shape `((n - n // 2) // BLOCK,)`): Of blocks of the other half, at most `clip`, float64.
        mean (`torch.Tensor` of shape `(embed_dim,)`): Of all embeddings, float64.
        clip (`float`): Two images that are farther apart do not repeat each other; from the bank.
        spread (`float`): The mean squared distance of an embedding to `mean`.
        classes (`tuple[str, ...]`): Those that at least two images are taken for.
        centres (`torch.Tensor` of shape `(classes, embed_dim)`): The mean embeddings of these, float64.
        class_spread (`float`): The mean squared distance of an embedding to the centre of its class.
        accepted (`float`, *optional*): The share that the detector accepts; `None` without one.
    """

    score: Tensor
    probability: Tensor
    bank: Tensor
    distance: Tensor
    gaps: Tensor
    mean: Tensor
    clip: float
    spread: float
    classes: tuple[str, ...]
    centres: Tensor
    class_spread: float
    accepted: float | None

    @classmethod
    def of(
        cls, names: list[str], labels: list[str], embeds: Tensor, score: Tensor, probability: Tensor, known: list[bool] | None, seed: int
    ) -> Reference:
        """
        From what was measured on the images of the reference.

        Args:
            names (`list[str]`): Of the images; with the `seed` they decide on halves and blocks.
            labels (`list[str]`): The most probable class of each.
            embeds (`torch.Tensor` of shape `(n, embed_dim)`): Of unit norm.
            score (`torch.Tensor` of shape `(n,)`), probability (`torch.Tensor` of shape `(n,)`): Of each image.
            known (`list[bool]`, *optional*): Whether the detector accepts each.
            seed (`int`): Of the chance that is involved.

        Raises:
            ValueError: If there are too few.
        """
        if len(names) < LEAST_REFERENCE:
            raise ValueError(f"`--reference` has {len(names)} images that can be read; give at least {LEAST_REFERENCE}, better a few hundred.")
        order = uniform_numbers(names, f"{seed}/reference").argsort(stable=True)
        embeds = embeds.cpu()[order]
        half = len(names) // 2
        bank = embeds[: min(half, _BANK)].contiguous()
        nearest = torch.cdist(bank.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(math.inf).amin(1)
        clip = nearest.median().item() / 4
        mean = embeds.double().mean(0)
        counts = Counter(labels)
        classes = tuple(sorted(name for name, count in counts.items() if count > 1))
        of = {name: [] for name in classes}
        for row, index in enumerate(order.tolist()):
            if labels[index] in of:
                of[labels[index]].append(row)
        centres = torch.stack([embeds[rows].double().mean(0) for rows in of.values()]) if of else mean.new_zeros(0, len(mean))
        within = [(embeds[rows].double() - centre).square().sum(1) for rows, centre in zip(of.values(), centres, strict=True)]
        return cls(
            score=score.cpu().double(),
            probability=probability.cpu().double(),
            bank=bank,
            distance=distance_to_bank(embeds[half:], bank, NEIGHBOURS),
            # Of the bank, which has decided on `clip`, the gaps would not be exchangeable with others.
            gaps=block_gaps(embeds[half:], BLOCK).clamp(max=clip),
            mean=mean,
            clip=clip,
            spread=(embeds.double() - mean).square().sum(1).mean().item(),
            classes=classes,
            centres=centres,
            class_spread=torch.cat(within).mean().item() if within else 0.0,
            accepted=None if known is None else sum(known) / len(known),
        )


@dataclass
class Stream:
    """
    What was measured on the images that came in, in their order.

    Attributes:
        names, labels (`list[str]`): Of each image; the label is the most probable class.
        known (`list[bool | None]`): Whether the detector accepts it.
        score, probability, distance (`list[float]`): Of each image.
        gaps (`list[float]`): Of each whole block of images, at most the reference's `clip`.
        recent (`torch.Tensor` of shape `(min(n, RECENT), embed_dim)`): The latest embeddings.
    """

    recent: Tensor
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    known: list[bool | None] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    distance: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def add(self, reference: Reference, names: list[str], labels: list[str], known: list[bool | None], embeds: Tensor, score: Tensor,
            probability: Tensor) -> None:  # fmt: skip
        """
        Take in what was measured on further images, as the attributes have it; `embeds` are all of theirs.

        Raises:
            ValueError: If they have another width than the reference's.
        """
        if embeds.shape[1] != len(reference.mean):
            raise ValueError(f"Embeddings of {embeds.shape[1]} numbers cannot be compared with a reference of {len(reference.mean)}.")
        embeds, waiting = embeds.cpu().float(), len(self.names) % BLOCK
        blocks = torch.cat([self.recent[len(self.recent) - waiting :], embeds])
        self.gaps += block_gaps(blocks, BLOCK).clamp(max=reference.clip).tolist()
        self.recent = torch.cat([self.recent, embeds])[-RECENT:].contiguous()
        self.names += names
        self.labels += labels
        self.known += known
        self.score += score.double().tolist()
        self.probability += probability.double().tolist()
        self.distance += distance_to_bank(embeds, reference.bank, NEIGHBOURS).tolist()


@dataclass(frozen=True)
class Judgement:
    """
    What is said of a stream.

    Attributes:
        report (`dict[str, Any]`): As JSON.
        money (`dict[str, torch.Tensor]`): By statistic the logarithm of [`log_martingale`] after each p-value.
        foreign (`list[int]`): The images, the most foreign first.
    """

    report: dict[str, Any]
    money: dict[str, Tensor]
    foreign: list[int]


def judge(reference: Reference, stream: Stream, level: float, seed: int, unreadable: Sequence[int] = ()) -> Judgement:
    """
    Test whether a stream is exchangeable with its reference.

    Args:
        reference ([`Reference`]), stream ([`Stream`]): What was measured.
        level (`float`): The probability of a false alarm, ever.
        seed (`int`): Of the chance by which equal values are told apart.
        unreadable (`Sequence[int]`, *optional*): Of each file that cannot be read, after how many images it came.

    Returns:
        [`Judgement`]: The verdict, and what it rests on.
    """
    score, distance = (torch.tensor(values, dtype=torch.float64) for values in (stream.score, stream.distance))
    probability, gaps = (torch.tensor(values, dtype=torch.float64) for values in (stream.probability, stream.gaps))
    pairs = {
        "score": (reference.score, score), "confidence": (reference.probability, probability),
        "distance": (-reference.distance, -distance), "repeats": (reference.gaps, gaps),
    }  # fmt: skip
    found, money, starts = {}, {}, []
    for name, (before, now) in pairs.items():
        each = BLOCK if name == "repeats" else 1
        # A block has the chance of its last image.
        ties = uniform_numbers(stream.names[each - 1 :: each], f"{seed}/{name}")
        p_values = conformal_p_values(before, now, ties)
        money[name] = log_martingale(p_values)
        alarm = first_alarm(money[name], level, len(STATISTICS))
        if alarm is not None:
            starts.append((alarm * each, likely_start(p_values[:alarm]) * each))
        found[name] = {
            "says": STATISTICS[name],
            "alarm_at_image": None if alarm is None else alarm * each,
            "log10_evidence": money[name][-1].item() / math.log(10) if len(now) else 0.0,
            "log10_highest": max(money[name].max().item() / math.log(10), 0.0) if len(now) else 0.0,
            "more_foreign_than_reference": _more_foreign(before, now),
        }
    alarms = [name for name, facts in found.items() if facts["alarm_at_image"] is not None]
    if _cannot_be_read(unreadable, len(stream.names)):
        alarms.append(UNREADABLE)
    since = min(starts)[1] if starts else None
    change = _change(reference, stream, score, since)
    verdict = _verdict(alarms, change, len(stream.names))
    known = None if None in stream.known or not stream.known else torch.tensor(stream.known)
    recent = slice(-RECENT, None)
    report = {
        "verdict": verdict,
        "alarm": bool(alarms),
        "raised_by": alarms,
        "level": level,
        "log10_evidence_of_an_alarm": math.log10(len(STATISTICS) / level),
        "alarm_at_image": min(starts)[0] if starts else None,
        "change_began_after_image": since,
        "images": len(stream.names),
        "reference_images": len(reference.score),
        "unreadable": len(unreadable),
        "statistics": found,
        "change": change,
        "accepted": {"reference": reference.accepted, "stream": _mean(known), "latest": None if known is None else _mean(known[recent])},
        "confidence": {"reference": _mean(reference.probability), "stream": _mean(probability), "latest": _mean(probability[recent])},
        "estimated_accuracy": {
            "all": _estimate(probability), "latest": _estimate(probability[recent]),
            "accepted": None if known is None else _estimate(probability[known]),
        },
    }  # fmt: skip
    return Judgement(report, money, _foreign(reference, score, distance))


def why(report: dict[str, Any]) -> str:
    """On what the verdict of a `report` rests, in a sentence."""
    if report["verdict"] == FEW:
        return f"There are {report['images']:,} images and no alarm; {ENOUGH} are needed to call a stream quiet."
    if not report["alarm"]:
        return f"No statistic has come to evidence of 1 to {10 ** report['log10_evidence_of_an_alarm']:,.0f}, the alarm, in {report['images']:,} images."
    tests = [name for name in report["raised_by"] if name in STATISTICS]
    raised = [f"{STATISTICS[name]} (image {report['statistics'][name]['alarm_at_image']:,})" for name in tests]
    if UNREADABLE in report["raised_by"]:
        raised.append(f"of the latest files at least half cannot be read ({report['unreadable']:,} of all)")
    text, change = f"{', '.join(raised)}.", report["change"]
    text = text[:1].upper() + text[1:]
    if report["verdict"] == BROKEN or change is None:
        return text
    together = "no two are of classes of the reference"
    if change["moved_together"] is not None:
        together = f"those of different classes moved together by {change['moved_together']:.2f} (1 is the spread of a class)"
    return (
        f"{text} Of the latest {change['images']:,} images since then, {together}, and scores fell by {change['fallen']:.2f} (0.5: below all "
        "of the reference)."
    )


def moved_together(reference: Reference, embeds: Tensor, labels: Sequence[str]) -> float | None:
    """
    How far images that are taken for different classes have moved in the same direction, which a style moves them.

    It is the square root of the mean product of two such movements, each from the centre of its class in the reference.

    Args:
        reference ([`Reference`]): Has the centres.
        embeds (`torch.Tensor` of shape `(n, embed_dim)`): Of unit norm.
        labels (`Sequence[str]`): The most probable class of each.

    Returns:
        `float`: 1 is the spread of a class of the reference; `None` if no two images are of different classes that have centres.
    """
    rows = {name: row for row, name in enumerate(reference.classes)}
    kept = [index for index, label in enumerate(labels) if label in rows]
    number = torch.tensor([rows[labels[index]] for index in kept], dtype=torch.long)
    away = embeds[kept].double() - reference.centres[number]
    sums = reference.centres.new_zeros(reference.centres.shape).index_add_(0, number, away)
    pairs = len(kept) ** 2 - number.bincount(minlength=1).square().sum().item()
    if not pairs:
        return None
    product = (sums.sum(0).square().sum() - sums.square().sum()).item() / pairs
    return math.sqrt(max(product, 0.0) / max(reference.class_spread, 1e-12))


def _change(reference: Reference, stream: Stream, score: Tensor, since: int | None) -> dict[str, Any] | None:
    """How far the latest images since a change have moved, and how far their scores have fallen."""
    if since is None:
        return None
    count = min(len(stream.names) - since, len(stream.recent))
    start, recent = len(stream.names) - count, stream.recent[-count:]
    mean = recent.double().mean(0)
    # Chance alone moves the means of samples.
    squared = (mean - reference.mean).square().sum().item() / max(reference.spread, 1e-12) - 1 / count - 1 / len(reference.score)
    blocks, usual = torch.tensor(stream.gaps[start // BLOCK :], dtype=torch.float64), (reference.gaps < reference.clip).double().mean().item()
    repeating = (blocks < reference.clip).double().mean().item() - usual if len(blocks) else 0.0
    return {
        "images": count,
        "repeating": repeating,
        "moved": math.sqrt(max(squared, 0.0)),
        "fallen": _more_foreign(reference.score, score[start:]) - 0.5,
        "moved_together": moved_together(reference, recent, stream.labels[start:]),
    }


def _cannot_be_read(unreadable: Sequence[int], images: int) -> bool:
    """Whether of the latest files at least half, and `ENOUGH`, cannot be read. All of the reference can, so chance has no part in it."""
    latest = sorted(unreadable)[-ENOUGH:]
    return len(latest) == ENOUGH and images - latest[0] <= ENOUGH


def _verdict(alarms: list[str], change: dict[str, Any] | None, images: int) -> str:
    if UNREADABLE in alarms:
        return BROKEN
    if change is None:
        return QUIET if images >= ENOUGH else FEW
    if "repeats" in alarms or change["repeating"] > _MOST:
        # One image again and again moves the other statistics too, and may do so before the test of it is certain.
        return BROKEN
    if change["images"] >= RECENT and max(change["moved"], change["fallen"]) < _NOTHING:
        return PASSED
    if change["moved_together"] is None:
        return UNCLEAR
    return STYLE if change["moved_together"] >= _RATIO * max(change["fallen"], _NOTHING) else UNKNOWN


def _more_foreign(reference: Tensor, values: Tensor) -> float | None:
    """The probability that one of the `values` is less than one of the reference, ties halved."""
    if not len(values):
        return None
    ordered = reference.sort().values
    below, upto = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return 1 - ((below + upto).double().mean() / 2 / len(ordered)).item()


def _foreign(reference: Reference, score: Tensor, distance: Tensor) -> list[int]:
    by_score = torch.searchsorted(reference.score.sort().values, score, right=True) + 1.0
    far = torch.searchsorted((-reference.distance).sort().values, -distance, right=True) + 1.0
    shares = by_score / (len(reference.score) + 1) * far / (len(reference.distance) + 1)
    return sorted(range(len(score)), key=lambda i: (shares[i].item(), score[i].item()))


def _mean(values: Tensor | None) -> float | None:
    return values.double().mean().item() if values is not None and len(values) else None


def _estimate(probability: Tensor) -> dict[str, Any] | None:
    """Mean confidence, which is the accuracy where confidence is calibrated, and its standard error."""
    if not len(probability):
        return None
    error = probability.std().item() / math.sqrt(len(probability)) if len(probability) > 1 else None
    return {"images": len(probability), "accuracy": probability.mean().item(), "standard_error": error}
