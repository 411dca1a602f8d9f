# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Answers as a table: comma-separated values, JSON lines or parquet, written one after the other and never all in memory."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import whole_file, write_csv

#: What parts the names in a cell; in a name it has a backslash before it, and so has a backslash.
SEPARATOR = "|"
#: Rows of parquet that are written at once.
_ROWS_AT_ONCE = 1024
#: Unreadable images that a summary names.
_NAMED = 5
_RANKED = pa.list_(pa.struct({"score": pa.float64(), "label": pa.string()}))
_KINDS = {
    **dict.fromkeys(("image", "label", "nearest_class", "error"), pa.string()),
    **dict.fromkeys(("probability", "score"), pa.float64()),
    **{"is_known": pa.bool_(), "classes": _RANKED, "labels": _RANKED, "prediction_set": pa.list_(pa.string())},
}
_FIRST, _LAST = ("image", "label", "probability", "nearest_class", "score", "is_known", "classes", "labels", "prediction_set"), "error"


@dataclass
class Columns:
    """
    What answers have and say, found by going through them once.

    Attributes:
        kinds (`dict[str, pa.DataType]`): The columns of parquet.
        ranked (`int`): The most classes that `classes` of an answer has.
        images (`int`): All answers.
        labels (`Counter[str]`): Images by label.
        unknown (`int`, *optional*): Images that are not known; `None` if nothing judges that.
        broken (`int`): Images that could not be read.
        named (`list[str]`): The first of them.
    """

    kinds: dict[str, pa.DataType] = field(default_factory=dict)
    ranked: int = 0
    images: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    unknown: int | None = None
    broken: int = 0
    named: list[str] = field(default_factory=list)

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {name: getattr(self, name) for name in ("images", "labels", "unknown", "broken", "named")}

    @classmethod
    def of(cls, answers: Iterable[Mapping[str, Any]]) -> Columns:
        """Those of all `answers`."""
        found, kinds = cls(), {}
        for answer in answers:
            found.images += 1
            for name, value in answer.items():
                if kinds.get(name, pa.null()) == pa.null():
                    kinds[name] = _KINDS.get(name) or _kind(value)
            if answer["error"] is not None:
                found.broken += 1
                if len(found.named) < _NAMED:
                    found.named.append(answer["image"])
                continue
            found.labels[answer["label"]] += 1
            found.ranked = max(found.ranked, len(answer.get("classes") or ()))
            if answer["is_known"] is not None:
                found.unknown = (found.unknown or 0) + (not answer["is_known"])
        order = [*(name for name in _FIRST if name in kinds), *(name for name in kinds if name not in (*_FIRST, _LAST)), _LAST]
        found.kinds = {name: kinds[name] for name in order if name in kinds}
        return found


def is_summary(value: Any) -> bool:
    """Whether a `value` of JSON is what [`Columns.summary`] gives."""
    if not isinstance(value, dict) or value.keys() != Columns().summary.keys() or not isinstance(value["labels"], dict):
        return False
    numbers = [value["images"], value["broken"], *value["labels"].values(), *([] if value["unknown"] is None else [value["unknown"]])]
    named = value["named"]
    return all(type(number) is int for number in numbers) and isinstance(named, list) and all(isinstance(name, str) for name in named)


def _kind(value: Any) -> pa.DataType:
    """The type of a column of which one value is known."""
    return pa.null() if value is None else pa.infer_type([value])


def save_answers(path: Path, answers: Callable[[], Iterator[Mapping[str, Any]]], columns: Columns) -> None:
    """
    Write answers, whole or not at all.

    Args:
        path (`Path`): The file; its ending says in which format.
        answers (`Callable`): Gives all answers, each with an `image` and an `error`.
        columns ([`Columns`]): Those of the same answers.
    """
    if path.suffix == ".csv":
        write_csv(path, itertools.chain([_heads(columns)], (_cells(answer, columns) for answer in answers())))
        return
    with whole_file(path) as half:
        if path.suffix == ".jsonl":
            with open(half, "w", encoding="utf-8", newline="\n") as file:
                for answer in answers():
                    file.write(json.dumps({name: answer.get(name) for name in columns.kinds}, ensure_ascii=False) + "\n")
            return
        schema, rows = pa.schema(columns.kinds.items()), answers()
        with pq.ParquetWriter(half, schema) as writer:
            while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
                writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema=schema))


def _heads(columns: Columns) -> list[str]:
    heads: list[str] = []
    for name, kind in columns.kinds.items():
        if name == "classes":
            # The first is the nearest class.
            heads += [head for place in range(2, columns.ranked + 1) for head in (f"label_{place}", f"probability_{place}")]
        else:
            heads += [name, f"{name}_probability"] if kind == _RANKED else [name]
    return heads


def _cells(answer: Mapping[str, Any], columns: Columns) -> list[Any]:
    cells: list[Any] = []
    for name, kind in columns.kinds.items():
        value = answer.get(name)
        if name == "classes":
            more = (value or ())[1:]
            cells += [cell for item in more for cell in (item["label"], item["score"])]
            cells += [None] * 2 * (max(columns.ranked - 1, 0) - len(more))
        elif kind == _RANKED:
            cells += [None, None] if value is None else [joined(item[key] for item in value) for key in ("label", "score")]
        else:
            cells.append(joined(value) if isinstance(value, list) else value)
    return cells


def joined(values: Iterable[Any]) -> str:
    """Several `values` in one cell, parted by `|`. In a name, `|` and the backslash have a backslash before them."""
    return SEPARATOR.join(str(value).replace("\\", "\\\\").replace(SEPARATOR, f"\\{SEPARATOR}") for value in values)
