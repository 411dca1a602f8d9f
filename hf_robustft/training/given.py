# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Which settings a user gave, and where the others come from."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

#: Methods of the command line that train by another one, ft by default, and merge what it has trained.
MERGING = ("wise_ft", "lines")


@dataclass(frozen=True)
class Suggested:
    """
    The value of a setting that its user did not give: it yields to what is given, and says where it comes from.

    Args:
        value (`Any`): As the field takes it.
        origin (`str`): Such as `"recipe emoji_shift/carot"`, for cards and messages.
    """

    value: Any
    origin: str


class RecordsGiven:
    """
    The part of a dataclass of settings, such as `RobustTrainingArguments`, that knows which fields the user gave.

    Given are the arguments of the constructor, and fields that are assigned afterwards. A [`Suggested`] value is not.
    A call that passes every field (`dataclasses.replace`, `HfArgumentParser` with its own defaults, a rebuild from
    `to_dict`) does not say which of them are meant; there, those that differ from their defaults count as given, and a
    warning names each value at its default that something else replaces. Copies and pickles keep the record. A default
    that a derived dataclass redefines is that class's suggestion.
    """

    def __new__(cls, *args: Any, **kwargs: Any):
        # Not in `__init__`, which every dataclass that is derived from this one writes again.
        self = super().__new__(cls)
        state = self.__dict__
        state["_origins"], state["_recording"], state["_unclear"] = {}, False, frozenset()
        taken = [f for f in fields(cls) if f.init]
        passed = dict(zip((f.name for f in taken), args, strict=False)) | kwargs
        if all(f.name in passed for f in taken):
            meant = {f.name: passed[f.name] for f in taken if _differs(passed[f.name], f)}
            state["_unclear"] = frozenset(
                name for name, value in passed.items() if name not in meant and not isinstance(value, Suggested)
            )
            passed = meant
        state["_given"] = frozenset(name for name, value in passed.items() if not isinstance(value, Suggested))
        return self

    def __post_init__(self) -> None:
        self._take_suggestions()
        self._record_assignments()

    def _take_suggestions(self) -> None:
        # The classes that bring in the fields: the last of all that have one, before those that know of no record.
        kinds = type(self).__mro__[: type(self).__mro__.index(RecordsGiven)]
        known = {name: f for cls in kinds for name, f in getattr(cls, "__dataclass_fields__", {}).items()}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Suggested):
                self.suggest({f.name: value.value}, value.origin)
            elif _differs(value, f):
                # Also what the `__init__` or `__post_init__` of a derived class has set until here.
                self.__dict__["_given"] |= {f.name}
            elif _differs(value, known[f.name]):
                self.suggest({f.name: value}, f"class {type(self).__name__}")

    def _record_assignments(self) -> None:
        self.__dict__["_recording"] = True

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_recording") and name in self.__dataclass_fields__:
            self.__dict__["_given"] |= {name}
            self._forget_origin(name)
        super().__setattr__(name, value)

    @property
    def given(self) -> frozenset[str]:
        """Names of the fields that the user gave, also those given at their default."""
        return self.__dict__["_given"]

    def described_origins(self) -> list[str]:
        """A line for each origin: `"default of croft: learning_rate=0.003, per_device_train_batch_size=32"`."""
        by_origin: dict[str, list[str]] = {}
        for name, origin in self.__dict__["_origins"].items():
            value = getattr(self, name)
            by_origin.setdefault(origin, []).append(f"{name}={getattr(value, 'value', value)}")
        return [f"{origin}: {', '.join(settings)}" for origin, settings in by_origin.items()]

    @property
    def origins(self) -> dict[str, str]:
        """Where settings come from that the user did not give: `{"learning_rate": "recipe emoji_shift/carot", ...}`."""
        return dict(self.__dict__["_origins"])

    def suggest(self, values: Mapping[str, Any], origin: str) -> None:
        """
        Set fields that the user did not give, and remember where their values come from.

        Args:
            values (`Mapping[str, Any]`): By field name.
            origin (`str`): Where they come from, in words that a card can print.
        """
        replaced = []
        for name, value in values.items():
            if name not in self.given:
                before = getattr(self, name)
                if name in self.__dict__.get("_unclear", ()) and (before or None) != (value or None):
                    replaced.append(f"`{name}={before!r}` becomes {value!r}")
                object.__setattr__(self, name, value)
                # A new mapping: a copy of these settings has a record of its own.
                self.__dict__["_origins"] = {**self.__dict__["_origins"], name: origin}
        if replaced:
            warnings.warn(
                f"{', '.join(replaced)} ({origin}): every field was passed, as by `dataclasses.replace`, `to_dict` or a "
                "plain HfArgumentParser, which does not say that a value at its default is meant. To keep one, assign it "
                "afterwards, or change a `copy.copy` of the arguments, which keeps what was given.",
                stacklevel=2,
            )

    def _forget_origin(self, name: str) -> None:
        self.__dict__["_origins"] = {key: origin for key, origin in self.__dict__["_origins"].items() if key != name}

    def take_defaults(self, values: Mapping[str, Any], origin: str) -> None:
        """
        Set fields that nobody set: neither the user nor a preset or recipe. Defaults of an earlier call are taken back.

        Args:
            values (`Mapping[str, Any]`): By field name. They must be fields from which the constructor derives nothing.
            origin (`str`): Where they come from, in words that a card can print.
        """
        for name, before in self.__dict__.pop("_before_defaults", {}).items():
            if name not in self.given:
                self.derive(**{name: before})
                self._forget_origin(name)
        chosen = {name: value for name, value in values.items() if name not in self.__dict__["_origins"]}
        self.__dict__["_before_defaults"] = {name: getattr(self, name) for name in chosen if name not in self.given}
        self.suggest(chosen, origin)

    def derive(self, **values: Any) -> None:
        """Set fields to what the run makes of them. That is nobody's choice, so it changes no record."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


def methods_that_read(setting: str, unused: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """The methods that read a `setting`, by what each leaves `unused`, with those that merge what ft has trained with it."""
    found = tuple(name for name, settings in unused.items() if setting not in settings)
    # An adapter is of one model, and not of a merge.
    return (*found, *MERGING) if "ft" in found and setting != "lora_keep_adapter" else found


def not_read(setting: str, value: Any, method: str, methods: Collection[str]) -> str:
    """The message on the `value` of a `setting` that was given and that a `method` does not read; `methods` do."""
    return (
        f"`{setting}={getattr(value, 'value', value)}` was given, and the method {method!r} does not use it; "
        f"leave it out, or choose a method that does: {', '.join(methods) or 'one of your own'}."
    )


def _differs(value: Any, of: Field) -> bool:
    default = of.default_factory() if of.default_factory is not MISSING else of.default
    # Transformers turns a switch's default None into False.
    return not isinstance(value, Suggested) and (value or None) != (default or None)
