# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Choosing by a metric: the best checkpoint, when to stop, the learning rate on a plateau, hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau
from transformers import EarlyStoppingCallback
from transformers.optimization import GreedyLR
from transformers.trainer_utils import IntervalStrategy, SchedulerType

from ..evaluation.metric_names import checked_direction, metric_names, resolve_metric
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
        head = self.evaluation_head()
        return metric_names(as_benchmarks(self.eval_dataset), None if head is None else head.class_names)

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
        greater = checked_direction(metric, args.greater_is_better)
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

    def hyperparameter_search(
        self,
        hp_space: Callable | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        backend: Any = None,
        hp_name: Callable | None = None,
        **kwargs,
    ):
        """
        Search hyperparameters by `metric_for_best_model`.

        Args:
            compute_objective (`Callable`, *optional*): From the metrics to the objective; by default the value of
                `metric_for_best_model`.
            direction (`str` or list of `str`, *optional*): `"minimize"` or `"maximize"`; by default that of the metric.
                Needed with `compute_objective`.
            hp_space, n_trials, backend, hp_name, kwargs: As for [`~transformers.Trainer.hyperparameter_search`].

        Raises:
            ValueError: If there is no `model_init`, no evaluation set, no metric, or the direction is missing or wrong.
        """
        if self.model_init is None:
            raise ValueError(
                "Each trial starts from a new model; pass `model_init=` to the Trainer instead of `model=`."
            )
        if self.eval_dataset is None:
            raise ValueError("Trials are compared by evaluations; pass `eval_dataset=` to the Trainer.")
        if compute_objective is None:
            if self.args.metric_for_best_model is None:
                raise ValueError(
                    "Trials are compared by `metric_for_best_model`, which is not set; choose one of "
                    f"{', '.join(self.available_metrics())}, or pass `compute_objective=` and `direction=`."
                )
            self.settle_choice()
            metric = self.args.metric_for_best_model
            found = None if direction is None else direction == "maximize"
            greater = checked_direction(metric, found, option="direction")
            direction = "maximize" if (self.args.greater_is_better if greater is None else greater) else "minimize"

            def compute_objective(metrics: dict[str, float]) -> float:
                return metrics[metric]

        elif direction is None:
            raise ValueError("Nobody knows which way `compute_objective` is better; pass `direction=` too.")
        return super().hyperparameter_search(
            hp_space, compute_objective, n_trials, direction, backend, hp_name, **kwargs
        )

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if trial is not None:
            # Transformers sets the values of a trial past every check.
            self.args.check_values()
            self.validate_arguments(self.args)
