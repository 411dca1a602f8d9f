# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a run to its finished folder: what is told of it, its metadata and its card."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..data.benchmarks import Benchmark
from ..evaluation.evaluator import Evaluator
from ..evaluation.report import ZERO_SHOT_HEAD, EvaluationReport
from ..modeling.checkpoint import commit_of
from ..modeling.kept_adapter import FACTS as KEPT_FACTS
from ..modeling.metadata import MULTI_LABEL
from ..publishing.card_file import CARD_FILE, is_untouched
from ..publishing.finish import complete_folder, finish_checkpoint
from ..publishing.hardware import describe_hardware
from ..publishing.metadata import METADATA_FILE, write_robustft_json
from ..publishing.progress_card import is_progress_card
from ..publishing.run_folder import EVALUATION_FILE, IMAGE_FILES, RESULT_FILES
from .benchmark_evaluation import as_benchmarks
from .distributed import effective_precision
from .schedules import FIRST_EPOCH_RATE, WITHOUT_WARMUP
from .selective_projection import SPD

#: What a card calls the options of `Trainer.create_model_card`.
_OF_THE_HUB = {"base_model": "finetuned_from", "licence": "license"}
_PRECISION = {"fp32": "float32", "bf16": "bf16, mixed", "fp16": "fp16, mixed"}


def changed_arguments(args: TrainingArguments) -> dict[str, Any]:
    """Return the training arguments among `args` that are not at their defaults, including private ones."""
    # TrainingArguments turns the default None of some switches into False.
    defaults = {field.name: field.default or False for field in fields(args)}
    return {
        name: value
        for name, value in vars(args).items()
        if name in defaults and isinstance(value, (bool, int, float, str)) and (value or False) != defaults[name]
    }


def what_ran(args: TrainingArguments, optimizer: Any = None, scheduler: Any = None) -> dict[str, str]:
    """
    What a card states of a training run in any case, defaults included: name and value in words.

    Settings that neither the user gave nor the library's own defaults hold come with their origin: a method's defaults, a
    recipe, the launcher.

    Args:
        args ([`~transformers.TrainingArguments`]): Settings of the run.
        optimizer, scheduler (`Any`, *optional*): Those that trained in place of what the settings say.
    """
    each, processes, accumulation = args.train_batch_size, args.world_size, args.gradient_accumulation_steps
    length = f"{args.max_steps:,} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    precision = effective_precision(args)
    origins = "; ".join(args.described_origins()) if hasattr(args, "described_origins") else ""
    rate, decay, kind = f"{args.learning_rate:g}", f"{args.weight_decay:g}", getattr(args.optim, "value", args.optim)
    if kind == SPD:
        kind = f"{kind}, strength {args.spd_weight:g}"
    if optimizer is not None:
        groups = optimizer.param_groups
        rate = _values([group.get("initial_lr", group["lr"]) for group in groups])
        decay, kind = _values([group.get("weight_decay", 0.0) for group in groups]), type(optimizer).__name__
    schedule = _schedule(args) if scheduler is None else f"schedule {type(scheduler).__name__}"
    return {
        "Learning rate": f"{rate}, {schedule}",
        "Batch": f"{each:,} per device × {processes} {'process' if processes == 1 else 'processes'} × {accumulation} accumulated = "
        f"{each * processes * accumulation:,}",
        "Length": length,
        "Precision": _PRECISION.get(precision, precision),
        "Optimizer": f"{kind}, weight decay {decay}",
        **({"Not set by hand": origins} if origins else {}),
    }


def _schedule(args: TrainingArguments) -> str:
    name = getattr(args, "lr_schedule", None) or "transformers"
    if name == "transformers":
        name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    if name == "epoch_cosine":
        warmup = f"one epoch at {FIRST_EPOCH_RATE:g}"
    elif not args.warmup_steps or name in WITHOUT_WARMUP:
        warmup = "none"
    else:
        share = args.warmup_steps < 1
        warmup = f"{100 * args.warmup_steps:g} % of the steps" if share else f"{args.warmup_steps:g} steps"
    return f"schedule {name}, warm-up {warmup}"


def _values(numbers: list[float]) -> str:
    return " and ".join(dict.fromkeys(f"{number:g}" for number in numbers))


class FinishedFolder:
    """
    The part of `RobustTrainer` that completes `output_dir`: `robustft.json`, the card, and what a user of the saved model
    will measure.

    Stands before `ObjectiveMixin` and `Trainer` in the order of base classes.
    """

    last_report: EvaluationReport | None
    #: The training set, if it was given as a [`Benchmark`].
    train_benchmark: Benchmark | None = None
    #: Whether `output_dir` holds all there is: a push saves nothing then.
    _is_finished: bool = False
    _train_seconds: float | None = None

    def _write_metadata(self, folder: Path) -> None:
        head = ZERO_SHOT_HEAD if self.head is None else self.head.label
        adapters = None if self.exported_image_adapter() is None else KEPT_FACTS
        write_robustft_json(folder, head=head, adapters=adapters, **self._facts_of_the_model())

    def _facts_of_the_model(self) -> dict[str, Any]:
        names, templates = self._named_classes()
        return {
            "method": self.method,
            "class_names": names,
            "templates": templates,
            "settings": changed_arguments(self.args),
            "image_hashes": () if self.image_check is None else self.image_check.hashes,
            "unreadable_images": self.unreadable_record(),
            "label_names": getattr(self.train_benchmark, "label_names", None) if names else None,
            "problem_type": MULTI_LABEL if self.multi_label else None,
        }

    def _facts_of_the_run(self) -> dict[str, Any]:
        trained = self._train_seconds is not None
        said = {"Trained": self.what_trained(), "Adapters": self.what_is_kept()} if self.trains_model else {}
        what = {name: words for name, words in said.items() if words}
        return {
            "base_model": self.model.name_or_path or None,
            "base_model_revision": commit_of(self.model),
            "hardware": describe_hardware(self.args.device, self.args.world_size),
            "wall_seconds": self._train_seconds,
            "seed": self.args.seed,
            # Without a training its arguments describe nothing.
            "run": what_ran(self.args, *self.given_optimizers()) | what if trained else None,
            "log_history": self.state.log_history,
        }

    def progress(self) -> dict[str, Any]:
        """What the card of a run that goes on says of it, see `write_progress_card`."""
        losses = [(entry["step"], entry["loss"]) for entry in self.state.log_history if "loss" in entry]
        return {
            "title": (self.hub_model_id or Path(self.args.output_dir).resolve().name).split("/")[-1],
            "method": self.method,
            "step": self.state.global_step,
            "total_steps": self.state.max_steps,
            "base_model": self.model.name_or_path or None,
            "trained_on": [self.train_benchmark.name] if self.train_benchmark is not None else [],
            "loss": losses[-1] if losses else None,
            "evaluated_at": self._evaluated_at,
        }

    def _named_classes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        source = self.train_benchmark if self.train_benchmark is not None else self.train_dataset
        names, templates = (tuple(getattr(source, name, None) or ()) for name in ("class_names", "templates"))
        return (names, templates) if names and templates else ((), ())

    # ---- At the end --------------------------------------------------------------------------------------------

    def finish(self, **options: Any) -> EvaluationReport | None:
        """
        Save the model and complete `output_dir`: [`finish_checkpoint`] with this trainer, after `train`.

        Args:
            options (`Any`, *optional*): As for [`finish_checkpoint`].

        Returns:
            [`EvaluationReport`], also in `self.last_report`; `None` without evaluation sets.
        """
        return finish_checkpoint(self.args.output_dir, trainer=self, **options)

    def own_evaluator(self) -> Evaluator | None:
        """Of the evaluation sets of this trainer; `None` if it has none."""
        return None if self.eval_dataset is None else self._evaluator_of(as_benchmarks(self.eval_dataset))

    def checkpoint_facts(self) -> dict[str, Any]:
        """What [`finish_checkpoint`] tells of this run, and the images that it fits on."""
        benchmarks = [] if self.eval_dataset is None else as_benchmarks(self.eval_dataset)
        return {
            **self._facts_of_the_model(),
            "validation": next((benchmark for benchmark in benchmarks if benchmark.role == "validation"), None),
            "train": self.train_benchmark,
            "notes": [*([] if self.image_check is None else self.image_check.notes), *self.unreadable_notes()],
            "shared_images": None if self.image_check is None else self.image_check.shared,
            **self._facts_of_the_run(),
        }

    def note_finished(self, report: EvaluationReport | None) -> None:
        """`output_dir` holds all there is, and `report` is of what it holds."""
        if report is not None:
            self.last_report, self._evaluated_at = report, self.state.global_step
        self._is_finished = True

    def create_model_card(self, **kwargs) -> None:
        """
        Write the card into `output_dir`, unless it is there.

        A card that a person wrote or edited is kept, and one that `write_model_card` wrote since the training began.
        Otherwise the card holds the last evaluation of the run, or says that there was none.

        Args:
            kwargs (`Any`, *optional*): As for [`~transformers.Trainer.create_model_card`]; `license`, `finetuned_from`
                and `model_name` are used.
        """
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        card = folder / CARD_FILE
        old = card.is_file() and (card.stat().st_mtime < self._run_started or is_progress_card(folder))
        if card.is_file() and not (old and is_untouched(card)):
            return
        metadata, facts = folder / METADATA_FILE, {}
        if not metadata.is_file() or metadata.stat().st_mtime < self._run_started:
            facts = {**self._facts_of_the_model(), "head": self.head}
        data = [] if self.train_benchmark is None else [self.train_benchmark]
        data += [benchmark for benchmark in getattr(self, "_evaluated", ()) if benchmark not in data]
        if not data or not self._last_report_is_of_the_export():
            facts["progress"] = self.progress()
        else:
            facts |= {"data": data, "tags": getattr(self.model, "model_tags", None) or (), **self._facts_of_the_run()}
            facts |= {name: kwargs[given] for name, given in _OF_THE_HUB.items() if kwargs.get(given)}
        stays = (EVALUATION_FILE,) if self.last_report is not None else RESULT_FILES
        complete_folder(folder, report=self.last_report, stays=[*stays, *IMAGE_FILES], **facts)

    def _last_report_is_of_the_export(self) -> bool:
        at_the_end = self._evaluated_at == self.state.global_step >= self.state.max_steps
        return self.last_report is not None and at_the_end and not self.args.load_best_model_at_end
