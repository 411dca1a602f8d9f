# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Evaluation inside the Trainer, by the same code as outside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..data.benchmarks import Benchmark
from ..evaluation.evaluator import Evaluator
from ..evaluation.report import EvaluationReport


class BenchmarkEvaluation:
    """
    The part of `RobustTrainer` that measures benchmarks.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

    _evaluator: Evaluator | None = None

    def evaluate(
        self,
        eval_dataset: Benchmark | Sequence[Benchmark] | Mapping[str, Benchmark] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Accuracy and calibration on benchmarks, by the same code as [`Evaluator`].

        Args:
            eval_dataset ([`Benchmark`], list or dict of them, or `str`, *optional*): Defaults to the Trainer's own; a
                `str` names one of these. The keys of a dict are the names of its sets.
            ignore_keys: Must be `None`; there is no output of the model to leave keys out of.
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
            self.last_report: EvaluationReport = evaluator.evaluate(model, head=self.head, name=self.method)
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in self.last_report.metrics().items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
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
        return self._evaluator

    def _named_set(self, name: str) -> list[Benchmark]:
        own = [] if self.eval_dataset is None else as_benchmarks(self.eval_dataset)
        found = [benchmark for benchmark in own if benchmark.name == name]
        if not found:
            names = ", ".join(benchmark.name for benchmark in own) or "none"
            raise ValueError(f"No evaluation set of this Trainer is called {name!r}; it has {names}.")
        return found

    def predict(self, *args, **kwargs):
        """Not available: raises ValueError. A dual encoder predicts through class prompts, which `Evaluator` makes."""
        raise ValueError(
            "A dual encoder has no labels of its own to predict; measure it with `evaluate`, or classify with "
            "`ZeroShotHead.from_model(model, tokenizer, class_names, templates)`."
        )


def as_benchmarks(chosen: Any) -> list[Benchmark]:
    """
    The benchmarks of what a Trainer is given to evaluate.

    Args:
        chosen: A [`Benchmark`], a list of them, or a dict, whose keys then are their names.

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
