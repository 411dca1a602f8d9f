# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""
The parts of a dual encoder. No other module names them, but what this one is made of.

A family of models is a row of `FAMILIES`. Everything else asks a [`DualEncoder`], a view of one model:

>>> encoder = DualEncoder.of(model)
>>> encoder.embed_dim, encoder.visual_projection.shape
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..data.patches import unpack_patches
from .caption_rules import CaptionRules
from .families import FAMILIES, POOLING_HEADS, SUPPORTED, Family
from .pooled_layer import is_theirs, own_class, reading

#: Names of the linear maps to the common space, of images and of texts; and of the scale of their similarities.
PROJECTIONS = ("visual_projection", "text_projection")
PROJECTION_WEIGHTS = tuple(f"{name}.weight" for name in PROJECTIONS)
LOGIT_SCALE = "logit_scale"
#: And of what is added to them, where there is such a thing.
LOGIT_BIAS = "logit_bias"
#: The buffer of a model that holds the matrix of its image adapter, which is in no file of weights; and the entry of its
#: configuration that names the file in which the adapter is.
IMAGE_ADAPTER = "robustft_image_adapter"
#: What an image tower computes beyond its weights: one with the same weights and another activation is another.
_TOWER_SETTINGS = ("hidden_act", "num_attention_heads", "layer_norm_eps", "image_size", "patch_size")
#: As those, of towers that have them.
_FURTHER_TOWER_SETTINGS = ("rms_norm_eps", *POOLING_HEADS)
#: A folded temperature may move the scale by this much through rounding.
_ROUNDING = 1e-3
#: Modules in the layers of towers on which no embedding depends: they read what another tower says, or are for the tokens with
#: global attention of Longformer and the entities of LUKE, of which captions have none.
_UNUSED = ("crossattention", "query_global", "key_global", "value_global", "w2e_query", "e2w_query", "e2e_query")


def _wrappers(model: nn.Module) -> list[nn.Module]:
    """A model and what is inside the wrappers that DDP and `torch.compile` put around it, one after the other."""
    # Not Accelerate's `extract_model_from_parallel`, which stops at a compiled model inside DDP, and walks over all modules.
    found = [model]
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif hasattr(model, "module") and isinstance(model.module, nn.Module):
            model = model.module
        else:
            return found
        found.append(model)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers that DDP and `torch.compile` put around it."""
    return _wrappers(model)[-1]


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or as they are in float64."""
    return values if values.dtype == torch.float64 else values.float()


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


def _layers(tower: nn.Module) -> list[nn.Module]:
    """The layers of a tower: the longest list of modules of one kind in it."""
    lists = [
        module for module in tower.modules() if isinstance(module, nn.ModuleList) and len(set(map(type, module))) == 1
    ]
    return list(max(lists, key=len)) if lists else []


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
        raise ValueError(f"The model is a {type(core).__name__}, which is not supported; give one of {SUPPORTED}.")

    @property
    def name(self) -> str:
        """The class of the model, for messages."""
        return type(self.core).__name__

    @property
    def embed_dim(self) -> int:
        """Size of the embeddings."""
        if self.pools_images:
            return self.core.config.vision_config.hidden_size
        return self.core.config.projection_dim

    @property
    def pools_images(self) -> bool:
        """Whether image features end in a pooling head, as SigLIP's do, so that no weight can take a linear map of them in."""
        return not hasattr(self.core, PROJECTIONS[0])

    @property
    def visual_projection(self) -> Tensor | None:
        """The weight `(embed_dim, width)` of the linear map of image features, `None` if there is no such map."""
        return self._projection(PROJECTIONS[0])

    @property
    def text_projection(self) -> Tensor | None:
        """The weight `(embed_dim, width)` of the linear map of text features, `None` if there is no such map."""
        return self._projection(PROJECTIONS[1])

    def _projection(self, name: str) -> Tensor | None:
        module = self._linear(name)
        return None if module is None else module.weight

    def _linear(self, name: str) -> nn.Linear | None:
        module: Any = self.core
        for part in name.split("."):
            module = getattr(module, part, None)
        return module if isinstance(module, nn.Linear) else None

    @property
    def feature_maps(self) -> tuple[dict[str, Tensor] | None, dict[str, Tensor] | None]:
        """
        Weight and, where there is one, bias of the linear maps that image features and text features end in, by their names in
        the model; `None` for a side that does not end in one. SigLIP's text features do, and its image features do not.
        """
        names = PROJECTIONS[0], self.family.text_map
        sides = [(name, self._linear(name)) for name in names]
        images, texts = (
            None if side is None else {f"{name}.{key}": value for key, value in side.named_parameters()}
            for name, side in sides
        )
        return images, texts

    @property
    def image_adapter(self) -> Tensor | None:
        """
        The matrix `(embed_dim, embed_dim)` that image features are multiplied by, where that is not in the weights; `None` if
        there is none ([`~modeling.kept_adapter.carry`]).

        Raises:
            ValueError: If the configuration says that there is one, and the model was loaded without it.
        """
        matrix = getattr(self.core, IMAGE_ADAPTER, None)
        if matrix is None and getattr(self.core.config, IMAGE_ADAPTER, None) is not None:
            raise ValueError(
                f"The image features of this {self.name} go through the adapter in adapters.safetensors, as its configuration says, and "
                "it was loaded without; load the folder with `load_dual_encoder`."
            )
        return matrix

    @property
    def logit_scale(self) -> nn.Parameter:
        """The parameter whose exponential scales the similarities."""
        return self.core.logit_scale

    @property
    def scale(self) -> Tensor:
        """What similarities are multiplied by: a scalar, with gradient, at least float32."""
        # Of one element, or a scalar, by family.
        stored = at_least_float32(self.logit_scale).reshape(())
        return stored.exp() if self._most is None else stored.clamp(0.0, self._most).exp()

    @property
    def _most(self) -> float | None:
        """The logarithm at which the model itself stops its scale (it does so at 1, too), `None` if it does not."""
        return getattr(self.core, "max_log_logit_scale", None)

    def check_logit_scale(self) -> float:
        """
        The exponentiated logit scale, if it is one that similarities can be multiplied by.

        Raises:
            ValueError: If it is 0 or infinite in float32, or not a number.
        """
        scale = _usable_scale(self.logit_scale)
        return scale if self._most is None else min(max(scale, 1.0), math.exp(self._most))

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

    def pad_with(self, token: int) -> None:
        """Have captions filled up with a `token` that is not the one of the model's configuration."""
        self.core.config.text_config.pad_token_id = token

    def image_tokens(self, pixel_values: Tensor) -> int:
        """Tokens in the image tower of a batch of images, about: patches, padding too, and one for what pools them."""
        if self.family.patches:
            return pixel_values.shape[0] * pixel_values.shape[1]
        vision = self.core.config.vision_config
        size, patch = (getattr(vision, name, 1) for name in ("image_size", "patch_size"))
        return len(pixel_values) * ((size // patch) ** 2 + 1)

    @property
    def image_settings(self) -> dict[str, Any]:
        """What the image tower computes beyond its weights."""
        vision = self.core.config.vision_config
        further = {name: getattr(vision, name) for name in _FURTHER_TOWER_SETTINGS if hasattr(vision, name)}
        return {name: getattr(vision, name, None) for name in _TOWER_SETTINGS} | further

    def image_side(self) -> nn.ModuleDict:
        """All that image features depend on: tower and projection, under their names."""
        return self._side("vision_model", PROJECTIONS[0])

    def text_side(self) -> nn.ModuleDict:
        """All that text features depend on: tower and projection, under their names."""
        return self._side("text_model", PROJECTIONS[1])

    def _side(self, *names: str) -> nn.ModuleDict:
        return nn.ModuleDict({name: getattr(self.core, name) for name in names if hasattr(self.core, name)})

    def freeze_idle(self) -> list[str]:
        """
        Freeze the parameters that no feature depends on: they would never get a gradient, and DDP would wait for it.

        Returns:
            List of `str`: Their names, also of those that were frozen before; empty for families without such parameters, and for a
            model that is frozen as a whole.
        """
        if not self.family.may_idle:
            return []
        size = self.core.config.vision_config.image_size
        image = torch.zeros(1, 3, size, size, dtype=self.core.dtype, device=self.core.device)
        caption = torch.tensor([self.caption_rules.blank], device=self.core.device)
        own = {name: value for side in (self.image_side(), self.text_side()) for name, value in side.named_parameters() if value.is_floating_point()}
        frozen = [value for value in own.values() if not value.requires_grad]
        if len(frozen) == len(own):
            return []
        try:
            # What an earlier call has frozen is idle too.
            for value in frozen:
                value.requires_grad_(True)
            with torch.enable_grad():
                total = sum(side.sum() for side in (self.image_features(image), self.text_features(caption)))
                gradients = torch.autograd.grad(total, list(own.values()), allow_unused=True)
        finally:
            for value in frozen:
                value.requires_grad_(False)
        idle = [name for name, gradient in zip(own, gradients, strict=True) if gradient is None]
        for name in idle:
            own[name].requires_grad_(False)
        return idle

    def layers(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The transformer layers of the image tower and of the text tower."""
        return _layers(self.core.vision_model), _layers(self.core.text_model)

    def unused_modules(self) -> list[nn.Module]:
        """Modules of the towers on which no feature depends."""
        return [module for name, module in self.core.named_modules() if name.rpartition(".")[2] in _UNUSED]

    def depths(self) -> dict[str, float]:
        """How deep in its tower each tensor of a transformer layer lies, by name: 0 in the first layer, 1 in the last."""
        towers = self.layers()
        depth = {
            layer: i / (len(tower) - 1) if len(tower) > 1 else 1.0 for tower in towers for i, layer in enumerate(tower)
        }
        layers = {name: depth[module] for name, module in self.core.named_modules() if module in depth}
        return {
            f"{name}.{key}": at for name, at in layers.items() for key in self.core.get_submodule(name).state_dict()
        }

    def image_features(self, pixel_values: Tensor) -> Tensor:
        """
        Projected features of images before normalisation, past the wrappers.

        Args:
            pixel_values (`torch.Tensor` of shape `(n, 3, height, width)`): Normalised images, or what else the transform of
                the model's processor makes of them.

        Returns:
            `torch.Tensor` of shape `(n, embed_dim)`, at least float32.
        """
        with self._read_images() as read:
            output = self.core.get_image_features(**self._image_inputs(pixel_values), **read)
        return self._adapted(at_least_float32(output.pooler_output))

    def _adapted(self, features: Tensor) -> Tensor:
        matrix = self.image_adapter
        if matrix is None:
            return features
        with torch.autocast(features.device.type, enabled=False):
            dtype = torch.promote_types(features.dtype, at_least_float32(matrix).dtype)
            return F.linear(features.to(dtype), matrix.to(dtype))

    def _image_inputs(self, pixel_values: Tensor) -> dict[str, Tensor]:
        if not self.family.patches:
            return {"pixel_values": pixel_values}
        names = "pixel_values", "pixel_attention_mask", "spatial_shapes"
        return dict(zip(names, unpack_patches(pixel_values, self.core.config.vision_config.patch_size), strict=True))

    def _read_images(self) -> AbstractContextManager[dict[str, int | Tensor]]:
        """What has the image tower compute its last layer for the token alone at which images are read."""
        return self._read("image", "vision_model", 0) if self.family.reads_class_token and self._is_plain() else nullcontext({})

    def _read_texts(self, input_ids: Tensor) -> AbstractContextManager[dict[str, int | Tensor]]:
        """The same for captions."""
        rules = self.caption_rules
        if self.family.any_towers or not self._is_plain():
            return nullcontext({})
        # It has its own record of the token at which it reads, from when it was built.
        if rules.reads == "end" and self.core.text_model.eos_token_id != rules.end_of_text:
            return nullcontext({})
        place = {"mask": 0, "fixed": -1}.get(rules.reads)
        return self._read("text", "text_model", rules.end_positions(input_ids) if place is None else place)

    def _is_plain(self) -> bool:
        # A subclass, or a function put in the place of the model's own, may do anything with what its towers give.
        calls = self.core.forward, self.core.get_image_features, self.core.get_text_features
        return own_class(self.core) is self.family.model_class and all(map(is_theirs, calls))

    def _read(self, side: str, name: str, token: int | Tensor) -> AbstractContextManager[dict[str, int | Tensor]]:
        layers = self.layers()
        own, other = layers if side == "image" else layers[::-1]
        return reading(_wrappers(self.model), getattr(self.core, name), side, own, other, token)

    def text_features(self, input_ids: Tensor) -> Tensor:
        """
        Projected features of texts before normalisation, past the wrappers.

        Args:
            input_ids (`torch.Tensor` of shape `(n, length)`): Token ids, padded on the right.

        Returns:
            `torch.Tensor` of shape `(n, embed_dim)`, at least float32.
        """
        with self._read_texts(input_ids) as read:
            output = self.core.get_text_features(**self.caption_rules.inputs(input_ids, self.core.dtype), **read)
        return at_least_float32(output.pooler_output)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """
        Projected features of images and of texts in one call of the model, which the hooks of its wrappers see.

        Args:
            pixel_values (`torch.Tensor` of shape `(images, 3, height, width)`): As for [`~DualEncoder.image_features`].
            input_ids (`torch.Tensor` of shape `(texts, length)`): Token ids, padded on the right.

        Returns:
            Two `torch.Tensor` of shapes `(images, embed_dim)` and `(texts, embed_dim)`, at least float32.
        """
        texts = self.caption_rules.inputs(input_ids, self.core.dtype)
        with self._read_images() as image, self._read_texts(input_ids) as text:
            output = self.model(**self._image_inputs(pixel_values), **image, **texts, **text)
        sides = [side.pooler_output for side in (output.vision_model_output, output.text_model_output)]
        if not self.family.projects:
            sides = [self._projected(name, side) for name, side in zip(PROJECTIONS, sides, strict=True)]
        images, texts = map(at_least_float32, sides)
        return self._adapted(images), texts

    def _projected(self, name: str, features: Tensor) -> Tensor:
        weight = self._projection(name)
        if weight is not None:
            return F.linear(features.to(weight.dtype), weight)
        # A user's module stands in its place, such as PEFT's around it.
        module = getattr(self.core, name)
        return module(features.to(next(module.parameters()).dtype))

    @torch.no_grad()
    def fold(self, temperature: float) -> None:
        """
        Divide all logits by a temperature, in the weights.

        Args:
            temperature (`float`): Above 0; its logarithm is subtracted from the logit scale, which is one, and the logit bias,
                if there is one, is divided by it.

        Raises:
            ValueError: If the dtype of the logit scale is too coarse to hold the result, or its exponential would be 0 or
                infinite, or outside of what the model keeps it in; nothing is changed then.
        """
        parameter, most = self.logit_scale, self._most
        before = parameter.detach().cpu().double()
        moved = (before if most is None else before.clamp(0.0, most)) - math.log(temperature)
        stored = moved.to(parameter.dtype)
        if not abs(math.expm1((stored.double() - moved).item())) <= _ROUNDING:
            raise ValueError(
                f"A logit scale in {parameter.dtype} cannot hold the temperature {temperature:.6g}: rounding would "
                f"change it by more than {100 * _ROUNDING:.1f} %. Load the model in float32."
            )
        if most is not None and not 0 <= stored.item() <= most + _ROUNDING:
            raise ValueError(
                f"A {type(self.core).__name__} keeps its scale between 1 and {math.exp(most):.0f}, and the temperature "
                f"{temperature:.6g} would make it {stored.exp().item():.6g}; leave such a temperature to the head or the pipeline."
            )
        _usable_scale(stored)
        parameter.copy_(stored)
        if self.logit_bias is not None:
            self.logit_bias.div_(temperature)
