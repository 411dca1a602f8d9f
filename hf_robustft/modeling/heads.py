# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
Heads with more than a weight for each class: what no plain model can hold, kept in `head.safetensors`.

Every head is a [`ZeroShotHead`]: it takes unit-norm image embeddings, gives class logits, and has the linear part that a
text tower gives. `load_head` reads all kinds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.benchmarks import Benchmark
from ..data.labels import refuse_several
from ..data.prompts import class_key
from .checkpoint_file import checkpoint_folder
from .feature_cache import cache_features
from .features import logit_bias
from .tensor_files import opened
from .zero_shot import HEAD_FILE, ZeroShotHead

NO_LABELS = (
    "Tip-Adapter keeps the labels of its images, and the training set has none; name the label column, or give a set with "
    "classes."
)


class ClipAdapterHead(ZeroShotHead):
    """
    CLIP-Adapter (Gao et al., IJCV 2024): two layers on the image embeddings before the zero-shot classifier.

    An embedding v becomes `ratio * relu(up @ relu(down @ v)) + (1 - ratio) * v`, normalised. The layers have no bias, so
    the result is the same for the un-normalised features that the authors' code mixes: scaling v scales both terms.

    Only the layers train. The map is not linear and cannot be merged into a projection.

    Args:
        weight (`torch.Tensor` of shape `(classes, embed_dim)`), class_names (`Sequence[str]`), bias (`torch.Tensor`, *optional*):
            As for [`ZeroShotHead`].
        down (`torch.Tensor` of shape `(width, embed_dim)`), up (`torch.Tensor` of shape `(embed_dim, width)`): The layers.
        ratio (`float`): Share of the adapted embedding, in [0, 1]; 0 is the zero-shot classifier.

    Raises:
        ValueError: If a shape does not fit, or the ratio lies outside [0, 1].
    """

    kind = "clip_adapter"
    label = "trained CLIP-Adapter"
    parts = (*ZeroShotHead.parts, "down", "up", "ratio")

    def __init__(
        self,
        weight: Tensor,
        class_names: Sequence[str],
        bias: Tensor | None = None,
        *,
        down: Tensor,
        up: Tensor,
        ratio: float | Tensor,
    ):
        super().__init__(weight, class_names, bias)
        dim = weight.shape[1]
        if down.ndim != 2 or not len(down) or down.shape[1] != dim or up.shape != down.shape[::-1]:
            raise ValueError(
                f"The layers of an adapter for embeddings of dimension {dim} need the shapes (width, {dim}) and ({dim}, "
                f"width), got {tuple(down.shape)} and {tuple(up.shape)}."
            )
        self.requires_grad_(False)
        self.down = nn.Parameter(down.detach().clone().to(weight))
        self.up = nn.Parameter(up.detach().clone().to(weight))
        self.register_buffer("ratio", _number(ratio, "ratio", weight, high=1))

    @classmethod
    def around(cls, head: ZeroShotHead, *, ratio: float = 0.2, reduction: int = 4, seed: int = 0) -> ClipAdapterHead:
        """
        The adapter before training: layers as `torch.nn.Linear` draws them.

        Args:
            head ([`ZeroShotHead`]): The zero-shot classifier.
            ratio (`float`, *optional*, defaults to 0.2): Share of the adapted embedding.
            reduction (`int`, *optional*, defaults to 4): The embedding's dimension over the width between the layers.
            seed (`int`, *optional*, defaults to 0): Of the layers.

        Raises:
            ValueError: If the dimension is not a multiple of `reduction`.
        """
        dim = head.weight.shape[1]
        if reduction < 1 or dim % reduction:
            raise ValueError(
                f"`clip_adapter_reduction={reduction}` does not divide the {dim} dimensions of the embeddings; give a "
                "divisor, such as 4."
            )
        generator = torch.Generator().manual_seed(seed)
        shapes = (dim // reduction, dim), (dim, dim // reduction)
        # Uniform within 1 / sqrt(inputs), which is what `torch.nn.Linear` starts from.
        down, up = ((2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(shape[1]) for shape in shapes)
        return cls(head.weight, head.class_names, head.bias, down=down, up=up, ratio=ratio)

    def forward(self, image_embeds: Tensor) -> Tensor:
        """As [`ZeroShotHead.forward`]: logits of shape `(batch, classes)` for unit-norm `image_embeds` of shape `(batch, embed_dim)`."""
        adapted = F.relu(F.linear(F.relu(F.linear(image_embeds, self.down)), self.up))
        return super().forward(F.normalize(self.ratio * adapted + (1 - self.ratio) * image_embeds, dim=-1))


class MultiLabelHead(ZeroShotHead):
    """
    A linear head whose logits are each asked a question of their own: whether the image has the label, with the probability
    `sigmoid(logit)`, whatever the other classes are.

    Training on lists of labels makes one. Started from the text tower of a sigmoid family it is the model's own classifier, its
    logit bias in the bias of every class. A family with a softmax has no such bias; training sets one that all classes have in
    common ([`~objectives.multi_label.common_bias`]).

    Args:
        weight (`torch.Tensor` of shape `(classes, embed_dim)`), class_names (`Sequence[str]`), bias (`torch.Tensor`, *optional*):
            As for [`ZeroShotHead`].

    Raises:
        ValueError: As [`ZeroShotHead`].
    """

    # A kind of its own: earlier versions would take its logits for those of a softmax.
    kind = "multi_label"
    label = "trained multi-label head"
    function = "sigmoid"

    @classmethod
    @torch.no_grad()
    def from_model(cls, model: nn.Module, *arguments: Any, **options: Any) -> MultiLabelHead:
        """
        Build the head from a model's text tower.

        Args:
            model (`torch.nn.Module`): A dual encoder, possibly wrapped.
            arguments (`Any`, *optional*), options (`Any`, *optional*): As for [`ZeroShotHead.from_model`].

        Returns:
            [`MultiLabelHead`] on the model's device.

        Raises:
            ValueError: As [`ZeroShotHead.from_model`].
        """
        head = super().from_model(model, *arguments, **options)
        bias = logit_bias(model)
        if bias is not None:
            head.bias.copy_(bias.expand_as(head.bias))
        return head


class MultiLabelClipAdapterHead(ClipAdapterHead):
    """
    A [`ClipAdapterHead`] whose logits are each asked a question of their own, as those of a [`MultiLabelHead`]: the probability of a
    label is `sigmoid(logit)`.

    The layers are drawn, and train, as those of a [`ClipAdapterHead`]; weight and bias are those of the [`MultiLabelHead`] that it is
    made around, and stay. At a `ratio` of 0 it is that head.

    Args:
        weight (`torch.Tensor` of shape `(classes, embed_dim)`), class_names (`Sequence[str]`), bias (`torch.Tensor`, *optional*), down
            (`torch.Tensor` of shape `(width, embed_dim)`), up (`torch.Tensor` of shape `(embed_dim, width)`), ratio (`float`): As for
            [`ClipAdapterHead`].

    Raises:
        ValueError: As [`ClipAdapterHead`].
    """

    kind = "multi_label_clip_adapter"
    label = "trained multi-label CLIP-Adapter"
    function = "sigmoid"


class TipAdapterHead(ZeroShotHead):
    """
    Tip-Adapter (Zhang et al., ECCV 2022): the zero-shot classifier and votes of a cache of labelled images.

    The logits of an embedding v are those of the classifier plus `alpha * sum of exp(-beta * (1 - v @ key))` over the keys
    of each class. In Tip-Adapter-F the keys train, and nothing else; a trained key has any norm.

    Args:
        weight (`torch.Tensor` of shape `(classes, embed_dim)`), class_names (`Sequence[str]`), bias (`torch.Tensor`, *optional*):
            As for [`ZeroShotHead`].
        keys (`torch.Tensor` of shape `(images, embed_dim)`): Embeddings of the cached images.
        classes (`torch.Tensor` of shape `(images,)`): Their class indices.
        alpha (`float`, *optional*, defaults to 1.17): Weight of the votes, not negative; 0 is the zero-shot classifier.
        beta (`float`, *optional*, defaults to 1.0): Sharpness of the votes, not negative.

    Raises:
        ValueError: If a shape does not fit, an index is not that of a class, or a number is out of range.
    """

    kind = "tip_adapter"
    label = "Tip-Adapter cache"
    parts = (*ZeroShotHead.parts, "keys", "classes", "alpha", "beta")

    def __init__(
        self,
        weight: Tensor,
        class_names: Sequence[str],
        bias: Tensor | None = None,
        *,
        keys: Tensor,
        classes: Tensor,
        alpha: float | Tensor = 1.17,
        beta: float | Tensor = 1.0,
    ):
        super().__init__(weight, class_names, bias)
        if keys.ndim != 2 or not len(keys) or keys.shape[1] != weight.shape[1] or classes.shape != keys.shape[:1]:
            raise ValueError(
                f"A cache needs keys (images, {weight.shape[1]}) and as many classes, got {tuple(keys.shape)} and "
                f"{tuple(classes.shape)}."
            )
        if classes.is_floating_point() or not 0 <= int(classes.min()) <= int(classes.max()) < len(weight):
            raise ValueError(
                f"The classes of the cached images are {classes.min().item()} to {classes.max().item()}, and the head "
                f"has {len(weight)} classes, 0 to {len(weight) - 1}; give the class names of these labels."
            )
        self.requires_grad_(False)
        self.keys = nn.Parameter(keys.detach().clone().to(weight))
        # An index for each key: one-hot rows would take as many numbers as there are classes.
        self.register_buffer("classes", classes.detach().clone().to(weight.device, torch.long))
        self.register_buffer("alpha", _number(alpha, "alpha", weight))
        self.register_buffer("beta", _number(beta, "beta", weight))

    @classmethod
    def around(
        cls, head: ZeroShotHead, features: Tensor, labels: Tensor | None, *, alpha: float = 1.17, beta: float = 1.0
    ) -> TipAdapterHead:
        """
        The cache of labelled images.

        Args:
            head ([`ZeroShotHead`]): The zero-shot classifier.
            features (`torch.Tensor` of shape `(views, images, embed_dim)`): Projected features of the images before
                normalisation, such as those of [`CachedFeatures`]. An image's key is the mean of its views, normalised.
            labels (`torch.Tensor` of shape `(images,)`): Class indices.
            alpha (`float`, *optional*, defaults to 1.17), beta (`float`, *optional*, defaults to 1.0): As for the class.

        Raises:
            ValueError: If there are no labels, or as for the class.
        """
        if labels is None:
            raise ValueError(NO_LABELS)
        keys = F.normalize(features.to(head.weight).mean(dim=0), dim=-1)
        return cls(head.weight, head.class_names, head.bias, keys=keys, classes=labels, alpha=alpha, beta=beta)

    @classmethod
    def from_benchmark(
        cls,
        model: nn.Module,
        benchmark: Benchmark,
        processor: Any,
        *,
        views: int = 10,
        alpha: float = 1.17,
        beta: float = 1.0,
        **caching: Any,
    ) -> TipAdapterHead:
        """
        Tip-Adapter without training: the cache of a data set, around the zero-shot classifier of its classes.

        Args:
            model ([`~transformers.PreTrainedModel`]): The model, on the device that runs it.
            benchmark ([`Benchmark`]): Labelled images, a few of each class.
            processor ([`~transformers.CLIPProcessor`]): The model's processor.
            views (`int`, *optional*, defaults to 10): Random crops of each image, whose mean is its key; 0 is one view by
                the evaluation transform.
            alpha (`float`, *optional*, defaults to 1.17), beta (`float`, *optional*, defaults to 1.0): As for the class.
            caching (`Any`, *optional*): `seed`, `crop`, `cache_dir` and others, as for [`cache_features`].

        Raises:
            ValueError: If the data set is a stream or has no labels, or as for [`cache_features`].
            OSError: If an image cannot be read.
        """
        if benchmark.label_column is None or not benchmark.class_names:
            raise ValueError(NO_LABELS)
        refuse_several(benchmark.several, f"data set {benchmark.name!r}", "a cache of images and their labels needs")
        head = ZeroShotHead.from_model(model, processor, benchmark.class_names, benchmark.templates, sharded=True)
        found = cache_features(model, benchmark, processor, views=views, **caching)
        return cls.around(head, found.features, found.labels, alpha=alpha, beta=beta)

    def votes(self, image_embeds: Tensor, beta: float | Tensor) -> Tensor:
        """
        Count the votes of the cache, not yet weighted by alpha.

        Args:
            image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Of unit norm.
            beta (`float` or scalar `torch.Tensor`): Sharpness of the votes.

        Returns:
            `torch.Tensor` of shape `(batch, classes)`: The sum of the votes for each class.
        """
        nearness = torch.exp(-beta * (1 - F.linear(self.keys, image_embeds)))
        # By its shape, which torch.export may leave open; `len` is a number.
        votes = nearness.new_zeros(len(self.weight), image_embeds.shape[0])
        return votes.index_add(0, self.classes, nearness).t()

    def forward(self, image_embeds: Tensor) -> Tensor:
        """As [`ZeroShotHead.forward`]: logits of shape `(batch, classes)` for unit-norm `image_embeds` of shape `(batch, embed_dim)`."""
        return super().forward(image_embeds) + self.alpha * self.votes(image_embeds, self.beta)

    def fold(self, temperature: float) -> None:
        super().fold(temperature)
        self.alpha.div_(temperature)


def _number(value: float | Tensor, name: str, like: Tensor, high: float = math.inf) -> Tensor:
    number = torch.as_tensor(value, dtype=like.dtype, device=like.device).detach().clone()
    if number.ndim or not 0 <= number.item() <= high or not number.isfinite():
        bounds = "be finite and not negative" if high == math.inf else f"lie in [0, {high:g}]"
        raise ValueError(f"The {name} of a head must {bounds}, got {value}.")
    return number


#: The heads by the kind that their files name; a file without one is of before there were several.
KINDS: Mapping[str, type[ZeroShotHead]] = {
    head.kind: head for head in (ZeroShotHead, MultiLabelHead, ClipAdapterHead, MultiLabelClipAdapterHead, TipAdapterHead)
}


class ReorderedHead(nn.Module):
    """
    A trained head that names its classes in another order: that of a data set with the same classes.

    Args:
        head ([`ZeroShotHead`]): The head.
        class_names (`Sequence[str]`): Its class names, in the order of the logits that are wanted; case and blanks may differ.
    """

    def __init__(self, head: ZeroShotHead, class_names: Sequence[str]):
        super().__init__()
        self.head, self.class_names = head, tuple(class_names)
        self.label, self.function, self.weight = head.label, head.function, head.weight
        columns = {class_key(name): column for column, name in enumerate(head.class_names)}
        order = torch.tensor([columns[class_key(name)] for name in class_names], device=head.weight.device)
        self.register_buffer("order", order)

    def forward(self, image_embeds: Tensor) -> Tensor:
        """As [`ZeroShotHead.forward`]: logits of shape `(batch, classes)` for unit-norm `image_embeds` of shape `(batch, embed_dim)`."""
        return self.head(image_embeds).index_select(-1, self.order)


def own_head(head: nn.Module) -> nn.Module:
    """Return the head that a `head` is, in whatever order it names its classes."""
    return head.head if isinstance(head, ReorderedHead) else head


def load_head(directory: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> ZeroShotHead:
    """
    Load the head of a checkpoint, of whatever kind it is.

    Args:
        directory (`str` or `Path`): A folder, or an id on the Hub.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        token (`str` or `bool`, *optional*): Access token for a private repository.

    Returns:
        [`ZeroShotHead`], or its kind: [`MultiLabelHead`], [`ClipAdapterHead`], [`MultiLabelClipAdapterHead`], [`TipAdapterHead`].

    Raises:
        OSError: If the folder holds no `head.safetensors`, or the repository cannot be read.
        ValueError: If the file was not written by `save_pretrained`, is of an unknown kind, or is damaged.
    """
    path = checkpoint_folder(directory, HEAD_FILE, revision=revision, token=token) / HEAD_FILE
    if not path.is_file():
        raise OSError(
            f"No {HEAD_FILE} in {directory}; it is written by a run of a method with a trained head, such as `ft`."
        )
    with opened(path) as file:
        metadata, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    if "class_names" not in metadata:
        raise ValueError(f"{path} carries no class names; write it with `ZeroShotHead.save_pretrained`.")
    kind = KINDS.get(metadata.get("kind", ZeroShotHead.kind))
    if kind is None:
        raise ValueError(
            f"{path} holds a head of the kind {metadata['kind']!r}, and this version knows {', '.join(KINDS)}; load it with "
            "the version that wrote it."
        )
    if set(tensors) != set(kind.parts):
        raise ValueError(
            f"{path} holds {', '.join(sorted(tensors)[:3]) or 'nothing'} instead of {', '.join(kind.parts)}; write it with "
            "`save_pretrained`."
        )
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError(f"The head in {path} is not finite; train it again.")
    try:
        return kind(tensors.pop("weight"), json.loads(metadata["class_names"]), **tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a head ({error}); write it with `save_pretrained`.") from None
