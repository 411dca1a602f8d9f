# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a CLIPModel and benchmarks to an `EvaluationReport`, in one process or several, with or without a Trainer."""

from __future__ import annotations

import copy
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes, reduce
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_robustft import __version__
from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.collator import EvaluationImages, collate_images
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.evaluation import calibration
from hf_robustft.evaluation.binning import check_n_bins
from hf_robustft.evaluation.report import TRAINED_HEAD, ZERO_SHOT_HEAD, DatasetResult, EvaluationReport
from hf_robustft.evaluation.spectrum import EmbeddingCovariance
from hf_robustft.modeling.features import encode_images, logit_scale, unwrapped
from hf_robustft.modeling.zero_shot import ZeroShotHead

NOISE_FLOOR_DRAWS = 200
# Columns of the per-image table that processes exchange: five float64 an image, whatever the number of classes.
COLUMNS = ("index", "confidence", "correct", "nll", "brier")


class Evaluator:
    """
    Measures accuracy, calibration and the feature spectrum of any `CLIPModel` on several data sets.

    Each data set is classified by the model's zero-shot head (its own text tower and learned logit scale) or by a trained
    head. Of each image four numbers are kept, so memory does not grow with the number of classes.

    In several processes (`accelerate launch`, `torchrun`, or inside a Trainer) whole batches are dealt out in turn, so
    that every image is counted once, in the batch in which one process alone would have seen it. Every process returns
    the same report; it equals that of one process but for the spectrum, whose sums are rounded in another order (1e-12).

    Args:
        benchmarks: [`Benchmark`]s with class names and distinct names, in a list or as the values of a mapping. The first
            with the role `id` is the one whose spectrum is measured. The role `open_set` is refused.
        processor: The checkpoint's `CLIPProcessor`.
        batch_size (`int`, *optional*, defaults to 256): Images encoded at once in one process.
        num_workers (`int`, *optional*, defaults to 0): Processes that read images.
        n_bins (`int`, *optional*, defaults to 15): Bins of the calibration errors and the reliability diagram.
        bootstrap_draws (`int`, *optional*, defaults to 1000): Resamplings behind the standard errors.
        seed (`int`, *optional*, defaults to 0): Seed of the bootstrap and the noise floor.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar in the main process.

    Raises:
        ValueError: If there are no benchmarks, two of one name, one without class names or with the role `open_set`, or
            if a number is out of range.
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
    ):
        check_n_bins(n_bins)
        if batch_size < 1 or num_workers < 0 or bootstrap_draws < 2:
            raise ValueError(
                f"batch_size {batch_size}, num_workers {num_workers}, bootstrap_draws {bootstrap_draws}: they must be at "
                "least 1, 0 and 2."
            )
        self.benchmarks = _checked_benchmarks(benchmarks)
        self.processor = processor
        self.transform = ImageTransform.from_processor(processor, train=False)
        self.batch_size, self.num_workers, self.n_bins = batch_size, num_workers, n_bins
        self.bootstrap_draws, self.seed, self.progress = bootstrap_draws, seed, progress

    def evaluate(self, model: nn.Module, head: ZeroShotHead | None = None, name: str = "model") -> EvaluationReport:
        """
        Evaluate a model on all benchmarks.

        Neither the model's training mode nor the global random state is changed.

        Args:
            model: A `CLIPModel`, possibly wrapped, on the device where it shall run.
            head ([`ZeroShotHead`], *optional*): A trained head, used for the benchmarks with its class names; the others
                get the zero-shot head. The report says which.
            name (`str`, *optional*, defaults to `"model"`): What the report calls the model.

        Returns:
            [`EvaluationReport`]

        Raises:
            ValueError: If the head's class names are those of no benchmark, a data set has labels outside its classes, or
                a logit is not finite.
            OSError: If an image cannot be read.
        """
        model = unwrapped(model)
        spectrum_of = next((benchmark.name for benchmark in self.benchmarks.values() if benchmark.role == "id"), None)
        results, spectrum = {}, None
        with _evaluation_mode(model), torch.inference_mode():
            heads = self._heads(model, head)
            for benchmark in self.benchmarks.values():
                covariance = (
                    EmbeddingCovariance(model.config.projection_dim) if benchmark.name == spectrum_of else None
                )
                chosen, kind = heads[benchmark.name]
                results[benchmark.name] = self._measure(model, chosen, kind, benchmark, covariance)
                if covariance is not None:
                    spectrum = {**covariance.summary(), "dataset": benchmark.name}
            scale = logit_scale(model).item()
        return EvaluationReport(name, results, spectrum, scale, self._settings(model))

    def _heads(self, model: nn.Module, trained: ZeroShotHead | None) -> dict[str, tuple[nn.Module, str]]:
        """The head of each benchmark and its kind; one zero-shot head for each list of classes and templates."""
        if trained is not None:
            trained = copy.deepcopy(unwrapped(trained)).eval()
            # The logits are computed in float32 even if the head was trained in half precision.
            dtype = torch.float64 if trained.weight.dtype == torch.float64 else torch.float32
            trained = trained.to(model.device, dtype)
            if all(trained.class_names != benchmark.class_names for benchmark in self.benchmarks.values()):
                raise ValueError(
                    f"The head has {len(trained.class_names)} classes ({trained.class_names[0]!r}, ...), which are the class "
                    f"names of none of {', '.join(self.benchmarks)}; give the head that was trained on these classes."
                )
        built, heads = {}, {}
        for benchmark in self.benchmarks.values():
            if trained is not None and trained.class_names == benchmark.class_names:
                heads[benchmark.name] = (trained, TRAINED_HEAD)
                continue
            key = (benchmark.class_names, benchmark.templates)
            if key not in built:
                built[key] = ZeroShotHead.from_model(model, self.processor, *key, batch_size=self.batch_size)
            heads[benchmark.name] = (built[key], ZERO_SHOT_HEAD)
        return heads

    def _measure(
        self,
        model: nn.Module,
        head: nn.Module,
        kind: str,
        benchmark: Benchmark,
        covariance: EmbeddingCovariance | None,
    ) -> DatasetResult:
        """The result of one data set; `covariance` is filled with the embeddings of all processes."""
        state = PartialState()
        n_classes = len(benchmark.class_names)
        classwise = calibration.ClasswiseAccumulator(n_classes, self.n_bins)
        table, error = torch.empty(0, len(COLUMNS), dtype=torch.float64), None
        try:
            table = self._encode_share(model, head, benchmark, classwise, covariance, state)
        except Exception as failure:
            error = failure
        if state.num_processes > 1:
            _check_all_processes(error, benchmark.name, state)
            table = _merge_processes(table, classwise, covariance, state)
        elif error is not None:
            raise error
        confidence, correct, nll, brier = table.t().contiguous()[1:]
        errors = calibration.bootstrap_standard_error(
            confidence, correct, nll, brier, n_bins=self.n_bins, draws=self.bootstrap_draws, seed=self.seed
        )
        return DatasetResult(
            name=benchmark.name,
            role=benchmark.role,
            n=len(table),
            n_classes=n_classes,
            accuracy=correct.mean().item(),
            accuracy_se=errors["accuracy"],
            ece=calibration.ece_from_confidence(confidence, correct, self.n_bins),
            ece_se=errors["ece"],
            ece_noise_floor=calibration.ece_noise_floor(confidence, self.n_bins, NOISE_FLOOR_DRAWS, self.seed),
            adaptive_ece=calibration.adaptive_from_confidence(confidence, correct, self.n_bins),
            classwise_ece=classwise.compute(),
            nll=nll.mean().item(),
            nll_se=errors["nll"],
            brier=brier.mean().item(),
            brier_se=errors["brier"],
            reliability=calibration.reliability_bins(confidence, correct, self.n_bins),
            head=kind,
        )

    def _encode_share(
        self,
        model: nn.Module,
        head: nn.Module,
        benchmark: Benchmark,
        classwise: calibration.ClasswiseAccumulator,
        covariance: EmbeddingCovariance | None,
        state: PartialState,
    ) -> Tensor:
        """This process's batches: `(images, 5)` per-image numbers in float64; the accumulators are updated."""
        images = EvaluationImages(benchmark.load(), self.transform, benchmark.image_column, benchmark.label_column)
        batches = torch.arange(len(images)).split(self.batch_size)[state.process_index :: state.num_processes]
        loader = DataLoader(
            images,
            batch_sampler=[batch.tolist() for batch in batches],
            collate_fn=collate_images,
            num_workers=self.num_workers,
            pin_memory=model.device.type == "cuda",
            # Without a generator of its own a loader draws from the global one, and evaluating would change training.
            generator=torch.Generator().manual_seed(self.seed),
        )
        quiet = not (self.progress and state.is_main_process)
        tables = [torch.empty(0, len(COLUMNS), dtype=torch.float64)]
        for index, batch in zip(batches, tqdm(loader, desc=benchmark.name, disable=quiet, leave=False), strict=True):
            pixel_values = batch["pixel_values"].to(model.device, model.dtype, non_blocking=True)
            embeds = encode_images(model, pixel_values)
            # Inside a Trainer's mixed precision the product with the head would fall back to half precision.
            with torch.autocast(model.device.type, enabled=False):
                logits = head(embeds.to(head.weight.dtype))
            try:
                scores, probabilities = calibration.image_scores(logits, batch["labels"])
                classwise.update(probabilities, batch["labels"])
                if covariance is not None:
                    covariance.update(embeds)
            except ValueError as error:
                first, last = int(index[0]), int(index[-1])
                raise ValueError(f"Data set {benchmark.name!r}, images {first} to {last}: {error}") from error
            tables.append(torch.column_stack([index.double(), *(scores[key] for key in COLUMNS[1:])]))
        return torch.cat(tables)

    def _settings(self, model: nn.Module) -> dict:
        return {
            "n_bins": self.n_bins,
            "bootstrap_draws": self.bootstrap_draws,
            "noise_floor_draws": NOISE_FLOOR_DRAWS,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "image_size": self.transform.size,
            "image_resampling": f"{self.transform.resample} (PIL)",
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": model.device.type,
            "versions": {
                "hf_robustft": __version__,
                "python": platform.python_version(),
                **{package: version(package) for package in ("torch", "transformers", "torchmetrics", "pillow")},
            },
        }


def _checked_benchmarks(benchmarks: Iterable[Benchmark] | Mapping[str, Benchmark]) -> dict[str, Benchmark]:
    given = list(benchmarks.values() if isinstance(benchmarks, Mapping) else benchmarks)
    if not given:
        raise ValueError(
            "There are no benchmarks to evaluate on; give at least one, for example from `load_benchmark`."
        )
    checked: dict[str, Benchmark] = {}
    for benchmark in given:
        if benchmark.role == "open_set":
            raise ValueError(
                f"Benchmark {benchmark.name!r} is an open set, whose classes the model does not know: it has no accuracy. "
                "Leave it out here and use it for open-set detection."
            )
        if not benchmark.class_names or benchmark.label_column is None:
            raise ValueError(f"Benchmark {benchmark.name!r} has no class names or no labels; accuracy needs both.")
        if benchmark.name in checked:
            raise ValueError(f"Two benchmarks are called {benchmark.name!r}; rename one, the report is keyed by name.")
        checked[benchmark.name] = benchmark
    return checked


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    # Module by module, because a frozen tower may be in another mode than the rest.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _check_all_processes(error: Exception | None, name: str, state: PartialState) -> None:
    """Raises in every process if one has failed; one that stopped alone would leave the others waiting for it."""
    failed = gather(torch.tensor([int(error is not None)], device=state.device)).cpu()
    if error is not None:
        raise error
    if failed.any():
        where = ", ".join(str(rank) for rank in failed.nonzero().flatten().tolist())
        raise RuntimeError(f"Evaluation on {name!r} failed in process {where}, whose own error says why.")


def _merge_processes(
    table: Tensor,
    classwise: calibration.ClasswiseAccumulator,
    covariance: EmbeddingCovariance | None,
    state: PartialState,
) -> Tensor:
    """The per-image numbers of all processes in the order of the data set; the accumulators become those of all."""
    rows = gather(pad_across_processes(table.to(state.device), dim=0, pad_index=-1)).cpu()
    rows = rows[rows[:, 0] >= 0]
    classwise.gaps = reduce(classwise.gaps.to(state.device), "sum").cpu()
    classwise.n = len(rows)
    if covariance is not None:
        # Merged by every process in the order of the ranks, so that all of them get the same bits.
        counts = gather(torch.tensor([covariance.n], device=state.device)).tolist()
        means = gather(covariance.mean[None].to(state.device)).cpu()
        scatters = gather(covariance.scatter[None].to(state.device)).cpu()
        covariance.n, covariance.mean, covariance.scatter = counts[0], means[0], scatters[0]
        for part in zip(counts[1:], means[1:], scatters[1:], strict=True):
            covariance.merge_moments(*part)
    return rows[rows[:, 0].argsort()]
