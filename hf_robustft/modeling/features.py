# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""From a model and a batch to `ClipFeatures`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.patches import unpack_patches
from ..data.transforms import ImageTransform
from .captions import CaptionMemory, DistinctCaptions, distinct_captions, pad_captions
from .dual_encoder import DualEncoder, at_least_float32
from .noise import draws_noise


@dataclass
class ClipFeatures:
    """
    What the objectives see of one batch.

    In several processes each holds its own rows (`image_embeds`, `text_embeds`) and the columns of all processes
    (`all_image_embeds`, `all_text_embeds`, gathered with gradient, in rank order); the matrices below then are the
    local rows of the global matrix, and the mean over processes of a mean over local rows is the mean over the whole
    batch. In one process rows and columns are the same tensors.

    Attributes:
        image_embeds (`torch.Tensor` of shape `(batch, embed_dim)`): Image embeddings of unit L2 norm.
        text_embeds (`torch.Tensor` of shape `(batch, embed_dim)`, or `None` for methods without captions):
            Caption embeddings of unit L2 norm, row i belongs to image i.
        logit_scale (`torch.Tensor`, scalar): The model's learned scale, already exponentiated.
        all_image_embeds, all_text_embeds (`torch.Tensor` of shape `(global_batch, embed_dim)`, *optional*):
            The columns; default to the rows.
        row_offset (`int`, *optional*, defaults to 0): The column that row 0 pairs with.
        image_features (`torch.Tensor` of shape `(batch, embed_dim)`, *optional*): Projected image features before
            normalisation.
        extra_text_features (`torch.Tensor` of shape `(texts, embed_dim)`, *optional*): Projected features, before
            normalisation, of the texts that objectives asked for beside the captions.
        text_features (`torch.Tensor` of shape `(batch, embed_dim)`, *optional*): Projected caption features before
            normalisation.
        logit_bias (`torch.Tensor`, scalar, *optional*): What the model adds to scaled similarities, if it does.
    """

    image_embeds: Tensor
    text_embeds: Tensor | None
    logit_scale: Tensor
    all_image_embeds: Tensor | None = None
    all_text_embeds: Tensor | None = None
    row_offset: int = 0
    image_features: Tensor | None = None
    extra_text_features: Tensor | None = None
    text_features: Tensor | None = None
    logit_bias: Tensor | None = None

    @cached_property
    def logits_per_image(self) -> Tensor:
        """Scaled similarities of the local images to all captions, `(batch, global_batch)`."""
        columns = self.text_embeds if self.all_text_embeds is None else self.all_text_embeds
        return self._logits(self.image_embeds, columns)

    @cached_property
    def logits_per_text(self) -> Tensor:
        """Scaled similarities of the local captions to all images, `(batch, global_batch)`."""
        columns = self.image_embeds if self.all_image_embeds is None else self.all_image_embeds
        return self._logits(self.text_embeds, columns)

    def _logits(self, rows: Tensor, columns: Tensor) -> Tensor:
        logits = self.logit_scale * rows @ columns.t()
        return logits if self.logit_bias is None else logits + self.logit_bias


def logit_scale(model: nn.Module) -> Tensor:
    """The exponentiated logit scale of a `model` (scalar, with gradient, at least float32)."""
    return DualEncoder.of(model).scale


def logit_bias(model: nn.Module) -> Tensor | None:
    """What a `model` adds to scaled similarities (scalar, with gradient, at least float32); `None` if it adds nothing."""
    bias = DualEncoder.of(model).logit_bias
    return None if bias is None else at_least_float32(bias).reshape(())


def _unit(features: Tensor) -> Tensor:
    # Half-precision features are normalised in float32: losses and calibration are computed there, and a float16
    # norm overflows beyond 65,504.
    features = at_least_float32(features)
    norms = features.norm(dim=-1, keepdim=True)
    # Divided by infinity, features of a model that diverged would be 0, and every answer the same.
    return features / norms.where(norms < math.inf, math.nan)


def is_bare(model: nn.Module) -> bool:
    """
    Whether calling the model is no more than the `forward` of its class: no DDP, FSDP, DeepSpeed, `torch.compile`, no
    autocast of Accelerate's and no hook of a user's, so that its towers may as well be called one by one.
    """
    hooked = model._forward_hooks or model._forward_pre_hooks or model._backward_hooks or model._backward_pre_hooks
    changed = hooked or "forward" in vars(model) or model._compiled_call_impl is not None
    return type(model) is DualEncoder.of(model).family.model_class and not changed


def _is_compiled(model: nn.Module) -> bool:
    while True:
        if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
            return True
        if not isinstance(getattr(model, "module", None), nn.Module):
            return False
        model = model.module


def remember_captions(model: nn.Module, capacity: int) -> CaptionMemory:
    """
    Let [`encode`] keep the text features of a frozen model, and use them again when captions repeat.

    It does so without gradient and for a bare model in eval mode; of a wrapped or sharded one every process must
    run the same forward calls, and nothing is kept.

    Args:
        model (`torch.nn.Module`): A dual encoder.
        capacity (`int`): Captions kept.

    Returns:
        [`CaptionMemory`]: To `clear` whenever the model's weights change.
    """
    model._caption_memory = CaptionMemory(capacity)
    return model._caption_memory


def normalised(
    pixel_values: Tensor, transform: ImageTransform | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """
    Images as the model reads them, from the 256 levels that a loader hands over (`ImageTransform(output="uint8")`).

    Levels are looked up in the transform's table on the device where they are, so every device gives the numbers that the
    transform itself gives, to the last bit.

    Args:
        pixel_values (`torch.Tensor` of shape `(n, 3, height, width)`, or `(n, ...)` packed patches): uint8 levels, or images
            already normalised.
        transform ([`ImageTransform`], *optional*): The transform that made the levels; needed for uint8.
        dtype (`torch.dtype`, *optional*): Of the result. Defaults to float32 for levels, and to what the images have.

    Returns:
        `torch.Tensor` of the same shape; floating-point images are only converted to `dtype`.

    Raises:
        ValueError: If levels come without the transform that says what they mean.
    """
    if pixel_values.dtype != torch.uint8:
        return pixel_values if dtype is None else pixel_values.to(dtype)
    table = getattr(transform, "level_table", None)
    if table is None:
        raise ValueError(
            "The batch holds pixel_values in uint8, and nothing says how they are normalised; give a data set with a "
            "`transform` (`ImageTransform`), or normalised images in float32."
        )
    dtype = torch.float32 if dtype is None else dtype
    if pixel_values.ndim != 3:
        return _from_levels(pixel_values, table, dtype)
    # Patches, in which a channel is every third value; their grid and what fills them up are not levels.
    mask = unpack_patches(pixel_values, transform.size)[1]
    result = _from_levels(pixel_values.unflatten(-1, (-1, 3)).movedim(-1, 1), table, dtype).movedim(1, -1).flatten(-2)
    return torch.where(F.pad(mask, (0, 1))[..., None] > 0, result, pixel_values.to(dtype))


def _from_levels(pixel_values: Tensor, table: np.ndarray, dtype: torch.dtype) -> Tensor:
    if pixel_values.device.type == "cpu" and dtype == torch.float32:
        # NumPy's look-up reads the levels as they are; torch's would first widen each to an index of four bytes.
        result = torch.empty(pixel_values.shape, dtype=dtype)
        for levels, image in zip(pixel_values.numpy(), result.numpy(), strict=True):
            for channel in range(3):
                np.take(table[channel], levels[channel], out=image[channel], mode="clip")
        return result
    return _looked_up(pixel_values, torch.from_numpy(table).to(pixel_values.device, dtype))


def _looked_up(levels: Tensor, table: Tensor) -> Tensor:
    """`table[c, levels[:, c]]` for each channel c; channel by channel, for indices take four times the levels' memory."""
    result = torch.empty(levels.shape, dtype=table.dtype, device=levels.device)
    for channel in range(3):
        result[:, channel] = table[channel][levels[:, channel].int()]
    return result


def encode(
    model: nn.Module, batch: Mapping[str, Tensor], captions: bool = True, extra_texts: Tensor | None = None
) -> ClipFeatures:
    """
    Encode the images and captions of a training batch in one forward call.

    The call goes through `model(...)`, so that the hooks of DDP, FSDP and `torch.compile` see it; a bare model's image
    tower runs alone where no text is needed. No attention mask is passed ([`CaptionRules`]; OpenAI's model has none either).

    Texts are cut after the longest, and equal ones are encoded once, which changes neither features nor gradients
    beyond rounding. Where the text tower draws dropout masks, each text has its own, and all are encoded as they come.
    Processes may differ in the number of their distinct texts. Finding them copies the token ids to the host.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped. Text features of a model that remembers captions
            ([`remember_captions`]) are taken from its memory.
        batch (`Mapping[str, torch.Tensor]`): Holds `pixel_values` of shape `(batch, 3, height, width)` and `input_ids`
            of shape `(batch, length)`; or, where no text is encoded, `image_features` of shape `(batch, embed_dim)`
            that a frozen model gave before (`cache_features`), and the image tower does not run.
        captions (`bool`, *optional*, defaults to `True`): Whether captions are needed. If not, the text tower of a
            wrapped model sees a single one-token caption, which its `forward` cannot do without, that of a bare
            one nothing, and `text_embeds` is `None`.
        extra_texts (`torch.Tensor` of shape `(texts, length)`, *optional*): Token ids of further texts, padded as the
            captions are; their features are `extra_text_features`.

    Returns:
        [`ClipFeatures`]: float32 embeddings (float64 if the model is float64).

    Raises:
        ValueError: If one of the two inputs is missing, or they differ in length.
    """
    texts = captions or extra_texts is not None
    if "image_features" in batch and not texts:
        features = batch["image_features"]
        return ClipFeatures(
            _unit(features), None, logit_scale(model), image_features=features, logit_bias=logit_bias(model)
        )
    missing = [key for key in ("pixel_values", "input_ids")[: 2 if captions else 1] if batch.get(key) is None]
    if missing:
        raise ValueError(
            f"The batch holds {sorted(batch)} but no {' and no '.join(missing)}; "
            "use `ClipCollator`, or a collator that returns pixel_values and input_ids."
        )
    pixel_values = batch["pixel_values"]
    if captions and len(pixel_values) != len(batch["input_ids"]):
        raise ValueError(
            f"The batch holds {len(pixel_values)} images and {len(batch['input_ids'])} captions; "
            "each image needs exactly one caption."
        )
    parts = ([batch["input_ids"]] if captions else []) + ([] if extra_texts is None else [extra_texts])
    image_features, text_features = _features(model, pixel_values, parts)
    n_captions = len(pixel_values) if captions else 0
    return ClipFeatures(
        _unit(image_features),
        _unit(text_features[:n_captions]) if captions else None,
        logit_scale(model),
        image_features=image_features,
        extra_text_features=None if extra_texts is None else text_features[n_captions:],
        text_features=text_features[:n_captions] if captions else None,
        logit_bias=logit_bias(model),
    )


def _features(model: nn.Module, pixel_values: Tensor, texts: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Projected features of images and of the texts in all tables, before normalisation."""
    encoder = DualEncoder.of(model)
    rules, bare = encoder.caption_rules, is_bare(model)
    if not texts:
        if bare:
            return encoder.image_features(pixel_values), None
        input_ids = torch.tensor([rules.blank], device=pixel_values.device)
        return encoder.forward(pixel_values, input_ids)[0], None
    input_ids = pad_captions(texts, rules.padding)
    memory = getattr(model, "_caption_memory", None)
    if memory is not None and bare and not (model.training or torch.is_grad_enabled()):
        text_features = memory.features(input_ids, rules, encoder.text_features)
        return encoder.image_features(pixel_values), text_features
    if draws_noise(encoder.text_side()):
        distinct = DistinctCaptions(input_ids)
    else:
        distinct = distinct_captions(input_ids, rules, fixed_shapes=_is_compiled(model))
    images, captions = encoder.forward(pixel_values, distinct.input_ids)
    return images, distinct.spread(captions)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode of a `model` inside the block; module by module, for a frozen tower may be in another mode than the rest."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def encode_images(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """
    Unit-norm image embeddings outside training.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped; call it in eval mode and without gradient.
        pixel_values (`torch.Tensor` of shape `(n, 3, height, width)`): Normalised images.

    Returns:
        `torch.Tensor` of shape `(n, embed_dim)`.
    """
    return _unit(DualEncoder.of(model).image_features(pixel_values))


def encode_texts(model: nn.Module, input_ids: Tensor) -> Tensor:
    """
    Unit-norm text embeddings outside training.

    Args:
        model (`torch.nn.Module`): A dual encoder, possibly wrapped.
        input_ids (`torch.Tensor` of shape `(n, length)`): Token ids, padded after the end-of-text token.

    Returns:
        `torch.Tensor` of shape `(n, embed_dim)`.
    """
    return _unit(DualEncoder.of(model).text_features(input_ids))
