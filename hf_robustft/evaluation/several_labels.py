# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation keeps of images with lists of labels, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from ..data.benchmarks import Benchmark
from ..data.column_checks import check_groups
from ..data.prompts import class_key
from ..modeling.dual_encoder import DualEncoder
from ..modeling.features import logit_bias
from ..modeling.heads import own_head
from ..modeling.metadata import ZERO_SHOT_HEAD
from .collect import classify, gather_rows
from .image_numbers import merge_covariance
from .multi_label import DEFAULT_THRESHOLD, fit_thresholds, multi_label_results
from .spectrum import EmbeddingCovariance


def pair_bias(model: nn.Module, head: nn.Module | None = None) -> Tensor | None:
    """
    What is added to the logits of a head before their sigmoids are probabilities.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model.
        head ([`ZeroShotHead`], *optional*): A trained head; class prompts by default.

    Returns:
        `torch.Tensor` or `None`: The logit bias of a sigmoid family with its prompts, 0 for a head that was trained on lists of
        labels; `None` for any other, whose probabilities are shares.
    """
    if head is not None:
        return torch.zeros(()) if head.function == "sigmoid" else None
    return logit_bias(model) if DualEncoder.of(model).similarity == "sigmoid" else None


class SeveralLabels:
    """
    Logits and labels of all images of a data set, filled batch by batch in each process and merged by `finish`.

    Args:
        benchmark ([`Benchmark`]): The data set.
        head ([`ZeroShotHead`]): Classifies unit-norm embeddings.
        kind (`str`): What reports call the head.
        covariance ([`EmbeddingCovariance`], *optional*): Filled with the embeddings.

    Attributes:
        rows (`torch.Tensor` of shape `(n,)`): After `finish`, int64, the number of each image in the data.
        bias (`float`, *optional*): What was added to the logits before their sigmoids were taken; `None` for shares.
        logits, probabilities (`torch.Tensor` of shape `(n, classes)`): After `finish`, in float64, in the order of the data.
        targets (`torch.Tensor` of shape `(n, classes)`): 0 and 1.
        function (`str`): `"sigmoid"` or `"softmax"`, what made the probabilities.
        groups (`dict[int, str]`, *optional*): To be filled with the group of each image, by its row; `None` if the benchmark names no column.
        group (`np.ndarray` of shape `(n,)`, *optional*): After `finish`, the same in the order of the data.
        read (`dict`): For the report: `source`, `unreadable` and `n_groups`.
    """

    def __init__(
        self, benchmark: Benchmark, head: nn.Module, kind: str, covariance: EmbeddingCovariance | None = None
    ):
        self.benchmark, self.head, self.kind, self.covariance = benchmark, head, kind, covariance
        self.read: dict[str, Any] = {}
        self.groups: dict[int, str] | None = None if benchmark.group_column is None else {}
        self.group: np.ndarray | None = None
        classes = len(benchmark.class_names)
        self._rows = [torch.empty(0, 1 + classes, dtype=torch.long)]
        self._logits = [torch.empty(0, classes, dtype=torch.float64)]

    def update(self, index: Tensor, embeds: Tensor, labels: Tensor) -> None:
        """
        Add a batch.

        Args:
            index (`torch.Tensor` of shape `(batch,)`): Rows of the data set.
            embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Unit-norm image embeddings.
            labels (`torch.Tensor` of shape `(batch, classes)`): 0 and 1.

        Raises:
            ValueError: If a logit is not finite; it names the data set and the images.
        """
        logits = self.benchmark.project_logits(classify(self.head, embeds)).double().cpu()
        if not logits.isfinite().all():
            raise ValueError(
                f"Data set {self.benchmark.name!r}, images {int(index[0])} to {int(index[-1])}: the logits are not all finite; look "
                "for a model that diverged."
            )
        if self.covariance is not None:
            self.covariance.update(embeds)
        self._rows.append(torch.column_stack([index, labels.cpu()]))
        self._logits.append(logits)

    def finish(self, bias: Tensor | None, state: PartialState) -> None:
        """
        Merge the images of all processes, and compute their probabilities.

        Args:
            bias (`torch.Tensor`, *optional*): As [`pair_bias`] gives it; without it probabilities are shares.
            state (`PartialState`): The processes.

        Raises:
            ValueError: If all images are of one group.
        """
        rows, self.logits = gather_rows(torch.cat(self._rows), torch.cat(self._logits), state=state)
        self.rows, self.targets = rows[:, 0].clone(), rows[:, 1:].clone()
        if self.groups is not None:
            self.group = np.array([self.groups[row] for row in self.rows.tolist()])
            check_groups(len(np.unique(self.group)), self.benchmark.group_column, f"data set {self.benchmark.name!r}")
        self.bias = None if bias is None else bias.item()
        self.function = "softmax" if bias is None else "sigmoid"
        with_bias = None if bias is None else self.logits + bias.cpu().double()
        self.probabilities = self.logits.softmax(dim=1) if with_bias is None else with_bias.sigmoid()
        if self.covariance is not None:
            merge_covariance(self.covariance, state)

    def kept(self, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """
        What the file of logits holds, after `finish`: tensors, and what its metadata say of them.

        Args:
            dtype (`torch.dtype`): Of the logits.
        """
        tensors = {"logits": self.logits.to(dtype), "labels": self.targets, "rows": self.rows}
        facts: dict[str, Any] = {"probabilities": self.function, "pair_bias": self.bias}
        if self.group is not None:
            names, codes = np.unique(self.group, return_inverse=True)
            tensors["groups"], facts["group_names"] = torch.from_numpy(codes), names.tolist()
        return tensors, facts


def several_results(
    sets: Mapping[str, SeveralLabels], n_bins: int = 15, stored: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """
    The part `multi_label` of a report.

    Args:
        sets (`Mapping[str, SeveralLabels]`): By name, after `finish`.
        n_bins (`int`, *optional*, defaults to 15): Bins of the calibration errors.
        stored (`Mapping[str, Any]`, *optional*): Thresholds that were fitted before, as `robustft.json` has them, for the same
            classes where no validation set is measured. They are of sigmoids, unless they say (`probabilities`) of what else. A threshold
            belongs to the name of its class, in whatever order a set has them.

    Returns:
        `dict`: By name what [`EvaluationReport`] says of it.
    """
    found = {}
    for key, images in sets.items():
        names = images.benchmark.class_names
        fits = (item for item in sets.values() if item.benchmark.role == "validation" and _classified_alike(item, images))
        validation = next(fits, None)
        thresholds, default = torch.full((len(names),), DEFAULT_THRESHOLD).double(), list(names)
        of = None
        if validation is not None:
            fitted, own = fit_thresholds(validation.probabilities, validation.targets)
            order = _columns(validation.benchmark.class_names, names)
            thresholds, of = fitted[order], validation.benchmark.name
            default = [name for name, is_own in zip(names, own[order].tolist(), strict=True) if not is_own]
        elif stored is not None and images.function == stored.get("probabilities", "sigmoid") and _keys(stored["classes"]) == _keys(names):
            order, values = _columns(tuple(stored["classes"]), names), [float(value) for value in stored["classes"].values()]
            thresholds, of = torch.tensor(values, dtype=torch.float64)[order], stored.get("fitted_on")
            without = _keys(stored["default"])
            default = [name for name in names if class_key(name) in without]
        found[key] = {
            "role": images.benchmark.role,
            "head": images.kind,
            "probabilities": images.function,
            "thresholds_of": of,
            "default_thresholds": default,
            **multi_label_results(images.logits, images.probabilities, images.targets, names, thresholds, n_bins),
            **images.read,
        }
    return found


def _classified_alike(one: SeveralLabels, other: SeveralLabels) -> bool:
    """Whether two sets have the same classes, in whatever order, and logits by the same head, or by the same prompts."""
    if _keys(one.benchmark.class_names) != _keys(other.benchmark.class_names):
        return False
    if one.kind == other.kind == ZERO_SHOT_HEAD:
        # Prompts of each order of the classes make a head of their own.
        return one.benchmark.templates == other.benchmark.templates and _keys(one.head.class_names) == _keys(other.head.class_names)
    return own_head(one.head) is own_head(other.head)


def _keys(names: Iterable[str]) -> set[str]:
    return set(map(class_key, names))


def _columns(names: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Where each of the `wanted` classes is among `names`."""
    places = {class_key(name): place for place, name in enumerate(names)}
    return [places[class_key(name)] for name in wanted]
