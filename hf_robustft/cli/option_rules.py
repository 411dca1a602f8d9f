# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
What was given and would be ignored is refused. Imports neither torch nor Transformers, so that the first look at a command
line says it too: by what `flags.json` knows of the methods, and afterwards `train_arguments` by their Trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.packaged import CHECKPOINTS
from ..deployment.extras import check_demo, check_space_folder

#: What a command that trains nothing still reads of `RobustTrainingArguments`; and what says that nothing is done.
MEASURING = {
    "output_dir",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "dataloader_prefetch_factor",
    "disable_tqdm",
    "use_cpu",
    "seed",
    "data_seed",
    "log_level",
    "push_to_hub",
    "ddp_backend",
    "ddp_timeout",
}
#: What `tip_adapter` reads beside: it trains nothing and keeps training images.
CACHING = {"tip_alpha", "tip_beta", "tip_views", "train_crop"}
_NOTHING = {"report_to": [], "save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no"}
_OF_ONE = ("finetune_with", "alpha_sweep", "select_alpha")
#: By method that merges, the options that it reads besides `finetuned_model` and `merged_head`; the first is its alpha.
MERGE_READS: dict[str, tuple[str, ...]] = {
    "wise_ft": ("alpha", *_OF_ONE),
    "model_stock": (),
    "lines": ("lines_alpha", "lines_whole_projections", *_OF_ONE),
}
#: By option, the methods that read it.
MERGE_OPTIONS = {
    name: tuple(method for method, reads in MERGE_READS.items() if name in ("finetuned_model", "merged_head", *reads))
    for name in ("finetuned_model", "merged_head", *dict.fromkeys(name for reads in MERGE_READS.values() for name in reads))
}


def trained_method(method: str, finetune_with: str | None = None) -> str:
    """The method that trains, where `method` may merge what another one has trained (`finetune_with`, by default ft)."""
    return finetune_with or "ft" if method in MERGE_READS else method


@dataclass(frozen=True)
class MethodFacts:
    """
    What `flags.json` says of a Trainer.

    Attributes:
        needs_labels (`bool`), trains_model (`bool`): As of its class.
        has_head (`bool`): Whether it makes a head that is measured in place of class prompts.
        unused (`frozenset[str]`): The settings of objectives that it does not read.
    """

    needs_labels: bool
    trains_model: bool
    has_head: bool
    unused: frozenset[str]


class ChosenMethod:
    """What follows of the options `method`, `finetuned_model`, `finetune_with` and `fold_temperature`, which a subclass has."""

    #: By name the Trainer of a method, or its [`MethodFacts`].
    methods: Mapping[str, Any]

    @staticmethod
    def makes_head(trainer: Any) -> bool:
        """Whether a method of [`methods`] makes a head."""
        return trainer.has_head

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.method not in ("zero_shot", "tip_adapter") and not self.finetuned_model

    @property
    def learns(self) -> bool:
        """Whether training images are used, by training or by a cache of them."""
        return self.trains or self.method == "tip_adapter"

    @property
    def has_head(self) -> bool:
        """Whether the method makes a head that is measured in place of class prompts."""
        return self.method == "tip_adapter" or self.method in self.methods and self.makes_head(self.methods[self.method])

    @property
    def judged_by_prompts(self) -> bool:
        """Whether what is trained or merged can be asked for other classes than it was trained on."""
        # Of a merge the weights, whose text tower makes a head of any classes.
        return self.method in MERGE_READS or self.trains and (self.trainer.trains_model or not self.has_head)

    @property
    def trainer(self) -> Any:
        """The Trainer class, or its [`MethodFacts`]; `None` for a method that trains nothing."""
        return self.methods.get(trained_method(self.method, self.finetune_with))

    @property
    def changes_the_model(self) -> bool:
        """Whether another model is saved than the one that is loaded."""
        return self.method != "zero_shot" or self.fold_temperature


def check_sources(options: Any) -> None:
    """
    Refuse a number of models that a method does not merge, and options that have nothing to act on.

    Args:
        options ([`ModelArguments`]): Of the command line.

    Raises:
        ValueError: By the name of the option.
    """
    if options.select_alpha and not options.alpha_sweep:
        raise ValueError("`--select_alpha` chooses among the values of `--alpha_sweep`; give those too.")
    reads, sources = MERGE_READS.get(options.method), options.finetuned_model
    if reads is None:
        return
    shown = f"`--finetuned_model {' '.join(sources)}`"
    if not reads and len(sources) < 2:
        raise ValueError(
            f"`--method {options.method}` merges two runs or more, and there {'is one' if sources else 'is none'}; give their "
            "folders by `--finetuned_model A B`."
        )
    if reads and len(sources) > 1:
        raise ValueError(f"{shown}: `--method {options.method}` takes one; use --method model_stock for several.")
    places = [str(Path(source).resolve()) if Path(source).exists() else source for source in sources]
    if len(set(places)) < len(places):
        raise ValueError(f"{shown} names a run twice, and two equal models merge into that model; give runs of other seeds.")
    if sources and options.finetune_with is not None:
        raise ValueError(f"`--finetune_with {options.finetune_with}` would do nothing: {shown} is trained already; leave it out.")


def check_one_choice_of_settings(given: Mapping[str, Any]) -> None:
    """Refuse a recipe and the settings of a paper among the settings that were `given`. Raises ValueError."""
    if "recipe" in given and given.get("paper_settings", False):
        raise ValueError(f"`--recipe {given['recipe']}` and `--paper_settings` choose the same settings; leave one out.")


def check_bank(bank: str | None, neighbour: int | None) -> None:
    """Refuse the number of a `neighbour` (`--knn_k`) without a `bank` of known images (`--knn_bank`). Raises ValueError."""
    if neighbour is not None and bank is None:
        raise ValueError("`--knn_k` counts neighbours in the set of `--knn_bank`; give that too, or leave it out.")


def check_given(model_args: Any, data_args: Any, args: Any) -> None:
    """
    Refuse what was given and would be ignored, but for settings of objectives, which `check_settings` of a Trainer knows.

    Args:
        model_args ([`ModelArguments`]), data_args ([`DataArguments`]), args ([`RobustTrainingArguments`]): The parts of
            the command line, or what stands for them. Each knows what was given.

    Raises:
        ValueError: By the name of the option, with what it is for.
    """
    method = model_args.method
    _check_model_options(model_args)
    _check_data_options(model_args, data_args)
    _check_left_out(model_args, data_args)
    if not data_args.measures and "eval_strategy" in args.given and args.eval_strategy != "no":
        _refuse(args, ["eval_strategy"], "nothing is measured without --eval_datasets")
    if data_args.feature_views == 0:
        _refuse(args, ["train_crop"], "--feature_views 0 computes one view by the evaluation transform")
    if args.cache_images != "none" and (data_args.streaming or data_args.feature_views is not None):
        why = "the images of a stream come once" if data_args.streaming else "--feature_views keeps features, and images are read no more"
        _refuse(args, ["cache_images"], why)
    if method in MERGE_READS:
        _refuse(args, ["lora_keep_adapter"], f"{method} saves merged weights, and not an adapter")
    if model_args.trains:
        return
    what = "--finetuned_model is trained already" if model_args.finetuned_model else f"{method} trains nothing"
    caching = CACHING if method == "tip_adapter" else set()
    if caching and not args.tip_views:
        _refuse(args, ["train_crop"], "--tip_views 0 keeps one view by the evaluation transform")
    for name in sorted(args.given - MEASURING - caching):
        value = getattr(args, name)
        if not name.startswith("hub_") and not (name in _NOTHING and value == _NOTHING[name]):
            _refuse(args, [name], f"{what}, and this is a setting of training")


def _check_model_options(model_args: Any) -> None:
    for name, methods in MERGE_OPTIONS.items():
        if model_args.method not in methods:
            _refuse(model_args, [name], f"it is for --method {', '.join(methods)}, not {model_args.method}")
    if model_args.model in CHECKPOINTS or Path(model_args.model).expanduser().is_dir():
        _refuse(model_args, ["model_revision"], f"{model_args.model} is not on the Hub")
    if model_args.detector == "none":
        _refuse(model_args, ["true_positive_rate"], "--detector none fits no detector")
        if not model_args.fold_temperature and model_args.prediction_sets != "none":
            _refuse(model_args, ["prediction_sets", "coverage"], "--detector none without --fold_temperature fits nothing")
    if model_args.prediction_sets == "none":
        _refuse(model_args, ["coverage"], "--prediction_sets none fits no sets")


def _check_data_options(model_args: Any, data_args: Any) -> None:
    method, trainer, methods = model_args.method, model_args.trainer, model_args.methods
    if data_args.caption_column is not None:
        if trainer is None or trainer.needs_labels:
            why = "learns from class labels" if model_args.learns else "only measures"
            others = " or ".join(name for name, other in methods.items() if not other.needs_labels)
            raise ValueError(f"`--caption_column`: `--method {method}` {why}; train on captions with {others}.")
        _refuse(data_args, ["shots", "hold_out"], "image-caption pairs have no classes to draw them from")
    if data_args.feature_views is not None and (trainer is None or trainer.trains_model):
        raise ValueError(
            f"`--feature_views` caches the features of a frozen model, and `--method {method}` does not train on them; "
            f"leave it out, or use --method {', '.join(name for name, other in methods.items() if not other.trains_model)}."
        )
    if data_args.feature_cache is not None and data_args.feature_views is None:
        raise ValueError("`--feature_cache` keeps the features of --feature_views; give that too, or leave it out.")
    if not model_args.learns and data_args.leave_out_classes is None:
        _refuse(data_args, ["shots"], "nothing is trained")
    if method == "zero_shot":
        _refuse(data_args, ["skip_baseline"], "zero_shot measures nothing else")
    if not data_args.measures:
        _refuse(data_args, ["skip_baseline", "save_logits", "save_predictions"], "nothing is measured without --eval_datasets")
    if data_args.bad_images == "error":
        _refuse(data_args, ["bad_images_threshold"], "--bad_images error stops at the first one")


def _check_left_out(model_args: Any, data_args: Any) -> None:
    if data_args.leave_out_classes is None:
        _refuse(data_args, ["leave_out_fold"], "it says which classes --leave_out_classes leaves out")
        return
    given = f"`--leave_out_classes {data_args.leave_out_classes}`"
    if not model_args.judged_by_prompts:
        why = "changes a head, which knows no other classes" if model_args.learns else "trains nothing"
        raise ValueError(f"{given} asks what training leaves of other classes, and `--method {model_args.method}` {why}; leave it out.")
    if data_args.caption_column is not None:
        raise ValueError(f"{given}: image-caption pairs have no classes to leave out; leave it out.")
    none_fitted = "--leave_out_classes fits nothing on validation images"
    fits = ["detector", "true_positive_rate", "prediction_sets", "coverage", "fold_temperature", "select_alpha"]
    _refuse(model_args, fits, none_fitted)


def _refuse(options: Any, names: Sequence[str], reason: str) -> None:
    for name in names:
        value = getattr(options, name)
        if name in options.given and value is not False:
            words = value if isinstance(value, list) else [getattr(value, "value", value)]
            shown = "" if value is True else " " + " ".join(map(str, words))
            raise ValueError(f"`--{name}{shown}` would do nothing: {reason}; leave it out.")


def check_demo_options(given: Mapping[str, Any]) -> None:
    """
    Refuse what `hf-robustft demo` would ignore or cannot do.

    Args:
        given (`Mapping[str, Any]`): The options that the user gave.

    Raises:
        ValueError: By the name of the option, or if gradio is not installed and a page is to be shown.
        OSError: If the folder of a Space cannot be read.
    """
    if given.get("space") is not None:
        for name in ("host", "port", "share"):
            if given.get(name):
                raise ValueError(f"`--{name}` is for a page that is shown here, and `--space {given['space']}` writes one; leave one of them out.")
        check_space_folder(given["space"])
    if not 1 <= given.get("port", 1) <= 65535:
        raise ValueError(f"`--port {given['port']}` must be from 1 to 65535.")
    if "nearest_images" in given and "dataset" not in given:
        raise ValueError(f"`--nearest_images {given['nearest_images']}` says how many of --dataset are kept, and there is none; leave it out.")
    if given.get("nearest_images", 1) < 1 or given.get("top_k", 1) < 1:
        name = "top_k" if given.get("top_k", 1) < 1 else "nearest_images"
        raise ValueError(f"`--{name} {given[name]}` must be at least 1.")
    if given.get("space") is None:
        check_demo()
