# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From rows of a data set to the batches a CLIP model reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import torch
from torch.nn import functional
from torch.utils.data import Dataset

from hf_robustft.data.benchmarks import Benchmark
from hf_robustft.data.columns import check_dataset, holds_integers, require_column
from hf_robustft.data.images import UNREADABLE, BadImages, UnreadableImage
from hf_robustft.data.prompts import check_class_names, check_templates, fill_template
from hf_robustft.data.randomness import choose, example_rng
from hf_robustft.data.transforms import ImageTransform

ExampleKey = tuple[int, int]
"""(epoch, index): all that an example's random choices depend on, beside the seed."""


_REPLACEMENTS = 100


class _Rows:
    """Rows with the image still encoded, restricted to the columns in use."""

    def __init__(self, dataset: datasets.Dataset, image_column: str, columns: Iterable[str]):
        rows = dataset.select_columns([image_column, *columns])
        # Reading rows encoded and decoding one image apart lets an unreadable file be reported with its row.
        self.rows = rows.cast_column(image_column, datasets.Image(decode=False))
        self.image_column = image_column

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[dict | None, dict, str]:
        """The encoded image, the row, and words for where it is."""
        if not 0 <= index < len(self.rows):
            raise IndexError(f"index {index} is outside the {len(self.rows)} rows")
        row = self.rows[index]
        encoded = row[self.image_column]
        where = f"row {index}"
        return encoded, row, where if encoded is None else f"{where} ({encoded.get('path') or 'stored bytes'})"


def _counter(bad_images: BadImages | None, name: str, total: int) -> BadImages:
    return BadImages("error", name=name, total=total) if bad_images is None else bad_images.bound(name, total)


class TrainingExamples(Dataset):
    """Images with captions, cropped and captioned at random, but the same for the same key in any process.

    An item is asked for by `(epoch, index)`; the crop and the choice of template or caption are pure functions of
    (seed, epoch, index). A plain `index` means epoch 0. Each image comes once per epoch with one random template,
    where the reference draws (image, template) pairs without replacement from the product of both.

    By the policy "skip", another image of the data set takes the place of one that cannot be read, so that batches keep
    their size: image, caption and label of a row that is drawn from the same key, and so is the same in any process. The
    example then names what it replaces under `UNREADABLE`; a collator other than `ClipCollator` must hand that list on to
    the batch if unreadable images are to be counted.

    Args:
        dataset: rows with an image, and a label or a caption or both.
        transform: a training transform (evaluation transforms work too: no crop is drawn then).
        class_names: the classes in label order (needed unless there are captions).
        templates: prompt templates with one "{}" each, for captions from class names.
        image_column, label_column: names of the columns (default "image", "label").
        caption_column: column of captions, text or lists of text, of which one is drawn (default: from class names).
        label_names: what the data set calls the classes, where that differs from `class_names`.
        seed: seed of all random choices (default 0).
        bad_images: what is done about images that cannot be read (default: the first one is an error).

    Attributes:
        bad_images (`BadImages`): the policy, and the counter for whoever takes the batches (`BadImages.take`).

    Raises:
        ValueError: neither captions nor class names and templates, or data that do not fit (see `check_dataset`).
    """

    keyed = True

    def __init__(
        self,
        dataset: datasets.Dataset,
        transform: ImageTransform,
        *,
        class_names: Sequence[str] = (),
        templates: Sequence[str] = (),
        image_column: str = "image",
        label_column: str | None = "label",
        caption_column: str | None = None,
        label_names: Sequence[str] | None = None,
        seed: int = 0,
        bad_images: BadImages | None = None,
    ):
        self.class_names = check_class_names(class_names) if class_names else ()
        self.label_column = label_column if self.class_names else None
        if caption_column is None and self.label_column is None:
            raise ValueError(
                "the training examples have neither captions nor class names; give caption_column (--caption_column) "
                "or class_names and a label_column"
            )
        self.templates = check_templates(templates) if caption_column is None else ()
        dataset = check_dataset(
            dataset,
            where="the training data",
            class_names=self.class_names,
            own_names=label_names,
            image_column=image_column,
            label_column=self.label_column,
            caption_column=caption_column,
        )
        used = [column for column in (self.label_column, caption_column) if column is not None]
        self.rows = _Rows(dataset, image_column, used)
        self.transform, self.caption_column, self.seed = transform, caption_column, int(seed)
        self.bad_images = _counter(bad_images, "the training data", len(self.rows))

    @classmethod
    def from_benchmark(
        cls, benchmark: Benchmark, processor, *, seed: int = 0, bad_images: BadImages | None = None, **options
    ) -> TrainingExamples:
        """The training examples of a benchmark for a checkpoint.

        Args:
            benchmark: the data, with its class names, templates and columns.
            processor: the checkpoint's `CLIPProcessor` or image processor.
            seed: seed of all random choices (default 0).
            bad_images: what is done about images that cannot be read (default: the first one is an error).
            options: options of `ImageTransform.from_processor`, such as `crop`, `scale`, `flip` or `output`.
        """
        return cls(
            benchmark.load(),
            ImageTransform.from_processor(processor, train=True, **options),
            class_names=benchmark.class_names,
            templates=benchmark.templates,
            image_column=benchmark.image_column,
            label_column=benchmark.label_column,
            caption_column=benchmark.caption_column,
            seed=seed,
            bad_images=bad_images,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: ExampleKey | int) -> dict[str, Any]:
        """One example.

        Returns:
            `pixel_values` (3, size, size) as the transform gives them, `caption` str, `label` int if there are classes,
            and where the image stands for unreadable ones, `UNREADABLE`: a line for each of them.

        Raises:
            IndexError: no such row.
            OSError: the image cannot be read, and by the policy that is an error, or no replacement was found.
        """
        epoch, index = key if isinstance(key, (tuple, list)) else (0, key)
        epoch, index = int(epoch), int(index)
        chosen, unreadable = index, []
        while True:
            try:
                example = self._example(epoch, index, chosen)
            except UnreadableImage as error:
                if not self.bad_images.skips:
                    raise
                unreadable.append(error.summary)
                if len(unreadable) > _REPLACEMENTS:
                    raise OSError(
                        f"{len(unreadable)} images drawn in turn cannot be read, the last: {error.summary}; "
                        "mend the data"
                    ) from error
                purpose = f"replacement {len(unreadable)}"
                chosen = choose(len(self.rows), seed=self.seed, epoch=epoch, index=index, what=purpose)
                continue
            return {**example, UNREADABLE: unreadable} if unreadable else example

    def _example(self, epoch: int, index: int, chosen: int) -> dict[str, Any]:
        """The row `chosen`, with the random choices of `index`."""
        encoded, row, where = self.rows[chosen]
        example: dict[str, Any] = {
            "pixel_values": self.transform.decode(encoded, example_rng(self.seed, epoch, index, "crop"), where),
            "caption": self._caption(row, epoch, index),
        }
        if self.label_column is not None:
            example["label"] = int(row[self.label_column])
        return example

    def _caption(self, row: dict, epoch: int, index: int) -> str:
        if self.caption_column is None:
            chosen = choose(len(self.templates), seed=self.seed, epoch=epoch, index=index, what="template")
            return fill_template(self.templates[chosen], self.class_names[row[self.label_column]])
        captions = row[self.caption_column]
        if isinstance(captions, str):
            return captions
        return captions[choose(len(captions), seed=self.seed, epoch=epoch, index=index, what="caption")]


class ClipCollator:
    """A list of training examples to one batch for a model.

    Captions are padded to the longest of the batch. For CLIP that is exact: its text tower is causal and reads the
    embedding at the first end-of-text token, which no padding after it can reach.

    Args:
        tokenizer: the checkpoint's tokenizer, padding on the right.
        max_length: longest caption in tokens; longer ones are cut, keeping the end-of-text token (default: the
            tokenizer's `model_max_length`).
        pad_to_multiple_of: pad captions to a multiple of this many tokens, but never beyond `max_length` (default: to
            the longest of the batch). 8 gives a compiled model few shapes; it is compiled anew for each.

    Raises:
        ValueError: the tokenizer pads on the left or has no padding token, no limit of length is known, or
            `pad_to_multiple_of` is below 1.
    """

    def __init__(self, tokenizer, max_length: int | None = None, pad_to_multiple_of: int | None = None):
        if tokenizer.padding_side != "right":
            raise ValueError("the tokenizer pads on the left, which moves CLIP's positions; set padding_side='right'")
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no padding token; set pad_token to its end-of-text token")
        # transformers stands a huge number in for a limit that the tokenizer does not know.
        if max_length is None and tokenizer.model_max_length > 1_000_000:
            raise ValueError("the tokenizer knows no model_max_length; give max_length, the model's text positions")
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of} is no number of tokens; give 8, or None")
        self.tokenizer, self.max_length = tokenizer, int(max_length or tokenizer.model_max_length)
        self.pad_to_multiple_of = pad_to_multiple_of or 1

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate examples as `TrainingExamples` gives them.

        Returns:
            `pixel_values` (batch, 3, size, size), `input_ids` and `attention_mask` (batch, length), `labels` (batch,)
            int64 if the examples have them, and `UNREADABLE`, a list of lines, if any image could not be read.
        """
        tokens = self.tokenizer(
            [example["caption"] for example in examples],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        # Not left to the tokenizer: 77, CLIP's number of positions, is no multiple of 8, and 80 would be too many.
        rounded = -(-ids.shape[1] // self.pad_to_multiple_of) * self.pad_to_multiple_of
        extra = max(min(rounded, self.max_length) - ids.shape[1], 0)
        batch = {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "input_ids": functional.pad(ids, (0, extra), value=self.tokenizer.pad_token_id),
            "attention_mask": functional.pad(mask, (0, extra)),
        }
        if "label" in examples[0]:
            batch["labels"] = torch.tensor([example["label"] for example in examples])
        unreadable = [line for example in examples for line in example.get(UNREADABLE, ())]
        return {**batch, UNREADABLE: unreadable} if unreadable else batch


class EvaluationImages(Dataset):
    """Images in the order of the data set, as the checkpoint's processor would prepare them.

    By the policy "skip", an item whose image cannot be read holds nothing but a line about it under `UNREADABLE`;
    `collate_images` leaves it out of the batch.

    Args:
        dataset: rows with images and integer labels, as `Benchmark.load` returns them.
        transform: an evaluation transform.
        image_column: column of images (default "image").
        label_column: column of integer labels (default "label"); None if there are none.
        bad_images: what is done about images that cannot be read (default: the first one is an error).
        border: pixels to cut off on each side of an image before the transform (default 0; ObjectNet: 2).

    Attributes:
        bad_images (`BadImages`): the policy, and the counter for whoever takes the batches (`BadImages.take`).

    Raises:
        ValueError: a training transform, a border below 0, or columns that do not exist or hold something else.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        transform: ImageTransform,
        image_column: str = "image",
        label_column: str | None = "label",
        bad_images: BadImages | None = None,
        border: int = 0,
    ):
        if border < 0:
            raise ValueError(f"border is {border}; give the pixels to cut off on each side, at least 0")
        if transform.train:
            raise ValueError("evaluation needs ImageTransform(train=False): a random crop would change the results")
        dataset = check_dataset(dataset, where="the evaluation data", image_column=image_column)
        if label_column is not None:
            require_column(dataset, label_column, "label_column", "the evaluation data")
            if not holds_integers(dataset.features[label_column]):
                raise ValueError(
                    f"column {label_column!r} of the evaluation data holds {dataset.features[label_column]}, not "
                    "integer labels; use what Benchmark.load returns"
                )
        self.rows = _Rows(dataset, image_column, [] if label_column is None else [label_column])
        self.transform, self.label_column, self.border = transform, label_column, border
        self.bad_images = _counter(bad_images, "the evaluation data", len(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """`pixel_values` (3, size, size) as the transform gives them, and `label` int if there is a label column."""
        encoded, row, where = self.rows[int(index)]
        try:
            example: dict[str, Any] = {"pixel_values": self.transform.decode(encoded, None, where, self.border)}
        except UnreadableImage as error:
            if not self.bad_images.skips:
                raise
            return {UNREADABLE: [error.summary]}
        if self.label_column is not None:
            example["label"] = int(row[self.label_column])
        return example


def collate_images(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items of `EvaluationImages`, or of `TrainingExamples` without their captions, to a batch.

    Returns:
        `pixel_values` (batch, 3, size, size) and, if present, `labels` (batch,) int64. If any image could not be read,
        also `UNREADABLE`, a list of lines, and `kept`, (batch,) int64: which of the examples are left. The batch is empty,
        of shape (0, 3, 0, 0), if none is.
    """
    kept = [position for position, example in enumerate(examples) if "pixel_values" in example]
    unreadable = [line for example in examples for line in example.get(UNREADABLE, ())]
    pixels = [examples[position]["pixel_values"] for position in kept]
    batch: dict[str, Any] = {"pixel_values": torch.stack(pixels) if pixels else torch.empty(0, 3, 0, 0)}
    if not kept or "label" in examples[kept[0]]:
        batch["labels"] = torch.tensor([examples[position]["label"] for position in kept], dtype=torch.int64)
    if unreadable:
        batch |= {UNREADABLE: unreadable, "kept": torch.tensor(kept, dtype=torch.int64)}
    return batch
