# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From images to embeddings and logits, in one process or several; all that an evaluation encodes comes from here."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather, pad_across_processes
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.collator import EvaluationImages, collate_images
from hf_robustft.data.transforms import ImageTransform
from hf_robustft.modeling.features import encode_images, evaluation_mode, unwrapped
from hf_robustft.modeling.zero_shot import ZeroShotHead


def collect_logits(
    model: nn.Module,
    benchmark: Benchmark,
    processor,
    head: nn.Module | None = None,
    batch_size: int = 256,
    num_workers: int = 0,
    progress: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """
    The logits of a whole data set, for example of validation data, to fit `TemperatureScaling` or `OpenSetDetector`.

    Images are prepared and classified as [`Evaluator`] does. In several processes each encodes its share, and all return
    the same. Neither the model's training mode nor the global random state is changed.

    Args:
        model: A `CLIPModel`, possibly wrapped, on the device where it shall run.
        benchmark ([`Benchmark`]): Data of any role. Labels are given back where they index the classes of the head: not
            for an open set, and not without class names.
        processor: The checkpoint's `CLIPProcessor`.
        head ([`ZeroShotHead`], *optional*): Defaults to the zero-shot head of the benchmark's classes and templates. An
            open set, and data without class names, need the head of the known classes.
        batch_size (`int`, *optional*, defaults to 256): Images encoded at once in one process.
        num_workers (`int`, *optional*, defaults to 0): Processes that read images.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar in the main process.

    Returns:
        `tuple`: Logits of shape `(n, classes)` in float32 (float64 of a float64 model), at the model's logit scale, and
        int64 labels of shape `(n,)` or `None`; on the CPU, in the order of the data.

    Raises:
        ValueError: If there is no head to classify with, its classes are not those of the benchmark, or a number is out
            of range.
        OSError: If an image cannot be read.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size {batch_size}, num_workers {num_workers}: they must be at least 1 and 0.")
    known = benchmark.role != "open_set" and bool(benchmark.class_names)
    if head is None and not known:
        raise ValueError(
            f"Benchmark {benchmark.name!r} has no classes that the model could tell apart (its role is {benchmark.role}); "
            "give the head of the known classes."
        )
    if head is not None and known and unwrapped(head).class_names != benchmark.class_names:
        raise ValueError(
            f"The head has {len(unwrapped(head).class_names)} classes, which are not the {len(benchmark.class_names)} of "
            f"benchmark {benchmark.name!r} in its order; its labels would mean others."
        )
    model, state = unwrapped(model), PartialState()
    labelled = known and benchmark.label_column is not None
    transform = ImageTransform.from_processor(processor, train=False)
    settings = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    # Not in inference mode: what is returned may take part in a caller's gradient.
    with evaluation_mode(model), torch.no_grad():
        if head is None:
            head = ZeroShotHead.from_model(
                model, processor, benchmark.class_names, benchmark.templates, batch_size=batch_size
            )
        else:
            head = evaluation_head(head, model.device)
        rows = [torch.empty(0, 2, dtype=torch.long)]
        logits = [torch.empty(0, len(head.weight), dtype=head.weight.dtype)]
        with failing_together(benchmark.name, state):
            for index, embeds, labels in image_batches(model, benchmark, transform, labelled=labelled, **settings):
                rows.append(torch.column_stack([index, index if labels is None else labels]))
                logits.append(classify(head, embeds).cpu())
        rows, logits = gather_rows(torch.cat(rows), torch.cat(logits), state=state)
    return logits, rows[:, 1].clone() if labelled else None


def image_batches(
    model: nn.Module,
    benchmark: Benchmark,
    transform: ImageTransform,
    *,
    batch_size: int,
    num_workers: int = 0,
    seed: int = 0,
    labelled: bool = True,
    progress: bool = True,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """
    This process's batches of a data set, encoded: whole batches are dealt out to the processes in turn.

    Args:
        model: A `CLIPModel` without wrappers, in eval mode; the caller decides on gradients.
        benchmark ([`Benchmark`]): The data.
        transform ([`ImageTransform`]): An evaluation transform.
        batch_size (`int`): Images encoded at once.
        num_workers (`int`, *optional*, defaults to 0): Processes that read images.
        seed (`int`, *optional*, defaults to 0): Of the loader's own generator; no result depends on it.
        labelled (`bool`, *optional*, defaults to `True`): Whether to read the labels.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar in the main process.

    Yields:
        `tuple`: Row numbers `(batch,)`, unit-norm embeddings `(batch, embed_dim)` on the model's device, and labels
        `(batch,)` or `None`.

    Raises:
        OSError: If an image cannot be read.
    """
    state = PartialState()
    label_column = benchmark.label_column if labelled else None
    images = EvaluationImages(benchmark.load(), transform, benchmark.image_column, label_column)
    batches = torch.arange(len(images)).split(batch_size)[state.process_index :: state.num_processes]
    loader = DataLoader(
        images,
        batch_sampler=[batch.tolist() for batch in batches],
        collate_fn=collate_images,
        num_workers=num_workers,
        pin_memory=model.device.type == "cuda",
        # Without a generator of its own a loader draws from the global one, and evaluating would change training.
        generator=torch.Generator().manual_seed(seed),
    )
    quiet = not (progress and state.is_main_process)
    for index, batch in zip(batches, tqdm(loader, desc=benchmark.name, disable=quiet, leave=False), strict=True):
        pixel_values = batch["pixel_values"].to(model.device, model.dtype, non_blocking=True)
        yield index, encode_images(model, pixel_values), batch.get("labels")


def classify(head: nn.Module, embeds: Tensor) -> Tensor:
    """Logits of a head for unit-norm embeddings, in the head's precision."""
    # Inside a Trainer's mixed precision the product with the head would fall back to half precision.
    with torch.autocast(embeds.device.type, enabled=False):
        return head(embeds.to(head.weight.dtype))


def evaluation_head(head: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a trained head to evaluate with: in float32 even if it was trained in half precision."""
    head = copy.deepcopy(unwrapped(head)).eval()
    return head.to(device, torch.float64 if head.weight.dtype == torch.float64 else torch.float32)


@contextmanager
def failing_together(name: str, state: PartialState) -> Iterator[None]:
    """Raises in every process if the block failed in one; one that stopped alone would leave the others waiting for it."""
    error = None
    try:
        yield
    except Exception as failure:
        error = failure
    if state.num_processes > 1:
        failed = gather(torch.tensor([int(error is not None)], device=state.device)).cpu()
        if error is None and failed.any():
            where = ", ".join(str(rank) for rank in failed.nonzero().flatten().tolist())
            raise RuntimeError(f"Evaluation on {name!r} failed in process {where}, whose own error says why.")
    if error is not None:
        raise error


def gather_rows(*tables: Tensor, state: PartialState) -> tuple[Tensor, ...]:
    """The rows of all processes in the order of the data set; the first column of the first table is the row number."""
    if state.num_processes == 1:
        return tables
    index = gather(pad_across_processes(tables[0][:, 0].to(state.device), dim=0, pad_index=-1)).cpu()
    real = index >= 0
    order = index[real].argsort()
    return tuple(gather(pad_across_processes(table.to(state.device), dim=0)).cpu()[real][order] for table in tables)


def save_logits(directory: str | Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> Path:
    """
    Write `<directory>/<name>.safetensors`; folders are made as needed.

    Args:
        directory: The folder.
        name (`str`): Name of the data set.
        tensors: `logits`, and `labels` where there are.
        facts: Strings, and JSON values of other types, for the file's metadata.

    Returns:
        `Path`: The file.
    """
    path = Path(directory) / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in {"format": "pt", **facts}.items()
    }
    # Beside it, then renamed: a run that is stopped here leaves no half of a file.
    half = path.with_name(f".{path.name}.new")
    save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, half, metadata=metadata)
    os.replace(half, path)
    return path
