# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Choosing by a metric: the best checkpoint, when to stop, the learning rate on a plateau."""

from __future__ import annotations

from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import EarlyStoppingCallback
from transformers.optimization import GreedyLR
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from ..evaluation.metric_names import checked_direction, greater_is_better, metric_names, resolve_metric
from .benchmark_evaluation import as_benchmarks

PLATEAU = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)


class ChoosingByMetric:
    """
    The part of `RobustTrainer` that gives every consumer of a metric its whole name and its direction.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

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
            raise ValueError(f"`metric_for_best_model={metric!r}` is your own metric; say its direction, `greater_is_better`.")
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

    def train(self, *args, **kwargs):
        # A trained head, which decides on the scores there are, is younger than the first look.
        self.settle_choice()
        return super().train(*args, **kwargs)

    def hyperparameter_search(self, *args, **kwargs):
        """Not available: raises ValueError. Head, adapters and teacher belong to the one model of a Trainer."""
        raise ValueError(
            "`hyperparameter_search` gives one Trainer several models, and head, adapters and teacher belong to one; make a "
            "Trainer for each trial, and compare `trainer.evaluate()` by a metric whose direction is "
            "`hf_robustft.evaluation.metric_names.greater_is_better(name)`."
        )
