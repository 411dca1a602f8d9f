# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What of the model trains, among the parts that its method trains: all of them, the last layers, or low-rank adapters."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from ..data.messages import did_you_mean
from ..modeling.dual_encoder import DualEncoder
from ..modeling.lora import ADAPTER_FOLDER, LowRankAdapters, adapted_maps, check_peft, check_rank
from ..modeling.trained_parts import (
    PARTS,
    TOWERS,
    frozen_modules,
    last_layers,
    parameters_by_part,
    parameters_to_train,
    train_only,
)
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
    lora_rank: int = setting(
        0,
        "Train towers by low-rank adapters (LoRA) of that rank on the linear maps of their layers, which stay as they are. The "
        "model is saved with the adapters merged. 0 is off; it needs PEFT, the extra 'lora'.",
        range=Range("must be a rank of 1 or more, or 0 for no adapters", whole_from=0),
    )
    lora_alpha: float = setting(
        16.0,
        "What an adapter adds is multiplied by alpha / rank.",
        range=Range("must be above 0", above=True, below=True),
    )
    lora_dropout: float = setting(
        0.0, "Dropout of what the adapters read.", range=Range("must lie in [0, 1); 0 is off", high=1, below=True)
    )
    lora_towers: str = setting(
        ",".join(TOWERS), "Towers that have adapters, with commas. The other one stays as it is."
    )
    lora_rslora: bool = setting(False, "Multiply by alpha / sqrt(rank) instead, for high ranks (rsLoRA).")
    lora_dora: bool = setting(False, "Train the norm of each row of the weights apart from its direction (DoRA).")
    lora_keep_adapter: bool = setting(
        False, "Write the adapters into lora_adapter beside the model too, for PeftModel.from_pretrained."
    )


#: What says how adapters are made.
_OF_ADAPTERS = [f.name for f in fields(TrainedPartsSettings) if f.name.startswith("lora_") and f.name != "lora_rank"]


#: What others call the parts.
_SYNONYMS = {"vision": "image", "visual": "image", "language": "text", "caption": "text"}


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
            near = did_you_mean(_SYNONYMS.get(name.lower(), name), known)
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


def adapted_towers(method: type[ObjectiveMixin], args: Any) -> tuple[str, ...]:
    """
    The towers that a run trains by adapters.

    Args:
        method (subclass of [`ObjectiveMixin`]): Its method.
        args ([`~hf_robustft.RobustTrainingArguments`]): Its settings; their rank is not 0.

    Raises:
        ValueError: If there is none, or `train` and `lora_towers` were given and contradict each other.
    """
    chosen = [part for part in parts_to_train(method, args) if part in TOWERS]
    towers = names_in("lora_towers", args.lora_towers, TOWERS)
    for name, ours, other, theirs in (
        ("lora_towers", towers, "train", chosen),
        ("train", chosen, "lora_towers", towers),
    ):
        left = [tower for tower in ours if tower not in theirs]
        if left and name in args.given:
            of_method = f" in the method {method.method!r}" if set(left) - set(method.trained_parts) else ""
            raise ValueError(
                f"`{name}={getattr(args, name)}` names {' and '.join(left)}, which `{other}={getattr(args, other)}`{of_method} "
                "leaves as it is; name the same towers in both, or leave one out."
            )
    adapted = tuple(tower for tower in towers if tower in chosen)
    if not adapted:
        raise ValueError(
            f"`lora_rank={args.lora_rank}` trains towers by adapters, and `train={args.train}` with "
            f"`lora_towers={args.lora_towers}` trains none; name one in both."
        )
    return adapted


def trained_sides(method: type[ObjectiveMixin], args: Any, encoder: DualEncoder) -> tuple[str, ...]:
    """
    The towers whose features a run changes: they train, or the projection behind them does.

    Args:
        method (subclass of [`ObjectiveMixin`]): Its method.
        args ([`~hf_robustft.RobustTrainingArguments`]): Its settings.
        encoder ([`DualEncoder`]): The model; its weights may be on the meta device.
    """
    parts = parts_to_train(method, args)
    towers = adapted_towers(method, args) if args.lora_rank else parts
    projections = zip(TOWERS, (encoder.visual_projection, encoder.text_projection), strict=True)
    return tuple(
        tower for tower, weight in projections if tower in towers or "projections" in parts and weight is not None
    )


def refuse_without_effect(args: Any, weight: str, acts_on: str) -> None:
    """
    Refuse the `weight` of a term that acts on features (`acts_on`) which no part that trains changes; messages name `args`.

    Raises:
        ValueError: Always.
    """
    # Of adapters the two name the same towers if both were given.
    option = "train" if "train" in args.given or not args.lora_rank else "lora_towers"
    raise ValueError(
        f"`{weight}={getattr(args, weight):g}` acts on {acts_on}, which `{option}={getattr(args, option)}` leaves as they are; name "
        f"more by --{option}, or set {weight} to 0."
    )


class TrainedPartsMixin(ObjectiveMixin):
    """
    Freezes what `train` and `train_last_layers` leave out: it has no gradient, no state in the optimizer and no decay.

    With `lora_rank` the towers are frozen too, and low-rank adapters train in their layers; projections and scale train as
    they do without. Whoever acts on weights acts on those with the adapters in them: teachers, penalties and every export.

    A tower that is frozen as a whole is in evaluation mode in each step, so that it draws no noise, and a caption that
    repeats is encoded once.

    Raises:
        ValueError: If a tower has fewer layers, the model has nothing of a part that was given, or nothing is left to train.
    """

    settings: type[ObjectiveSettings] = TrainedPartsSettings
    lora: LowRankAdapters | None = None
    #: Names of parameters that no feature depends on, which the Trainer has frozen.
    idle_parameters: Collection[str] = ()

    @classmethod
    def check_settings(cls, args) -> None:
        super().check_settings(args)
        if not cls.trains_model:
            return
        if not set(parts_to_train(cls, args)) & set(TOWERS):
            refuse_idle(args, ["train_last_layers"], f"`train={args.train}` trains no tower; name one")
        if not args.lora_rank:
            refuse_idle(args, _OF_ADAPTERS, "`lora_rank=0` makes no adapters; set a rank, such as 8")
            return
        check_peft()
        adapted_towers(cls, args)
        if args.fully_shard:
            raise ValueError(
                f"`lora_rank={args.lora_rank}` does not go together with `fully_shard`: what adapters save is what it would spread; "
                "leave --fully_shard away, and DDP does this run."
            )
        if args.lora_keep_adapter and args.export_weights == "teacher":
            raise ValueError(
                "`lora_keep_adapter` keeps the student's adapters, and `export_weights=teacher` saves an average of weights, which "
                "is not an adapter; leave one of the two out."
            )

    @classmethod
    def check_model(cls, args, encoder: DualEncoder) -> None:
        super().check_model(args, encoder)
        chosen = parts_to_train(cls, args)
        missing = []
        if "train" in args.given:
            of_parts = parameters_by_part(encoder.model)
            missing = [part for part in chosen if not of_parts[part]]
        if missing:
            raise ValueError(f"`train={args.train}`: a {encoder.name} has no linear {' and '.join(missing)}; leave that out.")
        if cls.trains_model and args.lora_rank:
            maps = adapted_maps(encoder.model, adapted_towers(cls, args), args.train_last_layers)
            check_rank(encoder.model, maps, args.lora_rank)
        elif cls.trains_model:
            for tower in [part for part in chosen if part in TOWERS]:
                last_layers(encoder.model, tower, args.train_last_layers)

    def choose_what_trains(self, args: Any) -> None:
        """
        Freeze what `args` leave out, and put the adapters in. Called once, before objectives look at the model.

        Raises:
            ValueError: If nothing is left.
        """
        chosen = parts_to_train(type(self), args)
        self._say_frozen(args, tuple(part for part in chosen if not args.lora_rank or part not in TOWERS))
        if args.lora_rank:
            chosen = tuple(part for part in chosen if part not in TOWERS)
        if set(chosen) != set(PARTS) or args.train_last_layers:
            train_only(self.model, chosen, args.train_last_layers)
        if args.lora_rank:
            self.lora = LowRankAdapters.add(
                self.model,
                adapted_maps(self.model, adapted_towers(type(self), args), args.train_last_layers),
                rank=args.lora_rank,
                alpha=args.lora_alpha,
                dropout=args.lora_dropout,
                rslora=args.lora_rslora,
                dora=args.lora_dora,
                seed=args.seed,
            )
        if not any(parameter.requires_grad for parameter in self.model.parameters()) and not args.given.isdisjoint(
            ("train", "train_last_layers")
        ):
            raise ValueError(f"`train={args.train}` leaves nothing to train: the model comes with these parts frozen.")

    def _say_frozen(self, args: Any, parts: tuple[str, ...]) -> None:
        """Warn of parameters that the method trains and the model has frozen, such as one that another Trainer has used before."""
        wanted = parameters_to_train(self.model, parts, args.train_last_layers)
        if "text" not in self.trained_parts:
            # The projection behind the text tower stays with it.
            wanted -= {id(parameter) for parameter in self.encoder.text_side().parameters()}
        named = {n: p for n, p in self.model.named_parameters() if id(p) in wanted and n not in self.idle_parameters}
        frozen = [name for name, parameter in named.items() if not parameter.requires_grad]
        if frozen and args.should_log:
            warnings.warn(
                f"The model comes with {len(frozen)} of the {len(named)} tensors frozen that the method {self.method!r} trains, such as "
                f"{frozen[0]}: they stay as they are. If it was neither you nor the model's own class that froze them, it was an earlier "
                "Trainer of this model: call `model.requires_grad_(True)` before.",
                stacklevel=4,
            )

    def still_frozen_towers(self) -> None:
        """Put towers that do not train into evaluation mode."""
        for module in frozen_modules(self.model):
            module.eval()

    def what_trained(self) -> str:
        """What trained, in words with numbers, for a card; empty where it is all that the method trains."""
        args, own = self.args, [] if self.lora is None else self.lora.parameters()
        if not args.train_last_layers and not own and set(self.trained_parts) <= set(names_in("train", args.train, PARTS)):
            return ""
        of_parts = parameters_by_part(self.model)
        parts = [part for part in parts_to_train(type(self), args) if any(p.requires_grad for p in of_parts[part])]
        if own:
            towers = " and ".join(adapted_towers(type(self), args))
            parts = [f"LoRA of rank {args.lora_rank} in {towers}", *(part for part in parts if part not in TOWERS)]
        layers = {0: "", 1: "; of towers the last layer"}
        where = layers.get(args.train_last_layers, f"; of towers the last {args.train_last_layers} layers")
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        every = sum(p.numel() for p in self.model.parameters()) - sum(p.numel() for p in own)
        return f"{', '.join(parts)}{where}: {trained:,} parameters of a model of {every:,}"

    def what_is_kept(self) -> str:
        """What the folder of the adapters is, for a card; empty where none is written."""
        if self.lora is None or not self.args.lora_keep_adapter:
            return ""
        return (
            f"in the folder {ADAPTER_FOLDER}, with what else trained; the weights of this model have them merged in. "
            f"PeftModel.from_pretrained(base, '{ADAPTER_FOLDER}') loads them onto the model that the training started from, "
            "without a temperature that was folded in later"
        )

    # ---- Adapters ----------------------------------------------------------------------------------------------

    def exported_parameters(self, exact: bool = False) -> dict[str, Tensor]:
        parameters = super().exported_parameters(exact)
        return parameters if self.lora is None else self.lora.exported(parameters, exact)

    @contextmanager
    def plain_model(self) -> Iterator[None]:
        with super().plain_model(), nullcontext() if self.lora is None else self.lora.merged():
            yield

    def save_extras(self, directory: str) -> None:
        super().save_extras(directory)
        # A checkpoint holds the adapters with the weights.
        if self.lora is not None and self.args.lora_keep_adapter and not self._saving_checkpoint:
            self.lora.save_pretrained(directory)
