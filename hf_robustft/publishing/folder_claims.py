# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What a finished folder claims beside its results: in its card, of its weights, and of what was fitted on validation images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data.messages import quoted
from ..evaluation.calibration import expected_calibration_error
from ..evaluation.detector import COSINE_ROUNDING, SCALE_TOLERANCE, SCORES, OpenSetDetector
from ..evaluation.prediction_sets import ConformalClassifier
from ..evaluation.report import EvaluationReport, load_reports
from ..evaluation.tables import ordered
from ..evaluation.temperature import TemperatureScaling
from ..files import settle
from ..modeling.features import logit_scale
from ..modeling.metadata import METADATA_FILE, load_robustft_json
from .card_facts import CardFacts
from .card_file import CARD_FILE, is_generated, is_untouched
from .card_sections import FOLDED_SINCE
from .claim_noise import rounding_tolerance, share_of_ties
from .claims import FAILS, HOLDS, NOT_MEASURED, Claim
from .eval_results import FOLDER, card_data, is_ours
from .run_folder import EVALUATION_FILE

#: Numbers in the text of a card, which writes four digits of them, after the words before them.
_THRESHOLD = re.compile(r"calls an image unknown if its \S+ is below (\S+)")
_TEMPERATURE = re.compile(r"(?:holds a|logit scale has a) temperature of (\S+)")
_LONGEST_CARD = 1 << 24


@dataclass(frozen=True)
class ClaimingFolder:
    """
    A finished folder, read.

    Attributes:
        folder (`Path`): Where it is.
        report ([`EvaluationReport`]): The results of the model itself.
        facts (`dict[str, Any]`): Its `robustft.json`; empty without one.
        card ([`CardFacts`], *optional*): What the card says beyond the results.
        shift_mean (`Any`): The mean over the shifts that `evaluation.json` states.
    """

    folder: Path
    report: EvaluationReport
    facts: Mapping[str, Any]
    card: CardFacts | None
    shift_mean: Any = None

    @classmethod
    def read(cls, folder: str | Path, what: str) -> ClaimingFolder:
        """
        Read a `folder`, which messages call `what`.

        Raises:
            OSError: If it holds no results.
            ValueError: If a file in it is damaged.
        """
        folder = Path(folder)
        settle(folder)
        if not (folder / EVALUATION_FILE).is_file():
            raise FileNotFoundError(
                f"`MODEL {what}` claims nothing that can be measured again: there is no {EVALUATION_FILE} in it; give a model that "
                "hf_robustft has measured, or measure this one with hf-robustft evaluate."
            )
        described = (folder / METADATA_FILE).is_file()
        facts = load_robustft_json(folder) if described else {}
        # What of it is damaged is said before anything is measured.
        if "temperature" in facts:
            TemperatureScaling.from_dict(facts["temperature"])
        if "detector" in facts:
            OpenSetDetector.from_pretrained(folder)
        if "prediction_sets" in facts:
            ConformalClassifier.from_pretrained(folder)
        report = load_reports(folder / EVALUATION_FILE)[-1]
        shift_mean = json.loads((folder / EVALUATION_FILE).read_text(encoding="utf-8"))["reports"][-1].get("shift_mean")
        return cls(folder, report, facts, CardFacts.load(folder) if described else None, shift_mean)

    @property
    def unknown(self) -> str | None:
        """The name of the set of images of none of the classes on which the threshold was chosen; `None` if there was none."""
        return ((self.facts.get("detector") or {}).get("risk") or {}).get("unknown")

    @property
    def fitted_on(self) -> str | None:
        """The name of the validation set on which temperature, detector and prediction sets were fitted."""
        names = [self.facts.get(part, {}).get("fitted_on") for part in ("temperature", "detector", "prediction_sets")]
        found = next((name for name in names if isinstance(name, str) and name), None)
        if found is None and "temperature" in self.facts and self.card is not None:
            # The oldest records do not say, and there was one.
            return next((item.name for item in self.card.sets if item.role == "validation"), None)
        return found


# ---- The card -----------------------------------------------------------------------------------------------------------


def card_claims(of: ClaimingFolder) -> tuple[list[Claim], list[str]]:
    """
    Compare the card with `evaluation.json` and `robustft.json`: the numbers in its metadata, temperature and threshold in its text.

    Args:
        of ([`ClaimingFolder`]): The folder.

    Returns:
        `tuple`: The claims, and notes for the reader.

    Raises:
        ValueError: If the metadata of the card cannot be read.
    """
    path = of.folder / CARD_FILE
    if not path.is_file():
        return [], [f"There is no {CARD_FILE}, so that what a card says was not compared."]
    if path.stat().st_size > _LONGEST_CARD:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes, which no card has; restore it.")
    try:
        card = ModelCard(path.read_bytes().decode("utf-8", errors="replace"))
        # A list: one of two of a name may be right, and the other is read all the same.
        shown = [(_key(item), item.metric_value) for item in card.data.eval_results or ()]
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"The metadata of {path} are not valid ({' '.join(str(error).split())[:200]}); correct or restore them.") from None
    claims, notes = [], []
    if of.card is not None:
        wanted: dict[tuple[str, ...], list[float]] = {}
        for item in card_data("model", of.report, of.card).eval_results or ():
            wanted.setdefault(_key(item), []).append(item.metric_value)
        for key, value in shown:
            name = f"{key[-1]} on {key[0]}"
            if key in wanted:
                near = next((number for number in wanted[key] if _equal(CARD_FILE, name, value, number, "").verdict == HOLDS), wanted[key][0])
                claims.append(_equal(CARD_FILE, name, value, near, EVALUATION_FILE))
            else:
                claims.append(Claim(CARD_FILE, name, _plain(value), verdict=FAILS, reason=f"{EVALUATION_FILE} has no such number"))
        missing = len(wanted.keys() - {key for key, _ in shown})
        if missing:
            notes.append(f"{missing} numbers of {EVALUATION_FILE} are not in the metadata of {CARD_FILE}.")
    elif shown:
        notes.append(f"{METADATA_FILE} does not say what the card was made of, so that its metadata were not compared.")
    claims += _text_claims(card.text, of.facts)
    if not is_generated(path):
        notes.append(f"{CARD_FILE} was written by hand; of its text only temperature and threshold are compared.")
    elif not is_untouched(path):
        notes.append(f"{CARD_FILE} was edited after it was generated; of its text only temperature and threshold are compared.")
    return claims, notes


def leaderboard_claims(of: ClaimingFolder) -> list[Claim]:
    """
    Compare the accuracies in `.eval_results`, which leaderboards read, with those in `evaluation.json` of the sets whose tasks they name.

    Args:
        of ([`ClaimingFolder`]): The folder; of the Hub with what [`fetch_eval_results`] has fetched.

    Raises:
        ValueError: If such a file cannot be read.
    """
    claims, card = [], of.card
    measured: dict[tuple[str, str], list[float]] = {}
    places = {} if card is None else {item.name: item.path for item in card.sets if item.path is not None and item.name in card.eval_tasks}
    # Of one repository several sets may be measured, each with its own task.
    for result in ordered(of.report):
        if result.name in places:
            measured.setdefault((places[result.name], card.eval_tasks[result.name]), []).append(result.accuracy)
    for path in sorted((of.folder / FOLDER).glob("*.yaml")):
        if not is_ours(path):
            continue
        try:
            entries = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a list of evaluation results ({error!r}); evaluate again.") from None
        for entry in entries:
            name, values = f"accuracy on {entry.dataset_id}, task {entry.task_id}", measured.get((entry.dataset_id, entry.task_id), [])
            where = f"{FOLDER}/{path.name}"
            if values:
                claims.append(_equal(where, name, entry.value, values.pop(0), EVALUATION_FILE))
            elif card is None:
                claims.append(Claim(where, name, _plain(entry.value), verdict=NOT_MEASURED, reason=f"{METADATA_FILE} does not say of which sets"))
            else:
                claims.append(Claim(where, name, _plain(entry.value), verdict=FAILS, reason=f"{EVALUATION_FILE} has no set of it"))
    return claims


def _key(item: Any) -> tuple[str, ...]:
    parts = (item.dataset_name, item.dataset_type, item.dataset_config, item.dataset_split, item.metric_type, item.metric_name)
    return tuple(str(part) for part in parts)


def _plain(value: Any) -> float | str:
    return value if isinstance(value, float) and math.isfinite(value) else str(value)[:60]


def _equal(of: str, name: str, claimed: Any, found: float, where: str) -> Claim:
    is_number = isinstance(claimed, (int, float)) and not isinstance(claimed, bool)
    if is_number and math.isclose(claimed, found, rel_tol=1e-9, abs_tol=1e-12):
        return Claim(of, name, claimed, found)
    return Claim(of, name, _plain(claimed), found, FAILS, reason=f"{where} says otherwise")


def _text_claims(text: str, facts: Mapping[str, Any]) -> list[Claim]:
    """The threshold and the temperature in the text of a card, to the digits that it writes."""
    claims = []
    detector, temperature = facts.get("detector"), facts.get("temperature")
    for found in _THRESHOLD.finditer(text):
        if detector is not None:
            claims.append(_written("threshold for unknown", found[1], detector.get("threshold")))
        else:
            claims.append(Claim(CARD_FILE, "threshold for unknown", found[1], verdict=FAILS, reason=f"{METADATA_FILE} holds no detector"))
    for found in _TEMPERATURE.finditer(text):
        folded = "has a" in found[0]
        claims.append(_written("temperature", found[1], (temperature or {}).get("folded" if folded else "temperature")))
    return claims


def _written(name: str, text: str, value: Any) -> Claim:
    # A full stop or a colon ends the clause, not the number.
    text = text.rstrip(".,:;")[:60]
    stored = f"{value:.4g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else "none"
    if stored == text:
        return Claim(CARD_FILE, name, text, stored)
    return Claim(CARD_FILE, name, text, stored, FAILS, reason=f"{METADATA_FILE} says otherwise")


# ---- The weights --------------------------------------------------------------------------------------------------------


def scale_claims(of: ClaimingFolder, model: nn.Module) -> list[Claim]:
    """
    Compare the logit scale in the weights of a `model` with that for which report, detector and prediction sets were made, and what a calibration
    noted of the report with it.

    Args:
        of ([`ClaimingFolder`]): The folder.
        model ([`~transformers.PreTrainedModel`]): The model, as it lies there.
    """
    now, claims, report = logit_scale(model).item(), [], of.report
    # Measured before a temperature was folded in, which divides the scale.
    since = report.settings.get(FOLDED_SINCE, 1.0)
    said = {EVALUATION_FILE: None if report.logit_scale is None else report.logit_scale / since}
    if "detector" in of.facts:
        said["the detector"] = of.facts["detector"].get("logit_scale")
    if "prediction_sets" in of.facts:
        temperature = of.facts.get("temperature", {}).get("temperature", 1.0)
        said["the prediction sets"] = of.facts["prediction_sets"]["scale"] * temperature
    # What a calibration measured after it stands in the card.
    for name, row in ((of.facts.get("temperature") or {}).get("sets") or {}).items() if since == 1 else ():
        if name in report.results:
            result = report.results[name]
            after = {"accuracy": (row["accuracy"], result.accuracy), "ECE": (row["ece"][1], result.ece), "NLL": (row["nll"][1], result.nll), "images": (row["n"], result.n)}
            claims += [_equal(METADATA_FILE, f"{key} on {name} after the temperature", one, two, EVALUATION_FILE) for key, (one, two) in after.items()]
    for whose, value in said.items():
        if value is None:
            continue
        name = f"logit scale, by {whose}"
        if math.isclose(value, now, rel_tol=SCALE_TOLERANCE):
            claims.append(Claim("the weights", name, value, now, rule="rounding", tolerance=SCALE_TOLERANCE * value))
        else:
            claims.append(Claim("the weights", name, value, now, FAILS, "rounding", SCALE_TOLERANCE * value, reason="the weights have another"))
    return claims


# ---- What was fitted on validation images -------------------------------------------------------------------------------


def fit_claims(
    of: ClaimingFolder, model: nn.Module, logits: Tensor, labels: Tensor, d: float, unknown: Tensor | None = None, why: str = ""
) -> list[Claim]:
    """
    Fit temperature, threshold and prediction sets again, on the same validation images, and compare.

    Args:
        of ([`ClaimingFolder`]): The folder.
        model ([`~transformers.PreTrainedModel`]): The model, as it lies there.
        logits (`torch.Tensor` of shape `(n, classes)`), labels (`torch.Tensor` of shape `(n,)`): Of these images by this model.
        d (`float`): See [`~publishing.claim_noise.logit_rounding`].
        unknown (`torch.Tensor` of shape `(m, classes)`, *optional*): Logits of the images of none of the classes on which the threshold was chosen.
        why (`str`, *optional*): Why there are none.

    Returns:
        `list[Claim]`: Those of the parts `temperature`, `detector` and `prediction_sets` of `robustft.json`.
    """
    where = of.fitted_on or "validation"
    claims = []
    if "temperature" in of.facts:
        claims += _temperature_claims(of.facts["temperature"], logits.double(), labels, d, where)
    scaling = TemperatureScaling.from_dict(of.facts["temperature"]) if "temperature" in of.facts else None
    if "detector" in of.facts:
        claims += _detector_claims(OpenSetDetector.from_pretrained(of.folder), model, logits, unknown, why, d, where)
    if "prediction_sets" in of.facts:
        claims += _sets_claims(ConformalClassifier.from_pretrained(of.folder), model, logits, labels, scaling, d, where)
    return claims


def fit_claims_not_measured(of: ClaimingFolder, reason: str) -> list[Claim]:
    """The same claims of a folder (`of`) whose validation images cannot be read, for a `reason`."""
    where, found = of.fitted_on or "validation", []
    temperature, detector, sets = (of.facts.get(part) for part in ("temperature", "detector", "prediction_sets"))
    if temperature is not None and temperature.get("n") is not None:
        found += [("temperature", temperature.get("temperature")), ("NLL before the temperature", temperature.get("nll_before")),
                  ("NLL after the temperature", temperature.get("nll_after"))]  # fmt: skip
    if detector is not None:
        found += [("threshold for unknown", detector.get("threshold")), ("known images accepted", detector.get("achieved_true_positive_rate"))]
    if sets is not None:
        found.append(("quantile of prediction sets", sets.get("quantile")))
    return [Claim(where, name, value, verdict=NOT_MEASURED, reason=reason) for name, value in found]


def _within(of: str, name: str, claimed: float, measured: float, tolerance: float) -> Claim:
    if abs(claimed - measured) <= tolerance:
        return Claim(of, name, claimed, measured, rule="rounding", tolerance=tolerance)
    why = f"the same images, and off by {abs(claimed - measured):.3g} where {tolerance:.2g} is allowed"
    return Claim(of, name, claimed, measured, FAILS, "rounding", tolerance, reason=why)


def _temperature_claims(facts: Mapping[str, Any], logits: Tensor, labels: Tensor, d: float, where: str) -> list[Claim]:
    if facts.get("n") is None or facts.get("nll_before") is None:
        return []
    scaling = TemperatureScaling.from_dict(facts)
    history = [item for item in facts.get("history", ()) if isinstance(item, dict)]
    if "sigmoid" in (facts.get("probabilities"), *(item.get("probabilities") for item in history)):
        reason = "a Platt scaling of sigmoids, whose fit is not repeated"
        return [Claim(where, "temperature", scaling.temperature, verdict=NOT_MEASURED, reason=reason)]
    last = scaling.temperature
    if scaling.folded != 1 and scaling.temperature == 1:
        # What the last fit found is in the weights.
        fits = [item["temperature"] for item in history if isinstance(item.get("temperature"), (int, float))]
        last = fits[-1] if fits else scaling.folded
        logits = logits * last
    found = TemperatureScaling().fit(logits, labels)
    # Of the logits before the fit, which may be larger.
    moved = 2 * d * max(1.0, last)
    errors = []
    for when, divisor in (("before", 1.0), ("after", last)):
        if facts.get(f"ece_{when}") is not None:
            room = rounding_tolerance("ece", len(labels), 1, moved / 2 / divisor, logits.shape[1], 0.0)
            shares = (logits / divisor).softmax(dim=1)
            errors.append(_within(where, f"ECE {when} the temperature", facts[f"ece_{when}"], expected_calibration_error(shares, labels), room))
    return [
        *errors,
        _within(where, "images of the fit", facts["n"], len(labels), 0),
        _within(where, "temperature", last, found.temperature, SCALE_TOLERANCE * last),
        _within(where, "NLL before the temperature", scaling.nll_before, cross_entropy(logits, labels).item(), moved + 1e-6),
        _within(where, "NLL after the temperature", scaling.nll_after, cross_entropy(logits / last, labels).item(), moved / last + 1e-6),
    ]


def _detector_claims(
    detector: OpenSetDetector, model: nn.Module, logits: Tensor, unknown: Tensor | None, why: str, d: float, where: str
) -> list[Claim]:
    def accepted(rows: Tensor) -> float:
        return sum(guess.is_known for guess in detector.predict(rows)) / len(rows)

    ties = share_of_ties(len(logits)) + 1e-9
    claims = [
        _within(where, "known images accepted", detector.achieved_true_positive_rate, accepted(logits), ties),
        _within(where, "images of the detector's fit", detector.n, len(logits), 0),
    ]
    controls, named = "", None
    if detector.risk is not None:
        controls, named = detector.risk["controls"], detector.risk.get("unknown")
        if controls == "false_acceptance" and unknown is None:
            return [*claims, Claim(where, "threshold for unknown", detector.threshold, verdict=NOT_MEASURED, reason=why)]
        passed = detector.risk["false_acceptance"]
        if passed is not None and unknown is not None:
            tolerance = share_of_ties(len(unknown)) + 1e-9
            claims.append(_within(named or "unknown images", "unknown images accepted", passed["share"], accepted(unknown), tolerance))
    scale = logit_scale(model)
    options = {"class_names": detector.class_names, "logit_scale": scale}
    options |= {"unknown_logits": unknown} if detector.risk is not None else {}
    found = OpenSetDetector.fit(logits, **options, **detector.fit_options())
    cosines = SCORES[detector.score].needs == "cosines"
    # A place in the order of scores moves no further than the score that moves most.
    error = 2 * (COSINE_ROUNDING if cosines else d) + 1e-9
    claims.append(_within(where, "threshold for unknown", detector.threshold, found.threshold, error))
    if detector.risk is not None and found.risk is not None:
        claims += _risk_claims(detector.risk, found.risk, where, logits if controls == "false_refusal" or unknown is None else unknown, detector.class_names)
    own, again = detector.thresholds, found.thresholds or {}
    if own is not None:
        agree = [name for name in again if name in own and abs(own[name] - again[name]) <= error]
        claims.append(_all_of(where, "thresholds of single classes", set(own) | set(again), agree))
    return claims


def _risk_claims(one: Mapping[str, Any], two: Mapping[str, Any], where: str, judged: Tensor, class_names: Sequence[str]) -> list[Claim]:
    """What is stated of the error for which a threshold was chosen: its upper bounds, and both shares with their intervals."""
    # An image that is decided otherwise moves the ends of an interval by no more than it moves a share, twice.
    claims = [_within(where, "upper bound of the stated error", one["bound"], two["bound"], 2 * share_of_ties(len(judged)) + 1e-9)]
    for key, words in (("false_refusal", "known images refused"), ("false_acceptance", "unknown images accepted")):
        if one.get(key) is not None and two.get(key) is not None:
            room = 2 * share_of_ties(two[key]["n"]) + 1e-9
            claims.append(_within(where, f"images of the share of {words}", one[key]["n"], two[key]["n"], 0))
            claims += [_within(where, f"{words} by the stated threshold, {end}", one[key][end], two[key][end], room) for end in ("share", "low", "high")]
    if "bounds" in one or "bounds" in two:
        counts = judged.argmax(dim=1).bincount(minlength=len(class_names)).clamp(min=1).tolist()
        rooms = {name: 2 / count + 1e-9 for name, count in zip(class_names, counts, strict=True)}
        bounds, again = one.get("bounds", {}), two.get("bounds", {})
        agree = [name for name in again if name in bounds and abs(bounds[name] - again[name]) <= rooms[name]]
        claims.append(_all_of(where, "upper bounds of single classes", set(bounds) | set(again), agree))
    return claims


def _all_of(of: str, name: str, wanted: Collection[str], agree: Collection[str]) -> Claim:
    off = sorted(set(wanted) - set(agree))
    if not off:
        return Claim(of, name, len(wanted), len(agree), rule="rounding")
    why = f"the same images give others for {quoted(off, 3)}"
    return Claim(of, name, len(wanted), len(agree), FAILS, "rounding", reason=why)


def _sets_claims(
    sets: ConformalClassifier, model: nn.Module, logits: Tensor, labels: Tensor, scaling: TemperatureScaling | None, d: float, where: str
) -> list[Claim]:
    options = {name: getattr(sets, name) for name in ("class_names", "method", "randomized", "allow_empty", "seed", "lam", "k_reg")}
    options |= {"logit_scale": logit_scale(model), "temperature": scaling}

    def refitted(coverage: float, **more: Any) -> ConformalClassifier:
        return ConformalClassifier.fit(logits, labels, coverage=coverage, **options, **more)

    claims = [_within(where, "images of the prediction sets' fit", sets.n, len(labels), 0)]
    found, name = refitted(sets.coverage).quantile, "quantile of prediction sets"
    if found is None or sets.quantile is None:
        verdict, why = (HOLDS, "") if found is sets.quantile is None else (FAILS, "one of the two is infinite")
        claims.append(Claim(where, name, str(sets.quantile), str(found), verdict, reason=why))
    else:
        # The draw of an image may go round, and its score with it: one place in the order.
        step = share_of_ties(len(labels)) if sets.randomized and sets.method != "lac" else 0.0
        near = [refitted(coverage).quantile for coverage in (sets.coverage - step, sets.coverage + step) if 0 < coverage < 1]
        room = max((abs(value - found) for value in near if value is not None), default=0.0)
        claims.append(_within(where, name, sets.quantile, found, room + 2 * d))
    own = sets.class_quantiles
    if own is not None:
        again = refitted(sets.coverage, class_conditional=True, min_per_class=sets.min_per_class).class_quantiles or {}
        agree = [item for item, value in again.items() if item in own and _same_quantile(own[item], value, d)]
        claims.append(_all_of(where, "quantiles of single classes", set(own) | set(again), agree))
    return claims


def _same_quantile(one: float | None, two: float | None, d: float) -> bool:
    return one is two is None or one is not None and two is not None and abs(one - two) <= 2 * d + 1e-9
