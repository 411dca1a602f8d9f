# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""CLIP-Adapter and Tip-Adapter-F: a small head trains with cross-entropy on the embeddings of a frozen model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..data.benchmarks import Benchmark
from ..modeling.feature_cache import CachedFeatures, cache_features
from ..modeling.features import encode, evaluation_mode, normalised
from ..modeling.heads import ClipAdapterHead, MultiLabelClipAdapterHead, TipAdapterHead
from ..modeling.zero_shot import ZeroShotHead
from .base import refuse_idle
from .cross_entropy import CrossEntropyMixin
from .settings import SHARE, ObjectiveSettings, Range, setting


@dataclass
class ClipAdapterSettings(ObjectiveSettings):
    """CLIP-Adapter (Gao et al., IJCV 2024)."""

    clip_adapter_ratio: float = setting(
        0.2,
        "Share of the adapted embedding, next to the original one; 0 is the zero-shot model.",
        paper=0.2,
        range=SHARE,
    )
    clip_adapter_reduction: int = setting(
        4,
        "Dimension of the embeddings over the width between the adapter's two layers.",
        paper=4,
        range=Range("must be a whole number of at least 1", low=1, whole_from=1),
    )


@dataclass
class TipAdapterSettings(ObjectiveSettings):
    """Tip-Adapter (Zhang et al., ECCV 2022)."""

    tip_alpha: float = setting(
        1.17,
        "Weight of the cache's votes. Where neither this nor tip_beta is given, both are chosen on the validation set "
        "at the end.",
        paper=1.17,
        range=Range("must be finite and not negative; 0 is the zero-shot model", below=True),
    )
    tip_beta: float = setting(
        1.0,
        "Sharpness of the votes: each is exp(-tip_beta * (1 - cosine)).",
        paper=1.0,
        range=Range("must be finite and not negative", below=True),
    )
    tip_views: int = setting(
        10,
        "Augmented views of each image, whose mean is its key in the cache. 0 is one view by the evaluation transform.",
        paper=10,
        range=Range("must be a whole number", whole_from=0),
    )


class FrozenHeadMixin(CrossEntropyMixin):
    """
    Adds the term `cross_entropy` of a head that alone trains, on image features that are computed without gradient or were
    cached (`cache_features`). Arguments and errors as for [`CrossEntropyMixin`].
    """

    trains_model = False


class ClipAdapterMixin(FrozenHeadMixin):
    """
    CLIP-Adapter: the head is a [`ClipAdapterHead`] around the zero-shot classifier, of images with lists of labels a
    [`MultiLabelClipAdapterHead`], whose bias stays where training found it. Arguments as for [`CrossEntropyMixin`].
    """

    settings: type[ObjectiveSettings] = ClipAdapterSettings

    def make_head(self, head: ZeroShotHead) -> ZeroShotHead:
        args = self.args
        kind = MultiLabelClipAdapterHead if self.multi_label else ClipAdapterHead
        return kind.around(
            head, ratio=args.clip_adapter_ratio, reduction=args.clip_adapter_reduction, seed=args.seed
        )


class TipAdapterMixin(FrozenHeadMixin):
    """
    Tip-Adapter-F: the head is a [`TipAdapterHead`] around the zero-shot classifier, whose keys train.

    The keys are those of the training set: of a [`Benchmark`] or `datasets.Dataset` `tip_views` random crops, of
    [`CachedFeatures`] all the views they hold, and of another data set its examples as they come. Arguments as for [`CrossEntropyMixin`].

    Raises:
        ValueError: As [`CrossEntropyMixin`], and if there are no labelled images to make keys of.
    """

    label_lists: tuple[str, ...] = ()
    settings: type[ObjectiveSettings] = TipAdapterSettings

    @property
    def searches_head(self) -> bool:
        """Whether alpha and beta are still to be chosen: neither was given."""
        return not {"tip_alpha", "tip_beta"} & self.args.given

    def make_head(self, head: ZeroShotHead) -> ZeroShotHead:
        features, labels = self._bank()
        return TipAdapterHead.around(head, features, labels, alpha=self.args.tip_alpha, beta=self.args.tip_beta)

    def _bank(self) -> tuple[Tensor, Tensor | None]:
        """Features `(views, images, embed_dim)` and labels of the training set."""
        data, args, benchmark = self.train_dataset, self.args, self.training_images
        if isinstance(benchmark, Benchmark) and not benchmark.streaming:
            name = f"the training set {benchmark.name!r}"
            data = cache_features(
                self.model,
                benchmark,
                self.processing_class,
                views=args.tip_views,
                seed=args.seed if args.data_seed is None else args.data_seed,
                batch_size=args.eval_batch_size,
                num_workers=args.dataloader_num_workers,
                progress=not args.disable_tqdm,
                bad_images=None if self.bad_images is None else self.bad_images.of(name),
                **({"crop": args.train_crop} if args.tip_views else {}),
            )
        elif data is None or isinstance(data, IterableDataset) or not len(data):
            raise ValueError(
                "Tip-Adapter keeps a key for each training image, and there are none that can be counted: the training set "
                "is missing, empty or a stream; give a stored one."
            )
        else:
            refuse_idle(
                args, ["tip_views"], "the keys are of the views that the training set holds; give a `Benchmark`"
            )
        if isinstance(data, CachedFeatures):
            return data.features, data.labels
        return self._encoded(data)

    @torch.no_grad()
    def _encoded(self, data: Any) -> tuple[Tensor, Tensor | None]:
        loader = DataLoader(data, batch_size=self.args.eval_batch_size, collate_fn=self.data_collator)
        features, labels = [], []
        with evaluation_mode(self.model):
            for batch in loader:
                batch = {name: value.to(self.args.device) for name, value in batch.items() if hasattr(value, "to")}
                if "pixel_values" in batch:
                    transform = getattr(data, "transform", None)
                    batch["pixel_values"] = normalised(batch["pixel_values"], transform, self.model.dtype)
                features.append(encode(self.model, batch, captions=False).image_features)
                labels.append(batch.get("labels"))
        return torch.cat(features)[None], None if labels[0] is None else torch.cat(labels)
