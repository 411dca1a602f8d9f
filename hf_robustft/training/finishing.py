# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a saved model to a finished folder: fitted, measured as a user will load it, and described."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data.benchmarks import Benchmark
from ..data.images import BadImages
from ..evaluation.detector import OpenSetDetector
from ..evaluation.evaluator import Evaluator
from ..evaluation.fitting import fit_on_validation
from ..evaluation.open_set import RECALL
from ..evaluation.report import EvaluationReport
from ..modeling.checkpoint import load_checkpoint
from ..modeling.metadata import load_robustft_json
from ..modeling.zero_shot import ZeroShotHead
from ..objectives.papers import METHOD_FACTS
from ..publishing.finish import finish_checkpoint
from ..publishing.hardware import describe_hardware
from ..publishing.run_folder import LOGITS_STAGE, has_trained_head
from .arguments import RunArguments
from .push_parts import changed_arguments, what_ran


@dataclass
class Finished:
    """
    What `finish_run` did.

    Attributes:
        report ([`EvaluationReport`], *optional*): The results; `None` without benchmarks.
        detector ([`OpenSetDetector`], *optional*): The detector of the folder.
        notes (`list[str]`): What the user should know.
    """

    report: EvaluationReport | None = None
    detector: OpenSetDetector | None = None
    notes: list[str] = field(default_factory=list)


def finish_run(
    args: RunArguments,
    processor: Any,
    *,
    method: str,
    evaluator: Evaluator | None = None,
    train: Benchmark | None = None,
    validation: Benchmark | None = None,
    baseline: EvaluationReport | None = None,
    detector: str = "energy",
    true_positive_rate: float = RECALL,
    fold_temperature: bool = False,
    save_logits: bool = False,
    bad_images: BadImages | None = None,
    **card: Any,
) -> Finished:
    """
    Fit and measure the model in `args.output_dir`, and complete the folder with [`finish_checkpoint`].

    What is reported is what was saved: the folder is loaded again, as a user will. All processes must make this call.

    Args:
        args ([`RobustTrainingArguments`]): Folder, device, batch size, and the settings that are told.
        processor ([`~transformers.CLIPProcessor`]): The model's processor.
        method (`str`): Short name of the method.
        evaluator ([`Evaluator`], *optional*): Of the sets to measure on.
        train, validation ([`Benchmark`], *optional*): The training set; images to fit temperature and detector on.
        baseline ([`EvaluationReport`], *optional*): The model it started from.
        detector, true_positive_rate, fold_temperature: See `fit_on_validation`.
        save_logits (`bool`, *optional*, defaults to `False`): Keep the logits of every measured image.
        bad_images ([`~hf_robustft.data.images.BadImages`], *optional*): What is done about images that cannot be read.
        card: Further facts for the card, see `write_model_card`.

    Returns:
        [`Finished`]

    Raises:
        ValueError, OSError: If something cannot be fitted, measured or written; the model in the folder stays.
    """
    output, state = Path(args.output_dir), PartialState()
    facts = load_robustft_json(output)
    head = ZeroShotHead.from_pretrained(output).to(args.device) if has_trained_head(output, facts) else None
    model = load_checkpoint(output, dtype=None)[0].to(args.device)
    done, temperature = Finished(), None
    if validation is not None:
        temperature, done.detector, done.notes = fit_on_validation(
            model,
            validation,
            processor,
            head,
            detector=detector,
            true_positive_rate=true_positive_rate,
            fold=fold_temperature,
            batch_size=args.eval_batch_size,
            num_workers=args.dataloader_num_workers,
            progress=not args.disable_tqdm,
            bad_images=None if bad_images is None else bad_images.of(f"data set {validation.name!r}"),
        )
    elif detector != "none":
        done.notes.append(
            "No set with the role validation: neither a temperature nor an open-set detector was fitted."
        )
    logits = output / LOGITS_STAGE
    if args.should_save:
        shutil.rmtree(logits, ignore_errors=True)
    state.wait_for_everyone()
    if evaluator is not None:
        name = METHOD_FACTS[method].label if method in METHOD_FACTS else method
        done.report = evaluator.evaluate(model, head=head, name=name, logits_dir=logits if save_logits else None)
    if args.should_save:
        finish_checkpoint(
            output,
            method=method,
            class_names=facts["class_names"],
            templates=facts["templates"],
            settings=changed_arguments(args),
            # The temperature is in the weights.
            model=model if fold_temperature else None,
            processor=processor if fold_temperature else None,
            head=head,
            alpha=facts.get("alpha"),
            temperature=temperature,
            detector=done.detector,
            report=done.report,
            baseline=baseline if done.report is not None else None,
            scores=None if evaluator is None else evaluator.scores,
            logits_dir=logits if save_logits else None,
            data=_sets(train, evaluator, validation),
            image_hashes=facts.get("image_hashes", ()),
            label_names=facts.get("label_names"),
            **{
                "hardware": describe_hardware(args.device, args.world_size),
                "seed": args.seed,
                # Without a training here, its arguments describe nothing.
                "run": None if card.get("wall_seconds") is None else what_ran(args),
                **card,
            },
        )
    state.wait_for_everyone()
    return done


def _sets(train: Benchmark | None, evaluator: Evaluator | None, validation: Benchmark | None) -> Sequence[Benchmark]:
    found = [] if train is None else [train]
    found += [] if evaluator is None else list(evaluator.benchmarks.values())
    # By identity: benchmarks of rows in memory are equal when their descriptions are.
    if validation is not None and not any(validation is benchmark for benchmark in found):
        found.append(validation)
    return found
