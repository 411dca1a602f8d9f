# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Methods that merge: their weights are a function of where fine-tuning started and of models that came of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from ..data.benchmarks import Benchmark
from ..data.messages import unreadable_note
from ..data.overlap import Sketch
from ..evaluation.alpha_sweep import sweep_alpha
from ..evaluation.report import TRAINED_HEAD, ZERO_SHOT_HEAD
from ..evaluation.temperature import TemperatureScaling
from ..modeling.checkpoint import commit_of, load_dual_encoder, own_files
from ..modeling.checkpoint_file import checkpoint_folder
from ..modeling.dual_encoder import LOGIT_BIAS, LOGIT_SCALE, DualEncoder
from ..modeling.fitted_weights import check_fitted_weights
from ..modeling.interpolation import (
    check_alpha,
    check_interpolation,
    check_whole_projections,
    interpolate_weights,
    lines,
    model_stock,
)
from ..modeling.kept_adapter import refuse_carried
from ..modeling.metadata import METADATA_FILE, MULTI_LABEL, load_robustft_json
from ..modeling.model_files import has_trained_head
from ..modeling.zero_shot import HEAD_FILE, ZeroShotHead
from ..objectives.adapter_heads import FrozenHeadMixin
from ..objectives.cross_entropy import CrossEntropyMixin
from ..training.methods import METHODS
from .option_rules import MERGE_READS, check_sources, trained_method


@dataclass(frozen=True)
class Merge:
    """
    A method that merges.

    Attributes:
        weights (`Callable`): The state dict of start, fine-tuned ones, alpha and [`ModelArguments`]; of models and of heads.
        options (`tuple[str, ...]`): Options that it reads besides `finetuned_model` and `merged_head`; the first is its
            alpha. A method with one takes one fine-tuned model, which it can train.
    """

    weights: Callable[..., dict[str, Tensor]]
    options: tuple[str, ...] = ()

    @property
    def alpha(self) -> str | None:
        """The option that `--alpha_sweep` varies."""
        return self.options[0] if self.options else None


MERGES = {
    "wise_ft": Merge(lambda start, tuned, alpha, _: interpolate_weights(start, *tuned, alpha), MERGE_READS["wise_ft"]),
    "model_stock": Merge(lambda start, tuned, alpha, _: model_stock(start, tuned), MERGE_READS["model_stock"]),
    "lines": Merge(
        lambda start, tuned, alpha, options: lines(start, *tuned, alpha, whole_projections=options.lines_whole_projections),
        MERGE_READS["lines"],
    ),
}
#: The methods that can train what is merged: weights of the model, or a head as the zero-shot classifier is one.
MERGEABLE = tuple(name for name, trainer in METHODS.items() if not issubclass(trainer, FrozenHeadMixin))


def check_merge(options: Any) -> None:
    """
    Refuse what cannot be merged, before any weights or data are read.

    Args:
        options ([`ModelArguments`]): Of the command line.

    Raises:
        ValueError: By the name of the option.
        OSError: If a folder claims a head that is not there.
    """
    check_alpha(options.alpha)
    check_alpha(options.lines_alpha, "lines_alpha")
    for alpha in options.alpha_sweep:
        check_alpha(alpha, "alpha_sweep")
    check_sources(options)
    if options.method not in MERGES:
        return
    sources = options.finetuned_model
    shown = f"`--finetuned_model {' '.join(sources)}`"
    facts = {source: _facts_of(source) for source in sources}
    for what, value in (("base", _base), ("classes", lambda fact: fact.get("class_names"))):
        found = {source: value(fact) for source, fact in facts.items() if value(fact)}
        for source, other in found.items():
            first = next(iter(found))
            if other != found[first]:
                raise ValueError(
                    f"{shown}: {source} has another {what} than {first} ({_briefly(other)} and {_briefly(found[first])}, as their "
                    f"{METADATA_FILE} says); merge runs of one start and one task."
                )
    images = {source: hashes for source, fact in facts.items() if len(hashes := _trained_on(fact))}
    for source, hashes in images.items():
        first = next(iter(images))
        if not np.isin(hashes, images[first]).any():
            raise ValueError(f"{shown}: {source} was trained on none of the images of {first}; merge runs on the same data.")
    for source, fact in facts.items():
        if fact.get("adapters"):
            raise ValueError(
                f"`--finetuned_model {source}` has an image adapter in {fact['adapters'].get('file')}, which is not in its weights, and weights "
                "are merged; train it again without --adapter_image_ratio."
            )
        if fact.get("problem_type") == MULTI_LABEL and fact.get("head") != ZERO_SHOT_HEAD:
            raise ValueError(
                f"`--finetuned_model {source}` was trained on lists of labels, and its {fact.get('head')} is not merged; merge runs on images with one label "
                "each, or use this one as it is."
            )
        if fact.get("head", TRAINED_HEAD) not in (ZERO_SHOT_HEAD, TRAINED_HEAD):
            raise ValueError(
                f"`--finetuned_model {source}` is a model with a {fact['head']}, which nothing can be merged with; give one of "
                f"{', '.join(MERGEABLE)}."
            )
    if sources or not issubclass(METHODS[trained_method(options.method, options.finetune_with)], CrossEntropyMixin):
        heads = [source for source, fact in facts.items() if _has_head(source, fact)]
        _check_heads(options, heads, [source for source in sources if source not in heads])


def _check_heads(options: Any, with_head: Sequence[str], without: Sequence[str]) -> None:
    if options.merged_head == "interpolated" and not with_head:
        what = without[0] if without else f"--method {trained_method(options.method, options.finetune_with)}"
        raise ValueError(f"`--merged_head interpolated`: {what} has no trained head; leave it out.")
    if with_head and without and options.merged_head != "rebuilt":
        raise ValueError(
            f"`--finetuned_model {without[0]}` has no trained head, and {with_head[0]} has one; give --merged_head rebuilt, or runs "
            "of one method."
        )


def check_start(options: Any, args: Any, encoder: DualEncoder) -> None:
    """
    Refuse a model that a method cannot start from, or not merge as it is asked to, before any weights or data are read.

    Args:
        options ([`ModelArguments`]), args ([`RobustTrainingArguments`]): Parts of the command line.
        encoder ([`DualEncoder`]): Of `--model`; its weights may be on the meta device.

    Raises:
        ValueError: By the name of the option.
    """
    refuse_carried(encoder.core, f"`--model {options.model}` can be evaluated, and no run starts from it; give the model before it")
    if options.method in MERGES and options.trains and getattr(options.trainer, "keeps_image_adapter", False):
        if encoder.pools_images and args.adapter_image_ratio:
            raise ValueError(
                f"`--adapter_image_ratio {args.adapter_image_ratio:g}`: of a {encoder.name} the image adapter is in no weight, and {options.method} "
                "merges weights; leave it out."
            )
    if options.method == "lines" and options.lines_whole_projections:
        check_whole_projections(encoder, "--lines_whole_projections")


def check_left_out(options: Any, trained: Sequence[str], left_out: Mapping[str, Any]) -> None:
    """
    Refuse to ask a merge for classes that one of its models has seen.

    Args:
        options ([`ModelArguments`]): Of the command line.
        trained (`Sequence[str]`): The classes that are not left out.
        left_out (`Mapping[str, Any]`): The `share`, `fold` and `classes` of `--leave_out_classes`.

    Raises:
        ValueError: By the name of the model.
    """
    for source in options.finetuned_model:
        names = _facts_of(source).get("class_names") or ()
        if set(names) == set(trained):
            continue
        if seen := [name for name in left_out["classes"] if name in names]:
            why = f"was trained on {len(seen)} of the {len(left_out['classes'])} classes that are to be left out ({seen[0]!r}, ...)"
        else:
            why = "was not trained on the classes that stay, as far as it says"
        twin = f"--leave_out_classes {left_out['share']:g} --leave_out_fold {left_out['fold']}"
        raise ValueError(f"`--finetuned_model {source}` {why}; give a run that was trained with {twin}.")


def notes_on_models(options: Any) -> list[str]:
    """
    Notes on the models of a command: a `--finetuned_model` that says it was fine-tuned from another model than `--model`, or
    whose temperature leaves its weights before they are merged, those of whose training images could not be read, and what of `--model` no run starts from.

    Args:
        options ([`ModelArguments`]): Of the command line.
    """
    notes = []
    for source in options.finetuned_model:
        facts = _facts_of(source)
        base, folded = _base(facts), _folded(facts)
        # Of a folder the card keeps the name alone.
        if base is not None and Path(base).name != Path(options.model).resolve().name:
            notes.append(f"{source} was fine-tuned from {base}, as its {METADATA_FILE} says, and is merged with `--model {options.model}`")
        for row in _unreadable(facts, source):
            notes += [f"in the training of {row.get('model')}, {note.removesuffix('.')}" for note in unreadable_note(row)]
        if folded != 1:
            notes.append(f"{source} is merged as it was trained: the temperature {folded:.4g}, folded in since, is taken out of its weights")
    with suppress(OSError):  # of the Hub, which cannot be asked what it has beside weights that are in the cache
        folder = checkpoint_folder(options.model, METADATA_FILE, revision=options.model_revision)
        facts = load_robustft_json(folder) if (folder / METADATA_FILE).is_file() else {}
        head = facts.get("head", TRAINED_HEAD if (folder / HEAD_FILE).is_file() else ZERO_SHOT_HEAD)
        if head != ZERO_SHOT_HEAD:
            notes.append(f"`--model {options.model}` has a {head}, which is left out: its towers and its prompts are the start")
        if _folded(facts) != 1:
            notes.append(f"`--model {options.model}` has the temperature {_folded(facts):.4g} in its logit scale, from which this starts")
    return notes


def merges_head(options: Any) -> bool:
    """Whether the `options` of a method that merges ask for a trained head that is merged like the weights."""
    if options.method not in MERGES or options.merged_head == "rebuilt":
        return False
    if not options.finetuned_model:
        return issubclass(METHODS[trained_method(options.method, options.finetune_with)], CrossEntropyMixin)
    return all(_has_head(source, _facts_of(source)) for source in options.finetuned_model)


def _facts_of(source: str) -> dict[str, Any]:
    folder = own_files(source)
    if folder is None or not (folder / METADATA_FILE).is_file():
        return {}
    facts = load_robustft_json(folder)
    if _folded(facts) != 1:
        # It is taken out of them.
        check_fitted_weights(folder, facts, ("temperature",))
    return facts


def _unreadable(facts: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Of the training images of a model, or of those that it is merged from, those that could not be read."""
    own = facts.get("unreadable_images")
    return [{"model": name, **own}] if own else [dict(row) for row in facts.get("merge", {}).get("unreadable_images") or ()]


def _has_head(source: str, facts: dict[str, Any]) -> bool:
    folder = own_files(source)
    return folder is not None and has_trained_head(folder, facts)


def _folded(facts: dict[str, Any]) -> float:
    return facts.get("temperature", {}).get("folded", 1.0)


def _base(facts: dict[str, Any]) -> str | None:
    return facts.get("card", {}).get("base_model")


def _briefly(value: Any) -> str:
    return repr(value) if isinstance(value, str) else f"{len(value)}: {value[0]!r}, ..."


def _trained_on(facts: dict[str, Any]) -> np.ndarray:
    sketches = [Sketch.from_dict(entry) for entry in facts.get("image_hashes", ()) if entry.get("role") == "train"]
    return np.concatenate([sketch.hashes for sketch in sketches]) if sketches else np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class FineTuned:
    """
    A model to merge.

    Attributes:
        source (`str`, *optional*): The name of its folder, or its id on the Hub; `None` if it was trained in this run.
        weights (`dict[str, torch.Tensor]`): Its state dict.
        head ([`ZeroShotHead`], *optional*): Its trained head, if that is merged too.
        commit (`str`, *optional*): Of the Hub, where it is from there.
        unreadable (`Sequence[Mapping[str, Any]]`): Of its training images those that could not be read, as its `robustft.json` says.
    """

    source: str | None
    weights: dict[str, Tensor]
    head: ZeroShotHead | None = None
    commit: str | None = None
    unreadable: Sequence[Mapping[str, Any]] = ()


def load_fine_tuned(options: Any, start: PreTrainedModel, train: Benchmark) -> list[FineTuned]:
    """
    The models of `--finetuned_model`.

    Args:
        options ([`ModelArguments`]): Of the command line.
        start ([`~transformers.PreTrainedModel`]): The model that they were fine-tuned from.
        train ([`Benchmark`]): Whose classes trained heads must have.

    Raises:
        ValueError: If one does not fit the start, or its head not the classes.
        OSError: If one cannot be read.
    """
    with_head, found = merges_head(options), []
    for source in options.finetuned_model:
        model, _ = load_dual_encoder(source, option="--finetuned_model")
        head = ZeroShotHead.from_pretrained(source) if with_head else None
        facts = _facts_of(source)
        if _folded(facts) != 1:
            # Beside a start without it, or runs with others, a share of it would stay.
            TemperatureScaling.from_dict(facts["temperature"]).take_out_of(model, head)
        try:
            first, second = check_interpolation(start, model)
        except ValueError as error:
            raise ValueError(f"`--finetuned_model {source}` is not {options.model} fine-tuned: {error}") from None
        if head is None and all(torch.equal(value, second[name]) for name, value in first.items() if name not in (LOGIT_SCALE, LOGIT_BIAS)):
            raise ValueError(
                f"`--finetuned_model {source}` has the weights of `--model {options.model}`, so there is nothing to merge: give "
                "by --model what it was fine-tuned from, and by --finetuned_model a run that changed the weights."
            )
        if head is not None and head.class_names != train.class_names:
            raise ValueError(
                f"`--finetuned_model {source}` has a head for {len(head.class_names)} classes ({head.class_names[0]!r}, ...), which are "
                f"not those of the training set {train.name!r}; give --train_dataset as it was trained, or --merged_head rebuilt."
            )
        name = Path(source).resolve().name if Path(source).exists() else source
        found.append(FineTuned(name, model.state_dict(), head, commit_of(model), _unreadable(facts, name)))
    return found


def merge(
    options: Any,
    data: Any,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    tuned: Sequence[FineTuned],
    trainer: Any = None,
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """
    The model of a method that merges.

    Args:
        options ([`ModelArguments`]): Of the command line.
        data ([`TrainingData`]): The classes of heads, and what `--alpha_sweep` is measured on.
        model ([`~transformers.PreTrainedModel`]): Where fine-tuning started; if there is a `trainer`, it is read again.
        processor ([`~transformers.ProcessorMixin`]): Its processor.
        tuned (`Sequence[FineTuned]`): What came of it; empty if there is a `trainer`.
        trainer ([`RobustTrainer`], *optional*): What has trained, in this run.

    Returns:
        `tuple`: The model, and facts for [`finish_checkpoint`].
    """
    method, facts = MERGES[options.method], {"problem_type": MULTI_LABEL} if data.train.several else {}
    start = model if trainer is None else load_dual_encoder(options.model, revision=options.model_revision, option="--model")[0]
    start = start.to(PartialState().device)
    if trainer is not None:
        # As it would be saved.
        with trainer.exported_weights() as trained:
            tuned = [FineTuned(None, {name: value.clone() for name, value in trained.state_dict().items()}, trainer.head)]
    weights, heads = [item.weights for item in tuned], None
    if merges_head(options):
        classes = data.train.class_names, data.train.templates
        batch = {} if data.evaluator is None else {"batch_size": data.evaluator.batch_size}
        zero_shot = ZeroShotHead.from_model(start, processor, *classes, sharded=True, **batch)
        heads = zero_shot, [item.head.to(start.device) for item in tuned]
    alpha, rule = getattr(options, method.alpha or "", None), "given"
    if options.alpha_sweep:
        # Prompts ask for classes that are left out.
        pair = None if heads is None or data.left_out is not None else (heads[0], *heads[1])
        facts["sweep"] = sweep_alpha(
            start, *weights, data.sweeper, options.alpha_sweep, heads=pair,
            merge=lambda first, second, share: method.weights(first, [second], share, options),
        )  # fmt: skip
        if options.select_alpha:
            alpha = facts["sweep"].best()
            rule = f"best validation accuracy of {', '.join(f'{value:g}' for value in facts['sweep'].reports)}"
        if PartialState().is_main_process:
            print(facts["sweep"].table(alpha))
    merged = copy.deepcopy(start)
    merged.load_state_dict(method.weights(start, weights, alpha, options))
    if heads is not None:
        facts["head"] = copy.deepcopy(heads[0])
        facts["head"].load_state_dict(method.weights(*heads, alpha, options))
    told = {"trained_with": trainer.method} if trainer is not None else {"fine_tuned": [item.source for item in tuned]}
    if commits := {item.source: item.commit for item in tuned if item.commit is not None}:
        told["fine_tuned_revisions"] = commits
    if unreadable := [row for item in tuned for row in item.unreadable]:
        told["unreadable_images"] = unreadable
    told["head"] = "rebuilt" if heads is None else "interpolated"
    if alpha is not None:
        told |= {"alpha": alpha, "alpha_rule": rule}
    if options.method == "lines":
        told["whole_projections"] = options.lines_whole_projections
    if options.method == "wise_ft":
        facts["alpha"] = alpha
    return merged, facts | {"merge": told}
