# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a model and benchmarks to an `EvaluationReport`, in one process or several, with or without a Trainer."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn

from .. import __version__
from ..data.bad_images import BadImages
from ..data.benchmarks import Benchmark
from ..data.column_checks import check_groups
from ..data.transforms import ImageTransform
from ..modeling.dual_encoder import DualEncoder, unwrapped
from ..modeling.features import logit_scale
from ..modeling.heads import own_head
from ..modeling.processes import failing_together
from ..modeling.zero_shot import ZeroShotHead
from . import calibration
from .benchmark_checks import (
    check_bank,
    check_several,
    checked_benchmarks,
    head_keys,
    is_classified_by,
    trained_head_of,
    with_validation,
)
from .binning import MOST_BINS, check_n_bins
from .collect import (
    KEPT_BYTES,
    KeptImages,
    data_source,
    evaluation_head,
    evaluation_mode,
    gather_rows,
    image_batches,
    save_logits,
    unreadable_images,
)
from .conformal import coverage_of
from .detector import OpenSetDetector
from .image_numbers import MEASURED, ImageNumbers, errors_of, most_frequent
from .open_set import open_set_results
from .prediction_sets import ConformalClassifier
from .predictions import Predictions, set_predictions
from .report import ZERO_SHOT_HEAD, DatasetResult, EvaluationReport
from .resampling import bootstrap_draws
from .several_labels import SeveralLabels, pair_bias, several_results
from .spectrum import EmbeddingCovariance
from .threshold_curve import curve_of

NOISE_FLOOR_DRAWS = 200
#: Bootstrap samples whose metrics a report keeps; a standard error from them is right within 5 %.
KEPT_DRAWS = 200


class Evaluator:
    """
    Measures accuracy, calibration and the feature spectrum of any dual encoder on several data sets, and how well its
    scores tell known classes from unseen ones.

    Each data set is classified by the model's zero-shot head (its own text tower and learned logit scale) or by a trained
    head. A dozen numbers are kept per image, so memory does not grow with the number of classes.

    A benchmark with a projection (ImageNet-R, -A, ObjectNet) is classified by the head of the larger list of classes,
    which it shares with the other sets of these classes; its logits are projected before softmax, so accuracy and
    calibration are over its own classes. A trained head of either list serves it.

    A benchmark with the role `open_set` holds images of unseen classes. It has no accuracy: its images are scored by the
    head of the first in-distribution set, and compared with all images of that set and of the shifts that the same head
    classifies. The scores are those of the table `SCORES` that can be computed: `mcm` needs a zero-shot head, and `knn` a
    bank. They are over all classes of the head, even for sets with a projection, as in CRoFT's code: a detector in use does
    not know to which of the classes an image could belong, and one threshold must serve all sets.

    A benchmark whose images have lists of labels is measured by mean average precision, F1 and the calibration error of each
    class by itself, on probabilities that `evaluation.multi_label` states: the sigmoids of a sigmoid family with its prompts,
    or of a head that was trained on such lists, else the share of each class against the rest. Thresholds for F1 are fitted on the first such set with the role
    `validation` and the same classes; without one they are those given, or 0.5. Its logits are kept in memory, in float64. It has no standard
    errors, no predictions per image, and is not compared with open sets; groups of its images are kept beside the logits, for comparisons.

    In several processes (`accelerate launch`, `torchrun`, or inside a Trainer) whole batches are dealt out in turn, so
    that every image is counted once, in the batch in which one process alone would have seen it. Every process returns
    the same report. It equals that of one process up to rounding: prompts are shared out in other batches, sums come in
    another order, and on some processors a row of a product depends on how many rows there are.

    Args:
        benchmarks (iterable or mapping of [`Benchmark`]): Data sets with distinct names, with class names and labels except
            for the role `open_set`. The spectrum is measured on the first with the role `id` (or if there is none, the first
            with the role `validation`), with which open sets are compared.
        processor (`CLIPProcessor`): The checkpoint's processor.
        batch_size (`int`, *optional*, defaults to 256): Images encoded at once in one process.
        num_workers (`int`, *optional*, defaults to 0): Processes that read images.
        n_bins (`int`, *optional*, defaults to 15): Bins of the calibration errors and the reliability diagram, at most 100,000.
        bootstrap_draws (`int`, *optional*, defaults to 1000): Resamplings behind the standard errors: of images, or of whole
            groups of them where a benchmark has a `group_column`.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap and the noise floor.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar in the main process.
        knn_bank ([`Benchmark`], *optional*): Known images, such as the training set, for the score `knn`. Its embeddings
            are held in memory, in float64, by every process.
        knn_k (`int`, *optional*, defaults to 10): The neighbour in the bank whose distance counts.
        bad_images ([`~hf_robustft.data.bad_images.BadImages`], *optional*): The policy for images that cannot be read, counted
            separately for each data set. By default the first one is an error. The report says how many are skipped, and
            which.
        thresholds (`Mapping[str, Any]`, *optional*): The part `thresholds` of a model's `robustft.json`, for lists of labels.
        kept_bytes (`int`, *optional*, defaults to `KEPT_BYTES`): Memory for images that the next `evaluate` need not read and
            prepare again, 256 MiB; sets that find no room in it, and streams, are read again.

    Attributes:
        scores (`dict[str, dict[str, torch.Tensor]]`): After `evaluate`, by data set and score one float64 number per image,
            in the order of the data, higher for known classes. Only in-distribution, shifted and open sets that the head
            of the first in-distribution set classifies are included: a threshold does not serve two heads.
        predictions ([`~evaluation.predictions.Predictions`]): After `evaluate`, what the model said of each image.

    Raises:
        ValueError: If the benchmarks cannot be evaluated together (see `checked_benchmarks`), the bank is evaluated too, or a
            number is out of range.
    """

    def __init__(
        self,
        benchmarks: Iterable[Benchmark] | Mapping[str, Benchmark],
        processor,
        *,
        batch_size: int = 256,
        num_workers: int = 0,
        n_bins: int = 15,
        bootstrap_draws: int = 1000,
        seed: int = 0,
        progress: bool = True,
        knn_bank: Benchmark | None = None,
        knn_k: int = 10,
        bad_images: BadImages | None = None,
        thresholds: Mapping[str, Any] | None = None,
        kept_bytes: int = KEPT_BYTES,
    ):
        check_n_bins(n_bins)
        if n_bins > MOST_BINS:
            raise ValueError(f"`n_bins={n_bins}`: a report of more than {MOST_BINS:,} bins could not be read again; give fewer, such as 15.")
        if batch_size < 1 or num_workers < 0 or bootstrap_draws < 2 or knn_k < 1:
            raise ValueError(
                f"batch_size {batch_size}, num_workers {num_workers}, bootstrap_draws {bootstrap_draws}, knn_k {knn_k}: "
                "they must be at least 1, 0, 2 and 1."
            )
        self.benchmarks = checked_benchmarks(benchmarks)
        self._known = self._first("id")
        # During training there is often nothing in distribution except validation images.
        self._spectrum_of = self._known or self._first("validation")
        check_bank(knn_bank, self.benchmarks)
        self.processor = processor
        self.transform = ImageTransform.from_processor(processor, train=False)
        self.batch_size, self.num_workers, self.n_bins = batch_size, num_workers, n_bins
        self.bootstrap_draws, self.seed, self.progress = bootstrap_draws, seed, progress
        self.knn_bank, self.knn_k, self.bad_images = knn_bank, knn_k, bad_images
        self.thresholds = thresholds
        self._kept = KeptImages(kept_bytes) if kept_bytes else None
        self.scores: dict[str, dict[str, Tensor]] = {}
        self.predictions = Predictions({})

    def _first(self, role: str) -> Benchmark | None:
        return next((item for item in self.benchmarks.values() if item.role == role), None)

    def evaluate(
        self,
        model: nn.Module,
        head: ZeroShotHead | None = None,
        name: str = "model",
        logits_dir: str | Path | None = None,
        validation: Benchmark | None = None,
        thresholds: Mapping[str, Any] | None = None,
        prediction_sets: ConformalClassifier | None = None,
        detector: OpenSetDetector | None = None,
    ) -> EvaluationReport:
        """
        Evaluate a model on all benchmarks.

        Neither the model's training mode nor the global random state is changed.

        Args:
            model ([`~transformers.PreTrainedModel`]): The model, possibly wrapped, on the device that runs it.
            head ([`ZeroShotHead`], *optional*): A trained head, used for the benchmarks with its class names in any order, or with a
                projection from them; the others get the zero-shot head. The report says which.
            name (`str`, *optional*, defaults to `"model"`): What the report calls the model.
            logits_dir (`str` or `Path`, *optional*): Folder into which the main process writes `<benchmark>.safetensors` for
                each benchmark: `logits` (n, classes), projected where the benchmark is, in float32 (float64 for a float64
                model), in the order of the data; `labels` int64 except for open sets; metadata with the names of the model
                and the classes. Of lists of labels also `rows`, `groups` if they have any, and what makes `probabilities` of the logits.
            validation ([`Benchmark`], *optional*): Images that are measured too, for `predictions` alone; unless they are one
                of the benchmarks, the report does not have them.
            thresholds (`Mapping[str, Any]`, *optional*): In place of those that the evaluator was made with, such as
                `fit_label_thresholds` returns.
            prediction_sets ([`ConformalClassifier`], *optional*): Measured on in-distribution and shifted images of its classes.
            detector ([`OpenSetDetector`], *optional*): Whose score the threshold curve of open sets is of, and whose threshold is
                marked on it if the in-distribution set has its classes; by default the energy's, without a mark.

        Returns:
            [`EvaluationReport`]: The results.

        Raises:
            ValueError: If prediction sets do not fit the model, the head's class names belong to none of the benchmarks, a data set has labels outside its
                classes, a logit is not finite, or the bank holds fewer than `knn_k` images.
            OSError: If an image cannot be read (or too many, by the policy "skip"), a stream gives another number of rows
                than it declares, or the logits cannot be written.
        """
        model, state = unwrapped(model), PartialState()
        measured = with_validation(self.benchmarks, validation)
        check_several(measured, validation)
        several: dict[str, SeveralLabels] = {}
        self.scores, self.predictions = {}, Predictions({})
        results, scores, correct, unseen, predictions, spectrum = {}, {}, {}, {}, {}, None
        covered: dict[str, dict[str, Any]] = {}
        errors: dict[str, dict[str, Any]] = {}

        def keep(benchmark: Benchmark, kind: str, class_names: Sequence[str], kept: Mapping[str, Tensor], more: Mapping | None = None) -> None:
            if logits_dir is None:
                return
            facts = {"model": name, "dataset": benchmark.name, "role": benchmark.role, "head": kind}
            facts |= {"logit_scale": scale, "class_names": class_names, **(more or {})}
            with failing_together(f"Evaluation on {benchmark.name!r}", state):
                if state.is_main_process:
                    save_logits(logits_dir, benchmark.name, kept, facts)

        with evaluation_mode(model), torch.inference_mode():
            heads = self._heads(model, head, measured)
            scale = logit_scale(model).item()
            if prediction_sets is not None:
                prediction_sets.check(prediction_sets.class_names, scale)
            bank = self._bank_embeds(model, state)
            for benchmark in measured.values():
                chosen, kind = heads[benchmark.name]
                covariance = (
                    EmbeddingCovariance(DualEncoder.of(model).embed_dim) if benchmark is self._spectrum_of else None
                )
                if benchmark.role != "open_set" and benchmark.several:
                    labels_of = self._several_labels(model, benchmark, chosen, kind, covariance, state)
                    several[benchmark.name] = labels_of
                    if covariance is not None:
                        spectrum = {**covariance.summary(), "dataset": benchmark.name}
                    keep(benchmark, kind, benchmark.class_names, *labels_of.kept(chosen.weight.dtype))
                    continue
                numbers = ImageNumbers(
                    benchmark,
                    chosen,
                    cosine_scale=scale if kind == ZERO_SHOT_HEAD else None,
                    bank=bank,
                    knn_k=self.knn_k,
                    n_bins=self.n_bins,
                    covariance=covariance,
                    keep_logits=logits_dir is not None and benchmark.name in self.benchmarks,
                    sets=prediction_sets if benchmark.role in ("id", "shift") else None,
                )
                groups: dict[int, str] | None = None if benchmark.group_column is None else {}
                bad, batches = self._batches(model, benchmark, labelled=numbers.labelled, groups=groups)
                with failing_together(f"Evaluation on {benchmark.name!r}", state):
                    for index, embeds, labels in batches:
                        numbers.update(index, embeds, labels)
                columns, kept = numbers.merged(state)
                group, n_groups = None, None
                if groups is not None:
                    group = np.array([groups[row] for row in columns["index"].long().tolist()])
                    n_groups = len(set(groups.values()))
                    # Of a stream that is not known before it is read.
                    check_groups(n_groups, benchmark.group_column, f"data set {benchmark.name!r}")
                read = {"source": data_source(benchmark), "unreadable": unreadable_images(bad), "n_groups": n_groups}
                if numbers.scores and (self._known is None or own_head(chosen) is own_head(heads[self._known.name][0])):
                    scores[benchmark.name] = {key: columns[key] for key in numbers.scores}
                named = benchmark if numbers.labelled else chosen
                predictions[benchmark.name] = set_predictions(
                    benchmark.name, benchmark.role, columns, named.class_names, scores.get(benchmark.name, {}), group
                )
                if benchmark.name not in self.benchmarks:
                    continue
                if numbers.labelled:
                    read["head_classes"] = len(chosen.weight)
                    results[benchmark.name] = self._result(benchmark, kind, columns, numbers, group, read)
                    correct[benchmark.name] = columns["correct"]
                    errors[benchmark.name] = errors_of(benchmark, columns, group)
                    if numbers.sets is not None:
                        of_sets = (columns["set_size"], columns["held"], columns["label"].long())
                        covered[benchmark.name] = coverage_of(*of_sets, len(benchmark.class_names))
                else:
                    unseen[benchmark.name] = read
                if covariance is not None:
                    spectrum = {**covariance.summary(), "dataset": benchmark.name}
                keep(benchmark, kind, named.class_names, kept)
        # Copied outside inference mode, so that they are ordinary tensors.
        self.scores = {key: {of: values.clone() for of, values in row.items()} for key, row in scores.items()}
        self.predictions = Predictions(predictions)
        open_set = self._open_set(correct, detector)
        for of, read in unseen.items():
            open_set[of].update(read)
        found = several_results(several, self.n_bins, thresholds or self.thresholds) or None
        sets = None if prediction_sets is None or not covered else {**prediction_sets.summary(), "sets": covered}
        return EvaluationReport(name, results, spectrum, scale, self._settings(model), open_set, found, sets, errors or None)

    def _heads(
        self, model: nn.Module, trained: ZeroShotHead | None, measured: Mapping[str, Benchmark]
    ) -> dict[str, tuple[nn.Module, str]]:
        """Return the head of each benchmark and its kind; one zero-shot head per list of classes and templates."""
        if trained is not None:
            trained = evaluation_head(trained, model)
            closed = [item for item in self.benchmarks.values() if item.role != "open_set"]
            if not any(is_classified_by(trained.class_names, benchmark) for benchmark in closed):
                raise ValueError(
                    f"The head has {len(trained.class_names)} classes ({trained.class_names[0]!r}, ...), which are the class "
                    f"names of none of {', '.join(item.name for item in closed)}; give the head that was trained on these "
                    "classes."
                )
        built, heads = {}, {}
        for name, key in head_keys(measured, None if trained is None else trained.class_names).items():
            if key is None:
                heads[name] = (trained_head_of(measured[name], trained, built), trained.label)
                continue
            if key not in built:
                built[key] = ZeroShotHead.from_model(
                    model, self.processor, *key, batch_size=self.batch_size, sharded=True
                )
            heads[name] = (built[key], ZERO_SHOT_HEAD)
        return heads

    def _several_labels(
        self,
        model: nn.Module,
        benchmark: Benchmark,
        head: nn.Module,
        kind: str,
        covariance: EmbeddingCovariance | None,
        state: PartialState,
    ) -> SeveralLabels:
        """Return logits and labels of all images of a benchmark with lists of labels, merged over processes."""
        numbers = SeveralLabels(benchmark, head, kind, covariance)
        bad, batches = self._batches(model, benchmark, labelled=True, groups=numbers.groups)
        with failing_together(f"Evaluation on {benchmark.name!r}", state):
            for batch in batches:
                numbers.update(*batch)
        numbers.finish(pair_bias(model, None if kind == ZERO_SHOT_HEAD else head), state)
        n_groups = None if numbers.group is None else len(np.unique(numbers.group))
        numbers.read = {"source": data_source(benchmark), "unreadable": unreadable_images(bad), "n_groups": n_groups}
        return numbers

    def _batches(
        self, model: nn.Module, benchmark: Benchmark, labelled: bool, groups: dict[int, str] | None = None
    ) -> tuple[BadImages | None, Iterator]:
        """Return the count of images of a data set that cannot be read, and its encoded batches."""
        bad = None if self.bad_images is None else self.bad_images.of(f"data set {benchmark.name!r}")
        options = {name: getattr(self, name) for name in ("batch_size", "num_workers", "seed", "progress")}
        options |= {"labelled": labelled, "bad_images": bad, "groups": groups, "kept": self._kept}
        return bad, image_batches(model, benchmark, self.transform, **options)

    def _bank_embeds(self, model: nn.Module, state: PartialState) -> Tensor | None:
        """Return the embeddings of the whole bank in float64, or `None`. Raises ValueError if it is smaller than `knn_k`."""
        if self.knn_bank is None:
            return None
        size = len(self.knn_bank.load())
        if size < self.knn_k:
            raise ValueError(
                f"The bank {self.knn_bank.name!r} holds {size} images, so none has a neighbour {self.knn_k}; "
                "lower knn_k, or give a larger bank."
            )
        rows = [torch.empty(0, 1, dtype=torch.long)]
        embeds = [torch.empty(0, DualEncoder.of(model).embed_dim, dtype=torch.float64)]
        with failing_together(f"Evaluation on {self.knn_bank.name!r}", state):
            for index, batch, _ in self._batches(model, self.knn_bank, labelled=False)[1]:
                rows.append(index[:, None])
                embeds.append(batch.double().cpu())
        return gather_rows(torch.cat(rows), torch.cat(embeds), state=state)[1]

    def _result(
        self,
        benchmark: Benchmark,
        kind: str,
        columns: dict[str, Tensor],
        numbers: ImageNumbers,
        group: np.ndarray | None,
        read: dict,
    ) -> DatasetResult:
        confidence, correct, nll, brier = (columns[key] for key in MEASURED)
        samples = bootstrap_draws(
            *(confidence, correct, nll, brier),
            groups=group,
            n_bins=self.n_bins,
            draws=self.bootstrap_draws,
            seed=self.seed,
        )
        errors = {key: float(values.std(ddof=1)) for key, values in samples.items()}
        return DatasetResult(
            name=benchmark.name,
            role=benchmark.role,
            n=len(confidence),
            n_classes=len(benchmark.class_names),
            accuracy=correct.mean().item(),
            accuracy_se=errors["accuracy"],
            ece=calibration.ece_from_confidence(confidence, correct, self.n_bins),
            ece_se=errors["ece"],
            ece_noise_floor=calibration.ece_noise_floor(confidence, self.n_bins, NOISE_FLOOR_DRAWS, self.seed),
            adaptive_ece=calibration.adaptive_from_confidence(confidence, correct, self.n_bins),
            classwise_ece=numbers.classwise.compute(),
            nll=nll.mean().item(),
            nll_se=errors["nll"],
            brier=brier.mean().item(),
            brier_se=errors["brier"],
            reliability=calibration.reliability_bins(confidence, correct, self.n_bins),
            head=kind,
            predictions=most_frequent(columns, benchmark.class_names),
            draws={key: samples[key][:KEPT_DRAWS].round(6).tolist() for key in ("accuracy", "ece", "nll")},
            **read,
        )

    def _open_set(self, correct: dict[str, Tensor], detector: OpenSetDetector | None) -> dict | None:
        """Return the report's part on unseen classes, `None` without open sets."""
        named = {role: [b.name for b in self.benchmarks.values() if b.role == role] for role in ("shift", "open_set")}
        if not named["open_set"]:
            return None
        known = self._known.name
        shifts = [name for name in named["shift"] if name in self.scores]
        found = open_set_results(
            self.scores, known=known, correct=correct[known], shifts=shifts, open_sets=named["open_set"]
        )
        judge = detector if detector is not None and detector.class_names == self._known.class_names else None
        for name, part in found.items():
            part["threshold_curve"] = curve_of(self.predictions.sets, name, known, shifts, judge)
        return found

    def _settings(self, model: nn.Module) -> dict:
        return {
            "n_bins": self.n_bins,
            "bootstrap_draws": self.bootstrap_draws,
            "noise_floor_draws": NOISE_FLOOR_DRAWS,
            "seed": self.seed,
            "batch_size": self.batch_size,
            **self.transform.facts,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            **({} if self.knn_bank is None else {"knn_bank": self.knn_bank.name, "knn_k": self.knn_k}),
            "versions": {
                "hf_robustft": __version__,
                "python": platform.python_version(),
                **{package: version(package) for package in ("torch", "transformers", "torchmetrics", "pillow")},
            },
        }
