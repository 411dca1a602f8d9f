# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Options that an optimizer of Transformers does not read: it says nothing of them, and trains with its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from .selective_projection import SPD

#: What is put in the place of an option to see whether anything changes: some are numbers, others words.
_OTHERS = ("{}1", "true")
_OF_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")


def check_optimizer_options(args: Any) -> None:
    """
    Refuse options that were given to an optimizer which does not read them, such as a misspelt one.

    Transformers' own function says what it makes of them. Where it cannot be asked, for want of a package or of the model, nothing is
    refused.

    Args:
        args ([`RobustTrainingArguments`]): Settings of a run.

    Raises:
        ValueError: If one of them changes nothing.
    """
    optim = str(getattr(args.optim, "value", args.optim))
    if optim == SPD:
        return
    # At its default an option asks for nothing.
    defaults = {f.name: f.default for f in fields(args)}
    given = [name for name in ("optim_args", *_OF_ADAM) if name in args.given and getattr(args, name) not in (None, 0, "", defaults[name])]
    made = _made(args) if given else None
    if made is None:
        return
    for name in given:
        if name == "optim_args":
            for key in _keys(args.optim_args):
                if all(made == _made(args, optim_args=text) for text in _without(args.optim_args, key)):
                    raise ValueError(
                        f"`optim_args={args.optim_args}` has `{key}`, which `optim={optim!r}` does not read, so that it would do nothing; "
                        "correct its name, set another --optim, or leave it out."
                    )
        elif made == _made(args, **{name: getattr(args, name) / 2}):
            raise ValueError(
                f"`{name}={getattr(args, name):g}` was given, and `optim={optim!r}` does not read it, so that it would do nothing; set "
                "another --optim, or leave it out."
            )


def beside_class(args: Any, options: Mapping[str, Any]) -> list[str]:
    """
    The settings of `args` that do nothing beside a class of optimizers and its `options` (`optimizer_cls_and_kwargs`), which take the
    place of `optim` and what belongs to it. A weight decay does something: the groups of parameters have it.
    """
    betas = options.get("betas", (None, None))
    own = {"adam_beta1": betas[0], "adam_beta2": betas[1], "adam_epsilon": options.get("eps"), "learning_rate": options.get("lr")}
    names = ["learning_rate", "optim", "optim_args", "spd_weight", *_OF_ADAM]
    return [name for name in names if own.get(name) != getattr(args, name)]


def _made(args: Any, **changed: Any) -> Any:
    """The class and options of the optimizer with other settings; `None` where Transformers does not make it of them."""
    # Here, since a command line with nothing of this kind has no need of it.
    from transformers import Trainer

    args = copy.copy(args)
    args.derive(**changed)
    try:
        return Trainer.get_optimizer_cls_and_kwargs(args)
    except Exception:
        # Whatever its functions raise for a package that is not there, and for a value that is not one.
        return None


def _pairs(text: str) -> dict[str, str]:
    return dict(part.partition("=")[::2] for part in text.replace(" ", "").split(","))


def _keys(text: str) -> list[str]:
    return list(_pairs(text))


def _without(text: str, key: str) -> Iterator[str | None]:
    """The options without one of them, and with other values of it."""
    pairs = _pairs(text)
    for other in (None, *(other.format(pairs[key]) for other in _OTHERS)):
        changed = {name: value for name, value in pairs.items() if name != key} | ({} if other is None else {key: other})
        yield ",".join(f"{name}={value}" for name, value in changed.items()) or None
