# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The runs of a comparison: which methods at which rates and seeds, on which data, and what `hf-robustft train` is given for each."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..comparison.concepts import twin_flags
from ..comparison.rules import CONCEPTS
from ..comparison.runs import rate_text
from ..comparison.schedule import Run
from ..data.benchmarks import Benchmark
from ..data.catalog.sets import registered_sets
from ..data.left_out import LEFT_OUT, leave_out_classes
from ..data.pinned import pinned
from ..modeling.checkpoint import outline
from ..modeling.dual_encoder import DualEncoder
from ..objectives.context_distillation import ContextDistillationMixin, check_contexts
from ..training.label_lists import check_label_lists, serves_label_lists
from ..training.methods import METHODS, RobustTrainingArguments
from ..training.ranges import RANGES
from ..training.settings import settle_settings, unused_settings
from .compare_length import BATCH_FLAG, lengths
from .compare_rates import check_rates, rates_around
from .config_file import read_config, recipes
from .merging import MERGEABLE, MERGES
from .option_checks import check, check_options
from .option_rules import CACHING, MEASURING, MERGE_OPTIONS
from .own_sets import own_sets, roles_of
from .parser import UsageError
from .passed_on import is_given_anyway, refusal
from .run_settings import settings_of, told_of
from .specs import Spec
from .train import TrainingData, load_data
from .train_arguments import SUITE, ModelArguments, TrainCommand, parse, train_parser

#: Trained, kept as a cache, and derived from the runs of another method: what is compared by default.
DEFAULT = (*METHODS, "tip_adapter", *(name for name, merge in MERGES.items() if merge.alpha))
COMPARABLE = (*METHODS, "tip_adapter", *MERGES)
#: Of each class, for validation and again for testing, where there is nothing else; and views of each image for methods that train
#: on the features of a frozen model.
HELD_OUT, VIEWS = 0.2, 4
#: At which WiSE-FT is measured too, for its line from the zero-shot to the fine-tuned model.
ALPHAS = (0.2, 0.4, 0.6, 0.8)
#: With fewer classes, one or two that are left out would decide: then there are no twins unless they are asked for.
FEWEST_CLASSES = 10
#: What is fitted, chosen or drawn on sets that a run which leaves classes out does not have.
_NOT_OF_TWINS = (
    *("eval_datasets", "detector", "true_positive_rate", "prediction_sets", "coverage", "fold_temperature", "alpha_sweep"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start"),
)
Passed = Sequence[tuple[str, Sequence[str]]]


@dataclass
class Plan:
    """
    A comparison before it begins.

    Attributes:
        runs (`list[Run]`): In the order in which they are begun.
        rates (`dict[str, list[float]]`): By method that trains.
        seeds (`list[int]`): Of the runs of each.
        roles (`dict[str, str]`), notes (`list[str]`): Of the sets that are measured, the validation set included; and what was decided.
        model (`str`): Where all start.
        benchmarks (`list[Benchmark]`): The sets of the test.
        lists (`bool`): Whether images have lists of labels.
    """

    runs: list[Run]
    rates: dict[str, list[float]]
    seeds: list[int]
    roles: dict[str, str]
    notes: list[str] = field(default_factory=list)
    model: str = "emoji_clip"
    benchmarks: list[Benchmark] = field(default_factory=list)
    lists: bool = False


def plan(
    methods: Sequence[str],
    rates: Sequence[float],
    seeds: Sequence[int],
    output: str | Path,
    passed: Passed,
    finetune_with: str | None = None,
    twins: bool | None = None,
) -> Plan:
    """
    Decide on the runs, and refuse before the first what any of them could not do.

    Args:
        methods (`Sequence[str]`): Of `COMPARABLE`; empty for those that fit the data.
        rates (`Sequence[float]`): For every method that trains; empty for three around each method's own.
        seeds (`Sequence[int]`): For every rate.
        output (`str` or `Path`): The folder of the comparison.
        passed (`Passed`): What else is given to the runs: settings of training, each with its words.
        finetune_with (`str`, *optional*): Whose models are merged, ft by default.
        twins (`bool`, *optional*): Whether the runs of the first seed are made again without a part of the classes, for the rule
            `concepts`. By default where the data have [`FEWEST_CLASSES`] and it has something to choose among.

    Returns:
        [`Plan`]

    Raises:
        ValueError: By the name of the option, or of the data.
        OSError: If data cannot be read.
    """
    return _Planner(methods, rates, seeds, Path(output), passed, finetune_with).plan(twins)


class _Planner:
    def __init__(self, methods, rates, seeds, output, passed, finetune_with):
        for name, values in (("learning_rates", rates), ("seeds", seeds)):
            if outside := [value for value in values if value not in RANGES[name]]:
                raise UsageError(f"`--{name} {outside[0]}` {RANGES[name].problem}")
        check_rates(rates)
        self.rates, self.seeds, self.output = list(rates), list(dict.fromkeys(seeds)), output
        self.notes: list[str] = []
        self.epochs: dict[str, int] = {}
        self.batches: dict[str, int] = {}
        #: Behind the names of twins; and whether images have lists of labels, which is known when the data are opened.
        self.suffix, self.lists = "", False
        self.passed = {name: list(words) for name, words in self._with_config(passed)}
        self.merged = finetune_with or "ft"
        captions = "caption_column" in self.passed
        fitting = [name for name in DEFAULT if not captions or name in METHODS and not METHODS[name].needs_labels]
        self.methods, self.named = list(dict.fromkeys(methods)) or fitting, {*methods, self.merged}
        self.derived = [name for name in self.methods if name in MERGES]
        if captions and self.derived:
            raise UsageError(f"`--methods {self.derived[0]}` learns nothing from captions; leave it or `--caption_column` out")
        if finetune_with is not None and not self.derived:
            raise UsageError(f"`--finetune_with {finetune_with}` would do nothing: none of --methods merges; add wise_ft or lines")
        if "model_stock" in self.derived and len(self.seeds) < 2:
            raise UsageError("`--methods model_stock` merges the runs of several seeds; give --seeds 0 1")
        if self.derived and self.merged not in MERGEABLE:
            raise UsageError(f"`--finetune_with {self.merged}` cannot be merged; choose of {', '.join(MERGEABLE)}")
        if self.derived and self.merged not in self.methods:
            self.methods.insert(0, self.merged)
            self.notes.append(f"{self.merged} is trained too: {' and '.join(self.derived)} merge{'s' * (len(self.derived) == 1)} it")

    def plan(self, twins: bool | None) -> Plan:
        if "caption_column" in self.passed:
            if twins:
                raise UsageError(f"`--rule {CONCEPTS}` leaves classes out of training, and captions have none; choose another rule")
            twins = False
        zero_shot = [] if "caption_column" in self.passed else ["zero_shot"]
        self._choose_data()
        self._check_passed()
        parts = {method: self._parse(method) for method in (*self.methods, *zero_shot)}
        start = parts[(zero_shot or self.methods)[-1]].model_args
        encoder = outline(start.model, revision=start.model_revision, option="--model")
        trained = [name for name in self.methods if name in METHODS]
        self._leave_out_unfit(parts, trained, lambda part: settle_settings(part.model_args.trainer, part.args, encoder))
        first = next((name for name in self.methods if parts[name][0].has_head), self.methods[0])
        data = self._look_at(parts[first])
        self.lists = bool(data.train.several)
        if self.lists:
            self.methods = self._of_lists(parts, data, encoder)
            parts = {method: self._parse(method) for method in (*self.methods, *zero_shot)}
        self._pin(parts)
        self._check_contexts(parts, data.train.templates)
        images = None if data.train.streaming else len(data.train.load())
        usual = {name: parts[name][2] for name in self.methods if name in METHODS}
        if images is not None and usual:
            self.batches, self.epochs, said = lengths(usual, images, self.passed)
            self.notes += said
        trained = [name for name in self.methods if name in METHODS]
        chosen = {name: sorted(set(self.rates)) or rates_around(name, *parts[name][::2]) for name in trained}
        # What was just decided is among the settings, and refused where a method cannot have it.
        for method in {**self.epochs, **self.batches}:
            parts[method] = self._parse(method)
        self.settings = {name: {**settings_of(parts[name][: 3 if name in METHODS else 2]), **told_of(data)} for name in parts}
        runs = [self._run(name, None, None) for name in zero_shot]
        for seed in self.seeds:
            for method in self.methods:
                if method in METHODS:
                    runs += [self._run(method, rate, seed) for rate in chosen[method]]
                elif method == "tip_adapter":
                    runs.append(self._run(method, None, seed))
                elif method != "model_stock":
                    runs += [self._run(method, rate, seed) for rate in chosen[self.merged]]
        if "model_stock" in self.derived:
            runs += [self._run("model_stock", rate, None) for rate in chosen[self.merged]]
        roles = _roles(data)
        if twins is not False:
            try:
                runs += self._twins(parts, usual, chosen, data, asked_for=bool(twins))
                roles[LEFT_OUT] = CONCEPTS
            except ValueError as error:
                if twins:
                    raise
                self.notes.append(f"Chosen by validation images, where there are any (--rule id_within), and not by --rule {CONCEPTS}: {str(error).rstrip('.')}")
        return Plan(runs, chosen, self.seeds, roles, self.notes, parts[first][0].model, list(data.evaluation), self.lists)

    def _twins(
        self,
        parts: Mapping[str, TrainCommand],
        usual: Mapping[str, RobustTrainingArguments],
        rates: Mapping[str, Sequence[float]],
        data: TrainingData,
        asked_for: bool,
    ) -> list[Run]:
        """
        Of each run of the first seed one that is not trained on a part of the classes, where the method can be asked for others; a
        merge is that of the twins. Raises ValueError where that cannot be, or says too little unless it was `asked_for`.
        """
        if self.lists:
            raise UsageError(f"`--rule {CONCEPTS}` leaves classes out of training, and of lists of labels none can be left out: an image has several")
        why_not = {name: why for name in self.methods if (why := _why_no_twin(name, parts[name][0]))}
        able = [name for name in self.methods if name not in why_not]
        if not able:
            raise UsageError(f"`--rule {CONCEPTS}` asks for classes that were not trained on, and --methods {' '.join(self.methods)} know no others")
        if any(parts[name][2].load_best_model_at_end for name in able):
            raise UsageError(f"`--load_best_model_at_end` keeps the step that validation images choose, and the twins of --rule {CONCEPTS} have none")
        pairs = [(name, rate) for name in able for rate in rates[self.merged if name in MERGES else name]]
        if not asked_for and (classes := len(data.train.class_names)) < FEWEST_CLASSES:
            raise UsageError(f"Of {classes} classes every fifth is too few to choose by ({FEWEST_CLASSES} classes are enough); give --rule {CONCEPTS} to have it all the same")
        if not asked_for and len(pairs) < 2:
            raise UsageError(f"There is only {pairs[0][0]} at one rate to choose by it")
        # What no twin can do is refused before the first run.
        images = len(leave_out_classes(data.train, data.validation)[0].load())
        reasons = [f"{', '.join(name for name in why_not if why_not[name] == why)} ({why})" for why in dict.fromkeys(why_not.values())]
        twin = copy(self)
        twin.suffix, twin.batches = "-left-out", lengths(usual, images, self.passed)[0]
        # Where images are held out, groups say which.
        drop = {*_NOT_OF_TWINS, *([] if "hold_out" in self.passed else ["group_column"])}
        twin.passed = {name: words for name, words in self.passed.items() if name not in drop}
        texts = [text for text in self._values("eval_datasets") if text and set(roles_of(text)) == {"validation"}]
        twin.passed |= {"eval_datasets": ["--eval_datasets", *texts]} if texts else {}
        twin.passed["leave_out_classes"] = twin_flags()
        twin.settings = {name: {**settings_of(twin._parse(name)[: 3 if name in METHODS else 2]), **told_of(data)} for name in able}
        runs = [twin._run(name, rate, self.seeds[0]) for name, rate in pairs]
        without = "" if asked_for else "; hf-robustft compare --rule id_within makes none"
        self.notes.append(
            f"Each run of {', '.join(able)} with seed {self.seeds[0]} has a twin that is not trained on every fifth class, for --rule {CONCEPTS}"
            + (f", which does not choose among {', '.join(reasons)}" if reasons else "")
            + f": {len(runs)} run{'s' * (len(runs) > 1)} more, on {images} images{without}"
        )
        # One of them measures the zero-shot model on these classes, too.
        runs[0] = replace(runs[0], arguments=tuple(word for word in runs[0].arguments if word != "--skip_baseline"))
        return runs

    def _pin(self, parts: Mapping[str, TrainCommand]) -> None:
        """Give all runs the commit of the Hub that the model was looked at: what comes between two of them would set them apart."""
        model = next(iter(parts.values())).model_args
        if (commit := pinned(model.model, model.model_revision)) is not None:
            self.passed["model_revision"] = ["--model_revision", commit]
            for command in parts.values():
                command.model_args.model_revision = commit

    def _parse(self, method: str) -> TrainCommand:
        """The settings of the runs of a method, without rate and seed; of one that merges, as if it trained what it merges."""
        command = parse([*self._words(method), "--output_dir", str(self.output / "runs" / method)])
        # Of several models none is there yet.
        (check_options if method in MERGES and MERGES[method].alpha is None else check)(*command)
        return command

    # ---- What runs are given ---------------------------------------------------------------------------------------

    def _with_config(self, passed: Passed) -> list[tuple[str, list[str]]]:
        """The settings of a YAML file as if they were flags; flags come after it."""
        found = []
        for name, words in passed:
            if name != "config":
                found.append((name, list(words)))
                continue
            values = read_config(train_parser(), words[0].partition("=")[2] or words[-1])
            values = {key: value for key, value in values.items() if not is_given_anyway(key, value)}
            for key in values:
                why = refusal(key) if key != "output_dir" else "is given to the comparison by its own flag"
                if why is not None:
                    raise UsageError(f"`--config` sets {key}, which {why}")
            found = [(key, [f"--{key}", *_texts(value)]) for key, value in values.items()] + found
        return found

    def _reads(self, method: str, name: str) -> bool:
        """Whether the runs of a method take a setting of training, as derived from others where it merges."""
        trainer = METHODS.get(method)
        if name in MERGE_OPTIONS:
            return method in MERGE_OPTIONS[name]
        if name in ("feature_views", "feature_cache"):
            return trainer is not None and not trainer.trains_model
        if name == "paper_settings":
            return bool(getattr(trainer, "paper_settings", {}))
        if name == "shots":
            # A twin is measured on what is left out of them, whatever it trains.
            return trainer is not None or method == "tip_adapter" or "leave_out_classes" in self.passed
        if name == "caption_column":
            return trainer is not None
        if name in RobustTrainingArguments.__dataclass_fields__:
            if trainer is None:
                return name in MEASURING or method == "tip_adapter" and name in CACHING
            return name not in unused_settings(trainer, RobustTrainingArguments)
        return True

    def _check_passed(self) -> None:
        """Refuse a setting that none of the methods reads, and say which read one that others do not."""
        for name, words in self.passed.items():
            readers = [method for method in self.methods if self._reads(method, name)]
            if not readers:
                raise UsageError(f"`{' '.join(words)}` would do nothing: none of --methods {' '.join(self.methods)} reads it; leave it out")
            training = name in RobustTrainingArguments.__dataclass_fields__
            others = [method for method in self.methods if method not in readers and not (training and method not in METHODS)]
            if others:
                self.notes.append(f"`{' '.join(words)}` is for {', '.join(readers)}, not for {', '.join(others)}")

    def _words(self, method: str) -> list[str]:
        words = [word for name, given in self.passed.items() if self._reads(method, name) for word in given]
        trainer = METHODS.get(method)
        if method != "zero_shot" and "caption_column" not in self.passed:
            words += ["--skip_baseline"]
        if trainer is not None and "save_strategy" not in self.passed:
            words += ["--save_strategy", "no"]
        if trainer is not None and not trainer.trains_model and "streaming" not in self.passed:
            if "feature_views" not in self.passed and not self._has_recipe(method):
                words += ["--feature_views", str(VIEWS)]
            if "feature_cache" not in self.passed:
                words += ["--feature_cache", str(self.output / "features")]
        if method == "wise_ft" and not {"alpha_sweep", "leave_out_classes"} & set(self.passed):
            words += ["--alpha_sweep", *map(str, ALPHAS)]
        if method in self.epochs:
            words += ["--num_train_epochs", str(self.epochs[method])]
        if method in self.batches:
            words += [f"--{BATCH_FLAG}", str(self.batches[method]), "--dataloader_drop_last"]
        if "disable_tqdm" not in self.passed:
            words += ["--disable_tqdm"]
        return ["--method", method, *words, "--save_logits" if self.lists else "--save_predictions"]

    def _has_recipe(self, method: str) -> bool:
        return self._value("train_dataset", SUITE) == SUITE and "paper_settings" not in self.passed and f"{SUITE}/{method}" in recipes()

    def _values(self, name: str) -> list[str]:
        """The values that a setting was given, as texts."""
        flag, *values = self.passed.get(name, [""])
        return [*([flag.partition("=")[2]] if "=" in flag else []), *values]

    def _value(self, name: str, default: Any) -> Any:
        return next(iter(self._values(name)), default)

    def _run(self, method: str, rate: float | None, seed: int | None) -> Run:
        words, settings, needs = self._words(method), dict(self.settings[method]), ()
        if method in MERGES:
            needs = tuple(_name(self.merged, rate, item) + self.suffix for item in (self.seeds if seed is None else [seed]))
            words += ["--finetuned_model", *(str(self.output / "runs" / name) for name in needs)]
            settings["finetuned_model"] = list(needs)
        elif rate is not None:
            words += ["--learning_rate", rate_text(rate)]
            settings["learning_rate"] = rate
        if seed is not None:
            words += ["--seed", str(seed)]
            settings["seed"] = seed
        return Run(_name(method, rate, seed) + self.suffix, method, tuple(words), settings, needs)

    # ---- Data ------------------------------------------------------------------------------------------------------

    def _choose_data(self) -> None:
        """Sets to measure on, and images to hold out, where nobody gave any."""
        train = self._value("train_dataset", SUITE)
        spec = Spec.parse(train)
        texts = self._values("eval_datasets")
        if not texts and not spec.registered:
            texts, said = own_sets(spec)
            self.notes += said
            if texts:
                self.passed["eval_datasets"] = ["--eval_datasets", *texts]
        if "hold_out" in self.passed or {"streaming", "caption_column"} & set(self.passed):
            return
        # A folder to train on is not a set of the test; a registered suite has its own.
        roles = {role for text in texts or ([train] if spec.registered else []) for role in roles_of(text)}
        if spec.registered:
            # Its own validation set serves whatever is measured.
            roles |= {item["role"] for item in registered_sets(spec.source).values() if item["role"] == "validation"}
        missing = [words for role, words in (("validation", "to validate on"), ("id", "to test on")) if role not in roles]
        if missing:
            self.passed["hold_out"] = ["--hold_out", str(HELD_OUT)]
            self.notes.append(
                f"There are no images {' or '.join(missing)}: {100 * HELD_OUT:g} % of the training images of each class are held out for "
                f"{'each' if len(missing) > 1 else 'that'}, the same in every run; give --eval_datasets, or --hold_out"
            )

    def _look_at(self, command: TrainCommand) -> TrainingData:
        """The data of all runs, opened and compared once before the first; what is said of them is kept for the notes."""
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            data = load_data(command, compared=True)
        # The first line is on the device of a run.
        self.notes += [line.removeprefix("Note: ").rstrip(".") for line in said.getvalue().splitlines()[1:]]
        if data.evaluator is None:
            raise UsageError("Nothing is measured; give --eval_datasets")
        return data

    def _check_contexts(self, parts: dict[str, TrainCommand], templates: Sequence[str]) -> None:
        """Leave a method out, or refuse it where it is named, that compares prompts and has only one."""
        compares = [name for name in self.methods if issubclass(METHODS.get(name, object), ContextDistillationMixin)]
        compares = [name for name in compares if parts[name][2].context_weight]
        self._leave_out_unfit(parts, compares, lambda part: check_contexts(templates))

    def _of_lists(self, parts: dict[str, TrainCommand], data: TrainingData, encoder: DualEncoder) -> list[str]:
        """Keep the methods that can train on lists of labels."""
        able = [name for name in self.methods if name in METHODS and serves_label_lists(METHODS[name], encoder.similarity)]
        others, words = [name for name in self.methods if name not in able], f"cannot train a {encoder.name} on lists of labels"
        if refused := [name for name in others if name in self.named - {self.merged} or not able]:
            raise UsageError(f"{refused[0]} {words}; compare those that can, such as hf-robustft compare --methods ft lp lp_ft clip_adapter")
        for name in able:
            check_label_lists(METHODS[name], parts[name].args, encoder, data.train.several, data.train.caption_column is not None)
        self.notes += [f"Left out, as they {words}: {', '.join(others)}"] if others else []
        return able

    def _leave_out_unfit(self, parts: dict[str, TrainCommand], methods: list[str], check: Callable[[TrainCommand], None]) -> None:
        for method in methods:
            try:
                check(parts[method])
            except ValueError as error:
                if method in self.named:
                    raise
                self.methods.remove(method)
                del parts[method]
                self.notes.append(f"{method} is left out: {str(error).rstrip('.')}")


def _why_no_twin(method: str, model_args: ModelArguments) -> str | None:
    """Why the rule `concepts` does not choose among the runs of a method; `None` if it does."""
    if not model_args.judged_by_prompts:
        return "a head knows no other classes"
    if method in MERGES and MERGES[method].alpha is None:
        return "it merges several seeds, and one has twins"
    return "its alpha is chosen on validation images, and a twin has none" if model_args.select_alpha else None


def _name(method: str, rate: float | None, seed: int | None) -> str:
    return "-".join([method, *([] if rate is None else [rate_text(rate)]), *([] if seed is None else [str(seed)])])


def _roles(data: TrainingData) -> dict[str, str]:
    sets = [*data.evaluation, *([] if data.validation is None else [data.validation])]
    return {benchmark.name: benchmark.role for benchmark in sets}


def _texts(value: Any) -> list[str]:
    """A setting as the words of a command line."""
    items = value if isinstance(value, list) else [value]
    return [json.dumps(item) if isinstance(item, (dict, bool)) else str(item) for item in items]
