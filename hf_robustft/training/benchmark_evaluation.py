# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Evaluation inside the Trainer, by the same code as outside it, and what is chosen by its metrics."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import EarlyStoppingCallback
from transformers.optimization import GreedyLR
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from ..data.benchmarks import Benchmark
from ..data.messages import quoted
from ..evaluation.benchmark_checks import is_classified_by
from ..evaluation.evaluator import Evaluator
from ..evaluation.metric_names import checked_direction, greater_is_better, metric_names, resolve_metric
from ..evaluation.report import EvaluationReport

PLATEAU = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)


class BenchmarkEvaluation:
    """
    The part of `RobustTrainer` that measures benchmarks, and gives whoever chooses by a metric (the best checkpoint, early
    stopping, a learning rate on a plateau) its whole name and its direction.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

    last_report: EvaluationReport | None = None
    _evaluated_at: int | None = None
    _evaluator: Evaluator | None = None

    def evaluate(
        self,
        eval_dataset: Benchmark | Sequence[Benchmark] | Mapping[str, Benchmark] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Measure accuracy and calibration on benchmarks, by the same code as [`Evaluator`].

        Args:
            eval_dataset ([`Benchmark`], list or dict of them, or `str`, *optional*): Defaults to the Trainer's own; a
                `str` names one of these. The keys of a dict are the names of its sets.
            ignore_keys (`list[str]`, *optional*): Must be `None`: outputs of the model are not returned, so there is
                nothing to ignore.
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): Keys are `<prefix>_<benchmark>/<metric>`.

        Returns:
            `dict[str, float]`: For example `eval_validation/accuracy`; the whole report is in `self.last_report`.

        Raises:
            ValueError: If there is nothing to evaluate, or something else than benchmarks.
        """
        if ignore_keys is not None:
            raise ValueError(
                f"`ignore_keys={ignore_keys}` names outputs of a model's forward call, which are not collected here; "
                "leave it out."
            )
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if chosen is None:
            raise ValueError("There is nothing to evaluate; pass `eval_dataset=` here or to the Trainer.")
        benchmarks = self._named_set(chosen) if isinstance(chosen, str) else as_benchmarks(chosen)
        evaluator = self._evaluator_of(benchmarks)
        with self.exported_weights() as model:
            self.last_report = evaluator.evaluate(model, head=self.head, name=self.method)
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in self.last_report.metrics().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._evaluated_at = self.state.global_step
        return metrics

    def _evaluator_of(self, benchmarks: list[Benchmark]) -> Evaluator:
        # By identity: benchmarks of rows in memory are equal when their descriptions are.
        if self._evaluator is None or list(map(id, self._evaluated)) != list(map(id, benchmarks)):
            self._evaluator = Evaluator(
                benchmarks,
                self.processing_class,
                batch_size=self.args.eval_batch_size,
                num_workers=self.args.dataloader_num_workers,
                seed=self.args.seed,
                progress=not self.args.disable_tqdm,
                bad_images=self.bad_images,
            )
            self._evaluated = benchmarks
            self._say_prompted(benchmarks)
        return self._evaluator

    def _say_prompted(self, benchmarks: list[Benchmark]) -> None:
        closed = [benchmark for benchmark in benchmarks if self.head is not None and benchmark.role != "open_set"]
        others = [benchmark.name for benchmark in closed if not is_classified_by(self.head.class_names, benchmark)]
        if 0 < len(others) < len(closed) and self.args.should_log:
            warnings.warn(
                f"{quoted(others)} {'has' if len(others) == 1 else 'have'} other classes than the trained head, and {'is' if len(others) == 1 else 'are'} "
                "measured by class prompts instead; give the class_names of the training set to a set that has images of a part of them.",
                stacklevel=4,
            )

    def _named_set(self, name: str) -> list[Benchmark]:
        own = [] if self.eval_dataset is None else as_benchmarks(self.eval_dataset)
        found = [benchmark for benchmark in own if benchmark.name == name]
        if not found:
            names = ", ".join(benchmark.name for benchmark in own) or "none"
            raise ValueError(f"No evaluation set of this Trainer is called {name!r}; it has {names}.")
        return found

    def predict(self, *args, **kwargs):
        """Not available. Raises ValueError: a dual encoder predicts through class prompts, which `Evaluator` makes."""
        raise ValueError(
            "A dual encoder has no labels of its own to predict; measure it with `evaluate`, or classify with "
            "`ZeroShotHead.from_model(model, tokenizer, class_names, templates)`."
        )

    # ---- Choosing by a metric ----------------------------------------------------------------------------------

    def available_metrics(self) -> list[str]:
        """
        Names of the metrics that `evaluate` will report, without the prefix `eval_`.

        A subclass whose `evaluate` adds metrics of its own adds their names here, to choose by them.
        """
        return metric_names(as_benchmarks(self.eval_dataset), None if self.head is None else self.head.class_names)

    def settle_choice(self) -> None:
        """
        Put the whole name and the direction of `metric_for_best_model` into the arguments.

        Raises:
            ValueError: If this run does not measure that metric, `greater_is_better` or the mode of a scheduler
                contradicts its direction, or something needs a metric and there is none.
        """
        args = self.args
        on_plateau = isinstance(self.lr_scheduler, (ReduceLROnPlateau, GreedyLR)) or (
            args.lr_scheduler_type in PLATEAU and args.lr_schedule == "transformers" and self.lr_scheduler is None
        )
        stops_early = any(isinstance(callback, EarlyStoppingCallback) for callback in self.callback_handler.callbacks)
        for needed, what in ((on_plateau, "A scheduler that waits for a plateau"), (stops_early, "Early stopping")):
            if needed and (args.metric_for_best_model is None or args.eval_strategy == IntervalStrategy.NO):
                raise ValueError(
                    f"{what} follows a metric of evaluations during training; set `metric_for_best_model` and "
                    "`eval_strategy`, and pass `eval_dataset=`."
                )
        if args.metric_for_best_model is None or self.eval_dataset is None:
            return
        metric = resolve_metric(args.metric_for_best_model, self.available_metrics())
        # What an earlier Trainer, or Transformers, made of another metric is not the user's word.
        known = greater_is_better(metric)
        greater = known if "greater_is_better" not in args.given and known is not None else args.greater_is_better
        greater = checked_direction(metric, greater)
        if greater is None:
            raise ValueError(
                f"`metric_for_best_model={metric!r}` is your own metric; say its direction, `greater_is_better`."
            )
        args.derive(metric_for_best_model=f"eval_{metric}", greater_is_better=greater)
        if on_plateau:
            self._settle_plateau()

    def _settle_plateau(self) -> None:
        args, mode = self.args, "max" if self.args.greater_is_better else "min"
        given = self.lr_scheduler
        if given is None or self._created_lr_scheduler:
            settings = args.lr_scheduler_kwargs or {}
            found = settings.get("mode", mode)
            args.derive(lr_scheduler_kwargs={**settings, "mode": found})
        else:
            found = given.mode
        if found != mode:
            raise ValueError(
                f"The scheduler's mode {found!r} would lower the rate while `{args.metric_for_best_model}` improves; set "
                f"mode={mode!r}."
            )

    def hyperparameter_search(self, *args, **kwargs):
        """Not available. Raises ValueError: head, adapters and teacher belong to the one model of a Trainer."""
        raise ValueError(
            "`hyperparameter_search` gives one Trainer several models, and head, adapters and teacher belong to one; make a "
            "Trainer for each trial, and compare `trainer.evaluate()` by a metric whose direction is "
            "`hf_robustft.evaluation.metric_names.greater_is_better(name)`."
        )


def as_benchmarks(chosen: Any) -> list[Benchmark]:
    """
    The benchmarks of what a Trainer is given to evaluate.

    Args:
        chosen (`Any`): A [`Benchmark`], a list of them, or a dict, whose keys then are their names.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(chosen, Benchmark):
        return [chosen]
    if isinstance(chosen, Mapping) and all(isinstance(item, Benchmark) for item in chosen.values()):
        chosen = [item if item.name == key else replace(item, name=key) for key, item in chosen.items()]
    if isinstance(chosen, (list, tuple)) and chosen and all(isinstance(item, Benchmark) for item in chosen):
        return list(chosen)
    raise ValueError(
        f"`eval_dataset` must be a `Benchmark`, or a list or dict of them, got {type(chosen).__name__}; "
        "`Benchmark.from_dataset(dataset, name=..., role='id')` makes one of rows with images and labels."
    )
