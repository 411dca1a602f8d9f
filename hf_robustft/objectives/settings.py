# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""How settings are declared: fields of a dataclass beside the code that reads them. Imports nothing heavy."""

from __future__ import annotations

import inspect
import math
import re
import textwrap
from dataclasses import Field, dataclass, field, fields
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Range:
    """
    The numbers that a setting may be.

    Args:
        problem (`str`): What a message says of any other, such as `"must be positive"`.
        low (`float`, *optional*, defaults to 0), high (`float`, *optional*, defaults to infinity): The bounds.
        above (`bool`, *optional*, defaults to `False`), below (`bool`, *optional*, defaults to `False`):
            Exclude the lower or the upper bound.
        whole_from (`float`, *optional*, defaults to infinity): From here on, allow whole numbers only.
    """

    problem: str
    low: float = 0
    high: float = math.inf
    above: bool = False
    below: bool = False
    whole_from: float = math.inf

    def __contains__(self, value: float) -> bool:
        inside = (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )
        return inside and not (value >= self.whole_from and value % 1)


WEIGHT = Range("must be finite and not negative; 0 switches the term off", below=True)
SHARE = Range("must lie in [0, 1]", high=1)
STEPS = Range("must be a whole number of optimizer steps, or a fraction of the run below 1", below=True, whole_from=1)


_KINDS: dict[str, tuple[Any, str]] = {
    "bool": (bool, "must be True or False"),
    "int": (Integral, "must be an integer"),
    "float": (Real, "must be a number"),
}


def problem(declared: Field[Any], value: Any, allowed: Range | None) -> str | None:
    """What is wrong with the `value` of a `declared` field, by its type and the numbers that are `allowed`; `None` if nothing is."""
    type_ = declared.type.__name__ if isinstance(declared.type, type) else str(declared.type)
    kind, words = _KINDS.get(type_.partition(" |")[0], (object, ""))
    # HfArgumentParser takes the `| None` off the types of fields.
    if value is None and (declared.default is None or type_.endswith("None")):
        return None
    # Python counts True as 1.
    if not isinstance(value, kind) or isinstance(value, bool) and kind in (Integral, Real):
        return words
    return None if allowed is None or value in allowed else allowed.problem


class _Facts(dict):
    # `HfArgumentParser` hands all that it finds in a field's metadata on to `add_argument`, which takes these alone.
    def keys(self) -> Any:
        return (name for name in ("help", "choices") if name in self)

    __iter__ = keys


def setting(default: Any, help: str, *, paper: Any = None, range: Range | None = None, choices: Any = None) -> Any:
    """
    Declare a setting: the field of a dataclass, a flag of the command line and an entry in `--help`.

    Args:
        default (`Any`): Its default.
        help (`str`): What it does, in a sentence or two.
        paper (`Any`, *optional*): The value in the method's paper or its authors' code; said behind `help`.
        range ([`Range`], *optional*): The numbers that it may be. Others are refused when the arguments are made.
        choices (`list[str]`, *optional*): The words that it may be.

    Returns:
        `dataclasses.Field`: Its `metadata` hold `"help"`, `"paper"`, and `"range"` and `"choices"` where given.
    """
    facts = {"help": help if paper is None else f"{help} Paper: {paper!r}.", "paper": paper}
    optional = {"range": range, "choices": choices}
    return field(default=default, metadata=_Facts(facts, **{k: v for k, v in optional.items() if v is not None}))


@dataclass
class ObjectiveSettings:
    """
    Base of the settings that an objective declares. The mixin names them, and the arguments of a run inherit them:

    ```python
    @dataclass
    class MySettings(ObjectiveSettings):
        my_weight: float = setting(0.1, "Weight of my term.", range=WEIGHT)


    class MyMixin(ObjectiveMixin):
        settings: type[ObjectiveSettings] = MySettings


    @dataclass
    class MyArguments(MySettings, RobustTrainingArguments): ...
    ```

    Methods without such a mixin refuse the settings.
    """


def paper_values(*declarations: type[ObjectiveSettings]) -> dict[str, Any]:
    """What the papers say of the settings that the dataclasses of `declarations` have, by name."""
    found = {f.name: f.metadata.get("paper") for cls in declarations for f in fields(cls)}
    return {name: value for name, value in found.items() if value is not None}


def document(arguments: type) -> str:
    """The docstring of arguments with what their bases declare, in Hugging Face's dialect."""
    lines = []
    for cls in arguments.__bases__:
        # A full stop within the sentence, as in "et al.,", has no blank behind it.
        heading = re.split(r"\.(?:\s|$)", inspect.cleandoc(cls.__doc__ or ""), maxsplit=1)[0]
        lines += ["", f"> {' '.join(heading.split())}", ""]
        for f in fields(cls):
            if f.name in cls.__annotations__:
                default = {str: f'`"{f.default}"`', bool: f"`{f.default}`"}.get(type(f.default), f.default)
                lines.append(f"    {f.name} (`{f.type}`, *optional*, defaults to {default}):")
                lines += textwrap.wrap(f.metadata["help"], 119, initial_indent=" " * 8, subsequent_indent=" " * 8)
    text, raises, errors = inspect.cleandoc(arguments.__doc__ or "").partition("\n\nRaises:")
    return "\n".join([text, *lines]) + raises + errors
