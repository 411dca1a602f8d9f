# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`finish_checkpoint`: the one way in which a folder becomes a complete, consistent checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from ..data.benchmarks import Benchmark
from ..evaluation.detector import OpenSetDetector
from ..evaluation.report import TRAINED_HEAD, ZERO_SHOT_HEAD, EvaluationReport, save_reports
from ..evaluation.temperature import TemperatureScaling
from ..modeling.metadata import update_robustft_json
from ..modeling.zero_shot import HEAD_FILE, ZeroShotHead
from . import eval_results
from .card_file import CARD_FILE, is_untouched
from .card_sections import draw_pictures
from .metadata import write_robustft_json
from .model_card import write_model_card
from .run_folder import EVALUATION_FILE, LOGITS, MODEL_FILES, replacing, settle

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def finish_checkpoint(
    output_dir: str | Path,
    *,
    method: str,
    class_names: Sequence[str] = (),
    templates: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    model: PreTrainedModel | None = None,
    processor: ProcessorMixin | None = None,
    head: ZeroShotHead | None = None,
    alpha: float | None = None,
    temperature: TemperatureScaling | None = None,
    detector: OpenSetDetector | None = None,
    report: EvaluationReport | None = None,
    baseline: EvaluationReport | None = None,
    scores: Mapping[str, Mapping[str, Tensor]] | None = None,
    logits_dir: str | Path | None = None,
    data: Sequence[Benchmark] = (),
    image_hashes: Sequence[Mapping[str, Any]] = (),
    label_names: Sequence[str] | None = None,
    **card: Any,
) -> Path:
    """
    Make a folder hold one model and its results, all of it and nothing of another run.

    Written are `robustft.json` with temperature and detector, the head, and with a report `evaluation.json`, the
    pictures and the card. All files change together: a call that fails or is killed leaves the folder as it was, or
    finished. What a former run left of these files is removed, weights in other parts, adapters, a head, a card and
    logits included; files of the user's, and a card that a person wrote or edited, stay.

    Args:
        output_dir (`str` or `Path`): The folder.
        method (`str`), class_names, templates, settings, alpha, label_names: As for `write_robustft_json`.
        model ([`~transformers.CLIPModel`], *optional*): The model to save. By default the one in the folder, as
            `trainer.save_model()` left it, stays.
        processor ([`~transformers.CLIPProcessor`], *optional*): Saved with `model`, and needed then.
        head ([`ZeroShotHead`], *optional*): The trained head that the results belong to; without it they belong to prompts.
        temperature ([`TemperatureScaling`], *optional*), detector ([`OpenSetDetector`], *optional*): Fitted on validation
            images with this model.
        report ([`EvaluationReport`], *optional*): The results; without them there is no `evaluation.json` and no card.
        baseline ([`EvaluationReport`], *optional*): Those of the model it started from, on the same data.
        scores (*optional*): `Evaluator.scores` of the report, for `scores.png`.
        logits_dir (*optional*): A folder into which the evaluation wrote its logits; it becomes `logits` in this one.
        data (`Sequence[Benchmark]`): The sets of training and evaluation, for the card.
        image_hashes (*optional*): `ImageCheck.hashes`, by which images that the model has seen are recognised later.
        card: What else `write_model_card` takes: `base_model`, `hardware`, `wall_seconds`, `seed`, `log_history`,
            `command`, `licence`, ...

    Returns:
        `Path`: The folder.

    Raises:
        OSError: If there is no model in the folder and none is given, or the folder cannot be written.
        ValueError: If facts do not fit each other, as `write_robustft_json`, `OpenSetDetector.save` and `write_model_card`
            say.

    Example:

    ```python
    trainer.train()
    trainer.save_model()
    report = Evaluator(benchmarks, processor).evaluate(CLIPModel.from_pretrained("outputs/mine"))
    finish_checkpoint(
        "outputs/mine", method="carot", class_names=names, templates=templates, report=report, data=[train, *benchmarks]
    )
    ```
    """
    folder, settings = Path(output_dir), dict(settings or {})
    settle(folder)
    if (model is None) != (processor is None):
        raise ValueError("A model is saved with its processor; give both, or neither for the model in the folder.")
    if model is None and not any((folder / name).is_file() for name in _WEIGHTS):
        raise FileNotFoundError(
            f"There is no model in {folder}; give model and processor, or save the model there first."
        )
    kept = () if model is not None else [name for name in MODEL_FILES if name != HEAD_FILE]
    with replacing(folder, keep=kept) as stage:
        if model is not None:
            model.save_pretrained(stage)
            processor.save_pretrained(stage)
        write_robustft_json(
            stage,
            method=method,
            class_names=class_names,
            templates=templates,
            settings=settings,
            alpha=alpha,
            head=ZERO_SHOT_HEAD if head is None else TRAINED_HEAD,
            image_hashes=image_hashes,
            label_names=label_names,
        )
        if head is not None:
            head.save_pretrained(stage)
        if temperature is not None:
            update_robustft_json(stage, temperature=temperature.to_dict())
        if detector is not None:
            detector.save(stage)
        if logits_dir is not None and Path(logits_dir).is_dir():
            shutil.move(logits_dir, stage / LOGITS)
        if report is not None:
            _write_results(folder, stage, report, baseline, scores, detector, data)
            write_model_card(
                stage,
                title=folder.resolve().name,
                report=report,
                baseline=baseline,
                method=method,
                data=data,
                settings=settings,
                alpha=alpha,
                **card,
            )
    return folder


def _write_results(
    folder: Path,
    stage: Path,
    report: EvaluationReport,
    baseline: EvaluationReport | None,
    scores: Mapping[str, Mapping[str, Tensor]] | None,
    detector: OpenSetDetector | None,
    data: Sequence[Benchmark],
) -> None:
    reports = [report] if baseline is None else [baseline, report]
    save_reports(stage / EVALUATION_FILE, reports)
    roles = {benchmark.name: benchmark.role for benchmark in data if benchmark.role != "train"}
    draw_pictures(stage, reports, scores=scores, roles=roles, detector=detector)
    # The writers of card and entries keep what people wrote, and must see it.
    written = [folder / CARD_FILE, *(folder / eval_results.FOLDER).glob("*.yaml")]
    for path in written:
        ours = is_untouched if path.name == CARD_FILE else eval_results.is_ours
        if path.is_file() and not ours(path):
            target = stage / path.relative_to(folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(path, target)
