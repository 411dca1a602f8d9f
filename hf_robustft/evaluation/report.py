# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation found: numbers per data set, as JSON, as a dictionary of metrics and as tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..files import settle, write_whole
from ..modeling.metadata import ZERO_SHOT_HEAD
from ..modeling.zero_shot import ZeroShotHead
from .error_analysis import packed_errors, unpacked_errors
from .open_set import open_set_metrics
from .report_schema import CLASS_COUNTS, check_report
from .threshold_curve import packed_curve, unpacked_curve

FORMAT = 1
TRAINED_HEAD = ZeroShotHead.label
#: Files of a sweep over the weights between two models.
SWEEP_TABLE, SWEEP_PICTURE = "alpha_sweep.csv", "alpha_sweep.png"
SHIFT_METRICS = ("accuracy", "ece", "nll", "brier")
ADDED = ("head_classes", "source", "unreadable", "predictions", "n_groups", "draws")
#: Parts of a report that older files do not have, and that are left out where there is nothing to say.
LATER = ("multi_label", "prediction_sets", "error_analysis", "shared_images")
#: Of a set whose images have lists of labels.
MULTI_LABEL_METRICS = ("map", "f1", "f1_micro", "ece", "n")
DATASET_METRICS = ("accuracy", "ece", "ece_noise_floor", "adaptive_ece", "classwise_ece", "nll", "brier", "n")


@dataclass
class DatasetResult:
    """
    The numbers of one data set. Rates are fractions, not percent; `*_se` are bootstrap standard errors.

    Attributes:
        name (`str`): Name of the benchmark.
        role (`str`): `id`, `shift`, `validation` or `train`.
        n, n_classes (`int`): Images that were read, and classes that were chosen between.
        accuracy, accuracy_se (`float`): Top-1 accuracy.
        ece, ece_se (`float`): Top-label expected calibration error of the whole set.
        ece_noise_floor (`float`): The ECE that a perfectly calibrated model with these confidences would show.
        adaptive_ece, classwise_ece (`float`): With bins of equal mass; averaged over classes.
        nll, nll_se (`float`): Negative log-likelihood, in nats.
        brier, brier_se (`float`): Brier score summed over classes, in [0, 2].
        reliability (`dict`): The bins of the ECE, see `reliability_bins`.
        head (`str`): `"zero-shot prompts"`, `"trained linear head"` or the `label` of another kind.
        head_classes (`int`, *optional*): Classes of the head; more than `n_classes` if its logits were projected.
        source (`dict`, *optional*): Where the images were read from, see `data_source`.
        unreadable (`dict`, *optional*): Images that could not be read: `count`, `of` how many, and the `first` lines.
        predictions (`dict`, *optional*): The `class` that is predicted most often, its `share` of the predictions and its
            `label_share` of the images; `majority`, the most frequent class, and its `majority_share` of the images.
        n_groups (`int`, *optional*): Groups of images that the bootstrap draws as a whole; `None` where it draws images.
        draws (`dict[str, list[float]]`, *optional*): Accuracy, ECE and NLL in the first bootstrap samples, by which two
            models are compared on the same images.
    """

    name: str
    role: str
    n: int
    n_classes: int
    accuracy: float
    accuracy_se: float
    ece: float
    ece_se: float
    ece_noise_floor: float
    adaptive_ece: float
    classwise_ece: float
    nll: float
    nll_se: float
    brier: float
    brier_se: float
    reliability: dict[str, list]
    head: str = ZERO_SHOT_HEAD
    head_classes: int | None = None
    source: dict[str, str] | None = None
    unreadable: dict | None = None
    predictions: dict | None = None
    n_groups: int | None = None
    draws: dict[str, list[float]] | None = None

    @property
    def n_drawn(self) -> int:
        """Images, or groups of them, that chance draws: how many independent ones there are."""
        return self.n_groups or self.n


@dataclass
class EvaluationReport:
    """
    The results of one model on several data sets.

    Attributes:
        model (`str`): What the model is called in tables and plots.
        results (`dict[str, DatasetResult]`): By name of the benchmark, in the order they were given.
        spectrum (`dict`, *optional*): Of the centred covariance of the unit-norm image embeddings of the in-distribution
            set: `smallest_singular_value`, `largest_singular_value`, `n`, `dimension`, `note`, `dataset`.
        logit_scale (`float`, *optional*): The model's learned scale, exponentiated.
        settings (`dict`): What the numbers depend on besides model and data: bins, draws, seed, versions.
        open_set (`dict`, *optional*): By set of unseen classes, how well each score tells known images from unseen ones:
            `{"n", "id", "scores": {score: ...}}`, as `open_set_results` says, `threshold_curve`, as the function of that name says, of
            the detector's score or the energy, and `source`, `unreadable` and `n_groups` as of the other sets. `None` if there was no
            such set.
        multi_label (`dict`, *optional*): By set whose images have lists of labels the numbers of `multi_label_results`, and
            `role`, `head`, `probabilities` (`"sigmoid"` or `"softmax"`, see `evaluation.multi_label`), `thresholds_of` (the
            set on which thresholds were fitted, `None` if all are the default), `default_thresholds` (names of
            classes that have it), `source`, `unreadable` and `n_groups`. `None` if there was no such set.
        prediction_sets (`dict`, *optional*): What [`ConformalClassifier.summary`] says, `unbounded` if every set holds all classes, and
            by in-distribution and shifted set in `sets` the numbers of `coverage_of`. `None` if the model has no prediction sets.
        error_analysis (`dict`, *optional*): By result what `analyse_errors` says: classes, which is taken for which, and the worst
            mistakes. `None` in an older report, or if all images have lists of labels.
        shared_images (`list[dict]`, *optional*): Which sets have images in common, by their encoded bytes, see `Overlap`: `set`,
            `with` (whose images, in words), `found` of `compared` (of `images` in all), `share`, `at_least` and `exact`, `pictures`,
            how many different ones, `first`, which, and `means`, what follows. `None` if no sets were compared.
    """

    model: str
    results: dict[str, DatasetResult]
    spectrum: dict | None = None
    logit_scale: float | None = None
    settings: dict = field(default_factory=dict)
    open_set: dict | None = None
    multi_label: dict | None = None
    prediction_sets: dict | None = None
    error_analysis: dict | None = None
    shared_images: list[dict] | None = None

    @property
    def shifts(self) -> list[DatasetResult]:
        """The results with the role `shift`."""
        return [result for result in self.results.values() if result.role == "shift"]

    @property
    def shift_mean(self) -> dict[str, float]:
        """Plain mean over the shifts, each set counted once, of accuracy, ECE, NLL and Brier; empty without shifts."""
        if not self.shifts:
            return {}
        return {key: sum(getattr(result, key) for result in self.shifts) / len(self.shifts) for key in SHIFT_METRICS}

    def metrics(self) -> dict[str, float]:
        """
        Return all numbers under flat keys.

        Returns:
            `dict[str, float]`: By `<dataset>/accuracy`, `shift_mean/ece`, `spectrum/smallest_singular_value`,
            `open_set/<open set>/energy/auroc`, `open_set/<open set>/energy/<shift>/auroc`, ...
        """
        flat = {
            f"{name}/{key}": getattr(result, key) for name, result in self.results.items() for key in DATASET_METRICS
        }
        flat.update({f"shift_mean/{key}": value for key, value in self.shift_mean.items()})
        if self.spectrum is not None:
            flat["spectrum/smallest_singular_value"] = self.spectrum["smallest_singular_value"]
        for name, row in (self.multi_label or {}).items():
            flat |= {f"{name}/{key}": row[key] for key in MULTI_LABEL_METRICS if row[key] is not None}
        return {**flat, **open_set_metrics(self.open_set)}

    def table(self, baseline: EvaluationReport | None = None, width: int = 100) -> str:
        """
        Lay out a table for the terminal: in-distribution sets first, then the shifts and their mean.

        Below it, there is a table "known or unknown" for each set of unseen classes.

        Args:
            baseline ([`EvaluationReport`], *optional*): Another model on the same data, shown as before -> after.
            width (`int`, *optional*, defaults to 100): Columns of the terminal.

        Returns:
            `str`: Lines without a trailing newline.

        Raises:
            ValueError: If the baseline shares no data set, or a set of the same name has another number of images.
        """
        from .tables import terminal_table

        return terminal_table(self, baseline, width)

    def markdown(self, baseline: EvaluationReport | None = None) -> str:
        """
        Lay out the same tables in markdown.

        Args:
            baseline ([`EvaluationReport`], *optional*): As for `table`.

        Returns:
            `str`: The tables.

        Raises:
            ValueError: As `table`.
        """
        from .tables import markdown_table

        return markdown_table(self, baseline)

    def to_dict(self) -> dict:
        """Return the report as JSON types, including the mean over the shifts."""
        later = {name: getattr(self, name) for name in LATER}
        packed = {"prediction_sets": _packed_sets, "error_analysis": packed_errors}
        return {
            "model": self.model,
            "results": {name: _packed(asdict(result)) for name, result in self.results.items()},
            "shift_mean": self.shift_mean,
            "spectrum": self.spectrum,
            "logit_scale": self.logit_scale,
            "settings": self.settings,
            "open_set": _each_curve(self.open_set, packed_curve),
            **{name: packed.get(name, _same)(part) for name, part in later.items() if part is not None},
        }

    @classmethod
    def from_dict(cls, values: dict) -> EvaluationReport:
        """
        Restore what `to_dict` returned.

        Args:
            values (`dict`): The report as JSON types. `open_set`, what is in `LATER`, and `head_classes`, `source` and `unreadable`
                of a result, may be missing, as in older reports.

        Returns:
            [`EvaluationReport`]: The report.

        Raises:
            ValueError: If a field is missing, is unknown, cannot be what it is called (see `check_report`), or a result is
                filed under another name than its own.
        """
        # shift_mean is derived from the results, so it is not read back.
        if not isinstance(values, dict):
            raise ValueError(f"A report is a mapping, not {type(values).__name__}; evaluate the model again.")
        given = dict.fromkeys(("open_set", *LATER))
        given |= {key: value for key, value in values.items() if key != "shift_mean"}
        given = _checked_fields(cls, given, "an evaluation report")
        if not isinstance(given["results"], dict):
            raise ValueError("The results of the report are not a mapping; evaluate the model again.")
        results = {name: _unpacked(row, name) for name, row in given["results"].items()}
        given["prediction_sets"] = _unpacked_sets(given["prediction_sets"])
        given["error_analysis"] = unpacked_errors(given["error_analysis"])
        given["open_set"] = _each_curve(given["open_set"], unpacked_curve)
        check_report({**given, "results": results})
        for name, row in results.items():
            if row["name"] != name:
                raise ValueError(
                    f"Result {name!r} says that its name is {row['name']!r}; the file was edited, restore it."
                )
        return cls(**{**given, "results": {name: DatasetResult(**row) for name, row in results.items()}})

    def save_json(self, path: str | Path) -> Path:
        """
        Write this report alone into a file; `save_reports` keeps several in one.

        Args:
            path (`str` or `Path`): The file.

        Returns:
            `Path`: The file.
        """
        return save_reports(path, [self])

    @classmethod
    def load_json(cls, path: str | Path) -> EvaluationReport:
        """
        Read a file that holds one report.

        Args:
            path (`str` or `Path`): The file.

        Returns:
            [`EvaluationReport`]: The report.

        Raises:
            OSError: If there is no such file.
            ValueError: If it is not one of ours, or holds several reports.
        """
        reports = load_reports(path)
        if len(reports) != 1:
            raise ValueError(f"{path} holds {len(reports)} reports, not one; read it with `load_reports`.")
        return reports[0]


def save_reports(path: str | Path, reports: Iterable[EvaluationReport]) -> Path:
    """
    Write reports as `{"format": 1, "reports": [...], "findings": [...]}`; folders are created as needed.

    The findings are what a reader must know about the last report beside the one before it (see `findings.sentences`).

    Args:
        path (`str` or `Path`): The file.
        reports (`Iterable[EvaluationReport]`): The reports, the model itself last.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If a number is not finite, which JSON cannot hold.
    """
    path = Path(path)
    from .findings import sentences

    reports = list(reports)
    content = {"format": FORMAT, "reports": [report.to_dict() for report in reports]}
    # For those who read the file without this package; the words follow from the numbers.
    content["findings"] = sentences(reports[-1], reports[-2] if len(reports) > 1 else None) if reports else []
    try:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"The reports cannot be written to {path}: a number is not finite ({error}).") from None
    return write_whole(path, text + "\n")


def load_reports(path: str | Path) -> list[EvaluationReport]:
    """
    Read the reports that `save_reports` or `EvaluationReport.save_json` wrote.

    Args:
        path (`str` or `Path`): The file.

    Returns:
        `list[EvaluationReport]`: The reports, in the order of the file.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not JSON or has another format, or a value in it cannot be what it is called.
    """
    path = Path(path)
    settle(path.parent)
    if not path.is_file():
        raise FileNotFoundError(f"There is no evaluation report at {path}; `EvaluationReport.save_json` writes one.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); give a file that `save_reports` wrote.") from None
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        raise ValueError(
            f"{path} has the format {version!r}, but this version reads {FORMAT}; evaluate the model again."
        )
    if not isinstance(content.get("reports"), list) or not content["reports"]:
        raise ValueError(f"{path} holds no list of reports; restore the file or evaluate the model again.")
    try:
        return [EvaluationReport.from_dict(values) for values in content["reports"]]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _packed(row: dict) -> dict:
    """Return a result with its draws as texts, each of which takes one line of an indented file."""
    if row["draws"] is not None:
        row["draws"] = {key: " ".join(map(repr, values)) for key, values in row["draws"].items()}
    return row


def _unpacked(row: dict, name: str) -> dict:
    if not isinstance(row, dict):
        raise ValueError(f"Result {name!r} is not a mapping; restore the file or evaluate the model again.")
    row = _checked_fields(DatasetResult, {**dict.fromkeys(ADDED), **row}, f"result {name!r}")
    if row["draws"] is not None:
        try:
            row["draws"] = {key: [float(item) for item in text.split()] for key, text in row["draws"].items()}
        except (AttributeError, ValueError):
            raise ValueError(
                f"The draws of result {name!r} are not texts of numbers; restore the file or evaluate the model again."
            ) from None
    return row


def _packed_sets(part: dict) -> dict:
    """Return prediction sets with the counts of classes as texts, each of which takes one line of an indented file."""
    sets = {name: row | {key: " ".join(map(str, row[key])) for key in CLASS_COUNTS} for name, row in part["sets"].items()}
    return {**part, "sets": sets}


def _unpacked_sets(part: Any) -> Any:
    try:
        sets = {name: row | {key: [int(item) for item in row[key].split()] for key in CLASS_COUNTS} for name, row in part["sets"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        if part is None:
            return None
        raise ValueError("prediction_sets has no texts of counts by class; restore the file or evaluate the model again.") from None
    return {**part, "sets": sets}


def _each_curve(parts: Any, change: Callable[[Any], Any]) -> Any:
    # The schema refuses whatever else it may be.
    if not isinstance(parts, dict):
        return parts
    key = "threshold_curve"
    has = {name: isinstance(part, dict) and part.get(key) is not None for name, part in parts.items()}
    return {name: {**part, key: change(part[key])} if has[name] else part for name, part in parts.items()}


def _same(part: Any) -> Any:
    return part


def no_number(text: str) -> float:
    """Refuse NaN and infinity, a `text` that JSON does not know, as its `parse_constant`. Raises ValueError always."""
    raise ValueError(f"{text} is not a number")


def _checked_fields(cls, values: dict, what: str) -> dict:
    known = {item.name for item in fields(cls)}
    if set(values) != known:
        missing, unknown = sorted(known - set(values)), sorted(set(values) - known)
        raise ValueError(f"This is not {what}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}.")
    return values
