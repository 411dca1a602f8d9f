# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""`finish_checkpoint`: the one way in which a folder becomes a complete, consistent checkpoint."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin
from transformers.utils import CONFIG_NAME

from ..data.benchmarks import Benchmark
from ..evaluation.alpha_sweep import AlphaSweep
from ..evaluation.benchmark_checks import refuse_lists, with_validation
from ..evaluation.detection import RECALL
from ..evaluation.detector import OpenSetDetector
from ..evaluation.evaluator import Evaluator
from ..evaluation.fitting import by_prompts, fit_on_validation, measured_otherwise, search_cache
from ..evaluation.prediction_sets import DEFAULT_COVERAGE, DEFAULT_METHOD, ConformalClassifier
from ..evaluation.predictions import Predictions
from ..evaluation.report import SWEEP_PICTURE, SWEEP_TABLE, ZERO_SHOT_HEAD, EvaluationReport, save_reports
from ..evaluation.temperature import TemperatureScaling
from ..files import locked
from ..modeling.checkpoint import load_checkpoint
from ..modeling.dual_encoder import LOGIT_BIAS, LOGIT_SCALE, DualEncoder
from ..modeling.fitted_weights import weight_files, weights_sample
from ..modeling.heads import load_head
from ..modeling.kept_adapter import refuse_carried
from ..modeling.metadata import FITTED, METADATA_FILE, MULTI_LABEL, load_robustft_json, update_robustft_json
from ..modeling.model_files import MODEL_FILES, fits, has_trained_head
from ..modeling.zero_shot import HEAD_FILE, ZeroShotHead
from ..objectives.papers import METHOD_FACTS
from .card_file import CARD_FILE, PAGE_FILE, RELIABILITY_FILE
from .card_sections import draw_pictures
from .label_lists import check_multi_label, label_thresholds
from .metadata import write_robustft_json
from .model_card import refresh_model_card, write_model_card
from .progress_card import write_progress_card
from .report_page import write_page
from .run_folder import EVALUATION_FILE, LOGITS, LOGITS_STAGE, replacing
from .stage import copy_what_stays, save_scalars

logger = logging.getLogger(__name__)

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
#: What `robustft.json` says of a model, whether or not it was measured.
_OF_THE_MODEL = ("method", "problem_type", "class_names", "templates", "settings", "alpha", "merge", "image_hashes", "label_names", "left_out_classes", "unreadable_images")


def finish_checkpoint(
    output_dir: str | Path,
    *,
    trainer: Any = None,
    model: PreTrainedModel | None = None,
    processor: ProcessorMixin | None = None,
    evaluator: Evaluator | None = None,
    validation: Benchmark | None = None,
    detector: str | OpenSetDetector = "energy",
    true_positive_rate: float = RECALL,
    fold_temperature: bool = False,
    prediction_sets: str = DEFAULT_METHOD,
    coverage: float = DEFAULT_COVERAGE,
    save_logits: bool = False,
    save_predictions: bool = False,
    search_head: bool | None = None,
    **facts: Any,
) -> EvaluationReport | None:
    """
    Make a folder hold one model and its results, all of it and nothing of another run.

    Saves the model, fits a temperature, an open-set detector and prediction sets on validation images, measures the folder as a user will
    load it, and writes `robustft.json`, the head, `evaluation.json`, the pictures and the card. Then [`pipeline`] and
    `hf-robustft evaluate`, `calibrate` and `publish` take the folder. All processes must make this call.

    Files change together: a call that fails or is killed leaves the folder as it was, with the model alone, or finished.
    What a former run left is removed, weights in other parts, adapters, a head, a card and logits included; files of the
    user's, and a card that a person wrote or edited, stay.

    Args:
        output_dir (`str` or `Path`): The folder.
        trainer ([`RobustTrainer`], *optional*): After `trainer.train()`: its model is saved, its evaluation sets are
            measured, the one with the role `validation` is fitted on, and the card tells of its run. What else is given
            takes the place of the trainer's.
        model ([`~transformers.PreTrainedModel`], *optional*): The model to save, such as interpolated weights. By default the
            trainer's; without a trainer the one in the folder stays.
        processor ([`~transformers.CLIPProcessor`], *optional*): Saved with `model`; by default the trainer's.
        evaluator ([`Evaluator`], *optional*): Of the sets to measure on.
        validation ([`Benchmark`], *optional*): In-distribution images, neither trained nor tested on, to fit on.
        detector (`str`, *optional*, defaults to `"energy"`): Score of the open-set detector, or `"none"` for no detector.
            An [`OpenSetDetector`] that was fitted with this model is written as it is. With neither detector nor folded
            temperature nothing is fitted.
        true_positive_rate (`float`, *optional*, defaults to 0.95): Share of validation images that the detector accepts.
        fold_temperature (`bool`, *optional*, defaults to `False`): Put the temperature into the weights before measuring.
        prediction_sets (`str`, *optional*, defaults to `"raps"`): Method of the prediction sets, see [`ConformalClassifier`], or `"none"`.
        coverage (`float`, *optional*, defaults to 0.95): Share of images like the validation images whose set is to hold their class.
        save_logits (`bool`, *optional*, defaults to `False`): Keep the logits of every measured image in `logits`.
        save_predictions (`bool`, *optional*, defaults to `False`): Keep what the model says of every measured image, and of
            every validation image, in `predictions.parquet` (see `evaluation.predictions.load_predictions`).
        search_head (`bool`, *optional*): Choose alpha and beta of a [`TipAdapterHead`] on the validation images. By default
            as the trainer's method has it: where neither was given.
        facts (`Any`, *optional*): What else `robustft.json` and the card say. `method`, `problem_type`, `class_names`, `templates`, `settings`, `alpha`,
            `merge`, `label_names`, `left_out_classes`, `unreadable_images` and `image_hashes` are those of `write_robustft_json`. `baseline` is the [`EvaluationReport`] of
            the model it started from, `train` the training set, `data` the sets of the card where there is no evaluator.
            `base_model`, `hardware`, `wall_seconds`, `seed`, `command`, `licence` and others are those of
            `write_model_card`. `shared_images` is what `ImageCheck.shared` says. `sweep` is the [`AlphaSweep`] in which
            alpha was varied. `selection` says by which rule method and rate were chosen. `report`, `scores`,
            `predictions`, `temperature`, `head` and `logits_dir` are what was measured or fitted elsewhere with this model.

    Returns:
        [`EvaluationReport`]: The results; `None` if nothing was measured, and then there is no card.

    Raises:
        OSError: If there is no model in the folder and none is given, or the folder cannot be written.
        ValueError: If facts do not fit each other, something cannot be fitted or measured, a temperature is to be folded
            that nothing is fitted on, or predictions are to be kept where nothing is measured.

    Example:

    ```python
    from hf_robustft import finish_checkpoint, pipeline

    trainer.train()
    report = finish_checkpoint("outputs/mine", trainer=trainer)
    classify = pipeline("outputs/mine")
    ```
    """
    folder, state = Path(output_dir), PartialState()
    writes = state.is_main_process if trainer is None else trainer.args.should_save
    if trainer is not None:
        facts = trainer.checkpoint_facts() | facts
        evaluator = trainer.own_evaluator() if evaluator is None and "report" not in facts else evaluator
        own = facts.pop("validation")
        validation = own if validation is None else validation
        processor = trainer.processing_class if processor is None else processor
    shared = facts.pop("shared_images", None)
    if fold_temperature and (validation is None or _fitted(detector) is not None):
        why = "there are no validation images to fit one on" if validation is None else "the given detector was fitted without it"
        raise ValueError(f"`fold_temperature` puts a temperature into the weights, and {why}; give `validation` alone, or leave it out.")
    if save_predictions and evaluator is None:
        raise ValueError("`save_predictions` keeps what is measured, and nothing is; give `evaluator`, or leave it out.")
    if save_predictions:
        with_validation(evaluator.benchmarks, validation)
    if trainer is None and model is None and (folder / METADATA_FILE).is_file():
        facts = {name: value for name, value in load_robustft_json(folder).items() if name == "problem_type"} | facts
    multi_label = facts.get("problem_type") == MULTI_LABEL
    # Prompts of a model that stays as it is are measured on lists as they are on single labels.
    prompts = facts.get("method") == "zero_shot" and evaluator is not None and any(b.role != "open_set" and b.several for b in evaluator.benchmarks.values())
    if multi_label or prompts:
        check_multi_label(evaluator, validation, fold_temperature, save_predictions)
    else:
        refuse_lists([*([] if evaluator is None else evaluator.benchmarks.values()), *([] if validation is None else [validation])])
    with locked(folder, "finish_checkpoint") if writes else nullcontext():
        if trainer is not None:
            if model is None:
                trainer.save_model(str(folder), _internal_call=True)
        elif "method" not in facts and (model is not None or evaluator is None and validation is None):
            raise ValueError(
                f"Nothing says how the model for {folder} was made; give `trainer=...` after `trainer.train()`, or `method=...` "
                "with its `class_names` and `templates`."
            )
        elif model is None:
            if writes and not any((folder / name).is_file() for name in _WEIGHTS):
                raise FileNotFoundError(
                    f"There is no model in {folder}; give model and processor, or save the model there first."
                )
        if trainer is None and evaluator is None and validation is None:
            if writes:
                complete_folder(folder, model=model, processor=processor, detector=_fitted(detector), **facts)
            return facts.get("report")
        if model is not None:
            if writes:
                of_the_model = {name: facts[name] for name in (*_OF_THE_MODEL, "head") if name in facts}
                complete_folder(folder, model=model, processor=processor, **of_the_model)
            if trainer is not None:
                # As `save_model` does with the trainer's own.
                trainer.drop_former_checkpoints()
        state.wait_for_everyone()
        known = load_robustft_json(folder)
        facts = {name: known[name] for name in _OF_THE_MODEL if name in known} | facts
        head = load_head(folder).to(state.device) if has_trained_head(folder, known) else None
        model, loaded = load_checkpoint(folder, dtype=None)
        model, processor = model.to(state.device), processor or loaded
        found = {"head": head, "detector": _fitted(detector)}
        prompted = () if head is not None else tuple(facts.get("templates") or ())
        fitted_on = by_prompts(validation, prompted)
        search_head = getattr(trainer, "searches_head", False) if search_head is None else search_head
        if search_head and validation is not None:
            found["cache"] = cache = search_cache(model, fitted_on, processor, head, **_reading(evaluator, validation))
            values = " × ".join(str(grid["values"]) for grid in cache["grid"].values())
            chosen = f"{cache['alpha']:.3g} and {cache['beta']:.3g}, of {values} values those of the highest accuracy "
            chosen += f"({100 * cache['accuracy']:.1f} % of {cache['n']} images) on {cache['fitted_on']}"
            if any(cache[name] >= grid["last"] for name, grid in cache["grid"].items()):
                chosen += "; at the end of the grid, so that a larger value may be better"
            facts["run"] = {**(facts.get("run") or {}), "Alpha and beta of the cache": chosen}
            if writes:
                logger.warning("Alpha and beta of the cache: %s.", chosen)
        if multi_label or prompts:
            reading = {"trained": multi_label, **_reading(evaluator, validation)}
            found["thresholds"], notes = label_thresholds(model, head, fitted_on, processor, facts["class_names"], **reading)
        elif validation is not None and found["detector"] is None:
            found["temperature"], found["detector"], found["prediction_sets"], notes = fit_on_validation(
                model,
                fitted_on,
                processor,
                head,
                detector=detector,
                true_positive_rate=true_positive_rate,
                fold=fold_temperature,
                prediction_sets=prediction_sets,
                coverage=coverage,
                **_reading(evaluator, validation),
            )
        else:
            missing = validation is None and detector != "none"
            notes = [
                "No set with the role validation: no temperature, open-set detector and prediction sets were fitted."
            ] * missing
        notes = [*notes, *measured_otherwise(() if evaluator is None else evaluator.benchmarks.values(), facts.get("class_names"), prompted)]
        # Without a best one there is nothing to fold, as a note says.
        folded = fold_temperature and found.get("temperature") is not None
        if folded and "cache" in found:
            found["cache"]["alpha"] = head.alpha.item()
            facts["run"]["Alpha and beta of the cache"] += f"; the folded temperature makes alpha {head.alpha.item():.3g}"
        for note in notes if writes else ():
            logger.warning(note)
        logits = folder / LOGITS_STAGE
        if writes:
            shutil.rmtree(logits, ignore_errors=True)
        state.wait_for_everyone()
        if evaluator is not None:
            name = METHOD_FACTS[facts["method"]].label if facts["method"] in METHOD_FACTS else facts["method"]
            # A head knows nothing of classes that it was not trained on: their prompts judge.
            measured = None if facts.get("left_out_classes") else head
            found["report"] = evaluator.evaluate(
                model,
                head=measured,
                name=name,
                logits_dir=logits if save_logits else None,
                validation=validation if save_predictions else None,
                thresholds=found.get("thresholds"),
                prediction_sets=found.get("prediction_sets"),
                detector=found["detector"],
            )
            found |= {"scores": evaluator.scores, "logits_dir": logits}
            found |= {"predictions": evaluator.predictions} if save_predictions else {}
        facts |= found
        if shared is not None and facts.get("report") is not None:
            facts["report"].shared_images = shared
        train = facts.pop("train", None)
        sets = ([] if train is None else [train]) + ([] if evaluator is None else list(evaluator.benchmarks.values()))
        # By identity: benchmarks of rows in memory are equal when their descriptions are.
        if validation is not None and not any(validation is item for item in sets):
            sets.append(validation)
        if writes:
            # The temperature is in the weights.
            encoder = DualEncoder.of(model)
            changed = {"scalars": dict(zip((LOGIT_SCALE, LOGIT_BIAS), encoder.scalars, strict=False))} if folded else {}
            measured = () if evaluator is None else evaluator.benchmarks.values()
            complete_folder(folder, measured=measured, **{"data": sets, **facts}, **changed)
        state.wait_for_everyone()
        if trainer is not None:
            trainer.note_finished(facts.get("report"))
        return facts.get("report")


def _reading(evaluator: Evaluator | None, validation: Benchmark | None) -> dict[str, Any]:
    """How validation images are read: as those that are measured."""
    names = ("batch_size", "num_workers", "progress", "bad_images")
    found = {} if evaluator is None else {name: getattr(evaluator, name) for name in names}
    if validation is not None and found.get("bad_images") is not None:
        found["bad_images"] = found["bad_images"].of(f"data set {validation.name!r}")
    return found


def _fitted(detector: str | OpenSetDetector) -> OpenSetDetector | None:
    return detector if isinstance(detector, OpenSetDetector) else None


def complete_folder(
    folder: str | Path,
    *,
    model: PreTrainedModel | None = None,
    processor: ProcessorMixin | None = None,
    scalars: Mapping[str, Tensor] | None = None,
    method: str | None = None,
    class_names: Sequence[str] = (),
    templates: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    alpha: float | None = None,
    merge: Mapping[str, Any] | None = None,
    image_hashes: Sequence[Mapping[str, Any]] = (),
    label_names: Sequence[str] | None = None,
    left_out_classes: Mapping[str, Any] | None = None,
    unreadable_images: Mapping[str, Any] | None = None,
    head: ZeroShotHead | None = None,
    cache: Mapping[str, Any] | None = None,
    selection: Mapping[str, Any] | None = None,
    sweep: AlphaSweep | None = None,
    temperature: TemperatureScaling | None = None,
    thresholds: Mapping[str, Any] | None = None,
    problem_type: str | None = None,
    detector: OpenSetDetector | None = None,
    prediction_sets: ConformalClassifier | None = None,
    report: EvaluationReport | None = None,
    baseline: EvaluationReport | None = None,
    earlier: Sequence[EvaluationReport] = (),
    scores: Mapping[str, Mapping[str, Tensor]] | None = None,
    predictions: Predictions | None = None,
    logits_dir: str | Path | None = None,
    data: Sequence[Benchmark] = (),
    measured: Iterable[Benchmark] = (),
    progress: Mapping[str, Any] | None = None,
    stays: Sequence[str] = (),
    **card: Any,
) -> None:
    """
    Write all that is known of a model into its folder, in one process: what [`finish_checkpoint`] ends with.

    Args:
        folder (`str` or `Path`): The folder. What is in it and not written here goes, if it is ours.
        model ([`~transformers.PreTrainedModel`], *optional*), processor ([`~transformers.CLIPProcessor`], *optional*): To
            save; by default the model in the folder stays.
        scalars (`Mapping[str, torch.Tensor]`, *optional*): By name tensors to be put into the weights in the folder, whose
            every other byte stays.
        method (`str`, *optional*), class_names (`Sequence[str]`, *optional*), templates (`Sequence[str]`, *optional*), settings
            (`Mapping[str, Any]`, *optional*), alpha (`float`, *optional*), merge (`Mapping[str, Any]`, *optional*), image_hashes (`Sequence[Mapping[str, Any]]`,
            *optional*), label_names (`Sequence[str]`, *optional*), left_out_classes (`Mapping[str, Any]`, *optional*), unreadable_images
            (`Mapping[str, Any]`, *optional*): See `write_robustft_json`. Without a method
            `robustft.json` stays, but for what is given, and the head too.
        head ([`ZeroShotHead`], *optional*), temperature ([`TemperatureScaling`], *optional*), detector
            ([`OpenSetDetector`], *optional*), prediction_sets ([`ConformalClassifier`], *optional*): What belongs to the model. A temperature
            without a detector or prediction sets removes those.
        thresholds (`Mapping[str, Any]`, *optional*): Of sigmoids, for `robustft.json`; a temperature without any removes them.
        problem_type (`str`, *optional*): See `write_robustft_json`.
        cache (`Mapping[str, Any]`, *optional*): What `search_cache` found, for `robustft.json`.
        selection (`Mapping[str, Any]`, *optional*): How method and rate were chosen, for `robustft.json` and card: `rule` (its
            name), `says`, `looked_at`, `grid`, `seeds` and `chosen`; `doubt`, where chance may have chosen; `command`, of the run.
        sweep ([`AlphaSweep`], *optional*): Written and drawn beside the results; one in the folder stays without a method.
        report ([`EvaluationReport`], *optional*), baseline ([`EvaluationReport`], *optional*): The results.
        earlier (`Sequence[EvaluationReport]`, *optional*): Of other models, kept in `evaluation.json`.
        scores (`Mapping[str, Mapping[str, torch.Tensor]]`, *optional*), predictions
            ([`~evaluation.predictions.Predictions`], *optional*), logits_dir (`str` or `Path`, *optional*): Of the same
            evaluation.
        measured (`Iterable[Benchmark]`, *optional*): The sets of the results, of whose images the page of the report shows some.
        data (`Sequence[Benchmark]`, *optional*), card (`Any`, *optional*): What else `write_model_card` says. Without method
            and data the card is written again from what `robustft.json` holds for it.
        progress (`Mapping[str, Any]`, *optional*): For `write_progress_card`: that card is written, and the report is shown in
            it alone.
        stays (`Sequence[str]`, *optional*): Patterns of files that stay; pictures and card among them are not written.

    Raises:
        OSError: If the folder cannot be written.
        ValueError: If facts do not fit each other, or the model has an image adapter that is not in its weights.
    """
    folder = Path(folder)
    if (model is None) != (processor is None):
        raise ValueError("A model is saved with its processor; give both, or neither for the model in the folder.")
    if model is not None:
        refuse_carried(model, "saved, it would answer without it; copy the folder that it was loaded from")
    # What the weights that stay need beside them stays too.
    said = load_robustft_json(folder) if model is None and (folder / METADATA_FILE).is_file() else {}
    # A model of another method had a head of its own.
    kept = [] if model is not None else [name for name in MODEL_FILES if method is None or name != HEAD_FILE]
    if method is None:
        stays = [*stays, *(name for name in (SWEEP_TABLE, SWEEP_PICTURE) if (folder / name).is_file())]
    with replacing(folder, keep=[*kept, *stays]) as stage:
        if model is not None:
            model.save_pretrained(stage)
            processor.save_pretrained(stage)
        if scalars:
            save_scalars(folder, stage, scalars)
        parts = {} if cache is None else {"cache": dict(cache)}
        parts |= {} if selection is None else {"selection": dict(selection)}
        if temperature is not None:
            parts |= {"detector": None, "prediction_sets": None, "temperature": temperature.to_dict(), "thresholds": thresholds}
        elif thresholds is not None:
            parts |= {"thresholds": dict(thresholds)}
        if method is None:
            shutil.copy2(folder / METADATA_FILE, stage)
            parts |= {"image_hashes": list(image_hashes)} if image_hashes else {}
        else:
            write_robustft_json(
                stage,
                method=method,
                class_names=class_names,
                templates=templates,
                settings=dict(settings or {}),
                alpha=alpha,
                head=ZERO_SHOT_HEAD if head is None else head.label,
                image_hashes=image_hashes,
                label_names=label_names,
                merge=merge,
                left_out_classes=left_out_classes,
                unreadable_images=unreadable_images,
                problem_type=problem_type,
                adapters=said.get("adapters"),
            )
        if parts:
            update_robustft_json(stage, **parts)
        if head is not None:
            head.save_pretrained(stage)
        if detector is not None:
            detector.save(stage)
        if prediction_sets is not None:
            prediction_sets.save(stage)
        if scalars or any(part is not None for part in (temperature, thresholds, detector, prediction_sets)):
            # Beside the stage lie the weights that stay.
            files = {name: path for name, path in weight_files(folder).items() if fits(name, kept)} | weight_files(stage)
            fitted = set(load_robustft_json(stage)) & set(FITTED)
            update_robustft_json(stage, fitted_weights=weights_sample(files.values()) if fitted else None)
        if logits_dir is not None and Path(logits_dir).is_dir():
            shutil.move(logits_dir, stage / LOGITS)
        if predictions is not None:
            predictions.save(stage)
        if report is not None and RELIABILITY_FILE not in stays:
            reports = [report] if baseline is None or progress is not None else [baseline, report]
            draw_pictures(stage, reports, scores=scores, detector=detector)
        if report is not None and progress is None:
            saved = [*earlier, *([] if baseline is None else [baseline]), report]
            save_reports(stage / EVALUATION_FILE, saved)
            if PAGE_FILE not in stays:
                write_page(folder, stage, saved, measured)
        if report is not None and sweep is not None:
            sweep.save(stage, (merge or {}).get("alpha"))
        if (report is None and progress is None) or CARD_FILE in stays:
            return
        copy_what_stays(folder, stage, [*stays, CONFIG_NAME, *([HEAD_FILE] if method is None else [])])
        if progress is not None:
            write_progress_card(stage, report=report, **progress)
        elif method is None and not data:
            refresh_model_card(stage, report, baseline, title=folder.resolve().name)
        else:
            said = load_robustft_json(stage)
            told = {name: said.get(name) for name in ("method", "settings", "alpha", "merge")} | {"title": folder.resolve().name}
            write_model_card(stage, report=report, baseline=baseline, data=data, **told, **card)
