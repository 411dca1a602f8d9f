# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From rows of a data set to the batches a CLIP model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import datasets
import torch
from datasets import ClassLabel
from PIL import Image
from torch.nn import functional
from torch.utils.data import Dataset

from .bad_images import UNREADABLE, BadImages
from .benchmarks import Benchmark
from .column_checks import require_column, require_dataset
from .columns import StoredRows, check_dataset
from .decoded_images import DecodedImages
from .images import UnreadableImage, decode_image
from .labels import holds_integers, holds_several, one_label
from .prompts import check_class_names, check_templates, fill_template
from .randomness import choose, example_rng
from .transforms import ImageTransform

ExampleKey = tuple[int, int]
"""(epoch, index): all that an example's random choices depend on, beside the seed."""

_REPLACEMENTS = 100


class CaptionedImages:
    """
    What training examples are, stored or streamed: images with captions, cropped and captioned at random, but the same for
    the same key (epoch, index) in any process.

    Args:
        transform ([`ImageTransform`]): For training; one for evaluation works too, and then no crop is drawn.
        labelled, captioned (`bool`): Whether the rows have labels, and captions.
        class_names (`Sequence[str]`): The classes in label order; read if the rows have labels.
        templates (`Sequence[str]`): Prompt templates with one "{}" each, for captions from class names.
        seed (`int`): Seed of all random choices.
        border (`int`, *optional*, defaults to 0): Pixels to cut off on each side of an image first.

    Attributes:
        several (`int`): Number of classes where each image has a list of labels, which may be empty; 0 where it has one.
    """

    keyed = True
    several: int = 0

    def __init__(
        self,
        transform: ImageTransform,
        labelled: bool,
        captioned: bool,
        class_names: Sequence[str],
        templates: Sequence[str],
        seed: int,
        border: int = 0,
    ):
        if not labelled and not captioned:
            raise ValueError(
                "The training examples have neither captions nor class names; give caption_column (--caption_column) "
                "or class_names and a label_column."
            )
        self.labelled, self.captioned = labelled, captioned
        self.class_names = check_class_names(class_names) if labelled or class_names else ()
        self.templates = () if captioned else check_templates(templates)
        self.transform, self.seed, self.border = transform, int(seed), border

    def example(self, row: dict[str, Any], epoch: int, index: int, where: str) -> dict[str, Any]:
        """
        A row, decoded, cropped and captioned as its pass and number say.

        Args:
            row (`dict`): `image` (encoded, or decoded by `decode_image`), and `label` and `caption` where there are such.
            epoch, index (`int`): Pass and number.
            where (`str`): Which row it is, in messages.

        Returns:
            `dict`: `pixel_values` (3, size, size) as the transform gives them, `caption` str, and `label` int if there are
            classes. Of a list of labels `label` is 0 or 1 for each class, and a caption that is made from a class name names one
            of them, or any class for an image without labels; `caption_label` says which.

        Raises:
            UnreadableImage: The image cannot be read.
        """
        crop = example_rng(self.seed, epoch, index, "crop")
        image = row["image"]
        if isinstance(image, Image.Image) and not self.border:
            pixels = self.transform(image, crop)
        else:
            pixels = self.transform.decode(image, crop, where, self.border)
        example: dict[str, Any] = {"pixel_values": pixels}
        key = {"seed": self.seed, "epoch": epoch, "index": index}
        if not self.captioned:
            template = self.templates[choose(len(self.templates), **key, what="template")]
            named = row["label"]
            if self.several:
                # Of an image without labels the caption is one more that does not belong to it.
                possible = named or range(self.several)
                named = example["caption_label"] = possible[choose(len(possible), **key, what="class")]
            example["caption"] = fill_template(template, self.class_names[named])
        elif isinstance(row["caption"], str):
            example["caption"] = row["caption"]
        else:
            example["caption"] = row["caption"][choose(len(row["caption"]), **key, what="caption")]
        if self.labelled:
            example["label"] = zeros_and_ones(row["label"], self.several) if self.several else int(row["label"])
        return example


class TrainingExamples(CaptionedImages, Dataset):
    """
    Training examples of stored rows.

    An item is asked for by `(epoch, index)`; the crop and the choice of template or caption are pure functions of
    (seed, epoch, index). A plain `index` means epoch 0. Each image comes once per epoch with one random template,
    where the reference draws (image, template) pairs without replacement from the product of both.

    By the policy "skip", another image of the data set takes the place of one that cannot be read, so that batches keep
    their size: image, caption and label of a row that is drawn from the same key, and so is the same in any process. The
    example then names what it replaces under `UNREADABLE`; a collator other than `ClipCollator` must hand that list on to
    the batch if unreadable images are to be counted.

    Args:
        dataset ([`~datasets.Dataset`] or [`StoredRows`]): Rows with an image, and a label or a caption or both; those that
            are checked already are not checked again.
        transform ([`ImageTransform`]): For training; one for evaluation works too, and then no crop is drawn.
        class_names (`Sequence[str]`, *optional*): The classes in label order; needed unless there are captions.
        templates (`Sequence[str]`, *optional*): Prompt templates with one "{}" each, for captions from class names.
        image_column (`str`, *optional*, defaults to `"image"`), label_column (`str`, *optional*, defaults to `"label"`):
            Names of the columns.
        caption_column (`str`, *optional*): Column of captions, text or lists of text, of which one is drawn. By default
            captions are made from class names.
        label_names (`Sequence[str]`, *optional*): What the data set calls the classes, where that differs from
            `class_names`.
        seed (`int`, *optional*, defaults to 0): Seed of all random choices.
        bad_images ([`BadImages`], *optional*): What is done about images that cannot be read. By default the first one is
            an error.
        keep_decoded (`bool`, *optional*, defaults to `False`): Keep decoded images for later epochs, as long as `decoded` is
            told where. None is read at a fraction of its size then.
        border (`int`, *optional*, defaults to 0): Pixels to cut off on each side of an image before the transform.

    Attributes:
        rows ([`StoredRows`]): The rows.
        bad_images ([`BadImages`]): The policy, and the counter for whoever takes the batches (`BadImages.take`).
        decoded ([`~hf_robustft.data.decoded_images.DecodedImages`], *optional*): The images that are kept.

    Raises:
        ValueError: There are neither captions nor class names and templates, or the data do not fit (see `check_dataset`).
    """

    def __init__(
        self,
        dataset: datasets.Dataset | StoredRows,
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
        keep_decoded: bool = False,
        border: int = 0,
    ):
        labelled = bool(class_names) and label_column is not None
        super().__init__(transform, labelled, caption_column is not None, class_names, templates, seed, border)
        where = "the training data"
        if not isinstance(dataset, StoredRows):
            require_dataset(dataset, where)
            dataset = check_dataset(
                dataset,
                where=where,
                class_names=self.class_names if labelled else (),
                own_names=label_names,
                image_column=image_column,
                label_column=label_column,
                caption_column=caption_column,
            )
        self.rows, self.several = dataset, dataset.several if labelled else 0
        self.bad_images = counter(bad_images, where, len(self.rows))
        self.decoded = DecodedImages(len(self.rows)) if keep_decoded else None

    @classmethod
    def from_benchmark(
        cls, benchmark: Benchmark, processor, *, seed: int = 0, bad_images: BadImages | None = None, keep_decoded: bool = False, **options
    ) -> TrainingExamples:
        """
        The training examples of a benchmark for a checkpoint.

        Args:
            benchmark ([`Benchmark`]): The data, with its class names, templates and columns.
            processor ([`~transformers.CLIPProcessor`] or an image processor): The checkpoint's.
            seed (`int`, *optional*, defaults to 0), bad_images ([`BadImages`], *optional*), keep_decoded (`bool`, *optional*, defaults to
                `False`): As above.
            options (`Any`, *optional*): Options of `ImageTransform.from_processor`, such as `crop`, `scale`, `flip` or
                `output`.
        """
        return cls(
            benchmark.stored_rows(),
            ImageTransform.from_processor(processor, train=True, **options),
            class_names=benchmark.class_names,
            templates=benchmark.templates,
            label_column=benchmark.label_column,
            caption_column=benchmark.caption_column,
            seed=seed,
            bad_images=bad_images,
            keep_decoded=keep_decoded,
            border=benchmark.border,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: ExampleKey | int) -> dict[str, Any]:
        """
        One example.

        Returns:
            `dict`: As [`CaptionedImages.example`] gives it, and where the image stands for unreadable ones, `UNREADABLE`: a
            line for each of them.

        Raises:
            IndexError: There is no such row.
            OSError: The image cannot be read, and by the policy that is an error, or no replacement was found.
        """
        epoch, index = key if isinstance(key, (tuple, list)) else (0, key)
        epoch, index = int(epoch), int(index)
        chosen, unreadable = index, []
        while True:
            try:
                # The row `chosen`, with the random choices of `index`.
                row, where = self.rows[chosen] if self.decoded is None else self._decoded_row(chosen)
                example = self.example(row, epoch, index, where)
            except UnreadableImage as error:
                if not self.bad_images.skips:
                    raise
                unreadable.append(error.summary)
                if len(unreadable) > _REPLACEMENTS:
                    raise OSError(
                        f"{len(unreadable)} images drawn in turn cannot be read, the last: {error.summary}; "
                        "mend the data."
                    ) from error
                purpose = f"replacement {len(unreadable)}"
                chosen = choose(len(self.rows), seed=self.seed, epoch=epoch, index=index, what=purpose)
                continue
            return {**example, UNREADABLE: unreadable} if unreadable else example

    def _decoded_row(self, number: int) -> tuple[dict[str, Any], str]:
        """As a row of `rows`, its image decoded."""
        image = self.decoded.read(number)
        if image is not None:
            return {**self.rows.without_image(number), "image": image}, f"row {number}"
        row, where = self.rows[number]
        image = decode_image(row["image"], where)
        self.decoded.keep(number, image)
        return {**row, "image": image}, where


class ClipCollator:
    """
    A list of training examples to one batch for a model.

    Captions are padded to the longest of the batch. For CLIP that is exact: its text tower is causal and reads the
    embedding at the first end-of-text token, which no padding after it can reach.

    Args:
        tokenizer (`Any`): The checkpoint's tokenizer, padding on the right.
        max_length (`int`, *optional*): Longest caption in tokens; longer ones are cut, keeping the end-of-text token
            (default: the tokenizer's `model_max_length`).
        pad_to_multiple_of (`int`, *optional*): Pad captions to a multiple of this many tokens, but never beyond
            `max_length` (default: to the longest of the batch). 8 gives a compiled model few shapes; it is compiled
            again for each.

    Raises:
        ValueError: the tokenizer pads on the left or has no padding token, no limit of length is known, or
            `pad_to_multiple_of` is below 1.
    """

    def __init__(self, tokenizer, max_length: int | None = None, pad_to_multiple_of: int | None = None):
        if tokenizer.padding_side != "right":
            raise ValueError("The tokenizer pads on the left, which moves CLIP's positions; set padding_side='right'.")
        if tokenizer.pad_token_id is None:
            raise ValueError("The tokenizer has no padding token; set pad_token to its end-of-text token.")
        # transformers stands a huge number in for a limit that the tokenizer does not know.
        if max_length is None and tokenizer.model_max_length > 1_000_000:
            raise ValueError("The tokenizer knows no model_max_length; give max_length, the model's text positions.")
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of={pad_to_multiple_of} is not a number of tokens; give 8, or None.")
        self.tokenizer, self.max_length = tokenizer, int(max_length or tokenizer.model_max_length)
        self.pad_to_multiple_of = pad_to_multiple_of or 1

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate examples as `TrainingExamples` gives them.

        Returns:
            `pixel_values` (batch, 3, size, size), `input_ids` and `attention_mask` (batch, length), `labels` (batch,)
            int64 if the examples have them ((batch, classes), 0 and 1, of lists of labels), `caption_labels` (batch,) int64, the class
            that each caption is of, where labels are lists, and `UNREADABLE`, a list of lines, if any image could not be read.
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
        # Not left to the tokenizer: 77, CLIP's number of positions, is not a multiple of 8, and 80 would be too many.
        rounded = -(-ids.shape[1] // self.pad_to_multiple_of) * self.pad_to_multiple_of
        extra = max(min(rounded, self.max_length) - ids.shape[1], 0)
        batch = {
            "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
            "input_ids": functional.pad(ids, (0, extra), value=self.tokenizer.pad_token_id),
            "attention_mask": functional.pad(mask, (0, extra)),
        }
        # Transformers' own examples have the name of the batch.
        label = next((name for name in ("label", "labels") if name in examples[0]), None)
        if label is not None:
            batch["labels"] = torch.tensor([example[label] for example in examples])
        if "caption_label" in examples[0]:
            batch["caption_labels"] = torch.tensor([example["caption_label"] for example in examples])
        unreadable = [line for example in examples for line in example.get(UNREADABLE, ())]
        return {**batch, UNREADABLE: unreadable} if unreadable else batch


class EvaluationImages(Dataset):
    """
    Images in the order of the data set, as the checkpoint's processor would prepare them.

    By the policy "skip", an item whose image cannot be read holds nothing but a line about it under `UNREADABLE`;
    `collate_images` leaves it out of the batch.

    Args:
        dataset ([`~datasets.Dataset`]): Rows with images and integer labels, as `Benchmark.load` returns them.
        transform ([`ImageTransform`]): For evaluation.
        image_column (`str`, *optional*, defaults to `"image"`): Column of images.
        label_column (`str`, *optional*, defaults to `"label"`): Column of integer labels, or of lists of a ClassLabel; `None`
            if there are none.
        bad_images ([`BadImages`], *optional*): What is done about images that cannot be read. By default the first one is
            an error.
        border (`int`, *optional*, defaults to 0): Pixels to cut off on each side of an image before the transform
            (ObjectNet: 2).
        group_column (`str`, *optional*): Column of what images are drawn together with.

    Attributes:
        bad_images ([`BadImages`]): The policy, and the counter for whoever takes the batches (`BadImages.take`).

    Raises:
        ValueError: A training transform, a border below 0, or columns that do not exist or hold something else.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        transform: ImageTransform,
        image_column: str = "image",
        label_column: str | None = "label",
        bad_images: BadImages | None = None,
        border: int = 0,
        group_column: str | None = None,
    ):
        if border < 0:
            raise ValueError(f"border is {border}; give the pixels to cut off on each side, at least 0.")
        check_transform(transform)
        where = "the evaluation data"
        require_dataset(dataset, where)
        columns = {"image_column": image_column, "label_column": label_column, "group_column": group_column}
        rows = check_dataset(dataset, where=where, **columns)
        if label_column is not None:
            require_column(rows.dataset.features, label_column, "label_column", where)
            feature = rows.dataset.features[label_column]
            if not (isinstance(one_label(feature), ClassLabel) if holds_several(feature) else holds_integers(feature)):
                raise ValueError(
                    f"column {label_column!r} of {where} holds {feature}, not integer labels; "
                    "use what Benchmark.load returns."
                )
        self.rows = replace(rows, label_column=label_column)
        self.transform, self.border = transform, border
        self.bad_images = counter(bad_images, where, len(self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        `pixel_values` (3, size, size) as the transform gives them; `label` int, or of a list 0 or 1 for each class, and `group`
        str if there are such columns.
        """
        row, where = self.rows[int(index)]
        try:
            example: dict[str, Any] = {"pixel_values": self.transform.decode(row["image"], None, where, self.border)}
        except UnreadableImage as error:
            if not self.bad_images.skips:
                raise
            return {UNREADABLE: [error.summary]}
        if "label" in row:
            several = self.rows.several
            example["label"] = zeros_and_ones(row["label"], several) if several else int(row["label"])
        if "group" in row:
            example["group"] = row["group"]
        return example


def zeros_and_ones(labels: Sequence[int], classes: int) -> list[int]:
    """Return 1 for each of the `labels` among so many `classes`, and 0 for the others."""
    found = set(labels)
    return [int(index in found) for index in range(classes)]


def check_transform(transform: ImageTransform) -> None:
    """Refuse a `transform` for training in an evaluation. Raises ValueError."""
    if transform.train:
        raise ValueError("evaluation needs ImageTransform(train=False): a random crop would change the results.")


def counter(bad_images: BadImages | None, name: str, total: int | None) -> BadImages:
    """Return the counter of the unreadable images among `total` of the data set `name`: `bad_images`, or one that refuses any."""
    if bad_images is None:
        return BadImages("error", name=name, total=total)
    return bad_images if total is None else bad_images.bound(name, total)


def collate_images(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Items of `EvaluationImages`, or of `TrainingExamples` without their captions, to a batch.

    Returns:
        `pixel_values` (batch, 3, size, size) and, if present, `labels` (batch,) int64 and `groups`, a list of texts. If any image could not be read,
        also `UNREADABLE`, a list of lines, and `kept`, (batch,) int64: which of the examples are left. The batch is empty,
        of shape (0, 3, 0, 0), if none is.
    """
    kept = [position for position, example in enumerate(examples) if "pixel_values" in example]
    unreadable = [line for example in examples for line in example.get(UNREADABLE, ())]
    pixels = [examples[position]["pixel_values"] for position in kept]
    batch: dict[str, Any] = {"pixel_values": torch.stack(pixels) if pixels else torch.empty(0, 3, 0, 0)}
    if not kept or "label" in examples[kept[0]]:
        batch["labels"] = torch.tensor([examples[position]["label"] for position in kept], dtype=torch.int64)
    if kept and "group" in examples[kept[0]]:
        batch["groups"] = [examples[position]["group"] for position in kept]
    if unreadable:
        batch |= {UNREADABLE: unreadable, "kept": torch.tensor(kept, dtype=torch.int64)}
    return batch
