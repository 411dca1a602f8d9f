# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What of the model trains: the parts and layers that a run chooses, among those that its method trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..data.messages import did_you_mean
from ..modeling.dual_encoder import DualEncoder
from ..modeling.trained_parts import PARTS, TOWERS, frozen_modules, last_layers, parameters_by_part, train_only
from .base import ObjectiveMixin, refuse_idle
from .settings import ObjectiveSettings, Range, setting


@dataclass
class TrainedPartsSettings(ObjectiveSettings):
    """What of the model trains."""

    train: str = setting(
        ",".join(PARTS),
        "Parts of the model that train, with commas: 'image' and 'text' (the towers), 'projections' (the maps behind them), "
        "'scale' (logit scale and bias). The others stay as they are.",
    )
    train_last_layers: int = setting(
        0,
        "Train that many last layers of each tower that trains, and what stands behind them: embeddings and earlier layers "
        "stay as they are. 0 trains whole towers.",
        range=Range("must be a number of layers, or 0 for all", whole_from=0),
    )


def names_in(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """
    The names in a list with commas, in the order in which they are known.

    Args:
        option (`str`): The setting that holds the list.
        text (`str`): The list.
        known (`tuple[str, ...]`): What there is.

    Raises:
        ValueError: If there is another name, or none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            advice = f"{near} Give" if near else "; give"
            raise ValueError(f"`{option}={text}`: there is no {name!r}{advice} some of {', '.join(known)}, with commas.")
    if not names:
        raise ValueError(f"`{option}={text!r}` names nothing; give some of {', '.join(known)}, with commas.")
    return tuple(name for name in known if name in names)


def parts_to_train(method: type[ObjectiveMixin], args: Any) -> tuple[str, ...]:
    """
    The parts of the model that a run trains.

    Args:
        method (subclass of [`ObjectiveMixin`]): Its method.
        args ([`~hf_robustft.RobustTrainingArguments`]): Its settings.

    Returns:
        `tuple[str, ...]`: Of the parts that `args` name, those that the method trains.

    Raises:
        ValueError: If a part is unknown, or was given although the method never trains it.
    """
    asked = names_in("train", args.train, PARTS)
    never = [part for part in asked if part not in method.trained_parts]
    if never and "train" in args.given:
        raise ValueError(
            f"`train={args.train}`: the method {method.method!r} trains {' and '.join(method.trained_parts)}, never "
            f"{' or '.join(never)}; leave {' and '.join(never)} out, or choose another method."
        )
    return tuple(part for part in asked if part not in never)


class TrainedPartsMixin(ObjectiveMixin):
    """
    Freezes what `train` and `train_last_layers` leave out: it has no gradient, no state in the optimizer and no decay.

    A tower that is frozen as a whole is in evaluation mode in each step, so that it draws no noise, and a caption that
    repeats is encoded once.

    Raises:
        ValueError: If a tower has fewer layers, the model has nothing of a part that was given, or nothing is left to train.
    """

    settings = TrainedPartsSettings

    @classmethod
    def check_settings(cls, args) -> None:
        super().check_settings(args)
        if cls.trains_model and not set(parts_to_train(cls, args)) & set(TOWERS):
            refuse_idle(args, ["train_last_layers"], f"`train={args.train}` trains no tower; name one")

    @classmethod
    def check_model(cls, args, encoder: DualEncoder) -> None:
        super().check_model(args, encoder)
        of_parts, chosen = parameters_by_part(encoder.model), parts_to_train(cls, args)
        missing = [part for part in chosen if not of_parts[part]]
        if missing and "train" in args.given:
            raise ValueError(f"`train={args.train}`: a {encoder.name} has no linear {' and '.join(missing)}; leave that out.")
        for tower in TOWERS if cls.trains_model else ():
            if tower in chosen:
                last_layers(encoder.model, tower, args.train_last_layers)

    def choose_what_trains(self, args: Any) -> None:
        """Freeze what `args` leave out. Called once, before objectives look at the model."""
        train_only(self.model, parts_to_train(type(self), args), args.train_last_layers)
        if not any(parameter.requires_grad for parameter in self.model.parameters()) and not args.given.isdisjoint(
            ("train", "train_last_layers")
        ):
            raise ValueError(f"`train={args.train}` leaves nothing to train: the model comes with these parts frozen.")

    def still_frozen_towers(self) -> None:
        """Put towers that do not train into evaluation mode."""
        for module in frozen_modules(self.model):
            module.eval()

    def what_trained(self) -> str:
        """What trained, in words with numbers, for a card; empty where it is all that the method trains."""
        args = self.args
        if not args.train_last_layers and set(self.trained_parts) <= set(names_in("train", args.train, PARTS)):
            return ""
        layers = f", the last {args.train_last_layers} layers of each tower" if args.train_last_layers else ""
        counts = [p.numel() for p in self.model.parameters() if p.requires_grad], [p.numel() for p in self.model.parameters()]
        parts = ", ".join(parts_to_train(type(self), args))
        return f"{parts}{layers}: {sum(counts[0]):,} of {sum(counts[1]):,} parameters"
