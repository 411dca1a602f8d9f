# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The parts of a dual encoder. No other module names them.

A family of models is a row of `FAMILIES`. Everything else asks a [`DualEncoder`], a view of one model:

>>> encoder = DualEncoder.of(model)
>>> encoder.embed_dim, encoder.visual_projection.shape
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import CLIPProcessor, PreTrainedConfig, PreTrainedModel, ProcessorMixin

#: Names of the linear maps to the common space, of images and of texts; and of the scale of their similarities.
PROJECTIONS = ("visual_projection", "text_projection")
PROJECTION_WEIGHTS = tuple(f"{name}.weight" for name in PROJECTIONS)
LOGIT_SCALE = "logit_scale"
#: And of what is added to them, where there is such a thing.
LOGIT_BIAS = "logit_bias"
#: What an image tower computes beyond its weights: one with the same weights and another activation is another.
_TOWER_SETTINGS = ("hidden_act", "num_attention_heads", "layer_norm_eps", "image_size", "patch_size")
#: A folded temperature may move the scale by this much through rounding.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Family:
    """
    What sets a family of dual encoders apart.

    Attributes:
        class_name (`str`): The class in Transformers of the whole model, with both towers and their projections.
        processor_class (`type`, *optional*, defaults to [`~transformers.CLIPProcessor`]): The processor of its
            checkpoints.
        legacy_end_of_text (`int`, *optional*): The `eos_token_id` of old conversions, with which the text tower reads
            a caption at its highest token id. `None` if the family has none.
        similarity (`str`, *optional*, defaults to `"softmax"`): What makes probabilities of scaled similarities.
    """

    class_name: str
    processor_class: type[ProcessorMixin] = CLIPProcessor
    legacy_end_of_text: int | None = None
    similarity: str = "softmax"

    @property
    def model_class(self) -> type[PreTrainedModel]:
        """The class, imported when it is asked for."""
        return getattr(transformers, self.class_name)

    def caption_rules(self, config: PreTrainedConfig) -> CaptionRules:
        """How models of a configuration read captions."""
        text = config.text_config
        return CaptionRules(
            text.eos_token_id,
            text.eos_token_id == self.legacy_end_of_text,
            text.max_position_embeddings,
            text.vocab_size,
        )

    def towers(self, config: PreTrainedConfig) -> tuple[PreTrainedConfig, PreTrainedConfig]:
        """The parts of a configuration that say what the text tower and the image tower are."""
        return config.text_config, config.vision_config

    def image_size(self, config: PreTrainedConfig) -> int:
        """Height and width in pixels of the images that models of a configuration take."""
        return config.vision_config.image_size


#: The families by the `model_type` of their configurations.
FAMILIES = {
    "clip": Family("CLIPModel", legacy_end_of_text=2),
    # Its released models have the `eos_token_id` 2 and mean it.
    "metaclip_2": Family("MetaClip2Model"),
}
#: For messages: the models there are.
SUPPORTED = " or ".join(family.class_name for family in FAMILIES.values())


@dataclass(frozen=True)
class CaptionRules:
    """
    How a text tower reads a caption.

    The towers of all families are causal and are read at one token, so a feature depends on the tokens up to that one
    alone: not on padding, nor on the other captions of a batch.

    Attributes:
        end_of_text (`int`): The token that ends a caption; what follows the first one may be anything.
        at_highest_id (`bool`, *optional*, defaults to `False`): Whether captions are read at their highest token id.
        max_length (`int`, *optional*), vocab_size (`int`, *optional*): Tokens of a caption, and tokens there are.
    """

    end_of_text: int
    at_highest_id: bool = False
    max_length: int | None = None
    vocab_size: int | None = None

    def end_positions(self, input_ids: Tensor) -> Tensor:
        """
        The position at which the text tower reads each caption.

        Args:
            input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids.

        Returns:
            `torch.Tensor` of shape `(texts,)`: The first end-of-text token; 0 where there is none, as Transformers has it.
        """
        if self.at_highest_id:
            return input_ids.int().argmax(dim=-1)
        return (input_ids == self.end_of_text).int().argmax(dim=-1)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers that DDP and `torch.compile` put around it."""
    # Not Accelerate's `extract_model_from_parallel`, which stops at a compiled model inside DDP, and walks over all modules.
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "module") and isinstance(model.module, nn.Module):
            model = model.module
        else:
            return model


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or as they are in float64."""
    return values if values.dtype == torch.float64 else values.float()


def dropout_rate(module: nn.Module) -> float:
    """The rate at which a module itself drops out, 0 if it does not."""
    # Attention holds its rate as a number, other layers as a module.
    rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", None)
    return rate if isinstance(rate, (int, float)) else 0.0


def _usable_scale(logit_scale: Tensor) -> float:
    stored = logit_scale.item()
    # The greatest exponential of a float64 is that of 709.8.
    scale = math.exp(stored) if stored < 709 else math.inf
    if not 0 < torch.tensor(scale, dtype=at_least_float32(logit_scale).dtype).item() < math.inf:
        raise ValueError(
            f"The logit_scale of the model is {stored:g}, and similarities are multiplied by its exponential, which is "
            f"{scale:g}: such a model answers nothing. It must be a logarithm (4.6 for a scale of 100); give another checkpoint."
        )
    return scale


@dataclass(frozen=True)
class DualEncoder:
    """
    A view of a model with an image tower and a text tower; [`DualEncoder.of`] makes it.

    Attributes:
        model (`torch.nn.Module`): The model as it was given, possibly wrapped.
        core ([`~transformers.PreTrainedModel`]): The model itself.
        family ([`Family`]): What it is one of.
    """

    model: nn.Module
    core: PreTrainedModel
    family: Family

    @classmethod
    def of(cls, model: nn.Module) -> DualEncoder:
        """
        The view of a model.

        Args:
            model (`torch.nn.Module`): A model of a supported family, possibly wrapped by DDP or `torch.compile`.

        Raises:
            ValueError: If it is a model of another family.
        """
        core = unwrapped(model)
        for family in FAMILIES.values():
            if isinstance(core, family.model_class):
                return cls(model, core, family)
        raise ValueError(f"The model is a {type(core).__name__}, which is not supported; give a {SUPPORTED}.")

    @property
    def name(self) -> str:
        """The class of the model, for messages."""
        return type(self.core).__name__

    @property
    def embed_dim(self) -> int:
        """Size of the embeddings."""
        return self.core.config.projection_dim

    @property
    def visual_projection(self) -> Tensor | None:
        """The weight `(embed_dim, width)` of the linear map of image features, `None` if there is no such map."""
        return self._projection(PROJECTIONS[0])

    @property
    def text_projection(self) -> Tensor | None:
        """The weight `(embed_dim, width)` of the linear map of text features, `None` if there is no such map."""
        return self._projection(PROJECTIONS[1])

    def _projection(self, name: str) -> Tensor | None:
        module = getattr(self.core, name, None)
        return module.weight if isinstance(module, nn.Linear) else None

    @property
    def logit_scale(self) -> nn.Parameter:
        """The parameter whose exponential scales the similarities."""
        return self.core.logit_scale

    def check_logit_scale(self) -> float:
        """
        The exponentiated logit scale, if it is one that similarities can be multiplied by.

        Raises:
            ValueError: If it is 0 or infinite in float32, or not a number.
        """
        return _usable_scale(self.logit_scale)

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """The parameter that is added to the scaled similarities, `None` if there is none."""
        return getattr(self.core, "logit_bias", None)

    @property
    def scalars(self) -> list[nn.Parameter]:
        """Scale and, where there is one, bias of the similarities: what belongs to neither side."""
        return [self.logit_scale, *([] if self.logit_bias is None else [self.logit_bias])]

    @property
    def similarity(self) -> str:
        """What makes probabilities of scaled similarities."""
        return self.family.similarity

    @property
    def caption_rules(self) -> CaptionRules:
        """How the text tower reads captions."""
        return self.family.caption_rules(self.core.config)

    @property
    def image_tokens(self) -> int:
        """Tokens of an image in its tower."""
        return self.core.vision_model.embeddings.num_positions

    @property
    def image_settings(self) -> dict[str, Any]:
        """What the image tower computes beyond its weights."""
        return {name: getattr(self.core.config.vision_config, name) for name in _TOWER_SETTINGS}

    def image_side(self) -> nn.ModuleDict:
        """All that image features depend on: tower and projection, under their names."""
        return nn.ModuleDict({name: getattr(self.core, name) for name in ("vision_model", PROJECTIONS[0])})

    def text_side(self) -> nn.ModuleDict:
        """All that text features depend on: tower and projection, under their names."""
        return nn.ModuleDict({name: getattr(self.core, name) for name in ("text_model", PROJECTIONS[1])})

    def layers(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The transformer layers of the image tower and of the text tower."""
        return tuple(list(tower.encoder.layers) for tower in (self.core.vision_model, self.core.text_model))

    def depths(self) -> dict[str, float]:
        """How deep in its tower each tensor of a transformer layer lies, by name: 0 in the first layer, 1 in the last."""
        towers = self.layers()
        depth = {layer: i / (len(tower) - 1) if len(tower) > 1 else 1.0 for tower in towers for i, layer in enumerate(tower)}
        layers = {name: depth[module] for name, module in self.core.named_modules() if module in depth}
        return {f"{name}.{key}": at for name, at in layers.items() for key in self.core.get_submodule(name).state_dict()}

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """
        Projected features of images before normalisation, past the wrappers.

        Args:
            pixel_values (`torch.Tensor` of shape `(n, 3, height, width)`): Normalised images.

        Returns:
            `torch.Tensor` of shape `(n, embed_dim)`, at least float32.
        """
        return at_least_float32(self.core.get_image_features(pixel_values=pixel_values).pooler_output)

    def text_features(self, input_ids: Tensor) -> Tensor:
        """
        Projected features of texts before normalisation, past the wrappers.

        Args:
            input_ids (`torch.Tensor` of shape `(n, length)`): Token ids, padded after the end-of-text token.

        Returns:
            `torch.Tensor` of shape `(n, embed_dim)`, at least float32.
        """
        return at_least_float32(self.core.get_text_features(input_ids=input_ids).pooler_output)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """
        Projected features of images and of texts in one call of the model, which the hooks of its wrappers see.

        No attention mask is passed: what follows the token at which a caption is read cannot change its feature.

        Returns:
            Two `torch.Tensor` of shapes `(images, embed_dim)` and `(texts, embed_dim)`, at least float32.
        """
        output = self.model(pixel_values=pixel_values, input_ids=input_ids)
        sides = output.vision_model_output, output.text_model_output
        return tuple(at_least_float32(side.pooler_output) for side in sides)

    @torch.no_grad()
    def fold(self, temperature: float) -> None:
        """
        Divide all logits by a temperature, in the weights.

        Args:
            temperature (`float`): Above 0; its logarithm is subtracted from the logit scale, which is one.

        Raises:
            ValueError: If the dtype of the logit scale is too coarse to hold the result, or its exponential would be 0 or infinite;
                nothing is changed then.
        """
        parameter = self.logit_scale
        moved = parameter.detach().cpu().double() - math.log(temperature)
        stored = moved.to(parameter.dtype)
        if not abs(math.expm1((stored.double() - moved).item())) <= _ROUNDING:
            raise ValueError(
                f"A logit scale in {parameter.dtype} cannot hold the temperature {temperature:.6g}: rounding would "
                f"change it by more than {100 * _ROUNDING:.1f} %. Load the model in float32."
            )
        _usable_scale(stored)
        parameter.copy_(stored)
