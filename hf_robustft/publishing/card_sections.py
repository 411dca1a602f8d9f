# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""The sections of a card on the results, their pictures, the temperature and the training log."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.utils import CONFIG_NAME

from ..evaluation.detector import OpenSetDetector
from ..evaluation.findings import percent
from ..evaluation.open_set import DEFAULT_SCORE
from ..evaluation.plots import plot_reliability, plot_scores, plot_shift
from ..evaluation.report import SWEEP_PICTURE, EvaluationReport
from ..evaluation.tables import choice_of_images, label, metric_texts, ordered, same_shifts
from ..evaluation.threshold_plot import plot_thresholds
from ..modeling.dual_encoder import LOGIT_BIAS
from ..modeling.families import FAMILIES, Family
from ..modeling.metadata import METADATA_FILE, load_robustft_json
from ..modeling.tensor_files import read_json_object
from . import verdict
from .card_file import PICTURES, RELIABILITY_FILE, SCORES_FILE, SHIFT_FILE, THRESHOLDS_FILE
from .eval_results import n_bins
from .run_folder import similarity_in
from .text import code_span, markdown_text, public_text

#: In a report's settings: the temperature that was folded into the weights after the report was measured.
FOLDED_SINCE = "temperature_folded_since"
#: Rows of the log, and evaluation sets in it; more would not fit a page.
LOG_ROWS, LOG_SETS = 8, 2
_PLAIN = {"loss": "Loss", "teacher/momentum": "Momentum", "generator/loss": "Generator", "logit_scale": "Logit scale"}
_PLAIN[LOGIT_BIAS] = "Logit bias"
_EVALUATED = re.compile(r"eval_(?P<name>[^/]+)/(?P<metric>accuracy|map|ece)")
_SINGULAR = "eval_spectrum/smallest_singular_value"


def results_section(
    output_dir: Path,
    report: EvaluationReport,
    baseline: EvaluationReport | None,
    names: tuple[str, str | None],
) -> dict[str, Any]:
    """
    Gather what the template says about the results.

    Args:
        output_dir (`Path`): Folder of the checkpoint; pictures in it are shown.
        report ([`EvaluationReport`]), baseline ([`EvaluationReport`], *optional*): The results.
        names (`tuple[str, str | None]`): What the table calls the two models, in markdown.

    Returns:
        `dict[str, Any]`: Values by the names that the template uses.
    """
    results = ordered(report)
    draws = report.settings.get("bootstrap_draws")
    roles = [result.role for result in results] + [row["role"] for row in (report.multi_label or {}).values()]
    shifts = [result.name for result in report.shifts]
    shifts += [name for name, row in (report.multi_label or {}).items() if row["role"] == "shift"]
    by_head: dict[str, list[str]] = {}
    for result in results:
        by_head.setdefault(markdown_text(result.head), []).append(markdown_text(result.name))
    heads = [head if len(by_head) == 1 else f"{head} on {', '.join(names)}" for head, names in by_head.items()]
    return {
        "rows": _table_rows(report, baseline, names),
        "draws": f" ({draws} draws)" if draws else "",
        "choice_of_images": markdown_text(choice_of_images(report)),
        "n_bins": n_bins(results[0]) if results else None,
        "heads": "; ".join(heads),
        "data_notes_of_results": _class_notes(report) + _unreadable_notes(report),
        "logit_scale": None if report.logit_scale is None else f"{report.logit_scale:.2f}",
        "spectrum": _spectrum(report, baseline),
        "reliability_picture": (output_dir / RELIABILITY_FILE).is_file(),
        "shift_picture": bool(report.shifts) and (output_dir / SHIFT_FILE).is_file(),
        "sweep_picture": (output_dir / SWEEP_PICTURE).is_file(),
        "shift_count": len(report.shifts),
        "shift_names": ", ".join(map(markdown_text, shifts)),
        "no_shift": not shifts,
        "has_id": "id" in roles,
    }


def _table_rows(
    report: EvaluationReport, baseline: EvaluationReport | None, names: tuple[str, str | None]
) -> list[list[str | None]]:
    rows = []
    results = ordered(report)
    last_shift = max((index for index, result in enumerate(results) if result.role == "shift"), default=None)
    for index, result in enumerate(results):
        before = None if baseline is None else baseline.results.get(result.name)
        title = markdown_text(label(result))
        if before is not None:
            rows.append([title, names[1], f"{before.n:,}", *metric_texts(vars(before), " ± ")])
        rows.append(
            ["" if before is not None else title, names[0], f"{result.n:,}", *metric_texts(vars(result), " ± ")]
        )
        if index == last_shift and len(report.shifts) > 1:
            title = f"**mean of {len(report.shifts)} shifts**"
            if same_shifts(report, baseline):
                rows.append([title, names[1], "", *metric_texts(baseline.shift_mean)])
                title = ""
            rows.append([title, names[0], "", *metric_texts(report.shift_mean)])
    return rows


def _class_notes(report: EvaluationReport) -> list[str]:
    """Return a note on each set whose logits are projected from those of a larger head."""
    projected = [result for result in ordered(report) if (result.head_classes or 0) > result.n_classes]
    return [
        f"{markdown_text(result.name)}: of the {result.head_classes:,} classes of the head, probabilities are over the "
        f"{result.n_classes:,} that the set knows."
        for result in projected
    ]


def _unreadable_notes(report: EvaluationReport) -> list[str]:
    found = [(result.name, result.unreadable) for result in ordered(report)]
    found += [(name, facts.get("unreadable")) for name, facts in (report.open_set or {}).items()]
    return [
        f"{markdown_text(name)}: {facts['count']:,} of {facts['of']:,} images could not be read and are left out."
        for name, facts in found
        if facts is not None
    ]


def _spectrum(report: EvaluationReport, baseline: EvaluationReport | None) -> str | None:
    if report.spectrum is None:
        return None
    spectrum = report.spectrum
    before = ""
    if baseline is not None and baseline.spectrum is not None:
        before = f" ({verdict.model_name(baseline)}: {baseline.spectrum['smallest_singular_value']:.3e})"
    sentence = (
        f"Smallest singular value of the centred covariance of the unit-norm image embeddings of "
        f"{markdown_text(spectrum['dataset'])}: {spectrum['smallest_singular_value']:.3e}{before}, "
        f"from n = {spectrum['n']:,} images in {spectrum['dimension']} dimensions."
    )
    return f"{sentence} {markdown_text(spectrum['note'])}" if spectrum.get("note") else sentence


def draw_pictures(
    folder: str | Path,
    reports: EvaluationReport | Sequence[EvaluationReport],
    *,
    scores: Mapping[str, Mapping[str, Tensor]] | None = None,
    detector: OpenSetDetector | None = None,
) -> list[str]:
    """
    Draw `reliability.png`, `shift.png`, `scores.png` and `thresholds.png`, as far as the results have what they show.

    An older picture that these results do not give is removed: a card would show it beside other numbers.

    Args:
        folder (`str` or `Path`): Folder of the checkpoint or of the results.
        reports ([`EvaluationReport`] or a sequence of one or two): The model, or the model before and after.
        scores (`Mapping[str, Mapping[str, torch.Tensor]]`, *optional*): `Evaluator.scores`, for `scores.png`.
        detector ([`OpenSetDetector`], *optional*): The detector whose score and threshold `scores.png` shows; by default
            it shows the energy.

    Returns:
        `list[str]`: Names of the files written.
    """
    folder = Path(folder)
    given = [reports] if isinstance(reports, EvaluationReport) else list(reports)
    after = given[-1]
    for name in PICTURES:
        (folder / name).unlink(missing_ok=True)
    written = []
    if after.results:
        plot_reliability(given, folder / RELIABILITY_FILE)
        written.append(RELIABILITY_FILE)
    if after.shifts and any(result.role == "id" for result in after.results.values()):
        plot_shift(given, folder / SHIFT_FILE)
        written.append(SHIFT_FILE)
    if after.open_set and scores:
        roles = {name: result.role for name, result in after.results.items()} | dict.fromkeys(after.open_set, "open_set")
        score, threshold = (DEFAULT_SCORE, None) if detector is None else (detector.score, detector.threshold)
        plot_scores(scores, roles, folder / SCORES_FILE, score=score, threshold=threshold)
        written.append(SCORES_FILE)
    if any(part.get("threshold_curve") is not None for part in (after.open_set or {}).values()):
        plot_thresholds(after.open_set, folder / THRESHOLDS_FILE)
        written.append(THRESHOLDS_FILE)
    return written


def temperature_section(output_dir: str | Path, report: EvaluationReport) -> dict[str, Any]:
    """
    Gather what a card says about the temperature.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoint.
        report ([`EvaluationReport`]): The results that the card shows.

    Returns:
        `dict[str, Any]`: `sentence` on the temperature and its fit, `warning` that the results were measured before it was
        folded in, `rows` of ECE and NLL before and after, with the header first, and `shifts`, a sentence if the confidence
        under shift became worse; empty without a temperature.
    """
    path = Path(output_dir) / METADATA_FILE
    facts = load_robustft_json(output_dir).get("temperature") if path.is_file() else None
    if facts is None:
        return {}
    since = report.settings.get(FOLDED_SINCE)
    warning = ""
    if since is not None:
        warning = (
            f"**The results here, open sets and pictures included, were measured before a temperature of {since:.4g} was "
            "folded into the logit scale.** Accuracy is the same; ECE, NLL, Brier and the open-set scores of the weights "
            f"in this folder are different{': see below' if facts.get('sets') else ''}."
        )
    return {
        "sentence": _temperature_sentence(facts, since is None),
        "warning": warning,
        "rows": _temperature_rows(facts),
        "shifts": worse_under_shift(facts),
    }


def family_in(output_dir: str | Path) -> tuple[str, Family]:
    """
    Tell which family the model in a folder belongs to.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoint.

    Returns:
        `tuple`: The `model_type` of its configuration and the [`~hf_robustft.modeling.dual_encoder.Family`]; CLIP's where
        there is no configuration yet.
    """
    path = Path(output_dir) / CONFIG_NAME
    kind = read_json_object(path).get("model_type") if path.is_file() else None
    kind = kind if kind in FAMILIES else "clip"
    return kind, FAMILIES[kind]


def sigmoid_sentence(output_dir: str | Path) -> str | None:
    """
    Say of a model of a sigmoid family which of its two kinds of probabilities are calibrated, and which the plain pipeline
    shows.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoint.

    Returns:
        `str` or `None`: The sentences, `None` for a model of another family.
    """
    folder = Path(output_dir)
    if similarity_in(folder) != "sigmoid":
        return None
    facts = load_robustft_json(folder).get("temperature") if (folder / METADATA_FILE).is_file() else None
    if facts is None:
        calibrated = "Neither of the two was calibrated on validation images"
    elif facts.get("probabilities") == "sigmoid":
        calibrated = "Calibrated, by Platt scaling, are the sigmoids; the shares are not, since one scale cannot serve both"
        # Without thresholds, `hf_robustft`'s pipeline gives shares unless it is asked.
        calibrated += "" if "thresholds" in load_robustft_json(folder) else "; `hf_robustft`'s pipeline gives them by `function_to_apply=\"sigmoid\"`"
    elif facts["temperature"] != 1:
        calibrated = "Calibrated are the shares, once `hf_robustft`'s pipeline has applied the temperature; the sigmoids are not"
    else:
        calibrated = "Calibrated, by the temperature, are the shares; the sigmoids are not, since one scale cannot serve both"
    fitted = load_robustft_json(folder).get("thresholds") if facts is not None else None
    labels = "" if fitted is None else (
        f" `hf_robustft`'s pipeline gives an image all labels whose sigmoid is above theirs, by thresholds of the highest F1 on "
        f"{fitted['n']:,} images of {markdown_text(public_text(fitted['fitted_on']))}."
    )
    return (
        "**The plain pipeline shows the sigmoid of each class by itself**, with the model's logit bias in it; these do not add up "
        "to 1. What the evaluation measures are the shares of all classes (softmax), in which the bias cancels. "
        f"{calibrated}.{labels}"
    )


def aimv2_sentence(output_dir: str | Path) -> str | None:
    """
    Say of an AIMv2 model that the plain pipeline may read prompts of one length otherwise than the evaluation does.

    Args:
        output_dir (`str` or `Path`): Folder of the checkpoint.

    Returns:
        `str` or `None`: The sentence, `None` for a model of another family.
    """
    if family_in(output_dir)[0] != "aimv2":
        return None
    return (
        "**The plain pipeline's numbers may differ from the results** where all prompts are of one length: without padding, "
        "Transformers (5.23) lets AIMv2's text tower look at later tokens, which it was not trained with. `hf_robustft`'s "
        "pipeline and the code below read prompts as evaluated."
    )


def fit_errors(facts: Mapping[str, Any]) -> dict[str, str]:
    """
    Name the errors of a temperature on the images of its fit, each with the probabilities that it is of where there are two.

    Args:
        facts (`Mapping[str, Any]`): What `robustft.json` holds of the temperature.

    Returns:
        `dict[str, str]`: The names of those that were measured, by `nll`, `ece` and `sigmoid_ece`.
    """
    of_shares = "" if facts.get("sigmoid_ece_before") is None else " of the softmax"
    of_fit = " of the sigmoids, per pair," if facts.get("probabilities") == "sigmoid" else of_shares
    names = {"nll": f"NLL{of_fit}", "ece": f"ECE{of_shares}", "sigmoid_ece": "ECE of the sigmoids"}
    return {key: name for key, name in names.items() if facts.get(f"{key}_before") is not None}


def worse_under_shift(facts: Mapping[str, Any]) -> str:
    """Return a sentence that the mean ECE over the shifts in `facts` rose with the temperature; empty if it did not."""
    pairs = [row["ece"] for row in facts.get("sets", {}).values() if row["role"] == "shift"]
    if not pairs:
        return ""
    before, after = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    if round(after, 3) <= round(before, 3):
        return ""
    mean = "Mean ECE" if len(pairs) > 1 else "ECE"
    surer = "; this one makes the model more confident of everything" if facts["folded"] < 1 else ""
    return (
        f"{mean} under shift rose from {percent(before)} to {percent(after)}: a temperature that is right in distribution "
        f"says nothing about shifts{surer}."
    )


def _temperature_sentence(facts: Mapping[str, Any], included: bool) -> str:
    fit = ""
    if facts.get("n") is not None:
        on = f" of {markdown_text(public_text(facts['fitted_on']))}" if facts.get("fitted_on") else ""
        said = []
        for key, name in fit_errors(facts).items():
            before, after = (facts[f"{key}_{when}"] for when in ("before", "after"))
            shown = f"{before:.3f} before, {after:.3f}" if key == "nll" else f"{percent(before)} before, {percent(after)}"
            said.append(f"{name} {shown} after")
        fit = f"on {facts['n']:,} images{on} ({'; '.join(said)})"
    if facts.get("test_set"):
        fit += ", which the model was trained or measured on too, so that calibration on them looks better than it is"
    if facts.get("folded", 1.0) != 1:
        more = "" if facts["temperature"] == 1 else f" A further one of {facts['temperature']:.4g} is not in them."
        times = len(facts.get("history", ()))
        bias, product = facts.get("folded_bias"), f", the product of {times} fits" if times > 1 else ""
        folded = f"The logit scale has a temperature of {facts['folded']:.4g} in it{product}"
        folded += f", and the logit bias {bias:+.4g} (Platt scaling)" if bias else ""
        folded += f", fitted {fit}" if fit and times <= 1 else ""
        # The fit in the facts is the last one.
        last = f" The last fit was {fit}." if fit and times > 1 else ""
        return f"{folded}; the numbers above {'include it' if included else 'do not include all of it'}.{more}{last}"
    return (
        f"{code_span(METADATA_FILE)} holds a temperature of {facts['temperature']:.4g}{fit and f', fitted {fit}'}, by which `hf_robustft`'s "
        "pipeline divides the logits before it computes a probability. The numbers above are without it."
    )


def _temperature_rows(facts: Mapping[str, Any]) -> tuple[list[str], ...]:
    rows = [
        [
            markdown_text(name) + (" (ID)" if row["role"] == "id" else ""),
            f"{row['n']:,}",
            f"{100 * row['accuracy']:.1f}",
            *(f"{100 * value:.1f}" for value in row["ece"]),
            *(f"{value:.3f}" for value in row["nll"]),
        ]
        for name, row in facts.get("sets", {}).items()
    ]
    header = ["Set", "Images", "Accuracy %", "ECE % before", "ECE % after", "NLL before", "NLL after"]
    return (header, *rows) if rows else ()


def training_log(log_history: Iterable[Mapping[str, Any]], rows: int = LOG_ROWS) -> tuple[dict[str, float], ...]:
    """
    Choose the rows of a Trainer's `state.log_history` that a card shows.

    Entries of the same step are joined. If there were evaluations, rows are chosen among those steps, else among all; the
    first and the last are always included.

    Args:
        log_history (`Iterable[Mapping[str, Any]]`): The entries, in order.
        rows (`int`, *optional*, defaults to 8): The most rows.

    Returns:
        `tuple[dict[str, float], ...]`: Each with `step` and the named losses, the momentum, the logit scale, and accuracy,
        ECE and smallest singular value of the evaluation sets, as far as they were logged and are finite.
    """
    steps: dict[int, dict[str, float]] = {}
    for entry in log_history:
        wanted = {key: value for key, value in entry.items() if _is_shown(key) and _is_finite(value)}
        if wanted and _is_finite(entry.get("step")):
            steps.setdefault(int(entry["step"]), {}).update(wanted)
    evaluated = [step for step, row in steps.items() if any(key.startswith("eval_") for key in row)]
    chosen = sorted(evaluated if len(evaluated) > 1 else steps)
    if len(chosen) > rows:
        chosen = [chosen[round(index * (len(chosen) - 1) / (rows - 1))] for index in range(rows)]
    # In an order of their own: a resumed run reads its first entries from a file that sorts them.
    return tuple({"step": step, **dict(sorted(steps[step].items()))} for step in chosen)


def history_table(log: Iterable[Mapping[str, float]]) -> list[list[str]]:
    """
    Lay out what `training_log` returned as a table.

    Args:
        log (`Iterable[Mapping[str, float]]`): The rows.

    Returns:
        `list[list[str]]`: The header and the rows in markdown; empty without a log.
    """
    log = list(log)
    if not log:
        return []
    keys = list(dict.fromkeys(key for row in log for key in row if key != "step"))
    terms = [key for key in keys if key.startswith("loss/")]
    sets = list(dict.fromkeys(match["name"] for match in map(_EVALUATED.fullmatch, keys) if match))[:LOG_SETS]
    plain = [key for key in _PLAIN if key in keys]
    columns = [(_PLAIN[key], key, _number) for key in plain if key == "loss"]
    # Words, not one long name, so that the header breaks and the table fits a page.
    columns += [(markdown_text(key.removeprefix("loss/").replace("_", " ")), key, _number) for key in terms]
    columns += [(_PLAIN[key], key, _number) for key in plain if key != "loss"]
    for name in sets:
        columns += [
            (f"{markdown_text(name)} {title}", f"eval_{name}/{metric}", _percent)
            for title, metric in (("accuracy %", "accuracy"), ("mAP %", "map"), ("ECE %", "ece"))
            if f"eval_{name}/{metric}" in keys
        ]
    if _SINGULAR in keys:
        columns.append(("Smallest singular value", _SINGULAR, _number))
    rows = [[f"{row['step']:,}", *(show(row.get(key)) for _, key, show in columns)] for row in log]
    return [["Step", *(title for title, _, _ in columns)], *rows]


def _is_shown(key: str) -> bool:
    return key in _PLAIN or key == _SINGULAR or key.startswith("loss/") or _EVALUATED.fullmatch(key) is not None


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2e}" if value and abs(value) < 1e-3 else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
