# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Temperature or Platt scaling of a finished checkpoint folder: fitted, folded into its weights, and stated in all its files."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from ..data.bad_images import BadImages
from ..data.benchmarks import Benchmark
from ..data.overlap import CHOSEN_ON, TEST_SKETCH_SIZE, Overlap, Sketch, compare, hash_images
from ..data.packaged import check_not_packaged
from ..evaluation.benchmark_checks import refuse_lists
from ..evaluation.calibration import expected_calibration_error
from ..evaluation.collect import collect_logits
from ..evaluation.detector import OpenSetDetector
from ..evaluation.evaluator import Evaluator
from ..evaluation.fitting import LISTS_CALIBRATE, thresholds_record
from ..evaluation.multi_label import calibration_error_per_class
from ..evaluation.platt_scaling import FUNCTIONS, PlattScaling, pair_logits
from ..evaluation.prediction_sets import ConformalClassifier
from ..evaluation.predictions import PREDICTIONS_FILE
from ..evaluation.report import SWEEP_TABLE, EvaluationReport, load_reports
from ..evaluation.tables import check_same_data
from ..evaluation.temperature import TemperatureScaling
from ..files import locked
from ..modeling.checkpoint import load_checkpoint, load_processor
from ..modeling.dual_encoder import LOGIT_BIAS, LOGIT_SCALE, DualEncoder
from ..modeling.fitted_weights import check_fitted_weights
from ..modeling.heads import load_head
from ..modeling.metadata import FITTED, METADATA_FILE, load_robustft_json
from ..modeling.model_files import has_trained_head
from ..modeling.output_folders import check_output_dir
from ..modeling.processes import check_one_process
from . import eval_results
from .card_facts import CardFacts
from .card_file import CARD_FILE, GENERATED_FILE, PAGES, PICTURES
from .card_sections import FOLDED_SINCE
from .finish import complete_folder
from .refitting import drop_other_coverage, fit_sets, former_detector, wanted_sets
from .run_folder import EVALUATION_FILE, IMAGE_FILES, LOGITS, similarity_in
from .unknown_choice import check_images_of_choice, check_unknown, logits_of_unknown, refitted_detector, wanted_risk

#: A temperature this close to 1 changes no number that is shown.
UNCHANGED = 1e-6
_TESTS = ("id", "shift", "open_set")
_WORDS = {"id": "a test set", "shift": "a shift", "open_set": "an open set", "train": "the training set"}


@dataclass
class Recalibration:
    """
    What `recalibrate` did.

    Attributes:
        temperature ([`TemperatureScaling`]): With everything that `robustft.json` now says about it.
        fitted (`float`): The temperature of this fit, which is now in the weights.
        bias (`float`): With Platt scaling what is now in the logit bias too, else 0.
        thresholds (`dict`, *optional*): Of images with lists of labels, above which sigmoid each class is given, as
            `robustft.json` has it: `fitted_on`, `n`, `classes` (thresholds by name) and `default` (names of classes without
            images, whose threshold is 0.5).
        detector ([`OpenSetDetector`], *optional*): The folder's detector, refitted; `None` if it has none.
        prediction_sets ([`ConformalClassifier`], *optional*): The folder's prediction sets, refitted; `None` if it has none.
        before, after ([`EvaluationReport`], *optional*): Results on the evaluation sets, if there were any.
        notes (`list[str]`): What the caller should know.
    """

    temperature: TemperatureScaling
    fitted: float
    bias: float
    detector: OpenSetDetector | None
    before: EvaluationReport | None = None
    after: EvaluationReport | None = None
    thresholds: dict[str, Any] | None = None
    prediction_sets: ConformalClassifier | None = None
    notes: list[str] = field(default_factory=list)


def recalibrate(
    directory: str | Path,
    validation: Benchmark,
    evaluation: Sequence[Benchmark] = (),
    *,
    probabilities: str = "softmax",
    allow_test_set: bool = False,
    keep_detector: bool = True,
    prediction_sets: str | None = None,
    coverage: float | None = None,
    class_conditional: bool | None = None,
    unknown: Benchmark | None = None,
    risk: Mapping[str, Any] | None = None,
    bad_images: BadImages | None = None,
    batch_size: int = 256,
    num_workers: int = 0,
    progress: bool = True,
) -> Recalibration:
    """
    Fit a temperature, or temperature and bias, on in-distribution validation images and fold them into a checkpoint folder.

    In the weights only logit scale and logit bias change, and the scale of a trained head, so predicted classes stay the
    same. The open-set detector is refitted on the same images with its score and rate. `robustft.json` and the card state NLL and ECE
    before and after; `evaluation.json`, the pictures and the card are measured again if there are evaluation sets, and
    otherwise marked as measured before. Either all files change or none does.

    Args:
        directory (`str` or `Path`): The folder, with `robustft.json`.
        validation ([`Benchmark`]): Images in distribution that were neither trained nor tested on, with the folder's class
            names in their order.
        evaluation (`Sequence[Benchmark]`, *optional*): Sets to measure on before and after.
        probabilities (`str`, *optional*, defaults to `"softmax"`): What is to be calibrated. `"softmax"`: the probabilities of
            the classes against each other, by a temperature. `"sigmoid"`: of each class by itself, as the plain pipeline
            shows them of a sigmoid family (SigLIP), by Platt scaling ([`PlattScaling`]) of the pairs of image and class. One
            logit scale cannot serve both; for a sigmoid family the ECE of both is stated, before and after. Images with lists
            of labels are for sigmoids, and then the threshold of the highest F1 of each class is fitted and stored too.
        allow_test_set (`bool`, *optional*, defaults to `False`): Whether to fit even on a test, shift or training set; the
            card then says so.
        keep_detector (`bool`, *optional*, defaults to `True`): Whether to refit the detector; otherwise it is removed.
        prediction_sets (`str`, *optional*): The method of the prediction sets, or `"none"` to remove them. By default the sets of the folder
            are refitted, and fitted (`"raps"`) where `coverage` or `class_conditional` are given.
        coverage (`float`, *optional*): Share of images whose set is to hold their class; by default as before, or 0.95.
        class_conditional (`bool`, *optional*): Whether classes with enough images get a quantile of their own; by default as before.
        unknown ([`Benchmark`], *optional*): Images of none of the classes, with the role `open_set`, to choose the threshold for "unknown" on.
        risk (`Mapping[str, Any]`, *optional*): By what it is chosen: options `max_false_acceptance`, `max_false_refusal`, `confidence` and
            `per_class_thresholds`, or `true_positive_rate`, of [`OpenSetDetector.fit`]. By default the detector is refitted as it was.
        bad_images ([`~hf_robustft.data.bad_images.BadImages`], *optional*): As for [`Evaluator`].
        batch_size (`int`, *optional*, defaults to 256), num_workers (`int`, *optional*, defaults to 0), progress (`bool`,
            *optional*, defaults to `True`): As for [`Evaluator`].

    Returns:
        [`Recalibration`]: What was fitted and measured.

    Raises:
        OSError: If the folder has no `robustft.json` or no safetensors, or an image cannot be read.
        ValueError: If the folder is one of the package, the validation set is one to measure or train on, its classes are
            not the folder's, there are several processes or no best temperature, the precision of the weights cannot hold it, or sigmoids are to be
            calibrated of a model of another family or a trained head, or a head was trained on lists of labels.
    """
    check_not_packaged(directory, "DIR")
    # Each would write the folder, and all but the first would find it locked.
    check_one_process("hf-robustft calibrate", PartialState())
    directory = Path(directory)
    facts = load_robustft_json(directory)
    if probabilities not in FUNCTIONS:
        raise ValueError(f"--probabilities {probabilities!r} is unknown; choose one of {', '.join(FUNCTIONS)}.")
    risk = wanted_risk(facts, risk, unknown, keep_detector)
    wanted = wanted_sets(facts, prediction_sets, coverage, class_conditional, [validation])
    headed = has_trained_head(directory, facts)
    if headed and "problem_type" in facts:
        raise ValueError(
            f"--probabilities {probabilities}: the head in {directory} was trained on lists of labels, and each class has a "
            "probability of its own, which no temperature or bias of the model changes; train again with a larger "
            "--hold_out, on which its thresholds are chosen."
        )
    if probabilities == "sigmoid" and (headed or similarity_in(directory) != "sigmoid"):
        raise ValueError(
            f"--probabilities sigmoid: the model in {directory} {'has a trained head' if headed else 'is not of a sigmoid family'}, "
            "so its probabilities are those of the classes against each other; leave the option out."
        )
    check_output_dir(directory, "DIR")
    options = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    with locked(directory, "hf-robustft calibrate"):
        return _recalibrate(directory, validation, evaluation, probabilities, allow_test_set, keep_detector, wanted, (unknown, risk), bad_images, options)


def _recalibrate(
    directory: Path,
    validation: Benchmark,
    evaluation: Sequence[Benchmark],
    probabilities: str,
    allow_test_set: bool,
    keep_detector: bool,
    wanted: Mapping[str, Any] | None,
    risk: tuple[Benchmark | None, Mapping[str, Any]],
    bad_images: BadImages | None,
    options: Mapping[str, Any],
) -> Recalibration:
    facts = load_robustft_json(directory)
    reports = load_reports(directory / EVALUATION_FILE) if (directory / EVALUATION_FILE).is_file() else []
    if validation.evaluation_only:
        raise ValueError(
            f"{validation.name!r} may be evaluated on, never trained or tuned on, as its licence says; give in-distribution "
            "validation images."
        )
    reason = _why_not_validation(validation, directory, reports, evaluation)
    _refuse(validation, reason, allow_test_set)
    hashes, shared, n_validation = _compared(facts, validation, evaluation)
    if reason is None:
        reason = next((f"not unseen, since {found}" for found in shared if not found.tolerable), None)
        _refuse(validation, reason, allow_test_set)
    _check_classes(facts, validation, directory)
    noted, chosen_on = ([], None) if risk[0] is None else check_unknown(risk[0], validation.class_names, reports, hashes, allow_test_set)
    check_images_of_choice(risk[1], n_validation, None if chosen_on is None else chosen_on.images)
    refuse_lists(evaluation)
    if probabilities != "sigmoid":
        refuse_lists([validation], LISTS_CALIBRATE)
    if facts["templates"] and validation.templates != tuple(facts["templates"]):
        # The probabilities to calibrate are those of the folder's own prompts.
        validation = replace(validation, templates=tuple(facts["templates"]))
    evaluator = None
    if evaluation:
        # Refuses sets that do not fit each other, before weights are read.
        evaluator = Evaluator(evaluation, load_processor(directory), bad_images=bad_images, **options)
    check_fitted_weights(directory, facts, FITTED)
    device = PartialState().device
    model, processor = load_checkpoint(directory, dtype=None)
    model = model.to(device)
    encoder = DualEncoder.of(model)
    logit_scale = encoder.logit_scale
    if logit_scale.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"The weights in {directory} are in {logit_scale.dtype}, whose logit scale cannot hold a temperature; load "
            "them with dtype=torch.float32 and save them again first."
        )
    head = load_head(directory).to(device) if has_trained_head(directory, facts) else None
    bad = None if bad_images is None else bad_images.of(f"data set {validation.name!r}")
    logits, labels = collect_logits(model, validation, processor, head=head, bad_images=bad, **options)
    # Of a sigmoid family, before the fit: what is in the weights is changed by it.
    pairs = pair_logits(model, logits) if encoder.similarity == "sigmoid" and head is None else None
    temperature = _fitted(facts, logits, labels, pairs if probabilities == "sigmoid" else None)
    fitted, bias = temperature.temperature, getattr(temperature, "bias", 0.0)
    temperature.record |= {"fitted_on": validation.name, "test_set": reason is not None}
    thresholds = thresholds_record(temperature.probabilities(pairs), labels, validation) if labels.ndim == 2 else None
    name = reports[-1].model if reports else facts["method"]
    before = None if evaluator is None else evaluator.evaluate(model, head=head, name=name)
    notes = [f"{found}." for found in shared]
    if thresholds is None and "thresholds" in facts:
        notes.append("The thresholds of labels are removed, as the probabilities have changed; fit them again on lists of labels.")
    detector = former_detector(directory, facts, validation, keep_detector, notes)
    unknown_logits = None
    if risk[0] is not None:
        notes += noted
        unknown_logits = logits_of_unknown(model, risk[0], validation, processor, head, bad_images, options)
    whose = (validation.name, None if risk[0] is None else risk[0].name)
    detector = refitted_detector(model, temperature, detector, logits, head, unknown_logits, risk[1], validation.class_names, whose)
    if chosen_on is not None and detector is not None and (detector.risk or {}).get("controls") == "false_acceptance":
        hashes.append(replace(chosen_on, role=CHOSEN_ON).sketch(TEST_SKETCH_SIZE).to_dict())
    if "detector" in facts and not keep_detector:
        warnings.warn(
            "The temperature moves the scores of the open-set detector, which should not be refitted: it is removed.",
            stacklevel=2,
        )
    # Of the folded model, whose temperature is 1.
    sets = None if wanted is None else fit_sets(model, logits / fitted, labels, validation, wanted, notes)
    keeps_predictions = (directory / PREDICTIONS_FILE).is_file()
    # A test set may have been allowed, and then it is measured as such.
    measures_it = evaluator is not None and validation.name in evaluator.benchmarks
    unreported = validation if keeps_predictions and not measures_it else None
    after = None if evaluator is None else evaluator.evaluate(model, head=head, name=name, validation=unreported, prediction_sets=sets, detector=detector)
    _record(temperature, fitted, bias, logits, pairs, labels, before, after)

    stays = [*IMAGE_FILES]
    if after is not None:
        reports = _with(reports, after, notes)
    else:
        stays += [*PICTURES, *(PAGES if abs(fitted - 1) <= UNCHANGED else ())]
        if reports:
            drop_other_coverage(reports[-1], sets)
        if reports and abs(fitted - 1) > UNCHANGED:
            reports[-1].settings[FOLDED_SINCE] = reports[-1].settings.get(FOLDED_SINCE, 1.0) * fitted
            notes.append(f"{EVALUATION_FILE} was measured before; give --eval_datasets to measure again.")
    has_card = bool(reports) and (directory / CARD_FILE).is_file()
    if not has_card or CardFacts.load(directory) is None:
        stays += [CARD_FILE, GENERATED_FILE, f"{eval_results.FOLDER}/*"]
        notes += [
            f"{CARD_FILE} is as it was: {METADATA_FILE} does not hold what it says beyond the results; write it again with "
            "write_model_card."
        ] * has_card
    *earlier, baseline, report = [None, None, *reports]
    complete_folder(
        directory,
        scalars=dict(zip((LOGIT_SCALE, LOGIT_BIAS), encoder.scalars, strict=False)),
        image_hashes=hashes,
        head=head,
        cache=facts["cache"] | {"alpha": head.alpha.item()} if "cache" in facts else None,
        temperature=temperature,
        thresholds=thresholds,
        detector=detector,
        prediction_sets=sets,
        report=report,
        baseline=baseline,
        earlier=[item for item in earlier if item is not None],
        measured=evaluation,
        scores=None if evaluator is None else evaluator.scores,
        predictions=evaluator.predictions if keeps_predictions and evaluator is not None else None,
        stays=stays,
    )
    if (directory / SWEEP_TABLE).is_file():
        notes.append(f"{SWEEP_TABLE} in {directory} is of models without this temperature, as its column says.")
    if (directory / LOGITS).is_dir():
        notes.append(f"{LOGITS} in {directory} holds the logits before this temperature.")
    if keeps_predictions and evaluator is None:
        notes.append(f"{PREDICTIONS_FILE} in {directory} holds the predictions before this temperature.")
    return Recalibration(temperature, fitted, bias, detector, before, after, thresholds, sets, notes)


def _why_not_validation(
    validation: Benchmark, directory: Path, reports: Iterable[EvaluationReport], evaluation: Iterable[Benchmark]
) -> str | None:
    """
    Say what a set is, if it is not validation data.

    It is a set to measure or train on if that is its role, if a set with its name was measured in such a role, if the card
    lists the same part of the same data set on the Hub as such, if it is read from the same place as one of `evaluation`, or
    if its split is called test.
    """
    if validation.role in _WORDS:
        return _WORDS[validation.role]
    for report in reports:
        result = report.results.get(validation.name)
        if result is not None and result.role in (*_TESTS, "train"):
            return f"{_WORDS[result.role]} of {EVALUATION_FILE}"
        if validation.name in (report.open_set or {}):
            return f"an open set of {EVALUATION_FILE}"
    card = CardFacts.load(directory)
    place = tuple(validation.place[name] for name in ("path", "config", "split"))
    for item in () if card is None else card.sets:
        # Sets of the registry may be other rows of the same files.
        other_rows = validation.registered is not None and item.name != validation.name
        if item.role in _WORDS and (item.path, item.config, item.split) == place and not other_rows:
            return f"{_WORDS[item.role]} of the model ({item.name})"
    for benchmark in evaluation:
        same = (
            benchmark.dataset is validation.dataset
            if validation.dataset is not None
            else _place(benchmark) == _place(validation)
        )
        if same and benchmark.role != "validation":
            return f"also in --eval_datasets, as {_WORDS.get(benchmark.role, benchmark.role)} ({benchmark.name})"
    if validation.path is not None and str(validation.split).split("[")[0] == "test":
        return "the split 'test' of its data set"
    return None


def _refuse(validation: Benchmark, reason: str | None, allowed: bool) -> None:
    if reason is None or (allowed and validation.role != "open_set"):
        return
    more = "" if validation.role == "open_set" else ", or confirm that you mean it with --allow_test_set"
    raise ValueError(
        f"{validation.name!r} is {reason}, and a temperature fitted on it would make its numbers look better than they "
        f"are; give in-distribution validation images that are neither trained nor measured on{more}."
    )


def _compared(
    facts: dict[str, Any], validation: Benchmark, evaluation: Iterable[Benchmark]
) -> tuple[list[dict[str, Any]], list[Overlap], int | None]:
    """Return the future `image_hashes` of the folder, which images of the validation set are in other sets, and how many it has."""
    images = hash_images(validation, role="validation")
    measured = [hash_images(item) for item in evaluation if item.role not in ("validation", "train")]
    stored = [Sketch.from_dict(entry) for entry in facts.get("image_hashes", ())]
    now = {(item.name, item.role) for item in (images, *measured)}
    # The threshold is chosen again, on the same images or none.
    stored = [item for item in stored if (item.name, item.role) not in now and item.role != CHOSEN_ON]
    others = [item for item in stored if item.role != "validation"] + [item.sketch() for item in measured]
    shared = [overlap for overlap in (compare(images, other) for other in others) if overlap.found]
    kept = [*stored, *(item.sketch(TEST_SKETCH_SIZE) for item in (images, *measured))]
    return [item.to_dict() for item in kept], shared, images.images


def _place(benchmark: Benchmark) -> tuple:
    place = benchmark.place
    path = place["path"]
    if path is not None and Path(path).exists():
        path = str(Path(path).resolve())
    return path, place["data_files"], place["config"], place["split"], benchmark.registered


def _check_classes(facts: dict[str, Any], validation: Benchmark, directory: Path) -> None:
    names = facts["class_names"]
    if names and tuple(names) != validation.class_names:
        raise ValueError(
            f"The model in {directory} has {len(names)} classes ({names[0]!r}, ...), which are not the "
            f"{len(validation.class_names)} of {validation.name!r} in its order; give validation images of its classes."
        )


def _fitted(facts: dict[str, Any], logits: Tensor, labels: Tensor, pairs: Tensor | None) -> TemperatureScaling:
    """Return the temperature of this fit, or the Platt scaling of `pairs`, with what earlier fits left in the weights."""
    earlier = TemperatureScaling.from_dict(facts.get("temperature", {"temperature": 1.0}))
    temperature = TemperatureScaling() if pairs is None else PlattScaling()
    temperature.folded, temperature.folded_bias = earlier.folded, earlier.folded_bias
    temperature.record = {name: value for name, value in earlier.record.items() if name != "probabilities"}
    temperature.record |= {} if pairs is None else {"probabilities": "sigmoid"}
    return temperature.fit(logits if pairs is None else pairs, labels)


def _record(
    temperature: TemperatureScaling,
    fitted: float,
    bias: float,
    logits: Tensor,
    pairs: Tensor | None,
    labels: Tensor,
    before: EvaluationReport | None,
    after: EvaluationReport | None,
) -> None:
    """Complete what is stored about the temperature: ECE before and after, on which sets, and this fit in the history."""
    record = temperature.record
    for when, divisor, added in (("before", 1.0, 0.0), ("after", fitted, bias)):
        record.pop(f"ece_{when}", None)
        if labels.ndim == 1:
            shares = (logits.double() / divisor).softmax(dim=1)
            record[f"ece_{when}"] = float(expected_calibration_error(shares, labels))
        if pairs is not None:
            errors = calibration_error_per_class((pairs / divisor + added).sigmoid(), labels)
            record[f"sigmoid_ece_{when}"] = errors.mean().item()
    this = {"temperature": fitted, "fitted_on": record["fitted_on"], "n": temperature.n}
    # Whose NLL it is: those of two kinds cannot be compared.
    this |= {"bias": bias, "probabilities": "sigmoid"} if "probabilities" in record else {"probabilities": "softmax"}
    this |= {"nll_before": temperature.nll_before, "nll_after": temperature.nll_after}
    record["history"] = [*record.get("history", []), this]
    if after is None and abs(fitted - 1) > UNCHANGED:
        record.pop("sets", None)
    elif after is not None:
        record["sets"] = {
            name: {
                "role": result.role,
                "n": result.n,
                "accuracy": result.accuracy,
                "ece": [before.results[name].ece, result.ece],
                "nll": [before.results[name].nll, result.nll],
            }
            for name, result in after.results.items()
        }
    if not record["test_set"]:
        del record["test_set"]


def _with(reports: list[EvaluationReport], after: EvaluationReport, notes: list[str]) -> list[EvaluationReport]:
    """Replace the last report of the file by `after`; earlier models stay if they saw the same images."""
    after.shared_images = reports[-1].shared_images if reports else None
    left_out = sorted(set(reports[-1].results) - set(after.results)) if reports else []
    if left_out:
        notes.append(f"Not measured again and no longer in {EVALUATION_FILE}: {', '.join(left_out)}.")
    kept = []
    for report in reports[:-1]:
        try:
            check_same_data(after, report)
        except ValueError as error:
            notes.append(f"{report.model} is no longer in {EVALUATION_FILE}: {error}")
        else:
            kept.append(report)
    return [*kept, after]
