# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From what a Trainer is given to train on to its examples, and from a loader's batch to what the model reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from ..data.bad_images import BadImages
from ..data.benchmarks import Benchmark
from ..data.examples import TrainingExamples
from ..data.transforms import ImageTransform
from ..evaluation.collect import gather_rows, image_batches
from ..modeling.captions import check_class_prompts
from ..modeling.dual_encoder import DualEncoder
from ..modeling.feature_cache import feature_fingerprints
from ..modeling.features import encode, evaluation_mode
from ..modeling.processes import failing_together
from ..objectives.base import refuse_idle
from .distributed import rank, world_size
from .kept_images import check_room
from .streaming import check_stream, streamed_examples


def training_examples(
    dataset: Any, args: Any, processor: Any, bad_images: BadImages | None = None, levels: bool = True
) -> Any:
    """
    The training examples of a benchmark, streamed or stored; other data sets pass as they are.

    Args:
        dataset (`Any`): What the Trainer was given.
        args ([`RobustTrainingArguments`]): Settings of the run.
        processor ([`~transformers.CLIPProcessor`], *optional*): Needed for a benchmark.
        bad_images ([`~hf_robustft.data.bad_images.BadImages`], *optional*): What is done about images of a benchmark that
            cannot be read. By default the first one is an error.
        levels (`bool`, *optional*, defaults to `True`): Whether `ClipCollator` makes the batches. It takes pixels as uint8
            levels where an accelerator trains, which normalises them; and examples with `pixel_values` and `caption`.

    Raises:
        ValueError: If a benchmark comes without processor or may not be trained on, or a stream cannot be
            trained on as the arguments ask, or the examples of another data set have no pixels or no caption.
    """
    if not isinstance(dataset, Benchmark):
        check_stream(dataset, args)
        if levels:
            _check_first_example(dataset)
        return dataset
    if dataset.evaluation_only:
        raise ValueError(
            f"Benchmark {dataset.name!r} may be evaluated on, never trained or tuned on, as its licence says; train on "
            "another."
        )
    if processor is None:
        raise ValueError("A benchmark is trained on through its processor; pass `processing_class=`.")
    options: dict[str, Any] = {
        "bad_images": None if bad_images is None else bad_images.of(f"the training set {dataset.name!r}"),
        # A quarter of the bytes for workers to hand over and for the bus; on CPU the workers normalise better.
        "output": "uint8" if levels and args.device.type != "cpu" else "float32",
        "crop": args.train_crop,
    }
    if dataset.streaming:
        if args.cache_images != "none":
            refuse_idle(args, ["cache_images"], "the images of a stream come once; download the data set")
        return streamed_examples(dataset, processor, args, buffer=args.shuffle_buffer, **options)
    seed = args.seed if args.data_seed is None else args.data_seed
    examples = TrainingExamples.from_benchmark(dataset, processor, seed=seed, keep_decoded=args.cache_images == "uint8", **options)
    if examples.decoded is not None:
        check_room(examples.rows, args.output_dir)
    return examples


def as_benchmark(dataset: Any) -> Any:
    """A `datasets.Dataset` as a [`Benchmark`]; another `dataset` as it is. Raises ValueError for what is not one."""
    if isinstance(dataset, (str, Path)):
        raise ValueError(
            f"`train_dataset={str(dataset)!r}` is a text; give load_benchmark({str(dataset)!r}, role='train')."
        )
    if isinstance(dataset, datasets.DatasetDict):
        first = next(iter(dataset), "train")
        raise ValueError(
            f"`train_dataset` is a DatasetDict of {', '.join(map(repr, dataset))}; give one, such as [{first!r}]."
        )
    if isinstance(dataset, datasets.Dataset):
        return Benchmark.from_dataset(dataset, name="train", role="train")
    return dataset


def embed_images(trainer: Any, dataset: Any) -> tuple[Tensor, Tensor]:
    """
    Encode all images that a Trainer was given, each once; every process must ask for it.

    Args:
        trainer ([`RobustTrainer`]): Whose model encodes, with its settings.
        dataset (`Any`): What it was given: a [`Benchmark`], stored or streamed, whose images are prepared as in evaluation; or
            rows of images and labels, which come as they do in the first pass.

    Returns:
        Two `torch.Tensor` on the CPU, the same in every process: unit-norm embeddings `(n, embed_dim)` and labels `(n,)`, or of
        lists of labels 0 and 1, `(n, classes)`.

    Raises:
        ValueError: If a data set has no rows to ask for, or no labels.
    """
    model, state = trainer.model, PartialState()
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Benchmark) and not hasattr(dataset, "__getitem__"):
        raise ValueError(
            f"All training images are encoded before training, and this {type(dataset).__name__} has no rows to ask for; give a "
            "`Benchmark`, a `datasets.Dataset`, or a head that is fitted already (`head=`)."
        )
    unlabelled = "The training images have no labels, which the head is fitted on; name the label column."
    if isinstance(dataset, Benchmark) and not dataset.class_names:
        raise ValueError(unlabelled)
    several = trainer.train_dataset.several if trainer.multi_label else 0
    rows, embeds = [torch.empty(0, 1 + (several or 1), dtype=torch.long)], [torch.empty(0, trainer.encoder.embed_dim, dtype=model.dtype)]
    with failing_together("Encoding the training images", state), evaluation_mode(model), torch.no_grad():
        for index, encoded, labels in _encoded(trainer, dataset):
            if labels is None:
                raise ValueError(unlabelled)
            rows.append(torch.column_stack([index, labels.cpu()]))
            embeds.append(encoded.cpu())
    rows, embeds = gather_rows(torch.cat(rows), torch.cat(embeds), state=state)
    return embeds, rows[:, 1:].clone() if several else rows[:, 1].clone()


def _encoded(trainer: Any, dataset: Any) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """This process's batches: numbers of rows, embeddings, labels."""
    args, model = trainer.args, trainer.model
    if isinstance(dataset, Benchmark):
        bad_images = None if trainer.bad_images is None else trainer.bad_images.of(f"the training set {dataset.name!r}")
        yield from image_batches(
            model,
            dataset,
            ImageTransform.from_processor(trainer.processing_class, train=False),
            batch_size=args.eval_batch_size,
            num_workers=args.dataloader_num_workers,
            progress=not args.disable_tqdm,
            bad_images=bad_images,
        )
        return
    keyed = getattr(dataset, "keyed", False)
    for index in torch.arange(len(dataset)).split(args.eval_batch_size)[rank() :: world_size()]:
        batch = trainer.data_collator([dataset[(0, row) if keyed else row] for row in index.tolist()])
        batch = trainer._prepare_inputs(batch)
        yield index, encode(model, batch, captions=False).image_embeds, batch.get("labels")


def _check_first_example(dataset: Any) -> None:
    """Refuse a user's data set whose examples `ClipCollator` could not make a batch of; a stream is not begun."""
    if dataset is None or feature_fingerprints(dataset) or not hasattr(dataset, "__getitem__"):
        return
    if getattr(dataset, "keyed", False) or not len(dataset):
        return
    example = dataset[0]
    found = sorted(map(str, example)) if isinstance(example, Mapping) else []
    missing = [name for name in ("pixel_values", "caption") if name not in found]
    if missing:
        kind = f"a dict of {', '.join(found)}" if found else f"a {type(example).__name__}"
        raise ValueError(
            f"The first training example is {kind}, without {' and '.join(missing)}. Give the images and labels as a "
            "`datasets.Dataset` with the columns `image` and `label` or as `Benchmark.from_dataset(...)`, from which captions "
            "are made; or give dicts of `pixel_values` (a tensor) and `caption` (a text), or your own `data_collator`."
        )


def check_captions(examples: Any, processor: Any, model: nn.Module) -> None:
    """Refuse `examples` whose captions are made of class names that `processor` and `model` cannot tell apart. Raises ValueError."""
    classes = getattr(examples, "class_names", ()), getattr(examples, "templates", ())
    if processor is not None and all(classes):
        check_class_prompts(processor, *classes, DualEncoder.of(model).caption_rules)
