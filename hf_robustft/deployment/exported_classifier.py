# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
A classifier and a text tower as modules of tensors alone, which other runtimes can take.

From pixels to the answer of [`OpenSetImageClassificationPipeline`]: image tower, class head, temperature, open-set score and
threshold. All but the towers is computed in float32, where the pipeline goes on in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..data.transforms import ImageTransform
from ..evaluation.open_set import open_set_score
from ..evaluation.several_labels import pair_bias
from ..evaluation.temperature import TemperatureScaling
from ..modeling.dual_encoder import DualEncoder
from ..modeling.features import encode_images, encode_texts

if TYPE_CHECKING:
    from .pipeline import OpenSetImageClassificationPipeline

#: What a graph takes: normalised images `(batch, 3, size, size)`, or their 256 levels `(batch, size, size, 3)`.
INPUTS = ("float", "uint8")
#: The name of what it takes.
PIXELS, TOKENS = "pixel_values", "input_ids"
#: And of embeddings of unit norm, from which all else is computed.
IMAGE_EMBEDS, TEXT_EMBEDS = "image_embeds", "text_embeds"


def one_side(model: nn.Module, side: str) -> nn.Module:
    """
    A model that shares the weights of one of its towers, and has nothing of the other.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model; it stays as it is.
        side (`str`): `"image"` or `"text"`.
    """
    encoder = DualEncoder.of(model)
    own, other = (encoder.image_side(), encoder.text_side())[:: 1 if side == "image" else -1]
    lean = copy.copy(encoder.core)
    empty = {name: nn.Identity() for name in other if name not in own}
    lean._modules = {**encoder.core._modules, **empty}
    return lean


class ExportedClassifier(nn.Module):
    """
    What a pipeline answers, from pixels to tensors.

    Args:
        classify ([`OpenSetImageClassificationPipeline`]): The pipeline; its model stays as it is.
        input (`str`, *optional*, defaults to `"float"`): One of `INPUTS`. Levels are normalised first.
        half (`bool`, *optional*, defaults to `False`): Whether the image tower computes in float16; what follows does not.

    Attributes:
        outputs (`tuple[str, ...]`): The names of what `forward` returns.
    """

    def __init__(self, classify: OpenSetImageClassificationPipeline, input: str = "float", half: bool = False):
        super().__init__()
        self.model = one_side(classify.model, "image")
        if half:
            self.model = copy.deepcopy(self.model).half()
        self.head = copy.deepcopy(classify.head).float()
        self.input, self.detector = input, classify.detector
        self.score = None if self.detector is None else open_set_score(self.detector.score)
        self.function = "softmax" if classify.thresholds is None else "sigmoid"
        scaling = classify.temperature if self.detector is None else self.detector.temperature or TemperatureScaling()
        self.temperature = scaling.temperature
        self._numbers("limits", None if self.detector is None else rounded_up([self.detector.threshold_of(name) for name in self.head.class_names]))
        # Down: a float32 is above one of them if and only if it is above the other.
        self._numbers("thresholds", None if classify.thresholds is None else -rounded_up((-classify.thresholds).tolist()))
        self._numbers("bias", pair_bias(classify.model, classify.head if classify.trained_head else None))
        transform = ImageTransform.from_processor(classify.processor, train=False)
        self.rescale_factor = transform.rescale_factor
        self._numbers("mean", torch.tensor(transform.mean).view(3, 1, 1))
        self._numbers("std", torch.tensor(transform.std).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def _numbers(self, name: str, values: Tensor | None) -> None:
        # torch.export miscounts buffers that are `None`.
        if values is None:
            setattr(self, name, None)
        else:
            self.register_buffer(name, values.detach().cpu().float().clone())

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what `forward` returns, in order."""
        judged = () if self.detector is None else ("score", "is_known")
        several = () if self.thresholds is None else ("has_label",)
        return IMAGE_EMBEDS, "logits", "probabilities", "label", *judged, *several

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """
        Classify a batch of images.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, size, size)`): Normalised images in float32; or, if the input is
                `"uint8"`, levels of shape `(batch, size, size, 3)`.

        Returns:
            `dict[str, torch.Tensor]`: `image_embeds` `(batch, embed_dim)` of unit norm, `logits` and `probabilities`
            `(batch, classes)` and `label` `(batch,)`, the index of the nearest class. With a detector `score` and `is_known`
            `(batch,)`; with thresholds of several labels `has_label` `(batch, classes)`.
        """
        if self.input == "uint8":
            levels = pixel_values.permute(0, 3, 1, 2).float()
            pixel_values = (levels * self.rescale_factor - self.mean) / self.std
        embeds = encode_images(self.model, pixel_values.to(self.model.dtype))
        logits = self.head(embeds)
        if self.function == "sigmoid":
            probabilities = (logits + self.bias).sigmoid()
        else:
            probabilities = (logits / self.temperature).softmax(dim=-1)
        label = logits.argmax(dim=-1)
        values = [embeds, logits, probabilities, label]
        if self.detector is not None:
            detector = self.detector
            inputs = logits / detector.logit_scale if self.score.needs == "cosines" else logits
            options = {"temperature": 1.0} if "temperature" in self.score.takes else {}
            score = self.score.function(inputs, **options)
            score = score if self.score.higher_is_known else -score
            values += [score, score >= self.limits[label]]
        if self.thresholds is not None:
            values += [probabilities > self.thresholds]
        return dict(zip(self.outputs, values, strict=True))


def rounded_up(values: Sequence[float]) -> Tensor:
    """
    The least float32 that are not below some numbers: a float32 reaches one of them if and only if it reaches the other.

    Args:
        values (`Sequence[float]`): The numbers, in float64.

    Returns:
        `torch.Tensor` of shape `(n,)`: In float32.
    """
    exact = torch.tensor(values, dtype=torch.float64)
    near = exact.float()
    return torch.where(near.double() < exact, near.nextafter(torch.tensor(math.inf)), near)


class ExportedTextEncoder(nn.Module):
    """
    The text tower: from token ids to embeddings of unit norm.

    Args:
        model ([`~transformers.PreTrainedModel`]): The model; it stays as it is.

    Attributes:
        outputs (`tuple[str, ...]`): The names of what `forward` returns.
    """

    outputs = (TEXT_EMBEDS,)

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = one_side(model, "text")
        self.eval()

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """
        Encode texts.

        Args:
            input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids, padded on the right to the full length of the model.

        Returns:
            `dict[str, torch.Tensor]`: `text_embeds` of shape `(texts, embed_dim)`.
        """
        return {TEXT_EMBEDS: encode_texts(self.model, input_ids)}
