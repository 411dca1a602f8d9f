# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a model said of images with lists of labels: the logits of `--save_logits`, from which their measures can be computed again."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.messages import one_line
from ..modeling.tensor_files import opened
from .list_resampling import list_draws
from .multi_label import check_targets, multi_label_results, pair_nll

_AGAIN = "make it again with --save_logits"
#: The kinds of number in a file, as weights have them and labels are written.
_KINDS = {
    "logits": (torch.float16, torch.bfloat16, torch.float32, torch.float64),
    "labels": (torch.int64, torch.bool),
    "rows": (torch.int64,),
}


@dataclass(frozen=True)
class ListPredictions:
    """
    The predictions for one data set whose images have lists of labels, in the order of its rows.

    Attributes:
        name (`str`): Name of the data set.
        role (`str`): `id`, `shift`, `validation` or `train`.
        row (`np.ndarray` of shape `(n,)`): int64, the number of each image in the data.
        label (`np.ndarray` of shape `(n, classes)`): Bool, whether each image has each label.
        class_names (`tuple[str, ...]`): The classes.
        logits (`torch.Tensor` of shape `(n, classes)`): float64, with the bias that makes probabilities of their sigmoids, if there is
            one.
        function (`str`): `"sigmoid"` or `"softmax"`, what makes probabilities of them.
        thresholds (`torch.Tensor` of shape `(classes,)`): Above which a label is given.
        group (`np.ndarray` of shape `(n,)`, *optional*): As for [`~evaluation.predictions.SetPredictions`].
    """

    name: str
    role: str
    row: np.ndarray
    label: np.ndarray
    class_names: tuple[str, ...]
    logits: Tensor
    function: str
    thresholds: Tensor
    group: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row)

    @property
    def probabilities(self) -> Tensor:
        """Of each class by itself, as a `torch.Tensor` of shape `(n, classes)`."""
        return self.logits.sigmoid() if self.function == "sigmoid" else self.logits.softmax(dim=1)

    @functools.cached_property
    def nll(self) -> Tensor:
        """Of each image, see [`~evaluation.multi_label.pair_nll`]."""
        return pair_nll(self.logits, torch.from_numpy(self.label), self.function)

    def metrics(self, n_bins: int = 15) -> dict[str, float]:
        """
        Compute `map`, `f1` and `ece` as the report has them, and `nll`.

        Args:
            n_bins (`int`, *optional*, defaults to 15): Bins of the ECE.

        Raises:
            ValueError: If no image has a label.
        """
        found = multi_label_results(
            self.logits, self.probabilities, torch.from_numpy(self.label), self.class_names, self.thresholds, n_bins
        )
        if found["map"] is None:
            raise ValueError(f"No image of {self.name!r} has a label, so there is no average precision to compare; give another set.")
        return {**{key: found[key] for key in ("map", "f1", "ece")}, "nll": self.nll.mean().item()}

    def sampled(self, **options: Any) -> dict[str, np.ndarray]:
        """The same in each bootstrap sample; `options` are the settings of [`~evaluation.list_resampling.list_draws`]."""
        parts = self.logits, self.probabilities, torch.from_numpy(self.label), self.thresholds, self.nll
        return list_draws(*parts, **options)


def load_list_predictions(folder: str | Path, measured: Mapping[str, Mapping[str, Any]]) -> dict[str, ListPredictions]:
    """
    Read what a run kept of its sets with lists of labels.

    Args:
        folder (`str` or `Path`): Of the logits, `logits` of a finished folder.
        measured (`Mapping`): The part `multi_label` of its report, which says the thresholds.

    Returns:
        `dict[str, ListPredictions]`: By name, in the order of the report.

    Raises:
        OSError: If one of the files is not there.
        ValueError: If a file is damaged, or its numbers are not those of the report.
    """
    if strange := next((name for name in measured if Path(name).name != name or not name.isprintable()), None):
        raise ValueError(f"The report that {folder} belongs to has a set {ascii(strange)[:60]}, which names no file there; {_AGAIN}.")
    return {name: _of_set(Path(folder) / f"{name}.safetensors", name, row) for name, row in measured.items()}


def _of_set(path: Path, name: str, row: Mapping[str, Any]) -> ListPredictions:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path.name} in {path.parent}; train or evaluate with --save_logits.")
    with opened(path) as file:
        facts, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}
    try:
        names = tuple(json.loads(facts["class_names"]))
        bias, function = json.loads(facts["pair_bias"]), facts["probabilities"]
        for key, kinds in _KINDS.items():
            if tensors[key].dtype not in kinds:
                raise ValueError(f"{key} are {tensors[key].dtype}")
        rows = tensors["rows"]
        if bias is not None and (isinstance(bias, (bool, str)) or not math.isfinite(bias)):
            raise ValueError(f"pair_bias is {bias!r}"[:60])
        logits, targets = check_targets(tensors["logits"].double() + (bias or 0.0), tensors["labels"])
        fits = names == tuple(row["classes"]) and logits.shape[1] == len(names) == row["n_classes"]
        if not fits or rows.shape != logits.shape[:1] or function != row["probabilities"]:
            raise ValueError("classes, rows or probabilities do not fit each other or the report")
        if function != ("softmax" if bias is None else "sigmoid"):
            raise ValueError(f"probabilities are {one_line(ValueError(function))[:60]!r}, and pair_bias is {bias}")
        if rows.min() < 0 or len(rows.unique()) != len(rows):
            raise ValueError("rows are negative, or one is there twice")
        thresholds = torch.tensor([float(row["classes"][key]["threshold"]) for key in names], dtype=torch.float64)
        group = _groups(tensors["groups"], json.loads(facts["group_names"]), len(rows)) if "groups" in tensors else None
        if row.get("n_groups") != (None if group is None else len(np.unique(group))):
            raise ValueError(f"groups are not the {row.get('n_groups')} of the report")
        found = ListPredictions(name, row["role"], rows.numpy(), targets.numpy(), names, logits, function, thresholds, group)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} is not the logits of lists of labels that this version writes ({one_line(error)}); {_AGAIN}.") from None
    return found


def _groups(codes: Tensor, names: Any, n: int) -> np.ndarray:
    """The name of the group of each image. Raises ValueError if codes and names do not fit each other."""
    if codes.dtype != torch.int64 or codes.shape != (n,) or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("groups are not one number per image with names")
    if codes.min() < 0 or codes.max() >= len(names) or len(set(names)) != len(names):
        raise ValueError("groups have numbers without a name, or two of one name")
    return np.array(names)[codes.numpy()]
