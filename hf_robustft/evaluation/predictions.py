# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a model said of each image: `predictions.parquet`, from which every number of a report can be computed again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ..data.messages import one_line, quoted
from ..files import settle, whole_file
from .calibration import ece_from_confidence

PREDICTIONS_FILE = "predictions.parquet"
_FORMAT = b"1"
_TEXT = pa.dictionary(pa.int32(), pa.string())
#: The columns with their types; the open-set scores stand before the last.
_COLUMNS = {
    **{"set": _TEXT, "role": _TEXT, "row": pa.int64(), "label": _TEXT, "predicted": _TEXT},
    **{"confidence": pa.float64(), "nll": pa.float64(), "brier": pa.float64(), "group": _TEXT},
}
_ROLES = {"id", "shift", "validation", "train", "open_set"}
#: The largest values that a column can hold, but for rounding.
_MOST = {"confidence": 1 + 1e-9, "brier": 2 + 1e-9}


@dataclass(frozen=True)
class SetPredictions:
    """
    The predictions for one data set, in the order of its rows. Images that could not be read are missing.

    Attributes:
        name (`str`): Name of the data set.
        role (`str`): `id`, `shift`, `validation`, `train` or `open_set`.
        row (`np.ndarray` of shape `(n,)`): int64, the number of each image in the data, from 0; of a stream of several files
            a number that sorts in the same order.
        predicted (`np.ndarray` of shape `(n,)`): Names of the predicted classes.
        confidence (`np.ndarray` of shape `(n,)`): float64, their probabilities.
        label, nll, brier (`np.ndarray` of shape `(n,)`, *optional*): Names of the right classes, negative log-likelihoods and
            Brier scores; `None` for an open set.
        scores (`dict[str, np.ndarray]`): By name the open-set scores that were computed, higher for known classes.
        group (`np.ndarray` of shape `(n,)`, *optional*): For each image what it was drawn together with, as text; `None` if
            the data set names no column of groups.
    """

    name: str
    role: str
    row: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    label: np.ndarray | None = None
    nll: np.ndarray | None = None
    brier: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    group: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.row)

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is right, bool. Raises ValueError for an open set."""
        if self.label is None:
            raise ValueError(
                f"The open set {self.name!r} has no labels, so no prediction is right or wrong; take its scores."
            )
        return self.predicted == self.label

    def metrics(self, n_bins: int = 15) -> dict[str, float]:
        """
        Compute `accuracy`, `nll`, `ece` and `brier` as the report has them.

        Args:
            n_bins (`int`, *optional*, defaults to 15): Bins of the ECE.

        Raises:
            ValueError: For an open set.
        """
        correct = torch.from_numpy(self.correct)
        return {
            "accuracy": correct.double().mean().item(),
            "nll": torch.from_numpy(self.nll).mean().item(),
            "ece": ece_from_confidence(torch.from_numpy(self.confidence), correct, n_bins),
            "brier": torch.from_numpy(self.brier).mean().item(),
        }


@dataclass(frozen=True)
class Predictions:
    """
    The predictions of one model.

    Attributes:
        sets (`dict[str, SetPredictions]`): By name of the data set, in the order in which they were measured.
    """

    sets: Mapping[str, SetPredictions]

    @property
    def labelled(self) -> dict[str, SetPredictions]:
        """All sets but open sets, as a `dict`."""
        return {name: item for name, item in self.sets.items() if item.label is not None}

    def save(self, folder: str | Path) -> Path:
        """
        Write `predictions.parquet` into a `folder`, one row per image, and return its path.

        Its columns are `set`, `role`, `row`, `label`, `predicted`, `confidence`, `nll`, `brier`, the open-set scores by their
        names, and `group`; what was not computed is null. Numbers are float64, so that sums over them are those of the report.
        """
        scores = dict.fromkeys((score for item in self.sets.values() for score in item.scores), pa.float64())
        kinds = {**{name: kind for name, kind in _COLUMNS.items() if name != "group"}, **scores, "group": _TEXT}
        schema = pa.schema(kinds.items(), metadata={"format": _FORMAT})
        parts = []
        for item in self.sets.values():
            columns = {**vars(item), **item.scores, "set": [item.name] * len(item), "role": [item.role] * len(item)}
            arrays = [_array(columns.get(name), kind, len(item)) for name, kind in kinds.items()]
            parts.append(pa.table(arrays, schema=schema))
        path = Path(folder) / PREDICTIONS_FILE
        with whole_file(path) as half:
            pq.write_table(pa.concat_tables(parts).unify_dictionaries(), half)
        return path


def load_predictions(folder: str | Path) -> Predictions:
    """
    Read the `predictions.parquet` of a finished folder.

    Args:
        folder (`str` or `Path`): The folder.

    Returns:
        [`Predictions`]: By data set.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not one of ours, or a value in it cannot be what it is called.
    """
    path = Path(folder) / PREDICTIONS_FILE
    settle(path.parent)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {PREDICTIONS_FILE} in {folder}; train or evaluate with --save_predictions."
        )
    again = "make it again with --save_predictions"
    try:
        table = _read(path)
        sets = {name: _set(name, rows) for name, rows in table.items()}
    except _Unreadable as error:
        raise ValueError(f"{path} {error}; {again}.") from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{path} cannot be read ({one_line(error)}); {again}.") from None
    return Predictions(sets)


class _Unreadable(Exception):
    """What is wrong with a file, as the rest of a sentence about it."""


def _read(path: Path) -> dict[str, pa.Table]:
    """The rows of each set."""
    file = pq.ParquetFile(path)
    kinds = {entry.name: entry.type for entry in file.schema_arrow}
    ours = len(kinds) == len(file.schema_arrow) and all(kinds.get(name) == kind for name, kind in _COLUMNS.items())
    ours = ours and all(kind == pa.float64() for name, kind in kinds.items() if name not in _COLUMNS)
    if (file.schema_arrow.metadata or {}).get(b"format") != _FORMAT or not ours:
        raise _Unreadable("has other columns than this version writes")
    if file.metadata.num_rows > path.stat().st_size:
        # Rows have numbers that differ, which no compression makes so small.
        raise _Unreadable(f"says that it has {file.metadata.num_rows:,} rows, which its {path.stat().st_size:,} bytes cannot hold")
    table = file.read()
    if table["set"].null_count:
        raise _Unreadable("has rows of no set")
    names = table["set"].to_numpy()
    sets = {name: table.filter(pa.array(names == name)) for name in dict.fromkeys(names.tolist())}
    if not all(map(len, sets.values())):
        raise _Unreadable("has rows of no set")
    return sets


def _set(name: str, rows: pa.Table) -> SetPredictions:
    # A column is null for all images of a set or for none.
    if partly := [key for key in rows.column_names if 0 < rows[key].null_count < len(rows)]:
        raise _Unreadable(f"has no {partly[0]!r} for some images of {name!r}")
    found = {key: _values(rows[key]) for key in rows.column_names if not rows[key].null_count}
    del found["set"]
    scores = {key: found.pop(key) for key in list(found) if key not in _COLUMNS}
    roles = set(found.pop("role", np.array([None])).tolist())
    labelled = [key for key in ("label", "nll", "brier") if key in found]
    if len(roles) > 1 or not roles <= _ROLES or len(labelled) != (0 if roles == {"open_set"} else 3):
        raise _Unreadable(f"has roles of {name!r} that are none, or do not fit its labels ({quoted(sorted(map(str, roles)))})")
    for key, values in {"row": None, "predicted": None, "confidence": None, **found, **scores}.items():
        most = _MOST.get(key, np.inf)
        if values is None or values.dtype.kind in "fi" and not ((values >= (-np.inf if key in scores else 0)) & (values <= most) & np.isfinite(values)).all():
            raise _Unreadable(f"has {key!r} of {name!r} that cannot be")
    return SetPredictions(name, roles.pop(), scores=scores, **found)


def set_predictions(
    name: str,
    role: str,
    columns: Mapping[str, Tensor],
    class_names: tuple[str, ...],
    scores: Mapping[str, Tensor],
    group: np.ndarray | None = None,
) -> SetPredictions:
    """
    The predictions for a data set, from what its evaluation kept.

    Args:
        name (`str`), role (`str`): Of the data set.
        columns (`Mapping[str, torch.Tensor]`): Of `ImageNumbers.merged`.
        class_names (`tuple[str, ...]`): The classes that were chosen between, in label order.
        scores (`Mapping[str, torch.Tensor]`): By name the open-set scores to keep.
        group (`np.ndarray`, *optional*): The group of each image.
    """
    names = np.array(class_names, dtype=str)
    numbers = {key: columns[key].numpy().copy() for key in ("confidence", "nll", "brier") if key in columns}
    text = {key: names[columns[key].long().numpy()] for key in ("predicted", "label") if key in columns}
    kept = {key: values.numpy().copy() for key, values in scores.items()}
    return SetPredictions(name, role, columns["index"].long().numpy(), **text, **numbers, scores=kept, group=group)


def _array(values: np.ndarray | list | None, kind: pa.DataType, n: int) -> pa.Array:
    if values is None:
        return pa.nulls(n, kind)
    if kind == _TEXT:
        return pa.array(np.asarray(values).tolist(), pa.string()).dictionary_encode()
    return pa.array(values, kind)


def _values(column: pa.ChunkedArray) -> np.ndarray:
    text = pa.types.is_dictionary(column.type)
    # Arrow's memory cannot be written, which torch warns of.
    return np.array(column.to_pylist(), dtype=str) if text else column.to_numpy().copy()
