# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From images to embeddings and logits, in one process or several, and where those images came from."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather, gather_object, pad_across_processes
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data.bad_images import BadImages
from ..data.benchmarks import Benchmark
from ..data.class_projection import head_classes
from ..data.examples import EvaluationImages, collate_images
from ..data.messages import without_folders, without_tokens
from ..data.readers import reading_context
from ..data.streams.examples import StreamedEvaluationImages, check_count
from ..data.transforms import ImageTransform
from ..modeling.dual_encoder import unwrapped
from ..modeling.features import encode_images, evaluation_mode, normalised
from ..modeling.processes import failing_together, together
from ..modeling.tensor_files import write_tensors
from ..modeling.zero_shot import ZeroShotHead

#: Bytes of prepared images that an `Evaluator` keeps by default: 38,000 of 48 x 48 pixels, 1,700 of 224 x 224.
KEPT_BYTES = 2**28


class KeptImages:
    """
    Images that were read and prepared once, for whoever measures the same sets again: in training, before and after it.

    Kept are whole sets, in the order of their coming, so long as there is room; a pixel takes a byte a channel.

    Args:
        limit (`int`, *optional*, defaults to `KEPT_BYTES`): Bytes of pixels, at most. With 0 nothing is kept.
    """

    def __init__(self, limit: int = KEPT_BYTES):
        self.limit, self.size = limit, 0
        # By identity: benchmarks of rows in memory are equal when their descriptions are.
        self._sets: dict[int, tuple[Benchmark, tuple, list[dict]]] = {}

    def read(self, benchmark: Benchmark, how: tuple, batches: Iterable[dict]) -> Iterator[dict]:
        """
        The batches of a data set, from memory where they are kept, and kept where they fit.

        Args:
            benchmark ([`Benchmark`]): The data set.
            how (`tuple`): All that the batches depend on beside it.
            batches (`Iterable[dict]`): Reads them.
        """
        found = self._sets.get(id(benchmark))
        if found is not None and found[1] == how:
            yield from map(dict, found[2])
            return
        kept: list[dict] | None = []
        size = 0
        for batch in batches:
            size += batch["pixel_values"].nbytes
            if kept is not None:
                kept = None if self.size + size > self.limit else [*kept, dict(batch)]
            yield batch
        if kept is not None and found is None:
            self._sets[id(benchmark)], self.size = (benchmark, how, kept), self.size + size


def collect_logits(
    model: nn.Module,
    benchmark: Benchmark,
    processor,
    head: nn.Module | None = None,
    batch_size: int = 256,
    num_workers: int = 0,
    progress: bool = True,
    bad_images: BadImages | None = None,
) -> tuple[Tensor, Tensor | None]:
    """
    Compute the logits of a whole data set, for example of validation data to fit a temperature or a detector on.

    Images are prepared and classified as [`Evaluator`] does. In several processes each encodes its share, and all return
    the same: what one process returns, up to rounding. Neither the model's training mode nor the global random state is
    changed.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model, possibly wrapped, on the device that runs it.
        benchmark ([`Benchmark`]): Data of any role. Labels are returned where they index the classes of the head: not for
            an open set, and not without class names.
        processor (`CLIPProcessor`): The checkpoint's processor.
        head ([`ZeroShotHead`], *optional*): Defaults to the zero-shot head of the benchmark's classes and templates. An
            open set, and data without class names, need the head of the known classes.
        batch_size (`int`, *optional*, defaults to 256), num_workers (`int`, *optional*, defaults to 0), progress (`bool`,
            *optional*, defaults to `True`), bad_images ([`BadImages`], *optional*): As for [`Evaluator`].

    Returns:
        `tuple`: Logits of shape `(n, classes)`, projected to the benchmark's classes if it has a projection, in float32
        (float64 of a float64 model), at the model's logit scale, and int64 labels of shape `(n,)` (0 and 1 of shape
        `(n, classes)` for lists of labels) or `None`; on the CPU,
        in the order of the data.

    Raises:
        ValueError: If there is no head to classify with, its classes are not those of the benchmark, or a number is out
            of range.
        OSError: If an image cannot be read, or a stream gives another number of rows than its data set declares.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size {batch_size}, num_workers {num_workers}: they must be at least 1 and 0.")
    known = benchmark.role != "open_set" and bool(benchmark.class_names)
    if head is None and not known:
        raise ValueError(
            f"Benchmark {benchmark.name!r} has no classes that the model could tell apart (its role is {benchmark.role}); "
            "give the head of the known classes."
        )
    if head is not None and known and unwrapped(head).class_names not in head_classes(benchmark):
        raise ValueError(
            f"The head has {len(unwrapped(head).class_names)} classes, which are not the {len(benchmark.class_names)} of "
            f"data set {benchmark.name!r} in its order; its labels would mean others."
        )
    model, state = unwrapped(model), PartialState()
    labelled = known and benchmark.label_column is not None
    transform = ImageTransform.from_processor(processor, train=False)
    settings = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress, "bad_images": bad_images}
    # Not in inference mode: what is returned may take part in a caller's gradient.
    with evaluation_mode(model), torch.no_grad():
        if head is None:
            classes = head_classes(benchmark)[0]
            head = ZeroShotHead.from_model(
                model, processor, classes, benchmark.templates, batch_size=batch_size, sharded=True
            )
        else:
            head = evaluation_head(head, model)
        rows = [torch.empty(0, 1 + (labelled and benchmark.several or 1), dtype=torch.long)]
        classes = len(benchmark.class_names) if known else len(head.weight)
        logits = [torch.empty(0, classes, dtype=head.weight.dtype)]
        with failing_together(f"Evaluation on {benchmark.name!r}", state):
            for index, embeds, labels in image_batches(model, benchmark, transform, labelled=labelled, **settings):
                rows.append(torch.column_stack([index, index if labels is None else labels]))
                whole = classify(head, embeds)
                logits.append((benchmark.project_logits(whole) if known else whole).cpu())
        rows, logits = gather_rows(torch.cat(rows), torch.cat(logits), state=state)
    if not labelled:
        return logits, None
    return logits, rows[:, 1:].clone() if benchmark.several else rows[:, 1].clone()


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
    bad_images: BadImages | None = None,
    groups: dict[int, str] | None = None,
    kept: KeptImages | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """
    Encode this process's batches of a data set.

    Whole batches are dealt out to the processes in turn, or, of a stream, whole shards to the processes and their workers
    (every n-th row of a shard where there are fewer shards than readers). Several processes must read to the end inside
    `failing_together`: they compare what they counted.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model without wrappers, in eval mode; the caller decides on gradients.
        benchmark ([`Benchmark`]): The data.
        transform ([`ImageTransform`]): An evaluation transform.
        batch_size (`int`), num_workers (`int`, *optional*, defaults to 0), progress (`bool`, *optional*, defaults to
            `True`): As for [`Evaluator`].
        seed (`int`, *optional*, defaults to 0): Seed of the loader's own generator; no result depends on it.
        labelled (`bool`, *optional*, defaults to `True`): Whether to read the labels.
        bad_images ([`~hf_robustft.data.bad_images.BadImages`], *optional*): What happens to images that cannot be read;
            afterwards it holds what all processes counted. By default the first one is an error.
        groups (`dict[int, str]`, *optional*): Filled with the group of each image, by the number that is yielded for it;
            afterwards it holds those of all processes. By default groups are not read.
        kept ([`KeptImages`], *optional*): Where images that were read before are kept; a stream is read again.

    Yields:
        `tuple`: Numbers `(batch,)` int64 that sort in the order of the data (row numbers, if it is not a stream),
        unit-norm embeddings `(batch, embed_dim)` on the model's device, and labels `(batch,)` or `None`.

    Raises:
        OSError: If an image cannot be read, too many cannot, or a stream gives another number of rows than its data set
            declares.
    """
    state = PartialState()
    labelled = labelled and benchmark.label_column is not None
    if model.device.type != "cpu" or kept is not None:
        # A quarter of the bytes for workers to hand over, for the bus and to keep, and the same numbers on the device.
        transform = replace(transform, output="uint8")
    options = {
        "num_workers": num_workers,
        "multiprocessing_context": reading_context(num_workers),
        "pin_memory": model.device.type == "cuda",
        # Without its own generator a loader draws from the global one, and evaluating would change training.
        "generator": torch.Generator().manual_seed(seed),
    }
    read = _streamed if benchmark.streaming else _stored
    batches, total = read(benchmark, transform, batch_size, labelled, bad_images, groups is not None, options, state, kept)
    quiet, counted = not (progress and state.is_main_process), 0
    for index, batch in tqdm(batches, desc=benchmark.name, disable=quiet, leave=False, total=total):
        counted += batch.pop("rows", 0)
        if bad_images is not None:
            batch = bad_images.take(batch)
        # Rows whose images could be read.
        index = index[batch.pop("kept")] if "kept" in batch else index
        if len(index):
            if groups is not None:
                groups.update(zip(index.tolist(), batch.pop("groups"), strict=True))
            pixel_values = batch["pixel_values"].to(model.device, non_blocking=True)
            pixel_values = normalised(pixel_values, transform, model.dtype)
            yield index, encode_images(model, pixel_values), batch.get("labels")
    unreadable = 0 if bad_images is None else len(bad_images.unreadable)
    counted, unreadable = together(state, counted, unreadable)
    if unreadable and state.num_processes > 1:
        others = gather_object([(state.process_index, bad_images.state())])
        bad_images.add(seen for process, seen in others if process != state.process_index)
    elif bad_images is not None:
        bad_images.finish()
    if groups is not None and state.num_processes > 1:
        for found in gather_object([dict(groups)]):
            groups.update(found)
    if benchmark.streaming:
        doubt = check_count(benchmark.row_stream(), counted)
        if doubt is not None and state.is_main_process:
            warnings.warn(doubt, stacklevel=2)


def _stored(benchmark, transform, batch_size, labelled, bad_images, grouped, options, state, kept):
    columns = {
        "image_column": benchmark.image_column,
        "label_column": benchmark.label_column if labelled else None,
        "group_column": benchmark.group_column if grouped else None,
    }
    images = EvaluationImages(
        benchmark.load(), transform, bad_images=bad_images, border=benchmark.border, **columns
    )
    batches = torch.arange(len(images)).split(batch_size)[state.process_index :: state.num_processes]
    loader = DataLoader(
        images, batch_sampler=[batch.tolist() for batch in batches], collate_fn=collate_images, **options
    )
    if kept is not None:
        loader = kept.read(benchmark, (transform, batch_size, labelled, grouped), loader)
    return zip(batches, loader, strict=True), len(batches)


def _streamed(benchmark, transform, batch_size, labelled, bad_images, grouped, options, state, kept):
    place = {"process": state.process_index, "processes": state.num_processes}
    stream = benchmark.row_stream()
    options_of = {"labelled": labelled, "grouped": grouped, "border": benchmark.border, "bad_images": bad_images}
    images = StreamedEvaluationImages(stream, transform, batch_size, **options_of, **place)
    loader = DataLoader(images, batch_size=None, collate_fn=_unchanged, **options)
    total = None if stream.examples is None else stream.examples // (batch_size * state.num_processes)
    return ((batch.pop("index"), batch) for batch in loader), total


def _unchanged(batch: dict) -> dict:
    return batch


def classify(head: nn.Module, embeds: Tensor) -> Tensor:
    """Return the logits of a `head` for unit-norm `embeds`, in the head's precision."""
    # Inside a Trainer's mixed precision the product with the head would fall back to half precision.
    with torch.autocast(embeds.device.type, enabled=False):
        return head(embeds.to(head.weight.dtype))


def evaluation_head(head: nn.Module, model: nn.Module) -> nn.Module:
    """
    Return a copy of a trained `head` to evaluate with, on the device of `model`: in float32 even if it was trained in half
    precision.

    Raises:
        ValueError: If the model's embeddings are not of the head's dimension.
    """
    head = copy.deepcopy(unwrapped(head)).eval()
    head.check_model(model)
    return head.to(model.device, torch.float64 if head.weight.dtype == torch.float64 else torch.float32)


def gather_rows(*tables: Tensor, state: PartialState) -> tuple[Tensor, ...]:
    """
    Gather the rows of all processes in the order of the data set.

    Args:
        tables (`torch.Tensor`): This process's rows; the first column of the first table is the row number.
        state (`PartialState`): The processes.

    Returns:
        `tuple[torch.Tensor, ...]`: The tables of all processes.
    """
    index = tables[0][:, 0]
    if state.num_processes == 1:
        # Workers that read a stream hand over their shards in turn.
        order = None if bool((index[1:] > index[:-1]).all()) else index.argsort()
        return tables if order is None else tuple(table[order] for table in tables)
    index = gather(pad_across_processes(index.to(state.device), dim=0, pad_index=-1)).cpu()
    real = index >= 0
    order = index[real].argsort()
    return tuple(gather(pad_across_processes(table.to(state.device), dim=0)).cpu()[real][order] for table in tables)


def save_logits(directory: str | Path, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, object]) -> Path:
    """
    Write `<directory>/<name>.safetensors`; folders are made as needed.

    Args:
        directory (`str` or `Path`): The folder.
        name (`str`): Name of the data set.
        tensors (`Mapping[str, torch.Tensor]`): `logits`, and `labels` where there are any.
        facts (`Mapping[str, object]`): Strings, and JSON values of other types, for the file's metadata.

    Returns:
        `Path`: The file.
    """
    path = Path(directory) / f"{name}.safetensors"
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in {"format": "pt", **facts}.items()
    }
    return write_tensors(path, tensors, metadata)


def data_source(benchmark: Benchmark) -> dict[str, str] | None:
    """
    Return the place that a benchmark was read from, in words that may be published.

    Of several copies on the Hub only the one that was opened counts, so call this after `load` or `row_stream`.

    Args:
        benchmark ([`Benchmark`]): Opened.

    Returns:
        `dict[str, str]` or `None`: Those that are known of `path` (a Hub id, or the name of a folder or file: where it lies
        on this machine is private), `config`, `data_files`, `split`, `revision`, and `commit`, the commit of the Hub that
        `datasets` downloaded. `None` for rows that were given in memory.
    """
    source = {name: without_tokens(str(value)) for name, value in benchmark.place.items() if value is not None}
    if "path" not in source:
        return None
    files = source.get("data_files")
    if files is not None and Path(files).exists():
        # A builder such as "parquet" and one file: the file is the source.
        return {"path": Path(files).name}
    if Path(source["path"]).expanduser().exists():
        source["path"] = Path(source["path"]).expanduser().absolute().name
        source.pop("data_files", None)
        return source
    benchmark.open()
    return {**source, **({} if benchmark.commit is None else {"commit": benchmark.commit})}


def unreadable_images(bad_images: BadImages | None) -> dict | None:
    """
    Return what a report says about images that could not be read.

    Args:
        bad_images ([`~hf_robustft.data.bad_images.BadImages`], *optional*): The policy, with what it counted.

    Returns:
        `dict` or `None`: `count`, `of` how many, and the `first` lines, in which a file of this machine is named by its
        folder and name alone; `None` if all images could be read.
    """
    found = None if bad_images is None else bad_images.summary()
    if not found or not found["count"]:
        return None
    return {**found, "first": [without_folders(line) for line in found["first"]]}
