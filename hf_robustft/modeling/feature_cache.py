# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Image features of a frozen tower, computed once and kept, so that adapters train without running it every epoch.

>>> features = cache_features(model, benchmark, processor, views=4, cache_dir="cache")
>>> features[(5, 12)]["image_features"]          # epoch 5 reads view 1 of image 12
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from ..data.bad_images import BadImages
from ..data.benchmarks import Benchmark
from ..data.examples import EvaluationImages, ExampleKey, TrainingExamples, collate_images, zeros_and_ones
from ..data.images import UnreadableImage, images_fingerprint
from ..data.messages import one_line
from ..data.readers import reading_context
from ..data.transforms import ImageTransform
from ..files import whole_file
from .dual_encoder import DualEncoder, unwrapped
from .features import evaluation_mode, normalised
from .output_folders import check_output_dir
from .processes import failing_together, together
from .tensor_files import weights_fingerprint

#: What fails, for the message to the other processes.
_WHAT = "Caching features"
FORMAT = 1
#: The facts a file must share with what is asked for, and what it means if it does not.
_MADE = {
    "format": "it was written by another version of hf_robustft",
    "model": "it was made by another model: the weights of its image tower or its projection differ",
    "tower": "it was made by another model: the configuration of its image tower differs",
    "rows": "it was made of other data: the number of images differs",
    "images": "it was made of other data: the images or their order differ",
    "views": "it holds other views",
    "seed": "its views were drawn with another seed",
    "transform": "it was made with another image transform",
    "dtype": "it holds features of another precision",
}


class CachedFeatures(Dataset):
    """
    Projected image features of one or several views of each image, in the order of the data set.

    An item is asked for by `(epoch, index)`, as with `TrainingExamples`; epoch e reads view `e % views`. A plain `index`
    means epoch 0.

    Args:
        features (`torch.Tensor` of shape `(views, n, embed_dim)`): Features before normalisation, float32 or float64.
        labels (`torch.Tensor` of shape `(n,)` or `(n, classes)`, or `None` if there are no classes): Integer labels; or 0 and 1,
            whether each image has each label.
        class_names (`Sequence[str]`): The classes in label order; () if there are none.
        templates (`Sequence[str]`): The prompt templates of the data set.
        model_fingerprint (`str`): [`image_fingerprint`] of the model that made the features.
        prepared (`Mapping[str, Any]`, *optional*): How the images were prepared, as [`ImageTransform`] has it in `settings`.
        bad_images ([`~hf_robustft.data.bad_images.BadImages`], *optional*): What has counted the images without features.

    Raises:
        ValueError: If the shapes disagree.
    """

    keyed = True

    def __init__(
        self,
        features: Tensor,
        labels: Tensor | None,
        class_names: Sequence[str],
        templates: Sequence[str],
        model_fingerprint: str,
        prepared: Mapping[str, Any] | None = None,
        bad_images: BadImages | None = None,
    ):
        if features.ndim != 3 or not features.numel():
            raise ValueError(f"Features must be (views, images, embed_dim), none of them 0; got {tuple(features.shape)}.")
        if labels is not None and labels.shape not in (features.shape[1:2], (features.shape[1], len(class_names))):
            raise ValueError(f"There are {tuple(labels.shape)} labels for {features.shape[1]} images; give one label per image.")
        self.features, self.labels = features, labels
        self.class_names, self.templates = tuple(class_names), tuple(templates)
        self.model_fingerprint, self.prepared, self.left_out = model_fingerprint, prepared, bad_images

    @property
    def several(self) -> int:
        """Number of classes where images have lists of labels; 0 where each has one."""
        return self.labels.shape[1] if self.labels is not None and self.labels.ndim == 2 else 0

    @property
    def views(self) -> int:
        """Number of views of each image."""
        return len(self.features)

    def __len__(self) -> int:
        return self.features.shape[1]

    def __getitem__(self, key: ExampleKey | int) -> dict[str, Any]:
        """`image_features` (embed_dim,), and `label` if there are classes (int, or 0 and 1 for each class); IndexError if there is no such row."""
        epoch, index = map(int, key if isinstance(key, (tuple, list)) else (0, key))
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the {len(self)} rows")
        example: dict[str, Any] = {"image_features": self.features[epoch % self.views, index]}
        if self.labels is not None:
            example["label"] = self.labels[index].tolist()
        return example


def feature_fingerprints(dataset: Any) -> set[str]:
    """The fingerprints of the models whose cached features a `dataset` or a part of it (`Subset`, `ConcatDataset`) holds."""
    made_by = getattr(dataset, "model_fingerprint", None)
    if made_by is not None:
        return {made_by}
    if isinstance(dataset, ConcatDataset):
        return set().union(*map(feature_fingerprints, dataset.datasets))
    return feature_fingerprints(dataset.dataset) if isinstance(dataset, Subset) else set()


def class_lists(dataset: Any) -> list[tuple[str, ...]]:
    """The class names, in the order of the labels, that a `dataset` and each part of it (`Subset`, `ConcatDataset`) has, if it has some."""
    own = getattr(dataset, "class_names", None)
    if own:
        return [tuple(own)]
    if isinstance(dataset, ConcatDataset):
        return [names for part in dataset.datasets for names in class_lists(part)]
    return class_lists(dataset.dataset) if isinstance(dataset, Subset) else []


def collate_features(examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Items of `CachedFeatures` (`examples`) to `image_features` (batch, embed_dim) and, if present, `labels` (batch,) or (batch, classes) int64."""
    batch = {"image_features": torch.stack([example["image_features"] for example in examples])}
    if "label" in examples[0]:
        batch["labels"] = torch.tensor([example["label"] for example in examples])
    return batch


def image_fingerprint(model: nn.Module) -> str:
    """
    The fingerprint of all weights that image features depend on: those of the image tower and its projection, and an image
    adapter that the model carries.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped. Its text side and logit scale do not count.

    Returns:
        `str`: 64 hexadecimal digits, as `weights_fingerprint`.
    """
    encoder = DualEncoder.of(model)
    found, adapter = weights_fingerprint(encoder.image_side()), encoder.image_adapter
    if adapter is None:
        return found
    return hashlib.sha256(found.encode() + adapter.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def cache_features(
    model: nn.Module,
    benchmark: Benchmark,
    processor,
    *,
    views: int = 0,
    seed: int = 0,
    batch_size: int = 256,
    num_workers: int = 0,
    cache_dir: str | Path | None = None,
    cache_file: str | Path | None = None,
    progress: bool = True,
    bad_images: BadImages | None = None,
    **transform_options,
) -> CachedFeatures:
    """
    The projected image features of a data set, computed by a frozen model or read from a file that it wrote before.

    View v is what `TrainingExamples` shows in epoch v, so training on `views` cached views is training on images whose
    crops repeat every `views` epochs. Labels are not cached but read from the benchmark.

    In several processes whole batches are dealt out in turn; every process returns all features, those of one process
    up to rounding, and the first of each machine writes the file. Neither the model's training mode nor the global random
    state is changed.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped, on the device that runs it.
        benchmark ([`Benchmark`]): The data.
        processor ([`~transformers.ProcessorMixin`]): The checkpoint's processor, or its image processor.
        views (`int`, *optional*, defaults to 0): 0 for one view by the evaluation transform, or the number of views by
            the training transform (random crops).
        seed (`int`, *optional*, defaults to 0): Seed of the crops, as in `TrainingExamples`. Unused without views.
        batch_size (`int`, *optional*, defaults to 256): Images encoded at once in one process. Other sizes, devices
            and thread counts may change the last bits of a feature; they are not among the facts of a file.
        num_workers (`int`, *optional*, defaults to 0): Processes that read images.
        cache_dir (`str` or `Path`, *optional*): Folder of files that are named by all facts they depend on. A file
            that is there is read.
        cache_file (`str` or `Path`, *optional*): One file instead, read if it exists and written if not.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar in the main process.
        bad_images ([`~hf_robustft.data.bad_images.BadImages`], *optional*): What is done about images that cannot be read.
            By default the first one is an error; skipped ones are left out of the result and counted (in a file their
            features are NaN).
        transform_options (`Any`, *optional*): Options of `ImageTransform.from_processor` in training, such as `crop`, `scale`
            or `flip`; they need `views`.

    Returns:
        [`CachedFeatures`] on the CPU, in float32 (float64 for a float64 model).

    Raises:
        ValueError: If a number is out of range, options are given that mean nothing, a feature is not finite, or the
            file is damaged or was made by another model, of other data or views, with another transform, seed or
            precision. It is neither used nor overwritten.
        OSError: If an image or the file cannot be read or written, or more images cannot be read than `bad_images`
            allows.
    """
    if views < 0 or batch_size < 1 or num_workers < 0:
        raise ValueError(f"views {views}, batch_size {batch_size}, num_workers {num_workers}: they must be at least 0, 1 and 0.")
    if cache_dir is not None and cache_file is not None:
        raise ValueError("Both cache_dir and cache_file are given; give the folder or the one file.")
    if views == 0 and transform_options:
        raise ValueError(
            f"The evaluation transform (views=0) takes no option {sorted(transform_options)[0]!r}; "
            "leave it out or set views."
        )
    model, state = unwrapped(model), PartialState()
    if views:
        options = {**transform_options, "output": "uint8"}
        examples = TrainingExamples.from_benchmark(benchmark, processor, seed=seed, **options)
    else:
        transform = ImageTransform.from_processor(processor, train=False, output="uint8")
        examples = EvaluationImages(benchmark.load(), transform, benchmark.image_column, label_column=None, border=benchmark.border)
    skips = bad_images is not None and bad_images.skips
    path = facts = features = None
    with failing_together(_WHAT, state):
        fingerprint = image_fingerprint(model)
        if cache_dir is not None or cache_file is not None:
            facts = _facts_of(model, fingerprint, benchmark, examples.transform, views, seed, skips)
            path = (Path(cache_file) if cache_file is not None else Path(cache_dir) / _file_name(facts)).expanduser()
            features = _read(path, facts, DualEncoder.of(model).embed_dim, skips) if path.exists() else None
            if features is None and state.is_local_main_process:
                # Before the images are encoded.
                check_output_dir(path.parent, "cache_dir" if cache_file is None else "cache_file")
    missing = features is None
    # Machines may not share the folder: all processes compute, or none does.
    if together(state, int(missing))[0]:
        read = _Marked(examples) if skips else examples
        computed = _encode(model, read, benchmark.name, views, batch_size, num_workers, progress, state)
        with failing_together(_WHAT, state):
            if missing and path is not None and state.is_local_main_process:
                _write(path, computed, facts)
        features = computed if missing else features
    labels = None
    if benchmark.class_names and benchmark.label_column is not None:
        labels = benchmark.load()[benchmark.label_column][:]
        several = benchmark.several
        labels = torch.tensor([zeros_and_ones(row, several) for row in labels] if several else labels, dtype=torch.long)
    readable = features.isfinite().all(dim=2).all(dim=0)
    if bad_images is not None:
        bad_images = bad_images.bound(f"the training set {benchmark.name!r}", len(readable))
        bad_images.count(len(readable), _reasons(examples, (~readable).nonzero().flatten().tolist(), views))
    if not readable.all():
        features = features[:, readable]
        labels = None if labels is None else labels[readable]
    prepared = examples.transform.settings
    return CachedFeatures(features, labels, benchmark.class_names, benchmark.templates, fingerprint, prepared, bad_images)


class _Marked(Dataset):
    """Examples in which an image that cannot be read is a black one, marked as `broken`."""

    def __init__(self, examples: Dataset):
        self.examples, self.transform = examples, examples.transform

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: ExampleKey | int) -> dict[str, Any]:
        try:
            return {**self.examples[key], "broken": False}
        except UnreadableImage:
            return {"pixel_values": self.transform.blank(), "broken": True}


def _collate(examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    images = collate_images([{"pixel_values": example["pixel_values"]} for example in examples])
    return {**images, "broken": torch.tensor([example.get("broken", False) for example in examples])}


def _reasons(examples: Dataset, rows: Sequence[int], views: int) -> list[str]:
    """Why images cannot be read, one line each; read once more, so that a file's features come with them too."""
    lines = []
    for row in rows:
        try:
            examples[(0, row) if views else row]
        except UnreadableImage as error:
            lines.append(error.summary)
        else:
            lines.append(f"row {row}: could not be read when its features were computed")
    return lines


def _encode(
    model: nn.Module,
    examples: Dataset,
    name: str,
    views: int,
    batch_size: int,
    num_workers: int,
    progress: bool,
    state: PartialState,
) -> Tensor:
    """Features `(views, n, embed_dim)` on the CPU, the same in every process."""
    n = len(examples)
    batches = [(view, rows) for view in range(max(views, 1)) for rows in torch.arange(n).split(batch_size)]
    shares = [batches[rank :: state.num_processes] for rank in range(state.num_processes)]
    share = shares[state.process_index]
    loader = DataLoader(
        examples,
        batch_sampler=[[(view, row) if views else row for row in rows.tolist()] for view, rows in share],
        collate_fn=_collate,
        num_workers=num_workers,
        multiprocessing_context=reading_context(num_workers),
        pin_memory=model.device.type == "cuda",
        # Without a generator of its own a loader draws from the global one, and caching would change training.
        generator=torch.Generator().manual_seed(0),
    )
    bar = tqdm(loader, desc=f"features of {name}", disable=not (progress and state.is_main_process), leave=False)
    encoder = DualEncoder.of(model)
    found = [torch.empty(0, encoder.embed_dim, dtype=_dtype(model))]
    # Not inference_mode: its tensors may not enter a graph, and adapters are trained on these.
    with (
        failing_together(_WHAT, state),
        evaluation_mode(model),
        torch.no_grad(),
        torch.autocast(model.device.type, enabled=False),
    ):
        for (view, rows), batch in zip(share, bar, strict=True):
            pixel_values = batch["pixel_values"].to(model.device, non_blocking=True)
            pixel_values = normalised(pixel_values, examples.transform, model.dtype)
            features = encoder.image_features(pixel_values).cpu()
            if not features.isfinite().all():
                raise ValueError(
                    f"Data set {name!r}, images {int(rows[0])} to {int(rows[-1])}, view {view}: a feature is NaN or "
                    "infinite; check the model's weights and precision."
                )
            features[batch["broken"]] = torch.nan
            found.append(features)
    found = torch.cat(found)
    if state.num_processes > 1:
        found = gather(pad_across_processes(found.to(state.device), dim=0)).cpu()
    result = torch.empty(max(views, 1), n, found.shape[1], dtype=found.dtype)
    for share, part in zip(shares, found.chunk(state.num_processes), strict=True):
        sizes = [len(rows) for _, rows in share]
        for (view, rows), features in zip(share, part[: sum(sizes)].split(sizes), strict=True):
            result[view, rows] = features
    return result


def _facts_of(
    model: nn.Module,
    fingerprint: str,
    benchmark: Benchmark,
    transform: ImageTransform,
    views: int,
    seed: int,
    skips: bool = False,
) -> dict[str, Any]:
    """All that the features depend on, as JSON gives it back."""
    dataset = benchmark.load()
    facts = {
        "format": FORMAT,
        "model": fingerprint,
        "tower": DualEncoder.of(model).image_settings,
        "rows": len(dataset),
        "images": images_fingerprint(dataset, benchmark.image_column, skips),
        "views": views,
        "seed": int(seed) if views else None,
        "transform": {**asdict(transform), "resample": str(getattr(transform.resample, "value", transform.resample))},
        "dtype": str(_dtype(model)).removeprefix("torch."),
    }
    # Files of images without one are those of earlier versions.
    facts["transform"] |= {"border": benchmark.border} if benchmark.border else {}
    return json.loads(json.dumps(facts))


def _file_name(facts: dict[str, Any]) -> str:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"features-{key[:32]}.safetensors"


def _dtype(model: nn.Module) -> torch.dtype:
    return torch.float64 if model.dtype == torch.float64 else torch.float32


def _write(path: Path, features: Tensor, facts: dict[str, Any]) -> None:
    metadata = {"format": "pt", "facts": json.dumps(facts, sort_keys=True), "content": _content(features)}
    with whole_file(path) as half:
        save_file({"features": features}, half, metadata=metadata)


def _content(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy()).hexdigest()


def _read(path: Path, facts: dict[str, Any], width: int, skips: bool) -> Tensor:
    """
    The features in a file, each of so many numbers (`width`), after every fact of it has been compared with `facts`. Those of images
    that could not be read are NaN, where those are skipped (`skips`).
    """
    damaged = f"{path} is not an undamaged file of cached features"
    cure = "remove it, or give another cache_file"
    if not path.is_file():
        raise OSError(f"{damaged} (it is a folder, a pipe or a device); {cure}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            features = file.get_tensor("features")
        stored = json.loads(metadata["facts"])
        content = metadata["content"]
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{damaged} ({one_line(error)}); {cure}.") from None
    if not isinstance(stored, dict):
        raise ValueError(f"{damaged} (its facts are not a JSON object); {cure}.")
    for name, meaning in _MADE.items():
        if stored.get(name) != facts[name]:
            there, here = _difference(stored.get(name), facts[name])
            raise ValueError(f"{path} cannot be used here: {meaning} (there {there}, here {here}); {cure}.")
    shape, kind = (max(facts["views"], 1), facts["rows"], width), getattr(torch, facts["dtype"])
    if features.shape != shape or features.dtype != kind or _content(features) != content:
        raise ValueError(f"{damaged} (its features are not those that were written); {cure}.")
    if not skips and not features.isfinite().all():
        raise ValueError(f"{damaged} (a feature is not a number); {cure}.")
    return features


def _difference(there: Any, here: Any) -> tuple[str, str]:
    """Two unequal facts in few words: of settings those that differ, of fingerprints the beginning."""
    if isinstance(there, dict) and isinstance(here, dict):
        differing = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
        first, second = (", ".join(f"{name} {side.get(name)}" for name in differing) for side in (there, here))
    else:
        first, second = (side[:12] if isinstance(side, str) else str(side) for side in (there, here))
    return first, second
