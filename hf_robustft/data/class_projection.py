# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From the logits of a head with many classes to those of a data set that knows fewer.

A head of ImageNet's 1000 classes is measured on ImageNet-R by its 200 columns of these classes, and on ObjectNet by the
largest of the columns that each of its 113 classes stands for. Softmax and calibration come after that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .prompts import check_class_names


@dataclass(frozen=True)
class ClassProjection:
    """Logits of a data set's classes as maxima over groups of the columns of a larger head.

    Args:
        source_classes (`tuple[str, ...]`): Class names of the head, in the order of its columns.
        groups (`tuple[tuple[int, ...], ...]`): For each class of the data set, in label order, the columns of the head
            that stand for it.

    Raises:
        ValueError: no groups, an empty group, a column that the head lacks or that two classes claim, or as many groups
            as columns: logits could not tell then whether they are projected.

    Source: ImageNet-A and -R by mask, ObjectNet by maximum, as WiSE-FT (Wortsman et al., 2022) and FLYP evaluate.
    """

    source_classes: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]

    def __post_init__(self):
        object.__setattr__(self, "source_classes", check_class_names(self.source_classes))
        groups = tuple(tuple(int(column) for column in group) for group in self.groups)
        object.__setattr__(self, "groups", groups)
        n_source = len(self.source_classes)
        if not groups or not all(groups):
            raise ValueError("A projection needs at least one class and each class at least one column; one is empty.")
        if len(groups) >= n_source:
            raise ValueError(
                f"A projection of {n_source} columns to {len(groups)} classes is none; give fewer classes than columns."
            )
        columns = [column for group in groups for column in group]
        outside = [column for column in columns if not 0 <= column < n_source]
        if outside:
            raise ValueError(f"column {outside[0]} is outside the {n_source} columns of the head, 0 to {n_source - 1}.")
        if len(set(columns)) != len(columns):
            twice = next(column for column in columns if columns.count(column) > 1)
            raise ValueError(
                f"column {twice} ({self.source_classes[twice]!r}) stands for two classes; give it to one of them."
            )

    @classmethod
    def of_subset(cls, source_classes: Sequence[str], columns: Iterable[int]) -> ClassProjection:
        """The projection to some of the head's own classes, which must be given by ascending column.

        Raises:
            ValueError: as `ClassProjection`, or columns that do not ascend: a boolean mask could not give that order.
        """
        columns = tuple(int(column) for column in columns)
        if list(columns) != sorted(columns):
            raise ValueError(f"The columns {columns[:5]}... do not ascend; a subset keeps the order of the head.")
        return cls(tuple(source_classes), tuple((column,) for column in columns))

    @cached_property
    def _columns(self) -> Tensor:
        # Short groups repeat their first column, which changes no maximum.
        width = max(len(group) for group in self.groups)
        return torch.tensor([group + group[:1] * (width - len(group)) for group in self.groups])

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The head's own names of the classes, or None where a class stands for several of them."""
        if any(len(group) > 1 for group in self.groups):
            return None
        return tuple(self.source_classes[group[0]] for group in self.groups)

    def __call__(self, logits: Tensor) -> Tensor:
        """Project logits; those that already are of the data set's classes pass unchanged.

        Args:
            logits (`torch.Tensor`): Tensor of shape (..., source classes) or (..., classes), on any device.

        Returns:
            Tensor of shape (..., classes), of the same dtype and device, differentiable. The reference returns the
            maxima in float64; they are the same numbers.

        Raises:
            ValueError: another number of columns.
        """
        found = logits.shape[-1] if logits.ndim else 0
        if found == len(self.groups):
            return logits
        if found != len(self.source_classes):
            raise ValueError(
                f"The logits have {found} columns; this projection takes {len(self.source_classes)} (or passes "
                f"{len(self.groups)}): use the head of these classes."
            )
        columns = self._columns.to(logits.device)
        if columns.shape[1] == 1:
            return logits.index_select(-1, columns[:, 0])
        return logits[..., columns].amax(dim=-1)


def head_classes(benchmark: Any) -> tuple[tuple[str, ...], ...]:
    """The lists of classes, in the order of their labels, of the heads that can classify a `Benchmark`.

    Returns:
        The list of the zero-shot head that it is measured with first: the larger one where the benchmark has a projection,
        so that ImageNet and its shifts share one head. Then its own classes, if that is another list.
    """
    if benchmark.projection is None:
        return (benchmark.class_names,)
    return benchmark.projection.source_classes, benchmark.class_names
