# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
`hf-robustft train --method auto`: a comparison with a small budget, which ends with the folder of the method and rate that the
rule chose.

Compared are CaRot, TRACER, FLYP and WiSE-FT of FT, at three rates and one seed: the methods that train the whole model and are
meant to keep what it could, one without any such means, and a merge that costs nothing beyond ordinary fine-tuning, which is
compared along with it. Heads on frozen features are left to `hf-robustft compare`. The rule is the one by which that chooses by
default: `concepts` where the data have ten classes or more, with a twin of each run.

Of lists of labels it compares those of these that can train the model on them; where none can, as with CLIP, LP-FT, L2-SP and FT.
The rule is `id_within` by mAP then.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..comparison.measures import measure_of
from ..comparison.schedule import RECORD_FILE
from ..comparison.statistics import paired_difference
from ..comparison.winner import may_be_chance
from ..evaluation.predictions import PREDICTIONS_FILE, load_predictions
from ..evaluation.report import EvaluationReport, load_reports
from ..files import LOCK, is_of_this_room, locked
from ..modeling.checkpoint import outline
from ..modeling.metadata import load_robustft_json, update_robustft_json
from ..modeling.output_folders import check_output_dir
from ..publishing.card_file import PAGES, SCORES_FILE, THRESHOLDS_FILE
from ..publishing.finish import complete_folder
from ..publishing.run_folder import EVALUATION_FILE, LOGITS, replacing
from ..publishing.text import public_command
from ..training.label_lists import serves_label_lists
from ..training.methods import METHODS as TRAINED
from .commands import CommandParser, option
from .compare import CompareOptions, compare_methods
from .compare_given import Given, Passed
from .data_sets import ask_commits, check_columns, train_benchmark
from .passed_on import check_auto, parted
from .train_arguments import ModelArguments, parse, train_parser

HELP = """Compare CaRot, TRACER, FLYP and WiSE-FT of FT at three rates and one seed, and keep what the rule chooses.
For SigLIP, which CaRot's constraint cannot serve, the covariance anchor takes CaRot's place. Of images with
lists of labels it compares those that can train on them, by mAP; for CLIP LP-FT, L2-SP and FT.

    hf-robustft train --method auto --train_dataset my_images/photo

The rule is that of hf-robustft compare. It looks at validation images, or at classes left out of twin runs,
and at no test set; where its choice is worse than zero-shot on validation images, the zero-shot model stays.
The folder ends complete, and says how it was chosen; all runs and tables are in <output_dir>/comparison. The
same command goes on where it was stopped. Settings of training are passed on to the runs that read them.

hf-robustft compare does the same by your --methods, --learning_rates, --seeds and --rule, so many runs at
once as --jobs says, and prints the commands with --dry_run."""
METHODS = ("carot", "tracer", "flyp", "wise_ft")
#: On lists of labels, for a model that none of these can train on them: all of it, near the start or from a good head, and by itself.
OF_LISTS = ("lp_ft", "l2_sp", "ft")
COMPARISON = "comparison"


@dataclass(kw_only=True)
class AutoOptions:
    """What is not passed on to the runs."""

    method: str = option("auto.", "auto")
    output_dir: str = option("Folder of the run.", "outputs/auto")
    seed: int = option("Of all runs.", 0)


def train_chosen(arguments: Sequence[str]) -> tuple[EvaluationReport, int]:
    """
    Compare, choose, and complete the folder of the choice.

    Args:
        arguments (`Sequence[str]`): The command line behind `hf-robustft train`.

    Returns:
        `tuple`: The results of the choice, an [`EvaluationReport`]; and the exit status, 1 if a run failed.

    Raises:
        ValueError: If something that was given cannot be, or no run could be made.
        OSError: If data cannot be read, or results cannot be written.
    """
    check_auto(arguments)
    own, passed = parted(arguments, CommandParser(AutoOptions), train_parser())
    (options,) = CommandParser(AutoOptions).parse(own)
    output = Path(options.output_dir)
    check_output_dir(output)
    with locked(output, "hf-robustft train --method auto"):
        return _train_chosen(options, passed, output, shlex.join(["hf-robustft", "train", *arguments]))


def methods_for(passed: Passed) -> list[str]:
    """
    The methods that are compared, of those that can serve the model.

    Args:
        passed (list of `tuple`): What is passed on to the runs, by name, as [`parted`] gives it.

    Returns:
        List of `str`: Names of methods.

    Raises:
        ValueError: If the model or the training set cannot be what was given.
        OSError: If one of them cannot be read.
    """
    given = Given(passed, Path(COMPARISON), (0,), "ft")
    source = given.value("model", ModelArguments.model)
    encoder = outline(source, revision=given.value("model_revision", None), option="--model")
    linear = encoder.visual_projection is not None
    methods = [method if linear or method != "carot" else "covariance_anchor" for method in METHODS]
    if not _has_lists(given):
        return methods
    able = [name for name in methods if name in TRAINED and serves_label_lists(TRAINED[name], encoder.similarity)]
    return able or list(OF_LISTS)


def _has_lists(given: Given) -> bool:
    """Whether the images to train on have lists of labels, by what is `given` on data."""
    _, data_args, _ = parse(given.words("ft"))
    ask_commits([data_args.train_dataset])
    check_columns([data_args.train_dataset, *data_args.eval_datasets], data_args)
    return bool(train_benchmark(data_args.train_dataset, data_args, data_args.caption_column).several)


def _train_chosen(options: AutoOptions, passed: Passed, output: Path, command: str) -> tuple[EvaluationReport, int]:
    methods = methods_for(passed)
    compared = CompareOptions(methods=methods, seeds=[options.seed], output_dir=str(output / COMPARISON))
    words = [word for _, group in passed for word in group]
    same = ["--methods", *methods, "--seeds", str(options.seed), *words, "--output_dir", compared.output_dir]
    with locked(compared.output_dir, "hf-robustft train --method auto"):
        summary, status = compare_methods(compared, passed, same)
    if summary is None or summary.get("rule") is None:
        raise ValueError(f"Nothing could be chosen; the logs of the runs are in {output / COMPARISON / 'runs'}")
    runs, chosen = output / COMPARISON / "runs", _chosen(summary)["folders"][0]
    start = runs / "zero_shot"
    if measure_of(summary).of_lists:
        worse = worse_in(summary)
    else:
        worse = worse_than(runs / chosen, start) if (start / PREDICTIONS_FILE).is_file() else None
    name, record, words = choice(summary, worse)
    report = complete_chosen(output, name, record, command)
    print(words + (" Some runs failed and were not compared." if status else ""))
    print(f"Saved to {output}: {', '.join(sorted(path.name for path in output.iterdir() if path.is_file() and not is_of_this_room(path.name)))}")
    return report, status


def worse_than(run: Path, start: Path) -> tuple[str, float] | None:
    """
    Whether a model is worse than another on validation images, by more than noise.

    Args:
        run (`Path`), start (`Path`): The folders of both, with their predictions.

    Returns:
        `tuple`: The name of the set, and how much accuracy it loses there; `None` if it does not.
    """
    one, other = load_predictions(run).sets, load_predictions(start).sets
    for name, found in one.items():
        if found.role == "validation" and name in other:
            difference = paired_difference(found.correct, other[name].correct, found.group)
            if difference.beyond_noise and difference.mean < 0:
                return name, -difference.mean
    return None


def worse_in(summary: Mapping[str, Any]) -> tuple[str, float] | None:
    """
    What [`worse_than`] says of lists of labels, by mAP, whose paired differences from zero-shot on validation images the comparison has.

    Args:
        summary (`Mapping`): Of [`summarise`], with a rule.

    Returns:
        `tuple`: The name of the set, and how much mAP the rule's choice loses there; `None` if it does not.
    """
    against, key = _chosen(summary).get("against_zero_shot", {}), measure_of(summary).key
    for name in summary["rule"]["looked_at"]:
        difference = against.get(name, {}).get(key, {"beyond_noise": False})
        if difference["beyond_noise"] and difference["mean"] < 0:
            return name, -difference["mean"]
    return None


def _chosen(summary: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(row for row in summary["candidates"] if row["label"] == summary["rule"]["chosen"])


def choice(summary: Mapping[str, Any], worse: tuple[str, float] | None) -> tuple[str, dict[str, Any], str]:
    """
    What a comparison comes to.

    Args:
        summary (`Mapping`): Of [`summarise`], with a rule.
        worse (`tuple`, *optional*): Of [`worse_than`] or [`worse_in`], for the rule's choice and the zero-shot model.

    Returns:
        `tuple`: The name of the run's folder; the record of the selection, for `robustft.json` and card; and words. The zero-shot
        model is chosen where the rule's choice is worse on the validation images in accuracy, or mAP, by more than noise.
    """
    rule = summary["rule"]
    row = _chosen(summary)
    record = {
        "rule": rule["name"],
        "says": rule["says"],
        "looked_at": list(rule["looked_at"]),
        "grid": dict(rule["grid"]),
        "seeds": list(rule["seeds"]),
        "chosen": row["label"],
    }
    words = f"Chosen by the rule {rule['name']}: {row['label']} ({rule['says']}; it looked at {', '.join(rule['looked_at'])})."
    if worse is None:
        if doubt := may_be_chance(summary):
            record["doubt"], words = doubt, f"{words} {doubt}."
        if summary["winner"]["zero_shot_is_better"]:
            words += " On the sets of the test, which the rule does not look at, the zero-shot model is better."
        return row["folders"][0], record, words
    name, lost = worse
    why = f"on {name} its {measure_of(summary).word} is {100 * lost:.1f} points below that of the zero-shot model, which is more than noise"
    return "zero_shot", {**record, "chosen": "zero-shot", "instead_of": row["label"], "why": why}, f"{words} But {why}: that is kept instead."


def complete_chosen(output: Path, name: str, record: Mapping[str, Any], command: str) -> EvaluationReport:
    """
    Make `output` the folder of the chosen run.

    Args:
        output (`Path`): The folder; the runs are in `comparison/runs`.
        name (`str`): Of the run.
        record (`Mapping`): Of the selection.
        command (`str`): That chose it.

    Returns:
        [`EvaluationReport`]: Its results.

    Raises:
        OSError: If the folder cannot be written.
    """
    runs = output / COMPARISON / "runs"
    with replacing(output) as stage:
        shutil.copytree(runs / name, stage, dirs_exist_ok=True, ignore=shutil.ignore_patterns(RECORD_FILE, LOCK, "checkpoint-*"))
        card = load_robustft_json(stage)["card"]
        # That of the run says where its data are, which this one has found by itself.
        record = {**record, "command": card.get("command")}
        update_robustft_json(stage, card={**card, "command": public_command(command)})
    report = load_reports(output / EVALUATION_FILE)[-1]
    start = runs / "zero_shot" / EVALUATION_FILE
    baseline = load_reports(start)[-1] if name != "zero_shot" and start.is_file() else None
    stays = [SCORES_FILE, THRESHOLDS_FILE, *PAGES, PREDICTIONS_FILE, f"{LOGITS}/*"]
    complete_folder(output, report=report, baseline=baseline, selection=record, stays=stays)
    return report
