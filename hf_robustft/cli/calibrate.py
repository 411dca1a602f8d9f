# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Fit a temperature on in-distribution validation images and fold it into a checkpoint.

    hf-robustft calibrate outputs/carot --dataset emoji_shift/validation
    hf-robustft calibrate outputs/carot --dataset my_images/validation --eval_datasets my_images/test my_sketches:shift
    hf-robustft calibrate outputs/siglip --dataset my_images/validation --probabilities sigmoid
    hf-robustft calibrate outputs/carot --dataset emoji_shift/validation --prediction_sets raps --coverage 0.95
    hf-robustft calibrate outputs/carot --dataset my_images/validation --unknown other_images --max_false_acceptance 0.05

The folder stays a plain model whose probabilities are calibrated on data like the validation images; accuracy is
unchanged. robustft.json and the card say what was fitted on what. With --eval_datasets the folder is measured again,
before and after; without, evaluation.json and the card say that their numbers are from before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accelerate import PartialState

from ..data.benchmarks import Benchmark
from ..data.class_matching import shared_classes
from ..data.messages import quoted
from ..evaluation.fitting import PREDICTION_SETS
from ..evaluation.platt_scaling import FUNCTIONS
from ..evaluation.stated_error import STATED_ERROR
from ..modeling.metadata import load_robustft_json
from ..modeling.output_folders import check_output_dir
from ..modeling.processes import check_one_process, commits_of_the_first
from ..objectives.papers import METHOD_FACTS
from ..publishing.card_sections import fit_errors, worse_under_shift
from ..publishing.open_set_section import risk_lines
from ..publishing.prediction_sets_section import coverage_text
from ..publishing.recalibrate import Recalibration, recalibrate
from .commands import CommandParser, RunOptions, option, quiet_if_asked
from .data_sets import (
    SETS,
    Known,
    ReadingOptions,
    ask_commits,
    check_columns,
    evaluation_benchmarks,
    model_classes,
    validation_benchmark,
)
from .specs import Spec, own_columns


@dataclass(kw_only=True)
class CalibrateOptions:
    """What is calibrated, on what."""

    directory: str = option("Folder of a checkpoint that hf_robustft has trained.", positional=True, metavar="DIR")
    dataset: str = option(
        "Validation images in distribution: a folder, a .parquet file, a Hub id, or a set of a suite such as "
        "emoji_shift/validation.",
        metavar="SET",
    )
    eval_datasets: list[str] = option(f"Sets to measure on before and after. {SETS}", [], metavar="SET")
    probabilities: str = option(
        "What to calibrate: 'softmax' (of the classes against each other, by a temperature), or 'sigmoid' (of each class by "
        "itself, for SigLIP, by Platt scaling of logit scale and bias). One scale cannot serve both.",
        "softmax",
        choices=list(FUNCTIONS),
    )
    allow_test_set: bool = option(
        "Fit on a set that the model is measured or was trained on all the same; the card says so.", False
    )
    remove_detector: bool = option("Remove the open-set detector instead of refitting it.", False)
    prediction_sets: str | None = option(
        "Fit prediction sets by this method ('raps', 'aps' or 'lac'), or remove them with 'none'. By default those of the folder are refitted.",
        None,
        choices=list(PREDICTION_SETS),
    )
    coverage: float | None = option("Share of images like those of --dataset whose set holds their class; 0.95 by default.", None)
    class_conditional: bool | None = option(
        "Give each class with enough images a quantile of its own, so that the coverage holds for it too.", None
    )
    unknown: str | None = option(
        "Images of none of the classes, not measured on, to choose the threshold for 'unknown' on.", None, metavar="SET"
    )
    true_positive_rate: float | None = option(
        "Choose the highest threshold that accepts this share of --dataset, instead of one for a stated error.", None
    )
    max_false_acceptance: float | None = option(
        "Choose the lowest threshold that accepts at most this share of images like --unknown, with confidence.", None
    )
    max_false_refusal: float | None = option(
        "Choose the highest threshold that refuses at most this share of images like --dataset, with confidence.", None
    )
    confidence: float | None = option("Probability that the stated error is kept; 0.95 by default.", None)
    per_class_thresholds: bool = option("Choose a threshold for each predicted class that has enough images too.", False)


def parser() -> CommandParser:
    """The parser of `hf-robustft calibrate`. The templates to calibrate are the checkpoint's own."""
    parts = (CalibrateOptions, ReadingOptions, RunOptions)
    return CommandParser(parts, prog="hf-robustft calibrate", description=__doc__)


def run(arguments: Sequence[str]) -> int:
    """Carry out what `arguments` say; returns the exit code."""
    options, data, running = parser().parse(arguments)
    state = PartialState(cpu=running.use_cpu)
    check_one_process("hf-robustft calibrate", state)
    quiet_if_asked(running)
    facts = load_robustft_json(options.directory)
    check_output_dir(options.directory, "DIR")
    if facts["method"] not in METHOD_FACTS:
        # The card is written again, and such a method is described by its Trainer class alone.
        from ..training import methods  # noqa: F401
    with commits_of_the_first(state):
        ask_commits([options.dataset, options.unknown, *options.eval_datasets])
    known = model_classes(data, facts["class_names"], facts["templates"], facts.get("label_names"))
    check_columns([options.dataset, options.unknown, *options.eval_datasets], data, measured=options.eval_datasets)
    evaluation, notes = evaluation_benchmarks(options.eval_datasets, data, known)
    unknown = None if options.unknown is None else unknown_set(options.unknown, data, known)
    found = recalibrate(
        options.directory,
        validation_set(options.dataset, data, known),
        evaluation,
        bad_images=data.policy(),
        probabilities=options.probabilities,
        allow_test_set=options.allow_test_set,
        keep_detector=not options.remove_detector,
        prediction_sets=options.prediction_sets,
        coverage=options.coverage,
        class_conditional=options.class_conditional,
        unknown=unknown,
        risk={name: getattr(options, name) for name in STATED_ERROR},
        batch_size=running.batch_size,
        num_workers=running.num_workers,
        progress=not running.disable_tqdm,
    )
    print("\n".join([*summary(found, options.directory), *notes]))
    return 0


def validation_set(text: str, data: ReadingOptions, known: Known | None) -> Benchmark:
    """
    The set that `--dataset` names; a suite stands for its validation set.

    Args:
        text (`str`): What was given.
        data ([`ReadingOptions`]): How data are read.
        known ([`Known`], *optional*): The classes of the model.

    Raises:
        ValueError: If the suite has no validation set, or a registered set is given another role than its own.
    """
    spec = Spec.parse(text)
    if spec.registered and spec.role is not None:
        raise ValueError(f"`--dataset {text}`: sets of the registry have roles of their own; leave ':{spec.role}' out")
    if spec.registered and spec.part is None:
        found = validation_benchmark(text, data, ())
        if found is None:
            raise ValueError(
                f"`--dataset {text}`: {spec.source} has no validation set; give validation images of your own"
            )
        return found
    (found,), _ = evaluation_benchmarks([text if spec.registered or spec.role else f"{text}:validation"], data, known)
    return found


def unknown_set(text: str, data: ReadingOptions, known: Known | None) -> Benchmark:
    """
    The set that `--unknown` names.

    Args:
        text (`str`), data ([`ReadingOptions`]), known ([`Known`], *optional*): As for [`validation_set`].

    Raises:
        ValueError: If it has another role than `open_set`, or images of classes that the model knows.
    """
    spec = Spec.parse(text)
    if spec.role not in (None, "open_set"):
        raise ValueError(f"`--unknown {text}`: such images have the role open_set; leave ':{spec.role}' out")
    sets, _ = evaluation_benchmarks([text if spec.registered or spec.role else f"{text}:open_set"], data, None)
    if len(sets) > 1:
        of = [item.name for item in sets if item.role == "open_set"]
        advice = f"choose one of none of the classes, such as {text}/{of[0]}" if of else "give images of none of the classes"
        raise ValueError(f"`--unknown {text}` has {len(sets)} sets; {advice}.")
    if known is not None and not spec.registered and not data.streaming:
        column = own_columns(spec, {"label_column": data.label_column or "label"}).get("label_column", "label")
        if shared := shared_classes(sets[0], known.class_names, column, known.label_names):
            raise ValueError(
                f"`--unknown {text}` is for images of none of the classes, and has some of {quoted(shared)}, which the model knows; leave these out."
            )
    return sets[0]


def summary(found: Recalibration, directory: str) -> list[str]:
    """What was `found` and written to `directory`, one line each, for the terminal."""
    temperature, record = found.temperature, found.temperature.record
    platt = f" and bias {found.bias:+.6g}" if record.get("probabilities") == "sigmoid" else ""
    lines = [
        f"Temperature {found.fitted:.6g}{platt} on {temperature.n:,} images of {record['fitted_on']}, folded into {directory}.",
    ]
    facts, said = temperature.to_dict(), []
    for key, error in fit_errors(facts).items():
        before, after = facts[f"{key}_before"], facts[f"{key}_after"]
        shown = f"{before:.4f} -> {after:.4f}" if key == "nll" else f"{100 * before:.1f} -> {100 * after:.1f} %"
        said.append(f"{error} {shown}")
    lines.append(f"{record['fitted_on']}: {', '.join(said)}")
    of_shares = ""
    if "sigmoid_ece_before" in record:
        other = "the shares (softmax) are not" if platt else "the sigmoids of the plain pipeline are not"
        of_shares = " of the softmax"
        lines.append(f"Calibrated are {'the sigmoids' if platt else 'the shares (softmax)'}; {other}.")
    if found.thresholds is not None:
        default = found.thresholds["default"]
        of = f"{len(found.thresholds['classes']) - len(default)} classes" + (f"; 0.5 for {quoted(default)}, without images" if default else "")
        lines.append(f"Thresholds of the highest F1 for {of}: the pipeline gives an image all labels above theirs.")
    for name, row in record.get("sets", {}).items():
        (ece, new_ece), (nll, new_nll) = row["ece"], row["nll"]
        lines.append(
            f"{name} ({'ID' if row['role'] == 'id' else row['role']}): accuracy {100 * row['accuracy']:.1f} %, "
            f"NLL{of_shares} {nll:.4f} -> {new_nll:.4f}, ECE{of_shares} {100 * ece:.1f} -> {100 * new_ece:.1f} %"
        )
    if found.detector is not None:
        lines.append(
            f"Open-set detector refitted: {found.detector.score} at least {found.detector.threshold:.6g} is known."
        )
        lines += risk_lines(found.detector)
    if found.prediction_sets is not None:
        sets = found.prediction_sets
        lines.append(f"Prediction sets ({sets.method}) for a coverage of {100 * sets.coverage:g} % of images like those of {sets.fitted_on}.")
        rows = ((found.after and found.after.prediction_sets) or {"sets": {}})["sets"]
        lines += [f"{name}: {coverage_text(row)}" for name, row in rows.items()]
    worse = worse_under_shift(facts)
    return [*lines, *([worse] if worse else []), *found.notes]
