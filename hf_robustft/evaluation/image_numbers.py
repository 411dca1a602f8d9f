# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation keeps of the images of a data set: a few float64 numbers per image, for any number of classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather, reduce
from torch import Tensor, nn

from ..data.benchmarks import Benchmark
from ..data.thumbnails import file_names
from . import calibration
from .collect import classify, gather_rows
from .error_analysis import analyse_errors
from .open_set import available_scores, score
from .prediction_sets import ConformalClassifier
from .spectrum import EmbeddingCovariance

MEASURED = ("confidence", "correct", "nll", "brier")
LABELLED = (*MEASURED, "predicted", "label")
UNLABELLED = ("confidence", "predicted")
# Training and validation sets are neither known test images nor unseen ones.
SCORED_ROLES = ("id", "shift", "open_set")
#: Of prediction sets: classes in the set, and whether the label is one of them.
OF_SETS = ("set_size", "held")


class ImageNumbers:
    """
    A table with one row per image, filled batch by batch in each process and merged at the end.

    Its columns are the row number; confidence and predicted class; correctness, NLL, Brier score and label, except for an
    open set; and the open-set scores, for the roles `id`, `shift` and `open_set`.

    For a benchmark with a projection, the logits of a head of the larger list of classes are projected before confidence
    and everything that follows from it is computed. The open-set scores are still those of the head's own logits: a
    detector does not know to which classes an image could belong.

    Args:
        benchmark ([`Benchmark`]): The data set.
        head ([`ZeroShotHead`]): Classifies unit-norm embeddings; its weight has one row per class.
        cosine_scale (`float`, *optional*): The logits of a zero-shot head divided by it are cosines; without it there is no
            score `mcm`.
        bank (`torch.Tensor` of shape `(bank size, embed_dim)`, *optional*): Embeddings for the score `knn`; without it
            there is none.
        knn_k (`int`): The neighbour in the bank whose distance counts.
        n_bins (`int`): Bins of the class-wise calibration error.
        covariance ([`EmbeddingCovariance`], *optional*): Filled with the embeddings.
        keep_logits (`bool`, *optional*, defaults to `False`): Whether to keep the logits as well, `(images, classes)` numbers.
        sets ([`ConformalClassifier`], *optional*): Gives labelled images their prediction sets, if its classes are those of head and
            benchmark.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        head: nn.Module,
        *,
        cosine_scale: float | None,
        bank: Tensor | None,
        knn_k: int,
        n_bins: int,
        covariance: EmbeddingCovariance | None = None,
        keep_logits: bool = False,
        sets: ConformalClassifier | None = None,
    ):
        self.benchmark, self.head, self.covariance = benchmark, head, covariance
        self.cosine_scale, self.bank, self.knn_k, self.keep_logits = cosine_scale, bank, knn_k, keep_logits
        self.labelled = benchmark.role != "open_set"
        self.scores: tuple[str, ...] = ()
        if benchmark.role in SCORED_ROLES:
            self.scores = available_scores(cosines=cosine_scale is not None, bank=bank is not None)
        ours = self.labelled and sets is not None and sets.class_names == head.class_names == benchmark.class_names
        self.sets = sets if ours else None
        of_sets = () if self.sets is None else OF_SETS
        self.columns = ("index", *(LABELLED if self.labelled else UNLABELLED), *of_sets, *self.scores)
        classes = len(benchmark.class_names) if self.labelled else len(head.weight)
        self.classwise = calibration.ClasswiseAccumulator(classes, n_bins) if self.labelled else None
        self._tables = [torch.empty(0, len(self.columns), dtype=torch.float64)]
        self._logits = [torch.empty(0, classes, dtype=head.weight.dtype)]
        self._labels = [torch.empty(0, 1, dtype=torch.long)]

    def update(self, index: Tensor, embeds: Tensor, labels: Tensor | None) -> None:
        """
        Add a batch.

        Args:
            index (`torch.Tensor` of shape `(batch,)`): Rows of the data set.
            embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Unit-norm image embeddings.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): Class indices; `None` for an open set.

        Raises:
            ValueError: If a logit is not finite or a label is not a class; it names the data set and the images.
        """
        whole = classify(self.head, embeds)
        logits = self.benchmark.project_logits(whole) if self.labelled else whole
        numbers: dict[str, Tensor] = {"index": index.double()}
        try:
            if self.labelled:
                found, probabilities = calibration.image_scores(logits, labels)
                numbers.update(found)
                # As `image_scores` breaks ties.
                numbers |= {"predicted": probabilities.max(dim=1).indices.double(), "label": labels.cpu().double()}
                self.classwise.update(probabilities, labels)
                if self.sets is not None:
                    held = self.sets.holds(logits)
                    own = held.gather(1, labels.cpu().long()[:, None])[:, 0]
                    numbers |= {"set_size": held.sum(dim=1).double(), "held": own.double()}
            else:
                confidence, predicted = logits.cpu().double().softmax(dim=1).max(dim=1)
                numbers |= {"confidence": confidence, "predicted": predicted.double()}
            if self.covariance is not None:
                self.covariance.update(embeds)
            numbers.update(self._open_set_scores(whole, embeds))
        except ValueError as error:
            first, last = int(index[0]), int(index[-1])
            raise ValueError(f"Data set {self.benchmark.name!r}, images {first} to {last}: {error}") from error
        self._tables.append(torch.column_stack([numbers[key] for key in self.columns]))
        if self.keep_logits:
            self._logits.append(logits.cpu())
            if self.labelled:
                self._labels.append(labels[:, None])

    def _open_set_scores(self, logits: Tensor, embeds: Tensor) -> dict[str, Tensor]:
        logits = logits.cpu().double()
        inputs = {"logits": logits, "features": embeds, "bank": self.bank, "k": self.knn_k}
        if self.cosine_scale is not None:
            inputs["cosines"] = logits / self.cosine_scale
        return {key: score(key, **inputs) for key in self.scores}

    def merged(self, state: PartialState) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """
        Return the numbers of all processes, in the order of the data set, and merge the accumulators.

        Args:
            state (`PartialState`): The processes.

        Returns:
            `tuple`: The columns by name, each `(n,)` in float64 on the CPU; and, if they were kept, `logits` and (except
            for an open set) `labels`.
        """
        tables = {"numbers": torch.cat(self._tables)}
        if self.keep_logits:
            tables["logits"] = torch.cat(self._logits)
            if self.labelled:
                tables["labels"] = torch.cat(self._labels)
        kept = dict(zip(tables, gather_rows(*tables.values(), state=state), strict=True))
        table = kept.pop("numbers")
        if state.num_processes > 1:
            self._merge_accumulators(len(table), state)
        if "labels" in kept:
            kept["labels"] = kept["labels"][:, 0]
        return dict(zip(self.columns, table.t().contiguous(), strict=True)), kept

    def _merge_accumulators(self, n: int, state: PartialState) -> None:
        if self.classwise is not None:
            self.classwise.gaps = reduce(self.classwise.gaps.to(state.device), "sum").cpu()
            self.classwise.n = n
        if self.covariance is not None:
            merge_covariance(self.covariance, state)


def merge_covariance(covariance: EmbeddingCovariance, state: PartialState) -> None:
    """Have `covariance` in every process hold the embeddings of all of them; `state` knows the processes."""
    if state.num_processes == 1:
        return
    # Merged by every process in the order of the ranks, so that all of them get the same bits.
    counts = gather(torch.tensor([covariance.n], device=state.device)).tolist()
    means = gather(covariance.mean[None].to(state.device)).cpu()
    scatters = gather(covariance.scatter[None].to(state.device)).cpu()
    covariance.n, covariance.mean, covariance.scatter = counts[0], means[0], scatters[0]
    for part in zip(counts[1:], means[1:], scatters[1:], strict=True):
        covariance.merge_moments(*part)


def errors_of(benchmark: Benchmark, columns: Mapping[str, Tensor], group: np.ndarray | None) -> dict[str, Any]:
    """Return what [`analyse_errors`] says of a `benchmark`, from the `columns` of [`ImageNumbers.merged`] and the `group` of each image."""
    rows, labels, predicted = (columns[key].long().numpy() for key in ("index", "label", "predicted"))
    numbers = (columns[key].numpy() for key in ("confidence", "nll"))
    return analyse_errors(rows, labels, predicted, *numbers, benchmark.class_names, group, partial(file_names, benchmark))


def most_frequent(columns: dict[str, Tensor], class_names: tuple[str, ...]) -> dict:
    """Return which of `class_names` is predicted most often by the `columns` of [`ImageNumbers.merged`], and which most images are of."""
    predicted, labels = (
        torch.bincount(columns[key].long(), minlength=len(class_names)).double() / len(columns[key])
        for key in ("predicted", "label")
    )
    top, majority = predicted.argmax().item(), labels.argmax().item()
    return {
        "class": class_names[top],
        "share": predicted[top].item(),
        "label_share": labels[top].item(),
        "majority": class_names[majority],
        "majority_share": labels[majority].item(),
    }
