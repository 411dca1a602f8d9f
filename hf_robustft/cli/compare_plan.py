# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The runs of a comparison: which methods at which rates and seeds, on which data, and what `hf-robustft train` is given for each."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..comparison.concepts import twin_flags
from ..comparison.rules import CONCEPTS
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
from ..training.settings import settle_settings
from .compare_given import Given, Passed
from .compare_length import lengths
from .compare_rates import check_rates, rates_around
from .label_lists import merges_lists
from .merging import MERGEABLE, MERGES
from .own_sets import own_sets, roles_of
from .parser import UsageError
from .run_settings import settings_of, told_of, told_of_model
from .specs import Spec
from .train import TrainingData, load_data
from .train_arguments import SUITE, ModelArguments, TrainCommand

#: Trained, kept as a cache, and derived from the runs of another method: what is compared by default.
DEFAULT = (*METHODS, "tip_adapter", *(name for name, merge in MERGES.items() if merge.alpha))
COMPARABLE = (*METHODS, "tip_adapter", *MERGES)
#: Of each class, for validation and again for testing, where there is nothing else.
HELD_OUT = 0.2
#: With fewer classes, one or two that are left out would decide: then there are no twins unless they are asked for.
FEWEST_CLASSES = 10
#: What is fitted, chosen or drawn on sets that a run which leaves classes out does not have.
_NOT_OF_TWINS = (
    *("eval_datasets", "detector", "true_positive_rate", "prediction_sets", "coverage", "fold_temperature", "alpha_sweep"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start"),
)


@dataclass
class Plan:
    """
    A comparison before it begins.

    Attributes:
        runs (`list[Run]`): In the order in which they are begun.
        rates (`dict[str, list[float]]`): By method that trains.
        seeds (`list[int]`): Of the runs of each.
        roles (`dict[str, str]`): Of the sets that are measured, the validation set included.
        notes (`list[str]`): What was decided, in sentences.
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
        self.rates, self.seeds, self.merged = list(rates), list(dict.fromkeys(seeds)), finetune_with or "ft"
        self.notes: list[str] = []
        self.given = Given(passed, output, self.seeds, self.merged)
        captions = "caption_column" in self.given.passed
        fitting = [name for name in DEFAULT if not captions or name in METHODS and not METHODS[name].needs_labels]
        self.methods, self.asked, self.named = list(dict.fromkeys(methods)) or fitting, {*methods}, {*methods, self.merged}
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
        if "caption_column" in self.given.passed:
            if twins:
                raise UsageError(f"`--rule {CONCEPTS}` leaves classes out of training, and captions have none; choose another rule")
            twins = False
        zero_shot = [] if "caption_column" in self.given.passed else ["zero_shot"]
        self._choose_data()
        self.notes += self.given.check_passed(self.methods)
        parts = {method: self.given.parse(method) for method in (*self.methods, *zero_shot)}
        start = parts[(zero_shot or self.methods)[-1]].model_args
        encoder = outline(start.model, revision=start.model_revision, option="--model")
        trained = [name for name in self.methods if name in METHODS]
        what = f"the {encoder.name} of `--model {start.model}`"
        self._leave_out_unfit(parts, trained, lambda part: settle_settings(part.model_args.trainer, part.args, encoder), what)
        first = next((name for name in self.methods if parts[name][0].has_head), self.methods[0])
        data = self._look_at(parts[first])
        self.given.lists = bool(data.train.several)
        if self.given.lists:
            self.methods = self._of_lists(parts, data, encoder)
            parts = {method: self.given.parse(method) for method in (*self.methods, *zero_shot)}
        self._pin(parts)
        self._check_contexts(parts, data.train.templates)
        images = None if data.train.streaming else len(data.train.load())
        usual = {name: parts[name][2] for name in self.methods if name in METHODS}
        if images is not None and usual:
            self.given.batches, self.given.epochs, said = lengths(usual, images, self.given.passed)
            self.notes += said
        trained = [name for name in self.methods if name in METHODS]
        chosen = {name: sorted(set(self.rates)) or rates_around(name, *parts[name][::2]) for name in trained}
        # What was just decided is among the settings, and refused where a method cannot have it.
        for method in {**self.given.epochs, **self.given.batches}:
            parts[method] = self.given.parse(method)
        told = {**told_of(data), **told_of_model(start.model)}
        self.given.settings = {name: {**settings_of(parts[name][: 3 if name in METHODS else 2]), **told} for name in parts}
        runs = [self.given.run(name, None, None) for name in zero_shot]
        for seed in self.seeds:
            for method in self.methods:
                if method in METHODS:
                    runs += [self.given.run(method, rate, seed) for rate in chosen[method]]
                elif method == "tip_adapter":
                    runs.append(self.given.run(method, None, seed))
                elif method != "model_stock":
                    runs += [self.given.run(method, rate, seed) for rate in chosen[self.merged]]
        if "model_stock" in self.derived:
            runs += [self.given.run("model_stock", rate, None) for rate in chosen[self.merged]]
        roles = _roles(data)
        if twins is not False:
            try:
                runs += self._twins(parts, usual, chosen, data, asked_for=bool(twins))
                roles[LEFT_OUT] = CONCEPTS
            except ValueError as error:
                if twins:
                    raise
                self.notes.append(f"Chosen by validation images, where there are any (--rule id_within), and not by --rule {CONCEPTS}: {str(error).rstrip('.')}")
        return Plan(runs, chosen, self.seeds, roles, self.notes, parts[first][0].model, list(data.evaluation), self.given.lists)

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
        if self.given.lists:
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
        twin, passed = copy(self.given), self.given.passed
        twin.suffix, twin.batches = "-left-out", lengths(usual, images, passed)[0]
        # Where images are held out, groups say which.
        drop = {*_NOT_OF_TWINS, *([] if "hold_out" in passed else ["group_column"])}
        twin.passed = {name: words for name, words in passed.items() if name not in drop}
        texts = [text for text in self.given.values("eval_datasets") if text and set(roles_of(text)) == {"validation"}]
        twin.passed |= {"eval_datasets": ["--eval_datasets", *texts]} if texts else {}
        twin.passed["leave_out_classes"] = twin_flags()
        told = {**told_of(data), **told_of_model(parts[able[0]].model_args.model)}
        twin.settings = {name: {**settings_of(twin.parse(name)[: 3 if name in METHODS else 2]), **told} for name in able}
        runs = [twin.run(name, rate, self.seeds[0]) for name, rate in pairs]
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
            self.given.passed["model_revision"] = ["--model_revision", commit]
            for command in parts.values():
                command.model_args.model_revision = commit

    def _choose_data(self) -> None:
        """Sets to measure on, and images to hold out, where nobody gave any."""
        train = self.given.value("train_dataset", SUITE)
        spec = Spec.parse(train)
        texts = self.given.values("eval_datasets")
        if not texts and not spec.registered:
            texts, said = own_sets(spec)
            self.notes += said
            if texts:
                self.given.passed["eval_datasets"] = ["--eval_datasets", *texts]
        if "hold_out" in self.given.passed or {"streaming", "caption_column"} & set(self.given.passed):
            return
        # A folder to train on is not a set of the test; a registered suite has its own.
        roles = {role for text in texts or ([train] if spec.registered else []) for role in roles_of(text)}
        if spec.registered:
            # Its own validation set serves whatever is measured.
            roles |= {item["role"] for item in registered_sets(spec.source).values() if item["role"] == "validation"}
        missing = [words for role, words in (("validation", "to validate on"), ("id", "to test on")) if role not in roles]
        if missing:
            self.given.passed["hold_out"] = ["--hold_out", str(HELD_OUT)]
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
        self._leave_out_unfit(parts, compares, lambda part: check_contexts(templates), "the prompts of these data")

    def _of_lists(self, parts: dict[str, TrainCommand], data: TrainingData, encoder: DualEncoder) -> list[str]:
        """Keep the methods that can train on lists of labels."""
        merged = merges_lists(METHODS[self.merged], encoder)
        able = [name for name in self.methods if (serves_label_lists(METHODS[name], encoder.similarity) if name in METHODS else name in MERGES and merged)]
        others, words = [name for name in self.methods if name not in able], f"cannot train a {encoder.name} on lists of labels"
        if refused := [name for name in others if name in self.named - {self.merged} or not able]:
            raise UsageError(f"{refused[0]} {words}; compare those that can, such as hf-robustft compare --methods ft lp lp_ft clip_adapter")
        for name in (name for name in able if name in METHODS):
            check_label_lists(METHODS[name], parts[name].args, encoder, data.train.several, data.train.caption_column is not None)
        self.derived = [name for name in self.derived if name in able]
        self.notes += [f"Left out, as they {words}: {', '.join(others)}"] if others else []
        return able

    def _leave_out_unfit(self, parts: dict[str, TrainCommand], methods: list[str], check: Callable[[TrainCommand], None], what: str) -> None:
        for method in methods:
            try:
                check(parts[method])
            except ValueError as error:
                if method in self.named:
                    flag = "--methods" if method in self.asked else "--finetune_with"
                    raise UsageError(f"`{flag} {method}` does not fit {what}; leave {method} out, or change its settings: {error}") from error
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


def _roles(data: TrainingData) -> dict[str, str]:
    sets = [*data.evaluation, *([] if data.validation is None else [data.validation])]
    return {benchmark.name: benchmark.role for benchmark in sets}
