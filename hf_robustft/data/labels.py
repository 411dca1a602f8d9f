# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a stored label means: the one rule book for columns that are loaded and for rows that are streamed.

What decides is what the data call a class: the left column of a names file (`label<TAB>name`) where there is one, else the
class names themselves. A column may hold names (text, or a ClassLabel, or folders) or numbers (integers of any width, bools,
and floats that are whole, which is how pandas stores integers beside a gap). Without a left column numbers are positions:
0 to N - 1 in the order of the names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, LargeList, List, Value

from .messages import quoted, say_once
from .prompts import class_key

#: A class of one of these names is better called otherwise.
READ_AS_MISSING = " (NA, None, null and nan in a .csv are read so)"


def is_text(feature) -> bool:
    """Return whether a column of the type `feature` holds text."""
    return isinstance(feature, Value) and feature.dtype in ("string", "large_string")


def holds_integers(feature) -> bool:
    """Return whether a column of the type `feature` holds integer labels (a ClassLabel or any integer type)."""
    return isinstance(feature, ClassLabel) or (
        isinstance(feature, Value) and feature.dtype.lstrip("u").startswith("int")
    )


def _holds_numbers(feature) -> bool:
    return holds_integers(feature) or (
        isinstance(feature, Value) and (feature.dtype == "bool" or feature.dtype.startswith("float"))
    )


def holds_several(feature) -> bool:
    """Return whether a column of the type `feature` holds a list of labels for each image."""
    return isinstance(feature, (List, LargeList))


def refuse_several(several: int, where: str, what: str) -> None:
    """Refuse data `where` whose rows have lists of labels of `several` classes (0: one label each) for `what` needs one. Raises ValueError."""
    if several:
        raise ValueError(
            f"{where} has lists of labels, and {what} one label per image; leave that out, or name another column with label_column "
            "(--label_column)."
        )


def one_label(feature):
    """Return the type of a single label in a column of the type `feature`, which may hold lists of them."""
    return feature.feature if holds_several(feature) else feature


def names_classes(feature) -> bool:
    """Return whether a column of the type `feature` names its classes itself; a ClassLabel whose names are numbers does not."""
    if isinstance(feature, ClassLabel):
        return list(feature.names) != [str(number) for number in range(len(feature.names))]
    return is_text(feature)


class LabelFault(ValueError):
    """A label that means no class: `label` in words, and `rule`, what it breaks and what to do."""

    def __init__(self, label: str, rule: str):
        super().__init__(f"{label} {rule}")
        self.label, self.rule = label, rule


def is_indicator(values: Sequence[Any], classes: int) -> bool:
    """
    Return whether a list of labels (`values`) says of each of so many `classes` by 0 or 1 whether the image has it, rather than which it has.
    Of two classes (0, 1) may be both.
    """
    if len(values) != classes or any(isinstance(value, str) or value not in (0, 1) for value in values):
        return False
    return len({*values}) < classes


INDICATOR = LabelFault(
    "The list of labels",
    "holds a 0 or 1 for each class, which would be taken for the numbers of the first two classes; give the numbers or names of the classes "
    "that the image has",
)
NO_LIST = LabelFault("The list of labels", "is missing; give an empty list to an image without labels or leave the row out")


@dataclass(frozen=True)
class LabelRule:
    """
    The class of a stored label.

    Args:
        classes (`Mapping`): Position of the class by label: by number, or by `key(name)`; -1 for a name of several classes.
        rule (`str`): What a label that is not among them breaks, and what to do.
        key (`Callable`, *optional*): What two spellings of one name have in common; None for numbers.
        called (`Mapping[int, str]`, *optional*): What the data call their numbers, used in messages.
        count (`int`, *optional*): Number of classes where numbers are positions.
        named (`Mapping[int, int]`, *optional*): Where numbers are positions, what they would mean as names of classes.
    """

    classes: Mapping[int | str, int] = field(repr=False)
    rule: str
    key: Callable[[str], str] | None = None
    called: Mapping[int, str] = field(default_factory=dict, repr=False)
    count: int | None = None
    named: Mapping[int, int] = field(default_factory=dict, repr=False)

    @property
    def keeps_numbers(self) -> bool:
        """Whether each label is its class already."""
        return self.key is None and all(number == position for number, position in self.classes.items())

    def __call__(self, value) -> int:
        """
        The class of a label.

        Raises:
            LabelFault: It is missing, or means none of the classes.
        """
        if value is None or value != value:
            raise LabelFault("The label", f"is missing{READ_AS_MISSING}; give it a class or leave the row out")
        if self.key is not None:
            position = self.classes.get(self.key(str(value)), -1)
        else:
            position = self.classes.get(value, -1)
        if position >= 0:
            return position
        shown = int(value) if isinstance(value, float) and value.is_integer() else value
        name = self.called.get(shown) if self.key is None else None
        more = " (do the labels start at 1?)" if self.count is not None and value == self.count else ""
        raise LabelFault(f"label {shown if name is None else name!r}", self.rule + more)


def check_class_indices(labels, classes: int) -> None:
    """
    Refuse labels of a batch that are the indices of no class. Cross-entropy would leave out an image of label -100 in silence.

    Args:
        labels (`torch.Tensor` of shape `(batch,)`): What a training batch holds, where your own data sets may put anything.
        classes (`int`): How many classes there are.

    Raises:
        ValueError: If a label is not a whole number, below 0, or `classes` or more.
    """
    if labels.is_floating_point() or labels.is_complex() or str(labels.dtype) == "torch.bool":
        raise ValueError(f"The `labels` of a training batch are {labels.dtype}; give whole numbers, the index of a class for each image.")
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        last = " (do the labels start at 1?)" if wrong[0] == classes else ""
        raise ValueError(
            f"A training batch holds the label {wrong[0].item()}, and there are {classes} classes, so that `labels` run from 0 to "
            f"{classes - 1}{last}; correct it, or leave such images out of the training set."
        )


def class_positions(class_names: Sequence[str], label_names: Sequence[str] | None = None) -> dict[str, int]:
    """Return the position of each of `class_names` by the keys of its names; those of `label_names` take precedence."""
    positions = {class_key(name): index for index, name in enumerate(label_names or ())}
    for index, name in enumerate(class_names):
        positions.setdefault(class_key(name), index)
    return positions


def check_label_order(given: Sequence[str], own: Sequence[str], what: str, where: str) -> None:
    """
    Refuse class names that put classes elsewhere than the labels of data have them. Other words for a class are taken as they are.

    Args:
        given (`Sequence[str]`): The class names, in the order of what is to learn from the labels.
        own (`Sequence[str]`): Those of the data, in the order of the labels.
        what (`str`), where (`str`): Words for both, used in messages.

    Raises:
        ValueError: If a class of the data is at another position among the given names, or there are fewer of them.
    """
    places = {class_key(name): place for place, name in enumerate(given)}
    moved = [name for label, name in enumerate(own) if places.get(class_key(name), label) != label]
    if not moved and len(given) >= len(own):
        return
    fault = f"{moved[0]!r} has another number there" if moved else "of some labels nothing would be learned"
    raise ValueError(
        f"The classes of {what} are {quoted(given)}, and the labels of {where} are numbers of {quoted(own)}: {fault}. Give what has the "
        "classes of the data in their order."
    )


def as_numbers(label_names: Sequence[str] | None) -> dict[int, int] | None:
    """
    Return the position of each class by number, if `label_names` (the left column of a names file) are all numbers; else None.

    Raises:
        ValueError: One number is written twice, such as "1" and "01".
    """
    numbers: dict[int, int] = {}
    for index, name in enumerate(label_names or ()):
        text = {"false": "0", "true": "1"}.get(str(name).strip().lower(), str(name).strip())
        if not text.removeprefix("-").isdecimal():
            return None
        if int(text) in numbers:
            raise ValueError(
                f"The labels {label_names[numbers[int(text)]]!r} and {name!r} are one number; give each class its own."
            )
        numbers[int(text)] = index
    return numbers or None


def _other_numbers(class_names: Sequence[str]) -> dict[int, int] | None:
    """The position of each class by its name, if the names are whole numbers (or true and false) and not their positions; else None."""
    try:
        numbers = as_numbers(class_names)
    except ValueError:
        return None
    return None if numbers is None or all(number == position for number, position in numbers.items()) else numbers


def _of_names(class_names: Sequence[str], label_names: Sequence[str] | None) -> LabelRule:
    expected = label_names or class_names
    rule = f"is not one of the {len(expected)} class names {quoted(expected)}: correct the column or class_names"
    if label_names is None:
        rule += ", or give lines `label<TAB>name` with what the data call them"
    return LabelRule(class_positions(class_names, label_names), rule, class_key)


def _of_positions(count: int, named: Mapping[int, int]) -> LabelRule:
    rule = (
        f"is outside the {count} classes, 0 to {count - 1}: correct the column or class_names, or give class_names with "
        "lines `label<TAB>name`, which say what the data call them"
    )
    return LabelRule({number: number for number in range(count)}, rule, count=count, named=named)


def _of_numbers(class_names: Sequence[str], label_names: Sequence[str] | None, column: str, where: str) -> LabelRule:
    if label_names is None:
        count, named = len(class_names), _other_numbers(class_names)
        if named is not None and {*named} == {*range(count)}:
            raise ValueError(
                f"column {column!r} of {where} holds numbers, and the class names are numbers in another order, {quoted(class_names)}: whether "
                "a label is the name of its class or its position is not known; give class_names with lines `label<TAB>name`."
            )
        return _of_positions(count, named or {})
    numbers = as_numbers(label_names)
    if numbers is None:
        raise ValueError(
            f"column {column!r} of {where} holds numbers, but the labels given for its classes are names, "
            f"{quoted(label_names)}; give the number of each class, or leave them out if the numbers are 0 to "
            f"{len(class_names) - 1} in the order of the class names."
        )
    rule = f"is not one of the labels {quoted(label_names)} of the {len(class_names)} classes: add it or correct the column"
    return LabelRule(numbers, rule)


def label_rule(
    feature, class_names: Sequence[str], label_names: Sequence[str] | None, column: str, where: str
) -> LabelRule:
    """
    What the labels of a column mean, from the type of the column alone.

    Args:
        feature (`Any`): The column's type, of `datasets`.
        class_names (`Sequence[str]`): Checked class names, in the order of the result.
        label_names (`Sequence[str]`, *optional*): What the data call the same classes, in the same order.
        column, where (`str`): The column, and words for the data set, used in messages.

    Returns:
        [`LabelRule`]: From a stored value to a position in `class_names`.

    Raises:
        ValueError: A column of another kind, or names that disagree with those that a ClassLabel has.
    """
    if is_text(feature):
        return _of_names(class_names, label_names)
    if not _holds_numbers(feature):
        raise ValueError(
            f"column {column!r} of {where} holds {feature}, not labels (integers, class names or a ClassLabel); "
            "name the label column with label_column (--label_column on the command line)."
        )
    if label_names is None and getattr(feature, "dtype", None) == "bool" and {*map(class_key, class_names)} == {"true", "false"}:
        return _of_numbers(class_names, class_names, column, where)
    if not names_classes(feature):
        if label_names is None and getattr(feature, "dtype", None) == "bool" and len(class_names) > 1:
            told = f"False in column {column!r} is {class_names[0]!r} and True {class_names[1]!r}, by the order of the class names"
            say_once(f"{where}: {told}; to say it otherwise, give class_names with lines `label<TAB>name`.")
        return _of_numbers(class_names, label_names, column, where)
    if label_names is None:
        _check_class_label(feature.names, class_names, column, where)
        # The column says itself which class is at a position, whatever that is called.
        return _of_positions(len(class_names), {})
    named = _of_names(class_names, label_names)
    numbers = as_numbers(label_names)
    found = {number: named.classes[class_key(name)] for number, name in enumerate(feature.names) if class_key(name) in named.classes}  # fmt: skip
    if not found and numbers is None:
        raise ValueError(
            f"column {column!r} of {where} calls its classes {quoted(feature.names)}, none of which is among the labels "
            f"given for them, {quoted(label_names)}; in the left column, write what the data call each class."
        )
    return LabelRule(found or numbers, named.rule, called=dict(enumerate(feature.names)))


def _check_class_label(names: Sequence[str], expected: Sequence[str], column: str, where: str) -> None:
    if len(names) != len(expected):
        raise ValueError(
            f"column {column!r} of {where} has {len(names)} classes, {quoted(names)}, but {len(expected)} class names "
            f"are given, {quoted(expected)}; give one name per class, in the order of the labels."
        )
    differing = [i for i, (a, b) in enumerate(zip(names, expected, strict=True)) if class_key(a) != class_key(b)]
    if differing:
        first = differing[0]
        raise ValueError(
            f"column {column!r} of {where} calls class {first} {names[first]!r}, the given class names call it "
            f"{expected[first]!r} ({len(differing)} of {len(names)} differ; data: {quoted(names)}; given: "
            f"{quoted(expected)}); put the names in the order of the labels, or give label_names to rename classes."
        )


def matching_rule(
    feature,
    class_names: Sequence[str],
    label_names: Sequence[str] | None,
    own_names: Sequence[str] | None,
    own_labels: Sequence[str] | None,
    column: str,
    where: str,
) -> tuple[LabelRule, Mapping[int, str] | None]:
    """
    What the labels of a column mean to a model whose classes are known: by name wherever the data name their classes.

    Args:
        feature (`Any`), column (`str`), where (`str`): As for [`label_rule`].
        class_names (`Sequence[str]`): The model's classes.
        label_names (`Sequence[str]`, *optional*): What data may call them too.
        own_names, own_labels (`Sequence[str]`, *optional*): What a file beside the data calls the classes, and its left
            column.

    Returns:
        The rule, and the names of numbers where the data have such; None where numbers are taken as they are.
    """
    positions = class_positions(class_names, label_names)
    if is_text(feature):
        if own_labels is None:
            return _of_names(class_names, label_names), None
        renamed = {class_key(label): name for label, name in zip(own_labels, own_names, strict=True)}
        found = {key: positions[class_key(name)] for key, name in renamed.items() if class_key(name) in positions}
        others = {key: position for key, position in positions.items() if key not in renamed}
        return LabelRule({**others, **found}, _of_names(class_names, label_names).rule, class_key), None
    if names_classes(feature):
        called = dict(enumerate(feature.names))
    elif own_names and _holds_numbers(feature):
        numbers = _of_numbers(own_names, own_labels, column, where).classes
        called = {number: own_names[index] for number, index in numbers.items()}
    else:
        # Names beside numbers are of other data, whose numbers say nothing about these.
        usable = label_names if as_numbers(label_names) is not None else None
        numbers = _other_numbers(class_names) if usable is None else None
        if numbers is not None:
            # Folders called 0 to 11 come in the order of texts, 10 before 2.
            called = {number: class_names[position] for number, position in numbers.items()}
            return LabelRule(numbers, _of_names(class_names, None).rule, called=called), called
        return label_rule(feature, class_names, usable, column, where), None
    found = {number: positions[class_key(name)] for number, name in called.items() if class_key(name) in positions}
    rule = (
        f"is not one of the {len(class_names)} classes of the model, {quoted(class_names)}: leave it out or rename it"
    )
    return LabelRule(found, rule, called=called), called


def classes_of(
    values: pa.ChunkedArray, rule: Callable[[Any], int], column: str, where: str, rows: np.ndarray | None = None
) -> np.ndarray:
    """
    Return the class of each label among the `values` of a `column` of the data `where`, by a `rule`.

    Args:
        values (`pyarrow.ChunkedArray`): The labels.
        rule (`Callable`): Such as a [`LabelRule`].
        column, where (`str`): For messages.
        rows (`np.ndarray`, *optional*): The row that each label is in, where rows have several.

    Raises:
        ValueError: The first row whose label means no class, with the number of such rows.
    """
    encoded = pc.dictionary_encode(values.combine_chunks(), null_encoding="encode")
    distinct = encoded.dictionary.to_pylist()
    classes, faults = np.full(len(distinct), -1, dtype=np.int64), {}
    for index, value in enumerate(distinct):
        try:
            classes[index] = rule(value)
        except LabelFault as fault:
            faults[index] = fault
    indices = encoded.indices.to_numpy(zero_copy_only=False)
    if faults:
        places = np.flatnonzero(np.isin(indices, list(faults)))
        of = np.arange(len(indices)) if rows is None else rows
        bad = np.zeros(of[-1] + 1, dtype=bool)
        bad[of[places]] = True
        first = faults[int(indices[places[0]])]
        refuse_rows(bad, lambda row: first, column, where)
    return classes[indices]


def lists_of_classes(
    values: pa.ChunkedArray, rule: Callable[[Any], int], column: str, where: str, n_classes: int
) -> list[list[int]]:
    """
    Return the classes of each list of labels among the `values` of a `column` of the data `where`, of so many (`n_classes`), by a `rule`:
    each once, in order.

    Raises:
        ValueError: The first row that has no list, one of zeros and ones, or a label that means no class, with the number of such rows.
    """
    refuse_rows(values.is_null().to_numpy(), lambda row: NO_LIST, column, where)
    lists = values.combine_chunks()
    of_all = np.asarray(pc.list_value_length(lists)) == n_classes
    found = [is_indicator(some, n_classes) for some in lists.filter(pa.array(of_all, pa.bool_())).to_pylist()]
    of_all[of_all] = found
    refuse_rows(of_all, lambda row: INDICATOR, column, where)
    rows = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    classes = classes_of(pa.chunked_array([pc.list_flatten(lists)]), rule, column, where, rows)
    ends = np.searchsorted(rows, np.arange(1, len(lists)))
    return [sorted(set(some.tolist())) for some in np.split(classes, ends)] if len(lists) else []


def refuse_rows(bad: np.ndarray, fault: Callable[[int], LabelFault], column: str, where: str) -> None:
    """Refuse the rows of a `column` of the data `where` that are marked in `bad`. Raises ValueError with the `fault` of the first."""
    if bad.any():
        row, count = int(np.argmax(bad)), int(bad.sum())
        found = fault(row)
        raise ValueError(
            f"{found.label} in row {row} of column {column!r} of {where} {found.rule} "
            f"({count} such row{'s' if count > 1 else ''} of {len(bad)})."
        )
